//! The snapshots of a vault: which there are, and adding one.

use super::authors::{Authors, Judged};
use super::{Result, Vault};
use crate::branch::{self, Snapshot};
use crate::env::Time;
use crate::id::{ChunkId, DeviceId};
use crate::record::{self, Level, ParsedRecord, Record, RecordError, RecordKind, RefKind, RefRecord};
use crate::store::{ChainLink, Fault, Session, Settled, StoredRecord};
use std::collections::HashSet;

/// A snapshot and when the vault received it.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Its name: the id of its root chunk.
    pub id: ChunkId,
    /// What it says of itself.
    pub snapshot: Snapshot,
    /// When the vault received it, by the vault's clock.
    pub received: Time,
    /// Place of its record in the chain.
    pub record: u64,
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
    /// In the order they were received.
    pub list: Vec<SnapshotInfo>,
    /// What cannot be read, file by file.
    pub damaged: Vec<Fault>,
}

impl Vault {
    /// Lists the snapshots. A checkpoint that a later backup of the same sources went beyond is left out.
    pub fn snapshots(&self) -> Result<Snapshots> {
        let mut found = Snapshots::default();
        let refs = self.refs(&mut found.damaged)?;
        let reader = self.reader()?;
        for (record, reference) in refs {
            match branch::snapshot(&reader, &reference.target) {
                Ok(snapshot) => found.list.push(SnapshotInfo {
                    id: reference.target,
                    snapshot,
                    received: record.received,
                    record: record.count,
                    device: reference.device,
                }),
                Err(error) if error.is_damage() => found.damaged.push(Fault {
                    file: record_path(record.count),
                    problem: format!("its snapshot {} cannot be read: {error}", reference.target),
                }),
                Err(error) => return Err(error.into()),
            }
        }
        drop_superseded(&mut found.list);
        Ok(found)
    }

    /// What was received, without looking into it. A device sees its own alone.
    pub fn received(&self) -> Result<Vec<Received>> {
        let refs = self.refs(&mut Vec::new())?.into_iter();
        Ok(refs
            .map(|(record, reference)| Received {
                id: reference.target,
                partial: reference.kind == RefKind::PartialSnapshot,
                received: record.received,
                record: record.count,
            })
            .collect())
    }

    /// All refs whose record is whole and ours; the others, and gaps between records, go to `damaged`.
    pub(crate) fn refs(&self, damaged: &mut Vec<Fault>) -> Result<Vec<(Record, RefRecord)>> {
        let authors = Authors::new(self);
        let mut refs = Vec::new();
        let mut next = 1;
        for stored in self.store().records()? {
            if stored.count != next {
                let problem = format!("records {next} to {} are gone", stored.count.saturating_sub(1));
                damaged.push(Fault { file: stored.name.clone(), problem });
            }
            next = stored.count.saturating_add(1);
            let (parsed, reference) = match self.parse_ref(&stored) {
                Ok(parsed) => parsed,
                Err(problem) => {
                    damaged.push(Fault { file: stored.name, problem });
                    continue;
                }
            };
            match authors.judge(parsed, reference.device)? {
                Judged::Believed(record) => refs.push((record, reference)),
                Judged::Refused(problem) => damaged.push(Fault { file: stored.name, problem }),
                Judged::Unknown => {}
            }
        }
        Ok(refs)
    }

    /// How many snapshots lack something below them.
    pub(crate) fn unwhole_snapshots(&self) -> Result<u64> {
        let refs = self.refs(&mut Vec::new())?;
        let roots: Vec<ChunkId> = refs.iter().map(|(_, reference)| reference.target).collect();
        Ok(self.store().known(&roots)?.iter().filter(|known| !**known).count() as u64)
    }

    /// A ref record that is whole and of this vault, but may be anybody's.
    fn parse_ref(&self, stored: &StoredRecord) -> std::result::Result<(ParsedRecord, RefRecord), String> {
        let bytes = stored.bytes.as_ref().map_err(String::clone)?;
        let parse = || -> std::result::Result<(ParsedRecord, RefRecord), RecordError> {
            let parsed = Record::parse(bytes)?;
            parsed.record.expect(RecordKind::Ref, self.id())?;
            let reference = RefRecord::decode(&parsed.record.payload)?;
            Ok((parsed, reference))
        };
        let (parsed, reference) = parse().map_err(|error| error.to_string())?;
        match parsed.record.count == stored.count {
            true => Ok((parsed, reference)),
            false => Err(format!("it is record {}, put in the place of record {}", parsed.record.count, stored.count)),
        }
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
            let record = Record {
                kind: RecordKind::Ref,
                vault: self.id(),
                count: link.count,
                received: self.env().clock.now(),
                previous: link.previous,
                payload: payload.clone(),
            };
            record.encode(&|bytes| self.keys().record_mac(bytes))
        })?)
    }

    /// Records that do not follow from the one before.
    pub(crate) fn chain_faults(&self) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        let mut previous = (0, [0; 32]);
        for stored in self.store().records()? {
            let Ok(bytes) = &stored.bytes else {
                previous = (stored.count, [0; 32]);
                continue;
            };
            if let Ok(parsed) = Record::parse(bytes)
                && stored.count == previous.0 + 1
                && parsed.record.previous != previous.1
                && previous.1 != [0; 32]
            {
                let problem = "it does not follow from the record before it, which was changed since".to_owned();
                faults.push(Fault { file: stored.name.clone(), problem });
            }
            previous = (stored.count, record::hash(bytes));
        }
        Ok(faults)
    }
}

/// Drops partial snapshots after which the same host's same paths were backed up again, wholly or further. A device
/// could say that it is any host, so its word counts for its own only.
fn drop_superseded(list: &mut Vec<SnapshotInfo>) {
    let mut seen: HashSet<(Option<DeviceId>, String, Vec<Vec<u8>>)> = HashSet::new();
    let mut kept: Vec<SnapshotInfo> = Vec::with_capacity(list.len());
    for info in list.drain(..).rev() {
        let is_newest = seen.insert((info.device, info.snapshot.host.clone(), info.snapshot.paths.clone()));
        if is_newest || !info.snapshot.partial {
            kept.push(info);
        }
    }
    kept.reverse();
    *list = kept;
}

fn record_path(count: u64) -> String {
    format!("records/{count:016x}")
}
