//! The target and its folders.
//!
//! A folder is known by its parent, its name and its identity. Only some are kept open; one that is not is opened
//! again from the nearest open parent, component by component, and must then be the same as before.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::apply::{ApplyOptions, Shortfall, apply};
use super::existing::{FileId, Found, FoundKind};
use super::file::{TargetFile, TargetNode};
use super::linux::{self, Handle};
use super::{Fault, Result, TargetError, plan};
use crate::branch::entry::Metadata;
use crate::limits::TARGET_DIRS_OPEN_MAX;

/// What to do where a folder shall be and something that is no folder stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collision {
    /// Fail with [`Fault::Occupied`].
    Refuse,
    /// Remove it; only the name goes, what a link points to stays.
    Replace,
}

/// How often we try again when others make and remove the same name at the same time.
const ATTEMPTS: usize = 8;

/// The folder a restore writes into.
pub struct Target {
    root: TargetDir,
    is_new: bool,
}

impl Target {
    /// Opens the folder `path`, made with its parents where it is missing, itself for its owner only.
    ///
    /// # Errors
    /// [`Fault::LinkedRoot`] when `path` ends in a symbolic link without a `/` after it: in a folder others can
    /// write to, the link may be theirs. Links before the last component are followed.
    pub fn create(path: &Path) -> Result<Self> {
        let fail = |action, source| TargetError { action, path: super::shown(path.as_os_str().as_bytes()), source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(|error| fail("create the folders above", error.into()))?;
        }
        let is_new = match linux::make_root(path) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(fail("create folder", errno.into())),
        };
        let is_link = || path.symlink_metadata().is_ok_and(|found| found.is_symlink());
        let fd = linux::open_root(path).map_err(|errno| match errno {
            Errno::LOOP | Errno::NOTDIR if is_link() => fail("restore into", Fault::LinkedRoot),
            _ => fail("open folder", errno.into()),
        })?;
        let found = linux::found_open(fd.as_fd()).map_err(|errno| fail("open folder", errno.into()))?;
        let shared = Shared {
            root: Arc::new(fd),
            path: path.as_os_str().as_bytes().into(),
            next: AtomicU64::new(1),
            open: Mutex::default(),
        };
        let node = Node {
            number: 0,
            depth: 0,
            id: found.id,
            is_new: false,
            gives_acl: true,
            above: None,
            shared: Arc::new(shared),
        };
        Ok(Self { root: TargetDir(Arc::new(node)), is_new })
    }

    /// The folder itself.
    pub fn root(&self) -> TargetDir {
        self.root.clone()
    }

    /// Whether the folder was made by us.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Makes everything restored durable.
    pub fn sync(&self) -> Result<()> {
        let fd = self.root.fd()?;
        linux::sync_all(fd.as_fd()).map_err(|errno| self.root.fail("sync", None, errno))
    }
}

/// What all folders of a target share.
struct Shared {
    root: Arc<OwnedFd>,
    path: Box<[u8]>,
    next: AtomicU64,
    open: Mutex<Open>,
}

/// The folders kept open, each with the moment of its last use.
#[derive(Default)]
struct Open {
    dirs: HashMap<u64, (Arc<OwnedFd>, u64)>,
    moment: u64,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        // Each change is one call on the map: a panic elsewhere leaves it whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, number: u64) -> Option<Arc<OwnedFd>> {
        let mut open = self.open();
        open.moment += 1;
        let moment = open.moment;
        let (fd, used) = open.dirs.get_mut(&number)?;
        *used = moment;
        Some(fd.clone())
    }

    fn keep(&self, number: u64, fd: &Arc<OwnedFd>) {
        let mut open = self.open();
        if open.dirs.len() >= TARGET_DIRS_OPEN_MAX {
            let oldest = open.dirs.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
            if let Some(oldest) = oldest {
                open.dirs.remove(&oldest);
            }
        }
        open.moment += 1;
        let moment = open.moment;
        open.dirs.insert(number, (fd.clone(), moment));
    }
}

/// A folder in the target. Cheap to clone, holds no descriptor of its own.
#[derive(Clone)]
pub struct TargetDir(Arc<Node>);

struct Node {
    number: u64,
    depth: usize,
    id: FileId,
    /// It was made by the call that returned it.
    is_new: bool,
    /// What is made in it gets an ACL from it, as far as we know.
    gives_acl: bool,
    /// Parent and name there; `None` for the root.
    above: Option<(TargetDir, Box<[u8]>)>,
    shared: Arc<Shared>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.number != 0 {
            self.shared.open().dirs.remove(&self.number);
        }
        // Parents one after the other: dropped inside each other, thousands of levels would fill the stack.
        let mut above = self.above.take();
        while let Some((parent, _)) = above {
            above = Arc::into_inner(parent.0).and_then(|mut node| node.above.take());
        }
    }
}

impl TargetDir {
    /// Levels below the target, which is 0 itself.
    pub fn depth(&self) -> usize {
        self.0.depth
    }

    /// Identity.
    pub fn id(&self) -> FileId {
        self.0.id
    }

    /// Whether the folder was made by [`Self::enter_or_create`], and so was empty at first.
    pub fn is_new(&self) -> bool {
        self.0.is_new
    }

    /// Whether files made in it may have an ACL from the start.
    pub(super) fn gives_acl(&self) -> bool {
        self.0.gives_acl
    }

    /// What `name` is, a link itself; `None` if there is none.
    pub fn lookup(&self, name: &[u8]) -> Result<Option<Found>> {
        self.named("look up", name, |dir| linux::found(dir, name))
    }

    /// All names, sorted.
    pub fn names(&self) -> Result<Vec<Vec<u8>>> {
        let fd = self.fd()?;
        linux::names(fd.as_fd()).map_err(|errno| self.fail("list", None, errno))
    }

    /// The folder `name` if it is there and a folder; changes nothing.
    pub fn enter(&self, name: &[u8]) -> Result<Option<TargetDir>> {
        let opened = self.named("open folder", name, |dir| match linux::open_dir(dir, name) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno),
        })?;
        opened.map(|fd| self.child(name, fd, false)).transpose()
    }

    /// The folder `name`, made for its owner only where it is missing. One that is there is used, and its owner
    /// given all rights on it until [`Self::apply_self`] sets the final ones.
    pub fn enter_or_create(&self, name: &[u8], collision: Collision) -> Result<TargetDir> {
        const ACTION: &str = "create folder";
        self.check(ACTION, name)?;
        let dir = self.fd()?;
        for _ in 0..ATTEMPTS {
            let is_new = match linux::make_dir(dir.as_fd(), name) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(self.fail(ACTION, Some(name), errno)),
            };
            match self.open_usable(dir.as_fd(), name) {
                Ok(fd) => return self.child(name, fd, is_new),
                // Removed again by somebody.
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => self.make_way(dir.as_fd(), name, collision)?,
                Err(errno) => return Err(self.fail(ACTION, Some(name), errno)),
            }
        }
        Err(self.fail(ACTION, Some(name), Fault::Changed))
    }

    /// A new file; [`Fault::Occupied`] if the name is taken.
    pub fn create_new(&self, name: &[u8]) -> Result<TargetFile> {
        const ACTION: &str = "create file";
        self.check(ACTION, name)?;
        let dir = self.fd()?;
        match linux::create_file(dir.as_fd(), name) {
            Ok(fd) => Ok(TargetFile::new(fd, self.clone(), name, true)),
            Err(Errno::EXIST) => Err(self.occupied(ACTION, dir.as_fd(), name)),
            Err(errno) => Err(self.fail(ACTION, Some(name), errno)),
        }
    }

    /// A new file in the place of whatever has the name, folders excepted ([`Fault::Occupied`]).
    /// Other names of the replaced file keep their content.
    pub fn replace(&self, name: &[u8]) -> Result<TargetFile> {
        const ACTION: &str = "replace file";
        self.check(ACTION, name)?;
        let dir = self.fd()?;
        for _ in 0..ATTEMPTS {
            match linux::create_file(dir.as_fd(), name) {
                Ok(fd) => return Ok(TargetFile::new(fd, self.clone(), name, true)),
                Err(Errno::EXIST) => self.make_way(dir.as_fd(), name, Collision::Replace)?,
                Err(errno) => return Err(self.fail(ACTION, Some(name), errno)),
            }
        }
        Err(self.fail(ACTION, Some(name), Fault::Changed))
    }

    /// The regular file `name` as it is, for reading and writing, with its content kept. A file with another name
    /// somewhere, and one we may not write to, is replaced by a new, empty one: see [`TargetFile::is_new`].
    ///
    /// # Errors
    /// [`Fault::Occupied`] when it is no regular file, `NotFound` when there is none.
    pub fn open_existing(&self, name: &[u8]) -> Result<TargetFile> {
        const ACTION: &str = "open file";
        self.check(ACTION, name)?;
        let dir = self.fd()?;
        // Looked at first because opening a device can do something; looked at again below because that may be
        // another file.
        match linux::found(dir.as_fd(), name) {
            Ok(Some(found)) if found.kind != FoundKind::File => {
                return Err(self.fail(ACTION, Some(name), Fault::Occupied(found.kind)));
            }
            Ok(Some(found)) if found.names != 1 => return self.replace(name),
            Ok(_) => {}
            Err(errno) => return Err(self.fail(ACTION, Some(name), errno)),
        }
        let fd = match linux::open_file(dir.as_fd(), name) {
            Ok(fd) => fd,
            Err(Errno::ACCESS | Errno::PERM | Errno::TXTBSY) => return self.replace(name),
            Err(Errno::LOOP) => return Err(self.fail(ACTION, Some(name), Fault::Changed)),
            Err(errno) => return Err(self.fail(ACTION, Some(name), errno)),
        };
        let found = linux::found_open(fd.as_fd()).map_err(|errno| self.fail(ACTION, Some(name), errno))?;
        match found {
            Found { kind: FoundKind::File, names: 1, .. } => Ok(TargetFile::new(fd, self.clone(), name, false)),
            Found { kind: FoundKind::File, .. } => self.replace(name),
            _ => Err(self.fail(ACTION, Some(name), Fault::Changed)),
        }
    }

    /// Makes a symbolic link to `to`, any 1…4095 bytes without NUL; [`Fault::Occupied`] if the name is taken.
    pub fn symlink(&self, name: &[u8], to: &[u8]) -> Result<TargetNode> {
        self.make("create link", name, FoundKind::Symlink, |dir| linux::make_symlink(dir, name, to))
    }

    /// Where the symbolic link `name` points.
    pub fn symlink_target(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.named("read link", name, |dir| linux::read_symlink(dir, name))
    }

    /// Makes a named pipe; [`Fault::Occupied`] if the name is taken.
    pub fn fifo(&self, name: &[u8]) -> Result<TargetNode> {
        let kind = FoundKind::Fifo;
        self.make("create named pipe", name, kind, |dir| linux::make_node(dir, name, kind, (0, 0)))
    }

    /// Makes a character device.
    ///
    /// # Errors
    /// [`Fault::NotPermitted`] for all but root, [`Fault::Occupied`] if the name is taken.
    pub fn char_device(&self, name: &[u8], major: u32, minor: u32) -> Result<TargetNode> {
        self.device(name, FoundKind::CharDevice, (major, minor))
    }

    /// Makes a block device; errors like [`Self::char_device`].
    pub fn block_device(&self, name: &[u8], major: u32, minor: u32) -> Result<TargetNode> {
        self.device(name, FoundKind::BlockDevice, (major, minor))
    }

    fn device(&self, name: &[u8], kind: FoundKind, numbers: (u32, u32)) -> Result<TargetNode> {
        self.make("create device", name, kind, |dir| linux::make_node(dir, name, kind, numbers))
    }

    /// Gives the file `made`, known as `from_name` in `from`, the further name `name`.
    ///
    /// Nothing happens if it has the name already. A link is linked itself, not what it points to.
    ///
    /// # Errors
    /// [`Fault::Changed`] when `from_name` is not `made` any more, [`Fault::Occupied`] if the name is taken.
    pub fn hard_link(&self, name: &[u8], from: &TargetDir, from_name: &[u8], made: FileId) -> Result<()> {
        const ACTION: &str = "link";
        self.check(ACTION, name)?;
        from.check(ACTION, from_name)?;
        let (dir, from_dir) = (self.fd()?, from.fd()?);
        let there = || linux::found(dir.as_fd(), name).map_err(|errno| self.fail(ACTION, Some(name), errno));
        match linux::link(from_dir.as_fd(), from_name, dir.as_fd(), name) {
            Ok(()) => {}
            Err(Errno::EXIST) if there()?.is_some_and(|found| found.id == made) => return Ok(()),
            Err(Errno::EXIST) => return Err(self.occupied(ACTION, dir.as_fd(), name)),
            Err(errno) => return Err(self.fail(ACTION, Some(name), errno)),
        }
        if there()?.is_some_and(|found| found.id == made) {
            return Ok(());
        }
        // Not ours: take the name back. Whether that works makes no difference to what we report.
        let _ = linux::unlink(dir.as_fd(), name);
        Err(self.fail(ACTION, Some(name), Fault::Changed))
    }

    /// A handle on what is there, to set its metadata; `None` if there is nothing, a folder, something of another
    /// kind than `kind`, or a file that has further names.
    pub fn existing_node(&self, name: &[u8], kind: FoundKind) -> Result<Option<TargetNode>> {
        let opened = self.named("open", name, |dir| match linux::open_node(dir, name) {
            Ok(fd) => linux::found_open(fd.as_fd()).map(|found| Some((fd, found))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        })?;
        Ok(opened
            .filter(|(_, found)| found.kind == kind && found.kind != FoundKind::Directory && found.names == 1)
            .map(|(fd, found)| TargetNode::new(fd, self.clone(), name, found)))
    }

    /// Sets the metadata of this folder: the last thing done to it, and after all folders below.
    pub fn apply_self(&self, meta: &Metadata, options: &ApplyOptions) -> Result<Vec<Shortfall>> {
        let fd = self.fd()?;
        let outcome = apply(Handle::Open(fd.as_fd()), meta, options, false);
        outcome.map_err(|errno| self.fail("set metadata of", None, errno))
    }

    /// Makes something that is neither file nor folder and takes hold of it.
    fn make(
        &self,
        action: &'static str,
        name: &[u8],
        kind: FoundKind,
        call: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<TargetNode> {
        self.check(action, name)?;
        let dir = self.fd()?;
        match call(dir.as_fd()) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(self.occupied(action, dir.as_fd(), name)),
            Err(Errno::PERM) if matches!(kind, FoundKind::CharDevice | FoundKind::BlockDevice) => {
                return Err(self.fail(action, Some(name), Fault::NotPermitted));
            }
            Err(errno) => return Err(self.fail(action, Some(name), errno)),
        }
        // Between the two calls somebody may have put another file there; one of theirs has a further name.
        self.existing_node(name, kind)?.ok_or_else(|| self.fail(action, Some(name), Fault::Changed))
    }

    /// Opens a directory for reading and, for all but root, makes sure its owner may use it.
    pub(super) fn open_usable(&self, dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        if !linux::is_root() {
            match linux::open_up_dir(dir, name) {
                // Not ours: it may still be of use as it is.
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        linux::open_dir(dir, name)
    }

    /// Removes what is no folder and stands at `name`, if that is wanted.
    fn make_way(&self, dir: BorrowedFd<'_>, name: &[u8], collision: Collision) -> Result<()> {
        const ACTION: &str = "replace";
        match collision {
            Collision::Refuse => Err(self.occupied("create folder", dir, name)),
            Collision::Replace => match linux::unlink(dir, name) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(Errno::ISDIR) => Err(self.fail(ACTION, Some(name), Fault::Occupied(FoundKind::Directory))),
                Err(errno) => Err(self.fail(ACTION, Some(name), errno)),
            },
        }
    }

    fn occupied(&self, action: &'static str, dir: BorrowedFd<'_>, name: &[u8]) -> TargetError {
        match linux::found(dir, name) {
            Ok(Some(found)) => self.fail(action, Some(name), Fault::Occupied(found.kind)),
            Ok(None) => self.fail(action, Some(name), Fault::Changed),
            Err(errno) => self.fail(action, Some(name), errno),
        }
    }

    /// The folder `name` here, just opened as `fd`.
    pub(super) fn child(&self, name: &[u8], fd: OwnedFd, is_new: bool) -> Result<TargetDir> {
        const ACTION: &str = "open folder";
        let depth = self.0.depth + 1;
        plan::safe_depth(depth).map_err(|fault| self.fail(ACTION, Some(name), fault))?;
        let found = linux::found_open(fd.as_fd()).map_err(|errno| self.fail(ACTION, Some(name), errno))?;
        let shared = self.0.shared.clone();
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        // One that is not ours may be given an ACL by others while we are in it, also one that they put in the place of
        // ours before we opened it.
        let is_ours = is_new && found.uid == linux::own_uid();
        let gives_acl = !is_ours || linux::gives_acl(fd.as_fd());
        shared.keep(number, &Arc::new(fd));
        let above = Some((self.clone(), name.into()));
        Ok(TargetDir(Arc::new(Node { number, depth, id: found.id, is_new, gives_acl, above, shared })))
    }

    /// An open descriptor of this folder.
    pub(super) fn fd(&self) -> Result<Arc<OwnedFd>> {
        let mut closed = Vec::new();
        let mut dir = self;
        let mut fd = loop {
            if dir.0.number == 0 {
                break dir.0.shared.root.clone();
            }
            if let Some(fd) = dir.0.shared.get(dir.0.number) {
                break fd;
            }
            let Some((parent, name)) = &dir.0.above else { break dir.0.shared.root.clone() };
            closed.push((dir, name));
            dir = parent;
        };
        for (dir, name) in closed.into_iter().rev() {
            fd = Arc::new(dir.reopen(fd.as_fd(), name)?);
            dir.0.shared.keep(dir.0.number, &fd);
        }
        Ok(fd)
    }

    /// Opens this folder again: another one at its place is not taken for it.
    fn reopen(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
        const ACTION: &str = "open folder";
        let fd = linux::open_dir(parent, name).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => self.fail(ACTION, None, Fault::Changed),
            _ => self.fail(ACTION, None, errno),
        })?;
        match linux::found_open(fd.as_fd()) {
            Ok(found) if found.id == self.0.id => Ok(fd),
            Ok(_) => Err(self.fail(ACTION, None, Fault::Changed)),
            Err(errno) => Err(self.fail(ACTION, None, errno)),
        }
    }

    /// Refuses a name that is not plain.
    pub(super) fn check(&self, action: &'static str, name: &[u8]) -> Result<()> {
        plan::safe_name(name).map_err(|fault| self.fail(action, Some(name), fault))
    }

    /// Runs a call on the open folder for a checked name.
    fn named<T>(
        &self,
        action: &'static str,
        name: &[u8],
        call: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Result<T> {
        self.check(action, name)?;
        let fd = self.fd()?;
        call(fd.as_fd()).map_err(|errno| self.fail(action, Some(name), errno))
    }

    /// The error for this folder or a name in it.
    pub(super) fn fail(&self, action: &'static str, name: Option<&[u8]>, source: impl Into<Fault>) -> TargetError {
        TargetError { action, path: super::shown(&self.path_of(name)), source: source.into() }
    }

    /// Path of this folder or a name in it, from the end up to a bound.
    fn path_of(&self, name: Option<&[u8]>) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = name.into_iter().collect();
        let mut len = 0;
        let mut dir = self;
        while let Some((parent, name)) = &dir.0.above {
            if len > super::SHOWN_LEN_MAX {
                break;
            }
            len += name.len() + 1;
            parts.push(name);
            dir = parent;
        }
        if dir.0.number == 0 {
            parts.push(&self.0.shared.path);
        }
        parts.reverse();
        parts.join(b"/".as_slice())
    }
}
