//! What `/healthz` answers.

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use twinkeep_tests::home::Home;
use twinkeep_tests::office::{Machine, OfficeWorld, PATIENCE, until};

/// Has a machine's service answer there from its next start on.
fn healthz_of(machine: &mut Machine) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has an address").to_string();
    machine.flags = vec!["--health".into(), address.clone()];
    address
}

/// Status and body.
fn get(address: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}

/// Waits until it answers this, about that.
fn await_health(address: &str, status: u16, about: Option<&str>) -> Value {
    let mut last = None;
    until(&format!("{status} {about:?} at {address}"), PATIENCE, || {
        let now = get(address)?;
        let abouts: Vec<String> = now.1["problems"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|problem| problem["about"].as_str().expect("a word").to_owned())
            .collect();
        let is_it = now.0 == status && about.is_none_or(|about| abouts.iter().any(|own| own == about));
        last = Some(now.clone());
        is_it.then_some(now.1)
    })
}

/// Changes lines of a host's settings, from its next start on.
fn set(host: &Machine, lines: &[(&str, &str)]) {
    let path = host.data().join("host.toml");
    let text = fs::read_to_string(&path).expect("a host has settings");
    let kept = text.lines().filter(|line| !lines.iter().any(|(name, _)| line.starts_with(&format!("{name} ="))));
    let mut text: String = kept.map(|line| format!("{line}\n")).collect();
    lines.iter().for_each(|(name, value)| text.push_str(&format!("{name} = {value}\n")));
    fs::write(&path, text).expect("settings can be edited");
}

#[test]
fn a_host_says_what_is_wrong_with_it() {
    let mut world = OfficeWorld::new(0, &["anna"]);
    world.host.stop();
    let address = healthz_of(&mut world.host);
    // How full the disk of the tests is plays no part yet.
    set(&world.host, &[("tell-at-percent", "[]")]);
    world.host.start();
    let well = await_health(&address, 200, None);
    assert_eq!((&well["status"], &well["role"], &well["name"]), (&"ok".into(), &"host".into(), &"host".into()));
    assert_eq!(well["problems"], Value::Array(Vec::new()), "{well}");

    let log = world.host.home.path("service.log");
    let before = fs::read_to_string(&log).expect("a log").len();

    // A disk that fills is no reason to be called ill, and is told.
    world.host.stop();
    set(&world.host, &[("tell-at-percent", "[1, 2]")]);
    world.host.start();
    let filling = await_health(&address, 200, Some("disk"));
    assert_eq!((&filling["status"], &filling["problems"][0]["serious"]), (&"ok".into(), &false.into()), "{filling}");
    let status = &world.host.json(&["host", "status"])[0];
    assert_eq!(status["troubles"][0]["about"], "disk", "{status}");
    assert!(world.host.expect(0, &["host", "status"]).out.contains("% full"));

    // One on which nothing may be stored any more is; what is stored can be read.
    let data = world.host.home.path("docs");
    world.host.login("anna");
    world.host.home.write("docs/letter.txt", "dear all");
    world.host.backup(&data, &[]);
    world.host.stop();
    set(&world.host, &[("reserve-bytes", &i64::MAX.to_string())]);
    world.host.start();
    let full = await_health(&address, 503, Some("disk"));
    assert_eq!(full["status"], "trouble", "{full}");
    let refused = world.host.run(&["backup", data.to_str().expect("a plain name")]);
    assert_eq!(refused.code, Some(15), "{}{}", refused.out, refused.err);
    assert!(refused.err.contains("MB left") && refused.err.contains("hint:"), "{}", refused.err);
    assert_eq!(world.host.json(&["snapshots"]).len(), 1);
    let status = &world.host.json(&["host", "status"])[0];
    assert_eq!(status["troubles"][0]["serious"], true, "{status}");
    let log = fs::read_to_string(log).expect("a log").split_off(before);
    let told = |level: &str| {
        log.lines()
            .filter(|line| line.contains("host's disk") && line.contains(&format!("\"level\":\"{level}\"")))
            .count()
    };
    assert_eq!((told("warn"), told("error")), (1, 1), "once each: {log}");
}

#[test]
fn a_host_whose_log_takes_nothing_says_so() {
    let mut world = OfficeWorld::new(0, &["anna"]);
    world.host.stop();
    let address = healthz_of(&mut world.host);
    world.host.start();
    world.host.login("anna");
    // In the place of the next entry there is something in the way: whoever tries to write it fails.
    let log = world.host.data().join("office/log");
    let next = fs::read_dir(&log).expect("the log is there").count() + 1;
    let blocked = log.join(format!("{next:016x}"));
    fs::create_dir_all(blocked.join("in the way")).expect("a folder");
    let refused = world.host.run(&["snapshots"]);
    assert_ne!(refused.code, Some(0), "nobody logs in unseen: {}", refused.out);
    let ill = await_health(&address, 503, Some("log"));
    assert_eq!(ill["status"], "trouble", "{ill}");
    fs::remove_dir_all(&blocked).expect("it goes");
    until("the log takes entries again", PATIENCE, || (world.host.run(&["snapshots"]).code == Some(0)).then_some(()));
    await_health(&address, 200, None);
}

#[test]
fn a_host_that_waits_for_an_answer_says_so_and_a_terminal_without_a_host() {
    let mut world = OfficeWorld::new(1, &[]);
    world.pcs[0].stop();
    let address = healthz_of(&mut world.pcs[0]);
    world.pcs[0].start();
    world.pcs[0].await_connected();
    let well = await_health(&address, 200, None);
    assert_eq!((&well["role"], &well["name"]), (&"terminal".into(), &"pc1".into()), "{well}");
    world.host.stop();
    let alone = await_health(&address, 503, Some("host"));
    assert!(alone["problems"][0]["text"].as_str().is_some_and(|text| !text.is_empty()), "{alone}");
    until("it says why", PATIENCE, || get(&address)?.1.to_string().contains("refused").then_some(()));
    world.host.start();
    await_health(&address, 200, None);
}

#[test]
fn it_is_not_opened_to_others_by_mistake() {
    let world = OfficeWorld::new(0, &[]);
    let data = world.host.data();
    let other = Home::new();
    let run = |flags: &[&str]| {
        let folder = data.to_str().expect("a plain name");
        other.run(&[&["host", "run", "--data", folder], flags].concat())
    };
    let refused = run(&["--health", "0.0.0.0:1"]);
    // The host of this folder runs already, so a second one ends in any case; it is told which mistake comes first.
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("--health-public"), "{}", refused.err);
    assert_eq!(run(&["--health-public"]).code, Some(2));
    assert_eq!(run(&["--health", "nonsense"]).code, Some(2));
    // A port that somebody has.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let refused = run(&["--health", &taken.local_addr().expect("an address").to_string()]);
    assert!(refused.code == Some(1) && refused.err.contains("/healthz"), "{refused:?}");
    drop(taken);
}
