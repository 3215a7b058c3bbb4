//! Branches: what a directory, a long file and a snapshot are as chunks.
//!
//! A branch is references (chunk ids, each once, in order of first use) and a payload, a canonical Cap'n Proto message
//! (`schema/capnp/tree.capnp`) that names children by position in the references. Equal values encode to equal bytes.
//! What [`decode`] returns has passed every rule of `check.rs`; what breaks one is not encoded either.
//! Nothing here reads a file or knows how an id is computed.

pub mod entry;
mod check;
mod decode;
mod encode;
mod list;
mod read;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod list_tests;

pub use decode::{decode, decode_any};
pub use encode::{
    encode_directory, encode_directory_inner, encode_entries, encode_file, encode_file_inner, encode_pieces,
    encode_snapshot,
};
pub use list::{DirectoryWriter, FileWriter, ListWriter, PausedList, Split, write_directory};
pub use read::{Branches, DirectoryReader, FileReader, find, node, snapshot};

use crate::env::Time;
use crate::id::{ChunkId, SessionId};
use entry::{Entry, Piece};

/// A branch as it is named, framed and stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodedBranch {
    /// Children, each once, in order of first use; in the clear.
    pub refs: Vec<ChunkId>,
    /// Canonical message, at most `CHUNK_LEN_MAX` bytes, a multiple of 8; sealed.
    pub payload: Vec<u8>,
}

/// What a branch says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// Part of a directory.
    Directory(DirectoryNode),
    /// Part of a long file.
    File(FileNode),
    /// The root of a snapshot.
    Snapshot(Box<Snapshot>),
}

impl Node {
    /// Makes the branch.
    pub fn encode(&self) -> Result<EncodedBranch> {
        match self {
            Self::Directory(node) => encode_directory(node),
            Self::File(node) => encode_file(node),
            Self::Snapshot(snapshot) => encode_snapshot(snapshot),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::File(_) => "file",
            Self::Snapshot(_) => "snapshot",
        }
    }
}

/// A node of the tree that a directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DirectoryNode {
    /// The names themselves, strictly ascending; none in an empty directory.
    Entries(Vec<Entry>),
    /// Nodes of the level below, at least one, ranges ascending and disjoint.
    Inner(Vec<InnerDir>),
}

/// A directory node and what is under it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InnerDir {
    /// Smallest name under it.
    pub first_name: Box<[u8]>,
    /// Largest name under it.
    pub last_name: Box<[u8]>,
    /// Names under it, at least 1.
    pub entries: u64,
    /// The node.
    pub node: ChunkId,
}

/// A node of the tree that a long file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileNode {
    /// The pieces themselves, in file order without gaps; none in an empty file.
    Pieces(Vec<Piece>),
    /// Nodes of the level below, at least one, in file order.
    Inner(Vec<InnerFile>),
}

/// A file node and what is under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InnerFile {
    /// Bytes under it, at least 1.
    pub len: u64,
    /// The node.
    pub node: ChunkId,
}

/// The root of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Root of the top directory.
    pub tree: ChunkId,
    /// When the backup finished reading.
    pub time: Time,
    /// When it began.
    pub started: Time,
    /// Name of the machine backed up.
    pub host: String,
    /// Name of the user who ran the backup.
    pub user: String,
    /// What was asked to be backed up, as given.
    pub paths: Vec<Vec<u8>>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The snapshot it was compared with. Only told: it is not among the references, so it may be forgotten alone.
    pub parent: Option<ChunkId>,
    /// Name and version of the program.
    pub program: String,
    /// The session that wrote it.
    pub session: SessionId,
    /// A checkpoint of a backup that had not come to its end.
    pub partial: bool,
    /// What stands in the tree.
    pub totals: Totals,
    /// Arguments of the program, secrets left out.
    pub command: Vec<String>,
    /// Patterns of what was left out.
    pub excludes: Vec<String>,
}

/// Counts of what a snapshot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Symbolic links, devices, pipes, sockets.
    pub others: u64,
    /// Sum of the lengths of the regular files.
    pub bytes: u64,
    /// Files and directories that could not be read.
    pub errors: u64,
}

/// Whether a set of attributes is small enough to be kept with an entry.
pub fn xattrs_fit(xattrs: &[entry::Xattr]) -> bool {
    check::xattrs_len(xattrs) <= crate::limits::XATTRS_LEN_MAX
}

/// A branch cannot be encoded, or the bytes of one are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum BranchError {
    /// The bytes are not a message of the schema.
    #[error("branch payload is not a message of the known form")]
    Message(#[from] capnp::Error),
    /// A list or byte string is over its limit.
    #[error("{what}: {len} is over the limit of {max}")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// Length found.
        len: u64,
        /// Its bound in `limits`.
        max: u64,
    },
    /// An element breaks a rule.
    #[error("item {at} of the branch: {rule}")]
    Invalid {
        /// Position of the element in its node.
        at: usize,
        /// The rule.
        rule: &'static str,
    },
    /// The payload names a child that the references do not have.
    #[error("branch names child {position} of {refs}")]
    Position {
        /// Position named.
        position: u32,
        /// How many references there are.
        refs: usize,
    },
    /// The branch is of another kind than the one that refers to it says.
    #[error("branch is a {found} where a {expected} belongs")]
    Kind {
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A node does not hold what its parent says.
    #[error("branch does not hold what its parent says of it")]
    Promise,
    /// Nodes are nested deeper than any list can need.
    #[error("branch is nested more than {max} levels", max = crate::limits::LIST_DEPTH_MAX)]
    Depth,
    /// Which branch it was.
    #[error("branch {id} is not readable")]
    In {
        /// The branch.
        id: ChunkId,
        /// What is wrong with it.
        #[source]
        source: Box<BranchError>,
    },
}

/// Result of work on branches.
pub type Result<T> = std::result::Result<T, BranchError>;
