//! The first capability: join, login, and being there.

use super::node;
use super::user::{Caller, UserServer};
use crate::host::Host;
use crate::tracker::event::{AuditKind, Event};
use crate::tracker::log::Actor;
use crate::tracker::login::{self, Challenge, Subject};
use crate::tracker::names::{AccountDeviceId, AccountId, MachineId, NAME_LEN_MAX, NodeKey};
use crate::tracker::registry::{Account, NodeStatus};
use crate::tracker::token;
use crate::transport::ids::fixed;
use crate::transport::limits::PROGRAM;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::{Held, Peer};
use crate::transport::version::SPOKEN;
use capnp::Error;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use twinkeep_schema::office_capnp::{bootstrap, login as login_capnp};

/// See the module.
pub struct BootstrapServer {
    host: Arc<Host>,
    peer: Arc<Peer>,
}

impl BootstrapServer {
    /// For one connection.
    pub fn new(host: Arc<Host>, peer: Arc<Peer>) -> Self {
        Self { host, peer }
    }

    fn standing(&self) -> bootstrap::Status {
        self.host.office.read(|registry| match registry.node(&self.peer.key).map(|node| node.status) {
            None => bootstrap::Status::Unknown,
            Some(NodeStatus::Pending) => bootstrap::Status::Pending,
            Some(NodeStatus::Active) => bootstrap::Status::Active,
            Some(NodeStatus::Revoked | NodeStatus::Forgotten) => bootstrap::Status::Revoked,
        })
    }
}

/// Fails unless a key is that of an active machine, or the host's own.
pub(super) fn require_active(host: &Host, key: &NodeKey) -> Result<(), Problem> {
    let status = host.office.read(|registry| registry.node(key).map(|node| node.status));
    match status {
        _ if *key == host.key() => Ok(()),
        Some(NodeStatus::Active) => Ok(()),
        Some(NodeStatus::Pending) => {
            Err(problem(Why::NotAllowed, "this machine has joined and waits for an administrator's approval"))
        }
        Some(NodeStatus::Revoked | NodeStatus::Forgotten) => {
            Err(problem(Why::NotAllowed, "this machine's key is not trusted any more: join again with a new token"))
        }
        None => Err(problem(Why::NotAllowed, "this machine has not joined: `twinkeep terminal join`")),
    }
}

impl bootstrap::Server for BootstrapServer {
    async fn hello(
        self: Rc<Self>,
        params: bootstrap::HelloParams,
        mut results: bootstrap::HelloResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        let version = SPOKEN.agree(params.get()?.get_version())?;
        let mut results = results.get();
        results.set_version(version);
        results.set_host(&self.host.identity.name[..]);
        results.set_time(self.host.env().clock.now().0);
        results.set_program(PROGRAM);
        Ok(())
    }

    async fn join(
        self: Rc<Self>,
        params: bootstrap::JoinParams,
        mut results: bootstrap::JoinResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        let params = params.get()?;
        let secret = fixed(params.get_token()?, "a token")?;
        let machine_id = MachineId(fixed(params.get_machine_id()?, "a machine id")?);
        let hash = token::hash(&secret);
        let (host, peer) = (self.host.clone(), self.peer.clone());
        let known = host.office.read(|registry| registry.token(&hash).cloned());
        let Some(token) = known else {
            return Err(problem(Why::WrongKey, "the host does not know this token: make another").into());
        };
        let event = Event::NodeJoined {
            name: token.name.clone(),
            key: peer.key,
            machine_id,
            token_hash: hash,
            pending: !token.auto,
        };
        let work = host.work();
        work.run(move || host.office.append(Actor::Host, event)).await?;
        tracing::info!(name = token.name, "a machine joined");
        results.get().set_status(self.standing());
        Ok(())
    }

    async fn status(
        self: Rc<Self>,
        _params: bootstrap::StatusParams,
        mut results: bootstrap::StatusResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        let name = self.host.office.read(|registry| registry.node(&self.peer.key).map(|node| node.name.clone()));
        let mut results = results.get();
        results.set_status(self.standing());
        results.set_name(&name.unwrap_or_default()[..]);
        results.set_authority(&self.host.office.authority().0);
        Ok(())
    }

    async fn node(
        self: Rc<Self>,
        params: bootstrap::NodeParams,
        mut results: bootstrap::NodeResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        require_active(&self.host, &self.peer.key)?;
        let params = params.get()?;
        let session = node::register(&self.host, &self.peer, params.get_registration()?, params.get_copies()?)?;
        results.get().set_session(session);
        Ok(())
    }

    async fn login(
        self: Rc<Self>,
        params: bootstrap::LoginParams,
        mut results: bootstrap::LoginResults,
    ) -> Result<(), Error> {
        let call = self.peer.call()?;
        require_active(&self.host, &self.peer.key)?;
        let _call = self.host.leave.begin(call)?;
        let held = self.peer.hold()?;
        let name = params.get()?.get_account()?;
        if name.len() > NAME_LEN_MAX {
            return Err(problem(Why::Usage, format!("no account's name has {} bytes", name.len())).into());
        }
        let name = name.to_string()?;
        let account = self.host.office.read(|registry| registry.account_by_name(&name).cloned());
        let params = login::params(account.as_ref(), &name, &self.host.identity.answers);
        let mut challenge = [0; 32];
        self.host.env().entropy.fill(&mut challenge);
        let (host, peer) = (self.host.clone(), self.peer.clone());
        let attempt = LoginServer { host, peer, name, challenge, used: Cell::new(false), _held: held };
        let mut results = results.get();
        results.set_challenge(&challenge);
        results.set_salt(&params.salt);
        results.set_memory_kib(params.cost.memory_kib);
        results.set_passes(params.cost.passes);
        results.set_lanes(params.cost.lanes);
        results.set_login(capnp_rpc::new_client(attempt));
        Ok(())
    }
}

/// One attempt to log in.
struct LoginServer {
    host: Arc<Host>,
    peer: Arc<Peer>,
    name: String,
    challenge: [u8; 32],
    used: Cell<bool>,
    _held: Held,
}

impl LoginServer {
    /// The account whose proof this is, and what it holds here from now on.
    fn judge(&self, proof: &[u8], device: Option<AccountDeviceId>) -> Result<(Account, Held), Problem> {
        let registry = self.host.office.registry();
        let account = registry.account_by_name(&self.name);
        let device = account.zip(device).and_then(|(account, id)| registry.device(&account.id, &id));
        let subject = Subject::new(account.map(|account| &account.id), &self.name);
        let now = self.host.env().clock.elapsed();
        let host = self.host.key();
        let challenge = Challenge { challenge: &self.challenge, name: &self.name, node: &self.peer.key, host: &host };
        let by_device = device.is_some_and(|device| challenge.verify_key(&device.key, proof));
        // One that was revoked tries for itself: that is no guess at a password, and takes nothing from who knows it, nor
        // from the account's other devices.
        let subject = match device.filter(|device| by_device && device.revoked) {
            Some(device) => Subject::new(None, &format!("revoked {}", NodeKey(device.key).to_hex())),
            None => subject,
        };
        self.host
            .throttle()
            .begin(now, subject, self.peer.address, by_device)
            .map_err(|wait| problem(Why::NotAllowed, wait.to_string()))?;
        let is_good = match by_device {
            true => account.is_some_and(|account| !account.disabled) && device.is_some_and(|device| !device.revoked),
            false => device.is_none() && challenge.verify(account, proof),
        };
        match account.filter(|_| is_good) {
            Some(account) => {
                self.host.throttle().succeeded(subject, self.peer.address, by_device);
                Ok((account.clone(), self.peer.hold_for(account.id)?))
            }
            // The same for an account there is none of, one that is disabled, and a wrong password.
            None => Err(problem(Why::WrongKey, "wrong account name or password")),
        }
    }

    /// What is to be written down of this try; nothing where a number will say it.
    fn audit(&self, account: Option<AccountId>, kind: AuditKind) -> Option<Event> {
        let (key, address) = (self.peer.key, self.peer.address);
        let times = self.host.pace().again(self.host.env().clock.elapsed(), (kind, account, key, address))?;
        let text = format!("{} from {address}{}", self.name, times.words());
        Some(Event::Audit { kind, account, node: Some(key), text })
    }
}

impl login_capnp::Server for LoginServer {
    async fn prove(
        self: Rc<Self>,
        params: login_capnp::ProveParams,
        mut results: login_capnp::ProveResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        if self.used.replace(true) {
            return Err(problem(Why::Usage, "this login was tried already: begin another").into());
        }
        require_active(&self.host, &self.peer.key)?;
        let params = params.get()?;
        let device = match params.get_device()? {
            [] => None,
            bytes => Some(AccountDeviceId(fixed(bytes, "the id of a device")?)),
        };
        let judged = self.judge(params.get_signature()?, device);
        if let Err(refused) = &judged
            && matches!(refused.why, Why::NotAllowed | Why::Busy)
        {
            // No try, so no entry: or the log could be filled without end.
            return Err(refused.clone().into());
        }
        let entry = match &judged {
            Ok((account, _)) => self.audit(Some(account.id), AuditKind::Login),
            Err(_) => self.audit(None, AuditKind::LoginFailed),
        };
        if let Some(entry) = entry {
            let (host, node) = (self.host.clone(), self.peer.key);
            host.work().run(move || host.office.append(Actor::Node(node), entry)).await?;
        }
        let (account, held) = judged?;
        let mut results = results.get();
        if device.is_none() {
            // Of use to who knows the password alone; to others it would be something to try passwords on.
            results.set_wrapped_key(&account.login.wrapped_key);
        }
        let (host, peer, login_key) = (self.host.clone(), self.peer.clone(), account.login.login_key);
        let caller = Caller { host, peer, account: account.id, device, login_key, _held: Arc::new(held) };
        results.set_session(capnp_rpc::new_client(UserServer::new(caller)));
        Ok(())
    }
}
