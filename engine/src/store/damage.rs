//! What a store does when it learns that frames are bad: their chunks, and all above, lose their standing.

use super::local::{Inner, is_good};
use super::{Fault, Result};
use crate::frame::FrameHeader;
use crate::id::{ChunkId, Kind};
use crate::index::{self, FrameNumber, FrameState, PackNumber, PackRow, PackState};
use crate::kv::{self, KvError, Read, Write};
use crate::pack;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;

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

    /// Reads the clear headers of all branch frames that are believed. One whose bytes are not those that were
    /// stored is told without header; an error of this process (no descriptors, no rights) ends the walk.
    fn all_branches(
        &self,
        write: &dyn Write,
        visit: &mut dyn FnMut(FrameNumber, Option<&FrameHeader>),
    ) -> kv::Result<()> {
        for_each_frame(write, &mut |number, place| {
            if is_good(place, Kind::Branch) {
                let header = self.stored_header(place).map_err(|error| KvError::Io(error.to_string()))?;
                visit(number, header.as_ref());
            }
            Ok(())
        })
    }

    /// Compares the packs that are there with those that should be. A pack that is gone or shorter than it was
    /// is marked lost, and the frames that went with it are expelled.
    pub(super) fn audit(&self) -> Result<Vec<Fault>> {
        // Rows first: packs only grow, so a running session is never taken for a loss.
        let rows = index::packs(&*self.kv.read()?)?;
        let lens: HashMap<String, u64> =
            self.parts.files.list(pack::DIR)?.into_iter().map(|file| (file.name, file.len)).collect();
        let mut faults = Vec::new();
        let mut lost: HashMap<PackNumber, u64> = HashMap::new();
        for (number, row) in rows {
            let listed = lens.get(&row.name.file_name()).copied();
            if row.state == PackState::Lost || listed.is_some_and(|len| len >= row.indexed_len) {
                continue;
            }
            let file = row.name.path();
            let problem = match self.true_len(&row)? {
                Some(len) if len >= row.indexed_len => continue,
                Some(len) => {
                    lost.insert(number, len);
                    format!("the pack is {len} bytes long, {} were written", row.indexed_len)
                }
                None => {
                    lost.insert(number, 0);
                    "the pack is gone".to_owned()
                }
            };
            faults.push(Fault { file, problem });
        }
        if !lost.is_empty() {
            self.lose(&lost)?;
        }
        Ok(faults)
    }

    /// Length of a pack that a listing did not show in full: a listing alone proves nothing. `None` if it is gone.
    fn true_len(&self, row: &PackRow) -> Result<Option<u64>> {
        match pack::open(&*self.parts.files, &row.name).and_then(|file| file.len()) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Expels all frames that reach past the length their pack has, and marks those packs.
    fn lose(&self, lens: &HashMap<PackNumber, u64>) -> Result<()> {
        let mut bad = HashSet::new();
        for_each_frame(&*self.kv.read()?, &mut |number, place| {
            let end = place.offset.saturating_add(u64::from(place.len));
            if place.state == FrameState::Good && lens.get(&place.pack).is_some_and(|&len| end > len) {
                bad.insert(number);
            }
            Ok(())
        })?;
        self.expel(&bad)?;
        let _lock = self.parts.lock("index")?;
        let mut write = self.kv.write()?;
        for (number, row) in index::packs(&*write)? {
            if lens.contains_key(&number) {
                index::put_pack(&mut *write, number, &PackRow { state: PackState::Lost, ..row })?;
            }
        }
        Ok(write.commit()?)
    }
}

fn for_each_frame(
    read: &dyn Read,
    visit: &mut dyn FnMut(FrameNumber, &index::FramePlace) -> kv::Result<()>,
) -> kv::Result<()> {
    let mut from = FrameNumber(0);
    loop {
        let rows = index::frames_from(read, from, FRAMES_AT_ONCE)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        from = FrameNumber(last.0 + 1);
        rows.iter().try_for_each(|(number, place)| visit(*number, place))?;
    }
}
