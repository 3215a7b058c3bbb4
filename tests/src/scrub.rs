//! Scrubs that are interrupted, that run beside backups, whose place is lost, and whose disk lies: what they verify is
//! everything, once, and what they call bad is bad.

use crate::lab::{self, Taken, chain};
use crate::tree::{Shape, SourceTree};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twinkeep_engine::env::{Clock, Env, ManualClock, Time};
use twinkeep_engine::files::Files;
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::index::{FrameNumber, FrameState};
use twinkeep_engine::kv::memory::{MemoryKvHome, Version};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::scrub::{self, Done, End, ScrubError, ScrubOptions, ScrubReport};
use twinkeep_engine::vault::{Place, Vault};

/// A vault with two snapshots, and how many frames it has.
pub struct Base {
    files: MemoryFiles,
    kv: Option<Version>,
    taken: Vec<Taken>,
    tree: SourceTree,
    frames: u64,
    seed: u64,
}

/// One copy of it.
struct Disk {
    files: MemoryFiles,
    kv: MemoryKvHome,
}

impl Disk {
    fn place(&self) -> Place {
        lab::place(self.files.clone(), self.kv.clone())
    }

    fn after_power_cut(&self) -> Self {
        Self { files: self.files.crash(), kv: self.kv.crash() }
    }
}

/// A clock that calls somebody at every look, and on which a second passes with each.
struct Hooked {
    clock: ManualClock,
    looks: AtomicU64,
    hook: Box<dyn Fn(u64) + Send + Sync>,
}

impl Clock for Hooked {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn elapsed(&self) -> Duration {
        self.clock.advance(Duration::from_secs(1));
        (self.hook)(self.looks.fetch_add(1, Ordering::Relaxed) + 1);
        self.clock.elapsed()
    }
}

/// Scrubs; `hook` is called with the count of each look at the clock, of which there is at least one a frame.
fn run(
    place: Place,
    resume: bool,
    progress: &Progress,
    hook: impl Fn(u64) + Send + Sync + 'static,
) -> Result<ScrubReport, ScrubError> {
    let clock = Arc::new(Hooked { clock: ManualClock::new(Time(7)), looks: AtomicU64::new(0), hook: Box::new(hook) });
    let opened = Vault::open_store(place, lab::env(1), "test")?;
    let env = Env { clock, ..lab::env(1) };
    let options = ScrubOptions { resume, ..ScrubOptions::default() };
    scrub::scrub(&opened.store, &env, opened.rebuilt.as_deref(), &options, progress)
}

fn plain(place: Place, resume: bool) -> Result<ScrubReport, String> {
    run(place, resume, &Progress::silent(), |_| {}).map_err(|error| format!("scrub: {}", chain(&error)))
}

impl Base {
    /// Makes the vault.
    pub fn new(seed: u64) -> Result<Self, String> {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let mut tree = SourceTree::new(seed, Shape::SMALL);
        let vault = lab::create(lab::place(files.clone(), kv.clone()), lab::env(seed)).map_err(|e| chain(&e))?;
        let mut taken = Vec::new();
        for _ in 0..2 {
            tree.change();
            taken.push(lab::take(&vault, &tree, None).map_err(|error| chain(&error))?);
        }
        let rows = vault.local().unwrap().frame_rows(FrameNumber(0), 100_000).map_err(|error| chain(&error))?;
        Ok(Self { files: files.copy(), kv: kv.version(), taken, tree, frames: rows.len() as u64, seed })
    }

    fn disk(&self) -> Disk {
        Disk { files: self.files.copy(), kv: MemoryKvHome::from_version(self.kv.clone()) }
    }

    /// Damages one byte in each of some frames; returns how many were hit.
    fn damage(&self, disk: &Disk, every: usize) -> Result<u64, String> {
        let vault = lab::open(disk.place(), lab::env(self.seed ^ 9)).map_err(|error| chain(&error))?;
        let frames = vault.store().frames(FrameNumber(0), 100_000).map_err(|error| chain(&error))?;
        let hit: Vec<_> = frames.iter().step_by(every).collect();
        for frame in &hit {
            let pack = vault.store().pack_name(frame.pack).map_err(|error| chain(&error))?;
            disk.files.damage(&format!("packs/{pack}"), |bytes| bytes[frame.offset as usize + 150] ^= 4);
        }
        Ok(hit.len() as u64)
    }

    /// What a complete round has to come to when `hit` frames are bad.
    fn expect(&self, report: &ScrubReport, hit: u64) -> Result<(), String> {
        let round = &report.round;
        let is_set_aside = |done| matches!(done, Done::SetAside | Done::Earlier);
        let set_aside = round.faults.iter().filter(|fault| is_set_aside(fault.done)).count() as u64;
        match report.end == End::Complete
            && (round.counts.frames, set_aside, round.faults.len() as u64) == (self.frames - hit, hit, hit)
            && round.is_clean() == (hit == 0)
            && round.counts.records == self.taken.len() as u64
        {
            true => Ok(()),
            false => Err(format!("of {} frames {hit} are damaged: {report:?}", self.frames)),
        }
    }
}

/// A scrub is interrupted at its n-th step, for every n, and goes on; now and then it is interrupted again. All frames
/// are verified, none twice, and the damaged ones are found.
pub fn interrupted_everywhere(seed: u64, step: u64) -> Result<usize, String> {
    let base = Base::new(seed)?;
    let mut points = 0;
    for every in [usize::MAX, 3] {
        for nth in (1..).step_by(step as usize) {
            let disk = base.disk();
            let hit = if every == usize::MAX { 0 } else { base.damage(&disk, every)? };
            let progress = Progress::silent();
            let stop = progress.clone();
            let hook = move |look| {
                if look == nth {
                    stop.cancel()
                }
            };
            let told = |problem| format!("seed {seed}, interrupted at {nth}: {problem}");
            let first = run(disk.place(), false, &progress, hook).map_err(|error| told(chain(&error)))?;
            if first.end == End::Complete {
                base.expect(&first, hit).map_err(told)?;
                break;
            }
            points += 1;
            if nth % 5 == 0 {
                let progress = Progress::silent();
                let stop = progress.clone();
                let hook = move |look| {
                    if look == nth / 2 + 4 {
                        stop.cancel()
                    }
                };
                let again = run(disk.place(), true, &progress, hook).map_err(|error| told(chain(&error)))?;
                if again.end == End::Complete {
                    base.expect(&again, hit).map_err(told)?;
                    continue;
                }
            }
            let rest = plain(disk.place(), true).map_err(told)?;
            base.expect(&rest, hit).map_err(told)?;
        }
    }
    Ok(points)
}

/// Power fails at the n-th step of a scrub. The next one goes on from a place written down, or begins anew; it finds all
/// that is damaged, and everything else is fine.
pub fn power_cuts(seed: u64, step: u64) -> Result<usize, String> {
    let base = Base::new(seed)?;
    let mut points = 0;
    for nth in (1..).step_by(step as usize) {
        let disk = base.disk();
        let hit = base.damage(&disk, 4)?;
        let cut: Arc<Mutex<Option<Disk>>> = Arc::default();
        let (kept, files, kv) = (cut.clone(), disk.files.clone(), disk.kv.clone());
        let hook = move |look| {
            if look == nth {
                let now = Disk { files: files.clone(), kv: kv.clone() }.after_power_cut();
                *kept.lock().expect("nobody panics here") = Some(now);
            }
        };
        let told = |problem| format!("seed {seed}, power failed at {nth}: {problem}");
        run(disk.place(), false, &Progress::silent(), hook).map_err(|error| told(chain(&error)))?;
        let Some(after) = cut.lock().expect("nobody panics here").take() else { return Ok(points) };
        points += 1;
        let resume = after.files.open("scrub/present").is_ok();
        // A torn place is none.
        let torn = nth % 7 == 0 && after.files.damage("scrub/present", |bytes| bytes.truncate(bytes.len() / 2));
        let report = plain(after.place(), resume).map_err(told)?;
        let found = report.round.faults.len() as u64;
        if found != hit || report.round.counts.frames + hit != base.frames || report.round.is_clean() {
            return Err(told(format!("{hit} frames are damaged, torn: {torn}: {report:?}")));
        }
    }
    Ok(points)
}

/// The disk gives wrong bytes once, or fails once: nothing is bad, and nothing is expelled.
pub fn wrong_once(seed: u64, step: u64) -> Result<(), String> {
    let base = Base::new(seed)?;
    for fault in [Fault::Wrong, Fault::Os(libc::EIO)] {
        for nth in (1..).step_by(step as usize) {
            let disk = base.disk();
            let faults = Faults::new();
            let files = FaultyFiles::new(Arc::new(disk.files.clone()), faults.clone());
            let place = Place { files: Arc::new(files), ..disk.place() };
            let arm = faults.clone();
            let hook = move |look| {
                if look == 1 {
                    arm.fail_once(Call::Read, nth, fault)
                }
            };
            let told = |problem| format!("seed {seed}, read {nth} fails once with {fault:?}: {problem}");
            let report = run(place, false, &Progress::silent(), hook).map_err(|error| told(chain(&error)))?;
            base.expect(&report, 0).map_err(told)?;
            if faults.hits() == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Reads fail for want of means: that is no damage and no proof of anything; the scrub ends, and goes on later.
pub fn errors_are_not_clean(seed: u64, step: u64) -> Result<(), String> {
    let base = Base::new(seed)?;
    for nth in (1..).step_by(step as usize) {
        let disk = base.disk();
        let hit = base.damage(&disk, 5)?;
        let faults = Faults::new();
        let files = FaultyFiles::new(Arc::new(disk.files.clone()), faults.clone());
        let place = Place { files: Arc::new(files), ..disk.place() };
        let arm = faults.clone();
        let hook = move |look| {
            if look == 1 {
                arm.fail_from(Call::Read, nth, Fault::Os(libc::EMFILE))
            }
        };
        let told = |problem| format!("seed {seed}, from read {nth} on there are no descriptors: {problem}");
        let ended = run(place.clone(), false, &Progress::silent(), hook);
        let hits = faults.hits();
        faults.clear();
        let report = match ended {
            Ok(_) if hits > 0 => return Err(told("the scrub takes that for a success".to_owned())),
            Ok(report) => return base.expect(&report, hit).map_err(told),
            Err(_) => plain(place, true).map_err(told)?,
        };
        base.expect(&report, hit).map_err(told)?;
    }
    Ok(())
}

/// A scrub beside backups, each going on at many moments of the other, finds nothing; and the snapshots are whole.
pub fn beside_backups(seed: u64) -> Result<(), String> {
    let mut base = Base::new(seed)?;
    base.tree.change();
    let disk = base.disk();
    let told = |problem| format!("seed {seed}: {problem}");
    let (place, path) = (disk.place(), base.tree.path());
    let taken: Arc<Mutex<Vec<Result<(), String>>>> = Arc::default();
    let results = taken.clone();
    let hook = move |look| {
        if look % 9 == 2 {
            let done = lab::open(place.clone(), lab::env(seed ^ look))
                .map_err(|error| chain(&error))
                .and_then(|vault| lab::backup(&vault, &path, None).map(drop).map_err(|error| chain(&error)));
            results.lock().expect("nobody panics here").push(done);
        }
    };
    let report = run(disk.place(), false, &Progress::silent(), hook).map_err(|error| told(chain(&error)))?;
    let taken = std::mem::take(&mut *taken.lock().expect("nobody panics here"));
    if taken.len() < 3 {
        return Err(told(format!("only {} backups ran beside the scrub", taken.len())));
    }
    taken.into_iter().collect::<Result<(), String>>().map_err(told)?;
    if !report.round.is_clean() || report.round.counts.frames < base.frames {
        return Err(told(format!("{report:?}")));
    }
    let vault = lab::open(disk.place(), lab::env(seed ^ 77)).map_err(|error| told(chain(&error)))?;
    let rows = vault.local().unwrap().frame_rows(FrameNumber(0), 100_000).map_err(|error| told(chain(&error)))?;
    if rows.iter().any(|(_, place)| place.state != FrameState::Good) {
        return Err(told("a frame lost its standing".to_owned()));
    }
    base.taken.iter().try_for_each(|taken| taken.verify(&vault)).map_err(told)
}
