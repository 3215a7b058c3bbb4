//! What a store of copies promises, each by itself; and what the other tests are made of.

use super::*;
use crate::crypto::{DataKey, Salts, Suite, WrappedKey};
use crate::env::{Dice, Inline, ManualClock, SeededEntropy};
use crate::files::memory::MemoryFiles;
use crate::files::os::OsFiles;
use crate::frame::{FrameBuilder, SealKeys, Sealer, frame_id};
use crate::id::{ChunkId, SessionId};
use crate::kv::Table;
use crate::kv::lmdb::LmdbHome;
use crate::kv::memory::MemoryKvHome;
use crate::limits::COPIES_TRASH_SECS;

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const MONTH: Duration = Duration::from_secs(COPIES_TRASH_SECS);

/// A frame as somebody would put it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub id: FrameId,
    pub vault: VaultId,
    pub kind: Kind,
    pub bytes: Vec<u8>,
}

/// So many different frames, over three vaults and both kinds, of some hundred bytes each.
pub(super) fn frames(seed: u64, count: usize) -> Vec<Frame> {
    let mut dice = Dice(seed);
    let entropy = Arc::new(SeededEntropy::new(seed));
    let data_key = Arc::new(DataKey::random(&*entropy));
    (0..count)
        .map(|_| {
            let vault = VaultId([1 + dice.below(3) as u8; 16]);
            let kind = if dice.one_in(3) { Kind::Branch } else { Kind::Leaf };
            let keys = SealKeys {
                suite: Suite::Plain,
                data_key: data_key.clone(),
                wrapped: WrappedKey([0; 80]),
                generation: 0,
                vault,
                session: SessionId([9; 16]),
            };
            let mut content = vec![0; 1 + dice.below(500)];
            dice.fill(&mut content);
            let mut id = ChunkId([0; 32]);
            dice.fill(&mut id.0);
            let mut builder = FrameBuilder::new(kind);
            builder.push(id, &[], &content);
            let frame = Sealer::new(keys, Salts::new(entropy.clone()), 1).unwrap().seal(&mut builder);
            Frame { id: frame.id, vault, kind, bytes: frame.bytes }
        })
        .collect()
}

pub(super) fn ids(frames: &[Frame]) -> Vec<FrameId> {
    frames.iter().map(|frame| frame.id).collect()
}

/// A store whose packs are full with some frames, and the clock it goes by.
pub(super) fn open(
    files: impl Files + 'static,
    kv: impl crate::kv::KvHome + 'static,
    clock: &Arc<ManualClock>,
    seed: u64,
) -> Result<OpenedCopies> {
    let entropy = Arc::new(SeededEntropy::new(seed));
    let env = Env { clock: clock.clone(), entropy, executor: Arc::new(Inline) };
    let opened = CopyStore::open(Arc::new(files), Arc::new(kv), env, "pid 1")?;
    opened.store.0.writer().pack_len = 2500;
    Ok(opened)
}

/// A store in memory.
pub(super) struct Lab {
    pub files: MemoryFiles,
    pub kv: MemoryKvHome,
    pub clock: Arc<ManualClock>,
    runs: u64,
}

impl Lab {
    pub fn new() -> Self {
        Self { files: MemoryFiles::new(), kv: MemoryKvHome::new(), clock: Arc::default(), runs: 0 }
    }

    pub fn open(&mut self) -> OpenedCopies {
        self.runs += 1;
        open(self.files.clone(), self.kv.clone(), &self.clock, self.runs).unwrap()
    }

    pub fn packs(&self) -> Vec<String> {
        self.files.paths().into_iter().filter(|path| path.starts_with(PACKS)).collect()
    }
}

pub(super) fn put(store: &CopyStore, frames: &[Frame]) {
    for frame in frames {
        store.put(&frame.id, &frame.bytes).unwrap();
    }
}

pub(super) fn settled(store: &CopyStore) -> Vec<FrameId> {
    let settlement = store.settle().unwrap();
    assert!(settlement.lost.is_empty(), "{:?}", settlement.lost);
    settlement.durable
}

/// The store holds exactly these frames, and says so in every way.
pub(super) fn expect_held(store: &CopyStore, frames: &[Frame]) {
    store.check_index().unwrap();
    let mut held: Vec<_> = frames.iter().collect();
    held.sort_by_key(|frame| frame.id);
    let inventory = store.inventory().unwrap();
    let bytes = held.iter().map(|frame| frame.bytes.len() as u64).sum();
    assert_eq!((inventory.frames, inventory.bytes), (held.len() as u64, bytes));
    assert_eq!(inventory.digest, held.iter().map(|frame| &frame.id).collect());
    let mut listed = Vec::new();
    while let part = store.list(listed.last().map(|held: &Held| held.id), 7).unwrap()
        && !part.is_empty()
    {
        listed.extend(part);
    }
    let expected = held.iter().map(|f| Held { id: f.id, vault: f.vault, kind: f.kind, len: f.bytes.len() as u32 });
    assert_eq!(listed, expected.collect::<Vec<_>>());
    for frame in held {
        assert_eq!(store.read(&frame.id).unwrap().as_ref(), Some(&frame.bytes));
        assert_eq!(store.has(&[frame.id]).unwrap(), [true]);
    }
}

/// A whole scrub: the bad frames, and how many were read.
fn scrub(store: &CopyStore, bytes_max: u64) -> (Vec<FrameId>, u64) {
    let (mut bad, mut frames, mut cursor) = (Vec::new(), 0, None);
    loop {
        let step = store.scrub(cursor, bytes_max).unwrap();
        bad.extend(step.bad);
        frames += step.frames;
        cursor = step.next.and_then(|next| ScrubCursor::from_bytes(&next.to_bytes()));
        if cursor.is_none() {
            return (bad, frames);
        }
    }
}

#[test]
fn what_was_settled_is_held_and_only_that() {
    let (mut lab, all) = (Lab::new(), frames(1, 60));
    let opened = lab.open();
    assert!(opened.rebuilt.is_none());
    let store = opened.store;
    let empty = store.inventory().unwrap();
    assert_eq!((empty.sequence, empty.frames, empty.digest), (0, 0, SetDigest::default()));
    put(&store, &all);
    assert_eq!(store.put(&all[5].id, &all[5].bytes).unwrap(), Put::Waits);
    expect_held(&store, &[]);
    let mut durable = settled(&store);
    durable.sort();
    let mut expected = ids(&all);
    expected.sort();
    assert_eq!(durable, expected);
    expect_held(&store, &all);
    assert!(store.inventory().unwrap().sequence > 0);

    let (inventory, packs) = (store.inventory().unwrap(), lab.packs());
    assert_eq!(store.put(&all[5].id, &all[5].bytes).unwrap(), Put::Held);
    assert!(settled(&store).is_empty());
    assert_eq!(store.read(&FrameId([0; 32])).unwrap(), None);
    assert_eq!((store.inventory().unwrap(), lab.packs()), (inventory, packs.clone()));
    assert!(packs.len() > 12, "{packs:?}");

    drop(store);
    let again = lab.open();
    assert!(again.rebuilt.is_none());
    expect_held(&again.store, &all);
    assert_eq!(again.store.inventory().unwrap(), inventory);
}

#[test]
fn other_bytes_and_no_frames_are_refused_before_anything_is_written() {
    let (mut lab, all) = (Lab::new(), frames(2, 2));
    let store = lab.open().store;
    let wrong = store.put(&all[0].id, &all[1].bytes);
    assert!(matches!(wrong, Err(CopiesError::WrongBytes { found, .. }) if found == all[1].id));
    for bytes in [&b""[..], b"TKFRAME\x01", &all[0].bytes[..200], &[&all[0].bytes[..], b"x"].concat()] {
        assert!(matches!(store.put(&frame_id(bytes), bytes), Err(CopiesError::NoFrame { .. })));
    }
    let long = vec![0; crate::limits::FRAME_LEN_MAX + 1];
    assert!(matches!(store.put(&frame_id(&long), &long), Err(CopiesError::NoFrame { .. })));
    assert!(settled(&store).is_empty());
    assert!(lab.packs().is_empty());
}

#[test]
fn one_process_at_a_time_and_no_folder_of_something_else() {
    let mut lab = Lab::new();
    let store = lab.open().store;
    let busy = open(lab.files.clone(), lab.kv.clone(), &lab.clock, 9).err();
    assert!(matches!(busy, Some(CopiesError::Busy { owner }) if owner == "pid 1"));
    drop(store);
    lab.open();

    let vault = MemoryFiles::new();
    vault.put("config", vec![1]);
    let foreign = open(vault.clone(), MemoryKvHome::new(), &lab.clock, 1).err();
    assert!(matches!(foreign, Some(CopiesError::Foreign { name }) if name == "config"));
    assert_eq!(vault.paths(), ["config"]);

    lab.files.damage("copies", |bytes| {
        bytes[7] = 2;
        let check = *blake3::hash(&bytes[..32]).as_bytes();
        bytes[32..].copy_from_slice(&check);
    });
    let newer = open(lab.files.clone(), lab.kv.clone(), &lab.clock, 1).err();
    assert!(matches!(newer, Some(CopiesError::Version { found: 2 })));
}

#[test]
fn a_lost_index_is_made_again_under_a_new_incarnation() {
    let (mut lab, all) = (Lab::new(), frames(3, 40));
    let store = lab.open().store;
    put(&store, &all);
    let _ = settled(&store);
    let incarnation = store.inventory().unwrap().incarnation;
    drop(store);

    let breakers: [fn(&Lab); 5] = [
        |lab| lab.kv.set_damaged(),
        |lab| lab.kv.remove(),
        |lab| {
            lab.files.damage("copies", |bytes| bytes.truncate(7));
            lab.kv.remove();
        },
        |lab| rewrite(&lab.kv, |write| write.put(Table::Meta, b"totals", b"?").unwrap()),
        |lab| rewrite(&lab.kv, |write| write.put(Table::Meta, b"copies", &[1; 20]).unwrap()),
    ];
    let mut seen = vec![incarnation];
    for breaks in breakers {
        breaks(&lab);
        let opened = lab.open();
        assert_eq!(opened.rebuilt, Some(Vec::new()));
        expect_held(&opened.store, &all);
        let incarnation = opened.store.inventory().unwrap().incarnation;
        assert!(!seen.contains(&incarnation));
        seen.push(incarnation);
    }
    // The mark alone follows from the index.
    lab.files.remove("copies").unwrap();
    let opened = lab.open();
    assert!(opened.rebuilt.is_none());
    assert_eq!(Some(&opened.store.inventory().unwrap().incarnation), seen.last());
}

pub(super) fn rewrite(kv: &MemoryKvHome, change: impl FnOnce(&mut dyn crate::kv::Write)) {
    use crate::kv::KvHome;
    let kv = kv.open().unwrap().unwrap();
    let mut write = kv.write().unwrap();
    change(&mut *write);
    write.commit().unwrap();
}

#[test]
fn rot_is_found_takes_standing_and_is_healed_by_putting_again() {
    for seed in 0..20 {
        let (mut lab, all) = (Lab::new(), frames(seed, 40));
        let store = lab.open().store;
        put(&store, &all);
        let _ = settled(&store);
        assert_eq!(scrub(&store, 1000), (Vec::new(), 40));
        let mut dice = Dice(seed);
        let hit = &all[dice.below(40)];
        // Its chunk's name, which stands nowhere else.
        let needle = hit.bytes[160..192].to_vec();
        for path in lab.packs() {
            lab.files.damage(&path, |bytes| {
                if let Some(at) = bytes.windows(32).position(|window| window == needle) {
                    bytes[at] ^= 1;
                }
            });
        }
        let before = store.inventory().unwrap();
        if seed % 2 == 0 {
            assert_eq!(scrub(&store, 1 + seed * 100), (vec![hit.id], 40));
        } else {
            assert!(matches!(store.read(&hit.id), Err(CopiesError::Damaged { frame, .. }) if frame == hit.id));
        }
        assert_eq!(store.has(&[hit.id]).unwrap(), [false]);
        assert!(matches!(store.read(&hit.id), Err(CopiesError::Damaged { .. })));
        assert_eq!(scrub(&store, u64::MAX), (Vec::new(), 39));
        let without: Vec<_> = all.iter().filter(|frame| frame.id != hit.id).cloned().collect();
        expect_held(&store, &without);
        assert!(store.inventory().unwrap().sequence > before.sequence);

        assert_eq!(store.put(&hit.id, &hit.bytes).unwrap(), Put::Waits);
        assert_eq!(settled(&store), [hit.id]);
        expect_held(&store, &all);
        assert_eq!(store.inventory().unwrap().digest, before.digest);
        drop(store);
        // A rebuild tells of the rot, and knows the whole copy.
        lab.kv.set_damaged();
        let opened = lab.open();
        assert!(!opened.rebuilt.unwrap().is_empty());
        expect_held(&opened.store, &all);
    }
}

#[test]
fn a_missing_pack_is_rot_too() {
    let (mut lab, all) = (Lab::new(), frames(4, 20));
    let store = lab.open().store;
    put(&store, &all);
    let _ = settled(&store);
    lab.packs().iter().for_each(|path| lab.files.remove(path).unwrap());
    assert!(matches!(store.read(&all[0].id), Err(CopiesError::Damaged { .. })));
    assert_eq!(scrub(&store, 500).0.len(), 19);
    expect_held(&store, &[]);
    put(&store, &all);
    let _ = settled(&store);
    expect_held(&store, &all);
}

#[test]
fn what_is_dropped_stays_in_trash_and_comes_back() {
    let (mut lab, all) = (Lab::new(), frames(5, 60));
    let store = lab.open().store;
    put(&store, &all);
    let _ = settled(&store);
    let (gone, kept) = all.split_at(40);
    assert_eq!(store.drop_frames(&ids(gone)).unwrap(), ids(gone));
    assert!(store.drop_frames(&ids(gone)).unwrap().is_empty());
    expect_held(&store, kept);
    assert_eq!(store.read(&gone[0].id).unwrap(), None);
    let trash = gone.iter().map(|frame| frame.bytes.len() as u64).sum::<u64>();
    assert_eq!(store.inventory().unwrap().trash_bytes, trash);
    assert_eq!(store.empty_trash(MONTH).unwrap(), Emptied::default());

    // Put again it returns without new bytes; asked for it returns as well.
    let len = |lab: &Lab| lab.packs().iter().map(|path| lab.files.bytes(path).unwrap().len()).sum::<usize>();
    let before = len(&lab);
    assert_eq!(store.put(&gone[0].id, &gone[0].bytes).unwrap(), Put::Waits);
    expect_held(&store, kept);
    assert_eq!(settled(&store), [gone[0].id]);
    assert_eq!(store.undrop(&ids(&gone[..5])).unwrap(), ids(&gone[1..5]));
    expect_held(&store, &[&gone[..5], kept].concat());
    assert_eq!(len(&lab), before);

    // A month later the rest goes; what is needed of those packs has moved.
    lab.clock.advance(MONTH);
    let emptied = store.empty_trash(MONTH).unwrap();
    assert!(emptied.frames > 20 && emptied.packs > 5 && emptied.bytes > 10_000, "{emptied:?}");
    assert!(len(&lab) as u64 <= before as u64 - emptied.bytes);
    expect_held(&store, &[&gone[..5], kept].concat());
    drop(store);
    lab.kv.set_damaged();
    let opened = lab.open();
    assert_eq!(opened.rebuilt, Some(Vec::new()));
    let held: Vec<_> = all.iter().filter(|frame| opened.store.has(&[frame.id]).unwrap()[0]).cloned().collect();
    assert!(held.len() >= 25 && held.len() as u64 <= 60 - emptied.frames);
    expect_held(&opened.store, &held);
}

#[test]
fn trash_ages_only_while_the_store_is_open() {
    let (mut lab, all) = (Lab::new(), frames(6, 30));
    let store = lab.open().store;
    put(&store, &all);
    let _ = settled(&store);
    lab.clock.advance(DAY);
    let _ = store.drop_frames(&ids(&all)).unwrap();
    lab.clock.advance(10 * DAY);
    assert_eq!(store.tick().unwrap(), 11 * DAY);
    assert_eq!(store.tick().unwrap(), 11 * DAY);
    lab.clock.advance(DAY);
    drop(store);
    lab.clock.advance(100 * DAY);
    let store = lab.open().store;
    assert_eq!(store.tick().unwrap(), 11 * DAY);
    lab.clock.advance(19 * DAY);
    assert_eq!(store.empty_trash(MONTH).unwrap().frames, 0);
    assert!(store.empty_trash(29 * DAY).unwrap().frames == 30);
    assert!(lab.packs().is_empty(), "{:?}", lab.packs());
    expect_held(&store, &[]);
}

#[test]
fn a_bad_frame_in_trash_does_not_return_and_bad_bytes_are_not_copied() {
    let (mut lab, all) = (Lab::new(), frames(7, 40));
    let store = lab.open().store;
    put(&store, &all);
    let _ = settled(&store);
    let _ = store.drop_frames(&ids(&all[..20])).unwrap();
    for path in lab.packs() {
        lab.files.damage(&path, |bytes| bytes[64..].iter_mut().for_each(|byte| *byte ^= 0x55));
    }
    assert!(store.undrop(&ids(&all[..2])).unwrap().is_empty());
    assert!(matches!(store.read(&all[0].id), Err(CopiesError::Damaged { .. })));
    lab.clock.advance(MONTH);
    let emptied = store.empty_trash(MONTH).unwrap();
    assert!(!emptied.bad.is_empty());
    store.check_index().unwrap();
    // A damaged frame in trash is written anew.
    assert!(!scrub(&store, 1 << 20).0.is_empty());
    put(&store, &all);
    let _ = settled(&store);
    expect_held(&store, &all);
}

/// The store holds these, perhaps more, and everything it holds can be read.
pub(super) fn expect_held_at_least(store: &CopyStore, frames: &[Frame]) {
    store.check_index().unwrap();
    assert!(store.has(&ids(frames)).unwrap().into_iter().all(|is_held| is_held));
    for held in store.list(None, usize::MAX).unwrap() {
        assert_eq!(frame_id(&store.read(&held.id).unwrap().unwrap()), held.id);
    }
}

#[test]
fn a_store_on_a_real_disk() {
    let (dir, all) = (tempfile::tempdir().unwrap(), frames(10, 50));
    let clock: Arc<ManualClock> = Arc::default();
    let root = dir.path().to_path_buf();
    let opened = |seed| open(OsFiles::new(root.clone()), LmdbHome::new(root.clone()), &clock, seed).unwrap();
    let store = opened(1).store;
    put(&store, &all);
    let _ = settled(&store);
    let _ = store.drop_frames(&ids(&all[..30])).unwrap();
    expect_held(&store, &all[30..]);
    clock.advance(MONTH);
    assert!(store.empty_trash(MONTH).unwrap().bytes > 0);
    expect_held(&store, &all[30..]);
    put(&store, &all);
    let _ = settled(&store);
    let inventory = store.inventory().unwrap();
    drop(store);
    let again = opened(2);
    assert!(again.rebuilt.is_none());
    assert_eq!(again.store.inventory().unwrap(), inventory);
    expect_held(&again.store, &all);
    drop(again);
    std::fs::remove_dir_all(root.join("index")).unwrap();
    let again = opened(3);
    assert_eq!(again.rebuilt, Some(Vec::new()));
    expect_held(&again.store, &all);
}

#[test]
fn readers_are_right_while_packs_are_rewritten() {
    let (mut lab, all) = (Lab::new(), frames(11, 60));
    let store = lab.open().store;
    let by_id: std::collections::HashMap<_, _> = all.iter().map(|frame| (frame.id, &frame.bytes)).collect();
    std::thread::scope(|scope| {
        let (store, all) = (&store, &all);
        let puts = scope.spawn(move || {
            for _ in 0..150 {
                put(store, all);
                let _ = settled(store);
            }
        });
        let drops = scope.spawn(move || {
            let mut dice = Dice(1);
            while !puts.is_finished() {
                let some: Vec<_> = all.iter().filter(|_| dice.one_in(4)).map(|frame| frame.id).collect();
                let _ = store.drop_frames(&some).unwrap();
                let _ = store.undrop(&some[..some.len() / 3]).unwrap();
                assert!(store.empty_trash(Duration::ZERO).unwrap().bad.is_empty());
            }
        });
        while !drops.is_finished() {
            for id in by_id.keys() {
                match store.read(id) {
                    Ok(bytes) => assert!(bytes.is_none_or(|bytes| bytes == *by_id[id])),
                    Err(error) => assert!(matches!(error, CopiesError::Moving { .. }), "{error}"),
                }
            }
            assert_eq!(scrub(store, 3000).0, []);
        }
    });
    put(&store, &all);
    let _ = settled(&store);
    expect_held(&store, &all);
}
