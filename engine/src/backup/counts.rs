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

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
