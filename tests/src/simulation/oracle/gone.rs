//! What became of snapshots that members have forgotten: what must still be there, and what must not.

use super::{Oracle, World};
use crate::lab::chain;
use crate::simulation::world::User;
use crate::weave::Node;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use twinkeep_engine::history::RefState;
use twinkeep_engine::id::{ChunkId, FrameId, VaultId};
use twinkeep_engine::index::{FrameNumber, PackState};
use twinkeep_engine::store::{LocalStore, Store};
use twinkeep_engine::vault::Vault;

impl Oracle {
    /// Roots that were published and that nobody had the right to let go.
    pub(super) fn kept_roots(&self, user: &User) -> impl Iterator<Item = &Arc<Node>> {
        let published = self.acknowledged.published.get(&user.vault).into_iter().flatten();
        published.filter(|(count, _)| !self.fate(user, **count).may_be_gone).map(|(_, root)| root)
    }

    /// The host's own history says what members were told.
    pub(super) fn check_history(&self, user: &User, vault: &Vault) -> Result<(), String> {
        let history = vault.history().map_err(|error| chain(&error))?;
        for count in self.acknowledged.published.get(&user.vault).into_iter().flat_map(BTreeMap::keys) {
            let fate = self.fate(user, *count);
            let Some(entry) = history.refs.get(count) else { return Err(format!("snapshot {count} is not listed")) };
            let is_right = match entry.state {
                RefState::Live => !fate.is_forgotten && !fate.is_gone,
                RefState::Forgotten { .. } => !fate.is_live() && !fate.is_gone,
                RefState::Purged => fate.may_be_gone,
            };
            if !is_right {
                return Err(format!("snapshot {count} is {:?}, and should be {fate:?}", entry.state));
            }
        }
        Ok(())
    }

    /// The host does not remember any more what it removed so far: machines that come may keep that.
    pub fn forget_removed(&mut self, world: &World) {
        let at_host = world.frames_at_host();
        self.unremembered.extend(self.made.keys().filter(|frame| !at_host.contains(frame)));
    }

    /// The first chunk that was let go and is still there, or copy of something that nobody needs.
    pub fn not_gone(&self, world: &World) -> Option<String> {
        let at_host = world.frames_at_host();
        let users = world.users.borrow();
        self.uncounted(world, &at_host)
            .or_else(|| {
                let mut seen = BTreeSet::new();
                users.iter().filter(|user| seen.insert(user.vault)).find_map(|user| {
                    let problem = self.check_gone(world, user).err()?;
                    Some(format!("{} of {}", problem, user.name))
                })
            })
            .or_else(|| {
                let settled: BTreeSet<&FrameId> = self.all_frames().collect();
                let is_vain = |frame: &FrameId| {
                    !at_host.contains(frame) && settled.contains(frame) && !self.unremembered.contains(frame)
                };
                world.pcs.iter().filter(|pc| pc.is_part()).find_map(|pc| {
                    let frame = pc.listed(world).into_iter().find(is_vain)?;
                    Some(format!("{} keeps {frame}, which nobody needs", pc.name))
                })
            })
    }

    /// A machine holds what the host has, and the map of holders does not say so.
    fn uncounted(&self, world: &World, at_host: &BTreeSet<FrameId>) -> Option<String> {
        let host = world.host.borrow().clone()?;
        for pc in world.pcs.iter().filter(|pc| pc.is_part()) {
            let number = world.number_of(&host, pc)?;
            let rows = host.holders.frames_of(number, None, 1 << 20).unwrap_or_default();
            let named: BTreeSet<FrameId> = rows.into_iter().map(|(_, frame)| frame).collect();
            let is_uncounted = |frame: &FrameId| at_host.contains(frame) && !named.contains(frame);
            if let Some(frame) = pc.listed(world).into_iter().find(is_uncounted) {
                return Some(format!("{} holds {frame}, and the host does not count it", pc.name));
            }
        }
        None
    }

    fn check_gone(&self, world: &World, user: &User) -> Result<(), String> {
        let unwanted = self.unwanted(user);
        let (files, kv) = world.disk.durable(&user.vault.to_hex());
        let env = world.env("look", &world.skew);
        let opened = LocalStore::peek(Arc::new(files), Arc::new(kv), env, user.vault, "look".to_owned());
        let store = opened.map_err(|error| chain(&error))?.ok_or("no index")?;
        let ids: Vec<ChunkId> = unwanted.iter().copied().collect();
        let places = store.places(&ids).map_err(|error| chain(&error))?;
        if let Some((id, _)) = ids.iter().zip(places).find(|(_, place)| place.is_some()) {
            return Err(format!("chunk {id} was let go and is still there"));
        }
        self.check_packs(&store, user.vault, &unwanted)
    }

    /// Chunks of snapshots that were let go and that nothing else needs, or may need.
    fn unwanted(&self, user: &User) -> BTreeSet<ChunkId> {
        let below = |roots: Vec<&Arc<Node>>| {
            let mut all = HashMap::new();
            roots.iter().for_each(|root| _ = root.gather(&mut all));
            all.into_keys().collect::<BTreeSet<ChunkId>>()
        };
        let published = || self.acknowledged.published.get(&user.vault).into_iter().flatten();
        let is_gone = |count: &u64| self.fate(user, *count).is_gone;
        let gone = below(published().filter(|(count, _)| is_gone(count)).map(|(_, root)| root).collect());
        let mut others: Vec<_> = published().filter(|(count, _)| !is_gone(count)).map(|(_, root)| root).collect();
        let unheard = self.acknowledged.publishing.get(&user.vault);
        let settled = self.acknowledged.settled.get(&user.vault).into_iter().flat_map(BTreeMap::values);
        others.extend(settled.filter(|root| unheard.is_some_and(|unheard| unheard.contains(&root.id))));
        let others = below(others);
        gone.into_iter().filter(|id| !others.contains(id)).collect()
    }

    /// No pack is left of which nothing is needed.
    fn check_packs(&self, store: &LocalStore, vault: VaultId, unwanted: &BTreeSet<ChunkId>) -> Result<(), String> {
        let told = |error: twinkeep_engine::store::StoreError| chain(&error);
        let mut packs: BTreeMap<_, bool> = BTreeMap::new();
        for (_, place) in store.frame_rows(FrameNumber(0), usize::MAX).map_err(told)? {
            let chunks = self.made.get(&place.id).map_or(&[][..], Vec::as_slice);
            let is_needed = chunks.is_empty() || chunks.iter().any(|id| !unwanted.contains(id));
            *packs.entry(place.pack).or_default() |= is_needed;
        }
        for (number, row) in store.pack_rows().map_err(told)? {
            if row.state == PackState::Closed && packs.get(&number) == Some(&false) {
                return Err(format!("pack {} of {vault} holds nothing that is needed", row.name.file_name()));
            }
        }
        Ok(())
    }
}
