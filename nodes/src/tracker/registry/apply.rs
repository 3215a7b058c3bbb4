//! What each event does. Everything is checked before anything changes.

use std::fmt::Display;

use twinkeep_engine::env::Time;

use super::{Account, AccountDevice, Node, NodeStatus, Registry, RegistryError, Token, VaultEntry};
use crate::tracker::event::{Event, VaultKind};
use crate::tracker::limits::{MEMBER_OF_MAX, OWNED_MAX};
use crate::tracker::log::{Actor, Entry};
use crate::tracker::names::{AccountDeviceId, AccountId, NodeKey, check_label, check_name, fold};

type Result<T> = std::result::Result<T, RegistryError>;

impl Registry {
    /// Takes the next entry in. After an error the registry is as before.
    pub fn apply(&mut self, entry: &Entry) -> Result<()> {
        let order = |what, expected, found| Err(RegistryError::Order { what, expected, found });
        let sequence = self.sequence.saturating_add(1);
        if entry.sequence != sequence {
            return order("sequence", sequence, entry.sequence);
        }
        if entry.generation < self.generation.max(1) {
            return order("generation", self.generation.max(1), entry.generation);
        }
        self.check_actor(entry)?;
        match &entry.event {
            Event::Together(parts) => self.take_all(parts, entry.time)?,
            event => self.take(event, entry.time)?,
        }
        (self.generation, self.sequence) = (entry.generation, sequence);
        Ok(())
    }

    /// Who was never there, or is not trusted, does nothing; but what is said of them is written down.
    fn check_actor(&self, entry: &Entry) -> Result<()> {
        match (&entry.event, entry.actor) {
            (Event::Audit { .. }, _) | (_, Actor::Host) => Ok(()),
            (_, Actor::Node(key)) => self.live(&key).map(drop),
            (_, Actor::Account(id)) => match self.known(&id)?.disabled {
                true => Err(state("account", id, "enabled", "disabled")),
                false => Ok(()),
            },
        }
    }

    /// All or nothing.
    fn take_all(&mut self, parts: &[Event], time: Time) -> Result<()> {
        let mut after = self.clone();
        parts.iter().try_for_each(|part| after.take(part, time))?;
        *self = after;
        Ok(())
    }

    fn take(&mut self, event: &Event, time: Time) -> Result<()> {
        match event {
            Event::NodeTokenMade { .. } => self.make_token(event),
            Event::NodeJoined { .. } => self.join(event, time),
            Event::NodeApproved { key } => self.approve(key),
            Event::NodeRevoked { key } => self.revoke(key),
            Event::NodeForgotten { key } => self.forget(key),
            Event::NodeDraining { key, on } => self.active(key).map(|node| node.draining = *on),
            Event::NodeGrant { key, bytes } => self.active(key).map(|node| node.grant = *bytes),
            Event::StandbyAppointed { key, on } => self.active(key).map(|node| node.standby = *on),
            Event::AccountMade { .. } => self.make_account(event, time),
            Event::AccountPassword { id, login } => self.account_mut(id).map(|to| to.login = login.clone()),
            Event::AccountDisabled { id, on } => self.account_mut(id).map(|to| to.disabled = *on),
            Event::AccountQuota { id, bytes } => self.account_mut(id).map(|to| to.quota = *bytes),
            Event::AccountKey { id, key } => self.change_key(id, *key),
            Event::DeviceAdded { .. } => self.add_device(event, time),
            Event::DeviceRevoked { account, device } => self.revoke_device(account, device),
            Event::DevicesRevoked { account } => self.revoke_devices(account),
            Event::VaultMade { .. } => self.make_vault(event, time),
            Event::VaultMember { .. } => self.change_member(event),
            Event::Together(_) => Err(RegistryError::Contradiction("one step stands within another")),
            Event::Audit { .. } => Ok(()),
        }
    }

    fn change_key(&mut self, id: &AccountId, key: [u8; 32]) -> Result<()> {
        let before = self.account_mut(id)?.key.replace(key);
        if before.is_some_and(|before| before != key) {
            for vault in self.vaults.values_mut().filter(|vault| vault.members.contains_key(id)) {
                vault.shut_out.insert(*id);
            }
        }
        Ok(())
    }

    fn make_token(&mut self, event: &Event) -> Result<()> {
        let Event::NodeTokenMade { name, token_hash, expires, auto } = event else { return Ok(()) };
        check_name("machine", name)?;
        if self.tokens.contains_key(token_hash) {
            return Err(taken("token for machine", name));
        }
        let token = Token { name: name.clone(), expires: *expires, auto: *auto, is_spent: false };
        self.tokens.insert(*token_hash, token);
        Ok(())
    }

    fn join(&mut self, event: &Event, time: Time) -> Result<()> {
        let Event::NodeJoined { name, key, machine_id, token_hash, pending } = event else { return Ok(()) };
        check_name("machine", name)?;
        let Some(token) = self.tokens.get_mut(token_hash) else {
            return Err(unknown("token for machine", name));
        };
        if token.is_spent {
            return Err(RegistryError::Spent { name: token.name.clone() });
        }
        if time >= token.expires {
            return Err(RegistryError::Expired { name: token.name.clone() });
        }
        if token.name != *name {
            return Err(RegistryError::Contradiction("the token is for a machine of another name"));
        }
        if !pending && !token.auto {
            return Err(RegistryError::Contradiction("the token is for a machine that waits for approval"));
        }
        if self.nodes.contains_key(key) {
            return Err(taken("key of a machine", key));
        }
        if self.node_names.contains_key(&fold(name)) {
            return Err(taken("name of a machine", name));
        }
        let number = u32::try_from(self.nodes.len() + 1)
            .map_err(|_| RegistryError::Contradiction("no more machines can be numbered"))?;
        token.is_spent = true;
        self.node_names.insert(fold(name), *key);
        let node = Node {
            key: *key,
            number,
            name: name.clone(),
            machine_id: *machine_id,
            status: if *pending { NodeStatus::Pending } else { NodeStatus::Active },
            grant: 0,
            draining: false,
            standby: false,
            joined: time,
        };
        self.nodes.insert(*key, node);
        Ok(())
    }

    fn approve(&mut self, key: &NodeKey) -> Result<()> {
        let node = self.nodes.get_mut(key).ok_or_else(|| unknown("machine", key))?;
        if node.status != NodeStatus::Pending {
            return Err(state("machine", key, "pending", node.status.word()));
        }
        node.status = NodeStatus::Active;
        Ok(())
    }

    /// Of a forgotten machine too: its key may be in somebody's hands.
    fn revoke(&mut self, key: &NodeKey) -> Result<()> {
        let node = self.nodes.get(key).ok_or_else(|| unknown("machine", key))?;
        if node.status == NodeStatus::Revoked {
            return Err(state("machine", key, "pending, active or forgotten", "revoked"));
        }
        self.end(key, NodeStatus::Revoked);
        Ok(())
    }

    fn forget(&mut self, key: &NodeKey) -> Result<()> {
        self.live(key)?;
        self.end(key, NodeStatus::Forgotten);
        Ok(())
    }

    /// The machine takes part no more and its name is free.
    fn end(&mut self, key: &NodeKey, status: NodeStatus) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        node.status = status;
        node.standby = false;
        let name = fold(&node.name);
        if self.node_names.get(&name) == Some(key) {
            self.node_names.remove(&name);
        }
    }

    fn make_account(&mut self, event: &Event, time: Time) -> Result<()> {
        let Event::AccountMade { id, name, login, quota, is_admin } = event else { return Ok(()) };
        check_name("account", name)?;
        if self.accounts.contains_key(id) {
            return Err(taken("id of an account", id));
        }
        if self.account_names.contains_key(&fold(name)) {
            return Err(taken("name of an account", name));
        }
        self.account_names.insert(fold(name), *id);
        let account = Account {
            id: *id,
            name: name.clone(),
            login: login.clone(),
            quota: *quota,
            is_admin: *is_admin,
            disabled: false,
            key: None,
            made: time,
        };
        self.accounts.insert(*id, account);
        Ok(())
    }

    fn add_device(&mut self, event: &Event, time: Time) -> Result<()> {
        let Event::DeviceAdded { account, device, label, key } = event else { return Ok(()) };
        check_label("device", label)?;
        self.known(account)?;
        if self.devices.contains_key(device) {
            return Err(taken("id of a device", device));
        }
        if !self.device_keys.insert(*key) {
            return Err(taken("key of a device", NodeKey(*key)));
        }
        let (id, account, label, key) = (*device, *account, label.clone(), *key);
        let added = AccountDevice { id, account, label, key, revoked: false, added: time };
        self.devices.insert(*device, added);
        Ok(())
    }

    fn revoke_device(&mut self, account: &AccountId, device: &AccountDeviceId) -> Result<()> {
        let found = self.devices.get_mut(device).filter(|found| found.account == *account);
        let found = found.ok_or_else(|| unknown("device", device))?;
        if found.revoked {
            return Err(state("device", device, "trusted", "revoked"));
        }
        found.revoked = true;
        Ok(())
    }

    fn revoke_devices(&mut self, account: &AccountId) -> Result<()> {
        self.known(account)?;
        self.devices.values_mut().filter(|device| device.account == *account).for_each(|device| device.revoked = true);
        Ok(())
    }

    fn make_vault(&mut self, event: &Event, time: Time) -> Result<()> {
        let Event::VaultMade { vault, owner, name, kind, company_wrap } = event else { return Ok(()) };
        check_label("vault", name)?;
        if name.is_empty() {
            return Err(RegistryError::Contradiction("a vault has a name"));
        }
        self.known(owner)?;
        if self.vaults.contains_key(vault) {
            return Err(taken("id of a vault", vault));
        }
        if self.vaults.values().any(|other| other.owner == *owner && fold(&other.name) == fold(name)) {
            return Err(taken("name of a vault", name));
        }
        if self.vaults.values().filter(|other| other.owner == *owner).count() >= OWNED_MAX {
            return Err(RegistryError::Contradiction("an account owns 32 vaults at most"));
        }
        self.has_place_for_vault(owner)?;
        match (kind, company_wrap.is_empty()) {
            (VaultKind::Company, true) => {
                return Err(RegistryError::Contradiction("a company vault is wrapped to the company's recovery key"));
            }
            (VaultKind::Private, false) => {
                return Err(RegistryError::Contradiction("a private vault is not wrapped to the company's key"));
            }
            (VaultKind::Company, false) | (VaultKind::Private, true) | (VaultKind::Shared, _) => {}
        }
        let made = VaultEntry {
            id: *vault,
            owner: *owner,
            name: name.clone(),
            kind: *kind,
            company_wrap: company_wrap.clone(),
            members: Default::default(),
            shut_out: Default::default(),
            made: time,
        };
        self.vaults.insert(*vault, made);
        Ok(())
    }

    fn change_member(&mut self, event: &Event) -> Result<()> {
        let Event::VaultMember { vault, account, on, wrapped } = event else { return Ok(()) };
        self.known(account)?;
        let is_more = |vault: &VaultEntry| vault.owner != *account && !vault.members.contains_key(account);
        if *on && self.vaults.get(vault).is_some_and(is_more) {
            self.has_place_for_vault(account)?;
        }
        let vault = self.vaults.get_mut(vault).ok_or_else(|| unknown("vault", vault))?;
        if *on == wrapped.is_empty() {
            return Err(RegistryError::Contradiction("who becomes a member gets a wrapped key, who leaves none"));
        }
        if !on && *account == vault.owner {
            return Err(RegistryError::Contradiction("the owner of a vault stays its member"));
        }
        if vault.kind == VaultKind::Private && *account != vault.owner {
            return Err(RegistryError::Contradiction("a private vault has no member but its owner"));
        }
        if !on {
            return vault.members.remove(account).map(drop).ok_or_else(|| unknown("member", account));
        }
        vault.members.insert(*account, wrapped.clone());
        vault.shut_out.remove(account);
        Ok(())
    }

    fn has_place_for_vault(&self, account: &AccountId) -> Result<()> {
        match self.vaults_of(account).count() < MEMBER_OF_MAX {
            true => Ok(()),
            false => Err(RegistryError::Contradiction("an account is a member of 256 vaults at most")),
        }
    }

    /// The machine, if it may still connect.
    fn live(&self, key: &NodeKey) -> Result<&Node> {
        let node = self.nodes.get(key).ok_or_else(|| unknown("machine", key))?;
        match node.status {
            NodeStatus::Pending | NodeStatus::Active => Ok(node),
            NodeStatus::Revoked | NodeStatus::Forgotten => {
                Err(state("machine", key, "pending or active", node.status.word()))
            }
        }
    }

    fn active(&mut self, key: &NodeKey) -> Result<&mut Node> {
        let node = self.nodes.get_mut(key).ok_or_else(|| unknown("machine", key))?;
        if node.status != NodeStatus::Active {
            return Err(state("machine", key, "active", node.status.word()));
        }
        Ok(node)
    }

    fn known(&self, id: &AccountId) -> Result<&Account> {
        self.accounts.get(id).ok_or_else(|| unknown("account", id))
    }

    fn account_mut(&mut self, id: &AccountId) -> Result<&mut Account> {
        self.accounts.get_mut(id).ok_or_else(|| unknown("account", id))
    }
}

fn unknown(what: &'static str, id: impl Display) -> RegistryError {
    RegistryError::Unknown { what, id: id.to_string() }
}

fn taken(what: &'static str, id: impl Display) -> RegistryError {
    RegistryError::Taken { what, id: id.to_string() }
}

fn state(what: &'static str, id: impl Display, expected: &'static str, found: &'static str) -> RegistryError {
    RegistryError::State { what, id: id.to_string(), expected, found }
}
