//! Chains are replayed: what each change does, what none may do, and that every rule holds whatever order they come in.

use super::*;
use crate::id::{ChunkId, SessionId};
use crate::record::{self, ChangeKind, ChangeRecord, Level, RecordKind, RefKind};

const VAULT: VaultId = VaultId([3; 16]);
const DAY: i64 = 86_400_000_000_000;

/// A chain being written.
#[derive(Default)]
struct Chain {
    stored: Vec<StoredRecord>,
    now: i64,
}

impl Chain {
    fn days(mut self, days: i64) -> Self {
        self.now += days * DAY;
        self
    }

    fn put(mut self, kind: RecordKind, payload: Vec<u8>) -> Self {
        let last = self.stored.last();
        let count = last.map_or(0, |stored| stored.count) + 1;
        let previous = last.and_then(|stored| stored.bytes.as_ref().ok()).map_or([0; 32], |bytes| record::hash(bytes));
        let record = Record { kind, vault: VAULT, count, received: Time(self.now), previous, payload };
        let bytes = record.encode(&|bytes| record::hash(bytes));
        self.stored.push(StoredRecord { count, name: format!("records/{count:016x}"), bytes: Ok(bytes) });
        self
    }

    fn reference(self, kind: RefKind) -> Self {
        let target = ChunkId([self.stored.len() as u8; 32]);
        let session_started = Time(self.now);
        let reference =
            RefRecord { kind, target, session: SessionId([0; 16]), level: Level::P0, session_started, device: None };
        self.put(RecordKind::Ref, reference.encode())
    }

    fn snapshot(self) -> Self {
        self.reference(RefKind::Snapshot)
    }

    fn say(self, records: &[u64], kind: ChangeKind) -> Self {
        let change = ChangeRecord { records: records.to_vec(), note: String::new(), kind };
        self.put(RecordKind::Change, change.encode())
    }

    fn forget(self, count: u64) -> Self {
        self.say(&[count], ChangeKind::Forget { undelete_days: 7 })
    }

    fn replay(&self, retention_days_min: u32) -> History {
        History::replay(&self.stored, VAULT, retention_days_min, &mut unkeyed)
    }

    fn check(&self, state: &str, faults: &[&str]) {
        self.check_with(0, state, faults);
    }

    /// `state`: one letter for each ref: live, forgotten, purged.
    fn check_with(&self, retention_days_min: u32, state: &str, faults: &[&str]) {
        let history = self.replay(retention_days_min);
        let letter = |entry: &RefHistory| match entry.state {
            RefState::Live => 'l',
            RefState::Forgotten { .. } => 'f',
            RefState::Purged => 'p',
        };
        assert_eq!(history.refs.values().map(letter).collect::<String>(), state);
        let found: Vec<&str> = history.open_faults().map(|fault| fault.problem.as_str()).collect();
        assert_eq!(found.len(), faults.len(), "{found:?}");
        for (found, expected) in found.iter().zip(faults) {
            assert!(found.contains(expected), "{found} has no {expected}");
        }
    }
}

#[test]
fn forgetting_bringing_back_and_purging() {
    let two = || Chain::default().days(1).snapshot().snapshot();
    two().check("ll", &[]);
    two().forget(1).check("fl", &[]);
    two().forget(1).say(&[1], ChangeKind::Undelete).check("ll", &[]);
    two().forget(1).days(7).say(&[1], ChangeKind::Purge).check("pl", &[]);
    two()
        .forget(1)
        .days(7)
        .say(&[1], ChangeKind::Purge)
        .say(&[1], ChangeKind::Undelete)
        .check("pl", &["purged before"]);
    two().forget(1).days(7).say(&[1], ChangeKind::Purge).say(&[1], ChangeKind::Purge).check("pl", &[]);
    two().forget(1).days(6).say(&[1], ChangeKind::Purge).check("fl", &["undelete window of 7 days was not over"]);
    two().forget(1).days(6).forget(1).days(1).say(&[1], ChangeKind::Purge).check("pl", &[]);
    two().say(&[1], ChangeKind::Purge).check("ll", &["was not forgotten"]);
    two()
        .forget(1)
        .say(&[1], ChangeKind::Undelete)
        .days(9)
        .say(&[1], ChangeKind::Purge)
        .check("ll", &["not forgotten"]);
    two().say(&[1, 9], ChangeKind::Pin).check("ll", &["behind it"]);
    two().say(&[1, 2], ChangeKind::Pin).say(&[3], ChangeKind::Pin).check("ll", &["it is no snapshot"]);
}

#[test]
fn pins_and_minimum_retention_hold_against_everything() {
    let pinned = || Chain::default().snapshot().say(&[1], ChangeKind::Pin);
    pinned().forget(1).check("l", &["pinned"]);
    pinned().say(&[1], ChangeKind::Unpin).forget(1).check("f", &[]);
    let forgotten = Chain::default().snapshot().forget(1).say(&[1], ChangeKind::Pin).days(8);
    forgotten.say(&[1], ChangeKind::Purge).check("f", &["pinned"]);

    let old = |days| Chain::default().snapshot().days(days).forget(1);
    old(29).check_with(30, "l", &["minimum retention of 30 days"]);
    old(30).check_with(30, "f", &[]);
    // A forget that was written while the minimum was shorter purges nothing within the one that holds now.
    old(1).days(10).say(&[1], ChangeKind::Purge).check_with(30, "l", &["minimum retention", "not forgotten"]);
}

#[test]
fn a_longer_minimum_retention_holds_from_then_on() {
    let retain = |days_min| ChangeKind::Retain { days_min };
    let two = || Chain::default().snapshot().snapshot().days(10);
    let after = two().say(&[], retain(30)).forget(1);
    after.check("ll", &["minimum retention of 30 days"]);
    assert_eq!(after.replay(0).retention_days_min, 30);
    // What was done while it was shorter stays done, and is no fault.
    let before = || two().forget(1).days(7).say(&[1], ChangeKind::Purge).forget(2).say(&[], retain(30));
    before().check("pf", &[]);
    before().days(7).say(&[2], ChangeKind::Purge).check("pf", &["minimum retention of 30 days"]);
    before().days(13).say(&[2], ChangeKind::Purge).check("pp", &[]);
    // Nothing makes it shorter.
    two().say(&[], retain(30)).say(&[], retain(1)).forget(1).check("ll", &["minimum retention of 30 days"]);
    two().say(&[], retain(1)).forget(1).check_with(30, "ll", &["minimum retention of 30 days"]);
}

#[test]
fn checkpoints_have_no_window() {
    let partial = || Chain::default().reference(RefKind::PartialSnapshot);
    partial().forget(1).say(&[1], ChangeKind::Purge).check_with(30, "p", &[]);
    partial().say(&[1], ChangeKind::Purge).check("l", &["not forgotten"]);
}

#[test]
fn tags_come_and_go() {
    let tag = |add: &[&str], remove: &[&str]| ChangeKind::Tag {
        add: add.iter().map(|&tag| tag.into()).collect(),
        remove: remove.iter().map(|&tag| tag.into()).collect(),
    };
    let check = |chain: Chain, expected: &[&str]| {
        let history = chain.replay(0);
        assert_eq!(history.refs[&1].tags(&["first".to_owned(), "second".to_owned()]), expected);
    };
    let one = || Chain::default().snapshot();
    check(one(), &["first", "second"]);
    check(one().say(&[1], tag(&["new"], &["first"])), &["second", "new"]);
    check(one().say(&[1], tag(&["first"], &[])), &["second", "first"]);
    check(one().say(&[1], tag(&["new"], &[])).say(&[1], tag(&["first"], &["new", "first"])), &["second", "first"]);
}

fn refuse(_: ParsedRecord) -> Result<Option<Record>, String> {
    Err("not ours".to_owned())
}

#[test]
fn what_is_unreadable_stays_a_fault_until_it_is_accepted() {
    let mut chain = Chain::default().snapshot().snapshot().snapshot();
    chain.stored[1].bytes = Err("it cannot be read".to_owned());
    chain.check("ll", &["cannot be read"]);
    let accepted = Chain { stored: chain.stored, now: chain.now }.say(&[2], ChangeKind::SetAside);
    accepted.check("ll", &[]);

    let mut gap = Chain::default().snapshot().snapshot().snapshot().snapshot();
    gap.stored.drain(1..3);
    gap.check("ll", &["records 2 to 3 are gone"]);
    Chain { stored: gap.stored, now: 0 }.say(&[3], ChangeKind::SetAside).check("ll", &[]);

    let mut changed = Chain::default().snapshot().snapshot();
    let other = Chain::default().days(1).snapshot();
    changed.stored[0] = other.stored[0].clone();
    changed.check("ll", &["does not follow"]);
    let mut misplaced = Chain::default().snapshot().snapshot();
    misplaced.stored[1].bytes = misplaced.stored[0].bytes.clone();
    misplaced.check("l", &["put in the place of record 2"]);
    let history = History::replay(&misplaced.stored, VaultId([4; 16]), 0, &mut unkeyed);
    assert_eq!(history.faults.len(), 2);
    assert!(History::replay(&misplaced.stored, VAULT, 0, &mut refuse).refs.is_empty());
}

#[test]
fn jumps_of_the_clock_are_seen_until_they_are_confirmed() {
    let check = |days: i64, expected: bool| {
        let chain = Chain::default().days(100).snapshot().days(days).snapshot();
        assert_eq!(!chain.replay(0).jumps.is_empty(), expected, "{days}");
        let confirmed = chain.say(&[], ChangeKind::ClockIsRight);
        assert!(confirmed.replay(0).jumps.is_empty());
        assert_eq!(confirmed.replay(0).last_received, Some(Time(confirmed.now)));
    };
    check(0, false);
    check(31, false);
    check(32, true);
    check(-1, false);
    check(-2, true);
    check(4000, true);
}

#[test]
fn what_was_forgotten_is_as_old_as_the_record_that_forgot_it_last() {
    let check = |chain: Chain, ripe: Option<u64>, expected: &str| {
        let history = History { ripe, ..chain.replay(0) };
        let letter = |entry: &RefHistory| if history.is_ripe(entry) { 'r' } else { '-' };
        assert_eq!(history.refs.values().map(letter).collect::<String>(), expected, "{ripe:?}");
    };
    let two = || Chain::default().snapshot().snapshot().forget(1).forget(2);
    check(two(), None, "rr");
    check(two(), Some(2), "--");
    check(two(), Some(3), "r-");
    check(two(), Some(4), "rr");
    // Forgetting again what is forgotten changes nothing; bringing it back and forgetting it again does.
    check(two().forget(1), Some(4), "rr");
    check(two().say(&[1], ChangeKind::Undelete).forget(1), Some(5), "-r");
    check(two().say(&[1], ChangeKind::Undelete).forget(1), Some(6), "rr");
    let partial = || Chain::default().reference(RefKind::PartialSnapshot).forget(1);
    check(partial(), Some(0), "r");
}
