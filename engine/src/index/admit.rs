//! Admission: how rows get into the index, and how they lose their standing.
//!
//! Leaves are admitted once they are durable. A branch is admitted only when everything it refers to is; until then
//! it stands as *unwhole*, which no reader relies on and which a later admission of what it lacks turns into whole.

use super::{
    ChunkRow, ChunkState, FrameNumber, FramePlace, FrameState, PackNumber, chunk, frame, is_admitted, next_frame,
    put_chunk, put_frame, put_unwhole, unwhole_rows,
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
/// A chunk that is admitted already keeps its place. Rows are written in id order: that is what makes the map write
/// fast and dense.
pub fn admit(write: &mut dyn Write, frames: &[NewFrame], read_header: &ReadHeader<'_>) -> kv::Result<Vec<ChunkId>> {
    let first = next_frame(write)?;
    let mut next = first;
    let (mut leaves, mut branches) = (Vec::new(), Vec::new());
    for new in frames {
        put_frame(write, next, &new.place)?;
        match new.place.kind {
            Kind::Leaf => leaves.extend(rows(next, new)),
            Kind::Branch => branches.extend(rows(next, new).zip(new.refs.iter().map(Vec::as_slice))),
        }
        next = next.next()?;
    }
    leaves.sort_unstable_by_key(|(id, row)| (*id, row.frame, row.position));
    leaves.dedup_by_key(|(id, _)| *id);
    put_whole(write, &leaves)?;
    let here: HashSet<ChunkId> = leaves.into_iter().map(|(id, _)| id).collect();
    admit_branches(write, branches, here)?;
    heal(write, Headers { read: read_header, new: Some((first, frames)), last: None })
}

fn rows(frame: FrameNumber, new: &NewFrame) -> impl Iterator<Item = (ChunkId, ChunkRow)> {
    new.ids
        .iter()
        .enumerate()
        .map(move |(position, &id)| (id, ChunkRow { frame, position: position as u16, state: ChunkState::Admitted }))
}

fn put_whole(write: &mut dyn Write, rows: &[(ChunkId, ChunkRow)]) -> kv::Result<()> {
    for (id, row) in rows {
        match chunk(write, id)?.map(|row| row.state) {
            Some(ChunkState::Admitted) => continue,
            Some(ChunkState::Unwhole) => write.delete(Table::Unwhole, &id.0).map(drop)?,
            Some(ChunkState::Suspect) | None => {}
        }
        put_chunk(write, id, *row)?;
    }
    Ok(())
}

/// A new branch and how far its references were found, which are looked up once each.
struct Waiting<'a> {
    id: ChunkId,
    row: ChunkRow,
    refs: &'a [ChunkId],
    found: usize,
}

fn admit_branches(
    write: &mut dyn Write,
    branches: Vec<((ChunkId, ChunkRow), &[ChunkId])>,
    mut here: HashSet<ChunkId>,
) -> kv::Result<()> {
    let mut all: Vec<_> = branches.into_iter().map(|((id, row), refs)| Waiting { id, row, refs, found: 0 }).collect();
    let mut by_lack: HashMap<ChunkId, Vec<usize>> = HashMap::new();
    let mut whole = Vec::new();
    for first in 0..all.len() {
        let mut ready = vec![first];
        while let Some(at) = ready.pop() {
            let branch = &mut all[at];
            match look_further(write, branch, &here)? {
                Some(lack) => by_lack.entry(lack).or_default().push(at),
                None => {
                    here.insert(branch.id);
                    whole.push((branch.id, branch.row));
                    ready.extend(by_lack.remove(&branch.id).unwrap_or_default());
                }
            }
        }
    }
    whole.sort_unstable_by_key(|(id, row)| (*id, row.frame, row.position));
    whole.dedup_by_key(|(id, _)| *id);
    put_whole(write, &whole)?;
    for branch in by_lack.into_values().flatten().map(|at| &all[at]) {
        // An admitted place, from before or in these frames, is worth more than this one.
        if !is_admitted(write, &branch.id)? {
            put_chunk(write, &branch.id, ChunkRow { state: ChunkState::Unwhole, ..branch.row })?;
            put_unwhole(write, &branch.id, &branch.refs[branch.found])?;
        }
    }
    Ok(())
}

/// Goes on through the references of a branch; returns the first that is not there.
fn look_further(read: &dyn Write, branch: &mut Waiting<'_>, here: &HashSet<ChunkId>) -> kv::Result<Option<ChunkId>> {
    if crate::zoo::planted("admit-without-closure") {
        return Ok(None);
    }
    while let Some(child) = branch.refs.get(branch.found) {
        if !here.contains(child) && !is_admitted(read, child)? {
            return Ok(Some(*child));
        }
        branch.found += 1;
    }
    Ok(None)
}

/// Headers read one after the other, the last one kept: neighbours share a frame.
struct Headers<'a> {
    read: &'a ReadHeader<'a>,
    /// Frames that are just being admitted, from this number on: nobody else can find them yet.
    new: Option<(FrameNumber, &'a [NewFrame])>,
    last: Option<(FrameNumber, Option<FrameHeader>)>,
}

impl Headers<'_> {
    /// References of a stored branch.
    fn refs(&mut self, read: &dyn Read, row: &ChunkRow) -> kv::Result<Option<&[ChunkId]>> {
        if let Some((first, frames)) = self.new
            && let Some(at) = row.frame.0.checked_sub(first.0)
            && let Some(new) = frames.get(at as usize)
        {
            return Ok(new.refs.get(usize::from(row.position)).map(Vec::as_slice));
        }
        if self.last.as_ref().is_none_or(|(number, _)| *number != row.frame) {
            self.last = Some((row.frame, (self.read)(&frame(read, row.frame)?)));
        }
        let header = self.last.as_ref().and_then(|(_, header)| header.as_ref());
        Ok(header.map(|header| header.refs(row.position.into())))
    }
}

fn first_lack(read: &dyn Read, refs: &[ChunkId]) -> kv::Result<Option<ChunkId>> {
    for id in refs {
        if !is_admitted(read, id)? {
            return Ok(Some(*id));
        }
    }
    Ok(None)
}

/// Admits every unwhole branch whose references have all come. A frame is read only when what one of its branches
/// was waiting for is there.
fn heal(write: &mut dyn Write, mut headers: Headers<'_>) -> kv::Result<Vec<ChunkId>> {
    let mut by_lack: HashMap<ChunkId, Vec<ChunkId>> = HashMap::new();
    for (id, lack) in unwhole_rows(write)? {
        by_lack.entry(lack).or_default().push(id);
    }
    let mut ready = Vec::new();
    for lack in by_lack.keys().copied().collect::<Vec<_>>() {
        if is_admitted(write, &lack)? {
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
            if let Some(lack) = first_lack(write, refs)? {
                put_unwhole(write, &id, &lack)?;
                by_lack.entry(lack).or_default().push(id);
                continue;
            }
            put_chunk(write, &id, ChunkRow { state: ChunkState::Admitted, ..row })?;
            write.delete(Table::Unwhole, &id.0)?;
            healed.push(id);
            ready.extend(by_lack.remove(&id).unwrap_or_default());
        }
    }
    Ok(healed)
}

/// What has to be put again before `root` can be admitted: every chunk below it that is not there, and every stored
/// branch whose frame cannot be read. Empty when it is admitted.
pub fn absent_below(read: &dyn Read, root: ChunkId, read_header: &ReadHeader<'_>) -> kv::Result<Vec<ChunkId>> {
    let mut headers = Headers { read: read_header, new: None, last: None };
    let mut seen = HashSet::from([root]);
    let mut to_see = vec![root];
    let mut absent = Vec::new();
    while let Some(id) = to_see.pop() {
        let refs = match chunk(read, &id)? {
            Some(row) => match row.state {
                ChunkState::Admitted => continue,
                ChunkState::Unwhole => headers.refs(read, &row)?,
                ChunkState::Suspect => None,
            },
            None => None,
        };
        match refs {
            Some(refs) => to_see.extend(refs.iter().filter(|child| seen.insert(**child))),
            None => absent.push(id),
        }
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
    super::scan(write, Table::Chunks, &[], |key, value| {
        let row = ChunkRow::decode(value)?;
        if bad.contains(&row.frame) && row.state != ChunkState::Suspect {
            lost.push((ChunkId::from_slice(key).ok_or_else(|| super::damaged("a chunk id"))?, row));
        }
        Ok(true)
    })?;
    for (id, row) in &lost {
        put_chunk(write, id, ChunkRow { state: ChunkState::Suspect, ..*row })?;
        write.delete(Table::Unwhole, &id.0)?;
    }
    Ok(lost.into_iter().map(|(id, _)| id).collect())
}

/// Called with every believed branch frame and its header, `None` where that cannot be read.
pub type AllBranches<'a> = dyn Fn(&dyn Write, &mut dyn FnMut(FrameNumber, Option<&FrameHeader>)) -> kv::Result<()> + 'a;
