//! Vaults of many chunks, and how much memory something takes. Shared by the benches that need them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use twinkeep_engine::crypto::{DataKey, Salts, Suite, WRAPPED_LEN, WrappedKey};
use twinkeep_engine::env::{Dice, Env, SystemEntropy, Time};
use twinkeep_engine::frame::{FrameBuilder, SealKeys, Sealer};
use twinkeep_engine::id::{ChunkId, Kind, SessionId};
use twinkeep_engine::record::{Level, Record, RecordKind, RefKind, RefRecord};
use twinkeep_engine::store::{ChainLink, Claim, Session};
use twinkeep_engine::vault::{CreateOptions, Place, Unlock, Vault};

/// Leaves a folder refers to.
const FOLDER_LEAVES: usize = 100;

/// Folders a folder of folders refers to.
const FOLDERS_ABOVE: usize = 200;

/// Chunks of a leaf frame, fewer than in life: more frames for a collection to look at.
const FRAME_LEAVES: usize = 32;

/// Folders of folders in which a snapshot changes something.
const CHANGED_ABOVE: usize = 8;

/// The vault that [`fill`] made.
pub fn open(folder: &Path) -> Vault {
    Vault::open(Place::folder(folder), Env::system(1), Unlock::Nothing, "bench").expect("a vault")
}

/// Anonymous memory of this process, bytes.
pub fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Runs `work`; returns what it gives and the most anonymous memory of this process meanwhile, bytes.
pub fn with_peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let most = AtomicU64::new(anonymous());
    let outcome = std::thread::scope(|scope| {
        // Dropped when the work ends, also by a panic.
        let (_working, over) = channel::<()>();
        scope.spawn(|| {
            let over = over;
            while over.recv_timeout(Duration::from_millis(2)) == Err(RecvTimeoutError::Timeout) {
                most.fetch_max(anonymous(), Ordering::Relaxed);
            }
        });
        work()
    });
    (outcome, most.into_inner())
}

/// Puts chunks through a session.
struct Filler<'a> {
    vault: &'a Vault,
    session: &'a dyn Session,
    sealer: Sealer,
    leaves: FrameBuilder,
    branches: FrameBuilder,
    made: u64,
}

impl Filler<'_> {
    fn leaf(&mut self) -> ChunkId {
        self.made += 1;
        let bytes = self.made.to_le_bytes();
        let id = self.vault.keys().leaf_id(&bytes);
        self.leaves.push(id, &[], &bytes);
        if self.made.is_multiple_of(FRAME_LEAVES as u64) {
            self.session.put(self.sealer.seal(&mut self.leaves)).expect("put a frame");
        }
        id
    }

    fn branch(&mut self, refs: &[ChunkId]) -> ChunkId {
        self.made += 1;
        let bytes = self.made.to_le_bytes();
        let id = self.vault.keys().branch_id(refs, &bytes);
        if !self.branches.fits(refs.len(), bytes.len()) {
            self.flush();
        }
        self.branches.push(id, refs, &bytes);
        id
    }

    fn flush(&mut self) {
        for builder in [&mut self.leaves, &mut self.branches] {
            if !builder.is_empty() {
                self.session.put(self.sealer.seal(builder)).expect("put a frame");
            }
        }
    }

    fn publish(&mut self, root: ChunkId) {
        self.flush();
        let (vault, session) = (self.vault, self.session);
        let settled = session.settle(root).expect("settle");
        let now = Time(0);
        let (target, level) = (settled.root(), Level::P0);
        let reference = RefRecord {
            kind: RefKind::Snapshot,
            target,
            session: session.id(),
            level,
            session_started: now,
            device: None,
        };
        let payload = reference.encode();
        let make = |link: ChainLink| {
            let (kind, received) = (RecordKind::Ref, vault.env().clock.now());
            let (count, previous, payload) = (link.count, link.previous, payload.clone());
            let record = Record { kind, vault: vault.id(), count, received, previous, payload };
            record.encode(&|bytes| vault.keys().record_mac(bytes))
        };
        session.publish(settled, &make).expect("publish");
    }
}

/// How frames of `session` are made here: not encrypted.
pub fn sealer(vault: &Vault, session: SessionId) -> Sealer {
    let keys = SealKeys {
        suite: Suite::Plain,
        data_key: Arc::new(DataKey::random(&SystemEntropy)),
        wrapped: WrappedKey([0; WRAPPED_LEN]),
        generation: vault.keys().newest().0,
        vault: vault.id(),
        session,
    };
    Sealer::new(keys, Salts::new(Arc::new(SystemEntropy)), 1).expect("zstd")
}

/// A vault of about `count` chunks. The first snapshot has half of them; each one after it puts new leaves into some
/// folders, in place of old ones.
pub fn fill(folder: &Path, count: usize, snapshots: usize) {
    let options = CreateOptions { encrypted: false, undelete_days: 0, ..CreateOptions::default() };
    let vault = Vault::create(Place::folder(folder), Env::system(1), &options, &[]).expect("a vault").0;
    let session = vault.store().begin().expect("a session");
    let session = &*session;
    let mut filler = Filler {
        vault: &vault,
        session,
        sealer: sealer(&vault, session.id()),
        leaves: FrameBuilder::new(Kind::Leaf),
        branches: FrameBuilder::new(Kind::Branch),
        made: 0,
    };
    let mut dice = Dice(1);
    let mut folders: Vec<Vec<ChunkId>> =
        (0..count / 2 / FOLDER_LEAVES).map(|_| (0..FOLDER_LEAVES).map(|_| filler.leaf()).collect()).collect();
    let mut tops: Vec<ChunkId> = folders.iter().map(|leaves| filler.branch(leaves)).collect();
    let mut above: Vec<ChunkId> = tops.chunks(FOLDERS_ABOVE).map(|tops| filler.branch(tops)).collect();
    let each = count / 2 / snapshots;
    for number in 0..snapshots {
        let aim = filler.made + each as u64;
        let first = dice.below(above.len());
        let mut changed = BTreeSet::new();
        while number > 0 && filler.made < aim {
            let group = (first + dice.below(CHANGED_ABOVE)) % above.len();
            let at = (group * FOLDERS_ABOVE + dice.below(FOLDERS_ABOVE)).min(folders.len() - 1);
            for _ in 0..FOLDER_LEAVES / 5 {
                folders[at][dice.below(FOLDER_LEAVES)] = filler.leaf();
            }
            tops[at] = filler.branch(&folders[at]);
            changed.insert(at / FOLDERS_ABOVE);
        }
        for group in changed {
            let end = tops.len().min((group + 1) * FOLDERS_ABOVE);
            above[group] = filler.branch(&tops[group * FOLDERS_ABOVE..end]);
        }
        let root = filler.branch(&above);
        filler.publish(root);
    }
    let claims = session.claim(&above).expect("claims");
    assert!(claims.iter().all(|claim| *claim == Claim::Known));
}
