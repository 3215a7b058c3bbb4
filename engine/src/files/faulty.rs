//! Failures on demand: [`FaultyFiles`] and [`FaultyKvHome`] pass every call on, count it by kind, and let the n-th of a
//! kind fail as told. A sweep runs a job once to learn the counts, then once for each call that can fail.

use super::{Append, Files, FilesError, Listed, Lock, ReadAt, Result};
use crate::kv::memory::read_through;
use crate::kv::{self, Kv, KvError, KvHome, Read, Table, Write};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A kind of call that can fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Call {
    /// [`Files::create`].
    Create,
    /// [`Append::append`].
    Append,
    /// [`Append::sync`].
    Sync,
    /// [`Files::open`].
    Open,
    /// [`ReadAt::read_at`].
    Read,
    /// [`Files::list`].
    List,
    /// [`Files::rename`].
    Rename,
    /// [`Files::remove`].
    Remove,
    /// [`Files::create_dir`].
    CreateDir,
    /// [`Files::sync_dir`].
    SyncDir,
    /// [`Files::try_lock`].
    Lock,
    /// [`KvHome::open`].
    KvOpen,
    /// [`KvHome::replace`].
    KvReplace,
    /// [`Kv::read`].
    KvRead,
    /// [`Kv::write`].
    KvWrite,
    /// [`Write::put`] and [`Write::delete`].
    KvPut,
    /// [`Write::commit`].
    KvCommit,
}

impl Call {
    /// All kinds.
    pub const ALL: [Self; 17] = [
        Self::Create,
        Self::Append,
        Self::Sync,
        Self::Open,
        Self::Read,
        Self::List,
        Self::Rename,
        Self::Remove,
        Self::CreateDir,
        Self::SyncDir,
        Self::Lock,
        Self::KvOpen,
        Self::KvReplace,
        Self::KvRead,
        Self::KvWrite,
        Self::KvPut,
        Self::KvCommit,
    ];
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// With this error number of the system, e.g. `libc::ENOSPC`; nothing is done.
    Os(i32),
    /// With an error of this kind; nothing is done. In a map `InvalidData` means damaged.
    Kind(io::ErrorKind),
    /// An append writes the first half, then fails with this error number. Other calls fail as with `Os`.
    Short(i32),
    /// The call is done and then reported as failed with this error number.
    Late(i32),
    /// A read gives other bytes than those that are stored and reports no error. Other calls are not touched.
    Wrong,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Os(number) | Self::Short(number) | Self::Late(number) => io::Error::from_raw_os_error(number),
            Self::Kind(kind) => kind.into(),
            Self::Wrong => io::ErrorKind::Other.into(),
        }
    }
}

/// What shall fail, and how often was called; clones share it.
#[derive(Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    counts: BTreeMap<Call, u64>,
    plans: Vec<Plan>,
    hits: u64,
}

struct Plan {
    call: Call,
    nth: u64,
    fault: Fault,
    is_lasting: bool,
}

impl Faults {
    /// Nothing fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// The `nth` call of its kind from now on, counted from 1, fails; later ones succeed.
    pub fn fail_once(&self, call: Call, nth: u64, fault: Fault) {
        self.plan(call, nth, fault, false);
    }

    /// The `nth` call of its kind from now on, counted from 1, and all later ones fail.
    pub fn fail_from(&self, call: Call, nth: u64, fault: Fault) {
        self.plan(call, nth, fault, true);
    }

    /// Nothing fails any more, and counting starts anew.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    /// Calls of a kind since the start or the last `clear`.
    pub fn count(&self, call: Call) -> u64 {
        self.state().counts.get(&call).copied().unwrap_or(0)
    }

    /// How many calls were made to fail.
    pub fn hits(&self) -> u64 {
        self.state().hits
    }

    fn plan(&self, call: Call, nth: u64, fault: Fault, is_lasting: bool) {
        let mut state = self.state();
        let nth = nth + state.counts.get(&call).copied().unwrap_or(0);
        state.plans.push(Plan { call, nth, fault, is_lasting });
    }

    /// Counts a call and tells whether and how it fails.
    fn next(&self, call: Call) -> Option<Fault> {
        let mut state = self.state();
        let count = state.counts.entry(call).or_insert(0);
        *count += 1;
        let count = *count;
        let due = |plan: &&Plan| plan.call == call && (plan.nth == count || (plan.is_lasting && plan.nth < count));
        let fault = state.plans.iter().find(due).map(|plan| plan.fault);
        state.hits += u64::from(fault.is_some());
        fault
    }

    fn run<T>(&self, call: Call, action: &'static str, path: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(fault) = self.next(call).filter(|fault| *fault != Fault::Wrong) else { return run() };
        if matches!(fault, Fault::Late(_)) {
            run()?;
        }
        Err(FilesError { action, path: path.to_owned(), source: fault.error() })
    }

    fn run_kv<T>(&self, call: Call, run: impl FnOnce() -> kv::Result<T>) -> kv::Result<T> {
        let Some(fault) = self.next(call).filter(|fault| *fault != Fault::Wrong) else { return run() };
        if matches!(fault, Fault::Late(_)) {
            run()?;
        }
        let error = fault.error();
        Err(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => KvError::NoSpace,
            io::ErrorKind::InvalidData => KvError::Damaged(error.to_string()),
            _ => KvError::Io(error.to_string()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files that fail as told.
#[derive(Clone)]
pub struct FaultyFiles {
    inner: Arc<dyn Files>,
    faults: Faults,
}

impl FaultyFiles {
    /// `inner`, failing as `faults` tells.
    pub fn new(inner: Arc<dyn Files>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl Files for FaultyFiles {
    fn create(&self, path: &str) -> Result<Arc<dyn Append>> {
        let inner = self.faults.run(Call::Create, "create", path, || self.inner.create(path))?;
        Ok(Arc::new(FaultyAppend { inner, faults: self.faults.clone(), path: path.to_owned() }))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn ReadAt>> {
        let inner = self.faults.run(Call::Open, "open", path, || self.inner.open(path))?;
        Ok(Arc::new(FaultyReadAt { inner, faults: self.faults.clone(), path: path.to_owned() }))
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        self.faults.run(Call::List, "list", dir, || self.inner.list(dir))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.faults.run(Call::Rename, "rename", from, || self.inner.rename(from, to))
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.faults.run(Call::Remove, "remove", path, || self.inner.remove(path))
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.faults.run(Call::CreateDir, "create folder", path, || self.inner.create_dir(path))
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.faults.run(Call::SyncDir, "sync folder", dir, || self.inner.sync_dir(dir))
    }

    fn sync_file(&self, path: &str) -> Result<()> {
        self.faults.run(Call::Sync, "sync", path, || self.inner.sync_file(path))
    }

    fn try_lock(&self, path: &str, owner: &str) -> Result<Option<Box<dyn Lock>>> {
        self.faults.run(Call::Lock, "lock", path, || self.inner.try_lock(path, owner))
    }
}

struct FaultyAppend {
    inner: Arc<dyn Append>,
    faults: Faults,
    path: String,
}

impl Append for FaultyAppend {
    fn append(&self, bytes: &[u8]) -> Result<()> {
        let fault = match self.faults.next(Call::Append) {
            None => return self.inner.append(bytes),
            Some(fault) => fault,
        };
        match fault {
            Fault::Short(_) => self.inner.append(&bytes[..bytes.len() / 2])?,
            Fault::Late(_) => self.inner.append(bytes)?,
            Fault::Wrong => return self.inner.append(bytes),
            Fault::Os(_) | Fault::Kind(_) => {}
        }
        Err(FilesError { action: "append to", path: self.path.clone(), source: fault.error() })
    }

    fn sync(&self) -> Result<()> {
        self.faults.run(Call::Sync, "sync", &self.path, || self.inner.sync())
    }

    fn hint_flush(&self) {
        self.inner.hint_flush();
    }
}

struct FaultyReadAt {
    inner: Arc<dyn ReadAt>,
    faults: Faults,
    path: String,
}

impl ReadAt for FaultyReadAt {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        let fault = match self.faults.next(Call::Read) {
            None => return self.inner.read_at(offset, bytes),
            Some(fault) => fault,
        };
        if matches!(fault, Fault::Late(_) | Fault::Wrong) {
            let read = self.inner.read_at(offset, bytes)?;
            if fault == Fault::Wrong {
                bytes[..read].iter_mut().step_by(997).for_each(|byte| *byte ^= 0x10);
                return Ok(read);
            }
        }
        Err(FilesError { action: "read", path: self.path.clone(), source: fault.error() })
    }

    fn forget(&self, offset: u64, len: u64) {
        self.inner.forget(offset, len);
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }
}

/// A map's home that fails as told, and so do the maps it gives out.
#[derive(Clone)]
pub struct FaultyKvHome {
    inner: Arc<dyn KvHome>,
    faults: Faults,
}

impl FaultyKvHome {
    /// `inner`, failing as `faults` tells.
    pub fn new(inner: Arc<dyn KvHome>, faults: Faults) -> Self {
        Self { inner, faults }
    }

    fn wrap(&self, inner: Arc<dyn Kv>) -> Arc<dyn Kv> {
        Arc::new(FaultyKv { inner, faults: self.faults.clone() })
    }
}

impl KvHome for FaultyKvHome {
    fn open(&self) -> kv::Result<Option<Arc<dyn Kv>>> {
        let kv = self.faults.run_kv(Call::KvOpen, || self.inner.open())?;
        Ok(kv.map(|kv| self.wrap(kv)))
    }

    fn replace(&self, fill: &mut dyn FnMut(&dyn Kv) -> kv::Result<()>) -> kv::Result<Arc<dyn Kv>> {
        let mut fill = |inner: &dyn Kv| fill(&FaultyKvRef { inner, faults: &self.faults });
        let kv = self.faults.run_kv(Call::KvReplace, || self.inner.replace(&mut fill))?;
        Ok(self.wrap(kv))
    }
}

struct FaultyKv {
    inner: Arc<dyn Kv>,
    faults: Faults,
}

impl Kv for FaultyKv {
    fn read(&self) -> kv::Result<Box<dyn Read + '_>> {
        self.faults.run_kv(Call::KvRead, || self.inner.read())
    }

    fn verify(&self) -> kv::Result<()> {
        self.inner.verify()
    }

    fn write(&self) -> kv::Result<Box<dyn Write + '_>> {
        let inner = self.faults.run_kv(Call::KvWrite, || self.inner.write())?;
        Ok(Box::new(FaultyWrite { inner, faults: &self.faults }))
    }
}

struct FaultyKvRef<'a> {
    inner: &'a dyn Kv,
    faults: &'a Faults,
}

impl Kv for FaultyKvRef<'_> {
    fn read(&self) -> kv::Result<Box<dyn Read + '_>> {
        self.faults.run_kv(Call::KvRead, || self.inner.read())
    }

    fn verify(&self) -> kv::Result<()> {
        self.inner.verify()
    }

    fn write(&self) -> kv::Result<Box<dyn Write + '_>> {
        let inner = self.faults.run_kv(Call::KvWrite, || self.inner.write())?;
        Ok(Box::new(FaultyWrite { inner, faults: self.faults }))
    }
}

struct FaultyWrite<'a> {
    inner: Box<dyn Write + 'a>,
    faults: &'a Faults,
}

read_through!(FaultyWrite<'_>, inner);

impl Write for FaultyWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> kv::Result<()> {
        self.faults.run_kv(Call::KvPut, || self.inner.put(table, key, value))
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> kv::Result<bool> {
        self.faults.run_kv(Call::KvPut, || self.inner.delete(table, key))
    }

    fn commit(self: Box<Self>) -> kv::Result<()> {
        let Self { inner, faults } = *self;
        faults.run_kv(Call::KvCommit, || inner.commit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::memory::MemoryFiles;
    use crate::kv::memory::MemoryKvHome;

    #[test]
    fn the_nth_call_fails() {
        let memory = MemoryFiles::new();
        let faults = Faults::new();
        let files = FaultyFiles::new(Arc::new(memory.clone()), faults.clone());
        let file = files.create("a").unwrap();
        faults.fail_once(Call::Append, 2, Fault::Short(libc::ENOSPC));
        file.append(b"1234").unwrap();
        assert_eq!(file.append(b"5678").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(memory.bytes("a").unwrap(), b"123456");
        file.append(b"!").unwrap();
        assert_eq!((faults.count(Call::Append), faults.hits()), (3, 1));
        faults.fail_from(Call::Sync, 1, Fault::Os(libc::EIO));
        assert!(file.sync().is_err() && file.sync().is_err());
        faults.clear();
        file.sync().unwrap();
        faults.fail_once(Call::Rename, 1, Fault::Late(libc::EIO));
        files.rename("a", "b").unwrap_err();
        assert_eq!(memory.paths(), ["b"]);
        faults.fail_once(Call::Open, 1, Fault::Kind(io::ErrorKind::PermissionDenied));
        assert_eq!(files.open("b").err().unwrap().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn maps_fail_too() {
        let faults = Faults::new();
        let home = FaultyKvHome::new(Arc::new(MemoryKvHome::new()), faults.clone());
        faults.fail_once(Call::KvPut, 1, Fault::Os(libc::ENOSPC));
        let mut fill = |kv: &dyn Kv| kv.write()?.put(Table::Meta, b"a", b"");
        assert!(matches!(home.replace(&mut fill), Err(KvError::NoSpace)));
        let kv = home.replace(&mut fill).unwrap();
        faults.fail_once(Call::KvCommit, 1, Fault::Os(libc::EIO));
        let mut write = kv.write().unwrap();
        write.put(Table::Meta, b"a", b"").unwrap();
        assert!(matches!(write.commit(), Err(KvError::Io(_))));
        assert_eq!(kv.read().unwrap().count(Table::Meta).unwrap(), 0);
        faults.fail_once(Call::KvOpen, 1, Fault::Kind(io::ErrorKind::InvalidData));
        assert!(matches!(home.open(), Err(KvError::Damaged(_))));
    }
}
