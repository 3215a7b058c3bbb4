//! The index by itself, without keys: its structure, and whether its rows agree with each other.

use super::findings::Findings;
use super::{CheckError, Result};
use crate::id::ChunkId;
use crate::index::{ChunkRow, ChunkState, FrameNumber, FrameState, PackNumber, PackRow};
use crate::kv::KvError;
use crate::limits::FRAME_LEN_MAX;
use crate::pack::FRAME_NAME_LEN;
use crate::progress::Progress;
use crate::store::{LocalStore, StoreError};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Frame rows read at a time.
const FRAMES_AT_ONCE: usize = 4096;

/// Rows found wrong of one sort that are told one by one.
const TOLD_MAX: u64 = 100;

/// Rows that seem wrong and are asked for again; a damaged index may have any number of them.
const DOUBTS_MAX: usize = 100_000;

/// Where the index says everything is, as far as a reader of packs needs to know.
pub(crate) struct IndexView {
    /// Packs that have rows: leaves first, each kind by name.
    pub packs: Vec<PackView>,
    /// Frames by pack and offset.
    frames: Vec<FrameRef>,
    /// Frame numbers ascending, and the print of the rows that name each; see [`print`].
    numbers: Vec<u64>,
    prints: Vec<u64>,
    /// Chunks whose only place was found bad earlier.
    pub suspects: u64,
}

/// A pack and its frames.
pub(crate) struct PackView {
    pub number: PackNumber,
    pub row: PackRow,
    frames: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FrameRef {
    pack: u32,
    offset: u64,
    number: FrameNumber,
}

/// Whether the index can be read at all; if not, that is a fault and nothing more is asked of it.
pub(crate) fn is_sound(store: &LocalStore, findings: &mut Findings) -> Result<bool> {
    match store.verify_index() {
        Ok(()) => Ok(true),
        Err(KvError::Damaged(problem)) => {
            findings.index_fault(format!("{problem}: build it again from the packs"));
            findings.note("the index is damaged: packs and trees were not looked at".to_owned());
            Ok(false)
        }
        Err(error) => Err(CheckError::Store(StoreError::Index(error))),
    }
}

/// A row's share in the print of its frame: the prints of rows are combined by exclusive or, and a frame whose chunks
/// have the same print is named by exactly the right rows.
pub(crate) fn print(id: &ChunkId, position: usize) -> u64 {
    let word = |at: usize| id.0[at..at + 8].iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
    let mixed = (word(0) ^ (position as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29 ^ word(8)
}

impl IndexView {
    /// Reads all rows. Rows that contradict each other become faults.
    pub fn read(store: &LocalStore, findings: &mut Findings, progress: &Progress) -> Result<Self> {
        let (mut view, bad) = Self::read_rows(store, findings, progress)?;
        view.read_chunks(store, &bad, findings, progress)?;
        view.leftovers(store, findings)?;
        Ok(view)
    }

    /// Reads where packs and frames are, and nothing of chunks.
    pub fn read_places(store: &LocalStore, findings: &mut Findings, progress: &Progress) -> Result<Self> {
        Ok(Self::read_rows(store, findings, progress)?.0)
    }

    fn read_rows(
        store: &LocalStore,
        findings: &mut Findings,
        progress: &Progress,
    ) -> Result<(Self, HashSet<FrameNumber>)> {
        let mut view =
            Self { packs: Vec::new(), frames: Vec::new(), numbers: Vec::new(), prints: Vec::new(), suspects: 0 };
        let bad = view.read_frames(store, findings, progress)?;
        view.read_packs(store, findings)?;
        Ok((view, bad))
    }

    /// The frames of a pack, each with where it begins there, in that order.
    pub fn frames_of(&self, pack: &PackView) -> impl Iterator<Item = (FrameNumber, u64)> + '_ {
        self.frames[pack.frames.clone()].iter().map(|frame| (frame.number, frame.offset))
    }

    /// Print of the rows that name a frame.
    pub fn print_of(&self, number: FrameNumber) -> u64 {
        self.position(number).map_or(0, |at| self.prints[at])
    }

    fn position(&self, number: FrameNumber) -> Option<usize> {
        // Numbers are dense unless the index is damaged.
        match self.numbers.get(number.0 as usize) {
            Some(&found) if found == number.0 => Some(number.0 as usize),
            _ => self.numbers.binary_search(&number.0).ok(),
        }
    }

    /// Returns the frames that are known to be bad.
    fn read_frames(
        &mut self,
        store: &LocalStore,
        findings: &mut Findings,
        progress: &Progress,
    ) -> Result<HashSet<FrameNumber>> {
        let mut bad = HashSet::new();
        let mut from = FrameNumber(0);
        loop {
            cancelled(progress)?;
            let rows = store.frame_rows(from, FRAMES_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { break };
            from = FrameNumber(last.0 + 1);
            for (number, place) in rows {
                self.frames.push(FrameRef { pack: place.pack.0, offset: place.offset, number });
                self.numbers.push(number.0);
                match place.state {
                    FrameState::Good => findings.report.frames_total += 1,
                    FrameState::Bad => drop(bad.insert(number)),
                }
                if place.state == FrameState::Good && place.len as usize > FRAME_LEN_MAX {
                    findings.index_fault(format!("frame {} is said to be {} bytes long", number.0, place.len));
                }
            }
        }
        self.prints = vec![0; self.numbers.len()];
        self.frames.sort_unstable();
        Ok(bad)
    }

    fn read_packs(&mut self, store: &LocalStore, findings: &mut Findings) -> Result<()> {
        // After the frames: a row of a frame is never there before the one of its pack.
        let rows = store.pack_rows()?;
        findings.report.packs_total = rows.len() as u64;
        let known: HashMap<PackNumber, PackRow> = rows.iter().copied().collect();
        let mut at = 0;
        while let Some(first) = self.frames.get(at) {
            let (pack, start) = (PackNumber(first.pack), at);
            at += self.frames[at..].partition_point(|frame| frame.pack == pack.0);
            // Asked again: a frame may have moved since its row was read, and its pack gone.
            if !known.contains_key(&pack) && store.lacks_pack(first.number)? {
                findings.index_fault(format!(
                    "{} frames are said to be in pack {}, which has no row",
                    at - start,
                    pack.0
                ));
            }
        }
        for (number, row) in rows {
            let start = self.frames.partition_point(|frame| frame.pack < number.0);
            let end = self.frames.partition_point(|frame| frame.pack <= number.0);
            self.packs.push(PackView { number, row, frames: start..end });
        }
        self.packs.sort_by_key(|pack| (pack.row.name.kind, pack.row.name));
        Ok(())
    }

    fn read_chunks(
        &mut self,
        store: &LocalStore,
        bad: &HashSet<FrameNumber>,
        findings: &mut Findings,
        progress: &Progress,
    ) -> Result<()> {
        let listed: HashSet<ChunkId> = store.unwhole_rows()?.into_iter().collect();
        let mut doubts = Vec::new();
        let mut more_doubts = 0;
        let mut suspects = 0;
        store.visit_chunk_rows(&mut |id, row| {
            findings.report.chunks_total += 1;
            let ChunkRow { frame, position, state } = row;
            suspects += u64::from(state == ChunkState::Suspect);
            let mut is_right = state != ChunkState::Unwhole || listed.contains(&id);
            match self.position(frame) {
                Some(at) => self.prints[at] ^= print(&id, position.into()),
                None => is_right = false,
            }
            is_right &= !bad.contains(&frame) || state == ChunkState::Suspect;
            match is_right {
                true => {}
                false if doubts.len() < DOUBTS_MAX => doubts.push(id),
                false => more_doubts += 1,
            }
            !progress.is_cancelled()
        })?;
        cancelled(progress)?;
        self.suspects = suspects;
        let mut wrong = 0;
        for id in doubts {
            // The tables were read one after the other while a backup may have been running: asked in one read.
            if let Some(problem) = store.contradiction(&id)? {
                wrong += 1;
                if wrong <= TOLD_MAX {
                    findings.index_fault(problem);
                }
            }
        }
        if wrong > TOLD_MAX {
            findings.report.faults_more += wrong - TOLD_MAX;
        }
        if more_doubts > 0 {
            findings.note(format!("{more_doubts} more rows of the index seem to contradict others"));
        }
        Ok(())
    }

    /// Notes what interrupted backups left in the folder of packs.
    fn leftovers(&self, store: &LocalStore, findings: &mut Findings) -> Result<()> {
        use crate::index::PackState;
        let states: HashMap<_, _> = self.packs.iter().map(|pack| (pack.row.name, pack.row.state)).collect();
        let mut left = 0;
        for file in store.pack_files()? {
            let Some(name) = crate::pack::PackName::from_file_name(&file.name) else {
                findings.note(format!("{}/{} is no pack and is left alone", crate::pack::DIR, file.name));
                continue;
            };
            let is_done = matches!(states.get(&name), Some(PackState::Closed | PackState::Lost | PackState::Aside));
            if !is_done && !store.is_session_open(name.session)? {
                left += 1;
            }
        }
        if left > 0 {
            findings.note(format!("{left} packs are left from interrupted backups; the next backup makes use of them"));
        }
        Ok(())
    }
}

/// Where a frame with its name ends.
pub(crate) fn end_of(offset: u64, len: u32) -> u64 {
    offset.saturating_add(u64::from(len) + FRAME_NAME_LEN)
}

/// Ends the check when somebody asked.
pub(crate) fn cancelled(progress: &Progress) -> Result<()> {
    match progress.is_cancelled() {
        true => Err(CheckError::Cancelled),
        false => Ok(()),
    }
}
