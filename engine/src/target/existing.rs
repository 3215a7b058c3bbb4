//! What stands in the target already, and whether it is what the vault has.

use std::fmt;

use rustix::fs::{FileType, Stat};

use crate::branch::entry::{Entry, FileTime, What};

/// Identity of a file on this machine for as long as it exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// Kind of a file in the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FoundKind {
    /// Regular file.
    File,
    /// Folder.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket, or something this system does not tell.
    Socket,
}

impl fmt::Display for FoundKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Directory => "folder",
            Self::Symlink => "symbolic link",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
        })
    }
}

/// What the system tells of a name or an open file; of a symbolic link itself, never of what it points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Kind.
    pub kind: FoundKind,
    /// Identity.
    pub id: FileId,
    /// Number of names.
    pub names: u64,
    /// Length in bytes.
    pub len: u64,
    /// Bytes it takes on the disk; less than `len` where it has holes.
    pub stored_len: u64,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Last change of content.
    pub mtime: FileTime,
    /// Major and minor number of a device, else of no meaning.
    pub device: (u32, u32),
}

impl Found {
    /// Whether `entry` seems to be restored here already: same kind, and for files the same length and time,
    /// for links the same length and time, for devices the same numbers. Folders are the same by kind alone.
    pub fn is_same(&self, entry: &Entry) -> bool {
        let same_times = self.mtime == entry.meta.mtime;
        match &entry.what {
            What::File(content) => self.kind == FoundKind::File && self.len == content.len() && same_times,
            What::Symlink(to) => self.kind == FoundKind::Symlink && self.len == to.len() as u64 && same_times,
            What::CharDevice { major, minor } => self.kind == FoundKind::CharDevice && self.device == (*major, *minor),
            What::BlockDevice { major, minor } => {
                self.kind == FoundKind::BlockDevice && self.device == (*major, *minor)
            }
            What::Directory(_) => self.kind == FoundKind::Directory,
            What::Fifo => self.kind == FoundKind::Fifo,
            What::Socket => self.kind == FoundKind::Socket,
        }
    }
}

// The fields differ in width and sign between processor kinds; on some a cast changes nothing.
#[allow(clippy::unnecessary_cast)]
impl From<Stat> for Found {
    fn from(stat: Stat) -> Self {
        Self {
            kind: match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => FoundKind::File,
                FileType::Directory => FoundKind::Directory,
                FileType::Symlink => FoundKind::Symlink,
                FileType::CharacterDevice => FoundKind::CharDevice,
                FileType::BlockDevice => FoundKind::BlockDevice,
                FileType::Fifo => FoundKind::Fifo,
                FileType::Socket | FileType::Unknown => FoundKind::Socket,
            },
            id: FileId { device: stat.st_dev as u64, inode: stat.st_ino as u64 },
            names: stat.st_nlink as u64,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            stored_len: (stat.st_blocks as u64).saturating_mul(512),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: FileTime { secs: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            device: (rustix::fs::major(stat.st_rdev as u64), rustix::fs::minor(stat.st_rdev as u64)),
        }
    }
}
