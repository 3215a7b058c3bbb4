//! A machine that may write and not read, and somebody who has everything on that machine.

use crate::lab::{self, Taken, chain};
use crate::tree::SourceTree;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use twinkeep_engine::backup::{self, BackupSummary};
use twinkeep_engine::cache::ListCache;
use twinkeep_engine::crypto::{DataKey, SecretKey, VaultKeys, VaultSecret, wrap};
use twinkeep_engine::env::Env;
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::frame::FrameHeader;
use twinkeep_engine::id::{Kind, SessionId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::record::{self, Record, RecordKind};
use twinkeep_engine::vault::keyring::LockedKeyring;
use twinkeep_engine::vault::{DeviceKey, Place, Unlock, Vault, VaultError};

/// A vault, a member, and a device with its files and caches.
pub struct World {
    /// The vault's files.
    pub files: MemoryFiles,
    kv: MemoryKvHome,
    seed: u64,
    opened: AtomicU64,
    /// Who made it.
    pub member: Vault,
    /// The device's key file.
    pub file: Vec<u8>,
    /// The device's caches.
    pub cache: tempfile::TempDir,
}

impl World {
    /// Makes all of it.
    pub fn new(seed: u64) -> Result<Self, String> {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let place = lab::place(files.clone(), kv.clone());
        let member = lab::create(place, lab::env(seed)).map_err(|error| chain(&error))?;
        let file = member.add_device("pc7").map_err(|error| chain(&error))?.encode().to_vec();
        let cache = tempfile::Builder::new().prefix("twinkeep-device-").tempdir().map_err(|error| error.to_string())?;
        Ok(Self { files, kv, seed, opened: AtomicU64::new(1), member, file, cache })
    }

    /// Where the vault is.
    pub fn place(&self) -> Place {
        lab::place(self.files.clone(), self.kv.clone())
    }

    /// The device's key.
    pub fn key(&self) -> DeviceKey {
        DeviceKey::parse(&self.file).expect("it was just made")
    }

    /// The vault as the device opens it.
    pub fn device(&self) -> Result<Vault, VaultError> {
        lab::shrink();
        Vault::open(self.place(), self.env(), Unlock::Device(&self.key()), "device")
    }

    /// The vault as a member opens it now.
    pub fn reopen(&self) -> Result<Vault, VaultError> {
        lab::open(self.place(), self.env())
    }

    /// Other dice for each who opens it: sessions must not have one id.
    fn env(&self) -> Env {
        let opened = self.opened.fetch_add(1, Ordering::Relaxed);
        lab::env(self.seed.wrapping_mul(1000).wrapping_add(opened))
    }

    /// A backup by the device, and what it has to hold.
    pub fn take(&self, tree: &SourceTree) -> Result<(Taken, BackupSummary), String> {
        let device = self.device().map_err(|error| chain(&error))?;
        let model = std::sync::Arc::new(crate::model::of_disk(&tree.root()));
        let options = lab::options(&tree.path(), Some(self.cache.path()));
        let summary = backup::backup(&device, &options, &Progress::silent()).map_err(|error| chain(&error))?;
        let id = summary.snapshot.ok_or("no snapshot")?;
        Ok((Taken { id, source: tree.path(), model }, summary))
    }

    /// Cache files whose name ends like this.
    pub fn caches(&self, ending: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        crate::tree::gather(self.cache.path(), &mut found);
        found.retain(|path| path.to_string_lossy().ends_with(ending));
        found
    }
}

/// Everything somebody has who took the device and reaches the vault's folder.
pub struct Loot {
    /// Bytes in which a key might stand, by what they are.
    pub places: Vec<(String, Vec<u8>)>,
    /// One frame of each session.
    frames: BTreeMap<SessionId, Vec<u8>>,
    keyring: LockedKeyring,
    vault: twinkeep_engine::id::VaultId,
}

impl Loot {
    /// Gathers it.
    pub fn gather(world: &World) -> Result<Self, String> {
        let mut places = vec![("device key".to_owned(), world.file.clone())];
        for path in world.caches("") {
            places.push((path.display().to_string(), fs::read(&path).map_err(|error| error.to_string())?));
        }
        for (name, listing) in listings(world)? {
            places.push((name, listing));
        }
        for path in world.files.paths() {
            if ["config", "keyring", "records/"].iter().any(|name| path.starts_with(name)) {
                let bytes = world.files.bytes(&path).ok_or("a file is gone")?;
                places.push((path, bytes));
            }
        }
        let device = world.device().map_err(|error| chain(&error))?;
        let mut frames = BTreeMap::new();
        for bytes in stored_frames(&device)? {
            let header = FrameHeader::parse(&bytes).map_err(|error| chain(&error))?;
            let known: &mut Vec<u8> = frames.entry(header.session).or_default();
            if known.is_empty() || bytes.len() < known.len() {
                *known = bytes;
            }
        }
        let keyring = world.files.bytes("keyring").ok_or("no keyring")?;
        let keyring = LockedKeyring::parse(&keyring).map_err(|error| chain(&error))?.1;
        Ok(Self { places, frames, keyring, vault: world.member.id() })
    }

    /// Tries every 32 bytes that stand anywhere, and what the format derives from them, as each sort of key there is;
    /// tells what opened something.
    pub fn brute(&self) -> Result<u64, String> {
        let mut tried = 0;
        for (place, bytes) in &self.places {
            for (at, window) in bytes.windows(32).enumerate() {
                let key: [u8; 32] = window.try_into().map_err(|_| "a window of another length")?;
                tried += 1;
                if let Some(what) = self.opens(&key) {
                    return Err(format!("byte {at} of {place} opens {what}"));
                }
            }
        }
        let share = self.places.first().ok_or("nothing was gathered")?.1.clone();
        for at in (64 - 32..224).step_by(32) {
            let key = share.get(at..at + 32).ok_or("a device key is shorter")?;
            for derived in derivations(key, &self.vault.0) {
                tried += 1;
                if let Some(what) = self.opens(&derived) {
                    return Err(format!("what is derived from byte {at} of the device key opens {what}"));
                }
            }
        }
        Ok(tried)
    }

    fn opens(&self, key: &[u8; 32]) -> Option<String> {
        let (data, secret) = (DataKey::from_bytes(key), SecretKey::from_bytes(key));
        for (session, frame) in &self.frames {
            let Ok(header) = FrameHeader::parse(frame) else { continue };
            let opened = |data: &DataKey| {
                let (clear, sealed) = frame.split_at(header.len());
                header.suite.open(data, &header.salt, clear, &mut sealed.to_vec()).is_ok()
            };
            if opened(&data) {
                return Some(format!("a frame of session {session} as data key"));
            }
            if wrap::unwrap(&secret, &header.wrapped, &header.vault).is_ok() {
                return Some(format!("the data key of session {session} as secret key"));
            }
        }
        if self.keyring.unlock_with_machine_key(key).is_ok() {
            return Some("the keyring as the key of a slot".to_owned());
        }
        let unlocked = self.keyring.unlock_with_secret(VaultSecret::from_bytes(key));
        unlocked.is_ok().then(|| "the keyring as the vault's secret".to_owned())
    }
}

/// Every derivation of the format, and some more, with and without the vault's id.
fn derivations(key: &[u8], vault: &[u8; 16]) -> Vec<[u8; 32]> {
    const CONTEXTS: &[&str] = &[
        "twinkeep 2026-11 vault id key v1",
        "twinkeep 2026-11 vault gear key v1",
        "twinkeep 2026-11 vault list key v1",
        "twinkeep 2026-11 vault record key v1",
        "twinkeep 2026-11 vault keyring key v1",
        "twinkeep 2026-11 vault key pair 0 v1",
        "twinkeep 2026-11 vault secret check v1",
        "twinkeep 2026-11 leaf id key v1",
        "twinkeep 2026-11 branch id key v1",
        "twinkeep 2026-11 device record key v1",
        "twinkeep 2026-11 unencrypted vault v1",
    ];
    let with_vault = [key, vault].concat();
    let plain = CONTEXTS.iter().map(|context| blake3::derive_key(context, key));
    plain.chain(CONTEXTS.iter().map(|context| blake3::derive_key(context, &with_vault))).collect()
}

/// The stored bytes of all frames, which need no key to be read.
pub fn stored_frames(vault: &Vault) -> Result<Vec<Vec<u8>>, String> {
    let places = vault.store().frames(FrameNumber(0), 1 << 20).map_err(|error| chain(&error))?;
    let read = |place: &twinkeep_engine::store::Place| {
        let mut bytes = Vec::new();
        vault.store().read_frame(place, &mut bytes).map(|()| bytes).map_err(|error| chain(&error))
    };
    places.iter().map(read).collect()
}

/// What the device remembers of listings, unpacked. Branch ids stand in the clear in the vault.
fn listings(world: &World) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut found = Vec::new();
    for path in world.caches(".lists") {
        let cache = ListCache::open(&path, world.member.id());
        for bytes in stored_frames(&world.member)? {
            let header = FrameHeader::parse(&bytes).map_err(|error| chain(&error))?;
            for id in header.ids.iter().filter(|_| header.kind == Kind::Branch) {
                found.extend(cache.branch(id).map(|(_, payload)| (format!("listing {id}"), payload)));
            }
        }
    }
    Ok(found)
}

/// Whether a file below `dir` holds these bytes.
pub fn holds(dir: &Path, bytes: &[u8]) -> bool {
    let mut files = Vec::new();
    crate::tree::gather(dir, &mut files);
    files.iter().any(|path| fs::read(path).is_ok_and(|held| held.windows(bytes.len()).any(|window| window == bytes)))
}

/// A device backs up a folder of short files, changes one, and backs it up again: the others are whole, and what is
/// remembered of them holds none of their content.
pub fn short_files(seed: u64) -> Result<(), String> {
    const CANARY: &[u8] = b"a canary short enough for its entry";
    let world = World::new(seed)?;
    let mut tree = SourceTree::new(seed, crate::tree::Shape { files: 2, wide: 0, len_max: 2 << 10 });
    tree.write("short/canary", CANARY);
    tree.write("short/other", b"other");
    let first = world.take(&tree)?.0;
    tree.write("short/other", b"changed");
    let second = world.take(&tree)?.0;
    for taken in [first, second] {
        taken.verify(&world.member)?;
    }
    let seen = |needle: &[u8]| -> Result<bool, String> {
        Ok(listings(&world)?.iter().any(|(_, held)| held.windows(needle.len()).any(|window| window == needle)))
    };
    match (seen(b"canary")?, seen(&CANARY[..16])?) {
        (true, false) => Ok(()),
        (false, _) => Err("no listing is remembered".to_owned()),
        (_, true) => Err("the content of a short file is remembered".to_owned()),
    }
}

/// A MAC by 32 bytes as key.
fn mac(key: &[u8; 32]) -> impl Fn(&[u8]) -> [u8; 32] {
    let key = *key;
    move |bytes| *blake3::keyed_hash(&key, bytes).as_bytes()
}

/// Where the record key stands in a device key file.
const RECORD_KEY: std::ops::Range<usize> = 160..192;

/// With the device's key somebody writes what only members may, or no longer the device: members believe none of it.
pub fn forgeries(seed: u64) -> Result<(), String> {
    let world = World::new(seed)?;
    let mut tree = SourceTree::new(seed, crate::tree::Shape::SMALL);
    let by_member = lab::take(&world.member, &tree, None).map_err(|error| chain(&error))?;
    tree.change();
    let (by_device, _) = world.take(&tree)?;
    let key: [u8; 32] = world.file[RECORD_KEY].try_into().map_err(|_| "a key of another length")?;
    let mine = world.key().id();
    let other = world.member.add_device("pc8").map_err(|error| chain(&error))?.id();
    let is_listed = |what: &str| -> Result<(), String> {
        let list = world.reopen().and_then(|vault| vault.snapshots()).map_err(|error| chain(&error))?;
        let ids: Vec<_> = list.list.iter().map(|info| (info.id, info.device)).collect();
        let expected = [(by_member.id, None), (by_device.id, Some(mine))];
        match ids == expected && list.damaged.len() == usize::from(!what.is_empty()) {
            true => Ok(()),
            false => Err(format!("{what}: listed are {ids:?}, and refused {:?}", list.damaged)),
        }
    };
    is_listed("")?;
    let last = world.files.bytes("records/0000000000000002").ok_or("no record")?;
    let own = Record::parse(&last).map_err(|error| chain(&error))?.record;
    let next = Record { count: 3, previous: record::hash(&last), ..own.clone() };
    let named = |device: &[u8]| {
        // The device's id stands once in the payload, and nowhere else.
        let mut payload = own.payload.clone();
        let at = payload.windows(8).position(|window| *window == mine.0).expect("the record names its device");
        payload[at..at + 8].copy_from_slice(device);
        Record { payload, ..next.clone() }.encode(&mac(&key))
    };
    let mut change = next.encode(&mac(&key));
    change[6] = 4;
    let body = change.len() - 64;
    let tag = mac(&key)(&change[..body]);
    change[body..body + 32].copy_from_slice(&tag);
    let sum = record::hash(&change[..body + 32]);
    change[body + 32..].copy_from_slice(&sum);
    let member_record = world.files.bytes("records/0000000000000001").ok_or("no record")?;
    let as_member = Record::parse(&member_record).map_err(|error| chain(&error))?.record;
    let as_member = Record { count: 3, previous: record::hash(&last), ..as_member };
    let records = [
        ("a record in another device's name", named(&other.0)),
        ("a record in the name of none", named(&[0xee; 8])),
        ("a member's record", as_member.encode(&mac(&key))),
        ("a change record", change),
    ];
    for (what, bytes) in records {
        world.files.put("records/0000000000000003", bytes);
        is_listed(what)?;
    }
    // Its own is believed, until it is removed.
    world.files.put("records/0000000000000003", Vec::new());
    let _ = twinkeep_engine::files::Files::remove(&world.files, "records/0000000000000003");
    world.member.remove_device(&mine).map_err(|error| chain(&error))?;
    is_listed("")?;
    if !matches!(world.device(), Err(VaultError::DeviceRefused(_))) {
        return Err("a device that was removed still opens the vault".to_owned());
    }
    world.files.put("records/0000000000000003", next.encode(&mac(&key)));
    is_listed("a record of a device that was removed")?;
    forged_twins(&world, &key)
}

/// Config and keyring, written anew with the device's key.
fn forged_twins(world: &World, key: &[u8; 32]) -> Result<(), String> {
    for (name, kind) in [("config", RecordKind::Config), ("keyring", RecordKind::Keyring)] {
        let good = world.files.bytes(name).ok_or("a file is gone")?;
        let record = Record::parse(&good).map_err(|error| chain(&error))?.record;
        if record.kind != kind {
            return Err(format!("{name} holds a {:?}", record.kind));
        }
        let forged = Record { count: record.count + 1, ..record }.encode(&mac(key));
        for path in [name.to_owned(), format!("{name}.copy")] {
            world.files.put(&path, forged.clone());
        }
        if world.reopen().is_ok() {
            return Err(format!("a {name} is believed that a device wrote"));
        }
        for path in [name.to_owned(), format!("{name}.copy")] {
            world.files.put(&path, good.clone());
        }
        world.reopen().map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// Two processes add a way in at the same time: both are there afterwards.
pub fn two_change_keys(seed: u64) -> Result<(), String> {
    let world = World::new(seed)?;
    let (slow, quick) = (world.reopen().map_err(|e| chain(&e))?, world.reopen().map_err(|e| chain(&e))?);
    let (begun, wait) = std::sync::mpsc::channel();
    let add = |vault: &Vault, key: u8, between: &dyn Fn()| {
        vault.change_keyring(|keyring, _, secret| {
            between();
            keyring.add_machine_slot(secret, &[key; 32], "more", vault.env().clock.now(), &*vault.env().entropy)
        })
    };
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || {
            add(&slow, 1, &|| {
                let _ = begun.send(());
                std::thread::sleep(std::time::Duration::from_millis(100));
            })
        });
        let _ = wait.recv();
        add(&quick, 2, &|| {}).map_err(|error| chain(&error))?;
        waits.join().map_err(|_| "a panic")?.map_err(|error| chain(&error))
    })?;
    for key in [1, 2] {
        Vault::open(world.place(), lab::env(seed), Unlock::MachineKey(&[key; 32]), "test")
            .map_err(|error| format!("key {key}: {}", chain(&error)))?;
    }
    Ok(())
}

/// The keys of a vault whose secret is known, as a check on those who look for it.
pub fn planted_secret(vault: &Vault) -> Result<[u8; 32], String> {
    // The slot's key is what every vault here is made with.
    let keyring = vault.keyring().map_err(|error| chain(&error))?;
    let keys: &VaultKeys = vault.keys();
    match keyring.slots().is_empty() || keys.secret(0).is_none() {
        true => Err("a vault without a way in".to_owned()),
        false => Ok(lab::KEY),
    }
}
