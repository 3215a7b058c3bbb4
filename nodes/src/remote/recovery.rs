//! The office in the hands of who has the company's recovery kit. What the kit opens is opened here: the host sees no
//! secret.

use super::admin::Admin;
use super::line::Cap;
use super::office::VaultOf;
use super::people::{AccountKey, get_vault, usable};
use super::store::RemoteStore;
use crate::tracker::login::{PasswordParams, derive, seal_account_key};
use crate::tracker::member::{pair, recovery_answer, seal_vault, unwrap_vault, wrap_vault};
use crate::tracker::names::AccountId;
use crate::transport::ids::fixed;
use crate::transport::problem::{Problem, Why, problem};
use twinkeep_engine::crypto::{PublicKey, SecretKey, VaultSecret};
use twinkeep_engine::env::Env;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::HeadBytes;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_schema::office_capnp::{recovery, recovery_proof, vault};
use zeroize::Zeroizing;

/// See the module.
pub struct Recovery {
    cap: Cap<recovery::Client>,
    company: SecretKey,
}

/// A vault, and the way of the company into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompanyVault {
    /// The vault.
    pub info: VaultOf,
    /// Its secret, wrapped to the company's key; empty where the company cannot open it.
    pub wrap: Vec<u8>,
}

/// An account and its vaults.
pub struct Belongings {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// What others wrap vaults to; none until it has said so.
    pub key: Option<PublicKey>,
    /// All vaults it is a member of.
    pub vaults: Vec<CompanyVault>,
}

impl Admin {
    /// Shows that the kit is at hand. `company` is the key that lies in it.
    ///
    /// # Errors
    /// [`Why::WrongKey`] where the kit is of another office.
    pub fn recovery(&self, company: &SecretKey) -> Result<Recovery, Problem> {
        let (proof, challenge) = self.0.cap::<recovery_proof::Client, _, _>(|admin| async move {
            let answer = admin.recovery_request().send().promise.await?;
            let answer = answer.get()?;
            Ok((answer.get_proof()?, answer.get_challenge()?.to_vec()))
        })?;
        let other = |_| problem(Why::WrongKey, "this is not the recovery kit of this office");
        let answer = recovery_answer(company, &challenge).map_err(other)?;
        let (cap, ()) = proof.cap(move |proof| async move {
            let mut request = proof.prove_request();
            request.get().set_answer(&answer);
            let answer = request.send().promise.await?;
            Ok((answer.get()?.get_recovery()?, ()))
        })?;
        Ok(Recovery { cap, company: company.clone() })
    }
}

impl Recovery {
    /// All vaults of the office.
    pub fn vaults(&self) -> Result<Vec<CompanyVault>, Problem> {
        Ok(self.ask("")?.vaults)
    }

    /// An account and its vaults.
    pub fn belongings(&self, account: &str) -> Result<Belongings, Problem> {
        match account {
            "" => Err(problem(Why::Usage, "the name of the account is empty")),
            account => self.ask(account),
        }
    }

    fn ask(&self, account: &str) -> Result<Belongings, Problem> {
        let account = account.to_owned();
        self.cap.call(move |recovery| async move {
            let mut request = recovery.vaults_request();
            request.get().set_account(&account[..]);
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            let mut vaults = Vec::new();
            for vault in answer.get_vaults()? {
                let (info, wrap) = (get_vault(vault.get_info()?)?, vault.get_company_wrap()?.to_vec());
                vaults.push(CompanyVault { info, wrap });
            }
            let id = match account.is_empty() {
                true => AccountId([0; 16]),
                false => AccountId(fixed(answer.get_account()?, "the id of an account")?),
            };
            let key = match answer.get_public_key()? {
                [] => None,
                bytes => Some(usable(bytes).map_err(capnp::Error::from)?),
            };
            Ok(Belongings { id, name: answer.get_name()?.to_string()?, key, vaults })
        })
    }

    /// What opens a vault.
    pub fn secret(&self, vault: &CompanyVault) -> Result<VaultSecret, Problem> {
        if vault.wrap.is_empty() {
            let text = format!("the vault {} is private: the recovery kit does not open it", vault.info.name);
            return Err(problem(Why::NotAllowed, text));
        }
        let refused = |error| problem(Why::WrongKey, format!("vault {}: {error}", vault.info.name));
        unwrap_vault(&self.company, &vault.info.id, &vault.wrap).map_err(refused)
    }

    /// A vault as a store that can be read, and what opens it.
    pub fn open(&self, vault: VaultId) -> Result<(RemoteStore, HeadBytes), Problem> {
        let (client, ()) = self.cap.cap::<vault::Client, _, _>(move |recovery| async move {
            let mut request = recovery.open_request();
            request.get().set_vault(&vault.0);
            let answer = request.send().promise.await?;
            Ok((answer.get()?.get_vault()?, ()))
        })?;
        RemoteStore::open(client, None, vault, None)
    }

    /// Gives an account another key and another password, with all its vaults that the company can open. All of its
    /// devices are revoked.
    pub fn reset(&self, env: &Env, account: &Belongings, password: &str) -> Result<(), Problem> {
        let entropy = &*env.entropy;
        let (mut salt, mut key) = ([0; 16], Zeroizing::new([0; 32]));
        entropy.fill(&mut salt);
        entropy.fill(&mut *key);
        let cost = PasswordCost::default();
        let keys =
            derive(password, &PasswordParams { salt, cost }).map_err(|error| problem(Why::Usage, error.to_string()))?;
        let wrapped_key = seal_account_key(&keys.wrapping, &account.id, &key, entropy);
        let (login_key, public_key, id) = (keys.login.public(), pair(&key).public(), account.id);
        let mut wraps = Vec::new();
        for vault in account.vaults.iter().filter(|vault| !vault.wrap.is_empty()) {
            wraps.push((vault.info.id, seal_vault(&key, &id, &vault.info.id, &self.secret(vault)?, entropy)));
        }
        self.cap.call(move |recovery| async move {
            let mut request = recovery.reset_request();
            let mut to = request.get();
            to.set_account(&id.0);
            to.set_public_key(&public_key.0);
            let mut password = to.reborrow().init_password();
            password.set_login_key(&login_key);
            password.set_salt(&salt);
            password.set_memory_kib(cost.memory_kib);
            password.set_passes(cost.passes);
            password.set_lanes(cost.lanes);
            password.set_wrapped_key(&wrapped_key);
            let mut list = to.init_wraps(wraps.len() as u32);
            for (at, (vault, wrapped)) in (0..).zip(&wraps) {
                let mut wrap = list.reborrow().get(at);
                wrap.set_account(&id.0);
                wrap.set_vault(&vault.0);
                wrap.set_wrapped(wrapped);
            }
            request.send().promise.await.map(drop)
        })
    }

    /// Makes an account a member of a shared vault.
    pub fn add_member(&self, env: &Env, vault: &CompanyVault, member: &AccountKey) -> Result<(), Problem> {
        let wrapped = wrap_vault(&member.key, &vault.info.id, &self.secret(vault)?, &*env.entropy);
        let (vault, account) = (vault.info.id, member.id);
        self.cap.call(move |recovery| async move {
            let mut request = recovery.add_member_request();
            request.get().set_vault(&vault.0);
            let mut wrap = request.get().init_wrap();
            wrap.set_account(&account.0);
            wrap.set_wrapped(&wrapped);
            request.send().promise.await.map(drop)
        })
    }
}
