//! Check: is everything in the vault that should be there, and is it what was stored?
//!
//! Without reading file content: both copies of config and keyring, all records, the index, all packs by name and
//! length, and every branch: its bytes, its name, what it says, and whether all it refers to is there; then every
//! snapshot's tree. With file content every other frame is read, opened and compared with the names of its chunks.
//!
//! What always holds: nothing is removed. A frame found bad loses its standing in the index, so that the next backup
//! stores its chunks anew if it meets them; that, and marking packs that are gone, is all that is ever changed.

pub(crate) mod findings;
mod frames;
pub(crate) mod index;
pub(crate) mod judge;
mod packs;
pub(crate) mod records;
mod remote;
#[cfg(test)]
mod tests;
mod trees;

use crate::id::ChunkId;
use crate::progress::Progress;
use crate::store::{Fault, StoreError};
use crate::vault::{ErrorClass, ReadError, Vault, VaultError};
use findings::Findings;
use index::IndexView;
use std::ops::Range;
use std::time::Duration;

/// Which packs of file content are read.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Subset {
    /// The `n`th of `of` parts, `n` from 1; all parts together are everything, whenever each is read.
    Part {
        /// Which.
        n: u64,
        /// How many there are.
        of: u64,
    },
    /// About so many in a hundred, other ones each time.
    Percent(f64),
}

/// What to check.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct CheckOptions {
    /// Read file content, too.
    pub read_data: bool,
    /// Only some of it.
    pub subset: Option<Subset>,
}

/// Something in a snapshot that cannot be restored as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedFile {
    /// The snapshot.
    pub snapshot: ChunkId,
    /// Absolute path in it; `/` also where the snapshot itself cannot be read.
    pub path: Vec<u8>,
    /// Bytes that are lost, ascending. None: a folder of which not everything can be listed.
    pub ranges: Vec<Range<u64>>,
}

/// What a check found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CheckReport {
    /// Packs read from front to back.
    pub packs: u64,
    /// Packs there are.
    pub packs_total: u64,
    /// Frames verified.
    pub frames: u64,
    /// Frames there are and are believed.
    pub frames_total: u64,
    /// Chunks compared with their names.
    pub chunks: u64,
    /// Chunks the index knows.
    pub chunks_total: u64,
    /// Snapshots whose trees were walked, checkpoints included.
    pub snapshots: u64,
    /// Records read.
    pub records: u64,
    /// Bytes read from packs.
    pub bytes_read: u64,
    /// What is damaged, file by file.
    pub faults: Vec<Fault>,
    /// Faults beyond the first 10 000.
    pub faults_more: u64,
    /// What is damaged, as snapshots see it.
    pub damaged: Vec<DamagedFile>,
    /// Damaged files and folders beyond the first 10 000.
    pub damaged_more: u64,
    /// Branches that are stored while something below them is missing. Those of snapshots are among `damaged`, too;
    /// others are left over from backups that were interrupted.
    pub unwhole: u64,
    /// What is worth knowing and no damage: leftovers of interrupted backups, frames set aside earlier.
    pub notes: Vec<String>,
    /// How long it took.
    pub duration: Duration,
}

impl CheckReport {
    /// Whether everything that was looked at is as it should be.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.damaged.is_empty() && self.damaged_more == 0
    }

    /// What kind of result it is: `None` when clean.
    pub fn class(&self) -> Option<ErrorClass> {
        (!self.is_clean()).then_some(ErrorClass::Damaged)
    }
}

/// A check could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no such subset.
    #[error("{0}")]
    Subset(&'static str),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A chunk is out of reach.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Decompression cannot be set up.
    #[error("cannot set up decompression")]
    Decompression(#[source] std::io::Error),
    /// Somebody asked to stop.
    #[error("the check was interrupted")]
    Cancelled,
}

impl From<crate::files::FilesError> for CheckError {
    fn from(error: crate::files::FilesError) -> Self {
        Self::Store(error.into())
    }
}

impl CheckError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Subset(_) => ErrorClass::Usage,
            Self::Vault(error) => error.class(),
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Read(error) => error.class(),
            Self::Decompression(_) => ErrorClass::Other,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }
}

/// Result of a part of the check.
type Result<T> = std::result::Result<T, CheckError>;

/// Checks a vault; see the module. Memory: 40 bytes for each frame, 100 for each folder and long file.
pub fn check(
    vault: &Vault,
    options: &CheckOptions,
    progress: &Progress,
) -> std::result::Result<CheckReport, CheckError> {
    vault.require_member()?;
    let started = vault.env().clock.elapsed();
    let chosen = packs::Chosen::new(options, &*vault.env().entropy)?;
    let mut findings = Findings::default();
    let verify = |kind, bytes: &[u8]| records::verify(vault, kind, bytes);
    let Ok(local) = vault.local() else {
        let refs = records::refs(vault, &mut findings)?;
        let trust = remote::check(vault, options, &mut findings, progress)?;
        trees::check(vault, &refs, &trust, &mut findings, progress)?;
        findings.report.unwhole = vault.store().unwhole()?.len() as u64;
        return Ok(findings.finish(vault.env().clock.elapsed().saturating_sub(started)));
    };
    records::twins(&**local.files(), &verify, &mut findings)?;
    let refs = records::refs(vault, &mut findings)?;
    if index::is_sound(local, &mut findings)? {
        for fault in packs::audit(vault, &mut findings)? {
            findings.fault(fault.file, fault.problem);
        }
        let view = IndexView::read(local, &mut findings, progress)?;
        let outcome = packs::check(vault, &view, &chosen, &mut findings, progress)?;
        let bad = packs::expel(vault, outcome, &mut findings)?;
        trees::check(vault, &refs, &bad, &mut findings, progress)?;
        findings.report.unwhole = vault.store().unwhole()?.len() as u64;
    }
    Ok(findings.finish(vault.env().clock.elapsed().saturating_sub(started)))
}
