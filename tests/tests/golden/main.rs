//! Vaults of every format version, kept as files: they open, they are what their manifests say, they can be written
//! on; and with one damage each they say so, and give back everything else.
//!
//! The fixtures hold no index, which is made anew when they are opened. They are never changed: a new format version
//! gets new ones, made as root with `TWINKEEP_WRITE_FIXTURES=1 cargo test -p twinkeep-tests --test golden write`.

mod broken;
mod make;
mod manifest;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use manifest::{Entries, Expected, Line, content_hash, escape};
use twinkeep_engine::backup::{BackupOptions, backup};
use twinkeep_engine::branch::entry::What;
use twinkeep_engine::check::{CheckOptions, CheckReport, check};
use twinkeep_engine::crypto::VaultSecret;
use twinkeep_engine::env::Env;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::query::{Damage, Step, TreeRoot, WalkEntry, read_file, walk};
use twinkeep_engine::restore::{RestoreOptions, RestoreSummary, restore};
use twinkeep_engine::target::OwnerPolicy;
use twinkeep_engine::vault::{Place, SnapshotInfo, Unlock, Vault, VaultError};

/// Where the sources of the fixtures were.
const BASE: &str = "/tmp/twinkeep-golden";
/// The password of the encrypted fixture.
const PASSWORD: &str = "golden";
/// The encrypted one, and those that are not: without and with coarse cuts of what looks random.
const FIXTURES: [&str; 3] = ["v1", "v1-plain", "v1-coarse"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A fixture's vault copied to a folder that goes away.
struct Copied {
    fixture: &'static str,
    folder: tempfile::TempDir,
}

impl Copied {
    fn new(fixture_name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&fixture(fixture_name).join("vault"), &folder.path().join("vault"));
        Self { fixture: fixture_name, folder }
    }

    fn vault(&self) -> PathBuf {
        self.folder.path().join("vault")
    }

    fn open_with(&self, unlock: Unlock<'_>) -> Result<Vault, VaultError> {
        Vault::open(Place::folder(&self.vault()), Env::system(2), unlock, "golden")
    }

    fn open(&self) -> Result<Vault, VaultError> {
        match self.fixture {
            "v1" => self.open_with(Unlock::Password(PASSWORD)),
            _ => self.open_with(Unlock::Nothing),
        }
    }

    fn expected(&self) -> Vec<Expected> {
        manifest::read(&fixture(self.fixture).join("manifest"))
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to.join(entry.file_name())),
            false => _ = fs::copy(entry.path(), to.join(entry.file_name())).unwrap(),
        }
    }
}

fn words() -> VaultSecret {
    VaultSecret::from_words(fs::read_to_string(fixture("v1").join("words")).unwrap().trim()).unwrap()
}

fn check_all(vault: &Vault) -> CheckReport {
    let options = CheckOptions { read_data: true, subset: None };
    check(vault, &options, &Progress::silent()).unwrap()
}

/// The path below the base; none for what is above.
fn below_base(path: &[u8]) -> Option<&[u8]> {
    path.strip_prefix(BASE.as_bytes())?.strip_prefix(b"/")
}

/// What a snapshot gives back: entries by path below the base, and how many things could not be read.
fn read_back(vault: &Vault, info: &SnapshotInfo) -> (Entries, usize) {
    let (mut entries, mut lost) = (Entries::new(), 0);
    let mut folders_lost = 0;
    let mut visit = |found: &WalkEntry<'_>| {
        let Some(path) = below_base(found.path) else { return Step::Continue };
        match line_of(vault, found) {
            Some(line) => drop(entries.insert(path.to_vec(), line)),
            None => lost += 1,
        }
        Step::Continue
    };
    let mut on_damage = |_: &Damage<'_>| {
        folders_lost += 1;
        true
    };
    walk(vault, &TreeRoot::whole(info), &mut visit, &mut on_damage).unwrap();
    (entries, lost + folders_lost)
}

/// The manifest's line for what the vault holds; none if its content cannot be read.
fn line_of(vault: &Vault, found: &WalkEntry<'_>) -> Option<String> {
    let none = || "-".to_owned();
    let device = |major: &u32, minor: &u32| format!("{major}:{minor}");
    let (kind, what, content) = match &found.entry.what {
        What::File(content) => {
            let mut bytes = Vec::new();
            read_file(vault, content, &mut bytes, &Progress::silent()).ok()?;
            ('f', content.len().to_string(), content_hash(content.len(), blake3::hash(&bytes)))
        }
        What::Directory(_) => ('d', none(), none()),
        What::Symlink(target) => ('l', none(), escape(target)),
        What::CharDevice { major, minor } => ('c', device(major, minor), none()),
        What::BlockDevice { major, minor } => ('b', device(major, minor), none()),
        What::Fifo => ('p', none(), none()),
        What::Socket => ('s', none(), none()),
    };
    let meta = &found.entry.meta;
    let attributes =
        meta.xattrs.iter().map(|one| (String::from_utf8_lossy(&one.name).into_owned(), one.value.to_vec()));
    let mtime = (meta.mtime.secs, meta.mtime.nanos);
    let line = Line { kind, mode: meta.mode, mtime, what, content, attributes: attributes.collect() };
    Some(line.text())
}

/// Restores into `target`; gives the paths, below the base, that were warned about.
fn restore_to(vault: &Vault, info: &SnapshotInfo, target: &Path) -> (RestoreSummary, BTreeMap<Vec<u8>, String>) {
    let warned = Arc::new(Mutex::new(BTreeMap::new()));
    let seen = warned.clone();
    let progress = Progress::new(move |warning| {
        let path = below_base(&warning.path).map_or_else(|| warning.path.clone(), <[u8]>::to_vec);
        seen.lock().unwrap().insert(path, warning.message.clone());
    });
    let options = RestoreOptions { owner: OwnerPolicy::Nobody, ..RestoreOptions::to(target.to_path_buf()) };
    let summary = restore(vault, &TreeRoot::whole(info), &options, &progress).unwrap();
    let warned = std::mem::take(&mut *warned.lock().unwrap());
    (summary, warned)
}

/// The folder that stands for the base after a restore of everything.
fn restored_base(target: &Path) -> PathBuf {
    target.join(BASE.trim_start_matches('/'))
}

/// Whether all a fixture has can be made here: devices and attributes.
fn can_make_everything() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let set = rustix::fs::setxattr(folder.path(), "user.note", b"x", rustix::fs::XattrFlags::empty());
    rustix::process::geteuid().is_root() && set.is_ok()
}

#[test]
fn write() {
    if std::env::var_os("TWINKEEP_WRITE_FIXTURES").is_none() {
        return;
    }
    for (name, make) in [("v1", make::encrypted as fn(&Path)), ("v1-plain", make::plain), ("v1-coarse", make::coarse)] {
        let folder = fixture(name);
        if folder.exists() {
            println!("{} is kept; remove it by hand if you mean it", folder.display());
            continue;
        }
        fs::create_dir_all(&folder).unwrap();
        make(&folder);
    }
}

#[test]
fn every_way_in_opens() {
    let copied = Copied::new("v1");
    for unlock in [Unlock::Password(PASSWORD), Unlock::Secret(&words())] {
        assert_eq!(copied.open_with(unlock).unwrap().snapshots().unwrap().list.len(), 3);
    }
    for unlock in [Unlock::Password("other"), Unlock::Nothing, Unlock::MachineKey(&[0; 32])] {
        let error = copied.open_with(unlock).err().unwrap();
        assert_eq!(error.class(), twinkeep_engine::vault::ErrorClass::WrongKey, "{error}");
    }
    assert_eq!(Copied::new("v1-plain").open().unwrap().snapshots().unwrap().list.len(), 1);
}

#[test]
fn what_is_in_them_is_what_was_there() {
    for name in FIXTURES {
        let copied = Copied::new(name);
        let vault = copied.open().unwrap();
        let report = check_all(&vault);
        assert!(report.is_clean(), "{name}: {report:?}");
        let (found, expected) = (vault.snapshots().unwrap(), copied.expected());
        assert_eq!((found.list.len(), found.damaged.len()), (expected.len(), 0), "{name}");
        for (info, expected) in found.list.iter().zip(&expected) {
            assert_eq!(info.snapshot.partial, expected.name == "partial");
            let (entries, lost) = read_back(&vault, info);
            assert!(!entries.is_empty());
            same(&entries, &expected.entries, &format!("{name} {}", expected.name));
            assert_eq!(lost, 0);
            let target = copied.folder.path().join(&expected.name);
            let (summary, warned) = restore_to(&vault, info, &target);
            if can_make_everything() {
                assert_eq!(summary.damaged, 0, "{warned:?}");
                let mut wanted = expected.entries.clone();
                // Sockets are noted and never made.
                wanted.retain(|path, line| !(line.starts_with("s ") || warned.contains_key(path)));
                assert!(expected.entries.len() - wanted.len() <= 2, "{warned:?}");
                same(&manifest::of_folder(&restored_base(&target)), &wanted, &format!("{name} restored"));
            }
        }
    }
}

/// Compares and shows only what differs.
fn same(found: &Entries, expected: &Entries, what: &str) {
    for (path, line) in expected {
        assert_eq!(found.get(path), Some(line), "{what}: {}", escape(path));
    }
    let more = found.keys().find(|path| !expected.contains_key(*path));
    assert!(more.is_none(), "{what}: {} is too much", escape(more.unwrap()));
}

#[test]
fn they_can_be_written_on() {
    for name in FIXTURES {
        let copied = Copied::new(name);
        let source = copied.folder.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("new"), "new words ".repeat(1000)).unwrap();
        fs::write(source.join("known"), make::long_noise()).unwrap();
        let vault = copied.open().unwrap();
        let before = vault.snapshots().unwrap().list;
        let options = BackupOptions { paths: vec![source.as_os_str().as_bytes().to_vec()], ..BackupOptions::default() };
        let summary = backup(&vault, &options, &Progress::silent()).unwrap();
        assert_eq!(summary.errors, 0);
        assert!(summary.bytes_added < 20_000, "{name}: what it knows is cut as before: {summary:?}");
        drop(vault);
        let vault = copied.open().unwrap();
        let after = vault.snapshots().unwrap().list;
        assert!(before.iter().zip(&after).all(|(before, after)| before.id == after.id));
        assert_eq!(after.len(), before.len() + 1);
        assert!(check_all(&vault).is_clean());
        let target = copied.folder.path().join("target");
        let root = twinkeep_engine::query::resolve_path(&vault, after.last().unwrap(), &options.paths[0]).unwrap();
        assert_eq!(restore(&vault, &root, &RestoreOptions::to(target.clone()), &Progress::silent()).unwrap().errors, 0);
        assert_eq!(fs::read(target.join("new")).unwrap(), fs::read(source.join("new")).unwrap());
    }
}
