//! Freeing what nothing needs any more, at the host and then on the machines that hold the second copies.
//!
//! What always holds: only the host deletes. What may go is said by each vault's own records, whose times the host
//! stamps; machines set copies aside on an order that the company's authority has signed, and keep them for a while.

use super::online::Errand;
use super::{Host, HostVault, lock};
use crate::tracker::MachineNumber;
use crate::tracker::limits::FRAMES_PER_CHANGE_MAX;
use crate::transport::problem::{Problem, Why, problem};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use twinkeep_engine::gc::{self, Access, GcOptions};
use twinkeep_engine::id::{FrameId, VaultId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::zoo::planted;

/// A collection is made so often; what it frees had to wait for a month anyway.
const PACE: Duration = Duration::from_secs(24 * 3600);

/// After a start the first one waits for so long: backups that were cut short go on first.
const FIRST: Duration = Duration::from_secs(3600);

/// Whether one is due is looked at so often.
const LOOK: Duration = Duration::from_secs(10);

/// What collections came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    /// Bytes that are free again at the host.
    pub bytes: u64,
    /// Frames that went.
    pub frames: u64,
    /// Copies that machines set aside.
    pub copies: u64,
    /// What could not be done, vault by vault.
    pub problems: Vec<String>,
}

/// Collects for as long as the host runs.
pub async fn run(host: Arc<Host>) {
    let mut due = host.env().clock.elapsed() + FIRST;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = host.env().clock.elapsed();
        if now < due {
            continue;
        }
        due = now + PACE;
        let freed = collect(&host).await;
        for problem in &freed.problems {
            tracing::warn!("{problem}");
        }
        if freed.frames > 0 {
            tracing::info!(bytes = freed.bytes, frames = freed.frames, copies = freed.copies, "space was freed");
        }
    }
}

/// Collects in every vault.
pub async fn collect(host: &Arc<Host>) -> Freed {
    let mut all = Freed::default();
    if let Some(question) = host.hours.question(host.env()) {
        all.problems.push(question);
        return all;
    }
    for (id, vault) in host.vaults() {
        let collecting = host.clone();
        match host.work().run(move || collect_vault(&collecting, id, &vault)).await {
            Ok(freed) => {
                all.bytes += freed.bytes;
                all.frames += freed.frames;
                all.copies += freed.copies;
            }
            Err(error) => all.problems.push(format!("vault {id}: {error}")),
        }
    }
    host.copier.wake();
    // What was bad where something was being swept waits for the end of that.
    host.healer.wake();
    all
}

fn collect_vault(host: &Host, id: VaultId, vault: &HostVault) -> Result<Freed, Problem> {
    host.tips.require_whole(id, vault)?;
    let access = Access::Keyless { store: &vault.store, retention_days_min: vault.retention_days_min()? };
    let options = GcOptions { notes_removed: true, ..GcOptions::default() };
    let collected = gc::collect(access, &options, &Progress::silent());
    // Whatever ended it, something may have gone before.
    let copies = tell_removed(host, id, vault)?;
    let report = collected.map_err(|error| problem(Why::Other, error.to_string()))?;
    // Small packs are put together: what only moved is not free.
    let bytes = report.bytes_freed.saturating_sub(report.bytes_moved);
    let _ =
        vault.stored.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |stored| Some(stored.saturating_sub(bytes)));
    Ok(Freed { bytes, frames: report.frames_removed.len() as u64, copies, problems: Vec::new() })
}

/// Goes on where a host was stopped between a collection and what others are to hear of it.
pub(super) fn go_on(host: &Host, id: VaultId, vault: &HostVault) -> Result<(), Problem> {
    if planted("removal-not-noted") {
        return Ok(vault.store.forget_removed(&vault.store.removed_frames()?)?);
    }
    tell_removed(host, id, vault).map(drop)
}

/// What collections removed goes from the map of holders, and whoever holds it is ordered to drop it; gives how many
/// orders that were. The vault knows of it until the map does, so whoever is interrupted begins again the same way.
fn tell_removed(host: &Host, id: VaultId, vault: &HostVault) -> Result<u64, Problem> {
    let _one = lock(&vault.telling);
    let removed = vault.store.removed_frames()?;
    if removed.is_empty() {
        return Ok(0);
    }
    let gone = not_here(vault, &removed)?;
    let mut orders: BTreeMap<MachineNumber, Vec<FrameId>> = BTreeMap::new();
    for part in gone.chunks(FRAMES_PER_CHANGE_MAX) {
        for (frame, machines) in host.holders.remove_frames(part)? {
            machines.into_iter().for_each(|machine| orders.entry(machine).or_default().push(frame));
        }
    }
    // What moved has another number now.
    host.feed_again(id, vault)?;
    for part in removed.chunks(FRAMES_PER_CHANGE_MAX) {
        vault.store.forget_removed(part)?;
    }
    let mut copies = 0;
    for (machine, mut frames) in orders {
        only_removed(host, &mut frames)?;
        let key =
            host.office.read(|registry| registry.nodes().find(|node| node.number == machine.0).map(|node| node.key));
        let online = lock(&host.online);
        // A machine that is not there says what it holds when it comes, and is told then what was removed.
        let Some(live) = key.and_then(|key| online.live(&key)) else { continue };
        for part in frames.chunks(FRAMES_PER_CHANGE_MAX) {
            if live.errands.send(Errand::Drop(part.to_vec())).is_ok() {
                copies += part.len() as u64;
            }
        }
    }
    Ok(copies)
}

/// Of these frames those that the vault's index has no row of. One may have stood in two places, of which one went; and
/// where the other one is bad, the copies elsewhere are all that is left of it.
fn not_here(vault: &HostVault, removed: &[FrameId]) -> Result<Vec<FrameId>, Problem> {
    let mut gone: BTreeSet<FrameId> = removed.iter().copied().collect();
    let mut from = FrameNumber(0);
    loop {
        let rows = vault.store.frame_rows(from, FRAMES_PER_CHANGE_MAX)?;
        let Some((last, _)) = rows.last() else { return Ok(gone.into_iter().collect()) };
        from = FrameNumber(last.0.saturating_add(1));
        for (_, place) in &rows {
            gone.remove(&place.id);
        }
    }
}

/// Leaves those that are nowhere at the host any more.
fn only_removed(host: &Host, frames: &mut Vec<FrameId>) -> Result<(), Problem> {
    let mut removed = Vec::with_capacity(frames.len());
    for part in frames.chunks(FRAMES_PER_CHANGE_MAX) {
        removed.extend(host.holders.is_removed(part)?);
    }
    let mut removed = removed.into_iter();
    frames.retain(|_| removed.next().unwrap_or(false));
    Ok(())
}
