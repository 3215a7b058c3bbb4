//! Stores: where a vault rests. The engine sees the two traits of this page and nothing below them.
//!
//! What always holds: a chunk that [`Store::known`] affirms is durable with everything below it; a [`Settled`] is made
//! only by a store, and only what is settled can be published.

mod adopt;
mod damage;
#[cfg(test)]
mod damage_tests;
mod heal;
mod inspect;
mod pins;
pub mod local;
pub(crate) mod packs;
mod rebuild;
mod replace;
mod salvage;
pub(crate) mod session;
#[cfg(test)]
mod local_tests;
#[cfg(test)]
pub(crate) mod tests;

pub use local::{LocalStore, Opened};
pub use pins::Pin;
pub use replace::{LostFrame, Replaced};

use crate::env::Time;
use crate::files::FilesError;
use crate::frame::SealedFrame;
use crate::id::{ChunkId, FrameId, Kind, SessionId, VaultId};
use crate::index::{FrameNumber, FramePlace, PackNumber};
use crate::kv::KvError;
use crate::pack::PackError;

/// A store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the vault cannot be read or written.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The index cannot be read or written.
    #[error(transparent)]
    Index(#[from] KvError),
    /// A pack is not what it should be.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Somebody else works on it.
    #[error("the vault's {what} is in use by {owner}")]
    Busy {
        /// What is locked.
        what: &'static str,
        /// Who holds it, as far as the lock file tells.
        owner: String,
    },
    /// The root cannot be settled: these chunks are referred to and not there.
    #[error("{} chunks that the snapshot needs are not in the vault", .0.len())]
    Missing(Vec<ChunkId>),
    /// A frame's bytes are not those that were stored.
    #[error("frame {frame} in pack {pack} at {offset} is damaged")]
    DamagedFrame {
        /// Frame.
        frame: FrameId,
        /// File name of the pack.
        pack: String,
        /// Where it begins.
        offset: u64,
    },
    /// The frame is no more: what was needed of it lives elsewhere. Ask for the chunk's place again.
    #[error("frame {frame} was taken apart")]
    Gone {
        /// Frame.
        frame: FrameId,
    },
    /// The vault rests on another machine, and this can only be done there.
    #[error("this can only be done on the machine where the vault rests")]
    Elsewhere,
    /// The machine where the vault rests cannot be reached, or would not.
    #[error("{problem}")]
    Remote {
        /// Which of the reasons a caller may want to tell apart.
        kind: RemoteKind,
        /// What happened, in words.
        problem: String,
    },
    /// More than [`CLAIMS_MAX`](crate::limits::CLAIMS_MAX) chunks were claimed and not put.
    #[error("{} chunks were claimed and not put", crate::limits::CLAIMS_MAX)]
    TooManyClaims,
    /// This session failed before; nothing it said since is believed.
    #[error("the session failed earlier; begin a new one")]
    SessionFailed,
}

/// Why a store on another machine did not do what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteKind {
    /// It cannot be reached.
    Unreachable,
    /// It says that this may not be done.
    NotAllowed,
    /// The account's room is used up.
    Quota,
    /// Its disk is full.
    NoSpace,
    /// Anything else.
    Other,
}

impl StoreError {
    /// Whether the cause is a full disk or quota.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Files(error) | Self::Pack(PackError::Files(error)) => is_full(error),
            Self::Index(error) => matches!(error, KvError::NoSpace),
            Self::Remote { kind, .. } => matches!(kind, RemoteKind::NoSpace | RemoteKind::Quota),
            _ => false,
        }
    }
}

fn is_full(error: &FilesError) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Where a stored chunk is: the frame to read and the position in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Frame, by its number in the index.
    pub number: FrameNumber,
    /// Frame, by name.
    pub frame: FrameId,
    /// Pack.
    pub pack: PackNumber,
    /// Where the frame begins in the pack.
    pub offset: u64,
    /// Length of the frame, bytes.
    pub len: u32,
    /// Leaves or branches.
    pub kind: Kind,
    /// Position of the chunk in the frame.
    pub position: u16,
    /// Whether the frame is still believed. One that was found bad may be tried all the same.
    pub is_believed: bool,
}

/// A frame that was found bad, and where it stood then. Packs are rewritten beside whoever reads them: what stands
/// elsewhere by now, or nowhere, is not what was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BadFrame {
    /// Frame, by its number in the index.
    pub number: FrameNumber,
    /// The pack it was read from.
    pub pack: PackNumber,
    /// Where it began in that pack.
    pub offset: u64,
}

impl BadFrame {
    /// The frame of this number, found bad at this place.
    pub fn at(number: FrameNumber, place: &FramePlace) -> Self {
        Self { number, pack: place.pack, offset: place.offset }
    }
}

impl From<&Place> for BadFrame {
    fn from(place: &Place) -> Self {
        Self { number: place.number, pack: place.pack, offset: place.offset }
    }
}

/// Answer to a writer who wants to put a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It is stored and all below it is.
    Known,
    /// This session is about to store it, or has without having settled.
    InFlight,
    /// It is the caller's to put, in this session.
    Mine,
}

/// Proof that everything below a root, and the root, is durable.
#[derive(Debug)]
pub struct Settled {
    root: ChunkId,
}

impl Settled {
    /// What a store on another machine has answered for: only an implementation of [`Session`] may say so.
    pub fn by_host(root: ChunkId) -> Self {
        Self { root }
    }

    /// The root.
    pub fn root(&self) -> ChunkId {
        self.root
    }
}

/// Where a new record stands in the vault's chain.
#[derive(Clone, Copy, Debug)]
pub struct ChainLink {
    /// Its place, from 1.
    pub count: u64,
    /// BLAKE3 of the record before it, zeros for the first.
    pub previous: [u8; 32],
    /// The time that the record must carry, where whoever keeps the chain stamps it; else the writer's own clock tells.
    pub received: Option<Time>,
}

/// A record file as it is stored.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// Its place in the chain, from its file name.
    pub count: u64,
    /// File name.
    pub name: String,
    /// Its bytes, or why they cannot be read.
    pub bytes: std::result::Result<Vec<u8>, String>,
}

/// Something wrong in a store that was found without keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file it is in.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A place where a vault rests.
pub trait Store: Send + Sync {
    /// The vault.
    fn vault(&self) -> VaultId;

    /// For each id: is it, with everything below it, stored and believed?
    fn known(&self, ids: &[ChunkId]) -> Result<Vec<bool>>;

    /// For each id: is it, with everything below it, stored and believed today? Other than with [`Self::known`] it may
    /// be condemned and thus be gone tomorrow, if nothing needs it.
    fn whole(&self, ids: &[ChunkId]) -> Result<Vec<bool>>;

    /// For each id: where is it? A chunk may have a place and not be known: then something below it is missing.
    fn places(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>>;

    /// Reads the stored bytes of a frame into `bytes`, which is resized to fit. They are not verified. A frame that
    /// moved since its place was asked for is found where it is now.
    ///
    /// # Errors
    /// [`StoreError::Gone`] where it is no more.
    fn read_frame(&self, place: &Place, bytes: &mut Vec<u8>) -> Result<()>;

    /// All places of frames with numbers from `from` on, at most `count`, in number order; position is 0.
    fn frames(&self, from: FrameNumber, count: usize) -> Result<Vec<Place>>;

    /// File name of a pack, for messages.
    fn pack_name(&self, pack: PackNumber) -> Result<String>;

    /// Begins a writer's run.
    fn begin(&self) -> Result<Box<dyn Session>>;

    /// All records in the order of their count.
    fn records(&self) -> Result<Vec<StoredRecord>>;

    /// Appends the record that `make` builds for its place in the chain, durably; nobody else appends meanwhile.
    /// Nothing happens where it builds none.
    fn append(&self, make: &mut dyn FnMut(ChainLink) -> Option<Vec<u8>>) -> Result<Option<ChainLink>>;

    /// Where whoever keeps the records counts time of its own, the count of the last record that was written long enough
    /// ago for what it removes to go. Nothing where only the clock counts.
    fn ripe(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Keeps everything below `root` from being removed for as long as what it gives lives. None where that cannot be
    /// promised: the vault may only be read.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it is being removed already.
    fn pin(&self, root: ChunkId) -> Result<Option<Box<dyn Send + Sync>>>;

    /// Takes these frames' standing: their chunks and every branch above are no longer known. A frame that has moved
    /// since it was found bad, or is gone, keeps what it has.
    fn expel(&self, frames: &[BadFrame]) -> Result<Vec<ChunkId>>;

    /// Branches that are stored while something below them is missing.
    fn unwhole(&self) -> Result<Vec<ChunkId>>;

    /// Compares packs with what the index says of them, cheaply (names and lengths); expels what is gone. A pack that
    /// was dropped meanwhile, and whose row says so, is no fault.
    fn audit(&self) -> Result<Vec<Fault>>;
}

/// One writer's run. Its calls may come from several threads.
pub trait Session: Send + Sync {
    /// Its id, drawn at random.
    fn id(&self) -> SessionId;

    /// For each id: who puts it? A caller told `Mine` must put it, or the session cannot settle.
    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<Claim>>;

    /// Stores a frame. It is not durable before the next settle.
    fn put(&self, frame: SealedFrame) -> Result<()>;

    /// Makes what was put so far durable and known.
    fn checkpoint(&self) -> Result<()>;

    /// Makes everything put durable and known, and proves that `root` is whole.
    ///
    /// # Errors
    /// [`StoreError::Missing`] names all that has to be put again below `root`; nobody's claim on it holds any
    /// more, and the session goes on. What `root` does not need does not matter.
    fn settle(&self, root: ChunkId) -> Result<Settled>;

    /// Publishes a settled root: appends the record that `make` builds for its place in the chain.
    fn publish(&self, settled: Settled, make: &dyn Fn(ChainLink) -> Vec<u8>) -> Result<ChainLink>;

    /// How many bytes of frames this session has written.
    fn written_len(&self) -> u64;

    /// Branches of others, or of its own that had been whole before, that this session's chunks made whole again.
    fn healed(&self) -> Vec<ChunkId>;
}
