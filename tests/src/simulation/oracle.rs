//! What was acknowledged, and whether it holds.

use super::world::{User, World};
use crate::lab::chain;
use crate::weave::Node;
use std::collections::{BTreeMap, BTreeSet, HashSet};
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
    /// Frames that were settled, by vault.
    frames: BTreeMap<VaultId, BTreeSet<FrameId>>,
    /// Roots that were settled, by vault.
    settled: BTreeMap<VaultId, BTreeMap<ChunkId, Arc<Node>>>,
    /// Roots that were published and at which count, by vault.
    published: BTreeMap<VaultId, BTreeMap<u64, Arc<Node>>>,
    /// What does not hold.
    pub problems: Vec<String>,
    /// Backups that were published.
    pub backups: usize,
    /// Answers of level 2.
    pub levels: usize,
    /// Calls that failed, by reason.
    pub failures: BTreeMap<String, usize>,
}

impl Oracle {
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
    pub fn settled(&mut self, user: &User, root: &Arc<Node>, frames: &[FrameId]) {
        self.frames.entry(user.vault).or_default().extend(frames);
        self.settled.entry(user.vault).or_default().insert(root.id, root.clone());
    }

    /// The host said that a record is there.
    pub fn published(&mut self, user: &User, root: &Arc<Node>, count: u64) {
        self.backups += 1;
        let published = self.published.entry(user.vault).or_default();
        if let Some(other) = published.insert(count, root.clone()) {
            self.wrong(format!("{} and {} were both published as {count} of {}", other.id, root.id, user.name));
        }
    }

    /// Frames that the host has said to have of a user.
    pub fn frames_of(&self, user: &User) -> BTreeSet<FrameId> {
        self.frames.get(&user.vault).cloned().unwrap_or_default()
    }

    /// What a user has published.
    pub fn roots_of(&self, user: &User) -> Vec<Arc<Node>> {
        self.published.get(&user.vault).into_iter().flatten().map(|(_, root)| root.clone()).collect()
    }

    /// A user was told level 2: each of these frames is on a machine, unless one that lied or lost its disk said so.
    pub fn check_level(&mut self, world: &World, user: &User, frames: &BTreeSet<FrameId>) {
        let Some(host) = world.host.borrow().clone() else { return };
        for frame in frames {
            if world.pcs.iter().any(|pc| pc.holds(world, frame)) {
                continue;
            }
            let Ok(holders) = host.holders.holders_of(&[*frame]) else { return };
            let excused = world.pcs.iter().filter(|pc| pc.is_excused.get());
            let mut numbers = excused.filter_map(|pc| world.number_of(&host, pc));
            if !numbers.any(|number| holders.iter().flatten().any(|holder| *holder == number)) {
                self.wrong(format!("{} was told level 2, and nobody holds {frame}", user.name));
                return;
            }
        }
    }

    /// The map of holders names only machines that hold what it says.
    pub fn check_map(&mut self, world: &World, host: &Host) {
        for pc in world.pcs.iter().filter(|pc| !pc.is_excused.get()) {
            let Some(number) = world.number_of(host, pc) else { continue };
            let rows = match host.holders.frames_of(number, None, 1 << 20) {
                Ok(rows) => rows,
                // Its power is gone.
                Err(_) => return,
            };
            for (_, frame) in rows {
                if !pc.holds(world, &frame) {
                    self.wrong(format!("the host believes that {} holds {frame}, which it does not", pc.name));
                    return;
                }
            }
        }
    }

    /// Everything that was acknowledged can be read from what a power cut would leave of the host's disk now.
    pub fn check_host(&mut self, world: &World) {
        for user in world.users.borrow().iter() {
            if let Err(problem) = self.check_vault(world, user) {
                self.wrong(format!("{}: {problem}", user.name));
            }
        }
    }

    fn check_vault(&self, world: &World, user: &User) -> Result<(), String> {
        let (files, kv) = world.disk.durable(&user.vault.to_hex());
        let place = Place { files: Arc::new(files), kv_home: Arc::new(kv) };
        let env = world.env("restore", &world.skew);
        let vault = Vault::open(place, env, Unlock::Secret(&user.secret), "restore");
        let vault = vault.map_err(|error| chain(&error))?;
        let reader = vault.reader().map_err(|error| chain(&error))?;
        let mut seen = HashSet::new();
        for root in self.settled.get(&user.vault).into_iter().flat_map(BTreeMap::values) {
            let known = vault.store().known(&[root.id]).map_err(|error| chain(&error))?;
            if known != [true] {
                return Err(format!("{} was settled and is not known", root.id));
            }
            root.verify(&reader, &mut seen)?;
        }
        let records = vault.store().records().map_err(|error| chain(&error))?;
        for (count, root) in self.published.get(&user.vault).into_iter().flatten() {
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
        self.frames.values().flatten()
    }
}
