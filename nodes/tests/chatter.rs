//! Machines and accounts that would fill the office's log: what they do is told as a number, or refused when it is too
//! often. Others notice nothing.

mod office;

use capnp::Error;
use office::{Account, Office, Wire, run, soon};
use std::rc::Rc;
use twinkeep_nodes::tracker::event::Event;
use twinkeep_nodes::tracker::limits::DEVICES_MAX;
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::names::AccountDeviceId;
use twinkeep_nodes::tracker::pace::CHANGES_AT_ONCE;
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_schema::office_capnp::{copies, user_session};

const TIMES: usize = 300;

fn sequence(office: &Office) -> u64 {
    office.host.office.read(|registry| registry.sequence())
}

/// Of the entries since then those that tell of audits, in words.
fn told(office: &Office, since: u64) -> Vec<String> {
    let entries = office.host.office.audit(since + 1, 1000).unwrap();
    let told = entries.into_iter().filter_map(|entry| match entry.event {
        Event::Audit { text, .. } => Some(text),
        _ => None,
    });
    told.collect()
}

struct Empty;

impl copies::Server for Empty {
    async fn list(self: Rc<Self>, _: copies::ListParams, _: copies::ListResults) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn a_machine_that_grants_something_else_each_time_is_not_written_down_each_time() {
    run(async || {
        let office = Office::start().await;
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let before = sequence(&office);
        let key = wire.key;
        for at in 0..TIMES {
            let mut request = wire.bootstrap.node_request();
            let mut told = request.get().init_registration();
            told.set_run(&[7; 16]);
            told.set_machine_id(&[7; 16]);
            told.set_granted(at as u64 + 1);
            told.init_inventory().set_digest(&[0; 32]);
            request.get().set_copies(capnp_rpc::new_client(Empty));
            let answer = soon(request.send().promise).await.unwrap();
            answer.get().unwrap().get_session().unwrap();
            let online = office.host.online.lock().unwrap();
            assert_eq!(online.live(&key).map(|live| live.granted), Some(at as u64 + 1), "what it says now counts");
        }
        let written = sequence(&office) - before;
        println!("{written} entries of {TIMES} grants");
        assert!(written <= u64::from(CHANGES_AT_ONCE), "{written} entries");
    });
}

async fn device(session: &user_session::Client, number: usize) -> Result<AccountDeviceId, Problem> {
    let mut request = session.add_device_request();
    let mut key = [1; 32];
    key[..8].copy_from_slice(&(number as u64).to_le_bytes());
    request.get().set_key(&key);
    request.get().set_label("pc");
    let answer = soon(request.send().promise).await?;
    Ok(AccountDeviceId(answer.get()?.get_device()?.try_into().unwrap()))
}

async fn revoke(session: &user_session::Client, device: AccountDeviceId) -> Result<(), Problem> {
    let mut request = session.revoke_device_request();
    request.get().set_device(&device.0);
    Ok(soon(request.send().promise).await.map(drop)?)
}

#[test]
fn devices_that_come_and_go_end_with_a_word_and_another_account_has_its_own() {
    run(async || {
        let office = Office::start().await;
        let (anna, boris) = (office.account("anna", 101, false), office.account("boris", 102, false));
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let greedy = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        let before = sequence(&office);
        let first = device(&greedy, 0).await.unwrap();
        let mut refused = None;
        for number in 1..TIMES {
            match device(&greedy, number).await {
                Ok(device) => revoke(&greedy, device).await.unwrap(),
                Err(problem) => drop(refused.get_or_insert(problem)),
            }
        }
        let written = sequence(&office) - before;
        println!("{written} entries of {TIMES} devices: {refused:?}");
        assert!(written <= 2 * u64::from(CHANGES_AT_ONCE), "{written} entries");
        let refused = refused.expect("they end");
        assert_eq!(refused.why, Why::NotAllowed);
        assert!(refused.text.contains("wait"), "{}", refused.text);
        // What was given can always be taken back.
        revoke(&greedy, first).await.unwrap();
        let other = office.login(&wire.bootstrap, wire.key, &boris).await.unwrap();
        device(&other, TIMES).await.unwrap();
    });
}

#[test]
fn an_account_has_no_more_devices_than_may_be() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        for number in 0..DEVICES_MAX {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let mut key = [9; 32];
            key[..16].copy_from_slice(&id);
            let device = AccountDeviceId(id);
            let added = Event::DeviceAdded { account: anna.id, device, label: "pc".into(), key };
            office.host.office.append(Actor::Host, added).unwrap();
        }
        let session = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        let problem = device(&session, 1).await.unwrap_err();
        assert!(problem.why == Why::Usage && problem.text.contains("revoke-device"), "{problem:?}");
        revoke(&session, AccountDeviceId([0; 16])).await.unwrap();
        device(&session, 2).await.unwrap();
    });
}

async fn log_in_often(
    office: &Office,
    wire: &Wire,
    account: &Account,
    key: &twinkeep_nodes::tracker::sign::SigningKey,
) {
    for _ in 0..TIMES {
        let device = Some(AccountDeviceId([7; 16]));
        drop(office.prove(&wire.bootstrap, wire.key, &account.name, key, device).await.unwrap());
    }
}

#[test]
fn logins_are_told_as_a_number() {
    run(async || {
        let office = Office::start().await;
        let (anna, boris) = (office.account("anna", 101, false), office.account("boris", 102, false));
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let key = office::key(55);
        let (device, label) = (AccountDeviceId([7; 16]), "pc".to_owned());
        let added = Event::DeviceAdded { account: anna.id, device, label, key: key.public() };
        office.host.office.append(Actor::Host, added).unwrap();
        let before = sequence(&office);
        log_in_often(&office, &wire, &anna, &key).await;
        let all = told(&office, before);
        println!("{all:#?}");
        assert!(all.len() <= 20, "{} entries of {TIMES} logins", all.len());
        assert_eq!(all[0], "anna from 127.0.0.1");
        assert_eq!(all.last().unwrap(), "anna from 127.0.0.1, 256 times within an hour");
        // Others, and what did not succeed, are told for themselves.
        office.login(&wire.bootstrap, wire.key, &boris).await.unwrap();
        assert!(office.prove(&wire.bootstrap, wire.key, "anna", &office::key(99), None).await.is_err());
        assert_eq!(told(&office, before)[all.len()..], ["boris from 127.0.0.1", "anna from 127.0.0.1"]);
    });
}
