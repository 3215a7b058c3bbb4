//! Frames: runs of chunks of one kind and one session, compressed and sealed together.
//!
//! What always holds: a frame's bytes never change, its [`FrameId`] is the BLAKE3-256 of all of them, and
//! everything before the sealed body is associated data of the seal.
//!
//! ```text
//! offset  len        field                                    (all integers little-endian)
//!      0    8        magic "TKFRAME" and the version byte 1
//!      8    1        kind: 1 leaf, 2 branch
//!      9    1        suite: 0 plain, 1 AES-256-GCM, 2 ChaCha20-Poly1305
//!     10    2        generation of the key pair the data key is wrapped to
//!     12    4        frame length in bytes, all told
//!     16    4        number of chunks n, 1…4096
//!     20    4        number of references r of all its branches together; 0 for leaves
//!     24   16        vault id
//!     40   16        session id
//!     56   24        salt
//!     80   80        data key, wrapped (zeros in a plain frame)
//!    160   32·n      chunk ids
//!      …   4·n       references of each chunk                 (branches only)
//!      …   32·r      the references, chunk by chunk           (branches only)
//!      …   rest      sealed body
//! ```
//! The body, once opened: codec (1 byte: 0 as is, 1 zstd), 3 zero bytes, plaintext length (u32), the length of
//! each chunk (n × u32), then the chunks' plaintext one after the other, in the codec.

mod build;
mod open;

pub use build::{FrameBuilder, SealKeys, SealedFrame, Sealer};
pub use open::{DataKeys, OpenedFrame, Opener};

use crate::crypto::{CryptoError, SALT_LEN, Suite, WrappedKey};
use crate::id::{ChunkId, FrameId, Kind, SessionId, VaultId};
use crate::limits::{BRANCH_REFS_MAX, FRAME_CHUNKS_MAX, FRAME_LEN_MAX, FRAME_REFS_MAX};

/// First bytes of every frame; the last one is the version.
pub const MAGIC: [u8; 8] = *b"TKFRAME\x01";

/// Bytes of a header before its ids.
pub const FIXED_LEN: usize = 160;

/// Bytes of an opened body before its lengths.
const BODY_FIXED_LEN: usize = 8;

/// Bytes that are not a frame of this vault, or not the frame they should be.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes do not begin like a frame.
    #[error("no frame begins here")]
    NoMagic,
    /// A version this program does not know.
    #[error("the frame has version {found}, this program reads version 1")]
    Version {
        /// Version byte found.
        found: u8,
    },
    /// Bytes end before the frame does.
    #[error("the frame claims {claimed} bytes, {found} are there")]
    Short {
        /// Bytes needed.
        claimed: usize,
        /// Bytes found.
        found: usize,
    },
    /// A field holds what no writer writes.
    #[error("the frame's {field} is {found}, which cannot be")]
    Field {
        /// Which field.
        field: &'static str,
        /// What stands there.
        found: u64,
    },
    /// A frame of some other vault.
    #[error("the frame belongs to vault {found}")]
    OtherVault {
        /// That vault.
        found: VaultId,
    },
    /// Its data key is wrapped to a key pair that the keyring does not hold.
    #[error("the frame needs the vault's key pair {generation}, which is not at hand")]
    NoKey {
        /// Generation of the key pair.
        generation: u16,
    },
    /// The seal or the data key does not open.
    #[error("the frame does not open")]
    Seal(#[from] CryptoError),
    /// The compressed bytes are no valid zstd frame of the length given.
    #[error("the frame's content does not decompress to {expected} bytes")]
    Decompress {
        /// Plaintext bytes promised.
        expected: usize,
    },
    /// A chunk is not what its name says.
    #[error("chunk {expected} in the frame has other content")]
    WrongChunk {
        /// The name in the header.
        expected: ChunkId,
    },
}

/// Everything of a frame that is in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Leaves or branches.
    pub kind: Kind,
    /// How the body is sealed.
    pub suite: Suite,
    /// Which of the vault's key pairs the data key is wrapped to.
    pub generation: u16,
    /// Length of the whole frame in bytes.
    pub frame_len: u32,
    /// Vault.
    pub vault: VaultId,
    /// Session that wrote it.
    pub session: SessionId,
    /// Makes the frame's key its own.
    pub salt: [u8; SALT_LEN],
    /// The session's data key, wrapped.
    pub wrapped: WrappedKey,
    /// Its chunks.
    pub ids: Vec<ChunkId>,
    /// End of each chunk's references in `refs`, as many as `ids`; all zero for leaves.
    ref_ends: Vec<u32>,
    refs: Vec<ChunkId>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

impl FrameHeader {
    /// Total length of the frame that begins at `bytes`, from its fixed part alone.
    pub fn peek_len(bytes: &[u8]) -> Result<usize, FrameError> {
        if bytes.len() < FIXED_LEN {
            return Err(FrameError::Short { claimed: FIXED_LEN, found: bytes.len() });
        }
        if bytes[..7] != MAGIC[..7] {
            return Err(FrameError::NoMagic);
        }
        if bytes[7] != MAGIC[7] {
            return Err(FrameError::Version { found: bytes[7] });
        }
        let len = u32_at(bytes, 12);
        let (chunks, refs) = (u32_at(bytes, 16), u32_at(bytes, 20));
        if chunks == 0 || chunks as usize > FRAME_CHUNKS_MAX {
            return Err(FrameError::Field { field: "number of chunks", found: chunks.into() });
        }
        if refs as usize > FRAME_REFS_MAX {
            return Err(FrameError::Field { field: "number of references", found: refs.into() });
        }
        if len as usize > FRAME_LEN_MAX || (len as usize) < FIXED_LEN + 32 * chunks as usize {
            return Err(FrameError::Field { field: "length", found: len.into() });
        }
        Ok(len as usize)
    }

    /// Bytes of the header of the frame that begins at `bytes`: everything before the sealed body.
    pub fn peek_header_len(bytes: &[u8]) -> Result<usize, FrameError> {
        let frame_len = Self::peek_len(bytes)?;
        let (chunks, refs) = (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize);
        let len = match bytes[8] {
            2 => FIXED_LEN + 36 * chunks + 32 * refs,
            _ => FIXED_LEN + 32 * chunks,
        };
        match len <= frame_len {
            true => Ok(len),
            false => Err(FrameError::Field { field: "length", found: frame_len as u64 }),
        }
    }

    /// Reads the header at the beginning of `bytes`, which may go on with the body or end with the header.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let header_len = Self::peek_header_len(bytes)?;
        if bytes.len() < header_len {
            return Err(FrameError::Short { claimed: header_len, found: bytes.len() });
        }
        let kind = Kind::from_byte(bytes[8]).ok_or(FrameError::Field { field: "kind", found: bytes[8].into() })?;
        let suite = Suite::from_byte(bytes[9]).ok_or(FrameError::Field { field: "suite", found: bytes[9].into() })?;
        let (chunks, ref_count) = (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize);
        let ids: Vec<_> = ids_in(&bytes[FIXED_LEN..FIXED_LEN + 32 * chunks]);
        let (ref_ends, refs) = match kind {
            Kind::Leaf if ref_count != 0 => {
                return Err(FrameError::Field { field: "number of references", found: ref_count as u64 });
            }
            Kind::Leaf => (vec![0; chunks], Vec::new()),
            Kind::Branch => {
                let counts = FIXED_LEN + 32 * chunks;
                (
                    ref_ends(&bytes[counts..counts + 4 * chunks], ref_count)?,
                    ids_in(&bytes[counts + 4 * chunks..header_len]),
                )
            }
        };
        Ok(Self {
            kind,
            suite,
            generation: u16_at(bytes, 10),
            frame_len: u32_at(bytes, 12),
            vault: VaultId(array_at(bytes, 24)),
            session: SessionId(array_at(bytes, 40)),
            salt: array_at(bytes, 56),
            wrapped: WrappedKey(array_at(bytes, 80)),
            ids,
            ref_ends,
            refs,
        })
    }

    /// Bytes before the sealed body.
    pub fn len(&self) -> usize {
        let per_chunk = if self.kind == Kind::Branch { 36 } else { 32 };
        FIXED_LEN + per_chunk * self.ids.len() + 32 * self.refs.len()
    }

    /// Never: a header has a fixed part.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// References of the chunk at `position`; empty for leaves and for a position that is not there.
    pub fn refs(&self, position: usize) -> &[ChunkId] {
        let Some(&end) = self.ref_ends.get(position) else { return &[] };
        let start = position.checked_sub(1).map_or(0, |before| self.ref_ends[before]);
        &self.refs[start as usize..end as usize]
    }

    /// A header of these chunks and references, the rest zeros.
    #[cfg(test)]
    pub(crate) fn for_tests(kind: Kind, chunks: &[(ChunkId, Vec<ChunkId>)]) -> Self {
        let mut header = Self {
            kind,
            suite: Suite::Plain,
            generation: 0,
            frame_len: 0,
            vault: VaultId([0; 16]),
            session: SessionId([0; 16]),
            salt: [0; SALT_LEN],
            wrapped: WrappedKey([0; 80]),
            ids: Vec::new(),
            ref_ends: Vec::new(),
            refs: Vec::new(),
        };
        for (id, refs) in chunks {
            header.ids.push(*id);
            header.refs.extend_from_slice(refs);
            header.ref_ends.push(header.refs.len() as u32);
        }
        header
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.kind as u8, self.suite as u8]);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.frame_len.to_le_bytes());
        out.extend_from_slice(&(self.ids.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.refs.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.vault.0);
        out.extend_from_slice(&self.session.0);
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.wrapped.0);
        self.ids.iter().for_each(|id| out.extend_from_slice(&id.0));
        if self.kind == Kind::Branch {
            for position in 0..self.ids.len() {
                out.extend_from_slice(&(self.refs(position).len() as u32).to_le_bytes());
            }
            self.refs.iter().for_each(|id| out.extend_from_slice(&id.0));
        }
    }
}

fn ids_in(bytes: &[u8]) -> Vec<ChunkId> {
    bytes.chunks_exact(32).map(|id| ChunkId(array_at(id, 0))).collect()
}

fn ref_ends(counts: &[u8], total: usize) -> Result<Vec<u32>, FrameError> {
    let mut ends = Vec::with_capacity(counts.len() / 4);
    let mut end = 0_usize;
    for count in counts.chunks_exact(4).map(|count| u32_at(count, 0)) {
        if count as usize > BRANCH_REFS_MAX {
            return Err(FrameError::Field { field: "number of references of a branch", found: count.into() });
        }
        end += count as usize;
        ends.push(end as u32);
    }
    match end == total {
        true => Ok(ends),
        false => Err(FrameError::Field { field: "number of references", found: end as u64 }),
    }
}

/// What of a header is associated data of the seal: all of it.
fn sealed_with(header: &[u8]) -> &[u8] {
    if crate::zoo::planted("header-not-sealed") { &[] } else { header }
}

/// The name of a frame: BLAKE3-256 of its stored bytes.
pub fn frame_id(bytes: &[u8]) -> FrameId {
    FrameId(*blake3::hash(bytes).as_bytes())
}

#[cfg(test)]
mod tests;
