//! What is known of a folder from the backup before: by the stat cache, or by the parent snapshot alone.

use crate::branch::DirectoryReader;
use crate::branch::entry::{Content, Entry, FileTime, What};
use crate::cache::{CachedDir, CachedStat};
use crate::id::ChunkId;
use crate::vault::{ChunkReader, ReadError};
use std::sync::OnceLock;

/// A folder as it was. Its branch is known to the store, with everything below it.
pub(super) struct OldDir {
    pub tree: ChunkId,
    cached: Option<CachedDir>,
    /// Names in order, read from the branch when the listing changed.
    names: OnceLock<Option<Vec<Box<[u8]>>>>,
    /// Files and folders in order of names, read from the branch when there is no cache.
    entries: OnceLock<Option<Vec<OldEntry>>>,
}

/// What the parent snapshot says of a name.
pub(super) struct OldEntry {
    name: Box<[u8]>,
    mtime: FileTime,
    what: What,
}

/// What is known of one name.
pub(super) enum Known<'a> {
    /// Nothing.
    Nothing,
    /// The name was there, and this is what the file looked like.
    Stat(&'a CachedStat),
    /// The name was there; length and mtime are all there is to compare.
    Entry(&'a OldEntry),
}

impl OldDir {
    pub fn cached(cached: CachedDir) -> Self {
        Self { tree: cached.tree, cached: Some(cached), names: OnceLock::new(), entries: OnceLock::new() }
    }

    pub fn parent(tree: ChunkId) -> Self {
        Self { tree, cached: None, names: OnceLock::new(), entries: OnceLock::new() }
    }

    /// Whether these are all its names.
    pub fn has_names(&self, hash: &[u8; 16]) -> bool {
        self.cached.as_ref().is_some_and(|cached| cached.names_hash == *hash)
    }

    /// What is known of a name that stands at `at` in a listing; `same_names` as [`Self::has_names`] answered for it.
    pub fn known(&self, reader: &ChunkReader, same_names: bool, at: usize, name: &[u8]) -> Known<'_> {
        match &self.cached {
            Some(cached) if same_names => cached.stats.get(at).map_or(Known::Nothing, Known::Stat),
            Some(cached) => {
                let names = self.names.get_or_init(|| read_names(reader, &self.tree).ok());
                let at = names.as_ref().and_then(|names| names.binary_search_by(|other| (**other).cmp(name)).ok());
                at.and_then(|at| cached.stats.get(at)).map_or(Known::Nothing, Known::Stat)
            }
            None => self.entry(reader, name).map_or(Known::Nothing, Known::Entry),
        }
    }
}

impl OldDir {
    /// What the old listing itself says of a name.
    pub fn entry(&self, reader: &ChunkReader, name: &[u8]) -> Option<&OldEntry> {
        let entries = self.entries.get_or_init(|| read_entries(reader, &self.tree).ok()).as_ref()?;
        let at = entries.binary_search_by(|other| (*other.name).cmp(name)).ok()?;
        entries.get(at)
    }
}

impl OldEntry {
    /// The content, if this was a file of this length and mtime.
    pub fn content(&self, len: u64, mtime: FileTime) -> Option<&Content> {
        match &self.what {
            What::File(content) if content.len() == len && self.mtime == mtime => Some(content),
            _ => None,
        }
    }

    /// The branch, if this was a folder.
    pub fn tree(&self) -> Option<ChunkId> {
        match self.what {
            What::Directory(tree) => Some(tree),
            _ => None,
        }
    }
}

fn read_names(reader: &ChunkReader, tree: &ChunkId) -> Result<Vec<Box<[u8]>>, ReadError> {
    DirectoryReader::new(reader, tree)?.map(|entry| Ok(entry?.name)).collect()
}

fn read_entries(reader: &ChunkReader, tree: &ChunkId) -> Result<Vec<OldEntry>, ReadError> {
    let old = |entry: Entry| OldEntry { name: entry.name, mtime: entry.meta.mtime, what: entry.what };
    DirectoryReader::new(reader, tree)?.map(|entry| Ok(old(entry?))).collect()
}
