//! Whether the host's disk has room: below a mark no new backup is taken, and before it comes to that it is told.

use super::ground::Space;
use super::{Host, lock};
use std::sync::Arc;
use std::time::Duration;

/// How often the disk is looked at.
const PACE: Duration = Duration::from_secs(5);

/// What is to stay free of a host's disk, and from when on it is told that it fills.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marks {
    /// Bytes and percent of its disk that new backups leave free; the larger counts.
    pub reserve: (u64, u64),
    /// Percent of the disk in use from which on it is told, ascending.
    pub tell_at: Vec<u8>,
}

impl Marks {
    /// For a disk of its own.
    pub const RESERVE: (u64, u64) = (20 << 30, 10);

    /// When it is told unless told otherwise.
    pub const TELL_AT: [u8; 2] = [80, 90];

    /// Bytes of a disk that new backups leave free.
    pub fn reserve_of(&self, total: u64) -> u64 {
        let (bytes, percent) = self.reserve;
        bytes.max(total / 100 * percent).min(total)
    }

    /// How a disk stands.
    pub fn judge(&self, space: Space) -> Room {
        // Of a disk that says nothing of itself nothing is said.
        if space.total == 0 {
            return Room::Ample;
        }
        if space.free < self.reserve_of(space.total) {
            return Room::Full;
        }
        let used = used_percent(space);
        match self.tell_at.iter().rev().find(|mark| used >= u64::from(**mark)) {
            Some(mark) => Room::Filling(*mark),
            None => Room::Ample,
        }
    }
}

/// Percent of a disk in use, rounded down.
pub fn used_percent(space: Space) -> u64 {
    let used = u128::from(space.total.saturating_sub(space.free));
    u64::try_from(used * 100 / u128::from(space.total.max(1))).unwrap_or(100)
}

/// How a disk stands; a fuller one is larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Room {
    /// There is enough.
    #[default]
    Ample,
    /// So many percent, or more, are in use.
    Filling(u8),
    /// No new backup is taken.
    Full,
}

/// Says in words how a disk stands; nothing while there is room.
pub fn words(marks: &Marks, space: Space) -> Option<String> {
    let (free, reserve) = (space.free >> 20, marks.reserve_of(space.total) >> 20);
    match marks.judge(space) {
        Room::Ample => None,
        Room::Filling(_) => {
            let used = used_percent(space);
            let ends = match reserve {
                0 => String::new(),
                reserve => format!(", and new backups are refused when less than {reserve} MB are"),
            };
            Some(format!("the host's disk is {used} % full: {free} MB are left{ends}"))
        }
        Room::Full => Some(format!(
            "the host's disk has {free} MB left, of which {reserve} MB are kept free: new backups are refused"
        )),
    }
}

/// Looks at the disk for as long as the host runs, and says when it fills and when it has room again.
pub async fn run(host: Arc<Host>) {
    let mut told = Room::Ample;
    loop {
        let looking = host.clone();
        let space = host.work().run(move || Ok::<_, crate::transport::problem::Problem>(looking.space())).await;
        if let Ok(space) = space {
            *lock(&host.disk) = space;
            told = tell(&host.identity.marks, space, told);
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Says it once each time it gets worse, and once when all is well again.
fn tell(marks: &Marks, space: Space, told: Room) -> Room {
    let now = marks.judge(space);
    match words(marks, space) {
        Some(words) if now == Room::Full && told < now => tracing::error!("{words}"),
        Some(words) if told < now => tracing::warn!("{words}"),
        None if told > now => tracing::info!(free = space.free, "the host's disk has room again"),
        _ => {}
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_fills_mark_by_mark() {
        let marks = Marks { reserve: (20, 10), tell_at: vec![80, 90] };
        let judge = |free, total| marks.judge(Space { free, total });
        let cases = [
            (1000, 1000, Room::Ample),
            (201, 1000, Room::Ample),
            (200, 1000, Room::Filling(80)),
            (101, 1000, Room::Filling(80)),
            (100, 1000, Room::Filling(90)),
            (99, 1000, Room::Full),
            (0, 1000, Room::Full),
            // A small disk keeps the bytes, none keeps more than all of it.
            (20, 100, Room::Filling(80)),
            (19, 100, Room::Full),
            (10, 10, Room::Ample),
            (9, 10, Room::Full),
            (0, 0, Room::Ample),
        ];
        for (free, total, expected) in cases {
            assert_eq!(judge(free, total), expected, "{free} of {total}");
        }
        let without = Marks { reserve: (0, 0), tell_at: Vec::new() };
        assert_eq!(without.judge(Space { free: 0, total: 1000 }), Room::Ample);
        assert_eq!(
            Marks { reserve: (0, 10), ..marks }.judge(Space { free: u64::MAX / 2, total: u64::MAX }),
            Room::Ample
        );
    }

    #[test]
    fn it_is_told_when_it_gets_worse_and_not_again() {
        let marks = Marks { reserve: (0, 10), tell_at: vec![80, 90] };
        let space = |free| Space { free, total: 1000 };
        assert_eq!(words(&marks, space(500)), None);
        assert!(words(&marks, space(150)).is_some_and(|text| text.contains("85 % full")));
        assert!(words(&marks, space(50)).is_some_and(|text| text.contains("refused")));
        let said = crate::testlog::lines(|| {
            let mut told = Room::Ample;
            for free in [500, 150, 140, 95, 50, 40, 150, 500, 500] {
                told = tell(&marks, space(free), told);
            }
        });
        let levels: Vec<&str> = said.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(levels, ["WARN", "ERROR", "INFO"], "{said:?}");
    }
}
