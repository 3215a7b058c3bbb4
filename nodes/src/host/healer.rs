//! What is bad at the host gets its bytes again from the machine that holds the other copy.
//!
//! What always holds: nothing is believed that does not have the name asked for; the host's own store decides what it
//! lets count again. Until then what is bad has lost its standing: the next backup stores it anew where it meets it.

use super::online::{Errand, Scrubbed};
use super::{Host, HostVault, lock};
use crate::tracker::MachineNumber;
use crate::tracker::holders::NewFrame;
use crate::tracker::names::NodeKey;
use crate::tracker::registry::NodeStatus;
use crate::transport::problem::{Problem, Why, problem};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use twinkeep_engine::id::{FrameId, VaultId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::scrub::{self, ScrubOptions};
use twinkeep_engine::store::Store;

/// Frames that are fetched and written at a time: some tens of megabytes.
const FRAMES_AT_ONCE: usize = 16;

/// Rows of bad frames that one look takes.
const LOST_MAX: usize = 16 << 10;

/// What is bad is looked for so often at least: a machine that holds the other copy may have come.
const PACE: Duration = Duration::from_secs(600);

/// A machine that was asked for frames answers within this time, or is passed over.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Default)]
pub struct Healer {
    wake: Notify,
}

impl Healer {
    /// Something was found bad.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

/// What verifying the office came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// At the host and elsewhere; `bad` counts copies elsewhere.
    pub scrubbed: Scrubbed,
    /// Frames of the host that were bad.
    pub bad: u64,
    /// Of those, frames that count again.
    pub healed: u64,
    /// Machines that verified what they hold.
    pub machines: u32,
    /// Machines that are a part of the office and did not answer.
    pub silent: Vec<String>,
}

/// Heals for as long as the host runs.
pub async fn run(host: Arc<Host>) {
    let mut due = Duration::ZERO;
    loop {
        let now = host.env().clock.elapsed();
        // All frames are looked through for it.
        if now >= due {
            due = now + PACE;
            match bring_back(&host).await {
                Ok(0) => {}
                Ok(frames) => tracing::warn!(frames, "what an index that was made anew did not find is there again"),
                Err(error) => tracing::warn!(%error, "cannot look for what an index that was made anew did not find"),
            }
        }
        match heal_all(&host).await {
            Ok((0, _)) => {}
            Ok((bad, healed)) => tracing::warn!(bad, healed, "frames of the host are bad; some were healed"),
            Err(error) => tracing::warn!(%error, "cannot heal what is bad"),
        }
        let _ = tokio::time::timeout(PACE, host.healer.wake.notified()).await;
    }
}

/// Verifies everything that can be reached, and heals what can be healed.
pub async fn scrub(host: &Arc<Host>) -> Result<Health, Problem> {
    let mut health = Health::default();
    for (id, vault) in host.vaults() {
        let scrubbing = host.clone();
        let round = host.work().run(move || scrub_vault(&scrubbing, &vault)).await;
        let (frames, bytes) = round.map_err(|error| problem(error.why, format!("vault {id}: {}", error.text)))?;
        health.scrubbed.frames += frames;
        health.scrubbed.bytes += bytes;
    }
    let mut waiting = Vec::new();
    for (name, key) in active(host) {
        let (answer, answered) = oneshot::channel();
        let asked = lock(&host.online).live(&key).is_some_and(|live| live.errands.send(Errand::Scrub(answer)).is_ok());
        match asked {
            true => waiting.push((name, answered)),
            false => health.silent.push(name),
        }
    }
    for (name, answered) in waiting {
        match answered.await {
            Ok(scrubbed) => {
                health.machines += 1;
                health.scrubbed.frames += scrubbed.frames;
                health.scrubbed.bytes += scrubbed.bytes;
                health.scrubbed.bad += scrubbed.bad;
            }
            Err(_) => health.silent.push(name),
        }
    }
    (health.bad, health.healed) = heal_all(host).await?;
    let back = bring_back(host).await?;
    health.bad += back;
    health.healed += back;
    Ok(health)
}

fn active(host: &Host) -> Vec<(String, NodeKey)> {
    let registry = host.office.registry();
    let nodes = registry.nodes().filter(|node| node.status == NodeStatus::Active);
    nodes.map(|node| (node.name.clone(), node.key)).collect()
}

fn scrub_vault(host: &Host, vault: &HostVault) -> Result<(u64, u64), Problem> {
    let done = scrub::scrub(&vault.store, host.env(), None, &ScrubOptions::default(), &Progress::silent());
    let report = done.map_err(|error| problem(Why::Other, error.to_string()))?;
    for fault in &report.round.faults {
        tracing::warn!(vault = %vault.store.vault(), ?fault, "damage was found");
    }
    Ok((report.round.counts.frames, report.round.counts.bytes))
}

/// Heals every vault; how many frames were bad, and how many of them count again.
async fn heal_all(host: &Arc<Host>) -> Result<(u64, u64), Problem> {
    let (mut bad, mut healed) = (0, 0);
    for (id, vault) in host.vaults() {
        let (found, back) = heal(host, id, &vault).await?;
        bad += found;
        healed += back;
    }
    Ok((bad, healed))
}

async fn heal(host: &Arc<Host>, id: VaultId, vault: &Arc<HostVault>) -> Result<(u64, u64), Problem> {
    let looked_at = vault.clone();
    let lost = host.work().run(move || looked_at.store.lost_frames(LOST_MAX)).await?;
    let mut healed = 0;
    for part in lost.chunks(FRAMES_AT_ONCE) {
        let fetched = fetch(host, part.iter().map(|lost| lost.id).collect()).await?;
        if fetched.is_empty() || twinkeep_engine::zoo::planted("healer-gives-up") {
            continue;
        }
        let frames: Vec<(FrameNumber, Vec<u8>)> =
            // A frame that stood in two places may be bad in both.
            part.iter().filter_map(|lost| Some((lost.number, fetched.get(&lost.id)?.clone()))).collect();
        let (mending, tracker) = (vault.clone(), host.clone());
        let replace = move || {
            let numbers: Vec<FrameNumber> = frames.iter().map(|(number, _)| *number).collect();
            enter(&tracker, id, &mending, &numbers)?;
            Ok::<_, Problem>(mending.store.replace(frames)?)
        };
        let replaced = host.work().run(replace).await?;
        healed += replaced.frames;
        tracing::info!(vault = %id, frames = replaced.frames, branches = replaced.healed.len(), "frames were healed");
    }
    // What was stored anew meanwhile is not missed.
    let looked_at = vault.clone();
    host.work().run(move || looked_at.count_lost()).await?;
    Ok((lost.len() as u64, healed))
}

/// Brings back what the map of holders knows of and an index that was made anew does not name: not even the headers of
/// these frames could be read. How many frames that were.
async fn bring_back(host: &Arc<Host>) -> Result<u64, Problem> {
    let (mut back, mut after) = (0, None);
    loop {
        let tracker = host.clone();
        let (found, next) = host.work().run(move || tracker.holders.not_entered_again(after, LOST_MAX)).await?;
        let mut by_vault: BTreeMap<VaultId, Vec<FrameId>> = BTreeMap::new();
        found.into_iter().for_each(|(vault, frame)| by_vault.entry(vault).or_default().push(frame));
        for (id, frames) in by_vault {
            // One that cannot be opened now has its frames still.
            let Ok(vault) = host.vault(id) else { continue };
            for part in frames.chunks(FRAMES_AT_ONCE) {
                back += bring_back_some(host, id, &vault, part.to_vec()).await?;
            }
        }
        match next {
            None => return Ok(back),
            next => after = next,
        }
    }
}

async fn bring_back_some(
    host: &Arc<Host>,
    id: VaultId,
    vault: &Arc<HostVault>,
    frames: Vec<FrameId>,
) -> Result<u64, Problem> {
    let (tracker, of) = (host.clone(), vault.clone());
    let missing = host.work().run(move || tracker.missing(id, &of, &frames)).await?;
    if missing.is_empty() {
        return Ok(0);
    }
    let fetched = fetch(host, missing).await?;
    if fetched.is_empty() {
        return Ok(0);
    }
    let (tracker, of) = (host.clone(), vault.clone());
    let put_back = move || {
        let put = of.store.put_back(fetched.into_iter().collect())?;
        Host::count_stored(&of, put.bytes);
        tracker.feed(id, &of)?;
        Ok::<_, Problem>(put.frames)
    };
    host.work().run(put_back).await
}

/// How many frames are bad or gone here and have their only copy, as far as is known, on this machine.
pub fn alone_on(host: &Host, machine: MachineNumber) -> Result<u64, Problem> {
    let count = |ids: &[FrameId]| -> Result<u64, Problem> {
        let holders = host.holders.holders_of(ids)?;
        Ok(holders.iter().filter(|holders| holders[..] == [machine]).count() as u64)
    };
    let mut alone = 0;
    for (_, vault) in host.vaults() {
        let missed: Vec<FrameId> = vault.store.missed_frames()?.iter().map(|lost| lost.id).collect();
        for part in missed.chunks(LOST_MAX) {
            alone += count(part)?;
        }
    }
    let mut after = None;
    loop {
        let (missing, next) = host.holders.not_entered_again(after, LOST_MAX)?;
        let ids: Vec<FrameId> = missing.into_iter().map(|(_, frame)| frame).collect();
        alone += count(&ids)?;
        match next {
            None => return Ok(alone),
            next => after = next,
        }
    }
}

/// A map of holders that was made anew while a frame was bad does not know of it, and what is about to count again is
/// owed a second place. Entered first: whoever is interrupted between the two finds it bad again.
fn enter(host: &Host, id: VaultId, vault: &HostVault, numbers: &[FrameNumber]) -> Result<(), Problem> {
    let mut frames = Vec::with_capacity(numbers.len());
    for number in numbers {
        let place = vault.store.frames(*number, 1)?.into_iter().find(|place| place.number == *number);
        frames.extend(place.map(|place| NewFrame {
            id: place.frame,
            number_in_index: place.number.0,
            kind: place.kind,
            len: place.len,
            writer: None,
            spread: false,
        }));
    }
    Ok(host.holders.enter(id, &frames, 0)?)
}

/// Asks the machines that hold these frames for them, and of those that nobody is known to hold every machine: the map
/// of holders may have been lost. Gives those that came.
async fn fetch(host: &Arc<Host>, ids: Vec<FrameId>) -> Result<HashMap<FrameId, Vec<u8>>, Problem> {
    let tracker = host.clone();
    let asked = ids.clone();
    let holders = host.work().run(move || tracker.holders.holders_of(&asked)).await?;
    let everybody: Vec<MachineNumber> =
        host.office.read(|registry| registry.nodes().map(|node| MachineNumber(node.number)).collect());
    let mut by_machine: BTreeMap<MachineNumber, Vec<FrameId>> = BTreeMap::new();
    for (id, holders) in ids.iter().zip(holders) {
        for machine in if holders.is_empty() { everybody.clone() } else { holders } {
            by_machine.entry(machine).or_default().push(*id);
        }
    }
    let mut fetched = HashMap::new();
    for (machine, mut frames) in by_machine {
        frames.retain(|id| !fetched.contains_key(id));
        if frames.is_empty() {
            continue;
        }
        let (answer, mut answers) = mpsc::unbounded_channel();
        let key =
            host.office.read(|registry| registry.nodes().find(|node| node.number == machine.0).map(|node| node.key));
        let sent = key.is_some_and(|key| {
            lock(&host.online).live(&key).is_some_and(|live| live.errands.send(Errand::Fetch(frames, answer)).is_ok())
        });
        if !sent {
            continue;
        }
        while let Ok(Some((id, bytes))) = tokio::time::timeout(PATIENCE, answers.recv()).await {
            fetched.insert(id, bytes);
        }
    }
    Ok(fetched)
}
