//! Filling and sealing frames. One builder and one sealer a worker; nothing here is shared.

use super::{BODY_FIXED_LEN, FrameHeader, frame_id};
use crate::crypto::{DataKey, SALT_LEN, Salts, Suite, WrappedKey};
use crate::id::{ChunkId, FrameId, Kind, SessionId, VaultId};
use crate::limits::{BRANCH_REFS_MAX, CHUNK_LEN_MAX, FRAME_CHUNKS_MAX, FRAME_REFS_MAX};
use std::sync::Arc;

/// Gathers chunks of one kind until they fill a frame.
pub struct FrameBuilder {
    kind: Kind,
    ids: Vec<ChunkId>,
    lens: Vec<u32>,
    ref_ends: Vec<u32>,
    refs: Vec<ChunkId>,
    plain: Vec<u8>,
}

impl FrameBuilder {
    /// An empty builder.
    pub fn new(kind: Kind) -> Self {
        Self { kind, ids: Vec::new(), lens: Vec::new(), ref_ends: Vec::new(), refs: Vec::new(), plain: Vec::new() }
    }

    /// Adds a chunk whose id was computed from exactly these references and bytes.
    ///
    /// # Panics
    /// When it does not fit, is over a limit, or a leaf refers to something: the frame could never be read again.
    pub fn push(&mut self, id: ChunkId, refs: &[ChunkId], bytes: &[u8]) {
        assert!(self.kind == Kind::Branch || refs.is_empty(), "a leaf refers to nothing");
        assert!(bytes.len() <= CHUNK_LEN_MAX && refs.len() <= BRANCH_REFS_MAX, "no chunk is that long");
        assert!(self.fits(refs.len(), bytes.len()), "the frame is full");
        self.ids.push(id);
        self.lens.push(bytes.len() as u32);
        self.refs.extend_from_slice(refs);
        self.ref_ends.push(self.refs.len() as u32);
        self.plain.extend_from_slice(bytes);
    }

    /// Whether a chunk with this many references and bytes still belongs into this frame.
    pub fn fits(&self, refs: usize, len: usize) -> bool {
        self.ids.is_empty()
            || (self.ids.len() < FRAME_CHUNKS_MAX
                && self.refs.len() + refs <= FRAME_REFS_MAX
                && self.plain.len() + len <= crate::zoo::units().frame_plain_len)
    }

    /// Whether nothing was pushed since the last seal.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// A frame ready to be stored.
pub struct SealedFrame {
    /// Name of the frame.
    pub id: FrameId,
    /// What the clear part of `bytes` says.
    pub header: FrameHeader,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// What all frames of a session share; a worker makes its own from it with [`Sealer::new`].
#[derive(Clone)]
pub struct SealKeys {
    /// How bodies are sealed.
    pub suite: Suite,
    /// The session's key.
    pub data_key: Arc<DataKey>,
    /// The same, wrapped to the vault's public key of `generation`.
    pub wrapped: WrappedKey,
    /// Generation of the vault's key pair.
    pub generation: u16,
    /// Vault.
    pub vault: VaultId,
    /// Session.
    pub session: SessionId,
}

/// Compresses and seals what builders gathered.
pub struct Sealer {
    keys: SealKeys,
    salts: Salts,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Sealer {
    /// A sealer with a compression context of its own at zstd `level` (1…19).
    ///
    /// # Errors
    /// When zstd refuses the level.
    pub fn new(keys: SealKeys, salts: Salts, level: i32) -> std::io::Result<Self> {
        Ok(Self { keys, salts, compressor: zstd::bulk::Compressor::new(level)? })
    }

    /// Makes a frame of what `builder` holds and empties it.
    ///
    /// # Panics
    /// When the builder is empty: our own mistake.
    pub fn seal(&mut self, builder: &mut FrameBuilder) -> SealedFrame {
        assert!(!builder.is_empty(), "an empty frame is never sealed");
        let salt: [u8; SALT_LEN] = self.salts.next();
        let mut header = FrameHeader {
            kind: builder.kind,
            suite: self.keys.suite,
            generation: self.keys.generation,
            frame_len: 0,
            vault: self.keys.vault,
            session: self.keys.session,
            salt,
            wrapped: self.keys.wrapped,
            ids: std::mem::take(&mut builder.ids),
            ref_ends: std::mem::take(&mut builder.ref_ends),
            refs: std::mem::take(&mut builder.refs),
        };
        let body = self.body(&builder.lens, &builder.plain);
        builder.lens.clear();
        builder.plain.clear();

        let header_len = header.len();
        header.frame_len = (header_len + body.len() + self.keys.suite.overhead()) as u32;
        let mut bytes = Vec::with_capacity(header.frame_len as usize);
        header.write(&mut bytes);
        let clear = super::sealed_with(&bytes).to_vec();
        bytes.extend_from_slice(&body);
        self.keys.suite.seal(&self.keys.data_key, &salt, &clear, &mut bytes, header_len);
        SealedFrame { id: frame_id(&bytes), header, bytes }
    }

    fn body(&mut self, lens: &[u32], plain: &[u8]) -> Vec<u8> {
        let fixed = BODY_FIXED_LEN + 4 * lens.len();
        let mut body = vec![0; fixed + zstd::zstd_safe::compress_bound(plain.len())];
        body[4..8].copy_from_slice(&(plain.len() as u32).to_le_bytes());
        for (place, len) in body[BODY_FIXED_LEN..fixed].chunks_exact_mut(4).zip(lens) {
            place.copy_from_slice(&len.to_le_bytes());
        }
        // Kept only when smaller: the reader then also has nothing to inflate.
        match self.compressor.compress_to_buffer(plain, &mut body[fixed..]) {
            Ok(compressed) if compressed < plain.len() => {
                body[0] = 1;
                body.truncate(fixed + compressed);
            }
            _ => {
                body[fixed..fixed + plain.len()].copy_from_slice(plain);
                body.truncate(fixed + plain.len());
            }
        }
        body
    }
}
