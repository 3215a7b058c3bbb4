//! Power cuts at every operation: what a settlement named is there afterwards, unless it was dropped, and what was
//! dropped is there until it may go.

use super::tests::{Frame, MONTH, expect_held_at_least, frames, ids, open, put};
use super::*;
use crate::env::{Dice, ManualClock};
use crate::files::crash::{CrashState, Replay};
use crate::files::memory::MemoryFiles;
use crate::files::record::{Log, record};
use crate::frame::frame_id;
use crate::kv::memory::MemoryKvHome;
use std::collections::BTreeSet;

/// States tried at each entry of a log.
const STATES: usize = 6;

/// A history, and what was so after each of its steps: the frames that must be held, and those that must be held or in
/// trash, by number.
struct History {
    all: Vec<Frame>,
    log: Log,
    steps: Vec<Step>,
}

#[derive(Clone, Default)]
struct Step {
    held: BTreeSet<usize>,
    there: BTreeSet<usize>,
}

impl History {
    fn record(seed: u64) -> Self {
        let all = frames(seed, 40);
        let (files, kv, log) = record(MemoryFiles::new(), MemoryKvHome::new());
        let clock: Arc<ManualClock> = Arc::default();
        let mut history = Self { all, log, steps: vec![Step::default()] };
        let mut step = Step::default();
        let mut dice = Dice(seed);
        let mut store = open(files.clone(), kv.clone(), &clock, seed).unwrap().store;
        for round in 0..5 {
            let from = 8 * round;
            put(&store, &history.all[from..from + 8]);
            step.held.extend(history.settle(&store));
            history.acknowledge(&mut step);
            let some: Vec<usize> = (0..from + 8).filter(|_| dice.one_in(3)).collect();
            // From here on these need not be held.
            step.held.retain(|number| !some.contains(number));
            history.acknowledge(&mut step);
            let _ = store.drop_frames(&history.ids(&some)).unwrap();
            if dice.one_in(2) {
                let back = store.undrop(&history.ids(&some[..some.len() / 3])).unwrap();
                step.held.extend(history.numbers(&back));
                history.acknowledge(&mut step);
            }
            if dice.one_in(2) {
                clock.advance(MONTH);
                let held = step.held.clone();
                step.there.retain(|number| held.contains(number));
                history.acknowledge(&mut step);
                let _ = store.empty_trash(MONTH).unwrap();
            }
            if dice.one_in(3) {
                // Some wait, and the process is killed.
                put(&store, &history.all[..from]);
                drop(store);
                store = open(files.clone(), kv.clone(), &clock, seed + 100 * round as u64).unwrap().store;
            }
        }
        history
    }

    fn settle(&self, store: &CopyStore) -> BTreeSet<usize> {
        self.numbers(&store.settle().unwrap().durable)
    }

    /// What must be so from this entry of the log on, until the next.
    fn acknowledge(&mut self, step: &mut Step) {
        step.there.extend(step.held.iter().copied());
        self.log.ack(self.steps.len().to_string());
        self.steps.push(step.clone());
    }

    fn ids(&self, numbers: &[usize]) -> Vec<FrameId> {
        numbers.iter().map(|number| self.all[*number].id).collect()
    }

    fn numbers(&self, ids: &[FrameId]) -> BTreeSet<usize> {
        ids.iter().map(|id| self.all.iter().position(|frame| frame.id == *id).unwrap()).collect()
    }

    fn of(&self, numbers: &BTreeSet<usize>) -> Vec<Frame> {
        numbers.iter().map(|number| self.all[*number].clone()).collect()
    }

    /// What must be so at an entry of the log.
    fn at(&self, entry: usize) -> Step {
        let acks = self.log.acks(entry).len();
        self.steps[acks].clone()
    }

    fn check(&self, state: CrashState, entry: usize, dice: &mut Dice) {
        let step = self.at(entry);
        let note = &state.note;
        let clock: Arc<ManualClock> = Arc::default();
        if dice.one_in(8) {
            self.check_again(&state, &step, dice);
        }
        if dice.one_in(5) {
            state.kv.set_damaged();
        }
        let store = open(state.files.clone(), state.kv.clone(), &clock, dice.throw()).expect(note).store;
        let held = self.numbers(&store.list(None, usize::MAX).unwrap().iter().map(|held| held.id).collect::<Vec<_>>());
        assert!(step.held.is_subset(&held), "lost {:?} at {entry}: {note}", step.held.difference(&held));
        expect_held_at_least(&store, &self.of(&step.held));
        // What is in trash comes back.
        let _ = store.undrop(&ids(&self.all)).unwrap();
        expect_held_at_least(&store, &self.of(&step.there));
        // And all goes on.
        put(&store, &self.all);
        assert!(store.settle().unwrap().lost.is_empty());
        let _ = store.drop_frames(&ids(&self.all[..20])).unwrap();
        store.empty_trash(Duration::ZERO).unwrap();
        expect_held_at_least(&store, &self.all[20..]);
        for frame in &self.all[20..] {
            assert_eq!(frame_id(&store.read(&frame.id).unwrap().unwrap()), frame.id);
        }
    }

    /// The power goes again while the store is being opened.
    fn check_again(&self, state: &CrashState, step: &Step, dice: &mut Dice) {
        let (files, kv, log) = record(state.files.copy(), state.kv.crash());
        if dice.one_in(2) {
            kv.inner().remove();
        }
        drop(open(files, kv, &Arc::default(), dice.throw()).expect(&state.note));
        let mut replay = Replay::new(&log);
        for entry in 0..=replay.len() {
            replay.advance_to(entry);
            for again in replay.states(dice, 2) {
                let store = open(again.files, again.kv, &Arc::default(), dice.throw()).expect(&again.note).store;
                expect_held_at_least(&store, &self.of(&step.held));
            }
        }
    }
}

#[test]
fn no_power_cut_loses_what_was_settled() {
    let seeds: Vec<u64> = match std::env::var("TWINKEEP_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..8).collect(),
    };
    let mut states = 0;
    for seed in seeds {
        // Shown when the test fails.
        println!("seed {seed}");
        let history = History::record(seed);
        let mut dice = Dice(seed);
        let mut replay = Replay::new(&history.log);
        for entry in 0..=replay.len() {
            replay.advance_to(entry);
            for state in replay.states(&mut dice, STATES) {
                history.check(state, entry, &mut dice);
                states += 1;
            }
        }
    }
    println!("{states} states");
}
