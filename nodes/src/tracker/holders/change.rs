//! One write transaction on the map of holders. All that depends on a frame's row and its holders goes through
//! [`Change::replace`], so owed entries, counts and inventories cannot drift from them.

use super::rows::{
    FRAMES, FrameRow, HELD, HOLDERS, Inventory, MACHINES, META, NUMBERS, OWED, OWED_BY_VAULT, VaultNumber, VaultRow,
    damaged, held_key, holder_key,
};
use super::{HoldersError, MachineNumber, TrackedNumber, Why, meta_u32, view};
use crate::tracker::limits::VAULTS_MAX;
use std::collections::BTreeMap;
use twinkeep_engine::id::{FrameId, VaultId};
use twinkeep_engine::kv::{self, Kv, Read, Write};

/// A frame with who holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tracked {
    pub row: FrameRow,
    /// Ascending, each once.
    pub holders: Vec<MachineNumber>,
}

impl Tracked {
    pub(super) fn drop_holder(&mut self, machine: MachineNumber, why: Why) {
        if let Ok(at) = self.holders.binary_search(&machine) {
            self.holders.remove(at);
            self.row.why = why;
        }
    }
}

/// A write transaction. Counts are held in memory and written once, at the commit.
pub(super) struct Change<'a> {
    write: Box<dyn Write + 'a>,
    copies_wanted: usize,
    next: u64,
    vaults: BTreeMap<VaultNumber, VaultRow>,
    machines: BTreeMap<MachineNumber, Inventory>,
}

impl<'a> Change<'a> {
    pub(super) fn begin(kv: &'a dyn Kv, copies_wanted: usize) -> kv::Result<Self> {
        let write = kv.write()?;
        let next = match write.get(META, b"next")? {
            Some(bytes) => u64::from_le_bytes(bytes.try_into().map_err(|_| damaged("the next number"))?),
            None => 0,
        };
        Ok(Self { write, copies_wanted, next, vaults: BTreeMap::new(), machines: BTreeMap::new() })
    }

    pub(super) fn read(&self) -> &dyn Read {
        &*self.write
    }

    pub(super) fn next_number(&mut self) -> kv::Result<TrackedNumber> {
        let number = self.next;
        self.next = number.checked_add(1).ok_or_else(|| damaged("the next number"))?;
        Ok(TrackedNumber(number))
    }

    pub(super) fn number(&self, id: &FrameId) -> kv::Result<Option<TrackedNumber>> {
        view::number(&*self.write, id)
    }

    /// Sorted by id, for the sake of the table.
    pub(super) fn put_numbers(&mut self, numbers: &BTreeMap<FrameId, TrackedNumber>) -> kv::Result<()> {
        for (id, number) in numbers {
            self.write.put(NUMBERS, &id.0, &number.0.to_le_bytes())?;
        }
        Ok(())
    }

    pub(super) fn put_meta(&mut self, key: &[u8], value: &[u8]) -> kv::Result<()> {
        self.write.put(META, key, value)
    }

    pub(super) fn delete_meta(&mut self, key: &[u8]) -> kv::Result<()> {
        self.write.delete(META, key).map(drop)
    }

    pub(super) fn delete_number(&mut self, id: &FrameId) -> kv::Result<()> {
        self.write.delete(NUMBERS, &id.0).map(drop)
    }

    pub(super) fn tracked(&self, number: TrackedNumber) -> kv::Result<Tracked> {
        Ok(Tracked { row: view::frame(&*self.write, number)?, holders: view::holders(&*self.write, number)? })
    }

    /// The number of a vault, which may be new.
    pub(super) fn vault_number(&mut self, id: VaultId) -> Result<VaultNumber, HoldersError> {
        if let Some(number) = view::vault_number(&*self.write, id)? {
            return Ok(number);
        }
        let number = meta_u32(&*self.write, b"vaults")?.unwrap_or(0);
        if number >= VAULTS_MAX {
            return Err(HoldersError::TooManyVaults);
        }
        self.write.put(META, b"vaults", &(number + 1).to_le_bytes())?;
        self.write.put(META, &view::vault_key(id), &number.to_le_bytes())?;
        let number = VaultNumber(number);
        self.vaults.insert(number, VaultRow { id, watermark: 0, round: 0, owed_frames: 0, owed_bytes: 0 });
        Ok(number)
    }

    pub(super) fn vault(&mut self, number: VaultNumber) -> kv::Result<&mut VaultRow> {
        if !self.vaults.contains_key(&number) {
            self.vaults.insert(number, view::vault(&*self.write, number)?);
        }
        self.vaults.get_mut(&number).ok_or_else(|| damaged("a row of a vault"))
    }

    pub(super) fn machine(&mut self, machine: MachineNumber) -> kv::Result<&mut Inventory> {
        if !self.machines.contains_key(&machine) {
            self.machines.insert(machine, view::inventory(&*self.write, machine)?);
        }
        self.machines.get_mut(&machine).ok_or_else(|| damaged("an inventory"))
    }

    /// Puts `new` where `old` stood, with everything that follows from it.
    pub(super) fn replace(
        &mut self,
        number: TrackedNumber,
        old: Option<&Tracked>,
        new: Option<&Tracked>,
    ) -> kv::Result<()> {
        if old == new {
            return Ok(());
        }
        if old.map(|old| &old.row) != new.map(|new| &new.row) {
            match new {
                Some(new) => self.write.put(FRAMES, &number.0.to_be_bytes(), &new.row.encode())?,
                None => self.write.delete(FRAMES, &number.0.to_be_bytes()).map(drop)?,
            }
        }
        self.replace_owed(number, old, new)?;
        self.replace_holders(number, old, new)
    }

    fn replace_owed(&mut self, number: TrackedNumber, old: Option<&Tracked>, new: Option<&Tracked>) -> kv::Result<()> {
        let wanted = self.copies_wanted;
        let owed = |tracked: &&Tracked| tracked.holders.len() < wanted;
        let keys = |tracked: &Tracked| {
            (tracked.row.owed_key(number, tracked.holders.len()), tracked.row.owed_in_vault_key(number))
        };
        if twinkeep_engine::zoo::planted("lost-holder-not-owed") && old.is_some_and(|old| !owed(&old)) {
            return Ok(());
        }
        let (old, new) = (old.filter(owed), new.filter(owed));
        if old.map(keys) == new.map(keys) {
            return Ok(());
        }
        if let Some(old) = old {
            let (by_urgency, by_vault) = keys(old);
            if !(self.write.delete(OWED, &by_urgency)? && self.write.delete(OWED_BY_VAULT, &by_vault)?) {
                return Err(damaged("an owed entry"));
            }
            let len = u64::from(old.row.len);
            let vault = self.vault(old.row.vault)?;
            vault.owed_frames = vault.owed_frames.checked_sub(1).ok_or_else(|| damaged("a count"))?;
            vault.owed_bytes = vault.owed_bytes.checked_sub(len).ok_or_else(|| damaged("a count"))?;
        }
        if let Some(new) = new {
            let (by_urgency, by_vault) = keys(new);
            self.write.put(OWED, &by_urgency, &[])?;
            self.write.put(OWED_BY_VAULT, &by_vault, &[])?;
            let vault = self.vault(new.row.vault)?;
            vault.owed_frames += 1;
            vault.owed_bytes += u64::from(new.row.len);
        }
        Ok(())
    }

    fn replace_holders(
        &mut self,
        number: TrackedNumber,
        old: Option<&Tracked>,
        new: Option<&Tracked>,
    ) -> kv::Result<()> {
        let (before, after) = (holders_of(old), holders_of(new));
        for &machine in before.iter().filter(|machine| !after.contains(machine)) {
            self.write.delete(HOLDERS, &holder_key(number, machine))?;
            self.write.delete(HELD, &held_key(machine, number))?;
            if let Some(Tracked { row, .. }) = old {
                let inventory = self.machine(machine)?;
                inventory.frames = inventory.frames.checked_sub(1).ok_or_else(|| damaged("a count"))?;
                inventory.bytes = inventory.bytes.checked_sub(u64::from(row.len)).ok_or_else(|| damaged("a count"))?;
                inventory.digest.remove(&row.id);
            }
        }
        for &machine in after.iter().filter(|machine| !before.contains(machine)) {
            self.write.put(HOLDERS, &holder_key(number, machine), &[])?;
            self.write.put(HELD, &held_key(machine, number), &[])?;
            if let Some(Tracked { row, .. }) = new {
                let inventory = self.machine(machine)?;
                inventory.frames += 1;
                inventory.bytes += u64::from(row.len);
                inventory.digest.add(&row.id);
            }
        }
        Ok(())
    }

    pub(super) fn commit(mut self) -> kv::Result<()> {
        for (number, row) in &self.vaults {
            self.write.put(META, &view::vault_row_key(*number), &row.encode())?;
        }
        for (machine, inventory) in &self.machines {
            match inventory.frames {
                0 => self.write.delete(MACHINES, &machine.0.to_be_bytes()).map(drop)?,
                _ => self.write.put(MACHINES, &machine.0.to_be_bytes(), &inventory.encode())?,
            }
        }
        self.write.put(META, b"next", &self.next.to_le_bytes())?;
        self.write.commit()
    }
}

fn holders_of(tracked: Option<&Tracked>) -> &[MachineNumber] {
    tracked.map_or(&[], |tracked| &tracked.holders)
}
