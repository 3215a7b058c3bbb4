//! Who is locked out is out at once: what was held before is of no use any more.

mod office;

use office::{Mill, Office, begin, done, open, put, run, soon, until, upload};
use twinkeep_engine::id::VaultId;
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::store::Store;
use twinkeep_nodes::tracker::event::Event;
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::names::AccountDeviceId;
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_schema::office_capnp::vault;

/// Frames of a vault at the host.
fn frames(office: &Office, vault: VaultId) -> usize {
    office.host.vault(vault).unwrap().store.frames(FrameNumber(0), 1000).unwrap().len()
}

fn refused<T>(outcome: Result<T, Problem>) {
    let problem = outcome.err().expect("somebody was let in who is out");
    assert!(problem.why == Why::NotAllowed || problem.text.starts_with("there is no vault"), "{problem:?}");
}

async fn known(vault: &vault::Client) -> Result<(), Problem> {
    Ok(soon(vault.known_request().send().promise).await.map(drop)?)
}

#[test]
fn who_is_locked_out_puts_nothing_through_what_it_still_holds() {
    run(async || {
        let office = Office::start().await;
        let (anna, boris) = (office.account("anna", 101, false), office.account("boris", 102, false));
        let (first, second) = (office.machine("first", 1, false), office.machine("second", 2, false));
        let (wire, other) = (office.dial(&first).await, office.dial(&second).await);
        let session = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        let vault = open(&session, anna.vault).await.unwrap();
        let (write, id) = begin(&vault).await.unwrap();
        let mut mill = Mill::new(&office.env, &anna, anna.vault, id);
        assert_eq!(put(&write, &[mill.leaf(b"one").1.bytes]).await.unwrap(), 1);

        // A disabled account; what it held works again when it is let in again.
        let held = upload(&write).await.unwrap();
        let disable = |on| office.host.office.append(Actor::Host, Event::AccountDisabled { id: anna.id, on }).unwrap();
        disable(true);
        let mut request = held.put_request();
        request.get().set_frame(&mill.leaf(b"two").1.bytes);
        soon(request.send()).await.unwrap();
        refused(done(&held).await);
        refused(known(&vault).await);
        disable(false);
        assert_eq!(put(&write, &[mill.leaf(b"three").1.bytes]).await.unwrap(), 1);
        soon(write.checkpoint_request().send().promise).await.unwrap();
        assert_eq!(frames(&office, anna.vault), 2);

        // A member that is none any more.
        let joined = |on: bool| Event::VaultMember {
            vault: anna.vault,
            account: boris.id,
            on,
            wrapped: if on { vec![1; 80] } else { Vec::new() },
        };
        office.host.office.append(Actor::Host, joined(true)).unwrap();
        let theirs = office.login(&other.bootstrap, other.key, &boris).await.unwrap();
        let lent = open(&theirs, anna.vault).await.unwrap();
        let (writing, id) = begin(&lent).await.unwrap();
        let mut mill = Mill::new(&office.env, &anna, anna.vault, id);
        assert_eq!(put(&writing, &[mill.leaf(b"four").1.bytes]).await.unwrap(), 1);
        let held = upload(&writing).await.unwrap();
        office.host.office.append(Actor::Host, joined(false)).unwrap();
        refused(known(&lent).await);
        refused(upload(&writing).await);
        let mut request = held.put_request();
        request.get().set_frame(&mill.leaf(b"five").1.bytes);
        soon(request.send()).await.unwrap();
        refused(done(&held).await);
        // Ends the session, with all that it took.
        drop((held, writing));
        soon(write.checkpoint_request().send().promise).await.unwrap();
        assert!(frames(&office, anna.vault) <= 3);
    });
}

#[test]
fn a_revoked_device_is_out_at_once() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let (session, wrapped) = office.prove(&wire.bootstrap, wire.key, "anna", &anna.login, None).await.unwrap();
        assert!(!wrapped.is_empty());
        let key = office::key(50);
        let mut request = session.add_device_request();
        request.get().set_key(&key.public());
        let answer = soon(request.send().promise).await.unwrap();
        let id = AccountDeviceId(answer.get().unwrap().get_device().unwrap().try_into().unwrap());
        let (by_device, wrapped) = office.prove(&wire.bootstrap, wire.key, "anna", &key, Some(id)).await.unwrap();
        assert!(wrapped.is_empty(), "a device is given what passwords can be tried on");
        let vault = open(&by_device, anna.vault).await.unwrap();
        known(&vault).await.unwrap();
        let mut request = session.revoke_device_request();
        request.get().set_device(&id.0);
        soon(request.send().promise).await.unwrap();
        refused(known(&vault).await);
        refused(open(&by_device, anna.vault).await);
        assert!(office.prove(&wire.bootstrap, wire.key, "anna", &key, Some(id)).await.is_err());
        known(&open(&session, anna.vault).await.unwrap()).await.unwrap();
    });
}

#[test]
fn revoking_a_machine_ends_its_connections() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let (bad, good) = (office.machine("bad", 1, false), office.machine("good", 2, false));
        let (first, second, other) = (office.dial(&bad).await, office.dial(&bad).await, office.dial(&good).await);
        let session = office.login(&first.bootstrap, first.key, &anna).await.unwrap();
        let vault = open(&session, anna.vault).await.unwrap();
        // An answer says that the host has taken it in.
        soon(second.bootstrap.status_request().send().promise).await.unwrap();
        let answer = soon(office.local().await.admin_request().send().promise).await.unwrap();
        let mut request = answer.get().unwrap().get_admin().unwrap().revoke_request();
        request.get().set_name("bad");
        soon(request.send().promise).await.unwrap();
        until("the connections end", async || first.is_over() && second.is_over()).await;
        let problem = known(&vault).await.unwrap_err();
        assert_eq!(problem.why, Why::Unreachable, "{problem:?}");
        let again = office.dial(&bad).await;
        refused(office.login(&again.bootstrap, again.key, &anna).await);
        office.login(&other.bootstrap, other.key, &anna).await.unwrap();
    });
}
