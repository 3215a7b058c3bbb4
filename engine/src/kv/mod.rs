//! An ordered map with durable transactions: the index's seam. LMDB in life, a tree in tests.
//!
//! One writer at a time, readers see the last commit. A commit that returned is durable; one that failed left nothing.

mod conformance;
pub mod lmdb;
mod lmdb_pages;
#[cfg(test)]
mod lmdb_tests;
pub mod memory;

use std::ops::ControlFlow;

/// A map operation failed.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The map's own files are damaged; move them aside and rebuild.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// No room on the disk.
    #[error("no space left for the index")]
    NoSpace,
    /// The system does not let us write.
    #[error("the index may not be written: {0}")]
    NotAllowed(String),
    /// Anything else the system reports.
    #[error("the index cannot be used: {0}")]
    Io(String),
}

/// Result of a map operation.
pub type Result<T> = std::result::Result<T, KvError>;

/// The tables of the index. Keys and values are bytes, keys at most 64, ordered as bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// Chunk id → where it is.
    Chunks,
    /// The same, of the newest chunks.
    Young,
    /// Frame number (big-endian) → frame id and place.
    Frames,
    /// Pack number (big-endian) → name and how much of it is indexed.
    Packs,
    /// Ids of branches that are stored but not admitted: something below them is missing.
    Unwhole,
    /// Frame number (big-endian) → which of its positions are condemned.
    Condemned,
    /// Ids of branches that are admitted only as long as something condemned below them stays.
    Leaning,
    /// Counters and the state of the index as a whole.
    Meta,
}

impl Table {
    /// All tables, in order.
    pub const ALL: [Self; 8] = [
        Self::Chunks,
        Self::Young,
        Self::Frames,
        Self::Packs,
        Self::Unwhole,
        Self::Condemned,
        Self::Leaning,
        Self::Meta,
    ];

    /// The table's name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chunks => "chunks",
            Self::Young => "young",
            Self::Frames => "frames",
            Self::Packs => "packs",
            Self::Unwhole => "unwhole",
            Self::Condemned => "condemned",
            Self::Leaning => "leaning",
            Self::Meta => "meta",
        }
    }
}

/// Longest key, bytes.
pub const KEY_LEN_MAX: usize = 64;

/// Refuses a key no table may hold: empty or over [`KEY_LEN_MAX`].
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > KEY_LEN_MAX {
        return Err(KvError::Io(format!("a key of {} bytes, allowed are 1 to {KEY_LEN_MAX}", key.len())));
    }
    Ok(())
}

/// Called by [`Read::scan`] for each row; `Break` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A consistent view. Keep it under a second: it keeps old pages alive.
pub trait Read {
    /// The value under `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>>;
    /// All rows with key ≥ `from`, ascending.
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()>;
    /// Number of rows.
    fn count(&self, table: Table) -> Result<u64>;
    /// The row with the greatest key, as (key, value).
    fn last(&self, table: Table) -> Result<Option<(&[u8], &[u8])>>;
}

/// The one write transaction; dropped without `commit` it leaves no trace.
pub trait Write: Read {
    /// Sets `key` to `value`. Ascending keys are written fastest.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;
    /// Removes `key`; tells whether it was there.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool>;
    /// Makes all changes durable and visible at once.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// An ordered map with durable transactions.
pub trait Kv: Send + Sync {
    /// Opens a view of the last commit.
    fn read(&self) -> Result<Box<dyn Read + '_>>;
    /// Begins a write transaction, waiting for another writer of this process or others to end.
    fn write(&self) -> Result<Box<dyn Write + '_>>;
    /// Reads everything the last commit holds and checks the structure, not the meaning of rows; others may go on
    /// writing. Takes as long as reading the whole map.
    ///
    /// # Errors
    /// [`KvError::Damaged`] names the first thing that is wrong: make no further use of the map then.
    fn verify(&self) -> Result<()> {
        Ok(())
    }
}

/// Opens, makes and replaces the map of one vault. The caller holds the vault's index lock for all of them but `open`.
pub trait KvHome: Send + Sync {
    /// Opens the map in place; `Ok(None)` if there is none.
    ///
    /// # Errors
    /// [`KvError::Damaged`] when there is one that cannot be trusted to be read.
    fn open(&self) -> Result<Option<std::sync::Arc<dyn Kv>>>;
    /// Makes an empty map aside, calls `fill` on it, makes it durable and puts it in place in one rename.
    /// What stood there is kept under another name (`index.broken-N`), never removed.
    fn replace(&self, fill: &mut dyn FnMut(&dyn Kv) -> Result<()>) -> Result<std::sync::Arc<dyn Kv>>;
}
