//! Every state that can be reached, nearest first, so that what is found is found by the shortest way.

use super::check::{Problem, problem};
use super::rules::Rules;
use super::state::State;
use super::step::Next;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

/// The shortest way to a state.
#[derive(Clone, Debug)]
pub struct Way {
    /// What is wrong there.
    pub problem: Problem,
    /// The steps.
    pub steps: Vec<String>,
}

/// What a search found.
#[derive(Default)]
pub struct Found {
    /// States seen.
    pub states: usize,
    /// Whether there may be more.
    pub is_cut_short: bool,
    /// Ways to each sort of problem, the mildest first.
    pub ways: [Option<Way>; 3],
}

impl Found {
    /// The way to the worst that was found.
    pub fn worst(&self) -> Option<&Way> {
        self.ways.iter().flatten().next_back()
    }
}

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// It ends with the first problem that is as bad.
    pub problem: Problem,
    /// It ends when so many states were seen.
    pub states_max: usize,
}

/// Goes through the states that follow `start`, nearest first, until there is no new one. `visit` is called with
/// each.
pub fn search(start: State, rules: Rules, until: Until, visit: &mut dyn FnMut(&State)) -> Found {
    let mut seen = Seen::new();
    let mut parents = vec![0_u32];
    let mut found = Found::default();
    let mut next = Next::new(rules);
    seen.insert(start.settled_order());
    let mut at = 0;
    while let Some(&state) = seen.states.get(at) {
        if let Some(problem) = problem(&state) {
            let way = || Way { problem, steps: way(&seen.states, &parents, at, rules) };
            found.ways[problem as usize].get_or_insert_with(way);
            if problem >= until.problem {
                break;
            }
        }
        visit(&state);
        if seen.states.len() >= until.states_max {
            found.is_cut_short = true;
            break;
        }
        next.fill(&state);
        for (_, to) in &next.list {
            if seen.insert(to.settled_order()) {
                parents.push(at as u32);
            }
        }
        at += 1;
    }
    found.states = seen.states.len();
    found
}

/// The steps from the first state to the one at `at`, found again from one to the next.
fn way(states: &[State], parents: &[u32], mut at: usize, rules: Rules) -> Vec<String> {
    let mut steps = Vec::new();
    let mut next = Next::new(rules);
    while at != 0 {
        let before = parents[at] as usize;
        next.fill(&states[before]);
        let step = next.list.iter().find(|(_, to)| to.settled_order() == states[at]);
        steps.extend(step.map(|(step, _)| step.to_string()));
        at = before;
    }
    steps.reverse();
    steps
}

/// States in the order in which they were seen, and a table to find them by.
struct Seen {
    states: Vec<State>,
    table: Vec<u32>,
}

const FREE: u32 = u32::MAX;

impl Seen {
    fn new() -> Self {
        Self { states: Vec::new(), table: vec![FREE; 1 << 12] }
    }

    fn insert(&mut self, state: State) -> bool {
        if self.states.len() * 2 > self.table.len() {
            self.table = vec![FREE; self.table.len() * 4];
            for at in 0..self.states.len() {
                let slot = self.slot(&self.states[at]);
                self.table[slot] = at as u32;
            }
        }
        let slot = self.slot(&state);
        let is_new = self.table[slot] == FREE;
        if is_new {
            self.table[slot] = self.states.len() as u32;
            self.states.push(state);
        }
        is_new
    }

    /// Where a state is in the table, or would be.
    fn slot(&self, state: &State) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = BuildHasherDefault::<Mix>::default().hash_one(state) as usize & mask;
        while self.table[slot] != FREE && self.states[self.table[slot] as usize] != *state {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

/// Fast, and good enough for a table that compares.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

/// States compare as they stand.
const _: fn() = || {
    fn is_plain<T: Copy + Eq + Hash>() {}
    is_plain::<State>();
};
