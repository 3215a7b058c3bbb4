//! A writer's run on a vault at the host.

use super::user::{Caller, used};
use super::vault::append;
use crate::host::leave::UserCall;
use crate::host::slots::Slot;
use crate::host::{Host, HostVault, WriterRun};
use crate::remote::wire::get_link;
use crate::tracker::MachineNumber;
use crate::tracker::names::AccountId;
use crate::tracker::registry::Registry;
use crate::transport::ids::{join, one, split};
use crate::transport::limits::IDS_MAX;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::serve::Held;
use crate::transport::upload::{FrameTarget, UploadServer, no_frame};
use capnp::Error;
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use twinkeep_engine::frame::{FrameHeader, SealedFrame, frame_id};
use twinkeep_engine::id::{ChunkId, SessionId, VaultId};
use twinkeep_engine::record::{Record, RecordKind, RefRecord};
use twinkeep_engine::store::{Claim, Session, StoreError};
use twinkeep_engine::zoo::planted;
use twinkeep_schema::office_capnp::write_session;

/// Roots that one session may settle and not publish.
const SETTLED_MAX: usize = 1024;

/// See the module.
pub(super) struct WriteServer {
    caller: Caller,
    id: VaultId,
    vault: Arc<HostVault>,
    session: Arc<Frames>,
    settled: RefCell<HashSet<ChunkId>>,
    _held: (Held, Slot),
}

/// What is behind an upload: verified frames go into the session.
struct Frames {
    host: Arc<Host>,
    vault: Arc<HostVault>,
    id: VaultId,
    session: Box<dyn Session>,
    /// Whose room is taken.
    owner: Option<AccountId>,
}

impl Frames {
    fn has_room(&self, bytes: u64) -> Result<(), Problem> {
        let Some(owner) = self.owner else { return Ok(()) };
        let told = |registry: &Registry| registry.account(&owner).map(|account| (account.quota, account.name.clone()));
        let Some((quota, name)) = self.host.office.read(told) else { return Ok(()) };
        match quota > 0 && used(&self.host, &owner).saturating_add(bytes) > quota {
            // A member may read this who does not own the vault.
            true => Err(problem(Why::Quota, format!("the {} MB of {name} are used up", quota >> 20))),
            false => Ok(()),
        }
    }
}

impl FrameTarget for Frames {
    fn take(&self, bytes: Vec<u8>) -> Result<(), Problem> {
        let header = FrameHeader::parse(&bytes).map_err(no_frame)?;
        if header.frame_len as usize != bytes.len() {
            return Err(no_frame(format!("it says {} bytes and has {}", header.frame_len, bytes.len())));
        }
        if header.vault != self.id || header.session != self.session.id() {
            return Err(no_frame("it belongs to another vault or session"));
        }
        self.host.has_room()?;
        let len = bytes.len() as u64;
        self.has_room(len)?;
        let frame = SealedFrame { id: frame_id(&bytes), header, bytes };
        self.session.put(frame)?;
        Host::count_stored(&self.vault, len);
        Ok(())
    }
}

impl WriteServer {
    /// `spread`: no copy is to stay on the machine that calls.
    pub fn new(
        caller: Caller,
        id: VaultId,
        vault: Arc<HostVault>,
        session: Box<dyn Session>,
        spread: bool,
        held: (Held, Slot),
    ) -> Self {
        let host = caller.host.clone();
        let owner = host.office.read(|registry| registry.vault(&id).map(|vault| vault.owner));
        if let Some(number) = host.office.read(|registry| registry.node(&caller.peer.key).map(|node| node.number)) {
            host.writes(session.id(), WriterRun { machine: MachineNumber(number), spread });
        }
        let frames = Frames { host, vault: vault.clone(), id, session, owner };
        Self { caller, id, vault, session: Arc::new(frames), settled: RefCell::default(), _held: held }
    }

    fn begin_call(&self) -> Result<UserCall, Problem> {
        self.caller.require_member(&self.id)?;
        self.caller.call()
    }

    fn session_id(&self) -> SessionId {
        self.session.session.id()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Session) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let frames = self.session.clone();
        self.caller.host.work().run(move || work(&*frames.session)).await
    }

    /// What has become durable is owed a second place.
    async fn feed(&self) -> Result<(), Problem> {
        let (host, id, vault) = (self.caller.host.clone(), self.id, self.vault.clone());
        self.caller.host.work().run(move || host.feed(id, &vault)).await
    }
}

impl Drop for WriteServer {
    fn drop(&mut self) {
        self.caller.host.wrote(&self.session_id());
    }
}

impl write_session::Server for WriteServer {
    async fn claim(
        self: Rc<Self>,
        params: write_session::ClaimParams,
        mut results: write_session::ClaimResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let ids = split::<ChunkId>(params.get()?.get_ids()?)?;
        let claims = self.run(move |session| session.claim(&ids)).await?;
        let byte = |claim: &Claim| match claim {
            Claim::Known => 0,
            Claim::InFlight => 1,
            Claim::Mine => 2,
        };
        results.get().set_claims(&claims.iter().map(byte).collect::<Vec<u8>>());
        Ok(())
    }

    async fn upload(
        self: Rc<Self>,
        _params: write_session::UploadParams,
        mut results: write_session::UploadResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let (caller, id, held) = (self.caller.clone(), self.id, self.caller.hold()?);
        let upload = UploadServer::new(self.session.clone(), self.caller.host.work(), move || {
            let _held = &held;
            caller.require_member(&id)?;
            Ok(Box::new(caller.call()?) as Box<dyn std::any::Any>)
        });
        results.get().set_upload(capnp_rpc::new_client(upload));
        Ok(())
    }

    async fn checkpoint(
        self: Rc<Self>,
        _params: write_session::CheckpointParams,
        _results: write_session::CheckpointResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        self.run(|session| session.checkpoint()).await?;
        self.feed().await?;
        Ok(())
    }

    async fn settle(
        self: Rc<Self>,
        params: write_session::SettleParams,
        mut results: write_session::SettleResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let root: ChunkId = one(params.get()?.get_root()?)?;
        let settle = |session: &dyn Session, root| match planted("settle-answered-early") {
            true => Err(StoreError::Missing(Vec::new())),
            false => session.settle(root),
        };
        let missing = self
            .run(move |session| match settle(session, root) {
                Ok(_) => Ok(Vec::new()),
                Err(StoreError::Missing(mut ids)) => {
                    ids.truncate(IDS_MAX);
                    Ok(ids)
                }
                Err(error) => Err(error),
            })
            .await?;
        if missing.is_empty() {
            let mut settled = self.settled.borrow_mut();
            if settled.len() >= SETTLED_MAX {
                return Err(problem(Why::Usage, "too many roots were settled and not published").into());
            }
            settled.insert(root);
        }
        self.feed().await?;
        results.get().set_missing(&join(&missing));
        Ok(())
    }

    async fn publish(
        self: Rc<Self>,
        params: write_session::PublishParams,
        mut results: write_session::PublishResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let params = params.get()?;
        let root: ChunkId = one(params.get_root()?)?;
        let (link, record) = (get_link(params.get_link()?)?, params.get_record()?.to_vec());
        if !self.settled.borrow().contains(&root) {
            return Err(problem(Why::Usage, "this session has not settled that root").into());
        }
        // What the record names must be what was settled, whatever its writer says beside it.
        let named = Record::parse(&record).ok().and_then(|parsed| RefRecord::decode(&parsed.record.payload).ok());
        if named.is_none_or(|named| named.target != root || named.session != self.session_id()) {
            return Err(problem(Why::Usage, "the record does not name that root").into());
        }
        let (vault, host) = (self.vault.clone(), self.caller.host.clone());
        let work = move || append(&host, &vault, link, RecordKind::Ref, &record);
        let taken = self.caller.host.work().run(work).await?;
        if taken {
            self.settled.borrow_mut().remove(&root);
        }
        results.get().set_taken(taken);
        Ok(())
    }

    async fn healed(
        self: Rc<Self>,
        _params: write_session::HealedParams,
        mut results: write_session::HealedResults,
    ) -> Result<(), Error> {
        let _call = self.begin_call()?;
        let mut ids = self.session.session.healed();
        ids.truncate(IDS_MAX);
        results.get().set_ids(&join(&ids));
        Ok(())
    }
}
