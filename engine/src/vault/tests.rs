//! Vaults whose keys change while they are used.

use super::keyring::{KEYRING_PATH, PasswordCost};
use super::*;
use crate::backup::{BackupOptions, backup};
use crate::env::{Env, SystemEntropy};
use crate::files::Files;
use crate::files::memory::MemoryFiles;
use crate::kv::memory::MemoryKvHome;
use crate::progress::Progress;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const KEY: [u8; 32] = [9; 32];
const QUICK: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

/// A vault on a disk that several processes may open.
struct World {
    files: MemoryFiles,
    place: Place,
}

impl World {
    fn new() -> (Self, Vault) {
        let files = MemoryFiles::new();
        let place = Place { files: Arc::new(files.clone()), kv_home: Arc::new(MemoryKvHome::new()) };
        let slots = [NewSlot::MachineKey { key: &KEY, label: "here" }];
        let vault = Vault::create(place.clone(), Env::system(1), &CreateOptions::default(), &slots).unwrap().0;
        (Self { files, place }, vault)
    }

    fn open(&self, unlock: Unlock<'_>) -> Result<Vault> {
        Vault::open(self.place.clone(), Env::system(1), unlock, "test")
    }
}

fn add_password(vault: &Vault, password: &str) -> Result<[u8; 8]> {
    let now = vault.env().clock.now();
    vault.change_keyring(|keyring, _, secret| {
        keyring.add_password_slot(secret, password, QUICK, password, now, &SystemEntropy)
    })
}

fn back_up(vault: &Vault, source: &std::path::Path) -> crate::id::ChunkId {
    let paths = vec![source.as_os_str().as_bytes().to_vec()];
    let options = BackupOptions { paths, host: "h".into(), ..BackupOptions::default() };
    backup(vault, &options, &Progress::silent()).unwrap().snapshot.unwrap()
}

#[test]
fn ways_in_are_added_replaced_and_taken_away() {
    let (world, vault) = World::new();
    let first = add_password(&vault, "first").unwrap();
    let opened = world.open(Unlock::Password("first")).unwrap();
    assert_eq!((opened.slot(), opened.keyring().unwrap().slots().len()), (Some(first), 2));
    assert_eq!(*opened.secret().unwrap().words(), *vault.secret().unwrap().words());
    // One write replaces it.
    let second = opened
        .change_keyring(|keyring, _, secret| {
            let now = opened.env().clock.now();
            let id = keyring.add_password_slot(secret, "second", QUICK, "", now, &SystemEntropy)?;
            assert!(keyring.remove_slot(&first));
            Ok(id)
        })
        .unwrap();
    assert!(matches!(world.open(Unlock::Password("first")), Err(VaultError::Keyring(_))));
    assert_eq!(world.open(Unlock::Password("second")).unwrap().slot(), Some(second));
    // What fails changes nothing.
    assert!(add_password(&vault, "").is_err());
    assert_eq!(vault.keyring().unwrap().slots().len(), 2);
    let open = world.open(Unlock::MachineKey(&KEY)).unwrap();
    assert!(open.notes().is_empty(), "both files are the same: {:?}", open.notes());
}

#[test]
fn a_bad_copy_is_written_anew_with_what_others_changed_since() {
    let (world, vault) = World::new();
    let copy = format!("{KEYRING_PATH}{}", twin::COPY_SUFFIX);
    for (path, other) in [(KEYRING_PATH, copy.as_str()), (&copy, KEYRING_PATH)] {
        add_password(&vault, path).unwrap();
        assert!(world.files.damage(path, |bytes| bytes[90] ^= 1));
        // While somebody changes it nobody waits to mend it.
        let held = world.files.try_lock("locks/keyring", "somebody").unwrap().unwrap();
        assert_eq!(world.open(Unlock::Password(path)).unwrap().notes().len(), 1);
        drop(held);
        assert_eq!(world.open(Unlock::Password(path)).unwrap().notes().len(), 1);
        assert_eq!(world.files.bytes(path), world.files.bytes(other));
        assert!(world.open(Unlock::Password(path)).unwrap().notes().is_empty());
    }
}

#[test]
fn a_new_key_pair_is_for_new_sessions_and_old_ones_go_on() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), [7; 5000]).unwrap();
    let (world, vault) = World::new();
    let first = back_up(&vault, source.path());
    assert_eq!(vault.rotate().unwrap(), 1);
    assert_eq!(vault.keys().newest().0, 0, "what is open goes on as it was");
    std::fs::write(source.path().join("file"), [8; 5000]).unwrap();
    let second = back_up(&vault, source.path());
    let later = world.open(Unlock::MachineKey(&KEY)).unwrap();
    assert_eq!((later.keys().newest().0, later.rotate().unwrap()), (1, 2));
    std::fs::write(source.path().join("file"), [9; 5000]).unwrap();
    let third = back_up(&later, source.path());
    let list = world.open(Unlock::MachineKey(&KEY)).unwrap().snapshots().unwrap();
    assert_eq!(list.list.iter().map(|info| info.id).collect::<Vec<_>>(), [first, second, third]);
}

#[test]
fn two_who_change_it_at_once_lose_nothing() {
    let (world, vault) = World::new();
    let (begun, wait) = channel();
    let slow = world.open(Unlock::MachineKey(&KEY)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let changed = slow.change_keyring(|keyring, _, secret| {
                begun.send(()).unwrap();
                // Long enough for the other to be done, if nothing keeps it from it.
                std::thread::sleep(Duration::from_millis(100));
                let now = slow.env().clock.now();
                keyring.add_password_slot(secret, "slow", QUICK, "", now, &SystemEntropy)
            });
            changed.unwrap();
        });
        wait.recv().unwrap();
        add_password(&vault, "quick").unwrap();
    });
    for password in ["slow", "quick"] {
        world.open(Unlock::Password(password)).unwrap_or_else(|error| panic!("{password}: {error}"));
    }
}

#[test]
fn devices_write_and_do_not_read() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), [7; 5000]).unwrap();
    let (world, vault) = World::new();
    let before = back_up(&vault, source.path());
    let file = vault.add_device("pc7").unwrap().encode();
    let key = DeviceKey::parse(&file).unwrap();
    let device = world.open(Unlock::Device(&key)).unwrap();
    assert_eq!((device.device(), device.slot()), (Some(key.id()), None));
    std::fs::write(source.path().join("file"), [8; 5000]).unwrap();
    let first = back_up(&device, source.path());

    assert!(matches!(device.reader(), Err(ReadError::WriteOnly)));
    assert_eq!(device.snapshots().unwrap_err().class(), ErrorClass::NotAllowed);
    assert_eq!(device.secret().unwrap_err().class(), ErrorClass::NotAllowed);
    assert_eq!(device.rotate().unwrap_err().class(), ErrorClass::NotAllowed);
    assert_eq!(device.require_member().unwrap_err().class(), ErrorClass::NotAllowed);
    let ids = |vault: &Vault| vault.received().unwrap().iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!((ids(&device), ids(&vault)), (vec![first], vec![before, first]));
    let list = vault.snapshots().unwrap();
    assert!(list.damaged.is_empty());
    assert_eq!(list.list.iter().map(|info| info.device).collect::<Vec<_>>(), [None, Some(key.id())]);

    // What it wrote while it might stays; what it writes later is nobody's.
    assert!(vault.remove_device(&key.id()).unwrap());
    assert_eq!(ids(&vault), [before, first]);
    assert!(matches!(world.open(Unlock::Device(&key)), Err(VaultError::DeviceRefused(_))));
    std::fs::write(source.path().join("file"), [9; 5000]).unwrap();
    back_up(&device, source.path());
    let list = vault.snapshots().unwrap();
    assert_eq!(list.list.iter().map(|info| info.id).collect::<Vec<_>>(), [before, first]);
    assert!(list.damaged[0].problem.contains("was removed"), "{:?}", list.damaged);

    // One that was never admitted, though its key is what a member would give.
    let stranger = vault.keys().share(crate::id::DeviceId([1; 8])).unwrap();
    let stranger = DeviceKey::new(stranger, vault.config(), crate::env::Time(0)).unwrap();
    assert!(matches!(world.open(Unlock::Device(&stranger)), Err(VaultError::DeviceRefused(_))));

    // With the keyring lost the words open all the same, and tell a device's records by their MACs.
    for path in [KEYRING_PATH.to_owned(), format!("{KEYRING_PATH}{}", twin::COPY_SUFFIX)] {
        world.files.remove(&path).unwrap();
    }
    let words = world.open(Unlock::Secret(vault.secret().unwrap())).unwrap();
    assert_eq!(ids(&words).len(), 3);
    assert!(matches!(words.rotate(), Err(VaultError::KeyringFile(_))));
    world.open(Unlock::Device(&key)).expect("whether it was removed cannot be seen");
}

#[test]
fn an_open_vault_has_no_keys_to_change() {
    let place = Place { files: Arc::new(MemoryFiles::new()), kv_home: Arc::new(MemoryKvHome::new()) };
    let options = CreateOptions { encrypted: false, ..CreateOptions::default() };
    let vault = Vault::create(place.clone(), Env::system(1), &options, &[]).unwrap().0;
    assert!(vault.rotate().is_err() && vault.add_device("x").is_err() && vault.secret().is_err());
    assert!(vault.keyring().is_err() && vault.require_member().is_ok());
    let share = vault.keys().share(crate::id::DeviceId([1; 8])).unwrap();
    let config = config::Config { suite: crate::crypto::Suite::Aes256Gcm, ..vault.config().clone() };
    let key = DeviceKey::new(share, &config, crate::env::Time(0)).unwrap();
    let opened = Vault::open(place.clone(), Env::system(1), Unlock::Device(&key), "test");
    assert!(matches!(opened, Err(VaultError::Unlock(_))));
    // A record in a device's name, which anybody can make here, is refused and does not keep the others from us.
    let source = tempfile::tempdir().unwrap();
    let id = back_up(&vault, source.path());
    let link = crate::store::ChainLink { count: 2, previous: [0; 32], received: None };
    let device = key.keys();
    let reference = crate::record::RefRecord {
        kind: crate::record::RefKind::Snapshot,
        target: id,
        session: crate::id::SessionId([1; 16]),
        level: crate::record::Level::P0,
        session_started: crate::env::Time(0),
        device: device.device(),
    };
    let record = crate::record::Record {
        kind: crate::record::RecordKind::Ref,
        vault: vault.id(),
        count: link.count,
        received: crate::env::Time(0),
        previous: link.previous,
        payload: reference.encode(),
    };
    let bytes = record.encode(&|bytes| device.record_mac(bytes));
    place.files.write_atomic("records/0000000000000002", &bytes).unwrap();
    let list = vault.snapshots().unwrap();
    assert_eq!(list.list.iter().map(|info| info.id).collect::<Vec<_>>(), [id]);
    assert!(list.damaged.iter().any(|fault| fault.problem.contains("never admitted")), "{:?}", list.damaged);
}
