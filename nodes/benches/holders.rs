//! The map of holders at size: `cargo bench -p twinkeep-nodes --bench holders -- 1000000 10000000`, with numbers of
//! frames.
//!
//! For each number, frames of one vault are entered into an LMDB map in a temporary folder (`TMPDIR`), all confirmed by
//! one machine, looked up, and the machine is forgotten. Each line gives the rate, the longest single call and the most
//! anonymous memory of the process, in MB (10^6 bytes); mapped pages are not among them, the system takes those back.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use twinkeep_engine::env::Dice;
use twinkeep_engine::id::{FrameId, Kind, VaultId};
use twinkeep_engine::kv::KvHome;
use twinkeep_engine::kv::lmdb::LmdbHome;
use twinkeep_nodes::tracker::MachineNumber;
use twinkeep_nodes::tracker::holders::{COPIES_WANTED_DEFAULT, Holders, NewFrame, Why, init};
use twinkeep_nodes::tracker::limits::FRAMES_PER_CHANGE_MAX;

const VAULT: VaultId = VaultId([1; 16]);
const HOLDER: MachineNumber = MachineNumber(1);

/// One frame in so many fails its scrub.
const RETRACTED_STEP: usize = 100;

fn main() {
    watch_memory();
    let counts = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let counts: Vec<usize> = counts.map(|arg| arg.parse().expect("a number of frames")).collect();
    for count in if counts.is_empty() { vec![100_000] } else { counts } {
        let folder = tempfile::tempdir().expect("a folder");
        run(folder.path(), count);
    }
}

fn run(folder: &Path, count: usize) {
    let prepare = &mut |kv: &dyn twinkeep_engine::kv::Kv| {
        let mut write = kv.write()?;
        init(&mut *write, COPIES_WANTED_DEFAULT)?;
        write.commit()
    };
    let holders = Holders::open(LmdbHome::new(folder.to_path_buf()).replace(prepare).expect("a map")).expect("a map");
    println!("{count} frames");

    let mut dice = Dice(1);
    let mut pace = Pace::new("enter");
    for from in (0..count).step_by(FRAMES_PER_CHANGE_MAX) {
        let part = from..count.min(from + FRAMES_PER_CHANGE_MAX);
        let frames: Vec<_> = part.clone().map(|number| frame(&mut dice, number)).collect();
        pace.time(part.len(), || holders.enter(VAULT, &frames, part.end as u64).expect("entered"));
    }
    pace.end();

    let mut pace = Pace::new("confirm");
    each_batch(count, |ids| pace.time(ids.len(), || assert!(holders.confirm(HOLDER, ids).expect("noted").is_empty())));
    pace.end();
    assert!(!holders.is_owed_below(VAULT, count as u64 - 1).expect("an answer"));

    let mut pace = Pace::new("holders_of");
    each_batch(count, |ids| pace.time(ids.len(), || drop(holders.holders_of(ids).expect("an answer"))));
    pace.end();

    let mut pace = Pace::new("retract some");
    each_batch(count, |ids| {
        let some: Vec<_> = ids.iter().step_by(RETRACTED_STEP).copied().collect();
        pace.time(some.len(), || drop(holders.retract(HOLDER, &some, Why::ScrubFailed).expect("noted")));
    });
    pace.end();

    let mut pace = Pace::new("forget");
    loop {
        let before = Instant::now();
        let done = holders.forget_machine(HOLDER, FRAMES_PER_CHANGE_MAX).expect("forgotten");
        pace.add(done.forgotten as usize, before.elapsed());
        if done.left == 0 {
            break;
        }
    }
    pace.end();

    let (mut pace, mut after) = (Pace::new("owed"), None);
    while let Some(last) = pace.time(FRAMES_PER_CHANGE_MAX, || {
        holders.owed(after, FRAMES_PER_CHANGE_MAX).expect("an answer").last().map(|owed| owed.cursor)
    }) {
        after = Some(last);
    }
    pace.end();
    let len = std::fs::metadata(folder.join("index/data.mdb")).expect("the map's file").len();
    println!("  map of {} MB, {} B a frame", len / 1_000_000, len / count as u64);
}

fn frame(dice: &mut Dice, number: usize) -> NewFrame {
    let mut id = FrameId([0; 32]);
    dice.fill(&mut id.0);
    let kind = if number.is_multiple_of(20) { Kind::Branch } else { Kind::Leaf };
    NewFrame { id, number_in_index: number as u64, kind, len: 1 << 20, writer: Some(HOLDER), spread: false }
}

/// The ids that were entered, drawn anew.
fn each_batch(count: usize, mut work: impl FnMut(&[FrameId])) {
    let mut dice = Dice(1);
    for from in (0..count).step_by(FRAMES_PER_CHANGE_MAX) {
        let ids: Vec<_> = (from..count.min(from + FRAMES_PER_CHANGE_MAX)).map(|n| frame(&mut dice, n).id).collect();
        work(&ids);
    }
}

/// How fast calls are.
struct Pace {
    what: &'static str,
    frames: usize,
    time: Duration,
    longest: Duration,
}

impl Pace {
    fn new(what: &'static str) -> Self {
        Self { what, frames: 0, time: Duration::ZERO, longest: Duration::ZERO }
    }

    fn time<T>(&mut self, frames: usize, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let outcome = work();
        self.add(frames, begun.elapsed());
        outcome
    }

    fn add(&mut self, frames: usize, took: Duration) {
        self.frames += frames;
        self.time += took;
        self.longest = self.longest.max(took);
    }

    fn end(self) {
        let rate = self.frames as f64 / self.time.as_secs_f64();
        let longest = self.longest.as_millis();
        let most = ANONYMOUS_MOST.swap(0, Ordering::Relaxed) / 1_000_000;
        let (what, seconds) = (self.what, self.time.as_secs_f64());
        println!("  {what:14} {seconds:7.1} s {rate:9.0}/s, longest {longest} ms, {most} MB");
    }
}

/// The most anonymous memory since it was last asked, bytes.
static ANONYMOUS_MOST: AtomicU64 = AtomicU64::new(0);

fn watch_memory() {
    std::thread::spawn(|| {
        loop {
            ANONYMOUS_MOST.fetch_max(anonymous(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
}

fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
