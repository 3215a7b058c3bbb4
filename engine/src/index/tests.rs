//! Rows round trip, and admission agrees with a simple model whatever order frames come in.

use super::*;
use crate::env::Dice;
use crate::frame::FrameHeader;
use crate::kv::memory::MemoryKvHome;
use crate::kv::{Kv, KvHome};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

#[test]
fn rows_round_trip_and_others_are_refused() {
    for (frame, position) in [(0, 0), (1, 4095), (FRAME_NUMBER_MAX, u16::MAX), (0x01_0203_0405, 7)] {
        for state in [ChunkState::Admitted, ChunkState::Unwhole, ChunkState::Suspect, ChunkState::Leaning] {
            let row = ChunkRow { frame: FrameNumber(frame), position, state };
            assert_eq!(ChunkRow::decode(&row.encode()).unwrap(), row);
            assert_eq!(FrameNumber::from_key(&row.frame.key()).unwrap(), row.frame);
        }
    }
    let place = FramePlace {
        id: FrameId([3; 32]),
        pack: PackNumber(u32::MAX),
        offset: u64::MAX - 1,
        len: 0x0102_0304,
        chunks: 0x0506,
        kind: Kind::Branch,
        state: FrameState::Bad,
    };
    assert_eq!(FramePlace::decode(&place.encode()).unwrap(), place);
    let name = PackName { session: crate::id::SessionId([9; 16]), kind: Kind::Leaf, number: 3 };
    let pack = PackRow { name, indexed_len: 1 << 40, state: PackState::Lost };
    assert_eq!(PackRow::decode(&pack.encode()).unwrap(), pack);
    for len in 0..100 {
        let bytes = vec![0xff; len];
        assert!(ChunkRow::decode(&bytes).is_err() && FramePlace::decode(&bytes).is_err());
        assert!(PackRow::decode(&bytes).is_err());
    }
    assert!(FrameNumber(FRAME_NUMBER_MAX).next().is_err());
}

fn empty() -> Arc<dyn Kv> {
    MemoryKvHome::new().replace(&mut |_| Ok(())).unwrap()
}

fn id(number: usize) -> ChunkId {
    let mut bytes = [number as u8; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    ChunkId(bytes)
}

fn new_frame(kind: Kind, chunks: &[(ChunkId, Vec<ChunkId>)]) -> NewFrame {
    let ids = chunks.iter().map(|(id, _)| *id).collect();
    let refs = match kind {
        Kind::Leaf => Vec::new(),
        Kind::Branch => chunks.iter().map(|(_, refs)| refs.clone()).collect(),
    };
    let place = FramePlace {
        id: FrameId([0; 32]),
        pack: PackNumber(0),
        offset: 64,
        len: 200,
        chunks: chunks.len() as u16,
        kind,
        state: FrameState::Good,
    };
    NewFrame { place, ids, refs }
}

fn commit(kv: &dyn Kv, frames: &[NewFrame], read: &ReadHeader<'_>) -> Vec<ChunkId> {
    let mut write = kv.write().unwrap();
    let healed = admit(&mut *write, frames, read).unwrap();
    write.commit().unwrap();
    healed
}

#[test]
fn a_branch_is_admitted_when_all_below_it_is_in_whatever_order() {
    for seed in 0..200 {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let count = 2 + dice.below(60);
        let mut refs: HashMap<ChunkId, Vec<ChunkId>> = HashMap::new();
        for number in 0..count {
            let below = (0..dice.below(4)).filter(|_| number > 0).map(|_| id(dice.clone().below(number)));
            let below: Vec<_> = below.collect();
            let more = if number > 3 { vec![id(dice.below(number)), id(dice.below(number))] } else { vec![] };
            refs.insert(id(number), [below, more].concat());
        }
        let mut order: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            order.swap(at, dice.below(at + 1));
        }
        // Some never come.
        order.truncate(count - dice.below(3));
        let kv = empty();
        let mut there: HashSet<ChunkId> = HashSet::new();
        let mut admitted_before = HashSet::new();
        let mut stored: Vec<Vec<(ChunkId, Vec<ChunkId>)>> = Vec::new();
        for batch in order.chunks(1 + dice.below(7)) {
            let chunks: Vec<_> = batch.iter().map(|&number| (id(number), refs[&id(number)].clone())).collect();
            let frames: Vec<_> = chunks
                .chunks(2)
                .map(|part| {
                    stored.push(part.to_vec());
                    new_frame(Kind::Branch, part)
                })
                .collect();
            there.extend(chunks.iter().map(|(id, _)| *id));
            let header = |place: &FramePlace| -> Option<FrameHeader> {
                // Frames carry their number as offset here.
                Some(FrameHeader::for_tests(Kind::Branch, &stored[place.offset as usize]))
            };
            let mut frames = frames;
            let first = stored.len() - frames.len();
            frames.iter_mut().enumerate().for_each(|(i, frame)| frame.place.offset = (first + i) as u64);
            let healed = commit(&*kv, &frames, &header);
            let read = kv.read().unwrap();
            let whole: HashSet<_> = (0..count).map(id).filter(|id| is_whole(id, &refs, &there)).collect();
            for number in 0..count {
                assert_eq!(View::FIRM.has(&*read, &id(number)).unwrap(), whole.contains(&id(number)), "{number}");
                let absent: HashSet<_> =
                    absent_below(&*read, View::FIRM, id(number), &header).unwrap().into_iter().collect();
                assert_eq!(absent, not_there(&id(number), &refs, &there, &whole));
            }
            assert!(healed.iter().all(|id| whole.contains(id) && !admitted_before.contains(id)));
            assert_eq!(unwhole(&*read).unwrap().len(), there.len() - there.intersection(&whole).count());
            admitted_before = whole;
        }
    }
}

fn is_whole(id: &ChunkId, refs: &HashMap<ChunkId, Vec<ChunkId>>, there: &HashSet<ChunkId>) -> bool {
    let mut seen = HashSet::from([*id]);
    let mut to_see = vec![*id];
    while let Some(id) = to_see.pop() {
        if !there.contains(&id) {
            return false;
        }
        to_see.extend(refs[&id].iter().filter(|child| seen.insert(**child)));
    }
    true
}

fn not_there(
    root: &ChunkId,
    refs: &HashMap<ChunkId, Vec<ChunkId>>,
    there: &HashSet<ChunkId>,
    whole: &HashSet<ChunkId>,
) -> HashSet<ChunkId> {
    let mut absent = HashSet::new();
    let mut seen = HashSet::from([*root]);
    let mut to_see = vec![*root];
    while let Some(id) = to_see.pop() {
        if !there.contains(&id) {
            absent.insert(id);
        } else if !whole.contains(&id) {
            to_see.extend(refs[&id].iter().filter(|child| seen.insert(**child)));
        }
    }
    absent
}

#[test]
fn a_long_chain_in_the_worst_order_takes_linear_time() {
    let count = 50_000;
    let parents_first: Vec<_> = (1..count).rev().map(|number| (id(number), vec![id(number - 1)])).collect();
    let kv = empty();
    let frames: Vec<_> = parents_first.chunks(100).map(|part| new_frame(Kind::Branch, part)).collect();
    assert_eq!(commit(&*kv, &frames, &|_| None), []);
    assert_eq!(unwhole(&*kv.read().unwrap()).unwrap().len(), count - 1);
    // The same once more, with what they lack.
    let again = parents_first.chunks(100).map(|part| new_frame(Kind::Branch, part));
    let last = new_frame(Kind::Leaf, &[(id(0), vec![])]);
    commit(&*kv, &again.chain([last]).collect::<Vec<_>>(), &|_| None);
    assert_eq!(unwhole(&*kv.read().unwrap()).unwrap(), []);
    assert!(View::FIRM.has(&*kv.read().unwrap(), &id(count - 1)).unwrap());
}

#[test]
fn an_admitted_chunk_keeps_its_place() {
    let kv = empty();
    let twice = [(id(1), vec![]), (id(1), vec![])];
    commit(&*kv, &[new_frame(Kind::Leaf, &twice), new_frame(Kind::Leaf, &twice)], &|_| None);
    let row = || chunk(&*kv.read().unwrap(), &id(1)).unwrap().unwrap();
    assert_eq!((row().frame, row().position), (FrameNumber(0), 0));
    commit(&*kv, &[new_frame(Kind::Leaf, &twice)], &|_| None);
    assert_eq!(row().frame, FrameNumber(0));
    // A branch that lacks something does not take the place of one that was admitted.
    commit(&*kv, &[new_frame(Kind::Branch, &[(id(1), vec![id(2)])])], &|_| None);
    assert_eq!((row().frame, row().state), (FrameNumber(0), ChunkState::Admitted));
}

/// Everything so far is condemned.
fn condemn_all(kv: &dyn Kv) {
    let mut write = kv.write().unwrap();
    let end = next_frame(&*write).unwrap();
    (0..end.0).for_each(|number| put_condemned(&mut *write, FrameNumber(number), &[]).unwrap());
    put_collection(&mut *write, &Collection { phase: Phase::Condemned, epoch: 1, end }).unwrap();
    write.commit().unwrap();
}

#[test]
fn what_is_put_again_with_all_below_it_does_not_rest_on_what_is_condemned() {
    let (leaf, below, above) = (id(1), id(2), id(3));
    let parts =
        [(Kind::Leaf, (leaf, vec![])), (Kind::Branch, (below, vec![leaf])), (Kind::Branch, (above, vec![below]))];
    let frames = |order: &[usize]| -> Vec<NewFrame> {
        order.iter().map(|&at| new_frame(parts[at].0, std::slice::from_ref(&parts[at].1))).collect()
    };
    let standings = |kv: &dyn Kv| [leaf, below, above].map(|id| standing(&*kv.read().unwrap(), &id).unwrap());
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let kv = empty();
        commit(&*kv, &frames(&[0, 1, 2]), &|_| None);
        condemn_all(&*kv);
        assert_eq!(standings(&*kv), [Standing::Condemned; 3]);
        commit(&*kv, &frames(&order), &|_| None);
        assert_eq!(standings(&*kv), [Standing::Firm; 3], "{order:?}");
    }
    // Without what is lowest all of it rests on what goes.
    let kv = empty();
    commit(&*kv, &frames(&[0, 1, 2]), &|_| None);
    condemn_all(&*kv);
    commit(&*kv, &frames(&[2, 1]), &|_| None);
    assert_eq!(standings(&*kv), [Standing::Condemned; 3]);
    // What is put again in vain, because it lacks something, is no worse than before.
    let kv = empty();
    commit(&*kv, &frames(&[0, 1, 2]), &|_| None);
    condemn_all(&*kv);
    let mut write = kv.write().unwrap();
    delete_chunk(&mut *write, &leaf).unwrap();
    write.commit().unwrap();
    commit(&*kv, &frames(&[2, 1]), &|_| None);
    assert_eq!(standings(&*kv), [Standing::Absent, Standing::Condemned, Standing::Condemned]);
}
