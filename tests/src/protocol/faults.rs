//! What else happens: packs of ended sessions are adopted, refs change, frames go bad, power fails, indexes are rebuilt.

use super::index::at;
use super::rules::Rule;
use super::session::end;
use super::state::*;
use super::step::{Next, To, Who};

/// Steps of everybody but sessions and gc.
pub fn steps(state: &State, next: &mut Next) {
    adopt(state, next);
    changes(state, next);
    damage(state, next);
    reader(state, next);
    rebuild(state, next);
    if !next.rules.has(Rule::NoOlderCopies) {
        point_back(state, next);
    }
    if state.left.cuts > 0 {
        next.add(Who::Fault, "the power fails", To::It, power_cut(state));
    }
}

fn adopt(state: &State, next: &mut Next) {
    for pack in 0..state.next_pack {
        let row = state.packs[pack as usize];
        let is_unfinished = matches!(row.state, PackState::Absent | PackState::Open);
        if row.has_file && is_unfinished && (!state.is_owned(pack) || !next.rules.has(Rule::AdoptsEnded)) {
            let mut to = *state;
            if to.enter(next.rules, pack, true).is_some() {
                next.add(Who::Somebody, "adopts", To::Pack(pack), to);
            }
        }
    }
}

/// Retention decides on what it read and writes its purge later.
fn changes(state: &State, next: &mut Next) {
    if let Some(at) = state.refs().get(state.to_purge as usize) {
        let mut to = *state;
        let purged = &mut to.refs[state.to_purge as usize];
        purged.is_counted_on &= !at.is_forgotten;
        purged.is_purged |= at.is_forgotten || !next.rules.has(Rule::PurgeOnlyForgotten);
        to.to_purge = NONE;
        next.add(Who::Admin, "writes the purge of", To::Ref(state.to_purge), to);
    }
    if state.left.changes == 0 {
        return;
    }
    for (number, at) in (0..).zip(state.refs()) {
        let with = |change: &dyn Fn(&mut Ref)| {
            let mut to = *state;
            to.left.changes -= 1;
            change(&mut to.refs[number as usize]);
            to
        };
        if !at.is_forgotten {
            let to = with(&|at| at.is_forgotten = true);
            next.add(Who::Admin, "forgets", To::Ref(number), to);
            continue;
        }
        if state.to_purge == NONE && !at.is_purged {
            let mut to = *state;
            to.to_purge = number;
            next.add(Who::Admin, "decides to purge", To::Ref(number), to);
        }
        let revives = !next.rules.has(Rule::PurgedStays);
        let to = with(&|at| {
            if !at.is_purged || revives {
                (at.is_forgotten, at.is_purged) = (false, false);
            }
        });
        next.add(Who::Admin, "undeletes", To::Ref(number), to);
    }
}

fn damage(state: &State, next: &mut Next) {
    for frame in 0..state.next_frame {
        let rows = (0..).zip(state.rows).filter(|(_, row)| row.standing != Standing::Absent && row.place / 2 == frame);
        let is_believed = |row: &Row| row.standing != Standing::Suspect;
        match state.content(frame) {
            Some(_) if state.left.damages > 0 && state.has_rows(frame) => {
                let mut to = *state;
                let at = state.frames[frame as usize];
                to.packs[at as usize / 2].bad |= 1 << (at % 2);
                to.hit |= rows.fold(0, |hit, (chunk, _)| hit | 1 << chunk);
                to.left.damages -= 1;
                to.was_hit = true;
                next.add(Who::Fault, "cannot be read any more:", To::Frame(frame), to);
            }
            None if state.hit != 0 && rows.map(|(_, row)| row).any(|row| is_believed(&row)) => {
                let mut to = *state;
                to.expel(frame);
                next.add(Who::Somebody, "expels", To::Frame(frame), to);
            }
            _ => {}
        }
    }
}

/// A reader looks a frame up, and opens the pack later.
fn reader(state: &State, next: &mut Next) {
    let [frame, pack] = state.reader;
    if frame == NONE {
        if state.left.readers > 0 {
            for frame in (0..state.next_frame).filter(|frame| state.has_rows(*frame)) {
                let mut to = *state;
                to.left.readers -= 1;
                to.reader = [frame, state.frames[frame as usize] / 2];
                next.add(Who::Somebody, "looks up", To::Frame(frame), to);
            }
        }
        return;
    }
    let mut to = *state;
    to.reader = [NONE; 2];
    if state.packs[pack as usize].has_file {
        return next.add(Who::Somebody, "reads", To::Frame(frame), to);
    }
    let is_still_there = state.frames[frame as usize] / 2 == pack;
    if is_still_there || !next.rules.has(Rule::GoneAsksAgain) {
        to.expel(frame);
    }
    next.add(Who::Somebody, "finds its pack gone:", To::Frame(frame), to);
}

fn rebuild(state: &State, next: &mut Next) {
    let is_alone = !state.sessions.iter().any(Session::is_locked) || !next.rules.has(Rule::RebuildWithoutSessions);
    let is_quiet = state.gcs.iter().all(|gc| gc.work == Work::Idle) || !next.rules.has(Rule::RebuildWithoutGc);
    if state.left.rebuilds > 0 && is_alone && is_quiet {
        let mut to = *state;
        to.left.rebuilds -= 1;
        if to.rebuild(next.rules).is_some() {
            next.add(Who::Somebody, "rebuilds the index", To::It, to);
        }
    }
}

/// What a wrong repair would do: a suspect chunk lives where an older copy of it is.
fn point_back(state: &State, next: &mut Next) {
    let places = (0..state.next_frame * 2).filter_map(|place| Some((place, at(state.content(place / 2)?, place % 2))));
    for (place, chunk) in places.filter(|(_, chunk)| *chunk != EMPTY) {
        if state.standing(chunk) == Standing::Suspect {
            let mut to = *state;
            to.enter_at(next.rules, chunk, place);
            next.add(Who::Somebody, "finds an older copy of", To::Chunk(chunk), to);
        }
    }
}

fn power_cut(state: &State) -> State {
    let mut to = *state;
    to.left.cuts -= 1;
    for slot in 0..2 {
        to = end(&to, slot);
    }
    to.gcs = Default::default();
    to.reader = [NONE; 2];
    for pack in &mut to.packs {
        pack.len = pack.len.min(pack.durable);
    }
    to
}
