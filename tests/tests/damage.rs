//! What rot may not do to a vault.

use std::time::Instant;
use twinkeep_tests::damage::{self, Base};
use twinkeep_tests::seeds::{grouped, scale, seeds};

#[test]
fn rot_is_never_read_as_data() {
    let begun = Instant::now();
    let mut injections = 0;
    for seed in seeds(&[31, 32]) {
        let base = Base::new(seed).unwrap_or_else(|problem| panic!("{problem}"));
        let counts = base.run(1050 * scale()).unwrap_or_else(|problem| panic!("{problem}"));
        println!("seed {seed}: {counts:?}, {:?}", begun.elapsed());
        injections += counts.injections;
    }
    println!("{} injections, 0 wrong bytes", grouped(injections));
}

#[test]
fn a_leaf_is_never_a_branch() {
    for seed in seeds(&[41]) {
        damage::a_leaf_is_no_branch(seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
}

#[test]
fn frames_expelled_during_a_backup_are_stored_again() {
    for seed in seeds(&[42, 43]) {
        damage::expelled_meanwhile(seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
}

#[test]
fn an_unchanged_source_heals_too() {
    for seed in seeds(&[44, 45]) {
        damage::unchanged_heals(seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
}

#[test]
fn rot_on_a_disk_is_never_read_as_data() {
    for seed in seeds(&[51]) {
        let base = Base::new(seed).unwrap_or_else(|problem| panic!("{problem}"));
        let counts = base.run_on_disk(150 * scale()).unwrap_or_else(|problem| panic!("{problem}"));
        println!("seed {seed}: {counts:?}");
    }
}

#[test]
fn an_index_that_lies_is_not_believed() {
    for seed in seeds(&[46]) {
        damage::rows_that_lie(seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
}
