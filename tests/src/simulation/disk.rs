//! The disk of a simulated machine: trees of files and maps in memory, one switch for all of them. It can be full, it
//! can lose its power between any two writes, and a power cut leaves what was synced and no more.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twinkeep_engine::env::Dice;
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::files::{Append, Files, FilesError, Listed, Lock, ReadAt, Result};
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::kv::{self, Kv, KvError, KvHome, Read, Table, Visit, Write};

/// See the module. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk {
    trees: Arc<Mutex<BTreeMap<String, Tree>>>,
    switch: Arc<Mutex<Arc<Switch>>>,
    full: Arc<AtomicBool>,
}

/// A copy of a disk.
pub struct Image(BTreeMap<String, Tree>);

impl Image {
    fn again(&self) -> Self {
        Self(self.0.iter().map(|(name, tree)| (name.clone(), tree.crash())).collect())
    }

    /// The files of one of its trees.
    pub fn files(&self, name: &str) -> MemoryFiles {
        self.0.get(name).map(|tree| tree.files.crash()).unwrap_or_default()
    }
}

#[derive(Clone, Default)]
struct Tree {
    files: MemoryFiles,
    kv: MemoryKvHome,
}

impl Tree {
    fn crash(&self) -> Self {
        Self { files: self.files.crash(), kv: self.kv.crash() }
    }
}

/// What a running program sees of the power.
struct Switch {
    /// Writes until the power goes; negative: it stays.
    left: AtomicI64,
    is_dead: AtomicBool,
    full: Arc<AtomicBool>,
    writes: AtomicU64,
}

impl Disk {
    /// A tree of files and a map, as a program that starts now sees them.
    pub fn tree(&self, name: &str) -> (DiskFiles, DiskKvHome) {
        let tree = self.trees().entry(name.to_owned()).or_default().clone();
        let switch = self.switch();
        (DiskFiles { files: tree.files, switch: switch.clone() }, DiskKvHome { home: tree.kv, switch })
    }

    /// Removes a tree.
    pub fn remove(&self, name: &str) {
        self.trees().remove(name);
    }

    /// The bytes of a tree, whatever the power: what a power cut now would leave.
    pub fn durable(&self, name: &str) -> (MemoryFiles, MemoryKvHome) {
        let tree = self.trees().get(name).cloned().unwrap_or_default();
        (tree.files.crash(), tree.kv.crash())
    }

    /// A copy of the whole disk, as a power cut now would leave it.
    pub fn image(&self) -> Image {
        Image(self.trees().clone()).again()
    }

    /// Holds what a copy of it holds, and nothing else.
    pub fn restore(&self, image: &Image) {
        // Of the copy another may be made later.
        *self.trees() = image.again().0;
        self.plug();
    }

    /// The power goes: whoever uses the disk sees nothing of it any more.
    pub fn off(&self) {
        self.switch().is_dead.store(true, Ordering::Relaxed);
    }

    /// What a power cut leaves: what was not synced is lost.
    pub fn cut(&self) {
        self.off();
        let mut trees = self.trees();
        trees.values_mut().for_each(|tree| *tree = tree.crash());
        drop(trees);
        self.plug();
    }

    /// The program was killed, and another has the disk now.
    pub fn plug(&self) {
        *lock(&self.switch) = Arc::new(Switch {
            left: AtomicI64::new(-1),
            is_dead: AtomicBool::new(false),
            full: self.full.clone(),
            writes: AtomicU64::new(0),
        });
    }

    /// The power goes before the write that follows so many others.
    pub fn cut_after(&self, writes: u64) {
        self.switch().left.store(i64::try_from(writes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Whether the power is gone.
    pub fn is_dead(&self) -> bool {
        self.switch().is_dead.load(Ordering::Relaxed)
    }

    /// Lets it be full, or have room again.
    pub fn set_full(&self, is_full: bool) {
        self.full.store(is_full, Ordering::Relaxed);
    }

    /// Whether it is full.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Loses the maps of trees whose names fit; their files stay.
    pub fn lose_maps(&self, fits: impl Fn(&str) -> bool) {
        let mut trees = self.trees();
        trees.iter_mut().filter(|(name, _)| fits(name)).for_each(|(_, tree)| tree.kv = MemoryKvHome::new());
    }

    /// Loses everything.
    pub fn lose(&self) {
        self.trees().clear();
        self.plug();
    }

    /// Names of its trees.
    pub fn names(&self) -> Vec<String> {
        self.trees().keys().cloned().collect()
    }

    /// Lets some bytes of a file of a tree rot; tells which file.
    pub fn rot(&self, name: &str, ending: &str, dice: &mut Dice) -> Option<String> {
        let files = self.trees().get(name)?.files.clone();
        let paths: Vec<String> = files.paths().into_iter().filter(|path| path.ends_with(ending)).collect();
        let path = paths.get(dice.below(paths.len()))?.clone();
        files.damage(&path, |bytes| {
            if bytes.is_empty() {
                return;
            }
            let (from, len) = (dice.below(bytes.len()), 1 + dice.below(64));
            bytes.iter_mut().skip(from).take(len).for_each(|byte| *byte ^= 0x55);
        });
        Some(path)
    }

    fn trees(&self) -> MutexGuard<'_, BTreeMap<String, Tree>> {
        lock(&self.trees)
    }

    fn switch(&self) -> Arc<Switch> {
        lock(&self.switch).clone()
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self {
            left: AtomicI64::new(-1),
            is_dead: AtomicBool::new(false),
            full: Arc::default(),
            writes: AtomicU64::new(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const DEAD: &str = "the power is gone";

impl Switch {
    fn alive(&self) -> bool {
        !self.is_dead.load(Ordering::Relaxed)
    }

    /// Whether a write still happens.
    fn write(&self) -> bool {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.left.load(Ordering::Relaxed) == 0 {
            self.is_dead.store(true, Ordering::Relaxed);
        }
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| (left > 0).then(|| left - 1)).ok();
        self.alive()
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }
}

/// Files of a disk.
#[derive(Clone)]
pub struct DiskFiles {
    files: MemoryFiles,
    switch: Arc<Switch>,
}

fn failed(action: &'static str, path: &str, errno: i32) -> FilesError {
    FilesError { action, path: path.to_owned(), source: io::Error::from_raw_os_error(errno) }
}

impl DiskFiles {
    fn read(&self, action: &'static str, path: &str) -> Result<()> {
        if self.switch.alive() { Ok(()) } else { Err(failed(action, path, libc::EIO)) }
    }

    fn write(&self, action: &'static str, path: &str) -> Result<()> {
        if self.switch.write() { Ok(()) } else { Err(failed(action, path, libc::EIO)) }
    }

    fn grow(&self, action: &'static str, path: &str) -> Result<()> {
        self.write(action, path)?;
        if self.switch.is_full() { Err(failed(action, path, libc::ENOSPC)) } else { Ok(()) }
    }
}

impl Files for DiskFiles {
    fn create(&self, path: &str) -> Result<Arc<dyn Append>> {
        self.grow("create", path)?;
        let inner = self.files.create(path)?;
        Ok(Arc::new(DiskAppend { inner, files: self.clone(), path: path.to_owned() }))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn ReadAt>> {
        self.read("open", path)?;
        let inner = self.files.open(path)?;
        Ok(Arc::new(DiskReadAt { inner, files: self.clone(), path: path.to_owned() }))
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        self.read("list", dir)?;
        self.files.list(dir)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.write("rename", from)?;
        self.files.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.write("remove", path)?;
        self.files.remove(path)
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.write("create folder", path)?;
        self.files.create_dir(path)
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.write("sync folder", dir)?;
        self.files.sync_dir(dir)
    }

    fn sync_file(&self, path: &str) -> Result<()> {
        self.write("sync", path)?;
        self.files.sync_file(path)
    }

    fn try_lock(&self, path: &str, owner: &str) -> Result<Option<Box<dyn Lock>>> {
        self.write("lock", path)?;
        self.files.try_lock(path, owner)
    }
}

struct DiskAppend {
    inner: Arc<dyn Append>,
    files: DiskFiles,
    path: String,
}

impl Append for DiskAppend {
    fn append(&self, bytes: &[u8]) -> Result<()> {
        self.files.grow("append", &self.path)?;
        self.inner.append(bytes)
    }

    fn sync(&self) -> Result<()> {
        self.files.write("sync", &self.path)?;
        self.inner.sync()
    }
}

struct DiskReadAt {
    inner: Arc<dyn ReadAt>,
    files: DiskFiles,
    path: String,
}

impl ReadAt for DiskReadAt {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        self.files.read("read", &self.path)?;
        self.inner.read_at(offset, bytes)
    }

    fn len(&self) -> Result<u64> {
        self.files.read("read", &self.path)?;
        self.inner.len()
    }
}

/// A map of a disk.
#[derive(Clone)]
pub struct DiskKvHome {
    home: MemoryKvHome,
    switch: Arc<Switch>,
}

struct DiskKv {
    inner: Arc<dyn Kv>,
    switch: Arc<Switch>,
}

impl DiskKvHome {
    fn wrap(&self, inner: Arc<dyn Kv>) -> Arc<dyn Kv> {
        Arc::new(DiskKv { inner, switch: self.switch.clone() })
    }
}

impl KvHome for DiskKvHome {
    fn open(&self) -> kv::Result<Option<Arc<dyn Kv>>> {
        if !self.switch.alive() {
            return Err(KvError::Io(DEAD.to_owned()));
        }
        Ok(self.home.open()?.map(|inner| self.wrap(inner)))
    }

    fn replace(&self, fill: &mut dyn FnMut(&dyn Kv) -> kv::Result<()>) -> kv::Result<Arc<dyn Kv>> {
        if !self.switch.write() {
            return Err(KvError::Io(DEAD.to_owned()));
        }
        if self.switch.is_full() {
            return Err(KvError::NoSpace);
        }
        // What is made while the power goes does not take the old one's place.
        let mut fill_while_there_is_power = |kv: &dyn Kv| {
            fill(kv)?;
            if self.switch.alive() { Ok(()) } else { Err(KvError::Io(DEAD.to_owned())) }
        };
        Ok(self.wrap(self.home.replace(&mut fill_while_there_is_power)?))
    }
}

impl Kv for DiskKv {
    fn read(&self) -> kv::Result<Box<dyn Read + '_>> {
        if !self.switch.alive() {
            return Err(KvError::Io(DEAD.to_owned()));
        }
        self.inner.read()
    }

    fn write(&self) -> kv::Result<Box<dyn Write + '_>> {
        if !self.switch.alive() {
            return Err(KvError::Io(DEAD.to_owned()));
        }
        Ok(Box::new(DiskWrite { inner: self.inner.write()?, switch: &self.switch }))
    }
}

struct DiskWrite<'a> {
    inner: Box<dyn Write + 'a>,
    switch: &'a Switch,
}

impl Read for DiskWrite<'_> {
    fn get(&self, table: Table, key: &[u8]) -> kv::Result<Option<&[u8]>> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> kv::Result<()> {
        self.inner.scan(table, from, visit)
    }

    fn count(&self, table: Table) -> kv::Result<u64> {
        self.inner.count(table)
    }

    fn last(&self, table: Table) -> kv::Result<Option<(&[u8], &[u8])>> {
        self.inner.last(table)
    }
}

impl Write for DiskWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> kv::Result<()> {
        self.inner.put(table, key, value)
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> kv::Result<bool> {
        self.inner.delete(table, key)
    }

    fn commit(self: Box<Self>) -> kv::Result<()> {
        if !self.switch.write() {
            return Err(KvError::Io(DEAD.to_owned()));
        }
        if self.switch.is_full() {
            return Err(KvError::NoSpace);
        }
        self.inner.commit()
    }
}
