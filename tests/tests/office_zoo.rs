//! Every bug planted in the machines of an office is seen by the simulation, which is clean without it.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use twinkeep_engine::zoo::{OFFICE_BUGS, plant};
use twinkeep_tests::seeds::seeds;
use twinkeep_tests::simulation::run;

/// The first seed.
const FIRST: u64 = 2_000_000_000;

/// So many are clean without any bug.
const CLEAN: u64 = 40;

/// A bug is seen in so many at most.
const TRIES_MAX: u64 = 1200;

/// Runs seeds on all processors until one fails; how many were run, and what it said.
fn first_failure(first: u64, count: u64) -> Option<(u64, String)> {
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let found = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let seed = first + at;
                    let ran = catch_unwind(|| run(seed)).unwrap_or_else(|_| Err(format!("seed {seed}: it panicked")));
                    let Err(problem) = ran else { continue };
                    is_over.store(true, Ordering::Relaxed);
                    let line = problem.lines().next().unwrap_or_default().to_owned();
                    found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((at + 1, line));
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn the_simulation_sees_every_bug_planted_in_an_office() {
    let first = seeds(&[FIRST])[0];
    assert_eq!(first_failure(first, CLEAN), None, "with no bug planted");
    let mut missed = Vec::new();
    for (bug, what) in OFFICE_BUGS {
        let began = Instant::now();
        plant(Some(bug));
        let seen = first_failure(first, TRIES_MAX);
        plant(None);
        match seen {
            Some((runs, problem)) => {
                println!("{bug}: seen in run {runs}, after {:.1} s: {problem}", began.elapsed().as_secs_f64());
            }
            None => missed.push(format!("{bug} ({what})")),
        }
    }
    assert!(missed.is_empty(), "nobody saw, from seed {first} on: {missed:#?}");
}
