//! The vault's files on a real file system: [`OsFiles`], a folder seen through the [`Files`] seam.
//!
//! Files are created new (never opened over) with mode 0600, folders with 0700. A file whose sync failed once never
//! syncs again: the system may have dropped the dirty pages and would report success the second time.

use super::{Append, Files, FilesError, Listed, Lock, ReadAt, Result, check_path};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A vault folder on disk.
#[derive(Clone, Debug)]
pub struct OsFiles {
    root: PathBuf,
}

impl OsFiles {
    /// The files below `root`, which need not exist yet: `create_dir("")` makes it.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn place(&self, action: &'static str, path: &str) -> Result<PathBuf> {
        check_path(action, path)?;
        Ok(if path.is_empty() { self.root.clone() } else { self.root.join(path) })
    }

    fn make_dirs(&self, path: &str) -> io::Result<()> {
        if path.is_empty() || !self.root.is_dir() {
            make_root(&self.root)?;
        }
        let mut place = self.root.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let above = place.clone();
            place.push(name);
            make_dir(&place)?;
            // Also when it was there: an earlier process may have died between making it and syncing its name.
            sync_folder(&above)?;
        }
        Ok(())
    }
}

impl Files for OsFiles {
    fn create(&self, path: &str) -> Result<Arc<dyn Append>> {
        let place = self.place("create", path)?;
        let mut options = OpenOptions::new();
        options.append(true).create_new(true);
        private_mode(&mut options);
        let file = options.open(place).map_err(failed("create", path))?;
        Ok(Arc::new(OsAppend {
            file,
            path: path.to_owned(),
            appended: AtomicU64::new(0),
            hinted: AtomicU64::new(0),
            sync_failed: AtomicBool::new(false),
        }))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn ReadAt>> {
        let place = self.place("open", path)?;
        let mut options = OpenOptions::new();
        options.read(true);
        no_waiting(&mut options);
        let file = options.open(place).map_err(failed("open", path))?;
        let is_file = file.metadata().map_err(failed("open", path))?.is_file();
        if !is_file {
            return Err(failed("open", path)(io::ErrorKind::InvalidInput.into()));
        }
        Ok(Arc::new(OsReadAt { file, path: path.to_owned() }))
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        let place = self.place("list", dir)?;
        let mut listed = Vec::new();
        for entry in fs::read_dir(place).map_err(failed("list", dir))? {
            let entry = entry.map_err(failed("list", dir))?;
            let metadata = match entry.metadata() {
                // Removed since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed("list", dir))?,
            };
            let is_dir = metadata.is_dir();
            let name = entry.file_name().to_string_lossy().into_owned();
            listed.push(Listed { name, len: if is_dir { 0 } else { metadata.len() }, is_dir });
        }
        listed.sort();
        Ok(listed)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let target = self.place("rename", to)?;
        fs::rename(self.place("rename", from)?, target).map_err(failed("rename", from))
    }

    fn remove(&self, path: &str) -> Result<()> {
        fs::remove_file(self.place("remove", path)?).map_err(failed("remove", path))
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        check_path("create folder", path)?;
        self.make_dirs(path).map_err(failed("create folder", path))
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        sync_folder(&self.place("sync folder", dir)?).map_err(failed("sync folder", dir))
    }

    fn sync_file(&self, path: &str) -> Result<()> {
        let place = self.place("sync", path)?;
        // Opened for reading where that is enough: a vault that may only be read is synced without being written to.
        let mut options = OpenOptions::new();
        let options = if cfg!(windows) { options.append(true) } else { options.read(true) };
        let file = options.open(place).map_err(failed("sync", path))?;
        file.sync_all().map_err(failed("sync", path))?;
        forget_cached(&file);
        Ok(())
    }

    fn try_lock(&self, path: &str, owner: &str) -> Result<Option<Box<dyn Lock>>> {
        let place = self.place("lock", path)?;
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            private_mode(&mut options);
            let mut file = options.open(&place).map_err(failed("lock", path))?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
                Ok(()) => {}
            }
            // A lock on a file that was replaced meanwhile guards nothing.
            if !is_same_file(&file, &place).map_err(failed("lock", path))? {
                continue;
            }
            write_owner(&mut file, owner).map_err(failed("lock", path))?;
            return Ok(Some(Box::new(OsLock { _file: file })));
        }
    }
}

struct OsAppend {
    file: File,
    path: String,
    appended: AtomicU64,
    hinted: AtomicU64,
    sync_failed: AtomicBool,
}

impl Append for OsAppend {
    fn append(&self, bytes: &[u8]) -> Result<()> {
        // `write_all` goes on after short writes and interrupts.
        (&self.file).write_all(bytes).map_err(failed("append to", &self.path))?;
        self.appended.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            let error = io::Error::other("an earlier sync of this file failed");
            return Err(failed("sync", &self.path)(error));
        }
        self.file.sync_data().map_err(|error| {
            self.sync_failed.store(true, Ordering::Release);
            failed("sync", &self.path)(error)
        })
    }

    fn hint_flush(&self) {
        let end = self.appended.load(Ordering::Relaxed);
        let start = self.hinted.swap(end, Ordering::Relaxed);
        if end > start {
            start_write_out(&self.file, start, end - start);
        }
    }
}

struct OsReadAt {
    file: File,
    path: String,
}

impl ReadAt for OsReadAt {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match read_once(&self.file, &mut bytes[filled..], offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &self.path)(error)),
            }
        }
        Ok(filled)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(failed("read", &self.path))?.len())
    }

    fn forget(&self, offset: u64, len: u64) {
        forget_stretch(&self.file, offset, len);
    }
}

/// The lock lives in the open file: closing it, or the end of the process, releases it.
struct OsLock {
    _file: File,
}

impl Lock for OsLock {}

fn failed(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> FilesError {
    move |source| FilesError { action, path: path.to_owned(), source }
}

fn write_owner(file: &mut File, owner: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(owner.as_bytes())
}

/// Creates the vault folder and what is missing above it, each name durable.
fn make_root(root: &Path) -> io::Result<()> {
    let above = root.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !above.is_dir() {
        make_root(above)?;
    }
    let was_there = root.is_dir();
    make_dir(root)?;
    match sync_folder(above) {
        // A folder that was given to us may lie in one we may not read.
        Err(error) if was_there && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

fn make_dir(place: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    private_dir_mode(&mut builder);
    match builder.create(place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && place.is_dir() => Ok(()),
        other => other,
    }
}

#[cfg(unix)]
pub(crate) fn sync_folder(place: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(place)?.sync_all()
}

#[cfg(not(unix))]
pub(crate) fn sync_folder(place: &Path) -> io::Result<()> {
    // Folders cannot be synced here; the file system journals names.
    fs::metadata(place).map(drop)
}

#[cfg(unix)]
fn private_mode(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn private_mode(_: &mut OpenOptions) {}

#[cfg(unix)]
pub(crate) fn private_dir_mode(builder: &mut DirBuilder) {
    use std::os::unix::fs::DirBuilderExt;
    builder.mode(0o700);
}

#[cfg(not(unix))]
pub(crate) fn private_dir_mode(_: &mut DirBuilder) {}

/// A named pipe put where a file should be must not hang the reader.
#[cfg(unix)]
fn no_waiting(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags(libc::O_NONBLOCK);
}

#[cfg(not(unix))]
fn no_waiting(_: &mut OpenOptions) {}

#[cfg(unix)]
fn read_once(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_once(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

/// Drops the clean pages of a file from memory, so that it is read from the disk. Best effort.
fn forget_cached(file: &File) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// The same for a stretch, with the pages it only touches.
fn forget_stretch(file: &File, offset: u64, len: u64) {
    const PAGE: u64 = 64 << 10;
    let start = offset / PAGE * PAGE;
    let end = offset.saturating_add(len).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    #[cfg(target_os = "linux")]
    if let Some(len) = std::num::NonZeroU64::new(end - start) {
        let _ = rustix::fs::fadvise(file, start, Some(len), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, start, end);
}

#[cfg(unix)]
fn is_same_file(file: &File, place: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    match fs::metadata(place) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_same_file(_: &File, _: &Path) -> io::Result<bool> {
    // An open file cannot be removed here.
    Ok(true)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn start_write_out(file: &File, start: u64, len: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(start), Ok(len)) = (libc::off64_t::try_from(start), libc::off64_t::try_from(len)) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed and the call touches no memory of ours.
    // Its result is of no interest: the call is a hint, `sync` reports what fails.
    unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn start_write_out(_: &File, _: u64, _: u64) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn modes_pipes_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let files = OsFiles::new(folder.path().join("a/vault"));
        files.create_dir("").unwrap();
        files.create_dir("packs/x").unwrap();
        let file = files.create("packs/x/1").unwrap();
        file.append(b"abc").unwrap();
        file.hint_flush();
        file.append(b"def").unwrap();
        file.hint_flush();
        file.sync().unwrap();
        let mode = |path: &str| fs::metadata(files.root().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("packs"), mode("packs/x"), mode("packs/x/1")), (0o700, 0o700, 0o600));

        let pipe = files.root().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(files.open("pipe").err().unwrap().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(files.open("packs").err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_lock_file_replaced_meanwhile_is_taken_anew() {
        let folder = tempfile::tempdir().unwrap();
        let files = OsFiles::new(folder.path().to_path_buf());
        let first = files.try_lock("l", "pid 1").unwrap().unwrap();
        files.remove("l").unwrap();
        // The old holder guards a file without a name; the new file is free.
        let second = files.try_lock("l", "pid 2").unwrap().unwrap();
        assert!(files.try_lock("l", "pid 3").unwrap().is_none());
        drop((first, second));
        assert_eq!(files.read_all("l", 100).unwrap(), b"pid 2");
    }
}
