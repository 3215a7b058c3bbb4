//! What went with its packs and somebody else has to hear of: a collection of somebody who keeps copies elsewhere notes
//! the names of frames in the transaction in which they go, and they stand there until all were told.

use crate::id::FrameId;
use crate::index;
use crate::store::{LocalStore, Result};

impl LocalStore {
    /// Frames that collections removed and noted, in the order of their names; 32 bytes of memory each.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn removed_frames(&self) -> Result<Vec<FrameId>> {
        Ok(index::removed(&*self.0.kv.read()?)?)
    }

    /// Forgets that these were removed: everybody has been told.
    ///
    /// # Errors
    /// The index cannot be written; nothing is forgotten then.
    pub fn forget_removed(&self, ids: &[FrameId]) -> Result<()> {
        let _lock = self.0.parts.lock("index")?;
        let mut write = self.0.kv.write()?;
        index::forget_removed(&mut *write, ids)?;
        Ok(write.commit()?)
    }
}
