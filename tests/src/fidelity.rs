//! Real trees on a real disk, backed up and restored in process, and judged by tools that are not ours.
//!
//! [`grow`] makes trees of everything a file system can hold, [`edit`] changes them at random, [`judge`] lets rsync
//! and diff compare, [`forge`] writes what no backup would.

pub mod edit;
pub mod forge;
pub mod grow;
pub mod judge;
pub mod place;
pub mod raw;

/// The seed to begin with: `TWINKEEP_TEST_SEED`, or drawn and printed.
pub fn seed() -> u64 {
    let given = std::env::var("TWINKEEP_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64)
    });
    println!("seed: TWINKEEP_TEST_SEED={seed}");
    seed
}

/// How much more than usual is to be tried: `TWINKEEP_TEST_SCALE`, 1 if not given.
pub fn scale() -> usize {
    std::env::var("TWINKEEP_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// Whether devices, owners and trusted attributes can be made here.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that something is not tried here, and why.
pub fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}: {why}");
}
