//! Random histories at the level of sessions: several writers under way at once, older and newer than a condemnation,
//! some of which die and are adopted; readers that hold on to what they found; collections that are interrupted, in the
//! middle of which the others go on; power cuts. After every step whatever is not purged can be read, whatever counts as
//! firm has everything below it, and in the end nothing is left that nothing needs.

use crate::hooked::{Hook, HookedFiles};
use crate::lab::{self, chain};
use crate::weave::{self, Node, Stand, Writer};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twinkeep_engine::crypto::VaultKeys;
use twinkeep_engine::env::{Dice, Env, Inline, ManualClock, SeededEntropy};
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles, FaultyKvHome};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::frame::frame_id;
use twinkeep_engine::gc::{self, Access, GcOptions, GcReport};
use twinkeep_engine::history::RefState;
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::kv::Table;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::record::{ChangeKind, ChangeRecord};
use twinkeep_engine::store::{Pin, Place as ChunkPlace, StoreError};
use twinkeep_engine::vault::{ChunkReader, ErrorClass, Place, Vault};

const WRITERS_MAX: usize = 4;
const READERS_MAX: usize = 3;

/// What was tried.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Snapshots published.
    pub published: usize,
    /// Writers that died.
    pub killed: usize,
    /// Collections, finished or not.
    pub collections: usize,
    /// Of them, those that had to leave something to a later one.
    pub waited: usize,
    /// Things done in the middle of a collection.
    pub beside: usize,
    /// Power cuts.
    pub cuts: usize,
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
        self.published += other.published;
        self.killed += other.killed;
        self.collections += other.collections;
        self.waited += other.waited;
        self.beside += other.beside;
        self.cuts += other.cuts;
        self.removed += other.removed;
        self.moved += other.moved;
        self.apart += other.apart;
    }
}

/// Somebody who reads a snapshot for long.
struct Reader {
    vault: Vault,
    _pin: Pin,
    chunks: ChunkReader,
    root: Arc<Node>,
    places: Vec<ChunkPlace>,
}

struct World {
    files: MemoryFiles,
    kv: MemoryKvHome,
    clock: Arc<ManualClock>,
    keys: Arc<VaultKeys>,
    seed: u64,
    opened: u64,
    dice: Dice,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
    published: HashMap<ChunkId, Arc<Node>>,
    /// What somebody stored or began to: stored again it shares everything.
    roots: Vec<Arc<Node>>,
    depth: usize,
    problem: Option<String>,
    counts: Counts,
    trace: Vec<String>,
}

type Shared = Arc<Mutex<World>>;
type Outcome = Result<(), String>;

/// Lives through a history of `steps` things; every random choice follows from the seed.
pub fn live(seed: u64, steps: usize) -> Result<Counts, String> {
    let world = World::create(seed)?;
    let told = |world: &Shared, at: String, problem: String| {
        let trace = with(world, |world| world.trace.split_off(world.trace.len().saturating_sub(30)).join(", "));
        format!("seed {seed}, {at}: {problem}\n  before that: {trace}")
    };
    for step in 0..steps {
        let done = act(&world).and_then(|()| match with(&world, |world| world.problem.take()) {
            Some(problem) => Err(problem),
            None => verify(&world),
        });
        done.map_err(|problem| told(&world, format!("step {step}"), problem))?;
    }
    end(&world).map_err(|problem| told(&world, "at the end".to_owned(), problem))?;
    Ok(with(&world, |world| world.counts))
}

fn with<T>(world: &Shared, act: impl FnOnce(&mut World) -> T) -> T {
    act(&mut world.lock().expect("nobody panics here"))
}

impl World {
    fn create(seed: u64) -> Result<Shared, String> {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let keys = weave::create(lab::place(files.clone(), kv.clone()), seed)?;
        Ok(Arc::new(Mutex::new(Self {
            files,
            kv,
            clock: lab::clock(),
            keys,
            seed,
            opened: 0,
            dice: Dice(seed),
            writers: Vec::new(),
            readers: Vec::new(),
            published: HashMap::new(),
            roots: Vec::new(),
            depth: 0,
            problem: None,
            counts: Counts::default(),
            trace: Vec::new(),
        })))
    }

    fn open(&mut self, hook: &Hook, faults: &Faults) -> Result<Vault, String> {
        self.opened += 1;
        let entropy = Arc::new(SeededEntropy::new(self.seed.wrapping_mul(100_000).wrapping_add(self.opened)));
        let env = Env { clock: self.clock.clone(), entropy, executor: Arc::new(Inline) };
        let files = Arc::new(FaultyFiles::new(Arc::new(self.files.clone()), faults.clone()));
        let files = Arc::new(HookedFiles::new(files, hook.clone()));
        let kv_home = Arc::new(FaultyKvHome::new(Arc::new(self.kv.clone()), faults.clone()));
        lab::open(Place { files, kv_home }, env).map_err(|error| format!("open: {}", chain(&error)))
    }

    fn open_plain(&mut self) -> Result<Vault, String> {
        self.open(&Hook::default(), &Faults::new())
    }

    /// What a new writer stores.
    fn choose(&mut self) -> Arc<Node> {
        if !self.roots.is_empty() && self.dice.one_in(3) {
            return self.roots[self.dice.below(self.roots.len())].clone();
        }
        let height = 2 + self.dice.below(3);
        let root = Node::random(&self.keys, &mut self.dice, 12, height);
        self.roots.push(root.clone());
        root
    }

    fn go_on(&mut self) -> Outcome {
        if self.writers.is_empty() {
            return Ok(());
        }
        let at = self.dice.below(self.writers.len());
        for _ in 0..1 + self.dice.below(14) {
            if self.writers[at].step().map_err(|problem| format!("writer {at}: {problem}"))? == Stand::Published {
                let done = self.writers.remove(at);
                self.published.insert(done.root().id, done.root().clone());
                self.counts.published += 1;
                return Ok(());
            }
        }
        if self.dice.one_in(4) { self.writers[at].checkpoint() } else { Ok(()) }
    }

    fn kill(&mut self) {
        if !self.writers.is_empty() {
            let at = self.dice.below(self.writers.len());
            self.writers.remove(at);
            self.counts.killed += 1;
        }
    }

    /// Snapshots are forgotten, brought back, purged.
    fn change(&mut self) -> Outcome {
        let vault = self.open_plain()?;
        let mut dice = Dice(self.dice.throw());
        let change = vault.change(&mut |history, _| {
            let (live, kind) = match dice.below(6) {
                0..=2 => (true, ChangeKind::Forget { undelete_days: 0 }),
                3 => (false, ChangeKind::Undelete),
                _ => (false, ChangeKind::Purge),
            };
            let all = history.refs.values().filter(|entry| match entry.state {
                RefState::Live => live,
                RefState::Forgotten { .. } => !live,
                RefState::Purged => false,
            });
            let records: Vec<u64> = all.map(|entry| entry.count).filter(|_| !dice.one_in(3)).collect();
            (!records.is_empty()).then_some(ChangeRecord { records, note: String::new(), kind })
        });
        change.map(drop).map_err(|error| format!("change: {}", chain(&error)))
    }

    fn roots(&mut self, vault: &Vault) -> Result<Vec<Arc<Node>>, String> {
        let history = vault.history().map_err(|error| chain(&error))?;
        if let Some(fault) = history.open_faults().next() {
            return Err(format!("{}: {}", fault.file, fault.problem));
        }
        let node = |id: &ChunkId| self.published.get(id).cloned().ok_or_else(|| format!("nobody published {id}"));
        history.roots().map(|entry| node(&entry.reference.target)).collect()
    }

    fn read(&mut self) -> Outcome {
        if self.readers.len() >= READERS_MAX || self.dice.one_in(3) {
            if !self.readers.is_empty() {
                let at = self.dice.below(self.readers.len());
                self.readers.remove(at);
            }
            return Ok(());
        }
        let vault = self.open_plain()?;
        let roots = self.roots(&vault)?;
        if roots.is_empty() {
            return Ok(());
        }
        let root = roots[self.dice.below(roots.len())].clone();
        let pin = vault.local().unwrap().pin(root.id).map_err(|error| format!("pin {}: {}", root.id, chain(&error)))?;
        let mut all = HashMap::new();
        root.gather(&mut all);
        let ids: Vec<ChunkId> = all.into_keys().collect();
        let places = vault.store().places(&ids).map_err(|error| chain(&error))?;
        let places = places.into_iter().flatten().collect();
        let chunks = vault.reader().map_err(|error| chain(&error))?;
        self.readers.push(Reader { _pin: pin.ok_or("no pin")?, chunks, root, places, vault });
        Ok(())
    }

    /// Power fails: who was at work is gone, and what was not durable.
    fn cut(&mut self) {
        self.writers.clear();
        self.readers.clear();
        (self.files, self.kv) = (self.files.crash(), self.kv.crash());
        self.counts.cuts += 1;
    }

    fn is_condemned_phase(&self) -> bool {
        let version = self.kv.version();
        version.is_some_and(|version| version.rows(Table::Meta).get(&b"gc"[..]).is_some_and(|row| row[0] == 1))
    }

    fn verify(&mut self) -> Outcome {
        let vault = self.open_plain()?;
        let faults = vault.store().audit().map_err(|error| format!("audit: {}", chain(&error)))?;
        if let Some(fault) = faults.first() {
            return Err(format!("{}: {}", fault.file, fault.problem));
        }
        weave::closed(&vault)?;
        let roots = self.roots(&vault)?;
        let reader = vault.reader().map_err(|error| chain(&error))?;
        let mut seen = HashSet::new();
        for root in &roots {
            root.verify(&reader, &mut seen).map_err(|problem| format!("snapshot {}: {problem}", root.id))?;
        }
        if !self.is_condemned_phase() {
            let ids: Vec<ChunkId> = roots.iter().map(|root| root.id).collect();
            let known = vault.store().known(&ids).map_err(|error| chain(&error))?;
            if let Some(at) = known.iter().position(|known| !known) {
                return Err(format!("snapshot {} is needed and not firm", ids[at]));
            }
        }
        self.readers.iter().try_for_each(Reader::verify)
    }
}

impl Reader {
    fn verify(&self) -> Outcome {
        let told = |problem| format!("a reader of {}: {problem}", self.root.id);
        let mut bytes = Vec::new();
        for place in &self.places {
            match self.vault.store().read_frame(place, &mut bytes) {
                Ok(()) if frame_id(&bytes) == place.frame => {}
                Ok(()) => return Err(told(format!("frame {} is taken for another", place.number.0))),
                Err(StoreError::Gone { .. }) => {}
                Err(error) => return Err(told(format!("frame {}: {}", place.number.0, chain(&error)))),
            }
        }
        self.root.verify(&self.chunks, &mut HashSet::new()).map_err(told)
    }
}

fn act(world: &Shared) -> Outcome {
    let (choice, depth) = with(world, |world| {
        world.clock.advance(Duration::from_secs(3600));
        let choice = world.dice.below(24);
        let line = format!("{}{choice}", "+".repeat(world.depth));
        world.trace.push(line);
        (choice, world.depth)
    });
    match choice {
        0..=2 => begin(world),
        3..=10 => with(world, World::go_on),
        11 => {
            with(world, World::kill);
            Ok(())
        }
        12..=14 => with(world, World::change),
        15 | 16 => with(world, World::read),
        17 if depth == 0 => {
            with(world, World::cut);
            Ok(())
        }
        18 if depth == 0 => interrupt(world),
        19 if depth == 0 && with(world, |world| world.writers.is_empty()) => with(world, |world| {
            world.readers.clear();
            world.kv.remove();
            world.open_plain().map(drop)
        }),
        _ => collect(world),
    }
}

/// A vault in the middle of whose use others go on.
fn open_beside(world: &Shared, faults: &Faults, hook: &Hook) -> Result<Vault, String> {
    let (vault, deeds, mut dice) = with(world, |world| {
        let deeds = if world.depth == 0 { world.dice.below(4) } else { 0 };
        (world.open(hook, faults), deeds, Dice(world.dice.throw()))
    });
    for _ in 0..deeds {
        let (shared, acts) = (world.clone(), 1 + dice.below(6));
        hook.at(dice.below(24), move || {
            with(&shared, |world| world.depth += 1);
            let result = (0..acts).try_for_each(|_| act(&shared));
            with(&shared, |world| {
                world.depth -= 1;
                world.counts.beside += 1;
                if let Err(problem) = result {
                    world.problem.get_or_insert(format!("beside: {problem}"));
                }
            });
        });
    }
    vault
}

/// A writer begins, and adopts what others left, which others do too.
fn begin(world: &Shared) -> Outcome {
    if with(world, |world| world.writers.len()) >= WRITERS_MAX {
        return Ok(());
    }
    let hook = Hook::default();
    let vault = open_beside(world, &Faults::new(), &hook)?;
    let (root, mut dice) = with(world, |world| (world.choose(), Dice(world.dice.throw())));
    let writer = Writer::begin(vault, root, &mut dice)?;
    // From here on steps are taken while the world is held.
    hook.clear();
    with(world, |world| world.writers.push(writer));
    Ok(())
}

fn collect(world: &Shared) -> Outcome {
    let vault = open_beside(world, &Faults::new(), &Hook::default())?;
    let keyless = with(world, |world| world.dice.one_in(3));
    let access = match keyless {
        true => {
            Access::Keyless { store: vault.local().unwrap(), retention_days_min: vault.config().retention_days_min }
        }
        false => Access::Keys(&vault),
    };
    count(world, gc::collect(access, &GcOptions::default(), &Progress::silent()))
}

fn count(world: &Shared, report: Result<GcReport, gc::GcError>) -> Outcome {
    let report = match report {
        Ok(report) => report,
        Err(error) if error.class() == ErrorClass::Busy => return Ok(()),
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
    match report.damaged.first() {
        Some(damaged) => Err(format!("gc: {damaged} is damaged")),
        None => Ok(()),
    }
}

/// A collection whose process is killed.
fn interrupt(world: &Shared) -> Outcome {
    let faults = Faults::new();
    let vault = open_beside(world, &faults, &Hook::default())?;
    let (call, nth) = with(world, |world| {
        let call = [Call::Append, Call::KvCommit, Call::KvCommit, Call::Sync, Call::Remove][world.dice.below(5)];
        (call, 1 + world.dice.below(8) as u64)
    });
    faults.fail_from(call, nth, Fault::Os(libc::EIO));
    let _ = gc::collect(Access::Keys(&vault), &GcOptions::default(), &Progress::silent());
    Ok(())
}

fn verify(world: &Shared) -> Outcome {
    with(world, World::verify)
}

/// Nobody is at work any more: two rounds, and nothing is left that nothing needs.
fn end(world: &Shared) -> Outcome {
    with(world, |world| {
        world.writers.clear();
        world.readers.clear();
    });
    let vault = with(world, World::open_plain)?;
    for _ in 0..2 {
        count(world, gc::collect(Access::Keys(&vault), &GcOptions::default(), &Progress::silent()))?;
    }
    verify(world)?;
    spotless(&vault)
}

/// Nothing is left in the vault that nothing needs, beyond what does not pay to be freed.
pub fn spotless(vault: &Vault) -> Outcome {
    let options = GcOptions { dry_run: true, ..GcOptions::default() };
    let left = gc::collect(Access::Keys(vault), &options, &Progress::silent()).map_err(|error| chain(&error))?;
    let mut rows = 0;
    let visited = vault.local().unwrap().visit_chunk_rows(&mut |_, _| {
        rows += 1;
        true
    });
    visited.map_err(|error| chain(&error))?;
    if rows != left.chunks_live {
        return Err(format!("{rows} chunks are in the index, {} are needed", left.chunks_live));
    }
    let dead: u64 = left.plan.packs.iter().map(|(pack, _)| pack.dead_len).sum();
    let all: u64 = left.plan.packs.iter().map(|(pack, _)| pack.len).sum();
    match dead * gc::DEAD_SHARE > all {
        true => Err(format!("{dead} of {all} bytes are in frames that nothing needs")),
        false => Ok(()),
    }
}
