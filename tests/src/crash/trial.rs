//! What a power cut may leave of a history, tried state by state.

use super::{Budget, Counts, History, KEYS, SAID, Standing, VAULT, standing};
use crate::lab::{self, Taken, chain};
use crate::model;
use crate::tree::copy_folder;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::env::Dice;
use twinkeep_engine::files::crash::{CrashState, Replay};
use twinkeep_engine::files::record::record;
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::vault::{Place, Vault, VaultError};

impl History {
    /// Tries crash states over the whole log, on two threads.
    pub fn try_all(&self, seed: u64, budget: Budget) -> Result<Counts, String> {
        let counts = Mutex::new(Counts { snapshots: self.taken.len(), ..Counts::default() });
        let entries = AtomicUsize::new(0);
        let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let share = |share: usize| {
                let (counts, entries) = (&counts, &entries);
                move || self.try_share(seed, budget, share, counts, entries)
            };
            let threads: Vec<_> = (0..2).map(|number| scope.spawn(share(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".to_owned()))).collect()
        });
        results.into_iter().collect::<Result<(), String>>()?;
        let mut counts = *counts.lock().expect("nobody panics here");
        counts.entries = entries.into_inner();
        Ok(counts)
    }

    fn try_share(
        &self,
        seed: u64,
        budget: Budget,
        share: usize,
        counts: &Mutex<Counts>,
        entries: &AtomicUsize,
    ) -> Result<(), String> {
        let scratch = tempfile::Builder::new().prefix("twinkeep-crash-").tempdir().expect("a scratch folder");
        let mut replay = Replay::new(&self.log);
        for at in 0..=replay.len() {
            let mut dice = Dice(seed ^ (at as u64) << 20);
            if at < self.from || !dice.one_in(budget.entry_one_in) || at % 2 != share {
                continue;
            }
            replay.advance_to(at);
            entries.fetch_add(1, Ordering::Relaxed);
            let acks = self.log.acks(at);
            let states: Vec<CrashState> = replay.states(&mut dice, budget.states).collect();
            for (number, state) in states.into_iter().enumerate() {
                let again = dice.one_in(budget.again_one_in);
                let mut trial = Trial { history: self, acks: &acks, dice: Dice(dice.throw()), scratch: scratch.path() };
                let note = state.note.clone();
                let told = |problem| {
                    format!("seed {seed}, entry {at} of {}, state {number}: {problem}\n  {note}", replay.len())
                };
                let more = match again {
                    true => trial.twice(state),
                    false => trial.once(state).map(|()| 0),
                };
                let mut counts = counts.lock().expect("nobody panics here");
                counts.again += more.map_err(told)?;
                counts.states += 1;
            }
        }
        Ok(())
    }
}

/// One state being tried.
struct Trial<'a> {
    history: &'a History,
    acks: &'a [String],
    dice: Dice,
    scratch: &'a Path,
}

impl Trial<'_> {
    /// Opens the vault and goes on.
    fn once(&mut self, state: CrashState) -> Result<(), String> {
        self.recover(lab::place(state.files, state.kv)).map(|_| ())
    }

    /// The same while power fails again. Returns how many states that were.
    fn twice(&mut self, state: CrashState) -> Result<usize, String> {
        let (files, kv, log) = record(state.files, state.kv);
        let next = self.recover(lab::place(files, kv))?;
        log.ack(VAULT);
        let mut replay = Replay::new(&log);
        let mut at = 0;
        let mut count = 0;
        loop {
            at += 1 + self.dice.below(12);
            let end = at >= replay.len();
            replay.advance_to(at);
            for state in replay.states(&mut self.dice, 2) {
                let note = state.note.clone();
                let told = |problem| format!("after a second crash: {problem}\n  {note}\n  before that:");
                let mut trial = Trial {
                    history: self.history,
                    acks: self.acks,
                    dice: Dice(self.dice.throw()),
                    scratch: self.scratch,
                };
                let vault = trial.open(lab::place(state.files, state.kv)).map_err(told)?;
                if end {
                    next.verify(&vault).map_err(told)?;
                }
                trial.go_on(&vault).map_err(told)?;
                count += 1;
            }
            if end {
                return Ok(count);
            }
        }
    }

    fn recover(&mut self, place: Place) -> Result<Taken, String> {
        let vault = self.open(place)?;
        self.go_on(&vault)
    }

    fn open(&mut self, place: Place) -> Result<Vault, String> {
        let error = match lab::open(place.clone(), lab::env(self.dice.throw())) {
            Ok(vault) => return self.has_keys(&vault).map(|()| vault),
            Err(error) => error,
        };
        if self.acks.iter().any(|ack| ack == VAULT) {
            return Err(format!("the vault does not open: {}", chain(&error)));
        }
        if !matches!(error, VaultError::NoVault) {
            return Err(format!("half a vault is in the way: {}", chain(&error)));
        }
        lab::create(place, lab::env(self.dice.throw())).map_err(|error| format!("create again: {}", chain(&error)))
    }

    /// What was acknowledged of the keyring holds.
    fn has_keys(&self, vault: &Vault) -> Result<(), String> {
        if !self.acks.iter().any(|ack| ack == KEYS) {
            return Ok(());
        }
        let keyring = vault.keyring().map_err(|error| format!("keyring: {}", chain(&error)))?;
        match keyring.slots().iter().any(|slot| slot.label == KEYS) && vault.keys().newest().0 == 1 {
            true => Ok(()),
            false => Err("a change of the keyring that was acknowledged is gone".to_owned()),
        }
    }

    /// Everything acknowledged is whole, everything listed too, and the next backup is.
    fn go_on(&mut self, vault: &Vault) -> Result<Taken, String> {
        self.check_snapshots(vault)?;
        let cache = self.a_cache();
        let tree = &self.history.tree;
        let next = lab::take(vault, tree, cache.as_deref()).map_err(|error| format!("next: {}", chain(&error)))?;
        next.verify(vault).map_err(|problem| format!("next: {problem}"))?;
        if self.dice.one_in(4) {
            check_clean(vault)?;
        }
        Ok(next)
    }

    fn check_snapshots(&self, vault: &Vault) -> Result<(), String> {
        let snapshots = vault.snapshots().map_err(|error| format!("snapshots: {}", chain(&error)))?;
        if let Some(fault) = snapshots.damaged.first() {
            return Err(format!("{}: {}", fault.file, fault.problem));
        }
        self.check_said(vault)?;
        let listed: Vec<ChunkId> = snapshots.list.iter().map(|info| info.id).collect();
        let ids = self.acks.iter().filter(|ack| ![VAULT, KEYS].contains(&ack.as_str()) && self.history.said.is_empty());
        for ack in ids {
            let id = ChunkId::from_hex(ack).ok_or("an acknowledgement is no id")?;
            if !listed.contains(&id) {
                return Err(format!("acknowledged snapshot {} is not listed", &ack[..8]));
            }
        }
        for info in snapshots.list.iter().chain(&snapshots.forgotten) {
            match self.history.taken.get(&info.id) {
                Some(taken) => taken.verify(vault)?,
                None => self.verify_unknown(vault, &info.id, &info.snapshot.paths[0])?,
            }
        }
        Ok(())
    }

    /// Things stand as after the last change that was acknowledged, or as after the next.
    fn check_said(&self, vault: &Vault) -> Result<(), String> {
        let said = &self.history.said;
        let Some(last) = self.acks.iter().filter_map(|ack| ack.strip_prefix(SAID)?.parse::<usize>().ok()).max() else {
            return Ok(());
        };
        let (days, found) = standing(vault)?;
        // Of snapshots made since, nothing was said.
        let ids = &said[0].1;
        let found: Standing = (days, found.into_iter().filter(|(id, _)| ids.contains_key(id)).collect());
        match said[last - 1..].iter().take(2).any(|standing| *standing == found) {
            true => Ok(()),
            false => Err(format!("after change {last} of {} things stand so: {found:?}", said.len())),
        }
    }

    /// A snapshot that was listed without having been acknowledged holds what its source held.
    fn verify_unknown(&self, vault: &Vault, id: &ChunkId, source: &[u8]) -> Result<(), String> {
        let reading = model::of_snapshot(vault, id, source);
        let mut seen = self.history.seen.iter().filter(|(path, _)| path == source);
        match seen.any(|(_, model)| model::same(model, &reading).is_ok()) {
            true => Ok(()),
            false => Err(format!("snapshot {} holds what no source ever held: {:?}", id, reading.errors)),
        }
    }

    /// None, or whatever the cache was at some time: it is promised nothing, and may be older or newer than the vault.
    fn a_cache(&mut self) -> Option<PathBuf> {
        let caches = &self.history.caches;
        let kept = match self.dice.below(4) {
            0 => return None,
            1 => &caches[self.dice.below(caches.len())],
            _ => caches.last()?,
        };
        let cache = self.scratch.join("cache");
        let _ = fs::remove_dir_all(&cache);
        copy_folder(kept, &cache);
        Some(cache)
    }
}

fn check_clean(vault: &Vault) -> Result<(), String> {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(vault, &options, &Progress::silent()).map_err(|error| format!("check: {}", chain(&error)))?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(format!("check: {:?} {:?}", report.faults, report.damaged)),
    }
}
