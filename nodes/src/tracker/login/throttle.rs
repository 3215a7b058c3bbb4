//! How often somebody may try a password.
//!
//! - Between tries at one account from one address: 1 s after a failure, twice as long after each further one, up to
//!   15 min. After [`FREE_FAILURES`] failures of an address, whatever the accounts, likewise.
//! - Within any hour: [`ACCOUNT_TRIES_MAX`] at one account from machines that are not its devices, and
//!   [`ADDRESS_TRIES_MAX`] from one address.
//! - A device of the account is a place of its own, whatever its address: 100 tries an hour and the same pauses, and
//!   nobody else can use them up.
//! - A try that is refused here does not count, so waiting always helps: the true user waits an hour at worst from
//!   elsewhere, and at one of their devices does not mind what others do.
//! - A success gives its try back, and ends the pause of that account at that address; failures of the address stay, or
//!   one's own account would wash guesses at others clean.
//!
//! Memory is bounded. Accounts that exist are counted exactly. Of unknown names and pairs the oldest give way: nothing is
//! won by it but more tries at nothing, and the hourly limits stand. When too many addresses try at once, further ones
//! wait, except with a device.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::tracker::names::{AccountId, fold};

/// Tries an hour at one account from machines that are not its devices.
pub const ACCOUNT_TRIES_MAX: usize = 10;

/// Tries an hour from one address.
pub const ADDRESS_TRIES_MAX: usize = 100;

/// Failures of an address without a pause: an office behind one address has people who mistype.
pub const FREE_FAILURES: u32 = 10;

/// Addresses, unknown names, and pairs of account and address that are remembered, each.
pub const REMEMBERED_MAX: usize = 4096;

const HOUR: Duration = Duration::from_secs(3600);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// At what somebody tries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    /// An account there is.
    Account(AccountId),
    /// A name of none, as a hash.
    Unknown([u8; 16]),
}

impl Subject {
    /// The account, or the name there is none of.
    pub fn new(account: Option<&AccountId>, name: &str) -> Self {
        let hash = blake3::hash(fold(name).as_bytes());
        let unknown = Self::Unknown(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"));
        account.map_or(unknown, |id| Self::Account(*id))
    }
}

/// From where somebody tries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Place {
    Address(IpAddr),
    /// Any device of an account, wherever it is.
    DeviceOf(Subject),
}

impl Place {
    fn new(subject: Subject, address: IpAddr, is_device: bool) -> Self {
        if is_device { Self::DeviceOf(subject) } else { Self::Address(network(address)) }
    }
}

/// Not now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many tries: wait {} s", .0.as_secs().saturating_add(1))]
pub struct Wait(pub Duration);

/// Remembers tries. Times are of a clock that never goes back.
#[derive(Debug, Default)]
pub struct Throttle {
    accounts: HashMap<Subject, Window>,
    places: HashMap<Place, Window>,
    pauses: HashMap<(Subject, Place), Pause>,
}

/// Tries within the last hour, oldest first, and failures since the last quiet hour.
#[derive(Debug, Default)]
struct Window {
    tries: VecDeque<Duration>,
    pause: Pause,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    failures: u32,
    last: Duration,
}

impl Throttle {
    /// Nobody tried yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a try, or says how long to wait. `is_device`: a device of this account proved itself before.
    ///
    /// The try counts as failed until [`Self::succeeded`] is called: tries at the same time do not slip through.
    pub fn begin(&mut self, now: Duration, subject: Subject, from: IpAddr, is_device: bool) -> Result<(), Wait> {
        let from = Place::new(subject, from, is_device);
        self.make_room(now, from)?;
        let mut wait = Duration::ZERO;
        if let Some(pause) = self.pauses.get(&(subject, from)) {
            wait = wait.max(pause.left(now, 0));
        }
        if let Some(window) = self.places.get_mut(&from) {
            wait = wait.max(window.left(now, ADDRESS_TRIES_MAX)).max(window.pause.left(now, FREE_FAILURES));
        }
        if let Some(window) = self.accounts.get_mut(&subject).filter(|_| !is_device) {
            wait = wait.max(window.left(now, ACCOUNT_TRIES_MAX));
        }
        if wait > Duration::ZERO {
            return Err(Wait(wait));
        }
        self.pauses.entry((subject, from)).or_default().fail(now);
        let place = self.places.entry(from).or_default();
        place.tries.push_back(now);
        place.pause.fail(now);
        if !is_device {
            self.accounts.entry(subject).or_default().tries.push_back(now);
        }
        Ok(())
    }

    /// The try begun last for this subject and address was a success.
    pub fn succeeded(&mut self, subject: Subject, from: IpAddr, is_device: bool) {
        let from = Place::new(subject, from, is_device);
        self.pauses.remove(&(subject, from));
        if let Some(window) = self.places.get_mut(&from) {
            window.tries.pop_back();
            window.pause.failures = window.pause.failures.saturating_sub(1);
        }
        if let Some(window) = self.accounts.get_mut(&subject).filter(|_| !is_device) {
            window.tries.pop_back();
        }
    }

    /// How many rows are held, of whatever kind.
    pub fn len(&self) -> usize {
        self.accounts.len() + self.places.len() + self.pauses.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn make_room(&mut self, now: Duration, from: Place) -> Result<(), Wait> {
        let is_old = |last: Duration| now.saturating_sub(last) >= HOUR;
        if self.places.len() >= REMEMBERED_MAX && !self.places.contains_key(&from) {
            self.places.retain(|_, window| !is_old(window.pause.last));
            if self.places.len() >= REMEMBERED_MAX {
                if let Place::Address(_) = from {
                    return Err(Wait(PAUSE_MAX));
                }
                drop_oldest(&mut self.places, |_, window| Some(window.pause.last));
            }
        }
        if self.pauses.len() >= REMEMBERED_MAX {
            self.pauses.retain(|_, pause| !is_old(pause.last));
            if self.pauses.len() >= REMEMBERED_MAX {
                drop_oldest(&mut self.pauses, |_, pause| Some(pause.last));
            }
        }
        if self.accounts.len() >= REMEMBERED_MAX {
            self.accounts.retain(|_, window| window.tries.back().is_some_and(|&last| !is_old(last)));
            if self.accounts.len() >= REMEMBERED_MAX {
                drop_oldest(&mut self.accounts, |subject, window| match subject {
                    Subject::Account(_) => None,
                    Subject::Unknown(_) => window.tries.back().copied(),
                });
            }
        }
        Ok(())
    }
}

impl Window {
    /// How long until another try is allowed; forgets tries older than an hour.
    fn left(&mut self, now: Duration, max: usize) -> Duration {
        while self.tries.front().is_some_and(|&first| now.saturating_sub(first) >= HOUR) {
            self.tries.pop_front();
        }
        match self.tries.len().checked_sub(max).and_then(|at| self.tries.get(at)) {
            Some(&first) => (first + HOUR).saturating_sub(now),
            None => Duration::ZERO,
        }
    }
}

impl Pause {
    fn fail(&mut self, now: Duration) {
        // A quiet hour, and all begins anew.
        let is_old = now.saturating_sub(self.last) >= HOUR;
        self.failures = if is_old { 1 } else { self.failures.saturating_add(1) };
        self.last = now;
    }

    /// How long until another try is allowed, after so many failures without a pause.
    fn left(&self, now: Duration, free: u32) -> Duration {
        let Some(doublings) = self.failures.checked_sub(free).and_then(|over| over.checked_sub(1)) else {
            return Duration::ZERO;
        };
        let pause = PAUSE_MIN.saturating_mul(1 << doublings.min(20)).min(PAUSE_MAX);
        self.last.saturating_add(pause).saturating_sub(now)
    }
}

/// What one attacker can have many addresses of counts as one: of public IPv6 the network of 64 bits. Addresses that
/// only neighbours have count each, or one PC could use up the tries of a whole office.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) if address.is_unicast_link_local() || address.is_unique_local() => IpAddr::V6(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Drops the row with the least mark, of equal ones that with the least key; rows without one stay.
fn drop_oldest<K: Copy + Ord + Hash, V>(rows: &mut HashMap<K, V>, mark: impl Fn(&K, &V) -> Option<Duration>) {
    let marked = rows.iter().filter_map(|(key, row)| Some((mark(key, row)?, *key)));
    if let Some((_, key)) = marked.min() {
        rows.remove(&key);
    }
}
