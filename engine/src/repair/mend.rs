//! Mending a tree: what can be read of it, as a tree that lacks nothing.
//!
//! What always holds: a file that lost bytes never stands under its own name in the new tree; it is there as
//! `<name>.damaged`, with zeros for what is lost. A chunk that can still be read in a place that is not relied on is
//! put again, so that a tree of which nothing is lost comes out as it was, and whole.

use super::writer::Writer;
use super::{Result, cancelled};
use crate::branch::entry::{Content, Entry, Piece, What};
use crate::branch::{self, Branches, DirectoryNode, FileNode, FileWriter, InnerDir, Node};
use crate::check::DamagedFile;
use crate::id::{ChunkId, Kind};
use crate::index::ChunkState;
use crate::limits::{LIST_DEPTH_MAX, TREE_DEPTH_MAX};
use crate::progress::Progress;
use crate::vault::{ChunkReader, Vault};
use std::collections::HashSet;
use std::ops::Range;

/// What a damaged file's name ends with.
pub const DAMAGED_SUFFIX: &str = ".damaged";

/// Longest name made up here: what the usual file systems take.
const NAME_LEN: usize = 255;

/// Lost paths that are listed; the rest is counted.
const LISTED_MAX: usize = 10_000;

/// Stretches of one file told one by one; more become one long one.
const RANGES_MAX: usize = 1000;

/// Mends trees one after the other.
pub(super) struct Mender<'a> {
    vault: &'a Vault,
    reader: ChunkReader,
    pub writer: Writer<'a>,
    progress: &'a Progress,
    snapshot: ChunkId,
    /// Folders in which nothing is lost.
    whole: HashSet<ChunkId>,
    pub lost: Vec<DamagedFile>,
    pub lost_more: u64,
}

/// A folder being mended.
struct Level {
    tree: ChunkId,
    /// Its own entry in the folder above; none at the root.
    entry: Option<Entry>,
    entries: std::vec::IntoIter<Entry>,
    out: Vec<Entry>,
    /// Entries of `out` whose names are to be changed.
    damaged: Vec<usize>,
    changed: bool,
    path_len: usize,
}

impl<'a> Mender<'a> {
    pub fn new(vault: &'a Vault, writer: Writer<'a>, progress: &'a Progress) -> Result<Self> {
        let reader = vault.reader()?;
        Ok(Self {
            vault,
            reader,
            writer,
            progress,
            snapshot: ChunkId([0; 32]),
            whole: HashSet::new(),
            lost: Vec::new(),
            lost_more: 0,
        })
    }

    /// How many paths were found damaged so far.
    pub fn lost_count(&self) -> u64 {
        self.lost.len() as u64 + self.lost_more
    }

    /// A branch; `None` when it cannot be read. One that is read from a bad place is put again.
    pub fn node(&mut self, id: &ChunkId) -> Result<Option<Node>> {
        let (refs, payload) = match self.reader.branch(id) {
            Ok(found) => found,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let row = self.vault.local()?.chunk_rows(std::slice::from_ref(id))?.pop().flatten();
        if row.is_some_and(|row| row.state == ChunkState::Suspect) {
            self.writer.put(Kind::Branch, &refs, &payload)?;
        }
        Ok(branch::decode(&refs, &payload).ok())
    }

    fn is_known(&self, id: &ChunkId) -> Result<bool> {
        Ok(self.vault.store().known(std::slice::from_ref(id))?.first() == Some(&true))
    }

    /// Mends the tree of a snapshot; returns the root of the new one, which is the old one if nothing is lost.
    pub fn tree(&mut self, snapshot: ChunkId, root: ChunkId) -> Result<ChunkId> {
        self.snapshot = snapshot;
        let mut path = Vec::new();
        let mut levels = vec![self.enter(root, None, &path, 0)?];
        loop {
            cancelled(self.progress)?;
            let depth = levels.len();
            let Some(level) = levels.last_mut() else { return Ok(root) };
            path.truncate(level.path_len);
            let Some(entry) = level.entries.next() else {
                let Some(done) = levels.pop() else { return Ok(root) };
                let (tree, changed) = self.leave(&done)?;
                let (Some(above), Some(entry)) = (levels.last_mut(), done.entry) else { return Ok(tree) };
                above.changed |= changed;
                above.out.push(Entry { what: What::Directory(tree), ..entry });
                continue;
            };
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            match &entry.what {
                What::Directory(tree) if !self.whole.contains(tree) && !self.is_known(tree)? => {
                    let tree = *tree;
                    if depth > TREE_DEPTH_MAX {
                        level.changed = true;
                        self.tell_lost(&path, Vec::new());
                        continue;
                    }
                    levels.push(self.enter(tree, Some(entry), &path, path.len())?);
                }
                What::File(content) => {
                    let mended = self.content(content)?;
                    match mended {
                        None => level.out.push(entry),
                        Some((content, ranges)) => {
                            level.changed = true;
                            level.damaged.push(level.out.len());
                            level.out.push(Entry { what: What::File(content), ..entry });
                            self.tell_lost(&path, ranges);
                        }
                    }
                }
                _ => level.out.push(entry),
            }
        }
    }

    fn tell_lost(&mut self, path: &[u8], ranges: Vec<Range<u64>>) {
        let path = if path.is_empty() { b"/".to_vec() } else { path.to_vec() };
        match self.lost.len() < LISTED_MAX {
            true => self.lost.push(DamagedFile { snapshot: self.snapshot, path, ranges }),
            false => self.lost_more += 1,
        }
    }

    fn enter(&mut self, tree: ChunkId, entry: Option<Entry>, path: &[u8], path_len: usize) -> Result<Level> {
        let (entries, complete) = self.list(&tree)?;
        if !complete {
            self.tell_lost(path, Vec::new());
        }
        let entries = entries.into_iter();
        Ok(Level { tree, entry, entries, out: Vec::new(), damaged: Vec::new(), changed: !complete, path_len })
    }

    /// The root of a folder all of whose entries were looked at, and whether it differs from what it was.
    fn leave(&mut self, done: &Level) -> Result<(ChunkId, bool)> {
        if !done.changed {
            self.whole.insert(done.tree);
            return Ok((done.tree, false));
        }
        let mut entries = done.out.clone();
        rename(&mut entries, &done.damaged);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let vault = self.vault;
        let split = move |bytes: &[u8]| vault.keys().list_split(bytes);
        let writer = &mut self.writer;
        let root = branch::write_directory::<super::RepairError>(entries, &split, &mut |branch| {
            writer.put(Kind::Branch, &branch.refs, &branch.payload)
        })?;
        Ok((root, true))
    }

    /// All entries of a folder that can be read, ascending, and whether these are all there were.
    fn list(&mut self, tree: &ChunkId) -> Result<(Vec<Entry>, bool)> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut complete = true;
        let mut todo: Vec<(ChunkId, Option<InnerDir>, usize)> = vec![(*tree, None, 0)];
        while let Some((id, promised, depth)) = todo.pop() {
            let Some(Node::Directory(node)) = self.node(&id)? else {
                complete = false;
                continue;
            };
            if promised.is_some_and(|promised| !keeps(&node, &promised)) || depth > LIST_DEPTH_MAX {
                complete = false;
                continue;
            }
            match node {
                DirectoryNode::Entries(list) => entries.extend(list),
                DirectoryNode::Inner(children) => {
                    todo.extend(children.into_iter().rev().map(|child| (child.node, Some(child), depth + 1)));
                }
            }
        }
        Ok((entries, complete))
    }

    /// Content in which zeros stand for what is lost, and what that is; `None` if nothing is.
    fn content(&mut self, content: &Content) -> Result<Option<(Content, Vec<Range<u64>>)>> {
        let mut lost = Vec::new();
        let pieces = match content {
            Content::Inline(_) => return Ok(None),
            Content::Tree { len, root } => return self.long_file(*root, *len),
            Content::One { len, chunk } => vec![Piece { len: *len, chunk: Some(*chunk) }],
            Content::Pieces(pieces) => pieces.clone(),
        };
        let mut at = 0;
        let mended = self.pieces(pieces, &mut at, &mut lost)?;
        Ok((!lost.is_empty()).then_some((Content::Pieces(mended), lost)))
    }

    /// Pieces in which holes stand for leaves that are lost.
    fn pieces(&mut self, mut pieces: Vec<Piece>, at: &mut u64, lost: &mut Vec<Range<u64>>) -> Result<Vec<Piece>> {
        let ids: Vec<ChunkId> = pieces.iter().filter_map(|piece| piece.chunk).collect();
        let mut known = self.vault.store().known(&ids)?.into_iter();
        for piece in &mut pieces {
            if let Some(chunk) = piece.chunk
                && known.next() != Some(true)
                && !self.rescue(&chunk, piece.len)?
            {
                piece.chunk = None;
                add(lost, *at..*at + piece.len);
            }
            *at += piece.len;
        }
        Ok(pieces)
    }

    /// Puts a leaf again that can still be read.
    fn rescue(&mut self, id: &ChunkId, len: u64) -> Result<bool> {
        match self.reader.leaf(id) {
            Ok(bytes) if bytes.len() as u64 == len => {
                self.writer.put(Kind::Leaf, &[], &bytes)?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn long_file(&mut self, root: ChunkId, len: u64) -> Result<Option<(Content, Vec<Range<u64>>)>> {
        if self.whole.contains(&root) || self.is_known(&root)? {
            return Ok(None);
        }
        let vault = self.vault;
        let split = move |bytes: &[u8]| vault.keys().list_split(bytes);
        let mut out = FileWriter::new(&split);
        let mut lost = Vec::new();
        let mut at = 0;
        let mut todo = vec![(root, len, 0)];
        while let Some((id, len, depth)) = todo.pop() {
            cancelled(self.progress)?;
            let node = self.node(&id)?.filter(|node| file_len(node) == Some(len) && depth <= LIST_DEPTH_MAX);
            let pieces = match node {
                Some(Node::File(FileNode::Pieces(pieces))) => self.pieces(pieces, &mut at, &mut lost)?,
                Some(Node::File(FileNode::Inner(children))) => {
                    todo.extend(children.into_iter().rev().map(|child| (child.node, child.len, depth + 1)));
                    continue;
                }
                _ => {
                    add(&mut lost, at..at + len);
                    at += len;
                    vec![Piece { len, chunk: None }]
                }
            };
            let writer = &mut self.writer;
            for piece in pieces {
                out.push::<super::RepairError>(piece, &mut |branch| {
                    writer.put(Kind::Branch, &branch.refs, &branch.payload)
                })?;
            }
        }
        if lost.is_empty() {
            self.whole.insert(root);
            return Ok(None);
        }
        let writer = &mut self.writer;
        let root =
            out.finish::<super::RepairError>(&mut |branch| writer.put(Kind::Branch, &branch.refs, &branch.payload))?;
        Ok(Some((Content::Tree { len, root }, lost)))
    }
}

/// Adds a stretch behind the others, joined to the last one where they touch.
fn add(lost: &mut Vec<Range<u64>>, range: Range<u64>) {
    let full = lost.len() >= RANGES_MAX;
    match lost.last_mut() {
        Some(last) if last.end == range.start || full => last.end = range.end,
        _ => lost.push(range),
    }
}

fn file_len(node: &Node) -> Option<u64> {
    match node {
        Node::File(FileNode::Pieces(pieces)) => pieces.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.len)),
        Node::File(FileNode::Inner(children)) => {
            children.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.len))
        }
        Node::Directory(_) | Node::Snapshot(_) => None,
    }
}

/// Whether a node holds what the one above says of it.
fn keeps(node: &DirectoryNode, promised: &InnerDir) -> bool {
    let (first, last, count) = match node {
        DirectoryNode::Entries(entries) => {
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return false };
            (&first.name, &last.name, Some(entries.len() as u64))
        }
        DirectoryNode::Inner(children) => {
            let (Some(first), Some(last)) = (children.first(), children.last()) else { return false };
            let count = children.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.entries));
            (&first.first_name, &last.last_name, count)
        }
    };
    *first == promised.first_name && *last == promised.last_name && count == Some(promised.entries)
}

/// Gives damaged files names that nothing else in the folder has.
fn rename(entries: &mut [Entry], damaged: &[usize]) {
    if crate::zoo::planted("repair-mends-in-place") {
        return;
    }
    let mut names: HashSet<Box<[u8]>> = entries.iter().map(|entry| entry.name.clone()).collect();
    for &at in damaged {
        let old = entries[at].name.clone();
        let free = (1_u64..).map(|n| damaged_name(&old, n)).find(|name| !names.contains(name));
        entries[at].name = free.unwrap_or(old);
        names.insert(entries[at].name.clone());
    }
}

/// The `n`th name for a damaged file, `n` from 1.
fn damaged_name(name: &[u8], n: u64) -> Box<[u8]> {
    let suffix = if n == 1 { DAMAGED_SUFFIX.to_owned() } else { format!("{DAMAGED_SUFFIX}-{n}") };
    let kept = name.len().min(NAME_LEN - suffix.len());
    [&name[..kept], suffix.as_bytes()].concat().into()
}

#[cfg(test)]
mod names {
    use super::*;
    use crate::branch::entry::Metadata;

    #[test]
    fn names_of_damaged_files_are_free_and_short() {
        let entry = |name: &[u8]| Entry { name: name.into(), meta: Metadata::default(), what: What::Fifo };
        let long = [b'x'; 255];
        let mut entries = vec![entry(b"a"), entry(b"a.damaged"), entry(b"b"), entry(&long)];
        rename(&mut entries, &[0, 2, 3]);
        let names: Vec<&[u8]> = entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!(names[..3], [&b"a.damaged-2"[..], b"a.damaged", b"b.damaged"]);
        assert!(names[3].len() == 255 && names[3].ends_with(b".damaged"));
    }
}
