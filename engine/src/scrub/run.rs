//! One run of a scrub: step after step, saving as it goes.

use super::plan::{self, Pace, PackPlace, Step};
use super::state::{self, Done, FrameMark, LAST, PACKS, PAUSE, PRESENT, Round, ScrubFault};
use super::window::Window;
use super::{End, Result, ScrubError, ScrubOptions};
use crate::check::CheckError;
use crate::check::findings::Findings;
use crate::check::index::{self, IndexView, PackView};
use crate::check::records;
use crate::env::Env;
use crate::files::{Files, FilesError};
use crate::index::{ChunkState, FramePlace, PackState};
use crate::pack::PackName;
use crate::progress::Progress;
use crate::record::{self, Record, RecordError, RecordKind};
use crate::store::{BadFrame, Fault, LocalStore, Store, StoreError};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A round is written down after so many bytes …
const SAVE_BYTES: u64 = 64 << 20;
/// … or so long, whichever comes first.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// How often a request for a pause is looked for.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Why a run does not go on.
pub(super) enum Halt {
    End(End),
    Failed(ScrubError),
}

impl<E: Into<ScrubError>> From<E> for Halt {
    fn from(error: E) -> Self {
        match error.into() {
            ScrubError::Check(CheckError::Cancelled) => Self::End(End::Interrupted),
            error => Self::Failed(error),
        }
    }
}

/// Result of a part of a run.
pub(super) type Going<T> = std::result::Result<T, Halt>;

/// A run.
pub(super) struct Run<'a> {
    pub store: &'a LocalStore,
    env: &'a Env,
    options: &'a ScrubOptions,
    progress: &'a Progress,
    pub round: Round,
    pub notes: Vec<String>,
    /// Packs the round owes, ascending.
    listed: Vec<PackName>,
    pub window: Window,
    pace: Pace,
    ask_at: Duration,
    saved_at: Duration,
    saved_bytes: u64,
    /// Bad frames that are counted and not listed: expelled before the round is written down.
    pub unlisted: Vec<BadFrame>,
    expel_at: Duration,
}

impl<'a> Run<'a> {
    pub fn new(
        store: &'a LocalStore,
        env: &'a Env,
        options: &'a ScrubOptions,
        progress: &'a Progress,
        round: Round,
        listed: Vec<PackName>,
    ) -> Self {
        let pace = Pace::new(options.rate);
        let now = env.clock.elapsed();
        Self {
            store,
            env,
            options,
            progress,
            saved_bytes: round.counts.bytes,
            round,
            notes: Vec::new(),
            listed,
            window: Window::new(pace.window()),
            pace,
            ask_at: now,
            saved_at: now,
            unlisted: Vec::new(),
            expel_at: now,
        }
    }

    /// Goes on to the end of the round. However it ends, the place is written down if that can be.
    pub fn go(&mut self, rebuilt: Option<&[Fault]>) -> Going<()> {
        let done = self.steps(rebuilt);
        if let Err(halt) = done {
            let kept = self.save().and_then(|()| self.set_aside());
            return Err(match (halt, kept) {
                (Halt::End(_), Err(error)) => Halt::Failed(error),
                // The first error says more than that the place could not be kept.
                (halt, _) => halt,
            });
        }
        done
    }

    fn steps(&mut self, rebuilt: Option<&[Fault]>) -> Going<()> {
        if let Some(faults) = rebuilt {
            self.notes.push("the index was missing or damaged and was built again from the packs".to_owned());
            self.tell(faults);
        }
        self.save()?;
        self.recall()?;
        while self.round.step != Step::Done {
            match self.round.step {
                Step::Twins => self.twins()?,
                Step::Records => self.records()?,
                Step::Index => self.index()?,
                Step::Packs | Step::Later => self.packs()?,
                Step::Done => {}
            }
        }
        self.finish()?;
        Ok(())
    }

    /// Waits where the pace calls for it, and ends where somebody asks for that.
    pub fn go_on(&mut self) -> Going<()> {
        loop {
            if self.progress.is_cancelled() {
                return Err(Halt::End(End::Interrupted));
            }
            let now = self.env.clock.elapsed();
            if now >= self.ask_at {
                self.ask_at = now + ASK_EVERY;
                match self.files().open(PAUSE) {
                    Ok(_) => return Err(Halt::End(End::Paused)),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match self.pace.wait(now) {
                Some(slice) => (self.options.wait)(slice),
                None => return Ok(()),
            }
        }
    }

    pub fn files(&self) -> &'a dyn Files {
        &**self.store.files()
    }

    /// Takes account of bytes read.
    pub fn spend(&mut self, bytes: u64) {
        self.round.counts.bytes += bytes;
        self.pace.spend(bytes, self.env.clock.elapsed());
    }

    /// Takes over faults about which nothing can be done here.
    pub fn tell(&mut self, faults: &[Fault]) {
        for fault in faults {
            self.add(&fault.file, None, fault.problem.clone(), Done::Told);
        }
    }

    pub fn add(&mut self, file: &str, offset: Option<u64>, problem: String, done: Done) {
        self.round.add(ScrubFault { file: file.to_owned(), offset, problem, done, frame: None });
    }

    /// A frame is bad: it is told, and expelled soon.
    pub fn bad(&mut self, path: &str, found: BadFrame, place: &FramePlace, problem: String) {
        let frame = Some(FrameMark { number: found.number, pack: found.pack, id: place.id });
        let offset = Some(place.offset);
        let fault = ScrubFault { file: path.to_owned(), offset, problem, done: Done::Pending, frame };
        if !self.round.add(fault) {
            self.unlisted.push(found);
        }
    }

    fn advance(&mut self) -> Result<()> {
        self.round.step = self.round.step.next();
        self.round.place = None;
        self.save()
    }

    /// Writes the round down.
    pub fn save(&mut self) -> Result<()> {
        // Once the place is written down nobody would come back to these.
        if !self.unlisted.is_empty() {
            self.store.expel(&self.unlisted)?;
            self.unlisted.clear();
        }
        self.round.saved = self.env.clock.now();
        if crate::zoo::planted("scrub-place-before-faults") {
            let faults = std::mem::take(&mut self.round.faults);
            let saved = self.round.save(self.files(), self.store.vault(), PRESENT);
            self.round.faults = faults;
            saved?;
        } else {
            self.round.save(self.files(), self.store.vault(), PRESENT)?;
        }
        self.saved_at = self.env.clock.elapsed();
        self.saved_bytes = self.round.counts.bytes;
        Ok(())
    }

    /// Writes the round down when it is time, and then expels what was found since; that reads much of the index, so
    /// it may take a tenth of the time and no more.
    pub fn save_if_due(&mut self) -> Result<()> {
        let now = self.env.clock.elapsed();
        self.progress.bytes_done.store(self.round.bytes_so_far(), Ordering::Relaxed);
        if self.round.counts.bytes - self.saved_bytes < SAVE_BYTES && now < self.saved_at + SAVE_EVERY {
            return Ok(());
        }
        self.save()?;
        if now >= self.expel_at {
            self.set_aside()?;
        }
        Ok(())
    }

    /// Takes the standing of the frames found bad so far. They are written down before: afterwards they count as
    /// known, and nobody would tell them again.
    fn set_aside(&mut self) -> Result<()> {
        let is_pending = |fault: &ScrubFault| fault.done == Done::Pending && fault.frame.is_some();
        if !self.round.faults.iter().any(is_pending) {
            return Ok(());
        }
        let mut bad = Vec::new();
        for fault in self.round.faults.iter().filter(|fault| is_pending(fault)) {
            let Some(mark) = fault.frame else { continue };
            let now = self.store.frame_if_any(mark.number)?;
            bad.extend(fault.bad_frame(|_| now));
        }
        let begun = self.env.clock.elapsed();
        self.store.expel(&bad)?;
        self.round.faults.iter_mut().filter(|fault| is_pending(fault)).for_each(|fault| fault.done = Done::SetAside);
        let ended = self.env.clock.elapsed();
        self.expel_at = ended + (ended - begun) * 10;
        self.save()
    }

    /// Does what an earlier run found and was kept from doing.
    fn recall(&mut self) -> Result<()> {
        self.audit()?;
        self.set_aside()
    }

    /// Compares packs with the index by name and length, and expels what is gone. That is written down before it is
    /// done, too.
    pub fn audit(&mut self) -> Result<()> {
        let pending = |fault: &ScrubFault| fault.done == Done::Pending && fault.frame.is_none();
        for fault in self.store.short_packs()? {
            self.add(&fault.file, None, fault.problem, Done::Pending);
        }
        if !self.round.faults.iter().any(pending) {
            return Ok(());
        }
        self.save()?;
        let found = self.store.audit()?;
        let rows = self.store.pack_rows()?.into_iter().map(|(_, row)| row);
        let lost: HashSet<String> =
            rows.filter(|row| row.state == PackState::Lost).map(|row| row.name.path()).collect();
        // What was dropped meanwhile is no loss.
        self.round.faults.retain(|fault| !pending(fault) || lost.contains(&fault.file));
        self.round.faults.iter_mut().filter(|fault| pending(fault)).for_each(|fault| fault.done = Done::SetAside);
        for fault in found {
            self.add(&fault.file, None, fault.problem, Done::SetAside);
        }
        self.save()
    }

    fn twins(&mut self) -> Going<()> {
        self.go_on()?;
        let vault = self.store.vault();
        let verify = |kind, bytes: &[u8]| Record::parse(bytes)?.record.expect(kind, vault);
        let mut findings = Findings::default();
        records::twins(self.files(), &verify, &mut findings)?;
        self.tell(&findings.report.faults);
        Ok(self.advance()?)
    }

    fn records(&mut self) -> Going<()> {
        let mut findings = Findings::default();
        let (mut next, mut count, mut before) = (1, 0, None);
        for (number, path) in self.store.record_paths()? {
            self.go_on()?;
            if number != next {
                findings.fault(&path, format!("records {next} to {} are gone", number - 1));
                before = None;
            }
            next = number.saturating_add(1);
            let parse = |bytes: &[u8]| self.is_record(number, bytes);
            match records::read_whole(self.files(), &path, &parse)? {
                Ok(bytes) => {
                    let parsed = Record::parse(&bytes).map_err(|_| StoreError::from(changed(&path)))?;
                    if before.is_some_and(|hash| hash != parsed.record.previous) {
                        let problem = "it does not follow from the record before it, which was changed since";
                        findings.fault(&path, problem);
                    }
                    before = Some(record::hash(&bytes));
                    count += 1;
                    self.spend(bytes.len() as u64);
                }
                Err(problem) => {
                    before = None;
                    findings.fault(&path, problem);
                }
            }
        }
        self.round.counts.records = count;
        self.tell(&findings.report.faults);
        self.round.faults_more += findings.report.faults_more;
        Ok(self.advance()?)
    }

    /// Whether these are the bytes of the record of this number, as far as can be told without keys.
    fn is_record(&self, number: u64, bytes: &[u8]) -> std::result::Result<(), RecordError> {
        let record = Record::parse(bytes)?.record;
        record.expect(record.kind, self.store.vault())?;
        if matches!(record.kind, RecordKind::Config | RecordKind::Keyring) {
            record.expect(RecordKind::Ref, self.store.vault())?;
        }
        match record.count == number {
            true => Ok(()),
            false => {
                Err(RecordError::Other { what: "count", expected: number.to_string(), found: record.count.to_string() })
            }
        }
    }

    fn index(&mut self) -> Going<()> {
        self.go_on()?;
        let mut findings = Findings::default();
        if !index::is_sound(self.store, &mut findings)? {
            self.tell(&findings.report.faults);
            self.notes.extend(findings.report.notes);
            self.round.step = Step::Done;
            return Ok(());
        }
        self.audit()?;
        let view = IndexView::read(self.store, &mut findings, self.progress)?;
        self.tell(&findings.report.faults);
        self.round.faults_more += findings.report.faults_more;
        self.round.counts.chunks = findings.report.chunks_total;
        self.round.counts.lost_chunks = view.suspects;
        let closed = view.packs.iter().filter(|pack| pack.row.state != PackState::Open);
        self.listed = closed.map(|pack| pack.row.name).collect();
        self.listed.sort_unstable();
        state::save_list(self.files(), self.store.vault(), self.round.number, &self.listed)?;
        Ok(self.advance()?)
    }

    fn packs(&mut self) -> Going<()> {
        // Contradictions between rows were told when the index was read as a whole.
        let view = IndexView::read_places(self.store, &mut Findings::default(), self.progress)?;
        let mut packs: Vec<&PackView> = view.packs.iter().filter(|pack| counts(pack.row.state)).collect();
        packs.sort_unstable_by_key(|pack| pack.row.name);
        let names = packs.iter().map(|pack| pack.row.name);
        let due = plan::to_read(names, &self.listed, self.round.step, self.round.place);
        let rest = due.iter().filter_map(|name| self.find(&packs, name)).map(|pack| pack.row.indexed_len).sum::<u64>();
        self.round.bytes_total = self.round.bytes_done.saturating_add(rest);
        self.progress.bytes_total.store(self.round.bytes_total, Ordering::Relaxed);
        self.progress.files_total.store(self.round.counts.packs + due.len() as u64, Ordering::Relaxed);
        for name in &due {
            if let Some(pack) = self.find(&packs, name) {
                self.pack(&view, pack)?;
            }
        }
        Ok(self.advance()?)
    }

    fn find<'v>(&self, packs: &[&'v PackView], name: &PackName) -> Option<&'v PackView> {
        packs.binary_search_by_key(name, |pack| pack.row.name).ok().map(|at| packs[at])
    }

    /// A pack is done, and all before it.
    pub fn pack_done(&mut self, name: PackName, len: u64) -> Result<()> {
        self.round.counts.packs += 1;
        Progress::add(&self.progress.files_done, 1);
        self.pass(name, len)
    }

    /// A pack need not be read.
    pub fn pass(&mut self, name: PackName, len: u64) -> Result<()> {
        self.round.bytes_done = self.round.bytes_done.saturating_add(len);
        self.round.place = Some(PackPlace { name, offset: PackPlace::END });
        self.save_if_due()
    }

    pub fn set_current(&self, path: &str) {
        self.progress.set_current(path.as_bytes().to_vec());
    }

    /// Counts once more what is lost: backups may have healed some of it since the round read the index, and others
    /// may have found more.
    fn count_lost(&mut self) -> Result<()> {
        let mut lost = 0;
        self.store.visit_chunk_rows(&mut |_, row| {
            lost += u64::from(row.state == ChunkState::Suspect);
            true
        })?;
        self.round.counts.lost_chunks = lost;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.save()?;
        self.set_aside()?;
        if self.round.counts.set_aside > 0 {
            self.count_lost()?;
        }
        let now = self.env.clock.now();
        (self.round.saved, self.round.ended) = (now, Some(now));
        self.round.bytes_total = self.round.bytes_done;
        self.round.save(self.files(), self.store.vault(), LAST)?;
        super::remove(self.files(), PRESENT)?;
        super::remove(self.files(), PACKS)?;
        Ok(())
    }
}

fn changed(path: &str) -> FilesError {
    FilesError { action: "read", path: path.to_owned(), source: ErrorKind::InvalidData.into() }
}

/// Whether packs in this state hold frames somebody relies on.
fn counts(state: PackState) -> bool {
    matches!(state, PackState::Open | PackState::Closed | PackState::Lost)
}
