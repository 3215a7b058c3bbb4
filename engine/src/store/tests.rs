//! What every store must do, run against the local store on a disk with LMDB and in memory.

use super::*;
use crate::crypto::{DataKey, Salts, Suite, VaultKeys, WrappedKey};
use crate::env::{Env, SystemEntropy};
use crate::files::Files;
use crate::files::memory::MemoryFiles;
use crate::files::os::OsFiles;
use crate::frame::{FrameBuilder, SealKeys, SealedFrame, Sealer};
use crate::kv::KvHome;
use crate::kv::lmdb::LmdbHome;
use crate::kv::memory::MemoryKvHome;
use std::sync::{Arc, Mutex};

pub(crate) const VAULT: VaultId = VaultId([7; 16]);

/// A vault's folder and index, opened as often as one likes.
pub(crate) struct Home {
    pub files: Arc<dyn Files>,
    pub kv_home: Arc<dyn KvHome>,
    _folder: Option<tempfile::TempDir>,
}

impl Home {
    pub fn on_disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault");
        let files = Arc::new(OsFiles::new(path.clone()));
        files.create_dir("").unwrap();
        let home = Self { files, kv_home: Arc::new(LmdbHome::new(path)), _folder: Some(folder) };
        LocalStore::create(&*home.files, &*home.kv_home, VAULT).unwrap();
        home
    }

    pub fn open(&self) -> Opened {
        open(&self.files, &self.kv_home)
    }

    pub fn store(&self) -> LocalStore {
        self.open().store
    }
}

pub(crate) fn open(files: &Arc<dyn Files>, kv_home: &Arc<dyn KvHome>) -> Opened {
    LocalStore::open(files.clone(), kv_home.clone(), Env::system(1), VAULT, "pid test".into()).unwrap()
}

/// A vault in memory, with its files and index at hand.
pub(super) struct Memory {
    pub files: MemoryFiles,
    pub kv: MemoryKvHome,
}

impl Memory {
    pub fn new() -> Self {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        LocalStore::create(&files, &kv, VAULT).unwrap();
        Self { files, kv }
    }

    /// What a power cut leaves.
    pub fn crash(&self) -> Self {
        Self { files: self.files.crash(), kv: self.kv.crash() }
    }

    pub fn opened(&self) -> Opened {
        open(&(Arc::new(self.files.clone()) as _), &(Arc::new(self.kv.clone()) as _))
    }

    pub fn store(&self) -> LocalStore {
        self.opened().store
    }

    /// Builds the index anew from the packs.
    pub fn rebuilt(&self) -> (LocalStore, Vec<Fault>) {
        self.kv.remove();
        let opened = self.opened();
        (opened.store, opened.rebuilt.unwrap())
    }

    pub fn home(self) -> Home {
        Home { files: Arc::new(self.files), kv_home: Arc::new(self.kv), _folder: None }
    }

    pub fn packs(&self, kind: &str) -> Vec<String> {
        self.files.paths().into_iter().filter(|path| path.starts_with("packs/") && path.ends_with(kind)).collect()
    }
}

/// Makes chunks and frames for one session.
pub(crate) struct Writer {
    keys: VaultKeys,
    sealer: Mutex<Sealer>,
}

impl Writer {
    pub fn new(session: &dyn Session) -> Self {
        let keys = VaultKeys::unencrypted(VAULT);
        let data_key = Arc::new(DataKey::from_bytes(&[1; 32]));
        let wrapped = WrappedKey([0; 80]);
        let suite = Suite::Plain;
        let keys_of = SealKeys { suite, data_key, wrapped, generation: 0, vault: VAULT, session: session.id() };
        let sealer = Sealer::new(keys_of, Salts::new(Arc::new(SystemEntropy)), 1).unwrap();
        Self { keys, sealer: Mutex::new(sealer) }
    }

    pub fn leaves(&self, texts: &[&str]) -> SealedFrame {
        let mut builder = FrameBuilder::new(Kind::Leaf);
        texts.iter().for_each(|text| builder.push(self.keys.leaf_id(text.as_bytes()), &[], text.as_bytes()));
        self.sealer.lock().unwrap().seal(&mut builder)
    }

    pub fn branches(&self, branches: &[(&str, &[ChunkId])]) -> SealedFrame {
        let mut builder = FrameBuilder::new(Kind::Branch);
        for (text, refs) in branches {
            builder.push(branch(text, refs), refs, text.as_bytes());
        }
        self.sealer.lock().unwrap().seal(&mut builder)
    }
}

pub(crate) fn leaf(text: &str) -> ChunkId {
    VaultKeys::unencrypted(VAULT).leaf_id(text.as_bytes())
}

pub(super) fn branch(text: &str, refs: &[ChunkId]) -> ChunkId {
    VaultKeys::unencrypted(VAULT).branch_id(refs, text.as_bytes())
}

pub(crate) fn known(store: &dyn Store, id: ChunkId) -> bool {
    store.known(&[id]).unwrap()[0]
}

pub(super) fn missing(result: Result<Settled>) -> Vec<ChunkId> {
    match result {
        Err(StoreError::Missing(ids)) => ids,
        other => panic!("{other:?}"),
    }
}

/// Leaves a and b, directory d over both, root over d: put and settled.
pub(super) fn small_tree(session: &dyn Session) -> ChunkId {
    let writer = Writer::new(session);
    let (d, root) = small_ids();
    session.claim(&[leaf("a"), leaf("b"), d, root]).unwrap();
    session.put(writer.leaves(&["a", "b"])).unwrap();
    session.put(writer.branches(&[("d", &[leaf("a"), leaf("b")]), ("root", &[d])])).unwrap();
    session.settle(root).unwrap().root()
}

pub(super) fn small_ids() -> (ChunkId, ChunkId) {
    let d = branch("d", &[leaf("a"), leaf("b")]);
    (d, branch("root", &[d]))
}

/// Runs every test of the traits against stores that `make` opens, each of a new vault.
pub(crate) fn suite(make: &dyn Fn() -> Home) {
    let tests: [fn(&Home); 9] = [
        what_is_settled_is_known_and_read_back,
        claims_are_answered_once,
        closure_is_kept,
        missing_chunks_are_named_and_put_again,
        unwhole_branches_heal,
        expelled_frames_take_what_is_above_with_them,
        commits_in_the_middle_of_a_session,
        records_are_chained,
        sessions_side_by_side,
    ];
    tests.iter().for_each(|test| test(&make()));
}

fn what_is_settled_is_known_and_read_back(home: &Home) {
    let store = home.store();
    let session = store.begin().unwrap();
    let root = small_tree(&*session);
    let (d, _) = small_ids();
    assert_eq!(store.known(&[root, d, leaf("a"), leaf("b"), leaf("c")]).unwrap(), [true, true, true, true, false]);
    assert!(session.written_len() > 300 && session.healed().is_empty());
    let places = store.places(&[leaf("b"), leaf("c"), root]).unwrap();
    assert!(places[1].is_none());
    let (place, root_place) = (places[0].unwrap(), places[2].unwrap());
    assert_eq!((place.position, place.kind, root_place.position), (1, Kind::Leaf, 1));
    let mut bytes = vec![1; 5];
    store.read_frame(&place, &mut bytes).unwrap();
    assert_eq!(crate::frame::frame_id(&bytes), place.frame);
    assert!(store.pack_name(place.pack).unwrap().ends_with(".leaf"));
    let all = store.frames(crate::index::FrameNumber(0), 100).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(store.frames(all[0].number, 1).unwrap(), &all[..1]);
    assert!(store.frames(crate::index::FrameNumber(2), 5).unwrap().is_empty());
    drop((session, store));
    // Opened again, and nothing left to do.
    let opened = home.open();
    assert!(opened.rebuilt.is_none() && known(&opened.store, root));
    assert_eq!(opened.store.audit().unwrap(), []);
    assert_eq!(opened.store.unwhole().unwrap(), []);
}

fn claims_are_answered_once(home: &Home) {
    let store = home.store();
    let session = store.begin().unwrap();
    use Claim::{InFlight, Known, Mine};
    assert_eq!(session.claim(&[leaf("a"), leaf("b"), leaf("a")]).unwrap(), [Mine, Mine, InFlight]);
    session.put(Writer::new(&*session).leaves(&["a"])).unwrap();
    assert_eq!(session.claim(&[leaf("a")]).unwrap(), [InFlight], "not durable yet");
    session.checkpoint().unwrap();
    assert_eq!(session.claim(&[leaf("a"), leaf("b")]).unwrap(), [Known, InFlight]);
    // A branch that is stored and not whole may be put again.
    let writer = Writer::new(&*session);
    let d = branch("d", &[leaf("b")]);
    assert_eq!(session.claim(&[d]).unwrap(), [Mine]);
    session.put(writer.branches(&[("d", &[leaf("b")])])).unwrap();
    session.checkpoint().unwrap();
    assert_eq!(session.claim(&[d]).unwrap(), [Mine]);
    session.put(writer.branches(&[("d", &[leaf("b")])])).unwrap();
    session.put(writer.leaves(&["b"])).unwrap();
    session.settle(d).unwrap();
    assert_eq!(session.claim(&[d, leaf("b")]).unwrap(), [Known, Known]);
    // Threads agree on one owner each.
    let ids: Vec<_> = (0..500).map(|n| leaf(&n.to_string())).collect();
    let claimed = || session.claim(&ids).unwrap().iter().filter(|claim| **claim == Mine).count();
    let mine: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(claimed)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(mine, ids.len());
}

fn closure_is_kept(home: &Home) {
    let store = home.store();
    let session = store.begin().unwrap();
    let writer = Writer::new(&*session);
    let low = branch("low", &[leaf("x")]);
    let high = branch("high", &[low, leaf("y")]);
    // Parent before child, both before the leaf.
    session.put(writer.branches(&[("high", &[low, leaf("y")])])).unwrap();
    session.put(writer.leaves(&["y"])).unwrap();
    session.put(writer.branches(&[("low", &[leaf("x")])])).unwrap();
    session.checkpoint().unwrap();
    assert_eq!(store.known(&[low, high, leaf("y")]).unwrap(), [false, false, true]);
    assert_eq!(store.unwhole().unwrap().len(), 2);
    assert!(store.places(&[high]).unwrap()[0].is_some());
    assert_eq!(missing(session.settle(high)), [leaf("x")]);
    session.put(writer.leaves(&["x"])).unwrap();
    session.settle(high).unwrap();
    assert_eq!((store.unwhole().unwrap(), session.healed()), (vec![], vec![]), "they were its own, and new");
    // A root nobody put.
    assert_eq!(missing(session.settle(leaf("never"))), [leaf("never")]);
    // One that refers to itself can have no such id; if it had, it would never be whole.
    let own = ChunkId([3; 32]);
    let mut builder = FrameBuilder::new(Kind::Branch);
    builder.push(own, &[own], b"self");
    session.put(writer.sealer.lock().unwrap().seal(&mut builder)).unwrap();
    assert_eq!(missing(session.settle(own)), [own]);
}

fn missing_chunks_are_named_and_put_again(home: &Home) {
    let store = home.store();
    let session = store.begin().unwrap();
    let writer = Writer::new(&*session);
    let texts: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let refs: Vec<_> = texts.iter().map(|text| leaf(text)).collect();
    let (d, other) = (branch("d", &refs), branch("other", &[leaf("unrelated")]));
    let root = branch("root", &[d]);
    session.claim(&refs).unwrap();
    session.put(writer.leaves(&["3", "4"])).unwrap();
    session.put(writer.branches(&[("d", &refs), ("root", &[d]), ("other", &[leaf("unrelated")])])).unwrap();
    let found = missing(session.settle(root));
    assert_eq!(found.len(), 18);
    assert!(!found.contains(&leaf("3")) && !found.contains(&d) && !found.contains(&leaf("unrelated")));
    // Claimed before and never put: they are anybody's again.
    assert!(session.claim(&found).unwrap().iter().all(|claim| *claim == Claim::Mine));
    for text in &texts {
        session.put(writer.leaves(&[text])).unwrap();
    }
    session.settle(root).unwrap();
    assert!(!known(&store, other), "what the root does not need does not matter");
}

fn unwhole_branches_heal(home: &Home) {
    let store = home.store();
    let low = branch("low", &[leaf("l")]);
    let old = branch("old", &[low, leaf("l")]);
    let first = store.begin().unwrap();
    let writer = Writer::new(&*first);
    first.put(writer.branches(&[("low", &[leaf("l")]), ("old", &[low, leaf("l")])])).unwrap();
    assert_eq!(missing(first.settle(old)), [leaf("l")]);
    drop(first);
    // A later session brings the leaf, and a root over what was there.
    let second = store.begin().unwrap();
    let writer = Writer::new(&*second);
    let root = branch("root", &[old, leaf("m")]);
    second.put(writer.leaves(&["l", "m"])).unwrap();
    second.put(writer.branches(&[("root", &[old, leaf("m")])])).unwrap();
    second.settle(root).unwrap();
    assert_eq!(store.known(&[low, old, root]).unwrap(), [true; 3]);
    assert!(second.healed().contains(&low) && second.healed().contains(&old));
    assert_eq!(store.unwhole().unwrap(), []);
}

fn expelled_frames_take_what_is_above_with_them(home: &Home) {
    let store = home.store();
    let session = store.begin().unwrap();
    let (d, root) = small_ids();
    small_tree(&*session);
    let writer = Writer::new(&*session);
    let safe = branch("safe", &[leaf("s")]);
    session.put(writer.leaves(&["s"])).unwrap();
    session.put(writer.branches(&[("safe", &[leaf("s")])])).unwrap();
    session.settle(safe).unwrap();

    let place = store.places(&[leaf("a")]).unwrap()[0].unwrap();
    let mut lost = store.expel(&[BadFrame::from(&place)]).unwrap();
    let mut expected = vec![leaf("a"), leaf("b")];
    lost.sort();
    expected.sort();
    assert_eq!(lost, expected);
    assert_eq!(store.known(&[leaf("a"), d, root, safe, leaf("s")]).unwrap(), [false, false, false, true, true]);
    let suspect = store.places(&[leaf("a")]).unwrap()[0].unwrap();
    assert!(!suspect.is_believed && suspect.number == place.number, "kept, for whoever wants to try it");
    assert_eq!(store.expel(&[BadFrame::from(&place)]).unwrap(), [], "twice is once");
    assert_eq!(missing(session.settle(root)), expected);
    session.put(writer.leaves(&["a"])).unwrap();
    assert_eq!(missing(session.settle(root)), [leaf("b")]);
    session.put(writer.leaves(&["b"])).unwrap();
    session.settle(root).unwrap();
    assert!(session.healed().contains(&root));

    // A branch in the middle goes: it is named itself, the leaves below it stay.
    let other = branch("e", &[leaf("a")]);
    let top = branch("top", &[other, root]);
    session.put(writer.branches(&[("e", &[leaf("a")])])).unwrap();
    session.put(writer.branches(&[("top", &[other, root])])).unwrap();
    session.settle(top).unwrap();
    let place = store.places(&[other]).unwrap()[0].unwrap();
    assert_eq!(store.expel(&[BadFrame::from(&place)]).unwrap(), [other]);
    assert_eq!(store.known(&[other, top, root, leaf("a")]).unwrap(), [false, false, true, true]);
    assert_eq!(missing(session.settle(top)), [other]);
    session.put(writer.branches(&[("e", &[leaf("a")])])).unwrap();
    session.settle(top).unwrap();
}

fn commits_in_the_middle_of_a_session(home: &Home) {
    let store = home.store();
    store.set_pending_rows_max(3);
    let session = store.begin().unwrap();
    let writer = Writer::new(&*session);
    // A branch goes before its last leaf, which another builder still holds, and is committed in between.
    let d = branch("d", &[leaf("1"), leaf("late")]);
    session.claim(&[leaf("1"), leaf("late"), d]).unwrap();
    session.put(writer.leaves(&["1"])).unwrap();
    session.put(writer.branches(&[("d", &[leaf("1"), leaf("late")])])).unwrap();
    assert!(known(&store, leaf("1")), "committed by itself");
    assert!(!known(&store, d));
    session.put(writer.leaves(&["late"])).unwrap();
    let texts: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for text in &texts {
        session.put(writer.leaves(&[text])).unwrap();
    }
    assert!(known(&store, d));
    let refs: Vec<_> = texts.iter().map(|text| leaf(text)).chain([d]).collect();
    session.put(writer.branches(&[("root", &refs)])).unwrap();
    session.settle(branch("root", &refs)).unwrap();
    // Threads that put and commit at the same time.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (session, writer) = (&session, &writer);
            scope.spawn(move || {
                for n in 0..40 {
                    let text = format!("{thread}/{n}");
                    session.claim(&[leaf(&text)]).unwrap();
                    session.put(writer.leaves(&[&text])).unwrap();
                    session.put(writer.branches(&[(&text, &[leaf(&text)])])).unwrap();
                }
            });
        }
    });
    session.checkpoint().unwrap();
    for (thread, n) in (0..4).flat_map(|thread| (0..40).map(move |n| (thread, n))) {
        let text = format!("{thread}/{n}");
        let id = branch(&text, &[leaf(&text)]);
        assert!(known(&store, id));
        let place = store.places(&[id]).unwrap()[0].unwrap();
        let mut bytes = Vec::new();
        store.read_frame(&place, &mut bytes).unwrap();
        assert_eq!(crate::frame::frame_id(&bytes), place.frame);
    }
}

fn records_are_chained(home: &Home) {
    let store = home.store();
    let (one, two) = (store.begin().unwrap(), store.begin().unwrap());
    assert_ne!(one.id(), two.id());
    let root = small_tree(&*one);
    for (n, session) in [&one, &two, &two, &one].into_iter().enumerate() {
        let settled = session.settle(root).unwrap();
        let link = session.publish(settled, &|link| format!("{} after {:?}", link.count, link.previous).into_bytes());
        assert_eq!(link.unwrap().count, n as u64 + 1);
    }
    let records = store.records().unwrap();
    let mut previous = [0; 32];
    for (n, record) in records.iter().enumerate() {
        let bytes = record.bytes.as_ref().unwrap();
        assert_eq!(record.count, n as u64 + 1);
        assert_eq!(*bytes, format!("{} after {previous:?}", n + 1).into_bytes());
        previous = *blake3::hash(bytes).as_bytes();
    }
    assert_eq!(records.len(), 4);
    // A record that could not be read again is refused, and so is the session then.
    let settled = one.settle(root).unwrap();
    assert!(one.publish(settled, &|_| vec![0; crate::limits::RECORD_LEN_MAX + 1]).is_err());
    assert!(matches!(one.settle(root), Err(StoreError::SessionFailed)));
    let settled = two.settle(root).unwrap();
    assert_eq!(two.publish(settled, &|_| vec![0; crate::limits::RECORD_LEN_MAX]).unwrap().count, 5);
}

fn sessions_side_by_side(home: &Home) {
    let (store, again) = (home.store(), home.store());
    let (one, two) = (store.begin().unwrap(), again.begin().unwrap());
    // Both put the same, neither knows of the other's before it is settled.
    one.claim(&[leaf("a")]).unwrap();
    assert_eq!(two.claim(&[leaf("a")]).unwrap(), [Claim::Mine]);
    let roots = [small_tree(&*one), small_tree(&*two)];
    assert_eq!(roots[0], roots[1]);
    assert!(known(&store, roots[0]) && known(&again, roots[0]));
    let first = store.places(&[roots[0]]).unwrap();
    assert_eq!(again.places(&[roots[0]]).unwrap(), first);
    // The one still running is not adopted by a third.
    let writer = Writer::new(&*one);
    one.put(writer.leaves(&["mine"])).unwrap();
    let three = again.begin().unwrap();
    assert!(!known(&again, leaf("mine")));
    drop(one);
    let four = again.begin().unwrap();
    assert!(known(&again, leaf("mine")), "its packs were left, its lock is free");
    drop((two, three, four));
    assert_eq!(home.files.list("sessions").unwrap(), []);
}

#[test]
fn the_local_store_on_a_disk_conforms() {
    suite(&Home::on_disk);
}

#[test]
fn the_local_store_in_memory_conforms() {
    suite(&|| Memory::new().home());
}
