//! A folder with a vault, a source and a target in it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use twinkeep_engine::backup::{self, BackupError, BackupOptions, BackupSummary};
use twinkeep_engine::env::Env;
use twinkeep_engine::progress::{Progress, Warning};
use twinkeep_engine::query::{self, TreeRoot};
use twinkeep_engine::restore::{self, RestoreOptions, RestoreSummary};
use twinkeep_engine::vault::{CreateOptions, NewSlot, Place, SnapshotInfo, Unlock, Vault};

const KEY: [u8; 32] = [7; 32];

/// Warnings as they come in.
pub type Warnings = Arc<Mutex<Vec<Warning>>>;

/// A vault with a source folder and room for targets; all of it goes away in the end.
pub struct Lab {
    /// The folder all of it is in, without symbolic links in its path.
    pub top: PathBuf,
    /// The vault.
    pub vault: Vault,
    _temp: tempfile::TempDir,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// An empty vault and an empty source.
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("source")).unwrap();
        let slots = [NewSlot::MachineKey { key: &KEY, label: "test" }];
        let place = Place::folder(&top.join("vault"));
        let (vault, _) = Vault::create(place, Env::system(2), &CreateOptions::default(), &slots).unwrap();
        Self { top, vault, _temp: temp }
    }

    /// The vault closed and opened again, as by the next run of the program.
    pub fn reopened(self) -> Self {
        let Self { top, vault, _temp } = self;
        drop(vault);
        let place = Place::folder(&top.join("vault"));
        let vault = Vault::open(place, Env::system(2), Unlock::MachineKey(&KEY), "test").unwrap();
        assert!(vault.notes().is_empty(), "{:?}", vault.notes());
        Self { top, vault, _temp }
    }

    /// Where the source is.
    pub fn source(&self) -> PathBuf {
        self.top.join("source")
    }

    /// Options that back up `path` without a stat cache.
    pub fn options(&self, path: &Path) -> BackupOptions {
        BackupOptions {
            paths: vec![path.as_os_str().as_bytes().to_vec()],
            host: "test".into(),
            user: "test".into(),
            program: "test".into(),
            ..BackupOptions::default()
        }
    }

    /// The same with a stat cache.
    pub fn cached(&self, path: &Path) -> BackupOptions {
        BackupOptions { cache_dir: Some(self.top.join("cache")), ..self.options(path) }
    }

    /// Runs a backup; returns what it did and what it warned of.
    pub fn try_backup(&self, options: &BackupOptions) -> (Result<BackupSummary, BackupError>, Vec<Warning>) {
        let (progress, warnings) = listening();
        let outcome = backup::backup(&self.vault, options, &progress);
        (outcome, taken(&warnings))
    }

    /// Runs a backup in which nothing may go wrong.
    pub fn backup(&self, options: &BackupOptions) -> BackupSummary {
        let (summary, warnings) = self.try_backup(options);
        let summary = summary.unwrap();
        assert!(warnings.is_empty() && summary.errors == 0 && summary.unwhole == 0, "{summary:?} {warnings:?}");
        summary
    }

    /// The newest snapshot.
    pub fn latest(&self) -> SnapshotInfo {
        let snapshots = self.vault.snapshots().unwrap();
        assert!(snapshots.damaged.is_empty(), "{:?}", snapshots.damaged);
        snapshots.list.last().unwrap().clone()
    }

    /// The place of `path` in the newest snapshot.
    pub fn root(&self, path: &Path) -> TreeRoot {
        query::resolve_path(&self.vault, &self.latest(), path.as_os_str().as_bytes()).unwrap()
    }

    /// Runs a restore; returns what it did and what it warned of.
    pub fn try_restore(
        &self,
        root: &TreeRoot,
        options: &RestoreOptions,
    ) -> (Result<RestoreSummary, restore::RestoreError>, Vec<Warning>) {
        let (progress, warnings) = listening();
        let outcome = restore::restore(&self.vault, root, options, &progress);
        (outcome, taken(&warnings))
    }

    /// Runs a restore in which nothing may go wrong.
    pub fn restore(&self, root: &TreeRoot, options: &RestoreOptions) -> RestoreSummary {
        let (summary, warnings) = self.try_restore(root, options);
        let summary = summary.unwrap();
        assert!(warnings.is_empty() && summary.errors == 0, "{summary:?} {warnings:?}");
        summary
    }
}

/// A progress whose warnings are kept.
pub fn listening() -> (Arc<Progress>, Warnings) {
    let warnings = Warnings::default();
    let kept = warnings.clone();
    (Progress::new(move |warning| kept.lock().unwrap().push(warning.clone())), warnings)
}

/// The warnings so far.
pub fn taken(warnings: &Warnings) -> Vec<Warning> {
    std::mem::take(&mut warnings.lock().unwrap())
}
