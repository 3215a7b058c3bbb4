//! A scan's cost grows with the pack, not with its square, whatever the pack holds.
//!
//! Seeds are too small to show it, so these packs are made here. Bytes read are counted, not seconds.

use std::sync::atomic::{AtomicU64, Ordering};

use twinkeep_engine::files::{self, ReadAt};
use twinkeep_engine::id::FrameId;
use twinkeep_engine::pack::{FrameRow, Scanner, directory};
use twinkeep_fuzz::keys::VAULT;

/// Bytes that may be read for each byte of a pack.
const READS_MAX: u64 = 64;

struct Counted(Vec<u8>, AtomicU64);

impl ReadAt for Counted {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> files::Result<usize> {
        let from = (offset as usize).min(self.0.len());
        let len = bytes.len().min(self.0.len() - from);
        bytes[..len].copy_from_slice(&self.0[from..from + len]);
        self.1.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }

    fn len(&self) -> files::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// The least that looks like the beginning of a frame of `len` bytes, of our vault.
fn fake(len: u32) -> Vec<u8> {
    [&b"TKFRAME\x01"[..], &[1, 1, 0, 0], &len.to_le_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0], &VAULT.0].concat()
}

fn check(name: &str, pack: Vec<u8>) {
    let file = Counted(pack, AtomicU64::new(0));
    let mut scanner = Scanner::new(&file, VAULT, 0).expect("memory reads");
    let mut found = 0;
    while scanner.next().expect("memory reads").is_some() {
        found += 1;
    }
    let (read, len) = (file.1.load(Ordering::Relaxed), file.0.len() as u64);
    assert!(found <= 2, "{name}: one stretch of bad bytes is told once, not as {found}");
    println!("{name}: {found} things in {len} bytes, {read} bytes read");
    assert!(read <= READS_MAX * len + (64 << 20), "{name}: {read} bytes read of a pack of {len}");
}

#[test]
fn hostile_packs_are_scanned_in_reasonable_time() {
    const LEN: usize = 4 << 20;
    let packed = |fake: Vec<u8>| [&[0; 64][..], &fake.repeat(LEN / fake.len())].concat();
    check("frames inside frames", packed(fake(1 << 20)));
    check("frames past the end", packed(fake(6 << 20)));
    check("short frames", packed(fake(192)));
    check("magics", packed(b"TKFRAME\x01".to_vec()));
    check("nothing", packed(vec![0; 64]));

    // Rows that look like frames, in a directory that is right in itself and is read to find its beginning.
    let mut id = FrameId([0; 32]);
    id.0[..8].copy_from_slice(b"TKFRAME\x01");
    let rows = vec![FrameRow { offset: 0, len: 0, id }; LEN / 44];
    let front = [vec![0; 64], b"TKFRAME\x01".repeat(10_000)].concat();
    let listed = directory(front.len() as u64, &rows);
    check("a long directory", [front, listed].concat());
}
