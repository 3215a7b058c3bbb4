//! Events: what can happen to an office. Plain values; what they do to it is the registry's.

mod codec;
#[cfg(test)]
pub(super) mod tests;

use twinkeep_engine::env::Time;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::keyring::PasswordCost;

use super::names::{AccountDeviceId, AccountId, MachineId, NodeKey};

/// Most bytes of an encoded event: a new password with all the vaults that an account may be a member of.
pub const EVENT_LEN_MAX: usize = 64 << 10;

/// Longest wrapped key, bytes: three generations of wrapping fit.
pub const WRAPPED_LEN_MAX: usize = 1024;

/// Longest text of an audit event, bytes.
pub const TEXT_LEN_MAX: usize = 4096;

/// The least a password of an account may cost to guess (OWASP's least for Argon2id). Machines refuse to compute with
/// less: a host that lied about it could try passwords cheaply on the proof it is given.
pub const COST_MIN: PasswordCost = PasswordCost { memory_kib: 19 << 10, passes: 2, lanes: 1 };

/// What a password is tried against, and what it opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// Ed25519 public key that follows from the password.
    pub login_key: [u8; 32],
    /// Argon2's salt.
    pub salt: [u8; 16],
    /// Argon2's cost.
    pub cost: PasswordCost,
    /// The account's key, sealed under what also follows from the password.
    pub wrapped_key: Vec<u8>,
}

/// Who can read a vault besides its members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum VaultKind {
    /// The company, with its recovery key.
    Company,
    /// Nobody, and it never has another member.
    Private,
    /// A vault of several accounts; the company too where it has a wrap.
    Shared,
}

/// What an audit event tells of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AuditKind {
    /// Somebody logged in.
    Login,
    /// Somebody tried to.
    LoginFailed,
    /// Content was read back.
    Restore,
    /// The company's recovery key was used.
    KeyUse,
    /// Something was asked to be deleted, or was.
    Delete,
    /// What the text says.
    Other,
}

/// Something that happened to the office.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A machine of this name may join.
    NodeTokenMade {
        /// Name the machine will have.
        name: String,
        /// Hash of the token's secret.
        token_hash: [u8; 32],
        /// From then on the token is void.
        expires: Time,
        /// Whether who joins need not be approved.
        auto: bool,
    },
    /// A machine joined.
    NodeJoined {
        /// Its name, that of the token.
        name: String,
        /// Its key, never seen before.
        key: NodeKey,
        /// Its hardware.
        machine_id: MachineId,
        /// Hash of the token it spent.
        token_hash: [u8; 32],
        /// Whether it waits for approval.
        pending: bool,
    },
    /// An admin confirmed a pending machine.
    NodeApproved {
        /// Which.
        key: NodeKey,
    },
    /// This key is never trusted again.
    NodeRevoked {
        /// Which.
        key: NodeKey,
    },
    /// The machine does not come back; what it held counts no more.
    NodeForgotten {
        /// Which.
        key: NodeKey,
    },
    /// What the machine holds is moved elsewhere, or no longer.
    NodeDraining {
        /// Which.
        key: NodeKey,
        /// Whether from now on.
        on: bool,
    },
    /// The machine's owner grants so much room.
    NodeGrant {
        /// Which.
        key: NodeKey,
        /// Room in bytes.
        bytes: u64,
    },
    /// The machine follows the tracker and may stand in for it, or no longer.
    StandbyAppointed {
        /// Which.
        key: NodeKey,
        /// Whether from now on.
        on: bool,
    },
    /// An account was made.
    AccountMade {
        /// Its id, never seen before.
        id: AccountId,
        /// Its name; no two differ only in capitals.
        name: String,
        /// What its password is tried against.
        login: Login,
        /// Bytes it may use; 0 for no limit.
        quota: u64,
        /// Whether it may change the office.
        is_admin: bool,
    },
    /// An account has another password.
    AccountPassword {
        /// Which.
        id: AccountId,
        /// What it is tried against.
        login: Login,
    },
    /// An account may not log in, or may again.
    AccountDisabled {
        /// Which.
        id: AccountId,
        /// Whether it is disabled from now on.
        on: bool,
    },
    /// An account may use so much.
    AccountQuota {
        /// Which.
        id: AccountId,
        /// Bytes; 0 for no limit.
        bytes: u64,
    },
    /// A device backs up for an account.
    DeviceAdded {
        /// For which.
        account: AccountId,
        /// Its id, never seen before.
        device: AccountDeviceId,
        /// What people call it.
        label: String,
        /// Its key, never seen before.
        key: [u8; 32],
    },
    /// A device is never trusted again.
    DeviceRevoked {
        /// Of which account.
        account: AccountId,
        /// Which.
        device: AccountDeviceId,
    },
    /// A vault was made.
    VaultMade {
        /// Its id, never seen before.
        vault: VaultId,
        /// Whose it is.
        owner: AccountId,
        /// Its name, one of a kind among those of its owner.
        name: String,
        /// Who can read it.
        kind: VaultKind,
        /// Its secret wrapped to the company's recovery key; empty where the company cannot read it.
        company_wrap: Vec<u8>,
    },
    /// An account became a member of a vault, got a new wrap, or left.
    VaultMember {
        /// Which vault.
        vault: VaultId,
        /// Which account.
        account: AccountId,
        /// Whether it is a member from now on.
        on: bool,
        /// The vault's secret wrapped to the account's key; empty when it leaves.
        wrapped: Vec<u8>,
    },
    /// All devices that an account has now are never trusted again.
    DevicesRevoked {
        /// Of which account.
        account: AccountId,
    },
    /// Others wrap vaults to this key of an account.
    AccountKey {
        /// Which.
        id: AccountId,
        /// X25519 public key.
        key: [u8; 32],
    },
    /// All of these in one step, or none.
    Together(Vec<Event>),
    /// Something to be able to look up later. Changes nothing.
    Audit {
        /// What.
        kind: AuditKind,
        /// Whose doing, if known.
        account: Option<AccountId>,
        /// On which machine, if known.
        node: Option<NodeKey>,
        /// In words.
        text: String,
    },
}

/// Bytes that are no event, or an event that exceeds a bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event: {0}")]
pub struct EventError(pub String);

impl Event {
    /// The payload, in canonical form; fails where a bound is exceeded.
    pub fn encode(&self) -> Result<Vec<u8>, EventError> {
        self.check()?;
        let bytes = codec::encode(self);
        within("length", bytes.len(), EVENT_LEN_MAX)?;
        Ok(bytes)
    }

    /// Reads a payload. Refuses what a later version added.
    pub fn decode(payload: &[u8]) -> Result<Self, EventError> {
        within("length", payload.len(), EVENT_LEN_MAX)?;
        let event = codec::decode(payload)?;
        event.check()?;
        Ok(event)
    }

    /// Fails where a length or a password's cost is out of bounds. What names look like is the registry's.
    fn check(&self) -> Result<(), EventError> {
        match self {
            Self::NodeTokenMade { name, .. } | Self::NodeJoined { name, .. } => short("name", name),
            Self::NodeApproved { .. }
            | Self::NodeRevoked { .. }
            | Self::NodeForgotten { .. }
            | Self::NodeDraining { .. }
            | Self::NodeGrant { .. }
            | Self::StandbyAppointed { .. }
            | Self::AccountDisabled { .. }
            | Self::AccountQuota { .. }
            | Self::DeviceRevoked { .. }
            | Self::DevicesRevoked { .. }
            | Self::AccountKey { .. } => Ok(()),
            Self::AccountMade { name, login, .. } => short("name", name).and_then(|()| login.check()),
            Self::AccountPassword { login, .. } => login.check(),
            Self::DeviceAdded { label, .. } => short("label", label),
            Self::VaultMade { name, company_wrap, .. } => {
                short("name", name)?;
                within("length of wrapped key", company_wrap.len(), WRAPPED_LEN_MAX)
            }
            Self::VaultMember { wrapped, .. } => within("length of wrapped key", wrapped.len(), WRAPPED_LEN_MAX),
            Self::Together(parts) if parts.is_empty() => Err(EventError("nothing happens in it".into())),
            Self::Together(parts) => parts.iter().try_for_each(|part| match part {
                Self::Together(_) => Err(EventError("it is one step within another".into())),
                part => part.check(),
            }),
            Self::Audit { text, .. } => within("length of text", text.len(), TEXT_LEN_MAX),
        }
    }
}

impl Login {
    fn check(&self) -> Result<(), EventError> {
        within("length of wrapped key", self.wrapped_key.len(), WRAPPED_LEN_MAX)?;
        check_cost(self.cost)
    }
}

/// Fails where a password would be too cheap to guess, or too dear to try.
pub fn check_cost(cost: PasswordCost) -> Result<(), EventError> {
    if cost.memory_kib < COST_MIN.memory_kib || cost.passes < COST_MIN.passes {
        return Err(EventError(format!("password cost is {cost}, at least {COST_MIN} needed")));
    }
    cost.check().map(drop).map_err(|error| EventError(error.to_string()))
}

fn short(what: &str, text: &str) -> Result<(), EventError> {
    within(&format!("length of {what}"), text.len(), super::names::LABEL_LEN_MAX)
}

fn within(what: &str, found: usize, max: usize) -> Result<(), EventError> {
    if found <= max { Ok(()) } else { Err(EventError(format!("{what} is {found}, at most {max} allowed"))) }
}
