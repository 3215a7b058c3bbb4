//! Admission: how rows get into the index, and how they lose their standing.
//!
//! Leaves are admitted once they are durable. A branch is admitted only when everything it refers to is; until then
//! it stands as *unwhole*, which no reader relies on and which a later admission of what it lacks turns into whole.
//! A branch above something condemned is admitted as *leaning*: it is whole, and goes if that goes.

use super::chunks::{put_new_chunk, table_for_new};
use super::condemn::{Phase, Standing, View, clear_condemned, collection, is_swept, standing, standing_of};
use super::{
    ChunkRow, ChunkState, FrameNumber, FramePlace, FrameState, PackNumber, chunk, frame, next_frame, put_chunk,
    put_frame, put_unwhole, unwhole_rows,
};
use crate::frame::FrameHeader;
use crate::id::{ChunkId, Kind};
use crate::kv::{self, Read, Table, Write};
use crate::pack::FrameRow;
use std::collections::{HashMap, HashSet};

/// A durable frame whose chunks ask for admission.
pub struct NewFrame {
    /// Where it is.
    pub place: FramePlace,
    /// Its chunks by position.
    pub ids: Vec<ChunkId>,
    /// References by position; empty for leaves.
    pub refs: Vec<Vec<ChunkId>>,
}

impl NewFrame {
    /// A frame that a scan of a pack found and verified.
    pub fn scanned(pack: PackNumber, row: &FrameRow, header: FrameHeader) -> Self {
        let refs = match header.kind {
            Kind::Leaf => Vec::new(),
            Kind::Branch => (0..header.ids.len()).map(|position| header.refs(position).to_vec()).collect(),
        };
        let place = FramePlace {
            id: row.id,
            pack,
            offset: row.offset,
            len: row.len,
            chunks: header.ids.len() as u16,
            kind: header.kind,
            state: FrameState::Good,
        };
        Self { place, ids: header.ids, refs }
    }

    /// Chunks and references in it: what it weighs in memory.
    pub fn row_count(&self) -> usize {
        self.ids.len() + self.refs.iter().map(Vec::len).sum::<usize>()
    }
}

/// Reads the clear header of a stored frame, `None` when it cannot be read or is not what was stored.
pub type ReadHeader<'a> = dyn Fn(&FramePlace) -> Option<FrameHeader> + 'a;

/// Enters durable frames: leaves of all frames first, then each branch whose references are all there. Returns the
/// branches from before that have become whole by it.
///
/// A chunk that is firm keeps its place. Rows are written in id order: that is what makes the map write fast and dense.
pub fn admit(write: &mut dyn Write, frames: &[NewFrame], read_header: &ReadHeader<'_>) -> kv::Result<Vec<ChunkId>> {
    let view = View::of_admission(write)?;
    let mut next = next_frame(write)?;
    let mut numbered = Vec::with_capacity(frames.len());
    for new in frames {
        put_frame(write, next, &new.place)?;
        numbered.push((next, new));
        next = next.next()?;
    }
    enter(write, view, &numbered)?;
    heal(write, view, Headers::with(read_header, numbered))
}

/// Enters frames that were believed, lost that, and verify again, under the numbers they have; or good frames, of
/// whose chunks some have had no better place than a bad one. Returns the branches that have become whole by it.
///
/// What is condemned there is not any more: whether it is needed could not be told while it was bad. What is being swept
/// stays as it is.
pub fn readmit(
    write: &mut dyn Write,
    frames: &[(FrameNumber, NewFrame)],
    read_header: &ReadHeader<'_>,
) -> kv::Result<Vec<ChunkId>> {
    let view = View::of_admission(write)?;
    let mut numbered = Vec::with_capacity(frames.len());
    for (number, new) in frames {
        // What a collection of garbage is about to remove there must not come to be needed again.
        if is_swept(write, *number)? {
            continue;
        }
        clear_condemned(write, *number)?;
        put_frame(write, *number, &new.place)?;
        numbered.push((*number, new));
    }
    enter(write, view, &numbered)?;
    heal(write, view, Headers::with(read_header, numbered))
}

/// Enters frames that cannot be believed. Those of their chunks that have no place at all get one there, as suspects;
/// a frame that gives no chunk a place gets no row. Returns how many chunks that were.
pub fn put_suspects(write: &mut dyn Write, frames: &[NewFrame]) -> kv::Result<u64> {
    let mut count = 0;
    for new in frames {
        let number = next_frame(write)?;
        let mut lacking = Vec::new();
        for (id, row) in rows(number, new) {
            if chunk(write, &id)?.is_none() && !crate::zoo::planted("repair-drops-suspects") {
                lacking.push((id, ChunkRow { state: ChunkState::Suspect, ..row }));
            }
        }
        if lacking.is_empty() {
            continue;
        }
        count += lacking.len() as u64;
        put_frame(write, number, &FramePlace { state: FrameState::Bad, ..new.place })?;
        for (id, row) in lacking {
            put_chunk(write, &id, row)?;
        }
    }
    Ok(count)
}

fn enter(write: &mut dyn Write, view: View, frames: &[(FrameNumber, &NewFrame)]) -> kv::Result<()> {
    let leaves = NewLeaves::of(frames);
    let branch_frames = frames.iter().filter(|(_, new)| new.place.kind == Kind::Branch);
    let branches = branch_frames.flat_map(|&(number, new)| rows(number, new).zip(new.refs.iter().map(Vec::as_slice)));
    let waiting = |((id, row), refs)| Waiting { id, row, refs, found: 0, leans_on: None };
    let mut branches: Vec<_> = branches.map(waiting).collect();
    let (whole, lacking) = judge(write, view, &mut branches, &leaves)?;
    // In the order of ids, or rows would be pushed between others into pages that are full already.
    let table = table_for_new(write)?;
    let mut whole = whole.into_iter().peekable();
    for spot in &leaves.spots {
        let leaf = leaves.row(spot);
        while let Some(branch) = whole.next_if(|branch| branch.id < leaf.id) {
            branch.put(write, table)?;
        }
        leaf.put(write, table)?;
    }
    whole.try_for_each(|branch| branch.put(write, table))?;
    for branch in lacking.into_iter().map(|at| &branches[at]) {
        // An admitted place, from before or in these frames, is worth more than this one.
        if !view.has(write, &branch.id)? {
            put_chunk(write, &branch.id, ChunkRow { state: ChunkState::Unwhole, ..branch.row })?;
            write.delete(Table::Leaning, &branch.id.0)?;
            put_unwhole(write, &branch.id, &branch.refs[branch.found])?;
        }
    }
    Ok(())
}

fn rows(frame: FrameNumber, new: &NewFrame) -> impl Iterator<Item = (ChunkId, ChunkRow)> {
    new.ids
        .iter()
        .enumerate()
        .map(move |(position, &id)| (id, ChunkRow { frame, position: position as u16, state: ChunkState::Admitted }))
}

/// The leaves of new frames by id, each once. A session may bring hundreds of thousands in one commit, so they stay
/// where they are and only their places are sorted.
struct NewLeaves<'a> {
    frames: &'a [(FrameNumber, &'a NewFrame)],
    /// Ascending by id.
    spots: Vec<Spot>,
    /// Where the spots begin whose ids start with these bits; one more at the end.
    starts: Vec<u32>,
    /// How far the first 64 bits of an id are moved to leave those bits.
    shift: u32,
}

struct Spot {
    frame: u32,
    position: u16,
}

impl<'a> NewLeaves<'a> {
    fn of(frames: &'a [(FrameNumber, &'a NewFrame)]) -> Self {
        let mut leaves = Self { frames, spots: Vec::new(), starts: Vec::new(), shift: 63 };
        let leaf_frames = frames.iter().enumerate().filter(|(_, (_, new))| new.place.kind == Kind::Leaf);
        leaves.spots.reserve_exact(leaf_frames.clone().map(|(_, (_, new))| new.ids.len()).sum());
        for (frame, (_, new)) in leaf_frames {
            let positions = 0..new.ids.len() as u16;
            leaves.spots.extend(positions.map(|position| Spot { frame: frame as u32, position }));
        }
        let mut spots = std::mem::take(&mut leaves.spots);
        spots.sort_unstable_by_key(|spot| (leaves.id(spot), frames[spot.frame as usize].0, spot.position));
        spots.dedup_by_key(|spot| leaves.id(spot));
        let bits = spots.len().max(2).ilog2();
        leaves.shift = 64 - bits;
        leaves.starts = Vec::with_capacity((1 << bits) + 1);
        for (at, spot) in spots.iter().enumerate() {
            let bucket = leaves.bucket(leaves.id(spot));
            leaves.starts.resize(leaves.starts.len().max(bucket + 1), at as u32);
        }
        leaves.starts.resize((1 << bits) + 1, spots.len() as u32);
        leaves.spots = spots;
        leaves
    }

    fn id(&self, spot: &Spot) -> &'a ChunkId {
        &self.frames[spot.frame as usize].1.ids[usize::from(spot.position)]
    }

    fn bucket(&self, id: &ChunkId) -> usize {
        let first = id.0.first_chunk().expect("an id has 32 bytes");
        (u64::from_be_bytes(*first) >> self.shift) as usize
    }

    fn has(&self, id: &ChunkId) -> bool {
        let bucket = self.bucket(id);
        let spots = &self.spots[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        spots.iter().any(|spot| self.id(spot) == id)
    }

    fn row(&self, spot: &Spot) -> Whole {
        let frame = self.frames[spot.frame as usize].0;
        let row = ChunkRow { frame, position: spot.position, state: ChunkState::Admitted };
        Whole { id: *self.id(spot), row, leans_on: None }
    }
}

/// A chunk with all below it.
struct Whole {
    id: ChunkId,
    row: ChunkRow,
    /// Something condemned below it.
    leans_on: Option<ChunkId>,
}

impl Whole {
    /// Puts its row, into `table` if it has had none, except where a place that is as good has one already.
    fn put(&self, write: &mut dyn Write, table: Table) -> kv::Result<()> {
        match standing(write, &self.id)? {
            Standing::Firm => Ok(()),
            Standing::Condemned if self.leans_on.is_some() || crate::zoo::planted("condemned-place-kept") => Ok(()),
            Standing::Absent if self.leans_on.is_none() => put_new_chunk(write, table, &self.id, self.row),
            Standing::Absent | Standing::Doubtful | Standing::Condemned => self.replace(write),
        }
    }

    /// Puts its row, whatever was there.
    fn replace(&self, write: &mut dyn Write) -> kv::Result<()> {
        let state = if self.leans_on.is_some() { ChunkState::Leaning } else { ChunkState::Admitted };
        put_chunk(write, &self.id, ChunkRow { state, ..self.row })?;
        write.delete(Table::Unwhole, &self.id.0)?;
        match self.leans_on {
            Some(below) => write.put(Table::Leaning, &self.id.0, &below.0),
            None => write.delete(Table::Leaning, &self.id.0).map(drop),
        }
    }
}

/// A new branch and how far its references were found, which are looked up once each.
struct Waiting<'a> {
    id: ChunkId,
    row: ChunkRow,
    refs: &'a [ChunkId],
    found: usize,
    leans_on: Option<ChunkId>,
}

/// Which of these branches are whole once `leaves` are there, by id and each once; and which are not, by number.
fn judge(
    read: &dyn Write,
    view: View,
    all: &mut [Waiting<'_>],
    leaves: &NewLeaves<'_>,
) -> kv::Result<(Vec<Whole>, Vec<usize>)> {
    // Only what is condemned is put again while it is there: it is waited for, or what is above would rest on what goes.
    let coming = match collection(read)?.phase {
        Phase::Condemned => all.iter().map(|branch| branch.id).collect(),
        Phase::None | Phase::Sweeping => HashSet::new(),
    };
    let mut here = Here { leaves, branches: HashMap::new(), coming };
    let mut by_lack: HashMap<ChunkId, Vec<usize>> = HashMap::new();
    let mut whole = Vec::new();
    let mut next: Vec<usize> = (0..all.len()).collect();
    loop {
        for first in next {
            let mut ready = vec![first];
            while let Some(at) = ready.pop() {
                let branch = &mut all[at];
                match look_further(read, view, branch, &here)? {
                    Some(lack) => by_lack.entry(lack).or_default().push(at),
                    None => {
                        here.branches.insert(branch.id, branch.leans_on.is_some());
                        whole.push(Whole { id: branch.id, row: branch.row, leans_on: branch.leans_on });
                        ready.extend(by_lack.remove(&branch.id).unwrap_or_default());
                    }
                }
            }
        }
        if here.coming.is_empty() {
            break;
        }
        // What was waited for lacks something itself: where it was before has to do.
        here.coming.clear();
        next = by_lack.drain().flat_map(|(_, waiting)| waiting).collect();
        next.sort_unstable();
    }
    whole.sort_unstable_by_key(|branch| (branch.id, branch.row.frame, branch.row.position));
    whole.dedup_by_key(|branch| branch.id);
    Ok((whole, by_lack.into_values().flatten().collect()))
}

/// Chunks that are being admitted, and whether they lean.
struct Here<'a> {
    leaves: &'a NewLeaves<'a>,
    branches: HashMap<ChunkId, bool>,
    /// Branches of which it is not yet known.
    coming: HashSet<ChunkId>,
}

impl Here<'_> {
    fn standing(&self, id: &ChunkId) -> Option<Standing> {
        match self.branches.get(id) {
            Some(false) => Some(Standing::Firm),
            Some(true) => Some(Standing::Condemned),
            None => self.leaves.has(id).then_some(Standing::Firm),
        }
    }

    fn may_come(&self, id: &ChunkId) -> bool {
        self.coming.contains(id) && !self.branches.contains_key(id)
    }
}

/// Goes on through the references of a branch; returns the first that is not there.
fn look_further(
    read: &dyn Write,
    view: View,
    branch: &mut Waiting<'_>,
    here: &Here<'_>,
) -> kv::Result<Option<ChunkId>> {
    if crate::zoo::planted("admit-without-closure") {
        return Ok(None);
    }
    while let Some(child) = branch.refs.get(branch.found) {
        let standing = here.standing(child).map_or_else(|| standing(read, child), Ok)?;
        let is_coming = standing == Standing::Condemned && here.may_come(child);
        if is_coming || !view.admits(standing) {
            return Ok(Some(*child));
        }
        lean(&mut branch.leans_on, child, standing);
        branch.found += 1;
    }
    Ok(None)
}

fn lean(leans_on: &mut Option<ChunkId>, child: &ChunkId, standing: Standing) {
    if standing == Standing::Condemned && !crate::zoo::planted("leaning-counts-as-firm") {
        *leans_on = Some(*child);
    }
}

/// Headers read one after the other, the last one kept: neighbours share a frame.
struct Headers<'a> {
    read: &'a ReadHeader<'a>,
    /// Frames that are just being admitted, by number: nobody else can find them yet where they are.
    new: Vec<(FrameNumber, &'a NewFrame)>,
    last: Option<(FrameNumber, Option<FrameHeader>)>,
}

impl<'a> Headers<'a> {
    fn with(read: &'a ReadHeader<'a>, mut new: Vec<(FrameNumber, &'a NewFrame)>) -> Self {
        new.sort_unstable_by_key(|(number, _)| *number);
        Self { read, new, last: None }
    }

    /// References of a stored branch.
    fn refs(&mut self, read: &dyn Read, row: &ChunkRow) -> kv::Result<Option<&[ChunkId]>> {
        if let Ok(at) = self.new.binary_search_by_key(&row.frame, |(number, _)| *number) {
            return Ok(self.new[at].1.refs.get(usize::from(row.position)).map(Vec::as_slice));
        }
        if self.last.as_ref().is_none_or(|(number, _)| *number != row.frame) {
            self.last = Some((row.frame, (self.read)(&frame(read, row.frame)?)));
        }
        let header = self.last.as_ref().and_then(|(_, header)| header.as_ref());
        Ok(header.map(|header| header.refs(row.position.into())))
    }
}

/// What a branch of these references lacks, or what it leans on.
fn first_lack(
    read: &dyn Read,
    view: View,
    refs: &[ChunkId],
) -> kv::Result<std::result::Result<Option<ChunkId>, ChunkId>> {
    let mut leans_on = None;
    for id in refs {
        let standing = standing(read, id)?;
        if !view.admits(standing) {
            return Ok(Err(*id));
        }
        lean(&mut leans_on, id, standing);
    }
    Ok(Ok(leans_on))
}

/// Admits every unwhole branch whose references have all come. A frame is read only when what one of its branches
/// was waiting for is there.
fn heal(write: &mut dyn Write, view: View, mut headers: Headers<'_>) -> kv::Result<Vec<ChunkId>> {
    let mut by_lack: HashMap<ChunkId, Vec<ChunkId>> = HashMap::new();
    for (id, lack) in unwhole_rows(write)? {
        by_lack.entry(lack).or_default().push(id);
    }
    let mut ready = Vec::new();
    for lack in by_lack.keys().copied().collect::<Vec<_>>() {
        if view.has(write, &lack)? {
            ready.extend(by_lack.remove(&lack).unwrap_or_default());
        }
    }
    let mut healed = Vec::new();
    while !ready.is_empty() {
        let mut round = Vec::new();
        for id in std::mem::take(&mut ready) {
            match chunk(write, &id)? {
                Some(row) => round.push((row, id)),
                None => write.delete(Table::Unwhole, &id.0).map(drop)?,
            }
        }
        round.sort_unstable_by_key(|(row, id)| (row.frame, row.position, *id));
        for (row, id) in round {
            let Some(refs) = headers.refs(write, &row)? else { continue };
            match first_lack(write, view, refs)? {
                Err(lack) => {
                    put_unwhole(write, &id, &lack)?;
                    by_lack.entry(lack).or_default().push(id);
                }
                Ok(leans_on) => {
                    Whole { id, row, leans_on }.replace(write)?;
                    healed.push(id);
                    ready.extend(by_lack.remove(&id).unwrap_or_default());
                }
            }
        }
    }
    Ok(healed)
}

/// What has to be put again before `root` is there for this view: every chunk below it that is not, and every stored
/// branch whose frame cannot be read. Empty when it is there.
pub fn absent_below(
    read: &dyn Read,
    view: View,
    root: ChunkId,
    read_header: &ReadHeader<'_>,
) -> kv::Result<Vec<ChunkId>> {
    let mut headers = Headers::with(read_header, Vec::new());
    let mut seen = HashSet::from([root]);
    let mut to_see = vec![root];
    let mut absent = Vec::new();
    while let Some(id) = to_see.pop() {
        let Some(row) = chunk(read, &id)? else {
            absent.push(id);
            continue;
        };
        let standing = standing_of(read, &row)?;
        if view.admits(standing) {
            continue;
        }
        let refs = match row.state {
            ChunkState::Suspect => None,
            // What is below it may be condemned, too.
            _ if frame(read, row.frame)?.kind == Kind::Branch => headers.refs(read, &row)?,
            _ => None,
        };
        // A branch that only waits for what is below it need not be put again.
        if refs.is_none() || row.state != ChunkState::Unwhole || super::is_condemned(read, row.frame, row.position)? {
            absent.push(id);
        }
        to_see.extend(refs.unwrap_or_default().iter().filter(|child| seen.insert(**child)));
    }
    absent.sort_unstable();
    Ok(absent)
}

/// Takes the standing of frames that turned out bad, of every chunk whose place they are, and of every branch
/// above one of those. Returns the chunks that are gone.
///
/// `all_branches` walks every believed branch frame; one that cannot be read is bad, too.
pub fn expel(
    write: &mut dyn Write,
    bad: &HashSet<FrameNumber>,
    all_branches: &AllBranches<'_>,
) -> kv::Result<Vec<ChunkId>> {
    let mut bad = bad.clone();
    let mut lost = Vec::new();
    let mut gone = HashSet::new();
    // Branches mostly stand behind what they refer to, so few rounds reach the roots.
    loop {
        for id in drop_frames(write, &std::mem::take(&mut bad))? {
            gone.insert(id);
            lost.push(id);
        }
        let mut newly = Vec::new();
        all_branches(&*write, &mut |number, header| {
            let Some(header) = header else {
                bad.insert(number);
                return;
            };
            for (position, id) in header.ids.iter().enumerate() {
                let lack = header.refs(position).iter().find(|child| gone.contains(child));
                if let Some(lack) = lack
                    && gone.insert(*id)
                {
                    newly.push((*id, *lack));
                }
            }
        })?;
        if newly.is_empty() && bad.is_empty() || crate::zoo::planted("expel-leaves-branches") {
            return Ok(lost);
        }
        for (id, lack) in newly {
            if let Some(row) = chunk(write, &id)?
                && row.state != ChunkState::Suspect
            {
                put_chunk(write, &id, ChunkRow { state: ChunkState::Unwhole, ..row })?;
                write.delete(Table::Leaning, &id.0)?;
                put_unwhole(write, &id, &lack)?;
            }
        }
    }
}

/// Marks frames as bad and all chunks whose place they are as suspect; returns those.
fn drop_frames(write: &mut dyn Write, bad: &HashSet<FrameNumber>) -> kv::Result<Vec<ChunkId>> {
    if bad.is_empty() {
        return Ok(Vec::new());
    }
    for &number in bad {
        let mut place = frame(write, number)?;
        place.state = FrameState::Bad;
        put_frame(write, number, &place)?;
    }
    let mut lost = Vec::new();
    super::chunks_from(write, &[], &mut |id, row| {
        if bad.contains(&row.frame) && row.state != ChunkState::Suspect {
            lost.push((id, row));
        }
        true
    })?;
    for (id, row) in &lost {
        put_chunk(write, id, ChunkRow { state: ChunkState::Suspect, ..*row })?;
        write.delete(Table::Unwhole, &id.0)?;
        write.delete(Table::Leaning, &id.0)?;
    }
    Ok(lost.into_iter().map(|(id, _)| id).collect())
}

/// Called with every believed branch frame and its header, `None` where that cannot be read.
pub type AllBranches<'a> = dyn Fn(&dyn Write, &mut dyn FnMut(FrameNumber, Option<&FrameHeader>)) -> kv::Result<()> + 'a;
