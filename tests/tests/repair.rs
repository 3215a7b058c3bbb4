//! What a repair may not do to a vault.

use std::time::Instant;
use twinkeep_tests::repair::{self, Base};
use twinkeep_tests::seeds::{scale, seeds};

#[test]
fn repairs_only_add_to_what_can_be_read() {
    let begun = Instant::now();
    for seed in seeds(&[61, 62]) {
        for encrypted in [true, false] {
            let base = Base::new(seed, encrypted).unwrap_or_else(|problem| panic!("{problem}"));
            let counts = base.run(60 * scale(), 12).unwrap_or_else(|problem| panic!("{problem}"));
            println!("seed {seed}, encrypted {encrypted}: {counts:?}, {:?}", begun.elapsed());
        }
    }
}

#[test]
fn what_does_not_verify_is_found_without_an_index() {
    for seed in seeds(&[63]) {
        repair::index_gone(seed).unwrap_or_else(|problem| panic!("{problem}"));
    }
}

#[test]
fn a_snapshot_without_its_record_is_found() {
    for seed in seeds(&[64]) {
        repair::record_gone(seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
}
