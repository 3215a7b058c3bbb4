//! Backup: from a live tree to a published snapshot.
//!
//! Each worker walks, reads, cuts, names, compresses, seals and puts; there are no queues between these steps. What
//! always holds: a name that could not be read whole is reported and counted, never passed over in silence, and only a
//! root that the store has settled becomes a snapshot.

mod checkpoint;
mod counts;
mod dry;
mod entry;
mod file;
mod old;
mod outcome;
mod pool;
mod run;
mod scope;
mod stream;
mod tree;
mod writer;

pub use run::backup;
pub use stream::backup_stream;

use crate::branch::BranchError;
use crate::env::Time;
use crate::id::ChunkId;
use crate::source::SourceError;
use crate::source::filter::{FilterError, FilterOptions};
use crate::store::StoreError;
use crate::vault::{ErrorClass, ReadError, VaultError};
use std::path::PathBuf;
use std::time::Duration;

/// What to back up, and how.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Absolute paths, any bytes.
    pub paths: Vec<Vec<u8>>,
    /// What is left out.
    pub filter: FilterOptions,
    /// Read every file, whatever is known of it.
    pub force: bool,
    /// The snapshot to compare with; the newest of the same host and paths if none.
    pub parent: Option<ChunkId>,
    /// Name of this machine.
    pub host: String,
    /// Who runs the backup.
    pub user: String,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// Time the snapshot claims; now if none. Informative only.
    pub time: Option<Time>,
    /// Keep read times.
    pub with_atime: bool,
    /// Take a file whose inode number changed for unchanged.
    pub ignore_inode: bool,
    /// Take a file whose ctime changed for unchanged.
    pub ignore_ctime: bool,
    /// Read and count, write nothing.
    pub dry_run: bool,
    /// Make no snapshot when it would equal its parent.
    pub skip_if_unchanged: bool,
    /// Folders that are kept as empty ones, as (device, inode): the vault itself and its cache, which would otherwise
    /// be backed up while they change.
    pub own_dirs: Vec<(u64, u64)>,
    /// Folder of the stat cache; no cache if none.
    pub cache_dir: Option<PathBuf>,
    /// Command line, kept in the snapshot.
    pub command: Vec<String>,
    /// Program and version, kept in the snapshot.
    pub program: String,
}

/// What a backup did.
#[derive(Clone, Debug, Default)]
pub struct BackupSummary {
    /// The snapshot; none after a dry run, or when nothing changed and that was to be skipped.
    pub snapshot: Option<ChunkId>,
    /// The snapshot it was compared with.
    pub parent: Option<ChunkId>,
    /// Files the parent did not have.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files not read because nothing about them changed.
    pub files_unchanged: u64,
    /// Folders the parent did not have.
    pub dirs_new: u64,
    /// Folders in which something changed.
    pub dirs_changed: u64,
    /// Folders in which nothing changed.
    pub dirs_unchanged: u64,
    /// Links, devices, pipes, sockets.
    pub others: u64,
    /// Bytes of all files.
    pub bytes_processed: u64,
    /// Plaintext bytes of new chunks.
    pub bytes_added: u64,
    /// Bytes of frames written for them.
    pub bytes_stored: u64,
    /// Chunks the vault did not have.
    pub chunks_new: u64,
    /// Chunks it had.
    pub chunks_known: u64,
    /// Sources that could not be read, or not as one version; each was a warning.
    pub errors: u64,
    /// Damaged branches of older snapshots that are whole again.
    pub healed: u64,
    /// Snapshots in the vault that still lack something.
    pub unwhole: u64,
    /// How long it took.
    pub duration: Duration,
}

/// A backup could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A pattern cannot be used.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// None of the sources could be read.
    #[error("nothing to back up: {0}")]
    NoSource(String),
    /// The root of the source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The stream given cannot be read.
    #[error("cannot read the stream to back up")]
    Stream(#[source] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// An older snapshot cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry cannot be written down.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// Compression cannot be set up.
    #[error("cannot set up compression")]
    Compression(#[from] std::io::Error),
    /// Somebody asked to stop.
    #[error("the backup was interrupted; what is stored already is used by the next one")]
    Cancelled,
}

impl BackupError {
    /// Whether it only says that the session failed before: somebody else has met the reason, and may be slower to tell.
    fn is_echo(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::SessionFailed) | Self::Vault(VaultError::Store(StoreError::SessionFailed))
        )
    }

    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Filter(_) => ErrorClass::Usage,
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Vault(error) => error.class(),
            Self::Read(error) => error.class(),
            Self::Cancelled => ErrorClass::Cancelled,
            Self::NoSource(_) | Self::Source(_) | Self::Stream(_) | Self::Branch(_) | Self::Compression(_) => {
                ErrorClass::Other
            }
        }
    }
}

#[cfg(test)]
mod outcome_tests;
#[cfg(test)]
mod tests;
