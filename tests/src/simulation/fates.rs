//! What members said of their snapshots, and what may have become of these: a plain model, that knows of records only
//! who said what, when, and what was answered.
//!
//! What always holds: a snapshot may be gone only if somebody asked for that so long after somebody had wanted to
//! forget it, and had not brought it back, that the host had run for the whole window in between. The wall clock is not
//! asked: it may say anything.

use std::collections::BTreeMap;
use std::time::Duration;
use twinkeep_nodes::tracker::limits::LOCK_DAYS;

/// So long the host runs before what was forgotten goes. It counts whole seconds.
const WINDOW: Duration = Duration::from_secs(LOCK_DAYS as u64 * 86_400 - 5);

/// What is said of snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// They are not wanted.
    Forget,
    /// They are wanted again.
    Undelete,
    /// They are to hold nothing back any more.
    Purge,
    /// The clock is right, or something else of no snapshot.
    Other,
}

/// What was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// Nothing that says whether it stands there.
    None,
    /// It stands there.
    Taken,
}

/// A record that somebody wanted to have in the chain.
#[derive(Clone, Debug)]
struct Change {
    said: Said,
    /// Of which snapshots.
    of: Vec<u64>,
    /// How long the host had run when it was asked for.
    ran: Duration,
    answer: Answer,
}

/// What may have become of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fate {
    /// Since when it may be forgotten, as long as the host has run.
    since: Option<Duration>,
    /// It is, beyond doubt.
    pub is_forgotten: bool,
    /// It may hold nothing back any more.
    pub may_be_gone: bool,
    /// It does not, beyond doubt.
    pub is_gone: bool,
}

impl Fate {
    /// Whether it is wanted, beyond doubt.
    pub fn is_live(&self) -> bool {
        self.since.is_none() && !self.may_be_gone
    }
}

/// What was said of the snapshots of one vault.
#[derive(Clone, Default, Debug)]
pub struct Fates {
    /// By the place in the chain that each was made for. Of several that were made for one at most one is there.
    changes: BTreeMap<u64, Vec<Change>>,
}

impl Fates {
    /// Somebody asks for a change in this place of the chain, when the host has run for so long.
    pub fn ask(&mut self, count: u64, said: Said, of: &[u64], ran: Duration) -> usize {
        let here = self.changes.entry(count).or_default();
        here.push(Change { said, of: of.to_vec(), ran, answer: Answer::None });
        here.len() - 1
    }

    /// It is not there.
    pub fn refuse(&mut self, count: u64, at: usize) {
        if let Some(change) = self.changes.get_mut(&count).and_then(|here| here.get_mut(at)) {
            change.of.clear();
        }
    }

    /// It is there. Fails where another is, or where it lets something go before its time.
    pub fn take(&mut self, count: u64, at: usize) -> Result<(), String> {
        let here = self.changes.entry(count).or_default();
        if here.iter().any(|change| change.answer == Answer::Taken) {
            return Err(format!("two changes were both taken as record {count}"));
        }
        let Some(change) = here.get_mut(at) else { return Ok(()) };
        change.answer = Answer::Taken;
        let (said, of) = (change.said, change.of.clone());
        if said != Said::Purge {
            return Ok(());
        }
        match of.iter().find(|snapshot| !self.fate(**snapshot).may_be_gone) {
            Some(early) => Err(format!("record {count} let snapshot {early} go before its window was over")),
            None => Ok(()),
        }
    }

    /// A record of another kind is in this place.
    pub fn occupy(&mut self, count: u64) {
        self.changes.remove(&count);
    }

    /// What may have become of a snapshot.
    pub fn fate(&self, snapshot: u64) -> Fate {
        let mut fate = Fate::default();
        for here in self.changes.values() {
            let taken = here.iter().find(|change| change.answer == Answer::Taken);
            let possible = here.iter().filter(|_| taken.is_none()).chain(taken);
            possible.filter(|change| change.of.contains(&snapshot)).for_each(|change| fate.step(change));
        }
        fate
    }
}

impl Fate {
    fn step(&mut self, change: &Change) {
        let is_sure = change.answer == Answer::Taken;
        match change.said {
            Said::Forget => {
                self.since = self.since.or(Some(change.ran));
                self.is_forgotten |= is_sure;
            }
            // What was purged is not brought back, so this was not.
            Said::Undelete if is_sure => *self = Self::default(),
            Said::Undelete => self.is_forgotten = false,
            Said::Purge if self.since.is_some_and(|since| change.ran.saturating_sub(since) >= WINDOW) => {
                self.may_be_gone = true;
                self.is_gone |= is_sure;
            }
            Said::Purge | Said::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * DAY)
    }

    #[test]
    fn what_may_be_gone_was_forgotten_for_a_window() {
        let mut fates = Fates::default();
        let forget = fates.ask(5, Said::Forget, &[1, 2], days(0));
        assert!(!fates.fate(1).is_live() && !fates.fate(1).is_forgotten, "nobody knows");
        fates.take(5, forget).unwrap();
        assert!(fates.fate(1).is_forgotten && fates.fate(3).is_live());
        let early = fates.ask(6, Said::Purge, &[1], days(29));
        assert!(!fates.fate(1).may_be_gone, "whatever was answered");
        assert!(fates.clone().take(6, early).is_err());
        fates.refuse(6, early);
        let back = fates.ask(6, Said::Undelete, &[2], days(29));
        let purge = fates.ask(7, Said::Purge, &[1, 2], days(31));
        assert!(fates.fate(1).may_be_gone && !fates.fate(1).is_gone);
        assert!(fates.fate(2).may_be_gone, "it may not have come back");
        fates.take(6, back).unwrap();
        assert!(fates.fate(2).is_live());
        assert!(fates.take(7, purge).is_err(), "it has come back");
        assert!(fates.fate(1).is_gone);
    }

    #[test]
    fn what_was_not_taken_did_not_happen() {
        let mut fates = Fates::default();
        fates.ask(5, Said::Forget, &[1], days(0));
        let other = fates.ask(5, Said::Other, &[], days(0));
        fates.take(5, other).unwrap();
        assert!(fates.fate(1).is_live());
        fates.ask(6, Said::Forget, &[1], days(0));
        fates.occupy(6);
        assert!(fates.fate(1).is_live());
    }
}
