//! The service: it keeps its line to the host, says that it is there, and lends the line to programs on this machine.

use super::away::{self, Away};
use super::copies::{CopiesServer, Kept};
use super::local::LocalServer;
use super::power;
use super::trusted::{LISTS_LEN_MAX, Learned, Trusted};
use super::unknown::Unknown;
use super::upkeep::{UNKNOWN, keep_up};
use crate::host::ground::{Space, space};
use crate::host::trouble::Trouble;
use crate::secrets;
use crate::tracker::names::NodeKey;
use crate::tracker::sign::{AuthorityKey, SigningKey};
use crate::transport::gate::{Gate, Guest};
use crate::transport::limits::{BEAT, HANDSHAKE, PING_DEADLINE, RECONNECT};
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::rpc::Connection;
use crate::transport::tls;
use crate::transport::version::hello;
use crate::work::Work;
use capnp::Error;
use capnp::capability::FromClientHook;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixListener};
use tokio_rustls::TlsConnector;
use twinkeep_engine::env::{Clock, Env, Time};
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
    /// The host at the other end, while it can be reached.
    pub host: Cell<Option<NodeKey>>,
    /// What was last wrong.
    pub trouble: RefCell<Option<Problem>>,
    /// The host has said that it goes away, and has not come back.
    pub away: RefCell<Option<Away>>,
}

impl Line {
    /// How it stands with the host, in words.
    pub fn words(&self) -> String {
        let trouble = self.trouble.borrow();
        let trouble = trouble.as_ref().map_or("not connected yet", |trouble| &trouble.text[..]);
        match (&*self.session.borrow(), &*self.away.borrow()) {
            (Some(_), _) => "connected to the host".to_owned(),
            (None, None) => trouble.to_owned(),
            (None, Some(away)) => match away.left() {
                Some(left) => format!("the host is away on purpose, for {} more", away::minutes(left)),
                None => format!("the host went away on purpose, and is not back in time: {trouble}"),
            },
        }
    }

    /// Until when the host is away on purpose; nothing where it is here, or is not back in time.
    pub fn away_until(&self) -> Option<Time> {
        if self.session.borrow().is_some() {
            return None;
        }
        let away = self.away.borrow();
        away.as_ref().filter(|away| away.left().is_some()).map(Away::until)
    }
}

/// What is outside a terminal: the network and its disk.
pub trait Outside {
    /// A connection to another machine.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// Reaches an address, `host:port`.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>>;
    /// The disk that copies are on.
    fn space(&self) -> Space;
    /// The lists of machines that were kept; nothing where none was.
    ///
    /// # Errors
    /// They cannot be read.
    fn kept_lists(&self) -> io::Result<Vec<u8>>;
    /// Keeps them, durably.
    ///
    /// # Errors
    /// They cannot be written.
    fn keep_lists(&self, bytes: &[u8]) -> io::Result<()>;
    /// What was kept under a name; nothing where nothing was.
    ///
    /// # Errors
    /// It cannot be read.
    fn kept(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Keeps something under a name, durably; nothing of it where there are no bytes.
    ///
    /// # Errors
    /// It cannot be written.
    fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Whether the machine runs on battery, as far as it says.
    fn is_on_battery(&self) -> bool {
        false
    }
}

/// The file of lists of machines in a terminal's folder.
const LISTS: &str = "nodes.list";

/// The file that says until when the host is away on purpose.
const AWAY: &str = "away";

/// No file that is kept under a name is longer.
const KEPT_LEN_MAX: u64 = 32 << 20;

/// This machine's, with the terminal's folder.
pub struct Machine(pub PathBuf);

impl Outside for Machine {
    type Stream = TcpStream;

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn space(&self) -> Space {
        space(&self.0)
    }

    fn kept_lists(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match File::open(self.0.join(LISTS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => drop(file?.take(LISTS_LEN_MAX as u64).read_to_end(&mut bytes)?),
        }
        Ok(bytes)
    }

    fn keep_lists(&self, bytes: &[u8]) -> io::Result<()> {
        secrets::replace(&self.0.join(LISTS), bytes)
    }

    fn kept(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match File::open(self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => drop(file?.take(KEPT_LEN_MAX).read_to_end(&mut bytes)?),
        }
        Ok(bytes)
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(name);
        match bytes {
            [] => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            bytes => secrets::replace(&path, bytes),
        }
    }

    fn is_on_battery(&self) -> bool {
        power::is_on_battery(Path::new(power::SUPPLIES))
    }
}

/// A terminal's service: cheap to clone, clones are the same service.
pub struct Terminal<O> {
    settings: Rc<Settings>,
    kept: Arc<Kept>,
    line: Rc<Line>,
    outside: Rc<O>,
    /// Drawn at every start.
    start: [u8; 16],
    work: Work,
    clock: Arc<dyn Clock>,
}

impl<O> Clone for Terminal<O> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            kept: self.kept.clone(),
            line: self.line.clone(),
            outside: self.outside.clone(),
            start: self.start,
            work: self.work,
            clock: self.clock.clone(),
        }
    }
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
    let outside = Machine(settings.data.clone());
    Terminal::new(settings, kept, &env, work, outside).serve(listener, stop).await
}

/// Programs on this machine.
async fn serve_local<O: Outside + 'static>(listener: UnixListener, terminal: &Terminal<O>) {
    let gate = Rc::new(Gate::default());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(guest) = stream.peer_cred().ok().and_then(|peer| gate.enter(peer.uid())) else { continue };
        let client = capnp::capability::Client::new(terminal.local_of(Some(guest.clone())).into_client_hook());
        tokio::task::spawn_local(async move {
            Connection::serving_guest(stream, client, guest.clone()).drive_until(guest.ended()).await
        });
    }
}

impl<O: Outside + 'static> Terminal<O> {
    /// Serves programs on this machine and the host until `stop` comes. To be called on a local task set.
    ///
    /// # Errors
    /// The socket was closed. A host out of reach is no error: it is tried again.
    pub async fn serve(&self, listener: UnixListener, stop: impl Future<Output = ()>) -> Result<(), Problem> {
        tokio::select! {
            () = serve_local(listener, self) => Err(problem(Why::Other, "the local socket was closed")),
            () = self.run() => Ok(()),
            () = stop => Ok(()),
        }
    }
}

impl<O: Outside + 'static> Terminal<O> {
    /// One that has just started.
    pub fn new(settings: Settings, kept: Arc<Kept>, env: &Env, work: Work, outside: O) -> Self {
        let mut start = [0; 16];
        env.entropy.fill(&mut start);
        let (settings, outside) = (Rc::new(settings), Rc::new(outside));
        let (line, clock) = (Rc::new(Line::default()), env.clock.clone());
        match outside.kept(AWAY) {
            Ok(kept) => *line.away.borrow_mut() = Away::resume(clock.clone(), &kept),
            Err(error) => tracing::warn!(%error, "cannot read whether the host is away on purpose"),
        }
        match outside.kept(UNKNOWN) {
            Ok(bytes) => *kept.unknown() = Unknown::read(&bytes),
            Err(error) => tracing::warn!(%error, "cannot read what the host does not know"),
        }
        Self { settings, kept, line, outside, start, work, clock }
    }

    /// Keeps until when the host is away, for a service that starts meanwhile.
    fn keep_away(outside: &O, away: &[u8]) {
        if let Err(error) = outside.keep(AWAY, away) {
            tracing::warn!(%error, "cannot keep until when the host is away");
        }
    }

    /// How it stands, in a line.
    pub fn standing(&self) -> String {
        let mut line = self.line.words();
        if let Ok(held) = self.kept.store.inventory() {
            let granted = self.kept.granted.load(Ordering::Relaxed);
            line = format!("{line}; holds {} MB of {} MB granted", held.bytes / 1_000_000, granted / 1_000_000);
        }
        line
    }

    /// What somebody should know of. Looks at nothing that could make it wait for long.
    pub fn troubles(&self) -> Vec<Trouble> {
        let mut found = Vec::new();
        if self.line.session.borrow().is_none() {
            let is_serious = self.line.away_until().is_none();
            found.push(Trouble { about: "host", is_serious, text: self.line.words() });
        }
        let (granted, free) = (self.kept.granted.load(Ordering::Relaxed), self.outside.space().free);
        match self.kept.store.inventory() {
            Ok(held) if granted.saturating_sub(held.bytes) > free => found.push(Trouble {
                about: "disk",
                is_serious: false,
                text: format!(
                    "the office may use {} MB more here, and the disk has {} MB: make room, or grant less",
                    granted.saturating_sub(held.bytes) / 1_000_000,
                    free / 1_000_000
                ),
            }),
            Ok(_) => {}
            Err(error) => found.push(Trouble { about: "copies", is_serious: true, text: error.to_string() }),
        }
        found
    }

    /// What a program on this machine is given.
    pub fn local(&self) -> local::Client {
        self.local_of(None)
    }

    /// The same, for one that came through the gate.
    fn local_of(&self, guest: Option<Rc<Guest>>) -> local::Client {
        let (settings, kept, line) = (self.settings.clone(), self.kept.clone(), self.line.clone());
        capnp_rpc::new_client(LocalServer::new(settings, kept, line, self.work).of(guest))
    }

    /// Keeps the line to the host and looks after the store, for ever. To be called on a local task set.
    pub async fn run(&self) {
        // In this order always: a simulation repeats exactly.
        tokio::select! {
            biased;
            () = self.keep_line() => {}
            () = keep_up(&self.kept, &self.line, &*self.outside, self.work) => {}
        }
    }

    /// Reaches the host again and again, with longer and longer waits.
    async fn keep_line(&self) {
        let mut wait = RECONNECT.0;
        loop {
            let ended = self.connected().await;
            self.line.bootstrap.take();
            self.line.host.take();
            let was_there = self.line.session.take().is_some();
            if let Err(error) = &ended {
                match self.line.away_until() {
                    Some(_) => tracing::debug!(%error, "the host is away on purpose"),
                    None => tracing::warn!(%error, "the line to the host is down"),
                }
                *self.line.trouble.borrow_mut() = Some(error.clone());
            }
            // However short it was: a host that is started again is found at once.
            if was_there {
                wait = RECONNECT.0;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RECONNECT.1);
        }
    }

    async fn connected(&self) -> Result<(), Problem> {
        let mut trusted = self.trusted();
        let (mut connection, key) = dial(&*self.outside, &self.settings, &trusted.hosts()).await?;
        self.line.host.set(Some(key));
        let host: bootstrap::Client = connection.bootstrap();
        let (over, end) = tokio::sync::oneshot::channel::<()>();
        let mut driver = tokio::task::spawn_local(connection.drive_until(async { drop(end.await) }));
        let said = tokio::select! {
            biased;
            said = self.be_there(host, &mut trusted) => said,
            ended = &mut driver => match ended {
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the connection broke");
                    Err(Error::disconnected("the connection broke".into()))
                }
                Ok(Ok(())) | Err(_) => Err(Error::disconnected("the host has hung up".into())),
            },
        };
        // Programs on this machine that wait for the host are told.
        drop(over);
        said.map_err(Problem::from)
    }

    /// Everything between a handshake and the end of the line.
    async fn be_there(&self, host: bootstrap::Client, trusted: &mut Trusted) -> Result<(), Error> {
        let Self { settings, kept, line, outside, start, work, .. } = self;
        let work = *work;
        soon(hello(&host)).await?;
        loop {
            let answer = soon(host.status_request().send().promise).await?;
            match answer.get()?.get_status()? {
                bootstrap::Status::Active => break,
                bootstrap::Status::Pending => {
                    let text = "this machine waits for an administrator's approval";
                    *line.trouble.borrow_mut() = Some(problem(Why::Unreachable, text));
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
        let keep_away = {
            let outside = outside.clone();
            move |away: &Away| Self::keep_away(&outside, &away.encode())
        };
        let server = CopiesServer::new(kept.clone(), settings.authority, work);
        let server = server.of(line, self.clock.clone(), keep_away);
        let copies: copies::Client = capnp_rpc::new_client(server);
        request.get().set_copies(copies);
        let mut told = request.get().init_registration();
        told.set_granted(kept.granted.load(Ordering::Relaxed));
        let (free, reserve) = kept.look(outside.space());
        told.set_free(free);
        told.set_reserve(reserve);
        told.set_on_battery(outside.is_on_battery());
        told.set_machine_id(&settings.machine_id);
        told.set_incarnation(&inventory.incarnation);
        told.set_run(start);
        told.set_version(&settings.version[..]);
        kept.tell(told.init_inventory())?;
        let session = soon(request.send().promise).await?.get()?.get_session()?;
        tracing::info!(host = ?settings.hosts, "the host has us");
        line.trouble.take();
        if line.away.take().is_some() {
            Self::keep_away(outside, &[]);
        }
        *line.bootstrap.borrow_mut() = Some(host);
        *line.session.borrow_mut() = Some(session.clone());
        self.learn(&session, trusted).await?;
        loop {
            tokio::time::sleep(BEAT).await;
            let mut beat = session.beat_request();
            beat.get().set_granted(kept.granted.load(Ordering::Relaxed));
            let (free, reserve) = kept.look(outside.space());
            beat.get().set_free(free);
            beat.get().set_reserve(reserve);
            beat.get().set_on_battery(outside.is_on_battery());
            kept.tell(beat.get().init_inventory())?;
            let listed = soon(beat.send().promise).await?.get()?.get_listed();
            if trusted.newest().is_none_or(|(_, sequence)| sequence < listed) {
                self.learn(&session, trusted).await?;
            }
        }
    }

    /// Whom it takes for its host, by what it was shown before.
    fn trusted(&self) -> Trusted {
        let kept = self.outside.kept_lists().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the list of machines; another is asked for");
            Vec::new()
        });
        Trusted::read(&kept, self.settings.authority, self.settings.host_key)
    }

    /// Asks for the list of machines and keeps it if it is new.
    async fn learn(&self, session: &node_session::Client, trusted: &mut Trusted) -> Result<(), Error> {
        let answer = soon(session.list_request().send().promise).await?;
        match trusted.learn(answer.get()?.get_list()?)? {
            Learned::Nothing => {}
            Learned::Older => {
                tracing::warn!(
                    "the host shows an older list of machines than before: was it put back from an old copy?"
                );
            }
            Learned::Newer => {
                if let Err(error) = self.outside.keep_lists(&trusted.encode()) {
                    tracing::warn!(%error, "cannot keep the list of machines");
                }
            }
        }
        Ok(())
    }
}

/// Dials the addresses of the host in turn; gives also as which of the machines expected there it answers.
///
/// # Errors
/// None of them answers as one of those.
pub async fn dial<O: Outside>(
    outside: &O,
    settings: &Settings,
    expected: &[NodeKey],
) -> Result<(Connection, NodeKey), Problem> {
    let connector = TlsConnector::from(tls::client(&settings.key, expected));
    let mut failures = Vec::new();
    for address in &settings.hosts {
        let connect = async { connector.connect(tls::server_name(), outside.connect(address).await?).await };
        match tokio::time::timeout(HANDSHAKE, connect).await {
            Ok(Ok(stream)) => match tls::peer_key(stream.get_ref().1) {
                Some(key) => return Ok((Connection::calling(stream), key)),
                None => failures.push(format!("{address}: it has shown no key")),
            },
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer")),
        }
    }
    Err(problem(Why::Unreachable, format!("cannot reach the host ({})", failures.join("; "))))
}

/// Waits for an answer, not for ever.
pub(super) async fn soon<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PING_DEADLINE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::disconnected("the host does not answer".into())),
    }
}
