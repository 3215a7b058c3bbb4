//! Garbage goes, and nothing else.

use twinkeep_tests::garbage;
use twinkeep_tests::seeds::{scale, seeds};

#[test]
fn whatever_happens_beside_it_gc_removes_what_nothing_needs_and_only_that() {
    let usual: Vec<u64> = (0..40 * scale() as u64).collect();
    let mut all = garbage::Counts::default();
    for seed in seeds(&usual) {
        let counts = garbage::live(seed, 40).unwrap_or_else(|problem| panic!("{problem}"));
        all.add(&counts);
    }
    println!("{all:?}");
    assert!(all.removed > 0 && all.moved > 0 && all.apart > 0 && all.waited > 0 && all.beside > 0, "{all:?}");
}

#[test]
fn woven_into_many_sessions_gc_removes_what_nothing_needs_and_only_that() {
    let usual: Vec<u64> = (0..60 * scale() as u64).collect();
    let mut all = twinkeep_tests::woven::Counts::default();
    for seed in seeds(&usual) {
        let counts = twinkeep_tests::woven::live(seed, 120).unwrap_or_else(|problem| panic!("{problem}"));
        all.add(&counts);
    }
    println!("{all:?}");
    assert!(all.removed > 0 && all.moved > 0 && all.apart > 0 && all.waited > 0 && all.beside > 0, "{all:?}");
}

#[test]
fn at_single_moments_nothing_is_lost() {
    twinkeep_tests::moments::all().unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn a_collection_that_ends_another_goes_on_with_its_own() {
    for nth in 0..40 {
        garbage::goes_on(nth).unwrap_or_else(|problem| panic!("{problem}"));
    }
}
