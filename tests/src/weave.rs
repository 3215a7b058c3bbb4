//! Writers at the level of sessions: what a backup does with a store, step by step and without a source, so that many
//! can be under way at once on one thread and each can stop, or die, at any step.

use crate::lab::{self, chain};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use twinkeep_engine::branch::Branches;
use twinkeep_engine::crypto::{DataKey, Salts, VaultKeys, wrap};
use twinkeep_engine::env::{Dice, Entropy};
use twinkeep_engine::frame::{FrameBuilder, SealKeys, Sealer};
use twinkeep_engine::id::{ChunkId, Kind};
use twinkeep_engine::record::{Level, Record, RecordKind, RefKind, RefRecord};
use twinkeep_engine::store::{Claim, Session, StoreError};
use twinkeep_engine::vault::{ChunkReader, Vault};

/// A leaf or a branch, with all below it.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub id: ChunkId,
    /// What it says besides its references.
    pub payload: Vec<u8>,
    /// What it refers to; none for a leaf.
    pub children: Option<Vec<Arc<Node>>>,
}

impl Node {
    /// A leaf.
    pub fn leaf(keys: &VaultKeys, payload: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { id: keys.leaf_id(&payload), payload, children: None })
    }

    /// A branch above these.
    pub fn branch(keys: &VaultKeys, payload: Vec<u8>, children: Vec<Arc<Self>>) -> Arc<Self> {
        let refs: Vec<ChunkId> = children.iter().map(|child| child.id).collect();
        Arc::new(Self { id: keys.branch_id(&refs, &payload), payload, children: Some(children) })
    }

    /// A tree over few different leaves, so that any two trees share much.
    pub fn random(keys: &VaultKeys, dice: &mut Dice, alphabet: usize, height: usize) -> Arc<Self> {
        if height == 0 {
            let letter = dice.below(alphabet);
            let mut content = vec![0; 150 + 40 * (letter % 7)];
            Dice(letter as u64).fill(&mut content);
            return Self::leaf(keys, content);
        }
        let children = (0..1 + dice.below(3)).map(|_| {
            let lower = if dice.one_in(4) { dice.below(height) } else { height - 1 };
            Self::random(keys, dice, alphabet, lower)
        });
        let children = children.collect();
        Self::branch(keys, vec![height as u8, dice.below(2) as u8], children)
    }

    /// All nodes of a tree by name, with their height.
    pub fn gather(self: &Arc<Self>, found: &mut HashMap<ChunkId, (Arc<Self>, usize)>) -> usize {
        if let Some((_, height)) = found.get(&self.id) {
            return *height;
        }
        let below = self.children.iter().flatten().map(|child| child.gather(found) + 1).max().unwrap_or(0);
        found.insert(self.id, (self.clone(), below));
        below
    }

    /// Reads the tree and compares every byte.
    pub fn verify(&self, reader: &ChunkReader, seen: &mut HashSet<ChunkId>) -> Result<(), String> {
        if !seen.insert(self.id) {
            return Ok(());
        }
        let Some(children) = &self.children else {
            let bytes = reader.leaf(&self.id).map_err(|error| format!("leaf {}: {}", self.id, chain(&error)))?;
            return if bytes == self.payload { Ok(()) } else { Err(format!("leaf {} differs", self.id)) };
        };
        let (refs, payload) =
            reader.branch(&self.id).map_err(|error| format!("branch {}: {}", self.id, chain(&error)))?;
        if payload != self.payload || !refs.iter().eq(children.iter().map(|child| &child.id)) {
            return Err(format!("branch {} differs", self.id));
        }
        children.iter().try_for_each(|child| child.verify(reader, seen))
    }
}

enum Todo {
    Visit(Arc<Node>),
    /// What is below it is done: whoever puts it is asked now.
    Claim(Arc<Node>),
    /// It is ours to put, and what is below it is done.
    Put(Arc<Node>),
}

/// Where a writer stands after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stand {
    /// There is more to do.
    Going,
    /// Its snapshot is published.
    Published,
}

/// A run that stores one tree.
pub struct Writer {
    vault: Vault,
    session: Box<dyn Session>,
    sealer: Sealer,
    leaves: FrameBuilder,
    branches: FrameBuilder,
    waiting: usize,
    per_frame: usize,
    /// Whether a branch is claimed before what is below it is looked at.
    top_down: bool,
    root: Arc<Node>,
    todo: Vec<Todo>,
    settles: usize,
}

impl Writer {
    /// Begins a session, as a process of its own would.
    pub fn begin(vault: Vault, root: Arc<Node>, dice: &mut Dice) -> Result<Self, String> {
        let session = vault.store().begin().map_err(|error| format!("begin: {}", chain(&error)))?;
        let sealer = sealer(&vault, &*session).map_err(|error| chain(&error))?;
        Ok(Self {
            session,
            sealer,
            leaves: FrameBuilder::new(Kind::Leaf),
            branches: FrameBuilder::new(Kind::Branch),
            waiting: 0,
            per_frame: 1 + dice.below(5),
            top_down: dice.one_in(2),
            todo: vec![Todo::Visit(root.clone())],
            root,
            settles: 0,
            vault,
        })
    }

    /// Asks for a branch before it looks at what is below it, as whoever knows the branch from before.
    pub fn from_the_top(self) -> Self {
        Self { top_down: true, ..self }
    }

    /// What it stores.
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// Makes what was put so far known.
    pub fn checkpoint(&mut self) -> Result<(), String> {
        self.flush()?;
        self.session.checkpoint().map_err(|error| format!("checkpoint: {}", chain(&error)))
    }

    /// Goes on until its snapshot is published.
    pub fn finish(&mut self) -> Result<(), String> {
        while self.step()? == Stand::Going {}
        Ok(())
    }

    /// Puts everything and stops before it settles.
    pub fn put_all(&mut self) -> Result<(), String> {
        while !self.todo.is_empty() {
            self.step()?;
        }
        Ok(())
    }

    /// Does one thing.
    pub fn step(&mut self) -> Result<Stand, String> {
        match self.todo.pop() {
            None => return self.settle(),
            Some(Todo::Put(node)) => self.put(&node)?,
            Some(Todo::Claim(node)) => {
                if self.claim(&node)? == Claim::Mine {
                    self.put(&node)?;
                }
            }
            Some(Todo::Visit(node)) => {
                let children = || node.children.iter().flatten().rev().cloned().map(Todo::Visit);
                match (self.top_down, node.children.is_some()) {
                    (true, true) => {
                        if self.claim(&node)? == Claim::Mine {
                            self.todo.push(Todo::Put(node.clone()));
                            self.todo.extend(children());
                        }
                    }
                    _ => {
                        self.todo.push(Todo::Claim(node.clone()));
                        self.todo.extend(children());
                    }
                }
            }
        }
        Ok(Stand::Going)
    }

    fn claim(&self, node: &Node) -> Result<Claim, String> {
        let claims = self.session.claim(&[node.id]).map_err(|error| format!("claim: {}", chain(&error)))?;
        claims.first().copied().ok_or_else(|| "no claim".to_owned())
    }

    /// Puts one chunk, whoever it is for.
    pub fn put(&mut self, node: &Node) -> Result<(), String> {
        match &node.children {
            None => self.leaves.push(node.id, &[], &node.payload),
            Some(children) => {
                let refs: Vec<ChunkId> = children.iter().map(|child| child.id).collect();
                self.branches.push(node.id, &refs, &node.payload);
            }
        }
        self.waiting += 1;
        if self.waiting >= self.per_frame { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), String> {
        self.waiting = 0;
        for builder in [&mut self.leaves, &mut self.branches] {
            if !builder.is_empty() {
                let frame = self.sealer.seal(builder);
                self.session.put(frame).map_err(|error| format!("put: {}", chain(&error)))?;
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<Stand, String> {
        self.flush()?;
        self.settles += 1;
        match self.session.settle(self.root.id) {
            Ok(settled) => {
                let now = self.vault.env().clock.now();
                let reference = RefRecord {
                    kind: RefKind::Snapshot,
                    target: settled.root(),
                    session: self.session.id(),
                    level: Level::P0,
                    session_started: now,
                    device: None,
                };
                let (payload, keys) = (reference.encode(), self.vault.keys().clone());
                let make = |link: twinkeep_engine::store::ChainLink| {
                    let (vault, count, previous) = (keys.vault(), link.count, link.previous);
                    let kind = RecordKind::Ref;
                    let record = Record { kind, vault, count, received: now, previous, payload: payload.clone() };
                    record.encode(&|bytes| keys.record_mac(bytes))
                };
                self.session.publish(settled, &make).map_err(|error| format!("publish: {}", chain(&error)))?;
                Ok(Stand::Published)
            }
            Err(StoreError::Missing(_)) if self.settles > 20 => Err("it never settles".to_owned()),
            Err(StoreError::Missing(missing)) => {
                let mut all = HashMap::new();
                self.root.gather(&mut all);
                let mut again: Vec<_> = missing.iter().filter_map(|id| all.get(id)).collect();
                if again.len() < missing.len() {
                    return Err("something is missing that is not below the root".to_owned());
                }
                // The lowest comes first, that is, stands last.
                again.sort_by_key(|(_, height)| std::cmp::Reverse(*height));
                self.todo.extend(again.into_iter().map(|(node, _)| Todo::Claim(node.clone())));
                Ok(Stand::Going)
            }
            Err(error) => Err(format!("settle: {}", chain(&error))),
        }
    }
}

fn sealer(vault: &Vault, session: &dyn Session) -> std::io::Result<Sealer> {
    let entropy = vault.env().entropy.clone();
    let data_key = DataKey::random(&*entropy as &dyn Entropy);
    let (generation, public) = vault.keys().newest();
    let keys = SealKeys {
        suite: vault.config().suite,
        wrapped: wrap::wrap(public, &data_key, &vault.id(), &*entropy),
        data_key: Arc::new(data_key),
        generation,
        vault: vault.id(),
        session: session.id(),
    };
    Sealer::new(keys, Salts::new(entropy), 1)
}

/// What counts as firm has everything below it, and that is firm too.
pub fn closed(vault: &Vault) -> Result<(), String> {
    let mut rows = Vec::new();
    vault
        .local()
        .unwrap()
        .visit_chunk_rows(&mut |id, row| {
            rows.push((id, row));
            true
        })
        .map_err(|error| chain(&error))?;
    let ids: Vec<ChunkId> = rows.iter().map(|(id, _)| *id).collect();
    let firm = vault.store().known(&ids).map_err(|error| chain(&error))?;
    let reader = vault.reader().map_err(|error| chain(&error))?;
    for (_, (id, row)) in firm.iter().zip(&rows).filter(|(firm, _)| **firm) {
        let place =
            vault.local().unwrap().frame_row(row.frame).map_err(|error| format!("chunk {id}: {}", chain(&error)))?;
        if place.kind == Kind::Leaf {
            continue;
        }
        let (refs, _) = reader.branch(id).map_err(|error| format!("branch {id}: {}", chain(&error)))?;
        let known = vault.store().known(&refs).map_err(|error| chain(&error))?;
        if let Some(at) = known.iter().position(|known| !known) {
            return Err(format!("branch {id} is firm and {} below it is not", refs[at]));
        }
    }
    Ok(())
}

/// A vault whose trees are made of `Node`s.
pub fn create(place: twinkeep_engine::vault::Place, seed: u64) -> Result<Arc<VaultKeys>, String> {
    let vault = lab::create(place, lab::env(seed)).map_err(|error| chain(&error))?;
    Ok(vault.keys().clone())
}
