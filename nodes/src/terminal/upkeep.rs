//! Looking after the store: what is held is verified, trash is freed, room is made, and what the host does not know goes
//! in the end.

use super::copies::Kept;
use super::service::{Line, Outside, soon};
use crate::transport::ids::{join, split};
use crate::transport::problem::{Why, problem};
use crate::work::Work;
use capnp::Error;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use twinkeep_engine::id::FrameId;
use twinkeep_engine::limits::COPIES_TRASH_SECS;
use twinkeep_schema::office_capnp::node_session;

/// The file of frames that programs here kept and the host does not know.
pub(super) const UNKNOWN: &str = "unknown";

/// How often the store is looked after, and bytes that are verified then: a terabyte in five months, some hundred
/// kilobytes a second.
const UPKEEP: (Duration, u64) = (Duration::from_secs(60), 8 << 20);

/// What was set aside lies in trash for so long, of the machine's own uptime.
const TRASH: Duration = Duration::from_secs(COPIES_TRASH_SECS);

/// The same while the disk is short, step by step.
const TRASH_SHORT: [Duration; 4] =
    [TRASH, Duration::from_secs(7 * 86_400), Duration::from_secs(86_400), Duration::ZERO];

/// Rounds of upkeep between two looks into the trash, and between two questions for what the host does not know.
const TRASH_ROUNDS: u64 = 60;

/// Frames of one question to the host.
const FRAMES_AT_ONCE: usize = 4096;

/// Verifies what is held, a little at a time, and frees what has been in trash for long enough. What is bad is owed again
/// as soon as the host hears of it, which gives it anew.
pub(super) async fn keep_up<O: Outside>(kept: &Arc<Kept>, line: &Rc<Line>, outside: &O, work: Work) {
    let mut cursor = None;
    for round in 0_u64.. {
        tokio::time::sleep(UPKEEP.0).await;
        make_room(kept, outside, work).await;
        let session = line.session.borrow().clone();
        if let Some(session) = session.filter(|_| round % TRASH_ROUNDS == TRASH_ROUNDS - 1)
            && let Err(error) = ask_unknown(kept, &session, work).await
        {
            tracing::warn!(%error, "cannot ask the host for what it does not know");
        }
        keep_unknown(kept, outside);
        let store = kept.store.clone();
        let step = work
            .run(move || {
                store.tick()?;
                if round.is_multiple_of(TRASH_ROUNDS) {
                    store.empty_trash(TRASH)?;
                }
                store.scrub(cursor, UPKEEP.1)
            })
            .await;
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                tracing::warn!(%error, "cannot verify what is held");
                continue;
            }
        };
        cursor = step.next;
        if !step.bad.is_empty() {
            tracing::warn!(frames = step.bad.len(), "copies are damaged; the host gives them again");
            if let Err(error) = report(line, &step.bad).await {
                // The next comparison of inventories tells the host in any case.
                tracing::warn!(%error, "cannot tell the host");
            }
        }
    }
}

/// Asks the host once more for what it did not know; what it has not known for long enough is set aside. Gives how many
/// frames that was.
///
/// # Errors
/// The host does not answer, or the store does not.
pub async fn ask_unknown(kept: &Arc<Kept>, session: &node_session::Client, work: Work) -> Result<usize, Error> {
    let mut gone = 0;
    // Not held while the host is asked.
    let all = kept.unknown().ids();
    for ids in all.chunks(FRAMES_AT_ONCE) {
        let (store, asked) = (kept.store.clone(), ids.to_vec());
        let has = work.run(move || store.has(&asked)).await?;
        // Nobody is told that something is held which is not.
        let (held, lost): (Vec<_>, Vec<_>) = ids.iter().zip(has).partition(|(_, has)| *has);
        kept.unknown().forget(lost.into_iter().map(|(id, _)| id));
        let held: Vec<FrameId> = held.into_iter().map(|(id, _)| *id).collect();
        let mut request = session.confirm_request();
        request.get().set_frames(&join(&held));
        let answer = soon(request.send().promise).await?;
        let unknown: HashSet<FrameId> = split(answer.get()?.get_unknown()?)?.into_iter().collect();
        let (unknown, known): (Vec<_>, Vec<_>) = held.into_iter().partition(|id| unknown.contains(id));
        kept.unknown().forget(&known);
        let old = kept.unknown().asked(&unknown);
        if !old.is_empty() {
            let (store, frames) = (kept.store.clone(), old.clone());
            gone += work.run(move || store.drop_frames(&frames)).await?.len();
            kept.unknown().forget(&old);
        }
    }
    if gone > 0 {
        tracing::info!(frames = gone, "set aside what no backup of the office needs");
    }
    Ok(gone)
}

/// Keeps what the host does not know, for the next start.
fn keep_unknown<O: Outside>(kept: &Kept, outside: &O) {
    let changed = kept.unknown().take_changed();
    if let Some(bytes) = changed
        && let Err(error) = outside.keep(UNKNOWN, &bytes)
    {
        kept.unknown().not_kept();
        tracing::warn!(%error, "cannot keep what the host does not know");
    }
}

/// Where less is free than the owner wants, trash goes before its time, the oldest first, and no more than is needed.
pub async fn make_room<O: Outside>(kept: &Arc<Kept>, outside: &O, work: Work) {
    for age in TRASH_SHORT {
        let (free, reserve) = kept.look(outside.space());
        if free >= reserve {
            return;
        }
        let store = kept.store.clone();
        match work.run(move || store.empty_trash(age)).await {
            Ok(emptied) if emptied.frames > 0 => {
                tracing::info!(frames = emptied.frames, bytes = emptied.bytes, "the disk is short: trash was emptied");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot empty the trash"),
        }
    }
    kept.look(outside.space());
}

/// Tells the host what is not held any more.
pub async fn report(line: &Rc<Line>, frames: &[FrameId]) -> Result<(), Error> {
    let session = line.session.borrow().clone();
    let Some(session) = session else {
        return Err(problem(Why::Unreachable, "the host cannot be reached").into());
    };
    let mut request = session.retract_request();
    request.get().set_frames(&join(frames));
    soon(request.send().promise).await?;
    Ok(())
}
