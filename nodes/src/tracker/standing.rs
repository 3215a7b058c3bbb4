//! How terminals have done what they were asked: who failed rests, and others are asked; longer each time, up to a bound.
//!
//! Nothing of it is kept: with the host everybody begins anew. Times are of a clock that never goes back.

use std::collections::HashMap;
use std::time::Duration;

use super::MachineNumber;

/// How long a terminal rests after the first failure; doubled with each one more, …
pub const REST_MIN: Duration = Duration::from_secs(10);
/// … up to this: an hour after it is well again it takes part again.
pub const REST_MAX: Duration = Duration::from_secs(3600);

/// The same for one whose line broke, which may be switched off at will: a moment after it is back it takes part again.
pub const GONE_MAX: Duration = Duration::from_secs(40);

/// What a terminal did wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Its line broke while it was at it.
    Gone,
    /// It did not do what it was asked, or did not answer.
    Failed,
    /// It said what is not so.
    Lied,
}

/// A terminal that rests, or is to do well before it is forgotten that it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rest {
    /// Failures that count.
    pub failures: u32,
    /// The worst of them.
    pub fault: Fault,
    /// Until then it is given nothing.
    pub until: Duration,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Standing(HashMap<MachineNumber, Rest>);

impl Standing {
    /// It failed at what it was asked.
    pub fn failed(&mut self, machine: MachineNumber, fault: Fault, now: Duration) {
        let rest = self.0.entry(machine).or_insert(Rest { failures: 0, fault, until: now });
        rest.failures = rest.failures.saturating_add(1);
        rest.fault = rest.fault.max(fault);
        let doublings = rest.failures.saturating_sub(1).min(16);
        let most = if fault == Fault::Gone { GONE_MAX } else { REST_MAX };
        rest.until = rest.until.max(now + REST_MIN.saturating_mul(1 << doublings).min(most));
    }

    /// It has taken what it was sent. That says nothing of one that lied.
    pub fn took(&mut self, machine: MachineNumber, now: Duration) {
        if self.0.get(&machine).is_some_and(|rest| rest.fault < Fault::Lied) {
            self.better(machine, now);
        }
    }

    /// It has shown that it holds what it said.
    pub fn proved(&mut self, machine: MachineNumber, now: Duration) {
        self.better(machine, now);
    }

    fn better(&mut self, machine: MachineNumber, now: Duration) {
        let Some(rest) = self.0.get_mut(&machine) else { return };
        // A failure a minute and a proof a minute are no rest: one that failed often proves often.
        rest.failures -= 1;
        if rest.failures == 0 {
            self.0.remove(&machine);
            return;
        }
        rest.until = rest.until.min(now + REST_MIN.saturating_mul(1 << (rest.failures - 1).min(16)).min(REST_MAX));
    }

    /// How it stands; nothing for one that did nothing wrong, or has made up for it.
    pub fn of(&self, machine: MachineNumber) -> Option<Rest> {
        self.0.get(&machine).copied()
    }

    /// Whether it is given nothing now.
    pub fn rests(&self, machine: MachineNumber, now: Duration) -> bool {
        self.of(machine).is_some_and(|rest| rest.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: MachineNumber = MachineNumber(1);

    fn left(standing: &Standing, now: u64) -> u64 {
        let until = standing.of(ONE).map_or(Duration::ZERO, |rest| rest.until);
        until.saturating_sub(Duration::from_secs(now)).as_secs()
    }

    #[test]
    fn who_fails_rests_longer_each_time_and_not_for_ever() {
        let mut standing = Standing::default();
        let mut now = 0;
        let mut rests = Vec::new();
        for _ in 0..12 {
            assert!(!standing.rests(ONE, Duration::from_secs(now)));
            standing.failed(ONE, Fault::Failed, Duration::from_secs(now));
            rests.push(left(&standing, now));
            now += left(&standing, now);
        }
        assert_eq!(rests, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]);
        assert!(!standing.rests(MachineNumber(2), Duration::ZERO));
        let mut standing = Standing::default();
        let mut often = |_| {
            standing.failed(ONE, Fault::Gone, Duration::from_secs(now));
            left(&standing, now)
        };
        assert_eq!((0..5).map(&mut often).collect::<Vec<_>>(), [10, 20, 40, 40, 40], "its line breaks");
        standing.failed(ONE, Fault::Failed, Duration::from_secs(now));
        assert_eq!(left(&standing, now), 320);
    }

    #[test]
    fn who_does_well_comes_back_and_who_lied_shows_it() {
        let at = Duration::from_secs(1000);
        let mut standing = Standing::default();
        (0..3).for_each(|_| standing.failed(ONE, Fault::Failed, at));
        assert_eq!((left(&standing, 1000), standing.of(ONE).unwrap().failures), (40, 3));
        (0..3).for_each(|_| standing.took(ONE, at));
        assert_eq!((standing.of(ONE), standing.rests(ONE, at)), (None, false));
        standing.failed(ONE, Fault::Failed, at);
        standing.failed(ONE, Fault::Lied, at);
        standing.took(ONE, at);
        assert_eq!(standing.of(ONE).map(|rest| (rest.failures, rest.fault)), Some((2, Fault::Lied)));
        standing.proved(ONE, at);
        assert!(standing.rests(ONE, at), "once is not enough");
        standing.proved(ONE, at);
        assert!(!standing.rests(ONE, at));
    }
}
