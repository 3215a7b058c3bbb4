//! The files of a vault: the lower seam of the local store.
//!
//! Paths are relative to the vault, `/`-separated, without `.` or `..`; `""` is the vault folder itself.
//! Promises are those of POSIX and no more: bytes are durable after [`Append::sync`], a name after
//! [`Files::sync_dir`] of its folder. A failed sync means the file is lost: write it anew under another name.

mod conformance;
pub mod crash;
pub mod faulty;
pub mod memory;
pub mod os;
pub mod record;

use std::io;
use std::sync::Arc;

/// An operation on a vault's file failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct FilesError {
    /// What was tried: `create`, `append to`, `sync`, `read`, `list`, `rename`, `remove`, `lock`, …
    pub action: &'static str,
    /// The path inside the vault.
    pub path: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl FilesError {
    /// The kind of the underlying error: `NotFound`, `StorageFull`, …
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Result of a file operation.
pub type Result<T> = std::result::Result<T, FilesError>;

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Last path component.
    pub name: String,
    /// Length in bytes; 0 for folders.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// A file being written, always at its end. Calls may come from several threads; appends are the caller's to order.
pub trait Append: Send + Sync {
    /// Writes all of `bytes` at the end or fails; after a failure the tail of the file is undefined.
    fn append(&self, bytes: &[u8]) -> Result<()>;
    /// Returns when everything appended before the call is on disk.
    fn sync(&self) -> Result<()>;
    /// Lets the system begin to write out what was appended, without waiting. No promise.
    fn hint_flush(&self) {}
}

/// A file open for reading.
pub trait ReadAt: Send + Sync {
    /// Reads at `offset` until `bytes` is full or the file ends; returns how many bytes were read.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize>;
    /// Length in bytes now.
    fn len(&self) -> Result<u64>;
    /// Drops what the system keeps of this stretch in memory, so that others keep theirs and the next read of it comes
    /// from the disk. Best effort: no promise.
    fn forget(&self, _offset: u64, _len: u64) {}
    /// Whether the file is empty.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Held for as long as the value lives, released when it is dropped or its process ends.
pub trait Lock: Send + Sync {}

/// A tree of files that keeps what was synced.
pub trait Files: Send + Sync {
    /// Creates an empty file for appending; `AlreadyExists` if there is one.
    fn create(&self, path: &str) -> Result<Arc<dyn Append>>;
    /// Opens a file for reading.
    fn open(&self, path: &str) -> Result<Arc<dyn ReadAt>>;
    /// All names in a folder, sorted by name bytes.
    fn list(&self, dir: &str) -> Result<Vec<Listed>>;
    /// Renames within the vault, replacing a file at `to` atomically.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> Result<()>;
    /// Creates a folder and its missing parents and makes their names durable; fine if it exists.
    fn create_dir(&self, path: &str) -> Result<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &str) -> Result<()>;
    /// Makes the bytes of an existing file durable, whoever wrote them. What is read after it is what the disk holds:
    /// a sync of its writer that failed may have left in memory what was never written.
    fn sync_file(&self, path: &str) -> Result<()>;
    /// Takes an exclusive lock on a file, created if missing, and writes `owner` (e.g. `pid 123`) into it.
    ///
    /// `Ok(None)` when somebody else, in this process or another, holds it; never waits.
    fn try_lock(&self, path: &str, owner: &str) -> Result<Option<Box<dyn Lock>>>;

    /// Reads a whole file of at most `len_max` bytes; a longer one is an error of kind `FileTooLarge`.
    fn read_all(&self, path: &str, len_max: usize) -> Result<Vec<u8>> {
        read_open(&*self.open(path)?, path, len_max)
    }

    /// As [`Self::read_all`], but from the disk, as far as the system lets us: what is in memory may be what is wrong.
    fn read_anew(&self, path: &str, len_max: usize) -> Result<Vec<u8>> {
        let file = self.open(path)?;
        file.forget(0, file.len()?);
        read_open(&*file, path, len_max)
    }

    /// Writes a whole file so that after any crash `path` holds either what it held before or all of `bytes`:
    /// written aside as `path.tmp`, synced, renamed, folder synced.
    fn write_atomic(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let aside = format!("{path}.tmp");
        match self.remove(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.create(&aside)?;
        file.append(bytes)?;
        file.sync()?;
        self.rename(&aside, path)?;
        self.sync_dir(parent(path))
    }
}

fn read_open(file: &dyn ReadAt, path: &str, len_max: usize) -> Result<Vec<u8>> {
    let len = file.len()?;
    if len > len_max as u64 {
        return Err(FilesError { action: "read", path: path.to_owned(), source: io::ErrorKind::FileTooLarge.into() });
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The folder part of a path; `""` for a name at the top.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Refuses a path that is not relative, `/`-separated and free of `.`, `..` and empty parts.
pub(crate) fn check_path(action: &'static str, path: &str) -> Result<()> {
    let is_good = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    if path.is_empty() || path.split('/').all(is_good) {
        return Ok(());
    }
    Err(FilesError { action, path: path.to_owned(), source: io::ErrorKind::InvalidInput.into() })
}
