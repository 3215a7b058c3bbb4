//! What a scrub does next, as values: the steps of a round, the order of packs, how fast.
//!
//! Packs are taken by name, which neither a rebuild of the index nor gc changes. A round owes those that were closed
//! when it began; when they are done it takes what has come since, once, so that it ends beside backups that do not.

use crate::pack::PackName;
use std::num::NonZeroU64;
use std::time::Duration;

/// What a round is at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Step {
    /// Both copies of config and keyring.
    Twins = 0,
    /// The chain of records.
    Records = 1,
    /// The index, and whether all packs are there.
    Index = 2,
    /// Packs that were closed when the round came to them.
    Packs = 3,
    /// Packs that have come since.
    Later = 4,
    /// It is complete.
    Done = 5,
}

impl Step {
    const ALL: [Self; 6] = [Self::Twins, Self::Records, Self::Index, Self::Packs, Self::Later, Self::Done];

    /// Reads the byte that stands in a stored round.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The step after this one.
    pub(super) fn next(self) -> Self {
        Self::from_byte(self as u8 + 1).unwrap_or(Self::Done)
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Twins => "config",
            Self::Records => "records",
            Self::Index => "index",
            Self::Packs => "packs",
            Self::Later => "new packs",
            Self::Done => "done",
        }
    }
}

/// A place in the packs: everything before it is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PackPlace {
    /// The pack.
    pub name: PackName,
    /// Bytes of it that are done; [`PackPlace::END`] for all.
    pub offset: u64,
}

impl PackPlace {
    /// All of a pack.
    pub const END: u64 = u64::MAX;
}

/// The packs that a step takes, in order, from a place on. `present` are those the index has now, `listed` those that
/// were closed when the round came to the packs, ascending.
pub(super) fn to_read(
    present: impl Iterator<Item = PackName>,
    listed: &[PackName],
    step: Step,
    place: Option<PackPlace>,
) -> Vec<PackName> {
    let is_due = |name: &PackName| match place {
        Some(place) if crate::zoo::planted("scrub-skips-after-resume") => *name > place.name,
        Some(place) => *name > place.name || *name == place.name && place.offset != PackPlace::END,
        None => true,
    };
    let is_of_step = |name: &PackName| listed.binary_search(name).is_ok() == (step == Step::Packs);
    let mut names: Vec<PackName> = present.filter(is_of_step).filter(is_due).collect();
    names.sort_unstable();
    names
}

/// Longest single wait, so that whoever asks for an end is heard.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// Keeps a rate: what is read is paid for by waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    rate: Option<NonZeroU64>,
    free_at: Duration,
}

impl Pace {
    /// At most `rate` bytes a second on average; `None` for as fast as can be.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, free_at: Duration::ZERO }
    }

    /// Bytes to read at a time: a quarter of a second's worth, within what suits a disk.
    pub fn window(&self) -> usize {
        const LEAST: u64 = 256 << 10;
        const MOST: u64 = 8 << 20;
        self.rate.map_or(MOST, |rate| (rate.get() / 4).clamp(LEAST, MOST)) as usize
    }

    /// So many bytes were read at `now`. Time that was not used is not saved up.
    pub fn spend(&mut self, bytes: u64, now: Duration) {
        let Some(rate) = self.rate else { return };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(now).saturating_add(cost);
    }

    /// How long to wait before asking again; `None` when the next read may begin.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        (self.free_at > now).then(|| (self.free_at - now).min(WAIT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Kind, SessionId};

    fn name(number: u32) -> PackName {
        PackName { session: SessionId([number as u8; 16]), kind: Kind::Leaf, number }
    }

    #[test]
    fn every_pack_is_taken_once_wherever_it_goes_on() {
        let all = || [5, 1, 9, 3, 7].into_iter().map(name);
        let listed = [1, 3, 4, 7].map(name);
        let take = |step, place| to_read(all(), &listed, step, place);
        assert_eq!(take(Step::Packs, None), [1, 3, 7].map(name));
        assert_eq!(take(Step::Later, None), [5, 9].map(name));
        let at = |number, offset| Some(PackPlace { name: name(number), offset });
        assert_eq!(take(Step::Packs, at(3, 0)), [3, 7].map(name));
        assert_eq!(take(Step::Packs, at(3, 64)), [3, 7].map(name));
        assert_eq!(take(Step::Packs, at(3, PackPlace::END)), [7].map(name));
        // The pack it stood in was dropped.
        assert_eq!(take(Step::Packs, at(4, 100)), [7].map(name));
        assert_eq!(take(Step::Later, at(9, PackPlace::END)), []);
    }

    #[test]
    fn a_rate_is_kept_and_idle_time_is_not_saved_up() {
        let secs = Duration::from_secs_f64;
        let mut pace = Pace::new(NonZeroU64::new(1000));
        assert_eq!((pace.wait(secs(0.0)), pace.window()), (None, 256 << 10));
        pace.spend(500, secs(0.0));
        pace.spend(500, secs(0.0));
        assert_eq!(pace.wait(secs(0.0)), Some(WAIT_MAX));
        assert_eq!(pace.wait(secs(0.9)), Some(secs(0.1)));
        assert_eq!(pace.wait(secs(1.0)), None);
        pace.spend(100, secs(100.0));
        assert_eq!((pace.wait(secs(100.0)), pace.wait(secs(100.1))), (Some(secs(0.1)), None));
        let mut free = Pace::new(None);
        free.spend(u64::MAX, secs(0.0));
        assert_eq!((free.wait(secs(0.0)), free.window()), (None, 8 << 20));
        let mut slow = Pace::new(NonZeroU64::new(1));
        slow.spend(u64::MAX, secs(0.0));
        assert_eq!(slow.wait(secs(1.0)), Some(WAIT_MAX));
    }

    #[test]
    fn steps_follow_each_other() {
        let mut step = Step::Twins;
        for expected in Step::ALL {
            assert_eq!((step, Step::from_byte(step as u8)), (expected, Some(expected)));
            step = step.next();
        }
        assert_eq!((step, Step::from_byte(6)), (Step::Done, None));
    }
}
