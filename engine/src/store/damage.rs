//! What a store does when it learns that frames are bad: their chunks, and all above, lose their standing.

use super::local::{Inner, is_good};
use super::{Fault, Result};
use crate::id::{ChunkId, Kind};
use crate::index::{self, FrameNumber, FrameState, PackNumber, PackRow, PackState};
use crate::kv::{self, Read, Write};
use crate::pack;
use std::collections::{HashMap, HashSet};

/// Frames looked at in one read of the index.
const FRAMES_AT_ONCE: usize = 4096;

impl Inner {
    /// Takes the standing of bad frames.
    pub(super) fn expel(&self, bad: &HashSet<FrameNumber>) -> Result<Vec<ChunkId>> {
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.parts.lock("index")?;
        let mut write = self.kv.write()?;
        let lost = index::expel(&mut *write, bad, &|write, visit| self.all_branches(write, visit))?;
        write.commit()?;
        Ok(lost)
    }

    /// Reads the clear headers of all branch frames that are believed. An unreadable one is passed over here:
    /// it is found, and expelled itself, by whoever reads the packs.
    fn all_branches(&self, write: &dyn Write, visit: &mut dyn FnMut(ChunkId, &[ChunkId])) -> kv::Result<()> {
        for_each_frame(write, |_, place| {
            if !is_good(place, Kind::Branch) {
                return;
            }
            let mut bytes = Vec::new();
            if self.read_at(place.pack, place.offset, place.len, &mut bytes).is_err() {
                return;
            }
            let Ok(header) = crate::frame::FrameHeader::parse(&bytes) else { return };
            for (position, id) in header.ids.iter().enumerate() {
                visit(*id, header.refs(position));
            }
        })
    }

    /// Compares the packs that are there with those that should be. A pack that is gone or shorter than it was
    /// is marked lost, and the frames that went with it are expelled.
    pub(super) fn audit(&self) -> Result<Vec<Fault>> {
        let lens: HashMap<String, u64> =
            self.parts.files.list(pack::DIR)?.into_iter().map(|file| (file.name, file.len)).collect();
        let rows = index::packs(&*self.kv.read()?)?;
        let short = |row: &PackRow| lens.get(&row.name.file_name()).is_none_or(|&len| len < row.indexed_len);
        let lost: Vec<_> = rows.into_iter().filter(|(_, row)| row.state != PackState::Lost && short(row)).collect();
        let mut faults = Vec::new();
        let mut cut: HashMap<PackNumber, u64> = HashMap::new();
        for (number, row) in &lost {
            let file = row.name.file_name();
            let len = lens.get(&file).copied();
            cut.insert(*number, len.unwrap_or(0));
            let problem = match len {
                None => "the pack is gone".to_owned(),
                Some(len) => format!("the pack is {len} bytes long, {} were written", row.indexed_len),
            };
            faults.push(Fault { file: format!("{}/{file}", pack::DIR), problem });
        }
        if lost.is_empty() {
            return Ok(faults);
        }
        let mut bad = HashSet::new();
        for_each_frame(&*self.kv.read()?, |number, place| {
            let end = place.offset + u64::from(place.len);
            if place.state == FrameState::Good && cut.get(&place.pack).is_some_and(|&len| end > len) {
                bad.insert(number);
            }
        })?;
        self.expel(&bad)?;
        let _lock = self.parts.lock("index")?;
        let mut write = self.kv.write()?;
        for (number, row) in lost {
            index::put_pack(&mut *write, number, &PackRow { state: PackState::Lost, ..row })?;
        }
        write.commit()?;
        Ok(faults)
    }
}

fn for_each_frame(read: &dyn Read, mut visit: impl FnMut(FrameNumber, &index::FramePlace)) -> kv::Result<()> {
    let mut from = FrameNumber(0);
    loop {
        let rows = index::frames_from(read, from, FRAMES_AT_ONCE)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        from = FrameNumber(last.0 + 1);
        rows.iter().for_each(|(number, place)| visit(*number, place));
    }
}
