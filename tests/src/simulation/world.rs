//! The machines of a simulated office: what of them outlives a crash, and who they are.

use super::disk::{Disk, Image};
use super::liar::Claimed;
use super::oracle::Oracle;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use twinkeep_engine::copies::CopyStore;
use twinkeep_engine::crypto::{VaultKeys, VaultSecret};
use twinkeep_engine::env::{Clock, Env, Inline, SeededEntropy, Time};
use twinkeep_engine::files::Files;
use twinkeep_engine::frame::frame_id;
use twinkeep_engine::id::{FrameId, VaultId};
use twinkeep_engine::kv::KvHome;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_engine::vault::{CreateOptions, Place, Vault};
use twinkeep_nodes::host::ground::{Ground, Space};
use twinkeep_nodes::host::room::Marks;
use twinkeep_nodes::host::{Host, Identity};
use twinkeep_nodes::terminal::copies::Kept;
use twinkeep_nodes::tracker::MachineNumber;
use twinkeep_nodes::tracker::event::{Event, Login, VaultKind};
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::member::seal_vault;
use twinkeep_nodes::tracker::names::{AccountId, MachineId, NodeKey};
use twinkeep_nodes::tracker::office::Office;
use twinkeep_nodes::tracker::registry::NodeStatus;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::tracker::token::JoinToken;
use twinkeep_nodes::transport::keys::node_key;
use twinkeep_nodes::work::Work;

/// Where the host listens.
pub const PORT: u16 = 7272;

/// Its name in the network.
pub const HOST: &str = "host";

/// The wall clock when a simulation begins.
const BEGIN_NANOS: i64 = 1_800_000_000_000_000_000;

/// A clock that follows the simulation's time; its wall clock can be set wrong.
struct SimClock {
    now: Arc<AtomicU64>,
    skew: Arc<AtomicI64>,
    slept: Arc<AtomicU64>,
    boot: u64,
}

impl SimClock {
    fn passed(&self) -> u64 {
        self.now.load(Ordering::Relaxed) + self.slept.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        Time(BEGIN_NANOS.saturating_add(self.passed() as i64).saturating_add(self.skew.load(Ordering::Relaxed)))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.passed() - self.boot)
    }
}

/// What happened, as text and as a hash of it.
#[derive(Default)]
pub struct Trace {
    hash: blake3::Hasher,
    /// The newest lines, for whoever reads of a failure.
    pub lines: VecDeque<String>,
}

const LINES_MAX: usize = 400;

impl Trace {
    fn add(&mut self, line: String) {
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Of everything so far.
    pub fn hash(&self) -> String {
        self.hash.finalize().to_hex()[..16].to_owned()
    }
}

/// 32 bytes that follow from a seed and a name.
pub fn secret(seed: u64, name: &str) -> [u8; 32] {
    blake3::derive_key("twinkeep simulation", format!("{seed} {name}").as_bytes())
}

fn number(seed: u64, name: &str) -> u64 {
    secret(seed, name).first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// How a terminal behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nature {
    /// As it should.
    Honest,
    /// It says that it holds what it was sent, and has not.
    Liar(Manner),
}

/// How a terminal lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// It has thrown away what it was sent.
    Nothing,
    /// It has every other frame.
    Half,
    /// The same, and what it is to show it answers with something else.
    Wrong,
    /// It never answers what it is asked for.
    Mute,
}

/// A word of the host is on its way for so long at most.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// A PC with a terminal on it.
pub struct Pc {
    /// Its name, in the network and the office.
    pub name: String,
    /// How it behaves.
    pub nature: Nature,
    /// Its disk.
    pub disk: Disk,
    /// How far its wall clock is off.
    pub skew: Arc<AtomicI64>,
    /// Bytes granted.
    pub grant: u64,
    /// Its store while it runs.
    pub kept: RefCell<Option<Arc<Kept>>>,
    /// With what it is to join; none when it has.
    pub token: RefCell<Option<JoinToken>>,
    /// Whether it is in the office.
    pub has_joined: Cell<bool>,
    /// When it was forgotten last.
    pub forgotten: Cell<Option<Duration>>,
    /// The lists of machines it keeps.
    pub lists: RefCell<Vec<u8>>,
    /// What else it keeps, by name.
    pub notes: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Frames that its disk has lost: what it said of them before is no fault of the host's.
    lost: RefCell<BTreeSet<FrameId>>,
    /// Older copies of its disk.
    pub images: RefCell<Vec<Image>>,
    /// What its disk holds while it is off.
    asleep: RefCell<Option<BTreeSet<FrameId>>>,
    /// What a liar says it holds.
    pub claimed: Claimed,
    boots: Cell<u64>,
    seed: u64,
}

impl Pc {
    /// One that has not joined.
    pub fn new(seed: u64, at: usize, nature: Nature) -> Rc<Self> {
        Rc::new(Self {
            name: format!("pc{at}"),
            nature,
            disk: Disk::default(),
            skew: Arc::default(),
            grant: 1 << 30,
            kept: RefCell::default(),
            token: RefCell::default(),
            has_joined: Cell::new(false),
            forgotten: Cell::new(None),
            lists: RefCell::default(),
            notes: RefCell::default(),
            lost: RefCell::default(),
            images: RefCell::default(),
            asleep: RefCell::default(),
            claimed: Claimed::default(),
            boots: Cell::new(0),
            seed,
        })
    }

    /// Its key.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(&secret(self.seed, &self.name))
    }

    /// The same, as others know it.
    pub fn key(&self) -> NodeKey {
        node_key(&self.signing_key())
    }

    /// Its hardware.
    pub fn machine_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&secret(self.seed, &format!("{} hardware", self.name))[..16]);
        id
    }

    /// It starts.
    pub fn boot(&self, world: &World) -> Env {
        self.boots.set(self.boots.get() + 1);
        self.asleep.take();
        world.env(&format!("{} {}", self.name, self.boots.get()), &self.skew)
    }

    /// It does not run any more.
    pub fn stop(&self) {
        self.kept.take();
        self.asleep.take();
    }

    /// Its disk was lost or rotted: what it has not got any more of what was made so far is no fault of the host's.
    pub fn excuse(&self, world: &World) {
        let left = self.on_disk(world);
        let oracle = world.oracle.borrow();
        self.lost.borrow_mut().extend(oracle.made().filter(|frame| !left.contains(frame)));
        self.asleep.take();
    }

    /// Whether it may say that it holds a frame although it does not.
    pub fn is_excused(&self, frame: &FrameId) -> bool {
        self.nature != Nature::Honest || self.lost.borrow().contains(frame)
    }

    /// Whether it was forgotten so lately that a word of the host from before may still have been on its way.
    pub fn was_just_forgotten(&self) -> bool {
        let since = |then: Duration| turmoil::sim_elapsed().unwrap_or_default().saturating_sub(then);
        self.forgotten.get().is_some_and(|then| since(then) < ON_ITS_WAY)
    }

    /// Whether its disk has this frame, every byte of it, and would after a power cut now.
    pub fn holds(&self, world: &World, frame: &FrameId) -> bool {
        if let Some(kept) = &*self.kept.borrow()
            && !self.disk.is_dead()
        {
            let bytes = kept.store.read(frame).ok().flatten();
            return bytes.is_some_and(|bytes| frame_id(&bytes) == *frame);
        }
        let mut asleep = self.asleep.borrow_mut();
        asleep.get_or_insert_with(|| self.on_disk(world)).contains(frame)
    }

    /// What its store says of a frame.
    pub fn tell(&self, frame: &FrameId) -> String {
        let kept = self.kept.borrow();
        let Some(kept) = kept.as_ref() else { return "it does not run".to_owned() };
        format!("its store says {:?}", kept.store.has(&[*frame]))
    }

    /// Frames that are whole on its disk.
    pub fn on_disk(&self, world: &World) -> BTreeSet<FrameId> {
        let (files, kv) = self.disk.durable("copies");
        let env = world.env("look", &self.skew);
        let Ok(opened) = CopyStore::open(Arc::new(files), Arc::new(kv), env, "look") else { return BTreeSet::new() };
        let held = opened.store.list(None, 1 << 20).unwrap_or_default();
        let is_whole = |id: &FrameId| opened.store.read(id).ok().flatten().is_some_and(|bytes| frame_id(&bytes) == *id);
        held.into_iter().map(|held| held.id).filter(is_whole).collect()
    }
}

/// Somebody who backs up.
pub struct User {
    /// Account name.
    pub name: String,
    /// Which PC they sit at.
    pub pc: usize,
    /// Their vault.
    pub vault: VaultId,
    /// Its keys.
    pub keys: Arc<VaultKeys>,
    /// Opens it.
    pub secret: VaultSecret,
    seed: u64,
}

impl User {
    /// What a login is signed with.
    pub fn login_key(&self) -> SigningKey {
        SigningKey::from_seed(&secret(self.seed, &format!("{} login", self.name)))
    }
}

/// What an administrator is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Make a token for a PC.
    Invite(usize),
    /// It does not come back.
    Forget(usize),
    /// It is emptied, or not any more.
    Drain(usize, bool),
    /// Everything is verified, and healed where it can be.
    Scrub,
}

/// Everything that outlives a crash, and what the tests know besides.
pub struct World {
    /// Everything follows from it.
    pub seed: u64,
    /// The simulation's time, nanoseconds.
    pub now: Arc<AtomicU64>,
    /// How long all machines have slept, nanoseconds.
    pub slept: Arc<AtomicU64>,
    /// What happened.
    pub trace: RefCell<Trace>,
    /// The host's disk.
    pub disk: Disk,
    /// How far the host's wall clock is off.
    pub skew: Arc<AtomicI64>,
    /// The host while it runs.
    pub host: RefCell<Option<Arc<Host>>>,
    /// The PCs.
    pub pcs: Vec<Rc<Pc>>,
    /// The users.
    pub users: RefCell<Vec<Rc<User>>>,
    /// What was acknowledged.
    pub oracle: RefCell<Oracle>,
    /// For the administrator at the host.
    pub commands: RefCell<VecDeque<Command>>,
    /// The administrator is doing one of them.
    pub is_obeying: Cell<bool>,
    /// Nobody begins anything new.
    pub is_calm: Cell<bool>,
    boots: Cell<u64>,
}

/// What the host stands on.
struct HostGround(Disk);

impl Ground for HostGround {
    fn office(&self) -> Arc<dyn Files> {
        Arc::new(self.0.tree("office").0)
    }

    fn holders(&self) -> Arc<dyn KvHome> {
        Arc::new(self.0.tree("holders").1)
    }

    fn vault(&self, id: VaultId) -> Place {
        let (files, kv) = self.0.tree(&id.to_hex());
        Place { files: Arc::new(files), kv_home: Arc::new(kv) }
    }

    fn vaults(&self) -> io::Result<Vec<VaultId>> {
        Ok(self.0.names().iter().filter_map(|name| VaultId::from_hex(name)).collect())
    }

    fn remove_vault(&self, id: VaultId) -> io::Result<()> {
        self.0.remove(&id.to_hex());
        Ok(())
    }

    fn space(&self) -> Space {
        space(&self.0)
    }
}

/// Of a disk that has room or none.
pub fn space(disk: &Disk) -> Space {
    Space { free: if disk.is_full() { 0 } else { 1 << 39 }, total: 1 << 40 }
}

impl World {
    /// An office of so many PCs that have joined, some that have not, and users at the first ones.
    pub fn new(seed: u64, pcs: Vec<Rc<Pc>>, joined: usize, users: usize) -> Result<Rc<Self>, String> {
        let world = Rc::new(Self {
            seed,
            now: Arc::default(),
            slept: Arc::default(),
            trace: RefCell::default(),
            disk: Disk::default(),
            skew: Arc::default(),
            host: RefCell::default(),
            pcs,
            users: RefCell::default(),
            oracle: RefCell::default(),
            commands: RefCell::default(),
            is_obeying: Cell::new(false),
            is_calm: Cell::new(false),
            boots: Cell::new(0),
        });
        let env = world.env("setup", &world.skew);
        world.set_up(&env, joined, users).map_err(|error| format!("setup: {error}"))?;
        Ok(world)
    }

    /// Clock and dice of a machine that starts now.
    pub fn env(&self, name: &str, skew: &Arc<AtomicI64>) -> Env {
        let (now, skew, slept) = (self.now.clone(), skew.clone(), self.slept.clone());
        let mut clock = SimClock { now, skew, slept, boot: 0 };
        clock.boot = clock.passed();
        Env {
            clock: Arc::new(clock),
            entropy: Arc::new(SeededEntropy::new(number(self.seed, name))),
            executor: Arc::new(Inline),
        }
    }

    /// Seconds since the simulation began.
    pub fn secs(&self) -> f64 {
        self.now.load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Something happened.
    pub fn note(&self, who: &str, what: impl std::fmt::Display) {
        let line = format!("{:9.3} {who}: {what}", self.secs());
        tracing::debug!(target: "twinkeep", "{line}");
        self.trace.borrow_mut().add(line);
    }

    /// What the host is made of.
    pub fn ground(&self) -> Box<dyn Ground> {
        Box::new(HostGround(self.disk.clone()))
    }

    /// The host's key.
    pub fn host_key(&self) -> NodeKey {
        node_key(&SigningKey::from_seed(&secret(self.seed, "host")))
    }

    /// The company's authority.
    pub fn authority(&self) -> SigningKey {
        SigningKey::from_seed(&secret(self.seed, "authority"))
    }

    fn identity(&self) -> Identity {
        Identity {
            name: HOST.to_owned(),
            addresses: vec![format!("{HOST}:{PORT}")],
            key: SigningKey::from_seed(&secret(self.seed, "host")),
            authority: self.authority(),
            answers: secret(self.seed, "answers"),
            company_key: secret(self.seed, "company"),
            machine_id: [0x77; 16],
            marks: Marks { reserve: (1 << 20, 0), tell_at: Vec::new() },
        }
    }

    /// Which PCs are a part of the office, as a copy of the host's disk knows it.
    pub fn members(&self, image: &Image) -> Result<Vec<bool>, String> {
        let env = self.env("members", &self.skew);
        let office = Office::open(Arc::new(image.files("office")), env, self.authority());
        let office = office.map_err(|error| crate::lab::chain(&error))?;
        let is_active = |pc: &Rc<Pc>| {
            office.read(|registry| registry.node(&pc.key()).is_some_and(|node| node.status == NodeStatus::Active))
        };
        Ok(self.pcs.iter().map(is_active).collect())
    }

    /// Starts the host.
    pub fn open_host(&self) -> Result<Arc<Host>, String> {
        self.boots.set(self.boots.get() + 1);
        let env = self.env(&format!("host {}", self.boots.get()), &self.skew);
        Host::open(self.ground(), env, Work::Here, self.identity()).map_err(|error| crate::lab::chain(&error))
    }

    /// The number a PC has in the office.
    pub fn number_of(&self, host: &Host, pc: &Pc) -> Option<MachineNumber> {
        host.office.read(|registry| registry.node(&pc.key()).map(|node| MachineNumber(node.number)))
    }

    fn set_up(self: &Rc<Self>, env: &Env, joined: usize, users: usize) -> Result<(), Box<dyn std::error::Error>> {
        Host::create(&*self.ground(), env, self.authority())?;
        let host = self.open_host()?;
        for pc in self.pcs.iter().take(joined) {
            let token = secret(self.seed, &format!("{} token", pc.name));
            let expires = Time(i64::MAX);
            let (name, token_hash) = (pc.name.clone(), token);
            host.office
                .append(Actor::Host, Event::NodeTokenMade { name: name.clone(), token_hash, expires, auto: true })?;
            let (key, machine_id) = (pc.key(), MachineId(pc.machine_id()));
            host.office.append(Actor::Host, Event::NodeJoined { name, key, machine_id, token_hash, pending: false })?;
            pc.has_joined.set(true);
        }
        for at in 0..users {
            let pc = at % joined.max(1);
            // Whoever sits at a liar's PC has nothing to prove.
            let pc = if self.pcs[pc].nature == Nature::Honest { pc } else { 0 };
            let user = self.make_user(&host, env, at, pc)?;
            self.users.borrow_mut().push(user);
        }
        Ok(())
    }

    fn make_user(&self, host: &Host, env: &Env, at: usize, pc: usize) -> Result<Rc<User>, Box<dyn std::error::Error>> {
        let name = format!("user{at}");
        let entropy = &*env.entropy;
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let id = AccountId(id);
        let options = CreateOptions { retention_days_min: 30, ..CreateOptions::default() };
        let prepared = Vault::prepare(env, &options, &[])?;
        let (vault, secret) = (prepared.vault, prepared.secret.clone());
        let keys = Arc::new(VaultKeys::derive(&secret, vault));
        let user = User { name: name.clone(), pc, vault, keys, secret, seed: self.seed };
        let login = Login {
            login_key: user.login_key().public(),
            salt: [at as u8; 16],
            cost: PasswordCost::default(),
            wrapped_key: vec![at as u8; 60],
        };
        let account = Event::AccountMade { id, name: name.clone(), login, quota: 0, is_admin: at == 0 };
        host.office.append(Actor::Host, account)?;
        host.make_vault(&prepared.head)?;
        let made = Event::VaultMade { vault, owner: id, name, kind: VaultKind::Private, company_wrap: Vec::new() };
        host.office.append(Actor::Host, made)?;
        let account_key = super::world::secret(self.seed, &format!("{} account", user.name));
        let wrapped = seal_vault(&account_key, &id, &vault, &user.secret, entropy).to_vec();
        host.office.append(Actor::Host, Event::VaultMember { vault, account: id, on: true, wrapped })?;
        Ok(Rc::new(user))
    }
}
