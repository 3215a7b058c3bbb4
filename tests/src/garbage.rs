//! Collecting garbage beside everything else: histories of backups, forgetting, bringing back, rebuilding, killing and
//! collecting, in which one begins while another is under way. What is not purged stays byte for byte, and what nothing
//! needs is gone after two more rounds.

use crate::hooked::{Hook, HookedFiles};
use crate::lab::{self, Taken, chain};
use crate::tree::{Shape, SourceTree};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::env::{Dice, Env, Inline, ManualClock, SeededEntropy};
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles, FaultyKvHome};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::gc::{self, Access, GcOptions, GcReport};
use twinkeep_engine::history::RefState;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::record::{ChangeKind, ChangeRecord};
use twinkeep_engine::vault::{Place, Vault};

const DAY: Duration = Duration::from_secs(86_400);

/// A vault and those who use it.
pub struct World {
    files: MemoryFiles,
    kv: MemoryKvHome,
    clock: Arc<ManualClock>,
    seed: u64,
    opened: u64,
    dice: Dice,
    trees: Vec<SourceTree>,
    taken: Vec<Taken>,
    /// What went wrong in a deed.
    problem: Option<String>,
    depth: usize,
    counts: Counts,
}

/// What was tried.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Backups that ended with a snapshot.
    pub backups: usize,
    /// Collections, finished or not.
    pub collections: usize,
    /// Of them, those that had to leave something to a later one.
    pub waited: usize,
    /// Things done while something else was under way.
    pub beside: usize,
    /// Chunks removed.
    pub removed: u64,
    /// Frames moved whole.
    pub moved: u64,
    /// Frames taken apart.
    pub apart: u64,
}

impl Counts {
    /// Adds another history's.
    pub fn add(&mut self, other: &Self) {
        self.backups += other.backups;
        self.collections += other.collections;
        self.waited += other.waited;
        self.beside += other.beside;
        self.removed += other.removed;
        self.moved += other.moved;
        self.apart += other.apart;
    }
}

type Shared = Arc<Mutex<World>>;
type Outcome = Result<(), String>;

/// Lives through a history of `steps` things; every random choice follows from the seed.
pub fn live(seed: u64, steps: usize) -> Result<Counts, String> {
    let world = World::new(seed)?;
    for step in 0..steps {
        act(&world).map_err(|problem| format!("seed {seed}, step {step}: {problem}"))?;
        let mut guard = world.lock().expect("nobody panics here");
        if let Some(problem) = guard.problem.take() {
            return Err(format!("seed {seed}, step {step}: {problem}"));
        }
        drop(guard);
        verify(&world).map_err(|problem| format!("seed {seed}, step {step}: {problem}"))?;
    }
    end(&world).map_err(|problem| format!("seed {seed}, at the end: {problem}"))?;
    let guard = world.lock().expect("nobody panics here");
    Ok(guard.counts)
}

impl World {
    fn new(seed: u64) -> Result<Shared, String> {
        let trees = (0..2).map(|n| SourceTree::new(seed ^ n << 32, Shape { files: 10, wide: 0, len_max: 12 << 10 }));
        let world = Self {
            files: MemoryFiles::new(),
            kv: MemoryKvHome::new(),
            clock: lab::clock(),
            seed,
            opened: 0,
            dice: Dice(seed),
            trees: trees.collect(),
            taken: Vec::new(),
            problem: None,
            depth: 0,
            counts: Counts::default(),
        };
        lab::create(lab::place(world.files.clone(), world.kv.clone()), world.env(0)).map_err(|error| chain(&error))?;
        Ok(Arc::new(Mutex::new(world)))
    }

    fn env(&self, salt: u64) -> Env {
        let entropy = Arc::new(SeededEntropy::new(self.seed.wrapping_mul(1000).wrapping_add(salt)));
        Env { clock: self.clock.clone(), entropy, executor: Arc::new(Inline) }
    }

    /// A source changes, unless somebody may be reading it.
    fn change(&mut self, at: usize) {
        if self.depth == 0 && !self.dice.one_in(3) {
            self.trees[at].change();
        }
    }

    /// Opens the vault; `hook` and `faults` act on what is done with it.
    fn open(&mut self, hook: &Hook, faults: &Faults) -> Result<Vault, String> {
        self.opened += 1;
        let files = Arc::new(FaultyFiles::new(Arc::new(self.files.clone()), faults.clone()));
        let files = Arc::new(HookedFiles::new(files, hook.clone()));
        let kv_home = Arc::new(FaultyKvHome::new(Arc::new(self.kv.clone()), faults.clone()));
        lab::open(Place { files, kv_home }, self.env(self.opened)).map_err(|error| format!("open: {}", chain(&error)))
    }
}

fn with<T>(world: &Shared, act: impl FnOnce(&mut World) -> T) -> T {
    act(&mut world.lock().expect("nobody panics here"))
}

/// Opens the vault; something else may happen while it is used.
fn open(world: &Shared) -> Result<(Vault, Hook, Faults), String> {
    let (hook, faults) = (Hook::default(), Faults::new());
    let vault = with(world, |world| world.open(&hook, &faults))?;
    let (beside, nth) = with(world, |world| (world.depth < 2 && world.dice.one_in(2), world.dice.below(30)));
    if beside {
        let shared = world.clone();
        hook.at(nth, move || {
            with(&shared, |world| {
                world.depth += 1;
                world.counts.beside += 1;
            });
            let result = act(&shared);
            with(&shared, |world| {
                world.depth -= 1;
                if let Err(problem) = result {
                    world.problem.get_or_insert(format!("beside: {problem}"));
                }
            });
        });
    }
    Ok((vault, hook, faults))
}

/// Does one thing.
fn act(world: &Shared) -> Outcome {
    let choice = with(world, |world| {
        world.clock.advance(DAY / 3);
        world.dice.below(16)
    });
    match choice {
        0..=4 => back_up(world),
        5 => cut_short(world),
        6..=8 => change(world),
        9 => rebuild(world),
        10 => interrupt(world),
        _ => collect(world).map(drop),
    }
}

fn back_up(world: &Shared) -> Outcome {
    let (vault, _hook, _) = open(world)?;
    let (path, model) = with(world, |world| {
        let at = world.dice.below(world.trees.len());
        world.change(at);
        (world.trees[at].path(), Arc::new(crate::model::of_disk(&world.trees[at].root())))
    });
    let summary = lab::backup(&vault, &path, None).map_err(|error| format!("backup: {}", chain(&error)))?;
    let id = summary.snapshot.ok_or("no snapshot")?;
    if summary.unwhole > 0 {
        return Err(format!("{} snapshots are said to lack something", summary.unwhole));
    }
    with(world, |world| {
        world.counts.backups += 1;
        world.taken.push(Taken { id, source: path, model });
    });
    Ok(())
}

/// A backup whose process is killed.
fn cut_short(world: &Shared) -> Outcome {
    let (vault, _hook, faults) = open(world)?;
    let (path, call, nth) = with(world, |world| {
        let at = world.dice.below(world.trees.len());
        world.change(at);
        let call = [Call::Append, Call::KvCommit, Call::Sync, Call::Rename][world.dice.below(4)];
        (world.trees[at].path(), call, 1 + world.dice.below(12) as u64)
    });
    faults.fail_from(call, nth, Fault::Os(libc::EIO));
    // It may come to its end before that.
    let _ = lab::backup(&vault, &path, None);
    Ok(())
}

/// Snapshots are forgotten, brought back, purged, pinned.
fn change(world: &Shared) -> Outcome {
    let (vault, _hook, _) = open(world)?;
    let mut dice = with(world, |world| Dice(world.dice.throw()));
    vault
        .change(&mut |history, now| {
            let (wanted, kind) = match dice.below(5) {
                0 | 1 => ('l', ChangeKind::Forget { undelete_days: dice.below(2) as u32 }),
                2 => ('f', ChangeKind::Undelete),
                _ => ('f', ChangeKind::Purge),
            };
            let fits = |state: RefState| match state {
                RefState::Live => wanted == 'l',
                RefState::Forgotten { at, undelete_days } => {
                    let over = now.0 - at.0 >= i64::from(undelete_days) * DAY.as_nanos() as i64;
                    wanted == 'f' && (over || kind != ChangeKind::Purge)
                }
                RefState::Purged => false,
            };
            let all: Vec<u64> =
                history.refs.values().filter(|entry| fits(entry.state)).map(|entry| entry.count).collect();
            let records: Vec<u64> = all.into_iter().filter(|_| dice.one_in(2)).collect();
            (!records.is_empty()).then_some(ChangeRecord { records, note: String::new(), kind })
        })
        .map_err(|error| format!("change: {}", chain(&error)))?;
    Ok(())
}

/// The index is built anew, unless somebody is at work.
fn rebuild(world: &Shared) -> Outcome {
    if with(world, |world| world.depth) > 0 {
        return Ok(());
    }
    with(world, |world| world.kv.remove());
    open(world).map(drop)
}

fn collect(world: &Shared) -> Result<Option<GcReport>, String> {
    let (vault, _hook, _) = open(world)?;
    let keyless = with(world, |world| world.dice.one_in(3));
    collect_with(world, &vault, keyless)
}

fn collect_with(world: &Shared, vault: &Vault, keyless: bool) -> Result<Option<GcReport>, String> {
    let access = match keyless {
        true => {
            Access::Keyless { store: vault.local().unwrap(), retention_days_min: vault.config().retention_days_min }
        }
        false => Access::Keys(vault),
    };
    let report = match gc::collect(access, &GcOptions::default(), &Progress::silent()) {
        Ok(report) => report,
        Err(error) if error.class() == twinkeep_engine::vault::ErrorClass::Busy => return Ok(None),
        Err(error) => return Err(format!("gc: {}", chain(&error))),
    };
    with(world, |world| {
        let counts = &mut world.counts;
        counts.collections += 1;
        counts.waited += usize::from(!report.waits_for.is_empty());
        counts.removed += report.chunks_removed;
        counts.moved += report.frames_moved;
        counts.apart += report.frames_taken_apart;
    });
    Ok(Some(report))
}

/// A collection whose process is killed.
fn interrupt(world: &Shared) -> Outcome {
    let (vault, _hook, faults) = open(world)?;
    let (call, nth) = with(world, |world| {
        let call = [Call::Append, Call::KvCommit, Call::Sync, Call::Remove][world.dice.below(4)];
        (call, 1 + world.dice.below(8) as u64)
    });
    faults.fail_from(call, nth, Fault::Os(libc::EIO));
    let _ = gc::collect(Access::Keys(&vault), &GcOptions::default(), &Progress::silent());
    Ok(())
}

/// Whatever is not purged is there, byte for byte.
fn verify(world: &Shared) -> Outcome {
    let vault = with(world, |world| world.open(&Hook::default(), &Faults::new()))?;
    let history = vault.history().map_err(|error| chain(&error))?;
    if let Some(fault) = history.open_faults().next() {
        return Err(format!("{}: {}", fault.file, fault.problem));
    }
    let taken = with(world, |world| world.taken.clone());
    for entry in history.roots() {
        if let Some(taken) = taken.iter().find(|taken| taken.id == entry.reference.target) {
            taken.verify(&vault)?;
        }
    }
    Ok(())
}

/// Nobody is at work any more: two rounds, and nothing is left that nothing needs.
fn end(world: &Shared) -> Outcome {
    let vault = with(world, |world| world.open(&Hook::default(), &Faults::new()))?;
    for _ in 0..2 {
        collect_with(world, &vault, false)?;
    }
    verify(world)?;
    let report = check(&vault, &CheckOptions { read_data: true, ..CheckOptions::default() }, &Progress::silent())
        .map_err(|error| chain(&error))?;
    if !report.is_clean() {
        return Err(format!("check: {:?} {:?}", report.faults, report.damaged));
    }
    let options = GcOptions { dry_run: true, ..GcOptions::default() };
    let left = gc::collect(Access::Keys(&vault), &options, &Progress::silent()).map_err(|error| chain(&error))?;
    let mut rows = 0;
    vault
        .local()
        .unwrap()
        .visit_chunk_rows(&mut |_, _| {
            rows += 1;
            true
        })
        .map_err(|error| chain(&error))?;
    if rows != left.chunks_live {
        return Err(format!("{rows} chunks are in the index, {} are needed", left.chunks_live));
    }
    let dead: u64 = left.plan.packs.iter().map(|(pack, _)| pack.dead_len).sum();
    let all: u64 = left.plan.packs.iter().map(|(pack, _)| pack.len).sum();
    if dead * gc::DEAD_SHARE > all {
        return Err(format!("{dead} of {all} bytes are in frames that nothing needs"));
    }
    Ok(())
}

/// A collection that brings an earlier one to its end and then makes a round of its own, while at its `nth` lock two
/// backups come and go, of which the older is purged.
pub fn goes_on(nth: usize) -> Outcome {
    let world = World::new(nth as u64)?;
    let open = |hook: &Hook| with(&world, |world| world.open(hook, &Faults::new()));
    let vault = open(&Hook::default())?;
    two_backups(&world, &vault)?;
    let session = vault.store().begin().map_err(|error| chain(&error))?;
    let report = collect_with(&world, &vault, false)?.ok_or("somebody else collects")?;
    if report.waits_for.is_empty() {
        return Err("the first collection waits for nobody".into());
    }
    drop(session);
    let hook = Hook::default();
    let hooked = open(&hook)?;
    let shared = world.clone();
    hook.at(nth, move || {
        if let Err(problem) = two_backups(&shared, &vault) {
            with(&shared, |world| world.problem = Some(problem));
        }
    });
    collect_with(&world, &hooked, false).map_err(|problem| format!("two backups at lock {nth}: {problem}"))?;
    hook.clear();
    with(&world, |world| world.problem.take()).map_or(Ok(()), Err)?;
    end(&world)
}

/// Backs a source up twice and purges all snapshots but the last.
fn two_backups(world: &Shared, vault: &Vault) -> Outcome {
    for _ in 0..2 {
        let path = with(world, |world| {
            world.trees[0].change();
            world.trees[0].path()
        });
        lab::backup(vault, &path, None).map_err(|error| format!("backup: {}", chain(&error)))?;
    }
    for kind in [ChangeKind::Forget { undelete_days: 0 }, ChangeKind::Purge] {
        let decide = &mut |history: &twinkeep_engine::history::History, _| {
            let roots: Vec<u64> = history.roots().map(|entry| entry.count).collect();
            let records = roots[..roots.len() - 1].to_vec();
            Some(ChangeRecord { records, note: String::new(), kind: kind.clone() })
        };
        vault.change(decide).map_err(|error| format!("change: {}", chain(&error)))?;
    }
    Ok(())
}
