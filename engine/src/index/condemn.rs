//! What a collection of garbage writes into the index: which places are condemned, and who may still count on them.
//!
//! What always holds: the set of chunks that are *firm* (admitted, at a place that is not condemned) is closed under
//! reference. So who counts on firm chunks only has everything below them too, whatever is swept.

use super::{ChunkRow, ChunkState, FrameNumber, chunk, damaged, put_chunk};
use crate::id::{ChunkId, SessionId};
use crate::kv::{self, Read, Table, Write};

/// How far a collection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Phase {
    /// There is none.
    #[default]
    None = 0,
    /// Places are condemned. Sessions that began before may use them, and a second look decides.
    Condemned = 1,
    /// What is still condemned is being removed.
    Sweeping = 2,
}

/// Where a collection stands: phase (u8) · epoch (u64) · end (u64), little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Collection {
    /// How far it has come.
    pub phase: Phase,
    /// Counts condemnations.
    pub epoch: u64,
    /// Only frames with smaller numbers were condemned.
    pub end: FrameNumber,
}

const GC: &[u8] = b"gc";

/// Where the collection stands.
pub fn collection(read: &dyn Read) -> kv::Result<Collection> {
    let Some(bytes) = read.get(Table::Meta, GC)? else {
        return Ok(Collection { phase: Phase::None, epoch: 0, end: FrameNumber(0) });
    };
    let bytes: &[u8; 17] = bytes.try_into().map_err(|_| damaged("the collection's row"))?;
    let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    let phase = match bytes[0] {
        0 => Phase::None,
        1 => Phase::Condemned,
        2 => Phase::Sweeping,
        _ => return Err(damaged("the collection's row")),
    };
    Ok(Collection { phase, epoch: word(1), end: FrameNumber(word(9)) })
}

/// Sets where the collection stands.
pub fn put_collection(write: &mut dyn Write, collection: &Collection) -> kv::Result<()> {
    let mut bytes = vec![collection.phase as u8];
    bytes.extend_from_slice(&collection.epoch.to_le_bytes());
    bytes.extend_from_slice(&collection.end.0.to_le_bytes());
    write.put(Table::Meta, GC, &bytes)
}

const AWAITED: &[u8] = b"gc-awaited";

/// The sessions that were running when what is condemned was condemned; none where nobody has looked yet.
pub fn awaited(read: &dyn Read) -> kv::Result<Option<Vec<SessionId>>> {
    let Some(bytes) = read.get(Table::Meta, AWAITED)? else { return Ok(None) };
    let (ids, []) = bytes.as_chunks::<{ SessionId::LEN }>() else { return Err(damaged("the awaited sessions")) };
    Ok(Some(ids.iter().map(|id| SessionId(*id)).collect()))
}

/// Remembers whom a collection waits for; none forgets it.
pub fn put_awaited(write: &mut dyn Write, sessions: Option<&[SessionId]>) -> kv::Result<()> {
    match sessions {
        Some(sessions) => write.put(Table::Meta, AWAITED, &sessions.iter().flat_map(|id| id.0).collect::<Vec<_>>()),
        None => write.delete(Table::Meta, AWAITED).map(drop),
    }
}

/// Whether a place is condemned.
pub fn is_condemned(read: &dyn Read, frame: FrameNumber, position: u16) -> kv::Result<bool> {
    let bits = read.get(Table::Condemned, &frame.key())?;
    Ok(bits.is_some_and(|bits| is_set(bits, position)))
}

/// Whether a position is among these; no bits stand for all positions.
pub fn is_set(bits: &[u8], position: u16) -> bool {
    bits.is_empty() || bits.get(usize::from(position / 8)).is_some_and(|byte| byte >> (position % 8) & 1 == 1)
}

/// Bits of the condemned positions of a frame; none where it has none. See [`condemned_from`].
pub fn condemned_bits(read: &dyn Read, frame: FrameNumber) -> kv::Result<Option<Vec<u8>>> {
    Ok(read.get(Table::Condemned, &frame.key())?.map(<[u8]>::to_vec))
}

/// Condemns positions of a frame; see [`condemned_from`] for the bits.
pub fn put_condemned(write: &mut dyn Write, frame: FrameNumber, bits: &[u8]) -> kv::Result<()> {
    write.put(Table::Condemned, &frame.key(), bits)
}

/// Whether something in a frame is being removed now.
pub fn is_swept(read: &dyn Read, frame: FrameNumber) -> kv::Result<bool> {
    Ok(collection(read)?.phase == Phase::Sweeping && condemned_bits(read, frame)?.is_some())
}

/// Takes back the condemnation of a whole frame.
pub fn clear_condemned(write: &mut dyn Write, frame: FrameNumber) -> kv::Result<()> {
    write.delete(Table::Condemned, &frame.key()).map(drop)
}

/// Up to `count` frames from `from` on that have condemned positions, with their bits: lowest position first, eight a
/// byte; none at all stand for every position.
pub fn condemned_from(read: &dyn Read, from: FrameNumber, count: usize) -> kv::Result<Vec<(FrameNumber, Vec<u8>)>> {
    let mut rows = Vec::new();
    super::scan(read, Table::Condemned, &from.key(), |key, bits| {
        rows.push((FrameNumber::from_key(key)?, bits.to_vec()));
        Ok(rows.len() < count)
    })?;
    Ok(rows)
}

/// Branches that lean on something condemned, each with one such chunk.
pub fn leaning(read: &dyn Read) -> kv::Result<Vec<(ChunkId, ChunkId)>> {
    super::collect(read, Table::Leaning, |key, value| {
        ChunkId::from_slice(key).zip(ChunkId::from_slice(value)).ok_or_else(|| damaged("a leaning row"))
    })
}

/// Ends a branch's leaning: it becomes admitted if it was reached. Returns its row if it was not.
pub fn settle_leaning(write: &mut dyn Write, id: &ChunkId, is_reached: bool) -> kv::Result<Option<ChunkRow>> {
    write.delete(Table::Leaning, &id.0)?;
    match chunk(write, id)?.filter(|row| row.state == ChunkState::Leaning) {
        Some(row) if is_reached => put_chunk(write, id, ChunkRow { state: ChunkState::Admitted, ..row }).map(|()| None),
        row => Ok(row),
    }
}

/// How far a chunk may be counted on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has no row.
    Absent,
    /// It has a place, which is not believed or lacks something below.
    Doubtful,
    /// It and everything below it is there, for those who may use what is condemned.
    Condemned,
    /// It and everything below it is there and stays.
    Firm,
}

/// Standing of a chunk.
pub fn standing(read: &dyn Read, id: &ChunkId) -> kv::Result<Standing> {
    match chunk(read, id)? {
        Some(row) => standing_of(read, &row),
        None => Ok(Standing::Absent),
    }
}

/// Standing of a chunk that has this row.
pub(super) fn standing_of(read: &dyn Read, row: &ChunkRow) -> kv::Result<Standing> {
    match row.state {
        ChunkState::Unwhole | ChunkState::Suspect => Ok(Standing::Doubtful),
        ChunkState::Leaning => Ok(Standing::Condemned),
        ChunkState::Admitted if is_condemned(read, row.frame, row.position)? => Ok(Standing::Condemned),
        ChunkState::Admitted => Ok(Standing::Firm),
    }
}

/// What somebody may count on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    least: Standing,
}

impl View {
    /// Only what stays.
    pub const FIRM: Self = Self { least: Standing::Firm };

    /// For a session that began when `epoch` condemnations had been made.
    pub fn of_session(read: &dyn Read, epoch: u64) -> kv::Result<Self> {
        let now = collection(read)?;
        let is_older = now.phase == Phase::Condemned && epoch < now.epoch;
        let trusts = is_older || crate::zoo::planted("new-session-uses-condemned");
        Ok(Self { least: if trusts { Standing::Condemned } else { Standing::Firm } })
    }

    /// For admission: what the row of a branch may rest on. Once sweeping has begun, what is condemned counts as gone.
    pub(super) fn of_admission(read: &dyn Read) -> kv::Result<Self> {
        let is_sweeping =
            collection(read)?.phase == Phase::Sweeping && !crate::zoo::planted("sweeping-admits-condemned");
        Ok(Self { least: if is_sweeping { Standing::Firm } else { Standing::Condemned } })
    }

    /// Whether a chunk of this standing may be counted on.
    pub fn admits(self, standing: Standing) -> bool {
        standing == Standing::Firm || standing == self.least
    }

    /// Whether a chunk may be counted on.
    pub fn has(self, read: &dyn Read, id: &ChunkId) -> kv::Result<bool> {
        Ok(self.admits(standing(read, id)?))
    }
}
