//! The store of second copies: frames of many vaults that a machine keeps for others, without their keys.
//!
//! What always holds: a frame that is *held* was verified and durable before anybody was told so; nothing else about
//! it is asked, so any subset of a vault may lie here. Bytes go only after their frame was dropped and lay in trash, or
//! when the same frame lies elsewhere in the store. Truth is in the packs: the index is made again from them, and then
//! counts as held whatever verifies, trash too.
//!
//! ```text
//! copies                                     names the store; 64 bytes, see below
//! lock                                       held by the process that uses the store
//! packs/<vault id>/<run id>-<number>.leaf    packs as in a vault; a run is one opening of the store. Numbers count the
//!                         …        .branch   packs of a run, over all vaults and kinds
//! index/                                     the index
//! ```
//! The file `copies`: magic `TKCOPY`, 0, 1 (8) · incarnation (16) · zeros (8) · BLAKE3 of the 32 bytes before (32).
//!
//! The index uses five tables of the map:
//!
//! ```text
//! table      key                                       value
//! chunks     frame id (32)                             pack number (u32) · offset (u64) · length (u32) · 0 held, 1 bad, 2 trash (1)
//! frames     pack number (u32 BE) · offset (u64 BE)    frame id
//! condemned  frame id, of each frame in trash          uptime of the store when it was dropped (ns, u64)
//! packs      pack number (u32 BE)                      end of the last frame looked at (u64) · 0 open, 1 closed, 2 dropped, 3 suspect (1)
//!                                                      · kind (1) · number in its run (u32) · vault id (16) · run id (16)
//! meta       "copies"                                  version 1 (u32) · incarnation (16)
//!            "totals"                                  sequence, frames held, their bytes, frames in trash, their bytes (5 × u64) · digest (32)
//!            "uptime"                                  how long the store has been open, all told (ns, u64)
//!            "packs"                                   a number below which none is given to a pack again (u32)
//! ```

mod changes;
mod digest;
mod open;
mod read;
mod rows;
mod scrub;
mod trash;
mod write;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use digest::SetDigest;
pub use open::OpenedCopies;
pub use scrub::{ScrubCursor, ScrubStep};
pub use trash::Emptied;
pub use write::{LostPack, Put, Settlement};

use crate::env::Env;
use crate::files::{Files, FilesError, Lock};
use crate::frame::FrameError;
use crate::id::{FrameId, Kind, VaultId};
use crate::kv::{Kv, KvError};
use crate::pack::{self, PackName};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The store of copies cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CopiesError {
    /// A file of the store cannot be read or written.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The index cannot be read or written.
    #[error(transparent)]
    Index(#[from] KvError),
    /// Another process, or this one, has it open.
    #[error("the store of copies is in use by {owner}")]
    Busy {
        /// Who, as far as the lock file tells.
        owner: String,
    },
    /// The folder holds something else; a store of copies wants a folder of its own.
    #[error("the folder holds {name}, which is no part of a store of copies")]
    Foreign {
        /// What stands there.
        name: String,
    },
    /// The store was made by a newer program.
    #[error("the store of copies has version {found}, this program reads version 1")]
    Version {
        /// Version byte found.
        found: u8,
    },
    /// The bytes given are not those the name calls for.
    #[error("the bytes for frame {expected} are those of {found}")]
    WrongBytes {
        /// The name they came under.
        expected: FrameId,
        /// The name they have.
        found: FrameId,
    },
    /// The bytes given have the right name and are no frame.
    #[error("what is named {frame} is no frame")]
    NoFrame {
        /// Its name.
        frame: FrameId,
        /// Why not.
        #[source]
        source: FrameError,
    },
    /// The stored bytes of a frame are not those that were put. It is not held until it is put again.
    #[error("frame {frame} in {pack} at {offset} is damaged")]
    Damaged {
        /// Frame.
        frame: FrameId,
        /// Path of the pack in the store.
        pack: String,
        /// Where it begins there.
        offset: u64,
    },
    /// So many frames wait to be settled that no more are taken.
    #[error("{waiting} frames wait to be settled; settle first")]
    SettleFirst {
        /// How many.
        waiting: usize,
    },
    /// A frame moved whenever it was about to be read.
    #[error("frame {frame} cannot be found while packs are rewritten; try again")]
    Moving {
        /// Frame.
        frame: FrameId,
    },
}

impl CopiesError {
    /// Whether the cause is a full disk or quota.
    pub fn is_no_space(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Files(error) => matches!(error.kind(), StorageFull | QuotaExceeded),
            Self::Index(error) => matches!(error, KvError::NoSpace),
            _ => false,
        }
    }
}

/// Result of an operation on a store of copies.
pub type Result<T> = std::result::Result<T, CopiesError>;

/// What a store holds, in short. Two answers with the same incarnation and sequence are the same set of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inventory {
    /// Drawn when the store was made, and again when its index had to be made anew: sequences of different
    /// incarnations do not compare.
    pub incarnation: [u8; 16],
    /// Grows with every commit that changes what is held.
    pub sequence: u64,
    /// Frames held.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of frames in trash.
    pub trash_bytes: u64,
    /// Digest of the frames held.
    pub digest: SetDigest,
}

/// A frame that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Frame.
    pub id: FrameId,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// Leaves or branches.
    pub kind: Kind,
    /// Its length in bytes.
    pub len: u32,
}

/// The folder of packs.
const PACKS: &str = pack::DIR;

/// A store of copies. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct CopyStore(Arc<Inner>);

struct Inner {
    files: Arc<dyn Files>,
    kv: Arc<dyn Kv>,
    env: Env,
    incarnation: [u8; 16],
    /// Held by whoever changes rows, from looking at them to the commit. Taken before `writer`.
    turn: Mutex<()>,
    writer: Mutex<write::Writer>,
    /// The clock when uptime was last noted.
    ticked: Mutex<Duration>,
    /// Released last.
    _lock: Box<dyn Lock>,
}

impl Inner {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, write::Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CopyStore {
    /// What is held, in short.
    pub fn inventory(&self) -> Result<Inventory> {
        let totals = rows::totals(&*self.0.kv.read()?)?;
        Ok(Inventory {
            incarnation: self.0.incarnation,
            sequence: totals.sequence,
            frames: totals.frames,
            bytes: totals.bytes,
            trash_bytes: totals.trash_bytes,
            digest: totals.digest,
        })
    }

    /// Reads the whole index and checks that its structure is sound, its tables agree, and its sums are theirs.
    ///
    /// # Errors
    /// [`KvError::Damaged`] names the first thing that is wrong: open the store rebuilt.
    pub fn check_index(&self) -> Result<()> {
        let _turn = self.0.turn();
        self.0.kv.verify()?;
        let read = self.0.kv.read()?;
        match rows::recount(&*read)? == rows::totals(&*read)? {
            true => Ok(()),
            false => Err(KvError::Damaged("its sums are not those of its rows".into()).into()),
        }
    }
}

fn folder(vault: VaultId) -> String {
    format!("{PACKS}/{vault}")
}

fn path(vault: VaultId, name: &PackName) -> String {
    format!("{}/{}", folder(vault), name.file_name())
}
