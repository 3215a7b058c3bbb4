//! Snapshots as people see them: which files and folders are damaged. Every folder is read once, however many
//! snapshots hold it; those with damage below are walked again to name their paths.

use super::findings::Findings;
use super::index::cancelled;
use super::packs::Trust;
use super::records::Ref;
use super::{CheckError, DamagedFile, Result};
use crate::branch;
use crate::branch::entry::{Content, What};
use crate::id::ChunkId;
use crate::progress::Progress;
use crate::query::{self, QueryError, RootWhat, Step, TreeRoot, WalkEntry};
use crate::vault::{ChunkReader, ReadError, Vault};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Stretches of one file told one by one; more become one long one.
const RANGES_MAX: usize = 1000;

/// Leaves looked up at a time.
const LEAVES_AT_ONCE: usize = 1024;

/// Walks every snapshot.
pub(super) fn check(
    vault: &Vault,
    refs: &[Ref],
    trust: &Trust,
    findings: &mut Findings,
    progress: &Progress,
) -> Result<()> {
    let reader = vault.reader()?;
    let mut trees = Trees { vault, reader: &reader, trust, progress, below: HashMap::new(), whole: HashSet::new() };
    for one in refs {
        cancelled(progress)?;
        let before = findings.extent();
        trees.snapshot(one, findings)?;
        // Purged since the records were read, it may be gone, and that is no damage.
        if findings.extent() != before && is_purged(vault, &one.target)? {
            findings.forget_since(before);
        }
    }
    Ok(())
}

fn is_purged(vault: &Vault, snapshot: &ChunkId) -> Result<bool> {
    Ok(!vault.history()?.roots().any(|entry| entry.reference.target == *snapshot))
}

struct Trees<'a> {
    vault: &'a Vault,
    reader: &'a ChunkReader,
    trust: &'a Trust,
    progress: &'a Progress,
    /// Folders seen, with how many damaged files and folders are in them and below.
    below: HashMap<ChunkId, u64>,
    /// Long files seen and found whole.
    whole: HashSet<ChunkId>,
}

/// A folder being walked.
struct Open {
    tree: ChunkId,
    damaged: u64,
    /// The index vouches that every leaf in it is there.
    is_vouched: bool,
}

impl Trees<'_> {
    fn snapshot(&mut self, one: &Ref, findings: &mut Findings) -> Result<()> {
        findings.report.snapshots += 1;
        let snapshot = match branch::snapshot(self.reader, &one.target) {
            Ok(snapshot) => snapshot,
            Err(error) if error.is_damage() => {
                findings.fault(one.record.clone(), format!("its snapshot {} cannot be read: {error}", one.target));
                findings.damaged(DamagedFile { snapshot: one.target, path: b"/".to_vec(), ranges: Vec::new() });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let root = TreeRoot { snapshot: one.target, path: b"/".to_vec(), what: RootWhat::Directory(snapshot.tree) };
        let reader = self.reader;
        let walk = RefCell::new(Walk { trees: self, findings, snapshot: one.target, open: Vec::new(), failed: None });
        let step = walk.borrow_mut().enter(snapshot.tree);
        let outcome = match step {
            Step::Continue => {
                query::walk_with(reader, &root, &mut |entry| walk.borrow_mut().visit(entry), &mut |damage| {
                    walk.borrow_mut().unlisted(damage)
                })
            }
            Step::SkipChildren | Step::Stop => Ok(()),
        };
        let mut walk = walk.into_inner();
        match outcome {
            Ok(()) => {}
            Err(QueryError::TooDeep { path }) => walk.damaged(&path, Vec::new()),
            Err(error) => return Err(query_error(error)),
        }
        walk.finish()
    }

    /// The stretches of a file that are lost.
    fn lost(&mut self, content: &Content, is_vouched: bool) -> std::result::Result<Vec<Range<u64>>, ReadError> {
        match content {
            Content::Inline(_) => return Ok(Vec::new()),
            Content::Tree { root, .. } if self.whole.contains(root) => return Ok(Vec::new()),
            Content::One { .. } | Content::Pieces(_) if is_vouched => return Ok(Vec::new()),
            Content::One { .. } | Content::Pieces(_) | Content::Tree { .. } => {}
        }
        let mut lost = Vec::new();
        let mut batch = Vec::new();
        let mut at = 0;
        let pieces = match query::pieces_from(self.reader, content, 0) {
            Err(error) if error.is_damage() => {
                add(&mut lost, 0..content.len());
                return Ok(lost);
            }
            pieces => pieces?,
        };
        for piece in pieces {
            match piece {
                Ok((offset, piece)) => {
                    at = offset + piece.len;
                    batch.extend(piece.chunk.filter(|_| !is_vouched).map(|chunk| (chunk, offset..at)));
                }
                Err(error) if error.is_damage() => {
                    self.absent(&mut batch, &mut lost)?;
                    add(&mut lost, at..content.len());
                    return Ok(lost);
                }
                Err(error) => return Err(error),
            }
            if batch.len() >= LEAVES_AT_ONCE {
                self.absent(&mut batch, &mut lost)?;
            }
        }
        self.absent(&mut batch, &mut lost)?;
        if let (Content::Tree { root, .. }, true) = (content, lost.is_empty()) {
            self.whole.insert(*root);
        }
        Ok(lost)
    }

    /// Adds the stretches of those leaves that have no place, or only a bad one.
    fn absent(
        &self,
        batch: &mut Vec<(ChunkId, Range<u64>)>,
        lost: &mut Vec<Range<u64>>,
    ) -> std::result::Result<(), ReadError> {
        let ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
        let places = self.vault.store().places(&ids)?;
        for ((_, range), place) in batch.drain(..).zip(places) {
            if place.is_none_or(|place| !place.is_believed || self.trust.bad.contains(&place.number)) {
                add(lost, range);
            }
        }
        Ok(())
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

/// The walk of one snapshot.
struct Walk<'w, 'a> {
    trees: &'w mut Trees<'a>,
    findings: &'w mut Findings,
    snapshot: ChunkId,
    /// Folders from the root to where the walk is.
    open: Vec<Open>,
    failed: Option<CheckError>,
}

impl Walk<'_, '_> {
    fn visit(&mut self, found: &WalkEntry<'_>) -> Step {
        match self.step(found) {
            Ok(step) => step,
            Err(error) => {
                self.failed = Some(error);
                Step::Stop
            }
        }
    }

    fn step(&mut self, found: &WalkEntry<'_>) -> Result<Step> {
        cancelled(self.trees.progress)?;
        self.leave_to(found.depth + 1);
        match &found.entry.what {
            What::Directory(tree) => Ok(self.enter(*tree)),
            What::File(content) => {
                let is_vouched = self.open.last().is_some_and(|open| open.is_vouched);
                let lost = self.trees.lost(content, is_vouched)?;
                if !lost.is_empty() {
                    self.damaged(found.path, lost);
                }
                Ok(Step::Continue)
            }
            What::Symlink(_) | What::CharDevice { .. } | What::BlockDevice { .. } | What::Fifo | What::Socket => {
                Ok(Step::Continue)
            }
        }
    }

    /// Goes into a folder, unless everything about it is known.
    fn enter(&mut self, tree: ChunkId) -> Step {
        match self.trees.below.get(&tree) {
            Some(0) => return Step::SkipChildren,
            Some(&damaged) if self.findings.is_list_full() => {
                self.findings.report.damaged_more += damaged;
                if let Some(above) = self.open.last_mut() {
                    above.damaged += damaged;
                }
                return Step::SkipChildren;
            }
            _ => {}
        }
        let known = self.trees.vault.store().known(std::slice::from_ref(&tree));
        match known {
            Ok(known) => {
                let is_vouched = self.trees.trust.is_closed && known.first() == Some(&true);
                self.open.push(Open { tree, damaged: 0, is_vouched });
                Step::Continue
            }
            Err(error) => {
                self.failed = Some(error.into());
                Step::Stop
            }
        }
    }

    /// Folders deeper than `depth` are done.
    fn leave_to(&mut self, depth: usize) {
        while self.open.len() > depth {
            let Some(done) = self.open.pop() else { return };
            self.trees.below.insert(done.tree, done.damaged);
            if let Some(above) = self.open.last_mut() {
                above.damaged += done.damaged;
            }
        }
    }

    fn unlisted(&mut self, damage: &query::Damage<'_>) -> bool {
        self.leave_to(damage.depth + 1);
        self.damaged(damage.path, Vec::new());
        true
    }

    fn damaged(&mut self, path: &[u8], ranges: Vec<Range<u64>>) {
        if let Some(open) = self.open.last_mut() {
            open.damaged += 1;
        }
        self.findings.damaged(DamagedFile { snapshot: self.snapshot, path: path.to_vec(), ranges });
    }

    fn finish(mut self) -> Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => {
                self.leave_to(0);
                Ok(())
            }
        }
    }
}

/// What a walk may fail with beside damage.
fn query_error(error: QueryError) -> CheckError {
    match error {
        QueryError::Read(error) => error.into(),
        QueryError::Directory { source, .. } | QueryError::Content { source, .. } => (*source).into(),
        QueryError::Store(error) => error.into(),
        QueryError::Cancelled => CheckError::Cancelled,
        QueryError::Write(_)
        | QueryError::NotFound { .. }
        | QueryError::NotDirectory { .. }
        | QueryError::TooMany { .. }
        | QueryError::TooDeep { .. } => CheckError::Read(branch::BranchError::Depth.into()),
    }
}
