//! What breaks, when, and what must hold then.

mod ageing;
mod breaks;
mod doubles;
mod kind;

use super::disk::Image;
use super::machines;
use super::oracle::Acknowledged;
use super::pc::{Nature, Pc};
use super::report::{Fault, Report, Weakness};
use super::world::{Command, HOST, World};
use kind::Kind;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use turmoil::Sim;
use twinkeep_engine::env::Dice;
use twinkeep_engine::id::FrameId;
use twinkeep_nodes::host::Host;
use twinkeep_nodes::tracker::registry::NodeStatus;

/// What is mended later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Heal {
    Link(usize),
    Release(usize),
    StartHost,
    StartPc(usize),
    Room(Option<usize>),
    Clock,
    OneOfTwo,
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
    /// What may go wrong.
    faults: Vec<Fault>,
    weakness: Weakness,
    /// Everything was verified at the end.
    has_scrubbed: bool,
    /// Time of the machines at the last step, nanoseconds.
    seen: u64,
    /// When the next month passes, where months do.
    month: Option<Duration>,
    /// Whether it is known that a machine runs twice, and what is on its way to it.
    given: (bool, usize),
    /// Older copies of the host's disk, with what had been acknowledged.
    images: Vec<(Image, Acknowledged)>,
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
    let mut kind = Kind::of(seed);
    let all: Vec<Rc<Pc>> = (0..pcs + late)
        .map(|at| match at > 0 && liars && dice.one_in(2) {
            true => Pc::new(seed, at, kind.liar()),
            false => Pc::new(seed, at, Nature::Honest),
        })
        .collect();
    let mut all = all;
    if kind.clones {
        let honest: Vec<Rc<Pc>> = all.iter().filter(|pc| pc.nature == Nature::Honest).cloned().collect();
        let original = &honest[seed as usize % honest.len()];
        all.push(Pc::clone_of(original, all.len()));
    }
    let world = World::new(seed, all, pcs, users, kind.habits)?;
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
        faults: kind.faults,
        weakness: kind.weakness,
        has_scrubbed: false,
        seen: 0,
        month: kind.habits.forget.then_some(Duration::from_secs(5)),
        given: (false, 0),
        images: Vec::new(),
        report: Report { seeds: 1, ..Report::default() },
    };
    let lived = driver.live(safety).and_then(|()| driver.mend());
    let mut report = driver.report;
    let oracle = world.oracle.borrow();
    (report.backups, report.levels, report.failures) = (oracle.backups, oracle.levels, oracle.failures.clone());
    report.told = oracle.told;
    report.liars = world.pcs.iter().filter(|pc| pc.nature != Nature::Honest).count();
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

    /// Time of the machines, nanoseconds: what they slept counts.
    fn passed(&self) -> u64 {
        self.sim.elapsed().as_nanos() as u64 + self.world.slept.load(Ordering::Relaxed)
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.world.note("fate", what);
    }

    /// Anything may break.
    fn live(&mut self, until: Duration) -> Result<(), String> {
        let gap = 3_000 + self.dice.below(20_000);
        let mut next = Duration::from_millis(self.dice.below(gap) as u64);
        let mut look = LOOK;
        let mut copy = Duration::ZERO;
        while self.now() < until {
            self.step()?;
            if self.now() >= next {
                next = self.now() + Duration::from_millis(self.dice.below(2 * gap) as u64);
                let fault = self.faults[self.dice.below(self.faults.len())];
                self.breaks(fault);
            }
            if self.month.is_some_and(|month| self.now() >= month) {
                self.month();
                self.month = Some(self.now() + Duration::from_millis(6_000 + self.dice.below(12_000) as u64));
            }
            if self.now() >= look {
                look = self.now() + LOOK;
                self.look()?;
            }
            if self.now() >= copy {
                copy = self.now() + Duration::from_secs(10 + self.world.pcs.len() as u64);
                self.copy_disks();
            }
        }
        Ok(())
    }

    /// Somebody makes copies of disks, as far as they may be needed.
    fn copy_disks(&mut self) {
        if self.faults.contains(&Fault::OldHost) {
            let acknowledged = self.world.oracle.borrow().acknowledged();
            self.images.push((self.world.disk.image(), acknowledged));
        }
        if self.faults.contains(&Fault::OldPc) {
            for pc in self.world.pcs.iter().filter(|pc| !pc.is_off.get()) {
                pc.images.borrow_mut().push(pc.disk.image());
            }
        }
    }

    /// One tick of everything, and what follows from it.
    fn step(&mut self) -> Result<(), String> {
        let (runs, before) = (self.world.host.borrow().is_some(), self.seen);
        self.sim.step().map_err(|error| format!("a machine ended: {error}"))?;
        self.world.now.store(self.sim.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.seen = self.passed();
        if runs {
            self.world.ran.fetch_add(self.seen - before, Ordering::Relaxed);
        }
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
        self.watch_double()
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
        if world.habits.forget {
            self.heal(Heal::Clock);
        }
        for at in 0..world.pcs.len() {
            for heal in [Heal::Link(at), Heal::Release(at), Heal::Room(Some(at)), Heal::StartPc(at)] {
                self.heal(heal);
            }
            // Who lies is found out by people so far.
            if world.pcs[at].is_clone() {
                continue;
            }
            let is_honest = world.pcs[at].nature == Nature::Honest;
            let command = if is_honest { Command::Drain(at, false) } else { Command::Forget(at) };
            world.commands.borrow_mut().push_back(command);
        }
        self.resolve_double()?;
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
                None if self.weakness == Weakness::HostRots && !self.has_scrubbed => {
                    world.commands.borrow_mut().push_back(Command::Scrub);
                    self.has_scrubbed = true;
                }
                None => break None,
                Some(problem) if self.now() > began + MENDED => break Some(problem),
                Some(_) => {}
            }
        };
        self.report.mended = self.now() - began;
        self.look()?;
        if wanted.is_none() && world.habits.forget {
            self.age()?;
        }
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
        if !self.world.commands.borrow().is_empty() || self.world.is_obeying.get() {
            return Some("the administrator is busy".to_owned());
        }
        if let Some(question) = host.hours.question(host.env()).filter(|_| self.world.habits.forget) {
            return Some(question);
        }
        let status = |pc: &Pc| host.office.read(|registry| registry.node(&pc.key()).map(|node| node.status));
        let has_gone = |pc: &&Rc<Pc>| pc.is_to_go.get() && status(pc) == Some(NodeStatus::Forgotten);
        self.world.pcs.iter().filter(has_gone).for_each(|pc| pc.has_joined.set(false));
        if !self.world.pcs.iter().any(|pc| pc.is_part()) {
            return None;
        }
        let owed = match host.holders.owed(None, 1 << 20) {
            Ok(owed) => owed,
            Err(error) => return Some(error.to_string()),
        };
        let oracle = self.world.oracle.borrow();
        let owed: Vec<_> = owed.into_iter().filter(|owed| !oracle.is_rotten(&owed.id)).collect();
        if let Some(first) = owed.first() {
            let why = host.copier.hindrance(first.vault).map(|hindrance| hindrance.to_string());
            return Some(format!("{} frames are owed: {}", owed.len(), why.unwrap_or_default()));
        }
        drop(oracle);
        let at_host = || self.world.oracle.borrow().missing_at_host(&self.world);
        // What is bad at the host is healed when a machine that holds it is there.
        self.misplaced(&host).or_else(|| self.has_scrubbed.then(at_host).flatten())
    }

    /// A frame that is not where the map says, or nowhere. Nothing is excused any more.
    fn misplaced(&self, host: &Host) -> Option<String> {
        let world = &self.world;
        let honest = world.pcs.iter().filter(|pc| pc.is_part());
        let mut held = BTreeSet::new();
        for pc in honest {
            let Some(number) = world.number_of(host, pc) else {
                return Some(format!("{} is no part of the office", pc.name));
            };
            let rows = host.holders.frames_of(number, None, 1 << 20).unwrap_or_default();
            // Looked at from outside: what a store is asked for it may find to be bad, and that is its own to find.
            let on_disk = pc.on_disk(world);
            if let Some((_, frame)) = rows.iter().find(|(_, frame)| !on_disk.contains(frame)) {
                return Some(format!("the host believes that {} holds {frame}: {}", pc.name, pc.tell(frame)));
            }
            held.extend(on_disk);
        }
        let oracle = world.oracle.borrow();
        let at_host = world.may_free().then(|| world.frames_at_host());
        let is_wanted = |frame: &FrameId| at_host.as_ref().is_none_or(|at_host| at_host.contains(frame));
        let mut wanted = oracle.all_frames().filter(|frame| is_wanted(frame));
        let nowhere = wanted.find(|frame| !held.contains(frame) && !oracle.is_rotten(frame));
        nowhere.map(|frame| format!("nobody holds {frame}, and nothing is owed"))
    }
}
