use twinkeep_engine::env::{Dice, Inline, ManualClock, SeededEntropy, Time};
use twinkeep_engine::files::crash::Replay;
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::files::record::record;
use twinkeep_engine::kv::memory::MemoryKvHome;

use super::*;
use crate::tracker::names::{AccountId, MachineId, NodeKey};
use crate::tracker::registry::NodeStatus;

fn env() -> Env {
    let clock = Arc::new(ManualClock::new(Time(1000)));
    Env { clock, entropy: Arc::new(SeededEntropy::new(1)), executor: Arc::new(Inline) }
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn create(files: &MemoryFiles) -> Office {
    Office::create(Arc::new(files.clone()), env(), key()).unwrap()
}

fn open(files: &MemoryFiles) -> Result<Office, OfficeError> {
    Office::open(Arc::new(files.clone()), env(), key())
}

/// Token and join of the `number`-th machine.
fn machine(number: u8) -> [Event; 2] {
    let (name, token_hash) = (format!("pc-{number}"), [number; 32]);
    let (key, machine_id) = (NodeKey([number; 32]), MachineId([number; 16]));
    [
        Event::NodeTokenMade { name: name.clone(), token_hash, expires: Time(i64::MAX), auto: true },
        Event::NodeJoined { name, key, machine_id, token_hash, pending: false },
    ]
}

fn has_joined(office: &Office, number: u8) -> bool {
    office.read(|registry| registry.node(&NodeKey([number; 32])).is_some())
}

#[test]
fn what_was_appended_is_there_again() {
    let files = MemoryFiles::new();
    let office = create(&files);
    for (number, event) in (2..).zip(machine(1)) {
        assert_eq!(office.append(Actor::Host, event).unwrap(), number);
    }
    assert!(matches!(open(&files), Err(OfficeError::Locked)));
    let (registry, tip) = (office.registry(), office.tip());
    drop(office);
    let office = open(&files).unwrap();
    assert_eq!((office.registry(), office.tip()), (registry, tip));
    assert_eq!(office.audit(2, 1).unwrap()[0].event, machine(1)[0]);
    assert_eq!(office.audit(0, usize::MAX).unwrap().len(), 3);
    let node = office.read(|registry| registry.nodes().next().cloned()).unwrap();
    assert_eq!((node.status, node.joined), (NodeStatus::Active, Time(1000)));
    drop(office);
    let again = Office::create(Arc::new(files.clone()), env(), key());
    assert!(matches!(again, Err(OfficeError::Log(LogError::Exists { last: 3 }))));
    let other = Office::open(Arc::new(files), env(), SigningKey::from_seed(&[8; 32]));
    assert!(matches!(other, Err(OfficeError::Log(LogError::Entry { .. }))));
}

#[test]
fn what_cannot_be_is_not_written() {
    let files = MemoryFiles::new();
    let office = create(&files);
    let [token, join] = machine(1);
    assert!(matches!(office.append(Actor::Host, join), Err(OfficeError::Refused(_))));
    let nobody = Actor::Account(AccountId([1; 16]));
    assert!(matches!(office.append(nobody, token.clone()), Err(OfficeError::Refused(_))));
    assert_eq!((office.tip().sequence, files.paths().len()), (1, 2), "the entry and the lock: {:?}", files.paths());
    office.append(Actor::Host, token).unwrap();
}

#[test]
fn a_log_that_says_what_cannot_be_is_refused() {
    let files = MemoryFiles::new();
    drop(create(&files));
    let (mut log, _) = load(Arc::new(files.clone()), key().authority()).unwrap();
    let entry = log.next(1, Time(0), Actor::Host, Event::NodeRevoked { key: NodeKey([1; 32]) });
    log.append(&entry, &key()).unwrap();
    let error = open(&files).map(|_| ()).unwrap_err();
    assert!(matches!(&error, OfficeError::Contradiction { path: found, .. } if *found == path(2)), "{error}");
}

#[test]
fn generations_grow_and_stay() {
    let files = MemoryFiles::new();
    let office = create(&files);
    assert!(matches!(office.raise_generation(1), Err(OfficeError::Generation { least: 1, found: 1 })));
    office.raise_generation(4).unwrap();
    office.append(Actor::Host, note("in the fourth")).unwrap();
    drop(office);
    let office = open(&files).unwrap();
    assert_eq!((office.tip().generation, office.audit(3, 1).unwrap()[0].generation), (4, 4));
    assert!(office.raise_generation(4).is_err());
}

#[test]
fn after_a_power_cut_everything_acknowledged_is_there() {
    let seed = 0xc4a5;
    let mut dice = Dice(seed);
    let (files, _, log) = record(MemoryFiles::new(), MemoryKvHome::default());
    let office = Office::create(Arc::new(files), env(), key()).unwrap();
    log.ack("office");
    for number in 1..=4 {
        for event in machine(number) {
            office.append(Actor::Host, event).unwrap();
        }
        log.ack(number.to_string());
    }
    drop(office);
    let mut replay = Replay::new(&log);
    let mut count = 0;
    for at in 0..=replay.len() {
        replay.advance_to(at);
        let acks = log.acks(at);
        for state in replay.states(&mut dice, 24) {
            count += 1;
            let told = format!("seed {seed}, after {at}: {}", state.note);
            let office = match open(&state.files) {
                Ok(office) => office,
                Err(error) => {
                    assert!(acks.is_empty(), "{told}: {error}");
                    // An office whose making was cut short can be made.
                    drop(create(&state.files));
                    continue;
                }
            };
            for number in acks.iter().filter_map(|ack| ack.parse().ok()) {
                assert!(has_joined(&office, number), "{told}: machine {number} is lost");
            }
            // It goes on, whatever was left beside the entries.
            for event in machine(9) {
                office.append(Actor::Host, event).unwrap();
            }
            drop(office);
            assert!(has_joined(&open(&state.files.crash()).unwrap(), 9), "{told}");
        }
    }
    assert!(count > 200, "{count} states");
}

#[test]
fn after_a_failed_write_it_goes_on_with_what_became_of_it() {
    let faults = [Fault::Os(28), Fault::Short(28), Fault::Late(5)];
    let cases = Call::ALL.into_iter().flat_map(|call| faults.map(|fault| (call, fault)));
    let (mut hits, mut found) = (0, 0);
    for (call, fault) in cases {
        for nth in 1..8 {
            let (files, faults) = (MemoryFiles::new(), Faults::new());
            drop(create(&files));
            let faulty = Arc::new(FaultyFiles::new(Arc::new(files.clone()), faults.clone()));
            let office = Office::open(faulty, env(), key()).unwrap();
            faults.fail_once(call, nth, fault);
            let mut has_failed = false;
            for event in (1..=3).flat_map(machine) {
                let told = format!("{call:?} {fault:?} {nth}: {event:?}");
                let result = office.append(Actor::Host, event.clone());
                if let Err(error) = result {
                    assert!(!has_failed && !matches!(error, OfficeError::Refused(_)), "{told}: {error}");
                    has_failed = true;
                    assert_eq!(office.refused(), Some(error.to_string()), "{told}");
                    // Whoever tries again is told that it is done, or does it.
                    match office.append(Actor::Host, event) {
                        Ok(_) => {}
                        Err(OfficeError::Refused(_)) => found += 1,
                        Err(error) => panic!("{told}: {error}"),
                    }
                    assert_eq!(office.refused(), None, "{told}: it goes on");
                }
                let after = open(&files.crash()).unwrap();
                assert_eq!((after.registry(), after.tip()), (office.registry(), office.tip()), "{told}");
            }
            assert!((1..=3).all(|number| has_joined(&office, number)), "{call:?} {fault:?} {nth}");
            hits += faults.hits();
        }
    }
    assert!(hits > 60 && found > 5, "{hits} calls failed, {found} were done all the same");
}

#[test]
fn many_threads_write_one_log() {
    let files = MemoryFiles::new();
    let office = create(&files);
    std::thread::scope(|scope| {
        for number in 1..=4 {
            let office = &office;
            scope.spawn(move || {
                for event in machine(number) {
                    office.append(Actor::Host, event).unwrap();
                }
            });
        }
    });
    let registry = office.registry();
    drop(office);
    assert_eq!(open(&files).unwrap().registry(), registry);
    assert_eq!(registry.nodes().count(), 4);
}
