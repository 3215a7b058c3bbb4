//! What was found bad or gone, and what stands there by the time somebody acts on it.

use super::tests::{Memory, Writer, known, leaf, open, small_ids, small_tree};
use super::*;
use crate::files::memory::MemoryFiles;
use crate::files::{Append, Files, Listed, Lock, ReadAt, Result as FilesResult};
use crate::index::{self, FrameState, PackState};
use crate::kv::{Kv, KvHome, Table};
use std::sync::{Arc, Mutex};

type Deed = Box<dyn FnOnce() + Send>;

/// Files under which somebody else acts once, just before the index is locked.
#[derive(Clone)]
struct Meanwhile {
    files: MemoryFiles,
    deed: Arc<Mutex<Option<Deed>>>,
}

impl Files for Meanwhile {
    fn create(&self, path: &str) -> FilesResult<Arc<dyn Append>> {
        self.files.create(path)
    }
    fn open(&self, path: &str) -> FilesResult<Arc<dyn ReadAt>> {
        self.files.open(path)
    }
    fn list(&self, dir: &str) -> FilesResult<Vec<Listed>> {
        self.files.list(dir)
    }
    fn rename(&self, from: &str, to: &str) -> FilesResult<()> {
        self.files.rename(from, to)
    }
    fn remove(&self, path: &str) -> FilesResult<()> {
        self.files.remove(path)
    }
    fn create_dir(&self, path: &str) -> FilesResult<()> {
        self.files.create_dir(path)
    }
    fn sync_dir(&self, dir: &str) -> FilesResult<()> {
        self.files.sync_dir(dir)
    }
    fn sync_file(&self, path: &str) -> FilesResult<()> {
        self.files.sync_file(path)
    }
    fn try_lock(&self, path: &str, owner: &str) -> FilesResult<Option<Box<dyn Lock>>> {
        let deed = self.deed.lock().unwrap().take_if(|_| path == "locks/index");
        if let Some(deed) = deed {
            deed();
        }
        self.files.try_lock(path, owner)
    }
}

/// A store with a small tree, and what comes between it and its next lock.
fn small_store() -> (Memory, LocalStore, Arc<Mutex<Option<Deed>>>) {
    let memory = Memory::new();
    let meanwhile = Meanwhile { files: memory.files.clone(), deed: Arc::default() };
    let deed = meanwhile.deed.clone();
    let store = open(&(Arc::new(meanwhile) as _), &(Arc::new(memory.kv.clone()) as _)).store;
    small_tree(&*store.begin().unwrap());
    (memory, store, deed)
}

fn all_known(store: &LocalStore) -> bool {
    let (d, root) = small_ids();
    [leaf("a"), leaf("b"), d, root].into_iter().all(|id| known(store, id))
}

/// Changes the row of a frame.
fn put_place(kv: &dyn Kv, number: FrameNumber, change: impl FnOnce(&mut FramePlace)) {
    let mut write = kv.write().unwrap();
    let mut place = index::frame(&*write, number).unwrap();
    change(&mut place);
    index::put_frame(&mut *write, number, &place).unwrap();
    write.commit().unwrap();
}

#[test]
fn a_frame_that_moved_or_went_is_not_expelled() {
    let (memory, store, deed) = small_store();
    let place = store.places(&[leaf("a")]).unwrap()[0].unwrap();
    let found = BadFrame::from(&place);
    for elsewhere in [
        BadFrame { offset: found.offset + 1, ..found },
        BadFrame { pack: PackNumber(found.pack.0 + 7), ..found },
        BadFrame { number: FrameNumber(1000), ..found },
    ] {
        assert_eq!(store.expel(&[elsewhere]).unwrap(), [], "{elsewhere:?}");
        assert!(all_known(&store), "{elsewhere:?}");
    }
    // It moves after it was found and before the index is locked.
    let kv = memory.kv.open().unwrap().unwrap();
    *deed.lock().unwrap() = Some(Box::new(move || put_place(&*kv, found.number, |place| place.pack.0 += 7)));
    assert_eq!(store.expel(&[found]).unwrap(), []);
    assert!(deed.lock().unwrap().is_none() && all_known(&store));
    // Where it stands now it can be expelled, beside one that is gone.
    let moved = BadFrame { pack: PackNumber(found.pack.0 + 7), ..found };
    let lost = store.expel(&[found, moved, BadFrame { number: FrameNumber(1000), ..found }]).unwrap();
    assert_eq!(lost.len(), 2);
    assert!(!all_known(&store));
}

#[test]
fn a_pack_that_was_dropped_or_stored_anew_meanwhile_is_no_loss() {
    for is_dropped in [true, false] {
        let (memory, store, deed) = small_store();
        let place = store.places(&[leaf("a")]).unwrap()[0].unwrap();
        let name = store.pack_rows().unwrap().into_iter().find(|(number, _)| *number == place.pack).unwrap().1.name;
        let bytes = memory.files.bytes(&name.path()).unwrap();
        memory.files.remove(&name.path()).unwrap();
        let (kv, files) = (memory.kv.open().unwrap().unwrap(), memory.files.clone());
        *deed.lock().unwrap() = Some(Box::new(move || match is_dropped {
            // As gc does it: the frame lives elsewhere, the row of the old pack is gone.
            true => {
                put_place(&*kv, place.number, |place| place.pack.0 += 7);
                let mut write = kv.write().unwrap();
                assert!(write.delete(Table::Packs, &place.pack.0.to_be_bytes()).unwrap());
                write.commit().unwrap();
            }
            // A disk that came back.
            false => files.put(&name.path(), bytes),
        }));
        assert_eq!(store.audit().unwrap(), [], "{is_dropped}");
        assert!(deed.lock().unwrap().is_none() && all_known(&store), "{is_dropped}");
        assert!(store.pack_rows().unwrap().iter().all(|(_, row)| row.state != PackState::Lost));
        assert!(store.frame_rows(FrameNumber(0), 100).unwrap().iter().all(|(_, row)| row.state == FrameState::Good));
    }
}

#[test]
fn an_audit_tells_what_is_gone_once_and_in_one_commit() {
    let (memory, store, deed) = small_store();
    let place = store.places(&[leaf("a")]).unwrap()[0].unwrap();
    let path = format!("packs/{}", store.pack_name(place.pack).unwrap());
    memory.files.remove(&path).unwrap();
    // Meanwhile the next session stores what the pack held; it keeps its standing.
    let other = memory.store();
    *deed.lock().unwrap() = Some(Box::new(move || {
        let session = other.begin().unwrap();
        session.put(Writer::new(&*session).leaves(&["new"])).unwrap();
        session.checkpoint().unwrap();
    }));
    let faults = store.audit().unwrap();
    assert_eq!(faults, [Fault { file: path, problem: "the pack is gone".into() }]);
    assert!(known(&store, leaf("new")) && !known(&store, leaf("a")) && !all_known(&store));
    assert_eq!(store.audit().unwrap(), []);
}
