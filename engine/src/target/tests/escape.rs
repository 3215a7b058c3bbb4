//! Nothing outside the target changes.

use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::branch::entry::Metadata;
use crate::target::{ApplyOptions, Collision, FileId, FoundKind};

#[test]
fn names_that_lead_elsewhere_are_refused_everywhere() {
    let place = Place::new();
    let before = place.outside_now();
    let root = place.target.root();
    let made = FileId { device: 0, inode: 0 };
    let long = vec![b'n'; crate::limits::NAME_LEN_MAX + 1];
    let names: [&[u8]; 9] =
        [b"", b".", b"..", b"/", b"/tmp/x", b"../outside/file", b"a/../../outside", b"file\0", &long];
    for name in names {
        let faults = [
            error(root.enter_or_create(name, Collision::Replace)),
            error(root.enter(name)),
            error(root.lookup(name)),
            error(root.create_new(name)),
            error(root.replace(name)),
            error(root.open_existing(name)),
            error(root.symlink(name, b"x")),
            error(root.symlink_target(name)),
            error(root.fifo(name)),
            error(root.char_device(name, 1, 3)),
            error(root.hard_link(name, &root, b"x", made)),
            error(root.hard_link(b"x", &root, name, made)),
            error(root.existing_node(name, FoundKind::Fifo)),
            error(root.remove(name)),
        ];
        for fault in faults {
            assert!(matches!(fault.source, Fault::Name(_)), "{name:?}: {fault:?}");
        }
    }
    assert_eq!(root.names().unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(place.outside_now(), before);
}

#[test]
fn links_that_were_there_are_never_followed() {
    let place = Place::new();
    let root = place.target.root();
    symlink("../outside", place.inside.join("dir")).unwrap();
    symlink("../outside/file", place.inside.join("file")).unwrap();
    symlink("../outside/missing", place.inside.join("dangling")).unwrap();
    let before = place.outside_now();

    for name in [b"dir".as_slice(), b"file", b"dangling"] {
        assert!(occupied(root.enter_or_create(name, Collision::Refuse)));
        assert!(root.enter(name).unwrap().is_none());
        assert!(occupied(root.create_new(name)));
        assert!(occupied(root.open_existing(name)));
        assert!(occupied(root.fifo(name)));
        assert_eq!(root.lookup(name).unwrap().unwrap().kind, FoundKind::Symlink);
    }
    root.replace(b"file").unwrap().write_at(0, b"new").unwrap();
    root.replace(b"dangling").unwrap().write_at(0, b"new").unwrap();
    let dir = root.enter_or_create(b"dir", Collision::Replace).unwrap();
    dir.create_new(b"file").unwrap().write_at(0, b"new").unwrap();
    for name in ["file", "dangling", "dir/file"] {
        assert_eq!(std::fs::read(place.inside.join(name)).unwrap(), b"new", "{name}");
    }
    assert_eq!(place.outside_now(), before);
}

#[test]
fn a_link_from_the_vault_is_no_folder() {
    let place = Place::new();
    let before = place.outside_now();
    let root = place.target.root();
    root.symlink(b"a", b"../outside").unwrap();
    assert!(occupied(root.enter_or_create(b"a", Collision::Refuse)));
    root.symlink(b"b", b"/").unwrap();
    assert!(occupied(root.enter_or_create(b"b", Collision::Refuse)));
    assert_eq!(place.outside_now(), before);
}

#[test]
fn metadata_of_a_link_stays_with_the_link() {
    let place = Place::new();
    let before = place.outside_now();
    let meta = Metadata { mode: 0o4777, ..Metadata::default() };
    let root = place.target.root();
    for to in [place.outside.join("file"), place.outside.clone()] {
        let node = root.symlink(b"link", to.as_os_str().as_encoded_bytes()).unwrap();
        node.apply(&meta, &ApplyOptions::default()).unwrap();
        assert_eq!(place.inside.join("link").symlink_metadata().unwrap().mtime(), 0);
        assert!(root.remove(b"link").unwrap());
    }
    assert_eq!(place.outside_now(), before);
}

#[test]
fn further_names_outside_keep_their_content() {
    let place = Place::new();
    let before = place.outside_now();
    let root = place.target.root();
    std::fs::hard_link(place.outside.join("file"), place.inside.join("file")).unwrap();
    assert!(root.existing_node(b"file", FoundKind::File).unwrap().is_none());
    let file = root.open_existing(b"file").unwrap();
    assert!(file.is_new());
    file.write_at(0, b"changed").unwrap();
    file.apply(&Metadata { mode: 0o777, ..Metadata::default() }, &ApplyOptions::default()).unwrap();

    std::fs::hard_link(place.outside.join("file"), place.inside.join("other")).unwrap();
    root.replace(b"other").unwrap().write_at(0, b"changed").unwrap();
    assert_eq!(place.outside_now(), before);
}

#[test]
fn hard_links_only_to_what_was_made() {
    let place = Place::new();
    let root = place.target.root();
    let file = root.create_new(b"one").unwrap();
    file.write_at(0, b"x").unwrap();
    let made = file.id().unwrap();
    root.hard_link(b"two", &root, b"one", made).unwrap();
    root.hard_link(b"two", &root, b"one", made).unwrap();
    assert_eq!(root.lookup(b"two").unwrap().unwrap().id, made);

    // The name was swapped for a link to the outside, or for a second name of a file there.
    let before = place.outside_now();
    std::fs::remove_file(place.inside.join("one")).unwrap();
    symlink(place.outside.join("file"), place.inside.join("one")).unwrap();
    assert!(changed(root.hard_link(b"three", &root, b"one", made)));
    std::fs::remove_file(place.inside.join("one")).unwrap();
    std::fs::hard_link(place.outside.join("file"), place.inside.join("one")).unwrap();
    assert!(changed(root.hard_link(b"three", &root, b"one", made)));
    assert_eq!(root.lookup(b"three").unwrap(), None);

    // Taken by something else.
    root.fifo(b"pipe").unwrap();
    assert!(occupied(root.hard_link(b"pipe", &root, b"two", made)));
    assert_eq!(place.outside_now(), before);

    // A link is a file like any other to its names.
    let link = root.symlink(b"link", b"../outside/file").unwrap();
    root.hard_link(b"link2", &root, b"link", link.id()).unwrap();
    assert_eq!(root.symlink_target(b"link2").unwrap(), b"../outside/file");
}

#[test]
fn a_folder_swapped_while_in_use_is_not_left_by_its_new_place() {
    let place = Place::new();
    let before = place.outside_now();
    let root = place.target.root();
    let dir = root.enter_or_create(b"dir", Collision::Refuse).unwrap();

    // While it is open, what it was goes on being used.
    std::fs::rename(place.inside.join("dir"), place.inside.join("moved")).unwrap();
    symlink("../outside", place.inside.join("dir")).unwrap();
    dir.create_new(b"inside").unwrap();
    assert!(place.inside.join("moved/inside").exists());

    // Once it was closed, the link is not followed, nor another folder taken for it.
    let mut others = Vec::new();
    for number in 0..crate::limits::TARGET_DIRS_OPEN_MAX {
        others.push(root.enter_or_create(format!("other{number}").as_bytes(), Collision::Refuse).unwrap());
    }
    assert!(changed(dir.create_new(b"again")));
    assert!(changed(dir.apply_self(&Metadata::default(), &ApplyOptions::default())));
    std::fs::remove_file(place.inside.join("dir")).unwrap();
    std::fs::create_dir(place.inside.join("dir")).unwrap();
    assert!(changed(dir.create_new(b"again")));
    assert_eq!(place.outside_now(), before);
}

#[test]
fn the_target_itself_is_no_link() {
    let place = Place::new();
    let link = place.outside.join("link");
    symlink(&place.inside, &link).unwrap();
    assert!(matches!(error(Target::create(&link)).source, Fault::LinkedRoot));
    // With a `/` the user says that the folder behind it is meant.
    let followed = Target::create(&place.outside.join("link/")).unwrap();
    assert_eq!(followed.root().id(), place.target.root().id());
    assert!(!followed.is_new() && place.target.is_new());
    // A link on the way is the user's too.
    Target::create(&link.join("x/y")).unwrap();
    assert!(place.inside.join("x/y").is_dir());
    assert_eq!(mode(&place.inside.join("x/y")), 0o700);
    assert!(Target::create(&place.outside.join("file")).is_err());
}

#[test]
fn removing_stays_inside() {
    let place = Place::new();
    let root = place.target.root();
    std::fs::create_dir_all(place.inside.join("dir/deep/deeper")).unwrap();
    std::fs::write(place.inside.join("dir/deep/file"), b"x").unwrap();
    symlink("../../outside", place.inside.join("dir/link")).unwrap();
    symlink("../outside", place.inside.join("link")).unwrap();
    let before = place.outside_now();
    assert!(root.remove(b"dir").unwrap());
    assert!(root.remove(b"link").unwrap());
    assert!(!root.remove(b"link").unwrap());
    assert_eq!(root.names().unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(place.outside_now(), before);
}

/// Mounts `from` on `to` for this thread only; `false` where that is not allowed.
fn bind_here(from: &Path, to: &Path) -> bool {
    let text = |path: &Path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let (from, to, none) = (text(from), text(to), std::ptr::null());
    // SAFETY: all strings end with NUL and outlive the calls; the other pointers may be null.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
            && libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast()) == 0
    }
}

#[test]
fn removing_stops_at_mounts_even_of_the_same_file_system() {
    let place = Place::new();
    let before = place.outside_now();
    std::fs::create_dir_all(place.inside.join("dir/mount")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if !bind_here(&place.outside, &place.inside.join("dir/mount")) {
                return;
            }
            // Opened anew: descriptors from before belong to the view without the mount.
            let root = Target::create(&place.inside).unwrap().root();
            assert!(matches!(error(root.remove(b"dir")).source, Fault::MountPoint));
            // Writing into a mounted file system is the user's wish.
            let dir = root.enter(b"dir").unwrap().unwrap().enter(b"mount").unwrap().unwrap();
            assert_eq!(dir.names().unwrap(), [b"file".to_vec()]);
        });
    });
    assert_eq!(place.outside_now(), before);
}

#[test]
fn a_race_for_a_name_never_leads_outside() {
    let place = Place::new();
    let before = place.outside_now();
    let root = place.target.root();
    let path = place.inside.join("name");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Swaps a link to the outside in for the name again and again.
        scope.spawn(|| {
            let link = place.inside.join("spare");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = symlink("../outside", &link);
                let _ = std::fs::rename(&link, &path);
                let _ = std::fs::remove_file(&path);
            }
        });
        let meta = Metadata { mode: 0o777, ..Metadata::default() };
        for _ in 0..2000 {
            if let Ok(dir) = root.enter_or_create(b"name", Collision::Replace) {
                let _ = dir.replace(b"file").and_then(|file| file.write_at(0, b"changed"));
                let _ = dir.apply_self(&meta, &ApplyOptions::default());
                let _ = root.remove(b"name");
            }
            if let Ok(file) = root.replace(b"name").or_else(|_| root.open_existing(b"name")) {
                let _ = file.apply(&meta, &ApplyOptions::default());
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(place.outside_now(), before);
}
