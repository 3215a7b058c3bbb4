//! Power cuts: a history of backups is recorded once, then at every entry of its log the states a power cut may leave
//! are tried: the vault opens, every acknowledged snapshot is whole, the next backup succeeds and is whole too.

use crate::lab::{self, Taken, chain};
use crate::model::{self, Model};
use crate::tree::{Shape, SourceTree, copy_folder};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::env::{Dice, Env, Executor};
use twinkeep_engine::files::crash::{CrashState, Replay};
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles, FaultyKvHome};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::files::record::{Log, RecordingFiles, RecordingKvHome, record};
use twinkeep_engine::history::{RefHistory, RefState};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::retention::{self, RetentionError, TagEdit};
use twinkeep_engine::vault::{ConfigChange, Place, Vault, VaultError};

/// What is acknowledged once a vault is made.
const VAULT: &str = "vault";

/// What is acknowledged once a way in was added and a new key pair drawn.
const KEYS: &str = "keys";
/// What is acknowledged, with a number behind it, once something is said of snapshots.
const SAID: &str = "said ";

/// What is said of a vault and its snapshots: days of the undelete window, and of each snapshot its state (`l` wanted,
/// `f` forgotten, `p` purged), whether it is pinned, and its tags.
type Standing = (u32, BTreeMap<ChunkId, (char, bool, Vec<String>)>);

fn standing(vault: &Vault) -> Result<Standing, String> {
    let history = vault.history().map_err(|error| format!("history: {}", chain(&error)))?;
    let one = |entry: &RefHistory| {
        let state = match entry.state {
            RefState::Live => 'l',
            RefState::Forgotten { .. } => 'f',
            RefState::Purged => 'p',
        };
        (entry.reference.target, (state, entry.pinned, entry.tags(&[])))
    };
    Ok((vault.config().undelete_days, history.refs.values().map(one).collect()))
}

/// Everything that happened, and what has to come out of it.
pub struct History {
    log: Log,
    /// The first entry to be tried.
    from: usize,
    /// Acknowledged and listed snapshots by id.
    taken: BTreeMap<ChunkId, Taken>,
    /// What was in a source at some backup, acknowledged or not.
    seen: Vec<(Vec<u8>, Arc<Model>)>,
    /// How things stood after each change that was acknowledged.
    said: Vec<Standing>,
    tree: SourceTree,
    caches: Vec<PathBuf>,
    _scratch: tempfile::TempDir,
}

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Crash states tried.
    pub states: usize,
    /// Of them, crashes while recovering from a crash.
    pub again: usize,
    /// Entries of the log.
    pub entries: usize,
    /// Snapshots of the history.
    pub snapshots: usize,
}

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// States at each entry of the log.
    pub states: usize,
    /// One in this many states is recovered from under a second crash.
    pub again_one_in: usize,
    /// One in this many entries of the log is looked at.
    pub entry_one_in: usize,
}

struct Recorder {
    files: RecordingFiles,
    kv: RecordingKvHome,
    log: Log,
    seed: u64,
    vaults: u64,
    taken: BTreeMap<ChunkId, Taken>,
    seen: Vec<(Vec<u8>, Arc<Model>)>,
    said: Vec<Standing>,
    caches: Vec<PathBuf>,
    scratch: PathBuf,
}

impl Recorder {
    fn new(seed: u64) -> (Self, tempfile::TempDir) {
        let (files, kv, log) = record(MemoryFiles::new(), MemoryKvHome::new());
        let scratch = tempfile::Builder::new().prefix("twinkeep-crash-").tempdir().expect("a scratch folder");
        let recorder = Self {
            files,
            kv,
            log,
            seed,
            vaults: 0,
            taken: BTreeMap::new(),
            seen: Vec::new(),
            said: Vec::new(),
            caches: Vec::new(),
            scratch: scratch.path().to_path_buf(),
        };
        (recorder, scratch)
    }

    fn end(self, from: usize, tree: SourceTree, scratch: tempfile::TempDir) -> History {
        let Self { log, taken, seen, said, caches, .. } = self;
        History { log, from, taken, seen, said, tree, caches, _scratch: scratch }
    }

    fn env(&mut self) -> Env {
        self.vaults += 1;
        lab::env(self.seed.wrapping_mul(1000).wrapping_add(self.vaults))
    }

    fn place(&self) -> Place {
        lab::place(self.files.clone(), self.kv.clone())
    }

    /// As another process would.
    fn open(&mut self) -> Result<Vault, String> {
        let (place, env) = (self.place(), self.env());
        lab::open(place, env).map_err(|error| format!("open: {}", chain(&error)))
    }

    fn cache(&self) -> PathBuf {
        self.scratch.join("cache")
    }

    /// A backup, and its acknowledgement.
    fn take(&mut self, vault: &Vault, tree: &SourceTree) -> Result<(), String> {
        self.see(tree);
        let cache = self.cache();
        let taken = lab::take(vault, tree, Some(&cache)).map_err(|error| format!("backup: {}", chain(&error)))?;
        self.log.ack(taken.id.to_hex());
        self.taken.insert(taken.id, taken);
        self.keep_cache();
        Ok(())
    }

    /// A way in is added, and a new key pair drawn for what is backed up later.
    fn change_keys(&mut self, vault: &Vault) -> Result<(), String> {
        let told = |error: VaultError| format!("keys: {}", chain(&error));
        let (now, entropy) = (vault.env().clock.now(), vault.env().entropy.clone());
        vault
            .change_keyring(|keyring, _, secret| keyring.add_machine_slot(secret, &[0x6b; 32], KEYS, now, &*entropy))
            .map_err(told)?;
        vault.rotate().map_err(told)?;
        self.log.ack(KEYS);
        Ok(())
    }

    /// Something is said, and acknowledged.
    fn say(&mut self, vault: &mut Vault, deed: &Say<'_>) -> Result<(), String> {
        deed(vault).map_err(|error| format!("say: {}", chain(&error)))?;
        self.said.push(standing(vault)?);
        self.log.ack(format!("{SAID}{}", self.said.len()));
        Ok(())
    }

    fn see(&mut self, tree: &SourceTree) {
        self.seen.push((tree.path(), Arc::new(model::of_disk(&tree.root()))));
    }

    fn keep_cache(&mut self) {
        let kept = self.scratch.join(format!("cache-{}", self.caches.len()));
        copy_folder(&self.cache(), &kept);
        self.caches.push(kept);
    }

    /// A backup whose process ends in the middle: from some call on nothing more is done.
    fn cut_short(&mut self, tree: &SourceTree, call: Call, nth: u64, fault: Fault) -> Result<(), String> {
        self.see(tree);
        let faults = Faults::new();
        let place = Place {
            files: Arc::new(FaultyFiles::new(Arc::new(self.files.clone()), faults.clone())),
            kv_home: Arc::new(FaultyKvHome::new(Arc::new(self.kv.clone()), faults.clone())),
        };
        let env = self.env();
        let vault = lab::open(place, env).map_err(|error| format!("open: {}", chain(&error)))?;
        faults.fail_from(call, nth, fault);
        let cache = self.cache();
        let result = lab::backup(&vault, &tree.path(), Some(&cache));
        self.keep_cache();
        match result.map(|summary| summary.snapshot) {
            // The call did not come to pass: a backup like any other.
            Ok(Some(id)) if faults.hits() == 0 => {
                let (source, model) = self.seen[self.seen.len() - 1].clone();
                self.log.ack(id.to_hex());
                self.taken.insert(id, Taken { id, source, model });
                Ok(())
            }
            Ok(snapshot) => Err(format!("the {nth}th {call:?} failed and yet there is {snapshot:?}")),
            Err(_) => Ok(()),
        }
    }
}

type Say<'a> = dyn Fn(&mut Vault) -> Result<(), RetentionError> + 'a;

type Deed = Box<dyn FnOnce() + Send>;

/// Lets somebody else act before a backup walks, and after it has walked.
struct Between(Mutex<Vec<Deed>>);

impl Executor for Between {
    fn workers(&self) -> usize {
        1
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        let next = || {
            let mut deeds = self.0.lock().expect("nobody panics here");
            (!deeds.is_empty()).then(|| deeds.remove(0))
        };
        if let Some(deed) = next() {
            deed();
        }
        job(0);
        if let Some(deed) = next() {
            deed();
        }
    }
}

impl History {
    /// Makes a vault and backs up changing sources: alone, beside another process, cut short, and again.
    pub fn record(seed: u64) -> Result<Self, String> {
        let (mut recorder, scratch) = Recorder::new(seed);
        let mut tree = SourceTree::new(seed, Shape::SMALL);
        let other = SourceTree::new(seed ^ 0xff, Shape { files: 8, wide: 0, len_max: 4 << 10 });
        let (place, env) = (recorder.place(), recorder.env());
        let first = lab::create(place, env).map_err(|error| format!("create: {}", chain(&error)))?;
        recorder.log.ack(VAULT);
        recorder.take(&first, &tree)?;
        tree.change();
        recorder.change_keys(&first)?;
        drop(first);
        let (mut recorder, mut tree) = beside(recorder, tree, other)?;

        let mut dice = Dice(seed);
        tree.change();
        recorder.cut_short(&tree, Call::Append, 3 + dice.below(6) as u64, Fault::Os(libc::EIO))?;
        let vault = recorder.open()?;
        recorder.take(&vault, &tree)?;
        tree.change();
        recorder.cut_short(&tree, Call::KvCommit, 1 + dice.below(3) as u64, Fault::Os(libc::EIO))?;
        recorder.take(&vault, &tree)?;
        tree.change();
        // The record is in place and nobody was told.
        recorder.cut_short(&tree, Call::Rename, 1, Fault::Late(libc::EIO))?;
        recorder.take(&vault, &tree)?;
        recorder.cut_short(&tree, Call::Sync, 1, Fault::Os(libc::EIO))?;
        drop(vault);
        Ok(recorder.end(0, tree, scratch))
    }

    /// A record put in place by a process that ended before it was durable, and the next one behind it. Only the end
    /// is to be tried.
    pub fn record_loose_record(seed: u64) -> Result<Self, String> {
        let (mut recorder, scratch) = Recorder::new(seed);
        let mut tree = SourceTree::new(seed, Shape { files: 4, wide: 0, len_max: 2048 });
        let (place, env) = (recorder.place(), recorder.env());
        let vault = lab::create(place, env).map_err(|error| format!("create: {}", chain(&error)))?;
        recorder.log.ack(VAULT);
        recorder.take(&vault, &tree)?;
        tree.change();
        recorder.cut_short(&tree, Call::Rename, 1, Fault::Late(libc::EIO))?;
        recorder.take(&vault, &tree)?;
        drop(vault);
        let from = recorder.log.len() - 8;
        Ok(recorder.end(from, tree, scratch))
    }

    /// Snapshots are forgotten, brought back, pinned, tagged and purged, and settings change. Only that is to be tried.
    pub fn record_changes(seed: u64) -> Result<Self, String> {
        let (mut recorder, scratch) = Recorder::new(seed);
        let mut tree = SourceTree::new(seed, Shape { files: 3, wide: 0, len_max: 1024 });
        let (place, env) = (recorder.place(), recorder.env());
        let mut vault = lab::create(place, env).map_err(|error| format!("create: {}", chain(&error)))?;
        recorder.log.ack(VAULT);
        for _ in 0..3 {
            recorder.take(&vault, &tree)?;
            tree.change();
        }
        let list = vault.snapshots().map_err(|error| chain(&error))?.list;
        let [a, b, c]: [u64; 3] =
            list.iter().map(|info| info.record).collect::<Vec<_>>().try_into().map_err(|_| "not three snapshots")?;
        recorder.see(&tree);
        recorder.say(&mut vault, &|_| Ok(()))?;
        let from = recorder.log.len();
        let edit = |add: &[&str], remove: &[&str]| {
            let owned = |tags: &[&str]| tags.iter().map(|&tag| tag.to_owned()).collect();
            TagEdit::Change { add: owned(add), remove: owned(remove) }
        };
        let window = |days| ConfigChange { undelete_days: Some(days), ..ConfigChange::default() };
        let first: [&Say<'_>; 8] = [
            &|vault| retention::forget(vault, &[a, b], ""),
            &|vault| retention::undelete(vault, &[b]).map(drop),
            &|vault| retention::pin(vault, &[b]).map(drop),
            &|vault| retention::tag(vault, &[b, c], &edit(&["x", "y"], &[])).map(drop),
            &|vault| Ok(vault.configure(&window(3))?),
            &|vault| retention::unpin(vault, &[b]).map(drop),
            &|vault| retention::tag(vault, &[c], &edit(&[], &["x"])).map(drop),
            &|vault| retention::forget(vault, &[b], ""),
        ];
        for deed in first {
            recorder.say(&mut vault, deed)?;
        }
        drop(vault);
        // Eight days later.
        let later = lab::clock();
        later.advance(Duration::from_secs(8 * 86_400));
        let (place, env) = (recorder.place(), Env { clock: later, ..recorder.env() });
        let mut vault = lab::open(place, env).map_err(|error| format!("open: {}", chain(&error)))?;
        recorder.say(&mut vault, &|vault| retention::purge(vault).map(drop))?;
        recorder.say(&mut vault, &|vault| retention::lengthen(vault, 30))?;
        drop(vault);
        match recorder.said.last().map(|(_, refs)| refs.values().filter(|one| one.0 == 'p').count()) {
            Some(2) => Ok(recorder.end(from, tree, scratch)),
            other => Err(format!("{other:?} snapshots were purged, not two")),
        }
    }

    /// Tries crash states over the whole log, on two threads.
    pub fn try_all(&self, seed: u64, budget: Budget) -> Result<Counts, String> {
        let counts = Mutex::new(Counts { snapshots: self.taken.len(), ..Counts::default() });
        let entries = AtomicUsize::new(0);
        let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let share = |share: usize| {
                let (counts, entries) = (&counts, &entries);
                move || self.try_share(seed, budget, share, counts, entries)
            };
            let threads: Vec<_> = (0..2).map(|number| scope.spawn(share(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".to_owned()))).collect()
        });
        results.into_iter().collect::<Result<(), String>>()?;
        let mut counts = *counts.lock().expect("nobody panics here");
        counts.entries = entries.into_inner();
        Ok(counts)
    }

    fn try_share(
        &self,
        seed: u64,
        budget: Budget,
        share: usize,
        counts: &Mutex<Counts>,
        entries: &AtomicUsize,
    ) -> Result<(), String> {
        let scratch = tempfile::Builder::new().prefix("twinkeep-crash-").tempdir().expect("a scratch folder");
        let mut replay = Replay::new(&self.log);
        for at in 0..=replay.len() {
            let mut dice = Dice(seed ^ (at as u64) << 20);
            if at < self.from || !dice.one_in(budget.entry_one_in) || at % 2 != share {
                continue;
            }
            replay.advance_to(at);
            entries.fetch_add(1, Ordering::Relaxed);
            let acks = self.log.acks(at);
            let states: Vec<CrashState> = replay.states(&mut dice, budget.states).collect();
            for (number, state) in states.into_iter().enumerate() {
                let again = dice.one_in(budget.again_one_in);
                let mut trial = Trial { history: self, acks: &acks, dice: Dice(dice.throw()), scratch: scratch.path() };
                let note = state.note.clone();
                let told = |problem| {
                    format!("seed {seed}, entry {at} of {}, state {number}: {problem}\n  {note}", replay.len())
                };
                let more = match again {
                    true => trial.twice(state),
                    false => trial.once(state).map(|()| 0),
                };
                let mut counts = counts.lock().expect("nobody panics here");
                counts.again += more.map_err(told)?;
                counts.states += 1;
            }
        }
        Ok(())
    }
}

/// A backup of one process, in the middle of which another makes two.
fn beside(mut recorder: Recorder, tree: SourceTree, other: SourceTree) -> Result<(Recorder, SourceTree), String> {
    let second = recorder.open()?;
    let between = Arc::new(Between(Mutex::default()));
    recorder.vaults += 1;
    let env = lab::env_with(recorder.seed.wrapping_mul(1000).wrapping_add(recorder.vaults), between.clone());
    let first = lab::open(recorder.place(), env).map_err(|error| format!("open: {}", chain(&error)))?;
    let shared = Arc::new(Mutex::new((recorder, tree, second, other, Ok(()))));
    let deed = |which: bool| -> Deed {
        let shared = shared.clone();
        Box::new(move || {
            let (recorder, tree, second, other, result) = &mut *shared.lock().expect("nobody panics here");
            let taken = recorder.take(second, if which { other } else { tree });
            if result.is_ok() {
                *result = taken;
            }
        })
    };
    let (before, after) = (deed(true), deed(false));
    between.0.lock().expect("nobody panics here").extend([before, after]);
    let (path, model) = {
        let (recorder, tree, ..) = &mut *shared.lock().expect("nobody panics here");
        recorder.see(tree);
        (tree.path(), model::of_disk(&tree.root()))
    };
    let summary = lab::backup(&first, &path, None).map_err(|error| format!("backup: {}", chain(&error)))?;
    drop((between, first));
    let shared = Arc::into_inner(shared).ok_or("a deed is left over")?;
    let (mut recorder, tree, _, _, result) = shared.into_inner().expect("nobody panics here");
    result?;
    let id = summary.snapshot.ok_or("no snapshot")?;
    recorder.log.ack(id.to_hex());
    recorder.taken.insert(id, Taken { id, source: path, model: Arc::new(model) });
    Ok((recorder, tree))
}

/// One state being tried.
struct Trial<'a> {
    history: &'a History,
    acks: &'a [String],
    dice: Dice,
    scratch: &'a Path,
}

impl Trial<'_> {
    /// Opens the vault and goes on.
    fn once(&mut self, state: CrashState) -> Result<(), String> {
        self.recover(lab::place(state.files, state.kv)).map(|_| ())
    }

    /// The same while power fails again. Returns how many states that were.
    fn twice(&mut self, state: CrashState) -> Result<usize, String> {
        let (files, kv, log) = record(state.files, state.kv);
        let next = self.recover(lab::place(files, kv))?;
        log.ack(VAULT);
        let mut replay = Replay::new(&log);
        let mut at = 0;
        let mut count = 0;
        loop {
            at += 1 + self.dice.below(12);
            let end = at >= replay.len();
            replay.advance_to(at);
            for state in replay.states(&mut self.dice, 2) {
                let note = state.note.clone();
                let told = |problem| format!("after a second crash: {problem}\n  {note}\n  before that:");
                let mut trial = Trial {
                    history: self.history,
                    acks: self.acks,
                    dice: Dice(self.dice.throw()),
                    scratch: self.scratch,
                };
                let vault = trial.open(lab::place(state.files, state.kv)).map_err(told)?;
                if end {
                    next.verify(&vault).map_err(told)?;
                }
                trial.go_on(&vault).map_err(told)?;
                count += 1;
            }
            if end {
                return Ok(count);
            }
        }
    }

    fn recover(&mut self, place: Place) -> Result<Taken, String> {
        let vault = self.open(place)?;
        self.go_on(&vault)
    }

    fn open(&mut self, place: Place) -> Result<Vault, String> {
        let error = match lab::open(place.clone(), lab::env(self.dice.throw())) {
            Ok(vault) => return self.has_keys(&vault).map(|()| vault),
            Err(error) => error,
        };
        if self.acks.iter().any(|ack| ack == VAULT) {
            return Err(format!("the vault does not open: {}", chain(&error)));
        }
        if !matches!(error, VaultError::NoVault) {
            return Err(format!("half a vault is in the way: {}", chain(&error)));
        }
        lab::create(place, lab::env(self.dice.throw())).map_err(|error| format!("create again: {}", chain(&error)))
    }

    /// What was acknowledged of the keyring holds.
    fn has_keys(&self, vault: &Vault) -> Result<(), String> {
        if !self.acks.iter().any(|ack| ack == KEYS) {
            return Ok(());
        }
        let keyring = vault.keyring().map_err(|error| format!("keyring: {}", chain(&error)))?;
        match keyring.slots().iter().any(|slot| slot.label == KEYS) && vault.keys().newest().0 == 1 {
            true => Ok(()),
            false => Err("a change of the keyring that was acknowledged is gone".to_owned()),
        }
    }

    /// Everything acknowledged is whole, everything listed too, and the next backup is.
    fn go_on(&mut self, vault: &Vault) -> Result<Taken, String> {
        self.check_snapshots(vault)?;
        let cache = self.a_cache();
        let tree = &self.history.tree;
        let next = lab::take(vault, tree, cache.as_deref()).map_err(|error| format!("next: {}", chain(&error)))?;
        next.verify(vault).map_err(|problem| format!("next: {problem}"))?;
        if self.dice.one_in(4) {
            check_clean(vault)?;
        }
        Ok(next)
    }

    fn check_snapshots(&self, vault: &Vault) -> Result<(), String> {
        let snapshots = vault.snapshots().map_err(|error| format!("snapshots: {}", chain(&error)))?;
        if let Some(fault) = snapshots.damaged.first() {
            return Err(format!("{}: {}", fault.file, fault.problem));
        }
        self.check_said(vault)?;
        let listed: Vec<ChunkId> = snapshots.list.iter().map(|info| info.id).collect();
        let ids = self.acks.iter().filter(|ack| ![VAULT, KEYS].contains(&ack.as_str()) && self.history.said.is_empty());
        for ack in ids {
            let id = ChunkId::from_hex(ack).ok_or("an acknowledgement is no id")?;
            if !listed.contains(&id) {
                return Err(format!("acknowledged snapshot {} is not listed", &ack[..8]));
            }
        }
        for info in snapshots.list.iter().chain(&snapshots.forgotten) {
            match self.history.taken.get(&info.id) {
                Some(taken) => taken.verify(vault)?,
                None => self.verify_unknown(vault, &info.id, &info.snapshot.paths[0])?,
            }
        }
        Ok(())
    }

    /// Things stand as after the last change that was acknowledged, or as after the next.
    fn check_said(&self, vault: &Vault) -> Result<(), String> {
        let said = &self.history.said;
        let Some(last) = self.acks.iter().filter_map(|ack| ack.strip_prefix(SAID)?.parse::<usize>().ok()).max() else {
            return Ok(());
        };
        let (days, found) = standing(vault)?;
        // Of snapshots made since, nothing was said.
        let ids = &said[0].1;
        let found: Standing = (days, found.into_iter().filter(|(id, _)| ids.contains_key(id)).collect());
        match said[last - 1..].iter().take(2).any(|standing| *standing == found) {
            true => Ok(()),
            false => Err(format!("after change {last} of {} things stand so: {found:?}", said.len())),
        }
    }

    /// A snapshot that was listed without having been acknowledged holds what its source held.
    fn verify_unknown(&self, vault: &Vault, id: &ChunkId, source: &[u8]) -> Result<(), String> {
        let reading = model::of_snapshot(vault, id, source);
        let mut seen = self.history.seen.iter().filter(|(path, _)| path == source);
        match seen.any(|(_, model)| model::same(model, &reading).is_ok()) {
            true => Ok(()),
            false => Err(format!("snapshot {} holds what no source ever held: {:?}", id, reading.errors)),
        }
    }

    /// None, or whatever the cache was at some time: it is promised nothing, and may be older or newer than the vault.
    fn a_cache(&mut self) -> Option<PathBuf> {
        let caches = &self.history.caches;
        let kept = match self.dice.below(4) {
            0 => return None,
            1 => &caches[self.dice.below(caches.len())],
            _ => caches.last()?,
        };
        let cache = self.scratch.join("cache");
        let _ = fs::remove_dir_all(&cache);
        copy_folder(kept, &cache);
        Some(cache)
    }
}

fn check_clean(vault: &Vault) -> Result<(), String> {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(vault, &options, &Progress::silent()).map_err(|error| format!("check: {}", chain(&error)))?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(format!("check: {:?} {:?}", report.faults, report.damaged)),
    }
}

/// Records a history from a seed and tries it.
pub fn run(seed: u64, budget: Budget) -> Result<Counts, String> {
    History::record(seed)?.try_all(seed, budget)
}

/// Tries a history of changes.
pub fn run_changes(seed: u64, states: usize) -> Result<Counts, String> {
    let budget = Budget { states, again_one_in: 40, entry_one_in: 1 };
    History::record_changes(seed)?.try_all(seed, budget)
}

/// Tries the end of a history in which a record may stand behind one that is not durable.
pub fn run_loose_record(seed: u64, states: usize) -> Result<Counts, String> {
    let budget = Budget { states, again_one_in: 1000, entry_one_in: 1 };
    History::record_loose_record(seed)?.try_all(seed, budget)
}
