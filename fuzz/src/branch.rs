//! Branches: single nodes, values made of the input, and readers over a small vault of hostile nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use twinkeep_engine::branch::entry::{
    Content, Entry, FileTime, LinkId, Metadata, Owner, Piece, What, Xattr, is_plain_name,
};
use twinkeep_engine::branch::{
    BranchError, Branches, DirectoryNode, DirectoryReader, EncodedBranch, FileNode, FileReader, InnerDir, InnerFile,
    Node, decode, decode_any, find, snapshot,
};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::limits::{CHUNK_LEN_MAX, ENTRY_PIECES_MAX, FILE_LEN_MAX, INLINE_LEN_MAX, LIST_ENTRIES_MAX};

use crate::input::{Input, long, short};

/// References (one byte each, after their number), then a payload.
pub const ONE: u8 = 0;
/// The same, at an address that is not a multiple of 8.
pub const UNALIGNED: u8 = 1;
/// The length of a file, an offset in it and a name to look for, then the nodes of a small vault: each its references
/// and its payload after its length. They are known by their place: the first is 0 and the root.
pub const VAULT: u8 = 2;
/// The rest are the values of a node, to be encoded.
pub const VALUES: u8 = 3;

/// Nodes of the small vault.
const NODES_MAX: u8 = 24;

/// Elements read of one list: a few nodes that name each other can stand for any number of pieces.
const STEPS_MAX: usize = 4000;

/// Decodes, encodes and reads.
pub fn body(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        mode @ (ONE | UNALIGNED) => {
            let refs = ids(input.short());
            one(&refs, input.rest(), mode == UNALIGNED);
        }
        VAULT => vault(input),
        _ => values(input),
    }
}

/// Ids are one byte, repeated.
fn ids(bytes: &[u8]) -> Vec<ChunkId> {
    bytes.iter().map(|byte| ChunkId([*byte; 32])).collect()
}

fn one(refs: &[ChunkId], payload: &[u8], unaligned: bool) {
    let mut place = vec![0; payload.len() + 16];
    let from = place.as_ptr().align_offset(8) + usize::from(unaligned);
    place[from..from + payload.len()].copy_from_slice(payload);
    let payload = &place[from..from + payload.len()];
    if let Ok(node) = decode(refs, payload) {
        check_node(&node);
    }
    if let Some(encoded) = decode_any(refs, payload) {
        check_stable(&encoded);
    }
}

/// The known part of any bytes, written down, is read as what it was written from.
pub fn check_stable(encoded: &EncodedBranch) {
    assert!(encoded.payload.len() <= CHUNK_LEN_MAX && encoded.payload.len().is_multiple_of(8));
    let node = decode(&encoded.refs, &encoded.payload).expect("what we encode decodes");
    check_node(&node);
    assert_eq!(&node.encode().expect("what was encoded encodes"), encoded);
}

fn check_node(node: &Node) {
    match node {
        Node::Directory(DirectoryNode::Entries(entries)) => {
            assert!(entries.len() <= LIST_ENTRIES_MAX);
            assert!(entries.is_sorted_by(|one, two| one.name < two.name));
            entries.iter().for_each(check_entry);
        }
        Node::Directory(DirectoryNode::Inner(children)) => {
            assert!((1..=LIST_ENTRIES_MAX).contains(&children.len()));
            assert!(children.iter().all(|child| child.first_name <= child.last_name && child.entries > 0));
            assert!(children.is_sorted_by(|one, two| one.last_name < two.first_name));
            assert!(children.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.entries)).is_some());
        }
        Node::File(FileNode::Pieces(pieces)) => check_lens(pieces.iter().map(|piece| piece.len)),
        Node::File(FileNode::Inner(children)) => {
            assert!(!children.is_empty());
            check_lens(children.iter().map(|child| child.len));
        }
        Node::Snapshot(_) => {}
    }
}

fn check_lens(lens: impl Iterator<Item = u64>) {
    let sum = lens.fold(0_u64, |sum, len| {
        assert!(len > 0);
        sum.checked_add(len).expect("lengths add up")
    });
    assert!(sum <= FILE_LEN_MAX);
}

fn check_entry(entry: &Entry) {
    assert!(is_plain_name(&entry.name), "{:?}", entry.name);
    assert!(entry.meta.mode <= 0o7777 && entry.meta.mtime.nanos < 1_000_000_000);
    assert!(entry.meta.xattrs.is_sorted_by(|one, two| one.name < two.name));
    match &entry.what {
        What::File(content) => {
            assert!(content.len() <= FILE_LEN_MAX);
            match content {
                Content::Inline(bytes) => assert!(bytes.len() <= INLINE_LEN_MAX),
                Content::Pieces(pieces) => {
                    assert!((1..=ENTRY_PIECES_MAX).contains(&pieces.len()));
                    check_lens(pieces.iter().map(|piece| piece.len));
                }
                Content::One { len, .. } => assert!((1..=CHUNK_LEN_MAX as u64).contains(len)),
                Content::Tree { len, .. } => assert!(*len > 0),
            }
        }
        What::Symlink(to) => assert!(!to.is_empty() && !to.contains(&0)),
        What::Directory(_) => assert!(entry.meta.link.is_none()),
        What::CharDevice { .. } | What::BlockDevice { .. } | What::Fifo | What::Socket => {}
    }
}

fn vault(mut input: Input<'_>) {
    let (len, offset, name) = (input.u64(), input.u64(), input.short());
    let mut nodes = BTreeMap::new();
    for at in 0..NODES_MAX {
        if input.is_empty() {
            break;
        }
        nodes.insert(ChunkId([at; 32]), (ids(input.short()), input.long().to_vec()));
    }
    let (nodes, root) = (Nodes(nodes), ChunkId([0; 32]));
    let _ = snapshot(&nodes, &root);
    walk(&nodes, &root, name);
    pieces(&nodes, &root, len, offset);
}

/// A small vault: references and payload of each node.
struct Nodes(BTreeMap<ChunkId, (Vec<ChunkId>, Vec<u8>)>);

impl Branches for Nodes {
    type Error = BranchError;

    fn branch(&self, id: &ChunkId) -> Result<(Vec<ChunkId>, Vec<u8>), BranchError> {
        // As if it were absent, which a vault tells with an error of its own.
        self.0.get(id).cloned().ok_or(BranchError::Promise)
    }
}

/// Names of a whole directory ascend, so none comes twice; each is found again alone.
fn walk(branches: &Nodes, root: &ChunkId, name: &[u8]) {
    let _ = find(branches, root, name);
    let Ok(reader) = DirectoryReader::new(branches, root) else { return };
    let mut last: Option<Box<[u8]>> = None;
    for (at, entry) in reader.take(STEPS_MAX).enumerate() {
        let Ok(entry) = entry else { return };
        check_entry(&entry);
        assert!(last.as_ref().is_none_or(|last| *last < entry.name), "names ascend over all nodes");
        if at < 16 {
            let found = find(branches, root, &entry.name).expect("the same nodes are read");
            assert_eq!(found.as_ref(), Some(&entry));
        }
        last = Some(entry.name);
    }
}

/// Pieces lie end to end and add up to the file's length, wherever one begins.
fn pieces(branches: &Nodes, root: &ChunkId, len: u64, offset: u64) {
    let Ok(all) = FileReader::new(branches, root, len) else { return };
    let all: Vec<_> = all.take(STEPS_MAX).collect();
    let mut at = 0;
    for read in &all {
        let Ok((offset, piece)) = read else { return };
        assert!(*offset == at && piece.len > 0);
        at += piece.len;
        assert!(at <= len);
    }
    assert!(all.len() == STEPS_MAX || at == len);
    let offset = if len == 0 { offset } else { offset % (len + 1) };
    let Ok(mut later) = FileReader::pieces_from(branches, root, len, offset) else { return };
    match later.next() {
        Some(Ok((from, piece))) => {
            assert!(from <= offset && offset < from + piece.len, "{from} {piece:?} {offset}");
            if let Some(Ok(same)) = all.iter().find(|read| read.as_ref().is_ok_and(|(at, _)| *at == from)) {
                assert_eq!(*same, (from, piece));
            }
        }
        Some(Err(_)) => {}
        None => assert!(offset >= len),
    }
}

fn values(mut input: Input<'_>) {
    let node = match input.u8() % 4 {
        0 => Node::Directory(DirectoryNode::Entries(list(&mut input, entry))),
        1 => Node::Directory(DirectoryNode::Inner(list(&mut input, inner_dir))),
        2 => Node::File(FileNode::Pieces(list(&mut input, piece))),
        _ => Node::File(FileNode::Inner(list(&mut input, inner_file))),
    };
    if let Ok(encoded) = node.encode() {
        assert_eq!(decode(&encoded.refs, &encoded.payload).expect("what we encode decodes"), node);
        check_stable(&encoded);
    }
}

fn list<T>(input: &mut Input<'_>, read: impl Fn(&mut Input<'_>) -> T) -> Vec<T> {
    let mut list = Vec::new();
    while !input.is_empty() && list.len() < 64 {
        list.push(read(input));
    }
    list
}

fn id(input: &mut Input<'_>) -> ChunkId {
    ChunkId([input.u8(); 32])
}

fn bytes(input: &mut Input<'_>) -> Box<[u8]> {
    input.short().into()
}

fn piece(input: &mut Input<'_>) -> Piece {
    let len = input.u64();
    Piece { len, chunk: (input.u8() % 2 == 1).then(|| id(input)) }
}

fn inner_file(input: &mut Input<'_>) -> InnerFile {
    InnerFile { len: input.u64(), node: id(input) }
}

fn inner_dir(input: &mut Input<'_>) -> InnerDir {
    InnerDir { first_name: bytes(input), last_name: bytes(input), entries: input.u64(), node: id(input) }
}

fn owner(input: &mut Input<'_>) -> Owner {
    Owner { id: input.u32(), name: Arc::from(input.short()) }
}

fn time(input: &mut Input<'_>) -> FileTime {
    FileTime { secs: input.u64() as i64, nanos: input.u32() }
}

/// Metadata of anything; wrong in every way it can be.
pub fn metadata(input: &mut Input<'_>) -> Metadata {
    let choices = input.u8();
    Metadata {
        mode: input.u16().into(),
        user: owner(input),
        group: owner(input),
        mtime: time(input),
        atime: (choices & 1 != 0).then(|| time(input)),
        xattrs: (0..choices >> 6).map(|_| Xattr { name: bytes(input), value: bytes(input) }).collect(),
        link: (choices & 2 != 0).then(|| LinkId { device: input.u64(), inode: input.u64() }),
    }
}

fn entry(input: &mut Input<'_>) -> Entry {
    let (kind, name, meta) = (input.u8() % 10, bytes(input), metadata(input));
    let what = match kind {
        0 => What::File(Content::Inline(bytes(input))),
        1 => What::File(Content::One { len: input.u64(), chunk: id(input) }),
        2 => What::File(Content::Pieces((0..input.u8() % 20).map(|_| piece(input)).collect())),
        3 => What::File(Content::Tree { len: input.u64(), root: id(input) }),
        4 => What::Directory(id(input)),
        5 => What::Symlink(bytes(input)),
        6 => What::CharDevice { major: input.u32(), minor: input.u32() },
        7 => What::BlockDevice { major: input.u32(), minor: input.u32() },
        8 => What::Fifo,
        _ => What::Socket,
    };
    Entry { name, meta, what }
}

/// An entry with nothing special about it.
fn named(name: &[u8], what: What) -> Entry {
    let mtime = FileTime { secs: 1_700_000_000, nanos: 5 };
    let user = Owner { id: 1000, name: Arc::from(&b"ann"[..]) };
    let meta = Metadata { mode: 0o644, mtime, user: user.clone(), group: user, ..Metadata::default() };
    Entry { name: name.into(), meta, what }
}

/// One entry of each kind.
fn some_entries() -> Vec<Entry> {
    let chunk = ChunkId([1; 32]);
    let hole = Piece { len: 1 << 40, chunk: None };
    let mut rich = named(b"rich", What::File(Content::One { len: 70_000, chunk }));
    rich.meta.atime = Some(FileTime { secs: -1, nanos: 999_999_999 });
    rich.meta.link = Some(LinkId { device: 7, inode: u64::MAX });
    rich.meta.xattrs = vec![
        Xattr { name: b"system.posix_acl_access"[..].into(), value: [2, 0, 0, 0][..].into() },
        Xattr { name: b"user.note"[..].into(), value: b""[..].into() },
    ];
    let mut entries = vec![
        named(b"dir", What::Directory(ChunkId([2; 32]))),
        named(b"dev", What::CharDevice { major: 1, minor: 3 }),
        named(b"disk", What::BlockDevice { major: 8, minor: 0 }),
        named(b"empty", What::File(Content::Inline(b""[..].into()))),
        named(b"fifo", What::Fifo),
        named(b"inline", What::File(Content::Inline([b'x'; 256][..].into()))),
        named(b"link", What::Symlink(b"../../etc/passwd"[..].into())),
        named(b"pieces", What::File(Content::Pieces(vec![hole, Piece { len: 9, chunk: Some(chunk) }, hole]))),
        named(b"sock", What::Socket),
        named(b"tree", What::File(Content::Tree { len: 1 << 30, root: ChunkId([3; 32]) })),
        rich,
    ];
    entries.sort_by(|one, two| one.name.cmp(&two.name));
    entries
}

fn entries(list: Vec<Entry>) -> Node {
    Node::Directory(DirectoryNode::Entries(list))
}

fn child(first: &[u8], last: &[u8], entries: u64, node: u8) -> InnerDir {
    InnerDir { first_name: first.into(), last_name: last.into(), entries, node: ChunkId([node; 32]) }
}

fn below(len: u64, node: u8) -> InnerFile {
    InnerFile { len, node: ChunkId([node; 32]) }
}

fn hole(len: u64) -> Piece {
    Piece { len, chunk: None }
}

fn plain(name: &[u8]) -> Entry {
    named(name, What::File(Content::Inline(name.into())))
}

fn encoded(node: &Node) -> (Vec<u8>, Vec<u8>) {
    let encoded = node.encode().expect("seeds keep the rules");
    (short(&encoded.refs.iter().map(|id| id.0[0]).collect::<Vec<_>>()), encoded.payload)
}

/// A single node as an input.
pub fn one_seed(node: &Node) -> Vec<u8> {
    let (refs, payload) = encoded(node);
    [&[ONE][..], &refs, &payload].concat()
}

fn vault_seed(len: u64, offset: u64, name: &[u8], nodes: &[Node]) -> Vec<u8> {
    let mut seed = [&[VAULT][..], &len.to_le_bytes(), &offset.to_le_bytes(), &short(name)].concat();
    for (refs, payload) in nodes.iter().map(encoded) {
        seed.extend_from_slice(&refs);
        seed.extend_from_slice(&long(&payload));
    }
    seed
}

/// Nodes of each kind, small vaults of them, and vaults that lie: circles, bombs, wrong promises.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let (dirs, files) = (|list| Node::Directory(DirectoryNode::Inner(list)), |list| Node::File(FileNode::Inner(list)));
    let pieces = |list| Node::File(FileNode::Pieces(list));
    let leaf = Piece { len: 1000, chunk: Some(ChunkId([9; 32])) };
    let all = entries(some_entries());
    let two_level = vec![
        dirs(vec![child(b"a", b"b", 2, 1), child(b"c", b"d", 2, 2)]),
        entries(vec![plain(b"a"), plain(b"b")]),
        entries(vec![plain(b"c"), plain(b"d")]),
    ];
    let mut lying = two_level.clone();
    lying[2] = entries(vec![plain(b"b"), plain(b"d")]);
    let bomb: Vec<_> = (1..=6).map(|at| files(vec![below(8_u64.pow(7 - u32::from(at)), at); 8])).collect();
    let bomb = [bomb, vec![pieces(vec![hole(1); 8])]].concat();
    let mut seeds = vec![
        ("one-all-kinds".into(), one_seed(&all)),
        ("one-unaligned".into(), [&[UNALIGNED][..], &one_seed(&all)[1..]].concat()),
        ("one-empty-dir".into(), one_seed(&entries(Vec::new()))),
        ("one-dir-inner".into(), one_seed(&two_level[0])),
        ("one-file".into(), one_seed(&pieces(vec![leaf, hole(5), leaf]))),
        ("one-file-inner".into(), one_seed(&files(vec![below(1, 1), below(1 << 60, 2)]))),
        ("one-no-refs".into(), [&[ONE, 0][..], &encoded(&all).1].concat()),
        ("one-nothing".into(), vec![ONE, 0]),
        ("one-null".into(), [&[ONE, 0][..], &[0; 8]].concat()),
        ("vault-dir".into(), vault_seed(0, 0, b"c", &two_level)),
        ("vault-dir-lies".into(), vault_seed(0, 0, b"b", &lying)),
        ("vault-dir-circle".into(), vault_seed(0, 0, b"b", &[dirs(vec![child(b"a", b"b", 2, 0)])])),
        ("vault-dir-flat".into(), vault_seed(0, 0, b"fifo", std::slice::from_ref(&all))),
        ("vault-file".into(), {
            let nodes =
                [files(vec![below(2005, 1), below(1000, 2)]), pieces(vec![leaf, hole(5), leaf]), pieces(vec![leaf])];
            vault_seed(3005, 1002, b"", &nodes)
        }),
        ("vault-file-wrong-len".into(), vault_seed(4, 0, b"", &[pieces(vec![hole(5)])])),
        ("vault-file-bomb".into(), vault_seed(8_u64.pow(7), 9999, b"", &bomb)),
        ("vault-file-circle".into(), vault_seed(1, 0, b"", &[files(vec![below(1, 0)])])),
        ("vault-file-empty".into(), vault_seed(0, 0, b"", &[pieces(Vec::new())])),
        ("vault-nothing".into(), vault_seed(0, 0, b"", &[])),
    ];
    // A list of 2^29 structs without size, and a struct that points at itself.
    for (name, words) in [
        ("one-void-list", [0x0001_0001_0000_0000_u64, 0x0000_0000_0000_0004, 0xffff_ffff_0000_0001]),
        ("one-self", [0x0001_0001_0000_0000, 4, 0x0001_0001_ffff_fff8]),
        ("one-empty-structs", [0x0001_0001_0000_0000, 3, 0x0000_0007_0000_0001]),
    ] {
        let payload: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        seeds.push((name.into(), [&[ONE, 0][..], &payload].concat()));
    }
    let text = [&[0, 1, b'a', 0, 0xa4, 1][..], &[0; 10], &[0; 12], &[4, b'd', b'a', b't', b'a']].concat();
    for kind in 0..4 {
        seeds.push((format!("values-{kind}"), [&[VALUES, kind][..], &text, &[1; 60]].concat()));
    }
    seeds
}
