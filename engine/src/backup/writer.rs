//! What each worker owns to get chunks into the store: frame builders and a sealer. Nothing in here is shared.

use super::BackupError;
use super::counts::Counts;
use crate::branch::EncodedBranch;
use crate::crypto::{Salts, VaultKeys};
use crate::frame::{FrameBuilder, SealKeys, Sealer};
use crate::id::{ChunkId, Kind};
use crate::progress::Progress;
use crate::store::{Claim, Session};
use std::sync::Arc;

/// Puts chunks of one worker.
pub(super) struct ChunkWriter<'a> {
    session: &'a dyn Session,
    keys: &'a VaultKeys,
    counts: &'a Counts,
    progress: &'a Progress,
    sealer: Sealer,
    leaves: FrameBuilder,
    branches: FrameBuilder,
}

impl<'a> ChunkWriter<'a> {
    pub fn new(
        session: &'a dyn Session,
        keys: &'a VaultKeys,
        seal: SealKeys,
        entropy: Arc<dyn crate::env::Entropy>,
        level: i32,
        counts: &'a Counts,
        progress: &'a Progress,
    ) -> Result<Self, BackupError> {
        Ok(Self {
            session,
            keys,
            counts,
            progress,
            sealer: Sealer::new(seal, Salts::new(entropy), level)?,
            leaves: FrameBuilder::new(Kind::Leaf),
            branches: FrameBuilder::new(Kind::Branch),
        })
    }

    /// Names stretches of `bytes` that follow each other, and puts those that are new.
    pub fn leaves(&mut self, bytes: &[u8], lens: &[usize]) -> Result<Vec<ChunkId>, BackupError> {
        let mut rest = bytes;
        let mut chunks = Vec::with_capacity(lens.len());
        for &len in lens {
            let (chunk, after) = rest.split_at(len);
            chunks.push(chunk);
            rest = after;
        }
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| self.keys.leaf_id(chunk)).collect();
        for ((claim, id), chunk) in self.session.claim(&ids)?.into_iter().zip(&ids).zip(chunks) {
            match claim {
                Claim::Known | Claim::InFlight => Counts::add(&self.counts.chunks_known, 1),
                Claim::Mine => {
                    if !self.leaves.fits(0, chunk.len()) {
                        self.put_leaves()?;
                    }
                    self.leaves.push(*id, &[], chunk);
                    self.count_new(chunk.len());
                }
            }
        }
        Ok(ids)
    }

    /// Names a branch and puts it if it is new.
    pub fn branch(&mut self, branch: &EncodedBranch) -> Result<ChunkId, BackupError> {
        let id = self.keys.branch_id(&branch.refs, &branch.payload);
        let claim = self.session.claim(&[id])?.pop();
        if claim == Some(Claim::Mine) {
            if !self.branches.fits(branch.refs.len(), branch.payload.len()) {
                self.put_branches()?;
            }
            self.branches.push(id, &branch.refs, &branch.payload);
            self.count_new(branch.payload.len());
        }
        Ok(id)
    }

    fn count_new(&self, len: usize) {
        Counts::add(&self.counts.chunks_new, 1);
        Counts::add(&self.counts.bytes_added, len as u64);
    }

    /// Puts everything that waits in this worker's builders.
    pub fn flush(&mut self) -> Result<(), BackupError> {
        self.put_leaves()?;
        self.put_branches()
    }

    fn put_leaves(&mut self) -> Result<(), BackupError> {
        if self.leaves.is_empty() {
            return Ok(());
        }
        let frame = self.sealer.seal(&mut self.leaves);
        Progress::add(&self.progress.bytes_written, frame.bytes.len() as u64);
        Ok(self.session.put(frame)?)
    }

    fn put_branches(&mut self) -> Result<(), BackupError> {
        if self.branches.is_empty() {
            return Ok(());
        }
        // What these branches refer to goes first.
        self.put_leaves()?;
        let frame = self.sealer.seal(&mut self.branches);
        Progress::add(&self.progress.bytes_written, frame.bytes.len() as u64);
        Ok(self.session.put(frame)?)
    }
}
