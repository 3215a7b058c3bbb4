//! The rows of the map and their bytes, see the table in [`holders`](super).

use super::{MachineNumber, TrackedNumber, Why};
use twinkeep_engine::copies::SetDigest;
use twinkeep_engine::id::{FrameId, Kind, VaultId};
use twinkeep_engine::kv::{self, KvError, Table};

// The map has tables of its own kind; these stand in the slots that the index gives other names.
pub(super) const NUMBERS: Table = Table::Chunks;
pub(super) const FRAMES: Table = Table::Frames;
pub(super) const HELD: Table = Table::Packs;
pub(super) const HOLDERS: Table = Table::Young;
pub(super) const OWED: Table = Table::Unwhole;
pub(super) const OWED_BY_VAULT: Table = Table::Condemned;
pub(super) const MACHINES: Table = Table::Leaning;
pub(super) const META: Table = Table::Meta;

/// Stands for no machine.
const NOBODY: u32 = u32::MAX;

pub(super) fn damaged(what: &str) -> KvError {
    KvError::Damaged(format!("{what} has an impossible length or value"))
}

/// Takes fixed parts off the front of a row.
pub(super) struct Parts<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Parts<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(super) fn take<const LEN: usize>(&mut self) -> kv::Result<[u8; LEN]> {
        let (part, rest) = self.rest.split_first_chunk::<LEN>().ok_or_else(|| damaged(self.what))?;
        self.rest = rest;
        Ok(*part)
    }

    pub(super) fn end<T>(self, value: T) -> kv::Result<T> {
        if self.rest.is_empty() { Ok(value) } else { Err(damaged(self.what)) }
    }
}

/// Number of a vault within this map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct VaultNumber(pub u32);

/// A frame as the tracker knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FrameRow {
    pub id: FrameId,
    pub vault: VaultNumber,
    /// Round of the vault's index in which it was last entered.
    pub round: u32,
    pub number_in_index: u64,
    pub len: u32,
    pub writer: Option<MachineNumber>,
    pub kind: Kind,
    /// Why it was last owed.
    pub why: Why,
    /// The writer's machine is to hold no copy of it.
    pub spread: bool,
}

impl FrameRow {
    pub(super) fn encode(&self) -> [u8; 59] {
        let mut bytes = [0; 59];
        bytes[..32].copy_from_slice(&self.id.0);
        bytes[32..36].copy_from_slice(&self.vault.0.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.round.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.number_in_index.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.len.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.writer.map_or(NOBODY, |machine| machine.0).to_le_bytes());
        bytes[56] = self.kind as u8;
        bytes[57] = self.why as u8;
        bytes[58] = u8::from(self.spread);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let what = "a tracked frame";
        let mut parts = Parts::new(bytes, what);
        let row = Self {
            id: FrameId(parts.take()?),
            vault: VaultNumber(u32::from_le_bytes(parts.take()?)),
            round: u32::from_le_bytes(parts.take()?),
            number_in_index: u64::from_le_bytes(parts.take()?),
            len: u32::from_le_bytes(parts.take()?),
            writer: Some(u32::from_le_bytes(parts.take()?)).filter(|&n| n != NOBODY).map(MachineNumber),
            kind: Kind::from_byte(parts.take::<1>()?[0]).ok_or_else(|| damaged(what))?,
            why: Why::from_byte(parts.take::<1>()?[0]).ok_or_else(|| damaged(what))?,
            spread: match parts.take::<1>()? {
                [0] => false,
                [1] => true,
                _ => return Err(damaged(what)),
            },
        };
        parts.end(row)
    }

    /// Key of its entry in [`OWED`] while `copies` machines besides the host hold it.
    pub(super) fn owed_key(&self, number: TrackedNumber, copies: usize) -> [u8; 9] {
        let mut key = [0; 9];
        key[0] = urgency(copies, self.kind);
        key[1..].copy_from_slice(&number.0.to_be_bytes());
        key
    }

    /// Key of its entry in [`OWED_BY_VAULT`].
    pub(super) fn owed_in_vault_key(&self, number: TrackedNumber) -> [u8; 24] {
        let mut key = [0; 24];
        key[..8].copy_from_slice(&round_prefix(self.vault, self.round));
        key[8..16].copy_from_slice(&self.number_in_index.to_be_bytes());
        key[16..].copy_from_slice(&number.0.to_be_bytes());
        key
    }
}

/// Class of urgency, lowest first: fewest copies, and branches before leaves.
fn urgency(copies: usize, kind: Kind) -> u8 {
    let copies = copies.min(127) as u8;
    2 * copies + u8::from(kind == Kind::Leaf)
}

/// What keys in [`OWED_BY_VAULT`] begin with.
pub(super) fn round_prefix(vault: VaultNumber, round: u32) -> [u8; 8] {
    (u64::from(vault.0) << 32 | u64::from(round)).to_be_bytes()
}

/// The index number in a key of [`OWED_BY_VAULT`] of this vault and round.
pub(super) fn number_in_owed_key(key: &[u8], prefix: [u8; 8]) -> kv::Result<Option<u64>> {
    let mut parts = Parts::new(key, "an owed entry");
    let of_round = parts.take()? == prefix;
    let number = u64::from_be_bytes(parts.take()?);
    parts.take::<8>()?;
    parts.end(of_round.then_some(number))
}

/// Key of a row in [`HELD`]: what a machine holds.
pub(super) fn held_key(machine: MachineNumber, number: TrackedNumber) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&machine.0.to_be_bytes());
    key[4..].copy_from_slice(&number.0.to_be_bytes());
    key
}

pub(super) fn read_held_key(key: &[u8]) -> kv::Result<(MachineNumber, TrackedNumber)> {
    let mut parts = Parts::new(key, "a row of what a machine holds");
    let machine = MachineNumber(u32::from_be_bytes(parts.take()?));
    let number = TrackedNumber(u64::from_be_bytes(parts.take()?));
    parts.end((machine, number))
}

/// Key of a row in [`HOLDERS`]: who holds a frame.
pub(super) fn holder_key(number: TrackedNumber, machine: MachineNumber) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&number.0.to_be_bytes());
    key[8..].copy_from_slice(&machine.0.to_be_bytes());
    key
}

pub(super) fn read_holder_key(key: &[u8]) -> kv::Result<(TrackedNumber, MachineNumber)> {
    let mut parts = Parts::new(key, "a row of who holds a frame");
    let number = TrackedNumber(u64::from_be_bytes(parts.take()?));
    let machine = MachineNumber(u32::from_be_bytes(parts.take()?));
    parts.end((number, machine))
}

/// What is counted of a vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct VaultRow {
    pub id: VaultId,
    /// Frames of its index below this number are entered.
    pub watermark: u64,
    pub round: u32,
    pub owed_frames: u64,
    pub owed_bytes: u64,
}

impl VaultRow {
    pub(super) fn encode(&self) -> [u8; 44] {
        let mut bytes = [0; 44];
        bytes[..16].copy_from_slice(&self.id.0);
        bytes[16..24].copy_from_slice(&self.watermark.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.round.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.owed_frames.to_le_bytes());
        bytes[36..].copy_from_slice(&self.owed_bytes.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let mut parts = Parts::new(bytes, "a row of a vault");
        let row = Self {
            id: VaultId(parts.take()?),
            watermark: u64::from_le_bytes(parts.take()?),
            round: u32::from_le_bytes(parts.take()?),
            owed_frames: u64::from_le_bytes(parts.take()?),
            owed_bytes: u64::from_le_bytes(parts.take()?),
        };
        parts.end(row)
    }
}

/// What a machine holds: how much, and the digest of the set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Inventory {
    /// Frames.
    pub frames: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Digest of their ids.
    pub digest: SetDigest,
}

impl Inventory {
    pub(super) fn encode(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&self.frames.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[16..].copy_from_slice(&self.digest.0);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let mut parts = Parts::new(bytes, "an inventory");
        let row = Self {
            frames: u64::from_le_bytes(parts.take()?),
            bytes: u64::from_le_bytes(parts.take()?),
            digest: SetDigest(parts.take()?),
        };
        parts.end(row)
    }
}

/// What a machine holds that the map does not know.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Junk {
    /// Frames.
    pub frames: u64,
    /// Digest of their ids.
    pub digest: SetDigest,
}

impl Junk {
    /// With one more.
    pub fn add(&mut self, id: &FrameId) {
        self.frames += 1;
        self.digest.add(id);
    }

    pub(super) fn encode(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.frames.to_le_bytes());
        bytes[8..].copy_from_slice(&self.digest.0);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let mut parts = Parts::new(bytes, "a sum of unknown frames");
        let row = Self { frames: u64::from_le_bytes(parts.take()?), digest: SetDigest(parts.take()?) };
        parts.end(row)
    }
}
