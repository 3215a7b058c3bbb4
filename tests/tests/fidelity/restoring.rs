//! What a restore can be told to do, and what it must leave alone.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use twinkeep_engine::branch::FileReader;
use twinkeep_engine::branch::entry::{Content, Piece, What};
use twinkeep_engine::env::Dice;
use twinkeep_engine::query::{RootWhat, TreeRoot};
use twinkeep_engine::restore::{self, Overwrite, RestoreError, RestoreOptions};
use twinkeep_tests::fidelity::judge::{self, Look};
use twinkeep_tests::fidelity::place::{Lab, listening};
use twinkeep_tests::fidelity::raw::set_mtime;
use twinkeep_tests::fidelity::{edit, grow};

const TOP: Look = Look { not_the_top: true, no_checksums: false };

fn same(source: &Path, target: &Path) {
    let found = judge::differences(source, target, TOP);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Files of all content kinds under names that sort as they are made.
fn fill(dir: &Path, count: usize, dice: &mut Dice) {
    for at in 0..count {
        let len = [0, 100, 5_000, 3 << 20][at % 4];
        fs::write(dir.join(format!("file-{at:05}")), grow::content(dice, len)).unwrap();
        set_mtime(&dir.join(format!("file-{at:05}")), 1_600_000_000 + at as i64, 5);
    }
}

#[test]
fn one_file_goes_beside_what_is_there_even_with_delete() {
    let lab = Lab::new();
    fs::create_dir(lab.source().join("dir")).unwrap();
    fs::write(lab.source().join("dir/file"), b"content").unwrap();
    lab.backup(&lab.options(&lab.source()));
    let target = lab.top.join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), b"stays").unwrap();
    let options = RestoreOptions { delete: true, verify: true, ..RestoreOptions::to(target.clone()) };
    let done = lab.restore(&lab.root(&lab.source().join("dir/file")), &options);
    assert_eq!((done.deleted, done.files_restored, done.verified), (0, 1, 1));
    assert_eq!(fs::read(target.join("file")).unwrap(), b"content");
    assert_eq!(fs::read(target.join("mine")).unwrap(), b"stays");
}

#[test]
fn verification_goes_through_the_links_the_target_was_reached_by() {
    let lab = Lab::new();
    fill(&lab.source(), 4, &mut Dice(1));
    lab.backup(&lab.options(&lab.source()));
    fs::create_dir(lab.top.join("real")).unwrap();
    symlink("real", lab.top.join("linked")).unwrap();
    let options = RestoreOptions { verify: true, ..RestoreOptions::to(lab.top.join("linked/target")) };
    assert_eq!(lab.restore(&lab.root(&lab.source()), &options).verified, 4);
    // A slash at the end means the folder behind a link.
    let options = RestoreOptions { verify: true, ..RestoreOptions::to(lab.top.join("linked/")) };
    assert_eq!(lab.restore(&lab.root(&lab.source()), &options).verified, 4);
}

#[test]
fn verification_finds_what_was_changed_behind_its_back() {
    let lab = Lab::new();
    fill(&lab.source(), 12, &mut Dice(2));
    let lab_target = lab.top.join("target");
    lab.backup(&lab.options(&lab.source()));
    let root = lab.root(&lab.source());
    let mut options = RestoreOptions::to(lab_target.clone());
    lab.restore(&root, &options);
    for (name, at) in [("file-00001", 50), ("file-00003", 1 << 20), ("file-00002", 4_999)] {
        let path = lab_target.join(name);
        let before = path.metadata().unwrap();
        let file = fs::OpenOptions::new().write(true).read(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        set_mtime(&path, before.mtime(), before.mtime_nsec());
    }
    // Same lengths and times, so they are left alone; only reading tells.
    options.overwrite = Overwrite::IfChanged;
    options.verify = true;
    let (summary, warnings) = lab.try_restore(&root, &options);
    let summary = summary.unwrap();
    assert_eq!((summary.errors, summary.verified, summary.files_skipped), (3, 9, 12), "{summary:?}");
    assert!(warnings.iter().all(|warning| warning.message.contains("differ")), "{warnings:?}");
    // Looking at the content mends just the pieces that are wrong.
    options.overwrite = Overwrite::Always;
    let mended = lab.restore(&root, &options);
    assert!(mended.bytes_written < 3 << 20 && mended.bytes_reused > 5 << 20, "{mended:?}");
    same(&lab.source(), &lab_target);
}

#[test]
fn an_interrupted_restore_goes_on_with_what_is_missing() {
    let lab = Lab::new();
    fill(&lab.source(), 120, &mut Dice(3));
    lab.backup(&lab.options(&lab.source()));
    let root = lab.root(&lab.source());
    let options = RestoreOptions::to(lab.top.join("target"));
    let (progress, _) = listening();
    let outcome = std::thread::scope(|scope| {
        let watched = progress.clone();
        scope.spawn(move || {
            while watched.bytes_written.load(std::sync::atomic::Ordering::Relaxed) < 20 << 20 {
                std::thread::yield_now();
            }
            watched.cancel();
        });
        restore::restore(&lab.vault, &root, &options, &progress)
    });
    assert!(matches!(outcome, Err(RestoreError::Cancelled)), "{outcome:?}");
    let total: u64 = (0..120).map(|at| [0, 100, 5_000, 3 << 20][at % 4]).sum();
    let done = lab.restore(&root, &options);
    assert!(done.bytes_written <= total - (19 << 20), "{done:?} of {total}");
    assert!(done.bytes_reused >= 19 << 20, "{done:?}");
    same(&lab.source(), &lab.top.join("target"));
}

#[test]
fn a_dry_run_changes_nothing() {
    let lab = Lab::new();
    fill(&lab.source(), 8, &mut Dice(4));
    lab.backup(&lab.options(&lab.source()));
    let root = lab.root(&lab.source());
    let target = lab.top.join("target");
    let mut options = RestoreOptions { dry_run: true, delete: true, ..RestoreOptions::to(target.clone()) };
    assert_eq!(lab.restore(&root, &options).files_restored, 8);
    assert!(!target.exists());
    fs::create_dir(&target).unwrap();
    fs::write(target.join("surplus"), b"s").unwrap();
    fs::write(target.join("file-00001"), b"other").unwrap();
    symlink("surplus", target.join("file-00002")).unwrap();
    let before = states(&target);
    let told = lab.restore(&root, &options);
    assert_eq!((told.deleted, told.files_restored), (1, 8), "{told:?}");
    assert_eq!(states(&target), before);
    options.dry_run = false;
    let done = lab.restore(&root, &options);
    assert_eq!((done.deleted, done.files_restored), (1, 8), "{done:?}");
    same(&lab.source(), &target);
}

/// Everything about each name, for seeing that nothing changed.
fn states(dir: &Path) -> Vec<(String, u64, i64, i64, i64, u64, u32)> {
    let mut all: Vec<_> = edit::listed(dir)
        .into_iter()
        .chain([dir.to_owned()])
        .map(|path| {
            let meta = path.symlink_metadata().unwrap();
            let name = path.to_string_lossy().into_owned();
            (name, meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.mtime_nsec(), meta.len(), meta.mode())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn overwrite_policies_leave_what_they_say() {
    let lab = Lab::new();
    let source = lab.source();
    let names = ["absent", "equal", "newer", "older", "resized"];
    for name in names {
        fs::write(source.join(name), b"from the snapshot").unwrap();
        set_mtime(&source.join(name), 1_700_000_000, 1);
    }
    lab.backup(&lab.options(&source));
    let root = lab.root(&source);
    for (overwrite, kept) in [
        (Overwrite::Always, &[][..]),
        (Overwrite::IfChanged, &["equal"][..]),
        (Overwrite::IfNewer, &["equal", "newer"][..]),
        (Overwrite::Never, &["equal", "newer", "older", "resized"][..]),
    ] {
        let target = lab.top.join(format!("{overwrite:?}"));
        fs::create_dir(&target).unwrap();
        for (name, text, secs) in [
            ("equal", "something else ..", 1_700_000_000),
            ("newer", "something else ..", 1_700_000_001),
            ("older", "something else ..", 1_699_999_999),
            ("resized", "short", 1_600_000_000),
        ] {
            fs::write(target.join(name), text).unwrap();
            set_mtime(&target.join(name), secs, 1);
        }
        let done = lab.restore(&root, &RestoreOptions { overwrite, ..RestoreOptions::to(target.clone()) });
        for name in names {
            let is_kept = fs::read(target.join(name)).unwrap() != b"from the snapshot";
            assert_eq!(is_kept, kept.contains(&name), "{overwrite:?} {name}");
        }
        assert_eq!(done.files_skipped as usize, kept.len(), "{overwrite:?} {done:?}");
    }
}

#[test]
fn only_what_is_asked_for_comes_back_and_goes_away() {
    let lab = Lab::new();
    let source = lab.source();
    for path in ["a/keep.txt", "a/drop.tmp", "a/logs/one", "b/keep.txt", "b/deep/er/keep.txt", "c/logs"] {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    lab.backup(&lab.options(&source));
    let root = lab.root(&source);
    let check = |includes: &[&str], excludes: &[&str], expected: &[&str]| {
        let target = lab.top.join("target");
        let own = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        let options = RestoreOptions {
            includes: own(includes),
            excludes: own(excludes),
            verify: true,
            ..RestoreOptions::to(target.clone())
        };
        lab.restore(&root, &options);
        let mut found: Vec<String> = edit::listed(&target)
            .into_iter()
            .filter(|path| path.is_file())
            .map(|path| path.strip_prefix(&target).unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, expected, "{includes:?} {excludes:?}");
        fs::remove_dir_all(&target).unwrap();
    };
    check(&["keep.txt"], &[], &["a/keep.txt", "b/deep/er/keep.txt", "b/keep.txt"]);
    check(&[], &["*.tmp", "logs/"], &["a/keep.txt", "b/deep/er/keep.txt", "b/keep.txt", "c/logs"]);
    check(&["b"], &["deep"], &["b/keep.txt"]);
    check(&["logs"], &[], &["a/logs/one", "c/logs"]);
    check(&["nothing"], &[], &[]);

    // What is left out of a restore is not removed by it either.
    let target = lab.top.join("target");
    fs::create_dir_all(target.join("a/logs2")).unwrap();
    fs::create_dir_all(target.join("mine")).unwrap();
    fs::write(target.join("a/logs2/file"), b"surplus").unwrap();
    fs::write(target.join("a/more.tmp"), b"surplus").unwrap();
    fs::write(target.join("a/more.txt"), b"surplus").unwrap();
    let excludes = ["*.tmp", "logs2/", "mine/"].map(str::to_owned).to_vec();
    let options = RestoreOptions { excludes, delete: true, ..RestoreOptions::to(target.clone()) };
    let done = lab.restore(&root, &options);
    assert_eq!(done.deleted, 1, "{done:?}");
    assert!(target.join("a/logs2/file").exists() && target.join("a/more.tmp").exists() && target.join("mine").exists());
    assert!(!target.join("a/more.txt").exists());
}

/// Runs the test `name` in a process of its own that may have `files` files open; whether this is that process.
fn with_few_files(name: &str, files: usize) -> bool {
    if std::env::var_os("TWINKEEP_TEST_FEW_FILES").is_some() {
        return true;
    }
    let script = format!("ulimit -n {files} && exec \"$0\" --exact {name} --nocapture");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env("TWINKEEP_TEST_FEW_FILES", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

#[test]
fn many_files_are_mended_with_few_open() {
    if !with_few_files("restoring::many_files_are_mended_with_few_open", 1024) {
        return;
    }
    let lab = Lab::new();
    let source = lab.source();
    let mut dice = Dice(5);
    for at in 0..2_000 {
        let file = fs::File::create(source.join(at.to_string())).unwrap();
        if at % 2 == 0 {
            file.set_len(100_000).unwrap();
        }
        file.write_all_at(&grow::content(&mut dice, 600), 0).unwrap();
    }
    lab.backup(&lab.options(&source));
    let root = lab.root(&source);
    let target = lab.top.join("target");
    lab.restore(&root, &RestoreOptions::to(target.clone()));
    for at in 0..2_000 {
        fs::write(target.join(at.to_string()), grow::content(&mut dice, 700)).unwrap();
    }
    lab.restore(&root, &RestoreOptions::to(target.clone()));
    same(&source, &target);
    let flat = lab.top.join("flat");
    lab.restore(&root, &RestoreOptions { sparse: false, ..RestoreOptions::to(flat.clone()) });
    assert!(Command::new("diff").arg("-rq").arg(&source).arg(&flat).status().unwrap().success());
}

#[test]
fn damage_is_named_by_file_and_range_and_stops_nothing_else() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source, 8, &mut Dice(6));
    // In a session of its own, so that no frame of the victim holds another file's content.
    lab.backup(&lab.options(&source));
    let mut dice = Dice(7);
    let mut noise = vec![0; 6 << 20];
    dice.fill(&mut noise);
    fs::write(source.join("victim"), &noise).unwrap();
    lab.backup(&lab.options(&source));
    let root = lab.root(&source);
    let RootWhat::Entry(entry) = lab.root(&source.join("victim")).what else { panic!("victim is no folder") };
    let What::File(content) = &entry.what else { panic!("{entry:?}") };
    let reader = lab.vault.reader().unwrap();
    let pieces: Vec<(u64, Piece)> = match content {
        Content::Tree { len, root } => FileReader::new(&reader, root, *len).unwrap().map(Result::unwrap).collect(),
        // Where a vault's cuts fall nobody knows before; six megabytes have six pieces at least.
        Content::Pieces(pieces) => {
            let mut offset = 0;
            let with_offset = |piece: &Piece| {
                let begin = offset;
                offset += piece.len;
                (begin, *piece)
            };
            pieces.iter().map(with_offset).collect()
        }
        Content::Inline(_) | Content::One { .. } => panic!("six megabytes are more than one piece"),
    };
    let (offset, piece) = pieces[3];
    let place = lab.vault.store().places(&[piece.chunk.unwrap()]).unwrap()[0].unwrap();
    let name = lab.vault.store().pack_name(place.pack).unwrap();
    let mut stored = edit::listed(&lab.top.join("vault")).into_iter();
    let pack = stored.find(|path| path.to_string_lossy().ends_with(&name)).expect("the pack is there");
    let file = fs::OpenOptions::new().read(true).write(true).open(pack).unwrap();
    let at = place.offset + u64::from(place.len) / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();

    let target = lab.top.join("target");
    let (summary, warnings) = lab.try_restore(&root, &RestoreOptions::to(target.clone()));
    let summary = summary.unwrap();
    assert_eq!((summary.errors, summary.damaged), (1, 1), "{summary:?} {warnings:?}");
    let told = warnings.iter().find(|warning| warning.path.ends_with(b"/source/victim")).expect("the file is named");
    let (start, end) = told_range(&told.message);
    assert!(start <= offset && end >= offset + piece.len && end - start < noise.len() as u64, "{told:?}");
    let restored = fs::read(target.join("victim")).unwrap();
    assert_eq!(restored[..start as usize], noise[..start as usize]);
    assert_eq!(restored[end as usize..], noise[end as usize..]);
    fs::remove_file(target.join("victim")).unwrap();
    fs::remove_file(source.join("victim")).unwrap();
    same(&source, &target);
}

fn told_range(message: &str) -> (u64, u64) {
    let numbers: Vec<u64> = message
        .split(|letter: char| !letter.is_ascii_digit())
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().unwrap())
        .collect();
    (*numbers.iter().min().unwrap(), *numbers.iter().max().unwrap())
}

#[test]
fn a_subfolder_and_everything_and_nothing() {
    let lab = Lab::new();
    let source = lab.source();
    fs::create_dir_all(source.join("a/b/empty")).unwrap();
    fs::write(source.join("a/b/file"), b"x").unwrap();
    lab.backup(&lab.options(&source));
    let target = lab.top.join("sub");
    lab.restore(&lab.root(&source.join("a/b")), &RestoreOptions::to(target.clone()));
    same(&source.join("a/b"), &target);
    let target = lab.top.join("none");
    lab.restore(&lab.root(&source.join("a/b/empty")), &RestoreOptions::to(target.clone()));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    let target = lab.top.join("all");
    lab.restore(&TreeRoot::whole(&lab.latest()), &RestoreOptions::to(target.clone()));
    same(&source, &target.join(source.strip_prefix("/").unwrap()));
}
