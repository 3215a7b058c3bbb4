//! The PCs of a simulated office: what of them outlives a crash, and what of it is their own fault.

use super::disk::{Disk, Image};
use super::liar::Claimed;
use super::world::{World, secret};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use twinkeep_engine::copies::CopyStore;
use twinkeep_engine::env::Env;
use twinkeep_engine::frame::frame_id;
use twinkeep_engine::id::FrameId;
use twinkeep_nodes::terminal::copies::Kept;
use twinkeep_nodes::tracker::names::NodeKey;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::tracker::token::JoinToken;
use twinkeep_nodes::transport::keys::node_key;

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
    /// Its name in the network.
    pub name: String,
    /// Its name in the office: that of another, if it is a clone of it.
    pub node: String,
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
    /// Whether it is in the office: so is its clone then.
    pub has_joined: Rc<Cell<bool>>,
    /// Forgetting it was asked for: it may have been done though the answer was an error.
    pub is_to_go: Rc<Cell<bool>>,
    /// When it was forgotten last.
    pub forgotten: Rc<Cell<Option<Duration>>>,
    /// It is switched off for good, or not there yet.
    pub is_off: Cell<bool>,
    /// The lists of machines it keeps.
    pub lists: RefCell<Vec<u8>>,
    /// What else it keeps, by name.
    pub notes: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Whether something on its disk ever rotted.
    pub has_rotted: Cell<bool>,
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
        Rc::new(Self::blank(seed, at, nature))
    }

    fn blank(seed: u64, at: usize, nature: Nature) -> Self {
        Self {
            name: format!("pc{at}"),
            node: format!("pc{at}"),
            nature,
            disk: Disk::default(),
            skew: Arc::default(),
            grant: 1 << 30,
            kept: RefCell::default(),
            token: RefCell::default(),
            has_joined: Rc::default(),
            is_to_go: Rc::default(),
            forgotten: Rc::default(),
            is_off: Cell::new(false),
            lists: RefCell::default(),
            notes: RefCell::default(),
            has_rotted: Cell::default(),
            lost: RefCell::default(),
            images: RefCell::default(),
            asleep: RefCell::default(),
            claimed: Claimed::default(),
            boots: Cell::new(0),
            seed,
        }
    }

    /// Another machine that will be started from a copy of this one's disk.
    pub fn clone_of(original: &Self, at: usize) -> Rc<Self> {
        Rc::new(Self {
            node: original.node.clone(),
            grant: original.grant,
            has_joined: original.has_joined.clone(),
            is_to_go: original.is_to_go.clone(),
            forgotten: original.forgotten.clone(),
            is_off: Cell::new(true),
            ..Self::blank(original.seed, at, Nature::Honest)
        })
    }

    /// Whether it is a clone of another.
    pub fn is_clone(&self) -> bool {
        self.name != self.node
    }

    /// Whether it runs as it should, and takes part.
    pub fn is_part(&self) -> bool {
        self.has_joined.get() && !self.is_off.get() && self.nature == Nature::Honest
    }

    /// It comes into being as another's double.
    pub fn become_double(&self, original: &Self) {
        self.disk.restore(&original.disk.image());
        *self.lists.borrow_mut() = original.lists.borrow().clone();
        *self.notes.borrow_mut() = original.notes.borrow().clone();
        self.has_rotted.set(original.has_rotted.get());
        *self.lost.borrow_mut() = original.lost.borrow().clone();
        self.is_off.set(false);
    }

    /// Its key.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(&secret(self.seed, &self.node))
    }

    /// The same, as others know it.
    pub fn key(&self) -> NodeKey {
        node_key(&self.signing_key())
    }

    /// Its hardware.
    pub fn machine_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&secret(self.seed, &format!("{} hardware", self.node))[..16]);
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
        if self.is_off.get() {
            return false;
        }
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

    /// Those of which its store knows as long as it runs: what a put left in a pack that failed because the disk was
    /// full is found when it starts again, and compared then.
    pub fn listed(&self, world: &World) -> BTreeSet<FrameId> {
        let mut listed = self.on_disk(world);
        listed.retain(|frame| self.holds(world, frame));
        listed
    }

    /// Frames that are whole on its disk.
    pub fn on_disk(&self, world: &World) -> BTreeSet<FrameId> {
        if self.is_off.get() {
            return BTreeSet::new();
        }
        let (files, kv) = self.disk.durable("copies");
        let env = world.env("look", &self.skew);
        let Ok(opened) = CopyStore::open(Arc::new(files), Arc::new(kv), env, "look") else { return BTreeSet::new() };
        let held = opened.store.list(None, 1 << 20).unwrap_or_default();
        let is_whole = |id: &FrameId| opened.store.read(id).ok().flatten().is_some_and(|bytes| frame_id(&bytes) == *id);
        held.into_iter().map(|held| held.id).filter(is_whole).collect()
    }
}
