//! What is known of a folder from the backup before: by the stat cache, or by the parent snapshot alone.

use crate::branch::entry::{Content, Entry, FileTime, What};
use crate::branch::{Branches, DirectoryReader};
use crate::cache::{CachedDir, CachedStat, ListCache};
use crate::id::ChunkId;
use crate::vault::{ChunkReader, ReadError};
use std::sync::OnceLock;

/// Where listings of before are read.
pub(super) enum OldLists {
    /// In the vault.
    Vault(ChunkReader),
    /// On this machine, which cannot read the vault. Content kept in entries is blanked there.
    Cache(ListCache),
}

impl OldLists {
    /// Whether a listing's entry says this content truly.
    pub fn vouches_for(&self, content: &Content) -> bool {
        let is_blank = matches!(content, Content::Inline(bytes) if !bytes.is_empty());
        matches!(self, Self::Vault(_)) || !is_blank || crate::zoo::planted("believe-blanks")
    }
}

impl Branches for OldLists {
    type Error = ReadError;

    fn branch(&self, id: &ChunkId) -> Result<(Vec<ChunkId>, Vec<u8>), ReadError> {
        match self {
            Self::Vault(reader) => reader.branch(id),
            Self::Cache(cache) => cache.branch(id).ok_or(ReadError::Absent(*id)),
        }
    }
}

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
    /// None where the listing does not vouch for it.
    what: Option<What>,
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
    pub fn known(&self, lists: &OldLists, same_names: bool, at: usize, name: &[u8]) -> Known<'_> {
        match &self.cached {
            Some(cached) if same_names => cached.stats.get(at).map_or(Known::Nothing, Known::Stat),
            Some(cached) => {
                let names = self.names.get_or_init(|| read_names(lists, &self.tree).ok());
                let at = names.as_ref().and_then(|names| names.binary_search_by(|other| (**other).cmp(name)).ok());
                at.and_then(|at| cached.stats.get(at)).map_or(Known::Nothing, Known::Stat)
            }
            None => self.entry(lists, name).map_or(Known::Nothing, Known::Entry),
        }
    }
}

impl OldDir {
    /// What the old listing itself says of a name.
    pub fn entry(&self, lists: &OldLists, name: &[u8]) -> Option<&OldEntry> {
        let entries = self.entries.get_or_init(|| read_entries(lists, &self.tree).ok()).as_ref()?;
        let at = entries.binary_search_by(|other| (*other.name).cmp(name)).ok()?;
        entries.get(at)
    }
}

impl OldEntry {
    /// The content, if this was a file of this length and mtime.
    pub fn content(&self, len: u64, mtime: FileTime) -> Option<&Content> {
        match &self.what {
            Some(What::File(content)) if content.len() == len && self.mtime == mtime => Some(content),
            _ => None,
        }
    }

    /// The branch, if this was a folder.
    pub fn tree(&self) -> Option<ChunkId> {
        match self.what {
            Some(What::Directory(tree)) => Some(tree),
            _ => None,
        }
    }
}

fn read_names(lists: &OldLists, tree: &ChunkId) -> Result<Vec<Box<[u8]>>, ReadError> {
    DirectoryReader::new(lists, tree)?.map(|entry| Ok(entry?.name)).collect()
}

fn read_entries(lists: &OldLists, tree: &ChunkId) -> Result<Vec<OldEntry>, ReadError> {
    let old = |entry: Entry| {
        let what = Some(entry.what).filter(|what| !matches!(what, What::File(content) if !lists.vouches_for(content)));
        OldEntry { name: entry.name, mtime: entry.meta.mtime, what }
    };
    DirectoryReader::new(lists, tree)?.map(|entry| Ok(old(entry?))).collect()
}
