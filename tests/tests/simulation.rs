//! A whole office in one thread, and everything that can happen to it.

use twinkeep_tests::seeds::seeds;
use twinkeep_tests::simulation::{Report, run};

#[test]
fn what_was_acknowledged_holds_whatever_breaks() {
    let mut all = Report::default();
    for seed in seeds(&(0..20).collect::<Vec<u64>>()) {
        let report = run(seed).unwrap_or_else(|problem| panic!("{problem}"));
        all.add(&report);
    }
    println!("{all:?}");
}
