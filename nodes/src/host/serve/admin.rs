//! What an administrator may do: everything that changes who belongs to the office, and nothing that reads content.

use super::describe::describe;
use super::machines;
use super::people::{self, NewVault, kind_word};
use super::recovery::{ProofServer, kit_used};
use super::user::used;
use crate::host::leave::{self, AWAY_SECS_MAX, UserCall};
use crate::host::{Host, collector, healer, trouble, watch};
use crate::tracker::MachineNumber;
use crate::tracker::event::{AuditKind, Event};
use crate::tracker::holders::{HoldersError, OwedCounts};
use crate::tracker::log::Actor;
use crate::tracker::member::recovery_challenge;
use crate::tracker::names::{AccountId, NodeKey};
use crate::tracker::presence::Event as Seen;
use crate::tracker::registry::{Registry, VaultEntry};
use crate::tracker::token::{self, JoinToken};
use crate::transport::ids::one;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::{Held, Peer};
use capnp::Error;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use twinkeep_engine::crypto::PublicKey;
use twinkeep_engine::id::FrameId;
use twinkeep_schema::office_capnp::admin;

/// See the module.
pub struct AdminServer {
    pub(super) host: Arc<Host>,
    actor: Actor,
    /// From where it came.
    pub(super) peer: Arc<Peer>,
    begin: Box<dyn Fn() -> Result<Option<UserCall>, Problem>>,
    _held: Option<Held>,
}

impl AdminServer {
    /// For somebody whose right is asked for anew at every call.
    pub fn new(host: Arc<Host>, actor: Actor, begin: impl Fn() -> Result<Option<UserCall>, Problem> + 'static) -> Self {
        let peer = Peer::new(host.key(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self { host, actor, peer, begin: Box::new(begin), _held: None }
    }

    /// The same, for somebody who is not on the host.
    pub(super) fn of(self, peer: Arc<Peer>, held: Held) -> Self {
        Self { peer, _held: Some(held), ..self }
    }

    /// Begins a call.
    pub(super) fn begin(&self) -> Result<Option<UserCall>, Problem> {
        (self.begin)()
    }

    /// Writes down a use of the recovery kit.
    pub(super) async fn note(&self, text: &str) -> Result<(), Problem> {
        self.append(kit_used(text.to_owned())).await
    }

    pub(super) async fn append(&self, event: Event) -> Result<(), Problem> {
        let (host, actor) = (self.host.clone(), self.actor);
        self.host.work().run(move || host.office.append(actor, event)).await.map(drop)
    }

    fn account(&self, name: &str) -> Result<AccountId, Problem> {
        people::account(&self.host, name)
    }

    fn node(&self, name: &str) -> Result<NodeKey, Problem> {
        let key = self.host.office.read(|registry| registry.node_by_name(name).map(|node| node.key));
        key.ok_or_else(|| problem(Why::NotFound, format!("there is no machine {name}")))
    }

    /// Fails where a machine has what the host has lost.
    async fn require_dispensable(&self, key: NodeKey) -> Result<(), Problem> {
        let number = self.host.office.read(|registry| registry.node(&key).map(|node| MachineNumber(node.number)));
        let Some(machine) = number else { return Ok(()) };
        let host = self.host.clone();
        let look = move || {
            let held = host.holders.inventory(machine)?.frames;
            Ok::<_, Problem>((healer::alone_on(&host, machine)?, host.closed().len(), held))
        };
        let (alone, closed, held) = self.host.work().run(look).await?;
        if alone > 0 {
            let text = format!(
                "{alone} frames are damaged or gone at the host and have their only copy on this machine: switch \
                 it on, and the host takes them back by itself; nothing was changed, and --give-up-data goes on all \
                 the same"
            );
            return Err(problem(Why::Usage, text));
        }
        if closed > 0 && held > 0 {
            let text = format!(
                "the host cannot open {closed} of its vaults, and this machine may have copies of what is in them: \
                 put those back first; nothing was changed, and --give-up-data goes on all the same"
            );
            return Err(problem(Why::Usage, text));
        }
        Ok(())
    }

    /// A machine does not take part any more: its connections end, nobody waits for it, and what it held is owed.
    async fn part_with(&self, key: NodeKey, event: Event) -> Result<(), Problem> {
        self.append(event).await?;
        self.host.connections.end(&key);
        let number = self.host.office.read(|registry| registry.node(&key).map(|node| MachineNumber(node.number)));
        let Some(machine) = number else { return Ok(()) };
        let host = self.host.clone();
        let part = move || {
            watch::note(&host, Seen::Forgotten(machine))?;
            host.forget_copies(machine)
        };
        self.host.work().run(part).await
    }
}

impl admin::Server for AdminServer {
    async fn add_user(
        self: Rc<Self>,
        params: admin::AddUserParams,
        mut results: admin::AddUserResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let vault = NewVault::read(params.get_vault()?)?;
        let (id, events) = people::new_account(params.get_user()?)?;
        vault.make(&self.host, self.actor, events, id, Vec::new()).await?;
        results.get().set_id(&id.0);
        Ok(())
    }

    async fn users(self: Rc<Self>, _params: admin::UsersParams, mut results: admin::UsersResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let registry = self.host.office.registry();
        let mut accounts: Vec<_> = registry.accounts().collect();
        accounts.sort_by(|a, b| a.name.cmp(&b.name));
        let mut list = results.get().init_users(accounts.len() as u32);
        for (at, account) in (0..).zip(accounts) {
            let mut user = list.reborrow().get(at);
            user.set_name(&account.name[..]);
            user.set_quota(account.quota);
            user.set_used(used(&self.host, &account.id));
            user.set_disabled(account.disabled);
            user.set_is_admin(account.is_admin);
            let devices = registry.devices_of(&account.id).filter(|device| !device.revoked).count();
            user.set_devices(u32::try_from(devices).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    async fn disable_user(
        self: Rc<Self>,
        params: admin::DisableUserParams,
        _results: admin::DisableUserResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let id = self.account(params.get_account()?.to_str()?)?;
        self.append(Event::AccountDisabled { id, on: params.get_on() }).await?;
        Ok(())
    }

    async fn quota(self: Rc<Self>, params: admin::QuotaParams, _results: admin::QuotaResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let id = self.account(params.get_account()?.to_str()?)?;
        self.append(Event::AccountQuota { id, bytes: params.get_bytes() }).await?;
        Ok(())
    }

    async fn add_vault(
        self: Rc<Self>,
        params: admin::AddVaultParams,
        _results: admin::AddVaultResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let vault = NewVault::read(params.get()?.get_vault()?)?;
        let owner = self.account(&vault.owner)?;
        Ok(vault.make(&self.host, self.actor, Vec::new(), owner, Vec::new()).await?)
    }

    async fn token(self: Rc<Self>, params: admin::TokenParams, mut results: admin::TokenResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let name = params.get_name()?.to_string()?;
        let host = &self.host;
        let token = JoinToken::new(&name, &host.identity.addresses, host.key(), &*host.env().entropy)
            .map_err(|error| problem(Why::Usage, error.to_string()))?;
        let ttl = Duration::from_secs(params.get_secs().into());
        let expires = token::expires(host.env().clock.now(), ttl);
        let event = Event::NodeTokenMade { name, token_hash: token.hash(), expires, auto: params.get_auto() };
        self.append(event).await?;
        results.get().set_token(&token.text()[..]);
        Ok(())
    }

    async fn nodes(self: Rc<Self>, _params: admin::NodesParams, results: admin::NodesResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let host = self.host.clone();
        let counts = self.host.work().run(move || host.holders.owed_counts()).await?;
        machines::tell(&self.host, &counts, results);
        Ok(())
    }

    async fn approve(
        self: Rc<Self>,
        params: admin::ApproveParams,
        _results: admin::ApproveResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let key = self.node(params.get()?.get_name()?.to_str()?)?;
        self.append(Event::NodeApproved { key }).await?;
        Ok(())
    }

    async fn revoke(self: Rc<Self>, params: admin::RevokeParams, _results: admin::RevokeResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let key = self.node(params.get()?.get_name()?.to_str()?)?;
        // Its copies are in the hands of somebody who is not trusted.
        Ok(self.part_with(key, Event::NodeRevoked { key }).await?)
    }

    async fn forget(self: Rc<Self>, params: admin::ForgetParams, _results: admin::ForgetResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let key = self.node(params.get_name()?.to_str()?)?;
        if !params.get_give_up_data() {
            self.require_dispensable(key).await?;
        }
        Ok(self.part_with(key, Event::NodeForgotten { key }).await?)
    }

    async fn drain(self: Rc<Self>, params: admin::DrainParams, _results: admin::DrainResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let key = self.node(params.get_name()?.to_str()?)?;
        self.append(Event::NodeDraining { key, on: params.get_on() }).await?;
        self.host.copier.wake();
        Ok(())
    }

    async fn copies(
        self: Rc<Self>,
        _params: admin::CopiesParams,
        mut results: admin::CopiesResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let host = self.host.clone();
        let rows = move || {
            let counts = host.holders.owed_counts()?;
            let registry = host.office.registry();
            let rows: Vec<VaultRow> =
                registry.vaults().map(|entry| VaultRow::of(&host, &registry, &counts, entry)).collect();
            Ok::<_, HoldersError>(rows)
        };
        let rows = self.host.work().run(rows).await?;
        let mut list = results.get().init_vaults(rows.len() as u32);
        for (at, row) in (0..).zip(&rows) {
            let mut copies = list.reborrow().get(at);
            copies.set_vault(&row.id);
            copies.set_name(&row.name[..]);
            copies.set_kind(row.kind);
            copies.set_owner(&row.owner[..]);
            copies.set_bytes(row.bytes);
            copies.set_owed_frames(row.owed.0);
            copies.set_owed_bytes(row.owed.1);
            if row.owed.0 > 0 {
                copies.set_why(&row.why[..]);
            }
        }
        Ok(())
    }

    async fn why(self: Rc<Self>, params: admin::WhyParams, mut results: admin::WhyResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let frame: FrameId = one(params.get()?.get_frame()?)?;
        let host = self.host.clone();
        let holders = self.host.work().run(move || host.holders.holders_of(&[frame])).await?;
        let registry = self.host.office.registry();
        let numbers = holders.into_iter().next().unwrap_or_default();
        let named = registry.nodes().filter(|node| numbers.contains(&MachineNumber(node.number)));
        let names: Vec<&str> = named.map(|node| &node.name[..]).collect();
        let text = match names.is_empty() {
            true => "no machine besides the host holds it".to_owned(),
            false => format!("besides the host it is on {}", names.join(", ")),
        };
        results.get().set_text(&text[..]);
        Ok(())
    }

    async fn audit(self: Rc<Self>, params: admin::AuditParams, mut results: admin::AuditResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let (from, count) = (params.get_from().max(1), params.get_count() as usize);
        let host = self.host.clone();
        let entries = self.host.work().run(move || host.office.audit(from, count)).await?;
        let registry = self.host.office.registry();
        let mut list = results.get().init_entries(entries.len() as u32);
        for (at, entry) in (0..).zip(&entries) {
            let mut to = list.reborrow().get(at);
            to.set_sequence(entry.sequence);
            to.set_time(entry.time.0);
            let actor = match &entry.actor {
                Actor::Host => "host".to_owned(),
                Actor::Account(id) => registry.account(id).map_or_else(|| id.to_hex(), |known| known.name.clone()),
                Actor::Node(key) => registry.node(key).map_or_else(|| key.to_hex(), |known| known.name.clone()),
            };
            to.set_actor(&actor[..]);
            to.set_what(&describe(&registry, &entry.event)[..]);
        }
        Ok(())
    }

    async fn status(
        self: Rc<Self>,
        _params: admin::StatusParams,
        mut results: admin::StatusResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let host = self.host.clone();
        let counts = self.host.work().run(move || host.holders.owed_counts()).await?;
        let mut status = results.get().init_status();
        let space = self.host.space();
        status.set_name(&self.host.identity.name[..]);
        status.set_address(&self.host.identity.addresses.join(", ")[..]);
        status.set_generation(self.host.office.tip().generation);
        status.set_free(space.free);
        status.set_total(space.total);
        status.set_connections(u32::try_from(self.host.connections.count()).unwrap_or(u32::MAX));
        status.set_vaults(u32::try_from(self.host.vaults().len()).unwrap_or(u32::MAX));
        let questions = [self.host.watch.question(), self.host.hours.question(self.host.env())];
        status.set_question(&questions.into_iter().flatten().collect::<Vec<_>>().join("\n")[..]);
        let owed: u64 = counts.vaults.iter().map(|count| count.frames).sum();
        // Of a vault that cannot be opened nobody knows how much it is.
        status.set_owed_frames(owed + self.host.lost() + self.host.closed().len() as u64);
        status.set_reserve(self.host.identity.marks.reserve_of(space.total));
        let troubles = trouble::all(&self.host);
        let mut list = status.init_troubles(troubles.len() as u32);
        for (at, trouble) in (0..).zip(&troubles) {
            let mut to = list.reborrow().get(at);
            to.set_about(trouble.about);
            to.set_serious(trouble.is_serious);
            to.set_text(&trouble.text[..]);
        }
        Ok(())
    }

    async fn scrub(self: Rc<Self>, _params: admin::ScrubParams, mut results: admin::ScrubResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let health = healer::scrub(&self.host).await?;
        let mut report = results.get().init_report();
        report.set_frames(health.scrubbed.frames);
        report.set_bytes(health.scrubbed.bytes);
        report.set_bad(health.bad);
        report.set_healed(health.healed);
        report.set_machines(health.machines);
        report.set_copies_bad(health.scrubbed.bad);
        let mut silent = report.init_silent(health.silent.len() as u32);
        (0..).zip(&health.silent).for_each(|(at, name)| silent.set(at, &name[..]));
        Ok(())
    }

    async fn collect(
        self: Rc<Self>,
        _params: admin::CollectParams,
        mut results: admin::CollectResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let freed = collector::collect(&self.host).await;
        let mut results = results.get();
        results.set_bytes(freed.bytes);
        results.set_frames(freed.frames);
        results.set_copies(freed.copies);
        let mut problems = results.init_problems(freed.problems.len() as u32);
        (0..).zip(&freed.problems).for_each(|(at, text)| problems.set(at, &text[..]));
        Ok(())
    }

    async fn give_up(
        self: Rc<Self>,
        _params: admin::GiveUpParams,
        _results: admin::GiveUpResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let host = self.host.clone();
        self.host.work().run(move || watch::note(&host, Seen::GiveUpMissing)).await?;
        Ok(())
    }

    async fn devices(
        self: Rc<Self>,
        params: admin::DevicesParams,
        mut results: admin::DevicesResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let account = self.account(params.get()?.get_account()?.to_str()?)?;
        let devices = people::trusted(&self.host.office.registry(), &account);
        people::put_devices(&devices, results.get().init_devices(devices.len() as u32));
        Ok(())
    }

    async fn revoke_device(
        self: Rc<Self>,
        params: admin::RevokeDeviceParams,
        _results: admin::RevokeDeviceResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let account = self.account(params.get_account()?.to_str()?)?;
        let device = people::device_of(&self.host, &account, params.get_device()?)?;
        Ok(self.append(Event::DeviceRevoked { account, device }).await?)
    }

    async fn vaults(
        self: Rc<Self>,
        _params: admin::VaultsParams,
        mut results: admin::VaultsResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let registry = self.host.office.registry();
        let mut list = results.get().init_vaults(registry.vaults().count() as u32);
        for (at, vault) in (0..).zip(registry.vaults()) {
            people::put_vault(&registry, vault, None, list.reborrow().get(at));
        }
        Ok(())
    }

    async fn remove_member(
        self: Rc<Self>,
        params: admin::RemoveMemberParams,
        _results: admin::RemoveMemberResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let params = params.get()?;
        let vault = people::vault_id(&self.host.office.registry(), params.get_vault()?)?;
        let account = self.account(params.get_account()?.to_str()?)?;
        Ok(self.append(Event::VaultMember { vault, account, on: false, wrapped: Vec::new() }).await?)
    }

    async fn recovery(
        self: Rc<Self>,
        _params: admin::RecoveryParams,
        mut results: admin::RecoveryResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let held = self.peer.hold()?;
        let entropy = &*self.host.env().entropy;
        let mut nonce = [0; 32];
        entropy.fill(&mut nonce);
        let challenge = recovery_challenge(&PublicKey(self.host.identity.company_key), &nonce, entropy);
        let proof = ProofServer { admin: self.clone(), nonce, used: Cell::new(false), _held: held };
        let mut results = results.get();
        results.set_challenge(&challenge);
        results.set_proof(capnp_rpc::new_client(proof));
        Ok(())
    }

    async fn stop(self: Rc<Self>, params: admin::StopParams, mut results: admin::StopResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        // Whoever stops it from afar could not start it again.
        if self.actor != Actor::Host {
            return Err(problem(Why::NotAllowed, "the host is stopped on the host: `twinkeep host stop`").into());
        }
        let params = params.get()?;
        let secs = match (params.get_planned(), params.get_secs()) {
            (false, _) => None,
            (true, secs @ 1..=AWAY_SECS_MAX) => Some(secs),
            (true, _) => return Err(problem(Why::Usage, "a host is away for 1 second to 30 days").into()),
        };
        let (heard, there) = leave::prepare(&self.host, secs).await;
        let mut results = results.get();
        results.set_heard(heard as u32);
        results.set_there(there as u32);
        Ok(())
    }

    async fn clock_is_right(
        self: Rc<Self>,
        _params: admin::ClockIsRightParams,
        mut results: admin::ClockIsRightResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let host = self.host.clone();
        let Some((from, to)) = self.host.work().run(move || Ok::<_, Problem>(host.hours.confirm(host.env()))).await?
        else {
            return Ok(());
        };
        let text = format!("the host's clock is right, which went {} s at once", (to.0 - from.0) / 1_000_000_000);
        self.append(Event::Audit { kind: AuditKind::Other, account: None, node: None, text }).await?;
        let mut results = results.get();
        results.set_from(from.0);
        results.set_to(to.0);
        Ok(())
    }

    async fn company_key(
        self: Rc<Self>,
        _params: admin::CompanyKeyParams,
        mut results: admin::CompanyKeyResults,
    ) -> Result<(), Error> {
        let _call = (self.begin)()?;
        results.get().set_public_key(&self.host.identity.company_key);
        Ok(())
    }
}

struct VaultRow {
    id: [u8; 16],
    name: String,
    kind: &'static str,
    owner: String,
    bytes: u64,
    owed: (u64, u64),
    why: String,
}

impl VaultRow {
    fn of(host: &Host, registry: &Registry, counts: &OwedCounts, entry: &VaultEntry) -> Self {
        let owed = counts.vaults.iter().find(|count| count.vault == entry.id);
        let (frames, bytes) = owed.map_or((0, 0), |owed| (owed.frames, owed.bytes));
        let (stored, owed, why) = match host.vault(entry.id) {
            // Nobody knows how much of it is left.
            Err(error) => (0, (frames.max(1), bytes), error.text),
            Ok(vault) => {
                let hindrance = || host.copier.hindrance(entry.id).map_or(String::new(), |it| it.to_string());
                let (owed, why) = match vault.lost.load(Ordering::Relaxed) {
                    0 => ((frames, bytes), hindrance()),
                    // What is bad here has one place at most.
                    lost => {
                        let why =
                            format!("{lost} frames are damaged or gone at the host, and no machine has given them");
                        ((frames + lost, bytes), why)
                    }
                };
                (vault.stored.load(Ordering::Relaxed), owed, why)
            }
        };
        let owner = registry.account(&entry.owner).map_or(String::new(), |owner| owner.name.clone());
        let (name, kind) = (entry.name.clone(), kind_word(entry.kind));
        Self { id: entry.id.0, name, kind, owner, bytes: stored, owed, why }
    }
}
