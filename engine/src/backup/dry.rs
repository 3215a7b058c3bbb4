//! A session that stores nothing: what a dry run writes to.

use crate::frame::SealedFrame;
use crate::id::{ChunkId, SessionId};
use crate::store::{ChainLink, Claim, Result, Session, Settled, StoreError};
use crate::vault::Vault;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Answers like a store that would keep everything.
pub(super) struct DrySession<'a> {
    vault: &'a Vault,
    claimed: Mutex<HashSet<ChunkId>>,
    written: AtomicU64,
}

impl<'a> DrySession<'a> {
    pub fn new(vault: &'a Vault) -> Self {
        Self { vault, claimed: Mutex::default(), written: AtomicU64::new(0) }
    }
}

impl Session for DrySession<'_> {
    fn id(&self) -> SessionId {
        SessionId([0; 16])
    }

    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<Claim>> {
        let known = self.vault.store().known(ids)?;
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let claim = |(id, known): (&ChunkId, bool)| match (known, !known && claimed.insert(*id)) {
            (true, _) => Claim::Known,
            (false, true) => Claim::Mine,
            (false, false) => Claim::InFlight,
        };
        Ok(ids.iter().zip(known).map(claim).collect())
    }

    fn put(&self, frame: SealedFrame) -> Result<()> {
        self.written.fetch_add(frame.bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    fn settle(&self, root: ChunkId) -> Result<Settled> {
        Err(StoreError::Missing(vec![root]))
    }

    fn publish(&self, _settled: Settled, _make: &dyn Fn(ChainLink) -> Vec<u8>) -> Result<ChainLink> {
        Err(StoreError::SessionFailed)
    }

    fn written_len(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn healed(&self) -> Vec<ChunkId> {
        Vec::new()
    }
}
