//! What an office is for, from the first backup to the restore on another PC.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use twinkeep_tests::fidelity::judge;
use twinkeep_tests::model;
use twinkeep_tests::office::{OfficeWorld, PATIENCE, source};
use twinkeep_tests::seeds::seeds;
use twinkeep_tests::tree::{Shape, SourceTree};

/// No file system's clock is coarser.
const COARSE: Duration = Duration::from_secs(3);

const SHAPE: Shape = Shape { files: 60, wide: 300, len_max: 100 << 10 };

fn id(summary: &Value) -> &str {
    summary["snapshot_id"].as_str().expect("a snapshot was made")
}

fn count(summary: &Value, what: &str) -> u64 {
    summary[what].as_u64().unwrap_or_else(|| panic!("{what} is a number: {summary}"))
}

/// Backs up from several machines at once.
fn together(world: &OfficeWorld, work: &[(usize, &SourceTree)]) -> Vec<Value> {
    std::thread::scope(|scope| {
        let backup = |&(pc, tree): &(usize, &SourceTree)| {
            let root = tree.root();
            scope.spawn(move || world.pcs[pc].backup(&root, &["--wait", "copies=2"]))
        };
        let running: Vec<_> = work.iter().map(backup).collect();
        running.into_iter().map(|one| one.join().expect("the backup ends well")).collect()
    })
}

#[test]
fn what_several_pcs_back_up_at_once_comes_back_on_another() {
    let can_judge = judge::is_there();
    for seed in seeds(&[11]) {
        println!("seed {seed}");
        let mut trees: Vec<SourceTree> = (0..4).map(|at| source(seed + at, SHAPE)).collect();
        let made = Instant::now();
        let mut world = OfficeWorld::new(4, &["anna", "ben", "cleo"]);
        // Anna works on two of them.
        let accounts = ["anna", "ben", "anna", "cleo"];
        (0..4).for_each(|pc| world.pcs[pc].login(accounts[pc]));
        // A file as young as a file system's clock is coarse is read again the next time.
        std::thread::sleep(COARSE.saturating_sub(made.elapsed()));
        let work: Vec<_> = trees.iter().enumerate().collect();
        let first = together(&world, &work);
        for (at, summary) in first.iter().enumerate() {
            assert_eq!(summary["level"], "P2", "{summary}");
            let holders: Vec<_> = summary["holders"].as_array().expect("a list").iter().collect();
            assert!(holders.contains(&&Value::from(format!("pc{}", at + 1))), "the writer keeps it: {summary}");
        }
        assert_eq!(world.owed(), 0);
        for number in 1..=4 {
            let node = world.node(&format!("pc{number}"));
            assert!(node["presence"] == "online" && count(&node, "frames") > 0, "{node}");
        }
        // Ben's PC burns; he sits down at Cleo's.
        world.pcs[3].expect(0, &["logout"]);
        world.pcs[3].login("ben");
        let listed = world.pcs[3].json(&["snapshots"]);
        assert_eq!(listed.len(), 1, "Ben sees his own: {listed:?}");
        if can_judge {
            world.pcs[3].restores_equal(id(&first[1]), &trees[1].root(), &trees[1].root());
        }
        assert_eq!(world.pcs[0].json(&["snapshots"]).len(), 2, "Anna sees what she did on both PCs");

        // Nothing has changed, then something has.
        let same = world.pcs[0].backup(&trees[0].root(), &[]);
        assert_eq!((count(&same, "files_new"), count(&same, "files_changed")), (0, 0), "{same}");
        assert_eq!(same["parent"], first[0]["snapshot_id"], "{same}");
        let before = model::of_disk(&trees[0].root());
        trees[0].change();
        trees[2].change();
        let work = [(0, &trees[0]), (2, &trees[2])];
        let second = together(&world, &work);
        assert!(count(&second[0], "files_unchanged") > 0 && count(&second[0], "files_new") > 0, "{}", second[0]);
        if can_judge {
            // Each on the other one's PC.
            world.pcs[2].restores_equal(id(&second[0]), &trees[0].root(), &trees[0].root());
            world.pcs[0].restores_equal(id(&second[1]), &trees[2].root(), &trees[2].root());
        }
        let (_target, inside) = world.pcs[2].restore(id(&first[0]), &trees[0].root());
        same_content(&before, &model::of_disk(&inside));

        let entries: Vec<_> = world.host.json(&["audit"]);
        let has =
            |word: &str| entries.iter().any(|entry| entry["what"].as_str().is_some_and(|what| what.contains(word)));
        assert!(["anna", "ben", "cleo", "pc4"].into_iter().all(has), "{entries:?}");
        world.scrub();
        world.await_twice(PATIENCE);
        println!("4 PCs, 6 backups, {} frames at pc1", world.node("pc1")["frames"]);
    }
}

fn same_content(expected: &model::Model, found: &model::Model) {
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (path, node) in expected {
        // Links are counted by the whole tree, which a model of one folder sees all the same.
        assert_eq!(Some(node), found.get(path), "{}", path.escape_ascii());
    }
}

#[test]
fn everything_a_vault_can_do_it_can_do_at_the_office() {
    let world = OfficeWorld::new(1, &["anna"]);
    let pc = &world.pcs[0];
    pc.login("anna");
    pc.home.write("docs/letter.txt", "dear all");
    pc.home.write("docs/old/list.txt", "one");
    let docs = pc.home.path("docs");
    let first = pc.backup(&docs, &["--tag", "monday"]);
    pc.home.write("docs/letter.txt", "dear everybody");
    pc.home.write("docs/new.txt", "fresh");
    let second = pc.backup(&docs, &[]);
    let (first, second) = (id(&first), id(&second));
    let below = |name: &str| format!("latest:{}", docs.join(name).to_str().expect("a plain name"));

    assert_eq!(pc.json(&["snapshots"]).len(), 2);
    assert_eq!(pc.json(&["snapshots", "--tag", "monday"]).len(), 1);
    let listed = pc.expect(0, &["ls", "--recursive", &below("")]).out;
    assert!(listed.contains("letter.txt") && listed.contains("list.txt"), "{listed}");
    let found = pc.expect(0, &["find", "*.txt"]).out;
    assert!(found.contains("new.txt") && found.contains("list.txt"), "{found}");
    assert_eq!(pc.expect(0, &["dump", &below("letter.txt")]).out, "dear everybody");
    let old = format!("{first}:{}", docs.join("letter.txt").display());
    assert_eq!(pc.expect(0, &["dump", &old]).out, "dear all");
    let differs = pc.run(&["diff", first, second]).out;
    assert!(differs.contains("new.txt") && differs.contains("letter.txt"), "{differs}");

    let refused = pc.run(&["forget", first]);
    assert_eq!(refused.code, Some(13), "nothing is forgotten within thirty days: {}{}", refused.out, refused.err);
    assert_eq!(pc.json(&["snapshots"]).len(), 2);
    pc.expect(0, &["tag", "--add", "keep", second]);
    assert_eq!(pc.json(&["snapshots", "--tag", "keep"]).len(), 1);
    pc.expect(0, &["pin", second]);
    pc.expect(0, &["pin", "--remove", second]);
    // Some of it, over what is there.
    fs::remove_file(docs.join("new.txt")).expect("it is there");
    pc.expect(0, &["restore", &below("new.txt"), "--in-place"]);
    assert_eq!(fs::read_to_string(docs.join("new.txt")).expect("it is back"), "fresh");
    assert!(Path::new(&docs).join("letter.txt").exists());
}
