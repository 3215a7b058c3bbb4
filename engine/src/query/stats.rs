//! Sizes: what snapshots hold, what they share, what the vault takes.

use super::tree::{directory, listing};
use super::{Damage, QueryError, Result, Step, TreeRoot, WalkEntry, walk_with};
use crate::branch::entry::{Content, What};
use crate::branch::{self, DirectoryNode, FileNode, Node};
use crate::id::{ChunkId, Kind};
use crate::index::FrameNumber;
use crate::store::Place;
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

/// Adds up. Memory: 100 bytes for each different folder, and for [`StatsMode::Dedup`] 32 for each different chunk.
///
/// # Errors
/// [`QueryError::Directory`] names a folder that cannot be read.
pub fn stats(vault: &Vault, snapshots: &[SnapshotInfo], mode: StatsMode) -> Result<Stats> {
    let mut stats = Stats { snapshots: snapshots.len() as u64, ..Stats::default() };
    match mode {
        StatsMode::RestoreSize => restore_size(vault, snapshots, &mut stats)?,
        StatsMode::Dedup => {
            restore_size(vault, snapshots, &mut stats)?;
            Marked::of(vault, snapshots, &mut stats)?.count(vault, &mut stats)?;
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

/// Every chunk below some snapshots.
struct Marked {
    /// Place, as frame number and position, and plaintext length; sorted and without doubles after [`Self::tidy`].
    chunks: Vec<(u64, u32)>,
    branches: HashSet<u64>,
    /// Chunks after the last tidying that call for the next.
    tidy_at: usize,
}

/// Chunks looked up in the index at a time.
const CHUNKS_AT_ONCE: usize = 4096;

fn key(place: &Place) -> u64 {
    place.number.0 << 16 | u64::from(place.position)
}

impl Marked {
    fn of(vault: &Vault, snapshots: &[SnapshotInfo], stats: &mut Stats) -> Result<Self> {
        let reader = vault.reader()?;
        let mut marked = Self { chunks: Vec::new(), branches: HashSet::new(), tidy_at: 1 << 20 };
        let mut level: Vec<ChunkId> = snapshots.iter().map(|info| info.id).collect();
        while !level.is_empty() {
            let mut next = Vec::new();
            // In the order in which they are stored, so that each frame is read once a level.
            for id in marked.new_branches(vault, &level, stats)? {
                let (refs, payload) = branch::Branches::branch(&reader, &id)?;
                let place = reader.place(&id)?;
                marked.chunks.push((key(&place), payload.len() as u32));
                let node = branch::decode(&refs, &payload).map_err(crate::vault::ReadError::from)?;
                let mut leaves = Vec::new();
                children(node, &mut leaves, &mut next);
                marked.leaves(vault, &leaves, stats)?;
            }
            level = next;
        }
        marked.tidy();
        Ok(marked)
    }

    /// Those of a level that were not seen before.
    fn new_branches(&mut self, vault: &Vault, level: &[ChunkId], stats: &mut Stats) -> Result<Vec<ChunkId>> {
        let mut new = Vec::new();
        for ids in level.chunks(CHUNKS_AT_ONCE) {
            for (id, place) in ids.iter().zip(vault.store().places(ids)?) {
                match place {
                    Some(place) if self.branches.insert(key(&place)) => new.push((key(&place), *id)),
                    Some(_) => {}
                    None => stats.missing += 1,
                }
            }
        }
        new.sort_unstable();
        Ok(new.into_iter().map(|(_, id)| id).collect())
    }

    fn leaves(&mut self, vault: &Vault, leaves: &[(ChunkId, u32)], stats: &mut Stats) -> Result<()> {
        for leaves in leaves.chunks(CHUNKS_AT_ONCE) {
            let ids: Vec<ChunkId> = leaves.iter().map(|(id, _)| *id).collect();
            for ((_, len), place) in leaves.iter().zip(vault.store().places(&ids)?) {
                match place {
                    Some(place) => self.chunks.push((key(&place), *len)),
                    None => stats.missing += 1,
                }
            }
        }
        if self.chunks.len() >= self.tidy_at {
            self.tidy();
            self.tidy_at = 2 * self.chunks.len().max(1 << 19);
        }
        Ok(())
    }

    fn tidy(&mut self) {
        self.chunks.sort_unstable();
        self.chunks.dedup_by_key(|(key, _)| *key);
    }

    fn count(self, vault: &Vault, stats: &mut Stats) -> Result<()> {
        stats.unique_chunks = self.chunks.len() as u64;
        stats.branches = self.branches.len() as u64;
        stats.plain_unique = self.chunks.iter().map(|(_, len)| u64::from(*len)).sum();
        let mut packs = HashSet::new();
        let mut numbers = self.chunks.iter().map(|(key, _)| key >> 16).peekable();
        for_each_frame(vault, &mut |place| {
            let mut is_needed = false;
            while numbers.next_if(|&number| number <= place.number.0).is_some_and(|number| {
                is_needed |= number == place.number.0;
                true
            }) {}
            if is_needed {
                stats.frames += 1;
                stats.raw_stored += u64::from(place.len);
                packs.insert(place.pack);
            }
        })?;
        stats.packs = packs.len() as u64;
        Ok(())
    }
}

/// Leaves with their lengths, and branches, that a node refers to.
fn children(node: Node, leaves: &mut Vec<(ChunkId, u32)>, branches: &mut Vec<ChunkId>) {
    // The length of a leaf was checked when the node was decoded.
    let mut leaf = |id: ChunkId, len: u64| leaves.push((id, len as u32));
    match node {
        Node::Snapshot(snapshot) => branches.push(snapshot.tree),
        Node::Directory(DirectoryNode::Inner(inner)) => branches.extend(inner.iter().map(|child| child.node)),
        Node::File(FileNode::Inner(inner)) => branches.extend(inner.iter().map(|child| child.node)),
        Node::File(FileNode::Pieces(pieces)) => {
            pieces.iter().for_each(|piece| piece.chunk.into_iter().for_each(|id| leaf(id, piece.len)));
        }
        Node::Directory(DirectoryNode::Entries(entries)) => {
            for entry in entries {
                match entry.what {
                    What::Directory(tree) => branches.push(tree),
                    What::File(Content::Tree { root, .. }) => branches.push(root),
                    What::File(Content::One { len, chunk }) => leaf(chunk, len),
                    What::File(Content::Pieces(pieces)) => {
                        pieces.iter().for_each(|piece| piece.chunk.into_iter().for_each(|id| leaf(id, piece.len)));
                    }
                    What::File(Content::Inline(_)) => {}
                    What::Symlink(_)
                    | What::CharDevice { .. }
                    | What::BlockDevice { .. }
                    | What::Fifo
                    | What::Socket => {}
                }
            }
        }
    }
}

fn for_each_frame(vault: &Vault, visit: &mut dyn FnMut(&Place)) -> Result<()> {
    let mut from = FrameNumber(0);
    loop {
        let places = vault.store().frames(from, CHUNKS_AT_ONCE)?;
        let Some(last) = places.last() else { return Ok(()) };
        from = FrameNumber(last.number.0 + 1);
        places.iter().for_each(&mut *visit);
    }
}

fn raw(vault: &Vault, stats: &mut Stats) -> Result<()> {
    let mut branch_frames = HashSet::new();
    for_each_frame(vault, &mut |place| {
        stats.frames += 1;
        if place.kind == Kind::Branch {
            branch_frames.insert(place.number);
        }
    })?;
    for file in vault.local().pack_files()? {
        stats.packs += 1;
        stats.raw_stored += file.len;
    }
    vault.local().visit_chunk_rows(&mut |_, row| {
        stats.unique_chunks += 1;
        stats.branches += u64::from(branch_frames.contains(&row.frame));
        true
    })?;
    Ok(())
}
