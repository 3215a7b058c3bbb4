//! Judging what stands in a pack file, without keys: its header, a frame with the name behind it, the directory.

use crate::files::ReadAt;
use crate::frame::frame_id;
use crate::id::VaultId;
use crate::index::FramePlace;
use crate::limits::FRAME_LEN_MAX;
use crate::pack::{self, FrameRow, PackError, PackName, is_media};
use crate::store::{self, StoreError};

/// What the bytes at a frame's place are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Judged {
    /// The frame that was stored.
    Whole {
        /// Whether the name behind it is right, too.
        is_named: bool,
    },
    /// Something else.
    Wrong,
}

/// Judges `bytes`, read at the place of a frame up to the end of the name behind it, shorter where the file ends.
pub(crate) fn frame(place: &FramePlace, bytes: &[u8]) -> Judged {
    match bytes.split_at_checked(place.len as usize) {
        Some((frame, name)) if frame_id(frame) == place.id => Judged::Whole { is_named: name == place.id.0 },
        _ => Judged::Wrong,
    }
}

/// What is to be said of a name behind a whole frame that is not right.
pub(crate) fn name_problem(place: &FramePlace) -> String {
    format!("the name after the frame at {} is damaged; no file is lost by that", place.offset)
}

/// What is to be said of a frame.
pub(crate) fn frame_problem(place: &FramePlace, what: &str) -> String {
    format!("the frame of {} bytes at {} {what}", place.len, place.offset)
}

/// Whether the index says of a frame what can be, in a pack whose rows end at `indexed_len` and are taken up to `at`.
pub(crate) fn can_lie(place: &FramePlace, at: u64, indexed_len: u64) -> bool {
    place.offset >= at
        && super::index::end_of(place.offset, place.len) <= indexed_len
        && place.len as usize <= FRAME_LEN_MAX
}

/// What the first bytes of a pack are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Header {
    /// As they should be.
    Good,
    /// Those of a pack that was begun and whose first sync power failed before.
    Unwritten,
    /// Damaged, with what is to be said.
    Bad(String),
}

/// Judges the header of a pack; `is_empty` where the index knows no frame in it.
///
/// # Errors
/// What says nothing about the medium.
pub(crate) fn header(file: &dyn ReadAt, vault: VaultId, name: &PackName, is_empty: bool) -> store::Result<Header> {
    match pack::check_header(file, vault, name) {
        Ok(()) => Ok(Header::Good),
        Err(PackError::Header { .. }) if is_empty => Ok(Header::Unwritten),
        Err(PackError::Header { .. }) => Ok(Header::Bad("its header is damaged; no file is lost by that".to_owned())),
        Err(PackError::Files(error)) if is_media(&error) => {
            Ok(Header::Bad(format!("its header cannot be read: {}", error.source)))
        }
        Err(error) => Err(error.into()),
    }
}

/// What stands behind the last frame of a pack that is complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Directory {
    /// A directory with all frames the index knows, and with these.
    Good(Vec<FrameRow>),
    /// None: the writer was killed, and perhaps left half a frame.
    None,
    /// A damaged one, with what is to be said.
    Bad(String),
}

/// Judges what stands in a pack of `len` bytes behind its last frame, which ends at `at`; `rows` are its frames.
///
/// # Errors
/// What says nothing about the medium.
pub(crate) fn tail(
    file: &dyn ReadAt,
    name: &PackName,
    len: u64,
    at: u64,
    rows: &[FrameRow],
) -> store::Result<Directory> {
    match pack::check_directory(file, name) {
        Ok(listed) if rows.iter().all(|row| lists(&listed, row)) => Ok(Directory::Good(listed)),
        Ok(_) => Ok(Directory::Bad("its directory does not list all its frames".to_owned())),
        Err(PackError::Directory { .. }) if len.checked_sub(at) == Some(pack::directory(at, rows).len() as u64) => {
            Ok(Directory::Bad("its directory is damaged; no file is lost by that".to_owned()))
        }
        Err(PackError::Directory { .. }) => Ok(Directory::None),
        Err(PackError::Files(error)) if is_media(&error) => {
            Ok(Directory::Bad(format!("its directory cannot be read: {}", error.source)))
        }
        Err(error) => Err(StoreError::from(error)),
    }
}

/// Whether a directory, which is in the order of its pack, has this row.
pub(crate) fn lists(listed: &[FrameRow], row: &FrameRow) -> bool {
    listed.binary_search_by_key(&row.offset, |listed| listed.offset).is_ok_and(|at| listed[at] == *row)
}
