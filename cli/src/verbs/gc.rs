//! `gc`: freeing what no snapshot needs.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use twinkeep_engine::gc::{self, Access, GcOptions, GcReport, Step};
use twinkeep_engine::retention;
use twinkeep_engine::vault::Vault;

use crate::error::{Code, hinted, told, usage};
use crate::office;
use crate::retention::told as retention_told;
use crate::session::Run;
use crate::{show, watch};

/// How.
#[derive(Args, Debug)]
#[command(
    after_help = "Forgotten snapshots keep their data until they can no longer be brought back. Backups and restores\n\
    may run beside it: what backups that began earlier may still use stays until they have ended, and\n\
    goes with the next gc. Interrupted at any moment it loses nothing; the next gc goes on from there.\n\n\
    Examples: what would be freed; free it, and wait up to an hour for backups that run; without a key\n  \
    twinkeep gc --dry-run\n  \
    twinkeep gc --wait 3600\n  \
    twinkeep gc --no-key"
)]
pub struct GcArgs {
    /// Only say what would be freed, and what would be written anew for it
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait up to so many seconds for backups that began earlier. What still has to wait then the next gc frees
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// Do without the vault's key. Then frames of which only a part is needed stay as they are, and windows that
    /// ended since the last forget or gc with a key are not noticed
    #[arg(long)]
    no_key: bool,
}

/// Frees.
pub fn run(run: &Run, args: &GcArgs) -> anyhow::Result<Code> {
    if run.is_office()? {
        return at_office(run, args);
    }
    let options = GcOptions { dry_run: args.dry_run, wait: Duration::from_secs(args.wait), ..GcOptions::default() };
    if args.no_key {
        let opened = run.open_store(run.env(None))?;
        for note in opened.notes() {
            run.screen.warn(None, &note);
        }
        let access = Access::Keyless { store: &opened.store, retention_days_min: opened.config.retention_days_min };
        return collect(run, access, &options, "summary");
    }
    let vault = run.open()?;
    vault.require_member().context("space is freed by who knows all snapshots; --no-key goes by the records alone")?;
    if args.dry_run {
        tell_due(run, &vault)?;
    } else if let Err(error) = retention::expire(&vault) {
        // What time asks for has to wait; the rest need not.
        run.screen.warn(None, &crate::error::one_line(&retention_told(run, error)));
    }
    collect(run, Access::Keys(&vault), &options, "summary")
}

/// At an office the host frees by itself, every day; an administrator may have it done now.
fn at_office(run: &Run, args: &GcArgs) -> anyhow::Result<Code> {
    if args.dry_run || args.wait > 0 || args.no_key {
        return Err(usage("the host of an office frees space its own way: `twinkeep gc` without further flags"));
    }
    let freed = office::admin()?.collect().map_err(office::told)?;
    if run.screen.json {
        let fields = json!({
            "bytes": freed.bytes,
            "frames": freed.frames,
            "copies": freed.copies,
            "problems": freed.problems,
        });
        run.screen.message("office_gc", &fields)?;
    } else {
        for problem in &freed.problems {
            run.screen.warn(None, problem);
        }
        let copies = show::count(freed.copies, "frame");
        run.screen.tell(&format!("freed {} at the host; {copies} set aside elsewhere", show::size(freed.bytes)))?;
    }
    Ok(if freed.problems.is_empty() { Code::Done } else { Code::Damaged })
}

/// A dry run purges nothing, so it counts as needed what a real one lets go.
fn tell_due(run: &Run, vault: &Vault) -> anyhow::Result<()> {
    let due = retention::due(&vault.history()?, vault.env().clock.now()).len();
    if due > 0 {
        let all = show::count(due as u64, "forgotten snapshot");
        run.screen.warn(
            None,
            &format!(
                "{all}, past the time to be brought back, would go first; here what only they need counts as needed"
            ),
        );
    }
    Ok(())
}

/// Frees at the end of another verb, with the keys at hand and without waiting for anybody. That verb's own summary
/// stands before, so this one has another type.
pub fn free(run: &Run, vault: &Vault, dry_run: bool) -> anyhow::Result<Code> {
    collect(run, Access::Keys(vault), &GcOptions { dry_run, ..GcOptions::default() }, "gc_summary")
}

fn collect(run: &Run, access: Access<'_>, options: &GcOptions, summary: &str) -> anyhow::Result<Code> {
    let progress = watch::progress(&run.screen);
    let watch = watch::Watch::begin(&run.screen, &progress)?;
    let done = gc::collect(access, options, &progress);
    drop(watch);
    let report = match done {
        Ok(report) => report,
        Err(_) if progress.is_cancelled() => {
            return Err(told(Code::Interrupted, "interrupted; the next gc goes on where this one was"));
        }
        Err(error @ (gc::GcError::Record { .. } | gc::GcError::Missing(_) | gc::GcError::Unreadable { .. })) => {
            return Err(hinted(
                Code::Damaged,
                format!("nothing was removed, because what has to be kept is damaged: {error}"),
                "`twinkeep check` says what; a backup of the same files or `twinkeep repair` mends it",
            ));
        }
        Err(error) => return Err(error).context("nothing that is needed was touched"),
    };
    if run.screen.json { tell_json(run, &report, options, summary) } else { tell_words(run, &report, options) }?;
    Ok(if report.damaged.is_empty() { Code::Done } else { Code::Damaged })
}

fn tell_json(run: &Run, report: &GcReport, options: &GcOptions, summary: &str) -> anyhow::Result<()> {
    for (pack, step) in report.plan.packs.iter().filter(|(_, step)| *step != Step::Keep) {
        let fields = json!({
            "pack": pack.name,
            "step": match step { Step::Keep => "keep", Step::Drop => "remove", Step::Rewrite => "rewrite" },
            "bytes": pack.len,
            "dead_bytes": pack.dead_len + pack.inner_dead_len,
            "live_frames": pack.live_frames,
            "dead_frames": pack.dead_frames,
            "sparse_frames": pack.sparse_frames,
        });
        run.screen.message("pack", &fields)?;
    }
    let fields = json!({
        "dry_run": options.dry_run,
        "finished": report.waits_for.is_empty(),
        "waits_for": report.waits_for,
        "chunks_live": report.chunks_live,
        "chunks_condemned": report.chunks_condemned,
        "chunks_removed": report.chunks_removed,
        "frames_moved": report.frames_moved,
        "frames_taken_apart": report.frames_taken_apart,
        "packs_removed": report.packs_removed,
        "bytes_to_free": report.plan.won(),
        "bytes_to_move": report.plan.moved(),
        "bytes_moved": report.bytes_moved,
        "bytes_freed": report.bytes_freed,
        "bytes_dead_left": report.plan.left(),
        "damaged": report.damaged,
        "duration_secs": report.duration.as_secs_f64(),
    });
    run.screen.message(summary, &fields)
}

fn tell_words(run: &Run, report: &GcReport, options: &GcOptions) -> anyhow::Result<()> {
    let plan = &report.plan;
    if options.dry_run || run.globals.verbose > 0 {
        for (pack, step) in &plan.packs {
            let what = match step {
                Step::Keep => continue,
                Step::Drop => "remove",
                Step::Rewrite => "rewrite",
            };
            let dead = show::size(pack.dead_len + pack.inner_dead_len);
            run.screen.line(&format!("{what} {}: {dead} of {} not needed", pack.name, show::size(pack.len)))?;
        }
    }
    if options.dry_run {
        run.screen.tell(&format!(
            "would free {} by removing {} and moving {} out of {}; {} not needed would stay in packs and frames",
            show::size(plan.won()),
            show::count(plan.with(Step::Drop).count() as u64, "pack"),
            show::size(plan.moved()),
            show::count(plan.with(Step::Rewrite).count() as u64, "other"),
            show::size(plan.left()),
        ))?;
        return Ok(());
    }
    if !report.waits_for.is_empty() {
        let what = match report.chunks_condemned {
            0 => "what an earlier gc found unneeded".to_owned(),
            chunks => show::count(chunks, "chunk"),
        };
        let owners = report.waits_for.join("; ");
        return run.screen.tell(&format!("{what} may go when these backups have ended, by another gc: {owners}"));
    }
    for damaged in &report.damaged {
        run.screen.line(&format!("damaged, left where it is: {damaged}"))?;
    }
    run.screen.tell(&format!(
        "removed {} that no snapshot needs; freed {} in {}, wrote {} anew, in {}",
        show::count(report.chunks_removed, "chunk"),
        show::size(report.bytes_freed.saturating_sub(report.bytes_moved)),
        show::count(report.packs_removed, "pack"),
        show::size(report.bytes_moved),
        show::duration(report.duration),
    ))
}
