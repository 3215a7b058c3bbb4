//! Terminals that leave, come back, or come back with empty hands.

use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};
use twinkeep_tests::fidelity::judge;
use twinkeep_tests::home::messages;
use twinkeep_tests::office::{OfficeWorld, PATIENCE, source, until};
use twinkeep_tests::tree::Shape;

const SHAPE: Shape = Shape { files: 40, wide: 100, len_max: 60 << 10 };

fn held(world: &OfficeWorld, name: &str) -> u64 {
    world.node(name)["frames"].as_u64().expect("a number")
}

#[test]
fn copies_of_a_machine_that_does_not_come_back_are_made_again() {
    let can_judge = judge::is_there();
    let mut world = OfficeWorld::new(3, &["anna"]);
    world.pcs[0].login("anna");
    let tree = source(21, SHAPE);
    let made = world.pcs[0].backup(&tree.root(), &["--wait", "copies=2"]);
    let id = made["snapshot_id"].as_str().expect("an id");
    let frames = held(&world, "pc1");
    assert!(frames > 0 && held(&world, "pc2") == 0 && held(&world, "pc3") == 0, "the writer keeps what it wrote");
    world.pcs[0].kill();
    assert_eq!(world.owed(), 0, "a machine that is off for a while still counts");
    world.host.expect(0, &["--yes", "node", "forget", "pc1"]);
    world.await_twice(PATIENCE);
    assert_eq!(held(&world, "pc1"), 0);
    assert_eq!(held(&world, "pc2") + held(&world, "pc3"), frames);
    world.pcs[1].login("anna");
    if can_judge {
        world.pcs[1].restores_equal(id, &tree.root(), &tree.root());
    }
    world.scrub();
    world.await_twice(PATIENCE);
}

#[test]
fn a_machine_that_is_drained_ends_empty_handed() {
    let world = OfficeWorld::new(2, &["anna"]);
    world.pcs[0].login("anna");
    let tree = source(22, SHAPE);
    world.pcs[0].backup(&tree.root(), &["--wait", "copies=2"]);
    let frames = held(&world, "pc1");
    assert!(frames > 0, "the writer keeps what it wrote");
    world.host.expect(0, &["node", "drain", "pc1"]);
    until("everything is elsewhere", PATIENCE, || (held(&world, "pc2") == frames).then_some(()));
    world.await_twice(PATIENCE);
    // What is written there from now on goes elsewhere as well.
    let more = source(23, SHAPE);
    let made = world.pcs[0].backup(&more.root(), &["--wait", "copies=2"]);
    assert_eq!(made["level"], "P2", "{made}");
    assert!(held(&world, "pc2") > frames);
    world.host.expect(0, &["--yes", "node", "forget", "pc1"]);
    assert_eq!(world.owed(), 0, "nothing is owed to a machine that was emptied");
}

#[test]
fn nothing_is_lost_while_a_machine_is_off() {
    let can_judge = judge::is_there();
    let mut world = OfficeWorld::new(2, &["anna", "ben"]);
    world.pcs[0].login("anna");
    world.pcs[1].login("ben");
    let mut trees = [source(31, SHAPE), source(32, SHAPE)];
    world.pcs[0].backup(&trees[0].root(), &["--wait", "copies=2"]);
    world.pcs[1].backup(&trees[1].root(), &["--wait", "copies=2"]);
    let had = held(&world, "pc2");
    world.pcs[1].stop();
    until("the host sees it go", PATIENCE, || (world.node("pc2")["presence"] == "offline").then_some(()));
    trees[0].change();
    let made = world.pcs[0].backup(&trees[0].root(), &["--wait", "copies=2"]);
    assert_eq!(made["level"], "P2", "{made}");
    assert_eq!(held(&world, "pc2"), had, "it still counts");
    world.pcs[1].start();
    world.pcs[1].await_connected();
    world.await_twice(PATIENCE);
    assert!(held(&world, "pc2") >= had);
    trees[1].change();
    let made = world.pcs[1].backup(&trees[1].root(), &["--wait", "copies=2"]);
    if can_judge {
        let id = made["snapshot_id"].as_str().expect("an id");
        world.pcs[1].restores_equal(id, &trees[1].root(), &trees[1].root());
    }
}

#[test]
fn a_machine_that_comes_back_with_nothing_gets_its_copies_again() {
    let mut world = OfficeWorld::new(1, &["anna"]);
    world.pcs[0].login("anna");
    let tree = source(41, SHAPE);
    let made = world.pcs[0].backup(&tree.root(), &["--wait", "copies=2"]);
    let had = held(&world, "pc1");
    world.pcs[0].stop();
    fs::remove_dir_all(world.pcs[0].data().join("copies")).expect("somebody tidies up");
    assert_eq!(world.owed(), 0, "nobody knows yet");
    world.pcs[0].start();
    world.pcs[0].await_connected();
    until("they are back", PATIENCE, || {
        let status = world.pcs[0].json(&["terminal", "status"]);
        (status[0]["frames"].as_u64() == Some(had)).then_some(())
    });
    world.await_twice(PATIENCE);
    assert_eq!(held(&world, "pc1"), had);
    if judge::is_there() {
        let id = made["snapshot_id"].as_str().expect("an id");
        world.pcs[0].restores_equal(id, &tree.root(), &tree.root());
    }
}

#[test]
fn a_machine_that_hangs_is_passed_over_until_it_goes_on() {
    let mut world = OfficeWorld::new(2, &["anna"]);
    world.pcs[0].login("anna");
    // What is written at pc1 is to be sent to pc2.
    world.host.expect(0, &["node", "drain", "pc1"]);
    world.pcs[1].freeze();
    let tree = source(51, SHAPE);
    let made = world.pcs[0].backup(&tree.root(), &[]);
    assert_eq!(made["level"], "P1", "{made}");
    assert!(world.owed() > 0);
    let presence = || world.node("pc2")["presence"].as_str().map(str::to_owned);
    until("the host takes it for gone", PATIENCE, || (presence().as_deref() == Some("offline")).then_some(()));
    let why = || world.host.expect(4, &["copies", "why"]).out;
    until("the host says so", PATIENCE, || why().contains("no terminal with room is online").then_some(()));
    world.add_pc("pc3");
    world.await_twice(PATIENCE);
    world.pcs[1].thaw();
    world.pcs[1].await_connected();
    world.host.expect(0, &["--yes", "node", "forget", "pc3"]);
    world.await_twice(PATIENCE);
    assert!(held(&world, "pc2") > 0, "it is given copies again");
}

#[test]
fn a_host_that_is_started_again_is_found_at_once() {
    let mut world = OfficeWorld::new(2, &["anna"]);
    for _ in 0..8 {
        world.host.kill();
        world.host.start();
        let begun = Instant::now();
        world.pcs.iter().for_each(|pc| pc.await_connected());
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_pc_whose_service_does_not_run_reaches_the_host_itself() {
    let can_judge = judge::is_there();
    let mut world = OfficeWorld::new(2, &["anna"]);
    world.pcs[0].login("anna");
    let tree = source(26, SHAPE);
    world.pcs[0].stop();
    let pc = &world.pcs[0];
    let ran = pc.expect(0, &["--json", "backup", tree.root().to_str().unwrap(), "--wait", "copies=2"]);
    assert!(ran.out.contains("the service of this machine does not run"), "{}", ran.out);
    let summary = messages(&ran.out).into_iter().find(|told| told["message_type"] == "summary").unwrap();
    assert_eq!((summary["level"].as_str(), &summary["holders"]), (Some("P2"), &json!(["pc2"])), "{summary}");
    assert_eq!(held(&world, "pc1"), 0, "nobody there could keep it");
    let id = summary["snapshot_id"].as_str().unwrap();
    if can_judge {
        world.pcs[0].restores_equal(id, &tree.root(), &tree.root());
    }
    // Nor does that way lead past being locked out, or to a host that is not there.
    world.host.expect(0, &["--yes", "node", "revoke", "pc1"]);
    world.pcs[0].expect(13, &["snapshots"]);
    world.host.kill();
    world.pcs[0].expect(16, &["snapshots"]);
}
