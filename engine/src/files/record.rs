//! What was done to a disk, in order: [`RecordingFiles`] and [`RecordingKvHome`] write every change into one [`Log`],
//! from which [`crash`](super::crash) makes the states a power cut may leave. Tests add what was acknowledged.
//!
//! A change is in the log once it was done, and the log's order is the order in which changes were done, whatever the
//! threads. Failed calls change nothing in the twins below and are not logged.

use super::memory::MemoryFiles;
use super::{Append, Files, Listed, Lock, ReadAt, Result};
use crate::kv::memory::{MemoryKvHome, Version, read_through};
use crate::kv::{self, Kv, KvHome, Read, Table, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file as the log names it, whatever its path.
pub type FileNumber = u64;

/// One row set (`value` given) or removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Where.
    pub table: Table,
    /// Which row.
    pub key: Vec<u8>,
    /// Its new value, if it is not removed.
    pub value: Option<Vec<u8>>,
}

/// One change to the disk, or a mark.
#[derive(Clone, Debug)]
pub enum Op {
    /// A folder and its parents were made durable.
    CreateDir {
        /// The folder.
        path: String,
    },
    /// A file was created.
    Create {
        /// Its path.
        path: String,
        /// Its number from now on.
        file: FileNumber,
    },
    /// Bytes were appended.
    Append {
        /// To which file.
        file: FileNumber,
        /// Which bytes.
        bytes: Arc<[u8]>,
    },
    /// A file's bytes were synced.
    Sync {
        /// Which file's.
        file: FileNumber,
    },
    /// A file was renamed.
    Rename {
        /// Old path.
        from: String,
        /// New path.
        to: String,
    },
    /// A file was removed.
    Remove {
        /// Its path.
        path: String,
    },
    /// A folder's names were synced.
    SyncDir {
        /// The folder.
        path: String,
    },
    /// A transaction was committed.
    KvCommit {
        /// All its changes, in order.
        changes: Arc<[Change]>,
    },
    /// The map was replaced.
    KvReplace {
        /// By this.
        version: Version,
    },
    /// The test saw an acknowledgement.
    Ack(String),
}

/// The common log; clones share it.
#[derive(Clone)]
pub struct Log {
    base: MemoryFiles,
    base_kv: Option<Version>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    ops: Vec<Op>,
    files: FileNumber,
}

/// Starts a log over a disk, all of which counts as durable by now.
pub fn record(files: MemoryFiles, kv: MemoryKvHome) -> (RecordingFiles, RecordingKvHome, Log) {
    let log = Log { base: files.copy(), base_kv: kv.version(), state: Arc::default() };
    (RecordingFiles { inner: files, log: log.clone() }, RecordingKvHome { inner: kv, log: log.clone() }, log)
}

impl Log {
    /// Marks that something was acknowledged to the user.
    pub fn ack(&self, what: impl Into<String>) {
        self.state().ops.push(Op::Ack(what.into()));
    }

    /// Number of entries so far.
    pub fn len(&self) -> usize {
        self.state().ops.len()
    }

    /// Whether nothing was done yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of all entries.
    pub fn ops(&self) -> Vec<Op> {
        self.state().ops.clone()
    }

    /// What was acknowledged within the first `at` entries.
    pub fn acks(&self, at: usize) -> Vec<String> {
        let state = self.state();
        let ops = state.ops.iter().take(at);
        ops.filter_map(|op| if let Op::Ack(what) = op { Some(what.clone()) } else { None }).collect()
    }

    /// The files when recording began.
    pub(super) fn base(&self) -> &MemoryFiles {
        &self.base
    }

    /// The map when recording began.
    pub(super) fn base_kv(&self) -> Option<Version> {
        self.base_kv.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something and logs it, with nothing else in between.
    fn run<T, E>(&self, run: impl FnOnce() -> std::result::Result<T, E>, op: Op) -> std::result::Result<T, E> {
        let mut state = self.state();
        let done = run()?;
        state.ops.push(op);
        Ok(done)
    }
}

/// Files whose changes are logged.
#[derive(Clone)]
pub struct RecordingFiles {
    inner: MemoryFiles,
    log: Log,
}

impl RecordingFiles {
    /// The files themselves.
    pub fn inner(&self) -> &MemoryFiles {
        &self.inner
    }
}

impl Files for RecordingFiles {
    fn create(&self, path: &str) -> Result<Arc<dyn Append>> {
        let mut state = self.log.state();
        let inner = self.inner.create(path)?;
        let file = state.create(path);
        Ok(Arc::new(RecordingAppend { inner, file, log: self.log.clone() }))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn ReadAt>> {
        self.inner.open(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        self.inner.list(dir)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let op = Op::Rename { from: from.to_owned(), to: to.to_owned() };
        self.log.run(|| self.inner.rename(from, to), op)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.log.run(|| self.inner.remove(path), Op::Remove { path: path.to_owned() })
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.log.run(|| self.inner.create_dir(path), Op::CreateDir { path: path.to_owned() })
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.log.run(|| self.inner.sync_dir(dir), Op::SyncDir { path: dir.to_owned() })
    }

    fn sync_file(&self, path: &str) -> Result<()> {
        let mut state = self.log.state();
        self.inner.sync_file(path)?;
        // A file from before the recording cannot have grown since: files are only appended to by who made them.
        if let Some(file) = state.number_of(path) {
            state.ops.push(Op::Sync { file });
        }
        Ok(())
    }

    fn try_lock(&self, path: &str, owner: &str) -> Result<Option<Box<dyn Lock>>> {
        let mut state = self.log.state();
        let is_new = self.inner.bytes(path).is_none();
        let lock = self.inner.try_lock(path, owner)?;
        if is_new {
            let file = state.create(path);
            state.ops.push(Op::Append { file, bytes: owner.as_bytes().into() });
        }
        Ok(lock)
    }
}

impl State {
    /// The file that has this name now, if it was made since the recording began.
    fn number_of(&self, path: &str) -> Option<FileNumber> {
        let mut name = path;
        for op in self.ops.iter().rev() {
            match op {
                Op::Rename { from, to } if to == name => name = from,
                Op::Create { path, file } if path == name => return Some(*file),
                _ => {}
            }
        }
        None
    }

    fn create(&mut self, path: &str) -> FileNumber {
        self.files += 1;
        self.ops.push(Op::Create { path: path.to_owned(), file: self.files });
        self.files
    }
}

struct RecordingAppend {
    inner: Arc<dyn Append>,
    file: FileNumber,
    log: Log,
}

impl Append for RecordingAppend {
    fn append(&self, bytes: &[u8]) -> Result<()> {
        self.log.run(|| self.inner.append(bytes), Op::Append { file: self.file, bytes: bytes.into() })
    }

    fn sync(&self) -> Result<()> {
        self.log.run(|| self.inner.sync(), Op::Sync { file: self.file })
    }
}

/// A map's home whose commits and replacements are logged.
#[derive(Clone)]
pub struct RecordingKvHome {
    inner: MemoryKvHome,
    log: Log,
}

impl RecordingKvHome {
    /// The home itself.
    pub fn inner(&self) -> &MemoryKvHome {
        &self.inner
    }
}

impl KvHome for RecordingKvHome {
    fn open(&self) -> kv::Result<Option<Arc<dyn Kv>>> {
        let kv = self.inner.open()?;
        Ok(kv.map(|inner| Arc::new(RecordingKv { inner, log: self.log.clone() }) as Arc<dyn Kv>))
    }

    fn replace(&self, fill: &mut dyn FnMut(&dyn Kv) -> kv::Result<()>) -> kv::Result<Arc<dyn Kv>> {
        // `fill` may read files and log them, so the log is taken only for the last step: nobody else may commit
        // while the caller holds the index lock.
        let inner = self.inner.replace(fill)?;
        let version = version(&*inner)?;
        self.log.state().ops.push(Op::KvReplace { version });
        Ok(Arc::new(RecordingKv { inner, log: self.log.clone() }))
    }
}

fn version(kv: &dyn Kv) -> kv::Result<Version> {
    let mut version = Version::default();
    let read = kv.read()?;
    for table in Table::ALL {
        let rows = version.rows_mut(table);
        read.scan(table, b"", &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })?;
    }
    Ok(version)
}

struct RecordingKv {
    inner: Arc<dyn Kv>,
    log: Log,
}

impl Kv for RecordingKv {
    fn read(&self) -> kv::Result<Box<dyn Read + '_>> {
        self.inner.read()
    }

    fn verify(&self) -> kv::Result<()> {
        self.inner.verify()
    }

    fn write(&self) -> kv::Result<Box<dyn Write + '_>> {
        Ok(Box::new(RecordingWrite { inner: self.inner.write()?, changes: Vec::new(), log: &self.log }))
    }
}

struct RecordingWrite<'a> {
    inner: Box<dyn Write + 'a>,
    changes: Vec<Change>,
    log: &'a Log,
}

read_through!(RecordingWrite<'_>, inner);

impl Write for RecordingWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> kv::Result<()> {
        self.inner.put(table, key, value)?;
        self.changes.push(Change { table, key: key.to_vec(), value: Some(value.to_vec()) });
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> kv::Result<bool> {
        let was_there = self.inner.delete(table, key)?;
        self.changes.push(Change { table, key: key.to_vec(), value: None });
        Ok(was_there)
    }

    fn commit(self: Box<Self>) -> kv::Result<()> {
        let Self { inner, changes, log } = *self;
        log.run(|| inner.commit(), Op::KvCommit { changes: changes.into() })
    }
}
