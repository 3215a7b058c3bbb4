//! The outside world as arguments: clock, randomness, threads. In life the system's, in simulation the test's.

use std::sync::Arc;
use std::time::Duration;

/// A point in wall-clock time: nanoseconds since 1970-01-01T00:00:00Z, negative before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub i64);

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Wall clock; may jump either way, so nothing that guards data depends on it.
    fn now(&self) -> Time;
    /// Time since some fixed moment; never goes back.
    fn elapsed(&self) -> Duration;
}

/// A source of unpredictable bytes.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` with bytes nobody can guess.
    fn fill(&self, bytes: &mut [u8]);
}

/// Runs a job on some number of workers and waits for all of them.
pub trait Executor: Send + Sync {
    /// How many workers `run` uses, at least 1.
    fn workers(&self) -> usize;
    /// Calls `job(0)` … `job(workers - 1)` and returns when all have returned.
    ///
    /// A job must be able to finish when only worker 0 runs: one worker may never wait for another to start.
    fn run(&self, job: &(dyn Fn(usize) + Sync));
}

/// The three together, cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Worker threads.
    pub executor: Arc<dyn Executor>,
}

impl Env {
    /// The system's clock and random source, and `workers` threads (at least one).
    pub fn system(workers: usize) -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
            executor: Arc::new(Threads(workers.max(1))),
        }
    }
}

/// The system's clocks.
pub struct SystemClock(std::time::Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let nanos = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
        };
        Time(nanos)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The system's random source.
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        use ring::rand::SecureRandom;
        // Without randomness no key and no nonce is safe: nothing sensible is left to do.
        ring::rand::SystemRandom::new().fill(bytes).expect("the system's random source failed");
    }
}

/// A fixed number of threads for each job.
pub struct Threads(pub usize);

impl Executor for Threads {
    fn workers(&self) -> usize {
        self.0
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for worker in 1..self.0 {
                scope.spawn(move || job(worker));
            }
            job(0);
        });
    }
}

/// Everything on the calling thread: simulation and crash enumeration repeat exactly.
pub struct Inline;

impl Executor for Inline {
    fn workers(&self) -> usize {
        1
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        job(0);
    }
}

/// Throws repeatable dice (splitmix64): for tests and simulation, never for keys.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next 64 bits.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.throw() % end as u64) as usize }
    }

    /// True once in `times` throws on average.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.throw().to_le_bytes()[..part.len()]);
        }
    }
}

/// Entropy that repeats from a seed: for tests and simulation, never for keys.
pub struct SeededEntropy(std::sync::Mutex<Dice>);

impl SeededEntropy {
    /// The bytes that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(std::sync::Mutex::new(Dice(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill(bytes);
    }
}

/// A clock that moves only when told.
#[derive(Default)]
pub struct ManualClock(std::sync::Mutex<(Time, Duration)>);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Time) -> Self {
        Self(std::sync::Mutex::new((now, Duration::ZERO)))
    }

    /// Lets `by` pass.
    pub fn advance(&self, by: Duration) {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        *state = (Time(state.0.0.saturating_add(nanos)), state.1.saturating_add(by));
    }

    /// Sets the wall clock, either way; elapsed time stays.
    pub fn set(&self, now: Time) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_and_clock_repeat() {
        let mut dice = Dice(0);
        // The published first values of splitmix64 from seed 0.
        assert_eq!([dice.throw(), dice.throw()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        assert!((0..1000).all(|_| dice.below(7) < 7) && dice.below(0) == 0);
        let (mut a, mut b) = ([0; 13], [0; 13]);
        SeededEntropy::new(5).fill(&mut a);
        SeededEntropy::new(5).fill(&mut b);
        assert_eq!(a, b);

        let clock = ManualClock::new(Time(10));
        clock.advance(Duration::from_nanos(5));
        assert_eq!((clock.now(), clock.elapsed()), (Time(15), Duration::from_nanos(5)));
        clock.set(Time(-1));
        assert_eq!((clock.now(), clock.elapsed()), (Time(-1), Duration::from_nanos(5)));
    }
}
