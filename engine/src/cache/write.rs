//! Writing a new cache beside the old one and putting it in its place.
//!
//! The file is written as `<path>.new` under a lock, so two runs never write into each other; the second one goes
//! without. What a killed run left is overwritten by the next. Nothing is synced (see the module above), and the
//! rename only replaces one cache by another: either serves.

use super::{CachedDir, CachedStat, DirKey, FOOTER_LEN, HEADER_LEN, Magic, Part, ROW_LEN, SUM_LEN, VERSION, checksum};
use crate::env::Env;
use crate::id::{ChunkId, VaultId};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tries to get hold of a file that other runs keep renaming away.
const OPEN_TRIES_MAX: usize = 8;

/// A new cache cannot be written. The backup is as good without it, the next one slower.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another run is writing it now.
    #[error("stat cache {} is being written by another run", .0.display())]
    Busy(PathBuf),
    /// The system refused.
    #[error("cannot {action} stat cache {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Collects the folders of one run. May be used by several threads.
///
/// Dropped without [`CacheWriter::finish`] it leaves the old cache in place.
pub struct CacheWriter(BlockWriter);

impl CacheWriter {
    /// Begins a cache that will replace the one at `path`, whose folder must exist.
    pub fn create(path: &Path, vault: VaultId, env: &Env) -> Result<Self, CacheError> {
        BlockWriter::create(path, super::STATS, vault, env).map(Self)
    }

    /// Adds a folder. A failed write shows in [`Self::finish`]; a folder added twice will not be known at all,
    /// for nobody can tell which one the listing above it means.
    pub fn add(&self, key: DirKey, dir: &CachedDir) {
        if let Some(body) = body(dir) {
            self.0.add(&key.0, body);
        }
    }

    /// Writes the table and puts the new cache in the place of the old one.
    pub fn finish(self) -> Result<(), CacheError> {
        self.0.finish()
    }
}

/// Writes a file of blocks; see [`CacheWriter`].
pub(super) struct BlockWriter {
    path: PathBuf,
    aside: PathBuf,
    file_key: [u8; 32],
    inner: Mutex<Inner>,
}

struct Inner {
    out: BufWriter<File>,
    offset: u64,
    rows: Vec<[u8; ROW_LEN]>,
    /// The first write that failed; nothing is written after it.
    failed: Option<io::Error>,
    finished: bool,
}

impl BlockWriter {
    pub fn create(path: &Path, magic: Magic, vault: VaultId, env: &Env) -> Result<Self, CacheError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        let file = open_locked(&aside)?;

        let mut file_key = [0; 32];
        env.entropy.fill(&mut file_key);
        let mut out = BufWriter::with_capacity(256 << 10, file);
        out.write_all(&header(magic, vault, &file_key)).map_err(|source| io_error("write", &aside, source))?;
        let inner = Inner { out, offset: HEADER_LEN as u64, rows: Vec::new(), failed: None, finished: false };
        Ok(Self { path: path.to_owned(), aside, file_key, inner: Mutex::new(inner) })
    }

    /// Adds a block; of a key added twice neither counts. Returns the length of the file so far.
    pub fn add(&self, key: &[u8; 16], body: Vec<u8>) -> u64 {
        let mut block = body;
        let sum = checksum(&self.file_key, Part::Block, &[key, &block]);
        block.extend_from_slice(&sum);
        let mut inner = self.inner();
        // One too long for its row is not remembered, only read again.
        let Ok(len) = u32::try_from(block.len()) else { return inner.offset };
        if inner.failed.is_some() {
            return inner.offset;
        }
        match inner.out.write_all(&block) {
            Ok(()) => {
                let row = row(key, inner.offset, len);
                inner.rows.push(row);
                inner.offset += u64::from(len);
            }
            Err(error) => inner.failed = Some(error),
        }
        inner.offset
    }

    pub fn finish(self) -> Result<(), CacheError> {
        let mut inner = self.inner();
        if let Some(source) = inner.failed.take() {
            return Err(io_error("write", &self.aside, source));
        }
        inner.write_table(&self.file_key).map_err(|source| io_error("write", &self.aside, source))?;
        std::fs::rename(&self.aside, &self.path).map_err(|source| io_error("replace", &self.path, source))?;
        inner.finished = true;
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write_table(&mut self, file_key: &[u8; 32]) -> io::Result<()> {
        self.rows.sort_unstable();
        let rows: Vec<u8> = self
            .rows
            .chunk_by(|a, b| a[..16] == b[..16])
            .filter(|same| same.len() == 1)
            .flat_map(|same| same.as_flattened())
            .copied()
            .collect();
        let mut footer = Vec::with_capacity(FOOTER_LEN);
        footer.extend_from_slice(&self.offset.to_le_bytes());
        footer.extend_from_slice(&((rows.len() / ROW_LEN) as u64).to_le_bytes());
        let sum = checksum(file_key, Part::Table, &[&rows, &footer]);
        footer.extend_from_slice(&sum);
        self.out.write_all(&rows)?;
        self.out.write_all(&footer)?;
        self.out.flush()
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        if !self.inner().finished {
            // Still locked, so it is ours. Should it stay, the next run overwrites it.
            let _ = std::fs::remove_file(&self.aside);
        }
    }
}

fn header(magic: Magic, vault: VaultId, file_key: &[u8; 32]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(magic);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&0_u32.to_le_bytes());
    header.extend_from_slice(&vault.0);
    header.extend_from_slice(file_key);
    let sum = checksum(file_key, Part::Header, &[&header]);
    header.extend_from_slice(&sum);
    header
}

/// A folder's bytes; `None` when their number does not fit.
fn body(dir: &CachedDir) -> Option<Vec<u8>> {
    let count = u32::try_from(dir.stats.len()).ok()?;
    let len = dir.stats.len().checked_mul(CachedStat::LEN)?.checked_add(ChunkId::LEN + 16 + 4 + SUM_LEN)?;
    let mut body = Vec::with_capacity(len);
    body.extend_from_slice(&dir.tree.0);
    body.extend_from_slice(&dir.names_hash);
    body.extend_from_slice(&count.to_le_bytes());
    for stat in &dir.stats {
        body.extend_from_slice(&stat.to_bytes());
    }
    Some(body)
}

fn row(key: &[u8; 16], offset: u64, len: u32) -> [u8; ROW_LEN] {
    let mut row = [0; ROW_LEN];
    row[..16].copy_from_slice(key);
    row[16..24].copy_from_slice(&offset.to_le_bytes());
    row[24..].copy_from_slice(&len.to_le_bytes());
    row
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> CacheError {
    CacheError::Io { action, path: path.to_owned(), source }
}

/// Opens, locks and empties the file that is written aside.
fn open_locked(aside: &Path) -> Result<File, CacheError> {
    for _ in 0..OPEN_TRIES_MAX {
        let file = open_private(aside).map_err(|source| io_error("create", aside, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CacheError::Busy(aside.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", aside, source)),
        }
        // Between open and lock another run may have finished: then this file already is the cache.
        if is_still_at(&file, aside) {
            file.set_len(0).map_err(|source| io_error("empty", aside, source))?;
            return Ok(file);
        }
    }
    Err(CacheError::Busy(aside.to_owned()))
}

fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// A file that is open here cannot be renamed away by others.
#[cfg(windows)]
fn is_still_at(_file: &File, _path: &Path) -> bool {
    true
}
