//! Records and the refs in them.
//!
//! An input is one byte and a record file as it is, a file whose checksum is put right, or a payload that is put into
//! a record of our own.

use twinkeep_engine::env::Time;
use twinkeep_engine::id::{ChunkId, DeviceId, SessionId};
use twinkeep_engine::limits::RECORD_LEN_MAX;
use twinkeep_engine::record::{
    ChangeKind, ChangeRecord, Level, RECORD_OVERHEAD, Record, RecordKind, RefKind, RefRecord,
};

use crate::keys::{self, SESSION, VAULT};

/// A file as it is.
pub const FILE: u8 = 0;
/// A file, its checksum put right.
pub const SUMMED: u8 = 1;
/// A payload.
pub const PAYLOAD: u8 = 2;

/// Parses a record, and what it may hold.
pub fn body(data: &[u8]) {
    let bytes = file(data, RecordKind::Ref);
    let Ok(parsed) = Record::parse(&bytes) else { return };
    let record = parsed.record.clone();
    assert_eq!(record.payload.len() + RECORD_OVERHEAD, bytes.len());
    if let Ok(verified) = parsed.verify_mac(&mac) {
        assert_eq!(verified.encode(&mac), bytes, "a record of ours is written in one way only");
    }
    let again = Record::parse(&record.encode(&mac)).expect("what we encode parses");
    assert_eq!(again.record, record);
    if let Ok(reference) = RefRecord::decode(&record.payload) {
        let payload = reference.encode();
        assert!(payload.len() <= record.payload.len());
        assert_eq!(RefRecord::decode(&payload), Ok(reference));
    }
    if let Ok(change) = ChangeRecord::decode(&record.payload) {
        let payload = change.encode();
        assert!(payload.len() <= record.payload.len());
        assert_eq!(ChangeRecord::decode(&payload), Ok(change));
    }
}

/// The vault's MAC.
pub fn mac(bytes: &[u8]) -> [u8; 32] {
    keys::keys().record_mac(bytes)
}

/// The record file an input stands for.
pub fn file(data: &[u8], kind: RecordKind) -> Vec<u8> {
    let Some((mode, bytes)) = data.split_first() else { return Vec::new() };
    match mode % 3 {
        FILE => bytes.to_vec(),
        SUMMED => {
            let mut bytes = bytes.to_vec();
            if let Some(at) = bytes.len().checked_sub(32) {
                let check = *blake3::hash(&bytes[..at]).as_bytes();
                bytes[at..].copy_from_slice(&check);
            }
            bytes
        }
        _ => {
            let payload = bytes[..bytes.len().min(RECORD_LEN_MAX - RECORD_OVERHEAD)].to_vec();
            of(kind, payload)
        }
    }
}

fn of(kind: RecordKind, payload: Vec<u8>) -> Vec<u8> {
    Record { kind, vault: VAULT, count: 3, received: Time(-1), previous: [8; 32], payload }.encode(&mac)
}

/// A file and its parts as inputs: whole, cut, summed anew after a change, and its payload alone.
pub fn seeds_of(name: &str, file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let with = |mode: u8, bytes: &[u8]| [&[mode][..], bytes].concat();
    let changed = |at: usize, byte: u8| {
        let mut bytes = file.to_vec();
        bytes[at] = byte;
        with(SUMMED, &bytes)
    };
    let payload = &file[76..file.len() - 64];
    vec![
        (format!("{name}-file"), with(FILE, file)),
        (format!("{name}-cut"), with(FILE, &file[..file.len() - 1])),
        (format!("{name}-summed"), with(SUMMED, file)),
        (format!("{name}-version"), changed(4, 2)),
        (format!("{name}-kind"), changed(6, 9)),
        (format!("{name}-flags"), changed(7, 1)),
        (format!("{name}-len"), changed(75, 0xff)),
        (format!("{name}-mac"), changed(file.len() - 40, 0)),
        (format!("{name}-payload"), with(PAYLOAD, payload)),
        (format!("{name}-payload-cut"), with(PAYLOAD, &payload[..payload.len() - 8])),
        (format!("{name}-payload-longer"), with(PAYLOAD, &[payload, &[0; 8]].concat())),
    ]
}

/// Refs of either kind, and records that hold something else.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let snapshot = RefRecord {
        kind: RefKind::Snapshot,
        target: ChunkId([1; 32]),
        session: SESSION,
        level: Level::P0,
        session_started: Time(1_700_000_000_000_000_000),
        device: None,
    };
    let partial =
        RefRecord { kind: RefKind::PartialSnapshot, level: Level::P2, session: SessionId([0; 16]), ..snapshot.clone() };
    let mut seeds = seeds_of("snapshot", &of(RecordKind::Ref, snapshot.encode()));
    seeds.extend(seeds_of("partial", &of(RecordKind::Ref, partial.encode())));
    let tags = ChangeKind::Tag { add: vec!["new".into()], remove: vec!["old".into(), String::new()] };
    for (name, kind) in [("forget", ChangeKind::Forget { undelete_days: 7 }), ("tag", tags)] {
        let change = ChangeRecord { records: vec![1, 2], note: "why".into(), kind };
        seeds.extend(seeds_of(name, &of(RecordKind::Change, change.encode())));
    }
    let by_device = RefRecord { device: Some(DeviceId([9; 8])), ..snapshot };
    seeds.extend(seeds_of("device", &of(RecordKind::Ref, by_device.encode())));
    seeds.push(("nothing".into(), [&[FILE][..], &of(RecordKind::Config, Vec::new())].concat()));
    seeds.push(("payload-null".into(), [&[PAYLOAD][..], &[0; 8]].concat()));
    seeds
}
