//! Finding rot: frames are read as they lie in the packs and compared with their names; no key is needed.

use super::rows::{self, FrameState, PackNumber, Place, Standing};
use super::{CopyStore, Inner, Result, path, read};
use crate::files::ReadAt;
use crate::id::FrameId;
use std::sync::Arc;

/// Rows looked at in one step, whatever their frames' length.
const ROWS_AT_ONCE: usize = 4096;

/// Where a scrub of the store goes on. It means something to the incarnation it was made by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubCursor {
    incarnation: [u8; 16],
    place: Place,
}

impl ScrubCursor {
    /// Bytes of a cursor that is written down.
    pub const LEN: usize = 28;

    /// To be written down.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(&self.incarnation);
        bytes[16..].copy_from_slice(&self.place.key());
        bytes
    }

    /// Reads what [`Self::to_bytes`] made; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (incarnation, place) = bytes.split_at_checked(16)?;
        Some(Self { incarnation: incarnation.try_into().ok()?, place: Place::from_key(place).ok()? })
    }
}

/// What one step of a scrub did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubStep {
    /// Where to go on; `None` when everything was read.
    pub next: Option<ScrubCursor>,
    /// Frames read.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that were held and are bad: they are not held until they are put again.
    pub bad: Vec<FrameId>,
}

impl CopyStore {
    /// Verifies frames that are held, from `cursor` on, until `bytes_max` were read; always at least one, if there are
    /// any. A cursor of another incarnation begins at the beginning.
    ///
    /// Whatever is held when a round begins and stays so is read in it: a frame that is moved goes to a higher place.
    pub fn scrub(&self, cursor: Option<ScrubCursor>, bytes_max: u64) -> Result<ScrubStep> {
        let start = Place { pack: PackNumber(0), offset: 0 };
        let ours = cursor.filter(|cursor| cursor.incarnation == self.0.incarnation);
        let Due { frames, next } = self.0.due(ours.map_or(start, |cursor| cursor.place), bytes_max)?;
        let mut step = ScrubStep { next: None, frames: 0, bytes: 0, bad: Vec::new() };
        let (mut file, mut bytes, mut bad) = (OpenFile::default(), Vec::new(), Vec::new());
        for (id, state) in frames {
            let is_whole = match file.of(&self.0, state.place.pack)? {
                Some(file) => read::verify(&**file, &id, &state, &mut bytes)?,
                None => false,
            };
            if !is_whole {
                bad.push((id, state));
            }
            step.frames += 1;
            step.bytes += u64::from(state.len);
        }
        // What moved meanwhile was not where it was looked for, and is no worse for it.
        step.bad = self.0.expel(&bad)?;
        step.next = next.map(|place| ScrubCursor { incarnation: self.0.incarnation, place });
        Ok(step)
    }
}

/// What one step reads, and where the next goes on.
#[derive(Default)]
struct Due {
    frames: Vec<(FrameId, FrameState)>,
    next: Option<Place>,
}

/// The file of the pack that was read last.
#[derive(Default)]
struct OpenFile {
    open: Option<(PackNumber, Option<Arc<dyn ReadAt>>)>,
}

impl OpenFile {
    fn of(&mut self, store: &Inner, number: PackNumber) -> Result<Option<&Arc<dyn ReadAt>>> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            let row = rows::pack_if_any(&*store.kv.read()?, number)?;
            let file = match row {
                Some(row) => store.open_pack(&path(row.vault, &row.name))?,
                // Given up since its rows were read.
                None => None,
            };
            self.open = Some((number, file));
        }
        Ok(self.open.as_ref().and_then(|(_, file)| file.as_ref()))
    }
}

impl Inner {
    /// Frames held from a place on, and where to go on behind them.
    fn due(&self, from: Place, bytes_max: u64) -> Result<Due> {
        let read = self.kv.read()?;
        let mut places = Vec::new();
        rows::frames_by_place(&*read, from, &mut |place, id| {
            places.push((place, id));
            places.len() <= ROWS_AT_ONCE
        })?;
        let (mut due, mut bytes) = (Due::default(), 0);
        for (at, (place, id)) in places.iter().enumerate() {
            if at == ROWS_AT_ONCE || (bytes >= bytes_max && !due.frames.is_empty()) {
                due.next = Some(*place);
                break;
            }
            let state = rows::frame(&*read, id)?.filter(|state| state.place == *place);
            if let Some(state) = state.filter(|state| state.standing == Standing::Held) {
                bytes += u64::from(state.len);
                due.frames.push((*id, state));
            }
        }
        Ok(due)
    }
}
