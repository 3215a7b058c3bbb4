//! What a store does when it learns that frames are bad: their chunks, and all above, lose their standing.

use super::local::{Inner, is_good};
use super::{BadFrame, Fault, Result};
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
    /// Takes the standing of bad frames that still are where they were found.
    pub(crate) fn expel(&self, bad: &[BadFrame]) -> Result<Vec<ChunkId>> {
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.parts.lock("index")?;
        let mut write = self.kv.write()?;
        let mut still = HashSet::new();
        for found in bad {
            let place = index::frame_if_any(&*write, found.number)?;
            let stands = place.is_some_and(|place| (place.pack, place.offset) == (found.pack, found.offset));
            if stands || crate::zoo::planted("expel-what-moved") {
                still.insert(found.number);
            }
        }
        let lost = self.take_standing(&mut *write, &still)?;
        write.commit()?;
        Ok(lost)
    }

    fn take_standing(&self, write: &mut dyn Write, bad: &HashSet<FrameNumber>) -> Result<Vec<ChunkId>> {
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        Ok(index::expel(write, bad, &|write, visit| self.all_branches(write, visit))?)
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
        let short: Vec<PackNumber> = self.short_packs()?.into_iter().map(|(number, _)| number).collect();
        self.lose(&short)
    }

    /// Packs that seem to lack something, with what; nothing is changed, and the next look may know better.
    pub(super) fn short_packs(&self) -> Result<Vec<(PackNumber, Fault)>> {
        // Rows first: packs only grow, so a running session is never taken for a loss.
        let rows = index::packs(&*self.kv.read()?)?;
        let lens: HashMap<String, u64> =
            self.parts.files.list(pack::DIR)?.into_iter().map(|file| (file.name, file.len)).collect();
        let mut short = Vec::new();
        for (number, row) in rows {
            let listed = lens.get(&row.name.file_name()).copied();
            let is_listed_whole = listed.is_some_and(|len| len >= row.indexed_len);
            if !is_listed_whole
                && counts(&row)
                && let Some((_, problem)) = self.missing(&row)?
            {
                short.push((number, Fault { file: row.name.path(), problem }));
            }
        }
        Ok(short)
    }

    /// What a pack has left where it lacks some of what was written to it; 0 if it is gone. A listing alone proves
    /// nothing, so the file itself is asked.
    fn missing(&self, row: &PackRow) -> Result<Option<(u64, String)>> {
        match pack::open(&*self.parts.files, &row.name).and_then(|file| file.len()) {
            Ok(len) if len >= row.indexed_len => Ok(None),
            Ok(len) => Ok(Some((len, format!("the pack is {len} bytes long, {} were written", row.indexed_len)))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some((0, "the pack is gone".to_owned()))),
            Err(error) => Err(error.into()),
        }
    }

    /// Expels all frames that reach past the length their pack has, and marks those packs. All is asked again in the
    /// transaction that does it: a pack may have been dropped since, and its file is removed after its row says so.
    fn lose(&self, short: &[PackNumber]) -> Result<Vec<Fault>> {
        if short.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.parts.lock("index")?;
        let mut write = self.kv.write()?;
        let (mut lens, mut faults) = (HashMap::new(), Vec::new());
        for &number in short {
            let Some(row) = index::pack(&*write, number)?.filter(counts) else { continue };
            let Some((len, problem)) = self.missing(&row)? else { continue };
            lens.insert(number, len);
            faults.push(Fault { file: row.name.path(), problem });
            index::put_pack(&mut *write, number, &PackRow { state: PackState::Lost, ..row })?;
        }
        let mut bad = HashSet::new();
        for_each_frame(&*write, &mut |number, place| {
            let end = place.offset.saturating_add(u64::from(place.len));
            if place.state == FrameState::Good && lens.get(&place.pack).is_some_and(|&len| end > len) {
                bad.insert(number);
            }
            Ok(())
        })?;
        self.take_standing(&mut *write, &bad)?;
        write.commit()?;
        Ok(faults)
    }
}

/// Whether a pack with this row has to be there.
fn counts(row: &PackRow) -> bool {
    matches!(row.state, PackState::Open | PackState::Closed)
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
