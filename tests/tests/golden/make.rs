//! How the fixtures were made. Names, keys and times repeat, inode numbers and encapsulated keys do not: a fixture
//! made anew has other bytes, so it is made only for a new format version, beside the old ones.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use twinkeep_engine::backup::{BackupError, BackupOptions, backup};
use twinkeep_engine::chunk::CutParams;
use twinkeep_engine::crypto::VaultKeys;
use twinkeep_engine::env::{Clock, Dice, Env, Inline, ManualClock, SeededEntropy, Time};
use twinkeep_engine::files::os::OsFiles;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::query::{Step, TreeRoot, walk};
use twinkeep_engine::vault::keyring::{KEYRING_PATH, Keyring, PasswordCost};
use twinkeep_engine::vault::twin;
use twinkeep_engine::vault::{CreateOptions, Place, Unlock, Vault};

use crate::manifest::{self, Expected};
use crate::{BASE, PASSWORD};

/// 2026-11-01T00:00:00Z.
const BEGIN: i64 = 1_793_491_200;

/// An environment that repeats.
fn env(seed: u64, clock: Arc<dyn Clock>) -> Env {
    Env { clock, entropy: Arc::new(SeededEntropy::new(seed)), executor: Arc::new(Inline) }
}

/// The vault with a password, two generations of keys and three snapshots, in `folder/vault`.
pub fn encrypted(folder: &Path) {
    let base = fresh_base();
    make_docs(&base);
    make_long_lists(&base);
    make_part(&base);
    settle_times(&base);
    let clock = Arc::new(ManualClock::new(Time(BEGIN * 1_000_000_000)));
    let place = || Place::folder(&folder.join("vault"));
    let cut = CutParams::new(256, 1024, 4096, 2).unwrap();
    let options = CreateOptions { cut, level: 9, ..CreateOptions::default() };
    fs::create_dir_all(folder.join("vault")).unwrap();
    let (vault, secret) = Vault::create(place(), env(1, clock.clone()), &options, &[]).unwrap();
    // A slot that opens in no time, made by hand.
    let (id, now) = (vault.id(), clock.now());
    let entropy = SeededEntropy::new(2);
    let mut keys = VaultKeys::derive(&secret, id);
    let mut keyring = Keyring::new(&keys, now);
    let cost = PasswordCost { memory_kib: 64, passes: 1, lanes: 1 };
    keyring.add_password_slot(&secret, PASSWORD, cost, "golden", now, &entropy).unwrap();
    drop(vault);
    let files = OsFiles::new(folder.join("vault"));
    twin::store(&files, KEYRING_PATH, &keyring.encode(2, now, &keys)).unwrap();
    fs::write(folder.join("words"), format!("{}\n", *secret.words())).unwrap();

    let mut all = Vec::new();
    let open = |seed, clock: Arc<dyn Clock>| {
        Vault::open(place(), env(seed, clock), Unlock::Password(PASSWORD), "golden").unwrap()
    };
    run(&open(3, clock.clone()), &base);
    all.push(Expected { name: "all".into(), entries: below(&base, "") });

    // The next sessions wrap their data keys to another key pair.
    clock.advance(Duration::from_secs(86_400));
    keyring.rotate(&mut keys, clock.now(), &entropy).unwrap();
    twin::store(&files, KEYRING_PATH, &keyring.encode(3, clock.now(), &keys)).unwrap();
    fs::write(base.join("docs/note"), "changed since").unwrap();
    fs::remove_file(base.join("docs/empty")).unwrap();
    settle_times(&base);
    run(&open(4, clock.clone()), &base.join("docs"));
    all.push(Expected { name: "docs".into(), entries: below(&base, "docs") });

    clock.advance(Duration::from_secs(86_400));
    let progress = Progress::silent();
    let hurry = Hurry { now: clock.now(), progress: progress.clone() };
    let vault = open(5, Arc::new(hurry));
    let stopped = backup(&vault, &options_of(&base.join("part")), &progress);
    assert!(matches!(stopped, Err(BackupError::Cancelled)), "{stopped:?}");
    let partial = vault.snapshots().unwrap().list.pop().unwrap();
    assert!(partial.snapshot.partial);
    // Which files it has only the vault knows; what they are, the file system.
    let mut there = Vec::new();
    let mut visit = |found: &twinkeep_engine::query::WalkEntry<'_>| {
        there.push(found.path.to_vec());
        Step::Continue
    };
    walk(&vault, &TreeRoot::whole(&partial), &mut visit, &mut |_| panic!("damage in a new vault")).unwrap();
    let mut entries = below(&base, "part");
    entries.retain(|path, _| there.contains(&[BASE.as_bytes(), b"/", &path[..]].concat()));
    all.push(Expected { name: "partial".into(), entries });
    manifest::write(&folder.join("manifest"), &all);
    drop(vault);
    forget_what_is_made_anew(folder);
}

/// A vault without encryption with one snapshot.
pub fn plain(folder: &Path) {
    unencrypted(folder, CutParams::new(64, 512, 2048, 1).unwrap());
}

/// The same, but that what looks random is cut sixteen times as coarsely.
pub fn coarse(folder: &Path) {
    unencrypted(folder, CutParams::new(64, 512, 2048, 1).unwrap().with_coarse(4).unwrap());
}

fn unencrypted(folder: &Path, cut: CutParams) {
    let base = fresh_base();
    make_docs(&base);
    settle_times(&base);
    let clock = Arc::new(ManualClock::new(Time(BEGIN * 1_000_000_000)));
    let options = CreateOptions { encrypted: false, level: 3, cut, ..CreateOptions::default() };
    let vault_folder = folder.join("vault");
    fs::create_dir_all(&vault_folder).unwrap();
    let (vault, _) = Vault::create(Place::folder(&vault_folder), env(6, clock), &options, &[]).unwrap();
    run(&vault, &base);
    let all = [Expected { name: "docs".into(), entries: below(&base, "") }];
    manifest::write(&folder.join("manifest"), &all);
    drop(vault);
    forget_what_is_made_anew(folder);
}

fn forget_what_is_made_anew(folder: &Path) {
    for part in ["index", "locks", "sessions"] {
        fs::remove_dir_all(folder.join("vault").join(part)).unwrap();
    }
    fs::remove_dir_all(BASE).unwrap();
}

fn options_of(path: &Path) -> BackupOptions {
    BackupOptions {
        paths: vec![path.as_os_str().as_bytes().to_vec()],
        host: "golden".into(),
        user: "ann".into(),
        tags: vec!["tag".into()],
        with_atime: path.ends_with("docs"),
        program: "twinkeep fixtures".into(),
        ..BackupOptions::default()
    }
}

fn run(vault: &Vault, path: &Path) {
    let summary = backup(vault, &options_of(path), &Progress::silent()).unwrap();
    assert_eq!(summary.errors, 0);
}

/// What the file system has at `folder` below the base, with the folder itself.
fn below(base: &Path, folder: &str) -> manifest::Entries {
    let mut entries = manifest::of_folder(base);
    let inside = format!("{folder}/");
    entries.retain(|path, _| folder.is_empty() || path == folder.as_bytes() || path.starts_with(inside.as_bytes()));
    entries
}

/// A clock that jumps over the time of a checkpoint after some files, and asks the run to stop after some more.
struct Hurry {
    now: Time,
    progress: Arc<Progress>,
}

impl Clock for Hurry {
    fn now(&self) -> Time {
        self.now
    }

    fn elapsed(&self) -> Duration {
        let done = self.progress.files_done.load(Ordering::Relaxed);
        if done > 32 {
            self.progress.cancel();
        }
        Duration::from_secs(if done > 20 { 600 } else { 0 })
    }
}

fn fresh_base() -> PathBuf {
    let base = PathBuf::from(BASE);
    let _ = fs::remove_dir_all(&base);
    fs::create_dir_all(&base).unwrap();
    base
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Dice(seed).fill(&mut bytes);
    bytes
}

/// Content of a file that all fixtures have.
pub fn long_noise() -> Vec<u8> {
    noise(11, 60_000)
}

/// Every kind of file there is.
fn make_docs(base: &Path) {
    let docs = base.join("docs");
    fs::create_dir_all(docs.join("deep/er")).unwrap();
    fs::create_dir(docs.join("no files")).unwrap();
    fs::write(docs.join("empty"), "").unwrap();
    fs::write(docs.join("note"), "kept in the entry").unwrap();
    fs::write(docs.join("one leaf"), "words that compress, ".repeat(12)).unwrap();
    fs::write(docs.join("deep/pieces"), noise(10, 9_000)).unwrap();
    fs::write(docs.join("deep/er/long"), long_noise()).unwrap();
    fs::write(docs.join(manifest::os(b"not utf-8 \xff\xfe")), noise(12, 700)).unwrap();
    fs::write(docs.join("control\n\x1b[31m"), "x").unwrap();
    fs::hard_link(docs.join("deep/pieces"), docs.join("second name")).unwrap();
    std::os::unix::fs::symlink("deep/pieces", docs.join("link")).unwrap();
    std::os::unix::fs::symlink(manifest::os(b"../nowhere \xfa"), docs.join("dangling")).unwrap();
    let holes = fs::File::create(docs.join("holes")).unwrap();
    holes.write_all_at(&noise(13, 4096), 1 << 20).unwrap();
    holes.set_len(3 << 20).unwrap();
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, docs.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("pipe", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 1000));
    let set = |path: &Path, name, value: &[u8]| rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
    set(&docs.join("note"), "user.note", b"an attribute \x00\xff");
    set(&docs.join("note"), "user.empty", b"");
    set(&docs.join("deep"), "user.note", b"of a folder");
    let modes = [("note", 0o600), ("one leaf", 0o4755), ("deep", 0o1777), ("empty", 0o000)];
    for (name, mode) in modes {
        fs::set_permissions(docs.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
}

/// A folder and a file whose lists have inner nodes.
fn make_long_lists(base: &Path) {
    fs::create_dir(base.join("many")).unwrap();
    for name in 0..2_100 {
        fs::write(base.join(format!("many/{name:04}")), "").unwrap();
    }
    let file = fs::File::create(base.join("many pieces")).unwrap();
    for stretch in 0..1_100 {
        file.write_all_at(&noise(14, 4096), stretch * 8192).unwrap();
    }
}

/// Folders for the run that is stopped.
fn make_part(base: &Path) {
    for folder in 0..8 {
        fs::create_dir_all(base.join(format!("part/{folder}"))).unwrap();
        for file in 0..6 {
            fs::write(base.join(format!("part/{folder}/{file}")), noise(100 + folder * 10 + file, 400)).unwrap();
        }
    }
}

/// Gives everything a time of its own that follows from its path, before 1970 for some.
fn settle_times(base: &Path) {
    let entries = manifest::of_folder(base);
    // Backwards: what is in a folder before the folder.
    for path in entries.keys().rev() {
        let mut hash = [0; 8];
        hash.copy_from_slice(&blake3::hash(path).as_bytes()[..8]);
        let dice = Dice(u64::from_le_bytes(hash)).throw();
        let secs = if path.ends_with(b"link") { -7 } else { BEGIN - (dice % 100_000_000) as i64 };
        let moment = Timespec { tv_sec: secs, tv_nsec: (dice % 1_000_000_000) as _ };
        let times = Timestamps { last_access: moment, last_modification: moment };
        rustix::fs::utimensat(CWD, base.join(manifest::os(path)), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}
