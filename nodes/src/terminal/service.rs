//! The service: it keeps its line to the host, says that it is there, and lends the line to programs on this machine.

use super::copies::{CopiesServer, Kept};
use super::local::LocalServer;
use crate::host::ground::space;
use crate::tracker::names::NodeKey;
use crate::tracker::sign::{AuthorityKey, SigningKey};
use crate::transport::limits::{BEAT, HANDSHAKE, PING_DEADLINE, PROTOCOL, RECONNECT};
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::rpc::Connection;
use crate::transport::tls;
use crate::work::Work;
use capnp::Error;
use capnp::capability::FromClientHook;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpStream, UnixListener};
use tokio_rustls::TlsConnector;
use twinkeep_engine::env::Env;
use twinkeep_engine::limits::COPIES_TRASH_SECS;
use twinkeep_schema::office_capnp::{bootstrap, copies, local, node_session};

/// What a terminal is.
pub struct Settings {
    /// Its folder.
    pub data: PathBuf,
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: SigningKey,
    /// Where the host is, tried in order.
    pub hosts: Vec<String>,
    /// Who the host is.
    pub host_key: NodeKey,
    /// Who signs for the company.
    pub authority: AuthorityKey,
    /// The physical machine it runs on.
    pub machine_id: [u8; 16],
    /// Its program.
    pub version: String,
}

/// What of a terminal's line to the host others use.
#[derive(Default)]
pub struct Line {
    /// The host's bootstrap, while it can be reached.
    pub bootstrap: RefCell<Option<bootstrap::Client>>,
    /// The session, while the host has it.
    pub session: RefCell<Option<node_session::Client>>,
    /// What was last wrong, in words.
    pub trouble: RefCell<String>,
}

/// Runs a terminal until `stop` comes. To be called on a local task set.
///
/// # Errors
/// The socket cannot be made. A host out of reach is no error: it is tried again.
pub async fn run(
    settings: Settings,
    kept: Arc<Kept>,
    env: Env,
    work: Work,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), Problem> {
    let settings = Rc::new(settings);
    let line = Rc::new(Line::default());
    let mut start = [0; 16];
    env.entropy.fill(&mut start);
    let socket = serve_local(listener, settings.clone(), kept.clone(), line.clone(), work);
    let host = keep_line(&settings, &kept, &line, start, work);
    let upkeep = keep_up(&kept, &line, work);
    tokio::select! {
        () = socket => Err(problem(Why::Other, "the local socket was closed")),
        () = host => Ok(()),
        () = upkeep => Ok(()),
        () = stop => Ok(()),
    }
}

/// Programs on this machine.
async fn serve_local(listener: UnixListener, settings: Rc<Settings>, kept: Arc<Kept>, line: Rc<Line>, work: Work) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let server = LocalServer::new(settings.clone(), kept.clone(), line.clone(), work);
        let client: local::Client = capnp_rpc::new_client(server);
        let client = capnp::capability::Client::new(client.into_client_hook());
        tokio::task::spawn_local(async move { Connection::serving(stream, client).drive().await });
    }
}

/// Reaches the host again and again, with longer and longer waits.
async fn keep_line(settings: &Settings, kept: &Arc<Kept>, line: &Rc<Line>, start: [u8; 16], work: Work) {
    let mut wait = RECONNECT.0;
    loop {
        let ended = connected(settings, kept, line, start, work).await;
        line.bootstrap.take();
        let was_there = line.session.take().is_some();
        if let Err(error) = &ended {
            tracing::warn!(%error, "the line to the host is down");
            *line.trouble.borrow_mut() = error.to_string();
        }
        // However short it was: a host that is started again is found at once.
        if was_there {
            wait = RECONNECT.0;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RECONNECT.1);
    }
}

/// Dials the addresses of the host in turn.
async fn dial(settings: &Settings) -> Result<Connection, Problem> {
    let connector = TlsConnector::from(tls::client(&settings.key, &[settings.host_key]));
    let mut failures = Vec::new();
    for address in &settings.hosts {
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            connector.connect(tls::server_name(), stream).await
        };
        match tokio::time::timeout(HANDSHAKE, connect).await {
            Ok(Ok(stream)) => return Ok(Connection::calling(stream)),
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer")),
        }
    }
    Err(problem(Why::Unreachable, format!("cannot reach the host ({})", failures.join("; "))))
}

async fn connected(
    settings: &Settings,
    kept: &Arc<Kept>,
    line: &Rc<Line>,
    start: [u8; 16],
    work: Work,
) -> Result<(), Problem> {
    let mut connection = dial(settings).await?;
    let host: bootstrap::Client = connection.bootstrap();
    let (over, end) = tokio::sync::oneshot::channel::<()>();
    let mut driver = tokio::task::spawn_local(connection.drive_until(async { drop(end.await) }));
    let said = tokio::select! {
        said = be_there(settings, kept, line, host, start, work) => said,
        ended = &mut driver => match ended {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Err(Error::disconnected("the host has hung up".into())),
        },
    };
    // Programs on this machine that wait for the host are told.
    drop(over);
    said.map_err(Problem::from)
}

/// Everything between a handshake and the end of the line.
async fn be_there(
    settings: &Settings,
    kept: &Arc<Kept>,
    line: &Rc<Line>,
    host: bootstrap::Client,
    start: [u8; 16],
    work: Work,
) -> Result<(), Error> {
    let mut hello = host.hello_request();
    hello.get().set_version(PROTOCOL);
    soon(hello.send().promise).await?;
    loop {
        let answer = soon(host.status_request().send().promise).await?;
        match answer.get()?.get_status()? {
            bootstrap::Status::Active => break,
            bootstrap::Status::Pending => {
                *line.trouble.borrow_mut() = "this machine waits for an administrator's approval".into();
            }
            bootstrap::Status::Unknown | bootstrap::Status::Revoked => {
                let text = "the host does not trust this machine's key: join again with a new token";
                return Err(problem(Why::NotAllowed, text).into());
            }
        }
        tokio::time::sleep(BEAT).await;
    }
    let mut request = host.node_request();
    let inventory = {
        let kept = kept.clone();
        work.run(move || kept.store.inventory()).await?
    };
    let server = CopiesServer::new(kept.clone(), settings.authority, work);
    let copies: copies::Client = capnp_rpc::new_client(server);
    request.get().set_copies(copies);
    let mut told = request.get().init_registration();
    told.set_granted(kept.granted.load(Ordering::Relaxed));
    told.set_free(space(&settings.data).free);
    told.set_machine_id(&settings.machine_id);
    told.set_incarnation(&inventory.incarnation);
    told.set_run(&start);
    told.set_version(&settings.version[..]);
    kept.tell(told.init_inventory())?;
    let session = soon(request.send().promise).await?.get()?.get_session()?;
    tracing::info!(host = ?settings.hosts, "the host has us");
    line.trouble.take();
    *line.bootstrap.borrow_mut() = Some(host);
    *line.session.borrow_mut() = Some(session.clone());
    loop {
        tokio::time::sleep(BEAT).await;
        let mut beat = session.beat_request();
        beat.get().set_granted(kept.granted.load(Ordering::Relaxed));
        beat.get().set_free(space(&settings.data).free);
        kept.tell(beat.get().init_inventory())?;
        soon(beat.send().promise).await?;
    }
}

/// Waits for an answer, not for ever.
async fn soon<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PING_DEADLINE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::disconnected("the host does not answer".into())),
    }
}

/// How often the store is looked after, and bytes that are verified then: a terabyte in five months, some hundred
/// kilobytes a second.
const UPKEEP: (Duration, u64) = (Duration::from_secs(60), 8 << 20);

/// What was set aside lies in trash for so long, of the machine's own uptime.
const TRASH: Duration = Duration::from_secs(COPIES_TRASH_SECS);

/// Rounds of upkeep between two looks into the trash.
const TRASH_ROUNDS: u64 = 60;

/// Verifies what is held, a little at a time, and frees what has been in trash for long enough. What is bad is owed again
/// as soon as the host hears of it, which gives it anew.
async fn keep_up(kept: &Arc<Kept>, line: &Rc<Line>, work: Work) {
    let mut cursor = None;
    for round in 0_u64.. {
        tokio::time::sleep(UPKEEP.0).await;
        let store = kept.store.clone();
        let step = work
            .run(move || {
                store.tick()?;
                if round.is_multiple_of(TRASH_ROUNDS) {
                    store.empty_trash(TRASH)?;
                }
                store.scrub(cursor, UPKEEP.1)
            })
            .await;
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                tracing::warn!(%error, "cannot verify what is held");
                continue;
            }
        };
        cursor = step.next;
        if !step.bad.is_empty() {
            tracing::warn!(frames = step.bad.len(), "copies are damaged; the host gives them again");
            if let Err(error) = report(line, &step.bad).await {
                // The next comparison of inventories tells the host in any case.
                tracing::warn!(%error, "cannot tell the host");
            }
        }
    }
}

/// Tells the host what is not held any more.
pub async fn report(line: &Rc<Line>, frames: &[twinkeep_engine::id::FrameId]) -> Result<(), Error> {
    let session = line.session.borrow().clone();
    let Some(session) = session else {
        return Err(problem(Why::Unreachable, "the host cannot be reached").into());
    };
    let mut request = session.retract_request();
    request.get().set_frames(&crate::transport::ids::join(frames));
    soon(request.send().promise).await?;
    Ok(())
}
