//! Who is asked to hold a frame besides the host: a function of what is known of the machines, and nothing else.
//!
//! The writer is preferred: it has the bytes. Else the terminal with the most room, weighted by how much of the time it
//! is there and shared among what it is being sent already; of equals the one with the lowest number. One physical
//! machine counts once, whatever runs on it.

use super::MachineNumber;
use super::presence::Presence;
use std::cmp::Reverse;
use std::fmt;
use twinkeep_engine::id::VaultId;

/// What tells one physical machine from another.
pub type MachineId = [u8; 16];

/// A frame that wants a holder.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Vault that needs it.
    pub vault: VaultId,
    /// The machine whose session wrote it.
    pub writer: Option<MachineNumber>,
    /// The writer's machine must not hold it.
    pub spread: bool,
    /// Who holds it besides the host.
    pub holders: &'a [MachineNumber],
    /// The host's machine.
    pub host: MachineId,
    /// Length of the frame, bytes.
    pub len: u32,
}

/// A terminal as the tracker sees it now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its number.
    pub machine: MachineNumber,
    /// The physical machine it runs on.
    pub machine_id: MachineId,
    /// Bytes its owner grants.
    pub granted: u64,
    /// Bytes of them in use.
    pub used: u64,
    /// Bytes free on its disk.
    pub free: u64,
    /// Is it there?
    pub presence: Presence,
    /// Does it share a network with the host?
    pub on_host_network: bool,
    /// It runs on battery.
    pub is_on_battery: bool,
    /// It is being emptied.
    pub is_draining: bool,
    /// Two live incarnations of its store speak in its name.
    pub has_twin: bool,
    /// An admin has confirmed it.
    pub is_confirmed: bool,
    /// It failed at what it was asked, and is not asked again for a while.
    pub is_resting: bool,
    /// Frames on their way to it.
    pub load: u32,
    /// Share of the time it is there, percent; more counts as 100.
    pub uptime_share: u8,
}

/// Why a terminal, or none of them, can hold a frame: from the remotest reason to the one a switch would remove.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hindrance {
    /// There is no terminal.
    NobodyJoined,
    /// It holds the frame already.
    HoldsItAlready,
    /// It runs on the host's machine or on that of a holder.
    SameMachine,
    /// It wrote the frame, which is to be elsewhere too.
    OnlyTheWriter,
    /// It waits for an admin.
    NotConfirmed,
    /// Two live stores speak in its name.
    HasTwin,
    /// It is being emptied.
    Draining,
    /// Its owner grants nothing.
    NoRoomGranted,
    /// What its owner grants is used up, or its disk is.
    NoRoomLeft,
    /// It shares no network with the host.
    OtherNetwork,
    /// It runs on battery, and is not to spend that on others' copies.
    OnBattery,
    /// It failed at what it was asked, and rests.
    Resting,
    /// It is not there.
    NobodyOnline,
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NobodyJoined => "no terminal has joined",
            Self::HoldsItAlready => "every terminal holds it already",
            Self::SameMachine => "no terminal runs on a machine of its own",
            Self::OnlyTheWriter => "only the machine that wrote it is left, and copies are to be elsewhere",
            Self::NotConfirmed => "terminals wait to be confirmed by an admin",
            Self::HasTwin => "a terminal runs twice under one name",
            Self::Draining => "the terminals left are being emptied",
            Self::NoRoomGranted => "no terminal grants room",
            Self::NoRoomLeft => "the room that terminals grant is used up",
            Self::OtherNetwork => "no terminal with room shares a network with the host",
            Self::OnBattery => "the terminals with room run on battery",
            Self::Resting => "the terminals with room failed at what they were asked, and rest",
            Self::NobodyOnline => "no terminal with room is online",
        })
    }
}

/// Who is asked to hold a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The writer keeps what it has: nothing is sent.
    Writer(MachineNumber),
    /// The host sends it to this terminal.
    Other(MachineNumber),
    /// Nobody can; this is the least that is in the way.
    Nobody(Hindrance),
}

/// Chooses a holder among all terminals, those that hold the frame already among them.
pub fn choose(ask: &Ask<'_>, candidates: &[Candidate]) -> Choice {
    let taken = taken_machines(ask, candidates);
    let mut best = None;
    let mut least = Hindrance::NobodyJoined;
    for candidate in candidates {
        match hindrance(ask, candidate, &taken) {
            Some(hindrance) => least = least.max(hindrance),
            None if ask.writer == Some(candidate.machine) => return Choice::Writer(candidate.machine),
            None => best = best.max(Some((weight(candidate), Reverse(candidate.machine)))),
        }
    }
    match best {
        Some((_, Reverse(machine))) => Choice::Other(machine),
        None => Choice::Nobody(least),
    }
}

/// For each terminal what keeps it from holding the frame, if anything: the long answer to why nobody does.
pub fn explain(ask: &Ask<'_>, candidates: &[Candidate]) -> Vec<(MachineNumber, Option<Hindrance>)> {
    let taken = taken_machines(ask, candidates);
    candidates.iter().map(|candidate| (candidate.machine, hindrance(ask, candidate, &taken))).collect()
}

/// The physical machines where a copy would be no second one.
struct Taken {
    /// The host's and those of holders.
    holders: Vec<MachineId>,
    /// The writer's, if it is excluded and a terminal.
    writer: Option<MachineId>,
}

fn taken_machines(ask: &Ask<'_>, candidates: &[Candidate]) -> Taken {
    let holders = candidates.iter().filter(|candidate| ask.holders.contains(&candidate.machine));
    let writer = candidates.iter().find(|candidate| ask.spread && ask.writer == Some(candidate.machine));
    Taken {
        holders: std::iter::once(ask.host).chain(holders.map(|holder| holder.machine_id)).collect(),
        writer: writer.map(|writer| writer.machine_id),
    }
}

/// Remotest reasons first: what stays is the least one could do something about.
fn hindrance(ask: &Ask<'_>, candidate: &Candidate, taken: &Taken) -> Option<Hindrance> {
    let is_writer = ask.writer == Some(candidate.machine);
    let room = candidate.granted.saturating_sub(candidate.used).min(candidate.free);
    let checks = [
        (ask.holders.contains(&candidate.machine), Hindrance::HoldsItAlready),
        (taken.holders.contains(&candidate.machine_id), Hindrance::SameMachine),
        (taken.writer == Some(candidate.machine_id), Hindrance::OnlyTheWriter),
        (!candidate.is_confirmed, Hindrance::NotConfirmed),
        (candidate.has_twin, Hindrance::HasTwin),
        (candidate.is_draining, Hindrance::Draining),
        (candidate.granted == 0, Hindrance::NoRoomGranted),
        (room < u64::from(ask.len), Hindrance::NoRoomLeft),
        // Nothing is sent to the writer: it needs no road, and no more than to be there a moment ago.
        (!is_writer && !candidate.on_host_network, Hindrance::OtherNetwork),
        (candidate.is_on_battery, Hindrance::OnBattery),
        (candidate.is_resting, Hindrance::Resting),
        (!is_writer && candidate.presence != Presence::Online, Hindrance::NobodyOnline),
        (candidate.presence == Presence::Offline, Hindrance::NobodyOnline),
    ];
    checks.into_iter().find_map(|(is_so, hindrance)| is_so.then_some(hindrance))
}

/// Bytes of room, halved for one that is never there, shared among what is on its way and the new frame.
fn weight(candidate: &Candidate) -> u64 {
    let room = candidate.granted.saturating_sub(candidate.used).min(candidate.free);
    let there = 100 + u128::from(candidate.uptime_share.min(100));
    let weight = u128::from(room) * there / 200 / (u128::from(candidate.load) + 1);
    u64::try_from(weight).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
