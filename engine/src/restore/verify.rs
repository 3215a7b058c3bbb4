//! Reading everything that was restored once more and comparing it with the names in the snapshot.

use super::plan::Selection;
use super::{Counts, RestoreError, RestoreOptions, add};
use crate::branch::FileReader;
use crate::branch::entry::{Content, Entry, Piece, What};
use crate::limits::CHUNK_LEN_MAX;
use crate::progress::Progress;
use crate::query::{self, Step, TreeRoot};
use crate::source::{Dir, SourceError, SourceFile};
use crate::target::TargetError;
use crate::vault::{ChunkReader, ReadError, Vault};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Compares each restored file with the snapshot; what differs is a warning and an error.
pub(super) fn run(
    vault: &Vault,
    root: &TreeRoot,
    options: &RestoreOptions,
    progress: &Progress,
    counts: &Counts,
) -> Result<(), RestoreError> {
    // The restore followed links above the target; reading follows none, so they are resolved first.
    let target = options.target.canonicalize().map_err(|error| TargetError {
        action: "open folder",
        path: options.target.display().to_string(),
        source: error.into(),
    })?;
    let top = Dir::at_path(target.as_os_str().as_bytes())?;
    let selection = Selection::new(options)?;
    let reader = vault.reader()?;
    // Folders from the top down to where the walk is.
    let mut dirs: Vec<(Vec<u8>, Arc<Dir>, bool)> = Vec::new();
    let mut bytes = vec![0; CHUNK_LEN_MAX];
    let mut visit = |found: &query::WalkEntry<'_>| {
        if progress.is_cancelled() {
            return Step::Stop;
        }
        let (folder, name) = split(found.path);
        while dirs.last().is_some_and(|(path, ..)| path != folder) {
            dirs.pop();
        }
        let (dir, above) = dirs.last().map_or((&top, selection.wants_all()), |(_, dir, wanted)| (dir, *wanted));
        let is_dir = matches!(found.entry.what, What::Directory(_));
        if selection.excludes(found.path, name, is_dir) {
            return Step::SkipChildren;
        }
        let wanted = selection.wants(above, found.path, name, is_dir);
        match &found.entry.what {
            What::Directory(_) => {
                let below = (found.path.to_vec(), dir.child(name), wanted);
                dirs.push(below);
            }
            What::File(content) if wanted => {
                let same = compare(vault, &reader, dir, found.entry, content, &mut bytes);
                report(same, found.path, progress, counts);
            }
            _ => {}
        }
        Step::Continue
    };
    // Folders that cannot be read were told when they could not be restored.
    query::walk(vault, root, &mut visit, &mut |_| true)?;
    match progress.is_cancelled() {
        true => Err(RestoreError::Cancelled),
        false => Ok(()),
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

fn report(same: Result<(), String>, path: &[u8], progress: &Progress, counts: &Counts) {
    match same {
        Ok(()) => add(&counts.verified, 1),
        Err(problem) => {
            add(&counts.errors, 1);
            progress.warn(path, format!("verification: {problem}"));
        }
    }
}

fn compare(
    vault: &Vault,
    reader: &ChunkReader,
    dir: &Arc<Dir>,
    entry: &Entry,
    content: &Content,
    bytes: &mut [u8],
) -> Result<(), String> {
    let file = dir.open().and_then(|handle| handle.open_file(&entry.name)).map_err(|error| with_cause(&error))?;
    let len = file.stat().size;
    if len != content.len() {
        return Err(format!("it is {len} bytes long, not {}", content.len()));
    }
    match content {
        Content::Inline(inline) => {
            let read = read(&file, 0, inline.len() as u64, bytes)?;
            if *read == **inline { Ok(()) } else { Err("its content differs".to_owned()) }
        }
        Content::One { len, chunk } => compare_piece(vault, &file, 0, &Piece { len: *len, chunk: Some(*chunk) }, bytes),
        Content::Pieces(pieces) => {
            let mut offset = 0;
            for piece in pieces {
                compare_piece(vault, &file, offset, piece, bytes)?;
                offset += piece.len;
            }
            Ok(())
        }
        Content::Tree { len, root } => {
            let text = |error: ReadError| error.to_string();
            for piece in FileReader::new(reader, root, *len).map_err(text)? {
                let (offset, piece) = piece.map_err(text)?;
                compare_piece(vault, &file, offset, &piece, bytes)?;
            }
            Ok(())
        }
    }
}

fn with_cause(error: &SourceError) -> String {
    format!("{error}: {}", error.source)
}

fn compare_piece(vault: &Vault, file: &SourceFile, offset: u64, piece: &Piece, bytes: &mut [u8]) -> Result<(), String> {
    let differs = || Err(format!("bytes {offset}–{} differ", offset + piece.len));
    let Some(chunk) = piece.chunk else {
        let mut at = 0;
        while at < piece.len {
            let part = (piece.len - at).min(bytes.len() as u64);
            if read(file, offset + at, part, bytes)?.iter().any(|&byte| byte != 0) {
                return differs();
            }
            at += part;
        }
        return Ok(());
    };
    match vault.keys().leaf_id(read(file, offset, piece.len, bytes)?) == chunk {
        true => Ok(()),
        false => differs(),
    }
}

fn read<'b>(file: &SourceFile, offset: u64, len: u64, bytes: &'b mut [u8]) -> Result<&'b [u8], String> {
    let part = bytes.get_mut(..len as usize).ok_or("a piece is longer than any can be")?;
    let read = file.read_at(offset, part).map_err(|error| with_cause(&error))?;
    match read == part.len() {
        true => Ok(part),
        false => Err(format!("it ends at {}", offset + read as u64)),
    }
}
