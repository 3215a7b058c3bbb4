//! Power cuts in collections: a history of backups, purges and collections, some of them beside a backup, some
//! interrupted, is recorded once; then at every entry of its log the states a power cut may leave are tried. The vault
//! opens, what is not purged is there byte for byte, the next collection finishes what was begun, the next backup is
//! whole, check is clean, and two rounds later nothing is left that nothing needs.

use crate::lab::{self, Taken, chain};
use crate::tree::{Shape, SourceTree};
use crate::woven::spotless;
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::env::Dice;
use twinkeep_engine::files::crash::{CrashState, Replay};
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles, FaultyKvHome};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::files::record::{Log, RecordingFiles, RecordingKvHome, record};
use twinkeep_engine::gc::{self, Access, GcOptions, GcReport};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::record::{ChangeKind, ChangeRecord};
use twinkeep_engine::vault::{Place, Vault};

/// Small enough to be read thousands of times.
const SHAPE: Shape = Shape { files: 9, wide: 0, len_max: 6 << 10 };

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Crash states tried.
    pub states: usize,
    /// Of them, crashes while recovering from a crash.
    pub again: usize,
    /// Entries of the log from the first purge on.
    pub entries: usize,
    /// Frames moved whole in the history.
    pub moved: u64,
    /// Frames taken apart in it.
    pub apart: u64,
    /// Packs removed in it.
    pub removed: u64,
}

/// A recorded history.
pub struct History {
    log: Log,
    from: usize,
    taken: BTreeMap<ChunkId, Taken>,
    tree: SourceTree,
    counts: Counts,
}

struct Recorder {
    files: RecordingFiles,
    kv: RecordingKvHome,
    log: Log,
    seed: u64,
    opened: u64,
    taken: BTreeMap<ChunkId, Taken>,
    counts: Counts,
}

type Outcome = Result<(), String>;

fn place(files: &RecordingFiles, kv: &RecordingKvHome, faults: &Faults) -> Place {
    Place {
        files: Arc::new(FaultyFiles::new(Arc::new(files.clone()), faults.clone())),
        kv_home: Arc::new(FaultyKvHome::new(Arc::new(kv.clone()), faults.clone())),
    }
}

impl Recorder {
    fn open(&mut self, faults: &Faults) -> Result<Vault, String> {
        self.opened += 1;
        let env = lab::env(self.seed.wrapping_mul(1000).wrapping_add(self.opened));
        lab::open(place(&self.files, &self.kv, faults), env).map_err(|error| format!("open: {}", chain(&error)))
    }

    fn published(&mut self, taken: Taken) {
        self.log.ack(format!("+{}", taken.id.to_hex()));
        self.taken.insert(taken.id, taken);
    }

    fn take(&mut self, tree: &SourceTree) -> Result<ChunkId, String> {
        let vault = self.open(&Faults::new())?;
        let taken = lab::take(&vault, tree, None).map_err(|error| format!("backup: {}", chain(&error)))?;
        let id = taken.id;
        self.published(taken);
        Ok(id)
    }

    fn purge(&mut self, ids: &[ChunkId]) -> Outcome {
        let vault = self.open(&Faults::new())?;
        // From here on it may be gone.
        ids.iter().for_each(|id| self.log.ack(format!("-{}", id.to_hex())));
        purge(&vault, ids)
    }

    fn collect(&mut self) -> Result<GcReport, String> {
        let vault = self.open(&Faults::new())?;
        let report = collect(&vault)?;
        self.counts.moved += report.frames_moved;
        self.counts.apart += report.frames_taken_apart;
        self.counts.removed += report.packs_removed;
        Ok(report)
    }

    /// A collection whose process dies.
    fn interrupt(&mut self, call: Call, nth: u64) -> Outcome {
        let faults = Faults::new();
        let vault = self.open(&faults)?;
        faults.fail_from(call, nth, Fault::Os(libc::EIO));
        match collect(&vault) {
            Ok(_) if faults.hits() > 0 => Err(format!("the {nth}th {call:?} of a collection failed unnoticed")),
            _ => Ok(()),
        }
    }

    /// A backup in the middle of which garbage is collected, which then has to wait.
    fn take_over(&mut self, tree: &SourceTree) -> Result<ChunkId, String> {
        let waited = Arc::new(Mutex::new(Ok(false)));
        let (place, kept) = (place(&self.files, &self.kv, &Faults::new()), waited.clone());
        let seed = self.seed;
        let deed = move || {
            let vault = lab::open(place, lab::env(seed ^ 0xdeed)).map_err(|error| chain(&error));
            let report = vault.and_then(|vault| collect(&vault));
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = report.map(|report| !report.waits_for.is_empty());
        };
        let executor = Arc::new(lab::After::new(deed));
        self.opened += 1;
        let env = lab::env_with(self.seed.wrapping_mul(1000).wrapping_add(self.opened), executor);
        let vault = lab::open(lab::place(self.files.clone(), self.kv.clone()), env).map_err(|error| chain(&error))?;
        let taken = lab::take(&vault, tree, None).map_err(|error| format!("backup: {}", chain(&error)))?;
        let id = taken.id;
        self.published(taken);
        match waited.lock().unwrap_or_else(PoisonError::into_inner).clone()? {
            true => Ok(id),
            false => Err("a collection in the middle of a backup did not wait".to_owned()),
        }
    }
}

fn purge(vault: &Vault, ids: &[ChunkId]) -> Outcome {
    for kind in [ChangeKind::Forget { undelete_days: 0 }, ChangeKind::Purge] {
        let done = vault.change(&mut |history, _| {
            let named = history.refs.values().filter(|entry| ids.contains(&entry.reference.target));
            let records: Vec<u64> = named.map(|entry| entry.count).collect();
            Some(ChangeRecord { records, note: String::new(), kind: kind.clone() })
        });
        done.map_err(|error| format!("purge: {}", chain(&error)))?;
    }
    Ok(())
}

fn collect(vault: &Vault) -> Result<GcReport, String> {
    let report = gc::collect(Access::Keys(vault), &GcOptions::default(), &Progress::silent());
    report.map_err(|error| format!("gc: {}", chain(&error)))
}

impl History {
    /// Makes it.
    pub fn record(seed: u64) -> Result<Self, String> {
        let (files, kv, log) = record(MemoryFiles::new(), MemoryKvHome::new());
        let made = lab::create(lab::place(files.clone(), kv.clone()), lab::env(seed));
        drop(made.map_err(|error| format!("create: {}", chain(&error)))?);
        let (opened, taken, counts) = (0, BTreeMap::new(), Counts::default());
        let mut recorder = Recorder { files, kv, log, seed, opened, taken, counts };
        let mut dice = Dice(seed);
        let mut tree = SourceTree::new(seed, SHAPE);
        let other = SourceTree::new(seed ^ 0xff, SHAPE);
        let first = recorder.take(&tree)?;
        let side = recorder.take(&other)?;
        tree.change();
        let second = recorder.take(&tree)?;
        let from = recorder.log.len();
        // Packs go, move, are taken apart; then again beside a backup that uses what is condemned.
        recorder.purge(&[first])?;
        recorder.collect()?;
        tree.change();
        recorder.purge(&[second, side])?;
        let mut going = vec![recorder.take_over(&tree)?];
        recorder.collect()?;
        // Others die in the middle, and the next goes on.
        for call in [Call::KvCommit, Call::Append, Call::Sync, Call::Remove, Call::KvCommit] {
            tree.change();
            let next = recorder.take(&tree)?;
            tree.change();
            recorder.take(&tree)?;
            going.push(next);
            let at = dice.below(going.len());
            recorder.purge(&[going.remove(at)])?;
            recorder.interrupt(call, 1 + dice.below(5) as u64)?;
        }
        recorder.collect()?;
        recorder.collect()?;
        let counts = recorder.counts;
        Ok(Self { log: recorder.log, from, taken: recorder.taken, tree, counts })
    }

    /// Tries crash states from the first purge on, on two threads: at one in `entry_one_in` entries `states` of them.
    pub fn try_all(&self, seed: u64, states: usize, entry_one_in: usize) -> Result<Counts, String> {
        let (done, again, entries) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let results: Vec<Outcome> = std::thread::scope(|scope| {
            let (done, again, entries) = (&done, &again, &entries);
            let share = |share: usize| {
                move || -> Outcome {
                    let mut replay = Replay::new(&self.log);
                    for at in self.from..=replay.len() {
                        let mut dice = Dice(seed ^ (at as u64) << 20);
                        if !dice.one_in(entry_one_in) || at % 2 != share {
                            continue;
                        }
                        replay.advance_to(at);
                        entries.fetch_add(1, Ordering::Relaxed);
                        let all: Vec<CrashState> = replay.states(&mut dice, states).collect();
                        for (number, state) in all.into_iter().enumerate() {
                            let note = state.note.clone();
                            let mut trial = Trial { history: self, acks: self.log.acks(at), dice: Dice(dice.throw()) };
                            let more = trial.run(state).map_err(|problem| {
                                let len = replay.len();
                                format!("seed {seed}, entry {at} of {len}, state {number}: {problem}\n  {note}")
                            })?;
                            done.fetch_add(1 + more, Ordering::Relaxed);
                            again.fetch_add(more, Ordering::Relaxed);
                        }
                    }
                    Ok(())
                }
            };
            let threads: Vec<_> = (0..2).map(|number| scope.spawn(share(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".to_owned()))).collect()
        });
        results.into_iter().collect::<Outcome>()?;
        let [states, again, entries] = [done, again, entries].map(AtomicUsize::into_inner);
        Ok(Counts { states, again, entries, ..self.counts })
    }
}

struct Trial<'a> {
    history: &'a History,
    acks: Vec<String>,
    dice: Dice,
}

impl Trial<'_> {
    /// Recovers; returns how many states of a second crash were tried, too.
    fn run(&mut self, state: CrashState) -> Result<usize, String> {
        if !self.dice.one_in(60) {
            return self.recover(lab::place(state.files, state.kv)).map(|()| 0);
        }
        let (files, kv, log) = record(state.files, state.kv);
        self.recover(lab::place(files, kv))?;
        let mut replay = Replay::new(&log);
        let (mut at, mut count) = (0, 0);
        while at < replay.len() {
            at += 1 + self.dice.below(25);
            replay.advance_to(at);
            for state in replay.states(&mut self.dice, 1) {
                let note = state.note.clone();
                self.recover(lab::place(state.files, state.kv))
                    .map_err(|problem| format!("after a second crash: {problem}\n  {note}\n  before that:"))?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn recover(&mut self, place: Place) -> Outcome {
        let open = |seed| lab::open(place.clone(), lab::env(seed)).map_err(|error| format!("open: {}", chain(&error)));
        let vault = open(self.dice.throw())?;
        self.verify(&vault)?;
        if self.dice.one_in(4) {
            check_clean(&vault)?;
        }
        let next = match self.dice.one_in(3) {
            true => Some(self.next(&vault)?),
            false => None,
        };
        // What one round leaves because of what it found itself, the next takes.
        for _ in 0..2 {
            let report = collect(&vault)?;
            if let Some(damaged) = report.damaged.first() {
                return Err(format!("gc: {damaged} is damaged"));
            }
        }
        spotless(&vault)?;
        // As another process sees it.
        let vault = open(self.dice.throw())?;
        self.verify(&vault)?;
        match &next {
            Some(next) => next.verify(&vault)?,
            None => drop(self.next(&vault)?),
        }
        if self.dice.one_in(3) { check_clean(&vault) } else { Ok(()) }
    }

    fn next(&self, vault: &Vault) -> Result<Taken, String> {
        let next = lab::take(vault, &self.history.tree, None).map_err(|error| format!("next: {}", chain(&error)))?;
        next.verify(vault).map_err(|problem| format!("next: {problem}"))?;
        Ok(next)
    }

    /// Whatever was acknowledged and is not purged is a root; every root is whole.
    fn verify(&self, vault: &Vault) -> Outcome {
        let history = vault.history().map_err(|error| chain(&error))?;
        if let Some(fault) = history.open_faults().next() {
            return Err(format!("{}: {}", fault.file, fault.problem));
        }
        let roots: HashSet<ChunkId> = history.roots().map(|entry| entry.reference.target).collect();
        let ids = |sign| self.acks.iter().filter_map(move |ack| ack.strip_prefix(sign).and_then(ChunkId::from_hex));
        let purged: HashSet<ChunkId> = ids('-').collect();
        if let Some(lost) = ids('+').find(|id| !roots.contains(id) && !purged.contains(id)) {
            return Err(format!("acknowledged snapshot {lost} is not there"));
        }
        roots.iter().filter_map(|id| self.history.taken.get(id)).try_for_each(|taken| taken.verify(vault))
    }
}

fn check_clean(vault: &Vault) -> Outcome {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(vault, &options, &Progress::silent()).map_err(|error| format!("check: {}", chain(&error)))?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(format!("check: {:?} {:?}", report.faults, report.damaged)),
    }
}

/// Records a history from a seed and tries it.
pub fn run(seed: u64, states: usize, entry_one_in: usize) -> Result<Counts, String> {
    History::record(seed).map_err(|problem| format!("seed {seed}: {problem}"))?.try_all(seed, states, entry_one_in)
}
