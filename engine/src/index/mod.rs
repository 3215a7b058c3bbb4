//! The index: where each chunk is, and whether it is admitted. Rows over a [`kv`](crate::kv) map.
//!
//! What always holds: a row that says *admitted* was written after the bytes it names were durable, and after
//! everything its chunk refers to was admitted. All of it can be made again from packs.
//!
//! ```text
//! table    key                     value
//! chunks, young
//!          chunk id (32)           frame number (u40, little-endian) · position (u16) · state (1): 0 admitted, 1 unwhole, 2 suspect, 3 leaning
//! frames   number (u40 big-endian) frame id (32) · pack number (u32) · offset (u64) · length (u32) · chunks (u16) · kind (1) · state (1)
//! packs    number (u32 big-endian) indexed length (u64) · state (1) · file name
//! unwhole  chunk id (32)           a branch that is stored while something below it is missing: one id it lacks (32)
//! condemned number (u40 big-endian) bits of the condemned positions of a frame, lowest first; empty: all of them
//! leaning  chunk id (32)           a branch that relies on something condemned: one such id (32)
//! meta     "version", "vault"      format version (u32), vault id (16)
//!          "frames", "packs"       a number below which none is given again (u64)
//!          "gc"                    where a collection of garbage stands, see [`Collection`]
//!          "gc-awaited"            ids of the sessions it waits for (16 each)
//!          "removed " · frame id (32)      empty: it is gone, and whoever holds a copy was not told yet
//! ```
//!
//! Numbers of frames and packs are never given twice, so what somebody remembers is right or gone.

mod admit;
mod chunks;
mod condemn;
mod removed;

pub use admit::{AllBranches, NewFrame, ReadHeader, absent_below, admit, expel, put_suspects, readmit};
pub use chunks::{chunk, chunk_rows_as_they_are, chunks_from, delete_chunk, put_chunk, settle_young};
pub use condemn::{
    Collection, Phase, Standing, View, awaited, clear_condemned, collection, condemned_bits, condemned_from,
    is_condemned, is_set, is_swept, leaning, put_awaited, put_collection, put_condemned, settle_leaning, standing,
};
pub use removed::{forget_removed, note_removed, removed};

use crate::id::{ChunkId, FrameId, Kind, VaultId};
use crate::kv::{self, KvError, Read, Table, Write};
use crate::pack::PackName;
use std::ops::ControlFlow;

/// Version of the rows; an index of another version is built anew.
pub const VERSION: u32 = 3;

/// Number of a frame within one index. Not stable across rebuilds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameNumber(pub u64);

/// Number of a pack within one index. Not stable across rebuilds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackNumber(pub u32);

const FRAME_NUMBER_MAX: u64 = (1 << 40) - 1;

impl FrameNumber {
    fn key(self) -> [u8; 5] {
        let bytes = self.0.to_be_bytes();
        [bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
    }

    fn from_key(key: &[u8]) -> kv::Result<Self> {
        let bytes: [u8; 5] = key.try_into().map_err(|_| damaged("a frame number"))?;
        Ok(Self(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))))
    }

    fn next(self) -> kv::Result<Self> {
        match self.0 < FRAME_NUMBER_MAX {
            true => Ok(Self(self.0 + 1)),
            false => Err(KvError::Damaged("frame numbers are used up: rebuild the index".into())),
        }
    }
}

fn damaged(what: &str) -> KvError {
    KvError::Damaged(format!("{what} has an impossible length or value"))
}

/// Whether a stored chunk may be relied on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ChunkState {
    /// It and everything below it is there.
    Admitted = 0,
    /// It is there, something below it is not.
    Unwhole = 1,
    /// Its frame was found bad. The place is kept, for what can still be read there is worth more than nothing.
    Suspect = 2,
    /// It and everything below it is there, but something below it is condemned.
    Leaning = 3,
}

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRow {
    /// Frame that holds it.
    pub frame: FrameNumber,
    /// Position in that frame.
    pub position: u16,
    /// May it be relied on?
    pub state: ChunkState,
}

impl ChunkRow {
    fn encode(self) -> [u8; 8] {
        let mut bytes = self.frame.0.to_le_bytes();
        bytes[5..7].copy_from_slice(&self.position.to_le_bytes());
        bytes[7] = self.state as u8;
        bytes
    }

    fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let bytes: [u8; 8] = bytes.try_into().map_err(|_| damaged("a chunk row"))?;
        let state = match bytes[7] {
            0 => ChunkState::Admitted,
            1 => ChunkState::Unwhole,
            2 => ChunkState::Suspect,
            3 => ChunkState::Leaning,
            _ => return Err(damaged("a chunk row")),
        };
        let mut frame = [0; 8];
        frame[..5].copy_from_slice(&bytes[..5]);
        Ok(Self {
            frame: FrameNumber(u64::from_le_bytes(frame)),
            position: u16::from_le_bytes([bytes[5], bytes[6]]),
            state,
        })
    }
}

/// Whether a stored frame is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameState {
    /// It was verified when it was stored.
    Good = 0,
    /// It was found damaged or gone; its chunks are suspect, or have other places.
    Bad = 1,
}

/// Where a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramePlace {
    /// Name of the frame.
    pub id: FrameId,
    /// Pack that holds it.
    pub pack: PackNumber,
    /// Where it begins in the pack, bytes.
    pub offset: u64,
    /// Its length, bytes.
    pub len: u32,
    /// How many chunks it holds.
    pub chunks: u16,
    /// Leaves or branches.
    pub kind: Kind,
    /// Is it believed?
    pub state: FrameState,
}

const FRAME_ROW_LEN: usize = 52;

impl FramePlace {
    fn encode(&self) -> [u8; FRAME_ROW_LEN] {
        let mut bytes = [0; FRAME_ROW_LEN];
        bytes[..32].copy_from_slice(&self.id.0);
        bytes[32..36].copy_from_slice(&self.pack.0.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.offset.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.len.to_le_bytes());
        bytes[48..50].copy_from_slice(&self.chunks.to_le_bytes());
        bytes[50] = self.kind as u8;
        bytes[51] = self.state as u8;
        bytes
    }

    fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let bytes: &[u8; FRAME_ROW_LEN] = bytes.try_into().map_err(|_| damaged("a frame row"))?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Ok(Self {
            id: FrameId::from_slice(&bytes[..32]).ok_or_else(|| damaged("a frame row"))?,
            pack: PackNumber(word(32)),
            offset: u64::from(word(36)) | u64::from(word(40)) << 32,
            len: word(44),
            chunks: u16::from_le_bytes([bytes[48], bytes[49]]),
            kind: Kind::from_byte(bytes[50]).ok_or_else(|| damaged("a frame row"))?,
            state: match bytes[51] {
                0 => FrameState::Good,
                1 => FrameState::Bad,
                _ => return Err(damaged("a frame row")),
            },
        })
    }
}

/// How much of a pack the index covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PackState {
    /// It may still grow, or was left so by a session that ended early.
    Open = 0,
    /// Nothing more is to be read from it.
    Closed = 1,
    /// It is shorter than it was, or gone: every frame in it counts as bad.
    Lost = 2,
    /// Nothing in it is needed; its file is about to be removed.
    Dropped = 3,
    /// A repair copied out of it what verifies and put its file into `aside/`. Bad frames in it may still be tried.
    Aside = 4,
}

/// A pack as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackRow {
    /// Its file.
    pub name: PackName,
    /// Bytes from its start that have been looked at.
    pub indexed_len: u64,
    /// May it grow?
    pub state: PackState,
}

impl PackRow {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.indexed_len.to_le_bytes().to_vec();
        bytes.push(self.state as u8);
        bytes.extend_from_slice(self.name.file_name().as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let bad = || damaged("a pack row");
        let (len, rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
        let (&state, name) = rest.split_first().ok_or_else(bad)?;
        let name = std::str::from_utf8(name).ok().and_then(PackName::from_file_name).ok_or_else(bad)?;
        let state = match state {
            0 => PackState::Open,
            1 => PackState::Closed,
            2 => PackState::Lost,
            3 => PackState::Dropped,
            4 => PackState::Aside,
            _ => return Err(bad()),
        };
        Ok(Self { name, indexed_len: u64::from_le_bytes(*len), state })
    }
}

/// Where a frame is; a number that no row has is damage.
pub fn frame(read: &dyn Read, number: FrameNumber) -> kv::Result<FramePlace> {
    match read.get(Table::Frames, &number.key())? {
        Some(row) => FramePlace::decode(row),
        None => Err(KvError::Damaged(format!("frame {} has no row", number.0))),
    }
}

/// The place of a frame, `None` if it has no row.
pub fn frame_if_any(read: &dyn Read, number: FrameNumber) -> kv::Result<Option<FramePlace>> {
    read.get(Table::Frames, &number.key())?.map(FramePlace::decode).transpose()
}

/// The row of a pack, `None` if it has none.
pub fn pack(read: &dyn Read, number: PackNumber) -> kv::Result<Option<PackRow>> {
    read.get(Table::Packs, &number.0.to_be_bytes())?.map(PackRow::decode).transpose()
}

/// All packs by number.
pub fn packs(read: &dyn Read) -> kv::Result<Vec<(PackNumber, PackRow)>> {
    collect(read, Table::Packs, |key, value| {
        let number: [u8; 4] = key.try_into().map_err(|_| damaged("a pack number"))?;
        Ok((PackNumber(u32::from_be_bytes(number)), PackRow::decode(value)?))
    })
}

/// Up to `count` frames with numbers from `from` on.
pub fn frames_from(read: &dyn Read, from: FrameNumber, count: usize) -> kv::Result<Vec<(FrameNumber, FramePlace)>> {
    let mut rows = Vec::new();
    scan(read, Table::Frames, &from.key(), |key, value| {
        rows.push((FrameNumber::from_key(key)?, FramePlace::decode(value)?));
        Ok(rows.len() < count)
    })?;
    Ok(rows)
}

/// Ids of all branches that are stored but not whole.
pub fn unwhole(read: &dyn Read) -> kv::Result<Vec<ChunkId>> {
    Ok(unwhole_rows(read)?.into_iter().map(|(id, _)| id).collect())
}

/// Whether a branch is among those that are stored and not whole.
pub fn is_listed_unwhole(read: &dyn Read, id: &ChunkId) -> kv::Result<bool> {
    Ok(read.get(Table::Unwhole, &id.0)?.is_some())
}

/// Every unwhole branch with one chunk that it lacks.
fn unwhole_rows(read: &dyn Read) -> kv::Result<Vec<(ChunkId, ChunkId)>> {
    collect(read, Table::Unwhole, |key, value| {
        ChunkId::from_slice(key).zip(ChunkId::from_slice(value)).ok_or_else(|| damaged("an unwhole row"))
    })
}

fn put_unwhole(write: &mut dyn Write, id: &ChunkId, lack: &ChunkId) -> kv::Result<()> {
    write.put(Table::Unwhole, &id.0, &lack.0)
}

fn collect<T>(read: &dyn Read, table: Table, parse: impl Fn(&[u8], &[u8]) -> kv::Result<T>) -> kv::Result<Vec<T>> {
    let mut rows = Vec::new();
    scan(read, table, &[], |key, value| {
        rows.push(parse(key, value)?);
        Ok(true)
    })?;
    Ok(rows)
}

fn scan(
    read: &dyn Read,
    table: Table,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> kv::Result<bool>,
) -> kv::Result<()> {
    let mut outcome = Ok(());
    read.scan(table, from, &mut |key, value| match visit(key, value) {
        Ok(true) => ControlFlow::Continue(()),
        Ok(false) => ControlFlow::Break(()),
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    })?;
    outcome
}

/// Writes what makes an empty map an index of `vault`.
pub fn init(write: &mut dyn Write, vault: VaultId) -> kv::Result<()> {
    write.put(Table::Meta, b"version", &VERSION.to_le_bytes())?;
    write.put(Table::Meta, b"vault", &vault.0)
}

/// Whether the map is an index of `vault` in this version.
pub fn belongs(read: &dyn Read, vault: VaultId) -> kv::Result<bool> {
    Ok(read.get(Table::Meta, b"version")? == Some(&VERSION.to_le_bytes()[..])
        && read.get(Table::Meta, b"vault")? == Some(&vault.0[..]))
}

/// Sets a pack's row; a new pack gets the next number.
pub fn put_pack(write: &mut dyn Write, number: PackNumber, row: &PackRow) -> kv::Result<()> {
    write.put(Table::Packs, &number.0.to_be_bytes(), &row.encode())
}

/// Forgets a pack; its number is not given again.
pub fn delete_pack(write: &mut dyn Write, number: PackNumber) -> kv::Result<()> {
    let next = next_pack(write)?;
    keep_number(write, PACKS, u64::from(next.0))?;
    write.delete(Table::Packs, &number.0.to_be_bytes()).map(drop)
}

/// The number the next pack gets.
pub fn next_pack(read: &dyn Read) -> kv::Result<PackNumber> {
    let kept = u32::try_from(kept_number(read, PACKS)?).map_err(|_| damaged("a pack number"))?;
    let Some((key, _)) = read.last(Table::Packs)? else { return Ok(PackNumber(kept)) };
    let number: [u8; 4] = key.try_into().map_err(|_| damaged("a pack number"))?;
    let next = u32::from_be_bytes(number).checked_add(1).ok_or_else(|| damaged("a pack number"))?;
    Ok(PackNumber(next.max(kept)))
}

/// The number the next frame gets.
pub fn next_frame(read: &dyn Read) -> kv::Result<FrameNumber> {
    let kept = FrameNumber(kept_number(read, FRAMES)?);
    match read.last(Table::Frames)? {
        Some((key, _)) => Ok(FrameNumber::from_key(key)?.next()?.max(kept)),
        None => Ok(kept),
    }
}

const FRAMES: &[u8] = b"frames";
const PACKS: &[u8] = b"packs";

fn kept_number(read: &dyn Read, key: &[u8]) -> kv::Result<u64> {
    match read.get(Table::Meta, key)? {
        Some(bytes) => Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| damaged("a kept number"))?)),
        None => Ok(0),
    }
}

fn keep_number(write: &mut dyn Write, key: &[u8], next: u64) -> kv::Result<()> {
    match kept_number(write, key)? < next && !crate::zoo::planted("numbers-given-again") {
        true => write.put(Table::Meta, key, &next.to_le_bytes()),
        false => Ok(()),
    }
}

/// Forgets frames, and which of their positions were condemned; their numbers are not given again.
pub fn delete_frames(write: &mut dyn Write, numbers: &[FrameNumber]) -> kv::Result<()> {
    let next = next_frame(write)?;
    keep_number(write, FRAMES, next.0)?;
    for number in numbers {
        write.delete(Table::Frames, &number.key())?;
        write.delete(Table::Condemned, &number.key())?;
    }
    Ok(())
}

/// Sets where a frame is.
pub fn put_frame(write: &mut dyn Write, number: FrameNumber, place: &FramePlace) -> kv::Result<()> {
    write.put(Table::Frames, &number.key(), &place.encode())
}

#[cfg(test)]
mod tests;
