//! What is left to do when everything was mended: windows end, what was forgotten goes, and nothing else does.

use super::{Driver, LOOK, MENDED};
use crate::simulation::world::{Command, Wish};
use std::sync::atomic::Ordering;
use std::time::Duration;

const DAY: u64 = 86_400;

/// After so long the host has looked at its clocks and done what was due by them.
const NOTICED: Duration = Duration::from_secs(25);

/// Members have done what they were to do after this.
const DONE: Duration = Duration::from_secs(10 * 60);

impl Driver<'_> {
    /// Every machine sleeps: clocks go on, timers do not.
    pub(super) fn sleep(&mut self, slept: Duration) {
        self.world.slept.fetch_add(slept.as_nanos() as u64, Ordering::Relaxed);
        self.note(format_args!("all sleep for {} s", slept.as_secs()));
    }

    /// A month passes, or a little less.
    pub(super) fn month(&mut self) {
        let days = if self.dice.one_in(3) { 10 + self.dice.below(20) } else { 30 + self.dice.below(3) };
        let secs = days as u64 * DAY + self.dice.below(7200) as u64;
        self.sleep(Duration::from_secs(secs));
        // A host that was off for so long asks.
        if self.dice.one_in(3) {
            self.world.commands.borrow_mut().push_back(Command::ClockIsRight);
        }
    }

    /// Snapshots are brought back, forgotten and let go, and space is freed, until nothing is left to do.
    pub(super) fn age(&mut self) -> Result<(), String> {
        if !self.world.pcs.iter().any(|pc| pc.is_part()) {
            return Ok(());
        }
        self.wish(Wish::Recall)?;
        self.pass_month()?;
        self.wish(Wish::Forget)?;
        // The host takes note of it at the end of the first, and counts from there.
        self.pass_month()?;
        self.pass_month()?;
        self.wish(Wish::Purge)?;
        for _ in 0..2 {
            self.sleep(Duration::from_secs(DAY + 60));
            self.wait(NOTICED)?;
        }
        self.until(MENDED, |driver| {
            // Nobody knows what it needs that cannot be read.
            let can_tell = !driver.world.oracle.borrow().has_rotted();
            let left = || driver.world.oracle.borrow().not_gone(&driver.world);
            driver.unmended().or_else(|| can_tell.then(left).flatten())
        })
    }

    fn pass_month(&mut self) -> Result<(), String> {
        self.sleep(Duration::from_secs(30 * DAY + 7200));
        self.wait(NOTICED)
    }

    fn wait(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now() + time;
        while self.now() < end {
            self.step()?;
        }
        self.look()
    }

    /// All members do something.
    fn wish(&mut self, wish: Wish) -> Result<(), String> {
        let count = self.world.users.borrow().len();
        *self.world.wishes.borrow_mut() = (0..count).map(|at| (at, wish)).collect();
        self.until(DONE, |driver| {
            let left = driver.world.wishes.borrow().len();
            (left > 0).then(|| format!("{left} members could not {wish:?}"))
        })
    }

    /// Goes on until nothing is told.
    pub(super) fn until(&mut self, time: Duration, left: impl Fn(&Self) -> Option<String>) -> Result<(), String> {
        let end = self.now() + time;
        let mut look = self.now();
        loop {
            self.step()?;
            if self.now() < look {
                continue;
            }
            look = self.now() + LOOK;
            match left(self) {
                None => return self.look(),
                Some(problem) if self.now() > end => {
                    return Err(format!("{} s after it was asked for: {problem}", time.as_secs()));
                }
                Some(_) => {}
            }
        }
    }
}
