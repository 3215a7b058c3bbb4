//! The packs a session is writing: one open pack a kind, closed when it is full.

use super::{Result, StoreError};
use crate::files::{Append, Files};
use crate::frame::SealedFrame;
use crate::id::{ChunkId, FrameId, Kind, SessionId, VaultId};
use crate::pack::{self, FRAME_NAME_LEN, FrameRow, HEADER_LEN, PackName};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A frame that was appended to a pack and has no rows yet.
pub(crate) struct PutFrame {
    pub pack: PackName,
    pub row: FrameRow,
    pub kind: Kind,
    pub ids: Vec<ChunkId>,
    pub refs: Vec<Vec<ChunkId>>,
}

/// A pack as far as it was written when rows were taken.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    pub name: PackName,
    pub frames_end: u64,
    pub closed: bool,
}

/// What a commit works on: frames without rows, and the packs that hold them, which are not synced yet.
#[derive(Default)]
pub(crate) struct Taken {
    pub frames: Vec<PutFrame>,
    pub packs: Vec<Progress>,
    pub unsynced: Vec<Arc<dyn Append>>,
}

struct OpenPack {
    name: PackName,
    file: Arc<dyn Append>,
    offset: u64,
    rows: Vec<FrameRow>,
    hinted: u64,
}

/// The writer of one kind of packs.
pub(crate) struct PackWriter {
    kind: Kind,
    vault: VaultId,
    session: SessionId,
    open: Option<OpenPack>,
    closed: Vec<Progress>,
    unsynced: Vec<Arc<dyn Append>>,
    ready: Vec<PutFrame>,
    ready_rows: usize,
    /// A step began and did not end: where the file ends is unknown.
    torn: bool,
}

/// The system is told to begin writing after this many bytes, so that the sync at the end waits for little.
const HINT_LEN: u64 = 8 << 20;

/// Closed packs that may be waiting for their sync; more would only pile up dirty pages and open files.
const UNSYNCED_MAX: usize = 8;

impl PackWriter {
    pub fn new(kind: Kind, vault: VaultId, session: SessionId) -> Self {
        Self {
            kind,
            vault,
            session,
            open: None,
            closed: Vec::new(),
            unsynced: Vec::new(),
            ready: Vec::new(),
            ready_rows: 0,
            torn: false,
        }
    }

    /// Runs a step after whose failure, or panic, nothing is written or handed over any more: the next frame would
    /// stand elsewhere than its row says.
    fn whole<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if std::mem::replace(&mut self.torn, true) {
            return Err(StoreError::SessionFailed);
        }
        let done = step(self)?;
        self.torn = false;
        Ok(done)
    }

    /// Appends a frame; returns how many chunks and references wait for rows.
    pub fn put(&mut self, files: &dyn Files, numbers: &AtomicU32, frame: SealedFrame) -> Result<usize> {
        self.whole(|writer| writer.append(files, numbers, frame))
    }

    fn append(&mut self, files: &dyn Files, numbers: &AtomicU32, frame: SealedFrame) -> Result<usize> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(create(files, self.vault, self.session, self.kind, numbers)?),
        };
        let row = FrameRow { offset: open.offset, len: frame.bytes.len() as u32, id: frame.id };
        let mut bytes = frame.bytes;
        bytes.extend_from_slice(&frame.id.0);
        match open.file.append(&bytes) {
            Err(_) if crate::zoo::planted("swallow-write-error") => {}
            result => result?,
        }
        open.offset += u64::from(row.len) + FRAME_NAME_LEN;
        open.rows.push(row);
        if open.offset - open.hinted >= HINT_LEN {
            open.file.hint_flush();
            open.hinted = open.offset;
        }
        let (name, full) = (open.name, open.offset >= crate::zoo::units().pack_len);
        let header = frame.header;
        let refs = match header.kind {
            Kind::Leaf => Vec::new(),
            Kind::Branch => (0..header.ids.len()).map(|position| header.refs(position).to_vec()).collect(),
        };
        self.ready_rows += header.ids.len() + refs.iter().map(Vec::len).sum::<usize>();
        self.ready.push(PutFrame { pack: name, row, kind: self.kind, ids: header.ids, refs });
        if full {
            self.end_pack()?;
            if self.unsynced.len() > UNSYNCED_MAX {
                self.unsynced[0].sync()?;
                self.unsynced.remove(0);
            }
        }
        Ok(self.ready_rows)
    }

    /// Ends the open pack with its directory.
    pub fn close(&mut self) -> Result<()> {
        self.whole(Self::end_pack)
    }

    fn end_pack(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        // Directory last: a torn write then leaves no pack that claims to be complete.
        open.file.append(&pack::directory(open.offset, &open.rows))?;
        self.closed.push(Progress { name: open.name, frames_end: open.offset, closed: true });
        self.unsynced.push(open.file);
        Ok(())
    }

    /// Hands over everything that has no rows yet, and the files to sync before it gets some.
    pub fn take(&mut self) -> Result<Taken> {
        if self.torn {
            return Err(StoreError::SessionFailed);
        }
        let mut packs = std::mem::take(&mut self.closed);
        let mut unsynced = std::mem::take(&mut self.unsynced);
        if let Some(open) = &self.open {
            packs.push(Progress { name: open.name, frames_end: open.offset, closed: false });
            unsynced.push(open.file.clone());
        }
        self.ready_rows = 0;
        Ok(Taken { frames: std::mem::take(&mut self.ready), packs, unsynced })
    }
}

fn create(files: &dyn Files, vault: VaultId, session: SessionId, kind: Kind, numbers: &AtomicU32) -> Result<OpenPack> {
    let name = PackName { session, kind, number: numbers.fetch_add(1, Ordering::Relaxed) };
    let file = files.create(&name.path())?;
    file.append(&pack::header(vault, &name))?;
    if !crate::zoo::planted("skip-pack-dir-sync") {
        files.sync_dir(pack::DIR)?;
    }
    Ok(OpenPack { name, file, offset: HEADER_LEN, rows: Vec::new(), hinted: 0 })
}

/// The frame as the index knows it.
pub(crate) fn place(put: &PutFrame, pack: crate::index::PackNumber) -> crate::index::FramePlace {
    crate::index::FramePlace {
        id: FrameId(put.row.id.0),
        pack,
        offset: put.row.offset,
        len: put.row.len,
        chunks: put.ids.len() as u16,
        kind: put.kind,
        state: crate::index::FrameState::Good,
    }
}
