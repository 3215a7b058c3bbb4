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
