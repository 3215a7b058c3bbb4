//! What the host's own collections removed, and what machines hold that the map does not know.
//!
//! A machine that was away keeps what was removed meanwhile; what it lists when it comes is looked up here, and only what
//! is found here may be dropped. A frame that is neither here nor in the map may be one that the host has lost: it stays
//! where it is, and is remembered as a sum, so that nobody has to list it again to see that nothing has changed.

use super::change::Change;
use super::rows::{Junk, META, damaged};
use super::{Holders, MachineNumber, Result, Why, expect_few};
use crate::tracker::limits::REMOVED_MAX;
use twinkeep_engine::id::FrameId;
use twinkeep_engine::kv::{self, Read};

const ENDS: &[u8] = b"removed";

fn id_key(id: &FrameId) -> Vec<u8> {
    [b"removed ", &id.0[..]].concat()
}

fn order_key(number: u64) -> Vec<u8> {
    [b"removal ", &number.to_be_bytes()[..]].concat()
}

fn junk_key(machine: MachineNumber) -> Vec<u8> {
    [b"unknown ", &machine.0.to_be_bytes()[..]].concat()
}

/// The first removal that is remembered, and the next one's number.
fn ends(read: &dyn Read) -> kv::Result<(u64, u64)> {
    let Some(bytes) = read.get(META, ENDS)? else { return Ok((0, 0)) };
    let (first, next) = bytes.split_first_chunk::<8>().ok_or_else(|| damaged("removals"))?;
    let next = next.try_into().map_err(|_| damaged("removals"))?;
    Ok((u64::from_le_bytes(*first), u64::from_le_bytes(next)))
}

pub(super) fn junk(read: &dyn Read, machine: MachineNumber) -> kv::Result<Junk> {
    read.get(META, &junk_key(machine))?.map_or(Ok(Junk::default()), Junk::decode)
}

impl Change<'_> {
    /// Remembers that these were removed; the oldest are forgotten where they are too many.
    pub(super) fn remember_removed(&mut self, ids: &[FrameId]) -> kv::Result<()> {
        self.remember_removed_of(ids, REMOVED_MAX)
    }

    pub(super) fn remember_removed_of(&mut self, ids: &[FrameId], max: u64) -> kv::Result<()> {
        let (mut first, mut next) = ends(self.read())?;
        for id in ids {
            if self.read().get(META, &id_key(id))?.is_some() {
                continue;
            }
            self.put_meta(&id_key(id), &next.to_le_bytes())?;
            self.put_meta(&order_key(next), &id.0)?;
            next += 1;
        }
        while next - first > max {
            let id = self.read().get(META, &order_key(first))?.and_then(FrameId::from_slice);
            if let Some(id) = id {
                self.forget_removed(&id)?;
            }
            first += 1;
        }
        self.put_meta(ENDS, &[first.to_le_bytes(), next.to_le_bytes()].concat())
    }

    /// A frame is stored anew: nobody is to drop it.
    pub(super) fn forget_removed(&mut self, id: &FrameId) -> kv::Result<()> {
        let Some(number) = self.read().get(META, &id_key(id))? else { return Ok(()) };
        let number = u64::from_le_bytes(number.try_into().map_err(|_| damaged("a removal"))?);
        self.delete_meta(&id_key(id))?;
        self.delete_meta(&order_key(number))
    }

    /// What this machine holds and the map does not know.
    pub(super) fn put_junk(&mut self, machine: MachineNumber, junk: &Junk) -> kv::Result<()> {
        match junk.frames {
            0 => self.delete_meta(&junk_key(machine)),
            _ => self.put_meta(&junk_key(machine), &junk.encode()),
        }
    }
}

impl Holders {
    /// For each frame: whether a collection of the host removed it, and it has not come again since.
    pub fn is_removed(&self, ids: &[FrameId]) -> Result<Vec<bool>> {
        expect_few(ids.len())?;
        let read = self.kv.read()?;
        let removed = |id: &FrameId| Ok(read.get(META, &id_key(id))?.is_some());
        Ok(ids.iter().map(removed).collect::<kv::Result<_>>()?)
    }

    /// Of these frames those that a machine may drop when this is said: those that collections removed, and those that
    /// enough others hold. It is no holder of them from now on, even if it has listed them since it was first told to.
    pub fn let_go(&self, machine: MachineNumber, ids: &[FrameId]) -> Result<Vec<FrameId>> {
        expect_few(ids.len())?;
        let mut change = self.change()?;
        let mut gone = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(number) = change.number(id)? else {
                if change.read().get(META, &id_key(id))?.is_some() {
                    gone.push(*id);
                }
                continue;
            };
            let old = change.tracked(number)?;
            let mut new = old.clone();
            new.drop_holder(machine, Why::Dropped);
            if new.holders.len() >= self.copies_wanted {
                change.replace(number, Some(&old), Some(&new))?;
                gone.push(*id);
            }
        }
        change.commit()?;
        Ok(gone)
    }

    /// What a machine holds that the map does not know, as it was last listed.
    pub fn junk(&self, machine: MachineNumber) -> Result<Junk> {
        Ok(junk(&*self.kv.read()?, machine)?)
    }

    /// What a machine should say that it holds: what is known of, and what was listed besides.
    pub fn expected(&self, machine: MachineNumber) -> Result<Junk> {
        let read = self.kv.read()?;
        let (known, mut all) = (super::view::inventory(&*read, machine)?, junk(&*read, machine)?);
        all.frames += known.frames;
        all.digest.join(&known.digest);
        Ok(all)
    }

    /// A machine has listed everything it holds; this of it the map does not know.
    pub fn set_junk(&self, machine: MachineNumber, junk: &Junk) -> Result<()> {
        if self.junk(machine)? == *junk {
            return Ok(());
        }
        let mut change = self.change()?;
        change.put_junk(machine, junk)?;
        Ok(change.commit()?)
    }
}
