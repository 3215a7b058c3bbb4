//! The snapshots of a vault: which there are, and adding one.

use super::{Result, Vault};
use crate::branch::{self, Snapshot};
use crate::env::Time;
use crate::history::{History, RefHistory, RefState};
use crate::id::ChunkId;
use crate::record::{ChangeRecord, Level, Record, RecordKind, RefKind, RefRecord};
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

    /// What the chain of records says, each of them shown to be written with the vault's keys.
    pub fn history(&self) -> Result<History> {
        let trust = |parsed: crate::record::ParsedRecord| parsed.verify_mac(&|bytes| self.keys().record_mac(bytes));
        Ok(History::read(&**self.store(), self.config().retention_days_min, &trust)?)
    }

    /// How many wanted snapshots lack something below them.
    pub(crate) fn unwhole_snapshots(&self) -> Result<u64> {
        let roots: Vec<ChunkId> = self.history()?.live().map(|entry| entry.reference.target).collect();
        Ok(self.store().known(&roots)?.iter().filter(|known| !**known).count() as u64)
    }

    /// Publishes a settled snapshot root.
    pub(crate) fn publish(
        &self,
        session: &dyn Session,
        settled: Settled,
        kind: RefKind,
        session_started: Time,
    ) -> Result<ChainLink> {
        let reference =
            RefRecord { kind, target: settled.root(), session: session.id(), level: Level::P0, session_started };
        let payload = reference.encode();
        Ok(session.publish(settled, &|link| {
            self.encode_record(RecordKind::Ref, link, self.env().clock.now(), payload.clone())
        })?)
    }

    /// Appends a change to the chain. `decide` is given the history up to there and the time the change will carry,
    /// while nobody else can append; it gives nothing where nothing is to be said.
    pub fn change(
        &self,
        decide: &mut dyn FnMut(&History, Time) -> Option<ChangeRecord>,
    ) -> Result<Option<(ChainLink, ChangeRecord)>> {
        let mut said = None;
        let mut failed = None;
        let link = self.store().append(&mut |link| {
            let now = self.env().clock.now();
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
    }
}

/// Takes out partial snapshots after which the same host's same paths were backed up again, wholly or further.
fn take_superseded(list: &mut Vec<SnapshotInfo>) -> Vec<SnapshotInfo> {
    let mut seen: HashSet<(String, Vec<Vec<u8>>)> = HashSet::new();
    let (mut kept, mut superseded) = (Vec::with_capacity(list.len()), Vec::new());
    for info in list.drain(..).rev() {
        let is_newest = seen.insert((info.snapshot.host.clone(), info.snapshot.paths.clone()));
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
