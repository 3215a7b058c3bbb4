//! A host that said that it is away on purpose.

use std::sync::Arc;
use std::time::Duration;
use twinkeep_engine::env::{Clock, Time};

/// Until when the host said it is away.
#[derive(Clone)]
pub struct Away {
    clock: Arc<dyn Clock>,
    /// By the time the service has run.
    until: Duration,
    /// By the wall clock, which goes on while a PC sleeps.
    wall: Time,
}

impl Away {
    /// For so long from now on.
    pub fn from_now(clock: Arc<dyn Clock>, secs: u32) -> Self {
        let wall = Time(clock.now().0.saturating_add(i64::from(secs) * 1_000_000_000));
        Self { until: clock.elapsed() + Duration::from_secs(secs.into()), wall, clock }
    }

    /// For how long it still is; nothing when that is over, by whichever clock.
    pub fn left(&self) -> Option<Duration> {
        let by_wall = u64::try_from(self.wall.0.saturating_sub(self.clock.now().0)).ok().map(Duration::from_nanos)?;
        let left = self.until.checked_sub(self.clock.elapsed())?.min(by_wall);
        (!left.is_zero()).then_some(left)
    }

    /// When it is back, by the wall clock.
    pub fn until(&self) -> Time {
        self.wall
    }
}

/// A while in words, rounded up.
pub fn minutes(left: Duration) -> String {
    let minutes = left.as_secs().div_ceil(60);
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Wall clock and time that the service runs, seconds.
    struct Hands(Mutex<(i64, u64)>);

    impl Clock for Hands {
        fn now(&self) -> Time {
            Time(self.0.lock().unwrap().0 * 1_000_000_000)
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.lock().unwrap().1)
        }
    }

    #[test]
    fn the_time_is_over_by_whichever_clock_says_so_first() {
        let clock = Arc::new(Hands(Mutex::new((1_000_000, 50))));
        let away = Away::from_now(clock.clone(), 3600);
        let left = |wall, elapsed| {
            *clock.0.lock().unwrap() = (wall, elapsed);
            away.left().map(|left| left.as_secs())
        };
        assert_eq!(left(1_000_000, 50), Some(3600));
        assert_eq!(left(1_000_600, 650), Some(3000));
        // A PC that slept, one whose clock was set back, one whose clock was set forward.
        assert_eq!(left(1_003_600, 60), None);
        assert_eq!(left(0, 3650), None);
        assert_eq!(left(0, 650), Some(3000));
        assert_eq!(left(i64::MAX / 1_000_000_000, 650), None);
        assert_eq!(away.until(), Time(1_003_600 * 1_000_000_000));
    }

    #[test]
    fn a_while_is_told_in_minutes() {
        for (secs, words) in [(1, "1 min"), (60, "1 min"), (61, "2 min"), (3600, "1 h 0 min"), (7201, "2 h 1 min")] {
            assert_eq!(minutes(Duration::from_secs(secs)), words);
        }
    }
}
