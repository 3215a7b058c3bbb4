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
use crate::store::{Fault, LocalStore, Opened};
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

impl Keyless {
    /// What is worth telling about the opening.
    pub fn notes(&self) -> Vec<String> {
        self.damaged.iter().cloned().chain(self.rebuilt.iter().flat_map(|faults| rebuild_notes(faults))).collect()
    }
}

impl Vault {
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
        if Self::exists(&place)? {
            return Err(VaultError::Exists);
        }
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
        place.files.create_dir("")?;
        if crate::zoo::planted("config-first") {
            twin::store(&*place.files, CONFIG_PATH, &config.encode(1, now, &keys))?;
        }
        LocalStore::create(&*place.files, &*place.kv_home, vault)?;
        twin::store(&*place.files, KEYRING_PATH, &keyring.encode(1, now, &keys))?;
        // The config last: what has one is a vault, and everything it needs is there.
        twin::store(&*place.files, CONFIG_PATH, &config.encode(1, now, &keys))?;
        let access = match options.encrypted {
            true => Access::Member { secret: secret.clone(), slot: None, has_keyring: true },
            false => Access::Open,
        };
        let (vault, _) = Self::assemble(place, env, config, (keys, access), "creator", LocalStore::open)?;
        Ok((vault, secret))
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
        let unlocked = unlock_keys(&place, &loaded.value, &unlock)?;
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
        let unverified = loaded.value.unverified();
        if unverified.vault != key.vault() {
            return Err(VaultError::Unlock("the device key is of another vault"));
        }
        if !unverified.is_encrypted() {
            return Err(VaultError::Unlock("a device key was given, but this vault is not encrypted"));
        }
        let mut notes = loaded.damaged;
        // Only to spare a device that was removed from writing what nobody will believe.
        match load_keyring(&place) {
            Ok(keyring) => match keyring.value.device(&key.id()) {
                Some(device) if device.refused_from.is_none() => {}
                _ => return Err(VaultError::DeviceRefused(key.id())),
            },
            Err(error) => notes.push(error.to_string()),
        }
        let config = key.config(unverified);
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
        let (notes, local) = (Vec::new(), store.clone());
        Ok((Self { config, store: Arc::new(store), local, data_keys, access, env, notes }, rebuilt))
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

/// All keys, and what the keyring needs.
struct UnlockedKeys {
    keys: VaultKeys,
    access: Access,
    notes: Vec<String>,
    /// One copy of the keyring was bad.
    heals_keyring: bool,
}

/// Opens the keyring. The secret alone opens a vault whose keyring is lost, as far as its key pairs were never rotated.
fn unlock_keys(place: &Place, config: &ConfigFile, unlock: &Unlock<'_>) -> Result<UnlockedKeys> {
    let vault = config.unverified().vault;
    let loaded = load_keyring(place);
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
