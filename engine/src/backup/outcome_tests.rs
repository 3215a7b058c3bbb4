//! Huge folders, whose branches are begun while names are still being worked on: they become what they would have
//! become at once.

use super::outcome::{AHEAD_LEN, Outcomes, Slot};
use super::tests::{Hooked, options, vault};
use super::*;
use crate::branch::entry::{Entry, Metadata, What};
use crate::branch::{self, DirectoryReader};
use crate::cache::CachedStat;
use crate::env::{Clock, Env, SystemClock};
use crate::limits::CHECKPOINT_SECS;
use crate::progress::Progress;
use crate::vault::Vault;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const NAMES: usize = 2 * AHEAD_LEN + 1500;

/// Ten seconds ahead, so that what was just made is old enough; each look at `elapsed` takes `step` seconds.
#[derive(Default)]
struct Ahead {
    clock: SystemClock,
    step: u64,
    elapsed: AtomicU64,
}

impl Clock for Ahead {
    fn now(&self) -> Time {
        Time(self.clock.now().0 + 10_000_000_000)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.elapsed.fetch_add(self.step, Ordering::Relaxed))
    }
}

fn env(workers: usize, step: u64) -> Env {
    Env { clock: Arc::new(Ahead { step, ..Ahead::default() }), ..Env::system(workers) }
}

/// A folder of many short files and some longer ones, with a folder before, among and after them.
fn huge() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..NAMES {
        let len = if n % 100 == 7 { 400 } else { n % 20 };
        std::fs::write(folder.path().join(file(n)), vec![n as u8; len]).unwrap();
    }
    for below in ["a", &format!("{}d", file(NAMES / 2)), "z"] {
        std::fs::create_dir(folder.path().join(below)).unwrap();
        std::fs::write(folder.path().join(below).join("deep"), below).unwrap();
    }
    folder
}

fn file(n: usize) -> String {
    format!("n{n:06}")
}

fn tree(vault: &Vault, summary: &BackupSummary, path: &Path) -> ChunkId {
    tree_of(vault, summary.snapshot.unwrap(), path).unwrap()
}

fn tree_of(vault: &Vault, snapshot: ChunkId, path: &Path) -> Option<ChunkId> {
    let reader = vault.reader().unwrap();
    let mut tree = branch::snapshot(&reader, &snapshot).unwrap().tree;
    for name in path.as_os_str().as_bytes().split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        let What::Directory(below) = branch::find(&reader, &tree, name).unwrap()?.what else { return None };
        tree = below;
    }
    Some(tree)
}

fn entries(vault: &Vault, tree: &ChunkId) -> Vec<Entry> {
    let reader = vault.reader().unwrap();
    DirectoryReader::new(&reader, tree).unwrap().map(|entry| entry.unwrap()).collect()
}

fn new(n: usize) -> Slot {
    let name = file(n).into_bytes().into();
    Slot::New(Box::new(Entry { name, meta: Metadata::default(), what: What::Fifo }), CachedStat::NEVER)
}

#[test]
fn entries_are_taken_from_the_front_and_once() {
    let outcomes = Outcomes::default();
    outcomes.expect(NAMES);
    assert!(outcomes.are_many());
    let mut next = 0;
    let mut check = |set: Vec<(usize, Slot)>, is_time: bool, taken: &[usize], now_at: usize| {
        assert_eq!(outcomes.set(set), is_time);
        let names: Vec<_> = outcomes.take_front(&mut next).into_iter().map(|entry| entry.name).collect();
        let expected: Vec<Box<[u8]>> = taken.iter().map(|n| file(*n).into_bytes().into()).collect();
        assert_eq!((names, next), (expected, now_at));
    };
    check(vec![], false, &[], 0);
    check(vec![(1, new(1))], false, &[], 0);
    check(vec![(0, new(0))], false, &[0, 1], 2);
    check(vec![(2, Slot::Gone), (3, new(3)), (5, new(5))], false, &[3], 4);
    // What is as before stays, and all that comes after it.
    check(vec![(4, new(4)), (6, Slot::Same(CachedStat::NEVER))], false, &[4, 5], 6);
    check((7..AHEAD_LEN).map(|n| (n, new(n))).collect(), true, &[], 6);
    check(vec![(AHEAD_LEN, new(AHEAD_LEN))], false, &[], 6);
}

#[test]
fn a_huge_folder_is_the_list_of_its_entries() {
    let folder = huge();
    for workers in [1, 3] {
        let (vault, _) = vault(env(workers, 0));
        let summary = backup(&vault, &options(&[folder.path()]), &Progress::silent()).unwrap();
        let tree = tree(&vault, &summary, folder.path());
        let entries = entries(&vault, &tree);
        assert_eq!(entries.len(), NAMES + 3);
        let keys = vault.keys();
        let mut put = |branch: branch::EncodedBranch| Ok(keys.branch_id(&branch.refs, &branch.payload));
        let whole = branch::write_directory::<BranchError>(entries, &|bytes| keys.list_split(bytes), &mut put).unwrap();
        assert_eq!(tree, whole, "{workers} workers");
    }
}

#[test]
fn what_changed_in_a_huge_folder_is_as_if_all_were_new() {
    let folder = huge();
    let cache = tempfile::tempdir().unwrap();
    let (vault, _) = vault(env(2, 0));
    let known = BackupOptions { cache_dir: Some(cache.path().into()), ..options(&[folder.path()]) };
    let forced = BackupOptions { force: true, ..options(&[folder.path()]) };
    let run = |options: &BackupOptions| backup(&vault, options, &Progress::silent()).unwrap();
    let check = |changed: usize, removed: usize| {
        let before = run(&known);
        let unchanged = run(&known);
        assert_eq!(tree(&vault, &before, folder.path()), tree(&vault, &unchanged, folder.path()));
        let files = before.files_new + before.files_changed + before.files_unchanged;
        assert_eq!(unchanged.files_unchanged, files, "{unchanged:?}");
        (0..changed).for_each(|n| std::fs::write(folder.path().join(file(n)), "changed").unwrap());
        (0..removed).for_each(|n| std::fs::remove_file(folder.path().join(file(NAMES - 1 - n))).unwrap());
        let after = run(&known);
        assert_eq!(after.files_changed as usize, changed, "{after:?}");
        assert_eq!(tree(&vault, &after, folder.path()), tree(&vault, &run(&forced), folder.path()));
        (0..changed).for_each(|n| std::fs::write(folder.path().join(file(n)), "again").unwrap());
        (0..removed).for_each(|n| std::fs::write(folder.path().join(file(NAMES - 1 - n)), "back").unwrap());
    };
    check(1, 0);
    check(AHEAD_LEN + 1000, 2);
    check(NAMES, 0);
}

#[test]
fn an_old_listing_lost_after_the_branch_was_begun_has_everything_read_again() {
    let folder = huge();
    let cache = tempfile::tempdir().unwrap();
    let options = BackupOptions { cache_dir: Some(cache.path().into()), ..options(&[folder.path()]) };
    let clock = Arc::new(Hooked::default());
    let (vault, files) = vault(Env { clock: clock.clone(), ..Env::system(1) });
    // What is older than two seconds is remembered.
    std::thread::sleep(Duration::from_millis(2_100));
    backup(&vault, &options, &Progress::silent()).unwrap();
    (0..AHEAD_LEN + 1000).for_each(|n| std::fs::write(folder.path().join(file(n)), "changed").unwrap());
    let packs: Vec<_> = files.paths().into_iter().filter(|path| path.starts_with("packs/")).collect();
    assert!(!packs.is_empty());
    let damage = move || packs.iter().for_each(|path| assert!(files.damage(path, |bytes| bytes.fill(7))));
    *clock.hook.lock().unwrap() = Some((AHEAD_LEN as u64 + 500, Box::new(damage)));
    let summary = backup(&vault, &options, &Progress::silent()).unwrap();
    // Those that had been as before were looked at twice, and the second time nothing was known of any.
    assert_eq!((summary.files_changed as usize, summary.errors), (AHEAD_LEN + 1000, 0), "{summary:?}");
    assert_eq!(summary.files_new as usize, NAMES, "{summary:?}");
    let forced = BackupOptions { force: true, ..options };
    let again = backup(&vault, &forced, &Progress::silent()).unwrap();
    assert_eq!(tree(&vault, &summary, folder.path()), tree(&vault, &again, folder.path()));
}

#[test]
fn a_checkpoint_has_what_is_written_and_what_is_not() {
    let folder = huge();
    for workers in [1, 2] {
        let (vault, _) = vault(env(workers, CHECKPOINT_SECS / 3));
        let summary = backup(&vault, &options(&[folder.path()]), &Progress::silent()).unwrap();
        let all = entries(&vault, &tree(&vault, &summary, folder.path()));
        let all: BTreeMap<_, _> = all.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        let snapshots = vault.snapshots().unwrap();
        let mut lens = Vec::new();
        for partial in &snapshots.superseded {
            let Some(tree) = tree_of(&vault, partial.id, folder.path()) else { continue };
            let so_far = entries(&vault, &tree);
            let is_done =
                |entry: &Entry| matches!(entry.what, What::Directory(_)) || all.get(&entry.name) == Some(entry);
            assert!(so_far.iter().all(is_done), "{workers} workers");
            lens.push(so_far.len());
        }
        assert!(lens.iter().any(|len| (AHEAD_LEN + 1..NAMES).contains(len)), "{workers} workers: {lens:?}");
    }
}
