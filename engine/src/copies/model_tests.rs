//! Random work on a store beside a plain map that says what must be so.

use super::tests::{DAY, Frame, MONTH, expect_held, frames, open};
use super::*;
use crate::env::{Dice, ManualClock};
use crate::files::memory::MemoryFiles;
use crate::kv::memory::MemoryKvHome;
use std::collections::{BTreeMap, BTreeSet};

/// What should be so, frame by frame.
#[derive(Default)]
struct Model {
    held: BTreeSet<usize>,
    /// Waiting to be settled.
    waiting: BTreeSet<usize>,
    /// Since when in trash.
    trash: BTreeMap<usize, Duration>,
    bad: BTreeSet<usize>,
}

struct Run {
    all: Vec<Frame>,
    files: MemoryFiles,
    kv: MemoryKvHome,
    clock: Arc<ManualClock>,
    dice: Dice,
    runs: u64,
    model: Model,
}

impl Run {
    fn open(&mut self) -> OpenedCopies {
        self.runs += 1;
        open(self.files.clone(), self.kv.clone(), &self.clock, self.runs).unwrap()
    }

    /// Some of the frames, by number.
    fn some(&mut self) -> Vec<usize> {
        (0..1 + self.dice.below(8)).map(|_| self.dice.below(self.all.len())).collect()
    }

    fn ids(&self, numbers: &[usize]) -> Vec<FrameId> {
        numbers.iter().map(|number| self.all[*number].id).collect()
    }

    fn numbers(&self, ids: &[FrameId]) -> BTreeSet<usize> {
        ids.iter().map(|id| self.all.iter().position(|frame| frame.id == *id).unwrap()).collect()
    }

    fn settle(&mut self, store: &CopyStore) {
        let settlement = store.settle().unwrap();
        assert!(settlement.lost.is_empty());
        let waiting = std::mem::take(&mut self.model.waiting);
        // Also what was taken out of trash by other means meanwhile.
        assert_eq!(self.numbers(&settlement.durable), waiting);
        for number in waiting {
            self.model.trash.remove(&number);
            self.model.bad.remove(&number);
            self.model.held.insert(number);
        }
    }

    fn put(&mut self, store: &CopyStore) {
        for number in self.some() {
            let frame = &self.all[number];
            let put = store.put(&frame.id, &frame.bytes).unwrap();
            assert_eq!(put == Put::Held, self.model.held.contains(&number) && !self.model.waiting.contains(&number));
            if put == Put::Waits {
                self.model.waiting.insert(number);
            }
        }
    }

    fn drop_some(&mut self, store: &CopyStore) {
        let some = self.some();
        let dropped = self.numbers(&store.drop_frames(&self.ids(&some)).unwrap());
        let now = self.clock_now(store);
        let was_there = some.into_iter().filter(|n| self.model.held.remove(n) | self.model.bad.remove(n)).collect();
        assert_eq!(dropped, was_there);
        self.model.trash.extend(was_there.into_iter().map(|number| (number, now)));
    }

    fn clock_now(&self, store: &CopyStore) -> Duration {
        store.tick().unwrap()
    }

    fn undrop_some(&mut self, store: &CopyStore) {
        let some = self.some();
        let back = self.numbers(&store.undrop(&self.ids(&some)).unwrap());
        for number in some {
            if self.model.trash.remove(&number).is_some() {
                let kept = if back.contains(&number) { &mut self.model.held } else { &mut self.model.bad };
                kept.insert(number);
            }
        }
    }

    fn empty(&mut self, store: &CopyStore) {
        let now = self.clock_now(store);
        let age = if self.dice.one_in(2) { MONTH } else { DAY };
        let before = store.inventory().unwrap();
        let emptied = store.empty_trash(age).unwrap();
        assert!(emptied.bad.is_empty());
        let after = store.inventory().unwrap();
        assert_eq!((after.digest, after.sequence), (before.digest, before.sequence));
        // Only what is old enough goes, and only that much.
        let old = self.model.trash.iter().filter(|(_, since)| **since + age <= now).map(|(number, _)| *number);
        let old: Vec<_> = old.collect();
        let gone: Vec<_> = old.iter().copied().filter(|number| !self.is_in_trash(store, *number)).collect();
        assert_eq!(gone.len() as u64, emptied.frames);
        self.model.trash.retain(|number, _| !gone.contains(number));
        assert!(self.model.trash.keys().all(|number| self.is_in_trash(store, *number)));
    }

    fn is_in_trash(&self, store: &CopyStore, number: usize) -> bool {
        let read = store.0.kv.read().unwrap();
        let state = rows::frame(&*read, &self.all[number].id).unwrap();
        state.is_some_and(|state| state.standing == rows::Standing::Trash)
    }

    /// Another process takes over; what was put and not settled may have stayed.
    fn reopen(&mut self, store: CopyStore) -> CopyStore {
        let uptime = self.clock_now(&store);
        drop(store);
        let is_lost = self.dice.one_in(4);
        if is_lost {
            self.kv.set_damaged();
        }
        if self.dice.one_in(2) {
            (self.files, self.kv) = (self.files.crash(), self.kv.crash());
            if is_lost {
                self.kv.set_damaged();
            }
        }
        let opened = self.open();
        assert_eq!(opened.rebuilt.is_some(), is_lost);
        let store = opened.store;
        let held = ids_held(&store);
        let may = self.model.waiting.union(&self.model.trash.keys().copied().collect()).copied().collect();
        let now = self.numbers(&held);
        assert!(self.model.held.is_subset(&now), "lost: {:?}", self.model.held.difference(&now));
        let more: BTreeSet<_> = now.difference(&self.model.held).copied().collect();
        let gone: BTreeSet<_> = self.all.iter().enumerate().map(|(number, _)| number).collect();
        // An index made anew also finds what was forgotten and still lies in some pack.
        assert!(more.is_subset(if is_lost { &gone } else { &may }));
        self.model.held = now;
        self.model.waiting.clear();
        if is_lost {
            self.model.trash.clear();
        } else {
            assert_eq!(self.clock_now(&store), uptime);
            let held = &self.model.held;
            self.model.trash.retain(|number, _| !held.contains(number));
        }
        store
    }
}

fn ids_held(store: &CopyStore) -> Vec<FrameId> {
    store.list(None, usize::MAX).unwrap().into_iter().map(|held| held.id).collect()
}

#[test]
fn random_work_agrees_with_a_map() {
    let seeds: Vec<u64> = match std::env::var("TWINKEEP_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..60).collect(),
    };
    for seed in seeds {
        // Shown when the test fails.
        println!("seed {seed}");
        let mut run = Run {
            all: frames(seed, 60),
            files: MemoryFiles::new(),
            kv: MemoryKvHome::new(),
            clock: Arc::default(),
            dice: Dice(seed),
            runs: seed * 1000,
            model: Model::default(),
        };
        let mut store = run.open().store;
        for _ in 0..120 {
            match run.dice.below(12) {
                0..5 => run.put(&store),
                5 | 6 => run.settle(&store),
                7 | 8 => run.drop_some(&store),
                9 => run.undrop_some(&store),
                10 => run.empty(&store),
                _ => store = run.reopen(store),
            }
            let days = run.dice.below(20) as u32;
            run.clock.advance(DAY * days);
            let held: Vec<_> = run.model.held.iter().map(|number| run.all[*number].clone()).collect();
            expect_held(&store, &held);
            let trash: usize = run.model.trash.keys().map(|number| run.all[*number].bytes.len()).sum();
            assert_eq!(store.inventory().unwrap().trash_bytes, trash as u64);
            assert!(run.model.bad.is_empty());
        }
    }
}
