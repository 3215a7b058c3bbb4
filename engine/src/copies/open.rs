//! Opening a store: making it, taking in what a killed process left, building the index anew.
//!
//! What always holds: a store is opened by one process at a time. Its incarnation is on disk before an index of that
//! incarnation is in place, so a sequence is never counted twice under one incarnation.

use super::changes::Changes;
use super::rows::{self, PackNumber, PackRow, PackState, Place};
use super::write::Writer;
use super::{CopiesError, CopyStore, Inner, PACKS, Result, folder, path};
use crate::env::Env;
use crate::files::Files;
use crate::id::{FrameId, SessionId, VaultId};
use crate::kv::{self, Kv, KvError, KvHome};
use crate::pack::{self, FRAME_NAME_LEN, HEADER_LEN, PackError, PackName, Scanned, Scanner};
use crate::store::Fault;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

const MARK: &str = "copies";
const LOCK: &str = "lock";
const MARK_MAGIC: [u8; 8] = *b"TKCOPY\0\x01";
const MARK_LEN: usize = 64;

/// Problems of one pack that are told one by one.
const PACK_FAULTS_MAX: usize = 100;

/// A store that was opened, and what had to be done for it.
pub struct OpenedCopies {
    /// The store.
    pub store: CopyStore,
    /// The index was missing or damaged and was made again from the packs; what was found bad there.
    pub rebuilt: Option<Vec<Fault>>,
}

/// What the file that names the store says.
enum Mark {
    Missing,
    Damaged,
    Of([u8; 16]),
}

/// An index that may be used.
struct Index {
    kv: Arc<dyn Kv>,
    incarnation: [u8; 16],
}

/// The parts a store is made of.
struct Parts {
    files: Arc<dyn Files>,
    kv_home: Arc<dyn KvHome>,
    env: Env,
}

impl CopyStore {
    /// Opens the store in a folder of its own, and makes it where there is none. `owner` is what others read in the
    /// lock file, e.g. `pid 4711 on host`.
    ///
    /// # Errors
    /// [`CopiesError::Busy`] names who has it open; [`CopiesError::Foreign`] for a folder that holds something else.
    pub fn open(files: Arc<dyn Files>, kv_home: Arc<dyn KvHome>, env: Env, owner: &str) -> Result<OpenedCopies> {
        Parts { files, kv_home, env }.open(owner, false)
    }

    /// As [`Self::open`], and builds the index anew from the packs, whatever state it is in. What was in trash or bad
    /// counts as held again if it verifies.
    pub fn open_rebuilt(
        files: Arc<dyn Files>,
        kv_home: Arc<dyn KvHome>,
        env: Env,
        owner: &str,
    ) -> Result<OpenedCopies> {
        Parts { files, kv_home, env }.open(owner, true)
    }
}

impl Parts {
    fn open(self, owner: &str, is_anew: bool) -> Result<OpenedCopies> {
        let mark = self.mark()?;
        if matches!(mark, Mark::Missing) {
            self.refuse_foreign()?;
        }
        let Some(lock) = self.files.try_lock(LOCK, owner)? else {
            return Err(CopiesError::Busy { owner: self.owner() });
        };
        // It may have been made while we looked.
        let mark = self.mark()?;
        self.files.create_dir(PACKS)?;
        let mut used = None;
        if !is_anew {
            used = self.use_index(&mark)?;
        }
        let (Index { kv, incarnation }, rebuilt) = match used {
            Some(index) => (index, None),
            None => {
                let is_new = matches!(mark, Mark::Missing) && self.files.list(PACKS)?.is_empty();
                let (index, faults) = self.rebuild()?;
                (index, (!is_new).then_some(faults))
            }
        };
        let clock = self.env.clock.elapsed();
        let inner = Inner {
            files: self.files,
            kv,
            incarnation,
            turn: Mutex::default(),
            writer: Mutex::new(Writer::new(SessionId(drawn(&self.env)))),
            ticked: Mutex::new(clock),
            env: self.env,
            _lock: lock,
        };
        Ok(OpenedCopies { store: CopyStore(Arc::new(inner)), rebuilt })
    }

    fn owner(&self) -> String {
        let text = self.files.read_all(LOCK, 1024).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        text.filter(|text| !text.is_empty()).unwrap_or_else(|| "another process".to_owned())
    }

    fn mark(&self) -> Result<Mark> {
        let bytes = match self.files.read_all(MARK, MARK_LEN) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Mark::Missing),
            Err(error) if error.kind() == ErrorKind::FileTooLarge || pack::is_media(&error) => {
                return Ok(Mark::Damaged);
            }
            bytes => bytes?,
        };
        if bytes.len() != MARK_LEN || blake3::hash(&bytes[..32]).as_bytes()[..] != bytes[32..] {
            return Ok(Mark::Damaged);
        }
        match (bytes[..7] == MARK_MAGIC[..7], bytes[7] == MARK_MAGIC[7]) {
            (true, true) => Ok(Mark::Of(std::array::from_fn(|at| bytes[8 + at]))),
            (true, false) => Err(CopiesError::Version { found: bytes[7] }),
            (false, _) => Ok(Mark::Damaged),
        }
    }

    fn write_mark(&self, incarnation: &[u8; 16]) -> Result<()> {
        let mut bytes = [&MARK_MAGIC[..], incarnation, &[0; 8]].concat();
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        Ok(self.files.write_atomic(MARK, &bytes)?)
    }

    /// A folder without a mark may hold what is left of a store, and nothing else.
    fn refuse_foreign(&self) -> Result<()> {
        let listed = match self.files.list("") {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        let is_ours = |name: &str| {
            matches!(name, LOCK | PACKS | "index" | "index.new")
                || name.starts_with("index.broken-")
                || name.ends_with(".tmp")
        };
        match listed.into_iter().find(|file| !is_ours(&file.name)) {
            Some(file) => Err(CopiesError::Foreign { name: file.name }),
            None => Ok(()),
        }
    }

    /// The index as it is, with everything entered that is on disk; `None` if it has to be made anew.
    fn use_index(&self, mark: &Mark) -> Result<Option<Index>> {
        let used = self.kv_home.open().map_err(CopiesError::from).and_then(|kv| match kv {
            Some(kv) => self.use_map(kv, mark),
            None => Ok(None),
        });
        match used {
            Err(CopiesError::Index(KvError::Damaged(_))) => Ok(None),
            used => used,
        }
    }

    fn use_map(&self, kv: Arc<dyn Kv>, mark: &Mark) -> Result<Option<Index>> {
        // A writer that was killed at the end of its commit leaves a state that shows once somebody begins to write.
        drop(kv.write()?);
        let Some(incarnation) = rows::incarnation(&*kv.read()?)? else { return Ok(None) };
        match mark {
            Mark::Of(named) if *named != incarnation => return Ok(None),
            Mark::Of(_) => {}
            Mark::Missing | Mark::Damaged => self.write_mark(&incarnation)?,
        }
        rows::totals(&*kv.read()?)?;
        self.adopt(&*kv)?;
        Ok(Some(Index { kv, incarnation }))
    }

    /// Takes in what a killed process left: frames behind the end of what is indexed, and packs that were about to go.
    fn adopt(&self, kv: &dyn Kv) -> Result<()> {
        let rows: HashMap<_, _> = rows::packs(&*kv.read()?)?
            .into_iter()
            .map(|(number, row)| ((row.vault, row.name), (number, row)))
            .collect();
        let listed = self.packs()?;
        for (number, row) in rows.values().filter(|(_, row)| row.state == PackState::Dropped) {
            super::trash::remove(&*self.files, kv, *number, row)?;
        }
        for (vault, name) in listed {
            let row = match rows.get(&(vault, name)) {
                Some((_, row)) if row.state != PackState::Open => continue,
                Some((_, row)) => *row,
                None => PackRow { vault, name, end: HEADER_LEN, state: PackState::Open },
            };
            let number = rows.get(&(vault, name)).map(|(number, _)| *number);
            let pack = self.look_at(&row)?;
            enter(kv, number, &PackRow { end: row.end.max(pack.end), state: PackState::Closed, ..row }, &pack.frames)?;
        }
        // The files of the others are missing: what was in them is found bad when somebody reads it.
        let mut write = kv.write()?;
        for (number, row) in rows::packs(&*write)?.into_iter().filter(|(_, row)| row.state == PackState::Open) {
            rows::put_pack(&mut *write, number, &PackRow { state: PackState::Closed, ..row })?;
        }
        Ok(write.commit()?)
    }

    /// All packs that are there, by vault and name. Their names are durable then.
    fn packs(&self) -> Result<Vec<(VaultId, PackName)>> {
        let mut found = Vec::new();
        for listed in self.files.list(PACKS)?.iter().filter(|listed| listed.is_dir) {
            let Some(vault) = VaultId::from_hex(&listed.name) else { continue };
            // A killed process leaves names that are readable and not yet on disk.
            self.files.sync_dir(&folder(vault))?;
            let files = self.files.list(&folder(vault))?;
            let names = files.iter().filter(|file| !file.is_dir);
            found.extend(names.filter_map(|file| Some((vault, PackName::from_file_name(&file.name)?))));
        }
        Ok(found)
    }

    /// Draws a new incarnation, then puts an index in place that says what the packs hold.
    fn rebuild(&self) -> Result<(Index, Vec<Fault>)> {
        let incarnation = drawn(&self.env);
        self.write_mark(&incarnation)?;
        let mut faults = Vec::new();
        let mut kept = None;
        let kv = self.kv_home.replace(&mut |kv| {
            faults.clear();
            self.fill(kv, &incarnation, &mut faults).map_err(|error| match error {
                CopiesError::Index(error) => error,
                // It leaves the map's callback as an error of the map, and is put back below.
                other => {
                    let told = KvError::Io(other.to_string());
                    kept = Some(other);
                    told
                }
            })
        });
        match kept {
            Some(error) => Err(error),
            None => Ok((Index { kv: kv?, incarnation }, faults)),
        }
    }

    fn fill(&self, kv: &dyn Kv, incarnation: &[u8; 16], faults: &mut Vec<Fault>) -> Result<()> {
        let mut write = kv.write()?;
        rows::init(&mut *write, incarnation)?;
        write.commit()?;
        let mut bad = Vec::new();
        for (vault, name) in self.packs()? {
            let row = PackRow { vault, name, end: HEADER_LEN, state: PackState::Closed };
            let pack = self.look_at(&row)?;
            let state = if pack.is_suspect { PackState::Suspect } else { PackState::Closed };
            let number = enter(kv, None, &PackRow { end: pack.end, state, ..row }, &pack.frames)?;
            bad.extend(pack.bad.into_iter().map(|found| (number, found)));
            faults.extend(pack.faults);
        }
        let mut write = kv.write()?;
        let mut changes = Changes::begin(&mut *write)?;
        for (pack, Found { id, offset, len }) in bad {
            changes.found_bad(&id, Place { pack, offset }, len)?;
        }
        changes.finish()?;
        Ok(write.commit()?)
    }

    /// Reads a pack from where its row ends, after making durable what is there.
    fn look_at(&self, row: &PackRow) -> Result<LookedAt> {
        let mut looked_at = LookedAt { end: row.end, ..LookedAt::default() };
        match self.scan(row, &mut looked_at) {
            Err(CopiesError::Files(error)) if pack::is_media(&error) || error.kind() == ErrorKind::NotFound => {
                looked_at.is_suspect = true;
                looked_at.fault(row, format!("it cannot be read: {}", error.source));
            }
            result => result?,
        }
        Ok(looked_at)
    }

    fn scan(&self, row: &PackRow, looked_at: &mut LookedAt) -> Result<()> {
        // What is read after it is what the disk holds: a sync that failed may have left in memory what is nowhere else.
        self.files.sync_file(&path(row.vault, &row.name))?;
        let file = self.files.open(&path(row.vault, &row.name))?;
        match pack::check_header(&*file, row.vault, &row.name) {
            Err(PackError::Files(error)) => return Err(error.into()),
            Err(error) => looked_at.fault(row, error.to_string()),
            Ok(()) => {}
        }
        let len = file.len()?;
        let mut scanner = Scanner::new(&*file, row.vault, row.end)?;
        let mut damaged = Vec::new();
        while let Some(scanned) = scanner.next()? {
            match scanned {
                Scanned::Frame { row: found, header, .. } if header.kind == row.name.kind => {
                    looked_at.end = found.offset + u64::from(found.len) + FRAME_NAME_LEN;
                    looked_at.frames.push(Found { id: found.id, offset: found.offset, len: found.len });
                }
                Scanned::Frame { row: found, .. } => {
                    looked_at.fault(row, format!("the frame at {} is of the other kind", found.offset));
                }
                Scanned::Bad { offset, len: bad } => {
                    looked_at.fault(row, format!("{bad} bytes at {offset} are no whole frame"));
                    // At the end it is what was being written when the power went.
                    looked_at.is_suspect |= offset + bad < len;
                    damaged.push((offset, offset + bad));
                }
                Scanned::Directory { matches, .. } if !matches => {
                    looked_at.fault(row, "frames that its directory lists are missing".to_owned());
                }
                Scanned::Directory { .. } => {}
            }
        }
        for (from, to) in damaged {
            let candidates = scanner.candidates(from, to)?.into_iter().map(|(row, _)| row);
            looked_at.bad.extend(candidates.map(|row| Found { id: row.id, offset: row.offset, len: row.len }));
        }
        let ends = looked_at.bad.iter().map(|found| found.offset + u64::from(found.len) + FRAME_NAME_LEN);
        looked_at.end = ends.fold(looked_at.end, u64::max);
        Ok(())
    }
}

/// A frame in a pack.
struct Found {
    id: FrameId,
    offset: u64,
    len: u32,
}

/// What was found in a pack.
#[derive(Default)]
struct LookedAt {
    frames: Vec<Found>,
    /// What may once have been frames.
    bad: Vec<Found>,
    end: u64,
    /// There are bytes between its frames that nobody understands.
    is_suspect: bool,
    faults: Vec<Fault>,
}

impl LookedAt {
    fn fault(&mut self, row: &PackRow, problem: String) {
        if self.faults.len() < PACK_FAULTS_MAX {
            self.faults.push(Fault { file: path(row.vault, &row.name), problem });
        }
    }
}

fn enter(kv: &dyn Kv, number: Option<PackNumber>, row: &PackRow, frames: &[Found]) -> kv::Result<PackNumber> {
    let mut write = kv.write()?;
    let number = match number {
        Some(number) => number,
        None => rows::next_pack(&mut *write)?,
    };
    rows::put_pack(&mut *write, number, row)?;
    let mut changes = Changes::begin(&mut *write)?;
    for found in frames {
        changes.found(&found.id, Place { pack: number, offset: found.offset }, found.len)?;
    }
    changes.finish()?;
    write.commit()?;
    Ok(number)
}

fn drawn(env: &Env) -> [u8; 16] {
    let mut bytes = [0; 16];
    env.entropy.fill(&mut bytes);
    bytes
}
