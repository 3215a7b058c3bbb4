//! What a session does: from the root downwards it claims, from the leaves upwards it puts, settles, publishes.

use super::index::frame_of;
use super::rules::Rule;
use super::state::*;
use super::step::{Next, To, Who};

/// Steps of the sessions.
pub fn steps(state: &State, next: &mut Next) {
    for slot in 0..2 {
        let session = state.sessions[slot as usize];
        match session.stage {
            // The first free one: which of them it is means nothing.
            Stage::Free if slot == 0 || state.sessions[0].stage != Stage::Free => begin(state, slot, next),
            Stage::Free => {}
            Stage::Loose => {
                let to = change(state, slot, |session| session.stage = Stage::Writing);
                next.add(Who::Session(slot), "takes its lock", To::It, to);
            }
            Stage::Locked => {
                let to = change(state, slot, |session| {
                    session.stage = Stage::Writing;
                    session.epoch = state.epoch;
                });
                next.add(Who::Session(slot), "reads the epoch", To::It, to);
            }
            Stage::Writing => write(state, slot, next),
            Stage::Settled => publish(state, slot, next),
            Stage::Published => next.add(Who::Session(slot), "ends", To::It, end(state, slot)),
        }
        if session.stage != Stage::Free && state.left.kills > 0 {
            let mut to = end(state, slot);
            to.left.kills -= 1;
            next.add(Who::Fault, "killed: a session for", To::Chunk(session.root), to);
        }
    }
}

fn change(state: &State, slot: u8, change: impl FnOnce(&mut Session)) -> State {
    let mut to = *state;
    change(&mut to.sessions[slot as usize]);
    to
}

/// Nothing of a session is left but its pack; whoever waited for it waits no more.
pub fn end(state: &State, slot: u8) -> State {
    let mut to = change(state, slot, |session| *session = Session::default());
    for gc in &mut to.gcs {
        gc.wait &= !(1 << slot);
    }
    to
}

fn begin(state: &State, slot: u8, next: &mut Next) {
    if state.left.sessions == 0 {
        return;
    }
    for root in bits(state.left.roots) {
        let mut to = change(state, slot, |session| {
            *session = Session { root, need: 1 << root, ..Session::default() };
            if next.rules.has(Rule::LockBeforeEpoch) {
                session.stage = Stage::Locked;
            } else {
                (session.stage, session.epoch) = (Stage::Loose, state.epoch);
            }
        });
        to.left.sessions -= 1;
        let what = if next.rules.has(Rule::LockBeforeEpoch) {
            "begins and takes its lock, for"
        } else {
            "begins and reads the epoch, for"
        };
        next.add(Who::Session(slot), what, To::Chunk(root), to);
    }
}

/// Whether a session may count on a chunk.
fn is_known(state: &State, next: &Next, session: &Session, chunk: Chunk) -> bool {
    let is_older = state.phase == Phase::Condemned && session.epoch < state.epoch;
    match is_older || !next.rules.has(Rule::NewerToldNo) {
        true => state.is_known_to_older(chunk),
        false => state.is_known(chunk),
    }
}

fn write(state: &State, slot: u8, next: &mut Next) {
    let session = state.sessions[slot as usize];
    if let Some(chunk) = bits(session.need).next_back() {
        let is_known = is_known(state, next, &session, chunk);
        let to = change(state, slot, |session| {
            session.need &= !(1 << chunk);
            session.is_misled = false;
            if !is_known {
                session.mine |= 1 << chunk;
                session.need |= CHILDREN[chunk as usize];
            }
        });
        let what = if is_known { "is told that the vault has" } else { "is told to put" };
        return next.add(Who::Session(slot), what, To::Chunk(chunk), to);
    }
    let leaves = session.mine & (1 << A | 1 << B);
    let chunks = if leaves != 0 { leaves } else { session.mine };
    if chunks != 0 {
        put(state, slot, chunks, next);
    } else if !has_pending(state, &session) || session.is_stale {
        settle(state, slot, next);
    }
    if has_pending(state, &session) && !session.is_stale {
        let mut to = *state;
        if to.enter(next.rules, session.pack, false).is_some() {
            next.add(Who::Session(slot), "commits", To::Pack(session.pack), to);
        }
    }
}

fn has_pending(state: &State, session: &Session) -> bool {
    state.packs.get(session.pack as usize).is_some_and(|pack| pack.indexed < pack.len)
}

fn put(state: &State, slot: u8, chunks: u8, next: &mut Next) {
    let mut to = *state;
    let session = &mut to.sessions[slot as usize];
    session.mine &= !chunks;
    if session.pack == NONE {
        if to.next_pack as usize == PACKS {
            return;
        }
        session.pack = to.next_pack;
        to.packs[to.next_pack as usize].has_file = true;
        to.next_pack += 1;
    }
    let pack = session.pack;
    let file = &mut to.packs[pack as usize];
    let Some(frame) = file.frames.get_mut(file.len as usize) else { return };
    *frame = frame_of(chunks);
    file.len += 1;
    next.add(Who::Session(slot), "puts", To::Chunks(chunks), to);
}

/// Its pack closes, and it is asked whether the root is whole.
fn settle(state: &State, slot: u8, next: &mut Next) {
    let session = state.sessions[slot as usize];
    let mut to = *state;
    if let Some(pack) = to.packs.get_mut(session.pack as usize)
        && pack.state == PackState::Open
    {
        pack.state = PackState::Closed;
    }
    let is_whole = is_known(state, next, &session, session.root) || session.is_stale;
    if is_whole || !next.rules.has(Rule::SettleLooks) {
        let settled = &mut to.sessions[slot as usize];
        (settled.stage, settled.is_misled) = (Stage::Settled, !state.is_known_to_older(session.root));
        return next.add(Who::Session(slot), "settles", To::Chunk(session.root), to);
    }
    // It reads the source once more.
    let again = &mut to.sessions[slot as usize];
    (again.need, again.pack) = (1 << session.root, NONE);
    again.is_misled = !state.was_hit;
    next.add(Who::Session(slot), "cannot settle", To::Chunk(session.root), to);
}

fn publish(state: &State, slot: u8, next: &mut Next) {
    let root = state.sessions[slot as usize].root;
    let mut to = change(state, slot, |session| session.stage = Stage::Published);
    let Some(free) = to.refs.get_mut(state.ref_count as usize) else { return };
    *free = Ref { root, is_counted_on: true, ..Ref::default() };
    to.ref_count += 1;
    next.add(Who::Session(slot), "publishes", To::Chunk(root), to);
}
