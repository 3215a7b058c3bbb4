//! Open files in the target: regular ones for content and metadata, all others for metadata.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::apply::{ApplyOptions, Shortfall, apply};
use super::dir::TargetDir;
use super::existing::{FileId, Found};
use super::linux::{self, Handle};
use super::{Result, TargetError};
use crate::branch::entry::Metadata;

/// A regular file without further names, open for reading and writing at any offset, from several threads.
pub struct TargetFile {
    fd: OwnedFd,
    dir: TargetDir,
    name: Box<[u8]>,
    is_new: bool,
}

impl TargetFile {
    pub(super) fn new(fd: OwnedFd, dir: TargetDir, name: &[u8], is_new: bool) -> Self {
        Self { fd, dir, name: name.into(), is_new }
    }

    /// Whether the file was made by the call that returned it, and so is empty at first.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// What it is now.
    pub fn stat(&self) -> Result<Found> {
        linux::found_open(self.fd.as_fd()).map_err(|errno| self.fail("look at", errno))
    }

    /// Identity, for [`TargetDir::hard_link`].
    pub fn id(&self) -> Result<FileId> {
        Ok(self.stat()?.id)
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        linux::write_at(self.fd.as_fd(), offset, bytes).map_err(|errno| self.fail("write to", errno))
    }

    /// Reads at `offset` until `bytes` is full or the file ends; returns how many bytes were read.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        linux::read_at(self.fd.as_fd(), offset, bytes).map_err(|errno| self.fail("read", errno))
    }

    /// Sets the length in bytes. What the file gains reads as zeros and takes no room.
    pub fn set_len(&self, len: u64) -> Result<()> {
        linux::set_len(self.fd.as_fd(), len).map_err(|errno| self.fail("set the length of", errno))
    }

    /// Makes `len` bytes at `offset` read as zeros and, where the file system can, take no room.
    /// The length of the file stays; only the part of the stretch inside the file is changed.
    pub fn make_hole(&self, offset: u64, len: u64) -> Result<()> {
        let fail = |errno| self.fail("write to", errno);
        let end = offset.saturating_add(len).min(self.stat()?.len);
        if offset >= end {
            return Ok(());
        }
        match linux::punch(self.fd.as_fd(), offset, end - offset) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(offset, end).map_err(fail),
            outcome => outcome.map_err(fail),
        }
    }

    fn write_zeros(&self, mut offset: u64, end: u64) -> rustix::io::Result<()> {
        let zeros = [0; 64 << 10];
        while offset < end {
            let len = (end - offset).min(zeros.len() as u64);
            linux::write_at(self.fd.as_fd(), offset, zeros.get(..len as usize).unwrap_or_default())?;
            offset += len;
        }
        Ok(())
    }

    /// Makes the content durable.
    pub fn sync(&self) -> Result<()> {
        linux::sync_file(self.fd.as_fd()).map_err(|errno| self.fail("sync", errno))
    }

    /// Sets the metadata: after all writes, which would change times and take away set-uid bits and capabilities.
    pub fn apply(&self, meta: &Metadata, options: &ApplyOptions) -> Result<Vec<Shortfall>> {
        let is_bare = self.is_new && !self.dir.gives_acl();
        apply(Handle::Open(self.fd.as_fd()), meta, options, is_bare)
            .map_err(|errno| self.fail("set metadata of", errno))
    }

    fn fail(&self, action: &'static str, errno: Errno) -> TargetError {
        self.dir.fail(action, Some(&self.name), errno)
    }
}

/// A symbolic link, named pipe, device or socket, held without being opened.
pub struct TargetNode {
    fd: OwnedFd,
    dir: TargetDir,
    name: Box<[u8]>,
    found: Found,
}

impl TargetNode {
    pub(super) fn new(fd: OwnedFd, dir: TargetDir, name: &[u8], found: Found) -> Self {
        Self { fd, dir, name: name.into(), found }
    }

    /// What it was when it was made or found.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Identity, for [`TargetDir::hard_link`].
    pub fn id(&self) -> FileId {
        self.found.id
    }

    /// Sets the metadata; of a link itself, which has no permission bits.
    pub fn apply(&self, meta: &Metadata, options: &ApplyOptions) -> Result<Vec<Shortfall>> {
        let outcome = apply(Handle::Node(self.fd.as_fd()), meta, options, false);
        outcome.map_err(|errno| self.dir.fail("set metadata of", Some(&self.name), errno))
    }
}
