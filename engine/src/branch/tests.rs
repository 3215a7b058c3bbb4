//! Generated nodes through encoder and decoder, whole and damaged.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::entry::*;
use super::*;
use crate::limits::{BRANCH_REFS_MAX, CHUNK_LEN_MAX, LIST_ENTRIES_MAX};

/// splitmix64: the same numbers for the same seed everywhere.
pub(super) struct Dice(pub u64);

impl Dice {
    pub(super) fn printed() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seed = std::env::var("SEED").map_or(now.as_nanos() as u64, |seed| seed.parse().unwrap());
        println!("SEED={seed}");
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, max: u64) -> Box<[u8]> {
        (0..self.below(max + 1)).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        ["", "a", "Grüße", "home", "--exclude=*.o"][self.below(5) as usize].to_owned()
    }

    fn texts(&mut self) -> Vec<String> {
        (0..self.below(4)).map(|_| self.text()).collect()
    }

    /// One of a few ids half the time, so that references repeat.
    pub(super) fn id(&mut self) -> ChunkId {
        let mut id = [7; 32];
        let n = if self.one_in(2) { self.below(4) } else { self.next() };
        id[..8].copy_from_slice(&n.to_le_bytes());
        ChunkId(id)
    }
}

fn time(dice: &mut Dice) -> FileTime {
    FileTime { secs: dice.next() as i64, nanos: dice.below(1_000_000_000) as u32 }
}

fn owner(dice: &mut Dice) -> Owner {
    let name = [&b""[..], b"root", b"anna", b"\xff\xfe"][dice.below(4) as usize];
    Owner { id: dice.below(3) as u32, name: Arc::from(name) }
}

fn piece(dice: &mut Dice) -> Piece {
    let chunk = (!dice.one_in(4)).then(|| dice.id());
    let max = if chunk.is_some() { CHUNK_LEN_MAX as u64 } else { 1 << 40 };
    Piece { len: 1 + dice.below(max), chunk }
}

fn what(dice: &mut Dice) -> What {
    let device = (dice.next() as u32, dice.below(300) as u32);
    match dice.below(12) {
        0 => What::Directory(dice.id()),
        1 => What::Symlink(dice.bytes(100).iter().map(|byte| byte | 1).chain([b'x']).collect()),
        2 => What::CharDevice { major: device.0, minor: device.1 },
        3 => What::BlockDevice { major: device.0, minor: device.1 },
        4 => What::Fifo,
        5 => What::Socket,
        6 => What::File(Content::Inline(dice.bytes(256))),
        7 => What::File(Content::Inline(Box::default())),
        8 => What::File(Content::Tree { len: 1 + dice.below(1 << 50), root: dice.id() }),
        9 => What::File(Content::Pieces((0..=dice.below(16)).map(|_| piece(dice)).collect())),
        _ => What::File(Content::One { len: 1 + dice.below(CHUNK_LEN_MAX as u64), chunk: dice.id() }),
    }
}

fn entry(name: &[u8], dice: &mut Dice) -> Entry {
    let what = what(dice);
    let xattrs = if dice.one_in(4) { 1 + dice.below(3) } else { 0 };
    let link = (dice.one_in(4) && !matches!(what, What::Directory(_)))
        .then(|| LinkId { device: dice.below(2), inode: dice.next() });
    let meta = Metadata {
        mode: dice.below(0o10000) as u32,
        user: owner(dice),
        group: owner(dice),
        mtime: time(dice),
        atime: dice.one_in(4).then(|| time(dice)),
        xattrs: (0..xattrs)
            .map(|n| Xattr { name: format!("user.{n}").into_bytes().into(), value: dice.bytes(40) })
            .collect(),
        link,
    };
    Entry { name: name.into(), meta, what }
}

fn entries(count: u64, dice: &mut Dice) -> Vec<Entry> {
    (0..count).map(|n| entry(format!("f{n:06}{}", "x".repeat(dice.below(20) as usize)).as_bytes(), dice)).collect()
}

fn snapshot(dice: &mut Dice) -> Snapshot {
    Snapshot {
        tree: dice.id(),
        time: Time(dice.next() as i64),
        started: Time(dice.next() as i64),
        host: dice.text(),
        user: dice.text(),
        paths: (0..dice.below(4)).map(|_| dice.bytes(30).into_vec()).collect(),
        tags: dice.texts(),
        parent: dice.one_in(2).then(|| dice.id()),
        program: dice.text(),
        session: SessionId([dice.next() as u8; 16]),
        partial: dice.one_in(2),
        totals: Totals { files: dice.next(), dirs: dice.next(), others: 0, bytes: dice.next(), errors: dice.below(2) },
        command: dice.texts(),
        excludes: dice.texts(),
    }
}

fn inner_dirs(count: u64, dice: &mut Dice) -> Vec<InnerDir> {
    let name = |n: u64, end: &str| format!("f{n:06}{end}").into_bytes().into();
    (0..count)
        .map(|n| match dice.below(2) {
            0 => InnerDir { first_name: name(n, ""), last_name: name(n, ""), entries: 1, node: dice.id() },
            more => InnerDir { first_name: name(n, "a"), last_name: name(n, "b"), entries: 1 + more, node: dice.id() },
        })
        .collect()
}

fn node(dice: &mut Dice) -> Node {
    let count = 1 + dice.below(40);
    match dice.below(6) {
        0 | 1 => Node::Directory(DirectoryNode::Entries(entries(count - 1, dice))),
        2 => Node::Directory(DirectoryNode::Inner(inner_dirs(count, dice))),
        3 => Node::File(FileNode::Pieces((1..count).map(|_| piece(dice)).collect())),
        4 => Node::File(FileNode::Inner(
            (0..count).map(|_| InnerFile { len: 1 + dice.below(1 << 40), node: dice.id() }).collect(),
        )),
        _ => Node::Snapshot(Box::new(snapshot(dice))),
    }
}

fn is_canonical(payload: &[u8]) -> bool {
    let mut words = capnp::Word::allocate_zeroed_vec(payload.len() / 8);
    capnp::Word::words_to_bytes_mut(&mut words).copy_from_slice(payload);
    let segments = [capnp::Word::words_to_bytes(&words)];
    let segments = capnp::message::SegmentArray::new(&segments);
    capnp::message::Reader::new(segments, Default::default()).is_canonical().unwrap()
}

fn check_round_trip(node: &Node) -> EncodedBranch {
    let branch = node.encode().unwrap();
    assert!(is_canonical(&branch.payload), "{node:?}");
    let back = decode(&branch.refs, &branch.payload).unwrap();
    assert_eq!(back, *node);
    assert_eq!(back.encode().unwrap(), branch);
    let mut refs = branch.refs.clone();
    refs.sort_unstable();
    refs.dedup();
    assert_eq!(refs.len(), branch.refs.len(), "a reference twice");
    branch
}

#[test]
fn values_come_back_and_bytes_are_canonical() {
    let mut dice = Dice::printed();
    for _ in 0..2000 {
        check_round_trip(&node(&mut dice));
    }
    let full = entries(LIST_ENTRIES_MAX as u64, &mut dice);
    check_round_trip(&Node::Directory(DirectoryNode::Entries(full)));
    let empty = check_round_trip(&Node::Directory(DirectoryNode::Entries(Vec::new())));
    assert_eq!((empty.refs.len(), empty.payload.len()), (0, 16));
}

#[test]
fn payload_may_lie_at_any_address() {
    let branch = encode_entries(&entries(5, &mut Dice(1))).unwrap();
    for shift in 0..8 {
        let moved = [vec![0; shift], branch.payload.clone()].concat();
        decode(&branch.refs, &moved[shift..]).unwrap();
    }
}

#[test]
fn each_estimate_is_an_upper_bound() {
    let mut dice = Dice::printed();
    for _ in 0..300 {
        let list = entries(1 + dice.below(20), &mut dice);
        let estimate: usize = list.iter().map(super::encode::entry_len).sum();
        assert!(encode_entries(&list).unwrap().payload.len() <= estimate + 64);
        let list = inner_dirs(1 + dice.below(20), &mut dice);
        let estimate: usize = list.iter().map(super::encode::inner_dir_len).sum();
        assert!(encode_directory_inner(&list).unwrap().payload.len() <= estimate + 64);
    }
}

/// What is read without an error can be written and means the same: all rules were checked.
fn check_hostile(refs: &[ChunkId], payload: &[u8]) {
    if let Ok(node) = decode(refs, payload) {
        let branch = decode_any(refs, payload).unwrap();
        assert_eq!(decode(&branch.refs, &branch.payload).unwrap(), node);
    }
}

#[test]
fn damaged_bytes_are_an_error_or_a_valid_value() {
    let mut dice = Dice::printed();
    for _ in 0..60 {
        let EncodedBranch { refs, mut payload } = node(&mut dice).encode().unwrap();
        let cut = &payload[..payload.len() - 8];
        assert!(decode(&refs, cut).is_err() || cut.is_empty());
        for len in 0..payload.len().min(400) {
            check_hostile(&refs, &payload[..len]);
        }
        for at in 0..payload.len().min(600) {
            let was = payload[at];
            for flip in [0x01, 0x80, 0xff, dice.next() as u8] {
                payload[at] = was ^ flip;
                check_hostile(&refs, &payload);
            }
            payload[at] = was;
        }
        check_hostile(&[], &payload);
    }
    for _ in 0..20_000 {
        check_hostile(&[dice.id()], &dice.bytes(80));
    }
}

#[test]
fn missing_references_and_long_inputs_are_refused() {
    let branch = encode_entries(&[Entry {
        name: (*b"a").into(),
        meta: Metadata::default(),
        what: What::Directory(ChunkId([1; 32])),
    }])
    .unwrap();
    assert!(matches!(decode(&[], &branch.payload), Err(BranchError::Position { position: 0, refs: 0 })));
    let many = vec![ChunkId([0; 32]); BRANCH_REFS_MAX + 1];
    assert!(matches!(decode(&many, &branch.payload), Err(BranchError::TooLong { .. })));
    assert!(matches!(decode(&[], &vec![0; CHUNK_LEN_MAX + 8]), Err(BranchError::TooLong { .. })));
    assert!(matches!(decode(&[], &[]), Err(BranchError::Message(_))));
    assert!(matches!(decode(&[], &[0; 9]), Err(BranchError::Message(_))));
    assert!(matches!(decode(&[], &[0; 16]), Err(BranchError::Invalid { rule: "a branch must say what it is", .. })));
}

/// Sets what is wrong with an entry.
type Forge = fn(twinkeep_schema::tree_capnp::entry::Builder<'_>);

/// Encodes entries that the encoder itself would refuse, in order to show them to the decoder.
fn forge(list: &[(&[u8], Forge)]) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let mut root = message.init_root::<twinkeep_schema::tree_capnp::node::Builder<'_>>().init_directory();
    root.reborrow().init_owners(1);
    let mut to = root.init_entries(list.len() as u32);
    for (at, (name, change)) in list.iter().enumerate() {
        let mut to = to.reborrow().get(at as u32);
        to.set_name(name);
        to.set_fifo(());
        change(to);
    }
    message.get_segments_for_output().concat()
}

#[test]
fn forged_entries_are_refused() {
    let refs = [ChunkId([1; 32])];
    let check = |list: &[(&[u8], Forge)], expected: &str| {
        let error = decode(&refs, &forge(list)).map(|node| node.kind()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} is not {expected}");
    };
    decode(&refs, &forge(&[(b"a", |_| ()), (b"b", |_| ())])).unwrap();
    check(&[(b"b", |_| ()), (b"a", |_| ())], "names must ascend");
    check(&[(b"a", |_| ()), (b"a", |_| ())], "names must ascend");
    check(&[(b"", |_| ())], "names must ascend");
    for name in [&b".."[..], b".", b"a/b", b"/", b"a\0", &[b'x'; 1025]] {
        check(&[(name, |_| ())], "plain path component");
    }
    check(&[(b"a", |mut e| e.set_mode(0o10000))], "mode");
    check(&[(b"a", |mut e| e.set_mtime_nanos(1_000_000_000))], "nanoseconds");
    check(&[(b"a", |e| late(e.init_extra()))], "nanoseconds");
    check(&[(b"a", |mut e| e.set_user_owner(1))], "owner");
    check(&[(b"a", |mut e| e.set_directory(1))], "child 1 of 1");
    check(&[(b"a", |mut e| e.set_symlink(b""))], "link");
    check(&[(b"a", |mut e| e.set_symlink(b"a\0"))], "NUL");
    check(&[(b"a", |mut e| e.set_inline(&[0; 257]))], "too long");
    check(&[(b"a", |e| e.init_one().set_len(0))], "length");
    check(&[(b"a", |e| e.init_one().set_len(u64::MAX))], "length");
    check(&[(b"a", |e| e.init_tree().set_len(u64::MAX))], "length");
    check(&[(b"a", |e| holes(e, 0))], "pieces");
    check(&[(b"a", |e| holes(e, 17))], "over the limit");
    check(&[(b"a", |e| holes(e, 2))], "hole");
    check(&[(b"a", |e| sparse(e, [1 << 62, 1 << 62]))], "length is out of range");
    check(&[(b"a", |e| sparse(e, [u64::MAX, u64::MAX]))], "length is out of range");
    check(&[(b"a", |e| attributes(e, [b"user.b", b"user.a"]))], "ascend");
    check(&[(b"a", |e| attributes(e, [b"user.a", b"user.a"]))], "ascend");
    check(&[(b"a", |e| attributes(e, [b"", b"user.a"]))], "ascend");
    check(
        &[(b"a", |mut e| {
            e.reborrow().init_extra().set_has_link(true);
            e.set_directory(0)
        })],
        "one name only",
    );
}

fn late(mut extra: twinkeep_schema::tree_capnp::extra::Builder<'_>) {
    extra.set_has_atime(true);
    extra.set_atime_nanos(u32::MAX);
}

fn holes(entry: twinkeep_schema::tree_capnp::entry::Builder<'_>, count: u32) {
    entry.init_pieces(count);
}

fn sparse(entry: twinkeep_schema::tree_capnp::entry::Builder<'_>, lens: [u64; 2]) {
    let mut list = entry.init_pieces(2);
    for (at, len) in lens.into_iter().enumerate() {
        list.reborrow().get(at as u32).set_len(len);
    }
}

fn attributes(entry: twinkeep_schema::tree_capnp::entry::Builder<'_>, names: [&[u8]; 2]) {
    let mut list = entry.init_extra().init_xattrs(2);
    for (at, name) in names.into_iter().enumerate() {
        list.reborrow().get(at as u32).set_name(name);
    }
}

#[test]
fn claims_without_bytes_are_refused() {
    // Root struct of one word and two pointers, then a list that claims 2^29 - 1 elements of several sizes.
    for size in 0..8u64 {
        for tag in 1..7u64 {
            let list = 1 | size << 32 | 0x1fff_ffff << 35;
            let words = [0x0002_0001_0000_0000, tag, list, list, 0x7fff_fffc, 0];
            let payload: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
            assert!(decode(&[], &payload).is_err(), "size {size} tag {tag}");
        }
    }
}

/// These bytes are in vaults: when this fails, the format has changed and needs a new version.
#[test]
fn bytes_are_the_ones_of_version_1() {
    let words = |branch: EncodedBranch| -> Vec<String> {
        branch.payload.chunks(8).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
    };
    let meta = Metadata { mode: 0o644, mtime: FileTime { secs: 5, nanos: 6 }, ..Metadata::default() };
    let inline = What::File(Content::Inline((*b"hi").into()));
    let root = Owner { id: 0, name: Arc::from(&b"root"[..]) };
    let list = [
        Entry { name: (*b"a").into(), meta: Metadata { user: root, ..meta.clone() }, what: inline },
        Entry { name: (*b"b").into(), meta, what: What::File(Content::One { len: 1000, chunk: ChunkId([1; 32]) }) },
    ];
    assert_eq!(words(encode_entries(&list).unwrap()), EXPECTED_ENTRIES);
    assert_eq!(words(encode_entries(&[]).unwrap()), ["0000000001000000", "0100000000000000"]);
    let pieces = [Piece { len: 9, chunk: None }, Piece { len: 7, chunk: Some(ChunkId([1; 32])) }];
    assert_eq!(words(encode_pieces(&pieces).unwrap()), EXPECTED_PIECES);
    let empty = Snapshot {
        tree: ChunkId([1; 32]),
        time: Time(2),
        started: Time(1),
        host: "h".into(),
        user: String::new(),
        paths: vec![b"/p".to_vec()],
        tags: vec!["t".into()],
        parent: None,
        program: "twinkeep 1".into(),
        session: SessionId([9; 16]),
        partial: true,
        totals: Totals { files: 1, dirs: 2, others: 3, bytes: 4, errors: 5 },
        command: Vec::new(),
        excludes: Vec::new(),
    };
    assert_eq!(words(encode_snapshot(&empty).unwrap()), EXPECTED_SNAPSHOT);
}

#[rustfmt::skip]
const EXPECTED_ENTRIES: [&str; 24] = [
    "0000000001000200", "0100000000000000", "0500000017000000", "1100000067000000", "0800000000000100",
    "0500000022000000", "0000000000000000", "726f6f7400000000", "0800000004000200", "a401000001000100",
    "0500000000000000", "0600000000000000", "0000000000000000", "1d0000000a000000", "1d00000012000000",
    "a401010001000200", "0500000000000000", "0600000000000000", "e803000000000000", "0d0000000a000000",
    "0000000000000000", "6100000000000000", "6869000000000000", "6200000000000000",
];
#[rustfmt::skip]
const EXPECTED_PIECES: [&str; 8] = [
    "0000000001000100", "0300000000000000", "0100000027000000", "0800000002000000", "0900000000000000",
    "0000000000000000", "0700000000000000", "0100000000000000",
];
#[rustfmt::skip]
const EXPECTED_SNAPSHOT: [&str; 31] = [
    "0000000001000100", "0500000000000000", "0000000003000a00", "0000000001000000", "0200000000000000",
    "0100000000000000", "2500000082000000", "0000000000000000", "2500000012000000", "250000000a000000",
    "250000005a000000", "290000000e000000", "2d0000000e000000", "3100000006000000", "2d00000006000000",
    "2800000005000000", "0909090909090909", "0909090909090909", "6800000000000000", "0000000000000000",
    "7477696e6b656570", "2031000000000000", "0100000012000000", "2f70000000000000", "0100000012000000",
    "7400000000000000", "0100000000000000", "0200000000000000", "0300000000000000", "0400000000000000",
    "0500000000000000",
];

#[test]
fn speed_is_printed() {
    let plain = |n: u64| Entry {
        name: format!("some_source_file_{n:03}.c").into_bytes().into(),
        meta: Metadata {
            mode: 0o644,
            user: Owner { id: 1000, name: Arc::from(&b"anna"[..]) },
            group: Owner { id: 1000, name: Arc::from(&b"users"[..]) },
            mtime: FileTime { secs: 1_700_000_000 + n as i64, nanos: 123 },
            ..Metadata::default()
        },
        what: What::File(Content::One { len: 10_000, chunk: Dice(n).id() }),
    };
    let list: Vec<_> = (0..60).map(plain).collect();
    let branch = encode_entries(&list).unwrap();
    let rounds = 2000;
    let start = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(encode_entries(std::hint::black_box(&list)).unwrap());
    }
    let encode = start.elapsed();
    let start = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(decode(&branch.refs, std::hint::black_box(&branch.payload)).unwrap());
    }
    let each = |time: std::time::Duration| time.as_nanos() / (rounds * 60);
    println!("encode {} ns, decode {} ns an entry", each(encode), each(start.elapsed()));
    println!("{} B payload and {} B references an entry", branch.payload.len() / 60, branch.refs.len() * 32 / 60);
}
