//! An office as a program on one of its machines meets it: a line, a login, vaults.

use super::admin::Admin;
use super::line::{Cap, Line, Way};
use super::people::get_vault;
use super::store::RemoteStore;
use super::wire::get_texts;
use crate::tracker::login::{Challenge, PasswordParams, derive, open_account_key, seal_account_key};
use crate::tracker::member::open_vault;
use crate::tracker::names::{AccountDeviceId, AccountId, NodeKey};
use crate::tracker::sign::SigningKey;
use crate::transport::ids::fixed;
use crate::transport::keys::node_key;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::version::hello;
use std::path::Path;
use std::sync::Arc;
use twinkeep_engine::crypto::{PublicKey, VaultSecret};
use twinkeep_engine::env::{Env, Time};
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::HeadBytes;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_schema::office_capnp::{bootstrap, keeper, local, login, user_session, vault};
use zeroize::Zeroizing;

/// How an account shows who it is.
pub enum Proof<'a> {
    /// By its password.
    Password(&'a str),
    /// By the key of one of its devices.
    Device(AccountDeviceId, &'a SigningKey),
}

/// How the service of this machine is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceStatus {
    /// The machine's name.
    pub name: String,
    /// Whether the host has it.
    pub connected: bool,
    /// How it stands with the line to the host, in words.
    pub trouble: String,
    /// Copies it holds.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes set aside.
    pub trash: u64,
    /// Bytes its owner grants.
    pub granted: u64,
    /// Its program; empty where it is too old to say.
    pub version: String,
    /// Where the host is looked for.
    pub hosts: Vec<String>,
    /// Who the host is; nothing where the service is too old to say.
    pub host_key: Option<NodeKey>,
    /// Bytes free on its disk.
    pub free: u64,
    /// Until when the host is away on purpose, as it said.
    pub away_until: Option<Time>,
}

/// How the service behind a socket is, whether or not it reaches the host.
pub fn service_status(socket: &Path) -> Result<ServiceStatus, Problem> {
    let local = Line::connect::<local::Client>(Way::Socket(socket.to_owned()))?;
    local.call(|local| async move {
        let answer = local.status_request().send().promise.await?;
        let status = answer.get()?.get_status()?;
        Ok(ServiceStatus {
            name: status.get_name()?.to_string()?,
            connected: status.get_connected(),
            trouble: status.get_trouble()?.to_string()?,
            frames: status.get_frames(),
            bytes: status.get_bytes(),
            trash: status.get_trash(),
            granted: status.get_granted(),
            version: status.get_version()?.to_string()?,
            hosts: get_texts(status.get_hosts()?)?,
            host_key: NodeKey::from_slice(status.get_host_key()?),
            free: status.get_free(),
            away_until: Some(status.get_away_until()).filter(|until| *until != 0).map(Time),
        })
    })
}

/// A line to the tracker.
pub struct OfficeLine {
    /// The service of this machine; none where the line goes past it.
    local: Option<Cap<local::Client>>,
    bootstrap: Cap<bootstrap::Client>,
    host: NodeKey,
    node: NodeKey,
}

/// A vault that an account is a member of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultOf {
    /// Its id.
    pub id: VaultId,
    /// Its name.
    pub name: String,
    /// company, private or shared.
    pub kind: String,
    /// Name of the account it belongs to.
    pub owner: String,
    /// Names of all members.
    pub members: Vec<String>,
    /// Whether the company's recovery kit opens it.
    pub for_company: bool,
    /// Its secret, sealed or wrapped for the account; empty where it was not asked for by a member.
    pub wrapped: Vec<u8>,
}

/// An account that is logged in.
pub struct User {
    pub(super) session: Cap<user_session::Client>,
    host: NodeKey,
    /// Its name, as the office writes it.
    pub name: String,
    /// Its id.
    pub id: AccountId,
    /// Bytes it may use; 0 for no limit.
    pub quota: u64,
    /// Bytes it uses.
    pub used: u64,
    /// Whether it may change the office.
    pub is_admin: bool,
    /// What others wrap vaults to for it; none until it has said so.
    pub public_key: Option<PublicKey>,
    /// Its own key, where the login was by password.
    pub key: Option<Zeroizing<[u8; 32]>>,
}

impl OfficeLine {
    /// Through the socket of the service that runs on this machine.
    pub fn through(socket: &Path) -> Result<Self, Problem> {
        let local = Line::connect::<local::Client>(Way::Socket(socket.to_owned()))?;
        let (bootstrap, (host, node)) = local.cap(|local| async move {
            let answer = local.tracker_request().send().promise.await?;
            let answer = answer.get()?;
            Ok((answer.get_bootstrap()?, (answer.get_host_key()?.to_vec(), answer.get_node_key()?.to_vec())))
        })?;
        let (host, node) = (NodeKey(fixed(&host, "a key")?), NodeKey(fixed(&node, "a key")?));
        Ok(Self { local: Some(local), bootstrap, host, node })
    }

    /// Straight to the host, in the name of a machine whose key one has: while its service does not run. Nothing that is
    /// written this way stays on the machine. `hosts` are those it takes for its host, `addresses` where they may be.
    pub fn straight(addresses: &[String], hosts: &[NodeKey], key: SigningKey) -> Result<Self, Problem> {
        let (node, key) = (node_key(&key), Arc::new(key));
        let mut last = problem(Why::NotAllowed, "this machine knows of no host that was not revoked");
        for host in hosts {
            let way = Way::Machine { addresses: addresses.to_vec(), expected: vec![*host], key: key.clone() };
            let greeted = Line::connect::<bootstrap::Client>(way).and_then(|bootstrap| {
                bootstrap.call(|host| async move { hello(&host).await.map(drop) })?;
                Ok(Self { local: None, bootstrap, host: *host, node })
            });
            match greeted {
                Ok(line) => return Ok(line),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether it goes past the service of this machine.
    pub fn is_straight(&self) -> bool {
        self.local.is_none()
    }

    /// For who may administer the office from here: on the host.
    pub fn admin(&self) -> Result<Admin, Problem> {
        let not_here = || problem(Why::NotAllowed, "the office is administered on the host, or by an account");
        let (admin, ()) = self.local.as_ref().ok_or_else(not_here)?.cap(|local| async move {
            let answer = local.admin_request().send().promise.await?;
            Ok((answer.get()?.get_admin()?, ()))
        })?;
        Ok(Admin(admin))
    }

    /// The store of copies of this machine, if it is to keep what is written into a vault.
    pub fn keeper(&self, vault: VaultId) -> Option<Cap<keeper::Client>> {
        let keep = self.local.as_ref()?.cap(move |local| async move {
            let mut request = local.keep_request();
            request.get().set_vault(&vault.0);
            let answer = request.send().promise.await?;
            Ok((answer.get()?.get_keeper()?, ()))
        });
        keep.ok().map(|(keeper, ())| keeper)
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`Why::WrongKey`] for a wrong name or password, which of both is not said.
    pub fn login(&self, account: &str, proof: &Proof<'_>) -> Result<User, Problem> {
        let name = account.to_owned();
        let (login, begun) = self.bootstrap.cap(move |host| async move {
            let mut request = host.login_request();
            request.get().set_account(&name[..]);
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            let cost = PasswordCost {
                memory_kib: answer.get_memory_kib(),
                passes: answer.get_passes(),
                lanes: answer.get_lanes(),
            };
            let salt = fixed(answer.get_salt()?, "a salt")?;
            let challenge: [u8; 32] = fixed(answer.get_challenge()?, "a challenge")?;
            Ok((answer.get_login()?, (challenge, PasswordParams { salt, cost })))
        })?;
        let (challenge, params) = begun;
        let message = Challenge { challenge: &challenge, name: account, node: &self.node, host: &self.host };
        match proof {
            Proof::Device(id, key) => prove(&login, self.host, message.prove(key), id.0.to_vec()).map(|(user, _)| user),
            Proof::Password(password) => {
                let usage = |error: crate::tracker::login::LoginError| problem(Why::Usage, error.to_string());
                let keys = derive(password, &params).map_err(usage)?;
                let (mut user, wrapped) = prove(&login, self.host, message.prove(&keys.login), Vec::new())?;
                let key = open_account_key(&keys.wrapping, &user.id, &wrapped);
                user.key = Some(key.map_err(|error| problem(Why::Other, error.to_string()))?);
                Ok(user)
            }
        }
    }
}

fn prove(
    login: &Cap<login::Client>,
    host: NodeKey,
    signature: [u8; 64],
    device: Vec<u8>,
) -> Result<(User, Vec<u8>), Problem> {
    let (session, wrapped) = login.cap(move |login| async move {
        let mut request = login.prove_request();
        request.get().set_signature(&signature);
        request.get().set_device(&device);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        Ok((answer.get_session()?, answer.get_wrapped_key()?.to_vec()))
    })?;
    let (name, id, (quota, used), is_admin, public_key) = session.call(|session: user_session::Client| async move {
        let answer = session.account_request().send().promise.await?;
        let answer = answer.get()?;
        let id = AccountId(fixed(answer.get_id()?, "the id of an account")?);
        let public_key = match answer.get_public_key()? {
            [] => None,
            bytes => Some(PublicKey(fixed(bytes, "a key")?)),
        };
        let room = (answer.get_quota(), answer.get_used());
        Ok((answer.get_name()?.to_string()?, id, room, answer.get_is_admin(), public_key))
    })?;
    Ok((User { session, host, name, id, quota, used, is_admin, public_key, key: None }, wrapped))
}

impl User {
    /// The vaults it is a member of.
    pub fn vaults(&self) -> Result<Vec<VaultOf>, Problem> {
        self.session.call(|session| async move {
            let answer = session.vaults_request().send().promise.await?;
            let vaults = answer.get()?.get_vaults()?;
            vaults.iter().map(get_vault).collect()
        })
    }

    /// The secret of a vault, with the account's key.
    pub fn secret(&self, key: &[u8; 32], vault: &VaultOf) -> Result<VaultSecret, Problem> {
        let refused = |error| match vault.wrapped.is_empty() {
            true => problem(Why::WrongKey, format!("vault {}: the account was given no key to it", vault.name)),
            false => {
                problem(Why::WrongKey, format!("the key of {} does not open vault {}: {error}", self.name, vault.name))
            }
        };
        open_vault(key, &self.id, &vault.id, &vault.wrapped).map_err(refused)
    }

    /// A vault as a store, and what opens it.
    pub fn open(
        &self,
        vault: VaultId,
        keeper: Option<Cap<keeper::Client>>,
    ) -> Result<(RemoteStore, HeadBytes), Problem> {
        let (client, ()) = self.session.cap::<vault::Client, _, _>(move |session| async move {
            let mut request = session.open_request();
            request.get().set_vault(&vault.0);
            let answer = request.send().promise.await?;
            Ok((answer.get()?.get_vault()?, ()))
        })?;
        RemoteStore::open(client, Some(self.host), vault, keeper)
    }

    /// Lets a machine log in with a key of its own.
    pub fn add_device(&self, label: &str, key: [u8; 32]) -> Result<AccountDeviceId, Problem> {
        let label = label.to_owned();
        self.session.call(move |session| async move {
            let mut request = session.add_device_request();
            request.get().set_label(&label[..]);
            request.get().set_key(&key);
            let answer = request.send().promise.await?;
            Ok(AccountDeviceId(fixed(answer.get()?.get_device()?, "the id of a device")?))
        })
    }

    /// Does not let it any more.
    pub fn revoke_device(&self, device: AccountDeviceId) -> Result<(), Problem> {
        self.session.call(move |session| async move {
            let mut request = session.revoke_device_request();
            request.get().set_device(&device.0);
            request.send().promise.await.map(drop)
        })
    }

    /// Gives the account another password. Its key stays the same, so whatever is stored opens as before.
    pub fn passwd(&self, env: &Env, key: &[u8; 32], password: &str) -> Result<(), Problem> {
        let mut salt = [0; 16];
        env.entropy.fill(&mut salt);
        let cost = PasswordCost::default();
        let keys =
            derive(password, &PasswordParams { salt, cost }).map_err(|error| problem(Why::Usage, error.to_string()))?;
        let wrapped = seal_account_key(&keys.wrapping, &self.id, key, &*env.entropy);
        let login_key = keys.login.public();
        self.session.call(move |session| async move {
            let mut request = session.passwd_request();
            let mut to = request.get();
            to.set_login_key(&login_key);
            to.set_salt(&salt);
            to.set_memory_kib(cost.memory_kib);
            to.set_passes(cost.passes);
            to.set_lanes(cost.lanes);
            to.set_wrapped_key(&wrapped);
            request.send().promise.await.map(drop)
        })
    }

    /// What it may do as an administrator.
    pub fn admin(&self) -> Result<Admin, Problem> {
        let (admin, ()) = self.session.cap(|session| async move {
            let answer = session.admin_request().send().promise.await?;
            Ok((answer.get()?.get_admin()?, ()))
        })?;
        Ok(Admin(admin))
    }
}
