//! `repair`: bringing back what can be brought back of a damaged vault.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use twinkeep_engine::check::DamagedFile;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::repair::{self, IndexRepair, Outcome, PackRepair, RepairError, SnapshotRepair};
use twinkeep_engine::store::Fault;

use crate::error::{Code, told};
use crate::screen::put_path;
use crate::session::Run;
use crate::{show, watch};

/// What.
#[derive(Args, Debug)]
#[command(
    after_help = "A repair only ever adds to what can be read; what it takes out of use goes to the vault's folder\n\
    aside/. The order is packs, then snapshots; the index only when it is at fault.\n\n\
    Example: after `twinkeep check --read-data` reported damage\n  \
    twinkeep repair packs\n  twinkeep repair snapshots"
)]
pub struct RepairArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Build the index anew from the packs
    Index(HowArgs),
    /// Copy what verifies out of damaged packs and look for other copies of the rest
    Packs(HowArgs),
    /// List lost snapshots again, and mend damaged ones
    Snapshots(HowArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Example: look first\n  twinkeep repair packs --dry-run")]
struct HowArgs {
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Repairs.
pub fn run(run: &Run, args: &RepairArgs) -> anyhow::Result<Code> {
    let outcome = match &args.what {
        What::Index(how) => index(run, how.dry_run)?,
        What::Packs(how) => packs(run, how.dry_run)?,
        What::Snapshots(how) => snapshots(run, how.dry_run)?,
    };
    if !run.screen.json {
        let last = match outcome {
            Outcome::Nothing => "there was nothing to repair",
            Outcome::Healed => "everything that snapshots need is there",
            Outcome::DamageLeft => {
                "some of what snapshots need is still missing; a new backup of the same files brings \
                                    back what the source still has"
            }
        };
        run.screen.tell(last)?;
    }
    Ok(match outcome {
        Outcome::Nothing => Code::Done,
        Outcome::Healed => Code::Healed,
        Outcome::DamageLeft => Code::Damaged,
    })
}

/// The word of an outcome in messages.
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Nothing => "nothing",
        Outcome::Healed => "healed",
        Outcome::DamageLeft => "damage_left",
    }
}

fn watched<T>(run: &Run, work: impl FnOnce(&Progress) -> Result<T, RepairError>) -> anyhow::Result<T> {
    let progress = watch::progress(&run.screen);
    let watch = watch::Watch::begin(&run.screen, &progress)?;
    let done = work(&progress);
    drop(watch);
    if done.is_err() && progress.is_cancelled() {
        return Err(told(Code::Interrupted, "interrupted; the next repair goes on where this one was"));
    }
    done.context("the repair could not be brought to its end; nothing is worse than before")
}

fn index(run: &Run, dry_run: bool) -> anyhow::Result<Outcome> {
    let report = if dry_run { run.repair_index_dry()? } else { run.repair_index()? };
    let outcome = report.outcome();
    tell_faults(run, &report.faults)?;
    if run.screen.json {
        let fields = json!({
            "dry_run": dry_run, "outcome": word(outcome),
            "readable_before": report.before.is_some(),
            "chunks": report.after.whole, "branches_unwhole": report.after.unwhole, "suspects": report.after.suspects,
            "faults": report.faults.len(), "unwhole": report.unwhole,
            "duration_secs": report.duration.as_secs_f64(),
        });
        run.screen.message("summary", &fields)?;
        return Ok(outcome);
    }
    report.notes.iter().for_each(|note| run.screen.warn(None, note));
    index_words(run, &report)?;
    Ok(outcome)
}

fn index_words(run: &Run, report: &IndexRepair) -> anyhow::Result<()> {
    let before = match report.before {
        None => "the old index could not be read".to_owned(),
        Some(rows) => format!("the old index had {}", show::count(rows.whole, "sound chunk")),
    };
    let suspects = show::count(report.after.suspects, "chunk");
    run.screen.tell(&format!(
        "{before}, the new one has {} and {suspects} in damaged places; made in {}",
        show::count(report.after.whole, "sound chunk"),
        show::duration(report.duration)
    ))
}

fn packs(run: &Run, dry_run: bool) -> anyhow::Result<Outcome> {
    let vault = run.open()?;
    let report = watched(run, |progress| repair::repair_packs(&vault, dry_run, progress))?;
    let outcome = report.outcome();
    tell_faults(run, &report.faults)?;
    if run.screen.json {
        let fields = json!({
            "dry_run": dry_run, "outcome": word(outcome),
            "packs": report.packs, "frames": report.frames, "faults": report.faults.len(),
            "frames_lost": report.frames_lost, "frames_back": report.frames_back,
            "frames_moved": report.frames_moved, "packs_aside": report.packs_aside,
            "chunks_back": report.chunks_back, "suspects": report.suspects, "unwhole": report.unwhole,
            "duration_secs": report.duration.as_secs_f64(),
        });
        run.screen.message("summary", &fields)?;
        return Ok(outcome);
    }
    packs_words(run, &report, dry_run)?;
    Ok(outcome)
}

fn packs_words(run: &Run, report: &PackRepair, dry_run: bool) -> anyhow::Result<()> {
    for pack in &report.packs_aside {
        let text = if dry_run { "would be set aside" } else { "set aside, with all that verifies copied" };
        run.screen.line(&format!("{text}: {pack}"))?;
    }
    run.screen.tell(&format!(
        "read {} in {}: {} damaged, {} back, {} copied, {} found again; in {}",
        show::count(report.frames, "frame"),
        show::count(report.packs, "pack"),
        report.frames_lost,
        report.frames_back,
        report.frames_moved,
        show::count(report.chunks_back, "chunk"),
        show::duration(report.duration)
    ))?;
    if report.unwhole > 0 {
        let snapshots = show::count(report.unwhole, "snapshot");
        run.screen.line(&format!("{snapshots} still lack something; `twinkeep repair snapshots` mends them"))?;
    }
    Ok(())
}

fn snapshots(run: &Run, dry_run: bool) -> anyhow::Result<Outcome> {
    let vault = run.open()?;
    let report = watched(run, |progress| repair::repair_snapshots(&vault, dry_run, progress))?;
    let outcome = report.outcome();
    tell_faults(run, &report.faults)?;
    if run.screen.json {
        snapshots_json(run, &report, dry_run)?;
    } else {
        snapshots_words(run, &report)?;
    }
    Ok(outcome)
}

fn snapshots_json(run: &Run, report: &SnapshotRepair, dry_run: bool) -> anyhow::Result<()> {
    for damaged in &report.lost {
        run.screen.message("damaged_file", &damaged_fields(damaged))?;
    }
    let hex = |ids: &[twinkeep_engine::id::ChunkId]| ids.iter().map(|id| id.to_hex()).collect::<Vec<_>>();
    for mended in &report.mended {
        let fields = json!({ "old": mended.old.to_hex(), "new": mended.new.map(|id| id.to_hex()) });
        run.screen.message("mended", &fields)?;
    }
    let fields = json!({
        "dry_run": dry_run, "outcome": word(report.outcome()),
        "faults": report.faults.len(), "records_copied": report.records_copied,
        "recovered": hex(&report.recovered), "healed": hex(&report.healed), "mended": report.mended.len(),
        "unreadable": hex(&report.unreadable), "damaged_files": report.lost.len() as u64 + report.lost_more,
        "set_aside": report.set_aside, "duration_secs": report.duration.as_secs_f64(),
    });
    run.screen.message("summary", &fields)
}

fn damaged_fields(damaged: &DamagedFile) -> Value {
    let mut fields = Map::new();
    put_path(&mut fields, "path", &damaged.path);
    fields.insert("snapshot".into(), damaged.snapshot.to_hex().into());
    let ranges: Vec<[u64; 2]> = damaged.ranges.iter().map(|range| [range.start, range.end]).collect();
    fields.insert("ranges".into(), json!(ranges));
    Value::Object(fields)
}

fn snapshots_words(run: &Run, report: &SnapshotRepair) -> anyhow::Result<()> {
    for damaged in &report.lost {
        let ranges: Vec<String> = damaged.ranges.iter().map(|range| format!("{}…{}", range.start, range.end)).collect();
        let place = if ranges.is_empty() { String::new() } else { format!(", bytes {}", ranges.join(", ")) };
        let path = show::escaped(&damaged.path);
        run.screen.line(&format!("lost: {path} in snapshot {}{place}", show::short(&damaged.snapshot)))?;
    }
    if report.lost_more > 0 {
        run.screen.line(&format!("… and {} more", report.lost_more))?;
    }
    for id in &report.recovered {
        run.screen.line(&format!("listed again: snapshot {}", show::short(id)))?;
    }
    for id in &report.healed {
        run.screen.line(&format!("whole again: snapshot {}", show::short(id)))?;
    }
    for mended in &report.mended {
        let new = mended.new.map_or("a new one".to_owned(), |id| show::short(&id));
        run.screen.line(&format!("mended: snapshot {} as {new}", show::short(&mended.old)))?;
    }
    for id in &report.unreadable {
        run.screen.line(&format!("not readable at all: snapshot {}", show::short(id)))?;
    }
    run.screen.tell(&format!("done in {}", show::duration(report.duration)))
}

fn tell_faults(run: &Run, faults: &[Fault]) -> anyhow::Result<()> {
    for fault in faults {
        match run.screen.json {
            true => run.screen.message("fault", &json!({ "file": fault.file, "problem": fault.problem }))?,
            false => {
                run.screen.line(&show::escaped(format!("damaged: {}: {}", fault.file, fault.problem).as_bytes()))?;
            }
        }
    }
    Ok(())
}
