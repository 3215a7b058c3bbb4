//! The index from nothing but packs. Rebuild is admission: every frame is verified, a branch returns only when all
//! below it has returned.

use super::{Fault, StoreError, salvage};
use crate::files::{Files, ReadAt};
use crate::frame::{FrameHeader, frame_id};
use crate::id::{Kind, VaultId};
use crate::index::{
    FramePlace, NewFrame, PackNumber, PackRow, PackState, View, admit, init, put_pack, put_suspects, settle_young,
};
use crate::kv::{Kv, KvError, KvHome};
use crate::limits::FRAME_LEN_MAX;
use crate::pack::{self, PackError, PackName, Scanned, Scanner};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::ErrorKind;
use std::sync::Arc;

/// Builds a new index beside the old one and puts it in place; returns it with what is bad in the packs.
///
/// What does not verify gets no standing, and is not forgotten either: where its header can be understood, or `old`,
/// the index there was, knows of it, its chunks become suspects.
///
/// Nobody may be writing to the vault. Reads every pack once; holds rows of at most `PENDING_ROWS_MAX` chunks, and 40
/// bytes for each frame.
pub fn rebuild(
    files: &dyn Files,
    home: &dyn KvHome,
    old: &dyn KvHome,
    vault: VaultId,
) -> Result<(Arc<dyn Kv>, Vec<Fault>), StoreError> {
    let mut faults = Vec::new();
    let mut failure = None;
    let kv = home.replace(&mut |kv| {
        let mut write = kv.write()?;
        init(&mut *write, vault)?;
        write.commit()?;
        faults.clear();
        let mut run = || -> Result<(), StoreError> {
            // Let go of again before this ends: what is open cannot be replaced.
            let old = salvage::Old::open(old, vault)?;
            let sources = sources(files, old.as_ref())?;
            let mut rebuild =
                Rebuild { files, kv, vault, waiting: Vec::new(), rows: 0, damaged: Vec::new(), faults: &mut faults };
            rebuild.run(&sources)?;
            match old.filter(|_| !crate::zoo::planted("repair-forgets-old-index")) {
                Some(old) => old.give_suspects(kv, &sources),
                None => Ok(()),
            }
        };
        run().map_err(|error| keep(error, &mut failure))
    });
    match (kv, failure) {
        (_, Some(error)) => Err(error),
        (kv, None) => Ok((kv?, faults)),
    }
}

/// A pack to be read, or missed.
pub(super) struct Source {
    pub name: PackName,
    /// How it will stand in the index. What was set aside counts last.
    pub state: PackState,
}

/// Leaves first: then nearly every branch finds what it needs at once. A pack the old index knows is looked for by its
/// name: that it is not listed proves nothing.
fn sources(files: &dyn Files, old: Option<&salvage::Old>) -> Result<Vec<Source>, StoreError> {
    let mut found: BTreeMap<(Kind, PackName), PackState> = BTreeMap::new();
    // A killed process leaves bytes and names that are readable and not yet on disk.
    files.sync_dir(pack::DIR)?;
    for (dir, state) in [(pack::DIR, PackState::Closed), (pack::ASIDE, PackState::Aside)] {
        let listed = match files.list(dir) {
            Err(error) if dir == pack::ASIDE && error.kind() == ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let packs = listed.iter().filter(|file| !file.is_dir);
        for name in packs.filter_map(|file| PackName::from_file_name(&file.name)) {
            found.entry((name.kind, name)).or_insert(state);
        }
    }
    for name in old.map(salvage::Old::pack_names).transpose()?.unwrap_or_default() {
        if let Entry::Vacant(vacant) = found.entry((name.kind, name)) {
            let state = match pack::open(files, &name) {
                Ok(_) => PackState::Closed,
                Err(error) if error.kind() == ErrorKind::NotFound => PackState::Lost,
                Err(error) => return Err(error.into()),
            };
            vacant.insert(state);
        }
    }
    let mut sources: Vec<Source> = found.into_iter().map(|((_, name), state)| Source { name, state }).collect();
    sources.sort_by_key(|source| source.state == PackState::Aside);
    Ok(sources)
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
    /// Frames of the present pack that do not verify.
    damaged: Vec<NewFrame>,
    faults: &'a mut Vec<Fault>,
}

impl Rebuild<'_> {
    fn run(&mut self, sources: &[Source]) -> Result<(), StoreError> {
        for (number, source) in sources.iter().enumerate() {
            match source.state {
                PackState::Lost => self.enter_pack(PackNumber(number as u32), source, 0)?,
                _ => self.pack(PackNumber(number as u32), source, sources)?,
            }
        }
        self.flush(sources)
    }

    fn pack(&mut self, number: PackNumber, source: &Source, sources: &[Source]) -> Result<(), StoreError> {
        let mut found = PackFaults::default();
        if source.state == PackState::Aside {
            // Everything else comes first.
            self.flush(sources)?;
        }
        let end = match self.scan(number, source, sources, &mut found) {
            Ok(end) => end,
            Err(StoreError::Files(error) | StoreError::Pack(PackError::Files(error))) if pack::is_media(&error) => {
                found.add(format!("it cannot be read: {}", error.source));
                0
            }
            Err(error) => return Err(error),
        };
        // Of what was set aside nothing better is expected.
        if source.state != PackState::Aside {
            self.faults.extend(found.told(&source.name));
        }
        self.enter_pack(number, source, end)
    }

    fn enter_pack(&mut self, number: PackNumber, source: &Source, end: u64) -> Result<(), StoreError> {
        let damaged = std::mem::take(&mut self.damaged);
        let mut write = self.kv.write()?;
        put_pack(&mut *write, number, &PackRow { name: source.name, indexed_len: end, state: source.state })?;
        put_suspects(&mut *write, &damaged)?;
        Ok(write.commit()?)
    }

    /// Whether a frame has anything that is not known from elsewhere.
    fn is_wanted(&self, source: &Source, header: &FrameHeader) -> Result<bool, StoreError> {
        if source.state != PackState::Aside {
            return Ok(true);
        }
        let read = self.kv.read()?;
        for id in &header.ids {
            if !View::FIRM.has(&*read, id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes in all frames of a pack; returns where the last one ends.
    fn scan(
        &mut self,
        number: PackNumber,
        source: &Source,
        sources: &[Source],
        found: &mut PackFaults,
    ) -> Result<u64, StoreError> {
        let name = &source.name;
        match source.state {
            PackState::Aside => self.files.sync_file(&name.aside_path())?,
            _ => self.files.sync_file(&name.path())?,
        }
        let file = pack::open(self.files, name)?;
        match pack::check_header(&*file, self.vault, name) {
            Err(PackError::Header { .. }) => found.add("its header is damaged".to_owned()),
            result => result?,
        }
        let mut scanner = Scanner::new(&*file, self.vault, pack::HEADER_LEN)?;
        let mut bad = Vec::new();
        let mut complete = false;
        let mut end = pack::HEADER_LEN.min(file.len()?);
        while let Some(scanned) = scanner.next()? {
            match scanned {
                Scanned::Frame { row, header, .. } if header.kind != name.kind => {
                    found.add(format!("the frame at {} is of the other kind", row.offset));
                }
                Scanned::Frame { header, .. } if !self.is_wanted(source, &header)? => {}
                Scanned::Frame { row, header, is_named } => {
                    if !is_named {
                        found.add(format!("the name behind the frame at {} is damaged; the frame is not", row.offset));
                    }
                    end = row.offset + u64::from(row.len) + pack::FRAME_NAME_LEN;
                    let frame = NewFrame::scanned(number, &row, *header);
                    self.rows += frame.row_count();
                    self.waiting.push(frame);
                }
                Scanned::Bad { offset, len } => {
                    found.add(format!("{len} bytes at {offset} are no whole frame"));
                    bad.push(offset..offset + len);
                }
                Scanned::Directory { matches, .. } => {
                    complete = true;
                    if !matches {
                        found.add("frames that its directory lists are missing".to_owned());
                    }
                }
            }
            if self.rows >= crate::zoo::units().pending_rows {
                self.flush(sources)?;
            }
        }
        if !bad.is_empty() {
            self.flush(sources)?;
        }
        for range in bad {
            let candidates = scanner.candidates(range.start, range.end)?.into_iter();
            let damaged = candidates.filter(|(_, header)| header.kind == name.kind);
            self.damaged.extend(damaged.map(|(row, header)| NewFrame::scanned(number, &row, header)));
        }
        if !complete {
            found.add("it has no directory at its end".to_owned());
        }
        Ok(end)
    }

    fn flush(&mut self, sources: &[Source]) -> Result<(), StoreError> {
        let frames = std::mem::take(&mut self.waiting);
        self.rows = 0;
        let read_header = |place: &FramePlace| {
            let source = sources.get(place.pack.0 as usize)?;
            let file = pack::open(self.files, &source.name).ok()?;
            read_header(&*file, place)
        };
        let mut write = self.kv.write()?;
        admit(&mut *write, &frames, &read_header)?;
        write.commit()?;
        Ok(settle_young(self.kv)?)
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
