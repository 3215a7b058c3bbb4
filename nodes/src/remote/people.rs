//! Vaults, members and devices, as the account that is logged in meets them.

use super::line::Cap;
use super::office::{User, VaultOf};
use super::wire::get_texts;
use crate::tracker::limits::LOCK_DAYS;
use crate::tracker::member::{is_own, pair, seal_vault, wrap_vault};
use crate::tracker::names::{AccountDeviceId, AccountId};
use crate::transport::ids::fixed;
use crate::transport::problem::{Problem, Why, problem};
use capnp::struct_list;
use twinkeep_engine::crypto::{PublicKey, VaultSecret};
use twinkeep_engine::env::{Env, Time};
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::{CreateOptions, HeadBytes, Vault};
use twinkeep_schema::office_capnp::{device, new_vault, user_session, vault_info};

/// What another account's vaults are wrapped to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountKey {
    /// Whose it is.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// The key.
    pub key: PublicKey,
}

/// A machine from which an account logs in without its password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceRow {
    /// Its id.
    pub id: AccountDeviceId,
    /// What it is called.
    pub label: String,
    /// When it was added.
    pub added: Time,
}

/// A vault that is to be made.
pub struct VaultPlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it can have several members.
    pub is_shared: bool,
    /// Whether the company's recovery kit opens it.
    pub for_company: bool,
    /// Who else is a member from the beginning.
    pub members: &'a [AccountKey],
}

impl VaultPlan<'_> {
    fn kind(&self) -> &'static str {
        match (self.is_shared, self.for_company) {
            (true, _) => "shared",
            (false, true) => "company",
            (false, false) => "private",
        }
    }
}

/// A vault that was drawn here and is not yet known to anybody.
pub(super) struct Drawn {
    pub vault: VaultId,
    pub secret: VaultSecret,
    pub head: HeadBytes,
    /// Empty where the company cannot open it.
    pub company_wrap: Vec<u8>,
}

/// Draws a vault as an office wants them. `company` is the key that the company's kit opens.
pub(super) fn draw(env: &Env, company: Option<PublicKey>) -> Result<Drawn, Problem> {
    let options = CreateOptions { retention_days_min: LOCK_DAYS, undelete_days: LOCK_DAYS, ..CreateOptions::default() };
    let prepared = Vault::prepare(env, &options, &[])?;
    let wrap = |key: PublicKey| wrap_vault(&key, &prepared.vault, &prepared.secret, &*env.entropy);
    let company_wrap = company.map(wrap).unwrap_or_default();
    Ok(Drawn { vault: prepared.vault, company_wrap, head: prepared.head, secret: prepared.secret })
}

/// A key that somebody told us, and that can be used.
pub(super) fn usable(bytes: &[u8]) -> Result<PublicKey, Problem> {
    let key = PublicKey(fixed(bytes, "a key")?);
    match key.is_usable() {
        true => Ok(key),
        false => Err(problem(Why::Other, "the host gave a key to which nothing can be wrapped")),
    }
}

pub(super) fn put_new(mut to: new_vault::Builder<'_>, drawn: &Drawn, [name, kind, owner]: [&str; 3], wrapped: &[u8]) {
    to.set_id(&drawn.vault.0);
    to.set_name(name);
    to.set_kind(kind);
    to.set_owner(owner);
    to.set_config(&drawn.head.config);
    to.set_keyring(&drawn.head.keyring);
    to.set_company_wrap(&drawn.company_wrap);
    to.set_wrapped(wrapped);
}

pub(super) fn get_vault(info: vault_info::Reader<'_>) -> Result<VaultOf, capnp::Error> {
    Ok(VaultOf {
        id: VaultId(fixed(info.get_id()?, "the id of a vault")?),
        name: info.get_name()?.to_string()?,
        kind: info.get_kind()?.to_string()?,
        owner: info.get_owner()?.to_string()?,
        members: get_texts(info.get_members()?)?,
        for_company: info.get_for_company(),
        wrapped: info.get_wrapped()?.to_vec(),
    })
}

pub(super) fn get_devices(list: struct_list::Reader<'_, device::Owned>) -> Result<Vec<DeviceRow>, capnp::Error> {
    let mut rows = Vec::new();
    for device in list {
        rows.push(DeviceRow {
            id: AccountDeviceId(fixed(device.get_id()?, "the id of a device")?),
            label: device.get_label()?.to_string()?,
            added: Time(device.get_added()),
        });
    }
    Ok(rows)
}

impl VaultOf {
    /// Whether the account itself sealed what opens it. What another has wrapped could come from anybody.
    pub fn is_own(&self) -> bool {
        is_own(&self.wrapped)
    }
}

impl User {
    fn session(&self) -> &Cap<user_session::Client> {
        &self.session
    }

    /// Says what others wrap vaults to, where the account has not said so yet. `key` is the account's own.
    ///
    /// # Errors
    /// The office has another key in the account's name.
    pub fn settle_key(&self, key: &[u8; 32]) -> Result<(), Problem> {
        let public = pair(key).public();
        match self.public_key {
            Some(known) if known == public => Ok(()),
            Some(_) => {
                let text = "the office names a key for this account that is not its own: others would share vaults with \
                            somebody else; ask your administrator";
                Err(problem(Why::NotAllowed, text))
            }
            None => self.session().call(move |session| async move {
                let mut request = session.set_key_request();
                request.get().set_public_key(&public.0);
                request.send().promise.await.map(drop)
            }),
        }
    }

    /// What vaults are wrapped to for an account.
    pub fn account_key(&self, name: &str) -> Result<AccountKey, Problem> {
        let account = name.to_owned();
        let (id, name, key) = self.session().call(move |session| async move {
            let mut request = session.account_key_request();
            request.get().set_account(&account[..]);
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            let id = AccountId(fixed(answer.get_id()?, "the id of an account")?);
            Ok((id, answer.get_name()?.to_string()?, answer.get_public_key()?.to_vec()))
        })?;
        if key.is_empty() {
            let text = format!("{name} has no key that a vault can be shared with yet: it gets one at its next login");
            return Err(problem(Why::Usage, text));
        }
        Ok(AccountKey { id, name, key: usable(&key)? })
    }

    fn company_key(&self) -> Result<PublicKey, Problem> {
        let key = self.session().call(|session| async move {
            let answer = session.company_key_request().send().promise.await?;
            Ok(answer.get()?.get_public_key()?.to_vec())
        })?;
        usable(&key)
    }

    /// Makes a vault that the account owns. Everything secret is drawn here. `key` is the account's own.
    pub fn create_vault(&self, env: &Env, key: &[u8; 32], plan: &VaultPlan<'_>) -> Result<VaultId, Problem> {
        let company = if plan.for_company { Some(self.company_key()?) } else { None };
        let drawn = draw(env, company)?;
        let entropy = &*env.entropy;
        let wrapped = seal_vault(key, &self.id, &drawn.vault, &drawn.secret, entropy);
        let wrap = |member: &AccountKey| (member.id, wrap_vault(&member.key, &drawn.vault, &drawn.secret, entropy));
        let members: Vec<(AccountId, Vec<u8>)> = plan.members.iter().map(wrap).collect();
        let (name, kind, vault) = (plan.name.to_owned(), plan.kind(), drawn.vault);
        self.session().call(move |session| async move {
            let mut request = session.add_vault_request();
            put_new(request.get().init_vault(), &drawn, [&name, kind, ""], &wrapped);
            let mut list = request.get().init_members(members.len() as u32);
            for (at, (id, wrapped)) in (0..).zip(&members) {
                let mut to = list.reborrow().get(at);
                to.set_account(&id.0);
                to.set_wrapped(wrapped);
            }
            request.send().promise.await.map(drop)
        })?;
        Ok(vault)
    }

    /// Makes somebody a member of a vault, or gives them anew what opens it. `key` is the account's own.
    pub fn add_member(&self, env: &Env, key: &[u8; 32], vault: &VaultOf, member: &AccountKey) -> Result<(), Problem> {
        let secret = self.secret(key, vault)?;
        let wrapped = wrap_vault(&member.key, &vault.id, &secret, &*env.entropy);
        let (vault, account) = (vault.id, member.id);
        self.session().call(move |session| async move {
            let mut request = session.add_member_request();
            request.get().set_vault(&vault.0);
            let mut wrap = request.get().init_wrap();
            wrap.set_account(&account.0);
            wrap.set_wrapped(&wrapped);
            request.send().promise.await.map(drop)
        })
    }

    /// Somebody is no member any more.
    pub fn remove_member(&self, vault: VaultId, account: &str) -> Result<(), Problem> {
        let account = account.to_owned();
        self.session().call(move |session| async move {
            let mut request = session.remove_member_request();
            request.get().set_vault(&vault.0);
            request.get().set_account(&account[..]);
            request.send().promise.await.map(drop)
        })
    }

    /// Machines from which the account logs in without its password.
    pub fn devices(&self) -> Result<Vec<DeviceRow>, Problem> {
        self.session().call(|session| async move {
            let answer = session.devices_request().send().promise.await?;
            get_devices(answer.get()?.get_devices()?)
        })
    }
}
