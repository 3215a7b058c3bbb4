//! Every bound of the tracker, each with its reason.

/// Most frames of one call that changes the map of holders: each is a random page of its table, so a transaction holds
/// some 40 MB and ends well under a second.
pub const FRAMES_PER_CHANGE_MAX: usize = 8192;

/// Most rows of one answer: some milliseconds of reading.
pub const ROWS_PER_ANSWER_MAX: usize = 16 << 10;

/// Removed frames that are remembered, for machines that are away: a terabyte or two of what was freed, in some 150 MB.
/// What a machine holds of older ones stays with it.
pub const REMOVED_MAX: u64 = 1 << 20;

/// Most vaults of an answer that lists counts of all of them.
pub const VAULTS_MAX: u32 = 1 << 16;

/// Time between two heartbeats of a terminal, seconds.
pub const BEAT_SECS: u64 = 5;
/// A terminal silent so long is suspect: two beats were lost …
pub const SUSPECT_SECS: u64 = 15;
/// … and one silent so long is offline.
pub const OFFLINE_SECS: u64 = 30;

/// A terminal missed for so many hours that count is lost: seven days.
pub const GRACE_HOURS: u32 = 7 * 24;
/// A terminal missed for so many hours that count is missing: longer than an evening, well before it is lost.
pub const MISSING_HOURS: u32 = 24;

const _: () = assert!(2 * BEAT_SECS < SUSPECT_SECS && SUSPECT_SECS < OFFLINE_SECS);
const _: () = assert!(MISSING_HOURS < GRACE_HOURS);

/// Most vaults of one owner: each is a folder, an index and some open files at the host.
pub const OWNED_MAX: usize = 32;
/// Most vaults that an account is a member of: a new password with all of them is one entry of the log.
pub const MEMBER_OF_MAX: usize = 256;

const _: () = assert!(OWNED_MAX < MEMBER_OF_MAX);

/// Most devices of one account that are trusted at a time.
pub const DEVICES_MAX: usize = 128;

/// Days that nobody can take from history: snapshots of an office's vaults are kept at least so long, and what was
/// forgotten can be brought back for so long. Whoever has taken over a PC is mostly noticed within a month.
pub const LOCK_DAYS: u32 = 30;
