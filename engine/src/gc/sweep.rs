//! Sweeping: rows at condemned places go, then packs are looked at one by one.

use super::bits::Bits;
use super::places::Places;
use super::plan::PackSurvey;
use super::{GcError, Result};
use crate::id::{ChunkId, SessionId};
use crate::index::{self, ChunkRow, FrameNumber, FrameState, PackNumber, PackRow, PackState};
use crate::progress::Progress;
use crate::store::local::Inner;
use std::collections::{BTreeMap, HashSet};

/// Chunk rows looked at in one read of the index.
const ROWS_AT_ONCE: usize = 100_000;

/// Rows removed in one transaction: each may change a page of its own, and pages are held in memory until it ends.
const DELETES_AT_ONCE: usize = 5_000;

/// Frame rows read at a time.
const FRAMES_AT_ONCE: usize = 4096;

/// Removes the rows of chunks at condemned places. Returns how many, and how many rows are left in each frame.
pub(super) fn rows(store: &Inner, places: &Places, progress: &Progress) -> Result<(u64, Vec<u16>)> {
    let condemned = condemned(store, places)?;
    let mut counts = vec![0_u16; places.frames()];
    let mut removed = 0;
    let mut from = Vec::new();
    loop {
        let (mut seen, mut last) = (0, None);
        let mut dead: Vec<(ChunkId, ChunkRow)> = Vec::new();
        index::chunks_from(&*store.kv.read()?, &from, &mut |id, row| {
            seen += 1;
            last = Some(id);
            if let Some(at) = places.frame(row.frame) {
                match places.ordinal(at, row.position).is_some_and(|ordinal| condemned.has(ordinal)) {
                    true => dead.push((id, row)),
                    false => counts[at] = counts[at].saturating_add(1),
                }
            }
            seen < ROWS_AT_ONCE
        })?;
        for part in dead.chunks(DELETES_AT_ONCE) {
            removed += remove(store, part)?;
        }
        let Some(id) = last.filter(|_| seen == ROWS_AT_ONCE) else {
            if crate::zoo::planted("gc-trusts-counts") {
                counts.iter_mut().for_each(|count| *count = count.saturating_sub(1));
            }
            return Ok((removed, counts));
        };
        if progress.is_cancelled() {
            return Err(GcError::Cancelled);
        }
        // The least key above the last one.
        from = id.0.to_vec();
        from.push(0);
    }
}

fn condemned(store: &Inner, places: &Places) -> Result<Bits> {
    let mut condemned = Bits::new(places.positions());
    let mut from = FrameNumber(0);
    loop {
        let rows = index::condemned_from(&*store.kv.read()?, from, FRAMES_AT_ONCE)?;
        let Some((last, _)) = rows.last() else { return Ok(condemned) };
        from = FrameNumber(last.0 + 1);
        for (number, bits) in rows {
            let Some(at) = places.frame(number) else { continue };
            for (position, ordinal) in (0..).zip(places.ordinals(at)) {
                if index::is_set(&bits, position) {
                    condemned.add(ordinal);
                }
            }
        }
    }
}

fn remove(store: &Inner, dead: &[(ChunkId, ChunkRow)]) -> Result<u64> {
    let _lock = store.parts.lock("index")?;
    let mut write = store.kv.write()?;
    let mut removed = 0;
    for (id, row) in dead {
        // Put anew meanwhile it lives elsewhere.
        let is_there =
            index::chunk(&*write, id)?.is_some_and(|now| (now.frame, now.position) == (row.frame, row.position));
        if is_there {
            index::delete_chunk(&mut *write, id)?;
            removed += 1;
        }
    }
    write.commit()?;
    Ok(removed)
}

/// Forgets what is condemned, once nothing of it is left or it could not be freed now.
pub(super) fn end(store: &Inner) -> Result<()> {
    let mut from = FrameNumber(0);
    loop {
        let _lock = store.parts.lock("index")?;
        let mut write = store.kv.write()?;
        let rows = index::condemned_from(&*write, from, FRAMES_AT_ONCE)?;
        for (number, _) in &rows {
            index::clear_condemned(&mut *write, *number)?;
        }
        if let Some((last, _)) = rows.last() {
            from = *last;
            write.commit()?;
            continue;
        }
        let state = index::collection(&*write)?;
        index::put_collection(&mut *write, &index::Collection { phase: index::Phase::None, ..state })?;
        return Ok(write.commit()?);
    }
}

/// Frames of which less than half of the chunks is needed are sparse.
pub(super) fn is_sparse(live: u64, chunks: u64) -> bool {
    live * 2 < chunks
}

/// Looks at all packs. `live` tells how many chunks of the frame that stands at a place are needed.
pub(super) fn survey(
    store: &Inner,
    places: &Places,
    live: &dyn Fn(usize) -> u64,
    busy: &HashSet<SessionId>,
) -> Result<Vec<PackSurvey>> {
    let mut packs: BTreeMap<PackNumber, PackSurvey> = BTreeMap::new();
    for (number, row) in index::packs(&*store.kv.read()?)? {
        packs.insert(number, empty(number, &row, busy));
    }
    for_each_frame(store, &mut |number, place| {
        let Some(pack) = packs.get_mut(&place.pack) else { return };
        let len = u64::from(place.len);
        let chunks = u64::from(place.chunks).max(1);
        // A frame that came later is needed as far as anybody knows.
        let live = places.frame(number).map_or(chunks, live);
        pack.len += len;
        if number >= places.end || live > 0 && place.state == FrameState::Bad {
            pack.is_free = false;
        }
        if live == 0 {
            pack.dead_frames += 1;
            pack.dead_len += len;
            return;
        }
        let dead = len * (chunks - live.min(chunks)) / chunks;
        pack.live_frames += 1;
        pack.inner_dead_len += dead;
        if is_sparse(live, chunks) {
            pack.sparse_frames += 1;
            pack.sparse_len += len;
            pack.sparse_dead_len += dead;
        }
    })?;
    Ok(packs.into_values().collect())
}

fn empty(number: PackNumber, row: &PackRow, busy: &HashSet<SessionId>) -> PackSurvey {
    PackSurvey {
        number,
        name: row.name.file_name(),
        kind: row.name.kind,
        len: 0,
        dead_len: 0,
        sparse_len: 0,
        sparse_dead_len: 0,
        inner_dead_len: 0,
        live_frames: 0,
        dead_frames: 0,
        sparse_frames: 0,
        is_free: row.state == PackState::Closed && !busy.contains(&row.name.session),
    }
}

/// Visits the rows of all frames.
pub(super) fn for_each_frame(store: &Inner, visit: &mut dyn FnMut(FrameNumber, &index::FramePlace)) -> Result<()> {
    let mut from = FrameNumber(0);
    loop {
        let rows = index::frames_from(&*store.kv.read()?, from, FRAMES_AT_ONCE)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        from = FrameNumber(last.0 + 1);
        rows.iter().for_each(|(number, place)| visit(*number, place));
    }
}
