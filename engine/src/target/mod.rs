//! The folder a restore writes into.
//!
//! Whatever a vault says, nothing outside this folder is created, changed or given other rights:
//! - a name is one plain component (see [`plan`]), always resolved against an open directory;
//! - no symbolic link is followed, neither one that was there before nor one we made;
//! - no file that has another name is written to or given metadata: it is replaced by a new one;
//! - a directory opened a second time must be the one opened the first time (device and inode).
//!
//! All of it holds while others change the tree, because no decision made on a path is used later by path:
//! what was decided on is an open descriptor. A directory somebody moves elsewhere is followed there, as its
//! mover could have moved it after the restore as well.

mod apply;
mod dir;
mod existing;
mod file;
mod linux;
pub mod plan;
mod remove;
#[cfg(test)]
mod tests;

pub use apply::{ApplyOptions, OwnerIds, OwnerPolicy, Shortfall};
pub use dir::{Collision, Target, TargetDir};
pub use existing::{FileId, Found, FoundKind};
pub use file::{TargetFile, TargetNode};

use std::io;

/// Something could not be done in the target.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct TargetError {
    /// What was tried: `create folder`, `open`, `write to`, `remove`, …
    pub action: &'static str,
    /// The path, with bytes that are not text escaped and the front cut off when very long.
    pub path: String,
    /// Why not.
    #[source]
    pub source: Fault,
}

/// Why something could not be done in the target.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The vault names something a restore never makes.
    #[error(transparent)]
    Name(#[from] plan::NameFault),
    /// Something else has the name already.
    #[error("the name is taken by a {0}")]
    Occupied(FoundKind),
    /// Somebody changed the tree while we worked on it.
    #[error("it was changed by somebody else during the restore")]
    Changed,
    /// Another file system begins here; removing stops before it.
    #[error("a file system is mounted here, unmount it first")]
    MountPoint,
    /// The target itself is a symbolic link.
    #[error("it is a symbolic link, append a `/` to mean the folder it points to")]
    LinkedRoot,
    /// Only root may do this.
    #[error("only root may do this")]
    NotPermitted,
    /// Anything else the system reports.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Result of an operation in the target.
pub type Result<T> = std::result::Result<T, TargetError>;

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}

/// Longest path in a message, bytes before escaping.
const SHOWN_LEN_MAX: usize = 4096;

/// Path bytes as text for a message, control characters and what is not UTF-8 escaped.
fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    let cut = path.len().saturating_sub(SHOWN_LEN_MAX);
    if cut > 0 {
        text.push('…');
    }
    for piece in path[cut..].utf8_chunks() {
        for letter in piece.valid().chars() {
            match letter.is_control() {
                true => text.extend(letter.escape_default()),
                false => text.push(letter),
            }
        }
        text.extend(piece.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}
