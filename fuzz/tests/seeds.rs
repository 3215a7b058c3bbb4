//! Runs every body over its committed seeds and over repeatable mutations of them, on stable.
//!
//! `TWINKEEP_WRITE_SEEDS=1` writes the generated seeds first. `TWINKEEP_FUZZ_SEED=N` mutates otherwise,
//! `TWINKEEP_FUZZ_TIMES=N` does N times as many. An input that fails is kept and its path printed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use twinkeep_engine::env::Dice;
use twinkeep_fuzz::{TARGETS, Target, mutate::mutate, seeds};

/// Longest time one input may take.
const INPUT_TIME_MAX: Duration = Duration::from_secs(2);
/// After this long without an end an input counts as hanging.
const HANG_TIME: Duration = Duration::from_secs(20);
/// Most bytes an input may hold at a time, of what Rust allocates: a frame, its plaintext and copies of both fit.
const HELD_MAX: isize = 64 << 20;

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn held(change: isize) {
    let now = HELD.get() + change;
    HELD.set(now);
    MOST.set(MOST.get().max(now));
}

// SAFETY: every call goes to the system's allocator as it is; counting in cells of the thread allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        held(layout.size() as isize);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        held(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        held(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        held(len as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Keeps an input that failed; returns where.
fn keep(target: &Target, bytes: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-failed", target.name));
    std::fs::write(&path, bytes).expect("room for a small file");
    path
}

/// Runs one input and holds it against the bounds.
fn run(target: &Target, bytes: &[u8], what: &str) {
    let (start, before) = (Instant::now(), HELD.get());
    MOST.set(before);
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.body)(bytes)));
    let (took, most) = (start.elapsed(), MOST.get() - before);
    let complaint = match &outcome {
        Err(_) => "panicked".into(),
        Ok(()) if took > INPUT_TIME_MAX => format!("took {took:?}"),
        Ok(()) if most > HELD_MAX => format!("held {most} bytes"),
        Ok(()) => return,
    };
    eprintln!("{} {complaint} on {what}, kept as {}", target.name, keep(target, bytes).display());
    match outcome {
        Err(panic) => resume_unwind(panic),
        Ok(()) => panic!("{} {complaint} on {what}", target.name),
    }
}

fn run_all(target: &Target, current: &AtomicU64) {
    if number("TWINKEEP_WRITE_SEEDS") == Some(1) {
        seeds::write(target).expect("the folder of seeds can be written");
    }
    let seeds = seeds::read(target).expect("every target has a folder of seeds");
    assert!(seeds.len() >= 3, "{} has {} seeds", target.name, seeds.len());
    for (name, bytes) in &seeds {
        assert!(bytes.len() <= seeds::LEN_MAX, "seed {name} has {} bytes", bytes.len());
        run(target, bytes, name);
    }
    let first = number("TWINKEEP_FUZZ_SEED").unwrap_or(1);
    let count = target.mutations as u64 * number("TWINKEEP_FUZZ_TIMES").unwrap_or(1);
    println!("{}: {} seeds, {count} mutations from TWINKEEP_FUZZ_SEED={first}", target.name, seeds.len());
    for at in 0..count {
        current.store(at, Ordering::Relaxed);
        // Each mutation from dice of its own: one is repeated without those before it.
        let mut dice = Dice(first.wrapping_mul(0x1_0000_0001).wrapping_add(at));
        let (seed, other) = (&seeds[dice.below(seeds.len())], &seeds[dice.below(seeds.len())]);
        run(target, &mutate(&seed.1, &other.1, &mut dice), &format!("mutation {at} of seed {}", seed.0));
    }
}

/// Runs a target beside a watch that ends the process when an input hangs.
fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    let (current, (done, finished)) = (AtomicU64::new(0), channel::<()>());
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let _done = done;
            run_all(target, &current);
        });
        let mut last = (0, Instant::now());
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(Duration::from_millis(500)) {
            let now = current.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            }
            if last.1.elapsed() > HANG_TIME {
                eprintln!("{name} hangs on mutation {now}");
                std::process::abort();
            }
        }
        if let Err(panic) = runner.join() {
            resume_unwind(panic);
        }
    });
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(run));
            let binaries = include_str!("../Cargo.toml");
            assert!(run.iter().all(|name| binaries.contains(&format!("name = \"{name}\""))));
        }
    };
}

targets!(branch, cache, config, device, filter, frame, keyring, names, pack, plan, record, snapshot, tree, words);
