//! The twin of a disk in memory: [`MemoryFiles`], which loses in a crash what was not synced.
//!
//! It knows the visible state and, beside it, the durable one: of each file the bytes synced, of each folder the names
//! synced. [`MemoryFiles::crash`] keeps the durable one only, the least a real disk may keep.

use super::{Append, Files, FilesError, Listed, Lock, ReadAt, Result, check_path, parent};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file tree in memory; clones share it.
#[derive(Clone, Default)]
pub struct MemoryFiles {
    state: Arc<Mutex<State>>,
    /// Syncs until one loses what it should have written; 0 for none.
    losing: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    /// All folders but the top one. A folder's name is durable as soon as it is made.
    folders: BTreeSet<String>,
    visible: BTreeMap<String, Arc<Node>>,
    durable: BTreeMap<String, Arc<Node>>,
}

/// One file, whatever its names.
#[derive(Default)]
struct Node {
    data: Mutex<Data>,
}

#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    /// Length of the durable beginning.
    synced: usize,
    /// Stretches below `synced` that a failed sync lost: in memory they can still be read, the disk has zeros.
    lost: Vec<Range<usize>>,
    locked: bool,
}

impl MemoryFiles {
    /// An empty tree: only the top folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree in which everything given is durable. Parents of files are added.
    pub fn from_parts(folders: impl IntoIterator<Item = String>, files: BTreeMap<String, Vec<u8>>) -> Self {
        let mut state = State::default();
        for folder in folders {
            state.add_folder(&folder);
        }
        for (path, bytes) in files {
            state.add_folder(parent(&path));
            let synced = bytes.len();
            let node = Arc::new(Node { data: Mutex::new(Data { bytes, synced, ..Data::default() }) });
            state.visible.insert(path.clone(), node.clone());
            state.durable.insert(path, node);
        }
        Self { state: Arc::new(Mutex::new(state)), losing: Arc::default() }
    }

    /// What a power cut surely leaves: synced bytes under synced names, nobody's locks.
    pub fn crash(&self) -> Self {
        let state = self.state();
        let files = state.durable.iter().map(|(path, node)| (path.clone(), node.durable_bytes())).collect();
        Self::from_parts(state.folders.iter().cloned(), files)
    }

    /// A copy of what is visible now, all of it durable.
    pub fn copy(&self) -> Self {
        let state = self.state();
        let files = state.visible.iter().map(|(path, node)| (path.clone(), node.data().bytes.clone())).collect();
        Self::from_parts(state.folders.iter().cloned(), files)
    }

    /// The `nth` sync of a file's bytes from now on, counted from 1, fails and loses what it should have written:
    /// it can still be read from memory, later syncs succeed, and the disk has zeros there.
    pub fn lose_sync(&self, nth: u64) {
        self.losing.store(nth, Ordering::Release);
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.state().visible.keys().cloned().collect()
    }

    /// Paths of all folders but the top one, sorted.
    pub fn folders(&self) -> Vec<String> {
        self.state().folders.iter().cloned().collect()
    }

    /// Content of a file, if there is one.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.state().visible.get(path).cloned()?;
        let bytes = node.data().bytes.clone();
        Some(bytes)
    }

    /// Edits a file behind everybody's back, its durable bytes too. Tells whether there was such a file.
    pub fn damage(&self, path: &str, edit: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(node) = self.state().visible.get(path).cloned() else { return false };
        let mut data = node.data();
        let was_synced = data.synced == data.bytes.len();
        edit(&mut data.bytes);
        data.synced = if was_synced { data.bytes.len() } else { data.synced.min(data.bytes.len()) };
        data.lost.clear();
        true
    }

    /// Puts a durable file in place, over any other, parents included: for tests that build a tree by hand.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        state.add_folder(parent(path));
        let synced = bytes.len();
        let node = Arc::new(Node { data: Mutex::new(Data { bytes, synced, ..Data::default() }) });
        state.visible.insert(path.to_owned(), node.clone());
        state.durable.insert(path.to_owned(), node);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for MemoryFiles {
    fn create(&self, path: &str) -> Result<Arc<dyn Append>> {
        let node = self.state().create("create", path)?;
        Ok(Arc::new(MemoryAppend { node, path: path.to_owned(), losing: self.losing.clone() }))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn ReadAt>> {
        check_path("open", path)?;
        let state = self.state();
        if state.is_folder(path) {
            return Err(failed("open", path, io::ErrorKind::InvalidInput));
        }
        let node = state.visible.get(path).cloned();
        Ok(Arc::new(MemoryReadAt { node: node.ok_or_else(|| failed("open", path, io::ErrorKind::NotFound))? }))
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        check_path("list", dir)?;
        let state = self.state();
        state.expect_folder("list", dir, dir)?;
        let mut listed: Vec<Listed> = below(&state.visible, dir)
            .map(|(path, node)| Listed { name: name(path), len: node.data().bytes.len() as u64, is_dir: false })
            .collect();
        let folders = state.folders.iter().filter(|path| parent(path) == dir);
        listed.extend(folders.map(|path| Listed { name: name(path), len: 0, is_dir: true }));
        listed.sort();
        Ok(listed)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_path("rename", from)?;
        check_path("rename", to)?;
        let mut state = self.state();
        state.expect_folder("rename", from, parent(to))?;
        if state.is_folder(to) {
            return Err(failed("rename", from, io::ErrorKind::IsADirectory));
        }
        let node = state.visible.remove(from).ok_or_else(|| failed("rename", from, io::ErrorKind::NotFound))?;
        state.visible.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<()> {
        check_path("remove", path)?;
        let mut state = self.state();
        if state.is_folder(path) {
            return Err(failed("remove", path, io::ErrorKind::IsADirectory));
        }
        state.visible.remove(path).map(drop).ok_or_else(|| failed("remove", path, io::ErrorKind::NotFound))
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        check_path("create folder", path)?;
        let mut state = self.state();
        let mut folder = path;
        while !folder.is_empty() {
            if state.visible.contains_key(folder) {
                return Err(failed("create folder", path, io::ErrorKind::AlreadyExists));
            }
            folder = parent(folder);
        }
        state.add_folder(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        check_path("sync folder", dir)?;
        let mut state = self.state();
        state.expect_folder("sync folder", dir, dir)?;
        let gone: Vec<String> = below(&state.durable, dir).map(|(path, _)| path.clone()).collect();
        for path in gone {
            state.durable.remove(&path);
        }
        let there: Vec<_> = below(&state.visible, dir).map(|(path, node)| (path.clone(), node.clone())).collect();
        state.durable.extend(there);
        Ok(())
    }

    fn sync_file(&self, path: &str) -> Result<()> {
        check_path("sync", path)?;
        let node = self.state().visible.get(path).cloned();
        let node = node.ok_or_else(|| failed("sync", path, io::ErrorKind::NotFound))?;
        node.sync(path, &self.losing)?;
        // Reads after it see what the disk holds.
        let mut data = node.data();
        data.bytes = data.on_disk();
        data.lost.clear();
        Ok(())
    }

    fn try_lock(&self, path: &str, owner: &str) -> Result<Option<Box<dyn Lock>>> {
        check_path("lock", path)?;
        let mut state = self.state();
        let node = match state.visible.get(path).cloned() {
            Some(node) => node,
            None => state.create("lock", path)?,
        };
        let mut data = node.data();
        if data.locked {
            return Ok(None);
        }
        *data = Data { bytes: owner.as_bytes().to_vec(), locked: true, ..Data::default() };
        drop(data);
        Ok(Some(Box::new(MemoryLock { node })))
    }
}

impl State {
    fn is_folder(&self, path: &str) -> bool {
        path.is_empty() || self.folders.contains(path)
    }

    fn add_folder(&mut self, path: &str) {
        let mut folder = path;
        while !folder.is_empty() {
            self.folders.insert(folder.to_owned());
            folder = parent(folder);
        }
    }

    fn expect_folder(&self, action: &'static str, path: &str, folder: &str) -> Result<()> {
        match () {
            () if self.is_folder(folder) => Ok(()),
            () if self.visible.contains_key(folder) => Err(failed(action, path, io::ErrorKind::NotADirectory)),
            () => Err(failed(action, path, io::ErrorKind::NotFound)),
        }
    }

    fn create(&mut self, action: &'static str, path: &str) -> Result<Arc<Node>> {
        check_path(action, path)?;
        self.expect_folder(action, path, parent(path))?;
        if self.is_folder(path) || self.visible.contains_key(path) {
            return Err(failed(action, path, io::ErrorKind::AlreadyExists));
        }
        let node = Arc::new(Node::default());
        self.visible.insert(path.to_owned(), node.clone());
        Ok(node)
    }
}

impl Node {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable_bytes(&self) -> Vec<u8> {
        self.data().on_disk()
    }

    /// As a kernel does it: after a failed sync its pages count as written all the same.
    fn sync(&self, path: &str, losing: &AtomicU64) -> Result<()> {
        let count = losing.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1));
        let mut data = self.data();
        let unsynced = data.synced..data.bytes.len();
        data.synced = unsynced.end;
        if count == Ok(1) {
            data.lost.push(unsynced);
            return Err(FilesError {
                action: "sync",
                path: path.to_owned(),
                source: io::Error::from_raw_os_error(libc::EIO),
            });
        }
        Ok(())
    }
}

impl Data {
    fn on_disk(&self) -> Vec<u8> {
        let mut bytes = self.bytes[..self.synced].to_vec();
        self.lost.iter().for_each(|lost| bytes[lost.clone()].fill(0));
        bytes
    }
}

struct MemoryAppend {
    node: Arc<Node>,
    path: String,
    losing: Arc<AtomicU64>,
}

impl Append for MemoryAppend {
    fn append(&self, bytes: &[u8]) -> Result<()> {
        self.node.data().bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.node.sync(&self.path, &self.losing)
    }
}

struct MemoryReadAt {
    node: Arc<Node>,
}

impl ReadAt for MemoryReadAt {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        let data = self.node.data();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.bytes.len());
        let len = bytes.len().min(data.bytes.len() - start);
        bytes[..len].copy_from_slice(&data.bytes[start..start + len]);
        Ok(len)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.node.data().bytes.len() as u64)
    }
}

struct MemoryLock {
    node: Arc<Node>,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.node.data().locked = false;
    }
}

/// The files directly in a folder.
fn below<'a>(
    files: &'a BTreeMap<String, Arc<Node>>,
    dir: &'a str,
) -> impl Iterator<Item = (&'a String, &'a Arc<Node>)> + 'a {
    let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
    files
        .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
        .take_while({
            let prefix = prefix.clone();
            move |(path, _)| path.starts_with(&prefix)
        })
        .filter(move |(path, _)| parent(path) == dir)
        .collect::<Vec<_>>()
        .into_iter()
}

fn name(path: &str) -> String {
    path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned()
}

fn failed(action: &'static str, path: &str, kind: io::ErrorKind) -> FilesError {
    FilesError { action, path: path.to_owned(), source: kind.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_no_more() {
        let files = MemoryFiles::new();
        files.create_dir("a/b").unwrap();
        let kept = files.create("a/b/kept").unwrap();
        kept.append(b"synced").unwrap();
        kept.sync().unwrap();
        kept.append(b" not").unwrap();
        let nameless = files.create("a/nameless").unwrap();
        nameless.append(b"bytes").unwrap();
        nameless.sync().unwrap();
        files.sync_dir("a/b").unwrap();
        files.create("a/b/late").unwrap();
        let _lock = files.try_lock("lock", "pid 1").unwrap().unwrap();

        let after = files.crash();
        assert_eq!(after.paths(), ["a/b/kept"]);
        assert_eq!(after.bytes("a/b/kept").unwrap(), b"synced");
        assert!(after.try_lock("lock", "pid 2").unwrap().is_some());
        assert_eq!(files.paths(), ["a/b/kept", "a/b/late", "a/nameless", "lock"]);

        // A rename is lost until its folder is synced, a removal too.
        files.rename("a/b/kept", "a/b/moved").unwrap();
        assert_eq!(files.crash().paths(), ["a/b/kept"]);
        files.sync_dir("a/b").unwrap();
        assert_eq!(files.crash().paths(), ["a/b/late", "a/b/moved"]);
        files.remove("a/b/moved").unwrap();
        assert_eq!(files.crash().paths(), ["a/b/late", "a/b/moved"]);

        // Whole-file writes are all or nothing.
        files.write_atomic("a/whole", b"one").unwrap();
        assert_eq!(files.crash().bytes("a/whole").unwrap(), b"one");
    }

    #[test]
    fn a_failed_sync_loses_what_later_syncs_seem_to_write() {
        let files = MemoryFiles::new();
        let file = files.create("a").unwrap();
        files.sync_dir("").unwrap();
        file.append(b"safe").unwrap();
        file.sync().unwrap();
        file.append(b"lost").unwrap();
        files.lose_sync(1);
        assert!(file.sync().is_err());
        file.append(b"safe").unwrap();
        file.sync().unwrap();
        assert_eq!(files.bytes("a").unwrap(), b"safelostsafe");
        assert_eq!(files.crash().bytes("a").unwrap(), b"safe\0\0\0\0safe");
        files.sync_file("a").unwrap();
        assert_eq!(files.bytes("a").unwrap(), b"safe\0\0\0\0safe");
    }

    #[test]
    fn damage_reaches_the_durable_bytes() {
        let files = MemoryFiles::new();
        files.put("p/x", vec![1, 2, 3]);
        assert!(files.damage("p/x", |bytes| bytes[1] ^= 0xff));
        assert!(!files.damage("p/y", |_| {}));
        assert_eq!(files.crash().bytes("p/x").unwrap(), [1, 0xfd, 3]);
        files.damage("p/x", |bytes| bytes.truncate(1));
        assert_eq!(files.crash().bytes("p/x").unwrap(), [1]);
    }
}
