//! Reading a pack from front to back without any index: after a crash, for a rebuild, to find rot.

use super::{
    DIRECTORY_ROW_LEN, FRAME_NAME_LEN, FrameRow, HEADER_LEN, PackError, PackName, TRAILER_LEN, TRAILER_MAGIC,
    directory, header,
};
use crate::files::{self, ReadAt};
use crate::frame::{self, FIXED_LEN, FrameHeader, frame_id};
use crate::id::VaultId;
use crate::limits::{FRAME_LEN_MAX, PACK_LEN_MAX};

/// What stands at a place in a pack.
#[derive(Debug)]
pub enum Scanned {
    /// A frame whose name is right.
    Frame {
        /// Its place.
        row: FrameRow,
        /// Its clear part.
        header: Box<FrameHeader>,
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
    rows: Vec<FrameRow>,
    bad: bool,
    bytes: Vec<u8>,
    /// The directory at the end, if there is one; read once, when it is first asked for.
    listed: Option<Option<Listed>>,
    /// Bytes that may still be read in vain.
    vain_left: u64,
}

/// Where a directory begins, and its rows.
type Listed = (u64, Vec<FrameRow>);

/// How many bytes are searched for a magic at a time: few at first, as behind damage the next frame is often near …
const SEARCH_LEN_FIRST: usize = 256;
/// … then more and more, up to this.
const SEARCH_LEN_MAX: usize = 1 << 20;

/// How often the bytes of a pack may be read as frames that they then are not. Damage alone reads each once; a pack
/// made to waste time nests frames in frames, and the rest of it counts as bad.
const VAIN_FACTOR: u64 = 4;

/// Where a frame's header names its vault.
const VAULT_AT: std::ops::Range<usize> = 24..40;

impl<'a> Scanner<'a> {
    /// Scans from `from`, a place where a frame begins ([`HEADER_LEN`] for the whole pack), to the end of the file.
    pub fn new(file: &'a dyn ReadAt, vault: VaultId, from: u64) -> files::Result<Self> {
        let len = file.len()?;
        Ok(Self {
            file,
            vault,
            at: from.max(HEADER_LEN),
            len,
            rows: Vec::new(),
            bad: false,
            bytes: Vec::new(),
            listed: None,
            vain_left: len.saturating_mul(VAIN_FACTOR).saturating_add(VAIN_FACTOR * FRAME_LEN_MAX as u64),
        })
    }

    /// The bytes of the frame returned last.
    pub fn frame_bytes(&self) -> &[u8] {
        match self.rows.last() {
            Some(row) => &self.bytes[..(row.len as usize).min(self.bytes.len())],
            None => &[],
        }
    }

    /// The next thing in the pack, `None` at its end.
    pub fn next(&mut self) -> files::Result<Option<Scanned>> {
        if self.at >= self.len {
            return Ok(None);
        }
        let start = self.at;
        if let Some(frame) = self.frame_at(start)? {
            self.at = start + u64::from(frame.0.len) + FRAME_NAME_LEN;
            self.rows.push(frame.0);
            return Ok(Some(Scanned::Frame { row: frame.0, header: Box::new(frame.1) }));
        }
        if let Some(matches) = self.directory_at(start)? {
            self.at = self.len;
            return Ok(Some(Scanned::Directory { offset: start, matches }));
        }
        self.bad = true;
        self.at = self.bad_end(start)?;
        Ok(Some(Scanned::Bad { offset: start, len: self.at - start }))
    }

    fn read(&mut self, at: u64, len: usize) -> files::Result<bool> {
        self.bytes.resize(len, 0);
        let read = self.file.read_at(at, &mut self.bytes)?;
        self.bytes.truncate(read);
        Ok(read == len)
    }

    fn frame_at(&mut self, at: u64) -> files::Result<Option<(FrameRow, FrameHeader)>> {
        if !self.read(at, FIXED_LEN)? {
            return Ok(None);
        }
        let Ok(len) = FrameHeader::peek_len(&self.bytes) else { return Ok(None) };
        let whole = len as u64 + FRAME_NAME_LEN;
        if whole > self.len - at || whole > self.vain_left || self.bytes[VAULT_AT] != self.vault.0 {
            return Ok(None);
        }
        if !self.read(at, whole as usize)? {
            return Ok(None);
        }
        let (frame, name) = self.bytes.split_at(len);
        let id = frame_id(frame);
        match FrameHeader::parse(frame) {
            Ok(header) if id.0 == *name && header.vault == self.vault => {
                Ok(Some((FrameRow { offset: at, len: len as u32, id }, header)))
            }
            _ => {
                self.vain_left -= whole;
                Ok(None)
            }
        }
    }

    fn listed(&mut self) -> files::Result<Option<&Listed>> {
        if self.listed.is_none() {
            self.listed = Some(read_directory(self.file, self.len)?);
        }
        Ok(self.listed.as_ref().and_then(Option::as_ref))
    }

    fn directory_at(&mut self, at: u64) -> files::Result<Option<bool>> {
        self.listed()?;
        let Some((_, listed)) = self.listed.iter().flatten().find(|(offset, _)| *offset == at) else { return Ok(None) };
        // A scan that began in the middle knows only the later frames.
        let known_from = self.rows.first().map_or(at, |row| row.offset);
        let later = listed.iter().filter(|row| row.offset >= known_from);
        Ok(Some(!self.bad && later.eq(self.rows.iter())))
    }

    /// Where the bytes end that begin at `start` and are no frame: one stretch, however many magics are in it.
    fn bad_end(&mut self, start: u64) -> files::Result<u64> {
        let end = self.listed()?.map(|(offset, _)| *offset).filter(|&offset| offset > start).unwrap_or(self.len);
        let mut at = self.next_magic(start + 1, end)?;
        while at < end && self.frame_at(at)?.is_none() {
            at = self.next_magic(at + 1, end)?;
        }
        Ok(at)
    }

    /// Where the next frame may begin, at `from` or later; `end` if nowhere before it.
    fn next_magic(&mut self, from: u64, end: u64) -> files::Result<u64> {
        let (mut at, mut search_len) = (from, SEARCH_LEN_FIRST);
        while at < end {
            let is_whole = self.read(at, search_len)?;
            let found = self.bytes.windows(frame::MAGIC.len()).position(|window| window == frame::MAGIC);
            match found {
                Some(position) => return Ok(end.min(at + position as u64)),
                None if !is_whole => break,
                None => at += (search_len - frame::MAGIC.len() + 1) as u64,
            }
            search_len = (2 * search_len).min(SEARCH_LEN_MAX);
        }
        Ok(end)
    }
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
    Ok((directory(offset, &rows) == bytes).then_some((offset, rows)))
}

fn parse_row(bytes: &[u8]) -> Option<FrameRow> {
    Some(FrameRow {
        offset: u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
        len: u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?),
        id: crate::id::FrameId::from_slice(bytes.get(12..)?)?,
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
