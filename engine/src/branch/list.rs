//! Long lists as trees of nodes whose ends are found in the content: the same list is the same nodes, and one change
//! in it changes about one node a level.
//!
//! A node ends after an element whose key hashes to `LIST_SPLIT_BITS` low zero bits, not before `LIST_ENTRIES_MIN`
//! elements; and where it would outgrow `LIST_ENTRIES_MAX` or `LIST_NODE_LEN_TARGET`. The key is the name of an entry,
//! the id of a leaf or node, the length (8 bytes, little-endian) of a hole. A writer holds one node a level.
//! References need no count: `BRANCH_REFS_MAX` covers a full node.

use super::entry::{Entry, Piece};
use super::{
    BranchError, DirectoryNode, EncodedBranch, FileNode, InnerDir, InnerFile, Node, encode, encode_directory_inner,
    encode_entries, encode_file_inner, encode_pieces,
};
use crate::id::ChunkId;
use crate::limits::{
    LIST_DEPTH_MAX, LIST_ENTRIES_MAX, LIST_ENTRIES_MIN, LIST_NODE_LEN_TARGET, LIST_SPLIT_BITS, SYMLINK_LEN_MAX,
    XATTRS_LEN_MAX,
};

/// The keyed hash that finds where nodes end; the vault's, for its life.
pub type Split<'a> = dyn Fn(&[u8]) -> u64 + 'a;

// An entry at all its limits fits in a node.
const _: () = assert!(XATTRS_LEN_MAX + SYMLINK_LEN_MAX + (16 << 10) <= LIST_NODE_LEN_TARGET);

/// Something lists are made of: the elements themselves, or nodes of the level below.
pub trait Element: Clone {
    /// A node of these as its parent speaks of it.
    type Child: Element<Child = Self::Child> + PartialEq;

    /// Most bytes it adds to a payload.
    fn encoded_len(&self) -> usize;
    /// Hash of its key.
    fn hash(&self, split: &Split<'_>) -> u64;
    /// Makes the node.
    fn encode(elements: &[Self]) -> super::Result<EncodedBranch>;
    /// What a parent says of the node; `None` for one without elements.
    fn summary(elements: &[Self], node: ChunkId) -> Option<Self::Child>;
}

/// Elements that stand on the last level.
pub trait Bottom: Element {
    /// What is asked for in errors: `directory` or `file`.
    const KIND: &'static str;
    /// Takes a node of this list apart; of another kind, says which.
    fn open(node: Node) -> Result<Opened<Self>, &'static str>;
    /// The node that a child is.
    fn node(child: &Self::Child) -> ChunkId;
}

/// A node of a list, taken apart.
pub enum Opened<T: Element> {
    /// The last level.
    Elements(Vec<T>),
    /// A level above it.
    Inner(Vec<T::Child>),
}

impl Element for Entry {
    type Child = InnerDir;

    fn encoded_len(&self) -> usize {
        encode::entry_len(self)
    }

    fn hash(&self, split: &Split<'_>) -> u64 {
        split(&self.name)
    }

    fn encode(elements: &[Self]) -> super::Result<EncodedBranch> {
        encode_entries(elements)
    }

    fn summary(elements: &[Self], node: ChunkId) -> Option<InnerDir> {
        let (first, last) = (elements.first()?, elements.last()?);
        let (first_name, last_name) = (first.name.clone(), last.name.clone());
        Some(InnerDir { first_name, last_name, entries: elements.len() as u64, node })
    }
}

impl Bottom for Entry {
    const KIND: &'static str = "directory";

    fn open(node: Node) -> Result<Opened<Self>, &'static str> {
        match node {
            Node::Directory(DirectoryNode::Entries(entries)) => Ok(Opened::Elements(entries)),
            Node::Directory(DirectoryNode::Inner(children)) => Ok(Opened::Inner(children)),
            Node::File(_) | Node::Snapshot(_) => Err(node.kind()),
        }
    }

    fn node(child: &InnerDir) -> ChunkId {
        child.node
    }
}

impl Element for InnerDir {
    type Child = Self;

    fn encoded_len(&self) -> usize {
        encode::inner_dir_len(self)
    }

    fn hash(&self, split: &Split<'_>) -> u64 {
        split(&self.node.0)
    }

    fn encode(elements: &[Self]) -> super::Result<EncodedBranch> {
        encode_directory_inner(elements)
    }

    fn summary(elements: &[Self], node: ChunkId) -> Option<Self> {
        let (first, last) = (elements.first()?, elements.last()?);
        let entries = elements.iter().fold(0, |sum: u64, child| sum.saturating_add(child.entries));
        Some(Self { first_name: first.first_name.clone(), last_name: last.last_name.clone(), entries, node })
    }
}

impl Element for Piece {
    type Child = InnerFile;

    fn encoded_len(&self) -> usize {
        encode::PIECE_LEN
    }

    fn hash(&self, split: &Split<'_>) -> u64 {
        match &self.chunk {
            Some(chunk) => split(&chunk.0),
            None => split(&self.len.to_le_bytes()),
        }
    }

    fn encode(elements: &[Self]) -> super::Result<EncodedBranch> {
        encode_pieces(elements)
    }

    fn summary(elements: &[Self], node: ChunkId) -> Option<InnerFile> {
        let len = elements.iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.len));
        (!elements.is_empty()).then_some(InnerFile { len, node })
    }
}

impl Bottom for Piece {
    const KIND: &'static str = "file";

    fn open(node: Node) -> Result<Opened<Self>, &'static str> {
        match node {
            Node::File(FileNode::Pieces(pieces)) => Ok(Opened::Elements(pieces)),
            Node::File(FileNode::Inner(children)) => Ok(Opened::Inner(children)),
            Node::Directory(_) | Node::Snapshot(_) => Err(node.kind()),
        }
    }

    fn node(child: &InnerFile) -> ChunkId {
        child.node
    }
}

impl Element for InnerFile {
    type Child = Self;

    fn encoded_len(&self) -> usize {
        encode::PIECE_LEN
    }

    fn hash(&self, split: &Split<'_>) -> u64 {
        split(&self.node.0)
    }

    fn encode(elements: &[Self]) -> super::Result<EncodedBranch> {
        encode_file_inner(elements)
    }

    fn summary(elements: &[Self], node: ChunkId) -> Option<Self> {
        let len = elements.iter().fold(0, |sum: u64, child| sum.saturating_add(child.len));
        (!elements.is_empty()).then_some(Self { len, node })
    }
}

/// The node of one level that is being filled.
#[derive(Clone)]
struct Level<T> {
    elements: Vec<T>,
    len: usize,
}

impl<T: Element> Level<T> {
    const EMPTY: Self = Self { elements: Vec::new(), len: 0 };

    /// Whether the node must end before `next`.
    fn is_full_for(&self, next: &T) -> bool {
        !self.elements.is_empty() && self.len + next.encoded_len() > LIST_NODE_LEN_TARGET
    }

    /// Adds an element; says whether the node ends after it.
    fn add(&mut self, element: T, split: &Split<'_>) -> bool {
        self.len += element.encoded_len();
        let count = self.elements.len() + 1;
        let ends = count >= LIST_ENTRIES_MAX
            || (count >= LIST_ENTRIES_MIN && element.hash(split).trailing_zeros() >= LIST_SPLIT_BITS);
        self.elements.push(element);
        ends
    }

    /// Hands the node over and begins the next; `None` when there is nothing in it.
    fn flush<E: From<BranchError>>(&mut self, put: &mut Put<'_, E>) -> Result<Option<T::Child>, E> {
        if self.elements.is_empty() {
            return Ok(None);
        }
        let node = put(T::encode(&self.elements)?)?;
        let child = T::summary(&self.elements, node);
        self.elements.clear();
        self.len = 0;
        Ok(child)
    }
}

/// Takes a finished node and says how it is named. Children come before their parents.
type Put<'a, E> = dyn FnMut(EncodedBranch) -> Result<ChunkId, E> + 'a;

/// Makes the tree of a list whose elements come in order.
pub struct ListWriter<'a, T: Bottom> {
    split: &'a Split<'a>,
    bottom: Level<T>,
    // The last one has never been flushed: flushing it makes one above it.
    upper: Vec<Level<T::Child>>,
}

/// A list that is not finished, at rest: one node a level. Any copy of it may be gone on with.
#[derive(Clone)]
pub struct PausedList<T: Bottom> {
    bottom: Level<T>,
    upper: Vec<Level<T::Child>>,
}

impl<T: Bottom> Default for PausedList<T> {
    fn default() -> Self {
        Self { bottom: Level::EMPTY, upper: Vec::new() }
    }
}

/// Makes a directory of entries that come strictly ascending by name bytes.
pub type DirectoryWriter<'a> = ListWriter<'a, Entry>;

/// Makes a file branch of pieces that come in file order.
pub type FileWriter<'a> = ListWriter<'a, Piece>;

impl<'a, T: Bottom> ListWriter<'a, T> {
    /// An empty list.
    pub fn new(split: &'a Split<'a>) -> Self {
        Self::resume(split, PausedList::default())
    }

    /// Goes on with a list, with the same `split`.
    pub fn resume(split: &'a Split<'a>, list: PausedList<T>) -> Self {
        Self { split, bottom: list.bottom, upper: list.upper }
    }

    /// Puts the list to rest.
    pub fn pause(self) -> PausedList<T> {
        PausedList { bottom: self.bottom, upper: self.upper }
    }

    /// Appends an element. An element that breaks a rule, order too, fails this call or a later one.
    pub fn push<E: From<BranchError>>(
        &mut self,
        element: T,
        put: &mut dyn FnMut(EncodedBranch) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        if self.bottom.is_full_for(&element) {
            self.flush_bottom(put)?;
        }
        if self.bottom.add(element, self.split) {
            self.flush_bottom(put)?;
        }
        Ok(())
    }

    /// Hands over the nodes that are left and returns the root, which is one empty node for an empty list.
    pub fn finish<E: From<BranchError>>(
        mut self,
        put: &mut dyn FnMut(EncodedBranch) -> Result<ChunkId, E>,
    ) -> Result<ChunkId, E> {
        if self.upper.is_empty() {
            return put(T::encode(&self.bottom.elements)?);
        }
        self.flush_bottom(put)?;
        let mut at = 0;
        while at + 1 < self.upper.len() {
            self.flush_upper(at, put)?;
            at += 1;
        }
        let top = self.upper.pop().map(|top| top.elements).unwrap_or_default();
        match top.as_slice() {
            [only] => Ok(T::node(only)),
            children => put(T::Child::encode(children)?),
        }
    }

    fn flush_bottom<E: From<BranchError>>(&mut self, put: &mut Put<'_, E>) -> Result<(), E> {
        match self.bottom.flush(put)? {
            Some(child) => self.push_upper(0, child, put),
            None => Ok(()),
        }
    }

    fn flush_upper<E: From<BranchError>>(&mut self, at: usize, put: &mut Put<'_, E>) -> Result<(), E> {
        match self.upper[at].flush(put)? {
            Some(child) => self.push_upper(at + 1, child, put),
            None => Ok(()),
        }
    }

    fn push_upper<E: From<BranchError>>(&mut self, at: usize, child: T::Child, put: &mut Put<'_, E>) -> Result<(), E> {
        if at == LIST_DEPTH_MAX {
            return Err(BranchError::Depth.into());
        }
        if at == self.upper.len() {
            self.upper.push(Level::EMPTY);
        }
        if self.upper[at].is_full_for(&child) {
            self.flush_upper(at, put)?;
        }
        if self.upper[at].add(child, self.split) {
            self.flush_upper(at, put)?;
        }
        Ok(())
    }
}

/// Makes a whole directory of sorted entries and returns its root.
pub fn write_directory<E: From<BranchError>>(
    entries: Vec<Entry>,
    split: &Split<'_>,
    put: &mut dyn FnMut(EncodedBranch) -> Result<ChunkId, E>,
) -> Result<ChunkId, E> {
    let mut writer = DirectoryWriter::new(split);
    entries.into_iter().try_for_each(|entry| writer.push(entry, put))?;
    writer.finish(put)
}
