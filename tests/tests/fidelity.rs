//! What was backed up comes back as it was, judged by rsync and diff.

#[path = "fidelity/changing.rs"]
mod changing;
#[path = "fidelity/limits.rs"]
mod limits;
#[path = "fidelity/restoring.rs"]
mod restoring;

use std::path::Path;

use twinkeep_engine::branch::entry::What;
use twinkeep_engine::env::Dice;
use twinkeep_engine::query::{self, Step, TreeRoot};
use twinkeep_engine::restore::RestoreOptions;
use twinkeep_tests::fidelity::grow::{Plan, Tree};
use twinkeep_tests::fidelity::judge::{self, Look};
use twinkeep_tests::fidelity::place::Lab;
use twinkeep_tests::fidelity::{self, edit, is_root, skipped};

const TREES: usize = 30;

#[test]
fn random_trees_come_back_as_they_were() {
    if !judge::is_there() {
        return;
    }
    if !is_root() {
        skipped("devices, owners, trusted attributes, capabilities", "not root");
    }
    let seed = fidelity::seed();
    for number in 0..TREES * fidelity::scale() {
        let mut dice = Dice(seed.wrapping_add(number as u64 * 1_000_003));
        let plan = Plan {
            names: 20 + dice.below(150),
            large: number % 10 == 1,
            huge_hole: number == 3,
            crowd: [(2, 5_000), (5, 20_000)].iter().find(|(at, _)| *at == number).map_or(0, |(_, count)| *count),
        };
        one_tree(number, plan, &mut dice);
    }
}

fn one_tree(number: usize, plan: Plan, dice: &mut Dice) {
    let lab = Lab::new();
    let source = lab.source();
    let tree = Tree::grow(&source, plan, dice);
    let options = if dice.one_in(2) { lab.cached(&source) } else { lab.options(&source) };
    let whole = dice.one_in(2);
    let target = lab.top.join("target");
    let check = |lab: &Lab, restored: &RestoreOptions, what: &str| {
        let (root, at) = match whole {
            true => (TreeRoot::whole(&lab.latest()), target.join(source.strip_prefix("/").unwrap())),
            false => (lab.root(&source), target.clone()),
        };
        lab.restore(&root, restored);
        let look = Look { not_the_top: !whole, no_checksums: plan.huge_hole };
        let found = judge::differences(&source, &at, look);
        assert!(found.is_empty(), "tree {number}, {what}: {} differences:\n{}", found.len(), found.join("\n"));
        at
    };

    lab.backup(&options);
    assert_eq!(sockets(&lab, &source), tree.sockets);
    let at = check(&lab, &RestoreOptions::to(target.clone()), "restored into an empty folder");

    edit::edit(&source, 1 + dice.below(25), dice);
    let lab = lab.reopened();
    lab.backup(&options);
    edit::edit(&at, 1 + dice.below(25), dice);
    let mut restored = RestoreOptions { delete: true, ..RestoreOptions::to(target.clone()) };
    restored.verify = dice.one_in(3);
    check(&lab, &restored, "restored over what was half changed");

    // The same again: nothing is new but the snapshot, and the folders above the source, which others use too.
    let again = lab.backup(&options);
    assert!(again.chunks_new as usize <= 1 + source.components().count(), "tree {number}: {again:?}");
    assert_eq!(again.files_new, 0, "tree {number}: {again:?}");
}

fn sockets(lab: &Lab, source: &Path) -> usize {
    let mut count = 0;
    let mut visit = |found: &query::WalkEntry<'_>| {
        count += usize::from(found.entry.what == What::Socket);
        Step::Continue
    };
    query::walk(&lab.vault, &lab.root(source), &mut visit, &mut |_| false).unwrap();
    count
}

#[test]
fn the_machines_own_files_come_back_as_they_are() {
    if !judge::is_there() {
        return;
    }
    let wanted = if fidelity::scale() >= 2 { &["/usr"][..] } else { &["/usr/share/doc", "/usr/lib/python3"] };
    for source in wanted.iter().map(Path::new) {
        if !source.is_dir() {
            skipped(&source.to_string_lossy(), "it is not there");
            continue;
        }
        let lab = Lab::new();
        let began = std::time::Instant::now();
        let done = lab.backup(&lab.cached(source));
        let target = lab.top.join("target");
        let restored = lab.restore(&lab.root(source), &RestoreOptions::to(target.clone()));
        println!("{}: {done:?}\n{restored:?}", source.display());
        let found = judge::differences(source, &target, Look { not_the_top: true, no_checksums: false });
        assert!(found.is_empty(), "{}: {} differences:\n{}", source.display(), found.len(), found.join("\n"));
        println!("{}: no difference, {:.1?}", source.display(), began.elapsed());
    }
}
