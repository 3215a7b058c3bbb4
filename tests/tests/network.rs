//! An office on a network of its own, with cables that are cut and packets that are lost. Where nobody may make such a
//! network the machines are on addresses of this one, and stand still instead of being cut off; that is then said.

use serde_json::Value;
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};
use twinkeep_engine::env::Dice;
use twinkeep_tests::fidelity::{judge, skipped};
use twinkeep_tests::home::{Ran, messages};
use twinkeep_tests::office::net::Net;
use twinkeep_tests::office::{OfficeWorld, PATIENCE, source, until};
use twinkeep_tests::seeds::seeds;
use twinkeep_tests::tree::{Shape, SourceTree};

const SHAPE: Shape = Shape { files: 40, wide: 200, len_max: 100 << 10 };

/// No file system's clock is coarser.
const COARSE: Duration = Duration::from_secs(3);

/// A backup takes no longer, whatever happens on its way.
const BACKUP_ENDS: Duration = Duration::from_secs(120);

/// Bytes of which a cable is to be cut in the middle.
const LARGE: usize = 16 << 20;

/// So much has arrived when it is.
const MIDDLE: u64 = 4 << 20;

/// Connections outlive a cut of this length.
const BLINK: Duration = Duration::from_secs(2);

fn office(accounts: &[&str]) -> OfficeWorld {
    let net = Net::new();
    match &net {
        Ok(_) => println!("each machine is in a network namespace of its own"),
        Err(why) => {
            skipped("an office on a network of its own", &format!("{why}; on addresses of this machine instead"))
        }
    }
    OfficeWorld::on(net.ok(), 4, accounts)
}

/// Nothing gets through to a terminal any more, or it does again.
fn cut(world: &OfficeWorld, pc: usize, is_cut: bool) {
    match (&world.net, is_cut) {
        (Some(net), _) => net.plug(&world.pcs[pc].name, !is_cut),
        (None, true) => world.pcs[pc].freeze(),
        (None, false) => world.pcs[pc].thaw(),
    }
}

fn id(summary: &Value) -> &str {
    summary["snapshot_id"].as_str().expect("a snapshot was made")
}

fn stored(world: &OfficeWorld) -> u64 {
    let packs = world.vault_dirs().into_iter().map(|dir| dir.join("packs"));
    let files = packs.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

/// Begins a backup and comes back when some of it, and not all, is at the host.
fn begin_and_reach_the_middle(world: &OfficeWorld, pc: usize, tree: &SourceTree) -> Child {
    let before = stored(world);
    let mut child = world.pcs[pc].begin_backup(&tree.root());
    until("a part of it is at the host", PATIENCE, || (stored(world) >= before + MIDDLE).then_some(()));
    assert!(child.try_wait().expect("look at the command").is_none(), "all of it was faster than the cut");
    child
}

/// How a backup ended.
fn end(mut child: Child) -> Ran {
    let begun = Instant::now();
    while child.try_wait().expect("look at the command").is_none() {
        assert!(begun.elapsed() < BACKUP_ENDS, "a backup does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ran::of(child.wait_with_output().expect("it has ended"))
}

fn summary(ran: &Ran) -> Value {
    assert!(matches!(ran.code, Some(0 | 4)), "{ran:?}");
    messages(&ran.out).into_iter().find(|told| told["message_type"] == "summary").expect("a summary")
}

/// Content that no store makes smaller.
fn grow(tree: &SourceTree, name: &str, seed: u64) {
    let mut bytes = vec![0; LARGE];
    Dice(seed).fill(&mut bytes);
    fs::write(tree.root().join(name), bytes).expect("a source can be written to");
}

fn compare(world: &OfficeWorld, pc: usize, snapshot: &str, tree: &SourceTree) {
    match judge::is_there() {
        true => world.pcs[pc].restores_equal(snapshot, &tree.root(), &tree.root()),
        false => drop(world.pcs[pc].restore(snapshot, &tree.root())),
    }
}

#[test]
fn an_office_whose_cables_are_cut_and_whose_packets_are_lost() {
    for seed in seeds(&[21]) {
        println!("seed {seed}");
        let trees: Vec<SourceTree> = (0..4).map(|at| source(seed + at, SHAPE)).collect();
        let made = Instant::now();
        let world = office(&["anna", "ben", "cleo"]);
        (0..4).for_each(|pc| world.pcs[pc].login(["anna", "ben", "cleo", "anna"][pc]));
        std::thread::sleep(COARSE.saturating_sub(made.elapsed()));
        all_at_once(&world, &trees);
        in_the_middle(&world, &trees[0], seed);
        lossy(&world, &trees[1], seed);
        one_that_returns(&world, &trees);
        world.await_twice(BACKUP_ENDS);
    }
}

/// Everybody backs up, and then restores what was backed up elsewhere, at once.
fn all_at_once(world: &OfficeWorld, trees: &[SourceTree]) {
    let running: Vec<Child> = (0..4).map(|pc| world.pcs[pc].begin_backup(&trees[pc].root())).collect();
    let done: Vec<Value> = running.into_iter().map(|child| summary(&end(child))).collect();
    world.await_twice(PATIENCE);
    std::thread::scope(|scope| {
        for (pc, tree) in trees.iter().enumerate() {
            // Anna reads each of her two on the other PC.
            let reader = [3, 1, 2, 0][pc];
            let snapshot = id(&done[pc]);
            scope.spawn(move || compare(world, reader, snapshot, tree));
        }
    });
    println!("four backups and four restores at once: equal");
}

fn in_the_middle(world: &OfficeWorld, tree: &SourceTree, seed: u64) {
    let is_paced = world.net.as_ref().is_some_and(|net| net.pace("pc1", Some(40)));
    if !is_paced {
        return skipped(
            "a cable that is cut in the middle of a backup",
            "nothing makes it slow enough to have a middle",
        );
    }
    grow(tree, "large", seed);
    let child = begin_and_reach_the_middle(world, 0, tree);
    cut(world, 0, true);
    std::thread::sleep(BLINK);
    cut(world, 0, false);
    let done = summary(&end(child));
    println!("a cable that was cut for {BLINK:?} in the middle of a backup: it ended well");
    compare(world, 3, id(&done), tree);

    grow(tree, "large", seed + 1);
    let child = begin_and_reach_the_middle(world, 0, tree);
    cut(world, 0, true);
    let begun = Instant::now();
    let ran = end(child);
    assert_eq!(ran.code, Some(4), "the host cannot be reached, and it is said so: {ran:?}");
    let waiting = summary(&ran);
    assert_eq!(waiting["level"], "P0", "{waiting}");
    let secs = begun.elapsed().as_secs_f64();
    println!("a cable that stays cut: the backup went on on the PC alone, and ended after {secs:.0} s");
    cut(world, 0, false);
    world.pcs[0].await_connected();
    let before = stored(world);
    let done = world.pcs[0].backup(&tree.root(), &[]);
    println!("the next one sent {} MiB of {}", (stored(world) - before) >> 20, LARGE >> 20);
    compare(world, 3, id(&done), tree);
    until("what waited has arrived", PATIENCE, || {
        let listed = world.pcs[0].json(&["snapshots"]);
        listed.iter().any(|snapshot| snapshot["id"] == waiting["snapshot_id"]).then_some(())
    });
    compare(world, 3, id(&waiting), tree);
    assert!(world.net.iter().all(|net| net.pace("pc1", None)), "the line is as fast as before");
}

fn lossy(world: &OfficeWorld, tree: &SourceTree, seed: u64) {
    let how = world.net.as_ref().and_then(|net| net.lose("pc2"));
    let (Some(net), Some(how)) = (&world.net, how) else {
        return skipped("packets that are lost", "nothing here can lose any");
    };
    grow(tree, "large", seed + 2);
    let begun = Instant::now();
    let done = world.pcs[1].backup(&tree.root(), &[]);
    let lost = net.lost("pc2");
    assert!(lost > 0, "packets were lost");
    compare(world, 1, id(&done), tree);
    let secs = begun.elapsed().as_secs_f64();
    println!("{lost} packets lost ({how}): backed up and restored in {secs:.0} s, equal");
    net.pace("pc2", None);
}

/// One is away, the others go on; what it missed it has when it is back.
fn one_that_returns(world: &OfficeWorld, trees: &[SourceTree]) {
    cut(world, 2, true);
    let begun = Instant::now();
    until("the host sees that pc3 is away", PATIENCE, || (world.node("pc3")["presence"] == "offline").then_some(()));
    println!("pc3 was seen to be away after {:.0} s", begun.elapsed().as_secs_f64());
    let done = world.pcs[3].backup(&trees[3].root(), &["--force"]);
    compare(world, 0, id(&done), &trees[3]);
    if world.net.is_some() {
        // Else it may give up the line in a moment, in the middle of what comes.
        until("pc3 sees that it is cut off", PATIENCE, || (!world.pcs[2].is_connected()).then_some(()));
    }
    cut(world, 2, false);
    let begun = Instant::now();
    world.pcs[2].await_connected();
    until("the host sees that pc3 is back", PATIENCE, || (world.node("pc3")["presence"] == "online").then_some(()));
    println!("pc3 was back {:.0} s after its cable", begun.elapsed().as_secs_f64());
    let done = world.pcs[2].backup(&trees[2].root(), &[]);
    compare(world, 2, id(&done), &trees[2]);
}
