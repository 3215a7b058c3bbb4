//! The files of the stat cache and of the list cache.
//!
//! An input is one byte and a file; with [`SUMMED`] its checksums are put right first, as only who wrote the file
//! could: the cache lies in the user's own folder.

use std::cell::RefCell;
use std::path::PathBuf;

use tempfile::TempDir;
use twinkeep_engine::branch::entry::{Content, Entry, Metadata, What};
use twinkeep_engine::branch::{self, DirectoryNode, InnerDir};
use twinkeep_engine::cache::{
    CacheWriter, CachedDir, CachedStat, DirKey, ListCache, ListWriter, NamesHasher, StatCache,
};
use twinkeep_engine::env::{Env, Inline, ManualClock, SeededEntropy, Time};
use twinkeep_engine::id::{ChunkId, VaultId};
use twinkeep_engine::limits::{BRANCH_REFS_MAX, CHUNK_LEN_MAX};

use crate::input::Input;
use crate::keys::VAULT;

/// Put the checksums right.
pub const SUMMED: u8 = 1;

const HEADER_LEN: usize = 80;
const FOOTER_LEN: usize = 32;
const ROW_LEN: usize = 28;

thread_local! {
    /// One file a thread, written again for each input.
    static PLACE: RefCell<TempDir> = RefCell::new(folder());
}

/// A folder in memory where the system has one: inputs are never synced.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder for temporary files")
}

/// Opens a cache and looks folders up.
pub fn body(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.u8();
    let mut bytes = input.rest().to_vec();
    if mode & SUMMED != 0 {
        put_sums_right(&mut bytes);
    }
    PLACE.with_borrow(|folder| {
        let path = folder.path().join("cache");
        std::fs::write(&path, &bytes).expect("room for a small file");
        let cache = StatCache::open(&path, VAULT);
        look(&cache, bytes.len());
        look_at_lists(&ListCache::open(&path, VAULT));
        let of_other = StatCache::open(&path, VaultId([0; 16]));
        assert!(cache.is_empty() || of_other.is_empty(), "a cache is of one vault");
    });
}

fn look(cache: &StatCache, file_len: usize) {
    assert!(cache.len() * ROW_LEN <= file_len);
    for key in keys() {
        if let Some(dir) = cache.lookup(&key) {
            assert!(dir.stats.len() * CachedStat::LEN <= file_len);
            let never = dir.stats.iter().filter(|stat| stat.is_never());
            never.for_each(|stat| assert!(!stat.same(stat, true, true)));
        }
    }
}

fn look_at_lists(cache: &ListCache) {
    for id in [ChunkId([1; 32]), ChunkId([2; 32]), ChunkId([3; 32])] {
        if let Some((refs, payload)) = cache.branch(&id) {
            assert!(refs.len() <= BRANCH_REFS_MAX && payload.len() <= CHUNK_LEN_MAX);
            let _ = branch::decode_any(&refs, &payload);
        }
    }
}

/// Folders that are asked for: a root, a chain below it, and one that is never there.
fn keys() -> [DirKey; 4] {
    let root = DirKey::root(b"scope");
    let home = root.child(b"home");
    [root, home, home.child(b"ann"), root.child(b"missing")]
}

fn put_sums_right(bytes: &mut [u8]) {
    if bytes.len() < HEADER_LEN + FOOTER_LEN {
        return;
    }
    let mut key = [0; 32];
    key.copy_from_slice(&bytes[32..64]);
    let sum = |part: u8, stretches: &[&[u8]]| {
        let all = [&[part][..], &stretches.concat()].concat();
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::keyed_hash(&key, &all).as_bytes()[..16]);
        half
    };
    let header = sum(1, &[&bytes[..64]]);
    bytes[64..HEADER_LEN].copy_from_slice(&header);
    let footer_at = bytes.len() - FOOTER_LEN;
    let table_at = Input(&bytes[footer_at..]).u64();
    let Some(table_at) = usize::try_from(table_at).ok().filter(|at| (HEADER_LEN..=footer_at).contains(at)) else {
        return;
    };
    let rows: Vec<u8> = bytes[table_at..footer_at].to_vec();
    for row in rows.chunks_exact(ROW_LEN) {
        let mut fields = Input(&row[16..]);
        let (offset, len) = (fields.u64() as usize, fields.u32() as usize);
        let Some(end) = offset.checked_add(len).filter(|&end| end <= table_at && len >= 16) else { continue };
        let block = sum(2, &[&row[..16], &bytes[offset..end - 16]]);
        bytes[end - 16..end].copy_from_slice(&block);
    }
    let table = sum(3, &[&rows, &bytes[footer_at..footer_at + 16]]);
    bytes[footer_at + 16..].copy_from_slice(&table);
}

fn env() -> Env {
    Env {
        clock: std::sync::Arc::new(ManualClock::new(Time(0))),
        entropy: std::sync::Arc::new(SeededEntropy::new(7)),
        executor: std::sync::Arc::new(Inline),
    }
}

fn written(dirs: &[(DirKey, CachedDir)]) -> Vec<u8> {
    let folder = folder();
    let path: PathBuf = folder.path().join("cache");
    let writer = CacheWriter::create(&path, VAULT, &env()).expect("a folder of our own");
    dirs.iter().for_each(|(key, dir)| writer.add(*key, dir));
    writer.finish().expect("room for a small file");
    std::fs::read(&path).expect("just written")
}

/// A list cache of a folder in two nodes.
fn written_lists() -> Vec<u8> {
    let folder = folder();
    let path: PathBuf = folder.path().join("cache");
    let file = |name: &[u8]| {
        let what = What::File(Content::Inline(b"short".as_slice().into()));
        Entry { name: name.into(), meta: Metadata::default(), what }
    };
    let low = DirectoryNode::Entries(vec![file(b"a"), file(b"b")]);
    let above = InnerDir {
        first_name: b"a".as_slice().into(),
        last_name: b"b".as_slice().into(),
        entries: 2,
        node: ChunkId([1; 32]),
    };
    let writer = ListWriter::create(&path, VAULT, &env()).expect("a folder of our own");
    for (mark, node) in [(1, low), (2, DirectoryNode::Inner(vec![above]))] {
        writer.add(&ChunkId([mark; 32]), &branch::encode_directory(&node).expect("a node by the rules"));
    }
    writer.finish().expect("room for a small file");
    std::fs::read(&path).expect("just written")
}

/// Caches of no, one and three folders, cut ones, and ones whose table lies.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let dir = |count: usize| CachedDir {
        tree: ChunkId([1; 32]),
        names_hash: NamesHasher::hash([b"a", b"b"]),
        stats: vec![CachedStat::NEVER; count],
    };
    let [root, home, ann, _] = keys();
    let three = written(&[(root, dir(1)), (home, dir(0)), (ann, dir(5))]);
    let with = |mode: u8, bytes: &[u8]| [&[mode][..], bytes].concat();
    let changed = |from_end: usize, field: &[u8]| {
        let mut bytes = three.clone();
        let at = bytes.len() - from_end;
        bytes[at..at + field.len()].copy_from_slice(field);
        with(SUMMED, &bytes)
    };
    // A length that is a whole number of stats, and far more than the file holds.
    let long = (68 + 40 * 100_000_000_u32).to_le_bytes();
    vec![
        ("three".into(), with(0, &three)),
        ("three-summed".into(), with(SUMMED, &three)),
        ("empty".into(), with(SUMMED, &written(&[]))),
        ("one".into(), with(SUMMED, &written(&[(root, dir(0))]))),
        ("cut".into(), with(0, &three[..three.len() - 1])),
        ("no-footer".into(), with(SUMMED, &three[..three.len() - FOOTER_LEN])),
        ("table-far".into(), changed(32, &u64::MAX.to_le_bytes())),
        ("count-over".into(), changed(24, &u64::MAX.to_le_bytes())),
        ("block-long".into(), changed(36, &long)),
        ("block-far".into(), changed(44, &u64::MAX.to_le_bytes())),
        ("block-in-header".into(), changed(44, &0_u64.to_le_bytes())),
        ("lists".into(), with(0, &written_lists())),
        ("lists-summed".into(), with(SUMMED, &written_lists())),
        ("nothing".into(), vec![0]),
    ]
}
