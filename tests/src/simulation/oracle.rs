//! What was acknowledged, and whether it holds.

mod gone;

use super::fates::{Fate, Fates, Said};
use super::pc::{Nature, Pc};
use super::world::{User, World};
use crate::lab::chain;
use crate::weave::Node;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use twinkeep_engine::id::{ChunkId, FrameId, VaultId};
use twinkeep_engine::vault::{Place, Unlock, Vault};
use twinkeep_nodes::host::Host;
use twinkeep_nodes::transport::problem::Why;

/// Problems kept.
const PROBLEMS_MAX: usize = 5;

/// See the module.
#[derive(Default)]
pub struct Oracle {
    acknowledged: Acknowledged,
    /// Which life of the host this is: an older copy of its disk begins another.
    pub life: usize,
    /// Frames that were ever made, with what is in them.
    made: BTreeMap<FrameId, Vec<ChunkId>>,
    /// Chunks of frames that rotted at the host while nobody else held them, and those frames.
    rotten: (HashSet<ChunkId>, BTreeSet<FrameId>),
    has_rotted: bool,
    /// Frames that machines may hold although nobody needs them, because the host has lost its memory of them.
    unremembered: BTreeSet<FrameId>,
    /// What does not hold.
    pub problems: Vec<String>,
    /// Backups that were published.
    pub backups: usize,
    /// Snapshots that were forgotten, brought back and let go, and frames freed when it was asked for.
    pub told: [usize; 4],
    /// Answers of level 2.
    pub levels: usize,
    /// Calls that failed, by reason.
    pub failures: BTreeMap<String, usize>,
}

/// What the host has said to have.
#[derive(Clone, Default)]
pub struct Acknowledged {
    /// Frames that were settled, by vault.
    frames: BTreeMap<VaultId, BTreeSet<FrameId>>,
    /// Roots that were settled, by vault.
    settled: BTreeMap<VaultId, BTreeMap<ChunkId, Arc<Node>>>,
    /// Roots that were published and at which count, by vault.
    published: BTreeMap<VaultId, BTreeMap<u64, Arc<Node>>>,
    /// Roots that somebody was about to publish and heard nothing of.
    publishing: BTreeMap<VaultId, Vec<ChunkId>>,
    /// What was said of what was published.
    fates: BTreeMap<VaultId, Fates>,
}

/// A change that somebody asks for, until it is answered.
pub struct Asked {
    vault: VaultId,
    life: usize,
    count: u64,
    at: usize,
}

impl Oracle {
    /// Somebody has made a frame of these.
    pub fn make(&mut self, frame: FrameId, chunks: Vec<ChunkId>) {
        self.made.insert(frame, chunks);
    }

    /// Frames that were ever made.
    pub fn made(&self) -> impl Iterator<Item = FrameId> {
        self.made.keys().copied()
    }

    /// What was acknowledged so far.
    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.clone()
    }

    /// The host's disk is as it was when only this had been acknowledged.
    pub fn go_back(&mut self, acknowledged: Acknowledged) {
        self.acknowledged = acknowledged;
        self.life += 1;
    }

    /// Something at the host rots: what was made so far and is held by none of these may be gone.
    pub fn rot(&mut self, elsewhere: &BTreeSet<FrameId>) {
        self.has_rotted = true;
        for (frame, chunks) in self.made.iter().filter(|(frame, _)| !elsewhere.contains(frame)) {
            self.rotten.0.extend(chunks);
            self.rotten.1.insert(*frame);
        }
    }

    /// Whether something at the host ever rotted.
    pub fn has_rotted(&self) -> bool {
        self.has_rotted
    }

    /// Whether a frame rotted at the host while nobody else held it.
    pub fn is_rotten(&self, frame: &FrameId) -> bool {
        self.rotten.1.contains(frame)
    }

    /// Whether nothing below a root may be gone.
    fn must_be_whole(&self, root: &Arc<Node>) -> bool {
        if self.rotten.0.is_empty() {
            return true;
        }
        let mut all = HashMap::new();
        root.gather(&mut all);
        !all.keys().any(|id| self.rotten.0.contains(id))
    }

    /// Something does not hold.
    pub fn wrong(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    /// A user's call failed.
    pub fn failed(&mut self, why: Why) {
        *self.failures.entry(format!("{why:?}")).or_default() += 1;
    }

    /// The host said that a root is durable, with frames it was sent for it.
    pub fn settled(&mut self, user: &User, life: usize, root: &Arc<Node>, frames: &[FrameId]) {
        // Its word came late: it does not know of it any more.
        if life != self.life {
            return;
        }
        self.acknowledged.frames.entry(user.vault).or_default().extend(frames);
        self.acknowledged.settled.entry(user.vault).or_default().insert(root.id, root.clone());
    }

    /// The host said that a record is there.
    pub fn published(&mut self, user: &User, life: usize, root: &Arc<Node>, count: u64) {
        if life != self.life {
            return;
        }
        self.backups += 1;
        self.acknowledged.fates.entry(user.vault).or_default().occupy(count);
        let published = self.acknowledged.published.entry(user.vault).or_default();
        if let Some(other) = published.insert(count, root.clone()) {
            self.wrong(format!("{} and {} were both published as {count} of {}", other.id, root.id, user.name));
        }
    }

    /// Somebody is about to publish a root.
    pub fn publishing(&mut self, user: &User, root: &Arc<Node>) {
        self.acknowledged.publishing.entry(user.vault).or_default().push(root.id);
    }

    /// It was heard what came of that.
    pub fn heard(&mut self, user: &User, life: usize, root: &Arc<Node>) {
        let unheard = self.acknowledged.publishing.entry(user.vault).or_default();
        if let Some(at) = unheard.iter().position(|id| *id == root.id).filter(|_| life == self.life) {
            unheard.swap_remove(at);
        }
    }

    /// Somebody is about to say something of snapshots, in this place of the chain.
    pub fn ask(&mut self, world: &World, user: &User, count: u64, said: Said, of: &[u64]) -> Asked {
        let at = self.acknowledged.fates.entry(user.vault).or_default().ask(count, said, of, world.ran());
        Asked { vault: user.vault, life: self.life, count, at }
    }

    /// It was taken.
    pub fn taken(&mut self, asked: &Asked, said: Said, of: usize) {
        if said != Said::Other {
            self.told[said as usize] += of;
        }
        if asked.life != self.life {
            return;
        }
        let fates = self.acknowledged.fates.entry(asked.vault).or_default();
        if let Err(problem) = fates.take(asked.count, asked.at) {
            self.wrong(problem);
        }
    }

    /// It was not taken.
    pub fn refused(&mut self, asked: &Asked) {
        if asked.life == self.life {
            self.acknowledged.fates.entry(asked.vault).or_default().refuse(asked.count, asked.at);
        }
    }

    /// What may have become of a snapshot.
    pub fn fate(&self, user: &User, count: u64) -> Fate {
        self.acknowledged.fates.get(&user.vault).map(|fates| fates.fate(count)).unwrap_or_default()
    }

    /// Frames that the host has said to have of a user.
    pub fn frames_of(&self, user: &User) -> BTreeSet<FrameId> {
        self.acknowledged.frames.get(&user.vault).cloned().unwrap_or_default()
    }

    /// Whether a user has published a root, and nobody had the right to let it go.
    pub fn must_have(&self, user: &User, root: &ChunkId) -> bool {
        self.kept_roots(user).any(|kept| kept.id == *root)
    }

    /// What a user has published.
    pub fn roots_of(&self, user: &User) -> Vec<Arc<Node>> {
        self.acknowledged.published.get(&user.vault).into_iter().flatten().map(|(_, root)| root.clone()).collect()
    }

    /// A user was told level 2: each of these frames is on a machine, unless one that lied or lost its disk said so.
    pub fn check_level(&mut self, world: &World, user: &User, frames: &BTreeSet<FrameId>) {
        let Some(host) = world.host.borrow().clone() else { return };
        let mut at_host = None;
        // What rotted at the host while nobody else held it may have been stored anew, in other frames.
        for frame in frames.iter().filter(|frame| !self.rotten.1.contains(frame)) {
            if world.pcs.iter().any(|pc| pc.holds(world, frame)) {
                continue;
            }
            // What was freed meanwhile is nowhere.
            if world.may_free() && !at_host.get_or_insert_with(|| world.frames_at_host()).contains(frame) {
                continue;
            }
            let Ok(holders) = host.holders.holders_of(&[*frame]) else { return };
            let excused = || world.pcs.iter().filter(|pc| pc.is_excused(frame));
            // It counted when the host said so, and was forgotten before that was heard.
            if excused().any(|pc| pc.was_just_forgotten()) {
                continue;
            }
            let mut numbers = excused().filter_map(|pc| world.number_of(&host, pc));
            if !numbers.any(|number| holders.iter().flatten().any(|holder| *holder == number)) {
                self.wrong(format!("{} was told level 2, and nobody holds {frame}", user.name));
                return;
            }
        }
    }

    /// The map of holders names only machines that hold what it says.
    pub fn check_map(&mut self, world: &World, host: &Host) {
        for pc in world.pcs.iter().filter(|pc| pc.nature == Nature::Honest && !pc.is_clone()) {
            let Some(number) = world.number_of(host, pc) else { continue };
            // What one of several machines under a key holds counts for all of them.
            let node = &pc.node[..];
            let rows = match host.holders.frames_of(number, None, 1 << 20) {
                Ok(rows) => rows,
                // Its power is gone.
                Err(_) => return,
            };
            for (_, frame) in rows {
                let is_right = |pc: &Rc<Pc>| pc.node == node && (pc.is_excused(&frame) || pc.holds(world, &frame));
                if !world.pcs.iter().any(is_right) {
                    self.wrong(format!("the host believes that {} holds {frame}, which it does not", pc.name));
                    return;
                }
            }
        }
    }

    /// Everything that was acknowledged can be read from what a power cut would leave of the host's disk now.
    pub fn check_host(&mut self, world: &World) {
        if let Some(problem) = self.missing_at_host(world) {
            self.wrong(problem);
        }
    }

    /// The first thing that was acknowledged and cannot be read.
    pub fn missing_at_host(&self, world: &World) -> Option<String> {
        let users = world.users.borrow();
        users.iter().find_map(|user| Some(format!("{}: {}", user.name, self.check_vault(world, user).err()?)))
    }

    fn check_vault(&self, world: &World, user: &User) -> Result<(), String> {
        let (files, kv) = world.disk.durable(&user.vault.to_hex());
        let place = Place { files: Arc::new(files), kv_home: Arc::new(kv) };
        let env = world.env("restore", &world.skew);
        let vault = Vault::open(place, env, Unlock::Secret(&user.secret), "restore");
        let vault = vault.map_err(|error| chain(&error))?;
        let reader = vault.reader().map_err(|error| chain(&error))?;
        let mut seen = HashSet::new();
        let settled = self.acknowledged.settled.get(&user.vault).into_iter().flat_map(BTreeMap::values);
        // What nobody came to publish is freed, where anything is.
        let roots: Vec<&Arc<Node>> = match world.may_free() {
            true => self.kept_roots(user).collect(),
            false => settled.collect(),
        };
        for root in roots.into_iter().filter(|root| self.must_be_whole(root)) {
            // What is condemned is as if it were not there, for those who come now, and may be taken back.
            let is_there = match world.may_free() {
                true => vault.store().whole(&[root.id]),
                false => vault.store().known(&[root.id]),
            };
            if is_there.map_err(|error| chain(&error))? != [true] {
                return Err(format!("{} was settled and is not there", root.id));
            }
            root.verify(&reader, &mut seen)?;
        }
        let records = vault.store().records().map_err(|error| chain(&error))?;
        for (count, root) in self.acknowledged.published.get(&user.vault).into_iter().flatten() {
            let record = records.iter().find(|record| record.count == *count);
            let is_there = record.and_then(|record| record.bytes.as_ref().ok()).is_some_and(|bytes| {
                let parsed = twinkeep_engine::record::Record::parse(bytes).ok();
                let named =
                    parsed.and_then(|parsed| twinkeep_engine::record::RefRecord::decode(&parsed.record.payload).ok());
                named.is_some_and(|named| named.target == root.id)
            });
            if !is_there {
                return Err(format!("record {count} of {} was published and is not there", root.id));
            }
        }
        if world.may_free() { self.check_history(user, &vault) } else { Ok(()) }
    }

    /// Frames that were acknowledged, of all vaults.
    pub fn all_frames(&self) -> impl Iterator<Item = &FrameId> {
        self.acknowledged.frames.values().flatten()
    }
}
