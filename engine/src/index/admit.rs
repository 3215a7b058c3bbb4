//! Admission: how rows get into the index, and how they lose their standing.
//!
//! Leaves are admitted once they are durable. A branch is admitted only when everything it refers to is; until then
//! it stands as *unwhole*, which no reader relies on and which a later admission of what it lacks turns into whole.

use super::{
    ChunkRow, ChunkState, FrameNumber, FramePlace, FrameState, PackNumber, chunk, frame, is_admitted, next_frame,
    put_chunk, put_frame, unwhole,
};
use crate::frame::FrameHeader;
use crate::id::{ChunkId, Kind};
use crate::kv::{self, Table, Write};
use crate::pack::FrameRow;
use std::collections::HashSet;

/// A durable frame whose chunks ask for admission.
pub struct NewFrame {
    /// Where it is.
    pub place: FramePlace,
    /// Its chunks by position.
    pub ids: Vec<ChunkId>,
    /// References by position; empty for leaves.
    pub refs: Vec<Vec<ChunkId>>,
}

impl NewFrame {
    /// A frame that a scan of a pack found and verified.
    pub fn scanned(pack: PackNumber, row: &FrameRow, header: FrameHeader) -> Self {
        let refs = match header.kind {
            Kind::Leaf => Vec::new(),
            Kind::Branch => (0..header.ids.len()).map(|position| header.refs(position).to_vec()).collect(),
        };
        let place = FramePlace {
            id: row.id,
            pack,
            offset: row.offset,
            len: row.len,
            kind: header.kind,
            state: FrameState::Good,
        };
        Self { place, ids: header.ids, refs }
    }
}

/// What an admission left.
#[derive(Default, Debug)]
pub struct Admitted {
    /// Chunks that the new branches refer to and that are not there.
    pub missing: Vec<ChunkId>,
    /// Branches from before that have become whole.
    pub healed: Vec<ChunkId>,
}

/// Reads the references of a stored branch, `None` when its frame cannot be read.
pub type ReadRefs<'a> = dyn Fn(&FramePlace, u16) -> Option<Vec<ChunkId>> + 'a;

/// Enters durable frames. Leaves of all frames first, then branches until no further one becomes whole.
///
/// Rows are written in id order: that is what makes the map write fast and dense.
pub fn admit(write: &mut dyn Write, frames: &[NewFrame], read_refs: &ReadRefs<'_>) -> kv::Result<Admitted> {
    let first = next_frame(write)?;
    let numbered = frames.iter().enumerate().map(|(i, frame)| (FrameNumber(first.0 + i as u64), frame));
    for (number, new) in numbered.clone() {
        put_frame(write, number, &new.place)?;
    }
    let mut leaves = rows(numbered.clone().filter(|(_, new)| new.place.kind == Kind::Leaf));
    leaves.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    leaves.dedup_by(|a, b| a.0 == b.0);
    for (id, row) in &leaves {
        put_chunk(write, id, *row)?;
    }
    let here: HashSet<ChunkId> = leaves.into_iter().map(|(id, _)| id).collect();
    let mut admitted = admit_branches(write, numbered.filter(|(_, new)| new.place.kind == Kind::Branch), here)?;
    admitted.healed = heal(write, read_refs)?;
    let write = &*write;
    let mut still_missing = Vec::new();
    for id in admitted.missing {
        if !is_admitted(write, &id)? {
            still_missing.push(id);
        }
    }
    still_missing.sort_unstable();
    still_missing.dedup();
    admitted.missing = still_missing;
    Ok(admitted)
}

fn rows<'a>(frames: impl Iterator<Item = (FrameNumber, &'a NewFrame)>) -> Vec<(ChunkId, ChunkRow)> {
    let rows = frames.flat_map(|(frame, new)| {
        new.ids.iter().enumerate().map(move |(position, &id)| {
            (id, ChunkRow { frame, position: position as u16, state: ChunkState::Admitted })
        })
    });
    rows.collect()
}

fn admit_branches<'a>(
    write: &mut dyn Write,
    frames: impl Iterator<Item = (FrameNumber, &'a NewFrame)>,
    mut here: HashSet<ChunkId>,
) -> kv::Result<Admitted> {
    let mut waiting: Vec<(ChunkId, ChunkRow, &[ChunkId])> = Vec::new();
    for (number, new) in frames {
        for (position, (&id, refs)) in new.ids.iter().zip(&new.refs).enumerate() {
            let row = ChunkRow { frame: number, position: position as u16, state: ChunkState::Admitted };
            waiting.push((id, row, refs));
        }
    }
    let mut whole = Vec::new();
    let mut missing = Vec::new();
    loop {
        missing.clear();
        let before = waiting.len();
        let mut still = Vec::new();
        for (id, row, refs) in waiting {
            let lacking = lacking(write, refs, &here)?;
            if lacking.is_empty() || crate::zoo::planted("admit-without-closure") {
                here.insert(id);
                whole.push((id, row));
            } else {
                missing.extend(lacking);
                still.push((id, row, refs));
            }
        }
        waiting = still;
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    whole.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (id, row) in &whole {
        put_chunk(write, id, *row)?;
        write.delete(Table::Unwhole, &id.0)?;
    }
    for (id, row, _) in waiting {
        // An admitted place from before is worth more than this one.
        if !is_admitted(write, &id)? {
            put_chunk(write, &id, ChunkRow { state: ChunkState::Unwhole, ..row })?;
            write.put(Table::Unwhole, &id.0, &[])?;
        }
    }
    Ok(Admitted { missing, healed: Vec::new() })
}

fn lacking(write: &dyn Write, refs: &[ChunkId], here: &HashSet<ChunkId>) -> kv::Result<Vec<ChunkId>> {
    let mut lacking = Vec::new();
    for id in refs {
        if !here.contains(id) && !is_admitted(write, id)? {
            lacking.push(*id);
        }
    }
    Ok(lacking)
}

/// Admits every unwhole branch whose references have all come, until no further one is found.
pub fn heal(write: &mut dyn Write, read_refs: &ReadRefs<'_>) -> kv::Result<Vec<ChunkId>> {
    let none = HashSet::new();
    let mut healed = Vec::new();
    let mut waiting = unwhole(write)?;
    loop {
        let before = waiting.len();
        let mut still = Vec::new();
        for id in waiting {
            let Some(row) = chunk(write, &id)? else {
                write.delete(Table::Unwhole, &id.0)?;
                continue;
            };
            let refs = read_refs(&frame(write, row.frame)?, row.position);
            match refs {
                Some(refs) if lacking(write, &refs, &none)?.is_empty() => {
                    put_chunk(write, &id, ChunkRow { state: ChunkState::Admitted, ..row })?;
                    write.delete(Table::Unwhole, &id.0)?;
                    healed.push(id);
                }
                _ => still.push(id),
            }
        }
        waiting = still;
        if waiting.is_empty() || waiting.len() == before {
            return Ok(healed);
        }
    }
}

/// Takes the standing of frames that turned out bad, of every chunk whose place they are, and of every branch
/// above one of those. Returns the chunks that are gone.
///
/// `all_branches` walks every stored branch with its references.
pub fn expel(
    write: &mut dyn Write,
    bad: &HashSet<FrameNumber>,
    all_branches: &AllBranches<'_>,
) -> kv::Result<Vec<ChunkId>> {
    for &number in bad {
        let mut place = frame(write, number)?;
        place.state = FrameState::Bad;
        put_frame(write, number, &place)?;
    }
    let mut lost = Vec::new();
    super::scan(write, Table::Chunks, &[], |key, value| {
        let row = ChunkRow::decode(value)?;
        if bad.contains(&row.frame) {
            lost.push(ChunkId::from_slice(key).ok_or_else(|| super::damaged("a chunk id"))?);
        }
        Ok(true)
    })?;
    for id in &lost {
        write.delete(Table::Chunks, &id.0)?;
        write.delete(Table::Unwhole, &id.0)?;
    }
    let mut gone: HashSet<ChunkId> = lost.iter().copied().collect();
    // Branches mostly stand behind what they refer to, so few rounds reach the roots.
    loop {
        let mut newly = Vec::new();
        all_branches(&*write, &mut |id, refs| {
            if !gone.contains(&id) && refs.iter().any(|child| gone.contains(child)) {
                newly.push(id);
                gone.insert(id);
            }
        })?;
        if newly.is_empty() {
            return Ok(lost);
        }
        for id in newly {
            if let Some(row) = chunk(write, &id)? {
                put_chunk(write, &id, ChunkRow { state: ChunkState::Unwhole, ..row })?;
                write.put(Table::Unwhole, &id.0, &[])?;
            }
        }
    }
}

/// Calls back with every stored branch and its references.
pub type AllBranches<'a> = dyn Fn(&dyn Write, &mut dyn FnMut(ChunkId, &[ChunkId])) -> kv::Result<()> + 'a;
