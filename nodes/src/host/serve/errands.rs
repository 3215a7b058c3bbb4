//! What a machine is asked to do with its store of copies, and what follows from its answers.

use crate::host::copier::Wanted;
use crate::host::online::Scrubbed;
use crate::host::{Host, is_lost};
use crate::tracker::MachineNumber;
use crate::tracker::holders::Why as Owed;
use crate::tracker::standing::Fault;
use crate::transport::ids::{join, split};
use crate::transport::limits::{IDS_MAX, PING_DEADLINE};
use crate::transport::problem::{Problem, Why, problem};
use capnp::{Error, ErrorKind};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use twinkeep_engine::id::FrameId;
use twinkeep_engine::store::{BadFrame, Store};
use twinkeep_engine::zoo::planted;
use twinkeep_schema::office_capnp::copies;

/// Bytes of a frame over which a machine shows a hash.
const PROVEN_LEN: usize = 64 << 10;

/// Why a line is ended that is not broken.
const MUTE: &str = "the machine does not answer";

/// Frames of one question to a machine.
pub(super) const FRAMES_AT_ONCE: usize = 4096;

/// Bytes that a machine verifies in one step, and how long that may take: half a megabyte a second, the slowest disk.
const SCRUB_STEP: (u64, Duration) = (32 << 20, Duration::from_secs(60));

/// Why an errand was not done.
#[derive(Debug)]
pub(super) enum Undone {
    /// The machine did not do it.
    Theirs(Error),
    /// The host could not go on with it.
    Ours(Problem),
}

impl Undone {
    /// What the machine did wrong, if it was the machine.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Ours(_) => None,
            Self::Theirs(error) if error.kind == ErrorKind::Disconnected && error.extra != MUTE => Some(Fault::Gone),
            Self::Theirs(_) => Some(Fault::Failed),
        }
    }
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self::Theirs(error)
    }
}

impl From<Problem> for Undone {
    fn from(problem: Problem) -> Self {
        Self::Ours(problem)
    }
}

pub(super) async fn confirm(
    host: &Arc<Host>,
    machine: MachineNumber,
    frames: Vec<FrameId>,
) -> Result<Vec<FrameId>, Problem> {
    let tracker = host.clone();
    host.work().run(move || tracker.confirm(machine, &frames)).await
}

pub(super) async fn retract(host: &Arc<Host>, machine: MachineNumber, frames: Vec<FrameId>) -> Result<(), Problem> {
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

/// Sends frames and has them made durable; what the machine then confirms counts.
pub(super) async fn send(
    host: &Arc<Host>,
    machine: MachineNumber,
    copies: &copies::Client,
    frames: &[Wanted],
) -> Result<(), Undone> {
    let upload = deadline(copies.upload_request().send().promise).await?.get()?.get_upload()?;
    let mut sent = BTreeSet::new();
    for wanted in frames {
        let (tracker, frame) = (host.clone(), *wanted);
        // Gone since, or bad here: its owner hears of it in another way.
        let Some(bytes) = host.work().run(move || Ok::<_, Problem>(read(&tracker, &frame))).await? else {
            host.copier.note_unreadable(wanted.id, host.env().clock.elapsed());
            continue;
        };
        let mut request = upload.put_request();
        request.get().set_frame(&bytes);
        deadline(request.send()).await?;
        sent.insert(wanted.id);
    }
    let answer = deadline(upload.done_request().send().promise).await?;
    let trouble = answer.get()?.get_problem()?.to_string().map_err(Error::from)?;
    if planted("copy-counts-unsynced") {
        confirm(host, machine, sent.iter().copied().collect()).await?;
    }
    let answer = deadline(copies.settle_request().send().promise).await?;
    let settled = split::<FrameId>(answer.get()?.get_frames()?).map_err(Error::from)?;
    // Also what others gave it meanwhile.
    confirm(host, machine, settled).await?;
    // What it had already is not named again.
    let mut request = copies.has_request();
    let ids: Vec<FrameId> = sent.into_iter().take(IDS_MAX).collect();
    request.get().set_frames(&join(&ids));
    let answer = deadline(request.send().promise).await?;
    let has = answer.get()?.get_answers()?;
    let held: Vec<FrameId> = ids.iter().zip(has).filter(|(_, has)| **has == 1).map(|(id, _)| *id).collect();
    let is_all = held.len() == ids.len();
    confirm(host, machine, held).await?;
    match (trouble.is_empty(), is_all) {
        (false, _) => Err(Error::failed(trouble).into()),
        (true, false) => Err(problem_of("it does not hold what it has taken")),
        (true, true) => {
            host.copier.took(machine, host.env().clock.elapsed());
            Ok(())
        }
    }
}

fn problem_of(text: &str) -> Undone {
    Undone::Theirs(problem(Why::Other, text).into())
}

pub(super) async fn set_aside(host: &Arc<Host>, copies: &copies::Client, frames: Vec<FrameId>) -> Result<(), Error> {
    let mut request = copies.drop_request();
    request.get().set_order(&crate::terminal::order::sign(&host.identity.authority, &frames));
    deadline(request.send().promise).await?;
    Ok(())
}

/// Gets frames back from a machine. One that it does not give, or gives wrong, it does not hold.
pub(super) async fn fetch(
    host: &Arc<Host>,
    machine: MachineNumber,
    copies: &copies::Client,
    frames: Vec<FrameId>,
    answer: &mpsc::UnboundedSender<(FrameId, Vec<u8>)>,
) -> Result<(), Undone> {
    let tracker = host.clone();
    let asked = frames.clone();
    let holders = host.work().run(move || tracker.holders.holders_of(&asked)).await?;
    for (id, holders) in frames.into_iter().zip(holders) {
        let mut request = copies.read_request();
        request.get().set_frame(&id.0);
        let bytes = match deadline(request.send().promise).await {
            Ok(read) => read.get()?.get_bytes()?.to_vec(),
            Err(error) if Problem::from(&error).why == Why::Unreachable => return Err(error.into()),
            Err(_) => Vec::new(),
        };
        match twinkeep_engine::frame::frame_id(&bytes) == id {
            true => drop(answer.send((id, bytes))),
            // Everybody is asked for what nobody is known to hold.
            false if !holders.contains(&machine) => {}
            false => {
                host.copier.failed(machine, Fault::Lied, host.env().clock.elapsed());
                retract(host, machine, vec![id]).await?;
            }
        }
    }
    Ok(())
}

/// Has a machine show that it holds frames: what it cannot show it does not hold. What it shows the host has, too, every
/// byte of it, and somebody may be waiting to hear that. Gives how many it showed.
pub(super) async fn prove(
    host: &Arc<Host>,
    machine: MachineNumber,
    copies: &copies::Client,
    frames: &[Wanted],
    told: Option<&mpsc::UnboundedSender<FrameId>>,
) -> Result<usize, Undone> {
    let (mut proven, mut lied) = (0, false);
    for wanted in frames {
        let (tracker, frame) = (host.clone(), *wanted);
        // What is bad here is no measure for others.
        let read = move || Ok::<_, Problem>(read(&tracker, &frame));
        let Some(bytes) = host.work().run(read).await? else { continue };
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
            Err(error) if Problem::from(&error).why == Why::Unreachable => return Err(error.into()),
            Err(_) => false,
        };
        if !shown {
            tracing::warn!(%machine, frame = %wanted.id, "a machine does not hold what it said");
            retract(host, machine, vec![wanted.id]).await?;
            lied = true;
            continue;
        }
        proven += 1;
        if let Some(told) = told {
            // Whoever asked may have gone.
            let _ = told.send(wanted.id);
        }
    }
    let now = host.env().clock.elapsed();
    match (lied, proven) {
        (true, _) => host.copier.failed(machine, Fault::Lied, now),
        (false, 0) => {}
        (false, _) => host.copier.proved(machine, now),
    }
    Ok(proven)
}

/// Has a machine verify what it holds, a step at a time: each has to come to an end, however many there are.
pub(super) async fn scrub(
    host: &Arc<Host>,
    machine: MachineNumber,
    copies: &copies::Client,
    said: u64,
    answer: oneshot::Sender<Scrubbed>,
) -> Result<(), Undone> {
    let mut scrubbed = Scrubbed::default();
    let mut cursor = Vec::new();
    loop {
        let mut request = copies.scrub_request();
        request.get().set_cursor(&cursor);
        request.get().set_bytes(SCRUB_STEP.0);
        let told = within(SCRUB_STEP.1, request.send().promise).await?;
        let told = told.get()?;
        let bad = split::<FrameId>(told.get_bad()?).map_err(Error::from)?;
        scrubbed.frames += told.get_frames();
        scrubbed.bytes += told.get_bytes();
        scrubbed.bad += bad.len() as u64;
        retract(host, machine, bad).await?;
        cursor = told.get_next()?.to_vec();
        if cursor.is_empty() {
            break;
        }
        // It may get more while it looks; what never ends is no scrub.
        if told.get_frames() == 0 || scrubbed.frames > said.saturating_mul(2).saturating_add(FRAMES_AT_ONCE as u64) {
            return Err(problem_of("the machine verifies what it holds in a circle"));
        }
    }
    // Whoever asked may have gone.
    let _ = answer.send(scrubbed);
    Ok(())
}

/// Waits for an answer, not for ever.
pub(super) async fn deadline<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    within(PING_DEADLINE, answer).await
}

async fn within<T>(time: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(time, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::disconnected(MUTE.into())),
    }
}

/// A frame of a vault, verified; nothing where it cannot be had now, for whatever reason: others go on without it.
fn read(host: &Host, wanted: &Wanted) -> Option<Vec<u8>> {
    match try_read(host, wanted) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(frame = %wanted.id, vault = %wanted.vault, %error, "a frame of the host cannot be read");
            None
        }
    }
}

fn try_read(host: &Host, wanted: &Wanted) -> Result<Option<Vec<u8>>, Problem> {
    let vault = host.vault(wanted.vault)?;
    let place = vault.store.frames(wanted.number, 1)?.into_iter().find(|place| place.frame == wanted.id);
    let Some(place) = place else { return Ok(None) };
    let mut bytes = Vec::new();
    let is_good = match vault.store.read_frame(&place, &mut bytes) {
        Ok(()) => twinkeep_engine::frame::frame_id(&bytes) == wanted.id,
        Err(error) if is_lost(&error) => false,
        Err(error) => return Err(error.into()),
    };
    if !is_good {
        tracing::warn!(frame = %wanted.id, vault = %wanted.vault, "a frame of the host is damaged");
        // Whoever holds the other copy gives it back.
        vault.expel(&[BadFrame::from(&place)])?;
        host.healer.wake();
    }
    Ok(is_good.then_some(bytes))
}
