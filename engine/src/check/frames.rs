//! One frame with keys at hand: it opens, every chunk in it is what its name says, every branch can be understood.

use super::{CheckError, Result};
use crate::branch;
use crate::frame::{FrameError, OpenedFrame, Opener};
use crate::id::{ChunkId, Kind};
use crate::index::{ChunkState, FrameNumber};
use crate::vault::Vault;

/// Opens frames one after the other; one a worker.
pub(super) struct FrameChecker<'a> {
    vault: &'a Vault,
    opener: Opener,
}

/// What is wrong around the branches of a frame that is whole itself.
#[derive(Default)]
pub(super) struct BranchFaults {
    /// Branches whose bytes say nothing a branch can say, with why.
    pub unreadable: Vec<(ChunkId, String)>,
    /// Branches that the index calls whole, with how many chunks they lack.
    pub lacking: Vec<(ChunkId, usize)>,
}

impl<'a> FrameChecker<'a> {
    pub fn new(vault: &'a Vault) -> Result<Self> {
        let opener = Opener::new(vault.data_keys().clone()).map_err(CheckError::Decompression)?;
        Ok(Self { vault, opener })
    }

    /// Opens the frame that is exactly `bytes`, which are overwritten, and compares all chunks with their names.
    pub fn open(&mut self, bytes: &mut [u8], kind: Kind) -> std::result::Result<OpenedFrame, FrameError> {
        let opened = self.opener.open(bytes)?;
        if opened.header.kind != kind {
            return Err(FrameError::Field { field: "kind", found: opened.header.kind as u64 });
        }
        let keys = self.opener.vault_keys();
        opened.header.ids.iter().enumerate().try_for_each(|(at, id)| opened.chunk(keys, at, id).map(drop))?;
        Ok(opened)
    }

    /// Takes back a frame that is done with.
    pub fn recycle(&mut self, done: OpenedFrame) {
        self.opener.recycle(done);
    }

    /// Whether every branch can be decoded, and whether those that count as whole have all they refer to.
    pub fn branches(&self, number: FrameNumber, opened: &OpenedFrame) -> Result<BranchFaults> {
        let header = &opened.header;
        let mut faults = BranchFaults::default();
        let mut here = Vec::new();
        for (at, (id, row)) in header.ids.iter().zip(self.vault.local()?.chunk_rows(&header.ids)?).enumerate() {
            let Some(row) = row.filter(|row| row.frame == number && usize::from(row.position) == at) else { continue };
            if let Err(error) = branch::decode(header.refs(at), opened.bytes(at).unwrap_or_default()) {
                faults.unreadable.push((*id, error.to_string()));
            }
            if row.state == ChunkState::Admitted {
                here.push(at);
            }
        }
        let mut wanted: Vec<ChunkId> =
            here.iter().flat_map(|&at| header.refs(at).iter().chain([&header.ids[at]])).copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        // Asked at once: a collection may condemn a branch together with what is below it.
        let known = self.vault.store().known(&wanted)?;
        let is_known = |id: &ChunkId| wanted.binary_search(id).is_ok_and(|at| known[at]);
        for at in here.into_iter().filter(|&at| is_known(&header.ids[at])) {
            let lacks = header.refs(at).iter().filter(|id| !is_known(id)).count();
            if lacks > 0 {
                faults.lacking.push((header.ids[at], lacks));
            }
        }
        Ok(faults)
    }
}
