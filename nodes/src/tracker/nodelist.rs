//! The node list: the machines of the office, signed by the company's authority. Everybody checks peers against it; no
//! names in certificates and no dates matter. All numbers little-endian:
//!
//! ```text
//!   0   4  magic "TKNL"
//!   4   2  version, 1
//!   6   2  zero
//!   8   8  generation of the host that made it
//!  16   8  sequence of the log's last entry then
//!  24   4  payload length n
//!  28   n  payload: a NodeList, Cap'n Proto in canonical form, keys strictly ascending
//!  28+n 64 signature: Ed25519 of the company's authority over everything before it
//! ```

mod codec;
#[cfg(test)]
mod tests;

use super::names::{NAME_LEN_MAX, NodeKey, check_name};
use super::registry::{NodeStatus, Registry};
use super::sign::{AuthorityKey, SIGNATURE_LEN, SigningKey, is_signed};

const MAGIC: &[u8; 4] = b"TKNL";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 28;

/// Most machines in a list, revoked ones counted: thirty PCs replaced each year for a lifetime.
pub const LISTED_MAX: usize = 4096;

/// Most bytes of a list.
pub const NODE_LIST_LEN_MAX: usize = HEADER_LEN + LISTED_MAX * (96 + NAME_LEN_MAX) + 4096 + SIGNATURE_LEN;

/// What a machine is in the office.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Keeps everything; there is one.
    Host,
    /// Holds second copies.
    Terminal,
    /// A terminal that follows the tracker.
    Standby,
}

/// A machine in the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its key.
    pub key: NodeKey,
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Whether it is never to be spoken to again.
    pub revoked: bool,
}

/// The list, shown to be the authority's or about to be signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeList {
    generation: u64,
    sequence: u64,
    nodes: Vec<Listed>,
}

/// Bytes or machines that are no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeListError {
    /// Not as long as it says, or as it may be.
    #[error("node list has {found} bytes, expected {expected}")]
    Length {
        /// Bytes there should be; for one that is too short or too long, the bound.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// Not a list at all.
    #[error("node list begins with {found:02x?}, expected \"TKNL\"")]
    Magic {
        /// First four bytes.
        found: [u8; 4],
    },
    /// Damaged, or another's.
    #[error("node list is not signed by authority {authority}: it is damaged, or of another office")]
    Signature {
        /// Whose signature is wanted.
        authority: AuthorityKey,
    },
    /// Written by a later version.
    #[error("node list has {what} {found}, expected {expected}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// Value that can be read.
        expected: u16,
        /// Value in the list.
        found: u16,
    },
    /// Machines that cannot stand in one list.
    #[error("node list: {0}")]
    Nodes(String),
}

impl NodeList {
    /// A list of these machines, in any order.
    pub fn new(generation: u64, sequence: u64, mut nodes: Vec<Listed>) -> Result<Self, NodeListError> {
        nodes.sort_by_key(|node| node.key);
        let list = Self { generation, sequence, nodes };
        list.check()?;
        Ok(list)
    }

    /// The list that follows from a registry: the host, active machines and every revoked one. Pending and forgotten
    /// machines are not in it, so nobody speaks to them.
    pub fn of(registry: &Registry, host: NodeKey, host_name: &str) -> Result<Self, NodeListError> {
        let own = Listed { key: host, name: host_name.to_owned(), role: Role::Host, revoked: false };
        let others = registry.nodes().filter(|node| node.key != host || node.status == NodeStatus::Revoked);
        let listed = others.filter_map(|node| {
            let revoked = match node.status {
                NodeStatus::Active => false,
                NodeStatus::Revoked => true,
                NodeStatus::Pending | NodeStatus::Forgotten => return None,
            };
            let role = if node.standby { Role::Standby } else { Role::Terminal };
            Some(Listed { key: node.key, name: node.name.clone(), role, revoked })
        });
        Self::new(registry.generation(), registry.sequence(), std::iter::once(own).chain(listed).collect())
    }

    /// Generation of the host that made it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Sequence of the log's last entry when it was made.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its machines, by key.
    pub fn nodes(&self) -> &[Listed] {
        &self.nodes
    }

    /// The machine with a key, revoked or not.
    pub fn get(&self, key: &NodeKey) -> Option<&Listed> {
        self.nodes.binary_search_by_key(key, |node| node.key).ok().map(|at| &self.nodes[at])
    }

    /// The machine with a key, if it is to be spoken to.
    pub fn admits(&self, key: &NodeKey) -> Option<&Listed> {
        self.get(key).filter(|node| !node.revoked)
    }

    /// Whether it says more than `other`: larger generation, then larger sequence.
    pub fn newer_than(&self, other: &Self) -> bool {
        (self.generation, self.sequence) > (other.generation, other.sequence)
    }

    /// The list to believe after having believed `self` and been shown `other`: the newer one, with the revocations of
    /// both. A host that was rolled back brings no key back.
    pub fn with(&self, other: &Self) -> Result<Self, NodeListError> {
        let (newer, older) = if other.newer_than(self) { (other, self) } else { (self, other) };
        let mut nodes = newer.nodes.clone();
        for gone in older.nodes.iter().filter(|node| node.revoked) {
            match nodes.binary_search_by_key(&gone.key, |node| node.key) {
                Ok(at) => nodes[at].revoked = true,
                Err(at) => nodes.insert(at, gone.clone()),
            }
        }
        Self::new(newer.generation, newer.sequence, nodes)
    }

    /// The signed list.
    pub fn encode(&self, authority: &SigningKey) -> Vec<u8> {
        let payload = codec::encode(&self.nodes);
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len() + SIGNATURE_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes.extend_from_slice(&authority.sign(&bytes));
        bytes
    }

    /// Reads a list that `authority` signed.
    pub fn decode(bytes: &[u8], authority: &AuthorityKey) -> Result<Self, NodeListError> {
        let found = bytes.len();
        if found > NODE_LIST_LEN_MAX {
            return Err(NodeListError::Length { expected: NODE_LIST_LEN_MAX, found });
        }
        let short = NodeListError::Length { expected: HEADER_LEN + SIGNATURE_LEN, found };
        let Some((signed, signature)) = bytes.split_last_chunk::<SIGNATURE_LEN>() else { return Err(short) };
        let Some((header, payload)) = signed.split_first_chunk::<HEADER_LEN>() else { return Err(short) };
        let mut fields = Fields(header);
        let magic = fields.take();
        if magic != *MAGIC {
            return Err(NodeListError::Magic { found: magic });
        }
        if !is_signed(&authority.0, signed, signature) {
            return Err(NodeListError::Signature { authority: *authority });
        }
        for (what, expected) in [("version", VERSION), ("flags", 0)] {
            let found = u16::from_le_bytes(fields.take());
            if found != expected {
                return Err(NodeListError::Unknown { what, expected, found });
            }
        }
        let generation = u64::from_le_bytes(fields.take());
        let sequence = u64::from_le_bytes(fields.take());
        let payload_len = u32::from_le_bytes(fields.take()) as usize;
        if payload_len != payload.len() {
            let expected = payload_len.saturating_add(HEADER_LEN + SIGNATURE_LEN);
            return Err(NodeListError::Length { expected, found });
        }
        let list = Self { generation, sequence, nodes: codec::decode(payload).map_err(NodeListError::Nodes)? };
        list.check()?;
        Ok(list)
    }

    fn check(&self) -> Result<(), NodeListError> {
        let bad = |what: String| Err(NodeListError::Nodes(what));
        if self.nodes.len() > LISTED_MAX {
            return bad(format!("it has {} machines, at most {LISTED_MAX} allowed", self.nodes.len()));
        }
        for pair in self.nodes.windows(2) {
            if pair[0].key >= pair[1].key {
                return bad(format!("key {} stands twice or out of order", pair[1].key));
            }
        }
        for node in &self.nodes {
            check_name("machine", &node.name).map_err(|error| NodeListError::Nodes(error.to_string()))?;
        }
        let hosts = self.nodes.iter().filter(|node| node.role == Role::Host && !node.revoked).count();
        if hosts > 1 {
            return bad(format!("it has {hosts} hosts, expected one"));
        }
        Ok(())
    }
}

/// Takes fixed fields off the front of a header whose length is known.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("all fields together are as long as the header");
        self.0 = rest;
        *field
    }
}
