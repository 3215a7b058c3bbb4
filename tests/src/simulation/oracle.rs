//! What was acknowledged, and whether it holds.

use super::world::{Nature, User, World};
use crate::lab::chain;
use crate::weave::Node;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
    /// What does not hold.
    pub problems: Vec<String>,
    /// Backups that were published.
    pub backups: usize,
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
        let published = self.acknowledged.published.entry(user.vault).or_default();
        if let Some(other) = published.insert(count, root.clone()) {
            self.wrong(format!("{} and {} were both published as {count} of {}", other.id, root.id, user.name));
        }
    }

    /// Frames that the host has said to have of a user.
    pub fn frames_of(&self, user: &User) -> BTreeSet<FrameId> {
        self.acknowledged.frames.get(&user.vault).cloned().unwrap_or_default()
    }

    /// What a user has published.
    pub fn roots_of(&self, user: &User) -> Vec<Arc<Node>> {
        self.acknowledged.published.get(&user.vault).into_iter().flatten().map(|(_, root)| root.clone()).collect()
    }

    /// A user was told level 2: each of these frames is on a machine, unless one that lied or lost its disk said so.
    pub fn check_level(&mut self, world: &World, user: &User, frames: &BTreeSet<FrameId>) {
        let Some(host) = world.host.borrow().clone() else { return };
        // What rotted at the host while nobody else held it may have been stored anew, in other frames.
        for frame in frames.iter().filter(|frame| !self.rotten.1.contains(frame)) {
            if world.pcs.iter().any(|pc| pc.holds(world, frame)) {
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
        for pc in world.pcs.iter().filter(|pc| pc.nature == Nature::Honest) {
            let Some(number) = world.number_of(host, pc) else { continue };
            let rows = match host.holders.frames_of(number, None, 1 << 20) {
                Ok(rows) => rows,
                // Its power is gone.
                Err(_) => return,
            };
            for (_, frame) in rows {
                if !pc.is_excused(&frame) && !pc.holds(world, &frame) {
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
        for root in settled.filter(|root| self.must_be_whole(root)) {
            let known = vault.store().known(&[root.id]).map_err(|error| chain(&error))?;
            if known != [true] {
                return Err(format!("{} was settled and is not known", root.id));
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
        Ok(())
    }

    /// Frames that were acknowledged, of all vaults.
    pub fn all_frames(&self) -> impl Iterator<Item = &FrameId> {
        self.acknowledged.frames.values().flatten()
    }
}
