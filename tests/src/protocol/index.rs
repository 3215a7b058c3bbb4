//! The index of the model: what it answers, and the transactions that change it.

use super::rules::{Rule, Rules};
use super::state::*;

impl State {
    /// Whether a chunk's place is condemned.
    pub fn is_condemned(&self, chunk: Chunk) -> bool {
        self.condemned & 1 << self.rows[chunk as usize].place != 0
    }

    /// Standing of a chunk.
    pub fn standing(&self, chunk: Chunk) -> Standing {
        self.rows[chunk as usize].standing
    }

    /// Admitted, and not condemned.
    pub fn is_known(&self, chunk: Chunk) -> bool {
        self.standing(chunk) == Standing::Admitted && !self.is_condemned(chunk)
    }

    /// Whether sessions from before the condemn may count on it.
    pub fn is_known_to_older(&self, chunk: Chunk) -> bool {
        matches!(self.standing(chunk), Standing::Admitted | Standing::Leaning)
    }

    /// Content of a frame as it is in its pack, if that can be read.
    pub fn content(&self, frame: u8) -> Option<u8> {
        let at = self.frames[frame as usize];
        let pack = self.packs.get(at as usize / 2)?;
        let slot = at % 2;
        (pack.has_file && slot < pack.len && pack.bad & 1 << slot == 0).then_some(pack.frames[slot as usize])
    }

    /// Whether a chunk can be read at the place its row says.
    pub fn is_readable(&self, chunk: Chunk) -> bool {
        let row = self.rows[chunk as usize];
        row.standing != Standing::Absent
            && self.content(row.place / 2).is_some_and(|content| at(content, row.place % 2) == chunk)
    }

    /// Whether a row points into a frame.
    pub fn has_rows(&self, frame: u8) -> bool {
        self.rows.iter().any(|row| row.standing != Standing::Absent && row.place / 2 == frame)
    }

    /// Frames whose rows say that they are in a pack.
    pub fn frames_in(&self, pack: u8) -> impl Iterator<Item = u8> + '_ {
        (0..FRAMES as u8).filter(move |frame| self.frames[*frame as usize] / 2 == pack)
    }

    /// Whether somebody holds the lock under which a pack is written.
    pub fn is_owned(&self, pack: u8) -> bool {
        self.sessions.iter().any(|session| session.is_locked() && session.pack == pack)
            || self.gcs.iter().any(|gc| gc.work != Work::Idle && gc.copy == pack)
    }

    /// Enters the rest of a pack. `None` when the model has no more numbers.
    pub fn enter(&mut self, rules: Rules, pack: u8, closed: bool) -> Option<()> {
        let at_pack = self.packs[pack as usize];
        let mut fresh = Vec::new();
        for slot in at_pack.indexed..at_pack.len {
            // A frame that does not verify is passed over.
            if at_pack.bad & 1 << slot != 0 {
                continue;
            }
            let number = self.free_number(rules)?;
            self.frames[number as usize] = pack * 2 + slot;
            let content = at_pack.frames[slot as usize];
            fresh.extend((0..2).map(|position| (at(content, position), number * 2 + position)));
        }
        let state = if closed { PackState::Closed } else { PackState::Open };
        let durable = if rules.has(Rule::EntersDurable) { at_pack.len } else { at_pack.durable };
        self.packs[pack as usize] = Pack { state, indexed: at_pack.len, durable, ..at_pack };
        self.admit(rules, rules.has(Rule::Closure), fresh);
        Some(())
    }

    fn free_number(&mut self, rules: Rules) -> Option<u8> {
        let number = match rules.has(Rule::NumbersStay) {
            true => self.next_frame,
            false => (0..FRAMES as u8).find(|frame| self.frames[*frame as usize] == NONE)?,
        };
        self.next_frame = self.next_frame.max(number + 1);
        (usize::from(number) < FRAMES).then_some(number)
    }

    /// Admission: children before parents, then whatever has become whole by it.
    fn admit(&mut self, rules: Rules, with_closure: bool, mut fresh: Vec<(Chunk, u8)>) {
        fresh.retain(|(chunk, _)| *chunk != EMPTY);
        fresh.sort_unstable();
        for (chunk, place) in fresh {
            let standing = if with_closure { self.earned(rules, chunk) } else { Standing::Admitted };
            let keeps = match self.standing(chunk) {
                Standing::Admitted if !self.is_condemned(chunk) => true,
                Standing::Admitted | Standing::Leaning => {
                    let leans = standing == Standing::Leaning && rules.has(Rule::LeaningReplacesNothing);
                    leans || !rules.has(Rule::PutReplacesCondemned)
                }
                Standing::Absent | Standing::Unwhole | Standing::Suspect => false,
            };
            if !keeps {
                self.rows[chunk as usize] = Row { place, standing };
                self.hit &= !(1 << chunk);
            }
        }
        self.heal(rules);
    }

    /// What a branch may stand as, by what it refers to.
    fn earned(&self, rules: Rules, chunk: Chunk) -> Standing {
        let mut standing = Standing::Admitted;
        for child in bits(CHILDREN[chunk as usize]) {
            if self.is_known(child) {
                continue;
            }
            let is_missing = self.phase == Phase::Sweeping && rules.has(Rule::SweptCountsAsMissing);
            if !self.is_known_to_older(child) || is_missing {
                return Standing::Unwhole;
            }
            if rules.has(Rule::LeaningInherits) {
                standing = Standing::Leaning;
            }
        }
        standing
    }

    /// Points one chunk to a place of a frame that is in the index.
    pub fn enter_at(&mut self, rules: Rules, chunk: Chunk, place: u8) {
        self.admit(rules, true, vec![(chunk, place)]);
    }

    fn heal(&mut self, rules: Rules) {
        for chunk in 0..CHUNKS as u8 {
            if self.standing(chunk) == Standing::Unwhole && self.is_readable(chunk) {
                self.rows[chunk as usize].standing = self.earned(rules, chunk);
            }
        }
    }

    /// Chunks of a frame become suspect, every branch above them unwhole.
    pub fn expel(&mut self, frame: u8) {
        let mut gone = 0;
        for (chunk, row) in self.rows.iter_mut().enumerate() {
            if row.standing != Standing::Absent && row.place / 2 == frame {
                row.standing = Standing::Suspect;
                gone |= 1 << chunk;
            }
        }
        for chunk in 0..CHUNKS as u8 {
            if CHILDREN[chunk as usize] & gone != 0 && self.is_known_to_older(chunk) {
                self.rows[chunk as usize].standing = Standing::Unwhole;
                gone |= 1 << chunk;
            }
        }
    }

    /// Builds the index anew from the packs.
    pub fn rebuild(&mut self, rules: Rules) -> Option<()> {
        self.rows = Default::default();
        self.frames = [NONE; FRAMES];
        self.next_frame = 0;
        self.condemned = 0;
        self.phase = Phase::None;
        let mut fresh = Vec::new();
        for pack in 0..self.next_pack {
            let on_disk = &mut self.packs[pack as usize];
            if !on_disk.has_file {
                *on_disk = Pack::default();
                continue;
            }
            let durable = if rules.has(Rule::EntersDurable) { on_disk.len } else { on_disk.durable };
            *on_disk = Pack { state: PackState::Closed, indexed: on_disk.len, durable, ..*on_disk };
            let Pack { len, bad, frames, .. } = *on_disk;
            for slot in (0..len).filter(|slot| bad & 1 << slot == 0) {
                let number = self.free_number(rules)?;
                self.frames[number as usize] = pack * 2 + slot;
                fresh.extend((0..2).map(|position| (at(frames[slot as usize], position), number * 2 + position)));
            }
        }
        self.admit(rules, rules.has(Rule::RebuildIsAdmission), fresh);
        for session in &mut self.sessions {
            session.is_stale = session.stage != Stage::Free;
        }
        Some(())
    }
}

/// The chunk at a position of a frame.
pub fn at(content: u8, position: u8) -> Chunk {
    content >> (4 * position) & 0xf
}

/// A frame of these chunks, at most two.
pub fn frame_of(chunks: u8) -> u8 {
    let mut positions = bits(chunks);
    let first = positions.next().unwrap_or(EMPTY);
    let second = positions.next().unwrap_or(EMPTY);
    first | second << 4
}
