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
    level: i32,
    /// Where content is compressed to, used again: only its front means something.
    compressed: Vec<u8>,
}

impl Sealer {
    /// A sealer with a compression context of its own at zstd `level` (1…19).
    ///
    /// # Errors
    /// When zstd refuses the level.
    pub fn new(keys: SealKeys, salts: Salts, level: i32) -> std::io::Result<Self> {
        Ok(Self { keys, salts, compressor: zstd::bulk::Compressor::new(level)?, level, compressed: Vec::new() })
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
        let (lens, plain) = (&builder.lens, &builder.plain);
        let compressed = self.compress(lens.len(), plain);
        let content = compressed.map_or(&plain[..], |len| &self.compressed[..len]);

        let header_len = header.len();
        let body_len = BODY_FIXED_LEN + 4 * lens.len() + content.len();
        header.frame_len = (header_len + body_len + self.keys.suite.overhead()) as u32;
        // With room for the frame id, which stands behind it in a pack.
        let mut bytes = Vec::with_capacity(header.frame_len as usize + FrameId::LEN);
        header.write(&mut bytes);
        let clear = super::sealed_with(&bytes).to_vec();
        bytes.extend_from_slice(&[u8::from(compressed.is_some()), 0, 0, 0]);
        bytes.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        lens.iter().for_each(|len| bytes.extend_from_slice(&len.to_le_bytes()));
        bytes.extend_from_slice(content);
        self.keys.suite.seal(&self.keys.data_key, &salt, &clear, &mut bytes, header_len);
        builder.lens.clear();
        builder.plain.clear();
        SealedFrame { id: frame_id(&bytes), header, bytes }
    }

    /// Compresses the content of so many chunks to the front of `self.compressed`; returns its length.
    ///
    /// None where it would not be shorter, or not by what the time is worth: the reader has nothing to inflate then.
    fn compress(&mut self, chunks: usize, plain: &[u8]) -> Option<usize> {
        let len_max = zstd::zstd_safe::compress_bound(plain.len());
        if self.compressed.len() < len_max {
            self.compressed.resize(len_max, 0);
        }
        let average = plain.len() / chunks.max(1);
        if average >= COARSE_CHUNK_LEN && !self.shrinks(plain) {
            return None;
        }
        self.at_level(level_for(self.level, average), plain).filter(|len| *len < plain.len())
    }

    /// Whether any probe of the content says that compression is worth its time.
    fn shrinks(&mut self, plain: &[u8]) -> bool {
        let probes = plain.chunks(PROBE_STEP).map(|part| &part[..part.len().min(PROBE_LEN)]);
        probes.into_iter().any(|probe| {
            let least = probe.len() - probe.len() / PROBE_GAIN;
            self.at_level(1, probe).is_none_or(|len| len < least)
        })
    }

    fn at_level(&mut self, level: i32, plain: &[u8]) -> Option<usize> {
        self.compressor.set_compression_level(level).ok()?;
        self.compressor.compress_to_buffer(plain, &mut self.compressed[..]).ok()
    }
}

/// Where chunks are as long as this on the average, most looked random where they were cut, and the frame is probed
/// before it is compressed:
const COARSE_CHUNK_LEN: usize = 128 << 10;

/// of every so many bytes …
const PROBE_STEP: usize = 64 << 10;

/// … the first so many are compressed to see whether anything is gained …
const PROBE_LEN: usize = 4 << 10;

/// … which is so if one of them loses one part in this many.
const PROBE_GAIN: usize = 64;

/// Chunks of this average length and longer are compressed at the level asked for.
const LONG_CHUNK_LEN: usize = 24 << 10;

/// zstd level for a frame of chunks of this average length. What many short files have in common is long and near, and the
/// quick search of the lower levels finds nearly all of it: measured in `docs/decisions/0014-sizes.md`.
fn level_for(level: i32, average: usize) -> i32 {
    match average < LONG_CHUNK_LEN {
        true if level > 2 => level - 1,
        _ => level,
    }
}
