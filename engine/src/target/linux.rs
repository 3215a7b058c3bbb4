//! The system calls, each on an open directory and one name, or on an open file.
//!
//! Callers have checked that names are plain, so one component is all the kernel resolves; with `NOFOLLOW` it
//! resolves no link. That needs no newer call than `openat`, and there is no second way that is tested less.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec};
use rustix::fs::{Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::{FoundKind, existing::Found};
use crate::branch::entry::FileTime;
use crate::limits::XATTRS_LEN_MAX;

type Result<T> = rustix::io::Result<T>;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags =
    OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the target by the user's own path; a link as its last component is refused unless a `/` follows it.
pub(super) fn open_root(path: &std::path::Path) -> Result<OwnedFd> {
    fs::openat(CWD, path, DIRECTORY, Mode::empty())
}

/// Makes the target by the user's own path.
pub(super) fn make_root(path: &std::path::Path) -> Result<()> {
    fs::mkdirat(CWD, path, Mode::RWXU)
}

/// Opens a directory; `NOTDIR` or `LOOP` for anything else.
pub(super) fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    fs::openat(dir, name, DIRECTORY, Mode::empty())
}

/// Opens a directory that is no mount point; `XDEV` when it is. `dir_device` decides on kernels before 5.6.
pub(super) fn open_dir_unmounted(dir: BorrowedFd<'_>, name: &[u8], dir_device: u64) -> Result<OwnedFd> {
    let stay = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match fs::openat2(dir, name, DIRECTORY, Mode::empty(), stay) {
        // Not known to the kernel, or to a filter of calls around us.
        Err(Errno::NOSYS | Errno::PERM) => {
            let opened = open_dir(dir, name)?;
            let device = Found::from(fs::fstat(&opened)?).id.device;
            if device == dir_device { Ok(opened) } else { Err(Errno::XDEV) }
        }
        outcome => outcome,
    }
}

/// Gives the owner all rights on a directory that cannot be used otherwise. Never follows a link.
pub(super) fn open_up_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let node = fs::openat(dir, name, NODE | OFlags::DIRECTORY, Mode::empty())?;
    let found = Found::from(fs::fstat(&node)?);
    if found.kind != FoundKind::Directory || found.mode & 0o700 == 0o700 {
        return Ok(());
    }
    fs::chmodat(CWD, proc_path(&node), mode_of(found.mode | 0o700), AtFlags::empty())
}

/// Makes a directory only we can enter.
pub(super) fn make_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    fs::mkdirat(dir, name, Mode::RWXU)
}

/// Makes a regular file only we can open; `EXIST` if the name is taken by anything, a link included.
pub(super) fn create_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    fs::openat(dir, name, FILE | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
}

/// Opens what is there for reading and writing; the caller makes sure that it is a regular file.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    fs::openat(dir, name, FILE, Mode::empty())
}

/// Opens a name as a mere handle, whatever it is.
pub(super) fn open_node(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    fs::openat(dir, name, NODE, Mode::empty())
}

/// What a name is, the link itself for a link; `None` if there is none.
pub(super) fn found(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Found>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What an open file is.
pub(super) fn found_open(fd: BorrowedFd<'_>) -> Result<Found> {
    fs::fstat(fd).map(Found::from)
}

/// Makes a symbolic link.
pub(super) fn make_symlink(dir: BorrowedFd<'_>, name: &[u8], to: &[u8]) -> Result<()> {
    fs::symlinkat(to, dir, name)
}

/// Where a symbolic link points.
pub(super) fn read_symlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    fs::readlinkat(dir, name, Vec::new()).map(CString::into_bytes)
}

/// Makes a named pipe, a device (`numbers` are major and minor); `INVAL` for other kinds.
pub(super) fn make_node(dir: BorrowedFd<'_>, name: &[u8], kind: FoundKind, numbers: (u32, u32)) -> Result<()> {
    let kind = match kind {
        FoundKind::Fifo => FileType::Fifo,
        FoundKind::CharDevice => FileType::CharacterDevice,
        FoundKind::BlockDevice => FileType::BlockDevice,
        FoundKind::File | FoundKind::Directory | FoundKind::Symlink | FoundKind::Socket => return Err(Errno::INVAL),
    };
    let device = match kind {
        FileType::Fifo => 0,
        _ => fs::makedev(numbers.0, numbers.1),
    };
    fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)
}

/// Gives a file another name; a symbolic link is linked itself.
pub(super) fn link(from: BorrowedFd<'_>, from_name: &[u8], dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    fs::linkat(from, from_name, dir, name, AtFlags::empty())
}

/// Removes a name that is no directory; `ISDIR` or `PERM` if it is one.
pub(super) fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    fs::unlinkat(dir, name, AtFlags::empty())
}

/// Removes an empty directory.
pub(super) fn remove_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// All names in a directory but `.` and `..`, sorted.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether what is made in a folder gets an ACL from it; yes where that cannot be told.
pub(super) fn gives_acl(dir: BorrowedFd<'_>) -> bool {
    !matches!(fs::fgetxattr_query(dir, c"system.posix_acl_default"), Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// Makes a stretch of a file a hole without changing the file's length; `OPNOTSUPP` where that cannot be.
pub(super) fn punch(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    fs::fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
}

/// Sets the length of a file; what it gains is a hole.
pub(super) fn set_len(fd: BorrowedFd<'_>, len: u64) -> Result<()> {
    fs::ftruncate(fd, len)
}

/// Makes a file's content durable.
pub(super) fn sync_file(fd: BorrowedFd<'_>) -> Result<()> {
    fs::fsync(fd)
}

/// Makes everything on the directory's file system durable.
pub(super) fn sync_all(fd: BorrowedFd<'_>) -> Result<()> {
    fs::syncfs(fd)
}

/// Whether we may give files away and make devices.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who owns what we make.
pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// An open file whose metadata can be set: by descriptor, or for mere handles by the kernel's name for it,
/// which leads to the very file and follows nothing.
#[derive(Clone, Copy)]
pub(super) enum Handle<'a> {
    /// Opened for reading at least.
    Open(BorrowedFd<'a>),
    /// Opened with `O_PATH`.
    Node(BorrowedFd<'a>),
}

impl Handle<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) | Self::Node(fd) => *fd,
        }
    }

    /// What it is now.
    pub(super) fn found(&self) -> Result<Found> {
        found_open(self.fd())
    }

    /// Changes user and group; `u32::MAX`, which would mean "leave it", is refused.
    pub(super) fn set_owner(&self, uid: u32, gid: u32) -> Result<()> {
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fs::chownat(self.fd(), c"", Some(user), Some(group), AtFlags::EMPTY_PATH)
    }

    /// Sets the permission bits; not for symbolic links.
    pub(super) fn set_mode(&self, mode: u32) -> Result<()> {
        match self {
            Self::Open(fd) => fs::fchmod(fd, mode_of(mode)),
            Self::Node(fd) => fs::chmodat(CWD, proc_path(fd), mode_of(mode), AtFlags::empty()),
        }
    }

    /// Sets the times; no `atime` leaves it.
    pub(super) fn set_times(&self, mtime: FileTime, atime: Option<FileTime>) -> Result<()> {
        let times = Timestamps {
            last_access: atime.map_or(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, timespec),
            last_modification: timespec(mtime),
        };
        match self {
            Self::Open(fd) => fs::futimens(fd, &times),
            Self::Node(fd) => match fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH) {
                // Kernels before 5.8.
                Err(Errno::INVAL | Errno::NOENT) => fs::utimensat(CWD, proc_path(fd), &times, AtFlags::empty()),
                outcome => outcome,
            },
        }
    }

    /// Names of the extended attributes.
    pub(super) fn xattr_names(&self) -> Result<Vec<Vec<u8>>> {
        let mut list = Vec::with_capacity(1024);
        loop {
            let room = rustix::buffer::spare_capacity(&mut list);
            let outcome = match self {
                Self::Open(fd) => fs::flistxattr(fd, room),
                Self::Node(fd) => fs::listxattr(proc_path(fd), room),
            };
            match outcome {
                Ok(_) => break,
                Err(Errno::RANGE) if list.capacity() <= XATTRS_LEN_MAX => list.reserve(4 * list.capacity()),
                Err(errno) => return Err(errno),
            }
        }
        Ok(list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// Value of an extended attribute if it is exactly `len` bytes long, else `None`.
    pub(super) fn xattr_of_len(&self, name: &[u8], len: usize) -> Option<Vec<u8>> {
        // One byte more, so that a longer value shows; never empty, which would ask for the length only.
        let mut value = vec![0; len.min(XATTRS_LEN_MAX) + 1];
        let read = match self {
            Self::Open(fd) => fs::fgetxattr(fd, name, value.as_mut_slice()),
            Self::Node(fd) => fs::getxattr(proc_path(fd), name, value.as_mut_slice()),
        };
        if read != Ok(len) {
            return None;
        }
        value.truncate(len);
        Some(value)
    }

    /// Sets an extended attribute.
    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Self::Open(fd) => fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Node(fd) => fs::setxattr(proc_path(fd), name, value, XattrFlags::empty()),
        }
    }

    /// Removes an extended attribute.
    pub(super) fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        match self {
            Self::Open(fd) => fs::fremovexattr(fd, name),
            Self::Node(fd) => fs::removexattr(proc_path(fd), name),
        }
    }
}

/// Reads at `offset` until `bytes` is full or the file ends.
pub(super) fn read_at(fd: BorrowedFd<'_>, mut offset: u64, mut bytes: &mut [u8]) -> Result<usize> {
    let mut read = 0;
    while !bytes.is_empty() {
        match rustix::io::pread(fd, &mut *bytes, offset) {
            Ok(0) => break,
            Ok(count) => {
                read += count;
                offset += count as u64;
                bytes = bytes.get_mut(count..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(read)
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_at(fd: BorrowedFd<'_>, mut offset: u64, mut bytes: &[u8]) -> Result<()> {
    // A file can be no longer; the kernel would take the offset for a negative one.
    if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Errno::FBIG);
    }
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                offset += count as u64;
                bytes = bytes.get(count..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The kernel's name for an open file of ours.
fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// Nanoseconds past the second are cut: greater numbers mean "now" and "leave it" to the kernel.
fn timespec(time: FileTime) -> Timespec {
    Timespec { tv_sec: time.secs, tv_nsec: time.nanos.min(999_999_999).into() }
}
