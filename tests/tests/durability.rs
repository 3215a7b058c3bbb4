//! What a power cut and failing calls may not do to a vault.

use std::time::Instant;
use twinkeep_tests::crash::{self, Budget};
use twinkeep_tests::cuts;
use twinkeep_tests::faults::{self, Job};
use twinkeep_tests::retention;
use twinkeep_tests::seeds::{grouped, scale, seeds};

#[test]
fn power_cuts_lose_nothing() {
    let begun = Instant::now();
    let (mut states, mut again) = (0, 0);
    for seed in seeds(&[1, 2]) {
        let budget = Budget { states: 8 * scale(), again_one_in: 40, entry_one_in: 1 };
        let counts = crash::run(seed, budget).unwrap_or_else(|problem| panic!("{problem}"));
        println!("seed {seed}: {counts:?}, {:?}", begun.elapsed());
        states += counts.states + counts.again;
        again += counts.again;
    }
    println!("{} crash states, 0 lost ({} of them second crashes)", grouped(states), grouped(again));
}

#[test]
fn power_cuts_in_collections_lose_nothing() {
    let begun = Instant::now();
    let (mut states, mut again) = (0, 0);
    for seed in seeds(&[31, 32]) {
        let counts = cuts::run(seed, 2 * scale(), 2).unwrap_or_else(|problem| panic!("{problem}"));
        println!("seed {seed}: {counts:?}, {:?}", begun.elapsed());
        assert!(counts.moved > 0 && counts.apart > 0 && counts.removed > 0, "{counts:?}");
        states += counts.states;
        again += counts.again;
    }
    println!("{} crash states, 0 lost ({} of them second crashes)", grouped(states), grouped(again));
}

#[test]
fn failing_calls_lose_nothing() {
    let begun = Instant::now();
    let mut points = 0;
    for seed in seeds(&[11]) {
        for job in Job::ALL {
            let counts = faults::sweep(seed, job, 8 * scale()).unwrap_or_else(|problem| panic!("{problem}"));
            println!("seed {seed}, {job:?}: {counts:?}, {:?}", begun.elapsed());
            points += counts.points;
        }
    }
    println!("{} failing calls, 0 false successes", grouped(points));
}

#[test]
fn what_a_failed_sync_lost_is_never_believed() {
    for seed in seeds(&[21, 22]) {
        let syncs = faults::lost_syncs(seed).unwrap_or_else(|problem| panic!("{problem}"));
        println!("seed {seed}: {syncs} syncs lost, nothing missed");
        assert!(syncs >= 5, "only {syncs}");
    }
}

#[test]
fn what_was_said_of_snapshots_stays_said() {
    for seed in seeds(&[31, 32]) {
        let counts = crash::run_changes(seed, 24 * scale()).unwrap_or_else(|problem| panic!("{problem}"));
        println!("seed {seed}: {counts:?}");
        retention::rules(seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
}

#[test]
fn records_never_have_a_gap() {
    for seed in seeds(&[7, 8]) {
        let counts = crash::run_loose_record(seed, 60 * scale()).unwrap_or_else(|problem| panic!("{problem}"));
        println!("seed {seed}: {counts:?}");
    }
}
