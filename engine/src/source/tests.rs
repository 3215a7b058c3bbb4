use super::*;
use dir::kept_now;
use rustix::fs::{self as sys, AtFlags, CWD, Mode, OFlags};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn at(path: &Path) -> Arc<Dir> {
    Dir::at_path(path.as_os_str().as_bytes()).unwrap()
}

fn bytes(names: &[Box<[u8]>]) -> Vec<&[u8]> {
    names.iter().map(|name| &**name).collect()
}

#[test]
fn names_of_any_bytes_are_found_and_opened() {
    let temp = tempfile::tempdir().unwrap();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for byte in (1..=255_u8).filter(|&byte| byte != b'/') {
        expected.extend([vec![b'n', byte], vec![byte, b'n']]);
    }
    expected.extend([vec![b'x'; 255], b"...".to_vec(), vec![0xff; 255], b" ".to_vec()]);
    expected.sort();
    expected.dedup();
    for name in &expected {
        std::fs::write(temp.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let handle = at(temp.path()).open().unwrap();
    let names = handle.names().unwrap();
    assert_eq!(bytes(&names), expected);
    assert_eq!(handle.names().unwrap(), names, "listing starts anew each time");
    for name in &names {
        let mut content = [0; 300];
        let file = handle.open_file(name).unwrap();
        assert_eq!(file.read_at(0, &mut content).unwrap(), name.len());
        assert_eq!(&content[..name.len()], &**name);
        assert_eq!(file.stat().identity(), handle.stat(name).unwrap().identity());
    }
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 2000]] {
        assert_eq!(handle.stat(bad).unwrap_err().kind(), io::ErrorKind::InvalidFilename, "{bad:?}");
        assert_eq!(handle.open_file(bad).err().unwrap().kind(), io::ErrorKind::InvalidFilename, "{bad:?}");
    }
    assert_eq!(Dir::root().unwrap().path(), b"/");
    assert_eq!(Dir::root().unwrap().child(b"a").child(b"b").path_of(b"c"), b"/a/b/c");
    assert_eq!(DisplayPath(b"/a\xff\n\\\xc3\xa9").to_string(), "/a\\xff\\x0a\\\\é");
}

#[test]
fn every_kind_of_file_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    std::fs::write(path("file"), b"12345").unwrap();
    std::fs::hard_link(path("file"), path("link")).unwrap();
    std::fs::set_permissions(path("file"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::create_dir(path("dir")).unwrap();
    std::os::unix::fs::symlink("../nowhere\n", path("symlink")).unwrap();
    std::os::unix::fs::symlink("dir", path("to-dir")).unwrap();
    sys::mknodat(CWD, path("fifo"), sys::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let null = sys::makedev(1, 3);
    let made = sys::mknodat(CWD, path("null"), sys::FileType::CharacterDevice, Mode::RWXU, null).is_ok();
    sys::utimensat(
        CWD,
        path("symlink"),
        &sys::Timestamps {
            last_access: sys::Timespec { tv_sec: 5, tv_nsec: 6 },
            last_modification: sys::Timespec { tv_sec: -7, tv_nsec: 8 },
        },
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();

    let handle = at(temp.path()).open().unwrap();
    let kind = |name: &str| handle.stat(name.as_bytes()).unwrap().kind;
    assert_eq!(
        [kind("file"), kind("dir"), kind("symlink"), kind("fifo"), kind("socket")],
        [FileKind::File, FileKind::Directory, FileKind::Symlink, FileKind::Fifo, FileKind::Socket]
    );
    assert!(!made || kind("null") == FileKind::CharDevice { major: 1, minor: 3 });
    let symlink = handle.stat(b"symlink").unwrap();
    assert_eq!((symlink.mtime, symlink.atime), (FileTime { secs: -7, nanos: 8 }, FileTime { secs: 5, nanos: 6 }));
    assert_eq!(&*handle.read_link(b"symlink").unwrap(), b"../nowhere\n");
    assert_eq!(handle.read_link(b"file").unwrap_err().failure(), Failure::Changed);

    // None of these may hang, follow or succeed.
    for name in ["dir", "symlink", "to-dir", "fifo", "socket"] {
        let failure = handle.open_file(name.as_bytes()).err().unwrap().failure();
        assert_eq!(failure, Failure::Changed, "{name}");
    }
    for name in ["file", "to-dir", "fifo", "symlink"] {
        let failure = handle.dir().child(name.as_bytes()).open().err().unwrap().failure();
        assert_eq!(failure, Failure::Changed, "{name}");
    }
    let gone = handle.stat(b"gone").unwrap_err();
    assert_eq!(
        (gone.failure(), handle.open_file(b"gone").err().unwrap().failure()),
        (Failure::Vanished, Failure::Vanished)
    );
    assert!(gone.to_string().ends_with("/gone"), "{gone}");

    let (file, link) = (handle.stat(b"file").unwrap(), handle.stat(b"link").unwrap());
    assert_eq!((file.nlink, file.size, file.mode, file.identity()), (2, 5, 0o4751, link.identity()));
    let owners = OwnerNames::new();
    let plain = metadata(&file, Vec::new(), &owners, false);
    assert_eq!((plain.mode, plain.atime, plain.mtime), (0o4751, None, file.mtime));
    assert_eq!(plain.link.map(|link| (link.device, link.inode)), Some(file.identity()));
    let dir = metadata(&handle.stat(b"dir").unwrap(), Vec::new(), &owners, true);
    assert!(dir.link.is_none() && dir.atime.is_some());
    assert_eq!(&*owners.user(0).name, b"root");
    assert_eq!((owners.group(4_000_000_001).id, owners.user(4_000_000_001).name.len()), (4_000_000_001, 0));
    assert!(Arc::ptr_eq(&owners.user(0).name, &owners.user(0).name));
}

#[test]
fn changes_and_replacements_are_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    std::fs::create_dir_all(path("a/b")).unwrap();
    std::fs::write(path("a/b/f"), b"old").unwrap();
    let dir = at(&path("a/b"));
    let handle = dir.open().unwrap();
    let file = handle.open_file(b"f").unwrap();
    assert!(same_version(file.stat(), &file.restat().unwrap()));
    std::fs::write(path("a/b/f"), b"newer").unwrap();
    assert!(!same_version(file.stat(), &file.restat().unwrap()));
    let before = handle.stat(b"f").unwrap();
    std::fs::set_permissions(path("a/b/f"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(path("a/b/other"), b"").unwrap();
    assert!(!same_version(&before, &Stat { size: 1, ..before }) && same_version(&before, &before));

    // An open handle stays with its folder; who walks there again must find the same one.
    std::fs::rename(path("a"), path("moved")).unwrap();
    assert_eq!(handle.names().unwrap().len(), 2);
    std::fs::create_dir_all(path("a/b")).unwrap();
    let (name, parent) = (dir.name().to_vec(), dir.parent().unwrap().clone());
    drop((dir, handle, file));
    let again = parent.child(&name).open().unwrap();
    assert_eq!(again.names().unwrap().len(), 2, "relative to the folder that was opened");
    let fresh = at(&path("a/b")).open().unwrap();
    assert_eq!(fresh.names().unwrap().len(), 0);

    std::fs::remove_dir(path("a/b")).unwrap();
    assert!(fresh.names().unwrap().is_empty());
    assert_eq!(fresh.stat(b"f").unwrap_err().failure(), Failure::Vanished);
}

#[test]
fn a_folder_walked_to_again_must_be_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let mut path = temp.path().to_owned();
    // Deep enough that the innermost are not kept open.
    for _ in 0..crate::limits::SOURCE_DIRS_OPEN_DEPTH + 4 {
        path.push("d");
    }
    std::fs::create_dir_all(&path).unwrap();
    let (inner, beside) = (at(&path), path.with_file_name("beside"));
    let identity = inner.open().unwrap().stat_self().unwrap().identity();
    assert_eq!(inner.identity(), Some(identity));
    inner.open().unwrap();
    std::fs::rename(&path, &beside).unwrap();
    assert_eq!(inner.open().err().unwrap().failure(), Failure::Vanished);
    std::fs::create_dir(&path).unwrap();
    assert_eq!(inner.open().err().unwrap().failure(), Failure::Changed);
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("beside", &path).unwrap();
    assert_eq!(inner.open().err().unwrap().failure(), Failure::Changed);
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    inner.open().unwrap();
}

#[test]
fn holes_are_found_and_the_rest_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("sparse");
    let raw = std::fs::File::create(&path).unwrap();
    const MIB: u64 = 1 << 20;
    raw.write_all_at(&[1; 5000], 0).unwrap();
    raw.write_all_at(&[2; 5000], 3 * MIB).unwrap();
    raw.set_len(8 * MIB + 1).unwrap();
    let handle = at(temp.path()).open().unwrap();
    let check = |name: &[u8]| {
        let file = handle.open_file(name).unwrap();
        let extents: Vec<Extent> = file.extents().map(Result::unwrap).collect();
        let mut end = 0;
        for extent in &extents {
            assert!(extent.offset == end && extent.len > 0, "{extents:?}");
            end += extent.len;
            let mut content = vec![9; extent.len as usize];
            assert_eq!(file.read_at(extent.offset, &mut content).unwrap() as u64, extent.len);
            assert!(!extent.is_hole || content.iter().all(|&byte| byte == 0), "{extents:?}");
        }
        assert_eq!(end, file.stat().size);
        extents
    };
    let found = check(b"sparse");
    assert!(found.len() == 1 || found.iter().filter(|extent| extent.is_hole).count() == 2, "{found:?}");
    std::fs::File::create(temp.path().join("hole")).unwrap().set_len(MIB).unwrap();
    std::fs::write(temp.path().join("full"), vec![3; 100_000]).unwrap();
    std::fs::write(temp.path().join("empty"), b"").unwrap();
    assert_eq!(check(b"hole").len(), 1);
    assert_eq!(check(b"full"), [Extent { offset: 0, len: 100_000, is_hole: false }]);
    assert_eq!(check(b"empty"), []);

    let file = handle.open_file(b"sparse").unwrap();
    assert_eq!(file.whole().map(Result::unwrap).collect::<Vec<_>>().len(), 1);
    file.advise_sequential();
    file.advise_done(0, MIB);
    file.advise_done(0, 0);
    let mut tail = [7; 10];
    assert_eq!(file.read_at(8 * MIB, &mut tail).unwrap(), 1);
    assert_eq!(file.read_at(1 << 40, &mut tail).unwrap(), 0);
    // Cut off after it was opened: stretches still add up to the old length, reading tells the truth.
    raw.set_len(10).unwrap();
    let total: u64 = file.extents().map(|extent| extent.unwrap().len).sum();
    assert_eq!((total, file.read_at(0, &mut [0; 100]).unwrap()), (8 * MIB + 1, 10));
}

#[test]
fn attributes_come_sorted_and_whole() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    std::fs::write(&path, b"x").unwrap();
    std::fs::create_dir(temp.path().join("dir")).unwrap();
    std::os::unix::fs::symlink("file", temp.path().join("symlink")).unwrap();
    let handle = at(temp.path()).open().unwrap();
    assert!(handle.xattrs(b"file").unwrap().iter().all(|xattr| !xattr.name.starts_with(b"user.")));
    assert_eq!(handle.xattrs(b"gone").unwrap_err().failure(), Failure::Vanished);
    let long = vec![b'v'; 2_000];
    let mut expected = vec![(b"user.a".to_vec(), Vec::new()), (b"user.\xff\n".to_vec(), b"\0raw".to_vec())];
    expected.push((b"user.long".to_vec(), long));
    // More names than the first buffer holds.
    expected.extend((0..30).map(|at| (format!("user.{at:040}").into_bytes(), vec![at])));
    for (name, value) in &expected {
        let flags = sys::XattrFlags::empty();
        if sys::setxattr(&path, name.as_slice(), value, flags).is_err() {
            eprintln!("skipped: no user attributes here");
            return;
        }
        sys::setxattr(temp.path().join("dir"), name.as_slice(), value, flags).unwrap();
    }
    expected.sort();
    let user = |xattrs: Vec<crate::branch::entry::Xattr>| -> Vec<(Vec<u8>, Vec<u8>)> {
        assert!(xattrs.is_sorted());
        let pairs = xattrs.into_iter().map(|xattr| (xattr.name.into_vec(), xattr.value.into_vec()));
        pairs.filter(|(name, _)| name.starts_with(b"user.")).collect()
    };
    assert_eq!(user(handle.xattrs(b"file").unwrap()), expected);
    assert_eq!(user(handle.open_file(b"file").unwrap().xattrs().unwrap()), expected);
    assert_eq!(user(handle.dir().child(b"dir").open().unwrap().xattrs_self().unwrap()), expected);
    assert!(user(handle.xattrs(b"symlink").unwrap()).is_empty(), "not those of its target");
}

#[test]
fn a_hundred_thousand_names_are_quick() {
    let temp = tempfile::tempdir().unwrap();
    let handle = at(temp.path()).open().unwrap();
    std::fs::write(temp.path().join("first"), b"").unwrap();
    for at in 0..100_000_u64 {
        // Names for one inode are made faster than inodes; file systems allow some ten thousand of each.
        let from = temp.path().join(if at < 50_000 { "first" } else { "second" });
        let name = temp.path().join(format!("{:06}", (at * 77_773) % 100_000));
        if at == 50_000 {
            std::fs::write(&from, b"").unwrap();
        }
        if std::fs::hard_link(&from, &name).is_err() {
            std::fs::write(&name, b"").unwrap();
        }
    }
    let began = Instant::now();
    let names = handle.names().unwrap();
    let listed = began.elapsed();
    assert_eq!(names.len(), 100_002);
    assert!(names.is_sorted());
    for name in &names {
        handle.stat(name).unwrap();
    }
    let all = began.elapsed();
    assert!(all.as_secs() < 20, "listed in {listed:?}, with stats {all:?}");
}

/// Removes a chain of single folders from the innermost: the usual means run out of descriptors.
fn remove_chain(top: &Path, name: &str, levels: usize) {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut fd = sys::openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        fd = sys::openat(&fd, name, flags, Mode::empty()).unwrap();
    }
    sys::unlinkat(&fd, "file", AtFlags::empty()).unwrap();
    for _ in 0..levels {
        fd = sys::openat(&fd, "..", flags, Mode::empty()).unwrap();
        sys::unlinkat(&fd, name, AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn nesting_far_beyond_the_longest_path() {
    const LEVELS: usize = 5_000;
    let temp = tempfile::tempdir().unwrap();
    let name = "folder with a long name";
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut fd = sys::openat(CWD, temp.path(), flags, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        sys::mkdirat(&fd, name, Mode::RWXU).unwrap();
        fd = sys::openat(&fd, name, flags, Mode::empty()).unwrap();
    }
    let file = sys::openat(&fd, "file", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    drop((file, fd));

    // Unopened until the innermost is wanted.
    let mut dir = at(temp.path());
    for _ in 0..LEVELS {
        dir = dir.child(name.as_bytes());
    }
    let began = Instant::now();
    let mut content = [0; 10];
    let handle = dir.open().unwrap();
    assert_eq!(handle.open_file(b"file").unwrap().read_at(0, &mut content).unwrap(), 4);
    assert!(handle.xattrs(b"file").is_ok());
    assert!(dir.path().len() > LEVELS * name.len());
    assert!(dir.path_of(b"file").ends_with(b"/file"));
    assert!(kept_now() <= crate::limits::SOURCE_DIRS_OPEN_MAX);
    drop(handle);

    // Level by level on the way up, as a backup leaves folders.
    let mut next = Some(dir);
    for _ in 0..LEVELS {
        let dir = next.unwrap();
        assert_eq!(dir.open().unwrap().names().unwrap().len(), 1);
        next = dir.parent().cloned();
    }
    drop(next);
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());

    // Dropping a long chain whose only owner is the innermost folder must not overflow the stack.
    let mut chain = Dir::root().unwrap();
    for _ in 0..200_000 {
        chain = chain.child(b"x");
    }
    drop(chain);
    let mut too_deep = Dir::root().unwrap();
    for _ in 0..=crate::limits::TREE_DEPTH_MAX {
        too_deep = too_deep.child(b"x");
    }
    assert!(too_deep.open().is_err());
    remove_chain(temp.path(), name, LEVELS);
}

#[test]
fn what_others_own_is_read_as_far_as_allowed() {
    // On a thread of its own, because root would be let in everywhere.
    let thread = std::thread::spawn(|| {
        // SAFETY: takes a number, touches no memory, and changes file access of this thread only.
        unsafe { libc::setfsuid(65_534) };
        let Ok(temp) = tempfile::tempdir() else {
            return eprintln!("skipped: no folder to write in without being root");
        };
        let shut = temp.path().join("shut");
        std::fs::create_dir_all(shut.join("open")).unwrap();
        std::fs::write(shut.join("secret"), b"").unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        set(&shut.join("secret"), 0);
        set(&shut, 0o100);
        // May be passed through, not listed.
        let handle = at(&shut).open().unwrap();
        assert_eq!(handle.names().unwrap_err().failure(), Failure::Denied);
        assert_eq!(handle.open_file(b"secret").err().unwrap().failure(), Failure::Denied);
        assert_eq!(handle.stat_self().unwrap().mode, 0o100);
        assert!(handle.dir().child(b"open").open().unwrap().names().unwrap().is_empty());
        assert!(handle.xattrs_self().is_ok());
        set(&shut, 0);
        let barred = handle.dir().child(b"open").open().err().unwrap();
        assert_eq!(barred.failure(), Failure::Denied);
        set(&shut, 0o700);
        // Not ours, so its read time cannot be spared, and it is read all the same.
        let passwd = at(Path::new("/etc")).open().unwrap().open_file(b"passwd").unwrap();
        assert_eq!(passwd.read_at(0, &mut [0; 4]).unwrap(), 4);
    });
    thread.join().unwrap();
}

#[test]
fn many_threads_share_folders() {
    let temp = tempfile::tempdir().unwrap();
    for folder in 0..20 {
        for file in 0..20 {
            let path = temp.path().join(format!("{folder}/in"));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(file.to_string()), b"").unwrap();
        }
    }
    let top = at(temp.path());
    let folders: Vec<_> = (0..20).map(|at: u32| top.child(at.to_string().as_bytes()).child(b"in")).collect();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for folder in folders.iter().cycle().take(200) {
                    assert_eq!(folder.open().unwrap().names().unwrap().len(), 20);
                }
            });
        }
    });
    assert!(kept_now() <= crate::limits::SOURCE_DIRS_OPEN_MAX);
}
