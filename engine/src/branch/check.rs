//! The rules of values in branches. Encoder and decoder both apply them, so neither writes nor believes a breach.

use super::entry::{Content, Entry, FileTime, Metadata, Piece, What, Xattr, is_plain_name};
use super::{BranchError, InnerDir, InnerFile, Result};
use crate::limits::{
    CHUNK_LEN_MAX, ENTRY_PIECES_MAX, FILE_LEN_MAX, INLINE_LEN_MAX, LIST_ENTRIES_MAX, NAME_LEN_MAX, SYMLINK_LEN_MAX,
    XATTRS_LEN_MAX,
};

/// The rule that is broken.
type Rule = std::result::Result<(), &'static str>;

fn must(holds: bool, rule: &'static str) -> Rule {
    if holds { Ok(()) } else { Err(rule) }
}

/// Refuses a length over its limit.
pub(super) fn within(what: &'static str, len: usize, max: usize) -> Result<()> {
    if len <= max { Ok(()) } else { Err(BranchError::TooLong { what, len: len as u64, max: max as u64 }) }
}

/// Entries of one node: each valid, names strictly ascending.
pub(super) fn entries(entries: &[Entry]) -> Result<()> {
    within("entries of a node", entries.len(), LIST_ENTRIES_MAX)?;
    let mut last: &[u8] = b"";
    for (at, entry) in entries.iter().enumerate() {
        let ascending = must(*last < *entry.name, "names must ascend");
        ascending.and_then(|()| self::entry(entry)).map_err(|rule| BranchError::Invalid { at, rule })?;
        last = &entry.name;
    }
    Ok(())
}

/// One entry by itself.
pub(super) fn entry(entry: &Entry) -> Rule {
    must(is_plain_name(&entry.name), "a name must be one plain path component")?;
    metadata(&entry.meta)?;
    match &entry.what {
        What::File(content) => self::content(content),
        What::Directory(_) => must(entry.meta.link.is_none(), "a directory has one name only"),
        What::Symlink(target) => {
            must(!target.is_empty(), "a link must lead somewhere")?;
            must(target.len() <= SYMLINK_LEN_MAX, "a link's target is too long")?;
            must(!target.contains(&0), "a link's target must not hold NUL")
        }
        What::CharDevice { .. } | What::BlockDevice { .. } | What::Fifo | What::Socket => Ok(()),
    }
}

fn metadata(meta: &Metadata) -> Rule {
    must(meta.mode <= 0o7777, "a mode has twelve bits")?;
    must(meta.user.name.len() <= NAME_LEN_MAX, "a user's name is too long")?;
    must(meta.group.name.len() <= NAME_LEN_MAX, "a group's name is too long")?;
    file_time(&meta.mtime)?;
    meta.atime.as_ref().map_or(Ok(()), file_time)?;
    xattrs(&meta.xattrs)
}

fn file_time(time: &FileTime) -> Rule {
    must(time.nanos < 1_000_000_000, "nanoseconds must be below a second")
}

fn xattrs(xattrs: &[Xattr]) -> Rule {
    must(xattrs_len(xattrs) <= XATTRS_LEN_MAX, "the extended attributes are too long")?;
    let mut last: &[u8] = b"";
    for xattr in xattrs {
        must(*last < *xattr.name, "names of attributes must ascend")?;
        must(!xattr.name.contains(&0), "a name of an attribute must not hold NUL")?;
        last = &xattr.name;
    }
    Ok(())
}

/// Bytes that attributes take in a payload, which is what their limit is held against.
pub(super) fn xattrs_len(xattrs: &[Xattr]) -> usize {
    xattrs.iter().map(|xattr| 16 + padded(xattr.name.len()) + padded(xattr.value.len())).sum()
}

/// Whole words that `len` bytes take.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

fn content(content: &Content) -> Rule {
    match content {
        Content::Inline(bytes) => must(bytes.len() <= INLINE_LEN_MAX, "content is too long to stand in an entry"),
        Content::One { len, .. } => leaf_len(*len),
        Content::Tree { len, .. } => must((1..=FILE_LEN_MAX).contains(len), "a file's length is out of range"),
        Content::Pieces(list) => {
            must((1..=ENTRY_PIECES_MAX).contains(&list.len()), "an entry names 1 to 16 pieces")?;
            let mut sum = 0;
            list.iter().try_for_each(|piece| self::piece(piece, &mut sum))
        }
    }
}

fn leaf_len(len: u64) -> Rule {
    must((1..=CHUNK_LEN_MAX as u64).contains(&len), "the length of a leaf is out of range")
}

/// One piece, and the sum of the lengths so far.
fn piece(piece: &Piece, sum: &mut u64) -> Rule {
    match piece.chunk {
        Some(_) => leaf_len(piece.len)?,
        None => must(piece.len >= 1, "a hole must not be empty")?,
    }
    add(sum, piece.len, FILE_LEN_MAX, "a file's length is out of range")
}

fn add(sum: &mut u64, more: u64, max: u64, rule: &'static str) -> Rule {
    *sum = sum.checked_add(more).filter(|sum| *sum <= max).ok_or(rule)?;
    Ok(())
}

/// Pieces of one node; returns the bytes they cover.
pub(super) fn pieces(pieces: &[Piece]) -> Result<u64> {
    within("pieces of a node", pieces.len(), LIST_ENTRIES_MAX)?;
    let mut sum = 0;
    for (at, piece) in pieces.iter().enumerate() {
        self::piece(piece, &mut sum).map_err(|rule| BranchError::Invalid { at, rule })?;
    }
    Ok(sum)
}

/// Children of an upper directory node; returns the names under them.
pub(super) fn inner_dirs(children: &[InnerDir]) -> Result<u64> {
    within("children of a node", children.len(), LIST_ENTRIES_MAX)?;
    some(children)?;
    let mut last: &[u8] = b"";
    let mut sum = 0;
    for (at, child) in children.iter().enumerate() {
        inner_dir(child, last, &mut sum).map_err(|rule| BranchError::Invalid { at, rule })?;
        last = &child.last_name;
    }
    Ok(sum)
}

fn inner_dir(child: &InnerDir, last: &[u8], sum: &mut u64) -> Rule {
    must(*last < *child.first_name, "names must ascend")?;
    must(is_plain_name(&child.first_name), "a name must be one plain path component")?;
    must(is_plain_name(&child.last_name), "a name must be one plain path component")?;
    match child.entries {
        0 => return Err("an inner node must not be empty"),
        1 => must(child.first_name == child.last_name, "one entry is the first and the last")?,
        _ => must(child.first_name < child.last_name, "the first name stands before the last")?,
    }
    add(sum, child.entries, u64::MAX, "too many entries")
}

/// Children of an upper file node; returns the bytes they cover.
pub(super) fn inner_files(children: &[InnerFile]) -> Result<u64> {
    within("children of a node", children.len(), LIST_ENTRIES_MAX)?;
    some(children)?;
    let mut sum = 0;
    for (at, child) in children.iter().enumerate() {
        must(child.len >= 1, "an inner node must not be empty")
            .and_then(|()| add(&mut sum, child.len, FILE_LEN_MAX, "a file's length is out of range"))
            .map_err(|rule| BranchError::Invalid { at, rule })?;
    }
    Ok(sum)
}

fn some<T>(children: &[T]) -> Result<()> {
    if children.is_empty() {
        return Err(BranchError::Invalid { at: 0, rule: "an inner node must not be empty" });
    }
    Ok(())
}
