//! Putting frames and making them durable.
//!
//! What always holds: a frame is verified before a byte of it is written; rows are committed after the packs they point
//! into were synced; of a pack whose sync failed nothing is believed that was not durable before.

use super::changes::Changes;
use super::rows::{self, PackNumber, PackRow, PackState, Place, Standing};
use super::{CopiesError, CopyStore, Inner, Result, folder, path};
use crate::files::{self, Append, Files, FilesError};
use crate::frame::{FrameError, FrameHeader, frame_id};
use crate::id::{FrameId, Kind, SessionId, VaultId};
use crate::kv::{self, Write};
use crate::limits::{COPIES_PACKS_OPEN_MAX, COPIES_WAITING_MAX, FRAME_LEN_MAX};
use crate::pack::{self, FRAME_NAME_LEN, FrameRow, HEADER_LEN, PackName};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The system is told to begin writing after this many bytes, so that a sync waits for little.
const HINT_LEN: u64 = 8 << 20;

/// Packs that are full and wait for their sync; more would only pile up dirty pages and open files.
const UNSYNCED_MAX: usize = 8;

/// What became of a frame that was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// It is held already; the next settlement does not name it.
    Held,
    /// It is held once it is settled.
    Waits,
}

/// A pack that could not be made durable.
#[derive(Debug)]
pub struct LostPack {
    /// Path of the pack in the store.
    pub pack: String,
    /// Frames that were put and have to be put again. What was settled in this pack earlier is still held.
    pub frames: Vec<FrameId>,
    /// Why.
    pub error: FilesError,
}

/// What became of everything that was put before.
#[derive(Debug, Default)]
#[must_use = "only what is named as durable is durable"]
pub struct Settlement {
    /// Held from now on, and durable.
    pub durable: Vec<FrameId>,
    /// What failed. The other packs are not affected.
    pub lost: Vec<LostPack>,
}

/// A frame that was put and is not settled.
#[derive(Clone, Copy)]
enum Waiting {
    /// It was appended to a pack.
    Appended { pack: PackName, row: FrameRow },
    /// It is in trash, and was found whole there.
    Returning,
}

/// A pack being written.
struct Writing {
    vault: VaultId,
    name: PackName,
    file: Arc<dyn Append>,
    end: u64,
    rows: Vec<FrameRow>,
    hinted: u64,
    /// It takes more frames.
    is_open: bool,
    /// Its number, once that is committed.
    number: Option<PackNumber>,
    /// A sync has failed.
    failed: Option<FilesError>,
}

/// All packs being written, and all frames that wait.
pub(super) struct Writer {
    run: SessionId,
    numbers: u32,
    packs: Vec<Writing>,
    waiting: HashMap<FrameId, Waiting>,
    /// What no settlement has told yet.
    lost: Vec<LostPack>,
    /// A pack is full with so many bytes.
    pub pack_len: u64,
}

/// What a settlement works on.
struct Batch {
    packs: Vec<BatchPack>,
    frames: Vec<(FrameId, Waiting)>,
}

/// A pack as far as it was written when the batch was taken.
struct BatchPack {
    name: PackName,
    row: PackRow,
    number: Option<PackNumber>,
    file: Arc<dyn Append>,
}

impl CopyStore {
    /// Takes a frame, which is held once [`Self::settle`] has named it. One that is held, waits already, or lies whole
    /// in trash is not written again.
    ///
    /// # Errors
    /// [`CopiesError::WrongBytes`] and [`CopiesError::NoFrame`] before anything is written.
    pub fn put(&self, expected: &FrameId, bytes: &[u8]) -> Result<Put> {
        let header = verified(expected, bytes)?;
        let mut writer = self.0.writer();
        if writer.waiting.contains_key(expected) {
            return Ok(Put::Waits);
        }
        if writer.waiting.len() >= COPIES_WAITING_MAX {
            return Err(CopiesError::SettleFirst { waiting: writer.waiting.len() });
        }
        let waiting = match self.stored(expected)? {
            Stored::Held => return Ok(Put::Held),
            Stored::InTrash => Waiting::Returning,
            Stored::No => writer.append(&*self.0.files, &header, expected, bytes)?,
        };
        writer.waiting.insert(*expected, waiting);
        Ok(Put::Waits)
    }

    fn stored(&self, id: &FrameId) -> Result<Stored> {
        let read = self.0.kv.read()?;
        let Some(state) = rows::frame(&*read, id)? else { return Ok(Stored::No) };
        Ok(match state.standing {
            Standing::Held => Stored::Held,
            Standing::Trash if self.0.is_whole(&*read, id, &state)? => Stored::InTrash,
            Standing::Trash | Standing::Bad => Stored::No,
        })
    }

    /// Returns when everything that was put before is durable and held, or named as lost.
    ///
    /// # Errors
    /// When the index cannot be written: what was put goes on waiting, and settling may be tried again, which then also
    /// names what is lost.
    pub fn settle(&self) -> Result<Settlement> {
        let _turn = self.0.turn();
        let mut batch = self.0.writer().batch();
        let mut failed = HashMap::new();
        for pack in &batch.packs {
            if let Err(error) = pack.file.sync() {
                failed.insert(pack.name, error);
            }
        }
        batch.without(&self.0.writer().give_up(failed));
        let (numbers, durable) = self.0.enter(&batch)?;
        let lost = self.0.writer().settled(&batch, &numbers);
        Ok(Settlement { durable, lost })
    }
}

/// Where the store has a frame, for whoever puts it.
enum Stored {
    Held,
    InTrash,
    No,
}

fn verified(expected: &FrameId, bytes: &[u8]) -> Result<FrameHeader> {
    let no_frame = |source| CopiesError::NoFrame { frame: *expected, source };
    if bytes.len() > FRAME_LEN_MAX {
        return Err(no_frame(FrameError::Field { field: "length", found: bytes.len() as u64 }));
    }
    let found = frame_id(bytes);
    if found != *expected {
        return Err(CopiesError::WrongBytes { expected: *expected, found });
    }
    let header = FrameHeader::parse(bytes).map_err(no_frame)?;
    match header.frame_len as usize == bytes.len() {
        true => Ok(header),
        false => Err(no_frame(FrameError::Short { claimed: header.frame_len as usize, found: bytes.len() })),
    }
}

impl Inner {
    /// Enters packs and frames in one transaction; returns the numbers of the packs, and what is held now.
    fn enter(&self, batch: &Batch) -> Result<(HashMap<PackName, PackNumber>, Vec<FrameId>)> {
        let (mut numbers, mut held) = (HashMap::new(), Vec::with_capacity(batch.frames.len()));
        if batch.packs.is_empty() && batch.frames.is_empty() {
            return Ok((numbers, held));
        }
        let mut write = self.kv.write()?;
        for pack in &batch.packs {
            let number = match pack.number {
                Some(number) => number,
                None => number_of(&mut *write, &pack.name)?,
            };
            rows::put_pack(&mut *write, number, &pack.row)?;
            numbers.insert(pack.name, number);
        }
        let mut changes = Changes::begin(&mut *write)?;
        for (id, waiting) in &batch.frames {
            let is_held = match waiting {
                Waiting::Returning => changes.put_again(id)?,
                Waiting::Appended { pack, row } => {
                    let pack = numbers
                        .get(pack)
                        .copied()
                        .ok_or_else(|| kv::KvError::Damaged(format!("pack {} has no row", pack.file_name())))?;
                    changes.put(id, Place { pack, offset: row.offset }, row.len)?;
                    true
                }
            };
            if is_held {
                held.push(*id);
            }
        }
        changes.finish()?;
        write.commit()?;
        Ok((numbers, held))
    }
}

/// A commit that is reported as failed may have been done: a pack that has a row keeps its number.
fn number_of(write: &mut dyn Write, name: &PackName) -> kv::Result<PackNumber> {
    match rows::packs(write)?.into_iter().find(|(_, row)| row.name == *name) {
        Some((number, _)) => Ok(number),
        None => rows::next_pack(write),
    }
}

impl Batch {
    fn without(&mut self, packs: &HashSet<PackName>) {
        self.packs.retain(|pack| !packs.contains(&pack.name));
        self.frames.retain(|(_, waiting)| match waiting {
            Waiting::Appended { pack, .. } => !packs.contains(pack),
            Waiting::Returning => true,
        });
    }
}

impl Writer {
    pub fn new(run: SessionId) -> Self {
        let pack_len = crate::zoo::units().pack_len;
        Self { run, numbers: 0, packs: Vec::new(), waiting: HashMap::new(), lost: Vec::new(), pack_len }
    }

    /// Whether a frame was put and is not settled: one in trash is about to be held again.
    pub fn is_waiting(&self, id: &FrameId) -> bool {
        self.waiting.contains_key(id)
    }

    /// Gives no more frames to these packs.
    pub fn end(&mut self, packs: &HashSet<PackNumber>) {
        let is_among = |pack: &&mut Writing| pack.number.is_some_and(|number| packs.contains(&number));
        self.packs.iter_mut().filter(is_among).for_each(|pack| pack.is_open = false);
    }

    /// Makes a pack file of this run, with its header, and its name durable.
    pub fn create(&mut self, files: &dyn Files, vault: VaultId, kind: Kind) -> files::Result<NewPack> {
        let name = PackName { session: self.run, kind, number: self.numbers };
        self.numbers += 1;
        files.create_dir(&folder(vault))?;
        let file = files.create(&path(vault, &name))?;
        file.append(&pack::header(vault, &name))?;
        files.sync_dir(&folder(vault))?;
        Ok(NewPack { name, file })
    }

    fn append(
        &mut self,
        files: &dyn Files,
        header: &FrameHeader,
        id: &FrameId,
        bytes: &[u8],
    ) -> files::Result<Waiting> {
        let at = self.open_pack(files, header)?;
        let open = &mut self.packs[at];
        let named = [bytes, &id.0].concat();
        if let Err(error) = open.file.append(&named) {
            // Where the file ends is unknown now. What was appended before is where it was, and may be settled.
            open.is_open = false;
            return Err(error);
        }
        let row = FrameRow { offset: open.end, len: bytes.len() as u32, id: *id };
        open.end += u64::from(row.len) + FRAME_NAME_LEN;
        open.rows.push(row);
        if open.end - open.hinted >= HINT_LEN {
            open.file.hint_flush();
            open.hinted = open.end;
        }
        let pack = open.name;
        if open.end >= self.pack_len {
            open.end_with_directory();
            self.sync_oldest();
        }
        Ok(Waiting::Appended { pack, row })
    }

    /// Which pack takes this frame.
    fn open_pack(&mut self, files: &dyn Files, header: &FrameHeader) -> files::Result<usize> {
        let fits = |pack: &Writing| pack.is_open && pack.vault == header.vault && pack.name.kind == header.kind;
        if let Some(at) = self.packs.iter().position(fits) {
            return Ok(at);
        }
        if self.packs.iter().filter(|pack| pack.is_open).count() >= COPIES_PACKS_OPEN_MAX
            && let Some(oldest) = self.packs.iter_mut().find(|pack| pack.is_open)
        {
            oldest.end_with_directory();
            self.sync_oldest();
        }
        let NewPack { name, file } = self.create(files, header.vault, header.kind)?;
        self.packs.push(Writing {
            vault: header.vault,
            name,
            file,
            end: HEADER_LEN,
            rows: Vec::new(),
            hinted: 0,
            is_open: true,
            number: None,
            failed: None,
        });
        Ok(self.packs.len() - 1)
    }

    /// A sync that fails here is told by the next settlement.
    fn sync_oldest(&mut self) {
        let mut ended = self.packs.iter_mut().filter(|pack| !pack.is_open);
        let Some(oldest) = ended.next() else { return };
        if ended.count() >= UNSYNCED_MAX
            && let Some(oldest) = Some(oldest).filter(|pack| pack.failed.is_none())
            && let Err(error) = oldest.file.sync()
        {
            oldest.failed = Some(error);
        }
    }

    /// Everything that can be settled now.
    fn batch(&self) -> Batch {
        let frames: Vec<_> = self.waiting.iter().map(|(id, waiting)| (*id, *waiting)).collect();
        let with_frames: HashSet<PackName> = frames.iter().filter_map(|(_, waiting)| waiting.pack()).collect();
        let is_due = |pack: &&Writing| !pack.is_open || with_frames.contains(&pack.name);
        let packs = self.packs.iter().filter(is_due).map(Writing::for_batch).collect();
        let mut batch = Batch { packs, frames };
        // In the order of their places, and the same from run to run.
        batch.frames.sort_by_key(|(id, waiting)| (waiting.pack(), waiting.offset(), *id));
        batch
    }

    /// Forgets packs whose sync failed, with all that waits in them, whenever it was put.
    fn give_up(&mut self, mut failed: HashMap<PackName, FilesError>) -> HashSet<PackName> {
        let mut given_up = HashSet::new();
        for mut pack in std::mem::take(&mut self.packs) {
            let Some(error) = pack.failed.take().or_else(|| failed.remove(&pack.name)) else {
                self.packs.push(pack);
                continue;
            };
            let is_in_it = |waiting: &Waiting| waiting.pack() == Some(pack.name);
            let frames = self.waiting.iter().filter(|(_, waiting)| is_in_it(waiting)).map(|(id, _)| *id).collect();
            self.waiting.retain(|_, waiting| !is_in_it(waiting));
            self.lost.push(LostPack { pack: path(pack.vault, &pack.name), frames, error });
            given_up.insert(pack.name);
        }
        given_up
    }

    /// Lets go of what is committed; returns what is lost.
    fn settled(&mut self, batch: &Batch, numbers: &HashMap<PackName, PackNumber>) -> Vec<LostPack> {
        for (id, _) in &batch.frames {
            self.waiting.remove(id);
        }
        let ended: HashSet<PackName> =
            batch.packs.iter().filter(|pack| pack.row.state == PackState::Closed).map(|pack| pack.name).collect();
        self.packs.retain(|pack| !ended.contains(&pack.name));
        for pack in &mut self.packs {
            pack.number = pack.number.or_else(|| numbers.get(&pack.name).copied());
        }
        std::mem::take(&mut self.lost)
    }
}

/// A pack with nothing but its header.
pub(super) struct NewPack {
    pub name: PackName,
    pub file: Arc<dyn Append>,
}

impl Waiting {
    fn pack(&self) -> Option<PackName> {
        match self {
            Self::Appended { pack, .. } => Some(*pack),
            Self::Returning => None,
        }
    }

    fn offset(&self) -> u64 {
        match self {
            Self::Appended { row, .. } => row.offset,
            Self::Returning => 0,
        }
    }
}

impl Writing {
    fn end_with_directory(&mut self) {
        self.is_open = false;
        // A pack without its directory is a good pack too: whoever needs to scans it.
        let _ = self.file.append(&pack::directory(self.end, &self.rows));
    }

    fn for_batch(&self) -> BatchPack {
        let state = if self.is_open { PackState::Open } else { PackState::Closed };
        let row = PackRow { vault: self.vault, name: self.name, end: self.end, state };
        BatchPack { name: self.name, row, number: self.number, file: self.file.clone() }
    }
}
