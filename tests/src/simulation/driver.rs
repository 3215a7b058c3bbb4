//! What breaks, when, and what must hold then.

use super::machines;
use super::world::{Command, HOST, Nature, Pc, World};
use crate::seeds::grouped;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use turmoil::Sim;
use twinkeep_engine::env::Dice;
use twinkeep_nodes::host::Host;

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
}

impl Fault {
    const ALL: [Self; 21] = [
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
            "{} seeds, {:.1} simulated hours, {} liars, {} faults ({}), {} backups, {} times level 2, calls that failed: {}; mended \
             after {} s at most",
            grouped(self.seeds),
            self.simulated.as_secs_f64() / 3600.0,
            self.liars,
            grouped(self.faults.values().sum()),
            faults.join(", "),
            grouped(self.backups),
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
        self.mended = self.mended.max(other.mended);
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (why, count) in &other.failures {
            *self.failures.entry(why.clone()).or_default() += count;
        }
    }
}

/// What is mended later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Heal {
    Link(usize),
    Release(usize),
    StartHost,
    StartPc(usize),
    Room(Option<usize>),
}

/// How often the map of holders is compared with what machines hold.
const LOOK: Duration = Duration::from_secs(5);

/// Everything is as it should be so soon after everything was mended.
const MENDED: Duration = Duration::from_secs(20 * 60);

struct Driver<'a> {
    world: Rc<World>,
    sim: Sim<'a>,
    dice: Dice,
    heals: BTreeSet<(Duration, Heal)>,
    /// PCs that the host cannot reach.
    severed: BTreeSet<usize>,
    held: BTreeSet<usize>,
    /// PCs that do not run.
    down: BTreeSet<usize>,
    is_host_down: bool,
    report: Report,
}

/// Runs an office; the newest lines of what happened stand in the error.
pub fn run(seed: u64) -> Result<Report, String> {
    crate::lab::shrink();
    let mut dice = Dice(seed);
    let pcs = 1 + dice.below(3) + if dice.one_in(3) { dice.below(5) } else { 0 };
    let users = 1 + dice.below(3) + if dice.one_in(6) { dice.below(13) } else { 0 };
    let late = if dice.one_in(3) { 1 } else { 0 };
    let liars = dice.one_in(4);
    let all: Vec<Rc<Pc>> = (0..pcs + late)
        .map(|at| match at > 0 && liars && dice.one_in(2) {
            true => Pc::new(seed, at, Nature::Liar),
            false => Pc::new(seed, at, Nature::Honest),
        })
        .collect();
    let world = World::new(seed, all, pcs, users)?;
    let tick = Duration::from_millis([10, 20, 40][dice.below(3)]);
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(dice.throw())
        .tick_duration(tick)
        .simulation_duration(Duration::from_secs(86_400))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(1 + dice.below(120) as u64))
        .tcp_capacity(1 << 14)
        .enable_random_order();
    let mut sim = builder.build();
    let on_host = world.clone();
    sim.host(HOST, move || machines::host(on_host.clone()));
    for pc in &world.pcs {
        let (world, pc) = (world.clone(), pc.clone());
        sim.host(pc.name.clone(), move || machines::pc(world.clone(), pc.clone()));
    }
    let safety = Duration::from_secs(30 + dice.below(90) as u64);
    let mut driver = Driver {
        world: world.clone(),
        sim,
        dice,
        heals: BTreeSet::new(),
        severed: BTreeSet::new(),
        held: BTreeSet::new(),
        down: BTreeSet::new(),
        is_host_down: false,
        report: Report { seeds: 1, ..Report::default() },
    };
    let lived = driver.live(safety).and_then(|()| driver.mend());
    let mut report = driver.report;
    let oracle = world.oracle.borrow();
    (report.backups, report.levels, report.failures) = (oracle.backups, oracle.levels, oracle.failures.clone());
    report.liars = world.pcs.iter().filter(|pc| pc.nature == Nature::Liar).count();
    report.hash = world.trace.borrow().hash();
    report.simulated = Duration::from_nanos(world.now.load(Ordering::Relaxed));
    lived.map(|()| report).map_err(|problem| {
        let trace = world.trace.borrow();
        let lines: Vec<&str> = trace.lines.iter().map(String::as_str).collect();
        format!("seed {seed}: {problem}\n{}", lines.join("\n"))
    })
}

impl Driver<'_> {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.world.now.load(Ordering::Relaxed))
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.world.note("fate", what);
    }

    /// Anything may break.
    fn live(&mut self, until: Duration) -> Result<(), String> {
        let gap = 3_000 + self.dice.below(20_000);
        let mut next = Duration::from_millis(self.dice.below(gap) as u64);
        let mut look = LOOK;
        while self.now() < until {
            self.step()?;
            if self.now() >= next {
                next = self.now() + Duration::from_millis(self.dice.below(2 * gap) as u64);
                let fault = Fault::ALL[self.dice.below(Fault::ALL.len())];
                self.breaks(fault);
            }
            if self.now() >= look {
                look = self.now() + LOOK;
                self.look()?;
            }
        }
        Ok(())
    }

    /// One tick of everything, and what follows from it.
    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| format!("a machine ended: {error}"))?;
        self.world.now.store(self.sim.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if self.world.disk.is_dead() && !self.is_host_down {
            self.stop_host(true, true);
        }
        for at in 0..self.world.pcs.len() {
            if self.world.pcs[at].disk.is_dead() && !self.down.contains(&at) {
                self.stop_pc(at, true, true);
            }
        }
        while let Some((at, heal)) = self.heals.first().copied()
            && at <= self.now()
        {
            self.heals.pop_first();
            self.heal(heal);
        }
        Ok(())
    }

    /// What must hold at any time.
    fn look(&mut self) -> Result<(), String> {
        let host = self.world.host.borrow().clone();
        let mut oracle = self.world.oracle.borrow_mut();
        if let Some(host) = host.filter(|_| !self.is_host_down) {
            oracle.check_map(&self.world, &host);
        }
        match oracle.problems.first() {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        }
    }

    fn later(&mut self, secs_max: usize, heal: Heal) {
        let at = self.now() + Duration::from_millis(500 + self.dice.below(secs_max * 1000) as u64);
        self.heals.insert((at, heal));
    }

    fn some_pc(&mut self) -> usize {
        self.dice.below(self.world.pcs.len())
    }

    fn breaks(&mut self, fault: Fault) {
        let at = self.some_pc();
        let world = self.world.clone();
        let pc = &world.pcs[at];
        let is_down = self.down.contains(&at);
        let has_happened = match fault {
            Fault::Partition | Fault::HalfPartition | Fault::Delay
                if self.severed.contains(&at) || self.held.contains(&at) =>
            {
                false
            }
            Fault::Partition => {
                self.severed.insert(at);
                self.sim.partition(HOST, pc.name.as_str());
                self.later(40, Heal::Link(at));
                true
            }
            Fault::HalfPartition => {
                self.severed.insert(at);
                match self.dice.one_in(2) {
                    true => self.sim.partition_oneway(HOST, pc.name.as_str()),
                    false => self.sim.partition_oneway(pc.name.as_str(), HOST),
                }
                self.later(40, Heal::Link(at));
                true
            }
            Fault::Delay => {
                self.held.insert(at);
                self.sim.hold(HOST, pc.name.as_str());
                self.later(40, Heal::Release(at));
                true
            }
            Fault::KillHost | Fault::CutHost | Fault::LoseHolders | Fault::LoseIndexes if !self.is_host_down => {
                let is_silent = self.dice.one_in(2);
                self.stop_host(fault != Fault::KillHost, is_silent);
                match fault {
                    Fault::LoseHolders => world.disk.lose_maps(|name| name == "holders"),
                    Fault::LoseIndexes => world.disk.lose_maps(|name| name != "holders"),
                    _ => {}
                }
                true
            }
            Fault::CutHostInside if !self.is_host_down => {
                world.disk.cut_after(self.dice.below(60) as u64);
                true
            }
            Fault::KillPc | Fault::CutPc | Fault::LosePc | Fault::LosePcIndex if !is_down => {
                let is_silent = self.dice.one_in(2);
                self.stop_pc(at, fault != Fault::KillPc, is_silent);
                if fault == Fault::LosePcIndex {
                    pc.disk.lose_maps(|_| true);
                }
                if fault == Fault::LosePc {
                    pc.is_excused.set(true);
                    pc.disk.lose();
                }
                true
            }
            Fault::CutPcInside if !is_down => {
                pc.disk.cut_after(self.dice.below(40) as u64);
                true
            }
            Fault::FullHost if !world.disk.is_full() => {
                world.disk.set_full(true);
                self.later(30, Heal::Room(None));
                true
            }
            Fault::FullPc if !pc.disk.is_full() => {
                pc.disk.set_full(true);
                self.later(30, Heal::Room(Some(at)));
                true
            }
            Fault::RotPc => {
                let rotten = pc.disk.rot("copies", "", &mut self.dice);
                if rotten.is_some() {
                    pc.is_excused.set(true);
                }
                rotten.is_some()
            }
            Fault::ClockHost | Fault::ClockPc => {
                let years = self.dice.below(41) as i64 - 20;
                let skew = if fault == Fault::ClockHost { &world.skew } else { &pc.skew };
                skew.store(years * 365 * 86_400_000_000_000, Ordering::Relaxed);
                true
            }
            Fault::Join if !pc.has_joined.get() => {
                world.commands.borrow_mut().push_back(Command::Invite(at));
                true
            }
            Fault::Forget if pc.has_joined.get() && self.dice.one_in(3) => {
                world.commands.borrow_mut().push_back(Command::Forget(at));
                true
            }
            Fault::Drain if pc.has_joined.get() => {
                let on = self.dice.one_in(2);
                world.commands.borrow_mut().push_back(Command::Drain(at, on));
                true
            }
            _ => false,
        };
        if has_happened {
            self.note(format_args!("{fault:?} {}", pc.name));
            *self.report.faults.entry(fault).or_default() += 1;
        }
    }

    /// The host does not run any more. Silently: nobody hears of it.
    fn stop_host(&mut self, is_cut: bool, is_silent: bool) {
        let world = self.world.clone();
        if is_cut {
            world.disk.off();
        }
        if is_silent {
            world.pcs.iter().for_each(|pc| self.sim.partition(HOST, pc.name.as_str()));
        }
        world.host.take();
        self.sim.crash(HOST);
        self.is_host_down = true;
        if is_cut {
            world.disk.cut()
        } else {
            world.disk.plug()
        }
        for at in (0..world.pcs.len()).filter(|at| !self.severed.contains(at)) {
            self.sim.repair(HOST, world.pcs[at].name.as_str());
        }
        self.held.clear();
        self.note(format_args!("the host stops, cut {is_cut}, silent {is_silent}"));
        self.later(20, Heal::StartHost);
    }

    fn stop_pc(&mut self, at: usize, is_cut: bool, is_silent: bool) {
        let world = self.world.clone();
        let pc = &world.pcs[at];
        if is_cut {
            pc.disk.off();
        }
        if is_silent {
            self.sim.partition(HOST, pc.name.as_str());
        }
        self.sim.crash(pc.name.as_str());
        pc.stop();
        self.down.insert(at);
        if is_cut {
            pc.disk.cut()
        } else {
            pc.disk.plug()
        }
        if !self.severed.contains(&at) {
            self.sim.repair(HOST, pc.name.as_str());
        }
        self.held.remove(&at);
        self.note(format_args!("{} stops, cut {is_cut}, silent {is_silent}", pc.name));
        self.later(30, Heal::StartPc(at));
    }

    fn heal(&mut self, heal: Heal) {
        let world = self.world.clone();
        match heal {
            Heal::Link(at) => {
                if self.severed.remove(&at) {
                    let name = world.pcs[at].name.as_str();
                    self.sim.repair_oneway(HOST, name);
                    self.sim.repair_oneway(name, HOST);
                    self.sim.repair(HOST, name);
                }
            }
            Heal::Release(at) => {
                if self.held.remove(&at) {
                    self.sim.release(HOST, world.pcs[at].name.as_str());
                }
            }
            Heal::StartHost => {
                if self.is_host_down {
                    self.is_host_down = false;
                    self.sim.bounce(HOST);
                }
            }
            Heal::StartPc(at) => {
                if self.down.remove(&at) {
                    self.sim.bounce(world.pcs[at].name.as_str());
                }
            }
            Heal::Room(None) => world.disk.set_full(false),
            Heal::Room(Some(at)) => world.pcs[at].disk.set_full(false),
        }
        self.note(format_args!("mended: {heal:?}"));
    }

    /// Everything is mended; what was acknowledged must be whole and in two places soon.
    fn mend(&mut self) -> Result<(), String> {
        let world = self.world.clone();
        world.is_calm.set(true);
        self.heals.clear();
        // A cut that was still to come does not.
        world.disk.cut_after(u64::MAX);
        world.pcs.iter().for_each(|pc| pc.disk.cut_after(u64::MAX));
        self.heal(Heal::Room(None));
        self.heal(Heal::StartHost);
        for at in 0..world.pcs.len() {
            for heal in [Heal::Link(at), Heal::Release(at), Heal::Room(Some(at)), Heal::StartPc(at)] {
                self.heal(heal);
            }
            // Who lies is found out by people so far.
            let is_honest = world.pcs[at].nature == Nature::Honest;
            let command = if is_honest { Command::Drain(at, false) } else { Command::Forget(at) };
            world.commands.borrow_mut().push_back(command);
        }
        let began = self.now();
        let mut look = began + LOOK;
        let wanted = loop {
            self.step()?;
            if self.now() < look {
                continue;
            }
            look = self.now() + LOOK;
            let state = self.unmended();
            match state {
                None => break None,
                Some(problem) if self.now() > began + MENDED => break Some(problem),
                Some(_) => {}
            }
        };
        self.report.mended = self.now() - began;
        self.look()?;
        world.oracle.borrow_mut().check_host(&world);
        self.look()?;
        match wanted {
            Some(problem) => Err(format!("{} s after everything was mended {problem}", MENDED.as_secs())),
            None => Ok(()),
        }
    }

    /// What is still not as it should be.
    fn unmended(&self) -> Option<String> {
        let host = self.world.host.borrow().clone();
        let Some(host) = host else { return Some("the host does not run".to_owned()) };
        if !self.world.commands.borrow().is_empty() {
            return Some("the administrator is busy".to_owned());
        }
        if !self.world.pcs.iter().any(|pc| pc.has_joined.get() && pc.nature == Nature::Honest) {
            return None;
        }
        let counts = match host.holders.owed_counts() {
            Ok(counts) => counts,
            Err(error) => return Some(error.to_string()),
        };
        let owed: u64 = counts.vaults.iter().map(|vault| vault.frames).sum();
        if owed > 0 {
            let why: Vec<String> = counts
                .vaults
                .iter()
                .filter_map(|vault| Some(host.copier.hindrance(vault.vault)?.to_string()))
                .collect();
            return Some(format!("{owed} frames are owed: {}", why.join(", ")));
        }
        self.misplaced(&host)
    }

    /// A frame that is not where the map says, or nowhere. Nothing is excused any more.
    fn misplaced(&self, host: &Host) -> Option<String> {
        let world = &self.world;
        let honest = world.pcs.iter().filter(|pc| pc.has_joined.get() && pc.nature == Nature::Honest);
        let mut held = BTreeSet::new();
        for pc in honest {
            let number = world.number_of(host, pc)?;
            let rows = host.holders.frames_of(number, None, 1 << 20).unwrap_or_default();
            // Looked at from outside: what a store is asked for it may find to be bad, and that is its own to find.
            let on_disk = pc.on_disk(world);
            if let Some((_, frame)) = rows.iter().find(|(_, frame)| !on_disk.contains(frame)) {
                return Some(format!("the host believes that {} holds {frame}: {}", pc.name, pc.tell(frame)));
            }
            held.extend(on_disk);
        }
        let oracle = world.oracle.borrow();
        let nowhere = oracle.all_frames().find(|frame| !held.contains(frame));
        nowhere.map(|frame| format!("nobody holds {frame}, and nothing is owed"))
    }
}
