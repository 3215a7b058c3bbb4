//! A host that is stopped on purpose.

use std::fs;
use twinkeep_tests::home::{Ran, messages};
use twinkeep_tests::office::{Machine, OfficeWorld, PATIENCE, source, until};
use twinkeep_tests::seeds::seeds;
use twinkeep_tests::tree::Shape;

fn status(machine: &Machine) -> serde_json::Value {
    machine.json(&["terminal", "status"]).remove(0)
}

/// What a service has logged as a warning or worse since this length of its log.
fn warnings(machine: &Machine, since: usize) -> Vec<String> {
    let log = fs::read_to_string(machine.home.path("service.log")).expect("a log").split_off(since);
    let is_warning = |line: &&str| line.contains("\"level\":\"warn\"") || line.contains("\"level\":\"error\"");
    log.lines().filter(is_warning).map(str::to_owned).collect()
}

fn log_len(machine: &Machine) -> usize {
    fs::metadata(machine.home.path("service.log")).expect("a log").len() as usize
}

#[test]
fn terminals_know_that_the_host_is_away_on_purpose() {
    let mut world = OfficeWorld::new(2, &["anna"]);
    world.pcs[0].login("anna");
    world.pcs[0].home.write("docs/letter.txt", "dear all");
    let docs = world.pcs[0].home.path("docs");
    world.pcs[0].backup(&docs, &["--wait", "copies=2"]);
    let before: Vec<usize> = world.pcs.iter().map(log_len).collect();
    let stopped = world.host.json(&["host", "stop", "--planned", "--for", "1h30m"]).remove(0);
    assert_eq!((&stopped["there"], &stopped["heard"], &stopped["seconds"]), (&2.into(), &2.into(), &5400.into()));
    world.host.await_ended();
    for pc in &world.pcs {
        until(&format!("{} has no host", pc.name), PATIENCE, || (status(pc)["connected"] == false).then_some(()));
        let told = status(pc);
        assert!(told["away_until"].is_string(), "{told}");
        let said = pc.expect(0, &["terminal", "status"]).out;
        assert!(said.contains(&format!("{}: the host is away on purpose until 20", pc.name)), "{said}");
        // Whoever looks for what is wrong finds nothing.
        pc.expect(0, &["doctor"]);
    }
    let ran = world.pcs[0].run(&["snapshots"]);
    assert!(ran.code == Some(16) && ran.err.contains("on purpose, for 1 h 30 min more"), "{}", ran.err);
    let ran = world.pcs[0].run(&["backup", docs.to_str().expect("a plain name")]);
    assert!(ran.err.contains("the host is away on purpose"), "{}{}", ran.out, ran.err);
    world.host.start();
    for (pc, before) in world.pcs.iter().zip(before) {
        pc.await_connected();
        assert!(status(pc)["away_until"].is_null());
        assert_eq!(warnings(pc, before), Vec::<String>::new(), "{}", pc.name);
    }
    world.pcs[0].backup(&docs, &["--wait", "copies=2"]);
}

#[test]
fn a_terminal_that_starts_meanwhile_knows_it_too() {
    let mut world = OfficeWorld::new(1, &[]);
    world.host.expect(0, &["host", "stop", "--planned", "--for", "1h30m"]);
    world.host.await_ended();
    let pc = &mut world.pcs[0];
    pc.kill();
    pc.start();
    let told = status(pc);
    assert!(told["away_until"].is_string(), "{told}");
    pc.expect(0, &["doctor"]);
    world.host.start();
    world.pcs[0].await_connected();
    assert!(status(&world.pcs[0])["away_until"].is_null());
    // When it is missed after that, nobody said so.
    world.host.kill();
    let pc = &mut world.pcs[0];
    pc.kill();
    pc.start();
    let told = status(pc);
    assert!(told["away_until"].is_null(), "{told}");
}

#[test]
fn a_host_that_is_not_back_in_time_is_missed() {
    let mut world = OfficeWorld::new(1, &[]);
    let before = log_len(&world.pcs[0]);
    world.host.expect(0, &["host", "stop", "--planned", "--for", "1s"]);
    world.host.await_ended();
    let pc = &world.pcs[0];
    let words = "is not back in time";
    until("the time is over", PATIENCE, || {
        let told = status(pc);
        let is_missed = told["trouble"].as_str().is_some_and(|text| text.contains(words));
        (is_missed && told["away_until"].is_null()).then_some(())
    });
    pc.expect(16, &["doctor"]);
    until("it warns", PATIENCE, || (!warnings(pc, before).is_empty()).then_some(()));
    // One that is stopped without a word is missed at once, and stops as well.
    world.host.start();
    world.pcs[0].await_connected();
    let stopped = world.host.json(&["host", "stop"]).remove(0);
    assert!(stopped["planned"] == false && stopped["seconds"].is_null(), "{stopped}");
    world.host.await_ended();
    let pc = &world.pcs[0];
    until("it has no host", PATIENCE, || (status(pc)["connected"] == false).then_some(()));
    assert!(status(pc)["away_until"].is_null());
}

#[test]
fn who_may_not_stop_it_does_not() {
    let world = OfficeWorld::new(1, &[]);
    world.add_user("boss", &["--admin"]);
    world.pcs[0].login("boss");
    let refused = world.pcs[0].run(&["host", "stop"]);
    assert!(refused.code == Some(13) && refused.err.contains("hint:"), "{refused:?}");
    for wrong in [&["--for", "2h"][..], &["--planned", "--for", "0s"], &["--planned", "--for", "60d"]] {
        let ran = world.host.run(&[&["host", "stop"], wrong].concat());
        assert_eq!(ran.code, Some(2), "{wrong:?}: {}", ran.err);
    }
    assert_eq!(world.host.run(&["host", "stop", "--planned", "--for", "soon"]).code, Some(2));
    assert!(world.pcs[0].is_connected() && world.host.run(&["host", "status"]).code == Some(0), "it runs on");
}

/// Backups from two PCs are under way when the host is stopped: they are told so in words, what was settled is there
/// afterwards, and the next ones come to their end.
#[test]
fn what_is_under_way_ends_in_order() {
    for seed in seeds(&[31]) {
        println!("seed {seed}");
        let shape = Shape { files: 400, wide: 2000, len_max: 400 << 10 };
        let trees = [source(seed, shape), source(seed + 1, shape)];
        let mut world = OfficeWorld::new(2, &["anna", "ben"]);
        ["anna", "ben"].into_iter().zip(&world.pcs).for_each(|(name, pc)| pc.login(name));
        world.pcs[0].home.write("docs/letter.txt", "dear all");
        let first = world.pcs[0].backup(&world.pcs[0].home.path("docs"), &["--wait", "copies=2"]);
        let running: Vec<_> = world.pcs.iter().zip(&trees).map(|(pc, tree)| pc.begin_backup(&tree.root())).collect();
        // Both have begun to write: their sessions have packs of their own.
        let packs = |world: &OfficeWorld| {
            let count = |dir: std::path::PathBuf| fs::read_dir(dir.join("packs")).map_or(0, Iterator::count);
            world.vault_dirs().into_iter().map(count).filter(|packs| *packs > 0).count()
        };
        until("both write", PATIENCE, || (packs(&world) == 2).then_some(()));
        world.host.expect(0, &["host", "stop", "--planned", "--for", "10m"]);
        world.host.await_ended();
        let ended: Vec<Ran> =
            running.into_iter().map(|child| Ran::of(child.wait_with_output().expect("it ends"))).collect();
        for ran in &ended {
            // Done before it came to that, or told in words.
            let is_told = ran.out.contains("on purpose") || ran.err.contains("on purpose");
            assert!(ran.code == Some(0) || is_told, "{ran:?}");
        }
        world.host.start();
        world.pcs.iter().for_each(Machine::await_connected);
        let listed = world.pcs[0].json(&["snapshots"]);
        assert!(listed.iter().any(|snapshot| snapshot["id"] == first["snapshot_id"]), "{listed:?}");
        for (ran, pc) in ended.iter().zip(&world.pcs).filter(|(ran, _)| ran.code == Some(0)) {
            let summary = messages(&ran.out).pop().expect("a summary");
            let listed = pc.json(&["snapshots"]);
            assert!(listed.iter().any(|snapshot| snapshot["id"] == summary["snapshot_id"]), "{listed:?}");
        }
        for (pc, tree) in world.pcs.iter().zip(&trees) {
            pc.backup(&tree.root(), &["--wait", "copies=2"]);
            pc.expect(0, &["check", "--read-data"]);
        }
        world.await_twice(PATIENCE);
        world.scrub();
        let told = ended.iter().filter(|ran| ran.code != Some(0)).count();
        println!("{told} of 2 backups were under way");
    }
}
