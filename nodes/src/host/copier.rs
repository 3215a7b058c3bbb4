//! Where second copies go, and when: what is owed, the most endangered first, is handed to machines that are there.
//!
//! Nothing here is kept: what is owed stands in the map of holders until a machine has confirmed that it holds it.

use super::online::Errand;
use super::terms::{Budget, Terms};
use super::{COPIES_WANTED, Host, lock};
use crate::tracker::MachineNumber;
use crate::tracker::holders::{Held, HoldersError, Why};
use crate::tracker::names::NodeKey;
use crate::tracker::placement::{Ask, Candidate, Choice, Hindrance, choose};
use crate::tracker::presence::Presence;
use crate::tracker::registry::NodeStatus;
use crate::tracker::standing::{Fault, Rest, Standing};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use twinkeep_engine::env::Env;
use twinkeep_engine::id::{FrameId, VaultId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::zoo::planted;

/// Frames of one errand: some tens of megabytes, so that a machine that goes away has little to be sent again.
const ERRAND_COUNT: usize = 32;

/// Bytes of one errand.
const ERRAND_LEN: u64 = 32 << 20;

/// Errands a machine may have before it.
const ERRANDS_MAX: usize = 2;

/// Rows of what is owed that one plan looks at.
const LOOKED_AT_MAX: usize = 16 << 10;

/// Rows that one look takes.
const ROWS_AT_ONCE: usize = 1024;

/// A plan is made so often at least.
const PACE: Duration = Duration::from_secs(1);

/// A frame on its way for longer than this was lost on it.
const ON_ITS_WAY: Duration = Duration::from_secs(600);

/// A frame that could not be read here is tried again after this: it may have been healed meanwhile.
const UNREADABLE: Duration = Duration::from_secs(60);

/// Who writes a frame has so long to say that it keeps it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A frame to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Vault.
    pub vault: VaultId,
    /// Its number in the vault's index when it was entered.
    pub number: FrameNumber,
    /// Frame.
    pub id: FrameId,
}

/// See the module.
#[derive(Default)]
pub struct Copier {
    wake: Notify,
    state: Mutex<State>,
    terms: Mutex<Terms>,
}

#[derive(Default)]
struct State {
    on_their_way: HashMap<FrameId, (MachineNumber, Duration)>,
    errands: HashMap<MachineNumber, usize>,
    hindrances: BTreeMap<VaultId, Hindrance>,
    /// Frames that could not be read here, and when: what is bad here is nothing to be sent.
    unreadable: HashMap<FrameId, Duration>,
    /// Frames whose writer may keep them itself, and since when that is waited for.
    patience: HashMap<FrameId, Duration>,
    /// Bytes that may be sent now, where that is paced.
    budget: Budget,
    /// Who did badly what it was asked.
    standing: Standing,
}

impl Copier {
    /// Something is owed, or somebody has come.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sends on these terms from now on.
    pub fn set_terms(&self, terms: Terms) {
        *lock(&self.terms) = terms;
        self.wake();
    }

    /// Bytes that may be sent now; nothing where that is not paced.
    fn budget(&self, env: &Env, now: Duration) -> Option<i64> {
        let terms = lock(&self.terms);
        let pace = terms.pace.as_ref().filter(|pace| (pace.holds)(env.clock.now()))?;
        Some(lock(&self.state).budget.refill(pace.rate, now))
    }

    /// Whether the writer of a frame may still be waited for to say that it keeps it.
    fn is_patient(&self, id: &FrameId, now: Duration) -> bool {
        let mut state = lock(&self.state);
        // Of more than one plan looks at nobody is waited for.
        if state.patience.len() >= LOOKED_AT_MAX && !state.patience.contains_key(id) {
            return false;
        }
        now.saturating_sub(*state.patience.entry(*id).or_insert(now)) < PATIENCE
    }

    /// A frame is bad here, or gone: for a while it is not handed out again.
    pub fn note_unreadable(&self, id: FrameId, now: Duration) {
        let mut state = lock(&self.state);
        if state.unreadable.len() < LOOKED_AT_MAX {
            state.unreadable.insert(id, now);
        }
    }

    /// An errand is over, whatever came of it.
    pub fn done(&self, machine: MachineNumber, frames: &[Wanted]) {
        let mut state = lock(&self.state);
        for wanted in frames {
            state.on_their_way.remove(&wanted.id);
        }
        if let Some(count) = state.errands.get_mut(&machine) {
            *count = count.saturating_sub(1);
        }
        drop(state);
        self.wake();
    }

    /// A machine did not do what it was asked, or said what is not so: others are asked for a while.
    pub fn failed(&self, machine: MachineNumber, fault: Fault, now: Duration) {
        lock(&self.state).standing.failed(machine, fault, now);
        self.wake();
    }

    /// A machine has taken all it was sent.
    pub fn took(&self, machine: MachineNumber, now: Duration) {
        lock(&self.state).standing.took(machine, now);
    }

    /// A machine has shown that it holds all it was asked for.
    pub fn proved(&self, machine: MachineNumber, now: Duration) {
        lock(&self.state).standing.proved(machine, now);
    }

    /// How a machine has done; nothing where all is well.
    pub fn standing(&self, machine: MachineNumber) -> Option<Rest> {
        lock(&self.state).standing.of(machine)
    }

    /// A machine's connection has ended: what was on its way is not any more.
    pub fn gone(&self, machine: MachineNumber) {
        let mut state = lock(&self.state);
        state.on_their_way.retain(|_, (to, _)| *to != machine);
        state.errands.remove(&machine);
    }

    fn is_on_its_way(&self, frame: &FrameId) -> bool {
        let state = lock(&self.state);
        state.on_their_way.contains_key(frame) || state.unreadable.contains_key(frame)
    }

    /// Frames that are on their way to a machine.
    pub fn on_their_way(&self, machine: MachineNumber) -> usize {
        lock(&self.state).on_their_way.values().filter(|(to, _)| *to == machine).count()
    }

    /// Why the first frame of a vault that has no second place has none; nothing when it is on its way.
    pub fn hindrance(&self, vault: VaultId) -> Option<Hindrance> {
        lock(&self.state).hindrances.get(&vault).copied()
    }
}

/// Machines that may be asked, with the connection of each.
fn candidates(host: &Host, now: Duration) -> (Vec<Candidate>, BTreeMap<MachineNumber, NodeKey>) {
    let registry = host.office.registry();
    let online = lock(&host.online);
    let terms = lock(&host.copier.terms);
    let state = lock(&host.copier.state);
    let mut keys = BTreeMap::new();
    let mut all = Vec::new();
    for node in registry.nodes().filter(|node| matches!(node.status, NodeStatus::Active | NodeStatus::Pending)) {
        let machine = MachineNumber(node.number);
        let live = online.live(&node.key);
        keys.insert(machine, node.key);
        let load = state.on_their_way.values().filter(|(to, _)| *to == machine).count();
        all.push(Candidate {
            machine,
            machine_id: node.machine_id.0,
            granted: live.map_or(node.grant, |live| live.granted),
            used: live.map_or(0, |live| live.used),
            // Of one that is not there nobody knows, and that is what is in the way, not its room.
            free: live.map_or(u64::MAX, |live| live.free.saturating_sub(live.reserve)),
            // Before it was compared nobody knows what it holds already.
            presence: match live.is_some_and(|live| live.is_compared) {
                true => host.watch.presence(machine),
                false => Presence::Offline,
            },
            on_host_network: live.is_none_or(|live| terms.reaches(live.address)),
            is_on_battery: live.is_some_and(|live| live.is_on_battery),
            is_draining: node.draining,
            has_twin: online.has_twin(&node.key) && !planted("copies-for-twins"),
            is_confirmed: node.status == NodeStatus::Active,
            is_resting: state.standing.rests(machine, now),
            load: u32::try_from(load).unwrap_or(u32::MAX),
            uptime_share: 100,
        });
    }
    (all, keys)
}

/// What goes where, while that is being planned.
struct Plan {
    candidates: Vec<Candidate>,
    batches: BTreeMap<MachineNumber, (Vec<Wanted>, u64)>,
    /// Frames that are in them: one may be looked at twice, once at each machine that is to be rid of it.
    placed: HashSet<FrameId>,
    hindrances: BTreeMap<VaultId, Hindrance>,
    /// Bytes that may still be sent; nothing where that is not paced.
    budget: Option<i64>,
}

impl Plan {
    /// Nothing more is sent for now.
    fn is_spent(&self) -> bool {
        self.budget.is_some_and(|budget| budget <= 0)
    }

    /// Finds a place for a frame, if there is one.
    fn add(&mut self, wanted: Wanted, ask: &Ask<'_>) {
        if self.placed.contains(&wanted.id) {
            return;
        }
        let machine = match choose(ask, &self.candidates) {
            Choice::Writer(machine) | Choice::Other(machine) => machine,
            Choice::Nobody(hindrance) => {
                self.hindrances.entry(wanted.vault).or_insert(hindrance);
                return;
            }
        };
        let (batch, len) = self.batches.entry(machine).or_default();
        if batch.len() >= ERRAND_COUNT || *len >= ERRAND_LEN {
            return;
        }
        batch.push(wanted);
        self.placed.insert(wanted.id);
        *len += u64::from(ask.len);
        self.budget = self.budget.map(|budget| budget - i64::from(ask.len));
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.machine == machine) {
            candidate.load += 1;
            candidate.used = candidate.used.saturating_add(u64::from(ask.len));
            candidate.free = candidate.free.saturating_sub(u64::from(ask.len));
        }
    }
}

/// Looks through what is owed and hands it out, and then what machines hold that are being emptied. Returns how many
/// frames were handed out.
pub fn plan(host: &Host, now: Duration) -> Result<usize, HoldersError> {
    let (candidates, keys) = candidates(host, now);
    let mut state = lock(&host.copier.state);
    state.on_their_way.retain(|_, (_, since)| now.saturating_sub(*since) < ON_ITS_WAY);
    state.unreadable.retain(|_, since| now.saturating_sub(*since) < UNREADABLE);
    drop(state);
    let budget = host.copier.budget(host.env(), now);
    let (batches, hindrances) = Default::default();
    let mut plan = Plan { candidates, batches, placed: HashSet::new(), hindrances, budget };
    give(host, &mut plan, now)?;
    empty(host, &mut plan)?;
    lock(&host.copier.state).hindrances = plan.hindrances;
    Ok(hand_out(host, plan.batches, &keys, now))
}

/// Finds places for what is owed, the most endangered first.
fn give(host: &Host, plan: &mut Plan, now: Duration) -> Result<(), HoldersError> {
    let writing: BTreeSet<MachineNumber> = host.keeping().values().map(|run| run.machine).collect();
    if writing.is_empty() {
        lock(&host.copier.state).patience.clear();
    }
    let (mut after, mut looked_at) = (None, 0);
    while looked_at < LOOKED_AT_MAX && !plan.is_spent() {
        let owed = host.holders.owed(after, ROWS_AT_ONCE)?;
        let Some(last) = owed.last() else { break };
        after = Some(last.cursor);
        looked_at += owed.len();
        for frame in &owed {
            if host.copier.is_on_its_way(&frame.id) || plan.is_spent() {
                continue;
            }
            // Who writes it and keeps it is about to say so, but is not waited for as long as it likes to write, nor for
            // what it has lost.
            let may_keep = frame.why == Why::New && !frame.spread;
            let is_kept = may_keep && frame.writer.is_some_and(|writer| writing.contains(&writer));
            if frame.holders.is_empty() && is_kept && host.copier.is_patient(&frame.id, now) {
                continue;
            }
            let ask = Ask {
                vault: frame.vault,
                writer: frame.writer,
                spread: frame.spread,
                holders: &frame.holders,
                host: host.identity.machine_id,
                len: frame.len,
            };
            let number = FrameNumber(frame.number_in_index);
            plan.add(Wanted { vault: frame.vault, number, id: frame.id }, &ask);
        }
    }
    Ok(())
}

/// Finds other places for what machines hold that are being emptied, or whose disk is fuller than their owner wants, of
/// those so much as is missing. What they hold counts there until others hold it, so nothing is ever owed because of it;
/// then they are told to let it go, if they are there.
fn empty(host: &Host, plan: &mut Plan) -> Result<(), HoldersError> {
    let is_draining = |candidate: &&Candidate| candidate.is_draining;
    let draining: BTreeSet<MachineNumber> =
        plan.candidates.iter().filter(is_draining).map(|candidate| candidate.machine).collect();
    for (machine, shortage) in leaving(host) {
        let (mut after, mut looked_at, mut left) = (None, 0, shortage);
        while looked_at < LOOKED_AT_MAX && left > 0 && !plan.is_spent() {
            let held = host.holders.held_by(machine, after, ROWS_AT_ONCE)?;
            let Some(last) = held.last() else { break };
            after = Some(last.number);
            looked_at += held.len();
            let stays = |holder: &&MachineNumber| **holder != machine && !draining.contains(holder);
            for frame in held {
                if left == 0 || plan.is_spent() {
                    break;
                }
                left = left.saturating_sub(frame.len.into());
                let elsewhere = frame.holders.iter().filter(stays).count();
                if elsewhere >= COPIES_WANTED as usize || host.copier.is_on_its_way(&frame.id) {
                    continue;
                }
                let ask = Ask {
                    vault: frame.vault,
                    writer: frame.not_at,
                    spread: frame.not_at.is_some(),
                    holders: &frame.holders,
                    host: host.identity.machine_id,
                    len: frame.len,
                };
                let number = FrameNumber(frame.number_in_index);
                plan.add(Wanted { vault: frame.vault, number, id: frame.id }, &ask);
            }
        }
    }
    retire(host, &draining)
}

/// Machines whose copies are to go elsewhere, and how many bytes of them.
fn leaving(host: &Host) -> Vec<(MachineNumber, u64)> {
    let registry = host.office.registry();
    let online = lock(&host.online);
    let nodes = registry.nodes().filter(|node| node.status == NodeStatus::Active);
    let leaving = nodes.filter_map(|node| match (node.draining, online.live(&node.key)) {
        (true, _) => Some((MachineNumber(node.number), u64::MAX)),
        (false, live) => live.map(|live| (MachineNumber(node.number), live.shortage())),
    });
    leaving.filter(|(_, bytes)| *bytes > 0).collect()
}

/// Of a machine that is being emptied and is not there, what enough others hold does not count any more.
fn retire(host: &Host, draining: &BTreeSet<MachineNumber>) -> Result<(), HoldersError> {
    for &machine in draining {
        let key =
            host.office.read(|registry| registry.nodes().find(|node| node.number == machine.0).map(|node| node.key));
        if key.is_none_or(|key| lock(&host.online).live(&key).is_some()) {
            continue;
        }
        let (mut after, mut looked_at) = (None, 0);
        while looked_at < LOOKED_AT_MAX {
            let held = host.holders.held_by(machine, after, ROWS_AT_ONCE)?;
            let Some(last) = held.last() else { break };
            after = Some(last.number);
            looked_at += held.len();
            let stays = |frame: &Held| frame.holders.iter().filter(|holder| !draining.contains(holder)).count();
            let elsewhere = held.iter().filter(|frame| stays(frame) >= COPIES_WANTED as usize);
            let elsewhere: Vec<FrameId> = elsewhere.map(|frame| frame.id).collect();
            host.holders.retract(machine, &elsewhere, Why::Dropped)?;
        }
    }
    Ok(())
}

fn hand_out(
    host: &Host,
    batches: BTreeMap<MachineNumber, (Vec<Wanted>, u64)>,
    keys: &BTreeMap<MachineNumber, NodeKey>,
    now: Duration,
) -> usize {
    let mut handed = 0;
    for (machine, (batch, len)) in batches {
        let online = lock(&host.online);
        let live = keys.get(&machine).and_then(|key| online.live(key));
        let Some(live) = live.filter(|live| live.is_compared) else { continue };
        let mut state = lock(&host.copier.state);
        let errands = state.errands.entry(machine).or_default();
        if *errands >= ERRANDS_MAX {
            continue;
        }
        *errands += 1;
        for wanted in &batch {
            state.on_their_way.insert(wanted.id, (machine, now));
        }
        handed += batch.len();
        state.budget.take(len);
        // A connection that has just ended says so itself.
        let _ = live.errands.send(Errand::Send(batch));
    }
    handed
}

/// Plans for as long as the host runs.
pub async fn run(host: Arc<Host>) {
    loop {
        let planning = host.clone();
        let planned = host.work().run(move || plan(&planning, planning.env().clock.elapsed())).await;
        match planned {
            Ok(0) => {}
            Ok(frames) => tracing::debug!(frames, "copies were handed out"),
            Err(error) => tracing::warn!(%error, "cannot plan copies"),
        }
        let _ = tokio::time::timeout(PACE, host.copier.wake.notified()).await;
    }
}
