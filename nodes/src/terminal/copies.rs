//! The store of copies, in the hands of the tracker.

use super::away::Away;
use super::order;
use super::service::Line;
use super::unknown::Unknown;
use crate::host::ground::Space;
use crate::host::leave::AWAY_SECS_MAX;
use crate::tracker::sign::AuthorityKey;
use crate::transport::ids::{fixed, join, one, split};
use crate::transport::limits::IDS_MAX;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::upload::{FrameTarget, UploadServer};
use crate::work::Work;
use capnp::Error;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twinkeep_engine::copies::{CopiesError, CopyStore, Put, ScrubCursor};
use twinkeep_engine::env::Clock;
use twinkeep_engine::frame::frame_id;
use twinkeep_engine::id::FrameId;
use twinkeep_engine::zoo::planted;
use twinkeep_schema::office_capnp::{copies, inventory};

impl From<CopiesError> for Problem {
    fn from(error: CopiesError) -> Self {
        let why = match &error {
            error if error.is_no_space() => Why::NoSpace,
            CopiesError::WrongBytes { .. } | CopiesError::NoFrame { .. } => Why::Usage,
            CopiesError::Damaged { .. } => Why::Damaged,
            CopiesError::Busy { .. } => Why::Busy,
            _ => Why::Other,
        };
        let mut text = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            text = format!("{text}: {cause}");
        }
        problem(why, text)
    }
}

/// Most bytes verified at a time while somebody waits.
const SCRUB_LEN: u64 = 64 << 20;

/// A store of copies with the room its owner grants.
pub struct Kept {
    /// The store.
    pub store: CopyStore,
    /// Bytes its owner grants.
    pub granted: AtomicU64,
    /// Bytes its owner wants free on the disk; of a small disk a tenth.
    pub reserve: AtomicU64,
    /// Whether less is free now.
    is_short: AtomicBool,
    /// Frames that became durable and of which nobody was told yet.
    untold: Mutex<Vec<FrameId>>,
    /// Frames of programs here that the host does not know.
    unknown: Mutex<Unknown>,
}

impl Kept {
    /// A store in which the office may use so many bytes.
    pub fn new(store: CopyStore, granted: u64) -> Arc<Self> {
        Arc::new(Self {
            store,
            granted: AtomicU64::new(granted),
            reserve: AtomicU64::new(0),
            is_short: AtomicBool::new(false),
            untold: Mutex::default(),
            unknown: Mutex::default(),
        })
    }

    /// Looks at the disk: how much of it is free, and how much should be.
    pub fn look(&self, space: Space) -> (u64, u64) {
        let reserve = self.reserve.load(Ordering::Relaxed).min(space.total / 10);
        self.is_short.store(space.free < reserve, Ordering::Relaxed);
        (space.free, reserve)
    }

    /// Makes what was put durable. What became so since somebody last asked, whoever put it, is told once, and whoever
    /// is told it passes it on to the tracker; should that fail, comparing inventories finds it.
    pub fn settle(&self) -> Result<Vec<FrameId>, CopiesError> {
        if !planted("machine-tells-unsynced") {
            self.settle_quietly()?;
        }
        let mut untold = self.untold();
        let count = untold.len().min(IDS_MAX);
        Ok(untold.drain(..count).collect())
    }

    fn settle_quietly(&self) -> Result<(), CopiesError> {
        let settled = self.store.settle()?;
        for lost in &settled.lost {
            tracing::warn!(?lost, "copies could not be made durable");
        }
        self.untold().extend(settled.durable);
        Ok(())
    }

    /// Frames of programs here that the host does not know.
    pub fn unknown(&self) -> MutexGuard<'_, Unknown> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn untold(&self) -> MutexGuard<'_, Vec<FrameId>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is held.
    pub fn tell(&self, mut to: inventory::Builder<'_>) -> Result<(), Problem> {
        let inventory = self.store.inventory()?;
        to.set_sequence(inventory.sequence);
        to.set_frames(inventory.frames);
        to.set_bytes(inventory.bytes);
        to.set_digest(&inventory.digest.0);
        to.set_trash(inventory.trash_bytes);
        Ok(())
    }
}

impl Kept {
    /// Takes a frame; gives its name, unless it was held before.
    fn put(&self, bytes: &[u8]) -> Result<Option<FrameId>, Problem> {
        let id = frame_id(bytes);
        let inventory = self.store.inventory()?;
        let used = inventory.bytes.saturating_add(bytes.len() as u64);
        if used > self.granted.load(Ordering::Relaxed) && !self.store.has(&[id])?[0] {
            return Err(problem(Why::NoSpace, "the room that this machine's owner grants is used up"));
        }
        // Not for the host either: it could fill the disk, and what is in the trash would have to go.
        if self.is_short.load(Ordering::Relaxed) {
            return Err(problem(Why::NoSpace, "less is free on this machine's disk than its owner wants"));
        }
        let put = match self.store.put(&id, bytes) {
            Err(CopiesError::SettleFirst { .. }) => {
                self.settle_quietly()?;
                self.store.put(&id, bytes)?
            }
            put => put?,
        };
        if planted("machine-tells-unsynced") {
            self.untold().push(id);
        }
        Ok((put == Put::Waits).then_some(id))
    }
}

impl FrameTarget for Kept {
    fn take(&self, bytes: Vec<u8>) -> Result<(), Problem> {
        self.put(&bytes).map(drop)
    }
}

/// Takes what a program on this machine keeps: the host may never come to know it.
pub struct KeptHere(pub Arc<Kept>);

impl FrameTarget for KeptHere {
    fn take(&self, bytes: Vec<u8>) -> Result<(), Problem> {
        if let Some(id) = self.0.put(&bytes)? {
            self.0.unknown().add(id);
        }
        Ok(())
    }
}

/// See the module.
pub struct CopiesServer {
    kept: Arc<Kept>,
    authority: AuthorityKey,
    work: Work,
    /// Whose it is, if that is to hear of its tracker.
    /// The line holds what is at its other end, and that may hold this: it is not held from here.
    line: Option<Heard>,
}

/// Who hears what the tracker says of itself.
struct Heard {
    line: Weak<Line>,
    clock: Arc<dyn Clock>,
    keep: Box<dyn Fn(&Away)>,
}

impl CopiesServer {
    /// A store for its tracker; what it is ordered to drop must be signed by `authority`.
    pub fn new(kept: Arc<Kept>, authority: AuthorityKey, work: Work) -> Self {
        Self { kept, authority, work, line: None }
    }

    /// For the service with this line, which remembers what the tracker says of itself, and has it kept.
    pub fn of(mut self, line: &Rc<Line>, clock: Arc<dyn Clock>, keep: impl Fn(&Away) + 'static) -> Self {
        self.line = Some(Heard { line: Rc::downgrade(line), clock, keep: Box::new(keep) });
        self
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CopyStore) -> Result<T, CopiesError> + Send + 'static,
    ) -> Result<T, Problem> {
        let kept = self.kept.clone();
        self.work.run(move || work(&kept.store)).await
    }
}

impl copies::Server for CopiesServer {
    async fn upload(
        self: Rc<Self>,
        _params: copies::UploadParams,
        mut results: copies::UploadResults,
    ) -> Result<(), Error> {
        let upload = UploadServer::new(self.kept.clone(), self.work, || Ok(Box::new(())));
        results.get().set_upload(capnp_rpc::new_client(upload));
        Ok(())
    }

    async fn settle(
        self: Rc<Self>,
        _params: copies::SettleParams,
        mut results: copies::SettleResults,
    ) -> Result<(), Error> {
        let kept = self.kept.clone();
        let durable = self.work.run(move || kept.settle()).await?;
        results.get().set_frames(&join(&durable));
        Ok(())
    }

    async fn read(self: Rc<Self>, params: copies::ReadParams, mut results: copies::ReadResults) -> Result<(), Error> {
        let frame: FrameId = one(params.get()?.get_frame()?)?;
        if let Some(bytes) = self.run(move |store| store.read(&frame)).await? {
            results.get().set_bytes(&bytes);
        }
        Ok(())
    }

    async fn list(self: Rc<Self>, params: copies::ListParams, mut results: copies::ListResults) -> Result<(), Error> {
        let params = params.get()?;
        let after = match params.get_after()? {
            [] => None,
            bytes => Some(one::<FrameId>(bytes)?),
        };
        let count = (params.get_count() as usize).min(IDS_MAX);
        let held = self.run(move |store| store.list(after, count)).await?;
        let ids: Vec<FrameId> = held.into_iter().map(|held| held.id).collect();
        results.get().set_frames(&join(&ids));
        Ok(())
    }

    async fn drop(self: Rc<Self>, params: copies::DropParams, mut results: copies::DropResults) -> Result<(), Error> {
        let frames = order::verify(&self.authority, params.get()?.get_order()?)?;
        let dropped = self.run(move |store| store.drop_frames(&frames)).await?;
        tracing::info!(frames = dropped.len(), "set aside on the host's order");
        results.get().set_dropped(dropped.len() as u64);
        Ok(())
    }

    async fn prove(
        self: Rc<Self>,
        params: copies::ProveParams,
        mut results: copies::ProveResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let frame: FrameId = one(params.get_frame()?)?;
        let nonce: [u8; 32] = fixed(params.get_nonce()?, "a nonce")?;
        let (offset, len) = (params.get_offset() as usize, params.get_len() as usize);
        let bytes = self.run(move |store| store.read(&frame)).await?;
        let part = bytes.as_deref().and_then(|bytes| bytes.get(offset..offset.checked_add(len)?));
        let part = part.ok_or_else(|| problem(Why::NotFound, "these bytes are not held"))?;
        results.get().set_proof(blake3::keyed_hash(&nonce, part).as_bytes());
        Ok(())
    }

    async fn scrub(
        self: Rc<Self>,
        params: copies::ScrubParams,
        mut results: copies::ScrubResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let cursor = match params.get_cursor()? {
            [] => None,
            bytes => Some(ScrubCursor::from_bytes(bytes).ok_or_else(|| problem(Why::Usage, "that is no cursor"))?),
        };
        let bytes = params.get_bytes().min(SCRUB_LEN);
        let step = self.run(move |store| store.scrub(cursor, bytes)).await?;
        let mut results = results.get();
        results.set_frames(step.frames);
        results.set_bytes(step.bytes);
        // What is left out here is told when inventories are compared.
        results.set_bad(&join(&step.bad[..step.bad.len().min(IDS_MAX)]));
        if let Some(next) = step.next {
            results.set_next(&next.to_bytes());
        }
        Ok(())
    }

    async fn away(self: Rc<Self>, params: copies::AwayParams, _results: copies::AwayResults) -> Result<(), Error> {
        // A host that says more than it may is believed no more than that.
        let secs = params.get()?.get_secs().min(AWAY_SECS_MAX);
        if let Some((line, heard)) = self.line.as_ref().and_then(|heard| Some((heard.line.upgrade()?, heard))) {
            tracing::info!(secs, "the host goes away on purpose");
            let away = Away::from_now(heard.clock.clone(), secs);
            (heard.keep)(&away);
            *line.away.borrow_mut() = Some(away);
        }
        Ok(())
    }

    async fn has(self: Rc<Self>, params: copies::HasParams, mut results: copies::HasResults) -> Result<(), Error> {
        let frames = split::<FrameId>(params.get()?.get_frames()?)?;
        let has = self.run(move |store| store.has(&frames)).await?;
        results.get().set_answers(&has.into_iter().map(u8::from).collect::<Vec<u8>>());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::env::Env;
    use twinkeep_engine::files::memory::MemoryFiles;
    use twinkeep_engine::kv::memory::MemoryKvHome;

    #[test]
    fn a_disk_that_its_owner_fills_takes_nothing() {
        let files = Arc::new(MemoryFiles::new());
        let opened = CopyStore::open(files, Arc::new(MemoryKvHome::default()), Env::system(1), "test").unwrap();
        let kept = Kept::new(opened.store, 1 << 40);
        let why = || kept.take(b"no frame".to_vec()).unwrap_err().why;
        assert_eq!(why(), Why::Usage, "nobody has asked for anything to stay free");
        kept.reserve.store(5 << 30, Ordering::Relaxed);
        assert_eq!(kept.look(Space { free: (5 << 30) - 1, total: 1 << 40 }), ((5 << 30) - 1, 5 << 30));
        assert_eq!(why(), Why::NoSpace);
        kept.look(Space { free: 5 << 30, total: 1 << 40 });
        assert_eq!(why(), Why::Usage);
        // Of a small disk a tenth.
        assert_eq!(kept.look(Space { free: 3 << 30, total: 20 << 30 }), (3 << 30, 2 << 30));
        assert_eq!(why(), Why::Usage);
    }
}
