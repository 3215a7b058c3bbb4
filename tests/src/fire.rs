//! Garbage collection under fire: processes of the real command back up, forget, collect, restore and check one vault
//! on a real disk at the same time, and are killed and stopped at random moments. What was acknowledged and not
//! purged stays, byte for byte; what nothing needs goes.

mod process;
mod purge;

pub use process::{Ended, Fate, run};
pub use purge::{PURGE_VERB, purge_main};

use crate::lab::chain;
use crate::model::{self, Held, Model};
use crate::tree::{Shape, SourceTree};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use twinkeep_engine::chunk::CutParams;
use twinkeep_engine::env::{Dice, Env};
use twinkeep_engine::history::{History, RefState};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::index::PackState;
use twinkeep_engine::vault::{CreateOptions, Place, Unlock, Vault};

/// Set for the command under test, whatever it says: frames, packs and commits are as small as in the lab.
pub const SMALL_VAR: &str = "TWINKEEP_TEST_SMALL";

/// Plants a bug of the zoo in the command under test.
pub const BUG_VAR: &str = "TWINKEEP_TEST_BUG";

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The command.
    pub command: PathBuf,
    /// Everything the dice say follows from it.
    pub seed: u64,
    /// How long processes are started.
    pub time: Duration,
    /// Sources, each backed up by one process after the other.
    pub sources: usize,
    /// A process is stopped for less than 2^(this + 1) milliseconds.
    pub stop_bits: usize,
    /// A bug of the zoo to be seen.
    pub bug: Option<String>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Counts {
    /// Backups that were acknowledged.
    pub backups: AtomicU64,
    /// Collections that ended.
    pub collections: AtomicU64,
    /// Of them, those that left something to the next one because of others at work.
    pub waited: AtomicU64,
    /// Rounds of forgetting.
    pub purges: AtomicU64,
    /// Restores that gave a snapshot back.
    pub restores: AtomicU64,
    /// Restores of what was purged before they came to it.
    pub restores_late: AtomicU64,
    /// Checks of the vault beside everything else.
    pub checks: AtomicU64,
    /// Processes killed.
    pub kills: AtomicU64,
    /// Of them, collections.
    pub collections_killed: AtomicU64,
    /// Processes stopped for a while.
    pub stops: AtomicU64,
    /// Processes that gave up because somebody else held what they needed.
    pub busy: AtomicU64,
    /// Chunks collections removed.
    pub chunks_removed: AtomicU64,
    /// Frames they moved.
    pub frames_moved: AtomicU64,
    /// Frames they took apart.
    pub frames_taken_apart: AtomicU64,
    /// Packs they removed.
    pub packs_removed: AtomicU64,
    /// Snapshots compared at the end.
    pub compared: AtomicU64,
}

impl Counts {
    /// One of them.
    pub fn get(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

type Outcome = Result<(), String>;

/// Something a process is started for; the number tells those who do the same apart.
type Act = fn(&Fire, &mut Dice, u64) -> Outcome;

/// Opens the vault in a folder.
pub fn open(vault: &Path) -> Result<Vault, String> {
    Vault::open(Place::folder(vault), Env::system(1), Unlock::Nothing, "test").map_err(|error| chain(&error))
}

/// What a source held when a backup of it began; it holds still until the backup has ended.
struct Attempt {
    source: PathBuf,
    /// Content by its hash.
    model: Arc<Model>,
}

/// What the processes are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verb {
    Backup,
    Purge,
    Gc,
    Restore,
    Check,
}

struct Fire {
    plan: Plan,
    dir: PathBuf,
    begun: Instant,
    over: AtomicBool,
    problem: Mutex<Option<String>>,
    /// How long processes usually take.
    usual: Mutex<BTreeMap<Verb, Duration>>,
    attempts: Mutex<Vec<Arc<Attempt>>>,
    acknowledged: Mutex<BTreeMap<ChunkId, Arc<Attempt>>>,
    counts: Counts,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lives through it. The vault is left behind, and told, where something is wrong.
pub fn live(plan: &Plan) -> Result<Counts, String> {
    let dir = tempfile::Builder::new().prefix("twinkeep-fire-").tempdir().map_err(|error| error.to_string())?;
    let fire = Fire::new(plan.clone(), dir.path().to_path_buf())?;
    fire.burn();
    let problem = lock(&fire.problem).take();
    let outcome = problem.map_or(Ok(()), Err).and_then(|()| fire.look());
    match outcome {
        Ok(()) => Ok(fire.counts),
        Err(problem) => {
            let after = fire.begun.elapsed().as_secs_f64();
            let kept = dir.keep();
            Err(format!("seed {}, after {after:.1} s: {problem}; see {}", plan.seed, kept.display()))
        }
    }
}

impl Fire {
    fn new(plan: Plan, dir: PathBuf) -> Result<Self, String> {
        let cut = CutParams::new(256, 1024, 4096, 2).map_err(|error| error.to_string())?;
        let options = CreateOptions { encrypted: false, cut, undelete_days: 0, ..CreateOptions::default() };
        Vault::create(Place::folder(&dir.join("vault")), Env::system(1), &options, &[])
            .map_err(|error| chain(&error))?;
        Ok(Self {
            plan,
            dir,
            begun: Instant::now(),
            over: AtomicBool::new(false),
            problem: Mutex::new(None),
            usual: Mutex::default(),
            attempts: Mutex::default(),
            acknowledged: Mutex::default(),
            counts: Counts::default(),
        })
    }

    fn vault_dir(&self) -> PathBuf {
        self.dir.join("vault")
    }

    /// Everybody works until time is over or something is wrong.
    fn burn(&self) {
        std::thread::scope(|scope| {
            for number in 0..self.plan.sources {
                scope.spawn(move || self.back_up_again_and_again(number as u64));
            }
            let others: [(u64, Act); 7] = [
                (100, Self::collect),
                (101, Self::collect),
                (200, Self::purge),
                (300, Self::restore),
                (301, Self::restore),
                (400, Self::check),
                (500, Self::watch),
            ];
            for (number, act) in others {
                scope.spawn(move || self.again_and_again(number, |dice| act(self, dice, number)));
            }
        });
    }

    fn again_and_again(&self, number: u64, mut act: impl FnMut(&mut Dice) -> Outcome) {
        let mut dice = Dice(self.plan.seed ^ number << 40);
        while !self.over.load(Ordering::Relaxed) && self.begun.elapsed() < self.plan.time {
            if let Err(problem) = act(&mut dice) {
                self.over.store(true, Ordering::Relaxed);
                lock(&self.problem).get_or_insert(problem);
            }
        }
    }

    fn back_up_again_and_again(&self, number: u64) {
        let shape = Shape { files: 24, wide: if number == 0 { 300 } else { 0 }, len_max: 24 << 10 };
        let mut tree = SourceTree::new(self.plan.seed ^ number << 32, shape);
        self.again_and_again(number, |dice| self.back_up(dice, &mut tree));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.plan.command);
        command.env_clear().env("HOME", &self.dir).env("PATH", "/usr/bin:/bin").env(SMALL_VAR, "1");
        if let Some(bug) = &self.plan.bug {
            command.env(BUG_VAR, bug);
        }
        command.args(args);
        command
    }

    /// The command with a verb, for the vault.
    fn twinkeep(&self, args: &[&str]) -> Command {
        let mut command = self.command(&["--no-progress", "--json", "--vault"]);
        command.arg(self.vault_dir()).args(args);
        command
    }

    /// Runs a process with a fate the dice give it. None where it was killed, or somebody else was in its way.
    fn fated(&self, verb: Verb, dice: &mut Dice, command: &mut Command) -> Result<Option<Ended>, String> {
        let usual = lock(&self.usual).get(&verb).copied().unwrap_or(Duration::from_millis(300));
        let ended = run(command, Fate::draw(dice, usual, self.plan.stop_bits));
        let ended = ended.map_err(|problem| format!("{verb:?}: {problem}"))?;
        add(&self.counts.stops, ended.was_stopped.into());
        match ended.code {
            None => {
                add(&self.counts.kills, 1);
                add(&self.counts.collections_killed, (verb == Verb::Gc).into());
                Ok(None)
            }
            Some(BUSY) => {
                add(&self.counts.busy, 1);
                Ok(None)
            }
            Some(_) => {
                if !ended.was_stopped {
                    let mut usual = lock(&self.usual);
                    let before = usual.get(&verb).copied().unwrap_or(ended.lived);
                    usual.insert(verb, (before * 3 + ended.lived) / 4);
                }
                Ok(Some(ended))
            }
        }
    }

    fn back_up(&self, dice: &mut Dice, tree: &mut SourceTree) -> Outcome {
        std::thread::sleep(Duration::from_millis(dice.below(500) as u64));
        if !dice.one_in(4) {
            tree.change();
        }
        let attempt = Arc::new(Attempt { source: tree.root(), model: Arc::new(hashed(model::of_disk(&tree.root()))) });
        lock(&self.attempts).push(attempt.clone());
        let root = tree.root();
        let mut command = self.twinkeep(&["backup"]);
        if dice.one_in(6) {
            command.arg("--force");
        }
        let Some(ended) = self.fated(Verb::Backup, dice, command.arg(&root))? else { return Ok(()) };
        let id = succeeded("backup", &ended)?["snapshot_id"].as_str().and_then(ChunkId::from_hex);
        let id = id.ok_or_else(|| format!("a backup without a snapshot: {}", ended.stdout))?;
        lock(&self.acknowledged).insert(id, attempt);
        add(&self.counts.backups, 1);
        Ok(())
    }

    fn collect(&self, dice: &mut Dice, _: u64) -> Outcome {
        let mut command = self.twinkeep(&["gc"]);
        if dice.one_in(3) {
            command.arg("--no-key");
        }
        if dice.one_in(2) {
            command.args(["--wait", &(1 + dice.below(6)).to_string()]);
        }
        std::thread::sleep(Duration::from_millis(dice.below(500) as u64));
        let Some(ended) = self.fated(Verb::Gc, dice, &mut command)? else { return Ok(()) };
        let summary = succeeded("gc", &ended)?;
        let number = |field: &str| summary[field].as_u64().unwrap_or(0);
        let counts = &self.counts;
        add(&counts.collections, 1);
        add(&counts.waited, (summary["finished"] == Value::Bool(false)).into());
        add(&counts.chunks_removed, number("chunks_removed"));
        add(&counts.frames_moved, number("frames_moved"));
        add(&counts.frames_taken_apart, number("frames_taken_apart"));
        add(&counts.packs_removed, number("packs_removed"));
        Ok(())
    }

    /// Forgets and purges.
    fn purge(&self, dice: &mut Dice, _: u64) -> Outcome {
        std::thread::sleep(Duration::from_millis(dice.below(2000) as u64));
        let mut command = self.command(&[PURGE_VERB]);
        command.arg(self.vault_dir()).arg(dice.throw().to_string());
        let Some(ended) = self.fated(Verb::Purge, dice, &mut command)? else { return Ok(()) };
        if ended.code != Some(0) && !ended.stderr.contains("is in use by") {
            return Err(format!("purge: {}", ended.stderr));
        }
        add(&self.counts.purges, 1);
        self.let_go()
    }

    /// Forgets what purged snapshots held.
    fn let_go(&self) -> Outcome {
        let history = open(&self.vault_dir())?.history().map_err(|error| chain(&error))?;
        let mut acknowledged = lock(&self.acknowledged);
        for purged in history.refs.values().filter(|entry| entry.state == RefState::Purged) {
            acknowledged.remove(&purged.reference.target);
        }
        Ok(())
    }

    fn restore(&self, dice: &mut Dice, number: u64) -> Outcome {
        let chosen = {
            let acknowledged = lock(&self.acknowledged);
            let at = dice.below(acknowledged.len().max(1));
            acknowledged.iter().nth(at).map(|(id, attempt)| (*id, attempt.clone()))
        };
        let Some((id, attempt)) = chosen else {
            std::thread::sleep(Duration::from_millis(50));
            return Ok(());
        };
        let target = self.dir.join(format!("restored-{number}"));
        let mut command = self.twinkeep(&["restore", &id.to_hex(), "--target"]);
        let ended = self.fated(Verb::Restore, dice, command.arg(&target))?;
        let outcome = match ended {
            None => Ok(()),
            Some(ended) => match succeeded("restore", &ended) {
                Ok(_) => {
                    add(&self.counts.restores, 1);
                    compare_restored(&target, &attempt).map_err(|problem| format!("snapshot {id}: {problem}"))
                }
                Err(_) if self.is_purged(id)? => {
                    add(&self.counts.restores_late, 1);
                    Ok(())
                }
                Err(problem) => Err(problem),
            },
        };
        outcome?;
        match fs::remove_dir_all(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("tidy up: {error}")),
            _ => Ok(()),
        }
    }

    fn is_purged(&self, id: ChunkId) -> Result<bool, String> {
        let history = open(&self.vault_dir())?.history().map_err(|error| chain(&error))?;
        Ok(!history.roots().any(|entry| entry.reference.target == id))
    }

    fn check(&self, dice: &mut Dice, _: u64) -> Outcome {
        std::thread::sleep(Duration::from_millis(dice.below(4000) as u64));
        let args: &[&str] = if dice.one_in(2) { &["check", "--read-data"] } else { &["check"] };
        let Some(ended) = self.fated(Verb::Check, dice, &mut self.twinkeep(args))? else { return Ok(()) };
        succeeded("check", &ended)?;
        add(&self.counts.checks, 1);
        Ok(())
    }

    /// Compares a snapshot within this process, so that damage is seen soon.
    fn watch(&self, dice: &mut Dice, _: u64) -> Outcome {
        std::thread::sleep(Duration::from_millis(500 + dice.below(1000) as u64));
        let vault = open(&self.vault_dir())?;
        let history = vault.history().map_err(|error| chain(&error))?;
        if let Some(fault) = history.open_faults().next() {
            return Err(format!("{}: {}", fault.file, fault.problem));
        }
        let roots: Vec<ChunkId> = history.roots().map(|entry| entry.reference.target).collect();
        let Some(id) = roots.get(dice.below(roots.len().max(1))) else { return Ok(()) };
        match self.compare(&vault, *id) {
            Err(_) if self.is_purged(*id)? => Ok(()),
            outcome => outcome,
        }
    }

    /// Compares a snapshot with what its source held.
    fn compare(&self, vault: &Vault, id: ChunkId) -> Outcome {
        let told = |problem: String| format!("snapshot {id}: {problem}");
        let acknowledged = lock(&self.acknowledged).get(&id).cloned();
        let attempts = match acknowledged {
            Some(attempt) => vec![attempt],
            // Its backup was killed after the snapshot was there and before anybody was told.
            None => {
                let reader = vault.reader().map_err(|error| told(chain(&error)))?;
                let snapshot = twinkeep_engine::branch::snapshot(&reader, &id).map_err(|error| told(chain(&error)))?;
                let paths = snapshot.paths;
                let of = |attempt: &Arc<Attempt>| paths == [attempt.source.as_os_str().as_encoded_bytes()];
                lock(&self.attempts).iter().rev().filter(|attempt| of(attempt)).cloned().collect()
            }
        };
        let Some(first) = attempts.first() else { return Err(told("nobody began a backup of that".into())) };
        let mut reading = model::of_snapshot(vault, &id, first.source.as_os_str().as_encoded_bytes());
        reading.model = hashed(std::mem::take(&mut reading.model));
        let outcomes = attempts.iter().map(|attempt| model::same(&attempt.model, &reading));
        outcomes.reduce(|one, other| one.or(other)).unwrap_or(Ok(())).map_err(told)
    }

    /// Nobody is at work any more: two rounds, then all is right and nothing is left.
    fn look(&self) -> Outcome {
        for _ in 0..2 {
            let ended = run(&mut self.twinkeep(&["gc"]), Fate::default())?;
            let summary = succeeded("the last gc", &ended)?;
            if summary["finished"] != Value::Bool(true) {
                return Err(format!("the last gc waits: {}", ended.stdout));
            }
        }
        let vault = open(&self.vault_dir())?;
        let history = vault.history().map_err(|error| chain(&error))?;
        self.look_for_all(&history)?;
        for entry in history.roots() {
            self.compare(&vault, entry.reference.target)?;
            add(&self.counts.compared, 1);
        }
        let checked = succeeded("check", &run(&mut self.twinkeep(&["check", "--read-data"]), Fate::default())?)?;
        if checked["clean"] != Value::Bool(true) {
            return Err(format!("check: {checked}"));
        }
        self.look_for_garbage(&vault)
    }

    /// Every snapshot that was acknowledged is a root or was purged.
    fn look_for_all(&self, history: &History) -> Outcome {
        for id in lock(&self.acknowledged).keys() {
            if !history.refs.values().any(|entry| entry.reference.target == *id) {
                return Err(format!("snapshot {id} was acknowledged and is gone"));
            }
        }
        Ok(())
    }

    fn look_for_garbage(&self, vault: &Vault) -> Outcome {
        let ended = run(&mut self.twinkeep(&["gc", "--dry-run"]), Fate::default())?;
        let summary = succeeded("gc --dry-run", &ended)?;
        if ended.stdout.contains("\"step\":\"remove\"") {
            return Err(format!("packs that nothing needs are left: {}", ended.stdout));
        }
        let store = vault.local().unwrap();
        let mut rows = 0;
        let counted = store.visit_chunk_rows(&mut |_, _| {
            rows += 1;
            true
        });
        counted.map_err(|error| chain(&error))?;
        if summary["chunks_live"].as_u64() != Some(rows) {
            return Err(format!("{rows} chunks are in the index: {summary}"));
        }
        let mut indexed: Vec<String> = Vec::new();
        for (_, row) in store.pack_rows().map_err(|error| chain(&error))? {
            if row.state != PackState::Closed {
                return Err(format!("pack {} is {:?}", row.name.file_name(), row.state));
            }
            indexed.push(row.name.file_name());
        }
        indexed.sort();
        let there = store.pack_files().map_err(|error| chain(&error))?;
        let there: Vec<String> = there.into_iter().map(|file| file.name).collect();
        if indexed != there {
            return Err(format!("packs in the index are {indexed:?}, those on disk {there:?}"));
        }
        for folder in ["sessions", "pins"] {
            let left = fs::read_dir(self.vault_dir().join(folder)).map_or(0, Iterator::count);
            if left > 0 {
                return Err(format!("{left} files of those who have ended are left in {folder}"));
            }
        }
        Ok(())
    }
}

/// Exit code of a command that gave up because somebody else was at work.
const BUSY: i32 = 11;

/// Exit code of a backup that gave branches of killed ones what they lacked.
const HEALED: i32 = 17;

/// The last message of a command that did what it should.
fn succeeded(verb: &str, ended: &Ended) -> Result<Value, String> {
    let last = ended.stdout.lines().last().unwrap_or_default();
    match ended.code {
        Some(0 | HEALED) => serde_json::from_str(last).map_err(|error| format!("{verb} says {last:?}: {error}")),
        code => Err(format!("{verb} ended with {code:?}: {}{}", ended.stderr, ended.stdout)),
    }
}

/// The same with the hash of each file in place of its bytes.
fn hashed(mut model: Model) -> Model {
    for node in model.values_mut() {
        if let Held::File(bytes) = &mut node.held {
            *bytes = blake3::hash(bytes).as_bytes().to_vec();
        }
    }
    model
}

fn compare_restored(target: &Path, attempt: &Attempt) -> Outcome {
    let relative = attempt.source.strip_prefix("/").map_err(|error| error.to_string())?;
    let found = hashed(model::of_disk(&target.join(relative)));
    let reading = model::Reading { model: found, errors: Vec::new() };
    model::same(&attempt.model, &reading).map_err(|problem| format!("as restored: {problem}"))
}
