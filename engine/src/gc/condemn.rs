//! The two transactions in which a collection changes what may be counted on: condemning what no root reaches, and,
//! when nobody is left who may use it, deciding what of it goes.

use super::Result;
use super::bits::Bits;
use super::mark::Marker;
use super::places::Places;
use crate::index::{self, Collection, FrameNumber, Phase};
use crate::kv::Write;
use crate::store::local::Inner;

/// Rows of condemned frames read at a time.
const ROWS_AT_ONCE: usize = 4096;

/// Condemns all places below the marker's end that it has not reached. What was put since the marking began is marked
/// first, while nobody can put more. Returns how many positions that are; none changes nothing.
pub(super) fn condemn(store: &Inner, marker: &mut Marker<'_>) -> Result<u64> {
    let mut later = marker.places.end;
    let forgets = crate::zoo::planted("gc-forgets-the-meantime");
    if !forgets {
        // Once without the lock, so that little is left to do under it.
        later = marker.mark_later(later)?;
    }
    let _lock = store.parts.lock("index")?;
    if !forgets {
        marker.mark_later(later)?;
    }
    let mut write = store.kv.write()?;
    let places = &marker.places;
    let mut condemned = 0;
    for at in 0..places.frames() {
        if let Some((bits, count)) = dead_bits(places, &marker.live, at) {
            index::put_condemned(&mut *write, places.number(at), &bits)?;
            condemned += count;
        }
    }
    if condemned == 0 {
        return Ok(0);
    }
    let before = index::collection(&*write)?;
    let epoch = before.epoch + 1;
    index::put_collection(&mut *write, &Collection { phase: Phase::Condemned, epoch, end: places.end })?;
    write.commit()?;
    Ok(condemned)
}

/// Bits of the positions of a frame that are not live, and how many; none where all are. No bits stand for all.
fn dead_bits(places: &Places, live: &Bits, at: usize) -> Option<(Vec<u8>, u64)> {
    let ordinals = places.ordinals(at);
    let (len, first) = (ordinals.len(), ordinals.start);
    let dead: Vec<usize> = ordinals.filter(|ordinal| !live.has(*ordinal)).map(|ordinal| ordinal - first).collect();
    if dead.is_empty() {
        return None;
    }
    if dead.len() == len {
        return Some((Vec::new(), len as u64));
    }
    let mut bits = vec![0; len.div_ceil(8)];
    dead.iter().for_each(|position| bits[position / 8] |= 1 << (position % 8));
    Some((bits, dead.len() as u64))
}

/// Decides what goes: places the marker reached are no longer condemned, branches that leaned and were reached are
/// admitted, the others are condemned too. From here on nobody may use what is condemned.
pub(super) fn decide(store: &Inner, marker: &mut Marker<'_>) -> Result<()> {
    let _lock = store.parts.lock("index")?;
    // Who pinned something condemned since roots were gathered was told that it stays.
    if !crate::zoo::planted("gc-ignores-readers") {
        marker.mark_tolerantly(&store.pinned()?)?;
    }
    // What a killed session left may have been taken in since then, and have taken the place of something that was
    // reached: it stays for this time, and all below it.
    let came_later = marker.places.end;
    marker.mark_later(came_later)?;
    let mut write = store.kv.write()?;
    let state = index::collection(&*write)?;
    let looks = !crate::zoo::planted("gc-looks-once");
    if looks {
        take_back(&mut *write, marker)?;
    }
    for (id, _) in index::leaning(&*write)? {
        let row = index::chunk(&*write, &id)?;
        let place = row.and_then(|row| {
            let at = marker.places.frame(row.frame)?;
            marker.places.ordinal(at, row.position)
        });
        let is_later = row.is_some_and(|row| row.frame >= came_later);
        let is_reached = is_later || place.is_some_and(|ordinal| marker.live.has(ordinal)) || !looks;
        if let Some(row) = index::settle_leaning(&mut *write, &id, is_reached)? {
            add_position(&mut *write, row.frame, row.position)?;
        }
    }
    index::put_collection(&mut *write, &Collection { phase: Phase::Sweeping, ..state })?;
    Ok(write.commit()?)
}

/// Condemns one more position.
fn add_position(write: &mut dyn Write, frame: FrameNumber, position: u16) -> Result<()> {
    let chunks = usize::from(index::frame(write, frame)?.chunks);
    let mut bits = match index::condemned_bits(write, frame)? {
        Some(bits) if bits.is_empty() => return Ok(()),
        Some(bits) => bits,
        None => vec![0; chunks.div_ceil(8)],
    };
    if let Some(byte) = bits.get_mut(usize::from(position / 8)) {
        *byte |= 1 << (position % 8);
    }
    let count: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
    let bits = if count as usize >= chunks { Vec::new() } else { bits };
    Ok(index::put_condemned(write, frame, &bits)?)
}

fn take_back(write: &mut dyn Write, marker: &Marker<'_>) -> Result<()> {
    let mut from = FrameNumber(0);
    loop {
        let rows = index::condemned_from(write, from, ROWS_AT_ONCE)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        from = FrameNumber(last.0 + 1);
        for (number, bits) in rows {
            let Some(at) = marker.places.frame(number) else { continue };
            let positions = marker.places.ordinals(at);
            if !positions.clone().any(|ordinal| marker.live.has(ordinal)) {
                continue;
            }
            let (len, first) = (positions.len(), positions.start);
            let stays = |position: usize| index::is_set(&bits, position as u16) && !marker.live.has(first + position);
            let mut left = vec![0; len.div_ceil(8)];
            (0..len).filter(|position| stays(*position)).for_each(|position| left[position / 8] |= 1 << (position % 8));
            match left.iter().all(|byte| *byte == 0) {
                true => index::clear_condemned(write, number)?,
                false => index::put_condemned(write, number, &left)?,
            }
        }
    }
}
