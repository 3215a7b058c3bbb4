//! Who is there, and who was away so long that its copies are to be made anew.
//!
//! A terminal beats every five seconds; silent for fifteen it is suspect, for thirty offline. An hour *counts* when at
//! least half of the usual terminals were online at some time in it, so that nights and holidays do not; a terminal not
//! online in an hour that counts is missed for it. Missed for the grace time, one after another without being online in
//! between, it is lost. But when over a third of the terminals are missing at once, something else happened than that
//! PCs broke: nobody is lost then until an admin has said so.
//!
//! Time here is how long the tracker has been running since some moment, never the wall clock: a jump of the clock loses
//! nobody, and hours in which the tracker was off do not count. What a restart forgets is at most the hour begun.

use super::MachineNumber;
use super::limits::{GRACE_HOURS, MISSING_HOURS, OFFLINE_SECS, SUSPECT_SECS};
use std::collections::BTreeMap;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// Is a machine there?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Presence {
    /// It was heard of lately.
    Online,
    /// It missed two beats: nothing new is sent to it.
    Suspect,
    /// It is not running, or cannot be reached.
    Offline,
}

/// What is kept of a terminal over restarts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedTerminal {
    /// Its number.
    pub machine: MachineNumber,
    /// Hours that counted since it was last online.
    pub hours_missed: u32,
    /// Its copies were given up.
    pub is_lost: bool,
}

/// Something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time went by; at least once in a few seconds.
    Tick,
    /// A terminal joined, or is to be followed.
    Joined(MachineNumber),
    /// A heartbeat, or any other sign of life.
    Beat(MachineNumber),
    /// Its connection ended: it is suspect at once.
    Closed(MachineNumber),
    /// An admin forgot it.
    Forgotten(MachineNumber),
    /// An admin answers that those missing now are gone: they are lost at once.
    GiveUpMissing,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It is seen otherwise from now on.
    Show(MachineNumber, Presence),
    /// Its copies do not count any more: forget what it holds, which is owed then. A tracker that starts goes on with
    /// those in [`Roster::lost`].
    Lose(MachineNumber),
    /// One that was lost is back: what it holds counts again when it has proven it.
    Welcome(MachineNumber),
    /// Over a third is missing: make no copies of what missing terminals hold, and ask an admin.
    StopAndAsk {
        /// Terminals that are missing.
        missing: usize,
        /// Of so many.
        all: usize,
    },
    /// Enough are back, or the admin answered.
    GoOn,
    /// What [`Roster::save`] gives has changed.
    Save,
}

#[derive(Clone, Debug)]
struct Terminal {
    saved: SavedTerminal,
    /// When it was last heard of; none since the start is as if it had been heard of then.
    heard: Duration,
    shown: Presence,
    /// Was it online in the hour that runs?
    online_in_hour: bool,
}

/// The terminals of an office.
#[derive(Clone, Debug)]
pub struct Roster {
    terminals: BTreeMap<MachineNumber, Terminal>,
    hour_began: Duration,
    is_stopped: bool,
}

impl Roster {
    /// A tracker starts at `now` with what it saved. Every terminal is offline until it is heard of.
    pub fn start(now: Duration, saved: &[SavedTerminal]) -> Self {
        let offline = |&saved: &SavedTerminal| {
            let terminal = Terminal { saved, heard: now, shown: Presence::Offline, online_in_hour: false };
            (saved.machine, terminal)
        };
        let mut roster = Self { terminals: saved.iter().map(offline).collect(), hour_began: now, is_stopped: false };
        // Asked before, and asked again only if more go missing.
        roster.is_stopped = roster.is_too_many(roster.missing());
        roster
    }

    /// What must survive a restart.
    pub fn save(&self) -> Vec<SavedTerminal> {
        self.terminals.values().map(|terminal| terminal.saved).collect()
    }

    /// How a terminal is seen; one that never joined is offline.
    pub fn presence(&self, machine: MachineNumber) -> Presence {
        self.terminals.get(&machine).map_or(Presence::Offline, |terminal| terminal.shown)
    }

    /// Whether repair of what missing terminals hold waits for an admin.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Terminals that are lost and did not come back: they hold nothing, or are being forgotten.
    pub fn lost(&self) -> impl Iterator<Item = MachineNumber> {
        self.terminals.values().filter(|terminal| terminal.saved.is_lost).map(|terminal| terminal.saved.machine)
    }

    /// Takes note of an event at `now`, which never goes back.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let before = self.save();
        self.close_hours(now, &mut actions);
        match event {
            Event::Tick => {}
            Event::Joined(machine) => self.join(now, machine),
            Event::Beat(machine) => self.beat(now, machine, &mut actions),
            Event::Closed(machine) => self.close(now, machine),
            Event::Forgotten(machine) => _ = self.terminals.remove(&machine),
            Event::GiveUpMissing => self.lose(MISSING_HOURS, &mut actions),
        }
        self.show(now, &mut actions);
        self.ask(&mut actions);
        if !self.is_stopped {
            self.lose(GRACE_HOURS, &mut actions);
        }
        if self.save() != before {
            actions.push(Action::Save);
        }
        actions
    }

    fn join(&mut self, now: Duration, machine: MachineNumber) {
        let saved = SavedTerminal { machine, hours_missed: 0, is_lost: false };
        let terminal = Terminal { saved, heard: now, shown: Presence::Offline, online_in_hour: false };
        self.terminals.entry(machine).or_insert(terminal);
    }

    fn beat(&mut self, now: Duration, machine: MachineNumber, actions: &mut Vec<Action>) {
        let Some(terminal) = self.terminals.get_mut(&machine) else { return };
        if terminal.saved.is_lost {
            actions.push(Action::Welcome(machine));
        }
        if terminal.shown != Presence::Online {
            actions.push(Action::Show(machine, Presence::Online));
        }
        terminal.saved = SavedTerminal { machine, hours_missed: 0, is_lost: false };
        (terminal.heard, terminal.shown, terminal.online_in_hour) = (now, Presence::Online, true);
    }

    fn close(&mut self, now: Duration, machine: MachineNumber) {
        let silent_since = now.saturating_sub(Duration::from_secs(SUSPECT_SECS));
        if let Some(terminal) = self.terminals.get_mut(&machine) {
            terminal.heard = terminal.heard.min(silent_since);
        }
    }

    /// Silence changes how terminals are seen; only a beat brings one back.
    fn show(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for (&machine, terminal) in &mut self.terminals {
            let seen = match now.saturating_sub(terminal.heard).as_secs() {
                0..SUSPECT_SECS => Presence::Online,
                SUSPECT_SECS..OFFLINE_SECS => Presence::Suspect,
                _ => Presence::Offline,
            };
            if seen > terminal.shown {
                terminal.shown = seen;
                actions.push(Action::Show(machine, seen));
            }
        }
    }

    /// Ends the hours that are over. Of a time nobody stepped through, as in sleep, only the first hour can count.
    fn close_hours(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if now.saturating_sub(self.hour_began) < HOUR {
            return;
        }
        self.hour_began = now;
        // Who went silent in time is not online in the hour that begins.
        self.show(now, actions);
        let usual = self.usual();
        let online = self.terminals.values().filter(|terminal| terminal.online_in_hour).count();
        let counts = 2 * online >= usual;
        for terminal in self.terminals.values_mut() {
            if counts && !terminal.online_in_hour {
                terminal.saved.hours_missed = terminal.saved.hours_missed.saturating_add(1);
            }
            terminal.online_in_hour = terminal.shown == Presence::Online;
        }
    }

    fn missing(&self) -> usize {
        self.terminals.values().filter(|terminal| is_missed(terminal, MISSING_HOURS)).count()
    }

    fn is_too_many(&self, missing: usize) -> bool {
        3 * missing > self.usual()
    }

    fn usual(&self) -> usize {
        self.terminals.values().filter(|terminal| !terminal.saved.is_lost).count()
    }

    fn ask(&mut self, actions: &mut Vec<Action>) {
        let missing = self.missing();
        let must_stop = self.is_too_many(missing);
        if must_stop && !self.is_stopped {
            actions.push(Action::StopAndAsk { missing, all: self.usual() });
        }
        if !must_stop && self.is_stopped {
            actions.push(Action::GoOn);
        }
        self.is_stopped = must_stop;
    }

    fn lose(&mut self, hours: u32, actions: &mut Vec<Action>) {
        for (&machine, terminal) in self.terminals.iter_mut().filter(|(_, terminal)| is_missed(terminal, hours)) {
            terminal.saved.is_lost = true;
            actions.push(Action::Lose(machine));
        }
    }
}

fn is_missed(terminal: &Terminal, hours: u32) -> bool {
    !terminal.saved.is_lost && terminal.saved.hours_missed >= hours
}

#[cfg(test)]
mod tests;
