//! A vault on another machine as one of its members can check it: records, trees, and with `--read-data` every frame,
//! opened. Packs and index are looked after where they are, by scrubs.

use super::findings::Findings;
use super::frames::FrameChecker;
use super::index::cancelled;
use super::packs::Trust;
use super::{CheckOptions, Result, Subset};
use crate::frame::frame_id;
use crate::index::FrameNumber;
use crate::progress::Progress;
use crate::store::{BadFrame, Place, StoreError};
use crate::vault::Vault;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Places asked for at a time.
const PLACES_AT_ONCE: usize = 1024;

/// Whether a frame is among those that are to be read.
fn takes(options: &CheckOptions, place: &Place) -> bool {
    // The name of a frame is a hash: any part of it is as good as dice, and the same the next time.
    let draw = u64::from_le_bytes(place.frame.0[..8].try_into().unwrap_or_default());
    match &options.subset {
        None => options.read_data,
        Some(Subset::Part { n, of }) => draw % (*of).max(1) + 1 == *n,
        Some(Subset::Percent(percent)) => (draw as f64) < percent / 100.0 * u64::MAX as f64,
    }
}

/// Reads frames as far as they are to be read; gives how far the rest can be trusted.
pub(super) fn check(
    vault: &Vault,
    options: &CheckOptions,
    findings: &mut Findings,
    progress: &Progress,
) -> Result<Trust> {
    let mut places = Vec::new();
    let mut from = FrameNumber(0);
    loop {
        let more = vault.store().frames(from, PLACES_AT_ONCE)?;
        let Some(last) = more.last() else { break };
        from = FrameNumber(last.number.0.saturating_add(1));
        places.extend(more);
        cancelled(progress)?;
    }
    findings.report.frames_total = places.iter().filter(|place| place.is_believed).count() as u64;
    places.retain(|place| place.is_believed && takes(options, place));
    progress.bytes_total.store(places.iter().map(|place| u64::from(place.len)).sum(), Ordering::Relaxed);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<Result<Read>>> = Mutex::default();
    vault.env().executor.run(&|_| {
        let read = work(vault, &places, progress, &next, &stop);
        stop.fetch_or(read.is_err(), Ordering::AcqRel);
        done.lock().unwrap_or_else(PoisonError::into_inner).push(read);
    });
    let mut bad = Vec::new();
    for read in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let read = read?;
        findings.merge(read.findings);
        bad.extend(read.bad);
    }
    // Whoever keeps the vault looks for itself, and heals what it can.
    vault.store().expel(&bad)?;
    // What the other machine says of branches is not taken for proof: every leaf is asked for.
    Ok(Trust { is_closed: false, bad: bad.iter().map(|bad| bad.number).collect::<HashSet<_>>() })
}

#[derive(Default)]
struct Read {
    findings: Findings,
    bad: Vec<BadFrame>,
}

fn work(vault: &Vault, places: &[Place], progress: &Progress, next: &AtomicUsize, stop: &AtomicBool) -> Result<Read> {
    let mut frames = FrameChecker::new(vault)?;
    let (mut read, mut bytes) = (Read::default(), Vec::new());
    while !stop.load(Ordering::Acquire) {
        let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
        cancelled(progress)?;
        match vault.store().read_frame(place, &mut bytes) {
            Ok(()) => {}
            // A collection took it apart meanwhile: what of it is needed is elsewhere.
            Err(StoreError::Gone { .. }) => continue,
            Err(error) => return Err(error.into()),
        }
        read.findings.report.bytes_read += bytes.len() as u64;
        Progress::add(&progress.bytes_done, bytes.len() as u64);
        let name = format!("frame {}", place.frame);
        if frame_id(&bytes) != place.frame {
            read.findings.fault(name, "it is damaged".to_owned());
            read.bad.push(BadFrame::from(place));
            continue;
        }
        match frames.open(&mut bytes, place.kind) {
            Ok(opened) => {
                read.findings.report.frames += 1;
                read.findings.report.chunks += opened.header.ids.len() as u64;
                frames.recycle(opened);
            }
            Err(error) => read.findings.fault(name, format!("it does not open: {error}")),
        }
    }
    Ok(read)
}
