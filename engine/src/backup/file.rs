//! Reading files: small ones together, large ones batch by batch, which any idle worker may take on.

use super::BackupError;
use super::counts::Counts;
use super::outcome::Slot;
use super::run::Worker;
use super::tree::DirJob;
use crate::branch::entry::{Content, Entry, Metadata, Piece, What};
use crate::branch::{FileWriter, Split};
use crate::cache::CachedStat;
use crate::env::Time;
use crate::id::ChunkId;
use crate::limits::{CHUNK_LEN_MAX, ENTRY_PIECES_MAX, INLINE_LEN_MAX};
use crate::progress::Progress;
use crate::source::{DirHandle, SourceFile, Stat, same_version};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Files up to this length are read whole and go through together.
const SMALL_LEN_MAX: u64 = 1 << 20;

/// Small files are named and put once this many bytes have gathered.
const GATHER_LEN: usize = 1 << 20;

/// Bytes of a large file that are cut at a time.
const BATCH_LEN: usize = 4 << 20;

/// How often a file that changes while it is read is read again.
const READ_AGAIN_MAX: usize = 2;

/// Small files gathered by one worker, not yet named.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    lens: Vec<usize>,
    files: Vec<SmallFile>,
}

struct SmallFile {
    job: Arc<DirJob>,
    at: usize,
    chunks: usize,
    meta: Metadata,
    stat: CachedStat,
}

/// Cut bytes of a large file.
pub(super) struct Batch {
    file: Arc<LargeFile>,
    number: usize,
    bytes: Vec<u8>,
    lens: Vec<usize>,
}

/// A large file on its way: what its batches turned into, by number.
#[derive(Default)]
struct LargeFile {
    pieces: Mutex<Vec<Option<Vec<Piece>>>>,
    open: AtomicUsize,
}

impl LargeFile {
    fn pieces(&self) -> std::sync::MutexGuard<'_, Vec<Option<Vec<Piece>>>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a large file's bytes come from.
pub(super) trait Bytes {
    /// Reads at the place given until `bytes` is full or the stretch ends.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<usize, BackupError>;
}

impl Bytes for &SourceFile {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<usize, BackupError> {
        Ok(self.read_at(offset, bytes)?)
    }
}

impl Worker<'_> {
    /// Reads a file; its outcome is returned, or set later.
    pub fn file(
        &mut self,
        job: &Arc<DirJob>,
        at: usize,
        handle: &DirHandle,
        looked_at: Time,
    ) -> Result<Option<Slot>, BackupError> {
        let name = job.name(at);
        let file = match handle.open_file(&name) {
            Ok(file) => file,
            Err(error) => {
                self.missed(&error);
                return Ok(Some(Slot::Gone));
            }
        };
        let meta = self.metadata(file.stat(), file.xattrs(), || file.path());
        let stat = *file.stat();
        if stat.size > SMALL_LEN_MAX || (stat.may_have_holes() && stat.size > INLINE_LEN_MAX as u64) {
            return self.large_file(job, at, &file, meta, looked_at).map(Some);
        }
        self.small_file(job, at, &file, meta, looked_at)
    }

    fn small_file(
        &mut self,
        job: &Arc<DirJob>,
        at: usize,
        file: &SourceFile,
        meta: Metadata,
        looked_at: Time,
    ) -> Result<Option<Slot>, BackupError> {
        let start = self.gathered.bytes.len();
        let mut before = *file.stat();
        let mut read_again = 0;
        let changed = loop {
            self.gathered.bytes.truncate(start);
            if let Err(error) = read_small(file, before.size, &mut self.gathered.bytes) {
                self.gathered.bytes.truncate(start);
                self.missed(&error);
                return Ok(Some(Slot::Gone));
            }
            let len = (self.gathered.bytes.len() - start) as u64;
            match file.restat() {
                Ok(after) if same_version(&before, &after) && after.size == len => break false,
                // As long as it stays a small one.
                Ok(after) if read_again < READ_AGAIN_MAX && after.size <= SMALL_LEN_MAX => before = after,
                _ => break true,
            }
            read_again += 1;
        };
        // The time from before the last look at the content: with a later one, content written meanwhile would pass
        // for what was read.
        let meta = match read_again {
            0 => meta,
            _ => self.metadata(&before, file.xattrs(), || file.path()),
        };
        let stat = self.judge(file, &before, changed, looked_at);
        let len = self.gathered.bytes.len() - start;
        self.count_read(len);
        if len <= INLINE_LEN_MAX {
            let content = Content::Inline(self.gathered.bytes[start..].into());
            self.gathered.bytes.truncate(start);
            let entry = Entry { name: job.name(at), meta, what: What::File(content) };
            return Ok(Some(Slot::New(Box::new(entry), stat)));
        }
        let cuts = self.gathered.lens.len();
        self.shared.cutter.cut_all(&self.gathered.bytes[start..], true, &mut self.gathered.lens);
        let chunks = self.gathered.lens.len() - cuts;
        self.gathered.files.push(SmallFile { job: job.clone(), at, chunks, meta, stat });
        if self.gathered.bytes.len() >= GATHER_LEN {
            self.put_gathered()?;
        }
        Ok(None)
    }

    /// What the cache may remember of a file that was read.
    fn judge(&self, file: &SourceFile, stat: &Stat, changed: bool, looked_at: Time) -> CachedStat {
        if changed {
            self.warn(file.path(), "it changed while it was read; what is stored may mix two versions");
            return CachedStat::NEVER;
        }
        CachedStat::from_stat(stat, looked_at)
    }

    fn count_read(&self, len: usize) {
        let (counts, progress) = (self.shared.counts, self.shared.progress);
        Counts::add(&counts.bytes, len as u64);
        Progress::add(&progress.files_done, 1);
        Progress::add(&progress.bytes_done, len as u64);
    }

    /// Names and puts the gathered small files, and sets their outcomes.
    pub fn put_gathered(&mut self) -> Result<(), BackupError> {
        let Gathered { mut bytes, mut lens, mut files } = std::mem::take(&mut self.gathered);
        let ids = self.writer.leaves(&bytes, &lens)?;
        let mut named = ids.into_iter().zip(lens.iter().map(|&len| len as u64));
        for file in files.drain(..) {
            let pieces: Vec<(ChunkId, u64)> = named.by_ref().take(file.chunks).collect();
            let content = match pieces[..] {
                [(chunk, len)] => Content::One { len, chunk },
                _ => self.listed(pieces.into_iter().map(|(chunk, len)| Piece { len, chunk: Some(chunk) }).collect())?,
            };
            let entry = Entry { name: file.job.name(file.at), meta: file.meta, what: What::File(content) };
            self.fill(&file.job, vec![(file.at, Slot::New(Box::new(entry), file.stat))])?;
        }
        bytes.clear();
        lens.clear();
        // Outcomes may have gathered nothing new meanwhile: only folders are finished by them.
        self.gathered = Gathered { bytes, lens, files };
        Ok(())
    }

    fn listed(&mut self, pieces: Vec<Piece>) -> Result<Content, BackupError> {
        let keys = self.shared.vault.keys();
        let split = |bytes: &[u8]| keys.list_split(bytes);
        let mut sink = PieceSink::new(&split);
        pieces.into_iter().try_for_each(|piece| sink.push(self, piece))?;
        sink.finish(self)
    }

    fn large_file(
        &mut self,
        job: &Arc<DirJob>,
        at: usize,
        file: &SourceFile,
        meta: Metadata,
        looked_at: Time,
    ) -> Result<Slot, BackupError> {
        self.shared.progress.set_current(file.path());
        file.advise_sequential();
        let before = *file.stat();
        let content = match self.large_content(file) {
            Ok(content) => content,
            Err(BackupError::Source(error)) => {
                self.missed(&error);
                return Ok(Slot::Gone);
            }
            Err(error) => return Err(error),
        };
        let changed = match file.restat() {
            Ok(after) => !same_version(&before, &after) || after.size != content.len(),
            Err(_) => true,
        };
        let stat = self.judge(file, &before, changed, looked_at);
        Progress::add(&self.shared.progress.files_done, 1);
        let entry = Entry { name: job.name(at), meta, what: What::File(content) };
        Ok(Slot::New(Box::new(entry), stat))
    }

    fn large_content(&mut self, file: &SourceFile) -> Result<Content, BackupError> {
        let keys = self.shared.vault.keys();
        let split = |bytes: &[u8]| keys.list_split(bytes);
        let mut large = Large::new(&split);
        let mut extents = if file.stat().may_have_holes() { file.extents() } else { file.whole() };
        let result = extents.try_for_each(|extent| {
            let extent = extent?;
            match extent.is_hole {
                true => large.hole(self, extent.len),
                false => large.stretch(self, &mut &*file, extent.offset, extent.len),
            }
        });
        large.finish(self, result)
    }

    /// Reads a stream of unknown length to its end.
    pub fn stream(&mut self, bytes: &mut dyn Bytes) -> Result<Content, BackupError> {
        let keys = self.shared.vault.keys();
        let split = |bytes: &[u8]| keys.list_split(bytes);
        let mut large = Large::new(&split);
        let result = large.stretch(self, bytes, 0, u64::MAX);
        large.finish(self, result)
    }

    /// Names and puts a batch.
    pub fn batch(&mut self, batch: Batch) -> Result<(), BackupError> {
        let used = batch.lens.iter().sum();
        let ids = self.writer.leaves(&batch.bytes[..used], &batch.lens)?;
        let pieces = ids.into_iter().zip(&batch.lens).map(|(id, &len)| Piece { len: len as u64, chunk: Some(id) });
        batch.file.pieces()[batch.number] = Some(pieces.collect());
        self.shared.give_back(batch.bytes);
        if batch.file.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.pool.wake();
        }
        Ok(())
    }
}

/// Reads a file that was `len` bytes long to that length, or to its end if that comes sooner.
fn read_small(file: &SourceFile, len: u64, bytes: &mut Vec<u8>) -> crate::source::Result<()> {
    let start = bytes.len();
    bytes.resize(start + len as usize, 0);
    let read = file.read_at(0, &mut bytes[start..])?;
    bytes.truncate(start + read);
    Ok(())
}

/// A large file being read by the worker that owns it.
struct Large<'s> {
    file: Arc<LargeFile>,
    /// Batches whose pieces have been taken into `sink`.
    taken: usize,
    sink: PieceSink<'s>,
}

impl<'s> Large<'s> {
    fn new(split: &'s Split<'s>) -> Self {
        Self { file: Arc::default(), taken: 0, sink: PieceSink::new(split) }
    }

    fn hole(&mut self, worker: &Worker<'_>, len: u64) -> Result<(), BackupError> {
        self.file.pieces().push(Some(vec![Piece { len, chunk: None }]));
        Counts::add(&worker.shared.counts.bytes, len);
        Progress::add(&worker.shared.progress.bytes_done, len);
        Ok(())
    }

    /// Reads, cuts and hands out `len` bytes from `offset`, or to the end if that comes sooner.
    fn stretch(
        &mut self,
        worker: &mut Worker<'_>,
        source: &mut dyn Bytes,
        offset: u64,
        len: u64,
    ) -> Result<(), BackupError> {
        let end = offset.saturating_add(len);
        let mut at = offset;
        let mut bytes = worker.shared.buffer();
        let mut kept = 0;
        loop {
            worker.shared.check_running()?;
            let wanted = (end - at).min((bytes.len() - kept) as u64) as usize;
            let read = source.read(at, &mut bytes[kept..kept + wanted])?;
            at += read as u64;
            Counts::add(&worker.shared.counts.bytes, read as u64);
            Progress::add(&worker.shared.progress.bytes_done, read as u64);
            let last = read < wanted || at == end;
            let filled = kept + read;
            let mut lens = Vec::new();
            let covered = worker.shared.cutter.cut_all(&bytes[..filled], last, &mut lens);
            // What was read and not cut goes on at the front of the next buffer.
            let mut next = worker.shared.buffer();
            kept = filled - covered;
            next[..kept].copy_from_slice(&bytes[covered..filled]);
            self.hand_out(worker, bytes, lens)?;
            self.take(worker)?;
            bytes = next;
            worker.checkpoint()?;
            if last {
                worker.shared.give_back(bytes);
                return Ok(());
            }
        }
    }

    fn hand_out(&mut self, worker: &mut Worker<'_>, bytes: Vec<u8>, lens: Vec<usize>) -> Result<(), BackupError> {
        if lens.is_empty() {
            worker.shared.give_back(bytes);
            return Ok(());
        }
        let mut pieces = self.file.pieces();
        let number = pieces.len();
        pieces.push(None);
        drop(pieces);
        self.file.open.fetch_add(1, Ordering::AcqRel);
        match worker.shared.pool.offer(Batch { file: self.file.clone(), number, bytes, lens }) {
            Some(batch) => worker.batch(batch),
            None => Ok(()),
        }
    }

    /// Moves the pieces that are known from the front on into the file's list.
    fn take(&mut self, worker: &mut Worker<'_>) -> Result<(), BackupError> {
        loop {
            let next = self.file.pieces().get_mut(self.taken).and_then(Option::take);
            let Some(pieces) = next else { return Ok(()) };
            self.taken += 1;
            for piece in pieces {
                self.sink.push(worker, piece)?;
            }
        }
    }

    /// Waits for what others have of this file, working meanwhile, and makes its content.
    fn finish(mut self, worker: &mut Worker<'_>, result: Result<(), BackupError>) -> Result<Content, BackupError> {
        // Before waiting: a batch that failed in our own hands will never be done by anybody.
        result?;
        while self.file.open.load(Ordering::Acquire) > 0 {
            worker.shared.check_running()?;
            match worker.shared.pool.batch() {
                Some(batch) => worker.batch(batch)?,
                None => worker.shared.pool.wait_for_batch(|| self.file.open.load(Ordering::Acquire) == 0),
            }
        }
        self.take(worker)?;
        self.sink.finish(worker)
    }
}

/// Gathers a file's pieces: few stay in the entry, many become a list of their own.
struct PieceSink<'s> {
    split: &'s Split<'s>,
    len: u64,
    few: Vec<Piece>,
    list: Option<FileWriter<'s>>,
}

impl<'s> PieceSink<'s> {
    fn new(split: &'s Split<'s>) -> Self {
        Self { split, len: 0, few: Vec::new(), list: None }
    }

    fn push(&mut self, worker: &mut Worker<'_>, piece: Piece) -> Result<(), BackupError> {
        self.len = self.len.saturating_add(piece.len);
        let mut put = |branch| worker.writer.branch(&branch);
        if let Some(list) = &mut self.list {
            return list.push(piece, &mut put);
        }
        self.few.push(piece);
        if self.few.len() > ENTRY_PIECES_MAX {
            let list = self.list.insert(FileWriter::new(self.split));
            self.few.drain(..).try_for_each(|piece| list.push(piece, &mut put))?;
        }
        Ok(())
    }

    fn finish(self, worker: &mut Worker<'_>) -> Result<Content, BackupError> {
        Ok(match (self.list, &self.few[..]) {
            (Some(list), _) => {
                let root = list.finish(&mut |branch| worker.writer.branch(&branch))?;
                Content::Tree { len: self.len, root }
            }
            (None, []) => Content::Inline(Box::default()),
            (None, &[Piece { len, chunk: Some(chunk) }]) => Content::One { len, chunk },
            (None, _) => Content::Pieces(self.few),
        })
    }
}

/// A buffer for [`Large::stretch`].
pub(super) fn new_buffer() -> Vec<u8> {
    vec![0; BATCH_LEN + CHUNK_LEN_MAX]
}

/// Content short enough to be kept in its entry, of a file that looks as `stat` says before and after it was read.
pub(super) fn read_short(job: &DirJob, name: &[u8], len: u64, stat: &CachedStat) -> Option<Box<[u8]>> {
    let len = usize::try_from(len).ok().filter(|&len| len <= INLINE_LEN_MAX)?;
    let file = job.dir.open().ok()?.open_file(name).ok()?;
    let mut bytes = vec![0; len + 1];
    let read = file.read_at(0, &mut bytes).ok()?;
    bytes.truncate(read);
    let is_same =
        CachedStat::now(file.stat()).same(stat, false, false) && same_version(file.stat(), &file.restat().ok()?);
    (is_same && read == len).then(|| bytes.into_boxed_slice())
}
