use super::*;
use crate::backup::{BackupOptions, BackupSummary, backup};
use crate::env::{Dice, Env};
use crate::files::memory::MemoryFiles;
use crate::kv::Table;
use crate::kv::memory::{MemoryKvHome, Version};
use crate::vault::{CreateOptions, Place, Unlock};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// A vault in memory and a source on disk.
struct World {
    files: MemoryFiles,
    kv: MemoryKvHome,
    source: tempfile::TempDir,
    encrypted: bool,
    secret: crate::crypto::VaultSecret,
}

impl World {
    fn new(encrypted: bool, dice: &mut Dice) -> (Self, Vault) {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let place = Place { files: Arc::new(files.clone()), kv_home: Arc::new(kv.clone()) };
        let options = CreateOptions { encrypted, ..CreateOptions::default() };
        let (vault, secret) = Vault::create(place, Env::system(2), &options, &[]).unwrap();
        let world = Self { files, kv, source: tempfile::tempdir().unwrap(), encrypted, secret };
        for folder in ["a", "a/b", "c"] {
            std::fs::create_dir(world.path(folder)).unwrap();
            for n in 0..6 {
                let mut bytes = vec![0; 300 + dice.below(200_000)];
                dice.fill(&mut bytes);
                std::fs::write(world.path(&format!("{folder}/file{n}")), bytes).unwrap();
            }
        }
        let mut large = vec![0; 6 << 20];
        dice.fill(&mut large);
        std::fs::write(world.path("large"), large).unwrap();
        (world, vault)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.source.path().join(name)
    }

    fn open(&self) -> Vault {
        let place = Place { files: Arc::new(self.files.clone()), kv_home: Arc::new(self.kv.clone()) };
        let unlock = if self.encrypted { Unlock::Secret(&self.secret) } else { Unlock::Nothing };
        Vault::open(place, Env::system(2), unlock, "test").unwrap()
    }

    fn backup(&self, vault: &Vault) -> BackupSummary {
        let path = self.source.path().to_str().unwrap().as_bytes().to_vec();
        let options = BackupOptions { paths: vec![path], host: "h".into(), ..BackupOptions::default() };
        backup(vault, &options, &Progress::silent()).unwrap()
    }

    /// Another world with the same bytes.
    fn copy(&self) -> Self {
        Self {
            files: self.files.copy(),
            kv: MemoryKvHome::from_version(self.kv.version()),
            source: tempfile::tempdir().unwrap(),
            encrypted: self.encrypted,
            secret: self.secret.clone(),
        }
    }
}

const ALL: CheckOptions = CheckOptions { read_data: true, subset: None };

fn run(vault: &Vault, options: CheckOptions) -> CheckReport {
    check(vault, &options, &Progress::silent()).unwrap()
}

fn dice() -> Dice {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    Dice(seed)
}

fn files_of(report: &CheckReport) -> BTreeSet<&str> {
    report.faults.iter().map(|fault| fault.file.as_str()).collect()
}

#[test]
fn a_pack_cut_off_is_found_where_nothing_may_be_written() {
    use crate::files::faulty::{Call, Fault, Faults, FaultyFiles};
    let (world, vault) = World::new(false, &mut dice());
    world.backup(&vault);
    let mut packs = vault.local().unwrap().pack_rows().unwrap().into_iter().map(|(_, row)| row.name);
    let path = packs.rfind(|name| name.kind == crate::id::Kind::Leaf).unwrap().path();
    world.files.damage(&path, |bytes| bytes.truncate(bytes.len() / 2));
    let faults = Faults::new();
    let files = FaultyFiles::new(Arc::new(world.files.clone()), faults.clone());
    let place = Place { files: Arc::new(files), kv_home: Arc::new(world.kv.clone()) };
    let vault = Vault::open(place, Env::system(2), Unlock::Nothing, "test").unwrap();
    faults.fail_from(Call::Lock, 1, Fault::Os(libc::EROFS));
    let report = run(&vault, CheckOptions::default());
    assert!(!report.is_clean() && !report.damaged.is_empty(), "{report:?}");
}

#[test]
fn a_whole_vault_is_clean() {
    for encrypted in [true, false] {
        let (world, vault) = World::new(encrypted, &mut dice());
        assert!(run(&vault, ALL).is_clean(), "an empty vault");
        world.backup(&vault);
        std::fs::write(world.path("a/new"), [7; 5000]).unwrap();
        world.backup(&vault);
        let report = run(&vault, ALL);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.snapshots, report.records, report.unwhole), (2, 2, 0));
        assert_eq!((report.frames, report.chunks), (report.frames_total, report.chunks_total));
        assert_eq!(report.packs, report.packs_total);
        assert_eq!(report.notes, Vec::<String>::new());
        let light = run(&vault, CheckOptions::default());
        assert!(light.is_clean() && light.bytes_read < report.bytes_read / 10, "{light:?}");
        let parts = (1..=3).map(|n| run(&vault, CheckOptions { subset: Some(Subset::Part { n, of: 3 }), ..ALL }));
        let read: u64 = parts.map(|part| part.bytes_read - light.bytes_read).sum();
        assert_eq!(read, report.bytes_read - light.bytes_read, "all parts together are everything");
        let most = run(&vault, CheckOptions { subset: Some(Subset::Percent(100.0)), ..ALL });
        assert_eq!(most.bytes_read, report.bytes_read);
    }
}

#[test]
fn subsets_that_are_none_are_refused() {
    let (_world, vault) = World::new(true, &mut dice());
    let bad = [Subset::Part { n: 0, of: 3 }, Subset::Part { n: 4, of: 3 }, Subset::Percent(0.0)];
    for subset in bad.into_iter().chain([Subset::Percent(f64::NAN), Subset::Percent(100.1)]) {
        let error = check(&vault, &CheckOptions { subset: Some(subset), ..ALL }, &Progress::silent()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Usage);
    }
    let progress = Progress::silent();
    progress.cancel();
    assert!(matches!(check(&vault, &ALL, &progress), Err(CheckError::Cancelled)));
}

#[test]
fn a_flipped_byte_anywhere_is_found_and_named() {
    let mut dice = dice();
    let (world, vault) = World::new(true, &mut dice);
    world.backup(&vault);
    world.backup(&vault);
    let mut seen = BTreeSet::new();
    for path in world.files.paths() {
        if path.starts_with("locks/") || path.starts_with("sessions/") {
            continue;
        }
        seen.insert(path.split(['/', '.']).next().unwrap().to_owned());
        let len = world.files.bytes(&path).unwrap().len();
        let places = [0, 40, 70, len - 1, len - 40, len - 64, len - 65, len - 100].into_iter();
        let places: Vec<usize> = places.chain((0..8).map(|_| dice.below(len))).collect();
        for at in places {
            let copy = world.copy();
            let vault = copy.open();
            copy.files.damage(&path, |bytes| bytes[at] ^= 1 << dice.below(8));
            let report = run(&vault, ALL);
            assert!(!report.is_clean(), "byte {at} of {len} of {path}");
            assert!(files_of(&report).contains(path.as_str()), "byte {at} of {len} of {path}: {:?}", report.faults);
        }
    }
    let kinds: Vec<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!(kinds, ["config", "keyring", "packs", "records"]);
}

#[test]
fn what_is_missing_or_cut_is_found_and_named() {
    let mut dice = dice();
    let (world, vault) = World::new(true, &mut dice);
    world.backup(&vault);
    world.backup(&vault);
    for path in world.files.paths() {
        if path.starts_with("locks/") || path.starts_with("sessions/") || path == "records/0000000000000002" {
            continue;
        }
        let copy = world.copy();
        let vault = copy.open();
        crate::files::Files::remove(&copy.files, &path).unwrap();
        let report = run(&vault, CheckOptions::default());
        // A record that is gone is seen by the one after it.
        let named = if path.starts_with("records/") { "records/0000000000000002" } else { path.as_str() };
        assert!(files_of(&report).contains(named), "{path}: {:?}", report.faults);
        let copy = world.copy();
        let vault = copy.open();
        copy.files.damage(&path, |bytes| bytes.truncate(bytes.len() / 2));
        assert!(files_of(&run(&vault, CheckOptions::default())).contains(path.as_str()), "{path}");
    }
}

#[test]
fn damaged_files_are_named_and_the_next_backup_heals() {
    let mut dice = dice();
    for kind in ["leaf", "branch"] {
        let (world, vault) = World::new(true, &mut dice);
        world.backup(&vault);
        if kind == "leaf" {
            std::fs::write(world.path("c/more"), [1; 70_000]).unwrap();
        }
        world.backup(&vault);
        let packs: Vec<String> = world.files.paths().into_iter().filter(|path| path.ends_with(kind)).collect();
        let pack = packs.iter().max_by_key(|pack| world.files.bytes(pack).unwrap().len()).unwrap();
        // In the body of the first frame.
        world.files.damage(pack, |bytes| bytes[64 + 2000] ^= 1);
        let report = run(&vault, ALL);
        assert_eq!(files_of(&report).into_iter().next_back(), Some(pack.as_str()), "{report:?}");
        assert!(!report.damaged.is_empty() && report.unwhole > 0, "{report:?}");
        let prefix = world.source.path().to_str().unwrap().as_bytes();
        for file in &report.damaged {
            let is_leaf = kind == "leaf";
            assert!(!is_leaf || (file.path.starts_with(prefix) && !file.ranges.is_empty()), "{file:?}");
            assert!(file.ranges.iter().all(|range| range.start < range.end), "{file:?}");
        }
        // Found again by a check that reads no content, and healed by a backup of the unchanged source.
        let again = run(&vault, CheckOptions::default());
        assert_eq!(again.damaged, report.damaged);
        let vault = world.open();
        let summary = world.backup(&vault);
        let healed = run(&vault, ALL);
        if kind == "leaf" {
            assert!(summary.healed > 0, "{summary:?}");
            assert!(healed.is_clean() && healed.unwhole == 0 && summary.unwhole == 0, "{healed:?}");
        } else {
            // Nobody can make the root of an old snapshot again, nor folders above the source, which changed since.
            let is_above = |file: &DamagedFile| prefix.starts_with(&file.path) && prefix != file.path;
            assert!(healed.damaged.iter().all(is_above), "{healed:?}");
            assert!(files_of(&healed).iter().all(|file| file.starts_with("records/")), "{healed:?}");
        }
        assert_eq!(healed.notes.len(), 1, "the bad frame is still there and told: {:?}", healed.notes);
    }
}

#[test]
fn a_list_without_end_is_counted() {
    let mut findings = Findings::default();
    for _ in 0..10_003 {
        findings.fault("f", "p");
        findings.damaged(DamagedFile { snapshot: ChunkId([0; 32]), path: Vec::new(), ranges: Vec::new() });
    }
    let report = findings.finish(Duration::ZERO);
    assert_eq!((report.faults.len(), report.faults_more), (10_000, 3));
    assert_eq!((report.damaged.len(), report.damaged_more), (10_000, 3));
}

/// Checks a vault whose index was changed behind its back; the vault is opened on the changed one.
fn check_index(world: &World, expected: &str, change: impl Fn(&mut Version)) {
    let mut version = world.kv.version().unwrap();
    change(&mut version);
    let copy = World { kv: MemoryKvHome::from_version(Some(version)), ..world.copy() };
    let report = run(&copy.open(), ALL);
    let found = report.faults.iter().any(|fault| fault.file == "index" && fault.problem.contains(expected));
    assert!(found, "{expected}: {:?}", report.faults);
}

#[test]
fn rows_that_contradict_each_other_are_told() {
    let (world, vault) = World::new(true, &mut dice());
    world.backup(&vault);
    let first_chunk = |version: &mut Version, change: &dyn Fn(&mut Vec<u8>)| {
        change(version.rows_mut(Table::Chunks).values_mut().next().unwrap());
    };
    check_index(&world, "not at position", |version| first_chunk(version, &|row| row[5] ^= 1));
    check_index(&world, "not among those that wait", |version| first_chunk(version, &|row| row[7] = 1));
    check_index(&world, "the index does not know", |version| {
        let rows = version.rows_mut(Table::Frames);
        let first = rows.keys().next().unwrap().clone();
        rows.remove(&first);
    });
    check_index(&world, "lacks", |version| {
        let frames = version.rows(Table::Frames).clone();
        let is_leaf = |row: &[u8]| frames[&[row[4], row[3], row[2], row[1], row[0]][..]][50] == 1;
        version.rows_mut(Table::Chunks).retain(|_, row| !is_leaf(row));
    });
}

#[test]
fn speed_is_printed() {
    let mut dice = dice();
    let (world, vault) = World::new(true, &mut dice);
    let mut bytes = vec![0; 64 << 20];
    dice.fill(&mut bytes);
    std::fs::write(world.path("more"), bytes).unwrap();
    world.backup(&vault);
    let one = Vault::open(
        Place { files: Arc::new(world.files.clone()), kv_home: Arc::new(world.kv.clone()) },
        Env::system(1),
        Unlock::Secret(&world.secret),
        "test",
    )
    .unwrap();
    let report = run(&one, ALL);
    println!("{} MB/s on one core", report.bytes_read / report.duration.as_micros().max(1) as u64);
    assert!(report.is_clean());
}

#[test]
fn a_vault_opened_through_a_store_is_checked_as_far_as_that_shows() {
    let (world, vault) = World::new(true, &mut dice());
    world.backup(&vault);
    let place = Place { files: Arc::new(world.files.clone()), kv_home: Arc::new(world.kv.clone()) };
    let head = Vault::head_bytes(&place).unwrap();
    let store = vault.store().clone();
    let through = Vault::open_through(store, head, Env::system(2), Unlock::Secret(&world.secret)).unwrap();
    let (quick, whole) = (run(&through, CheckOptions::default()), run(&through, ALL));
    assert!(quick.is_clean() && whole.is_clean(), "{quick:?} {whole:?}");
    assert_eq!((quick.snapshots, quick.frames), (1, 0));
    assert_eq!(whole.frames, whole.frames_total);

    // A byte of the largest pack flips: the frame is told, lost, and what needs it.
    let packs = world.files.paths().into_iter().filter(|path| path.starts_with("packs/"));
    let pack = packs.max_by_key(|path| world.files.bytes(path).map(|bytes| bytes.len())).unwrap();
    world.files.damage(&pack, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let damaged = run(&through, ALL);
    assert_eq!(damaged.faults.len(), 1, "{damaged:?}");
    assert!(!damaged.damaged.is_empty());
    assert_eq!(vault.local().unwrap().lost_frames(10).unwrap().len(), 1);
}
