//! Checkpoints: what is done so far becomes a partial snapshot, so that an interrupted backup goes on where it was.
//!
//! One worker draws up the tree as far as it is done and asks the others to put what they hold; the last one to do so
//! settles and publishes. Nobody waits. A partial snapshot is never the latest one, and is superseded by the final one.

use super::BackupError;
use super::counts::Counts;
use super::outcome::Slot;
use super::run::{Shared, Worker};
use super::tree::DirJob;
use crate::branch;
use crate::branch::entry::{Entry, What};
use crate::id::ChunkId;
use crate::limits::{CHECKPOINT_LEN, CHECKPOINT_SECS};
use crate::record::RefKind;
use crate::store::StoreError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Unfinished folders nested deeper than this are left out of a partial snapshot.
const DEPTH_MAX: usize = 256;

/// Where a run is with its checkpoints.
pub(super) struct Checkpoints {
    last: Mutex<(Duration, u64)>,
    /// Counts requests; a worker compares it with the last one it has answered.
    wanted: AtomicU64,
    /// Workers that still have to put what they hold for the present request.
    missing: AtomicUsize,
    /// Root of the tree that was drawn up for it.
    tree: Mutex<Option<ChunkId>>,
}

impl Checkpoints {
    pub fn new(now: Duration) -> Self {
        Self {
            last: Mutex::new((now, 0)),
            wanted: AtomicU64::new(0),
            missing: AtomicUsize::new(0),
            tree: Mutex::default(),
        }
    }

    fn is_due(&self, now: Duration, bytes: u64) -> bool {
        // Somebody else is at it.
        let Ok(mut last) = self.last.try_lock() else { return false };
        let due = now.saturating_sub(last.0) >= Duration::from_secs(CHECKPOINT_SECS)
            || bytes.saturating_sub(last.1) >= CHECKPOINT_LEN;
        if due && self.missing.load(Ordering::Acquire) == 0 {
            *last = (now, bytes);
            return true;
        }
        false
    }

    pub fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Acquire)
    }
}

impl Worker<'_> {
    /// Called between two pieces of work: begins a checkpoint that is due, and answers one that was begun.
    pub fn checkpoint(&mut self) -> Result<(), BackupError> {
        let shared = self.shared;
        let checkpoints = &shared.checkpoints;
        if shared.top.get().is_some() && !shared.options.dry_run {
            let now = shared.vault.env().clock.elapsed();
            if checkpoints.is_due(now, Counts::get(&shared.counts.bytes)) {
                self.begin_checkpoint()?;
            }
        }
        let wanted = checkpoints.wanted();
        if wanted == self.checkpoints_answered {
            return Ok(());
        }
        self.checkpoints_answered = wanted;
        self.put_gathered()?;
        self.writer.flush()?;
        match checkpoints.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            true => self.publish_partial(),
            false => Ok(()),
        }
    }

    fn begin_checkpoint(&mut self) -> Result<(), BackupError> {
        let Some(top) = self.shared.top.get().cloned() else { return Ok(()) };
        self.put_gathered()?;
        let tree = self.partial_tree(&top, 0)?;
        let checkpoints = &self.shared.checkpoints;
        *checkpoints.tree.lock().unwrap_or_else(PoisonError::into_inner) = tree;
        checkpoints.missing.store(self.shared.workers, Ordering::Release);
        checkpoints.wanted.fetch_add(1, Ordering::AcqRel);
        self.shared.pool.wake();
        Ok(())
    }

    /// The folder as far as it is done; none if that cannot be told, or its old listing cannot be read.
    fn partial_tree(&mut self, job: &Arc<DirJob>, depth: usize) -> Result<Option<ChunkId>, BackupError> {
        // A folder that is just being listed or made into a branch: it would look empty.
        let Some(mut done) = job.done_so_far() else { return Ok(None) };
        for (at, below) in job.unfinished() {
            if depth >= DEPTH_MAX || !matches!(done.slots.get(at), Some(Slot::Pending)) {
                continue;
            }
            let Some(tree) = self.partial_tree(&below, depth + 1)? else { continue };
            let xattrs = below.dir.open().and_then(|handle| handle.xattrs_self());
            let meta = self.metadata(&below.stat, xattrs, || below.dir.path());
            let entry = Entry { name: job.name(at), meta, what: What::Directory(tree) };
            done.slots[at] = Slot::New(Box::new(entry), crate::cache::CachedStat::NEVER);
        }
        self.write_tree(job, done)
    }

    fn publish_partial(&mut self) -> Result<(), BackupError> {
        let shared = self.shared;
        let tree = shared.checkpoints.tree.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(tree) = tree else { return Ok(()) };
        let snapshot = shared.run.snapshot(shared.session, shared.parent, tree, true);
        let root = self.writer.branch(&branch::encode_snapshot(&snapshot)?)?;
        self.writer.flush()?;
        match shared.session.settle(root) {
            Ok(settled) => {
                shared.vault.publish(shared.session, settled, RefKind::PartialSnapshot, snapshot.started)?;
                Ok(())
            }
            // Something of it is put only now: the next checkpoint will have it.
            Err(StoreError::Missing(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Shared<'_> {
    /// Whether a worker that answered `answered` checkpoints has another to answer.
    pub fn checkpoint_wanted(&self, answered: u64) -> bool {
        self.checkpoints.wanted() != answered
    }
}
