//! Scrubs, interrupted in every way.

use twinkeep_tests::{scrub, seeds};

#[test]
fn interrupted_anywhere_it_verifies_everything_once() {
    let mut points = 0;
    for seed in seeds::seeds(&[1, 2]) {
        points += scrub::interrupted_everywhere(seed, 1).unwrap();
    }
    assert!(points >= 150, "{points} interruptions");
}

#[test]
fn a_power_cut_makes_it_forget_nothing() {
    let mut points = 0;
    for seed in seeds::seeds(&[1, 2]) {
        points += scrub::power_cuts(seed, 1).unwrap();
    }
    assert!(points >= 80, "{points} power cuts");
}

#[test]
fn a_disk_that_lies_once_and_a_process_without_means() {
    for seed in seeds::seeds(&[1, 2]) {
        scrub::wrong_once(seed, 1).unwrap();
        scrub::errors_are_not_clean(seed, 1).unwrap();
    }
}

#[test]
fn backups_beside_it_are_no_damage() {
    for seed in seeds::seeds(&[1, 2, 3, 4]) {
        scrub::beside_backups(seed).unwrap();
    }
}
