//! Accounts and vaults as they are made, who is a member of what, and from where somebody logs in.

use crate::host::Host;
use crate::tracker::event::{Event, Login, VaultKind};
use crate::tracker::log::Actor;
use crate::tracker::member::is_wrap;
use crate::tracker::names::{AccountDeviceId, AccountId, check_name};
use crate::tracker::office::OfficeError;
use crate::tracker::registry::{AccountDevice, Registry, VaultEntry};
use crate::transport::ids::{fixed, one};
use crate::transport::problem::{Problem, Why, problem};
use capnp::Error;
use capnp::struct_list;
use std::sync::Arc;
use twinkeep_engine::crypto::{PublicKey, WRAPPED_LEN};
use twinkeep_engine::id::VaultId;
use twinkeep_engine::limits::RECORD_LEN_MAX;
use twinkeep_engine::vault::HeadBytes;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_schema::office_capnp::{device, new_user, new_vault, vault_info, wrap};

/// In words.
pub(super) fn kind_word(kind: VaultKind) -> &'static str {
    match kind {
        VaultKind::Company => "company",
        VaultKind::Private => "private",
        VaultKind::Shared => "shared",
    }
}

fn usage(text: impl Into<String>) -> Problem {
    problem(Why::Usage, text)
}

/// The account of a name.
pub(super) fn account(host: &Host, name: &str) -> Result<AccountId, Problem> {
    let id = host.office.read(|registry| registry.account_by_name(name).map(|account| account.id));
    id.ok_or_else(|| problem(Why::NotFound, format!("there is no account {name}")))
}

/// What others may wrap vaults to.
pub(super) fn public_key(bytes: &[u8]) -> Result<[u8; 32], Problem> {
    let key: [u8; 32] = fixed(bytes, "a key")?;
    match PublicKey(key).is_usable() {
        true => Ok(key),
        false => Err(usage("nothing can be wrapped to that key")),
    }
}

/// A new account, as an administrator's program prepared it; without its vault.
pub(super) fn new_account(user: new_user::Reader<'_>) -> Result<(AccountId, Vec<Event>), Error> {
    let id = AccountId(fixed(user.get_id()?, "the id of an account")?);
    let login = Login {
        login_key: fixed(user.get_login_key()?, "a key")?,
        salt: fixed(user.get_salt()?, "a salt")?,
        cost: PasswordCost { memory_kib: user.get_memory_kib(), passes: user.get_passes(), lanes: user.get_lanes() },
        wrapped_key: user.get_wrapped_key()?.to_vec(),
    };
    let (name, quota, is_admin) = (user.get_name()?.to_string()?, user.get_quota(), user.get_is_admin());
    let made = Event::AccountMade { id, name, login, quota, is_admin };
    Ok((id, vec![made, Event::AccountKey { id, key: public_key(user.get_public_key()?)? }]))
}

/// A vault as a member prepared it.
pub(super) struct NewVault {
    name: String,
    kind: VaultKind,
    /// Account name; empty for who makes it.
    pub owner: String,
    head: HeadBytes,
    company_wrap: Vec<u8>,
    wrapped: Vec<u8>,
}

impl NewVault {
    pub fn read(told: new_vault::Reader<'_>) -> Result<Self, Error> {
        let kind = match told.get_kind()?.to_str()? {
            "company" => VaultKind::Company,
            "private" => VaultKind::Private,
            "shared" => VaultKind::Shared,
            other => return Err(usage(format!("there are no {other} vaults")).into()),
        };
        let vault = Self {
            name: told.get_name()?.to_string()?,
            kind,
            owner: told.get_owner()?.to_string()?,
            head: HeadBytes { config: told.get_config()?.to_vec(), keyring: told.get_keyring()?.to_vec() },
            company_wrap: told.get_company_wrap()?.to_vec(),
            wrapped: told.get_wrapped()?.to_vec(),
        };
        vault.check()?;
        Ok(vault)
    }

    fn check(&self) -> Result<(), Problem> {
        check_name("vault", &self.name).map_err(|error| usage(error.to_string()))?;
        if self.head.config.len() > RECORD_LEN_MAX || self.head.keyring.len() > RECORD_LEN_MAX {
            return Err(usage("config or keyring of the vault is too long"));
        }
        let is_good_wrap = is_wrap(&self.wrapped) && matches!(self.company_wrap.len(), 0 | WRAPPED_LEN);
        if !is_good_wrap {
            return Err(usage("the vault's secret is not wrapped as it should be"));
        }
        Ok(())
    }

    /// Makes it: what comes before, the vault and its members stand in the log in one step, or nothing does.
    pub async fn make(
        self,
        host: &Arc<Host>,
        actor: Actor,
        before: Vec<Event>,
        owner: AccountId,
        members: Vec<(AccountId, Vec<u8>)>,
    ) -> Result<(), Problem> {
        if !members.is_empty() && self.kind != VaultKind::Shared {
            return Err(usage("only a shared vault has several members"));
        }
        let vault = self.head.vault()?;
        let (name, kind, company_wrap) = (self.name, self.kind, self.company_wrap);
        let mut events = before;
        events.push(Event::VaultMade { vault, owner, name, kind, company_wrap });
        let all = [(owner, self.wrapped)].into_iter().chain(members);
        events.extend(all.map(|(account, wrapped)| Event::VaultMember { vault, account, on: true, wrapped }));
        let (event, head, host) = (Event::Together(events), self.head, host.clone());
        host.clone().work().run(move || found(&host, actor, &event, &head)).await
    }
}

/// The vault is there before the office knows it: one that nobody knows is an empty folder, one that is not there is a
/// loss.
fn found(host: &Host, actor: Actor, event: &Event, head: &HeadBytes) -> Result<(), Problem> {
    // Looked at before anything is made of it.
    host.office.check(actor, event.clone())?;
    let id = host.make_vault(head)?;
    match host.office.append(actor, event.clone()) {
        Ok(_) => Ok(()),
        Err(error) => {
            // Otherwise nobody knows yet whether the office knows it.
            if matches!(error, OfficeError::Refused(_)) {
                host.leave_vault(id);
            }
            Err(error.into())
        }
    }
}

/// Who is given what opens a vault.
pub(super) fn read_wrap(told: wrap::Reader<'_>) -> Result<(AccountId, Vec<u8>), Error> {
    let account = AccountId(fixed(told.get_account()?, "the id of an account")?);
    let wrapped = told.get_wrapped()?.to_vec();
    match is_wrap(&wrapped) {
        true => Ok((account, wrapped)),
        false => Err(usage("the vault's secret is not wrapped as it should be").into()),
    }
}

/// Makes an account a member of a shared vault, or gives it what opens the vault anew.
pub(super) fn membership(
    registry: &Registry,
    vault: VaultId,
    account: AccountId,
    wrapped: Vec<u8>,
) -> Result<Event, Problem> {
    let entry = registry.vault(&vault).ok_or_else(|| problem(Why::NotFound, format!("there is no vault {vault}")))?;
    match entry.kind {
        VaultKind::Shared => Ok(Event::VaultMember { vault, account, on: true, wrapped }),
        VaultKind::Company | VaultKind::Private => {
            let hint = "`twinkeep vault create NAME --shared` makes one for several";
            Err(usage(format!("the vault {} has no member but its owner: {hint}", entry.name)))
        }
    }
}

/// One of its devices that is still trusted, by its id.
pub(super) fn device_of(host: &Host, account: &AccountId, id: &[u8]) -> Result<AccountDeviceId, Problem> {
    let id = AccountDeviceId(fixed(id, "the id of a device")?);
    let found = host.office.read(|registry| registry.device(account, &id).is_some());
    match found {
        true => Ok(id),
        false => Err(problem(Why::NotFound, format!("the account has no device {id}"))),
    }
}

/// Those from which an account can log in.
pub(super) fn trusted(registry: &Registry, account: &AccountId) -> Vec<AccountDevice> {
    let mut devices: Vec<_> = registry.devices_of(account).filter(|device| !device.revoked).cloned().collect();
    devices.sort_by_key(|device| device.added);
    devices
}

pub(super) fn put_devices(devices: &[AccountDevice], mut list: struct_list::Builder<'_, device::Owned>) {
    for (at, device) in (0..).zip(devices) {
        let mut to = list.reborrow().get(at);
        to.set_id(&device.id.0);
        to.set_label(&device.label[..]);
        to.set_added(device.added.0);
    }
}

/// What of a vault can be told to `member`, or without any secret.
pub(super) fn put_vault(
    registry: &Registry,
    vault: &VaultEntry,
    member: Option<&AccountId>,
    mut info: vault_info::Builder<'_>,
) {
    let name = |id: &AccountId| registry.account(id).map_or_else(|| id.to_hex(), |account| account.name.clone());
    info.set_id(&vault.id.0);
    info.set_name(&vault.name[..]);
    info.set_kind(kind_word(vault.kind));
    info.set_wrapped(member.and_then(|id| vault.members.get(id)).map_or(&[], |wrapped| wrapped));
    info.set_owner(&name(&vault.owner)[..]);
    info.set_for_company(!vault.company_wrap.is_empty());
    let mut members = info.init_members(vault.members.len() as u32);
    (0..).zip(vault.members.keys()).for_each(|(at, id)| members.set(at, &name(id)[..]));
}

/// The id of a vault that there is.
pub(super) fn vault_id(registry: &Registry, bytes: &[u8]) -> Result<VaultId, Problem> {
    let id: VaultId = one(bytes)?;
    registry.vault(&id).map(|vault| vault.id).ok_or_else(|| problem(Why::NotFound, format!("there is no vault {id}")))
}
