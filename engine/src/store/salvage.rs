//! What an index that is being replaced knows and the packs alone do not tell: where chunks are whose frames do not
//! verify, or cannot be read just now.
//!
//! What always holds: it only ever gives a chunk a place that has none, or another suspect one. Rows that say what
//! cannot be are passed over.

use super::StoreError;
use super::rebuild::Source;
use crate::id::{ChunkId, VaultId};
use crate::index::{
    self, ChunkRow, ChunkState, FrameNumber, FramePlace, FrameState, PackNumber, PackState, belongs, frame_if_any,
    frames_from, next_frame, packs, put_chunk, put_frame,
};
use crate::kv::{Kv, KvError, KvHome, Write};
use crate::pack::PackName;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows looked at in one transaction.
const ROWS_AT_ONCE: usize = 50_000;

/// The index that is being replaced, as far as it can be trusted to be read.
pub(super) struct Old(Arc<dyn Kv>);

impl Old {
    /// Opens it; `None` where there is none of this vault, or its structure is damaged.
    pub fn open(home: &dyn KvHome, vault: VaultId) -> Result<Option<Self>, StoreError> {
        let kv = match home.open() {
            Ok(Some(kv)) => kv,
            Ok(None) | Err(KvError::Damaged(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let check = || -> Result<bool, KvError> {
            kv.verify()?;
            belongs(&*kv.read()?, vault)
        };
        match check() {
            Ok(true) => Ok(Some(Self(kv))),
            Ok(false) | Err(KvError::Damaged(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Packs in which something was, but for those that were given up because nothing in them was needed.
    pub fn pack_names(&self) -> Result<Vec<PackName>, StoreError> {
        Ok(self.packs()?.into_values().collect())
    }

    fn packs(&self) -> Result<HashMap<PackNumber, PackName>, StoreError> {
        let rows = match packs(&*self.0.read()?) {
            Err(KvError::Damaged(_)) => Vec::new(),
            rows => rows?,
        };
        let kept = rows.into_iter().filter(|(_, row)| row.state != PackState::Dropped);
        Ok(kept.map(|(number, row)| (number, row.name)).collect())
    }

    /// Gives every chunk that has no place, or a suspect one, the place it had in this index.
    pub fn give_suspects(self, new: &dyn Kv, sources: &[Source]) -> Result<(), StoreError> {
        let numbers: HashMap<PackName, PackNumber> =
            sources.iter().enumerate().map(|(at, source)| (source.name, PackNumber(at as u32))).collect();
        let packs = self.packs()?;
        let packs = packs.into_iter().filter_map(|(old, name)| Some((old, *numbers.get(&name)?))).collect();
        let mut given = Given { packs, frames: frames_by_place(new)? };
        let mut from = Vec::new();
        loop {
            let rows = self.rows(&from)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            // The least key above the last one.
            from = [&last.0[..], &[0]].concat();
            let mut write = new.write()?;
            let old = self.0.read()?;
            for (id, row) in rows {
                let Some(row) = row else { continue };
                if index::chunk(&*write, &id)?.is_some_and(|row| row.state != ChunkState::Suspect) {
                    continue;
                }
                // A row that cannot be is no help.
                let Ok(Some(place)) = frame_if_any(&*old, row.frame) else { continue };
                given.give(&mut *write, &id, row, place)?;
            }
            write.commit()?;
        }
    }

    /// Chunk rows from a key on; those that cannot be are `None`.
    fn rows(&self, from: &[u8]) -> Result<Vec<(ChunkId, Option<ChunkRow>)>, StoreError> {
        let mut rows = Vec::new();
        index::chunk_rows_as_they_are(&*self.0.read()?, from, &mut |id, row| {
            rows.push((id, row));
            rows.len() < ROWS_AT_ONCE
        })?;
        Ok(rows)
    }
}

/// Where things are in the new index.
struct Given {
    /// Numbers of packs: old to new.
    packs: HashMap<PackNumber, PackNumber>,
    /// Number and state of each frame by pack and offset.
    frames: HashMap<(PackNumber, u64), (FrameNumber, FrameState)>,
}

impl Given {
    fn give(&mut self, write: &mut dyn Write, id: &ChunkId, row: ChunkRow, old: FramePlace) -> Result<(), StoreError> {
        let Some(&pack) = self.packs.get(&old.pack) else { return Ok(()) };
        let number = match self.frames.get(&(pack, old.offset)) {
            // It verifies, and this chunk is not in it.
            Some((_, FrameState::Good)) => return Ok(()),
            Some((number, FrameState::Bad)) if index::frame(write, *number)?.len == old.len => *number,
            _ => {
                let number = next_frame(write)?;
                put_frame(write, number, &FramePlace { pack, state: FrameState::Bad, ..old })?;
                self.frames.insert((pack, old.offset), (number, FrameState::Bad));
                number
            }
        };
        Ok(put_chunk(write, id, ChunkRow { frame: number, position: row.position, state: ChunkState::Suspect })?)
    }
}

type ByPlace = HashMap<(PackNumber, u64), (FrameNumber, FrameState)>;

fn frames_by_place(new: &dyn Kv) -> Result<ByPlace, StoreError> {
    let mut frames = HashMap::new();
    let mut from = FrameNumber(0);
    loop {
        let rows = frames_from(&*new.read()?, from, ROWS_AT_ONCE)?;
        let Some((last, _)) = rows.last() else { return Ok(frames) };
        from = FrameNumber(last.0 + 1);
        frames.extend(rows.iter().map(|(number, place)| ((place.pack, place.offset), (*number, place.state))));
    }
}
