//! Acting on a vault: each function looks, decides, and says what follows in one change, or a few where one is full.
//!
//! A decision is made again where the chain grew between looking and saying, so that two who forget at once can never
//! together take what each of them alone would have kept.

use super::calendar::Calendar;
use super::error::RetentionError;
use super::policy::{Candidate, GroupBy, GroupPlan, Policy, plan};
use crate::env::Time;
use crate::history::{History, Jump, RefHistory, RefState, Refusal};
use crate::limits::{CHANGE_NOTE_LEN, RETENTION_TRIES_MAX};
use crate::record::change::{CHANGE_RECORDS_MAX, RETENTION_DAYS_MAX};
use crate::record::{ChangeKind, ChangeRecord};
use crate::vault::{SnapshotInfo, Snapshots, Vault};
use std::collections::BTreeSet;

type Result<T> = std::result::Result<T, RetentionError>;

/// What a policy is applied to.
pub struct Selection<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// What makes a group.
    pub group_by: GroupBy,
    /// Which snapshots take part; the others stay and do not count.
    pub admits: &'a dyn Fn(&SnapshotInfo) -> bool,
}

/// What a policy says of a vault as it is now.
pub struct Planned {
    /// The snapshots it was decided from.
    pub snapshots: Snapshots,
    /// What becomes of those that take part.
    pub groups: Vec<GroupPlan>,
    /// Records of checkpoints that a later backup has replaced: forgotten and purged at once.
    pub superseded: Vec<u64>,
    /// Records of snapshots whose undelete window is over: purged with it.
    pub due: Vec<u64>,
    /// Jumps of the clock that nobody confirmed; while there are some nothing is forgotten.
    pub doubts: Vec<Jump>,
}

impl Planned {
    /// Records of what is forgotten, ascending.
    pub fn forgets(&self) -> Vec<u64> {
        let decided = self.groups.iter().flat_map(|group| &group.decisions).filter(|one| !one.keep);
        let all: BTreeSet<u64> = decided.map(|one| one.record).chain(self.superseded.iter().copied()).collect();
        all.into_iter().collect()
    }
}

/// How tags are edited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TagEdit {
    /// First those of `remove` go, then those of `add` come.
    Change {
        /// To come.
        add: Vec<String>,
        /// To go.
        remove: Vec<String>,
    },
    /// These and no others.
    Set(Vec<String>),
}

/// Jumps of the clock that nobody confirmed, up to the present.
pub fn doubts(history: &History, now: Time) -> Vec<Jump> {
    if crate::zoo::planted("clock-jump-ignored") {
        return Vec::new();
    }
    let present = history.last_received.and_then(|last| Jump::between(last, now, 0));
    history.jumps.iter().copied().chain(present).collect()
}

/// Records of forgotten snapshots that a purge may name now.
pub fn due(history: &History, now: Time) -> Vec<u64> {
    let is_due = |entry: &&RefHistory| match entry.may_purge(now, history.retention_days_min) {
        Ok(()) => true,
        Err(Refusal::Window { .. }) => crate::zoo::planted("purge-early"),
        Err(_) => false,
    };
    history.roots().filter(|entry| history.is_ripe(entry)).filter(is_due).map(|entry| entry.count).collect()
}

/// Decides what a policy would do now, and does nothing.
pub fn look(vault: &Vault, selection: &Selection<'_>, calendar: &dyn Calendar) -> Result<Planned> {
    // The history first: what comes between the two makes the chain longer than it says.
    let history = vault.history()?;
    planned(vault, &history, selection, calendar)
}

fn planned(vault: &Vault, history: &History, selection: &Selection<'_>, calendar: &dyn Calendar) -> Result<Planned> {
    let now = vault.env().clock.now();
    refuse_unreadable(history)?;
    let snapshots = vault.snapshots()?;
    let candidates: Vec<Candidate> =
        snapshots.list.iter().filter(|info| (selection.admits)(info)).map(Candidate::from).collect();
    let groups = plan(&candidates, selection.policy, selection.group_by, now, history.retention_days_min, calendar)?;
    let superseded = snapshots.superseded.iter().filter(|info| (selection.admits)(info)).map(|info| info.record);
    let superseded = superseded.collect();
    Ok(Planned { groups, superseded, due: due(history, now), doubts: doubts(history, now), snapshots })
}

/// Forgets what a policy does not keep.
///
/// # Errors
/// The policy is refused, the clock is in doubt, a record cannot be read: nothing has changed.
pub fn forget_by_policy(
    vault: &Vault,
    selection: &Selection<'_>,
    calendar: &dyn Calendar,
    note: &str,
) -> Result<Planned> {
    for _ in 0..RETENTION_TRIES_MAX {
        let history = vault.history()?;
        let planned = planned(vault, &history, selection, calendar)?;
        if say_forget(vault, &planned.forgets(), Some(history.tip), note)? {
            return Ok(planned);
        }
    }
    Err(RetentionError::Restless)
}

/// Forgets these snapshots, whatever a policy would say. Those forgotten before stay so.
///
/// # Errors
/// One of them is pinned or within the minimum retention, or the clock is in doubt: nothing has changed.
pub fn forget(vault: &Vault, records: &[u64], note: &str) -> Result<()> {
    say_forget(vault, &ascending(records), None, note).map(|_| ())
}

/// Says the forgets; false, with nothing said, where the chain does not end at `tip` any more.
fn say_forget(vault: &Vault, records: &[u64], mut tip: Option<u64>, note: &str) -> Result<bool> {
    let kind = ChangeKind::Forget { undelete_days: vault.config().undelete_days };
    if records.is_empty() {
        return look_at(vault, &mut |history, now| refuse_doubts(history, now)).map(|()| true);
    }
    for part in records.chunks(CHANGE_RECORDS_MAX) {
        let mut is_stale = false;
        let count = append(vault, &mut |history, now| {
            refuse_doubts(history, now)?;
            if tip.is_some_and(|tip| tip != history.tip) {
                is_stale = true;
                return Ok(None);
            }
            let mut wanted = Vec::with_capacity(part.len());
            let is_unsure = is_unsure(history);
            for entry in refs(history, part)? {
                match entry.may_forget(now, history.retention_days_min) {
                    Ok(()) if entry.state == RefState::Live || is_unsure => wanted.push(entry.count),
                    Ok(()) => {}
                    Err(refusal) if is_unseen(refusal) => wanted.push(entry.count),
                    Err(refusal) => return Err(refused(entry, refusal)),
                }
            }
            Ok(some_change(wanted, note, kind.clone()))
        })?;
        if is_stale {
            return Ok(false);
        }
        tip = tip.map(|tip| count.unwrap_or(tip));
    }
    Ok(true)
}

/// Whether a planted bug looks over this.
fn is_unseen(refusal: Refusal) -> bool {
    match refusal {
        Refusal::Pinned => crate::zoo::planted("forget-ignores-pin"),
        Refusal::Retention { .. } => crate::zoo::planted("minimum-retention-ignored"),
        Refusal::Window { .. } | Refusal::NotForgotten | Refusal::Purged => false,
    }
}

/// Lets go what nobody has to decide about: checkpoints that a later backup went beyond, and what [`purge`] lets go.
///
/// # Errors
/// As [`purge`].
pub fn expire(vault: &Vault) -> Result<Vec<u64>> {
    let superseded: Vec<u64> = vault.snapshots()?.superseded.iter().map(|info| info.record).collect();
    forget(vault, &superseded, "a later backup went beyond it")?;
    purge(vault)
}

/// Lets everything go whose undelete window is over. Returns the records, which hold nothing back any more, for ever.
///
/// # Errors
/// The clock is in doubt, or a record cannot be read: nothing has changed.
pub fn purge(vault: &Vault) -> Result<Vec<u64>> {
    let mut purged: Vec<u64> = Vec::new();
    loop {
        let mut part = Vec::new();
        append(vault, &mut |history, now| {
            // Ascending, so what was said already is never said again.
            part = due(history, now);
            part.retain(|record| purged.last().is_none_or(|last| record > last));
            part.truncate(CHANGE_RECORDS_MAX);
            if part.is_empty() {
                return Ok(None);
            }
            refuse_doubts(history, now)?;
            refuse_unreadable(history)?;
            Ok(some_change(part.clone(), "", ChangeKind::Purge))
        })?;
        if part.is_empty() {
            return Ok(purged);
        }
        purged.append(&mut part);
    }
}

/// Brings forgotten snapshots back. Those that are wanted stay so. Returns the records of those that came back.
///
/// # Errors
/// One of them was purged: nothing has changed.
pub fn undelete(vault: &Vault, records: &[u64]) -> Result<Vec<u64>> {
    say_of(vault, records, ChangeKind::Undelete, &|entry| entry.state != RefState::Live)
}

/// Keeps policies from forgetting these. Returns the records of those that were not pinned before.
///
/// # Errors
/// One of them was purged: nothing has changed.
pub fn pin(vault: &Vault, records: &[u64]) -> Result<Vec<u64>> {
    say_of(vault, records, ChangeKind::Pin, &|entry| !entry.pinned)
}

/// Takes pins back. Returns the records of those that were pinned.
///
/// # Errors
/// One of them was purged: nothing has changed.
pub fn unpin(vault: &Vault, records: &[u64]) -> Result<Vec<u64>> {
    say_of(vault, records, ChangeKind::Unpin, &|entry| entry.pinned)
}

/// Says one thing of those records for which it is news.
fn say_of(vault: &Vault, records: &[u64], kind: ChangeKind, is_news: &dyn Fn(&RefHistory) -> bool) -> Result<Vec<u64>> {
    let records = ascending(records);
    let mut said = Vec::new();
    for part in records.chunks(CHANGE_RECORDS_MAX) {
        append(vault, &mut |history, _| {
            let entries = refs(history, part)?;
            if let Some(entry) = entries.iter().find(|entry| entry.state == RefState::Purged) {
                return Err(refused(entry, Refusal::Purged));
            }
            let is_news = |entry: &&&RefHistory| is_news(entry) || is_unsure(history);
            let news: Vec<u64> = entries.iter().filter(is_news).map(|entry| entry.count).collect();
            said.extend_from_slice(&news);
            Ok(some_change(news, "", kind.clone()))
        })?;
    }
    Ok(said)
}

/// Edits the tags of snapshots. Returns the records of those whose tags are others now.
///
/// # Errors
/// One of them is not in the list of wanted ones; there are too many tags for one change: nothing has changed.
pub fn tag(vault: &Vault, records: &[u64], edit: &TagEdit) -> Result<Vec<u64>> {
    let records = ascending(records);
    for _ in 0..RETENTION_TRIES_MAX {
        let history = vault.history()?;
        let snapshots = vault.snapshots()?;
        let find = |record: &u64| {
            let found = snapshots.list.iter().find(|info| info.record == *record);
            found.ok_or_else(|| match snapshots.damaged.first() {
                Some(fault) => RetentionError::Unreadable(fault.clone()),
                None => RetentionError::NoSnapshot(*record),
            })
        };
        let infos: Vec<&SnapshotInfo> = records.iter().map(find).collect::<Result<_>>()?;
        let (add, remove) = edit.on(&infos);
        let is_news = |info: &&&SnapshotInfo| {
            let tags = &info.snapshot.tags;
            is_unsure(&history)
                || add.iter().any(|tag| !tags.contains(tag))
                || remove.iter().any(|tag| tags.contains(tag) && !add.contains(tag))
        };
        let news: Vec<u64> = infos.iter().filter(is_news).map(|info| info.record).collect();
        if say_tags(vault, &news, history.tip, ChangeKind::Tag { add, remove })? {
            return Ok(news);
        }
    }
    Err(RetentionError::Restless)
}

fn say_tags(vault: &Vault, records: &[u64], mut tip: u64, kind: ChangeKind) -> Result<bool> {
    for part in records.chunks(CHANGE_RECORDS_MAX) {
        let mut is_stale = false;
        let count = append(vault, &mut |history, _| {
            is_stale = history.tip != tip;
            Ok(some_change(part.to_vec(), "", kind.clone()).filter(|_| !is_stale))
        })?;
        if is_stale {
            return Ok(false);
        }
        tip = count.unwrap_or(tip);
    }
    Ok(true)
}

impl TagEdit {
    /// What has to come to all of these, and what to go.
    fn on(&self, infos: &[&SnapshotInfo]) -> (Vec<String>, Vec<String>) {
        match self {
            Self::Change { add, remove } => (unique(add), unique(remove)),
            Self::Set(tags) => {
                let there = infos.iter().flat_map(|info| &info.snapshot.tags).filter(|tag| !tags.contains(tag));
                let there: BTreeSet<String> = there.cloned().collect();
                (unique(tags), there.into_iter().collect())
            }
        }
    }
}

fn unique(tags: &[String]) -> Vec<String> {
    let tags: BTreeSet<String> = tags.iter().cloned().collect();
    tags.into_iter().collect()
}

/// Confirms that the jumps of the clock so far are real. Returns what they were.
pub fn confirm_clock(vault: &Vault) -> Result<Vec<Jump>> {
    let mut found = Vec::new();
    append(vault, &mut |history, now| {
        found = doubts(history, now);
        let change = ChangeRecord { records: Vec::new(), note: String::new(), kind: ChangeKind::ClockIsRight };
        Ok((!found.is_empty()).then_some(change))
    })?;
    Ok(found)
}

/// Makes the minimum retention longer; one that is so long already stays.
///
/// # Errors
/// It is longer now: nothing makes it shorter.
pub fn lengthen(vault: &Vault, days_min: u32) -> Result<()> {
    if days_min > RETENTION_DAYS_MAX {
        return Err(RetentionError::Bound(format!("{days_min} days, at most {RETENTION_DAYS_MAX} are meant")));
    }
    append(vault, &mut |history, _| {
        let now = history.retention_days_min;
        if days_min < now {
            return Err(RetentionError::Shorter { now, wanted: days_min });
        }
        let kind = ChangeKind::Retain { days_min };
        Ok((days_min > now).then(|| ChangeRecord { records: Vec::new(), note: String::new(), kind }))
    })
    .map(|_| ())
}

fn refuse_doubts(history: &History, now: Time) -> Result<()> {
    let doubts = doubts(history, now);
    if doubts.is_empty() { Ok(()) } else { Err(RetentionError::Clock(doubts)) }
}

/// A record that cannot be read may have pinned a snapshot or brought it back.
fn refuse_unreadable(history: &History) -> Result<()> {
    match history.open_faults().next() {
        Some(fault) => Err(RetentionError::Unreadable(fault.clone())),
        None => Ok(()),
    }
}

/// Whether a record that cannot be read may have said otherwise: then everything is said again, which does no harm.
fn is_unsure(history: &History) -> bool {
    history.open_faults().next().is_some()
}

fn refs<'a>(history: &'a History, records: &[u64]) -> Result<Vec<&'a RefHistory>> {
    let missing = |record: &u64| match history.open_faults().next() {
        Some(fault) => RetentionError::Unreadable(fault.clone()),
        None => RetentionError::NoSnapshot(*record),
    };
    let find = |record: &u64| history.refs.get(record).ok_or_else(|| missing(record));
    records.iter().map(find).collect()
}

fn refused(entry: &RefHistory, refusal: Refusal) -> RetentionError {
    RetentionError::Refused { id: entry.reference.target, refusal }
}

fn ascending(records: &[u64]) -> Vec<u64> {
    let records: BTreeSet<u64> = records.iter().copied().collect();
    records.into_iter().collect()
}

/// A change about these records; none about none.
fn some_change(records: Vec<u64>, note: &str, kind: ChangeKind) -> Option<ChangeRecord> {
    (!records.is_empty()).then(|| ChangeRecord { records, note: shortened(note), kind })
}

/// A note that fits.
fn shortened(note: &str) -> String {
    let mut end = note.len().min(CHANGE_NOTE_LEN);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

fn look_at(vault: &Vault, ask: &mut dyn FnMut(&History, Time) -> Result<()>) -> Result<()> {
    ask(&vault.history()?, vault.env().clock.now())
}

/// [`Vault::change`] for decisions that can fail; gives the count of the record, if there is one now.
fn append(
    vault: &Vault,
    decide: &mut dyn FnMut(&History, Time) -> Result<Option<ChangeRecord>>,
) -> Result<Option<u64>> {
    let mut failed = None;
    let done = vault.change(&mut |history, now| {
        let decided = decide(history, now).and_then(|change| match change.as_ref().map(ChangeRecord::check) {
            Some(Err(problem)) => Err(RetentionError::Bound(problem)),
            _ => Ok(change),
        });
        decided.unwrap_or_else(|error| {
            failed = Some(error);
            None
        })
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(done.map(|(link, _)| link.count)),
    }
}
