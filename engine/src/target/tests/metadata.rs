//! Metadata comes back as it was, or is reported.

use super::*;
use crate::branch::entry::{FileTime, Metadata, Owner, Xattr};
use crate::target::{ApplyOptions, Collision, OwnerPolicy, TargetDir};

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.as_bytes().into(), value: value.into() }
}

fn owner(id: u32, name: &str) -> Owner {
    Owner { id, name: name.as_bytes().into() }
}

fn meta(mode: u32) -> Metadata {
    Metadata {
        mode,
        user: owner(1234, ""),
        group: owner(5678, ""),
        mtime: FileTime { secs: -5, nanos: 123_456_789 },
        atime: Some(FileTime { secs: 1_700_000_000, nanos: 1 }),
        ..Metadata::default()
    }
}

/// An ACL as the kernel has it: version 2, then tag, rights, id. The user 77 may read; the mask is rwx for all.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 77), (4, 4, u32::MAX), (0x10, 5, u32::MAX), (0x20, 0, u32::MAX)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// A capability as the kernel has it: revision 2, effective, `CAP_NET_RAW` permitted.
fn capability() -> Vec<u8> {
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Everything the system tells of `path`, the link itself for links, as metadata.
fn read_back(path: &Path) -> Metadata {
    use std::os::unix::fs::MetadataExt;
    let found = path.symlink_metadata().unwrap();
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    let mut xattrs: Vec<_> = names[..len]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            Xattr { name: name.into(), value: value[..len].into() }
        })
        .collect();
    xattrs.sort();
    let time = |secs, nanos: i64| FileTime { secs, nanos: nanos as u32 };
    Metadata {
        mode: found.mode() & 0o7777,
        user: owner(found.uid(), ""),
        group: owner(found.gid(), ""),
        mtime: time(found.mtime(), found.mtime_nsec()),
        atime: Some(time(found.atime(), found.atime_nsec())),
        xattrs,
        link: None,
    }
}

/// Makes `name` of each kind; gives back its path and what applying `meta` to it fell short of.
fn applied(place: &Place, kind: &str, meta: &Metadata, options: &ApplyOptions) -> (PathBuf, Vec<String>) {
    let dir: TargetDir = place.target.root();
    let name = kind.as_bytes();
    let short = match kind {
        "file" => {
            let file = dir.replace(name).unwrap();
            file.write_at(0, b"content").unwrap();
            file.apply(meta, options)
        }
        "folder" => dir.enter_or_create(name, Collision::Refuse).unwrap().apply_self(meta, options),
        "link" => dir.symlink(name, b"nowhere").unwrap().apply(meta, options),
        "pipe" => dir.fifo(name).unwrap().apply(meta, options),
        "device" => dir.char_device(name, 1, 3).unwrap().apply(meta, options),
        _ => panic!("{kind}"),
    };
    (place.inside.join(kind), short.unwrap().iter().map(|short| short.what.clone()).collect())
}

#[test]
fn everything_comes_back_as_root() {
    if !is_root() {
        return;
    }
    let check = |kind: &str, mode: u32, xattrs: Vec<Xattr>| {
        let place = Place::new();
        let wanted = Metadata { xattrs, ..meta(mode) };
        let (path, short) = applied(&place, kind, &wanted, &ApplyOptions::default());
        assert_eq!(short, Vec::<String>::new(), "{kind}");
        assert_eq!(read_back(&path), wanted, "{kind}");
    };
    let (user, trusted) = (xattr("user.note", b"\0\xff"), xattr("trusted.note", b"x"));
    let access = xattr("system.posix_acl_access", &acl());
    let default = xattr("system.posix_acl_default", &acl());
    let capability = xattr("security.capability", &capability());
    check("file", 0o6755, vec![]);
    check("file", 0o0, vec![user.clone()]);
    check("file", 0o650, vec![capability.clone(), access.clone(), trusted.clone(), user.clone()]);
    check("file", 0o6650, vec![capability, access.clone(), xattr("user.empty", b"")]);
    check("folder", 0o1777, vec![]);
    check("folder", 0o2650, vec![access.clone(), default, trusted.clone(), user]);
    check("link", 0o777, vec![trusted.clone()]);
    check("pipe", 0o640, vec![]);
    check("pipe", 0o650, vec![access, trusted.clone()]);
    check("device", 0o4620, vec![trusted]);
}

#[test]
fn what_was_there_and_is_not_wanted_goes() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let inherited = Metadata { xattrs: vec![xattr("system.posix_acl_default", &acl())], ..meta(0o755) };
    place.target.root().apply_self(&inherited, &ApplyOptions::default()).unwrap();
    for kind in ["file", "folder", "pipe"] {
        let (path, short) = applied(&place, kind, &meta(0o604), &ApplyOptions::default());
        assert_eq!(short, Vec::<String>::new(), "{kind}");
        assert_eq!(read_back(&path), meta(0o604), "{kind}");
    }
    let below = place.target.root().enter_or_create(b"below", Collision::Refuse).unwrap();
    assert!(below.create_new(b"file").unwrap().apply(&meta(0o604), &ApplyOptions::default()).unwrap().is_empty());
    assert_eq!(read_back(&place.inside.join("below/file")), meta(0o604));
    let file = place.inside.join("file");
    rustix::fs::setxattr(&file, "user.old", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let again = place.target.root().open_existing(b"file").unwrap();
    again.apply(&meta(0o604), &ApplyOptions { xattrs: false, ..ApplyOptions::default() }).unwrap();
    assert_eq!(read_back(&file).xattrs, [xattr("user.old", b"x")]);
    again.apply(&meta(0o604), &ApplyOptions::default()).unwrap();
    assert_eq!(read_back(&file).xattrs, []);
}

#[test]
fn owners_by_name_by_number_or_not() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let named = Metadata { user: owner(1234, "root"), group: owner(5678, "no such group"), ..meta(0o6755) };
    let check = |policy, expected: (u32, u32, u32), fell_short: &[&str]| {
        let options = ApplyOptions { owner: policy, ..ApplyOptions::default() };
        let (path, short) = applied(&place, "file", &named, &options);
        let found = read_back(&path);
        assert_eq!((found.user.id, found.group.id, found.mode), expected, "{policy:?}");
        assert_eq!(short, fell_short, "{policy:?}");
    };
    check(OwnerPolicy::Names, (0, 5678, 0o6755), &[]);
    check(OwnerPolicy::Numbers, (1234, 5678, 0o6755), &[]);
    // Nobody shall get root's rights by a program that was somebody else's.
    check(OwnerPolicy::Nobody, (0, 0, 0o755), &["set-uid bit", "set-gid bit"]);
}

#[test]
fn values_no_system_wrote_do_no_harm() {
    let place = Place::new();
    let bad = Metadata {
        mode: u32::MAX,
        user: owner(u32::MAX, "\0"),
        group: owner(u32::MAX, ""),
        // As nanoseconds these mean "now" and "leave it".
        mtime: FileTime { secs: 7, nanos: (1 << 30) - 1 },
        atime: Some(FileTime { secs: 7, nanos: (1 << 30) - 2 }),
        xattrs: vec![xattr("", b""), xattr("nonsense", b""), xattr("user.\0x", b""), xattr("user.ok", b"x")],
        link: None,
    };
    let (path, short) = applied(&place, "file", &bad, &ApplyOptions::default());
    let mut expected = vec!["set-uid bit", "set-gid bit", "attribute ", "attribute nonsense", "attribute user.\\u{0}x"];
    if is_root() {
        expected.insert(0, "owner");
    }
    assert_eq!(short, expected);
    let found = read_back(&path);
    assert_eq!((found.mode, found.mtime), (0o1777, FileTime { secs: 7, nanos: 999_999_999 }));
    assert_eq!(found.xattrs, [xattr("user.ok", b"x")]);
}

#[test]
fn without_roots_rights() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
    let parent = folder.path();
    as_nobody(|| {
        let inside = parent.join("target");
        let target = Target::create(&inside).unwrap();
        let root = target.root();
        let options = ApplyOptions::default();
        for outcome in [root.char_device(b"c", 1, 3), root.block_device(b"b", 7, 0)] {
            assert!(matches!(error(outcome).source, Fault::NotPermitted));
        }

        // Owners are left in silence, what only root may set is told.
        let wanted = Metadata { xattrs: vec![xattr("trusted.a", b""), xattr("user.b", b"x")], ..meta(0o4751) };
        let file = root.create_new(b"file").unwrap();
        let short = file.apply(&wanted, &options).unwrap();
        let short: Vec<_> = short.iter().map(|short| short.what.as_str()).collect();
        assert_eq!(short, ["set-uid bit", "attribute trusted.a"]);
        let found = read_back(&inside.join("file"));
        assert_eq!((found.user.id, found.mode, found.mtime), (65534, 0o751, wanted.mtime));
        assert_eq!(found.xattrs, [xattr("user.b", b"x")]);

        // One's own set-uid programs stay that.
        let own = Metadata { user: owner(65534, ""), group: owner(65534, ""), ..meta(0o6751) };
        assert_eq!(file.apply(&own, &options).unwrap().len(), 0);
        assert_eq!(mode(&inside.join("file")), 0o6751);

        // A second run into folders and files whose modes forbid it.
        let dir = root.enter_or_create(b"dir", Collision::Refuse).unwrap();
        dir.create_new(b"file").unwrap().apply(&meta(0o0), &options).unwrap();
        dir.enter_or_create(b"sub", Collision::Refuse).unwrap().apply_self(&meta(0o0), &options).unwrap();
        dir.apply_self(&meta(0o0), &options).unwrap();
        let dir = root.enter_or_create(b"dir", Collision::Refuse).unwrap();
        assert_eq!(mode(&inside.join("dir")), 0o700);
        assert!(dir.open_existing(b"file").unwrap().is_new());
        dir.apply_self(&meta(0o500), &options).unwrap();
        assert!(root.remove(b"dir").unwrap());

        // Links and pipes are as good as with root's rights.
        for node in [root.symlink(b"link", b"x").unwrap(), root.fifo(b"pipe").unwrap()] {
            assert_eq!(node.apply(&meta(0o640), &options).unwrap().len(), 0);
        }
        for name in ["link", "pipe"] {
            assert_eq!(read_back(&inside.join(name)).mtime, wanted.mtime, "{name}");
        }
    });
}
