//! Bad frames get their bytes again, from another machine that holds the same ones.
//!
//! What always holds: what is put in the place of a frame is that frame, to the byte; it is durable before a row points
//! to it; a frame that counts is left as it is. The bad bytes stay where they are. Frames of which an index that was made
//! anew has no row at all, because not even their headers could be read, are put back like new ones.

use super::local::Inner;
use super::packs::{self, PackWriter};
use super::session::{session_path, take_lock};
use super::{LocalStore, Result, Store};
use crate::frame::{FrameHeader, SealedFrame, frame_id};
use crate::id::{ChunkId, FrameId, Kind, SessionId};
use crate::index::{self, FrameNumber, FrameState, NewFrame};
use std::collections::HashSet;
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
    /// Their bytes, where they have no row from before.
    pub bytes: u64,
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

    /// Lost frames that hold the only place of a chunk. Looks through all chunks, unless nothing is lost.
    pub fn missed_frames(&self) -> Result<Vec<LostFrame>> {
        if self.lost_frames(1)?.is_empty() {
            return Ok(Vec::new());
        }
        let only: HashSet<FrameNumber> = self.suspects()?.values().map(|row| row.frame).collect();
        let mut missed = self.lost_frames(usize::MAX)?;
        missed.retain(|lost| only.contains(&lost.number));
        Ok(missed)
    }

    /// Puts these bytes in the place of bad frames. Bytes that are not those of the frame are left out, and so is a
    /// frame that counts by now, or of which something is being removed.
    pub fn replace(&self, frames: Vec<(FrameNumber, Vec<u8>)>) -> Result<Replaced> {
        self.as_session(|session| replace(&self.0, session, frames))
    }

    /// Stores frames that the index has no row of. Bytes that are not those of the frame, or no frame of this vault, are
    /// left out, and so are frames whose chunks all have a place.
    pub fn put_back(&self, frames: Vec<(FrameId, Vec<u8>)>) -> Result<Replaced> {
        self.as_session(|session| put_back(self, session, frames))
    }

    fn as_session<T>(&self, work: impl FnOnce(SessionId) -> Result<T>) -> Result<T> {
        let mut id = [0; 16];
        self.0.parts.env.entropy.fill(&mut id);
        let session = SessionId(id);
        let lock = take_lock(&self.0, session)?;
        let done = work(session);
        // Removed while it is held; whoever begins next tidies up a file that stays.
        let _ = self.0.parts.files.remove(&session_path(session));
        drop(lock);
        done
    }
}

/// Packs for whole frames that were made before.
struct Packs<'a> {
    store: &'a Inner,
    numbers: AtomicU32,
    leaves: PackWriter,
    branches: PackWriter,
}

impl<'a> Packs<'a> {
    fn new(store: &'a Inner, session: SessionId) -> Self {
        let writer = |kind| PackWriter::new(kind, store.parts.vault, session);
        Self { store, numbers: AtomicU32::new(0), leaves: writer(Kind::Leaf), branches: writer(Kind::Branch) }
    }

    /// The header of what is a frame of this vault.
    fn header(&self, bytes: &[u8]) -> Option<FrameHeader> {
        FrameHeader::parse(bytes).ok().filter(|header| header.vault == self.store.parts.vault)
    }

    fn put(&mut self, frame: SealedFrame) -> Result<()> {
        let writer = match frame.header.kind {
            Kind::Leaf => &mut self.leaves,
            Kind::Branch => &mut self.branches,
        };
        writer.put(&*self.store.parts.files, &self.numbers, frame).map(drop)
    }

    /// What was written: frames of leaves first.
    fn end(self) -> Result<packs::Taken> {
        let mut taken = packs::Taken::default();
        for mut writer in [self.leaves, self.branches] {
            writer.close()?;
            let part = writer.take()?;
            taken.frames.extend(part.frames);
            taken.packs.extend(part.packs);
            taken.unsynced.extend(part.unsynced);
        }
        Ok(taken)
    }
}

fn put_back(store: &LocalStore, session: SessionId, frames: Vec<(FrameId, Vec<u8>)>) -> Result<Replaced> {
    let mut packs = Packs::new(&store.0, session);
    for (id, bytes) in frames {
        let Some(header) = packs.header(&bytes).filter(|_| frame_id(&bytes) == id) else { continue };
        if store.known(&header.ids)?.contains(&false) {
            packs.put(SealedFrame { id, header, bytes })?;
        }
    }
    let (frames, healed) = store.0.commit(packs.end()?)?;
    let bytes = frames.iter().map(|frame| u64::from(frame.place.len)).sum();
    Ok(Replaced { frames: frames.len() as u64, bytes, healed })
}

fn replace(store: &Inner, session: SessionId, frames: Vec<(FrameNumber, Vec<u8>)>) -> Result<Replaced> {
    let mut numbers = Vec::new();
    let mut of_branches = Vec::new();
    let mut packs = Packs::new(store, session);
    for (number, bytes) in frames {
        let read = store.kv.read()?;
        // It is tried again when that is over.
        if index::is_swept(&*read, number)? {
            continue;
        }
        let place = index::frame_if_any(&*read, number)?;
        let Some(place) = place.filter(|place| place.state == FrameState::Bad) else { continue };
        let Some(header) = packs.header(&bytes).filter(|_| frame_id(&bytes) == place.id) else { continue };
        match header.kind {
            Kind::Leaf => numbers.push(number),
            Kind::Branch => of_branches.push(number),
        }
        packs.put(SealedFrame { id: place.id, header, bytes })?;
    }
    numbers.append(&mut of_branches);
    let taken = packs.end()?;
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
    Ok(Replaced { frames: back.len() as u64, bytes: 0, healed })
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
    fn frames_without_a_header_come_back_after_a_rebuild() {
        let memory = Memory::new();
        let store = memory.store();
        small_tree(&*store.begin().unwrap());
        let read = |place: &crate::store::Place| {
            let mut bytes = Vec::new();
            store.read_frame(place, &mut bytes).unwrap();
            (place.frame, bytes)
        };
        let places = store.frames(FrameNumber(0), 100).unwrap();
        let frames: Vec<_> = places.iter().map(read).collect();
        for place in &places {
            let path = format!("packs/{}", store.pack_name(place.pack).unwrap());
            assert!(memory.files.damage(&path, |bytes| bytes[place.offset as usize..][..40].fill(0)));
        }
        drop(store);
        let (store, _) = memory.rebuilt();
        assert!(!all_known(&store));
        assert_eq!(store.lost_frames(100).unwrap(), [], "nobody could say which they were");
        let wrong = frames.iter().map(|(id, _)| (*id, frames[0].1[1..].to_vec())).collect();
        assert_eq!(store.put_back(wrong).unwrap(), Replaced::default());
        assert_eq!(store.put_back(frames.clone()).unwrap().frames, frames.len() as u64);
        assert!(all_known(&store));
        assert_eq!(store.put_back(frames).unwrap(), Replaced::default(), "what is there is not stored twice");
        assert!(all_known(&memory.crash().store()));
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
