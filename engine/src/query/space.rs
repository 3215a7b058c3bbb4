//! What takes the space: how much would be freed without some snapshots, and what packs are filled with.
//!
//! What snapshots need is exact in chunks and in plaintext bytes. What it takes on disk is not: chunks are compressed
//! and sealed together and their lengths in there are no one's to see, so a frame's bytes are shared out among its
//! chunks by number. Opening every frame for it would read the whole vault.

use super::reach::{Colour, Reach, Sum};
use super::{QueryError, Result};
use crate::id::ChunkId;
use crate::index::{PackNumber, PackRow, PackState};
use crate::limits::STATS_SNAPSHOTS_MAX;
use crate::pack::{FRAME_NAME_LEN, PackName};
use crate::vault::{Snapshots, Vault};
use std::collections::{HashMap, HashSet};

/// What some snapshots need and no other does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    /// Chunks, branches included.
    pub chunks: u64,
    /// Those of them that are branches.
    pub branches: u64,
    /// Plaintext bytes of the chunks.
    pub plain: u64,
    /// What they take in packs, bytes; estimated where a frame holds other chunks, too.
    pub stored: u64,
    /// Of that, bytes in frames of which nothing is needed any more without these snapshots: those go with certainty.
    pub stored_whole: u64,
}

/// What would be freed by purging snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FreedReport {
    /// What each of them alone holds back, in the order given.
    pub each: Vec<Freed>,
    /// What all of them hold back together.
    pub together: Freed,
    /// References to chunks that are not there, in any snapshot.
    pub missing: u64,
}

impl Freed {
    fn add(&mut self, sum: Sum) {
        self.chunks += sum.chunks;
        self.branches += sum.branches;
        self.plain += sum.plain;
    }

    fn add_stored(&mut self, stored: u64, is_whole: bool) {
        self.stored += stored;
        self.stored_whole += if is_whole { stored } else { 0 };
    }
}

/// What purging `given` and collecting garbage would free. All other snapshots count as kept, forgotten ones, too, but
/// not checkpoints that later backups went beyond. What nobody needs already is not part of it.
///
/// # Errors
/// [`QueryError::TooMany`]; a branch of any snapshot cannot be read.
pub fn freed(vault: &Vault, all: &Snapshots, given: &[ChunkId]) -> Result<FreedReport> {
    if given.len() > STATS_SNAPSHOTS_MAX {
        return Err(QueryError::TooMany { found: given.len(), max: STATS_SNAPSHOTS_MAX });
    }
    let is_given: HashSet<&ChunkId> = given.iter().collect();
    let kept = all.list.iter().chain(&all.forgotten).filter(|info| !is_given.contains(&info.id));
    let kept: Vec<_> = kept.map(|info| (info.id, Colour::NEEDED)).collect();
    let own: Vec<_> = given.iter().enumerate().map(|(at, id)| (*id, Colour::own(at))).collect();
    let mut reach = Reach::new(vault)?;
    reach.paint(&kept)?;
    reach.paint(&own)?;
    let mut report = FreedReport { each: vec![Freed::default(); given.len()], ..FreedReport::default() };
    for (at, freed) in report.each.iter_mut().enumerate() {
        freed.add(reach.sum(Colour::own(at)));
        report.together.add(reach.sum(Colour::own(at)));
    }
    report.together.add(reach.shared());
    report.missing = reach.missing;
    reach.for_each_frame(&mut |place, colours| {
        let runs = runs(colours, u64::from(place.len) + FRAME_NAME_LEN);
        let needed = || runs.iter().filter(|run| run.colour.is_needed());
        let is_free = needed().all(|run| run.colour.owner().is_some() || run.colour.is_shared());
        for run in needed() {
            if let Some(freed) = run.colour.owner().and_then(|at| report.each.get_mut(at)) {
                freed.add_stored(run.stored, needed().all(|other| other.colour == run.colour));
            }
            if run.colour.owner().is_some() || run.colour.is_shared() {
                report.together.add_stored(run.stored, is_free);
            }
        }
    })?;
    Ok(report)
}

/// Chunks of one colour in a frame.
struct Run {
    colour: Colour,
    /// Their share of the frame, bytes. All shares together are the frame.
    stored: u64,
}

/// Shares a frame of `len` bytes out.
fn runs(colours: &[Colour], len: u64) -> Vec<Run> {
    let mut sorted = colours.to_vec();
    sorted.sort_unstable();
    let (all, mut done, mut given) = (sorted.len() as u64, 0, 0);
    let share = |same: &[Colour]| {
        done += same.len() as u64;
        // Both are far below 2^32: a frame and the chunks in it.
        let stored = len * done / all - given;
        given += stored;
        Run { colour: same[0], stored }
    };
    sorted.chunk_by(|a, b| a == b).map(share).collect()
}

/// What the packs of a vault are filled with. All but `spare`, `unwhole` and `suspect`, which are parts of what is dead,
/// adds up to `total`. What is said to be in frames that hold other things, too, is estimated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// Packs.
    pub packs: u64,
    /// Bytes of all packs.
    pub total: u64,
    /// Bytes that listed snapshots need.
    pub needed: u64,
    /// Bytes that only forgotten snapshots need, which may still be brought back.
    pub forgotten: u64,
    /// Bytes that only checkpoints need beyond which later backups went.
    pub superseded: u64,
    /// Packs of which nobody needs anything.
    pub dead_packs: u64,
    /// Bytes of those.
    pub dead_pack_bytes: u64,
    /// Frames of which nobody needs anything, in other packs.
    pub dead_frames: u64,
    /// Bytes of those.
    pub dead_frame_bytes: u64,
    /// Bytes of chunks that nobody needs, in frames of which somebody needs something.
    pub dead_in_frames: u64,
    /// Of what is dead: places that no row points to, because the chunk has another place.
    pub spare: u64,
    /// Of what is dead: branches that miss something.
    pub unwhole: u64,
    /// Of what is dead: what lies in frames that were found bad.
    pub suspect: u64,
    /// Bytes of running backups, and what interrupted ones left that is not in the index.
    pub unfinished: u64,
    /// Headers and directories of packs.
    pub overhead: u64,
    /// References to chunks that are not there, in any snapshot.
    pub missing: u64,
}

/// What is in one pack.
#[derive(Clone, Copy, Default)]
struct Filled {
    frames: u64,
    live: [u64; 3],
    dead_frames: u64,
    dead_frame_bytes: u64,
    dead_in_frames: u64,
}

impl Filled {
    fn is_dead(&self) -> bool {
        self.live == [0; 3]
    }
}

/// What the packs are filled with.
///
/// # Errors
/// A branch of any snapshot cannot be read.
pub fn space(vault: &Vault, all: &Snapshots) -> Result<Space> {
    let mut reach = Reach::new(vault)?;
    for (infos, colour) in
        [(&all.list, Colour::NEEDED), (&all.forgotten, Colour::SECOND), (&all.superseded, Colour::THIRD)]
    {
        reach.paint(&infos.iter().map(|info| (info.id, colour)).collect::<Vec<_>>())?;
    }
    let mut space = Space { missing: reach.missing, ..Space::default() };
    let mut packs: HashMap<PackNumber, Filled> = HashMap::new();
    reach.for_each_frame(&mut |place, colours| {
        fill(packs.entry(place.pack).or_default(), &mut space, colours, u64::from(place.len) + FRAME_NAME_LEN);
    })?;
    let mut rows: HashMap<PackName, (PackNumber, PackRow)> = HashMap::new();
    rows.extend(vault.local()?.pack_rows()?.into_iter().map(|(number, row)| (row.name, (number, row))));
    let mut running = HashMap::new();
    for file in vault.local()?.pack_files()?.iter().filter(|file| !file.is_dir) {
        let Some(name) = PackName::from_file_name(&file.name) else { continue };
        let is_running = match running.get(&name.session) {
            Some(&is_running) => is_running,
            None => *running.entry(name.session).or_insert(vault.local()?.is_session_open(name.session)?),
        };
        let row = rows.get(&name);
        let filled = row.and_then(|(number, _)| packs.get(number)).copied().unwrap_or_default();
        add_pack(&mut space, row.map(|(_, row)| row), &filled, file.len, is_running);
    }
    Ok(space)
}

/// Adds a frame to its pack.
fn fill(pack: &mut Filled, space: &mut Space, colours: &[Colour], len: u64) {
    pack.frames += len;
    let runs = runs(colours, len);
    let is_live = runs.iter().any(|run| run.colour.is_needed());
    if !is_live {
        pack.dead_frames += 1;
        pack.dead_frame_bytes += len;
    }
    if runs.is_empty() {
        space.spare += len;
    }
    for Run { colour, stored } in runs {
        let live = [Colour::NEEDED, Colour::SECOND, Colour::THIRD].iter().position(|sort| *sort == colour);
        match live {
            Some(sort) => pack.live[sort] += stored,
            None if is_live => pack.dead_in_frames += stored,
            None => {}
        }
        match colour {
            Colour::SPARE => space.spare += stored,
            Colour::UNWHOLE => space.unwhole += stored,
            Colour::SUSPECT => space.suspect += stored,
            _ => {}
        }
    }
}

/// Adds a pack file of `len` bytes.
fn add_pack(space: &mut Space, row: Option<&PackRow>, filled: &Filled, len: u64, is_running: bool) {
    space.packs += 1;
    space.total += len;
    let unlisted = match row {
        None => len,
        Some(row) if row.state == PackState::Open => len.saturating_sub(row.indexed_len),
        Some(_) => 0,
    };
    space.unfinished += unlisted;
    let listed = len - unlisted;
    if row.is_none() {
        return;
    }
    if filled.is_dead() {
        match is_running {
            true => space.unfinished += listed,
            false => (space.dead_packs, space.dead_pack_bytes) = (space.dead_packs + 1, space.dead_pack_bytes + listed),
        }
        return;
    }
    let [needed, forgotten, superseded] = filled.live;
    space.needed += needed;
    space.forgotten += forgotten;
    space.superseded += superseded;
    // What a running backup has stored is dead only until it ends.
    match is_running {
        true => space.unfinished += filled.dead_frame_bytes + filled.dead_in_frames,
        false => {
            space.dead_frames += filled.dead_frames;
            space.dead_frame_bytes += filled.dead_frame_bytes;
            space.dead_in_frames += filled.dead_in_frames;
        }
    }
    space.overhead += listed.saturating_sub(filled.frames);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_frame() {
        let check = |colours: &[Colour], len, expected: &[u64]| {
            let stored: Vec<u64> = runs(colours, len).iter().map(|run| run.stored).collect();
            assert_eq!(stored, expected);
            assert!(colours.is_empty() || stored.iter().sum::<u64>() == len);
        };
        let (a, b, c) = (Colour::UNNEEDED, Colour::NEEDED, Colour::own(3));
        check(&[], 100, &[]);
        check(&[b, b], 101, &[101]);
        check(&[b, a, b], 100, &[33, 67]);
        check(&[c, a, b], 100, &[33, 33, 34]);
    }
}
