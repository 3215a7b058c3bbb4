//! Hosts, terminals and clients of an office, killed with SIGKILL at random moments under load: everything serves again
//! within seconds, nothing that was acknowledged is lost, and in the end everything is kept twice. Only processes that
//! were started here are killed.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twinkeep_engine::env::Dice;
use twinkeep_tests::home::{Ran, messages};
use twinkeep_tests::model::{self, Model};
use twinkeep_tests::office::{OfficeWorld, PATIENCE, source};
use twinkeep_tests::seeds::{kill_count, seeds};
use twinkeep_tests::tree::{Shape, SourceTree};

/// Whoever was killed serves again within this time.
const BACK: Duration = Duration::from_secs(5);

/// A backup takes no longer, whatever happens on its way.
const BACKUP_ENDS: Duration = Duration::from_secs(60);

/// How often clients are looked after.
const POLL: Duration = Duration::from_millis(5);

const SHAPE: Shape = Shape { files: 60, wide: 150, len_max: 120 << 10 };

/// Somebody who backs up one changing folder again and again.
struct Client {
    pc: usize,
    account: &'static str,
    tree: SourceTree,
    now: Arc<Model>,
    running: Option<(Child, Instant)>,
    /// What was acknowledged.
    done: Vec<(String, Arc<Model>)>,
    /// How backups ended, by exit code.
    codes: BTreeMap<Option<i32>, usize>,
}

impl Client {
    fn new(pc: usize, account: &'static str, seed: u64) -> Self {
        let tree = source(seed, SHAPE);
        let now = Arc::new(model::of_disk(&tree.root()));
        Self { pc, account, tree, now, running: None, done: Vec::new(), codes: BTreeMap::new() }
    }

    /// Sees how a backup has gone, and begins the next one.
    fn look_after(&mut self, world: &OfficeWorld, dice: &mut Dice) {
        if self.collect() && dice.one_in(2) {
            self.tree.change();
            self.now = Arc::new(model::of_disk(&self.tree.root()));
        }
        if self.running.is_none() {
            self.running = Some((world.pcs[self.pc].begin_backup(&self.tree.root()), Instant::now()));
        }
    }

    /// Whether no backup runs any more.
    fn collect(&mut self) -> bool {
        let Some((child, begun)) = &mut self.running else { return true };
        if child.try_wait().expect("look at the command").is_none() {
            assert!(begun.elapsed() < BACKUP_ENDS, "a backup of {} hangs", self.account);
            return false;
        }
        let (child, _) = self.running.take().expect("it was there");
        self.judge(child);
        true
    }

    fn judge(&mut self, child: Child) {
        let ran = Ran::of(child.wait_with_output().expect("it has ended"));
        *self.codes.entry(ran.code).or_default() += 1;
        match ran.code {
            // Killed.
            None => {}
            Some(0 | 4) => {
                let told = messages(&ran.out);
                let summary = told.iter().find(|told| told["message_type"] == "summary").expect("a summary");
                assert_eq!(summary["errors"], 0, "{summary}");
                let id = summary["snapshot_id"].as_str().expect("a snapshot was made").to_owned();
                self.done.push((id, self.now.clone()));
            }
            Some(code) => panic!("a backup of {} ended with {code}: {}{}", self.account, ran.out, ran.err),
        }
    }

    fn kill(&mut self) -> bool {
        let Some((mut child, _)) = self.running.take() else { return false };
        let was_done = child.try_wait().expect("look at the command").is_some();
        if !was_done {
            child.kill().expect("kill the command");
        }
        self.judge(child);
        !was_done
    }

    /// The next backup goes through.
    fn last_backup(&mut self, world: &OfficeWorld) {
        let begun = Instant::now();
        while !self.collect() {
            assert!(begun.elapsed() < BACKUP_ENDS);
            std::thread::sleep(POLL);
        }
        let summary = world.pcs[self.pc].backup(&self.tree.root(), &[]);
        self.done.push((summary["snapshot_id"].as_str().expect("an id").to_owned(), self.now.clone()));
        // The service may be sending what waited for the host, which a backup does not wait for.
        world.pcs[self.pc].expect(0, &["deliver"]);
    }

    /// Every snapshot that was acknowledged holds what the folder held.
    fn verify(&self, world: &OfficeWorld, seed: u64) {
        let pc = &world.pcs[self.pc];
        let listed = pc.json(&["snapshots"]);
        for (id, expected) in &self.done {
            assert!(listed.iter().any(|one| one["id"] == id[..]), "seed {seed}: {id} is gone: {listed:?}");
            let (_target, inside) = pc.restore(id, &self.tree.root());
            let found = model::of_disk(&inside);
            assert_eq!(expected.len(), found.len(), "seed {seed}: names in {id}");
            for (path, node) in &**expected {
                assert_eq!(Some(node), found.get(path), "seed {seed}: {} in {id}", path.escape_ascii());
            }
        }
    }
}

/// What is killed at a moment.
struct Victims {
    host: bool,
    pcs: Vec<usize>,
    clients: Vec<usize>,
}

impl Victims {
    /// Mostly one; sometimes several at once, as when the power fails.
    fn draw(dice: &mut Dice, pcs: usize, clients: usize) -> Self {
        let mut victims = Self { host: false, pcs: Vec::new(), clients: Vec::new() };
        let count = if dice.one_in(8) { 4 } else { 1 };
        for _ in 0..count {
            match dice.below(3) {
                0 => victims.host = true,
                1 => victims.pcs.push(dice.below(pcs)),
                _ => victims.clients.push(dice.below(clients)),
            }
        }
        victims.pcs.sort_unstable();
        victims.pcs.dedup();
        victims.clients.sort_unstable();
        victims.clients.dedup();
        victims
    }
}

struct Storm {
    world: OfficeWorld,
    clients: Vec<Client>,
    dice: Dice,
    kills: usize,
    slowest: Duration,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let world = OfficeWorld::new(3, &["anna", "ben"]);
        let mut clients = vec![Client::new(0, "anna", seed), Client::new(1, "ben", seed + 1)];
        for client in &mut clients {
            world.pcs[client.pc].login(client.account);
            client.last_backup(&world);
        }
        Self { world, clients, dice: Dice(seed), kills: 0, slowest: Duration::ZERO }
    }

    fn look_after_clients(&mut self) {
        for client in &mut self.clients {
            client.look_after(&self.world, &mut self.dice);
        }
    }

    fn pass(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.look_after_clients();
            std::thread::sleep(POLL);
        }
    }

    fn strike(&mut self) {
        let victims = Victims::draw(&mut self.dice, self.world.pcs.len(), self.clients.len());
        for &client in &victims.clients {
            self.kills += usize::from(self.clients[client].kill());
        }
        if victims.host {
            self.world.host.kill();
        }
        for &pc in &victims.pcs {
            self.world.pcs[pc].kill();
        }
        self.kills += usize::from(victims.host) + victims.pcs.len();
        let begun = Instant::now();
        let mut steps = Vec::new();
        if victims.host {
            self.world.host.launch();
        }
        for &pc in &victims.pcs {
            self.world.pcs[pc].launch();
        }
        if victims.host {
            self.world.host.await_ready();
            steps.push(("the host is ready".to_owned(), begun.elapsed()));
            self.world.host.expect(0, &["host", "status"]);
            steps.push(("it answers".to_owned(), begun.elapsed()));
        }
        for &pc in &victims.pcs {
            self.world.pcs[pc].await_ready();
            steps.push((format!("{} is ready", self.world.pcs[pc].name), begun.elapsed()));
        }
        // A host that was killed is to be found by all of them.
        for (number, pc) in self.world.pcs.iter().enumerate() {
            if victims.host || victims.pcs.contains(&number) {
                pc.await_connected();
                steps.push((format!("{} is connected", pc.name), begun.elapsed()));
            }
        }
        let took = begun.elapsed();
        if victims.host || !victims.pcs.is_empty() {
            assert!(took < BACK, "serving again took {took:?}: {steps:?}");
            self.slowest = self.slowest.max(took);
        }
    }

    fn is_whole(&mut self, seed: u64) {
        let world = &self.world;
        self.clients.iter_mut().for_each(|client| client.last_backup(world));
        let begun = Instant::now();
        self.world.await_twice(PATIENCE);
        println!("seed {seed}: everything was kept twice {:?} after the last kill", begun.elapsed());
        std::thread::scope(|scope| {
            for client in &self.clients {
                scope.spawn(move || client.verify(world, seed));
            }
        });
    }
}

#[test]
fn whoever_is_killed_nothing_that_was_acknowledged_is_lost() {
    for seed in seeds(&[71]) {
        let begun = Instant::now();
        let mut storm = Storm::new(seed);
        while storm.kills < kill_count() {
            let wait = Duration::from_millis(5 + storm.dice.below(496) as u64);
            storm.pass(wait);
            storm.strike();
        }
        let stormed = begun.elapsed();
        storm.is_whole(seed);
        storm.world.scrub();
        storm.world.await_twice(PATIENCE);
        let snapshots: usize = storm.clients.iter().map(|client| client.done.len()).sum();
        let codes: Vec<_> = storm.clients.iter().map(|client| &client.codes).collect();
        println!(
            "seed {seed}: {} kills in {stormed:?}, {:?} in all; the slowest was back after {:?}; {snapshots} snapshots \
             acknowledged, 0 lost; backups by exit code: {codes:?}",
            storm.kills,
            begun.elapsed(),
            storm.slowest,
        );
    }
}
