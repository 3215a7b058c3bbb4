//! What the host knows of one machine.

use twinkeep_tests::office::{OfficeWorld, PATIENCE, until};

#[test]
fn everything_known_of_a_machine_is_shown() {
    let mut world = OfficeWorld::new(2, &["anna"]);
    world.pcs[0].login("anna");
    world.pcs[0].home.write("docs/letter.txt", &"dear all ".repeat(1000));
    world.pcs[0].backup(&world.pcs[0].home.path("docs"), &["--wait", "copies=2"]);
    let shown = world.host.json(&["node", "show", "pc1"]).remove(0);
    assert!(shown["frames"].as_u64() > Some(0) && shown["used"].as_u64() > Some(0), "{shown}");
    assert_eq!(
        (&shown["presence"], &shown["draining"], &shown["given_up"]),
        (&"online".into(), &false.into(), &false.into())
    );
    assert_eq!((&shown["granted"], &shown["hours_missed"]), (&(10_u64 << 30).into(), &0.into()));
    assert_eq!(shown["address"], "127.0.0.1", "{shown}");
    assert_eq!(shown["machine_id"], format!("{:032x}", 2));
    assert!(shown["joined"].is_string() && shown["last_seen"].is_string() && shown["version"] != "", "{shown}");
    let said = world.host.expect(0, &["node", "show", "pc1"]).out;
    let fingerprint = shown["fingerprint"].as_str().expect("text");
    for part in ["pc1\n", fingerprint, "online, from 127.0.0.1", "last proof", "10.0 GiB granted"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    world.host.expect(0, &["node", "drain", "pc1"]);
    assert!(world.host.expect(0, &["node", "show", "pc1"]).out.contains("it is being emptied"));
    world.pcs[1].stop();
    until("pc2 is gone", PATIENCE, || {
        let shown = world.host.json(&["node", "show", "pc2"]).remove(0);
        (shown["presence"] != "online" && shown["address"].is_null() && shown["last_seen"].is_string()).then_some(())
    });
    let refused = world.host.run(&["node", "show", "pc9"]);
    assert!(refused.code == Some(1) && refused.err.contains("node list --all"), "{refused:?}");
    // One that joined anew is meant, and not the one before it.
    world.host.expect(0, &["node", "forget", "pc2", "--yes"]);
    assert_eq!(world.host.json(&["node", "show", "pc2"])[0]["status"], "forgotten");
    world.pcs.remove(1);
    world.add_pc("pc2");
    assert_eq!(world.host.json(&["node", "show", "pc2"])[0]["status"], "active");
}
