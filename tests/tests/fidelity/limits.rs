//! Folders of very many names, and folders in folders far beyond the longest path.

use std::fs;
use std::path::Path;
use std::time::Instant;

use rustix::fd::OwnedFd;
use rustix::fs::{self as sys, AtFlags, CWD, Mode, OFlags};
use twinkeep_engine::restore::RestoreOptions;
use twinkeep_tests::fidelity::place::Lab;
use twinkeep_tests::fidelity::{scale, skipped};

const FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open(path: &Path) -> OwnedFd {
    sys::openat(CWD, path, FLAGS, Mode::empty()).unwrap()
}

fn name(level: usize) -> String {
    format!("d{}", level % 10)
}

/// Makes folders in folders, with a file and a link on each tenth level.
fn nest(top: &Path, levels: usize) {
    let mut dir = open(top);
    for level in 0..levels {
        sys::mkdirat(&dir, name(level).as_str(), Mode::RWXU).unwrap();
        dir = sys::openat(&dir, name(level).as_str(), FLAGS, Mode::empty()).unwrap();
        if level % 10 == 0 {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = sys::openat(&dir, "file", flags, Mode::RUSR).unwrap();
            rustix::io::write(&file, format!("at level {level}").as_bytes()).unwrap();
            sys::symlinkat("..", &dir, "up").unwrap();
        }
    }
}

/// Whether all of it is there, looking from the top down; then removes it from the bottom up.
fn check_and_remove(top: &Path, levels: usize) {
    let mut dir = open(top);
    for level in 0..levels {
        dir = sys::openat(&dir, name(level).as_str(), FLAGS, Mode::empty()).unwrap();
        if level % 10 == 0 {
            let file = sys::openat(&dir, "file", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let mut bytes = [0; 64];
            let len = rustix::io::read(&file, &mut bytes).unwrap();
            assert_eq!(bytes[..len], *format!("at level {level}").as_bytes());
            assert_eq!(sys::readlinkat(&dir, "up", Vec::new()).unwrap().as_bytes(), b"..");
        }
    }
    remove(dir, levels);
}

fn remove(mut dir: OwnedFd, levels: usize) {
    for level in (0..levels).rev() {
        for name in ["file", "up"] {
            let _ = sys::unlinkat(&dir, name, AtFlags::empty());
        }
        dir = sys::openat(&dir, "..", FLAGS, Mode::empty()).unwrap();
        sys::unlinkat(&dir, name(level).as_str(), AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn folders_in_folders_far_beyond_the_longest_path() {
    let deepest = if scale() >= 2 { 12_000 } else { 3_000 };
    for levels in [1_000, deepest] {
        let lab = Lab::new();
        nest(&lab.source(), levels);
        let began = Instant::now();
        let first = lab.backup(&lab.cached(&lab.source()));
        assert!(first.dirs_new as usize >= levels, "{first:?}");
        let backed_up = began.elapsed();
        lab.backup(&lab.cached(&lab.source()));
        let target = lab.top.join("target");
        let root = lab.root(&lab.source());
        let restored = lab.restore(&root, &RestoreOptions::to(target.clone()));
        assert_eq!(restored.dirs as usize, levels);
        // Over what is there, removing surplus.
        let options = RestoreOptions { delete: true, verify: true, ..RestoreOptions::to(target.clone()) };
        let again = lab.restore(&root, &options);
        assert_eq!((again.deleted, again.verified as usize), (0, levels.div_ceil(10)));
        println!("{levels} levels: backup {backed_up:?}, all {:?}", began.elapsed());
        check_and_remove(&lab.source(), levels);
        check_and_remove(&target, levels);
    }
}

fn peak_rss_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn a_change_among_very_many_names_costs_little() {
    let count = if scale() >= 2 { 500_000 } else { 30_000 };
    if count < 500_000 {
        skipped("500 000 names in one folder", "TWINKEEP_TEST_SCALE is below 2; 30 000 are tried");
    }
    let lab = Lab::new();
    let source = lab.source();
    for at in 0..count {
        fs::write(source.join(format!("some name {at}")), at.to_string()).unwrap();
    }
    let timed = |what: &str, work: &dyn Fn() -> (u64, u64)| {
        let began = Instant::now();
        let (chunks, files) = work();
        println!("{count} names, {what}: {:.1?}, peak {} MiB, {chunks} {files}", began.elapsed(), peak_rss_mib());
        (chunks, files)
    };
    let backup = || {
        let done = lab.backup(&lab.cached(&source));
        (done.chunks_new, done.files_new + done.files_changed)
    };
    timed("backup: new chunks, files", &backup);
    // Time stamps must be settled before the cache believes them.
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    timed("second backup", &backup);
    let (chunks, files) = timed("third backup", &backup);
    assert!(chunks <= 8 && files == 0);
    fs::write(source.join("some name 4711"), b"changed").unwrap();
    fs::write(source.join("some new name"), b"new").unwrap();
    let (chunks, files) = timed("backup of two changes", &backup);
    assert!(chunks <= 20 && files == 2, "{chunks} new chunks");
    let target = lab.top.join("target");
    timed("restore: files, bytes", &|| {
        let done = lab.restore(&lab.root(&source), &RestoreOptions::to(target.clone()));
        (done.files_restored, done.bytes_written)
    });
    assert_eq!(fs::read_dir(&target).unwrap().count(), count + 1);
    assert_eq!(fs::read(target.join("some name 4711")).unwrap(), b"changed");
}
