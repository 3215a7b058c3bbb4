use super::*;
use std::io;
use twinkeep_engine::env::Time;
use twinkeep_engine::id::VaultId;
use twinkeep_nodes::tracker::names::{MachineId, NodeKey};
use twinkeep_nodes::transport::problem::problem;

fn answer(ahead_secs: i64, program: &str, protocol: u16) -> Answer {
    let (name, round) = ("tower".to_owned(), Duration::from_millis(2));
    Answer { name, program: program.to_owned(), protocol, ahead: ahead_secs * 1_000_000_000, round }
}

fn status(connected: bool, granted: u64, bytes: u64, free: u64) -> ServiceStatus {
    ServiceStatus {
        name: "pc7".to_owned(),
        connected,
        trouble: "cannot reach the host".to_owned(),
        frames: 0,
        bytes,
        trash: 0,
        granted,
        version: "1.0".to_owned(),
        hosts: Vec::new(),
        host_key: None,
        free,
        away_until: None,
    }
}

/// State and code.
fn check(found: &Finding, state: State, code: Code) {
    assert_eq!((found.state, found.code), (state, code), "{found:?}");
    assert_eq!(found.state == State::Fine || found.state == State::Note, found.code == Code::Done, "{found:?}");
    assert!(found.state < State::Warning || found.help.is_some(), "nothing to do is said of {found:?}");
}

#[test]
fn the_worst_says_how_it_ends() {
    let (fine, note) = (Finding::fine("a", ""), Finding::note("a", ""));
    let (owed, full) = (Finding::warning("a", Code::FewerCopies, ""), Finding::warning("a", Code::NoSpace, ""));
    let (bad, out) = (Finding::bad("a", Code::NoTracker, ""), Finding::bad("a", Code::NotAllowed, ""));
    let cases: [(&[&Finding], Code); 6] = [
        (&[], Code::Done),
        (&[&fine, &note], Code::Done),
        (&[&note, &owed, &fine], Code::FewerCopies),
        (&[&full, &owed], Code::NoSpace),
        (&[&owed, &bad, &out], Code::NoTracker),
        (&[&out, &owed, &bad], Code::NotAllowed),
    ];
    for (found, expected) in cases {
        assert_eq!(worst(&found.iter().copied().cloned().collect::<Vec<_>>()), expected, "{found:?}");
    }
}

#[test]
fn a_socket_that_cannot_be_opened_has_its_reason() {
    let of = |kind: ErrorKind| no_service(Role::Terminal, Path::new("/x/terminal.sock"), &io::Error::from(kind));
    check(&of(ErrorKind::NotFound), State::Bad, Code::NoTracker);
    check(&of(ErrorKind::PermissionDenied), State::Bad, Code::NotAllowed);
    check(&of(ErrorKind::Other), State::Bad, Code::NoTracker);
    let left = of(ErrorKind::ConnectionRefused);
    check(&left, State::Bad, Code::NoTracker);
    assert!(left.text.contains("without a word"), "{left:?}");
    check(&service_hangs(Role::Host, Duration::from_secs(5)), State::Bad, Code::NoTracker);
}

#[test]
fn a_service_of_another_version_is_to_be_restarted() {
    let mut status = status(true, 0, 0, 0);
    let program = |status: &ServiceStatus| service(Role::Terminal, status, "1.0").remove(1);
    check(&program(&status), State::Fine, Code::Done);
    for other in ["0.9", ""] {
        status.version = other.to_owned();
        check(&program(&status), State::Warning, Code::Failed);
    }
}

#[test]
fn an_address_matters_less_where_another_works() {
    let astray = [
        (Reach::Unknown("no such name".into()), Code::NoTracker),
        (Reach::Refused, Code::NoTracker),
        (Reach::Silent, Code::NoTracker),
        (Reach::NoWay("no route".into()), Code::NoTracker),
        (Reach::Strange("http".into()), Code::NoTracker),
        (Reach::OtherKey, Code::WrongKey),
        (Reach::OtherVersion("too old".into()), Code::TooNew),
    ];
    let host = ("b:1".to_owned(), Reach::Host(answer(0, "1.0", NEWEST)));
    let mut texts = Vec::new();
    for (reach, code) in astray {
        let alone = addresses(Role::Terminal, &[("a:1".to_owned(), reach.clone())], false);
        check(&alone[0], State::Bad, code);
        texts.push(alone[0].text.clone());
        let both = addresses(Role::Terminal, &[("a:1".to_owned(), reach.clone()), host.clone()], false);
        check(&both[0], State::Warning, code);
        check(&both[1], State::Fine, Code::Done);
        // That nobody is there is as the host said.
        let away = addresses(Role::Terminal, &[("a:1".to_owned(), reach.clone())], true);
        let is_told = matches!(reach, Reach::Refused | Reach::Silent);
        assert_eq!(away[0].state, if is_told { State::Note } else { State::Bad }, "{reach:?}");
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 7, "each has words of its own: {texts:?}");
    check(&addresses(Role::Host, &[], false)[0], State::Bad, Code::NoTracker);
}

#[test]
fn clocks_and_programs_are_compared() {
    let clock = |secs| host(&answer(secs, "1.0", NEWEST), "1.0").remove(1);
    for (secs, state, code) in [
        (0, State::Fine, Code::Done),
        (-59, State::Fine, Code::Done),
        (61, State::Warning, Code::Failed),
        (-61, State::Warning, Code::Failed),
        (-601, State::Bad, Code::Failed),
        (i64::MAX / 1_000_000_000, State::Bad, Code::Failed),
    ] {
        check(&clock(secs), state, code);
    }
    assert!(clock(90).text.contains("behind") && clock(-90).text.contains("ahead of"));
    // An answer that took long says nothing of the clock.
    let slow = Answer { round: Duration::from_secs(40), ..answer(90, "1.0", NEWEST) };
    check(&host(&slow, "1.0")[1], State::Fine, Code::Done);
    let program = |program: &str, protocol| host(&answer(0, program, protocol), "1.0").remove(0);
    check(&program("1.0", NEWEST), State::Fine, Code::Done);
    check(&program("0.9", NEWEST), State::Note, Code::Done);
    check(&program("", NEWEST), State::Note, Code::Done);
    check(&program("0.1", NEWEST - 1), State::Warning, Code::Failed);
}

#[test]
fn the_line_and_the_room_of_a_terminal() {
    check(&line(&status(true, 0, 0, 0), true), State::Fine, Code::Done);
    check(&line(&status(false, 0, 0, 0), true), State::Bad, Code::NotAllowed);
    check(&line(&status(false, 0, 0, 0), false), State::Bad, Code::NoTracker);
    let away = ServiceStatus { away_until: Some(Time(1)), ..status(false, 0, 0, 0) };
    check(&line(&away, false), State::Note, Code::Done);
    check(&grant(&status(true, 100, 40, 60)), State::Fine, Code::Done);
    check(&grant(&status(true, 100, 40, 59)), State::Warning, Code::NoSpace);
    check(&grant(&status(true, 100, 100, 0)), State::Note, Code::Done);
    check(&grant(&status(true, 0, 0, 0)), State::Note, Code::Done);
}

#[test]
fn who_is_missing_is_told_with_the_time() {
    let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let node = |name: &str, status: &str, presence: &str, days_ago: Option<i64>| NodeRow {
        name: name.to_owned(),
        key: NodeKey([1; 32]),
        status: status.to_owned(),
        presence: presence.to_owned(),
        granted: 0,
        used: 0,
        free: 0,
        frames: 0,
        draining: false,
        last_seen: days_ago.map(|days| Time(now.as_nanosecond() as i64 - days * 86_400_000_000_000)),
        version: String::new(),
        note: String::new(),
        address: String::new(),
        machine_id: MachineId([0; 16]),
        joined: Time(0),
        proven: None,
        on_their_way: 0,
        hours_missed: 0,
        given_up: false,
        failures: 0,
        rests_until: None,
    };
    let judge = |nodes: &[NodeRow]| machines(nodes, now, &TimeZone::UTC);
    check(&judge(&[])[0], State::Note, Code::Done);
    let mut twin = node("twin", "active", "online", Some(0));
    twin.note = "it runs twice".to_owned();
    let all = [
        node("here", "active", "online", Some(0)),
        node("away", "active", "offline", Some(2)),
        node("long", "active", "offline", Some(8)),
        node("never", "active", "offline", None),
        node("new", "pending", "offline", None),
        node("old", "forgotten", "offline", None),
        twin,
    ];
    let found = judge(&all);
    assert!(found[0].text.starts_with("2 of 5 machines"), "{}", found[0].text);
    let of = |name: &str| found.iter().find(|finding| finding.about.as_deref() == Some(name));
    check(of("away").unwrap(), State::Note, Code::Done);
    assert!(of("away").unwrap().text.contains("2026-11-21 12:00:00"));
    check(of("long").unwrap(), State::Warning, Code::Failed);
    check(of("never").unwrap(), State::Note, Code::Done);
    check(of("new").unwrap(), State::Warning, Code::Failed);
    check(of("twin").unwrap(), State::Warning, Code::Failed);
    assert!(of("here").is_none() && of("old").is_none());
}

#[test]
fn what_is_owed_is_told_with_what_helps() {
    let vault = |owed_frames, why: &str| VaultRow {
        id: VaultId([1; 16]),
        name: "anna".to_owned(),
        kind: "company".to_owned(),
        owner: "anna".to_owned(),
        bytes: 9,
        owed_frames,
        owed_bytes: owed_frames * 5,
        why: why.to_owned(),
    };
    check(&copies(&[vault(0, "")])[0], State::Fine, Code::Done);
    check(&copies(&[vault(1, "")])[0], State::Note, Code::Done);
    // The words are the host's own, so that none of them goes without advice unseen.
    use twinkeep_nodes::tracker::placement::Hindrance;
    let advised = [
        Hindrance::NobodyJoined,
        Hindrance::SameMachine,
        Hindrance::NotConfirmed,
        Hindrance::HasTwin,
        Hindrance::Draining,
        Hindrance::NoRoomGranted,
        Hindrance::NoRoomLeft,
        Hindrance::NobodyOnline,
    ];
    for hindrance in advised {
        let found = copies(&[vault(1, &hindrance.to_string())]).remove(0);
        check(&found, State::Warning, Code::FewerCopies);
        assert_ne!(found.help.as_deref(), Some("another PC with room"), "{hindrance:?}");
    }
    check(&copies(&[vault(1, "something new")])[0], State::Warning, Code::FewerCopies);
}

#[test]
fn troubles_of_the_host_logins_and_the_kit() {
    let trouble = |about: &str, is_serious| TroubleRow { about: about.into(), is_serious, text: "it is so".into() };
    check(&troubles(&[])[0], State::Fine, Code::Done);
    check(&troubles(&[trouble("disk", false)])[0], State::Warning, Code::NoSpace);
    check(&troubles(&[trouble("disk", true)])[0], State::Bad, Code::NoSpace);
    for about in ["log", "question", "vaults", "threads", "something new"] {
        let found = troubles(&[trouble(about, true)]);
        check(&found[0], State::Bad, Code::Failed);
        check(&found[1], State::Fine, Code::Done);
    }
    check(&login(None), State::Note, Code::Done);
    check(&login(Some(("anna", Ok(())))), State::Fine, Code::Done);
    check(&login(Some(("anna", Err(&problem(Why::Away, "away"))))), State::Note, Code::Done);
    for (why, code) in [
        (Why::WrongKey, Code::WrongKey),
        (Why::NotAllowed, Code::NotAllowed),
        (Why::Unreachable, Code::NoTracker),
        (Why::Other, Code::Failed),
    ] {
        check(&login(Some(("anna", Err(&problem(why, "no"))))), State::Bad, code);
    }
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let now = at("2026-11-23T12:00:00Z");
    check(&kit(false, Some(now), now), State::Bad, Code::Failed);
    check(&kit(true, None, now), State::Note, Code::Done);
    check(&kit(true, Some(at("2026-11-01T12:00:00Z")), now), State::Fine, Code::Done);
    check(&kit(true, Some(at("2026-01-01T12:00:00Z")), now), State::Warning, Code::Failed);
}
