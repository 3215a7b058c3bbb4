//! Forgetting and purging as a process of its own, so that it can be stopped and killed like all others.

use super::open;
use crate::lab::chain;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use twinkeep_engine::env::Dice;
use twinkeep_engine::history::{History, RefState};
use twinkeep_engine::record::{ChangeKind, ChangeRecord};

/// First argument of the command under test that means [`purge_main`]; the vault and a seed follow.
pub const PURGE_VERB: &str = "purge-some";

/// Newest snapshots that are mostly left alone.
const NEWEST: usize = 8;

/// Forgets some snapshots, brings a few back, purges others.
pub fn purge_main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let vault = args.next().unwrap_or_default();
    let seed = args.next().and_then(|seed| seed.to_str().and_then(|seed| seed.parse().ok())).unwrap_or(0);
    match purge_some(Path::new(&vault), &mut Dice(seed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn purge_some(vault: &Path, dice: &mut Dice) -> Result<(), String> {
    let vault = open(vault)?;
    for kind in [ChangeKind::Forget { undelete_days: 0 }, ChangeKind::Undelete, ChangeKind::Purge] {
        let decide = &mut |history: &History, _| {
            let records = choose(history, &kind, dice);
            (!records.is_empty()).then(|| ChangeRecord { records, note: String::new(), kind: kind.clone() })
        };
        vault.change(decide).map_err(|error| format!("{kind:?}: {}", chain(&error)))?;
    }
    Ok(())
}

/// Old ones go sooner than new ones, but new ones go, too: a backup's parent may be purged while it runs.
fn choose(history: &History, kind: &ChangeKind, dice: &mut Dice) -> Vec<u64> {
    let wanted = |state: RefState| match kind {
        ChangeKind::Forget { .. } => state == RefState::Live,
        _ => matches!(state, RefState::Forgotten { .. }),
    };
    let fitting: Vec<u64> =
        history.refs.values().filter(|entry| wanted(entry.state)).map(|entry| entry.count).collect();
    let old = fitting.len().saturating_sub(NEWEST);
    let mut is_chosen = |at: usize| match kind {
        ChangeKind::Forget { .. } => dice.one_in(if at < old { 2 } else { 6 }),
        ChangeKind::Purge => !dice.one_in(4),
        _ => dice.one_in(8),
    };
    (0..).zip(fitting).filter(|(at, _)| is_chosen(*at)).map(|(_, count)| count).collect()
}
