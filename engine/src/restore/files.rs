//! A file being restored: opened at its first piece, finished at its last.

use super::add;
use super::plan::Context;
use crate::branch::entry::Metadata;
use crate::progress::Progress;
use crate::target::{Fault, FileId, TargetDir, TargetError, TargetFile};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Files open at once; beyond it they are closed after each write and opened again.
const OPEN_MAX: usize = 256;

/// Ranges of a damaged file that are named one by one.
const RANGES_TOLD_MAX: usize = 16;

/// How a file comes to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// There is none by that name.
    Create,
    /// What is there makes way.
    Replace,
    /// The file there is mended.
    Update,
}

/// A file that is being restored.
pub(super) struct FileJob {
    pub dir: TargetDir,
    pub name: Box<[u8]>,
    pub path: Vec<u8>,
    pub meta: Metadata,
    pub len: u64,
    pub begin: Begin,
    /// Which file it became; for hard links to it.
    pub made: OnceLock<FileId>,
    has_holes: AtomicBool,
    /// Pieces to come, and one more for as long as they are still being counted.
    remaining: AtomicUsize,
    state: Mutex<State>,
    /// Held while something is written: the system lets in one at a time, and others would burn their time waiting.
    writing: Mutex<()>,
}

#[derive(Default)]
struct State {
    file: Option<Arc<TargetFile>>,
    /// Which file it is, once it was begun and closed.
    begun: Option<FileId>,
    written: bool,
    missing: Vec<Range<u64>>,
    damaged: bool,
    failed: bool,
}

impl FileJob {
    pub fn new(dir: TargetDir, name: Box<[u8]>, path: Vec<u8>, meta: Metadata, len: u64, begin: Begin) -> Arc<Self> {
        Arc::new(Self {
            dir,
            name,
            path,
            meta,
            len,
            begin,
            made: OnceLock::new(),
            has_holes: AtomicBool::new(false),
            remaining: AtomicUsize::new(1),
            state: Mutex::default(),
            writing: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more piece will come.
    pub fn expect(&self) {
        self.remaining.fetch_add(1, Ordering::AcqRel);
    }

    pub fn has_hole(&self) {
        self.has_holes.store(true, Ordering::Release);
    }

    /// The file, open for writing.
    pub fn open(&self, context: &Context<'_>) -> Result<Arc<TargetFile>, TargetError> {
        let mut state = self.state();
        if let Some(file) = &state.file {
            return Ok(file.clone());
        }
        let file = match (state.begun, self.begin) {
            (Some(_), _) | (None, Begin::Update) => self.dir.open_existing(&self.name)?,
            (None, Begin::Create) => self.dir.create_new(&self.name)?,
            (None, Begin::Replace) => {
                self.dir.remove(&self.name)?;
                self.dir.create_new(&self.name)?
            }
        };
        // Another file in its place, a new one for a file that got a further name too, lacks what was written.
        if let Some(begun) = state.begun
            && file.id()? != begun
        {
            let path = String::from_utf8_lossy(&self.path).into_owned();
            return Err(TargetError { action: "open file", path, source: Fault::Changed });
        }
        let file = Arc::new(file);
        context.open_files.fetch_add(1, Ordering::Relaxed);
        state.file = Some(file.clone());
        Ok(file)
    }

    /// Whether its present content may be of use.
    pub fn may_be_right(&self) -> bool {
        self.begin == Begin::Update
    }

    /// Writes so many pieces that follow each other.
    pub fn write(&self, context: &Context<'_>, offset: u64, bytes: &[u8], pieces: usize) {
        let written = self.open(context).and_then(|file| {
            let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_at(offset, bytes)
        });
        match written {
            Ok(()) => {
                self.state().written = true;
                add(&context.counts.bytes_written, bytes.len() as u64);
                Progress::add(&context.progress.bytes_written, bytes.len() as u64);
                Progress::add(&context.progress.bytes_done, bytes.len() as u64);
            }
            Err(error) => self.fail(context, &error),
        }
        (0..pieces).for_each(|_| self.piece_done(context));
    }

    /// A piece that was there already.
    pub fn reuse(&self, context: &Context<'_>, len: u64) {
        add(&context.counts.bytes_reused, len);
        Progress::add(&context.progress.bytes_done, len);
        self.piece_done(context);
    }

    /// A piece that the vault cannot give.
    pub fn lack(&self, context: &Context<'_>, range: Range<u64>, damaged: bool) {
        let mut state = self.state();
        state.damaged |= damaged;
        match state.missing.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => state.missing.push(range),
        }
        drop(state);
        self.piece_done(context);
    }

    /// Writing to it failed: told once, and nothing more is written.
    pub fn fail(&self, context: &Context<'_>, error: &TargetError) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.failed, true) {
            context.failed(&self.path, error);
        }
    }

    /// Counts down; the last one finishes the file.
    pub fn piece_done(&self, context: &Context<'_>) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish(context);
            return;
        }
        self.rest(context);
    }

    /// Called when nothing is done with it for now: closes it if many are open.
    pub fn rest(&self, context: &Context<'_>) {
        if context.open_files.load(Ordering::Relaxed) > OPEN_MAX {
            self.close(context);
        }
    }

    /// Closes it for now. One that cannot say which it is stays open: it could not be told from another later.
    fn close(&self, context: &Context<'_>) {
        let mut state = self.state();
        if let Some(file) = state.file.take() {
            match file.id() {
                Ok(id) => {
                    state.begun = Some(id);
                    context.open_files.fetch_sub(1, Ordering::Relaxed);
                }
                Err(_) => state.file = Some(file),
            }
        }
    }

    fn finish(&self, context: &Context<'_>) {
        let missing = std::mem::take(&mut self.state().missing);
        if !missing.is_empty() {
            let damaged = self.state().damaged;
            context.incomplete(&self.path, &missing, damaged);
        } else if !self.state().failed {
            match self.complete(context) {
                Ok(()) => {
                    let written = self.state().written || self.begin != Begin::Update;
                    add(if written { &context.counts.files_restored } else { &context.counts.files_skipped }, 1);
                }
                Err(error) => context.failed(&self.path, &error),
            }
        }
        Progress::add(&context.progress.files_done, 1);
        // It is not opened again, so nobody needs to know which it was.
        if self.state().file.take().is_some() {
            context.open_files.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn complete(&self, context: &Context<'_>) -> Result<(), TargetError> {
        let file = self.open(context)?;
        // A new file without holes has its length from what was written.
        if self.begin == Begin::Update || self.has_holes.load(Ordering::Acquire) {
            file.set_len(self.len)?;
        }
        context.shortfalls(&self.path, file.apply(&self.meta, &context.apply)?);
        if self.meta.link.is_some() {
            let id = file.id()?;
            self.made.get_or_init(|| id);
        }
        Ok(())
    }
}

/// Ranges as people read them.
pub(super) fn ranges(missing: &[Range<u64>]) -> String {
    let mut sorted = missing.to_vec();
    sorted.sort_by_key(|range| range.start);
    let told: Vec<String> =
        sorted.iter().take(RANGES_TOLD_MAX).map(|range| format!("{}–{}", range.start, range.end)).collect();
    let more = sorted.len().saturating_sub(RANGES_TOLD_MAX);
    if more == 0 { told.join(", ") } else { format!("{} and {more} more", told.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::files::memory::MemoryFiles;
    use crate::kv::memory::MemoryKvHome;
    use crate::restore::{Counts, RestoreOptions};
    use crate::target::{ApplyOptions, Target};
    use crate::vault::{CreateOptions, Place, Vault};

    #[test]
    fn a_file_that_is_another_when_opened_again_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { files: Arc::new(MemoryFiles::new()), kv_home: Arc::new(MemoryKvHome::new()) };
        let create = CreateOptions { encrypted: false, ..CreateOptions::default() };
        let (vault, _) = Vault::create(place, Env::system(1), &create, &[]).unwrap();
        let options = RestoreOptions::to(folder.path().to_owned());
        let (progress, counts) = (Progress::silent(), Counts::default());
        let context = Context {
            vault: &vault,
            options: &options,
            progress: &progress,
            counts: &counts,
            reader: vault.reader().unwrap(),
            apply: ApplyOptions::default(),
            open_files: AtomicUsize::new(0),
        };
        let dir = Target::create(folder.path()).unwrap().root();
        let file = |name: &[u8]| {
            let job = FileJob::new(dir.clone(), name.into(), name.into(), Metadata::default(), 8, Begin::Create);
            job.expect();
            job.expect();
            job.write(&context, 0, b"abcd", 1);
            job.close(&context);
            job
        };
        let good = file(b"good");
        good.write(&context, 4, b"efgh", 1);
        good.piece_done(&context);
        assert_eq!(counts.errors.load(Ordering::Relaxed), 0);
        assert_eq!(std::fs::read(folder.path().join("good")).unwrap(), b"abcdefgh");

        let linked = file(b"linked");
        std::fs::hard_link(folder.path().join("linked"), folder.path().join("other name")).unwrap();
        linked.write(&context, 4, b"efgh", 1);
        linked.piece_done(&context);
        assert_eq!(counts.errors.load(Ordering::Relaxed), 1);
        assert_eq!(counts.files_restored.load(Ordering::Relaxed), 1);
    }
}
