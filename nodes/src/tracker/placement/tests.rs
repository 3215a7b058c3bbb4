//! Placement in cases, and against a naive reading of its rules.

use super::*;
use twinkeep_engine::env::Dice;

const GB: u64 = 1_000_000_000;
const HOST: MachineId = [9; 16];

/// Changes a terminal.
type Turn<'a> = &'a dyn Fn(&mut Candidate);

fn ask(writer: Option<u32>, spread: bool, holders: &[MachineNumber]) -> Ask<'_> {
    Ask { vault: VaultId([1; 16]), writer: writer.map(MachineNumber), spread, holders, host: HOST, len: 1 << 20 }
}

/// A terminal where nothing is in the way.
fn terminal(n: u32) -> Candidate {
    Candidate {
        machine: MachineNumber(n),
        machine_id: [n as u8; 16],
        granted: 100 * GB,
        used: 0,
        free: 100 * GB,
        presence: Presence::Online,
        on_host_network: true,
        is_on_battery: false,
        is_draining: false,
        has_twin: false,
        is_confirmed: true,
        is_resting: false,
        load: 0,
        uptime_share: 50,
    }
}

fn check(ask: Ask<'_>, candidates: &[Candidate], expected: Choice) {
    assert_eq!(choose(&ask, candidates), expected, "{ask:?} of {candidates:#?}");
    let mut turned = candidates.to_vec();
    turned.reverse();
    assert_eq!(choose(&ask, &turned), expected, "the order of terminals does not matter");
}

#[test]
fn the_writer_first() {
    let full = Candidate { used: 100 * GB, ..terminal(1) };
    let offline = Candidate { presence: Presence::Offline, ..terminal(1) };
    let silent_elsewhere = Candidate { presence: Presence::Suspect, on_host_network: false, ..terminal(1) };
    let larger = Candidate { granted: 900 * GB, free: 900 * GB, ..terminal(2) };
    check(ask(Some(1), false, &[]), &[terminal(1), larger], Choice::Writer(MachineNumber(1)));
    check(ask(Some(1), false, &[]), &[silent_elsewhere, larger], Choice::Writer(MachineNumber(1)));
    check(ask(Some(1), false, &[]), &[full, larger], Choice::Other(MachineNumber(2)));
    check(ask(Some(1), false, &[]), &[offline, larger], Choice::Other(MachineNumber(2)));
    check(ask(Some(1), false, &[MachineNumber(1)]), &[terminal(1), larger], Choice::Other(MachineNumber(2)));
    check(ask(Some(1), true, &[]), &[terminal(1), terminal(2)], Choice::Other(MachineNumber(2)));
    check(ask(Some(7), false, &[]), &[terminal(1)], Choice::Other(MachineNumber(1)));
    let beside = Candidate { machine_id: [1; 16], ..larger };
    check(ask(Some(1), true, &[]), &[terminal(1), beside, terminal(3)], Choice::Other(MachineNumber(3)));
}

#[test]
fn then_room_presence_and_load() {
    let others = |change: Turn<'_>| {
        let mut third = terminal(3);
        change(&mut third);
        [terminal(2), third]
    };
    let cases: [(Turn<'_>, u32); 7] = [
        (&|_| (), 2),
        (&|c| (c.free, c.granted) = (101 * GB, 101 * GB), 3),
        (&|c| c.free = 200 * GB, 2),
        (&|c| c.uptime_share = 60, 3),
        (&|c| (c.granted, c.free, c.load) = (190 * GB, 190 * GB, 1), 2),
        (&|c| (c.granted, c.free, c.load) = (210 * GB, 210 * GB, 1), 3),
        (&|c| (c.granted, c.free, c.presence) = (210 * GB, 210 * GB, Presence::Suspect), 2),
    ];
    for (change, expected) in cases {
        check(ask(None, false, &[]), &others(change), Choice::Other(MachineNumber(expected)));
    }
}

#[test]
fn nobody_and_why() {
    let not = |why| Choice::Nobody(why);
    let with = |change: Turn<'_>| {
        let mut candidate = terminal(2);
        change(&mut candidate);
        candidate
    };
    check(ask(None, false, &[]), &[], not(Hindrance::NobodyJoined));
    check(ask(Some(1), true, &[]), &[terminal(1)], not(Hindrance::OnlyTheWriter));
    check(ask(None, false, &[MachineNumber(2)]), &[terminal(2)], not(Hindrance::HoldsItAlready));
    let cases: [(Turn<'_>, Hindrance); 11] = [
        (&|c| c.machine_id = HOST, Hindrance::SameMachine),
        (&|c| c.is_confirmed = false, Hindrance::NotConfirmed),
        (&|c| c.has_twin = true, Hindrance::HasTwin),
        (&|c| c.is_draining = true, Hindrance::Draining),
        (&|c| c.is_on_battery = true, Hindrance::OnBattery),
        (&|c| c.is_resting = true, Hindrance::Resting),
        (&|c| c.granted = 0, Hindrance::NoRoomGranted),
        (&|c| c.free = 1000, Hindrance::NoRoomLeft),
        (&|c| c.used = 200 * GB, Hindrance::NoRoomLeft),
        (&|c| c.on_host_network = false, Hindrance::OtherNetwork),
        (&|c| c.presence = Presence::Suspect, Hindrance::NobodyOnline),
    ];
    for (change, why) in cases {
        check(ask(None, false, &[]), &[with(change)], not(why));
        check(ask(Some(1), true, &[]), &[terminal(1), with(change)], not(why.max(Hindrance::OnlyTheWriter)));
        let holder = Candidate { presence: Presence::Offline, ..terminal(3) };
        check(ask(None, false, &[MachineNumber(3)]), &[with(change), holder], not(why));
    }
    // A second store on a holder's machine.
    let beside = Candidate { machine_id: [1; 16], ..terminal(2) };
    check(ask(None, false, &[MachineNumber(1)]), &[terminal(1), beside], not(Hindrance::SameMachine));
}

/// The rules one after the other, as one would tell them.
fn naive(ask: &Ask<'_>, all: &[Candidate]) -> Option<MachineNumber> {
    let machine_id = |number: MachineNumber| all.iter().find(|c| c.machine == number).map(|c| c.machine_id);
    let mut able = all.to_vec();
    able.retain(|c| c.machine_id != ask.host);
    for &holder in ask.holders {
        able.retain(|c| c.machine != holder && Some(c.machine_id) != machine_id(holder));
    }
    if ask.spread
        && let Some(writer) = ask.writer
    {
        able.retain(|c| c.machine != writer && Some(c.machine_id) != machine_id(writer));
    }
    able.retain(|c| c.is_confirmed && !c.has_twin && !c.is_draining && !c.is_on_battery && !c.is_resting);
    able.retain(|c| {
        c.granted > 0 && c.used + u64::from(ask.len) <= c.granted.max(c.used) && u64::from(ask.len) <= c.free
    });
    if let Some(writer) = able.iter().find(|c| Some(c.machine) == ask.writer && c.presence != Presence::Offline) {
        return Some(writer.machine);
    }
    able.retain(|c| Some(c.machine) != ask.writer && c.on_host_network && c.presence == Presence::Online);
    let merit = |c: &Candidate| {
        let room = if c.granted.saturating_sub(c.used) < c.free { c.granted.saturating_sub(c.used) } else { c.free };
        let there = 100 + u128::from(if c.uptime_share > 100 { 100 } else { c.uptime_share });
        u128::from(room) * there / 200 / (1 + u128::from(c.load))
    };
    able.sort_by_key(|c| c.machine);
    let most = able.iter().map(merit).max()?;
    able.iter().find(|c| merit(c) == most).map(|c| c.machine)
}

#[test]
fn like_the_naive_reading() {
    let mut chosen = 0;
    for seed in 0..20_000 {
        let mut dice = Dice(seed);
        let all: Vec<_> = (0..dice.below(7)).map(|n| any_terminal(&mut dice, n as u32)).collect();
        let holders: Vec<_> = (0..dice.below(3)).map(|_| MachineNumber(dice.below(9) as u32)).collect();
        let writer = (!dice.one_in(3)).then(|| dice.below(8) as u32);
        let ask = Ask { len: dice.below(4) as u32, ..ask(writer, dice.one_in(2), &holders) };
        let expected = naive(&ask, &all);
        match choose(&ask, &all) {
            Choice::Writer(machine) => {
                assert_eq!((Some(machine), Some(machine)), (ask.writer, expected), "seed {seed}")
            }
            Choice::Other(machine) => assert_eq!(Some(machine), expected, "seed {seed}: {ask:?} {all:#?}"),
            Choice::Nobody(why) => {
                assert_eq!(expected, None, "seed {seed}: {ask:?} {all:#?}");
                let all = explain(&ask, &all);
                let least = all.iter().map(|(_, why)| why.unwrap()).max().unwrap_or(Hindrance::NobodyJoined);
                assert_eq!(why, least);
            }
        }
        chosen += u32::from(expected.is_some());
    }
    assert!((5_000..15_000).contains(&chosen), "{chosen}");
}

/// Small numbers, so that ties and limits are met.
fn any_terminal(dice: &mut Dice, n: u32) -> Candidate {
    let machine_id = if dice.one_in(12) { HOST } else { [dice.below(6) as u8; 16] };
    Candidate {
        machine: MachineNumber(n),
        machine_id,
        granted: dice.below(8) as u64,
        used: dice.below(4) as u64,
        free: dice.below(8) as u64,
        presence: [Presence::Online, Presence::Online, Presence::Suspect, Presence::Offline][dice.below(4)],
        on_host_network: !dice.one_in(5),
        is_on_battery: dice.one_in(40),
        is_draining: dice.one_in(8),
        has_twin: dice.one_in(8),
        is_confirmed: !dice.one_in(8),
        is_resting: dice.one_in(30),
        load: dice.below(3) as u32,
        uptime_share: [0, 50, 100, 200][dice.below(4)],
    }
}
