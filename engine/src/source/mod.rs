//! The live file tree that is backed up.
//!
//! Everything is reached by directory descriptors and single names, never by long paths, so a name swapped for a
//! symlink while we read leads nowhere, and nesting far beyond `PATH_MAX` works. Nothing is ever written, and
//! read times are left alone where the system permits. What differs between systems stands in `linux`.
//! Values handed out are what the system said at that moment; whether a file changed meanwhile is told by
//! [`same_version`].

mod dir;
mod file;
pub mod filter;
mod linux;
mod owners;
#[cfg(test)]
mod tests;

pub use dir::{Dir, DirHandle};
pub use file::{Extent, Extents, SourceFile};
pub use owners::{OwnerNames, metadata};

use crate::branch::entry::FileTime;
use linux as os;
use std::fmt;
use std::io;

/// Reading the source failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", DisplayPath(path))]
pub struct SourceError {
    /// What was tried: `open`, `list`, `stat`, `read`, …
    pub action: &'static str,
    /// Absolute path, any bytes, any length.
    pub path: Vec<u8>,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// What a failure means for the backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It was there when its folder was listed and is gone.
    Vanished,
    /// Something else stands in its place than a moment ago; looking again may succeed.
    Changed,
    /// We may not read it.
    Denied,
    /// Anything else: damaged disk, lost network, too many open files.
    Broken,
}

impl SourceError {
    /// The kind of the underlying error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// What it means for the backup.
    pub fn failure(&self) -> Failure {
        match self.source.kind() {
            io::ErrorKind::NotFound => Failure::Vanished,
            // A symlink, a file or a socket stands where something else was, or the server dropped the handle.
            io::ErrorKind::NotADirectory | io::ErrorKind::StaleNetworkFileHandle => Failure::Changed,
            io::ErrorKind::PermissionDenied => Failure::Denied,
            _ if os::met_another_kind(&self.source) => Failure::Changed,
            _ => Failure::Broken,
        }
    }
}

/// Result of reading the source.
pub type Result<T> = std::result::Result<T, SourceError>;

/// The error for something that is no longer what it was a moment ago; its failure is [`Failure::Changed`].
fn replaced() -> io::Error {
    io::Error::new(io::ErrorKind::StaleNetworkFileHandle, "replaced by something else meanwhile")
}

/// Shows a path of any bytes on one line: printable UTF-8 as it is, the rest as `\xNN`.
pub struct DisplayPath<'a>(pub &'a [u8]);

impl fmt::Display for DisplayPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for part in self.0.utf8_chunks() {
            for char in part.valid().chars() {
                match char {
                    '\\' => f.write_str("\\\\")?,
                    _ if char.is_control() => write!(f, "\\x{:02x}", u32::from(char))?,
                    _ => f.write_char(char)?,
                }
            }
            for byte in part.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What the system says of a file, without following symlinks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with set-uid, set-gid and sticky, `0o7777` at most.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Space taken on disk, in units of 512 bytes.
    pub blocks: u64,
    /// Last change of content.
    pub mtime: FileTime,
    /// Last read.
    pub atime: FileTime,
    /// Last change of content or metadata, set by the system alone.
    pub ctime: FileTime,
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Number of names.
    pub nlink: u64,
    /// Which mount it was reached through; 0 where the system does not tell.
    pub mount_id: u64,
    /// Whether it is the top of a mount.
    pub mount_root: bool,
}

impl Stat {
    /// Whether this entry of a folder lies on another mount than the folder.
    pub fn is_mount_point(&self, folder: &Stat) -> bool {
        self.device != folder.device || self.mount_id != folder.mount_id || (self.mount_root && !folder.mount_root)
    }

    /// Whether fewer blocks are taken than the length needs, so that asking for holes is worth a call.
    /// Compressing file systems say so of files without holes too.
    pub fn may_have_holes(&self) -> bool {
        self.kind == FileKind::File && self.blocks.saturating_mul(512) < self.size
    }

    /// Device and inode: which file it is, on this machine, for as long as it exists.
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// Whether two looks at a file saw the same version of it: what was read between them is one consistent content,
/// but for writes within one tick of the file system's clock.
pub fn same_version(a: &Stat, b: &Stat) -> bool {
    a.identity() == b.identity() && a.kind == b.kind && a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime
}
