//! A long file read by several threads, its bytes handed out in order.
//!
//! Pieces that follow each other and lie in one frame are a run. Threads open the frames of some runs ahead of the one
//! that is being written. The outcome is that of [`super::copy_range`] over the whole file.

use super::Result;
use super::read::{Pieces, leaf, pieces_from, unreadable, write, zeros};
use crate::branch::BranchError;
use crate::branch::entry::{Content, Piece};
use crate::id::ChunkId;
use crate::index::FrameNumber;
use crate::progress::Progress;
use crate::vault::{ChunkReader, ReadError, Vault};
use std::collections::VecDeque;
use std::io::Write;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Shorter files are not worth threads, bytes.
pub(super) const LEN_MIN: u64 = 8 << 20;

/// Threads at most.
const THREADS_MAX: usize = 4;

/// Runs that are being read or wait to be written, for each thread.
const RUNS_AHEAD: usize = 2;

/// Frames each thread keeps open: what was added to a file later lies elsewhere, between what it was made of.
const FRAMES_KEPT: usize = 4;

/// A run this long takes no further piece, bytes: as much as most frames hold, so that two threads hardly ever open the
/// same one.
const RUN_LEN: u64 = 2 << 20;

/// Bytes up to the first piece of a run that cannot be read, and which that is and why.
type Read = (Vec<u8>, Option<(Range<u64>, ReadError)>);

struct Run {
    offset: u64,
    leaves: Vec<(ChunkId, u64)>,
    /// To read into.
    bytes: Vec<u8>,
    answer: SyncSender<Read>,
}

/// What comes next in the file.
enum Next {
    Hole(u64),
    Run(Receiver<Read>),
    Failed(Range<u64>, ReadError),
}

/// Writes all bytes of a file to `out`; returns how many. Errors as [`super::read_file`].
pub(super) fn copy(vault: &Vault, content: &Content, out: &mut dyn Write, progress: &Progress) -> Result<u64> {
    let len = content.len();
    let planner = vault.reader()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let reader = |_| vault.reader().map(|reader| reader.keeping(FRAMES_KEPT));
    let readers: Vec<ChunkReader> = (0..threads).map(reader).collect::<std::result::Result<_, ReadError>>()?;
    let pieces = pieces_from(&planner, content, 0).map_err(|source| unreadable(0..len, source))?;
    let (send, receive) = channel();
    let plan = Plan { reader: &planner, pieces: pieces.peekable(), at: 0, len, send, spare: Vec::new() };
    let runs = &Mutex::new(receive);
    std::thread::scope(|scope| {
        for reader in &readers {
            scope.spawn(move || serve(reader, runs));
        }
        // Takes the plan along: with its end of the queue the threads end, too.
        in_order(plan, threads * RUNS_AHEAD, out, progress)
    })?;
    Ok(len)
}

fn serve(reader: &ChunkReader, runs: &Mutex<Receiver<Run>>) {
    loop {
        let next = runs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut run) = next else { return };
        let bytes = std::mem::take(&mut run.bytes);
        // After an error nobody waits for the rest.
        let _ = run.answer.send(read(reader, &run, bytes));
    }
}

fn read(reader: &ChunkReader, run: &Run, mut bytes: Vec<u8>) -> Read {
    let mut at = run.offset;
    for (chunk, len) in &run.leaves {
        match leaf(reader, chunk, *len) {
            Ok(leaf) => bytes.extend_from_slice(&leaf),
            Err(error) => return (bytes, Some((at..at + len, error))),
        }
        at += len;
    }
    (bytes, None)
}

fn in_order(mut plan: Plan<'_>, ahead_max: usize, out: &mut dyn Write, progress: &Progress) -> Result<()> {
    let mut ahead = VecDeque::new();
    loop {
        while ahead.len() < ahead_max
            && let Some(next) = plan.next()
        {
            ahead.push_back(next);
        }
        match ahead.pop_front() {
            None => return Ok(()),
            Some(Next::Hole(len)) => zeros(out, len, progress)?,
            Some(Next::Failed(range, error)) => return Err(unreadable(range, error)),
            Some(Next::Run(answer)) => {
                let (mut bytes, failure) = answer.recv().expect("a thread answers every run");
                write(out, &bytes, progress)?;
                bytes.clear();
                plan.spare.push(bytes);
                if let Some((range, error)) = failure {
                    return Err(unreadable(range, error));
                }
            }
        }
    }
}

/// Makes runs of a file's pieces and hands them to the threads.
struct Plan<'r> {
    reader: &'r ChunkReader,
    pieces: Peekable<Pieces<'r>>,
    /// Bytes planned.
    at: u64,
    len: u64,
    send: Sender<Run>,
    /// Empty buffers, to be used again.
    spare: Vec<Vec<u8>>,
}

impl Plan<'_> {
    /// Nothing once all bytes are planned; after a failure nobody asks.
    fn next(&mut self) -> Option<Next> {
        if self.at >= self.len {
            return None;
        }
        let rest = self.at..self.len;
        match self.pieces.next() {
            // The list ends before the file does.
            None => Some(Next::Failed(rest, BranchError::Promise.into())),
            Some(Err(error)) => Some(Next::Failed(rest, error)),
            Some(Ok((_, piece))) if !self.fits(piece.len) => Some(Next::Failed(rest, BranchError::Promise.into())),
            Some(Ok((_, Piece { len, chunk: None }))) => {
                self.at += len;
                Some(Next::Hole(len))
            }
            Some(Ok((_, Piece { len, chunk: Some(chunk) }))) => Some(self.run(chunk, len)),
        }
    }

    fn run(&mut self, chunk: ChunkId, len: u64) -> Next {
        let (answer, receive) = sync_channel(1);
        let bytes = self.spare.pop().unwrap_or_default();
        let mut run = Run { offset: self.at, leaves: vec![(chunk, len)], bytes, answer };
        self.at += len;
        let frame = self.frame(&chunk);
        while frame.is_some() && self.at - run.offset < RUN_LEN {
            let Some(&Ok((_, Piece { len, chunk: Some(chunk) }))) = self.pieces.peek() else { break };
            if !self.fits(len) || self.frame(&chunk) != frame {
                break;
            }
            run.leaves.push((chunk, len));
            self.at += len;
            self.pieces.next();
        }
        // The threads hold their end of the queue until this one is dropped.
        let _ = self.send.send(run);
        Next::Run(receive)
    }

    /// Whether the file goes on for that long.
    fn fits(&self, len: u64) -> bool {
        len <= self.len - self.at
    }

    /// None where that cannot be told: the thread that reads the leaf says why.
    fn frame(&self, chunk: &ChunkId) -> Option<FrameNumber> {
        self.reader.place(chunk).ok().map(|place| place.number)
    }
}
