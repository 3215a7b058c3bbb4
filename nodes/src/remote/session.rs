//! A writer's run on a vault at the host.

use super::line::Cap;
use super::store::{chain, odd, of_count};
use super::wire::put_link;
use crate::transport::ids;
use crate::transport::limits::IDS_MAX;
use crate::transport::problem::Problem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use twinkeep_engine::frame::SealedFrame;
use twinkeep_engine::id::{ChunkId, SessionId};
use twinkeep_engine::store::{ChainLink, Claim, Result, Session, Settled, StoreError};
use twinkeep_schema::office_capnp::{keeper, upload, vault, write_session};

/// See the module.
pub(super) struct RemoteSession {
    id: SessionId,
    vault: Arc<Cap<vault::Client>>,
    session: Cap<write_session::Client>,
    /// Where frames go; a new one after each settle.
    uploads: Mutex<Option<Arc<Cap<upload::Client>>>>,
    keeper: Option<Keeping>,
    written: AtomicU64,
    failed: AtomicBool,
}

/// The copy that stays on this machine.
struct Keeping {
    keeper: Cap<keeper::Client>,
    upload: Mutex<Option<Arc<Cap<upload::Client>>>>,
    /// It went wrong: somebody else will get what is written here.
    lost: AtomicBool,
}

type Slot = Mutex<Option<Arc<Cap<upload::Client>>>>;

fn current(
    slot: &Slot,
    open: impl FnOnce() -> std::result::Result<Cap<upload::Client>, Problem>,
) -> std::result::Result<Arc<Cap<upload::Client>>, Problem> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(upload) = &*slot {
        return Ok(upload.clone());
    }
    Ok(slot.insert(Arc::new(open()?)).clone())
}

fn send(upload: &Cap<upload::Client>, bytes: Arc<Vec<u8>>) -> std::result::Result<(), Problem> {
    upload.call(move |upload| async move {
        let mut request = upload.put_request();
        request.get().set_frame(&bytes);
        request.send().await
    })
}

/// Waits until all that was sent has been taken.
///
/// # Errors
/// Not all of it was.
fn finish(slot: &Slot) -> std::result::Result<(), Problem> {
    let Some(upload) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
    let problem = upload.call(|upload| async move {
        Ok(upload.done_request().send().promise.await?.get()?.get_problem()?.to_string()?)
    })?;
    match problem.is_empty() {
        true => Ok(()),
        // Written by the other side as one of its errors, so that its reason is kept.
        false => Err(Problem::from(&capnp::Error::failed(problem))),
    }
}

impl RemoteSession {
    pub fn begin(
        id: SessionId,
        vault: Arc<Cap<vault::Client>>,
        session: Cap<write_session::Client>,
        keeper: Option<&Cap<keeper::Client>>,
    ) -> Result<Self> {
        let keeping = |keeper: &Cap<keeper::Client>| {
            let (keeper, ()) = keeper.cap(|keeper| async move { Ok((keeper, ())) })?;
            Ok::<_, Problem>(Keeping { keeper, upload: Mutex::default(), lost: AtomicBool::new(false) })
        };
        let keeper = keeper.map(keeping).transpose()?;
        let (written, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { id, vault, session, uploads: Mutex::default(), keeper, written, failed })
    }

    fn step<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::SessionFailed);
        }
        let result = step();
        // What the root lacks can be put again; after anything else nothing is believed.
        if matches!(&result, Err(error) if !matches!(error, StoreError::Missing(_))) {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    fn open_upload(&self) -> std::result::Result<Cap<upload::Client>, Problem> {
        let (upload, ()) = self.session.cap(|session| async move {
            let answer = session.upload_request().send().promise.await?;
            Ok((answer.get()?.get_upload()?, ()))
        })?;
        Ok(upload)
    }

    /// All that was put is at the host, and if it is to be, in the store of copies of this machine.
    fn flush(&self) -> Result<()> {
        match finish(&self.uploads) {
            Err(problem) => Err(problem.into()),
            Ok(()) => Ok(()),
        }
    }

    fn keep(&self, bytes: Arc<Vec<u8>>) {
        let Some(keeping) = self.keeper.as_ref().filter(|keeping| !keeping.lost.load(Ordering::Acquire)) else {
            return;
        };
        let kept = current(&keeping.upload, || {
            let (upload, ()) = keeping.keeper.cap(|keeper| async move {
                let answer = keeper.upload_request().send().promise.await?;
                Ok((answer.get()?.get_upload()?, ()))
            })?;
            Ok(upload)
        })
        .and_then(|upload| send(&upload, bytes));
        // No backup fails because this PC's disk is full: the tracker finds another place.
        if kept.is_err() {
            keeping.lost.store(true, Ordering::Release);
        }
    }

    /// Makes durable what this machine keeps. Whatever goes wrong here is owed by the tracker, not by us.
    fn settle_kept(&self) {
        let Some(keeping) = &self.keeper else { return };
        let _ = finish(&keeping.upload);
        let _ = keeping.keeper.call(|keeper| async move { keeper.settle_request().send().promise.await.map(drop) });
    }
}

impl Session for RemoteSession {
    fn id(&self) -> SessionId {
        self.id
    }

    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<Claim>> {
        let mut claims = Vec::with_capacity(ids.len());
        for part in ids.chunks(IDS_MAX) {
            let bytes = ids::join(part);
            let answers = self.session.call(move |session| async move {
                let mut request = session.claim_request();
                request.get().set_ids(&bytes);
                Ok(request.send().promise.await?.get()?.get_claims()?.to_vec())
            })?;
            for answer in of_count(answers, part.len())? {
                claims.push(match answer {
                    0 => Claim::Known,
                    1 => Claim::InFlight,
                    2 => Claim::Mine,
                    found => return Err(odd(format!("claim {found}")).into()),
                });
            }
        }
        Ok(claims)
    }

    fn put(&self, frame: SealedFrame) -> Result<()> {
        self.step(|| {
            self.written.fetch_add(frame.bytes.len() as u64, Ordering::Relaxed);
            let bytes = Arc::new(frame.bytes);
            let upload = current(&self.uploads, || self.open_upload())?;
            if let Err(problem) = send(&upload, bytes.clone()) {
                // The stream only says that it is broken; the reason comes at its end.
                return Err(finish(&self.uploads).err().unwrap_or(problem).into());
            }
            self.keep(bytes);
            Ok(())
        })
    }

    fn checkpoint(&self) -> Result<()> {
        self.step(|| {
            self.flush()?;
            self.session.call(|session| async move { session.checkpoint_request().send().promise.await.map(drop) })?;
            self.settle_kept();
            Ok(())
        })
    }

    fn settle(&self, root: ChunkId) -> Result<Settled> {
        self.step(|| {
            self.flush()?;
            let missing = self.session.call(move |session| async move {
                let mut request = session.settle_request();
                request.get().set_root(&root.0);
                Ok(request.send().promise.await?.get()?.get_missing()?.to_vec())
            })?;
            let missing = ids::split::<ChunkId>(&missing)?;
            if !missing.is_empty() {
                return Err(StoreError::Missing(missing));
            }
            self.settle_kept();
            Ok(Settled::by_host(root))
        })
    }

    fn publish(&self, settled: Settled, make: &dyn Fn(ChainLink) -> Vec<u8>) -> Result<ChainLink> {
        let root = settled.root();
        let link = self.step(|| {
            chain(&self.vault, &mut |link| Some(make(link)), &|link, record| {
                self.session.call(move |session| async move {
                    let mut request = session.publish_request();
                    request.get().set_root(&root.0);
                    put_link(&link, link.received.unwrap_or_default(), request.get().init_link());
                    request.get().set_record(&record);
                    Ok(request.send().promise.await?.get()?.get_taken())
                })
            })
        })?;
        link.ok_or_else(|| odd("no record was made").into())
    }

    fn written_len(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn healed(&self) -> Vec<ChunkId> {
        let healed = self.session.call(|session| async move {
            Ok(session.healed_request().send().promise.await?.get()?.get_ids()?.to_vec())
        });
        healed.and_then(|ids| ids::split(&ids)).unwrap_or_default()
    }
}
