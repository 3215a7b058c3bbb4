//! Reads the trees that lists are, node by node. Whatever a node holds must be exactly what its parent says of it, so
//! a tree cannot repeat a name or run in a circle; what is in memory is one node a level.

use std::vec::IntoIter;

use super::entry::{Entry, Piece};
use super::list::{Bottom, Element, Opened};
use super::{BranchError, Node, Snapshot, decode};
use crate::id::ChunkId;
use crate::limits::LIST_DEPTH_MAX;

/// Where branches come from: a vault, or a closure `Fn(&ChunkId) -> Result<(refs, payload), E>`.
pub trait Branches {
    /// Why a branch cannot be had, or is not what it should be.
    type Error: From<BranchError>;
    /// References and payload of a branch, verified against its id.
    fn branch(&self, id: &ChunkId) -> Result<(Vec<ChunkId>, Vec<u8>), Self::Error>;
}

impl<F, E> Branches for F
where
    F: Fn(&ChunkId) -> Result<(Vec<ChunkId>, Vec<u8>), E>,
    E: From<BranchError>,
{
    type Error = E;

    fn branch(&self, id: &ChunkId) -> Result<(Vec<ChunkId>, Vec<u8>), E> {
        self(id)
    }
}

/// Reads and decodes one branch; what is wrong with its bytes is told with its id.
pub fn node<B: Branches + ?Sized>(branches: &B, id: &ChunkId) -> Result<Node, B::Error> {
    let (refs, payload) = branches.branch(id)?;
    Ok(decode(&refs, &payload).map_err(|source| inside(id, source))?)
}

/// Reads the root of a snapshot.
pub fn snapshot<B: Branches + ?Sized>(branches: &B, id: &ChunkId) -> Result<Snapshot, B::Error> {
    match node(branches, id)? {
        Node::Snapshot(snapshot) => Ok(*snapshot),
        other => Err(wrong_kind(id, "snapshot", other.kind()).into()),
    }
}

fn inside(id: &ChunkId, source: BranchError) -> BranchError {
    BranchError::In { id: *id, source: Box::new(source) }
}

fn wrong_kind(id: &ChunkId, expected: &'static str, found: &'static str) -> BranchError {
    inside(id, BranchError::Kind { expected, found })
}

fn open<B: Branches + ?Sized, T: Bottom>(branches: &B, id: &ChunkId) -> Result<Opened<T>, B::Error> {
    T::open(node(branches, id)?).map_err(|found| wrong_kind(id, T::KIND, found).into())
}

/// Opens a node below the root and holds it against what its parent says.
fn open_child<B: Branches + ?Sized, T: Bottom>(branches: &B, child: &T::Child) -> Result<Opened<T>, B::Error> {
    let id = T::node(child);
    let opened = open::<B, T>(branches, &id)?;
    let found = match &opened {
        Opened::Elements(elements) => T::summary(elements, id),
        Opened::Inner(children) => T::Child::summary(children, id),
    };
    if found.as_ref() == Some(child) { Ok(opened) } else { Err(inside(&id, BranchError::Promise).into()) }
}

/// All elements of a list in order.
struct ListReader<'a, B: ?Sized, T: Bottom> {
    branches: &'a B,
    elements: IntoIter<T>,
    // Nodes not yet opened, of each level from the root down.
    stack: Vec<IntoIter<T::Child>>,
}

impl<'a, B: Branches + ?Sized, T: Bottom> ListReader<'a, B, T> {
    fn new(branches: &'a B, root: Opened<T>) -> Self {
        let mut reader = Self { branches, elements: Vec::new().into_iter(), stack: Vec::new() };
        reader.enter(root);
        reader
    }

    fn enter(&mut self, opened: Opened<T>) {
        match opened {
            Opened::Elements(elements) => self.elements = elements.into_iter(),
            Opened::Inner(children) => self.stack.push(children.into_iter()),
        }
    }

    fn descend(&mut self, child: &T::Child) -> Result<(), B::Error> {
        if self.stack.len() > LIST_DEPTH_MAX {
            return Err(inside(&T::node(child), BranchError::Depth).into());
        }
        let opened = open_child::<B, T>(self.branches, child)?;
        self.enter(opened);
        Ok(())
    }

    fn next(&mut self) -> Result<Option<T>, B::Error> {
        loop {
            if let Some(element) = self.elements.next() {
                return Ok(Some(element));
            }
            let Some(level) = self.stack.last_mut() else { return Ok(None) };
            match level.next() {
                Some(child) => self.descend(&child)?,
                None => drop(self.stack.pop()),
            }
        }
    }

    /// The next element for an iterator, which is at its end after an error.
    fn next_or_end(&mut self) -> Option<Result<T, B::Error>> {
        let next = self.next().transpose();
        if let Some(Err(_)) = next {
            self.elements = Vec::new().into_iter();
            self.stack.clear();
        }
        next
    }
}

/// Iterates over all entries of a directory, ascending by name; nothing comes after an error.
pub struct DirectoryReader<'a, B: ?Sized>(ListReader<'a, B, Entry>);

impl<'a, B: Branches + ?Sized> DirectoryReader<'a, B> {
    /// Opens the root of a directory.
    pub fn new(branches: &'a B, root: &ChunkId) -> Result<Self, B::Error> {
        Ok(Self(ListReader::new(branches, open(branches, root)?)))
    }
}

impl<B: Branches + ?Sized> Iterator for DirectoryReader<'_, B> {
    type Item = Result<Entry, B::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_or_end()
    }
}

/// Looks for one name in the directory at `root`; reads one node a level.
pub fn find<B: Branches + ?Sized>(branches: &B, root: &ChunkId, name: &[u8]) -> Result<Option<Entry>, B::Error> {
    let mut opened = open::<B, Entry>(branches, root)?;
    for _ in 0..=LIST_DEPTH_MAX {
        let children = match opened {
            Opened::Elements(mut entries) => {
                let at = entries.binary_search_by(|entry| (*entry.name).cmp(name));
                return Ok(at.ok().map(|at| entries.swap_remove(at)));
            }
            Opened::Inner(children) => children,
        };
        let at = children.partition_point(|child| *child.last_name < *name);
        let Some(child) = children.get(at).filter(|child| *child.first_name <= *name) else { return Ok(None) };
        opened = open_child::<B, Entry>(branches, child)?;
    }
    Err(inside(root, BranchError::Depth).into())
}

/// Iterates over the pieces of a file with the offset of each; nothing comes after an error.
pub struct FileReader<'a, B: ?Sized> {
    list: ListReader<'a, B, Piece>,
    offset: u64,
}

impl<'a, B: Branches + ?Sized> FileReader<'a, B> {
    /// Opens the root of a file that is `len` bytes long, as its directory entry says.
    pub fn new(branches: &'a B, root: &ChunkId, len: u64) -> Result<Self, B::Error> {
        let opened = open::<B, Piece>(branches, root)?;
        let found = match &opened {
            Opened::Elements(pieces) => Piece::summary(pieces, *root),
            Opened::Inner(children) => <Piece as Element>::Child::summary(children, *root),
        };
        if found.map_or(0, |found| found.len) != len {
            return Err(inside(root, BranchError::Promise).into());
        }
        Ok(Self { list: ListReader::new(branches, opened), offset: 0 })
    }

    /// As [`Self::new`], but begins at the piece that holds the byte at `offset`; at the end for one past the file.
    /// Reads one node a level to get there.
    pub fn pieces_from(branches: &'a B, root: &ChunkId, len: u64, offset: u64) -> Result<Self, B::Error> {
        let mut reader = Self::new(branches, root, len)?;
        let at = &mut reader.offset;
        // All lengths were checked: no sum passes FILE_LEN_MAX.
        while let Some(level) = reader.list.stack.last_mut() {
            while let Some(child) = level.as_slice().first().filter(|child| *at + child.len <= offset) {
                *at += child.len;
                level.next();
            }
            let Some(child) = level.next() else { break };
            reader.list.descend(&child)?;
            if !reader.list.elements.as_slice().is_empty() {
                break;
            }
        }
        let pieces = &mut reader.list.elements;
        while let Some(piece) = pieces.as_slice().first().filter(|piece| *at + piece.len <= offset) {
            *at += piece.len;
            pieces.next();
        }
        Ok(reader)
    }
}

impl<B: Branches + ?Sized> Iterator for FileReader<'_, B> {
    type Item = Result<(u64, Piece), B::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.offset;
        let next = self.list.next_or_end()?;
        Some(next.map(|piece| {
            self.offset += piece.len;
            (offset, piece)
        }))
    }
}
