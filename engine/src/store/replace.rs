//! Bad frames get their bytes again, from another machine that holds the same ones.
//!
//! What always holds: what is put in the place of a frame is that frame, to the byte; it is durable before a row points
//! to it; a frame that counts is left as it is. The bad bytes stay where they are.

use super::local::Inner;
use super::packs::{self, PackWriter};
use super::session::{session_path, take_lock};
use super::{LocalStore, Result};
use crate::frame::{FrameHeader, SealedFrame, frame_id};
use crate::id::{ChunkId, FrameId, Kind, SessionId};
use crate::index::{self, FrameNumber, FrameState, NewFrame};
use std::sync::atomic::AtomicU32;

/// A frame that lost its standing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostFrame {
    /// Its number.
    pub number: FrameNumber,
    /// Its name.
    pub id: FrameId,
    /// Its length, bytes.
    pub len: u32,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replaced {
    /// Frames that count again.
    pub frames: u64,
    /// Branches that became whole by it.
    pub healed: Vec<ChunkId>,
}

/// Rows looked at in one read of the index.
const ROWS_AT_ONCE: usize = 4096;

impl LocalStore {
    /// Frames that lost their standing, in number order; at most `count`.
    pub fn lost_frames(&self, count: usize) -> Result<Vec<LostFrame>> {
        let mut lost = Vec::new();
        let mut from = FrameNumber(0);
        loop {
            let rows = self.frame_rows(from, ROWS_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(lost) };
            from = FrameNumber(last.0.saturating_add(1));
            let bad = rows.into_iter().filter(|(_, place)| place.state == FrameState::Bad);
            lost.extend(bad.map(|(number, place)| LostFrame { number, id: place.id, len: place.len }));
            if lost.len() >= count {
                lost.truncate(count);
                return Ok(lost);
            }
        }
    }

    /// Puts these bytes in the place of bad frames. Bytes that are not those of the frame are left out, and so is a
    /// frame that counts by now, or of which something is being removed.
    pub fn replace(&self, frames: Vec<(FrameNumber, Vec<u8>)>) -> Result<Replaced> {
        let mut id = [0; 16];
        self.0.parts.env.entropy.fill(&mut id);
        let session = SessionId(id);
        let lock = take_lock(&self.0, session)?;
        let done = replace(&self.0, session, frames);
        // Removed while it is held; whoever begins next tidies up a file that stays.
        let _ = self.0.parts.files.remove(&session_path(session));
        drop(lock);
        done
    }
}

fn replace(store: &Inner, session: SessionId, frames: Vec<(FrameNumber, Vec<u8>)>) -> Result<Replaced> {
    let vault = store.parts.vault;
    let pack_numbers = AtomicU32::new(0);
    let mut taken = packs::Taken::default();
    let mut numbers = Vec::new();
    let mut leaves = PackWriter::new(Kind::Leaf, vault, session);
    let mut branches = PackWriter::new(Kind::Branch, vault, session);
    let mut of_branches = Vec::new();
    for (number, bytes) in frames {
        let read = store.kv.read()?;
        // It is tried again when that is over.
        if index::is_swept(&*read, number)? {
            continue;
        }
        let place = index::frame_if_any(&*read, number)?;
        let Some(place) = place.filter(|place| place.state == FrameState::Bad) else { continue };
        let header = FrameHeader::parse(&bytes).ok().filter(|_| frame_id(&bytes) == place.id);
        let Some(header) = header.filter(|header| header.vault == vault) else { continue };
        let (writer, order) = match header.kind {
            Kind::Leaf => (&mut leaves, &mut numbers),
            Kind::Branch => (&mut branches, &mut of_branches),
        };
        writer.put(&*store.parts.files, &pack_numbers, SealedFrame { id: place.id, header, bytes })?;
        order.push(number);
    }
    numbers.append(&mut of_branches);
    for mut writer in [leaves, branches] {
        writer.close()?;
        let part = writer.take()?;
        taken.frames.extend(part.frames);
        taken.packs.extend(part.packs);
        taken.unsynced.extend(part.unsynced);
    }
    if taken.frames.is_empty() {
        return Ok(Replaced::default());
    }
    taken.unsynced.iter().try_for_each(|file| file.sync())?;
    let _lock = store.parts.lock("index")?;
    let mut write = store.kv.write()?;
    let packs = store.put_packs(&mut *write, &taken)?;
    let mut back = Vec::new();
    for (number, put) in numbers.into_iter().zip(taken.frames) {
        let (Some(now), Some(pack)) = (index::frame_if_any(&*write, number)?, packs.get(&put.pack)) else { continue };
        // Somebody else may have found it whole meanwhile.
        if now.state == FrameState::Bad && now.id == put.row.id && !index::is_swept(&*write, number)? {
            back.push((number, NewFrame { place: packs::place(&put, *pack), ids: put.ids, refs: put.refs }));
        }
    }
    let healed = index::readmit(&mut *write, &back, &|place| store.header_of(place))?;
    write.commit()?;
    index::settle_young(&*store.kv)?;
    Ok(Replaced { frames: back.len() as u64, healed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{Memory, Writer, branch, known, leaf, small_ids, small_tree};
    use crate::store::{BadFrame, Store};

    fn all_known(store: &LocalStore) -> bool {
        let (d, root) = small_ids();
        [leaf("a"), leaf("b"), d, root].into_iter().all(|id| known(store, id))
    }

    /// A store with a small tree, and the bytes of its frames.
    fn world() -> (Memory, LocalStore, Vec<(FrameNumber, Vec<u8>)>) {
        let memory = Memory::new();
        let store = memory.store();
        small_tree(&*store.begin().unwrap());
        let frames = store.frames(FrameNumber(0), 100).unwrap();
        let read = |place: &crate::store::Place| {
            let mut bytes = Vec::new();
            store.read_frame(place, &mut bytes).unwrap();
            (place.number, bytes)
        };
        let bytes = frames.iter().map(read).collect();
        let bad: Vec<BadFrame> = frames.iter().map(BadFrame::from).collect();
        store.expel(&bad).unwrap();
        assert!(!all_known(&store));
        (memory, store, bytes)
    }

    #[test]
    fn frames_get_their_bytes_again_and_all_above_is_whole() {
        let (memory, store, frames) = world();
        assert_eq!(store.lost_frames(100).unwrap().len(), frames.len());
        let wrong: Vec<_> = frames.iter().map(|(number, _)| (*number, frames[0].1[1..].to_vec())).collect();
        assert_eq!(store.replace(wrong).unwrap(), Replaced::default());
        assert!(!all_known(&store), "other bytes than the frame's change nothing");
        let count = frames.len() as u64;
        assert_eq!(store.replace(frames.clone()).unwrap().frames, count);
        assert!(all_known(&store));
        assert_eq!(store.lost_frames(100).unwrap(), []);
        assert_eq!(store.replace(frames).unwrap().frames, 0, "what counts is left as it is");
        let (_, root) = small_ids();
        let place = store.places(&[root]).unwrap()[0].unwrap();
        let mut bytes = Vec::new();
        store.read_frame(&place, &mut bytes).unwrap();
        assert_eq!(frame_id(&bytes), place.frame);
        // What is durable is found again when the index has to be made anew.
        let (rebuilt, _) = memory.rebuilt();
        assert!(all_known(&rebuilt));
    }

    #[test]
    fn a_branch_that_waits_for_one_elsewhere_is_whole_again_with_it() {
        let memory = Memory::new();
        let store = memory.store();
        let session = store.begin().unwrap();
        let writer = Writer::new(&*session);
        let d = branch("d", &[leaf("a")]);
        let root = branch("root", &[d]);
        session.claim(&[leaf("a"), d, root]).unwrap();
        session.put(writer.leaves(&["a"])).unwrap();
        session.put(writer.branches(&[("d", &[leaf("a")])])).unwrap();
        session.put(writer.branches(&[("root", &[d])])).unwrap();
        session.settle(root).unwrap();
        let frames = store.frames(FrameNumber(0), 100).unwrap();
        let bad: Vec<_> =
            frames.iter().filter(|place| place.number != store.places(&[d]).unwrap()[0].unwrap().number).collect();
        let bytes = bad.iter().map(|place| {
            let mut bytes = Vec::new();
            store.read_frame(place, &mut bytes).unwrap();
            (place.number, bytes)
        });
        let bytes: Vec<_> = bytes.collect();
        assert_eq!(bytes.len(), 2, "what d is in is good");
        store.expel(&bad.iter().map(|place| BadFrame::from(*place)).collect::<Vec<_>>()).unwrap();
        assert!(!known(&store, d) && !known(&store, root));
        assert_eq!(store.replace(bytes).unwrap().frames, 2);
        assert!(known(&store, d) && known(&store, root));
    }

    /// All frames are condemned, and a collection has come so far.
    fn condemn(store: &LocalStore, phase: index::Phase) {
        let mut write = store.0.kv.write().unwrap();
        let end = index::next_frame(&*write).unwrap();
        (0..end.0).for_each(|number| index::put_condemned(&mut *write, FrameNumber(number), &[]).unwrap());
        index::put_collection(&mut *write, &index::Collection { phase, epoch: 1, end }).unwrap();
        write.commit().unwrap();
    }

    #[test]
    fn what_was_condemned_while_it_was_bad_is_whole_again_too() {
        let (_memory, store, frames) = world();
        condemn(&store, index::Phase::Condemned);
        assert_eq!(store.replace(frames.clone()).unwrap().frames, frames.len() as u64);
        assert!(all_known(&store) && store.suspects().unwrap().is_empty());
    }

    #[test]
    fn what_is_being_swept_stays_bad_until_that_is_over() {
        let (_memory, store, frames) = world();
        condemn(&store, index::Phase::Sweeping);
        assert_eq!(store.replace(frames.clone()).unwrap().frames, 0);
        assert_eq!(store.lost_frames(100).unwrap().len(), frames.len());
        condemn(&store, index::Phase::Condemned);
        assert_eq!(store.replace(frames.clone()).unwrap().frames, frames.len() as u64);
        assert!(all_known(&store));
    }

    #[test]
    fn what_was_replaced_outlives_a_power_cut() {
        let (memory, store, frames) = world();
        store.replace(frames).unwrap();
        assert!(all_known(&memory.crash().store()));
    }
}
