//! What sessions that ended early left behind: their frames are read from the packs and admitted.

use super::local::{Inner, Parts, SESSIONS};
use super::session::session_path;
use super::{Result, StoreError};
use crate::files::Lock;
use crate::id::{ChunkId, SessionId};
use crate::index::{self, NewFrame, PackNumber, PackRow, PackState};
use crate::pack::{self, HEADER_LEN, PackName, Scanned, Scanner};
use std::collections::HashMap;
use std::io::ErrorKind;

/// Locks of sessions, which show that nobody writes.
pub(super) type SessionLocks = Vec<Box<dyn Lock>>;

/// Takes the lock of every session that has a lock file.
pub(super) fn lock_all_sessions(parts: &Parts) -> Result<SessionLocks> {
    let mut locks = Vec::new();
    for file in parts.files.list(SESSIONS)? {
        let path = format!("{SESSIONS}/{}", file.name);
        match parts.files.try_lock(&path, &parts.owner)? {
            Some(lock) => locks.push(lock),
            None => return Err(StoreError::Busy { what: "session", owner: parts.owner_of(&path) }),
        }
    }
    Ok(locks)
}

impl Inner {
    /// Admits what is in packs and not in the index, of all sessions but `own` whose lock is free.
    /// Returns the branches that became whole by it.
    pub(super) fn adopt_abandoned(&self, own: SessionId) -> Result<Vec<ChunkId>> {
        let mut healed = Vec::new();
        for (name, row) in self.unfinished(own)? {
            let path = session_path(name.session);
            let Some(_lock) = self.parts.files.try_lock(&path, &self.parts.owner)? else { continue };
            healed.extend(self.adopt(name, row)?);
        }
        self.remove_ended_sessions(own)?;
        Ok(healed)
    }

    /// Packs that are on disk and not wholly indexed, with their rows if they have any.
    fn unfinished(&self, own: SessionId) -> Result<Vec<(PackName, Option<(PackNumber, PackRow)>)>> {
        let rows: HashMap<_, _> =
            index::packs(&*self.kv.read()?)?.into_iter().map(|(number, row)| (row.name, (number, row))).collect();
        let on_disk = self.parts.files.list(pack::DIR)?;
        let names = on_disk.iter().filter_map(|file| PackName::from_file_name(&file.name));
        let mut unfinished: Vec<_> = names
            .filter(|name| name.session != own)
            .map(|name| (name, rows.get(&name).copied()))
            .filter(|(_, row)| row.is_none_or(|(_, row)| row.state == PackState::Open))
            .collect();
        // Leaves before branches, so that most branches find what they need.
        unfinished.sort_by_key(|(name, _)| (name.kind, *name));
        Ok(unfinished)
    }

    fn adopt(&self, name: PackName, row: Option<(PackNumber, PackRow)>) -> Result<Vec<ChunkId>> {
        let path = name.path();
        // A killed process leaves bytes that are readable and not yet on disk.
        if !crate::zoo::planted("adopt-without-sync") {
            self.parts.files.sync_file(&path)?;
            self.parts.files.sync_dir(pack::DIR)?;
        }
        let file = self.parts.files.open(&path)?;
        let from = row.map_or(HEADER_LEN, |(_, row)| row.indexed_len);
        let mut scanner = Scanner::new(&*file, self.parts.vault, from)?;
        let _lock = self.parts.lock("index")?;
        let mut write = self.kv.write()?;
        let number = match row {
            Some((number, _)) => number,
            None => index::next_pack(&*write)?,
        };
        let mut frames = Vec::new();
        while let Some(scanned) = scanner.next()? {
            if let Scanned::Frame { row, header } = scanned {
                frames.push(NewFrame::scanned(number, &row, *header));
            }
        }
        let end = frames.last().map_or(from, |frame| frame.place.offset + u64::from(frame.place.len) + 32);
        index::put_pack(&mut *write, number, &PackRow { name, indexed_len: end, state: PackState::Closed })?;
        let admitted = index::admit(&mut *write, &frames, &|place, position| self.refs_of(place, position))?;
        write.commit()?;
        Ok(admitted.healed)
    }

    fn remove_ended_sessions(&self, own: SessionId) -> Result<()> {
        for file in self.parts.files.list(SESSIONS)? {
            let path = format!("{SESSIONS}/{}", file.name);
            if path == session_path(own) {
                continue;
            }
            if let Some(_lock) = self.parts.files.try_lock(&path, &self.parts.owner)? {
                match self.parts.files.remove(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
