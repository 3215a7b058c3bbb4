use twinkeep_engine::files::memory::MemoryFiles;

use super::*;
use crate::tracker::event::{AuditKind, EVENT_LEN_MAX};
use crate::tracker::names::{AccountId, NodeKey};
use crate::tracker::sign::SIGNATURE_LEN;

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn note(text: &str) -> Event {
    Event::Audit { kind: AuditKind::Other, account: None, node: None, text: text.to_owned() }
}

fn actor(number: u64) -> Actor {
    match number % 3 {
        0 => Actor::Host,
        1 => Actor::Node(NodeKey([number as u8; 32])),
        _ => Actor::Account(AccountId([number as u8; 16])),
    }
}

/// A log of `count` entries.
fn written(count: u64) -> (MemoryFiles, Vec<Entry>) {
    let files = MemoryFiles::new();
    let mut log = Log::create(Arc::new(files.clone()), key().authority()).unwrap();
    let mut entries = Vec::new();
    for number in 1..=count {
        let entry = log.next(1 + number / 3, Time(number as i64 - 2), actor(number), note(&format!("note {number}")));
        log.append(&entry, &key()).unwrap();
        entries.push(entry);
    }
    (files, entries)
}

fn open(files: &MemoryFiles) -> Result<(Log, Vec<Entry>), LogError> {
    let mut entries = Vec::new();
    let log = Log::open(Arc::new(files.copy()), key().authority(), |entry: &Entry| -> Result<(), LogError> {
        entries.push(entry.clone());
        Ok(())
    })?;
    Ok((log, entries))
}

/// The error of a log after an edit of one of its files.
fn edited(count: u64, sequence: u64, edit: impl FnOnce(&mut Vec<u8>)) -> String {
    let (files, _) = written(count);
    assert!(files.damage(&path(sequence), edit));
    let error = open(&files).map(|_| ()).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| source.to_string()).unwrap_or_default();
    format!("{error} {source}")
}

#[test]
fn entries_come_back() {
    let (files, entries) = written(7);
    let (log, read) = open(&files).unwrap();
    assert_eq!(read, entries);
    assert_eq!((log.tip().generation, log.tip().sequence), (3, 7));
    assert_eq!(log.read(0, 100).unwrap(), entries);
    assert_eq!(log.read(3, 2).unwrap(), entries[2..4]);
    assert!(log.read(8, 5).unwrap().is_empty() && log.read(u64::MAX, usize::MAX).unwrap().is_empty());
    let again = Log::create(Arc::new(files), key().authority());
    assert!(matches!(again, Err(LogError::Exists { last: 7 })));
}

#[test]
fn the_bytes_are_format() {
    let (files, _) = written(5);
    let all: Vec<u8> = (1..=5).flat_map(|sequence| files.bytes(&path(sequence)).unwrap()).collect();
    assert_eq!(blake3::hash(&all).to_hex()[..32], *"1c77b64d619917f08763db5ac0d95db8");
}

#[test]
fn every_change_is_found_and_named() {
    let len = written(3).0.bytes(&path(2)).unwrap().len();
    for place in 0..len {
        for sequence in [2, 3] {
            let error = edited(3, sequence, |bytes| bytes[place] ^= 0x10);
            assert!(error.contains(&path(sequence)), "byte {place}: {error}");
        }
        let error = edited(3, 2, |bytes| bytes.truncate(place));
        assert!(error.contains(&path(2)), "cut at {place}: {error}");
    }
    assert!(edited(3, 2, |bytes| bytes.push(0)).contains(&path(2)));
    assert!(edited(3, 2, |bytes| bytes.resize(ENTRY_LEN_MAX + 1, 0)).contains("expected"));
}

#[test]
fn missing_exchanged_and_foreign_entries_are_found() {
    let (files, _) = written(5);
    for gone in 1..=4 {
        let files = files.copy();
        files.remove(&path(gone)).unwrap();
        let error = open(&files).map(|_| ()).unwrap_err();
        assert!(matches!(&error, LogError::Missing { path: found, last: 5 } if *found == path(gone)), "{error}");
    }
    // The valid entry of another place, and of another history of the same office.
    let second = files.bytes(&path(2)).unwrap();
    assert!(edited(5, 3, |bytes| *bytes = second).contains("sequence 2, expected 3"));
    let fork = {
        let files = MemoryFiles::new();
        let mut log = Log::create(Arc::new(files.clone()), key().authority()).unwrap();
        for text in ["other", "history", "here"] {
            let entry = log.next(9, Time(0), Actor::Host, note(text));
            log.append(&entry, &key()).unwrap();
        }
        files
    };
    let third = fork.bytes(&path(3)).unwrap();
    assert!(edited(5, 3, |bytes| *bytes = third).contains("hash of the entry before"));
    let other =
        Log::open(Arc::new(files.copy()), SigningKey::from_seed(&[8; 32]).authority(), |_| Ok::<_, LogError>(()));
    assert!(matches!(other, Err(LogError::Entry { source: EntryError::Signature { .. }, .. })));
    // No log, and an empty one.
    assert!(open(&MemoryFiles::new()).is_err());
    let empty = MemoryFiles::new();
    empty.create_dir(LOG_DIR).unwrap();
    assert!(matches!(open(&empty), Err(LogError::Missing { last: 1, .. })));
    // Names of no entry are passed over.
    let files = files.copy();
    for name in ["log/0000000000000006.tmp", "log/6", "log/000000000000000A", "log/notes"] {
        files.put(name, vec![1]);
    }
    assert_eq!(open(&files).unwrap().0.tip().sequence, 5);
}

#[test]
fn generations_never_fall() {
    let (files, _) = written(3);
    let (mut log, _) = open(&files).unwrap();
    let entry = log.next(1, Time(0), Actor::Host, note("old"));
    assert!(matches!(log.append(&entry, &key()), Err(LogError::Other { what: "generation", .. })));
    let entry = log.next(2, Time(0), Actor::Host, note("same"));
    log.append(&entry, &key()).unwrap();
    assert_eq!(log.tip().sequence, 4);
}

#[test]
fn a_follower_writes_the_same_bytes() {
    let (files, entries) = written(4);
    let copy = MemoryFiles::new();
    let mut log = Log::create(Arc::new(copy.clone()), key().authority()).unwrap();
    assert!(log.append_signed(&files.bytes(&path(2)).unwrap()).is_err(), "not the next");
    for sequence in 1..=4 {
        let bytes = files.bytes(&path(sequence)).unwrap();
        assert_eq!(log.append_signed(&bytes).unwrap(), entries[sequence as usize - 1]);
        assert_eq!(copy.bytes(&path(sequence)), Some(bytes));
    }
    assert!(log.append_signed(&[0; 10]).is_err());
    assert_eq!(log.tip(), open(&files).unwrap().0.tip());
}

#[test]
fn lengths_are_bounded() {
    let mut log = Log::create(Arc::new(MemoryFiles::new()), key().authority()).unwrap();
    let entry = log.next(1, Time(0), Actor::Host, note(&"x".repeat(5000)));
    assert!(matches!(log.append(&entry, &key()), Err(LogError::Entry { source: EntryError::Event(_), .. })));
    // Nothing was written, so nothing is uncertain.
    let entry = log.next(1, Time(0), Actor::Host, note("short"));
    log.append(&entry, &key()).unwrap();
    // Signed, and yet not to be read: the length it gives, its actor, its flags, its version.
    let good = entry.encode(&key()).unwrap();
    let resigned = |place: usize, value: u8| {
        let mut bytes = good[..good.len() - SIGNATURE_LEN].to_vec();
        bytes[place] = value;
        bytes.extend_from_slice(&key().sign(&bytes));
        Entry::parse(&bytes, &key().authority())
    };
    assert!(matches!(resigned(99, 0xff), Err(EntryError::Length { .. })));
    for (place, value, field) in
        [(4, 2, "version"), (6, 0, "actor"), (6, 4, "actor"), (7, 1, "flags"), (40, 1, "actor")]
    {
        let found = resigned(place, value);
        assert!(matches!(found, Err(EntryError::Unknown { what, .. }) if what == field), "{place} {found:?}");
    }
    const { assert!(ENTRY_LEN_MAX == 100 + EVENT_LEN_MAX + 64) };
}
