//! Policies against a second, naive implementation, and the traps other programs fell into.

use super::*;
use crate::env::{Dice, Time};
use crate::history::DAY;

const HOUR: i64 = DAY / 24;
/// 2026-11-22 12:00, a Sunday.
const NOW: Time = Time(1_795_348_800_000_000_000);

fn candidate(record: u64, received: Time) -> Candidate {
    Candidate {
        record,
        received,
        device: None,
        host: "h".into(),
        paths: vec![b"/p".to_vec()],
        tags: Vec::new(),
        partial: false,
        pinned: false,
        aside: false,
    }
}

fn ago(record: u64, nanos: i64) -> Candidate {
    candidate(record, Time(NOW.0 - nanos))
}

fn tagged(one: Candidate, tags: &[&str]) -> Candidate {
    Candidate { tags: tags.iter().map(|&tag| tag.into()).collect(), ..one }
}

fn keep(period: Period, count: u32) -> Policy {
    Policy { rules: vec![Rule { period, limit: Limit::Count(count) }], tags: Vec::new() }
}

fn within(period: Period, span: Span) -> Policy {
    Policy { rules: vec![Rule { period, limit: Limit::Within(span) }], tags: Vec::new() }
}

fn sets(sets: &[&[&str]]) -> Policy {
    let set = |set: &&[&str]| set.iter().map(|&tag| tag.to_owned()).collect();
    Policy { rules: Vec::new(), tags: sets.iter().map(set).collect() }
}

fn kept(decisions: &[Decision]) -> Vec<u64> {
    decisions.iter().filter(|one| one.keep).map(|one| one.record).collect()
}

fn check(group: &[Candidate], policy: &Policy, expected: &[u64]) {
    assert_eq!(kept(&decide(group, policy, NOW, 0, &Utc)), expected, "{policy:?}");
}

#[test]
fn rules_keep_the_newest_of_each_period() {
    // 11:00 and 11:30 of the same hour, the evening before, a week and a year before.
    let group = [ago(1, 370 * DAY), ago(2, 7 * DAY), ago(3, 16 * HOUR), ago(4, HOUR), ago(5, HOUR / 2)];
    check(&group, &keep(Period::Snapshot, 2), &[4, 5]);
    check(&group, &keep(Period::Snapshot, u32::MAX), &[1, 2, 3, 4, 5]);
    check(&group, &keep(Period::Hour, 2), &[3, 5]);
    check(&group, &keep(Period::Day, 2), &[3, 5]);
    check(&group, &keep(Period::Day, 3), &[2, 3, 5]);
    check(&group, &keep(Period::Week, 1), &[5]);
    check(&group, &keep(Period::Week, 2), &[2, 5]);
    check(&group, &keep(Period::Year, 1), &[5]);
    // Fewer years than wanted: the oldest one stays.
    check(&group[1..], &keep(Period::Year, 2), &[2, 5]);
    check(&group[2..], &within(Period::Snapshot, Span { hours: 1, ..Span::default() }), &[4, 5]);
    check(&group, &within(Period::Day, Span { days: 8, ..Span::default() }), &[2, 3, 5]);
    check(&group, &within(Period::Snapshot, Span::default()), &[5]);
    let both = Policy { rules: [keep(Period::Year, 2).rules, keep(Period::Snapshot, 1).rules].concat(), tags: vec![] };
    check(&group, &both, &[1, 5]);
    let reasons = decide(&group, &both, NOW, 0, &Utc)[4].reasons.join("; ");
    assert_eq!(reasons, "yearly 1 of 2; last 1 of 1");
}

#[test]
fn who_stopped_backing_up_keeps_what_is_there() {
    let group = [ago(1, 500 * DAY), ago(2, 470 * DAY), ago(3, 465 * DAY)];
    check(&group, &within(Period::Snapshot, Span { days: 7, ..Span::default() }), &[2, 3]);
}

#[test]
fn protection_needs_no_rule_and_takes_no_place() {
    let mut group = vec![ago(1, 9 * DAY), ago(2, 8 * DAY), ago(3, 7 * DAY), ago(4, 6 * DAY)];
    group[0].pinned = true;
    group.push(Candidate { partial: true, ..ago(5, 5 * DAY) });
    group.push(Candidate { aside: true, ..ago(6, 4 * DAY) });
    // Clients that claim the future, or a clock that went back: neither pushes good ones out.
    group.extend((7..30).map(|record| ago(record, -HOUR)));
    let future: Vec<u64> = (7..30).collect();
    check(&group, &keep(Period::Snapshot, 1), &[&[1, 4, 5, 6][..], &future].concat());
    let decisions = decide(&group, &keep(Period::Snapshot, 1), NOW, 0, &Utc);
    let reasons: Vec<String> = decisions.iter().map(|one| one.reasons.join("; ")).collect();
    assert_eq!(reasons[..4], ["pinned", "", "", "last 1 of 1"]);
    assert!(reasons[4].contains("checkpoint") && reasons[5].contains("aside") && reasons[6].contains("later than now"));
    // A minimum retention of seven days covers the fourth and third.
    let young = decide(&group[..4], &keep(Period::Snapshot, 1), NOW, 8, &Utc);
    assert_eq!(kept(&young), [1, 3, 4]);
    assert!(young[2].reasons[0].contains("minimum retention of 8 days"));
}

#[test]
fn a_policy_that_keeps_nothing_is_refused_as_a_whole() {
    let plan_of = |group: &[Candidate], policy: &Policy| plan(group, policy, GroupBy::default(), NOW, 0, &Utc);
    let mut group = vec![tagged(ago(1, DAY), &["keep"]), ago(2, HOUR)];
    assert_eq!(kept(&plan_of(&group, &sets(&[&["keep"]])).unwrap()[0].decisions), [1]);
    // A tag misspelt, or one that only another group has.
    assert!(matches!(plan_of(&group, &sets(&[&["kepe"]])), Err(PolicyError::KeepsNothing { snapshots: 2, .. })));
    assert!(plan_of(&group, &sets(&[&["keep", "more"]])).is_err());
    group.push(Candidate { host: "other".into(), ..ago(3, HOUR) });
    let error = plan_of(&group, &sets(&[&["keep"]])).unwrap_err().to_string();
    assert!(error.contains("host other, paths /p"), "{error}");
    // A device that claims to be the same machine has groups of its own.
    let claims = Candidate { device: Some(crate::id::DeviceId([7; 8])), host: "h".into(), ..ago(9, 0) };
    let plans = plan_of(&[ago(1, DAY), claims], &keep(Period::Snapshot, 1)).unwrap();
    assert!(plans.len() == 2 && plans.iter().all(|plan| plan.decisions.iter().all(|one| one.keep)));
    assert!(plans.iter().any(|plan| plan.key.to_string().starts_with("device 0707")));
    // What is protected does not make the mistake a good one, but where nothing would go nothing is wrong.
    group[2] = tagged(group[2].clone(), &["keep"]);
    group[0].tags.clear();
    group[0].pinned = true;
    assert!(plan_of(&group, &sets(&[&["keep"]])).is_err());
    group[1].pinned = true;
    assert!(plan_of(&group, &sets(&[&["keep"]])).is_ok());
    for empty in [Policy::default(), keep(Period::Day, 0)] {
        assert_eq!(plan_of(&group, &empty), Err(PolicyError::Empty));
    }
}

#[test]
fn groups_are_what_was_asked_for() {
    let one = |record, host: &str, paths: &[&str], tags: &[&str]| {
        let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        tagged(Candidate { host: host.into(), paths, ..ago(record, DAY) }, tags)
    };
    let list = [one(1, "a", &["/x", "/y"], &["t"]), one(2, "a", &["/y", "/x"], &[]), one(3, "b", &["/x", "/y"], &[])];
    let check = |host, paths, tags, expected: &[&[u64]]| {
        let by = GroupBy { host, paths, tags };
        let groups = plan(&list, &keep(Period::Snapshot, 9), by, NOW, 0, &Utc).unwrap();
        let found: Vec<Vec<u64>> = groups.iter().map(|group| kept(&group.decisions)).collect();
        assert_eq!(found, expected, "{by:?}");
    };
    check(true, true, false, &[&[1, 2], &[3]]);
    check(false, true, false, &[&[1, 2, 3]]);
    check(true, true, true, &[&[2], &[1], &[3]]);
    check(false, false, false, &[&[1, 2, 3]]);
    assert_eq!(GroupKey::default().to_string(), "the vault");
}

#[test]
fn weeks_belong_to_their_thursday() {
    // 2020-12-28 to 2021-01-03 is week 53 of 2020, though three days of it lie in 2021.
    let day = |record, days: i64| candidate(record, Time((18_624 + days) * DAY));
    let group: Vec<Candidate> = (0..8).map(|days| day(days as u64 + 1, days)).collect();
    check(&group, &keep(Period::Week, 9), &[1, 7, 8]);
    check(&group, &keep(Period::Year, 1), &[8]);
    check(&group, &keep(Period::Month, 2), &[4, 8]);
}

/// A zone whose clocks are set back from three to two at a moment.
struct SetBack(Time);

impl Calendar for SetBack {
    fn civil(&self, time: Time) -> Civil {
        let offset = if time < self.0 { 2 } else { 1 };
        Civil { offset: offset as i32 * 3600, ..Utc.civil(Time(time.0 + offset * HOUR)) }
    }

    fn back(&self, time: Time, span: &Span) -> Time {
        Utc.back(time, span)
    }
}

#[test]
fn the_hour_that_comes_twice_is_two() {
    let zone = SetBack(Time(NOW.0 - 12 * HOUR));
    let group = [ago(1, 12 * HOUR + HOUR / 2), ago(2, 12 * HOUR - HOUR / 2)];
    let of = |at: usize| zone.civil(group[at].received).hour;
    assert_eq!(of(0), of(1));
    assert_eq!(kept(&decide(&group, &keep(Period::Hour, 2), NOW, 0, &zone)), [1, 2]);
    assert_eq!(kept(&decide(&group, &keep(Period::Day, 1), NOW, 0, &zone)), [2]);
}

/// What [`decide`] should keep by one rule, said another way: who asks of each snapshot by itself.
fn wants(counted: &[Candidate], at: usize, rule: &Rule) -> bool {
    let name = |one: &Candidate| {
        let Civil { year, month, day, hour, week_year, week, .. } = Utc.civil(one.received);
        match rule.period {
            Period::Snapshot => one.record.to_string(),
            Period::Hour => format!("{year}-{month}-{day} {hour}"),
            Period::Day => format!("{year}-{month}-{day}"),
            Period::Week => format!("{week_year} {week}"),
            Period::Month => format!("{year}-{month}"),
            Period::Year => year.to_string(),
        }
    };
    let newer = &counted[at + 1..];
    match &rule.limit {
        Limit::Count(most) => {
            let mut names: Vec<String> = newer.iter().map(name).collect();
            let is_first = !names.contains(&name(&counted[at]));
            names.sort();
            names.dedup();
            names.len() < *most as usize && (is_first || at == 0)
        }
        Limit::Within(span) => {
            let newest = counted.iter().map(|one| one.received).max().unwrap();
            let reaches = |one: &Candidate| one.received >= Utc.back(newest, span);
            reaches(&counted[at]) && !newer.iter().filter(|one| reaches(one)).any(|one| name(one) == name(&counted[at]))
        }
    }
}

fn some_rule(dice: &mut Dice) -> Rule {
    let periods = [Period::Snapshot, Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];
    let small = |dice: &mut Dice, end| dice.below(end) as u32;
    let limit = match dice.one_in(3) {
        true => Limit::Within(Span {
            years: small(dice, 2),
            months: small(dice, 3),
            days: small(dice, 20),
            hours: small(dice, 30),
        }),
        false => Limit::Count(small(dice, 12)),
    };
    Rule { period: periods[dice.below(6)], limit }
}

fn some_group(dice: &mut Dice, most: usize) -> Vec<Candidate> {
    let mut received = NOW.0 - 800 * DAY;
    let step = [HOUR / 3, 5 * HOUR, DAY, 20 * DAY][dice.below(4)];
    let mut some = |record| {
        // Forward as a rule, sometimes back, sometimes not at all.
        received += [dice.throw() as i64 % step, 0, step / 2, step][dice.below(4)];
        let mut one = candidate(record, Time(received));
        one.partial = dice.one_in(15);
        one.pinned = dice.one_in(15);
        one.aside = dice.one_in(30);
        let tags: &[&str] = [&[][..], &["a"], &["b"], &["a", "b"]][dice.below(4)];
        tagged(one, tags)
    };
    let len = 1 + Dice(most as u64 ^ some(0).received.0 as u64).below(most);
    (1..=len as u64).map(some).collect()
}

#[test]
fn decisions_are_those_of_a_naive_reading() {
    let seed = std::env::var("TWINKEEP_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    let mut dice = Dice(seed);
    let (mut forgotten, mut refused) = (0, 0);
    for round in 0..3000 {
        let group = some_group(&mut dice, 60);
        let rules = (0..dice.below(4)).map(|_| some_rule(&mut dice)).collect();
        let policy = Policy {
            rules,
            tags: [sets(&[]), sets(&[&["a", "b"]]), sets(&[&["a"], &["c"]])][dice.below(3)].tags.clone(),
        };
        let now = Time(group[dice.below(group.len())].received.0 + dice.below(3) as i64 * 10 * DAY);
        let days = [0, 0, 3, 30][dice.below(4)];
        let told = format!("seed {seed}, round {round}: {policy:?}, now {now:?}, {days} days");
        let counts = |one: &&Candidate| !one.partial && !one.aside && one.received <= now;
        let counted: Vec<Candidate> = group.iter().filter(counts).cloned().collect();
        let wanted = |one: &Candidate| {
            let Some(at) = counted.iter().position(|other| other.record == one.record) else { return false };
            policy.rules.iter().any(|rule| wants(&counted, at, rule))
                || policy.tags.iter().any(|set| set.iter().all(|tag| one.tags.contains(tag)))
        };
        let protects = |one: &Candidate| {
            let young = now.0 - one.received.0 < i64::from(days) * DAY;
            one.pinned || one.partial || one.aside || one.received > now || young
        };
        let expected: Vec<u64> =
            group.iter().filter(|one| wanted(one) || protects(one)).map(|one| one.record).collect();
        let decisions = decide(&group, &policy, now, days, &Utc);
        assert_eq!(kept(&decisions), expected, "{told}");
        assert!(decisions.iter().all(|one| one.keep != one.reasons.is_empty()), "{told}");
        match plan(&group, &policy, GroupBy::default(), now, days, &Utc) {
            Ok(_) => {
                forgotten += group.len() - expected.len();
                assert!(expected.len() == group.len() || group.iter().any(wanted), "{told}");
            }
            Err(PolicyError::Empty) => assert!(policy.is_empty(), "{told}"),
            Err(PolicyError::KeepsNothing { .. }) => {
                refused += 1;
                // Only tags, or spans before nothing, can want nothing of those that count.
                assert!(!group.iter().any(wanted) && expected.len() < group.len(), "{told}");
            }
        }
    }
    assert!(forgotten > 10_000 && refused > 5, "{forgotten} {refused}");
}

#[test]
fn thousands_of_snapshots_take_no_time() {
    let group: Vec<Candidate> = (0..20_000).map(|record| ago(record, (20_000 - record as i64) * HOUR)).collect();
    let rules = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];
    let rules = rules.map(|period| Rule { period, limit: Limit::Count(10) }).to_vec();
    let begun = std::time::Instant::now();
    let decisions = decide(&group, &Policy { rules, tags: Vec::new() }, NOW, 0, &Utc);
    assert!(begun.elapsed().as_secs() < 5);
    assert!((30..50).contains(&kept(&decisions).len()));
    // All at one moment: the last in the chain is the newest.
    let same: Vec<Candidate> = (1..5000).map(|record| ago(record, DAY)).collect();
    check(&same, &keep(Period::Day, 1), &[4999]);
    check(&same, &keep(Period::Snapshot, 2), &[4998, 4999]);
}
