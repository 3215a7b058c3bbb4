//! Regular files of the source, read by position; holes are found where the file system tells of them.

use super::{Dir, Result, SourceError, Stat, os};
use crate::branch::entry::Xattr;
use os::{FileFd, Found};
use std::io;
use std::sync::Arc;

/// A regular file open for reading. May be read by several threads at once.
pub struct SourceFile {
    dir: Arc<Dir>,
    name: Box<[u8]>,
    fd: FileFd,
    stat: Stat,
}

impl SourceFile {
    pub(super) fn new(dir: Arc<Dir>, name: Box<[u8]>, fd: FileFd, stat: Stat) -> Self {
        Self { dir, name, fd, stat }
    }

    /// What the system said when it was opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// What the system says now; compare with [`super::same_version`] after reading.
    pub fn restat(&self) -> Result<Stat> {
        os::stat_file(&self.fd).map_err(|source| self.error("stat", source))
    }

    /// Absolute path, for messages.
    pub fn path(&self) -> Vec<u8> {
        self.dir.path_of(&self.name)
    }

    /// Reads at `offset` until `bytes` is full or the file ends; returns how many bytes were read.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        os::read_at(&self.fd, offset, bytes).map_err(|source| self.error("read", source))
    }

    /// Extended attributes, sorted by name; empty where the file system has none.
    pub fn xattrs(&self) -> Result<Vec<Xattr>> {
        os::xattrs_file(&self.fd).map_err(|source| self.error("read attributes of", source))
    }

    /// Data and holes in file order, without gaps, from 0 to the length it had when opened.
    ///
    /// A file that takes as many blocks as its length needs is one stretch of data and costs no call.
    pub fn extents(&self) -> Extents<'_> {
        Extents { file: self, at: 0, sparse: self.stat.may_have_holes() }
    }

    /// The whole length as one stretch of data, for file systems whose word on holes is not trusted.
    pub fn whole(&self) -> Extents<'_> {
        Extents { file: self, at: 0, sparse: false }
    }

    /// Tells the system that all of it will be read in order. Worth it from a few MiB on.
    pub fn advise_sequential(&self) {
        os::advise_sequential(&self.fd);
    }

    /// Tells the system that bytes already read need not stay in its memory. Others may still want them.
    pub fn advise_done(&self, offset: u64, len: u64) {
        os::advise_done(&self.fd, offset, len);
    }

    fn error(&self, action: &'static str, source: io::Error) -> SourceError {
        self.dir.error(action, &self.name, source)
    }
}

/// A stretch of a file, at least one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes it covers.
    pub len: u64,
    /// Whether it reads as zeros and takes no space.
    pub is_hole: bool,
}

/// Yields the stretches of a file. See [`SourceFile::extents`].
pub struct Extents<'a> {
    file: &'a SourceFile,
    at: u64,
    sparse: bool,
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        let size = self.file.stat.size;
        if self.at >= size {
            return None;
        }
        match self.stretch(size) {
            Ok((end, is_hole)) => {
                let offset = std::mem::replace(&mut self.at, end);
                Some(Ok(Extent { offset, len: end - offset, is_hole }))
            }
            Err(source) => {
                self.at = size;
                Some(Err(self.file.error("find holes in", source)))
            }
        }
    }
}

impl Extents<'_> {
    /// Where the stretch that begins at `self.at` ends, and whether it is a hole.
    fn stretch(&mut self, size: u64) -> io::Result<(u64, bool)> {
        if !self.sparse {
            return Ok((size, false));
        }
        let fd = &self.file.fd;
        match os::next_data(fd, self.at)? {
            Found::At(data) if data > self.at => return Ok((data.min(size), true)),
            Found::At(_) => {}
            Found::None => return Ok((size, true)),
            Found::Unknown => {
                self.sparse = false;
                return Ok((size, false));
            }
        }
        match os::next_hole(fd, self.at)? {
            Found::At(hole) if hole > self.at => Ok((hole.min(size), false)),
            // Punched or cut off since we asked: reading tells what is there.
            Found::At(_) | Found::None | Found::Unknown => Ok((size, false)),
        }
    }
}
