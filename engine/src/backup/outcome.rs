//! Outcomes of a folder's names: set by whoever has them, and made into its branch when the last one is there.
//!
//! A huge folder's branch is begun earlier, for an entry takes six times the memory of what the cache keeps of it.

use super::BackupError;
use super::counts::Counts;
use super::old::OldLists;
use super::run::Worker;
use super::tree::{DirJob, Task, lock};
use crate::branch::entry::{Content, Entry, What};
use crate::branch::{DirectoryReader, DirectoryWriter, EncodedBranch, PausedList};
use crate::cache::{CachedDir, CachedStat, NamesHasher};
use crate::id::ChunkId;
use crate::progress::Progress;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Entries that are done are written each time so many more names are: a few megabytes wait.
pub(super) const AHEAD_LEN: usize = 4096;

/// One name's outcome.
#[derive(Clone)]
pub(super) enum Slot {
    /// Not there yet.
    Pending,
    /// Exactly as in the old listing.
    Same(CachedStat),
    /// To be written.
    New(Box<Entry>, CachedStat),
    /// Stands in the branch that has been begun.
    Written(CachedStat),
    /// Could not be read, or left out.
    Gone,
}

/// Outcomes of all names of a folder that is listed and not yet done.
///
/// Who locks both locks `begun` first.
#[derive(Default)]
pub(super) struct Outcomes {
    begun: Mutex<Begun>,
    set: Mutex<Set>,
    remaining: AtomicUsize,
}

#[derive(Default)]
struct Set {
    slots: Vec<Slot>,
    /// How many were set since somebody was told to write.
    fresh: usize,
}

/// The front of a folder's branch.
#[derive(Clone, Default)]
struct Begun {
    /// How many names are written, or gone.
    names: usize,
    list: PausedList<Entry>,
}

/// A folder as far as it is done: what is written and what is not.
pub(super) struct Done {
    begun: Begun,
    pub slots: Vec<Slot>,
}

impl Outcomes {
    /// So many will come.
    pub fn expect(&self, count: usize) {
        lock(&self.set).slots = (0..count).map(|_| Slot::Pending).collect();
        self.remaining.store(count, Ordering::Release);
    }

    /// Whether some will be written before all are there.
    pub fn are_many(&self) -> bool {
        lock(&self.set).slots.len() > AHEAD_LEN
    }

    /// Sets some; says whether it is time to write those that are done.
    pub fn set(&self, outcomes: Vec<(usize, Slot)>) -> bool {
        let mut set = lock(&self.set);
        set.fresh += outcomes.len();
        for (at, outcome) in outcomes {
            set.slots[at] = outcome;
        }
        let is_time = set.fresh >= AHEAD_LEN;
        if is_time {
            set.fresh = 0;
        }
        is_time
    }

    /// Takes the entries that can be written, from the name at `next` on.
    pub fn take_front(&self, next: &mut usize) -> Vec<Entry> {
        let mut set = lock(&self.set);
        let mut entries = Vec::new();
        for slot in &mut set.slots[*next..] {
            match std::mem::replace(slot, Slot::Gone) {
                Slot::New(entry, stat) => {
                    *slot = Slot::Written(stat);
                    entries.push(*entry);
                }
                Slot::Gone => {}
                other @ (Slot::Pending | Slot::Same(_) | Slot::Written(_)) => {
                    *slot = other;
                    break;
                }
            }
            *next += 1;
        }
        entries
    }

    fn take(&self) -> Done {
        let begun = std::mem::take(&mut *lock(&self.begun));
        Done { begun, slots: std::mem::take(&mut lock(&self.set).slots) }
    }
}

impl DirJob {
    /// Outcomes as far as they are there; none for a folder that is not listed yet, or done.
    pub fn done_so_far(&self) -> Option<Done> {
        let begun = lock(&self.outcomes.begun);
        let set = lock(&self.outcomes.set);
        let is_listed = self.is_listed() && set.slots.len() == self.names().len();
        is_listed.then(|| Done { begun: begun.clone(), slots: set.slots.clone() })
    }
}

impl Worker<'_> {
    /// Sets outcomes; whoever sets the last one makes the branch, and so on upwards.
    pub fn fill(&mut self, job: &Arc<DirJob>, outcomes: Vec<(usize, Slot)>) -> Result<(), BackupError> {
        // A loop, because thousands of levels may be done by one outcome.
        let (mut job, mut outcomes) = (job.clone(), outcomes);
        loop {
            let count = outcomes.len();
            if count == 0 {
                return Ok(());
            }
            if job.outcomes.set(outcomes) {
                self.write_ahead(&job)?;
            }
            // Only now: whoever counts the last one off finds nobody at work on the branch.
            if job.outcomes.remaining.fetch_sub(count, Ordering::AcqRel) != count {
                return Ok(());
            }
            let Some((above, at, slot)) = self.finish(&job)? else { return Ok(()) };
            (job, outcomes) = (above, vec![(at, slot)]);
        }
    }

    /// Writes the entries that are done from the front on, up to the first that is as before: while all are, the old
    /// branch may serve.
    fn write_ahead(&mut self, job: &DirJob) -> Result<(), BackupError> {
        // Somebody else is at it.
        let Ok(mut begun) = job.outcomes.begun.try_lock() else { return Ok(()) };
        let entries = job.outcomes.take_front(&mut begun.names);
        let keys = self.shared.vault.keys();
        let split = |bytes: &[u8]| keys.list_split(bytes);
        let mut list = DirectoryWriter::resume(&split, std::mem::take(&mut begun.list));
        entries.into_iter().try_for_each(|entry| list.push(entry, &mut |branch| self.put_listing(&branch)))?;
        begun.list = list.pause();
        Ok(())
    }

    /// Puts a node of a folder's branch.
    fn put_listing(&mut self, branch: &EncodedBranch) -> Result<ChunkId, BackupError> {
        let id = self.writer.branch(branch)?;
        if let Some(out) = &self.shared.lists_out {
            out.add(&id, branch);
        }
        Ok(id)
    }

    pub fn fill_above(&mut self, job: &DirJob, outcome: Slot) -> Result<(), BackupError> {
        match &job.above {
            Some((above, at)) => self.fill(above, vec![(*at, outcome)]),
            None => Ok(()),
        }
    }

    /// Every name of a folder is done: it becomes a branch, and the outcome returned for the folder above.
    pub fn finish(&mut self, job: &Arc<DirJob>) -> Result<Option<(Arc<DirJob>, usize, Slot)>, BackupError> {
        let done = job.outcomes.take();
        let counts = self.shared.counts;
        let remembered = self.remembered(job, &done.slots);
        let tree = match unchanged_tree(job, &done.slots) {
            Some(tree) => {
                drop(done);
                tree
            }
            None => match self.write_tree(job, done)? {
                Some(tree) => tree,
                // The old listing cannot be read: everything in the folder is looked at anew.
                None => {
                    self.again(job);
                    return Ok(None);
                }
            },
        };
        if let (Some(cache), Some((names_hash, stats))) = (&self.shared.cache_out, remembered) {
            cache.add(job.key, &CachedDir { tree, names_hash, stats });
        }
        if let (Some(out), OldLists::Cache(lists)) = (&self.shared.lists_out, &self.shared.lists) {
            out.keep(lists, &tree);
        }
        let same_tree = job.old.as_ref().is_some_and(|old| old.tree == tree);
        let counter = match (&job.old, same_tree) {
            (None, _) => &counts.dirs_new,
            (Some(_), true) => &counts.dirs_unchanged,
            (Some(_), false) => &counts.dirs_changed,
        };
        Counts::add(counter, 1);
        Progress::add(&self.shared.progress.dirs_done, 1);
        let Some((above, at)) = &job.above else {
            *lock(&self.shared.root) = Some(tree);
            self.shared.pool.finish();
            return Ok(None);
        };
        above.forget_below(*at);
        let stat = CachedStat::from_stat(&job.stat, job.looked_at);
        let slot = match same_tree && job.same_stat {
            true => Slot::Same(stat),
            false => {
                let xattrs = job.dir.open().and_then(|handle| handle.xattrs_self());
                let meta = self.metadata(&job.stat, xattrs, || job.dir.path());
                Slot::New(Box::new(Entry { name: above.name(*at), meta, what: What::Directory(tree) }), stat)
            }
        };
        Ok(Some((above.clone(), *at, slot)))
    }

    /// Writes what is left of the list of entries; `None` if unchanged ones cannot be read from the old list.
    pub fn write_tree(&mut self, job: &DirJob, done: Done) -> Result<Option<ChunkId>, BackupError> {
        let shared = self.shared;
        let keys = shared.vault.keys();
        let split = |bytes: &[u8]| keys.list_split(bytes);
        let Done { begun, slots } = done;
        let wants_old = slots.iter().any(|slot| matches!(slot, Slot::Same(_)));
        let mut old = match job.old.as_ref().filter(|_| wants_old) {
            None => None,
            Some(old) => match DirectoryReader::new(&shared.lists, &old.tree) {
                Ok(entries) => Some(entries),
                Err(error) if error.is_damage() => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        let mut list = DirectoryWriter::resume(&split, begun.list);
        let mut put = |branch: EncodedBranch| self.put_listing(&branch);
        for (name, slot) in job.names().iter().zip(slots).skip(begun.names) {
            match slot {
                Slot::New(entry, _) => list.push(*entry, &mut put)?,
                Slot::Gone | Slot::Pending | Slot::Written(_) => {}
                Slot::Same(stat) => {
                    let Some(found) = old.as_mut().and_then(|old| old.find(|entry| is_at(entry, name))) else {
                        return Ok(None);
                    };
                    match found {
                        Ok(entry) if entry.name == *name => {
                            let Some(entry) = whole(&shared.lists, job, entry, &stat) else { return Ok(None) };
                            list.push(entry, &mut put)?;
                        }
                        Ok(_) => return Ok(None),
                        Err(error) if error.is_damage() => return Ok(None),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(Some(list.finish(&mut put)?))
    }

    /// What the cache is to remember of the names: their hash and stats.
    fn remembered(&self, job: &DirJob, slots: &[Slot]) -> Option<([u8; 16], Vec<CachedStat>)> {
        self.shared.cache_out.as_ref()?;
        let mut names = NamesHasher::new();
        let mut stats = Vec::with_capacity(slots.len());
        for (name, slot) in job.names().iter().zip(slots) {
            if let Slot::Same(stat) | Slot::New(_, stat) | Slot::Written(stat) = slot {
                names.push(name);
                stats.push(*stat);
            }
        }
        Some((names.finish(), stats))
    }

    fn again(&mut self, job: &DirJob) {
        self.shared.pool.push(self.number, std::iter::once(Task::List(job.anew())));
    }
}

/// The branch of before, if nothing in the folder has changed.
fn unchanged_tree(job: &DirJob, slots: &[Slot]) -> Option<ChunkId> {
    let same = job.has_same_names() && slots.iter().all(|slot| matches!(slot, Slot::Same(_)));
    job.old.as_ref().filter(|_| same).map(|old| old.tree)
}

fn is_at(entry: &Result<Entry, crate::vault::ReadError>, name: &[u8]) -> bool {
    entry.as_ref().map_or(true, |entry| *entry.name >= *name)
}

/// An entry of before with its content, which is read again where the listing does not vouch for it. `None` if that is
/// no longer the same.
fn whole(lists: &OldLists, job: &DirJob, mut entry: Entry, stat: &CachedStat) -> Option<Entry> {
    if let What::File(content) = &mut entry.what
        && !lists.vouches_for(content)
    {
        let bytes = super::file::read_short(job, &entry.name, content.len(), stat)?;
        *content = Content::Inline(bytes);
    }
    Some(entry)
}
