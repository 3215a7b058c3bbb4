use super::*;

const VAULT: VaultId = VaultId([1; 16]);
const START: Time = Time(1_800_000_000_000_000_000);

/// A host with both its clocks in hand.
struct Bench {
    wall: i64,
    elapsed: Duration,
    uptime: Uptime,
}

impl Bench {
    fn new() -> Self {
        Self { wall: START.0, elapsed: Duration::ZERO, uptime: Uptime::new(START, Duration::ZERO) }
    }

    /// Time passes, an hour at a time, as the host looks at it.
    fn run(&mut self, hours: u64) -> &mut Self {
        for _ in 0..hours {
            self.wall += 3600 * 1_000_000_000;
            self.elapsed += Duration::from_secs(3600);
            self.look();
        }
        self
    }

    fn look(&mut self) -> bool {
        self.uptime.look(Time(self.wall), self.elapsed)
    }

    /// Somebody sets the wall clock.
    fn set(&mut self, hours: i64) -> &mut Self {
        self.wall += hours * 3600 * 1_000_000_000;
        self
    }

    /// It stops, and starts again after so long.
    fn restart(&mut self, hours: i64) -> &mut Self {
        self.set(hours);
        self.elapsed = Duration::from_secs(5);
        let (state, marks) = (self.uptime.state(), self.uptime.marks());
        self.uptime = Uptime::start(Time(self.wall), self.elapsed, &state, &marks);
        self
    }

    fn note(&mut self, tip: u64) -> &mut Self {
        self.uptime.note(VAULT, tip);
        self
    }

    fn ripe(&self) -> u64 {
        self.uptime.ripe(VAULT)
    }
}

#[test]
fn a_record_is_ripe_after_thirty_days_of_uptime_whatever_the_clock_says() {
    let mut bench = Bench::new();
    bench.note(7);
    // Off for most of each day: a month of days is a week of hours.
    for _ in 0..30 {
        bench.run(6).restart(18);
    }
    assert_eq!((bench.ripe(), bench.uptime.jump()), (0, None));
    bench.run(30 * 24 - 30 * 6 - 1);
    assert_eq!(bench.ripe(), 0);
    bench.run(1);
    assert_eq!(bench.ripe(), 7);
}

#[test]
fn what_comes_between_two_notes_is_as_old_as_the_second() {
    let mut bench = Bench::new();
    bench.note(1).run(1).note(5).run(22).note(6);
    assert_eq!(bench.uptime.marks().lines().count(), 1, "a note a day");
    bench.run(1).note(6).run(30 * 24 - 24).note(9);
    assert_eq!(bench.ripe(), 1);
    bench.run(24);
    assert_eq!(bench.ripe(), 6);
    // Of what is old enough the newest says all, so notes are no more than days of a month.
    for tip in 10..200 {
        bench.run(24).note(tip);
        assert!(bench.uptime.marks().lines().count() <= 32);
    }
    assert_eq!(bench.ripe(), 199 - 30);
}

#[test]
fn a_clock_that_leaps_stops_everything_until_somebody_says_that_it_is_right() {
    for hours in [25, -25, 400 * 24, -400 * 24] {
        let mut bench = Bench::new();
        bench.note(3).run(31 * 24);
        assert_eq!(bench.ripe(), 3);
        assert!(bench.set(hours).look(), "{hours}");
        assert!(!bench.look(), "told once");
        assert_eq!(bench.ripe(), 0);
        // Put right again by itself, and over a restart: somebody has to look.
        bench.set(-hours).run(3).restart(1).run(3);
        assert_eq!(bench.ripe(), 0);
        let jump = bench.uptime.confirm().unwrap();
        assert_eq!(jump.to.0 - jump.from.0, hours * 3600 * 1_000_000_000);
        assert_eq!((bench.ripe(), bench.uptime.confirm()), (3, None));
        bench.run(48);
        assert_eq!((bench.ripe(), bench.uptime.jump()), (3, None));
    }
}

#[test]
fn many_small_steps_are_a_leap_and_a_day_is_none() {
    let mut bench = Bench::new();
    assert!(!bench.set(23).look() && !bench.set(-46).look() && !bench.set(23).look());
    let steps = (1..100).find(|_| bench.set(1).look()).unwrap();
    assert_eq!(steps, 25);
}

#[test]
fn a_host_that_was_off_asks_only_when_that_cannot_be() {
    let check = |hours: i64, asks: bool| {
        let mut bench = Bench::new();
        bench.run(5).restart(hours).run(1);
        assert_eq!(bench.uptime.jump().is_some(), asks, "{hours}");
    };
    check(7 * 24, false);
    check(31 * 24, false);
    check(31 * 24 + 1, true);
    check(-24, false);
    check(-25, true);
}

#[test]
fn an_older_copy_of_a_vault_makes_new_records_wait() {
    let mut bench = Bench::new();
    bench.note(100).run(31 * 24).note(100);
    assert_eq!(bench.ripe(), 100);
    // Put back: records 81 to 100 are others now.
    bench.note(80);
    assert_eq!(bench.ripe(), 0);
    bench.run(30 * 24);
    assert_eq!(bench.ripe(), 80);
}

#[test]
fn lines_that_make_no_sense_make_everything_wait() {
    let hex = VAULT.to_hex();
    let start = |state: &str, marks: &str| Uptime::start(START, Duration::ZERO, state, marks);
    let long = "uptime 9000000\n";
    assert_eq!(start(long, &format!("{hex} 100 7\n")).ripe(VAULT), 7);
    assert_eq!(start("", &format!("{hex} 100 7\n")).ripe(VAULT), 0, "a note from the future");
    assert_eq!(start(long, &format!("{hex} 100\n{hex} x 7\nfoo 1 2\n\n{hex} 100 -7\n")).ripe(VAULT), 0);
    // The later of two notes may not say less.
    assert_eq!(start(long, &format!("{hex} 100 7\n{hex} 200 3\n")).ripe(VAULT), 3);
    for state in ["uptime x", "wall", "jump 1", "jump a b", "\u{0}", "uptime 1 2"] {
        assert_eq!(start(state, ""), Uptime::new(START, Duration::ZERO), "{state:?}");
    }
}
