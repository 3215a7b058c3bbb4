//! Repair of the index: it is built anew from the packs, and keeps as suspects what the old one knew and the packs do
//! not show. The old one stays beside it as `index.broken-N`.

use super::{Outcome, Result};
use crate::env::Env;
use crate::history::{self, History};
use crate::index::ChunkState;
use crate::store::{Fault, LocalStore, Store};
use crate::vault::{Place, Unlock, Vault};
use std::time::Duration;

/// How many rows an index has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    /// Chunks that can be relied on, with all below them.
    pub whole: u64,
    /// Branches below which something is missing.
    pub unwhole: u64,
    /// Chunks that have only a bad place.
    pub suspects: u64,
}

/// What a repair of the index found and did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct IndexRepair {
    /// Rows of the index there was; none where it could not be read.
    pub before: Option<Rows>,
    /// Rows of the new one.
    pub after: Rows,
    /// What is wrong in the packs.
    pub faults: Vec<Fault>,
    /// What was noticed, and mended, while the vault was opened.
    pub notes: Vec<String>,
    /// Snapshots that still lack something.
    pub unwhole: u64,
    /// How long it took.
    pub duration: Duration,
}

impl IndexRepair {
    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        Outcome::of(self.before != Some(self.after) || !self.notes.is_empty(), self.unwhole > 0)
    }
}

/// Builds the index of a vault anew, which nobody else may have open for writing.
///
/// # Errors
/// [`StoreError::Busy`](crate::store::StoreError::Busy) while somebody writes to the vault.
pub fn repair_index(place: Place, env: Env, unlock: Unlock<'_>, owner: &str) -> Result<(Vault, IndexRepair)> {
    let begun = env.clock.elapsed();
    let before = rows_before(&place, &env, owner)?;
    let (vault, faults) = Vault::open_rebuilt(place, env, unlock, owner)?;
    let report = IndexRepair {
        before,
        after: rows(vault.local()?)?,
        faults,
        notes: vault.notes().to_vec(),
        unwhole: vault.unwhole_snapshots()?,
        duration: vault.env().clock.elapsed().saturating_sub(begun),
    };
    Ok((vault, report))
}

impl IndexRepair {
    /// What a repair would find: the index is built in memory, about 150 bytes a chunk. Needs no keys.
    pub fn dry_run(place: &Place, env: Env, owner: &str) -> Result<Self> {
        let begun = env.clock.elapsed();
        let before = rows_before(place, &env, owner)?;
        let (store, faults) = Vault::rebuild_aside(place.clone(), env.clone(), owner)?;
        let after = rows(&store)?;
        let roots: Vec<_> =
            History::read(&store, 0, &mut history::unkeyed)?.live().map(|entry| entry.reference.target).collect();
        let unwhole = store.known(&roots)?.iter().filter(|known| !**known).count() as u64;
        let duration = env.clock.elapsed().saturating_sub(begun);
        Ok(Self { before, after, faults, unwhole, duration, notes: Vec::new() })
    }
}

/// Rows of the index there is; `None` where there is none that can be read. The map is closed again.
fn rows_before(place: &Place, env: &Env, owner: &str) -> Result<Option<Rows>> {
    match Vault::peek_store(place.clone(), env.clone(), owner)? {
        Some(store) if store.verify_index().is_ok() => Ok(rows(&store).ok()),
        _ => Ok(None),
    }
}

fn rows(store: &LocalStore) -> Result<Rows> {
    let mut rows = Rows::default();
    store.visit_chunk_rows(&mut |_, row| {
        match row.state {
            ChunkState::Admitted | ChunkState::Leaning => rows.whole += 1,
            ChunkState::Unwhole => rows.unwhole += 1,
            ChunkState::Suspect => rows.suspects += 1,
        }
        true
    })?;
    Ok(rows)
}
