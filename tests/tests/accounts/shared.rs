//! Vaults of several accounts.

use std::process::Command;
use twinkeep_engine::env::Dice;
use twinkeep_tests::fidelity::judge;
use twinkeep_tests::home::{Ran, messages};
use twinkeep_tests::office::{Machine, OfficeWorld, PATIENCE, source, until};
use twinkeep_tests::tree::Shape;

const SHAPE: Shape = Shape { files: 60, wide: 150, len_max: 120 << 10 };

/// Bytes of a vault at the host.
fn stored(world: &OfficeWorld, owner: &str, name: &str) -> u64 {
    let told = messages(&world.host.run(&["--json", "copies", "status"]).out);
    let vault = told.iter().find(|vault| vault["name"] == name && vault["owner"] == owner);
    vault.unwrap_or_else(|| panic!("{owner}/{name}: {told:?}"))["bytes"].as_u64().expect("a number")
}

/// `diff -r` finds nothing.
fn diff(a: &std::path::Path, b: &std::path::Path) {
    let ran = Ran::of(Command::new("diff").arg("-r").args([a, b]).output().expect("diff runs"));
    assert_eq!((ran.code, &ran.out[..]), (Some(0), ""), "{}", ran.err);
}

/// A folder of files that do not compress.
fn noise(pc: &Machine, name: &str, seed: u64) -> std::path::PathBuf {
    let folder = pc.home.path(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    for number in 0..24 {
        let mut bytes = vec![0; 256 << 10];
        Dice(seed ^ number).fill(&mut bytes);
        std::fs::write(folder.join(format!("{number}")), bytes).expect("write");
    }
    folder
}

#[test]
fn two_members_back_up_at_once_into_one_vault() {
    let world = OfficeWorld::new(2, &["anna", "ben"]);
    let [one, two] = &world.pcs[..] else { unreachable!("there are two") };
    one.login("anna");
    two.login("ben");
    let made = one.json(&["vault", "create", "team", "--shared", "--member", "ben"]);
    assert_eq!((&made[0]["location"], &made[0]["members"][0]), (&"twinkeep://anna/team".into(), &"ben".into()));
    // The same files, and in each case one folder that nobody else has.
    let same = [noise(one, "docs/same", 1 << 32), noise(two, "docs/same", 1 << 32)];
    noise(one, "docs/annas", 2 << 32);
    noise(two, "docs/bens", 3 << 32);
    diff(&same[0], &same[1]);
    let folders = [one.home.path("docs"), two.home.path("docs")];
    let team = ["--vault", "twinkeep://anna/team"];
    let run = |pc: &Machine, folder: &std::path::Path| {
        let folder = folder.to_str().expect("a plain name").to_owned();
        let mut command = pc.home.command(&["--json", "--vault", "twinkeep://anna/team", "backup", &folder]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("it starts")
    };
    let running = [run(one, &folders[0]), run(two, &folders[1])];
    let ids = running.map(|child| {
        let ran = Ran::of(child.wait_with_output().expect("it ends"));
        assert!(matches!(ran.code, Some(0 | 4)), "{:?} {}", ran.code, ran.err);
        let told = messages(&ran.out);
        let summary = told.iter().find(|told| told["message_type"] == "summary").expect("a summary");
        summary["snapshot_id"].as_str().expect("a snapshot").to_owned()
    });
    let part = 24 * (256 << 10);
    let bytes = stored(&world, "anna", "team");
    // What both sent at the same moment may be there twice, for a while.
    assert!(bytes > 3 * part && bytes < 4 * part + part / 4, "{bytes}, four times {part} at most");
    assert_eq!(stored(&world, "anna", "anna") + stored(&world, "ben", "ben"), 0, "nothing went elsewhere");

    // Each reads what the other stored.
    for (pc, id, folder) in [(one, &ids[1], &folders[1]), (two, &ids[0], &folders[0])] {
        let target = tempfile::tempdir().expect("a folder to restore into");
        let into = target.path().to_str().expect("a plain name");
        pc.expect(0, &[&team[..], &["restore", id, "--target", into]].concat());
        diff(folder, &target.path().join(folder.strip_prefix("/").expect("absolute")));
    }
    // What one has stored the other does not store again.
    noise(two, "more/annas", 2 << 32);
    noise(one, "more/bens", 3 << 32);
    for pc in [one, two] {
        pc.backup(&pc.home.path("more"), &team);
        pc.backup(&pc.home.path("docs"), &team);
    }
    let after = stored(&world, "anna", "team");
    println!("{bytes} bytes were stored at once of {}, of which {part} twice; {} more later", 4 * part, after - bytes);
    assert!(after - bytes < part / 8, "{after} after {bytes}");
    one.expect(0, &[&team[..], &["check", "--read-data"]].concat());
    world.await_twice(PATIENCE);
    let freed = world.host.expect(0, &["gc"]).out;
    let left = stored(&world, "anna", "team");
    println!("{left} bytes are left: {freed}");
    assert!(left <= after, "{left} of {after}");
    two.expect(0, &[&team[..], &["check", "--read-data"]].concat());
    let listed = two.json(&["vault", "list"]);
    let team = listed.iter().find(|vault| vault["name"] == "team").expect("ben is a member");
    assert_eq!((&team["owner"], &team["kind"], &team["for_company"]), (&"anna".into(), &"shared".into(), &true.into()));
}

#[test]
fn who_is_removed_is_refused_in_the_middle_of_a_backup() {
    let world = OfficeWorld::new(2, &["anna", "ben"]);
    let [one, two] = &world.pcs[..] else { unreachable!("there are two") };
    one.login("anna");
    two.login("ben");
    one.expect(0, &["vault", "create", "team", "--shared"]);
    let team = ["--vault", "twinkeep://anna/team"];
    two.expect(10, &[&team[..], &["snapshots"]].concat());
    let key = two.json(&["user", "devices"])[0]["fingerprint"].as_str().expect("a fingerprint").to_owned();
    one.expect(13, &["vault", "add-member", "team", "ben", "--key", &key.replace(&key[..4], "0000")]);
    one.expect(0, &["vault", "add-member", "team", "ben", "--key", &key]);
    assert_eq!(two.expect(0, &["vault", "members", "anna/team"]).out.lines().count(), 2);
    two.home.write("docs/a", "hello");
    let docs = two.home.path("docs");
    two.backup(&docs, &team);
    one.expect(0, &[&team[..], &["snapshots"]].concat());

    let mut bytes = vec![0; 64 << 20];
    Dice(7).fill(&mut bytes);
    std::fs::write(docs.join("big"), bytes).expect("write");
    let before = stored(&world, "anna", "team");
    let folder = docs.to_str().expect("a plain name");
    let mut command = two.home.command(&[&["--json"], &team[..], &["backup", folder]].concat());
    let piped = || std::process::Stdio::piped();
    let mut running = command.stdout(piped()).stderr(piped()).spawn().expect("it starts");
    until("something of it is stored", PATIENCE, || (stored(&world, "anna", "team") > before).then_some(()));
    one.expect(0, &["vault", "remove-member", "team", "ben"]);
    until("the backup ends", PATIENCE, || running.try_wait().expect("look at the command"));
    let ended = Ran::of(running.wait_with_output().expect("it has ended"));
    assert!(matches!(ended.code, Some(code) if code != 0 && code != 4), "{ended:?}");
    two.expect(10, &[&team[..], &["snapshots"]].concat());
    assert_eq!(one.json(&[&team[..], &["snapshots"]].concat()).len(), 1, "what was there is there");
    one.expect(0, &[&team[..], &["check", "--read-data"]].concat());
    let what: Vec<String> = world.host.json(&["audit"]).iter().map(|entry| entry["what"].to_string()).collect();
    for expected in ["made the shared vault team", "ben is a member of the vault team", "ben is no longer a member of"]
    {
        assert!(what.iter().any(|what| what.contains(expected)), "{expected}: {what:#?}");
    }
    // Its own is there as ever; and who is let in again reads what it stored.
    two.backup(&docs, &[]);
    one.expect(0, &["vault", "add-member", "team", "ben"]);
    let target = tempfile::tempdir().expect("a folder to restore into");
    let into = target.path().to_str().expect("a plain name");
    two.expect(0, &[&team[..], &["restore", "latest", "--target", into]].concat());
    assert!(target.path().join(docs.strip_prefix("/").expect("absolute")).join("a").exists());
}

#[test]
fn a_shared_vault_counts_for_who_made_it() {
    let world = OfficeWorld::new(2, &["ben"]);
    world.add_user("anna", &["--quota", "4M"]);
    let [one, two] = &world.pcs[..] else { unreachable!("there are two") };
    one.login("anna");
    two.login("ben");
    one.expect(0, &["vault", "create", "team", "--shared", "--member", "ben"]);
    let docs = noise(two, "docs", 9 << 32);
    let folder = docs.to_str().expect("a plain name");
    let refused = two.expect(14, &["--vault", "twinkeep://anna/team", "backup", folder]);
    assert!(refused.err.contains("of anna are used up"), "{}", refused.err);
    let used = |name: &str| {
        let users = world.host.json(&["user", "list"]);
        let user = users.into_iter().find(|user| user["name"] == name).expect("the account");
        user["used"].as_u64().expect("a number")
    };
    assert!(used("anna") > 1 << 20 && used("anna") <= 4 << 20, "{}", used("anna"));
    assert_eq!(used("ben"), 0);
    two.backup(&docs, &[]);
    assert!(used("ben") > 4 << 20);
}

#[test]
fn nobody_slips_a_vault_in_for_anothers_own() {
    let world = OfficeWorld::new(2, &["anna", "ben"]);
    let [one, two] = &world.pcs[..] else { unreachable!("there are two") };
    one.login("anna");
    two.login("ben");
    for _ in 0..4 {
        // Ids are drawn: some of these come before Anna's own.
        let name = format!("anna{}", world.host.json(&["vault", "list", "--all"]).len());
        two.expect(0, &["vault", "create", &name, "--shared", "--member", "anna"]);
    }
    two.expect(0, &["vault", "create", "anna", "--shared", "--member", "anna"]);
    let tree = source(5, SHAPE);
    let made = one.backup(&tree.root(), &["--wait", "copies=2"]);
    let bens = two.json(&["--vault", "twinkeep://ben/anna", "snapshots"]);
    assert_eq!(bens.len(), 0, "{bens:?}");
    if judge::is_there() {
        one.restores_equal(made["snapshot_id"].as_str().expect("an id"), &tree.root(), &tree.root());
    }
    // A second vault of one's own, that nobody else can open, and its name is one's own.
    one.expect(0, &["vault", "create", "diary", "--private"]);
    one.expect(2, &["vault", "create", "diary"]);
    one.expect(2, &["vault", "create", "a/b"]);
    one.expect(2, &["vault", "add-member", "diary", "ben"]);
    one.expect(2, &["vault", "add-member", "anna", "ben"]);
    one.home.write("notes/a", "dear diary");
    one.backup(&one.home.path("notes"), &["--vault", "twinkeep://diary"]);
    two.expect(10, &["--vault", "twinkeep://anna/diary", "snapshots"]);
    two.expect(1, &["vault", "create", "x", "--shared", "--member", "nobody"]);
    two.expect(13, &["vault", "list", "--all"]);
    // Who was made a member may leave.
    one.expect(0, &["vault", "remove-member", "ben/anna", "anna"]);
    one.expect(10, &["--vault", "twinkeep://ben/anna", "snapshots"]);
}
