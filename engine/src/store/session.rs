//! A writer's run on a local store. Lives as long as the lock on its file in `sessions/`.

use super::local::{Inner, SESSIONS};
use super::packs::PackWriter;
use super::{ChainLink, Claim, Result, Session, Settled, StoreError};
use crate::files::Lock;
use crate::frame::SealedFrame;
use crate::id::{ChunkId, Kind, SessionId};
use crate::index::{self, View};
use crate::limits::CLAIMS_MAX;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ids are already evenly spread: their first bytes are a hash.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _len: usize) {}
}

type Shard = Mutex<HashSet<[u8; 32], BuildHasherDefault<IdHasher>>>;

/// Ids that somebody in this session has taken on, until they have rows.
struct InFlight {
    shards: [Shard; 32],
    count: AtomicUsize,
}

impl InFlight {
    fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), count: AtomicUsize::new(0) }
    }

    /// Whether nobody had taken it on.
    fn insert(&self, id: &ChunkId) -> bool {
        let mut shard = self.shard(id);
        let is_new = shard.insert(id.0);
        self.count.fetch_add(usize::from(is_new), Ordering::Relaxed);
        is_new
    }

    fn remove(&self, id: &ChunkId) {
        let mut shard = self.shard(id);
        let was_there = shard.remove(&id.0);
        self.count.fetch_sub(usize::from(was_there), Ordering::Relaxed);
    }

    fn shard(&self, id: &ChunkId) -> MutexGuard<'_, HashSet<[u8; 32], BuildHasherDefault<IdHasher>>> {
        lock(&self.shards[usize::from(id.0[31]) % self.shards.len()])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
pub(crate) struct LocalSession {
    id: SessionId,
    store: Arc<Inner>,
    lock: Option<Box<dyn Lock>>,
    /// How many condemnations had been made when it began: what a later one condemns it may go on using.
    epoch: u64,
    in_flight: InFlight,
    leaves: Mutex<PackWriter>,
    branches: Mutex<PackWriter>,
    pack_numbers: AtomicU32,
    committing: Mutex<()>,
    healed: Mutex<Vec<ChunkId>>,
    /// Branches it committed before something below them: that they become whole later is no healing.
    unfinished: Mutex<HashSet<ChunkId>>,
    written: AtomicU64,
    failed: AtomicBool,
}

impl LocalSession {
    /// Takes the session's lock and adopts what sessions that ended early left behind.
    pub fn begin(store: Arc<Inner>, id: SessionId) -> Result<Self> {
        // The lock first: who condemns looks for locks afterwards, and waits for whoever may not have heard of it.
        let early = crate::zoo::planted("epoch-before-lock").then(|| epoch(&store)).transpose()?;
        let lock = take_lock(&store, id)?;
        let epoch = early.map_or_else(|| epoch(&store), Ok)?;
        let healed = store.adopt_abandoned(id)?;
        let vault = store.parts.vault;
        Ok(Self {
            id,
            lock: Some(lock),
            epoch,
            in_flight: InFlight::new(),
            leaves: Mutex::new(PackWriter::new(Kind::Leaf, vault, id)),
            branches: Mutex::new(PackWriter::new(Kind::Branch, vault, id)),
            pack_numbers: AtomicU32::new(0),
            committing: Mutex::new(()),
            healed: Mutex::new(healed),
            unfinished: Mutex::default(),
            written: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            store,
        })
    }

    /// Runs a step whose failure ends the session: what was written since the last commit is in doubt.
    fn step<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::SessionFailed);
        }
        let result = step();
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    fn commit(&self, last: bool) -> Result<()> {
        let _one = lock(&self.committing);
        // Whoever waited here while another's commit failed must not go on with what was put since.
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::SessionFailed);
        }
        let result = self.commit_alone(last);
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    fn commit_alone(&self, last: bool) -> Result<()> {
        // Branches first: whatever they refer to was put before them and is then among the leaves taken after.
        let mut taken = take(&self.branches, last)?;
        let leaves = take(&self.leaves, last)?;
        taken.frames.splice(0..0, leaves.frames);
        taken.packs.extend(leaves.packs);
        taken.unsynced.extend(leaves.unsynced);
        let (frames, mut healed) = self.store.commit(taken)?;
        // The index answers for them from now on. For a branch that is not whole yet it says no: whoever puts it
        // again wastes a little room, while a claim kept for ever could never be put again once its frame is bad.
        for id in frames.iter().flat_map(|frame| &frame.ids) {
            self.in_flight.remove(id);
        }
        let mut unfinished = lock(&self.unfinished);
        healed.retain(|id| !unfinished.remove(id));
        let read = self.store.kv.read()?;
        let branches = frames.iter().filter(|frame| frame.place.kind == Kind::Branch);
        for id in branches.flat_map(|frame| &frame.ids) {
            if index::is_listed_unwhole(&*read, id)? {
                unfinished.insert(*id);
            }
        }
        lock(&self.healed).extend(healed);
        Ok(())
    }

    /// Fails where whoever claims puts nothing.
    fn require_claims_left(&self, wanted: usize) -> Result<()> {
        let is_many = || self.in_flight.count.load(Ordering::Relaxed) + wanted > CLAIMS_MAX;
        if !is_many() {
            return Ok(());
        }
        // What was put and waits for its rows is no claim any more then.
        self.step(|| self.commit(false))?;
        if is_many() { Err(StoreError::TooManyClaims) } else { Ok(()) }
    }

    fn view(&self, read: &dyn crate::kv::Read) -> Result<View> {
        Ok(View::of_session(read, self.epoch)?)
    }

    /// What below `root` is not there; empty when it is admitted.
    fn missing_below(&self, root: ChunkId) -> Result<Vec<ChunkId>> {
        let read = self.store.kv.read()?;
        let view = self.view(&*read)?;
        if view.has(&*read, &root)? {
            return Ok(Vec::new());
        }
        let missing = index::absent_below(&*read, view, root, &|place| self.store.header_of(place))?;
        Ok(if missing.is_empty() { vec![root] } else { missing })
    }
}

fn epoch(store: &Inner) -> Result<u64> {
    Ok(index::collection(&*store.kv.read()?)?.epoch)
}

/// Takes a session's lock. Under the index lock, so that nobody rebuilds the index meanwhile; and somebody who looks
/// for ended sessions may hold the new file for a moment.
pub(crate) fn take_lock(store: &Inner, id: SessionId) -> Result<Box<dyn Lock>> {
    let path = session_path(id);
    for _ in 0..LOCK_TRIES {
        let _index = store.parts.lock("index")?;
        if let Some(lock) = store.parts.files.try_lock(&path, &store.parts.owner)? {
            return Ok(lock);
        }
    }
    Err(StoreError::Busy { what: "session", owner: store.parts.owner_of(&path) })
}

/// How often a new session tries to take its own lock.
const LOCK_TRIES: usize = 100;

fn take(writer: &Mutex<PackWriter>, last: bool) -> Result<super::packs::Taken> {
    let mut writer = lock(writer);
    if last {
        writer.close()?;
    }
    writer.take()
}

pub(crate) fn session_path(id: SessionId) -> String {
    format!("{SESSIONS}/{id}")
}

impl Session for LocalSession {
    fn id(&self) -> SessionId {
        self.id
    }

    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<Claim>> {
        self.require_claims_left(ids.len())?;
        let read = self.store.kv.read()?;
        let view = self.view(&*read)?;
        let claim = |id: &ChunkId| -> Result<Claim> {
            if !self.in_flight.insert(id) {
                return Ok(Claim::InFlight);
            }
            if view.has(&*read, id)? {
                self.in_flight.remove(id);
                return Ok(Claim::Known);
            }
            Ok(Claim::Mine)
        };
        ids.iter().map(claim).collect()
    }

    fn put(&self, frame: SealedFrame) -> Result<()> {
        self.step(|| {
            self.written.fetch_add(frame.bytes.len() as u64, Ordering::Relaxed);
            let writer = match frame.header.kind {
                Kind::Leaf => &self.leaves,
                Kind::Branch => &self.branches,
            };
            let waiting = lock(writer).put(&*self.store.parts.files, &self.pack_numbers, frame)?;
            if waiting >= self.store.pending_rows_max.load(Ordering::Relaxed) {
                self.commit(false)?;
            }
            Ok(())
        })
    }

    fn checkpoint(&self) -> Result<()> {
        self.step(|| self.commit(false))
    }

    fn settle(&self, root: ChunkId) -> Result<Settled> {
        if crate::zoo::planted("record-before-rows") {
            return Ok(Settled { root });
        }
        self.step(|| self.commit(true))?;
        let missing = self.missing_below(root)?;
        // Whoever claimed these did not put them, or lost them since: they are anybody's again.
        for id in &missing {
            self.in_flight.remove(id);
        }
        match missing.is_empty() || crate::zoo::planted("settle-what-lacks") {
            true => Ok(Settled { root }),
            false => Err(StoreError::Missing(missing)),
        }
    }

    fn publish(&self, settled: Settled, make: &dyn Fn(ChainLink) -> Vec<u8>) -> Result<ChainLink> {
        let _ = settled;
        let link = self.step(|| self.store.append_record(&mut |link| Some(make(link))))?;
        let link = link.expect("a record was made for every link");
        if crate::zoo::planted("record-before-rows") {
            self.step(|| self.commit(true))?;
        }
        Ok(link)
    }

    fn written_len(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn healed(&self) -> Vec<ChunkId> {
        lock(&self.healed).clone()
    }
}

impl Drop for LocalSession {
    fn drop(&mut self) {
        // Removed while it is held: then nobody else's lock is taken away. Only a tidy folder is lost if this fails,
        // because a free lock file says the session is over.
        if !self.failed.load(Ordering::Acquire) {
            let _ = self.store.parts.files.remove(&session_path(self.id));
        }
        self.lock = None;
    }
}
