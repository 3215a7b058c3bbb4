//! The company's recovery kit: what it opens, and for whom it makes a new password.

use std::fs;
use twinkeep_tests::fidelity::judge::{self, Look};
use twinkeep_tests::office::{Machine, OfficeWorld, PASSWORD, PATIENCE, source, until};
use twinkeep_tests::tree::Shape;

const SHAPE: Shape = Shape { files: 40, wide: 100, len_max: 60 << 10 };

/// Takes the kit to another machine.
fn carry(world: &OfficeWorld, to: &Machine) {
    fs::copy(world.host.data().join("kit"), to.home.path("kit")).expect("the host has a kit");
    fs::copy(world.host.home.path("kit-words"), to.home.path("kit-words")).expect("its words were shown");
}

const WORDS: [&str; 2] = ["--recovery-words-file", "kit-words"];
const KIT: [&str; 4] = ["--recovery-kit-file", "kit", "--recovery-words-file", "kit-words"];

fn audit(world: &OfficeWorld) -> Vec<String> {
    world.host.json(&["audit"]).iter().map(|entry| entry["what"].to_string()).collect()
}

fn uses(world: &OfficeWorld, text: &str) -> usize {
    audit(world).iter().filter(|what| what.contains("KeyUse") && what.contains(text)).count()
}

#[test]
fn who_has_the_kit_reads_company_vaults_and_nothing_else() {
    let world = OfficeWorld::new(2, &["anna", "ben"]);
    world.add_user("carla", &["--admin"]);
    world.add_user("paul", &["--private"]);
    let [one, two] = &world.pcs[..] else { unreachable!("there are two") };
    one.login("anna");
    let tree = source(61, SHAPE);
    let made = one.backup(&tree.root(), &[]);
    let id = made["snapshot_id"].as_str().expect("an id").to_owned();
    let annas = ["--vault", "twinkeep://anna/anna"];

    // On the host, where nobody is logged in.
    let host = &world.host;
    host.expect(12, &[&annas[..], &["snapshots"]].concat());
    let listed = host.json(&[&WORDS[..], &annas, &["snapshots"]].concat());
    assert_eq!(listed[0]["id"], id);
    host.expect(0, &[&WORDS[..], &annas, &["restore", &id, "--target", "back"]].concat());
    if judge::is_there() {
        let inside = host.home.path("back").join(tree.root().strip_prefix("/").expect("absolute"));
        let found = judge::differences(&tree.root(), &inside, Look::default());
        assert!(found.is_empty(), "{found:#?}");
    }
    host.expect(0, &[&WORDS[..], &annas, &["check", "--read-data"]].concat());
    host.json(&[&WORDS[..], &annas, &["ls", "--recursive", "latest"]].concat());
    // Reading is all it is for.
    host.home.write("docs/a", "hello");
    for verb in [&["backup", "docs"][..], &["pin", &id], &["tag", "--add", "x", &id]] {
        let ran = host.run(&[&WORDS[..], &annas, verb].concat());
        assert_eq!(ran.code, Some(13), "{verb:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains("for reading alone"), "{}", ran.err);
    }
    assert_eq!(one.json(&["snapshots"]).len(), 1);
    let refused = host.expect(13, &[&WORDS[..], &["--vault", "twinkeep://paul/paul", "snapshots"]].concat());
    assert!(refused.err.contains("is private"), "{}", refused.err);
    host.expect(10, &[&WORDS[..], &["--vault", "twinkeep://anna/other", "snapshots"]].concat());
    host.expect(2, &[&["--recovery-kit-file", "data/kit"][..], &WORDS, &["snapshots"]].concat());
    host.expect(2, &[&["--recovery-kit-file", "data/kit", "--vault", "folder"][..], &WORDS, &["snapshots"]].concat());

    // On a PC, for an administrator with a copy of the kit.
    carry(&world, two);
    two.login("ben");
    two.expect(13, &[&KIT[..], &annas, &["snapshots"]].concat());
    two.login("carla");
    two.expect(10, &[&annas[..], &["snapshots"]].concat());
    two.expect(2, &[&WORDS[..], &annas, &["snapshots"]].concat());
    let listed = two.json(&[&KIT[..], &annas, &["snapshots"]].concat());
    assert_eq!(listed[0]["id"], id);
    two.home.write("other-words", &format!("{}art", "abandon ".repeat(23)));
    let others = ["--recovery-kit-file", "kit", "--recovery-words-file", "other-words"];
    two.expect(12, &[&others[..], &annas, &["snapshots"]].concat());
    assert_eq!(uses(&world, "the vault anna was opened for reading"), 8, "{:#?}", audit(&world));

    // The kit of another office opens nothing here.
    let other = OfficeWorld::new(0, &[]);
    carry(&other, two);
    two.expect(12, &[&KIT[..], &annas, &["snapshots"]].concat());
}

#[test]
fn a_lost_password_is_replaced_and_what_the_company_opens_stays() {
    let world = OfficeWorld::new(2, &["anna", "ben"]);
    world.add_user("carla", &["--admin"]);
    let [one, two] = &world.pcs[..] else { unreachable!("there are two") };
    one.login("anna");
    let tree = source(62, SHAPE);
    let made = one.backup(&tree.root(), &[]);
    let id = made["snapshot_id"].as_str().expect("an id").to_owned();
    one.expect(0, &["vault", "create", "diary", "--private"]);
    one.expect(0, &["vault", "create", "team", "--shared", "--member", "ben"]);
    one.expect(0, &["vault", "create", "secret", "--shared", "--private", "--member", "ben"]);
    one.home.write("notes/a", "dear diary");
    let notes = one.home.path("notes");
    for vault in ["diary", "team", "secret"] {
        one.backup(&notes, &["--vault", &format!("twinkeep://{vault}")]);
    }

    // Said before, and nothing done.
    carry(&world, two);
    two.login("carla");
    two.home.write("new", "quite another");
    let reset = [&KIT[..], &["user", "reset", "anna", "--new-password-file", "new"]].concat();
    let refused = two.expect(2, &reset);
    assert!(refused.err.contains("anna/diary") && refused.err.contains("anna/secret"), "{}", refused.err);
    assert!(!refused.err.contains("anna/team"), "{}", refused.err);
    one.expect(0, &["snapshots"]);
    two.expect(1, &[&KIT[..], &["user", "reset", "nobody", "--new-password-file", "new"]].concat());
    let told = two.json(&[&reset[..], &["--give-up-private"]].concat());
    assert_eq!((&told[0]["vaults"], told[0]["lost"].as_array().map(Vec::len)), (&2.into(), Some(2)), "{told:?}");
    assert_eq!(uses(&world, "anna was given another password"), 1);

    // Where she was logged in she is not, and the old password is none.
    assert!(matches!(one.run(&["snapshots"]).code, Some(12 | 13)));
    one.home.write("password", PASSWORD);
    assert!(matches!(one.run(&["login", "anna", "--password-file", "password"]).code, Some(12 | 13)));
    one.home.write("new", "quite another");
    until("she is let in", PATIENCE, || {
        (one.run(&["login", "anna", "--password-file", "new"]).code == Some(0)).then_some(())
    });
    if judge::is_there() {
        one.restores_equal(&id, &tree.root(), &tree.root());
    }
    one.backup(&notes, &[]);
    one.expect(0, &["--vault", "twinkeep://team", "restore", "latest", "--target", "team"]);
    for lost in ["twinkeep://diary", "twinkeep://secret"] {
        let refused = one.expect(12, &["--vault", lost, "snapshots"]);
        assert!(refused.err.contains("password was reset"), "{}", refused.err);
    }
    // Another member gives back what it has, and it is sealed to her new key.
    two.login("ben");
    two.expect(0, &["vault", "add-member", "anna/secret", "anna"]);
    one.expect(0, &["--vault", "twinkeep://secret", "restore", "latest", "--target", "secret"]);
    let inside = one.home.path("secret").join(notes.strip_prefix("/").expect("absolute"));
    assert_eq!(fs::read_to_string(inside.join("a")).expect("it is back"), "dear diary");
    // She is who she was: nobody else's vaults, and her own ones by password only.
    one.expect(10, &["--vault", "twinkeep://ben/ben", "snapshots"]);
    let key = one.json(&["user", "devices"])[0]["fingerprint"].clone();
    one.home.write("next", "a third one");
    one.expect(0, &["user", "passwd", "--password-file", "new", "--new-password-file", "next"]);
    assert_eq!(one.json(&["user", "devices"])[0]["fingerprint"], key, "a new password is no new key");
}

#[test]
fn who_has_the_kit_lets_somebody_into_a_vault_whose_owner_is_gone() {
    let world = OfficeWorld::new(2, &["anna", "ben"]);
    let [one, two] = &world.pcs[..] else { unreachable!("there are two") };
    one.login("anna");
    two.login("ben");
    one.expect(0, &["vault", "create", "team", "--shared"]);
    one.home.write("notes/a", "hello");
    one.backup(&one.home.path("notes"), &["--vault", "twinkeep://team"]);
    world.host.expect(0, &["user", "disable", "anna"]);
    world.host.expect(2, &[&WORDS[..], &["vault", "add-member", "anna/anna", "ben"]].concat());
    world.host.expect(0, &[&WORDS[..], &["vault", "add-member", "anna/team", "ben"]].concat());
    two.expect(0, &["--vault", "twinkeep://team", "restore", "latest", "--target", "back"]);
    assert_eq!(uses(&world, "a member was added to the vault team"), 1);
}
