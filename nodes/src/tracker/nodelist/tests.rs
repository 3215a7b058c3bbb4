use twinkeep_engine::env::Dice;

use super::*;

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn listed(byte: u8, role: Role, revoked: bool) -> Listed {
    Listed { key: NodeKey([byte; 32]), name: format!("pc-{byte}"), role, revoked }
}

fn list(generation: u64, sequence: u64, nodes: &[(u8, Role, bool)]) -> NodeList {
    let nodes = nodes.iter().map(|&(byte, role, revoked)| listed(byte, role, revoked)).collect();
    NodeList::new(generation, sequence, nodes).unwrap()
}

fn three() -> NodeList {
    list(2, 9, &[(3, Role::Terminal, true), (1, Role::Host, false), (2, Role::Standby, false)])
}

#[test]
fn lists_come_back() {
    for list in [three(), list(0, 0, &[])] {
        let bytes = list.encode(&key());
        assert_eq!(NodeList::decode(&bytes, &key().authority()), Ok(list));
    }
    assert_eq!(blake3::hash(&three().encode(&key())).to_hex()[..32], *"75f44ade58830746061566a479a435bf");
    let largest = (0..LISTED_MAX as u32).map(|number| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        Listed { key: NodeKey(bytes), name: "n".repeat(NAME_LEN_MAX), role: Role::Terminal, revoked: false }
    });
    let largest = NodeList::new(1, 1, largest.collect()).unwrap();
    assert_eq!(NodeList::decode(&largest.encode(&key()), &key().authority()), Ok(largest));
}

#[test]
fn every_change_is_found() {
    let good = three().encode(&key());
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        assert!(NodeList::decode(&bad, &key().authority()).is_err(), "byte {place}");
        assert!(NodeList::decode(&good[..place], &key().authority()).is_err(), "cut at {place}");
    }
    assert!(NodeList::decode(&good, &SigningKey::from_seed(&[8; 32]).authority()).is_err());
    assert!(NodeList::decode(&vec![0; NODE_LIST_LEN_MAX + 1], &key().authority()).is_err());
    // Signed, and yet wrong: never a panic.
    let seed = 0x115;
    let mut dice = Dice(seed);
    for _ in 0..2000 {
        let mut bad = good[..good.len() - SIGNATURE_LEN].to_vec();
        let place = dice.below(bad.len());
        bad[place] ^= 1 << dice.below(8);
        bad.extend_from_slice(&key().sign(&bad));
        if let Ok(list) = NodeList::decode(&bad, &key().authority()) {
            assert_eq!(list.encode(&key()), bad, "seed {seed}: two forms of one list");
        }
    }
}

#[test]
fn what_cannot_stand_together_is_refused() {
    let refused = |nodes: Vec<Listed>| NodeList::new(1, 1, nodes).is_err();
    assert!(refused(vec![listed(1, Role::Host, false), listed(1, Role::Terminal, false)]));
    assert!(refused(vec![listed(1, Role::Host, false), listed(2, Role::Host, false)]));
    assert!(!refused(vec![listed(1, Role::Host, false), listed(2, Role::Host, true)]));
    assert!(refused(vec![Listed { name: "a b".into(), ..listed(1, Role::Host, false) }]));
    assert!(refused(vec![listed(1, Role::Terminal, true); LISTED_MAX + 1]));
}

#[test]
fn newer_lists_count_and_revocations_stay() {
    let old = three();
    for (generation, sequence, is_newer) in [(2, 9, false), (2, 10, true), (3, 1, true), (1, 99, false), (2, 8, false)]
    {
        assert_eq!(list(generation, sequence, &[]).newer_than(&old), is_newer, "{generation} {sequence}");
    }
    assert!(old.admits(&NodeKey([2; 32])).is_some() && old.admits(&NodeKey([3; 32])).is_none());
    assert!(old.get(&NodeKey([3; 32])).is_some() && old.admits(&NodeKey([4; 32])).is_none());
    // A newer list that forgot one revocation, and takes another back.
    let rolled_back = list(3, 1, &[(1, Role::Host, false), (2, Role::Terminal, false), (3, Role::Terminal, false)]);
    for merged in [old.with(&rolled_back).unwrap(), rolled_back.with(&old).unwrap()] {
        assert_eq!((merged.generation(), merged.sequence()), (3, 1));
        assert!(merged.admits(&NodeKey([3; 32])).is_none());
        assert_eq!(merged.get(&NodeKey([2; 32])).unwrap().role, Role::Terminal);
    }
    let short = list(3, 1, &[(1, Role::Host, false)]);
    assert!(old.with(&short).unwrap().get(&NodeKey([3; 32])).unwrap().revoked);
}
