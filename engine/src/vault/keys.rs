//! What a vault was opened with, and changes of its keyring.
//!
//! What always holds: a change begins from the newest keyring on disk, shown to be a member's, under a lock that keeps
//! others from changing it; each of the two files is replaced as a whole; so a crash or a failed write leaves the
//! keyring of before or the one of after.

use super::device::DeviceKey;
use super::keyring::{Device, KEYRING_PATH, Keyring, KeyringError, LockedKeyring, Unlocked};
use super::twin::{self, COPY_SUFFIX, Loaded};
use super::{Result, Vault, VaultError};
use crate::crypto::{VaultKeys, VaultSecret};
use crate::files::Files;
use crate::id::DeviceId;

/// What a vault was opened with.
pub(super) enum Access {
    /// Nothing: it is not encrypted.
    Open,
    /// One of the ways that give the secret.
    Member {
        /// For new slots, and for the recovery words.
        secret: VaultSecret,
        /// The slot that opened; none for the words.
        slot: Option<[u8; 8]>,
        /// False where both files of the keyring were lost.
        has_keyring: bool,
    },
    /// A device key.
    Device,
}

/// The newest keyring.
pub(super) fn load_keyring(files: &dyn Files) -> Result<Loaded<LockedKeyring>> {
    twin::load(files, KEYRING_PATH, LockedKeyring::parse).map_err(VaultError::KeyringFile)
}

impl Vault {
    /// The device that it was opened as; none for a member.
    pub fn device(&self) -> Option<DeviceId> {
        self.keys().device()
    }

    /// Fails where the vault was opened with a device key.
    pub fn require_member(&self) -> Result<()> {
        match self.access {
            Access::Device => Err(VaultError::WriteOnly),
            Access::Open | Access::Member { .. } => Ok(()),
        }
    }

    /// The slot that opened it; none for the recovery words.
    pub fn slot(&self) -> Option<[u8; 8]> {
        match self.access {
            Access::Member { slot, .. } => slot,
            Access::Open | Access::Device => None,
        }
    }

    /// The secret, which the recovery words are.
    pub fn secret(&self) -> Result<&VaultSecret> {
        match &self.access {
            Access::Member { secret, .. } => Ok(secret),
            Access::Open => Err(VaultError::Unlock("the vault is not encrypted: it has no keys")),
            Access::Device => Err(VaultError::WriteOnly),
        }
    }

    /// The keyring as it is now.
    pub fn keyring(&self) -> Result<Keyring> {
        Ok(self.unlock_again()?.1.keyring)
    }

    /// Devices as the keyring has them now; none where both of its files were lost when the vault was opened.
    pub(super) fn devices(&self) -> Result<Option<Vec<Device>>> {
        match self.access {
            // Anybody could make a device's key there, so there are no devices.
            Access::Open => Ok(Some(Vec::new())),
            Access::Member { has_keyring: false, .. } => Ok(None),
            Access::Member { .. } | Access::Device => Ok(Some(self.keyring()?.devices().to_vec())),
        }
    }

    /// The keyring as it is on disk now, how often it was written, and keys with every generation.
    fn unlock_again(&self) -> Result<(u64, Unlocked)> {
        let secret = self.secret()?;
        let loaded = match &self.head {
            Some(head) => head.keyring()?,
            None => load_keyring(&**self.local()?.files())?,
        };
        if loaded.value.vault() != self.id() {
            return Err(VaultError::Unlock("the keyring belongs to another vault"));
        }
        Ok((loaded.count, loaded.value.unlock_with_secret(secret.clone())?))
    }

    /// Changes the keyring: `change` gets the newest one, its keys, and the secret for new slots. Nothing is written
    /// if it fails. This vault as it is open here goes on with the keys it has.
    ///
    /// # Errors
    /// After an error of a file the change may hold or not; [`Self::keyring`] tells.
    pub fn change_keyring<T>(
        &self,
        change: impl FnOnce(&mut Keyring, &mut VaultKeys, &VaultSecret) -> std::result::Result<T, KeyringError>,
    ) -> Result<T> {
        self.secret()?;
        let _lock = match crate::zoo::planted("keyring-unlocked") {
            true => None,
            false => Some(self.local()?.lock("keyring")?),
        };
        let (count, mut unlocked) = self.unlock_again()?;
        let done = change(&mut unlocked.keyring, &mut unlocked.keys, &unlocked.secret)?;
        self.store_keyring(count, &unlocked)?;
        Ok(done)
    }

    /// Writes both files of the keyring anew, because one of them was bad; whatever it is by now, for others may have
    /// changed it since we looked. If that cannot be done, whoever opens the vault next tries.
    pub(super) fn heal_keyring(&self) {
        let Ok(_lock) = self.local().and_then(|local| local.try_lock("keyring")) else { return };
        if let Ok((count, unlocked)) = self.unlock_again() {
            let _ = self.store_keyring(count, &unlocked);
        }
    }

    /// Puts a keyring in the place of the one that was written `count` times; the lock is held.
    fn store_keyring(&self, count: u64, unlocked: &Unlocked) -> Result<()> {
        let next = match crate::zoo::planted("keyring-count-stays") {
            true => count,
            false => count.saturating_add(1),
        };
        let bytes = unlocked.keyring.encode(next, self.env().clock.now(), &unlocked.keys);
        let files = self.local()?.files();
        files.write_atomic(&format!("{KEYRING_PATH}{COPY_SUFFIX}"), &bytes)?;
        // From here on the change holds, because the newer of the two counts. Should the other one not be written
        // now, whoever opens the vault next does it.
        let _ = files.write_atomic(KEYRING_PATH, &bytes);
        Ok(())
    }

    /// Draws a new key pair for new sessions; returns its generation. Sessions that run go on with the old one.
    pub fn rotate(&self) -> Result<u16> {
        let env = self.env();
        self.change_keyring(|keyring, keys, _| keyring.rotate(keys, env.clock.now(), &*env.entropy))
    }

    /// Admits a machine that may write and not read; returns what to give it. Nobody can make that again later.
    pub fn add_device(&self, label: &str) -> Result<DeviceKey> {
        let now = self.env().clock.now();
        let entropy = &*self.env().entropy;
        let share = self.change_keyring(|keyring, keys, _| keyring.add_device(keys, label, now, entropy))?;
        DeviceKey::new(share, self.config(), now).ok_or(VaultError::Unlock("the vault is not encrypted"))
    }

    /// Believes no record of the device from now on; what it wrote before stays. Returns false if there is none.
    pub fn remove_device(&self, id: &DeviceId) -> Result<bool> {
        let last = self.store().records()?.last().map_or(0, |record| record.count);
        self.change_keyring(|keyring, _, _| Ok(keyring.refuse_device(id, last.saturating_add(1))))
    }
}
