//! What who has the company's recovery kit may do besides: open its vaults for reading, and give an account whose
//! password is lost another. Whoever asks shows that the kit is at hand; each use is an entry of the log.
//!
//! The proof: the host wraps 32 random bytes to the company's key, and is told a hash of them. What is told says nothing
//! of them, so that a host which sends something else to be unwrapped learns nothing.

use super::admin::AdminServer;
use super::people;
use super::vault::{Right, VaultServer};
use crate::tracker::event::{AuditKind, Event, Login};
use crate::tracker::member::recovery_proof;
use crate::tracker::names::AccountId;
use crate::tracker::registry::Registry;
use crate::transport::ids::{fixed, one};
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::Held;
use capnp::Error;
use std::cell::Cell;
use std::rc::Rc;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_schema::office_capnp::{password, recovery, recovery_proof as proof_capnp};

/// One attempt to show that the kit is at hand.
pub(super) struct ProofServer {
    pub admin: Rc<AdminServer>,
    pub nonce: [u8; 32],
    pub used: Cell<bool>,
    pub _held: Held,
}

impl proof_capnp::Server for ProofServer {
    async fn prove(
        self: Rc<Self>,
        params: proof_capnp::ProveParams,
        mut results: proof_capnp::ProveResults,
    ) -> Result<(), Error> {
        let _call = self.admin.begin()?;
        if self.used.replace(true) {
            return Err(problem(Why::Usage, "this was tried already: begin anew").into());
        }
        if params.get()?.get_answer()? != recovery_proof(&self.nonce) {
            self.admin.note("somebody without the recovery kit tried to use it").await?;
            return Err(problem(Why::WrongKey, "this is not the recovery kit of this office").into());
        }
        let server = RecoveryServer { admin: self.admin.clone(), _held: self.admin.peer.hold()? };
        results.get().set_recovery(capnp_rpc::new_client(server));
        Ok(())
    }
}

/// See the module.
struct RecoveryServer {
    admin: Rc<AdminServer>,
    _held: Held,
}

/// What belongs to a new password.
fn login(told: password::Reader<'_>) -> Result<Login, Error> {
    Ok(Login {
        login_key: fixed(told.get_login_key()?, "a key")?,
        salt: fixed(told.get_salt()?, "a salt")?,
        cost: PasswordCost { memory_kib: told.get_memory_kib(), passes: told.get_passes(), lanes: told.get_lanes() },
        wrapped_key: told.get_wrapped_key()?.to_vec(),
    })
}

impl recovery::Server for RecoveryServer {
    async fn vaults(
        self: Rc<Self>,
        params: recovery::VaultsParams,
        mut results: recovery::VaultsResults,
    ) -> Result<(), Error> {
        let _call = self.admin.begin()?;
        let name = params.get()?.get_account()?.to_str()?;
        let registry = self.admin.host.office.registry();
        let mut results = results.get();
        let vaults: Vec<_> = match name {
            "" => registry.vaults().collect(),
            name => {
                let id = people::account(&self.admin.host, name)?;
                results.set_account(&id.0);
                if let Some(account) = registry.account(&id) {
                    results.set_name(&account.name[..]);
                    results.set_public_key(account.key.as_ref().map_or(&[], |key| &key[..]));
                }
                registry.vaults_of(&id).collect()
            }
        };
        let mut list = results.init_vaults(vaults.len() as u32);
        for (at, vault) in (0..).zip(vaults) {
            let mut to = list.reborrow().get(at);
            to.set_company_wrap(&vault.company_wrap);
            people::put_vault(&registry, vault, None, to.init_info());
        }
        Ok(())
    }

    async fn open(
        self: Rc<Self>,
        params: recovery::OpenParams,
        mut results: recovery::OpenResults,
    ) -> Result<(), Error> {
        let _call = self.admin.begin()?;
        let id: VaultId = one(params.get()?.get_vault()?)?;
        let name = company_vault(&self.admin.host.office.registry(), &id)?;
        let vault = self.admin.host.vault(id)?;
        self.admin.note(&format!("the vault {name} was opened for reading")).await?;
        let (right, held) = (Right::Kit(self.admin.clone()), self.admin.peer.hold()?);
        results.get().set_vault(capnp_rpc::new_client(VaultServer::new(right, id, vault, held)));
        Ok(())
    }

    async fn reset(
        self: Rc<Self>,
        params: recovery::ResetParams,
        _results: recovery::ResetResults,
    ) -> Result<(), Error> {
        let _call = self.admin.begin()?;
        let params = params.get()?;
        let id = AccountId(fixed(params.get_account()?, "the id of an account")?);
        let registry = self.admin.host.office.registry();
        let account = registry.account(&id).ok_or_else(|| problem(Why::NotFound, "there is no such account"))?;
        let key = people::public_key(params.get_public_key()?)?;
        let text = format!("{} was given another password", account.name);
        let mut events = vec![
            kit_used(text),
            Event::AccountPassword { id, login: login(params.get_password()?)? },
            Event::AccountKey { id, key },
            Event::DevicesRevoked { account: id },
        ];
        for told in params.get_wraps()? {
            let (member, wrapped) = people::read_wrap(told)?;
            let vault: VaultId = one(told.get_vault()?)?;
            company_vault(&registry, &vault)?;
            if member != id || !registry.vaults_of(&id).any(|known| known.id == vault) {
                return Err(problem(Why::Usage, format!("the account is no member of the vault {vault}")).into());
            }
            events.push(Event::VaultMember { vault, account: id, on: true, wrapped });
        }
        Ok(self.admin.append(Event::Together(events)).await?)
    }

    async fn add_member(
        self: Rc<Self>,
        params: recovery::AddMemberParams,
        _results: recovery::AddMemberResults,
    ) -> Result<(), Error> {
        let _call = self.admin.begin()?;
        let params = params.get()?;
        let vault: VaultId = one(params.get_vault()?)?;
        let registry = self.admin.host.office.registry();
        let name = company_vault(&registry, &vault)?;
        let (account, wrapped) = people::read_wrap(params.get_wrap()?)?;
        let event = people::membership(&registry, vault, account, wrapped)?;
        let used = kit_used(format!("a member was added to the vault {name}"));
        Ok(self.admin.append(Event::Together(vec![used, event])).await?)
    }
}

/// The kit was used.
pub(super) fn kit_used(text: String) -> Event {
    Event::Audit { kind: AuditKind::KeyUse, account: None, node: None, text: format!("recovery kit: {text}") }
}

/// The name of a vault that the company can open.
fn company_vault(registry: &Registry, id: &VaultId) -> Result<String, Problem> {
    let vault = registry.vault(id).ok_or_else(|| problem(Why::NotFound, format!("there is no vault {id}")))?;
    match vault.company_wrap.is_empty() {
        false => Ok(vault.name.clone()),
        true => {
            let text = format!("the vault {} is private: the recovery kit does not open it", vault.name);
            Err(problem(Why::NotAllowed, text))
        }
    }
}
