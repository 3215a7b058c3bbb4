//! Who wrote a record: a member, or a device that the keyring admits for its place in the chain.

use super::keyring::Device;
use super::{Result, Vault};
use crate::id::DeviceId;
use crate::record::{ParsedRecord, Record, RecordError, RecordKind, RefRecord};
use std::cell::OnceCell;

/// Judges records; reads the keyring when it meets the first one of a device.
pub(super) struct Authors<'a> {
    vault: &'a Vault,
    /// None where the keyring is lost: then a device's MAC, which only members can have given it the key for, is all.
    devices: OnceCell<Option<Vec<Device>>>,
}

/// A record that says of itself that a device wrote it.
pub(super) enum Judged {
    /// So it is.
    Believed(Record),
    /// This is not for us to say: we are a device, and it is of somebody else.
    Unknown,
    /// It is not.
    Refused(String),
}

impl<'a> Authors<'a> {
    pub fn new(vault: &'a Vault) -> Self {
        Self { vault, devices: OnceCell::new() }
    }

    /// Judges a record of any kind. Only refs can be of a device.
    pub fn judge_record(&self, parsed: ParsedRecord) -> Result<Judged> {
        let from = match parsed.record.kind {
            RecordKind::Ref => match RefRecord::decode(&parsed.record.payload) {
                Ok(reference) => reference.device,
                Err(error) => return Ok(Judged::Refused(error.to_string())),
            },
            RecordKind::Change | RecordKind::Config | RecordKind::Keyring => None,
        };
        self.judge(parsed, from)
    }

    /// Judges a record by its MAC and by whom it says it is from.
    fn judge(&self, parsed: ParsedRecord, from: Option<DeviceId>) -> Result<Judged> {
        let keys = self.vault.keys();
        let result = match (from, keys.device()) {
            (None, None) => parsed.verify_mac(&|bytes| keys.record_mac(bytes)),
            (Some(id), None) => {
                let count = parsed.record.count;
                match self.by_device(parsed, &id) {
                    Ok(record) => match self.refusal(&id, count)? {
                        Some(refusal) => return Ok(Judged::Refused(refusal)),
                        None => Ok(record),
                    },
                    error => error,
                }
            }
            (Some(id), Some(own)) if id == own => self.by_device(parsed, &id),
            (_, Some(_)) => return Ok(Judged::Unknown),
        };
        Ok(result.map_or_else(|error| Judged::Refused(error.to_string()), Judged::Believed))
    }

    fn by_device(&self, parsed: ParsedRecord, id: &DeviceId) -> std::result::Result<Record, RecordError> {
        let keys = self.vault.keys();
        parsed.verify_mac(&|bytes| keys.device_mac(id, bytes).expect("we are a member, or this device"))
    }

    /// Why a device may not have written this record.
    fn refusal(&self, id: &DeviceId, count: u64) -> Result<Option<String>> {
        if crate::zoo::planted("believe-any-device") {
            return Ok(None);
        }
        let devices = match self.devices.get() {
            Some(devices) => devices,
            None => {
                let devices = self.vault.devices()?;
                self.devices.get_or_init(|| devices)
            }
        };
        let Some(devices) = devices else { return Ok(None) };
        Ok(match devices.iter().find(|device| device.id == *id) {
            None => Some(format!("it was written by device {id}, which this vault never admitted")),
            Some(device) if device.may_write(count) => None,
            Some(_) => Some(format!("it was written by device {id} after that was removed")),
        })
    }
}
