//! The change log: what happened to the office, one small immutable file an entry, `log/` and the sequence in 16 hex
//! digits.
//!
//! What always holds: sequences go from 1 without a gap; each entry names the hash of the one before; the authority
//! signed each; generations never fall. An entry that was acknowledged is on disk under its name. Nothing here removes
//! or replaces one. All numbers little-endian:
//!
//! ```text
//!   0   4  magic "TKOL"
//!   4   2  version, 1
//!   6   1  actor: 1 host, 2 machine, 3 account
//!   7   1  flags, 0
//!   8   8  generation of the host that wrote it, from 1
//!  16   8  sequence, from 1
//!  24   8  time: nanoseconds since 1970, signed
//!  32  32  actor's key (machine), or id and 16 zeros (account), or zeros (host)
//!  64  32  previous: BLAKE3 of the whole file before it; zeros for the first
//!  96   4  payload length n, at most 16 KiB
//! 100   n  payload: an Event, Cap'n Proto in canonical form
//! 100+n 64 signature: Ed25519 of the company's authority over everything before it
//! ```
//!
//! Entries missing at the end show only to who knows of them: a standby, or a node list with a larger sequence.

mod entry;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use twinkeep_engine::env::Time;
use twinkeep_engine::files::{Files, FilesError};

use super::event::Event;
use super::sign::{AuthorityKey, SigningKey};

pub use entry::{Actor, ENTRY_LEN_MAX, Entry, EntryError};

/// The folder of the entries.
pub const LOG_DIR: &str = "log";

/// The log cannot be read or extended.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// An entry does not read.
    #[error("{path} cannot be believed: {source}")]
    Entry {
        /// Its file.
        path: String,
        /// What is wrong.
        #[source]
        source: EntryError,
    },
    /// An entry is not there, while a later one is, or must be.
    #[error("{path} is missing, expected entries 1 to {last}")]
    Missing {
        /// Its file.
        path: String,
        /// The last entry there is, at least 1.
        last: u64,
    },
    /// A valid entry in the place of another.
    #[error("{path} has {what} {found}, expected {expected}")]
    Other {
        /// Its file.
        path: String,
        /// Which field.
        what: &'static str,
        /// Value wanted here.
        expected: String,
        /// Value in the entry.
        found: String,
    },
    /// A log is there already.
    #[error("there is a log of {last} entries already")]
    Exists {
        /// Its last entry.
        last: u64,
    },
    /// An append failed before, so the end of the log is uncertain until [`Log::recover`] has looked.
    #[error("writing the log failed before, so its end is uncertain")]
    Uncertain,
}

/// The end of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tip {
    /// Generation of the last entry; 0 for an empty log.
    pub generation: u64,
    /// Its sequence; 0 for an empty log.
    pub sequence: u64,
    /// BLAKE3 of its file; zeros for an empty log.
    pub hash: [u8; 32],
}

/// The log, for the one that writes it.
pub struct Log {
    files: Arc<dyn Files>,
    authority: AuthorityKey,
    tip: Tip,
    is_uncertain: bool,
}

impl Log {
    /// An empty log in an office that has none.
    pub fn create(files: Arc<dyn Files>, authority: AuthorityKey) -> Result<Self, LogError> {
        files.create_dir(LOG_DIR)?;
        match sequences(&*files)?.last() {
            Some(&last) => Err(LogError::Exists { last }),
            None => Ok(Self { files, authority, tip: Tip::default(), is_uncertain: false }),
        }
    }

    /// Reads the whole log, gives every entry to `each` in order, and makes sure that the last is durable.
    /// A log has at least one entry.
    pub fn open<E: From<LogError>>(
        files: Arc<dyn Files>,
        authority: AuthorityKey,
        mut each: impl FnMut(&Entry) -> Result<(), E>,
    ) -> Result<Self, E> {
        let sequences = sequences(&*files)?;
        let last = sequences.last().copied().unwrap_or(0).max(1);
        // The last one's writer may have failed to sync it, and it will be relied on now.
        match files.sync_file(&path(last)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LogError::Missing { path: path(last), last }.into());
            }
            other => other.map_err(LogError::from)?,
        }
        files.sync_dir(LOG_DIR).map_err(LogError::from)?;
        let mut tip = Tip::default();
        for (expected, found) in (1..).zip(sequences) {
            if expected != found {
                return Err(LogError::Missing { path: path(expected), last }.into());
            }
            let (entry, next) = read_next(&*files, &authority, &tip)?;
            each(&entry)?;
            tip = next;
        }
        Ok(Self { files, authority, tip, is_uncertain: false })
    }

    /// Its end.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// The entry that would follow; nothing is written.
    pub fn next(&self, generation: u64, time: Time, actor: Actor, event: Event) -> Entry {
        Entry { generation, sequence: self.tip.sequence.saturating_add(1), time, actor, previous: self.tip.hash, event }
    }

    /// Signs an entry and writes it; on disk when this returns.
    ///
    /// After a failure nobody knows whether it is, so nothing more is written until [`Self::recover`] has looked.
    pub fn append(&mut self, entry: &Entry, authority: &SigningKey) -> Result<(), LogError> {
        let path = path(self.tip.sequence.saturating_add(1));
        let bad = |source| LogError::Entry { path: path.clone(), source };
        let bytes = entry.encode(authority).map_err(bad)?;
        self.append_signed(&bytes).map(drop)
    }

    /// Finds out what became of an append that failed: the entry, if it is there after all, durable from now on. As
    /// opening the log anew does it, and for the last entry alone.
    pub fn recover(&mut self) -> Result<Option<Entry>, LogError> {
        if !self.is_uncertain {
            return Ok(None);
        }
        let next = path(self.tip.sequence.saturating_add(1));
        let is_there = match self.files.sync_file(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            other => other.map(|()| true)?,
        };
        self.files.sync_dir(LOG_DIR)?;
        let mut entry = None;
        if is_there {
            let (found, tip) = read_next(&*self.files, &self.authority, &self.tip)?;
            (entry, self.tip) = (Some(found), tip);
        }
        self.is_uncertain = false;
        Ok(entry)
    }

    /// Writes an entry that the authority signed before, as a standby does with what it is sent. Gives what it says.
    pub fn append_signed(&mut self, bytes: &[u8]) -> Result<Entry, LogError> {
        if self.is_uncertain {
            return Err(LogError::Uncertain);
        }
        let (entry, tip) = parse_next(bytes, &self.authority, &self.tip)?;
        self.is_uncertain = true;
        self.files.write_atomic(&path(tip.sequence), bytes)?;
        self.is_uncertain = false;
        self.tip = tip;
        Ok(entry)
    }

    /// At most `count` entries from `from` on, read from their files and verified again.
    pub fn read(&self, from: u64, count: usize) -> Result<Vec<Entry>, LogError> {
        let from = from.max(1);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let end = from.saturating_add(count).min(self.tip.sequence.saturating_add(1));
        let mut entries = Vec::new();
        let mut before: Option<[u8; 32]> = None;
        for sequence in from..end {
            let path = path(sequence);
            let bytes = read_file(&*self.files, sequence, self.tip.sequence)?;
            let entry = Entry::parse(&bytes, &self.authority)
                .map_err(|source| LogError::Entry { path: path.clone(), source })?;
            same(&path, "sequence", sequence, entry.sequence)?;
            if let Some(hash) = before {
                same_hash(&path, &hash, &entry.previous)?;
            }
            before = Some(*blake3::hash(&bytes).as_bytes());
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// The file of an entry.
pub fn path(sequence: u64) -> String {
    format!("{LOG_DIR}/{sequence:016x}")
}

/// Sequences of the entries there are, ascending. Other names, as of files half written, are none.
fn sequences(files: &dyn Files) -> Result<Vec<u64>, LogError> {
    let listed = files.list(LOG_DIR)?;
    let parse = |name: &str| u64::from_str_radix(name, 16).ok().filter(|&number| format!("{number:016x}") == name);
    Ok(listed.iter().filter(|listed| !listed.is_dir).filter_map(|listed| parse(&listed.name)).collect())
}

fn read_file(files: &dyn Files, sequence: u64, last: u64) -> Result<Vec<u8>, LogError> {
    let path = path(sequence);
    match files.read_all(&path, ENTRY_LEN_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LogError::Missing { path, last }),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            let found = ENTRY_LEN_MAX.saturating_add(1);
            Err(LogError::Entry { path, source: EntryError::Length { expected: ENTRY_LEN_MAX, found } })
        }
        other => Ok(other?),
    }
}

fn read_next(files: &dyn Files, authority: &AuthorityKey, tip: &Tip) -> Result<(Entry, Tip), LogError> {
    let sequence = tip.sequence.saturating_add(1);
    parse_next(&read_file(files, sequence, sequence)?, authority, tip)
}

/// Reads bytes that must be the entry after `tip`.
fn parse_next(bytes: &[u8], authority: &AuthorityKey, tip: &Tip) -> Result<(Entry, Tip), LogError> {
    let sequence = tip.sequence.saturating_add(1);
    let path = path(sequence);
    let entry = Entry::parse(bytes, authority).map_err(|source| LogError::Entry { path: path.clone(), source })?;
    same(&path, "sequence", sequence, entry.sequence)?;
    same_hash(&path, &tip.hash, &entry.previous)?;
    let least = tip.generation.max(1);
    if entry.generation < least {
        let (expected, found) = (format!("at least {least}"), entry.generation.to_string());
        return Err(LogError::Other { path, what: "generation", expected, found });
    }
    let hash = *blake3::hash(bytes).as_bytes();
    let tip = Tip { generation: entry.generation, sequence, hash };
    Ok((entry, tip))
}

fn same(path: &str, what: &'static str, expected: u64, found: u64) -> Result<(), LogError> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_string(), found.to_string());
    Err(LogError::Other { path: path.to_owned(), what, expected, found })
}

fn same_hash(path: &str, expected: &[u8; 32], found: &[u8; 32]) -> Result<(), LogError> {
    if expected == found {
        return Ok(());
    }
    let short = |hash: &[u8; 32]| hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let (expected, found) = (short(expected), short(found));
    Err(LogError::Other { path: path.to_owned(), what: "hash of the entry before", expected, found })
}
