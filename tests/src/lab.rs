//! A vault to be tried out: small units, a seed for everything, memory below it.

use crate::model::{self, Model};
use crate::tree::SourceTree;
use std::path::Path;
use std::sync::{Arc, Mutex, Once};
use twinkeep_engine::backup::{self, BackupError, BackupOptions, BackupSummary};
use twinkeep_engine::chunk::CutParams;
use twinkeep_engine::env::{Clock, Env, Executor, Inline, ManualClock, SeededEntropy, SystemClock, Time};
use twinkeep_engine::files::Files;
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::kv::KvHome;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::vault::{CreateOptions, NewSlot, Place, Unlock, Vault, VaultError};
use twinkeep_engine::zoo::{Units, set_units};

/// The machine key of every vault here.
pub const KEY: [u8; 32] = [0x5a; 32];

/// Makes frames, packs and commits of this process so small that a tree of a few hundred KiB fills many.
pub fn shrink() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_units(Units { frame_plain_len: 12 << 10, pack_len: 40 << 10, pending_rows: 30, young_rows: 20 })
    });
}

/// A clock a day ahead, so that every time stamp of a source just made counts as old enough to be believed.
pub fn clock() -> Arc<ManualClock> {
    let Time(now) = SystemClock::default().now();
    Arc::new(ManualClock::new(Time(now + 86_400_000_000_000)))
}

/// Everything on one thread, dice from `seed`.
pub fn env(seed: u64) -> Env {
    env_with(seed, Arc::new(Inline))
}

/// As [`env`], with another executor.
pub fn env_with(seed: u64, executor: Arc<dyn Executor>) -> Env {
    Env { clock: clock(), entropy: Arc::new(SeededEntropy::new(seed)), executor }
}

/// Where a vault is.
pub fn place(files: impl Files + 'static, kv_home: impl KvHome + 'static) -> Place {
    Place { files: Arc::new(files), kv_home: Arc::new(kv_home) }
}

/// Makes a vault that cuts finely.
pub fn create(place: Place, env: Env) -> Result<Vault, VaultError> {
    shrink();
    let cut = CutParams::new(256, 1024, 4096, 2).expect("these lengths are fine");
    let options = CreateOptions { cut, ..CreateOptions::default() };
    let slots = [NewSlot::MachineKey { key: &KEY, label: "test" }];
    Ok(Vault::create(place, env, &options, &slots)?.0)
}

/// Opens it.
pub fn open(place: Place, env: Env) -> Result<Vault, VaultError> {
    shrink();
    Vault::open(place, env, Unlock::MachineKey(&KEY), "test")
}

/// Options for a source folder.
pub fn options(source: &[u8], cache: Option<&Path>) -> BackupOptions {
    BackupOptions {
        paths: vec![source.to_vec()],
        host: "host".to_owned(),
        user: "user".to_owned(),
        program: "test".to_owned(),
        cache_dir: cache.map(Path::to_path_buf),
        ..BackupOptions::default()
    }
}

/// Backs a source up; warnings are errors here, unless about the cache.
pub fn backup(vault: &Vault, source: &[u8], cache: Option<&Path>) -> Result<BackupSummary, BackupError> {
    backup::backup(vault, &options(source, cache), &Progress::silent())
}

/// A published snapshot and what it has to hold.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its id.
    pub id: ChunkId,
    /// The source folder.
    pub source: Vec<u8>,
    /// What was there.
    pub model: Arc<Model>,
}

/// Backs a tree up and keeps what it held.
pub fn take(vault: &Vault, tree: &SourceTree, cache: Option<&Path>) -> Result<Taken, BackupError> {
    let model = Arc::new(model::of_disk(&tree.root()));
    let summary = backup(vault, &tree.path(), cache)?;
    let id = summary.snapshot.expect("a backup that is no dry run makes a snapshot");
    Ok(Taken { id, source: tree.path(), model })
}

impl Taken {
    /// Reads the snapshot whole and compares every byte.
    pub fn verify(&self, vault: &Vault) -> Result<(), String> {
        model::same(&self.model, &model::of_snapshot(vault, &self.id, &self.source))
            .map_err(|problem| format!("snapshot {}: {problem}", &self.id.to_hex()[..8]))
    }

    /// As [`Self::verify`], but what cannot be read may be reported instead.
    pub fn verify_honest(&self, vault: &Vault) -> Result<bool, String> {
        let reading = model::of_snapshot(vault, &self.id, &self.source);
        model::honest(&self.model, &reading).map_err(|problem| format!("snapshot {}: {problem}", self.id))?;
        Ok(reading.errors.is_empty())
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Lets somebody else act once, after the first walk of a backup and before it settles.
pub struct After(Mutex<Option<Deed>>);

type Deed = Box<dyn FnOnce() + Send>;

impl After {
    /// Does `deed` then.
    pub fn new(deed: impl FnOnce() + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(deed))))
    }
}

impl Executor for After {
    fn workers(&self) -> usize {
        1
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        job(0);
        let deed = self.0.lock().expect("nobody panics here").take();
        if let Some(deed) = deed {
            deed();
        }
    }
}
