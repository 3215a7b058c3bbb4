//! Every bound of the engine, each with its reason. Readers refuse what exceeds one before allocating for it.

/// Longest leaf or branch payload, bytes: the longest leaf of what looks random, and a branch node's cap.
pub const CHUNK_LEN_MAX: usize = 1 << 20;

/// A frame is closed once its plaintext holds this many bytes: large enough to compress like an archive
/// and to make header, cipher call and index row vanish, small enough to fetch for one file.
pub const FRAME_PLAIN_LEN_TARGET: usize = 2 << 20;

/// Most plaintext bytes a frame can hold: one full target plus one longest chunk.
pub const FRAME_PLAIN_LEN_MAX: usize = FRAME_PLAIN_LEN_TARGET + CHUNK_LEN_MAX;

/// Most chunks in a frame; positions in it are u16 and the clear header stays small.
pub const FRAME_CHUNKS_MAX: usize = 4096;

/// Most references a branch chunk may carry: a list node's entries, each naming several children.
pub const BRANCH_REFS_MAX: usize = 1 << 15;

/// Most references in all branches of one frame.
pub const FRAME_REFS_MAX: usize = 1 << 17;

/// Most stored bytes of a frame: plaintext that did not compress, ids, references, fixed parts.
pub const FRAME_LEN_MAX: usize =
    FRAME_PLAIN_LEN_MAX + 4 * FRAME_CHUNKS_MAX + 36 * FRAME_CHUNKS_MAX + 32 * FRAME_REFS_MAX + 4096;

/// A pack is closed once it holds this many bytes: few files and few syncs, yet cheap to rewrite.
pub const PACK_LEN_TARGET: u64 = 64 << 20;

/// Most bytes of a pack: the target, one last frame and its directory.
pub const PACK_LEN_MAX: u64 = PACK_LEN_TARGET + FRAME_LEN_MAX as u64 + (8 << 20);

/// Most bytes of a record, config or keyring file.
pub const RECORD_LEN_MAX: usize = 1 << 20;

/// zstd level of new vaults.
pub const COMPRESSION_LEVEL_DEFAULT: i32 = 3;

/// Longest file content kept inside its directory entry instead of a chunk of its own, bytes.
pub const INLINE_LEN_MAX: usize = 256;

/// Most pieces (chunks and holes) named in a directory entry; longer lists become file branches.
pub const ENTRY_PIECES_MAX: usize = 16;

/// A list node never ends before this many entries …
pub const LIST_ENTRIES_MIN: usize = 128;
/// … and always at this many, …
pub const LIST_ENTRIES_MAX: usize = 2048;
/// … in between where a keyed hash of the entry has this many low zero bits, …
pub const LIST_SPLIT_BITS: u32 = 9;
/// … or once its encoded form would pass this many bytes.
pub const LIST_NODE_LEN_TARGET: usize = 768 << 10;

/// Levels a list of nodes may be nested: 128^8 entries is far more than anything holds.
pub const LIST_DEPTH_MAX: usize = 16;

/// Longest single name, bytes: Linux NAME_MAX is 255, other systems count UTF-16 units.
pub const NAME_LEN_MAX: usize = 1024;

/// Longest symlink target, bytes.
pub const SYMLINK_LEN_MAX: usize = 64 << 10;

/// Most bytes of all extended attributes of one entry. Linux caps one at 64 KiB.
pub const XATTRS_LEN_MAX: usize = 256 << 10;

/// Longest file we speak of, bytes: what the signed offsets of every system can reach.
pub const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// Deepest folder nesting we follow, when reading a vault or a disk.
pub const TREE_DEPTH_MAX: usize = 16 << 10;

/// Most folders of the source kept open at once: well under the usual 1024 files of a process, and enough for
/// one path of the deepest nesting.
pub const SOURCE_DIRS_OPEN_MAX: usize = 384;

/// Folders nested less than this are kept open while somebody works below them …
pub const SOURCE_DIRS_OPEN_DEPTH: usize = 32;
/// … and deeper ones where their depth is a multiple of this: how far one has to walk again at most.
pub const SOURCE_DIRS_OPEN_STEP: usize = 64;
/// Most directory descriptors a restore keeps open; more are opened again when needed. Far below the usual 1024.
pub const TARGET_DIRS_OPEN_MAX: usize = 128;

/// New index rows, and references of branches, held in memory before they are committed, which makes their packs
/// durable first.
pub const PENDING_ROWS_MAX: usize = 800_000;

/// The same for each of many sessions at a time, which share it: so few that a commit still pays.
pub const PENDING_ROWS_MIN: usize = 16 << 10;

/// Chunks that one session has claimed and not put: 256 workers that each fill a frame. Some 50 MB.
pub const CLAIMS_MAX: usize = 256 * FRAME_CHUNKS_MAX;

/// Young rows of chunks are not moved to the large table before they are so many.
pub const YOUNG_ROWS_MIN: u64 = 16 << 10;

/// Longest cache of listings a write-only device keeps, bytes: some hundred million names. What is over it is read anew
/// when its folder changes.
pub const LIST_CACHE_LEN_MAX: u64 = 4 << 30;

/// A checkpoint is due after this many seconds or this many source bytes, whichever comes first.
pub const CHECKPOINT_SECS: u64 = 300;
/// See [`CHECKPOINT_SECS`].
pub const CHECKPOINT_LEN: u64 = 10 << 30;

/// Most snapshots that can be asked in one run what each of them alone holds back: each has a colour of two bytes.
pub const STATS_SNAPSHOTS_MAX: usize = 32_000;

/// How long a writer waits for another's short lock before it reports who holds it.
pub const LOCK_WAIT_SECS: u64 = 30;

/// Faults that the report of a scrub lists; the rest is counted.
pub const SCRUB_FAULTS_MAX: usize = 10_000;

/// Most bytes of a stored round: so many faults with two texts of 500 bytes each.
pub const SCRUB_ROUND_LEN_MAX: usize = 12 << 20;

/// Most bytes of the list of packs a round owes, 21 each: a vault of 700 TB has no more.
pub const SCRUB_LIST_LEN_MAX: usize = 256 << 20;

/// How often a decision about snapshots is made again because the vault changed meanwhile: a backup ends every few
/// seconds at the most.
pub const RETENTION_TRIES_MAX: usize = 16;

/// Bytes kept of the note of a change: a command line, not a story.
pub const CHANGE_NOTE_LEN: usize = 1024;

/// Frames that may wait in a store of copies before they have to be settled: some 100 GB, and 20 MB of memory.
pub const COPIES_WAITING_MAX: usize = 100_000;

/// Packs of different vaults and kinds that a store of copies keeps open for writing: well under the usual 1024 files
/// of a process.
pub const COPIES_PACKS_OPEN_MAX: usize = 64;

/// Most frames a store of copies lists in one answer.
pub const COPIES_LIST_MAX: usize = 100_000;

/// How long dropped copies stay in trash, in seconds of the store's uptime, unless space is short: 30 days.
pub const COPIES_TRASH_SECS: u64 = 30 * 24 * 3600;

/// A pack of copies is written anew without its trash once so much of it can be freed.
pub const COPIES_FREED_PERCENT_MIN: u64 = 25;

const _: () = assert!(CHANGE_NOTE_LEN <= crate::record::change::NOTE_LEN_MAX);
const _: () = assert!(FRAME_CHUNKS_MAX <= u16::MAX as usize);
const _: () = assert!(LIST_ENTRIES_MIN < LIST_ENTRIES_MAX);
const _: () = assert!(LIST_NODE_LEN_TARGET + XATTRS_LEN_MAX <= CHUNK_LEN_MAX);
const _: () = assert!(BRANCH_REFS_MAX >= LIST_ENTRIES_MAX * ENTRY_PIECES_MAX);
const _: () = assert!(BRANCH_REFS_MAX <= FRAME_REFS_MAX);
const _: () = assert!(SOURCE_DIRS_OPEN_DEPTH + TREE_DEPTH_MAX / SOURCE_DIRS_OPEN_STEP <= SOURCE_DIRS_OPEN_MAX);
const _: () = assert!(FRAME_LEN_MAX < u32::MAX as usize);
