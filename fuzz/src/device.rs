//! Device key files.
//!
//! An input is one byte and a file, or with [`SUMMED`] the part of a file before its checksum, which is put behind it.

use twinkeep_engine::id::DeviceId;
use twinkeep_engine::vault::DeviceKey;

use crate::keys;

/// The checksum is put behind it.
pub const SUMMED: u8 = 1;

/// Parses a device key.
pub fn body(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if mode & SUMMED != 0 {
        let sum = *blake3::hash(&bytes).as_bytes();
        bytes.extend_from_slice(&sum);
    }
    if let Ok(key) = DeviceKey::parse(&bytes) {
        assert_eq!(*key.encode(), bytes, "a device key is written in one way only");
    }
}

/// The file before its checksum.
fn unsummed() -> Vec<u8> {
    let share = keys::keys().share(DeviceId([4; 8])).expect("a member's keys");
    let mut bytes = b"TKDV\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&share.vault.0);
    bytes.extend_from_slice(&share.id.0);
    for key in [&share.leaf, &share.branch, &share.list, &share.gear, &share.record] {
        bytes.extend_from_slice(&**key);
    }
    bytes.extend_from_slice(&share.public.0);
    bytes.extend_from_slice(&share.generation.to_le_bytes());
    bytes.extend_from_slice(&[1, 3]);
    for len in [65_536_u32, 262_144, 1_048_576] {
        bytes.extend_from_slice(&len.to_le_bytes());
    }
    bytes.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&1_700_000_000_000_000_000_i64.to_le_bytes());
    bytes
}

/// A good one, one whose checksum is missing, and ones with odd fields.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let body = unsummed();
    let whole = [&body[..], blake3::hash(&body).as_bytes()].concat();
    DeviceKey::parse(&whole).expect("this is a device key");
    let with = |mode: u8, bytes: &[u8]| [&[mode][..], bytes].concat();
    let changed = |at: usize, byte: u8| {
        let mut bytes = body.clone();
        bytes[at] = byte;
        with(SUMMED, &bytes)
    };
    let no_point = [&body[..192], &[0; 32], &body[224..]].concat();
    vec![
        ("whole".into(), with(0, &whole)),
        ("summed".into(), with(SUMMED, &body)),
        ("cut".into(), with(0, &whole[..whole.len() - 1])),
        ("version".into(), changed(4, 2)),
        ("suite".into(), changed(226, 0)),
        ("cutter".into(), changed(232, 1)),
        ("no-point".into(), with(SUMMED, &no_point)),
        ("nothing".into(), vec![0]),
    ]
}
