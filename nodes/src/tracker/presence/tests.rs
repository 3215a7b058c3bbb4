//! Presence in cases, and against a naive count of hours.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use twinkeep_engine::env::Dice;

const START: Duration = Duration::from_secs(1_000_000);

fn machines(numbers: impl IntoIterator<Item = u32>) -> Vec<MachineNumber> {
    numbers.into_iter().map(MachineNumber).collect()
}

fn office(count: u32) -> Roster {
    let mut roster = Roster::start(START, &[]);
    for machine in machines(0..count) {
        assert_eq!(roster.step(START, Event::Joined(machine)), [Action::Save]);
    }
    roster
}

/// Lets an hour pass in which `online` beat; returns what is to be done besides showing and saving.
fn hour(roster: &mut Roster, now: &mut Duration, online: &[MachineNumber]) -> Vec<Action> {
    let mut actions = Vec::new();
    // Beats of the end of the hour would reach into the next.
    for &machine in online {
        actions.extend(roster.step(*now, Event::Beat(machine)));
    }
    actions.extend(roster.step(*now + Duration::from_secs(60), Event::Tick));
    *now += HOUR;
    actions.extend(roster.step(*now, Event::Tick));
    actions.retain(|action| !matches!(action, Action::Show(..) | Action::Save));
    actions
}

/// Lets hours pass until something is to be done, at most `most`; returns how many passed.
fn hours_until(roster: &mut Roster, now: &mut Duration, online: &[MachineNumber], most: u32) -> (u32, Vec<Action>) {
    for passed in 1..=most {
        let actions = hour(roster, now, online);
        if !actions.is_empty() {
            return (passed, actions);
        }
    }
    (most, Vec::new())
}

#[test]
fn silence_shows() {
    let one = MachineNumber(0);
    let mut roster = office(1);
    let show = |seen| Action::Show(one, seen);
    assert_eq!(roster.presence(one), Presence::Offline, "not heard of yet");
    let at = |seconds| START + Duration::from_secs(seconds);
    let cases = [
        (0, Event::Beat(one), vec![show(Presence::Online)]),
        (14, Event::Tick, vec![]),
        (15, Event::Tick, vec![show(Presence::Suspect)]),
        (16, Event::Beat(one), vec![show(Presence::Online)]),
        (45, Event::Tick, vec![show(Presence::Suspect)]),
        (46, Event::Tick, vec![show(Presence::Offline)]),
        (500, Event::Tick, vec![]),
        (501, Event::Beat(one), vec![show(Presence::Online)]),
        (502, Event::Closed(one), vec![show(Presence::Suspect)]),
        (517, Event::Tick, vec![show(Presence::Offline)]),
        (518, Event::Beat(MachineNumber(7)), vec![]),
        (519, Event::Forgotten(one), vec![Action::Save]),
    ];
    for (seconds, event, expected) in cases {
        assert_eq!(roster.step(at(seconds), event), expected, "{seconds}: {event:?}");
    }
    assert_eq!(roster.presence(one), Presence::Offline);
}

#[test]
fn lost_after_the_grace_time_and_welcome_back() {
    let (mut roster, mut now) = (office(4), START);
    let (most, gone) = (machines(0..3), MachineNumber(3));
    hour(&mut roster, &mut now, &machines(0..4));
    let lost = hours_until(&mut roster, &mut now, &most, 1000);
    assert_eq!(lost, (GRACE_HOURS, vec![Action::Lose(gone)]));
    assert_eq!(hours_until(&mut roster, &mut now, &most, 1000), (1000, vec![]), "once");
    assert_eq!(Roster::start(now, &roster.save()).lost().collect::<Vec<_>>(), [gone]);
    assert_eq!(hour(&mut roster, &mut now, &machines(0..4)), [Action::Welcome(gone)]);
    assert_eq!(hours_until(&mut roster, &mut now, &most, 1000), (GRACE_HOURS, vec![Action::Lose(gone)]), "and anew");
}

#[test]
fn nights_do_not_count_and_a_visit_starts_over() {
    let (mut roster, mut now) = (office(4), START);
    let (most, one) = (machines(0..3), machines([0]));
    for _ in 0..GRACE_HOURS - 1 {
        assert!(hour(&mut roster, &mut now, &most).is_empty());
        for _ in 0..15 {
            assert!(hour(&mut roster, &mut now, &one).is_empty(), "fewer than half are there");
        }
    }
    assert!(hour(&mut roster, &mut now, &machines(0..4)).is_empty(), "just in time");
    assert_eq!(hours_until(&mut roster, &mut now, &most, 1000), (GRACE_HOURS, vec![Action::Lose(MachineNumber(3))]));
}

#[test]
fn over_a_third_is_asked_about() {
    let ask = Action::StopAndAsk { missing: 3, all: 8 };
    let (mut roster, mut now) = (office(8), START);
    let most = machines(0..5);
    assert_eq!(hours_until(&mut roster, &mut now, &most, 1000), (MISSING_HOURS, vec![ask]));
    assert!(roster.is_stopped());
    assert_eq!(hours_until(&mut roster, &mut now, &most, 1000), (1000, vec![]), "nobody is lost without an answer");

    // One comes back: the others are lost, by the usual rule.
    let mut back = roster.clone();
    let actions = back.step(now, Event::Beat(MachineNumber(7)));
    let (six, five) = (MachineNumber(6), MachineNumber(5));
    assert_eq!(actions[1..], [Action::GoOn, Action::Lose(five), Action::Lose(six), Action::Save]);

    // A restart does not forget that it waits.
    let mut roster = Roster::start(Duration::ZERO, &roster.save());
    assert!(roster.is_stopped());
    let mut now = Duration::ZERO;
    assert_eq!(hours_until(&mut roster, &mut now, &most, 1000), (1000, vec![]));
    let lost = machines(5..8).into_iter().map(Action::Lose);
    let expected: Vec<_> = lost.chain([Action::GoOn, Action::Save]).collect();
    assert_eq!(roster.step(now, Event::GiveUpMissing), expected);
}

#[test]
fn a_tracker_that_slept_blames_nobody() {
    let (mut roster, mut now) = (office(3), START);
    hour(&mut roster, &mut now, &machines(0..3));
    let saved = roster.save();
    now += 2000 * HOUR;
    let actions = roster.step(now, Event::Tick);
    assert!(actions.iter().all(|action| matches!(action, Action::Show(..) | Action::Save)), "{actions:?}");
    assert!(roster.save().iter().all(|terminal| terminal.hours_missed <= 1) && saved.len() == 3);
}

/// Random attendance, with restarts: missed hours, losses and questions as one would count them by hand.
#[test]
fn like_a_list_of_hours() {
    let (mut losses, mut questions) = (0, 0);
    for seed in 0..40 {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let all = machines(0..1 + dice.below(12) as u32);
        let (mut roster, mut now) = (office(all.len() as u32), START);
        let mut missed: BTreeMap<_, u32> = all.iter().map(|&machine| (machine, 0)).collect();
        let mut lost = BTreeSet::new();
        let mut away = BTreeSet::new();
        for _ in 0..2500 {
            // Long absences, and days that differ.
            if dice.one_in(60) {
                away.insert(all[dice.below(all.len())]);
            }
            if dice.one_in(200) {
                away.remove(&all[dice.below(all.len())]);
            }
            let often = 1 + dice.below(8);
            let is_there = |machine: &&MachineNumber| !away.contains(*machine) && !dice.one_in(often);
            let online: Vec<_> = all.iter().filter(is_there).copied().collect();
            let actions = hour(&mut roster, &mut now, &online);

            // Whoever comes may end a question, upon which those due are lost at once, and may come back in the same hour.
            let mut expected = Vec::new();
            for machine in &online {
                if lost.remove(machine) {
                    expected.push(Action::Welcome(*machine));
                }
                missed.insert(*machine, 0);
                expected.extend(lose_those_due(&missed, &mut lost));
            }
            if 2 * online.len() >= all.len() - lost.len() {
                all.iter()
                    .filter(|machine| !online.contains(machine))
                    .for_each(|m| *missed.entry(*m).or_default() += 1);
            }
            expected.extend(lose_those_due(&missed, &mut lost));
            let is_about_one = |action: &&Action| matches!(action, Action::Welcome(_) | Action::Lose(_));
            assert_eq!(actions.iter().filter(is_about_one).copied().collect::<Vec<_>>(), expected);
            losses += expected.iter().filter(|action| matches!(action, Action::Lose(_))).count();
            questions += actions.iter().filter(|action| matches!(action, Action::StopAndAsk { .. })).count();
            for saved in roster.save() {
                assert_eq!(
                    (saved.hours_missed, saved.is_lost),
                    (missed[&saved.machine], lost.contains(&saved.machine))
                );
            }
            if dice.one_in(20) {
                roster = Roster::start(now, &roster.save());
            }
        }
    }
    assert!(losses > 50 && questions > 20, "{losses} losses, {questions} questions");
}

fn lose_those_due(missed: &BTreeMap<MachineNumber, u32>, lost: &mut BTreeSet<MachineNumber>) -> Vec<Action> {
    let over = |hours, lost: &BTreeSet<_>| -> Vec<_> {
        missed.iter().filter(|(m, missed)| **missed >= hours && !lost.contains(*m)).map(|(m, _)| *m).collect()
    };
    if 3 * over(MISSING_HOURS, lost).len() > missed.len() - lost.len() {
        return Vec::new();
    }
    let due = over(GRACE_HOURS, lost);
    lost.extend(&due);
    due.into_iter().map(Action::Lose).collect()
}
