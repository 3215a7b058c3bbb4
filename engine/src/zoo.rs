//! Planted bugs. In a build without the `zoo` feature every question here is answered *no* at compile time;
//! the tests turn one bug on at a time and must then see a named test fail.

/// Every bug that can be planted, with what it leaves out or swaps.
pub const BUGS: &[(&str, &str)] = &[
    ("admit-without-closure", "a branch is admitted without looking at what it refers to"),
    ("skip-pack-sync", "settle does not sync the packs"),
    ("skip-pack-dir-sync", "the name of a new pack is not made durable"),
    ("rows-before-sync", "index rows are committed before the packs are synced"),
    ("record-before-rows", "the snapshot record is written before the index rows"),
    ("record-not-synced", "a record is renamed into place without being synced"),
    ("kind-not-in-id", "leaves and branches are named under one key"),
    ("swallow-write-error", "a failed append to a pack is taken for a success"),
    ("trust-cache", "an unchanged folder is used again without asking the store whether it still has it"),
    ("skip-chunk-check", "restore hands out bytes without comparing them with their name"),
    ("adopt-without-sync", "frames of an ended session are admitted without making them durable first"),
];

#[cfg(feature = "zoo")]
mod planted {
    use std::sync::RwLock;

    static BUG: RwLock<Option<&'static str>> = RwLock::new(None);

    /// Plants one bug in this process, or none.
    pub fn plant(bug: Option<&'static str>) {
        assert!(bug.is_none_or(|bug| super::BUGS.iter().any(|(name, _)| *name == bug)), "no such bug: {bug:?}");
        *BUG.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = bug;
    }

    /// Whether this bug is planted now.
    pub fn planted(bug: &str) -> bool {
        debug_assert!(super::BUGS.iter().any(|(name, _)| *name == bug), "no such bug: {bug}");
        *BUG.read().unwrap_or_else(|poisoned| poisoned.into_inner()) == Some(bug)
    }
}

#[cfg(feature = "zoo")]
pub use planted::{plant, planted};

/// Whether this bug is planted now: never in this build.
#[cfg(not(feature = "zoo"))]
#[inline(always)]
pub fn planted(_bug: &str) -> bool {
    false
}
