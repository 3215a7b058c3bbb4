//! Repair of packs: frames that do not verify lose their standing, those that verify again get it back, chunks of bad
//! frames are looked for in good ones, and what verifies in a damaged pack is copied into a new one.

use super::{Outcome, Result, cancelled, lock_moving};
use crate::files::ReadAt;
use crate::gc::OwnSession;
use crate::gc::rewrite::Rewriter;
use crate::id::{ChunkId, SessionId};
use crate::index::{FrameNumber, FramePlace, FrameState, NewFrame, PackNumber, PackRow, PackState};
use crate::pack::{self, FRAME_NAME_LEN, FrameRow, HEADER_LEN, PackError, Scanned, Scanner};
use crate::progress::Progress;
use crate::store::{BadFrame, Fault, LocalStore, Store};
use crate::vault::Vault;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What a repair of packs found and did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PackRepair {
    /// Packs read.
    pub packs: u64,
    /// Frames verified.
    pub frames: u64,
    /// What is wrong, file by file.
    pub faults: Vec<Fault>,
    /// Frames that did not verify and counted until now.
    pub frames_lost: u64,
    /// Frames that did not count and verify again, and frames nobody knew of.
    pub frames_back: u64,
    /// Frames copied into new packs.
    pub frames_moved: u64,
    /// Packs whose files went to `aside/`, or would go.
    pub packs_aside: Vec<String>,
    /// Chunks that have a good place again.
    pub chunks_back: u64,
    /// Chunks that still have only a bad place; not all of them are needed by snapshots.
    pub suspects: u64,
    /// Snapshots that still lack something.
    pub unwhole: u64,
    /// How long it took.
    pub duration: Duration,
}

impl PackRepair {
    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        let found = !self.faults.is_empty() || self.frames_back + self.chunks_back > 0 || !self.packs_aside.is_empty();
        Outcome::of(found, self.unwhole > 0)
    }
}

/// What reading one pack showed.
struct Survey {
    number: PackNumber,
    row: PackRow,
    /// Believed frames that verify.
    good: u64,
    /// Believed frames that do not.
    lost: Vec<BadFrame>,
    /// Bad frames that verify.
    back: Vec<FrameNumber>,
    /// Bad frames that stay so.
    bad: u64,
    /// Frames that verify, that no row knows, and in which something is that has no good place.
    unknown: Vec<NewFrame>,
    flaws: Vec<String>,
    /// Where the last frame ends.
    end: u64,
}

/// What becomes of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Keep,
    /// A pack that counted as lost is there again, and whole.
    Reopen,
    /// What verifies is copied, the file set aside.
    Rewrite,
}

/// Decides what becomes of a pack.
fn verdict(state: PackState, verify: bool, is_flawed: bool) -> Verdict {
    match state {
        // Somebody writes it, or is about to remove it.
        PackState::Open | PackState::Dropped => Verdict::Keep,
        PackState::Aside if verify => Verdict::Rewrite,
        PackState::Aside => Verdict::Keep,
        PackState::Closed | PackState::Lost if is_flawed => Verdict::Rewrite,
        PackState::Closed => Verdict::Keep,
        PackState::Lost if verify => Verdict::Reopen,
        PackState::Lost => Verdict::Keep,
    }
}

impl Survey {
    fn verdict(&self) -> Verdict {
        let verify = self.good > 0 || !self.back.is_empty() || !self.unknown.is_empty();
        verdict(self.row.state, verify, !self.flaws.is_empty() || !self.lost.is_empty() || self.bad > 0)
    }
}

/// Repairs packs; reads all of them. With `dry_run` it only looks. Memory: 64 bytes for each frame, 50 for each chunk
/// that has only a bad place.
///
/// # Errors
/// [`StoreError::Busy`](crate::store::StoreError::Busy) while another repair or a collection of garbage runs.
pub fn repair_packs(vault: &Vault, dry_run: bool, progress: &Progress) -> Result<PackRepair> {
    let begun = vault.env().clock.elapsed();
    let store = vault.local()?;
    let _one = lock_moving(store)?;
    let mut report = PackRepair::default();
    match dry_run {
        true => {
            for survey in surveys(store, &mut report, progress)? {
                if survey.verdict() == Verdict::Rewrite {
                    report.packs_aside.push(survey.row.name.path());
                }
            }
        }
        false => repair(vault, &mut report, progress)?,
    }
    report.suspects = store.suspects()?.len() as u64;
    report.unwhole = vault.unwhole_snapshots()?;
    report.duration = vault.env().clock.elapsed().saturating_sub(begun);
    Ok(report)
}

fn repair(vault: &Vault, report: &mut PackRepair, progress: &Progress) -> Result<()> {
    let store = vault.local()?;
    let mut id = [0; 16];
    vault.env().entropy.fill(&mut id);
    let own = OwnSession::begin(&store.0, SessionId(id))?;
    store.0.adopt_abandoned(own.id)?;
    for fault in store.audit()? {
        report.faults.push(fault);
    }
    let surveys = surveys(store, report, progress)?;
    let lost: Vec<BadFrame> = surveys.iter().flat_map(|survey| survey.lost.iter().copied()).collect();
    store.expel(&lost)?;
    let before = store.suspects()?;
    for survey in &surveys {
        if !survey.unknown.is_empty() {
            store.admit_found(&survey.row.name, &survey.unknown)?;
        }
        store.readmit(&survey.back, &before)?;
    }
    let left = store.suspects()?;
    store.readmit(&store.spare_places(&left)?, &left)?;
    rewrite(store, own.id, &surveys, report, progress)?;
    let after = store.suspects()?;
    report.chunks_back = before.keys().filter(|id| !after.contains_key(*id)).count() as u64;
    Ok(())
}

/// Copies what verifies out of damaged packs, and sets these aside.
fn rewrite(
    store: &LocalStore,
    own: SessionId,
    surveys: &[Survey],
    report: &mut PackRepair,
    progress: &Progress,
) -> Result<()> {
    let numbers = AtomicU32::new(0);
    let mut rewriter = Rewriter::new(&store.0, own, &numbers, None)?;
    let mut done = Vec::new();
    for survey in surveys {
        cancelled(progress)?;
        match survey.verdict() {
            Verdict::Keep if survey.row.state == PackState::Aside => drop(store.move_aside(&survey.row.name)?),
            Verdict::Keep => {}
            Verdict::Reopen => store.set_pack_state(survey.number, PackState::Closed, survey.end)?,
            Verdict::Rewrite => {
                for (number, place) in store.frames_by_pack()?.remove(&survey.number).unwrap_or_default() {
                    if place.state == FrameState::Good {
                        rewriter.put(number, false)?;
                    }
                }
                done.push(survey);
            }
        }
    }
    // Rows point to the copies, which are durable, before a pack goes anywhere.
    rewriter.finish()?;
    report.frames_moved = rewriter.counts.frames_moved;
    store.expel(&[&rewriter.damaged[..], &rewriter.unread].concat())?;
    for survey in done {
        if store.set_aside(survey.number)? {
            report.packs_aside.push(survey.row.name.path());
        }
    }
    Ok(())
}

fn surveys(store: &LocalStore, report: &mut PackRepair, progress: &Progress) -> Result<Vec<Survey>> {
    let rows = store.pack_rows()?;
    let total = rows.iter().map(|(_, row)| row.indexed_len).sum();
    progress.bytes_total.store(total, Ordering::Relaxed);
    let mut frames = store.frames_by_pack()?;
    let mut surveys = Vec::new();
    for (number, row) in rows {
        cancelled(progress)?;
        if matches!(row.state, PackState::Open | PackState::Dropped) {
            continue;
        }
        progress.set_current(row.name.path().into_bytes());
        let Some(survey) = survey(store, number, row, frames.remove(&number).unwrap_or_default())? else { continue };
        Progress::add(&progress.bytes_done, row.indexed_len);
        report.packs += 1;
        report.frames += survey.good + (survey.lost.len() + survey.back.len()) as u64;
        report.frames_lost += survey.lost.len() as u64;
        report.frames_back += (survey.back.len() + survey.unknown.len()) as u64;
        // Of what lies aside nothing better is expected.
        if row.state != PackState::Aside || survey.verdict() == Verdict::Rewrite {
            let told = survey.flaws.iter();
            report.faults.extend(told.map(|flaw| Fault { file: row.name.path(), problem: flaw.clone() }));
        }
        surveys.push(survey);
    }
    Ok(surveys)
}

/// Reads a pack whole; `None` where there is no file.
fn survey(
    store: &LocalStore,
    number: PackNumber,
    row: PackRow,
    frames: Vec<(FrameNumber, FramePlace)>,
) -> Result<Option<Survey>> {
    let file = match pack::open(&**store.files(), &row.name) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut survey = Survey {
        number,
        row,
        good: 0,
        lost: Vec::new(),
        back: Vec::new(),
        bad: 0,
        unknown: Vec::new(),
        flaws: Vec::new(),
        end: HEADER_LEN,
    };
    survey.header(store, &*file)?;
    let mut has_gap = false;
    for (number, place) in &frames {
        has_gap |= place.offset != survey.end;
        survey.frame(store, *number, place)?;
        survey.end = survey.end.max(place.offset.saturating_add(u64::from(place.len) + FRAME_NAME_LEN));
    }
    let listed: Vec<FrameRow> =
        frames.iter().map(|(_, place)| FrameRow { offset: place.offset, len: place.len, id: place.id }).collect();
    has_gap |= survey.directory(&*file, &listed)?;
    if has_gap {
        survey.gaps(store, &*file, &frames)?;
    }
    Ok(Some(survey))
}

impl Survey {
    fn header(&mut self, store: &LocalStore, file: &dyn ReadAt) -> Result<()> {
        match pack::check_header(file, store.vault(), &self.row.name) {
            Ok(()) => Ok(()),
            Err(PackError::Files(error)) if !pack::is_media(&error) => Err(error.into()),
            Err(_) => {
                self.flaws.push("its header is damaged".to_owned());
                Ok(())
            }
        }
    }

    fn frame(&mut self, store: &LocalStore, number: FrameNumber, place: &FramePlace) -> Result<()> {
        let verified = store.0.verify_at(place)?;
        match (place.state, verified) {
            (FrameState::Good, Some(_)) => self.good += 1,
            (FrameState::Good, None) => {
                self.flaws.push(format!("the frame of {} bytes at {} is damaged", place.len, place.offset));
                self.lost.push(BadFrame::at(number, place));
            }
            (FrameState::Bad, Some(_)) => self.back.push(number),
            (FrameState::Bad, None) if crate::zoo::planted("repair-believes-unverified") => self.back.push(number),
            (FrameState::Bad, None) => {
                self.flaws.push(format!("the frame of {} bytes at {} was found damaged", place.len, place.offset));
                self.bad += 1;
            }
        }
        if verified == Some(false) {
            self.flaws.push(format!("the name after the frame at {} is damaged", place.offset));
        }
        Ok(())
    }

    /// Looks at the directory; tells whether frames may be there that no row knows.
    fn directory(&mut self, file: &dyn ReadAt, rows: &[FrameRow]) -> Result<bool> {
        match pack::check_directory(file, &self.row.name) {
            Ok(listed) => Ok(listed != rows),
            Err(PackError::Files(error)) if !pack::is_media(&error) => Err(error.into()),
            Err(_) => {
                self.flaws.push("it has no directory at its end".to_owned());
                Ok(true)
            }
        }
    }

    /// Looks for frames between and behind those that have rows.
    fn gaps(&mut self, store: &LocalStore, file: &dyn ReadAt, frames: &[(FrameNumber, FramePlace)]) -> Result<()> {
        let offsets: HashSet<u64> = frames.iter().map(|(_, place)| place.offset).collect();
        let mut scanner = Scanner::new(file, store.vault(), HEADER_LEN)?;
        loop {
            match scanner.next() {
                Ok(Some(Scanned::Frame { row, header, .. })) if !offsets.contains(&row.offset) => {
                    let is_wanted = header.kind == self.row.name.kind && wants(store, &header.ids)?;
                    self.flaws.push(format!("the index does not know the frame at {}", row.offset));
                    if is_wanted {
                        self.unknown.push(NewFrame::scanned(self.number, &row, *header));
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) if pack::is_media(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether one of these chunks has no good place.
fn wants(store: &LocalStore, ids: &[ChunkId]) -> Result<bool> {
    Ok(store.known(ids)?.iter().any(|known| !known))
}

#[cfg(test)]
mod verdicts {
    use super::*;

    #[test]
    fn a_pack_moves_only_when_something_is_gained() {
        let check = |state, verify, flawed, expected| assert_eq!(verdict(state, verify, flawed), expected, "{state:?}");
        check(PackState::Open, true, true, Verdict::Keep);
        check(PackState::Dropped, true, true, Verdict::Keep);
        check(PackState::Closed, true, false, Verdict::Keep);
        check(PackState::Closed, true, true, Verdict::Rewrite);
        check(PackState::Closed, false, true, Verdict::Rewrite);
        check(PackState::Lost, false, true, Verdict::Rewrite);
        check(PackState::Lost, false, false, Verdict::Keep);
        check(PackState::Lost, true, false, Verdict::Reopen);
        check(PackState::Lost, true, true, Verdict::Rewrite);
        check(PackState::Aside, false, true, Verdict::Keep);
        check(PackState::Aside, true, true, Verdict::Rewrite);
    }
}
