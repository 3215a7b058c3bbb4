//! Backing up what a program prints: one file whose length nobody knows beforehand.

use super::file::Bytes;
use super::outcome::Slot;
use super::run::{Run, Worker};
use super::tree::{DirJob, Task};
use super::{BackupError, BackupOptions, BackupSummary};
use crate::branch::entry::{Entry, FileTime, Metadata, Owner, What, is_plain_name};
use crate::cache::CachedStat;
use crate::progress::Progress;
use crate::source::Dir;
use crate::vault::Vault;
use std::io::{ErrorKind, Read};
use std::sync::{Arc, PoisonError};

/// The stream, for the one worker that reads it.
pub(super) struct StreamSource(pub Box<dyn Read + Send>);

impl Bytes for StreamSource {
    fn read(&mut self, _offset: u64, bytes: &mut [u8]) -> Result<usize, BackupError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.0.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(BackupError::Stream(error)),
            }
        }
        Ok(filled)
    }
}

/// Backs up all that `reader` gives as the file `/name` of a new snapshot.
///
/// Nothing is published when the stream fails before its end.
pub fn backup_stream(
    vault: &Vault,
    name: &[u8],
    reader: Box<dyn Read + Send>,
    options: &BackupOptions,
    progress: &Progress,
) -> Result<BackupSummary, BackupError> {
    if !is_plain_name(name) {
        return Err(BackupError::NoSource("the name for a stream must be a single file name".to_owned()));
    }
    Run::new(vault, options, progress)?.run(
        &|shared, _| {
            let dir = Dir::root()?;
            let stat = dir.open()?.stat_self()?;
            Ok(Task::Stream(DirJob::for_stream(dir, stat, name, shared.now())))
        },
        Some(StreamSource(reader)),
    )
}

impl Worker<'_> {
    /// Reads the stream to its end and makes the one entry of the tree.
    pub fn stream_task(&mut self, job: &Arc<DirJob>) -> Result<(), BackupError> {
        let stream = self.shared.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut stream) = stream else {
            return Err(BackupError::NoSource("a stream can be read only once".to_owned()));
        };
        let content = self.stream(&mut stream)?;
        let now = self.shared.now();
        let mtime = FileTime { secs: now.0.div_euclid(1_000_000_000), nanos: now.0.rem_euclid(1_000_000_000) as u32 };
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (user, group): (Owner, Owner) = (self.shared.owners.user(uid), self.shared.owners.group(gid));
        let meta = Metadata { mode: 0o600, user, group, mtime, ..Metadata::default() };
        let entry = Entry { name: job.name(0), meta, what: What::File(content) };
        Progress::add(&self.shared.progress.files_done, 1);
        super::counts::Counts::add(&self.shared.counts.files_new, 1);
        self.fill(job, vec![(0, Slot::New(Box::new(entry), CachedStat::NEVER))])
    }
}
