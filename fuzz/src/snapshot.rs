//! Roots of snapshots: payloads as they are, and snapshots made of the input.

use twinkeep_engine::branch::{Node, Snapshot, Totals, decode, decode_any};
use twinkeep_engine::env::Time;
use twinkeep_engine::id::{ChunkId, SessionId};

use crate::branch::{check_stable, one_seed};
use crate::input::{Input, short};

/// One reference, then a payload.
pub const PAYLOAD: u8 = 0;

/// Decodes a snapshot, or makes one.
pub fn body(data: &[u8]) {
    let mut input = Input(data);
    if input.u8() % 2 != PAYLOAD {
        return values(input);
    }
    let refs: Vec<_> = input.short().iter().map(|byte| ChunkId([*byte; 32])).collect();
    if let Ok(Node::Snapshot(snapshot)) = decode(&refs, input.rest()) {
        assert!(refs.contains(&snapshot.tree));
    }
    if let Some(encoded) = decode_any(&refs, input.rest()) {
        check_stable(&encoded);
    }
}

fn values(mut input: Input<'_>) {
    let choices = input.u8();
    let snapshot = Snapshot {
        tree: ChunkId(input.array()),
        time: Time(input.u64() as i64),
        started: Time(input.u64() as i64),
        host: input.text(),
        user: input.text(),
        paths: (0..choices % 4).map(|_| input.short().to_vec()).collect(),
        tags: (0..choices / 4 % 4).map(|_| input.text()).collect(),
        parent: (choices & 128 != 0).then(|| ChunkId(input.array())),
        program: input.text(),
        session: SessionId(input.array()),
        partial: choices & 64 != 0,
        totals: Totals {
            files: input.u64(),
            dirs: input.u64(),
            others: input.u64(),
            bytes: input.u64(),
            errors: input.u64(),
        },
        command: (0..choices / 16 % 4).map(|_| input.text()).collect(),
        excludes: vec![input.text()],
    };
    let node = Node::Snapshot(Box::new(snapshot));
    let encoded = node.encode().expect("a small snapshot encodes");
    assert_eq!(decode(&encoded.refs, &encoded.payload).expect("what we encode decodes"), node);
    check_stable(&encoded);
}

fn some() -> Snapshot {
    Snapshot {
        tree: ChunkId([1; 32]),
        time: Time(1_700_000_000_000_000_000),
        started: Time(1_699_999_000_000_000_000),
        host: "büro-7".into(),
        user: "ann".into(),
        paths: vec![b"/home/ann".to_vec(), b"/srv/\xff".to_vec()],
        tags: vec!["daily".into()],
        parent: Some(ChunkId([2; 32])),
        program: "twinkeep 0.1.0".into(),
        session: SessionId([5; 16]),
        partial: false,
        totals: Totals { files: 10, dirs: 2, others: 1, bytes: 1 << 40, errors: 0 },
        command: vec!["backup".into(), "/home/ann".into()],
        excludes: vec!["*.tmp".into(), "!keep.tmp".into()],
    }
}

/// Snapshots full and bare, and payloads that are none.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let full = one_seed(&Node::Snapshot(Box::new(some())));
    let bare = Snapshot {
        host: String::new(),
        user: String::new(),
        paths: Vec::new(),
        tags: Vec::new(),
        parent: None,
        program: String::new(),
        totals: Totals::default(),
        command: Vec::new(),
        excludes: Vec::new(),
        partial: true,
        ..some()
    };
    let mut not_text = full.clone();
    let at = not_text.windows(3).position(|part| part == b"ann").expect("the user's name stands there");
    not_text[at..at + 3].fill(0xff);
    let values = [&[1, 0xff][..], &[3; 48], &short(b"host"), &short(b"\xff\0")].concat();
    vec![
        ("full".into(), full.clone()),
        ("bare".into(), one_seed(&Node::Snapshot(Box::new(bare)))),
        ("no-refs".into(), [&[PAYLOAD, 0][..], &full[3..]].concat()),
        ("cut".into(), full[..full.len() - 8].to_vec()),
        ("not-text".into(), not_text),
        ("values".into(), values),
        ("values-none".into(), vec![1]),
    ]
}
