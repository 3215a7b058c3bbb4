//! Devices in the keyring: machines that may write and not read.
//!
//! What always holds: a device once admitted stays in the list, so that what it wrote while it might goes on being
//! believed; being refused is for ever.

use super::{Keyring, KeyringError, LABEL_LEN_MAX, bound};
use crate::crypto::{DeviceShare, VaultKeys};
use crate::env::{Entropy, Time};
use crate::id::DeviceId;

/// Most devices a vault ever had.
pub const DEVICES_MAX: usize = 1024;

/// A machine that may write and not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// What people call it; may be empty.
    pub label: String,
    /// When it was admitted.
    pub created: Time,
    /// Generation of the key pair that its data keys are wrapped to.
    pub generation: u16,
    /// Records of it are believed up to the one before this, at least 1; all of them if none.
    pub refused_from: Option<u64>,
}

impl Device {
    /// Whether the record `count` of the chain may be this device's.
    pub fn may_write(&self, count: u64) -> bool {
        self.refused_from.is_none_or(|from| count < from)
    }
}

impl Keyring {
    /// Devices, oldest first, those that are refused too.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Admits a device; returns what it is to be given.
    pub fn add_device(
        &mut self,
        keys: &VaultKeys,
        label: &str,
        created: Time,
        entropy: &dyn Entropy,
    ) -> Result<DeviceShare, KeyringError> {
        bound("number of devices", DEVICES_MAX, self.devices.len() + 1)?;
        bound("length of label", LABEL_LEN_MAX, label.len())?;
        let mut id = [0; DeviceId::LEN];
        entropy.fill(&mut id);
        let id = DeviceId(id);
        let share = keys.share(id).ok_or(KeyringError::OtherVault { vault: self.vault })?;
        let generation = share.generation;
        self.devices.push(Device { id, label: label.to_owned(), created, generation, refused_from: None });
        Ok(share)
    }

    /// Believes no record of the device from the one numbered `from` on; false if there is no such device. One that
    /// was refused earlier stays so.
    pub fn refuse_device(&mut self, id: &DeviceId, from: u64) -> bool {
        let Some(device) = self.devices.iter_mut().find(|device| device.id == *id) else { return false };
        let from = from.max(1);
        device.refused_from = Some(device.refused_from.map_or(from, |earlier| earlier.min(from)));
        true
    }
}
