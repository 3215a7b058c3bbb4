//! Every verb's `--json` against `docs/json.md`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use twinkeep_tests::home::{Home, Ran};
use twinkeep_tests::jsondoc::Doc;
use twinkeep_tests::jsonoffice;

/// Described and not seen here: what only shows in work of many seconds (beside the code there is a test of it), and
/// devices, which need more rights to make than most have.
const NOT_MADE: &[&str] = &["status.files_total", "status.bytes_total", "status.current", "node.major", "node.minor"];

/// A home, the document, and a vault in the folder `v`.
struct Scene {
    home: Home,
    doc: Doc,
}

fn document() -> Doc {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    Doc::parse(&fs::read_to_string(path).unwrap()).unwrap_or_else(|problem| panic!("docs/json.md: {problem}"))
}

impl Scene {
    /// Runs `verb` with `--json`, expects an exit code, and holds all it prints against the document.
    fn run(&mut self, code: i32, verb: &str, args: &[&str]) -> Ran {
        self.run_on("v", code, verb, args)
    }

    fn run_on(&mut self, vault: &str, code: i32, verb: &str, args: &[&str]) -> Ran {
        let words: Vec<&str> = verb.split(' ').collect();
        let ran = self.home.expect(code, &[&["--json", "-r", vault], &words[..], args].concat());
        for line in ran.out.lines().chain(ran.err.lines()) {
            self.doc.hold(verb, line).unwrap_or_else(|problem| panic!("{problem}"));
        }
        let fails = ran.err.lines().filter(|line| line.starts_with("{\"message_type\":\"exit_error\"")).count();
        assert_eq!(ran.err.lines().count(), fails, "only the end of a failed run belongs there: {}", ran.err);
        ran
    }
}

/// `field` of every message of a type.
fn texts(ran: &Ran, name: &str, field: &str) -> Vec<String> {
    let all = twinkeep_tests::home::messages(&ran.out);
    let named = all.iter().filter(|message| message["message_type"] == name);
    named.map(|message| message[field].as_str().unwrap_or_default().to_owned()).collect()
}

fn odd(name: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(name))
}

#[test]
fn every_verb_and_every_message_has_an_entry() {
    let doc = document();
    let verbs: BTreeSet<String> = twinkeep_cli::verb_names().into_iter().collect();
    for verb in &verbs {
        assert!(doc.has_verb(verb), "docs/json.md has no section of `{verb}`");
    }
    for verb in doc.verbs() {
        let is_there = verbs.iter().any(|own| own == verb || own.starts_with(&format!("{verb} ")));
        assert!(is_there, "docs/json.md tells of `{verb}`, which does not exist");
    }
    let mut sources = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/src")];
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for name in text.split("message(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(doc.has_message(name), "{}: docs/json.md does not describe `{name}`", path.display());
        }
    }
}

#[test]
fn what_verbs_print_is_what_is_written() {
    let mut scene = Scene { home: Home::new(), doc: document() };
    make(&mut scene);
    look(&mut scene);
    keep(&mut scene);
    count(&mut scene);
    scrub(&mut scene);
    keys(&mut scene);
    refuse(&mut scene);
    damage(&mut scene);
    jsonoffice::run(&mut scene.doc);
    let unseen: Vec<String> =
        scene.doc.unseen().into_iter().filter(|name| !NOT_MADE.contains(&name.as_str())).collect();
    assert!(unseen.is_empty(), "described in docs/json.md and not seen here: {unseen:?}");
}

/// Vaults, and three snapshots of `docs`.
fn make(scene: &mut Scene) {
    let home = &scene.home;
    home.write("docs/a.txt", "hello");
    home.write("docs/deep/b.txt", &"line\n".repeat(100_000));
    home.write("docs/mode", "the same");
    home.write("docs/kind", "a file");
    fs::write(home.path("docs").join(odd(b"odd \xff")), "odd").unwrap();
    std::os::unix::fs::symlink(odd(b"a\xfe"), home.path("docs/link")).unwrap();
    fs::create_dir(home.path("docs").join(odd(b"folder \xfd"))).unwrap();
    fs::create_dir(home.path("taken")).unwrap();
    home.write("taken/x", "x");
    scene.run_on("plain", 0, "init", &["--no-encryption"]);
    scene.run_on("own", 0, "init", &[]);
    scene.run(0, "backup", &["docs", "--tag", "a,b", "-e", "*.tmp"]);
    scene.run(0, "backup", &["-n", "docs"]);
    // Long enough for a status.
    let shell = "sleep 1.3; echo done";
    scene.run(0, "backup", &["--stdin-from-command", "--stdin-filename", "list", "--", "sh", "-c", shell]);
    scene.home.write("docs/a.txt", "hello again");
    scene.home.write("docs/new", "new");
    let docs = scene.home.path("docs");
    fs::remove_file(docs.join("deep/b.txt")).unwrap();
    fs::remove_file(docs.join("kind")).unwrap();
    fs::create_dir(docs.join("kind")).unwrap();
    fs::set_permissions(docs.join("mode"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    scene.run(3, "backup", &["docs", "nowhere", "--with-atime"]);
    scene.home.command(&["-r", "v", "backup", "-q"]).arg(docs.join(odd(b"folder \xfd"))).status().unwrap();
}

/// What only reads.
fn look(scene: &mut Scene) {
    let list = scene.run(0, "snapshots", &[]);
    let ids = texts(&list, "snapshot", "id");
    assert_eq!(ids.len(), 4, "{}", list.out);
    let (old, new) = (ids[0].as_str(), ids[2].as_str());
    scene.run(0, "snapshots", &["--group-by", "host,tags", "--latest", "1"]);
    scene.run(0, "ls", &["--recursive", old]);
    scene.run(0, "ls", &["--recursive", new]);
    scene.run(0, "find", &["*"]);
    scene.run(0, "diff", &[old, new]);
    scene.run(0, "diff", &[new, old]);
    let docs = scene.home.path("docs").canonicalize().unwrap();
    let place = format!("{new}:{}", docs.display());
    for name in ["a.txt", "deep/b.txt", "deep"] {
        scene.run(0, "history", &[&format!("{}/{name}", docs.display())]);
    }
    scene.run(1, "history", &["nowhere"]);
    scene.run(0, "restore", &[&place, "--target", "back", "--verify"]);
    scene.run(0, "restore", &[&place, "--target", "back", "-n", "--delete"]);
    scene.run(0, "check", &[]);
    scene.run(0, "check", &["--read-data"]);
    scene.run(0, "version", &[]);
    scene.run(0, "man", &["pages"]);
    for page in ["twinkeep", "twinkeep-gc", "twinkeep-key", "twinkeep-key-add"] {
        assert!(scene.home.path(&format!("pages/{page}.1")).is_file(), "{page}");
    }
    let out = scene.home.expect(0, &["--json", "completions", "bash"]).out;
    assert!(out.contains("twinkeep") && out.contains("--write-only"));
    let file = format!("{}/a.txt", docs.display());
    assert_eq!(scene.home.expect(0, &["--json", "-r", "v", "dump", new, &file]).out, "hello again");
}

/// Space, before and after some of it is given back.
fn count(scene: &mut Scene) {
    for mode in ["restore-size", "raw-data", "dedup"] {
        scene.run(0, "stats", &["--mode", mode]);
    }
    scene.run(0, "stats", &["--mode", "space"]);
    scene.run(0, "stats", &["--mode", "freed", "latest", "latest~1"]);
    scene.run(0, "stats", &["--each", "--latest", "2"]);
    scene.run(0, "gc", &["--dry-run"]);
    scene.run(0, "gc", &[]);
    scene.run(0, "gc", &["--no-key"]);
    scene.run(0, "stats", &["--mode", "space"]);
    scene.run(2, "stats", &["--mode", "space", "latest"]);
    scene.run(2, "stats", &["--mode", "dedup", "--each"]);
}

/// What is kept, in a vault of its own.
fn keep(scene: &mut Scene) {
    let flags = ["--retention-days", "0", "--undelete-days", "7", "--compression", "3"];
    scene.run_on("kept", 0, "init", &flags);
    for _ in 0..4 {
        scene.run_on("kept", 0, "backup", &["docs"]);
    }
    let mut run = |code: i32, verb: &str, args: &[&str]| scene.run_on("kept", code, verb, args);
    run(0, "config", &[]);
    run(0, "config", &["--undelete-days", "5", "--compression", "4"]);
    run(2, "config", &["--retention-days", "1"]);
    let ids = texts(&run(0, "snapshots", &[]), "snapshot", "id");
    let dry = run(0, "forget", &["--keep-last", "2", "--dry-run"]);
    assert_eq!(texts(&dry, "decision", "id"), ids);
    run(0, "forget", &["--keep-last", "2", "--group-by", "tags"]);
    let forgotten = run(0, "snapshots", &["--forgotten"]);
    assert_eq!(texts(&forgotten, "snapshot", "id"), ids[..2]);
    run(0, "undelete", &[&ids[1]]);
    run(1, "undelete", &[&ids[3]]);
    run(0, "undelete", &["--all"]);
    run(2, "undelete", &[]);
    run(0, "pin", &[&ids[0]]);
    run(13, "forget", &[&ids[0]]);
    run(0, "pin", &["--remove", &ids[0]]);
    run(0, "tag", &["--add", "x,y", "latest"]);
    run(0, "tag", &["--set", "", "--tag", "x"]);
    run(2, "tag", &["latest"]);
    run(2, "forget", &[]);
    run(1, "forget", &["--keep-tag", "none"]);
    run(0, "forget", &[&ids[0], "--dry-run"]);
    run(0, "forget", &[&ids[0]]);
    run(0, "forget", &["--keep-last", "1", "--prune", "--dry-run"]);
    let pruned = run(0, "forget", &["--keep-last", "1", "--prune"]);
    assert!(pruned.out.lines().last().is_some_and(|line| line.contains("\"gc_summary\"")), "{}", pruned.out);
}

/// Scrubs of what is whole; [`damage`] has others.
fn scrub(scene: &mut Scene) {
    scene.run(0, "scrub", &["status"]);
    scene.run(0, "scrub", &["pause"]);
    scene.run(1, "scrub", &["resume"]);
    scene.run(0, "scrub", &["start", "--rate", "500M"]);
    scene.run(0, "scrub", &["status"]);
}

fn keys(scene: &mut Scene) {
    scene.home.write("first", "one");
    scene.home.write("second", "two");
    scene.run(0, "key add", &["--label", "ann", "--new-password-file", "first"]);
    scene.run(0, "key add", &["--machine", "--out", "laptop.key"]);
    scene.run(0, "key add", &["--write-only", "--out", "pc.device"]);
    scene.run(0, "key passwd", &["--new-password-file", "second"]);
    scene.run(0, "key rotate", &[]);
    scene.run(0, "key export", &["--yes"]);
    let list = scene.run(0, "key list", &[]);
    for (id, kind) in texts(&list, "key", "id").iter().zip(texts(&list, "key", "kind")) {
        if kind != "machine" {
            scene.run(0, "key remove", &[id]);
        }
    }
    scene.run(0, "key list", &[]);
    scene.run(2, "key remove", &["zz"]);
}

/// Runs that fail, each with its code.
fn refuse(scene: &mut Scene) {
    scene.run(1, "ls", &["latest:/nowhere"]);
    scene.run(1, "ls", &["ffffffff"]);
    scene.run(2, "ls", &["yesterday"]);
    scene.run(2, "ls", &["--frobnicate"]);
    scene.run(2, "restore", &["latest"]);
    scene.run(2, "dump", &["latest:/"]);
    scene.run(1, "dump", &["latest", "/nowhere"]);
    scene.run(2, "find", &["*", "--newer", "soon"]);
    scene.run(1, "init", &[]);
    scene.run_on("taken", 1, "backup", &["docs"]);
    scene.run_on("none", 10, "snapshots", &[]);
    let others = Home::new();
    let vault = scene.home.path("v");
    let ran = others.expect(12, &["--json", "-r", vault.to_str().unwrap(), "snapshots"]);
    scene.doc.hold("snapshots", ran.err.trim_end()).unwrap();
}

/// A pack of file content and a record are damaged.
fn damage(scene: &mut Scene) {
    let packs = fs::read_dir(scene.home.path("v/packs")).unwrap().map(|entry| entry.unwrap().path());
    for pack in packs.filter(|path| path.extension().is_some_and(|kind| kind == "leaf")) {
        let mut bytes = fs::read(&pack).unwrap();
        // In the first frame, whose header begins at 64.
        bytes[200] ^= 1;
        fs::write(&pack, bytes).unwrap();
    }
    for action in ["start", "status"] {
        let ran = scene.run(18, "scrub", &[action]);
        assert!(texts(&ran, "fault", "done").iter().all(|done| done == "set_aside"), "{}", ran.out);
    }
    scene.run(18, "check", &["--read-data"]);
    scene.run(18, "restore", &["latest~3", "--target", "broken"]);
    fs::remove_file(scene.home.path("v/records/0000000000000002")).unwrap();
    for verb in ["snapshots", "check"] {
        scene.run(18, verb, &[]);
    }
    scene.run(18, "find", &["a*"]);
    scene.run(18, "stats", &[]);
    scene.run(18, "stats", &["--mode", "space"]);
    scene.run(18, "stats", &["--each"]);
    scene.run(18, "repair index", &["--dry-run"]);
    scene.run(18, "repair packs", &["-n"]);
    scene.run(18, "repair packs", &[]);
    scene.run(18, "repair index", &["--dry-run"]);
    scene.run(18, "repair index", &[]);
    scene.run(18, "repair snapshots", &["--dry-run"]);
    scene.run(18, "repair snapshots", &[]);
    scene.run(0, "repair snapshots", &[]);
}
