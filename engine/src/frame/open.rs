//! Opening frames: unwrap the data key, open the seal, decompress within the promised length, check names.

use super::{BODY_FIXED_LEN, FrameError, FrameHeader, u32_at};
use crate::crypto::wrap::unwrap;
use crate::crypto::{DataKey, Suite, VaultKeys, WrappedKey};
use crate::id::{ChunkId, Kind};
use crate::limits::{CHUNK_LEN_MAX, FRAME_PLAIN_LEN_MAX};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Data keys unwrapped so far. Unwrapping costs a curve operation; a vault has one key a session.
pub struct DataKeys {
    keys: Arc<VaultKeys>,
    is_encrypted: bool,
    unwrapped: Mutex<HashMap<WrappedName, Arc<DataKey>>>,
}

/// Generation of the key pair and the wrapped key.
type WrappedName = (u16, [u8; 80]);

/// Beyond this many remembered keys the table is dropped and begun anew.
const DATA_KEYS_MAX: usize = 4096;

impl DataKeys {
    /// An empty table for a vault whose keys are at hand.
    pub fn new(keys: Arc<VaultKeys>) -> Self {
        // A device has no check value: only encrypted vaults have devices.
        let is_encrypted = keys.check_value() != VaultKeys::unencrypted(keys.vault()).check_value();
        Self { keys, is_encrypted, unwrapped: Mutex::default() }
    }

    /// The vault's keys.
    pub fn vault_keys(&self) -> &Arc<VaultKeys> {
        &self.keys
    }

    fn get(&self, header: &FrameHeader) -> Result<Arc<DataKey>, FrameError> {
        let name = (header.generation, header.wrapped.0);
        let mut unwrapped = self.unwrapped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(key) = unwrapped.get(&name) {
            return Ok(key.clone());
        }
        let secret = self.keys.secret(header.generation).ok_or(FrameError::NoKey { generation: header.generation })?;
        let key = Arc::new(unwrap(secret, &WrappedKey(header.wrapped.0), &header.vault)?);
        if unwrapped.len() >= DATA_KEYS_MAX {
            unwrapped.clear();
        }
        unwrapped.insert(name, key.clone());
        Ok(key)
    }
}

/// An opened frame: chunks by position.
pub struct OpenedFrame {
    /// Its clear part.
    pub header: FrameHeader,
    plain: Vec<u8>,
    ends: Vec<u32>,
}

impl OpenedFrame {
    /// Number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the chunk at `position`, not yet checked against its name; `None` past the end.
    pub fn bytes(&self, position: usize) -> Option<&[u8]> {
        self.bytes_of(position..position.checked_add(1)?)
    }

    /// Bytes of the chunks at these positions, which follow each other, not yet checked against their names.
    pub fn bytes_of(&self, positions: Range<usize>) -> Option<&[u8]> {
        let start = positions.start.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        let end = positions.end.checked_sub(1).map_or(Some(0), |last| self.ends.get(last).copied())?;
        self.plain.get(start as usize..end as usize)
    }

    /// Bytes of the chunk at `position` if it is there and really the chunk `id`.
    pub fn chunk(&self, keys: &VaultKeys, position: usize, id: &ChunkId) -> Result<&[u8], FrameError> {
        let bytes = self.bytes(position).ok_or(FrameError::WrongChunk { expected: *id })?;
        let found = match self.header.kind {
            Kind::Leaf => keys.leaf_id(bytes),
            Kind::Branch => keys.branch_id(self.header.refs(position), bytes),
        };
        match found == *id || crate::zoo::planted("skip-chunk-check") {
            true => Ok(bytes),
            false => Err(FrameError::WrongChunk { expected: *id }),
        }
    }

    /// Plaintext bytes of all chunks.
    pub fn plain_len(&self) -> usize {
        self.plain.len()
    }
}

/// Opens frames one after the other with a decompression context of its own; one a worker.
pub struct Opener {
    keys: Arc<DataKeys>,
    decompressor: zstd::bulk::Decompressor<'static>,
    /// What was recycled: fresh memory of this length costs as much as filling it.
    spare: Vec<u8>,
}

impl Opener {
    /// An opener for the vault of `keys`.
    pub fn new(keys: Arc<DataKeys>) -> std::io::Result<Self> {
        Ok(Self { keys, decompressor: zstd::bulk::Decompressor::new()?, spare: Vec::new() })
    }

    /// The vault's keys.
    pub fn vault_keys(&self) -> &VaultKeys {
        self.keys.vault_keys()
    }

    /// Takes the memory of a frame that is done with, for the next one.
    pub fn recycle(&mut self, done: OpenedFrame) {
        self.spare = done.plain;
    }

    /// Opens the frame that is exactly `bytes`; they are overwritten.
    ///
    /// The seal vouches for header and body; chunk names are checked by [`OpenedFrame::chunk`].
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<OpenedFrame, FrameError> {
        let header = FrameHeader::parse(bytes)?;
        if header.frame_len as usize != bytes.len() {
            return Err(FrameError::Short { claimed: header.frame_len as usize, found: bytes.len() });
        }
        let vault = self.keys.vault_keys().vault();
        if header.vault != vault {
            return Err(FrameError::OtherVault { found: header.vault });
        }
        let (clear, sealed) = bytes.split_at_mut(header.len());
        let body = match header.suite {
            // A plain frame in an encrypted vault would let a store slip in content of its own making.
            Suite::Plain if self.keys.is_encrypted => {
                return Err(FrameError::Field { field: "suite", found: 0 });
            }
            Suite::Plain => sealed,
            Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => {
                let key = self.keys.get(&header)?;
                header.suite.open(&key, &header.salt, super::sealed_with(clear), sealed)?
            }
        };
        let (ends, plain) = self.inflate(&header, body)?;
        Ok(OpenedFrame { header, plain, ends })
    }

    fn inflate(&mut self, header: &FrameHeader, body: &[u8]) -> Result<(Vec<u32>, Vec<u8>), FrameError> {
        let fixed = BODY_FIXED_LEN + 4 * header.ids.len();
        if body.len() < fixed {
            return Err(FrameError::Short { claimed: fixed, found: body.len() });
        }
        let plain_len = u32_at(body, 4) as usize;
        if plain_len > FRAME_PLAIN_LEN_MAX {
            return Err(FrameError::Field { field: "plaintext length", found: plain_len as u64 });
        }
        let ends = chunk_ends(&body[BODY_FIXED_LEN..fixed], plain_len)?;
        let content = &body[fixed..];
        let mut plain = std::mem::take(&mut self.spare);
        plain.clear();
        plain.reserve_exact(plain_len);
        match body[0] {
            0 if content.len() == plain_len => plain.extend_from_slice(content),
            0 => return Err(FrameError::Short { claimed: plain_len, found: content.len() }),
            1 => match self.decompressor.decompress_to_buffer(content, &mut plain) {
                Ok(len) if len == plain_len && plain.len() == plain_len => {}
                _ => return Err(FrameError::Decompress { expected: plain_len }),
            },
            codec => return Err(FrameError::Field { field: "codec", found: codec.into() }),
        }
        Ok((ends, plain))
    }
}

fn chunk_ends(lens: &[u8], plain_len: usize) -> Result<Vec<u32>, FrameError> {
    let mut ends = Vec::with_capacity(lens.len() / 4);
    let mut end = 0_usize;
    for len in lens.chunks_exact(4).map(|len| u32_at(len, 0) as usize) {
        if len > CHUNK_LEN_MAX {
            return Err(FrameError::Field { field: "chunk length", found: len as u64 });
        }
        end += len;
        ends.push(end as u32);
    }
    match end == plain_len {
        true => Ok(ends),
        false => Err(FrameError::Field { field: "sum of chunk lengths", found: end as u64 }),
    }
}
