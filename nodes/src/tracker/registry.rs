//! The registry: what follows from the log. Machines, accounts, devices, vaults.
//!
//! A pure fold: equal entries give equal registries. What always holds: a revoked key is never trusted again, whatever
//! comes later; a token is spent once; no two machines that may connect have one name, nor any two accounts.

mod apply;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use twinkeep_engine::env::Time;
use twinkeep_engine::id::VaultId;

use super::event::{Login, VaultKind};
use super::names::{AccountDeviceId, AccountId, MachineId, NameError, NodeKey, fold};

/// What cannot happen to the office as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Not the entry that comes next.
    #[error("entry has {what} {found}, expected {expected}")]
    Order {
        /// `sequence` or `generation`.
        what: &'static str,
        /// Value wanted here; of a generation the least.
        expected: u64,
        /// Value in the entry.
        found: u64,
    },
    /// A name that cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nothing of this name or id is there.
    #[error("there is no {what} {id}")]
    Unknown {
        /// `machine`, `account`, …
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// It is in use, or was.
    #[error("{what} {id} is taken")]
    Taken {
        /// `name of a machine`, `key of a device`, …
        what: &'static str,
        /// The name or id.
        id: String,
    },
    /// The token was used before.
    #[error("the token for machine {name} was used already: make another")]
    Spent {
        /// Name it was made for.
        name: String,
    },
    /// The token came too late.
    #[error("the token for machine {name} has expired: make another")]
    Expired {
        /// Name it was made for.
        name: String,
    },
    /// It is in a state in which this does not happen.
    #[error("{what} {id} is {found}, expected {expected}")]
    State {
        /// `machine`, `device`, …
        what: &'static str,
        /// Its id.
        id: String,
        /// States in which it could happen.
        expected: &'static str,
        /// Its state.
        found: &'static str,
    },
    /// It contradicts itself or what is there.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// What a machine may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NodeStatus {
    /// Waits for an admin.
    Pending,
    /// Takes part.
    Active,
    /// Its key is never trusted again.
    Revoked,
    /// It will not come back; its key is not trusted either.
    Forgotten,
}

impl NodeStatus {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Forgotten => "forgotten",
        }
    }
}

/// A machine that joined once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its key.
    pub key: NodeKey,
    /// The how-manieth to join, from 1; never another's.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Its hardware.
    pub machine_id: MachineId,
    /// What it may do.
    pub status: NodeStatus,
    /// Bytes its owner grants.
    pub grant: u64,
    /// Whether what it holds is moved elsewhere.
    pub draining: bool,
    /// Whether it follows the tracker. Never once it is revoked or forgotten.
    pub standby: bool,
    /// When it joined.
    pub joined: Time,
}

/// A token as the office knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// Name the machine will have.
    pub name: String,
    /// From then on it is void.
    pub expires: Time,
    /// Whether who joins with it need not be approved.
    pub auto: bool,
    /// Whether somebody joined with it.
    pub is_spent: bool,
}

/// An account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// What its password is tried against.
    pub login: Login,
    /// Bytes it may use; 0 for no limit.
    pub quota: u64,
    /// Whether it may change the office.
    pub is_admin: bool,
    /// Whether it may not log in.
    pub disabled: bool,
    /// What others wrap vaults to; none until it has said so.
    pub key: Option<[u8; 32]>,
    /// When it was made.
    pub made: Time,
}

/// A device of an account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountDevice {
    /// Its id.
    pub id: AccountDeviceId,
    /// Whose it is.
    pub account: AccountId,
    /// What people call it.
    pub label: String,
    /// Its key.
    pub key: [u8; 32],
    /// Whether it is never trusted again.
    pub revoked: bool,
    /// When it was added.
    pub added: Time,
}

/// A vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultEntry {
    /// Its id.
    pub id: VaultId,
    /// Whose it is.
    pub owner: AccountId,
    /// Its name.
    pub name: String,
    /// Who can read it.
    pub kind: VaultKind,
    /// Its secret wrapped to the company's recovery key; empty where the company cannot read it.
    pub company_wrap: Vec<u8>,
    /// Its secret wrapped to the key of each member.
    pub members: BTreeMap<AccountId, Vec<u8>>,
    /// Members that have got another key since, so that theirs may not open it any more.
    pub shut_out: BTreeSet<AccountId>,
    /// When it was made.
    pub made: Time,
}

/// Everything the log says, summed up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registry {
    generation: u64,
    sequence: u64,
    nodes: BTreeMap<NodeKey, Node>,
    /// Of machines pending or active, folded.
    node_names: BTreeMap<String, NodeKey>,
    tokens: BTreeMap<[u8; 32], Token>,
    accounts: BTreeMap<AccountId, Account>,
    account_names: BTreeMap<String, AccountId>,
    devices: BTreeMap<AccountDeviceId, AccountDevice>,
    device_keys: BTreeSet<[u8; 32]>,
    vaults: BTreeMap<VaultId, VaultEntry>,
}

impl Registry {
    /// An office to which nothing has happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Generation of the last entry; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Sequence of the last entry; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The machine with a key, whatever its status.
    pub fn node(&self, key: &NodeKey) -> Option<&Node> {
        self.nodes.get(key)
    }

    /// All machines that ever joined, by key.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The pending or active machine of a name.
    pub fn node_by_name(&self, name: &str) -> Option<&Node> {
        self.nodes.get(self.node_names.get(&fold(name))?)
    }

    /// Whether a key is revoked for good.
    pub fn is_revoked(&self, key: &NodeKey) -> bool {
        self.nodes.get(key).is_some_and(|node| node.status == NodeStatus::Revoked)
    }

    /// The token with this hash of its secret.
    pub fn token(&self, hash: &[u8; 32]) -> Option<&Token> {
        self.tokens.get(hash)
    }

    /// All tokens ever made, with the hash of their secrets.
    pub fn tokens(&self) -> impl Iterator<Item = (&[u8; 32], &Token)> {
        self.tokens.iter()
    }

    /// The account with an id.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// The account of a name.
    pub fn account_by_name(&self, name: &str) -> Option<&Account> {
        self.accounts.get(self.account_names.get(&fold(name))?)
    }

    /// All accounts, by id.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// A device of an account, revoked or not.
    pub fn device(&self, account: &AccountId, id: &AccountDeviceId) -> Option<&AccountDevice> {
        self.devices.get(id).filter(|device| device.account == *account)
    }

    /// All devices of an account, revoked ones too.
    pub fn devices_of(&self, account: &AccountId) -> impl Iterator<Item = &AccountDevice> {
        let account = *account;
        self.devices.values().filter(move |device| device.account == account)
    }

    /// The vault with an id.
    pub fn vault(&self, id: &VaultId) -> Option<&VaultEntry> {
        self.vaults.get(id)
    }

    /// All vaults, by id.
    pub fn vaults(&self) -> impl Iterator<Item = &VaultEntry> {
        self.vaults.values()
    }

    /// Vaults that an account owns or is a member of.
    pub fn vaults_of(&self, account: &AccountId) -> impl Iterator<Item = &VaultEntry> {
        let account = *account;
        self.vaults.values().filter(move |vault| vault.owner == account || vault.members.contains_key(&account))
    }
}
