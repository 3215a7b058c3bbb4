//! What folders listed when they were last backed up, for a machine that cannot read it from the vault.
//!
//! A file of blocks as the stat cache is, with the magic `twkplist`. A block's key is the first half of a branch's id;
//! it holds a directory node as it was stored, but for one thing: the content of files kept in their entries is
//! replaced by as many zeros. So no byte of any file lies here, and who copies a listing from here has to read such
//! short files again.
//!
//! ```text
//! branch 32 | 1 for an inner node, else 0 | references u32 | payload length u32 | zstd of references ‖ payload
//! ```

use super::read::BlockFile;
use super::take;
use super::write::{BlockWriter, CacheError};
use crate::branch::entry::{Content, What};
use crate::branch::{self, DirectoryNode, EncodedBranch, Node};
use crate::env::Env;
use crate::id::{ChunkId, VaultId};
use crate::limits::{BRANCH_REFS_MAX, CHUNK_LEN_MAX, LIST_CACHE_LEN_MAX, LIST_DEPTH_MAX};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Listings are short-lived and many: speed counts.
const LEVEL: i32 = 1;

/// The listings that an earlier run left. May be used by several threads.
pub struct ListCache {
    open: Option<BlockFile>,
}

/// A block as it is on disk.
struct Block {
    is_inner: bool,
    refs: usize,
    payload_len: usize,
    /// Where the compressed part begins.
    packed_at: usize,
    body: Vec<u8>,
}

impl ListCache {
    /// Opens a cache. A file that is missing, damaged, of another version or of another vault is an empty cache.
    pub fn open(path: &Path, vault: VaultId) -> Self {
        Self { open: BlockFile::read(path, super::LISTS, vault) }
    }

    /// Knows nothing.
    pub fn empty() -> Self {
        Self { open: None }
    }

    /// References and payload of a directory node, short content blanked; `None` if it is not known.
    pub fn branch(&self, id: &ChunkId) -> Option<(Vec<ChunkId>, Vec<u8>)> {
        self.block(id)?.unpack()
    }

    fn block(&self, id: &ChunkId) -> Option<Block> {
        Block::parse(self.open.as_ref()?.body(&key(id))?, id)
    }
}

impl Block {
    fn parse(body: Vec<u8>, id: &ChunkId) -> Option<Self> {
        let mut rest = &body[..];
        if take(&mut rest)? != id.0 {
            return None;
        }
        let [inner] = take(&mut rest)?;
        let refs = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        let payload_len = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        let packed_at = body.len() - rest.len();
        let fits = inner <= 1 && refs <= BRANCH_REFS_MAX && payload_len <= CHUNK_LEN_MAX;
        fits.then_some(Self { is_inner: inner == 1, refs, payload_len, packed_at, body })
    }

    fn unpack(&self) -> Option<(Vec<ChunkId>, Vec<u8>)> {
        let refs_len = self.refs * ChunkId::LEN;
        let mut plain = zstd::bulk::decompress(&self.body[self.packed_at..], refs_len + self.payload_len).ok()?;
        if plain.len() != refs_len + self.payload_len {
            return None;
        }
        let payload = plain.split_off(refs_len);
        Some((plain.as_chunks().0.iter().map(|id| ChunkId(*id)).collect(), payload))
    }
}

/// Collects the listings of one run. May be used by several threads.
///
/// Dropped without [`ListWriter::finish`] it leaves the old cache in place.
pub struct ListWriter {
    blocks: BlockWriter,
    added: Mutex<HashSet<[u8; 16]>>,
    len: AtomicU64,
}

impl ListWriter {
    /// Begins a cache that will replace the one at `path`, whose folder must exist.
    pub fn create(path: &Path, vault: VaultId, env: &Env) -> Result<Self, CacheError> {
        let blocks = BlockWriter::create(path, super::LISTS, vault, env)?;
        Ok(Self { blocks, added: Mutex::default(), len: AtomicU64::new(0) })
    }

    /// Adds a directory node; anything else is passed over.
    pub fn add(&self, id: &ChunkId, branch: &EncodedBranch) {
        if self.is_new(id)
            && let Some(body) = pack(id, branch)
        {
            self.push(id, body);
        }
    }

    /// Takes over all nodes of a directory that has not changed, as far as the old cache has them.
    pub fn keep(&self, old: &ListCache, root: &ChunkId) {
        let mut level = vec![*root];
        for _ in 0..=LIST_DEPTH_MAX {
            let mut below = Vec::new();
            for id in level {
                let Some(block) = old.block(&id) else { continue };
                if block.is_inner {
                    below.extend(block.unpack().into_iter().flat_map(|(refs, _)| refs));
                }
                if self.is_new(&id) {
                    self.push(&id, block.body);
                }
            }
            level = below;
        }
    }

    /// Writes the table and puts the new cache in the place of the old one.
    pub fn finish(self) -> Result<(), CacheError> {
        self.blocks.finish()
    }

    /// Equal folders are one branch, which must be added once.
    fn is_new(&self, id: &ChunkId) -> bool {
        self.added.lock().unwrap_or_else(PoisonError::into_inner).insert(key(id))
    }

    fn push(&self, id: &ChunkId, body: Vec<u8>) {
        if self.len.load(Ordering::Relaxed).saturating_add(body.len() as u64) <= LIST_CACHE_LEN_MAX {
            self.len.store(self.blocks.add(&key(id), body), Ordering::Relaxed);
        }
    }
}

fn key(id: &ChunkId) -> [u8; 16] {
    let [key, _] = id.0.as_chunks().0 else { unreachable!("an id has two halves") };
    *key
}

/// A node's block; `None` if it is no directory node.
fn pack(id: &ChunkId, branch: &EncodedBranch) -> Option<Vec<u8>> {
    let Ok(Node::Directory(mut node)) = branch::decode(&branch.refs, &branch.payload) else { return None };
    let is_inner = blank(&mut node);
    let branch = branch::encode_directory(&node).ok()?;
    let mut plain = Vec::with_capacity(branch.refs.len() * ChunkId::LEN + branch.payload.len());
    branch.refs.iter().for_each(|id| plain.extend_from_slice(&id.0));
    plain.extend_from_slice(&branch.payload);
    let mut body = id.0.to_vec();
    body.push(u8::from(is_inner));
    body.extend_from_slice(&u32::try_from(branch.refs.len()).ok()?.to_le_bytes());
    body.extend_from_slice(&u32::try_from(branch.payload.len()).ok()?.to_le_bytes());
    body.extend_from_slice(&zstd::bulk::compress(&plain, LEVEL).ok()?);
    Some(body)
}

/// Puts zeros in the place of content; tells whether it is an inner node.
fn blank(node: &mut DirectoryNode) -> bool {
    let DirectoryNode::Entries(entries) = node else { return true };
    for entry in entries {
        if let What::File(Content::Inline(bytes)) = &mut entry.what
            && !crate::zoo::planted("lists-hold-content")
        {
            bytes.fill(0);
        }
    }
    false
}
