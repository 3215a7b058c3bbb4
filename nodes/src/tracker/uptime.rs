//! How long the host has run in all, which records were there by when, and whether its wall clock can be believed.
//!
//! What somebody forgot goes only when it was forgotten long enough ago by the wall clock *and* by the time that the
//! host has run since, so that no clock that is set, by mistake or by somebody who wants history gone, shortens a
//! window. Once a day of its uptime the host notes how far the chain of each vault reaches: a record that stood there
//! by then is as old as that note, at least.
//!
//! While the host runs, the wall clock may differ by a day from the time that passed; more is a *jump*. At a start
//! nobody can tell how long the host was off: the clock may have gone back by a day, or ahead by 31 days, and more than
//! that is a jump. After one nothing is let go until an administrator says that the clock is right.

use super::limits::LOCK_DAYS;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use twinkeep_engine::env::Time;
use twinkeep_engine::history::{CLOCK_BACK_MAX, Jump};
use twinkeep_engine::id::VaultId;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// So long history is locked.
const LOCK: Duration = Duration::from_secs(LOCK_DAYS as u64 * 24 * 3600);

/// How far a chain reached when the host had run for so long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    uptime: Duration,
    tip: u64,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uptime {
    /// At the last look.
    uptime: Duration,
    /// What both clocks said at the last look.
    seen: (Time, Duration),
    /// What both clocks said when the wall clock was last taken for right.
    believed: (Time, Duration),
    jump: Option<Jump>,
    /// Of each vault, ascending in both.
    marks: BTreeMap<VaultId, Vec<Mark>>,
}

impl Uptime {
    /// A host starts, and has kept nothing.
    pub fn new(now: Time, elapsed: Duration) -> Self {
        let clocks = (now, elapsed);
        Self { uptime: Duration::ZERO, seen: clocks, believed: clocks, jump: None, marks: BTreeMap::new() }
    }

    /// A host starts, and has kept [`Self::state`] and [`Self::marks`]. Lines that make no sense are left out: less
    /// uptime and fewer notes make everything wait longer.
    pub fn start(now: Time, elapsed: Duration, state: &str, marks: &str) -> Self {
        let mut new = Self::new(now, elapsed);
        let mut wall = None;
        for line in state.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["uptime", secs] => new.uptime = secs.parse().map_or(new.uptime, Duration::from_secs),
                ["wall", nanos] => wall = nanos.parse().ok().map(Time).or(wall),
                ["jump", from, to] => new.jump = jump(from, to).or(new.jump),
                _ => {}
            }
        }
        for line in marks.lines() {
            let Some((vault, mark)) = mark(line) else { continue };
            // From a state that was lost since.
            if mark.uptime <= new.uptime {
                new.marks.entry(vault).or_default().push(mark);
            }
        }
        for marks in new.marks.values_mut() {
            marks.sort_by_key(|mark| mark.uptime);
            *marks = marks.iter().fold(Vec::new(), |kept, mark| with(kept, *mark));
        }
        let leap = wall.and_then(|wall| Jump::between(wall, now, 0));
        new.jump = new.jump.or(leap);
        new
    }

    /// What is to be kept at least once a minute.
    pub fn state(&self) -> String {
        let mut text = format!("uptime {}\nwall {}\n", self.uptime.as_secs(), self.seen.0.0);
        if let Some(Jump { from, to, .. }) = self.jump {
            let _ = writeln!(text, "jump {} {}", from.0, to.0);
        }
        text
    }

    /// What is to be kept when [`Self::note`] says so.
    pub fn marks(&self) -> String {
        let mut text = String::new();
        for (vault, marks) in &self.marks {
            for mark in marks {
                let _ = writeln!(text, "{} {} {}", vault.to_hex(), mark.uptime.as_secs(), mark.tip);
            }
        }
        text
    }

    /// Time has passed. Says whether the wall clock has jumped since the last look.
    pub fn look(&mut self, now: Time, elapsed: Duration) -> bool {
        self.uptime += elapsed.saturating_sub(self.seen.1);
        self.seen = (now, elapsed);
        if self.jump.is_some() {
            return false;
        }
        // Against one moment and not the last look: many small steps are as far as a large one.
        let passed = i64::try_from(elapsed.saturating_sub(self.believed.1).as_nanos()).unwrap_or(i64::MAX);
        let expected = Time(self.believed.0.0.saturating_add(passed));
        if now.0.abs_diff(expected.0) > CLOCK_BACK_MAX.unsigned_abs() {
            self.jump = Some(Jump { count: 0, from: expected, to: now });
        }
        self.jump.is_some()
    }

    /// How long the host has run, at the last look.
    pub fn uptime(&self) -> Duration {
        self.uptime
    }

    /// The jump that nobody has confirmed.
    pub fn jump(&self) -> Option<Jump> {
        self.jump
    }

    /// An administrator says that the clock is right as it stands. Gives what was asked.
    pub fn confirm(&mut self) -> Option<Jump> {
        self.believed = self.seen;
        self.jump.take()
    }

    /// The chain of a vault reaches so far now. Says whether that is to be kept.
    pub fn note(&mut self, vault: VaultId, tip: u64) -> bool {
        let marks = self.marks.entry(vault).or_default();
        let before = marks.clone();
        // Records that are not there any more, as after an older copy was put back, come again with other words.
        marks.retain(|mark| mark.tip <= tip);
        let is_due = marks.last().is_none_or(|last| last.tip < tip && self.uptime >= last.uptime + DAY);
        if is_due {
            marks.push(Mark { uptime: Duration::from_secs(self.uptime.as_secs()), tip });
        }
        // Of what is old enough the newest says all.
        let old = marks.iter().filter(|mark| mark.uptime + LOCK <= self.uptime).count();
        marks.drain(..old.saturating_sub(1));
        *marks != before
    }

    /// Records of a vault up to this count were there so long ago that what they forgot may go. 0 while there are none,
    /// and while the clock is in doubt.
    pub fn ripe(&self, vault: VaultId) -> u64 {
        if self.jump.is_some() {
            return 0;
        }
        let marks = self.marks.get(&vault).map_or(&[][..], Vec::as_slice);
        marks.iter().rfind(|mark| mark.uptime + LOCK <= self.uptime).map_or(0, |mark| mark.tip)
    }
}

/// With a mark of a later time, unless it says less than those before.
fn with(mut marks: Vec<Mark>, mark: Mark) -> Vec<Mark> {
    marks.retain(|before| before.tip <= mark.tip);
    marks.push(mark);
    marks
}

fn jump(from: &str, to: &str) -> Option<Jump> {
    Some(Jump { count: 0, from: Time(from.parse().ok()?), to: Time(to.parse().ok()?) })
}

fn mark(line: &str) -> Option<(VaultId, Mark)> {
    let mut words = line.split(' ');
    let vault = VaultId::from_hex(words.next()?)?;
    let uptime = Duration::from_secs(words.next()?.parse().ok()?);
    Some((vault, Mark { uptime, tip: words.next()?.parse().ok()? }))
}

#[cfg(test)]
mod tests;
