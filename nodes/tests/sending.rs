//! On what terms copies are sent, and when they may be let go: a host with its clock in hand, and machines of which only
//! the errands are seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use twinkeep_engine::env::{Env, Inline, ManualClock, SeededEntropy, Time};
use twinkeep_engine::id::{FrameId, Kind, VaultId};
use twinkeep_nodes::host::ground::Folder;
use twinkeep_nodes::host::online::{Errand, Live};
use twinkeep_nodes::host::setup::{self, HostOptions};
use twinkeep_nodes::host::terms::{Network, Pace, Terms};
use twinkeep_nodes::host::{Host, copier, mover, watch};
use twinkeep_nodes::tracker::MachineNumber;
use twinkeep_nodes::tracker::event::Event;
use twinkeep_nodes::tracker::holders::NewFrame;
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::names::{MachineId, NodeKey};
use twinkeep_nodes::tracker::placement::Hindrance;
use twinkeep_nodes::tracker::presence::Event as Seen;
use twinkeep_nodes::tracker::standing::Fault;
use twinkeep_nodes::work::Work;

const VAULT: VaultId = VaultId([4; 16]);
const MIB: u64 = 1 << 20;

fn id(n: usize) -> FrameId {
    FrameId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn key(n: u8) -> NodeKey {
    NodeKey([n; 32])
}

struct Bench {
    clock: Arc<ManualClock>,
    host: Arc<Host>,
    errands: BTreeMap<u8, mpsc::UnboundedReceiver<Errand>>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// A host with so many machines, and so many frames of a mebibyte.
    fn new(machines: u8, frames: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Time(1_800_000_000_000_000_000)));
        let env = Env { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(3)), executor: Arc::new(Inline) };
        let data = folder.path().join("host");
        let options = HostOptions {
            name: "host".into(),
            listen: "127.0.0.1:0".into(),
            addresses: vec!["127.0.0.1:1".into()],
            machine_id: [99; 16],
        };
        setup::init(&data, &env, &options).unwrap();
        let identity = setup::load(&data).unwrap();
        let host = Host::open(Box::new(Folder(data)), env, Work::Here, identity).unwrap();
        let mut bench = Self { clock, host, errands: BTreeMap::new(), _folder: folder };
        (1..=machines).for_each(|n| bench.come(n));
        bench.enter(0..frames, None, false);
        bench
    }

    fn come(&mut self, n: u8) {
        let (name, token_hash, machine_id) = (format!("pc{n}"), [n; 32], MachineId([n; 16]));
        let expires = Time(i64::MAX);
        let token = Event::NodeTokenMade { name: name.clone(), token_hash, expires, auto: true };
        self.host.office.append(Actor::Host, token).unwrap();
        let joined = Event::NodeJoined { name, key: key(n), machine_id, token_hash, pending: false };
        self.host.office.append(Actor::Host, joined).unwrap();
        let (errands, queue) = mpsc::unbounded_channel();
        let live = Live {
            number: MachineNumber(n.into()),
            run: [n; 16],
            heard: Duration::ZERO,
            machine_id: [n; 16],
            address: IpAddr::from([10, 0, 0, n]),
            granted: 1 << 40,
            used: 0,
            free: 1 << 40,
            reserve: 0,
            is_on_battery: false,
            is_surplus: false,
            frames: 0,
            version: String::new(),
            is_compared: true,
            is_asked: false,
            digests: [None; 2],
            errands,
        };
        self.host.online.lock().unwrap().come(key(n), live);
        self.errands.insert(n, queue);
        watch::note(&self.host, Seen::Joined(MachineNumber(n.into()))).unwrap();
        self.beat();
    }

    fn beat(&self) {
        for n in self.errands.keys() {
            watch::note(&self.host, Seen::Beat(MachineNumber((*n).into()))).unwrap();
        }
    }

    fn enter(&self, numbers: std::ops::Range<usize>, writer: Option<u32>, spread: bool) {
        let writer = writer.map(MachineNumber);
        let new = |n: usize| NewFrame {
            id: id(n),
            number_in_index: n as u64,
            kind: Kind::Leaf,
            len: MIB as u32,
            writer,
            spread,
        };
        let frames: Vec<NewFrame> = numbers.map(new).collect();
        let end = frames.last().map_or(0, |last| last.number_in_index + 1);
        self.host.holders.enter(VAULT, &frames, end).unwrap();
    }

    fn confirm(&self, machine: u32, numbers: std::ops::Range<usize>) {
        let ids: Vec<FrameId> = numbers.map(id).collect();
        self.host.holders.confirm(MachineNumber(machine), &ids).unwrap();
    }

    fn change(&self, n: u8, change: impl FnOnce(&mut Live)) {
        change(self.host.online.lock().unwrap().live_mut(&key(n)).unwrap());
    }

    fn plan(&self) -> usize {
        copier::plan(&self.host, self.host.env().clock.elapsed()).unwrap()
    }

    /// Machines take what was sent; how many bytes that was.
    fn take(&mut self) -> u64 {
        let mut bytes = 0;
        for (n, queue) in &mut self.errands {
            while let Ok(errand) = queue.try_recv() {
                let Errand::Send(frames) = errand else { panic!("{errand:?}") };
                let machine = MachineNumber((*n).into());
                let ids: Vec<FrameId> = frames.iter().map(|wanted| wanted.id).collect();
                self.host.holders.confirm(machine, &ids).unwrap();
                self.host.copier.done(machine, &frames);
                bytes += ids.len() as u64 * MIB;
            }
        }
        bytes
    }

    fn holders(&self, n: usize) -> Vec<u32> {
        self.host.holders.holders_of(&[id(n)]).unwrap()[0].iter().map(|machine| machine.0).collect()
    }
}

#[test]
fn no_more_is_sent_in_any_time_than_the_limit_allows() {
    const RATE: u64 = 5 * MIB;
    const STEP: Duration = Duration::from_millis(100);
    let mut bench = Bench::new(3, 4000);
    let is_working = Arc::new(AtomicBool::new(true));
    let holds = is_working.clone();
    let pace = Pace { rate: RATE, holds: Box::new(move |_| holds.load(Ordering::Relaxed)) };
    bench.host.copier.set_terms(Terms { pace: Some(pace), networks: Vec::new() });
    let mut sums = vec![0];
    for step in 0..3000 {
        if step % 50 == 0 {
            bench.beat();
        }
        bench.plan();
        let sent = bench.take();
        sums.push(sums[step] + sent);
        bench.clock.advance(STEP);
    }
    let total = sums[3000];
    println!("{} MiB in 300 s at {} MiB/s", total / MIB, RATE / MIB);
    // Two seconds of it at once, and a frame that began before they were over.
    for (from, to) in (0..3000).flat_map(|from| [1, 10, 100, 1000].map(|len| (from, from + len))) {
        if let Some(end) = sums.get(to) {
            let allowed = RATE * (to - from) as u64 / 10 + 2 * RATE + MIB;
            assert!(end - sums[from] <= allowed, "{from} to {to}: {} of {allowed}", end - sums[from]);
        }
    }
    assert!(total >= RATE * 300 * 98 / 100, "{total}: the limit is used");

    // After hours everything goes as fast as machines take it.
    is_working.store(false, Ordering::Relaxed);
    bench.beat();
    let mut rest = 0;
    for _ in 0..60 {
        bench.plan();
        rest += bench.take();
        bench.clock.advance(STEP);
    }
    assert_eq!(total + rest, 4000 * MIB);
    assert_eq!(bench.host.holders.owed(None, 1).unwrap(), []);
}

/// With one machine like this, is nothing sent, and why?
fn check(expected: Option<Hindrance>, terms: Terms, change: impl FnOnce(&mut Live)) {
    let bench = Bench::new(1, 3);
    bench.host.copier.set_terms(terms);
    bench.change(1, change);
    assert_eq!((bench.plan(), bench.host.copier.hindrance(VAULT)), (if expected.is_some() { 0 } else { 3 }, expected));
}

#[test]
fn who_is_on_battery_elsewhere_or_short_of_disk_gets_nothing() {
    let any = Terms::default;
    let of = |text: &str| Terms { pace: None, networks: vec![Network::parse(text).unwrap()] };
    check(None, any(), |_| {});
    check(Some(Hindrance::OnBattery), any(), |live| live.is_on_battery = true);
    check(None, of("10.0.0.0/8"), |_| {});
    check(Some(Hindrance::OtherNetwork), of("192.168.0.0/16"), |_| {});
    check(None, of("192.168.0.0/16"), |live| live.address = IpAddr::from([127, 0, 0, 1]));
    check(Some(Hindrance::NoRoomLeft), any(), |live| (live.free, live.reserve) = (100, 101));
    check(Some(Hindrance::NoRoomLeft), any(), |live| (live.free, live.reserve) = (5 * MIB, 5 * MIB - 10));
    check(None, any(), |live| (live.free, live.reserve) = (50 * MIB, 5 * MIB));
}

#[test]
fn what_is_to_be_spread_never_goes_to_its_writer() {
    let mut bench = Bench::new(1, 0);
    bench.enter(0..4, Some(1), true);
    assert_eq!((bench.plan(), bench.host.copier.hindrance(VAULT)), (0, Some(Hindrance::OnlyTheWriter)));
    // Should it keep them all the same, that is no second place.
    bench.confirm(1, 0..4);
    assert_eq!(bench.host.holders.owed(None, 10).unwrap().len(), 4);
    bench.come(2);
    assert_eq!((bench.plan(), bench.take()), (4, 4 * MIB));
    assert_eq!((0..4).flat_map(|n| bench.holders(n)).collect::<Vec<_>>(), [2; 4]);
    // Nor when the one that has them is emptied.
    bench.host.office.append(Actor::Host, Event::NodeDraining { key: key(2), on: true }).unwrap();
    assert_eq!(bench.plan(), 0);
    bench.come(3);
    assert_eq!((bench.plan(), bench.take()), (4, 4 * MIB));
    assert_eq!(bench.holders(0), [2, 3]);
}

/// Runs a round of moving; `shows` are frames that machines show when they are asked. Gives who was told to drop what.
fn round(bench: &mut Bench, shows: impl Fn(FrameId) -> bool + Clone + 'static) -> Vec<(u8, BTreeSet<FrameId>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dropped = Arc::new(Mutex::new(Vec::new()));
    let host = bench.host.clone();
    let mut queues = std::mem::take(&mut bench.errands);
    let count = tokio::task::LocalSet::new().block_on(&runtime, async {
        let serve = async {
            loop {
                for (n, queue) in &mut queues {
                    while let Ok(errand) = queue.try_recv() {
                        match errand {
                            Errand::Prove(wanted, told) => {
                                let shown = wanted.iter().map(|wanted| wanted.id).filter(|id| shows(*id));
                                let told = told.unwrap();
                                shown.for_each(|id| told.send(id).unwrap());
                            }
                            Errand::Drop(frames) => dropped.lock().unwrap().push((*n, frames.into_iter().collect())),
                            other => panic!("{other:?}"),
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            count = mover::round(&host) => count.unwrap(),
            () = serve => unreachable!(),
        }
    });
    // What was told last.
    for (n, queue) in &mut queues {
        while let Ok(errand) = queue.try_recv() {
            let Errand::Drop(frames) = errand else { panic!("{errand:?}") };
            dropped.lock().unwrap().push((*n, frames.into_iter().collect()));
        }
    }
    bench.errands = queues;
    let dropped = Arc::try_unwrap(dropped).unwrap().into_inner().unwrap();
    assert_eq!(count as usize, dropped.iter().map(|(_, frames): &(u8, BTreeSet<FrameId>)| frames.len()).sum::<usize>());
    dropped
}

fn ids(numbers: std::ops::Range<usize>) -> BTreeSet<FrameId> {
    numbers.map(id).collect()
}

#[test]
fn a_machine_that_is_emptied_drops_what_another_has_just_shown() {
    let mut bench = Bench::new(3, 20);
    bench.confirm(1, 0..20);
    bench.confirm(2, 0..10);
    assert_eq!(round(&mut bench, |_| true), [], "nobody is to let anything go");
    bench.host.office.append(Actor::Host, Event::NodeDraining { key: key(1), on: true }).unwrap();
    let known = ids(0..5);
    assert_eq!(round(&mut bench, move |id| known.contains(&id)), [(1, ids(0..5))]);
    assert_eq!((bench.holders(0), bench.holders(5), bench.holders(10)), (vec![2], vec![1, 2], vec![1]));
    // The other one is there no more, or is emptied too: what both have stays.
    bench.change(2, |live| live.is_compared = false);
    assert_eq!(round(&mut bench, |_| true), []);
    bench.change(2, |live| live.is_compared = true);
    bench.host.office.append(Actor::Host, Event::NodeDraining { key: key(2), on: true }).unwrap();
    assert_eq!(round(&mut bench, |_| true), []);
    // Copies are made at the third, of what both have too, and then everything goes.
    assert_eq!(bench.plan(), 20);
    assert_eq!(bench.take(), 20 * MIB);
    let told: BTreeMap<u8, BTreeSet<FrameId>> = round(&mut bench, |_| true).into_iter().collect();
    assert_eq!(told, BTreeMap::from([(1, ids(5..20)), (2, ids(0..10))]));
    assert!((0..20).all(|n| bench.holders(n) == [3]));
}

#[test]
fn a_full_disk_gives_up_no_more_than_is_missing() {
    let mut bench = Bench::new(2, 20);
    bench.confirm(1, 0..20);
    bench.change(1, |live| (live.free, live.reserve) = (10 * MIB, 13 * MIB - 1));
    assert_eq!(round(&mut bench, |_| true), [], "nobody else has any of it");
    assert_eq!((bench.plan(), bench.take()), (3, 3 * MIB));
    assert_eq!((bench.plan(), bench.take()), (0, 0));
    bench.clock.advance(Duration::from_secs(60));
    bench.beat();
    assert_eq!(round(&mut bench, |_| true), [(1, ids(0..3))]);
    // What was dropped does not show yet in what it says is free.
    assert_eq!(round(&mut bench, |_| true), []);
    bench.change(1, |live| live.free += 3 * MIB);
    bench.clock.advance(Duration::from_secs(60));
    bench.beat();
    assert_eq!((bench.plan(), round(&mut bench, |_| true)), (0, vec![]));
    assert!((0..20).all(|n| bench.holders(n).len() == 1));
}

#[test]
fn who_comes_back_gives_up_what_was_made_again_elsewhere() {
    let mut bench = Bench::new(2, 200);
    bench.confirm(1, 0..200);
    bench.confirm(2, 0..150);
    bench.change(1, |live| live.is_surplus = true);
    let mut dropped = BTreeSet::new();
    for _ in 0..6 {
        for (machine, frames) in round(&mut bench, |_| true) {
            assert_eq!(machine, 1);
            dropped.extend(frames);
        }
    }
    assert_eq!(dropped, ids(0..150));
    assert!(!bench.host.online.lock().unwrap().live(&key(1)).unwrap().is_surplus, "it was looked through");
    assert_eq!((bench.holders(0), bench.holders(150)), (vec![2], vec![1]));
}

impl Bench {
    /// Machine 1 does nothing of what it is asked, others take it. Gives how often it was asked in so many seconds.
    fn run_with_a_bad_one(&mut self, secs: u64) -> usize {
        let mut asked = 0;
        for _ in 0..secs {
            self.beat();
            self.plan();
            while let Ok(errand) = self.errands.get_mut(&1).unwrap().try_recv() {
                let Errand::Send(frames) = errand else { panic!("{errand:?}") };
                self.host.copier.done(MachineNumber(1), &frames);
                self.host.copier.failed(MachineNumber(1), Fault::Failed, self.host.env().clock.elapsed());
                asked += 1;
            }
            self.take();
            self.clock.advance(Duration::from_secs(1));
        }
        asked
    }
}

#[test]
fn who_fails_gives_way_to_others_and_comes_back() {
    let mut bench = Bench::new(2, 200);
    // However much room it has.
    bench.change(1, |live| (live.granted, live.free) = (1 << 50, 1 << 50));
    let asked = bench.run_with_a_bad_one(9);
    assert!(asked <= 2, "it was asked {asked} times in nine seconds");
    assert_eq!(bench.host.holders.owed(None, 1).unwrap(), [], "others have not got it");
    assert!((0..200).all(|n| bench.holders(n) == [2]));
    // Longer each time.
    let mut tries = Vec::new();
    for hour in 0..4 {
        bench.enter(200 + hour * 10..210 + hour * 10, None, false);
        bench.change(2, |live| live.granted = 0);
        tries.push(bench.run_with_a_bad_one(3600));
    }
    println!("tries in each hour: {tries:?}");
    assert!(tries[0] <= 10 && tries[3] <= 3, "{tries:?}");
    let why = bench.host.copier.hindrance(VAULT);
    assert!(why == Some(Hindrance::Resting) || why == Some(Hindrance::NoRoomGranted), "{why:?}");
    // And is as any other when it does what it is asked.
    for _ in 0..3 * 3600 {
        bench.beat();
        bench.plan();
        if bench.take() > 0 {
            bench.host.copier.took(MachineNumber(1), bench.host.env().clock.elapsed());
        }
        bench.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(bench.host.holders.owed(None, 1).unwrap(), []);
    assert_eq!(bench.holders(239), [1]);
}
