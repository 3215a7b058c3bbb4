//! What machines may let go that others hold: those that are being emptied, those whose disk is fuller than their owner
//! wants, and those that came back with what was made again meanwhile.
//!
//! What always holds: a copy is dropped only after another machine has just shown that it has the frame, against the
//! host's own copy, which was read and verified for it. Whoever is on the way between the two is a holder still.

use super::copier::Wanted;
use super::online::Errand;
use super::{Host, lock};
use crate::tracker::MachineNumber;
use crate::tracker::holders::{Held, HoldersError, TrackedNumber};
use crate::tracker::names::NodeKey;
use crate::transport::limits::BEAT;
use crate::transport::problem::Problem;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use twinkeep_engine::id::FrameId;
use twinkeep_engine::index::FrameNumber;

/// Every machine is looked at so often.
const PACE: Duration = Duration::from_secs(5);

/// Frames that are shown and dropped at a time: some tens of megabytes to read at the host.
const FRAMES: usize = 64;

/// Rows of what a machine holds that one look takes.
const LOOKED_AT_MAX: usize = 4096;

/// A machine that is to show frames answers within this time, or is passed over.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was dropped shows in the room that a machine tells of after so long.
const SHOWS: Duration = Duration::from_secs(3 * BEAT.as_secs());

/// See the module.
#[derive(Default)]
pub struct Mover {
    wake: Notify,
    turns: Mutex<BTreeMap<MachineNumber, Turn>>,
}

/// How far a machine has been looked through, and until when it is left alone.
#[derive(Clone, Copy, Default)]
struct Turn {
    after: Option<TrackedNumber>,
    rests_until: Duration,
}

/// Why a machine may let something go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// It is being emptied.
    All,
    /// It lacks so many bytes.
    Bytes(u64),
    /// It may hold what enough others do.
    Surplus,
}

impl Mover {
    /// Somebody has come.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Frames of a machine, by who is to show that they are elsewhere too.
#[derive(Default)]
struct Picked {
    by_holder: BTreeMap<MachineNumber, Vec<Wanted>>,
    is_end: bool,
}

/// Goes on for as long as the host runs.
pub async fn run(host: Arc<Host>) {
    loop {
        if let Err(error) = round(&host).await {
            tracing::warn!(%error, "cannot free what is elsewhere");
        }
        let _ = tokio::time::timeout(PACE, host.mover.wake.notified()).await;
    }
}

/// Looks at every machine once. Gives how many copies were dropped.
pub async fn round(host: &Arc<Host>) -> Result<u64, Problem> {
    let mut dropped = 0;
    for (machine, key, need) in leaving(host) {
        let now = host.env().clock.elapsed();
        if lock(&host.mover.turns).get(&machine).is_some_and(|turn| turn.rests_until > now) {
            continue;
        }
        let picking = host.clone();
        let picked = host.work().run(move || pick(&picking, machine, need)).await?;
        if picked.is_end && need == Need::Surplus {
            set_looked_through(host, &key);
        }
        let shown = shown(host, picked.by_holder).await;
        dropped += let_go(host, machine, &key, shown).await?;
        if matches!(need, Need::Bytes(_)) {
            let rests_until = host.env().clock.elapsed() + SHOWS;
            lock(&host.mover.turns).entry(machine).or_default().rests_until = rests_until;
        }
    }
    Ok(dropped)
}

/// Machines that are there and may let something go.
fn leaving(host: &Host) -> Vec<(MachineNumber, NodeKey, Need)> {
    let registry = host.office.registry();
    let online = lock(&host.online);
    let mut all = Vec::new();
    for node in registry.nodes() {
        let Some(live) = online.live(&node.key).filter(|live| live.is_compared) else { continue };
        let need = match (node.draining, live.shortage()) {
            (true, _) => Need::All,
            (false, 0) if live.is_surplus => Need::Surplus,
            (false, 0) => continue,
            (false, bytes) => Need::Bytes(bytes),
        };
        all.push((live.number, node.key, need));
    }
    all
}

/// Machines that may be relied on: they are there, and are not emptied themselves.
fn staying(host: &Host) -> BTreeSet<MachineNumber> {
    let registry = host.office.registry();
    let online = lock(&host.online);
    let nodes = registry.nodes().filter(|node| !node.draining && !online.has_twin(&node.key));
    nodes.filter_map(|node| online.live(&node.key)).filter(|live| live.is_compared).map(|live| live.number).collect()
}

fn set_looked_through(host: &Host, key: &NodeKey) {
    if let Some(live) = lock(&host.online).live_mut(key) {
        live.is_surplus = false;
    }
}

fn pick(host: &Host, machine: MachineNumber, need: Need) -> Result<Picked, HoldersError> {
    let staying = staying(host);
    let mut after = lock(&host.mover.turns).get(&machine).and_then(|turn| turn.after);
    let mut left = if let Need::Bytes(bytes) = need { bytes } else { u64::MAX };
    let (mut picked, mut count, mut looked_at) = (Picked::default(), 0, 0);
    'looking: while looked_at < LOOKED_AT_MAX {
        let held = host.holders.held_by(machine, after, LOOKED_AT_MAX / 4)?;
        picked.is_end = held.is_empty();
        if held.is_empty() {
            after = None;
            break;
        }
        for frame in held {
            if count == FRAMES || left == 0 {
                break 'looking;
            }
            (after, looked_at) = (Some(frame.number), looked_at + 1);
            if let Some(holder) = other_holder(&frame, machine, &staying) {
                left = left.saturating_sub(frame.len.into());
                count += 1;
                let number = FrameNumber(frame.number_in_index);
                let wanted = Wanted { vault: frame.vault, number, id: frame.id };
                picked.by_holder.entry(holder).or_default().push(wanted);
            }
        }
    }
    lock(&host.mover.turns).entry(machine).or_default().after = after;
    Ok(picked)
}

fn other_holder(frame: &Held, machine: MachineNumber, staying: &BTreeSet<MachineNumber>) -> Option<MachineNumber> {
    frame.holders.iter().copied().find(|holder| *holder != machine && staying.contains(holder))
}

/// Has machines show that they hold these; gives those that were shown.
async fn shown(host: &Arc<Host>, by_holder: BTreeMap<MachineNumber, Vec<Wanted>>) -> Vec<FrameId> {
    let mut shown = Vec::new();
    for (holder, wanted) in by_holder {
        let (told, mut says) = mpsc::unbounded_channel();
        let key =
            host.office.read(|registry| registry.nodes().find(|node| node.number == holder.0).map(|node| node.key));
        let asked = key.is_some_and(|key| {
            let online = lock(&host.online);
            online.live(&key).is_some_and(|live| live.errands.send(Errand::Prove(wanted, Some(told))).is_ok())
        });
        if !asked {
            continue;
        }
        while let Ok(Some(id)) = tokio::time::timeout(PATIENCE, says.recv()).await {
            shown.push(id);
        }
    }
    shown
}

/// A machine does not hold these any more, as far as that is still right, and is told so.
async fn let_go(host: &Arc<Host>, machine: MachineNumber, key: &NodeKey, frames: Vec<FrameId>) -> Result<u64, Problem> {
    if frames.is_empty() {
        return Ok(0);
    }
    let releasing = host.clone();
    let released = host.work().run(move || releasing.holders.release(machine, &frames)).await?;
    let count = released.len() as u64;
    let online = lock(&host.online);
    let told = online.live(key).is_some_and(|live| live.errands.send(Errand::Drop(released)).is_ok());
    if told && count > 0 {
        tracing::info!(%machine, frames = count, "others hold what it held");
    }
    // One that has just gone lists them when it comes, and is looked at again then.
    Ok(if told { count } else { 0 })
}
