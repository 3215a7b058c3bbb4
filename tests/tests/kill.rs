//! The real binary, killed with SIGKILL at random moments of backups: the vault opens at once, what was settled stays,
//! the next backup goes on. Only processes this test started are killed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use twinkeep_engine::chunk::CutParams;
use twinkeep_engine::env::{Dice, Env};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::vault::{CreateOptions, Place, Unlock, Vault};
use twinkeep_tests::home::Home;
use twinkeep_tests::lab::chain;
use twinkeep_tests::model::{self, Model};
use twinkeep_tests::seeds::{scale, seeds};
use twinkeep_tests::tree::{Shape, SourceTree};

/// A home with a vault of small chunks in it.
struct Scene {
    home: Home,
}

impl Scene {
    fn new() -> Self {
        let home = Home::new();
        let cut = CutParams::new(256, 1024, 4096, 2).expect("these lengths are fine");
        let options = CreateOptions { encrypted: false, cut, ..CreateOptions::default() };
        let place = Place::folder(&home.path("vault"));
        Vault::create(place, Env::system(1), &options, &[]).expect("a vault");
        Self { home }
    }

    fn vault_dir(&self) -> PathBuf {
        self.home.path("vault")
    }

    fn open(&self) -> Vault {
        let begun = Instant::now();
        let vault = Vault::open(Place::folder(&self.vault_dir()), Env::system(1), Unlock::Nothing, "test");
        let vault = vault.unwrap_or_else(|error| panic!("the vault does not open: {}", chain(&error)));
        assert!(begun.elapsed() < Duration::from_secs(10), "opening took {:?}", begun.elapsed());
        assert!(vault.notes().is_empty(), "{:?}", vault.notes());
        vault
    }

    fn command(&self, args: &[&OsStr]) -> Command {
        let mut command = self.home.command(&["--vault", "vault", "--no-progress"]);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn backup(&self, source: &Path) -> Child {
        self.command(&[OsStr::new("backup"), source.as_os_str()]).spawn().expect("start the command")
    }

    fn finish(&self, child: Child) {
        let output = child.wait_with_output().expect("wait for the command");
        assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }

    /// Bytes of all packs.
    fn packs_len(&self) -> u64 {
        let entries = fs::read_dir(self.vault_dir().join("packs")).expect("list packs");
        entries.map(|entry| entry.expect("list packs").metadata().map_or(0, |meta| meta.len())).sum()
    }
}

/// Every snapshot listed holds what the source held at some time. Returns their ids.
fn verify(vault: &Vault, source: &[u8], seen: &[Model], verified: &mut BTreeSet<ChunkId>) -> Vec<ChunkId> {
    let snapshots = vault.snapshots().unwrap_or_else(|error| panic!("snapshots: {}", chain(&error)));
    assert!(snapshots.damaged.is_empty(), "{:?}", snapshots.damaged);
    for info in snapshots.list.iter().filter(|info| !info.snapshot.partial) {
        if verified.insert(info.id) {
            let reading = model::of_snapshot(vault, &info.id, source);
            let is_right = seen.iter().rev().any(|model| model::same(model, &reading).is_ok());
            let last = seen.last().map(|model| model::same(model, &reading));
            assert!(is_right, "snapshot {} holds what the source never held: {last:?}", info.id);
        }
    }
    snapshots.list.iter().filter(|info| !info.snapshot.partial).map(|info| info.id).collect()
}

#[test]
fn killed_backups_lose_nothing() {
    for seed in seeds(&[61]) {
        let kills = 110 * scale();
        let scene = Scene::new();
        let mut dice = Dice(seed);
        let mut tree = SourceTree::new(seed, Shape { files: 40, wide: 200, len_max: 40 << 10 });
        let mut seen = vec![model::of_disk(&tree.root())];
        let begun = Instant::now();
        scene.finish(scene.backup(&tree.root()));
        let whole = begun.elapsed();
        let mut verified = BTreeSet::new();
        let mut settled = verify(&scene.open(), &tree.path(), &seen, &mut verified);
        let (mut killed, mut survived) = (0, 0);
        while killed < kills {
            if dice.one_in(3) {
                tree.change();
                seen.push(model::of_disk(&tree.root()));
            }
            let mut child = scene.backup(&tree.root());
            std::thread::sleep(whole.mul_f64(dice.below(1100) as f64 / 1000.0));
            let was_done = child.try_wait().expect("look at the command").is_some();
            child.kill().expect("kill the command");
            child.wait().expect("wait for the command");
            killed += usize::from(!was_done);
            survived += usize::from(was_done);
            let now = verify(&scene.open(), &tree.path(), &seen, &mut verified);
            assert!(settled.iter().all(|id| now.contains(id)), "seed {seed}: a settled snapshot is gone");
            settled = now;
        }
        scene.finish(scene.backup(&tree.root()));
        // All of them once more, from nothing that was remembered.
        let vault = scene.open();
        let all = verify(&vault, &tree.path(), &seen, &mut BTreeSet::new());
        let last = all.last().expect("there are snapshots");
        let reading = model::of_snapshot(&vault, last, &tree.path());
        model::same(&seen[seen.len() - 1], &reading).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        drop(vault);
        restore(&scene, &tree, &seen[seen.len() - 1]);
        println!("seed {seed}: {killed} backups killed, {survived} were faster, {} snapshots, 0 lost", all.len());
    }
}

/// Brings the newest snapshot back with the command.
fn restore(scene: &Scene, tree: &SourceTree, expected: &Model) {
    let target = scene.home.path("restored");
    let args = [OsStr::new("restore"), OsStr::new("latest"), OsStr::new("--target"), target.as_os_str()];
    scene.finish(scene.command(&args).spawn().expect("start the command"));
    let relative = tree.root().strip_prefix("/").expect("it is absolute").to_path_buf();
    let inside = target.join(relative);
    let root = if inside.exists() { inside } else { target };
    assert_eq!(model::of_disk(&root).len(), expected.len(), "names restored");
    for (path, node) in model::of_disk(&root) {
        assert_eq!(Some(&node), expected.get(&path), "{}", String::from_utf8_lossy(&path));
    }
}

#[test]
fn a_killed_backup_is_not_stored_twice() {
    let scene = Scene::new();
    let source = tempfile::Builder::new().prefix("twinkeep-source-").tempdir().expect("a folder");
    let mut dice = Dice(5);
    for number in 0..24 {
        let mut bytes = vec![0; 1 << 20];
        dice.fill(&mut bytes);
        fs::write(source.path().join(OsStr::from_bytes(format!("{number}").as_bytes())), bytes).expect("write");
    }
    let mut child = scene.backup(source.path());
    while scene.packs_len() < 14 << 20 && child.try_wait().expect("look at the command").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("kill the command");
    child.wait().expect("wait for the command");
    let before = scene.packs_len();
    scene.finish(scene.backup(source.path()));
    let after = scene.packs_len();
    println!("{} MiB when killed, {} MiB when done", before >> 20, after >> 20);
    assert!(after < 30 << 20, "{after} bytes for 24 MiB of source, {before} when killed");
    let vault = scene.open();
    let all =
        verify(&vault, source.path().as_os_str().as_bytes(), &[model::of_disk(source.path())], &mut BTreeSet::new());
    assert!(!all.is_empty());
}
