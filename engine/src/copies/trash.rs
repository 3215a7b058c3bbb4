//! Dropping frames, taking them back, and freeing the space of those that were in trash for long.
//!
//! What always holds: a drop only changes rows; the bytes stay for as long as the caller's age says, counted in time in
//! which the store was open. What is still needed of a pack that goes was copied, verified and synced before.

use super::changes::Changes;
use super::rows::{self, FrameState, PackNumber, PackRow, PackState, Place, Standing};
use super::write::NewPack;
use super::{CopyStore, Inner, Result, folder, path, read};
use crate::files::{Append, Files, FilesError};
use crate::id::FrameId;
use crate::kv::{self, Kv};
use crate::limits::COPIES_FREED_PERCENT_MIN;
use crate::pack::{self, FRAME_NAME_LEN, FrameRow, HEADER_LEN};
use std::io::ErrorKind;
use std::sync::PoisonError;
use std::time::Duration;

/// Frames looked at together when they are taken out of trash.
const UNDROPPED_AT_ONCE: usize = 64;

/// What emptying the trash did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Emptied {
    /// Frames that were forgotten for good.
    pub frames: u64,
    /// Packs removed, those included whose remainder was copied.
    pub packs: u64,
    /// Bytes by which the packs became smaller, all told.
    pub bytes: u64,
    /// Frames that were to be copied and were found bad; their packs stay.
    pub bad: Vec<FrameId>,
}

/// What shall become of a pack.
struct Plan {
    number: PackNumber,
    row: PackRow,
    kept: Vec<(FrameId, FrameState)>,
    expired: Vec<FrameId>,
}

/// What was copied out of a pack.
struct Copied {
    row: PackRow,
    moves: Vec<(FrameId, Place, u64)>,
}

/// A copy, or the frames that are bad and keep the pack from being copied.
type CopyOutcome = std::result::Result<Copied, Vec<(FrameId, FrameState)>>;

impl CopyStore {
    /// Notes the time that has passed. To be called every minute or so: what was not noted when the process ends does
    /// not count.
    pub fn tick(&self) -> Result<Duration> {
        let _turn = self.0.turn();
        let mut write = self.0.kv.write()?;
        let now = self.0.uptime(&*write)?;
        rows::put_uptime(&mut *write, now.uptime)?;
        write.commit()?;
        self.0.ticked(&now);
        Ok(now.uptime)
    }

    /// Moves frames to trash; returns those that were held, or known to be bad, until now.
    pub fn drop_frames(&self, ids: &[FrameId]) -> Result<Vec<FrameId>> {
        let _turn = self.0.turn();
        let mut write = self.0.kv.write()?;
        let now = self.0.uptime(&*write)?;
        rows::put_uptime(&mut *write, now.uptime)?;
        let mut changes = Changes::begin(&mut *write)?;
        let mut dropped = Vec::new();
        for id in ids {
            if changes.discard(id, now.uptime)? {
                dropped.push(*id);
            }
        }
        changes.finish()?;
        write.commit()?;
        self.0.ticked(&now);
        Ok(dropped)
    }

    /// Takes frames out of trash; returns those that are held again. One that was damaged there is known to be bad from
    /// now on.
    pub fn undrop(&self, ids: &[FrameId]) -> Result<Vec<FrameId>> {
        let mut held = Vec::new();
        for ids in ids.chunks(UNDROPPED_AT_ONCE) {
            let _turn = self.0.turn();
            let looked_at = self.0.look_at_trash(ids)?;
            let mut write = self.0.kv.write()?;
            let mut changes = Changes::begin(&mut *write)?;
            let mut back = Vec::new();
            for (id, place, is_whole) in looked_at {
                if changes.restore(&id, place, is_whole)? && is_whole {
                    back.push(id);
                }
            }
            changes.finish()?;
            write.commit()?;
            held.extend(back);
        }
        Ok(held)
    }

    /// Frees the space of frames that were dropped at least `age` ago, where enough is gained by it: packs in which
    /// nothing else is needed go, others are copied without them once a quarter can be freed. The rest of the trash
    /// stays, and can still be taken back. `age` is `COPIES_TRASH_SECS` unless space is short.
    pub fn empty_trash(&self, age: Duration) -> Result<Emptied> {
        let mut done = Emptied::default();
        // What frees space without needing any goes first.
        for may_copy in [false, true] {
            let packs = rows::packs(&*self.0.kv.read()?)?;
            for (number, _) in packs.into_iter().filter(|(_, row)| row.state == PackState::Closed) {
                self.0.empty_pack(number, age, may_copy, &mut done)?;
            }
        }
        Ok(done)
    }
}

/// The store's uptime, and the clock it was told from.
struct Now {
    uptime: Duration,
    clock: Duration,
}

impl Inner {
    fn uptime(&self, read: &dyn kv::Read) -> kv::Result<Now> {
        let clock = self.env.clock.elapsed();
        let ticked = *self.ticked.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Now { uptime: rows::uptime(read)?.saturating_add(clock.saturating_sub(ticked)), clock })
    }

    fn ticked(&self, now: &Now) {
        *self.ticked.lock().unwrap_or_else(PoisonError::into_inner) = now.clock;
    }

    /// Frames that are in trash, where, and whether they are whole.
    fn look_at_trash(&self, ids: &[FrameId]) -> Result<Vec<(FrameId, Place, bool)>> {
        let read = self.kv.read()?;
        let mut found = Vec::new();
        for id in ids {
            if let Some(state) = rows::frame(&*read, id)?.filter(|state| state.standing == Standing::Trash) {
                found.push((*id, state.place, self.is_whole(&*read, id, &state)?));
            }
        }
        Ok(found)
    }

    fn empty_pack(&self, number: PackNumber, age: Duration, may_copy: bool, done: &mut Emptied) -> Result<()> {
        let _turn = self.turn();
        let Some(plan) = self.plan(number, age, may_copy)? else { return Ok(()) };
        let copied = match plan.kept.is_empty() {
            true => None,
            false => match self.copy(&plan)? {
                Ok(copied) => Some(copied),
                Err(bad) => {
                    done.bad.extend(self.expel_in_turn(&bad)?);
                    return Ok(());
                }
            },
        };
        if !self.give_up(&plan, copied.as_ref())? {
            return Ok(());
        }
        remove(&*self.files, &*self.kv, number, &plan.row)?;
        done.frames += plan.expired.len() as u64;
        done.packs += 1;
        done.bytes += plan.row.end.saturating_sub(copied.map_or(0, |copied| copied.row.end));
        Ok(())
    }

    /// What to do with a pack; `None` if it stays as it is.
    fn plan(&self, number: PackNumber, age: Duration, may_copy: bool) -> Result<Option<Plan>> {
        let read = self.kv.read()?;
        let row = rows::pack(&*read, number)?;
        if row.state != PackState::Closed {
            return Ok(None);
        }
        let now = self.uptime(&*read)?.uptime;
        let mut plan = Plan { number, row, kept: Vec::new(), expired: Vec::new() };
        for (id, state) in rows::frames_in(&*read, number)? {
            let is_expired = state.standing == Standing::Trash
                && rows::dropped_at(&*read, &id)?.saturating_add(age) <= now
                && !self.writer().is_waiting(&id);
            match is_expired {
                true => plan.expired.push(id),
                false => plan.kept.push((id, state)),
            }
        }
        let kept: u64 = plan.kept.iter().map(|(_, state)| u64::from(state.len) + FRAME_NAME_LEN).sum();
        let all = row.end.saturating_sub(HEADER_LEN);
        let is_sparse = all.saturating_sub(kept).saturating_mul(100) >= all.saturating_mul(COPIES_FREED_PERCENT_MIN);
        // What is bad is not copied, and not removed either.
        let is_copied = may_copy && is_sparse && plan.kept.iter().all(|(_, state)| state.standing != Standing::Bad);
        Ok((plan.kept.is_empty() || is_copied).then_some(plan))
    }

    /// Copies what is kept into a new pack and makes it durable; if something of it is bad, says what instead.
    fn copy(&self, plan: &Plan) -> Result<CopyOutcome> {
        let NewPack { name, file } = self.writer().create(&*self.files, plan.row.vault, plan.row.name.kind)?;
        let row = PackRow { name, state: PackState::Closed, ..plan.row };
        let copied = self.copy_into(&*file, plan, row);
        if !matches!(copied, Ok(Ok(_))) {
            // Nothing points to it. One that stays is passed over by the index, and goes when the trash is emptied after
            // the next start.
            let _ = self.files.remove(&path(row.vault, &row.name));
        }
        copied
    }

    fn copy_into(&self, to: &dyn Append, plan: &Plan, mut row: PackRow) -> Result<CopyOutcome> {
        let Some(from) = self.open_pack(&path(plan.row.vault, &plan.row.name))? else {
            return Ok(Err(plan.kept.clone()));
        };
        let (mut listed, mut moves, mut bad) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = Vec::new();
        row.end = HEADER_LEN;
        for (id, state) in &plan.kept {
            if !read::verify(&*from, id, state, &mut bytes)? {
                bad.push((*id, *state));
            }
            if bad.is_empty() {
                bytes.extend_from_slice(&id.0);
                to.append(&bytes)?;
                listed.push(FrameRow { offset: row.end, len: state.len, id: *id });
                moves.push((*id, state.place, row.end));
                row.end += u64::from(state.len) + FRAME_NAME_LEN;
            }
        }
        if !bad.is_empty() {
            return Ok(Err(bad));
        }
        to.append(&pack::directory(row.end, &listed))?;
        to.sync()?;
        Ok(Ok(Copied { row, moves }))
    }

    /// Points rows to the copies, forgets the rest and says that the pack goes, in one transaction. Tells whether it
    /// was done: not if somebody has put again what was about to be forgotten.
    fn give_up(&self, plan: &Plan, copied: Option<&Copied>) -> Result<bool> {
        let writer = self.writer();
        if plan.expired.iter().any(|id| writer.is_waiting(id)) {
            if let Some(copied) = copied {
                let _ = self.files.remove(&path(copied.row.vault, &copied.row.name));
            }
            return Ok(false);
        }
        let mut write = self.kv.write()?;
        let to = match copied {
            Some(copied) => {
                let number = rows::next_pack(&mut *write)?;
                rows::put_pack(&mut *write, number, &copied.row)?;
                Some(number)
            }
            None => None,
        };
        let mut changes = Changes::begin(&mut *write)?;
        for (id, from, offset) in copied.iter().flat_map(|copied| &copied.moves) {
            if let Some(pack) = to {
                changes.relocate(id, *from, Place { pack, offset: *offset })?;
            }
        }
        for id in &plan.expired {
            changes.forget(id)?;
        }
        changes.finish()?;
        rows::put_pack(&mut *write, plan.number, &PackRow { state: PackState::Dropped, ..plan.row })?;
        write.commit()?;
        Ok(true)
    }
}

/// Removes the file of a pack that was given up, then its row.
pub(super) fn remove(files: &dyn Files, kv: &dyn Kv, number: PackNumber, row: &PackRow) -> Result<()> {
    or_missing(files.remove(&path(row.vault, &row.name)))?;
    or_missing(files.sync_dir(&folder(row.vault)))?;
    let mut write = kv.write()?;
    rows::delete_pack(&mut *write, number)?;
    Ok(write.commit()?)
}

fn or_missing(result: std::result::Result<(), FilesError>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => Ok(result?),
    }
}
