use super::tests::World;
use super::*;
use crate::branch::Branches;
use crate::env::Dice;
use crate::id::{ChunkId, Kind};
use crate::index::{ChunkRow, FrameNumber};
use crate::pack::FRAME_NAME_LEN;
use crate::record::{ChangeKind, ChangeRecord};
use crate::store::BadFrame;
use crate::vault::{SnapshotInfo, Snapshots};
use std::collections::{HashMap, HashSet};

/// Every chunk below a snapshot with its length and kind, by asking for one after the other.
type Needs = HashMap<ChunkId, (u64, Kind)>;

fn needs(world: &World, root: ChunkId) -> Needs {
    let reader = world.vault.reader().unwrap();
    let (mut needs, mut waiting) = (Needs::new(), vec![root]);
    while let Some(id) = waiting.pop() {
        if needs.contains_key(&id) {
            continue;
        }
        let kind = reader.place(&id).unwrap().kind;
        let len = match kind {
            Kind::Leaf => reader.leaf(&id).unwrap().len(),
            Kind::Branch => {
                let (refs, payload) = reader.branch(&id).unwrap();
                waiting.extend(refs);
                payload.len()
            }
        };
        needs.insert(id, (len as u64, kind));
    }
    needs
}

/// What `mine` need and `others` do not.
fn only<'a>(mine: impl Iterator<Item = &'a Needs>, others: impl Iterator<Item = &'a Needs>) -> (u64, u64, u64) {
    let others: HashSet<&ChunkId> = others.flat_map(HashMap::keys).collect();
    let mine: HashMap<&ChunkId, &(u64, Kind)> = mine.flatten().filter(|(id, _)| !others.contains(id)).collect();
    let branches = mine.values().filter(|(_, kind)| *kind == Kind::Branch).count();
    (mine.len() as u64, branches as u64, mine.values().map(|(len, _)| len).sum())
}

fn counts(freed: &Freed) -> (u64, u64, u64) {
    (freed.chunks, freed.branches, freed.plain)
}

/// A vault of some snapshots that share files, folders and parts of long files.
///
/// With `expels`, some frames lose their standing in between: what is stored anew then lies behind what refers to it.
fn random_world(dice: &mut Dice, expels: bool) -> World {
    let world = World::new();
    let mut pool: Vec<Vec<u8>> = Vec::new();
    for at in 0..8 {
        let mut bytes = vec![0; [300, 5_000, 90_000, 700_000, 2 << 20][dice.below(5)]];
        dice.fill(&mut bytes);
        // A long file whose end is another's.
        if at > 4 && dice.one_in(2) {
            bytes.extend_from_slice(&pool[dice.below(at)]);
        }
        pool.push(bytes);
    }
    for _ in 0..5 {
        for _ in 0..1 + dice.below(4) {
            let name = format!("{}/{}", ["a", "b", "a/c"][dice.below(3)], dice.below(5));
            match dice.one_in(4) {
                true => drop(std::fs::remove_file(world.source.path().join(name))),
                false => world.write(&name, &pool[dice.below(pool.len())]),
            }
        }
        world.backup();
        if expels {
            let frames = world.vault.store().frames(FrameNumber(0), 1 << 20).unwrap();
            let picked: Vec<_> = frames.iter().map(BadFrame::from).filter(|_| dice.one_in(3)).collect();
            world.vault.store().expel(&picked).unwrap();
        }
    }
    world
}

fn change(world: &World, info: &SnapshotInfo, kind: ChangeKind) {
    let change = ChangeRecord { records: vec![info.record], note: String::new(), kind };
    world.vault.change(&mut |_, _| Some(change.clone())).unwrap().unwrap();
}

#[test]
fn what_would_be_freed_is_what_nobody_else_needs() {
    for round in 0..6 {
        let seed = u64::from(std::process::id()) << 8 | round;
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let expels = round % 2 == 1;
        let world = random_world(&mut dice, expels);
        let first = world.vault.snapshots().unwrap().list;
        change(&world, &first[dice.below(first.len())], ChangeKind::Forget { undelete_days: 30 });
        let all = world.vault.snapshots().unwrap();
        assert_eq!((all.list.len(), all.forgotten.len()), (first.len() - 1, 1));
        let needs: HashMap<ChunkId, Needs> = first.iter().map(|info| (info.id, needs(&world, info.id))).collect();
        for _ in 0..4 {
            let mut given: Vec<ChunkId> = first.iter().map(|info| info.id).filter(|_| dice.one_in(2)).collect();
            if dice.one_in(2) {
                given.reverse();
            }
            let report = freed(&world.vault, &all, &given).unwrap();
            let others = || first.iter().map(|info| info.id).filter(|id| !given.contains(id)).map(|id| &needs[&id]);
            assert_eq!(counts(&report.together), only(given.iter().map(|id| &needs[id]), others()));
            assert_eq!((report.each.len(), report.missing), (given.len(), 0));
            for (id, freed) in given.iter().zip(&report.each) {
                let rest = given.iter().filter(|other| *other != id).map(|id| &needs[id]);
                assert_eq!(counts(freed), only(std::iter::once(&needs[id]), others().chain(rest)));
                assert!(freed.stored_whole <= freed.stored);
            }
            let stored = report.each.iter().map(|freed| freed.stored).sum::<u64>();
            assert!(stored <= report.together.stored && report.together.stored_whole <= report.together.stored);
        }
        let whole: Vec<ChunkId> = first.iter().map(|info| info.id).collect();
        let report = freed(&world.vault, &all, &whole).unwrap();
        let frames = world.vault.store().frames(FrameNumber(0), 1 << 20).unwrap();
        let len: u64 = frames.iter().map(|place| u64::from(place.len) + FRAME_NAME_LEN).sum();
        // Where nothing is garbage all frames go.
        assert!(report.together.stored == len || expels && report.together.stored < len, "{report:?}");
        assert_eq!(report.together.stored, report.together.stored_whole);
        let dedup = stats(&world.vault, &all.list, StatsMode::Dedup).unwrap();
        let listed = all.list.iter().map(|info| &needs[&info.id]);
        assert_eq!((dedup.unique_chunks, dedup.branches, dedup.plain_unique), only(listed, std::iter::empty()));
    }
}

/// Bytes of frames of which no chunk is needed, and of frames in packs of which none is.
fn dead_frames(world: &World, needed: &HashSet<ChunkId>) -> u64 {
    let mut live = HashSet::new();
    let mut rows: Vec<(ChunkId, ChunkRow)> = Vec::new();
    world
        .vault
        .local()
        .unwrap()
        .visit_chunk_rows(&mut |id, row| {
            rows.push((id, row));
            true
        })
        .unwrap();
    live.extend(rows.iter().filter(|(id, _)| needed.contains(id)).map(|(_, row)| row.frame));
    let frames = world.vault.store().frames(FrameNumber(0), 1 << 20).unwrap();
    let live_packs: HashSet<_> =
        frames.iter().filter(|place| live.contains(&place.number)).map(|place| place.pack).collect();
    let dead = frames.iter().filter(|place| live_packs.contains(&place.pack) && !live.contains(&place.number));
    dead.map(|place| u64::from(place.len) + FRAME_NAME_LEN).sum()
}

#[test]
fn space_adds_up_and_what_is_dead_is_found() {
    for round in 0..3 {
        let seed = u64::from(std::process::id()) << 8 | round;
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let world = random_world(&mut dice, false);
        let first = world.vault.snapshots().unwrap().list;
        let check = |all: &Snapshots| {
            let space = space(&world.vault, all).unwrap();
            let total: u64 = world.vault.local().unwrap().pack_files().unwrap().iter().map(|file| file.len).sum();
            let dead = space.dead_pack_bytes + space.dead_frame_bytes + space.dead_in_frames;
            let live = space.needed + space.forgotten + space.superseded;
            assert_eq!((space.total, live + dead + space.unfinished + space.overhead), (total, total), "{space:?}");
            assert_eq!((space.missing, space.unfinished, space.suspect, space.unwhole), (0, 0, 0, 0));
            space
        };
        let all = world.vault.snapshots().unwrap();
        let clean = check(&all);
        assert_eq!((clean.forgotten, clean.superseded, clean.dead_packs, clean.dead_frame_bytes), (0, 0, 0, 0));
        // Forgotten ones, then nobody's: as if they were purged.
        let picked: Vec<&SnapshotInfo> = first.iter().filter(|_| dice.one_in(2)).collect();
        for info in &picked {
            change(&world, info, ChangeKind::Forget { undelete_days: 30 });
        }
        let mut all = world.vault.snapshots().unwrap();
        let gone: Vec<ChunkId> = picked.iter().map(|info| info.id).collect();
        let estimate = freed(&world.vault, &all, &gone).unwrap().together;
        let forgotten = check(&all);
        assert_eq!(forgotten.forgotten > 0, !picked.is_empty());
        // Shares of a frame are rounded one after the other.
        let frames = world.vault.store().frames(FrameNumber(0), 1 << 20).unwrap().len() as u64;
        assert!(forgotten.forgotten.abs_diff(estimate.stored) <= 5 * frames, "{forgotten:?} {estimate:?}");
        // Checkpoints that were gone beyond hold nothing back from others, and are told apart.
        all.superseded = std::mem::take(&mut all.forgotten);
        let superseded = check(&all);
        assert_eq!((superseded.superseded, superseded.forgotten), (forgotten.forgotten, 0));
        let listed: Vec<ChunkId> = all.list.iter().map(|info| info.id).collect();
        let without = freed(&world.vault, &all, &listed).unwrap().together;
        assert!(without.stored.abs_diff(superseded.needed) <= frames, "{superseded:?} {without:?}");
        all.superseded.clear();
        let dead = check(&all);
        assert!(dead.needed.abs_diff(forgotten.needed) <= frames && dead.forgotten == 0, "{dead:?} {forgotten:?}");
        let needed: HashSet<ChunkId> = all.list.iter().flat_map(|info| needs(&world, info.id).into_keys()).collect();
        assert_eq!(dead.dead_frame_bytes, dead_frames(&world, &needed));
    }
}

#[test]
fn what_lies_in_a_bad_frame_is_told() {
    let world = World::new();
    world.write("f", &[7; 3000]);
    let info = world.backup();
    let all = world.vault.snapshots().unwrap();
    let frames = world.vault.store().frames(FrameNumber(0), 100).unwrap();
    world.vault.store().expel(&frames.iter().map(BadFrame::from).collect::<Vec<_>>()).unwrap();
    let before = space(&world.vault, &all).unwrap();
    assert!(before.needed > 0 && before.suspect == 0, "needed, however bad: {before:?}");
    let after = space(&world.vault, &Snapshots::default()).unwrap();
    assert!(after.suspect > 0 && after.dead_packs == after.packs, "{after:?}");
    // A branch that cannot be read: nobody knows what it needs.
    let pack = world.files.paths().into_iter().find(|path| path.ends_with(".branch")).unwrap();
    world.files.damage(&pack, |bytes| bytes[300] ^= 1);
    assert_eq!(freed(&world.vault, &all, &[info.id]).unwrap_err().class(), ErrorClass::Damaged);
    assert_eq!(freed(&world.vault, &all, &[ChunkId([0; 32])]).unwrap_err().class(), ErrorClass::Damaged);
    let gone = freed(&world.vault, &Snapshots::default(), &[ChunkId([0; 32])]).unwrap();
    assert_eq!((gone.missing, gone.together), (1, Freed::default()));
}
