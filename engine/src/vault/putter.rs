//! Putting chunks whose names are known already, as frames of a session.

use super::Vault;
use crate::crypto::Salts;
use crate::frame::{FrameBuilder, Sealer};
use crate::id::{ChunkId, Kind};
use crate::store::{Result, Session};

/// Gathers chunks into frames; what branches refer to goes before them.
pub(crate) struct Putter<'a> {
    /// Where they go.
    pub session: &'a dyn Session,
    sealer: Sealer,
    leaves: FrameBuilder,
    branches: FrameBuilder,
}

impl<'a> Putter<'a> {
    /// Into a session on a vault of these keys; they seal for any store of that vault.
    ///
    /// # Errors
    /// Compression cannot be set up.
    pub fn new(vault: &Vault, session: &'a dyn Session) -> std::io::Result<Self> {
        let salts = Salts::new(vault.env().entropy.clone());
        let sealer = Sealer::new(vault.seal_keys(session.id()), salts, vault.config().compression_level)?;
        let (leaves, branches) = (FrameBuilder::new(Kind::Leaf), FrameBuilder::new(Kind::Branch));
        Ok(Self { session, sealer, leaves, branches })
    }

    /// Puts a chunk that the session has claimed.
    pub fn put(&mut self, kind: Kind, id: ChunkId, refs: &[ChunkId], bytes: &[u8]) -> Result<()> {
        let builder = match kind {
            Kind::Leaf => &self.leaves,
            Kind::Branch => &self.branches,
        };
        if !builder.fits(refs.len(), bytes.len()) {
            self.seal(kind)?;
        }
        let builder = match kind {
            Kind::Leaf => &mut self.leaves,
            Kind::Branch => &mut self.branches,
        };
        builder.push(id, refs, bytes);
        Ok(())
    }

    /// Puts everything that waits, leaves first.
    pub fn flush(&mut self) -> Result<()> {
        self.seal(Kind::Branch)
    }

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
