//! Where searches begin, and what may happen from there. A beginning is reached by the protocol itself: by steps
//! that are given by their words.

use super::rules::Rules;
use super::state::*;
use super::step::Next;

/// A way to begin.
#[derive(Clone, Copy, Debug)]
pub enum Do {
    /// Several.
    All(&'static [Do]),
    /// The first step that reads so.
    Step(&'static str),
    /// Steps of this one as long as there are any.
    Run(&'static str),
    /// Steps of the first one until a step of it reads so, which is taken, too.
    Until(&'static str, &'static str),
}

/// A search.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is about.
    pub name: &'static str,
    /// What happened before.
    pub before: &'static [Do],
    /// What may happen.
    pub left: Budget,
}

use Do::{All, Run, Step, Until};

const NOTHING: Budget = Budget {
    sessions: 0,
    roots: 1 << S,
    kills: 0,
    gcs: 0,
    crashes: 0,
    moves: 0,
    changes: 0,
    damages: 0,
    rebuilds: 0,
    cuts: 0,
    readers: 0,
};

const BACKUP_R: Do = All(&[Step("session 0 begins and takes its lock, for r"), Run("session 0")]);
const BACKUP_S: Do = All(&[Step("session 0 begins and takes its lock, for s"), Run("session 0")]);
const PURGE_FIRST: Do = All(&[
    Step("an admin forgets ref 0"),
    Step("an admin decides to purge ref 0"),
    Step("an admin writes the purge of ref 0"),
]);
/// `r` was purged: `a`, `m` and `r` are garbage.
const ALL_GARBAGE: Do = All(&[BACKUP_R, PURGE_FIRST]);
/// `s` was purged, `r` was not: `b` and `s` are garbage beside `a` and `m`.
const HALF_GARBAGE: Do = All(&[BACKUP_S, BACKUP_R, PURGE_FIRST]);
/// A session that began before the condemn relies on `m`, and has put `s`, which leans on it.
const PENDING: Do = All(&[
    ALL_GARBAGE,
    Step("session 0 begins and takes its lock, for s"),
    Step("session 0 reads"),
    Until("gc", "gc lists"),
    Until("session 0", "session 0 puts s"),
]);
const LEANING: Do = All(&[PENDING, Step("session 0 commits")]);
/// Two sessions put `a`: it lives in the pack of the first, and of the second's two frames one is dead.
const DEAD_FRAME: Do = All(&[
    Step("session 0 begins and takes its lock, for s"),
    Until("session 0", "session 0 puts a and b"),
    Step("session 1 begins and takes its lock, for r"),
    Until("session 1", "session 1 puts a"),
    Run("session 0"),
    Run("session 1"),
]);

/// All searches.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "garbage", before: &[ALL_GARBAGE], left: Budget { sessions: 2, kills: 1, gcs: 1, ..NOTHING } },
    Scenario {
        name: "garbage and crashes",
        before: &[ALL_GARBAGE],
        left: Budget { sessions: 1, gcs: 2, crashes: 1, ..NOTHING },
    },
    Scenario {
        name: "half a sweep",
        before: &[ALL_GARBAGE, Until("gc", "gc deletes the row of a"), Step("killed: gc")],
        left: Budget { sessions: 2, gcs: 2, ..NOTHING },
    },
    Scenario {
        name: "leaning",
        before: &[LEANING],
        left: Budget { sessions: 1, kills: 1, gcs: 2, crashes: 1, ..NOTHING },
    },
    Scenario {
        name: "leaning, and then again",
        before: &[PENDING, Step("killed: a session")],
        left: Budget { sessions: 1, gcs: 2, ..NOTHING },
    },
    Scenario { name: "packs", before: &[HALF_GARBAGE], left: Budget { sessions: 1, gcs: 2, crashes: 1, ..NOTHING } },
    Scenario {
        name: "dead frame",
        before: &[DEAD_FRAME],
        left: Budget { sessions: 1, gcs: 2, crashes: 1, moves: 1, cuts: 1, readers: 1, ..NOTHING },
    },
    Scenario {
        name: "half frames",
        before: &[HALF_GARBAGE],
        left: Budget { sessions: 1, gcs: 1, crashes: 1, moves: 1, damages: 1, ..NOTHING },
    },
    Scenario {
        name: "copies",
        before: &[DEAD_FRAME],
        left: Budget { sessions: 1, roots: 1 << R, gcs: 1, damages: 1, ..NOTHING },
    },
    Scenario { name: "open packs", before: &[], left: Budget { sessions: 2, gcs: 1, kills: 1, ..NOTHING } },
    Scenario {
        name: "damage",
        before: &[HALF_GARBAGE],
        left: Budget { sessions: 1, roots: 1 << R | 1 << S, gcs: 1, damages: 1, ..NOTHING },
    },
    Scenario {
        name: "damage while leaning",
        before: &[LEANING],
        left: Budget { sessions: 1, kills: 1, gcs: 2, damages: 1, ..NOTHING },
    },
    Scenario {
        name: "power cuts",
        before: &[ALL_GARBAGE],
        left: Budget { sessions: 2, gcs: 1, kills: 1, cuts: 1, ..NOTHING },
    },
    Scenario {
        name: "rebuild",
        before: &[ALL_GARBAGE],
        left: Budget { sessions: 1, gcs: 2, kills: 1, crashes: 1, rebuilds: 1, cuts: 1, ..NOTHING },
    },
    Scenario { name: "refs", before: &[BACKUP_R], left: Budget { sessions: 1, gcs: 1, changes: 3, ..NOTHING } },
    Scenario { name: "two gcs", before: &[ALL_GARBAGE], left: Budget { sessions: 1, gcs: 2, ..NOTHING } },
];

/// Searches that are too wide to come to an end: the longer they run, the further they go.
pub const WIDE: &[Scenario] = &[
    Scenario {
        name: "wide: backups",
        before: &[],
        left: Budget { sessions: 4, roots: 1 << R | 1 << S, kills: 2, gcs: 3, crashes: 2, changes: 6, ..NOTHING },
    },
    Scenario {
        name: "wide: leaning",
        before: &[LEANING],
        left: Budget { sessions: 3, roots: 1 << R | 1 << S, kills: 2, gcs: 3, crashes: 2, changes: 4, ..NOTHING },
    },
    Scenario {
        name: "wide: damage",
        before: &[LEANING],
        left: Budget { sessions: 2, kills: 2, gcs: 3, crashes: 1, damages: 2, rebuilds: 1, ..NOTHING },
    },
    Scenario {
        name: "wide: packs",
        before: &[DEAD_FRAME],
        left: Budget {
            sessions: 2,
            roots: 1 << R | 1 << S,
            kills: 1,
            gcs: 3,
            crashes: 1,
            moves: 2,
            changes: 3,
            damages: 1,
            rebuilds: 1,
            cuts: 1,
            readers: 1,
        },
    },
];

impl Scenario {
    /// The state it begins with.
    ///
    /// # Panics
    /// When a step it names is not there to be taken.
    pub fn start(&self) -> State {
        let plenty =
            Budget { sessions: 9, roots: 1 << R | 1 << S, kills: 9, gcs: 9, crashes: 9, changes: 9, ..NOTHING };
        let start = State { left: plenty, ..State::new() };
        let end = self.before.iter().fold(start, |state, step| step.go(state));
        State { left: self.left, ..end }
    }
}

impl Do {
    fn go(self, state: State) -> State {
        let take = |state: &State, words: &str| {
            let mut next = Next::new(Rules::all());
            next.fill(state);
            next.list
                .iter()
                .find(|(step, _)| step.to_string().starts_with(words))
                .map(|(step, to)| (step.to_string(), *to))
        };
        match self {
            Self::All(steps) => steps.iter().fold(state, |state, step| step.go(state)),
            Self::Step(words) => take(&state, words).unwrap_or_else(|| panic!("no step: {words}")).1,
            Self::Run(who) => {
                let mut state = state;
                while let Some((words, to)) = take(&state, who) {
                    if words.contains(" begins") {
                        break;
                    }
                    state = to;
                }
                state
            }
            Self::Until(who, last) => {
                let mut state = state;
                loop {
                    let (words, to) = take(&state, who).unwrap_or_else(|| panic!("no step of {who} before: {last}"));
                    state = to;
                    if words.starts_with(last) {
                        return state;
                    }
                }
            }
        }
    }
}
