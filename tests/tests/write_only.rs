//! A machine that may back up and not read: its backups are whole and incremental, and who takes everything it has
//! opens nothing.

use std::fs;
use twinkeep_engine::backup::BackupSummary;
use twinkeep_engine::branch::entry::{Content, What};
use twinkeep_engine::branch::{self, DirectoryReader};
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::crypto::Suite;
use twinkeep_engine::frame::FrameHeader;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::record::Record;
use twinkeep_engine::vault::{ErrorClass, Unlock, Vault};
use twinkeep_tests::devices::{self, Loot, World, holds, stored_frames};
use twinkeep_tests::lab;
use twinkeep_tests::seeds::seeds;
use twinkeep_tests::tree::{Shape, SourceTree};

/// How many folders are above the source. They change whenever somebody makes a file beside it.
fn above(tree: &SourceTree) -> u64 {
    tree.root().ancestors().skip(1).count() as u64
}

#[test]
fn backups_of_a_device_are_whole_and_store_what_changed() {
    for seed in seeds(&[1, 2]) {
        let world = World::new(seed).unwrap();
        let mut tree = SourceTree::new(seed, Shape::FULL);
        // A member with a cache of its own does the same, and reads what the device reads.
        let beside = tempfile::tempdir().unwrap();
        let compare = |tree: &SourceTree, summary: &BackupSummary| {
            let member = lab::backup(&world.member, &tree.path(), Some(beside.path())).unwrap();
            let files = |summary: &BackupSummary| (summary.files_new, summary.files_changed, summary.files_unchanged);
            assert_eq!(files(&member), files(summary), "seed {seed}");
            assert!(member.chunks_new <= 1 + above(tree), "a member names everything alike: {member:?}");
        };
        let (first, all) = world.take(&tree).unwrap();
        compare(&tree, &all);
        assert_eq!((all.files_changed, all.files_unchanged, all.parent), (0, 0, None));

        // Nothing changed: nothing is read and nothing stored but the snapshot itself, and the folders above the source
        // if somebody else changed those.
        let (same, summary) = world.take(&tree).unwrap();
        assert_eq!((summary.files_new, summary.files_changed, summary.files_unchanged), (0, 0, all.files_new));
        assert!(summary.chunks_new <= 1 + above(&tree) && summary.chunks_known == 0, "seed {seed}: {summary:?}");
        assert!(summary.dirs_new == 0 && summary.dirs_changed <= above(&tree), "seed {seed}: {summary:?}");

        // One file among hundreds of one folder: its neighbours are not read, though the folder's listing is new.
        tree.write("wide/0123", &[0x5c; 3000]);
        tree.write("docs/new", &[0x5d; 2000]);
        let (second, summary) = world.take(&tree).unwrap();
        assert_eq!((summary.files_new, summary.files_changed, summary.files_unchanged), (1, 1, all.files_new - 1));
        assert!(summary.bytes_added < 60_000, "seed {seed}: {summary:?}");
        compare(&tree, &summary);
        let parent = lab::backup(&world.member, &tree.path(), None).unwrap().parent;
        assert!(parent.is_some_and(|parent| parent != second.id), "a device's word for what is there is not taken");

        // Many changes, with a change of the rights of files whose content is in the listing.
        tree.change();
        let (third, summary) = world.take(&tree).unwrap();
        assert!(summary.files_unchanged > 100, "{summary:?}");
        compare(&tree, &summary);
        for taken in [&first, &same, &second, &third] {
            taken.verify(&world.member).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        }
        let report =
            check(&world.member, &CheckOptions { read_data: true, ..CheckOptions::default() }, &Progress::silent());
        assert!(report.unwrap().is_clean());
    }
}

#[test]
fn a_device_without_its_caches_reads_again_and_stores_nothing_twice() {
    let world = World::new(5).unwrap();
    let mut tree = SourceTree::new(5, Shape::FULL);
    let (_, all) = world.take(&tree).unwrap();
    // Without listings a folder that changed is read wholly, others not at all.
    for path in world.caches(".lists") {
        fs::remove_file(path).unwrap();
    }
    tree.write("wide/0007", &[0x5c; 3000]);
    let (first, summary) = world.take(&tree).unwrap();
    assert!(summary.files_unchanged > 30 && summary.files_changed + summary.files_new >= 300, "{summary:?}");
    // Without anything everything is read, and the vault knows it.
    for path in world.caches("") {
        fs::remove_file(path).unwrap();
    }
    let (second, summary) = world.take(&tree).unwrap();
    assert_eq!((summary.files_new, summary.files_unchanged), (all.files_new, 0));
    assert!(summary.chunks_new <= 1 + above(&tree), "only the snapshot: {summary:?}");
    // Damaged ones are as good as none.
    for path in world.caches("") {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    tree.change();
    let (third, _) = world.take(&tree).unwrap();
    for taken in [&first, &second, &third] {
        taken.verify(&world.member).unwrap();
    }
}

#[test]
fn what_the_vault_lost_is_read_again() {
    let world = World::new(6).unwrap();
    let mut tree = SourceTree::new(6, Shape::FULL);
    world.take(&tree).unwrap();
    // All packs vanish: what the device remembers is worth nothing, and known() says so.
    for path in world.files.paths().iter().filter(|path| path.starts_with("packs/")) {
        twinkeep_engine::files::Files::remove(&world.files, path).unwrap();
    }
    tree.write("docs/new", &[0x5d; 2000]);
    let (taken, _) = world.take(&tree).unwrap();
    taken.verify(&world.reopen().unwrap()).unwrap();
}

#[test]
fn everything_a_device_has_opens_nothing() {
    const LONG: &[u8] = b"a canary in a file of its own, long enough for a leaf. ";
    const SHORT: &[u8] = b"a canary short enough for its entry";
    let world = World::new(7).unwrap();
    let mut tree = SourceTree::new(7, Shape { files: 3, wide: 0, len_max: 2 << 10 });
    let before = lab::take(&world.member, &tree, None).unwrap();
    tree.write("docs/long", &LONG.repeat(20));
    tree.write("docs/short", SHORT);
    world.take(&tree).unwrap();
    tree.write("docs/other", b"so that the listing is written once more");
    let (taken, _) = world.take(&tree).unwrap();
    let is_inline = |name: &[u8]| {
        let reader = world.member.reader().unwrap();
        let mut folder = branch::snapshot(&reader, &taken.id).unwrap().tree;
        for part in [&taken.source[1..], b"/docs"].concat().split(|&byte| byte == b'/') {
            let found = branch::find(&reader, &folder, part).unwrap().unwrap();
            let What::Directory(next) = found.what else { panic!("{found:?}") };
            folder = next;
        }
        let mut entries = DirectoryReader::new(&reader, &folder).unwrap().map(Result::unwrap);
        let entry = entries.find(|entry| *entry.name == *name).unwrap();
        matches!(entry.what, What::File(Content::Inline(_)))
    };
    assert!(is_inline(b"short") && !is_inline(b"long"));
    taken.verify(&world.member).unwrap();
    before.verify(&world.member).unwrap();

    let mut loot = Loot::gather(&world).unwrap();
    assert!(loot.places.iter().any(|(name, _)| name.starts_with("listing")), "listings were unpacked");
    let whole = |needle: &[u8]| loot.places.iter().find(|(_, held)| held.windows(needle.len()).any(|w| w == needle));
    assert!(whole(b"short").is_some(), "the name is there: so the search sees");
    for canary in [&LONG[..20], &SHORT[..20]] {
        assert!(whole(canary).is_none(), "{:?}", whole(canary).map(|(name, _)| name));
        assert!(!holds(world.cache.path(), canary));
    }
    let tried = loot.brute().unwrap_or_else(|problem| panic!("{problem}"));
    println!("{tried} keys tried, nothing opened");
    assert!(tried > 2000);
    // The same search does find a key that is there.
    loot.places.push(("planted".to_owned(), [&[1; 7][..], &devices::planted_secret(&world.member).unwrap()].concat()));
    assert!(loot.brute().unwrap_err().contains("planted"));
}

#[test]
fn short_files_are_whole_and_not_remembered() {
    devices::short_files(12).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn a_device_cannot_speak_for_others() {
    devices::forgeries(8).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn a_device_refuses_to_read_and_says_why() {
    let world = World::new(9).unwrap();
    let tree = SourceTree::new(9, Shape::SMALL);
    let (taken, _) = world.take(&tree).unwrap();
    let device = world.device().unwrap();
    let not_allowed = [
        device.reader().map(drop).map_err(|error| error.class()),
        device.snapshots().map(drop).map_err(|error| error.class()),
        device.keyring().map(drop).map_err(|error| error.class()),
        device.add_device("x").map(drop).map_err(|error| error.class()),
        check(&device, &CheckOptions::default(), &Progress::silent()).map(drop).map_err(|error| error.class()),
        twinkeep_engine::query::read_file(
            &device,
            &Content::Inline(Box::default()),
            &mut Vec::new(),
            &Progress::silent(),
        )
        .map(drop)
        .map_err(|error| error.class()),
    ];
    assert_eq!(not_allowed, [Err(ErrorClass::NotAllowed); 6]);
    assert_eq!(device.received().unwrap().iter().map(|one| one.id).collect::<Vec<_>>(), [taken.id]);
}

#[test]
fn a_forged_config_does_not_turn_encryption_off() {
    let world = World::new(10).unwrap();
    let tree = SourceTree::new(10, Shape::SMALL);
    let good = world.files.bytes("config").unwrap();
    let record = Record::parse(&good).unwrap().record;
    let suite_at = 8 + 25;
    let put = |suite: u8| {
        let mut payload = record.payload.clone();
        payload[suite_at] = suite;
        let forged = Record { payload, ..record.clone() }.encode(&|bytes| *blake3::hash(bytes).as_bytes());
        world.files.put("config", forged.clone());
        world.files.put("config.copy", forged);
    };
    put(0);
    let error = Vault::open(world.place(), lab::env(1), Unlock::Device(&world.key()), "device").map(drop).unwrap_err();
    assert!(error.to_string().contains("not encrypted"), "{error}");
    // Another cipher than the device was told: it keeps to what it was told.
    let own = Suite::fastest();
    put(if own == Suite::Aes256Gcm { 2 } else { 1 });
    world.take(&tree).unwrap();
    let device = world.device().unwrap();
    for frame in stored_frames(&device).unwrap() {
        assert_eq!(FrameHeader::parse(&frame).unwrap().suite, own);
    }
}

#[test]
fn two_who_change_the_keyring_lose_nothing() {
    devices::two_change_keys(11).unwrap_or_else(|problem| panic!("{problem}"));
}
