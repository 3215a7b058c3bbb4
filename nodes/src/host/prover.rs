//! Whether machines really hold what they say: a few frames a minute, one after the other through all of them.
//!
//! A machine that scrubs its own store says what is bad there. One that lies, or whose disk answers from nowhere, does not:
//! so it is asked for a keyed hash over some bytes of a frame, with a key and a place it cannot know before, and the host
//! compares that with its own copy. What is not shown to be held is owed again.

use super::copier::Wanted;
use super::online::Errand;
use super::{Host, lock};
use crate::tracker::MachineNumber;
use crate::tracker::holders::{HoldersError, TrackedNumber};
use crate::tracker::names::NodeKey;
use crate::tracker::registry::NodeStatus;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use twinkeep_engine::index::FrameNumber;

/// How often machines are asked.
const PACE: Duration = Duration::from_secs(60);

/// Frames that each is asked for then: ten gigabytes a day, read once here and once there.
const FRAMES: usize = 4;

/// Where each machine's turn has come to.
pub type Turns = BTreeMap<MachineNumber, TrackedNumber>;

/// Asks for as long as the host runs.
pub async fn run(host: Arc<Host>) {
    let mut turns = Turns::new();
    loop {
        tokio::time::sleep(PACE).await;
        let asking = host.clone();
        let done = host
            .work()
            .run(move || {
                ask(&asking, &mut turns)?;
                Ok::<_, HoldersError>(turns)
            })
            .await;
        turns = done.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot ask machines for what they hold");
            Turns::new()
        });
    }
}

/// Has every machine that is there asked for the next frames of its turn. Returns how many were.
pub fn ask(host: &Host, turns: &mut Turns) -> Result<usize, HoldersError> {
    let mut asked = 0;
    for (machine, key) in active(host) {
        let mut held = host.holders.held_by(machine, turns.get(&machine).copied(), FRAMES)?;
        if held.is_empty() {
            turns.remove(&machine);
            held = host.holders.held_by(machine, None, FRAMES)?;
        }
        let Some(last) = held.last() else { continue };
        turns.insert(machine, last.number);
        let wanted: Vec<Wanted> = held
            .iter()
            .map(|held| Wanted { vault: held.vault, number: FrameNumber(held.number_in_index), id: held.id })
            .collect();
        let online = lock(&host.online);
        let Some(live) = online.live(&key).filter(|live| live.is_compared) else { continue };
        asked += wanted.len();
        // A connection that has just ended says so itself.
        let _ = live.errands.send(Errand::Prove(wanted, None));
    }
    Ok(asked)
}

fn active(host: &Host) -> Vec<(MachineNumber, NodeKey)> {
    let registry = host.office.registry();
    let nodes = registry.nodes().filter(|node| node.status == NodeStatus::Active);
    nodes.map(|node| (MachineNumber(node.number), node.key)).collect()
}
