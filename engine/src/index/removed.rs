//! Frames that were removed and of which somebody still has to be told.

use super::damaged;
use crate::id::FrameId;
use crate::kv::{self, Read, Table, Write};

const REMOVED: &[u8] = b"removed ";

fn key(id: &FrameId) -> Vec<u8> {
    [REMOVED, &id.0[..]].concat()
}

/// Notes that these are removed.
pub fn note_removed(write: &mut dyn Write, ids: &[FrameId]) -> kv::Result<()> {
    ids.iter().try_for_each(|id| write.put(Table::Meta, &key(id), &[]))
}

/// Forgets that these were removed.
pub fn forget_removed(write: &mut dyn Write, ids: &[FrameId]) -> kv::Result<()> {
    ids.iter().try_for_each(|id| write.delete(Table::Meta, &key(id)).map(drop))
}

/// All that were removed and not forgotten, by name.
pub fn removed(read: &dyn Read) -> kv::Result<Vec<FrameId>> {
    let mut ids = Vec::new();
    super::scan(read, Table::Meta, REMOVED, |key, _| {
        let Some(id) = key.strip_prefix(REMOVED) else { return Ok(false) };
        ids.push(FrameId::from_slice(id).ok_or_else(|| damaged("a removed frame"))?);
        Ok(true)
    })?;
    Ok(ids)
}
