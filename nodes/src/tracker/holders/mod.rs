//! Which machine holds which frame besides the host, and which frames are owed a copy, in a map of its own.
//!
//! What always holds, after each commit: a frame with fewer holders than wanted has an owed entry, any other has none;
//! counts and inventories are those of the rows. All of it can be made again from the vaults' indexes ([`enter`]) and
//! the machines' own stores ([`confirm`]), so a damaged map is set aside and filled anew.
//!
//! ```text
//! rows           table in the map  key                              value
//! numbers        chunks            frame id (32)                    number (u64)
//! frames         frames            number (u64 big-endian)          frame id (32) · vault number (u32) · round (u32) · number in the vault's index (u64) · length (u32) · writer (u32, all ones: nobody) · kind (1) · why (1) · spread (1)
//! held           packs             machine (u32 big-endian) · number (u64 big-endian)   empty
//! holders        young             number (u64 big-endian) · machine (u32 big-endian)   empty
//! owed           unwhole           urgency (1) · number (u64 big-endian)                empty
//! owed by vault  condemned         vault number, round (u32 big-endian) · number in index (u64 big-endian) · number (u64 big-endian)   empty
//! machines       leaning           machine (u32 big-endian)         frames (u64) · bytes (u64) · digest (32)
//! meta           meta              "version", "copies", "vaults"    format version (u32), copies wanted (u32), vaults known (u32)
//!                                  "next"                           the number the next frame gets (u64)
//!                                  "vault " · vault id (16)         vault number (u32)
//!                                  "number " · vault number (u32 big-endian)            vault id (16) · watermark (u64) · round (u32) · owed frames (u64) · owed bytes (u64)
//!                                  "removed"                        first removal remembered (u64), the next one's number (u64)
//!                                  "removed " · frame id (32)       number of its removal (u64)
//!                                  "removal " · number (u64 big-endian)                 frame id (32)
//!                                  "unknown " · machine (u32 big-endian)                frames (u64) · digest (32)
//! ```
//!
//! Urgency is 2 × holders, plus 1 for leaves. A rebuilt index numbers its frames anew, which begins a new *round* of its
//! vault: a frame's number in the index means something only in the round of its vault.
//!
//! [`enter`]: Holders::enter
//! [`confirm`]: Holders::confirm

mod change;
mod gone;
mod rows;
mod view;

pub use rows::{Inventory, Junk};
pub use view::{Held, MachineCount, Missing, Owed, OwedCounts, OwedCursor, VaultCount};

use super::MachineNumber;
use super::limits::{FRAMES_PER_CHANGE_MAX, VAULTS_MAX};
use change::{Change, Tracked};
use rows::{FrameRow, META, damaged};
use std::collections::BTreeMap;
use std::sync::Arc;
use twinkeep_engine::id::{FrameId, Kind, VaultId};
use twinkeep_engine::kv::{self, Kv, KvError, Read, Write};

/// Version of the rows; a map of another version is made anew.
pub const VERSION: u32 = 2;

/// Copies besides the host's that a frame should have.
pub const COPIES_WANTED_DEFAULT: u32 = 1;

/// The map of holders cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HoldersError {
    /// The map itself.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// Made by another version of this program, or no map of holders: make it anew.
    #[error("the map of holders has version {found}, wanted is {VERSION}")]
    OtherVersion {
        /// What it says; 0 if nothing.
        found: u32,
    },
    /// More than one transaction should hold; ask in parts.
    #[error("{given} frames at once, allowed are {FRAMES_PER_CHANGE_MAX}")]
    TooMany {
        /// Frames given.
        given: usize,
    },
    /// One of two indexes is wrong, for the id covers all of it.
    #[error("frame {id} was entered before with another vault, length or kind")]
    Contradicts {
        /// The frame.
        id: FrameId,
    },
    /// More vaults than the map lists.
    #[error("the map of holders knows {VAULTS_MAX} vaults already")]
    TooManyVaults,
}

/// Result of using the map of holders.
pub type Result<T> = std::result::Result<T, HoldersError>;

/// Number of a frame in the tracker's map, ascending. Never given twice within one map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrackedNumber(pub u64);

/// Why a frame is owed a copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Why {
    /// It is new: nobody was asked yet, or has not confirmed.
    New = 0,
    /// A machine that held it is lost or was forgotten.
    MachineLost = 1,
    /// A machine found its copy damaged or gone.
    ScrubFailed = 2,
    /// A machine gave its copy back: it moves, drains or needs the space.
    Dropped = 3,
}

impl Why {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::New, Self::MachineLost, Self::ScrubFailed, Self::Dropped].into_iter().find(|&why| why as u8 == byte)
    }
}

/// A frame that the host has stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewFrame {
    /// Its name.
    pub id: FrameId,
    /// Its number in the vault's index.
    pub number_in_index: u64,
    /// Leaves or branches.
    pub kind: Kind,
    /// Its length, bytes.
    pub len: u32,
    /// The machine whose session wrote it.
    pub writer: Option<MachineNumber>,
    /// That machine is to hold no copy of it.
    pub spread: bool,
}

/// How far a machine is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forgetting {
    /// Frames it no longer holds since this call.
    pub forgotten: u64,
    /// Frames it still holds: call again until there are none.
    pub left: u64,
}

/// The map of holders. Each call that changes it is one transaction, durable when it returns.
#[derive(Clone)]
pub struct Holders {
    kv: Arc<dyn Kv>,
    copies_wanted: usize,
}

/// Writes what makes an empty map a map of holders, in which frames should have `copies_wanted` copies besides the host's.
pub fn init(write: &mut dyn Write, copies_wanted: u32) -> kv::Result<()> {
    write.put(META, b"version", &VERSION.to_le_bytes())?;
    write.put(META, b"copies", &copies_wanted.to_le_bytes())
}

fn meta_u32(read: &dyn Read, key: &[u8]) -> kv::Result<Option<u32>> {
    let value = read.get(META, key)?.map(|value| value.try_into().map_err(|_| damaged("a value of the map")));
    Ok(value.transpose()?.map(u32::from_le_bytes))
}

impl Holders {
    /// Uses a map that [`init`] prepared.
    ///
    /// # Errors
    /// [`HoldersError::OtherVersion`] if it is not one.
    pub fn open(kv: Arc<dyn Kv>) -> Result<Self> {
        let read = kv.read()?;
        let found = meta_u32(&*read, b"version")?.unwrap_or(0);
        if found != VERSION {
            return Err(HoldersError::OtherVersion { found });
        }
        let copies = meta_u32(&*read, b"copies")?.ok_or_else(|| damaged("copies wanted"))?;
        drop(read);
        Ok(Self { kv, copies_wanted: copies as usize })
    }

    /// Enters frames that the host stored, and that all frames of the vault's index below `watermark` are entered now.
    /// What has too few holders is owed. A frame entered before keeps its holders and the lower of its numbers; the
    /// watermark never goes back.
    ///
    /// # Errors
    /// [`HoldersError::Contradicts`] if a frame was entered with another vault, length or kind; nothing is entered then.
    pub fn enter(&self, vault: VaultId, frames: &[NewFrame], watermark: u64) -> Result<()> {
        expect_few(frames.len())?;
        let mut change = self.change()?;
        let vault = change.vault_number(vault)?;
        let round = change.vault(vault)?.round;
        let mut first_seen = BTreeMap::new();
        for frame in frames {
            let known = match first_seen.get(&frame.id) {
                Some(&number) => Some(number),
                None => change.number(&frame.id)?,
            };
            let row = FrameRow {
                id: frame.id,
                vault,
                round,
                number_in_index: frame.number_in_index,
                len: frame.len,
                writer: frame.writer,
                kind: frame.kind,
                why: Why::New,
                spread: frame.spread,
            };
            match known {
                Some(number) => enter_again(&mut change, number, row)?,
                None => {
                    change.forget_removed(&frame.id)?;
                    // The machine may have listed it before it was entered, and is asked again.
                    if let Some(writer) = frame.writer {
                        change.put_junk(writer, &Junk::default())?;
                    }
                    let number = change.next_number()?;
                    change.replace(number, None, Some(&Tracked { row, holders: Vec::new() }))?;
                    first_seen.insert(frame.id, number);
                }
            }
        }
        change.put_numbers(&first_seen)?;
        let row = change.vault(vault)?;
        row.watermark = row.watermark.max(watermark);
        Ok(change.commit()?)
    }

    /// The machine has verified and synced these frames: it holds them. Returns those of which nothing is noted: those
    /// that were never entered, then those whose copy is to be elsewhere than with their writer, which it is.
    pub fn confirm(&self, machine: MachineNumber, ids: &[FrameId]) -> Result<Vec<FrameId>> {
        self.update(ids, |tracked| {
            if tracked.row.spread && tracked.row.writer == Some(machine) {
                return false;
            }
            if let Err(at) = tracked.holders.binary_search(&machine) {
                tracked.holders.insert(at, machine);
            }
            true
        })
    }

    /// The machine does not hold these frames any more; where too few others do, they are owed again because of `why`.
    /// Returns those that were never entered.
    pub fn retract(&self, machine: MachineNumber, ids: &[FrameId], why: Why) -> Result<Vec<FrameId>> {
        self.update(ids, |tracked| {
            tracked.drop_holder(machine, why);
            true
        })
    }

    /// Forgets up to `count` frames that the machine holds, which are owed where too few others hold them. To be called
    /// until nothing is left; whoever is interrupted begins again the same way.
    pub fn forget_machine(&self, machine: MachineNumber, count: usize) -> Result<Forgetting> {
        let mut change = self.change()?;
        let numbers = view::held(change.read(), machine, None, count.clamp(1, FRAMES_PER_CHANGE_MAX))?;
        for &number in &numbers {
            let old = change.tracked(number)?;
            let mut new = old.clone();
            new.drop_holder(machine, Why::MachineLost);
            change.replace(number, Some(&old), Some(&new))?;
        }
        let left = change.machine(machine)?.frames;
        if numbers.is_empty() && left > 0 {
            return Err(damaged("the count of what a machine holds").into());
        }
        change.commit()?;
        Ok(Forgetting { forgotten: numbers.len() as u64, left })
    }

    /// The machine does not hold these frames any more because enough others do: of each that is so when this is said.
    /// Returns those.
    pub fn release(&self, machine: MachineNumber, ids: &[FrameId]) -> Result<Vec<FrameId>> {
        expect_few(ids.len())?;
        let mut change = self.change()?;
        let mut released = Vec::new();
        for id in ids {
            let Some(number) = change.number(id)? else { continue };
            let old = change.tracked(number)?;
            let mut new = old.clone();
            new.drop_holder(machine, Why::Dropped);
            if new != old && new.holders.len() >= self.copies_wanted {
                change.replace(number, Some(&old), Some(&new))?;
                released.push(*id);
            }
        }
        change.commit()?;
        Ok(released)
    }

    /// Frames that gc removed from the host for good. Returns which machines held each of those that were known: they
    /// are sent drop orders. An order that is lost is given again when inventories are compared.
    pub fn remove_frames(&self, ids: &[FrameId]) -> Result<Vec<(FrameId, Vec<MachineNumber>)>> {
        expect_few(ids.len())?;
        let mut change = self.change()?;
        let mut removed = Vec::new();
        for id in ids {
            let Some(number) = change.number(id)? else { continue };
            let tracked = change.tracked(number)?;
            change.replace(number, Some(&tracked), None)?;
            change.delete_number(id)?;
            removed.push((*id, tracked.holders));
        }
        // Those nobody is known to hold too: somebody who is away may.
        change.remember_removed(ids)?;
        change.commit()?;
        Ok(removed)
    }

    /// The vault's index was built anew and numbers its frames otherwise: they are to be entered again from the start.
    /// Holders stay, and so does what is owed.
    pub fn reset_watermark(&self, vault: VaultId) -> Result<()> {
        let mut change = self.change()?;
        let vault = change.vault_number(vault)?;
        let row = change.vault(vault)?;
        row.watermark = 0;
        row.round = row.round.checked_add(1).ok_or_else(|| damaged("the round of a vault"))?;
        Ok(change.commit()?)
    }

    fn change(&self) -> kv::Result<Change<'_>> {
        Change::begin(&*self.kv, self.copies_wanted)
    }

    /// Gives those that are not known, and those of which `change_to` wants nothing noted.
    fn update(&self, ids: &[FrameId], change_to: impl Fn(&mut Tracked) -> bool) -> Result<Vec<FrameId>> {
        expect_few(ids.len())?;
        let mut change = self.change()?;
        let mut unknown = Vec::new();
        let mut numbers = Vec::with_capacity(ids.len());
        for id in ids {
            match change.number(id)? {
                Some(number) => numbers.push(number),
                None => unknown.push(*id),
            }
        }
        // In the order of the rows, which lie together then.
        numbers.sort_unstable();
        for number in numbers {
            let old = change.tracked(number)?;
            let mut new = old.clone();
            match change_to(&mut new) {
                true => change.replace(number, Some(&old), Some(&new))?,
                false => unknown.push(old.row.id),
            }
        }
        change.commit()?;
        Ok(unknown)
    }
}

fn expect_few(given: usize) -> Result<()> {
    if given > FRAMES_PER_CHANGE_MAX { Err(HoldersError::TooMany { given }) } else { Ok(()) }
}

fn enter_again(change: &mut Change<'_>, number: TrackedNumber, new: FrameRow) -> Result<()> {
    let old = change.tracked(number)?;
    let FrameRow { id, vault, len, kind, .. } = old.row;
    if (vault, len, kind) != (new.vault, new.len, new.kind) {
        return Err(HoldersError::Contradicts { id });
    }
    // Within one index a frame that moved has had several numbers: what relied on it did so from the lowest on.
    let number_in_index = match old.row.round == new.round {
        true => old.row.number_in_index.min(new.number_in_index),
        false => new.number_in_index,
    };
    let writer = old.row.writer.or(new.writer);
    let row = FrameRow { number_in_index, writer, why: old.row.why, spread: old.row.spread || new.spread, ..new };
    let tracked = Tracked { row, holders: old.holders.clone() };
    Ok(change.replace(number, Some(&old), Some(&tracked))?)
}

#[cfg(test)]
mod tests;
