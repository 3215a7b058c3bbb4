//! Every planted bug is seen by a run that is clean without it: so the runs can see.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use twinkeep_engine::crypto::{DataKey, Salts, Suite, VaultKeys, VaultSecret, wrap};
use twinkeep_engine::env::SeededEntropy;
use twinkeep_engine::frame::{DataKeys, FrameBuilder, Opener, SealKeys, Sealer};
use twinkeep_engine::id::{Kind, SessionId, VaultId};
use twinkeep_engine::zoo::{BUGS, plant};
use twinkeep_tests::crash::{self, Budget};
use twinkeep_tests::damage::{self, Base};
use twinkeep_tests::devices;
use twinkeep_tests::faults::{self, Job};
use twinkeep_tests::repair;
use twinkeep_tests::retention;
use twinkeep_tests::scrub;
use twinkeep_tests::{moments, woven};

/// A small run of one of the tests; the problem it found.
type Run = fn() -> Result<(), String>;

const RUNS: &[(&str, Run)] = &[
    ("a header is sealed", header_is_sealed),
    ("moments of a collection", moments::all),
    ("woven sessions", woven),
    ("a leaf is no branch", || damage::a_leaf_is_no_branch(3)),
    ("rows that lie", || damage::rows_that_lie(3)),
    ("expelled meanwhile", || damage::expelled_meanwhile(3)),
    ("expelled elsewhere", || damage::expelled_elsewhere(3)),
    ("interrupted scrubs", || scrub::interrupted_everywhere(3, 4).map(|_| ())),
    ("power cuts in a scrub", || scrub::power_cuts(3, 5).map(|_| ())),
    ("a disk that lies once", || scrub::wrong_once(3, 1)),
    ("a scrub without means", || scrub::errors_are_not_clean(3, 4)),
    ("unchanged heals", || damage::unchanged_heals(3)),
    ("lost syncs", || faults::lost_syncs(3).map(|_| ())),
    ("repairs", repairs),
    ("rot", || Base::new(3)?.run(300).map(|_| ())),
    ("failing calls", || faults::sweep(3, Job::Backup, 8).map(|_| ())),
    ("failing key changes", || faults::sweep(3, Job::KeyChange, 8).map(|_| ())),
    ("two change keys", || devices::two_change_keys(3)),
    ("short files of a device", || devices::short_files(3)),
    ("forgeries of a device", || devices::forgeries(3)),
    ("a loose record", || crash::run_loose_record(3, 60).map(|_| ())),
    ("rules of retention", || retention::rules(3)),
    ("changes", || crash::run_changes(3, 8).map(|_| ())),
    ("power cuts", power_cuts),
];

fn woven() -> Result<(), String> {
    (0..12).chain([36]).try_for_each(|seed| woven::live(seed, 120).map(drop))
}

fn repairs() -> Result<(), String> {
    for encrypted in [true, false] {
        repair::Base::new(3, encrypted)?.run(60, 30)?;
    }
    repair::index_gone(3)
}

fn power_cuts() -> Result<(), String> {
    let budget = Budget { states: 8, again_one_in: 60, entry_one_in: 1 };
    crash::run(3, budget).map(|_| ())
}

/// A frame whose header says another session does not open, although everything else about it fits.
fn header_is_sealed() -> Result<(), String> {
    const SESSION_AT: usize = 40;
    let keys = Arc::new(VaultKeys::derive(&VaultSecret::from_bytes(&[3; 32]), VaultId([4; 16])));
    let entropy = Arc::new(SeededEntropy::new(5));
    let data_key = DataKey::random(&*entropy);
    let (generation, public) = keys.newest();
    let seal = SealKeys {
        suite: Suite::Aes256Gcm,
        wrapped: wrap::wrap(public, &data_key, &keys.vault(), &*entropy),
        data_key: Arc::new(data_key),
        generation,
        vault: keys.vault(),
        session: SessionId([6; 16]),
    };
    let mut builder = FrameBuilder::new(Kind::Leaf);
    builder.push(keys.leaf_id(b"content"), &[], b"content");
    let mut sealer = Sealer::new(seal, Salts::new(entropy), 1).map_err(|error| error.to_string())?;
    let frame = sealer.seal(&mut builder).bytes;
    let mut opener = Opener::new(Arc::new(DataKeys::new(keys))).map_err(|error| error.to_string())?;
    opener.open(&mut frame.clone()).map_err(|error| format!("as it was sealed: {error}"))?;
    let mut changed = frame;
    changed[SESSION_AT] ^= 1;
    match opener.open(&mut changed) {
        Ok(_) => Err("a frame opens that claims another session".to_owned()),
        Err(_) => Ok(()),
    }
}

#[test]
fn every_planted_bug_is_caught() {
    for (name, run) in RUNS {
        run().unwrap_or_else(|problem| panic!("{name}, with no bug planted: {problem}"));
    }
    let mut missed = Vec::new();
    for (bug, what) in BUGS {
        plant(Some(bug));
        let catch = RUNS.iter().find_map(|(name, run)| {
            let problem = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic".to_owned()));
            problem.err().map(|problem| (name, problem))
        });
        plant(None);
        match catch {
            Some((name, problem)) => println!("{bug}: seen by {name}: {problem}\n"),
            None => missed.push(format!("{bug} ({what})")),
        }
    }
    assert!(missed.is_empty(), "nobody saw: {missed:#?}");
}

#[test]
#[ignore]
fn probe() {
    for bug in ["sweeping-admits-condemned", "dropped-adopted-again"] {
        plant(Some(bug));
        for run in [moments::all as Run, woven] {
            let found = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("panic".into()));
            println!("{bug}: {found:?}");
        }
        plant(None);
    }
}
