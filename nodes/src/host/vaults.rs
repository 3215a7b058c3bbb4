//! The vaults of a host: opened, made, and entered in the map of holders.

use super::{Host, WriterRun, lock};
use crate::tracker::holders::{HoldersError, NewFrame};
use crate::tracker::limits::LOCK_DAYS;
use crate::transport::problem::{Problem, Why, problem};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use twinkeep_engine::id::{ChunkId, FrameId, SessionId, VaultId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::store::{BadFrame, LocalStore, Store, StoreError};
use twinkeep_engine::vault::{HeadBytes, Vault, VaultError};

/// Frames entered in the map of holders at a time.
const FEED_COUNT: usize = 4096;

/// A vault at the host.
pub struct HostVault {
    /// Its store.
    pub store: LocalStore,
    /// Config and keyring, as its members made them.
    pub head: HeadBytes,
    /// Bytes of its frames.
    pub stored: AtomicU64,
    /// Frames that are bad or gone here and hold the only place of something, as far as was looked.
    pub lost: AtomicU64,
    /// One at a time enters frames in the map of holders.
    feeding: Mutex<()>,
    /// One at a time removes there what collections removed.
    pub(super) telling: Mutex<()>,
}

/// Whether an error says that bytes are not there any more, and not that they cannot be had now.
pub(crate) fn is_lost(error: &StoreError) -> bool {
    use std::io::ErrorKind::NotFound;
    matches!(error, StoreError::Files(error) if error.kind() == NotFound || twinkeep_engine::pack::is_media(error))
}

impl HostVault {
    /// These were found bad. Gives what is not known any more.
    pub fn expel(&self, bad: &[BadFrame]) -> Result<Vec<ChunkId>, StoreError> {
        // Counted anew when others were asked for them.
        self.lost.fetch_add(bad.len() as u64, Ordering::Relaxed);
        self.store.expel(bad)
    }

    /// Looks how many frames are lost here.
    pub fn count_lost(&self) -> Result<(), StoreError> {
        self.lost.store(self.store.missed_frames()?.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Days that its snapshots are kept at least: what its config says, and never less than an office keeps.
    pub fn retention_days_min(&self) -> Result<u32, VaultError> {
        Ok(self.head.unverified()?.retention_days_min.max(LOCK_DAYS))
    }
}

impl Host {
    /// A vault.
    pub fn vault(&self, id: VaultId) -> Result<Arc<HostVault>, Problem> {
        if let Some(vault) = lock(&self.vaults).get(&id).cloned() {
            return Ok(vault);
        }
        Err(match lock(&self.closed).get(&id) {
            Some(why) => problem(Why::Damaged, format!("the host cannot open the vault {id}: {why}")),
            None => problem(Why::NotFound, format!("there is no vault {id}")),
        })
    }

    /// Frames that are bad or gone here, of all vaults together.
    pub fn lost(&self) -> u64 {
        self.vaults().iter().map(|(_, vault)| vault.lost.load(Ordering::Relaxed)).sum()
    }

    /// Vaults that could not be opened, and why.
    pub fn closed(&self) -> Vec<(VaultId, String)> {
        lock(&self.closed).iter().map(|(id, why)| (*id, why.clone())).collect()
    }

    /// All vaults that are open.
    pub fn vaults(&self) -> Vec<(VaultId, Arc<HostVault>)> {
        lock(&self.vaults).iter().map(|(id, vault)| (*id, vault.clone())).collect()
    }

    /// Makes a vault of what a member prepared. It is there before the office knows it: a vault that nobody knows is
    /// an empty folder, one that is not there is a loss.
    pub fn make_vault(&self, head: &HeadBytes) -> Result<VaultId, Problem> {
        let id = head.vault()?;
        let place = self.ground.vault(id);
        match Vault::place(&place, head) {
            Ok(_) => {}
            Err(VaultError::Exists) if lock(&self.vaults).contains_key(&id) => {
                return Err(problem(Why::Usage, format!("there is a vault {id} already")));
            }
            // From an attempt that ended before the office knew of it.
            Err(VaultError::Exists) => {}
            Err(error) => return Err(error.into()),
        }
        let opened = self.open_vault(id)?;
        lock(&self.vaults).insert(id, opened);
        Ok(id)
    }

    /// Forgets a vault that was made and that the office does not want to know of. Its folder stays.
    pub(crate) fn leave_vault(&self, id: VaultId) {
        lock(&self.vaults).remove(&id);
    }

    pub(super) fn open_vault(&self, id: VaultId) -> Result<Arc<HostVault>, VaultError> {
        let place = self.ground.vault(id);
        let head = Vault::head_bytes(&place)?;
        let keyless = Vault::open_store(place, self.env.clone(), &format!("host {}", self.identity.name))?;
        for note in keyless.notes() {
            tracing::warn!(vault = %id, "{note}");
        }
        if keyless.rebuilt.is_some() && !twinkeep_engine::zoo::planted("rebuilt-index-not-entered") {
            self.holders.reset_watermark(id).map_err(|error| VaultError::Store(told(&error)))?;
        }
        let mut stored = 0;
        let mut from = FrameNumber(0);
        loop {
            let rows = keyless.store.frame_rows(from, FEED_COUNT)?;
            let Some((last, _)) = rows.last() else { break };
            from = FrameNumber(last.0.saturating_add(1));
            stored += rows.iter().map(|(_, place)| u64::from(place.len)).sum::<u64>();
        }
        let (store, stored) = (keyless.store, AtomicU64::new(stored));
        let lost = AtomicU64::new(store.missed_frames()?.len() as u64);
        Ok(Arc::new(HostVault { store, head, stored, lost, feeding: Mutex::default(), telling: Mutex::default() }))
    }

    /// Enters in the map of holders what a vault has got since.
    pub fn feed(&self, id: VaultId, vault: &HostVault) -> Result<(), VaultError> {
        let _one = lock(&vault.feeding);
        self.feed_alone(id, vault)
    }

    /// Enters all of a vault in the map of holders again.
    pub fn feed_again(&self, id: VaultId, vault: &HostVault) -> Result<(), VaultError> {
        let _one = lock(&vault.feeding);
        self.holders.reset_watermark(id).map_err(|error| VaultError::Store(told(&error)))?;
        self.feed_alone(id, vault)
    }

    /// Of these frames those that the map of holders knows of and the vault's index, made anew since, does not.
    pub fn missing(&self, id: VaultId, vault: &HostVault, frames: &[FrameId]) -> Result<Vec<FrameId>, VaultError> {
        let _one = lock(&vault.feeding);
        self.feed_alone(id, vault)?;
        self.holders.are_not_entered_again(frames).map_err(|error| VaultError::Store(told(&error)))
    }

    /// Under the lock of `feeding`.
    fn feed_alone(&self, id: VaultId, vault: &HostVault) -> Result<(), VaultError> {
        let failed = |error: HoldersError| VaultError::Store(told(&error));
        let mut from = self.holders.watermark(id).map_err(failed)?;
        loop {
            let places = vault.store.frames(FrameNumber(from), FEED_COUNT)?;
            let Some(last) = places.last() else { break };
            let next = last.number.0.saturating_add(1);
            let mut frames = Vec::with_capacity(places.len());
            for place in places.iter().filter(|place| place.is_believed) {
                let run = self.run_of(&vault.store.pack_name(place.pack)?);
                frames.push(NewFrame {
                    id: place.frame,
                    number_in_index: place.number.0,
                    kind: place.kind,
                    len: place.len,
                    writer: run.map(|run| run.machine),
                    spread: run.is_some_and(|run| run.spread),
                });
            }
            self.holders.enter(id, &frames, next).map_err(failed)?;
            from = next;
        }
        self.copier.wake();
        Ok(())
    }

    /// Who writes what stands in a pack, if its session still runs or has only just ended.
    fn run_of(&self, pack: &str) -> Option<WriterRun> {
        let session = SessionId::from_hex(pack.split_once('-')?.0)?;
        self.keeping().get(&session).copied()
    }

    /// Adds to what a vault holds.
    pub fn count_stored(vault: &HostVault, bytes: u64) {
        vault.stored.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn told(error: &HoldersError) -> StoreError {
    StoreError::Index(twinkeep_engine::kv::KvError::Damaged(format!("the map of holders: {error}")))
}
