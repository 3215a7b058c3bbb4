//! The local store: packs and records in a folder, the index beside them.
//!
//! ```text
//! packs/    frames            records/  the chain of records, one file each
//! index/    the index         sessions/ one lock file for each writer's run
//! locks/    index, records, keyring, config: held for moments
//! ```

use super::packs::Taken;
use super::session::LocalSession;
use super::{BadFrame, ChainLink, Fault, Place, Result, Session, Store, StoreError, StoredRecord};
use crate::env::Env;
use crate::files::{Files, FilesError, Lock, ReadAt};
use crate::frame::{FrameHeader, frame_id};
use crate::id::{ChunkId, Kind, SessionId, VaultId};
use crate::index::{self, FrameNumber, FramePlace, FrameState, NewFrame, PackNumber, PackRow, Standing};
use crate::kv::memory::MemoryKvHome;
use crate::kv::{self, Kv, KvError, KvHome};
use crate::limits::{FRAME_LEN_MAX, LOCK_WAIT_SECS, PENDING_ROWS_MIN, RECORD_LEN_MAX};
use crate::pack::{self, PackName};
use crate::record::RecordKind;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

pub(crate) const RECORDS: &str = "records";

/// What a record takes in an answer besides its bytes.
const RECORD_COST: usize = 128;
pub(crate) const SESSIONS: &str = "sessions";
const LOCKS: &str = "locks";
const LOCK_POLL: Duration = Duration::from_millis(5);
const OPEN_PACKS_MAX: usize = 128;

/// The parts a local store is made of.
pub(crate) struct Parts {
    pub files: Arc<dyn Files>,
    pub kv_home: Arc<dyn KvHome>,
    pub env: Env,
    pub vault: VaultId,
    /// Who we are in lock files, e.g. `pid 4711`.
    pub owner: String,
}

/// A store in a folder. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct LocalStore(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub parts: Parts,
    pub kv: Arc<dyn Kv>,
    /// Chunks and references that may wait for rows before a session commits on its own.
    pub pending_rows_max: AtomicUsize,
    names: RwLock<HashMap<PackNumber, PackName>>,
    open_packs: Mutex<HashMap<PackNumber, Arc<dyn ReadAt>>>,
}

/// A store that was opened, and what had to be done for it.
pub struct Opened {
    /// The store.
    pub store: LocalStore,
    /// The index was missing or damaged and was made again from the packs; what was found bad there.
    pub rebuilt: Option<Vec<Fault>>,
}

impl LocalStore {
    /// Makes the folders and the empty index of a new vault.
    pub fn create(files: &dyn Files, kv_home: &dyn KvHome, vault: VaultId) -> Result<()> {
        make_folders(files)?;
        kv_home.replace(&mut |kv| {
            let mut write = kv.write()?;
            index::init(&mut *write, vault)?;
            write.commit()
        })?;
        Ok(())
    }

    /// Opens the store of `vault`; an index that is missing or damaged is built from the packs.
    ///
    /// `owner` is what others read in our lock files, e.g. `pid 4711 on host`.
    pub fn open(
        files: Arc<dyn Files>,
        kv_home: Arc<dyn KvHome>,
        env: Env,
        vault: VaultId,
        owner: String,
    ) -> Result<Opened> {
        let parts = Parts { files, kv_home, env, vault, owner };
        match open_index(&parts)? {
            Some(kv) => Ok(Opened { store: Self::with(parts, kv), rebuilt: None }),
            None => Self::rebuild_unless_done(parts),
        }
    }

    /// So many sessions write in this process: rows that wait are shared among them, or many would take much memory.
    /// Sessions that have begun obey at their next put.
    pub fn share_rows(&self, writers: usize) {
        let all = crate::zoo::units().pending_rows;
        let share = (all / writers.max(1)).max(PENDING_ROWS_MIN.min(all));
        self.0.pending_rows_max.store(share, std::sync::atomic::Ordering::Relaxed);
    }

    /// How many chunks and references wait for rows before a session commits by itself, at least 1. Sessions that have
    /// begun obey at their next put.
    #[cfg(test)]
    pub(super) fn set_pending_rows_max(&self, rows: usize) {
        self.0.pending_rows_max.store(rows.max(1), std::sync::atomic::Ordering::Relaxed);
    }

    /// Builds the index anew from the packs, whatever state it is in.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another process writes to the vault.
    pub fn reopen_rebuilt(
        files: Arc<dyn Files>,
        kv_home: Arc<dyn KvHome>,
        env: Env,
        vault: VaultId,
        owner: String,
    ) -> Result<Opened> {
        let parts = Parts { files, kv_home, env, vault, owner };
        make_folders(&*parts.files)?;
        let lock = parts.lock("index")?;
        Self::rebuild(parts, &*lock)
    }

    /// Builds an index in memory from the packs; nothing on disk changes. About 150 bytes a chunk.
    pub fn open_aside(
        files: Arc<dyn Files>,
        kv_home: Arc<dyn KvHome>,
        env: Env,
        vault: VaultId,
        owner: String,
    ) -> Result<Opened> {
        Self::rebuild_in_memory(Parts { files, kv_home, env, vault, owner })
    }

    /// Opens the store if its index can be used as it is.
    pub fn peek(
        files: Arc<dyn Files>,
        kv_home: Arc<dyn KvHome>,
        env: Env,
        vault: VaultId,
        owner: String,
    ) -> Result<Option<Self>> {
        let parts = Parts { files, kv_home, env, vault, owner };
        Ok(open_index(&parts)?.map(|kv| Self::with(parts, kv)))
    }

    fn rebuild_unless_done(parts: Parts) -> Result<Opened> {
        let lock = match make_folders(&*parts.files).and_then(|()| parts.lock("index")) {
            Err(StoreError::Files(error)) if is_forbidden(&error) => return Self::rebuild_in_memory(parts),
            lock => lock?,
        };
        // Another process may have built it while we waited.
        match open_index(&parts)? {
            Some(kv) => Ok(Opened { store: Self::with(parts, kv), rebuilt: None }),
            None => Self::rebuild(parts, &*lock),
        }
    }

    /// For a vault that may only be read: its index is made for this process alone, about 150 bytes a chunk.
    fn rebuild_in_memory(parts: Parts) -> Result<Opened> {
        let (kv, faults) = super::rebuild::rebuild(&*parts.files, &MemoryKvHome::new(), &*parts.kv_home, parts.vault)?;
        Ok(Opened { store: Self::with(parts, kv), rebuilt: Some(faults) })
    }

    /// Sessions begin under the index lock, so none begins while this one holds it.
    fn rebuild(parts: Parts, _index: &dyn Lock) -> Result<Opened> {
        let _sessions = super::adopt::lock_all_sessions(&parts)?;
        let (kv, faults) = super::rebuild::rebuild(&*parts.files, &*parts.kv_home, &*parts.kv_home, parts.vault)?;
        Ok(Opened { store: Self::with(parts, kv), rebuilt: Some(faults) })
    }

    fn with(parts: Parts, kv: Arc<dyn Kv>) -> Self {
        Self(Arc::new(Inner {
            parts,
            kv,
            pending_rows_max: AtomicUsize::new(crate::zoo::units().pending_rows),
            names: RwLock::default(),
            open_packs: Mutex::default(),
        }))
    }

    /// Takes one of the short locks: `index`, `records`, `keyring`, `config`. Waits for whoever holds it up to `LOCK_WAIT_SECS`.
    pub(crate) fn lock(&self, what: &'static str) -> Result<Box<dyn Lock>> {
        self.0.parts.lock(what)
    }

    /// As [`Self::lock`] without waiting, for locks that may be held for long.
    ///
    /// # Errors
    /// [`StoreError::Busy`] names who holds it.
    pub fn try_lock(&self, what: &'static str) -> Result<Box<dyn Lock>> {
        let parts = &self.0.parts;
        let path = format!("{LOCKS}/{what}");
        match parts.files.try_lock(&path, &parts.owner)? {
            Some(lock) => Ok(lock),
            None => Err(StoreError::Busy { what, owner: parts.owner_of(&path) }),
        }
    }

    /// The files below, for tools that look at the vault from outside.
    pub fn files(&self) -> &Arc<dyn Files> {
        &self.0.parts.files
    }
}

fn make_folders(files: &dyn Files) -> Result<()> {
    for dir in [pack::DIR, RECORDS, SESSIONS, LOCKS] {
        files.create_dir(dir)?;
    }
    Ok(())
}

fn open_index(parts: &Parts) -> Result<Option<Arc<dyn Kv>>> {
    let kv = match parts.kv_home.open() {
        Ok(Some(kv)) => kv,
        Ok(None) | Err(KvError::Damaged(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let belongs = index::belongs(&*kv.read()?, parts.vault);
    match belongs {
        Ok(true) => Ok(Some(kv)),
        Ok(false) | Err(KvError::Damaged(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_forbidden(error: &FilesError) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

impl Parts {
    /// Takes one of the short locks, waiting for whoever holds it up to `LOCK_WAIT_SECS`.
    pub fn lock(&self, what: &'static str) -> Result<Box<dyn Lock>> {
        let path = format!("{LOCKS}/{what}");
        let deadline = self.env.clock.elapsed() + Duration::from_secs(LOCK_WAIT_SECS);
        loop {
            if let Some(lock) = self.files.try_lock(&path, &self.owner)? {
                return Ok(lock);
            }
            if self.env.clock.elapsed() >= deadline {
                return Err(StoreError::Busy { what, owner: self.owner_of(&path) });
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// What the holder of a lock wrote into its file.
    pub fn owner_of(&self, path: &str) -> String {
        let text = self.files.read_all(path, 1024).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        text.filter(|text| !text.is_empty()).unwrap_or_else(|| "another process".to_owned())
    }
}

impl Inner {
    /// Takes the index lock for somebody who reads the index before writing to it. A writer that was killed at the end
    /// of its commit leaves a state that is durable and that reads do not show yet, until somebody begins to write.
    /// Numbers taken from the state before it would be given twice.
    pub fn lock_index(&self) -> Result<Box<dyn Lock>> {
        let lock = self.parts.lock("index")?;
        drop(self.kv.write()?);
        Ok(lock)
    }

    /// Makes frames durable and enters them; returns these and the branches from before that were healed by them.
    pub fn commit(&self, taken: Taken) -> Result<(Vec<NewFrame>, Vec<ChunkId>)> {
        let rows_first = crate::zoo::planted("rows-before-sync");
        let sync = || taken.unsynced.iter().try_for_each(|file| file.sync());
        if !rows_first && !crate::zoo::planted("skip-pack-sync") {
            sync()?;
        }
        if taken.frames.is_empty() && taken.packs.is_empty() {
            return Ok(Default::default());
        }
        let _lock = self.parts.lock("index")?;
        let mut write = self.kv.write()?;
        let numbers = self.put_packs(&mut *write, &taken)?;
        let mut frames = Vec::with_capacity(taken.frames.len());
        for put in taken.frames {
            let number = numbers.get(&put.pack).copied().ok_or_else(|| {
                StoreError::Index(KvError::Damaged(format!("pack {} has no row", put.pack.file_name())))
            })?;
            frames.push(NewFrame { place: super::packs::place(&put, number), ids: put.ids, refs: put.refs });
        }
        let healed = index::admit(&mut *write, &frames, &|place| self.header_of(place))?;
        write.commit()?;
        // Not before: a number that was not committed may become another pack's.
        self.names.write().unwrap_or_else(PoisonError::into_inner).extend(numbers.iter().map(|(name, n)| (*n, *name)));
        if rows_first {
            taken.unsynced.iter().try_for_each(|file| file.sync())?;
        }
        index::settle_young(&*self.kv)?;
        Ok((frames, healed))
    }

    /// Enters the progress of packs; returns the number of each.
    pub fn put_packs(&self, write: &mut dyn kv::Write, taken: &Taken) -> Result<HashMap<PackName, PackNumber>> {
        let mut numbers = self.numbers(write, taken)?;
        for progress in &taken.packs {
            let number = match numbers.get(&progress.name) {
                Some(&number) => number,
                None => index::next_pack(write)?,
            };
            let state = if progress.closed { index::PackState::Closed } else { index::PackState::Open };
            index::put_pack(write, number, &PackRow { name: progress.name, indexed_len: progress.frames_end, state })?;
            numbers.insert(progress.name, number);
        }
        Ok(numbers)
    }

    /// Numbers of the packs in `taken` that have one. A session's packs are few, so the rows are looked through once.
    fn numbers(&self, read: &dyn kv::Read, taken: &Taken) -> Result<HashMap<PackName, PackNumber>> {
        let wanted: std::collections::HashSet<_> = taken.packs.iter().map(|progress| progress.name).collect();
        let known = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let remembered: HashMap<_, _> =
            known.iter().filter(|(_, name)| wanted.contains(name)).map(|(n, name)| (*name, *n)).collect();
        drop(known);
        if remembered.len() == wanted.len() {
            return Ok(remembered);
        }
        let all = index::packs(read)?;
        Ok(all.into_iter().filter(|(_, row)| wanted.contains(&row.name)).map(|(n, row)| (row.name, n)).collect())
    }

    /// The clear header of a stored frame; `None` if that cannot be read or is not what was stored.
    pub fn header_of(&self, place: &FramePlace) -> Option<FrameHeader> {
        self.stored_header(place).ok().flatten()
    }

    /// Like [`Self::header_of`], but errors that say nothing about the frame stay errors.
    pub fn stored_header(&self, place: &FramePlace) -> Result<Option<FrameHeader>> {
        let mut bytes = Vec::new();
        match self.read_at(place.pack, place.offset, place.len, &mut bytes) {
            Err(StoreError::Files(error)) if error.kind() == ErrorKind::NotFound || pack::is_media(&error) => {
                return Ok(None);
            }
            result => result?,
        }
        match frame_id(&bytes) == place.id {
            true => Ok(FrameHeader::parse(&bytes).ok()),
            false => Ok(None),
        }
    }

    /// The file name of a pack.
    pub fn name(&self, number: PackNumber) -> Result<PackName> {
        if let Some(name) = self.names.read().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(*name);
        }
        let all = index::packs(&*self.kv.read()?)?;
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.extend(all.iter().map(|(number, row)| (*number, row.name)));
        names.get(&number).copied().ok_or_else(|| KvError::Damaged(format!("pack {} has no row", number.0)).into())
    }

    fn pack_file(&self, number: PackNumber) -> Result<Arc<dyn ReadAt>> {
        if let Some(file) = self.open_packs.lock().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(file.clone());
        }
        let file = pack::open(&*self.parts.files, &self.name(number)?)?;
        let mut open = self.open_packs.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_PACKS_MAX {
            open.clear();
        }
        open.insert(number, file.clone());
        Ok(file)
    }

    /// Forgets a pack's file and name: it is about to go.
    pub fn close_pack(&self, number: PackNumber) {
        self.open_packs.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.names.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Reads `len` bytes of a pack into `bytes`; shorter at the end of the file.
    pub fn read_at(&self, pack: PackNumber, offset: u64, len: u32, bytes: &mut Vec<u8>) -> Result<()> {
        if len as usize > FRAME_LEN_MAX {
            return Err(KvError::Damaged(format!("a frame of {len} bytes cannot be")).into());
        }
        self.read_whole(pack, offset, len, bytes)
    }

    /// The same for whoever has looked at the length.
    pub(super) fn read_whole(&self, pack: PackNumber, offset: u64, len: u32, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.resize(len as usize, 0);
        let read = self.pack_file(pack)?.read_at(offset, bytes)?;
        bytes.truncate(read);
        Ok(())
    }

    /// Records from a count on, as many as have so many bytes together, and always one if there is any; and whether there
    /// are more. Only those are read.
    pub(super) fn records_from(&self, from: u64, len_max: usize) -> Result<(Vec<StoredRecord>, bool)> {
        let mut files = record_files(&*self.parts.files)?;
        files.retain(|(count, _)| *count >= from);
        let (mut records, mut len) = (Vec::new(), 0);
        let mut left = files.into_iter().peekable();
        for file in left.by_ref() {
            let record = self.read_record(file);
            len += RECORD_COST + record.bytes.as_ref().map_or(0, Vec::len);
            if !records.is_empty() && len > len_max {
                return Ok((records, true));
            }
            records.push(record);
        }
        Ok((records, left.peek().is_some()))
    }

    fn read_record(&self, (count, name): (u64, String)) -> StoredRecord {
        let name = format!("{RECORDS}/{name}");
        let bytes = self.parts.files.read_all(&name, RECORD_LEN_MAX);
        StoredRecord { count, bytes: bytes.map_err(|error| format!("{error}: {}", error.source)), name }
    }

    /// Appends a record to the chain; none where `make` builds none.
    pub fn append_record(&self, make: &mut dyn FnMut(ChainLink) -> Option<Vec<u8>>) -> Result<Option<ChainLink>> {
        let _lock = self.parts.lock("records")?;
        let last = record_files(&*self.parts.files)?.pop();
        let link = match last {
            None => ChainLink { count: 1, previous: [0; 32], received: None },
            Some((count, name)) => {
                // Its writer may have been killed before its name was durable, and the chain must never have a gap.
                if !crate::zoo::planted("record-behind-loose-one") {
                    self.parts.files.sync_dir(RECORDS)?;
                }
                let path = format!("{RECORDS}/{name}");
                let next = count.checked_add(1).ok_or_else(|| refused(&path, ErrorKind::InvalidData))?;
                ChainLink { count: next, previous: self.hash_of_record(&path)?, received: None }
            }
        };
        let path = format!("{RECORDS}/{:016x}", link.count);
        let Some(bytes) = make(link) else { return Ok(None) };
        // Longer, it could not be read again, and the chain would end here.
        if bytes.len() > RECORD_LEN_MAX {
            return Err(refused(&path, ErrorKind::FileTooLarge).into());
        }
        write_record(&*self.parts.files, &path, &bytes)?;
        Ok(Some(link))
    }
}

impl Inner {
    /// What the record behind this one carries. One that is damaged is hashed as it is; of one that the medium does not
    /// give, or that is too long to be one, nothing can be said, and that must not end all backups.
    fn hash_of_record(&self, path: &str) -> Result<[u8; 32]> {
        match self.parts.files.read_all(path, RECORD_LEN_MAX) {
            Ok(bytes) => Ok(*blake3::hash(&bytes).as_bytes()),
            Err(error) if pack::is_media(&error) || error.kind() == ErrorKind::FileTooLarge => Ok([0; 32]),
            Err(error) => Err(error.into()),
        }
    }
}

fn refused(path: &str, kind: ErrorKind) -> FilesError {
    FilesError { action: "append record", path: path.to_owned(), source: kind.into() }
}

fn write_record(files: &dyn Files, path: &str, bytes: &[u8]) -> Result<()> {
    let is_change = bytes.get(6) == Some(&(RecordKind::Change as u8));
    if crate::zoo::planted("record-not-synced") || (is_change && crate::zoo::planted("change-not-synced")) {
        let aside = format!("{path}.tmp");
        files.create(&aside)?.append(bytes)?;
        files.rename(&aside, path)?;
        return Ok(files.sync_dir(RECORDS)?);
    }
    if crate::zoo::planted("record-name-not-synced") {
        let aside = format!("{path}.tmp");
        let _ = files.remove(&aside);
        let file = files.create(&aside)?;
        file.append(bytes)?;
        file.sync()?;
        return Ok(files.rename(&aside, path)?);
    }
    Ok(files.write_atomic(path, bytes)?)
}

/// Count and name of every record file, in order. Files with other names are left alone.
///
/// A folder that changes while it is listed may show a name and not the one that came before it. So a gap is believed
/// only if it is there in a second listing, begun when all up to the first one's last had come.
pub(super) fn record_files(files: &dyn Files) -> Result<Vec<(u64, String)>> {
    let first = list_records(files)?;
    let Some(last) = first.last().map(|(count, _)| *count).filter(|last| *last > first.len() as u64) else {
        return Ok(first);
    };
    let mut second = list_records(files)?;
    second.retain(|(count, _)| *count <= last);
    Ok(second)
}

fn list_records(files: &dyn Files) -> Result<Vec<(u64, String)>> {
    let named = files.list(RECORDS)?.into_iter().filter(|file| !file.is_dir);
    let counted = named.filter_map(|file| Some((u64::from_str_radix(&file.name, 16).ok()?, file.name)));
    Ok(counted.filter(|(count, name)| *count > 0 && format!("{count:016x}") == *name).collect())
}

impl Store for LocalStore {
    fn vault(&self) -> VaultId {
        self.0.parts.vault
    }

    fn known(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let read = self.0.kv.read()?;
        Ok(ids.iter().map(|id| index::View::FIRM.has(&*read, id)).collect::<kv::Result<_>>()?)
    }

    fn whole(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let read = self.0.kv.read()?;
        let is_whole = |id| Ok(matches!(index::standing(&*read, id)?, Standing::Firm | Standing::Condemned));
        Ok(ids.iter().map(is_whole).collect::<kv::Result<_>>()?)
    }

    fn places(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>> {
        let read = self.0.kv.read()?;
        let place = |id: &ChunkId| -> kv::Result<Option<Place>> {
            let Some(row) = index::chunk(&*read, id)? else { return Ok(None) };
            let frame = index::frame(&*read, row.frame)?;
            Ok(Some(Place { position: row.position, ..whole_frame(row.frame, &frame) }))
        };
        Ok(ids.iter().map(place).collect::<kv::Result<_>>()?)
    }

    fn read_frame(&self, place: &Place, bytes: &mut Vec<u8>) -> Result<()> {
        let Err(error) = self.0.read_at(place.pack, place.offset, place.len, bytes) else { return Ok(()) };
        match index::frame_if_any(&*self.0.kv.read()?, place.number)? {
            Some(now) if (now.pack, now.offset) == (place.pack, place.offset) => Err(error),
            Some(now) => self.0.read_at(now.pack, now.offset, now.len, bytes),
            None => Err(StoreError::Gone { frame: place.frame }),
        }
    }

    fn frames(&self, from: FrameNumber, count: usize) -> Result<Vec<Place>> {
        let rows = index::frames_from(&*self.0.kv.read()?, from, count)?;
        Ok(rows.iter().map(|(number, place)| whole_frame(*number, place)).collect())
    }

    fn pack_name(&self, pack: PackNumber) -> Result<String> {
        Ok(self.0.name(pack)?.file_name())
    }

    fn begin(&self) -> Result<Box<dyn Session>> {
        let mut id = [0; 16];
        self.0.parts.env.entropy.fill(&mut id);
        Ok(Box::new(LocalSession::begin(self.0.clone(), SessionId(id))?))
    }

    fn records(&self) -> Result<Vec<StoredRecord>> {
        let files = record_files(&*self.0.parts.files)?;
        Ok(files.into_iter().map(|file| self.0.read_record(file)).collect())
    }

    fn append(&self, make: &mut dyn FnMut(ChainLink) -> Option<Vec<u8>>) -> Result<Option<ChainLink>> {
        self.0.append_record(make)
    }

    fn pin(&self, root: ChunkId) -> Result<Option<Box<dyn Send + Sync>>> {
        Ok(LocalStore::pin(self, root)?.map(|pin| Box::new(pin) as Box<dyn Send + Sync>))
    }

    fn expel(&self, frames: &[BadFrame]) -> Result<Vec<ChunkId>> {
        self.0.expel(frames)
    }

    fn unwhole(&self) -> Result<Vec<ChunkId>> {
        Ok(index::unwhole(&*self.0.kv.read()?)?)
    }

    fn audit(&self) -> Result<Vec<Fault>> {
        self.0.audit()
    }
}

pub(super) fn whole_frame(number: FrameNumber, place: &FramePlace) -> Place {
    Place {
        number,
        frame: place.id,
        pack: place.pack,
        offset: place.offset,
        len: place.len,
        kind: place.kind,
        position: 0,
        is_believed: place.state == FrameState::Good,
    }
}

/// Whether a frame is of a kind and still believed.
pub(crate) fn is_good(place: &FramePlace, kind: Kind) -> bool {
    place.kind == kind && place.state == FrameState::Good
}
