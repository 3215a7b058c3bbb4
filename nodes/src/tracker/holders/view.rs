//! What the map of holders answers. Each answer is one short read of the last commit, bounded in rows.

use super::rows::{
    FRAMES, FrameRow, HELD, HOLDERS, Inventory, MACHINES, META, NUMBERS, OWED, OWED_BY_VAULT, Parts, VaultNumber,
    VaultRow, damaged, held_key, holder_key, number_in_owed_key, read_held_key, read_holder_key, round_prefix,
};
use super::{Holders, MachineNumber, Result, TrackedNumber, Why};
use crate::tracker::limits::{FRAMES_PER_CHANGE_MAX, ROWS_PER_ANSWER_MAX};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;
use twinkeep_engine::id::{FrameId, Kind, VaultId};
use twinkeep_engine::kv::{self, KvError, Read, Table};

/// Where a walk through what is owed stands. Good for as long as the map is open, whatever changes meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OwedCursor([u8; 9]);

/// A frame that has fewer holders than it should.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owed {
    /// Where to go on after it.
    pub cursor: OwedCursor,
    /// Vault that needs it.
    pub vault: VaultId,
    /// Its name.
    pub id: FrameId,
    /// Its number in the vault's index, as last entered.
    pub number_in_index: u64,
    /// Its length, bytes.
    pub len: u32,
    /// Leaves or branches.
    pub kind: Kind,
    /// The machine whose session wrote it.
    pub writer: Option<MachineNumber>,
    /// Who holds it besides the host.
    pub holders: Vec<MachineNumber>,
    /// Why it is owed.
    pub why: Why,
    /// The writer's machine is to hold no copy of it.
    pub spread: bool,
}

/// Frames with their vaults, and where to look on.
pub type Missing = (Vec<(VaultId, FrameId)>, Option<TrackedNumber>);

/// A frame that a machine holds, with what a copy of it elsewhere needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Where to go on after it.
    pub number: TrackedNumber,
    /// Vault that needs it.
    pub vault: VaultId,
    /// Its name.
    pub id: FrameId,
    /// Its number in the vault's index, as last entered.
    pub number_in_index: u64,
    /// Its length, bytes.
    pub len: u32,
    /// The machine whose session wrote it, where that is to hold no copy of it.
    pub not_at: Option<MachineNumber>,
    /// Who holds it besides the host.
    pub holders: Vec<MachineNumber>,
}

/// What is owed of one vault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VaultCount {
    /// The vault.
    pub vault: VaultId,
    /// Owed frames.
    pub frames: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// What one machine holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineCount {
    /// The machine.
    pub machine: MachineNumber,
    /// Frames it holds.
    pub frames: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// What is owed and what is held.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct OwedCounts {
    /// Each vault that was ever entered.
    pub vaults: Vec<VaultCount>,
    /// Each machine that holds anything.
    pub machines: Vec<MachineCount>,
}

impl Holders {
    /// Frames of the vault's index below this number are entered.
    pub fn watermark(&self, vault: VaultId) -> Result<u64> {
        let read = self.kv.read()?;
        Ok(vault_if_any(&*read, vault)?.map_or(0, |(_, row)| row.watermark))
    }

    /// Who holds each of these frames besides the host, ascending; nobody when it was never entered.
    pub fn holders_of(&self, ids: &[FrameId]) -> Result<Vec<Vec<MachineNumber>>> {
        super::expect_few(ids.len())?;
        let read = self.kv.read()?;
        let of = |id| number(&*read, id)?.map_or(Ok(Vec::new()), |number| holders(&*read, number));
        Ok(ids.iter().map(of).collect::<kv::Result<_>>()?)
    }

    /// Up to `count` frames that the machine holds, in the order in which they were entered, from the one after `after`.
    /// An answer may be shorter; only an empty one is the end.
    pub fn frames_of(
        &self,
        machine: MachineNumber,
        after: Option<TrackedNumber>,
        count: usize,
    ) -> Result<Vec<(TrackedNumber, FrameId)>> {
        let read = self.kv.read()?;
        let numbers = held(&*read, machine, after, count.min(ROWS_PER_ANSWER_MAX))?;
        let named = numbers.into_iter().map(|number| Ok((number, frame(&*read, number)?.id)));
        Ok(named.collect::<kv::Result<_>>()?)
    }

    /// What [`Self::frames_of`] names, with what a copy elsewhere needs.
    pub fn held_by(&self, machine: MachineNumber, after: Option<TrackedNumber>, count: usize) -> Result<Vec<Held>> {
        let read = self.kv.read()?;
        let numbers = held(&*read, machine, after, count.min(FRAMES_PER_CHANGE_MAX))?;
        let whole = |number| {
            let row = frame(&*read, number)?;
            let vault = vault(&*read, row.vault)?.id;
            let FrameRow { id, number_in_index, len, spread, writer, .. } = row;
            let not_at = writer.filter(|_| spread);
            Ok(Held { number, vault, id, number_in_index, len, not_at, holders: holders(&*read, number)? })
        };
        Ok(numbers.into_iter().map(whole).collect::<kv::Result<_>>()?)
    }

    /// Up to `count` owed frames, most urgent first: those with the fewest copies, branches before leaves, then as they
    /// were entered. An answer may be shorter; only an empty one is the end.
    pub fn owed(&self, after: Option<OwedCursor>, count: usize) -> Result<Vec<Owed>> {
        let read = self.kv.read()?;
        let mut vaults = BTreeMap::new();
        let mut owed = Vec::new();
        for cursor in owed_keys(&*read, after, count.min(FRAMES_PER_CHANGE_MAX))? {
            let [_, number @ ..] = cursor.0;
            let number = TrackedNumber(u64::from_be_bytes(number));
            let row = frame(&*read, number)?;
            let vault = match vaults.get(&row.vault) {
                Some(&id) => id,
                None => vault(&*read, row.vault)?.id,
            };
            vaults.insert(row.vault, vault);
            let FrameRow { id, number_in_index, len, kind, writer, why, spread, .. } = row;
            let holders = holders(&*read, number)?;
            owed.push(Owed { cursor, vault, id, number_in_index, len, kind, writer, holders, why, spread });
        }
        Ok(owed)
    }

    /// How much is owed of each vault and held by each machine.
    pub fn owed_counts(&self) -> Result<OwedCounts> {
        let read = self.kv.read()?;
        let mut counts = OwedCounts::default();
        scan(&*read, META, VAULT_ROW, |key, value| {
            if !key.starts_with(VAULT_ROW) {
                return Ok(false);
            }
            let row = VaultRow::decode(value)?;
            counts.vaults.push(VaultCount { vault: row.id, frames: row.owed_frames, bytes: row.owed_bytes });
            Ok(true)
        })?;
        scan(&*read, MACHINES, &[], |key, value| {
            let mut parts = Parts::new(key, "a machine");
            let machine = MachineNumber(u32::from_be_bytes(parts.take()?));
            let Inventory { frames, bytes, .. } = Inventory::decode(value)?;
            counts.machines.push(parts.end(MachineCount { machine, frames, bytes })?);
            Ok(true)
        })?;
        Ok(counts)
    }

    /// Whether a frame of the vault with this number in its index or a lower one is owed, as far as anybody can tell: what
    /// is not entered yet counts as owed.
    pub fn is_owed_below(&self, vault: VaultId, number_in_index: u64) -> Result<bool> {
        let read = self.kv.read()?;
        let Some((vault, row)) = vault_if_any(&*read, vault)? else { return Ok(true) };
        if row.watermark <= number_in_index {
            return Ok(true);
        }
        let prefix = round_prefix(vault, row.round);
        let mut lowest = None;
        scan(&*read, OWED_BY_VAULT, &prefix, |key, _| {
            lowest = number_in_owed_key(key, prefix)?;
            Ok(false)
        })?;
        Ok(lowest.is_some_and(|lowest| lowest <= number_in_index))
    }

    /// Frames that the index of their vault, built anew and entered up to the watermark, did not name again, looking at up
    /// to `count` frames from the one after `after`; with where to go on, `None` at the end. That it does not name them
    /// is no reason to remove them: somebody may hold what the host lost.
    pub fn not_entered_again(&self, after: Option<TrackedNumber>, count: usize) -> Result<Missing> {
        let read = self.kv.read()?;
        let Some(from) = after.map_or(Some(0), |after| after.0.checked_add(1)) else { return Ok((Vec::new(), None)) };
        let (mut ids, mut last, mut seen) = (Vec::new(), None, 0);
        let mut vaults = BTreeMap::new();
        scan(&*read, FRAMES, &from.to_be_bytes(), |key, value| {
            if seen == count.clamp(1, ROWS_PER_ANSWER_MAX) {
                return Ok(false);
            }
            let row = FrameRow::decode(value)?;
            let of = match vaults.entry(row.vault) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(vault(&*read, row.vault)?),
            };
            if row.round != of.round {
                ids.push((of.id, row.id));
            }
            seen += 1;
            last = Some(TrackedNumber(u64::from_be_bytes(key.try_into().map_err(|_| damaged("a number"))?)));
            Ok(true)
        })?;
        Ok((ids, last))
    }

    /// Of these frames those of which [`Holders::not_entered_again`] would tell.
    pub fn are_not_entered_again(&self, ids: &[FrameId]) -> Result<Vec<FrameId>> {
        let read = self.kv.read()?;
        let mut found = Vec::new();
        for id in ids {
            let Some(number) = number(&*read, id)? else { continue };
            let row = frame(&*read, number)?;
            if row.round != vault(&*read, row.vault)?.round {
                found.push(*id);
            }
        }
        Ok(found)
    }

    /// What the machine should hold by this map; its own store says what it does.
    pub fn inventory(&self, machine: MachineNumber) -> Result<Inventory> {
        Ok(inventory(&*self.kv.read()?, machine)?)
    }
}

const VAULT_ROW: &[u8] = b"number ";

pub(super) fn vault_row_key(number: VaultNumber) -> Vec<u8> {
    [VAULT_ROW, &number.0.to_be_bytes()].concat()
}

pub(super) fn vault_key(id: VaultId) -> Vec<u8> {
    [b"vault ", &id.0[..]].concat()
}

pub(super) fn number(read: &dyn Read, id: &FrameId) -> kv::Result<Option<TrackedNumber>> {
    let Some(bytes) = read.get(NUMBERS, &id.0)? else { return Ok(None) };
    Ok(Some(TrackedNumber(u64::from_le_bytes(bytes.try_into().map_err(|_| damaged("a number"))?))))
}

pub(super) fn frame(read: &dyn Read, number: TrackedNumber) -> kv::Result<FrameRow> {
    match read.get(FRAMES, &number.0.to_be_bytes())? {
        Some(row) => FrameRow::decode(row),
        None => Err(KvError::Damaged(format!("tracked frame {} has no row", number.0))),
    }
}

pub(super) fn holders(read: &dyn Read, number: TrackedNumber) -> kv::Result<Vec<MachineNumber>> {
    let mut holders = Vec::new();
    scan(read, HOLDERS, &holder_key(number, MachineNumber(0)), |key, _| {
        let (of, machine) = read_holder_key(key)?;
        if of == number {
            holders.push(machine);
        }
        Ok(of == number)
    })?;
    Ok(holders)
}

/// Up to `count` frames that the machine holds after `after`.
pub(super) fn held(
    read: &dyn Read,
    machine: MachineNumber,
    after: Option<TrackedNumber>,
    count: usize,
) -> kv::Result<Vec<TrackedNumber>> {
    let mut numbers = Vec::new();
    let Some(from) = after.map_or(Some(0), |after| after.0.checked_add(1)) else { return Ok(numbers) };
    scan(read, HELD, &held_key(machine, TrackedNumber(from)), |key, _| {
        let (by, number) = read_held_key(key)?;
        if by != machine || numbers.len() >= count {
            return Ok(false);
        }
        numbers.push(number);
        Ok(true)
    })?;
    Ok(numbers)
}

fn owed_keys(read: &dyn Read, after: Option<OwedCursor>, count: usize) -> kv::Result<Vec<OwedCursor>> {
    // The least key above it.
    let from = after.map_or(Vec::new(), |OwedCursor(key)| [&key[..], &[0]].concat());
    let mut keys = Vec::new();
    scan(read, OWED, &from, |key, _| {
        if keys.len() >= count {
            return Ok(false);
        }
        keys.push(OwedCursor(key.try_into().map_err(|_| damaged("an owed entry"))?));
        Ok(true)
    })?;
    Ok(keys)
}

pub(super) fn vault_number(read: &dyn Read, id: VaultId) -> kv::Result<Option<VaultNumber>> {
    Ok(super::meta_u32(read, &vault_key(id))?.map(VaultNumber))
}

pub(super) fn vault(read: &dyn Read, number: VaultNumber) -> kv::Result<VaultRow> {
    let row = read.get(META, &vault_row_key(number))?.ok_or_else(|| damaged("a row of a vault"))?;
    VaultRow::decode(row)
}

fn vault_if_any(read: &dyn Read, id: VaultId) -> kv::Result<Option<(VaultNumber, VaultRow)>> {
    let Some(number) = vault_number(read, id)? else { return Ok(None) };
    Ok(Some((number, vault(read, number)?)))
}

pub(super) fn inventory(read: &dyn Read, machine: MachineNumber) -> kv::Result<Inventory> {
    read.get(MACHINES, &machine.0.to_be_bytes())?.map_or(Ok(Inventory::default()), Inventory::decode)
}

fn scan(
    read: &dyn Read,
    table: Table,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> kv::Result<bool>,
) -> kv::Result<()> {
    let mut outcome = Ok(());
    read.scan(table, from, &mut |key, value| match visit(key, value) {
        Ok(true) => ControlFlow::Continue(()),
        Ok(false) => ControlFlow::Break(()),
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    })?;
    outcome
}
