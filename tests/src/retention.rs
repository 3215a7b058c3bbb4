//! The rules of retention, held against a vault in memory whose clock the run holds.

use crate::lab::{self, chain};
use crate::tree::{Shape, SourceTree};
use std::sync::Arc;
use std::time::Duration;
use twinkeep_engine::backup;
use twinkeep_engine::env::{Clock, Env, Inline, ManualClock, SeededEntropy, Time};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::id::DeviceId;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::retention::{
    self, Candidate, GroupBy, Limit, Period, Policy, RetentionError, Rule, Selection, Utc,
};
use twinkeep_engine::vault::{CreateOptions, NewSlot, Vault};

const DAY: u64 = 86_400;

/// Whatever a write-only device claims to be, what it adds counts for itself alone.
fn devices_push_nobody_out() -> Result<(), String> {
    let one = |record: u64, device| Candidate {
        record,
        received: Time(record as i64),
        device,
        host: "host".to_owned(),
        paths: vec![b"/home".to_vec()],
        tags: Vec::new(),
        partial: false,
        pinned: false,
        aside: false,
    };
    let taken_over = (2..50).map(|record| one(record, Some(DeviceId([9; 8]))));
    let list: Vec<Candidate> = [one(1, None)].into_iter().chain(taken_over).collect();
    let last = Policy { rules: vec![Rule { period: Period::Snapshot, limit: Limit::Count(3) }], tags: Vec::new() };
    for by in [GroupBy::default(), GroupBy { host: false, paths: false, tags: false }] {
        let groups = retention::plan(&list, &last, by, Time(1 << 60), 0, &Utc).map_err(|error| error.to_string())?;
        let kept = groups.iter().flat_map(|group| &group.decisions).any(|one| one.record == 1 && one.keep);
        if !kept {
            return Err("what a device adds pushes out what a member made".to_owned());
        }
    }
    Ok(())
}

struct World {
    vault: Vault,
    clock: Arc<ManualClock>,
    all: Vec<u64>,
}

impl World {
    /// A vault that keeps everything for two days, with five daily snapshots of which the second claims the future.
    fn new(seed: u64) -> Result<Self, String> {
        lab::shrink();
        let clock = lab::clock();
        let env = Env { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(seed)), executor: Arc::new(Inline) };
        let options = CreateOptions { retention_days_min: 2, ..CreateOptions::default() };
        let slots = [NewSlot::MachineKey { key: &lab::KEY, label: "test" }];
        let place = lab::place(MemoryFiles::new(), MemoryKvHome::new());
        let vault = Vault::create(place, env, &options, &slots).map_err(|error| chain(&error))?.0;
        let tree = SourceTree::new(seed, Shape { files: 2, wide: 0, len_max: 2048 });
        for number in 0..5 {
            clock.advance(Duration::from_secs(DAY));
            let claimed = if number == 1 { Time(clock.now().0.saturating_add(1 << 58)) } else { clock.now() };
            let options = backup::BackupOptions { time: Some(claimed), ..lab::options(&tree.path(), None) };
            backup::backup(&vault, &options, &Progress::silent()).map_err(|error| chain(&error))?;
        }
        clock.advance(Duration::from_secs(DAY / 2));
        let all = vault.snapshots().map_err(|error| chain(&error))?.list.iter().map(|info| info.record).collect();
        Ok(Self { vault, clock, all })
    }

    fn forget(&self, policy: &Policy) -> Result<(), RetentionError> {
        let selection = Selection { policy, group_by: GroupBy::default(), admits: &|_| true };
        retention::forget_by_policy(&self.vault, &selection, &Utc, "").map(drop)
    }

    /// Wanted are these, by place in the order they were made, and nothing broke a rule.
    fn expect(&self, what: &str, expected: &[usize]) -> Result<(), String> {
        let snapshots = self.vault.snapshots().map_err(|error| chain(&error))?;
        if let Some(fault) = snapshots.damaged.first() {
            return Err(format!("{what}: {}", fault.problem));
        }
        let listed: Vec<u64> = snapshots.list.iter().map(|info| info.record).collect();
        let expected: Vec<u64> = expected.iter().map(|&at| self.all[at]).collect();
        match listed == expected {
            true => Ok(()),
            false => Err(format!("{what}: records {listed:?} are wanted, not {expected:?}")),
        }
    }
}

/// Pins, the minimum retention, the undelete window, the clock, claimed times and policies that keep nothing.
pub fn rules(seed: u64) -> Result<(), String> {
    devices_push_nobody_out()?;
    let world = World::new(seed)?;
    let told = |what: &str, error: RetentionError| format!("{what}: {}", chain(&error));
    let last = Policy { rules: vec![Rule { period: Period::Snapshot, limit: Limit::Count(1) }], tags: Vec::new() };
    let none = Policy { rules: Vec::new(), tags: vec![vec!["no such tag".to_owned()]] };
    retention::pin(&world.vault, &world.all[..1]).map_err(|error| told("pin", error))?;
    if world.forget(&none).is_ok() {
        return Err("a policy that keeps nothing is obeyed".to_owned());
    }
    world.expect("refused", &[0, 1, 2, 3, 4])?;
    world.forget(&last).map_err(|error| told("forget", error))?;
    // The first is pinned, the fourth a day and a half old.
    world.expect("forgotten", &[0, 3, 4])?;
    let purged = retention::purge(&world.vault).map_err(|error| told("purge", error))?;
    world.expect("purged", &[0, 3, 4])?;
    if !purged.is_empty() {
        return Err(format!("records {purged:?} were purged at once"));
    }
    world.clock.advance(Duration::from_secs(40 * DAY));
    for (what, ended) in [("forget", world.forget(&last)), ("purge", retention::purge(&world.vault).map(drop))] {
        match ended {
            Err(RetentionError::Clock(_)) => {}
            Err(error) => return Err(told(what, error)),
            Ok(()) => return Err(format!("{what} believes a clock that has jumped")),
        }
    }
    retention::confirm_clock(&world.vault).map_err(|error| told("confirm", error))?;
    let purged = retention::purge(&world.vault).map_err(|error| told("purge", error))?;
    match purged == world.all[1..3] {
        true => world.expect("in the end", &[0, 3, 4]),
        false => Err(format!("records {purged:?} were purged")),
    }
}
