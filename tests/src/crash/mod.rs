//! Power cuts: a history of backups is recorded once, then at every entry of its log the states a power cut may leave
//! are tried: the vault opens, every acknowledged snapshot is whole, the next backup succeeds and is whole too.

mod record;
mod trial;

use crate::lab::{Taken, chain};
use crate::model::Model;
use crate::tree::SourceTree;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use twinkeep_engine::files::record::Log;
use twinkeep_engine::history::{RefHistory, RefState};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::vault::Vault;

/// What is acknowledged once a vault is made.
const VAULT: &str = "vault";

/// What is acknowledged once a way in was added and a new key pair drawn.
const KEYS: &str = "keys";
/// What is acknowledged, with a number behind it, once something is said of snapshots.
const SAID: &str = "said ";

/// What is said of a vault and its snapshots: days of the undelete window, and of each snapshot its state (`l` wanted,
/// `f` forgotten, `p` purged), whether it is pinned, and its tags.
type Standing = (u32, BTreeMap<ChunkId, (char, bool, Vec<String>)>);

fn standing(vault: &Vault) -> Result<Standing, String> {
    let history = vault.history().map_err(|error| format!("history: {}", chain(&error)))?;
    let one = |entry: &RefHistory| {
        let state = match entry.state {
            RefState::Live => 'l',
            RefState::Forgotten { .. } => 'f',
            RefState::Purged => 'p',
        };
        (entry.reference.target, (state, entry.pinned, entry.tags(&[])))
    };
    Ok((vault.config().undelete_days, history.refs.values().map(one).collect()))
}

/// Everything that happened, and what has to come out of it.
pub struct History {
    log: Log,
    /// The first entry to be tried.
    from: usize,
    /// Acknowledged and listed snapshots by id.
    taken: BTreeMap<ChunkId, Taken>,
    /// What was in a source at some backup, acknowledged or not.
    seen: Vec<(Vec<u8>, Arc<Model>)>,
    /// How things stood after each change that was acknowledged.
    said: Vec<Standing>,
    tree: SourceTree,
    caches: Vec<PathBuf>,
    _scratch: tempfile::TempDir,
}

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Crash states tried.
    pub states: usize,
    /// Of them, crashes while recovering from a crash.
    pub again: usize,
    /// Entries of the log.
    pub entries: usize,
    /// Snapshots of the history.
    pub snapshots: usize,
}

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// States at each entry of the log.
    pub states: usize,
    /// One in this many states is recovered from under a second crash.
    pub again_one_in: usize,
    /// One in this many entries of the log is looked at.
    pub entry_one_in: usize,
}

/// Records a history from a seed and tries it.
pub fn run(seed: u64, budget: Budget) -> Result<Counts, String> {
    History::record(seed)?.try_all(seed, budget)
}

/// Tries a history of changes.
pub fn run_changes(seed: u64, states: usize) -> Result<Counts, String> {
    let budget = Budget { states, again_one_in: 40, entry_one_in: 1 };
    History::record_changes(seed)?.try_all(seed, budget)
}

/// Tries the end of a history in which a record may stand behind one that is not durable.
pub fn run_loose_record(seed: u64, states: usize) -> Result<Counts, String> {
    let budget = Budget { states, again_one_in: 1000, entry_one_in: 1 };
    History::record_loose_record(seed)?.try_all(seed, budget)
}
