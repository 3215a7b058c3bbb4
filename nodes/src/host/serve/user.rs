//! An account that has shown who it is.

use super::admin::AdminServer;
use super::bootstrap::require_active;
use super::people::{self, NewVault};
use super::vault::{Right, VaultServer};
use crate::host::Host;
use crate::host::leave::UserCall;
use crate::tracker::event::{Event, Login};
use crate::tracker::limits::DEVICES_MAX;
use crate::tracker::log::Actor;
use crate::tracker::names::{AccountDeviceId, AccountId, NodeKey, fold};
use crate::tracker::pace::Who;
use crate::tracker::registry::{Account, Registry};
use crate::transport::ids::{fixed, one};
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::{Held, Peer};
use capnp::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_schema::office_capnp::user_session;

/// Who is at the other end, and as what: asked anew at every call, so that whoever is locked out is out at once.
#[derive(Clone)]
pub(super) struct Caller {
    pub host: Arc<Host>,
    pub peer: Arc<Peer>,
    pub account: AccountId,
    /// By which of its devices it came; none by password.
    pub device: Option<AccountDeviceId>,
    /// What its password was tried against.
    pub login_key: [u8; 32],
    /// For as long as anything of it is in use.
    pub _held: Arc<Held>,
}

/// Whether a machine is the one that the host runs on, by the host's socket or as a terminal there: what is backed up there
/// has its source and its first copy on one machine.
pub(super) fn is_on_host(host: &Host, key: &NodeKey) -> bool {
    let machine = host.office.read(|registry| registry.node(key).map(|node| node.machine_id));
    *key == host.key() || machine.is_some_and(|machine| machine.0 == host.identity.machine_id)
}

impl Caller {
    /// Begins a call.
    pub fn call(&self) -> Result<UserCall, Problem> {
        self.account()?;
        self.host.leave.begin(self.peer.call()?)
    }

    /// Gives something that stays in memory for as long as the other side holds it.
    pub fn hold(&self) -> Result<Held, Problem> {
        self.peer.hold_for(self.account)
    }

    /// The account as it is now.
    pub fn account(&self) -> Result<Account, Problem> {
        require_active(&self.host, &self.peer.key)?;
        let account = self.host.office.read(|registry| registry.account(&self.account).cloned());
        let is_device_out = |id| match self.host.office.read(|registry| registry.device(&self.account, &id).cloned()) {
            Some(device) => device.revoked,
            None => true,
        };
        if self.device.is_some_and(is_device_out) {
            return Err(problem(Why::NotAllowed, "this device of the account was revoked: log in again"));
        }
        match account {
            Some(account) if self.device.is_none() && account.login.login_key != self.login_key => {
                Err(problem(Why::NotAllowed, format!("{} has another password now: log in again", account.name)))
            }
            Some(account) if !account.disabled => Ok(account),
            _ => Err(problem(Why::NotAllowed, "this account is disabled: ask an administrator")),
        }
    }

    /// Fails unless the account is a member of the vault.
    pub fn require_member(&self, vault: &VaultId) -> Result<(), Problem> {
        let account = self.account()?.id;
        match self.host.office.read(|registry| registry.vaults_of(&account).any(|known| known.id == *vault)) {
            true => Ok(()),
            // The same as for one there is none of.
            false => Err(problem(Why::NotFound, format!("there is no vault {vault}"))),
        }
    }
}

/// Bytes of the vaults that an account owns.
pub(super) fn used(host: &Host, account: &AccountId) -> u64 {
    let registry = host.office.registry();
    let owned = registry.vaults().filter(|vault| vault.owner == *account);
    owned.filter_map(|vault| Some(host.vault(vault.id).ok()?.stored.load(Ordering::Relaxed))).sum()
}

/// See the module.
pub(super) struct UserServer(Caller);

impl UserServer {
    pub fn new(caller: Caller) -> Self {
        Self(caller)
    }

    /// Writes that something was taken back, which is so at most as often as it was given.
    async fn append(&self, event: Event) -> Result<(), Problem> {
        let (host, actor) = (self.0.host.clone(), Actor::Account(self.0.account));
        self.0.host.work().run(move || host.office.append(actor, event)).await.map(drop)
    }

    /// Fails where the account changes something too often.
    fn may_change(&self) -> Result<(), Problem> {
        self.0.host.may_change(Who::Account(self.0.account, self.0.device.is_some()))
    }

    /// Writes that something is new, if that is not too often.
    async fn change(&self, event: Event) -> Result<(), Problem> {
        self.may_change()?;
        self.append(event).await
    }
}

impl user_session::Server for UserServer {
    async fn account(
        self: Rc<Self>,
        _params: user_session::AccountParams,
        mut results: user_session::AccountResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let account = self.0.account()?;
        let mut results = results.get();
        results.set_name(&account.name[..]);
        results.set_id(&account.id.0);
        results.set_quota(account.quota);
        results.set_used(used(&self.0.host, &account.id));
        results.set_is_admin(account.is_admin);
        results.set_public_key(account.key.as_ref().map_or(&[], |key| &key[..]));
        Ok(())
    }

    async fn vaults(
        self: Rc<Self>,
        _params: user_session::VaultsParams,
        mut results: user_session::VaultsResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let registry = self.0.host.office.registry();
        let vaults: Vec<_> = registry.vaults_of(&self.0.account).collect();
        let mut list = results.get().init_vaults(vaults.len() as u32);
        for (at, vault) in (0..).zip(vaults) {
            people::put_vault(&registry, vault, Some(&self.0.account), list.reborrow().get(at));
        }
        Ok(())
    }

    async fn open(
        self: Rc<Self>,
        params: user_session::OpenParams,
        mut results: user_session::OpenResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let id: VaultId = one(params.get()?.get_vault()?)?;
        self.0.require_member(&id)?;
        let (vault, held) = (self.0.host.vault(id)?, self.0.hold()?);
        let right = Right::Member(self.0.clone());
        results.get().set_vault(capnp_rpc::new_client(VaultServer::new(right, id, vault, held)));
        Ok(())
    }

    async fn add_device(
        self: Rc<Self>,
        params: user_session::AddDeviceParams,
        mut results: user_session::AddDeviceResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let params = params.get()?;
        let label = params.get_label()?.to_string()?;
        let key = fixed(params.get_key()?, "a key")?;
        let mut id = [0; 16];
        self.0.host.env().entropy.fill(&mut id);
        let device = AccountDeviceId(id);
        let devices = people::trusted(&self.0.host.office.registry(), &self.0.account).len();
        if devices >= DEVICES_MAX {
            let hint = "`twinkeep user revoke-device` ends those that are not used any more";
            return Err(problem(Why::Usage, format!("the account has {devices} devices: {hint}")).into());
        }
        self.change(Event::DeviceAdded { account: self.0.account, device, label, key }).await?;
        results.get().set_device(&id);
        Ok(())
    }

    async fn revoke_device(
        self: Rc<Self>,
        params: user_session::RevokeDeviceParams,
        _results: user_session::RevokeDeviceResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let device = people::device_of(&self.0.host, &self.0.account, params.get()?.get_device()?)?;
        self.append(Event::DeviceRevoked { account: self.0.account, device }).await?;
        Ok(())
    }

    async fn passwd(
        self: Rc<Self>,
        params: user_session::PasswdParams,
        _results: user_session::PasswdResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        // Whoever found a machine's files must not be able to take the account over with them.
        if self.0.device.is_some() {
            return Err(problem(Why::NotAllowed, "changing the password takes the password").into());
        }
        let params = params.get()?;
        let login = Login {
            login_key: fixed(params.get_login_key()?, "a key")?,
            salt: fixed(params.get_salt()?, "a salt")?,
            cost: PasswordCost {
                memory_kib: params.get_memory_kib(),
                passes: params.get_passes(),
                lanes: params.get_lanes(),
            },
            wrapped_key: params.get_wrapped_key()?.to_vec(),
        };
        self.change(Event::AccountPassword { id: self.0.account, login }).await?;
        Ok(())
    }

    async fn add_vault(
        self: Rc<Self>,
        params: user_session::AddVaultParams,
        _results: user_session::AddVaultResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let params = params.get()?;
        let vault = NewVault::read(params.get_vault()?)?;
        if !vault.owner.is_empty() && fold(&vault.owner) != fold(&self.0.account()?.name) {
            return Err(problem(Why::NotAllowed, "an account makes vaults of its own").into());
        }
        let mut members = Vec::new();
        for told in params.get_members()? {
            members.push(people::read_wrap(told)?);
        }
        self.0.host.has_room()?;
        self.may_change()?;
        let (actor, owner) = (Actor::Account(self.0.account), self.0.account);
        Ok(vault.make(&self.0.host, actor, Vec::new(), owner, members).await?)
    }

    async fn company_key(
        self: Rc<Self>,
        _params: user_session::CompanyKeyParams,
        mut results: user_session::CompanyKeyResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        results.get().set_public_key(&self.0.host.identity.company_key);
        Ok(())
    }

    async fn account_key(
        self: Rc<Self>,
        params: user_session::AccountKeyParams,
        mut results: user_session::AccountKeyResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let id = people::account(&self.0.host, params.get()?.get_account()?.to_str()?)?;
        let account = self.0.host.office.read(|registry| registry.account(&id).cloned());
        let Some(account) = account else { return Ok(()) };
        let mut results = results.get();
        results.set_id(&id.0);
        results.set_name(&account.name[..]);
        results.set_public_key(account.key.as_ref().map_or(&[], |key| &key[..]));
        Ok(())
    }

    async fn add_member(
        self: Rc<Self>,
        params: user_session::AddMemberParams,
        _results: user_session::AddMemberResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let params = params.get()?;
        let vault: VaultId = one(params.get_vault()?)?;
        self.0.require_member(&vault)?;
        let (account, wrapped) = people::read_wrap(params.get_wrap()?)?;
        let registry = self.0.host.office.registry();
        let entry = registry.vault(&vault);
        // A member helps another one whose key is new; what opens the vault for somebody it takes from nobody.
        let is_shut_out = |account| entry.is_some_and(|vault| vault.shut_out.contains(account));
        let may = entry.is_some_and(|vault| vault.owner == self.0.account) || is_shut_out(&account);
        if !may {
            return Err(problem(Why::NotAllowed, "only the owner of a vault says who is a member of it").into());
        }
        self.change(people::membership(&registry, vault, account, wrapped)?).await?;
        Ok(())
    }

    async fn remove_member(
        self: Rc<Self>,
        params: user_session::RemoveMemberParams,
        _results: user_session::RemoveMemberResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let params = params.get()?;
        let vault: VaultId = one(params.get_vault()?)?;
        self.0.require_member(&vault)?;
        let account = people::account(&self.0.host, params.get_account()?.to_str()?)?;
        let is_owner = |registry: &Registry| registry.vault(&vault).is_some_and(|it| it.owner == self.0.account);
        if account != self.0.account && !self.0.host.office.read(is_owner) {
            return Err(problem(Why::NotAllowed, "only the owner of a vault says who is a member of it").into());
        }
        self.append(Event::VaultMember { vault, account, on: false, wrapped: Vec::new() }).await?;
        Ok(())
    }

    async fn devices(
        self: Rc<Self>,
        _params: user_session::DevicesParams,
        mut results: user_session::DevicesResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let devices = people::trusted(&self.0.host.office.registry(), &self.0.account);
        people::put_devices(&devices, results.get().init_devices(devices.len() as u32));
        Ok(())
    }

    async fn set_key(
        self: Rc<Self>,
        params: user_session::SetKeyParams,
        _results: user_session::SetKeyResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        let key = people::public_key(params.get()?.get_public_key()?)?;
        // Whoever found a machine's files must not be given what is wrapped for the account from now on.
        match self.0.account()?.key {
            Some(known) if known == key => return Ok(()),
            Some(_) => return Err(problem(Why::NotAllowed, "the account has another key already").into()),
            None => {}
        }
        self.change(Event::AccountKey { id: self.0.account, key }).await?;
        Ok(())
    }

    async fn admin(
        self: Rc<Self>,
        _params: user_session::AdminParams,
        mut results: user_session::AdminResults,
    ) -> Result<(), Error> {
        let _call = self.0.call()?;
        if !self.0.account()?.is_admin {
            return Err(problem(Why::NotAllowed, "this account is no administrator's").into());
        }
        let (caller, held) = (self.0.clone(), self.0.hold()?);
        let admin = AdminServer::new(self.0.host.clone(), Actor::Account(self.0.account), move || {
            let call = caller.call()?;
            match caller.account()?.is_admin {
                true => Ok(Some(call)),
                false => Err(problem(Why::NotAllowed, "this account is no administrator's any more")),
            }
        });
        results.get().set_admin(capnp_rpc::new_client(admin.of(self.0.peer.clone(), held)));
        Ok(())
    }
}
