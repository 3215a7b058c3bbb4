//! `key …` and write-only devices from outside: what a person types, and what they see.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use twinkeep_tests::home::{Home, has_mode};

/// Ids of the ways in of a kind.
fn ids(home: &Home, kind: &str) -> Vec<String> {
    let keys = home.json(&["key", "list"]);
    let of_kind = keys.iter().filter(|key| key["kind"] == kind);
    of_kind.map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

/// The vault's id, and this home's machine key to it.
fn own_key(home: &Home) -> (String, PathBuf) {
    let path = fs::read_dir(home.path(".config/twinkeep/keys")).unwrap().next().unwrap().unwrap().path();
    (path.file_stem().unwrap().to_str().unwrap().to_owned(), path)
}

#[test]
fn passwords_and_machine_keys_come_and_go() {
    let home = Home::new();
    home.write("docs/a", "hello");
    home.write("first", "one\n");
    home.write("second", "two\n");
    home.expect(0, &["backup", "docs"]);
    let (vault, own) = own_key(&home);
    home.expect(2, &["key", "passwd", "--new-password-file", "first"]);
    home.expect(2, &["key", "add"]);
    let added = home.json(&["key", "add", "--label", "ann", "--new-password-file", "first"]);
    assert_eq!((&added[0]["message_type"], &added[0]["label"]), (&"key_added".into(), &"ann".into()));
    home.expect(0, &["snapshots", "--password-file", "first"]);
    home.expect(0, &["key", "passwd", "--new-password-command", "cat second"]);
    home.expect(12, &["snapshots", "--password-file", "first"]);
    let list = home.expect(0, &["key", "list", "--password-file", "second"]).out;
    assert!(list.contains("ann") && list.contains("opened the vault now") && list.contains("key pair 0"), "{list}");

    home.expect(1, &["key", "add", "--machine"]);
    let made = home.expect(0, &["key", "add", "--machine", "--out", "laptop.key"]);
    assert!(made.out.contains("laptop") && made.out.contains(&vault), "{}", made.out);
    assert!(has_mode(&home.path("laptop.key"), 0o600));
    home.expect(1, &["key", "add", "--machine", "--out", "laptop.key"]);
    let laptop = Home::new();
    let folder = home.path(".local/share/twinkeep/vault");
    laptop.write(&format!(".config/twinkeep/keys/{vault}.key"), &fs::read_to_string(home.path("laptop.key")).unwrap());
    laptop.expect(0, &["snapshots", "--vault", folder.to_str().unwrap()]);

    // Everything away but one; the last one only with a yes, and then the words are all there is.
    let words = home.json(&["key", "export", "--yes"])[0]["words"].as_str().unwrap().to_owned();
    home.write("words", &words);
    home.expect(2, &["key", "remove", ""]);
    home.expect(2, &["key", "remove", "zz"]);
    let password = ids(&home, "password");
    let removed = home.expect(0, &["key", "remove", &password[0][..6]]).out;
    assert!(removed.contains("older copy"), "{removed}");
    home.expect(12, &["snapshots", "--password-file", "second"]);
    let machines = ids(&home, "machine");
    assert_eq!(machines.len(), 2);
    home.expect(0, &["key", "remove", &machines[1]]);
    laptop.expect(12, &["snapshots", "--vault", folder.to_str().unwrap()]);
    let refused = home.expect(2, &["key", "remove", &machines[0]]);
    assert!(refused.err.contains("only way") && refused.err.contains("hint: "), "{}", refused.err);
    home.expect(0, &["snapshots"]);
    let own_gone = home.expect(0, &["key", "remove", &machines[0], "--yes"]).out;
    assert!(own_gone.contains("may be deleted"), "{own_gone}");
    home.expect(12, &["snapshots"]);
    fs::remove_file(own).unwrap();
    home.expect(0, &["key", "add", "--machine", "--recovery-words-file", "words"]);
    home.expect(0, &["snapshots"]);
    assert!(has_mode(&own_key(&home).1, 0o600));
}

#[test]
fn a_paper_key_opens_the_vault() {
    let home = Home::new();
    home.write("docs/a", "hello");
    home.expect(0, &["backup", "docs"]);
    let (vault, own) = own_key(&home);
    let asked = home.expect(2, &["key", "export"]);
    assert!(asked.err.contains("--yes") && asked.out.is_empty(), "{}{}", asked.err, asked.out);
    let shown = home.expect(0, &["key", "words", "--yes"]).out;
    let page = home.expect(0, &["key", "export", "--paper", "--yes"]).out;
    assert!(page.contains(&vault) && page.contains('█') && page.contains("24. "), "{page}");
    home.expect(0, &["key", "export", "--paper", "--yes", "--out", "page.txt"]);
    assert!(has_mode(&home.path("page.txt"), 0o600));
    home.expect(1, &["key", "export", "--paper", "--yes", "--out", "page.txt"]);
    home.expect(2, &["key", "export", "--paper", "--yes", "--json"]);
    home.write("shown.txt", &shown);
    fs::remove_file(own).unwrap();
    for file in ["page.txt", "shown.txt"] {
        home.expect(0, &["snapshots", "--recovery-words-file", file]);
    }
}

#[test]
fn rotation_is_for_what_comes() {
    let home = Home::new();
    home.write("docs/a", "hello");
    home.expect(0, &["backup", "docs"]);
    assert_eq!(home.json(&["key", "rotate"])[0]["generation"], 1);
    home.write("docs/b", "more");
    home.expect(0, &["backup", "docs"]);
    home.expect(0, &["check", "--read-data"]);
    assert!(home.expect(0, &["key", "list"]).out.contains("key pair 1"));
    home.expect(0, &["key", "add", "--write-only", "--out", "pc.device"]);
    let told = home.expect(0, &["key", "rotate"]).out;
    assert!(told.contains("1 write-only device goes on"), "{told}");
}

#[test]
fn a_write_only_machine_backs_up_and_cannot_look() {
    let (home, machine) = (Home::new(), Home::new());
    home.write("docs/a", "hello");
    home.expect(0, &["backup", "docs"]);
    let (vault, _) = own_key(&home);
    let folder = home.path(".local/share/twinkeep/vault").to_str().unwrap().to_owned();
    home.expect(2, &["key", "add", "--write-only", "--label", "pc7"]);
    home.expect(0, &["key", "add", "--write-only", "--label", "pc7", "--out", "pc7.device"]);
    assert!(has_mode(&home.path("pc7.device"), 0o600));
    let own = machine.path(&format!(".config/twinkeep/keys/{vault}.device"));
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::copy(home.path("pc7.device"), &own).unwrap();
    machine.write("work/plan", &"secret plan ".repeat(500));
    machine.write("work/notes", "short");

    // A stamp of this moment may stand for two versions of a file: it would be read again.
    std::thread::sleep(std::time::Duration::from_millis(2200));
    let first = &machine.json(&["-r", &folder, "backup", "work"])[0];
    assert_eq!(first["files_new"], 2);
    machine.write("work/third", "and more");
    let second = machine.json(&["-r", &folder, "backup", "work", "--skip-if-unchanged"]);
    assert_eq!((&second[0]["message_type"], &second[1]["files_new"]), (&"warning".into(), &1.into()));
    assert_eq!((&second[1]["files_unchanged"], &second[1]["chunks_known"]), (&2.into(), &0.into()), "{second:?}");
    machine.expect(0, &["-r", &folder, "backup", "work", "--dry-run"]);

    let listed = machine.json(&["-r", &folder, "snapshots"]);
    assert_eq!((listed.len(), &listed[0]["id"]), (2, &first["snapshot_id"]));
    assert!(machine.expect(0, &["-r", &folder, "snapshots"]).out.contains("may only write"));
    for verb in [
        &["restore", "latest", "--target", "out"][..],
        &["ls", "latest"],
        &["find", "plan"],
        &["dump", "latest:/a"],
        &["diff", "latest", "latest"],
        &["check"],
        &["check", "--read-data"],
        &["stats"],
        &["key", "list"],
        &["key", "add", "--machine"],
        &["key", "export", "--yes"],
        &["key", "rotate"],
    ] {
        let refused = machine.expect(13, &[&["-r", &folder], verb].concat());
        assert!(refused.err.contains("may only write"), "{verb:?}: {}", refused.err);
    }
    // A member sees and restores it, and knows whose it is.
    let all = home.json(&["snapshots"]);
    assert_eq!(
        (all.len(), &all[0]["device"], &all[1]["device"]),
        (3, &Value::Null, &ids(&home, "device")[0].clone().into())
    );
    let id = second[1]["snapshot_id"].as_str().unwrap();
    let device = ids(&home, "device")[0].clone();
    assert!(home.expect(0, &["snapshots"]).out.contains(&format!("device {}", &device[..8])));
    let restored =
        home.expect(0, &["restore", &format!("{id}:{}", machine.path("work").display()), "--target", "back"]);
    assert!(restored.out.contains(&device), "{}", restored.out);
    assert_eq!(fs::read(home.path("back/plan")).unwrap(), fs::read(machine.path("work/plan")).unwrap());
    home.expect(0, &["check", "--read-data"]);

    machine.expect(0, &["-r", &folder, "backup", "--stdin-from-command", "--", "echo", "from a program"]);
    assert_eq!(home.expect(0, &["dump", "latest:/stdin"]).out, "from a program\n");

    // By flag, too; not where no vault is, nor with a file that is none.
    let flag = machine.path("flag.device").to_str().unwrap().to_owned();
    fs::rename(&own, &flag).unwrap();
    machine.expect(12, &["-r", &folder, "backup", "work"]);
    machine.expect(0, &["-r", &folder, "--device-key-file", &flag, "backup", "work"]);
    machine.expect(10, &["-r", "nowhere", "--device-key-file", &flag, "backup", "work"]);
    machine.expect(12, &["-r", &folder, "--device-key-file", "work/plan", "backup", "work"]);
    let device = ids(&home, "device");
    let told = home.expect(0, &["key", "remove", &device[0]]).out;
    assert!(told.contains("what it backed up before stays"), "{told}");
    home.expect(2, &["key", "remove", &device[0]]);
    let refused = machine.expect(12, &["-r", &folder, "--device-key-file", &flag, "backup", "work"]);
    assert!(refused.err.contains("no longer"), "{}", refused.err);
    assert_eq!(home.json(&["snapshots"]).len(), 5);
}

#[test]
fn an_open_vault_in_the_place_of_ours_is_refused() {
    let home = Home::new();
    home.write("docs/a", "hello");
    home.expect(0, &["-r", "open", "init", "--no-encryption"]);
    home.expect(2, &["-r", "open", "key", "bogus"]);
    home.expect(12, &["-r", "open", "key", "add", "--new-password-file", "docs/a"]);
    home.expect(0, &["-r", "open", "backup", "docs"]);
    // As if it had been encrypted when this machine's key to it was made.
    let keyring = fs::read(home.path("open/keyring")).unwrap();
    let vault: String = keyring[8..24].iter().map(|byte| format!("{byte:02x}")).collect();
    home.write(&format!(".config/twinkeep/keys/{vault}.key"), &"ab".repeat(32));
    let refused = home.expect(12, &["-r", "open", "backup", "docs"]);
    assert!(refused.err.contains("not encrypted"), "{}", refused.err);
}
