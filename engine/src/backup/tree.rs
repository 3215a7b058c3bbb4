//! Folders being backed up: listed, and worked on in parts.

use super::BackupError;
use super::counts::Counts;
use super::old::{Known, OldDir};
use super::outcome::{Outcomes, Slot};
use super::run::{Shared, Worker};
use super::scope::Scope;
use crate::branch::entry::{Content, Entry, What};
use crate::cache::{CachedStat, DirKey, NamesHasher};
use crate::env::Time;
use crate::progress::Progress;
use crate::source::filter::GitRules;
use crate::source::{self, Dir, DirHandle, Failure, FileKind, SourceError, Stat};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Names a worker takes on at a time: enough that files of a folder share frames, few enough to share a huge folder.
const PART_LEN: usize = 512;

/// What is to do for a folder.
pub(super) enum Task {
    /// Read its names.
    List(Arc<DirJob>),
    /// Work on the next of them: parts are begun in order, so that what is done of a huge folder can be written.
    Part(Arc<DirJob>),
    /// Read the one stream there is.
    Stream(Arc<DirJob>),
}

struct Listing {
    names: Vec<Box<[u8]>>,
    same_names: bool,
}

/// A folder on its way into the vault.
pub(super) struct DirJob {
    pub dir: Arc<Dir>,
    pub key: DirKey,
    pub above: Option<(Arc<DirJob>, usize)>,
    pub stat: Stat,
    pub looked_at: Time,
    /// Its own entry need not be written anew as far as its stat goes.
    pub same_stat: bool,
    scope: Scope,
    /// The source it belongs to, for staying on one file system; none above all sources.
    source: Option<Arc<Stat>>,
    pub old: Option<OldDir>,
    git: OnceLock<Option<Arc<GitRules>>>,
    listing: OnceLock<Listing>,
    pub outcomes: Outcomes,
    /// Names that no part has taken begin here.
    next: AtomicUsize,
    /// Folders in it that have been begun.
    below: Mutex<HashMap<usize, Weak<DirJob>>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for DirJob {
    fn drop(&mut self) {
        // One by one: thousands of levels dropped by recursion would overflow the stack.
        let mut next = self.above.take();
        while let Some((above, _)) = next {
            next = Arc::into_inner(above).and_then(|mut above| above.above.take());
        }
    }
}

impl DirJob {
    /// The top of everything.
    pub fn root(dir: Arc<Dir>, stat: Stat, key: DirKey, scope: Scope, old: Option<OldDir>, now: Time) -> Arc<Self> {
        let source = scope.is_all.then(|| Arc::new(stat));
        Self::new(dir, key, None, stat, now, false, scope, source, old)
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where all its fields come together")]
    fn new(
        dir: Arc<Dir>,
        key: DirKey,
        above: Option<(Arc<Self>, usize)>,
        stat: Stat,
        looked_at: Time,
        same_stat: bool,
        scope: Scope,
        source: Option<Arc<Stat>>,
        old: Option<OldDir>,
    ) -> Arc<Self> {
        Arc::new(Self {
            dir,
            key,
            above,
            stat,
            looked_at,
            same_stat,
            scope,
            source,
            old,
            git: OnceLock::new(),
            listing: OnceLock::new(),
            outcomes: Outcomes::default(),
            next: AtomicUsize::new(0),
            below: Mutex::default(),
        })
    }

    pub fn names(&self) -> &[Box<[u8]>] {
        self.listing.get().map_or(&[], |listing| &listing.names)
    }

    pub fn is_listed(&self) -> bool {
        self.listing.get().is_some()
    }

    /// Folders in it that have been begun and are not done.
    pub fn unfinished(&self) -> Vec<(usize, Arc<Self>)> {
        let below = lock(&self.below);
        let mut unfinished: Vec<_> = below.iter().filter_map(|(at, below)| Some((*at, below.upgrade()?))).collect();
        unfinished.sort_unstable_by_key(|(at, _)| *at);
        unfinished
    }

    pub fn name(&self, slot: usize) -> Box<[u8]> {
        self.names()[slot].clone()
    }

    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        self.dir.path_of(name)
    }

    /// A folder with one name in it that is not on any disk.
    pub fn for_stream(dir: Arc<Dir>, stat: Stat, name: &[u8], now: Time) -> Arc<Self> {
        let job = Self::new(dir, DirKey::root(b"stream"), None, stat, now, false, Scope::default(), None, None);
        job.listing.get_or_init(|| Listing { names: vec![name.into()], same_names: false });
        job.outcomes.expect(1);
        job
    }

    /// Whether its names are those of before.
    pub fn has_same_names(&self) -> bool {
        self.listing.get().is_some_and(|listing| listing.same_names)
    }

    /// A folder in it is done. Even a dead reference would keep that one's memory, and there may be a million others.
    pub fn forget_below(&self, at: usize) {
        lock(&self.below).remove(&at);
    }

    /// The same folder to be looked at anew, with nothing known of it.
    pub fn anew(&self) -> Arc<Self> {
        let (dir, above, scope) = (self.dir.clone(), self.above.clone(), self.scope.again());
        Self::new(dir, self.key, above, self.stat, self.looked_at, false, scope, self.source.clone(), None)
    }

    fn known(&self, shared: &Shared<'_>, at: usize, name: &[u8]) -> Known<'_> {
        let same_names = self.has_same_names();
        self.old.as_ref().map_or(Known::Nothing, |old| old.known(&shared.lists, same_names, at, name))
    }
}

impl<'a> Worker<'a> {
    /// Reads the names of a folder and makes parts of them.
    pub fn list(&mut self, job: &Arc<DirJob>) -> Result<(), BackupError> {
        self.shared.progress.set_current(job.dir.path());
        let names = match self.names(job) {
            Ok(names) => names,
            Err(error) if error.failure() == Failure::Vanished && job.above.is_some() => {
                self.missed(&error);
                return self.fill_above(job, Slot::Gone);
            }
            // The folder itself is there; that its names are not is said and counted.
            Err(error) => {
                self.missed(&error);
                Vec::new()
            }
        };
        let same_names = job.old.as_ref().is_some_and(|old| old.has_names(&NamesHasher::hash(&names)));
        let count = names.len();
        job.listing.get_or_init(|| Listing { names, same_names });
        job.outcomes.expect(count);
        if count == 0 {
            return match self.finish(job)? {
                Some((above, at, slot)) => self.fill(&above, vec![(at, slot)]),
                None => Ok(()),
            };
        }
        let parts = (0..count.div_ceil(PART_LEN)).map(|_| Task::Part(job.clone()));
        self.shared.pool.push(self.number, parts);
        Ok(())
    }

    /// The names of a folder that are to be backed up, sorted.
    fn names(&self, job: &DirJob) -> source::Result<Vec<Box<[u8]>>> {
        let asked = &job.scope.asked;
        if !job.scope.is_all {
            return Ok(asked.keys().cloned().collect());
        }
        let handle = job.dir.open()?;
        let mut names = handle.names()?;
        // What was asked for and is not there must be missed.
        for name in asked.keys() {
            if let Err(at) = names.binary_search(name) {
                names.insert(at, name.clone());
            }
        }
        let path = job.dir.path();
        let filter = &self.shared.filter;
        let above = job.above.as_ref().and_then(|(above, _)| above.git.get()).and_then(Option::as_ref);
        let git = match filter.enter(above, &path, &handle) {
            Ok(git) => git,
            Err(error) => {
                self.missed(&error);
                None
            }
        };
        match filter.tag_in(&handle) {
            Ok(Some(tag)) => names.retain(|name| **name == *tag),
            Ok(None) => {}
            Err(error) => self.missed(&error),
        }
        if self.shared.has_rules || git.is_some() {
            names.retain(|name| !self.is_left_out(&handle, &path, name, git.as_deref()));
        }
        job.git.get_or_init(|| git);
        Ok(names)
    }

    fn is_left_out(&self, handle: &DirHandle, path: &[u8], name: &[u8], git: Option<&GitRules>) -> bool {
        // What cannot be looked at stays in, so that it is reported.
        let Ok(stat) = handle.stat(name) else { return false };
        let is_dir = stat.kind == FileKind::Directory;
        let mut full = path.to_vec();
        if full.last() != Some(&b'/') {
            full.push(b'/');
        }
        full.extend_from_slice(name);
        let filter = &self.shared.filter;
        filter.excludes(&full, name, is_dir)
            || filter.is_too_large(&stat)
            || git.is_some_and(|git| git.excludes(&full, is_dir))
    }

    /// Works on the next names of a folder.
    pub fn part(&mut self, job: &Arc<DirJob>) -> Result<(), BackupError> {
        let start = job.next.fetch_add(PART_LEN, Ordering::Relaxed);
        let range = start..(start + PART_LEN).min(job.names().len());
        let handle = match job.dir.open() {
            Ok(handle) => handle,
            Err(error) => {
                self.missed(&error);
                return self.fill(job, range.map(|slot| (slot, Slot::Gone)).collect());
            }
        };
        self.shared.progress.set_current(job.dir.path());
        let mut done = Vec::new();
        let mut below = Vec::new();
        for at in range {
            if self.shared.pool.is_over() {
                return Ok(());
            }
            let name = &job.names()[at];
            let looked_at = self.shared.now();
            match handle.stat(name) {
                Ok(stat) if stat.kind == FileKind::Directory => {
                    below.push(Task::List(self.below(job, at, name, &stat, looked_at)?));
                }
                Ok(stat) => {
                    if job.scope.goes_below(name) {
                        self.warn(job.path_of(name), "it is no folder, so nothing below it can be backed up");
                        if !job.scope.is_all {
                            done.push((at, Slot::Gone));
                            continue;
                        }
                    }
                    if let Some(slot) = self.entry(job, at, &handle, &stat, looked_at)? {
                        done.push((at, slot));
                    }
                }
                Err(error) => {
                    self.missed(&error);
                    done.push((at, Slot::Gone));
                }
            }
        }
        self.shared.pool.push(self.number, below.into_iter());
        if job.outcomes.are_many() {
            // Files that gather keep all entries after them from being written.
            self.put_gathered()?;
        }
        self.fill(job, done)
    }

    /// A folder in a folder.
    fn below(
        &self,
        job: &Arc<DirJob>,
        at: usize,
        name: &[u8],
        stat: &Stat,
        looked_at: Time,
    ) -> Result<Arc<DirJob>, BackupError> {
        let dir = job.dir.child(name);
        let key = job.key.child(name);
        let (mut scope, is_source) = job.scope.below(name);
        let source = match &job.source {
            Some(source) if !is_source => Some(source.clone()),
            _ => scope.is_all.then(|| Arc::new(*stat)),
        };
        let is_own = self.shared.options.own_dirs.contains(&stat.identity());
        if is_own || source.as_ref().is_some_and(|source| self.shared.filter.stops_at(source, stat)) {
            // What was asked for below is reached all the same.
            scope.is_all = false;
        }
        let (same_stat, tree) = match job.known(self.shared, at, name) {
            Known::Stat(old) => (self.is_same(old, stat), None),
            Known::Entry(entry) => (false, entry.tree()),
            Known::Nothing => (false, None),
        };
        let old = self.shared.old_dir(&key, tree)?;
        let above = Some((job.clone(), at));
        let below = DirJob::new(dir, key, above, *stat, looked_at, same_stat, scope, source, old);
        lock(&job.below).insert(at, Arc::downgrade(&below));
        Ok(below)
    }

    fn is_same(&self, old: &CachedStat, stat: &Stat) -> bool {
        let options = self.shared.options;
        !options.ignore_ctime && old.same(&CachedStat::now(stat), options.ignore_inode, false)
    }

    fn is_same_content(&self, old: &CachedStat, stat: &Stat) -> bool {
        let options = self.shared.options;
        options.ignore_ctime && old.same(&CachedStat::now(stat), options.ignore_inode, true)
    }

    /// The outcome of a name that is no folder; none if the file's outcome comes later.
    fn entry(
        &mut self,
        job: &Arc<DirJob>,
        at: usize,
        handle: &DirHandle,
        stat: &Stat,
        looked_at: Time,
    ) -> Result<Option<Slot>, BackupError> {
        let name = &job.names()[at];
        let is_file = stat.kind == FileKind::File;
        let counts = self.shared.counts;
        let known = job.known(self.shared, at, name);
        let was_there = !matches!(known, Known::Nothing);
        match known {
            Known::Stat(old) if self.is_same(old, stat) => {
                if is_file {
                    self.count_unchanged(stat.size);
                } else {
                    Counts::add(&counts.others, 1);
                }
                return Ok(Some(Slot::Same(CachedStat::from_stat(stat, looked_at))));
            }
            // Without ctime nothing vouches for metadata: it is taken anew, and the content from the old listing.
            Known::Stat(old) if is_file && self.is_same_content(old, stat) => {
                let old = job.old.as_ref().and_then(|old| old.entry(&self.shared.lists, name));
                if let Some(content) = old.and_then(|old| old.content(stat.size, stat.mtime)) {
                    let content = content.clone();
                    return Ok(Some(self.reused(job, at, handle, stat, looked_at, content)));
                }
            }
            Known::Entry(old) if is_file => {
                let content = old.content(stat.size, stat.mtime).filter(|_| !self.shared.options.force);
                if let Some(content) = content.filter(|_| self.shared.parent_vouches_for(stat.mtime)) {
                    let content = content.clone();
                    return Ok(Some(self.reused(job, at, handle, stat, looked_at, content)));
                }
            }
            _ => {}
        }
        if is_file {
            Counts::add(if was_there { &counts.files_changed } else { &counts.files_new }, 1);
            return self.file(job, at, handle, looked_at);
        }
        Counts::add(&counts.others, 1);
        Ok(Some(self.special(job, at, handle, stat, looked_at)))
    }

    fn count_unchanged(&self, len: u64) {
        let (counts, progress) = (self.shared.counts, self.shared.progress);
        Counts::add(&counts.files_unchanged, 1);
        Counts::add(&counts.bytes, len);
        Progress::add(&progress.files_done, 1);
        Progress::add(&progress.bytes_done, len);
    }

    /// A file whose content need not be read while its metadata is taken anew.
    fn reused(
        &mut self,
        job: &DirJob,
        at: usize,
        handle: &DirHandle,
        stat: &Stat,
        looked_at: Time,
        content: Content,
    ) -> Slot {
        self.count_unchanged(stat.size);
        let meta = self.metadata_of(job, at, handle, stat);
        let entry = Entry { name: job.name(at), meta, what: What::File(content) };
        Slot::New(Box::new(entry), CachedStat::from_stat(stat, looked_at))
    }

    /// Reports something that could not be read.
    pub fn missed(&self, error: &SourceError) {
        Counts::add(&self.shared.counts.errors, 1);
        self.shared.progress.warn(error.path.clone(), format!("cannot {}: {}", error.action, error.source));
    }

    /// Reports something that is not quite as it should be.
    pub fn warn(&self, path: Vec<u8>, message: &str) {
        Counts::add(&self.shared.counts.errors, 1);
        self.shared.progress.warn(path, message);
    }
}
