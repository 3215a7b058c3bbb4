//! Records: the small immutable files that say what frames do not.
//!
//! A record is written whole and never changed. Its checksum tells damage to anybody, its MAC tells forgery to who
//! holds the vault's keys, its count and the hash of the record before it tell a missing or exchanged one.
//! All numbers little-endian:
//!
//! ```text
//!   0   4  magic "TKRC"
//!   4   2  version, 1
//!   6   1  kind: 1 config, 2 keyring, 3 ref, 4 change
//!   7   1  flags, 0
//!   8  16  vault id
//!  24   8  count: place in its chain, from 1; of config and keyring how often they were written
//!  32   8  received: nanoseconds since 1970 when it was accepted, signed
//!  40  32  previous: BLAKE3 of the whole record file before it; zeros for the first, and for config and keyring
//!  72   4  payload length n
//!  76   n  payload, Cap'n Proto in canonical form (one segment without a table)
//!  76+n 32 MAC: keyed BLAKE3 (the vault's record key) of everything before it
//! 108+n 32 checksum: BLAKE3 of everything before it
//! ```

pub mod canonical;
pub mod change;
pub mod refs;

pub use change::{ChangeKind, ChangeRecord};
pub use refs::{Level, RefKind, RefRecord};

use crate::env::Time;
use crate::id::VaultId;
use crate::limits::RECORD_LEN_MAX;

const MAGIC: &[u8; 4] = b"TKRC";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 76;
const HASH_LEN: usize = 32;

/// Bytes of a record besides its payload.
pub const RECORD_OVERHEAD: usize = HEADER_LEN + 2 * HASH_LEN;

/// Bytes that are not a record, or not the one they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not as long as it says, or as it may be.
    #[error("record has {found} bytes, expected {expected}")]
    Length {
        /// Bytes there should be; for one that is too short or too long, the bound.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// Not a record at all.
    #[error("record begins with {found:02x?}, expected \"TKRC\"")]
    Magic {
        /// First four bytes.
        found: [u8; 4],
    },
    /// Written by a later version.
    #[error("record has {what} {found}, this version reads {expected}")]
    Unknown {
        /// Which header field.
        what: &'static str,
        /// Values that can be read.
        expected: &'static str,
        /// Value in the record.
        found: u16,
    },
    /// Some byte changed since it was written.
    #[error("record is damaged: its checksum is {found}, expected {expected}")]
    Damaged {
        /// Checksum of its bytes, the first 8 bytes as hex.
        expected: String,
        /// Checksum it carries, the first 8 bytes as hex.
        found: String,
    },
    /// Whole, but not written with this vault's keys.
    #[error("{kind:?} record {count} was not written with this vault's keys")]
    Forged {
        /// Its kind.
        kind: RecordKind,
        /// Its count.
        count: u64,
    },
    /// A valid record in the place of another.
    #[error("record has {what} {found}, expected {expected}")]
    Other {
        /// Which header field.
        what: &'static str,
        /// Value wanted here.
        expected: String,
        /// Value in the record.
        found: String,
    },
    /// The payload is not what its kind says.
    #[error("{kind:?} record: {what}")]
    Payload {
        /// Its kind.
        kind: RecordKind,
        /// What is wrong, with place, expected and found.
        what: String,
    },
}

/// What a record's payload is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// How the vault was made.
    Config = 1,
    /// Ways to its secret, and its key pairs.
    Keyring = 2,
    /// A name for a branch.
    Ref = 3,
    /// What is said of earlier records.
    Change = 4,
}

impl RecordKind {
    /// Reads the byte that stands in headers.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Config),
            2 => Some(Self::Keyring),
            3 => Some(Self::Ref),
            4 => Some(Self::Change),
            _ => None,
        }
    }
}

/// A record's header fields and payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What the payload is.
    pub kind: RecordKind,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// Place in its chain, from 1; of config and keyring how often they were written.
    pub count: u64,
    /// When it was accepted.
    pub received: Time,
    /// [`hash`] of the record before it; zeros for the first, and for config and keyring.
    pub previous: [u8; 32],
    /// At most `RECORD_LEN_MAX - RECORD_OVERHEAD` bytes.
    pub payload: Vec<u8>,
}

/// A record that is whole but may be anybody's: trust it after [`Self::verify_mac`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParsedRecord {
    /// What it says.
    pub record: Record,
    mac: [u8; 32],
}

/// What chains records: BLAKE3 of a whole record file.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

impl Record {
    /// The record's file; `mac` is `VaultKeys::record_mac`.
    ///
    /// # Panics
    /// If the payload exceeds its bound.
    pub fn encode(&self, mac: &dyn Fn(&[u8]) -> [u8; 32]) -> Vec<u8> {
        let mut bytes = self.signed_bytes();
        let mac = mac(&bytes);
        bytes.extend_from_slice(&mac);
        let checksum = hash(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads a whole record file and checks that it is undamaged. Needs no key.
    pub fn parse(bytes: &[u8]) -> Result<ParsedRecord, RecordError> {
        let found = bytes.len();
        if found < RECORD_OVERHEAD {
            return Err(RecordError::Length { expected: RECORD_OVERHEAD, found });
        }
        if found > RECORD_LEN_MAX {
            return Err(RecordError::Length { expected: RECORD_LEN_MAX, found });
        }
        let mut header = Fields(bytes);
        let magic = header.take();
        if magic != *MAGIC {
            return Err(RecordError::Magic { found: magic });
        }
        let version = u16::from_le_bytes(header.take());
        if version != VERSION {
            return Err(RecordError::Unknown { what: "version", expected: "1", found: version });
        }
        // Before the other fields: a flipped bit should be called damage, not a later version.
        check_sum(bytes)?;
        let [kind, flags] = header.take();
        let unknown = |what, expected, found: u8| RecordError::Unknown { what, expected, found: found.into() };
        let kind = RecordKind::from_byte(kind).ok_or_else(|| unknown("kind", "1 to 4", kind))?;
        if flags != 0 {
            return Err(unknown("flags", "0", flags));
        }
        let vault = VaultId(header.take());
        let count = u64::from_le_bytes(header.take());
        let received = Time(i64::from_le_bytes(header.take()));
        let previous = header.take();
        let payload_len = u32::from_le_bytes(header.take()) as usize;
        if payload_len != found - RECORD_OVERHEAD {
            return Err(RecordError::Length { expected: payload_len.saturating_add(RECORD_OVERHEAD), found });
        }
        let (payload, end) = header.0.split_at(payload_len);
        let mac = Fields(end).take();
        let record = Self { kind, vault, count, received, previous, payload: payload.to_vec() };
        Ok(ParsedRecord { record, mac })
    }

    /// Fails unless the record is of this kind and vault.
    pub fn expect(&self, kind: RecordKind, vault: VaultId) -> Result<(), RecordError> {
        if self.kind != kind {
            let (expected, found) = (format!("{kind:?}"), format!("{:?}", self.kind));
            return Err(RecordError::Other { what: "kind", expected, found });
        }
        if self.vault != vault {
            let (expected, found) = (vault.to_string(), self.vault.to_string());
            return Err(RecordError::Other { what: "vault", expected, found });
        }
        Ok(())
    }

    /// Everything the MAC covers.
    fn signed_bytes(&self) -> Vec<u8> {
        let len = self.payload.len() + RECORD_OVERHEAD;
        assert!(len <= RECORD_LEN_MAX, "a record of {len} bytes");
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[self.kind as u8, 0]);
        bytes.extend_from_slice(&self.vault.0);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.received.0.to_le_bytes());
        bytes.extend_from_slice(&self.previous);
        bytes.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

impl ParsedRecord {
    /// The record, once it is shown to be written with the vault's keys.
    pub fn verify_mac(self, mac: &dyn Fn(&[u8]) -> [u8; 32]) -> Result<Record, RecordError> {
        let expected = blake3::Hash::from_bytes(mac(&self.record.signed_bytes()));
        // Comparing these hashes takes the same time wherever they differ.
        if expected != blake3::Hash::from_bytes(self.mac) {
            return Err(RecordError::Forged { kind: self.record.kind, count: self.record.count });
        }
        Ok(self.record)
    }
}

fn check_sum(bytes: &[u8]) -> Result<(), RecordError> {
    let (body, found) = bytes.split_at(bytes.len() - HASH_LEN);
    let expected = hash(body);
    if found == expected {
        return Ok(());
    }
    let short = |hash: &[u8]| hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Err(RecordError::Damaged { expected: short(&expected), found: short(found) })
}

/// Takes fixed fields off the front of bytes whose length was checked before.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the fixed part's length was checked");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests;
