//! Sources that change while they are read, and sources that another file system is mounted in.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use twinkeep_engine::backup::BackupOptions;
use twinkeep_engine::env::Dice;
use twinkeep_engine::progress::Warning;
use twinkeep_engine::restore::RestoreOptions;
use twinkeep_engine::source::filter::FilterOptions;
use twinkeep_tests::fidelity::place::Lab;
use twinkeep_tests::fidelity::{edit, grow, is_root, judge, raw, seed, skipped};

/// Longest any of these may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `work` on a thread of its own; panics when it does not end.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(work()).unwrap());
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

/// Does `change` again and again while `work` runs.
fn meanwhile<T>(change: impl Fn(u64) + Sync, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (over, change) = (&over, &change);
        scope.spawn(move || {
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                change(round);
            }
        });
        // Even when the work panics: the scope waits for the thread.
        let _end = End(over);
        work()
    })
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn peak_rss_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// Backs up while `change` goes on; what comes back must be whole and every error named. Then, with all at rest, once
/// more: what comes back then must be what is there.
fn changing(what: &'static str, make: fn(&Path), change: fn(&Path, u64), may_miss: bool) {
    in_time(move || {
        let lab = Lab::new();
        let source = lab.source();
        make(&source);
        let (mut errors, mut rounds) = (0, 0);
        while rounds < 4 || (errors == 0 && may_miss && rounds < 40) {
            rounds += 1;
            let options = if rounds % 2 == 0 { lab.cached(&source) } else { lab.options(&source) };
            let (done, warnings) = meanwhile(|round| change(&source, round), || lab.try_backup(&options));
            let done = done.unwrap();
            assert_eq!(done.errors as usize, warnings.len(), "{what}: {done:?} {warnings:?}");
            assert!(warnings.iter().all(|warning| is_below(warning, &source)), "{what}: {warnings:?}");
            errors += done.errors;
            let target = lab.top.join("target");
            let options = RestoreOptions { delete: true, verify: true, ..RestoreOptions::to(target) };
            lab.restore(&lab.root(&source), &options);
        }
        println!("{what}: {errors} errors in {rounds} backups, peak {} MiB", peak_rss_mib());
        if may_miss && errors == 0 {
            skipped(what, "no backup met anything in the middle of a change");
        }
        for options in [lab.options(&source), lab.cached(&source)] {
            lab.backup(&options);
            let target = lab.top.join("at rest");
            lab.restore(&lab.root(&source), &RestoreOptions { delete: true, ..RestoreOptions::to(target.clone()) });
            let look = judge::Look { not_the_top: true, no_checksums: false };
            let found = judge::differences(&source, &target, look);
            assert!(found.is_empty(), "{what}, at rest: {}", found.join("\n"));
        }
    });
}

fn is_below(warning: &Warning, source: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    warning.path.starts_with(source.as_os_str().as_bytes()) && !warning.message.is_empty()
}

fn some_files(dir: &Path) {
    let mut dice = Dice(11);
    for at in 0..60 {
        fs::write(dir.join(format!("{at:02}")), grow::content(&mut dice, [300, 70_000, 1 << 20, 5 << 20][at % 4]))
            .unwrap();
    }
}

fn write_into(dir: &Path, name: u64, bytes: &[u8], at: u64) {
    let file = OpenOptions::new().write(true).open(dir.join(format!("{:02}", name % 60)));
    file.and_then(|file| file.write_all_at(bytes, at)).unwrap();
}

#[test]
fn files_that_are_overwritten() {
    changing("overwritten", some_files, |dir, round| write_into(dir, round, &round.to_le_bytes(), 100), true);
}

#[test]
fn files_that_grow_and_shrink() {
    let change = |dir: &Path, round: u64| {
        let file = OpenOptions::new().write(true).open(dir.join(format!("{:02}", round % 60))).unwrap();
        file.set_len([0, 100, 5_000_000, 900_000, 70_000][(round / 60 % 5) as usize]).unwrap();
        file.write_all_at(b"the end", 400_000 * (round % 3)).unwrap();
    };
    changing("growing and shrinking", some_files, change, true);
}

#[test]
fn a_small_file_that_becomes_enormous_costs_no_memory() {
    let make = |dir: &Path| {
        for at in 0..60 {
            fs::write(dir.join(format!("{at:02}")), [7; 1 << 20]).unwrap();
        }
    };
    let change = |dir: &Path, round: u64| {
        let file = OpenOptions::new().write(true).open(dir.join(format!("{:02}", round % 60))).unwrap();
        file.set_len(2 << 30).unwrap();
        std::thread::sleep(Duration::from_micros(300));
        file.set_len(1 << 20).unwrap();
    };
    let before = peak_rss_mib();
    changing("enormous for a moment", make, change, false);
    let more = peak_rss_mib() - before;
    assert!(more < 700, "{more} MiB");
}

#[test]
fn files_that_vanish_and_are_replaced() {
    let change = |dir: &Path, round: u64| {
        let path = dir.join(format!("{:02}", round % 1_000));
        let is_dir = path.is_dir();
        let gone = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.unwrap();
        match round / 1_000 % 4 {
            0 => fs::write(&path, [9; 40_000]).unwrap(),
            1 => symlink("/etc/passwd", &path).unwrap(),
            2 => fs::create_dir(&path).unwrap(),
            _ => {
                let kind = rustix::fs::FileType::Fifo;
                raw::make_node(&path, kind, (0, 0));
            }
        }
    };
    let make = |dir: &Path| (0..1_000).for_each(|at| fs::write(dir.join(format!("{at:02}")), [1; 3_000]).unwrap());
    in_time(move || {
        let lab = Lab::new();
        make(&lab.source());
        let mut errors = 0;
        for _ in 0..12 {
            let (done, warnings) =
                meanwhile(|round| change(&lab.source(), round), || lab.try_backup(&lab.cached(&lab.source())));
            let done = done.unwrap();
            assert_eq!(done.errors as usize, warnings.len(), "{done:?} {warnings:?}");
            errors += done.errors;
            let target = lab.top.join("target");
            let options = RestoreOptions { delete: true, verify: true, ..RestoreOptions::to(target.clone()) };
            lab.restore(&lab.root(&lab.source()), &options);
            let kinds = edit::listed(&target);
            assert!(kinds.len() <= 1_000, "{kinds:?}");
        }
        if errors == 0 {
            skipped("vanishing files", "none vanished between listing and reading");
        }
        println!("vanishing and replaced: {errors} errors");
    });
}

#[test]
fn folders_that_vanish_move_and_become_links() {
    let make = |dir: &Path| {
        for at in 0..30 {
            fs::create_dir_all(dir.join(format!("{at:02}/in/deep"))).unwrap();
            (0..8).for_each(|file| fs::write(dir.join(format!("{at:02}/in/deep/{file}")), [file; 600]).unwrap());
        }
        fs::create_dir(dir.join("away")).unwrap();
    };
    let change = |dir: &Path, round: u64| {
        let (path, away) = (dir.join(format!("{:02}", round % 30)), dir.join("away/moved"));
        fs::rename(&path, &away).unwrap();
        symlink("/etc", &path).unwrap();
        std::thread::sleep(Duration::from_micros(200));
        fs::remove_file(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        let inner = path.join("in/deep");
        fs::remove_dir_all(&inner).unwrap();
        fs::create_dir(&inner).unwrap();
        (0..8).for_each(|file| fs::write(inner.join(file.to_string()), [file + 1; 600]).unwrap());
    };
    changing("moving folders", make, change, true);
}

#[test]
fn what_may_not_be_read_is_counted_and_the_rest_is_there() {
    const NAME: &str = "changing::what_may_not_be_read_is_counted_and_the_rest_is_there";
    if is_root() {
        // Root reads everything, so this runs once more as somebody else.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]);
        let readable = tempfile::tempdir().unwrap();
        raw::set_mode(readable.path(), 0o777);
        let copy = readable.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        command.arg(&copy).args(["--exact", NAME, "--nocapture"]).env("TMPDIR", readable.path());
        let Ok(output) = command.current_dir("/").output() else {
            return skipped("files that may not be read", "setpriv is not installed");
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let lab = Lab::new();
    let source = lab.source();
    for path in ["open/file", "open/secret", "shut/file", "passed through/file"] {
        fs::create_dir_all(source.join(path).parent().unwrap()).unwrap();
        fs::write(source.join(path), [1; 500]).unwrap();
    }
    let modes = [("open/secret", 0), ("shut", 0), ("passed through", 0o311)];
    modes.iter().for_each(|(path, mode)| raw::set_mode(&source.join(path), *mode));
    let (done, warnings) = lab.try_backup(&lab.options(&source));
    let done = done.unwrap();
    modes.iter().for_each(|(path, _)| raw::set_mode(&source.join(path), 0o700));
    assert_eq!(done.errors as usize, warnings.len());
    for (path, _) in modes {
        let is_named = |warning: &&Warning| warning.path.ends_with(format!("/source/{path}").as_bytes());
        let told = warnings.iter().find(is_named).unwrap_or_else(|| panic!("{path} in {warnings:?}"));
        assert!(told.message.contains("ermission denied"), "{told:?}");
    }
    let target = lab.top.join("target");
    lab.restore(&lab.root(&source), &RestoreOptions::to(target.clone()));
    assert!(target.join("open/file").exists() && !target.join("open/secret").exists());
    assert!(done.snapshot.is_some());
    // The folders are there, with nothing in them.
    for path in ["shut", "passed through"] {
        raw::set_mode(&target.join(path), 0o700);
        assert_eq!(fs::read_dir(target.join(path)).unwrap().count(), 0, "{path}");
    }
}

#[test]
fn mount_points_stay_empty_with_one_file_system() {
    const NAME: &str = "changing::mount_points_stay_empty_with_one_file_system";
    if !is_root() {
        return skipped("mount points", "not root");
    }
    if std::env::var_os("TWINKEEP_TEST_UNSHARED").is_none() {
        let probe = Command::new("unshare").args(["-m", "true"]).status();
        if !probe.is_ok_and(|status| status.success()) {
            return skipped("mount points", "no mount namespace of our own");
        }
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private"]).arg(std::env::current_exe().unwrap());
        let output =
            command.args(["--exact", NAME, "--nocapture"]).env("TWINKEEP_TEST_UNSHARED", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let lab = Lab::new();
    let source = lab.source();
    fs::create_dir_all(source.join("dir/mounted")).unwrap();
    fs::write(source.join("dir/beside"), b"x").unwrap();
    let mount =
        |args: &[&str], at: &Path| assert!(Command::new("mount").args(args).arg(at).status().unwrap().success());
    mount(&["-t", "tmpfs", "none"], &source.join("dir/mounted"));
    fs::write(source.join("dir/mounted/inside"), b"y").unwrap();
    // The same file system once more, at another place.
    fs::create_dir(source.join("bound")).unwrap();
    fs::create_dir(source.join("origin")).unwrap();
    fs::write(source.join("origin/inside"), b"z").unwrap();
    mount(&["--bind", source.join("origin").to_str().unwrap()], &source.join("bound"));
    let filter = FilterOptions { one_file_system: true, ..FilterOptions::default() };
    for (options, inside) in [(lab.options(&source), true), (BackupOptions { filter, ..lab.options(&source) }, false)] {
        lab.backup(&options);
        let target = lab.top.join(format!("target-{inside}"));
        lab.restore(&lab.root(&source), &RestoreOptions::to(target.clone()));
        assert!(target.join("dir/beside").exists() && target.join("origin/inside").exists());
        assert!(target.join("dir/mounted").is_dir());
        assert_eq!(target.join("dir/mounted/inside").exists(), inside);
        // It is another place of the same file system.
        assert!(target.join("bound/inside").exists());
    }
    for at in ["dir/mounted", "bound"] {
        assert!(Command::new("umount").arg(source.join(at)).status().unwrap().success());
    }
}

#[test]
fn random_edits_go_on_all_the_time() {
    let seed = seed();
    in_time(move || {
        let lab = Lab::new();
        let plan = grow::Plan { names: 150, ..grow::Plan::default() };
        grow::Tree::grow(&lab.source(), plan, &mut Dice(seed));
        for round in 0..6 {
            let source = lab.source();
            let change = |count: u64| edit::edit(&source, 1, &mut Dice(seed ^ (round << 32) ^ count));
            let options = if round % 2 == 0 { lab.cached(&source) } else { lab.options(&source) };
            let (done, warnings) = meanwhile(change, || lab.try_backup(&options));
            let done = done.unwrap();
            assert_eq!(done.errors as usize, warnings.len(), "{done:?} {warnings:?}");
            let options = RestoreOptions { delete: true, verify: true, ..RestoreOptions::to(lab.top.join("target")) };
            lab.restore(&lab.root(&source), &options);
        }
    });
}
