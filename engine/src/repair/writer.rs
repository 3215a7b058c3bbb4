//! Putting chunks: what was read from places that cannot be relied on, and branches that are new.

use super::{RepairError, Result};
use crate::crypto::VaultKeys;
use crate::id::{ChunkId, Kind};
use crate::store::{Claim, Session};
use crate::vault::{Putter, Vault};

/// Puts chunks in one session; in a dry run it only names them.
pub(super) struct Writer<'a> {
    keys: &'a VaultKeys,
    out: Option<Putter<'a>>,
}

impl<'a> Writer<'a> {
    pub fn new(vault: &'a Vault, session: Option<&'a dyn Session>) -> Result<Self> {
        let out = |session| Putter::new(vault, session).map_err(RepairError::Compression);
        Ok(Self { keys: vault.keys(), out: session.map(out).transpose()? })
    }

    /// Names a chunk and puts it unless it is known.
    pub fn put(&mut self, kind: Kind, refs: &[ChunkId], bytes: &[u8]) -> Result<ChunkId> {
        let id = self.keys.chunk_id(kind, refs, bytes);
        if let Some(out) = &mut self.out
            && out.session.claim(&[id])?.pop() == Some(Claim::Mine)
        {
            out.put(kind, id, refs, bytes)?;
        }
        Ok(id)
    }

    /// Puts everything that waits, leaves first.
    pub fn flush(&mut self) -> Result<()> {
        match &mut self.out {
            Some(out) => Ok(out.flush()?),
            None => Ok(()),
        }
    }
}
