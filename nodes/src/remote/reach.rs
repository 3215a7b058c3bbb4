//! Whether the host can be reached at its addresses, and if not, how far one gets: for whoever looks for what is wrong.

use crate::tracker::names::NodeKey;
use crate::tracker::sign::SigningKey;
use crate::transport::limits::HANDSHAKE;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::rpc::Connection;
use crate::transport::{tls, version};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use twinkeep_engine::env::Env;
use twinkeep_schema::office_capnp::bootstrap;

/// How far one gets at an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The host answers there.
    Host(Answer),
    /// Nobody knows the name.
    Unknown(String),
    /// It is said that nobody listens there.
    Refused,
    /// Nothing comes back.
    Silent,
    /// There is no way to it, or another error of the network.
    NoWay(String),
    /// Somebody is there and does not speak as a host does.
    Strange(String),
    /// A host with another key answers.
    OtherKey,
    /// The host answers and does not understand this version.
    OtherVersion(String),
}

/// What a host says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// Its program; empty where it is too old to say.
    pub program: String,
    /// The protocol version spoken with it.
    pub protocol: u16,
    /// How far its clock is ahead of ours, nanoseconds; negative where it is behind.
    pub ahead: i64,
    /// How long the question took: the clocks cannot be compared any better.
    pub round: Duration,
}

/// Tries every address, all at once, with a key that is drawn for it: nothing is said in this machine's name.
///
/// # Errors
/// There are no means for it.
pub fn try_all(addresses: &[String], host: NodeKey, env: &Env) -> Result<Vec<(String, Reach)>, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| problem(Why::Other, format!("cannot begin a runtime: {error}")))?;
    let key = SigningKey::from_seed(&crate::secrets::draw(&*env.entropy));
    let tries = addresses.iter().map(async |address| (address.clone(), reach(address, host, &key, env).await));
    let found = LocalSet::new().block_on(&runtime, futures::future::join_all(tries));
    // A name that nobody answers for may still be asked about on a thread of its own.
    runtime.shutdown_background();
    Ok(found)
}

async fn reach(address: &str, host: NodeKey, key: &SigningKey, env: &Env) -> Reach {
    let ips: Vec<SocketAddr> = match timeout(HANDSHAKE, tokio::net::lookup_host(address)).await {
        Ok(Ok(ips)) => ips.collect(),
        Ok(Err(error)) => return Reach::Unknown(error.to_string()),
        Err(_) => return Reach::Unknown("no name server answers".to_owned()),
    };
    let mut last = Reach::Unknown("the name has no address".to_owned());
    for ip in ips {
        last = match timeout(HANDSHAKE, TcpStream::connect(ip)).await {
            Ok(Ok(stream)) => return greet(stream, host, key, env).await,
            Ok(Err(error)) => of_error(&error),
            Err(_) => Reach::Silent,
        };
    }
    last
}

fn of_error(error: &io::Error) -> Reach {
    match error.kind() {
        ErrorKind::ConnectionRefused => Reach::Refused,
        ErrorKind::TimedOut => Reach::Silent,
        _ => Reach::NoWay(error.to_string()),
    }
}

async fn greet(stream: TcpStream, host: NodeKey, key: &SigningKey, env: &Env) -> Reach {
    let connector = TlsConnector::from(tls::client(key, &[host]));
    let stream = match timeout(HANDSHAKE, connector.connect(tls::server_name(), stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if tls::is_other_key(&error) => return Reach::OtherKey,
        Ok(Err(error)) => return Reach::Strange(error.to_string()),
        Err(_) => return Reach::Strange("it accepts connections and says nothing".to_owned()),
    };
    let mut connection = Connection::calling(stream);
    let client: bootstrap::Client = connection.bootstrap();
    let driver = tokio::task::spawn_local(connection.drive());
    let asked = timeout(HANDSHAKE, hello(&client, env)).await;
    driver.abort();
    match asked.map(|answer| answer.map_err(Problem::from)) {
        Ok(Ok(answer)) => Reach::Host(answer),
        Ok(Err(error)) if error.why == Why::Usage => Reach::OtherVersion(error.text),
        Ok(Err(error)) => Reach::Strange(error.text),
        Err(_) => Reach::Strange("it does not answer".to_owned()),
    }
}

async fn hello(host: &bootstrap::Client, env: &Env) -> Result<Answer, capnp::Error> {
    let (begun, from) = (env.clock.elapsed(), env.clock.now());
    let answer = version::hello(host).await?;
    let answer = answer.get()?;
    let round = env.clock.elapsed().saturating_sub(begun);
    // The host looked at its clock somewhere in between: about the middle.
    let middle = from.0.saturating_add(i64::try_from(round.as_nanos() / 2).unwrap_or(i64::MAX));
    Ok(Answer {
        name: answer.get_host()?.to_string()?,
        program: answer.get_program()?.to_string()?,
        protocol: answer.get_version(),
        ahead: answer.get_time().saturating_sub(middle),
        round,
    })
}
