//! Restore: from a snapshot to files in a folder.
//!
//! The tree is walked in windows: folders are made as they come, files gather until there is enough to do, then each
//! frame they need is read once, opened, and its chunks are written where they belong. What always holds: only bytes
//! that their names vouch for are written, nothing outside the target is touched, and a file that could not be made
//! whole is reported with the ranges that are missing and never gets the times of the original.

mod files;
mod links;
mod plan;
mod verify;
mod window;

use crate::progress::Progress;
use crate::query::{QueryError, TreeRoot};
use crate::source::SourceError;
use crate::source::filter::FilterError;
use crate::store::StoreError;
use crate::target::{Fault, OwnerPolicy, TargetError};
use crate::vault::{ErrorClass, ReadError, Vault};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What to do with what stands in the target already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overwrite {
    /// Make it as in the snapshot; content that is right already is kept, after looking at it.
    #[default]
    Always,
    /// Leave files of the same length and mtime alone.
    IfChanged,
    /// Leave files alone that are as new as the snapshot's, or newer.
    IfNewer,
    /// Leave everything alone that is there.
    Never,
}

/// What to restore, and how.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Folder to restore into; made if missing.
    pub target: PathBuf,
    /// Patterns: only what one of them matches, and everything below that.
    pub includes: Vec<String>,
    /// Patterns: what is left out.
    pub excludes: Vec<String>,
    /// Remove names from restored folders that the snapshot does not have there.
    pub delete: bool,
    /// What happens to what is there.
    pub overwrite: Overwrite,
    /// Look and count, change nothing.
    pub dry_run: bool,
    /// Read everything restored again and compare it with the snapshot.
    pub verify: bool,
    /// Keep holes as holes.
    pub sparse: bool,
    /// Whose files become.
    pub owner: OwnerPolicy,
    /// Restore extended attributes.
    pub xattrs: bool,
}

impl RestoreOptions {
    /// Everything into `target`, as faithful as the system lets us.
    pub fn to(target: PathBuf) -> Self {
        Self {
            target,
            includes: Vec::new(),
            excludes: Vec::new(),
            delete: false,
            overwrite: Overwrite::Always,
            dry_run: false,
            verify: false,
            sparse: true,
            owner: OwnerPolicy::Names,
            xattrs: true,
        }
    }
}

/// What a restore did.
#[derive(Clone, Debug, Default)]
pub struct RestoreSummary {
    /// Files made or mended.
    pub files_restored: u64,
    /// Files left alone.
    pub files_skipped: u64,
    /// Folders.
    pub dirs: u64,
    /// Links, devices, pipes.
    pub others: u64,
    /// Names removed.
    pub deleted: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes that were right already.
    pub bytes_reused: u64,
    /// Entries not restored, or not wholly; each was a warning.
    pub errors: u64,
    /// Those among them whose cause is damage in the vault.
    pub damaged: u64,
    /// Files read again and found right.
    pub verified: u64,
    /// How long it took.
    pub duration: Duration,
}

/// A restore cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A pattern cannot be used.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The target cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target cannot be read again.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The snapshot cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The snapshot cannot be walked.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody asked to stop.
    #[error("the restore was interrupted; run it again to go on where it stopped")]
    Cancelled,
}

impl RestoreError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Filter(_) => ErrorClass::Usage,
            Self::Target(error) => class_of_target(error),
            Self::Source(_) => ErrorClass::Other,
            Self::Read(error) => error.class(),
            Self::Query(error) => error.class(),
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }
}

fn class_of_target(error: &TargetError) -> ErrorClass {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match &error.source {
        Fault::LinkedRoot => ErrorClass::Usage,
        Fault::NotPermitted => ErrorClass::NotAllowed,
        Fault::System(error) => match error.kind() {
            StorageFull | QuotaExceeded => ErrorClass::NoSpace,
            PermissionDenied | ReadOnlyFilesystem => ErrorClass::NotAllowed,
            _ => ErrorClass::Other,
        },
        Fault::Name(_) | Fault::Occupied(_) | Fault::Changed | Fault::MountPoint => ErrorClass::Other,
    }
}

/// Counters of one restore.
#[derive(Default)]
struct Counts {
    files_restored: AtomicU64,
    files_skipped: AtomicU64,
    dirs: AtomicU64,
    others: AtomicU64,
    deleted: AtomicU64,
    bytes_written: AtomicU64,
    bytes_reused: AtomicU64,
    errors: AtomicU64,
    damaged: AtomicU64,
    verified: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Restores what stands below `root` into `options.target`: a folder's content, or one file under its name.
///
/// What cannot be restored is a warning, counted in `errors`; the rest is restored.
pub fn restore(
    vault: &Vault,
    root: &TreeRoot,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<RestoreSummary, RestoreError> {
    let clock = &vault.env().clock;
    let begun = clock.elapsed();
    let counts = Counts::default();
    // Whoever forgets the snapshot meanwhile does not take away what is still to be read.
    let _pin = vault.store().pin(root.snapshot)?;
    plan::run(vault, root, options, progress, &counts)?;
    if options.verify && !options.dry_run {
        verify::run(vault, root, options, progress, &counts)?;
    }
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(RestoreSummary {
        files_restored: get(&counts.files_restored),
        files_skipped: get(&counts.files_skipped),
        dirs: get(&counts.dirs),
        others: get(&counts.others),
        deleted: get(&counts.deleted),
        bytes_written: get(&counts.bytes_written),
        bytes_reused: get(&counts.bytes_reused),
        errors: get(&counts.errors),
        damaged: get(&counts.damaged),
        verified: get(&counts.verified),
        duration: clock.elapsed().saturating_sub(begun),
    })
}
