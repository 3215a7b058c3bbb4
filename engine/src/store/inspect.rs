//! The local store's rows and files, laid open for those who check them. Nothing here changes anything.

use super::local::SESSIONS;
use super::{Fault, LocalStore, Result, StoredRecord};
use crate::files::Listed;
use crate::id::{ChunkId, SessionId};
use crate::index::{self, ChunkRow, ChunkState, FrameNumber, FramePlace, FrameState, PackNumber, PackRow};
use crate::kv;
use crate::pack;

/// Chunk rows visited in one read of the index, which keeps that well under a second.
const ROWS_AT_ONCE: usize = 100_000;

impl LocalStore {
    /// Reads the whole index and checks its structure; see [`kv::Kv::verify`].
    pub fn verify_index(&self) -> kv::Result<()> {
        self.0.kv.verify()
    }

    /// Count and path of every record file, in order.
    pub fn record_paths(&self) -> Result<Vec<(u64, String)>> {
        let files = super::local::record_files(&*self.0.parts.files)?;
        Ok(files.into_iter().map(|(count, name)| (count, format!("{}/{name}", super::local::RECORDS))).collect())
    }

    /// What an audit would find now, changing nothing.
    pub fn short_packs(&self) -> Result<Vec<Fault>> {
        Ok(self.0.short_packs()?.into_iter().map(|(_, fault)| fault).collect())
    }

    /// All packs the index knows.
    pub fn pack_rows(&self) -> Result<Vec<(PackNumber, PackRow)>> {
        Ok(index::packs(&*self.0.kv.read()?)?)
    }

    /// Files in the folder of packs.
    pub fn pack_files(&self) -> Result<Vec<Listed>> {
        Ok(self.0.parts.files.list(pack::DIR)?)
    }

    /// Records from a count on, as many as have so many bytes together, and always one if there is any; and whether there
    /// are more. Only those are read.
    pub fn records_from(&self, from: u64, len_max: usize) -> Result<(Vec<StoredRecord>, bool)> {
        self.0.records_from(from, len_max)
    }

    /// Rows of up to `count` frames with numbers from `from` on.
    pub fn frame_rows(&self, from: FrameNumber, count: usize) -> Result<Vec<(FrameNumber, FramePlace)>> {
        Ok(index::frames_from(&*self.0.kv.read()?, from, count)?)
    }

    /// The row of one frame.
    pub fn frame_row(&self, number: FrameNumber) -> Result<FramePlace> {
        Ok(index::frame(&*self.0.kv.read()?, number)?)
    }

    /// The row of one frame, `None` if it has none.
    pub fn frame_if_any(&self, number: FrameNumber) -> Result<Option<FramePlace>> {
        Ok(index::frame_if_any(&*self.0.kv.read()?, number)?)
    }

    /// Whether a frame is said to be in a pack that has no row.
    pub fn lacks_pack(&self, number: FrameNumber) -> Result<bool> {
        let read = self.0.kv.read()?;
        let Some(place) = index::frame_if_any(&*read, number)? else { return Ok(false) };
        Ok(index::pack(&*read, place.pack)?.is_none())
    }

    /// What the rows around a chunk's contradict it in, all looked at in one read.
    pub fn contradiction(&self, id: &ChunkId) -> Result<Option<String>> {
        let read = self.0.kv.read()?;
        let Some(ChunkRow { frame, state, .. }) = index::chunk(&*read, id)? else { return Ok(None) };
        let problem = match index::frame_if_any(&*read, frame)? {
            None => format!("chunk {id} is said to be in frame {}, which has no row", frame.0),
            Some(place) if place.state == FrameState::Bad && state != ChunkState::Suspect => {
                format!("chunk {id} is said to be in frame {}, which is known to be bad", frame.0)
            }
            Some(_) if state == ChunkState::Unwhole && !index::is_listed_unwhole(&*read, id)? => {
                format!("branch {id} is not whole and not among those that wait")
            }
            Some(_) => return Ok(None),
        };
        Ok(Some(problem))
    }

    /// The rows of chunks.
    pub fn chunk_rows(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkRow>>> {
        let read = self.0.kv.read()?;
        Ok(ids.iter().map(|id| index::chunk(&*read, id)).collect::<kv::Result<_>>()?)
    }

    /// Visits every chunk row in id order, in several reads of the index: a row that changes meanwhile is seen before
    /// or after its change. `visit` answers whether to go on.
    pub fn visit_chunk_rows(&self, visit: &mut dyn FnMut(ChunkId, ChunkRow) -> bool) -> Result<()> {
        let mut from = Vec::new();
        loop {
            let mut left = ROWS_AT_ONCE;
            let mut go_on = true;
            let mut last = None;
            index::chunks_from(&*self.0.kv.read()?, &from, &mut |id, row| {
                left -= 1;
                last = Some(id);
                go_on = visit(id, row);
                go_on && left > 0
            })?;
            match last {
                Some(id) if go_on && left == 0 => {
                    // The least key above the last one.
                    from = id.0.to_vec();
                    from.push(0);
                }
                _ => return Ok(()),
            }
        }
    }

    /// Branches that the index lists as stored and not whole.
    pub fn unwhole_rows(&self) -> Result<Vec<ChunkId>> {
        Ok(index::unwhole(&*self.0.kv.read()?)?)
    }

    /// Whether the writer of a session may still be at work, as far as can be told without disturbing it.
    pub fn is_session_open(&self, session: SessionId) -> Result<bool> {
        let parts = &self.0.parts;
        let name = session.to_string();
        if !parts.files.list(SESSIONS)?.iter().any(|file| file.name == name) {
            return Ok(false);
        }
        // Who may not even try to lock cannot know.
        Ok(!matches!(parts.files.try_lock(&super::session::session_path(session), &parts.owner), Ok(Some(_))))
    }
}
