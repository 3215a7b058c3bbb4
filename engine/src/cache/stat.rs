//! What the cache remembers of a folder and of its entries.

use super::first_half;
use crate::branch::entry::FileTime;
use crate::env::Time;
use crate::id::ChunkId;
use crate::source::Stat;

/// A time stamp younger than this when the entry was looked at may stand for two versions of a file: file systems'
/// clocks tick in steps of up to two seconds.
const SETTLED_NANOS: i64 = 2_000_000_000;

/// Name of a folder in the cache: hash of its parent's key and its own name, so that depth costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DirKey(pub(super) [u8; 16]);

impl DirKey {
    /// The key of `/`. `scope` holds whatever, if it were different, would make other branches from the same files:
    /// kept read times or attributes, say. What is excluded need not be in it, the hash of names covers that.
    pub fn root(scope: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("twinkeep 2026 stat cache root key");
        hasher.update(scope);
        Self(first_half(&hasher.finalize()))
    }

    /// The key of the folder `name` within this one.
    pub fn child(&self, name: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(name);
        Self(first_half(&hasher.finalize()))
    }
}

/// What is remembered of a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedDir {
    /// The root of the branch that lists its entries.
    pub tree: ChunkId,
    /// Hash of the names of its entries: see [`NamesHasher`].
    pub names_hash: [u8; 16],
    /// One for each entry, in the order of names.
    pub stats: Vec<CachedStat>,
}

/// Hashes the names of a folder's entries that are backed up, in ascending order, each ended by a NUL.
#[derive(Default)]
pub struct NamesHasher(blake3::Hasher);

impl NamesHasher {
    /// No names yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next name.
    pub fn push(&mut self, name: &[u8]) {
        self.0.update(name);
        self.0.update(&[0]);
    }

    /// The hash of all names pushed.
    pub fn finish(&self) -> [u8; 16] {
        first_half(&self.0.finalize())
    }

    /// The hash of names that are at hand.
    pub fn hash<N: AsRef<[u8]>>(names: impl IntoIterator<Item = N>) -> [u8; 16] {
        // Many short updates are slow; whole blocks are not.
        let mut hasher = Self::new();
        let mut joined = Vec::with_capacity(16 << 10);
        for name in names {
            joined.extend_from_slice(name.as_ref());
            joined.push(0);
            if joined.len() > 8 << 10 {
                hasher.0.update(&joined);
                joined.clear();
            }
        }
        hasher.0.update(&joined);
        hasher.finish()
    }
}

/// What is remembered of an entry: enough to tell that it did not change, or that this cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachedStat {
    inode: u64,
    device: u64,
    /// Nanoseconds since 1970; `i64::MIN` in both times means "equal to nothing".
    ctime: i64,
    mtime: i64,
    size: u64,
}

impl CachedStat {
    /// Bytes on disk.
    pub const LEN: usize = 40;

    /// Equal to nothing, itself included: for entries that could not be read, or changed while they were.
    pub const NEVER: Self = Self { inode: 0, device: 0, ctime: i64::MIN, mtime: i64::MIN, size: 0 };

    /// Remembers a stat. `looked_at` is the wall clock *before* the system was asked for it, and for a file that was
    /// read it is the stat from before reading, which one after reading must equal (else [`Self::NEVER`]).
    ///
    /// Gives [`Self::NEVER`] for a time stamp less than two seconds older than `looked_at`, or later: the file may
    /// change again and keep it. A clock that is put back has the same effect until it caught up; files with stamps
    /// in the future are read each time.
    pub fn from_stat(stat: &Stat, looked_at: Time) -> Self {
        let settled = looked_at.0.saturating_sub(SETTLED_NANOS);
        match (nanos(stat.ctime), nanos(stat.mtime)) {
            (Some(ctime), Some(mtime)) if ctime <= settled && mtime <= settled => {
                Self { inode: stat.inode, device: stat.device, ctime, mtime, size: stat.size }
            }
            _ => Self::NEVER,
        }
    }

    /// The stat as it is now, to be compared with what was remembered; whether it is settled does not matter here.
    pub fn now(stat: &Stat) -> Self {
        Self::from_stat(stat, Time(i64::MAX))
    }

    /// Whether it is equal to nothing.
    pub fn is_never(&self) -> bool {
        self.ctime == i64::MIN && self.mtime == i64::MIN
    }

    /// Whether both are the same version of the same file.
    ///
    /// `ignore_inode` leaves out inode and device, for file systems that number anew with each mount. With
    /// `ignore_ctime` equality says nothing of mode, owners and attributes: only content may be taken as unchanged.
    pub fn same(&self, other: &Self, ignore_inode: bool, ignore_ctime: bool) -> bool {
        !self.is_never()
            && !other.is_never()
            && self.size == other.size
            && self.mtime == other.mtime
            && (ignore_ctime || self.ctime == other.ctime)
            && (ignore_inode || (self.inode == other.inode && self.device == other.device))
    }

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let fields = [
            self.inode.to_le_bytes(),
            self.device.to_le_bytes(),
            self.ctime.to_le_bytes(),
            self.mtime.to_le_bytes(),
            self.size.to_le_bytes(),
        ];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field);
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut fields = [[0; 8]; 5];
        for (field, place) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
            field.copy_from_slice(place);
        }
        let [inode, device, ctime, mtime, size] = fields;
        Self {
            inode: u64::from_le_bytes(inode),
            device: u64::from_le_bytes(device),
            ctime: i64::from_le_bytes(ctime),
            mtime: i64::from_le_bytes(mtime),
            size: u64::from_le_bytes(size),
        }
    }
}

/// Nanoseconds since 1970; `None` for years no i64 holds, and for the value that means "equal to nothing".
fn nanos(time: FileTime) -> Option<i64> {
    let nanos = time.secs.checked_mul(1_000_000_000)?.checked_add(i64::from(time.nanos))?;
    (nanos != i64::MIN).then_some(nanos)
}
