//! A host that said that it is away on purpose.
//!
//! It is kept in the terminal's folder, so that a service which starts anew meanwhile knows of it: the file `away` is one
//! line, the times of the wall clock when it was said and until when, nanoseconds since 1970.

use crate::host::leave::AWAY_SECS_MAX;
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
    /// When it was said, by that clock.
    said: Time,
}

const NANOS: i64 = 1_000_000_000;

impl Away {
    /// For so long from now on.
    pub fn from_now(clock: Arc<dyn Clock>, secs: u32) -> Self {
        let said = clock.now();
        let wall = Time(said.0.saturating_add(i64::from(secs) * NANOS));
        Self { until: clock.elapsed() + Duration::from_secs(secs.into()), wall, said, clock }
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        format!("{} {}\n", self.said.0, self.wall.0).into_bytes()
    }

    /// What was kept; nothing where it is over, or makes no sense: a clock that was set back makes it no longer.
    pub fn resume(clock: Arc<dyn Clock>, kept: &[u8]) -> Option<Self> {
        let (said, wall) = std::str::from_utf8(kept).ok()?.trim_end().split_once(' ')?;
        let (said, wall, now) = (Time(said.parse().ok()?), Time(wall.parse().ok()?), clock.now());
        let secs = wall.0.checked_sub(said.0)? / NANOS;
        let left = u64::try_from(wall.0.checked_sub(now.0)?).ok().map(Duration::from_nanos)?;
        if !(1..=i64::from(AWAY_SECS_MAX)).contains(&secs) || now < said || left.is_zero() {
            return None;
        }
        Some(Self { until: clock.elapsed() + left, wall, said, clock })
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
    fn what_was_kept_goes_on_and_nonsense_is_none() {
        let clock = Arc::new(Hands(Mutex::new((1_000_000, 50))));
        let kept = Away::from_now(clock.clone(), 3600).encode();
        let left = |wall, elapsed, kept: &[u8]| {
            *clock.0.lock().unwrap() = (wall, elapsed);
            Away::resume(clock.clone(), kept).and_then(|away| away.left()).map(|left| left.as_secs())
        };
        // After a start of the service its own time begins anew.
        assert_eq!(left(1_000_600, 0, &kept), Some(3000));
        for wall in [1_003_600, 1_003_601, 999_999, 0, i64::MAX / NANOS] {
            assert_eq!(left(wall, 0, &kept), None, "{wall}");
        }
        let month = i64::from(AWAY_SECS_MAX) + 1;
        let odd = [String::new(), "x y".into(), "1 2 3".into(), format!("{} {}", i64::MIN, i64::MAX)];
        let long = format!("{} {}", 1_000_000 * NANOS, (1_000_000 + month) * NANOS);
        for kept in odd.iter().chain([&long, &format!("{} {}", 1_000_600 * NANOS, 1_000_100 * NANOS)]) {
            assert_eq!(left(1_000_000, 0, kept.as_bytes()), None, "{kept}");
        }
        assert_eq!(left(1_000_000, 0, &[0xff; 40]), None);
    }

    #[test]
    fn a_while_is_told_in_minutes() {
        for (secs, words) in [(1, "1 min"), (60, "1 min"), (61, "2 min"), (3600, "1 h 0 min"), (7201, "2 h 1 min")] {
            assert_eq!(minutes(Duration::from_secs(secs)), words);
        }
    }
}
