use twinkeep_engine::env::Dice;

use super::*;
use crate::tracker::limits::MEMBER_OF_MAX;

pub fn login(byte: u8) -> Login {
    Login { login_key: [byte; 32], salt: [byte; 16], cost: PasswordCost::default(), wrapped_key: vec![byte; 72] }
}

/// One of each kind, and of each kind within.
fn samples() -> Vec<Event> {
    let key = NodeKey([1; 32]);
    let (id, vault, device) = (AccountId([2; 16]), VaultId([3; 16]), AccountDeviceId([4; 16]));
    let name = "pc-ä".to_owned();
    let mut events = vec![
        Event::NodeTokenMade { name: name.clone(), token_hash: [5; 32], expires: Time(-6), auto: true },
        Event::NodeJoined {
            name: name.clone(),
            key,
            machine_id: MachineId([7; 16]),
            token_hash: [5; 32],
            pending: true,
        },
        Event::NodeApproved { key },
        Event::NodeRevoked { key },
        Event::NodeForgotten { key },
        Event::NodeDraining { key, on: true },
        Event::NodeDraining { key, on: false },
        Event::NodeGrant { key, bytes: u64::MAX },
        Event::StandbyAppointed { key, on: true },
        Event::AccountMade { id, name: name.clone(), login: login(8), quota: 9, is_admin: true },
        Event::AccountPassword { id, login: login(10) },
        Event::AccountDisabled { id, on: true },
        Event::AccountQuota { id, bytes: 11 },
        Event::DeviceAdded { account: id, device, label: String::new(), key: [12; 32] },
        Event::DeviceRevoked { account: id, device },
        Event::VaultMember { vault, account: id, on: true, wrapped: vec![13; WRAPPED_LEN_MAX] },
        Event::VaultMember { vault, account: id, on: false, wrapped: vec![] },
    ];
    for kind in [VaultKind::Company, VaultKind::Private, VaultKind::Shared] {
        events.push(Event::VaultMade { vault, owner: id, name: name.clone(), kind, company_wrap: vec![14; 80] });
    }
    use AuditKind::*;
    for kind in [Login, LoginFailed, Restore, KeyUse, Delete, Other] {
        events.push(Event::Audit { kind, account: Some(id), node: None, text: "x".repeat(TEXT_LEN_MAX) });
        events.push(Event::Audit { kind, account: None, node: Some(key), text: String::new() });
    }
    // Kinds that were added later stand at the end: what was written before them stays as it was.
    events.push(Event::DevicesRevoked { account: id });
    events.push(Event::AccountKey { id, key: [15; 32] });
    events.push(Event::Together(events[9..12].to_vec()));
    events
}

#[test]
fn events_come_back() {
    for event in samples() {
        let bytes = event.encode().unwrap();
        assert!(bytes.len() <= EVENT_LEN_MAX);
        assert_eq!(Event::decode(&bytes), Ok(event));
    }
}

#[test]
fn the_bytes_are_format() {
    let hash = |events: &[Event]| {
        let all: Vec<u8> = events.iter().flat_map(|event| event.encode().unwrap()).collect();
        blake3::hash(&all).to_hex()[..32].to_owned()
    };
    let all = samples();
    let (first, later) = all.split_at(32);
    assert_eq!(hash(first), "86e8b8574f94fe879e8dbffe6ab36a4a");
    assert_eq!(hash(later), "dc2862e8fb0916f283a3dd089fb4b941");
}

#[test]
fn hostile_bytes_are_refused_or_mean_themselves() {
    let seed = 0x0ff1ce;
    let mut dice = Dice(seed);
    for event in samples() {
        let good = event.encode().unwrap();
        for len in 0..good.len().min(300) {
            assert!(Event::decode(&good[..len]).is_err(), "{event:?} cut at {len}");
        }
        for place in 0..good.len().min(400) {
            let mut bad = good.clone();
            bad[place] ^= 1 << dice.below(8);
            if let Ok(other) = Event::decode(&bad) {
                assert_ne!(other, event);
                assert_eq!(other.encode().unwrap(), bad, "seed {seed}: two forms of one event");
            }
        }
        for _ in 0..200 {
            let mut bad = good.clone();
            for _ in 0..1 + dice.below(6) {
                let place = dice.below(bad.len());
                bad[place] = dice.throw() as u8;
            }
            if let Ok(other) = Event::decode(&bad) {
                assert_eq!(other.encode().unwrap(), bad, "seed {seed}: two forms of one event");
            }
        }
    }
    assert!(Event::decode(&[]).is_err() && Event::decode(&vec![0; EVENT_LEN_MAX + 8]).is_err());
    assert!(Event::decode(&[0; 8]).is_err(), "an event of no kind");
}

#[test]
fn bounds_hold() {
    let check = |event: Event, problem: &str| {
        let error = event.encode().unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    };
    let (id, vault) = (AccountId([2; 16]), VaultId([3; 16]));
    check(Event::Audit { kind: AuditKind::Other, account: None, node: None, text: "x".repeat(4097) }, "length of text");
    check(Event::VaultMember { vault, account: id, on: true, wrapped: vec![0; 1025] }, "length of wrapped key");
    let long = Event::VaultMember { vault, account: id, on: true, wrapped: vec![0; 1025] };
    check(Event::Together(vec![Event::AccountQuota { id, bytes: 1 }, long]), "length of wrapped key");
    check(Event::Together(vec![]), "nothing happens");
    check(Event::Together(vec![Event::Together(vec![Event::AccountQuota { id, bytes: 1 }])]), "within another");
    let many = Event::VaultMember { vault, account: id, on: true, wrapped: vec![0; 80] };
    check(Event::Together(vec![many.clone(); 600]), "length is");
    Event::Together(vec![many; MEMBER_OF_MAX]).encode().unwrap();
    check(Event::AccountPassword { id, login: Login { wrapped_key: vec![0; 1025], ..login(1) } }, "wrapped key");
    check(
        Event::NodeTokenMade { name: "x".repeat(257), token_hash: [0; 32], expires: Time(0), auto: false },
        "length of name",
    );
    for cost in [
        PasswordCost { memory_kib: COST_MIN.memory_kib - 1, ..PasswordCost::default() },
        PasswordCost { passes: 1, ..PasswordCost::default() },
        PasswordCost { lanes: 0, ..PasswordCost::default() },
        PasswordCost { lanes: 5, ..PasswordCost::default() },
        PasswordCost { memory_kib: (1 << 20) + 1, ..PasswordCost::default() },
    ] {
        check(Event::AccountPassword { id, login: Login { cost, ..login(1) } }, "password cost");
    }
    check_cost(COST_MIN).unwrap();
}
