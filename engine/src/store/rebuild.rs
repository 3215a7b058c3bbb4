//! The index from nothing but packs. Rebuild is admission: every frame is verified, a branch returns only when all
//! below it has returned.

use super::{Fault, StoreError};
use crate::files::{Files, ReadAt};
use crate::frame::{FrameHeader, frame_id};
use crate::id::{Kind, VaultId};
use crate::index::{FramePlace, NewFrame, PackNumber, PackRow, PackState, admit, init, put_pack};
use crate::kv::{Kv, KvError, KvHome};
use crate::limits::FRAME_LEN_MAX;
use crate::pack::{self, PackError, PackName, Scanned, Scanner};
use std::sync::Arc;

/// Builds a new index beside the old one and puts it in place; returns it with what is bad in the packs.
///
/// Nobody may be writing to the vault. Reads every pack once; holds rows of at most `PENDING_ROWS_MAX` chunks.
pub fn rebuild(files: &dyn Files, home: &dyn KvHome, vault: VaultId) -> Result<(Arc<dyn Kv>, Vec<Fault>), StoreError> {
    let listed = files.list(pack::DIR)?;
    let packs = listed.iter().filter(|file| !file.is_dir);
    let mut names: Vec<PackName> = packs.filter_map(|file| PackName::from_file_name(&file.name)).collect();
    // Leaves first: then nearly every branch finds what it needs at once.
    names.sort_by_key(|name| (name.kind, *name));
    // A killed process leaves bytes and names that are readable and not yet on disk.
    files.sync_dir(pack::DIR)?;
    let mut faults = Vec::new();
    let mut failure = None;
    let kv = home.replace(&mut |kv| {
        let mut write = kv.write()?;
        init(&mut *write, vault)?;
        write.commit()?;
        faults.clear();
        let mut rebuild = Rebuild { files, kv, vault, waiting: Vec::new(), rows: 0, faults: &mut faults };
        rebuild.run(&names).map_err(|error| keep(error, &mut failure))
    });
    match (kv, failure) {
        (_, Some(error)) => Err(error),
        (kv, None) => Ok((kv?, faults)),
    }
}

/// An error of the files leaves the map's callback as one of the map, and is put back by the caller.
fn keep(error: StoreError, kept: &mut Option<StoreError>) -> KvError {
    match error {
        StoreError::Index(error) => error,
        other => {
            let told = KvError::Io(other.to_string());
            *kept = Some(other);
            told
        }
    }
}

struct Rebuild<'a> {
    files: &'a dyn Files,
    kv: &'a dyn Kv,
    vault: VaultId,
    waiting: Vec<NewFrame>,
    rows: usize,
    faults: &'a mut Vec<Fault>,
}

impl Rebuild<'_> {
    fn run(&mut self, names: &[PackName]) -> Result<(), StoreError> {
        for (number, name) in names.iter().enumerate() {
            self.pack(PackNumber(number as u32), name, names)?;
        }
        self.flush(names)
    }

    fn pack(&mut self, number: PackNumber, name: &PackName, names: &[PackName]) -> Result<(), StoreError> {
        let mut found = PackFaults::default();
        let state = PackState::Closed;
        let row = match self.scan(number, name, names, &mut found) {
            Ok(end) => PackRow { name: *name, indexed_len: end, state },
            Err(StoreError::Files(error) | StoreError::Pack(PackError::Files(error))) if pack::is_media(&error) => {
                found.add(format!("it cannot be read: {}", error.source));
                PackRow { name: *name, indexed_len: 0, state }
            }
            Err(error) => return Err(error),
        };
        self.faults.extend(found.told(name));
        let mut write = self.kv.write()?;
        put_pack(&mut *write, number, &row)?;
        Ok(write.commit()?)
    }

    /// Takes in all frames of a pack; returns where the last one ends.
    fn scan(
        &mut self,
        number: PackNumber,
        name: &PackName,
        names: &[PackName],
        found: &mut PackFaults,
    ) -> Result<u64, StoreError> {
        self.files.sync_file(&name.path())?;
        let file = self.files.open(&name.path())?;
        match pack::check_header(&*file, self.vault, name) {
            Err(PackError::Header { .. }) => found.add("its header is damaged".to_owned()),
            result => result?,
        }
        let mut scanner = Scanner::new(&*file, self.vault, pack::HEADER_LEN)?;
        let mut complete = false;
        let mut end = pack::HEADER_LEN.min(file.len()?);
        while let Some(scanned) = scanner.next()? {
            match scanned {
                Scanned::Frame { row, header, .. } if header.kind != name.kind => {
                    found.add(format!("the frame at {} is of the other kind", row.offset));
                }
                Scanned::Frame { row, header, is_named } => {
                    if !is_named {
                        found.add(format!("the name behind the frame at {} is damaged; the frame is not", row.offset));
                    }
                    end = row.offset + u64::from(row.len) + pack::FRAME_NAME_LEN;
                    let frame = NewFrame::scanned(number, &row, *header);
                    self.rows += frame.row_count();
                    self.waiting.push(frame);
                }
                Scanned::Bad { offset, len } => found.add(format!("{len} bytes at {offset} are no whole frame")),
                Scanned::Directory { matches, .. } => {
                    complete = true;
                    if !matches {
                        found.add("frames that its directory lists are missing".to_owned());
                    }
                }
            }
            if self.rows >= crate::zoo::units().pending_rows {
                self.flush(names)?;
            }
        }
        if !complete {
            found.add("it has no directory at its end".to_owned());
        }
        Ok(end)
    }

    fn flush(&mut self, names: &[PackName]) -> Result<(), StoreError> {
        let frames = std::mem::take(&mut self.waiting);
        self.rows = 0;
        let read_header = |place: &FramePlace| {
            let name = names.get(place.pack.0 as usize)?;
            let file = self.files.open(&name.path()).ok()?;
            read_header(&*file, place)
        };
        let mut write = self.kv.write()?;
        admit(&mut *write, &frames, &read_header)?;
        Ok(write.commit()?)
    }
}

fn read_header(file: &dyn ReadAt, place: &FramePlace) -> Option<FrameHeader> {
    if place.kind != Kind::Branch || place.len as usize > FRAME_LEN_MAX {
        return None;
    }
    let mut bytes = vec![0; place.len as usize];
    let read = file.read_at(place.offset, &mut bytes).ok()?;
    (read == bytes.len() && frame_id(&bytes) == place.id).then(|| FrameHeader::parse(&bytes).ok())?
}

/// What is wrong with one pack: the first problems in words, the rest counted, whatever the pack holds.
#[derive(Default)]
struct PackFaults {
    problems: Vec<String>,
    more: u64,
}

/// Problems of one pack that are told one by one.
const PACK_FAULTS_MAX: usize = 100;

impl PackFaults {
    fn add(&mut self, problem: String) {
        match self.problems.len() < PACK_FAULTS_MAX {
            true => self.problems.push(problem),
            false => self.more += 1,
        }
    }

    fn told(self, name: &PackName) -> impl Iterator<Item = Fault> {
        let more = (self.more > 0).then(|| format!("{} more problems like these", self.more));
        let file = name.path();
        self.problems.into_iter().chain(more).map(move |problem| Fault { file: file.clone(), problem })
    }
}
