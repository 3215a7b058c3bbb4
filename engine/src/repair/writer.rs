//! Putting chunks: what was read from places that cannot be relied on, and branches that are new.

use super::{RepairError, Result};
use crate::crypto::{Salts, VaultKeys};
use crate::frame::{FrameBuilder, Sealer};
use crate::id::{ChunkId, Kind};
use crate::store::{Claim, Session};
use crate::vault::Vault;

/// Puts chunks in one session; in a dry run it only names them.
pub(super) struct Writer<'a> {
    keys: &'a VaultKeys,
    out: Option<Out<'a>>,
}

struct Out<'a> {
    session: &'a dyn Session,
    sealer: Sealer,
    leaves: FrameBuilder,
    branches: FrameBuilder,
}

impl<'a> Writer<'a> {
    pub fn new(vault: &'a Vault, session: Option<&'a dyn Session>) -> Result<Self> {
        let out = |session: &'a dyn Session| -> Result<Out<'a>> {
            let salts = Salts::new(vault.env().entropy.clone());
            let level = vault.config().compression_level;
            let sealer = Sealer::new(vault.seal_keys(session.id()), salts, level).map_err(RepairError::Compression)?;
            let (leaves, branches) = (FrameBuilder::new(Kind::Leaf), FrameBuilder::new(Kind::Branch));
            Ok(Out { session, sealer, leaves, branches })
        };
        Ok(Self { keys: vault.keys(), out: session.map(out).transpose()? })
    }

    /// Names a chunk and puts it unless it is known.
    pub fn put(&mut self, kind: Kind, refs: &[ChunkId], bytes: &[u8]) -> Result<ChunkId> {
        let id = self.keys.chunk_id(kind, refs, bytes);
        let Some(out) = &mut self.out else { return Ok(id) };
        if out.session.claim(&[id])?.pop() == Some(Claim::Mine) {
            let builder = match kind {
                Kind::Leaf => &out.leaves,
                Kind::Branch => &out.branches,
            };
            if !builder.fits(refs.len(), bytes.len()) {
                out.seal(kind)?;
            }
            let builder = match kind {
                Kind::Leaf => &mut out.leaves,
                Kind::Branch => &mut out.branches,
            };
            builder.push(id, refs, bytes);
        }
        Ok(id)
    }

    /// Puts everything that waits, leaves first.
    pub fn flush(&mut self) -> Result<()> {
        match &mut self.out {
            Some(out) => out.seal(Kind::Branch),
            None => Ok(()),
        }
    }
}

impl Out<'_> {
    /// Puts the frame of a kind; what branches refer to goes before them.
    fn seal(&mut self, kind: Kind) -> Result<()> {
        if !self.leaves.is_empty() {
            self.session.put(self.sealer.seal(&mut self.leaves))?;
        }
        if kind == Kind::Branch && !self.branches.is_empty() {
            self.session.put(self.sealer.seal(&mut self.branches))?;
        }
        Ok(())
    }
}
