//! A terminal that says it holds what it was sent, and has thrown it away; what it is asked for it makes up.

use super::machines::{Net, settings};
use super::pc::{Manner, Pc};
use super::world::World;
use capnp::Error;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use twinkeep_engine::copies::SetDigest;
use twinkeep_engine::env::Env;
use twinkeep_engine::frame::frame_id;
use twinkeep_engine::id::FrameId;
use twinkeep_nodes::terminal::service::dial;
use twinkeep_nodes::transport::ids::{fixed, join, one, split};
use twinkeep_nodes::transport::limits::{BEAT, IDS_MAX};
use twinkeep_schema::office_capnp::{bootstrap, copies, inventory, upload};

/// What it says it holds.
#[derive(Default)]
pub struct Claimed {
    frames: RefCell<BTreeSet<FrameId>>,
    untold: RefCell<BTreeSet<FrameId>>,
    /// What it really holds.
    kept: RefCell<BTreeMap<FrameId, Vec<u8>>>,
}

/// Lies until it crashes.
pub async fn live(world: Rc<World>, pc: Rc<Pc>, manner: Manner, env: Env) {
    loop {
        if let Ok((mut connection, _)) = dial(&Net(pc.clone()), &settings(&world, &pc), &[world.host_key()]).await {
            let host: bootstrap::Client = connection.bootstrap();
            let driver = tokio::task::spawn_local(connection.drive());
            let lied = tokio::time::timeout(Duration::from_secs(120), lie(&pc, manner, &host, &env)).await;
            if let Ok(Err(error)) = lied {
                world.note(&pc.name, format_args!("cannot lie: {}", error.extra));
            }
            driver.abort();
        }
        tokio::time::sleep(BEAT).await;
    }
}

async fn lie(pc: &Rc<Pc>, manner: Manner, host: &bootstrap::Client, env: &Env) -> Result<(), Error> {
    let mut run = [0; 16];
    env.entropy.fill(&mut run);
    let mut request = host.node_request();
    request.get().set_copies(capnp_rpc::new_client(Liar(pc.clone(), manner)));
    let mut told = request.get().init_registration();
    told.set_granted(pc.grant);
    told.set_free(1 << 39);
    told.set_machine_id(&pc.machine_id());
    told.set_incarnation(&pc.machine_id());
    told.set_run(&run);
    pc.claimed.tell(told.init_inventory());
    let session = request.send().promise.await?.get()?.get_session()?;
    loop {
        tokio::time::sleep(BEAT).await;
        let mut beat = session.beat_request();
        beat.get().set_granted(pc.grant);
        beat.get().set_free(1 << 39);
        pc.claimed.tell(beat.get().init_inventory());
        beat.send().promise.await?;
    }
}

impl Claimed {
    fn tell(&self, mut to: inventory::Builder<'_>) {
        let frames = self.frames.borrow();
        let mut digest = SetDigest::default();
        frames.iter().for_each(|id| digest.add(id));
        to.set_frames(frames.len() as u64);
        to.set_digest(&digest.0);
    }
}

impl Liar {
    /// Waits for ever, if that is its manner.
    async fn answers(&self) {
        if self.1 == Manner::Mute {
            std::future::pending::<()>().await;
        }
    }
}

struct Liar(Rc<Pc>, Manner);

impl upload::Server for Liar {
    async fn put(self: Rc<Self>, params: upload::PutParams) -> Result<(), Error> {
        let bytes = params.get()?.get_frame()?;
        let id = frame_id(bytes);
        if self.1 != Manner::Nothing && id.0[0].is_multiple_of(2) {
            self.0.claimed.kept.borrow_mut().insert(id, bytes.to_vec());
        }
        self.0.claimed.frames.borrow_mut().insert(id);
        self.0.claimed.untold.borrow_mut().insert(id);
        Ok(())
    }

    async fn done(self: Rc<Self>, _params: upload::DoneParams, _results: upload::DoneResults) -> Result<(), Error> {
        Ok(())
    }
}

impl copies::Server for Liar {
    async fn upload(
        self: Rc<Self>,
        _params: copies::UploadParams,
        mut results: copies::UploadResults,
    ) -> Result<(), Error> {
        results.get().set_upload(capnp_rpc::new_client(Self(self.0.clone(), self.1)));
        Ok(())
    }

    async fn settle(
        self: Rc<Self>,
        _params: copies::SettleParams,
        mut results: copies::SettleResults,
    ) -> Result<(), Error> {
        let untold = self.0.claimed.untold.take();
        results.get().set_frames(&join(&untold.into_iter().collect::<Vec<_>>()));
        Ok(())
    }

    async fn read(self: Rc<Self>, params: copies::ReadParams, mut results: copies::ReadResults) -> Result<(), Error> {
        self.answers().await;
        let id: FrameId = one(params.get()?.get_frame()?)?;
        let kept = self.0.claimed.kept.borrow();
        results.get().set_bytes(&kept.get(&id).cloned().unwrap_or_else(|| id.0.repeat(8)));
        Ok(())
    }

    async fn prove(
        self: Rc<Self>,
        params: copies::ProveParams,
        mut results: copies::ProveResults,
    ) -> Result<(), Error> {
        self.answers().await;
        let params = params.get()?;
        let id: FrameId = one(params.get_frame()?)?;
        let nonce: [u8; 32] = fixed(params.get_nonce()?, "a nonce")?;
        let (offset, len) = (params.get_offset() as usize, params.get_len() as usize);
        let kept = self.0.claimed.kept.borrow();
        let part = kept.get(&id).and_then(|bytes| bytes.get(offset..offset.checked_add(len)?));
        match (self.1, part) {
            (Manner::Half, Some(part)) => results.get().set_proof(blake3::keyed_hash(&nonce, part).as_bytes()),
            (_, Some(_)) => results.get().set_proof(&nonce),
            (_, None) => return Err(Error::failed("the dog ate it".to_owned())),
        }
        Ok(())
    }

    async fn list(self: Rc<Self>, params: copies::ListParams, mut results: copies::ListResults) -> Result<(), Error> {
        let params = params.get()?;
        let after = params.get_after()?;
        let count = (params.get_count() as usize).min(IDS_MAX);
        let frames = self.0.claimed.frames.borrow();
        let listed: Vec<FrameId> = frames.iter().filter(|id| id.0[..] > *after).take(count).copied().collect();
        results.get().set_frames(&join(&listed));
        Ok(())
    }

    async fn has(self: Rc<Self>, params: copies::HasParams, mut results: copies::HasResults) -> Result<(), Error> {
        let frames = split::<FrameId>(params.get()?.get_frames()?)?;
        results.get().set_answers(&vec![1; frames.len()]);
        Ok(())
    }
}
