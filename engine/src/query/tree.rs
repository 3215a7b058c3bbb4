//! Paths and walks. A walk keeps its own stack, so no tree is too deep for it, and it opens a folder's listing again
//! rather than keep one of every level.

use super::{QueryError, Result};
use crate::branch::entry::{Entry, What};
use crate::branch::{DirectoryReader, find};
use crate::id::ChunkId;
use crate::limits::TREE_DEPTH_MAX;
use crate::vault::{ChunkReader, ReadError, SnapshotInfo, Vault};
use std::iter::Peekable;

/// Listings a walk keeps open; those of folders further up are opened again on the way back.
const LISTINGS_OPEN_MAX: usize = 64;

/// A place in a snapshot from which to list, restore or compare.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeRoot {
    /// The snapshot.
    pub snapshot: ChunkId,
    /// Absolute path in it, `/` for all of it; no `.`, no `..`, no doubled or trailing slashes.
    pub path: Vec<u8>,
    /// What is there.
    pub what: RootWhat,
}

/// What stands at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RootWhat {
    /// A folder; root node of its list of entries.
    Directory(ChunkId),
    /// Anything else.
    Entry(Entry),
}

impl TreeRoot {
    /// All of a snapshot.
    pub fn whole(info: &SnapshotInfo) -> Self {
        Self { snapshot: info.id, path: b"/".to_vec(), what: RootWhat::Directory(info.snapshot.tree) }
    }
}

/// Looks for a path in a snapshot. Empty components and `.` mean nothing; `..` is a name like any other, and not there.
///
/// # Errors
/// [`QueryError::NotFound`] names the first component that is missing.
pub fn resolve_path(vault: &Vault, info: &SnapshotInfo, path: &[u8]) -> Result<TreeRoot> {
    let (path, entry) = entry_at(&vault.reader()?, info, path)?;
    let what = match entry {
        None => RootWhat::Directory(info.snapshot.tree),
        Some(Entry { what: What::Directory(tree), .. }) => RootWhat::Directory(tree),
        Some(entry) => RootWhat::Entry(entry),
    };
    Ok(TreeRoot { snapshot: info.id, path, what })
}

/// A path as [`TreeRoot`] has it and the entry there, folder or not; none for the top of the snapshot, which is no entry
/// of anything.
///
/// # Errors
/// Those of [`resolve_path`].
pub fn entry_at(reader: &ChunkReader, info: &SnapshotInfo, path: &[u8]) -> Result<(Vec<u8>, Option<Entry>)> {
    let (mut at, mut found) = (Vec::new(), None);
    let mut folder = Some(info.snapshot.tree);
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        let Some(tree) = folder else { return Err(QueryError::NotDirectory { path: at }) };
        let entry = find(reader, &tree, name).map_err(|source| directory(&at, source))?;
        at.push(b'/');
        at.extend_from_slice(name);
        let Some(entry) = entry else { return Err(QueryError::NotFound { path: at }) };
        folder = match entry.what {
            What::Directory(tree) => Some(tree),
            _ => None,
        };
        found = Some(entry);
    }
    if at.is_empty() {
        at.push(b'/');
    }
    Ok((at, found))
}

pub(super) fn directory(path: &[u8], source: ReadError) -> QueryError {
    let path = if path.is_empty() { b"/".to_vec() } else { path.to_vec() };
    QueryError::Directory { path, source: Box::new(source) }
}

/// Why a folder of a snapshot cannot be listed to its end; `None` if it can.
pub(super) fn listing(reader: &ChunkReader, tree: &ChunkId) -> Option<ReadError> {
    match DirectoryReader::new(reader, tree) {
        Ok(mut entries) => entries.find_map(std::result::Result::err),
        Err(error) => Some(error),
    }
}

/// One name met by a walk.
#[derive(Clone, Copy, Debug)]
pub struct WalkEntry<'a> {
    /// Absolute path in the snapshot.
    pub path: &'a [u8],
    /// What is there.
    pub entry: &'a Entry,
    /// 0 for what stands directly in the root of the walk.
    pub depth: usize,
}

/// A folder whose listing, or the rest of it, cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct Damage<'a> {
    /// Absolute path of the folder in the snapshot.
    pub path: &'a [u8],
    /// Depth that its entries have in this walk.
    pub depth: usize,
    /// What is wrong.
    pub error: &'a ReadError,
}

/// How a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// With the next name, for a folder with what is in it.
    Continue,
    /// Without what is in this folder.
    SkipChildren,
    /// Not at all.
    Stop,
}

/// Visits everything below `root`, depth first, names in byte order; a root that is no folder is visited itself.
///
/// `on_damage` is told of each folder that cannot be listed to its end and answers whether to go on without the rest.
///
/// # Errors
/// What is no damage, such as a store out of reach, ends the walk and names the folder.
pub fn walk(
    vault: &Vault,
    root: &TreeRoot,
    visit: &mut dyn FnMut(&WalkEntry<'_>) -> Step,
    on_damage: &mut dyn FnMut(&Damage<'_>) -> bool,
) -> Result<()> {
    walk_with(&vault.reader()?, root, visit, on_damage)
}

/// As [`walk`], with a reader that the caller goes on using.
pub fn walk_with(
    reader: &ChunkReader,
    root: &TreeRoot,
    visit: &mut dyn FnMut(&WalkEntry<'_>) -> Step,
    on_damage: &mut dyn FnMut(&Damage<'_>) -> bool,
) -> Result<()> {
    let tree = match &root.what {
        RootWhat::Directory(tree) => *tree,
        RootWhat::Entry(entry) => {
            visit(&WalkEntry { path: &root.path, entry, depth: 0 });
            return Ok(());
        }
    };
    let mut path = if root.path == b"/" { Vec::new() } else { root.path.clone() };
    let mut levels = Levels::new(reader);
    levels.enter(tree, path.len());
    while let Some(level) = levels.stack.len().checked_sub(1) {
        let found = match levels.next() {
            Ok(found) => found,
            Err(error) if error.is_damage() => {
                let at: &[u8] = if path.is_empty() { b"/" } else { &path };
                if !on_damage(&Damage { path: at, depth: level, error: &error }) {
                    return Ok(());
                }
                None
            }
            Err(error) => return Err(directory(&path, error)),
        };
        let Some(entry) = found else {
            levels.leave(&mut path);
            continue;
        };
        let folder_len = path.len();
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        let step = visit(&WalkEntry { path: &path, entry: &entry, depth: level });
        match (step, entry.what) {
            (Step::Stop, _) => return Ok(()),
            (Step::Continue, What::Directory(tree)) => {
                if levels.stack.len() > TREE_DEPTH_MAX {
                    return Err(QueryError::TooDeep { path });
                }
                levels.enter(tree, folder_len);
            }
            _ => path.truncate(folder_len),
        }
    }
    Ok(())
}

/// The folders from the root of a walk to where it is.
pub(super) struct Levels<'r> {
    reader: &'r ChunkReader,
    stack: Vec<Level<'r>>,
}

struct Level<'r> {
    tree: ChunkId,
    /// Length of the path of the folder that holds this one.
    above_len: usize,
    listing: Listing<'r>,
}

enum Listing<'r> {
    /// To be opened, and read on after this name.
    Closed {
        after: Option<Box<[u8]>>,
    },
    Open {
        entries: Box<Entries<'r>>,
        last: Option<Box<[u8]>>,
    },
}

/// Entries of a folder, the next one known.
type Entries<'r> = Peekable<DirectoryReader<'r, ChunkReader>>;

impl<'r> Levels<'r> {
    pub fn new(reader: &'r ChunkReader) -> Self {
        Self { reader, stack: Vec::new() }
    }

    /// Goes into a folder; `above_len` is the length of the path of the one that holds it.
    pub fn enter(&mut self, tree: ChunkId, above_len: usize) {
        self.stack.push(Level { tree, above_len, listing: Listing::Closed { after: None } });
        let Some(far) = self.stack.len().checked_sub(LISTINGS_OPEN_MAX) else { return };
        let listing = &mut self.stack[far].listing;
        if let Listing::Open { last, .. } = listing {
            *listing = Listing::Closed { after: last.take() };
        }
    }

    /// Comes out of the deepest folder.
    pub fn leave(&mut self, path: &mut Vec<u8>) {
        if let Some(level) = self.stack.pop() {
            path.truncate(level.above_len);
        }
    }

    /// The next entry of the deepest folder.
    pub fn next(&mut self) -> std::result::Result<Option<Entry>, ReadError> {
        let reader = self.reader;
        let Some(level) = self.stack.last_mut() else { return Ok(None) };
        if let Listing::Closed { after } = &mut level.listing {
            let last = after.take();
            let mut entries = Box::new(DirectoryReader::new(reader, &level.tree)?.peekable());
            while let (Some(last), Some(Ok(entry))) = (&last, entries.peek()) {
                if entry.name > *last {
                    break;
                }
                entries.next();
            }
            level.listing = Listing::Open { entries, last };
        }
        let Listing::Open { entries, last } = &mut level.listing else { return Ok(None) };
        let next = entries.next().transpose()?;
        // Only the name of a folder is ever needed to come back to.
        if let Some(Entry { name, what: What::Directory(_), .. }) = &next {
            *last = Some(name.clone());
        }
        Ok(next)
    }
}
