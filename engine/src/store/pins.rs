//! Pins: who reads a snapshot for long keeps what is below it, whatever becomes of the snapshot meanwhile.
//!
//! `pins/<chunk id, 64 hex>-<16 hex>` is a lock file whose name says what it keeps, held for as long as the reader
//! lives. Who collects garbage takes roots from the names of those that are held.

use super::local::{Inner, LocalStore};
use super::{Result, StoreError};
use crate::files::{Files, Lock};
use crate::id::ChunkId;
use crate::index::{self, Phase, Standing};
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
        let Some(pin) = self.take_pin(root)? else { return Ok(None) };
        // After the lock: what is condemned later is looked at again, and the pin is found then.
        if index::standing(&*self.0.kv.read()?, &root)? != Standing::Condemned {
            return Ok(Some(pin));
        }
        // Whoever decides what goes looks at pins once more under this lock.
        let _index = self.0.parts.lock("index")?;
        let read = self.0.kv.read()?;
        let is_going = index::collection(&*read)?.phase == Phase::Sweeping;
        match index::standing(&*read, &root)? {
            Standing::Condemned if is_going => Err(StoreError::Missing(vec![root])),
            Standing::Condemned | Standing::Firm | Standing::Doubtful | Standing::Absent => Ok(Some(pin)),
        }
    }

    fn take_pin(&self, root: ChunkId) -> Result<Option<Pin>> {
        let parts = &self.0.parts;
        for _ in 0..PIN_TRIES {
            let mut tail = [0; 8];
            parts.env.entropy.fill(&mut tail);
            let path = format!("{PINS}/{}-{:016x}", root.to_hex(), u64::from_le_bytes(tail));
            match parts.files.create_dir(PINS).and_then(|()| parts.files.try_lock(&path, &parts.owner)) {
                Ok(Some(lock)) => return Ok(Some(Pin { files: parts.files.clone(), path, lock: Some(lock) })),
                // Somebody looks whether it is held, and takes it for one that is over.
                Ok(None) => {}
                Err(error) if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Busy { what: "folder of pins", owner: "another process".to_owned() })
    }
}

/// How often somebody else may get the lock of a new pin first.
const PIN_TRIES: usize = 100;

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
