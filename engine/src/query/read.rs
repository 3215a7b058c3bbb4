//! The bytes of a file, in order: pieces from leaves, holes as zeros.

use super::{QueryError, Result, ahead};
use crate::branch::entry::{Content, Piece};
use crate::branch::{BranchError, FileReader};
use crate::progress::Progress;
use crate::vault::{ChunkReader, ReadError, Vault};
use std::io::Write;
use std::ops::Range;

/// Zeros written at a time for a hole.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes all bytes of a file to `out`; returns how many.
///
/// # Errors
/// [`QueryError::Content`] says which bytes cannot be read; all bytes before them have been written.
pub fn read_file(vault: &Vault, content: &Content, out: &mut dyn Write, progress: &Progress) -> Result<u64> {
    if content.len() >= ahead::LEN_MIN {
        return ahead::copy(vault, content, out, progress);
    }
    copy_range(&vault.reader()?, content, 0..content.len(), out, progress)
}

/// Writes the bytes of a file from `offset` on, at most `len` and to the end of the file; returns how many.
pub fn read_range(
    vault: &Vault,
    content: &Content,
    offset: u64,
    len: u64,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<u64> {
    copy_range(&vault.reader()?, content, offset..offset.saturating_add(len), out, progress)
}

/// As [`read_range`] with a reader that the caller goes on using: files that lie together are then read together.
pub fn copy_range(
    reader: &ChunkReader,
    content: &Content,
    range: Range<u64>,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<u64> {
    let range = range.start..range.end.min(content.len());
    if range.is_empty() {
        return Ok(0);
    }
    if let Content::Inline(bytes) = content {
        // Within the content's length, which is that of these bytes.
        write(out, &bytes[range.start as usize..range.end as usize], progress)?;
        return Ok(range.end - range.start);
    }
    let mut at = range.start;
    let pieces = pieces_from(reader, content, range.start).map_err(|source| unreadable(range.clone(), source))?;
    for piece in pieces {
        let (offset, piece) = piece.map_err(|source| unreadable(at..range.end, source))?;
        if offset >= range.end {
            break;
        }
        let end = (offset + piece.len).min(range.end);
        let within = (at - offset) as usize..(end - offset) as usize;
        match piece.chunk {
            None => zeros(out, end - at, progress)?,
            Some(chunk) => {
                let bytes = leaf(reader, &chunk, piece.len).map_err(|source| unreadable(at..end, source))?;
                write(out, &bytes[within], progress)?;
            }
        }
        at = end;
    }
    match at == range.end {
        true => Ok(range.end - range.start),
        false => Err(unreadable(at..range.end, BranchError::Promise.into())),
    }
}

pub(super) fn unreadable(range: Range<u64>, source: ReadError) -> QueryError {
    QueryError::Content { range, source: Box::new(source) }
}

/// A leaf, which must be as long as the piece that names it says.
pub(super) fn leaf(
    reader: &ChunkReader,
    chunk: &crate::id::ChunkId,
    len: u64,
) -> std::result::Result<Vec<u8>, ReadError> {
    let bytes = reader.leaf(chunk)?;
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(BranchError::Promise.into()),
    }
}

/// Pieces of a file with their offsets, in order; nothing comes after an error.
pub type Pieces<'r> = Box<dyn Iterator<Item = std::result::Result<(u64, Piece), ReadError>> + 'r>;

/// Pieces of a file from the one that holds the byte at `offset`. None for content in its entry.
pub fn pieces_from<'r>(
    reader: &'r ChunkReader,
    content: &Content,
    offset: u64,
) -> std::result::Result<Pieces<'r>, ReadError> {
    let listed = |pieces: Vec<Piece>| {
        let mut at = 0;
        let placed = pieces.into_iter().map(move |piece| {
            let start = at;
            at += piece.len;
            Ok((start, piece))
        });
        let wanted = move |placed: &std::result::Result<(u64, Piece), ReadError>| {
            placed.as_ref().is_ok_and(|(start, piece)| start + piece.len <= offset)
        };
        Box::new(placed.skip_while(wanted))
    };
    Ok(match content {
        Content::Inline(_) => listed(Vec::new()),
        Content::One { len, chunk } => listed(vec![Piece { len: *len, chunk: Some(*chunk) }]),
        Content::Pieces(pieces) => listed(pieces.clone()),
        Content::Tree { len, root } => Box::new(FileReader::pieces_from(reader, root, *len, offset)?),
    })
}

pub(super) fn write(out: &mut dyn Write, bytes: &[u8], progress: &Progress) -> Result<()> {
    if progress.is_cancelled() {
        return Err(QueryError::Cancelled);
    }
    out.write_all(bytes).map_err(QueryError::Write)?;
    Progress::add(&progress.bytes_done, bytes.len() as u64);
    Ok(())
}

pub(super) fn zeros(out: &mut dyn Write, len: u64, progress: &Progress) -> Result<()> {
    let mut left = len;
    while left > 0 {
        let now = left.min(ZEROS.len() as u64);
        write(out, &ZEROS[..now as usize], progress)?;
        left -= now;
    }
    Ok(())
}
