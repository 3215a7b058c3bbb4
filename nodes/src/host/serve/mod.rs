//! What the host gives to others: each capability in a file of its own.

mod admin;
mod bootstrap;
mod describe;
mod errands;
mod machines;
mod node;
mod user;
mod vault;
mod write;

pub use admin::AdminServer;
pub use bootstrap::BootstrapServer;

use super::Host;
use crate::tracker::names::NodeKey;
use crate::tracker::registry::NodeStatus;
use crate::transport::serve::{Peer, Service};
use capnp::capability::{Client as AnyClient, FromClientHook};
use std::sync::Arc;
use twinkeep_schema::office_capnp::bootstrap as bootstrap_capnp;

/// A host as connections see it.
pub struct HostService(pub Arc<Host>);

impl Service for HostService {
    fn is_known(&self, key: &NodeKey) -> bool {
        let status = self.0.office.read(|registry| registry.node(key).map(|node| node.status));
        matches!(status, Some(NodeStatus::Pending | NodeStatus::Active)) || *key == self.0.key()
    }

    fn bootstrap(&self, peer: &Arc<Peer>) -> AnyClient {
        let server = BootstrapServer::new(self.0.clone(), peer.clone());
        let client: bootstrap_capnp::Client = capnp_rpc::new_client(server);
        AnyClient::new(client.into_client_hook())
    }

    fn ended(&self, _peer: &Arc<Peer>) {}
}
