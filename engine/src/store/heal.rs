//! What repairs change in the store: bad frames that verify again count again, chunks get better places, packs are
//! set aside.
//!
//! What always holds: nothing that could be read before becomes unreadable; a pack is moved only when no believed
//! frame is in it any more, and what is left in it is still found where it went.

use super::local::Inner;
use super::{LocalStore, Result, StoreError};
use crate::frame::{FrameHeader, frame_id};
use crate::id::ChunkId;
use crate::index::{self, ChunkRow, ChunkState, FrameNumber, FramePlace, FrameState, NewFrame, PackNumber, PackState};
use crate::kv::Write;
use crate::pack::{self, ASIDE, FrameRow, PackName};
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;

/// Frames looked at in one read of the index.
const FRAMES_AT_ONCE: usize = 4096;

/// Chunks that have only a bad place.
pub(crate) type Suspects = HashMap<ChunkId, ChunkRow>;

impl LocalStore {
    /// Chunks that have only a bad place. Memory: 50 bytes each.
    pub(crate) fn suspects(&self) -> Result<Suspects> {
        let mut suspects = Suspects::new();
        self.visit_chunk_rows(&mut |id, row| {
            if row.state == ChunkState::Suspect {
                suspects.insert(id, row);
            }
            true
        })?;
        Ok(suspects)
    }

    /// Frames by pack, in the order they lie there.
    pub(crate) fn frames_by_pack(&self) -> Result<HashMap<PackNumber, Vec<(FrameNumber, FramePlace)>>> {
        let mut packs: HashMap<PackNumber, Vec<(FrameNumber, FramePlace)>> = HashMap::new();
        let mut from = FrameNumber(0);
        loop {
            let rows = self.frame_rows(from, FRAMES_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { break };
            from = FrameNumber(last.0 + 1);
            for (number, place) in rows {
                packs.entry(place.pack).or_default().push((number, place));
            }
        }
        packs.values_mut().for_each(|frames| frames.sort_by_key(|(number, place)| (place.offset, *number)));
        Ok(packs)
    }

    /// Makes a pack durable as it is now, whoever wrote it, wherever it is.
    fn sync_pack(&self, name: &PackName) -> Result<()> {
        let files = &self.0.parts.files;
        match files.sync_file(&name.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                files.sync_file(&name.aside_path())?;
                Ok(files.sync_dir(ASIDE)?)
            }
            synced => {
                synced?;
                Ok(files.sync_dir(pack::DIR)?)
            }
        }
    }

    /// The clear part of a frame whose bytes are those that were stored.
    fn verified(&self, place: &FramePlace) -> Result<Option<FrameHeader>> {
        if !crate::zoo::planted("repair-believes-unverified") {
            return self.0.stored_header(place);
        }
        let mut bytes = Vec::new();
        self.0.read_at(place.pack, place.offset, place.len, &mut bytes)?;
        Ok(FrameHeader::parse(&bytes).ok())
    }

    /// Lets frames count, again or for more chunks than before; those that do not verify are left out. Returns the
    /// branches that became whole by it.
    pub(crate) fn readmit(&self, numbers: &[FrameNumber], suspects: &Suspects) -> Result<Vec<ChunkId>> {
        let mut frames = Vec::new();
        let mut synced = HashSet::new();
        for &number in numbers {
            let place = self.frame_row(number)?;
            if synced.insert(place.pack) {
                self.sync_pack(&self.0.name(place.pack)?)?;
            }
            if let Some(header) = self.verified(&place)? {
                let row = FrameRow { offset: place.offset, len: place.len, id: place.id };
                frames.push((number, NewFrame::scanned(place.pack, &row, header), place));
            }
        }
        let _lock = self.0.parts.lock("index")?;
        let mut write = self.0.kv.write()?;
        // Who moved one meanwhile has verified it, too.
        let mut still = Vec::with_capacity(frames.len());
        for (number, new, place) in frames {
            if index::frame_if_any(&*write, number)? == Some(place) {
                still.push((number, new));
            }
        }
        let healed = index::readmit(&mut *write, &still, &|place| self.0.header_of(place))?;
        forget_misplaced(&mut *write, &still, suspects)?;
        write.commit()?;
        Ok(healed)
    }

    /// Enters frames that were found in a pack and that no row knows.
    pub(crate) fn admit_found(&self, name: &PackName, frames: &[NewFrame]) -> Result<Vec<ChunkId>> {
        self.sync_pack(name)?;
        let _lock = self.0.parts.lock("index")?;
        let mut write = self.0.kv.write()?;
        let healed = index::admit(&mut *write, frames, &|place| self.0.header_of(place))?;
        write.commit()?;
        index::settle_young(&*self.0.kv)?;
        Ok(healed)
    }

    /// Believed branch and leaf frames that hold one of these chunks: for each chunk the lowest place.
    pub(crate) fn spare_places(&self, suspects: &Suspects) -> Result<Vec<FrameNumber>> {
        if suspects.is_empty() {
            return Ok(Vec::new());
        }
        let mut best: HashMap<ChunkId, (PackNumber, u64, FrameNumber)> = HashMap::new();
        for (pack, frames) in self.frames_by_pack()? {
            for (number, place) in frames.iter().filter(|(_, place)| place.state == FrameState::Good) {
                let Some(header) = self.0.stored_header(place)? else { continue };
                for id in header.ids.iter().filter(|id| suspects.contains_key(id)) {
                    let found = (pack, place.offset, *number);
                    best.entry(*id).and_modify(|best| *best = found.min(*best)).or_insert(found);
                }
            }
        }
        let mut numbers: Vec<FrameNumber> = best.into_values().map(|(_, _, number)| number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Sets the state of a pack, and how much of it is known.
    pub(crate) fn set_pack_state(&self, number: PackNumber, state: PackState, indexed_len: u64) -> Result<()> {
        let _lock = self.0.parts.lock("index")?;
        let mut write = self.0.kv.write()?;
        if let Some(row) = index::pack(&*write, number)? {
            index::put_pack(&mut *write, number, &index::PackRow { state, indexed_len, ..row })?;
        }
        Ok(write.commit()?)
    }

    /// Takes a pack out of use: its file goes to `aside/`, where what is left in it is still found. Nothing happens
    /// while a believed frame is in it. Tells whether it was done.
    pub(crate) fn set_aside(&self, number: PackNumber) -> Result<bool> {
        let name = {
            let _lock = self.0.parts.lock("index")?;
            let mut write = self.0.kv.write()?;
            let Some(row) = index::pack(&*write, number)?.filter(|row| row.state != PackState::Open) else {
                return Ok(false);
            };
            if believes_in(&*write, number)? {
                return Ok(false);
            }
            index::put_pack(&mut *write, number, &index::PackRow { state: PackState::Aside, ..row })?;
            write.commit()?;
            row.name
        };
        self.move_aside(&name)
    }

    /// Moves the file of a pack that was taken out of use, if that has not happened. Where another one lies aside under
    /// its name both stay where they are.
    pub(crate) fn move_aside(&self, name: &PackName) -> Result<bool> {
        let files = &self.0.parts.files;
        if crate::zoo::planted("repair-removes-old-pack") {
            files.remove(&name.path())?;
            files.sync_dir(pack::DIR)?;
            return Ok(true);
        }
        files.create_dir(ASIDE)?;
        match files.open(&name.aside_path()) {
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        match files.rename(&name.path(), &name.aside_path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            moved => moved?,
        }
        // The new name first: whatever of it lasts, the file has a name.
        files.sync_dir(ASIDE)?;
        files.sync_dir(pack::DIR)?;
        Ok(true)
    }

    /// Copies a small file to `aside/`, under its own name, with a number where another one has it. A copy that is
    /// there already will do. Tells whether one was made.
    pub(crate) fn copy_aside(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        let files = &self.0.parts.files;
        files.create_dir(ASIDE)?;
        let base = path.replace('/', "-");
        for n in 0..COPIES_MAX {
            let copy = if n == 0 { format!("{ASIDE}/{base}") } else { format!("{ASIDE}/{base}.{n}") };
            match files.read_all(&copy, bytes.len()) {
                Ok(there) if there == bytes => return Ok(false),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    files.write_atomic(&copy, bytes)?;
                    return Ok(true);
                }
                // Something else, longer perhaps, or unreadable.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(false)
    }
}

/// Copies of one file kept aside.
const COPIES_MAX: usize = 100;

/// Suspect rows that name a place in one of these frames, which verify, where something else is.
fn forget_misplaced(write: &mut dyn Write, frames: &[(FrameNumber, NewFrame)], suspects: &Suspects) -> Result<()> {
    let ids: HashMap<FrameNumber, &[ChunkId]> = frames.iter().map(|(number, new)| (*number, &new.ids[..])).collect();
    for (id, row) in suspects {
        let Some(ids) = ids.get(&row.frame) else { continue };
        if index::chunk(write, id)? == Some(*row) && ids.get(usize::from(row.position)) != Some(id) {
            index::delete_chunk(write, id)?;
        }
    }
    Ok(())
}

fn believes_in(write: &dyn Write, pack: PackNumber) -> Result<bool> {
    let mut from = FrameNumber(0);
    loop {
        let rows = index::frames_from(write, from, FRAMES_AT_ONCE)?;
        let Some((last, _)) = rows.last() else { return Ok(false) };
        from = FrameNumber(last.0 + 1);
        if rows.iter().any(|(_, place)| place.pack == pack && place.state == FrameState::Good) {
            return Ok(true);
        }
    }
}

impl Inner {
    /// Whether the bytes at a place are the frame that was stored there, and whether its name stands behind it.
    pub(crate) fn verify_at(&self, place: &FramePlace) -> Result<Option<bool>> {
        let mut bytes = Vec::new();
        let len = place.len.saturating_add(pack::FRAME_NAME_LEN as u32);
        if place.len as usize > crate::limits::FRAME_LEN_MAX {
            return Ok(None);
        }
        match self.read_whole(place.pack, place.offset, len, &mut bytes) {
            Err(StoreError::Files(error)) if error.kind() == ErrorKind::NotFound || pack::is_media(&error) => {
                return Ok(None);
            }
            read => read?,
        }
        let Some((frame, name)) = bytes.split_at_checked(place.len as usize) else { return Ok(None) };
        Ok((frame_id(frame) == place.id && FrameHeader::parse(frame).is_ok()).then_some(*name == place.id.0))
    }
}
