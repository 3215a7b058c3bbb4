//! A host in life: its port, its socket for programs on this machine, and what it does by itself.

use super::Host;
use super::serve::{AdminServer, BootstrapServer, HostService};
use super::{collector, copier, healer, hours, leave, mover, prover, room, watch};
use crate::remote::wire::put_texts;
use crate::tracker::log::Actor;
use crate::transport::gate::Gate;
use crate::transport::limits::PROGRAM;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::rpc::Connection;
use crate::transport::serve::{Peer, listen};
use capnp::Error;
use capnp::capability::FromClientHook;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use twinkeep_schema::office_capnp::{bootstrap, local};

/// Threads that connections are spread over.
const THREADS: usize = 2;

/// Runs a host until `stop` comes. To be called on a local task set; `ready` is told where it listens.
///
/// # Errors
/// Its port or its socket cannot be had.
pub async fn run(
    host: Arc<Host>,
    listener: TcpListener,
    socket: UnixListener,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), Problem> {
    let service = Arc::new(HostService(host.clone()));
    let listening = listen(listener, &host.identity.key, service, host.connections.clone(), THREADS)
        .map_err(|error| problem(Why::Other, format!("cannot listen: {error}")))?;
    ready(listening.address);
    tokio::select! {
        () = copier::run(host.clone()) => {}
        () = healer::run(host.clone()) => {}
        () = watch::run(host.clone()) => {}
        () = collector::run(host.clone()) => {}
        () = prover::run(host.clone()) => {}
        () = hours::run(host.clone()) => {}
        () = mover::run(host.clone()) => {}
        () = room::run(host.clone()) => {}
        () = serve_local(host.clone(), socket) => {}
        () = host.leave.over() => {}
        () = stop => {}
    }
    leave::finish(&host).await;
    Ok(())
}

/// Programs on the host's machine: whoever may open the socket administers the office.
async fn serve_local(host: Arc<Host>, socket: UnixListener) {
    let gate = Rc::new(Gate::default());
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(guest) = stream.peer_cred().ok().and_then(|peer| gate.enter(peer.uid())) else { continue };
        let client: local::Client = capnp_rpc::new_client(LocalServer { host: host.clone() });
        let client = capnp::capability::Client::new(client.into_client_hook());
        let program = host.leave.program();
        tokio::task::spawn_local(async move {
            let _program = program;
            Connection::serving_guest(stream, client, guest.clone()).drive_until(guest.ended()).await
        });
    }
}

struct LocalServer {
    host: Arc<Host>,
}

impl local::Server for LocalServer {
    async fn tracker(
        self: Rc<Self>,
        _params: local::TrackerParams,
        mut results: local::TrackerResults,
    ) -> Result<(), Error> {
        let key = self.host.key();
        let peer = Peer::new(key, IpAddr::V4(Ipv4Addr::LOCALHOST));
        let bootstrap: bootstrap::Client = capnp_rpc::new_client(BootstrapServer::new(self.host.clone(), peer));
        let mut results = results.get();
        results.set_bootstrap(bootstrap);
        results.set_host_key(&key.0);
        results.set_node_key(&key.0);
        Ok(())
    }

    async fn keep(self: Rc<Self>, _params: local::KeepParams, _results: local::KeepResults) -> Result<(), Error> {
        Err(problem(Why::NotAllowed, "the host keeps everything already; the second copy is on a terminal").into())
    }

    async fn status(
        self: Rc<Self>,
        _params: local::StatusParams,
        mut results: local::StatusResults,
    ) -> Result<(), Error> {
        let host = self.host.clone();
        let space = self.host.work().run(move || Ok::<_, Problem>(host.space())).await?;
        let mut status = results.get().init_status();
        status.set_name(&self.host.identity.name[..]);
        status.set_connected(true);
        status.set_version(PROGRAM);
        status.set_host_key(&self.host.key().0);
        status.set_free(space.free);
        let addresses = &self.host.identity.addresses;
        put_texts(addresses, status.init_hosts(addresses.len() as u32));
        Ok(())
    }

    async fn admin(self: Rc<Self>, _params: local::AdminParams, mut results: local::AdminResults) -> Result<(), Error> {
        let admin = AdminServer::new(self.host.clone(), Actor::Host, || Ok(None));
        results.get().set_admin(capnp_rpc::new_client(admin));
        Ok(())
    }
}
