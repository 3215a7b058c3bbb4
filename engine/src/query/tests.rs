use super::*;
use crate::backup::{BackupOptions, backup};
use crate::branch::entry::{Content, Entry, Piece, What};
use crate::env::{Dice, Env};
use crate::files::memory::MemoryFiles;
use crate::kv::memory::MemoryKvHome;
use crate::limits::CHUNK_LEN_MAX;
use crate::progress::Progress;
use crate::vault::{CreateOptions, Place, SnapshotInfo, Vault};
use std::path::Path;
use std::sync::Arc;

pub(super) struct World {
    pub files: MemoryFiles,
    pub vault: Vault,
    pub source: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let place = Place { files: Arc::new(files.clone()), kv_home: Arc::new(kv) };
        let (vault, _) = Vault::create(place, Env::system(1), &CreateOptions::default(), &[]).unwrap();
        Self { files, vault, source: tempfile::tempdir().unwrap() }
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.source.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn backup(&self) -> SnapshotInfo {
        let options = BackupOptions { paths: vec![bytes_of(self.source.path())], ..BackupOptions::default() };
        let summary = backup(&self.vault, &options, &Progress::silent()).unwrap();
        let mut list = self.vault.snapshots().unwrap().list;
        list.retain(|info| Some(info.id) == summary.snapshot);
        list.pop().unwrap()
    }

    fn resolve(&self, info: &SnapshotInfo, name: &str) -> Result<TreeRoot> {
        let path = self.source.path().join(name);
        resolve_path(&self.vault, info, &bytes_of(&path))
    }

    fn names(&self, root: &TreeRoot) -> Vec<String> {
        let mut names = Vec::new();
        let mut visit = |found: &WalkEntry<'_>| {
            names.push(format!("{} {}", found.depth, String::from_utf8_lossy(found.path)));
            Step::Continue
        };
        walk(&self.vault, root, &mut visit, &mut |damage| panic!("{damage:?}")).unwrap();
        let source = self.source.path().to_str().unwrap();
        names.iter().map(|name| name.replace(source, "")).collect()
    }
}

fn bytes_of(path: &Path) -> Vec<u8> {
    path.to_str().unwrap().as_bytes().to_vec()
}

#[test]
fn paths_are_resolved_and_trees_walked_in_order() {
    let world = World::new();
    for name in ["b/x", "b/y/z", "a", "b.c", "e"] {
        world.write(name, b"text");
    }
    let info = world.backup();
    let root = world.resolve(&info, "").unwrap();
    let expected = ["0 /a", "0 /b", "1 /b/x", "1 /b/y", "2 /b/y/z", "0 /b.c", "0 /e"];
    assert_eq!(world.names(&root), expected);
    assert_eq!(world.names(&world.resolve(&info, "b").unwrap()), ["0 /b/x", "0 /b/y", "1 /b/y/z"]);
    assert_eq!(world.names(&world.resolve(&info, "./b//y/z").unwrap()), ["0 /b/y/z"]);
    let all = resolve_path(&world.vault, &info, b"/").unwrap();
    assert_eq!(all, TreeRoot::whole(&info));
    assert_eq!(resolve_path(&world.vault, &info, b"").unwrap(), all);
    let error = world.resolve(&info, "b/no/x").unwrap_err();
    assert!(matches!(&error, QueryError::NotFound { path } if path.ends_with(b"/b/no")), "{error}");
    let error = world.resolve(&info, "a/x").unwrap_err();
    assert!(matches!(&error, QueryError::NotDirectory { path } if path.ends_with(b"/a")), "{error}");
    assert!(matches!(world.resolve(&info, "b/.."), Err(QueryError::NotFound { .. })));
}

#[test]
fn a_walk_obeys() {
    let world = World::new();
    for name in ["a/x", "b/x", "c"] {
        world.write(name, b"text");
    }
    let info = world.backup();
    let root = world.resolve(&info, "").unwrap();
    let count = |answer: fn(&WalkEntry<'_>) -> Step| {
        let mut seen = 0;
        let mut visit = |found: &WalkEntry<'_>| {
            seen += 1;
            answer(found)
        };
        walk(&world.vault, &root, &mut visit, &mut |_| false).unwrap();
        seen
    };
    assert_eq!(count(|_| Step::Continue), 5);
    assert_eq!(count(|_| Step::SkipChildren), 3);
    assert_eq!(count(|_| Step::Stop), 1);
    assert_eq!(count(|found| if found.path.ends_with(b"a") { Step::SkipChildren } else { Step::Continue }), 4);
}

#[test]
fn a_deep_tree_is_walked_and_compared() {
    let world = World::new();
    // Deeper than the listings a walk keeps open, with something after each folder.
    let mut folder = String::new();
    for _ in 0..200 {
        folder.push_str("d/");
        world.write(&format!("{folder}a"), b"a");
        world.write(&format!("{folder}z"), b"z");
    }
    let old = world.backup();
    let names = world.names(&world.resolve(&old, "").unwrap());
    assert_eq!(names.len(), 600);
    assert_eq!(names[599], "1 /d/z");
    world.write(&format!("{folder}new"), b"n");
    let new = world.backup();
    let mut changed = Vec::new();
    let (a, b) = (TreeRoot::whole(&old), TreeRoot::whole(&new));
    diff(&world.vault, &a, &b, &mut |change| changed.push((change.kind, change.path.to_vec()))).unwrap();
    let added: Vec<_> = changed.iter().filter(|(kind, _)| *kind == ChangeKind::Added).collect();
    assert!(added.len() == 1 && added[0].1.ends_with(b"d/new"), "{added:?}");
}

#[test]
fn a_long_file_is_the_same_read_ahead_and_piece_by_piece() {
    let world = World::new();
    let path = world.source.path().join("long");
    let mut dice = Dice(8);
    let file = std::fs::File::create(&path).unwrap();
    let mut noise = vec![0; 7 << 20];
    dice.fill(&mut noise);
    let text: Vec<u8> = noise.iter().map(|byte| byte % 50).collect();
    let write = |bytes: &[u8], at| std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
    write(&noise, 0);
    write(&text, 20 << 20);
    // The same again, in frames of before.
    write(&noise[1 << 20..], 30 << 20);
    file.set_len(50 << 20).unwrap();
    let content = content(&world, &world.backup(), "long");
    assert!(content.len() >= super::ahead::LEN_MIN);
    let ways = |vault: &Vault| {
        let (mut ahead, mut plain, progress) = (Vec::new(), Vec::new(), Progress::silent());
        let told = |outcome: Result<u64>| outcome.map_err(|error| format!("{error:?}"));
        let first = told(read_file(vault, &content, &mut ahead, &progress));
        let second = told(copy_range(&vault.reader().unwrap(), &content, 0..content.len(), &mut plain, &progress));
        assert_eq!(first, second);
        assert!(ahead == plain, "{} and {} bytes", ahead.len(), plain.len());
        (first, ahead)
    };
    let (outcome, bytes) = ways(&world.vault);
    assert_eq!(outcome, Ok(50 << 20));
    assert!(bytes == std::fs::read(&path).unwrap());
    // Wherever it is damaged, both say the same of it, and give what comes before.
    let packs: Vec<String> = world.files.paths().into_iter().filter(|path| path.ends_with(".leaf")).collect();
    for round in 0..12 {
        let pack = &packs[round % packs.len()];
        let whole = world.files.bytes(pack).unwrap();
        let at = dice.below(whole.len());
        world.files.damage(pack, |bytes| bytes[at] ^= 1);
        let (outcome, given) = ways(&world.vault);
        assert!(bytes.starts_with(&given) && outcome.is_ok() == (given.len() == bytes.len()), "{pack} at {at}");
        world.files.put(pack, whole);
    }
}

/// The entry of a file in the source.
fn content(world: &World, info: &SnapshotInfo, name: &str) -> Content {
    match world.resolve(info, name).unwrap().what {
        RootWhat::Entry(Entry { what: What::File(content), .. }) => content,
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn files_are_read_whole_and_in_part() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let world = World::new();
    let mut sources = Vec::new();
    for (at, len) in [0, 1, 256, 257, 100_000, 3 << 20, 20 << 20].into_iter().enumerate() {
        let mut bytes = vec![0; len];
        dice.fill(&mut bytes);
        world.write(&format!("f{at}"), &bytes);
        sources.push(bytes);
    }
    let sparse = std::fs::File::create(world.source.path().join("f7")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, &[1; 5000], 3 << 20).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sources.push(std::fs::read(world.source.path().join("f7")).unwrap());
    let info = world.backup();
    for (at, source) in sources.iter().enumerate() {
        let content = content(&world, &info, &format!("f{at}"));
        let mut out = Vec::new();
        let progress = Progress::silent();
        let len = read_file(&world.vault, &content, &mut out, &progress).unwrap();
        assert!(out == *source && len == source.len() as u64, "file {at}");
        for _ in 0..20 {
            let from = dice.below(source.len() + 10);
            let most = [10, 1 << 20, 30 << 20][dice.below(3)];
            let len = dice.below(most);
            let expected = source.get(from..(from + len).min(source.len())).unwrap_or_default();
            let mut out = Vec::new();
            read_range(&world.vault, &content, from as u64, len as u64, &mut out, &progress).unwrap();
            assert!(out == expected, "file {at}, {len} bytes from {from}");
        }
    }
    let progress = Progress::silent();
    progress.cancel();
    let result = read_file(&world.vault, &content(&world, &info, "f6"), &mut Vec::new(), &progress);
    assert!(matches!(result, Err(QueryError::Cancelled)));
}

#[test]
fn an_error_names_the_bytes() {
    let world = World::new();
    let mut bytes = vec![0; 8 << 20];
    Dice(5).fill(&mut bytes);
    world.write("f", &bytes);
    let content = content(&world, &world.backup(), "f");
    let pack = world.files.paths().into_iter().find(|path| path.ends_with(".leaf")).unwrap();
    let len = world.files.bytes(&pack).unwrap().len();
    world.files.damage(&pack, |bytes| bytes[len / 2] ^= 1);
    let mut out = Vec::new();
    let error = read_file(&world.vault, &content, &mut out, &Progress::silent()).unwrap_err();
    let QueryError::Content { range, .. } = &error else { panic!("{error}") };
    assert_eq!(error.class(), ErrorClass::Damaged);
    assert_eq!(range.start, out.len() as u64);
    assert!(out == bytes[..out.len()] && range.end - range.start <= CHUNK_LEN_MAX as u64);
    // What lies behind can still be read.
    let rest = range.end + (4 << 20).min(bytes.len() as u64 - range.end);
    let mut out = Vec::new();
    let _ = read_range(&world.vault, &content, rest, u64::MAX, &mut out, &Progress::silent());
    assert!(out == bytes[rest as usize..rest as usize + out.len()]);
    // A piece that claims another length than its leaf has.
    let (Content::Tree { .. } | Content::Pieces(_)) = &content else { panic!("{content:?}") };
    let first = pieces_from(&world.vault.reader().unwrap(), &content, 0).unwrap().next().unwrap().unwrap().1;
    let lying = Content::Pieces(vec![Piece { len: first.len - 1, ..first }]);
    let error = read_file(&world.vault, &lying, &mut Vec::new(), &Progress::silent()).unwrap_err();
    assert!(matches!(error, QueryError::Content { .. }), "{error}");
}

#[test]
fn a_damaged_folder_is_told_and_the_rest_is_walked() {
    let world = World::new();
    for name in ["a/x", "b/y", "c"] {
        world.write(name, &[7; 1000]);
    }
    let info = world.backup();
    let root = world.resolve(&info, "").unwrap();
    // A second backup puts the changed folder into a frame of its own, which is then damaged.
    let before = world.files.paths();
    world.write("b/new", b"n");
    let new = world.backup();
    let packs: Vec<String> = world.files.paths().into_iter().filter(|path| !before.contains(path)).collect();
    let pack = packs.iter().find(|path| path.ends_with(".branch")).unwrap();
    let tree = TreeRoot::whole(&new);
    world.files.damage(pack, |bytes| bytes[300] ^= 1);
    let (mut told, mut seen) = (Vec::new(), 0);
    let mut visit = |_: &WalkEntry<'_>| {
        seen += 1;
        Step::Continue
    };
    walk(&world.vault, &tree, &mut visit, &mut |damage| {
        told.push(damage.path.to_vec());
        true
    })
    .unwrap();
    assert_eq!((told, seen), (vec![b"/".to_vec()], 0));
    assert_eq!(world.names(&root).len(), 5, "the old one is whole");
    let error = diff(&world.vault, &TreeRoot::whole(&info), &tree, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, QueryError::Directory { path, .. } if path == b"/"), "{error}");
    let error = stats(&world.vault, &[info, new], StatsMode::RestoreSize).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Damaged);
}

#[test]
fn differences_are_told_by_kind() {
    let world = World::new();
    for name in ["same/deep/x", "changed", "gone/x", "gone/y", "kind", "mode", "link"] {
        world.write(name, name.as_bytes());
    }
    let old = world.backup();
    let path = |name: &str| world.source.path().join(name);
    world.write("changed", b"other content");
    world.write("added/x", b"1234567");
    std::fs::remove_dir_all(path("gone")).unwrap();
    std::fs::remove_file(path("kind")).unwrap();
    world.write("kind/x", b"12");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path("mode"), mode).unwrap();
    let new = world.backup();
    let roots = [world.resolve(&old, "").unwrap(), world.resolve(&new, "").unwrap()];
    let told = |a: &TreeRoot, b: &TreeRoot| {
        let mut told = Vec::new();
        let stats = diff(&world.vault, a, b, &mut |change| {
            let name = String::from_utf8_lossy(change.path).replace(world.source.path().to_str().unwrap(), "");
            let sides = (change.old.is_some(), change.new.is_some());
            let expected = match change.kind {
                ChangeKind::Added => (false, true),
                ChangeKind::Removed => (true, false),
                ChangeKind::Content | ChangeKind::Metadata | ChangeKind::Type => (true, true),
            };
            assert_eq!(sides, expected);
            told.push(format!("{:?} {name}", change.kind));
        })
        .unwrap();
        (told, stats)
    };
    let (forth, stats) = told(&roots[0], &roots[1]);
    let expected = [
        "Added /added",
        "Added /added/x",
        "Content /changed",
        "Removed /gone",
        "Removed /gone/x",
        "Removed /gone/y",
        "Type /kind",
        "Added /kind/x",
        "Metadata /mode",
    ];
    assert_eq!(forth, expected);
    assert_eq!((stats.added, stats.removed, stats.content, stats.metadata, stats.kind), (3, 3, 1, 1, 1));
    assert_eq!((stats.bytes_added, stats.bytes_removed), (7 + 13 + 2, 6 + 6 + 7 + 4));
    assert_eq!(told(&roots[1], &roots[0]).0.len(), forth.len());
    assert_eq!(told(&roots[0], &roots[0]), (Vec::new(), DiffStats::default()));
    let file = |info| world.resolve(info, "changed").unwrap();
    assert_eq!(told(&file(&old), &file(&new)).0, ["Content /changed"]);
    assert!(diff(&world.vault, &file(&old), &roots[0], &mut |_| {}).is_err());
}

#[test]
fn sizes_add_up() {
    let world = World::new();
    let mut bytes = vec![0; 3 << 20];
    Dice(9).fill(&mut bytes);
    world.write("a/large", &bytes);
    world.write("b/same", &bytes);
    world.write("c", &[1; 1000]);
    let old = world.backup();
    let list = [old.clone(), world.backup()];
    let whole = 2 * bytes.len() as u64 + 1000;
    let size = stats(&world.vault, &list, StatsMode::RestoreSize).unwrap();
    assert_eq!((size.snapshots, size.files, size.restore_size), (2, 6, 2 * whole));
    let dedup = stats(&world.vault, &list, StatsMode::Dedup).unwrap();
    let raw = stats(&world.vault, &list, StatsMode::Raw).unwrap();
    assert_eq!((dedup.restore_size, dedup.missing), (2 * whole, 0));
    assert_eq!((dedup.unique_chunks, dedup.branches), (raw.unique_chunks, raw.branches));
    assert_eq!((dedup.frames, dedup.packs), (raw.frames, raw.packs));
    let content = bytes.len() as u64 + 1000;
    assert!((content..content + 10_000).contains(&dedup.plain_unique), "{dedup:?}");
    assert!(dedup.raw_stored < raw.raw_stored && raw.raw_stored < dedup.raw_stored + 10_000, "{dedup:?} {raw:?}");
    let one = stats(&world.vault, &[old], StatsMode::Dedup).unwrap();
    assert!(one.branches < dedup.branches && one.restore_size == whole);
    assert_eq!(stats(&world.vault, &[], StatsMode::Dedup).unwrap(), Stats::default());
}
