//! Making and opening vaults.

use super::config::{CONFIG_PATH, Config, ConfigFile, FORMAT_VERSION};
use super::device::DeviceKey;
use super::keyring::{KEYRING_PATH, Keyring, LockedKeyring, PasswordCost, SlotKind, Unlocked};
use super::keys::Access;
use super::twin::{self, Loaded, TwinError};
use super::{Result, Vault, VaultError, configure};
use crate::chunk::CutParams;
use crate::crypto::{Suite, VaultKeys, VaultSecret};
use crate::env::{Entropy, Env};
use crate::files::Files;
use crate::files::os::OsFiles;
use crate::frame::DataKeys;
use crate::id::VaultId;
use crate::kv::KvHome;
use crate::kv::lmdb::LmdbHome;
use crate::store::{Fault, LocalStore, Opened, Store};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// Where a vault is, or is to be: its files and its index.
#[derive(Clone)]
pub struct Place {
    /// Files.
    pub files: Arc<dyn Files>,
    /// Index.
    pub kv_home: Arc<dyn KvHome>,
}

impl Place {
    /// A folder on this machine.
    pub fn folder(path: &Path) -> Self {
        Self { files: Arc::new(OsFiles::new(path.to_path_buf())), kv_home: Arc::new(LmdbHome::new(path.to_path_buf())) }
    }
}

/// How a new vault is made.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Whether frames are sealed.
    pub encrypted: bool,
    /// zstd level, 1 to 19.
    pub level: i32,
    /// How content is cut.
    pub cut: CutParams,
    /// No snapshot received within so many days may be forgotten; 0 for no such rule.
    pub retention_days_min: u32,
    /// For so many days what was forgotten can be brought back.
    pub undelete_days: u32,
}

/// Undelete window of new vaults, days: a mistake is mostly noticed within a week.
pub const UNDELETE_DAYS_DEFAULT: u32 = 7;

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            encrypted: true,
            level: crate::limits::COMPRESSION_LEVEL_DEFAULT,
            cut: CutParams::default(),
            retention_days_min: 0,
            undelete_days: UNDELETE_DAYS_DEFAULT,
        }
    }
}

/// A way to open the vault, beside the recovery words.
pub enum NewSlot<'a> {
    /// A password.
    Password {
        /// The password.
        password: &'a str,
        /// What people call the slot.
        label: &'a str,
    },
    /// A key that lies in a file of this machine.
    MachineKey {
        /// 32 random bytes.
        key: &'a [u8; 32],
        /// What people call the slot.
        label: &'a str,
    },
}

/// What a vault is opened with.
pub enum Unlock<'a> {
    /// Nothing: a vault without encryption.
    Nothing,
    /// A password.
    Password(&'a str),
    /// A machine key.
    MachineKey(&'a [u8; 32]),
    /// The secret, which the recovery words are.
    Secret(&'a VaultSecret),
    /// A device key: the vault can be added to, and nothing in it opened.
    Device(&'a DeviceKey),
}

/// What can be seen of a vault without its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its name.
    pub vault: VaultId,
    /// Format version.
    pub version: u32,
    /// Whether it takes a key to open.
    pub encrypted: bool,
    /// Whether one of its slots takes a password.
    pub has_password: bool,
    /// Whether one of its slots takes a machine key.
    pub has_machine_key: bool,
}

/// What a vault rests in, opened without any key: for work that needs only what stands in the clear.
pub struct Keyless {
    /// The store.
    pub store: LocalStore,
    /// What the folder shows, whoever wrote it.
    pub config: Config,
    /// What is wrong with a copy of the config; the other one was read then.
    pub damaged: Vec<String>,
    /// What a rebuild of the index found, if there was one.
    pub rebuilt: Option<Vec<Fault>>,
}

/// Config and keyring of a vault as they are stored: what a member needs besides a store, for a vault that rests on
/// another machine.
#[derive(Clone, Debug)]
pub struct HeadBytes {
    /// The config record.
    pub config: Vec<u8>,
    /// The keyring record.
    pub keyring: Vec<u8>,
}

impl HeadBytes {
    fn config(&self) -> Result<Loaded<ConfigFile>> {
        let invalid = |source| VaultError::Config(TwinError::Invalid { path: CONFIG_PATH.to_owned(), source });
        let (count, value) = ConfigFile::parse(&self.config).map_err(invalid)?;
        Ok(Loaded { value, count, damaged: Vec::new() })
    }

    pub(super) fn keyring(&self) -> Result<Loaded<LockedKeyring>> {
        let invalid = |source| VaultError::KeyringFile(TwinError::Invalid { path: KEYRING_PATH.to_owned(), source });
        let (count, value) = LockedKeyring::parse(&self.keyring).map_err(invalid)?;
        Ok(Loaded { value, count, damaged: Vec::new() })
    }

    /// What the config says, true or not.
    pub fn unverified(&self) -> Result<Config> {
        Ok(self.config()?.value.unverified().clone())
    }

    /// The vault they say they are of.
    ///
    /// # Errors
    /// They are not whole, or of two vaults.
    pub fn vault(&self) -> Result<VaultId> {
        let vault = self.config()?.value.unverified().vault;
        match self.keyring()?.value.vault() == vault {
            true => Ok(vault),
            false => Err(VaultError::Unlock("the keyring belongs to another vault")),
        }
    }
}

/// A vault about to be made: whoever has this may make it anywhere, and has no key to it but `secret`.
pub struct Prepared {
    /// Its name.
    pub vault: VaultId,
    /// What is to be stored.
    pub head: HeadBytes,
    /// What the recovery words say.
    pub secret: VaultSecret,
    config: Config,
    keys: VaultKeys,
}

impl Keyless {
    /// What is worth telling about the opening.
    pub fn notes(&self) -> Vec<String> {
        self.damaged.iter().cloned().chain(self.rebuilt.iter().flat_map(|faults| rebuild_notes(faults))).collect()
    }
}

impl Vault {
    /// Names that stand in the folder of a vault as soon as it is made, or while it is.
    pub const MADE: [&str; 14] = [
        "config",
        "config.copy",
        "config.tmp",
        "config.copy.tmp",
        "keyring",
        "keyring.copy",
        "keyring.tmp",
        "keyring.copy.tmp",
        "index",
        "index.new",
        "packs",
        "records",
        "sessions",
        "locks",
    ];

    /// Those of them in which there is something as soon as it holds anything.
    pub const FILLED: [&str; 2] = ["packs", "records"];

    /// Whether there is a vault, or enough of one that nothing else may be put there.
    pub fn exists(place: &Place) -> Result<bool> {
        for path in [CONFIG_PATH, &format!("{CONFIG_PATH}{}", twin::COPY_SUFFIX)] {
            match place.files.open(path) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Config and keyring as they are stored, the better one of each pair: for whoever keeps a vault for its members.
    pub fn head_bytes(place: &Place) -> Result<HeadBytes> {
        let keep = |bytes: &[u8], count: u64| (count, bytes.to_vec());
        let config = twin::load(&*place.files, CONFIG_PATH, |bytes| {
            ConfigFile::parse(bytes).map(|(count, _)| keep(bytes, count))
        });
        let keyring = twin::load(&*place.files, KEYRING_PATH, |bytes| {
            LockedKeyring::parse(bytes).map(|(count, _)| keep(bytes, count))
        });
        let config = config.map_err(|error| match error {
            TwinError::Missing { .. } => VaultError::NoVault,
            error => VaultError::Config(error),
        })?;
        Ok(HeadBytes { config: config.value, keyring: keyring.map_err(VaultError::KeyringFile)?.value })
    }

    /// Opens a vault that rests in a store of any kind. What changes config or keyring cannot be done with it.
    pub fn open_through(store: Arc<dyn Store>, head: HeadBytes, env: Env, unlock: Unlock<'_>) -> Result<Self> {
        if store.vault() != head.vault()? {
            return Err(VaultError::Unlock("the config belongs to another vault"));
        }
        let config = head.config()?.value;
        let (config, keys, access) = match unlock {
            Unlock::Device(key) => {
                let keyring = head.keyring().map(|keyring| keyring.value);
                let config = device_config(key, config.unverified(), keyring.as_ref())?;
                (config, key.keys(), Access::Device)
            }
            unlock => {
                let unlocked = unlock_keys(head.keyring(), &config, &unlock)?;
                (config.verify(&unlocked.keys)?, unlocked.keys, unlocked.access)
            }
        };
        let data_keys = Arc::new(DataKeys::new(Arc::new(keys)));
        Ok(Self { config, store, local: None, head: Some(head), data_keys, access, env, notes: Vec::new() })
    }

    /// What can be seen without keys.
    pub fn head(place: &Place) -> Result<Head> {
        let config = load_config(place)?;
        let keyring = load_keyring(place).ok();
        let has = |wanted: fn(&SlotKind) -> bool| {
            keyring.as_ref().is_some_and(|loaded| loaded.value.slots().iter().any(|slot| wanted(&slot.kind)))
        };
        let config = config.value.unverified();
        Ok(Head {
            vault: config.vault,
            version: config.format_version,
            encrypted: config.is_encrypted(),
            has_password: has(|kind| matches!(kind, SlotKind::Password { .. })),
            has_machine_key: has(|kind| matches!(kind, SlotKind::MachineKey)),
        })
    }

    /// Makes a vault in an empty place. The secret returned is what the recovery words say.
    pub fn create(
        place: Place,
        env: Env,
        options: &CreateOptions,
        slots: &[NewSlot<'_>],
    ) -> Result<(Self, VaultSecret)> {
        let prepared = Self::prepare(&env, options, slots)?;
        Self::place(&place, &prepared.head)?;
        let access = match options.encrypted {
            true => Access::Member { secret: prepared.secret.clone(), slot: None, has_keyring: true },
            false => Access::Open,
        };
        let keys = (prepared.keys, access);
        let (vault, _) = Self::assemble(place, env, prepared.config, keys, "creator", LocalStore::open)?;
        Ok((vault, prepared.secret))
    }

    /// Draws the keys of a new vault and makes what is to be stored of it; nothing is stored.
    pub fn prepare(env: &Env, options: &CreateOptions, slots: &[NewSlot<'_>]) -> Result<Prepared> {
        let mut id = [0; 16];
        env.entropy.fill(&mut id);
        let vault = VaultId(id);
        let now = env.clock.now();
        let secret = VaultSecret::random(&*env.entropy);
        let keys = match options.encrypted {
            true => VaultKeys::derive(&secret, vault),
            false => VaultKeys::unencrypted(vault),
        };
        let mut keyring = Keyring::new(&keys, now);
        for slot in slots {
            add_slot(&mut keyring, &secret, slot, now, &*env.entropy)?;
        }
        let config = Config {
            format_version: FORMAT_VERSION,
            vault,
            created: now,
            cut: options.cut,
            suite: if options.encrypted { Suite::fastest() } else { Suite::Plain },
            compression_level: options.level,
            retention_days_min: options.retention_days_min,
            undelete_days: options.undelete_days,
        };
        let head = HeadBytes { config: config.encode(1, now, &keys), keyring: keyring.encode(1, now, &keys) };
        Ok(Prepared { vault, head, secret, config, keys })
    }

    /// Makes a vault in an empty place of what was prepared, wherever that was. Needs no key.
    pub fn place(place: &Place, head: &HeadBytes) -> Result<VaultId> {
        let vault = head.vault()?;
        if Self::exists(place)? {
            return Err(VaultError::Exists);
        }
        place.files.create_dir("")?;
        if crate::zoo::planted("config-first") {
            twin::store(&*place.files, CONFIG_PATH, &head.config)?;
        }
        LocalStore::create(&*place.files, &*place.kv_home, vault)?;
        twin::store(&*place.files, KEYRING_PATH, &head.keyring)?;
        // The config last: what has one is a vault, and everything it needs is there.
        twin::store(&*place.files, CONFIG_PATH, &head.config)?;
        Ok(vault)
    }

    /// Opens a vault. `owner` says who we are to others who find something locked, e.g. `pid 4711`.
    pub fn open(place: Place, env: Env, unlock: Unlock<'_>, owner: &str) -> Result<Self> {
        let (mut vault, rebuilt) = Self::open_with(place, env, unlock, owner, LocalStore::open)?;
        vault.notes.extend(rebuilt.iter().flat_map(|faults| rebuild_notes(faults)));
        Ok(vault)
    }

    /// Opens a vault with an index built anew from the packs, whatever state the old one is in; gives also what is
    /// bad in the packs.
    pub fn open_rebuilt(place: Place, env: Env, unlock: Unlock<'_>, owner: &str) -> Result<(Self, Vec<Fault>)> {
        let (vault, rebuilt) = Self::open_with(place, env, unlock, owner, LocalStore::reopen_rebuilt)?;
        Ok((vault, rebuilt.unwrap_or_default()))
    }

    /// A store with an index built anew in memory; nothing in the vault changes.
    pub(crate) fn rebuild_aside(place: Place, env: Env, owner: &str) -> Result<(LocalStore, Vec<Fault>)> {
        let vault = load_config(&place)?.value.unverified().vault;
        let Opened { store, rebuilt } =
            LocalStore::open_aside(place.files, place.kv_home, env, vault, owner.to_owned())?;
        Ok((store, rebuilt.unwrap_or_default()))
    }

    /// The store as it is, without keys; `None` where its index cannot be used.
    pub(crate) fn peek_store(place: Place, env: Env, owner: &str) -> Result<Option<LocalStore>> {
        let vault = load_config(&place)?.value.unverified().vault;
        Ok(LocalStore::peek(place.files, place.kv_home, env, vault, owner.to_owned())?)
    }

    /// Opens config and keyring, where one of two copies was bad both are written again, and then the store as `open`
    /// says; gives also what a rebuild of its index found.
    fn open_with(
        place: Place,
        env: Env,
        unlock: Unlock<'_>,
        owner: &str,
        open: OpenStore,
    ) -> Result<(Self, Option<Vec<Fault>>)> {
        let loaded = load_config(&place)?;
        if let Unlock::Device(key) = unlock {
            return Self::open_for_device(place, env, key, loaded, owner, open);
        }
        let mut notes = loaded.damaged;
        let is_config_whole = notes.is_empty();
        let unlocked = unlock_keys(load_keyring(&place), &loaded.value, &unlock)?;
        let keys = unlocked.keys;
        let config = loaded.value.verify(&keys)?;
        // Of what is kept twice one copy was bad: both are written again. A read-only vault stays as it is.
        let now = env.clock.now();
        if !is_config_whole {
            configure::mend(&place, owner, &keys, now);
        }
        notes.extend(unlocked.notes);
        let (mut vault, rebuilt) = Self::assemble(place, env, config, (keys, unlocked.access), owner, open)?;
        vault.notes = notes;
        if unlocked.heals_keyring {
            vault.heal_keyring();
        }
        Ok((vault, rebuilt))
    }

    /// Opens it to be added to. Neither config nor keyring can be verified, so nothing that is written depends on them.
    fn open_for_device(
        place: Place,
        env: Env,
        key: &DeviceKey,
        loaded: Loaded<ConfigFile>,
        owner: &str,
        open: OpenStore,
    ) -> Result<(Self, Option<Vec<Fault>>)> {
        let keyring = load_keyring(&place);
        let config = device_config(key, loaded.value.unverified(), keyring.as_ref().map(|keyring| &keyring.value))?;
        let mut notes = loaded.damaged;
        notes.extend(keyring.err().map(|error| error.to_string()));
        let (mut vault, rebuilt) = Self::assemble(place, env, config, (key.keys(), Access::Device), owner, open)?;
        vault.notes = notes;
        Ok((vault, rebuilt))
    }

    /// Opens what a vault rests in without any key: its id is what its config says, believed as far as its packs agree.
    /// `owner` is as in [`Self::open`].
    pub fn open_store(place: Place, env: Env, owner: &str) -> Result<Keyless> {
        let Loaded { value, damaged, .. } = load_config(&place)?;
        let config = value.unverified().clone();
        let Opened { store, rebuilt } =
            LocalStore::open(place.files, place.kv_home, env, config.vault, owner.to_owned())?;
        Ok(Keyless { store, config, damaged, rebuilt })
    }

    fn assemble(
        place: Place,
        env: Env,
        config: Config,
        (keys, access): (VaultKeys, Access),
        owner: &str,
        open: OpenStore,
    ) -> Result<(Self, Option<Vec<Fault>>)> {
        let Opened { store, rebuilt } = open(place.files, place.kv_home, env.clone(), config.vault, owner.to_owned())?;
        let data_keys = Arc::new(DataKeys::new(Arc::new(keys)));
        let (notes, local) = (Vec::new(), Some(store.clone()));
        Ok((Self { config, store: Arc::new(store), local, head: None, data_keys, access, env, notes }, rebuilt))
    }
}

/// How a store is opened: as it is, or with an index built anew.
type OpenStore = fn(Arc<dyn Files>, Arc<dyn KvHome>, Env, VaultId, String) -> crate::store::Result<Opened>;

fn rebuild_notes(faults: &[Fault]) -> impl Iterator<Item = String> {
    let first = "the index was missing or damaged and was built again from the packs".to_owned();
    let faults = faults.iter().map(|fault| format!("{}: {}", fault.file, fault.problem));
    std::iter::once(first).chain(faults)
}

fn add_slot(
    keyring: &mut Keyring,
    secret: &VaultSecret,
    slot: &NewSlot<'_>,
    now: crate::env::Time,
    entropy: &dyn Entropy,
) -> Result<()> {
    match slot {
        NewSlot::Password { password, label } => {
            keyring.add_password_slot(secret, password, PasswordCost::default(), label, now, entropy)?;
        }
        NewSlot::MachineKey { key, label } => {
            keyring.add_machine_slot(secret, key, label, now, entropy)?;
        }
    }
    Ok(())
}

fn load_config(place: &Place) -> Result<Loaded<ConfigFile>> {
    match twin::load(&*place.files, CONFIG_PATH, ConfigFile::parse) {
        Ok(loaded) => Ok(loaded),
        Err(TwinError::Missing { .. }) => Err(VaultError::NoVault),
        Err(error) => Err(VaultError::Config(error)),
    }
}

fn load_keyring(place: &Place) -> Result<Loaded<LockedKeyring>> {
    super::keys::load_keyring(&*place.files)
}

/// The config as a device may use it.
fn device_config<E>(
    key: &DeviceKey,
    unverified: &Config,
    keyring: std::result::Result<&LockedKeyring, E>,
) -> Result<Config> {
    if unverified.vault != key.vault() {
        return Err(VaultError::Unlock("the device key is of another vault"));
    }
    if !unverified.is_encrypted() {
        return Err(VaultError::Unlock("a device key was given, but this vault is not encrypted"));
    }
    // Only to spare a device that was removed from writing what nobody will believe.
    if let Ok(keyring) = keyring {
        match keyring.device(&key.id()) {
            Some(device) if device.refused_from.is_none() => {}
            _ => return Err(VaultError::DeviceRefused(key.id())),
        }
    }
    Ok(key.config(unverified))
}

/// All keys, and what the keyring needs.
struct UnlockedKeys {
    keys: VaultKeys,
    access: Access,
    notes: Vec<String>,
    /// One copy of the keyring was bad.
    heals_keyring: bool,
}

/// Opens the keyring. The secret alone opens a vault whose keyring is lost, as far as its key pairs were never rotated.
fn unlock_keys(
    loaded: Result<Loaded<LockedKeyring>>,
    config: &ConfigFile,
    unlock: &Unlock<'_>,
) -> Result<UnlockedKeys> {
    let vault = config.unverified().vault;
    if let (Unlock::Secret(secret), Err(error)) = (unlock, &loaded) {
        let notes = vec![format!("{error}: opened with the recovery words")];
        let access = Access::Member { secret: (*secret).clone(), slot: None, has_keyring: false };
        return Ok(UnlockedKeys { keys: VaultKeys::derive(secret, vault), access, notes, heals_keyring: false });
    }
    let Loaded { value: keyring, damaged: notes, .. } = loaded?;
    if keyring.vault() != vault {
        return Err(VaultError::Unlock("the keyring belongs to another vault"));
    }
    let encrypted = config.unverified().is_encrypted();
    let Unlocked { keys, secret, slot, .. } = match (unlock, encrypted) {
        (Unlock::Nothing, false) => {
            return Ok(UnlockedKeys {
                keys: keyring.open_unencrypted()?,
                access: Access::Open,
                notes,
                heals_keyring: false,
            });
        }
        // Somebody may have put an unencrypted vault in the place of ours: what would be backed up lies open then.
        (_, false) => return Err(VaultError::Unlock("a key was given, but this vault is not encrypted")),
        (Unlock::Nothing, true) => return Err(VaultError::Unlock("the vault is encrypted and no key was given")),
        (Unlock::Password(password), true) => keyring.unlock_with_password(password)?,
        (Unlock::MachineKey(key), true) => keyring.unlock_with_machine_key(key)?,
        (Unlock::Secret(secret), true) => keyring.unlock_with_secret((*secret).clone())?,
        (Unlock::Device(_), true) => return Err(VaultError::WriteOnly),
    };
    let heals_keyring = !notes.is_empty();
    let access = Access::Member { secret, slot, has_keyring: true };
    Ok(UnlockedKeys { keys, access, notes, heals_keyring })
}
