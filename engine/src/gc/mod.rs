//! Collection of garbage: freeing what no snapshot needs.
//!
//! Needs no keys and asks no clock: what is needed follows from the records, the references that stand in the clear,
//! and who is running. Backups, restores and scrubs run beside it; only another collection has to wait.
//!
//! A round marks what is reached from roots; condemns the rest in one transaction; waits for the sessions that began
//! before that, which may go on using it; looks again; and sweeps what is still condemned. Where it stands is in the
//! index, so that the next one goes on from there, whatever ended this one. Decision 0012 says why each step is needed.

mod bits;
mod condemn;
mod mark;
mod noted;
mod places;
mod plan;
pub(crate) mod rewrite;
mod sweep;
#[cfg(test)]
mod tests;

pub use plan::{DEAD_SHARE, PACK_LEN_SMALL, PackSurvey, Plan, Step};

use crate::history::{self, History, RefState};
use crate::id::{ChunkId, FrameId, SessionId};
use crate::index::{self, FrameNumber, PackNumber, Phase};
use crate::kv::KvError;
use crate::progress::Progress;
use crate::store::local::{Inner, SESSIONS};
use crate::store::session::{session_path, take_lock};
use crate::store::{LocalStore, StoreError};
use crate::vault::{ErrorClass, Vault, VaultError};
use mark::{Depth, Marker};
use places::Places;
use rewrite::Rewriter;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// How a collection is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GcOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How long to wait for sessions that began before the condemnation. When they go on for longer, the next
    /// collection finishes the work.
    pub wait: Duration,
    /// Names of frames that go are noted in the index, for whoever has to tell others of them: see
    /// [`LocalStore::removed_frames`].
    pub notes_removed: bool,
}

/// What a collection did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct GcReport {
    /// Chunks that are needed; 0 where none were marked because an earlier round had to be finished first and waits.
    pub chunks_live: u64,
    /// Places that were found without need and condemned, in this run.
    pub chunks_condemned: u64,
    /// Chunks whose rows were removed.
    pub chunks_removed: u64,
    /// What was decided for each pack.
    pub plan: Plan,
    /// Whole frames that moved to other packs.
    pub frames_moved: u64,
    /// Frames that were taken apart.
    pub frames_taken_apart: u64,
    /// Bytes written anew for it.
    pub bytes_moved: u64,
    /// Packs that were removed.
    pub packs_removed: u64,
    /// Bytes of their files.
    pub bytes_freed: u64,
    /// Frames that went with them; 32 bytes of memory each.
    pub frames_removed: Vec<FrameId>,
    /// Who has to end before what is condemned can go: what their lock files say. Empty when the round was finished.
    pub waits_for: Vec<String>,
    /// Packs that stay because something in them cannot be read.
    pub damaged: Vec<String>,
    /// How long it took.
    pub duration: Duration,
}

/// A collection could not be done. Nothing that is needed was touched.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// A record is damaged, so that nobody knows what is needed.
    #[error("{file}: {problem}")]
    Record {
        /// Its file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// Something that is needed is not there.
    #[error("chunk {0}, which a snapshot needs, is not in the vault")]
    Missing(ChunkId),
    /// Something that is needed cannot be read, so that nobody knows what it needs.
    #[error("{what} cannot be read")]
    Unreadable {
        /// What.
        what: String,
    },
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Compression cannot be set up.
    #[error("cannot set up compression")]
    Compression(#[source] std::io::Error),
    /// Somebody asked to stop.
    #[error("the collection was interrupted; the next one goes on where it was")]
    Cancelled,
}

impl From<KvError> for GcError {
    fn from(error: KvError) -> Self {
        Self::Store(error.into())
    }
}

impl From<crate::files::FilesError> for GcError {
    fn from(error: crate::files::FilesError) -> Self {
        Self::Store(error.into())
    }
}

impl GcError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Record { .. } | Self::Missing(_) | Self::Unreadable { .. } => ErrorClass::Damaged,
            Self::Vault(error) => error.class(),
            Self::Store(error) => ErrorClass::of_store(error),
            Self::Compression(_) => ErrorClass::Other,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }
}

type Result<T> = std::result::Result<T, GcError>;

/// Whose vault is collected.
#[derive(Clone, Copy)]
pub enum Access<'a> {
    /// The keys are at hand: records are shown to be written with them, and sparse frames are taken apart.
    Keys(&'a Vault),
    /// There are none.
    Keyless {
        /// The store.
        store: &'a LocalStore,
        /// What the config says of minimum retention.
        retention_days_min: u32,
    },
}

impl<'a> Access<'a> {
    fn store(self) -> std::result::Result<&'a LocalStore, StoreError> {
        match self {
            Self::Keys(vault) => vault.local(),
            Self::Keyless { store, .. } => Ok(store),
        }
    }

    fn vault(self) -> Option<&'a Vault> {
        match self {
            Self::Keys(vault) => Some(vault),
            Self::Keyless { .. } => None,
        }
    }

    fn history(self) -> Result<History> {
        match self {
            Self::Keys(vault) => {
                // A device knows nothing of what others keep.
                vault.require_member()?;
                Ok(vault.history()?)
            }
            Self::Keyless { store, retention_days_min } => {
                Ok(History::read(store, retention_days_min, &mut history::unkeyed)?)
            }
        }
    }
}

/// Frees what nothing needs. Memory: 13 bytes for each frame, a few bits for each chunk.
///
/// # Errors
/// [`StoreError::Busy`] while another collection runs. Whatever is damaged among what has to be kept stops it.
pub fn collect(access: Access<'_>, options: &GcOptions, progress: &Progress) -> Result<GcReport> {
    let store = &*access.store()?.0;
    let begun = store.parts.env.clock.elapsed();
    let _one = access.store()?.try_lock("gc")?;
    let mut id = [0; 16];
    store.parts.env.entropy.fill(&mut id);
    let own = OwnSession::begin(store, SessionId(id))?;
    let numbers = AtomicU32::new(0);
    let mut round =
        Round { access, store, options, progress, own: own.id, numbers: &numbers, report: GcReport::default() };
    round.run()?;
    let mut report = round.report;
    report.duration = store.parts.env.clock.elapsed().saturating_sub(begun);
    Ok(report)
}

/// The session under which frames are written elsewhere. Its lock tells others that its packs are not abandoned.
pub(crate) struct OwnSession<'a> {
    store: &'a Inner,
    pub id: SessionId,
    lock: Option<Box<dyn crate::files::Lock>>,
}

impl<'a> OwnSession<'a> {
    /// Takes the session's lock.
    pub fn begin(store: &'a Inner, id: SessionId) -> Result<Self> {
        Ok(Self { store, id, lock: Some(take_lock(store, id)?) })
    }
}

impl Drop for OwnSession<'_> {
    fn drop(&mut self) {
        // Whoever begins next tidies up a file that stays.
        let _ = self.store.parts.files.remove(&session_path(self.id));
        self.lock = None;
    }
}

struct Round<'a> {
    access: Access<'a>,
    store: &'a Inner,
    options: &'a GcOptions,
    progress: &'a Progress,
    own: SessionId,
    /// Numbers of its packs: it may sweep twice.
    numbers: &'a AtomicU32,
    report: GcReport,
}

impl<'a> Round<'a> {
    fn run(&mut self) -> Result<()> {
        if !self.options.dry_run {
            self.store.adopt_abandoned(self.own)?;
            rewrite::finish_removals(self.store)?;
        }
        let phase = index::collection(&*self.store.kv.read()?)?.phase;
        if phase != Phase::None && !self.options.dry_run && !self.finish(phase)? {
            return Ok(());
        }
        let mut marker = self.mark()?;
        self.report.chunks_live = marker.live.count();
        if self.options.dry_run {
            return self.plan_only(&marker);
        }
        self.report.chunks_condemned = condemn::condemn(self.store, &mut marker)?;
        drop(marker);
        match self.report.chunks_condemned {
            0 => self.sweep(),
            _ => self.finish(Phase::Condemned).map(drop),
        }
    }

    /// Marks what is needed.
    fn mark(&self) -> Result<Marker<'a>> {
        // Before the records are read: what comes after this number is looked at in the end.
        let end = index::next_frame(&*self.store.kv.read()?)?;
        let mut marker = Marker::new(self.store, end, Depth::All, self.progress)?;
        self.mark_roots(&mut marker)?;
        Ok(marker)
    }

    fn mark_roots(&self, marker: &mut Marker<'_>) -> Result<()> {
        let history = self.access.history()?;
        if let Some(fault) = history.open_faults().next() {
            return Err(GcError::Record { file: fault.file.clone(), problem: fault.problem.clone() });
        }
        let is_root = |state: RefState| match state {
            RefState::Live => true,
            RefState::Forgotten { .. } => !crate::zoo::planted("gc-ignores-forgotten"),
            RefState::Purged => false,
        };
        let (mut sound, mut aside) = (Vec::new(), Vec::new());
        for entry in history.roots().filter(|entry| is_root(entry.state)) {
            if entry.aside { &mut aside } else { &mut sound }.push(entry.reference.target);
        }
        marker.mark(&sound)?;
        if !crate::zoo::planted("gc-ignores-readers") {
            aside.extend(self.store.pinned()?);
        }
        marker.mark_tolerantly(&aside)
    }

    fn plan_only(&mut self, marker: &Marker<'_>) -> Result<()> {
        let places = &marker.places;
        let live = |at: usize| places.ordinals(at).filter(|ordinal| marker.live.has(*ordinal)).count() as u64;
        let busy = self.running()?.into_iter().map(|(id, _)| id).collect();
        let packs = sweep::survey(self.store, places, &live, &busy)?;
        self.report.chunks_condemned = places.positions() as u64 - marker.live.count();
        self.report.plan = Plan::new(packs, self.access.vault().is_some());
        Ok(())
    }

    /// Brings what is condemned to its end; false while somebody may still use it.
    fn finish(&mut self, phase: Phase) -> Result<bool> {
        if phase == Phase::Condemned {
            if !crate::zoo::planted("gc-does-not-wait") && !self.wait()? {
                return Ok(false);
            }
            // What killed sessions left may lean on what is condemned.
            self.store.adopt_abandoned(self.own)?;
            let end = index::next_frame(&*self.store.kv.read()?)?;
            let mut marker = Marker::new(self.store, end, Depth::BesidesFirm, self.progress)?;
            if !crate::zoo::planted("gc-looks-once") {
                self.mark_roots(&mut marker)?;
            }
            condemn::decide(self.store, &mut marker)?;
        }
        self.sweep()?;
        Ok(true)
    }

    /// Whom to wait for: who was running when somebody first looked after the condemnation. Who has come since then has
    /// heard of it.
    fn awaited(&self) -> Result<HashSet<SessionId>> {
        if let Some(awaited) = index::awaited(&*self.store.kv.read()?)? {
            return Ok(awaited.into_iter().collect());
        }
        let running: Vec<SessionId> = self.running()?.into_iter().map(|(id, _)| id).collect();
        let _lock = self.store.parts.lock("index")?;
        let mut write = self.store.kv.write()?;
        index::put_awaited(&mut *write, Some(&running))?;
        write.commit()?;
        Ok(running.into_iter().collect())
    }

    /// Waits for everybody who may use what is condemned; false when that takes too long.
    fn wait(&mut self) -> Result<bool> {
        let clock = &self.store.parts.env.clock;
        let deadline = clock.elapsed() + self.options.wait;
        let awaited = self.awaited()?;
        loop {
            let running = self.running()?;
            let left: Vec<String> =
                running.into_iter().filter(|(id, _)| awaited.contains(id)).map(|(_, owner)| owner).collect();
            if left.is_empty() || clock.elapsed() >= deadline {
                self.report.waits_for = left;
                return Ok(self.report.waits_for.is_empty());
            }
            if self.progress.is_cancelled() {
                return Err(GcError::Cancelled);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sessions whose lock is held, and by whom.
    fn running(&self) -> Result<Vec<(SessionId, String)>> {
        let parts = &self.store.parts;
        let mut running = Vec::new();
        for file in parts.files.list(SESSIONS)? {
            let Some(id) = SessionId::from_hex(&file.name).filter(|id| *id != self.own) else { continue };
            let path = session_path(id);
            if parts.files.try_lock(&path, &parts.owner)?.is_none() {
                running.push((id, parts.owner_of(&path)));
            }
        }
        Ok(running)
    }

    /// Removes rows at condemned places, then frees what can be freed of the packs.
    fn sweep(&mut self) -> Result<()> {
        let end = index::next_frame(&*self.store.kv.read()?)?;
        let places = Places::read(self.store, end)?;
        let (removed, counts) = sweep::rows(self.store, &places, self.progress)?;
        self.report.chunks_removed += removed;
        let live = |at: usize| counts.get(at).copied().map_or(0, u64::from);
        let busy = self.running()?.into_iter().map(|(id, _)| id).chain([self.own]).collect();
        let packs = sweep::survey(self.store, &places, &live, &busy)?;
        let plan = Plan::new(packs, self.access.vault().is_some());
        self.carry_out(&plan, &places, &counts)?;
        sweep::end(self.store)?;
        self.report.plan = plan;
        Ok(())
    }

    fn carry_out(&mut self, plan: &Plan, places: &Places, counts: &[u16]) -> Result<()> {
        let steps: HashMap<PackNumber, Step> = plan.packs.iter().map(|(pack, step)| (pack.number, *step)).collect();
        let mut frames = Frames::new();
        sweep::for_each_frame(self.store, &mut |number, place| {
            if steps.get(&place.pack).is_some_and(|step| *step != Step::Keep) {
                let lived = places.frame(number).is_none_or(|at| counts[at] > 0);
                frames.entry(place.pack).or_default().push((number, lived));
            }
        })?;
        let mut rewriter = Rewriter::new(self.store, self.own, self.numbers, self.access.vault())?;
        rewriter.notes_removed = self.options.notes_removed;
        for pack in plan.with(Step::Drop) {
            self.check_running()?;
            rewriter.remove(pack.number, frames.get(&pack.number).map_or(&[], Vec::as_slice))?;
        }
        let mut emptied = Vec::new();
        for pack in plan.with(Step::Rewrite) {
            self.check_running()?;
            self.empty(&mut rewriter, frames.get(&pack.number).map_or(&[], Vec::as_slice), places, counts)?;
            emptied.push(pack.number);
            // Space is needed for what was copied only until its old pack goes.
            if emptied.len() >= EMPTIED_MAX {
                rewriter.commit()?;
                self.remove_emptied(&mut rewriter, &mut emptied, &frames)?;
            }
        }
        rewriter.finish()?;
        self.remove_emptied(&mut rewriter, &mut emptied, &frames)?;
        self.tell(&mut rewriter)
    }

    /// Puts everything of a pack that is needed elsewhere.
    fn empty(
        &self,
        rewriter: &mut Rewriter<'_>,
        frames: &[(FrameNumber, bool)],
        places: &Places,
        counts: &[u16],
    ) -> Result<()> {
        for (number, _) in frames {
            let Some(at) = places.frame(*number) else { continue };
            let (live, chunks) = (u64::from(counts[at]), places.ordinals(at).len() as u64);
            if live > 0 {
                rewriter.put(*number, sweep::is_sparse(live, chunks))?;
            }
        }
        Ok(())
    }

    fn remove_emptied(
        &self,
        rewriter: &mut Rewriter<'_>,
        emptied: &mut Vec<PackNumber>,
        frames: &Frames,
    ) -> Result<()> {
        for number in emptied.drain(..) {
            rewriter.remove(number, frames.get(&number).map_or(&[], Vec::as_slice))?;
        }
        Ok(())
    }

    fn check_running(&self) -> Result<()> {
        if self.progress.is_cancelled() { Err(GcError::Cancelled) } else { Ok(()) }
    }

    fn tell(&mut self, rewriter: &mut Rewriter<'_>) -> Result<()> {
        for bad in rewriter.damaged.iter().chain(&rewriter.unread) {
            let pack = self.store.name(bad.pack)?.file_name();
            self.report.damaged.push(format!("a frame in {pack} at {}", bad.offset));
        }
        // What was found bad is stored anew by the next backup that meets it.
        self.store.expel(&rewriter.damaged)?;
        let counts = rewriter.counts;
        self.report.frames_moved += counts.frames_moved;
        self.report.frames_taken_apart += counts.frames_taken_apart;
        self.report.bytes_moved += counts.bytes_moved;
        self.report.packs_removed += counts.packs_removed;
        self.report.bytes_freed += counts.bytes_freed;
        self.report.frames_removed.append(&mut rewriter.removed);
        Ok(())
    }
}

/// Frames of packs that may go, each with whether a chunk lived in it when rows were swept.
type Frames = HashMap<PackNumber, Vec<(FrameNumber, bool)>>;

/// Packs that may be empty and not yet removed.
const EMPTIED_MAX: usize = 4;

/// How often it is asked whether sessions have ended.
const POLL: Duration = Duration::from_millis(100);
