//! Forwarding: what was backed up into one store of a vault while another could not be reached, carried over to it.
//!
//! What always holds: a snapshot is published over there only when everything below it is durable there, and once; what
//! is to be forwarded stays where it is. Whoever was interrupted does it again.

#[cfg(test)]
mod tests;

use crate::frame::{FrameError, Opener, frame_id};
use crate::id::ChunkId;
use crate::index::FrameNumber;
use crate::progress::Progress;
use crate::record::RefKind;
use crate::retention::{self, RetentionError};
use crate::store::{Claim, Place, Session, Settled, Store, StoreError};
use crate::vault::{ErrorClass, Putter, SnapshotInfo, Vault, VaultError, damaged};
use std::collections::{HashMap, HashSet};

/// Frames that are listed at a time.
const FRAMES_MAX: usize = 256;

/// Bytes after which what was put is made durable, so that the next run begins there.
const CHECKPOINT: u64 = 256 << 20;

/// How often everything is gone through: what another writer had taken on and never put is ours the second time.
const PASSES: usize = 3;

/// What was forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Snapshots that are over there now, those that were before included, in the order they were made.
    pub done: Vec<ChunkId>,
    /// Snapshots that stay behind, and why.
    pub left: Vec<(ChunkId, String)>,
    /// Snapshots that cannot even be named, and why.
    pub faults: Vec<String>,
    /// Bytes of frames that were sent.
    pub bytes: u64,
}

impl Forwarded {
    /// Whether nothing stays behind.
    pub fn is_all(&self) -> bool {
        self.left.is_empty() && self.faults.is_empty()
    }
}

/// Why nothing more could be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// One of the vaults failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// One of the stores failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is pinned here cannot be pinned over there.
    #[error(transparent)]
    Pin(#[from] RetentionError),
    /// They are not two stores of one vault.
    #[error("the two are not the same vault")]
    OtherVault,
    /// Compression cannot be set up.
    #[error("cannot set up compression")]
    Compression(#[from] std::io::Error),
    /// Somebody asked to stop.
    #[error("interrupted; the next time it goes on from there")]
    Cancelled,
}

impl ForwardError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Vault(error) => error.class(),
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Pin(error) => error.class(),
            Self::OtherVault | Self::Compression(_) => ErrorClass::Other,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }
}

type Result<T> = std::result::Result<T, ForwardError>;

/// Carries every snapshot in `from` over to `to`, another store of the same vault. Damage is a warning and a snapshot
/// that stays behind.
///
/// # Errors
/// One of the two cannot be used any more. What was forwarded until then stands.
pub fn forward(from: &Vault, to: &Vault, progress: &Progress) -> Result<Forwarded> {
    if from.id() != to.id() {
        return Err(ForwardError::OtherVault);
    }
    let snapshots = from.snapshots()?;
    let mut done = Forwarded {
        faults: snapshots.damaged.iter().map(|fault| format!("{}: {}", fault.file, fault.problem)).collect(),
        ..Forwarded::default()
    };
    let there: HashMap<ChunkId, u64> =
        to.received()?.into_iter().map(|received| (received.id, received.record)).collect();
    let mut waiting = Vec::new();
    for snapshot in &snapshots.list {
        let Some(record) = there.get(&snapshot.id) else {
            waiting.push(snapshot);
            continue;
        };
        // Whoever was interrupted may have published it and said no more of it.
        pin(to, *record, snapshot)?;
        done.done.push(snapshot.id);
    }
    if waiting.is_empty() {
        return Ok(done);
    }
    let session = to.store().begin()?;
    let mut carrier = Carrier::new(from, to, &*session, progress)?;
    carrier.carry()?;
    for snapshot in waiting {
        match carrier.settle(snapshot.id)? {
            Ok(settled) => {
                publish(to, &*session, settled, snapshot)?;
                done.done.push(snapshot.id);
            }
            Err(missing) => done.left.push((snapshot.id, format!("{missing} chunks below it cannot be read here"))),
        }
    }
    done.bytes = session.written_len();
    Ok(done)
}

/// Publishes a snapshot over there as it is known here.
fn publish(to: &Vault, session: &dyn Session, settled: Settled, snapshot: &SnapshotInfo) -> Result<()> {
    let kind = if snapshot.snapshot.partial { RefKind::PartialSnapshot } else { RefKind::Snapshot };
    let link = to.publish(session, settled, kind, snapshot.received)?;
    pin(to, link.count, snapshot)
}

fn pin(to: &Vault, record: u64, snapshot: &SnapshotInfo) -> Result<()> {
    if snapshot.pinned {
        retention::pin(to, &[record])?;
    }
    Ok(())
}

struct Carrier<'a> {
    from: &'a dyn Store,
    session: &'a dyn Session,
    opener: Opener,
    putter: Putter<'a>,
    progress: &'a Progress,
    /// Bytes written at the last checkpoint.
    durable: u64,
    /// Frames that were warned of.
    told: HashSet<FrameNumber>,
}

impl<'a> Carrier<'a> {
    fn new(from: &'a Vault, to: &'a Vault, session: &'a dyn Session, progress: &'a Progress) -> Result<Self> {
        Ok(Self {
            from: &**from.store(),
            session,
            opener: Opener::new(from.data_keys().clone())?,
            putter: Putter::new(to, session)?,
            progress,
            durable: 0,
            told: HashSet::new(),
        })
    }

    /// Puts what is not over there, in the order in which it was written: what branches refer to comes before them.
    fn carry(&mut self) -> Result<()> {
        let (mut next, mut bytes) = (FrameNumber(0), Vec::new());
        loop {
            let places = self.from.frames(next, FRAMES_MAX)?;
            let Some(last) = places.last() else { break };
            next = FrameNumber(last.number.0 + 1);
            for place in &places {
                if self.progress.is_cancelled() {
                    return Err(ForwardError::Cancelled);
                }
                self.frame(place, &mut bytes)?;
            }
        }
        Ok(self.putter.flush()?)
    }

    fn frame(&mut self, place: &Place, bytes: &mut Vec<u8>) -> Result<()> {
        match self.from.read_frame(place, bytes) {
            Err(StoreError::Gone { .. }) => return Ok(()),
            Err(error) if ErrorClass::of_store(&error) == ErrorClass::Damaged => {
                self.warn(place, &error);
                return Ok(());
            }
            read => read?,
        }
        if frame_id(bytes) != place.frame {
            let pack = self.from.pack_name(place.pack)?;
            self.warn(place, &StoreError::DamagedFrame { frame: place.frame, pack, offset: place.offset });
            return Ok(());
        }
        let put = self.chunks(bytes)?;
        if let Err(source) = put {
            self.warn(place, &damaged(self.from, place, source));
        }
        let written = self.session.written_len();
        if written.saturating_sub(self.durable) >= CHECKPOINT {
            self.putter.flush()?;
            self.session.checkpoint()?;
            self.durable = written;
        }
        Ok(())
    }

    /// Puts the chunks of a frame that are not over there; the error inside is the frame's own.
    fn chunks(&mut self, bytes: &mut [u8]) -> Result<std::result::Result<(), FrameError>> {
        let frame = match self.opener.open(bytes) {
            Ok(frame) => frame,
            Err(error) => return Ok(Err(error)),
        };
        let header = &frame.header;
        let keys = self.opener.vault_keys();
        // All of them are looked at before the first is claimed: who claims must put.
        for (position, id) in header.ids.iter().enumerate() {
            if let Err(error) = frame.chunk(keys, position, id) {
                return Ok(Err(error));
            }
        }
        let claims = self.session.claim(&header.ids)?;
        for (position, (id, claim)) in header.ids.iter().zip(claims).enumerate() {
            if let (Claim::Mine, Some(chunk)) = (claim, frame.bytes(position)) {
                self.putter.put(header.kind, *id, header.refs(position), chunk)?;
            }
        }
        self.opener.recycle(frame);
        Ok(Ok(()))
    }

    /// Settles a root, or says how many chunks it lacks.
    fn settle(&mut self, root: ChunkId) -> Result<std::result::Result<Settled, usize>> {
        let mut missing = 0;
        for _ in 0..PASSES {
            match self.session.settle(root) {
                Err(StoreError::Missing(ids)) => missing = ids.len(),
                settled => return Ok(Ok(settled?)),
            }
            self.carry()?;
        }
        Ok(Err(missing))
    }

    fn warn(&mut self, place: &Place, error: &dyn std::error::Error) {
        if self.told.insert(place.number) {
            self.progress.warn("", error.to_string());
        }
    }
}
