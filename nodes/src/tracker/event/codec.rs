//! An event as Cap'n Proto in canonical form, and back.

use twinkeep_engine::env::Time;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::record::canonical::{self, CanonicalError};
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_schema::registry_capnp as schema;

use super::{AuditKind, Event, EventError, Login, VaultKind};
use crate::tracker::names::{AccountDeviceId, AccountId, MachineId, NodeKey};

/// Room for so many events of one step is made before they are read.
const PARTS_AT_FIRST: u32 = 64;

impl From<CanonicalError> for EventError {
    fn from(error: CanonicalError) -> Self {
        Self(error.to_string())
    }
}

impl From<capnp::Error> for EventError {
    fn from(error: capnp::Error) -> Self {
        Self(CanonicalError::from(error).to_string())
    }
}

impl From<capnp::NotInSchema> for EventError {
    fn from(error: capnp::NotInSchema) -> Self {
        Self(CanonicalError::from(error).to_string())
    }
}

pub fn encode(event: &Event) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    write(event, message.init_root());
    canonical::encode(message)
}

fn write(event: &Event, mut root: schema::event::Builder<'_>) {
    match event {
        Event::NodeTokenMade { name, token_hash, expires, auto } => {
            let mut to = root.init_node_token_made();
            to.set_name(name.as_str());
            to.set_token_hash(token_hash);
            to.set_expires(expires.0);
            to.set_auto(*auto);
        }
        Event::NodeJoined { name, key, machine_id, token_hash, pending } => {
            let mut to = root.init_node_joined();
            to.set_name(name.as_str());
            to.set_key(&key.0);
            to.set_machine_id(&machine_id.0);
            to.set_token_hash(token_hash);
            to.set_pending(*pending);
        }
        Event::NodeApproved { key } => root.set_node_approved(&key.0),
        Event::NodeRevoked { key } => root.set_node_revoked(&key.0),
        Event::NodeForgotten { key } => root.set_node_forgotten(&key.0),
        Event::NodeDraining { key, on } => write_switch(root.init_node_draining(), key, *on),
        Event::NodeGrant { key, bytes } => {
            let mut to = root.init_node_grant();
            to.set_key(&key.0);
            to.set_bytes(*bytes);
        }
        Event::StandbyAppointed { key, on } => write_switch(root.init_standby_appointed(), key, *on),
        Event::AccountMade { id, name, login, quota, is_admin } => {
            let mut to = root.init_account_made();
            to.set_id(&id.0);
            to.set_name(name.as_str());
            to.set_quota(*quota);
            to.set_is_admin(*is_admin);
            write_login(to.init_login(), login);
        }
        Event::AccountPassword { id, login } => {
            let mut to = root.init_account_password();
            to.set_id(&id.0);
            write_login(to.init_login(), login);
        }
        Event::AccountDisabled { id, on } => {
            let mut to = root.init_account_disabled();
            to.set_id(&id.0);
            to.set_on(*on);
        }
        Event::AccountQuota { id, bytes } => {
            let mut to = root.init_account_quota();
            to.set_id(&id.0);
            to.set_bytes(*bytes);
        }
        Event::DeviceAdded { account, device, label, key } => {
            let mut to = root.init_device_added();
            to.set_account(&account.0);
            to.set_device(&device.0);
            to.set_label(label.as_str());
            to.set_key(key);
        }
        Event::DeviceRevoked { account, device } => {
            let mut to = root.init_device_revoked();
            to.set_account(&account.0);
            to.set_device(&device.0);
        }
        Event::VaultMade { vault, owner, name, kind, company_wrap } => {
            let mut to = root.init_vault_made();
            to.set_vault(&vault.0);
            to.set_owner(&owner.0);
            to.set_name(name.as_str());
            to.set_kind(match kind {
                VaultKind::Company => schema::VaultKind::Company,
                VaultKind::Private => schema::VaultKind::Private,
                VaultKind::Shared => schema::VaultKind::Shared,
            });
            to.set_company_wrap(company_wrap);
        }
        Event::VaultMember { vault, account, on, wrapped } => {
            let mut to = root.init_vault_member();
            to.set_vault(&vault.0);
            to.set_account(&account.0);
            to.set_on(*on);
            to.set_wrapped(wrapped);
        }
        Event::Audit { kind, account, node, text } => {
            let mut to = root.init_audit();
            to.set_kind(match kind {
                AuditKind::Login => schema::AuditKind::Login,
                AuditKind::LoginFailed => schema::AuditKind::LoginFailed,
                AuditKind::Restore => schema::AuditKind::Restore,
                AuditKind::KeyUse => schema::AuditKind::KeyUse,
                AuditKind::Delete => schema::AuditKind::Delete,
                AuditKind::Other => schema::AuditKind::Other,
            });
            to.set_account(account.as_ref().map_or(&[], |id| &id.0));
            to.set_node(node.as_ref().map_or(&[], |key| &key.0));
            to.set_text(text.as_str());
        }
        Event::Together(parts) => {
            let mut list = root.init_together(parts.len() as u32);
            (0..).zip(parts).for_each(|(at, part)| write(part, list.reborrow().get(at)));
        }
        Event::DevicesRevoked { account } => root.set_devices_revoked(&account.0),
        Event::AccountKey { id, key } => {
            let mut to = root.init_account_key();
            to.set_id(&id.0);
            to.set_key(key);
        }
    }
}

fn write_switch(mut to: schema::node_switch::Builder<'_>, key: &NodeKey, on: bool) {
    to.set_key(&key.0);
    to.set_on(on);
}

fn write_login(mut to: schema::login::Builder<'_>, login: &Login) {
    to.set_login_key(&login.login_key);
    to.set_salt(&login.salt);
    to.set_memory_kib(login.cost.memory_kib);
    to.set_passes(login.cost.passes);
    to.set_lanes(login.cost.lanes);
    to.set_wrapped_key(&login.wrapped_key);
}

pub fn decode(payload: &[u8]) -> Result<Event, EventError> {
    let message = canonical::decode(payload)?;
    let event = match message.get_root::<schema::event::Reader<'_>>()?.which()? {
        schema::event::Which::Together(parts) => {
            let parts = parts?;
            let mut events = Vec::with_capacity(parts.len().min(PARTS_AT_FIRST) as usize);
            for part in parts {
                events.push(read(part)?);
            }
            Event::Together(events)
        }
        _ => read(message.get_root()?)?,
    };
    if encode(&event) != payload {
        // What it says besides cannot be obeyed, so it must not be passed over either.
        return Err(EventError("has fields that only a later version knows".into()));
    }
    Ok(event)
}

/// What happens in one step. One within another is none.
fn read(root: schema::event::Reader<'_>) -> Result<Event, EventError> {
    use schema::event::Which;
    Ok(match root.which()? {
        Which::Unknown(()) => return Err(EventError("its kind is 0, expected 1 to 20".into())),
        Which::Together(_) => return Err(EventError("it is one step within another".into())),
        Which::DevicesRevoked(id) => Event::DevicesRevoked { account: account(id?)? },
        Which::AccountKey(from) => {
            let from = from?;
            Event::AccountKey { id: account(from.get_id()?)?, key: fixed("key of an account", from.get_key()?)? }
        }
        Which::NodeTokenMade(from) => {
            let from = from?;
            Event::NodeTokenMade {
                name: text(from.get_name()?)?,
                token_hash: fixed("token hash", from.get_token_hash()?)?,
                expires: Time(from.get_expires()),
                auto: from.get_auto(),
            }
        }
        Which::NodeJoined(from) => {
            let from = from?;
            Event::NodeJoined {
                name: text(from.get_name()?)?,
                key: node(from.get_key()?)?,
                machine_id: MachineId(fixed("machine id", from.get_machine_id()?)?),
                token_hash: fixed("token hash", from.get_token_hash()?)?,
                pending: from.get_pending(),
            }
        }
        Which::NodeApproved(key) => Event::NodeApproved { key: node(key?)? },
        Which::NodeRevoked(key) => Event::NodeRevoked { key: node(key?)? },
        Which::NodeForgotten(key) => Event::NodeForgotten { key: node(key?)? },
        Which::NodeDraining(from) => {
            let from = from?;
            Event::NodeDraining { key: node(from.get_key()?)?, on: from.get_on() }
        }
        Which::NodeGrant(from) => {
            let from = from?;
            Event::NodeGrant { key: node(from.get_key()?)?, bytes: from.get_bytes() }
        }
        Which::StandbyAppointed(from) => {
            let from = from?;
            Event::StandbyAppointed { key: node(from.get_key()?)?, on: from.get_on() }
        }
        Which::AccountMade(from) => {
            let from = from?;
            Event::AccountMade {
                id: account(from.get_id()?)?,
                name: text(from.get_name()?)?,
                login: read_login(from.get_login()?)?,
                quota: from.get_quota(),
                is_admin: from.get_is_admin(),
            }
        }
        Which::AccountPassword(from) => {
            let from = from?;
            Event::AccountPassword { id: account(from.get_id()?)?, login: read_login(from.get_login()?)? }
        }
        Which::AccountDisabled(from) => {
            let from = from?;
            Event::AccountDisabled { id: account(from.get_id()?)?, on: from.get_on() }
        }
        Which::AccountQuota(from) => {
            let from = from?;
            Event::AccountQuota { id: account(from.get_id()?)?, bytes: from.get_bytes() }
        }
        Which::DeviceAdded(from) => {
            let from = from?;
            Event::DeviceAdded {
                account: account(from.get_account()?)?,
                device: device(from.get_device()?)?,
                label: text(from.get_label()?)?,
                key: fixed("device key", from.get_key()?)?,
            }
        }
        Which::DeviceRevoked(from) => {
            let from = from?;
            Event::DeviceRevoked { account: account(from.get_account()?)?, device: device(from.get_device()?)? }
        }
        Which::VaultMade(from) => {
            let from = from?;
            Event::VaultMade {
                vault: vault(from.get_vault()?)?,
                owner: account(from.get_owner()?)?,
                name: text(from.get_name()?)?,
                kind: match from.get_kind()? {
                    schema::VaultKind::Unknown => return Err(EventError("kind of vault is 0, expected 1 to 3".into())),
                    schema::VaultKind::Company => VaultKind::Company,
                    schema::VaultKind::Private => VaultKind::Private,
                    schema::VaultKind::Shared => VaultKind::Shared,
                },
                company_wrap: from.get_company_wrap()?.to_vec(),
            }
        }
        Which::VaultMember(from) => {
            let from = from?;
            Event::VaultMember {
                vault: vault(from.get_vault()?)?,
                account: account(from.get_account()?)?,
                on: from.get_on(),
                wrapped: from.get_wrapped()?.to_vec(),
            }
        }
        Which::Audit(from) => {
            let from = from?;
            Event::Audit {
                kind: match from.get_kind()? {
                    schema::AuditKind::Unknown => return Err(EventError("kind of audit is 0, expected 1 to 6".into())),
                    schema::AuditKind::Login => AuditKind::Login,
                    schema::AuditKind::LoginFailed => AuditKind::LoginFailed,
                    schema::AuditKind::Restore => AuditKind::Restore,
                    schema::AuditKind::KeyUse => AuditKind::KeyUse,
                    schema::AuditKind::Delete => AuditKind::Delete,
                    schema::AuditKind::Other => AuditKind::Other,
                },
                account: optional(from.get_account()?, account)?,
                node: optional(from.get_node()?, node)?,
                text: text(from.get_text()?)?,
            }
        }
    })
}

fn read_login(from: schema::login::Reader<'_>) -> Result<Login, EventError> {
    Ok(Login {
        login_key: fixed("login key", from.get_login_key()?)?,
        salt: fixed("password salt", from.get_salt()?)?,
        cost: PasswordCost { memory_kib: from.get_memory_kib(), passes: from.get_passes(), lanes: from.get_lanes() },
        wrapped_key: from.get_wrapped_key()?.to_vec(),
    })
}

fn node(bytes: &[u8]) -> Result<NodeKey, EventError> {
    fixed("key of a machine", bytes).map(NodeKey)
}

fn account(bytes: &[u8]) -> Result<AccountId, EventError> {
    fixed("account id", bytes).map(AccountId)
}

fn device(bytes: &[u8]) -> Result<AccountDeviceId, EventError> {
    fixed("device id", bytes).map(AccountDeviceId)
}

fn vault(bytes: &[u8]) -> Result<VaultId, EventError> {
    fixed("vault id", bytes).map(VaultId)
}

fn optional<T>(bytes: &[u8], read: impl Fn(&[u8]) -> Result<T, EventError>) -> Result<Option<T>, EventError> {
    if bytes.is_empty() { Ok(None) } else { read(bytes).map(Some) }
}

fn text(from: capnp::text::Reader<'_>) -> Result<String, EventError> {
    Ok(from.to_str().map_err(CanonicalError::from)?.to_owned())
}

fn fixed<const N: usize>(what: &str, bytes: &[u8]) -> Result<[u8; N], EventError> {
    bytes.try_into().map_err(|_| EventError(format!("{what} has {} bytes, expected {N}", bytes.len())))
}
