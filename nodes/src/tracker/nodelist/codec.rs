//! The machines of a node list as Cap'n Proto in canonical form, and back.

use twinkeep_engine::record::canonical::{self, CanonicalError};
use twinkeep_schema::registry_capnp as schema;

use super::{LISTED_MAX, Listed, Role};
use crate::tracker::names::{NAME_LEN_MAX, NodeKey};

pub fn encode(nodes: &[Listed]) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let mut list = message.init_root::<schema::node_list::Builder>().init_nodes(nodes.len() as u32);
    for (at, node) in (0..).zip(nodes) {
        let mut to = list.reborrow().get(at);
        to.set_key(&node.key.0);
        to.set_name(node.name.as_str());
        to.set_role(match node.role {
            Role::Host => schema::NodeRole::Host,
            Role::Terminal => schema::NodeRole::Terminal,
            Role::Standby => schema::NodeRole::Standby,
        });
        to.set_revoked(node.revoked);
    }
    canonical::encode(message)
}

pub fn decode(payload: &[u8]) -> Result<Vec<Listed>, String> {
    let nodes = read(payload)?;
    if encode(&nodes) != payload {
        return Err("has fields that only a later version knows".into());
    }
    Ok(nodes)
}

fn read(payload: &[u8]) -> Result<Vec<Listed>, String> {
    let told = |error: CanonicalError| error.to_string();
    let malformed = |error: capnp::Error| told(error.into());
    let message = canonical::decode(payload).map_err(told)?;
    let root: schema::node_list::Reader<'_> = message.get_root().map_err(malformed)?;
    let nodes = root.get_nodes().map_err(malformed)?;
    if nodes.len() as usize > LISTED_MAX {
        return Err(format!("it has {} machines, at most {LISTED_MAX} allowed", nodes.len()));
    }
    nodes.iter().map(read_node).collect()
}

fn read_node(from: schema::listed_node::Reader<'_>) -> Result<Listed, String> {
    let told = |error: CanonicalError| error.to_string();
    let malformed = |error: capnp::Error| told(error.into());
    let key = from.get_key().map_err(malformed)?;
    let name = from.get_name().map_err(malformed)?.to_str().map_err(|error| told(error.into()))?;
    if name.len() > NAME_LEN_MAX {
        return Err(format!("name has {} bytes, at most {NAME_LEN_MAX} allowed", name.len()));
    }
    let role = match from.get_role().map_err(|error| told(error.into()))? {
        schema::NodeRole::Unknown => return Err("role is 0, expected 1 to 3".into()),
        schema::NodeRole::Host => Role::Host,
        schema::NodeRole::Terminal => Role::Terminal,
        schema::NodeRole::Standby => Role::Standby,
    };
    Ok(Listed {
        key: NodeKey::from_slice(key).ok_or_else(|| format!("key has {} bytes, expected 32", key.len()))?,
        name: name.to_owned(),
        role,
        revoked: from.get_revoked(),
    })
}
