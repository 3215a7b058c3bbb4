//! What changed from one tree to another: both are walked in step, and equal subtrees are not looked into.

use super::tree::{Levels, directory};
use super::{QueryError, Result, RootWhat, TreeRoot};
use crate::branch::entry::{Entry, Metadata, What};
use crate::id::ChunkId;
use crate::limits::TREE_DEPTH_MAX;
use crate::vault::Vault;
use std::cmp::Ordering;

/// What happened to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// It is only in the second tree.
    Added,
    /// It is only in the first tree.
    Removed,
    /// A file has other bytes, a link leads elsewhere, a device is another one.
    Content,
    /// Mode, owner, time of change or attributes differ, nothing else.
    Metadata,
    /// It is of another kind.
    Type,
}

/// One difference.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Path in the second tree; of what was removed, the one it would have there.
    pub path: &'a [u8],
    /// What happened.
    pub kind: ChangeKind,
    /// What the first tree has.
    pub old: Option<&'a Entry>,
    /// What the second tree has.
    pub new: Option<&'a Entry>,
}

/// Counts of all differences.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiffStats {
    /// Paths only in the second tree.
    pub added: u64,
    /// Paths only in the first tree.
    pub removed: u64,
    /// Other content.
    pub content: u64,
    /// Only other metadata.
    pub metadata: u64,
    /// Another kind.
    pub kind: u64,
    /// Bytes of the files in the second tree that are new or have other content.
    pub bytes_added: u64,
    /// Bytes of the files in the first tree that are gone or have other content.
    pub bytes_removed: u64,
}

/// Calls `visit` for every path that differs, folders before what is in them, names in byte order.
///
/// # Errors
/// [`QueryError::Directory`] names a folder of either tree that cannot be read, and ends the comparison.
pub fn diff(vault: &Vault, a: &TreeRoot, b: &TreeRoot, visit: &mut dyn FnMut(&Change<'_>)) -> Result<DiffStats> {
    // Each side reads on its own, so that neither pushes the other's frames out.
    let (reader_a, reader_b) = (vault.reader()?, vault.reader()?);
    let sides = [Side::new(&reader_a), Side::new(&reader_b)];
    let mut diff = Diff { sides, stack: Vec::new(), path: Vec::new(), visit, stats: DiffStats::default() };
    diff.path = if b.path == b"/" { Vec::new() } else { b.path.clone() };
    diff.roots(a, b)?;
    diff.run()?;
    Ok(diff.stats)
}

/// The folders of one tree from the root to where the comparison is, and the entry to be looked at next.
struct Side<'r> {
    levels: Levels<'r>,
    /// For each folder, an entry read and not yet used.
    ahead: Vec<Option<Entry>>,
}

impl<'r> Side<'r> {
    fn new(reader: &'r crate::vault::ChunkReader) -> Self {
        Self { levels: Levels::new(reader), ahead: Vec::new() }
    }

    fn enter(&mut self, tree: ChunkId) {
        self.levels.enter(tree, 0);
        self.ahead.push(None);
    }

    fn leave(&mut self) {
        self.levels.leave(&mut Vec::new());
        self.ahead.pop();
    }

    fn fill(&mut self, path: &[u8]) -> Result<()> {
        if let Some(ahead @ None) = self.ahead.last_mut() {
            *ahead = self.levels.next().map_err(|source| directory(path, source))?;
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Entry> {
        self.ahead.last_mut().and_then(Option::take)
    }

    fn name(&self) -> Option<&[u8]> {
        self.ahead.last()?.as_ref().map(|entry| &*entry.name)
    }
}

/// A pair of folders being compared; one of them may be missing.
struct Pair {
    has: [bool; 2],
    above_len: usize,
}

struct Diff<'r, 'v> {
    sides: [Side<'r>; 2],
    stack: Vec<Pair>,
    path: Vec<u8>,
    visit: &'v mut dyn FnMut(&Change<'_>),
    stats: DiffStats,
}

impl Diff<'_, '_> {
    fn roots(&mut self, a: &TreeRoot, b: &TreeRoot) -> Result<()> {
        match (&a.what, &b.what) {
            (RootWhat::Directory(a), RootWhat::Directory(b)) if a == b => Ok(()),
            (RootWhat::Directory(a), RootWhat::Directory(b)) => self.enter([Some(*a), Some(*b)], 0),
            (RootWhat::Entry(a), RootWhat::Entry(b)) => {
                self.compare(a, b);
                Ok(())
            }
            (RootWhat::Directory(_), RootWhat::Entry(_)) => Err(QueryError::NotDirectory { path: b.path.clone() }),
            (RootWhat::Entry(_), RootWhat::Directory(_)) => Err(QueryError::NotDirectory { path: a.path.clone() }),
        }
    }

    fn run(&mut self) -> Result<()> {
        while let Some(pair) = self.stack.last() {
            let [has_a, has_b] = pair.has;
            if has_a {
                self.sides[0].fill(&self.path)?;
            }
            if has_b {
                self.sides[1].fill(&self.path)?;
            }
            let names = [has_a.then(|| self.sides[0].name()).flatten(), has_b.then(|| self.sides[1].name()).flatten()];
            let (take_a, take_b) = match names {
                [None, None] => {
                    self.leave();
                    continue;
                }
                [Some(_), None] => (true, false),
                [None, Some(_)] => (false, true),
                [Some(a), Some(b)] => match a.cmp(b) {
                    Ordering::Less => (true, false),
                    Ordering::Equal => (true, true),
                    Ordering::Greater => (false, true),
                },
            };
            let a = if take_a { self.sides[0].take() } else { None };
            let b = if take_b { self.sides[1].take() } else { None };
            self.entry(a, b)?;
        }
        Ok(())
    }

    fn entry(&mut self, a: Option<Entry>, b: Option<Entry>) -> Result<()> {
        let Some(name) = b.as_ref().or(a.as_ref()).map(|entry| &entry.name) else { return Ok(()) };
        let above_len = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(name);
        match (&a, &b) {
            (Some(a), Some(b)) => self.compare(a, b),
            (a, b) => {
                let kind = if b.is_some() { ChangeKind::Added } else { ChangeKind::Removed };
                self.tell(kind, a.as_ref(), b.as_ref());
            }
        }
        let trees = [a, b].map(|entry| match entry.map(|entry| entry.what) {
            Some(What::Directory(tree)) => Some(tree),
            _ => None,
        });
        match trees {
            [Some(a), Some(b)] if a == b => self.path.truncate(above_len),
            [None, None] => self.path.truncate(above_len),
            trees => self.enter(trees, above_len)?,
        }
        Ok(())
    }

    fn enter(&mut self, trees: [Option<ChunkId>; 2], above_len: usize) -> Result<()> {
        if self.stack.len() > TREE_DEPTH_MAX {
            return Err(QueryError::TooDeep { path: std::mem::take(&mut self.path) });
        }
        for (side, tree) in self.sides.iter_mut().zip(trees) {
            if let Some(tree) = tree {
                side.enter(tree);
            }
        }
        self.stack.push(Pair { has: trees.map(|tree| tree.is_some()), above_len });
        Ok(())
    }

    fn leave(&mut self) {
        let Some(pair) = self.stack.pop() else { return };
        for (side, has) in self.sides.iter_mut().zip(pair.has) {
            if has {
                side.leave();
            }
        }
        self.path.truncate(pair.above_len);
    }

    /// Two entries of one name.
    fn compare(&mut self, a: &Entry, b: &Entry) {
        if let Some(kind) = change(a, b) {
            self.tell(kind, Some(a), Some(b));
        }
    }

    fn tell(&mut self, kind: ChangeKind, old: Option<&Entry>, new: Option<&Entry>) {
        let stats = &mut self.stats;
        let counter = match kind {
            ChangeKind::Added => &mut stats.added,
            ChangeKind::Removed => &mut stats.removed,
            ChangeKind::Content => &mut stats.content,
            ChangeKind::Metadata => &mut stats.metadata,
            ChangeKind::Type => &mut stats.kind,
        };
        *counter += 1;
        if kind != ChangeKind::Metadata {
            stats.bytes_added = stats.bytes_added.saturating_add(file_len(new));
            stats.bytes_removed = stats.bytes_removed.saturating_add(file_len(old));
        }
        (self.visit)(&Change { path: &self.path, kind, old, new });
    }
}

/// What differs between two entries of one name; what stands in a folder is not part of it.
pub(super) fn change(a: &Entry, b: &Entry) -> Option<ChangeKind> {
    if std::mem::discriminant(&a.what) != std::mem::discriminant(&b.what) {
        Some(ChangeKind::Type)
    } else if !same_content(&a.what, &b.what) {
        Some(ChangeKind::Content)
    } else if !same_metadata(&a.meta, &b.meta) {
        Some(ChangeKind::Metadata)
    } else {
        None
    }
}

fn file_len(entry: Option<&Entry>) -> u64 {
    match entry.map(|entry| &entry.what) {
        Some(What::File(content)) => content.len(),
        _ => 0,
    }
}

/// What stands in a folder is compared name by name, not here.
fn same_content(a: &What, b: &What) -> bool {
    match (a, b) {
        (What::Directory(_), What::Directory(_)) => true,
        // Equal bytes are cut equally: other pieces are other bytes, or holes that lie elsewhere.
        (a, b) => a == b,
    }
}

/// Read times and inode numbers change without anybody having changed anything.
fn same_metadata(a: &Metadata, b: &Metadata) -> bool {
    (a.mode, &a.user, &a.group, a.mtime, &a.xattrs) == (b.mode, &b.user, &b.group, b.mtime, &b.xattrs)
}
