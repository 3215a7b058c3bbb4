//! Planted bugs, and units small enough for crash tests. In a build without the `zoo` feature every question here is
//! answered *no*, or with the real limits, at compile time; the tests turn one bug on at a time and must then see a
//! named test fail.

use crate::limits::{FRAME_PLAIN_LEN_TARGET, PACK_LEN_TARGET, PENDING_ROWS_MAX, YOUNG_ROWS_MIN};

/// When frames, packs and commits are full: a small source then makes many of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Units {
    /// Plaintext bytes of a frame, `FRAME_PLAIN_LEN_TARGET` in life.
    pub frame_plain_len: usize,
    /// Bytes of a pack, `PACK_LEN_TARGET` in life.
    pub pack_len: u64,
    /// Rows that wait for a commit, `PENDING_ROWS_MAX` in life.
    pub pending_rows: usize,
    /// Young rows that are moved to the others, `YOUNG_ROWS_MIN` in life.
    pub young_rows: u64,
}

impl Units {
    /// Those of life.
    pub const LIFE: Self = Self {
        frame_plain_len: FRAME_PLAIN_LEN_TARGET,
        pack_len: PACK_LEN_TARGET,
        pending_rows: PENDING_ROWS_MAX,
        young_rows: YOUNG_ROWS_MIN,
    };
}

/// Every bug that can be planted, with what it leaves out or swaps.
pub const BUGS: &[(&str, &str)] = &[
    ("admit-without-closure", "a branch is admitted without looking at what it refers to"),
    ("skip-pack-sync", "settle does not sync the packs"),
    ("skip-pack-dir-sync", "the name of a new pack is not made durable"),
    ("rows-before-sync", "index rows are committed before the packs are synced"),
    ("record-before-rows", "the snapshot record is written before the index rows"),
    ("record-not-synced", "a record is renamed into place without being synced"),
    ("kind-not-in-id", "leaves and branches are named under one key"),
    ("header-not-sealed", "kind, ids and all else in a frame's header is left out of the associated data"),
    ("swallow-write-error", "a failed append to a pack is taken for a success"),
    ("trust-cache", "what is unchanged is used again without asking the store whether it still has it"),
    ("skip-chunk-check", "restore hands out bytes without comparing them with their name"),
    ("adopt-without-sync", "frames of an ended session are admitted without making them durable first"),
    ("settle-what-lacks", "a root is settled although something below it is missing"),
    ("record-name-not-synced", "the name of a record is not made durable before the snapshot is acknowledged"),
    ("record-behind-loose-one", "a record is written behind one whose name may not be durable yet"),
    ("config-first", "the config of a new vault is written before what it needs"),
    ("scan-without-name", "a frame found in a pack is taken without comparing it with the name behind it"),
    ("expel-what-moved", "a frame that was found bad where it no longer stands is expelled"),
    ("scrub-skips-after-resume", "a scrub that goes on leaves out the rest of the pack it stood in"),
    ("scrub-without-second-read", "what looks wrong is called bad without being read again from the disk"),
    ("scrub-says-clean-on-error", "a read that failed for want of means counts as one of a whole frame"),
    ("scrub-place-before-faults", "the place of a scrub is written down without what was found before it"),
    ("keyring-unlocked", "the keyring is changed without keeping others from changing it meanwhile"),
    ("keyring-count-stays", "a changed keyring does not say that it is newer than its twin"),
    ("believe-any-device", "a record is believed of a device that the keyring does not admit, or no longer"),
    ("lists-hold-content", "what a device remembers of listings holds the content of short files"),
    ("believe-blanks", "a device takes the zeros in the place of short content for the content"),
    ("change-not-synced", "what is said of snapshots is acknowledged before it is durable"),
    ("retention-counts-claimed-time", "snapshots are aged by the time their writer claims"),
    ("forget-empties-group", "a policy that keeps nothing of a group is obeyed"),
    ("forget-ignores-pin", "what is pinned is forgotten"),
    ("minimum-retention-ignored", "what is younger than the minimum retention is forgotten"),
    ("purge-early", "what was forgotten is purged before its undelete window is over"),
    ("devices-share-groups", "what a device claims to be of a machine counts among that machine's snapshots"),
    ("clock-jump-ignored", "ages are told by a clock that has jumped"),
    ("expel-leaves-branches", "branches above a lost chunk go on counting as whole"),
    ("new-session-uses-condemned", "a session that began after the condemnation is told that it has what is condemned"),
    ("condemned-place-kept", "a chunk put anew stays at the place that is condemned"),
    ("leaning-counts-as-firm", "a branch put above something condemned counts as firm"),
    ("gc-does-not-wait", "what is condemned is swept while sessions that may use it are running"),
    ("gc-looks-once", "what is condemned is swept without looking again for who uses it by now"),
    ("gc-forgets-the-meantime", "what was put while garbage was being marked is no root"),
    ("gc-skips-unreadable", "marking goes on where a branch cannot be read"),
    ("gc-moves-without-sync", "rows point to a moved frame before its bytes are durable"),
    ("gc-file-before-rows", "a pack is removed before its rows"),
    ("gc-ignores-forgotten", "what can still be brought back is no root"),
    ("gc-ignores-readers", "what somebody is reading is no root"),
    ("gc-trusts-counts", "a pack goes by a count of rows that is one too low, and nobody looks again"),
    ("gc-moves-damaged", "a frame is moved without being verified"),
    ("sweeping-admits-condemned", "a branch above something condemned is admitted while that is being swept"),
    ("numbers-given-again", "numbers of frames and packs that went are given to others"),
    ("epoch-before-lock", "a session takes its place in time before it can be seen"),
    ("dropped-adopted-again", "a pack that was given up and is still there is taken for one that a session left"),
    ("repair-drops-suspects", "a rebuild forgets chunks whose frame does not verify"),
    ("repair-forgets-old-index", "a rebuild does not look at what the old index knew"),
    ("repair-removes-old-pack", "a pack from which a repair copied what verifies is removed, not set aside"),
    ("repair-believes-unverified", "a frame found bad counts again without being looked at"),
    ("repair-mends-in-place", "a file with missing pieces keeps its name in a mended snapshot"),
];

/// Bugs of the machines that are built upon this library, which ask for them here: the simulation of an office sees
/// each.
pub const OFFICE_BUGS: &[(&str, &str)] = &[
    ("copy-counts-unsynced", "a copy counts as soon as it was sent, before the machine has made it durable"),
    ("machine-tells-unsynced", "a machine says that it holds what it has not made durable"),
    ("settle-answered-early", "the host says that a root is durable and has not looked"),
    ("level-ignores-owed", "two copies are said of a vault of which some frames have only one"),
    ("comparison-keeps-lost", "a machine that lost something goes on counting as its holder"),
    ("forgotten-still-counts", "what a machine holds counts on although it was forgotten"),
    ("silent-line-kept", "the line of a machine that says nothing any more is kept"),
    ("lost-holder-not-owed", "a frame that lost its holder is not owed"),
    ("rebuilt-index-not-entered", "frames of an index that was built anew are not entered in the map of holders"),
    ("removal-not-noted", "what a collection removed is told to nobody if the host stops before"),
    ("window-of-the-clock", "a forgotten snapshot goes after its window by the clock, however long the host has run"),
    ("copies-for-twins", "a machine that runs twice under one key is given copies"),
    ("healer-gives-up", "what is bad at the host is not fetched from who holds it"),
];

#[cfg(feature = "zoo")]
mod planted {
    use super::Units;
    use std::sync::{OnceLock, RwLock};

    static BUG: RwLock<Option<&'static str>> = RwLock::new(None);
    static UNITS: OnceLock<Units> = OnceLock::new();

    /// Sets the units of this process; the first call counts.
    pub fn set_units(units: Units) {
        let _ = UNITS.set(units);
    }

    /// When frames, packs and commits are full.
    pub fn units() -> Units {
        UNITS.get().copied().unwrap_or(Units::LIFE)
    }

    fn is_bug(bug: &str) -> bool {
        super::BUGS.iter().chain(super::OFFICE_BUGS).any(|(name, _)| *name == bug)
    }

    /// Plants one bug in this process, or none.
    pub fn plant(bug: Option<&'static str>) {
        assert!(bug.is_none_or(is_bug), "no such bug: {bug:?}");
        *BUG.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = bug;
    }

    /// Whether this bug is planted now.
    pub fn planted(bug: &str) -> bool {
        debug_assert!(is_bug(bug), "no such bug: {bug}");
        *BUG.read().unwrap_or_else(|poisoned| poisoned.into_inner()) == Some(bug)
    }
}

#[cfg(feature = "zoo")]
pub use planted::{plant, planted, set_units, units};

/// Whether this bug is planted now: never in this build.
#[cfg(not(feature = "zoo"))]
#[inline(always)]
pub fn planted(_bug: &str) -> bool {
    false
}

/// When frames, packs and commits are full: as the limits say, in this build.
#[cfg(not(feature = "zoo"))]
#[inline(always)]
pub const fn units() -> Units {
    Units::LIFE
}
