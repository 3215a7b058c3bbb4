//! Keyrings: files of [`record`](crate::record)'s kinds, and unlocking them.
//!
//! Passwords are only tried where that is cheap; that a file cannot ask for more than its bounds is asserted.

use twinkeep_engine::crypto::{SecretKey, VaultKeys};
use twinkeep_engine::env::{SeededEntropy, Time};
use twinkeep_engine::record::RecordKind;
use twinkeep_engine::vault::keyring::{
    DEVICES_MAX, Keyring, LABEL_LEN_MAX, LockedKeyring, PAIRS_MAX, PasswordCost, SLOTS_MAX, Slot, SlotKind, Unlocked,
};

use crate::keys;
use crate::record::{file, seeds_of};

const PASSWORD: &str = "correct horse";
const MACHINE_KEY: [u8; 32] = [3; 32];

/// What a password may cost here: Argon2's least memory, one pass.
const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

/// Parses a keyring and tries each way into it.
pub fn body(data: &[u8]) {
    let bytes = file(data, RecordKind::Keyring);
    let Ok((count, locked)) = LockedKeyring::parse(&bytes) else { return };
    assert!(locked.slots().len() <= SLOTS_MAX);
    assert!(locked.slots().iter().all(|slot| slot.label.len() <= LABEL_LEN_MAX));
    assert!(locked.slots().iter().all(|slot| cost(slot).is_none_or(|cost| cost.check().is_ok())));

    if let Ok(unlocked) = locked.unlock_with_secret(keys::secret()) {
        check_unlocked(unlocked, count);
    }
    if let Ok(unlocked) = locked.unlock_with_machine_key(&MACHINE_KEY) {
        check_unlocked(unlocked, count);
    }
    if locked.slots().len() <= 4 && locked.slots().iter().filter_map(cost).all(is_cheap) {
        let _ = locked.unlock_with_password(PASSWORD);
    }
    let _ = locked.unlock_with_words("");
    let _ = locked.open_unencrypted();
}

fn cost(slot: &Slot) -> Option<PasswordCost> {
    match slot.kind {
        SlotKind::Password { cost, .. } => Some(cost),
        SlotKind::MachineKey => None,
    }
}

fn is_cheap(cost: PasswordCost) -> bool {
    cost.memory_kib <= 64 && cost.passes <= 2
}

/// Written anew, an unlocked keyring is the same.
fn check_unlocked(unlocked: Unlocked, count: u64) {
    let Unlocked { mut keyring, mut keys, secret, .. } = unlocked;
    assert!((1..=PAIRS_MAX).contains(&keyring.pairs().len()));
    assert_eq!(usize::from(keys.newest().0) + 1, keyring.pairs().len());
    let (again, locked) = LockedKeyring::parse(&keyring.encode(count, Time(0), &keys)).expect("what we encode parses");
    assert_eq!((again, locked.slots()), (count, keyring.slots()));
    assert_eq!(locked.unlock_with_secret(secret).expect("the same secret opens it").keyring, keyring);
    assert!(keyring.devices().len() <= DEVICES_MAX);
    assert!(keyring.devices().iter().all(|device| device.label.len() <= LABEL_LEN_MAX));
    if let Some(first) = keyring.slots().first().map(|slot| slot.id) {
        assert!(keyring.remove_slot(&first));
    }
    if keyring.rotate(&mut keys, Time(1), &SeededEntropy::new(4)).is_err() {
        assert_eq!(keyring.pairs().len(), PAIRS_MAX);
    }
}

/// Keyrings with each kind of slot, several generations, none at all.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let entropy = SeededEntropy::new(3);
    let created = Time(1_700_000_000_000_000_000);
    let mut vault_keys: VaultKeys = keys::keys().clone();
    let mut keyring = Keyring::new(&vault_keys, created);
    let mut seeds = seeds_of("bare", &keyring.encode(1, Time(5), &vault_keys));
    keyring
        .add_password_slot(&keys::secret(), PASSWORD, CHEAP, "Büro", created, &entropy)
        .and_then(|_| keyring.add_machine_slot(&keys::secret(), &MACHINE_KEY, "service", created, &entropy))
        .expect("a new keyring has room");
    seeds.extend(seeds_of("slots", &keyring.encode(2, Time(6), &vault_keys)));
    keyring
        .rotate(&mut vault_keys, created, &entropy)
        .and_then(|_| keyring.rotate(&mut vault_keys, created, &entropy))
        .expect("a new keyring has room");
    seeds.extend(seeds_of("rotated", &keyring.encode(3, Time(7), &vault_keys)));
    let device = keyring.add_device(&vault_keys, "pc7", created, &entropy).expect("a new keyring has room").id;
    assert!(keyring.refuse_device(&device, 7));
    keyring.add_device(&vault_keys, "", created, &entropy).expect("a new keyring has room");
    seeds.extend(seeds_of("devices", &keyring.encode(4, Time(9), &vault_keys)));
    let mut other = keys::keys().clone();
    other.add_pair(SecretKey::from_bytes(&[8; 32]));
    seeds.extend(seeds_of("other-mac", &Keyring::new(keys::open_keys(), created).encode(1, Time(8), &other)));
    seeds
}
