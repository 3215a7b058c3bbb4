//! One entry of the log as bytes.

use twinkeep_engine::env::Time;

use crate::tracker::event::{EVENT_LEN_MAX, Event, EventError};
use crate::tracker::names::{AccountId, NodeKey};
use crate::tracker::sign::{AuthorityKey, SIGNATURE_LEN, SigningKey, is_signed};

const MAGIC: &[u8; 4] = b"TKOL";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 100;

/// Most bytes of an entry.
pub const ENTRY_LEN_MAX: usize = HEADER_LEN + EVENT_LEN_MAX + SIGNATURE_LEN;

/// Who did something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Actor {
    /// The host itself, or somebody at its console.
    Host,
    /// A machine.
    Node(NodeKey),
    /// An account.
    Account(AccountId),
}

/// Something that happened, at its place in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Generation of the host that wrote it, from 1.
    pub generation: u64,
    /// Place in the log, from 1.
    pub sequence: u64,
    /// When it was written, by the host's clock.
    pub time: Time,
    /// Who did it.
    pub actor: Actor,
    /// BLAKE3 of the whole file before it; zeros for the first.
    pub previous: [u8; 32],
    /// What happened.
    pub event: Event,
}

/// Bytes that are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not as long as it says, or as it may be.
    #[error("it has {found} bytes, expected {expected}")]
    Length {
        /// Bytes there should be; for one that is too short or too long, the bound.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// Not an entry at all.
    #[error("it begins with {found:02x?}, expected \"TKOL\"")]
    Magic {
        /// First four bytes.
        found: [u8; 4],
    },
    /// Damaged, or another's.
    #[error("its signature is not that of authority {authority}: it is damaged, or of another office")]
    Signature {
        /// Whose it should be.
        authority: AuthorityKey,
    },
    /// Written by a later version.
    #[error("its {what} is {found}, expected {expected}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// Values that can be read.
        expected: &'static str,
        /// Value in the entry.
        found: u64,
    },
    /// The payload is no event.
    #[error(transparent)]
    Event(#[from] EventError),
}

impl Entry {
    /// The entry's file; fails where the event exceeds a bound.
    pub fn encode(&self, authority: &SigningKey) -> Result<Vec<u8>, EntryError> {
        let payload = self.event.encode()?;
        let (kind, id) = self.actor.to_bytes();
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len() + SIGNATURE_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[kind, 0]);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.time.0.to_le_bytes());
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&self.previous);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes.extend_from_slice(&authority.sign(&bytes));
        Ok(bytes)
    }

    /// Reads a whole entry that `authority` signed.
    pub fn parse(bytes: &[u8], authority: &AuthorityKey) -> Result<Self, EntryError> {
        let found = bytes.len();
        if found > ENTRY_LEN_MAX {
            return Err(EntryError::Length { expected: ENTRY_LEN_MAX, found });
        }
        let short = EntryError::Length { expected: HEADER_LEN + SIGNATURE_LEN, found };
        let Some((signed, signature)) = bytes.split_last_chunk::<SIGNATURE_LEN>() else { return Err(short) };
        let Some((header, payload)) = signed.split_first_chunk::<HEADER_LEN>() else { return Err(short) };
        let mut fields = Fields(header);
        let magic = fields.take();
        if magic != *MAGIC {
            return Err(EntryError::Magic { found: magic });
        }
        // Before the other fields: a flipped bit should be called damage, not a later version.
        if !is_signed(&authority.0, signed, signature) {
            return Err(EntryError::Signature { authority: *authority });
        }
        let unknown = |what, expected, found: u64| EntryError::Unknown { what, expected, found };
        let version = u16::from_le_bytes(fields.take());
        if version != VERSION {
            return Err(unknown("version", "1", version.into()));
        }
        let [kind, flags] = fields.take();
        if flags != 0 {
            return Err(unknown("flags", "0", flags.into()));
        }
        let generation = u64::from_le_bytes(fields.take());
        let sequence = u64::from_le_bytes(fields.take());
        let time = Time(i64::from_le_bytes(fields.take()));
        let actor = Actor::from_bytes(kind, fields.take()).ok_or_else(|| unknown("actor", "1 to 3", kind.into()))?;
        let previous = fields.take();
        let payload_len = u32::from_le_bytes(fields.take()) as usize;
        if payload_len != payload.len() {
            return Err(EntryError::Length { expected: payload_len.saturating_add(HEADER_LEN + SIGNATURE_LEN), found });
        }
        Ok(Self { generation, sequence, time, actor, previous, event: Event::decode(payload)? })
    }
}

impl Actor {
    fn to_bytes(self) -> (u8, [u8; 32]) {
        match self {
            Self::Host => (1, [0; 32]),
            Self::Node(key) => (2, key.0),
            Self::Account(id) => {
                let mut bytes = [0; 32];
                bytes[..AccountId::LEN].copy_from_slice(&id.0);
                (3, bytes)
            }
        }
    }

    fn from_bytes(kind: u8, bytes: [u8; 32]) -> Option<Self> {
        let actor = match kind {
            1 => Self::Host,
            2 => Self::Node(NodeKey(bytes)),
            3 => Self::Account(AccountId::from_slice(&bytes[..AccountId::LEN])?),
            _ => return None,
        };
        (actor.to_bytes() == (kind, bytes)).then_some(actor)
    }
}

/// Takes fixed fields off the front of a header whose length is known.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("all fields together are as long as the header");
        self.0 = rest;
        *field
    }
}
