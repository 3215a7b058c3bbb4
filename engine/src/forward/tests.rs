use super::*;
use crate::backup::{BackupOptions, backup};
use crate::check::{CheckOptions, check};
use crate::env::{Dice, Env};
use crate::files::faulty::{Call, Fault, Faults, FaultyFiles};
use crate::files::memory::MemoryFiles;
use crate::id::Kind;
use crate::kv::memory::MemoryKvHome;
use crate::query::TreeRoot;
use crate::restore::{RestoreOptions, restore};
use crate::vault::{CreateOptions, Place as VaultPlace, Prepared, Unlock};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// One of the stores of a vault.
#[derive(Clone)]
struct Side {
    files: MemoryFiles,
    kv: MemoryKvHome,
    faults: Faults,
}

impl Side {
    fn new(made: &Prepared) -> Self {
        let side = Self { files: MemoryFiles::new(), kv: MemoryKvHome::new(), faults: Faults::new() };
        Vault::place(&side.place(), &made.head).unwrap();
        side
    }

    fn place(&self) -> VaultPlace {
        let files = FaultyFiles::new(Arc::new(self.files.clone()), self.faults.clone());
        VaultPlace { files: Arc::new(files), kv_home: Arc::new(self.kv.clone()) }
    }

    fn open(&self, made: &Prepared) -> Vault {
        Vault::open(self.place(), Env::system(2), Unlock::Secret(&made.secret), "test").unwrap()
    }
}

struct World {
    made: Prepared,
    here: Side,
    there: Side,
    source: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let made = Vault::prepare(&Env::system(1), &CreateOptions::default(), &[]).unwrap();
        let (here, there) = (Side::new(&made), Side::new(&made));
        Self { made, here, there, source: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, seed: u64, len: usize) {
        let mut bytes = vec![0; len];
        Dice(seed).fill(&mut bytes);
        std::fs::write(self.source.path().join(name), bytes).unwrap();
    }

    fn back_up(&self, side: &Side) -> ChunkId {
        let paths = vec![self.source.path().as_os_str().as_bytes().to_vec()];
        let options = BackupOptions { paths, host: "h".into(), ..BackupOptions::default() };
        backup(&side.open(&self.made), &options, &Progress::silent()).unwrap().snapshot.unwrap()
    }

    fn forward(&self) -> Result<Forwarded> {
        forward(&self.here.open(&self.made), &self.there.open(&self.made), &Progress::silent())
    }

    /// What a snapshot over there gives back is what the source is now.
    fn expect_restored(&self, id: ChunkId) {
        let vault = self.there.open(&self.made);
        let checked = check(&vault, &CheckOptions { read_data: true, ..CheckOptions::default() }, &Progress::silent());
        assert!(checked.unwrap().is_clean());
        let target = tempfile::tempdir().unwrap();
        let all = vault.snapshots().unwrap();
        let root = TreeRoot::whole(all.list.iter().find(|snapshot| snapshot.id == id).unwrap());
        let options = RestoreOptions::to(target.path().to_owned());
        restore(&vault, &root, &options, &Progress::silent()).unwrap();
        for entry in std::fs::read_dir(self.source.path()).unwrap() {
            let path = entry.unwrap().path();
            let restored = target.path().join(path.strip_prefix("/").unwrap());
            assert!(std::fs::read(&path).unwrap() == std::fs::read(restored).unwrap(), "{}", path.display());
        }
    }
}

#[test]
fn everything_arrives_once() {
    let world = World::new();
    world.write("a", 1, 3_000_000);
    let known = world.back_up(&world.there);
    world.write("b", 2, 1_000_000);
    let first = world.back_up(&world.here);
    world.write("a", 3, 2_000_000);
    let second = world.back_up(&world.here);
    let here = world.here.open(&world.made);
    let record = here.received().unwrap()[1].record;
    retention::pin(&here, &[record]).unwrap();

    let sent = world.forward().unwrap();
    assert_eq!((sent.done.clone(), sent.is_all()), (vec![first, second], true));
    // What was known over there is not sent again: of a, b and the new a only the last two.
    assert!((2_900_000..3_300_000).contains(&sent.bytes), "{} bytes", sent.bytes);
    world.expect_restored(second);
    let there = world.there.open(&world.made).snapshots().unwrap().list;
    let found: Vec<_> = there.iter().map(|snapshot| (snapshot.id, snapshot.pinned)).collect();
    assert_eq!(found, [(known, false), (first, false), (second, true)]);

    let again = world.forward().unwrap();
    assert_eq!(again, Forwarded { done: vec![first, second], ..Forwarded::default() });
    assert_eq!(world.there.open(&world.made).received().unwrap().len(), 3);
}

#[test]
fn wherever_it_is_interrupted_the_next_one_ends_it() {
    for call in [Call::Create, Call::Append, Call::Sync, Call::Rename] {
        let mut stops = 0;
        for nth in 1..200 {
            let world = World::new();
            world.write("a", 1, 600_000);
            let id = world.back_up(&world.here);
            let there = world.there.open(&world.made);
            world.there.faults.fail_from(call, nth, Fault::Os(libc::EIO));
            let failed = forward(&world.here.open(&world.made), &there, &Progress::silent()).is_err();
            drop(there);
            world.there.faults.clear();
            let sent = world.forward().unwrap();
            assert_eq!((sent.done, sent.left.len()), (vec![id], 0), "{call:?} {nth}");
            assert_eq!(world.there.open(&world.made).received().unwrap().len(), 1, "{call:?} {nth}");
            world.expect_restored(id);
            if !failed {
                break;
            }
            stops += 1;
        }
        assert!(stops > 0, "{call:?} was never in the way");
    }
}

#[test]
fn what_is_damaged_here_stays_behind_and_is_said() {
    let world = World::new();
    world.write("a", 1, 600_000);
    let whole = world.back_up(&world.here);
    world.write("b", 2, 600_000);
    let lacking = world.back_up(&world.here);
    // A byte of b in the newest pack of leaves turns.
    let here = world.here.open(&world.made);
    let frames = here.store().frames(FrameNumber(0), 100).unwrap();
    let last = frames.iter().rfind(|place| place.kind == Kind::Leaf).unwrap();
    let path = format!("packs/{}", here.store().pack_name(last.pack).unwrap());
    let at = last.offset as usize + last.len as usize / 2;
    assert!(world.here.files.damage(&path, |bytes| bytes[at] ^= 1));

    let warnings = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = warnings.clone();
    let progress = Progress::new(move |warning| heard.lock().unwrap().push(warning.message.clone()));
    let there = world.there.open(&world.made);
    let sent = forward(&here, &there, &progress).unwrap();
    assert_eq!((sent.done.clone(), sent.left.len(), sent.left[0].0), (vec![whole], 1, lacking));
    assert!(!sent.is_all());
    let warnings = warnings.lock().unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("damaged"), "{warnings:?}");
    assert_eq!(there.received().unwrap().len(), 1);
    // Once it can be read over there from elsewhere, it follows.
    world.back_up(&world.there);
    assert_eq!(world.forward().unwrap().done, [whole, lacking]);
}

#[test]
fn another_vault_is_refused() {
    let (one, other) = (World::new(), World::new());
    let (from, to) = (one.here.open(&one.made), other.there.open(&other.made));
    assert!(matches!(forward(&from, &to, &Progress::silent()), Err(ForwardError::OtherVault)));
}
