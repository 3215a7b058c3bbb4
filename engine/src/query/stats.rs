//! Sizes: what snapshots hold, what they share, what the vault takes.

use super::reach::{Colour, Reach, for_each_frame};
use super::tree::{directory, listing};
use super::{Damage, QueryError, Result, Step, TreeRoot, WalkEntry, walk_with};
use crate::branch::entry::What;
use crate::id::{ChunkId, Kind};
use crate::vault::{ChunkReader, SnapshotInfo, Vault};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// What to add up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatsMode {
    /// What restoring each of the snapshots would write.
    RestoreSize,
    /// That, and what is different among it: each chunk that the snapshots need counts once.
    Dedup,
    /// What is stored in the vault, whatever needs it.
    Raw,
}

/// Sizes; what a mode does not look at is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Regular files in all of them, each as often as it stands in one.
    pub files: u64,
    /// Bytes of those files, holes included.
    pub restore_size: u64,
    /// Different chunks, branches included.
    pub unique_chunks: u64,
    /// Those of them that are branches.
    pub branches: u64,
    /// Plaintext bytes of the different chunks.
    pub plain_unique: u64,
    /// Frames that hold them.
    pub frames: u64,
    /// Packs that hold those.
    pub packs: u64,
    /// Bytes stored: of the frames that hold something needed, or of all packs.
    pub raw_stored: u64,
    /// Chunks that the snapshots need and that are not there.
    pub missing: u64,
}

/// Adds up. Memory: 100 bytes for each different folder, and for [`StatsMode::Dedup`] a little over two for each chunk in
/// the vault.
///
/// # Errors
/// [`QueryError::Directory`] names a folder that cannot be read.
pub fn stats(vault: &Vault, snapshots: &[SnapshotInfo], mode: StatsMode) -> Result<Stats> {
    let mut stats = Stats { snapshots: snapshots.len() as u64, ..Stats::default() };
    match mode {
        StatsMode::RestoreSize => restore_size(vault, snapshots, &mut stats)?,
        StatsMode::Dedup => {
            restore_size(vault, snapshots, &mut stats)?;
            dedup(vault, snapshots, &mut stats)?;
        }
        StatsMode::Raw => raw(vault, &mut stats)?,
    }
    Ok(stats)
}

/// Files and bytes in and below a folder.
#[derive(Clone, Copy, Default)]
struct Below {
    files: u64,
    bytes: u64,
}

impl Below {
    fn add(&mut self, other: Self) {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Folders seen, and those from the root to where a walk is.
#[derive(Default)]
struct Sums {
    seen: HashMap<ChunkId, Below>,
    open: Vec<(ChunkId, Below)>,
    /// The folder that could not be read, which ended the walk.
    failed: Option<(Vec<u8>, ChunkId)>,
}

impl Sums {
    fn visit(&mut self, found: &WalkEntry<'_>) -> Step {
        self.leave_to(found.depth + 1);
        match &found.entry.what {
            What::Directory(tree) => self.enter(*tree),
            What::File(content) => self.add(Below { files: 1, bytes: content.len() }),
            What::Symlink(_) | What::CharDevice { .. } | What::BlockDevice { .. } | What::Fifo | What::Socket => {
                Step::Continue
            }
        }
    }

    fn unlisted(&mut self, damage: &Damage<'_>) -> bool {
        self.leave_to(damage.depth + 1);
        self.failed = self.open.last().map(|(tree, _)| (damage.path.to_vec(), *tree));
        false
    }

    fn enter(&mut self, tree: ChunkId) -> Step {
        if let Some(&below) = self.seen.get(&tree) {
            self.add(below);
            return Step::SkipChildren;
        }
        self.open.push((tree, Below::default()));
        Step::Continue
    }

    fn add(&mut self, below: Below) -> Step {
        if let Some((_, sum)) = self.open.last_mut() {
            sum.add(below);
        }
        Step::Continue
    }

    fn leave_to(&mut self, depth: usize) {
        while self.open.len() > depth {
            let Some((tree, below)) = self.open.pop() else { return };
            self.seen.insert(tree, below);
            self.add(below);
        }
    }
}

fn restore_size(vault: &Vault, snapshots: &[SnapshotInfo], stats: &mut Stats) -> Result<()> {
    let reader = vault.reader()?;
    let mut sums = Sums::default();
    for info in snapshots {
        if sums.enter(info.snapshot.tree) == Step::Continue {
            sums = sum_up(&reader, info, sums)?;
        }
        let whole = sums.seen.get(&info.snapshot.tree).copied().unwrap_or_default();
        stats.files = stats.files.saturating_add(whole.files);
        stats.restore_size = stats.restore_size.saturating_add(whole.bytes);
    }
    Ok(())
}

fn sum_up(reader: &ChunkReader, info: &SnapshotInfo, sums: Sums) -> Result<Sums> {
    let shared = RefCell::new(sums);
    let visit = &mut |found: &WalkEntry<'_>| shared.borrow_mut().visit(found);
    walk_with(reader, &TreeRoot::whole(info), visit, &mut |damage| shared.borrow_mut().unlisted(damage))?;
    let mut sums = shared.into_inner();
    match sums.failed.take() {
        // Asked again for the error itself, which a walk only lends.
        Some((path, tree)) => Err(match listing(reader, &tree) {
            Some(source) => directory(&path, source),
            None => QueryError::NotFound { path },
        }),
        None => {
            sums.leave_to(0);
            Ok(sums)
        }
    }
}

fn dedup(vault: &Vault, snapshots: &[SnapshotInfo], stats: &mut Stats) -> Result<()> {
    let mut reach = Reach::new(vault)?;
    reach.paint(&snapshots.iter().map(|info| (info.id, Colour::NEEDED)).collect::<Vec<_>>())?;
    let sum = reach.sum(Colour::NEEDED);
    (stats.unique_chunks, stats.branches, stats.plain_unique) = (sum.chunks, sum.branches, sum.plain);
    stats.missing = reach.missing;
    let mut packs = HashSet::new();
    reach.for_each_frame(&mut |place, colours| {
        if colours.iter().any(|colour| colour.is_needed()) {
            stats.frames += 1;
            stats.raw_stored += u64::from(place.len);
            packs.insert(place.pack);
        }
    })?;
    stats.packs = packs.len() as u64;
    Ok(())
}

fn raw(vault: &Vault, stats: &mut Stats) -> Result<()> {
    let mut branch_frames = HashSet::new();
    for_each_frame(vault, &mut |place| {
        stats.frames += 1;
        if place.kind == Kind::Branch {
            branch_frames.insert(place.number);
        }
    })?;
    for file in vault.local()?.pack_files()? {
        stats.packs += 1;
        stats.raw_stored += file.len;
    }
    vault.local()?.visit_chunk_rows(&mut |_, row| {
        stats.unique_chunks += 1;
        stats.branches += u64::from(branch_frames.contains(&row.frame));
        true
    })?;
    Ok(())
}
