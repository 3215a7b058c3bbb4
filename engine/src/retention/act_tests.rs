//! Retention of a small vault whose clock the test holds.

use super::*;
use crate::backup::{BackupOptions, backup};
use crate::env::{Clock, Env, Inline, ManualClock, SeededEntropy, Time};
use crate::files::memory::MemoryFiles;
use crate::history::{DAY, RefState, Refusal};
use crate::kv::memory::MemoryKvHome;
use crate::progress::Progress;
use crate::vault::{CreateOptions, ErrorClass, Place, SnapshotInfo, Unlock, Vault};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A clock by hand whose second hand may race.
struct Racing {
    wall: ManualClock,
    step_secs: AtomicU64,
    elapsed: AtomicU64,
}

impl Clock for Racing {
    fn now(&self) -> Time {
        self.wall.now()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.elapsed.fetch_add(self.step_secs.load(Ordering::Relaxed), Ordering::Relaxed))
    }
}

struct World {
    vault: Vault,
    place: Place,
    env: Env,
    clock: Arc<Racing>,
    files: MemoryFiles,
    source: tempfile::TempDir,
}

impl World {
    fn new(retention_days_min: u32) -> Self {
        let start = Time(1_795_348_800_000_000_000);
        let clock = Arc::new(Racing {
            wall: ManualClock::new(start),
            step_secs: AtomicU64::new(0),
            elapsed: AtomicU64::new(0),
        });
        let env = Env { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(1)), executor: Arc::new(Inline) };
        let files = MemoryFiles::new();
        let place = Place { files: Arc::new(files.clone()), kv_home: Arc::new(MemoryKvHome::new()) };
        let options = CreateOptions { encrypted: false, retention_days_min, ..CreateOptions::default() };
        let vault = Vault::create(place.clone(), env.clone(), &options, &[]).unwrap().0;
        let source = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::create_dir(source.path().join(name)).unwrap();
            std::fs::write(source.path().join(name).join("file"), name).unwrap();
        }
        Self { vault, place, env, clock, files, source }
    }

    fn pass(&self, days: u64) {
        self.clock.wall.advance(Duration::from_secs(days * 86_400));
    }

    /// A backup; its record.
    fn backup(&self, tags: &[&str]) -> u64 {
        let path = self.source.path().to_str().unwrap().as_bytes().to_vec();
        let tags = tags.iter().map(|&tag| tag.into()).collect();
        let options = BackupOptions { paths: vec![path], host: "h".into(), tags, ..BackupOptions::default() };
        let id = backup(&self.vault, &options, &Progress::silent()).unwrap().snapshot.unwrap();
        let history = self.vault.history().unwrap();
        history.refs.values().find(|entry| entry.reference.target == id).unwrap().count
    }

    /// One backup a day, and half a day after the last.
    fn daily(retention_days_min: u32, count: usize) -> (Self, Vec<u64>) {
        let world = Self::new(retention_days_min);
        let records = (0..count).map(|_| {
            world.pass(1);
            world.backup(&[])
        });
        let records = records.collect();
        world.clock.wall.advance(Duration::from_secs(43_200));
        (world, records)
    }

    fn listed(&self) -> Vec<u64> {
        let snapshots = self.vault.snapshots().unwrap();
        assert!(snapshots.damaged.is_empty(), "{:?}", snapshots.damaged);
        snapshots.list.iter().map(|info| info.record).collect()
    }

    fn forgotten(&self) -> Vec<u64> {
        self.vault.snapshots().unwrap().forgotten.iter().map(|info| info.record).collect()
    }

    fn keep_last(&self, count: u32) -> Result<Planned, RetentionError> {
        let rules = vec![Rule { period: Period::Snapshot, limit: Limit::Count(count) }];
        self.by(&Policy { rules, tags: Vec::new() })
    }

    fn by(&self, policy: &Policy) -> Result<Planned, RetentionError> {
        let selection = Selection { policy, group_by: GroupBy::default(), admits: &|_| true };
        forget_by_policy(&self.vault, &selection, &Utc, "forget")
    }

    fn records(&self) -> usize {
        self.vault.store().records().unwrap().len()
    }
}

#[test]
fn what_was_forgotten_comes_back_until_it_is_purged() {
    let (world, all) = World::daily(0, 4);
    let planned = world.keep_last(2).unwrap();
    assert_eq!(planned.forgets(), all[..2]);
    assert_eq!((world.listed(), world.forgotten()), (all[2..].to_vec(), all[..2].to_vec()));
    assert_eq!(undelete(&world.vault, &all).unwrap(), all[..2]);
    assert_eq!(undelete(&world.vault, &all).unwrap(), []);
    assert_eq!(world.listed(), all);

    world.keep_last(3).unwrap();
    world.pass(1);
    world.keep_last(2).unwrap();
    assert_eq!(purge(&world.vault).unwrap(), []);
    world.pass(6);
    assert_eq!(purge(&world.vault).unwrap(), all[..1]);
    assert_eq!(world.forgotten(), all[1..2]);
    let error = undelete(&world.vault, &all[..2]).unwrap_err();
    assert!(matches!(error, RetentionError::Refused { refusal: Refusal::Purged, .. }), "{error}");
    assert_eq!(world.forgotten(), all[1..2]);
    world.pass(1);
    assert_eq!(purge(&world.vault).unwrap(), all[1..2]);
    assert_eq!(purge(&world.vault).unwrap(), []);
    assert_eq!((world.listed(), world.forgotten()), (all[2..].to_vec(), vec![]));
    assert_eq!(world.vault.history().unwrap().refs[&all[0]].state, RefState::Purged);
}

#[test]
fn nothing_is_said_where_nothing_follows() {
    let (world, all) = World::daily(0, 3);
    let before = world.records();
    world.keep_last(3).unwrap();
    unpin(&world.vault, &all).unwrap();
    undelete(&world.vault, &all).unwrap();
    purge(&world.vault).unwrap();
    tag(&world.vault, &all, &TagEdit::Set(vec![])).unwrap();
    confirm_clock(&world.vault).unwrap();
    lengthen(&world.vault, 0).unwrap();
    assert_eq!(world.records(), before);
    forget(&world.vault, &all[..1], "").unwrap();
    forget(&world.vault, &all[..1], "").unwrap();
    assert_eq!(world.records(), before + 1);
}

#[test]
fn pins_hold_against_policies_and_people() {
    let (world, all) = World::daily(0, 4);
    assert_eq!(pin(&world.vault, &all[..1]).unwrap(), all[..1]);
    assert_eq!(pin(&world.vault, &all[..2]).unwrap(), all[1..2]);
    world.keep_last(1).unwrap();
    assert_eq!(world.listed(), [all[0], all[1], all[3]]);
    let error = forget(&world.vault, &[all[3], all[1]], "").unwrap_err();
    assert!(matches!(error, RetentionError::Refused { refusal: Refusal::Pinned, .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::NotAllowed);
    assert_eq!(world.listed(), [all[0], all[1], all[3]]);
    assert_eq!(unpin(&world.vault, &all[..1]).unwrap(), all[..1]);
    world.keep_last(1).unwrap();
    assert_eq!(world.listed(), [all[1], all[3]]);
    // What is forgotten can still be pinned, and is not purged then.
    pin(&world.vault, &all[..1]).unwrap();
    world.pass(8);
    assert_eq!(purge(&world.vault).unwrap(), [all[2]]);
}

#[test]
fn the_minimum_retention_holds_and_grows() {
    let (world, all) = World::daily(3, 6);
    world.keep_last(1).unwrap();
    assert_eq!(world.listed(), all[3..]);
    let error = forget(&world.vault, &all[3..4], "").unwrap_err();
    assert!(error.to_string().contains("minimum retention of 3 days"), "{error}");
    lengthen(&world.vault, 30).unwrap();
    assert!(matches!(lengthen(&world.vault, 29), Err(RetentionError::Shorter { now: 30, wanted: 29 })));
    assert!(matches!(lengthen(&world.vault, 40_000), Err(RetentionError::Bound(_))));
    world.pass(9);
    world.keep_last(1).unwrap();
    assert_eq!(world.listed(), all[3..], "the longer one holds");
    assert_eq!(purge(&world.vault).unwrap(), [], "for what was forgotten before, too");
    world.pass(20);
    assert_eq!(purge(&world.vault).unwrap(), all[..3]);
    // A vault that is opened again knows it.
    let again = Vault::open(world.place.clone(), world.env.clone(), Unlock::Nothing, "again").unwrap();
    assert_eq!(again.history().unwrap().retention_days_min, 30);
}

#[test]
fn a_clock_in_doubt_stops_everything_until_it_is_confirmed() {
    for (hours, is_jump) in [(-12, false), (-48, true), (30 * 24, false), (32 * 24, true), (24 * 4000, true)] {
        let (world, all) = World::daily(1, 3);
        forget(&world.vault, &all[..1], "").unwrap();
        let now = world.clock.now();
        world.clock.wall.set(Time(now.0 + hours * DAY / 24));
        let before = world.records();
        let ended = [
            world.keep_last(1).map(drop),
            forget(&world.vault, &all[..1], ""),
            forget(&world.vault, &[], ""),
            // What is forgotten is due in time, and then a purge is refused; before, there is none.
            purge(&world.vault).map(drop),
        ];
        for (at, ended) in ended.into_iter().enumerate() {
            let is_refused = match ended {
                Ok(()) => false,
                Err(RetentionError::Clock(jumps)) => {
                    assert_eq!((jumps[0].to, jumps.len()), (world.clock.now(), 1));
                    true
                }
                Err(error) => panic!("{hours}: {error}"),
            };
            let expected = is_jump && (at < 3 || hours > 0);
            assert_eq!(is_refused, expected, "{hours} hours, {at}");
        }
        if is_jump {
            assert_eq!(world.records(), before, "{hours}");
            // Backups go on, and the jump stays one.
            world.backup(&[]);
            assert!(matches!(world.keep_last(1), Err(RetentionError::Clock(_))));
            assert_eq!(confirm_clock(&world.vault).unwrap().len(), 1);
            assert_eq!(confirm_clock(&world.vault).unwrap(), []);
            world.keep_last(1).unwrap();
        }
    }
}

#[test]
fn what_a_writer_claims_of_its_time_does_not_count() {
    let world = World::new(0);
    let path = world.source.path().to_str().unwrap().as_bytes().to_vec();
    // Snapshots that claim to be of a hundred years from now, and of long ago.
    for days in [0, 36_500, 36_501, -20_000] {
        world.pass(1);
        let time = Some(Time(world.clock.now().0 + days * DAY));
        let options = BackupOptions { paths: vec![path.clone()], time, ..BackupOptions::default() };
        backup(&world.vault, &options, &Progress::silent()).unwrap();
    }
    let rules = vec![Rule { period: Period::Day, limit: Limit::Count(2) }];
    world.by(&Policy { rules, tags: Vec::new() }).unwrap();
    let claimed = |info: &SnapshotInfo| (info.snapshot.time.0 - info.received.0) / DAY;
    let kept: Vec<i64> = world.vault.snapshots().unwrap().list.iter().map(claimed).collect();
    assert_eq!(kept, [36_501, -20_000]);
}

#[test]
fn replaced_checkpoints_go_at_once() {
    let world = World::new(30);
    world.clock.step_secs.store(400, Ordering::Relaxed);
    world.backup(&[]);
    world.clock.step_secs.store(0, Ordering::Relaxed);
    let partial: Vec<u64> = world.vault.snapshots().unwrap().superseded.iter().map(|info| info.record).collect();
    assert!(!partial.is_empty());
    let planned = world.keep_last(1).unwrap();
    assert_eq!((planned.superseded.clone(), planned.forgets()), (partial.clone(), partial.clone()));
    assert_eq!(purge(&world.vault).unwrap(), partial);
    assert_eq!(world.listed().len(), 1);
}

#[test]
fn tags_are_edited() {
    let (world, _) = World::daily(0, 0);
    let all = [world.backup(&["a", "b"]), world.backup(&["c"])];
    let check = |edit: TagEdit, changed: &[u64], first: &[&str], second: &[&str]| {
        assert_eq!(tag(&world.vault, &all, &edit).unwrap(), changed, "{edit:?}");
        let list = world.vault.snapshots().unwrap().list;
        assert_eq!((&list[0].snapshot.tags[..], &list[1].snapshot.tags[..]), (&owned(first)[..], &owned(second)[..]));
    };
    let change = |add: &[&str], remove: &[&str]| TagEdit::Change { add: owned(add), remove: owned(remove) };
    check(change(&["c"], &[]), &all[..1], &["a", "b", "c"], &["c"]);
    check(change(&[], &["a", "x"]), &all[..1], &["b", "c"], &["c"]);
    check(change(&["x"], &["x", "c"]), &all, &["b", "x"], &["x"]);
    check(TagEdit::Set(owned(&["x", "z"])), &all, &["x", "z"], &["x", "z"]);
    check(TagEdit::Set(owned(&["x", "z"])), &[], &["x", "z"], &["x", "z"]);
    let many = (0..300).map(|number| number.to_string()).collect();
    let error = tag(&world.vault, &all, &TagEdit::Set(many)).unwrap_err();
    assert!(matches!(error, RetentionError::Bound(_)), "{error}");
    assert!(matches!(tag(&world.vault, &[99], &change(&["q"], &[])), Err(RetentionError::NoSnapshot(99))));
    // A policy sees the tags of now.
    let policy = Policy { rules: Vec::new(), tags: vec![owned(&["z", "x"])] };
    assert_eq!(world.by(&policy).unwrap().forgets(), []);
    assert!(world.by(&Policy { rules: Vec::new(), tags: vec![owned(&["a"])] }).is_err());
    assert_eq!(world.listed(), all);
}

fn owned(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|&tag| tag.to_owned()).collect()
}

#[test]
fn a_record_that_cannot_be_read_stops_policies_and_purges() {
    let (world, all) = World::daily(0, 3);
    pin(&world.vault, &all[..1]).unwrap();
    forget(&world.vault, &all[1..2], "").unwrap();
    let name = format!("records/{:016x}", all[2] + 1);
    crate::files::Files::remove(&world.files, &name).unwrap();
    world.pass(8);
    let errors = [world.keep_last(1).map(drop), purge(&world.vault).map(drop)];
    for error in errors {
        assert!(matches!(error, Err(RetentionError::Unreadable(_))), "{error:?}");
    }
    // Who names a snapshot knows what they want.
    forget(&world.vault, &all[2..], "").unwrap();
}

#[test]
fn who_forgets_decides_again_when_the_vault_has_changed() {
    let (world, all) = World::daily(0, 3);
    // Whoever looks is shown a vault to which a pin comes before they say anything.
    let pinned = std::cell::Cell::new(0);
    let admits = |info: &SnapshotInfo| {
        if pinned.get() < 2 && info.record == all[pinned.get()] {
            pinned.set(pinned.get() + 1);
            pin(&world.vault, &[info.record]).unwrap();
        }
        true
    };
    let policy = Policy { rules: vec![Rule { period: Period::Snapshot, limit: Limit::Count(1) }], tags: Vec::new() };
    let selection = Selection { policy: &policy, group_by: GroupBy::default(), admits: &admits };
    assert_eq!(forget_by_policy(&world.vault, &selection, &Utc, "").unwrap().forgets(), []);
    assert_eq!(world.listed(), all);
    unpin(&world.vault, &all).unwrap();
    // Somebody who never rests is not waited for for ever.
    let restless = |info: &SnapshotInfo| {
        if info.record == all[0] {
            world.backup(&[]);
        }
        true
    };
    let selection = Selection { admits: &restless, ..selection };
    let error = forget_by_policy(&world.vault, &selection, &Utc, "").map(drop).unwrap_err();
    assert!(matches!(error, RetentionError::Restless), "{error}");
}
