//! The map of holders against plain maps, with random calls and failing transactions.

use super::*;
use std::collections::BTreeSet;
use twinkeep_engine::copies::SetDigest;
use twinkeep_engine::env::Dice;
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyKvHome};
use twinkeep_engine::kv::lmdb::LmdbHome;
use twinkeep_engine::kv::memory::{MemoryKvHome, Version};
use twinkeep_engine::kv::{KvHome, Table};

const MACHINES: u32 = 5;
const VAULTS: u8 = 3;

fn prepare(copies_wanted: u32) -> impl FnMut(&dyn Kv) -> kv::Result<()> {
    move |kv| {
        let mut write = kv.write()?;
        init(&mut *write, copies_wanted)?;
        write.commit()
    }
}

fn new_holders(copies_wanted: u32) -> Holders {
    Holders::open(MemoryKvHome::new().replace(&mut prepare(copies_wanted)).unwrap()).unwrap()
}

fn id(n: usize) -> FrameId {
    FrameId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// Vault, kind and length follow from the id, as in life.
fn vault_of(n: usize) -> VaultId {
    VaultId([n as u8 % VAULTS; 16])
}

fn new_frame(n: usize, number_in_index: u64, writer: Option<u32>) -> NewFrame {
    let kind = if n.is_multiple_of(4) { Kind::Branch } else { Kind::Leaf };
    NewFrame { id: id(n), number_in_index, kind, len: 100 + n as u32, writer: writer.map(MachineNumber), spread: false }
}

#[derive(Clone, PartialEq, Debug)]
struct ModelFrame {
    order: u64,
    new: NewFrame,
    vault: VaultId,
    round: u32,
    why: Why,
    holders: BTreeSet<MachineNumber>,
}

#[derive(Clone, Default)]
struct Model {
    wanted: usize,
    next: u64,
    frames: BTreeMap<FrameId, ModelFrame>,
    /// Watermark and round.
    vaults: BTreeMap<VaultId, (u64, u32)>,
    removed: BTreeSet<FrameId>,
}

impl Model {
    fn enter(&mut self, vault: VaultId, frames: &[NewFrame], watermark: u64) {
        let (mark, round) = self.vaults.entry(vault).or_default();
        *mark = watermark.max(*mark);
        for new in frames {
            if let Some(known) = self.frames.get_mut(&new.id) {
                let same = known.round == *round;
                let number =
                    if same { known.new.number_in_index.min(new.number_in_index) } else { new.number_in_index };
                known.new.number_in_index = number;
                known.new.writer = known.new.writer.or(new.writer);
                known.new.spread |= new.spread;
                known.round = *round;
                continue;
            }
            let holders = BTreeSet::new();
            let frame = ModelFrame { order: self.next, new: *new, vault, round: *round, why: Why::New, holders };
            self.frames.insert(new.id, frame);
            self.removed.remove(&new.id);
            self.next += 1;
        }
    }

    fn retract(&mut self, machine: MachineNumber, ids: &[FrameId], why: Why) {
        for id in ids {
            if let Some(frame) = self.frames.get_mut(id)
                && frame.holders.remove(&machine)
            {
                frame.why = why;
            }
        }
    }

    fn confirm(&mut self, machine: MachineNumber, ids: &[FrameId]) {
        for id in ids {
            let frame = self.frames.get_mut(id);
            let counts = |frame: &&mut ModelFrame| !(frame.new.spread && frame.new.writer == Some(machine));
            frame.filter(counts).into_iter().for_each(|frame| _ = frame.holders.insert(machine));
        }
    }

    fn release(&mut self, machine: MachineNumber, ids: &[FrameId]) -> Vec<FrameId> {
        let mut released = Vec::new();
        for id in ids {
            let Some(frame) = self.frames.get_mut(id) else { continue };
            if frame.holders.contains(&machine) && frame.holders.len() > self.wanted {
                frame.holders.remove(&machine);
                frame.why = Why::Dropped;
                released.push(*id);
            }
        }
        released
    }

    fn unknown(&self, ids: &[FrameId]) -> Vec<FrameId> {
        ids.iter().filter(|id| !self.frames.contains_key(id)).copied().collect()
    }

    fn held(&self, machine: MachineNumber) -> Vec<&ModelFrame> {
        let mut held: Vec<_> = self.frames.values().filter(|frame| frame.holders.contains(&machine)).collect();
        held.sort_by_key(|frame| frame.order);
        held
    }

    fn owed(&self) -> Vec<&ModelFrame> {
        let mut owed: Vec<_> = self.frames.values().filter(|frame| frame.holders.len() < self.wanted).collect();
        owed.sort_by_key(|frame| (frame.holders.len(), frame.new.kind == Kind::Leaf, frame.order));
        owed
    }

    fn is_owed_below(&self, vault: VaultId, number: u64) -> bool {
        let Some(&(watermark, round)) = self.vaults.get(&vault) else { return true };
        let counts = |frame: &&ModelFrame| (frame.vault, frame.round) == (vault, round);
        watermark <= number || self.owed().iter().filter(|f| counts(f)).any(|f| f.new.number_in_index <= number)
    }
}

/// Everything the map answers is what the model says.
fn compare(holders: &Holders, model: &Model, dice: &mut Dice) {
    let mut owed = Vec::new();
    while let page = holders.owed(owed.last().map(|owed: &Owed| owed.cursor), 1 + dice.below(9)).unwrap()
        && !page.is_empty()
    {
        owed.extend(page);
    }
    let found: Vec<_> = owed
        .iter()
        .map(|o| (o.id, o.vault, o.number_in_index, o.len, o.kind, o.writer, o.why, o.holders.clone()))
        .collect();
    let expected: Vec<_> = model.owed().iter().map(|f| (f, f.new)).map(as_owed).collect();
    assert_eq!(found, expected);

    let counts = holders.owed_counts().unwrap();
    let of_vaults: BTreeMap<_, _> = counts.vaults.iter().map(|c| (c.vault, (c.frames, c.bytes))).collect();
    let expected = model.vaults.keys().map(|&vault| {
        let owed: Vec<_> = model.owed().into_iter().filter(|frame| frame.vault == vault).collect();
        (vault, (owed.len() as u64, owed.iter().map(|frame| u64::from(frame.new.len)).sum()))
    });
    assert_eq!(of_vaults, expected.collect());

    let mut of_machines = Vec::new();
    for machine in (0..MACHINES).map(MachineNumber) {
        let held = model.held(machine);
        let (frames, bytes) = (held.len() as u64, held.iter().map(|frame| u64::from(frame.new.len)).sum());
        let digest = held.iter().map(|frame| &frame.new.id).collect::<SetDigest>();
        assert_eq!(holders.inventory(machine).unwrap(), Inventory { frames, bytes, digest });
        if frames > 0 {
            of_machines.push(MachineCount { machine, frames, bytes });
        }
        let mut listed = Vec::new();
        while let page = holders.frames_of(machine, listed.last().map(|&(n, _)| n), 1 + dice.below(9)).unwrap()
            && !page.is_empty()
        {
            listed.extend(page);
        }
        let expected: Vec<_> = held.iter().map(|frame| (TrackedNumber(frame.order), frame.new.id)).collect();
        assert_eq!(listed, expected);
    }
    assert_eq!(counts.machines, of_machines);

    let ids: Vec<_> = (0..60).map(id).collect();
    let of = |id| model.frames.get(id).map_or(Vec::new(), |frame| frame.holders.iter().copied().collect());
    assert_eq!(holders.holders_of(&ids).unwrap(), ids.iter().map(of).collect::<Vec<_>>());
    let removed: Vec<bool> = ids.iter().map(|id| model.removed.contains(id)).collect();
    assert_eq!(holders.is_removed(&ids).unwrap(), removed);
    for vault in (0..VAULTS).map(|n| VaultId([n; 16])) {
        assert_eq!(holders.watermark(vault).unwrap(), model.vaults.get(&vault).map_or(0, |vault| vault.0));
        for number in 0..45 {
            assert_eq!(holders.is_owed_below(vault, number).unwrap(), model.is_owed_below(vault, number), "{number}");
        }
    }
    let (mut missing, mut after) = (BTreeSet::new(), None);
    while let (page, Some(next)) = holders.not_entered_again(after, 1 + dice.below(9)).unwrap() {
        missing.extend(page);
        after = Some(next);
    }
    let is_missing = |frame: &&ModelFrame| model.vaults.get(&frame.vault).map_or(0, |vault| vault.1) != frame.round;
    let expected: BTreeSet<_> = model.frames.values().filter(is_missing).map(|f| (f.vault, f.new.id)).collect();
    assert_eq!(missing, expected);
    let asked: Vec<FrameId> = holders.are_not_entered_again(&ids).unwrap();
    assert_eq!(BTreeSet::from_iter(asked), expected.into_iter().map(|(_, id)| id).collect());
}

type OwedParts = (FrameId, VaultId, u64, u32, Kind, Option<MachineNumber>, Why, Vec<MachineNumber>);

fn as_owed((frame, new): (&&ModelFrame, NewFrame)) -> OwedParts {
    let holders = frame.holders.iter().copied().collect();
    (new.id, frame.vault, new.number_in_index, new.len, new.kind, new.writer, frame.why, holders)
}

/// Tables hold no row that nobody counts.
fn expect_no_stray_rows(version: &Version, model: &Model) {
    let rows = |table: Table| version.rows(table).len();
    let holders: usize = model.frames.values().map(|frame| frame.holders.len()).sum();
    assert_eq!((rows(rows::NUMBERS), rows(rows::FRAMES)), (model.frames.len(), model.frames.len()));
    assert_eq!((rows(rows::HELD), rows(rows::HOLDERS)), (holders, holders));
    assert_eq!((rows(rows::OWED), rows(rows::OWED_BY_VAULT)), (model.owed().len(), model.owed().len()));
    // Version, copies, the next number, how many vaults, ends of what was removed; two rows a vault and a removed frame.
    assert!(rows(rows::META) <= 5 + 2 * model.vaults.len() + 2 * model.removed.len());
}

#[derive(Clone, Debug)]
enum Op {
    Enter(VaultId, Vec<NewFrame>, u64),
    Confirm(MachineNumber, Vec<FrameId>),
    Retract(MachineNumber, Vec<FrameId>, Why),
    Forget(MachineNumber, usize),
    Release(MachineNumber, Vec<FrameId>),
    Remove(Vec<FrameId>),
    Reset(VaultId),
}

fn any_op(dice: &mut Dice) -> Op {
    let machine = MachineNumber(dice.below(MACHINES as usize) as u32);
    let some = |dice: &mut Dice, most| -> Vec<FrameId> { (0..dice.below(most)).map(|_| id(dice.below(60))).collect() };
    match dice.below(22) {
        0..7 => {
            let vault = dice.below(VAULTS as usize);
            let frames = (0..dice.below(12)).map(|_| {
                let writer = (!dice.one_in(3)).then(|| dice.below(MACHINES as usize) as u32);
                let frame = new_frame(vault + VAULTS as usize * dice.below(20), dice.below(40) as u64, writer);
                NewFrame { spread: dice.one_in(3), ..frame }
            });
            Op::Enter(vault_of(vault), frames.collect(), dice.below(45) as u64)
        }
        7..13 => Op::Confirm(machine, some(dice, 20)),
        13..16 => Op::Retract(machine, some(dice, 10), [Why::ScrubFailed, Why::Dropped][dice.below(2)]),
        16..18 => Op::Forget(machine, 1 + dice.below(10)),
        18 => Op::Remove(some(dice, 6)),
        19..21 => Op::Release(machine, some(dice, 20)),
        _ => Op::Reset(vault_of(dice.below(3))),
    }
}

/// Does `op` to both and compares what it returns. After a failure the model is as it was.
fn apply(op: &Op, holders: &Holders, model: &mut Model) -> Result<()> {
    match op {
        Op::Enter(vault, frames, watermark) => {
            holders.enter(*vault, frames, *watermark)?;
            model.enter(*vault, frames, *watermark);
        }
        Op::Confirm(machine, ids) => {
            let mut kept_out: Vec<_> = ids.iter().filter_map(|id| model.frames.get(id)).collect();
            kept_out.retain(|frame| frame.new.spread && frame.new.writer == Some(*machine));
            kept_out.sort_by_key(|frame| frame.order);
            let kept_out = kept_out.iter().map(|frame| frame.new.id);
            let expected: Vec<_> = model.unknown(ids).into_iter().chain(kept_out).collect();
            assert_eq!(holders.confirm(*machine, ids)?, expected);
            model.confirm(*machine, ids);
        }
        Op::Retract(machine, ids, why) => {
            assert_eq!(holders.retract(*machine, ids, *why)?, model.unknown(ids));
            model.retract(*machine, ids, *why);
        }
        Op::Forget(machine, count) => {
            let done = holders.forget_machine(*machine, *count)?;
            let held: Vec<_> = model.held(*machine).iter().map(|frame| frame.new.id).collect();
            let forgotten = held.len().min(*count);
            model.retract(*machine, &held[..forgotten], Why::MachineLost);
            let left = held.len() - forgotten;
            assert_eq!(done, Forgetting { forgotten: forgotten as u64, left: left as u64 });
        }
        Op::Release(machine, ids) => {
            assert_eq!(holders.release(*machine, ids)?, model.release(*machine, ids));
        }
        Op::Remove(ids) => {
            let removed = holders.remove_frames(ids)?;
            model.removed.extend(ids);
            let expected: Vec<_> = ids.iter().filter_map(|id| Some((*id, model.frames.remove(id)?.holders))).collect();
            let removed: Vec<_> = removed.into_iter().map(|(id, by)| (id, BTreeSet::from_iter(by))).collect();
            assert_eq!(removed, expected);
        }
        Op::Reset(vault) => {
            holders.reset_watermark(*vault)?;
            let (watermark, round) = model.vaults.entry(*vault).or_default();
            (*watermark, *round) = (0, *round + 1);
        }
    }
    Ok(())
}

/// Random calls, some of which fail at a random write or at their commit, after which a crash keeps what was committed.
#[test]
fn like_plain_maps() {
    let mut failed = 0;
    for seed in 0..60 {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let mut model = Model { wanted: 1 + dice.below(3), ..Model::default() };
        let mut home = MemoryKvHome::new();
        drop(home.replace(&mut prepare(model.wanted as u32)).unwrap());
        for _ in 0..40 {
            let faults = Faults::new();
            let kv = FaultyKvHome::new(Arc::new(home.clone()), faults.clone()).open().unwrap().unwrap();
            let holders = Holders::open(kv).unwrap();
            for _ in 0..1 + dice.below(4) {
                let op = any_op(&mut dice);
                faults.clear();
                if dice.one_in(4) {
                    let call = [Call::KvPut, Call::KvCommit][dice.below(2)];
                    let nth = if call == Call::KvPut { 1 + dice.below(20) as u64 } else { 1 };
                    faults.fail_once(call, faults.count(call) + nth, Fault::Os(28));
                }
                let hits = faults.hits();
                let outcome = apply(&op, &holders, &mut model);
                assert_eq!(outcome.is_err(), faults.hits() > hits, "{op:?}: {outcome:?}");
                failed += u32::from(outcome.is_err());
            }
            faults.clear();
            compare(&holders, &model, &mut dice);
            expect_no_stray_rows(&home.version().unwrap(), &model);
            drop(holders);
            home = home.crash();
        }
    }
    assert!(failed > 100, "{failed} calls failed");
}

/// Fewer of the same calls on LMDB, opened again after each.
#[test]
fn like_plain_maps_on_disk() {
    for seed in 1000..1003 {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let mut model = Model { wanted: 1 + dice.below(3), ..Model::default() };
        let folder = tempfile::tempdir().unwrap();
        let home = LmdbHome::new(folder.path().to_path_buf());
        drop(home.replace(&mut prepare(model.wanted as u32)).unwrap());
        for _ in 0..25 {
            let holders = Holders::open(home.open().unwrap().unwrap()).unwrap();
            apply(&any_op(&mut dice), &holders, &mut model).unwrap();
            compare(&holders, &model, &mut dice);
        }
    }
}

#[test]
fn the_oldest_removals_are_forgotten_first() {
    let holders = new_holders(1);
    let all: Vec<FrameId> = (0..10).map(id).collect();
    for at in 0..10 {
        let mut change = holders.change().unwrap();
        // One that came again leaves a gap.
        if at == 7 {
            change.forget_removed(&id(5)).unwrap();
        }
        change.remember_removed_of(&[id(at), id(at)], 4).unwrap();
        change.commit().unwrap();
    }
    let left: Vec<usize> = (0..10).filter(|&at| holders.is_removed(&all).unwrap()[at]).collect();
    assert_eq!(left, [6, 7, 8, 9]);
}

#[test]
fn what_is_ordered_dropped_goes_only_if_that_is_still_right() {
    let holders = new_holders(1);
    let [one, two] = [MachineNumber(1), MachineNumber(2)];
    holders.enter(vault_of(1), &[new_frame(0, 0, None), new_frame(1, 1, None)], 2).unwrap();
    let both = [id(0), id(1)];
    let of = |frame: usize| holders.holders_of(&[id(frame)]).unwrap().remove(0);
    [one, two].into_iter().for_each(|machine| drop(holders.confirm(machine, &both).unwrap()));
    assert_eq!(holders.release(one, &both).unwrap(), both);
    // Before the order is given it lists what it holds, and the other loses something.
    holders.confirm(one, &both).unwrap();
    holders.retract(two, &[id(1)], Why::ScrubFailed).unwrap();
    assert_eq!(
        holders.let_go(one, &[id(0), id(1), id(2)]).unwrap(),
        [id(0)],
        "of what nobody knows nothing is dropped"
    );
    assert_eq!((of(0), of(1)), (vec![two], vec![one]));
    assert_eq!(holders.let_go(one, &[id(0)]).unwrap(), [id(0)], "it was released already");
    holders.remove_frames(&[id(1)]).unwrap();
    assert_eq!(holders.let_go(one, &[id(1)]).unwrap(), [id(1)], "it is gone from the host");
}

#[test]
fn what_is_unknown_is_remembered_until_something_of_it_may_be_known() {
    let holders = new_holders(1);
    let machine = MachineNumber(2);
    let mut junk = Junk::default();
    junk.add(&id(1));
    junk.add(&id(2));
    holders.set_junk(machine, &junk).unwrap();
    holders.set_junk(MachineNumber(3), &junk).unwrap();
    assert_eq!(holders.junk(machine).unwrap(), junk);
    let frame = new_frame(1, 0, Some(2));
    holders.enter(vault_of(1), &[frame], 1).unwrap();
    assert_eq!(holders.junk(machine).unwrap(), Junk::default(), "it is listed again");
    assert_eq!(holders.junk(MachineNumber(3)).unwrap(), junk);
}

#[test]
fn refusals_leave_no_trace() {
    let holders = new_holders(1);
    let vault = vault_of(1);
    let too_many = vec![id(1); FRAMES_PER_CHANGE_MAX + 1];
    assert!(matches!(holders.confirm(MachineNumber(1), &too_many), Err(HoldersError::TooMany { .. })));
    assert!(matches!(holders.holders_of(&too_many), Err(HoldersError::TooMany { .. })));

    holders.enter(vault, &[new_frame(1, 1, None)], 2).unwrap();
    let longer = NewFrame { len: 7, ..new_frame(1, 1, None) };
    let other_kind = NewFrame { kind: Kind::Branch, ..new_frame(1, 1, None) };
    for (vault, bad) in [(vault, longer), (vault, other_kind), (vault_of(2), new_frame(1, 1, None))] {
        let refused = holders.enter(vault, &[new_frame(4, 0, None), bad], 9);
        assert!(matches!(refused, Err(HoldersError::Contradicts { id: bad }) if bad == id(1)));
    }
    assert_eq!((holders.watermark(vault).unwrap(), holders.owed(None, 9).unwrap().len()), (2, 1));
    assert_eq!(holders.owed_counts().unwrap().vaults.len(), 1);
}

/// A rebuilt index must not make a snapshot look better kept than it is, while it is entered anew or after.
#[test]
fn a_new_round_hides_nothing() {
    let holders = new_holders(1);
    let vault = vault_of(0);
    let machine = MachineNumber(3);
    assert!(holders.is_owed_below(vault, 0).unwrap(), "nobody ever entered it");
    holders.enter(vault, &[new_frame(0, 0, None), new_frame(3, 7, None)], 8).unwrap();
    holders.confirm(machine, &[id(0)]).unwrap();
    let answers = |numbers: [u64; 3]| numbers.map(|number| holders.is_owed_below(vault, number).unwrap());
    assert_eq!(answers([0, 6, 7]), [false, false, true]);
    holders.reset_watermark(vault).unwrap();
    assert_eq!(answers([0, 6, 7]), [true; 3]);
    assert_eq!(holders.holders_of(&[id(0)]).unwrap(), [[machine]], "who holds what does not depend on it");
    holders.enter(vault, &[new_frame(3, 2, None)], 3).unwrap();
    assert_eq!(answers([0, 1, 2]), [false, false, true]);
    holders.confirm(machine, &[id(3)]).unwrap();
    assert_eq!(answers([0, 2, 3]), [false, false, true], "not entered so far");
    assert_eq!(holders.not_entered_again(None, 9).unwrap(), (vec![(vault, id(0))], Some(TrackedNumber(1))));
}

#[test]
fn what_a_machine_holds_is_told_with_all_its_holders() {
    let holders = new_holders(1);
    let (vault, frames) = (vault_of(1), [new_frame(1, 7, None), new_frame(4, 8, Some(2))]);
    holders.enter(vault, &frames, 9).unwrap();
    holders.confirm(MachineNumber(2), &[id(1), id(4)]).unwrap();
    holders.confirm(MachineNumber(3), &[id(4)]).unwrap();
    let held = holders.held_by(MachineNumber(2), None, 9).unwrap();
    let told: Vec<_> = held.iter().map(|held| (held.id, held.vault, held.number_in_index, held.len)).collect();
    assert_eq!(told, [(id(1), vault, 7, 101), (id(4), vault, 8, 104)]);
    assert_eq!(held[1].holders, [MachineNumber(2), MachineNumber(3)]);
    assert_eq!(holders.held_by(MachineNumber(2), Some(held[0].number), 9).unwrap(), held[1..]);
    assert_eq!(holders.held_by(MachineNumber(3), None, 0).unwrap(), []);
}

#[test]
fn a_foreign_map_is_refused() {
    let kv = MemoryKvHome::new().replace(&mut |_| Ok(())).unwrap();
    assert!(matches!(Holders::open(kv), Err(HoldersError::OtherVersion { found: 0 })));
}

/// Rows of any length and content are an error at most.
#[test]
fn damaged_rows_are_errors() {
    let holders = new_holders(1);
    holders.enter(vault_of(1), &[new_frame(1, 1, Some(2)), new_frame(4, 2, None)], 3).unwrap();
    holders.confirm(MachineNumber(1), &[id(4)]).unwrap();
    for table in Table::ALL {
        for value in [&[][..], &[255], &[255; 58], &[255; 100]] {
            let kv = new_holders(1).kv;
            let mut write = kv.write().unwrap();
            let read = holders.kv.read().unwrap();
            for from in Table::ALL {
                read.scan(from, &[], &mut |key, old| {
                    write.put(from, key, if from == table { value } else { old }).unwrap();
                    std::ops::ControlFlow::Continue(())
                })
                .unwrap();
            }
            write.commit().unwrap();
            let Ok(damaged) = Holders::open(kv) else { continue };
            _ = damaged.owed(None, 9);
            _ = damaged.owed_counts();
            _ = damaged.is_owed_below(vault_of(1), 1);
            _ = damaged.frames_of(MachineNumber(1), None, 9);
            _ = damaged.not_entered_again(None, 9);
            _ = damaged.confirm(MachineNumber(1), &[id(1), id(4)]);
            _ = damaged.forget_machine(MachineNumber(1), 9);
            _ = damaged.remove_frames(&[id(1), id(4)]);
            _ = damaged.enter(vault_of(1), &[new_frame(1, 1, None)], 3);
        }
    }
}
