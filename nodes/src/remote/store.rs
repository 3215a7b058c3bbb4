//! A vault at the host as one more store of the engine.

use super::line::Cap;
use super::session::RemoteSession;
use super::wire::{get_link, get_place, get_texts, put_link, put_place};
use crate::tracker::names::NodeKey;
use crate::transport::ids;
use crate::transport::limits::{IDS_MAX, PLACES_MAX};
use crate::transport::problem::{Problem, Why, problem};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use twinkeep_engine::id::{ChunkId, SessionId, VaultId};
use twinkeep_engine::index::{FrameNumber, PackNumber};
use twinkeep_engine::limits::RECORD_LEN_MAX;
use twinkeep_engine::store::{BadFrame, ChainLink, Fault, Place, Result, Session, Store, StoreError, StoredRecord};
use twinkeep_engine::vault::HeadBytes;
use twinkeep_schema::office_capnp::{keeper, vault};

/// How often a record may come second to somebody else's before we give up.
const LINK_TRIES: usize = 1000;

/// See the module.
pub struct RemoteStore {
    vault: Arc<Cap<vault::Client>>,
    id: VaultId,
    keeper: Option<Arc<Cap<keeper::Client>>>,
    spread: AtomicBool,
    host: Option<NodeKey>,
}

/// How safe what a vault holds is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// 0, 1 or 2: P0, P1, P2.
    pub level: u8,
    /// Frames that have no second place yet.
    pub owed: u64,
    /// Machines that hold some of it, besides the host.
    pub holders: Vec<String>,
}

impl RemoteStore {
    /// Takes a vault at the host for a store. `keeper` is the store of copies of the machine we run on, if it is to
    /// keep what is written here; `host` is the machine at the other end, if anything is to be written. Gives also what
    /// opens the vault.
    pub fn open(
        vault: Cap<vault::Client>,
        host: Option<NodeKey>,
        expected: VaultId,
        keeper: Option<Cap<keeper::Client>>,
    ) -> std::result::Result<(Self, HeadBytes), Problem> {
        let (config, keyring, id) = vault.call(|vault| async move {
            let answer = vault.head_request().send().promise.await?;
            let answer = answer.get()?;
            Ok((answer.get_config()?.to_vec(), answer.get_keyring()?.to_vec(), answer.get_id()?.to_vec()))
        })?;
        if ids::one::<VaultId>(&id)? != expected {
            return Err(problem(Why::Other, "the host gave another vault than was asked for"));
        }
        let (vault, keeper) = (Arc::new(vault), keeper.map(Arc::new));
        let store = Self { vault, id: expected, keeper, spread: AtomicBool::new(false), host };
        Ok((store, HeadBytes { config, keyring }))
    }

    /// Of what sessions write that begin from now on, no copy stays on this machine.
    pub fn spread(&self) {
        self.spread.store(true, Ordering::Relaxed);
    }

    /// How safe everything is up to a frame number; up to the last one where none is given.
    pub fn copies(&self, up_to: Option<FrameNumber>) -> std::result::Result<Copies, Problem> {
        self.vault.call(move |vault| async move {
            let mut request = vault.copies_request();
            request.get().set_frame(up_to.map_or(u64::MAX, |number| number.0));
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            let holders = get_texts(answer.get_holders()?)?;
            Ok(Copies { level: answer.get_level(), owed: answer.get_owed(), holders })
        })
    }

    /// The term in which this host takes first what is written.
    ///
    /// # Errors
    /// [`Why::Unreachable`]: another machine takes it now.
    fn allocate(&self) -> std::result::Result<u64, Problem> {
        let (holder, addresses, term) = self.vault.call(|vault| async move {
            let answer = vault.allocate_request().send().promise.await?;
            let answer = answer.get()?;
            Ok((answer.get_holder()?.to_vec(), get_texts(answer.get_addresses()?)?, answer.get_term()))
        })?;
        match NodeKey::from_slice(&holder) {
            Some(holder) if self.host == Some(holder) => Ok(term),
            Some(_) => {
                let text = format!("another machine takes what is written now, at {}", addresses.join(", "));
                Err(problem(Why::Unreachable, text))
            }
            None => Err(odd("who takes what is written")),
        }
    }

    fn ask(&self, ids: &[ChunkId], what: Ask) -> Result<Vec<bool>> {
        let mut all = Vec::with_capacity(ids.len());
        for part in ids.chunks(IDS_MAX) {
            let bytes = ids::join(part);
            let answers = self.vault.call(move |vault| async move {
                match what {
                    Ask::Known => {
                        let mut request = vault.known_request();
                        request.get().set_ids(&bytes);
                        Ok(request.send().promise.await?.get()?.get_answers()?.to_vec())
                    }
                    Ask::Whole => {
                        let mut request = vault.whole_request();
                        request.get().set_ids(&bytes);
                        Ok(request.send().promise.await?.get()?.get_answers()?.to_vec())
                    }
                }
            })?;
            all.extend(of_count(answers, part.len())?.into_iter().map(|answer| answer == 1));
        }
        Ok(all)
    }
}

#[derive(Clone, Copy)]
enum Ask {
    Known,
    Whole,
}

pub(super) fn of_count(answers: Vec<u8>, count: usize) -> Result<Vec<u8>> {
    match answers.len() == count {
        true => Ok(answers),
        false => Err(odd(format!("{} answers came for {count} ids", answers.len())).into()),
    }
}

pub(super) fn odd(what: impl std::fmt::Display) -> Problem {
    problem(Why::Other, format!("the host's answer makes no sense: {what}"))
}

/// Asks where the next record goes, makes it, and has it put there; again when another came first.
pub(super) fn chain(
    vault: &Cap<vault::Client>,
    make: &mut dyn FnMut(ChainLink) -> Option<Vec<u8>>,
    put: &dyn Fn(ChainLink, Vec<u8>) -> std::result::Result<bool, Problem>,
) -> Result<Option<ChainLink>> {
    for _ in 0..LINK_TRIES {
        let link = vault.call(|vault| async move {
            let answer = vault.link_request().send().promise.await?;
            Ok(get_link(answer.get()?.get_link()?)?)
        })?;
        let Some(record) = make(link) else { return Ok(None) };
        if put(link, record)? {
            return Ok(Some(link));
        }
    }
    Err(StoreError::Busy { what: "chain of records", owner: "other writers".to_owned() })
}

impl Store for RemoteStore {
    fn vault(&self) -> VaultId {
        self.id
    }

    fn known(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.ask(ids, Ask::Known)
    }

    fn whole(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.ask(ids, Ask::Whole)
    }

    fn places(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>> {
        let mut all = Vec::with_capacity(ids.len());
        for part in ids.chunks(PLACES_MAX) {
            let bytes = ids::join(part);
            let places = self.vault.call(move |vault| async move {
                let mut request = vault.places_request();
                request.get().set_ids(&bytes);
                let answer = request.send().promise.await?;
                let mut places = Vec::new();
                for place in answer.get()?.get_places()? {
                    places.push(get_place(place)?);
                }
                Ok(places)
            })?;
            if places.len() != part.len() {
                return Err(odd(format!("{} places for {} ids", places.len(), part.len())).into());
            }
            all.extend(places);
        }
        Ok(all)
    }

    fn read_frame(&self, place: &Place, bytes: &mut Vec<u8>) -> Result<()> {
        let wanted = *place;
        let read = self.vault.call(move |vault| async move {
            let mut request = vault.read_frame_request();
            put_place(&wanted, request.get().init_place());
            Ok(request.send().promise.await?.get()?.get_bytes()?.to_vec())
        });
        match read {
            Err(error) if error.why == Why::Gone => Err(StoreError::Gone { frame: place.frame }),
            read => {
                *bytes = read?;
                Ok(())
            }
        }
    }

    fn frames(&self, from: FrameNumber, count: usize) -> Result<Vec<Place>> {
        let count = count.min(PLACES_MAX) as u32;
        Ok(self.vault.call(move |vault| async move {
            let mut request = vault.frames_request();
            request.get().set_from(from.0);
            request.get().set_count(count);
            let answer = request.send().promise.await?;
            let mut places = Vec::new();
            for place in answer.get()?.get_places()? {
                places.extend(get_place(place)?);
            }
            Ok(places)
        })?)
    }

    fn pack_name(&self, pack: PackNumber) -> Result<String> {
        Ok(self.vault.call(move |vault| async move {
            let mut request = vault.pack_name_request();
            request.get().set_pack(pack.0);
            Ok(request.send().promise.await?.get()?.get_name()?.to_string()?)
        })?)
    }

    fn begin(&self) -> Result<Box<dyn Session>> {
        let spread = self.spread.load(Ordering::Relaxed);
        let term = self.allocate()?;
        let (session, id) = self.vault.cap(move |vault| async move {
            let mut request = vault.begin_request();
            request.get().set_spread(spread);
            request.get().set_term(term);
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            Ok((answer.get_session()?, answer.get_id()?.to_vec()))
        })?;
        let id = SessionId(ids::fixed(&id, "the id of a session")?);
        let keeper = self.keeper.as_deref().filter(|_| !spread);
        Ok(Box::new(RemoteSession::begin(id, self.vault.clone(), session, keeper)?))
    }

    fn records(&self) -> Result<Vec<StoredRecord>> {
        let mut all: Vec<StoredRecord> = Vec::new();
        loop {
            let from = all.last().map_or(0, |record| record.count.saturating_add(1));
            let (records, more) = self.vault.call(move |vault| async move {
                let mut request = vault.records_request();
                request.get().set_from(from);
                let answer = request.send().promise.await?;
                let answer = answer.get()?;
                let mut records = Vec::new();
                for record in answer.get_records()? {
                    let problem = record.get_problem()?.to_string()?;
                    let bytes = record.get_bytes()?;
                    if bytes.len() > RECORD_LEN_MAX || record.get_count() < from {
                        return Err(odd("a record of that length or count cannot be").into());
                    }
                    records.push(StoredRecord {
                        count: record.get_count(),
                        name: record.get_name()?.to_string()?,
                        bytes: if problem.is_empty() { Ok(bytes.to_vec()) } else { Err(problem) },
                    });
                }
                Ok((records, answer.get_more()))
            })?;
            let is_end = records.is_empty() || !more;
            all.extend(records);
            if is_end {
                return Ok(all);
            }
        }
    }

    fn append(&self, make: &mut dyn FnMut(ChainLink) -> Option<Vec<u8>>) -> Result<Option<ChainLink>> {
        chain(&self.vault, make, &|link, record| {
            self.vault.call(move |vault| async move {
                let mut request = vault.append_request();
                put_link(&link, link.received.unwrap_or_default(), request.get().init_link());
                request.get().set_record(&record);
                Ok(request.send().promise.await?.get()?.get_taken())
            })
        })
    }

    fn ripe(&self) -> Result<Option<u64>> {
        let ripe = self.vault.call(|vault| async move {
            let answer = vault.link_request().send().promise.await?;
            Ok(answer.get()?.get_link()?.get_ripe())
        })?;
        Ok(Some(ripe))
    }

    fn pin(&self, root: ChunkId) -> Result<Option<Box<dyn Send + Sync>>> {
        let (pin, ()) = self.vault.cap(move |vault| async move {
            let mut request = vault.pin_request();
            request.get().set_root(&root.0);
            let answer = request.send().promise.await?;
            Ok((answer.get()?.get_pin()?, ()))
        })?;
        Ok(Some(Box::new(pin)))
    }

    fn expel(&self, frames: &[BadFrame]) -> Result<Vec<ChunkId>> {
        // The host does not take our word for it: it reads them again, and heals them if it can.
        let mut all = Vec::new();
        for part in frames.chunks(PLACES_MAX) {
            let part = part.to_vec();
            let ids = self.vault.call(move |vault| async move {
                let mut request = vault.expel_request();
                let mut list = request.get().init_frames(part.len() as u32);
                for (at, bad) in (0..).zip(&part) {
                    let mut place = list.reborrow().get(at);
                    place.set_number(bad.number.0);
                    place.set_pack(bad.pack.0);
                    place.set_offset(bad.offset);
                }
                Ok(request.send().promise.await?.get()?.get_ids()?.to_vec())
            })?;
            all.extend(ids::split::<ChunkId>(&ids)?);
        }
        Ok(all)
    }

    fn unwhole(&self) -> Result<Vec<ChunkId>> {
        let ids = self.vault.call(|vault| async move {
            Ok(vault.unwhole_request().send().promise.await?.get()?.get_ids()?.to_vec())
        })?;
        Ok(ids::split(&ids)?)
    }

    fn audit(&self) -> Result<Vec<Fault>> {
        // The host looks after its own packs.
        Ok(Vec::new())
    }
}
