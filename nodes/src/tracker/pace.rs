//! How much of the log those may fill who do not run the office: machines and accounts.
//!
//! What happens again and again is told as a number: [`Pace::again`]. What changes the office each time is refused when it
//! is too often: [`Pace::change`]. Nothing here is kept: with the host everything begins anew. Times are of a clock that
//! never goes back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::event::AuditKind;
use super::login::Wait;
use super::names::{AccountId, NodeKey};

/// So often in an hour something is told each time; from then on when it is twice as often as it was told.
pub const TOLD_EACH: u64 = 8;

/// What is remembered at a time of what happens again and again.
pub const REMEMBERED_MAX: usize = 4096;

/// Changes that one may make at once …
pub const CHANGES_AT_ONCE: u32 = 64;
/// … and then one in so long a time: 288 a day, a hundred kilobytes of log.
pub const CHANGE_EVERY: Duration = Duration::from_secs(300);

const HOUR: Duration = Duration::from_secs(3600);

/// What happens again: what, to which account, on which machine, from where.
pub type Again = (AuditKind, Option<AccountId>, NodeKey, IpAddr);

/// Who changes something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Who {
    /// A machine.
    Node(NodeKey),
    /// An account by its password, or by one of its devices, which take nothing from it.
    Account(AccountId, bool),
}

/// How often something has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// In the hour that has begun with the first.
    pub now: u64,
    /// In the hour before, if that was not told yet.
    pub before: u64,
}

impl Times {
    /// In words, to be put behind what happened; nothing where it stands for itself.
    pub fn words(&self) -> String {
        let mut words = String::new();
        if self.now > TOLD_EACH {
            words = format!(", {} times within an hour", self.now);
        }
        if self.before > 0 {
            words = format!("{words}, {} times in the hour before", self.before);
        }
        words
    }
}

#[derive(Clone, Copy, Default)]
struct Repeat {
    since: Duration,
    count: u64,
    told: u64,
}

/// See the module.
#[derive(Default)]
pub struct Pace {
    repeats: HashMap<Again, Repeat>,
    /// When all that somebody has used up is given back.
    changes: HashMap<Who, Duration>,
}

impl Pace {
    /// Something has happened once more. Gives how often, if it is to be told now.
    pub fn again(&mut self, now: Duration, what: Again) -> Option<Times> {
        self.make_room(now, &what);
        let repeat = self.repeats.entry(what).or_insert(Repeat { since: now, ..Repeat::default() });
        let mut before = 0;
        if now.saturating_sub(repeat.since) >= HOUR {
            before = if repeat.count > repeat.told { repeat.count } else { 0 };
            *repeat = Repeat { since: now, ..Repeat::default() };
        }
        repeat.count += 1;
        let is_told = repeat.count <= TOLD_EACH || repeat.count >= 2 * repeat.told;
        if is_told {
            repeat.told = repeat.count;
        }
        is_told.then_some(Times { now: repeat.count, before })
    }

    /// Somebody changes something.
    ///
    /// # Errors
    /// It is too often: so long is to be waited.
    pub fn change(&mut self, now: Duration, who: Who) -> Result<(), Wait> {
        self.changes.retain(|_, free| *free > now);
        let free = self.changes.entry(who).or_insert(now);
        let next = *free + CHANGE_EVERY;
        let latest = now + CHANGE_EVERY * CHANGES_AT_ONCE;
        if next > latest {
            return Err(Wait(next - latest));
        }
        *free = next;
        Ok(())
    }

    fn make_room(&mut self, now: Duration, what: &Again) {
        if self.repeats.len() < REMEMBERED_MAX || self.repeats.contains_key(what) {
            return;
        }
        self.repeats.retain(|_, repeat| now.saturating_sub(repeat.since) < HOUR || repeat.count > repeat.told);
        if self.repeats.len() >= REMEMBERED_MAX
            && let Some(oldest) = self.repeats.iter().min_by_key(|(_, repeat)| repeat.since).map(|(what, _)| *what)
        {
            self.repeats.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const SECOND: Duration = Duration::from_secs(1);

    fn login(account: u8, host: u8) -> Again {
        let (account, address) = (Some(AccountId([account; 16])), IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)));
        (AuditKind::Login, account, NodeKey([1; 32]), address)
    }

    #[test]
    fn what_happens_again_and_again_is_told_as_a_number() {
        let mut pace = Pace::default();
        let told: Vec<Times> = (0..1000).filter_map(|at| pace.again(SECOND * at, login(1, 1))).collect();
        let now: Vec<u64> = told.iter().map(|times| times.now).collect();
        assert_eq!(now, [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!((told[0].words(), told[8].words()), (String::new(), ", 16 times within an hour".to_owned()));
        // Others, and other places, are told for themselves.
        assert_eq!(pace.again(SECOND, login(2, 1)), Some(Times { now: 1, before: 0 }));
        assert_eq!(pace.again(SECOND, login(1, 2)), Some(Times { now: 1, before: 0 }));
        // What was not told is told in the end.
        let next = pace.again(HOUR, login(1, 1)).unwrap();
        assert_eq!(next, Times { now: 1, before: 1000 });
        assert_eq!(next.words(), ", 1000 times in the hour before");
        assert_eq!(pace.again(HOUR * 2, login(1, 1)), Some(Times { now: 1, before: 0 }));
    }

    #[test]
    fn no_more_is_remembered_than_may_be() {
        let mut pace = Pace::default();
        for number in 0..2 * REMEMBERED_MAX as u32 {
            let address = IpAddr::V4(Ipv4Addr::from_bits(number));
            assert!(pace.again(SECOND, (AuditKind::Login, None, NodeKey([1; 32]), address)).is_some());
        }
        assert_eq!(pace.repeats.len(), REMEMBERED_MAX);
    }

    #[test]
    fn changes_are_so_many_at_once_and_then_wait() {
        let mut pace = Pace::default();
        let (anna, device) = (Who::Account(AccountId([1; 16]), false), Who::Account(AccountId([1; 16]), true));
        assert!((0..CHANGES_AT_ONCE).all(|_| pace.change(SECOND, device).is_ok()));
        assert_eq!(pace.change(SECOND, device), Err(Wait(CHANGE_EVERY)));
        // A device takes nothing from who has the password.
        pace.change(SECOND, anna).unwrap();
        assert!(pace.change(SECOND * 300, device).is_err());
        pace.change(SECOND * 301, device).unwrap();
        assert!(pace.change(SECOND * 301, device).is_err());
        let later = SECOND + CHANGE_EVERY * 2 * CHANGES_AT_ONCE;
        let made = (0..).take_while(|_| pace.change(later, device).is_ok()).count();
        assert_eq!(made, CHANGES_AT_ONCE as usize, "no more is saved up");
        assert_eq!(pace.changes.len(), 1, "who has waited is forgotten");
    }
}
