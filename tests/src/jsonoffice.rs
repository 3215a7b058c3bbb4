//! An office of real processes, and every verb of it with `--json`, held against `docs/json.md`.
//!
//! One host and two terminals with homes of their own on this machine; that they are different machines is what their
//! machine ids say.

use crate::home::{Home, Ran, has_mode, messages};
use crate::jsondoc::Doc;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is waited for comes within this, or never.
const DEADLINE: Duration = Duration::from_secs(60);

const PASSWORD: &str = "correct horse";

/// A service of the office; it is killed when this goes.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somebody's machine, and the document that holds for what it prints.
struct Machine<'a> {
    home: Home,
    doc: &'a std::cell::RefCell<&'a mut Doc>,
    /// What its services log.
    logs: std::cell::RefCell<Vec<(String, JoinHandle<Vec<String>>)>>,
}

impl Machine<'_> {
    fn hold(&self, verb: &str, line: &str) {
        self.doc.borrow_mut().hold(verb, line).unwrap_or_else(|problem| panic!("{problem}"));
    }

    /// Runs a verb, expects an exit code, and holds what it prints against the document.
    fn run(&self, code: i32, verb: &str, args: &[&str]) -> Ran {
        let words: Vec<&str> = verb.split(' ').collect();
        let ran = self.home.expect(code, &[&["--json"], &words[..], args].concat());
        for line in ran.out.lines().chain(ran.err.lines()) {
            self.hold(verb, line);
        }
        ran
    }

    /// The only message of a type that a verb prints.
    fn one(&self, verb: &str, args: &[&str], name: &str) -> Value {
        let all = messages(&self.run(0, verb, args).out);
        let mut named = all.into_iter().filter(|message| message["message_type"] == name);
        let found = named.next().unwrap_or_else(|| panic!("{verb} {args:?} sends no {name}"));
        assert!(named.next().is_none(), "{verb} {args:?} sends more than one {name}");
        found
    }

    /// Holds what its services have logged, which have ended.
    fn hold_logs(&self) {
        for (verb, log) in self.logs.borrow_mut().drain(..) {
            let lines = log.join().expect("it was read");
            assert!(!lines.is_empty(), "{verb} logs nothing");
            lines.iter().for_each(|line| self.hold(&verb, line));
        }
    }

    /// Begins a service and waits until it says that it is ready.
    fn serve(&self, verb: &str) -> Service {
        let words: Vec<&str> = verb.split(' ').collect();
        let mut command = self.home.command(&[&["--json"], &words[..]].concat());
        let mut service = Service(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs"));
        let err = BufReader::new(service.0.stderr.take().expect("it logs"));
        let log = std::thread::spawn(move || err.lines().map_while(Result::ok).collect());
        self.logs.borrow_mut().push((verb.to_owned(), log));
        let out = service.0.stdout.take().expect("it has an output");
        let (said, says) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        loop {
            let line = says.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{verb} does not get ready"));
            self.hold(verb, &line);
            if line.starts_with("{\"message_type\":\"ready\"") {
                return service;
            }
        }
    }
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn machine_id(number: u32) -> String {
    format!("{number:032x}")
}

/// Text that does not compress to much less.
fn noise(len: usize) -> String {
    let mut bytes = vec![0; len / 2];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A port that is free.
fn address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it has an address").to_string()
}

/// Has every verb of an office print what it can print.
///
/// # Panics
/// What is printed is not what is written.
pub fn run(doc: &mut Doc) {
    let doc = std::cell::RefCell::new(doc);
    let machine = || Machine { home: Home::new(), doc: &doc, logs: std::cell::RefCell::default() };
    let (host, one, two) = (machine(), machine(), machine());
    alone(&host);
    let service = make(&host);
    people(&host);
    let terminals = join(&host, &one, &two);
    use_it(&host, &one);
    // Its disk was said to be full when one percent is used.
    host.run(15, "doctor", &[]);
    one.run(0, "doctor", &[]);
    let service = away(service, &host, &one, &machine());
    change(&host, &two);
    host.run(0, "host stop", &["--planned", "--for", "1h"]);
    host.run(2, "host stop", &["--for", "1h"]);
    drop(terminals);
    drop(service);
    [&host, &one, &two].into_iter().for_each(Machine::hold_logs);
    host.run(16, "host status", &[]);
    one.run(16, "terminal status", &[]);
    one.run(16, "snapshots", &[]);
}

/// Backups while the host is away, of somebody who works on the same PC as `one`: the terminal's service does not run as
/// them, and leaves it to them to send what waits.
fn away(mut service: Service, host: &Machine<'_>, one: &Machine<'_>, guest: &Machine<'_>) -> Service {
    let data = one.home.path("terminal");
    guest.home.write(".config/twinkeep/office.toml", &format!("role = \"terminal\"\ndata = {data:?}\n"));
    guest.home.write("pw", "wrong");
    guest.home.write("docs/a.txt", "written before");
    guest.run(0, "login", &["anna", "--password-file", "pw"]);
    guest.run(0, "backup", &["docs"]);
    for sends in ["backup", "deliver", "logout"] {
        drop(service);
        guest.home.write("docs/later.txt", sends);
        let summary = messages(&guest.run(4, "backup", &["docs"]).out).pop().expect("a summary");
        assert_eq!(summary["level"], "P0");
        guest.run(16, "deliver", &[]);
        service = host.serve("host run");
        until("the terminal is connected", || one.one("terminal status", &[], "terminal")["connected"] == true);
        let args: &[&str] = if sends == "backup" { &["docs"] } else { &[] };
        let delivered = guest.one(sends, args, "delivered");
        assert_eq!(delivered["snapshots"][0], summary["snapshot_id"]);
    }
    guest.run(0, "deliver", &[]);
    service
}

/// A machine that belongs to no office.
fn alone(host: &Machine<'_>) {
    host.run(16, "terminal status", &[]);
    host.run(10, "host run", &[]);
    host.run(16, "terminal run", &[]);
    host.run(0, "logout", &[]);
}

/// The host, and its kit.
fn make(host: &Machine<'_>) -> Service {
    let address = address();
    let flags = ["--data", "office", "--name", "tower", "--address", &address, "--listen", &address];
    let made = host.one("host init", &[&flags[..], &["--machine-id", &machine_id(1)]].concat(), "host_initialized");
    host.run(1, "host init", &flags);
    // Whatever disk the tests run on: this host does not mind when it is nearly full.
    let settings = host.home.path("office/host.toml");
    let text = fs::read_to_string(&settings).expect("a host has settings");
    let kept = text.lines().filter(|line| !line.starts_with("reserve-bytes")).collect::<Vec<_>>().join("\n");
    let kept = kept.replace("tell-at-percent = [80, 90]", "tell-at-percent = [1]");
    fs::write(&settings, format!("{kept}\nreserve-bytes = 0\n")).expect("they can be written");
    let service = host.serve("host run");
    let status = host.one("host status", &[], "host");
    assert_eq!(status["addresses"][0], Value::from(address));
    host.home.write("words", made["words"].as_str().expect("a kit has words"));
    host.run(0, "host kit verify", &["--recovery-words-file", "words"]);
    let renewed = host.one("host kit renew", &["--recovery-words-file", "words"], "kit_renewed");
    host.run(12, "host kit verify", &["--recovery-words-file", "words"]);
    host.home.write("words", renewed["words"].as_str().expect("a kit has words"));
    host.run(0, "host kit verify", &["--recovery-words-file", "words"]);
    host.run(2, "host kit verify", &[]);
    service
}

/// Accounts, and a backup before there is any terminal.
fn people(host: &Machine<'_>) {
    host.home.write("pw", PASSWORD);
    let password = ["--new-password-file", "pw"];
    host.run(0, "user add", &[&["anna", "--quota", "1G"], &password[..]].concat());
    host.run(0, "user add", &[&["bert", "--private", "--admin"], &password[..]].concat());
    host.run(2, "user add", &[&["anna"], &password[..]].concat());
    host.run(0, "user quota", &["anna", "2G"]);
    host.run(0, "user disable", &["anna"]);
    host.run(12, "login", &["anna", "--password-file", "pw"]);
    host.run(0, "user enable", &["anna"]);
    host.run(1, "user enable", &["nobody"]);
    host.run(0, "user list", &[]);
    host.run(0, "copies status", &[]);
    host.home.write("docs/a.txt", "written on the host");
    let login = host.one("login", &["bert", "--password-file", "pw"], "login");
    assert_eq!((&login["account"], &login["is_admin"]), (&Value::from("bert"), &Value::from(true)));
    let summary = host.one("backup", &["docs"], "summary");
    assert_eq!((&summary["level"], &summary["holders"]), (&Value::from("P0"), &Value::from(Vec::<Value>::new())));
    // What is in the way is seen when copies are planned next.
    until("it is said what is in the way of a second place", || {
        let all = messages(&host.run(4, "copies why", &[]).out);
        all.iter().any(|message| message["owner"] == "bert" && message["why"] != "")
    });
    host.run(0, "logout", &[]);
}

/// Two terminals: one is let in at once, the other is approved.
fn join<'a>(host: &Machine<'a>, one: &Machine<'a>, two: &Machine<'a>) -> [Service; 2] {
    let join = |machine: &Machine<'a>, name: &str, flags: &[&str], id: u32| {
        let token = host.one("token", &[&[name], flags].concat(), "token");
        machine.home.write("token", token["token"].as_str().expect("a token is a text"));
        let args = ["--token-file", "token", "--grant", "1G", "--data", "terminal", "--machine-id", &machine_id(id)];
        let joined = machine.one("terminal join", &args, "joined");
        assert_eq!(joined["pending"], Value::from(flags.is_empty()));
        let service = machine.serve("terminal run");
        // Everybody on the machine backs up through the socket, and sees nothing else.
        let modes = [("terminal", 0o711), ("terminal/terminal.sock", 0o666), ("terminal/keys", 0o700)];
        for (name, bits) in [&modes[..], &[("terminal/copies", 0o700), ("terminal/terminal.toml", 0o600)]].concat() {
            assert!(has_mode(&machine.home.path(name), bits), "{name} is not {bits:o}");
        }
        service
    };
    let services = [join(one, "pc1", &["--auto"], 2), join(two, "pc2", &[], 3)];
    let pending = messages(&host.run(0, "node list", &[]).out);
    assert_eq!(pending[1]["status"], "pending");
    host.run(0, "node approve", &["pc2"]);
    for machine in [one, two] {
        until("a terminal is connected", || machine.one("terminal status", &[], "terminal")["connected"] == true);
    }
    services
}

/// A backup with a second copy.
fn use_it(host: &Machine<'_>, one: &Machine<'_>) {
    one.home.write("pw", PASSWORD);
    one.home.write("bad", "wrong");
    one.home.write("docs/a.txt", &noise(400_000));
    guess(host, one);
    until("the pause after wrong passwords is over", || {
        one.home.run(&["login", "anna", "--password-file", "pw"]).code == Some(0)
    });
    let summary = one.one("backup", &["docs", "--wait", "copies=2"], "summary");
    assert_eq!((&summary["level"], &summary["holders"][0]), (&Value::from("P2"), &Value::from("pc1")));
    one.run(0, "snapshots", &[]);
    one.run(0, "restore", &["latest", "--target", "back"]);
    one.run(13, "user list", &[]);
    one.run(0, "user passwd", &["--password-file", "pw", "--new-password-file", "bad"]);
    until("everything is kept twice", || host.home.run(&["copies", "status"]).code == Some(0));
    host.run(0, "copies status", &[]);
    host.run(0, "user list", &[]);
    let scrubbed = host.one("scrub start", &[], "office_scrub");
    assert_eq!((&scrubbed["machines"], &scrubbed["bad"]), (&Value::from(2), &Value::from(0)));
    // All of it is needed. That packs of several backups are put together frees next to nothing.
    for text in ["a", "b", "c", "d", "e"] {
        one.home.write("docs/b.txt", text);
        one.run(0, "backup", &["docs"]);
    }
    let freed = host.one("gc", &[], "office_gc");
    assert_eq!(freed["frames"], Value::from(0));
    assert!(freed["bytes"].as_u64().is_some_and(|bytes| bytes < 100_000), "{freed}");
    host.run(2, "gc", &["--no-key"]);
}

/// Passwords are guessed until it is said to wait. What was not even looked at is not written down: whoever guesses
/// without a pause does not fill the log.
fn guess(host: &Machine<'_>, one: &Machine<'_>) {
    let failed = || {
        let all = messages(&host.run(0, "audit", &[]).out);
        all.iter().filter(|entry| entry["what"].as_str().is_some_and(|what| what.starts_with("LoginFailed"))).count()
    };
    let (before, mut looked_at) = (failed(), 0);
    until("it is said to wait", || {
        let ran = one.home.run(&["--json", "login", "anna", "--password-file", "bad"]);
        one.hold("login", ran.err.trim_end());
        looked_at += usize::from(ran.code == Some(12));
        ran.code == Some(13)
    });
    assert!(looked_at > 0, "nothing was looked at");
    assert_eq!(failed() - before, looked_at);
}

/// What is done to machines.
fn change(host: &Machine<'_>, two: &Machine<'_>) {
    let mut changes = Vec::new();
    let named: [(&str, &[&str]); 4] =
        [("drain", &["pc2"]), ("drain", &["pc2", "--off"]), ("forget", &["pc2"]), ("revoke", &["pc1"])];
    for (verb, args) in named {
        let changed = host.one(&format!("node {verb}"), &[args, &["--yes"]].concat(), "node_changed");
        changes.push(changed["change"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(changes, ["draining", "used", "forgotten", "revoked"]);
    let all = messages(&host.run(0, "node list", &["--all"]).out);
    host.run(0, "node show", &["pc1"]);
    host.run(1, "node show", &["nobody"]);
    let status: Vec<&str> = all.iter().filter_map(|machine| machine["status"].as_str()).collect();
    assert_eq!(status, ["revoked", "forgotten"]);
    host.run(1, "node approve", &["pc9"]);
    host.run(0, "node give-up", &["--yes"]);
    let confirmed = host.one("host clock-is-right", &["--yes"], "clock_confirmed");
    assert_eq!((&confirmed["from"], &confirmed["to"]), (&Value::Null, &Value::Null));
    until("a forgotten terminal is told so", || two.one("terminal status", &[], "terminal")["connected"] == false);
    let entries = messages(&host.run(0, "audit", &["--last", "3"]).out);
    assert_eq!(entries.len(), 3);
    host.run(0, "audit", &[]);
}
