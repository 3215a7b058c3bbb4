//! The snapshots of a vault: which there are, and adding one.

use super::authors::{Authors, Judged};
use super::{Result, Vault};
use crate::branch::{self, Snapshot};
use crate::env::Time;
use crate::history::{History, RefHistory, RefState};
use crate::id::{ChunkId, DeviceId};
use crate::record::{ChangeRecord, Level, ParsedRecord, Record, RecordKind, RefKind, RefRecord};
use crate::store::{ChainLink, Fault, Session, Settled};
use std::collections::HashSet;

/// A snapshot and what the vault knows of it.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Its name: the id of its root chunk.
    pub id: ChunkId,
    /// What it says of itself; its tags are those it has by now.
    pub snapshot: Snapshot,
    /// When the vault received it, by the vault's clock.
    pub received: Time,
    /// Place of its record in the chain.
    pub record: u64,
    /// Whether it is wanted.
    pub state: RefState,
    /// Whether no policy may forget it.
    pub pinned: bool,
    /// Whether it is damaged, and that is known and accepted.
    pub aside: bool,
    /// The device that wrote it; none for a member. What a device says of host and paths is its own word.
    pub device: Option<DeviceId>,
}

/// A snapshot as who cannot open it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its name: the id of its root chunk.
    pub id: ChunkId,
    /// Whether it is a checkpoint of a backup that had not come to its end.
    pub partial: bool,
    /// When the vault received it, by the vault's clock.
    pub received: Time,
    /// Place of its record in the chain.
    pub record: u64,
}

/// All snapshots, and records that cannot be believed.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    /// Those that are wanted, in the order they were received.
    pub list: Vec<SnapshotInfo>,
    /// Those that were forgotten and may be brought back, in the order they were received.
    pub forgotten: Vec<SnapshotInfo>,
    /// Checkpoints that a later backup of the same sources went beyond.
    pub superseded: Vec<SnapshotInfo>,
    /// What cannot be read, file by file.
    pub damaged: Vec<Fault>,
}

impl Vault {
    /// Lists the snapshots.
    pub fn snapshots(&self) -> Result<Snapshots> {
        let history = self.history()?;
        let mut found = Snapshots { damaged: history.open_faults().cloned().collect(), ..Snapshots::default() };
        let reader = self.reader()?;
        for entry in history.roots() {
            let target = entry.reference.target;
            match branch::snapshot(&reader, &target) {
                Ok(snapshot) if entry.state == RefState::Live => found.list.push(info(entry, snapshot)),
                Ok(snapshot) => found.forgotten.push(info(entry, snapshot)),
                Err(error) if error.is_damage() && entry.aside => {}
                Err(error) if error.is_damage() => found.damaged.push(Fault {
                    file: record_path(entry.count),
                    problem: format!("its snapshot {target} cannot be read: {error}"),
                }),
                Err(error) => return Err(error.into()),
            }
        }
        found.superseded = take_superseded(&mut found.list);
        Ok(found)
    }

    /// What was received and is wanted, without looking into it. A device sees its own alone.
    pub fn received(&self) -> Result<Vec<Received>> {
        let received = |entry: &RefHistory| Received {
            id: entry.reference.target,
            partial: entry.reference.kind == RefKind::PartialSnapshot,
            received: entry.received,
            record: entry.count,
        };
        Ok(self.history()?.live().map(received).collect())
    }

    /// What the chain of records says, each of them shown to be written by who may. For a device: as far as it wrote
    /// them itself; nothing that others depend on may be decided by that.
    pub fn history(&self) -> Result<History> {
        let authors = Authors::new(self);
        let mut failed = None;
        let history =
            History::read(
                &**self.store(),
                self.config().retention_days_min,
                &mut |parsed: ParsedRecord| match authors.judge_record(parsed) {
                    Ok(Judged::Believed(record)) => Ok(Some(record)),
                    Ok(Judged::Unknown) => Ok(None),
                    Ok(Judged::Refused(problem)) => Err(problem),
                    Err(error) => {
                        let problem = error.to_string();
                        failed.get_or_insert(error);
                        Err(problem)
                    }
                },
            )?;
        failed.map_or(Ok(history), Err)
    }

    /// How many wanted snapshots lack something below them.
    pub(crate) fn unwhole_snapshots(&self) -> Result<u64> {
        let live = |vault: &Self| -> Result<Vec<ChunkId>> {
            Ok(vault.history()?.live().map(|entry| entry.reference.target).collect())
        };
        let roots = live(self)?;
        // A snapshot that came while garbage is collected may rest on what is condemned until that is looked at again.
        let whole = self.store().whole(&roots)?;
        let mut lacking: HashSet<ChunkId> =
            roots.into_iter().zip(whole).filter_map(|(root, whole)| (!whole).then_some(root)).collect();
        if !lacking.is_empty() {
            // What was purged since the records were read may be gone.
            let live: HashSet<ChunkId> = live(self)?.into_iter().collect();
            lacking.retain(|root| live.contains(root));
        }
        Ok(lacking.len() as u64)
    }

    /// Publishes a settled snapshot root.
    pub(crate) fn publish(
        &self,
        session: &dyn Session,
        settled: Settled,
        kind: RefKind,
        session_started: Time,
    ) -> Result<ChainLink> {
        let reference = RefRecord {
            kind,
            target: settled.root(),
            session: session.id(),
            level: Level::P0,
            session_started,
            device: self.device(),
        };
        let payload = reference.encode();
        Ok(session.publish(settled, &|link| {
            let now = link.received.unwrap_or_else(|| self.env().clock.now());
            self.encode_record(RecordKind::Ref, link, now, payload.clone())
        })?)
    }

    /// Appends a change to the chain. `decide` is given the history up to there and the time the change will carry,
    /// while nobody else can append; it gives nothing where nothing is to be said.
    pub fn change(
        &self,
        decide: &mut dyn FnMut(&History, Time) -> Option<ChangeRecord>,
    ) -> Result<Option<(ChainLink, ChangeRecord)>> {
        self.require_member()?;
        let mut said = None;
        let mut failed = None;
        let link = self.store().append(&mut |link| {
            let now = link.received.unwrap_or_else(|| self.env().clock.now());
            let history = self.history().map_err(|error| failed = Some(error)).ok()?;
            let change = decide(&history, now)?;
            let bytes = self.encode_record(RecordKind::Change, link, now, change.encode());
            said = Some(change);
            Some(bytes)
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(link.zip(said)),
        }
    }

    fn encode_record(&self, kind: RecordKind, link: ChainLink, received: Time, payload: Vec<u8>) -> Vec<u8> {
        let record = Record { kind, vault: self.id(), count: link.count, received, previous: link.previous, payload };
        record.encode(&|bytes| self.keys().record_mac(bytes))
    }
}

fn info(entry: &RefHistory, mut snapshot: Snapshot) -> SnapshotInfo {
    snapshot.tags = entry.tags(&snapshot.tags);
    SnapshotInfo {
        id: entry.reference.target,
        snapshot,
        received: entry.received,
        record: entry.count,
        state: entry.state,
        pinned: entry.pinned,
        aside: entry.aside,
        device: entry.reference.device,
    }
}

/// Takes out partial snapshots after which the same host's same paths were backed up again, wholly or further. A device
/// could say that it is any host, so its word counts for its own only.
fn take_superseded(list: &mut Vec<SnapshotInfo>) -> Vec<SnapshotInfo> {
    let mut seen: HashSet<(Option<DeviceId>, String, Vec<Vec<u8>>)> = HashSet::new();
    let (mut kept, mut superseded) = (Vec::with_capacity(list.len()), Vec::new());
    for info in list.drain(..).rev() {
        let is_newest = seen.insert((info.device, info.snapshot.host.clone(), info.snapshot.paths.clone()));
        match is_newest || !info.snapshot.partial || info.pinned {
            true => kept.push(info),
            false => superseded.push(info),
        }
    }
    kept.reverse();
    superseded.reverse();
    *list = kept;
    superseded
}

fn record_path(count: u64) -> String {
    format!("records/{count:016x}")
}
