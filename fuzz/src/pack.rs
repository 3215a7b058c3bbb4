//! Packs: the scan from front to back, the header and the directory.
//!
//! An input is one byte of choices and either a pack file as it is, or with [`SCRIPT`] a list of things to put one
//! after the other (kind, then bytes after their length), so that names and checksums are right where it matters.

use std::sync::LazyLock;

use twinkeep_engine::crypto::Suite;
use twinkeep_engine::files::{self, ReadAt};
use twinkeep_engine::id::{ChunkId, Kind};
use twinkeep_engine::limits::FRAME_LEN_MAX;
use twinkeep_engine::pack::{FrameRow, HEADER_LEN, PackName, Scanned, Scanner, check_directory, check_header};
use twinkeep_engine::pack::{directory, header};

use crate::frame::{name_of, sealed};
use crate::input::{Input, long};
use crate::keys::{SESSION, VAULT};

/// The rest is a script.
pub const SCRIPT: u8 = 1;
/// Begin the scan where the second frame of the directory is said to be.
pub const MIDDLE: u8 = 2;

const NAME: PackName = PackName { session: SESSION, kind: Kind::Leaf, number: 1 };

/// Most things a script puts into a pack.
const ITEMS_MAX: usize = 64;

/// A file in memory.
struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> files::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let len = bytes.len().min(self.0.len() - from);
        bytes[..len].copy_from_slice(&self.0[from..from + len]);
        Ok(len)
    }

    fn len(&self) -> files::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// Scans a pack.
pub fn body(data: &[u8]) {
    let Some((&choices, rest)) = data.split_first() else { return };
    let file = Bytes(if choices & SCRIPT != 0 { play(rest) } else { rest.to_vec() });
    let _ = check_header(&file, VAULT, &NAME);
    let rows = check_directory(&file, &NAME).ok();
    let second = rows.as_ref().and_then(|rows| rows.get(1)).map(|row| row.offset);
    let from = if choices & MIDDLE != 0 { second.unwrap_or(0) } else { HEADER_LEN };
    scan(&file, from.max(HEADER_LEN), rows);
}

/// What a scan finds lies end to end, and each frame is what its row says.
fn scan(file: &Bytes, from: u64, listed: Option<Vec<FrameRow>>) {
    let mut scanner = Scanner::new(file, VAULT, from).expect("memory reads");
    let len = file.0.len() as u64;
    let (mut at, mut found, mut bad, mut ended) = (from, Vec::new(), false, false);
    while let Some(scanned) = scanner.next().expect("memory reads") {
        assert!(!ended, "nothing stands behind a directory");
        match scanned {
            Scanned::Frame { row, header, .. } => {
                assert_eq!(row.offset, at);
                assert_eq!(scanner.frame_bytes().len(), row.len as usize);
                assert!(row.len as usize <= FRAME_LEN_MAX && header.frame_len == row.len && header.vault == VAULT);
                assert_eq!(name_of(scanner.frame_bytes()), row.id.0);
                assert_eq!(file.0[at as usize..][..row.len as usize], *scanner.frame_bytes());
                at += u64::from(row.len) + 32;
                found.push(row);
            }
            Scanned::Bad { offset, len } => {
                assert!(offset == at && len > 0);
                at += len;
                bad = true;
            }
            Scanned::Directory { offset, matches } => {
                assert_eq!(offset, at);
                let listed = listed.as_ref().expect("a directory that is found can be read");
                let later: Vec<_> = listed.iter().filter(|row| row.offset >= from).copied().collect();
                assert!(!matches || (later == found && !bad), "a directory matches what it does not list");
                (at, ended) = (len, true);
            }
        }
    }
    assert_eq!(at, len.max(from), "a scan sees every byte");
}

static FRAMES: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let refs = [ChunkId([1; 32])];
    [
        sealed(Suite::Aes256Gcm, Kind::Leaf, &[(&[], b"one")]).bytes,
        sealed(Suite::Aes256Gcm, Kind::Leaf, &[(&[], b"two"), (&[], &[b'a'; 300])]).bytes,
        sealed(Suite::Aes256Gcm, Kind::Branch, &[(&refs, b"payload!")]).bytes,
    ]
});

/// Bytes as they are.
const RAW: u8 = 0;
/// Bytes and behind them their name, as if they were a frame.
const NAMED: u8 = 1;
/// A whole frame of ours; the bytes' length chooses which.
const FRAME: u8 = 2;
/// Directory and trailer of all frames so far; the bytes are written over its rows, then it is summed up.
const DIRECTORY: u8 = 3;
/// A valid header of the pack.
const HEADER: u8 = 4;
/// A frame of ours with the bytes written over its middle, and its right name behind it.
const BENT: u8 = 5;

fn play(script: &[u8]) -> Vec<u8> {
    let mut input = Input(script);
    let (mut pack, mut rows) = (Vec::new(), Vec::new());
    for _ in 0..ITEMS_MAX {
        if input.is_empty() {
            break;
        }
        let (kind, bytes) = (input.u8() % 6, input.long());
        match kind {
            RAW => pack.extend_from_slice(bytes),
            NAMED => push_frame(&mut pack, &mut rows, bytes),
            FRAME => push_frame(&mut pack, &mut rows, &FRAMES[bytes.len() % FRAMES.len()]),
            DIRECTORY => pack.extend_from_slice(&directory_of(pack.len() as u64, &rows, bytes)),
            HEADER => pack.extend_from_slice(&header(VAULT, &NAME)),
            _ => {
                let mut frame = FRAMES[0].clone();
                let at = 8.min(frame.len());
                let len = bytes.len().min(frame.len() - at);
                frame[at..at + len].copy_from_slice(&bytes[..len]);
                push_frame(&mut pack, &mut rows, &frame);
            }
        }
    }
    pack
}

fn push_frame(pack: &mut Vec<u8>, rows: &mut Vec<FrameRow>, frame: &[u8]) {
    let id = twinkeep_engine::id::FrameId(name_of(frame));
    rows.push(FrameRow { offset: pack.len() as u64, len: frame.len() as u32, id });
    pack.extend_from_slice(frame);
    pack.extend_from_slice(&id.0);
}

fn directory_of(offset: u64, rows: &[FrameRow], over: &[u8]) -> Vec<u8> {
    let mut bytes = directory(offset, rows);
    let len = over.len().min(bytes.len().saturating_sub(40));
    bytes[..len].copy_from_slice(&over[..len]);
    let at = bytes.len() - 40;
    let check = blake3::hash(&bytes[..at]);
    bytes[at..at + 32].copy_from_slice(check.as_bytes());
    bytes
}

fn item(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind][..], &long(bytes)].concat()
}

/// Whole packs, torn ones, damaged ones, and directories that lie.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let whole = [item(HEADER, b""), item(FRAME, b""), item(FRAME, b"1"), item(FRAME, b""), item(DIRECTORY, b"")];
    let fake =
        [&b"TKFRAME\x01"[..], &[1, 1, 0, 0], &400_u32.to_le_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0], &VAULT.0].concat();
    let far = FrameRow { offset: u64::MAX, len: u32::MAX, id: twinkeep_engine::id::FrameId([0; 32]) };
    let wild = directory(0, &[far])[..12].to_vec();
    let script = |items: &[Vec<u8>]| [&[SCRIPT][..], &items.concat()].concat();
    let mut damaged = whole.clone();
    damaged[2] = item(BENT, &[0xff; 40]);
    let mut seeds = vec![
        ("script-whole".into(), script(&whole)),
        ("script-middle".into(), [&[SCRIPT | MIDDLE][..], &whole.concat()].concat()),
        ("script-torn".into(), script(&whole[..3])),
        ("script-damaged".into(), script(&damaged)),
        ("script-empty".into(), script(&[item(HEADER, b""), item(DIRECTORY, b"")])),
        ("script-branch".into(), script(&[item(HEADER, b""), item(FRAME, b"12"), item(DIRECTORY, b"")])),
        ("script-garbage-between".into(), {
            let garbage = item(RAW, &[b"garbage", &fake[..], &fake, b"TKFRAME\x01"].concat());
            script(&[whole[0].clone(), whole[1].clone(), garbage, whole[2].clone(), whole[4].clone()])
        }),
        ("script-fakes".into(), script(&[item(HEADER, b""), item(RAW, &fake.repeat(20)), item(DIRECTORY, b"")])),
        ("script-directory-wild".into(), script(&[whole[0].clone(), whole[1].clone(), item(DIRECTORY, &wild)])),
        ("script-two-directories".into(), script(&[&whole[..], &[item(DIRECTORY, b"")]].concat())),
        ("script-named-nothing".into(), script(&[item(HEADER, b""), item(NAMED, b""), item(DIRECTORY, b"")])),
    ];
    let pack = play(&whole.concat());
    let with_count = |count: u32| {
        let mut bytes = pack.clone();
        let at = bytes.len() - 56;
        bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
        bytes
    };
    for (name, bytes) in [
        ("file-whole", pack.clone()),
        ("file-cut", pack[..pack.len() - 1].to_vec()),
        ("file-header", pack[..64].to_vec()),
        ("file-short", pack[..63].to_vec()),
        ("file-count", with_count(u32::MAX)),
        ("file-count-more", with_count(4)),
    ] {
        seeds.push((name.into(), [&[0][..], &bytes].concat()));
    }
    seeds
}
