//! `doctor` beside offices in which something is wrong: each trouble is made, and found for what it is.

use serde_json::Value;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;
use twinkeep_tests::home::{Home, messages};
use twinkeep_tests::office::{Machine, OfficeWorld, PATIENCE, until};

/// Exit code and findings.
fn look(machine: &Machine) -> (i32, Vec<Value>) {
    let ran = machine.run(&["--json", "doctor"]);
    let findings = messages(&ran.out);
    assert!(findings.iter().all(|finding| finding["message_type"] == "finding"), "{}", ran.out);
    (ran.code.expect("it ends by itself"), findings)
}

/// The one finding of this check, about this if it is named.
fn found<'a>(findings: &'a [Value], check: &str, about: Option<&str>) -> &'a Value {
    let is_it = |finding: &&Value| finding["check"] == check && about.is_none_or(|about| finding["about"] == about);
    let mut all = findings.iter().filter(is_it);
    let first = all.next().unwrap_or_else(|| panic!("nothing of {check} {about:?}: {findings:#?}"));
    assert!(all.next().is_none(), "{check} {about:?} more than once: {findings:#?}");
    first
}

/// Expects a check in this state, its words to hold these, and the exit code.
fn expect(machine: &Machine, code: i32, check: &str, about: Option<&str>, state: &str, words: &str) {
    let (ended, findings) = look(machine);
    let finding = found(&findings, check, about);
    let text = finding["text"].as_str().expect("text");
    assert!(finding["state"] == state && text.contains(words), "{check} is to be {state} with {words:?}: {finding}");
    let needs_help = state == "bad" || state == "warning";
    assert!(!needs_help || finding["help"].is_string(), "nothing to do is said: {finding}");
    assert_eq!(ended, code, "{findings:#?}");
}

/// Changes a machine's settings; they count from the next start of its service.
fn edit(machine: &Machine, file: &str, from: &str, to: &str) {
    let path = machine.data().join(file);
    let text = fs::read_to_string(&path).expect("settings are there");
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).expect("settings can be edited");
}

/// Where the terminal looks for the host, as its settings write it.
fn hosts(machine: &Machine) -> String {
    let text = fs::read_to_string(machine.data().join("terminal.toml")).expect("settings are there");
    let line = text.lines().find_map(|line| line.strip_prefix("hosts = ")).expect("a line with hosts");
    line.trim_matches(['[', ']', '"']).to_owned()
}

/// How full the disk of the tests is plays no part.
fn never_mind_the_disk(world: &mut OfficeWorld) {
    edit(&world.host, "host.toml", "tell-at-percent = [80, 90]", "tell-at-percent = []");
    world.host.stop();
    world.host.start();
    world.pcs.iter().for_each(Machine::await_connected);
}

#[test]
fn where_nothing_is_wrong_nothing_is_found() {
    let mut world = OfficeWorld::new(2, &["anna"]);
    never_mind_the_disk(&mut world);
    world.pcs[0].login("anna");
    world.pcs[0].home.write("docs/letter.txt", "dear all");
    world.pcs[0].backup(&world.pcs[0].home.path("docs"), &["--wait", "copies=2"]);
    let (code, findings) = look(&world.pcs[0]);
    assert!(findings.iter().all(|finding| finding["state"] == "ok"), "{findings:#?}");
    let checks: Vec<&str> = findings.iter().map(|finding| finding["check"].as_str().expect("a word")).collect();
    assert_eq!(checks, ["service", "program", "address", "version", "clock", "connection", "room", "login"]);
    assert_eq!(code, 0);
    let (code, findings) = look(&world.host);
    // Nobody is logged in there and nobody has tried the kit, which is no harm.
    let notes: Vec<&Value> = findings.iter().filter(|finding| finding["state"] != "ok").collect();
    assert!(notes.iter().all(|finding| finding["state"] == "note"), "{notes:#?}");
    let checks: Vec<&str> = notes.iter().map(|finding| finding["check"].as_str().expect("a word")).collect();
    assert_eq!((code, checks), (0, vec!["login", "kit"]));
    assert_eq!(found(&findings, "machines", None)["text"], "2 of 2 machines are there");
    let said = world.pcs[0].expect(0, &["doctor"]).out;
    assert!(said.starts_with("ok       service ") && said.ends_with("nothing is wrong\n"), "{said}");
}

#[test]
fn a_machine_of_no_office_and_a_service_that_is_not_there() {
    let home = Home::new();
    let ran = home.run(&["--json", "doctor"]);
    assert_eq!(ran.code, Some(16), "{}", ran.out);
    assert_eq!(found(&messages(&ran.out), "office", None)["state"], "bad");
    home.write(".config/twinkeep/office.toml", "role = 7");
    assert_eq!(home.run(&["doctor"]).code, Some(1));

    let mut world = OfficeWorld::new(1, &[]);
    world.pcs[0].kill();
    expect(&world.pcs[0], 16, "service", None, "bad", "ended without a word");
    let (_, findings) = look(&world.pcs[0]);
    // Whoever may read the settings learns of the host all the same.
    let address = hosts(&world.pcs[0]);
    assert_eq!(found(&findings, "address", Some(&address))["state"], "ok");
    fs::remove_file(world.pcs[0].data().join("terminal.sock")).expect("it was left");
    expect(&world.pcs[0], 16, "service", None, "bad", "there is no");
    world.pcs[0].start();
    world.pcs[0].await_connected();
    // One that hangs holds nobody up for ever.
    world.pcs[0].freeze();
    expect(&world.pcs[0], 16, "service", None, "bad", "does not answer");
    world.pcs[0].thaw();
}

#[test]
fn each_way_not_to_reach_the_host_has_its_name() {
    let mut world = OfficeWorld::new(1, &[]);
    let own = hosts(&world.pcs[0]);
    // Somebody who has been refused: nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    // Somebody who accepts nobody: what is sent to a queue that is full is dropped.
    let full = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = full.local_addr().expect("an address");
    fill(&full);
    // Somebody else: one that speaks otherwise, and the host of another office.
    let odd = TcpListener::bind("127.0.0.1:0").expect("a port");
    let strange = odd.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        odd.incoming().flatten().for_each(|mut stream| drop(std::io::Write::write_all(&mut stream, b"220 mail\r\n")))
    });
    let other = OfficeWorld::new(0, &[]);
    let text = fs::read_to_string(other.host.data().join("host.toml")).expect("settings are there");
    let line = text.lines().find_map(|line| line.strip_prefix("listen = ")).expect("a line");
    let foreign = line.trim_matches('"').to_owned();

    let cases = [
        ("nowhere.invalid:7272".to_owned(), 16, "no address"),
        (gone, 16, "nobody listens"),
        (silent.to_string(), 16, "nothing comes back"),
        (strange, 16, "not as a host does"),
        (foreign, 12, "key is not that of this office"),
    ];
    for (address, code, words) in &cases {
        world.pcs[0].stop();
        edit(&world.pcs[0], "terminal.toml", &hosts(&world.pcs[0]), address);
        world.pcs[0].start();
        expect(&world.pcs[0], *code, "address", Some(address), "bad", words);
        let (_, findings) = look(&world.pcs[0]);
        assert_eq!(found(&findings, "connection", None)["state"], "bad", "{address}");
    }
    // One that works, too, and the others are only to be looked after.
    world.pcs[0].stop();
    let last = hosts(&world.pcs[0]);
    edit(&world.pcs[0], "terminal.toml", &format!("\"{last}\""), &format!("\"nowhere.invalid:7272\", \"{own}\""));
    world.pcs[0].start();
    world.pcs[0].await_connected();
    expect(&world.pcs[0], 16, "address", Some("nowhere.invalid:7272"), "warning", "no address");
    let (_, findings) = look(&world.pcs[0]);
    assert_eq!(found(&findings, "address", Some(&own))["state"], "ok");
    assert_eq!(found(&findings, "connection", None)["state"], "ok");
    world.host.stop();
    until("the terminal notices", PATIENCE, || (!world.pcs[0].is_connected()).then_some(()));
    expect(&world.pcs[0], 16, "address", Some(&own), "bad", "nobody listens");
    drop(full);
}

/// Connects to a listener until its queue is full, and stays.
fn fill(listener: &TcpListener) {
    let address = listener.local_addr().expect("an address");
    // SAFETY: the descriptor is the listener's own and open; to listen again only changes the length of its queue.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0, "a short queue");
    let held: Vec<TcpStream> =
        std::iter::repeat_with(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)))
            .map_while(Result::ok)
            .take(64)
            .collect();
    assert!(held.len() < 64, "its queue does not fill");
    // For as long as the test runs.
    std::mem::forget(held);
}

#[test]
fn machines_copies_and_room() {
    let mut world = OfficeWorld::new(0, &["anna"]);
    never_mind_the_disk(&mut world);
    world.host.login("anna");
    world.host.home.write("docs/letter.txt", "dear all");
    world.host.backup(&world.host.home.path("docs"), &[]);
    expect(&world.host, 4, "copies", Some("anna"), "warning", "no terminal has joined");
    expect(&world.host, 4, "machines", None, "note", "no terminal has joined");
    let token = world.token("pc1", &[]);
    let (mut pc, ran) = world.join("pc1", &token);
    assert_eq!(ran.code, Some(0));
    pc.start();
    until("it waits", PATIENCE, || pc.run(&["terminal", "status"]).out.contains("approval").then_some(()));
    let (_, findings) = look(&world.host);
    let pending = found(&findings, "machine", Some("pc1"));
    assert!(pending["state"] == "warning" && pending["text"].as_str().is_some_and(|text| text.contains("approval")));
    expect(&pc, 13, "connection", None, "bad", "approval");
    world.host.expect(0, &["node", "approve", "pc1"]);
    pc.await_connected();
    world.await_twice(PATIENCE);
    expect(&world.host, 0, "copies", None, "ok", "kept twice");
    // Its owner grants more than there is.
    pc.stop();
    edit(&pc, "terminal.toml", "grant = 10737418240", "grant = 9000000000000000000");
    pc.start();
    pc.await_connected();
    expect(&pc, 15, "room", None, "warning", "the disk has");
    pc.kill();
    until("it is missed", PATIENCE, || (world.node("pc1")["presence"] != "online").then_some(()));
    expect(&world.host, 0, "machine", Some("pc1"), "note", "it is away since");
}

#[test]
fn disks_logs_logins_and_the_kit() {
    let mut world = OfficeWorld::new(1, &["anna"]);
    never_mind_the_disk(&mut world);
    let pc = &world.pcs[0];
    expect(pc, 0, "login", None, "note", "nobody is logged in");
    pc.login("anna");
    expect(pc, 0, "login", None, "ok", "anna is logged in");
    world.host.expect(0, &["user", "disable", "anna"]);
    expect(pc, 12, "login", None, "bad", "does not let anna in");
    world.host.expect(0, &["user", "enable", "anna"]);
    let key: PathBuf = pc.home.path(".config/twinkeep/keys/office.account");
    fs::remove_file(key).expect("a login leaves keys");
    expect(pc, 1, "login", None, "bad", "office.account");

    let host = &world.host;
    expect(host, 0, "kit", None, "note", "nobody has tried");
    host.home.write("data/kit-verified", "2020-01-01T00:00:00Z\n");
    expect(host, 1, "kit", None, "warning", "days ago");
    fs::rename(host.data().join("kit"), host.data().join("kit.away")).expect("a host has a kit");
    expect(host, 1, "kit", None, "bad", "open nothing");
    fs::rename(host.data().join("kit.away"), host.data().join("kit")).expect("it comes back");
    host.home.write("data/kit-verified", "");

    let log = host.data().join("office/log");
    let next = fs::read_dir(&log).expect("the log is there").count() + 1;
    let blocked = log.join(format!("{next:016x}"));
    fs::create_dir_all(blocked.join("in the way")).expect("a folder");
    assert_ne!(world.pcs[0].run(&["login", "anna", "--password-file", "password"]).code, Some(0));
    expect(host, 1, "log", None, "bad", "nobody can log in");
    fs::remove_dir_all(&blocked).expect("it goes");
    world.pcs[0].login("anna");
    world.host.stop();
    edit(&world.host, "host.toml", "tell-at-percent = []", "tell-at-percent = [1]");
    world.host.start();
    until("the disk was looked at", PATIENCE, || (look(&world.host).0 == 15).then_some(()));
    expect(&world.host, 15, "disk", None, "warning", "% full");
}
