//! A backup from end to end: what workers share, the walk, settling and publishing.

use super::checkpoint::Checkpoints;
use super::counts::Counts;
use super::file::{Batch, Gathered, new_buffer};
use super::old::{OldDir, OldLists};
use super::pool::{Next, Pool};
use super::scope::Scope;
use super::stream::StreamSource;
use super::tree::{DirJob, Task};
use super::writer::ChunkWriter;
use super::{BackupError, BackupOptions, BackupSummary};
use crate::branch::entry::FileTime;
use crate::branch::{self, Snapshot, Totals};
use crate::cache::{CacheError, CacheWriter, DirKey, ListCache, ListWriter, StatCache};
use crate::chunk::Cutter;
use crate::env::Time;
use crate::frame::SealKeys;
use crate::id::ChunkId;
use crate::progress::Progress;
use crate::record::RefKind;
use crate::source::filter::Filter;
use crate::source::{Dir, OwnerNames};
use crate::store::{Session, StoreError};
use crate::vault::{ErrorClass, SnapshotInfo, Vault};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How often a source is read anew at most because the store lacks what was taken for stored.
const AGAIN_MAX: u32 = 3;

/// What all workers of a run look at.
pub(super) struct Shared<'a> {
    pub vault: &'a Vault,
    pub options: &'a BackupOptions,
    pub progress: &'a Progress,
    pub counts: &'a Counts,
    pub filter: Filter,
    pub has_rules: bool,
    pub owners: OwnerNames,
    /// Listings of before.
    pub lists: OldLists,
    pub cutter: Cutter<'a>,
    pub cache: StatCache,
    pub cache_out: Option<CacheWriter>,
    /// Only where the vault cannot be read.
    pub lists_out: Option<ListWriter>,
    pub pool: Pool<Task, Batch, BackupError>,
    pub root: Mutex<Option<ChunkId>>,
    pub stream: Mutex<Option<StreamSource>>,
    /// The top folder; none when a stream is read.
    pub top: OnceLock<Arc<DirJob>>,
    pub run: &'a Run<'a>,
    pub session: &'a dyn Session,
    pub parent: Option<&'a SnapshotInfo>,
    pub workers: usize,
    pub checkpoints: Checkpoints,
    /// Nothing known of the source is believed.
    pub distrust: bool,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Shared<'_> {
    pub fn now(&self) -> Time {
        self.vault.env().clock.now()
    }

    /// What is known of a folder, as far as the store still has all of it.
    pub fn old_dir(&self, key: &DirKey, parent: Option<ChunkId>) -> Result<Option<OldDir>, BackupError> {
        if self.distrust || self.options.force {
            return Ok(None);
        }
        let old = match self.cache.lookup(key) {
            Some(cached) => OldDir::cached(cached),
            None => match parent {
                Some(tree) => OldDir::parent(tree),
                None => return Ok(None),
            },
        };
        let known = crate::zoo::planted("trust-cache") || self.vault.store().known(&[old.tree])?[0];
        Ok(known.then_some(old))
    }

    /// Whether a file of this mtime cannot have changed since the parent read it and kept the mtime: file systems'
    /// clocks tick in steps of up to two seconds.
    pub fn parent_vouches_for(&self, mtime: FileTime) -> bool {
        let begun = self.parent.map_or(i64::MIN, |info| info.snapshot.started.0);
        mtime.secs < begun.div_euclid(1_000_000_000).saturating_sub(2)
    }

    /// An error once the run is over or somebody asked to stop it.
    pub fn check_running(&self) -> Result<(), BackupError> {
        match self.progress.is_cancelled() || self.pool.is_over() {
            true => Err(BackupError::Cancelled),
            false => Ok(()),
        }
    }

    pub fn buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(new_buffer)
    }

    pub fn give_back(&self, buffer: Vec<u8>) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// A thread's share of the work.
pub(super) struct Worker<'a> {
    pub number: usize,
    pub shared: &'a Shared<'a>,
    pub writer: ChunkWriter<'a>,
    pub gathered: Gathered,
    pub checkpoints_answered: u64,
}

impl Worker<'_> {
    fn run(&mut self) -> Result<(), BackupError> {
        loop {
            if self.shared.progress.is_cancelled() {
                return Err(BackupError::Cancelled);
            }
            self.checkpoint()?;
            match self.shared.pool.next(self.number) {
                Next::Task(Task::List(job)) => self.list(&job)?,
                Next::Task(Task::Part(job)) => self.part(&job)?,
                Next::Task(Task::Stream(job)) => self.stream_task(&job)?,
                Next::Batch(batch) => self.batch(batch)?,
                Next::Idle => {
                    // Others may wait for folders that only lack these files.
                    self.put_gathered()?;
                    let answered = self.checkpoints_answered;
                    self.shared.pool.wait(|| self.shared.checkpoint_wanted(answered));
                }
                Next::Finished => return self.writer.flush(),
            }
        }
    }
}

/// Backs up `options.paths` into a new snapshot.
///
/// Sources that cannot be read are warnings, counted in `errors`; the rest is backed up.
pub fn backup(vault: &Vault, options: &BackupOptions, progress: &Progress) -> Result<BackupSummary, BackupError> {
    Run::new(vault, options, progress)?.run(&begin_at_root, None)
}

/// The walk from the root of the file system down to the sources.
pub(super) fn begin_at_root(shared: &Shared<'_>, parent: Option<ChunkId>) -> Result<Task, BackupError> {
    let dir = Dir::root()?;
    let handle = dir.open()?;
    let stat = handle.stat_self()?;
    let scope = Scope::of(&shared.options.paths);
    let key = DirKey::root(&cache_scope(shared.options));
    let old = shared.old_dir(&key, parent)?;
    Ok(Task::List(DirJob::root(dir, stat, key, scope, old, shared.now())))
}

/// Everything that would make another tree of the same files.
fn cache_scope(options: &BackupOptions) -> Vec<u8> {
    let mut paths = options.paths.clone();
    paths.sort();
    let mut scope = vec![u8::from(options.with_atime), u8::from(options.filter.one_file_system)];
    for path in paths {
        scope.extend_from_slice(&path);
        scope.push(0);
    }
    scope
}

type Begin<'b> = dyn Fn(&Shared<'_>, Option<ChunkId>) -> Result<Task, BackupError> + 'b;

/// One backup.
pub(super) struct Run<'a> {
    vault: &'a Vault,
    options: &'a BackupOptions,
    progress: &'a Progress,
    counts: Counts,
    started: Time,
}

impl<'a> Run<'a> {
    pub fn new(vault: &'a Vault, options: &'a BackupOptions, progress: &'a Progress) -> Result<Self, BackupError> {
        let started = vault.env().clock.now();
        Ok(Self { vault, options, progress, counts: Counts::default(), started })
    }

    pub fn run(self, begin: &Begin<'_>, stream: Option<StreamSource>) -> Result<BackupSummary, BackupError> {
        let clock = &self.vault.env().clock;
        let begun = clock.elapsed();
        for fault in self.vault.store().audit()? {
            self.progress.warn(fault.file.into_bytes(), fault.problem);
        }
        let parent = self.parent()?;
        let session: Box<dyn Session> = match self.options.dry_run {
            true => Box::new(super::dry::DrySession::new(self.vault)),
            false => self.vault.store().begin()?,
        };
        let seal = self.vault.seal_keys(session.id());
        let mut stream = stream;
        let mut again = 0;
        let snapshot = loop {
            let tree = self.walk(&*session, &seal, parent.as_ref(), again > 0, begin, stream.take())?;
            if self.is_unchanged(&*session, parent.as_ref(), tree)? {
                break None;
            }
            match self.settle(&*session, &seal, parent.as_ref(), tree) {
                Ok(snapshot) => break snapshot,
                // The store lacks what was taken for stored. Everything is read once more and put where it lacks;
                // meanwhile garbage may be collected, or damage found, elsewhere.
                Err(BackupError::Store(StoreError::Missing(_)))
                    if again < AGAIN_MAX && !self.progress.is_cancelled() =>
                {
                    again += 1;
                    self.counts.forget_sources();
                }
                Err(error) => return Err(error),
            }
        };
        let mut summary = self.summary(&*session, snapshot, parent.map(|info| info.id))?;
        summary.duration = clock.elapsed().saturating_sub(begun);
        Ok(summary)
    }

    /// The snapshot to compare with.
    fn parent(&self) -> Result<Option<SnapshotInfo>, BackupError> {
        if self.options.force && self.options.parent.is_none() && !self.options.skip_if_unchanged {
            return Ok(None);
        }
        // A device cannot read any: it compares with what it remembers.
        if self.vault.device().is_some() {
            return Ok(None);
        }
        let snapshots = self.vault.snapshots()?;
        for fault in snapshots.damaged {
            self.progress.warn(fault.file.into_bytes(), fault.problem);
        }
        let mut list = snapshots.list.into_iter().rev();
        Ok(match self.options.parent {
            Some(id) => list.find(|info| info.id == id),
            // Not one of a device, which could say that it is this host: its files would stand in for ours.
            None => list.find(|info| {
                info.device.is_none()
                    && info.snapshot.host == self.options.host
                    && info.snapshot.paths == self.options.paths
            }),
        })
    }

    /// Whether no snapshot is to be made. What was put has healed the parent then, if that lacked anything.
    fn is_unchanged(
        &self,
        session: &dyn Session,
        parent: Option<&SnapshotInfo>,
        tree: ChunkId,
    ) -> Result<bool, BackupError> {
        let Some(parent) = parent.filter(|_| self.options.skip_if_unchanged) else { return Ok(false) };
        if parent.snapshot.tree != tree || parent.snapshot.partial {
            return Ok(false);
        }
        session.checkpoint()?;
        let trusts = self.options.dry_run || crate::zoo::planted("trust-cache");
        Ok(trusts || self.vault.store().known(&[parent.id])?[0])
    }

    fn writer<'w>(&'w self, session: &'w dyn Session, seal: &SealKeys) -> Result<ChunkWriter<'w>, BackupError> {
        let level = self.vault.config().compression_level;
        let entropy = self.vault.env().entropy.clone();
        ChunkWriter::new(session, self.vault.keys(), seal.clone(), entropy, level, &self.counts, self.progress)
    }

    /// Walks the source once and puts what is new; returns the root of the tree.
    pub fn walk(
        &self,
        session: &dyn Session,
        seal: &SealKeys,
        parent: Option<&SnapshotInfo>,
        distrust: bool,
        begin: &Begin<'_>,
        stream: Option<StreamSource>,
    ) -> Result<ChunkId, BackupError> {
        let executor = &self.vault.env().executor;
        let cache_path = self.cache_path();
        let known = cache_path.as_deref().filter(|_| !distrust && !self.options.force);
        let cache = known.map_or_else(StatCache::empty, |path| StatCache::open(path, self.vault.id()));
        let lists = match self.vault.device() {
            None => OldLists::Vault(self.vault.reader()?),
            Some(_) => {
                let open = |path: &Path| ListCache::open(&list_path(path), self.vault.id());
                OldLists::Cache(known.map_or_else(ListCache::empty, open))
            }
        };
        let out = cache_path.as_deref().filter(|_| !self.options.dry_run);
        let shared = Shared {
            vault: self.vault,
            options: self.options,
            progress: self.progress,
            counts: &self.counts,
            filter: Filter::new(self.options.filter.clone())?,
            has_rules: has_rules(self.options),
            owners: OwnerNames::new(),
            lists,
            cutter: Cutter::new(self.vault.keys().gear(), &self.vault.config().cut),
            cache,
            cache_out: out.and_then(|path| self.told(self.cache_out(path))),
            lists_out: out.filter(|_| self.vault.device().is_some()).and_then(|path| self.told(self.lists_out(path))),
            pool: Pool::new(executor.workers()),
            root: Mutex::new(None),
            stream: Mutex::new(stream),
            top: OnceLock::new(),
            run: self,
            session,
            parent,
            workers: executor.workers(),
            checkpoints: Checkpoints::new(self.vault.env().clock.elapsed()),
            distrust,
            buffers: Mutex::default(),
        };
        let first = begin(&shared, parent.map(|info| info.snapshot.tree))?;
        if let Task::List(top) = &first {
            shared.top.get_or_init(|| top.clone());
        }
        shared.pool.push(0, std::iter::once(first));
        executor.run(&|number| {
            let _end = shared.pool.end_on_panic();
            let work = || {
                Worker {
                    number,
                    shared: &shared,
                    writer: self.writer(session, seal)?,
                    gathered: Gathered::default(),
                    checkpoints_answered: 0,
                }
                .run()
            };
            if let Err(error) = work() {
                shared.pool.fail(error, BackupError::is_echo);
            }
        });
        let Shared { pool, root, cache_out, lists_out, .. } = shared;
        if let Some(error) = pool.into_failure() {
            return Err(error);
        }
        // Listings first: without them what changes in a folder has everything in it read again.
        self.told(lists_out.map_or(Ok(()), |out| out.finish().map_err(|error| error.to_string())));
        self.told(cache_out.map_or(Ok(()), |out| out.finish().map_err(|error| error.to_string())));
        let root = root.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(root.expect("the root is set before the pool finishes"))
    }

    fn cache_path(&self) -> Option<PathBuf> {
        let dir = self.options.cache_dir.as_ref()?;
        let scope = blake3::hash(&cache_scope(self.options)).to_hex();
        Some(dir.join(self.vault.id().to_hex()).join(format!("{}.stat", &scope[..32])))
    }

    fn cache_out(&self, path: &Path) -> Result<CacheWriter, String> {
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| error.to_string())?;
        CacheWriter::create(path, self.vault.id(), self.vault.env()).map_err(|error: CacheError| error.to_string())
    }

    fn lists_out(&self, path: &Path) -> Result<ListWriter, String> {
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| error.to_string())?;
        let path = list_path(path);
        ListWriter::create(&path, self.vault.id(), self.vault.env()).map_err(|error: CacheError| error.to_string())
    }

    /// Goes without a cache that cannot be written.
    fn told<T>(&self, result: Result<T, String>) -> Option<T> {
        let warn = |error| self.progress.warn("", format!("the next backup will read more files again: {error}"));
        result.map_err(warn).ok()
    }

    /// Puts the snapshot root, settles it and publishes it.
    fn settle(
        &self,
        session: &dyn Session,
        seal: &SealKeys,
        parent: Option<&SnapshotInfo>,
        tree: ChunkId,
    ) -> Result<Option<ChunkId>, BackupError> {
        let snapshot = self.snapshot(session, parent, tree, false);
        let mut writer = self.writer(session, seal)?;
        let root = writer.branch(&branch::encode_snapshot(&snapshot)?)?;
        writer.flush()?;
        if self.options.dry_run {
            return Ok(None);
        }
        if self.progress.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let settled = session.settle(root)?;
        self.vault.publish(session, settled, RefKind::Snapshot, self.started)?;
        Ok(Some(root))
    }

    pub fn snapshot(
        &self,
        session: &dyn Session,
        parent: Option<&SnapshotInfo>,
        tree: ChunkId,
        partial: bool,
    ) -> Snapshot {
        let (options, counts) = (self.options, &self.counts);
        let sum =
            |counters: &[&std::sync::atomic::AtomicU64]| counters.iter().map(|counter| Counts::get(counter)).sum();
        Snapshot {
            tree,
            time: options.time.unwrap_or_else(|| self.vault.env().clock.now()),
            started: self.started,
            host: options.host.clone(),
            user: options.user.clone(),
            paths: options.paths.clone(),
            tags: options.tags.clone(),
            parent: parent.map(|info| info.id),
            program: options.program.clone(),
            session: session.id(),
            partial,
            totals: Totals {
                files: sum(&[&counts.files_new, &counts.files_changed, &counts.files_unchanged]),
                dirs: sum(&[&counts.dirs_new, &counts.dirs_changed, &counts.dirs_unchanged]),
                others: Counts::get(&counts.others),
                bytes: Counts::get(&counts.bytes),
                errors: Counts::get(&counts.errors),
            },
            command: options.command.clone(),
            excludes: options.filter.excludes.clone(),
        }
    }

    /// Snapshots that lack something. One that was made is made, also where this cannot be asked any more.
    fn unwhole(&self, is_made: bool) -> Result<u64, BackupError> {
        match self.vault.unwhole_snapshots() {
            Err(error) if is_made && error.class() == ErrorClass::Unreachable => {
                self.progress.warn("", format!("whether older snapshots lack something cannot be asked: {error}"));
                Ok(0)
            }
            asked => Ok(asked?),
        }
    }

    fn summary(
        &self,
        session: &dyn Session,
        snapshot: Option<ChunkId>,
        parent: Option<ChunkId>,
    ) -> Result<BackupSummary, BackupError> {
        let counts = &self.counts;
        Ok(BackupSummary {
            snapshot,
            parent,
            files_new: Counts::get(&counts.files_new),
            files_changed: Counts::get(&counts.files_changed),
            files_unchanged: Counts::get(&counts.files_unchanged),
            dirs_new: Counts::get(&counts.dirs_new),
            dirs_changed: Counts::get(&counts.dirs_changed),
            dirs_unchanged: Counts::get(&counts.dirs_unchanged),
            others: Counts::get(&counts.others),
            bytes_processed: Counts::get(&counts.bytes),
            bytes_added: Counts::get(&counts.bytes_added),
            bytes_stored: session.written_len(),
            chunks_new: Counts::get(&counts.chunks_new),
            chunks_known: Counts::get(&counts.chunks_known),
            errors: Counts::get(&counts.errors),
            healed: session.healed().len() as u64,
            unwhole: self.unwhole(snapshot.is_some())?,
            duration: std::time::Duration::ZERO,
        })
    }
}

/// Where listings are kept beside what files looked like.
fn list_path(stats: &Path) -> PathBuf {
    stats.with_extension("lists")
}

fn has_rules(options: &BackupOptions) -> bool {
    let filter = &options.filter;
    !filter.excludes.is_empty() || !filter.iexcludes.is_empty() || filter.exclude_larger_than.is_some()
}
