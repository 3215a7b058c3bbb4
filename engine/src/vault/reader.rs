//! Reading chunks of a vault: find the frame, read it, open it, hand out the chunk its name vouches for.

use crate::branch::{self, BranchError};
use crate::frame::{DataKeys, FrameError, OpenedFrame, Opener};
use crate::id::{ChunkId, FrameId, Kind};
use crate::index::FrameNumber;
use crate::store::{Place, Store, StoreError};
use std::sync::{Arc, Mutex, PoisonError};

/// A chunk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The vault does not hold it.
    #[error("chunk {0} is not in the vault")]
    Absent(ChunkId),
    /// The frame that holds it is damaged.
    #[error("frame {frame} in {pack} at {offset} is damaged")]
    Damaged {
        /// Frame.
        frame: FrameId,
        /// Number of the frame, to expel it by.
        number: FrameNumber,
        /// File name of its pack.
        pack: String,
        /// Where it begins in the pack.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: FrameError,
    },
    /// A branch does not say what a branch says.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// Decompression cannot be set up.
    #[error("cannot set up decompression")]
    Decompression(#[source] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vault was opened with a device key.
    #[error("this key may only write: it opens nothing of what is in the vault")]
    WriteOnly,
}

impl ReadError {
    /// Whether the vault is damaged there, as opposed to being out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Absent(_) | Self::Damaged { .. } | Self::Branch(_) => true,
            // A pack that is gone or a sector that does not read.
            Self::Store(StoreError::Files(error)) => {
                error.kind() == std::io::ErrorKind::NotFound || error.source.raw_os_error() == Some(libc::EIO)
            }
            Self::Store(_) | Self::Decompression(_) | Self::WriteOnly => false,
        }
    }
}

/// Opened frames kept for the next chunk of the same frame: folders that lie together are read together.
const FRAMES_KEPT: usize = 12;

/// How often a chunk may move between the moment its place is asked for and the moment it is read.
const GONE_MAX: usize = 10;

/// Reads chunks; one a worker, or one shared by callers that take turns.
pub struct ChunkReader {
    store: Arc<dyn Store>,
    state: Mutex<State>,
}

struct State {
    opener: Opener,
    bytes: Vec<u8>,
    frames_max: usize,
    /// Most recently used last.
    frames: Vec<(FrameNumber, Arc<OpenedFrame>)>,
}

impl ChunkReader {
    /// A reader with its own decompression context and a small cache of frames.
    pub fn new(store: Arc<dyn Store>, keys: Arc<DataKeys>) -> Result<Self, ReadError> {
        let state = State {
            opener: Opener::new(keys).map_err(ReadError::Decompression)?,
            bytes: Vec::new(),
            frames_max: FRAMES_KEPT,
            frames: Vec::new(),
        };
        Ok(Self { store, state: Mutex::new(state) })
    }

    /// The same, but that it keeps so many opened frames, 1 at least, of up to 3 MiB each.
    pub fn keeping(self, frames: usize) -> Self {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).frames_max = frames.max(1);
        self
    }

    /// Where a chunk is.
    pub fn place(&self, id: &ChunkId) -> Result<Place, ReadError> {
        let places = self.store.places(std::slice::from_ref(id))?;
        places.into_iter().flatten().next().ok_or(ReadError::Absent(*id))
    }

    /// The plaintext of a leaf.
    pub fn leaf(&self, id: &ChunkId) -> Result<Vec<u8>, ReadError> {
        self.with(id, Kind::Leaf, |_, _, bytes| bytes.to_vec())
    }

    fn with<T>(
        &self,
        id: &ChunkId,
        kind: Kind,
        take: impl Fn(&OpenedFrame, usize, &[u8]) -> T,
    ) -> Result<T, ReadError> {
        let mut tries = 0;
        loop {
            match self.try_with(id, kind, &take) {
                // The next place may be gone before it is read, too, but not for ever.
                Err(ReadError::Store(StoreError::Gone { .. })) if tries < GONE_MAX => tries += 1,
                result => return result,
            }
        }
    }

    fn try_with<T>(
        &self,
        id: &ChunkId,
        kind: Kind,
        take: &impl Fn(&OpenedFrame, usize, &[u8]) -> T,
    ) -> Result<T, ReadError> {
        let place = self.place(id)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = state.frame(&*self.store, &place)?;
        // A leaf's name never opens a branch, nor the other way round, whatever the index says.
        if frame.header.kind != kind {
            return Err(ReadError::Absent(*id));
        }
        match frame.chunk(state.opener.vault_keys(), place.position.into(), id) {
            Ok(bytes) => Ok(take(&frame, place.position.into(), bytes)),
            Err(source) => Err(damaged(&*self.store, &place, source)),
        }
    }
}

impl State {
    fn frame(&mut self, store: &dyn Store, place: &Place) -> Result<Arc<OpenedFrame>, ReadError> {
        if let Some(at) = self.frames.iter().rposition(|(number, _)| *number == place.number) {
            let found = self.frames.remove(at);
            self.frames.push(found);
        } else {
            store.read_frame(place, &mut self.bytes)?;
            if self.frames.len() >= self.frames_max {
                let (_, oldest) = self.frames.remove(0);
                if let Some(oldest) = Arc::into_inner(oldest) {
                    self.opener.recycle(oldest);
                }
            }
            let opened = self.opener.open(&mut self.bytes).map_err(|source| damaged(store, place, source))?;
            self.frames.push((place.number, Arc::new(opened)));
        }
        Ok(self.frames[self.frames.len() - 1].1.clone())
    }
}

/// The error for a frame that does not open.
pub fn damaged(store: &dyn Store, place: &Place, source: FrameError) -> ReadError {
    let pack = store.pack_name(place.pack).unwrap_or_else(|_| format!("pack {}", place.pack.0));
    ReadError::Damaged { frame: place.frame, number: place.number, pack, offset: place.offset, source }
}

impl branch::Branches for ChunkReader {
    type Error = ReadError;

    fn branch(&self, id: &ChunkId) -> Result<(Vec<ChunkId>, Vec<u8>), ReadError> {
        self.with(id, Kind::Branch, |frame, position, bytes| (frame.header.refs(position).to_vec(), bytes.to_vec()))
    }
}
