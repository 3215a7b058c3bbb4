//! What the local store does about crashes, damage, failing disks and neighbours.

use super::tests::{Memory, VAULT, Writer, branch, known, leaf, missing, open, small_ids, small_tree};
use super::*;
use crate::env::{Dice, Env};
use crate::files::memory::MemoryFiles;
use crate::files::{Append, Files, FilesError, Listed, Lock, ReadAt};
use crate::index;
use crate::kv::memory::read_through;
use crate::kv::{Kv, KvHome, Read, Table, Write};
use crate::pack::PackName;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Known, and its frame is what was stored.
fn is_readable(store: &LocalStore, id: ChunkId) -> bool {
    let Some(place) = store.places(&[id]).unwrap()[0] else { return false };
    let mut bytes = Vec::new();
    known(store, id)
        && store.read_frame(&place, &mut bytes).is_ok()
        && crate::frame::frame_id(&bytes) == place.frame
        && crate::frame::FrameHeader::parse(&bytes).unwrap().ids[usize::from(place.position)] == id
}

/// Everything the store affirms can be read.
fn expect_truthful(store: &LocalStore, ids: &[ChunkId]) {
    for id in ids {
        assert_eq!(is_readable(store, *id), known(store, *id), "{id}");
    }
}

fn small() -> [ChunkId; 4] {
    let (d, root) = small_ids();
    [leaf("a"), leaf("b"), d, root]
}

#[test]
fn what_is_settled_survives_a_crash_and_the_rest_does_no_harm() {
    let memory = Memory::new();
    let store = memory.store();
    let session = store.begin().unwrap();
    let root = small_tree(&*session);
    let writer = Writer::new(&*session);
    session.put(writer.leaves(&["checkpointed"])).unwrap();
    session.checkpoint().unwrap();
    session.put(writer.leaves(&["not settled"])).unwrap();
    session.put(writer.branches(&[("not settled", &[leaf("not settled")])])).unwrap();
    let settled = session.settle(root);
    let after = [memory.crash(), {
        drop(settled);
        memory.crash()
    }];
    for after in after {
        let store = after.store();
        assert!(is_readable(&store, root) && is_readable(&store, leaf("checkpointed")));
        assert_eq!(store.audit().unwrap(), []);
        drop(store.begin().unwrap());
        expect_truthful(&store, &[leaf("not settled"), leaf("a")]);
        assert_eq!(store.audit().unwrap(), []);
        drop(store);
        let (store, _) = after.rebuilt();
        assert!(is_readable(&store, root) && is_readable(&store, leaf("checkpointed")));
    }
}

#[test]
fn what_a_killed_session_left_is_adopted_and_made_durable() {
    let memory = Memory::new();
    let store = memory.store();
    store.set_pending_rows_max(1000);
    let session = store.begin().unwrap();
    let writer = Writer::new(&*session);
    session.put(writer.leaves(&["checkpointed"])).unwrap();
    session.checkpoint().unwrap();
    let (d, root) = small_ids();
    session.put(writer.leaves(&["a", "b"])).unwrap();
    session.put(writer.branches(&[("d", &[leaf("a"), leaf("b")]), ("root", &[d])])).unwrap();
    let lacking = branch("lacking", &[leaf("gone")]);
    session.put(writer.branches(&[("lacking", &[leaf("gone")])])).unwrap();
    assert!(!known(&store, root));
    drop(session);
    let frames = || store.frames(index::FrameNumber(0), 100).unwrap().len();
    assert_eq!(frames(), 1);
    drop(store.begin().unwrap());
    assert!(small().iter().chain([&leaf("checkpointed")]).all(|id| is_readable(&store, *id)));
    assert!(!known(&store, lacking));
    assert_eq!(frames(), 4);
    assert_eq!(store.audit().unwrap(), []);
    // Nothing to do a second time.
    drop(store.begin().unwrap());
    assert_eq!(frames(), 4);
    // What was admitted by it is on disk.
    let after = memory.crash().store();
    expect_truthful(&after, &small());
    assert!(is_readable(&after, root));
    // A session may go on from there.
    let next = after.begin().unwrap();
    assert_eq!(next.claim(&[root, lacking]).unwrap(), [Claim::Known, Claim::Mine]);
    next.put(Writer::new(&*next).leaves(&["gone"])).unwrap();
    next.settle(lacking).unwrap();
}

#[test]
fn packs_are_adopted_once_whoever_comes() {
    let memory = Memory::new();
    let (one, two) = (memory.store(), memory.store());
    let session = one.begin().unwrap();
    let writer = Writer::new(&*session);
    session.put(writer.leaves(&["a", "b"])).unwrap();
    drop(session);
    let name = PackName::from_file_name(&memory.packs("leaf")[0]["packs/".len()..]).unwrap();
    // Both have seen it unfinished and take the lock one after the other.
    one.0.adopt(name).unwrap();
    two.0.adopt(name).unwrap();
    assert_eq!(one.frames(index::FrameNumber(0), 10).unwrap().len(), 1);
    assert_eq!(index::packs(&*one.0.kv.read().unwrap()).unwrap().len(), 1);
    // And many at the same time.
    for round in 0..10 {
        let session = one.begin().unwrap();
        let writer = Writer::new(&*session);
        for n in 0..5 {
            session.put(writer.leaves(&[&format!("{round}/{n}")])).unwrap();
        }
        drop(session);
        std::thread::scope(|scope| {
            for store in [&one, &two, &one] {
                scope.spawn(|| drop(store.begin().unwrap()));
            }
        });
        assert_eq!(one.frames(index::FrameNumber(0), 1000).unwrap().len(), 1 + 5 * (round + 1));
    }
    assert_eq!(memory.files.list("sessions").unwrap(), []);
}

#[test]
fn torn_packs_are_adopted_up_to_the_tear_and_are_no_damage() {
    let memory = Memory::new();
    let store = memory.store();
    let session = store.begin().unwrap();
    let writer = Writer::new(&*session);
    session.put(writer.leaves(&["a"])).unwrap();
    session.put(writer.leaves(&["b"])).unwrap();
    session.put(writer.branches(&[("d", &[leaf("a"), leaf("b")])])).unwrap();
    drop((session, store));
    let (leaves, branches) = (memory.packs("leaf")[0].clone(), memory.packs("branch")[0].clone());
    let len = memory.files.bytes(&leaves).unwrap().len();
    for cut in (0..=len).filter(|cut| *cut < 70 || cut % 5 == 0) {
        let after = Memory { files: memory.files.copy(), kv: memory.kv.crash() };
        after.files.damage(&leaves, |bytes| bytes.truncate(cut));
        after.files.damage(&branches, |bytes| bytes.truncate(cut));
        let store = after.store();
        drop(store.begin().unwrap());
        expect_truthful(&store, &[leaf("a"), leaf("b"), branch("d", &[leaf("a"), leaf("b")])]);
        assert_eq!(store.audit().unwrap(), [], "cut at {cut}");
        drop(store);
        let (store, _) = after.rebuilt();
        assert_eq!(store.audit().unwrap(), [], "rebuilt, cut at {cut}");
        expect_truthful(&store, &small());
    }
    // Things in the folder that are no packs, with names that are.
    memory.files.create_dir(&leaves.replace("00000000.leaf", "000000aa.leaf")).unwrap();
    memory.files.put("packs/notes.txt", b"mine".to_vec());
    drop(memory.store().begin().unwrap());
    let (store, _) = memory.rebuilt();
    assert!(is_readable(&store, leaf("a")));
}

/// Three sessions: a tree, a tree over it, an unrelated one.
fn three_trees() -> (Memory, Vec<ChunkId>) {
    let memory = Memory::new();
    let store = memory.store();
    let root = small_tree(&*store.begin().unwrap());
    let second = store.begin().unwrap();
    let writer = Writer::new(&*second);
    for text in ["1", "2", "3"] {
        second.put(writer.leaves(&[text])).unwrap();
    }
    let over = branch("over", &[leaf("1"), leaf("3"), root]);
    second.put(writer.branches(&[("over", &[leaf("1"), leaf("3"), root])])).unwrap();
    second.settle(over).unwrap();
    let third = store.begin().unwrap();
    let writer = Writer::new(&*third);
    third.put(writer.leaves(&["z"])).unwrap();
    let apart = branch("apart", &[leaf("z")]);
    third.put(writer.branches(&[("apart", &[leaf("z")])])).unwrap();
    third.settle(apart).unwrap();
    let mut ids = small().to_vec();
    ids.extend([leaf("1"), leaf("2"), leaf("3"), over, leaf("z"), apart]);
    (memory, ids)
}

fn expect_closed(store: &LocalStore, ids: &[ChunkId]) {
    let (d, root) = small_ids();
    let over = branch("over", &[leaf("1"), leaf("3"), root]);
    let is = |id| known(store, id);
    assert_eq!(is(d), is_placed(store, d) && is(leaf("a")) && is(leaf("b")));
    assert_eq!(is(root), is_placed(store, root) && is(d));
    assert_eq!(is(over), is_placed(store, over) && is(leaf("1")) && is(leaf("3")) && is(root));
    assert_eq!(store.unwhole().unwrap().len(), ids.iter().filter(|id| is_placed(store, **id) && !is(**id)).count());
}

fn is_placed(store: &LocalStore, id: ChunkId) -> bool {
    store.places(&[id]).unwrap()[0].is_some_and(|place| place.is_believed)
}

#[test]
fn a_rebuild_brings_back_all_that_is_whole_and_nothing_else() {
    let (memory, ids) = three_trees();
    let (store, faults) = memory.rebuilt();
    assert_eq!(faults, []);
    assert!(ids.iter().all(|id| is_readable(&store, *id)));
    assert_eq!((store.unwhole().unwrap().len(), store.audit().unwrap().len()), (0, 0));
    drop(store);
    let mut dice = Dice(5);
    println!("seed {}", dice.0);
    let packs = memory.packs("");
    for round in 0..300 {
        let after = Memory { files: memory.files.copy(), kv: memory.kv.crash() };
        let path = &packs[dice.below(packs.len())];
        if round % 10 == 0 {
            after.files.remove(path).unwrap();
        } else {
            after.files.damage(path, |bytes| {
                let at = dice.below(bytes.len());
                match dice.below(3) {
                    0 => bytes.truncate(at),
                    1 => bytes[at] ^= 1 << dice.below(8),
                    _ => drop(bytes.splice(at..at, [0; 3])),
                }
            });
        }
        let (store, faults) = after.rebuilt();
        assert!(round % 10 == 0 || !faults.is_empty(), "{path}");
        expect_truthful(&store, &ids);
        expect_closed(&store, &ids);
        assert_eq!(store.audit().unwrap(), []);
        // The next backup heals everything.
        let session = store.begin().unwrap();
        let writer = Writer::new(&*session);
        session.put(writer.leaves(&["a", "b", "1", "2", "3", "z"])).unwrap();
        let (d, root) = small_ids();
        let refs = [leaf("1"), leaf("3"), root];
        for (text, refs) in
            [("d", &[leaf("a"), leaf("b")][..]), ("root", &[d]), ("over", &refs), ("apart", &[leaf("z")])]
        {
            if session.claim(&[branch(text, refs)]).unwrap() == [Claim::Mine] && !is_placed(&store, branch(text, refs))
            {
                session.put(writer.branches(&[(text, refs)])).unwrap();
            }
        }
        session.settle(ids[7]).unwrap();
        session.settle(ids[9]).unwrap();
        assert_eq!(store.unwhole().unwrap(), []);
        expect_truthful(&store, &ids);
    }
}

#[test]
fn a_rebuild_makes_durable_what_it_admits() {
    let memory = Memory::new();
    let store = memory.store();
    let session = store.begin().unwrap();
    session.put(Writer::new(&*session).leaves(&["a"])).unwrap();
    drop((session, store));
    let (store, faults) = memory.rebuilt();
    assert!(is_readable(&store, leaf("a")));
    assert_eq!(faults.len(), 1, "without a directory it cannot be told from a pack cut short: {faults:?}");
    expect_truthful(&memory.crash().store(), &[leaf("a")]);
}

#[test]
fn chunks_in_two_packs_outlive_one_of_them() {
    let memory = Memory::new();
    let store = memory.store();
    let sessions = [store.begin().unwrap(), store.begin().unwrap()];
    let writers = [Writer::new(&*sessions[0]), Writer::new(&*sessions[1])];
    for (session, writer) in sessions.iter().zip(&writers) {
        session.put(writer.leaves(&["a", "b"])).unwrap();
    }
    let roots = sessions.each_ref().map(|session| small_tree(&**session));
    drop((sessions, store));
    for path in memory.packs("") {
        let after = Memory { files: memory.files.copy(), kv: memory.kv.crash() };
        after.files.damage(&path, |bytes| bytes[100..].fill(9));
        let (store, faults) = after.rebuilt();
        assert!(!faults.is_empty() && is_readable(&store, roots[0]));
        expect_truthful(&store, &small());
        assert_eq!(store.unwhole().unwrap(), []);
    }
}

#[test]
fn an_index_that_is_not_ours_is_built_anew() {
    let edits: [fn(&mut crate::kv::memory::Version); 4] = [
        |version| drop(version.rows_mut(Table::Meta).insert(b"version".to_vec(), vec![9, 0, 0, 0])),
        |version| drop(version.rows_mut(Table::Meta).insert(b"vault".to_vec(), vec![1; 16])),
        |version| drop(version.rows_mut(Table::Meta).remove(&b"vault"[..])),
        |version| version.rows_mut(Table::Meta).clear(),
    ];
    for edit in edits {
        let (memory, ids) = three_trees();
        let mut version = memory.kv.version().unwrap();
        edit(&mut version);
        version.rows_mut(Table::Chunks).clear();
        let other =
            Memory { files: memory.files.copy(), kv: crate::kv::memory::MemoryKvHome::from_version(Some(version)) };
        let opened = other.opened();
        assert_eq!(opened.rebuilt, Some(vec![]));
        assert!(ids.iter().all(|id| is_readable(&opened.store, *id)));
        assert_eq!(other.kv.broken(), 1);
    }
    let (memory, ids) = three_trees();
    memory.kv.set_damaged();
    assert!(memory.opened().rebuilt.is_some());
    // Asked for, it is done to a healthy index, too; not while somebody writes.
    let again = |memory: &Memory| {
        let (files, kv) = (Arc::new(memory.files.clone()), Arc::new(memory.kv.clone()));
        LocalStore::reopen_rebuilt(files, kv, Env::system(1), VAULT, "pid 2".into())
    };
    let opened = again(&memory).unwrap();
    assert!(opened.rebuilt == Some(vec![]) && ids.iter().all(|id| is_readable(&opened.store, *id)));
    let session = opened.store.begin().unwrap();
    assert!(matches!(again(&memory), Err(StoreError::Busy { what: "session", .. })));
    drop((session, opened));
    assert!(again(&memory).is_ok());
}

#[test]
fn damaged_rows_are_errors() {
    let (memory, ids) = three_trees();
    let version = memory.kv.version().unwrap();
    for table in [Table::Chunks, Table::Frames, Table::Packs] {
        for value in [vec![], vec![0xff; 3], vec![0xff; 8], vec![0xff; 50], vec![0xff; 60]] {
            let mut version = version.clone();
            version.rows_mut(table).values_mut().for_each(|row| *row = value.clone());
            let kv = crate::kv::memory::MemoryKvHome::from_version(Some(version));
            let store = Memory { files: memory.files.copy(), kv }.store();
            let _ = store.known(&ids).is_ok();
            let mut bytes = Vec::new();
            for place in store.places(&ids).into_iter().flatten().flatten() {
                let _ = store.read_frame(&place, &mut bytes).is_ok();
            }
            assert!(store.audit().is_err() || table != Table::Packs, "{table:?} {value:?}");
            let first = BadFrame { number: index::FrameNumber(0), pack: index::PackNumber(0), offset: 64 };
            let _ = store.expel(&[first]).is_ok();
            let _ = store.begin().is_ok();
        }
    }
}

#[test]
fn an_audit_finds_what_is_gone_or_short_and_the_next_backup_heals() {
    for cut in [None, Some(0), Some(64), Some(200)] {
        let (memory, ids) = three_trees();
        let store = memory.store();
        let path = memory.packs("leaf").into_iter().find(|path| {
            let place = store.places(&[leaf("a")]).unwrap()[0].unwrap();
            path.ends_with(&store.pack_name(place.pack).unwrap())
        });
        let path = path.unwrap();
        match cut {
            None => memory.files.remove(&path).unwrap(),
            Some(cut) => drop(memory.files.damage(&path, |bytes| bytes.truncate(cut))),
        }
        let faults = store.audit().unwrap();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].file, path);
        assert!(!known(&store, ids[0]));
        expect_truthful(&store, &ids);
        expect_closed(&store, &ids);
        assert!(known(&store, ids[9]) && !known(&store, ids[7]));
        assert_eq!(store.audit().unwrap(), [], "told once");
        let session = store.begin().unwrap();
        session.put(Writer::new(&*session).leaves(&["a", "b"])).unwrap();
        session.settle(ids[7]).unwrap();
        assert!(ids.iter().all(|id| is_readable(&store, *id)));
    }
}

#[test]
fn an_unreadable_branch_frame_does_not_hide_what_is_above_a_loss() {
    let (memory, ids) = three_trees();
    let store = memory.store();
    let place = |id| store.places(&[id]).unwrap()[0].unwrap();
    let (d, _) = small_ids();
    let (leaves, branches) = (place(leaf("a")), place(d));
    let path = format!("packs/{}", store.pack_name(branches.pack).unwrap());
    memory.files.damage(&path, |bytes| bytes[branches.offset as usize + 200] ^= 1);
    store.expel(&[BadFrame::from(&leaves)]).unwrap();
    expect_truthful(&store, &ids);
    assert!(!known(&store, ids[7]) && known(&store, ids[9]));
    let session = store.begin().unwrap();
    assert_eq!(missing(session.settle(ids[7])), [ids[3]]);
    small_tree(&*session);
    session.settle(ids[7]).unwrap();
}

#[test]
fn strangers_in_the_records_folder_do_not_break_the_chain() {
    let memory = Memory::new();
    let store = memory.store();
    let session = store.begin().unwrap();
    let root = small_tree(&*session);
    for name in ["+000000000000009", "000000000000000A", "0000000000000000", "9", "0000000000000001.tmp", "x"] {
        memory.files.put(&format!("records/{name}"), b"?".to_vec());
    }
    assert_eq!(store.records().unwrap().len(), 0);
    let publish = || session.publish(session.settle(root).unwrap(), &|_| b"record".to_vec());
    assert_eq!((publish().unwrap().count, publish().unwrap().count), (1, 2));
    assert_eq!(store.records().unwrap().len(), 2);
    // What was published survives a crash, and the next record follows it.
    let after = memory.crash().store().records().unwrap();
    assert!(after.iter().map(|record| record.bytes.clone().unwrap()).eq([b"record".to_vec(), b"record".to_vec()]));
    memory.files.put("records/ffffffffffffffff", b"?".to_vec());
    assert!(publish().is_err());
}

/// Files whose appends or syncs fail while told to; a failing append leaves half of its bytes.
#[derive(Clone)]
struct Failing {
    files: MemoryFiles,
    append: Arc<AtomicBool>,
    sync: Arc<AtomicBool>,
}

fn fail(action: &'static str) -> FilesError {
    FilesError { action, path: "?".into(), source: std::io::ErrorKind::StorageFull.into() }
}

struct FailingAppend {
    file: Arc<dyn Append>,
    told: Failing,
}

impl Append for FailingAppend {
    fn append(&self, bytes: &[u8]) -> crate::files::Result<()> {
        match self.told.append.load(Ordering::Relaxed) {
            true => self.file.append(&bytes[..bytes.len() / 2]).and(Err(fail("append to"))),
            false => self.file.append(bytes),
        }
    }

    fn sync(&self) -> crate::files::Result<()> {
        match self.told.sync.load(Ordering::Relaxed) {
            true => Err(fail("sync")),
            false => self.file.sync(),
        }
    }
}

impl Files for Failing {
    fn create(&self, path: &str) -> crate::files::Result<Arc<dyn Append>> {
        Ok(Arc::new(FailingAppend { file: self.files.create(path)?, told: self.clone() }))
    }
    fn open(&self, path: &str) -> crate::files::Result<Arc<dyn ReadAt>> {
        self.files.open(path)
    }
    fn list(&self, dir: &str) -> crate::files::Result<Vec<Listed>> {
        self.files.list(dir)
    }
    fn rename(&self, from: &str, to: &str) -> crate::files::Result<()> {
        self.files.rename(from, to)
    }
    fn remove(&self, path: &str) -> crate::files::Result<()> {
        self.files.remove(path)
    }
    fn create_dir(&self, path: &str) -> crate::files::Result<()> {
        self.files.create_dir(path)
    }
    fn sync_dir(&self, dir: &str) -> crate::files::Result<()> {
        self.files.sync_dir(dir)
    }
    fn sync_file(&self, path: &str) -> crate::files::Result<()> {
        self.files.sync_file(path)
    }
    fn try_lock(&self, path: &str, owner: &str) -> crate::files::Result<Option<Box<dyn Lock>>> {
        self.files.try_lock(path, owner)
    }
}

/// A map whose commits fail while told to.
struct FailingKv {
    kv: Arc<dyn Kv>,
    fail: Arc<AtomicBool>,
}

struct FailingWrite<'a> {
    write: Box<dyn Write + 'a>,
    fail: bool,
}

read_through!(FailingWrite<'_>, write);

impl Write for FailingWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> crate::kv::Result<()> {
        self.write.put(table, key, value)
    }
    fn delete(&mut self, table: Table, key: &[u8]) -> crate::kv::Result<bool> {
        self.write.delete(table, key)
    }
    fn commit(self: Box<Self>) -> crate::kv::Result<()> {
        if self.fail { Err(KvError::NoSpace) } else { self.write.commit() }
    }
}

impl Kv for FailingKv {
    fn read(&self) -> crate::kv::Result<Box<dyn Read + '_>> {
        self.kv.read()
    }
    fn write(&self) -> crate::kv::Result<Box<dyn Write + '_>> {
        Ok(Box::new(FailingWrite { write: self.kv.write()?, fail: self.fail.load(Ordering::Relaxed) }))
    }
}

struct FailingHome {
    home: crate::kv::memory::MemoryKvHome,
    fail: Arc<AtomicBool>,
}

impl KvHome for FailingHome {
    fn open(&self) -> crate::kv::Result<Option<Arc<dyn Kv>>> {
        let kv = self.home.open()?;
        Ok(kv.map(|kv| Arc::new(FailingKv { kv, fail: self.fail.clone() }) as _))
    }
    fn replace(&self, fill: &mut dyn FnMut(&dyn Kv) -> crate::kv::Result<()>) -> crate::kv::Result<Arc<dyn Kv>> {
        self.home.replace(fill)
    }
}

#[test]
fn a_session_that_failed_stays_failed_and_harms_nobody() {
    for what in ["append", "sync", "commit"] {
        let memory = Memory::new();
        let flags = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let [append, sync, commit] = flags.clone();
        let told = match what {
            "append" => append.clone(),
            "sync" => sync.clone(),
            _ => commit.clone(),
        };
        let files: Arc<dyn Files> = Arc::new(Failing { files: memory.files.clone(), append, sync });
        let kv: Arc<dyn KvHome> = Arc::new(FailingHome { home: memory.kv.clone(), fail: commit });
        let store = open(&files, &kv).store;
        let session = store.begin().unwrap();
        let writer = Writer::new(&*session);
        session.put(writer.leaves(&["before"])).unwrap();
        told.store(true, Ordering::Relaxed);
        let failure = match what {
            "append" => session.put(writer.leaves(&["half"])).unwrap_err(),
            _ => session.checkpoint().unwrap_err(),
        };
        assert!(failure.is_no_space(), "{what}: {failure}");
        assert!(!known(&store, leaf("before")), "no row before its bytes are on disk");
        told.store(false, Ordering::Relaxed);
        assert!(matches!(session.put(writer.leaves(&["later"])), Err(StoreError::SessionFailed)));
        assert!(matches!(session.checkpoint(), Err(StoreError::SessionFailed)));
        assert!(matches!(session.settle(leaf("before")), Err(StoreError::SessionFailed)));
        // Another process gets the pack numbers that this one did not come to use.
        let beside = memory.store();
        let next = beside.begin().unwrap();
        let root = small_tree(&*next);
        assert!(is_readable(&store, root), "{what}");
        drop(session);
        drop(store.begin().unwrap());
        expect_truthful(&store, &[root, leaf("before"), leaf("half"), leaf("later")]);
        assert!(is_readable(&store, leaf("before")));
        assert_eq!(store.audit().unwrap(), []);
        drop((next, beside, store, kv));
        assert!(is_readable(&memory.rebuilt().0, root));
    }
}

#[test]
fn nothing_follows_a_torn_append() {
    // A second thread that passed the session's check just before the first one failed.
    let memory = Memory::new();
    let flags = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let [append, sync] = flags.clone();
    let files = Failing { files: memory.files.clone(), append, sync };
    let store = memory.store();
    let session = store.begin().unwrap();
    let writer = Writer::new(&*session);
    let mut packs = packs::PackWriter::new(Kind::Leaf, VAULT, session.id());
    let numbers = std::sync::atomic::AtomicU32::new(0);
    packs.put(&files, &numbers, writer.leaves(&["a"])).unwrap();
    flags[0].store(true, Ordering::Relaxed);
    assert!(packs.put(&files, &numbers, writer.leaves(&["b"])).is_err());
    flags[0].store(false, Ordering::Relaxed);
    assert!(matches!(packs.put(&files, &numbers, writer.leaves(&["c"])), Err(StoreError::SessionFailed)));
    assert!(matches!(packs.take(), Err(StoreError::SessionFailed)));
    assert!(matches!(packs.close(), Err(StoreError::SessionFailed)));
}
