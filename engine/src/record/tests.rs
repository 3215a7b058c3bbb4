use super::*;
use crate::id::{ChunkId, DeviceId, SessionId};

fn mac(bytes: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(&[3; 32], bytes).as_bytes()
}

fn record(payload: &[u8]) -> Record {
    Record {
        kind: RecordKind::Ref,
        vault: VaultId([1; 16]),
        count: 7,
        received: Time(-5),
        previous: [2; 32],
        payload: payload.to_vec(),
    }
}

/// The file with a new checksum: what a careful forger writes.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 32;
    let sum = hash(&bytes[..body]);
    bytes[body..].copy_from_slice(&sum);
    bytes
}

#[test]
fn round_trips() {
    for payload in [&b""[..], b"x", &vec![9; RECORD_LEN_MAX - RECORD_OVERHEAD]] {
        let record = record(payload);
        let bytes = record.encode(&mac);
        assert_eq!(bytes.len(), payload.len() + RECORD_OVERHEAD);
        assert_eq!(Record::parse(&bytes).unwrap().verify_mac(&mac), Ok(record));
    }
    for byte in 0..=255 {
        assert!(RecordKind::from_byte(byte).is_none_or(|kind| kind as u8 == byte));
    }
}

#[test]
fn the_file_is_format() {
    let bytes = record(b"twinkeep").encode(&mac);
    let mut expected = b"TKRC\x01\x00\x03\x00".to_vec();
    expected.extend([1; 16]);
    expected.extend([7, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([251, 255, 255, 255, 255, 255, 255, 255]);
    expected.extend([2; 32]);
    expected.extend([8, 0, 0, 0]);
    expected.extend(b"twinkeep");
    expected.extend(mac(&expected.clone()));
    expected.extend(hash(&expected.clone()));
    assert_eq!(bytes, expected);
}

#[test]
fn every_change_is_found() {
    let good = record(b"payload").encode(&mac);
    for place in 0..good.len() {
        for flip in [1, 0x80] {
            let mut bad = good.clone();
            bad[place] ^= flip;
            assert!(Record::parse(&bad).is_err(), "byte {place}");
            // With a new checksum it is whole, and only the MAC tells.
            let forged = summed(bad);
            match Record::parse(&forged) {
                Ok(parsed) if place < good.len() - 32 => {
                    assert!(matches!(parsed.verify_mac(&mac), Err(RecordError::Forged { .. })), "byte {place}");
                }
                Ok(parsed) => assert!(parsed.verify_mac(&mac).is_ok(), "the checksum was only made right again"),
                Err(_) => {}
            }
        }
        assert!(Record::parse(&good[..place]).is_err(), "cut at {place}");
        if place >= RECORD_OVERHEAD {
            assert!(Record::parse(&summed(good[..place].to_vec())).is_err(), "cut at {place}, summed");
        }
    }
    assert!(Record::parse(&[&good[..], b"x"].concat()).is_err());
    assert_eq!(
        Record::parse(&vec![0; RECORD_LEN_MAX + 1]),
        Err(RecordError::Length { expected: RECORD_LEN_MAX, found: RECORD_LEN_MAX + 1 })
    );
}

#[test]
fn says_what_is_unknown_or_misplaced() {
    let good = record(b"payload").encode(&mac);
    let check = |place: usize, byte: u8, expected: &str| {
        let mut bad = good.clone();
        bad[place] = byte;
        assert_eq!(Record::parse(&summed(bad)).unwrap_err().to_string(), expected);
    };
    check(0, b'X', "record begins with [58, 4b, 52, 43], expected \"TKRC\"");
    check(4, 2, "record has version 2, this version reads 1");
    check(6, 9, "record has kind 9, this version reads 1 to 4");
    check(7, 1, "record has flags 1, this version reads 0");
    check(72, 8, "record has 147 bytes, expected 148");
    check(75, 255, "record has 147 bytes, expected 4278190227");

    let record = record(b"");
    assert_eq!(record.expect(RecordKind::Ref, VaultId([1; 16])), Ok(()));
    assert!(record.expect(RecordKind::Config, VaultId([1; 16])).is_err());
    assert!(record.expect(RecordKind::Ref, VaultId([2; 16])).is_err());
}

fn a_ref() -> RefRecord {
    RefRecord {
        kind: RefKind::PartialSnapshot,
        target: ChunkId([4; 32]),
        session: SessionId([5; 16]),
        level: Level::P1,
        session_started: Time(-1),
        device: None,
    }
}

#[test]
fn refs_round_trip() {
    for kind in [RefKind::Snapshot, RefKind::PartialSnapshot] {
        for level in [Level::P0, Level::P1, Level::P2] {
            for session_started in [Time(0), Time(i64::MIN), Time(i64::MAX)] {
                for device in [None, Some(DeviceId([6; 8]))] {
                    let value = RefRecord { kind, level, session_started, device, ..a_ref() };
                    assert_eq!(RefRecord::decode(&value.encode()), Ok(value));
                }
            }
        }
    }
}

#[test]
fn refs_are_read_only_in_one_form() {
    let good = a_ref().encode();
    let mut read = 0;
    for place in 0..good.len() {
        assert!(RefRecord::decode(&good[..place]).is_err(), "cut at {place}");
        for bit in 0..8 {
            let mut other = good.clone();
            other[place] ^= 1 << bit;
            // A changed value is another value (the record around it has a MAC); a changed shape is refused.
            if let Ok(value) = RefRecord::decode(&other) {
                // Bytes 11 to 15 wait for fields of later versions and are read over.
                assert!((11..16).contains(&place) || value.encode() == other, "byte {place}");
                read += 1;
            }
        }
    }
    assert!(read >= 8 * (32 + 16 + 8), "{read}");
    assert!(RefRecord::decode(&[&good[..], &[0; 8]].concat()).is_err());
    assert!(RefRecord::decode(&[0; 8]).is_err());
    assert!(RefRecord::decode(&[0xff; 64]).is_err());
}
