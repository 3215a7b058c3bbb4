//! The policy itself: snapshots and rules in, decisions with their reasons out. Pure.

use super::calendar::{Calendar, Civil, Span};
use super::error::PolicyError;
use crate::env::Time;
use crate::history::is_past;
use crate::id::DeviceId;
use crate::vault::SnapshotInfo;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// What one of each is kept of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Period {
    /// Snapshots themselves: all of them.
    Snapshot,
    /// Hours of the clock on the wall.
    Hour,
    /// Days.
    Day,
    /// ISO weeks, which begin on Monday.
    Week,
    /// Months.
    Month,
    /// Years.
    Year,
}

/// How far a rule reaches back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// So many periods that have a snapshot; 0 for no rule, `u32::MAX` for all.
    Count(u32),
    /// A span before the group's newest snapshot, not before the present: who has stopped backing up keeps what is there.
    Within(Span),
}

/// Keeps the newest snapshot of each period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Of which periods.
    pub period: Period,
    /// Of how many.
    pub limit: Limit,
}

/// What is to be kept. A snapshot stays if one rule or one set of tags wants it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Rules about time.
    pub rules: Vec<Rule>,
    /// Sets of tags: who has all tags of one set stays.
    pub tags: Vec<Vec<String>>,
}

/// What a decision looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Place of its record in the chain.
    pub record: u64,
    /// When the vault received it.
    pub received: Time,
    /// The write-only device that made it; none for a member.
    pub device: Option<DeviceId>,
    /// Machine.
    pub host: String,
    /// Sources.
    pub paths: Vec<Vec<u8>>,
    /// Tags it has now.
    pub tags: Vec<String>,
    /// Whether it is a checkpoint.
    pub partial: bool,
    /// Whether no policy may forget it.
    pub pinned: bool,
    /// Whether it is damaged, and that is known and accepted.
    pub aside: bool,
}

impl From<&SnapshotInfo> for Candidate {
    fn from(info: &SnapshotInfo) -> Self {
        let is_claimed = crate::zoo::planted("retention-counts-claimed-time");
        Self {
            record: info.record,
            received: if is_claimed { info.snapshot.time } else { info.received },
            device: info.device,
            host: info.snapshot.host.clone(),
            paths: info.snapshot.paths.clone(),
            tags: info.snapshot.tags.clone(),
            partial: info.snapshot.partial,
            pinned: info.pinned,
            aside: info.aside,
        }
    }
}

/// What is to become of a snapshot, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Place of its record in the chain.
    pub record: u64,
    /// Whether it stays.
    pub keep: bool,
    /// Whether a rule or a set of tags wants it, besides what protects it.
    pub is_wanted: bool,
    /// Why it stays; empty where it does not.
    pub reasons: Vec<String>,
}

/// What snapshots of one group have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupBy {
    /// The machine.
    pub host: bool,
    /// The sources.
    pub paths: bool,
    /// The tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

/// What a group's snapshots have in common; nothing where that does not count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct GroupKey {
    /// The write-only device. It always counts: a device may claim any host and paths, and what it adds must not push
    /// out what others made.
    pub device: Option<DeviceId>,
    /// The machine.
    pub host: Option<String>,
    /// The sources, sorted.
    pub paths: Option<Vec<Vec<u8>>>,
    /// The tags, sorted.
    pub tags: Option<Vec<String>>,
}

impl GroupBy {
    /// The group a snapshot belongs to.
    pub fn key(&self, device: Option<DeviceId>, host: &str, paths: &[Vec<u8>], tags: &[String]) -> GroupKey {
        GroupKey {
            device: device.filter(|_| !crate::zoo::planted("devices-share-groups")),
            host: self.host.then(|| host.to_owned()),
            paths: self.paths.then(|| sorted(paths)),
            tags: self.tags.then(|| sorted(tags)),
        }
    }
}

fn sorted<T: Clone + Ord>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list.dedup();
    list
}

/// `host ann, paths /etc /home, tags daily`.
impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = |paths: &Vec<Vec<u8>>| -> Vec<String> {
            paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
        };
        let parts = [
            self.device.as_ref().map(|device| format!("device {device}")),
            self.host.as_ref().map(|host| format!("host {host}")),
            self.paths.as_ref().map(|list| format!("paths {}", paths(list).join(" "))),
            self.tags.as_ref().map(|tags| format!("tags {}", tags.join(","))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "the vault" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// One group and what becomes of its snapshots, in the order they were received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupPlan {
    /// What they have in common.
    pub key: GroupKey,
    /// One for each.
    pub decisions: Vec<Decision>,
}

impl Policy {
    /// Whether nothing is ever wanted.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.rules.iter().all(|rule| rule.limit == Limit::Count(0))
    }
}

/// Decides for all groups. `list` stands in the order of the chain.
///
/// # Errors
/// The policy is empty, or wants nothing of a group that would lose something: then it is refused as a whole.
pub fn plan(
    list: &[Candidate],
    policy: &Policy,
    by: GroupBy,
    now: Time,
    retention_days_min: u32,
    calendar: &dyn Calendar,
) -> Result<Vec<GroupPlan>, PolicyError> {
    if policy.is_empty() {
        return Err(PolicyError::Empty);
    }
    let mut groups: BTreeMap<GroupKey, Vec<Candidate>> = BTreeMap::new();
    for one in list {
        groups.entry(by.key(one.device, &one.host, &one.paths, &one.tags)).or_default().push(one.clone());
    }
    let planned = |(key, list): (GroupKey, Vec<Candidate>)| {
        let decisions = decide(&list, policy, now, retention_days_min, calendar);
        let keeps_nothing = decisions.iter().any(|one| !one.keep) && !decisions.iter().any(|one| one.is_wanted);
        match keeps_nothing && !crate::zoo::planted("forget-empties-group") {
            true => {
                let snapshots = list.iter().filter(|one| !one.partial).count();
                Err(PolicyError::KeepsNothing { group: key, snapshots })
            }
            false => Ok(GroupPlan { key, decisions }),
        }
    };
    groups.into_iter().map(planned).collect()
}

/// Decides for the snapshots of one group, which stand in the order of the chain.
pub fn decide(
    group: &[Candidate],
    policy: &Policy,
    now: Time,
    retention_days_min: u32,
    calendar: &dyn Calendar,
) -> Vec<Decision> {
    let protected = |one: &Candidate| protection(one, now, retention_days_min);
    let mut reasons: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    // What is no whole snapshot, or claims to be of the future, takes nobody's place.
    let counted: Vec<Counted<'_>> = group
        .iter()
        .rev()
        .filter(|one| !one.partial && !one.aside && one.received <= now)
        .map(|one| Counted { one, civil: calendar.civil(one.received) })
        .collect();
    for rule in &policy.rules {
        for (record, reason) in rule.wants(&counted, calendar) {
            reasons.entry(record).or_default().push(reason);
        }
    }
    for set in &policy.tags {
        for Counted { one, .. } in counted.iter().filter(|counted| has_all(counted.one, set)) {
            reasons.entry(one.record).or_default().push(format!("has the tags {}", set.join(",")));
        }
    }
    let decision = |one: &Candidate| {
        let mut reasons = reasons.remove(&one.record).unwrap_or_default();
        let is_wanted = !reasons.is_empty();
        reasons.extend(protected(one));
        Decision { record: one.record, keep: !reasons.is_empty(), is_wanted, reasons }
    };
    group.iter().map(decision).collect()
}

fn has_all(one: &Candidate, set: &[String]) -> bool {
    set.iter().all(|tag| one.tags.contains(tag))
}

/// What keeps a snapshot whatever the rules say.
fn protection(one: &Candidate, now: Time, retention_days_min: u32) -> Vec<String> {
    let is_young = !one.partial
        && !is_past(one.received, retention_days_min, now)
        && !crate::zoo::planted("minimum-retention-ignored");
    let parts = [
        (one.pinned && !crate::zoo::planted("forget-ignores-pin"), "pinned".to_owned()),
        (is_young, format!("younger than the minimum retention of {retention_days_min} days")),
        (one.partial, "a checkpoint that nothing has replaced yet".to_owned()),
        (one.aside, "its damage was set aside".to_owned()),
        (one.received > now, "received later than now".to_owned()),
    ];
    parts.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason).collect()
}

/// A snapshot that takes part in counting.
struct Counted<'a> {
    one: &'a Candidate,
    civil: Civil,
}

impl Rule {
    /// Whom the rule wants of these, which stand from new to old, and why.
    fn wants(&self, counted: &[Counted<'_>], calendar: &dyn Calendar) -> Vec<(u64, String)> {
        match self.limit {
            Limit::Count(0) => Vec::new(),
            Limit::Count(most) => self.so_many(counted, most),
            Limit::Within(span) => self.within(counted, &span, calendar),
        }
    }

    fn so_many(&self, counted: &[Counted<'_>], most: u32) -> Vec<(u64, String)> {
        let name = self.period.adjective();
        let of = |nth: usize| if most == u32::MAX { name.to_owned() } else { format!("{name} {nth} of {most}") };
        let mut seen = HashSet::new();
        let mut wanted: Vec<(u64, String)> = Vec::new();
        for (at, counted_one) in counted.iter().enumerate() {
            if wanted.len() >= most as usize {
                break;
            }
            let is_new = seen.insert(self.period.of(counted_one));
            // While there are fewer periods than wanted the oldest snapshot stays, too, so that long periods have one to
            // begin with.
            let is_oldest = at + 1 == counted.len();
            if is_new || is_oldest {
                let nth = of(wanted.len() + 1);
                wanted.push((counted_one.one.record, if is_new { nth } else { format!("{nth}, the oldest") }));
            }
        }
        wanted
    }

    fn within(&self, counted: &[Counted<'_>], span: &Span, calendar: &dyn Calendar) -> Vec<(u64, String)> {
        let Some(newest) = counted.iter().map(|counted| counted.one.received).max() else { return Vec::new() };
        let from = calendar.back(newest, span);
        let mut seen = HashSet::new();
        let is_wanted = |counted: &&Counted<'_>| counted.one.received >= from && seen.insert(self.period.of(counted));
        let reason = match self.period {
            Period::Snapshot => format!("within {span}"),
            period => format!("{} within {span}", period.adjective()),
        };
        counted.iter().filter(is_wanted).map(|counted| (counted.one.record, reason.clone())).collect()
    }
}

/// What tells one period from another.
#[derive(PartialEq, Eq, Hash)]
enum PeriodKey {
    Snapshot(u64),
    Hour(i32, u8, u8, u8, i32),
    Day(i32, u8, u8),
    Week(i32, u8),
    Month(i32, u8),
    Year(i32),
}

impl Period {
    fn of(self, counted: &Counted<'_>) -> PeriodKey {
        let Civil { year, month, day, hour, offset, week_year, week } = counted.civil;
        match self {
            Self::Snapshot => PeriodKey::Snapshot(counted.one.record),
            Self::Hour => PeriodKey::Hour(year, month, day, hour, offset),
            Self::Day => PeriodKey::Day(year, month, day),
            Self::Week => PeriodKey::Week(week_year, week),
            Self::Month => PeriodKey::Month(year, month),
            Self::Year => PeriodKey::Year(year),
        }
    }

    fn adjective(self) -> &'static str {
        match self {
            Self::Snapshot => "last",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}
