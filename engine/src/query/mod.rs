//! Looking into snapshots: finding a path, walking a tree, reading a file, comparing two trees, adding up sizes,
//! saying what takes the space, following a file through time.
//!
//! What always holds: nothing that cannot be read is passed over in silence; an error names the path, or the bytes of
//! the file, that it is about. Memory is bounded by one node a level of the tree, whatever is in it.

mod ahead;
mod diff;
mod reach;
mod read;
mod space;
mod stats;
mod tree;
mod versions;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod space_tests;

pub use diff::{Change, ChangeKind, DiffStats, diff};
pub use read::{Pieces, copy_range, pieces_from, read_file, read_range};
pub use space::{Freed, FreedReport, Space, freed, space};
pub use stats::{Stats, StatsMode, stats};
pub use tree::{Damage, RootWhat, Step, TreeRoot, WalkEntry, entry_at, resolve_path, walk, walk_with};
pub use versions::{Version, Versions, version_in};

use crate::store::StoreError;
use crate::vault::{ErrorClass, ReadError};
use std::io;
use std::ops::Range;

/// A question about a snapshot cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A component of the path is not there.
    #[error("{} is not in the snapshot", shown(path))]
    NotFound {
        /// The path up to and with the missing component.
        path: Vec<u8>,
    },
    /// The path goes on below something that is no folder.
    #[error("{} is not a folder", shown(path))]
    NotDirectory {
        /// What is no folder.
        path: Vec<u8>,
    },
    /// A folder's listing cannot be read.
    #[error("cannot read the folder {}", shown(path))]
    Directory {
        /// The folder.
        path: Vec<u8>,
        /// Why not.
        #[source]
        source: Box<ReadError>,
    },
    /// Folders are nested deeper than anything we made.
    #[error("{} lies deeper than {max} folders", shown(path), max = crate::limits::TREE_DEPTH_MAX)]
    TooDeep {
        /// The folder.
        path: Vec<u8>,
    },
    /// Some bytes of a file cannot be read.
    #[error("cannot read bytes {} to {} of the file", range.start, range.end)]
    Content {
        /// Which bytes.
        range: Range<u64>,
        /// Why not.
        #[source]
        source: Box<ReadError>,
    },
    /// What was read cannot be handed on.
    #[error("cannot write what was read")]
    Write(#[source] io::Error),
    /// No reader can be set up.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// More snapshots than can be told apart in one run.
    #[error("{found} snapshots are too many at a time, {max} can be told apart")]
    TooMany {
        /// How many.
        found: usize,
        /// How many can be.
        max: usize,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl QueryError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::NotDirectory { .. } | Self::TooMany { .. } => ErrorClass::Usage,
            Self::Directory { source, .. } | Self::Content { source, .. } => source.class(),
            Self::TooDeep { .. } => ErrorClass::Damaged,
            Self::Write(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorClass::NoSpace,
                _ => ErrorClass::Other,
            },
            Self::Read(error) => error.class(),
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }
}

/// Result of a question.
pub type Result<T> = std::result::Result<T, QueryError>;

/// A path for an error message: control bytes escaped, so that a name cannot speak to the terminal.
fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(path).chars() {
        match c.is_control() {
            true => text.extend(c.escape_default()),
            false => text.push(c),
        }
    }
    text
}
