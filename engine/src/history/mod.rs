//! History: what the chain of records says, replayed from its first record to its last.
//!
//! What always holds: the same records give the same history to everybody, with keys or without, at whatever time;
//! nothing here asks a clock. What no rule allows has no effect and is told as a fault.

mod replay;
mod rules;
#[cfg(test)]
mod tests;

pub use replay::{CLOCK_BACK_MAX, CLOCK_FORWARD_MAX, Jump};
pub use rules::{DAY, Refusal, is_past};

use crate::env::Time;
use crate::id::VaultId;
use crate::record::{ParsedRecord, Record, RefKind, RefRecord};
use crate::store::{Fault, Store, StoredRecord};
use std::collections::{BTreeMap, BTreeSet};

/// What became of a ref.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefState {
    /// It is wanted.
    Live,
    /// It is not wanted any more, and may be brought back.
    Forgotten {
        /// When the vault heard of it.
        at: Time,
        /// For so many days it can be brought back.
        undelete_days: u32,
    },
    /// It holds nothing back.
    Purged,
}

/// A ref and all that was said of it since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefHistory {
    /// Place of its record in the chain.
    pub count: u64,
    /// When the vault received it.
    pub received: Time,
    /// What it names.
    pub reference: RefRecord,
    /// What became of it.
    pub state: RefState,
    /// Count of the record that forgot it last; 0 where none did.
    pub forgotten_by: u64,
    /// Whether no policy may forget it.
    pub pinned: bool,
    /// Whether its damage is known and accepted.
    pub aside: bool,
    /// Tags that were added since.
    pub tags_added: BTreeSet<String>,
    /// Tags that were taken away since.
    pub tags_removed: BTreeSet<String>,
}

impl RefHistory {
    /// The tags it has now, when it began with these.
    pub fn tags(&self, first: &[String]) -> Vec<String> {
        let kept = first.iter().filter(|tag| !self.tags_removed.contains(*tag) && !self.tags_added.contains(*tag));
        kept.chain(&self.tags_added).cloned().collect()
    }
}

/// What can be said of records as a whole.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// All refs by the count of their record.
    pub refs: BTreeMap<u64, RefHistory>,
    /// Records that are unreadable, missing, forged, or say what no rule allows; each with its count.
    pub faults: Vec<(u64, Fault)>,
    /// Counts of records whose loss is known and accepted.
    pub aside: BTreeSet<u64>,
    /// Count of the last record; 0 where there is none.
    pub tip: u64,
    /// When the last record was received; nothing where there is none.
    pub last_received: Option<Time>,
    /// No snapshot received within so many days may be forgotten now: what the config says, or a record has made of it.
    pub retention_days_min: u32,
    /// Jumps of the clock that nobody confirmed.
    pub jumps: Vec<Jump>,
    /// Where whoever keeps the records counts time of its own: what was forgotten by a record behind this count is not
    /// let go yet, whatever the clock says. Nothing where there is no such count.
    pub ripe: Option<u64>,
}

impl History {
    /// Refs that are wanted, in the order they were received.
    pub fn live(&self) -> impl Iterator<Item = &RefHistory> {
        self.refs.values().filter(|entry| entry.state == RefState::Live)
    }

    /// Refs that hold back what they name.
    pub fn roots(&self) -> impl Iterator<Item = &RefHistory> {
        self.refs.values().filter(|entry| entry.state != RefState::Purged)
    }

    /// What has to be known before anything may be deleted: faults nobody has accepted.
    pub fn open_faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|(count, _)| !self.aside.contains(count)).map(|(_, fault)| fault)
    }

    /// Reads the whole chain. `trust` says which record to believe; see [`unkeyed`].
    pub fn read(store: &dyn Store, retention_days_min: u32, trust: &mut Trust<'_>) -> crate::store::Result<Self> {
        let history = Self::replay(&store.records()?, store.vault(), retention_days_min, trust);
        Ok(Self { ripe: store.ripe()?, ..history })
    }

    /// Whether a forgotten ref was forgotten so long ago as whoever keeps the records counts time.
    pub fn is_ripe(&self, entry: &RefHistory) -> bool {
        // A checkpoint is no snapshot anybody asked for: no window protects it.
        let is_partial = entry.reference.kind == RefKind::PartialSnapshot;
        is_partial || self.ripe.is_none_or(|ripe| entry.forgotten_by <= ripe)
    }

    /// Replays records that stand in the order of their counts.
    pub fn replay(records: &[StoredRecord], vault: VaultId, retention_days_min: u32, trust: &mut Trust<'_>) -> Self {
        replay::replay(records, vault, retention_days_min, trust)
    }
}

/// Decides whether a record that is whole was written by somebody who may: it, nothing where that cannot be told and
/// the record is passed over, or why not.
pub type Trust<'a> = dyn FnMut(ParsedRecord) -> Result<Option<Record>, String> + 'a;

/// For those without keys: whole is good enough. What stands in the folder can be destroyed by who can write there
/// anyway; what a forged record can do is no more than that.
pub fn unkeyed(parsed: ParsedRecord) -> Result<Option<Record>, String> {
    Ok(Some(parsed.record))
}
