//! The replay itself.

use super::rules::DAY;
use super::{History, RefHistory, RefState, Trust};
use crate::env::Time;
use crate::id::VaultId;
use crate::record::{self, ChangeKind, ChangeRecord, Record, RecordError, RecordKind, RefRecord};
use crate::store::{Fault, StoredRecord};
use std::collections::BTreeSet;

/// A clock that stands further back than this behind the last record has jumped, nanoseconds: a day, more than any
/// zone's difference.
pub const CLOCK_BACK_MAX: i64 = DAY;

/// A clock further ahead of the last record than this may have jumped, nanoseconds: 31 days, so that a backup a month
/// raises no question.
pub const CLOCK_FORWARD_MAX: i64 = 31 * DAY;

/// A jump of the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Jump {
    /// The record at which it shows; 0 for a clock read now.
    pub count: u64,
    /// When the record before was received.
    pub from: Time,
    /// The time that was read then.
    pub to: Time,
}

impl Jump {
    /// The jump from one time to a later reading, if it is one.
    pub fn between(from: Time, to: Time, count: u64) -> Option<Self> {
        let ahead = to.0.saturating_sub(from.0);
        (!(-CLOCK_BACK_MAX..=CLOCK_FORWARD_MAX).contains(&ahead)).then_some(Self { count, from, to })
    }
}

pub(super) fn replay(
    records: &[StoredRecord],
    vault: VaultId,
    retention_days_min: u32,
    trust: &mut Trust<'_>,
) -> History {
    let history = History { retention_days_min, ..History::default() };
    let mut replay = Replay { history, vault, previous: None };
    for stored in records {
        replay.step(stored, trust);
    }
    replay.history
}

struct Replay {
    history: History,
    vault: VaultId,
    /// Hash of the record before, when that could be read.
    previous: Option<[u8; 32]>,
}

impl Replay {
    fn step(&mut self, stored: &StoredRecord, trust: &mut Trust<'_>) {
        self.gap(stored);
        self.history.tip = stored.count;
        let before = self.previous.take();
        let bytes = match &stored.bytes {
            Ok(bytes) => bytes,
            Err(problem) => return self.fault(stored, problem.clone()),
        };
        self.previous = Some(record::hash(bytes));
        let record = match believe(bytes, stored.count, self.vault, trust) {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(problem) => return self.fault(stored, problem),
        };
        if before.is_some_and(|hash| hash != record.previous) && record.previous != [0; 32] {
            self.fault(stored, "it does not follow from the record before it, which was changed since".to_owned());
        }
        if let Err(problem) = self.apply(record) {
            self.fault(stored, problem);
        }
    }

    fn gap(&mut self, stored: &StoredRecord) {
        let next = self.history.tip.saturating_add(1);
        if stored.count == next {
            return;
        }
        self.previous = None;
        let problem = format!("records {next} to {} are gone", stored.count.saturating_sub(1));
        // Told once for each that is gone would be endless: the last of them stands for all.
        let fault = Fault { file: stored.name.clone(), problem };
        self.history.faults.push((stored.count.saturating_sub(1), fault));
    }

    fn fault(&mut self, stored: &StoredRecord, problem: String) {
        self.history.faults.push((stored.count, Fault { file: stored.name.clone(), problem }));
    }

    fn apply(&mut self, record: Record) -> Result<(), String> {
        self.watch_clock(&record);
        let text = |error: RecordError| error.to_string();
        match record.kind {
            RecordKind::Ref => {
                let reference = RefRecord::decode(&record.payload).map_err(text)?;
                let entry = RefHistory {
                    count: record.count,
                    received: record.received,
                    reference,
                    state: RefState::Live,
                    forgotten_by: 0,
                    pinned: false,
                    aside: false,
                    tags_added: BTreeSet::new(),
                    tags_removed: BTreeSet::new(),
                };
                self.history.refs.insert(record.count, entry);
                Ok(())
            }
            RecordKind::Change => self.change(&record, ChangeRecord::decode(&record.payload).map_err(text)?),
            RecordKind::Config | RecordKind::Keyring => Err(format!("a {:?} record has no place here", record.kind)),
        }
    }

    fn watch_clock(&mut self, record: &Record) {
        let jump = self.history.last_received.and_then(|last| Jump::between(last, record.received, record.count));
        self.history.jumps.extend(jump);
        self.history.last_received = Some(record.received);
    }

    /// Applies a change to each ref it names; tells the first that it may not touch.
    fn change(&mut self, record: &Record, change: ChangeRecord) -> Result<(), String> {
        if change.records.last().is_some_and(|last| *last >= record.count) {
            return Err("it speaks of records behind it".to_owned());
        }
        if change.kind == ChangeKind::ClockIsRight {
            self.history.jumps.clear();
            return Ok(());
        }
        if let ChangeKind::Retain { days_min } = change.kind {
            self.history.retention_days_min = self.history.retention_days_min.max(days_min);
            return Ok(());
        }
        if change.kind == ChangeKind::SetAside {
            self.history.aside.extend(&change.records);
        }
        let mut refused = None;
        for count in &change.records {
            let problem = match self.history.refs.get_mut(count) {
                Some(entry) => alter(entry, &change.kind, record, self.history.retention_days_min).err(),
                None if change.kind == ChangeKind::SetAside => None,
                None => Some("it is no snapshot".to_owned()),
            };
            refused = refused.or(problem.map(|problem| format!("record {count}: {problem}")));
        }
        refused.map_or(Ok(()), Err)
    }
}

/// The record in the file, if it is whole, ours, in its place, and to be trusted.
fn believe(bytes: &[u8], count: u64, vault: VaultId, trust: &mut Trust<'_>) -> Result<Option<Record>, String> {
    let parsed = Record::parse(bytes).map_err(|error| error.to_string())?;
    if parsed.record.vault != vault {
        parsed.record.expect(parsed.record.kind, vault).map_err(|error| error.to_string())?;
    }
    if parsed.record.count != count {
        return Err(format!("it is record {}, put in the place of record {count}", parsed.record.count));
    }
    trust(parsed)
}

/// Applies one change to one ref, if it may.
fn alter(entry: &mut RefHistory, kind: &ChangeKind, by: &Record, retention_days_min: u32) -> Result<(), String> {
    let at = by.received;
    if entry.state == RefState::Purged {
        return match kind {
            // Purging twice, from two machines at once, is no fault.
            ChangeKind::Purge | ChangeKind::SetAside => Ok(()),
            _ => Err("it was purged before".to_owned()),
        };
    }
    match kind {
        ChangeKind::Forget { undelete_days } => {
            entry.may_forget(at, retention_days_min).map_err(|refusal| refusal.to_string())?;
            // The first one counts: forgetting again neither shortens nor extends the window.
            if entry.state == RefState::Live {
                entry.state = RefState::Forgotten { at, undelete_days: *undelete_days };
                entry.forgotten_by = by.count;
            }
        }
        ChangeKind::Undelete => entry.state = RefState::Live,
        ChangeKind::Purge => {
            entry.may_purge(at, retention_days_min).map_err(|refusal| refusal.to_string())?;
            entry.state = RefState::Purged;
        }
        ChangeKind::Pin => entry.pinned = true,
        ChangeKind::Unpin => entry.pinned = false,
        ChangeKind::Tag { add, remove } => {
            for tag in remove {
                entry.tags_added.remove(tag);
                entry.tags_removed.insert(tag.clone());
            }
            for tag in add {
                entry.tags_removed.remove(tag);
                entry.tags_added.insert(tag.clone());
            }
        }
        ChangeKind::SetAside => entry.aside = true,
        ChangeKind::ClockIsRight | ChangeKind::Retain { .. } => {}
    }
    Ok(())
}
