//! The machines of a simulated office: what of them outlives a crash, and who they are.

use super::disk::{Disk, Image};
use super::oracle::Oracle;
use super::pc::{Nature, Pc};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use twinkeep_engine::crypto::{VaultKeys, VaultSecret};
use twinkeep_engine::env::{Clock, Env, Inline, SeededEntropy, Time};
use twinkeep_engine::files::Files;
use twinkeep_engine::id::{FrameId, VaultId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::kv::KvHome;
use twinkeep_engine::store::LocalStore;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_engine::vault::{CreateOptions, Place, Vault};
use twinkeep_nodes::host::ground::{Ground, Space};
use twinkeep_nodes::host::room::Marks;
use twinkeep_nodes::host::{Host, Identity};
use twinkeep_nodes::tracker::MachineNumber;
use twinkeep_nodes::tracker::event::{Event, Login, VaultKind};
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::member::seal_vault;
use twinkeep_nodes::tracker::names::{AccountId, MachineId, NodeKey};
use twinkeep_nodes::tracker::office::Office;
use twinkeep_nodes::tracker::registry::NodeStatus;
use twinkeep_nodes::tracker::sign::SigningKey;
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
    /// What nothing needs is freed.
    Collect,
    /// The same, and the power goes after so many writes.
    CollectAndCut(u64),
    /// The host's clock is right as it stands.
    ClockIsRight,
}

/// What members of a vault are to do in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Bring back some of what was forgotten: nothing may be in the way.
    Recall,
    /// Forget some of what may be forgotten.
    Forget,
    /// Let everything go of which the windows are over.
    Purge,
}

/// What people of an office do, besides backing up.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Habits {
    /// Forget snapshots, bring some back, and let others go; months pass, and what nothing needs is freed.
    pub forget: bool,
    /// Some write into one vault.
    pub share: bool,
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
    /// What people do.
    pub habits: Habits,
    /// How long the host has run in all, nanoseconds.
    pub ran: AtomicU64,
    /// What is still to be done in the end, by user.
    pub wishes: RefCell<BTreeMap<usize, Wish>>,
    /// Somebody is doing one of them.
    pub is_wishing: Cell<bool>,
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
    pub fn new(seed: u64, pcs: Vec<Rc<Pc>>, joined: usize, users: usize, habits: Habits) -> Result<Rc<Self>, String> {
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
            habits,
            ran: AtomicU64::new(0),
            wishes: RefCell::default(),
            is_wishing: Cell::new(false),
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

    /// How long the host has run in all.
    pub fn ran(&self) -> Duration {
        Duration::from_nanos(self.ran.load(Ordering::Relaxed))
    }

    /// Whether the host may have freed something: it does so by itself when hours have passed.
    pub fn may_free(&self) -> bool {
        self.habits.forget || self.slept.load(Ordering::Relaxed) > 0
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

    /// Frames that stand in the indexes of the host's vaults, as a power cut now would leave them.
    pub fn frames_at_host(&self) -> BTreeSet<FrameId> {
        let mut found = BTreeSet::new();
        for vault in self.users.borrow().iter().map(|user| user.vault).collect::<BTreeSet<_>>() {
            let (files, kv) = self.disk.durable(&vault.to_hex());
            let env = self.env("look", &self.skew);
            let Ok(Some(store)) = LocalStore::peek(Arc::new(files), Arc::new(kv), env, vault, "look".to_owned()) else {
                continue;
            };
            let rows = store.frame_rows(FrameNumber(0), usize::MAX).unwrap_or_default();
            found.extend(rows.into_iter().map(|(_, place)| place.id));
        }
        found
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
            let friend = match self.habits.share && at % 3 == 1 {
                true => self.users.borrow().last().cloned(),
                false => None,
            };
            let user = self.make_user(&host, env, (at, pc), friend)?;
            self.users.borrow_mut().push(user);
        }
        Ok(())
    }

    /// Makes an account, with a vault of its own or as a member of another's.
    fn make_user(
        &self,
        host: &Host,
        env: &Env,
        (at, pc): (usize, usize),
        friend: Option<Rc<User>>,
    ) -> Result<Rc<User>, Box<dyn std::error::Error>> {
        let name = format!("user{at}");
        let entropy = &*env.entropy;
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let id = AccountId(id);
        let options = CreateOptions { retention_days_min: 30, ..CreateOptions::default() };
        let prepared = Vault::prepare(env, &options, &[])?;
        let (vault, secret) = match &friend {
            Some(friend) => (friend.vault, friend.secret.clone()),
            None => (prepared.vault, prepared.secret.clone()),
        };
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
        if friend.is_none() {
            host.make_vault(&prepared.head)?;
            let kind = if self.habits.share { VaultKind::Shared } else { VaultKind::Private };
            let made = Event::VaultMade { vault, owner: id, name, kind, company_wrap: Vec::new() };
            host.office.append(Actor::Host, made)?;
        }
        let account_key = secret_of(&user);
        let wrapped = seal_vault(&account_key, &id, &vault, &user.secret, entropy).to_vec();
        host.office.append(Actor::Host, Event::VaultMember { vault, account: id, on: true, wrapped })?;
        Ok(Rc::new(user))
    }
}

fn secret_of(user: &User) -> [u8; 32] {
    secret(user.seed, &format!("{} account", user.name))
}
