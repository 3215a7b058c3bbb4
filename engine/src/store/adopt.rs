//! What sessions that ended early left behind: their frames are read from the packs and admitted.

use super::local::{Inner, Parts, SESSIONS};
use super::session::session_path;
use super::{Result, StoreError};
use crate::files::Lock;
use crate::id::{ChunkId, SessionId};
use crate::index::{self, NewFrame, PackNumber, PackRow, PackState};
use crate::pack::{self, FRAME_NAME_LEN, HEADER_LEN, PackError, PackName, Scanned, Scanner};
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
    pub(crate) fn adopt_abandoned(&self, own: SessionId) -> Result<Vec<ChunkId>> {
        let mut healed = Vec::new();
        for name in self.unfinished(own)? {
            let path = session_path(name.session);
            let Some(_lock) = self.parts.files.try_lock(&path, &self.parts.owner)? else { continue };
            match self.adopt(name) {
                Ok(found) => healed.extend(found),
                // Nobody was told that its rest is stored, and a bad sector in it must not end all backups.
                Err(StoreError::Files(error) | StoreError::Pack(PackError::Files(error))) if pack::is_media(&error) => {
                }
                Err(error) => return Err(error),
            }
        }
        self.remove_ended_sessions(own)?;
        Ok(healed)
    }

    /// Packs that are on disk and not wholly indexed.
    fn unfinished(&self, own: SessionId) -> Result<Vec<PackName>> {
        let rows: HashMap<_, _> =
            index::packs(&*self.kv.read()?)?.into_iter().map(|(_, row)| (row.name, row.state)).collect();
        let on_disk = self.parts.files.list(pack::DIR)?;
        let names = on_disk.iter().filter(|file| !file.is_dir).filter_map(|file| PackName::from_file_name(&file.name));
        let again = |state| state == PackState::Dropped && crate::zoo::planted("dropped-adopted-again");
        let mut unfinished: Vec<_> = names
            .filter(|name| name.session != own)
            .filter(|name| rows.get(name).is_none_or(|state| *state == PackState::Open || again(*state)))
            .collect();
        // Leaves before branches, so that most branches find what they need.
        unfinished.sort_by_key(|name| (name.kind, *name));
        Ok(unfinished)
    }

    /// Admits the rest of one pack whose session's lock is held.
    pub(super) fn adopt(&self, name: PackName) -> Result<Vec<ChunkId>> {
        let path = name.path();
        // A killed process leaves bytes that are readable and not yet on disk.
        if !crate::zoo::planted("adopt-without-sync") {
            match self.parts.files.sync_file(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                result => result?,
            }
            self.parts.files.sync_dir(pack::DIR)?;
        }
        let _lock = self.lock_index()?;
        // Looked up here: another adopter may have come first.
        let row = index::packs(&*self.kv.read()?)?.into_iter().find(|(_, row)| row.name == name);
        let row =
            row.filter(|(_, row)| row.state != PackState::Dropped || !crate::zoo::planted("dropped-adopted-again"));
        let (number, from) = match row {
            Some((_, row)) if row.state != PackState::Open => return Ok(Vec::new()),
            Some((number, row)) => (number, row.indexed_len),
            None => (index::next_pack(&*self.kv.read()?)?, HEADER_LEN),
        };
        // Opened under the lock: one that was adopted, given up and removed meanwhile has no row, and no file either.
        let file = match self.parts.files.open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        if let Err(PackError::Header { .. }) = pack::check_header(&*file, self.parts.vault, &name) {
            // Torn by a power cut before anything in it was durable.
            return self.enter(number, &PackRow { name, indexed_len: 0, state: PackState::Closed }, &[]);
        }
        let mut scanner = Scanner::new(&*file, self.parts.vault, from)?;
        let mut row = PackRow { name, indexed_len: from.min(file.len()?), state: PackState::Open };
        let mut healed = Vec::new();
        let mut frames = Vec::new();
        let mut rows = 0;
        while let Some(scanned) = scanner.next()? {
            match scanned {
                Scanned::Frame { row: found, header, .. } if header.kind == name.kind => {
                    row.indexed_len = found.offset + u64::from(found.len) + FRAME_NAME_LEN;
                    let frame = NewFrame::scanned(number, &found, *header);
                    rows += frame.row_count();
                    frames.push(frame);
                }
                Scanned::Frame { .. } | Scanned::Bad { .. } | Scanned::Directory { .. } => {}
            }
            if rows >= crate::zoo::units().pending_rows {
                rows = 0;
                healed.extend(self.enter(number, &row, &std::mem::take(&mut frames))?);
            }
        }
        row.state = PackState::Closed;
        healed.extend(self.enter(number, &row, &frames)?);
        Ok(healed)
    }

    fn enter(&self, number: PackNumber, row: &PackRow, frames: &[NewFrame]) -> Result<Vec<ChunkId>> {
        let mut write = self.kv.write()?;
        index::put_pack(&mut *write, number, row)?;
        let healed = index::admit(&mut *write, frames, &|place| self.header_of(place))?;
        write.commit()?;
        index::settle_young(&*self.kv)?;
        Ok(healed)
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
