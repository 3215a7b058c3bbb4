//! Reading: what is held, and the bytes of frames, always verified.

use super::changes::Changes;
use super::rows::{self, FrameState, Standing};
use super::{CopiesError, CopyStore, Held, Inner, Result, path};
use crate::files::{self, ReadAt};
use crate::frame::frame_id;
use crate::id::FrameId;
use crate::kv::Read;
use crate::limits::COPIES_LIST_MAX;
use crate::pack;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;

/// How often a frame is looked for again because it moved meanwhile.
const MOVES_MAX: usize = 8;

impl CopyStore {
    /// For each frame: is it durable, not known to be bad, and not in trash?
    pub fn has(&self, ids: &[FrameId]) -> Result<Vec<bool>> {
        let read = self.0.kv.read()?;
        let is_held = |id| Ok(rows::frame(&*read, id)?.is_some_and(|state| state.standing == Standing::Held));
        ids.iter().map(is_held).collect()
    }

    /// The bytes of a frame that is held; `None` for one that is not.
    ///
    /// # Errors
    /// [`CopiesError::Damaged`] for one that was found bad, now or earlier; it is not held until it is put again.
    pub fn read(&self, id: &FrameId) -> Result<Option<Vec<u8>>> {
        for _ in 0..MOVES_MAX {
            let Some((state, path)) = self.0.look_up(id)? else { return Ok(None) };
            let damaged = CopiesError::Damaged { frame: *id, pack: path.clone(), offset: state.place.offset };
            match state.standing {
                Standing::Trash => return Ok(None),
                Standing::Bad => return Err(damaged),
                Standing::Held => {}
            }
            let mut bytes = Vec::new();
            if let Some(file) = self.0.open_pack(&path)?
                && verify(&*file, id, &state, &mut bytes)?
            {
                return Ok(Some(bytes));
            }
            // Unless it has moved meanwhile.
            if self.0.expel(&[(*id, state)])?.contains(id) {
                return Err(damaged);
            }
        }
        Err(CopiesError::Moving { frame: *id })
    }

    /// Frames that are held, in the order of their names, behind `after`; at most `count`, and `COPIES_LIST_MAX`.
    /// Fewer than both means that there are no more.
    pub fn list(&self, after: Option<FrameId>, count: usize) -> Result<Vec<Held>> {
        let count = count.min(COPIES_LIST_MAX);
        let read = self.0.kv.read()?;
        let mut found = Vec::new();
        // The least key above it.
        let from = after.map_or(Vec::new(), |after| [&after.0[..], &[0]].concat());
        rows::frames_by_name(&*read, &from, &mut |id, state| {
            if state.standing == Standing::Held && found.len() < count {
                found.push((id, state));
            }
            found.len() < count
        })?;
        let mut packs = HashMap::new();
        let mut held = Vec::with_capacity(found.len());
        for (id, state) in found {
            let number = state.place.pack;
            let pack = match packs.get(&number) {
                Some(pack) => *pack,
                None => rows::pack(&*read, number)?,
            };
            packs.insert(number, pack);
            held.push(Held { id, vault: pack.vault, kind: pack.name.kind, len: state.len });
        }
        Ok(held)
    }
}

impl Inner {
    /// What is known of a frame, and the path of the pack it is in.
    fn look_up(&self, id: &FrameId) -> Result<Option<(FrameState, String)>> {
        let read = self.kv.read()?;
        let Some(state) = rows::frame(&*read, id)? else { return Ok(None) };
        let pack = rows::pack(&*read, state.place.pack)?;
        Ok(Some((state, path(pack.vault, &pack.name))))
    }

    /// Opens a pack; `None` where it is missing or the medium fails.
    pub fn open_pack(&self, path: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        match self.files.open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound || pack::is_media(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the bytes of a frame are where its row says.
    pub fn is_whole(&self, read: &dyn Read, id: &FrameId, state: &FrameState) -> Result<bool> {
        let pack = rows::pack(read, state.place.pack)?;
        match self.open_pack(&path(pack.vault, &pack.name))? {
            Some(file) => Ok(verify(&*file, id, state, &mut Vec::new())?),
            None => Ok(false),
        }
    }

    /// Takes their standing from frames that were found bad where they then stood; returns those that lost it.
    pub fn expel(&self, bad: &[(FrameId, FrameState)]) -> Result<Vec<FrameId>> {
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        let _turn = self.turn();
        self.expel_in_turn(bad)
    }

    /// As [`Self::expel`], for who holds the turn.
    pub fn expel_in_turn(&self, bad: &[(FrameId, FrameState)]) -> Result<Vec<FrameId>> {
        let mut write = self.kv.write()?;
        let mut changes = Changes::begin(&mut *write)?;
        let mut expelled = Vec::new();
        for (id, state) in bad {
            if changes.expel(id, state.place)? {
                expelled.push(*id);
            }
        }
        changes.finish()?;
        write.commit()?;
        // What is wrong with a pack may be wrong with what is appended to it.
        self.writer().end(&bad.iter().map(|(_, state)| state.place.pack).collect());
        Ok(expelled)
    }
}

/// Reads a frame into `bytes` and compares it with its name; what is wrong is read once more, from the disk.
pub(super) fn verify(file: &dyn ReadAt, id: &FrameId, state: &FrameState, bytes: &mut Vec<u8>) -> files::Result<bool> {
    let offset = state.place.offset;
    for is_anew in [false, true] {
        if is_anew {
            file.forget(offset, state.len.into());
        }
        bytes.resize(state.len as usize, 0);
        let read = match file.read_at(offset, bytes) {
            Ok(read) => read,
            Err(error) if pack::is_media(&error) => 0,
            Err(error) => return Err(error),
        };
        if read == bytes.len() && frame_id(bytes) == *id {
            return Ok(true);
        }
    }
    Ok(false)
}
