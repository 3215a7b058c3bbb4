//! Whole backups in small worlds: what must not be left out, and who must not wait for ever.

use super::*;
use crate::branch;
use crate::branch::entry::What;
use crate::env::{Clock, Env, Executor, SystemClock, Threads};
use crate::files::memory::MemoryFiles;
use crate::frame::SealedFrame;
use crate::id::Kind;
use crate::id::SessionId;
use crate::index::FrameNumber;
use crate::kv::memory::MemoryKvHome;
use crate::progress::Progress;
use crate::store::{BadFrame, ChainLink, Claim, RemoteKind, Session, Settled, Store};
use crate::vault::{CreateOptions, Place, Vault};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

pub(super) fn vault(env: Env) -> (Vault, MemoryFiles) {
    let files = MemoryFiles::new();
    let place = Place { files: Arc::new(files.clone()), kv_home: Arc::new(MemoryKvHome::new()) };
    let options = CreateOptions { encrypted: false, ..CreateOptions::default() };
    (Vault::create(place, env, &options, &[]).unwrap().0, files)
}

pub(super) fn options(paths: &[&Path]) -> BackupOptions {
    let paths = paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
    BackupOptions { paths, host: "h".into(), ..BackupOptions::default() }
}

fn holds(vault: &Vault, snapshot: ChunkId, path: &Path) -> bool {
    let reader = vault.reader().unwrap();
    let mut tree = branch::snapshot(&reader, &snapshot).unwrap().tree;
    for name in path.as_os_str().as_bytes().split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        match branch::find(&reader, &tree, name).unwrap().map(|entry| entry.what) {
            Some(What::Directory(below)) => tree = below,
            found => return found.is_some(),
        }
    }
    true
}

#[test]
fn a_source_on_another_file_system_below_a_source_is_kept() {
    let (above, below) = (Path::new("/dev"), Path::new("/dev/shm"));
    let device = |path: &Path| path.metadata().map(|found| found.dev()).ok();
    if device(above).is_none() || device(below).is_none() || device(above) == device(below) {
        return;
    }
    let Ok(folder) = tempfile::tempdir_in(below) else { return };
    let file = folder.path().join("deep/file");
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    std::fs::write(&file, [1; 1000]).unwrap();
    let (vault, _) = vault(Env::system(2));
    let mut options = options(&[above, folder.path()]);
    options.filter.one_file_system = true;
    let summary = backup(&vault, &options, &Progress::silent()).unwrap();
    assert!(holds(&vault, summary.snapshot.unwrap(), &file));

    options.paths.truncate(1);
    let summary = backup(&vault, &options, &Progress::silent()).unwrap();
    assert!(!holds(&vault, summary.snapshot.unwrap(), &file));
}

#[test]
fn a_source_below_another_that_is_not_there_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (vault, _) = vault(Env::system(1));
    let options = options(&[folder.path(), &folder.path().join("none")]);
    assert_eq!(backup(&vault, &options, &Progress::silent()).unwrap().errors, 1);
}

/// Panics when asked for the `at`-th time.
struct Panicking {
    clock: SystemClock,
    left: AtomicU64,
}

impl Clock for Panicking {
    fn now(&self) -> Time {
        assert!(self.left.fetch_sub(1, Ordering::Relaxed) != 1, "planned");
        self.clock.now()
    }

    fn elapsed(&self) -> std::time::Duration {
        self.clock.elapsed()
    }
}

#[test]
fn a_worker_that_panics_leaves_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..20 {
        std::fs::write(folder.path().join(n.to_string()), [n; 1000]).unwrap();
    }
    let path = folder.path().to_owned();
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let clock = Arc::new(Panicking { clock: SystemClock::default(), left: AtomicU64::new(0) });
        let executor: Arc<dyn Executor> = Arc::new(Threads(4));
        let (vault, _) = vault(Env { clock: clock.clone(), executor, ..Env::system(4) });
        clock.left.store(16, Ordering::Relaxed);
        let run = || backup(&vault, &options(&[&path]), &Progress::silent()).is_ok();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let _ = done.send(outcome.is_err());
    });
    assert_eq!(wait.recv_timeout(std::time::Duration::from_secs(60)), Ok(true), "it panics and does not hang");
}

#[test]
fn nothing_changed_still_heals_the_parent() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 300_000];
    crate::env::Dice(7).fill(&mut bytes);
    std::fs::write(folder.path().join("file"), bytes).unwrap();
    let (vault, _) = vault(Env::system(1));
    let options = BackupOptions { skip_if_unchanged: true, ..options(&[folder.path()]) };
    let first = backup(&vault, &options, &Progress::silent()).unwrap();
    expel_leaves(&**vault.store());
    let second = backup(&vault, &options, &Progress::silent()).unwrap();
    assert!(first.snapshot.is_some() && second.snapshot.is_none() && second.parent == first.snapshot, "{second:?}");
    assert_eq!((second.unwhole, second.healed > 0), (0, true), "{second:?}");
}

/// Takes the standing of all file content.
fn expel_leaves(store: &dyn Store) {
    let frames = store.frames(FrameNumber(0), 1000).unwrap();
    let leaves: Vec<_> = frames.iter().filter(|place| place.kind == Kind::Leaf).map(BadFrame::from).collect();
    store.expel(&leaves).unwrap();
}

pub(super) type Hook = Box<dyn Fn() + Send>;

/// Does something the `at`-th time it is asked, and perhaps once more so many times later.
#[derive(Default)]
pub(super) struct Hooked {
    clock: SystemClock,
    pub hook: std::sync::Mutex<Option<(u64, Hook)>>,
    pub once_more: AtomicU64,
}

impl Clock for Hooked {
    fn now(&self) -> Time {
        let mut hook = self.hook.lock().unwrap();
        if let Some((left, _)) = &mut *hook {
            *left -= 1;
        }
        if let Some((_, run)) = hook.take_if(|(left, _)| *left == 0) {
            run();
            let later = self.once_more.swap(0, Ordering::Relaxed);
            *hook = (later > 0).then_some((later, run));
        }
        self.clock.now()
    }

    fn elapsed(&self) -> std::time::Duration {
        self.clock.elapsed()
    }
}

#[test]
fn what_is_lost_meanwhile_is_put_again_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..3 {
        std::fs::write(folder.path().join(n.to_string()), [n; 3000]).unwrap();
    }
    let mut healed = 0;
    for at in 1..24 {
        let clock = Arc::new(Hooked::default());
        let (vault, _) = vault(Env { clock: clock.clone(), ..Env::system(1) });
        let options = options(&[folder.path()]);
        backup(&vault, &options, &Progress::silent()).unwrap();
        let store = vault.store().clone();
        *clock.hook.lock().unwrap() = Some((at, Box::new(move || expel_leaves(&*store))));
        let second = backup(&vault, &options, &Progress::silent()).unwrap();
        healed += second.healed;
        assert_eq!(second.files_new + second.files_changed + second.files_unchanged, 3, "at {at}: {second:?}");
        assert_eq!(second.bytes_processed, 9000, "at {at}: {second:?}");
        clock.hook.lock().unwrap().take();
        let third = backup(&vault, &options, &Progress::silent()).unwrap();
        assert_eq!(third.unwhole, 0, "at {at}: {third:?}");
        assert!(holds(&vault, second.snapshot.unwrap(), &folder.path().join("2")));
    }
    assert!(healed > 0);
}

/// Somebody else finds damage, and more of it while everything is read anew.
#[test]
fn what_is_lost_while_all_is_read_anew_is_put_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut passes = 0;
    for (at, later) in (1..12).flat_map(|at| (1..12).map(move |later| (at, later))) {
        let clock = Arc::new(Hooked::default());
        let (vault, _) = vault(Env { clock: clock.clone(), ..Env::system(1) });
        let options = options(&[folder.path()]);
        for name in ["first", "second"] {
            std::fs::write(folder.path().join(name), name.repeat(500)).unwrap();
            backup(&vault, &options, &Progress::silent()).unwrap();
        }
        let (store, turn) = (vault.store().clone(), AtomicU64::new(0));
        let expel = move || {
            let frames = store.frames(FrameNumber(0), 1000).unwrap();
            let mut leaves = frames.iter().filter(|place| place.kind == Kind::Leaf).map(BadFrame::from);
            let lost = leaves.nth(turn.fetch_add(1, Ordering::Relaxed) as usize);
            store.expel(&lost.into_iter().collect::<Vec<_>>()).unwrap();
        };
        *clock.hook.lock().unwrap() = Some((at, Box::new(expel)));
        clock.once_more.store(later, Ordering::Relaxed);
        let third = backup(&vault, &options, &Progress::silent());
        assert!(third.is_ok(), "{at}, {later}: {third:?}");
        passes += usize::from(clock.hook.lock().unwrap().is_none());
        for name in ["first", "second"] {
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
    }
    assert!(passes > 10, "both came while it ran {passes} times");
}

#[test]
fn without_a_cache_a_young_time_vouches_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (young, old) = (folder.path().join("young"), folder.path().join("old"));
    let (vault, _) = vault(Env::system(1));
    let write = |content: u8| {
        let now = std::time::SystemTime::now();
        for (path, age) in [(&young, 0), (&old, 3600)] {
            std::fs::write(path, [content; 1000]).unwrap();
            let mtime = now - std::time::Duration::from_secs(age);
            std::fs::File::open(path).unwrap().set_modified(mtime).unwrap();
        }
        now
    };
    let now = write(1);
    backup(&vault, &options(&[folder.path()]), &Progress::silent()).unwrap();
    // Written again within one step of the file system's clock.
    std::fs::write(&young, [2; 1000]).unwrap();
    std::fs::File::open(&young).unwrap().set_modified(now).unwrap();
    let second = backup(&vault, &options(&[folder.path()]), &Progress::silent()).unwrap();
    assert_eq!((second.files_changed, second.files_unchanged), (1, 1), "{second:?}");
}

/// Somebody reads a large file, hands out what follows, and fails with a part of it himself: nobody else will ever do it.
#[test]
fn a_failure_in_the_middle_of_a_large_file_ends_the_backup() {
    use crate::files::faulty::{Call, Fault, Faults, FaultyKvHome};
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 40 << 20];
    crate::env::Dice(1).fill(&mut bytes);
    std::fs::write(folder.path().join("large"), bytes).unwrap();
    for (workers, nth) in (1..3).flat_map(|workers| (1..12).map(move |nth| (workers, nth))) {
        let faults = Faults::new();
        let kv_home = Arc::new(FaultyKvHome::new(Arc::new(MemoryKvHome::new()), faults.clone()));
        let place = Place { files: Arc::new(MemoryFiles::new()), kv_home };
        let options_of = CreateOptions { encrypted: false, ..CreateOptions::default() };
        let vault = Vault::create(place, Env::system(workers), &options_of, &[]).unwrap().0;
        let options = options(&[folder.path()]);
        // Once: what comes later would succeed.
        faults.fail_once(Call::KvRead, nth, Fault::Os(libc::EIO));
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(backup(&vault, &options, &Progress::silent()).is_err()));
        let failed = ended.recv_timeout(std::time::Duration::from_secs(60));
        assert!(failed.is_ok(), "{workers} workers, the {nth}th look into the index fails: it does not end");
    }
}

/// Says when one of two workers has ended.
struct Two {
    ended: Arc<(Mutex<usize>, Condvar)>,
}

impl Executor for Two {
    fn workers(&self) -> usize {
        2
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        Threads(2).run(&|worker| {
            job(worker);
            *self.ended.0.lock().unwrap() += 1;
            self.ended.1.notify_all();
        });
    }
}

/// A session to a host that dies: who notices is slow to say so, and the other one is only told that it failed.
struct Dying {
    inner: Box<dyn Session>,
    puts: AtomicU64,
    ended: Arc<(Mutex<usize>, Condvar)>,
}

impl Session for Dying {
    fn id(&self) -> SessionId {
        self.inner.id()
    }

    fn claim(&self, ids: &[ChunkId]) -> crate::store::Result<Vec<Claim>> {
        self.inner.claim(ids)
    }

    fn put(&self, _: SealedFrame) -> crate::store::Result<()> {
        if self.puts.fetch_add(1, Ordering::AcqRel) > 0 {
            return Err(StoreError::SessionFailed);
        }
        let ended = self.ended.0.lock().unwrap();
        let patience = std::time::Duration::from_secs(60);
        let (ended, _) = self.ended.1.wait_timeout_while(ended, patience, |ended| *ended == 0).unwrap();
        assert_eq!(*ended, 1, "the other worker fails meanwhile");
        Err(StoreError::Remote { kind: RemoteKind::Unreachable, problem: "the connection is gone".into() })
    }

    fn checkpoint(&self) -> crate::store::Result<()> {
        self.inner.checkpoint()
    }

    fn settle(&self, root: ChunkId) -> crate::store::Result<Settled> {
        self.inner.settle(root)
    }

    fn publish(&self, settled: Settled, make: &dyn Fn(ChainLink) -> Vec<u8>) -> crate::store::Result<ChainLink> {
        self.inner.publish(settled, make)
    }

    fn written_len(&self) -> u64 {
        self.inner.written_len()
    }

    fn healed(&self) -> Vec<ChunkId> {
        self.inner.healed()
    }
}

/// What one worker met counts, not that others could not go on.
#[test]
fn the_reason_of_a_failure_is_told_whoever_is_first_to_say_so() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d"] {
        let mut bytes = vec![0; 8 << 20];
        crate::env::Dice(u64::from(name.as_bytes()[0])).fill(&mut bytes);
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let ended = Arc::new((Mutex::new(0), Condvar::new()));
    let executor: Arc<dyn Executor> = Arc::new(Two { ended: ended.clone() });
    let (vault, _) = vault(Env { executor, ..Env::system(2) });
    let session = Dying { inner: vault.store().begin().unwrap(), puts: AtomicU64::new(0), ended };
    let (options, progress) = (options(&[folder.path()]), Progress::silent());
    let seal = vault.seal_keys(session.id());
    let run = run::Run::new(&vault, &options, &progress).unwrap();
    let failed = run.walk(&session, &seal, None, false, &run::begin_at_root, None).unwrap_err();
    assert_eq!(failed.class(), crate::vault::ErrorClass::Unreachable, "{failed}");
}
