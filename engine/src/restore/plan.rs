//! Walking the snapshot and deciding what becomes of each entry. Folders, links and devices are made at once, files
//! gather in the window.

use super::files::{Begin, FileJob, ranges};
use super::links::{Links, fingerprint};
use super::window::Window;
use super::{Counts, Overwrite, RestoreError, RestoreOptions, add};
use crate::branch::entry::{Content, Entry, LinkId, Metadata, What};
use crate::branch::{DirectoryReader, FileReader};
use crate::progress::Progress;
use crate::query::{RootWhat, TreeRoot};
use crate::source::filter::{Filter, FilterOptions};
use crate::target::{ApplyOptions, Collision, Found, FoundKind, OwnerIds, Shortfall, Target, TargetDir, TargetError};
use crate::vault::{ChunkReader, ReadError, Vault};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Folders and links that wait for the files of a window.
const WAITING_MAX: usize = 32 << 10;

/// What everybody in a restore looks at.
pub(super) struct Context<'a> {
    pub vault: &'a Vault,
    pub options: &'a RestoreOptions,
    pub progress: &'a Progress,
    pub counts: &'a Counts,
    pub reader: ChunkReader,
    pub apply: ApplyOptions,
    pub open_files: AtomicUsize,
}

impl Context<'_> {
    /// Something could not be restored.
    pub fn failed(&self, path: &[u8], error: &TargetError) {
        add(&self.counts.errors, 1);
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        self.progress.warn(path, format!("cannot {}{cause}", error.action));
    }

    /// The vault cannot give something.
    pub fn unreadable(&self, path: &[u8], error: &ReadError) {
        add(&self.counts.errors, 1);
        if error.is_damage() {
            add(&self.counts.damaged, 1);
        }
        self.progress.warn(path, error.to_string());
    }

    /// A file lacks some of its bytes.
    pub fn incomplete(&self, path: &[u8], missing: &[Range<u64>], damaged: bool) {
        add(&self.counts.errors, 1);
        if damaged {
            add(&self.counts.damaged, 1);
        }
        let text = format!("incomplete: bytes {} cannot be read from the vault", ranges(missing));
        self.progress.warn(path, text);
    }

    /// A folder that is not empty stands where something else is to be.
    pub fn stands_in_the_way(&self, path: &[u8]) {
        add(&self.counts.errors, 1);
        self.progress.warn(path, "a folder that is not empty stands there; remove it, or restore with --delete");
    }

    /// Metadata the system did not take.
    pub fn shortfalls(&self, path: &[u8], shortfalls: Vec<Shortfall>) {
        for shortfall in shortfalls {
            add(&self.counts.errors, 1);
            self.progress.warn(path, shortfall.to_string());
        }
    }

    pub fn check_running(&self) -> Result<(), RestoreError> {
        match self.progress.is_cancelled() {
            true => Err(RestoreError::Cancelled),
            false => Ok(()),
        }
    }
}

/// Which entries are wanted.
pub(super) struct Selection {
    includes: Option<Filter>,
    excludes: Filter,
}

impl Selection {
    pub fn new(options: &RestoreOptions) -> Result<Self, RestoreError> {
        let filter = |patterns: &[String]| {
            Filter::new(FilterOptions { excludes: patterns.to_vec(), ..FilterOptions::default() })
        };
        let includes = if options.includes.is_empty() { None } else { Some(filter(&options.includes)?) };
        Ok(Self { includes, excludes: filter(&options.excludes)? })
    }

    /// Whether an entry is wanted for itself; `above` tells whether its folder was.
    pub fn wants(&self, above: bool, path: &[u8], name: &[u8], is_dir: bool) -> bool {
        above || self.includes.as_ref().is_none_or(|includes| includes.excludes(path, name, is_dir))
    }

    pub fn excludes(&self, path: &[u8], name: &[u8], is_dir: bool) -> bool {
        self.excludes.excludes(path, name, is_dir)
    }

    pub fn wants_all(&self) -> bool {
        self.includes.is_none()
    }
}

/// A folder on the way down.
struct Level<'c> {
    /// None for the level that stands for a single entry.
    entries: Option<DirectoryReader<'c, ChunkReader>>,
    path_len: usize,
    wanted: bool,
    name: Box<[u8]>,
    meta: Option<Metadata>,
    /// The folder in the target, once something is put into it; in a dry run only if it is there.
    dir: Option<TargetDir>,
    /// Names the snapshot has here, for removing others.
    names: Vec<Box<[u8]>>,
}

/// Walks the tree once and restores it.
pub(super) fn run(
    vault: &Vault,
    root: &TreeRoot,
    options: &RestoreOptions,
    progress: &Progress,
    counts: &Counts,
) -> Result<(), RestoreError> {
    let context = Context {
        vault,
        options,
        progress,
        counts,
        reader: vault.reader()?,
        apply: ApplyOptions { owner: options.owner, xattrs: options.xattrs, ids: Arc::new(OwnerIds::default()) },
        open_files: AtomicUsize::new(0),
    };
    let target = match options.dry_run && !options.target.exists() {
        true => None,
        false => Some(Target::create(&options.target)?),
    };
    let mut plan = Plan {
        context: &context,
        selection: Selection::new(options)?,
        levels: Vec::new(),
        path: root.path.clone(),
        window: Window::new(&context)?,
        links: Links::default(),
        done_dirs: Vec::new(),
    };
    if plan.path.last() == Some(&b'/') {
        plan.path.pop();
    }
    let top = target.map(|target| target.root());
    match &root.what {
        RootWhat::Directory(tree) => {
            plan.enter(tree, b"", None, top, plan.selection.wants_all())?;
        }
        RootWhat::Entry(entry) => {
            let above = root.path.len().saturating_sub(entry.name.len() + 1);
            plan.path.truncate(above);
            plan.levels.push(Level::single(above, top));
            plan.entry(entry.clone())?;
        }
    }
    plan.walk()
}

struct Plan<'c> {
    context: &'c Context<'c>,
    selection: Selection,
    levels: Vec<Level<'c>>,
    path: Vec<u8>,
    window: Window<'c>,
    links: Links,
    /// Folders whose entries have all been looked at, to get their metadata once their files are written.
    done_dirs: Vec<(TargetDir, Metadata, Vec<u8>)>,
}

impl Level<'_> {
    /// A level without entries of its own, to restore one entry into.
    fn single(path_len: usize, dir: Option<TargetDir>) -> Self {
        Self { entries: None, path_len, wanted: true, name: Box::default(), meta: None, dir, names: Vec::new() }
    }
}

impl<'c> Plan<'c> {
    fn walk(&mut self) -> Result<(), RestoreError> {
        loop {
            self.context.check_running()?;
            let Some(level) = self.levels.last_mut() else { break };
            self.path.truncate(level.path_len);
            match level.entries.as_mut().and_then(Iterator::next) {
                Some(Ok(entry)) => self.entry(entry)?,
                Some(Err(error)) if error.is_damage() => {
                    self.context.unreadable(&self.path, &error);
                    // What is in the rest of this folder is unknown, so nothing here is surplus.
                    self.leave(false)?;
                }
                Some(Err(error)) => return Err(error.into()),
                None => self.leave(true)?,
            }
            if self.window.is_full() || self.done_dirs.len() + self.links.waiting() >= WAITING_MAX {
                self.flush()?;
            }
        }
        self.flush()
    }

    /// Goes down into a folder; `false` if its listing cannot be read, which is said.
    fn enter(
        &mut self,
        tree: &crate::id::ChunkId,
        name: &[u8],
        meta: Option<Metadata>,
        dir: Option<TargetDir>,
        wanted: bool,
    ) -> Result<bool, RestoreError> {
        let entries = match DirectoryReader::new(&self.context.reader, tree) {
            Ok(entries) => entries,
            Err(error) if error.is_damage() => {
                self.context.unreadable(&self.path, &error);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let path_len = self.path.len();
        self.levels.push(Level {
            entries: Some(entries),
            path_len,
            wanted,
            name: name.into(),
            meta,
            dir,
            names: Vec::new(),
        });
        Ok(true)
    }

    /// A folder has no more entries.
    fn leave(&mut self, complete: bool) -> Result<(), RestoreError> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let Some(dir) = level.dir else { return Ok(()) };
        // A level without entries stands for a target that a single file goes into: nothing there is surplus.
        let is_listed = level.entries.is_some();
        if complete && is_listed && self.context.options.delete && level.wanted && self.selection.wants_all() {
            self.delete_surplus(&dir, &level.names);
        }
        match level.meta {
            Some(meta) if complete && !self.context.options.dry_run => {
                self.done_dirs.push((dir, meta, self.path.clone()));
            }
            _ => {}
        }
        Ok(())
    }

    fn delete_surplus(&self, dir: &TargetDir, names: &[Box<[u8]>]) {
        let found = match dir.names() {
            Ok(found) => found,
            Err(error) => return self.context.failed(&self.path, &error),
        };
        for name in found {
            if names.binary_search_by(|known| (**known).cmp(&name)).is_ok() {
                continue;
            }
            let path = joined(&self.path, &name);
            let is_dir = match dir.lookup(&name) {
                Ok(Some(found)) => found.kind == FoundKind::Directory,
                Ok(None) => continue,
                Err(error) => {
                    self.context.failed(&path, &error);
                    continue;
                }
            };
            if self.selection.excludes(&path, &name, is_dir) {
                continue;
            }
            if self.context.options.dry_run {
                add(&self.context.counts.deleted, 1);
                continue;
            }
            match dir.remove(&name) {
                Ok(_) => add(&self.context.counts.deleted, 1),
                Err(error) => self.context.failed(&path, &error),
            }
        }
    }

    fn entry(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let is_dir = matches!(entry.what, What::Directory(_));
        self.path = joined(&self.path, &entry.name);
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        if self.context.options.delete {
            level.names.push(entry.name.clone());
        }
        if self.selection.excludes(&self.path, &entry.name, is_dir) {
            return Ok(());
        }
        let wanted = self.selection.wants(level.wanted, &self.path, &entry.name, is_dir);
        if let What::Directory(tree) = &entry.what {
            return self.directory(&entry, tree, wanted);
        }
        if !wanted {
            return Ok(());
        }
        if let Err(error) = self.make_levels() {
            self.context.failed(&self.path, &error);
            return Ok(());
        }
        let dir = self.levels.last().and_then(|level| level.dir.clone());
        match self.context.options.dry_run {
            true => self.dry_entry(dir.as_ref(), &entry),
            false => match dir {
                Some(dir) => self.other_entry(dir, entry)?,
                // The folder could not be made, which was said.
                None => add(&self.context.counts.errors, 1),
            },
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, tree: &crate::id::ChunkId, wanted: bool) -> Result<(), RestoreError> {
        if wanted {
            add(&self.context.counts.dirs, 1);
        }
        if !self.enter(tree, &entry.name, Some(entry.meta.clone()), None, wanted)? || !wanted {
            return Ok(());
        }
        if let Err(error) = self.make_levels() {
            self.context.failed(&self.path, &error);
            // Nothing can be put below it.
            self.levels.pop();
        }
        Ok(())
    }

    /// Makes the folders on the way down that are not there yet.
    fn make_levels(&mut self) -> Result<(), TargetError> {
        let dry = self.context.options.dry_run;
        for at in 1..self.levels.len() {
            if self.levels[at].dir.is_some() {
                continue;
            }
            let Some(above) = self.levels[at - 1].dir.clone() else { continue };
            let name = self.levels[at].name.clone();
            let made = match dry {
                true => above.enter(&name)?,
                false => Some(above.enter_or_create(&name, self.collision())?),
            };
            self.levels[at].dir = made;
        }
        Ok(())
    }

    fn collision(&self) -> Collision {
        match self.context.options.overwrite {
            Overwrite::Never => Collision::Refuse,
            Overwrite::Always | Overwrite::IfChanged | Overwrite::IfNewer => Collision::Replace,
        }
    }

    fn dry_entry(&self, dir: Option<&TargetDir>, entry: &Entry) {
        let found = dir.and_then(|dir| dir.lookup(&entry.name).ok().flatten());
        let counts = self.context.counts;
        let counter = match (&entry.what, begin(self.context.options, entry, found.as_ref())) {
            (What::File(_), None) => &counts.files_skipped,
            (What::File(content), Some(_)) => {
                add(&counts.bytes_written, content.len());
                &counts.files_restored
            }
            _ => &counts.others,
        };
        add(counter, 1);
    }

    fn other_entry(&mut self, dir: TargetDir, entry: Entry) -> Result<(), RestoreError> {
        let found = match dir.is_new() {
            // Should something be there all the same, making the file says so.
            true => None,
            false => match dir.lookup(&entry.name) {
                Ok(found) => found,
                Err(error) => {
                    self.context.failed(&self.path, &error);
                    return Ok(());
                }
            },
        };
        let begin = begin(self.context.options, &entry, found.as_ref());
        if begin == Some(Begin::Replace) && self.is_full_folder(&dir, &entry, found.as_ref()) {
            self.context.stands_in_the_way(&self.path);
            return Ok(());
        }
        if let Some(link) = entry.meta.link
            && let Some(first) = self.links.first(&link, &entry.what)
        {
            if begin.is_some() || found.is_none() {
                self.links.later(dir, &entry, self.path.clone(), first);
            }
            return Ok(());
        }
        let is_file = matches!(entry.what, What::File(_));
        let Some(begin) = begin else {
            add(if is_file { &self.context.counts.files_skipped } else { &self.context.counts.others }, 1);
            // Something else that was left alone lends its content to no other name.
            if let (Some(link), Some(found)) = (entry.meta.link, found.filter(|found| found.is_same(&entry))) {
                self.links.is_there(link, &entry.what, dir, &entry.name, found.id);
            }
            return Ok(());
        };
        let link = entry.meta.link.map(|link| (link, fingerprint(&entry.what)));
        match entry.what {
            What::File(content) => self.file(dir, entry.name, entry.meta, content, begin, link),
            _ => {
                self.links.special(self.context, &dir, &entry, &self.path);
                Ok(())
            }
        }
    }

    /// Whether a folder with something in it stands where a file or link is to be, and nobody asked to delete.
    fn is_full_folder(&self, dir: &TargetDir, entry: &Entry, found: Option<&Found>) -> bool {
        let is_folder = found.is_some_and(|found| found.kind == FoundKind::Directory);
        if !is_folder || self.context.options.delete {
            return false;
        }
        let names = dir.enter(&entry.name).and_then(|folder| folder.map_or(Ok(Vec::new()), |folder| folder.names()));
        // What cannot be looked into may hold something.
        names.map_or(true, |names| !names.is_empty())
    }

    fn file(
        &mut self,
        dir: TargetDir,
        name: Box<[u8]>,
        meta: Metadata,
        content: Content,
        begin: Begin,
        link: Option<(LinkId, [u8; 32])>,
    ) -> Result<(), RestoreError> {
        let job = FileJob::new(dir, name, self.path.clone(), meta, content.len(), begin);
        if let Some((link, fingerprint)) = link {
            self.links.is_coming(link, fingerprint, job.clone());
        }
        match content {
            Content::Inline(bytes) => self.window.inline(job, bytes),
            Content::One { len, chunk } => {
                self.window.piece(&job, 0, len, Some(chunk));
                self.window.counted(job);
            }
            Content::Pieces(pieces) => {
                let mut offset = 0;
                for piece in pieces {
                    self.window.piece(&job, offset, piece.len, piece.chunk);
                    offset += piece.len;
                }
                self.window.counted(job);
            }
            Content::Tree { len, root } => {
                self.long_file(&job, len, &root)?;
                self.window.counted(job);
            }
        }
        Ok(())
    }

    fn long_file(&mut self, job: &Arc<FileJob>, len: u64, root: &crate::id::ChunkId) -> Result<(), RestoreError> {
        let context = self.context;
        let mut at = 0;
        let result = FileReader::new(&context.reader, root, len).and_then(|pieces| {
            pieces
                .map(|piece| {
                    piece.map(|(offset, piece)| {
                        at = offset + piece.len;
                        (offset, piece)
                    })
                })
                .try_for_each(|piece| -> Result<(), ReadError> {
                    let (offset, piece) = piece?;
                    self.window.piece(job, offset, piece.len, piece.chunk);
                    if self.window.is_full() {
                        self.window.run().map_err(keep)?;
                    }
                    Ok(())
                })
        });
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.is_damage() => {
                job.expect();
                job.lack(context, at..len, true);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what has gathered: files, then links to them, then the folders that are complete.
    fn flush(&mut self) -> Result<(), RestoreError> {
        self.window.run()?;
        self.links.make(self.context);
        for (dir, meta, path) in self.done_dirs.drain(..) {
            match dir.apply_self(&meta, &self.context.apply) {
                Ok(shortfalls) => self.context.shortfalls(&path, shortfalls),
                Err(error) => self.context.failed(&path, &error),
            }
            Progress::add(&self.context.progress.dirs_done, 1);
        }
        Ok(())
    }
}

fn keep(error: RestoreError) -> ReadError {
    match error {
        RestoreError::Read(error) => error,
        RestoreError::Store(error) => error.into(),
        other => ReadError::Decompression(std::io::Error::other(other.to_string())),
    }
}

/// How an entry comes to be; none if what is there stays as it is.
fn begin(options: &RestoreOptions, entry: &Entry, found: Option<&Found>) -> Option<Begin> {
    let Some(found) = found else { return Some(Begin::Create) };
    let stays = match options.overwrite {
        Overwrite::Always => false,
        Overwrite::IfChanged => found.is_same(entry),
        Overwrite::IfNewer => found.mtime >= entry.meta.mtime,
        Overwrite::Never => true,
    };
    if stays {
        return None;
    }
    let both_files = matches!(entry.what, What::File(_)) && found.kind == FoundKind::File;
    Some(if both_files { Begin::Update } else { Begin::Replace })
}

/// A path and a name below it.
pub(super) fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + 1 + name.len());
    joined.extend_from_slice(path);
    joined.push(b'/');
    joined.extend_from_slice(name);
    joined
}
