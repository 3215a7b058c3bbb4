//! Programs on a PC that ask the service of their machine for more than they should, while somebody backs up through it.

mod office;

use office::{Account, Mill, Office, begin, done, is_connected, local_of, open, run, soon, terminal, until, upload};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use twinkeep_engine::store::Store;
use twinkeep_nodes::host::ground::Folder;
use twinkeep_nodes::transport::keys::node_key;
use twinkeep_nodes::transport::limits::{
    CALLS_MAX, LOCAL_CONNECTIONS_PER_USER_MAX, LOCAL_LOGINS_PER_USER_MAX, LOCAL_UNSENT_MAX,
};
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_nodes::transport::rpc::Connection;
use twinkeep_schema::office_capnp::{bootstrap, local};

/// Connections that are left to whoever works.
const LEFT: usize = 4;

/// Frames of a backup.
const FRAMES: usize = 40;

/// The tracker's bootstrap as a program is lent it.
async fn lent(local: &local::Client) -> Result<bootstrap::Client, capnp::Error> {
    local.tracker_request().send().promise.await?.get()?.get_bootstrap()
}

/// A backup by a program of its own. Gives how long it took.
async fn back_up(office: &Office, socket: &Path, account: &Account) -> Duration {
    let begun = Instant::now();
    let (local, driver) = connected(UnixStream::connect(socket).await.unwrap());
    let took = store(office, socket, account, local).await;
    driver.abort();
    took.duration_since(begun)
}

/// What a connection offers, and what drives it.
fn connected(stream: UnixStream) -> (local::Client, tokio::task::JoinHandle<()>) {
    let mut connection = Connection::calling(stream);
    let local = connection.bootstrap();
    (local, tokio::task::spawn_local(async move { drop(connection.drive().await) }))
}

async fn store(office: &Office, socket: &Path, account: &Account, local: local::Client) -> Instant {
    let bootstrap = soon(lent(&local)).await.unwrap();
    let machine = if socket.ends_with("host.sock") { office.host.key() } else { node_key(&office::key(7)) };
    let session = office.login(&bootstrap, machine, account).await.unwrap();
    let vault = open(&session, account.vault).await.unwrap();
    let (write, id) = begin(&vault).await.unwrap();
    let mut mill = Mill::new(&office.env, account, account.vault, id);
    let stream = upload(&write).await.unwrap();
    for number in 0..FRAMES {
        let mut request = stream.put_request();
        request.get().set_frame(&mill.leaf(&[number as u8; 10_000]).1.bytes);
        soon(request.send()).await.unwrap();
    }
    assert_eq!(done(&stream).await.unwrap(), FRAMES as u64);
    soon(write.checkpoint_request().send().promise).await.unwrap();
    Instant::now()
}

/// One that asks and asks. `made` counts its answers.
async fn flood(socket: PathBuf, made: Rc<Cell<usize>>) {
    let Ok(stream) = UnixStream::connect(&socket).await else { return };
    let mut connection = Connection::calling(stream);
    let local: local::Client = connection.bootstrap();
    tokio::task::spawn_local(async move { drop(connection.drive().await) });
    let Ok(bootstrap) = lent(&local).await else { return };
    loop {
        // Many more than the whole line to the host may carry.
        let asked: Vec<_> = (0..2 * CALLS_MAX).map(|_| bootstrap.status_request().send().promise).collect();
        for answer in asked {
            if answer.await.is_err() {
                return;
            }
            made.set(made.get() + 1);
        }
    }
}

/// One that asks and does not fetch the answers.
async fn deaf(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // Whoever is answered with more than fits anywhere is not read any more.
    let mut message = capnp::message::Builder::new_default();
    let mut bytes = Vec::new();
    for number in 0..20 * LOCAL_UNSENT_MAX as u32 {
        let root = message.init_root::<capnp_rpc::rpc_capnp::message::Builder<'_>>();
        let mut asked = root.init_call();
        asked.set_question_id(number + 1);
        asked.set_interface_id(<local::Client as capnp::traits::HasTypeId>::TYPE_ID);
        asked.set_method_id(2);
        asked.reborrow().init_target().init_promised_answer().set_question_id(0);
        asked.init_params();
        if number == 0 {
            let mut first = capnp::message::Builder::new_default();
            first.init_root::<capnp_rpc::rpc_capnp::message::Builder<'_>>().init_bootstrap().set_question_id(0);
            bytes.extend(capnp::serialize::write_message_to_words(&first));
        }
        bytes.extend(capnp::serialize::write_message_to_words(&message));
    }
    // As much as is taken.
    let _ = tokio::time::timeout(Duration::from_millis(200), tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes))
        .await;
    stream
}

async fn beside_a_crowd(office: &Office, socket: &Path, worker: &local::Client) {
    let account = office.account("anna", 101, false);
    let alone = back_up(office, socket, &account).await;
    let deaf: Vec<UnixStream> = {
        let mut all = Vec::new();
        for _ in 0..8 {
            all.push(deaf(socket).await);
        }
        all
    };
    let made = Rc::new(Cell::new(0));
    let crowd: Vec<_> = (0..LOCAL_CONNECTIONS_PER_USER_MAX - LEFT - deaf.len())
        .map(|_| tokio::task::spawn_local(flood(socket.to_owned(), made.clone())))
        .collect();
    until("the crowd is at it", async || made.get() > 4 * CALLS_MAX).await;
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(back_up(office, socket, &account).await);
        assert!(is_connected(worker).await, "the line to the host ended");
    }
    println!("alone {alone:?}, beside {} connections {times:?}, {} answers", crowd.len() + deaf.len(), made.get());
    assert!(crowd.iter().all(|one| !one.is_finished()), "whoever only asks much is not cut off");
    let frames = office.host.vault(account.vault).unwrap().store.frames(twinkeep_engine::index::FrameNumber(0), 1000);
    assert_eq!(frames.unwrap().len(), 4 * FRAMES, "everything arrived");
    crowd.iter().for_each(|one| one.abort());
}

#[test]
fn a_backup_goes_on_beside_a_crowd_at_a_terminal() {
    run(async || {
        let office = Office::start().await;
        let socket = terminal(&office, office.machine("pc", 7, false), [7; 16]).await;
        let worker = local_of(&socket).await;
        beside_a_crowd(&office, &socket, &worker).await;
        assert_eq!(office.host.connections.count(), 1, "it is the same line");
    });
}

#[test]
fn a_backup_goes_on_beside_a_crowd_at_the_host() {
    run(async || {
        let office = Office::start().await;
        let socket = Folder::socket(&office.temp.path().join("host"));
        let worker = office.local().await;
        beside_a_crowd(&office, &socket, &worker).await;
    });
}

#[test]
fn one_user_has_so_many_connections_and_logins() {
    run(async || {
        let office = Office::start().await;
        let socket = terminal(&office, office.machine("pc", 7, false), [7; 16]).await;
        // The one of the test's own beginning has ended or not; one is kept in any case.
        let first = local_of(&socket).await;
        assert!(is_connected(&first).await);
        let mut held = Vec::new();
        let works = async |stream: UnixStream| {
            let mut connection = Connection::calling(stream);
            let local: local::Client = connection.bootstrap();
            let driver = tokio::task::spawn_local(async move { drop(connection.drive().await) });
            let works = soon(local.status_request().send().promise).await.is_ok();
            works.then_some((local, driver))
        };
        while let Some(one) = works(UnixStream::connect(&socket).await.unwrap()).await {
            held.push(one);
            assert!(held.len() < LOCAL_CONNECTIONS_PER_USER_MAX, "one user has any number of them");
        }
        assert!(held.len() >= LOCAL_CONNECTIONS_PER_USER_MAX - 3, "{}", held.len());
        assert!(is_connected(&first).await);
        // Who goes makes room.
        let (local, driver) = held.pop().unwrap();
        drop(local);
        driver.abort();
        until("there is room again", async || works(UnixStream::connect(&socket).await.unwrap()).await.is_some()).await;

        let bootstrap = soon(lent(&first)).await.unwrap();
        let mut logins = Vec::new();
        let refused = loop {
            let mut request = bootstrap.login_request();
            request.get().set_account("anna");
            match soon(request.send().promise).await {
                Ok(answer) => logins.push(answer.get().unwrap().get_login().unwrap()),
                Err(error) => break Problem::from(error),
            }
            assert!(logins.len() <= LOCAL_LOGINS_PER_USER_MAX);
        };
        assert_eq!((refused.why, logins.len()), (Why::Busy, LOCAL_LOGINS_PER_USER_MAX), "{refused:?}");
        drop(logins);
        until("logins that were given up do not count", async || {
            let mut request = bootstrap.login_request();
            request.get().set_account("anna");
            soon(request.send().promise).await.is_ok()
        })
        .await;
    });
}
