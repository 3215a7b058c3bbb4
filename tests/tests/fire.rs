//! Garbage is collected while everything else happens to the same vault, on a real disk, by the real command, under
//! SIGKILL and SIGSTOP. Only processes this test started are stopped or killed.

use std::time::{Duration, Instant};
use twinkeep_tests::fire::{self, BUG_VAR, Counts, Plan};
use twinkeep_tests::seeds::{fire_secs, seeds};

/// Shorter runs cannot be held to minimal counts.
const SECS_COUNTED: u64 = 150;

#[test]
fn what_is_not_purged_outlives_any_of_it() {
    for seed in seeds(&[71]) {
        let secs = fire_secs();
        let plan = Plan {
            command: env!("CARGO_BIN_EXE_twinkeep-under-test").into(),
            seed,
            time: Duration::from_secs(secs),
            sources: 8,
            // Up to 4 seconds; in long runs up to 4 minutes, which is longer than anybody waits for a lock.
            stop_bits: if secs < 1800 { 11 } else { 17 },
            bug: std::env::var(BUG_VAR).ok(),
        };
        println!("seed {seed}, {secs} seconds");
        let begun = Instant::now();
        let outcome = fire::live(&plan);
        let took = begun.elapsed();
        match (&plan.bug, outcome) {
            (None, Ok(counts)) => {
                println!("{counts:#?}\nin {took:.1?}");
                if secs >= SECS_COUNTED {
                    expect_enough(&counts);
                }
            }
            (None, Err(problem)) => panic!("{problem}"),
            (Some(bug), Ok(counts)) => panic!("nobody saw {bug} within {took:.1?}: {counts:#?}"),
            (Some(bug), Err(problem)) => println!("{bug} was seen: {problem}"),
        }
    }
}

/// A run in which hardly anything happened proves nothing.
fn expect_enough(counts: &Counts) {
    let least = [
        ("backups", &counts.backups, 100),
        ("collections", &counts.collections, 6),
        ("collections that waited", &counts.waited, 2),
        ("rounds of forgetting", &counts.purges, 20),
        ("restores", &counts.restores, 20),
        ("checks", &counts.checks, 5),
        ("kills", &counts.kills, 50),
        ("collections killed", &counts.collections_killed, 2),
        ("stops", &counts.stops, 50),
        ("chunks removed", &counts.chunks_removed, 1000),
        ("frames moved", &counts.frames_moved, 100),
        ("frames taken apart", &counts.frames_taken_apart, 20),
        ("packs removed", &counts.packs_removed, 100),
        ("snapshots compared", &counts.compared, 8),
    ];
    for (what, count, least) in least {
        let count = Counts::get(count);
        assert!(count >= least, "only {count} {what}, {least} expected");
    }
}
