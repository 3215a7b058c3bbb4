//! `stats`: what snapshots hold, what they take, and what would be freed without them.

use std::ffi::OsString;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::query::{self, Freed, FreedReport, Space, Stats, StatsMode};
use twinkeep_engine::vault::{SnapshotInfo, Vault};

use crate::error::{Code, usage};
use crate::names::{self, SnapshotChoice, Spec};
use crate::session::Run;
use crate::show;

/// Of which snapshots, and what.
#[derive(Args, Debug)]
#[command(after_help = "Sizes in the vault are of compressed data. Nothing is changed.\n\n\
    Examples: what all snapshots take; what is freed when those of a machine go; what each one alone\n\
    holds back; what the vault is filled with\n  \
    twinkeep stats --mode raw-data\n  \
    twinkeep stats --mode freed --host old-laptop\n  \
    twinkeep stats --each\n  \
    twinkeep stats --mode space")]
pub struct StatsArgs {
    /// Snapshots to count. Default: all that match
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<OsString>,
    /// What to count. Default: restore-size
    #[arg(long)]
    mode: Option<Mode>,
    /// For each of the snapshots, what only it needs: what would be freed if just that one were gone
    #[arg(long)]
    each: bool,
    #[command(flatten)]
    choice: SnapshotChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// What a restore of each would write
    RestoreSize,
    /// What all of them take in the vault
    RawData,
    /// How much is stored only once though it is in several places
    Dedup,
    /// What would be freed if these snapshots were gone for good and gc had run
    Freed,
    /// What the whole vault is filled with: needed, forgotten, unused
    Space,
}

/// Counts.
pub fn run(run: &Run, args: &StatsArgs) -> anyhow::Result<Code> {
    let mode = match (args.mode, args.each) {
        (None, true) => Mode::Freed,
        (Some(mode), true) if mode != Mode::Freed => return Err(usage("--each goes with --mode freed")),
        (mode, _) => mode.unwrap_or(Mode::RestoreSize),
    };
    if mode == Mode::Space && !(args.snapshots.is_empty() && args.choice.is_all()) {
        return Err(usage("--mode space tells of the whole vault, not of some snapshots"));
    }
    let vault = run.open()?;
    match mode {
        Mode::RestoreSize => totals(run, args, &vault, StatsMode::RestoreSize)?,
        Mode::RawData => totals(run, args, &vault, StatsMode::Raw)?,
        Mode::Dedup => totals(run, args, &vault, StatsMode::Dedup)?,
        Mode::Freed => freed(run, args, &vault)?,
        Mode::Space => space(run, &vault)?,
    }
    Ok(run.listed())
}

fn chosen(run: &Run, args: &StatsArgs, list: &[SnapshotInfo]) -> anyhow::Result<Vec<SnapshotInfo>> {
    let cwd = run.cwd();
    if args.snapshots.is_empty() {
        return Ok(args.choice.choose(list, &cwd).into_iter().cloned().collect());
    }
    let mut found: Vec<SnapshotInfo> = Vec::new();
    for name in &args.snapshots {
        let spec = Spec::parse(name, &run.zone)?;
        if spec.path.is_some() {
            return Err(usage("stats counts whole snapshots, without a path in them"));
        }
        let info = names::find(&spec.name, list, &args.choice.filter, &cwd)?;
        if found.iter().all(|other| other.id != info.id) {
            found.push(info.clone());
        }
    }
    Ok(found)
}

fn totals(run: &Run, args: &StatsArgs, vault: &Vault, mode: StatsMode) -> anyhow::Result<()> {
    let list = chosen(run, args, &run.snapshots(vault)?)?;
    let stats = query::stats(vault, &list, mode).context("cannot count")?;
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
        return run.screen.message("summary", &fields);
    }
    lines(mode, &stats).iter().try_for_each(|line| run.screen.line(line))
}

fn lines(mode: StatsMode, stats: &Stats) -> Vec<String> {
    let mut lines = vec![of("snapshots", stats.snapshots.to_string())];
    match mode {
        StatsMode::RestoreSize => {
            lines.push(of("files", stats.files.to_string()));
            lines.push(of("size when restored", show::size(stats.restore_size)));
        }
        StatsMode::Raw => {
            lines.push(of("stored", show::size(stats.raw_stored)));
            lines.push(of("packs", stats.packs.to_string()));
            lines.push(of("frames", stats.frames.to_string()));
            lines.push(of("chunks", stats.unique_chunks.to_string()));
            lines.push(of("branches", stats.branches.to_string()));
        }
        StatsMode::Dedup => {
            lines.push(of("size when restored", show::size(stats.restore_size)));
            lines.push(of("different data", show::size(stats.plain_unique)));
            lines.push(of("stored", show::size(stats.raw_stored)));
            lines.push(of("deduplication", ratio(stats.restore_size, stats.plain_unique)));
            lines.push(of("compression", ratio(stats.plain_unique, stats.raw_stored)));
        }
    }
    lines
}

fn of(what: &str, value: String) -> String {
    format!("{what:<22}{value}")
}

fn ratio(before: u64, after: u64) -> String {
    if after == 0 { "-".to_owned() } else { format!("{:.2} : 1", before as f64 / after as f64) }
}

fn freed(run: &Run, args: &StatsArgs, vault: &Vault) -> anyhow::Result<()> {
    let all = run.all_snapshots(vault)?;
    let list = chosen(run, args, &all.list)?;
    let ids: Vec<ChunkId> = list.iter().map(|info| info.id).collect();
    let report = query::freed(vault, &all, &ids).context("cannot count")?;
    warn_lacking(run, report.missing, !all.damaged.is_empty());
    let each = if args.each { list.as_slice() } else { &[] };
    if run.screen.json {
        for (info, freed) in each.iter().zip(&report.each) {
            let mut fields = freed_fields(freed, 1, report.missing);
            fields.insert("snapshot".into(), info.id.to_hex().into());
            run.screen.message("freed", &Value::Object(fields))?;
        }
        let fields = freed_fields(&report.together, list.len() as u64, report.missing);
        return run.screen.message("freed", &Value::Object(fields));
    }
    if args.each {
        return run.screen.write_stdout(each_table(run, each, &report).as_bytes());
    }
    let together = &report.together;
    run.screen.line(&of("snapshots", list.len().to_string()))?;
    run.screen.line(&of("data only they need", show::size(together.plain)))?;
    run.screen.line(&of("stored, about", show::size(together.stored)))?;
    run.screen.line(&of("of it for certain", show::size(together.stored_whole)))?;
    run.screen.line(&of("chunks", together.chunks.to_string()))
}

fn freed_fields(freed: &Freed, snapshots: u64, missing: u64) -> Map<String, Value> {
    let mut fields = Map::new();
    let numbers = [
        ("snapshots", snapshots),
        ("chunks", freed.chunks),
        ("branches", freed.branches),
        ("bytes_plain", freed.plain),
        ("bytes_stored", freed.stored),
        ("bytes_stored_whole", freed.stored_whole),
        ("missing", missing),
    ];
    fields.extend(numbers.map(|(name, number)| (name.to_owned(), number.into())));
    fields
}

fn each_table(run: &Run, list: &[SnapshotInfo], report: &FreedReport) -> String {
    let row = |name: String, time: String, host: String, freed: &Freed| {
        let sizes = [freed.plain, freed.stored, freed.stored_whole].map(show::size);
        [name, time, host].into_iter().chain(sizes).collect::<Vec<String>>()
    };
    let mut rows: Vec<Vec<String>> = Vec::with_capacity(list.len() + 1);
    for (info, freed) in list.iter().zip(&report.each) {
        let time = show::local(show::timestamp(info.snapshot.time), &run.zone);
        rows.push(row(show::short(&info.id), time, show::escaped(info.snapshot.host.as_bytes()), freed));
    }
    rows.push(row("together".to_owned(), String::new(), String::new(), &report.together));
    show::table(&["ID", "Time", "Host", "Only here", "Stored, about", "For certain"], rows, &[3, 4, 5])
}

/// Numbers that are too high are worse than none when somebody decides by them.
fn warn_lacking(run: &Run, missing: u64, lacks_snapshots: bool) {
    if missing > 0 {
        let what = show::count(missing, "reference");
        run.screen.warn(None, &format!("{what} of snapshots lead to nothing; see `twinkeep check`"));
    }
    if lacks_snapshots {
        run.screen.warn(None, "what damaged snapshots need is not known: what seems to be unused may not be");
    }
}

fn space(run: &Run, vault: &Vault) -> anyhow::Result<()> {
    let all = run.all_snapshots(vault)?;
    let space = query::space(vault, &all).context("cannot count")?;
    warn_lacking(run, space.missing, !all.damaged.is_empty());
    if run.screen.json {
        return run.screen.message("space", &space_fields(&space));
    }
    run.screen.write_stdout(space_table(&space).as_bytes())?;
    let parts: Vec<String> = [
        (space.spare, "that the index has no use for: further copies, or let go by gc"),
        (space.unwhole, "parts of backups that were not finished"),
        (space.suspect, "in damaged frames"),
    ]
    .into_iter()
    .filter(|(bytes, _)| *bytes > 0)
    .map(|(bytes, what)| format!("{} {what}", show::size(bytes)))
    .collect();
    if parts.is_empty() { Ok(()) } else { run.screen.tell(&format!("of what is unused, about {}", parts.join(", "))) }
}

fn space_fields(space: &Space) -> Value {
    json!({
        "packs": space.packs,
        "bytes_total": space.total,
        "bytes_needed": space.needed,
        "bytes_forgotten": space.forgotten,
        "bytes_superseded": space.superseded,
        "packs_unused": space.dead_packs,
        "bytes_unused_packs": space.dead_pack_bytes,
        "frames_unused": space.dead_frames,
        "bytes_unused_frames": space.dead_frame_bytes,
        "bytes_unused_in_frames": space.dead_in_frames,
        "bytes_spare": space.spare,
        "bytes_unwhole": space.unwhole,
        "bytes_suspect": space.suspect,
        "bytes_unfinished": space.unfinished,
        "bytes_overhead": space.overhead,
        "missing": space.missing,
    })
}

fn space_table(space: &Space) -> String {
    let percent = |bytes: u64| match space.total {
        0 => String::new(),
        total => format!("{:.1} %", 100.0 * bytes as f64 / total as f64),
    };
    let packs = format!("unused: {}", show::count(space.dead_packs, "whole pack"));
    let frames = format!("unused: {} in other packs", show::count(space.dead_frames, "whole frame"));
    let rows = [
        ("needed by snapshots", space.needed, true),
        ("needed by forgotten snapshots only", space.forgotten, false),
        ("needed by overtaken checkpoints only", space.superseded, false),
        (&packs, space.dead_pack_bytes, true),
        (&frames, space.dead_frame_bytes, true),
        ("unused: in other frames, about", space.dead_in_frames, true),
        ("unfinished backups", space.unfinished, false),
        ("headers and directories", space.overhead, true),
        ("all packs", space.total, true),
    ];
    let shown = rows.into_iter().filter(|(_, bytes, is_always)| *is_always || *bytes > 0);
    let rows = shown.map(|(what, bytes, _)| vec![what.to_owned(), show::size(bytes), percent(bytes)]).collect();
    show::table(&["What", "Size", "Part"], rows, &[1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_a_table_of_what_there_is() {
        let space = Space { total: 4000, needed: 3000, dead_packs: 1, dead_pack_bytes: 1000, ..Space::default() };
        let expected = "\
What                                      Size     Part
needed by snapshots                    2.9 KiB   75.0 %
unused: 1 whole pack                    1000 B   25.0 %
unused: 0 whole frames in other packs      0 B    0.0 %
unused: in other frames, about             0 B    0.0 %
headers and directories                    0 B    0.0 %
all packs                              3.9 KiB  100.0 %
";
        assert_eq!(space_table(&space), expected);
    }
}
