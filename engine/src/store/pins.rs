//! Pins: who reads a snapshot for long keeps what is below it, whatever becomes of the snapshot meanwhile.
//!
//! `pins/<chunk id, 64 hex>-<16 hex>` is a lock file whose name says what it keeps, held for as long as the reader
//! lives. Who collects garbage takes roots from the names of those that are held.

use super::local::{Inner, LocalStore};
use super::{Result, StoreError};
use crate::files::{Files, Lock};
use crate::id::ChunkId;
use crate::index::{self, Standing};
use std::io::ErrorKind;
use std::sync::Arc;

const PINS: &str = "pins";

/// Keeps a root until it is dropped.
pub struct Pin {
    files: Arc<dyn Files>,
    path: String,
    lock: Option<Box<dyn Lock>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        // A file that stays keeps nothing: its lock is free.
        let _ = self.files.remove(&self.path);
        self.lock = None;
    }
}

impl LocalStore {
    /// Keeps everything below `root` from being removed while the pin lives. None where that cannot be promised: the
    /// vault may only be read, so that whoever removes things from it has to know of readers in another way.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it is being removed already.
    pub fn pin(&self, root: ChunkId) -> Result<Option<Pin>> {
        let parts = &self.0.parts;
        let mut tail = [0; 8];
        parts.env.entropy.fill(&mut tail);
        let path = format!("{PINS}/{}-{:016x}", root.to_hex(), u64::from_le_bytes(tail));
        let lock = match parts.files.create_dir(PINS).and_then(|()| parts.files.try_lock(&path, &parts.owner)) {
            Ok(lock) => lock,
            Err(error) if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let pin = Pin { files: parts.files.clone(), path, lock };
        // After the lock: what is condemned later is looked at again, and the pin is found then.
        match index::standing(&*self.0.kv.read()?, &root)? {
            Standing::Condemned => Err(StoreError::Missing(vec![root])),
            Standing::Firm | Standing::Doubtful | Standing::Absent => Ok(Some(pin)),
        }
    }
}

impl Inner {
    /// Roots that readers keep. Files of those that have ended are removed.
    pub(crate) fn pinned(&self) -> Result<Vec<ChunkId>> {
        let files = &self.parts.files;
        let listed = match files.list(PINS) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut roots = Vec::new();
        for file in listed {
            let Some(root) = file.name.split_once('-').and_then(|(root, _)| ChunkId::from_hex(root)) else { continue };
            let path = format!("{PINS}/{}", file.name);
            match files.try_lock(&path, &self.parts.owner)? {
                None => roots.push(root),
                Some(_ended) => match files.remove(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                },
            }
        }
        Ok(roots)
    }
}
