//! Whether the threads that serve still do: each says so again and again, and whoever watches sees that one has stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a thread says that it goes on.
const BEAT: Duration = Duration::from_millis(500);

/// A thread that has said nothing for so long hangs: no step of a connection takes a tenth of it.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub struct Pulse {
    begun: Instant,
    /// Of each thread when it last went on, milliseconds since the beginning.
    beats: Mutex<Vec<Arc<AtomicU64>>>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begun: Instant::now(), beats: Mutex::default() }
    }
}

impl Pulse {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a thread in; what is given says for ever that it goes on, as often as the thread lets it.
    pub fn beat(self: &Arc<Self>) -> impl Future<Output = ()> + 'static {
        let (pulse, last) = (self.clone(), self.slot());
        async move {
            loop {
                last.store(pulse.now(), Ordering::Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        }
    }

    fn slot(&self) -> Arc<AtomicU64> {
        let last = Arc::new(AtomicU64::new(self.now()));
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).push(last.clone());
        last
    }

    /// For how long the thread that was silent longest has said nothing.
    pub fn silence(&self) -> Duration {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let first = beats.iter().map(|last| last.load(Ordering::Relaxed)).min();
        Duration::from_millis(first.map_or(0, |first| self.now().saturating_sub(first)))
    }

    /// Whether every thread goes on.
    pub fn is_well(&self) -> bool {
        self.silence() <= SILENCE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_hangs_is_seen() {
        let pulse = Arc::new(Pulse::default());
        assert_eq!(pulse.silence(), Duration::ZERO, "nobody hangs where nobody serves");
        let begun = Instant::now().checked_sub(3 * SILENCE_MAX).unwrap();
        let pulse = Arc::new(Pulse { begun, beats: Mutex::default() });
        let (first, second) = (pulse.slot(), pulse.slot());
        assert!(pulse.is_well() && pulse.silence() < SILENCE_MAX);
        second.store(1000, Ordering::Relaxed);
        assert!(!pulse.is_well() && pulse.silence() >= 2 * SILENCE_MAX);
        second.store(first.load(Ordering::Relaxed), Ordering::Relaxed);
        assert!(pulse.is_well());
    }
}
