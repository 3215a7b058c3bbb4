//! How long a collection of garbage takes and what memory it needs: `cargo bench -p twinkeep-engine --bench gc --
//! 600000 2500000 10000000`, with numbers of chunks.
//!
//! For each number a vault is made in a temporary folder: trees of many folders, of which every snapshot changes some,
//! with leaves of a few bytes. Then half the snapshots are purged, and a process of its own collects: once with
//! everything needed and once with garbage. It prints seconds and the most anonymous memory that it had while it
//! collected, in MB (10^6 bytes); pages of the index that are mapped are not among them, the system takes those back.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use twinkeep_engine::crypto::{DataKey, Salts, Suite, WRAPPED_LEN, WrappedKey};
use twinkeep_engine::env::{Dice, Env, SystemEntropy, Time};
use twinkeep_engine::frame::{FrameBuilder, SealKeys, Sealer};
use twinkeep_engine::gc::{Access, GcOptions, GcReport, collect};
use twinkeep_engine::history::History;
use twinkeep_engine::id::{ChunkId, Kind};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::record::{ChangeKind, ChangeRecord, Level, Record, RecordKind, RefKind, RefRecord};
use twinkeep_engine::store::{Claim, Session};
use twinkeep_engine::vault::{CreateOptions, Place, Unlock, Vault};

const SNAPSHOTS: usize = 1000;

/// Leaves a folder refers to.
const FOLDER_LEAVES: usize = 100;

/// Folders a folder of folders refers to.
const FOLDERS_ABOVE: usize = 200;

/// Chunks of a leaf frame, fewer than in life: more frames for a collection to look at.
const FRAME_LEAVES: usize = 32;

/// Folders of folders in which a snapshot changes something.
const CHANGED_ABOVE: usize = 8;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let first = args.next();
    if first.as_deref() == Some("collect") {
        return measure(Path::new(&args.next().expect("a vault")));
    }
    let counts = first.into_iter().chain(args).map(|arg| arg.parse().expect("a number of chunks"));
    let counts: Vec<usize> = counts.collect();
    for count in if counts.is_empty() { vec![600_000] } else { counts } {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let begun = Instant::now();
        fill(folder.path(), count);
        println!("{count} chunks, {SNAPSHOTS} snapshots, made in {:.1} s", begun.elapsed().as_secs_f64());
        collect_apart(folder.path());
        purge_half(&open(folder.path()));
        collect_apart(folder.path());
        collect_apart(folder.path());
    }
}

fn open(folder: &Path) -> Vault {
    Vault::open(Place::folder(folder), Env::system(1), Unlock::Nothing, "bench").expect("a vault")
}

/// In a process of its own, whose memory is only the collection's.
fn collect_apart(folder: &Path) {
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).arg("collect").arg(folder).status().expect("start this program");
    assert!(status.success(), "{status}");
}

/// Anonymous memory of this process, bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn measure(folder: &Path) {
    let vault = open(folder);
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = anonymous();
    let report: GcReport = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(anonymous(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let report = collect(Access::Keys(&vault), &GcOptions::default(), &Progress::silent()).expect("a collection");
        over.store(true, Ordering::Relaxed);
        report
    });
    println!(
        "  {} needed, {} condemned, {} removed, {} frames moved, {} taken apart: {:.2} s, {:.1} MB of memory ({:.1} before)",
        report.chunks_live,
        report.chunks_condemned,
        report.chunks_removed,
        report.frames_moved,
        report.frames_taken_apart,
        report.duration.as_secs_f64(),
        most.load(Ordering::Relaxed) as f64 / 1e6,
        before as f64 / 1e6,
    );
}

/// Forgets and purges every second snapshot.
fn purge_half(vault: &Vault) {
    for kind in [ChangeKind::Forget { undelete_days: 0 }, ChangeKind::Purge] {
        let decide = &mut |history: &History, _| {
            let records = history.refs.keys().copied().filter(|count| count % 2 == 1).collect();
            Some(ChangeRecord { records, note: String::new(), kind: kind.clone() })
        };
        vault.change(decide).expect("a change");
    }
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
        let make = |link: twinkeep_engine::store::ChainLink| {
            let (kind, received) = (RecordKind::Ref, vault.env().clock.now());
            let (count, previous, payload) = (link.count, link.previous, payload.clone());
            let record = Record { kind, vault: vault.id(), count, received, previous, payload };
            record.encode(&|bytes| vault.keys().record_mac(bytes))
        };
        session.publish(settled, &make).expect("publish");
    }
}

/// A vault of about `count` chunks. The first snapshot has half of them; each one after it puts new leaves into some
/// folders, in place of old ones.
fn fill(folder: &Path, count: usize) {
    let options = CreateOptions { encrypted: false, undelete_days: 0, ..CreateOptions::default() };
    let vault = Vault::create(Place::folder(folder), Env::system(1), &options, &[]).expect("a vault").0;
    let session = vault.store().begin().expect("a session");
    let keys = SealKeys {
        suite: Suite::Plain,
        data_key: std::sync::Arc::new(DataKey::random(&SystemEntropy)),
        wrapped: WrappedKey([0; WRAPPED_LEN]),
        generation: vault.keys().newest().0,
        vault: vault.id(),
        session: session.id(),
    };
    let sealer = Sealer::new(keys, Salts::new(std::sync::Arc::new(SystemEntropy)), 1).expect("zstd");
    let session = &*session;
    let mut filler = Filler {
        vault: &vault,
        session,
        sealer,
        leaves: FrameBuilder::new(Kind::Leaf),
        branches: FrameBuilder::new(Kind::Branch),
        made: 0,
    };
    let mut dice = Dice(1);
    let mut folders: Vec<Vec<ChunkId>> =
        (0..count / 2 / FOLDER_LEAVES).map(|_| (0..FOLDER_LEAVES).map(|_| filler.leaf()).collect()).collect();
    let mut tops: Vec<ChunkId> = folders.iter().map(|leaves| filler.branch(leaves)).collect();
    let mut above: Vec<ChunkId> = tops.chunks(FOLDERS_ABOVE).map(|tops| filler.branch(tops)).collect();
    let each = count / 2 / SNAPSHOTS;
    for number in 0..SNAPSHOTS {
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
