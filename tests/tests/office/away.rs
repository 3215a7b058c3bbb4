//! Backups while the host is away: kept on the PC, sent when it is back.

use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use twinkeep_engine::env::Dice;
use twinkeep_tests::fidelity::judge;
use twinkeep_tests::home::messages;
use twinkeep_tests::office::{Machine, OfficeWorld, PATIENCE, source, until};
use twinkeep_tests::seeds::seeds;
use twinkeep_tests::tree::{Shape, SourceTree};

const SHAPE: Shape = Shape { files: 60, wide: 300, len_max: 100 << 10 };

/// Backs up with the host away; the summary.
fn backup_alone(pc: &Machine, tree: &SourceTree) -> Value {
    let ran = pc.expect(4, &["--json", "backup", tree.root().to_str().unwrap()]);
    let summary = messages(&ran.out).into_iter().find(|told| told["message_type"] == "summary").unwrap();
    assert_eq!((summary["level"].as_str(), summary["holders"].as_array().map(Vec::len)), (Some("P0"), Some(0)));
    summary
}

fn id(summary: &Value) -> String {
    summary["snapshot_id"].as_str().expect("a snapshot was made").to_owned()
}

/// What waits on a machine: the folders of vaults.
fn waiting(pc: &Machine) -> Vec<PathBuf> {
    let outbox = pc.home.path(".local/share/twinkeep/outbox");
    let entries = std::fs::read_dir(outbox).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_none() && path.is_dir()).collect()
}

fn listed(pc: &Machine) -> Vec<String> {
    pc.json(&["snapshots"]).iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_backed_up_without_the_host_is_sent_when_it_is_back() {
    for seed in seeds(&[21]) {
        println!("seed {seed}");
        let mut tree = source(seed, SHAPE);
        let mut world = OfficeWorld::new(1, &["anna", "ben"]);
        world.pcs[0].login("anna");
        let first = id(&world.pcs[0].backup(&tree.root(), &["--wait", "copies=2"]));
        world.host.kill();

        tree.change();
        let second = backup_alone(&world.pcs[0], &tree);
        assert!(second["files_new"].as_u64() > Some(0), "{second}");
        tree.change();
        let third = backup_alone(&world.pcs[0], &tree);
        assert_eq!(third["parent"], second["snapshot_id"], "it goes on from the second: {third}");
        let (second, third) = (id(&second), id(&third));

        // Without the host what was made without it can be read, and only that.
        let pc = &world.pcs[0];
        let folder = waiting(pc).pop().expect("something waits");
        let refused = pc.expect(16, &["snapshots"]);
        assert!(refused.err.contains(folder.to_str().unwrap()), "the hint says where: {}", refused.err);
        let here = folder.to_str().unwrap();
        assert_eq!(pc.json(&["--vault", here, "snapshots"]).len(), 2);
        if judge::is_there() {
            let target = pc.home.path("alone");
            pc.expect(0, &["--vault", here, "restore", &third, "--target", target.to_str().unwrap()]);
            let inside = target.join(tree.root().strip_prefix("/").unwrap());
            let found = judge::differences(&tree.root(), &inside, Default::default());
            assert!(found.is_empty(), "{found:#?}");
        }

        // The service sends it by itself.
        world.host.start();
        let pc = &world.pcs[0];
        until("nothing waits any more", PATIENCE, || waiting(pc).is_empty().then_some(()));
        assert_eq!(listed(pc), [first, second, third.clone()]);
        world.await_twice(PATIENCE);
        if judge::is_there() {
            pc.restores_equal(&third, &tree.root(), &tree.root());
        }
        let last = pc.backup(&tree.root(), &[]);
        let same = (last["parent"].as_str(), last["files_new"].as_u64(), last["bytes_added"].as_u64());
        assert_eq!((same.0, same.1), (Some(&third[..]), Some(0)), "{last}");
        pc.expect(0, &["check", "--read-data"]);
    }
}

#[test]
fn a_host_that_dies_in_the_middle_costs_no_backup() {
    for seed in seeds(&[22]) {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let mut world = OfficeWorld::new(1, &["anna"]);
        let pc = &world.pcs[0];
        pc.login("anna");
        pc.home.write("docs/small", "so that the vault is known here");
        let docs = pc.home.path("docs");
        pc.backup(&docs, &[]);
        for number in 0..60 {
            let mut bytes = vec![0; 4 << 20];
            dice.fill(&mut bytes);
            std::fs::write(docs.join(format!("large-{number}")), bytes).unwrap();
        }
        let mut child = pc.begin_backup(&docs);
        let vault = world.vault_dirs().pop().unwrap();
        // Once the host has got some of it.
        let has_some = || {
            let packs = std::fs::read_dir(vault.join("packs")).unwrap();
            let bytes: u64 = packs.map(|entry| entry.unwrap().metadata().map_or(0, |found| found.len())).sum();
            (bytes > 16 << 20 || child.try_wait().unwrap().is_some()).then_some(())
        };
        until("the host has some of it", PATIENCE, has_some);
        world.host.kill();
        let done = child.wait_with_output().unwrap();
        let out = String::from_utf8(done.stdout).unwrap();
        assert_eq!(done.status.code(), Some(4), "{out}{}", String::from_utf8_lossy(&done.stderr));
        let pc = &world.pcs[0];
        assert_eq!(waiting(pc).len(), 1);

        world.host.start();
        let pc = &world.pcs[0];
        pc.expect(0, &["deliver", "--wait"]);
        until("nothing waits any more", PATIENCE, || waiting(pc).is_empty().then_some(()));
        let last = listed(pc).pop().unwrap();
        if judge::is_there() {
            pc.restores_equal(&last, &docs, &docs);
        }
    }
}

#[test]
fn who_is_killed_while_sending_sends_again_and_nothing_twice() {
    for seed in seeds(&[23]) {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let mut world = OfficeWorld::new(1, &["anna", "ben"]);
        let pc = &world.pcs[0];
        pc.login("anna");
        let mut tree = source(seed, Shape { files: 200, ..SHAPE });
        pc.backup(&tree.root(), &[]);
        world.host.kill();
        let mut made = listed_alone(&world, &mut tree, 3);
        world.host.start();
        let pc = &world.pcs[0];
        pc.await_connected();
        let mut kills = 0;
        while !waiting(pc).is_empty() {
            let mut sending = pc.home.command(&["deliver"]).spawn().unwrap();
            let patience = Duration::from_millis(5 + dice.throw() % 150);
            std::thread::sleep(patience);
            kills += u32::from(sending.try_wait().unwrap().is_none());
            let _ = sending.kill();
            sending.wait().unwrap();
        }
        println!("{kills} kills");
        let mut found = listed(pc);
        found.remove(0);
        made.sort();
        found.sort();
        assert_eq!(found, made, "each of them once");
        pc.expect(0, &["check", "--read-data"]);
    }
}

/// Backs up so often with the host away.
fn listed_alone(world: &OfficeWorld, tree: &mut SourceTree, times: usize) -> Vec<String> {
    let mut made = Vec::new();
    for _ in 0..times {
        tree.change();
        made.push(id(&backup_alone(&world.pcs[0], tree)));
    }
    made
}

#[test]
fn what_waits_is_sent_by_whose_it_is() {
    let mut world = OfficeWorld::new(1, &["anna", "ben"]);
    let tree = source(24, SHAPE);
    let pc = &world.pcs[0];
    pc.login("ben");
    // Ben has never been here before: without the host nothing of his can be sealed.
    pc.login("anna");
    pc.backup(&tree.root(), &[]);
    world.host.kill();
    let made = id(&backup_alone(&world.pcs[0], &tree));
    // Somebody else sits down here meanwhile.
    let said = world.pcs[0].expect(0, &["logout"]);
    assert!(said.err.contains("when anna is logged in again"), "{}", said.err);
    world.pcs[0].expect(12, &["backup", tree.root().to_str().unwrap(), "--vault", "twinkeep://anna"]);
    world.host.start();
    let pc = &world.pcs[0];
    pc.await_connected();
    pc.login("ben");
    let said = pc.expect(0, &["deliver"]);
    assert!(said.err.contains("anna's, who has to be logged in"), "{}", said.err);
    assert_eq!((waiting(pc).len(), listed(pc).len()), (1, 0));
    pc.login("anna");
    pc.expect(0, &["deliver"]);
    assert_eq!((waiting(pc).len(), listed(pc).pop()), (0, Some(made)));
    assert_eq!(pc.expect(0, &["deliver"]).out, "nothing waits to be sent\n");
}

/// Copies that count, by machine.
fn frames(world: &OfficeWorld) -> Vec<u64> {
    let nodes = world.host.json(&["node", "list"]);
    nodes.iter().map(|node| node["frames"].as_u64().unwrap()).collect()
}

#[test]
fn what_is_to_be_elsewhere_is_so_when_it_has_waited() {
    let mut tree = source(25, SHAPE);
    let mut world = OfficeWorld::new(2, &["anna"]);
    world.pcs[0].login("anna");
    world.pcs[0].backup(&tree.root(), &["--wait", "copies=2"]);
    let before = frames(&world);
    assert!(before[0] > 0 && before[1] == 0, "{before:?}");
    world.host.kill();
    tree.change();
    let root = tree.root();
    let args = ["--json", "backup", root.to_str().unwrap(), "--placement", "spread"];
    let ran = world.pcs[0].expect(4, &args);
    assert!(!ran.err.contains("forgotten"), "{}", ran.err);
    let summary = messages(&ran.out).into_iter().find(|told| told["message_type"] == "summary").unwrap();
    assert_eq!(summary["placement"], "spread");

    world.host.start();
    let pc = &world.pcs[0];
    pc.expect(0, &["deliver", "--wait"]);
    until("nothing waits any more", PATIENCE, || waiting(pc).is_empty().then_some(()));
    world.await_twice(PATIENCE);
    let after = frames(&world);
    assert!(after[0] == before[0] && after[1] > 0, "{before:?}, then {after:?}");
    // It was said of that one alone.
    world.host.kill();
    tree.change();
    backup_alone(&world.pcs[0], &tree);
    world.host.start();
    let pc = &world.pcs[0];
    pc.expect(0, &["deliver", "--wait"]);
    until("nothing waits any more", PATIENCE, || waiting(pc).is_empty().then_some(()));
    world.await_twice(PATIENCE);
    let last = frames(&world);
    assert!(last[0] > after[0] && last[1] == after[1], "{after:?}, then {last:?}");
}

/// Who sits there takes away what makes it a vault: it is the only copy of what was backed up.
#[test]
fn what_waits_is_never_thrown_away_unread() {
    let mut world = OfficeWorld::new(1, &["anna"]);
    let mut tree = source(26, SHAPE);
    world.pcs[0].login("anna");
    world.pcs[0].backup(&tree.root(), &[]);
    for lost in [&["config", "config.copy"][..], &["config", "config.copy", "keyring", "keyring.copy", "index"]] {
        world.host.kill();
        let mut made = vec![id(&backup_alone(&world.pcs[0], &tree))];
        let folder = waiting(&world.pcs[0]).pop().expect("something waits");
        for name in lost {
            let path = folder.join(name);
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
                .expect("it is there");
        }
        // The next backup goes on in it, too.
        tree.change();
        made.push(id(&backup_alone(&world.pcs[0], &tree)));
        std::fs::remove_file(folder.join("config")).expect("it is there");
        std::fs::remove_file(folder.join("config.copy")).expect("it is there");
        world.host.start();
        let pc = &world.pcs[0];
        pc.expect(0, &["deliver", "--wait"]);
        until("nothing waits any more", PATIENCE, || waiting(pc).is_empty().then_some(()));
        let there = listed(pc);
        assert!(made.iter().all(|id| there.contains(id)), "{lost:?}: {made:?} in {there:?}");
        tree.change();
    }
}

#[test]
fn several_backups_at_once_wait_in_one_vault() {
    let mut world = OfficeWorld::new(1, &["anna"]);
    let pc = &world.pcs[0];
    pc.login("anna");
    let docs: Vec<PathBuf> = (0..4).map(|number| pc.home.path(&format!("docs{number}"))).collect();
    for number in 0..docs.len() {
        pc.home.write(&format!("docs{number}/a"), &format!("hello {number}"));
    }
    pc.backup(&docs[0], &[]);
    world.host.kill();
    let pc = &world.pcs[0];
    for round in 0..6 {
        let begin = |docs: &PathBuf| pc.begin_backup(docs);
        let running: Vec<_> = docs.iter().map(begin).collect();
        for child in running {
            let done = child.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(4), "round {round}: {said}");
            assert!(!said.contains("damaged"), "round {round}: {said}");
        }
        let folder = waiting(pc).pop().expect("something waits");
        let here = pc.json(&["--vault", folder.to_str().expect("a plain name"), "snapshots"]);
        assert_eq!(here.len(), docs.len(), "round {round}");
        let names = std::fs::read_dir(&folder).expect("it can be listed");
        let names: Vec<String> =
            names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        assert!(!names.iter().any(|name| name.contains("broken")), "round {round}: {names:?}");
        std::fs::remove_dir_all(&folder).expect("it can be removed");
    }
}

#[test]
fn what_waited_is_sent_after_a_reset_of_the_password() {
    let mut world = OfficeWorld::new(1, &["anna"]);
    let mut tree = source(27, SHAPE);
    // The service does not come first.
    world.pcs[0].login("anna");
    world.pcs[0].backup(&tree.root(), &[]);
    world.host.kill();
    tree.change();
    let made = id(&backup_alone(&world.pcs[0], &tree));
    let lock = waiting(&world.pcs[0]).pop().expect("something waits").with_extension("lock");
    let lock = std::fs::File::open(lock).expect("it is there");
    lock.lock_shared().expect("nobody sends it meanwhile");
    world.host.start();
    let reset = ["user", "reset", "anna", "--recovery-words-file", "kit-words", "--new-password-file", "password"];
    world.host.expect(0, &reset);
    let pc = &world.pcs[0];
    pc.await_connected();
    pc.login("anna");
    drop(lock);
    let said = pc.expect(0, &["deliver"]);
    assert!(said.err.is_empty(), "{}", said.err);
    assert_eq!((waiting(pc).len(), listed(pc).pop()), (0, Some(made)));
}

#[test]
fn a_damaged_file_of_the_outbox_stops_nobody() {
    let mut world = OfficeWorld::new(1, &["anna"]);
    let tree = source(28, SHAPE);
    world.pcs[0].login("anna");
    world.pcs[0].backup(&tree.root(), &[]);
    let outbox = ".local/share/twinkeep/outbox";
    let own = std::fs::read_dir(world.pcs[0].home.path(outbox)).expect("it is there");
    let own = own.map(|entry| entry.expect("an entry").path()).find(|path| path.extension() == Some("toml".as_ref()));
    let own = own.expect("its vault is known here");
    // Of another vault, and empty.
    world.pcs[0].home.write(&format!("{outbox}/{}.toml", "77".repeat(16)), "");
    let said = world.pcs[0].expect(0, &["backup", tree.root().to_str().expect("a plain name")]);
    assert!(said.err.contains("put aside"), "{}", said.err);
    let said = world.pcs[0].expect(0, &["backup", tree.root().to_str().expect("a plain name")]);
    assert!(!said.err.contains("put aside"), "it is told once: {}", said.err);
    // Its own, while something waits.
    world.host.kill();
    world.pcs[0].home.write(&format!("{outbox}/{}.toml", "77".repeat(16)), "account = 7");
    let made = id(&backup_alone(&world.pcs[0], &tree));
    std::fs::write(&own, "account = [").expect("it can be written");
    let said = world.pcs[0].expect(16, &["backup", tree.root().to_str().expect("a plain name")]);
    assert!(said.err.contains("put aside"), "{}", said.err);
    world.host.start();
    let pc = &world.pcs[0];
    pc.expect(0, &["deliver", "--wait"]);
    until("nothing waits any more", PATIENCE, || waiting(pc).is_empty().then_some(()));
    assert_eq!(listed(pc).pop(), Some(made));
    assert!(own.exists(), "the office gave it again");
}

#[test]
fn who_is_no_member_any_more_is_told_how_to_read_what_waits() {
    let mut world = OfficeWorld::new(1, &["anna", "ben"]);
    let pc = &world.pcs[0];
    pc.login("anna");
    pc.expect(0, &["vault", "create", "team", "--shared", "--member", "ben"]);
    pc.home.write("docs/a", "hello");
    let docs = pc.home.path("docs");
    pc.login("ben");
    pc.backup(&docs, &["--vault", "twinkeep://anna/team"]);
    world.host.kill();
    world.pcs[0].expect(4, &["backup", "--vault", "twinkeep://anna/team", docs.to_str().expect("a plain name")]);
    let folder = waiting(&world.pcs[0]).pop().expect("something waits");
    let lock = std::fs::File::open(folder.with_extension("lock")).expect("it is there");
    lock.lock_shared().expect("nobody sends it meanwhile");
    world.host.start();
    world.host.expect(0, &["--yes", "vault", "remove-member", "anna/team", "ben"]);
    drop(lock);
    let pc = &world.pcs[0];
    pc.await_connected();
    let said = pc.expect(4, &["deliver"]).err;
    let folder = folder.to_str().expect("a plain name");
    assert!(said.contains("twinkeep://anna/team") && said.contains(&format!("--vault {folder} restore")), "{said}");
    let target = pc.home.path("back");
    pc.expect(0, &["--vault", folder, "restore", "latest", "--target", target.to_str().expect("a plain name")]);
}
