//! A machine that is there: its heartbeats, what it confirms, and the errands it is sent on.

use super::bootstrap::require_active;
use super::errands::{FRAMES_AT_ONCE, Undone, confirm, deadline, fetch, prove, retract, scrub, send, set_aside};
use crate::host::copier::Wanted;
use crate::host::online::{Errand, Live};
use crate::host::{Host, lock, watch};
use crate::tracker::MachineNumber;
use crate::tracker::event::Event;
use crate::tracker::holders::Junk;
use crate::tracker::log::Actor;
use crate::tracker::names::{NodeKey, check_label};
use crate::tracker::nodelist::NodeListError;
use crate::tracker::pace::Who;
use crate::tracker::presence::Event as Seen;
use crate::tracker::standing::Fault;
use crate::transport::ids::{fixed, join, split};
use crate::transport::limits::{BEAT, PING_DEADLINE};
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::{Held, Peer};
use capnp::Error;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use twinkeep_engine::id::FrameId;
use twinkeep_engine::zoo::planted;
use twinkeep_schema::office_capnp::{copies, inventory, node_session, registration};

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
        free: told.get_free().saturating_add(said.trash),
        reserve: told.get_reserve(),
        is_on_battery: told.get_on_battery(),
        is_surplus: false,
        frames: said.frames,
        version,
        is_compared: false,
        is_asked: false,
        digests: [None; 2],
        errands: errands.clone(),
    };
    // One that says something else each time is not written down each time; what it says now counts in any case.
    if grant != live.granted && host.may_change(Who::Node(key)).is_ok() {
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

/// Tells a machine when the host goes away, and hangs up on one that says nothing any more. One whose power went leaves
/// a connection that nobody ends, and with it what it was doing, and a twin of the machine that comes back.
async fn listen(host: Arc<Host>, peer: Arc<Peer>, copies: copies::Client, errands: mpsc::WeakUnboundedSender<Errand>) {
    loop {
        tokio::select! {
            biased;
            () = host.leave.tell(&copies) => return,
            () = tokio::time::sleep(BEAT) => {}
        }
        let Some(errands) = errands.upgrade().filter(|_| !planted("silent-line-kept")) else { return };
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
    /// Bytes that are free as soon as they are needed.
    trash: u64,
    digest: [u8; 32],
}

impl Said {
    fn read(told: inventory::Reader<'_>) -> Result<Self, Error> {
        let digest = fixed(told.get_digest()?, "a digest")?;
        Ok(Self { frames: told.get_frames(), bytes: told.get_bytes(), trash: told.get_trash(), digest })
    }
}

fn too_many(error: NodeListError) -> Error {
    problem(Why::Other, error.to_string()).into()
}

struct NodeServer {
    host: Arc<Host>,
    peer: Arc<Peer>,
    number: MachineNumber,
    errands: mpsc::UnboundedSender<Errand>,
    _held: Held,
}

impl NodeServer {
    /// Whether it said what is not so, and is given nothing.
    fn rests(&self) -> bool {
        let now = self.host.env().clock.elapsed();
        let rest = self.host.copier.standing(self.number);
        rest.is_some_and(|rest| rest.fault == Fault::Lied && rest.until > now)
    }
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
        let believed = self.host.work().run(move || tracker.holders.expected(number)).await?;
        let now = self.host.env().clock.elapsed();
        let mut online = lock(&self.host.online);
        online.heard(&self.peer.key, now);
        if let Some(live) = online.of(&self.peer.key, &self.errands) {
            live.heard = now;
            live.granted = params.get_granted();
            live.free = params.get_free().saturating_add(said.trash);
            live.reserve = params.get_reserve();
            live.is_on_battery = params.get_on_battery();
            live.used = said.bytes;
            live.frames = said.frames;
            // It lost something, or a word of it was lost on its way.
            if live.differs((said.digest, believed.digest.0)) {
                // A connection that has just ended is compared when it comes again.
                live.is_asked = live.errands.send(Errand::Compare).is_ok();
            }
        }
        drop(online);
        watch::note(&self.host, Seen::Beat(self.number)).map_err(Problem::from)?;
        let listed = self.host.listing.now(&self.host).map_err(too_many)?.list.sequence();
        let mut results = results.get();
        results.set_time(self.host.env().clock.now().0);
        results.set_listed(listed);
        Ok(())
    }

    async fn list(
        self: Rc<Self>,
        _params: node_session::ListParams,
        mut results: node_session::ListResults,
    ) -> Result<(), Error> {
        let _call = self.peer.call()?;
        require_active(&self.host, &self.peer.key)?;
        results.get().set_list(&self.host.listing.now(&self.host).map_err(too_many)?.bytes);
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
        let registry = self.host.office.registry();
        let node = registry.node(&self.peer.key);
        let online = lock(&self.host.online);
        let has_room = online.live(&self.peer.key).is_some_and(|live| live.room() > 0);
        // One machine is one copy, whatever runs on it: the hardware it joined with, as for whoever else is asked.
        let may = node.is_some_and(|node| !node.draining && node.machine_id.0 != self.host.identity.machine_id);
        let keep = may && has_room && !online.has_twin(&self.peer.key) && !self.rests();
        results.get().set_keep(keep);
        Ok(())
    }
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
            let done: Result<(), Undone> = match errand {
                Errand::Send(frames) => {
                    let sent = send(&self.host, self.number, &self.copies, &frames).await;
                    self.host.copier.done(self.number, &frames);
                    sent
                }
                Errand::Drop(frames) => self.drop_some(frames).await.map_err(Undone::from),
                Errand::Compare => {
                    let compared = self.compare(None).await;
                    self.asked_no_more();
                    // Else the next heartbeat asks for it again.
                    if compared.is_ok() {
                        self.compared().await;
                    }
                    // It may be the host's fault, and is no errand that another could do.
                    compared.map_err(|error| Undone::Ours(error.into()))
                }
                Errand::Fetch(frames, answer) => fetch(&self.host, self.number, &self.copies, frames, &answer).await,
                Errand::Prove(frames, shown) => self.prove(&frames, shown.as_ref()).await,
                Errand::Scrub(answer) => {
                    let said = lock(&self.host.online).live(&self.key).map_or(0, |live| live.frames);
                    scrub(&self.host, self.number, &self.copies, said, answer).await
                }
            };
            if let Err(undone) = done {
                let problem = self.undone(undone);
                tracing::warn!(machine = %self.number, %problem, "an errand failed");
                // It may only have been slow: it comes again then, and is compared.
                if problem.why == Why::Unreachable {
                    return self.peer.hang_up();
                }
            }
            if !self.is_there() {
                break;
            }
        }
    }

    /// Another machine is asked next, where this one is to blame.
    fn undone(&self, undone: Undone) -> Problem {
        if let Some(fault) = undone.fault() {
            self.host.copier.failed(self.number, fault, self.host.env().clock.elapsed());
        }
        match undone {
            Undone::Ours(problem) => problem,
            Undone::Theirs(error) => error.into(),
        }
    }

    async fn prove(&self, frames: &[Wanted], told: Option<&mpsc::UnboundedSender<FrameId>>) -> Result<(), Undone> {
        let shown = prove(&self.host, self.number, &self.copies, frames, told).await?;
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

    fn asked_no_more(&self) {
        let Some(errands) = self.errands.upgrade() else { return };
        if let Some(live) = lock(&self.host.online).of(&self.key, &errands) {
            live.is_asked = false;
        }
    }

    /// What it said and what is believed may differ from now on as they do now: it may hold what nobody knows.
    async fn compared(&self) {
        let (tracker, number) = (self.host.clone(), self.number);
        let believed = self.host.work().run(move || tracker.holders.expected(number)).await;
        let Some(errands) = self.errands.upgrade() else { return };
        if let Some(live) = lock(&self.host.online).of(&self.key, &errands) {
            let said = live.digests[1].map(|(said, _)| said);
            live.digests[0] = said.zip(believed.ok().map(|believed| believed.digest.0));
            live.is_compared = true;
            // Others may have been given meanwhile what it has brought back.
            live.is_surplus = true;
        }
        self.host.copier.wake();
        self.host.mover.wake();
    }

    /// Has it set aside what it may still let go: it may have listed some of it since, or others have lost theirs.
    async fn drop_some(&self, frames: Vec<FrameId>) -> Result<(), Error> {
        let (tracker, number) = (self.host.clone(), self.number);
        let frames = self.host.work().run(move || tracker.holders.let_go(number, &frames)).await?;
        if frames.is_empty() { Ok(()) } else { set_aside(&self.host, &self.copies, frames).await }
    }

    /// Of each frame, whether a collection removed it.
    async fn were_removed(&self, ids: Vec<FrameId>) -> Result<Vec<(FrameId, bool)>, Problem> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let tracker = self.host.clone();
        let ask = move || {
            let removed = tracker.holders.is_removed(&ids)?;
            Ok::<_, crate::tracker::holders::HoldersError>(ids.into_iter().zip(removed).collect())
        };
        self.host.work().run(ask).await
    }

    /// What the machine holds counts from now on, and nothing else does.
    async fn compare(&self, said: Option<Said>) -> Result<(), Error> {
        let (tracker, number) = (self.host.clone(), self.number);
        let believed = self.host.work().run(move || tracker.holders.expected(number)).await?;
        if said.is_some_and(|said| believed.frames == said.frames && believed.digest.0 == said.digest) {
            return Ok(());
        }
        let (mut held, mut removed, mut junk) = (HashSet::new(), Vec::new(), Junk::default());
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
            for id in self.were_removed(unknown.iter().copied().collect()).await? {
                match id {
                    // Collected while the machine was away.
                    (id, true) => removed.push(id),
                    // What the host never heard of it may have lost. Of that only a sum is remembered: a machine may
                    // list whatever it likes.
                    (id, false) => junk.add(&id),
                }
            }
            held.extend(frames.into_iter().filter(|id| !unknown.contains(id)));
        }
        for part in removed.chunks(FRAMES_AT_ONCE) {
            set_aside(&self.host, &self.copies, part.to_vec()).await?;
        }
        let (tracker, number) = (self.host.clone(), self.number);
        self.host.work().run(move || tracker.holders.set_junk(number, &junk)).await?;
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
        let (held, lost_len, removed) = (held.len(), lost.len(), removed.len());
        tracing::info!(
            machine = %self.number, held, lost = lost_len, removed, unknown = junk.frames, "compared what a machine holds"
        );
        if !planted("comparison-keeps-lost") {
            retract(&self.host, self.number, lost).await?;
        }
        Ok(())
    }
}
