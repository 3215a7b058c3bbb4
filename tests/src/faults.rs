//! Failing calls: one job after the other is run while the n-th call of some kind fails. It ends in a clean error of
//! the right class or in a success that survives a power cut, and when calls succeed again, so does everything.

use crate::lab::{self, Taken, chain};
use crate::model::{self, Model};
use crate::tree::{Shape, SourceTree};
use std::sync::Arc;
use twinkeep_engine::files::Files;
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles, FaultyKvHome};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::gc::{self, Access, GcOptions};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::kv::memory::{MemoryKvHome, Version};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::repair::{RepairError, repair_index, repair_packs, repair_snapshots};
use twinkeep_engine::retention::{self, RetentionError, TagEdit};
use twinkeep_engine::scrub;
use twinkeep_engine::vault::{ErrorClass, Place, Unlock, Vault};

/// What is tried while calls fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// A vault is made.
    Create,
    /// A vault is opened.
    Open,
    /// A snapshot is read.
    Read,
    /// A changed source is backed up.
    Backup,
    /// The same after a session that was cut short.
    Adopt,
    /// A vault whose index is gone is opened.
    Rebuild,
    /// The index is repaired.
    RepairIndex,
    /// Packs without directories are repaired.
    RepairPacks,
    /// A snapshot whose record is gone is brought back.
    RepairSnapshots,
    /// A way in is added.
    KeyChange,
    /// A vault is scrubbed.
    Scrub,
    /// A snapshot is forgotten.
    Forget,
    /// A forgotten one is brought back.
    Undelete,
    /// One is tagged, and pinned.
    Tag,
    /// Garbage is collected.
    Gc,
}

impl Job {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Create,
        Self::Open,
        Self::Read,
        Self::Backup,
        Self::Adopt,
        Self::Rebuild,
        Self::RepairIndex,
        Self::RepairPacks,
        Self::RepairSnapshots,
        Self::Forget,
        Self::Undelete,
        Self::Tag,
        Self::KeyChange,
        Self::Scrub,
        Self::Gc,
    ];
}

/// The machine key that [`Job::KeyChange`] adds.
const NEW_KEY: [u8; 32] = [0x6b; 32];

/// How calls fail: the fault, and whether all later calls of the kind fail too.
const FAULTS: &[(Fault, bool)] = &[
    (Fault::Os(libc::ENOSPC), false),
    (Fault::Os(libc::ENOSPC), true),
    (Fault::Short(libc::ENOSPC), true),
    (Fault::Os(libc::EIO), false),
    (Fault::Os(libc::EIO), true),
    (Fault::Os(libc::EMFILE), true),
    (Fault::Late(libc::EIO), false),
    (Fault::Os(libc::EACCES), true),
];

/// What a sweep did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Runs with a failing call.
    pub points: usize,
    /// Of them, those in which the job succeeded all the same.
    pub successes: usize,
}

/// A vault with snapshots in it, as it is before each job.
struct Base {
    files: MemoryFiles,
    kv: Option<Version>,
    taken: Vec<Taken>,
    /// Record of the first of them.
    first: u64,
    tree: SourceTree,
    model: Arc<Model>,
}

struct Point {
    job: Job,
    call: Call,
    nth: u64,
    fault: Fault,
    lasting: bool,
}

/// A disk with calls that can fail.
struct Disk {
    files: MemoryFiles,
    kv: MemoryKvHome,
    faults: Faults,
}

impl Disk {
    fn place(&self) -> Place {
        Place {
            files: Arc::new(FaultyFiles::new(Arc::new(self.files.clone()), self.faults.clone())),
            kv_home: Arc::new(FaultyKvHome::new(Arc::new(self.kv.clone()), self.faults.clone())),
        }
    }

    fn after_power_cut(&self) -> Place {
        lab::place(self.files.crash(), self.kv.crash())
    }
}

/// How a job ended.
enum End {
    /// With a snapshot that has to be there from now on, if the job makes one.
    Done(Option<Taken>),
    /// With an error of this class.
    Failed(ErrorClass, String),
}

impl Base {
    fn new(seed: u64, job: Job) -> Result<Self, String> {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let mut first = 0;
        let mut tree = SourceTree::new(seed, Shape::SMALL);
        let mut taken = Vec::new();
        if job != Job::Create {
            let vault = lab::create(lab::place(files.clone(), kv.clone()), lab::env(seed)).map_err(|e| chain(&e))?;
            for _ in 0..2 {
                taken.push(lab::take(&vault, &tree, None).map_err(|error| chain(&error))?);
                tree.change();
            }
            first = vault.snapshots().map_err(|error| chain(&error))?.list[0].record;
            if job == Job::Undelete {
                retention::forget(&vault, &[first], "").map_err(|error| chain(&error))?;
            }
        }
        if job == Job::Gc {
            let gone: Taken = taken.remove(0);
            let vault = lab::open(lab::place(files.clone(), kv.clone()), lab::env(seed ^ 5)).map_err(|e| chain(&e))?;
            crate::cuts::purge(&vault, &[gone.id])?;
        }
        if job == Job::Adopt {
            cut_short(&files, &kv, &tree, seed)?;
        }
        if job == Job::Rebuild {
            kv.remove();
        }
        if job == Job::RepairPacks {
            cut_directories(&files);
        }
        if job == Job::RepairSnapshots {
            let path = format!("records/{:016x}", taken.len());
            files.remove(&path).map_err(|error| chain(&error))?;
            taken.pop();
        }
        let model = Arc::new(model::of_disk(&tree.root()));
        Ok(Self { files: files.copy(), kv: kv.version(), taken, first, tree, model })
    }

    fn disk(&self) -> Disk {
        Disk { files: self.files.copy(), kv: MemoryKvHome::from_version(self.kv.clone()), faults: Faults::new() }
    }

    /// Runs the job from an open vault where it needs one; `arm` is called when it begins.
    fn run(&self, disk: &Disk, job: Job, seed: u64, arm: &dyn Fn()) -> Result<End, String> {
        let open = || lab::open(disk.place(), lab::env(seed)).map_err(|error| format!("open: {}", chain(&error)));
        let ended = |result: Result<Vault, twinkeep_engine::vault::VaultError>| match result {
            Ok(_) => End::Done(None),
            Err(error) => End::Failed(error.class(), chain(&error)),
        };
        match job {
            Job::Create => {
                arm();
                Ok(ended(lab::create(disk.place(), lab::env(seed))))
            }
            Job::Open | Job::Rebuild => {
                arm();
                Ok(ended(lab::open(disk.place(), lab::env(seed))))
            }
            Job::Read => {
                let vault = open()?;
                arm();
                match self.taken[0].verify_honest(&vault)? {
                    true => Ok(End::Done(None)),
                    false => Ok(End::Failed(ErrorClass::Other, "parts cannot be read".to_owned())),
                }
            }
            Job::RepairIndex => {
                arm();
                let repaired = repair_index(disk.place(), lab::env(seed), Unlock::MachineKey(&lab::KEY), "test");
                Ok(repair_ended(repaired.map(drop)))
            }
            Job::RepairPacks => {
                let vault = open()?;
                arm();
                Ok(repair_ended(repair_packs(&vault, false, &Progress::silent()).map(drop)))
            }
            Job::RepairSnapshots => {
                let vault = open()?;
                arm();
                Ok(repair_ended(repair_snapshots(&vault, false, &Progress::silent()).map(drop)))
            }
            Job::KeyChange => {
                let vault = open()?;
                arm();
                let (now, entropy) = (vault.env().clock.now(), &*vault.env().entropy);
                let added = vault.change_keyring(|keyring, _, secret| {
                    keyring.add_machine_slot(secret, &NEW_KEY, "new", now, entropy)
                });
                Ok(ended(added.map(|_| vault)))
            }
            Job::Forget | Job::Undelete | Job::Tag => {
                let vault = open()?;
                arm();
                Ok(match self.say(&vault, job) {
                    Ok(()) => End::Done(None),
                    Err(error) => End::Failed(error.class(), chain(&error)),
                })
            }
            Job::Backup | Job::Adopt => {
                let vault = open()?;
                arm();
                self.back_up(&vault)
            }
            Job::Gc => {
                let vault = open()?;
                arm();
                let report = gc::collect(Access::Keys(&vault), &GcOptions::default(), &Progress::silent());
                Ok(match report {
                    Ok(_) => End::Done(None),
                    Err(error) => End::Failed(error.class(), chain(&error)),
                })
            }
            Job::Scrub => {
                arm();
                Ok(match scrub_once(disk, seed, false) {
                    Ok(report) if report.round.is_clean() => End::Done(None),
                    Ok(report) => End::Failed(ErrorClass::Damaged, format!("{:?}", report.round.faults)),
                    Err(error) => End::Failed(error.class(), chain(&error)),
                })
            }
        }
    }

    /// Says of the first snapshot what the job is about.
    fn say(&self, vault: &Vault, job: Job) -> Result<(), RetentionError> {
        let first = &[self.first];
        match job {
            Job::Forget => retention::forget(vault, first, ""),
            Job::Undelete => retention::undelete(vault, first).map(drop),
            _ => {
                let edit = TagEdit::Change { add: vec!["tag".to_owned()], remove: Vec::new() };
                retention::tag(vault, first, &edit)?;
                retention::pin(vault, first).map(drop)
            }
        }
    }

    /// What a job said that succeeded is so.
    fn verify_said(&self, vault: &Vault, job: Job) -> Result<(), String> {
        let snapshots = vault.snapshots().map_err(|error| format!("snapshots: {}", chain(&error)))?;
        let wanted = snapshots.list.iter().find(|info| info.record == self.first);
        let is_said = match job {
            Job::Forget => wanted.is_none(),
            Job::Undelete => wanted.is_some(),
            Job::Tag => wanted.is_some_and(|info| info.pinned && info.snapshot.tags == ["tag"]),
            _ => true,
        };
        if is_said { Ok(()) } else { Err("what was said of a snapshot is not so".to_owned()) }
    }

    fn back_up(&self, vault: &Vault) -> Result<End, String> {
        match lab::backup(vault, &self.tree.path(), None) {
            Ok(summary) => {
                let id = summary.snapshot.ok_or("no snapshot")?;
                let (source, model) = (self.tree.path(), self.model.clone());
                Ok(End::Done(Some(Taken { id, source, model })))
            }
            Err(error) => Ok(End::Failed(error.class(), chain(&error))),
        }
    }

    fn verify(&self, vault: &Vault, more: Option<&Taken>) -> Result<(), String> {
        let snapshots = vault.snapshots().map_err(|error| format!("snapshots: {}", chain(&error)))?;
        if let Some(fault) = snapshots.damaged.first() {
            return Err(format!("{}: {}", fault.file, fault.problem));
        }
        for taken in self.taken.iter().chain(more) {
            if !snapshots.list.iter().chain(&snapshots.forgotten).any(|info| info.id == taken.id) {
                return Err(format!("snapshot {} is not listed", taken.id));
            }
            taken.verify(vault)?;
        }
        Ok(())
    }

    /// Tries one point; tells whether the job succeeded.
    fn try_point(&self, point: &Point, seed: u64) -> Result<bool, String> {
        let disk = self.disk();
        let arm = || match point.lasting {
            true => disk.faults.fail_from(point.call, point.nth, point.fault),
            false => disk.faults.fail_once(point.call, point.nth, point.fault),
        };
        let end = self.run(&disk, point.job, seed, &arm)?;
        let taken = match &end {
            End::Done(taken) => taken.as_ref(),
            End::Failed(class, error) => {
                check_class(point, *class, error)?;
                None
            }
        };
        let done = matches!(end, End::Done(_));
        disk.faults.clear();
        if point.job == Job::Rebuild && done && matches!(point.fault, Fault::Os(libc::EIO) | Fault::Late(libc::EIO)) {
            self.rebuild_again(&disk, seed)?;
        }
        if point.job == Job::Scrub {
            scrub_again(&disk, point, done, seed)?;
        }
        for (place, when) in [(disk.after_power_cut(), "after a power cut"), (disk.place(), "later")] {
            self.go_on(point.job, place, taken, done, seed).map_err(|problem| format!("{when}: {problem}"))?;
        }
        if point.job == Job::Gc {
            self.collected(&disk, seed).map_err(|problem| format!("the next collection: {problem}"))?;
        }
        // What came later was acknowledged too.
        let vault = lab::open(disk.after_power_cut(), lab::env(seed ^ 3)).map_err(|error| chain(&error))?;
        self.verify(&vault, taken).map_err(|problem| format!("later, after a power cut: {problem}"))?;
        Ok(done)
    }

    /// Whatever a collection left undone the next ones do.
    fn collected(&self, disk: &Disk, seed: u64) -> Result<(), String> {
        let vault = lab::open(disk.place(), lab::env(seed ^ 6)).map_err(|error| format!("open: {}", chain(&error)))?;
        for _ in 0..2 {
            crate::cuts::collect(&vault)?;
        }
        crate::woven::spotless(&vault)?;
        self.verify(&vault, None)
    }

    /// A rebuild that could not read some sectors says so and does without; once they can be read the next one has all.
    fn rebuild_again(&self, disk: &Disk, seed: u64) -> Result<(), String> {
        let open = || lab::open(disk.place(), lab::env(seed ^ 4)).map_err(|error| format!("open: {}", chain(&error)));
        let vault = open()?;
        for taken in &self.taken {
            taken.verify_honest(&vault)?;
        }
        drop(vault);
        disk.kv.remove();
        open().map(|_| ())
    }

    /// Calls succeed again: the vault opens, or can be made; what was in it is there; the next backup is whole.
    fn go_on(&self, job: Job, place: Place, taken: Option<&Taken>, done: bool, seed: u64) -> Result<(), String> {
        let exists = Vault::exists(&place).map_err(|error| chain(&error))?;
        let vault = match job == Job::Create && !done && !exists {
            true => lab::create(place, lab::env(seed ^ 1)).map_err(|error| format!("create: {}", chain(&error)))?,
            false => lab::open(place, lab::env(seed ^ 1)).map_err(|error| format!("open: {}", chain(&error)))?,
        };
        self.verify(&vault, taken)?;
        if job == Job::KeyChange && done {
            let keyring = vault.keyring().map_err(|error| format!("keyring: {}", chain(&error)))?;
            if !keyring.slots().iter().any(|slot| slot.label == "new") {
                return Err("a way in that was added is gone".to_owned());
            }
        }
        if done {
            self.verify_said(&vault, job)?;
        }
        match self.back_up(&vault)? {
            End::Done(Some(next)) => self.verify(&vault, Some(&next)).map_err(|problem| format!("next: {problem}")),
            End::Done(None) => Err("next: no snapshot".to_owned()),
            End::Failed(class, error) => Err(format!("next: {class:?}: {error}")),
        }
    }
}

fn repair_ended(result: Result<(), RepairError>) -> End {
    match result {
        Ok(()) => End::Done(None),
        Err(error) => End::Failed(error.class(), chain(&error)),
    }
}

/// Takes away the last bytes of packs: everything in them stays.
fn cut_directories(files: &MemoryFiles) {
    for path in files.paths().into_iter().filter(|path| path.starts_with("packs/")).take(3) {
        files.damage(&path, |bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        });
    }
}

fn scrub_once(disk: &Disk, seed: u64, resume: bool) -> Result<scrub::ScrubReport, scrub::ScrubError> {
    let opened = Vault::open_store(disk.place(), lab::env(seed ^ 5), "test")?;
    let options = scrub::ScrubOptions { resume, ..scrub::ScrubOptions::default() };
    scrub::scrub(&opened.store, &lab::env(seed ^ 6), opened.rebuilt.as_deref(), &options, &Progress::silent())
}

/// Calls succeed again: the round goes on and has verified everything, if its place could be kept, and one begun anew
/// has in any case. Only a medium that could not be read may have been called damaged.
fn scrub_again(disk: &Disk, point: &Point, done: bool, seed: u64) -> Result<(), String> {
    let opened = Vault::open_store(disk.place(), lab::env(seed ^ 7), "test").map_err(|error| chain(&error))?;
    let frames = opened.store.frame_rows(FrameNumber(0), 100_000).map_err(|error| chain(&error))?.len() as u64;
    let is_media = matches!(point.fault, Fault::Os(libc::EIO) | Fault::Late(libc::EIO)) && point.call != Call::KvRead;
    for resume in [true, false] {
        let report = match scrub_once(disk, seed ^ 8, resume) {
            Ok(report) => report,
            Err(scrub::ScrubError::NothingLeft) if resume => continue,
            Err(error) => return Err(format!("scrub, resumed: {resume}: {}", chain(&error))),
        };
        let counts = report.round.counts;
        let bad = report.round.faults.iter().filter(|fault| fault.offset.is_some()).count() as u64;
        let all = counts.frames + counts.set_aside + if resume { bad } else { 0 };
        if all < frames || (!is_media || done) && !report.round.is_clean() {
            return Err(format!("scrub, resumed: {resume}: of {frames} frames: {report:?}"));
        }
    }
    Ok(())
}

/// Leaves a session behind whose packs are written and whose rows are not.
fn cut_short(files: &MemoryFiles, kv: &MemoryKvHome, tree: &SourceTree, seed: u64) -> Result<(), String> {
    let disk = Disk { files: files.clone(), kv: kv.clone(), faults: Faults::new() };
    let vault = lab::open(disk.place(), lab::env(seed ^ 2)).map_err(|error| chain(&error))?;
    disk.faults.fail_from(Call::KvCommit, 2, Fault::Os(libc::EIO));
    match lab::backup(&vault, &tree.path(), None) {
        Ok(_) => Err("a backup with one commit only".to_owned()),
        Err(_) => Ok(()),
    }
}

fn check_class(point: &Point, class: ErrorClass, error: &str) -> Result<(), String> {
    let full = matches!(point.fault, Fault::Os(libc::ENOSPC) | Fault::Short(libc::ENOSPC));
    let right = match point.job {
        // What cannot be read is reported by path.
        Job::Read => true,
        // A record that cannot be read is reported by name.
        Job::Forget | Job::Undelete | Job::Tag if class == ErrorClass::Damaged => true,
        // A record or branch that cannot be read stops it, whatever the reason, which it tells.
        Job::Gc if class == ErrorClass::Damaged => matches!(point.call, Call::Open | Call::Read),
        _ if full => class == ErrorClass::NoSpace,
        // Nothing was found damaged or missing: calls failed.
        _ => !matches!(class, ErrorClass::NoSpace | ErrorClass::NoVault | ErrorClass::WrongKey | ErrorClass::Usage),
    };
    match right {
        true => Ok(()),
        false => Err(format!("it is classed as {class:?}: {error}")),
    }
}

/// Lets calls of every kind fail in a job: the first, the last, and up to `most` of each kind.
pub fn sweep(seed: u64, job: Job, most: usize) -> Result<Counts, String> {
    let base = Base::new(seed, job).map_err(|problem| format!("seed {seed}: {problem}"))?;
    let disk = base.disk();
    match base.run(&disk, job, seed, &|| disk.faults.clear())? {
        End::Done(_) => {}
        End::Failed(_, error) => return Err(format!("seed {seed}: {job:?} fails of itself: {error}")),
    }
    let mut counts = Counts::default();
    for call in Call::ALL {
        let calls = disk.faults.count(call);
        let step = (calls as usize).div_ceil(most).max(1);
        for nth in (1..=calls).step_by(step).chain((calls > 1 && step > 1).then_some(calls)) {
            for &(fault, lasting) in FAULTS {
                if matches!(fault, Fault::Short(_)) && call != Call::Append {
                    continue;
                }
                let point = Point { job, call, nth, fault, lasting };
                let done = base.try_point(&point, seed).map_err(|problem| {
                    let from = if lasting { " and all later ones" } else { "" };
                    format!("seed {seed}, {job:?}, {call:?} {nth} of {calls}{from} fails with {fault:?}: {problem}")
                })?;
                counts.points += 1;
                counts.successes += usize::from(done);
            }
        }
    }
    Ok(counts)
}

/// Lets one sync after the other fail for good: what it should have written is lost, and later syncs say nothing of
/// it. Nothing of that may be believed by a later session.
pub fn lost_syncs(seed: u64) -> Result<usize, String> {
    let base = Base::new(seed, Job::Backup).map_err(|problem| format!("seed {seed}: {problem}"))?;
    for nth in 1.. {
        let disk = base.disk();
        let lose = || disk.files.lose_sync(nth);
        let told = |problem| format!("seed {seed}, what sync {nth} of a backup should have written is lost: {problem}");
        if let End::Done(_) = base.run(&disk, Job::Backup, seed, &lose)? {
            return Ok(nth as usize - 1);
        }
        base.go_on(Job::Backup, disk.place(), None, false, seed).map_err(told)?;
        base.go_on(Job::Backup, disk.after_power_cut(), None, false, seed ^ 8).map_err(told)?;
        let vault = lab::open(disk.after_power_cut(), lab::env(seed ^ 3)).map_err(|error| chain(&error))?;
        for info in vault.snapshots().map_err(|error| chain(&error))?.list {
            let reading = model::of_snapshot(&vault, &info.id, &base.tree.path());
            if let Some((path, error)) = reading.errors.first() {
                let path = String::from_utf8_lossy(path);
                return Err(told(format!("after a power cut {path:?} cannot be read: {error}")));
            }
        }
    }
    Ok(0)
}
