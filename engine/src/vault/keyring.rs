//! A vault's keyring: ways to its secret, the key pairs that data keys are wrapped to, and the machines that may only
//! write. Stored twice.
//!
//! A file read is a [`LockedKeyring`]: undamaged, but anybody's. Unlocking it with a password, a machine key or the
//! recovery words checks three things: that the secret is this vault's (a value derived from it stands in the file),
//! that a holder of it wrote the file (its MAC), and that each key pair's halves belong together.
//!
//! A slot seals the secret with AES-256-GCM under the slot's key (Argon2id of the password, or the machine key) as
//! [`seal`](crate::crypto::seal) does, and its associated data is a label, the vault, and all that tells how to open
//! the slot. An unencrypted vault has no slots; its secret follows from its id.

mod codec;
mod devices;

pub use devices::{DEVICES_MAX, Device};

use std::fmt;

use zeroize::Zeroizing;

use crate::crypto::{
    DataKey, PublicKey, SEALED_KEY_LEN, SecretKey, VaultKeys, VaultSecret, WordsError, open_key, seal_key,
};
use crate::env::{Entropy, Time};
use crate::id::{DeviceId, VaultId};
use crate::record::{ParsedRecord, Record, RecordError, RecordKind};

/// The keyring's name in the vault's folder.
pub const KEYRING_PATH: &str = "keyring";

/// Most slots: an unlock tries each password slot, a second apiece at worst.
pub const SLOTS_MAX: usize = 32;

/// Most generations of key pairs: one a month for decades.
pub const PAIRS_MAX: usize = 1024;

/// Longest label of a slot, bytes.
pub const LABEL_LEN_MAX: usize = 256;

/// Longest password, bytes.
pub const PASSWORD_LEN_MAX: usize = 4096;

const SLOT_LABEL: &[u8] = b"twinkeep slot v1";
const PAIR_LABEL: &[u8] = b"twinkeep key pair v1";

/// A keyring cannot be read, opened or extended.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file is damaged, of a later version, or not this vault's.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The vault has no slot of the kind that was tried.
    #[error("the vault has no {kind} slot")]
    NoSlot {
        /// `password` or `machine key`.
        kind: &'static str,
    },
    /// No slot opens with it.
    #[error("the {kind} opens none of the vault's {tried} {kind} slots")]
    Wrong {
        /// `password` or `machine key`.
        kind: &'static str,
        /// How many slots were tried.
        tried: usize,
    },
    /// A valid secret, but of another vault.
    #[error("the secret is not of vault {vault}")]
    OtherVault {
        /// The vault to be opened.
        vault: VaultId,
    },
    /// The recovery words are not a secret.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// A key pair does not open, or its halves do not belong together.
    #[error("key pair of generation {generation} does not open")]
    Pair {
        /// Which generation.
        generation: u16,
    },
    /// One more is not allowed.
    #[error("{what} is {found}, at most {max} allowed")]
    Bound {
        /// `number of slots`, `number of key pairs`, `length of label`, `length of password`, …
        what: &'static str,
        /// Largest value.
        max: usize,
        /// Value asked for.
        found: usize,
    },
    /// A password of no bytes.
    #[error("the password is empty")]
    EmptyPassword,
    /// Argon2 cannot run with this cost.
    #[error("password cost {cost}: {fault}")]
    Cost {
        /// Memory, passes and lanes.
        cost: PasswordCost,
        /// What is wrong.
        fault: &'static str,
    },
}

/// What guessing a password costs: Argon2id, version 0x13.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PasswordCost {
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for PasswordCost {
    /// 64 MiB, 3 passes and 4 lanes, as RFC 9106 recommends where memory is scarce. 0.1 s of a core of 2025; the lanes
    /// of a password run on as many cores as there are.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl fmt::Display for PasswordCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB, {} passes, {} lanes", self.memory_kib, self.passes, self.lanes)
    }
}

impl PasswordCost {
    /// Fails unless every value is within its bounds: at most 1 GiB, 16 passes, 4 lanes, so that a forged keyring
    /// cannot exhaust who tries to open it.
    pub fn check(self) -> Result<Self, KeyringError> {
        let fault = if self.memory_kib > 1 << 20 {
            "at most 1 GiB"
        } else if !(1..=16).contains(&self.passes) {
            "1 to 16 passes"
        } else if !(1..=4).contains(&self.lanes) {
            "1 to 4 lanes"
        } else if self.memory_kib < 8 * self.lanes {
            "at least 8 KiB a lane"
        } else {
            return Ok(self);
        };
        Err(KeyringError::Cost { cost: self, fault })
    }

    fn key(self, password: &str, salt: &[u8; 16]) -> Result<DataKey, KeyringError> {
        Ok(DataKey::from_bytes(&*self.stretch(password, salt)?))
    }

    /// `N` bytes, at least 4, that follow from the password at this cost: one run of Argon2id, whatever `N` is.
    pub fn stretch<const N: usize>(self, password: &str, salt: &[u8; 16]) -> Result<Zeroizing<[u8; N]>, KeyringError> {
        self.check()?;
        let bad = |_| KeyringError::Cost { cost: self, fault: "argon2 refuses it" };
        let params = argon2::Params::new(self.memory_kib, self.passes, self.lanes, Some(N)).map_err(bad)?;
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Zeroizing::new([0; N]);
        // A pool for this alone: the one that all of a process share goes on for good, and panics where it cannot begin.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(self.lanes as usize);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|_| KeyringError::Cost { cost: self, fault: "no thread can be started to run it" })?;
        pool.install(|| argon2.hash_password_into(password.as_bytes(), salt, &mut *key)).map_err(bad)?;
        Ok(key)
    }
}

/// How a slot is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// With a password.
    Password {
        /// What trying one costs.
        cost: PasswordCost,
        /// Argon2's salt.
        salt: [u8; 16],
    },
    /// With 32 random bytes kept in a file.
    MachineKey,
}

/// The vault's secret, sealed under one way to open it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Names the slot.
    pub id: [u8; 8],
    /// How it is opened.
    pub kind: SlotKind,
    /// What people call it; may be empty.
    pub label: String,
    /// When it was added.
    pub created: Time,
    sealed: [u8; SEALED_KEY_LEN],
}

/// One generation of the key pair that data keys are wrapped to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// When it was drawn.
    pub created: Time,
    /// What data keys are wrapped to.
    pub public: PublicKey,
    /// Under the keyring key; `None` for generation 0, which follows from the secret.
    sealed: Option<[u8; SEALED_KEY_LEN]>,
}

/// A vault's slots, key pairs and devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keyring {
    vault: VaultId,
    check: [u8; 32],
    slots: Vec<Slot>,
    pairs: Vec<Pair>,
    devices: Vec<Device>,
}

/// A whole keyring file that may be anybody's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockedKeyring {
    keyring: Keyring,
    parsed: ParsedRecord,
}

/// An unlocked keyring.
#[derive(Clone, Debug)]
pub struct Unlocked {
    /// Slots and pairs, shown to be written by a member.
    pub keyring: Keyring,
    /// All keys, with every generation.
    pub keys: VaultKeys,
    /// For new slots and for the recovery words.
    pub secret: VaultSecret,
    /// The slot that opened; none when the secret itself was given.
    pub slot: Option<[u8; 8]>,
}

impl Keyring {
    /// A keyring without slots, with generation 0 only; for an unencrypted vault that is all.
    pub fn new(keys: &VaultKeys, created: Time) -> Self {
        let (_, public) = keys.newest();
        Self {
            vault: keys.vault(),
            check: *keys.check_value().expect("a member makes the keyring"),
            slots: Vec::new(),
            pairs: vec![Pair { created, public: *public, sealed: None }],
            devices: Vec::new(),
        }
    }

    /// Ways to open the vault, oldest first.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Key pairs by generation.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Adds a way to open the vault with a password, which is taken byte by byte as given. Returns the slot's id.
    pub fn add_password_slot(
        &mut self,
        secret: &VaultSecret,
        password: &str,
        cost: PasswordCost,
        label: &str,
        created: Time,
        entropy: &dyn Entropy,
    ) -> Result<[u8; 8], KeyringError> {
        if password.is_empty() {
            return Err(KeyringError::EmptyPassword);
        }
        bound("length of password", PASSWORD_LEN_MAX, password.len())?;
        let mut salt = [0; 16];
        entropy.fill(&mut salt);
        let key = cost.key(password, &salt)?;
        self.add_slot(secret, &key, SlotKind::Password { cost, salt }, label, created, entropy)
    }

    /// Adds a way to open the vault with a machine key: 32 random bytes. Returns the slot's id.
    pub fn add_machine_slot(
        &mut self,
        secret: &VaultSecret,
        machine_key: &[u8; 32],
        label: &str,
        created: Time,
        entropy: &dyn Entropy,
    ) -> Result<[u8; 8], KeyringError> {
        self.add_slot(secret, &DataKey::from_bytes(machine_key), SlotKind::MachineKey, label, created, entropy)
    }

    /// Takes a slot away; false if there is none with this id. Who opened it before may know the secret.
    pub fn remove_slot(&mut self, id: &[u8; 8]) -> bool {
        let before = self.slots.len();
        self.slots.retain(|slot| slot.id != *id);
        self.slots.len() < before
    }

    /// Draws the next generation's key pair for new sessions, and adds it to `keys`. Returns its number.
    pub fn rotate(&mut self, keys: &mut VaultKeys, created: Time, entropy: &dyn Entropy) -> Result<u16, KeyringError> {
        bound("number of key pairs", PAIRS_MAX, self.pairs.len() + 1)?;
        let secret = SecretKey::random(entropy);
        let (public, generation) = (secret.public(), self.pairs.len() as u16);
        let header = pair_header(self.vault, generation, &public);
        let key = keys.keyring_key().ok_or(KeyringError::OtherVault { vault: self.vault })?;
        let sealed = seal_key(&DataKey::from_bytes(key), &header, secret.expose(), entropy);
        self.pairs.push(Pair { created, public, sealed: Some(sealed) });
        Ok(keys.add_pair(secret))
    }

    /// The keyring file, written the `count`-th time, at `now`.
    pub fn encode(&self, count: u64, now: Time, keys: &VaultKeys) -> Vec<u8> {
        let record = Record {
            kind: RecordKind::Keyring,
            vault: self.vault,
            count,
            received: now,
            previous: [0; 32],
            payload: codec::encode(self),
        };
        record.encode(&|bytes| keys.record_mac(bytes))
    }

    fn add_slot(
        &mut self,
        secret: &VaultSecret,
        key: &DataKey,
        kind: SlotKind,
        label: &str,
        created: Time,
        entropy: &dyn Entropy,
    ) -> Result<[u8; 8], KeyringError> {
        bound("number of slots", SLOTS_MAX, self.slots.len() + 1)?;
        bound("length of label", LABEL_LEN_MAX, label.len())?;
        if VaultKeys::derive(secret, self.vault).check_value() != Some(&self.check) {
            return Err(KeyringError::OtherVault { vault: self.vault });
        }
        let mut id = [0; 8];
        entropy.fill(&mut id);
        let sealed = seal_key(key, &slot_header(self.vault, &id, &kind), secret.expose(), entropy);
        self.slots.push(Slot { id, kind, label: label.to_owned(), created, sealed });
        Ok(id)
    }
}

impl LockedKeyring {
    /// Reads a keyring file; gives how often it had been written, too. Fits `twin::load`.
    pub fn parse(bytes: &[u8]) -> Result<(u64, Self), RecordError> {
        let parsed = Record::parse(bytes)?;
        parsed.record.expect(RecordKind::Keyring, parsed.record.vault)?;
        let keyring =
            codec::decode(&parsed.record).map_err(|what| RecordError::Payload { kind: RecordKind::Keyring, what })?;
        Ok((parsed.record.count, Self { keyring, parsed }))
    }

    /// The vault it says it is of.
    pub fn vault(&self) -> VaultId {
        self.keyring.vault
    }

    /// Ways to open it, as the file says.
    pub fn slots(&self) -> &[Slot] {
        &self.keyring.slots
    }

    /// Tries the password on each password slot.
    pub fn unlock_with_password(&self, password: &str) -> Result<Unlocked, KeyringError> {
        bound("length of password", PASSWORD_LEN_MAX, password.len())?;
        self.unlock_slots("password", &|kind| match kind {
            SlotKind::Password { cost, salt } => Some(cost.key(password, salt)),
            SlotKind::MachineKey => None,
        })
    }

    /// Tries the machine key on each machine key slot.
    pub fn unlock_with_machine_key(&self, machine_key: &[u8; 32]) -> Result<Unlocked, KeyringError> {
        self.unlock_slots("machine key", &|kind| match kind {
            SlotKind::Password { .. } => None,
            SlotKind::MachineKey => Some(Ok(DataKey::from_bytes(machine_key))),
        })
    }

    /// Opens it with the recovery words, which are the secret itself.
    pub fn unlock_with_words(&self, words: &str) -> Result<Unlocked, KeyringError> {
        self.unlock_with_secret(VaultSecret::from_words(words)?)
    }

    /// Opens it with the secret.
    pub fn unlock_with_secret(&self, secret: VaultSecret) -> Result<Unlocked, KeyringError> {
        let keys = self.open(VaultKeys::derive(&secret, self.keyring.vault))?;
        Ok(Unlocked { keyring: self.keyring.clone(), keys, secret, slot: None })
    }

    /// What it says of a device, true or not.
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.keyring.devices.iter().find(|device| device.id == *id)
    }

    /// The keys of a vault made without encryption; fails for any other.
    pub fn open_unencrypted(&self) -> Result<VaultKeys, KeyringError> {
        self.open(VaultKeys::unencrypted(self.keyring.vault))
    }

    fn unlock_slots(
        &self,
        kind: &'static str,
        key: &dyn Fn(&SlotKind) -> Option<Result<DataKey, KeyringError>>,
    ) -> Result<Unlocked, KeyringError> {
        let mut tried = 0;
        for slot in &self.keyring.slots {
            let Some(key) = key(&slot.kind) else { continue };
            tried += 1;
            let header = slot_header(self.keyring.vault, &slot.id, &slot.kind);
            if let Ok(secret) = open_key(&key?, &header, &slot.sealed) {
                let unlocked = self.unlock_with_secret(VaultSecret::from_bytes(&secret))?;
                return Ok(Unlocked { slot: Some(slot.id), ..unlocked });
            }
        }
        Err(if tried == 0 { KeyringError::NoSlot { kind } } else { KeyringError::Wrong { kind, tried } })
    }

    /// Checks the secret behind `keys`, the file's MAC and the pairs; gives the keys with every generation.
    fn open(&self, mut keys: VaultKeys) -> Result<VaultKeys, KeyringError> {
        let keyring = &self.keyring;
        if keys.check_value() != Some(&keyring.check) {
            return Err(KeyringError::OtherVault { vault: keyring.vault });
        }
        self.parsed.clone().verify_mac(&|bytes| keys.record_mac(bytes))?;
        for (generation, pair) in (0u16..).zip(&keyring.pairs) {
            let Some(sealed) = &pair.sealed else {
                if keys.newest() != (generation, &pair.public) {
                    return Err(KeyringError::Pair { generation });
                }
                continue;
            };
            let header = pair_header(keyring.vault, generation, &pair.public);
            let key = keys.keyring_key().ok_or(KeyringError::Pair { generation })?;
            let secret = open_key(&DataKey::from_bytes(key), &header, sealed)
                .map(|bytes| SecretKey::from_bytes(&bytes))
                .map_err(|_| KeyringError::Pair { generation })?;
            if secret.public() != pair.public {
                return Err(KeyringError::Pair { generation });
            }
            keys.add_pair(secret);
        }
        Ok(keys)
    }
}

fn bound(what: &'static str, max: usize, found: usize) -> Result<(), KeyringError> {
    if found > max { Err(KeyringError::Bound { what, max, found }) } else { Ok(()) }
}

/// Label, vault, slot id, kind, and for a password memory, passes, lanes (u32 each) and salt.
fn slot_header(vault: VaultId, id: &[u8; 8], kind: &SlotKind) -> Vec<u8> {
    let mut header = [SLOT_LABEL, &vault.0, id].concat();
    match kind {
        SlotKind::Password { cost, salt } => {
            header.push(1);
            for value in [cost.memory_kib, cost.passes, cost.lanes] {
                header.extend_from_slice(&value.to_le_bytes());
            }
            header.extend_from_slice(salt);
        }
        SlotKind::MachineKey => header.push(2),
    }
    header
}

/// Label, vault, generation (u16), public key.
fn pair_header(vault: VaultId, generation: u16, public: &PublicKey) -> Vec<u8> {
    [PAIR_LABEL, &vault.0, &generation.to_le_bytes(), &public.0].concat()
}

#[cfg(test)]
mod tests;
