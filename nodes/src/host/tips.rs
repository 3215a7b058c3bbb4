//! How far the chains of records of the vaults once reached. Records have no second place, and a chain that has lost its
//! end looks like one that never had it: what was backed up since would be taken for garbage, and so would all of a vault
//! whose records are gone. What a vault's chain has lost stops its collections.
//!
//! The file `tips` beside the change log has a line for each vault: its id, the count of its last record, and the BLAKE3
//! of that record's bytes, in hex. It is written after the record; a vault without a line begins one.

use super::{Host, HostVault, lock};
use crate::transport::problem::{Problem, Why, problem};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use twinkeep_engine::files::Files;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::store::{ChainLink, Store};

const TIPS: &str = "tips";

/// Longest such file that is read: some ten thousand vaults.
const LEN_MAX: usize = 2 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tip {
    count: u64,
    hash: blake3::Hash,
}

/// See the module.
pub struct Tips {
    files: Arc<dyn Files>,
    rows: Mutex<BTreeMap<VaultId, Tip>>,
    /// Vaults whose chain was found to be shorter than it was.
    short: Mutex<BTreeSet<VaultId>>,
}

impl Tips {
    /// As they were kept.
    pub fn open(files: Arc<dyn Files>) -> Self {
        let bytes = files.read_all(TIPS, LEN_MAX).unwrap_or_else(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(%error, "cannot read how far the records of vaults reached");
            }
            Vec::new()
        });
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (vault, count, hash) = (words.next()?, words.next()?, words.next()?);
            let hash = blake3::Hash::from_hex(hash).ok()?;
            Some((VaultId::from_hex(vault)?, Tip { count: count.parse().ok()?, hash }))
        };
        let rows = String::from_utf8_lossy(&bytes).lines().filter_map(line).collect();
        Self { files, rows: Mutex::new(rows), short: Mutex::default() }
    }

    fn set(&self, rows: &mut BTreeMap<VaultId, Tip>, vault: VaultId, tip: Tip) {
        if rows.insert(vault, tip) == Some(tip) {
            return;
        }
        let mut text = String::new();
        for (vault, tip) in rows.iter() {
            let _ = writeln!(text, "{} {} {}", vault.to_hex(), tip.count, tip.hash.to_hex());
        }
        if let Err(error) = self.files.write_atomic(TIPS, text.as_bytes()) {
            tracing::warn!(%error, "cannot keep how far the records of vaults reach");
        }
    }

    /// A record was added there.
    pub fn reached(&self, vault: VaultId, link: &ChainLink, record: &[u8]) {
        let mut rows = lock(&self.rows);
        // Behind another one than the last that is known of, nothing is said: it may be behind one that took its place.
        let follows = match rows.get(&vault) {
            None => true,
            Some(tip) => {
                tip.count.checked_add(1) == Some(link.count) && tip.hash == blake3::Hash::from_bytes(link.previous)
            }
        };
        if follows {
            let tip = Tip { count: link.count, hash: blake3::hash(record) };
            self.set(&mut rows, vault, tip);
        }
    }

    /// Looks whether the chain of a vault is as long as it was.
    ///
    /// # Errors
    /// [`Why::Damaged`] if it is not.
    pub fn require_whole(&self, id: VaultId, vault: &HostVault) -> Result<(), Problem> {
        // Held while they are read: what is added meanwhile would be known here and not among them.
        let mut rows = lock(&self.rows);
        let records = vault.store.records()?;
        let tip_of = |count: u64| {
            let record = records.iter().rfind(|record| record.count == count)?;
            Some(Tip { count, hash: blake3::hash(record.bytes.as_ref().ok()?) })
        };
        if let Some(tip) = rows.get(&id)
            && tip_of(tip.count) != Some(*tip)
        {
            lock(&self.short).insert(id);
            let text = format!(
                "record {} of the vault {id}, which was there, is lost or damaged: put the files in its records/ back from \
                 a copy. Nothing is freed there until then",
                tip.count
            );
            return Err(problem(Why::Damaged, text));
        }
        lock(&self.short).remove(&id);
        if let Some(tip) = records.last().and_then(|last| tip_of(last.count)) {
            self.set(&mut rows, id, tip);
        }
        Ok(())
    }

    /// Vaults whose chain was found to be shorter than it was.
    pub fn short(&self) -> Vec<VaultId> {
        lock(&self.short).iter().copied().collect()
    }
}

impl Host {
    /// Looks at the chains of all vaults.
    pub(super) fn look_at_tips(&self) {
        for (id, vault) in self.vaults() {
            if let Err(error) = self.tips.require_whole(id, &vault) {
                tracing::error!(vault = %id, %error, "the records of a vault");
            }
        }
    }
}
