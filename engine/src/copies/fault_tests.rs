//! A store of copies under failing calls, lost syncs and hostile bytes.

use super::tests::*;
use super::*;
use crate::env::{Dice, ManualClock};
use crate::files::faulty::{Call, Fault, Faults, FaultyFiles};
use crate::files::memory::MemoryFiles;
use crate::kv::Table;
use crate::kv::memory::MemoryKvHome;

#[test]
fn of_a_pack_whose_sync_failed_nothing_is_believed() {
    let all = frames(8, 30);
    for (nth, is_killed) in (1..7).flat_map(|nth| [(nth, false), (nth, true)]) {
        let (files, kv, clock) = (MemoryFiles::new(), MemoryKvHome::new(), Arc::default());
        let store = open(files.clone(), kv.clone(), &clock, 1).unwrap().store;
        put(&store, &all[..10]);
        let first = settled(&store).len();
        assert_eq!(first, 10);
        put(&store, &all[10..]);
        files.lose_sync(nth);
        let settlement = store.settle().unwrap();
        let lost: Vec<_> = settlement.lost.into_iter().flat_map(|lost| lost.frames).collect();
        assert_eq!(settlement.durable.len() + lost.len(), 20);
        assert!(!lost.is_empty(), "sync {nth}");
        let held: Vec<_> = all.iter().filter(|frame| !lost.contains(&frame.id)).cloned().collect();
        expect_held(&store, &held);
        expect_held_at_least(&open(files.crash(), kv.crash(), &clock, 2).unwrap().store, &held);
        // The same process goes on, or another, which finds in memory what the disk does not have.
        let store = match is_killed {
            false => store,
            true => {
                drop(store);
                open(files.clone(), kv.clone(), &clock, 3).unwrap().store
            }
        };
        expect_held_at_least(&open(files.crash(), kv.crash(), &clock, 2).unwrap().store, &held);
        put(&store, &all);
        let again = settled(&store);
        assert!(again.len() == lost.len() || is_killed);
        expect_held(&store, &all);
        expect_held_at_least(&open(files.crash(), kv.crash(), &clock, 3).unwrap().store, &all);
    }
}

#[test]
fn failing_calls_are_errors_and_lose_nothing() {
    let all = frames(9, 30);
    let calls = [Call::Create, Call::Append, Call::Sync, Call::SyncDir, Call::Read, Call::Open, Call::Remove];
    for call in calls {
        for nth in 1..30 {
            for fault in [Fault::Os(libc::ENOSPC), Fault::Short(libc::ENOSPC), Fault::Late(libc::EIO)] {
                let (files, kv, clock) = (MemoryFiles::new(), MemoryKvHome::new(), Arc::<ManualClock>::default());
                let faults = Faults::new();
                let faulty = FaultyFiles::new(Arc::new(files.clone()), faults.clone());
                let store = open(faulty, kv.clone(), &clock, 1).unwrap().store;
                faults.fail_once(call, nth, fault);
                let mut held: Vec<FrameId> = Vec::new();
                for part in all.chunks(10) {
                    part.iter().for_each(|frame| drop(store.put(&frame.id, &frame.bytes)));
                    held.extend(store.settle().unwrap().durable);
                }
                let _ = store.drop_frames(&held.split_off(held.len() / 2)).unwrap();
                clock.advance(MONTH);
                let _ = store.empty_trash(MONTH);
                let is_read_back = matches!(call, Call::Read | Call::Open);
                let held: Vec<_> = all.iter().filter(|frame| held.contains(&frame.id)).cloned().collect();
                if !is_read_back {
                    expect_held(&store, &held);
                }
                faults.clear();
                put(&store, &all);
                let _ = settled(&store);
                expect_held(&store, &all);
                let after = open(files.crash(), kv.crash(), &clock, 2).unwrap().store;
                expect_held(&after, &all);
            }
        }
    }
}

#[test]
fn hostile_packs_and_rows_are_errors_at_worst() {
    for seed in 0..150 {
        let (mut lab, all) = (Lab::new(), frames(seed, 25));
        let store = lab.open().store;
        put(&store, &all);
        let _ = settled(&store);
        let _ = store.drop_frames(&ids(&all[..5])).unwrap();
        drop(store);
        let mut dice = Dice(seed);
        for path in lab.packs() {
            lab.files.damage(&path, |bytes| {
                for _ in 0..dice.below(6) {
                    let at = dice.below(bytes.len());
                    bytes[at] = dice.throw() as u8;
                }
                bytes.truncate(bytes.len() - dice.below(3) * dice.below(bytes.len() / 2));
            });
        }
        match seed % 3 {
            0 => lab.kv.set_damaged(),
            1 => {}
            _ => {
                let version = lab.kv.version().unwrap();
                rewrite(&lab.kv, |write| {
                    for _ in 0..4 {
                        let table = [Table::Chunks, Table::Frames, Table::Condemned, Table::Packs][dice.below(4)];
                        let Some((key, value)) = version.rows(table).iter().nth(dice.below(20)) else { continue };
                        let mut value = value.clone();
                        if !value.is_empty() {
                            let at = dice.below(value.len());
                            value[at] = dice.throw() as u8;
                        }
                        value.truncate(value.len() - dice.below(2));
                        write.put(table, key, &value).unwrap();
                    }
                });
            }
        }
        let store = lab.open().store;
        for frame in &all {
            if let Ok(Some(bytes)) = store.read(&frame.id) {
                assert_eq!(bytes, frame.bytes);
            }
        }
        let _ = store.scrub(None, u64::MAX);
        let _ = store.undrop(&ids(&all));
        let _ = store.list(None, 100);
        lab.clock.advance(MONTH);
        let _ = store.drop_frames(&ids(&all[..8]));
        let _ = store.empty_trash(Duration::ZERO);
        drop(store);
        // With an index made anew everything can be put again.
        lab.kv.set_damaged();
        let store = lab.open().store;
        put(&store, &all);
        let _ = settled(&store);
        expect_held(&store, &all);
    }
}
