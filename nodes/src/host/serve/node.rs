//! A machine that is there: its heartbeats, what it confirms, and the errands it is sent on.

use super::bootstrap::require_active;
use crate::host::copier::Wanted;
use crate::host::online::{Errand, Live, Scrubbed};
use crate::host::{Host, lock, watch};
use crate::tracker::MachineNumber;
use crate::tracker::event::Event;
use crate::tracker::holders::Why as Owed;
use crate::tracker::log::Actor;
use crate::tracker::names::{NodeKey, check_label};
use crate::tracker::presence::Event as Seen;
use crate::transport::ids::{fixed, join, split};
use crate::transport::limits::{BEAT, IDS_MAX, PING_DEADLINE};
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::{Held, Peer};
use capnp::Error;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use twinkeep_engine::id::FrameId;
use twinkeep_engine::store::{BadFrame, Store};
use twinkeep_schema::office_capnp::{copies, inventory, node_session, registration};

/// Bytes of a frame over which a machine shows a hash.
const PROVEN_LEN: usize = 64 << 10;

/// Frames of one question to a machine.
const FRAMES_AT_ONCE: usize = 4096;

/// When comparing what a machine holds failed, it is tried again after this.
const COMPARE_AGAIN: Duration = Duration::from_secs(30);

/// A machine says that it is there, and hands over its store of copies.
pub(super) fn register(
    host: &Arc<Host>,
    peer: &Arc<Peer>,
    told: registration::Reader<'_>,
    copies: copies::Client,
) -> Result<node_session::Client, Error> {
    let key = peer.key;
    let node = host.office.read(|registry| registry.node(&key).map(|node| (node.number, node.grant)));
    let Some((number, grant)) = node else {
        return Err(problem(Why::NotAllowed, "the host does not send copies to itself").into());
    };
    let held = peer.hold()?;
    let version = told.get_version()?.to_string()?;
    check_label("version", &version).map_err(|error| problem(Why::Usage, error.to_string()))?;
    let number = MachineNumber(number);
    let (errands, queue) = mpsc::unbounded_channel();
    let said = Said::read(told.get_inventory()?)?;
    let live = Live {
        number,
        run: fixed(told.get_run()?, "the mark of a start")?,
        address: peer.address,
        heard: host.env().clock.elapsed(),
        machine_id: fixed(told.get_machine_id()?, "a machine id")?,
        granted: told.get_granted(),
        used: said.bytes,
        free: told.get_free(),
        frames: said.frames,
        version,
        is_compared: false,
        digests: [None; 2],
        errands: errands.clone(),
    };
    if grant != live.granted {
        host.office.append(Actor::Node(key), Event::NodeGrant { key, bytes: live.granted }).map_err(Problem::from)?;
    }
    lock(&host.online).come(key, live);
    for seen in [Seen::Joined(number), Seen::Beat(number)] {
        watch::note(host, seen).map_err(Problem::from)?;
    }
    tracing::info!(machine = %number, "a machine is there");
    let server = NodeServer { host: host.clone(), peer: peer.clone(), number, errands: errands.clone(), _held: held };
    tokio::task::spawn_local(listen(host.clone(), peer.clone(), copies.clone(), errands.downgrade()));
    // The queue ends with the session: whoever works it off holds no end of it.
    let (host, peer) = (host.clone(), peer.clone());
    let machine = Machine { host, peer, key, number, copies, errands: errands.downgrade() };
    tokio::task::spawn_local(machine.work(queue, said));
    Ok(capnp_rpc::new_client(server))
}

/// Tells a machine when the host goes away, and hangs up on one that says nothing any more. One whose power went leaves a connection that nobody ends, and with
/// it what it was doing, and a twin of the machine that comes back.
async fn listen(host: Arc<Host>, peer: Arc<Peer>, copies: copies::Client, errands: mpsc::WeakUnboundedSender<Errand>) {
    loop {
        tokio::select! {
            biased;
            () = host.leave.tell(&copies) => return,
            () = tokio::time::sleep(BEAT) => {}
        }
        let Some(errands) = errands.upgrade() else { return };
        let heard = lock(&host.online).of(&peer.key, &errands).map(|live| live.heard);
        // It has come anew by another connection, or has gone.
        let Some(heard) = heard else { return peer.hang_up() };
        if host.env().clock.elapsed().saturating_sub(heard) > PING_DEADLINE {
            tracing::info!(peer = %peer.address, "a machine says nothing any more");
            return peer.hang_up();
        }
    }
}

/// What a machine says it holds.
#[derive(Clone, Copy)]
struct Said {
    frames: u64,
    bytes: u64,
    digest: [u8; 32],
}

impl Said {
    fn read(told: inventory::Reader<'_>) -> Result<Self, Error> {
        let digest = fixed(told.get_digest()?, "a digest")?;
        Ok(Self { frames: told.get_frames(), bytes: told.get_bytes(), digest })
    }
}

struct NodeServer {
    host: Arc<Host>,
    peer: Arc<Peer>,
    number: MachineNumber,
    errands: mpsc::UnboundedSender<Errand>,
    _held: Held,
}

impl Drop for NodeServer {
    fn drop(&mut self) {
        lock(&self.host.online).go(&self.peer.key, &self.errands);
        self.host.copier.gone(self.number);
        if lock(&self.host.online).live(&self.peer.key).is_none()
            && let Err(error) = watch::note(&self.host, Seen::Closed(self.number))
        {
            tracing::warn!(%error, "cannot take note that a machine went");
        }
        tracing::info!(machine = %self.number, "a machine went");
    }
}

impl node_session::Server for NodeServer {
    async fn beat(
        self: Rc<Self>,
        params: node_session::BeatParams,
        mut results: node_session::BeatResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        require_active(&self.host, &self.peer.key)?;
        let params = params.get()?;
        let said = Said::read(params.get_inventory()?)?;
        let (tracker, number) = (self.host.clone(), self.number);
        let believed = self.host.work().run(move || tracker.holders.inventory(number)).await?;
        let now = self.host.env().clock.elapsed();
        let mut online = lock(&self.host.online);
        online.heard(&self.peer.key, now);
        if let Some(live) = online.of(&self.peer.key, &self.errands) {
            live.heard = now;
            live.granted = params.get_granted();
            live.free = params.get_free();
            live.used = said.bytes;
            live.frames = said.frames;
            // It lost something, or a word of it was lost on its way.
            if live.differs((said.digest, believed.digest.0)) {
                // A connection that has just ended is compared when it comes again.
                let _ = live.errands.send(Errand::Compare);
            }
        }
        drop(online);
        watch::note(&self.host, Seen::Beat(self.number)).map_err(Problem::from)?;
        results.get().set_time(self.host.env().clock.now().0);
        Ok(())
    }

    async fn confirm(
        self: Rc<Self>,
        params: node_session::ConfirmParams,
        mut results: node_session::ConfirmResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        require_active(&self.host, &self.peer.key)?;
        let frames = split::<FrameId>(params.get()?.get_frames()?)?;
        let unknown = confirm(&self.host, self.number, frames).await?;
        results.get().set_unknown(&join(&unknown));
        Ok(())
    }

    async fn retract(
        self: Rc<Self>,
        params: node_session::RetractParams,
        _results: node_session::RetractResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        require_active(&self.host, &self.peer.key)?;
        let frames = split::<FrameId>(params.get()?.get_frames()?)?;
        retract(&self.host, self.number, frames).await?;
        Ok(())
    }

    async fn place(
        self: Rc<Self>,
        params: node_session::PlaceParams,
        mut results: node_session::PlaceResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        require_active(&self.host, &self.peer.key)?;
        fixed::<16>(params.get()?.get_vault()?, "the id of a vault")?;
        let draining = self.host.office.read(|registry| registry.node(&self.peer.key).is_none_or(|node| node.draining));
        let online = lock(&self.host.online);
        let has_room = online.live(&self.peer.key).is_some_and(|live| live.used < live.granted && live.free > 0);
        // One machine is one copy, whatever runs on it.
        let is_other = online.live(&self.peer.key).is_some_and(|live| live.machine_id != self.host.identity.machine_id);
        let keep = !draining && has_room && is_other && !online.has_twin(&self.peer.key);
        results.get().set_keep(keep);
        Ok(())
    }
}

async fn confirm(host: &Arc<Host>, machine: MachineNumber, frames: Vec<FrameId>) -> Result<Vec<FrameId>, Problem> {
    let tracker = host.clone();
    host.work().run(move || tracker.confirm(machine, &frames)).await
}

async fn retract(host: &Arc<Host>, machine: MachineNumber, frames: Vec<FrameId>) -> Result<(), Problem> {
    let tracker = host.clone();
    let retract = move || {
        for part in frames.chunks(FRAMES_AT_ONCE) {
            tracker.holders.retract(machine, part, Owed::ScrubFailed)?;
        }
        Ok::<_, crate::tracker::holders::HoldersError>(())
    };
    host.work().run(retract).await?;
    host.copier.wake();
    Ok(())
}

/// The host's side of a machine's store of copies.
struct Machine {
    host: Arc<Host>,
    peer: Arc<Peer>,
    key: NodeKey,
    number: MachineNumber,
    copies: copies::Client,
    errands: mpsc::WeakUnboundedSender<Errand>,
}

impl Machine {
    /// Compares, then runs errands until the machine goes.
    async fn work(self, mut queue: mpsc::UnboundedReceiver<Errand>, said: Said) {
        let mut said = Some(said);
        while let Err(error) = self.compare(said.take()).await {
            tracing::warn!(machine = %self.number, %error, "cannot compare what a machine holds");
            // The host's disk may be full, or the machine's bad: it is not given anything, and asked again.
            if Problem::from(&error).why == Why::Unreachable {
                return self.peer.hang_up();
            }
            if !self.is_there() {
                return;
            }
            tokio::time::sleep(COMPARE_AGAIN).await;
        }
        self.compared().await;
        while let Some(errand) = queue.recv().await {
            let result = match errand {
                Errand::Send(frames) => {
                    let sent = send(&self.host, self.number, &self.copies, &frames).await;
                    self.host.copier.done(self.number, &frames);
                    sent
                }
                Errand::Drop(frames) => set_aside(&self.host, &self.copies, frames).await,
                Errand::Compare => {
                    let compared = self.compare(None).await;
                    // Else the next heartbeat asks for it again.
                    if compared.is_ok() {
                        self.compared().await;
                    }
                    compared
                }
                Errand::Fetch(frames, answer) => fetch(&self.host, self.number, &self.copies, frames, &answer).await,
                Errand::Prove(frames) => self.prove(&frames).await,
                Errand::Scrub(answer) => scrub(&self.host, self.number, &self.copies, answer).await,
            };
            if let Err(error) = result {
                tracing::warn!(machine = %self.number, %error, "an errand failed");
                // It may only have been slow: it comes again then, and is compared.
                if Problem::from(&error).why == Why::Unreachable {
                    return self.peer.hang_up();
                }
            }
            if !self.is_there() {
                break;
            }
        }
    }

    async fn prove(&self, frames: &[Wanted]) -> Result<(), Error> {
        let shown = prove(&self.host, self.number, &self.copies, frames).await?;
        if shown > 0 {
            lock(&self.host.online).proven(&self.key, self.host.env().clock.elapsed());
        }
        Ok(())
    }

    /// Whether its session is still the machine's.
    fn is_there(&self) -> bool {
        let errands = self.errands.upgrade();
        errands.is_some_and(|errands| lock(&self.host.online).of(&self.key, &errands).is_some())
    }

    /// What it said and what is believed may differ from now on as they do now: it may hold what nobody knows.
    async fn compared(&self) {
        let (tracker, number) = (self.host.clone(), self.number);
        let believed = self.host.work().run(move || tracker.holders.inventory(number)).await;
        let Some(errands) = self.errands.upgrade() else { return };
        if let Some(live) = lock(&self.host.online).of(&self.key, &errands) {
            let said = live.digests[1].map(|(said, _)| said);
            live.digests[0] = said.zip(believed.ok().map(|believed| believed.digest.0));
            live.is_compared = true;
        }
        self.host.copier.wake();
    }

    /// What the machine holds counts from now on, and nothing else does.
    async fn compare(&self, said: Option<Said>) -> Result<(), Error> {
        let (tracker, number) = (self.host.clone(), self.number);
        let believed = self.host.work().run(move || tracker.holders.inventory(number)).await?;
        if said.is_some_and(|said| believed.frames == said.frames && believed.digest.0 == said.digest) {
            return Ok(());
        }
        let mut held = HashSet::new();
        let mut after: Option<FrameId> = None;
        loop {
            let mut request = self.copies.list_request();
            request.get().set_after(after.as_ref().map_or(&[], |id| &id.0[..]));
            request.get().set_count(FRAMES_AT_ONCE as u32);
            let answer = deadline(request.send().promise).await?;
            let frames = split::<FrameId>(answer.get()?.get_frames()?)?;
            let Some(last) = frames.last() else { break };
            if after.is_some_and(|after| *last <= after) {
                return Err(problem(Why::Other, "the machine lists what it holds in a circle").into());
            }
            after = Some(*last);
            let unknown: HashSet<FrameId> =
                confirm(&self.host, self.number, frames.clone()).await?.into_iter().collect();
            // What the host never heard of is not remembered: a machine may list whatever it likes.
            held.extend(frames.into_iter().filter(|id| !unknown.contains(id)));
        }
        let mut lost = Vec::new();
        let mut from = None;
        loop {
            let (tracker, number) = (self.host.clone(), self.number);
            let work = move || tracker.holders.frames_of(number, from, FRAMES_AT_ONCE);
            let rows = self.host.work().run(work).await?;
            let Some((last, _)) = rows.last() else { break };
            from = Some(*last);
            lost.extend(rows.into_iter().map(|(_, id)| id).filter(|id| !held.contains(id)));
        }
        tracing::info!(machine = %self.number, held = held.len(), lost = lost.len(), "compared what a machine holds");
        retract(&self.host, self.number, lost).await?;
        Ok(())
    }
}

/// Sends frames and has them made durable; what the machine then confirms counts.
async fn send(
    host: &Arc<Host>,
    machine: MachineNumber,
    copies: &copies::Client,
    frames: &[Wanted],
) -> Result<(), Error> {
    let upload = deadline(copies.upload_request().send().promise).await?.get()?.get_upload()?;
    let mut sent = BTreeSet::new();
    for wanted in frames {
        let (tracker, frame) = (host.clone(), *wanted);
        // Gone since, or bad here: its owner hears of it in another way.
        let Some(bytes) = host.work().run(move || read(&tracker, &frame)).await? else { continue };
        let mut request = upload.put_request();
        request.get().set_frame(&bytes);
        deadline(request.send()).await?;
        sent.insert(wanted.id);
    }
    let answer = deadline(upload.done_request().send().promise).await?;
    let trouble = answer.get()?.get_problem()?.to_string()?;
    let answer = deadline(copies.settle_request().send().promise).await?;
    let settled = split::<FrameId>(answer.get()?.get_frames()?)?;
    // Also what others gave it meanwhile.
    confirm(host, machine, settled).await?;
    // What it had already is not named again.
    let mut request = copies.has_request();
    let ids: Vec<FrameId> = sent.into_iter().take(IDS_MAX).collect();
    request.get().set_frames(&join(&ids));
    let answer = deadline(request.send().promise).await?;
    let has = answer.get()?.get_answers()?;
    let held = ids.into_iter().zip(has).filter(|(_, has)| **has == 1).map(|(id, _)| id).collect();
    confirm(host, machine, held).await?;
    match trouble.is_empty() {
        true => Ok(()),
        false => Err(Error::failed(trouble)),
    }
}

async fn set_aside(host: &Arc<Host>, copies: &copies::Client, frames: Vec<FrameId>) -> Result<(), Error> {
    let mut request = copies.drop_request();
    request.get().set_order(&crate::terminal::order::sign(&host.identity.authority, &frames));
    deadline(request.send().promise).await?;
    Ok(())
}

/// Gets frames back from a machine. One that it does not give, or gives wrong, it does not hold.
async fn fetch(
    host: &Arc<Host>,
    machine: MachineNumber,
    copies: &copies::Client,
    frames: Vec<FrameId>,
    answer: &mpsc::UnboundedSender<(FrameId, Vec<u8>)>,
) -> Result<(), Error> {
    for id in frames {
        let mut request = copies.read_request();
        request.get().set_frame(&id.0);
        let bytes = match deadline(request.send().promise).await {
            Ok(read) => read.get()?.get_bytes()?.to_vec(),
            Err(error) if Problem::from(&error).why == Why::Unreachable => return Err(error),
            Err(_) => Vec::new(),
        };
        match twinkeep_engine::frame::frame_id(&bytes) == id {
            true => drop(answer.send((id, bytes))),
            false => retract(host, machine, vec![id]).await?,
        }
    }
    Ok(())
}

/// Has a machine show that it holds frames: what it cannot show it does not hold. Gives how many it showed.
async fn prove(
    host: &Arc<Host>,
    machine: MachineNumber,
    copies: &copies::Client,
    frames: &[Wanted],
) -> Result<usize, Error> {
    let mut proven = 0;
    for wanted in frames {
        let (tracker, frame) = (host.clone(), *wanted);
        // What is bad here is no measure for others.
        let Some(bytes) = host.work().run(move || read(&tracker, &frame)).await? else { continue };
        let (mut nonce, mut dice) = ([0; 32], [0; 8]);
        host.env().entropy.fill(&mut nonce);
        host.env().entropy.fill(&mut dice);
        let len = bytes.len().min(PROVEN_LEN);
        let offset = (u64::from_le_bytes(dice) % (bytes.len() - len + 1) as u64) as usize;
        let mut request = copies.prove_request();
        let mut to = request.get();
        to.set_frame(&wanted.id.0);
        to.set_nonce(&nonce);
        to.set_offset(offset as u32);
        to.set_len(len as u32);
        let expected = blake3::keyed_hash(&nonce, &bytes[offset..offset + len]);
        let shown = match deadline(request.send().promise).await {
            Ok(answer) => answer.get()?.get_proof()? == expected.as_bytes(),
            Err(error) if Problem::from(&error).why == Why::Unreachable => return Err(error),
            Err(_) => false,
        };
        if shown {
            proven += 1;
            continue;
        }
        tracing::warn!(%machine, frame = %wanted.id, "a machine does not hold what it said");
        retract(host, machine, vec![wanted.id]).await?;
    }
    Ok(proven)
}

/// Has a machine verify what it holds. However long that takes: the line is watched by other calls.
async fn scrub(
    host: &Arc<Host>,
    machine: MachineNumber,
    copies: &copies::Client,
    answer: oneshot::Sender<Scrubbed>,
) -> Result<(), Error> {
    let told = copies.scrub_request().send().promise.await?;
    let told = told.get()?;
    let bad = split::<FrameId>(told.get_bad()?)?;
    let scrubbed = Scrubbed { frames: told.get_frames(), bytes: told.get_bytes(), bad: bad.len() as u64 };
    retract(host, machine, bad).await?;
    // Whoever asked may have gone.
    let _ = answer.send(scrubbed);
    Ok(())
}

/// Waits for an answer, not for ever.
async fn deadline<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PING_DEADLINE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::disconnected("the machine does not answer".into())),
    }
}

/// A frame of a vault, verified.
fn read(host: &Host, wanted: &Wanted) -> Result<Option<Vec<u8>>, Problem> {
    let vault = host.vault(wanted.vault)?;
    let place = vault.store.frames(wanted.number, 1)?.into_iter().find(|place| place.frame == wanted.id);
    let Some(place) = place else { return Ok(None) };
    let mut bytes = Vec::new();
    vault.store.read_frame(&place, &mut bytes)?;
    let is_good = twinkeep_engine::frame::frame_id(&bytes) == wanted.id;
    if !is_good {
        tracing::warn!(frame = %wanted.id, vault = %wanted.vault, "a frame of the host is damaged");
        // Whoever holds the other copy gives it back.
        vault.store.expel(&[BadFrame::from(&place)])?;
        host.healer.wake();
    }
    Ok(is_good.then_some(bytes))
}
