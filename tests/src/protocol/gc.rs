//! What gc does, one step after the other; between any two of them anything else may happen.

use super::rules::{Rule, Rules};
use super::state::*;
use super::step::{Next, To, Who};

/// Steps of gc.
pub fn steps(state: &State, next: &mut Next) {
    for at in 0..2 {
        let gc = state.gcs[at as usize];
        let me = Who::Gc(at);
        match gc.work {
            Work::Idle => begin(state, at, next),
            Work::Bound => {
                let bound = state.next_frame;
                let to = change(state, at, |gc| (gc.work, gc.bound) = (Work::Mark, bound));
                next.add(me, "remembers the next frame number", To::It, to);
            }
            Work::Mark | Work::MarkAgain if gc.to_see != 0 => mark(state, at, next),
            Work::Mark => condemn(state, at, next),
            Work::List => {
                let live = (0..2).filter(|slot| state.sessions[*slot as usize].is_locked());
                let wait = live.fold(0, |wait, slot| wait | 1 << slot);
                let early = roots(state, Work::Wait).to_see;
                let to = change(state, at, |gc| {
                    (gc.work, gc.wait) = (Work::Wait, wait);
                    if !next.rules.has(Rule::RootsAfterWait) {
                        gc.to_see = early;
                    }
                });
                next.add(me, "lists the sessions that live", To::It, to);
            }
            Work::Wait if gc.wait != 0 && next.rules.has(Rule::Wait) => {}
            Work::Wait if !next.rules.has(Rule::SecondMark) => switch(state, at, next),
            Work::Wait => {
                let mut again = Gc { bound: state.next_frame, ..roots(state, Work::MarkAgain) };
                if !next.rules.has(Rule::RootsAfterWait) {
                    (again.to_see, again.seen) = (gc.to_see, gc.to_see);
                }
                let to = change(state, at, |gc| *gc = again);
                next.add(me, "has waited and reads the roots again", To::It, to);
            }
            Work::MarkAgain => switch(state, at, next),
            Work::Sweep => sweep(state, at, next),
            Work::Packs => packs(state, at, next),
            Work::Drop => drop_pack(state, at, next),
            Work::Remove => {
                let mut to = change(state, at, |gc| {
                    gc.work = if next.rules.has(Rule::FileAfterDrop) { Work::Unlist } else { Work::Drop };
                });
                to.packs[gc.pack as usize].has_file = false;
                next.add(me, "removes the file of", To::Pack(gc.pack), to);
            }
            Work::Unlist => {
                let mut to = change(state, at, |gc| (gc.work, gc.pack) = (Work::Packs, NONE));
                to.packs[gc.pack as usize] = Pack::default();
                next.add(me, "deletes the row of", To::Pack(gc.pack), to);
            }
            Work::Sync => {
                let mut to = change(state, at, |gc| gc.work = Work::Move);
                to.packs[gc.copy as usize].durable = 1;
                next.add(me, "syncs its copy of", To::Frame(gc.frame), to);
                if !next.rules.has(Rule::MoveIsDurable) {
                    move_frame(state, at, next);
                }
            }
            Work::Move => move_frame(state, at, next),
            Work::Apart => point_to_parts(state, at, next),
        }
        if gc.work != Work::Idle && state.left.crashes > 0 {
            let mut to = *state;
            to.gcs[at as usize] = Gc::default();
            to.left.crashes -= 1;
            next.add(Who::Fault, "killed: gc", To::It, to);
        }
    }
}

fn change(state: &State, at: u8, change: impl FnOnce(&mut Gc)) -> State {
    let mut to = *state;
    change(&mut to.gcs[at as usize]);
    to
}

/// The roots as the records say now.
fn roots(state: &State, work: Work) -> Gc {
    let roots = state.refs().iter().filter(|at| !at.is_purged).fold(0, |roots, at| roots | 1 << at.root);
    Gc { work, to_see: roots, seen: roots, ..Gc::default() }
}

fn begin(state: &State, at: u8, next: &mut Next) {
    let is_other_idle = state.gcs[1 - at as usize].work == Work::Idle;
    // The second one is the same program; it begins only beside the first.
    let may = if at == 0 { is_other_idle } else { !is_other_idle && !next.rules.has(Rule::OneGc) };
    if state.left.gcs == 0 || !may {
        return;
    }
    let phase = if next.rules.has(Rule::ResumesByPhase) { state.phase } else { Phase::None };
    let (gc, what) = match phase {
        Phase::None => (roots(state, Work::Bound), "begins and reads the roots"),
        Phase::Condemned => (Gc { work: Work::List, ..Gc::default() }, "goes on in phase condemned"),
        Phase::Sweeping => (sweeping(state), "goes on in phase sweeping"),
    };
    let mut to = change(state, at, |idle| *idle = gc);
    to.left.gcs -= 1;
    next.add(Who::Gc(at), what, To::It, to);
}

fn sweeping(state: &State) -> Gc {
    let condemned = |chunk: &Chunk| state.standing(*chunk) != Standing::Absent && state.is_condemned(*chunk);
    let plan = (0..CHUNKS as u8).filter(condemned).fold(0, |plan, chunk| plan | 1 << chunk);
    Gc { work: Work::Sweep, plan, ..Gc::default() }
}

/// Marks the place of a chunk and of the leaves it refers to; its branches are seen later.
fn mark(state: &State, at: u8, next: &mut Next) {
    let mut to = *state;
    let gc = &mut to.gcs[at as usize];
    let Some(chunk) = bits(gc.to_see).next_back() else { return };
    match see(state, gc, chunk, next.rules) || !next.rules.has(Rule::MarkStops) {
        true => next.add(Who::Gc(at), "marks", To::Chunk(chunk), to),
        false => stop(state, at, next),
    }
}

/// Looks at one chunk that is reached. False when it is a branch and cannot be read.
fn see(state: &State, gc: &mut Gc, chunk: Chunk, rules: Rules) -> bool {
    gc.to_see &= !(1 << chunk);
    let row = state.rows[chunk as usize];
    if row.standing != Standing::Absent {
        gc.marked |= 1 << row.place;
    }
    if !state.is_readable(chunk) {
        return is_leaf(chunk);
    }
    let fresh = CHILDREN[chunk as usize] & !gc.seen;
    gc.seen |= fresh;
    gc.to_see |= fresh;
    if !rules.has(Rule::MarkToTheEnd) {
        // Its frame comes later in the walk, or came already and is only marked.
        for child in bits(fresh).filter(|child| state.rows[*child as usize].place / 2 > row.place / 2) {
            gc.to_see &= !(1 << child);
            gc.marked |= 1 << state.rows[child as usize].place;
        }
    }
    for leaf in bits(fresh).filter(|child| is_leaf(*child)) {
        see(state, gc, leaf, rules);
    }
    true
}

/// Marks from the branches that came since the mark began, all at once. False when one of them cannot be read.
fn mark_late(state: &State, gc: &mut Gc, rules: Rules) -> bool {
    let is_late = |chunk: &Chunk| {
        !is_leaf(*chunk) && state.is_known_to_older(*chunk) && state.rows[*chunk as usize].place / 2 >= gc.bound
    };
    let late = (0..CHUNKS as u8).filter(is_late).fold(0, |late, chunk| late | 1 << chunk);
    gc.to_see |= late;
    gc.seen |= late;
    while let Some(chunk) = bits(gc.to_see).next_back() {
        if !see(state, gc, chunk, rules) && rules.has(Rule::MarkStops) {
            return false;
        }
    }
    true
}

fn stop(state: &State, at: u8, next: &mut Next) {
    let to = change(state, at, |gc| *gc = Gc::default());
    next.add(Who::Gc(at), "stops, because it cannot read all branches", To::It, to);
}

fn condemn(state: &State, at: u8, next: &mut Next) {
    let mut to = *state;
    let gc = &mut to.gcs[at as usize];
    if next.rules.has(Rule::LateBranchesAreRoots) && !mark_late(state, gc, next.rules) {
        return stop(state, at, next);
    }
    let bound = if next.rules.has(Rule::OnlyOlderFrames) { gc.bound } else { state.next_frame };
    let places =
        (0..bound).filter(|frame| state.frames[*frame as usize] != NONE).fold(0, |all, at| all | 3 << (2 * at));
    to.condemned = places & !gc.marked;
    *gc = Gc { work: Work::List, ..Gc::default() };
    to.phase = Phase::Condemned;
    to.epoch += 1;
    next.add(Who::Gc(at), "condemns what is not marked", To::It, to);
}

fn switch(state: &State, at: u8, next: &mut Next) {
    let mut to = *state;
    let gc = &mut to.gcs[at as usize];
    let looks = next.rules.has(Rule::LateLeaningAreRoots) && gc.work == Work::MarkAgain;
    if looks && !mark_late(state, gc, next.rules) {
        return stop(state, at, next);
    }
    let marked = gc.marked;
    to.condemned &= !marked;
    for row in &mut to.rows {
        let is_marked = marked & 1 << row.place != 0;
        let was_leaning = match row.standing {
            Standing::Leaning => true,
            Standing::Unwhole => !next.rules.has(Rule::SwitchLooksAgain),
            _ => false,
        };
        if was_leaning && is_marked {
            row.standing = Standing::Admitted;
        } else if row.standing == Standing::Leaning && next.rules.has(Rule::LeftoverLeaningGoes) {
            to.condemned |= 1 << row.place;
        }
    }
    to.phase = Phase::Sweeping;
    to.gcs[at as usize] = sweeping(&to);
    next.add(Who::Gc(at), "saves what is marked and begins to sweep", To::It, to);
}

fn sweep(state: &State, at: u8, next: &mut Next) {
    let plan = match next.rules.has(Rule::SweepLooksAgain) {
        true => sweeping(state).plan,
        false => state.gcs[at as usize].plan,
    };
    let Some(chunk) = bits(plan).next() else {
        let to = change(state, at, |gc| *gc = Gc { work: Work::Packs, ..Gc::default() });
        return packs(&to, at, next);
    };
    let mut to = change(state, at, |gc| gc.plan &= !(1 << chunk));
    to.rows[chunk as usize] = Row::default();
    next.add(Who::Gc(at), "deletes the row of", To::Chunk(chunk), to);
}

/// Takes on the next pack that can be dropped, or a frame that can leave a pack with dead space.
fn packs(state: &State, at: u8, next: &mut Next) {
    let me = Who::Gc(at);
    for pack in 0..state.next_pack {
        let row = state.packs[pack as usize];
        let take = |work| change(state, at, |gc| (gc.work, gc.pack) = (work, pack));
        match row.state {
            PackState::Dropped if row.has_file => {
                return next.add(me, "finds dropped", To::Pack(pack), take(Work::Remove));
            }
            PackState::Dropped => return next.add(me, "finds dropped", To::Pack(pack), take(Work::Unlist)),
            PackState::Absent => continue,
            PackState::Open if next.rules.has(Rule::OnlyClosedPacks) => continue,
            PackState::Open | PackState::Closed => {}
        }
        let (live, dead): (Vec<u8>, Vec<u8>) = state.frames_in(pack).partition(|frame| state.has_rows(*frame));
        if live.is_empty() {
            let first = if next.rules.has(Rule::FileAfterDrop) { Work::Drop } else { Work::Remove };
            return next.add(me, "finds no rows that point into", To::Pack(pack), take(first));
        }
        if state.left.moves == 0 || state.next_pack as usize == PACKS {
            continue;
        }
        // What cannot be read stays where it is.
        let readable = || live.iter().copied().filter(|frame| state.content(*frame).is_some());
        if let Some(frame) = readable().next()
            && !dead.is_empty()
        {
            return copy(state, at, frame, next);
        }
        if let Some(frame) = readable().find(|frame| live_only(state, *frame) != state.content(*frame)) {
            return take_apart(state, at, frame, next);
        }
    }
    let mut to = *state;
    to.gcs[at as usize] = Gc::default();
    (to.phase, to.condemned) = (Phase::None, 0);
    next.add(Who::Gc(at), "ends, and nothing is condemned", To::It, to);
}

fn drop_pack(state: &State, at: u8, next: &mut Next) {
    let pack = state.gcs[at as usize].pack;
    let mut to = *state;
    let has_rows = state.frames_in(pack).any(|frame| state.has_rows(frame));
    let gc = &mut to.gcs[at as usize];
    if has_rows && next.rules.has(Rule::DropLooksAgain) {
        (gc.work, gc.pack) = (Work::Packs, NONE);
        return next.add(Who::Gc(at), "finds rows and keeps", To::Pack(pack), to);
    }
    for frame in state.frames_in(pack) {
        to.frames[frame as usize] = NONE;
    }
    let (work, row) = match (next.rules.has(Rule::FileAfterDrop), next.rules.has(Rule::DroppedRowStays)) {
        (false, _) => (Work::Packs, PackState::Absent),
        (true, true) => (Work::Remove, PackState::Dropped),
        (true, false) => (Work::Remove, PackState::Absent),
    };
    gc.work = work;
    let file = &mut to.packs[pack as usize];
    file.state = row;
    if row == PackState::Absent {
        file.indexed = 0;
    }
    next.add(Who::Gc(at), "drops in the index", To::Pack(pack), to);
}

fn copy(state: &State, at: u8, frame: u8, next: &mut Next) {
    let Some(content) = state.content(frame) else { return };
    let mut to = *state;
    let copy = state.next_pack;
    to.packs[copy as usize] = Pack { has_file: true, frames: [content, 0], len: 1, ..Pack::default() };
    to.next_pack += 1;
    to.left.moves -= 1;
    to.gcs[at as usize] = Gc { work: Work::Sync, copy, frame, ..Gc::default() };
    next.add(Who::Gc(at), "verifies and copies", To::Frame(frame), to);
}

/// The frame with only those chunks whose rows point into it, each at its position.
fn live_only(state: &State, frame: u8) -> Option<u8> {
    let content = state.content(frame)?;
    let is_dead = |position: &u8| {
        let place = frame * 2 + position;
        !state.rows.iter().any(|row| row.standing != Standing::Absent && row.place == place)
    };
    Some((0..2).filter(is_dead).fold(content, |content, position| content | EMPTY << (4 * position)))
}

/// With keys: what is live in a frame is copied into a new one.
fn take_apart(state: &State, at: u8, frame: u8, next: &mut Next) {
    let Some(content) = live_only(state, frame) else { return };
    let mut to = *state;
    let copy = state.next_pack;
    to.packs[copy as usize] = Pack { has_file: true, frames: [content, 0], len: 1, durable: 1, ..Pack::default() };
    to.next_pack += 1;
    to.left.moves -= 1;
    to.gcs[at as usize] = Gc { work: Work::Apart, copy, frame, ..Gc::default() };
    next.add(Who::Gc(at), "copies and syncs what lives in", To::Frame(frame), to);
}

fn point_to_parts(state: &State, at: u8, next: &mut Next) {
    let gc = state.gcs[at as usize];
    let number = state.next_frame;
    if usize::from(number) == FRAMES {
        return;
    }
    let mut to = *state;
    to.next_frame += 1;
    to.frames[number as usize] = gc.copy * 2;
    let pack = &mut to.packs[gc.copy as usize];
    (pack.state, pack.indexed) = (PackState::Closed, 1);
    for (chunk, row) in to.rows.iter_mut().enumerate() {
        if row.standing != Standing::Absent && row.place / 2 == gc.frame && row.standing != Standing::Suspect {
            row.place = number * 2 + row.place % 2;
            if !next.rules.has(Rule::ApartKeepsStanding) {
                row.standing = Standing::Admitted;
            }
            to.hit &= !(1 << chunk);
        }
    }
    to.gcs[at as usize] = Gc { work: Work::Packs, ..Gc::default() };
    next.add(Who::Gc(at), "points to its copy of what lives in", To::Frame(gc.frame), to);
}

fn move_frame(state: &State, at: u8, next: &mut Next) {
    let gc = state.gcs[at as usize];
    let mut to = *state;
    to.frames[gc.frame as usize] = gc.copy * 2;
    let pack = &mut to.packs[gc.copy as usize];
    (pack.state, pack.indexed) = (PackState::Closed, 1);
    to.gcs[at as usize] = Gc { work: Work::Packs, ..Gc::default() };
    next.add(Who::Gc(at), "points to its copy of", To::Frame(gc.frame), to);
}
