//! Long lists through writer and readers, over a map that stands for a vault.

use std::cell::RefCell;
use std::collections::HashMap;

use super::entry::*;
use super::tests::Dice;
use super::*;
use crate::limits::{
    CHUNK_LEN_MAX, FILE_LEN_MAX, LIST_DEPTH_MAX, LIST_ENTRIES_MAX, LIST_ENTRIES_MIN, LIST_NODE_LEN_TARGET,
    SYMLINK_LEN_MAX, XATTRS_LEN_MAX,
};

#[derive(Default)]
struct Vault {
    branches: RefCell<HashMap<ChunkId, EncodedBranch>>,
    reads: RefCell<usize>,
}

impl Vault {
    fn put(&self, branch: EncodedBranch) -> Result<ChunkId> {
        let mut hasher = blake3::Hasher::new();
        for id in &branch.refs {
            hasher.update(&id.0);
        }
        let id = ChunkId(hasher.update(&branch.payload).finalize().into());
        self.branches.borrow_mut().insert(id, branch);
        Ok(id)
    }

    fn directory(&self, entries: Vec<Entry>) -> ChunkId {
        write_directory(entries, &split, &mut |branch| self.put(branch)).unwrap()
    }

    fn file(&self, pieces: &[Piece]) -> ChunkId {
        let mut writer = FileWriter::new(&split);
        pieces.iter().for_each(|piece| writer.push(*piece, &mut |branch| self.put(branch)).unwrap());
        writer.finish(&mut |branch| self.put(branch)).unwrap()
    }

    fn len(&self) -> usize {
        self.branches.borrow().len()
    }
}

impl Branches for Vault {
    type Error = BranchError;

    fn branch(&self, id: &ChunkId) -> Result<(Vec<ChunkId>, Vec<u8>)> {
        *self.reads.borrow_mut() += 1;
        let branch = self.branches.borrow().get(id).cloned().ok_or(BranchError::Promise)?;
        Ok((branch.refs, branch.payload))
    }
}

fn split(key: &[u8]) -> u64 {
    let hash = blake3::keyed_hash(&[3; 32], key);
    u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap())
}

fn entry(n: usize) -> Entry {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_le_bytes());
    Entry {
        name: format!("n{n:07}").into_bytes().into(),
        meta: Metadata { mode: 0o644, ..Metadata::default() },
        what: What::File(Content::One { len: 1000, chunk: ChunkId(id) }),
    }
}

fn pieces(count: usize) -> Vec<Piece> {
    let mut dice = Dice(9);
    (0..count)
        .map(|n| Piece { len: 1 + dice.below(1 << 20), chunk: (n % 7 != 0).then(|| ChunkId([dice.next() as u8; 32])) })
        .collect()
}

/// Entries, children and levels of every node are as the limits say; returns the count of levels.
fn check_shape(vault: &Vault, root: &ChunkId) -> usize {
    let branch = vault.branches.borrow()[root].clone();
    assert!(branch.payload.len() <= LIST_NODE_LEN_TARGET + 256);
    let Node::Directory(DirectoryNode::Inner(children)) = decode(&branch.refs, &branch.payload).unwrap() else {
        return 1;
    };
    assert!((1..=LIST_ENTRIES_MAX).contains(&children.len()));
    children.iter().map(|child| 1 + check_shape(vault, &child.node)).max().unwrap()
}

#[test]
fn lists_of_every_length_come_back() {
    for count in [0, 1, 2, 127, 128, 129, 700, 2047, 2048, 2049, 5000, 120_000] {
        let vault = Vault::default();
        let entries: Vec<_> = (0..count).map(|n| entry(2 * n)).collect();
        let root = vault.directory(entries.clone());
        let levels = check_shape(&vault, &root);
        assert_eq!(levels > 1, vault.len() > 1);
        let back: Result<Vec<_>> = DirectoryReader::new(&vault, &root).unwrap().collect();
        assert!(back.unwrap() == entries, "{count} entries");
        for n in (0..2 * count + 2).step_by(1 + count / 50) {
            *vault.reads.borrow_mut() = 0;
            let found = find(&vault, &root, &entry(n).name).unwrap();
            assert_eq!(found, (n % 2 == 0 && n < 2 * count).then(|| entry(n)), "{n} of {count}");
            assert!(*vault.reads.borrow() <= levels);
        }
        assert_eq!(find(&vault, &root, b"").unwrap(), None);
    }
}

#[test]
fn files_of_every_length_come_back() {
    for count in [0, 1, 127, 128, 2048, 2049, 60_000] {
        let vault = Vault::default();
        let pieces = pieces(count);
        let len = pieces.iter().map(|piece| piece.len).sum();
        let root = vault.file(&pieces);
        let mut expected = Vec::new();
        let mut offset = 0;
        for piece in &pieces {
            expected.push((offset, *piece));
            offset += piece.len;
        }
        let back: Result<Vec<_>> = FileReader::new(&vault, &root, len).unwrap().collect();
        assert!(back.unwrap() == expected, "{count} pieces");
        for (at, (start, piece)) in expected.iter().enumerate().step_by(1 + count / 40) {
            for offset in [*start, start + piece.len / 2, start + piece.len - 1] {
                let from = FileReader::pieces_from(&vault, &root, len, offset).unwrap();
                let first: Result<Vec<_>> = from.take(3).collect();
                assert_eq!(first.unwrap(), expected[at..expected.len().min(at + 3)], "{offset}");
            }
        }
        let all: Result<Vec<_>> = FileReader::pieces_from(&vault, &root, len, 0).unwrap().collect();
        assert!(all.unwrap() == expected);
        for past in [len, len + 1, u64::MAX] {
            assert!(FileReader::pieces_from(&vault, &root, len, past).unwrap().next().is_none());
        }
        assert!(FileReader::new(&vault, &root, len + 1).is_err());
    }
}

#[test]
fn one_change_in_a_long_list_rewrites_about_one_node_a_level() {
    let vault = Vault::default();
    let count = 500_000;
    let list = || (0..count).map(|n| entry(2 * n));
    let put = |entries: &mut dyn Iterator<Item = Entry>| {
        let before = vault.len();
        let mut writer = DirectoryWriter::new(&split);
        entries.for_each(|entry| writer.push(entry, &mut |branch| vault.put(branch)).unwrap());
        let root = writer.finish(&mut |branch| vault.put(branch)).unwrap();
        (root, vault.len() - before)
    };
    let (root, nodes) = put(&mut list());
    let levels = check_shape(&vault, &root);
    assert!((500..2000).contains(&nodes), "{nodes}");
    let mut rewritten = Vec::new();
    for at in [0, 123_456, 499_999] {
        let changed = |n: usize, mut entry: Entry| {
            entry.meta.mode = if n == at { 0o600 } else { 0o644 };
            entry
        };
        rewritten.push(put(&mut list().enumerate().map(|(n, entry)| changed(n, entry))).1);
        rewritten.push(put(&mut list().enumerate().filter(|(n, _)| *n != at).map(|(_, entry)| entry)).1);
    }
    let odd = entry(2 * 77_777 + 1);
    let inserted = list().take(77_778).chain([odd]).chain(list().skip(77_778));
    rewritten.push(put(&mut { inserted }).1);
    println!("{nodes} nodes on {levels} levels, rewritten: {rewritten:?}");
    assert!(rewritten.iter().all(|nodes| *nodes <= 2 * levels + 2), "{rewritten:?}");
    assert!(rewritten.iter().sum::<usize>() <= rewritten.len() * (levels + 1), "{rewritten:?}");
}

/// Where nodes end is in vaults, as their bytes are.
#[test]
fn ends_are_the_ones_of_version_1() {
    let vault = Vault::default();
    let root = vault.directory((0..5000).map(entry).collect());
    let branch = vault.branches.borrow()[&root].clone();
    let Node::Directory(DirectoryNode::Inner(children)) = decode(&branch.refs, &branch.payload).unwrap() else {
        panic!("5000 entries in one node");
    };
    let counts: Vec<_> = children.iter().map(|child| child.entries).collect();
    assert_eq!(counts, [172, 217, 204, 437, 848, 385, 754, 250, 394, 1116, 223]);
    assert_eq!(root.to_hex(), "7e66a3d87212d769489a022c0a628c195813ab49c2d7695e457935abfc628273");
}

#[test]
fn nodes_end_at_their_limits() {
    let nodes = |count: usize, hash: u64| {
        let vault = Vault::default();
        let put = &mut |branch| vault.put(branch);
        write_directory((0..count).map(entry).collect(), &|_| hash, put).unwrap();
        vault.len()
    };
    assert_eq!(nodes(LIST_ENTRIES_MIN, 0), 1);
    assert_eq!(nodes(2 * LIST_ENTRIES_MIN, 0), 3);
    assert_eq!(nodes(LIST_ENTRIES_MAX, 1), 1);
    assert_eq!(nodes(2 * LIST_ENTRIES_MAX, 1), 3);
    assert_eq!(nodes(2 * LIST_ENTRIES_MAX, 1 << 8), 3);
    assert_eq!(nodes(2 * LIST_ENTRIES_MIN, 1 << 9), 3);
}

#[test]
fn long_entries_end_a_node_early() {
    let vault = Vault::default();
    let long = |n: usize| {
        let mut entry = entry(n);
        entry.meta.xattrs = vec![Xattr { name: (*b"user.x").into(), value: vec![1; XATTRS_LEN_MAX - 24].into() }];
        entry.what = What::Symlink(vec![b'x'; SYMLINK_LEN_MAX].into());
        entry
    };
    let entries: Vec<_> = (0..20).map(long).collect();
    let root = vault.directory(entries.clone());
    check_shape(&vault, &root);
    let back: Result<Vec<_>> = DirectoryReader::new(&vault, &root).unwrap().collect();
    assert_eq!(back.unwrap(), entries);
    let mut too_long = long(0);
    too_long.meta.xattrs[0].value = vec![1; XATTRS_LEN_MAX].into();
    assert!(encode_entries(&[too_long]).is_err());
}

#[test]
fn order_is_kept_across_nodes() {
    for swap in [1, 127, 128, 129, 300] {
        let vault = Vault::default();
        let mut entries: Vec<_> = (0..600).map(entry).collect();
        entries.swap(swap - 1, swap);
        let put = &mut |branch| vault.put(branch);
        let error = write_directory(entries, &|_| 0, put).unwrap_err();
        assert!(error.to_string().contains("ascend"), "{error}");
    }
}

fn inner(first: usize, last: usize, entries: u64, node: ChunkId) -> InnerDir {
    InnerDir { first_name: entry(first).name, last_name: entry(last).name, entries, node }
}

/// The error of reading everything below `children`, by iteration and by looking each name up.
fn read_all(vault: &Vault, children: &[InnerDir]) -> [Option<String>; 2] {
    let root = vault.put(encode_directory_inner(children).unwrap()).unwrap();
    let text = |error: BranchError| match error {
        BranchError::In { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    let mut reader = DirectoryReader::new(vault, &root).unwrap();
    let all = reader.find_map(|entry| entry.err().map(text));
    assert!(all.is_none() || reader.next().is_none(), "something comes after an error");
    let one = (0..10).find_map(|n| find(vault, &root, &entry(n).name).err().map(text));
    [all, one]
}

#[test]
fn a_node_must_hold_what_its_parent_says() {
    let vault = Vault::default();
    let put = |node: Result<EncodedBranch>| vault.put(node.unwrap()).unwrap();
    let low = put(encode_entries(&(0..3).map(entry).collect::<Vec<_>>()));
    let high = put(encode_entries(&(3..6).map(entry).collect::<Vec<_>>()));
    let mid = put(encode_directory_inner(&[inner(0, 2, 3, low)]));
    let file = put(encode_pieces(&[Piece { len: 3, chunk: None }]));
    let empty = put(encode_entries(&[]));
    let check = |children: &[InnerDir], expected: Option<&str>| {
        for found in read_all(&vault, children) {
            assert_eq!(found.is_some(), expected.is_some(), "{children:?} {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    };
    check(&[inner(0, 2, 3, low), inner(3, 5, 3, high)], None);
    check(&[inner(0, 2, 3, mid), inner(3, 5, 3, high)], None);
    let broken = Some("what its parent says");
    check(&[inner(0, 2, 3, low), inner(3, 6, 3, high)], broken);
    check(&[inner(0, 1, 3, low), inner(3, 5, 3, high)], broken);
    check(&[inner(0, 2, 4, low)], broken);
    check(&[inner(0, 2, 4, mid)], broken);
    check(&[inner(0, 2, 3, low), inner(3, 5, 3, low)], broken);
    check(&[inner(0, 2, 3, mid), inner(3, 5, 3, mid)], broken);
    check(&[inner(0, 2, 3, empty)], broken);
    check(&[inner(0, 2, 3, file)], Some("is a file where a directory belongs"));
    check(&[inner(0, 2, 3, ChunkId([9; 32]))], broken);
}

#[test]
fn circles_and_deep_nests_end() {
    let vault = Vault::default();
    let mut node = vault.put(encode_entries(&(0..3).map(entry).collect::<Vec<_>>()).unwrap()).unwrap();
    for inner_levels in 0..LIST_DEPTH_MAX + 3 {
        let fits = inner_levels <= LIST_DEPTH_MAX;
        assert_eq!(DirectoryReader::new(&vault, &node).unwrap().all(|entry| entry.is_ok()), fits);
        assert_eq!(find(&vault, &node, &entry(1).name).is_ok(), fits);
        node = vault.put(encode_directory_inner(&[inner(0, 2, 3, node)]).unwrap()).unwrap();
    }
    // No hash makes one, but a lying vault can hand out a node that names itself.
    let this = ChunkId([5; 32]);
    let circle = |_: &ChunkId| {
        let branch = encode_directory_inner(&[inner(0, 2, 3, this)])?;
        Ok::<_, BranchError>((branch.refs, branch.payload))
    };
    assert!(DirectoryReader::new(&circle, &this).unwrap().any(|entry| entry.is_err()));
    assert!(find(&circle, &this, &entry(1).name).is_err());
    let circle = |_: &ChunkId| {
        let branch = encode_file_inner(&[InnerFile { len: 5, node: this }])?;
        Ok::<_, BranchError>((branch.refs, branch.payload))
    };
    assert!(FileReader::new(&circle, &this, 5).unwrap().any(|piece| piece.is_err()));
    assert!(FileReader::pieces_from(&circle, &this, 5, 3).is_err());
}

#[test]
fn files_may_be_as_long_as_offsets_reach() {
    let vault = Vault::default();
    let hole = Piece { len: FILE_LEN_MAX - 5, chunk: None };
    let tail = Piece { len: 5, chunk: Some(ChunkId([1; 32])) };
    let root = vault.file(&[hole, tail]);
    let mut reader = FileReader::pieces_from(&vault, &root, FILE_LEN_MAX, FILE_LEN_MAX - 1).unwrap();
    assert_eq!(reader.next().unwrap().unwrap(), (FILE_LEN_MAX - 5, tail));
    assert!(encode_pieces(&[hole, tail, tail]).is_err());
    let over = Piece { len: CHUNK_LEN_MAX as u64 + 1, chunk: Some(ChunkId([1; 32])) };
    assert!(encode_pieces(&[over]).is_err());
}

#[test]
fn snapshots_are_read_as_such() {
    let vault = Vault::default();
    let root = vault.directory(Vec::new());
    let error = snapshot(&vault, &root).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("directory where a snapshot"));
}
