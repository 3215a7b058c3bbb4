//! The rows of a store of copies: what they look like, and reading them. The tables are listed in the parent's page.

use super::digest::SetDigest;
use crate::id::{FrameId, Kind, SessionId, VaultId};
use crate::kv::{self, KvError, Read, Table, Write};
use crate::limits::FRAME_LEN_MAX;
use crate::pack::PackName;
use std::ops::ControlFlow;
use std::time::Duration;

/// Version of the rows; an index of another version is built anew.
const VERSION: u32 = 1;

const COPIES: &[u8] = b"copies";
pub(super) const TOTALS: &[u8] = b"totals";
const UPTIME: &[u8] = b"uptime";
const PACKS: &[u8] = b"packs";

pub(super) fn damaged(what: &str) -> KvError {
    KvError::Damaged(format!("{what} has an impossible length or value"))
}

/// Number of a pack within one index, never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct PackNumber(pub u32);

/// How a frame stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Standing {
    /// Durable and believed.
    Held = 0,
    /// Found bad: remembered until it is put anew.
    Bad = 1,
    /// Dropped, and still there.
    Trash = 2,
}

/// Where a frame is. Places are ordered as the bytes lie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Place {
    pub pack: PackNumber,
    pub offset: u64,
}

impl Place {
    pub fn key(self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&self.pack.0.to_be_bytes());
        key[4..].copy_from_slice(&self.offset.to_be_bytes());
        key
    }

    pub fn from_key(key: &[u8]) -> kv::Result<Self> {
        let key: [u8; 12] = key.try_into().map_err(|_| damaged("a place"))?;
        let [a, b, c, d, offset @ ..] = key;
        Ok(Self { pack: PackNumber(u32::from_be_bytes([a, b, c, d])), offset: u64::from_be_bytes(offset) })
    }
}

/// What is known of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameState {
    pub place: Place,
    pub len: u32,
    pub standing: Standing,
}

impl FrameState {
    pub fn encode(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        bytes[..4].copy_from_slice(&self.place.pack.0.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.place.offset.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16] = self.standing as u8;
        bytes
    }

    fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let bytes: [u8; 17] = bytes.try_into().map_err(|_| damaged("a frame row"))?;
        let standing = match bytes[16] {
            0 => Standing::Held,
            1 => Standing::Bad,
            2 => Standing::Trash,
            _ => return Err(damaged("a frame row")),
        };
        let len = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        if len as usize > FRAME_LEN_MAX {
            return Err(damaged("a frame row"));
        }
        let pack = PackNumber(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        Ok(Self { place: Place { pack, offset: u64_at(&bytes, 4) }, len, standing })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Whether a pack still grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum PackState {
    /// Somebody writes it, or was killed doing so.
    Open = 0,
    /// It never changes again.
    Closed = 1,
    /// Nothing in it is needed: its file goes, then its row.
    Dropped = 2,
    /// As closed, and it holds bytes nobody understands: its file stays.
    Suspect = 3,
}

/// A pack as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PackRow {
    pub vault: VaultId,
    pub name: PackName,
    /// Where its last frame that was looked at ends.
    pub end: u64,
    pub state: PackState,
}

impl PackRow {
    const LEN: usize = 46;

    fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.end.to_le_bytes());
        bytes[8] = self.state as u8;
        bytes[9] = self.name.kind as u8;
        bytes[10..14].copy_from_slice(&self.name.number.to_le_bytes());
        bytes[14..30].copy_from_slice(&self.vault.0);
        bytes[30..].copy_from_slice(&self.name.session.0);
        bytes
    }

    fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let bytes: [u8; Self::LEN] = bytes.try_into().map_err(|_| damaged("a pack row"))?;
        let state = match bytes[8] {
            0 => PackState::Open,
            1 => PackState::Closed,
            2 => PackState::Dropped,
            3 => PackState::Suspect,
            _ => return Err(damaged("a pack row")),
        };
        let kind = Kind::from_byte(bytes[9]).ok_or_else(|| damaged("a pack row"))?;
        let mut row = Self {
            vault: VaultId([0; 16]),
            name: PackName {
                session: SessionId([0; 16]),
                kind,
                number: u32::from_le_bytes([bytes[10], bytes[11], bytes[12], bytes[13]]),
            },
            end: u64_at(&bytes, 0),
            state,
        };
        row.vault.0.copy_from_slice(&bytes[14..30]);
        row.name.session.0.copy_from_slice(&bytes[30..]);
        Ok(row)
    }
}

/// Sums over all rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Totals {
    pub sequence: u64,
    pub frames: u64,
    pub bytes: u64,
    pub trash_frames: u64,
    pub trash_bytes: u64,
    pub digest: SetDigest,
}

impl Totals {
    const LEN: usize = 72;

    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let numbers = [self.sequence, self.frames, self.bytes, self.trash_frames, self.trash_bytes];
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[8 * at..8 * at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[40..].copy_from_slice(&self.digest.0);
        bytes
    }

    fn decode(bytes: &[u8]) -> kv::Result<Self> {
        let bytes: [u8; Self::LEN] = bytes.try_into().map_err(|_| damaged("the sums"))?;
        let mut digest = SetDigest::default();
        digest.0.copy_from_slice(&bytes[40..]);
        Ok(Self {
            sequence: u64_at(&bytes, 0),
            frames: u64_at(&bytes, 8),
            bytes: u64_at(&bytes, 16),
            trash_frames: u64_at(&bytes, 24),
            trash_bytes: u64_at(&bytes, 32),
            digest,
        })
    }

    /// Counts a frame in or out.
    pub fn count(&mut self, id: &FrameId, state: &FrameState, is_in: bool) -> kv::Result<()> {
        let step = |number: &mut u64, by: u64| -> kv::Result<()> {
            let stepped = if is_in { number.checked_add(by) } else { number.checked_sub(by) };
            *number = stepped.ok_or_else(|| damaged("a sum"))?;
            Ok(())
        };
        match state.standing {
            Standing::Held => {
                step(&mut self.frames, 1)?;
                step(&mut self.bytes, state.len.into())?;
                if is_in { self.digest.add(id) } else { self.digest.remove(id) }
            }
            Standing::Trash => {
                step(&mut self.trash_frames, 1)?;
                step(&mut self.trash_bytes, state.len.into())?;
            }
            Standing::Bad => {}
        }
        Ok(())
    }
}

/// Writes the first rows.
pub(super) fn init(write: &mut dyn Write, incarnation: &[u8; 16]) -> kv::Result<()> {
    write.put(Table::Meta, COPIES, &[&VERSION.to_le_bytes()[..], incarnation].concat())?;
    write.put(Table::Meta, TOTALS, &Totals::default().encode())
}

/// The incarnation an index belongs to; `None` for an index of another version or of something else.
pub(super) fn incarnation(read: &dyn Read) -> kv::Result<Option<[u8; 16]>> {
    let Some(bytes) = read.get(Table::Meta, COPIES)? else { return Ok(None) };
    let Some((version, incarnation)) = bytes.split_at_checked(4) else { return Ok(None) };
    Ok(incarnation.try_into().ok().filter(|_| version == VERSION.to_le_bytes()))
}

/// The sums as they stand.
pub(super) fn totals(read: &dyn Read) -> kv::Result<Totals> {
    Totals::decode(read.get(Table::Meta, TOTALS)?.ok_or_else(|| damaged("the sums"))?)
}

/// How long the store has been up, all told.
pub(super) fn uptime(read: &dyn Read) -> kv::Result<Duration> {
    match read.get(Table::Meta, UPTIME)? {
        None => Ok(Duration::ZERO),
        Some(bytes) => Ok(Duration::from_nanos(u64::from_le_bytes(bytes.try_into().map_err(|_| damaged("a time"))?))),
    }
}

/// Nanoseconds in 64 bits: 584 years.
pub(super) fn nanos(time: Duration) -> [u8; 8] {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_le_bytes()
}

/// Notes how long the store has been up.
pub(super) fn put_uptime(write: &mut dyn Write, uptime: Duration) -> kv::Result<()> {
    write.put(Table::Meta, UPTIME, &nanos(uptime))
}

/// What is known of a frame.
pub(super) fn frame(read: &dyn Read, id: &FrameId) -> kv::Result<Option<FrameState>> {
    read.get(Table::Chunks, &id.0)?.map(FrameState::decode).transpose()
}

/// Frames from a name on, in the order of names, until `visit` says no.
pub(super) fn frames_by_name(
    read: &dyn Read,
    from: &[u8],
    visit: &mut dyn FnMut(FrameId, FrameState) -> bool,
) -> kv::Result<()> {
    scan(read, Table::Chunks, from, &mut |key, value| {
        let id = FrameId::from_slice(key).ok_or_else(|| damaged("a frame id"))?;
        Ok(visit(id, FrameState::decode(value)?))
    })
}

/// Frames from a place on, in the order of their places, until `visit` says no.
pub(super) fn frames_by_place(
    read: &dyn Read,
    from: Place,
    visit: &mut dyn FnMut(Place, FrameId) -> bool,
) -> kv::Result<()> {
    scan(read, Table::Frames, &from.key(), &mut |key, value| {
        let id = FrameId::from_slice(value).ok_or_else(|| damaged("a frame id"))?;
        Ok(visit(Place::from_key(key)?, id))
    })
}

/// All frames that have their place in a pack, as they lie.
pub(super) fn frames_in(read: &dyn Read, pack: PackNumber) -> kv::Result<Vec<(FrameId, FrameState)>> {
    let mut ids = Vec::new();
    frames_by_place(read, Place { pack, offset: 0 }, &mut |place, id| {
        if place.pack == pack {
            ids.push((place, id));
        }
        place.pack == pack
    })?;
    let state = |(place, id): (Place, FrameId)| match frame(read, &id)? {
        Some(state) if state.place == place => Ok((id, state)),
        _ => Err(damaged("a place")),
    };
    ids.into_iter().map(state).collect()
}

/// A frame in trash: since when, counted in the store's uptime.
pub(super) fn dropped_at(read: &dyn Read, id: &FrameId) -> kv::Result<Duration> {
    let bytes = read.get(Table::Condemned, &id.0)?.ok_or_else(|| damaged("trash"))?;
    Ok(Duration::from_nanos(u64::from_le_bytes(bytes.try_into().map_err(|_| damaged("a time"))?)))
}

/// All packs, by number.
pub(super) fn packs(read: &dyn Read) -> kv::Result<Vec<(PackNumber, PackRow)>> {
    let mut rows = Vec::new();
    scan(read, Table::Packs, &[], &mut |key, value| {
        let number = u32::from_be_bytes(key.try_into().map_err(|_| damaged("a pack number"))?);
        rows.push((PackNumber(number), PackRow::decode(value)?));
        Ok(true)
    })?;
    Ok(rows)
}

/// One pack, which must have a row.
pub(super) fn pack(read: &dyn Read, number: PackNumber) -> kv::Result<PackRow> {
    pack_if_any(read, number)?.ok_or_else(|| damaged("a pack number"))
}

/// One pack.
pub(super) fn pack_if_any(read: &dyn Read, number: PackNumber) -> kv::Result<Option<PackRow>> {
    read.get(Table::Packs, &number.0.to_be_bytes())?.map(PackRow::decode).transpose()
}

/// Writes the row of a pack.
pub(super) fn put_pack(write: &mut dyn Write, number: PackNumber, row: &PackRow) -> kv::Result<()> {
    write.put(Table::Packs, &number.0.to_be_bytes(), &row.encode())
}

/// Forgets a pack whose file is gone.
pub(super) fn delete_pack(write: &mut dyn Write, number: PackNumber) -> kv::Result<()> {
    write.delete(Table::Packs, &number.0.to_be_bytes()).map(|_| ())
}

/// A number no pack has had.
pub(super) fn next_pack(write: &mut dyn Write) -> kv::Result<PackNumber> {
    let next = match write.get(Table::Meta, PACKS)? {
        None => 0,
        Some(bytes) => u32::from_le_bytes(bytes.try_into().map_err(|_| damaged("the count of packs"))?),
    };
    let after = next.checked_add(1).ok_or_else(|| damaged("the count of packs"))?;
    write.put(Table::Meta, PACKS, &after.to_le_bytes())?;
    Ok(PackNumber(next))
}

/// Called for each row; no, or an error, ends the scan.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> kv::Result<bool> + 'a;

fn scan(read: &dyn Read, table: Table, from: &[u8], visit: &mut Visit<'_>) -> kv::Result<()> {
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

/// The sums made anew from the rows, which must agree with each other.
pub(super) fn recount(read: &dyn Read) -> kv::Result<Totals> {
    let mut sums = Totals { sequence: totals(read)?.sequence, ..Totals::default() };
    let mut rows = Vec::new();
    frames_by_name(read, &[], &mut |id, state| {
        rows.push((id, state));
        true
    })?;
    for (id, state) in &rows {
        sums.count(id, state, true)?;
        if read.get(Table::Frames, &state.place.key())? != Some(&id.0[..]) {
            return Err(damaged("a place"));
        }
        if state.standing == Standing::Trash {
            dropped_at(read, id)?;
        }
        let pack = pack(read, state.place.pack)?;
        if pack.state == PackState::Dropped || state.place.offset.saturating_add(state.len.into()) > pack.end {
            return Err(damaged("a place"));
        }
    }
    match (read.count(Table::Frames)?, read.count(Table::Condemned)?) {
        (frames, trash) if (frames, trash) == (rows.len() as u64, sums.trash_frames) => Ok(sums),
        _ => Err(damaged("a count of rows")),
    }
}
