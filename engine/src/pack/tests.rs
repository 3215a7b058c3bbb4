//! Packs: names, headers, directories, and scanning what damage and enemies leave.

use super::*;
use crate::crypto::{DataKey, Salts, Suite, VaultKeys, WrappedKey};
use crate::env::{Dice, SeededEntropy};
use crate::files::{FilesError, ReadAt};
use crate::frame::{self, FrameBuilder, SealKeys, Sealer};
use crate::limits::FRAME_LEN_MAX;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const VAULT: VaultId = VaultId([7; 16]);
const NAME: PackName = PackName { session: SessionId([8; 16]), kind: Kind::Leaf, number: 0x2a };

/// Bytes as a file, some of them unreadable; counts what was read.
struct Bytes {
    bytes: Vec<u8>,
    unreadable: std::ops::Range<u64>,
    read: AtomicU64,
}

impl Bytes {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, unreadable: 0..0, read: AtomicU64::new(0) }
    }
}

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> crate::files::Result<usize> {
        let start = (offset as usize).min(self.bytes.len());
        let len = bytes.len().min(self.bytes.len() - start);
        if offset < self.unreadable.end && offset + len as u64 > self.unreadable.start {
            let source = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(FilesError { action: "read", path: "pack".into(), source });
        }
        bytes[..len].copy_from_slice(&self.bytes[start..start + len]);
        self.read.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }

    fn len(&self) -> crate::files::Result<u64> {
        Ok(self.bytes.len() as u64)
    }
}

struct Made {
    bytes: Vec<u8>,
    rows: Vec<FrameRow>,
    end: u64,
}

impl Made {
    fn complete(&self) -> Vec<u8> {
        [&self.bytes[..], &directory(self.end, &self.rows)].concat()
    }
}

/// A pack of `count` plain frames without its directory; a frame's content is `content` if that is given.
fn pack(count: usize, content: Option<&[u8]>) -> Made {
    let keys = VaultKeys::unencrypted(VAULT);
    let entropy = Arc::new(SeededEntropy::new(1));
    let data_key = Arc::new(DataKey::random(&*entropy));
    let wrapped = WrappedKey([0; 80]);
    let seal_keys =
        SealKeys { suite: Suite::Plain, data_key, wrapped, generation: 0, vault: VAULT, session: NAME.session };
    let mut sealer = Sealer::new(seal_keys, Salts::new(entropy), 1).unwrap();
    let mut dice = Dice(count as u64);
    let mut made = Made { bytes: header(VAULT, &NAME), rows: Vec::new(), end: HEADER_LEN };
    for _ in 0..count {
        let mut builder = FrameBuilder::new(Kind::Leaf);
        for _ in 0..1 + dice.below(3) {
            let mut chunk = vec![0; dice.below(3000)];
            dice.fill(&mut chunk);
            let chunk = content.map_or(chunk, <[u8]>::to_vec);
            builder.push(keys.leaf_id(&chunk), &[], &chunk);
        }
        let frame = sealer.seal(&mut builder);
        made.rows.push(FrameRow { offset: made.end, len: frame.bytes.len() as u32, id: frame.id });
        made.bytes.extend_from_slice(&frame.bytes);
        made.bytes.extend_from_slice(&frame.id.0);
        made.end = made.bytes.len() as u64;
    }
    made
}

#[derive(Default, Debug, PartialEq)]
struct Found {
    rows: Vec<FrameRow>,
    bad: Vec<(u64, u64)>,
    directory: Option<bool>,
}

fn scan(bytes: &Bytes, from: u64) -> Found {
    let mut scanner = Scanner::new(bytes, VAULT, from).unwrap();
    let (mut found, mut at) = (Found::default(), from.max(HEADER_LEN));
    while let Some(scanned) = scanner.next().unwrap() {
        match scanned {
            Scanned::Frame { row, header, .. } => {
                assert_eq!(row.offset, at);
                assert_eq!(frame::frame_id(scanner.frame_bytes()), row.id);
                assert_eq!(header.frame_len, row.len);
                at = row.offset + u64::from(row.len) + FRAME_NAME_LEN;
                found.rows.push(row);
            }
            Scanned::Bad { offset, len } => {
                assert!(offset == at && len > 0 && scanner.frame_bytes().is_empty());
                at += len;
                found.bad.push((offset, len));
            }
            Scanned::Directory { offset, matches } => {
                assert_eq!(offset, at);
                at = bytes.bytes.len() as u64;
                found.directory = Some(matches);
            }
        }
    }
    assert!(at >= bytes.bytes.len() as u64, "every byte is accounted for");
    found
}

#[test]
fn names_round_trip_and_nothing_else_is_one() {
    for name in [NAME, PackName { kind: Kind::Branch, number: u32::MAX, ..NAME }] {
        assert_eq!(PackName::from_file_name(&name.file_name()), Some(name));
    }
    let good = NAME.file_name();
    assert_eq!(good, "08080808080808080808080808080808-0000002a.leaf");
    let bad = [
        "".to_owned(),
        good.to_uppercase(),
        good.replace("2a", "2A"),
        good.replace("-0000002a", "-+000002a"),
        good.replace("-0000002a", "-2a"),
        good.replace("leaf", "twig"),
        format!("{good}.tmp"),
        format!(" {good}"),
        good.replace('-', "_"),
    ];
    for name in bad {
        assert_eq!(PackName::from_file_name(&name), None, "{name}");
    }
}

#[test]
fn a_header_is_of_one_pack_only() {
    let good = header(VAULT, &NAME);
    assert_eq!(good.len() as u64, HEADER_LEN);
    assert!(check_header(&Bytes::new(good.clone()), VAULT, &NAME).is_ok());
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert!(check_header(&Bytes::new(bytes), VAULT, &NAME).is_err());
        assert!(check_header(&Bytes::new(good[..at].to_vec()), VAULT, &NAME).is_err());
    }
    assert!(check_header(&Bytes::new(good.clone()), VaultId([1; 16]), &NAME).is_err());
    assert!(check_header(&Bytes::new(good), VAULT, &PackName { number: 1, ..NAME }).is_err());
}

#[test]
fn whole_packs_are_read_whole() {
    for count in [0, 1, 2, 40] {
        let made = pack(count, None);
        let whole = Bytes::new(made.complete());
        assert_eq!(scan(&whole, 0), Found { rows: made.rows.clone(), bad: vec![], directory: Some(true) });
        assert_eq!(check_directory(&whole, &NAME).unwrap(), made.rows);
        let open = Bytes::new(made.bytes.clone());
        assert_eq!(scan(&open, 0), Found { rows: made.rows.clone(), bad: vec![], directory: None });
        assert!(check_directory(&open, &NAME).is_err());
        // From any frame on, and from the directory.
        for (at, row) in made.rows.iter().enumerate() {
            let rows = made.rows[at..].to_vec();
            assert_eq!(scan(&whole, row.offset), Found { rows, bad: vec![], directory: Some(true) });
        }
        assert_eq!(scan(&whole, made.end), Found { rows: vec![], bad: vec![], directory: Some(true) });
        assert_eq!(scan(&whole, u64::MAX), Found::default());
    }
}

#[test]
fn a_torn_pack_keeps_its_whole_frames() {
    let made = pack(4, None);
    let complete = made.complete();
    for cut in (0..complete.len()).filter(|cut| cut % 7 == 0 || *cut < 200) {
        let found = scan(&Bytes::new(complete[..cut].to_vec()), 0);
        let whole = made.rows.iter().filter(|row| row.offset + u64::from(row.len) + FRAME_NAME_LEN <= cut as u64);
        assert!(found.rows.iter().eq(whole), "cut at {cut}");
        assert!(found.bad.len() <= 1 && found.directory.is_none());
    }
}

#[test]
fn damage_costs_only_the_frames_it_hits() {
    let made = pack(12, None);
    let mut dice = Dice(77);
    println!("seed {}", dice.0);
    for (name, bytes) in [("complete", made.complete()), ("open", made.bytes.clone())] {
        for _ in 0..400 {
            let mut damaged = bytes.clone();
            let at = dice.below(damaged.len());
            let len = 1 + dice.below(200).min(damaged.len() - at - 1);
            damaged[at..at + len].iter_mut().for_each(|byte| *byte = !*byte);
            // A valid directory knows the names, too.
            let has_directory = name == "complete" && at + len <= made.end as usize;
            let hit = |row: &&FrameRow| {
                let name_len = if has_directory { 0 } else { FRAME_NAME_LEN };
                let end = (row.offset + u64::from(row.len) + name_len) as usize;
                at < end && at + len > row.offset as usize
            };
            let spared: Vec<_> = made.rows.iter().filter(|row| !hit(row)).copied().collect();
            let found = scan(&Bytes::new(damaged), 0);
            assert_eq!(found.rows, spared, "{name}: {len} at {at}");
            if name == "complete" && at + len <= made.end as usize {
                assert_eq!(found.directory, Some(spared.len() == made.rows.len()));
            }
        }
        // Bytes that vanish or appear in the middle.
        for at in [100, made.rows[5].offset as usize + 9, made.end as usize - 3] {
            let shorter = [&bytes[..at], &bytes[at + 1..]].concat();
            let longer = [&bytes[..at], &[0], &bytes[at..]].concat();
            for damaged in [shorter, longer] {
                assert!(scan(&Bytes::new(damaged), 0).rows.len() >= made.rows.len() - 2, "{name} {at}");
            }
        }
    }
}

#[test]
fn a_directory_with_one_wrong_byte_is_none() {
    let made = pack(3, None);
    let complete = made.complete();
    for at in made.end as usize..complete.len() {
        let mut bytes = complete.clone();
        bytes[at] ^= 4;
        let found = scan(&Bytes::new(bytes), 0);
        assert_eq!((found.rows, found.directory), (made.rows.clone(), None), "{at}");
    }
    // One that is valid and lies.
    for rows in [&made.rows[..2], &[made.rows[0], made.rows[2]], &[]] {
        let lying = [&made.bytes[..], &directory(made.end, rows)].concat();
        let found = scan(&Bytes::new(lying), 0);
        assert_eq!((found.rows, found.directory), (made.rows.clone(), Some(false)));
    }
    let mut overlapping = made.rows.clone();
    overlapping[1].offset -= 1;
    let lying = [&made.bytes[..], &directory(made.end, &overlapping)].concat();
    assert_eq!(scan(&Bytes::new(lying), 0).directory, None);
}

#[test]
fn unreadable_bytes_cost_only_the_frames_in_them() {
    let made = pack(8, None);
    for bytes in [made.complete(), made.bytes.clone()] {
        let mut file = Bytes::new([bytes, vec![0; 0]].concat());
        let hit = made.rows[3];
        file.unreadable = hit.offset + 100..hit.offset + 101;
        let found = scan(&file, 0);
        assert_eq!(found.rows.first(), made.rows.first());
        // Without a directory blocks are passed over, so a neighbour may go with it.
        let least = if found.directory.is_some() { 7 } else { 3 };
        assert!(found.rows.len() >= least, "{found:?}");
    }
    let other = Bytes { unreadable: 0..0, ..Bytes::new(made.complete()) };
    assert_eq!(scan(&other, 0).rows.len(), 8);
}

/// A header that looks like a frame of `len` bytes and of this vault.
fn fake(len: usize) -> Vec<u8> {
    let made = pack(1, None);
    let mut bytes = made.bytes[HEADER_LEN as usize..][..frame::FIXED_LEN].to_vec();
    bytes[12..16].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[16..20].copy_from_slice(&1_u32.to_le_bytes());
    bytes
}

#[test]
fn fakes_cost_linear_work() {
    let last = pack(1, None);
    let last = &last.bytes[HEADER_LEN as usize..];
    let begin = header(VAULT, &NAME);
    let long = fake(FRAME_LEN_MAX - 100);
    let half = fake(2 << 20);
    let small = pack(1, Some(b"")).bytes[HEADER_LEN as usize..].to_vec();
    let magics: Vec<u8> = long[..40].to_vec();
    let fills: [(&str, Vec<u8>); 5] = [
        ("magics", frame::MAGIC.repeat(1 << 20)),
        ("vaults", magics.repeat(8 << 20 >> 6)),
        ("headers", long.repeat((8 << 20) / long.len())),
        ("half", half.repeat((8 << 20) / half.len())),
        ("mixed", [&small[..], &half].concat().repeat(10_000)),
    ];
    for (name, fill) in fills {
        let file = Bytes::new([&begin[..], &fill, &vec![0; FRAME_LEN_MAX], last].concat());
        let found = scan(&file, 0);
        let read = file.read.load(Ordering::Relaxed);
        let bound = 40 * file.bytes.len() as u64 + 40 * FRAME_LEN_MAX as u64;
        println!("{name}: {} MiB read of {}", read >> 20, file.bytes.len() >> 20);
        assert!(read < bound, "{name}: {read} bytes read, bound {bound}");
        assert_eq!(found.rows.last().map(|row| row.len as usize + 32), Some(last.len()), "{name}");
        assert!(found.bad.len() <= found.rows.len() + 1, "{name}");
    }
}

#[test]
fn frames_inside_a_frame_are_not_searched_for_when_the_directory_stands() {
    // An unencrypted vault backed up into itself: incompressible content that is a pack.
    let inner = pack(3, None);
    let made = pack(3, Some(&inner.bytes));
    let mut bytes = made.complete();
    bytes[made.rows[1].offset as usize + 50] ^= 1;
    let found = scan(&Bytes::new(bytes), 0);
    assert_eq!(found.rows, [made.rows[0], made.rows[2]]);
}

#[test]
fn frames_of_another_vault_are_bad_here() {
    let made = pack(3, None);
    let mut scanner_bytes = Bytes::new(made.complete());
    let mut scanner = Scanner::new(&scanner_bytes, VaultId([1; 16]), 0).unwrap();
    assert!(matches!(scanner.next(), Ok(Some(Scanned::Bad { .. }))));
    assert!(matches!(scanner.next(), Ok(Some(Scanned::Directory { matches: false, .. }))));
    assert!(matches!(scanner.next(), Ok(None)));
    scanner_bytes.bytes.clear();
    assert_eq!(scan(&scanner_bytes, 64), Found::default());
}
