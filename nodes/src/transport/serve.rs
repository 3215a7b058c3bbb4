//! Who listens: handshakes within bounds, and each connection on one of a few threads of its own.
//!
//! A connection is a task with an RPC system in it; whatever goes wrong there ends that connection alone. Connections
//! of a key are ended when the key is revoked.

use super::limits::{
    CALLS_MAX, CONNECTIONS_MAX, CONNECTIONS_PER_KEY_MAX, HANDSHAKE, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX,
    HELD_MAX, HELD_PER_ACCOUNT_MAX, STRANGER, STRANGER_LEN, STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX,
};
use super::outgoing::{Counted, Outgoing, Room};
use super::problem::{Problem, Why, problem};
use super::rpc::Connection;
use super::tls;
use crate::pulse::Pulse;
use crate::tracker::names::{AccountId, NodeKey};
use crate::tracker::sign::SigningKey;
use capnp::capability::Client as AnyClient;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

/// Who is at the other end of a connection.
pub struct Peer {
    /// Its key.
    pub key: NodeKey,
    /// Its address.
    pub address: IpAddr,
    /// Whether the key was no machine's of the office when it came.
    is_stranger: bool,
    calls: AtomicUsize,
    held: AtomicUsize,
    /// The same by account.
    held_by: Mutex<HashMap<AccountId, usize>>,
    /// None where answers are not sent over a line of its own.
    outgoing: Option<Arc<Outgoing>>,
    end: Notify,
}

impl Peer {
    /// A machine of the office at this address, with this key.
    pub fn new(key: NodeKey, address: IpAddr) -> Arc<Self> {
        Self::of(key, address, false, None)
    }

    fn of(key: NodeKey, address: IpAddr, is_stranger: bool, outgoing: Option<Arc<Outgoing>>) -> Arc<Self> {
        let (calls, held) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let held_by = Mutex::default();
        Arc::new(Self { key, address, is_stranger, calls, held, held_by, outgoing, end: Notify::new() })
    }

    /// Waits until a long answer may be made.
    pub async fn room(&self, len: usize) -> Option<Room> {
        match &self.outgoing {
            Some(outgoing) => Some(outgoing.room(len).await),
            None => None,
        }
    }

    /// Gives something that stays in memory for as long as the other side holds it.
    ///
    /// # Errors
    /// It holds too much.
    pub fn hold(self: &Arc<Self>) -> Result<Held, Problem> {
        let held = Held { peer: self.clone(), account: None };
        match self.held.fetch_add(1, Ordering::AcqRel) < HELD_MAX {
            true => Ok(held),
            false => Err(problem(Why::Busy, format!("this machine has {HELD_MAX} logins, sessions and pins open"))),
        }
    }

    /// The same for an account.
    ///
    /// # Errors
    /// The account, or the connection, holds too much.
    pub fn hold_for(self: &Arc<Self>, account: AccountId) -> Result<Held, Problem> {
        let mut held = self.hold()?;
        let mut all = self.held_by.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(account).or_default();
        if *own >= HELD_PER_ACCOUNT_MAX {
            let text = format!("this account has {own} logins, sessions and pins open on this machine");
            return Err(problem(Why::Busy, text));
        }
        *own += 1;
        held.account = Some(account);
        Ok(held)
    }

    /// Begins a call; it ends when what is given goes.
    ///
    /// # Errors
    /// Too many are under way: nobody who means well does this, and the connection ends.
    pub fn call(self: &Arc<Self>) -> Result<Call, Problem> {
        let call = Call(self.clone());
        if self.calls.fetch_add(1, Ordering::AcqRel) < CALLS_MAX {
            return Ok(call);
        }
        self.hang_up();
        Err(problem(Why::Usage, format!("more than {CALLS_MAX} calls at a time")))
    }

    /// Ends the connection.
    pub fn hang_up(&self) {
        self.end.notify_one();
    }
}

/// A call under way.
pub struct Call(Arc<Peer>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Something that a connection holds.
pub struct Held {
    peer: Arc<Peer>,
    account: Option<AccountId>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.peer.held.fetch_sub(1, Ordering::AcqRel);
        let Some(account) = self.account else { return };
        let mut all = self.peer.held_by.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&account) {
            *own -= 1;
            if *own == 0 {
                all.remove(&account);
            }
        }
    }
}

/// What is offered to whoever connects.
pub trait Service: Send + Sync + 'static {
    /// Whether a key is that of a machine of the office; others get little, and not for long.
    fn is_known(&self, key: &NodeKey) -> bool;
    /// The first capability of a connection; made on the thread the connection lives on.
    fn bootstrap(&self, peer: &Arc<Peer>) -> AnyClient;
    /// The connection has ended.
    fn ended(&self, peer: &Arc<Peer>);
}

/// Connections by key, and the threads they are on.
#[derive(Default)]
pub struct Connections {
    all: Mutex<HashMap<NodeKey, Vec<Arc<Peer>>>>,
    /// Of those threads.
    pub pulse: Arc<Pulse>,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeKey, Vec<Arc<Peer>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// Ends all of a key.
    pub fn end(&self, key: &NodeKey) {
        self.lock().get(key).into_iter().flatten().for_each(|peer| peer.hang_up());
    }

    /// Ends all there are.
    pub fn end_all(&self) {
        self.lock().values().flatten().for_each(|peer| peer.hang_up());
    }

    fn add(&self, peer: &Arc<Peer>) -> bool {
        let mut all = self.lock();
        if all.values().map(Vec::len).sum::<usize>() >= CONNECTIONS_MAX {
            return false;
        }
        if peer.is_stranger {
            let strangers = all.values().flatten().filter(|other| other.is_stranger);
            let neighbours = strangers.clone().filter(|other| other.address == peer.address).count();
            if neighbours >= STRANGERS_PER_ADDRESS_MAX || strangers.count() >= STRANGERS_MAX {
                return false;
            }
        }
        let own = all.entry(peer.key).or_default();
        if own.len() >= CONNECTIONS_PER_KEY_MAX {
            return false;
        }
        own.push(peer.clone());
        true
    }

    fn remove(&self, peer: &Arc<Peer>) {
        let mut all = self.lock();
        if let Some(own) = all.get_mut(&peer.key) {
            own.retain(|other| !Arc::ptr_eq(other, peer));
            if own.is_empty() {
                all.remove(&peer.key);
            }
        }
    }
}

/// Handshakes under way, by address.
#[derive(Default)]
struct Handshakes(Mutex<HashMap<IpAddr, usize>>);

struct Handshake(Arc<Handshakes>, IpAddr);

impl Handshakes {
    fn begin(self: &Arc<Self>, address: IpAddr) -> Option<Handshake> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= HANDSHAKES_MAX {
            return None;
        }
        let own = all.entry(address).or_default();
        if *own >= HANDSHAKES_PER_ADDRESS_MAX {
            return None;
        }
        *own += 1;
        Some(Handshake(self.clone(), address))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// A listening side.
pub struct Listening {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who is connected.
    pub connections: Arc<Connections>,
}

/// Listens until the runtime ends. Connections are spread over `threads` threads.
///
/// # Errors
/// A thread cannot be begun.
pub fn listen(
    listener: TcpListener,
    key: &SigningKey,
    service: Arc<dyn Service>,
    connections: Arc<Connections>,
    threads: usize,
) -> std::io::Result<Listening> {
    let address = listener.local_addr()?;
    let answers = Answers::new(key, service, connections.clone());
    let mut workers = Vec::new();
    for number in 0..threads.max(1) {
        let (sender, receiver) = mpsc::channel(HANDSHAKES_MAX);
        let (answers, beat) = (answers.clone(), connections.pulse.beat());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = async move {
            tokio::task::spawn_local(beat);
            answers.run(receiver).await;
        };
        std::thread::Builder::new()
            .name(format!("connections-{number}"))
            .spawn(move || LocalSet::new().block_on(&runtime, run))?;
        workers.push(sender);
    }
    tokio::spawn(accept(listener, workers));
    Ok(Listening { address, connections })
}

type Accepted = (std::net::TcpStream, SocketAddr, Handshake);

async fn accept(listener: TcpListener, workers: Vec<mpsc::Sender<Accepted>>) {
    let handshakes = Arc::new(Handshakes::default());
    for worker in workers.iter().cycle() {
        let (stream, address) = loop {
            match listener.accept().await {
                Ok(accepted) => break accepted,
                Err(error) => {
                    // No descriptor is free, or the other side has gone already. The first passes only with time.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        };
        // Dropped at once, and cheaply: whoever means well tries again.
        let Some(handshake) = handshakes.begin(address.ip()) else { continue };
        let Ok(stream) = stream.into_std() else { continue };
        if worker.send((stream, address, handshake)).await.is_err() {
            return;
        }
    }
}

/// What answers whoever connects, over any stream.
#[derive(Clone)]
pub struct Answers {
    acceptor: TlsAcceptor,
    service: Arc<dyn Service>,
    connections: Arc<Connections>,
}

impl Answers {
    /// In the name of `key`.
    pub fn new(key: &SigningKey, service: Arc<dyn Service>, connections: Arc<Connections>) -> Self {
        Self { acceptor: TlsAcceptor::from(tls::server(key)), service, connections }
    }

    async fn run(self, mut accepted: mpsc::Receiver<Accepted>) {
        while let Some((stream, address, handshake)) = accepted.recv().await {
            let answers = self.clone();
            tokio::task::spawn_local(async move {
                let stream = TcpStream::from_std(stream).and_then(|stream| {
                    stream.set_nodelay(true)?;
                    Ok(stream)
                });
                let ended = match stream {
                    Ok(stream) => answers.serve(stream, address.ip(), handshake).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = ended {
                    tracing::debug!(%address, %error, "a connection ended");
                }
            });
        }
    }

    /// A connection from its first byte to its end; `handshake` goes as soon as the handshake is over. To be called on a
    /// local task set.
    ///
    /// # Errors
    /// Why it ended, if it was not hung up.
    pub async fn serve<S, H>(&self, stream: S, address: IpAddr, handshake: H) -> Result<(), Box<dyn std::error::Error>>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let stream = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await??;
        drop(handshake);
        let key = tls::peer_key(stream.get_ref().1).ok_or("no key was shown")?;
        let outgoing = Arc::new(Outgoing::default());
        let peer = Peer::of(key, address, !self.service.is_known(&key), Some(outgoing.clone()));
        let stream = Counted { stream, outgoing };
        if !self.connections.add(&peer) {
            return Err("too many connections".into());
        }
        let bootstrap = self.service.bootstrap(&peer);
        let ended = peer.end.notified();
        let result = match peer.is_stranger {
            false => Connection::serving(stream, bootstrap).drive_until(ended).await,
            true => {
                let (read, write) = tokio::io::split(stream);
                let stream = tokio::io::join(read.take(STRANGER_LEN), write);
                // Whoever has joined meanwhile comes again, as a machine.
                let patience = async { drop(tokio::time::timeout(STRANGER, ended).await) };
                Connection::serving(stream, bootstrap).drive_until(patience).await
            }
        };
        self.connections.remove(&peer);
        self.service.ended(&peer);
        Ok(result?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn peer(key: u8, host: u8, is_stranger: bool) -> Arc<Peer> {
        Peer::of(NodeKey([key; 32]), IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), is_stranger, None)
    }

    #[test]
    fn calls_and_what_is_held_are_counted() {
        let peer = peer(1, 1, false);
        let calls: Vec<Call> = (0..CALLS_MAX).map(|_| peer.call().unwrap()).collect();
        assert!(peer.call().is_err());
        assert!(futures::FutureExt::now_or_never(peer.end.notified()).is_some(), "the connection ends");
        drop(calls);
        assert!(peer.call().is_ok());
        let held: Vec<Held> = (0..HELD_MAX).map(|_| peer.hold().unwrap()).collect();
        assert!(peer.hold().is_err());
        drop(held);
        assert!(peer.hold().is_ok());
        let (anna, bert) = (AccountId([1; 16]), AccountId([2; 16]));
        let own: Vec<Held> = (0..HELD_PER_ACCOUNT_MAX).map(|_| peer.hold_for(anna).unwrap()).collect();
        assert!(peer.hold_for(anna).is_err() && peer.hold_for(bert).is_ok() && peer.hold().is_ok());
        drop(own);
        assert!(peer.hold_for(anna).is_ok() && peer.held_by.lock().unwrap().is_empty());
        assert_eq!(peer.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn strangers_have_a_share() {
        let all = Connections::default();
        let own: Vec<_> = (0..CONNECTIONS_PER_KEY_MAX).map(|_| peer(1, 1, false)).collect();
        assert!(own.iter().all(|peer| all.add(peer)) && !all.add(&peer(1, 1, false)));
        assert!((0..STRANGERS_PER_ADDRESS_MAX).all(|at| all.add(&peer(10 + at as u8, 1, true))));
        assert!(!all.add(&peer(9, 1, true)) && all.add(&peer(2, 1, false)));
        let mut next = 0;
        let more = (0..=255u8).filter(|_| {
            next += 1;
            all.add(&peer(20 + (next / 10) as u8, 2 + (next / 4) as u8, true))
        });
        assert_eq!(more.count(), STRANGERS_MAX - STRANGERS_PER_ADDRESS_MAX);
        all.remove(&own[0]);
        assert!(all.add(&peer(1, 1, false)));
    }

    /// Hangs as soon as somebody comes.
    struct Hanging(Mutex<std::sync::mpsc::Receiver<()>>);

    impl Service for Hanging {
        fn is_known(&self, _: &NodeKey) -> bool {
            let _ = self.0.lock().unwrap().recv();
            true
        }

        fn bootstrap(&self, _: &Arc<Peer>) -> AnyClient {
            capnp_rpc::new_future_client(std::future::pending())
        }

        fn ended(&self, _: &Arc<Peer>) {}
    }

    #[tokio::test]
    async fn a_thread_of_connections_that_hangs_is_seen() {
        let (server, client) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let (go_on, hangs) = std::sync::mpsc::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Arc::new(Hanging(Mutex::new(hangs)));
        let listening = listen(listener, &server, service, Arc::default(), 2).unwrap();
        let until = async |is_so: &dyn Fn(std::time::Duration) -> bool| {
            let begun = std::time::Instant::now();
            while !is_so(listening.connections.pulse.silence()) {
                assert!(begun.elapsed().as_secs() < 30, "{:?}", listening.connections.pulse.silence());
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        until(&|silence| silence.as_millis() < 600).await;
        let stream = TcpStream::connect(listening.address).await.unwrap();
        let host = crate::transport::keys::node_key(&server);
        let connector = tokio_rustls::TlsConnector::from(tls::client(&client, &[host]));
        let _held = connector.connect(tls::server_name(), stream).await.unwrap();
        // Other threads go on, which is no comfort.
        until(&|silence| silence.as_secs() >= 2).await;
        drop(go_on);
        until(&|silence| silence.as_millis() < 600).await;
    }
}
