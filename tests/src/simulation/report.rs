//! What can go wrong, and what a run did.

use crate::seeds::grouped;
use std::collections::BTreeMap;
use std::time::Duration;

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// Nothing gets through between the host and a PC; what was under way is lost.
    Partition,
    /// The same in one direction.
    HalfPartition,
    /// What is sent between the host and a PC arrives much later.
    Delay,
    /// The host's program is killed.
    KillHost,
    /// The host's power goes.
    CutHost,
    /// The host's power goes between two writes.
    CutHostInside,
    /// A terminal's program is killed.
    KillPc,
    /// A PC's power goes.
    CutPc,
    /// A PC's power goes between two writes.
    CutPcInside,
    /// The host's disk is full.
    FullHost,
    /// A PC's disk is full.
    FullPc,
    /// A PC comes back with a new disk.
    LosePc,
    /// Packs of a PC rot.
    RotPc,
    /// The host comes back without its map of holders.
    LoseHolders,
    /// The host comes back without the indexes of its vaults.
    LoseIndexes,
    /// A PC comes back without the index of its copies.
    LosePcIndex,
    /// The host's clock is set, years off.
    ClockHost,
    /// A PC's clock is set, years off.
    ClockPc,
    /// A PC joins.
    Join,
    /// A PC is forgotten.
    Forget,
    /// A PC is emptied, or no longer.
    Drain,
    /// Packs of the host rot.
    RotHost,
    /// The host's disk is lost, and it comes back from an older copy of it.
    OldHost,
    /// A PC comes back with an older copy of its disk.
    OldPc,
    /// Every machine sleeps: clocks go on, timers do not.
    Sleep,
    /// The same for a month.
    Month,
    /// What nothing needs is freed; at times the power goes in the middle.
    Collect,
    /// A copy of a PC's disk is started on another machine.
    Clone,
}

impl Fault {
    /// What seeds of the first version draw from.
    pub(super) const FIRST: [Self; 21] = [
        Self::Partition,
        Self::HalfPartition,
        Self::Delay,
        Self::KillHost,
        Self::CutHost,
        Self::CutHostInside,
        Self::KillPc,
        Self::CutPc,
        Self::CutPcInside,
        Self::FullHost,
        Self::FullPc,
        Self::LosePc,
        Self::RotPc,
        Self::LoseHolders,
        Self::LoseIndexes,
        Self::LosePcIndex,
        Self::ClockHost,
        Self::ClockPc,
        Self::Join,
        Self::Forget,
        Self::Drain,
    ];

    /// What others draw from: faults after which everything can still be had. What rots at the host is healed from
    /// PCs, as far as its index knows of it, so that in the same run PCs lose nothing and the host no index.
    pub(super) fn of(weakness: Weakness) -> Vec<Self> {
        let more = match weakness {
            Weakness::None => vec![Self::OldPc, Self::Sleep],
            Weakness::HostRots => vec![Self::RotHost, Self::RotHost, Self::Sleep],
            Weakness::HostIsOld => vec![Self::OldHost, Self::OldPc, Self::Sleep],
        };
        let is_harmless =
            |fault: &Self| !matches!(fault, Self::LosePc | Self::RotPc | Self::Forget | Self::LoseIndexes);
        let first = Self::FIRST.into_iter().filter(|fault| weakness != Weakness::HostRots || is_harmless(fault));
        first.chain(more).collect()
    }
}

/// What may become of the host's disk in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Weakness {
    /// Nothing.
    None,
    /// Bytes of it rot.
    HostRots,
    /// It is lost, and an older copy of it takes its place.
    HostIsOld,
}

/// What a run did.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Runs.
    pub seeds: usize,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, usize>,
    /// Simulated time.
    pub simulated: Duration,
    /// Backups that were published.
    pub backups: usize,
    /// Answers that everything is in two places.
    pub levels: usize,
    /// Calls of users that failed, by reason.
    pub failures: BTreeMap<String, usize>,
    /// Snapshots that were forgotten, brought back and let go; frames that machines were ordered to drop.
    pub told: [usize; 4],
    /// Terminals that lied.
    pub liars: usize,
    /// How long the last frame waited for its second copy after everything was mended, at most.
    pub mended: Duration,
    /// Of everything that happened.
    pub hash: String,
}

impl Report {
    /// In words.
    pub fn words(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
        let failures: Vec<String> = self.failures.iter().map(|(why, count)| format!("{why} {count}")).collect();
        format!(
            "{} seeds, {:.1} simulated hours, {} liars, {} faults ({}), {} backups, {} forgotten, {} brought back, {} let go, \
             {} frames freed on order, {} times level 2, calls that failed: {}; mended \
             after {} s at most",
            grouped(self.seeds),
            self.simulated.as_secs_f64() / 3600.0,
            self.liars,
            grouped(self.faults.values().sum()),
            faults.join(", "),
            grouped(self.backups),
            grouped(self.told[0]),
            grouped(self.told[1]),
            grouped(self.told[2]),
            grouped(self.told[3]),
            grouped(self.levels),
            failures.join(", "),
            self.mended.as_secs()
        )
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.simulated += other.simulated;
        self.backups += other.backups;
        self.levels += other.levels;
        self.liars += other.liars;
        self.told.iter_mut().zip(other.told).for_each(|(sum, count)| *sum += count);
        self.mended = self.mended.max(other.mended);
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (why, count) in &other.failures {
            *self.failures.entry(why.clone()).or_default() += count;
        }
    }
}
