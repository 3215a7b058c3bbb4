//! What a directory node says of one name: the values that backup writes and restore reads.

use crate::id::ChunkId;

/// A moment as file systems keep it: seconds since 1970 and nanoseconds 0…999 999 999 after that second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileTime {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Who owns a file: the number, and the name it had on the machine backed up (empty when it had none).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Owner {
    /// uid or gid.
    pub id: u32,
    /// User or group name, UTF-8 in practice, any bytes allowed; shared because many entries have the same.
    pub name: std::sync::Arc<[u8]>,
}

/// One extended attribute; POSIX ACLs and capabilities are such.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Xattr {
    /// Full name with its namespace, e.g. `user.note`.
    pub name: Box<[u8]>,
    /// Value bytes.
    pub value: Box<[u8]>,
}

/// Identity of a file with more than one name, on the machine backed up. Only there to join names again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// What every kind of entry has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// Permission bits with set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u32,
    /// User.
    pub user: Owner,
    /// Group.
    pub group: Owner,
    /// Last change of content.
    pub mtime: FileTime,
    /// Last read; only kept when asked for.
    pub atime: Option<FileTime>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Set where the file had several names (never for directories).
    pub link: Option<LinkId>,
}

/// A stretch of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Bytes it covers, at least 1.
    pub len: u64,
    /// The leaf that holds them (whose plaintext is exactly `len` long), or `None` for a hole, which reads as zeros.
    pub chunk: Option<ChunkId>,
}

/// Where a regular file's bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Right here, at most `INLINE_LEN_MAX` bytes; an empty file is this.
    Inline(Box<[u8]>),
    /// One leaf that holds the whole file: the common case, without an allocation.
    One {
        /// File length in bytes, which is the leaf's.
        len: u64,
        /// The leaf.
        chunk: ChunkId,
    },
    /// Pieces in file order without gaps, at most `ENTRY_PIECES_MAX`.
    Pieces(Vec<Piece>),
    /// The root of a file branch, a list of pieces.
    Tree {
        /// File length in bytes.
        len: u64,
        /// Root node.
        root: ChunkId,
    },
}

impl Content {
    /// File length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::One { len, .. } | Self::Tree { len, .. } => *len,
            Self::Pieces(pieces) => pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.len)),
        }
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A regular file.
    File(Content),
    /// A folder; the root node of its list of entries.
    Directory(ChunkId),
    /// A symbolic link and the bytes it points to.
    Symlink(Box<[u8]>),
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
    /// A socket: noted, and never made again on restore.
    Socket,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// One path component: 1…`NAME_LEN_MAX` bytes, no `/`, no NUL, not `.` or `..`.
    pub name: Box<[u8]>,
    /// Mode, owners, times, attributes.
    pub meta: Metadata,
    /// The rest, by kind.
    pub what: What,
}

/// Whether `name` may stand in a directory: one component that cannot lead anywhere else.
pub fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= crate::limits::NAME_LEN_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}
