//! Names that share a file, and everything that is neither file nor folder.

use super::add;
use super::files::FileJob;
use super::plan::Context;
use crate::branch::entry::{Content, Entry, LinkId, What};
use crate::target::{FileId, TargetDir, TargetError, TargetNode};
use std::collections::HashMap;
use std::sync::Arc;

/// The name that was restored first of a file with several.
#[derive(Clone)]
pub(super) enum First {
    /// A file that is being written.
    Coming(Arc<FileJob>),
    /// Something that is there.
    There(TargetDir, Box<[u8]>, FileId),
}

impl First {
    fn place(&self) -> Option<(&TargetDir, &[u8], FileId)> {
        match self {
            Self::Coming(job) => job.made.get().map(|id| (&job.dir, &*job.name, *id)),
            Self::There(dir, name, id) => Some((dir, name, *id)),
        }
    }
}

struct Later {
    dir: TargetDir,
    name: Box<[u8]>,
    path: Vec<u8>,
    first: First,
}

/// Names seen so far of files with several, and links still to be made.
///
/// Names are joined only when the snapshot says the same of what they hold. A file removed while a backup ran leaves
/// its identity to the next one made, and a vault may say anything: neither may put the bytes of one file into another.
#[derive(Default)]
pub(super) struct Links {
    first: HashMap<(LinkId, [u8; 32]), First>,
    later: Vec<Later>,
}

/// Stands for what an entry holds: equal for equal content, links and devices.
pub(super) fn fingerprint(what: &What) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut piece = |len: u64, chunk: &[u8]| {
        hasher.update(&len.to_le_bytes()).update(&[chunk.len() as u8]).update(chunk);
    };
    let kind = match what {
        What::File(Content::Inline(bytes)) => {
            hasher.update(bytes);
            0
        }
        What::File(Content::One { len, chunk }) => {
            piece(*len, &chunk.0);
            1
        }
        What::File(Content::Pieces(pieces)) => {
            pieces.iter().for_each(|part| piece(part.len, part.chunk.as_ref().map_or(&[], |chunk| &chunk.0)));
            2
        }
        What::File(Content::Tree { len, root }) => {
            piece(*len, &root.0);
            3
        }
        What::Symlink(to) => {
            hasher.update(to);
            4
        }
        What::CharDevice { major, minor } | What::BlockDevice { major, minor } => {
            hasher.update(&major.to_le_bytes()).update(&minor.to_le_bytes());
            if matches!(what, What::CharDevice { .. }) { 5 } else { 6 }
        }
        What::Fifo => 7,
        What::Socket => 8,
        What::Directory(_) => 9,
    };
    hasher.update(&[kind]);
    *hasher.finalize().as_bytes()
}

impl Links {
    pub fn first(&self, link: &LinkId, what: &What) -> Option<First> {
        self.first.get(&(*link, fingerprint(what))).cloned()
    }

    pub fn is_coming(&mut self, link: LinkId, fingerprint: [u8; 32], job: Arc<FileJob>) {
        self.first.insert((link, fingerprint), First::Coming(job));
    }

    pub fn is_there(&mut self, link: LinkId, what: &What, dir: TargetDir, name: &[u8], id: FileId) {
        self.first.insert((link, fingerprint(what)), First::There(dir, name.into(), id));
    }

    /// A further name, to be made once the first one is complete.
    pub fn later(&mut self, dir: TargetDir, entry: &Entry, path: Vec<u8>, first: First) {
        self.later.push(Later { dir, name: entry.name.clone(), path, first });
    }

    /// How many further names are still to be made.
    pub fn waiting(&self) -> usize {
        self.later.len()
    }

    /// Makes the further names.
    pub fn make(&mut self, context: &Context<'_>) {
        for later in self.later.drain(..) {
            let Some((from, from_name, made)) = later.first.place() else {
                add(&context.counts.errors, 1);
                context.progress.warn(later.path, "the file it is another name of was not restored");
                continue;
            };
            match link(&later, from, from_name, made) {
                Ok(()) => add(&context.counts.files_restored, 1),
                Err(error) => context.failed(&later.path, &error),
            }
        }
    }

    /// Makes a link, device or pipe.
    pub fn special(&mut self, context: &Context<'_>, dir: &TargetDir, entry: &Entry, path: &[u8]) {
        if matches!(entry.what, What::Socket) {
            // A socket is nothing without the program that listens on it.
            return;
        }
        let made = dir.remove(&entry.name).and_then(|_| make_special(dir, entry)).and_then(|node| match node {
            Some(node) => Ok(Some((node.id(), node.apply(&entry.meta, &context.apply)?))),
            None => Ok(None),
        });
        match made {
            Ok(Some((id, shortfalls))) => {
                add(&context.counts.others, 1);
                context.shortfalls(path, shortfalls);
                if let Some(link) = entry.meta.link {
                    self.is_there(link, &entry.what, dir.clone(), &entry.name, id);
                }
            }
            Ok(None) => {}
            Err(error) => context.failed(path, &error),
        }
    }
}

fn link(later: &Later, from: &TargetDir, from_name: &[u8], made: FileId) -> Result<(), TargetError> {
    if let Some(found) = later.dir.lookup(&later.name)? {
        if found.id == made {
            return Ok(());
        }
        later.dir.remove(&later.name)?;
    }
    later.dir.hard_link(&later.name, from, from_name, made)
}

fn make_special(dir: &TargetDir, entry: &Entry) -> Result<Option<TargetNode>, TargetError> {
    Ok(match &entry.what {
        What::Symlink(to) => Some(dir.symlink(&entry.name, to)?),
        What::CharDevice { major, minor } => Some(dir.char_device(&entry.name, *major, *minor)?),
        What::BlockDevice { major, minor } => Some(dir.block_device(&entry.name, *major, *minor)?),
        What::Fifo => Some(dir.fifo(&entry.name)?),
        What::File(_) | What::Directory(_) | What::Socket => None,
    })
}
