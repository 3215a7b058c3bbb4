//! Every way in which the standing of a frame may change.
//!
//! What always holds, in every committed state: a frame that is known has one row of each of its two tables, and they
//! name each other; one in trash has its time there; sums and digest are those of the rows.

use super::rows::{FrameState, Place, Standing, TOTALS, Totals, damaged, frame, nanos, totals};
use crate::id::FrameId;
use crate::kv::{self, Table, Write};
use std::time::Duration;

/// Changes of standing within one transaction; [`Self::finish`] writes the sums.
pub(super) struct Changes<'a> {
    pub write: &'a mut dyn Write,
    before: Totals,
    now: Totals,
}

impl<'a> Changes<'a> {
    pub fn begin(write: &'a mut dyn Write) -> kv::Result<Self> {
        let before = totals(write)?;
        Ok(Self { write, before, now: before })
    }

    /// Writes the sums; the sequence grows if what is held has changed.
    pub fn finish(self) -> kv::Result<()> {
        let mut now = self.now;
        if (now.frames, now.bytes, now.digest) != (self.before.frames, self.before.bytes, self.before.digest) {
            now.sequence = now.sequence.checked_add(1).ok_or_else(|| damaged("the sequence"))?;
        }
        if now != self.before {
            self.write.put(Table::Meta, TOTALS, &now.encode())?;
        }
        Ok(())
    }

    pub fn frame(&self, id: &FrameId) -> kv::Result<Option<FrameState>> {
        frame(self.write, id)
    }

    /// Gives a frame this state, whatever it was; `None` forgets it. Since when it is in trash is the caller's to say.
    fn set(&mut self, id: &FrameId, state: Option<FrameState>) -> kv::Result<()> {
        let old = self.frame(id)?;
        if let Some(old) = &old {
            self.now.count(id, old, false)?;
            if state.is_none_or(|state| state.place != old.place) {
                self.write.delete(Table::Frames, &old.place.key())?;
            }
            if old.standing == Standing::Trash && state.is_none_or(|state| state.standing != Standing::Trash) {
                self.write.delete(Table::Condemned, &id.0)?;
            }
        }
        let Some(state) = state else { return self.write.delete(Table::Chunks, &id.0).map(|_| ()) };
        self.now.count(id, &state, true)?;
        self.write.put(Table::Chunks, &id.0, &state.encode())?;
        self.write.put(Table::Frames, &state.place.key(), &id.0)
    }

    /// A frame was put and is durable at this place. What is held already stays where it is.
    pub fn put(&mut self, id: &FrameId, place: Place, len: u32) -> kv::Result<()> {
        match self.frame(id)? {
            Some(FrameState { standing: Standing::Held, .. }) => Ok(()),
            _ => self.set(id, Some(FrameState { place, len, standing: Standing::Held })),
        }
    }

    /// A frame that verifies was found in a pack. One that is in trash stays there.
    pub fn found(&mut self, id: &FrameId, place: Place, len: u32) -> kv::Result<()> {
        match self.frame(id)? {
            None | Some(FrameState { standing: Standing::Bad, .. }) => self.put(id, place, len),
            _ => Ok(()),
        }
    }

    /// What may once have been this frame was found in a pack, and does not verify.
    pub fn found_bad(&mut self, id: &FrameId, place: Place, len: u32) -> kv::Result<()> {
        match (self.frame(id)?, self.write.get(Table::Frames, &place.key())?) {
            (None, None) => self.set(id, Some(FrameState { place, len, standing: Standing::Bad })),
            _ => Ok(()),
        }
    }

    /// A frame was found bad at this place; tells whether it was held there until now.
    pub fn expel(&mut self, id: &FrameId, place: Place) -> kv::Result<bool> {
        match self.frame(id)? {
            Some(state) if state.place == place && state.standing == Standing::Held => {
                self.set(id, Some(FrameState { standing: Standing::Bad, ..state }))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Moves what is held or bad to trash; tells whether it was.
    pub fn discard(&mut self, id: &FrameId, uptime: Duration) -> kv::Result<bool> {
        match self.frame(id)? {
            Some(state) if state.standing != Standing::Trash => {
                self.set(id, Some(FrameState { standing: Standing::Trash, ..state }))?;
                self.write.put(Table::Condemned, &id.0, &nanos(uptime))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Takes out of trash what was looked at there, at this place; tells whether it still was.
    pub fn restore(&mut self, id: &FrameId, place: Place, is_good: bool) -> kv::Result<bool> {
        let standing = if is_good { Standing::Held } else { Standing::Bad };
        match self.frame(id)? {
            Some(state) if state.place == place && state.standing == Standing::Trash => {
                self.set(id, Some(FrameState { standing, ..state }))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A frame that was whole in trash was put again, and may have moved since; tells whether it is held now.
    pub fn put_again(&mut self, id: &FrameId) -> kv::Result<bool> {
        match self.frame(id)? {
            Some(state) if state.standing == Standing::Trash => self.restore(id, state.place, true),
            state => Ok(state.is_some_and(|state| state.standing == Standing::Held)),
        }
    }

    /// A frame's bytes were copied and are durable at the new place; its standing stays.
    pub fn relocate(&mut self, id: &FrameId, from: Place, to: Place) -> kv::Result<()> {
        match self.frame(id)? {
            Some(state) if state.place == from => self.set(id, Some(FrameState { place: to, ..state })),
            _ => Ok(()),
        }
    }

    /// Forgets a frame for good.
    pub fn forget(&mut self, id: &FrameId) -> kv::Result<()> {
        self.set(id, None)
    }
}
