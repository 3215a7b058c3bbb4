//! The stat cache: what every folder looked like when it was last backed up, and which branch that gave. Beside it, for
//! a machine that may not read the vault, what those branches listed (`lists.rs`).
//!
//! Local and disposable. One file for a vault and a source set, replaced as a whole by each run. Whatever is wrong
//! with it, the answer is "not known" and the folder is read again: every block is bound by a checksum to this very
//! file and to its folder's key, so bytes that are damaged, torn, left over or misplaced are never taken for a
//! folder's. Checksums are keyed with random bytes drawn for the file, which is why nothing here is ever synced:
//! after a crash a file holds what was written or something that does not verify.
//!
//! A folder is unchanged when its names hash to `names_hash`, every entry's [`CachedStat`] is
//! [`CachedStat::same`], and every folder in it turned out unchanged too. Folders among the entries are compared like
//! files, because their mode, owners, times and attributes stand in the listing of the folder above. Equal stats
//! vouch for content, and for metadata as long as ctime is compared: it moves with every change of either.
//!
//! ```text
//! header   magic 8 | version u32 | zero u32 | vault 16 | file key 32 | checksum 16
//! blocks   branch 32 | names hash 16 | count u32 | count × stat 40 | checksum 16
//! table    count × (folder key 16 | offset u64 | length u32), ascending by key, each key once
//! footer   table offset u64 | count u64 | checksum 16 of table and both
//! stat     inode u64 | device u64 | ctime i64 | mtime i64 | size u64
//! ```
//! Numbers are little-endian. Checksums are the first 16 bytes of BLAKE3 keyed with the file key over a byte that
//! says which part it is, for blocks the folder's key, and the bytes themselves.

mod lists;
mod read;
mod stat;
#[cfg(test)]
mod tests;
mod write;

pub use lists::{ListCache, ListWriter};
pub use read::StatCache;
pub use stat::{CachedDir, CachedStat, DirKey, NamesHasher};
pub use write::{CacheError, CacheWriter};

use crate::id::VaultId;

/// What a file of blocks begins with: which kind it is.
type Magic = &'static [u8; 8];

const STATS: Magic = b"twkpstat";
const LISTS: Magic = b"twkplist";
const VERSION: u32 = 1;
const SUM_LEN: usize = 16;
const HEADER_LEN: usize = 8 + 4 + 4 + VaultId::LEN + 32 + SUM_LEN;
const ROW_LEN: usize = 28;
const FOOTER_LEN: usize = 8 + 8 + SUM_LEN;

/// The part of the file that a checksum covers.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Part {
    Header = 1,
    Block = 2,
    Table = 3,
}

/// A checksum of several stretches of bytes.
fn checksum(file_key: &[u8; 32], part: Part, stretches: &[&[u8]]) -> [u8; SUM_LEN] {
    let mut hasher = blake3::Hasher::new_keyed(file_key);
    hasher.update(&[part as u8]);
    for bytes in stretches {
        hasher.update(bytes);
    }
    first_half(&hasher.finalize())
}

fn first_half(hash: &blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}

/// Takes `N` bytes off the front; `None` when there are fewer.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}
