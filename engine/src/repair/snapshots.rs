//! Repair of snapshots: those that no record names any more are published again, damaged ones are healed from what can
//! still be read or mended, records that cannot be believed are kept aside.

use super::mend::Mender;
use super::writer::Writer;
use super::{Outcome, Result, cancelled};
use crate::branch::{self, Branches, Node, Snapshot};
use crate::check::DamagedFile;
use crate::history::{History, RefState};
use crate::id::{ChunkId, Kind};
use crate::index::{FrameNumber, FrameState};
use crate::progress::Progress;
use crate::record::{ChangeKind, ChangeRecord, RefKind};
use crate::store::{Fault, Session};
use crate::vault::{ChunkReader, Vault};
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

/// Tag of a mended snapshot.
pub const MENDED_TAG: &str = "mended";

/// Tag of a snapshot whose record was lost.
pub const RECOVERED_TAG: &str = "recovered";

/// A damaged snapshot, and the one that stands for what is left of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mended {
    /// The damaged one.
    pub old: ChunkId,
    /// The mended one; none in a dry run.
    pub new: Option<ChunkId>,
}

/// What a repair of snapshots found and did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SnapshotRepair {
    /// Records that are damaged or gone, nobody having accepted that yet.
    pub faults: Vec<Fault>,
    /// Copies of damaged records that were put into `aside/`.
    pub records_copied: u64,
    /// Snapshots that no record named and that are listed again.
    pub recovered: Vec<ChunkId>,
    /// Damaged snapshots that are whole again: everything could still be read.
    pub healed: Vec<ChunkId>,
    /// Damaged snapshots that were mended.
    pub mended: Vec<Mended>,
    /// Snapshots of which not even the root can be read.
    pub unreadable: Vec<ChunkId>,
    /// What mended snapshots lack, as it was called in the damaged ones.
    pub lost: Vec<DamagedFile>,
    /// Lost paths beyond the first 10 000.
    pub lost_more: u64,
    /// Records whose damage now stops nothing any more, by count.
    pub set_aside: Vec<u64>,
    /// How long it took.
    pub duration: Duration,
}

impl SnapshotRepair {
    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        let changed = !self.recovered.is_empty() || !self.healed.is_empty() || !self.set_aside.is_empty();
        let lacks = !self.mended.is_empty() || !self.unreadable.is_empty() || !self.lost.is_empty();
        let accepted =
            |fault: &Fault| self.set_aside.iter().any(|count| fault.file.ends_with(&format!("{count:016x}")));
        let open = self.faults.iter().any(|fault| !accepted(fault));
        Outcome::of(changed || !self.faults.is_empty(), lacks || open)
    }
}

/// Repairs snapshots. With `dry_run` it only looks.
pub fn repair_snapshots(vault: &Vault, dry_run: bool, progress: &Progress) -> Result<SnapshotRepair> {
    let begun = vault.env().clock.elapsed();
    let mut report = SnapshotRepair::default();
    let session = match dry_run {
        true => None,
        false => {
            vault.store().audit()?;
            Some(vault.store().begin()?)
        }
    };
    let session = session.as_deref();
    let mender = Mender::new(vault, Writer::new(vault, session)?, progress)?;
    let mut repair = Repair { vault, session, mender, progress, report: &mut report, aside: BTreeSet::new() };
    repair.run()?;
    report.duration = vault.env().clock.elapsed().saturating_sub(begun);
    Ok(report)
}

struct Repair<'a> {
    vault: &'a Vault,
    session: Option<&'a dyn Session>,
    mender: Mender<'a>,
    progress: &'a Progress,
    report: &'a mut SnapshotRepair,
    /// Records whose damage is dealt with.
    aside: BTreeSet<u64>,
}

impl Repair<'_> {
    fn run(&mut self) -> Result<()> {
        let history = self.vault.history()?;
        self.records(&history)?;
        let (lost, saw_all) = self.unnamed(&history)?;
        let mut recovered = Vec::new();
        for (id, snapshot) in lost {
            cancelled(self.progress)?;
            if !self.is_known(&id)? {
                self.mend(id)?;
            }
            if self.is_known(&id)? {
                recovered.extend(self.publish(id, &snapshot)?);
                self.report.recovered.push(id);
            }
        }
        self.damaged(&history)?;
        // A record that is lost holds nothing back that is not listed again: so far as every branch could be read.
        if saw_all {
            self.aside.extend(history.faults.iter().map(|(count, _)| *count).filter(|c| !history.aside.contains(c)));
        }
        let report = &mut *self.report;
        report.lost = std::mem::take(&mut self.mender.lost);
        report.lost_more = self.mender.lost_more;
        self.say(recovered, ChangeKind::Tag { add: vec![RECOVERED_TAG.to_owned()], remove: Vec::new() })?;
        let aside: Vec<u64> = std::mem::take(&mut self.aside).into_iter().collect();
        self.report.set_aside.clone_from(&aside);
        self.say(aside, ChangeKind::SetAside)
    }

    fn is_known(&self, id: &ChunkId) -> Result<bool> {
        Ok(self.vault.store().known(std::slice::from_ref(id))?.first() == Some(&true))
    }

    /// Appends a change about records, in parts that are not too long.
    fn say(&self, mut counts: Vec<u64>, kind: ChangeKind) -> Result<()> {
        if self.session.is_none() {
            return Ok(());
        }
        counts.sort_unstable();
        for part in counts.chunks(crate::record::change::CHANGE_RECORDS_MAX) {
            let note = "repair snapshots".to_owned();
            let change = ChangeRecord { records: part.to_vec(), note, kind: kind.clone() };
            self.vault.change(&mut |_, _| Some(change.clone()))?;
        }
        Ok(())
    }

    /// Tells of records that cannot be believed, and keeps copies of those that can be read at all.
    fn records(&mut self, history: &History) -> Result<()> {
        let open = history.faults.iter().filter(|(count, _)| !history.aside.contains(count));
        let counts: HashSet<u64> = open.clone().map(|(count, _)| *count).collect();
        self.report.faults = open.map(|(_, fault)| fault.clone()).collect();
        if counts.is_empty() || self.session.is_none() {
            return Ok(());
        }
        for stored in self.vault.store().records()?.iter().filter(|stored| counts.contains(&stored.count)) {
            if let Ok(bytes) = &stored.bytes {
                self.report.records_copied += u64::from(self.vault.local()?.copy_aside(&stored.name, bytes)?);
            }
        }
        Ok(())
    }

    /// Roots of snapshots that no record names, by their time, and whether every branch frame could be looked at.
    fn unnamed(&mut self, history: &History) -> Result<(Vec<(ChunkId, Snapshot)>, bool)> {
        let named: HashSet<ChunkId> = history.refs.values().map(|entry| entry.reference.target).collect();
        let store = self.vault.local()?;
        let reader = self.vault.reader()?;
        // A bad frame all of whose chunks are elsewhere hides nothing.
        let hiding: HashSet<FrameNumber> = store.suspects()?.values().map(|row| row.frame).collect();
        let mut saw_all = true;
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for (_, frames) in store.frames_by_pack()? {
            for (number, place) in frames.iter().filter(|(_, place)| place.kind == Kind::Branch) {
                cancelled(self.progress)?;
                let header = match place.state {
                    FrameState::Good => store.0.stored_header(place)?,
                    FrameState::Bad => None,
                };
                let Some(header) = header else {
                    saw_all &= place.state == FrameState::Bad && !hiding.contains(number);
                    continue;
                };
                for (at, id) in header.ids.iter().enumerate() {
                    // The tree is all a snapshot refers to.
                    if header.refs(at).len() == 1 && !named.contains(id) && seen.insert(*id) {
                        found.extend(root(&reader, id)?.map(|snapshot| (*id, snapshot)));
                    }
                }
            }
        }
        let mut lost = Vec::new();
        for (id, snapshot) in found {
            // One that is being published just now is not lost.
            if !store.is_session_open(snapshot.session)? {
                lost.push((id, snapshot));
            }
        }
        lost.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok((lost, saw_all))
    }

    /// Publishes a root that is whole; returns the count of its record.
    fn publish(&self, id: ChunkId, snapshot: &Snapshot) -> Result<Option<u64>> {
        let Some(session) = self.session else { return Ok(None) };
        let kind = if snapshot.partial { RefKind::PartialSnapshot } else { RefKind::Snapshot };
        let settled = session.settle(id)?;
        Ok(Some(self.vault.publish(session, settled, kind, snapshot.started)?.count))
    }

    /// Heals or mends every listed snapshot that lacks something.
    fn damaged(&mut self, history: &History) -> Result<()> {
        let listed = self.vault.snapshots()?;
        let superseded: HashSet<u64> = listed.superseded.iter().map(|info| info.record).collect();
        for entry in history.refs.values().filter(|entry| entry.state == RefState::Live && !entry.aside) {
            cancelled(self.progress)?;
            let id = entry.reference.target;
            if self.is_known(&id)? {
                continue;
            }
            let is_mended = listed
                .list
                .iter()
                .any(|info| info.snapshot.parent == Some(id) && info.snapshot.tags.iter().any(|tag| tag == MENDED_TAG));
            // A repair that was interrupted, or a later backup, has what there is.
            if !is_mended && !superseded.contains(&entry.count) {
                let healed = self.report.healed.len();
                self.mend(id)?;
                if self.report.healed.len() > healed {
                    continue;
                }
            }
            self.aside.insert(entry.count);
        }
        Ok(())
    }

    fn mend(&mut self, id: ChunkId) -> Result<()> {
        let Some(Node::Snapshot(old)) = self.mender.node(&id)? else {
            self.report.unreadable.push(id);
            return Ok(());
        };
        let before = self.mender.lost_count();
        let tree = self.mender.tree(id, old.tree)?;
        self.mender.writer.flush()?;
        let lost = self.mender.lost_count() - before;
        let Some(session) = self.session else {
            match lost {
                0 => self.report.healed.push(id),
                _ => self.report.mended.push(Mended { old: id, new: None }),
            }
            return Ok(());
        };
        session.checkpoint()?;
        if self.is_known(&id)? {
            self.report.healed.push(id);
            return Ok(());
        }
        let mut new = Snapshot { tree, parent: Some(id), session: session.id(), ..*old };
        new.tags.retain(|tag| tag != MENDED_TAG);
        new.tags.push(MENDED_TAG.to_owned());
        new.totals.errors = new.totals.errors.saturating_add(lost);
        let encoded = branch::encode_snapshot(&new)?;
        let root = self.mender.writer.put(Kind::Branch, &encoded.refs, &encoded.payload)?;
        self.mender.writer.flush()?;
        self.publish(root, &new)?;
        self.report.mended.push(Mended { old: id, new: Some(root) });
        Ok(())
    }
}

/// What a branch says if it is the root of a snapshot and can be read.
fn root(reader: &ChunkReader, id: &ChunkId) -> Result<Option<Snapshot>> {
    match reader.branch(id) {
        Ok((refs, payload)) => match branch::decode(&refs, &payload) {
            Ok(Node::Snapshot(snapshot)) => Ok(Some(*snapshot)),
            _ => Ok(None),
        },
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
