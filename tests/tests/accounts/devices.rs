//! Machines from which somebody logs in without the password.

use std::time::Duration;
use twinkeep_engine::env::Dice;
use twinkeep_tests::home::Ran;
use twinkeep_tests::office::{OfficeWorld, PATIENCE, until};

/// At once, for a person and on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn a_lost_laptop_is_out_at_once() {
    let world = OfficeWorld::new(2, &["anna", "ben"]);
    let [desk, laptop] = &world.pcs[..] else { unreachable!("there are two") };
    desk.login("anna");
    laptop.login("anna");
    let told = desk.json(&["user", "devices"]);
    assert_eq!((&told[0]["message_type"], &told[0]["name"]), (&"account".into(), &"anna".into()));
    assert_eq!(told.len(), 3, "{told:?}");
    let lost = told[1..].iter().find(|device| device["is_this"] == false).expect("the laptop");
    let id = lost["id"].as_str().expect("an id").to_owned();

    laptop.home.write("docs/a", "hello");
    let mut bytes = vec![0; 64 << 20];
    Dice(7).fill(&mut bytes);
    std::fs::write(laptop.home.path("docs/big"), bytes).expect("write");
    let mut running = laptop.begin_backup(&laptop.home.path("docs"));
    let used = || world.host.json(&["user", "list"])[0]["used"].as_u64().expect("a number");
    until("something of it is stored", PATIENCE, || (used() > 0).then_some(()));
    desk.expect(2, &["user", "revoke-device", "ab"]);
    desk.expect(1, &["user", "revoke-device", "abcdefabcdef"]);
    desk.expect(0, &["user", "revoke-device", &id[..12]]);
    until("the backup ends", AT_ONCE, || running.try_wait().expect("look at the command"));
    let ended = Ran::of(running.wait_with_output().expect("it has ended"));
    assert!(matches!(ended.code, Some(12 | 13)), "{ended:?}");
    assert!(matches!(laptop.run(&["snapshots"]).code, Some(12 | 13)));
    desk.expect(0, &["snapshots"]);
    assert_eq!(desk.json(&["user", "devices"]).len(), 2);

    // An administrator may, and nobody else.
    desk.expect(13, &["user", "devices", "ben"]);
    desk.expect(13, &["user", "revoke-device", "--user", "ben", "abcd"]);
    let here = world.host.json(&["user", "devices", "anna"]);
    let id = here[1]["id"].as_str().expect("an id").to_owned();
    world.host.expect(0, &["user", "revoke-device", "--user", "anna", &id]);
    assert!(matches!(desk.run(&["snapshots"]).code, Some(12 | 13)), "refused, or told to wait");
    let refused = world.host.expect(1, &["user", "devices", "nobody"]);
    assert!(refused.err.contains("there is no account nobody"), "{}", refused.err);
    // The password is as good as ever.
    until("anna is let in", PATIENCE, || {
        let again = desk.run(&["login", "anna", "--password-file", "password"]);
        (again.code == Some(0)).then_some(())
    });
    desk.expect(0, &["snapshots"]);
}
