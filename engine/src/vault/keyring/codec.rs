//! A keyring as Cap'n Proto in canonical form, and back with every bound checked.

use twinkeep_schema::vault_capnp as schema;

use super::{DEVICES_MAX, Device, Keyring, LABEL_LEN_MAX, PAIRS_MAX, Pair, PasswordCost, SLOTS_MAX, Slot, SlotKind};
use crate::crypto::PublicKey;
use crate::env::Time;
use crate::id::DeviceId;
use crate::record::Record;
use crate::record::canonical::{self, CanonicalError};

pub fn encode(keyring: &Keyring) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let mut root = message.init_root::<schema::keyring::Builder>();
    root.set_check(&keyring.check);
    let mut slots = root.reborrow().init_slots(keyring.slots.len() as u32);
    for (at, slot) in (0..).zip(&keyring.slots) {
        write_slot(slots.reborrow().get(at), slot);
    }
    // An empty list, too, would take room: keyrings without devices are as they were before there were any.
    if !keyring.devices.is_empty() {
        let mut devices = root.reborrow().init_devices(keyring.devices.len() as u32);
        for (at, device) in (0..).zip(&keyring.devices) {
            write_device(devices.reborrow().get(at), device);
        }
    }
    let mut pairs = root.init_pairs(keyring.pairs.len() as u32);
    for (generation, pair) in (0u16..).zip(&keyring.pairs) {
        let mut to = pairs.reborrow().get(generation.into());
        to.set_generation(generation);
        to.set_created(pair.created.0);
        to.set_public_key(&pair.public.0);
        if let Some(sealed) = &pair.sealed {
            to.set_sealed_secret(sealed);
        }
    }
    canonical::encode(message)
}

fn write_slot(mut to: schema::slot::Builder<'_>, slot: &Slot) {
    to.set_id(&slot.id);
    to.set_created(slot.created.0);
    to.set_label(slot.label.as_str());
    to.set_sealed(&slot.sealed);
    match &slot.kind {
        SlotKind::Password { cost, salt } => {
            let mut password = to.init_kind().init_password();
            password.set_memory_kib(cost.memory_kib);
            password.set_passes(cost.passes);
            password.set_lanes(cost.lanes);
            password.set_salt(salt);
        }
        SlotKind::MachineKey => to.init_kind().set_machine_key(()),
    }
}

fn write_device(mut to: schema::device::Builder<'_>, device: &Device) {
    to.set_id(&device.id.0);
    to.set_created(device.created.0);
    to.set_label(device.label.as_str());
    to.set_generation(device.generation);
    to.set_refused_from(device.refused_from.unwrap_or(0));
}

/// What is wrong, for the record's error.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error("{0}")]
    Value(String),
}

impl From<capnp::Error> for Fault {
    fn from(error: capnp::Error) -> Self {
        CanonicalError::from(error).into()
    }
}

pub fn decode(record: &Record) -> Result<Keyring, String> {
    let keyring = read(record).map_err(|fault| fault.to_string())?;
    if encode(&keyring) != record.payload {
        // Adding a slot would drop them.
        return Err("has fields that only a later version knows".into());
    }
    Ok(keyring)
}

fn read(record: &Record) -> Result<Keyring, Fault> {
    let message = canonical::decode(&record.payload)?;
    let root: schema::keyring::Reader<'_> = message.get_root()?;
    let slots = root.get_slots()?;
    within("slots", slots.len(), 0, SLOTS_MAX)?;
    let pairs = root.get_pairs()?;
    within("key pairs", pairs.len(), 1, PAIRS_MAX)?;
    let devices = root.get_devices()?;
    within("devices", devices.len(), 0, DEVICES_MAX)?;
    Ok(Keyring {
        vault: record.vault,
        check: fixed("check", root.get_check()?)?,
        slots: slots.iter().map(read_slot).collect::<Result<_, _>>()?,
        pairs: (0u16..).zip(pairs.iter()).map(|(at, pair)| read_pair(at, pair)).collect::<Result<_, _>>()?,
        devices: devices.iter().map(|device| read_device(pairs.len() as usize, device)).collect::<Result<_, _>>()?,
    })
}

fn read_device(pairs: usize, device: schema::device::Reader<'_>) -> Result<Device, Fault> {
    let generation = device.get_generation();
    if usize::from(generation) >= pairs {
        return Err(Fault::Value(format!("a device has generation {generation} of {pairs} key pairs")));
    }
    Ok(Device {
        id: DeviceId(fixed("device id", device.get_id()?)?),
        label: read_label("device", device.get_label()?)?,
        created: Time(device.get_created()),
        generation,
        refused_from: Some(device.get_refused_from()).filter(|&from| from != 0),
    })
}

fn read_label(of: &str, label: capnp::text::Reader<'_>) -> Result<String, Fault> {
    let label = label.to_str().map_err(CanonicalError::from)?;
    if label.len() > LABEL_LEN_MAX {
        return Err(Fault::Value(format!("{of} label has {} bytes, at most {LABEL_LEN_MAX} allowed", label.len())));
    }
    Ok(label.to_owned())
}

fn read_slot(slot: schema::slot::Reader<'_>) -> Result<Slot, Fault> {
    Ok(Slot {
        id: fixed("slot id", slot.get_id()?)?,
        kind: read_kind(slot)?,
        label: read_label("slot", slot.get_label()?)?,
        created: Time(slot.get_created()),
        sealed: fixed("sealed secret of a slot", slot.get_sealed()?)?,
    })
}

fn read_kind(slot: schema::slot::Reader<'_>) -> Result<SlotKind, Fault> {
    match slot.get_kind().which().map_err(CanonicalError::from)? {
        schema::slot::kind::Unknown(()) => Err(Fault::Value("slot kind is 0, expected 1 or 2".into())),
        schema::slot::kind::Password(password) => {
            let cost = PasswordCost {
                memory_kib: password.get_memory_kib(),
                passes: password.get_passes(),
                lanes: password.get_lanes(),
            };
            let cost = cost.check().map_err(|error| Fault::Value(error.to_string()))?;
            Ok(SlotKind::Password { cost, salt: fixed("password salt", password.get_salt()?)? })
        }
        schema::slot::kind::MachineKey(()) => Ok(SlotKind::MachineKey),
    }
}

fn read_pair(at: u16, pair: schema::key_pair::Reader<'_>) -> Result<Pair, Fault> {
    let generation = pair.get_generation();
    if generation != at {
        return Err(Fault::Value(format!("key pair {at} has generation {generation}, expected {at}")));
    }
    let sealed = match (at, pair.get_sealed_secret()?) {
        (0, []) => None,
        (0, other) => {
            let len = other.len();
            return Err(Fault::Value(format!("key pair 0 has a sealed secret of {len} bytes, expected none")));
        }
        (_, other) => Some(fixed("sealed secret of a key pair", other)?),
    };
    Ok(Pair {
        created: Time(pair.get_created()),
        public: PublicKey(fixed("public key", pair.get_public_key()?)?),
        sealed,
    })
}

fn within(what: &str, found: u32, min: usize, max: usize) -> Result<(), Fault> {
    if (min..=max).contains(&(found as usize)) {
        return Ok(());
    }
    Err(Fault::Value(format!("{found} {what}, expected {min} to {max}")))
}

fn fixed<const N: usize>(what: &str, bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| Fault::Value(format!("{what} has {} bytes, expected {N}", bytes.len())))
}
