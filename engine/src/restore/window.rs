//! The pieces that have gathered: first what is right already in files that are there, then frame by frame in the
//! order they lie on disk, each read once.

use super::RestoreError;
use super::files::FileJob;
use super::plan::Context;
use crate::frame::{OpenedFrame, Opener};
use crate::id::ChunkId;
use crate::limits::{CHUNK_LEN_MAX, INLINE_LEN_MAX};
use crate::store::{Place, StoreError};
use crate::target::TargetError;
use crate::vault::{ReadError, damaged};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Pieces that gather before they are written: what a disk image of some GB consists of, because a frame that has
/// pieces in two windows is opened twice.
const PIECES_MAX: usize = 128 << 10;
/// Files that gather before they are written.
const FILES_MAX: usize = 32 << 10;
/// Bytes of inline files that gather.
const INLINE_MAX: usize = 4 << 20;
/// Inline files a worker takes at a time.
const INLINE_AT_ONCE: usize = 64;
/// Zeros written where holes are not to be kept.
const ZEROS: &[u8] = &[0; 64 << 10];

struct PieceJob {
    file: Arc<FileJob>,
    offset: u64,
    len: u64,
    chunk: ChunkId,
}

/// What has gathered.
pub(super) struct Window<'c> {
    context: &'c Context<'c>,
    pieces: Vec<PieceJob>,
    /// Files the pieces belong to.
    files: usize,
    inline: Vec<(Arc<FileJob>, Box<[u8]>)>,
    inline_len: usize,
}

impl<'c> Window<'c> {
    pub fn new(context: &'c Context<'c>) -> Result<Self, RestoreError> {
        Ok(Self { context, pieces: Vec::new(), files: 0, inline: Vec::new(), inline_len: 0 })
    }

    pub fn is_full(&self) -> bool {
        self.pieces.len() >= PIECES_MAX || self.files + self.inline.len() >= FILES_MAX || self.inline_len >= INLINE_MAX
    }

    /// A file that is its content.
    pub fn inline(&mut self, file: Arc<FileJob>, bytes: Box<[u8]>) {
        self.inline_len += bytes.len();
        self.inline.push((file, bytes));
    }

    /// A stretch of a file.
    pub fn piece(&mut self, file: &Arc<FileJob>, offset: u64, len: u64, chunk: Option<ChunkId>) {
        match chunk {
            Some(chunk) => {
                file.expect();
                self.pieces.push(PieceJob { file: file.clone(), offset, len, chunk });
            }
            None => self.hole(file, offset, len),
        }
    }

    /// All pieces of a file have been given: whoever writes the last one finishes it.
    pub fn counted(&mut self, file: Arc<FileJob>) {
        self.files += 1;
        file.piece_done(self.context);
    }

    fn hole(&self, file: &Arc<FileJob>, offset: u64, len: u64) {
        file.has_hole();
        let keep = self.context.options.sparse;
        let made = match (keep, file.may_be_right()) {
            // In a new file a hole is what is never written.
            (true, false) => Ok(()),
            (true, true) => file.open(self.context).and_then(|file| file.make_hole(offset, len)),
            (false, _) => file.open(self.context).and_then(|file| write_zeros(&file, offset, len)),
        };
        if let Err(error) = made {
            file.fail(self.context, &error);
        }
        file.rest(self.context);
    }

    /// Writes everything that has gathered.
    pub fn run(&mut self) -> Result<(), RestoreError> {
        self.run_inline();
        let pieces = std::mem::take(&mut self.pieces);
        self.files = 0;
        let pieces = self.reuse(pieces)?;
        self.run_frames(pieces)?;
        self.context.check_running()
    }

    fn run_inline(&mut self) {
        let (inline, context) = (std::mem::take(&mut self.inline), self.context);
        self.inline_len = 0;
        let next = AtomicUsize::new(0);
        context.vault.env().executor.run(&|_| loop {
            let start = next.fetch_add(INLINE_AT_ONCE, Ordering::Relaxed);
            let Some(part) = inline.get(start..) else { return };
            for (file, bytes) in part.iter().take(INLINE_AT_ONCE) {
                write_inline(context, file, bytes);
            }
            if part.is_empty() {
                return;
            }
        });
    }

    /// Looks at files that are there already; returns the pieces they do not have right.
    fn reuse(&self, pieces: Vec<PieceJob>) -> Result<Vec<PieceJob>, RestoreError> {
        let (mut old, fresh): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|piece| piece.file.may_be_right());
        if old.is_empty() {
            return Ok(fresh);
        }
        old.reverse();
        let (todo, wanted) = (Mutex::new(old), Mutex::new(fresh));
        let context = self.context;
        context.vault.env().executor.run(&|_| {
            let mut bytes = vec![0; CHUNK_LEN_MAX];
            loop {
                let piece = todo.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(piece) = piece else { return };
                match has(context, &piece, &mut bytes) {
                    Ok(true) => piece.file.reuse(context, piece.len),
                    Ok(false) => {
                        piece.file.rest(context);
                        wanted.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
                    }
                    Err(error) => {
                        piece.file.fail(context, &error);
                        piece.file.piece_done(context);
                    }
                }
            }
        });
        Ok(wanted.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn run_frames(&self, pieces: Vec<PieceJob>) -> Result<(), RestoreError> {
        let context = self.context;
        let ids: Vec<ChunkId> = pieces.iter().map(|piece| piece.chunk).collect();
        let places = context.vault.store().places(&ids)?;
        let mut placed = Vec::with_capacity(pieces.len());
        for (piece, place) in pieces.into_iter().zip(places) {
            match place {
                Some(place) => placed.push((place, piece)),
                None => piece.file.lack(context, piece.offset..piece.offset + piece.len, true),
            }
        }
        placed.sort_by_key(|(place, piece)| (place.pack, place.offset, place.position, piece.offset));
        let groups: Vec<&[(Place, PieceJob)]> = placed.chunk_by(|a, b| a.0.number == b.0.number).collect();
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        context.vault.env().executor.run(&|_| {
            let work = || -> Result<(), ReadError> {
                let mut opener = Opener::new(context.vault.data_keys().clone()).map_err(ReadError::Decompression)?;
                let mut bytes = Vec::new();
                while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if context.progress.is_cancelled() {
                        return Ok(());
                    }
                    run_frame(context, group, &mut opener, &mut bytes)?;
                }
                Ok(())
            };
            if let Err(error) = work() {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                next.store(usize::MAX / 2, Ordering::Relaxed);
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

fn write_inline(context: &Context<'_>, file: &Arc<FileJob>, bytes: &[u8]) {
    file.expect();
    match file.open(context) {
        Ok(_) if bytes.is_empty() => file.piece_done(context),
        Ok(open) if holds(&open, bytes) => file.reuse(context, bytes.len() as u64),
        Ok(_) => file.write(context, 0, bytes, 1),
        Err(error) => {
            file.fail(context, &error);
            file.piece_done(context);
        }
    }
    file.piece_done(context);
}

/// Whether a file that was there begins with these few bytes; its length is set in any case.
fn holds(file: &crate::target::TargetFile, bytes: &[u8]) -> bool {
    let mut found = [0; INLINE_LEN_MAX];
    let found = &mut found[..bytes.len()];
    !file.is_new() && file.read_at(0, found).is_ok_and(|read| read == bytes.len()) && *found == *bytes
}

fn write_zeros(file: &crate::target::TargetFile, offset: u64, len: u64) -> Result<(), TargetError> {
    let mut at = 0;
    while at < len {
        let part = (len - at).min(ZEROS.len() as u64);
        file.write_at(offset + at, &ZEROS[..part as usize])?;
        at += part;
    }
    Ok(())
}

/// Whether the file in the target has this piece already.
fn has(context: &Context<'_>, piece: &PieceJob, bytes: &mut [u8]) -> Result<bool, TargetError> {
    let file = piece.file.open(context)?;
    if file.is_new() || piece.len > bytes.len() as u64 {
        return Ok(false);
    }
    let bytes = &mut bytes[..piece.len as usize];
    let read = file.read_at(piece.offset, bytes)?;
    Ok(read == bytes.len() && context.vault.keys().leaf_id(bytes) == piece.chunk)
}

/// Reads one frame and writes the pieces that are in it.
fn run_frame(
    context: &Context<'_>,
    group: &[(Place, PieceJob)],
    opener: &mut Opener,
    bytes: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let Some((place, first)) = group.first() else { return Ok(()) };
    context.progress.set_current(first.file.path.clone());
    let store = context.vault.store();
    let opened = match store.read_frame(place, bytes).map_err(ReadError::from) {
        Ok(()) => opener.open(bytes).map_err(|source| damaged(&**store, place, source)),
        Err(error) => Err(error),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(ReadError::Store(StoreError::Gone { .. })) => return run_one_by_one(context, group),
        Err(error) if error.is_damage() => {
            context.progress.warn("", format!("{error}; run `twinkeep check --read-data`"));
            for (_, piece) in group {
                piece.file.lack(context, piece.offset..piece.offset + piece.len, true);
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let keys = context.vault.keys();
    let mut run = Run::default();
    for (place, piece) in group {
        let chunk = match crate::zoo::planted("skip-chunk-check") {
            true => opened.bytes(place.position.into()),
            false => opened.chunk(keys, place.position.into(), &piece.chunk).ok(),
        };
        match chunk.filter(|chunk| chunk.len() as u64 == piece.len) {
            Some(_) => run.add(context, &opened, place.position.into(), piece),
            None => piece.file.lack(context, piece.offset..piece.offset + piece.len, true),
        }
    }
    run.write(context, &opened);
    opener.recycle(opened);
    Ok(())
}

/// Pieces that follow each other in a file as they do in the frame: written in one call.
#[derive(Default)]
struct Run<'p> {
    first: Option<&'p PieceJob>,
    positions: Range<usize>,
    len: u64,
}

impl<'p> Run<'p> {
    fn add(&mut self, context: &Context<'_>, opened: &OpenedFrame, position: usize, piece: &'p PieceJob) {
        let goes_on = self.first.is_some_and(|first| {
            Arc::ptr_eq(&first.file, &piece.file)
                && first.offset + self.len == piece.offset
                && self.positions.end == position
        });
        if !goes_on {
            self.write(context, opened);
            *self = Self { first: Some(piece), positions: position..position, len: 0 };
        }
        self.positions.end += 1;
        self.len += piece.len;
    }

    fn write(&self, context: &Context<'_>, opened: &OpenedFrame) {
        let Some(first) = self.first else { return };
        let bytes = opened.bytes_of(self.positions.clone()).expect("each of them was read before");
        first.file.write(context, first.offset, bytes, self.positions.len());
    }
}

/// For pieces whose frame was taken apart since their places were asked for: they may be in several by now.
fn run_one_by_one(context: &Context<'_>, group: &[(Place, PieceJob)]) -> Result<(), ReadError> {
    let reader = context.vault.reader()?;
    for (_, piece) in group {
        match reader.leaf(&piece.chunk) {
            Ok(chunk) if chunk.len() as u64 == piece.len => piece.file.write(context, piece.offset, &chunk, 1),
            Err(error) if !error.is_damage() => return Err(error),
            _ => piece.file.lack(context, piece.offset..piece.offset + piece.len, true),
        }
    }
    Ok(())
}
