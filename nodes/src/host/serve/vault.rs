//! A vault at the host, in the hands of one of its members.

use super::admin::AdminServer;
use super::user::{Caller, is_on_host};
use super::write::WriteServer;
use crate::host::leave::UserCall;
use crate::host::slots::Slot;
use crate::host::{Host, HostVault, is_lost};
use crate::remote::wire::{get_link, get_place, put_link, put_place, put_texts};
use crate::tracker::MachineNumber;
use crate::tracker::limits::LOCK_DAYS;
use crate::transport::ids::{join, one, split};
use crate::transport::limits::{PLACES_MAX, RECORDS_LEN_MAX};
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::{Held, Peer};
use capnp::Error;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use twinkeep_engine::history::{self, History, RefState};
use twinkeep_engine::id::{ChunkId, VaultId};
use twinkeep_engine::index::{FrameNumber, PackNumber};
use twinkeep_engine::record::{ChangeKind, ChangeRecord, Record, RecordKind, RefRecord};
use twinkeep_engine::store::{BadFrame, ChainLink, Store, StoreError, StoredRecord};
use twinkeep_schema::office_capnp::{pin, vault};

/// A record's time may be so far from the host's: it was made from a link given a moment ago.
const RECEIVED_SLACK_NANOS: i64 = 600_000_000_000;

/// Bytes of a place in an answer.
const PLACE_LEN: usize = 72;

/// Frames whose holders are named when somebody asks how safe a vault is.
const HOLDERS_OF: u64 = 256;

/// By what right somebody has a vault in hand.
pub(super) enum Right {
    /// As one of its members.
    Member(Caller),
    /// With the company's recovery kit: to read, and no more.
    Kit(Rc<AdminServer>),
}

/// See the module.
pub(super) struct VaultServer {
    host: Arc<Host>,
    peer: Arc<Peer>,
    right: Right,
    id: VaultId,
    vault: Arc<HostVault>,
    _held: Held,
}

struct PinServer {
    _pin: Option<Box<dyn Send + Sync>>,
    _held: Held,
}

impl pin::Server for PinServer {}

impl VaultServer {
    pub fn new(right: Right, id: VaultId, vault: Arc<HostVault>, held: Held) -> Self {
        let (host, peer) = match &right {
            Right::Member(caller) => (caller.host.clone(), caller.peer.clone()),
            Right::Kit(admin) => (admin.host.clone(), admin.peer.clone()),
        };
        Self { host, peer, right, id, vault, _held: held }
    }

    async fn run<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce(&HostVault) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Problem>
    where
        Problem: From<E>,
    {
        let vault = self.vault.clone();
        self.host.work().run(move || work(&vault)).await
    }

    /// Takes a place among the writers of the machine that calls; on the host itself it is that of no terminal.
    fn writer_slot(&self, caller: &Caller) -> Result<Slot, Problem> {
        let number = self.host.office.read(|registry| registry.node(&self.peer.key).map(|node| node.number));
        self.host.slots.take(MachineNumber(number.unwrap_or_default()), caller.account)
    }

    /// Gives something that stays in memory for as long as the other side holds it.
    fn hold(&self) -> Result<Held, Problem> {
        match &self.right {
            Right::Member(caller) => caller.hold(),
            Right::Kit(_) => self.peer.hold(),
        }
    }

    /// Begins a call that only reads.
    fn begin_call(&self) -> Result<Option<UserCall>, Problem> {
        match &self.right {
            Right::Member(caller) => {
                caller.require_member(&self.id)?;
                caller.call().map(Some)
            }
            Right::Kit(admin) => admin.begin(),
        }
    }

    /// Begins a call that adds something.
    fn begin_writing(&self) -> Result<(Caller, Option<UserCall>), Problem> {
        let call = self.begin_call()?;
        match &self.right {
            Right::Member(caller) => Ok((caller.clone(), call)),
            Right::Kit(_) => Err(problem(Why::NotAllowed, "the recovery kit opens a vault for reading alone")),
        }
    }
}

/// A byte for each answer.
fn bytes(answers: Vec<bool>) -> Vec<u8> {
    answers.into_iter().map(u8::from).collect()
}

/// Adds a record behind a link, unless another came first.
///
/// # Errors
/// It is not one of this vault, kind and place, or not of this time.
pub(super) fn append(
    host: &Host,
    vault: &HostVault,
    link: ChainLink,
    kind: RecordKind,
    bytes: &[u8],
) -> Result<bool, Problem> {
    let refuse = |text: String| problem(Why::Usage, format!("the record is refused: {text}"));
    let now = host.env().clock.now();
    let record = Record::parse(bytes).map_err(|error| refuse(error.to_string()))?.record;
    record.expect(kind, vault.store.vault()).map_err(|error| refuse(error.to_string()))?;
    // One that nobody can read would stop every gc of the vault for good.
    let content = match kind {
        RecordKind::Change => ChangeRecord::decode(&record.payload).map(drop),
        RecordKind::Ref => RefRecord::decode(&record.payload).map(drop),
        RecordKind::Config | RecordKind::Keyring => Ok(()),
    };
    content.map_err(|error| refuse(error.to_string()))?;
    let received = link.received.unwrap_or_default();
    if (record.count, record.previous, record.received) != (link.count, link.previous, received) {
        return Err(refuse("it was not made for this place in the chain".to_owned()));
    }
    if now.0.abs_diff(received.0) > RECEIVED_SLACK_NANOS.unsigned_abs() {
        return Err(refuse("it was made too long ago, or the host's clock was set meanwhile: try again".to_owned()));
    }
    if kind == RecordKind::Change && !may_change(host, vault, &record, bytes).map_err(refuse)? {
        return Ok(false);
    }
    let taken = vault.store.append(&mut |place| {
        let is_here = (place.count, place.previous) == (link.count, link.previous);
        is_here.then(|| bytes.to_vec())
    })?;
    if taken.is_some() {
        host.tips.reached(vault.store.vault(), &link, bytes);
    }
    Ok(taken.is_some())
}

/// Whether a member may say this of the vault's history. The host has no key to see who says it, so what it lets in must
/// do no harm whoever it was. False where others were faster, and its place is taken.
fn may_change(host: &Host, vault: &HostVault, record: &Record, bytes: &[u8]) -> Result<bool, String> {
    let change = ChangeRecord::decode(&record.payload).map_err(|error| error.to_string())?;
    match change.kind {
        ChangeKind::Forget { undelete_days } if undelete_days < LOCK_DAYS => {
            return Err(format!("what is forgotten at an office can be brought back for {LOCK_DAYS} days"));
        }
        // Of the host's own clock an administrator says whether it is right; only then a member may say so of the
        // vault's records, which are stamped by it.
        ChangeKind::Forget { .. } | ChangeKind::Purge | ChangeKind::ClockIsRight => {
            host.hours.require_sure(host.env()).map_err(|problem| problem.text)?;
        }
        _ => {}
    }
    // The same rules as for whoever reads the records later: what they would not believe is not let in.
    let days_min = vault.retention_days_min().map_err(|error| error.to_string())?;
    let mut records = vault.store.records().map_err(|error| error.to_string())?;
    if records.last().is_some_and(|last| last.count >= record.count) {
        return Ok(false);
    }
    let replay = |records: &[StoredRecord]| {
        let history = History::replay(records, vault.store.vault(), days_min, &mut history::unkeyed);
        let is_blind = twinkeep_engine::zoo::planted("window-of-the-clock");
        let ripe = if is_blind { u64::MAX } else { host.hours.ripe(host.env(), vault.store.vault()) };
        History { ripe: Some(ripe), ..history }
    };
    let before = replay(&records);
    if change.kind == ChangeKind::Purge {
        let named = change.records.iter().filter_map(|count| before.refs.get(count));
        // Those purged before stay so, and saying it again does nothing.
        let mut young = named.filter(|entry| entry.state != RefState::Purged && !before.is_ripe(entry));
        if let Some(entry) = young.next() {
            let count = entry.count;
            return Err(format!("the host has not run for {LOCK_DAYS} days since record {count} was forgotten"));
        }
    }
    records.push(StoredRecord { count: record.count, name: "the new record".to_owned(), bytes: Ok(bytes.to_vec()) });
    match replay(&records).faults.len() > before.faults.len() {
        true => Err("it says what no rule allows: minimum retention, a window that is not over, or a pin".to_owned()),
        false => Ok(true),
    }
}

#[cfg(test)]
mod tests;

impl vault::Server for VaultServer {
    async fn head(self: Rc<Self>, _params: vault::HeadParams, mut results: vault::HeadResults) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let mut results = results.get();
        results.set_config(&self.vault.head.config);
        results.set_keyring(&self.vault.head.keyring);
        results.set_id(&self.id.0);
        Ok(())
    }

    async fn known(self: Rc<Self>, params: vault::KnownParams, mut results: vault::KnownResults) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let ids = split::<ChunkId>(params.get()?.get_ids()?)?;
        let answers = self.run(move |vault| vault.store.known(&ids)).await?;
        results.get().set_answers(&bytes(answers));
        Ok(())
    }

    async fn whole(self: Rc<Self>, params: vault::WholeParams, mut results: vault::WholeResults) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let ids = split::<ChunkId>(params.get()?.get_ids()?)?;
        let answers = self.run(move |vault| vault.store.whole(&ids)).await?;
        results.get().set_answers(&bytes(answers));
        Ok(())
    }

    async fn places(
        self: Rc<Self>,
        params: vault::PlacesParams,
        mut results: vault::PlacesResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let ids = split::<ChunkId>(params.get()?.get_ids()?)?;
        let room = self.peer.room(ids.len() * PLACE_LEN).await;
        let places = self.run(move |vault| vault.store.places(&ids)).await?;
        let mut list = results.get().init_places(places.len() as u32);
        if let Some(room) = room {
            room.used(places.len() * PLACE_LEN);
        }
        for (at, place) in (0..).zip(&places) {
            if let Some(place) = place {
                put_place(place, list.reborrow().get(at));
            }
        }
        Ok(())
    }

    async fn read_frame(
        self: Rc<Self>,
        params: vault::ReadFrameParams,
        mut results: vault::ReadFrameResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let place = get_place(params.get()?.get_place()?)?;
        let place = place.ok_or_else(|| problem(Why::Usage, "that is no place of a frame"))?;
        let room = self.peer.room(place.len as usize).await;
        let bytes = self
            .run(move |vault| {
                // Where it is, and how long, is the index's word and not the caller's.
                let found = vault.store.frames(place.number, 1)?.into_iter().find(|found| found.number == place.number);
                let Some(found) = found.filter(|found| (found.frame, found.len) == (place.frame, place.len)) else {
                    return Err(StoreError::Gone { frame: place.frame });
                };
                let mut bytes = Vec::new();
                match vault.store.read_frame(&found, &mut bytes) {
                    // As bytes that are wrong: the reader has it looked at, and goes on.
                    Err(error) if is_lost(&error) => Ok(Vec::new()),
                    read => read.map(|()| bytes),
                }
            })
            .await?;
        results.get().set_bytes(&bytes);
        if let Some(room) = room {
            room.used(bytes.len());
        }
        Ok(())
    }

    async fn frames(
        self: Rc<Self>,
        params: vault::FramesParams,
        mut results: vault::FramesResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let params = params.get()?;
        let (from, count) = (FrameNumber(params.get_from()), (params.get_count() as usize).min(PLACES_MAX));
        let room = self.peer.room(count * PLACE_LEN).await;
        let places = self.run(move |vault| vault.store.frames(from, count)).await?;
        let mut list = results.get().init_places(places.len() as u32);
        if let Some(room) = room {
            room.used(places.len() * PLACE_LEN);
        }
        (0..).zip(&places).for_each(|(at, place)| put_place(place, list.reborrow().get(at)));
        Ok(())
    }

    async fn pack_name(
        self: Rc<Self>,
        params: vault::PackNameParams,
        mut results: vault::PackNameResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let pack = PackNumber(params.get()?.get_pack());
        let name = self.run(move |vault| vault.store.pack_name(pack)).await?;
        results.get().set_name(&name[..]);
        Ok(())
    }

    async fn begin(self: Rc<Self>, params: vault::BeginParams, mut results: vault::BeginResults) -> Result<(), Error> {
        let (caller, _call) = self.begin_writing()?;
        let (spread, term) = (params.get()?.get_spread(), params.get()?.get_term());
        self.host.has_room()?;
        let held = self.hold()?;
        let slot = self.writer_slot(&caller)?;
        let (host, vault) = (self.host.clone(), self.vault.clone());
        let begin = move || {
            host.require_term(term)?;
            Ok::<_, Problem>(vault.store.begin()?)
        };
        let session = self.host.work().run(begin).await?;
        let id = session.id();
        let server = WriteServer::new(caller, self.id, self.vault.clone(), session, spread, (held, slot));
        let mut results = results.get();
        results.set_id(&id.0);
        results.set_session(capnp_rpc::new_client(server));
        Ok(())
    }

    async fn allocate(
        self: Rc<Self>,
        _params: vault::AllocateParams,
        mut results: vault::AllocateResults,
    ) -> Result<(), Error> {
        let _call = self.begin_writing()?;
        let host = self.host.clone();
        let first = self.host.work().run(move || Ok::<_, Problem>(host.allocate())).await?;
        let mut results = results.get();
        results.set_holder(&first.holder.0);
        results.set_term(first.term);
        put_texts(&first.addresses, results.init_addresses(first.addresses.len() as u32));
        Ok(())
    }

    async fn records(
        self: Rc<Self>,
        params: vault::RecordsParams,
        mut results: vault::RecordsResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let from = params.get()?.get_from();
        let room = self.peer.room(RECORDS_LEN_MAX).await;
        let (records, more) = self.run(move |vault| vault.store.records_from(from, RECORDS_LEN_MAX)).await?;
        let mut results = results.get();
        results.set_more(more);
        let mut list = results.init_records(records.len() as u32);
        let mut sent = 0;
        for (at, record) in (0..).zip(&records) {
            let mut to = list.reborrow().get(at);
            to.set_count(record.count);
            to.set_name(&record.name[..]);
            match &record.bytes {
                Ok(bytes) => {
                    to.set_bytes(bytes);
                    sent += bytes.len();
                }
                Err(error) => to.set_problem(&error[..]),
            }
        }
        if let Some(room) = room {
            room.used(sent);
        }
        Ok(())
    }

    async fn link(self: Rc<Self>, _params: vault::LinkParams, mut results: vault::LinkResults) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let link = self
            .run(|vault| {
                let mut found = None;
                vault.store.append(&mut |link| {
                    found = Some(link);
                    None
                })?;
                Ok::<_, StoreError>(found)
            })
            .await?;
        let link = link.ok_or_else(|| problem(Why::Other, "the chain of records has no end"))?;
        let env = self.host.env();
        let mut to = results.get().init_link();
        put_link(&link, env.clock.now(), to.reborrow());
        to.set_ripe(self.host.hours.ripe(env, self.id));
        Ok(())
    }

    async fn append(
        self: Rc<Self>,
        params: vault::AppendParams,
        mut results: vault::AppendResults,
    ) -> Result<(), Error> {
        let _call = self.begin_writing()?;
        let params = params.get()?;
        let (link, record) = (get_link(params.get_link()?)?, params.get_record()?.to_vec());
        let host = self.host.clone();
        let taken = self.run(move |vault| append(&host, vault, link, RecordKind::Change, &record)).await?;
        results.get().set_taken(taken);
        Ok(())
    }

    async fn unwhole(
        self: Rc<Self>,
        _params: vault::UnwholeParams,
        mut results: vault::UnwholeResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let mut ids = self.run(|vault| vault.store.unwhole()).await?;
        ids.truncate(crate::transport::limits::IDS_MAX);
        results.get().set_ids(&join(&ids));
        Ok(())
    }

    async fn pin(self: Rc<Self>, params: vault::PinParams, mut results: vault::PinResults) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let root: ChunkId = one(params.get()?.get_root()?)?;
        let held = self.hold()?;
        let pin = self.run(move |vault| Store::pin(&vault.store, root)).await?;
        results.get().set_pin(capnp_rpc::new_client(PinServer { _pin: pin, _held: held }));
        Ok(())
    }

    async fn expel(self: Rc<Self>, params: vault::ExpelParams, mut results: vault::ExpelResults) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let frames = params.get()?.get_frames()?;
        let numbers: Vec<FrameNumber> =
            frames.iter().take(PLACES_MAX).map(|place| FrameNumber(place.get_number())).collect();
        let ids = self
            .run(move |vault| {
                let mut bad = Vec::new();
                for number in numbers {
                    let Some(row) = vault.store.frame_if_any(number)? else { continue };
                    let mut bytes = Vec::new();
                    let place = vault.store.frames(number, 1)?.into_iter().find(|place| place.number == number);
                    let Some(place) = place else { continue };
                    match vault.store.read_frame(&place, &mut bytes) {
                        Ok(()) if twinkeep_engine::frame::frame_id(&bytes) == row.id => {}
                        Ok(()) => bad.push(BadFrame::from(&place)),
                        Err(StoreError::Gone { .. }) => {}
                        Err(error) if is_lost(&error) => bad.push(BadFrame::from(&place)),
                        // Without means, such as descriptors, nothing can be said of it.
                        Err(error) => return Err(error),
                    }
                }
                vault.expel(&bad)
            })
            .await?;
        self.host.healer.wake();
        results.get().set_ids(&join(&ids));
        Ok(())
    }

    async fn copies(
        self: Rc<Self>,
        params: vault::CopiesParams,
        mut results: vault::CopiesResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let up_to = params.get()?.get_frame();
        let (host, id) = (self.host.clone(), self.id);
        let is_on_host = is_on_host(&host, &self.peer.key);
        let (owed, holders) = self
            .run(move |vault| {
                host.feed(id, vault)?;
                let newest = host.holders.watermark(id)?.min(up_to.saturating_add(1));
                let from = FrameNumber(newest.saturating_sub(HOLDERS_OF));
                let ids: Vec<_> = vault
                    .store
                    .frames(from, HOLDERS_OF as usize)?
                    .iter()
                    .filter(|place| place.number.0 < newest)
                    .map(|place| place.frame)
                    .collect();
                let machines: BTreeSet<MachineNumber> = host.holders.holders_of(&ids)?.into_iter().flatten().collect();
                let registry = host.office.registry();
                let names: Vec<String> = registry
                    .nodes()
                    .filter(|node| machines.contains(&MachineNumber(node.number)))
                    .map(|node| node.name.clone())
                    .collect();
                // What is bad here is not here: the other copy is then the only one.
                let is_bad_here = vault.lost.load(Ordering::Relaxed) > 0 || !vault.store.unwhole()?.is_empty();
                let owed = match host.holders.is_owed_below(id, newest.saturating_sub(1))? || is_bad_here {
                    _ if twinkeep_engine::zoo::planted("level-ignores-owed") => 0,
                    false => 0,
                    true => {
                        let counts = host.holders.owed_counts()?;
                        counts.vaults.iter().find(|count| count.vault == id).map_or(1, |count| count.frames.max(1))
                    }
                };
                Ok::<_, Problem>((owed, names))
            })
            .await?;
        let mut results = results.get();
        results.set_owed(owed);
        // What the host itself wrote is on its source alone until somebody else holds it.
        results.set_level(match owed {
            0 => 2,
            _ => u8::from(!is_on_host),
        });
        let mut list = results.init_holders(holders.len() as u32);
        (0..).zip(&holders).for_each(|(at, name)| list.set(at, &name[..]));
        Ok(())
    }
}
