//! Content, depth, what is there already.

use super::*;
use crate::branch::entry::{Content, Entry, FileTime, Metadata, What};
use crate::target::{ApplyOptions, Collision, FoundKind};

#[test]
fn holes_stay_holes() {
    let place = Place::new();
    let file = place.target.root().create_new(b"file").unwrap();
    assert!(file.is_new());
    file.write_at(64 << 20, b"end").unwrap();
    file.set_len(1 << 30).unwrap();
    let found = file.stat().unwrap();
    assert_eq!(found.len, 1 << 30);
    assert!(found.stored_len < 1 << 20, "{found:?}");
    let mut bytes = [1; 8];
    assert_eq!(file.read_at((64 << 20) - 2, &mut bytes).unwrap(), 8);
    assert_eq!(&bytes, b"\0\0end\0\0\0");
    assert_eq!(file.read_at((1 << 30) - 3, &mut bytes).unwrap(), 3);
    assert_eq!(file.read_at(1 << 40, &mut bytes).unwrap(), 0);

    // A hole where there was content; never past the end.
    file.set_len(4 << 20).unwrap();
    file.write_at(0, &vec![7; 4 << 20]).unwrap();
    file.make_hole(1 << 20, u64::MAX).unwrap();
    file.make_hole(1 << 40, 1).unwrap();
    let found = file.stat().unwrap();
    assert_eq!(found.len, 4 << 20);
    assert!(found.stored_len <= 2 << 20, "{found:?}");
    assert_eq!(file.read_at((1 << 20) - 1, &mut bytes).unwrap(), 8);
    assert_eq!(bytes, [7, 0, 0, 0, 0, 0, 0, 0]);

    for offset in [u64::MAX, i64::MAX as u64, i64::MAX as u64 - 1] {
        assert!(file.write_at(offset, b"xx").is_err());
    }
    assert!(file.set_len(u64::MAX).is_err());
}

#[test]
fn a_second_run_finds_what_the_first_left() {
    let place = Place::new();
    let root = place.target.root();
    root.create_new(b"file").unwrap().write_at(0, b"half").unwrap();
    let dir = root.enter_or_create(b"dir", Collision::Refuse).unwrap();

    let file = root.open_existing(b"file").unwrap();
    let mut bytes = [0; 9];
    assert!(!file.is_new());
    assert_eq!((file.read_at(0, &mut bytes).unwrap(), &bytes[..4]), (4, b"half".as_slice()));
    assert_eq!(root.enter_or_create(b"dir", Collision::Refuse).unwrap().id(), dir.id());
    assert_eq!(root.enter(b"dir").unwrap().unwrap().id(), dir.id());
    assert!(root.enter(b"file").unwrap().is_none());
    assert!(root.enter(b"none").unwrap().is_none());
    assert_eq!(root.names().unwrap(), [b"dir".to_vec(), b"file".to_vec()]);

    // A folder goes only by `remove`.
    assert!(occupied(root.replace(b"dir")));
    assert!(occupied(root.open_existing(b"dir")));
    assert!(occupied(root.create_new(b"file")));
    assert!(occupied(root.enter_or_create(b"file", Collision::Refuse)));
    root.enter_or_create(b"file", Collision::Replace).unwrap();
    let missing = error(root.open_existing(b"none"));
    assert!(matches!(missing.source, Fault::System(error) if error.kind() == std::io::ErrorKind::NotFound));
}

#[test]
fn same_by_kind_length_and_time() {
    let place = Place::new();
    let root = place.target.root();
    let mtime = FileTime { secs: 9, nanos: 8 };
    let meta = Metadata { mtime, mode: 0o600, ..Metadata::default() };
    let file = root.create_new(b"file").unwrap();
    file.write_at(0, b"abc").unwrap();
    file.apply(&meta, &ApplyOptions::default()).unwrap();
    root.symlink(b"link", b"abc").unwrap().apply(&meta, &ApplyOptions::default()).unwrap();
    root.fifo(b"pipe").unwrap();
    let check = |name: &[u8], what: What, mtime, expected: bool| {
        let entry = Entry { name: name.into(), meta: Metadata { mtime, ..meta.clone() }, what };
        assert_eq!(root.lookup(name).unwrap().unwrap().is_same(&entry), expected, "{entry:?}");
    };
    let file = |bytes: &[u8]| What::File(Content::Inline(bytes.into()));
    let other = FileTime { secs: 9, nanos: 9 };
    check(b"file", file(b"xyz"), mtime, true);
    check(b"file", file(b"xyz"), other, false);
    check(b"file", file(b"xy"), mtime, false);
    check(b"file", What::Symlink(b"xyz".as_slice().into()), mtime, false);
    check(b"link", What::Symlink(b"xyz".as_slice().into()), mtime, true);
    check(b"link", file(b"xyz"), mtime, false);
    check(b"pipe", What::Fifo, mtime, true);
    check(b"pipe", What::Socket, mtime, false);
    if is_root() {
        root.char_device(b"null", 1, 3).unwrap();
        check(b"null", What::CharDevice { major: 1, minor: 3 }, mtime, true);
        check(b"null", What::CharDevice { major: 1, minor: 5 }, mtime, false);
        check(b"null", What::BlockDevice { major: 1, minor: 3 }, mtime, false);
        assert_eq!(root.lookup(b"null").unwrap().unwrap().kind, FoundKind::CharDevice);
    }
}

#[test]
fn five_thousand_levels() {
    let place = Place::new();
    let mut dirs = vec![place.target.root()];
    for _ in 0..5000 {
        let last = dirs.last().unwrap();
        dirs.push(last.enter_or_create(b"a-folder", Collision::Refuse).unwrap());
    }
    dirs.last().unwrap().create_new(b"file").unwrap().write_at(0, b"x").unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 4 * crate::limits::TARGET_DIRS_OPEN_MAX, "{open}");
    let meta = Metadata { mode: 0o755, ..Metadata::default() };
    while let Some(dir) = dirs.pop() {
        dir.apply_self(&meta, &ApplyOptions::default()).unwrap();
    }
    assert_eq!(mode(&place.inside.join("a-folder")), 0o755);

    // The last to hold a long chain of parents lets go of all of them.
    let mut dir = place.target.root();
    while let Some(next) = dir.enter(b"a-folder").unwrap() {
        dir = next;
    }
    assert_eq!(dir.depth(), 5000);
    let long = error(dir.create_new(b"file"));
    assert!(long.path.starts_with('…') && long.path.ends_with("/a-folder/file"), "{long}");
    drop(dir);
    assert!(place.target.root().remove(b"a-folder").unwrap());
    assert_eq!(place.target.root().names().unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn messages_show_odd_names() {
    let place = Place::new();
    let shown = error(place.target.root().open_existing(b"\xff\n\xc3\xa9")).path;
    assert!(shown.ends_with("/\\xff\\né"), "{shown}");
}
