//! Entries without content: metadata as it is stored, links, devices, pipes and sockets.

use super::outcome::Slot;
use super::run::Worker;
use super::tree::DirJob;
use crate::branch::entry::{Entry, Metadata, What};
use crate::cache::CachedStat;
use crate::env::Time;
use crate::source::{self, DirHandle, FileKind, Stat};

impl Worker<'_> {
    pub fn metadata_of(&self, job: &DirJob, at: usize, handle: &DirHandle, stat: &Stat) -> Metadata {
        let xattrs = handle.xattrs(&job.names()[at]);
        self.metadata(stat, xattrs, || job.path_of(&job.names()[at]))
    }

    /// Metadata as it is stored; attributes that cannot be read or are too many are reported.
    pub fn metadata(
        &self,
        stat: &Stat,
        xattrs: source::Result<Vec<crate::branch::entry::Xattr>>,
        path: impl FnOnce() -> Vec<u8>,
    ) -> Metadata {
        let xattrs = match xattrs {
            Ok(xattrs) if crate::branch::xattrs_fit(&xattrs) => xattrs,
            Ok(_) => {
                self.warn(path(), "its extended attributes are larger than Twinkeep keeps; they are left out");
                Vec::new()
            }
            Err(error) => {
                self.missed(&error);
                Vec::new()
            }
        };
        source::metadata(stat, xattrs, &self.shared.owners, self.shared.options.with_atime)
    }

    pub fn special(&self, job: &DirJob, at: usize, handle: &DirHandle, stat: &Stat, looked_at: Time) -> Slot {
        let what = match stat.kind {
            FileKind::Symlink => match handle.read_link(&job.names()[at]) {
                Ok(target) => What::Symlink(target),
                Err(error) => {
                    self.missed(&error);
                    return Slot::Gone;
                }
            },
            FileKind::CharDevice { major, minor } => What::CharDevice { major, minor },
            FileKind::BlockDevice { major, minor } => What::BlockDevice { major, minor },
            FileKind::Fifo => What::Fifo,
            FileKind::Socket => What::Socket,
            FileKind::File | FileKind::Directory => return Slot::Gone,
        };
        let entry = Entry { name: job.name(at), meta: self.metadata_of(job, at, handle, stat), what };
        Slot::New(Box::new(entry), CachedStat::from_stat(stat, looked_at))
    }
}
