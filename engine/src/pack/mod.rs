//! Packs: append-only files of frames of one kind, written by one session.
//!
//! What always holds: a pack never changes but by growing, a frame in it is followed by its own name, so a pack can
//! be read to its last whole frame without any index, and a directory at its end says that it is complete.
//!
//! ```text
//! header, 64 bytes   magic "TKPACK\0" and the version byte 1 (8) · kind (1) · 3 zeros · number (u32)
//!                    · vault id (16) · session id (16) · first 16 bytes of the BLAKE3 of the 48 bytes before
//! then, frame by frame   the frame · its FrameId (32)
//! directory          frame by frame: offset (u64) · length (u32) · FrameId (32)
//! trailer, 64 bytes  magic "TKPDIR\0" and 1 (8) · number of frames (u32) · 4 zeros · offset of the directory (u64)
//!                    · BLAKE3 of the directory and the 24 bytes before this field (32) · 8 zeros
//! ```

mod scan;

pub use scan::is_media;
pub use scan::{Scanned, Scanner, check_directory, check_header};

use crate::files::{self, Files, ReadAt};
use crate::id::{FrameId, Kind, SessionId, VaultId};
use std::io::ErrorKind;
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"TKPACK\0\x01";
const TRAILER_MAGIC: [u8; 8] = *b"TKPDIR\0\x01";

/// Bytes before the first frame.
pub const HEADER_LEN: u64 = 64;

/// Bytes of the name that follows each frame.
pub const FRAME_NAME_LEN: u64 = 32;

const DIRECTORY_ROW_LEN: usize = 44;
const TRAILER_LEN: usize = 64;

/// Which pack: who wrote it, what it holds, and the how-manieth of its session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackName {
    /// Session that wrote it.
    pub session: SessionId,
    /// Leaves or branches.
    pub kind: Kind,
    /// Counted within the session, over both kinds.
    pub number: u32,
}

impl PackName {
    /// File name, e.g. `00112233445566778899aabbccddeeff-0000002a.leaf`.
    pub fn file_name(&self) -> String {
        let kind = match self.kind {
            Kind::Leaf => "leaf",
            Kind::Branch => "branch",
        };
        format!("{}-{:08x}.{kind}", self.session, self.number)
    }

    /// Path inside the vault.
    pub fn path(&self) -> String {
        format!("{}/{}", crate::pack::DIR, self.file_name())
    }

    /// Path inside the vault once the pack was set aside.
    pub fn aside_path(&self) -> String {
        format!("{ASIDE}/{}", self.file_name())
    }

    /// Reads what [`Self::file_name`] wrote; `None` for anything else.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let (stem, kind) = name.split_once('.')?;
        let (session, number) = stem.split_once('-')?;
        let kind = match kind {
            "leaf" => Kind::Leaf,
            "branch" => Kind::Branch,
            _ => return None,
        };
        let name_read =
            Self { session: SessionId::from_hex(session)?, kind, number: u32::from_str_radix(number, 16).ok()? };
        (name_read.file_name() == name).then_some(name_read)
    }
}

/// The folder of packs in a vault.
pub const DIR: &str = "packs";

/// The folder of packs, and copies of other files, that repairs took out of use. What is in it still counts, last.
pub const ASIDE: &str = "aside";

/// Opens a pack where it belongs or, if it is not there, where it was set aside.
pub fn open(files: &dyn Files, name: &PackName) -> files::Result<Arc<dyn ReadAt>> {
    match files.open(&name.path()) {
        Err(error) if error.kind() == ErrorKind::NotFound => match files.open(&name.aside_path()) {
            Err(aside) if aside.kind() == ErrorKind::NotFound => Err(error),
            found => found,
        },
        found => found,
    }
}

/// The pack file is not what its name says, or its directory is not what it holds.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The first 64 bytes are damaged or of another file.
    #[error("the header of pack {pack} is damaged")]
    Header {
        /// Pack file.
        pack: String,
    },
    /// The pack holds frames, but its directory does not list them.
    #[error("pack {pack} ends at {len} without a valid directory")]
    Directory {
        /// Pack file.
        pack: String,
        /// File length in bytes.
        len: u64,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Files(#[from] crate::files::FilesError),
}

/// The first bytes of a pack.
pub fn header(vault: VaultId, name: &PackName) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN as usize);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[name.kind as u8, 0, 0, 0]);
    bytes.extend_from_slice(&name.number.to_le_bytes());
    bytes.extend_from_slice(&vault.0);
    bytes.extend_from_slice(&name.session.0);
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..16]);
    bytes
}

/// A frame's row in a pack's directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRow {
    /// Where the frame begins, bytes from the start of the pack.
    pub offset: u64,
    /// Length of the frame without its name.
    pub len: u32,
    /// Name of the frame.
    pub id: FrameId,
}

/// Directory and trailer of a pack whose frames end at `offset`.
pub fn directory(offset: u64, rows: &[FrameRow]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len() * DIRECTORY_ROW_LEN + TRAILER_LEN);
    for row in rows {
        bytes.extend_from_slice(&row.offset.to_le_bytes());
        bytes.extend_from_slice(&row.len.to_le_bytes());
        bytes.extend_from_slice(&row.id.0);
    }
    bytes.extend_from_slice(&TRAILER_MAGIC);
    bytes.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&offset.to_le_bytes());
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

#[cfg(test)]
mod tests;
