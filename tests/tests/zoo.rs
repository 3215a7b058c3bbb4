//! Every planted bug is seen by a run that is clean without it: so the runs can see.

use std::panic::{AssertUnwindSafe, catch_unwind};
use twinkeep_engine::zoo::{BUGS, plant};
use twinkeep_tests::crash::{self, Budget};
use twinkeep_tests::damage::{self, Base};
use twinkeep_tests::faults::{self, Job};

/// A small run of one of the tests; the problem it found.
type Run = fn() -> Result<(), String>;

const RUNS: &[(&str, Run)] = &[
    ("a leaf is no branch", || damage::a_leaf_is_no_branch(3)),
    ("rows that lie", || damage::rows_that_lie(3)),
    ("expelled meanwhile", || damage::expelled_meanwhile(3)),
    ("unchanged heals", || damage::unchanged_heals(3)),
    ("lost syncs", || faults::lost_syncs(3).map(|_| ())),
    ("rot", || Base::new(3)?.run(300).map(|_| ())),
    ("failing calls", || faults::sweep(3, Job::Backup, 8).map(|_| ())),
    ("a loose record", || crash::run_loose_record(3, 60).map(|_| ())),
    ("power cuts", power_cuts),
];

fn power_cuts() -> Result<(), String> {
    let budget = Budget { states: 8, again_one_in: 60, entry_one_in: 1 };
    crash::run(3, budget).map(|_| ())
}

#[test]
fn every_planted_bug_is_caught() {
    for (name, run) in RUNS {
        run().unwrap_or_else(|problem| panic!("{name}, with no bug planted: {problem}"));
    }
    let mut missed = Vec::new();
    for (bug, what) in BUGS {
        plant(Some(bug));
        let catch = RUNS.iter().find_map(|(name, run)| {
            let problem = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic".to_owned()));
            problem.err().map(|problem| (name, problem))
        });
        plant(None);
        match catch {
            Some((name, problem)) => println!("{bug}: seen by {name}: {problem}\n"),
            None => missed.push(format!("{bug} ({what})")),
        }
    }
    assert!(missed.is_empty(), "nobody saw: {missed:#?}");
}
