//! Looking things up: the table of keys in memory, one read for each block.

use super::{
    CachedDir, CachedStat, DirKey, FOOTER_LEN, HEADER_LEN, Magic, Part, ROW_LEN, SUM_LEN, VERSION, checksum, take,
};
use crate::id::{ChunkId, VaultId};
use std::fs::File;
use std::io;
use std::path::Path;

/// The cache that an earlier run left. May be used by several threads.
pub struct StatCache {
    /// `None` for an empty cache.
    open: Option<BlockFile>,
}

/// A whole file of blocks.
pub(super) struct BlockFile {
    file: File,
    file_key: [u8; 32],
    /// Where the table begins and blocks end.
    table_at: u64,
    /// The table as it is on disk.
    rows: Vec<u8>,
}

impl StatCache {
    /// Opens a cache. A file that is missing, damaged, of another version or of another vault is an empty cache.
    pub fn open(path: &Path, vault: VaultId) -> Self {
        Self { open: BlockFile::read(path, super::STATS, vault) }
    }

    /// Knows nothing.
    pub fn empty() -> Self {
        Self { open: None }
    }

    /// How many folders it claims to know.
    pub fn len(&self) -> usize {
        self.open.as_ref().map_or(0, BlockFile::len)
    }

    /// Whether it knows nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is remembered of a folder; `None` also when its block cannot be read or does not verify.
    pub fn lookup(&self, key: &DirKey) -> Option<CachedDir> {
        parse_block(&self.open.as_ref()?.body(&key.0)?)
    }
}

impl BlockFile {
    /// Opens a file of this kind and vault if it is whole.
    pub fn read(path: &Path, magic: Magic, vault: VaultId) -> Option<Self> {
        let file = File::open(path).ok()?;
        let len = file.metadata().ok()?.len();
        let mut header = [0; HEADER_LEN];
        read_exact_at(&file, &mut header, 0).ok()?;
        let file_key = parse_header(&header, magic, vault)?;

        let footer_at = len.checked_sub(FOOTER_LEN as u64)?;
        let mut footer = [0; FOOTER_LEN];
        read_exact_at(&file, &mut footer, footer_at).ok()?;
        let mut rest = &footer[..];
        let table_at = u64::from_le_bytes(take(&mut rest)?);
        let count = u64::from_le_bytes(take(&mut rest)?);
        // The table must fill the file up to the footer, so its claimed length cannot exceed what is there.
        let table_len = footer_at.checked_sub(table_at)?;
        if table_at < HEADER_LEN as u64 || count.checked_mul(ROW_LEN as u64)? != table_len {
            return None;
        }
        let mut rows = vec![0; usize::try_from(table_len).ok()?];
        read_exact_at(&file, &mut rows, table_at).ok()?;
        let sum = checksum(&file_key, Part::Table, &[&rows, &footer[..FOOTER_LEN - SUM_LEN]]);
        (sum == rest).then_some(Self { file, file_key, table_at, rows })
    }

    /// How many blocks it claims to have.
    pub fn len(&self) -> usize {
        self.rows.len() / ROW_LEN
    }

    /// What a block holds; `None` also when it cannot be read or does not verify.
    pub fn body(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        let (offset, len) = self.place(key)?;
        // Before allocating for it: the table may claim what the file does not hold.
        if offset.checked_add(len.into())? > self.table_at {
            return None;
        }
        let len = usize::try_from(len).ok()?;
        let body_len = len.checked_sub(SUM_LEN)?;
        let mut block = vec![0; len];
        read_exact_at(&self.file, &mut block, offset).ok()?;
        let (body, sum) = block.split_at(body_len);
        if checksum(&self.file_key, Part::Block, &[key, body]) != sum {
            return None;
        }
        block.truncate(body_len);
        Some(block)
    }

    /// Offset and length of a block.
    fn place(&self, key: &[u8; 16]) -> Option<(u64, u32)> {
        let (rows, _) = self.rows.as_chunks::<ROW_LEN>();
        let at = rows.binary_search_by(|row| row[..16].cmp(key)).ok()?;
        let mut rest = &rows.get(at)?[16..];
        Some((u64::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?)))
    }
}

/// The file key, when the header is whole, of this kind and version and of this vault.
fn parse_header(header: &[u8; HEADER_LEN], magic: Magic, vault: VaultId) -> Option<[u8; 32]> {
    let (body, sum) = header.split_at(HEADER_LEN - SUM_LEN);
    let mut rest = body;
    let known = take(&mut rest)? == *magic
        && u32::from_le_bytes(take(&mut rest)?) == VERSION
        && u32::from_le_bytes(take(&mut rest)?) == 0
        && take(&mut rest)? == vault.0;
    let file_key = take(&mut rest)?;
    (known && checksum(&file_key, Part::Header, &[body]) == sum).then_some(file_key)
}

fn parse_block(body: &[u8]) -> Option<CachedDir> {
    let mut rest = body;
    let tree = ChunkId(take(&mut rest)?);
    let names_hash = take(&mut rest)?;
    let count = u32::from_le_bytes(take(&mut rest)?);
    let (stats, left) = rest.as_chunks();
    let whole = left.is_empty() && stats.len() as u64 == u64::from(count);
    whole.then(|| CachedDir { tree, names_hash, stats: stats.iter().map(CachedStat::from_bytes).collect() })
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[filled..], offset + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => filled += len,
        }
    }
    Ok(())
}
