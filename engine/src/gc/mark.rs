//! Marking: which places are reached from roots, by the references that stand in the clear.
//!
//! Frames are looked at from the newest to the oldest. What a branch refers to mostly stands before it, so each branch
//! frame is read about once, and memory is a few bits a chunk. Every frame is verified before its references count.

use super::bits::Bits;
use super::places::Places;
use super::{GcError, Result};
use crate::frame::FrameHeader;
use crate::id::{ChunkId, Kind};
use crate::index::{self, ChunkState, FrameNumber, Standing};
use crate::progress::Progress;
use crate::store::local::Inner;

/// How far to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    /// At everything.
    All,
    /// Only below what is not firm: firm chunks have nothing else below them.
    BesidesFirm,
}

/// A search in progress.
pub(super) struct Marker<'a> {
    store: &'a Inner,
    progress: &'a Progress,
    pub places: Places,
    depth: Depth,
    /// Places that are reached.
    pub live: Bits,
    /// Branches whose references were followed.
    done: Bits,
    /// Frames with branches that are reached and not done.
    pending: Bits,
    /// No frame above it is pending.
    top: usize,
    /// Whether what cannot be read is passed over.
    tolerant: bool,
}

impl<'a> Marker<'a> {
    /// Nothing is reached yet.
    pub fn new(store: &'a Inner, end: FrameNumber, depth: Depth, progress: &'a Progress) -> Result<Self> {
        let places = Places::read(store, end)?;
        let (positions, frames) = (places.positions(), places.frames());
        let tolerant = crate::zoo::planted("gc-skips-unreadable");
        Ok(Self {
            store,
            progress,
            places,
            depth,
            live: Bits::new(positions),
            done: Bits::new(positions),
            pending: Bits::new(frames),
            top: 0,
            tolerant,
        })
    }

    /// Marks everything below these roots, and them.
    pub fn mark(&mut self, roots: &[ChunkId]) -> Result<()> {
        self.reach(roots)?;
        self.follow()
    }

    /// As [`Self::mark`], for roots whose damage is known: what cannot be read is passed over.
    pub fn mark_tolerantly(&mut self, roots: &[ChunkId]) -> Result<()> {
        let before = std::mem::replace(&mut self.tolerant, true);
        let result = self.mark(roots);
        self.tolerant = before;
        result
    }

    /// Takes all branches of frames from `from` on for roots; returns the number after the last of them.
    pub fn mark_later(&mut self, from: FrameNumber) -> Result<FrameNumber> {
        let mut next = from;
        loop {
            let rows = index::frames_from(&*self.store.kv.read()?, next, 256)?;
            let Some((last, _)) = rows.last() else { return Ok(next) };
            next = FrameNumber(last.0 + 1);
            for (_, place) in rows.iter().filter(|(_, place)| crate::store::local::is_good(place, Kind::Branch)) {
                let header = self.store.stored_header(place)?.ok_or_else(|| self.unreadable(place.id.to_hex()))?;
                for position in 0..header.ids.len() {
                    // What a branch that is not whole lacks nobody can lose any more.
                    self.reach_from(header.refs(position), true)?;
                }
            }
            self.follow()?;
        }
    }

    fn unreadable(&self, what: String) -> GcError {
        GcError::Unreadable { what: format!("branch frame {what}") }
    }

    fn reach(&mut self, ids: &[ChunkId]) -> Result<()> {
        self.reach_from(ids, self.tolerant)
    }

    fn reach_from(&mut self, ids: &[ChunkId], tolerant: bool) -> Result<()> {
        let store = self.store;
        let read = store.kv.read()?;
        for id in ids {
            let Some(row) = index::chunk(&*read, id)? else {
                if tolerant {
                    continue;
                }
                return Err(GcError::Missing(*id));
            };
            if self.depth == Depth::BesidesFirm && index::standing(&*read, id)? == Standing::Firm {
                continue;
            }
            // What came later is not condemned this time, and what it refers to is looked at when all is marked.
            let Some(at) = self.places.frame(row.frame) else {
                if row.frame < self.places.end {
                    return Err(GcError::Missing(*id));
                }
                continue;
            };
            let ordinal = self.places.ordinal(at, row.position).ok_or(GcError::Missing(*id))?;
            if !self.live.add(ordinal) || !self.places.is_branch(at) {
                continue;
            }
            match row.state {
                ChunkState::Suspect if tolerant => {}
                ChunkState::Suspect => return Err(GcError::Unreadable { what: format!("branch {id}") }),
                ChunkState::Admitted | ChunkState::Unwhole | ChunkState::Leaning => {
                    self.pending.add(at);
                    self.top = self.top.max(at);
                }
            }
        }
        Ok(())
    }

    /// Follows the references of all branches that are reached.
    fn follow(&mut self) -> Result<()> {
        while let Some(at) = self.pending.last_to(self.top) {
            if self.progress.is_cancelled() {
                return Err(GcError::Cancelled);
            }
            self.pending.remove(at);
            // A reference may lead to a frame that stands higher: that raises it again.
            self.top = at;
            let number = self.places.number(at);
            if let Some(header) = self.header(number)? {
                self.follow_frame(at, &header)?;
            }
        }
        Ok(())
    }

    fn header(&self, number: FrameNumber) -> Result<Option<FrameHeader>> {
        let place = index::frame(&*self.store.kv.read()?, number)?;
        match self.store.stored_header(&place)? {
            None if self.tolerant => Ok(None),
            None => Err(self.unreadable(format!("{} in {}", place.id, self.store.name(place.pack)?.file_name()))),
            header => Ok(header),
        }
    }

    fn follow_frame(&mut self, at: usize, header: &FrameHeader) -> Result<()> {
        let ordinals = self.places.ordinals(at);
        if ordinals.len() != header.ids.len() {
            return Err(self.unreadable(format!("with {} chunks, {} expected", header.ids.len(), ordinals.len())));
        }
        let mut refs = Vec::new();
        for (position, ordinal) in ordinals.enumerate() {
            if self.live.has(ordinal) && self.done.add(ordinal) {
                refs.extend_from_slice(header.refs(position));
            }
        }
        // Neighbours in the index are looked up one after the other.
        refs.sort_unstable();
        refs.dedup();
        self.reach(&refs)
    }
}
