//! What keeps retention from acting.

use super::policy::GroupKey;
use crate::history::{Jump, Refusal};
use crate::id::ChunkId;
use crate::store::Fault;
use crate::vault::{ErrorClass, VaultError};

/// A policy that cannot be meant. Nothing is forgotten by it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    /// It has no rule.
    #[error("the policy has no rule that keeps anything")]
    Empty,
    /// Its rules want nothing of a group in which there is something.
    #[error("the policy would keep nothing of {group}; nothing was forgotten")]
    KeepsNothing {
        /// The group.
        group: GroupKey,
        /// Complete snapshots in it.
        snapshots: usize,
    },
}

/// Nothing was forgotten, purged, brought back, pinned or tagged.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The policy is refused.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Ages cannot be told.
    #[error("the clock has jumped, so nobody can tell how old snapshots are")]
    Clock(Vec<Jump>),
    /// A record that may have pinned or brought back something cannot be read.
    #[error("{}: {}; what it said of snapshots is not known", .0.file, .0.problem)]
    Unreadable(Fault),
    /// A snapshot is protected, or in no state for it.
    #[error("snapshot {id} stays as it is: {refusal}")]
    Refused {
        /// The snapshot.
        id: ChunkId,
        /// Why.
        refusal: Refusal,
    },
    /// A record is no snapshot of this vault.
    #[error("record {0} is no snapshot")]
    NoSnapshot(u64),
    /// A bound of what one change can say.
    #[error("that is more than one change can say: {0}")]
    Bound(String),
    /// The minimum retention only grows.
    #[error("the minimum retention is {now} days and cannot become {wanted}: nothing makes it shorter")]
    Shorter {
        /// Days now.
        now: u32,
        /// Days asked for.
        wanted: u32,
    },
    /// Others keep changing the vault.
    #[error("the vault changed each time before the decision was made; try again")]
    Restless,
}

impl RetentionError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Vault(error) => error.class(),
            Self::Policy(PolicyError::Empty) | Self::Bound(_) => ErrorClass::Usage,
            Self::Policy(PolicyError::KeepsNothing { .. }) | Self::NoSnapshot(_) => ErrorClass::Other,
            Self::Clock(_) | Self::Refused { .. } | Self::Shorter { .. } => ErrorClass::NotAllowed,
            Self::Unreadable(_) => ErrorClass::Damaged,
            Self::Restless => ErrorClass::Busy,
        }
    }
}
