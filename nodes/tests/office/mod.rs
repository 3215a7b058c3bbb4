//! A host in this process, on loopback, and those who call it: machines, accounts, and connections of any key.
#![allow(dead_code, reason = "each test uses its part")]

use capnp::capability::{Client as AnyClient, FromClientHook};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinHandle, LocalSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use twinkeep_engine::crypto::{DataKey, Salts, SecretKey, Suite, VaultKeys, VaultSecret, WRAPPED_LEN, WrappedKey};
use twinkeep_engine::env::{Env, Time};
use twinkeep_engine::frame::{FrameBuilder, SealKeys, SealedFrame, Sealer};
use twinkeep_engine::id::{ChunkId, Kind, SessionId, VaultId};
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_engine::vault::{CreateOptions, Vault};
use twinkeep_nodes::host::ground::Folder;
use twinkeep_nodes::host::serve::BootstrapServer;
use twinkeep_nodes::host::setup::{self, HostOptions};
use twinkeep_nodes::host::{self, Host};
use twinkeep_nodes::terminal::copies::Kept;
use twinkeep_nodes::terminal::{self, Settings, ground};
use twinkeep_nodes::tracker::event::{Event, Login, VaultKind};
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::login::Challenge;
use twinkeep_nodes::tracker::names::{AccountDeviceId, AccountId, MachineId, NodeKey};
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::transport::keys::node_key;
use twinkeep_nodes::transport::problem::Problem;
use twinkeep_nodes::transport::rpc::Connection;
use twinkeep_nodes::transport::serve::Peer;
use twinkeep_nodes::transport::tls;
use twinkeep_nodes::work::Work;
use twinkeep_schema::office_capnp::{bootstrap, local, upload, user_session, vault, write_session};

/// No single step of a test takes longer.
pub const LATE: Duration = Duration::from_secs(20);

/// Runs a test on a local task set.
pub fn run<T, F: Future<Output = T>>(test: impl FnOnce() -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let timed = async { tokio::time::timeout(Duration::from_secs(240), test()).await.unwrap() };
    let done = LocalSet::new().block_on(&runtime, timed);
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Waits for something that must come about.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < LATE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An answer, or a failure that says so.
pub async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(LATE, answer).await.expect("an answer in time")
}

/// A host and its folder.
pub struct Office {
    pub host: Arc<Host>,
    pub address: SocketAddr,
    pub temp: TempDir,
    pub env: Env,
    kit: VaultSecret,
    runner: JoinHandle<()>,
}

/// What a host leaves when it stops.
pub struct Left {
    temp: TempDir,
    host: Weak<Host>,
    kit: VaultSecret,
}

/// An account with its vault.
pub struct Account {
    pub name: String,
    pub id: AccountId,
    pub login: SigningKey,
    pub vault: VaultId,
    pub keys: Arc<VaultKeys>,
}

/// A connection.
pub struct Wire {
    pub bootstrap: bootstrap::Client,
    pub key: NodeKey,
    driver: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Wire {
    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.driver.is_finished()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        self.runner.abort();
    }
}

/// A key of this number.
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

impl Office {
    /// Makes one and runs it.
    pub async fn start() -> Self {
        Self::start_with(Env::system(1)).await
    }

    /// The same with another clock.
    pub async fn start_with(env: Env) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("host");
        let options = HostOptions {
            name: "office".into(),
            listen: "127.0.0.1:0".into(),
            addresses: vec!["127.0.0.1:1".into()],
            machine_id: [9; 16],
        };
        let kit = setup::init(&data, &env, &options).unwrap();
        Self::run(temp, env, kit).await
    }

    /// Runs the host of a folder.
    async fn run(temp: TempDir, env: Env, kit: VaultSecret) -> Self {
        let data = temp.path().join("host");
        let mut identity = setup::load(&data).unwrap();
        identity.marks.reserve = (0, 0);
        let ground = Box::new(Folder(data.clone()));
        let host = Host::open(ground, env.clone(), Work::Threads, identity).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _ = std::fs::remove_file(Folder::socket(&data));
        let socket = UnixListener::bind(Folder::socket(&data)).unwrap();
        let running = host::run::run(host.clone(), listener, socket, |_| {}, std::future::pending());
        let runner = tokio::task::spawn_local(async move { running.await.unwrap() });
        Self { host, address, temp, env, kit, runner }
    }

    /// The company's key, as it lies in the recovery kit.
    pub fn company(&self) -> SecretKey {
        setup::open_kit(&self.temp.path().join("host"), &self.kit).unwrap().company
    }

    /// Leaves the folder to be run again, once the runtime has ended.
    pub fn leave(mut self) -> Left {
        let temp = std::mem::replace(&mut self.temp, tempfile::tempdir().unwrap());
        Left { temp, host: Arc::downgrade(&self.host), kit: self.kit.clone() }
    }

    /// Runs what was left, with another clock.
    pub async fn again(left: Left, env: Env) -> Self {
        until("the host ends", async || left.host.strong_count() == 0).await;
        Self::run(left.temp, env, left.kit).await
    }

    /// A machine that has joined.
    pub fn machine(&self, name: &str, number: u8, pending: bool) -> SigningKey {
        let key = key(number);
        let token_hash = [number; 32];
        let name = name.to_owned();
        let expires = Time(i64::MAX);
        let token = Event::NodeTokenMade { name: name.clone(), token_hash, expires, auto: !pending };
        self.host.office.append(Actor::Host, token).unwrap();
        let machine_id = MachineId([number; 16]);
        let joined = Event::NodeJoined { name, key: node_key(&key), machine_id, token_hash, pending };
        self.host.office.append(Actor::Host, joined).unwrap();
        key
    }

    /// An account; its login key stands for a password.
    pub fn account(&self, name: &str, number: u8, is_admin: bool) -> Account {
        let (id, login) = (AccountId([number; 16]), key(number));
        let options = CreateOptions::default();
        let prepared = Vault::prepare(&self.env, &options, &[]).unwrap();
        let how = Login {
            login_key: login.public(),
            salt: [number; 16],
            cost: PasswordCost::default(),
            wrapped_key: vec![number; 72],
        };
        let made = Event::AccountMade { id, name: name.into(), login: how, quota: 0, is_admin };
        self.host.office.append(Actor::Host, made).unwrap();
        let vault = self.host.make_vault(&prepared.head).unwrap();
        let kind = VaultKind::Company;
        let made = Event::VaultMade { vault, owner: id, name: name.into(), kind, company_wrap: vec![1; 80] };
        self.host.office.append(Actor::Host, made).unwrap();
        let member = Event::VaultMember { vault, account: id, on: true, wrapped: vec![1; 80] };
        self.host.office.append(Actor::Host, member).unwrap();
        let keys = Arc::new(VaultKeys::derive(&prepared.secret, vault));
        Account { name: name.into(), id, login, vault, keys }
    }

    /// A TCP connection from an address of this machine.
    pub async fn tcp(&self, from: Ipv4Addr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
        socket.connect(self.address).await
    }

    /// The same, with TLS.
    pub async fn tls(&self, from: Ipv4Addr, key: &SigningKey) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = self.tcp(from).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(tls::client(key, &[self.host.key()]));
        connector.connect(tls::server_name(), stream).await
    }

    /// A connection of this key.
    pub async fn dial(&self, key: &SigningKey) -> Wire {
        let stream = soon(self.tls(Ipv4Addr::LOCALHOST, key)).await.unwrap();
        Self::wire(stream, node_key(key))
    }

    /// RPC over a stream.
    pub fn wire(stream: TlsStream<TcpStream>, key: NodeKey) -> Wire {
        Self::wire_of(stream, key)
    }

    /// RPC over any stream.
    pub fn wire_of(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, key: NodeKey) -> Wire {
        let mut connection = Connection::calling(stream);
        let bootstrap = connection.bootstrap();
        let driver = tokio::task::spawn_local(async move { drop(connection.drive().await) });
        Wire { bootstrap, key, driver }
    }

    /// As a connection of this key, without any: it does not end when the key is revoked.
    pub fn inside(&self, key: &SigningKey) -> bootstrap::Client {
        let peer = Peer::new(node_key(key), IpAddr::V4(Ipv4Addr::LOCALHOST));
        capnp_rpc::new_client(BootstrapServer::new(self.host.clone(), peer))
    }

    /// The host's local socket.
    pub async fn local(&self) -> local::Client {
        local_of(&Folder::socket(&self.temp.path().join("host"))).await
    }

    /// Logs in.
    pub async fn login(
        &self,
        bootstrap: &bootstrap::Client,
        machine: NodeKey,
        account: &Account,
    ) -> Result<user_session::Client, Problem> {
        self.prove(bootstrap, machine, &account.name, &account.login, None).await.map(|(session, _)| session)
    }

    /// Logs in by any key.
    pub async fn prove(
        &self,
        bootstrap: &bootstrap::Client,
        node: NodeKey,
        name: &str,
        key: &SigningKey,
        device: Option<AccountDeviceId>,
    ) -> Result<(user_session::Client, Vec<u8>), Problem> {
        let mut request = bootstrap.login_request();
        request.get().set_account(name);
        let answer = soon(request.send().promise).await?;
        let answer = answer.get()?;
        let challenge: [u8; 32] = answer.get_challenge()?.try_into().unwrap();
        let host = self.host.key();
        let message = Challenge { challenge: &challenge, name, node: &node, host: &host };
        let mut request = answer.get_login()?.prove_request();
        request.get().set_signature(&message.prove(key));
        if let Some(device) = device {
            request.get().set_device(&device.0);
        }
        let answer = soon(request.send().promise).await?;
        let answer = answer.get()?;
        Ok((answer.get_session()?, answer.get_wrapped_key()?.to_vec()))
    }
}

/// A store of copies in a folder of this name.
pub fn kept(office: &Office, name: &str) -> Arc<Kept> {
    let data = office.temp.path().join(name);
    std::fs::create_dir_all(&data).unwrap();
    Kept::new(ground::copies(&data, office.env.clone(), name).unwrap().store, 1 << 30)
}

/// The service of a terminal, which runs and has reached its host, by its socket.
pub async fn terminal(office: &Office, key: SigningKey, machine_id: [u8; 16]) -> PathBuf {
    let data = office.temp.path().join("terminal");
    let kept = kept(office, "terminal");
    let socket = ground::socket(&data);
    let listener = UnixListener::bind(&socket).unwrap();
    let settings = Settings {
        data,
        name: "pc".into(),
        key,
        hosts: vec![office.address.to_string()],
        host_key: office.host.key(),
        authority: office.host.office.authority(),
        machine_id,
        version: "1".into(),
    };
    let env = office.env.clone();
    let running = terminal::run(settings, kept, env, Work::Threads, listener, std::future::pending());
    tokio::task::spawn_local(async move { drop(running.await) });
    let local = local_of(&socket).await;
    until("the terminal reaches its host", async || is_connected(&local).await).await;
    socket
}

/// Whether the service behind a socket has reached the host.
pub async fn is_connected(local: &local::Client) -> bool {
    let answer = soon(local.status_request().send().promise).await.expect("the service answers who is connected");
    answer.get().unwrap().get_status().unwrap().get_connected()
}

/// What a socket of this machine offers.
pub async fn local_of(path: &Path) -> local::Client {
    let stream = UnixStream::connect(path).await.unwrap();
    let mut connection = Connection::calling(stream);
    let client = connection.bootstrap();
    tokio::task::spawn_local(async move { drop(connection.drive().await) });
    client
}

/// Opens a vault.
pub async fn open(session: &user_session::Client, vault: VaultId) -> Result<vault::Client, Problem> {
    let mut request = session.open_request();
    request.get().set_vault(&vault.0);
    Ok(soon(request.send().promise).await?.get()?.get_vault()?)
}

/// Begins a session.
pub async fn begin(vault: &vault::Client) -> Result<(write_session::Client, SessionId), Problem> {
    let answer = soon(vault.begin_request().send().promise).await?;
    let answer = answer.get()?;
    Ok((answer.get_session()?, SessionId(answer.get_id()?.try_into().unwrap())))
}

/// Begins an upload.
pub async fn upload(session: &write_session::Client) -> Result<upload::Client, Problem> {
    Ok(soon(session.upload_request().send().promise).await?.get()?.get_upload()?)
}

/// Puts frames and says how many were taken, or why not all were.
pub async fn put(session: &write_session::Client, frames: &[Vec<u8>]) -> Result<u64, Problem> {
    let upload = upload(session).await?;
    for frame in frames {
        let mut request = upload.put_request();
        request.get().set_frame(frame);
        soon(request.send()).await?;
    }
    done(&upload).await
}

/// How an upload ended.
pub async fn done(upload: &upload::Client) -> Result<u64, Problem> {
    let answer = soon(upload.done_request().send().promise).await?;
    let answer = answer.get()?;
    match answer.get_problem()?.to_string().map_err(capnp::Error::from)? {
        text if text.is_empty() => Ok(answer.get_frames()),
        text => Err(Problem::from(&capnp::Error::failed(text))),
    }
}

/// Seals frames of a session.
pub struct Mill {
    sealer: Sealer,
    keys: Arc<VaultKeys>,
}

impl Mill {
    /// For a session of an account's vault.
    pub fn new(env: &Env, account: &Account, vault: VaultId, session: SessionId) -> Self {
        let keys = SealKeys {
            suite: Suite::fastest(),
            data_key: Arc::new(DataKey::random(&*env.entropy)),
            wrapped: WrappedKey([5; WRAPPED_LEN]),
            generation: 1,
            vault,
            session,
        };
        let sealer = Sealer::new(keys, Salts::new(env.entropy.clone()), 1).unwrap();
        Self { sealer, keys: account.keys.clone() }
    }

    /// A frame of one leaf.
    pub fn leaf(&mut self, bytes: &[u8]) -> (ChunkId, SealedFrame) {
        let id = self.keys.leaf_id(bytes);
        let mut builder = FrameBuilder::new(Kind::Leaf);
        builder.push(id, &[], bytes);
        (id, self.sealer.seal(&mut builder))
    }

    /// A frame of one branch.
    pub fn branch(&mut self, refs: &[ChunkId], bytes: &[u8]) -> (ChunkId, SealedFrame) {
        let id = self.keys.branch_id(refs, bytes);
        let mut builder = FrameBuilder::new(Kind::Branch);
        builder.push(id, refs, bytes);
        (id, self.sealer.seal(&mut builder))
    }
}

/// A capability without its type.
pub fn any<T: FromClientHook>(client: T) -> Rc<AnyClient> {
    Rc::new(AnyClient::new(client.into_client_hook()))
}
