//! Files during whose calls somebody else acts: what happens at one moment between two steps of a run, on one thread.

use std::sync::{Arc, Mutex};
use twinkeep_engine::files::{Append, Files, Listed, Lock, ReadAt, Result};

/// Done at some call.
pub type Deed = Box<dyn FnOnce() + Send>;

/// Counts down to a deed.
#[derive(Clone, Default)]
pub struct Hook(Arc<Mutex<Hooked>>);

#[derive(Default)]
struct Hooked {
    seen: usize,
    deeds: Vec<(usize, Deed)>,
}

impl Hook {
    /// Does `deed` just before the `nth` short lock from now is taken, from 0.
    pub fn at(&self, nth: usize, deed: impl FnOnce() + Send + 'static) {
        let mut hooked = self.0.lock().expect("nobody panics here");
        let at = hooked.seen + nth;
        hooked.deeds.push((at, Box::new(deed)));
    }

    /// How many locks were asked for.
    pub fn seen(&self) -> usize {
        self.0.lock().expect("nobody panics here").seen
    }

    /// Forgets deeds that were not done; returns how many.
    pub fn clear(&self) -> usize {
        std::mem::take(&mut self.0.lock().expect("nobody panics here").deeds).len()
    }

    fn step(&self) {
        let due: Vec<Deed> = {
            let mut hooked = self.0.lock().expect("nobody panics here");
            let now = hooked.seen;
            hooked.seen += 1;
            let (due, later) = std::mem::take(&mut hooked.deeds).into_iter().partition(|(at, _)| *at <= now);
            hooked.deeds = later;
            due.into_iter().map(|(_, deed)| deed).collect()
        };
        due.into_iter().for_each(|deed| deed());
    }
}

/// Files with a hook.
pub struct HookedFiles {
    files: Arc<dyn Files>,
    hook: Hook,
    opens: Hook,
}

impl HookedFiles {
    /// Over these files; the hook counts requests for the index lock.
    pub fn new(files: Arc<dyn Files>, hook: Hook) -> Self {
        Self { files, hook, opens: Hook::default() }
    }

    /// Another hook, which counts packs that are opened for reading. Only for who reads without holding a lock.
    pub fn with_opens(self, opens: Hook) -> Self {
        Self { opens, ..self }
    }
}

impl Files for HookedFiles {
    fn create(&self, path: &str) -> Result<Arc<dyn Append>> {
        self.files.create(path)
    }

    fn open(&self, path: &str) -> Result<Arc<dyn ReadAt>> {
        if path.starts_with("packs/") {
            self.opens.step();
        }
        self.files.open(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        self.files.list(dir)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.files.remove(path)
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.files.create_dir(path)
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.files.sync_dir(dir)
    }

    fn sync_file(&self, path: &str) -> Result<()> {
        self.files.sync_file(path)
    }

    fn try_lock(&self, path: &str, owner: &str) -> Result<Option<Box<dyn Lock>>> {
        // Nobody who asks for this one holds another that a deed might wait for.
        if path == "locks/index" {
            self.hook.step();
        }
        self.files.try_lock(path, owner)
    }
}
