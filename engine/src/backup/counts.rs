//! What a backup did, counted by all workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one run.
#[derive(Default)]
pub(super) struct Counts {
    pub files_new: AtomicU64,
    pub files_changed: AtomicU64,
    pub files_unchanged: AtomicU64,
    pub dirs_new: AtomicU64,
    pub dirs_changed: AtomicU64,
    pub dirs_unchanged: AtomicU64,
    pub others: AtomicU64,
    pub bytes: AtomicU64,
    pub bytes_added: AtomicU64,
    pub chunks_new: AtomicU64,
    pub chunks_known: AtomicU64,
    pub errors: AtomicU64,
}

impl Counts {
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Begins anew with what is counted once for each source, because all are looked at once more.
    pub fn forget_sources(&self) {
        let files = [&self.files_new, &self.files_changed, &self.files_unchanged];
        let dirs = [&self.dirs_new, &self.dirs_changed, &self.dirs_unchanged];
        for counter in files.into_iter().chain(dirs).chain([&self.others, &self.bytes, &self.errors]) {
            counter.store(0, Ordering::Relaxed);
        }
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
