//! A whole office in one thread, and everything that can happen to it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use twinkeep_tests::seeds::{grouped, seeds};
use twinkeep_tests::simulation::{Report, log, run};

/// How many seeds are run, instead of the usual ones.
const SEEDS_VAR: &str = "TWINKEEP_SIM_SEEDS";

/// The first of them, instead of one that no run had before.
const FIRST_VAR: &str = "TWINKEEP_SIM_FIRST";

/// Whether the log of the machines is printed: for one seed.
const LOG_VAR: &str = "TWINKEEP_SIM_LOG";

/// Seeds from here on draw all that can go wrong; those below what could when they were first run.
const NEWEST: u64 = 2_000_000_000;

/// Seeds that have failed once.
const OLD: &str = include_str!("../seeds/simulation.txt");

fn number(name: &str, usual: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(usual, |text| text.trim().parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

fn old() -> Vec<u64> {
    let lines = OLD.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed")).collect()
}

/// Runs these, on as many threads as there are processors: each run is on one alone.
fn run_all(all: &[u64]) -> (Report, Vec<String>) {
    let next = AtomicUsize::new(0);
    let sum = Mutex::new((Report::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ran = std::panic::catch_unwind(|| match std::env::var(LOG_VAR) {
                        Ok(_) => tracing::subscriber::with_default(log::Printer, || run(*seed)),
                        Err(_) => run(*seed),
                    });
                    let ran = ran.unwrap_or_else(|_| Err(format!("seed {seed}: it panicked")));
                    let mut sum = sum.lock().unwrap();
                    match ran {
                        Ok(report) => sum.0.add(&report),
                        Err(problem) => sum.1.push(problem),
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap()
}

#[test]
fn what_was_acknowledged_holds_whatever_breaks() {
    let began = Instant::now();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let first = number(FIRST_VAR, NEWEST + now);
    let fresh = first..first + number(SEEDS_VAR, 500);
    let usual: Vec<u64> = old().into_iter().chain(fresh).collect();
    let (report, mut problems) = run_all(&seeds(&usual));
    println!("seeds from {first} on: {}, {:.0} s", report.words(), began.elapsed().as_secs_f64());
    problems.sort();
    let failed: BTreeSet<&str> = problems.iter().filter_map(|problem| problem.lines().next()).collect();
    println!("{} of {} seeds failed", failed.len(), grouped(usual.len()));
    failed.iter().for_each(|problem| println!("  {problem}"));
    assert!(problems.is_empty(), "{}", problems[0]);
    let seen = report.faults.values().filter(|count| **count > 0).count();
    assert!(std::env::var(twinkeep_tests::seeds::SEED_VAR).is_ok() || (report.levels > 0 && seen > 10));
}

#[test]
fn a_seed_repeats_exactly() {
    let newest = NEWEST..NEWEST + 30;
    for seed in seeds(&(0..10).chain(1_000_000_000..1_000_000_010).chain(newest).collect::<Vec<u64>>()) {
        let hash = |()| run(seed).map_or_else(|problem| problem, |report| report.hash);
        assert_eq!(hash(()), hash(()), "seed {seed}");
    }
}
