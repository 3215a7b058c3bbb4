//! The protocol of gc beside backups, undelete, rebuild, damage and crashes, tried in every order: nothing is lost with
//! all rules, and leaving one out is seen.

use std::time::Instant;
use twinkeep_tests::protocol::{
    Found, Problem, Rule, Rules, SCENARIOS, Scenario, Until, WIDE, garbage_after_gc, is_quiet, search,
};
use twinkeep_tests::seeds::{grouped, scale};

/// More than any search that is to come to its end needs.
const ENOUGH: usize = 2_000_000;

/// What leaving a rule out leads to, and from which beginning that is seen soonest.
const NEEDED: &[(Rule, Problem, &str)] = &[
    (Rule::Wait, Problem::Loss, "leaning"),
    (Rule::SecondMark, Problem::Loss, "leaning"),
    (Rule::RootsAfterWait, Problem::Loss, "leaning"),
    (Rule::MarkToTheEnd, Problem::Loss, "copies"),
    (Rule::LockBeforeEpoch, Problem::Loss, "packs"),
    (Rule::NewerToldNo, Problem::Loss, "leaning, and then again"),
    (Rule::LeaningInherits, Problem::Loss, "leaning, and then again"),
    (Rule::LateBranchesAreRoots, Problem::Loss, "garbage"),
    (Rule::OnlyOlderFrames, Problem::Closure, "damage"),
    (Rule::PutReplacesCondemned, Problem::Stuck, "leaning"),
    (Rule::SweptCountsAsMissing, Problem::Loss, "leaning, and then again"),
    (Rule::LeftoverLeaningGoes, Problem::Loss, "leaning, and then again"),
    (Rule::LateLeaningAreRoots, Problem::Loss, "damage while leaning"),
    (Rule::SwitchLooksAgain, Problem::Closure, "damage while leaning"),
    (Rule::SweepLooksAgain, Problem::Loss, "half a sweep"),
    (Rule::ResumesByPhase, Problem::Loss, "half a sweep"),
    (Rule::OneGc, Problem::Loss, "leaning, and then again"),
    (Rule::MarkStops, Problem::Loss, "damage while leaning"),
    (Rule::OnlyClosedPacks, Problem::Loss, "half a sweep"),
    (Rule::DroppedRowStays, Problem::Loss, "leaning, and then again"),
    (Rule::MoveIsDurable, Problem::Loss, "dead frame"),
    (Rule::ApartKeepsStanding, Problem::Closure, "half frames"),
    (Rule::NoOlderCopies, Problem::Loss, "copies"),
    (Rule::GoneAsksAgain, Problem::Loss, "dead frame"),
    (Rule::NumbersStay, Problem::Loss, "damage while leaning"),
    (Rule::AdoptsEnded, Problem::Loss, "half a sweep"),
    (Rule::EntersDurable, Problem::Loss, "power cuts"),
    (Rule::Closure, Problem::Loss, "leaning, and then again"),
    (Rule::RebuildIsAdmission, Problem::Closure, "rebuild"),
    (Rule::RebuildWithoutSessions, Problem::Loss, "rebuild"),
    (Rule::RebuildWithoutGc, Problem::Loss, "rebuild"),
    (Rule::SettleLooks, Problem::Loss, "damage while leaning"),
    (Rule::PurgeOnlyForgotten, Problem::Loss, "refs"),
    (Rule::PurgedStays, Problem::Loss, "refs"),
];

/// Second nets: nothing is seen without them.
const SPARE: &[Rule] = &[Rule::LeaningReplacesNothing, Rule::DropLooksAgain, Rule::FileAfterDrop];

/// Pairs that can be left out together. Of the last, because a file that is removed first cannot be adopted any more,
/// so that there is nothing to keep a row for.
const SPARE_PAIRS: &[(Rule, Rule)] = &[
    (Rule::LeaningReplacesNothing, Rule::DropLooksAgain),
    (Rule::LeaningReplacesNothing, Rule::FileAfterDrop),
    (Rule::DropLooksAgain, Rule::FileAfterDrop),
    (Rule::FileAfterDrop, Rule::DroppedRowStays),
];

fn scenario(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap_or_else(|| panic!("no beginning {name}"))
}

fn told(found: &Found) -> String {
    let ways = found.ways.iter().flatten();
    ways.map(|way| format!("{:?} after\n    {}\n", way.problem, way.steps.join("\n    "))).collect()
}

/// Searches without some rules; from every beginning when none is named. The worst that is found, and the steps.
fn leave_out(rules: &[Rule], until: Problem, from: &[Scenario]) -> (usize, Option<(Problem, Vec<String>)>) {
    let left = rules.iter().fold(Rules::all(), |left, rule| left.without(*rule));
    let mut states = 0;
    let until = Until { problem: until, states_max: ENOUGH };
    let mut worst: Option<(Problem, Vec<String>)> = None;
    for scenario in from {
        let found = search(scenario.start(), left, until, &mut |_| ());
        states += found.states;
        if let Some(way) = found.worst()
            && worst.as_ref().is_none_or(|(problem, _)| *problem < way.problem)
        {
            worst = Some((way.problem, way.steps.clone()));
        }
    }
    (states, worst)
}

#[test]
fn nothing_is_lost_with_all_rules() {
    let (mut all, mut quiet) = (0, 0);
    let long = |scenario| (scenario, 150_000 * scale());
    for (scenario, states_max) in SCENARIOS.iter().map(|scenario| (scenario, ENOUGH)).chain(WIDE.iter().map(long)) {
        let begun = Instant::now();
        let until = Until { problem: Problem::Stuck, states_max };
        let found = search(scenario.start(), Rules::all(), until, &mut |state| {
            if is_quiet(state) {
                quiet += 1;
                if let Some(what) = garbage_after_gc(state, Rules::all()) {
                    panic!("{}: {what} after gc ran twice from {state:#?}", scenario.name);
                }
            }
        });
        assert!(found.worst().is_none(), "{}: {}", scenario.name, told(&found));
        assert!(!found.is_cut_short || states_max < ENOUGH || scale() > 1, "{} has no end", scenario.name);
        let end = if found.is_cut_short { "and there are more" } else { "all" };
        println!("{:>24}: {:>9} states, {end}, {:.1?}", scenario.name, grouped(found.states), begun.elapsed());
        all += found.states;
    }
    println!("{} states; from {} of them gc ran undisturbed and left nothing behind", grouped(all), grouped(quiet));
}

#[test]
fn leaving_a_rule_out_is_seen() {
    assert_eq!(NEEDED.len() + SPARE.len(), Rule::ALL.len());
    for rule in Rule::ALL {
        let Some(&(_, problem, name)) = NEEDED.iter().find(|needed| needed.0 == rule) else {
            assert!(SPARE.contains(&rule), "{rule:?} stands in no table");
            let (states, worst) = leave_out(&[rule], Problem::Stuck, SCENARIOS);
            assert!(worst.is_none(), "{rule:?} is needed: {worst:?}");
            println!("without {rule:?}: nothing in {} states\n", grouped(states));
            continue;
        };
        let (_, worst) = leave_out(&[rule], problem, &[*scenario(name)]);
        let Some((found, steps)) = worst else { panic!("{rule:?} left out, and nothing is seen from {name}") };
        assert_eq!(found, problem, "{rule:?}: {steps:?}");
        println!("without {rule:?}: {found:?} in {} steps from {name}:\n    {}\n", steps.len(), steps.join("\n    "));
    }
}

/// A pair is looked at from the beginnings where leaving out one of the two is seen, or else from all.
#[test]
fn leaving_two_rules_out_is_seen() {
    let (mut pairs, mut states, mut unseen) = (0, 0, Vec::new());
    for (at, &first) in Rule::ALL.iter().enumerate() {
        for &second in &Rule::ALL[at + 1..] {
            let of_either = NEEDED.iter().filter(|needed| [first, second].contains(&needed.0));
            let mut is_seen = of_either.into_iter().any(|&(_, problem, name)| {
                let (seen, worst) = leave_out(&[first, second], problem, &[*scenario(name)]);
                states += seen;
                worst.is_some_and(|(found, _)| found >= problem)
            });
            if !is_seen {
                let (seen, worst) = leave_out(&[first, second], Problem::Stuck, SCENARIOS);
                states += seen;
                is_seen = worst.is_some();
            }
            if !is_seen {
                unseen.push((first, second));
            }
            pairs += 1;
        }
    }
    println!("{pairs} pairs, {} states", grouped(states));
    assert_eq!(unseen, SPARE_PAIRS);
}
