//! How things break, and how they are mended.

use super::{Driver, Fault, Heal};
use crate::simulation::world::{Command, HOST};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Driver<'_> {
    pub(super) fn later(&mut self, secs_max: usize, heal: Heal) {
        let at = self.now() + Duration::from_millis(500 + self.dice.below(secs_max * 1000) as u64);
        self.heals.insert((at, heal));
    }

    fn some_pc(&mut self) -> usize {
        self.dice.below(self.world.pcs.len())
    }

    /// Lets something break, if it is not broken already.
    pub(super) fn breaks(&mut self, fault: Fault) {
        let at = self.some_pc();
        let has_happened = match fault {
            Fault::Partition | Fault::HalfPartition | Fault::Delay => self.breaks_network(fault, at),
            Fault::KillHost
            | Fault::CutHost
            | Fault::CutHostInside
            | Fault::LoseHolders
            | Fault::LoseIndexes
            | Fault::OldHost => !self.is_host_down && self.breaks_host(fault),
            Fault::KillPc | Fault::CutPc | Fault::CutPcInside | Fault::LosePc | Fault::LosePcIndex | Fault::OldPc => {
                !self.down.contains(&at) && self.breaks_pc(fault, at)
            }
            Fault::FullHost | Fault::FullPc | Fault::RotPc | Fault::RotHost => self.breaks_disk(fault, at),
            Fault::ClockHost | Fault::ClockPc | Fault::Sleep => self.breaks_clock(fault, at),
            Fault::Join | Fault::Forget | Fault::Drain | Fault::Collect => self.orders(fault, at),
            Fault::Month => {
                self.month();
                true
            }
            Fault::Clone => self.clone_pc(),
        };
        if has_happened {
            self.note(format_args!("{fault:?} pc{at}"));
            *self.report.faults.entry(fault).or_default() += 1;
        }
    }

    fn breaks_network(&mut self, fault: Fault, at: usize) -> bool {
        if self.severed.contains(&at) || self.held.contains(&at) {
            return false;
        }
        let world = self.world.clone();
        let pc = world.pcs[at].name.as_str();
        if fault == Fault::Delay {
            self.held.insert(at);
            self.sim.hold(HOST, pc);
            self.later(40, Heal::Release(at));
            return true;
        }
        self.severed.insert(at);
        match fault == Fault::HalfPartition {
            false => self.sim.partition(HOST, pc),
            true if self.dice.one_in(2) => self.sim.partition_oneway(HOST, pc),
            true => self.sim.partition_oneway(pc, HOST),
        }
        self.later(40, Heal::Link(at));
        true
    }

    fn breaks_host(&mut self, fault: Fault) -> bool {
        let disk = &self.world.clone().disk;
        match fault {
            Fault::CutHostInside => disk.cut_after(self.dice.below(60) as u64),
            Fault::OldHost if self.images.is_empty() => return false,
            Fault::OldHost => self.bring_back_host(),
            _ => {
                let is_silent = self.dice.one_in(2);
                self.stop_host(fault != Fault::KillHost, is_silent);
                match fault {
                    Fault::LoseHolders => self.lose_holders(),
                    Fault::LoseIndexes => disk.lose_maps(|name| name != "holders"),
                    _ => {}
                }
            }
        }
        true
    }

    /// What was removed so far is not remembered either.
    fn lose_holders(&mut self) {
        let world = self.world.clone();
        world.disk.lose_maps(|name| name == "holders");
        if world.habits.forget {
            world.oracle.borrow_mut().forget_removed(&world);
        }
    }

    fn breaks_pc(&mut self, fault: Fault, at: usize) -> bool {
        let world = self.world.clone();
        let pc = &world.pcs[at];
        if fault == Fault::CutPcInside {
            pc.disk.cut_after(self.dice.below(40) as u64);
            return true;
        }
        let images = pc.images.borrow();
        if fault == Fault::OldPc && images.is_empty() {
            return false;
        }
        let is_silent = self.dice.one_in(2);
        self.stop_pc(at, fault != Fault::KillPc, is_silent);
        match fault {
            Fault::LosePcIndex => pc.disk.lose_maps(|_| true),
            Fault::LosePc => pc.disk.lose(),
            Fault::OldPc => pc.disk.restore(&images[self.dice.below(images.len())]),
            _ => {}
        }
        // What rotted beside a frame may be what it takes to find it without the index.
        if matches!(fault, Fault::LosePc | Fault::OldPc) || fault == Fault::LosePcIndex && pc.has_rotted.get() {
            pc.excuse(&world);
        }
        true
    }

    fn breaks_disk(&mut self, fault: Fault, at: usize) -> bool {
        let world = self.world.clone();
        let pc = &world.pcs[at];
        match fault {
            Fault::RotHost => self.rot_host(),
            Fault::RotPc => {
                let rotten = pc.disk.rot("copies", "", &mut self.dice);
                if rotten.is_some() {
                    pc.has_rotted.set(true);
                    pc.excuse(&world);
                }
                rotten.is_some()
            }
            _ => {
                let (disk, whose) = match fault == Fault::FullHost {
                    true => (&world.disk, None),
                    false => (&pc.disk, Some(at)),
                };
                if disk.is_full() {
                    return false;
                }
                disk.set_full(true);
                self.later(30, Heal::Room(whose));
                true
            }
        }
    }

    fn breaks_clock(&mut self, fault: Fault, at: usize) -> bool {
        let world = self.world.clone();
        if fault == Fault::Sleep {
            let longest = [60, 3600, 12 * 3600, 40 * 86_400][self.dice.below(4)];
            let slept = Duration::from_secs(1 + self.dice.below(longest) as u64);
            self.sleep(slept);
            return true;
        }
        let years = self.dice.below(41) as i64 - 20;
        let skew = if fault == Fault::ClockHost { &world.skew } else { &world.pcs[at].skew };
        skew.store(years * 365 * 86_400_000_000_000, Ordering::Relaxed);
        if fault == Fault::ClockHost && world.habits.forget {
            // Some clocks are only somewhat wrong.
            if self.dice.one_in(2) {
                let days = self.dice.below(121) as i64 - 60;
                world.skew.store(days * 86_400_000_000_000, Ordering::Relaxed);
            }
            self.later(30, Heal::Clock);
        }
        true
    }

    /// The administrator has something to do.
    fn orders(&mut self, fault: Fault, at: usize) -> bool {
        let has_joined = self.world.pcs[at].has_joined.get();
        let command = match fault {
            Fault::Collect if self.dice.one_in(3) => Command::CollectAndCut(self.dice.below(200) as u64),
            Fault::Collect => Command::Collect,
            _ if self.world.pcs[at].is_clone() => return false,
            Fault::Join if !has_joined => Command::Invite(at),
            Fault::Forget if has_joined && self.dice.one_in(3) => Command::Forget(at),
            Fault::Drain if has_joined => Command::Drain(at, self.dice.one_in(2)),
            _ => return false,
        };
        self.world.commands.borrow_mut().push_back(command);
        true
    }

    /// The host's disk is lost, and a copy made earlier takes its place. Whoever joined since joins again.
    fn bring_back_host(&mut self) {
        let world = self.world.clone();
        let is_silent = self.dice.one_in(2);
        self.stop_host(true, is_silent);
        let at = self.dice.below(self.images.len());
        let (image, acknowledged) = &self.images[at];
        world.disk.restore(image);
        world.oracle.borrow_mut().go_back(acknowledged.clone());
        let members = world.members(image);
        // A copy need not have the map of holders.
        if self.dice.one_in(2) {
            world.disk.lose_maps(|name| name == "holders");
        }
        // Of what came after the copy it knows nothing, not even what machines were told to drop.
        if world.habits.forget {
            world.pcs.iter().for_each(|pc| pc.excuse(&world));
            world.oracle.borrow_mut().forget_removed(&world);
        }
        match members {
            Err(problem) => {
                world.oracle.borrow_mut().wrong(format!("a copy of the host's disk is no office: {problem}"))
            }
            Ok(members) => (0..).zip(members).for_each(|(at, is_member)| self.join_again(at, is_member)),
        }
    }

    fn join_again(&mut self, at: usize, is_member: bool) {
        let pc = self.world.pcs[at].clone();
        if pc.has_joined.get() && !is_member {
            pc.token.take();
            if !self.down.contains(&at) {
                self.stop_pc(at, false, true);
            }
            self.world.commands.borrow_mut().push_back(Command::Invite(at));
        }
        pc.has_joined.set(is_member);
    }

    /// Bytes of a vault rot at the host.
    fn rot_host(&mut self) -> bool {
        let world = self.world.clone();
        let vaults: Vec<String> =
            world.disk.names().into_iter().filter(|name| !matches!(&name[..], "office" | "holders")).collect();
        let ending = if self.dice.one_in(2) { ".leaf" } else { ".branch" };
        let Some(vault) = vaults.get(self.dice.below(vaults.len())) else { return false };
        let elsewhere = world.pcs.iter().filter(|pc| pc.has_joined.get()).flat_map(|pc| pc.on_disk(&world)).collect();
        let Some(file) = world.disk.rot(vault, ending, &mut self.dice) else { return false };
        self.note(format_args!("{file} rots"));
        world.oracle.borrow_mut().rot(&elsewhere);
        true
    }

    /// The host does not run any more. Silently: nobody hears of it.
    pub(super) fn stop_host(&mut self, is_cut: bool, is_silent: bool) {
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

    pub(super) fn stop_pc(&mut self, at: usize, is_cut: bool, is_silent: bool) {
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

    /// Mends something that broke.
    pub(super) fn heal(&mut self, heal: Heal) {
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
            Heal::Clock => {
                if world.skew.swap(0, Ordering::Relaxed) != 0 || world.is_calm.get() {
                    world.commands.borrow_mut().push_back(Command::ClockIsRight);
                }
            }
            Heal::OneOfTwo => self.end_double(),
            Heal::StartPc(at) if world.pcs[at].is_off.get() => {}
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
}
