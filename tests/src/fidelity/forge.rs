//! Vaults that no backup would write: trees made by hand, and payloads changed behind the encoder's back.
//!
//! Whoever holds a vault's keys can write such things; ids and frames are right, only what they say is not.

use std::sync::Arc;

use twinkeep_engine::branch::entry::{Content, Entry, LinkId, Metadata, What};
use twinkeep_engine::branch::{EncodedBranch, encode_entries};
use twinkeep_engine::crypto::{DataKey, Salts, wrap};
use twinkeep_engine::frame::{FrameBuilder, SealKeys, Sealer};
use twinkeep_engine::id::{ChunkId, Kind};
use twinkeep_engine::query::{RootWhat, TreeRoot};
use twinkeep_engine::store::{Claim, Session};
use twinkeep_engine::vault::Vault;

/// Puts chunks into a vault one by one.
pub struct Forge<'v> {
    vault: &'v Vault,
    session: Box<dyn Session>,
    sealer: Sealer,
}

impl<'v> Forge<'v> {
    /// A session of its own.
    pub fn new(vault: &'v Vault) -> Self {
        let (session, entropy) = (vault.store().begin().unwrap(), vault.env().entropy.clone());
        let data_key = DataKey::random(&*entropy);
        let (generation, public) = vault.keys().newest();
        let keys = SealKeys {
            suite: vault.config().suite,
            wrapped: wrap::wrap(public, &data_key, &vault.id(), &*entropy),
            data_key: Arc::new(data_key),
            generation,
            vault: vault.id(),
            session: session.id(),
        };
        Self { vault, session, sealer: Sealer::new(keys, Salts::new(entropy), 1).unwrap() }
    }

    /// Puts file content.
    pub fn leaf(&mut self, bytes: &[u8]) -> ChunkId {
        let id = self.vault.keys().leaf_id(bytes);
        self.put(Kind::Leaf, id, &[], bytes)
    }

    /// Puts a branch, whatever it says.
    pub fn branch(&mut self, branch: &EncodedBranch) -> ChunkId {
        let id = self.vault.keys().branch_id(&branch.refs, &branch.payload);
        self.put(Kind::Branch, id, &branch.refs, &branch.payload)
    }

    /// Puts a folder of valid entries.
    pub fn directory(&mut self, entries: &[Entry]) -> ChunkId {
        let branch = encode_entries(entries).unwrap();
        self.branch(&branch)
    }

    /// Puts a folder of valid entries in whose payload `from` is then made `to`, wherever it stands.
    pub fn patched(&mut self, entries: &[Entry], from: &[u8], to: &[u8]) -> ChunkId {
        let mut branch = encode_entries(entries).unwrap();
        assert!(replace(&mut branch.payload, from, to) > 0, "{} is not in the payload", from.escape_ascii());
        self.branch(&branch)
    }

    fn put(&mut self, kind: Kind, id: ChunkId, refs: &[ChunkId], bytes: &[u8]) -> ChunkId {
        if self.session.claim(&[id]).unwrap() == [Claim::Mine] {
            let mut builder = FrameBuilder::new(kind);
            builder.push(id, refs, bytes);
            self.session.put(self.sealer.seal(&mut builder)).unwrap();
        }
        id
    }

    /// Makes all of it durable; `tree` is then the top of what can be restored.
    pub fn finish(self, tree: ChunkId) -> TreeRoot {
        self.session.settle(tree).unwrap();
        TreeRoot { snapshot: tree, path: b"/".to_vec(), what: RootWhat::Directory(tree) }
    }
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    assert_eq!(from.len(), to.len());
    let mut count = 0;
    for at in 0..=bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + from.len()].copy_from_slice(to);
            count += 1;
        }
    }
    count
}

/// An entry owned by root with `mode`.
pub fn entry(name: &[u8], mode: u32, what: What) -> Entry {
    Entry { name: name.into(), meta: Metadata { mode, ..Metadata::default() }, what }
}

/// A file that is its content, with every right for everybody.
pub fn file(name: &[u8], bytes: &[u8]) -> Entry {
    entry(name, 0o4777, What::File(Content::Inline(bytes.into())))
}

/// A symbolic link.
pub fn symlink(name: &[u8], to: &[u8]) -> Entry {
    entry(name, 0o777, What::Symlink(to.into()))
}

/// A folder.
pub fn directory(name: &[u8], tree: ChunkId) -> Entry {
    entry(name, 0o777, What::Directory(tree))
}

/// The entry as one name among several of the file `inode`.
pub fn linked(mut entry: Entry, inode: u64) -> Entry {
    entry.meta.link = Some(LinkId { device: 1, inode });
    entry
}
