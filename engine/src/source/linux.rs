//! Linux: the calls behind the source, each retried when a signal interrupts it.
//!
//! Names given here are single components; the callers check that.

use super::{FileKind, Stat, replaced};
use crate::branch::entry::{FileTime, Xattr};
use crate::limits::XATTRS_LEN_MAX;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom, Statx, StatxFlags};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest value and longest list of names that Linux keeps, bytes.
const XATTR_LEN_MAX: usize = 64 << 10;

/// Bytes asked for in one listing call.
const LIST_LEN: usize = 32 << 10;

/// An open folder.
pub(super) struct DirFd {
    fd: OwnedFd,
    /// Why the names cannot be listed though the folder can be walked through.
    unlistable: Option<Errno>,
    /// Listing moves the descriptor's position, so one at a time.
    listing: Mutex<()>,
}

/// A regular file open for reading.
pub(super) struct FileFd(OwnedFd);

/// Opens `/`.
pub(super) fn open_root() -> io::Result<DirFd> {
    open_dir_at(fs::CWD, b"/")
}

/// Opens a folder of a folder; a symlink or another kind of file in its place is an error.
pub(super) fn open_dir(at: &DirFd, name: &[u8]) -> io::Result<DirFd> {
    open_dir_at(at.fd.as_fd(), name)
}

fn open_dir_at(at: BorrowedFd<'_>, name: &[u8]) -> io::Result<DirFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (opened, unlistable) = match open_quietly(at, name, flags) {
        // We may pass through folders that we may not list, such as the homes of others.
        Err(Errno::ACCESS) => (open(at, name, flags | OFlags::PATH), Some(Errno::ACCESS)),
        opened => (opened, None),
    };
    Ok(DirFd { fd: opened?, unlistable, listing: Mutex::new(()) })
}

/// Opens a regular file for reading without waiting for anybody; anything else in its place is an error.
pub(super) fn open_file(at: &DirFd, name: &[u8]) -> io::Result<(FileFd, Stat)> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    // A pipe swapped in would make a plain open wait for its writer.
    let fd = match open_quietly(at.fd.as_fd(), name, flags | OFlags::NONBLOCK) {
        Err(Errno::AGAIN) => open_leased(at, name)?,
        opened => opened?,
    };
    let stat = stat_fd(fd.as_fd())?;
    if stat.kind != FileKind::File {
        return Err(replaced());
    }
    Ok((FileFd(fd), stat))
}

/// Opens a file on which another process, say a file server, holds a lease: waits until that gave way.
fn open_leased(at: &DirFd, name: &[u8]) -> io::Result<OwnedFd> {
    let pinned = open(at.fd.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
    if stat_fd(pinned.as_fd())?.kind != FileKind::File {
        return Err(replaced());
    }
    let again = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    Ok(open_quietly(fs::CWD, again.as_bytes(), OFlags::CLOEXEC | OFlags::NOCTTY)?)
}

/// Opens without touching the read time where we may: that right is the owner's.
fn open_quietly(at: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    match open(at, name, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(at, name, flags),
        opened => opened,
    }
}

fn open(at: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    retry_on_intr(|| fs::openat(at, name, flags, Mode::empty()))
}

/// All names but `.` and `..`, in no order; one may come twice when the folder changes meanwhile.
pub(super) fn list(dir: &DirFd) -> io::Result<Vec<Box<[u8]>>> {
    if let Some(errno) = dir.unlistable {
        return Err(errno.into());
    }
    let _alone = dir.listing.lock().unwrap_or_else(PoisonError::into_inner);
    fs::seek(&dir.fd, SeekFrom::Start(0))?;
    let mut buffer = vec![MaybeUninit::uninit(); LIST_LEN];
    let mut entries = fs::RawDir::new(&dir.fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(Box::from(name));
                }
            }
            Err(Errno::INTR) => {}
            // The folder was removed under us: it holds nothing.
            Err(Errno::NOENT) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(names)
}

/// Asks for a name's stat; a symlink is not followed, an automount not triggered.
///
/// Network file systems are asked as `stat` would: a stale answer could hide a change.
pub(super) fn stat_at(at: &DirFd, name: &[u8]) -> io::Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    stat_from(&retry_on_intr(|| fs::statx(&at.fd, name, flags, wanted()))?)
}

/// Asks for the folder's own stat.
pub(super) fn stat_dir(dir: &DirFd) -> io::Result<Stat> {
    stat_fd(dir.fd.as_fd())
}

/// Asks for an open file's stat.
pub(super) fn stat_file(file: &FileFd) -> io::Result<Stat> {
    stat_fd(file.0.as_fd())
}

fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    stat_from(&retry_on_intr(|| fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted()))?)
}

fn wanted() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::MNT_ID
}

fn stat_from(raw: &Statx) -> io::Result<Stat> {
    let time = |stamp: fs::StatxTimestamp| FileTime { secs: stamp.tv_sec, nanos: stamp.tv_nsec.min(999_999_999) };
    let mode = u32::from(raw.stx_mode);
    let tells_mount = raw.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Ok(Stat {
        kind: kind_from(raw, mode)?,
        mode: mode & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        size: raw.stx_size,
        blocks: raw.stx_blocks,
        mtime: time(raw.stx_mtime),
        atime: time(raw.stx_atime),
        ctime: time(raw.stx_ctime),
        device: fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
        inode: raw.stx_ino,
        nlink: u64::from(raw.stx_nlink),
        mount_id: if tells_mount { raw.stx_mnt_id } else { 0 },
        mount_root: raw.stx_attributes.contains(fs::StatxAttributes::MOUNT_ROOT),
    })
}

fn kind_from(raw: &Statx, mode: u32) -> io::Result<FileKind> {
    let (major, minor) = (raw.stx_rdev_major, raw.stx_rdev_minor);
    Ok(match FileType::from_raw_mode(mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::CharDevice { major, minor },
        FileType::BlockDevice => FileKind::BlockDevice { major, minor },
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::Unknown => return Err(io::Error::other(format!("unknown kind of file, mode {mode:o}"))),
    })
}

/// What a symlink points to.
pub(super) fn read_link(at: &DirFd, name: &[u8]) -> io::Result<Box<[u8]>> {
    match retry_on_intr(|| fs::readlinkat(&at.fd, name, Vec::new())) {
        Ok(target) => Ok(target.into_bytes().into_boxed_slice()),
        // No longer a symlink.
        Err(Errno::INVAL) => Err(replaced()),
        Err(errno) => Err(errno.into()),
    }
}

/// Attributes of an open file, sorted by name.
pub(super) fn xattrs_file(file: &FileFd) -> io::Result<Vec<Xattr>> {
    xattrs_fd(file.0.as_fd())
}

fn xattrs_fd(fd: BorrowedFd<'_>) -> io::Result<Vec<Xattr>> {
    xattrs(|list| fs::flistxattr(fd, list), |name, value| fs::fgetxattr(fd, name, value))
}

/// Attributes of the folder itself, sorted by name.
pub(super) fn xattrs_dir(dir: &DirFd) -> io::Result<Vec<Xattr>> {
    match dir.unlistable {
        None => xattrs_fd(dir.fd.as_fd()),
        Some(_) => xattrs_at(dir, b"."),
    }
}

/// Attributes of an entry that is not opened (opening a device may do something), sorted by name.
///
/// The calls that take a folder and a name are younger than the systems we run on, so this needs `/proc`.
pub(super) fn xattrs_at(at: &DirFd, name: &[u8]) -> io::Result<Vec<Xattr>> {
    let mut path = format!("/proc/self/fd/{}/", at.fd.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let path = path.as_slice();
    let read = xattrs(|list| fs::llistxattr(path, list), |name, value| fs::lgetxattr(path, name, value));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound && stat_at(at, name).is_ok() => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "extended attributes need /proc, which is not mounted"))
        }
        read => read,
    }
}

fn xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<Xattr>> {
    let mut first = [0; 512];
    let names = match list(&mut first) {
        // Nothing, or a file system without attributes.
        Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Ok(len) => first[..len.min(first.len())].to_vec(),
        Err(Errno::RANGE | Errno::INTR) => read_growing(first.len(), &list)?,
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    let mut total = 0_usize;
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let value = match read_growing(256, |buffer| get(name, buffer)) {
            Ok(value) => value,
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno.into()),
        };
        total = total.saturating_add(name.len()).saturating_add(value.len());
        if total > XATTRS_LEN_MAX {
            let text = format!("extended attributes hold over {XATTRS_LEN_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        found.push(Xattr { name: name.into(), value: value.into() });
    }
    found.sort();
    found.dedup_by(|a, b| a.name == b.name);
    Ok(found)
}

/// Calls with ever larger buffers until the answer fits; it may grow between two calls.
fn read_growing(start: usize, call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; start];
    loop {
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::INTR) => {}
            Err(Errno::RANGE) if buffer.len() < XATTR_LEN_MAX => {
                buffer.resize((buffer.len() * 4).min(XATTR_LEN_MAX), 0)
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads at `offset` until `bytes` is full or the file ends; returns how many bytes were read.
pub(super) fn read_at(file: &FileFd, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(&file.0, &mut bytes[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(filled)
}

/// What the system knows of the place at or after an offset.
pub(super) enum Found {
    /// It begins here.
    At(u64),
    /// There is none up to the end of the file.
    None,
    /// This file system does not tell.
    Unknown,
}

/// Where data begins, at or after `offset`.
pub(super) fn next_data(file: &FileFd, offset: u64) -> io::Result<Found> {
    find(file, SeekFrom::Data(offset))
}

/// Where a hole begins, at or after `offset`; the end of a file counts as one.
pub(super) fn next_hole(file: &FileFd, offset: u64) -> io::Result<Found> {
    find(file, SeekFrom::Hole(offset))
}

fn find(file: &FileFd, from: SeekFrom) -> io::Result<Found> {
    match retry_on_intr(|| fs::seek(&file.0, from)) {
        Ok(offset) => Ok(Found::At(offset)),
        Err(Errno::NXIO) => Ok(Found::None),
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(Found::Unknown),
        Err(errno) => Err(errno.into()),
    }
}

/// Tells the system to read ahead far. Only a hint.
pub(super) fn advise_sequential(file: &FileFd) {
    let _ = fs::fadvise(&file.0, 0, None, fs::Advice::Sequential);
}

/// Tells the system that these bytes need not stay in memory. Only a hint.
pub(super) fn advise_done(file: &FileFd, offset: u64, len: u64) {
    if let Some(len) = std::num::NonZeroU64::new(len) {
        let _ = fs::fadvise(&file.0, offset, Some(len), fs::Advice::DontNeed);
    }
}

/// Whether an open met a symlink, a socket or a device without a driver.
pub(super) fn met_another_kind(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::LOOP, Errno::NXIO, Errno::NODEV].contains(&errno))
}

/// Name of a user.
pub(super) fn user_name(uid: u32) -> Option<Arc<[u8]>> {
    Some(uzers::get_user_by_uid(uid)?.name().as_bytes().into())
}

/// Name of a group.
pub(super) fn group_name(gid: u32) -> Option<Arc<[u8]>> {
    Some(uzers::get_group_by_gid(gid)?.name().as_bytes().into())
}

/// A path as the standard library wants it.
pub(super) fn path_of(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

impl DirFd {
    /// The descriptor, for questions about its file system.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
