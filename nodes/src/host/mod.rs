//! The host: it keeps every frame, and its tracker knows who else does.
//!
//! What always holds: what a writer was told to be settled is in the vault's own index, durable; the map of holders
//! follows from the vaults and from what machines confirmed, so it is never the only place where something is known.

pub mod collector;
pub mod copier;
pub mod first;
pub mod ground;
pub mod healer;
pub mod hours;
pub mod leave;
pub mod listing;
pub mod mover;
pub mod online;
pub mod prover;
pub mod room;
pub mod run;
pub mod serve;
pub mod setup;
pub mod slots;
pub mod strays;
pub mod terms;
pub mod tips;
pub mod trouble;
pub mod watch;

use crate::tracker::MachineNumber;
use crate::tracker::holders::{self, Holders, HoldersError, NewFrame};
use crate::tracker::limits::{FRAMES_PER_CHANGE_MAX, LOCK_DAYS};
use crate::tracker::log::LogError;
use crate::tracker::login::{Throttle, Wait};
use crate::tracker::names::NodeKey;
use crate::tracker::office::{Office, OfficeError};
use crate::tracker::pace::{Pace, Who};
use crate::tracker::registry::{Node, NodeStatus};
use crate::tracker::sign::SigningKey;
use crate::transport::keys::node_key;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::Connections;
use crate::work::Work;
use copier::Copier;
use ground::Ground;
use healer::Healer;
use hours::Hours;
use leave::Leave;
use listing::Listing;
use mover::Mover;
use online::Online;
use room::{Marks, Room};
use slots::Slots;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tips::Tips;
use twinkeep_engine::env::Env;
use twinkeep_engine::id::{ChunkId, FrameId, SessionId, VaultId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::kv::{KvError, KvHome};
use twinkeep_engine::store::{BadFrame, LocalStore, Store, StoreError};
use twinkeep_engine::vault::{ErrorClass, HeadBytes, Vault, VaultError};
use watch::Watch;

/// Frames entered in the map of holders at a time.
const FEED_COUNT: usize = 4096;

/// Copies wanted besides the host's.
const COPIES_WANTED: u32 = 1;

/// A host cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its change log.
    #[error(transparent)]
    Office(#[from] OfficeError),
    /// Its map of holders.
    #[error(transparent)]
    Holders(#[from] HoldersError),
    /// One of its vaults.
    #[error("vault {vault}")]
    Vault {
        /// Which.
        vault: VaultId,
        /// What is wrong.
        #[source]
        source: Box<VaultError>,
    },
}

/// What a host is, besides its data.
pub struct Identity {
    /// Its name, for people.
    pub name: String,
    /// Where machines reach it, `host:port`.
    pub addresses: Vec<String>,
    /// Its key.
    pub key: SigningKey,
    /// The company's authority.
    pub authority: SigningKey,
    /// For answers about accounts there are none of.
    pub answers: [u8; 32],
    /// Public key to which vaults of the company are wrapped.
    pub company_key: [u8; 32],
    /// The physical machine it runs on.
    pub machine_id: [u8; 16],
    /// What stays free of its disk.
    pub marks: Marks,
}

/// See the module.
pub struct Host {
    /// Who it is.
    pub identity: Identity,
    /// Who is there, and what has happened.
    pub office: Office,
    /// Who holds what.
    pub holders: Holders,
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// Machines that are there.
    pub online: Mutex<Online>,
    /// Who is there, and who was away for too long.
    pub watch: Watch,
    /// How long it has run, and whether its clock can be believed.
    pub hours: Hours,
    /// How far the chains of vaults once reached.
    pub tips: Tips,
    /// What goes where.
    pub copier: Copier,
    /// What machines may let go.
    pub mover: Mover,
    /// What is bad here and may be whole elsewhere.
    pub healer: Healer,
    /// How it stops.
    pub leave: Leave,
    /// Its machines, as they are told.
    pub listing: Listing,
    /// Who may write.
    pub slots: Arc<Slots>,
    env: Env,
    work: Work,
    ground: Box<dyn Ground>,
    /// Folders of vaults that the office does not know and that hold something.
    strays: Vec<VaultId>,
    /// Vaults that could not be opened, and why.
    closed: Mutex<BTreeMap<VaultId, String>>,
    vaults: Mutex<BTreeMap<VaultId, Arc<HostVault>>>,
    throttle: Mutex<Throttle>,
    /// How much of the log others may fill.
    pace: Mutex<Pace>,
    /// Its disk when it was last looked at.
    disk: Mutex<ground::Space>,
    /// Held by who adds to what a machine holds, and by who forgets a machine.
    leaving: Mutex<()>,
    /// From where sessions write.
    keeping: Mutex<HashMap<SessionId, WriterRun>>,
}

/// From where a session writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriterRun {
    /// The machine, which may keep what it writes.
    pub machine: MachineNumber,
    /// It is not to: copies go elsewhere.
    pub spread: bool,
}

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
    telling: Mutex<()>,
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
        self.lost.store(self.store.missed_frames()?, Ordering::Relaxed);
        Ok(())
    }

    /// Days that its snapshots are kept at least: what its config says, and never less than an office keeps.
    pub fn retention_days_min(&self) -> Result<u32, VaultError> {
        Ok(self.head.unverified()?.retention_days_min.max(LOCK_DAYS))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<HoldersError> for Problem {
    fn from(error: HoldersError) -> Self {
        let why = match error {
            HoldersError::Kv(KvError::NoSpace) => Why::NoSpace,
            _ => Why::Other,
        };
        problem(why, format!("the map of holders: {error}"))
    }
}

impl From<OfficeError> for Problem {
    fn from(error: OfficeError) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let why = match &error {
            OfficeError::Refused(_) => Why::Usage,
            OfficeError::Files(source) | OfficeError::Log(LogError::Files(source))
                if matches!(source.kind(), StorageFull | QuotaExceeded) =>
            {
                Why::NoSpace
            }
            _ => Why::Other,
        };
        problem(why, error.to_string())
    }
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => error.into(),
            error => problem(Why::Other, error.to_string()),
        }
    }
}

impl Host {
    /// Makes the change log of a new office. The first that is opened then is its host.
    pub fn create(ground: &dyn Ground, env: &Env, authority: SigningKey) -> Result<(), HostError> {
        drop(Office::create(ground.office(), env.clone(), authority)?);
        Ok(())
    }

    /// Opens a host: its log, its map of holders and all its vaults.
    pub fn open(ground: Box<dyn Ground>, env: Env, work: Work, identity: Identity) -> Result<Arc<Self>, HostError> {
        let authority = SigningKey::from_seed(identity.authority.seed());
        let office = Office::open(ground.office(), env.clone(), authority)?;
        let strays = office.read(|registry| strays::clear(&*ground, registry));
        let host = Self {
            strays,
            holders: open_holders(&*ground.holders())?,
            office,
            connections: Arc::default(),
            online: Mutex::default(),
            watch: Watch::open(ground.office(), env.clock.elapsed()),
            hours: Hours::open(ground.office(), &env),
            tips: Tips::open(ground.office()),
            copier: Copier::default(),
            mover: Mover::default(),
            healer: Healer::default(),
            leave: Leave::default(),
            listing: Listing::default(),
            slots: Arc::default(),
            env,
            work,
            ground,
            closed: Mutex::default(),
            vaults: Mutex::default(),
            throttle: Mutex::new(Throttle::new()),
            pace: Mutex::default(),
            disk: Mutex::default(),
            leaving: Mutex::default(),
            keeping: Mutex::default(),
            identity,
        };
        let vaults: Vec<VaultId> = host.office.read(|registry| registry.vaults().map(|vault| vault.id).collect());
        for id in vaults {
            let told_of = |source| HostError::Vault { vault: id, source: Box::new(source) };
            let opened = match host.open_vault(id) {
                Ok(opened) => opened,
                // The others are of use without it.
                Err(error) if matches!(error.class(), ErrorClass::NoVault | ErrorClass::Damaged) => {
                    tracing::error!(vault = %id, %error, "a vault cannot be opened: the host goes on without it");
                    lock(&host.closed).insert(id, error.to_string());
                    continue;
                }
                Err(error) => return Err(told_of(error)),
            };
            lock(&host.vaults).insert(id, opened.clone());
            host.feed(id, &opened).map_err(told_of)?;
            if let Err(error) = collector::go_on(&host, id, &opened) {
                tracing::warn!(vault = %id, %error, "cannot go on with what was freed: the next collection does");
            }
        }
        host.look_at_tips();
        watch::begin(&host)?;
        if let Err(error) = host.hours.note(&host.env, &host.vaults()) {
            tracing::warn!(%error, "cannot take note of what was recorded");
        }
        Ok(Arc::new(host))
    }

    /// What a machine says it holds counts from now on, as long as it is a part of the office. Gives the frames that the
    /// tracker never heard of.
    pub fn confirm(&self, machine: MachineNumber, frames: &[FrameId]) -> Result<Vec<FrameId>, HoldersError> {
        let mut unknown = Vec::new();
        for part in frames.chunks(FRAMES_PER_CHANGE_MAX) {
            // Who is being forgotten adds nothing behind the back of who forgets.
            let _one = lock(&self.leaving);
            let is_active = |node: &Node| node.number == machine.0 && node.status == NodeStatus::Active;
            if self.office.read(|registry| registry.nodes().any(is_active)) {
                unknown.extend(self.holders.confirm(machine, part)?);
            }
        }
        Ok(unknown)
    }

    /// What is held by a machine that will not come back is owed again. Whoever is interrupted begins again the same
    /// way.
    pub fn forget_copies(&self, machine: MachineNumber) -> Result<(), HoldersError> {
        while !twinkeep_engine::zoo::planted("forgotten-still-counts") {
            // For each part anew: others have something to say, too.
            let _one = lock(&self.leaving);
            if self.holders.forget_machine(machine, FRAMES_PER_CHANGE_MAX)?.left == 0 {
                break;
            }
        }
        self.copier.wake();
        Ok(())
    }

    /// Its key, by which others know it.
    pub fn key(&self) -> NodeKey {
        node_key(&self.identity.key)
    }

    /// Clock and dice.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Where blocking work runs.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Its disk.
    pub fn space(&self) -> ground::Space {
        self.ground.space()
    }

    /// Fails where new backups would fill the disk.
    pub fn has_room(&self) -> Result<(), Problem> {
        let (marks, space) = (&self.identity.marks, self.space());
        match marks.judge(space) {
            Room::Full => Err(problem(Why::NoSpace, room::words(marks, space).unwrap_or_default())),
            Room::Ample | Room::Filling(_) => Ok(()),
        }
    }

    /// From where sessions write.
    pub(crate) fn keeping(&self) -> MutexGuard<'_, HashMap<SessionId, WriterRun>> {
        lock(&self.keeping)
    }

    pub(crate) fn throttle(&self) -> MutexGuard<'_, Throttle> {
        lock(&self.throttle)
    }

    pub(crate) fn pace(&self) -> MutexGuard<'_, Pace> {
        lock(&self.pace)
    }

    /// Fails where somebody changes the office too often.
    pub(crate) fn may_change(&self, who: Who) -> Result<(), Problem> {
        let refuse =
            |wait: Wait| problem(Why::NotAllowed, format!("too many changes: wait {} s", wait.0.as_secs() + 1));
        self.pace().change(self.env.clock.elapsed(), who).map_err(refuse)
    }

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

    fn open_vault(&self, id: VaultId) -> Result<Arc<HostVault>, VaultError> {
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
        let lost = AtomicU64::new(store.missed_frames()?);
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

/// Opens the map of holders. One that is damaged or missing is made anew: vaults and machines say everything again.
fn open_holders(home: &dyn KvHome) -> Result<Holders, HostError> {
    let opened = match home.open() {
        Ok(Some(kv)) => Holders::open(kv).map(Some),
        Ok(None) => Ok(None),
        Err(error) => {
            tracing::warn!(%error, "the map of holders is damaged and is made anew");
            Ok(None)
        }
    };
    match opened {
        Ok(Some(holders)) => Ok(holders),
        Ok(None) | Err(HoldersError::OtherVersion { .. }) => {
            let fill = &mut |kv: &dyn twinkeep_engine::kv::Kv| {
                let mut write = kv.write()?;
                holders::init(&mut *write, COPIES_WANTED)?;
                write.commit()
            };
            let kv = home.replace(fill).map_err(HoldersError::from)?;
            Ok(Holders::open(kv)?)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::event::Event;
    use crate::tracker::log::Actor;
    use crate::tracker::names::MachineId;
    use crate::tracker::token;
    use ground::Folder;
    use twinkeep_engine::id::{FrameId, Kind};

    fn open(data: &std::path::Path) -> Arc<Host> {
        let identity = setup::load(data).unwrap();
        Host::open(Box::new(Folder(data.to_owned())), Env::system(1), Work::Here, identity).unwrap()
    }

    #[test]
    fn a_machine_is_forgotten_though_the_host_stopped_on_the_way() {
        for by_revoking in [true, false] {
            let temp = tempfile::tempdir().unwrap();
            let data = temp.path().join("host");
            let options = setup::HostOptions {
                name: "tower".into(),
                listen: "127.0.0.1:0".into(),
                addresses: vec!["127.0.0.1:7272".into()],
                machine_id: [7; 16],
            };
            setup::init(&data, &Env::system(1), &options).unwrap();
            let host = open(&data);
            let (key, secret) = (NodeKey([9; 32]), [1; 16]);
            let (name, token_hash) = ("pc1".to_owned(), token::hash(&secret));
            let expires = token::expires(host.env().clock.now(), std::time::Duration::from_secs(60));
            let made = Event::NodeTokenMade { name: name.clone(), token_hash, expires, auto: true };
            host.office.append(Actor::Host, made).unwrap();
            let machine_id = MachineId([3; 16]);
            let joined = Event::NodeJoined { name, key, machine_id, token_hash, pending: false };
            host.office.append(Actor::Host, joined).unwrap();
            let machine = MachineNumber(host.office.read(|registry| registry.node(&key).unwrap().number));
            let frame = NewFrame {
                id: FrameId([5; 32]),
                number_in_index: 0,
                kind: Kind::Leaf,
                len: 10,
                writer: None,
                spread: false,
            };
            let vault = VaultId([4; 16]);
            host.holders.enter(vault, &[frame], 1).unwrap();
            host.holders.confirm(machine, &[frame.id]).unwrap();
            assert!(!host.holders.is_owed_below(vault, 0).unwrap());
            let gone = if by_revoking { Event::NodeRevoked { key } } else { Event::NodeForgotten { key } };
            host.office.append(Actor::Host, gone).unwrap();
            drop(host);
            let host = open(&data);
            assert_eq!(host.holders.inventory(machine).unwrap().frames, 0);
            assert!(host.holders.is_owed_below(vault, 0).unwrap());
        }
    }
}
