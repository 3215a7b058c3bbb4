//! Histories: backups alone, beside another process and cut short, and what is said of snapshots, recorded call by call.

use super::{History, KEYS, SAID, Standing, VAULT, standing};
use crate::lab::{self, Taken, chain};
use crate::model::{self, Model};
use crate::tree::{Shape, SourceTree, copy_folder};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twinkeep_engine::env::{Dice, Env, Executor};
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles, FaultyKvHome};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::files::record::{Log, RecordingFiles, RecordingKvHome, record};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::retention::{self, RetentionError, TagEdit};
use twinkeep_engine::vault::{ConfigChange, Place, Vault, VaultError};

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
