//! Repair: bringing back what can be brought back in a vault that damage was found in.
//!
//! What always holds, also when a repair is interrupted anywhere: it only ever adds to what can be read. What is not in
//! a listing is not taken for gone, what cannot be read is set aside and never removed, and each step stands by itself,
//! so that the next run goes on from wherever the last one ended.

mod index;
mod mend;
mod packs;
mod snapshots;
mod writer;

pub use index::{IndexRepair, Rows, repair_index};
pub use mend::DAMAGED_SUFFIX;
pub use packs::{PackRepair, repair_packs};
pub use snapshots::{MENDED_TAG, Mended, RECOVERED_TAG, SnapshotRepair, repair_snapshots};

use crate::branch::BranchError;
use crate::files::Lock;
use crate::gc::GcError;
use crate::kv::KvError;
use crate::progress::Progress;
use crate::store::{LocalStore, StoreError};
use crate::vault::{ErrorClass, ReadError, VaultError};

/// How a repair ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// There was nothing to do.
    Nothing,
    /// There was damage, and everything that snapshots need is there now.
    Healed,
    /// Snapshots still miss something.
    DamageLeft,
}

impl Outcome {
    /// From whether anything was wrong, and whether snapshots still lack something.
    pub fn of(found: bool, lacks: bool) -> Self {
        match (found, lacks) {
            (_, true) => Self::DamageLeft,
            (true, false) => Self::Healed,
            (false, false) => Self::Nothing,
        }
    }
}

/// A repair could not be done. What it did until then stands, and nothing is worse than before.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A chunk is out of reach.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Frames could not be copied.
    #[error(transparent)]
    Copy(#[from] GcError),
    /// A mended branch cannot be written down.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// Compression cannot be set up.
    #[error("cannot set up compression")]
    Compression(#[source] std::io::Error),
    /// Somebody asked to stop.
    #[error("the repair was interrupted; the next one goes on where it was")]
    Cancelled,
}

impl From<KvError> for RepairError {
    fn from(error: KvError) -> Self {
        Self::Store(error.into())
    }
}

impl From<crate::files::FilesError> for RepairError {
    fn from(error: crate::files::FilesError) -> Self {
        Self::Store(error.into())
    }
}

impl RepairError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Vault(error) => error.class(),
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Read(error) => error.class(),
            Self::Copy(error) => error.class(),
            Self::Branch(_) | Self::Compression(_) => ErrorClass::Other,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }
}

/// Result of a repair or a part of it.
pub type Result<T> = std::result::Result<T, RepairError>;

fn cancelled(progress: &Progress) -> Result<()> {
    match progress.is_cancelled() {
        true => Err(RepairError::Cancelled),
        false => Ok(()),
    }
}

/// The lock of those who move frames: one collection of garbage or one repair at a time.
fn lock_moving(store: &LocalStore) -> Result<Box<dyn Lock>> {
    const PATH: &str = "locks/gc";
    let parts = &store.0.parts;
    match parts.files.try_lock(PATH, &parts.owner)? {
        Some(lock) => Ok(lock),
        None => Err(StoreError::Busy { what: "collection of garbage", owner: parts.owner_of(PATH) }.into()),
    }
}
