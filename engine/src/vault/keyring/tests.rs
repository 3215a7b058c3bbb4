use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::env::SystemEntropy;
use twinkeep_schema::vault_capnp as schema;

const VAULT: VaultId = VaultId([1; 16]);
const MACHINE_KEY: [u8; 32] = [9; 32];

/// Quick enough to try for every flipped byte.
const QUICK: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

/// Counts up: the same bytes in every run, none twice in one.
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::Relaxed) as u8;
        }
    }
}

fn secret() -> VaultSecret {
    VaultSecret::from_bytes(&[2; 32])
}

/// Two password slots, a machine slot, three generations; the same bytes in every run.
fn keyring() -> (Keyring, VaultKeys) {
    let entropy = Counter(AtomicU64::new(0));
    let mut keys = VaultKeys::derive(&secret(), VAULT);
    let mut keyring = Keyring::new(&keys, Time(5));
    keyring.add_password_slot(&secret(), "first", QUICK, "anna", Time(6), &entropy).unwrap();
    keyring.add_machine_slot(&secret(), &MACHINE_KEY, "", Time(7), &entropy).unwrap();
    keyring.add_password_slot(&secret(), "zweites Wörtchen", QUICK, "bert", Time(8), &entropy).unwrap();
    assert_eq!(keyring.rotate(&mut keys, Time(9), &entropy).unwrap(), 1);
    assert_eq!(keyring.rotate(&mut keys, Time(10), &entropy).unwrap(), 2);
    (keyring, keys)
}

fn file() -> Vec<u8> {
    let (keyring, keys) = keyring();
    keyring.encode(3, Time(11), &keys)
}

fn locked() -> LockedKeyring {
    LockedKeyring::parse(&file()).unwrap().1
}

#[test]
fn every_way_opens_the_same() {
    let (keyring, keys) = keyring();
    let (count, locked) = LockedKeyring::parse(&file()).unwrap();
    assert_eq!((count, locked.vault(), locked.slots()), (3, VAULT, keyring.slots()));
    for unlocked in [
        locked.unlock_with_password("first"),
        locked.unlock_with_password("zweites Wörtchen"),
        locked.unlock_with_machine_key(&MACHINE_KEY),
        locked.unlock_with_words(&secret().words()),
        locked.unlock_with_secret(secret()),
    ] {
        let unlocked = unlocked.unwrap();
        assert_eq!(unlocked.keyring, keyring);
        assert_eq!(unlocked.secret.expose(), secret().expose());
        assert_eq!(unlocked.keys.newest(), keys.newest());
        for generation in 0..3 {
            let public = |keys: &VaultKeys| keys.secret(generation).map(SecretKey::public);
            assert_eq!(public(&unlocked.keys), Some(keyring.pairs()[usize::from(generation)].public));
            assert_eq!(public(&unlocked.keys), public(&keys));
        }
        assert_eq!(unlocked.keyring.encode(3, Time(11), &unlocked.keys), file());
    }
}

#[test]
fn says_what_does_not_open_it() {
    let error = |result: Result<Unlocked, KeyringError>| result.unwrap_err().to_string();
    let locked = locked();
    for password in ["", "First", "first ", "zweites Wo\u{308}rtchen"] {
        let said = error(locked.unlock_with_password(password));
        assert_eq!(said, "the password opens none of the vault's 2 password slots", "{password}");
    }
    assert!(error(locked.unlock_with_password(&"x".repeat(5000))).starts_with("length of password is 5000"));
    let said = error(locked.unlock_with_machine_key(&[8; 32]));
    assert_eq!(said, "the machine key opens none of the vault's 1 machine key slots");
    let other = VaultSecret::from_bytes(&[3; 32]).words();
    assert_eq!(error(locked.unlock_with_words(&other)), format!("the secret is not of vault {VAULT}"));
    assert_eq!(error(locked.unlock_with_words("twinkeep")), "word 1, \"twinkeep\", is not a recovery word");
    assert!(matches!(locked.open_unencrypted(), Err(KeyringError::OtherVault { .. })));

    let keys = VaultKeys::derive(&secret(), VAULT);
    let bare = LockedKeyring::parse(&Keyring::new(&keys, Time(0)).encode(1, Time(0), &keys)).unwrap().1;
    assert_eq!(error(bare.unlock_with_password("first")), "the vault has no password slot");
    assert_eq!(error(bare.unlock_with_machine_key(&MACHINE_KEY)), "the vault has no machine key slot");
}

#[test]
fn unencrypted_vaults_open_by_themselves() {
    let keys = VaultKeys::unencrypted(VAULT);
    let (_, locked) = LockedKeyring::parse(&Keyring::new(&keys, Time(0)).encode(1, Time(0), &keys)).unwrap();
    assert_eq!(locked.open_unencrypted().unwrap().newest(), keys.newest());
    assert!(matches!(locked.unlock_with_secret(secret()), Err(KeyringError::OtherVault { .. })));
}

#[test]
fn every_flip_of_the_file_is_found() {
    let good = file();
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        assert!(LockedKeyring::parse(&bad).is_err(), "byte {place}");
        assert!(LockedKeyring::parse(&good[..place]).is_err(), "cut at {place}");
    }
}

/// The keyring as a forger without the keys would write it: whole, but for its MAC.
fn forged(change: impl FnOnce(&mut Keyring)) -> LockedKeyring {
    let (mut keyring, _) = keyring();
    change(&mut keyring);
    LockedKeyring::parse(&keyring.encode(4, Time(0), &VaultKeys::unencrypted(VAULT))).unwrap().1
}

/// The same, written by a member who makes mistakes.
fn mistaken(change: impl FnOnce(&mut Keyring)) -> LockedKeyring {
    let (mut keyring, keys) = keyring();
    change(&mut keyring);
    LockedKeyring::parse(&keyring.encode(4, Time(0), &keys)).unwrap().1
}

#[test]
fn only_members_write_keyrings() {
    let is_forged = |locked: LockedKeyring| {
        let error = locked.unlock_with_secret(secret()).unwrap_err();
        assert!(matches!(error, KeyringError::Record(RecordError::Forged { .. })), "{error}");
    };
    is_forged(forged(|_| ()));
    is_forged(forged(|keyring| keyring.pairs[2].public = PublicKey([5; 32])));
    is_forged(forged(|keyring| keyring.pairs.truncate(1)));
    is_forged(forged(|keyring| keyring.slots.truncate(1)));
    is_forged(forged(|keyring| keyring.slots[0].label.push('x')));
    let other = forged(|keyring| keyring.check[0] ^= 1).unlock_with_secret(secret());
    assert!(matches!(other, Err(KeyringError::OtherVault { .. })));
}

#[test]
fn slots_are_bound_to_their_place() {
    let refused = |change: &dyn Fn(&mut Slot)| {
        for locked in
            [forged(|keyring| change(&mut keyring.slots[0])), mistaken(|keyring| change(&mut keyring.slots[0]))]
        {
            let error = locked.unlock_with_password("first").unwrap_err();
            assert!(matches!(error, KeyringError::Wrong { .. } | KeyringError::NoSlot { .. }), "{error}");
        }
    };
    let SlotKind::Password { salt, .. } = keyring().0.slots[0].kind else { unreachable!("a password slot") };
    for place in 0..SEALED_KEY_LEN {
        refused(&|slot| slot.sealed[place] ^= 1);
    }
    for place in 0..8 {
        refused(&|slot| slot.id[place] ^= 1);
    }
    refused(&|slot| slot.kind = SlotKind::Password { cost: QUICK, salt: [0; 16] });
    refused(&|slot| slot.kind = SlotKind::Password { cost: PasswordCost { passes: 2, ..QUICK }, salt });
    refused(&|slot| slot.kind = SlotKind::MachineKey);
    let moved = LockedKeyring { keyring: Keyring { vault: VaultId([2; 16]), ..keyring().0 }, parsed: locked().parsed };
    assert!(matches!(moved.unlock_with_password("first"), Err(KeyringError::Wrong { .. })));
}

#[test]
fn pairs_are_bound_to_their_generation() {
    let check = |expected: u16, change: &dyn Fn(&mut Keyring)| match mistaken(|keyring| change(keyring))
        .unlock_with_secret(secret())
    {
        Err(KeyringError::Pair { generation }) => assert_eq!(generation, expected),
        other => panic!("{other:?}"),
    };
    for place in 0..SEALED_KEY_LEN {
        check(1, &|keyring| keyring.pairs[1].sealed.as_mut().unwrap()[place] ^= 1);
    }
    check(0, &|keyring| keyring.pairs[0].public.0[0] ^= 1);
    check(2, &|keyring| keyring.pairs[2].public.0[0] ^= 1);
    check(1, &|keyring| keyring.pairs.swap(1, 2));
}

#[test]
fn slots_come_and_go_within_bounds() {
    let (mut keyring, keys) = keyring();
    let entropy = &SystemEntropy;
    let long = "x".repeat(LABEL_LEN_MAX + 1);
    let other = VaultSecret::from_bytes(&[3; 32]);
    assert!(keyring.add_machine_slot(&secret(), &MACHINE_KEY, &long, Time(0), entropy).is_err());
    assert!(keyring.add_machine_slot(&other, &MACHINE_KEY, "", Time(0), entropy).is_err());
    assert!(keyring.add_password_slot(&secret(), "", QUICK, "", Time(0), entropy).is_err());
    assert!(keyring.add_password_slot(&secret(), &"x".repeat(5000), QUICK, "", Time(0), entropy).is_err());
    assert_eq!(keyring.slots().len(), 3);

    let first = keyring.slots()[0].id;
    assert!(keyring.remove_slot(&first) && !keyring.remove_slot(&first));
    let locked = LockedKeyring::parse(&keyring.encode(4, Time(0), &keys)).unwrap().1;
    assert!(locked.unlock_with_password("first").is_err());
    assert!(locked.unlock_with_password("zweites Wörtchen").is_ok());

    while keyring.slots().len() < SLOTS_MAX {
        keyring.add_machine_slot(&secret(), &MACHINE_KEY, &long[1..], Time(0), entropy).unwrap();
    }
    assert!(keyring.add_machine_slot(&secret(), &MACHINE_KEY, "", Time(0), entropy).is_err());
    let full = keyring.encode(4, Time(0), &keys);
    assert!(LockedKeyring::parse(&full).unwrap().1.unlock_with_machine_key(&MACHINE_KEY).is_ok());
}

#[test]
fn costs_are_bounded() {
    let check = |memory_kib, passes, lanes, good: bool| {
        assert_eq!(PasswordCost { memory_kib, passes, lanes }.check().is_ok(), good, "{memory_kib} {passes} {lanes}");
    };
    check(64 << 10, 3, 1, true);
    check(8, 1, 1, true);
    check(1 << 20, 16, 4, true);
    check(7, 1, 1, false);
    check(31, 1, 4, false);
    check((1 << 20) + 1, 1, 1, false);
    check(u32::MAX, 1, 1, false);
    check(8, 0, 1, false);
    check(8, 17, 1, false);
    check(8, 1, 0, false);
    check(64, 1, 5, false);
    check(64, 1, u32::MAX, false);
    assert!(PasswordCost::default().check().is_ok());
}

#[test]
fn a_password_gives_the_key_that_others_compute() {
    let salt: [u8; 16] = std::array::from_fn(|at| at as u8);
    // Computed by the reference implementation in C.
    for (memory_kib, passes, lanes, expected) in [
        (256, 3, 4, "d16cfe2a396cebb9b6a88e24b7d60220067e5fb27a70954bd2854ea3d3441b2a"),
        (64, 2, 1, "716882821df77bc6414358b07159fb63ca1c90beaeb9d0ca0e43bd887dcf2ca9"),
    ] {
        let key = PasswordCost { memory_kib, passes, lanes }.stretch::<32>("password", &salt).unwrap();
        assert_eq!(crate::id::ChunkId(*key).to_hex(), expected);
    }
}

#[test]
fn payloads_are_checked() {
    let (keyring, keys) = keyring();
    let good = codec::encode(&keyring);
    let parse = |payload: Vec<u8>| {
        let (kind, received) = (RecordKind::Keyring, Time(0));
        let record = Record { kind, vault: VAULT, count: 1, received, previous: [0; 32], payload };
        LockedKeyring::parse(&record.encode(&|bytes| keys.record_mac(bytes)))
    };
    assert!(parse(good.clone()).is_ok());
    for place in 0..good.len() {
        assert!(parse(good[..place].to_vec()).is_err(), "cut at {place}");
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[place] ^= 1 << bit;
            // Another value or an error, never a panic, and never one that a rewrite would change.
            if let Ok((_, locked)) = parse(bad.clone()) {
                assert_eq!(codec::encode(&locked.keyring), bad, "byte {place}");
            }
        }
    }
    let check = |change: &dyn Fn(schema::keyring::Builder<'_>), expected: &str| {
        let mut message = capnp::message::Builder::new_default();
        let original = crate::record::canonical::decode(&good).unwrap();
        message.set_root(original.get_root::<schema::keyring::Reader<'_>>().unwrap()).unwrap();
        change(message.get_root().unwrap());
        let said = parse(crate::record::canonical::encode(message)).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    };
    check(&|mut root| root.set_check(&[0; 31]), "check has 31 bytes, expected 32");
    check(
        &|root| {
            let _ = root.init_slots(33);
        },
        "33 slots, expected 0 to 32",
    );
    check(
        &|root| {
            let _ = root.init_slots(1);
        },
        "slot id has 0 bytes, expected 8",
    );
    check(
        &|root| {
            let _ = root.init_pairs(0);
        },
        "0 key pairs, expected 1 to 1024",
    );
    check(
        &|root| {
            let _ = root.init_pairs(1025);
        },
        "1025 key pairs, expected 1 to 1024",
    );
    check(&|root| root.init_pairs(1).get(0).set_generation(1), "key pair 0 has generation 1");
    check(&|root| root.init_pairs(1).get(0).set_sealed_secret(&[1]), "key pair 0 has a sealed secret of 1 bytes");
    check(
        &|root| {
            let _ = root.init_pairs(1);
        },
        "public key has 0 bytes",
    );
    let slot = |root: schema::keyring::Builder<'_>, change: &dyn Fn(schema::slot::Builder<'_>)| {
        change(root.get_slots().unwrap().get(0));
    };
    check(&|root| slot(root, &|slot| slot.init_kind().set_unknown(())), "slot kind is 0");
    check(&|root| slot(root, &|mut slot| slot.set_sealed(&[0; 71])), "sealed secret of a slot has 71 bytes");
    check(&|root| slot(root, &|mut slot| slot.set_label("x".repeat(257).as_str())), "slot label has 257 bytes");
    check(&|root| slot(root, &|slot| slot.init_kind().init_password().set_memory_kib(u32::MAX)), "at most 1 GiB");
}

#[test]
fn the_file_is_format() {
    let whole = blake3::hash(&file()).to_hex();
    assert_eq!(whole.as_str(), "87a7761228287daee2b87293c5584c2ea6bd2035112d6396a0af54a2df6fd071");
}

#[test]
fn debug_tells_nothing() {
    let unlocked = locked().unlock_with_secret(secret()).unwrap();
    let said = format!("{unlocked:?}");
    assert!(said.contains("secret: VaultSecret(…)") && said.contains("keys: VaultKeys(VaultId"), "{said}");
    assert!(!said.contains("2, 2, 2, 2"), "{said}");
}

#[test]
fn devices_round_trip_and_stay_refused() {
    let (mut keyring, keys) = keyring();
    let without = keyring.encode(3, Time(11), &keys);
    let entropy = Counter(AtomicU64::new(100));
    let one = keyring.add_device(&keys, "pc7", Time(12), &entropy).unwrap().id;
    let two = keyring.add_device(&keys, "", Time(13), &entropy).unwrap().id;
    assert!(keyring.refuse_device(&two, 7) && !keyring.refuse_device(&DeviceId([0; 8]), 7));
    assert!(keyring.refuse_device(&two, 9));
    let (_, locked) = LockedKeyring::parse(&keyring.encode(4, Time(14), &keys)).unwrap();
    let unlocked = locked.unlock_with_machine_key(&MACHINE_KEY).unwrap();
    assert_eq!(unlocked.keyring, keyring);
    assert!(
        unlocked.slot == Some(keyring.slots()[1].id) && locked.unlock_with_secret(secret()).unwrap().slot.is_none()
    );
    let [first, second] = unlocked.keyring.devices() else { panic!("{:?}", unlocked.keyring.devices()) };
    assert_eq!((first.id, first.label.as_str(), first.generation, first.refused_from), (one, "pc7", 2, None));
    assert_eq!(second.refused_from, Some(7));
    assert!(first.may_write(u64::MAX) && second.may_write(6) && !second.may_write(7));
    assert_eq!((locked.device(&two), locked.device(&DeviceId([0; 8]))), (Some(second), None));
    assert_eq!(without, file(), "a keyring without devices is as it was before there were any");

    let label = "x".repeat(LABEL_LEN_MAX + 1);
    assert!(matches!(keyring.add_device(&keys, &label, Time(0), &entropy), Err(KeyringError::Bound { .. })));
    for _ in 2..DEVICES_MAX {
        keyring.add_device(&keys, &label[1..], Time(0), &entropy).unwrap();
    }
    assert!(matches!(keyring.add_device(&keys, "", Time(0), &entropy), Err(KeyringError::Bound { .. })));
    LockedKeyring::parse(&keyring.encode(5, Time(0), &keys)).expect("all of them fit");
}
