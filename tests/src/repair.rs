//! Repairs: whatever was hit, and wherever a repair is interrupted, everything that could be read before can be read
//! afterwards, and a repair that is run again comes to its end.

use crate::damage::{hurt_file, hurt_index};
use crate::lab::{self, KEY, Taken, chain};
use crate::model;
use crate::tree::{Shape, SourceTree};
use std::collections::BTreeSet;
use twinkeep_engine::branch::Branches;
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::chunk::CutParams;
use twinkeep_engine::env::Dice;
use twinkeep_engine::files::Files;
use twinkeep_engine::files::crash::{CrashState, Replay};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::files::record::record;
use twinkeep_engine::id::{ChunkId, Kind};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::kv::memory::{MemoryKvHome, Version};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::repair::{Mended, Outcome, SnapshotRepair, repair_index, repair_packs, repair_snapshots};
use twinkeep_engine::vault::{CreateOptions, NewSlot, Place, Unlock, Vault};

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Injections.
    pub injections: usize,
    /// Repairs of them.
    pub repairs: usize,
    /// States after a power cut during a repair.
    pub states: usize,
    /// Repairs after which more could be read.
    pub gained: usize,
}

/// What is repaired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The index.
    Index,
    /// The packs.
    Packs,
    /// The snapshots.
    Snapshots,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Index, Self::Packs, Self::Snapshots];
}

/// A vault with two snapshots, before it is hit.
pub struct Base {
    files: MemoryFiles,
    kv: Version,
    /// Every chunk in it.
    chunks: Vec<(ChunkId, Kind)>,
    taken: Vec<Taken>,
    encrypted: bool,
    seed: u64,
}

type Readable = BTreeSet<ChunkId>;

impl Base {
    /// Makes the vault. In one that is not encrypted a damaged frame still gives most of its chunks.
    pub fn new(seed: u64, encrypted: bool) -> Result<Self, String> {
        lab::shrink();
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let mut tree = SourceTree::new(seed, Shape { files: 12, wide: 30, len_max: 6 << 10 });
        let cut = CutParams::new(256, 1024, 4096, 2).expect("these lengths are fine");
        let options = CreateOptions { cut, encrypted, ..CreateOptions::default() };
        let slots = [NewSlot::MachineKey { key: &KEY, label: "test" }];
        let slots = if encrypted { &slots[..] } else { &[] };
        let place = lab::place(files.clone(), kv.clone());
        let (vault, _) = Vault::create(place, lab::env(seed), &options, slots).map_err(|error| chain(&error))?;
        let mut taken = Vec::new();
        for round in 0..2 {
            if round > 0 {
                tree.change();
            }
            taken.push(lab::take(&vault, &tree, None).map_err(|error| chain(&error))?);
        }
        let mut chunks = Vec::new();
        for (number, frame) in
            vault.local().unwrap().frame_rows(FrameNumber(0), 10_000).map_err(|error| chain(&error))?
        {
            let here = |id, row: twinkeep_engine::index::ChunkRow| (row.frame == number).then_some((id, frame.kind));
            vault
                .local()
                .unwrap()
                .visit_chunk_rows(&mut |id, row| {
                    chunks.extend(here(id, row));
                    true
                })
                .map_err(|error| chain(&error))?;
        }
        drop(vault);
        let kv = kv.version().ok_or("no index")?;
        Ok(Self { files: files.copy(), kv, chunks, taken, encrypted, seed })
    }

    fn unlock(&self) -> Unlock<'static> {
        if self.encrypted { Unlock::MachineKey(&KEY) } else { Unlock::Nothing }
    }

    fn open(&self, place: Place, seed: u64) -> Result<Vault, String> {
        let opened = Vault::open(place, lab::env(seed), self.unlock(), "test");
        opened.map_err(|error| format!("open: {}", chain(&error)))
    }

    /// Every chunk that a restore would hand out.
    fn readable(&self, vault: &Vault) -> Readable {
        let reader = vault.reader().expect("a reader");
        let can = |id: &ChunkId, kind: Kind| match kind {
            Kind::Leaf => reader.leaf(id).is_ok(),
            Kind::Branch => reader.branch(id).is_ok(),
        };
        self.chunks.iter().filter(|(id, kind)| can(id, *kind)).map(|(id, _)| *id).collect()
    }

    /// Everything the store affirms can be read.
    fn truthful(&self, vault: &Vault, readable: &Readable) -> Result<(), String> {
        let ids: Vec<ChunkId> = self.chunks.iter().map(|(id, _)| *id).collect();
        let known = vault.store().known(&ids).map_err(|error| chain(&error))?;
        match ids.iter().zip(known).find(|(id, known)| *known && !readable.contains(*id)) {
            Some((id, _)) => Err(format!("chunk {id} counts as known and cannot be read")),
            None => Ok(()),
        }
    }

    /// Runs a repair; gives the vault after it.
    fn repair(&self, what: What, place: Place, seed: u64) -> Result<Vault, String> {
        let told = |error: &dyn std::error::Error| format!("repair of {what:?}: {}", chain(error));
        match what {
            What::Index => {
                let repaired = repair_index(place, lab::env(seed), self.unlock(), "test");
                repaired.map(|(vault, _)| vault).map_err(|error| told(&error))
            }
            What::Packs => {
                let vault = self.open(place, seed)?;
                repair_packs(&vault, false, &Progress::silent()).map_err(|error| told(&error))?;
                Ok(vault)
            }
            What::Snapshots => {
                let vault = self.open(place, seed)?;
                // Damage nobody has found yet is found by reading the packs.
                repair_packs(&vault, false, &Progress::silent()).map_err(|error| told(&error))?;
                let report = repair_snapshots(&vault, false, &Progress::silent()).map_err(|error| told(&error))?;
                self.mended(&vault, &report)?;
                Ok(vault)
            }
        }
    }

    /// A mended snapshot is whole; what stands in it under the name it always had is what was backed up; all that is
    /// missing was told.
    fn mended(&self, vault: &Vault, report: &SnapshotRepair) -> Result<(), String> {
        for Mended { old, new } in &report.mended {
            let (Some(new), Some(taken)) = (new, self.taken.iter().find(|taken| taken.id == *old)) else { continue };
            if vault.store().known(&[*new]).map_err(|error| chain(&error))? != [true] {
                return Err(format!("mended snapshot {new} is not whole"));
            }
            let lost = |path: &[u8]| {
                let whole = [&taken.source[..], b"/", path].concat();
                report.lost.iter().any(|lost| lost.path == b"/" || whole == lost.path || is_below(&lost.path, &whole))
            };
            // Read as a whole the source may be gone.
            let reading = model::of_snapshot(vault, new, &taken.source);
            if let Some((path, error)) = reading.errors.iter().find(|(path, _)| !path.is_empty()) {
                return Err(format!("{:?} in a mended snapshot: {error}", String::from_utf8_lossy(path)));
            }
            for (path, node) in taken.model.iter() {
                match reading.model.get(path) {
                    Some(found) if found == node => {}
                    None if lost(path) || path.is_empty() => {}
                    found => {
                        let path = String::from_utf8_lossy(path);
                        return Err(format!("{path:?} in a mended snapshot is {:?}", found.map(|node| node.mtime)));
                    }
                }
            }
        }
        Ok(())
    }

    fn wound(&self, dice: &mut Dice) -> (MemoryFiles, MemoryKvHome, String) {
        let files = self.files.copy();
        let packs: Vec<String> = files.paths().into_iter().filter(|path| path.starts_with("packs/")).collect();
        let mut notes = Vec::new();
        for _ in 0..1 + dice.below(3) {
            let (path, other) = (&packs[dice.below(packs.len())], &packs[dice.below(packs.len())]);
            if files.bytes(path).is_some_and(|bytes| !bytes.is_empty()) {
                notes.push(hurt_file(&files, path, other, dice).0);
            }
        }
        if dice.one_in(4) {
            let records: Vec<String> = files.paths().into_iter().filter(|path| path.starts_with("records/")).collect();
            let path = &records[dice.below(records.len())];
            notes.push(hurt_file(&files, path, path, dice).0);
        }
        let mut kv = self.kv.clone();
        if dice.one_in(6) {
            let (hurt, note) = hurt_index(kv, dice);
            kv = hurt;
            notes.push(note);
        }
        (files, MemoryKvHome::from_version(Some(kv)), notes.join("; "))
    }

    /// Tries many injections; after one in `crash_one_in` a repair is interrupted wherever that can be.
    pub fn run(&self, count: usize, crash_one_in: usize) -> Result<Counts, String> {
        let mut counts = Counts::default();
        for number in 0..count {
            let mut dice = Dice(self.seed.wrapping_mul(1 << 22).wrapping_add(number as u64));
            let (files, kv, note) = self.wound(&mut dice);
            let told = |problem| format!("seed {}, injection {number}: {note}: {problem}", self.seed);
            counts.injections += 1;
            for what in What::ALL {
                let crash = dice.one_in(crash_one_in);
                self.try_one(what, &files, &kv, crash, dice.throw(), &mut counts).map_err(told)?;
            }
        }
        Ok(counts)
    }

    fn try_one(
        &self,
        what: What,
        files: &MemoryFiles,
        kv: &MemoryKvHome,
        crash: bool,
        seed: u64,
        counts: &mut Counts,
    ) -> Result<(), String> {
        let (files, kv, kv_was) = (files.copy(), kv.crash(), kv.version());
        let before = self.readable(&self.open(lab::place(files.clone(), kv.clone()), seed)?);
        if crash {
            let (files, kv, log) = record(files.copy(), kv.crash());
            // A row that cannot be may end a repair, and does no harm.
            let _ = self.repair(what, lab::place(files, kv), seed ^ 1);
            let mut dice = Dice(seed);
            let mut replay = Replay::new(&log);
            for at in 0..=replay.len() {
                replay.advance_to(at);
                for state in replay.states(&mut dice, 2).collect::<Vec<_>>() {
                    let note = state.note.clone();
                    let entry = format!("{what:?} interrupted at {at} of {}", replay.len());
                    self.go_on(what, state, &before, kv_was.as_ref() != Some(&self.kv), seed)
                        .map_err(|problem| format!("{entry}: {problem}\n  {note}"))?;
                    counts.states += 1;
                }
            }
        }
        let place = lab::place(files.clone(), kv.clone());
        let vault = match self.repair(what, place.clone(), seed ^ 2) {
            Ok(vault) => vault,
            // The index contradicts itself: a new one helps, and nothing is worse.
            Err(_) if what != What::Index && kv_was.as_ref() != Some(&self.kv) => {
                self.repair(What::Index, place, seed ^ 3)?
            }
            Err(problem) => return Err(problem),
        };
        counts.repairs += 1;
        let after = self.readable(&vault);
        self.kept(what, &before, &after)?;
        counts.gained += usize::from(after.len() > before.len());
        // A repair of packs believes the rows that are there.
        if what == What::Packs && kv_was.as_ref() == Some(&self.kv) {
            self.truthful(&vault, &after)?;
            tidy(&vault)?;
        }
        drop(vault);
        // And from packs and the index there is by then once more.
        let vault = self.repair(What::Index, lab::place(files, kv), seed ^ 4)?;
        let again = self.readable(&vault);
        self.kept(What::Index, &after, &again)?;
        self.truthful(&vault, &again)
    }

    fn go_on(&self, what: What, state: CrashState, before: &Readable, hurt: bool, seed: u64) -> Result<(), String> {
        let place = lab::place(state.files, state.kv);
        let vault = self.open(place.clone(), seed ^ 5)?;
        self.kept(what, before, &self.readable(&vault))?;
        drop(vault);
        match self.repair(what, place, seed ^ 6) {
            Ok(vault) => self.kept(what, before, &self.readable(&vault)).map_err(|problem| format!("again: {problem}")),
            Err(_) if what != What::Index && hurt => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    fn kept(&self, what: What, before: &Readable, after: &Readable) -> Result<(), String> {
        let lost: Vec<&ChunkId> = before.difference(after).collect();
        match lost.first() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} of {} chunks, {first} among them, cannot be read any more after a repair of {what:?}",
                lost.len(),
                before.len()
            )),
        }
    }
}

/// One byte is wrong in a frame that is not sealed, and the index is gone: the frame is not believed any more, and all
/// its chunks can still be read.
pub fn index_gone(seed: u64) -> Result<(), String> {
    const SALT_AT: u64 = 60;
    let base = Base::new(seed, false)?;
    let vault = base.open(lab::place(base.files.copy(), MemoryKvHome::from_version(Some(base.kv.clone()))), seed)?;
    let frames = vault.local().unwrap().frame_rows(FrameNumber(0), 10_000).map_err(|error| chain(&error))?;
    for (_, frame) in frames {
        let files = base.files.copy();
        let pack = vault.store().pack_name(frame.pack).map_err(|error| chain(&error))?;
        files.damage(&format!("packs/{pack}"), |bytes| bytes[(frame.offset + SALT_AT) as usize] ^= 1);
        let rebuilt = base.open(lab::place(files, MemoryKvHome::new()), seed ^ 1)?;
        let lost = base.chunks.len() - base.readable(&rebuilt).len();
        if lost > 0 {
            return Err(format!("seed {seed}: a byte in the frame at {} of {pack} costs {lost} chunks", frame.offset));
        }
    }
    Ok(())
}

/// After packs were repaired a check finds nothing wrong with them any more, but what snapshots miss.
fn tidy(vault: &Vault) -> Result<(), String> {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(vault, &options, &Progress::silent()).map_err(|error| chain(&error))?;
    match report.faults.iter().find(|fault| !fault.file.starts_with("records/")) {
        Some(fault) => Err(format!("after a repair of packs, {}: {}", fault.file, fault.problem)),
        None => Ok(()),
    }
}

fn is_below(above: &[u8], path: &[u8]) -> bool {
    path.starts_with(above) && path.get(above.len()) == Some(&b'/')
}

/// The record of a snapshot is gone, or cannot be read: the snapshot is listed again, and gc may run.
pub fn record_gone(seed: u64) -> Result<(), String> {
    let base = Base::new(seed, true)?;
    for (damage, count) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
        let files = base.files.copy();
        let path = format!("records/{count:016x}");
        match damage {
            true => drop(files.damage(&path, |bytes| bytes[80] ^= 1)),
            false => Files::remove(&files, &path).expect("the record is there"),
        }
        let place = lab::place(files, MemoryKvHome::from_version(Some(base.kv.clone())));
        let vault = base.open(place, seed)?;
        let repair = || repair_snapshots(&vault, false, &Progress::silent()).map_err(|error| chain(&error));
        let report = repair()?;
        let told = |problem: &str| Err(format!("record {count}, damaged: {damage}: {problem}: {report:?}"));
        if report.recovered != [base.taken[count - 1].id] {
            return told("not recovered");
        }
        let listed = vault.snapshots().map_err(|error| chain(&error))?;
        let tagged = listed.list.iter().filter(|info| info.snapshot.tags.iter().any(|tag| tag == "recovered")).count();
        if listed.list.len() != 2 || tagged != 1 || !listed.damaged.is_empty() {
            return told("not listed");
        }
        base.taken.iter().try_for_each(|taken| taken.verify(&vault))?;
        if repair()?.outcome() != Outcome::Nothing {
            return told("not done");
        }
    }
    Ok(())
}
