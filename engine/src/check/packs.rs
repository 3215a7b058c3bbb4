//! Packs from front to back: header, frames, the names after them, what lies between, the directory. Workers take
//! packs one after the other; what is read is read once, in order.

use super::findings::Findings;
use super::frames::FrameChecker;
use super::index::{IndexView, PackView, cancelled, end_of, print};
use super::judge::{self, Directory, Header, Judged};
use super::{CheckError, CheckOptions, Result, Subset};
use crate::env::Entropy;
use crate::files::ReadAt;
use crate::frame::FrameError;
use crate::id::{ChunkId, Kind};
use crate::index::{FrameNumber, FramePlace, FrameState, PackState};
use crate::pack::{self, FrameRow, HEADER_LEN, PackName, Scanned, Scanner, is_media};
use crate::progress::Progress;
use crate::store::{BadFrame, Fault, StoreError};
use crate::vault::{ErrorClass, Vault};
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Frames named by rows that do not fit, looked at more closely in the end.
const SUSPECTS_MAX: usize = 4096;

/// Which packs are read; branches always are.
pub(super) struct Chosen {
    read_data: bool,
    choice: Choice,
}

enum Choice {
    All,
    Part { n: u64, of: u64 },
    Below { limit: u64, salt: [u8; 32] },
}

impl Chosen {
    pub fn new(options: &CheckOptions, entropy: &dyn Entropy) -> Result<Self> {
        let choice = match options.subset {
            None => Choice::All,
            Some(Subset::Part { n, of }) if n >= 1 && n <= of => Choice::Part { n, of },
            Some(Subset::Part { .. }) => return Err(CheckError::Subset("part n of t needs 1 <= n <= t")),
            Some(Subset::Percent(percent)) if percent > 0.0 && percent <= 100.0 => {
                let mut salt = [0; 32];
                entropy.fill(&mut salt);
                Choice::Below { limit: (percent / 100.0 * u64::MAX as f64) as u64, salt }
            }
            Some(Subset::Percent(_)) => return Err(CheckError::Subset("a percentage lies above 0 and up to 100")),
        };
        Ok(Self { read_data: options.read_data, choice })
    }

    fn takes(&self, name: &PackName) -> bool {
        let number = |hash: blake3::Hash| hash.as_bytes()[..8].iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let name_bytes = name.file_name().into_bytes();
        match (name.kind, &self.choice) {
            (Kind::Branch, _) => true,
            (Kind::Leaf, _) if !self.read_data => false,
            (Kind::Leaf, Choice::All) => true,
            (Kind::Leaf, Choice::Part { n, of }) => number(blake3::hash(&name_bytes)) % of == n - 1,
            (Kind::Leaf, Choice::Below { limit, salt }) => number(blake3::keyed_hash(salt, &name_bytes)) <= *limit,
        }
    }
}

/// What reading the packs showed about the index.
#[derive(Default)]
pub(super) struct Outcome {
    bad: Vec<BadFrame>,
    /// Some branch counts as whole and is not.
    unclosed: bool,
    suspects: HashMap<FrameNumber, Vec<ChunkId>>,
}

/// How far the index can be trusted after the packs were read.
pub(super) struct Trust {
    /// A branch that the index calls whole has everything below it.
    pub is_closed: bool,
    /// Bad frames that could not be expelled.
    pub bad: HashSet<FrameNumber>,
}

/// Reads the packs.
pub(super) fn check(
    vault: &Vault,
    view: &IndexView,
    chosen: &Chosen,
    findings: &mut Findings,
    progress: &Progress,
) -> Result<Outcome> {
    let total = view.packs.iter().filter(|pack| chosen.takes(&pack.row.name)).map(|pack| pack.row.indexed_len).sum();
    progress.bytes_total.store(total, Ordering::Relaxed);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let done: Mutex<Vec<Result<(Findings, Outcome)>>> = Mutex::default();
    vault.env().executor.run(&|_| {
        let outcome = work(vault, view, chosen, progress, &next, &stop);
        if outcome.is_err() {
            stop.store(true, Ordering::Release);
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    });
    let mut all = Outcome::default();
    for outcome in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let (found, outcome) = outcome?;
        findings.merge(found);
        all.bad.extend(outcome.bad);
        all.unclosed |= outcome.unclosed;
        all.suspects.extend(outcome.suspects);
    }
    all.bad.sort_unstable_by_key(|bad| bad.number);
    name_wrong_rows(vault, &all.suspects, findings)?;
    Ok(all)
}

fn work(
    vault: &Vault,
    view: &IndexView,
    chosen: &Chosen,
    progress: &Progress,
    next: &AtomicUsize,
    stop: &AtomicBool,
) -> Result<(Findings, Outcome)> {
    let frames = FrameChecker::new(vault)?;
    let (findings, outcome) = (Findings::default(), Outcome::default());
    let (moved, bytes) = (HashSet::new(), Vec::new());
    let mut worker = Worker { vault, view, progress, frames, findings, outcome, moved, bytes };
    while !stop.load(Ordering::Acquire) {
        let Some(pack) = view.packs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
        worker.pack(pack, chosen.takes(&pack.row.name))?;
    }
    Ok((worker.findings, worker.outcome))
}

/// Says which rows name a place that holds something else.
fn name_wrong_rows(
    vault: &Vault,
    suspects: &HashMap<FrameNumber, Vec<ChunkId>>,
    findings: &mut Findings,
) -> Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    vault.local()?.visit_chunk_rows(&mut |id, row| {
        if let Some(ids) = suspects.get(&row.frame)
            && ids.get(usize::from(row.position)) != Some(&id)
        {
            let (frame, position) = (row.frame.0, row.position);
            findings
                .index_fault(format!("chunk {id} is not at position {position} of frame {frame} as the index says"));
        }
        true
    })?;
    Ok(())
}

/// Takes the standing of the frames found bad.
pub(super) fn expel(vault: &Vault, outcome: Outcome, findings: &mut Findings) -> Result<Trust> {
    let bad = outcome.bad.iter().map(|bad| bad.number).collect();
    match vault.store().expel(&outcome.bad) {
        Ok(_) => Ok(Trust { is_closed: !outcome.unclosed, bad: HashSet::new() }),
        // A vault that cannot be written to can still be checked.
        Err(error) if may_not_write(&error) => {
            findings.note(format!("the index still trusts {} damaged frames: {error}", outcome.bad.len()));
            Ok(Trust { is_closed: false, bad })
        }
        Err(error) => Err(error.into()),
    }
}

/// Compares packs with the index by name and length; what is gone loses its standing.
pub(super) fn audit(vault: &Vault, findings: &mut Findings) -> Result<Vec<Fault>> {
    match vault.store().audit() {
        Ok(faults) => Ok(faults),
        Err(error) if may_not_write(&error) => {
            findings.note(format!("packs that are gone still stand in the index: {error}"));
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}

fn may_not_write(error: &StoreError) -> bool {
    matches!(ErrorClass::of_store(error), ErrorClass::NotAllowed | ErrorClass::NoSpace | ErrorClass::Busy)
}

struct Worker<'a> {
    vault: &'a Vault,
    view: &'a IndexView,
    progress: &'a Progress,
    frames: FrameChecker<'a>,
    findings: Findings,
    outcome: Outcome,
    /// Where frames of the pack at hand were that have gone elsewhere since the index was read.
    moved: HashSet<u64>,
    bytes: Vec<u8>,
}

impl Worker<'_> {
    fn pack(&mut self, pack: &PackView, read: bool) -> Result<()> {
        cancelled(self.progress)?;
        let path = pack.row.name.path();
        let file = match pack::open(&**self.vault.local()?.files(), &pack.row.name) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.gone(pack, &path),
            Err(error) => return Err(error.into()),
        };
        if read {
            self.progress.set_current(path.clone().into_bytes());
            self.findings.report.packs += 1;
        }
        // Of what a repair took out of use only single frames still count.
        let is_aside = pack.row.state == PackState::Aside;
        if !is_aside {
            self.header(&*file, pack, &path)?;
        }
        let len = file.len()?;
        let mut rows = Vec::new();
        let mut at = HEADER_LEN;
        self.moved.clear();
        for (number, offset) in self.view.frames_of(pack) {
            let Some(place) = self.place(pack, number)? else {
                self.moved.insert(offset);
                continue;
            };
            rows.push(FrameRow { offset: place.offset, len: place.len, id: place.id });
            let end = end_of(place.offset, place.len);
            if place.state == FrameState::Bad && !judge::can_lie(&place, at, pack.row.indexed_len) {
                // Where damaged frames begin and end nobody knows.
                self.set_aside(&path, place.len, place.offset);
                continue;
            }
            if !judge::can_lie(&place, at, pack.row.indexed_len) {
                let (from, to) = (place.offset, end);
                let problem = format!(
                    "frame {} of {path} is said to lie from {from} to {to}, where only {at} to {} is free",
                    number.0, pack.row.indexed_len
                );
                self.findings.index_fault(problem);
                self.outcome.unclosed = true;
                continue;
            }
            if !is_aside {
                self.gap(&*file, &path, at, place.offset)?;
            }
            at = end;
            match place.state {
                FrameState::Good if read => self.frame(&*file, &path, number, &place)?,
                // Where the index cannot be written to, nobody else has said so.
                FrameState::Good if place.offset.saturating_add(place.len.into()) > len => {
                    self.bad(&path, number, &place, "is cut off");
                }
                FrameState::Good => {}
                FrameState::Bad => self.set_aside(&path, place.len, place.offset),
            }
        }
        self.tail(&*file, pack, &path, at, &rows)
    }

    /// Where a frame is, if it still is in this pack: packs are rewritten beside whoever reads them.
    fn place(&self, pack: &PackView, number: FrameNumber) -> Result<Option<FramePlace>> {
        Ok(self.vault.local()?.frame_if_any(number)?.filter(|place| place.pack == pack.number))
    }

    /// A pack that is not there takes all its frames with it.
    fn gone(&mut self, pack: &PackView, path: &str) -> Result<()> {
        let mut lost = 0;
        for (number, _) in self.view.frames_of(pack) {
            let Some(place) = self.place(pack, number)? else { continue };
            match place.state {
                FrameState::Good => {
                    self.outcome.bad.push(BadFrame::at(number, &place));
                    lost += 1;
                }
                FrameState::Bad => self.set_aside(path, place.len, place.offset),
            }
        }
        if lost > 0 {
            self.findings.fault(path, format!("the pack is gone, and {lost} frames with it"));
        }
        Ok(())
    }

    fn header(&mut self, file: &dyn ReadAt, pack: &PackView, path: &str) -> Result<()> {
        let is_empty = self.view.frames_of(pack).next().is_none();
        match judge::header(file, self.vault.id(), &pack.row.name, is_empty)? {
            Header::Good => {}
            Header::Unwritten => {
                self.findings.note(format!("{path} was begun by a backup that was interrupted, and holds nothing"));
            }
            Header::Bad(problem) => self.findings.fault(path, problem),
        }
        Ok(())
    }

    /// Bytes that belong to no frame the index knows.
    fn gap(&mut self, file: &dyn ReadAt, path: &str, from: u64, to: u64) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut scanner = Scanner::new(file, self.vault.id(), from)?;
        loop {
            match scanner.next() {
                Ok(Some(Scanned::Frame { row, .. })) if self.moved.contains(&row.offset) => {}
                Ok(Some(Scanned::Frame { row, header, .. })) if row.offset < to => {
                    if !self.lives_elsewhere(&header.ids)? {
                        let problem = format!("{path} holds a frame at {} that the index does not know", row.offset);
                        self.findings.index_fault(problem);
                    }
                }
                Ok(Some(Scanned::Bad { offset, len })) if offset < to => {
                    let len = len.min(to - offset);
                    self.findings.note(format!("{len} bytes at {offset} of {path} belong to no frame"));
                }
                Ok(_) => return Ok(()),
                Err(error) if is_media(&error) => {
                    self.findings.fault(path, format!("it cannot be read near {from}: {}", error.source));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a collection moved a frame out of a pack that it could not remove, or not yet, or took it apart: what of
    /// it is needed has other places, and what is not was freed.
    fn lives_elsewhere(&self, ids: &[ChunkId]) -> Result<bool> {
        let store = self.vault.local()?;
        let rows: Vec<_> = store.chunk_rows(ids)?.into_iter().flatten().collect();
        for row in &rows {
            if store.frame_if_any(row.frame)?.is_some() {
                return Ok(true);
            }
        }
        Ok(rows.is_empty())
    }

    /// What comes after the last frame.
    fn tail(&mut self, file: &dyn ReadAt, pack: &PackView, path: &str, at: u64, rows: &[FrameRow]) -> Result<()> {
        let len = file.len()?;
        // An open pack may be growing; of a lost one the end is known to be missing.
        if pack.row.state != PackState::Closed || len <= at {
            return Ok(());
        }
        match judge::tail(file, &pack.row.name, len, at, rows)? {
            Directory::Good(listed) => self.left_out(path, &listed, rows),
            Directory::None => self.gap(file, path, at, len)?,
            Directory::Bad(problem) => self.findings.fault(path, problem),
        }
        Ok(())
    }

    /// Frames of the directory that did not verify when the index was made. What they held is either stored anew
    /// since, or missing in the snapshots that need it.
    fn left_out(&mut self, path: &str, listed: &[FrameRow], rows: &[FrameRow]) {
        for row in listed.iter().filter(|row| !judge::lists(rows, row)) {
            if !self.moved.contains(&row.offset) {
                self.set_aside(path, row.len, row.offset);
            }
        }
    }

    fn set_aside(&mut self, path: &str, len: u32, offset: u64) {
        self.findings.note(format!("the frame of {len} bytes at {offset} of {path} was found damaged earlier"));
    }

    fn frame(&mut self, file: &dyn ReadAt, path: &str, number: FrameNumber, place: &FramePlace) -> Result<()> {
        cancelled(self.progress)?;
        let len = place.len as usize;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(len + pack::FRAME_NAME_LEN as usize, 0);
        let read = match file.read_at(place.offset, &mut bytes) {
            Ok(read) => read,
            Err(error) if is_media(&error) => {
                self.bad(path, number, place, &format!("cannot be read: {}", error.source));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.findings.report.bytes_read += read as u64;
        Progress::add(&self.progress.bytes_done, read as u64);
        match judge::frame(place, &bytes[..read]) {
            Judged::Wrong => self.bad(path, number, place, "is damaged"),
            Judged::Whole { is_named } => {
                if !is_named {
                    self.findings.fault(path, judge::name_problem(place));
                }
                self.opened(path, number, place, &mut bytes[..len])?;
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// A frame whose bytes are those that were stored.
    fn opened(&mut self, path: &str, number: FrameNumber, place: &FramePlace, bytes: &mut [u8]) -> Result<()> {
        let opened = match self.frames.open(bytes, place.kind) {
            Ok(opened) => opened,
            // Nothing is wrong with the frame: the key may come back.
            Err(error @ FrameError::NoKey { .. }) => {
                self.findings.fault(path, format!("the frame at {} cannot be opened: {error}", place.offset));
                return Ok(());
            }
            Err(error) => {
                self.bad(path, number, place, &format!("is not what it should be: {error}"));
                return Ok(());
            }
        };
        self.findings.report.frames += 1;
        self.findings.report.chunks += opened.chunk_count() as u64;
        self.rows(number, &opened.header.ids)?;
        if place.kind == Kind::Branch {
            let faults = self.frames.branches(number, &opened)?;
            for (id, why) in faults.unreadable {
                self.findings
                    .fault(path, format!("branch {id} in the frame at {} is not readable: {why}", place.offset));
            }
            for (id, lacks) in faults.lacking {
                self.outcome.unclosed = true;
                self.findings.index_fault(format!("branch {id} counts as whole and lacks {lacks} chunks"));
            }
        }
        self.frames.recycle(opened);
        Ok(())
    }

    /// Compares the rows that name this frame with what is in it.
    fn rows(&mut self, number: FrameNumber, ids: &[ChunkId]) -> Result<()> {
        let expected = self.view.print_of(number);
        let all = ids.iter().enumerate().fold(0, |all, (at, id)| all ^ print(id, at));
        if all == expected {
            return Ok(());
        }
        // Some chunks have their place elsewhere, or had none since; or a row is wrong.
        let rows = self.vault.local()?.chunk_rows(ids)?;
        let here =
            ids.iter().zip(rows).enumerate().filter(|(at, (_, row))| {
                row.is_some_and(|row| row.frame == number && usize::from(row.position) == *at)
            });
        let here = here.fold(0, |here, (at, (id, _))| here ^ print(id, at));
        if here != expected && self.outcome.suspects.len() < SUSPECTS_MAX {
            self.outcome.suspects.insert(number, ids.to_vec());
        }
        Ok(())
    }

    fn bad(&mut self, path: &str, number: FrameNumber, place: &FramePlace, what: &str) {
        self.outcome.bad.push(BadFrame::at(number, place));
        self.findings.fault(path, judge::frame_problem(place, what));
    }
}
