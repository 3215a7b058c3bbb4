//! `stats`: what snapshots hold and what they take.

use std::ffi::OsString;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;
use twinkeep_engine::query::{self, Stats, StatsMode};
use twinkeep_engine::vault::SnapshotInfo;

use crate::error::{Code, usage};
use crate::names::{self, SnapshotFilter, Spec};
use crate::session::Run;
use crate::show;

/// Of which snapshots, and what.
#[derive(Args, Debug)]
#[command(after_help = "Example: what the whole vault takes\n  twinkeep stats --mode raw-data")]
pub struct StatsArgs {
    /// Snapshots to count. Default: all that match
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<OsString>,
    /// What to count
    #[arg(long, default_value = "restore-size")]
    mode: Mode,
    #[command(flatten)]
    filter: SnapshotFilter,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// What a restore of each would write
    RestoreSize,
    /// What all of them take in the vault
    RawData,
    /// How much is kept once and used often
    Dedup,
}

/// Counts.
pub fn run(run: &Run, args: &StatsArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let list = chosen(run, args, run.snapshots(&vault)?)?;
    let mode = match args.mode {
        Mode::RestoreSize => StatsMode::RestoreSize,
        Mode::RawData => StatsMode::Raw,
        Mode::Dedup => StatsMode::Dedup,
    };
    let stats = query::stats(&vault, &list, mode).context("cannot count")?;
    if run.screen.json {
        let fields = json!({
            "snapshots": stats.snapshots,
            "files": stats.files,
            "restore_size": stats.restore_size,
            "unique_chunks": stats.unique_chunks,
            "plain_unique": stats.plain_unique,
            "raw_stored": stats.raw_stored,
            "packs": stats.packs,
            "frames": stats.frames,
            "branches": stats.branches,
        });
        run.screen.message("summary", &fields)?;
    } else {
        for line in lines(args.mode, &stats) {
            run.screen.line(&line)?;
        }
    }
    Ok(run.listed())
}

fn chosen(run: &Run, args: &StatsArgs, list: Vec<SnapshotInfo>) -> anyhow::Result<Vec<SnapshotInfo>> {
    let cwd = run.cwd();
    if args.snapshots.is_empty() {
        return Ok(list.into_iter().filter(|info| args.filter.admits(info, &cwd)).collect());
    }
    let find = |name: &OsString| {
        let spec = Spec::parse(name, &run.zone)?;
        if spec.path.is_some() {
            return Err(usage("stats counts whole snapshots, without a path in them"));
        }
        names::find(&spec.name, &list, &args.filter, &cwd).cloned()
    };
    args.snapshots.iter().map(find).collect()
}

fn lines(mode: Mode, stats: &Stats) -> Vec<String> {
    let of = |what: &str, value: String| format!("{what:<22}{value}");
    let mut lines = vec![of("snapshots", stats.snapshots.to_string())];
    match mode {
        Mode::RestoreSize => {
            lines.push(of("files", stats.files.to_string()));
            lines.push(of("size when restored", show::size(stats.restore_size)));
        }
        Mode::RawData => {
            lines.push(of("stored", show::size(stats.raw_stored)));
            lines.push(of("packs", stats.packs.to_string()));
            lines.push(of("frames", stats.frames.to_string()));
            lines.push(of("chunks", stats.unique_chunks.to_string()));
            lines.push(of("branches", stats.branches.to_string()));
        }
        Mode::Dedup => {
            lines.push(of("size when restored", show::size(stats.restore_size)));
            lines.push(of("different data", show::size(stats.plain_unique)));
            lines.push(of("stored", show::size(stats.raw_stored)));
            lines.push(of("deduplication", ratio(stats.restore_size, stats.plain_unique)));
            lines.push(of("compression", ratio(stats.plain_unique, stats.raw_stored)));
        }
    }
    lines
}

fn ratio(before: u64, after: u64) -> String {
    if after == 0 { "-".to_owned() } else { format!("{:.2} : 1", before as f64 / after as f64) }
}
