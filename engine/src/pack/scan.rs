//! Reading a pack from front to back without any index: after a crash, for a rebuild, to find rot.
//!
//! What always holds: the work is linear in the length of the file, whatever stands in it. A valid directory lists
//! where frames are; without one, magics are searched for, and what may be hashed in vain is bounded.

use super::{
    DIRECTORY_ROW_LEN, FRAME_NAME_LEN, FrameRow, HEADER_LEN, PackError, PackName, TRAILER_LEN, TRAILER_MAGIC,
    directory, header,
};
use crate::files::{self, FilesError, ReadAt};
use crate::frame::{self, FIXED_LEN, FrameHeader, frame_id};
use crate::id::{FrameId, VaultId};
use crate::limits::{FRAME_LEN_MAX, PACK_LEN_MAX};

/// What stands at a place in a pack.
#[derive(Debug)]
pub enum Scanned {
    /// A frame whose name is right, behind it or in the directory.
    Frame {
        /// Its place.
        row: FrameRow,
        /// Its clear part.
        header: Box<FrameHeader>,
        /// Whether the name behind it is right, too; the directory vouches for it otherwise.
        is_named: bool,
    },
    /// Bytes that are no whole frame: damage, or the torn end of a pack that was being written.
    Bad {
        /// Where they begin.
        offset: u64,
        /// How many there are.
        len: u64,
    },
    /// The directory and trailer of a complete pack.
    Directory {
        /// Where it begins.
        offset: u64,
        /// Whether it lists exactly the frames that were found before it, none of them bad.
        matches: bool,
    },
}

/// Walks a pack frame by frame, verifying each, and finds its way again behind damage.
pub struct Scanner<'a> {
    file: &'a dyn ReadAt,
    vault: VaultId,
    at: u64,
    len: u64,
    /// Where the directory begins and what it lists, if the pack has a valid one.
    listed: Option<(u64, Vec<FrameRow>)>,
    /// The row of the directory that the next frame should be.
    next_row: usize,
    matches: bool,
    /// A frame that was found behind damage and is returned after it.
    found: Option<(FrameRow, FrameHeader)>,
    bytes: Vec<u8>,
    frame_len: usize,
    /// Whether the name behind the frame that was read last is right.
    is_named: bool,
    window: Window,
    /// Bytes hashed for candidates that were no frames.
    wasted: u64,
    /// End of the longest candidate that was no frame.
    wasted_to: u64,
}

/// Bytes of the file being searched for a magic.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

/// How many bytes are searched for a magic at a time.
const SEARCH_LEN: usize = 1 << 20;

/// How many bytes are passed over where the medium cannot be read.
const UNREADABLE_LEN: usize = 4096;

/// Where the vault stands in a frame, and how many bytes a candidate needs to have it.
const VAULT_AT: usize = 24;
const CANDIDATE_LEN: usize = VAULT_AT + VaultId::LEN;

impl<'a> Scanner<'a> {
    /// Scans from `from`, a place where a frame begins ([`HEADER_LEN`] for the whole pack), to the end of the file.
    pub fn new(file: &'a dyn ReadAt, vault: VaultId, from: u64) -> files::Result<Self> {
        let len = file.len()?;
        let at = from.max(HEADER_LEN);
        let listed = or_unreadable(read_directory(file, len))?.flatten();
        let next_row = listed.as_ref().map_or(0, |(_, rows)| rows.partition_point(|row| row.offset < at));
        Ok(Self {
            file,
            vault,
            at,
            len,
            listed,
            next_row,
            matches: true,
            found: None,
            bytes: Vec::new(),
            frame_len: 0,
            is_named: true,
            window: Window::default(),
            wasted: 0,
            wasted_to: 0,
        })
    }

    /// The bytes of the frame returned last; empty after anything else.
    pub fn frame_bytes(&self) -> &[u8] {
        self.bytes.get(..self.frame_len).unwrap_or_default()
    }

    /// The next thing in the pack, `None` at its end. What the medium cannot read is bad like other damage.
    #[expect(clippy::should_implement_trait, reason = "a read error is no item: the scan may go on after it")]
    pub fn next(&mut self) -> files::Result<Option<Scanned>> {
        self.frame_len = 0;
        if let Some((row, header)) = self.found.take() {
            return Ok(Some(self.accept(row, header)));
        }
        let start = self.at;
        if start >= self.len {
            return Ok(None);
        }
        if let Some((row, header)) = self.frame_at(start, self.listed_at(start))? {
            return Ok(Some(self.accept(row, header)));
        }
        if let Some((offset, rows)) = &self.listed
            && *offset == start
        {
            self.at = self.len;
            return Ok(Some(Scanned::Directory {
                offset: start,
                matches: self.matches && self.next_row == rows.len(),
            }));
        }
        self.matches = false;
        self.at = self.resynchronise(start + 1)?;
        Ok(Some(Scanned::Bad { offset: start, len: self.at - start }))
    }

    fn accept(&mut self, row: FrameRow, header: FrameHeader) -> Scanned {
        self.at = row.offset + u64::from(row.len) + FRAME_NAME_LEN;
        self.frame_len = row.len as usize;
        if let Some((_, rows)) = &self.listed {
            self.matches &= rows.get(self.next_row) == Some(&row);
            self.next_row += 1;
        }
        Scanned::Frame { row, header: Box::new(header), is_named: self.is_named }
    }

    /// The frame that the directory lists at a place.
    fn listed_at(&self, at: u64) -> Option<FrameRow> {
        let (_, rows) = self.listed.as_ref()?;
        let row = rows.binary_search_by_key(&at, |row| row.offset).ok()?;
        Some(rows[row])
    }

    /// The frame that begins at `at`; `expected` is what the directory says of it. Its name stands behind it and in the
    /// directory: one of them will do.
    fn frame_at(&mut self, at: u64, expected: Option<FrameRow>) -> files::Result<Option<(FrameRow, FrameHeader)>> {
        let may_waste = self.wasted < self.len.saturating_add(16 * FRAME_LEN_MAX as u64);
        if expected.is_none() && !may_waste && at < self.wasted_to {
            return Ok(None);
        }
        if !self.read(at, FIXED_LEN)? || self.bytes[VAULT_AT..CANDIDATE_LEN] != self.vault.0 {
            return Ok(None);
        }
        let Ok(len) = FrameHeader::peek_len(&self.bytes) else { return Ok(None) };
        let end = at + len as u64 + FRAME_NAME_LEN;
        if end > self.len || expected.is_some_and(|expected| expected.len as usize != len) {
            return Ok(None);
        }
        if !self.read(at, len + FRAME_NAME_LEN as usize)? {
            return Ok(None);
        }
        let (frame, name) = self.bytes.split_at(len);
        let id = frame_id(frame);
        self.is_named = id.0 == *name;
        let is_listed = expected.is_some_and(|expected| expected.id == id);
        if (self.is_named || is_listed || crate::zoo::planted("scan-without-name"))
            && let Ok(header) = FrameHeader::parse(frame)
        {
            return Ok(Some((FrameRow { offset: at, len: len as u32, id }, header)));
        }
        self.wasted += len as u64;
        self.wasted_to = self.wasted_to.max(end);
        Ok(None)
    }

    fn read(&mut self, at: u64, len: usize) -> files::Result<bool> {
        self.bytes.resize(len, 0);
        let read = or_unreadable(self.file.read_at(at, &mut self.bytes))?.unwrap_or(0);
        self.bytes.truncate(read);
        Ok(read == len)
    }

    /// Where the next frame, which is then in `found`, or the directory begins, at `from` or later; the end of the
    /// file if nowhere.
    fn resynchronise(&mut self, from: u64) -> files::Result<u64> {
        if self.listed.is_some() {
            return self.next_listed(from);
        }
        let mut at = from;
        while let Some(candidate) = self.search(at)? {
            if let Some(frame) = self.frame_at(candidate, None)? {
                self.found = Some(frame);
                return Ok(candidate);
            }
            at = candidate + 1;
        }
        Ok(self.len)
    }

    fn next_listed(&mut self, from: u64) -> files::Result<u64> {
        let Some((end, rows)) = self.listed.take() else { return Ok(self.len) };
        let mut next = if end >= from { end } else { self.len };
        for row in &rows[rows.partition_point(|row| row.offset < from)..] {
            if let Some(frame) = self.frame_at(row.offset, Some(*row))? {
                self.found = Some(frame);
                next = row.offset;
                break;
            }
        }
        self.listed = Some((end, rows));
        Ok(next)
    }

    /// Frames that begin between `from` and `to`, do not verify, and have a header that can be understood: what is
    /// damaged in them may be elsewhere. Each has the name the directory has for it, or else the one behind it.
    pub fn candidates(&mut self, from: u64, to: u64) -> files::Result<Vec<(FrameRow, FrameHeader)>> {
        let mut found = Vec::new();
        let mut may_read = 4 * self.len.saturating_sub(from).min(to - from) + 16 * FRAME_LEN_MAX as u64;
        let mut at = from;
        while let Some(offset) = self.search(at)?.filter(|offset| *offset < to) {
            at = offset + 1;
            let Some(header) = self.header_at(offset, &mut may_read)? else { continue };
            let len = header.frame_len;
            let listed = self.listed_at(offset).filter(|row| row.len == len);
            let id = match listed {
                Some(row) => row.id,
                None => self.name_at(offset + u64::from(len))?,
            };
            found.push((FrameRow { offset, len, id }, header));
        }
        Ok(found)
    }

    /// The header at `at`, if there is one, its frame ends within the file, and it may still be read.
    fn header_at(&mut self, at: u64, may_read: &mut u64) -> files::Result<Option<FrameHeader>> {
        if !self.read(at, FIXED_LEN)? {
            return Ok(None);
        }
        let (Ok(len), Ok(frame_len)) = (FrameHeader::peek_header_len(&self.bytes), FrameHeader::peek_len(&self.bytes))
        else {
            return Ok(None);
        };
        if at + frame_len as u64 > self.len || len as u64 > *may_read {
            return Ok(None);
        }
        *may_read -= len as u64;
        Ok(if self.read(at, len)? { FrameHeader::parse(&self.bytes).ok() } else { None })
    }

    fn name_at(&mut self, at: u64) -> files::Result<FrameId> {
        let is_there = self.read(at, FRAME_NAME_LEN as usize)?;
        Ok(FrameId::from_slice(&self.bytes).filter(|_| is_there).unwrap_or(FrameId([0; 32])))
    }

    /// The next place at `from` or later where a frame of this vault seems to begin.
    fn search(&mut self, from: u64) -> files::Result<Option<u64>> {
        let mut at = from;
        while at + FIXED_LEN as u64 <= self.len {
            let Some(skip) = self.window.turn_to(self.file, self.len, at)? else {
                at += UNREADABLE_LEN as u64;
                continue;
            };
            let bytes = &self.window.bytes[skip..];
            let is_candidate = |candidate: &[u8]| {
                candidate[..frame::MAGIC.len()] == frame::MAGIC && candidate[VAULT_AT..] == self.vault.0
            };
            match bytes.windows(CANDIDATE_LEN).position(is_candidate) {
                Some(position) => return Ok(Some(at + position as u64)),
                None => at += bytes.len().saturating_sub(CANDIDATE_LEN - 1).max(1) as u64,
            }
        }
        Ok(None)
    }
}

impl Window {
    /// Reads so that the bytes at `at` are in the window; returns where, or `None` if the medium fails there.
    fn turn_to(&mut self, file: &dyn ReadAt, file_len: u64, at: u64) -> files::Result<Option<usize>> {
        let end = self.at + self.bytes.len() as u64;
        if at >= self.at && (at + CANDIDATE_LEN as u64) <= end {
            return Ok(Some((at - self.at) as usize));
        }
        for len in [SEARCH_LEN, UNREADABLE_LEN] {
            let len = (file_len - at).min(len as u64) as usize;
            self.bytes.resize(len, 0);
            self.at = at;
            if let Some(read) = or_unreadable(file.read_at(at, &mut self.bytes))? {
                self.bytes.truncate(read);
                return Ok(Some(0));
            }
        }
        self.bytes.clear();
        Ok(None)
    }
}

/// `None` for an error that speaks of the medium, not of this process (no memory, no descriptors, no rights).
fn or_unreadable<T>(result: files::Result<T>) -> files::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_media(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says that the medium cannot be read here.
pub fn is_media(error: &FilesError) -> bool {
    error.source.raw_os_error() == Some(libc::EIO)
}

/// Offset and rows of the directory at the end of a file of `len` bytes; `None` if there is no valid one.
fn read_directory(file: &dyn ReadAt, len: u64) -> files::Result<Option<(u64, Vec<FrameRow>)>> {
    if len > PACK_LEN_MAX || len < HEADER_LEN + TRAILER_LEN as u64 {
        return Ok(None);
    }
    let mut trailer = [0; TRAILER_LEN];
    if file.read_at(len - TRAILER_LEN as u64, &mut trailer)? != TRAILER_LEN || trailer[..8] != TRAILER_MAGIC {
        return Ok(None);
    }
    let count = u32::from_le_bytes([trailer[8], trailer[9], trailer[10], trailer[11]]);
    let rows_len = u64::from(count) * DIRECTORY_ROW_LEN as u64;
    let Some(offset) = (len - TRAILER_LEN as u64).checked_sub(rows_len).filter(|&offset| offset >= HEADER_LEN) else {
        return Ok(None);
    };
    let mut bytes = vec![0; rows_len as usize];
    if file.read_at(offset, &mut bytes)? != bytes.len() {
        return Ok(None);
    }
    let rows: Vec<_> = bytes.chunks_exact(DIRECTORY_ROW_LEN).filter_map(parse_row).collect();
    // Made again rather than compared field by field: then no byte of it can differ unnoticed.
    bytes.extend_from_slice(&trailer);
    Ok((directory(offset, &rows) == bytes && are_disjoint(&rows, offset)).then_some((offset, rows)))
}

/// Whether rows follow each other without overlap up to `end`, as every writer leaves them.
fn are_disjoint(rows: &[FrameRow], end: u64) -> bool {
    let mut free = HEADER_LEN;
    rows.iter().all(|row| {
        let starts = row.offset >= free && row.len as usize <= FRAME_LEN_MAX;
        free = row.offset.saturating_add(u64::from(row.len) + FRAME_NAME_LEN);
        starts && free <= end
    })
}

fn parse_row(bytes: &[u8]) -> Option<FrameRow> {
    Some(FrameRow {
        offset: u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
        len: u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?),
        id: FrameId::from_slice(bytes.get(12..)?)?,
    })
}

/// Whether a pack file begins with the header its name calls for.
pub fn check_header(file: &dyn ReadAt, vault: VaultId, name: &PackName) -> Result<(), PackError> {
    let mut found = [0; HEADER_LEN as usize];
    let read = file.read_at(0, &mut found)?;
    match read == found.len() && found[..] == header(vault, name)[..] {
        true => Ok(()),
        false => Err(PackError::Header { pack: name.file_name() }),
    }
}

/// Whether a pack file is complete: it ends in a valid directory.
pub fn check_directory(file: &dyn ReadAt, name: &PackName) -> Result<Vec<FrameRow>, PackError> {
    let len = file.len()?;
    match read_directory(file, len)? {
        Some((_, rows)) => Ok(rows),
        None => Err(PackError::Directory { pack: name.file_name(), len }),
    }
}
