use super::*;
use crate::backup::{BackupOptions, backup};
use crate::check::{CheckOptions, check};
use crate::env::{Clock, Dice, Inline, ManualClock, SystemEntropy, Time};
use crate::files::faulty::{Call, Fault as Failure, Faults, FaultyFiles};
use crate::files::memory::MemoryFiles;
use crate::index::{FrameNumber, FrameState};
use crate::kv::memory::MemoryKvHome;
use crate::kv::{KvHome, Table};
use crate::vault::{CreateOptions, Place, Unlock, Vault};
use std::sync::atomic::{AtomicU64, Ordering};

/// An encrypted vault in memory with three backups of a changing file.
struct World {
    files: MemoryFiles,
    kv: MemoryKvHome,
    clock: Arc<ManualClock>,
    secret: crate::crypto::VaultSecret,
    source: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let clock = Arc::new(ManualClock::new(Time(1_000_000)));
        let place = Place { files: Arc::new(files.clone()), kv_home: Arc::new(kv.clone()) };
        let env = Env { clock: clock.clone(), entropy: Arc::new(SystemEntropy), executor: Arc::new(Inline) };
        let (_, secret) = Vault::create(place, env, &CreateOptions::default(), &[]).unwrap();
        let world = Self { files, kv, clock, secret, source: tempfile::tempdir().unwrap() };
        for round in 0..3 {
            let mut bytes = vec![0; 1_500_000];
            Dice(round).fill(&mut bytes);
            std::fs::write(world.source.path().join("file"), bytes).unwrap();
            world.back_up();
        }
        world
    }

    fn env(&self) -> Env {
        Env { clock: self.clock.clone(), entropy: Arc::new(SystemEntropy), executor: Arc::new(Inline) }
    }

    fn copy(&self) -> Self {
        Self {
            files: self.files.copy(),
            kv: MemoryKvHome::from_version(self.kv.version()),
            clock: Arc::new(ManualClock::new(Time(5))),
            secret: self.secret.clone(),
            source: tempfile::tempdir().unwrap(),
        }
    }

    fn place(&self) -> Place {
        Place { files: Arc::new(self.files.clone()), kv_home: Arc::new(self.kv.clone()) }
    }

    fn vault(&self) -> Vault {
        Vault::open(self.place(), self.env(), Unlock::Secret(&self.secret), "test").unwrap()
    }

    fn back_up(&self) {
        let path = self.source.path().to_str().unwrap().as_bytes().to_vec();
        let options = BackupOptions { paths: vec![path], host: "h".into(), ..BackupOptions::default() };
        backup(&self.vault(), &options, &Progress::silent()).unwrap();
    }

    fn scrub_with(&self, options: &ScrubOptions) -> Result<ScrubReport> {
        let opened = Vault::open_store(self.place(), self.env(), "test")?;
        scrub(&opened.store, &self.env(), opened.rebuilt.as_deref(), options, &Progress::silent())
    }

    fn scrub(&self) -> ScrubReport {
        let report = self.scrub_with(&ScrubOptions::default()).unwrap();
        assert_eq!(report.end, End::Complete);
        report
    }

    fn status(&self) -> Status {
        status(&self.files, self.vault().id()).unwrap()
    }
}

fn files_of(round: &Round) -> Vec<&str> {
    round.faults.iter().map(|fault| fault.file.as_str()).collect()
}

#[test]
fn a_whole_vault_is_clean_and_every_flip_is_found_without_a_key() {
    let world = World::new();
    assert_eq!(world.status(), Status::default());
    let ScrubReport { round, notes, .. } = world.scrub();
    assert!(round.is_clean() && notes.is_empty(), "{round:?} {notes:?}");
    let frames = world.vault().local().unwrap().frame_rows(FrameNumber(0), 1000).unwrap().len() as u64;
    assert_eq!((round.number, round.counts.packs, round.counts.frames, round.counts.records), (1, 6, frames, 3));
    assert_eq!((world.status().last, world.status().present), (Some(round), None));
    assert_eq!(world.files.paths().iter().filter(|path| path.starts_with("scrub/")).count(), 1);
    let mut dice = Dice(5);
    for path in world.files.paths() {
        if ["locks/", "sessions/", "scrub/"].iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let len = world.files.bytes(&path).unwrap().len();
        let places = [0, 40, 70, len - 1, len - 40, len - 64, len - 65, len - 100].into_iter();
        for at in places.chain((0..4).map(|_| dice.below(len))).collect::<Vec<_>>() {
            let copy = world.copy();
            copy.files.damage(&path, |bytes| bytes[at] ^= 1 << dice.below(8));
            let round = copy.scrub().round;
            assert_eq!(files_of(&round), [path.as_str()], "byte {at} of {len}");
            assert!(!round.is_clean() && round.faults[0].done != Done::Pending);
            assert_eq!(round.counts.frames + (round.faults[0].done == Done::SetAside) as u64, frames);
        }
    }
}

#[test]
fn what_is_missing_or_cut_is_found_once() {
    let world = World::new();
    for path in world.files.paths() {
        if path.starts_with("locks/") || path.starts_with("sessions/") || path == "records/0000000000000003" {
            continue;
        }
        for cut in [None, Some(0), Some(100)] {
            let copy = world.copy();
            match cut {
                None => copy.files.remove(&path).unwrap(),
                Some(len) => drop(copy.files.damage(&path, |bytes| bytes.truncate(len))),
            }
            let named = match path.as_str() {
                "records/0000000000000001" if cut.is_none() => "records/0000000000000002",
                "records/0000000000000002" if cut.is_none() => "records/0000000000000003",
                path => path,
            };
            let round = copy.scrub().round;
            assert_eq!(files_of(&round), [named], "{cut:?}");
            let is_pack = path.starts_with("packs/");
            assert_eq!(round.faults[0].done == Done::SetAside, is_pack, "{path} {cut:?}");
            // It is known from now on, and the vault is not clean for that.
            let again = copy.scrub().round;
            assert_eq!((again.number, again.is_clean()), (2, false));
            assert!(
                !is_pack
                    || again.counts.lost_chunks > 0 && again.faults.iter().all(|fault| fault.done == Done::Earlier),
                "{again:?}"
            );
        }
    }
}

#[test]
fn what_it_expels_the_next_backup_heals() {
    let world = World::new();
    let mut packs = world.vault().local().unwrap().pack_rows().unwrap().into_iter().map(|(_, row)| row.name);
    let path = packs.rfind(|name| name.kind == crate::id::Kind::Leaf).unwrap().path();
    world.files.damage(&path, |bytes| bytes[64 + 3000] ^= 1);
    let round = world.scrub().round;
    assert_eq!(files_of(&round), [path.as_str()]);
    assert_eq!((round.faults[0].offset, round.faults[0].done), (Some(64), Done::SetAside));
    assert_eq!(world.status().last.as_ref(), Some(&round));
    assert!(!world.vault().store().unwhole().unwrap().is_empty());
    world.back_up();
    let round = world.scrub().round;
    assert!(round.is_clean() && round.counts.set_aside == 1 && round.number == 2, "{round:?}");
    let all = CheckOptions { read_data: true, subset: None };
    assert!(check(&world.vault(), &all, &Progress::silent()).unwrap().is_clean());
}

#[test]
fn one_at_a_time_paused_and_resumed_at_a_rate() {
    let world = World::new();
    let (files, clock) = (world.files.clone(), world.clock.clone());
    let waits = Arc::new(AtomicU64::new(0));
    let waited = waits.clone();
    // Meanwhile somebody looks, tries to scrub, too, and asks for a pause.
    let other = world.copy();
    let seen = World { files: world.files.clone(), kv: world.kv.clone(), ..other };
    let pausing = ScrubOptions {
        rate: NonZeroU64::new(1 << 20),
        wait: Arc::new(move |time| {
            assert!(time <= Duration::from_millis(200) && !time.is_zero());
            clock.advance(time);
            if waited.fetch_add(1, Ordering::Relaxed) == 3 {
                assert_eq!(running(&files).unwrap().as_deref(), Some("test"));
                let error = seen.scrub_with(&ScrubOptions::default()).unwrap_err();
                assert_eq!((error.class(), error.to_string().contains("in use by test")), (ErrorClass::Busy, true));
                assert_eq!(ask_to_pause(&files).unwrap().as_deref(), Some("test"));
            }
        }),
        ..ScrubOptions::default()
    };
    let paused = world.scrub_with(&pausing).unwrap();
    assert_eq!(paused.end, End::Paused);
    assert!(waits.load(Ordering::Relaxed) <= 4 + 3, "within a second");
    let (percent, counts) = (paused.round.percent(), paused.round.counts);
    assert!(percent > 0.0 && percent < 100.0 && counts.frames > 0, "{paused:?}");
    assert_eq!(world.status().present.as_ref(), Some(&paused.round));
    assert_eq!((ask_to_pause(&world.files).unwrap(), world.status().running), (None, None));
    assert!(world.files.bytes(PAUSE).is_none());
    let began = world.clock.elapsed();
    let clock = world.clock.clone();
    let wait: Arc<Wait> = Arc::new(move |time| clock.advance(time));
    let rest = ScrubOptions { resume: true, rate: NonZeroU64::new(1 << 20), wait };
    let done = world.scrub_with(&rest).unwrap();
    assert_eq!((done.end, done.round.number, done.round.is_clean()), (End::Complete, 1, true));
    let secs = (done.round.counts.bytes - counts.bytes) as f64 / (1 << 20) as f64;
    let took = (world.clock.elapsed() - began).as_secs_f64();
    assert!(took > secs - 1.0 && took < secs + 1.0, "{took} for {secs}");
    assert!(matches!(world.scrub_with(&rest), Err(ScrubError::NothingLeft)));
    // One that was left can be given up.
    let progress = Progress::silent();
    progress.cancel();
    let opened = Vault::open_store(world.place(), world.env(), "test").unwrap();
    let ended = scrub(&opened.store, &world.env(), None, &ScrubOptions::default(), &progress).unwrap();
    assert_eq!((ended.end, ended.round.number), (End::Interrupted, 2));
    let anew = world.scrub();
    assert_eq!((anew.round.number, anew.notes.len()), (3, 1));
}

#[test]
fn a_place_that_is_not_readable_is_told_and_the_round_begins_anew() {
    let world = World::new();
    let frames = world.scrub().round.counts.frames;
    let (files, clock) = (world.files.clone(), world.clock.clone());
    let wait: Arc<Wait> = Arc::new(move |time| {
        clock.advance(time);
        ask_to_pause(&files).unwrap();
    });
    let pausing = ScrubOptions { rate: NonZeroU64::new(1 << 20), wait, ..ScrubOptions::default() };
    assert_eq!(world.scrub_with(&pausing).unwrap().end, End::Paused);
    for path in [PRESENT, PACKS] {
        for edit in [|bytes: &mut Vec<u8>| bytes[30] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(50), Vec::clear] {
            let copy = world.copy();
            assert!(copy.files.damage(path, edit));
            let resume = ScrubOptions { resume: true, ..ScrubOptions::default() };
            let report = copy.scrub_with(&resume).unwrap();
            assert_eq!((report.round.counts.frames, report.round.is_clean()), (frames, true));
            assert!(report.notes.iter().any(|note| note.contains("begins anew")), "{:?}", report.notes);
        }
    }
}

#[test]
fn what_is_wrong_only_once_is_not_bad_and_errors_of_the_process_are_neither() {
    let world = World::new();
    let run = |copy: &World, failure, lasting: bool, nth| {
        let faults = Faults::new();
        let files = FaultyFiles::new(Arc::new(copy.files.clone()), faults.clone());
        let opened = Vault::open_store(Place { files: Arc::new(files), ..copy.place() }, copy.env(), "test").unwrap();
        match lasting {
            true => faults.fail_from(Call::Read, nth, failure),
            false => faults.fail_once(Call::Read, nth, failure),
        }
        scrub(&opened.store, &copy.env(), None, &ScrubOptions::default(), &Progress::silent())
    };
    for nth in 1..=40 {
        for failure in [Failure::Wrong, Failure::Os(libc::EIO)] {
            let copy = world.copy();
            let report = run(&copy, failure, false, nth).unwrap();
            assert!(report.round.is_clean(), "read {nth}, {failure:?}: {:?}", report.round);
        }
        let copy = world.copy();
        if let Ok(report) = run(&copy, Failure::Os(libc::EMFILE), true, nth) {
            assert!(nth > 10 && report.round.is_clean(), "read {nth}: {report:?}");
        }
        let rows = copy.vault().local().unwrap().frame_rows(FrameNumber(0), 1000).unwrap();
        assert!(rows.iter().all(|(_, place)| place.state == FrameState::Good), "read {nth}");
        // It goes on from there.
        let resume = ScrubOptions { resume: true, ..ScrubOptions::default() };
        match copy.scrub_with(&resume) {
            Ok(report) => assert_eq!((report.round.counts.frames, report.round.is_clean()), (rows.len() as u64, true)),
            Err(error) => assert!(matches!(error, ScrubError::NothingLeft), "{error}"),
        }
    }
    let report = run(&world.copy(), Failure::Os(libc::EIO), true, 20).unwrap();
    assert!(!report.round.is_clean());
}

/// A clock that does something at every look at it.
struct Hooked<F>(ManualClock, F);

impl<F: Fn() + Send + Sync> Clock for Hooked<F> {
    fn now(&self) -> Time {
        self.0.now()
    }
    fn elapsed(&self) -> Duration {
        (self.1)();
        self.0.elapsed()
    }
}

#[test]
fn frames_that_move_and_packs_that_go_meanwhile_are_no_damage() {
    let world = World::new();
    let mut nth = 0;
    loop {
        let copy = world.copy();
        let (files, kv) = (copy.files.clone(), copy.kv.open().unwrap().unwrap());
        let calls = AtomicU64::new(0);
        let moved = Arc::new(AtomicU64::new(0));
        let count = moved.clone();
        nth += 1;
        // As gc does it: frames get other places, the row of the pack goes, then its file.
        let hook = move || {
            if calls.fetch_add(1, Ordering::Relaxed) + 1 == nth {
                count.fetch_add(1, Ordering::Relaxed);
                move_a_pack(&files, &*kv);
            }
        };
        let clock = Arc::new(Hooked(ManualClock::new(Time(5)), hook));
        let env = Env { clock, ..copy.env() };
        let opened = Vault::open_store(copy.place(), copy.env(), "test").unwrap();
        let report = scrub(&opened.store, &env, None, &ScrubOptions::default(), &Progress::silent()).unwrap();
        let round = report.round;
        assert!(round.is_clean(), "at call {nth}: {round:?}");
        let rows = opened.store.frame_rows(FrameNumber(0), 1000).unwrap();
        assert!(rows.iter().all(|(_, place)| place.state == FrameState::Good));
        assert!(round.counts.frames >= rows.len() as u64, "at call {nth}: {round:?}");
        if moved.load(Ordering::Relaxed) == 0 {
            assert!(nth > 20);
            break;
        }
    }
}

/// Copies the greatest pack under a name that comes first, and takes the old one away.
fn move_a_pack(files: &MemoryFiles, kv: &dyn crate::kv::Kv) {
    use crate::index;
    let mut write = kv.write().unwrap();
    let packs = index::packs(&*write).unwrap();
    let (number, row) = packs.into_iter().max_by_key(|(_, row)| row.name).unwrap();
    let name = crate::pack::PackName { session: crate::id::SessionId([0; 16]), ..row.name };
    let mut bytes = files.bytes(&row.name.path()).unwrap();
    let vault = VaultId(bytes[16..32].try_into().unwrap());
    bytes[..64].copy_from_slice(&crate::pack::header(vault, &name));
    files.put(&name.path(), bytes);
    let next = index::next_pack(&*write).unwrap();
    index::put_pack(&mut *write, next, &crate::index::PackRow { name, ..row }).unwrap();
    for (frame, place) in index::frames_from(&*write, FrameNumber(0), 1000).unwrap() {
        if place.pack == number {
            index::put_frame(&mut *write, frame, &crate::index::FramePlace { pack: next, ..place }).unwrap();
        }
    }
    write.delete(Table::Packs, &number.0.to_be_bytes()).unwrap();
    write.commit().unwrap();
    files.remove(&row.name.path()).unwrap();
}

#[test]
fn an_index_that_is_gone_is_built_again_and_that_is_said() {
    let world = World::new();
    let frames = world.scrub().round.counts.frames;
    world.kv.remove();
    let report = world.scrub();
    assert_eq!((report.round.counts.frames, report.round.is_clean(), report.notes.len()), (frames, true, 1));
}
