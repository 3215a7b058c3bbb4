//! Scrub: are the bytes on the disk still those that were stored? Without any key, slowly, with pauses, again and again.
//!
//! A round reads both copies of config and keyring, the records, the index, and every pack by name. What looks wrong is
//! read once more from the disk, and the index is asked again, before it is called bad. A bad frame loses its standing,
//! so that the next backup stores anew what it still meets. Contents are not opened: that takes keys, and `check`.
//!
//! What always holds: a place is written down together with all that was found before it, so a round that was cut
//! short anywhere goes on without leaving anything out. What cannot be read for want of means (descriptors, rights) is
//! neither bad nor good: it ends the run, and the round goes on from there later.

mod packs;
mod plan;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod window;

pub use plan::{PackPlace, Step};
pub use state::{Counts, DIR, Done, Round, ScrubFault};

use crate::check::CheckError;
use crate::env::Env;
use crate::files::{Files, FilesError};
use crate::id::VaultId;
use crate::progress::Progress;
use crate::store::{Fault, LocalStore, Store, StoreError};
use crate::vault::{ErrorClass, VaultError};
use run::{Halt, Run};
use state::{Found, LAST, PACKS, PAUSE, PRESENT};
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// The lock a scrub holds.
const LOCK: &str = "scrub";

/// Lets time pass.
pub type Wait = dyn Fn(Duration) + Send + Sync;

/// How to scrub.
#[derive(Clone)]
pub struct ScrubOptions {
    /// Go on with the round that was left, instead of beginning one.
    pub resume: bool,
    /// Bytes a second at most.
    pub rate: Option<NonZeroU64>,
    /// Called to let time pass, for less than a second at a time.
    pub wait: Arc<Wait>,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { resume: false, rate: None, wait: Arc::new(std::thread::sleep) }
    }
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The round is complete.
    Complete,
    /// Somebody asked for a pause; the round goes on from its place.
    Paused,
    /// The run was told to end; the round goes on from its place.
    Interrupted,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubReport {
    /// How it ended.
    pub end: End,
    /// The round as it stands.
    pub round: Round,
    /// What is worth knowing and no damage.
    pub notes: Vec<String>,
}

/// What is remembered of scrubs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// The last complete round.
    pub last: Option<Round>,
    /// The round that is not complete.
    pub present: Option<Round>,
    /// Who is scrubbing now.
    pub running: Option<String>,
    /// What of it could not be read.
    pub notes: Vec<String>,
}

/// A scrub could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// The vault cannot be found.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading the index failed.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// No round was left.
    #[error("there is no scrub to go on with")]
    NothingLeft,
}

impl From<FilesError> for ScrubError {
    fn from(error: FilesError) -> Self {
        Self::Store(error.into())
    }
}

impl ScrubError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Vault(error) => error.class(),
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Check(error) => error.class(),
            Self::NothingLeft => ErrorClass::Other,
        }
    }
}

/// Result of a scrub.
pub type Result<T> = std::result::Result<T, ScrubError>;

/// Scrubs until the round is complete or somebody asks for an end. `rebuilt` is what a rebuild of the index found when
/// the store was opened, without a key by [`Vault::open_store`](crate::vault::Vault::open_store). Memory: 40 bytes for each frame.
///
/// # Errors
/// [`StoreError::Busy`] while another scrub runs; what keeps the vault from being read. The place is kept.
pub fn scrub(
    store: &LocalStore,
    env: &Env,
    rebuilt: Option<&[Fault]>,
    options: &ScrubOptions,
    progress: &Progress,
) -> Result<ScrubReport> {
    let files = &**store.files();
    files.create_dir(DIR)?;
    let _lock = lock(store, options)?;
    // Whoever asked before this run began meant another one.
    remove(files, PAUSE)?;
    let mut notes = Vec::new();
    let (round, listed) = match options.resume {
        true => go_on(store, env, &mut notes)?,
        false => (begin(store, env, &mut notes)?, Vec::new()),
    };
    let mut run = Run::new(store, env, options, progress, round, listed);
    let end = match run.go(rebuilt) {
        Ok(()) => End::Complete,
        Err(Halt::End(end)) => end,
        Err(Halt::Failed(error)) => return Err(error),
    };
    remove(files, PAUSE)?;
    notes.append(&mut run.notes);
    Ok(ScrubReport { end, round: run.round, notes })
}

/// Takes the lock of scrubs. Who only asks whether one runs holds it for a moment, which is waited for.
fn lock(store: &LocalStore, options: &ScrubOptions) -> Result<Box<dyn crate::files::Lock>> {
    const TRIES: usize = 4;
    for _ in 1..TRIES {
        match store.try_lock(LOCK) {
            Err(StoreError::Busy { .. }) => (options.wait)(Duration::from_millis(50)),
            result => return Ok(result?),
        }
    }
    Ok(store.try_lock(LOCK)?)
}

/// A new round. One that was left is left for good.
fn begin(store: &LocalStore, env: &Env, notes: &mut Vec<String>) -> Result<Round> {
    let files = &**store.files();
    let mut number = 0;
    for path in [LAST, PRESENT] {
        match Round::load(files, store.vault(), path)? {
            Found::Value(round) => {
                if path == PRESENT && round.number > number {
                    notes.push(format!("round {}, which stood at {:.0} %, is given up", round.number, round.percent()));
                }
                number = number.max(round.number);
            }
            Found::Unreadable(why) => notes.push(why),
            Found::Nothing => {}
        }
    }
    Ok(Round::new(number.saturating_add(1), env.clock.now()))
}

/// The round that was left, and the packs it owes.
fn go_on(store: &LocalStore, env: &Env, notes: &mut Vec<String>) -> Result<(Round, Vec<crate::pack::PackName>)> {
    let (files, vault) = (&**store.files(), store.vault());
    let round = match Round::load(files, vault, PRESENT)? {
        Found::Value(round) => round,
        Found::Unreadable(why) => {
            notes.push(format!("{why}: the round begins anew"));
            return Ok((begin(store, env, notes)?, Vec::new()));
        }
        Found::Nothing => return Err(ScrubError::NothingLeft),
    };
    if let Found::Value(last) = Round::load(files, vault, LAST)?
        && last.number >= round.number
    {
        return Err(ScrubError::NothingLeft);
    }
    if round.step < Step::Packs {
        return Ok((round, Vec::new()));
    }
    match state::load_list(files, vault, round.number)? {
        Found::Value(listed) => Ok((round, listed)),
        Found::Nothing | Found::Unreadable(_) => {
            notes.push(format!("{PACKS} is not readable: the round begins anew"));
            Ok((begin(store, env, notes)?, Vec::new()))
        }
    }
}

/// What is remembered, without a key and without the index.
pub fn status(files: &dyn Files, vault: VaultId) -> Result<Status> {
    let mut status = Status::default();
    let mut read = |path| match Round::load(files, vault, path) {
        Ok(Found::Value(round)) => Ok(Some(round)),
        Ok(Found::Unreadable(why)) => {
            status.notes.push(why);
            Ok(None)
        }
        Ok(Found::Nothing) => Ok(None),
        Err(error) => Err(error),
    };
    let (last, present) = (read(LAST)?, read(PRESENT)?);
    let is_over = |round: &Round| last.as_ref().is_some_and(|last| last.number >= round.number);
    status.present = present.filter(|round| !is_over(round));
    status.last = last;
    status.running = running(files)?;
    Ok(status)
}

/// Who is scrubbing now.
pub fn running(files: &dyn Files) -> Result<Option<String>> {
    let path = format!("locks/{LOCK}");
    match files.open(&path) {
        // No scrub ever ran, or this one is over before we looked.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => drop(result?),
    }
    // What the holder wrote, before our own try could write over it.
    let owner = files.read_all(&path, 1024).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match files.try_lock(&path, "status") {
        Ok(Some(_)) => Ok(None),
        Ok(None) => Ok(Some(owner.filter(|owner| !owner.is_empty()).unwrap_or_else(|| "another process".to_owned()))),
        // Who may not even try to lock cannot know.
        Err(error) if ErrorClass::of_files(&error) == ErrorClass::NotAllowed => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Asks the scrub that runs to pause, which it does within a second, but for the time it takes to verify the index;
/// tells who that is. `None`: none runs.
pub fn ask_to_pause(files: &dyn Files) -> Result<Option<String>> {
    let Some(owner) = running(files)? else { return Ok(None) };
    files.write_atomic(PAUSE, b"")?;
    // It may have ended since: then nobody is asked.
    let still = running(files)?;
    if still.is_none() {
        remove(files, PAUSE)?;
    }
    Ok(still.map(|_| owner))
}

fn remove(files: &dyn Files, path: &str) -> Result<()> {
    match files.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
