//! Which chunks snapshots need: every place of a chunk gets a colour that says who.
//!
//! What always holds: a chunk shows the colour of roots that need it, or none of them does; nothing below a root is
//! left out but what is not in the index, and that is counted. A branch that cannot be read ends the walk.
//!
//! Places are numbered through, frame by frame, so that all that is kept is dense. Memory: a little over two bytes
//! for each place of a chunk and twelve for each frame, whatever the trees look like.

use super::Result;
use crate::branch::entry::{Content, What};
use crate::branch::{self, DirectoryNode, FileNode, Node};
use crate::frame::Opener;
use crate::id::{ChunkId, Kind};
use crate::index::{ChunkRow, ChunkState, FrameNumber};
use crate::kv::KvError;
use crate::limits::STATS_SNAPSHOTS_MAX;
use crate::store::{Place, StoreError};
use crate::vault::{ReadError, Vault, damaged};

/// Rows and chunks looked up in the index at a time.
const ROWS_AT_ONCE: usize = 4096;

/// Who needs a chunk, or what is known of one that nobody needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Colour(u16);

/// Set in a colour once a root of another colour needs the chunk, too.
const MANY: u16 = 1 << 15;
/// The first colour that says that a chunk is needed.
const NEEDED_FIRST: u16 = 4;
/// The first colour that belongs to one root; with those below, the first one that reaches a chunk has it for good.
const OWN_FIRST: u16 = 16;

const _: () = assert!(STATS_SNAPSHOTS_MAX <= (MANY - OWN_FIRST) as usize);

impl Colour {
    /// No row points to this place: a copy that another one made superfluous, or one that was expelled.
    pub const SPARE: Self = Self(0);
    /// Nobody needs it.
    pub const UNNEEDED: Self = Self(1);
    /// Nobody needs it, and something below it is missing.
    pub const UNWHOLE: Self = Self(2);
    /// Nobody needs it, and its frame was found bad.
    pub const SUSPECT: Self = Self(3);
    /// A snapshot needs it.
    pub const NEEDED: Self = Self(NEEDED_FIRST);
    /// Snapshots of a second sort need it, and none of the first.
    pub const SECOND: Self = Self(NEEDED_FIRST + 1);
    /// Snapshots of a third sort need it, and none of the first and second.
    pub const THIRD: Self = Self(NEEDED_FIRST + 2);

    /// The colour of the one root with this number, below `STATS_SNAPSHOTS_MAX`.
    pub fn own(number: usize) -> Self {
        debug_assert!(number < STATS_SNAPSHOTS_MAX);
        Self(OWN_FIRST + number as u16)
    }

    /// Whether a root needs it.
    pub fn is_needed(self) -> bool {
        self.0 >= NEEDED_FIRST
    }

    /// The number of the only root that needs it.
    pub fn owner(self) -> Option<usize> {
        (self.0 >= OWN_FIRST && self.0 & MANY == 0).then(|| usize::from(self.0 - OWN_FIRST))
    }

    /// Whether several roots with colours of their own need it, and nobody else.
    pub fn is_shared(self) -> bool {
        self.0 & MANY != 0
    }

    /// The colour after a root of colour `new` was found to need it.
    fn joined(self, new: Self) -> Self {
        match self.0 {
            old if old < NEEDED_FIRST => new,
            old if old < OWN_FIRST || old & MANY != 0 || self == new => self,
            old => Self(old | MANY),
        }
    }

    /// The colour it had before it was shared.
    fn first(self) -> Self {
        Self(self.0 & !MANY)
    }

    /// Where its sum is; that of all shared ones is the first.
    fn sum_at(self) -> usize {
        if self.is_shared() { 0 } else { usize::from(self.0) }
    }
}

/// Chunks of one colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sum {
    /// Chunks.
    pub chunks: u64,
    /// Those of them that are branches.
    pub branches: u64,
    /// Plaintext bytes of all of them.
    pub plain: u64,
}

impl Sum {
    fn add(&mut self, branches: u64, len: u32) {
        self.chunks += 1;
        self.branches += branches;
        self.plain += u64::from(len);
    }

    fn take(&mut self, branches: u64, len: u32) {
        // A branch that lies about the length of a leaf must not stop the count.
        self.chunks = self.chunks.saturating_sub(1);
        self.branches = self.branches.saturating_sub(branches);
        self.plain = self.plain.saturating_sub(len.into());
    }
}

/// Numbers for all places of chunks, ascending by frame and position.
struct Layout {
    /// Frames, ascending.
    numbers: Vec<u64>,
    /// The first place of each frame, and behind the last one the number of all places.
    starts: Vec<u32>,
}

impl Layout {
    fn read(vault: &Vault) -> Result<Self> {
        let (mut numbers, mut starts, mut end) = (Vec::new(), vec![0], 0_u32);
        let mut from = FrameNumber(0);
        loop {
            let rows = vault.local()?.frame_rows(from, ROWS_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(Self { numbers, starts }) };
            from = FrameNumber(last.0 + 1);
            for (number, place) in rows {
                let next = end.checked_add(place.chunks.into());
                end = next.ok_or_else(|| index_lies("more chunks than can be counted".to_owned()))?;
                numbers.push(number.0);
                starts.push(end);
            }
        }
    }

    fn len(&self) -> usize {
        self.starts.last().map_or(0, |end| *end as usize)
    }

    fn position(&self, number: FrameNumber) -> Option<usize> {
        // Numbers are dense where nothing was ever removed.
        match self.numbers.get(number.0 as usize) {
            Some(&found) if found == number.0 => Some(number.0 as usize),
            _ => self.numbers.binary_search(&number.0).ok(),
        }
    }

    /// The places of the frame at `at`.
    fn places(&self, at: usize) -> std::ops::Range<usize> {
        self.starts[at] as usize..self.starts[at + 1] as usize
    }

    /// The number of a place; `None` for one that came after the layout was read.
    fn slot(&self, row: &ChunkRow) -> Option<usize> {
        let places = self.places(self.position(row.frame)?);
        Some(places.start + usize::from(row.position)).filter(|slot| places.contains(slot))
    }

    /// The frame that a place is in.
    fn frame_of(&self, slot: usize) -> usize {
        self.starts.partition_point(|&start| start as usize <= slot) - 1
    }
}

/// A bit for each place.
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    /// Sets a bit; returns what it was.
    fn put(&mut self, at: usize) -> bool {
        let was = self.0[at / 64] >> (at % 64) & 1 == 1;
        self.0[at / 64] |= 1 << (at % 64);
        was
    }

    /// The highest bit that is set below `end`, cleared.
    fn take_last(&mut self, end: usize) -> Option<usize> {
        let mut word = end / 64;
        let mut mask = (1_u64 << (end % 64)) - 1;
        loop {
            if let Some(bits) = self.0.get(word).map(|bits| bits & mask).filter(|bits| *bits != 0) {
                let bit = 63 - bits.leading_zeros() as usize;
                self.0[word] &= !(1 << bit);
                return Some(64 * word + bit);
            }
            (word, mask) = (word.checked_sub(1)?, u64::MAX);
        }
    }
}

/// All chunks of a vault and who needs them.
pub(super) struct Reach<'v> {
    vault: &'v Vault,
    layout: Layout,
    colours: Vec<Colour>,
    /// Branches whose children have yet to learn of their colour.
    pending: Bits,
    /// Branches read once already.
    read: Bits,
    sums: Vec<Sum>,
    opener: Opener,
    /// References to chunks that are not there.
    pub missing: u64,
}

impl<'v> Reach<'v> {
    /// Nobody needs anything yet.
    pub fn new(vault: &'v Vault) -> Result<Self> {
        let layout = Layout::read(vault)?;
        let mut colours = vec![Colour::SPARE; layout.len()];
        vault.local()?.visit_chunk_rows(&mut |_, row| {
            if let Some(slot) = layout.slot(&row) {
                colours[slot] = match row.state {
                    ChunkState::Admitted | ChunkState::Leaning => Colour::UNNEEDED,
                    ChunkState::Unwhole => Colour::UNWHOLE,
                    ChunkState::Suspect => Colour::SUSPECT,
                };
            }
            true
        })?;
        let opener = Opener::new(vault.data_keys().clone()).map_err(ReadError::Decompression)?;
        let (pending, read) = (Bits::new(layout.len()), Bits::new(layout.len()));
        Ok(Self { vault, layout, colours, pending, read, sums: Vec::new(), opener, missing: 0 })
    }

    /// Gives everything below these roots, and the roots, their colours.
    ///
    /// # Errors
    /// A branch cannot be read: what it needs is not known.
    pub fn paint(&mut self, roots: &[(ChunkId, Colour)]) -> Result<()> {
        for roots in roots.chunks(ROWS_AT_ONCE) {
            let ids: Vec<ChunkId> = roots.iter().map(|(id, _)| *id).collect();
            for ((_, colour), slot) in roots.iter().zip(self.slots(&ids)?) {
                self.need_branch(slot, *colour);
            }
        }
        // From the newest frame to the oldest: children mostly lie before their parents, so few frames are read twice.
        let all = self.layout.len();
        let mut end = all;
        while let Some(slot) = self.pending.take_last(end).or_else(|| self.pending.take_last(all)) {
            let at = self.layout.frame_of(slot);
            self.frame(at, slot)?;
            end = self.layout.places(at).start;
        }
        Ok(())
    }

    /// Chunks of one colour.
    pub fn sum(&self, colour: Colour) -> Sum {
        self.sums.get(colour.sum_at()).copied().unwrap_or_default()
    }

    /// Chunks that several roots with colours of their own need, and nobody else.
    pub fn shared(&self) -> Sum {
        self.sums.first().copied().unwrap_or_default()
    }

    /// Visits all frames there were at the beginning, with the colours of their places.
    pub fn for_each_frame(&self, visit: &mut dyn FnMut(&Place, &[Colour])) -> Result<()> {
        for_each_frame(self.vault, &mut |place| {
            if let Some(at) = self.layout.position(place.number) {
                visit(place, &self.colours[self.layout.places(at)]);
            }
        })
    }

    /// Reads the branches of a frame that wait, `slot` among them, and tells their children.
    fn frame(&mut self, at: usize, slot: usize) -> Result<()> {
        let number = FrameNumber(self.layout.numbers[at]);
        let store = self.vault.store();
        let Some(place) = store.frames(number, 1)?.into_iter().find(|place| place.number == number) else {
            return Err(index_lies(format!("frame {} has no row", number.0)));
        };
        if place.kind != Kind::Branch {
            return Err(index_lies(format!("frame {} is said to hold a branch", number.0)));
        }
        let mut bytes = Vec::new();
        store.read_frame(&place, &mut bytes)?;
        let opened = self.opener.open(&mut bytes).map_err(|source| damaged(&**store, &place, source))?;
        let places = self.layout.places(at);
        let mut next = Some(slot);
        while let Some(slot) = next {
            let position = slot - places.start;
            let id = opened.header.ids.get(position).copied();
            let id = id.ok_or_else(|| index_lies(format!("frame {} has no chunk {position}", number.0)))?;
            let chunk = opened.chunk(self.vault.keys(), position, &id);
            let payload = chunk.map_err(|source| damaged(&**store, &place, source))?;
            self.count_branch(slot, payload.len() as u32);
            let node = branch::decode(opened.header.refs(position), payload).map_err(ReadError::from)?;
            self.children(node, self.colours[slot])?;
            // What lies in the same frame is told while that is open.
            next = self.pending.take_last(places.end).filter(|slot| {
                let is_here = places.contains(slot);
                if !is_here {
                    self.pending.put(*slot);
                }
                is_here
            });
        }
        Ok(())
    }

    /// Adds a branch to the sum of its colour; one read before goes there from the sum it was in.
    fn count_branch(&mut self, slot: usize, len: u32) {
        let colour = self.colours[slot];
        if self.read.put(slot) {
            self.sum_mut(colour.first()).take(1, len);
        }
        self.sum_mut(colour).add(1, len);
    }

    fn children(&mut self, node: Node, colour: Colour) -> Result<()> {
        let (mut leaves, mut branches) = (Vec::new(), Vec::new());
        children(node, &mut leaves, &mut branches);
        for leaves in leaves.chunks(ROWS_AT_ONCE) {
            let ids: Vec<ChunkId> = leaves.iter().map(|(id, _)| *id).collect();
            for ((_, len), slot) in leaves.iter().zip(self.slots(&ids)?) {
                self.need_leaf(slot, *len, colour);
            }
        }
        for ids in branches.chunks(ROWS_AT_ONCE) {
            for slot in self.slots(ids)? {
                self.need_branch(slot, colour);
            }
        }
        Ok(())
    }

    fn need_leaf(&mut self, slot: Option<usize>, len: u32, colour: Colour) {
        let Some((slot, old)) = self.repaint(slot, colour) else { return };
        if old.is_needed() {
            self.sum_mut(old).take(0, len);
        }
        self.sum_mut(self.colours[slot]).add(0, len);
    }

    fn need_branch(&mut self, slot: Option<usize>, colour: Colour) {
        if let Some((slot, _)) = self.repaint(slot, colour) {
            self.pending.put(slot);
        }
    }

    /// The place and the colour it had, if that has changed.
    fn repaint(&mut self, slot: Option<usize>, colour: Colour) -> Option<(usize, Colour)> {
        let Some(slot) = slot else {
            self.missing += 1;
            return None;
        };
        let old = self.colours[slot];
        self.colours[slot] = old.joined(colour);
        (self.colours[slot] != old).then_some((slot, old))
    }

    fn sum_mut(&mut self, colour: Colour) -> &mut Sum {
        let at = colour.sum_at();
        if at >= self.sums.len() {
            self.sums.resize(at + 1, Sum::default());
        }
        &mut self.sums[at]
    }

    fn slots(&self, ids: &[ChunkId]) -> Result<Vec<Option<usize>>> {
        let rows = self.vault.local()?.chunk_rows(ids)?;
        Ok(rows.iter().map(|row| row.as_ref().and_then(|row| self.layout.slot(row))).collect())
    }
}

fn index_lies(problem: String) -> super::QueryError {
    StoreError::Index(KvError::Damaged(problem)).into()
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

/// Visits all frames in the order of their numbers.
pub(super) fn for_each_frame(vault: &Vault, visit: &mut dyn FnMut(&Place)) -> Result<()> {
    let mut from = FrameNumber(0);
    loop {
        let places = vault.store().frames(from, ROWS_AT_ONCE)?;
        let Some(last) = places.last() else { return Ok(()) };
        from = FrameNumber(last.number.0 + 1);
        places.iter().for_each(&mut *visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_join() {
        let (one, other) = (Colour::own(0), Colour::own(STATS_SNAPSHOTS_MAX - 1));
        let many = Colour(one.0 | MANY);
        let check = |old: Colour, new, expected| assert_eq!(old.joined(new), expected, "{old:?} {new:?}");
        check(Colour::SPARE, one, one);
        check(Colour::SUSPECT, Colour::SECOND, Colour::SECOND);
        check(Colour::NEEDED, Colour::SECOND, Colour::NEEDED);
        check(Colour::NEEDED, one, Colour::NEEDED);
        check(one, one, one);
        check(one, other, many);
        check(many, other, many);
        check(many, one, many);
        assert_eq!((one.owner(), other.owner(), many.owner()), (Some(0), Some(STATS_SNAPSHOTS_MAX - 1), None));
        assert!(many.is_shared() && many.is_needed() && !other.is_shared() && many.first() == one);
        assert!(Colour::NEEDED.owner().is_none() && !Colour::SUSPECT.is_needed());
    }

    #[test]
    fn bits_are_taken_from_the_end() {
        let mut bits = Bits::new(200);
        for at in [0, 63, 64, 130, 199] {
            assert!(!bits.put(at) && bits.put(at));
        }
        let mut check = |end, expected| assert_eq!(bits.take_last(end), expected);
        check(199, Some(130));
        check(200, Some(199));
        check(64, Some(63));
        check(200, Some(64));
        check(1, Some(0));
        check(200, None);
        assert_eq!(Bits::new(0).take_last(0), None);
    }
}
