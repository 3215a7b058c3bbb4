//! What must hold in every state, and what an undisturbed gc must reach.

use super::rules::Rules;
use super::state::*;
use super::step::{Next, Who};

/// What is wrong with a state, the mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Problem {
    /// A session put all it was told to put, nothing was damaged, and it cannot settle.
    Stuck,
    /// Known is something that is not there, or lacks something below it.
    Closure,
    /// Somebody counts on a root, and something below it is lost.
    Loss,
}

/// The worst that is wrong with a state.
pub fn problem(state: &State) -> Option<Problem> {
    match () {
        () if is_lost(state) => Some(Problem::Loss),
        () if is_open(state) => Some(Problem::Closure),
        () if is_stuck(state) => Some(Problem::Stuck),
        () => None,
    }
}

fn is_stuck(state: &State) -> bool {
    state.sessions.iter().any(|session| session.stage == Stage::Writing && session.is_misled)
}

/// Every root that was acknowledged and not purged has all of its chunks where the index says, but for what damage
/// took. Where there was no damage they are admitted, too.
fn is_lost(state: &State) -> bool {
    let published = state.refs().iter().filter(|at| !at.is_purged || at.is_counted_on).map(|at| at.root);
    let settled = state.sessions.iter().filter(|session| session.stage == Stage::Settled).map(|session| session.root);
    let needed = published.chain(settled).fold(0, |needed, root| needed | CLOSURE[root as usize]);
    let is_misled = state.sessions.iter().any(|session| session.stage == Stage::Settled && session.is_misled);
    let is_lost = |chunk| !state.is_readable(chunk) || state.hit == 0 && !state.is_known_to_older(chunk);
    is_misled || bits(needed & !state.hit).any(is_lost)
}

/// What is known is there, with all below it.
fn is_open(state: &State) -> bool {
    let lies = |chunk: Chunk| {
        let is_there = state.hit & 1 << chunk != 0 || state.is_readable(chunk);
        state.is_known(chunk) && (!is_there || bits(CHILDREN[chunk as usize]).any(|child| !state.is_known(child)))
    };
    (0..CHUNKS as u8).any(lies)
}

/// Whether nobody does anything, nothing is damaged, and the model has numbers for what is left to adopt.
pub fn is_quiet(state: &State) -> bool {
    let left_behind = state.packs.iter().map(|pack| pack.len.saturating_sub(pack.indexed)).sum::<u8>();
    state.hit == 0
        && usize::from(state.next_frame + left_behind) <= FRAMES
        && state.sessions.iter().all(|session| session.stage == Stage::Free)
        && state.gcs.iter().all(|gc| gc.work == Work::Idle)
}

/// Runs gc twice without faults, after whatever was left behind is adopted; tells what garbage stays.
pub fn garbage_after_gc(state: &State, rules: Rules) -> Option<String> {
    let mut state = State { left: Budget { gcs: 2, ..Budget::default() }, to_purge: NONE, ..*state };
    let mut next = Next::new(rules);
    for _ in 0..200 {
        next.fill(&state);
        let adopts = next.list.iter().find(|(step, _)| step.who == Who::Somebody);
        let Some((_, to)) = adopts.or_else(|| next.list.iter().find(|(step, _)| matches!(step.who, Who::Gc(_)))) else {
            return garbage(&state);
        };
        state = *to;
    }
    Some("gc does not end".to_owned())
}

fn garbage(state: &State) -> Option<String> {
    if state.left.gcs > 0 || state.phase != Phase::None {
        return Some(format!("gc did not end: {:?}", state.phase));
    }
    let live = state.refs().iter().filter(|at| !at.is_purged).fold(0, |live, at| live | CLOSURE[at.root as usize]);
    for chunk in 0..CHUNKS as u8 {
        if state.standing(chunk) != Standing::Absent && live & 1 << chunk == 0 {
            return Some(format!("{} is still there", NAMES[chunk as usize]));
        }
    }
    let idle = |pack: &u8| state.packs[*pack as usize].has_file && !state.frames_in(*pack).any(|at| state.has_rows(at));
    (0..state.next_pack).find(idle).map(|pack| format!("pack {pack} is still there"))
}
