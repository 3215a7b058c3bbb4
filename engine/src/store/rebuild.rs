//! The index from nothing but packs. Rebuild is admission: every frame is verified, a branch returns only when all
//! below it has returned.

use super::{Fault, StoreError};
use crate::files::{Files, FilesError, ReadAt};
use crate::id::{Kind, VaultId};
use crate::index::{FramePlace, NewFrame, PackNumber, PackRow, PackState, admit, init, put_pack};
use crate::kv::{Kv, KvError, KvHome};
use crate::pack::{self, PackName, Scanned, Scanner};
use std::sync::Arc;

/// Builds a new index beside the old one and puts it in place; returns it with what is bad in the packs.
///
/// Nobody may be writing to the vault. Reads every pack once; holds rows of at most `PENDING_ROWS_MAX` chunks.
pub fn rebuild(files: &dyn Files, home: &dyn KvHome, vault: VaultId) -> Result<(Arc<dyn Kv>, Vec<Fault>), StoreError> {
    let mut names: Vec<PackName> =
        files.list(pack::DIR)?.iter().filter_map(|file| PackName::from_file_name(&file.name)).collect();
    // Leaves first: then nearly every branch finds what it needs at once.
    names.sort_by_key(|name| (name.kind, *name));
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
        let file = self.files.open(&name.path())?;
        if pack::check_header(&*file, self.vault, name).is_err() {
            self.fault(name, "its header is damaged".to_owned());
        }
        let mut scanner = Scanner::new(&*file, self.vault, pack::HEADER_LEN)?;
        let mut complete = false;
        let mut end = pack::HEADER_LEN;
        loop {
            match self.next(&mut scanner, name)? {
                None => break,
                Some(Scanned::Frame { row, header }) => {
                    end = row.offset + u64::from(row.len) + pack::FRAME_NAME_LEN;
                    if header.kind != name.kind {
                        self.fault(name, format!("the frame at {} is of the other kind", row.offset));
                        continue;
                    }
                    self.rows += header.ids.len();
                    self.waiting.push(NewFrame::scanned(number, &row, *header));
                }
                Some(Scanned::Bad { offset, len }) => {
                    self.fault(name, format!("{len} bytes at {offset} are no whole frame"));
                }
                Some(Scanned::Directory { matches, .. }) => {
                    complete = true;
                    if !matches {
                        self.fault(name, "frames that its directory lists are missing".to_owned());
                    }
                }
            }
            if self.rows >= crate::zoo::units().pending_rows {
                self.flush(names)?;
            }
        }
        if !complete {
            self.fault(name, "it has no directory at its end".to_owned());
        }
        let mut write = self.kv.write()?;
        put_pack(&mut *write, number, &PackRow { name: *name, indexed_len: end, state: PackState::Closed })?;
        Ok(write.commit()?)
    }

    /// The next thing in a pack; a read error is a fault of that pack and ends it.
    fn next(&mut self, scanner: &mut Scanner<'_>, name: &PackName) -> Result<Option<Scanned>, StoreError> {
        match scanner.next() {
            Ok(scanned) => Ok(scanned),
            Err(FilesError { source, .. }) if is_media(&source) => {
                self.fault(name, format!("it cannot be read: {source}"));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn fault(&mut self, name: &PackName, problem: String) {
        self.faults.push(Fault { file: name.path(), problem });
    }

    fn flush(&mut self, names: &[PackName]) -> Result<(), StoreError> {
        let frames = std::mem::take(&mut self.waiting);
        self.rows = 0;
        let read_refs = |place: &FramePlace, position: u16| {
            let name = names.get(place.pack.0 as usize)?;
            let file = self.files.open(&name.path()).ok()?;
            read_refs(&*file, place, position)
        };
        let mut write = self.kv.write()?;
        admit(&mut *write, &frames, &read_refs)?;
        Ok(write.commit()?)
    }
}

fn read_refs(file: &dyn ReadAt, place: &FramePlace, position: u16) -> Option<Vec<crate::id::ChunkId>> {
    if place.kind != Kind::Branch || place.len as usize > crate::limits::FRAME_LEN_MAX {
        return None;
    }
    let mut bytes = vec![0; place.len as usize];
    file.read_at(place.offset, &mut bytes).ok()?;
    let header = crate::frame::FrameHeader::parse(&bytes).ok()?;
    Some(header.refs(position.into()).to_vec())
}

/// Whether an error speaks of the medium, not of this process (no memory, no descriptors, no rights).
fn is_media(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}
