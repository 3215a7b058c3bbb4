//! The command from outside: exit codes, what stands on its two outputs, and the flow of a first day.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use twinkeep_tests::home::{Home, Ran, has_mode, messages, types};

#[test]
fn a_first_backup_needs_nothing_and_shows_the_words_once() {
    let home = Home::new();
    home.write("docs/a", "hello");
    let first = home.expect(0, &["backup", "docs"]);
    assert!(first.err.contains("Recovery words") && first.err.contains("24. "), "{}", first.err);
    assert!(first.out.contains("1 new, 0 changed") && first.out.contains("saved"), "{}", first.out);
    let second = home.expect(0, &["backup", "docs", "--tag", "x,y"]);
    assert!(!second.err.contains("Recovery words"), "{}", second.err);
    let keys = home.path(".config/twinkeep/keys");
    assert!(has_mode(&keys, 0o700));
    let files: Vec<_> = fs::read_dir(&keys).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() == 1 && has_mode(&files[0], 0o600), "{files:?}");
    let list = home.expect(0, &["snapshots"]).out;
    assert!(list.contains("docs") && list.contains("2 snapshots"), "{list}");
    assert_eq!(messages(&home.expect(0, &["snapshots", "--json", "--tag", "y"]).out).len(), 1);
    // The words alone open it elsewhere; without them nothing does.
    let frame = first.err.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    home.write("words", &frame.collect::<Vec<_>>().join("\n"));
    fs::remove_file(&files[0]).unwrap();
    assert!(home.expect(12, &["snapshots"]).err.contains("hint: "));
    home.expect(0, &["snapshots", "--recovery-words-file", "words"]);
    home.write("screen", &first.err);
    home.expect(0, &["snapshots", "--recovery-words-file", "screen"]);
}

#[test]
fn what_is_wrong_has_a_code() {
    let home = Home::new();
    home.write("docs/a", "hello");
    home.write("taken/b", "x");
    home.write("password", "secret\n");
    home.write("wrong", "other\n");
    assert!(home.expect(10, &["snapshots"]).err.contains("hint: "));
    home.expect(2, &["frobnicate"]);
    home.expect(2, &["-r", "s3://bucket/x", "snapshots"]);
    let unknown = home.expect(16, &["-r", "twinkeep://host", "backup", "docs"]);
    assert!(unknown.err.contains("hint: "), "{}", unknown.err);
    home.expect(2, &["backup"]);
    home.expect(2, &["backup", ""]);
    home.expect(2, &["backup", "docs", "-e", "a/../b"]);
    assert!(!home.path(".local").exists(), "a wrong pattern must not make a vault");
    home.expect(1, &["-r", "taken", "backup", "docs"]);
    home.expect(0, &["-r", "v", "init", "--password-file", "password"]);
    home.expect(1, &["-r", "v", "init"]);
    home.expect(0, &["-r", "v", "backup", "docs", "--password-file", "password"]);
    home.expect(12, &["-r", "v", "snapshots", "--password-file", "wrong"]);
    home.expect(12, &["-r", "v", "snapshots", "--password-command", "false"]);
    home.expect(0, &["-r", "v", "snapshots", "--password-command", "cat password"]);
    let env = |word| home.run_with(&["-r", "v", "snapshots"], &[("TWINKEEP_PASSWORD", word)]).code;
    assert_eq!((env("secret"), env("other")), (Some(0), Some(12)));
    home.expect(1, &["-r", "v", "backup", "nowhere", "--password-file", "password"]);
    let some = home.expect(3, &["-r", "v", "backup", "nowhere", "docs", "--password-file", "password"]);
    assert!(some.err.contains("warning") && some.out.contains("saved"), "{}{}", some.out, some.err);
    home.expect(0, &["-r", "open", "init", "--no-encryption"]);
    home.expect(0, &["-r", "open", "backup", "docs"]);
}

#[test]
fn json_is_one_object_a_line() {
    let home = Home::new();
    home.write("docs/a", "hello");
    let first = home.expect(0, &["--json", "backup", "docs"]);
    assert_eq!(types(&first.out), ["recovery_words", "initialized", "summary"]);
    assert_eq!(first.err, "");
    let summary = &messages(&first.out)[2];
    assert_eq!((summary["files_new"].as_u64(), summary["errors"].as_u64()), (Some(1), Some(0)));
    let partly = home.expect(3, &["backup", "docs", "nowhere", "--json"]);
    assert_eq!(types(&partly.out), ["warning", "summary"]);
    let list = messages(&home.expect(0, &["snapshots", "--json"]).out);
    assert_eq!(list.len(), 2);
    assert_eq!(list[0]["id"], summary["snapshot_id"]);
    let failed = home.expect(10, &["--json", "-r", "none", "snapshots"]);
    assert_eq!((types(&failed.err), failed.out.as_str()), (vec!["exit_error".to_owned()], ""));
    assert_eq!(messages(&failed.err)[0]["code"], 10);
    assert_eq!(types(&home.expect(2, &["--json", "frobnicate"]).err), ["exit_error"]);
    assert_eq!(types(&home.expect(0, &["version", "--json"]).out), ["version"]);
}

#[test]
fn a_stream_is_kept_whole_or_not_at_all() {
    let home = Home::new();
    home.write("x", "x");
    home.expect(0, &["backup", "x"]);
    let mut child =
        home.command(&["backup", "--stdin", "--stdin-filename", "list"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
    assert!(child.wait().unwrap().success());
    home.expect(0, &["backup", "--stdin-from-command", "--", "echo", "three"]);
    let failed = home.expect(1, &["backup", "--stdin-from-command", "--", "sh", "-c", "echo half; exit 3"]);
    assert!(failed.err.contains("exit status: 3"), "{}", failed.err);
    assert_eq!(messages(&home.expect(0, &["snapshots", "--json"]).out).len(), 3);
}

#[test]
fn config_file_and_environment_count() {
    let home = Home::new();
    home.write("docs/a", "hello");
    home.write(".config/twinkeep/config.toml", "vault = \"v\"\n[backup]\ntag = [\"daily\"]\n");
    home.expect(0, &["backup", "docs"]);
    assert!(home.path("v").is_dir());
    let list = messages(&home.expect(0, &["snapshots", "--json"]).out);
    assert_eq!(list[0]["tags"][0], "daily");
    assert_eq!(home.run_with(&["snapshots"], &[("TWINKEEP_VAULT", "w")]).code, Some(10));
    home.write("bad.toml", "[backup]\nexlude = []\n");
    assert!(home.expect(2, &["--config", "bad.toml", "snapshots"]).err.contains("`exlude`"));
}

#[test]
fn a_list_that_lacks_snapshots_says_so() {
    let home = Home::new();
    home.write("docs/a", "hello");
    home.expect(0, &["-r", "v", "init", "--no-encryption"]);
    for _ in 0..3 {
        home.expect(0, &["-r", "v", "backup", "docs"]);
    }
    fs::remove_file(home.path("v/records/0000000000000002")).unwrap();
    for verb in [&["snapshots"][..], &["stats"], &["find", "a"]] {
        let ran = home.expect(18, &[&["-r", "v"], verb].concat());
        assert!(ran.err.contains("are gone"), "{}", ran.err);
    }
    // What is there is given back as before.
    home.expect(0, &["-r", "v", "restore", "latest", "--target", "back"]);
}

#[test]
fn pages_and_completions_are_made() {
    let home = Home::new();
    home.expect(0, &["man", "pages"]);
    let pages = fs::read_dir(home.path("pages")).unwrap().count();
    assert!(pages > 5 && home.path("pages/twinkeep-backup.1").exists(), "{pages}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.expect(0, &["completions", shell]).out.contains("backup"));
    }
}

#[test]
fn what_was_backed_up_is_listed_found_dumped_and_restored() {
    let home = Home::new();
    home.write("docs/a.txt", "hello");
    home.write("docs/deep/b.txt", &"line\n".repeat(100_000));
    std::os::unix::fs::symlink("a.txt", home.path("docs/link")).unwrap();
    fs::hard_link(home.path("docs/deep/b.txt"), home.path("docs/deep/same")).unwrap();
    home.expect(0, &["backup", "docs"]);
    let docs = home.path("docs").to_str().unwrap().to_owned();
    let place = format!("latest:{docs}");

    let top = home.expect(0, &["ls", &place]).out;
    assert_eq!(top, format!("{docs}/a.txt\n{docs}/deep\n{docs}/link\n"));
    let all = home.expect(0, &["ls", "-l", "--recursive", &place]).out;
    assert!(all.lines().count() == 5 && all.contains(" -> a.txt") && all.contains("drwx"), "{all}");
    assert_eq!(types(&home.expect(0, &["ls", "--json", &place]).out), ["snapshot", "node", "node", "node"]);
    assert!(home.expect(1, &["ls", "latest:/nowhere"]).err.contains("nowhere"));
    home.expect(2, &["ls", "yesterday"]);

    let found = home.expect(0, &["find", "-q", "*.txt", "--size", "-1K"]).out;
    assert_eq!(found, format!("{docs}/a.txt\n"));
    assert_eq!(
        home.expect(0, &["find", "-q", "--iname", "B.TXT", "--newer", "1d"]).out,
        format!("{docs}/deep/b.txt\n")
    );
    assert_eq!(home.expect(0, &["find", "-q", "*.txt", "--older", "1d"]).out, "");
    assert_eq!(types(&home.expect(0, &["find", "--json", "link", "--type", "l", "-s", "latest"]).out), ["match"]);

    assert_eq!(home.expect(0, &["dump", "latest", &format!("{docs}/a.txt")]).out, "hello");
    assert!(home.expect(2, &["dump", &place]).err.contains("--archive"));
    home.expect(0, &["dump", &place, "--archive", "tar", "-o", "docs.tar"]);
    home.expect(0, &["dump", &place, "--archive", "zip", "-o", "docs.zip"]);
    assert!(fs::read(home.path("docs.zip")).unwrap().starts_with(b"PK"));
    fs::create_dir(home.path("from_tar")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-x", "-f"]).arg(home.path("docs.tar")).current_dir(home.path("from_tar"));
    assert!(tar.status().unwrap().success());
    same_docs(&home.path("from_tar"));

    assert!(home.expect(2, &["restore", "latest"]).err.contains("--target"));
    home.expect(0, &["restore", &place, "--target", "back", "--verify"]);
    same_docs(&home.path("back"));
    home.expect(0, &["restore", "latest", "--target", "whole", "--json"]);
    same_docs(&home.path("whole").join(docs.trim_start_matches('/')));
    let again = home.expect(0, &["restore", &place, "--target", "back", "--overwrite", "if-changed", "--json"]);
    assert_eq!(messages(&again.out).last().unwrap()["bytes_written"], 0, "{}", again.out);
    home.expect(0, &["restore", &format!("{place}/a.txt"), "--target", "one"]);
    assert_eq!(fs::read(home.path("one/a.txt")).unwrap(), b"hello");
}

#[test]
fn archives_keep_odd_names_and_early_times() {
    use std::os::unix::{ffi::OsStrExt, fs::MetadataExt};
    let home = Home::new();
    home.write("docs/old", "x");
    for name in [b"odd \xff", b"odd \xfe"] {
        fs::write(home.path("docs").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let early = std::time::SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(315_619_200);
    fs::File::options().append(true).open(home.path("docs/old")).unwrap().set_modified(early).unwrap();
    home.expect(0, &["backup", "docs"]);
    let place = format!("latest:{}", fs::canonicalize(home.path("docs")).unwrap().display());
    home.expect(0, &["dump", &place, "--archive", "tar", "-o", "docs.tar"]);
    fs::create_dir(home.path("out")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-x", "-f"]).arg(home.path("docs.tar")).current_dir(home.path("out"));
    assert!(tar.status().unwrap().success());
    assert_eq!(fs::metadata(home.path("out/old")).unwrap().mtime(), -315_619_200);
    assert_eq!(fs::read(home.path("out").join(std::ffi::OsStr::from_bytes(b"odd \xff"))).unwrap(), b"odd \xff");
    let zip = home.expect(0, &["dump", &place, "--archive", "zip", "-o", "docs.zip"]);
    assert!(zip.err.contains("odd %FF") && zip.err.contains("odd %FE"), "{}", zip.err);
}

/// The folder holds what the test above made.
fn same_docs(folder: &Path) {
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::read(folder.join("a.txt")).unwrap(), b"hello");
    assert_eq!(fs::read(folder.join("deep/same")).unwrap(), "line\n".repeat(100_000).as_bytes());
    assert_eq!(fs::read_link(folder.join("link")).unwrap(), Path::new("a.txt"));
    assert_eq!(fs::metadata(folder.join("deep/b.txt")).unwrap().nlink(), 2);
}

#[test]
fn a_source_may_lie_behind_a_link() {
    let home = Home::new();
    home.write("real/dir/file", "hello");
    for (target, link) in [("real", "link"), ("real/dir", "to-dir")] {
        std::os::unix::fs::symlink(target, home.path(link)).unwrap();
    }
    let real = fs::canonicalize(home.path("real/dir")).unwrap();
    let file = format!("latest:{}/file", real.display());
    for path in ["link/dir", "to-dir/", "to-dir/file", "to-dir/../dir", "to-dir/."] {
        home.expect(0, &["backup", path]);
        assert_eq!(home.expect(0, &["dump", &file]).out, "hello", "{path}");
        let list = home.expect(0, &["snapshots", "--json", "--path", path]).out;
        assert!(!list.is_empty(), "{path}");
    }
    // A link that is named itself is backed up as a link.
    home.expect(0, &["backup", "to-dir"]);
    let links = home.expect(0, &["find", "-q", "to-dir", "--type", "l", "-s", "latest"]).out;
    assert_eq!(links.lines().count(), 1, "{links}");
}

#[test]
fn a_vault_that_may_only_be_read_is_read() {
    let home = Home::new();
    home.write("docs/a", &"hello ".repeat(50_000));
    home.write("password", "secret");
    home.expect(0, &["-r", "v", "init", "--password-file", "password"]);
    home.expect(0, &["-r", "v", "backup", "docs", "--password-file", "password"]);
    for has_index in [true, false] {
        if !has_index {
            fs::remove_dir_all(home.path("v/index")).unwrap();
        }
        let Some(mount) = ReadOnly::mount(&home.path("v")) else {
            eprintln!("skipped: no read-only mounts here");
            return;
        };
        let place = format!("latest:{}", fs::canonicalize(home.path("docs")).unwrap().display());
        let target = format!("back-{has_index}");
        let key = ["--password-file", "password"];
        home.expect(0, &[&["-r", "v", "restore", &place, "--target", &target], &key[..]].concat());
        assert_eq!(fs::read(home.path(&target).join("a")).unwrap(), "hello ".repeat(50_000).as_bytes());
        home.expect(0, &[&["-r", "v", "check", "--read-data"], &key[..]].concat());
        home.expect(13, &[&["-r", "v", "backup", "docs"], &key[..]].concat());
        drop(mount);
    }
}

/// A folder mounted onto itself so that nobody may write to it, until dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn mount(path: &Path) -> Option<Self> {
        let mount =
            |args: &[&str]| Command::new("mount").args(args).arg(path).output().ok().filter(|out| out.status.success());
        mount(&["--bind", path.to_str()?])?;
        let mounted = Self(path.to_owned());
        mount(&["-o", "remount,ro,bind"])?;
        Some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_stream_comes_back() {
    let home = Home::new();
    home.expect(0, &["backup", "--stdin-from-command", "--stdin-filename", "list", "--", "printf", "one\\ntwo\\n"]);
    assert_eq!(home.expect(0, &["dump", "latest", "list"]).out, "one\ntwo\n");
    let mut child = home.command(&["dump", "latest:/list"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().code().is_some(), "a closed pipe is no crash");
}

/// Somebody backs up their whole home, and the vault lies in it.
#[test]
fn a_vault_does_not_swallow_itself() {
    let home = Home::new();
    home.write("notes", "something to keep");
    home.expect(0, &["backup", "-q", "."]);
    let ran = home.expect(0, &["ls", "--recursive", "latest"]);
    assert!(ran.out.contains("/notes\n") && ran.out.contains("/.local/share/twinkeep/vault\n"), "{}", ran.out);
    assert!(!ran.out.contains("packs") && !ran.out.contains(".stat"), "{}", ran.out);
}

#[test]
fn a_scrub_takes_no_password_is_told_and_goes_on() {
    let home = Home::new();
    home.write("d/file", &"text ".repeat(10_000));
    home.write("password", "secret\n");
    let key = ["-r", "v", "--password-file", "password"];
    home.expect(0, &[&key[..], &["backup", "d"]].concat());
    home.expect(10, &["-r", "nowhere", "scrub", "start"]);
    home.expect(2, &["-r", "v", "scrub", "start", "--rate", "0"]);
    assert!(home.expect(0, &["-r", "v", "scrub", "status"]).out.contains("no round is complete"));
    assert!(home.expect(1, &["-r", "v", "scrub", "resume"]).err.contains("no scrub to go on with"));
    home.expect(0, &["-r", "v", "scrub", "pause"]);
    let ran = home.expect(0, &["-r", "v", "scrub", "start", "--json", "--rate", "500M"]);
    assert_eq!(types(&ran.out), ["round", "summary"]);
    let (round, summary) = (&messages(&ran.out)[0], &messages(&ran.out)[1]);
    assert_eq!((&summary["end"], &round["clean"], &round["packs"]), (&"complete".into(), &true.into(), &2.into()));
    assert!(home.expect(0, &["-r", "v", "scrub", "status"]).out.contains("every byte was what was stored"));
    // One byte of the content goes bad.
    let mut packs = fs::read_dir(home.path("v/packs")).unwrap().map(|entry| entry.unwrap().path());
    let leaf = packs.find(|path| path.extension().is_some_and(|kind| kind == "leaf")).unwrap();
    let mut bytes = fs::read(&leaf).unwrap();
    bytes[200] ^= 1;
    fs::write(&leaf, bytes).unwrap();
    let ran = home.expect(18, &["-r", "v", "scrub", "start"]);
    assert!(ran.out.contains("is damaged; set aside"), "{}", ran.out);
    let ran = home.expect(18, &["-r", "v", "scrub", "status", "--json"]);
    let fault: Value = serde_json::from_str(ran.out.lines().next().unwrap()).unwrap();
    assert_eq!((&fault["done"], &fault["offset"], &fault["round"]), (&"set_aside".into(), &64.into(), &2.into()));
    home.expect(17, &[&key[..], &["backup", "d"]].concat());
    home.expect(0, &["-r", "v", "scrub", "start"]);
}

#[test]
fn a_scrub_is_paused_from_elsewhere_and_ended_by_a_signal() {
    let home = Home::new();
    home.write("d/file", "");
    let mut bytes = vec![0; 12 << 20];
    let mut word = 88_172_645_463_325_252_u64;
    for byte in &mut bytes {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        *byte = word as u8;
    }
    fs::write(home.path("d/file"), bytes).unwrap();
    home.expect(0, &["-r", "v", "backup", "d"]);
    let begin = |action: &str| {
        let mut child = home.command(&["-r", "v", "scrub", action, "--rate", "1M"]);
        let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = std::time::Instant::now();
        while !home.expect(0, &["-r", "v", "scrub", "status"]).out.contains("running") {
            assert!(begun.elapsed().as_secs() < 20, "it does not begin");
        }
        child
    };
    let first = begin("start");
    assert!(home.expect(11, &["-r", "v", "scrub", "start"]).err.contains("in use by twinkeep, pid"));
    assert!(home.expect(0, &["-r", "v", "scrub", "pause"]).out.contains("paused"));
    let first = Ran::of(first.wait_with_output().unwrap());
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(first.out.contains("paused at"), "{}", first.out);
    assert!(home.expect(0, &["-r", "v", "scrub", "status"]).out.contains("paused"));
    let second = begin("resume");
    let id = rustix::process::Pid::from_raw(second.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(Ran::of(second.wait_with_output().unwrap()).code, Some(130));
    let ran = home.expect(0, &["-r", "v", "scrub", "resume"]);
    assert!(ran.out.contains("round 1:") && ran.out.contains("every byte is what was stored"), "{}", ran.out);
}

/// What somebody asks who has to make room, or to find yesterday's letter.
#[test]
fn space_and_versions_are_told() {
    let home = Home::new();
    let random: String = (0..40_000u32).map(|at| format!("{:08x}", at.wrapping_mul(2_654_435_761) ^ at << 7)).collect();
    let docs = fs::canonicalize(&home.0).unwrap().join("docs");
    home.write("docs/letter", "dear all");
    home.write("docs/film", &random);
    home.expect(0, &["backup", "docs", "--host", "old"]);
    fs::remove_file(docs.join("film")).unwrap();
    home.expect(0, &["backup", "docs", "--host", "new"]);
    home.expect(0, &["backup", "docs", "--host", "new"]);
    home.write("docs/letter", "dear all, and dear you");
    home.expect(0, &["backup", "docs", "--host", "new"]);

    let number = |args: &[&str], field: &str| {
        messages(&home.expect(0, &[&["--json", "stats"], args].concat()).out).last().unwrap()[field].as_u64().unwrap()
    };
    let film = number(&["--mode", "freed", "--host", "old"], "bytes_plain");
    assert!((320_000..325_000).contains(&film), "{film}");
    assert!(number(&["--mode", "freed", "latest"], "bytes_plain") < 5_000);
    let all = number(&["--mode", "freed"], "bytes_stored");
    assert_eq!(all, number(&["--mode", "freed"], "bytes_stored_whole"));
    assert_eq!(all, number(&["--mode", "space"], "bytes_needed"));
    let each = home.expect(0, &["stats", "--each"]).out;
    assert!(each.lines().count() == 6 && each.contains("together") && each.contains(" KiB"), "{each}");
    let space = home.expect(0, &["stats", "--mode", "space"]).out;
    assert!(space.contains("needed by snapshots") && !space.contains("forgotten"), "{space}");
    home.expect(2, &["stats", "--mode", "space", "--latest", "1"]);
    assert_eq!(number(&["--latest", "1", "--host", "new"], "snapshots"), 1);
    assert_eq!(number(&["--latest", "1", "--host", "new"], "files"), 1);

    let letter = docs.join("letter").to_str().unwrap().to_owned();
    let told = home.expect(0, &["history", &letter, "--host", "new"]).out;
    assert!(told.lines().count() == 4 && told.contains("2 versions of") && told.contains("22 B"), "{told}");
    let versions = messages(&home.expect(0, &["--json", "history", "docs/film"]).out);
    assert_eq!((&versions[0]["change"], &versions[0]["host"]), (&"added".into(), &"old".into()));
    assert_eq!(versions.len(), 2, "on the new machine there never was one");
    assert!(home.expect(1, &["history", "docs/none"]).err.contains("hint: "));
    let found = home.expect(0, &["find", "-q", "letter", "--latest", "1"]).out;
    assert_eq!(found, format!("{letter}\n"));
    home.expect(2, &["find", "letter", "--latest", "1", "-s", "latest"]);
}
