//! The host backs itself up: its files have their first copy on the machine they are on.

use std::fs;
use twinkeep_tests::fidelity::judge;
use twinkeep_tests::office::{OfficeWorld, PATIENCE, source};
use twinkeep_tests::seeds::seeds;
use twinkeep_tests::tree::Shape;

const SHAPE: Shape = Shape { files: 60, wide: 300, len_max: 100 << 10 };

#[test]
fn the_host_backs_itself_up_and_has_a_second_copy_elsewhere() {
    for seed in seeds(&[41]) {
        println!("seed {seed}");
        let mut tree = source(seed, SHAPE);
        let mut world = OfficeWorld::new(0, &["root"]);
        world.host.login("root");
        // Nobody else is there: what there is lies on the machine that was backed up, and nowhere else.
        let alone = world.host.backup(&tree.root(), &["--wait", "copies=1"]);
        assert_eq!(
            (alone["level"].as_str(), alone["holders"].as_array().map(Vec::len)),
            (Some("P0"), Some(0)),
            "{alone}"
        );
        let said = world.host.expect(0, &["backup", tree.root().to_str().expect("a plain name")]).out;
        assert!(said.contains("1 copy: host, this machine alone; the second is on its way"), "{said}");
        // A terminal on the same machine is no second place, and what is backed up there is no safer.
        let token = world.token("shadow", &["--auto"]);
        let same = format!("{:032x}", 1);
        let (mut shadow, joined) = world.join_as("shadow", &token, &same);
        assert_eq!(joined.code, Some(0), "{joined:?}");
        shadow.start();
        shadow.await_connected();
        shadow.login("root");
        tree.change();
        let through = shadow.backup(&tree.root(), &[]);
        assert_eq!(through["level"], "P0", "{through}");
        assert!(world.owed() > 0, "one machine is one copy");

        world.add_pc("pc1");
        world.await_twice(PATIENCE);
        tree.change();
        let kept = world.host.backup(&tree.root(), &["--wait", "copies=2"]);
        assert_eq!((kept["level"].as_str(), &kept["holders"]), (Some("P2"), &serde_json::json!(["pc1"])), "{kept}");
        let said =
            world.host.expect(0, &["backup", tree.root().to_str().expect("a plain name"), "--wait", "copies=2"]).out;
        assert!(said.contains("2 copies: host (this machine), pc1; losing this machine leaves 1"), "{said}");
        let pc = world.pcs.last().expect("it has come");
        pc.login("root");
        if judge::is_there() {
            pc.restores_equal("latest", &tree.root(), &tree.root());
        }
        // Seen from another machine the host is one that is not the source.
        pc.home.write("docs/letter.txt", "dear all");
        assert_eq!(pc.backup(&pc.home.path("docs"), &["--wait", "copies=2"])["level"], "P2");
    }
}

#[test]
fn what_the_office_keeps_on_a_machine_is_no_part_of_what_is_backed_up_there() {
    let world = OfficeWorld::new(1, &["root", "anna"]);
    world.pcs[0].login("anna");
    world.pcs[0].home.write("docs/letter.txt", &"dear all ".repeat(10_000));
    world.pcs[0].backup(&world.pcs[0].home.path(""), &["--wait", "copies=2"]);
    world.host.login("root");
    world.host.backup(&world.host.home.path(""), &[]);
    let listed = |machine: &twinkeep_tests::office::Machine| machine.expect(0, &["ls", "--recursive", "latest"]).out;
    let (host, pc) = (listed(&world.host), listed(&world.pcs[0]));
    // Or each backup would store the one before it.
    assert!(host.contains("host.toml") && !host.contains("/packs/") && !host.contains("data.mdb"), "{host}");
    assert!(pc.contains("terminal.toml") && pc.contains("letter.txt") && !pc.contains("/packs/"), "{pc}");
}

/// The index is gone, and every header in the packs is too: nothing at the host says what it lost.
#[test]
fn what_an_index_made_anew_cannot_name_comes_back_from_the_pcs() {
    let mut world = OfficeWorld::new(1, &["anna"]);
    let tree = source(47, SHAPE);
    world.pcs[0].login("anna");
    world.pcs[0].backup(&tree.root(), &["--wait", "copies=2"]);
    world.host.stop();
    let vault = world.vault_dirs().pop().expect("a vault");
    fs::remove_dir_all(vault.join("index")).expect("an index");
    let mut hit = 0;
    for pack in fs::read_dir(vault.join("packs")).expect("packs") {
        let path = pack.expect("a pack").path();
        let mut bytes = fs::read(&path).expect("a pack can be read");
        let heads: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"TKFRAME")).collect();
        heads.iter().for_each(|&at| bytes[at..at + 40].fill(0));
        hit += heads.len();
        fs::write(&path, bytes).expect("a pack can be written");
    }
    assert!(hit > 1, "leaves and branches");
    world.host.start();
    let pc = &world.pcs[0];
    pc.await_connected();
    pc.expect(1, &["restore", "latest", "--target", pc.home.path("before").to_str().expect("a plain name")]);
    let said = world.host.expect(17, &["scrub", "start"]).out;
    assert!(said.contains("healed"), "{said}");
    pc.expect(0, &["check", "--read-data"]);
    if judge::is_there() {
        pc.restores_equal("latest", &tree.root(), &tree.root());
    }
    world.await_twice(PATIENCE);
}

/// A pack of one vault is gone at the host while its other holder is off: the host says so, nothing is called safe that
/// is not, and nobody else waits for it.
#[test]
fn what_the_host_has_lost_is_said_and_holds_up_nobody_else() {
    let mut world = OfficeWorld::new(3, &["anna", "ben"]);
    let (first, second) = (source(48, SHAPE), source(49, SHAPE));
    world.pcs[0].login("anna");
    world.pcs[1].login("ben");
    let made = world.pcs[0].backup(&first.root(), &["--wait", "copies=2"]);
    let id = made["snapshot_id"].as_str().expect("an id").to_owned();
    world.pcs[0].stop();
    world.host.stop();
    let packs = world.vault_dirs().into_iter().flat_map(|dir| fs::read_dir(dir.join("packs")).expect("packs"));
    let packs: Vec<_> = packs.map(|pack| pack.expect("a pack").path()).collect();
    let leaf = packs.iter().find(|path| path.extension().is_some_and(|ext| ext == "leaf")).expect("leaves");
    fs::remove_file(leaf).expect("a pack is removed");
    world.host.start();
    world.pcs[1].await_connected();
    world.pcs[2].await_connected();

    // Ben's copies do not wait behind what is lost.
    let bens = world.pcs[1].backup(&second.root(), &["--placement", "spread", "--wait", "copies=2"]);
    assert_eq!(bens["level"], "P2", "{bens}");
    world.pcs[2].login("anna");
    let target = world.pcs[2].home.path("back");
    let ran = world.pcs[2].run(&["restore", "latest", "--target", target.to_str().expect("a plain name")]);
    assert_eq!(ran.code, Some(18), "what is left is restored, and it is said that something is not: {ran:?}");
    world.host.expect(18, &["scrub", "start"]);
    let said = world.host.expect(0, &["host", "status"]).out;
    assert!(said.contains("damaged or gone at the host") && !said.contains("everything is kept twice"), "{said}");
    let said = world.host.expect(4, &["copies", "status"]).out;
    assert!(!said.contains("everything is kept twice"), "{said}");
    let password = world.pcs[2].home.path("password");
    let said = world.pcs[2].expect(18, &["backup", password.to_str().expect("a plain name")]).out;
    assert!(said.contains("1 copy: host"), "what the vault holds is not all there: {said}");
    let ran = world.host.run(&["--yes", "node", "forget", "pc1"]);
    assert!(ran.code == Some(2) && ran.err.contains("only copy on this machine"), "{ran:?}");

    // The other holder is back: all is as it was.
    world.pcs[0].start();
    world.pcs[0].await_connected();
    world.host.expect(17, &["scrub", "start"]);
    world.await_twice(PATIENCE);
    world.host.expect(0, &["copies", "status"]);
    if judge::is_there() {
        world.pcs[0].restores_equal(&id, &first.root(), &first.root());
    }
    world.host.expect(0, &["--yes", "node", "forget", "pc1"]);
}

#[test]
fn a_vault_that_is_lost_keeps_no_host_from_starting() {
    let mut world = OfficeWorld::new(1, &["anna", "ben"]);
    let tree = source(50, SHAPE);
    for name in ["anna", "ben"] {
        world.pcs[0].login(name);
        world.pcs[0].backup(&tree.root(), &["--wait", "copies=2"]);
    }
    world.host.stop();
    let aside = world.host.home.path("aside");
    let whole = |dir: &std::path::Path| fs::read_dir(dir.join("records")).expect("records").count() > 0;
    let vault = world.vault_dirs().into_iter().find(|dir| whole(dir)).expect("a vault");
    fs::rename(&vault, &aside).expect("a folder is moved");
    world.host.start();
    world.pcs[0].await_connected();
    let said = world.host.expect(0, &["host", "status"]).out;
    assert!(said.contains("cannot be opened") && !said.contains("everything is kept twice"), "{said}");
    let said = world.host.expect(4, &["copies", "why"]).out;
    assert!(said.contains("the host cannot open the vault"), "{said}");
    let ran = world.host.run(&["--yes", "node", "forget", "pc1"]);
    assert!(ran.code == Some(2) && ran.err.contains("cannot open 1 of its vaults"), "{ran:?}");
    let can = ["anna", "ben"].map(|name| {
        world.pcs[0].login(name);
        world.pcs[0].run(&["snapshots"]).code == Some(0)
    });
    assert_eq!(can.iter().filter(|can| **can).count(), 1, "one is lost, the other is not");
    world.host.stop();
    fs::rename(&aside, &vault).expect("a folder is moved back");
    world.host.start();
    world.pcs[0].await_connected();
    for name in ["anna", "ben"] {
        world.pcs[0].login(name);
        world.pcs[0].expect(0, &["check", "--read-data"]);
    }
    // It is not to be had again, says the administrator.
    world.host.stop();
    fs::rename(&vault, &aside).expect("a folder is moved");
    world.host.start();
    let ran = world.host.run(&["--yes", "node", "forget", "pc1"]);
    assert!(ran.code == Some(2) && ran.err.contains("--give-up-data"), "{ran:?}");
    world.host.expect(0, &["--yes", "node", "forget", "pc1", "--give-up-data"]);
}
