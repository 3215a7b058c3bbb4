//! Machines that are there now, as their own words and their silence tell.

use super::copier::Wanted;
use crate::tracker::MachineNumber;
use crate::tracker::names::NodeKey;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use twinkeep_engine::id::FrameId;

/// Work for a machine, done on the thread of its connection.
#[derive(Debug)]
pub enum Errand {
    /// Send it these frames.
    Send(Vec<Wanted>),
    /// Have it set these aside.
    Drop(Vec<FrameId>),
    /// Compare what it holds with what is believed.
    Compare,
    /// Fetch these; each that is there comes back, verified.
    Fetch(Vec<FrameId>, mpsc::UnboundedSender<(FrameId, Vec<u8>)>),
    /// Have it show that it holds these; each that it shows is told, where somebody waits for that.
    Prove(Vec<Wanted>, Option<mpsc::UnboundedSender<FrameId>>),
    /// Have it verify what it holds.
    Scrub(oneshot::Sender<Scrubbed>),
}

/// What a machine verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scrubbed {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
    /// Frames that were bad.
    pub bad: u64,
}

/// Of what a machine says it holds, and of what is believed of it.
pub type Digests = ([u8; 32], [u8; 32]);

/// A machine's connection.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its number.
    pub number: MachineNumber,
    /// Drawn at every start of its service.
    pub run: [u8; 16],
    /// From where it came.
    pub address: IpAddr,
    /// When it was last heard of.
    pub heard: Duration,
    /// Its physical machine.
    pub machine_id: [u8; 16],
    /// Bytes its owner grants.
    pub granted: u64,
    /// Bytes of them in use.
    pub used: u64,
    /// Bytes free on its disk, or that its trash frees as soon as they are needed.
    pub free: u64,
    /// Bytes that its owner wants free on that disk.
    pub reserve: u64,
    /// It runs on battery.
    pub is_on_battery: bool,
    /// It may hold what enough others do; nobody has looked yet.
    pub is_surplus: bool,
    /// Frames it says it holds.
    pub frames: u64,
    /// Its program.
    pub version: String,
    /// Whether what it holds was compared with what the tracker believes.
    pub is_compared: bool,
    /// Comparing it is asked for and not over.
    pub is_asked: bool,
    /// Digests of what it says it holds and of what is believed: when they were last compared one by one, and at its
    /// last heartbeat.
    pub digests: [Option<Digests>; 2],
    /// To its connection.
    pub errands: mpsc::UnboundedSender<Errand>,
}

impl Live {
    /// Bytes that it may be given.
    pub fn room(&self) -> u64 {
        self.granted.saturating_sub(self.used).min(self.free.saturating_sub(self.reserve))
    }

    /// Bytes that it lacks of what its owner wants free.
    pub fn shortage(&self) -> u64 {
        self.reserve.saturating_sub(self.free)
    }

    /// A machine has said what it holds. Tells whether it is to be compared with what is believed: they differ, have done
    /// so for a while, and it is not what comparing them came to.
    pub fn differs(&mut self, digests: Digests) -> bool {
        let [compared, before] = self.digests;
        self.digests = [compared, Some(digests)];
        self.is_compared
            && !self.is_asked
            && digests.0 != digests.1
            && before == Some(digests)
            && compared != Some(digests)
    }
}

/// All of them.
#[derive(Default)]
pub struct Online {
    machines: BTreeMap<NodeKey, Vec<Live>>,
    last_seen: BTreeMap<NodeKey, Duration>,
    last_proven: BTreeMap<NodeKey, Duration>,
}

impl Online {
    /// A machine has come. One that came before under the same start gives way.
    pub fn come(&mut self, key: NodeKey, live: Live) {
        self.last_seen.insert(key, live.heard);
        let all = self.machines.entry(key).or_default();
        all.retain(|other| other.run != live.run);
        all.push(live);
    }

    /// Its connection has ended. Who is left of its twins has to be asked for what it holds: what is believed may be the
    /// other's word.
    pub fn go(&mut self, key: &NodeKey, errands: &mpsc::UnboundedSender<Errand>) {
        let Some(all) = self.machines.get_mut(key) else { return };
        let before = all.len();
        all.retain(|live| !live.errands.same_channel(errands));
        if all.is_empty() {
            self.machines.remove(key);
        } else if all.len() < before {
            for live in all {
                // One whose connection has just ended is compared when it comes again.
                let _ = live.errands.send(Errand::Compare);
            }
        }
    }

    /// The connection that a sender of errands belongs to.
    pub fn of(&mut self, key: &NodeKey, errands: &mpsc::UnboundedSender<Errand>) -> Option<&mut Live> {
        self.machines.get_mut(key)?.iter_mut().find(|live| live.errands.same_channel(errands))
    }

    /// It was heard of.
    pub fn heard(&mut self, key: &NodeKey, now: Duration) {
        self.last_seen.insert(*key, now);
    }

    /// It has shown that it holds what it was asked for.
    pub fn proven(&mut self, key: &NodeKey, now: Duration) {
        self.last_proven.insert(*key, now);
    }

    /// When it last did so since the host started.
    pub fn last_proven(&self, key: &NodeKey) -> Option<Duration> {
        self.last_proven.get(key).copied()
    }

    /// Its newest connection.
    pub fn live(&self, key: &NodeKey) -> Option<&Live> {
        self.machines.get(key)?.iter().max_by_key(|live| live.heard)
    }

    /// How many machines are there.
    pub fn count(&self) -> usize {
        self.machines.len()
    }

    /// The same, to be changed.
    pub fn live_mut(&mut self, key: &NodeKey) -> Option<&mut Live> {
        self.machines.get_mut(key)?.iter_mut().max_by_key(|live| live.heard)
    }

    /// Whether two different starts speak in its name.
    pub fn has_twin(&self, key: &NodeKey) -> bool {
        self.machines.get(key).is_some_and(|all| all.iter().any(|live| live.run != all[0].run))
    }

    /// When it was last heard of since the host started.
    pub fn last_seen(&self, key: &NodeKey) -> Option<Duration> {
        self.last_seen.get(key).copied()
    }
}
