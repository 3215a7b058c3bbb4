//! What services tell systemd.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use twinkeep_tests::office::{Machine, OfficeWorld, PATIENCE};

/// The place where systemd listens.
struct Systemd {
    socket: UnixDatagram,
    said: Vec<(Instant, String)>,
}

impl Systemd {
    /// Listens to a machine's service from its next start on; it is expected to say that it is alive this often.
    fn of(machine: &mut Machine, patience: Duration) -> Self {
        let path = machine.home.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in a home");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a deadline");
        let path = path.to_str().expect("a plain name").to_owned();
        let patience = patience.as_micros().to_string();
        machine.vars = vec![("NOTIFY_SOCKET".into(), path), ("WATCHDOG_USEC".into(), patience)];
        Self { socket, said: Vec::new() }
    }

    /// Takes what has come.
    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            let text = String::from_utf8(bytes[..len].to_vec()).expect("words");
            self.said.extend(text.lines().map(|line| (Instant::now(), line.to_owned())));
        }
    }

    fn count(&self, word: &str) -> usize {
        self.said.iter().filter(|(_, line)| line == word).count()
    }

    /// Waits for a line that begins so.
    fn await_line(&mut self, begins: &str) -> String {
        let begun = Instant::now();
        loop {
            self.hear();
            if let Some((_, line)) = self.said.iter().find(|(_, line)| line.starts_with(begins)) {
                return line.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "{begins}: not told; {:?}", self.said);
        }
    }
}

fn lives_and_ends(machine: &mut Machine) {
    machine.stop();
    let patience = Duration::from_secs(3);
    let mut systemd = Systemd::of(machine, patience);
    machine.launch();
    systemd.await_line("READY=1");
    // Whoever is told so may use it.
    machine.await_ready();
    let begun = Instant::now();
    while systemd.count("WATCHDOG=1") < 4 {
        systemd.hear();
        assert!(begun.elapsed() < PATIENCE, "{:?}", systemd.said);
    }
    let alive: Vec<Instant> =
        systemd.said.iter().filter(|(_, line)| line == "WATCHDOG=1").map(|(when, _)| *when).collect();
    let longest = alive.windows(2).map(|pair| pair[1] - pair[0]).max().expect("there are several");
    assert!(longest < patience, "systemd would have ended it after {longest:?}");
    systemd.await_line("STATUS=");
    // One that hangs says nothing; one that goes on does again.
    machine.freeze();
    systemd.hear();
    let before = systemd.count("WATCHDOG=1");
    std::thread::sleep(patience);
    systemd.hear();
    assert!(systemd.count("WATCHDOG=1") <= before, "it is frozen and says that it is alive");
    machine.thaw();
    let begun = Instant::now();
    while systemd.count("WATCHDOG=1") <= before {
        systemd.hear();
        assert!(begun.elapsed() < PATIENCE, "{:?}", systemd.said);
    }
    assert_eq!((systemd.count("READY=1"), systemd.count("STOPPING=1")), (1, 0), "{:?}", systemd.said);
    machine.stop();
    systemd.await_line("STOPPING=1");
    machine.vars.clear();
    machine.start();
}

#[test]
fn systemd_hears_that_a_service_is_ready_alive_and_stopping() {
    let mut world = OfficeWorld::new(1, &[]);
    lives_and_ends(&mut world.host);
    world.pcs[0].await_connected();
    lives_and_ends(&mut world.pcs[0]);
}

#[test]
fn systemd_is_told_how_it_stands() {
    let mut world = OfficeWorld::new(1, &[]);
    world.pcs[0].stop();
    let mut systemd = Systemd::of(&mut world.pcs[0], Duration::from_secs(3));
    world.pcs[0].start();
    systemd.await_line("STATUS=connected to the host");
    world.host.stop();
    systemd.await_line("STATUS=cannot reach the host");
    let mut systemd = Systemd::of(&mut world.host, Duration::from_secs(3));
    world.host.start();
    systemd.await_line("STATUS=1 connections, 1 of 1 machines online");
}

/// What systemd itself would make of the units.
#[test]
fn the_units_ask_for_what_the_services_tell() {
    for kind in ["host", "terminal"] {
        let path = format!("{}/../dist/systemd/twinkeep-{kind}.service", env!("CARGO_MANIFEST_DIR"));
        let unit = std::fs::read_to_string(path).expect("the unit is there");
        let has = |line: &str| unit.lines().any(|own| own == line);
        assert!(has("Type=notify") && has("NotifyAccess=main") && has("TimeoutStartSec=infinity"), "{kind}");
        let watchdog = unit.lines().find_map(|line| line.strip_prefix("WatchdogSec=")).expect("a watchdog");
        // Twice as long as a thread may be silent, and some.
        let least = 3 * twinkeep_nodes::pulse::SILENCE_MAX.as_secs();
        assert!(watchdog.parse::<u64>().expect("seconds") >= least, "{kind}: {watchdog}");
        assert!(unit.contains(&format!("ExecStart=/usr/local/bin/twinkeep {kind} run ")), "{kind}");
    }
}
