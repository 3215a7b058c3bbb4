//! Moving what is needed out of packs that hold much that is not, and removing packs of which nothing is needed.
//!
//! What always holds: a row points to bytes that were verified and are durable; a pack's file goes after the last row
//! that points into it, which is looked at once more in the transaction that ends it.

use super::{GcError, Result};
use crate::crypto::Salts;
use crate::frame::{FrameBuilder, FrameHeader, Opener, SealedFrame, Sealer, frame_id};
use crate::id::{ChunkId, FrameId, Kind, SessionId};
use crate::index::{self, ChunkRow, ChunkState, FrameNumber, FramePlace, FrameState, PackNumber, PackRow, PackState};
use crate::kv::Write;
use crate::pack;
use crate::store::local::Inner;
use crate::store::packs::{self, PackWriter, PutFrame, Taken};
use crate::store::{BadFrame, StoreError};
use crate::vault::Vault;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::atomic::AtomicU32;

/// Bytes that are moved before rows follow.
const COMMIT_LEN: u64 = 64 << 20;

/// Where a frame that was put comes from.
enum Origin {
    /// It was moved whole.
    Moved { number: FrameNumber, pack: PackNumber, offset: u64 },
    /// It was made of chunks of sparse frames.
    Made,
}

/// Packs of one kind being written, and where each frame put since the last commit comes from.
struct Lane {
    writer: PackWriter,
    origins: Vec<Origin>,
    builder: FrameBuilder,
}

impl Lane {
    fn new(store: &Inner, kind: Kind, session: SessionId) -> Self {
        let writer = PackWriter::new(kind, store.parts.vault, session);
        Self { writer, origins: Vec::new(), builder: FrameBuilder::new(kind) }
    }
}

/// What it takes to take frames apart.
struct Keys {
    opener: Opener,
    sealer: Sealer,
}

/// Counts of what was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub frames_moved: u64,
    pub frames_taken_apart: u64,
    pub bytes_moved: u64,
    pub packs_removed: u64,
    pub bytes_freed: u64,
}

/// Rewrites packs.
pub(crate) struct Rewriter<'a> {
    store: &'a Inner,
    /// Of the session's packs, over all its rewriters.
    numbers: &'a AtomicU32,
    leaves: Lane,
    branches: Lane,
    keys: Option<Keys>,
    /// Sparse frames whose chunks were put since the last commit.
    apart: HashSet<FrameNumber>,
    waiting_len: u64,
    pub counts: Counts,
    /// Frames whose bytes turned out not to be those that were stored, and where they were.
    pub damaged: Vec<BadFrame>,
    /// Frames that the medium did not give, which it may do another time.
    pub unread: Vec<BadFrame>,
    /// Frames that went with their packs.
    pub removed: Vec<FrameId>,
    /// Their names are noted in the index as they go.
    pub notes_removed: bool,
}

impl<'a> Rewriter<'a> {
    /// Writes packs of this session; `numbers` gives each pack the next number.
    pub fn new(store: &'a Inner, session: SessionId, numbers: &'a AtomicU32, vault: Option<&Vault>) -> Result<Self> {
        let keys = vault.map(|vault| keys(vault, session)).transpose()?;
        Ok(Self {
            store,
            numbers,
            leaves: Lane::new(store, Kind::Leaf, session),
            branches: Lane::new(store, Kind::Branch, session),
            keys,
            apart: HashSet::new(),
            waiting_len: 0,
            counts: Counts::default(),
            damaged: Vec::new(),
            unread: Vec::new(),
            removed: Vec::new(),
            notes_removed: false,
        })
    }

    /// Puts a frame elsewhere: whole, or, if only some of its chunks are needed and `apart` says so, these. Rows follow
    /// with the next commit.
    pub fn put(&mut self, number: FrameNumber, apart: bool) -> Result<()> {
        let place = index::frame(&*self.store.kv.read()?, number)?;
        let mut bytes = Vec::new();
        let header = match self.store.read_at(place.pack, place.offset, place.len, &mut bytes) {
            Err(StoreError::Files(error)) if error.kind() == ErrorKind::NotFound || pack::is_media(&error) => {
                self.unread.push(BadFrame::at(number, &place));
                return Ok(());
            }
            result => {
                result?;
                let is_sound = frame_id(&bytes) == place.id || crate::zoo::planted("gc-moves-damaged");
                is_sound.then(|| FrameHeader::parse(&bytes).ok()).flatten()
            }
        };
        let Some(header) = header else {
            self.damaged.push(BadFrame::at(number, &place));
            return Ok(());
        };
        match apart && self.keys.is_some() && self.is_whole(number, &header.ids)? {
            true => self.take_apart(number, bytes, &header)?,
            false => self.move_whole(number, &place, header, bytes)?,
        }
        if self.waiting_len >= COMMIT_LEN {
            self.commit()?;
        }
        Ok(())
    }

    /// Whether all chunks that live in a frame are admitted: others stay where they are.
    fn is_whole(&self, number: FrameNumber, ids: &[ChunkId]) -> Result<bool> {
        let read = self.store.kv.read()?;
        for (position, id) in ids.iter().enumerate() {
            let row = index::chunk(&*read, id)?.filter(|row| is_at(Some(*row), number, position));
            if row.is_some_and(|row| row.state != ChunkState::Admitted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn move_whole(
        &mut self,
        number: FrameNumber,
        place: &FramePlace,
        header: FrameHeader,
        bytes: Vec<u8>,
    ) -> Result<()> {
        self.counts.frames_moved += 1;
        let origin = Origin::Moved { number, pack: place.pack, offset: place.offset };
        self.append(origin, SealedFrame { id: place.id, header, bytes })
    }

    fn append(&mut self, origin: Origin, frame: SealedFrame) -> Result<()> {
        self.waiting_len += frame.bytes.len() as u64;
        self.counts.bytes_moved += frame.bytes.len() as u64;
        let lane = match frame.header.kind {
            Kind::Leaf => &mut self.leaves,
            Kind::Branch => &mut self.branches,
        };
        lane.writer.put(&*self.store.parts.files, self.numbers, frame)?;
        lane.origins.push(origin);
        Ok(())
    }

    fn take_apart(&mut self, number: FrameNumber, mut bytes: Vec<u8>, header: &FrameHeader) -> Result<()> {
        let Some(keys) = &mut self.keys else { return Ok(()) };
        // Its bytes are those that were stored: what cannot be opened here moves as it is.
        let Ok(opened) = keys.opener.open(&mut bytes) else { return self.put(number, false) };
        let lane = match header.kind {
            Kind::Leaf => &mut self.leaves,
            Kind::Branch => &mut self.branches,
        };
        let read = self.store.kv.read()?;
        let (mut full, mut is_whole) = (Vec::new(), true);
        for (position, id) in header.ids.iter().enumerate() {
            if !is_at(index::chunk(&*read, id)?, number, position) {
                continue;
            }
            // What was put of it so far keeps its place here all the same.
            let Ok(chunk) = opened.chunk(keys.opener.vault_keys(), position, id) else {
                is_whole = false;
                break;
            };
            let refs = header.refs(position);
            if !lane.builder.fits(refs.len(), chunk.len()) {
                full.push(keys.sealer.seal(&mut lane.builder));
            }
            lane.builder.push(*id, refs, chunk);
        }
        drop(read);
        match is_whole {
            true => {
                self.counts.frames_taken_apart += 1;
                self.apart.insert(number);
            }
            false => self.put(number, false)?,
        }
        full.into_iter().try_for_each(|frame| self.append(Origin::Made, frame))
    }

    /// Makes everything put durable, then lets rows point to it.
    pub fn commit(&mut self) -> Result<()> {
        for kind in [Kind::Leaf, Kind::Branch] {
            let lane = if kind == Kind::Leaf { &mut self.leaves } else { &mut self.branches };
            if let Some(keys) = self.keys.as_mut().filter(|_| !lane.builder.is_empty()) {
                let frame = keys.sealer.seal(&mut lane.builder);
                self.append(Origin::Made, frame)?;
            }
        }
        let mut taken = self.leaves.writer.take()?;
        let branches = self.branches.writer.take()?;
        taken.frames.extend(branches.frames);
        taken.packs.extend(branches.packs);
        taken.unsynced.extend(branches.unsynced);
        let mut origins = std::mem::take(&mut self.leaves.origins);
        origins.append(&mut self.branches.origins);
        let late = crate::zoo::planted("gc-moves-without-sync");
        if !late {
            taken.unsynced.iter().try_for_each(|file| file.sync())?;
        }
        self.waiting_len = 0;
        if !taken.frames.is_empty() || !taken.packs.is_empty() {
            self.switch(&taken, &origins)?;
        }
        self.apart.clear();
        Ok(())
    }

    fn switch(&self, taken: &Taken, origins: &[Origin]) -> Result<()> {
        let _lock = self.store.parts.lock("index")?;
        let mut write = self.store.kv.write()?;
        let numbers = self.store.put_packs(&mut *write, taken)?;
        for (put, origin) in taken.frames.iter().zip(origins) {
            let Some(pack) = numbers.get(&put.pack) else { continue };
            let place = packs::place(put, *pack);
            match origin {
                Origin::Moved { number, pack, offset } => {
                    // Who found it bad meanwhile is believed.
                    let now = index::frame(&*write, *number)?;
                    if (now.pack, now.offset, now.state) == (*pack, *offset, FrameState::Good) {
                        index::put_frame(&mut *write, *number, &place)?;
                    }
                }
                Origin::Made => self.relocate(&mut *write, put, &place)?,
            }
        }
        Ok(write.commit()?)
    }

    /// Lets chunks of frames that were taken apart live in a new one.
    fn relocate(&self, write: &mut dyn Write, put: &PutFrame, place: &FramePlace) -> Result<()> {
        let number = index::next_frame(write)?;
        index::put_frame(write, number, place)?;
        for (position, id) in put.ids.iter().enumerate() {
            let row = index::chunk(write, id)?;
            if let Some(row) = row.filter(|row| row.state == ChunkState::Admitted && self.apart.contains(&row.frame)) {
                index::put_chunk(write, id, ChunkRow { frame: number, position: position as u16, ..row })?;
            }
        }
        Ok(())
    }

    /// Ends the packs being written.
    pub fn finish(&mut self) -> Result<()> {
        self.commit()?;
        self.leaves.writer.close()?;
        self.branches.writer.close()?;
        self.commit()
    }

    /// Removes a pack in which these frames were, each with whether something lived in it, unless something in it is
    /// needed after all.
    pub fn remove(&mut self, number: PackNumber, frames: &[(FrameNumber, bool)]) -> Result<bool> {
        if crate::zoo::planted("gc-file-before-rows") {
            remove_file(self.store, &self.store.name(number)?.path())?;
        }
        let Some((row, len, mut gone)) = self.forget(number, frames)? else { return Ok(false) };
        self.removed.append(&mut gone);
        finish_removal(self.store, number, &row)?;
        self.counts.packs_removed += 1;
        self.counts.bytes_freed += len;
        Ok(true)
    }

    fn forget(
        &self,
        number: PackNumber,
        frames: &[(FrameNumber, bool)],
    ) -> Result<Option<(PackRow, u64, Vec<FrameId>)>> {
        let store = self.store;
        let _lock = store.parts.lock("index")?;
        let mut write = store.kv.write()?;
        let Some(row) = index::pack(&*write, number)?.filter(|row| row.state == PackState::Closed) else {
            return Ok(None);
        };
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (frame, lived) in frames {
            let Some(place) = index::frame_if_any(&*write, *frame)?.filter(|place| place.pack == number) else {
                continue;
            };
            if is_needed(store, &*write, *frame, &place, *lived)? {
                return Ok(None);
            }
            here.push(*frame);
            gone.push(place.id);
        }
        index::delete_frames(&mut *write, &here)?;
        if self.notes_removed {
            index::note_removed(&mut *write, &gone)?;
        }
        index::put_pack(&mut *write, number, &PackRow { state: PackState::Dropped, ..row })?;
        write.commit()?;
        let len = store.parts.files.open(&row.name.path()).and_then(|file| file.len()).unwrap_or(row.indexed_len);
        Ok(Some((row, len, gone)))
    }
}

fn keys(vault: &Vault, session: SessionId) -> Result<Keys> {
    let opener = Opener::new(vault.data_keys().clone()).map_err(GcError::Compression)?;
    let salts = Salts::new(vault.env().entropy.clone());
    let sealer = Sealer::new(vault.seal_keys(session), salts, vault.config().compression_level);
    Ok(Keys { opener, sealer: sealer.map_err(GcError::Compression)? })
}

fn is_at(row: Option<ChunkRow>, frame: FrameNumber, position: usize) -> bool {
    row.is_some_and(|row| row.frame == frame && usize::from(row.position) == position)
}

/// Whether a chunk still lives in a frame. In one where something `lived` it does unless its names, verified, show that
/// all of it lives elsewhere by now; where nothing did nothing can have come, and names that cannot be read say no more.
fn is_needed(store: &Inner, write: &dyn Write, number: FrameNumber, place: &FramePlace, lived: bool) -> Result<bool> {
    if crate::zoo::planted("gc-trusts-counts") {
        return Ok(false);
    }
    let ids = match lived {
        false => names(store, place)?,
        true => match store.stored_header(place)? {
            Some(header) => header.ids,
            None => return Ok(true),
        },
    };
    for (position, id) in ids.iter().enumerate() {
        if is_at(index::chunk(write, id)?, number, position) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names of a frame's chunks as they stand in the clear, unverified; none where they cannot be read.
fn names(store: &Inner, place: &FramePlace) -> Result<Vec<ChunkId>> {
    use crate::frame::FIXED_LEN;
    let len = FIXED_LEN as u32 + ChunkId::LEN as u32 * u32::from(place.chunks);
    let mut bytes = Vec::new();
    match store.read_at(place.pack, place.offset, len.min(place.len), &mut bytes) {
        Err(StoreError::Files(error)) if error.kind() == ErrorKind::NotFound || pack::is_media(&error) => {}
        result => result?,
    }
    let ids = bytes.get(FIXED_LEN..).unwrap_or_default();
    Ok(ids.as_chunks::<{ ChunkId::LEN }>().0.iter().map(|id| ChunkId(*id)).collect())
}

/// Removes the files of packs that were given up and are still there.
pub(super) fn finish_removals(store: &Inner) -> Result<()> {
    let packs = index::packs(&*store.kv.read()?)?;
    for (number, row) in packs.iter().filter(|(_, row)| row.state == PackState::Dropped) {
        finish_removal(store, *number, row)?;
    }
    Ok(())
}

fn finish_removal(store: &Inner, number: PackNumber, row: &PackRow) -> Result<()> {
    // While it is open its bytes are not free.
    store.close_pack(number);
    remove_file(store, &row.name.path())?;
    let _lock = store.parts.lock("index")?;
    let mut write = store.kv.write()?;
    index::delete_pack(&mut *write, number)?;
    Ok(write.commit()?)
}

fn remove_file(store: &Inner, path: &str) -> Result<()> {
    match store.parts.files.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Its name has to be gone for good before the index forgets that it was given up.
    Ok(store.parts.files.sync_dir(pack::DIR)?)
}
