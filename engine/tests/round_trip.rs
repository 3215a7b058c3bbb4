//! Backup and restore through a vault in a folder: what comes back is what went in, and nothing is stored twice.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use twinkeep_engine::backup::{BackupError, BackupOptions, BackupSummary, backup};
use twinkeep_engine::branch::entry::What;
use twinkeep_engine::env::{Clock, Dice, Env, SystemClock, Time};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::query::{RootWhat, Step, TreeRoot, WalkEntry, resolve_path, walk};
use twinkeep_engine::restore::{RestoreOptions, restore};
use twinkeep_engine::store::StoreError;
use twinkeep_engine::vault::{CreateOptions, Place, Unlock, Vault, VaultError};

fn bytes(dice: &mut Dice, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    dice.fill(&mut bytes);
    bytes
}

fn make_source(root: &Path) {
    let mut dice = Dice(7);
    fs::create_dir_all(root.join("docs/deep/er")).unwrap();
    fs::create_dir_all(root.join("many")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("tiny"), b"a few bytes").unwrap();
    fs::write(root.join("docs/one-chunk"), bytes(&mut dice, 30_000)).unwrap();
    fs::write(root.join("docs/deep/er/large"), bytes(&mut dice, 9_000_000)).unwrap();
    fs::write(root.join("docs/huge-list"), bytes(&mut dice, 40_000_000)).unwrap();
    std::os::unix::fs::symlink("tiny", root.join("link")).unwrap();
    fs::hard_link(root.join("docs/one-chunk"), root.join("second-name")).unwrap();
    for i in 0..1500 {
        fs::write(root.join(format!("many/{i}")), format!("file number {i} ").repeat(40)).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"in the middle", 5_000_000).unwrap();
    sparse.set_len(20_000_000).unwrap();
}

fn run(vault: &Vault, options: &BackupOptions) -> BackupSummary {
    let summary = backup(vault, options, &Progress::silent()).unwrap();
    assert_eq!(summary.errors, 0);
    summary
}

#[test]
fn what_goes_in_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    make_source(&source);
    let place = || Place::folder(&folder.path().join("vault"));
    let (vault, secret) = Vault::create(place(), Env::system(2), &CreateOptions::default(), &[]).unwrap();
    drop(vault);

    let vault = Vault::open(place(), Env::system(2), Unlock::Secret(&secret), "test").unwrap();
    let options = BackupOptions {
        paths: vec![source.as_os_str().as_bytes().to_vec()],
        cache_dir: Some(folder.path().join("cache")),
        ..BackupOptions::default()
    };
    // Times younger than two seconds are never believed.
    let first = run(&vault, &options);
    assert!(first.chunks_new > 100, "{first:?}");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let second = run(&vault, &options);
    assert_eq!(second.files_new + second.files_changed + second.files_unchanged, 1507, "{second:?}");
    let third = run(&vault, &options);
    assert_eq!(third.files_unchanged, 1507, "{third:?}");
    // The snapshot itself, and the listing of a temporary folder that others change too.
    assert!(third.chunks_new <= 3 && third.bytes_added < 4000, "{third:?}");
    // A ctime that moved alone is no reason to read again for who says so.
    let tiny = source.join("tiny");
    fs::set_permissions(&tiny, fs::Permissions::from_mode(0o600)).unwrap();
    let fourth = run(&vault, &BackupOptions { ignore_ctime: true, ..options.clone() });
    assert_eq!((fourth.files_unchanged, fourth.files_changed), (1507, 0), "{fourth:?}");
    drop(vault);

    let vault = Vault::open(place(), Env::system(2), Unlock::Secret(&secret), "test").unwrap();
    let snapshots = vault.snapshots().unwrap();
    assert_eq!((snapshots.list.len(), snapshots.damaged.len()), (4, 0));
    let newest = snapshots.list.last().unwrap();
    let root = TreeRoot { snapshot: newest.id, path: b"/".to_vec(), what: RootWhat::Directory(newest.snapshot.tree) };
    let progress = Progress::new(|warning| panic!("{}: {}", String::from_utf8_lossy(&warning.path), warning.message));
    let options = RestoreOptions { verify: true, ..RestoreOptions::to(target.clone()) };
    let summary = restore(&vault, &root, &options, &progress).unwrap();
    assert_eq!((summary.errors, summary.files_restored, summary.verified), (0, 1507, 1507), "{summary:?}");
    assert!(progress.bytes_written.load(Ordering::Relaxed) > 49_000_000);
    let restored = target.join(source.strip_prefix("/").unwrap());
    let diff = std::process::Command::new("diff").args(["-r", "--no-dereference"]).arg(&source).arg(&restored).output();
    let diff = diff.unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));

    // A folder with something in it never makes way for a file unless that was asked for.
    fs::remove_file(restored.join("tiny")).unwrap();
    fs::create_dir_all(restored.join("tiny/with")).unwrap();
    let kept = restore(&vault, &root, &RestoreOptions::to(target.clone()), &Progress::silent()).unwrap();
    assert_eq!(kept.errors, 1, "{kept:?}");
    assert!(restored.join("tiny/with").is_dir());
    let delete = RestoreOptions { delete: true, ..RestoreOptions::to(restored.clone()) };
    let part = resolve_path(&vault, newest, source.as_os_str().as_bytes()).unwrap();
    assert_eq!(restore(&vault, &part, &delete, &Progress::silent()).unwrap().errors, 0);

    fs::write(restored.join("tiny"), b"something else").unwrap();
    let again = restore(&vault, &root, &RestoreOptions::to(target), &Progress::silent()).unwrap();
    let wanted = (3, 30_011);
    assert_eq!((again.files_restored, again.bytes_written), wanted, "a file with two names is made anew: {again:?}");
}

/// Makes all files an hour old: what was changed a moment ago is never taken for unchanged.
fn age(folder: &Path) {
    let then = std::time::SystemTime::now() - Duration::from_secs(3600);
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            age(&entry.path());
        } else if kind.is_file() {
            fs::File::open(entry.path()).unwrap().set_modified(then).unwrap();
        }
    }
}

/// A clock that runs ahead by ten minutes each time somebody looks, and asks the run to stop after so many files.
struct Hurry {
    looks: AtomicU64,
    files_max: u64,
    progress: Arc<Progress>,
}

impl Clock for Hurry {
    fn now(&self) -> Time {
        SystemClock::default().now()
    }

    fn elapsed(&self) -> Duration {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        if self.progress.files_done.load(Ordering::Relaxed) > self.files_max {
            self.progress.cancel();
        }
        Duration::from_secs(600 * looks)
    }
}

#[test]
fn an_interrupted_backup_goes_on_from_its_checkpoint() {
    for (workers, files_max) in [(1, 300), (2, 300), (3, 500)] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        make_source(&source);
        for dir in 0..40 {
            fs::create_dir(source.join(format!("dir{dir}"))).unwrap();
            for file in 0..20 {
                fs::write(source.join(format!("dir{dir}/{file}")), format!("{dir} {file} ").repeat(200)).unwrap();
            }
        }
        age(&source);
        let place = || Place::folder(&folder.path().join("vault"));
        let (vault, secret) = Vault::create(place(), Env::system(1), &CreateOptions::default(), &[]).unwrap();
        drop(vault);
        let options = BackupOptions { paths: vec![source.as_os_str().as_bytes().to_vec()], ..BackupOptions::default() };

        let progress = Progress::silent();
        let hurry = Hurry { looks: AtomicU64::new(0), files_max, progress: progress.clone() };
        let env = Env { clock: Arc::new(hurry), ..Env::system(workers) };
        let vault = Vault::open(place(), env, Unlock::Secret(&secret), "test").unwrap();
        let stopped = backup(&vault, &options, &progress);
        if matches!(stopped, Err(BackupError::Vault(VaultError::Store(StoreError::Busy { .. })))) && workers > 1 {
            // By this clock a worker has waited for another's lock for many minutes.
            continue;
        }
        assert!(matches!(stopped, Err(BackupError::Cancelled)), "{workers} {files_max}: {stopped:?}");
        drop(vault);

        let vault = Vault::open(place(), Env::system(2), Unlock::Secret(&secret), "test").unwrap();
        let before = vault.snapshots().unwrap();
        let partial = before.list.iter().filter(|info| info.snapshot.partial).count();
        assert_eq!((partial, before.damaged.len()), (before.list.len(), 0), "{workers} {files_max}");
        if before.list.is_empty() && workers > 1 {
            // Another worker had not yet put what it held when the end came.
            continue;
        }
        let mut done = 0;
        let partial = &before.list[0];
        let root = resolve_path(&vault, partial, b"/").unwrap();
        let mut count = |found: &WalkEntry<'_>| {
            done += u64::from(matches!(found.entry.what, What::File(_)));
            Step::Continue
        };
        walk(&vault, &root, &mut count, &mut |_| panic!("a partial snapshot is whole as far as it goes")).unwrap();
        assert!(done > 0 || workers > 1);
        let summary = run(&vault, &options);
        assert_eq!(summary.files_unchanged, done, "what was done is not read again: {summary:?}");
        let after = vault.snapshots().unwrap();
        assert!(after.list.len() == 1 && !after.list[0].snapshot.partial, "superseded by the whole one");
    }
}
