//! Machines that join, people who log in, and those who may not any more.

use std::time::{Duration, Instant};
use twinkeep_engine::env::Dice;
use twinkeep_nodes::tracker::nodelist::NodeList;
use twinkeep_nodes::tracker::sign::AuthorityKey;
use twinkeep_tests::office::{Machine, OfficeWorld, PASSWORD, PATIENCE, until};

/// At once, for a person and on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn a_machine_takes_part_once_it_is_approved() {
    let mut world = OfficeWorld::new(0, &["anna"]);
    let token = world.token("pc1", &[]);
    let (mut pc, ran) = world.join("pc1", &token);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    pc.start();
    let waits = |status: &str| status.contains("approval");
    until("it says that it waits", PATIENCE, || waits(&pc.run(&["terminal", "status"]).out).then_some(()));
    assert_eq!(world.node("pc1")["status"], "pending");
    pc.home.write("password", PASSWORD);
    pc.expect(16, &["login", "anna", "--password-file", "password"]);
    world.host.expect(0, &["node", "approve", "pc1"]);
    pc.await_connected();
    assert_eq!(world.node("pc1")["status"], "active");
    pc.login("anna");
    pc.home.write("docs/a", "hello");
    pc.backup(&pc.home.path("docs"), &["--wait", "copies=2"]);
}

#[test]
fn a_token_is_good_once_and_only_as_it_was_written() {
    let mut world = OfficeWorld::new(0, &[]);
    let token = world.token("pc1", &["--auto"]);
    let mut typed = token.trim_end().to_owned();
    let at = typed.len() / 2;
    // Case does not matter in a token.
    let other = if typed[at..=at].eq_ignore_ascii_case("a") { "b" } else { "a" };
    typed.replace_range(at..=at, other);
    let (_, mistyped) = world.join("pc1", &typed);
    assert_eq!(mistyped.code, Some(2), "{}{}", mistyped.out, mistyped.err);
    let (_first, ran) = world.join("pc1", &token);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    let (_thief, again) = world.join("pc1", &token);
    assert_ne!(again.code, Some(0), "{}{}", again.out, again.err);
    let nodes = world.host.json(&["node", "list", "--all"]);
    assert_eq!(nodes.len(), 1, "{nodes:?}");
}

#[test]
fn who_is_locked_out_is_out_at_once() {
    let world = OfficeWorld::new(1, &["anna", "ben"]);
    let pc = &world.pcs[0];
    pc.home.write("wrong", "guess");
    pc.expect(12, &["login", "anna", "--password-file", "wrong"]);
    pc.expect(12, &["login", "nobody", "--password-file", "wrong"]);
    pc.expect(12, &["backup", "/etc/hostname", "--vault", "twinkeep://"]);
    // Who guesses waits for a while, and then the right password opens.
    pc.home.write("password", PASSWORD);
    let again = || pc.run(&["login", "anna", "--password-file", "password"]);
    until("anna is let in", AT_ONCE, || (again().code == Some(0)).then_some(()));
    pc.home.write("docs/a", "hello");
    let docs = pc.home.path("docs");
    pc.backup(&docs, &[]);
    // A vault of another account is none.
    pc.expect(10, &["--vault", "twinkeep://ben", "snapshots"]);

    // Connected, in the middle of a long backup.
    let mut bytes = vec![0; 64 << 20];
    Dice(7).fill(&mut bytes);
    std::fs::write(docs.join("big"), bytes).expect("write");
    let mut running = pc.begin_backup(&docs);
    let used = || world.host.json(&["user", "list"])[0]["used"].as_u64().expect("a number");
    let before = used();
    until("something of it is stored", PATIENCE, || (used() > before).then_some(()));
    world.host.expect(0, &["user", "disable", "anna"]);
    let begun = Instant::now();
    until("the backup ends", AT_ONCE, || running.try_wait().expect("look at the command"));
    let ended = running.wait_with_output().expect("it has ended");
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(matches!(ended.status.code(), Some(12 | 13)), "{}: {text}", ended.status);
    println!("locked out after {:?}", begun.elapsed());
    assert!(matches!(pc.run(&["snapshots"]).code, Some(12 | 13)));

    world.host.expect(0, &["user", "enable", "anna"]);
    // Her device has tried in vain while she was locked out, which makes it wait like anybody who guesses.
    until("her device is let in", AT_ONCE, || (pc.run(&["snapshots"]).code == Some(0)).then_some(()));
    assert_eq!(pc.json(&["snapshots"]).len(), 1, "what she had is there");
    pc.backup(&docs, &[]);
}

#[test]
fn a_revoked_machine_is_cut_off_at_once() {
    let world = OfficeWorld::new(2, &["anna"]);
    let [stolen, other] = &world.pcs[..] else { unreachable!("there are two") };
    stolen.login("anna");
    stolen.home.write("docs/a", "hello");
    let docs = stolen.home.path("docs");
    let made = stolen.backup(&docs, &["--wait", "copies=2"]);
    world.host.expect(0, &["--yes", "node", "revoke", "pc1"]);
    until("it is cut off", AT_ONCE, || (!stolen.is_connected()).then_some(()));
    assert_eq!(world.node("pc1")["status"], "revoked");
    // The others hear of it, in a list that only the company can have signed.
    until("pc2 knows it", AT_ONCE, || lists_revoked(other, "pc1").then_some(()));
    let ran = stolen.run(&["snapshots"]);
    assert!(matches!(ran.code, Some(13 | 16)), "{:?}: {}{}", ran.code, ran.out, ran.err);
    // Its copy does not count any more; another is made.
    world.await_twice(PATIENCE);
    assert!(world.node("pc2")["frames"].as_u64() > Some(0));
    // It tries again and again, and stays out.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(!stolen.is_connected());
        assert_eq!(world.node("pc1")["presence"], "offline");
    }
    other.login("anna");
    let (_target, inside) = other.restore(made["snapshot_id"].as_str().expect("an id"), &docs);
    assert_eq!(std::fs::read_to_string(inside.join("a")).expect("it is back"), "hello");
}

/// Whether the newest list that a machine keeps says that another is revoked.
fn lists_revoked(machine: &Machine, name: &str) -> bool {
    let settings = std::fs::read_to_string(machine.data().join("terminal.toml")).expect("a terminal has settings");
    let authority = settings.lines().find_map(|line| line.strip_prefix("authority = ")).expect("it knows its company");
    let authority = AuthorityKey::from_hex(authority.trim_matches('"')).expect("a key");
    let kept = std::fs::read(machine.data().join("nodes.list")).expect("it keeps a list");
    let len = u32::from_le_bytes(kept[..4].try_into().expect("a length"));
    let list = NodeList::decode(&kept[4..4 + len as usize], &authority).expect("it is signed");
    list.nodes().iter().any(|node| node.name == name && node.revoked)
}

#[test]
fn a_full_quota_harms_nothing_that_is_there() {
    let world = OfficeWorld::new(1, &[]);
    world.add_user("anna", &["--quota", "4M"]);
    let pc = &world.pcs[0];
    pc.login("anna");
    let docs = pc.home.path("docs");
    pc.home.write("docs/a", "hello");
    pc.backup(&docs, &[]);
    let mut bytes = vec![0; 12 << 20];
    Dice(3).fill(&mut bytes);
    std::fs::write(docs.join("big"), &bytes).expect("write");
    let refused = pc.expect(14, &["backup", docs.to_str().expect("a plain name")]);
    assert!(refused.err.contains("used up"), "{}", refused.err);
    let snapshots = pc.json(&["snapshots"]);
    let whole = snapshots.iter().filter(|snapshot| snapshot["partial"] != true).count();
    assert_eq!(whole, 1, "{snapshots:?}");
    let (_target, inside) = pc.restore("latest", &docs);
    assert_eq!(std::fs::read_to_string(inside.join("a")).expect("it is back"), "hello");
    // More room, and it goes through.
    world.host.expect(0, &["user", "quota", "anna", "100M"]);
    pc.backup(&docs, &["--wait", "copies=2"]);
    let (_target, inside) = pc.restore("latest", &docs);
    assert_eq!(std::fs::read(inside.join("big")).expect("it is back"), bytes);
}

#[test]
fn who_is_not_logged_in_is_told_that_a_backup_stays_on_the_pc() {
    let world = OfficeWorld::new(1, &["anna"]);
    let pc = &world.pcs[0];
    pc.home.write("docs/letter", "dear all");
    let docs = pc.home.path("docs");
    let told = |code, docs: &std::path::Path| {
        let ran = pc.expect(code, &["backup", docs.to_str().expect("a plain name")]);
        ran.err.contains("twinkeep login")
    };
    assert!(told(0, &docs), "the first one says where it goes");
    assert!(!told(0, &docs), "the next one does not");
    pc.login("anna");
    let summary = pc.backup(&docs, &["--wait", "copies=2"]);
    assert_eq!((&summary["level"], &summary["files_new"]), (&"P2".into(), &1.into()), "{summary}");
}

#[test]
fn the_words_of_the_kit_are_tried_before_the_machine_knows_its_host() {
    let world = OfficeWorld::new(0, &[]);
    let stranger = twinkeep_tests::home::Home::new();
    stranger.write("words", &["abandon"; 23].join(" "));
    let data = world.host.data();
    let ran =
        |args: &[&str]| stranger.run(&[&["host", "kit", "verify", "--recovery-words-file", "words"], args].concat());
    assert_eq!(ran(&[]).code, Some(10), "it knows of no host");
    let named = ran(&["--data", data.to_str().expect("a plain name")]);
    assert!(named.err.contains("recovery words"), "it looks into the words: {}", named.err);
}

/// Whoever makes new words and does not see them goes on with the old ones.
#[test]
fn words_that_nobody_sees_are_never_the_right_ones() {
    let world = OfficeWorld::new(0, &[]);
    let host = &world.host;
    let full = |args: &[&str]| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there is one");
        let full_too = full.try_clone().expect("a second one");
        host.home.command(args).stderr(full).stdout(full_too).status().expect("the command runs").code()
    };
    let renew = ["host", "kit", "renew", "--recovery-words-file", "kit-words"];
    let verify = ["host", "kit", "verify", "--recovery-words-file", "kit-words"];
    assert_eq!(full(&renew), Some(1));
    host.expect(0, &verify);
    assert_eq!(full(&[&["--json"], &renew[..]].concat()), Some(1));
    host.expect(0, &verify);
    let renewed = host.expect(0, &renew);
    host.expect(12, &verify);
    host.home.write("kit-words", &renewed.err);
    host.expect(0, &verify);

    let stranger = twinkeep_tests::home::Home::new();
    let init = ["host", "init", "--data", "data"];
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there is one");
    assert_eq!(stranger.command(&init).stderr(full).status().expect("the command runs").code(), Some(1));
    assert_ne!(stranger.run(&["host", "status"]).code, Some(0));
    stranger.write("words", &stranger.expect(0, &init).err);
    stranger.expect(0, &["host", "kit", "verify", "--recovery-words-file", "words"]);
}

#[test]
fn a_machine_that_has_an_office_is_not_given_another_unasked() {
    let world = OfficeWorld::new(1, &["anna"]);
    let settings =
        |machine: &Machine| std::fs::read_to_string(machine.home.path(".config/twinkeep/office.toml")).unwrap();
    let before = settings(&world.host);
    let said = world.host.expect(1, &["host", "init", "--data", "other"]).err;
    assert!(said.contains("already") && said.contains("office.toml"), "{said}");
    assert_eq!(settings(&world.host), before);
    let pc = &world.pcs[0];
    pc.home.write("token", &world.token("pc9", &["--auto"]));
    let join = ["terminal", "join", "--token-file", "token", "--grant", "1G", "--data", "other"];
    assert!(pc.expect(1, &join).err.contains("already"));
    assert!(!pc.home.path("other").exists());
    let missing = pc.expect(1, &["terminal", "join", "--token-file", "nope", "--grant", "1G", "--data", "other"]);
    assert!(missing.err.contains("join token from nope"), "{}", missing.err);
    // One whose folder is gone is over.
    pc.home.write(".config/twinkeep/office.toml", "role = \"terminal\"\ndata = \"/nowhere/at/all\"\n");
    pc.expect(0, &[&join[..], &["--machine-id", &format!("{:032x}", 99)]].concat());
    let said = world.host.expect(1, &["terminal", "status"]).err;
    assert!(said.contains("host status"), "{said}");
    assert!(world.host.expect(1, &["node", "approve", "pc1"]).err.contains("pc1 does not wait"));
    assert!(world.host.expect(0, &["--yes", "node", "give-up"]).out.contains("nothing is given up"));
}

#[test]
fn what_is_asked_for_wrongly_is_refused() {
    let home = twinkeep_tests::home::Home::new();
    home.write("docs/a", "hello");
    for bad in ["twinkeep:/bert/bert", "twinkeep:bert", "twinkeep:///bert", "twinkeep://bert//team"] {
        let said = home.expect(2, &["--vault", bad, "backup", "docs"]).err;
        assert!(said.contains("twinkeep://OWNER/NAME"), "{said}");
        assert!(!home.path("twinkeep:").exists());
    }
    let said = home.expect(2, &["--vault", "folder", "backup", "docs", "--wait", "copies=2"]).err;
    assert!(said.contains("no second copy"), "{said}");
    assert!(!home.path("folder").exists());
    home.expect(0, &["--vault", "folder", "backup", "docs", "--wait", "copies=1"]);
}

#[test]
fn who_logs_out_without_the_host_is_told_how_to_end_it_there() {
    let mut world = OfficeWorld::new(2, &["anna"]);
    world.pcs[0].login("anna");
    world.host.kill();
    let said = world.pcs[0].expect(0, &["logout"]).err;
    let digits = said.split("revoke-device ").nth(1).expect("it says how").split('`').next().expect("and which");
    world.host.start();
    let other = &world.pcs[1];
    other.await_connected();
    other.login("anna");
    other.expect(0, &["user", "revoke-device", digits]);
    assert!(world.pcs[0].expect(0, &["logout"]).err.is_empty(), "nobody is logged in");
}

#[test]
fn after_a_reset_the_vault_that_opens_is_meant() {
    let world = OfficeWorld::new(1, &[]);
    world.add_user("carla", &["--private"]);
    let pc = &world.pcs[0];
    pc.login("carla");
    pc.home.write("docs/a", "hello");
    let docs = pc.home.path("docs");
    pc.backup(&docs, &[]);
    let reset = ["user", "reset", "carla", "--recovery-words-file", "kit-words", "--new-password-file", "password"];
    world.host.expect(0, &[&reset[..], &["--give-up-private"]].concat());
    let said = pc.expect(12, &["snapshots"]).err;
    assert!(said.contains("disabled") && said.contains("twinkeep login"), "{said}");
    until("she is let in", AT_ONCE, || {
        (pc.run(&["login", "carla", "--password-file", "password"]).code == Some(0)).then_some(())
    });
    assert!(pc.expect(12, &["backup", "docs"]).err.contains("vault create"));
    pc.expect(0, &["vault", "create", "carla2"]);
    pc.backup(&docs, &[]);
    assert_eq!(pc.json(&["snapshots"]).len(), 1);
}
