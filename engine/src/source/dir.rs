//! Folders of the source: a chain of names, opened when needed.
//!
//! A [`Dir`] is cheap and holds no descriptor until it is opened. Then it keeps one where that saves walking
//! (near the root, and every so many levels), never more than `SOURCE_DIRS_OPEN_MAX` in the whole process. Other
//! folders are walked to again from the nearest one that is open, and must then be the folder they were before.

use super::{FileKind, Result, SourceError, SourceFile, Stat, os, replaced};
use crate::branch::entry::{Xattr, is_plain_name};
use crate::limits::{SOURCE_DIRS_OPEN_DEPTH, SOURCE_DIRS_OPEN_MAX, SOURCE_DIRS_OPEN_STEP, TREE_DEPTH_MAX};
use os::DirFd;
use rustix::fd::BorrowedFd;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Descriptors kept by folders. One count for the process, because the system's limit is one for the process.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// One folder of the source.
pub struct Dir {
    name: Box<[u8]>,
    parent: Option<Arc<Dir>>,
    depth: usize,
    /// Device and inode, once opened: what stands at this path later must be the same.
    identity: OnceLock<(u64, u64)>,
    held: Mutex<Held>,
}

/// The descriptor of a folder, as far as the folder knows it.
enum Held {
    Nothing,
    /// Open for as long as somebody else uses it.
    Lent(Weak<DirFd>),
    Kept(Arc<DirFd>, Slot),
}

/// A place among the descriptors that may be kept.
struct Slot;

impl Slot {
    fn take() -> Option<Self> {
        KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| {
            (kept < SOURCE_DIRS_OPEN_MAX).then_some(kept + 1)
        })
        .ok()
        .map(|_| Self)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dir {
    /// The folder `/`, opened to see that it can be.
    pub fn root() -> Result<Arc<Dir>> {
        let root = Arc::new(Dir {
            name: Box::default(),
            parent: None,
            depth: 0,
            identity: OnceLock::new(),
            held: Mutex::new(Held::Nothing),
        });
        root.open()?;
        Ok(root)
    }

    /// The folder `name` within this one; nothing is opened or checked yet.
    pub fn child(self: &Arc<Self>, name: &[u8]) -> Arc<Dir> {
        Arc::new(Dir {
            name: name.into(),
            parent: Some(self.clone()),
            depth: self.depth + 1,
            identity: OnceLock::new(),
            held: Mutex::new(Held::Nothing),
        })
    }

    /// The folder at an absolute path; empty components and `.` are skipped, `..` fails when it is opened.
    pub fn at_path(path: &[u8]) -> Result<Arc<Dir>> {
        let components = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        Ok(components.fold(Self::root()?, |dir, name| dir.child(name)))
    }

    /// Last path component; empty for `/`.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The folder above; `None` for `/`.
    pub fn parent(&self) -> Option<&Arc<Dir>> {
        self.parent.as_ref()
    }

    /// Levels below `/`.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Device and inode, once it has been opened.
    pub fn identity(&self) -> Option<(u64, u64)> {
        self.identity.get().copied()
    }

    /// Absolute path for messages: any bytes, any length, not meant for opening.
    pub fn path(&self) -> Vec<u8> {
        self.path_of(b"")
    }

    /// Absolute path of a name in this folder, for messages and filters.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut dir = self;
        while let Some(parent) = &dir.parent {
            names.push(&dir.name);
            dir = parent;
        }
        let mut path = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names.iter().rev().filter(|name| !name.is_empty()) {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    /// Opens the folder, or joins those who have it open.
    ///
    /// [`super::Failure::Changed`] when another folder or something else stands in its place, or in the place of
    /// one above it, than was there when it was opened before.
    pub fn open(self: &Arc<Self>) -> Result<DirHandle> {
        let mut closed = Vec::new();
        let mut dir = self;
        let mut fd = loop {
            if let Some(fd) = dir.lent() {
                break Some(fd);
            }
            closed.push(dir);
            match &dir.parent {
                Some(parent) => dir = parent,
                None => break None,
            }
        };
        for dir in closed.into_iter().rev() {
            fd = Some(dir.open_below(fd.as_deref()).map_err(|source| dir.error("open", b"", source))?);
        }
        match fd {
            Some(fd) => Ok(DirHandle { dir: self.clone(), fd }),
            // Not reached: the loop either found a descriptor or opened at least the root.
            None => Err(self.error("open", b"", io::ErrorKind::NotFound.into())),
        }
    }

    fn open_below(&self, parent: Option<&DirFd>) -> io::Result<Arc<DirFd>> {
        if self.depth > TREE_DEPTH_MAX {
            return Err(io::Error::other(format!("nested deeper than {TREE_DEPTH_MAX} folders")));
        }
        let opened = match parent {
            None => os::open_root()?,
            Some(_) if !is_plain_name(&self.name) => return Err(io::ErrorKind::InvalidFilename.into()),
            Some(parent) => os::open_dir(parent, &self.name)?,
        };
        let stat = os::stat_dir(&opened)?;
        if *self.identity.get_or_init(|| stat.identity()) != stat.identity() {
            return Err(replaced());
        }
        let opened = Arc::new(opened);
        self.hold(&opened);
        Ok(opened)
    }

    fn lent(&self) -> Option<Arc<DirFd>> {
        match &*self.held() {
            Held::Nothing => None,
            Held::Lent(fd) => fd.upgrade(),
            Held::Kept(fd, _) => Some(fd.clone()),
        }
    }

    fn hold(&self, fd: &Arc<DirFd>) {
        let worth_keeping = self.depth <= SOURCE_DIRS_OPEN_DEPTH || self.depth.is_multiple_of(SOURCE_DIRS_OPEN_STEP);
        let mut held = self.held();
        if matches!(*held, Held::Kept(..)) {
            return;
        }
        *held = match worth_keeping.then(Slot::take).flatten() {
            Some(slot) => Held::Kept(fd.clone(), slot),
            None => Held::Lent(Arc::downgrade(fd)),
        };
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error about a name in this folder, or about the folder itself when `name` is empty.
    pub(super) fn error(&self, action: &'static str, name: &[u8], source: io::Error) -> SourceError {
        SourceError { action, path: self.path_of(name), source }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // One by one: thousands of levels dropped by recursion would overflow the stack.
        let mut next = self.parent.take();
        while let Some(mut dir) = next.and_then(Arc::into_inner) {
            next = dir.parent.take();
        }
    }
}

/// An open folder. Cheap to clone; the descriptor is closed with its last user.
#[derive(Clone)]
pub struct DirHandle {
    dir: Arc<Dir>,
    fd: Arc<DirFd>,
}

impl DirHandle {
    /// The folder that is open.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// The descriptor, for questions about its file system. It may have been opened for passing through only.
    #[cfg(unix)]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.fd()
    }

    /// All names but `.` and `..`, sorted by bytes, each once. A folder removed meanwhile is empty.
    pub fn names(&self) -> Result<Vec<Box<[u8]>>> {
        let mut names = os::list(&self.fd).map_err(|source| self.dir.error("list", b"", source))?;
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// What the system says of a name; symlinks are not followed.
    pub fn stat(&self, name: &[u8]) -> Result<Stat> {
        self.on("stat", name, |fd| os::stat_at(fd, name))
    }

    /// What the system says of the folder itself.
    pub fn stat_self(&self) -> Result<Stat> {
        os::stat_dir(&self.fd).map_err(|source| self.dir.error("stat", b"", source))
    }

    /// Opens a regular file; [`super::Failure::Changed`] when it is anything else, without waiting for pipes.
    pub fn open_file(&self, name: &[u8]) -> Result<SourceFile> {
        let (fd, stat) = self.on("open", name, |fd| os::open_file(fd, name))?;
        Ok(SourceFile::new(self.dir.clone(), name.into(), fd, stat))
    }

    /// What a symlink points to; [`super::Failure::Changed`] when it is none.
    pub fn read_link(&self, name: &[u8]) -> Result<Box<[u8]>> {
        self.on("read link", name, |fd| os::read_link(fd, name))
    }

    /// Extended attributes, sorted by name, of an entry that is not opened; empty where the file system has none.
    pub fn xattrs(&self, name: &[u8]) -> Result<Vec<Xattr>> {
        self.on("read attributes of", name, |fd| os::xattrs_at(fd, name))
    }

    /// Extended attributes of the folder itself, sorted by name.
    pub fn xattrs_self(&self) -> Result<Vec<Xattr>> {
        os::xattrs_dir(&self.fd).map_err(|source| self.dir.error("read attributes of", b"", source))
    }

    /// Whether `name` is a regular file that begins with `head`.
    ///
    /// A name that is missing or something else is a plain no; one that cannot be read is an error.
    pub fn begins_with(&self, name: &[u8], head: &[u8]) -> Result<bool> {
        match self.stat(name) {
            Ok(stat) if stat.kind == FileKind::File && stat.size >= head.len() as u64 => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; head.len()];
        let read = file.read_at(0, &mut bytes)?;
        Ok(bytes[..read] == *head)
    }

    fn on<T>(&self, action: &'static str, name: &[u8], call: impl FnOnce(&DirFd) -> io::Result<T>) -> Result<T> {
        let done = if is_plain_name(name) { call(&self.fd) } else { Err(io::ErrorKind::InvalidFilename.into()) };
        done.map_err(|source| self.dir.error(action, name, source))
    }
}

/// How many folders are kept open now, in the whole process.
#[cfg(test)]
pub(super) fn kept_now() -> usize {
    KEPT.load(Ordering::Relaxed)
}
