//! Guessing passwords over the wire: nothing tells which accounts there are, guessing soon has to wait, and devices do
//! not mind.

mod office;

use office::{Office, Wire, run, soon, until};
use twinkeep_nodes::tracker::names::AccountDeviceId;
use twinkeep_nodes::transport::problem::{Problem, Why};

async fn guess(office: &Office, wire: &Wire, name: &str) -> Problem {
    office.prove(&wire.bootstrap, wire.key, name, &office::key(200), None).await.err().expect("a guess is right")
}

fn sequence(office: &Office) -> u64 {
    office.host.office.read(|registry| registry.sequence())
}

#[test]
fn guesses_tell_nothing_and_wait() {
    run(async || {
        let office = Office::start().await;
        let (anna, dora) = (office.account("anna", 101, false), office.account("dora", 102, false));
        let event = twinkeep_nodes::tracker::event::Event::AccountDisabled { id: dora.id, on: true };
        office.host.office.append(twinkeep_nodes::tracker::log::Actor::Host, event).unwrap();
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let session = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        let device = office::key(50);
        let mut request = session.add_device_request();
        request.get().set_key(&device.public());
        let answer = soon(request.send().promise).await.unwrap();
        let id = AccountDeviceId(answer.get().unwrap().get_device().unwrap().try_into().unwrap());

        // An account, one that is disabled (with its true key too), and none.
        let names = ["anna", "dora", "nobody"];
        let mut first = Vec::new();
        for name in names {
            first.push(guess(&office, &wire, name).await);
        }
        assert!(first.iter().all(|problem| *problem == first[0]), "{first:?}");
        assert_eq!(first[0].why, Why::WrongKey);
        let after = sequence(&office);
        let mut second = Vec::new();
        for name in names {
            second.push(guess(&office, &wire, name).await);
        }
        assert!(second.iter().all(|problem| *problem == second[0]), "{second:?}");
        assert!(second[0].why == Why::NotAllowed && second[0].text.contains("wait 1 s"), "{second:?}");
        for _ in 0..50 {
            assert!(guess(&office, &wire, "anna").await.text.contains("wait"));
        }
        assert_eq!(sequence(&office), after, "tries that were refused fill the log");

        // Not by the true password either; by a device at once.
        let told = office.login(&wire.bootstrap, wire.key, &anna).await.err().unwrap();
        assert!(told.text.contains("wait"), "{told:?}");
        office.prove(&wire.bootstrap, wire.key, "anna", &device, Some(id)).await.unwrap();
        // A wrong device is a wrong guess, whoever's id it names.
        let wrong = office.prove(&wire.bootstrap, wire.key, "nobody", &device, Some(id)).await.err().unwrap();
        assert_eq!(wrong, second[2]);
        // Waiting helps.
        until("the pause ends", async || office.login(&wire.bootstrap, wire.key, &anna).await.is_ok()).await;
    });
}

#[test]
fn a_device_that_was_revoked_locks_nobody_out() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let session = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        let device = office::key(50);
        let mut request = session.add_device_request();
        request.get().set_key(&device.public());
        let answer = soon(request.send().promise).await.unwrap();
        let id = AccountDeviceId(answer.get().unwrap().get_device().unwrap().try_into().unwrap());
        let mut request = session.revoke_device_request();
        request.get().set_device(&id.0);
        soon(request.send().promise).await.unwrap();
        // A timer there goes on and on.
        for _ in 0..30 {
            let told = office.prove(&wire.bootstrap, wire.key, "anna", &device, Some(id)).await.err().unwrap();
            assert!(matches!(told.why, Why::WrongKey | Why::NotAllowed), "{told:?}");
        }
        office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
    });
}

#[test]
fn what_is_asked_before_a_proof_tells_nothing_either() {
    run(async || {
        let office = Office::start().await;
        office.account("anna", 101, false);
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let ask = async |name: &str| {
            let mut request = wire.bootstrap.login_request();
            request.get().set_account(name);
            let answer = soon(request.send().promise).await.unwrap();
            let answer = answer.get().unwrap();
            let cost = (answer.get_memory_kib(), answer.get_passes(), answer.get_lanes());
            (answer.get_salt().unwrap().to_vec(), cost, answer.get_challenge().unwrap().to_vec())
        };
        let (known, unknown, again) = (ask("anna").await, ask("nobody").await, ask("NoBody").await);
        assert_eq!((known.0.len(), known.1, known.2.len()), (unknown.0.len(), unknown.1, unknown.2.len()));
        assert_eq!(unknown.0, again.0, "the salt of a name changes");
        assert_ne!(unknown.0, ask("somebody").await.0);
        assert_ne!(unknown.2, again.2);
    });
}
