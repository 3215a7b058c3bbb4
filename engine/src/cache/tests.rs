use super::*;
use crate::branch::entry::FileTime;
use crate::branch::entry::{Content, Entry, Metadata, What};
use crate::branch::{self, DirectoryNode, EncodedBranch, InnerDir, Node};
use crate::env::{Env, Time};
use crate::id::ChunkId;
use crate::source::{FileKind, Stat};
use std::path::{Path, PathBuf};

const VAULT: VaultId = VaultId([7; 16]);

fn stat(mark: u64) -> Stat {
    let time = FileTime { secs: 1_000, nanos: mark as u32 };
    Stat {
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: mark,
        blocks: 8,
        mtime: time,
        atime: time,
        ctime: time,
        device: 1,
        inode: mark,
        nlink: 1,
        mount_id: 1,
        mount_root: false,
    }
}

fn dir(mark: u8, entries: u64) -> CachedDir {
    CachedDir {
        tree: ChunkId([mark; 32]),
        names_hash: NamesHasher::hash([[mark]]),
        stats: (0..entries).map(|at| CachedStat::now(&stat(at))).collect(),
    }
}

/// Folders of several sizes with their keys.
fn folders() -> Vec<(DirKey, CachedDir)> {
    let root = DirKey::root(b"");
    (0..40_u8).map(|mark| (root.child(&[mark]), dir(mark, u64::from(mark) * 3))).collect()
}

fn written(at: &Path, folders: &[(DirKey, CachedDir)]) -> PathBuf {
    let path = at.join("cache");
    let writer = CacheWriter::create(&path, VAULT, &Env::system(1)).unwrap();
    for (key, dir) in folders {
        writer.add(*key, dir);
    }
    writer.finish().unwrap();
    path
}

#[test]
fn gives_back_what_was_added() {
    let temp = tempfile::tempdir().unwrap();
    let folders = folders();
    let path = written(temp.path(), &folders);
    let cache = StatCache::open(&path, VAULT);
    assert_eq!(cache.len(), folders.len());
    for (key, dir) in &folders {
        assert_eq!(cache.lookup(key).as_ref(), Some(dir));
    }
    assert_eq!(cache.lookup(&DirKey::root(b"")), None);

    // An open cache goes on while the next one replaces it; a key added twice is known to neither.
    let (key, first) = &folders[3];
    let path_again = written(temp.path(), &[(*key, first.clone()), folders[4].clone(), (*key, dir(9, 1))]);
    assert_eq!(cache.lookup(key).as_ref(), Some(first));
    let again = StatCache::open(&path_again, VAULT);
    assert_eq!((again.len(), again.lookup(key)), (1, None));
    assert!(StatCache::open(&path, VaultId([8; 16])).is_empty());
    assert!(StatCache::open(&temp.path().join("missing"), VAULT).is_empty());
    assert!(StatCache::open(temp.path(), VAULT).is_empty());
    assert!(StatCache::empty().lookup(key).is_none());

    let none = written(temp.path(), &[]);
    assert!(StatCache::open(&none, VAULT).is_empty());
}

#[test]
fn wrong_bytes_are_never_taken_for_a_folder() {
    let temp = tempfile::tempdir().unwrap();
    let folders = folders()[..6].to_vec();
    let path = written(temp.path(), &folders);
    let good = std::fs::read(&path).unwrap();
    let check = |bytes: &[u8], what: String| {
        std::fs::write(&path, bytes).unwrap();
        let cache = StatCache::open(&path, VAULT);
        let right = folders.iter().filter(|(key, dir)| match cache.lookup(key) {
            Some(found) => {
                assert_eq!(&found, dir, "{what}");
                true
            }
            None => false,
        });
        right.count()
    };
    assert_eq!(check(&good, "untouched".to_owned()), 6);
    for len in 0..good.len() {
        assert_eq!(check(&good[..len], format!("cut to {len}")), 0);
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(check(&bad, format!("flipped at {at}")) < 6, "flip at {at} went unseen");
    }
    let longer = [&good[..], &[0; 64]].concat();
    assert_eq!(check(&longer, "zeros behind".to_owned()), 0);
    let mut huge = good.clone();
    let count_at = good.len() - FOOTER_LEN + 8;
    huge[count_at..count_at + 8].fill(0xff);
    assert_eq!(check(&huge, "oversized count".to_owned()), 0);

    // Blocks of another cache at the very same places, as a crash may leave them.
    let other = std::fs::read(written(temp.path(), &folders)).unwrap();
    assert_eq!(good.len(), other.len());
    let tail_at = good.len() - FOOTER_LEN - 6 * ROW_LEN;
    let mixed = [&good[..HEADER_LEN], &other[HEADER_LEN..tail_at], &good[tail_at..]].concat();
    assert_eq!(check(&mixed, "blocks of another file".to_owned()), 0);
}

#[test]
fn one_writer_at_a_time_and_none_disturbs_the_old() {
    let temp = tempfile::tempdir().unwrap();
    let folders = folders();
    let path = written(temp.path(), &folders);
    let env = Env::system(1);
    let first = CacheWriter::create(&path, VAULT, &env).unwrap();
    assert!(matches!(CacheWriter::create(&path, VAULT, &env), Err(CacheError::Busy(_))));
    first.add(folders[0].0, &dir(99, 1));
    drop(first);
    assert_eq!(StatCache::open(&path, VAULT).len(), folders.len());
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);

    // What a killed run left does not matter.
    std::fs::write(temp.path().join("cache.new"), vec![1; 10_000]).unwrap();
    written(temp.path(), &folders[..2]);
    assert_eq!(StatCache::open(&path, VAULT).len(), 2);
    let missing = CacheWriter::create(&temp.path().join("no/where"), VAULT, &env);
    assert!(matches!(missing, Err(CacheError::Io { .. })));

    let shared = CacheWriter::create(&path, VAULT, &env).unwrap();
    std::thread::scope(|scope| {
        for part in folders.chunks(10) {
            let shared = &shared;
            scope.spawn(move || part.iter().for_each(|(key, dir)| shared.add(*key, dir)));
        }
    });
    shared.finish().unwrap();
    let cache = StatCache::open(&path, VAULT);
    assert!(folders.iter().all(|(key, dir)| cache.lookup(key).as_ref() == Some(dir)));
}

#[test]
fn young_time_stamps_are_equal_to_nothing() {
    let at = |ctime: i64, mtime: i64| {
        let time = |nanos: i64| FileTime {
            secs: nanos.div_euclid(1_000_000_000),
            nanos: nanos.rem_euclid(1_000_000_000) as u32,
        };
        Stat { ctime: time(ctime), mtime: time(mtime), ..stat(5) }
    };
    const SECOND: i64 = 1_000_000_000;
    let looked_at = Time(100 * SECOND);
    let old = 98 * SECOND;
    let known = |stat: &Stat| !CachedStat::from_stat(stat, looked_at).is_never();
    for (ctime, mtime, expected) in [
        (old, old, true),
        (old + 1, old, false),
        (old, old + 1, false),
        (-SECOND, -7, true),
        (200 * SECOND, old, false),
        (old, i64::MAX, false),
        (0, 0, true),
    ] {
        assert_eq!(known(&at(ctime, mtime)), expected, "{ctime} {mtime}");
    }
    for secs in [i64::MIN, i64::MAX, 10_000_000_000] {
        let far = Stat { mtime: FileTime { secs, nanos: 0 }, ..stat(5) };
        assert!(!known(&far) && CachedStat::now(&far).is_never(), "{secs}");
    }
    assert!(!CachedStat::NEVER.same(&CachedStat::NEVER, true, true));
    let never = CachedStat::from_bytes(&CachedStat::NEVER.to_bytes());
    assert!(never.is_never());
}

#[test]
fn every_field_counts_unless_ignored() {
    let base = stat(5);
    let kept = CachedStat::from_stat(&base, Time(i64::MAX));
    assert_eq!(CachedStat::from_bytes(&kept.to_bytes()), kept);
    let other = FileTime { secs: 1_000, nanos: 6 };
    for (changed, ignoring_inode, ignoring_ctime) in [
        (Stat { inode: 6, ..base }, true, false),
        (Stat { device: 6, ..base }, true, false),
        (Stat { ctime: other, ..base }, false, true),
        (Stat { mtime: other, ..base }, false, false),
        (Stat { size: 6, ..base }, false, false),
    ] {
        let now = CachedStat::now(&changed);
        assert!(!kept.same(&now, false, false), "{changed:?}");
        assert_eq!(kept.same(&now, true, false), ignoring_inode, "{changed:?}");
        assert_eq!(kept.same(&now, false, true), ignoring_ctime, "{changed:?}");
    }
    assert!(kept.same(&CachedStat::now(&Stat { atime: other, nlink: 3, ..base }), false, false));
}

#[test]
fn keys_and_name_hashes_tell_trees_apart() {
    let root = DirKey::root(b"");
    assert_ne!(root, DirKey::root(b"atime"));
    assert_ne!(root.child(b"a").child(b"b"), root.child(b"ab"));
    assert_ne!(root.child(b"a").child(b"b"), root.child(b"b").child(b"a"));
    assert_ne!(NamesHasher::hash(["ab", "c"]), NamesHasher::hash(["a", "bc"]));
    assert_ne!(NamesHasher::hash(["a"]), NamesHasher::hash(["a", ""]));
    let many: Vec<String> = (0..5_000).map(|at| format!("name {at}")).collect();
    let mut one_by_one = NamesHasher::new();
    many.iter().for_each(|name| one_by_one.push(name.as_bytes()));
    assert_eq!(NamesHasher::hash(&many), one_by_one.finish());
}

/// A node of two names, one with content of its own, and the node above it.
fn listed() -> (EncodedBranch, EncodedBranch) {
    let file = |name: &[u8], content| Entry { name: name.into(), meta: Metadata::default(), what: What::File(content) };
    let entries = vec![
        file(b"long", Content::One { len: 9, chunk: ChunkId([9; 32]) }),
        file(b"short", Content::Inline(b"canary".as_slice().into())),
    ];
    let node = ChunkId([1; 32]);
    let above =
        InnerDir { first_name: b"long".as_slice().into(), last_name: b"short".as_slice().into(), entries: 2, node };
    let encode = |node: DirectoryNode| branch::encode_directory(&node).unwrap();
    (encode(DirectoryNode::Entries(entries)), encode(DirectoryNode::Inner(vec![above])))
}

#[test]
fn listings_come_back_without_content_and_are_taken_over() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (temp.path().join("first"), temp.path().join("second"));
    let (entries, above) = listed();
    let (low, high) = (ChunkId([1; 32]), ChunkId([2; 32]));
    let writer = ListWriter::create(&first, VAULT, &Env::system(1)).unwrap();
    // Twice: many folders are equal.
    for _ in 0..2 {
        writer.add(&low, &entries);
        writer.add(&high, &above);
    }
    writer.finish().unwrap();
    let check = |path: &Path| {
        let cache = ListCache::open(path, VAULT);
        assert_eq!(cache.branch(&high), Some((above.refs.clone(), above.payload.clone())));
        let (refs, payload) = cache.branch(&low).unwrap();
        let Node::Directory(DirectoryNode::Entries(found)) = branch::decode(&refs, &payload).unwrap() else { panic!() };
        assert_eq!(found[0].what, What::File(Content::One { len: 9, chunk: ChunkId([9; 32]) }));
        assert_eq!(found[1].what, What::File(Content::Inline([0; 6].into())));
        assert_eq!(cache.branch(&ChunkId([3; 32])), None);
        // Same key, another branch.
        let mut other = low;
        other.0[31] ^= 1;
        assert_eq!(cache.branch(&other), None);
        assert_eq!(ListCache::open(path, VaultId([8; 16])).branch(&high), None);
        assert!(StatCache::open(path, VAULT).is_empty(), "another kind of file");
    };
    check(&first);
    let old = ListCache::open(&first, VAULT);
    let writer = ListWriter::create(&second, VAULT, &Env::system(1)).unwrap();
    writer.keep(&old, &high);
    writer.keep(&old, &ChunkId([3; 32]));
    writer.finish().unwrap();
    check(&second);
    let bytes = std::fs::read(&second).unwrap();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        std::fs::write(&first, &bad).unwrap();
        let cache = ListCache::open(&first, VAULT);
        let found = cache.branch(&high);
        assert!(found.is_none() || found.unwrap().1 == above.payload, "byte {at}");
        assert!(cache.branch(&low).is_none_or(|(refs, _)| refs == entries.refs), "byte {at}");
    }
}
