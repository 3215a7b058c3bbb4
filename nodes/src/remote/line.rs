//! A connection on a thread of its own, used from any thread.

use crate::tracker::names::NodeKey;
use crate::tracker::sign::SigningKey;
use crate::transport::limits::HANDSHAKE;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::rpc::Connection;
use crate::transport::tls;
use capnp::capability::{Client as AnyClient, FromClientHook};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

/// How the other side is reached.
pub enum Way {
    /// A service on this machine, by its socket.
    Socket(PathBuf),
    /// A machine of the office.
    Machine {
        /// Its addresses, `host:port`, tried in turn.
        addresses: Vec<String>,
        /// Who it must be.
        expected: Vec<NodeKey>,
        /// Who we are.
        key: Arc<SigningKey>,
    },
}

type Job = Box<dyn FnOnce(Rc<Caps>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A connection. Cheap to clone; it ends with the last clone.
#[derive(Clone)]
pub struct Line {
    jobs: mpsc::UnboundedSender<Job>,
    over: Arc<AtomicBool>,
}

/// Capabilities of a line, kept on its thread.
#[derive(Default)]
pub struct Caps {
    next: Cell<u64>,
    held: RefCell<HashMap<u64, AnyClient>>,
}

/// One capability of a line, held until this goes.
pub struct Cap<T> {
    id: u64,
    line: Line,
    of: PhantomData<fn() -> T>,
}

impl<T> Drop for Cap<T> {
    fn drop(&mut self) {
        let id = self.id;
        let _ = self.line.jobs.send(Box::new(move |caps| {
            caps.held.borrow_mut().remove(&id);
            Box::pin(std::future::ready(()))
        }));
    }
}

impl Caps {
    fn keep<T: FromClientHook>(&self, client: T) -> u64 {
        let id = self.next.get();
        self.next.set(id + 1);
        self.held.borrow_mut().insert(id, AnyClient::new(client.into_client_hook()));
        id
    }

    fn get<T: FromClientHook>(&self, id: u64) -> Option<T> {
        self.held.borrow().get(&id).map(|client| T::new(client.hook.add_ref()))
    }
}

impl Line {
    /// Connects; gives what the other side offers.
    pub fn connect<T: FromClientHook + 'static>(way: Way) -> Result<Cap<T>, Problem> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (ready, connected) = oneshot::channel();
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => LocalSet::new().block_on(&runtime, run::<T>(way, queue, ready)),
                Err(error) => drop(ready.send(Err(problem(Why::Other, format!("cannot begin a runtime: {error}"))))),
            }
            ended.store(true, Ordering::Release);
        };
        std::thread::Builder::new()
            .name("connection".into())
            .spawn(run)
            .map_err(|error| problem(Why::Other, format!("cannot begin a thread: {error}")))?;
        let id = connected.blocking_recv().map_err(|_| gone())??;
        Ok(Cap { id, line: Self { jobs, over }, of: PhantomData })
    }

    /// Whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Runs a call on the line's thread and waits for what it gives.
    fn run<R, F>(&self, call: impl FnOnce(Rc<Caps>) -> F + Send + 'static) -> Result<R, Problem>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, Problem>> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |caps| {
            let call = call(caps);
            Box::pin(async move { drop(answer.send(call.await)) })
        });
        self.jobs.send(job).map_err(|_| gone())?;
        answered.blocking_recv().map_err(|_| gone())?
    }
}

impl<T: FromClientHook + 'static> Cap<T> {
    /// The line it belongs to.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Calls it: `call` makes the call on the line's thread; its answer is waited for.
    pub fn call<R, F>(&self, call: impl FnOnce(T) -> F + Send + 'static) -> Result<R, Problem>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, capnp::Error>> + 'static,
    {
        let id = self.id;
        self.line.run(move |caps| {
            let client = caps.get::<T>(id);
            async move { Ok(call(client.ok_or_else(gone)?).await?) }
        })
    }

    /// Calls it for another capability, and something besides.
    pub fn cap<U, R, F>(&self, call: impl FnOnce(T) -> F + Send + 'static) -> Result<(Cap<U>, R), Problem>
    where
        U: FromClientHook + 'static,
        R: Send + 'static,
        F: Future<Output = Result<(U, R), capnp::Error>> + 'static,
    {
        let id = self.id;
        let (id, besides) = self.line.run(move |caps| {
            let client = caps.get::<T>(id);
            async move {
                let (client, besides) = call(client.ok_or_else(gone)?).await?;
                Ok((caps.keep(client), besides))
            }
        })?;
        Ok((Cap { id, line: self.line.clone(), of: PhantomData }, besides))
    }
}

fn gone() -> Problem {
    problem(Why::Unreachable, "the connection is gone")
}

async fn run<T: FromClientHook + 'static>(
    way: Way,
    mut queue: mpsc::UnboundedReceiver<Job>,
    ready: oneshot::Sender<Result<u64, Problem>>,
) {
    let mut connection = match open(&way).await {
        Ok(connection) => connection,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let caps = Rc::new(Caps::default());
    let first = caps.keep(connection.bootstrap::<T>());
    let disconnector = connection.disconnector();
    let mut driver = tokio::task::spawn_local(connection.drive());
    if ready.send(Ok(first)).is_err() {
        return;
    }
    loop {
        tokio::select! {
            job = queue.recv() => match job {
                Some(job) => drop(tokio::task::spawn_local(job(caps.clone()))),
                None => break,
            },
            _ = &mut driver => break,
        }
    }
    // Whoever still waits is told that the connection is gone; the other side, that we are done.
    queue.close();
    caps.held.borrow_mut().clear();
    if !driver.is_finished() {
        let _ = tokio::time::timeout(HANDSHAKE, disconnector).await;
    }
}

async fn open(way: &Way) -> Result<Connection, Problem> {
    match way {
        Way::Socket(path) => match UnixStream::connect(path).await {
            Ok(stream) => Ok(Connection::calling(stream)),
            Err(error) => {
                let text = format!("no service of this machine answers at {}: {error}", path.display());
                Err(problem(Why::Unreachable, text))
            }
        },
        Way::Machine { addresses, expected, key } => {
            let mut failures = Vec::new();
            for address in addresses {
                match dial(address, expected, key).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => failures.push(format!("{address}: {error}")),
                }
            }
            Err(problem(Why::Unreachable, format!("cannot reach the host ({})", failures.join("; "))))
        }
    }
}

async fn dial(address: &str, expected: &[NodeKey], key: &SigningKey) -> std::io::Result<Connection> {
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let stream = tokio::time::timeout(HANDSHAKE, TcpStream::connect(address)).await.map_err(late)??;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(tls::client(key, expected));
    let handshake = connector.connect(tls::server_name(), stream);
    Ok(Connection::calling(tokio::time::timeout(HANDSHAKE, handshake).await.map_err(late)??))
}
