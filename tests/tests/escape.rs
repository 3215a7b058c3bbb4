//! Whatever a vault says and whatever stands in the target, nothing outside it is touched.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use twinkeep_engine::branch::entry::{Entry, FileTime, What, Xattr};
use twinkeep_engine::branch::{DirectoryNode, InnerDir, encode_entries};
use twinkeep_engine::query::TreeRoot;
use twinkeep_engine::restore::{Overwrite, RestoreOptions};
use twinkeep_tests::fidelity::forge::{self, Forge, directory, entry, file, linked};
use twinkeep_tests::fidelity::place::Lab;
use twinkeep_tests::fidelity::{edit, is_root, raw};

const POLICIES: [Overwrite; 4] = [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never];

/// Folders beside the target that nobody may touch.
struct Outside {
    lab: Lab,
    dir: PathBuf,
    inside: PathBuf,
}

/// Everything about one name: path, inode, times, sizes, rights, names, attributes, content.
type State = (PathBuf, [i64; 10], Vec<String>, Vec<u8>);

impl Outside {
    fn new() -> Self {
        let lab = Lab::new();
        let (dir, inside) = (lab.top.join("outside"), lab.top.join("target"));
        fs::create_dir_all(dir.join("sub/deep")).unwrap();
        fs::create_dir(&inside).unwrap();
        for path in ["file", "other", "sub/file", "sub/deep/file", "evil"] {
            fs::write(dir.join(path), format!("private {path}")).unwrap();
            raw::set_mode(&dir.join(path), 0o600);
            raw::set_xattr(&dir.join(path), b"user.mine", b"kept");
        }
        symlink("file", dir.join("link")).unwrap();
        Self { lab, dir, inside }
    }

    /// What is outside now: all of the vault's folder but the vault, and everything beside the target.
    fn now(&self) -> Vec<State> {
        let mut paths = edit::listed(&self.dir);
        paths.push(self.dir.clone());
        paths.extend(edit::listed(&self.lab.source()));
        let mut beside: Vec<PathBuf> =
            fs::read_dir(&self.lab.top).unwrap().map(|entry| entry.unwrap().path()).collect();
        beside.sort();
        let mut states: Vec<State> = paths.iter().map(|path| state(path)).collect();
        // Which names there are beside the target; the target itself may change.
        states.extend(beside.into_iter().map(|path| (path, [0; 10], Vec::new(), Vec::new())));
        states
    }

    /// A file that has a further name in the target changes its count and ctime when that name goes; nothing else may.
    fn now_but_names(&self) -> Vec<State> {
        let mut states = self.now();
        for (_, numbers, ..) in &mut states {
            numbers[1..4].fill(0);
        }
        states
    }

    fn restore_all(&self, root: &TreeRoot, what: &str) {
        for overwrite in POLICIES {
            for delete in [false, true] {
                let options =
                    RestoreOptions { overwrite, delete, verify: delete, ..RestoreOptions::to(self.inside.clone()) };
                let (done, _) = self.lab.try_restore(root, &options);
                drop(done);
                assert!(!Path::new("/twinkeep-escaped").exists(), "{what}");
            }
        }
    }
}

fn state(path: &Path) -> State {
    let meta = path.symlink_metadata().unwrap();
    let numbers = [
        meta.ino() as i64,
        meta.nlink() as i64,
        meta.ctime(),
        meta.ctime_nsec(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.len() as i64,
        i64::from(meta.mode()),
        i64::from(meta.uid()),
        i64::from(meta.gid()),
    ];
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..len].split(|&byte| byte == 0).map(|name| name.escape_ascii().to_string()).collect();
    let content = match meta.is_file() {
        true => fs::read(path).unwrap(),
        false => fs::read_link(path).map(|to| to.into_os_string().as_bytes().to_vec()).unwrap_or_default(),
    };
    (path.to_owned(), numbers, names, content)
}

/// Entries in order of their names, as a folder has them.
fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let place = Outside::new();
    let up_and_over = b"../outside/file";
    let names: [(&[u8], &[u8]); 8] = [
        (b"@@", b".."),
        (b"@", b"."),
        (b"@@@", b"a/b"),
        (b"@@@@", b"a\0bc"),
        (b"@@@@@@@@@@@@@@@@@", b"/twinkeep-escaped"),
        (b"@@@@@@@@@@@@@@@", up_and_over),
        (b"@@@@@@@", b"sub/../"),
        (b"@@@@@@", b"\0\0\0\0\0\0"),
    ];
    let before = place.now();
    for (placeholder, name) in names {
        for kind in 0..4 {
            let mut forge = Forge::new(&place.lab.vault);
            let hostile = match kind {
                0 => file(placeholder, b"evil"),
                1 => directory(placeholder, forge.directory(&[file(b"evil", b"evil")])),
                2 => forge::symlink(placeholder, b"x"),
                _ => entry(placeholder, 0o777, What::Fifo),
            };
            let bad = forge.patched(&sorted(vec![hostile, file(b"zz", b"plain")]), placeholder, name);
            let top = forge.directory(&[directory(b"bad", bad), file(b"good", b"good")]);
            let root = forge.finish(top);
            let (done, warnings) = place.lab.try_restore(&root, &RestoreOptions::to(place.inside.clone()));
            let done = done.unwrap();
            let shown = name.escape_ascii();
            assert!(done.errors == 1 && done.damaged == 1 && warnings.len() == 1, "{shown}: {done:?} {warnings:?}");
            assert_eq!(fs::read(place.inside.join("good")).unwrap(), b"good");
            place.restore_all(&root, &shown.to_string());
            let listed: Vec<PathBuf> = edit::listed(&place.inside);
            assert!(listed.iter().all(|path| path.ends_with("good") || path.ends_with("bad")), "{shown}: {listed:?}");
            // Also as the very top.
            let root = TreeRoot { what: twinkeep_engine::query::RootWhat::Directory(bad), ..root };
            place.restore_all(&root, &shown.to_string());
        }
    }
    assert_eq!(place.now(), before);
}

#[test]
fn an_entry_without_a_name_is_refused() {
    let place = Outside::new();
    let before = place.now();
    let mut forge = Forge::new(&place.lab.vault);
    let mut branch = encode_entries(&[file(b"sevenby", b"evil")]).unwrap();
    // The pointer to a name of seven bytes; none at all is an empty name.
    let at = branch.payload.chunks_exact(8).position(|word| word[4..] == (7_u32 << 3 | 2).to_le_bytes());
    let at = 8 * at.expect("a pointer to the name");
    branch.payload[at..at + 8].fill(0);
    let top = forge.branch(&branch);
    let root = forge.finish(top);
    let (done, warnings) = place.lab.try_restore(&root, &RestoreOptions::to(place.inside.clone()));
    assert!(done.unwrap().errors == 1, "{warnings:?}");
    assert_eq!(edit::listed(&place.inside).len(), 0);
    assert_eq!(place.now(), before);
}

#[test]
fn a_name_that_is_link_and_folder_leads_nowhere() {
    let place = Outside::new();
    let before = place.now();
    let outside = place.dir.as_os_str().as_bytes();
    let mut forge = Forge::new(&place.lab.vault);
    let below = forge.directory(&[file(b"evil", b"evil"), file(b"file", b"evil")]);
    // Both in one node.
    let both = [forge::symlink(b"same-a", outside), directory(b"same-b", below)];
    let one_node = forge.patched(&both, b"same-b", b"same-a");
    // In two nodes of one folder, whose parent lies about one of them.
    let first = forge.directory(&[forge::symlink(b"same-a", outside)]);
    let second = forge.directory(&[directory(b"same-a", below)]);
    let child = |name: &[u8], node| InnerDir { first_name: name.into(), last_name: name.into(), entries: 1, node };
    let children = DirectoryNode::Inner(vec![child(b"same-a", first), child(b"same-b", second)]);
    let two_nodes = forge.branch(&twinkeep_engine::branch::Node::Directory(children).encode().unwrap());
    let top = forge.directory(&[directory(b"one", one_node), directory(b"two", two_nodes)]);
    let root = forge.finish(top);
    let (done, warnings) = place.lab.try_restore(&root, &RestoreOptions::to(place.inside.clone()));
    assert!(done.unwrap().errors >= 2, "{warnings:?}");
    place.restore_all(&root, "twice");
    assert_eq!(place.now(), before);

    // One restore makes the link, the next one wants a folder there, and the other way round.
    let mut forge = Forge::new(&place.lab.vault);
    let link = forge.directory(&[forge::symlink(b"a", outside)]);
    let folder = forge.directory(&[directory(b"a", below)]);
    let top = forge.directory(&[directory(b"1", link), directory(b"2", folder)]);
    let root = forge.finish(top);
    for _ in 0..2 {
        for tree in [link, folder] {
            let root = TreeRoot { what: twinkeep_engine::query::RootWhat::Directory(tree), ..root.clone() };
            // A folder with something in it makes way only where deleting was asked for.
            place.lab.restore(&root, &RestoreOptions { delete: true, ..RestoreOptions::to(place.inside.clone()) });
            assert_eq!(place.now(), before);
        }
    }
    assert_eq!(fs::read(place.inside.join("a/evil")).unwrap(), b"evil");
}

#[test]
fn names_are_joined_only_to_what_is_the_same() {
    let place = Outside::new();
    let outside = place.dir.join("file");
    let before = place.now();
    let mut forge = Forge::new(&place.lab.vault);
    let leaf = forge.leaf(&[b'l'; 5000]);
    let one = What::File(twinkeep_engine::branch::entry::Content::One { len: 5000, chunk: leaf });
    let entries = vec![
        linked(forge::symlink(b"1-link", outside.as_os_str().as_bytes()), 7),
        linked(file(b"2-file", b"content of 2"), 7),
        linked(file(b"3-same", b"content of 2"), 7),
        linked(file(b"4-other", b"content of 4"), 7),
        linked(entry(b"5-leaf", 0o644, one.clone()), 7),
        linked(entry(b"6-leaf", 0o644, one), 7),
        linked(entry(b"7-fifo", 0o600, What::Fifo), 7),
        linked(forge::symlink(b"8-link", outside.as_os_str().as_bytes()), 7),
    ];
    let top = forge.directory(&entries);
    let root = forge.finish(top);
    for _ in 0..2 {
        place.lab.restore(&root, &RestoreOptions { verify: true, ..RestoreOptions::to(place.inside.clone()) });
        let read = |name: &str| fs::read(place.inside.join(name)).unwrap();
        let inode = |name: &str| place.inside.join(name).symlink_metadata().unwrap().ino();
        assert_eq!((read("2-file"), read("4-other")), (b"content of 2".to_vec(), b"content of 4".to_vec()));
        assert_eq!((read("3-same"), read("6-leaf")), (read("2-file"), vec![b'l'; 5000]));
        assert_eq!(
            (inode("2-file"), inode("5-leaf"), inode("1-link")),
            (inode("3-same"), inode("6-leaf"), inode("8-link"))
        );
        assert_eq!(place.now(), before);
    }
    place.restore_all(&root, "links");
    assert_eq!(place.now(), before);

    // A name that is left alone lends its content to no other.
    fs::remove_dir_all(&place.inside).unwrap();
    fs::create_dir(&place.inside).unwrap();
    fs::write(place.inside.join("2-file"), b"mine, and newer").unwrap();
    for overwrite in [Overwrite::Never, Overwrite::IfNewer] {
        place.lab.restore(&root, &RestoreOptions { overwrite, ..RestoreOptions::to(place.inside.clone()) });
        assert_eq!(fs::read(place.inside.join("2-file")).unwrap(), b"mine, and newer");
        assert_eq!(fs::read(place.inside.join("3-same")).unwrap(), b"content of 2");
    }
}

/// A tree with every kind at every level, its files with all rights, old times, and attributes.
fn ordinary(lab: &Lab) -> TreeRoot {
    let mut forge = Forge::new(&lab.vault);
    let leaf = forge.leaf(&[b'e'; 4000]);
    let level = |forge: &mut Forge<'_>, below: Vec<Entry>| {
        let one = What::File(twinkeep_engine::branch::entry::Content::One { len: 4000, chunk: leaf });
        let mut entries = vec![
            file(b"file", b"evil"),
            entry(b"leaf", 0o4777, one),
            forge::symlink(b"link", b"file"),
            entry(b"fifo", 0o777, What::Fifo),
            linked(file(b"other", b"evil"), 9),
        ];
        if is_root() {
            entries.push(entry(b"null", 0o666, What::CharDevice { major: 1, minor: 3 }));
            entries.push(entry(b"disk", 0o666, What::BlockDevice { major: 259, minor: 9 }));
        }
        for entry in &mut entries {
            entry.meta.mtime = FileTime { secs: 4_000_000_000, nanos: 1 };
            if matches!(entry.what, What::File(_)) {
                entry.meta.xattrs = vec![Xattr { name: b"user.evil"[..].into(), value: b"evil"[..].into() }];
            }
        }
        entries.extend(below);
        forge.directory(&sorted(entries))
    };
    let deep = level(&mut forge, Vec::new());
    let sub = level(&mut forge, vec![directory(b"deep", deep)]);
    let top = level(&mut forge, vec![directory(b"sub", sub)]);
    forge.finish(top)
}

/// Fills the target with links and further names that lead outside, at `level`.
fn plant(place: &Outside, dir: &Path, depth: usize, as_links: bool) {
    for name in ["file", "leaf", "link", "fifo", "other", "null", "disk", "surplus"] {
        let to = match name {
            "file" => place.dir.join("file"),
            "surplus" => place.dir.clone(),
            _ => place.dir.join("other"),
        };
        let made = match as_links || to.is_dir() {
            true => symlink(&to, dir.join(name)),
            false => fs::hard_link(&to, dir.join(name)),
        };
        made.unwrap();
    }
    match depth {
        0 => symlink(&place.dir, dir.join(if dir.ends_with("sub") { "deep" } else { "sub" })).unwrap(),
        _ => {
            fs::create_dir(dir.join("sub")).unwrap();
            plant(place, &dir.join("sub"), depth - 1, as_links);
        }
    }
}

#[test]
fn what_stands_in_the_target_leads_nowhere() {
    let place = Outside::new();
    let root = ordinary(&place.lab);
    for overwrite in POLICIES {
        for delete in [false, true] {
            for (depth, as_links) in [(0, true), (1, true), (0, false), (1, false)] {
                fs::remove_dir_all(&place.inside).unwrap();
                fs::create_dir(&place.inside).unwrap();
                plant(&place, &place.inside, depth, as_links);
                let before = if as_links { place.now() } else { place.now_but_names() };
                let options =
                    RestoreOptions { overwrite, delete, verify: delete, ..RestoreOptions::to(place.inside.clone()) };
                let (done, warnings) = place.lab.try_restore(&root, &options);
                let done = done.unwrap();
                let what = format!("{overwrite:?}, delete {delete}, depth {depth}, links {as_links}: {done:?}");
                let after = if as_links { place.now() } else { place.now_but_names() };
                assert_eq!(after, before, "{what}");
                if overwrite == Overwrite::Always {
                    assert_eq!(done.errors, 0, "{what} {warnings:?}");
                    assert_eq!(fs::read(place.inside.join("sub/deep/leaf")).unwrap(), [b'e'; 4000], "{what}");
                    assert_eq!(fs::read(place.inside.join("file")).unwrap(), b"evil", "{what}");
                }
                assert_eq!(place.inside.join("surplus").symlink_metadata().is_err(), delete, "{what}");
            }
        }
    }
}

#[test]
fn the_target_itself_may_be_no_link() {
    let place = Outside::new();
    let root = ordinary(&place.lab);
    fs::remove_dir(&place.inside).unwrap();
    symlink(&place.dir, &place.inside).unwrap();
    let before = place.now();
    for overwrite in POLICIES {
        let options = RestoreOptions { overwrite, delete: true, ..RestoreOptions::to(place.inside.clone()) };
        let (done, _) = place.lab.try_restore(&root, &options);
        assert!(done.is_err(), "{done:?}");
    }
    assert_eq!(place.now(), before);
}
