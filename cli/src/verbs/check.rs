//! `check`: whether the vault is whole.

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};
use twinkeep_engine::check::{self, CheckOptions, CheckReport, Subset};

use crate::error::{Code, told};
use crate::screen::put_path;
use crate::session::Run;
use crate::{show, watch};

/// How deep.
#[derive(Args, Debug)]
#[command(
    after_help = "Without options the structure is checked; --read-data reads, opens and verifies every byte.\n\n\
    Example: a seventh of the data every day\n  twinkeep check --read-data-subset 3/7"
)]
pub struct CheckArgs {
    /// Read everything and verify it
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read the n-th of t parts, or about x percent
    #[arg(long, value_name = "N/T|X%", value_parser = parse_subset)]
    read_data_subset: Option<SubsetArg>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum SubsetArg {
    Part(u64, u64),
    Percent(f64),
}

fn parse_subset(text: &str) -> Result<SubsetArg, String> {
    let wrong = || format!("{text:?} is not a part like 3/7 or 5%");
    if let Some((n, of)) = text.split_once('/') {
        let (n, of): (u64, u64) = (n.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
        return if (1..=of).contains(&n) { Ok(SubsetArg::Part(n, of)) } else { Err(wrong()) };
    }
    let percent: f64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    if percent > 0.0 && percent <= 100.0 { Ok(SubsetArg::Percent(percent)) } else { Err(wrong()) }
}

/// Checks.
pub fn run(run: &Run, args: &CheckArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let subset = args.read_data_subset.map(|subset| match subset {
        SubsetArg::Part(n, of) => Subset::Part { n, of },
        SubsetArg::Percent(percent) => Subset::Percent(percent),
    });
    let options = CheckOptions { read_data: args.read_data || subset.is_some(), subset };
    let progress = watch::progress(&run.screen);
    let watch = watch::Watch::begin(&run.screen, &progress)?;
    let done = check::check(&vault, &options, &progress);
    drop(watch);
    if done.is_err() && progress.is_cancelled() {
        return Err(told(Code::Interrupted, "interrupted before everything was checked"));
    }
    let report = done.context("the check could not be made")?;
    if run.screen.json {
        tell_json(run, &report)?
    } else {
        tell_words(run, &report)?
    }
    Ok(if report.is_clean() { Code::Done } else { Code::Damaged })
}

fn tell_json(run: &Run, report: &CheckReport) -> anyhow::Result<()> {
    for fault in &report.faults {
        run.screen.message("fault", &json!({ "file": fault.file, "problem": fault.problem }))?;
    }
    for damaged in &report.damaged {
        let mut fields = Map::new();
        put_path(&mut fields, "path", &damaged.path);
        fields.insert("snapshot".into(), damaged.snapshot.to_hex().into());
        let ranges: Vec<[u64; 2]> = damaged.ranges.iter().map(|range| [range.start, range.end]).collect();
        fields.insert("ranges".into(), json!(ranges));
        run.screen.message("damaged_file", &Value::Object(fields))?;
    }
    let fields = json!({
        "clean": report.is_clean(),
        "snapshots": report.snapshots,
        "records": report.records,
        "packs": report.packs,
        "frames": report.frames,
        "chunks": report.chunks,
        "bytes_read": report.bytes_read,
        "faults": report.faults.len(),
        "damaged_files": report.damaged.len() as u64 + report.damaged_more,
        "unwhole": report.unwhole,
        "duration_secs": report.duration.as_secs_f64(),
    });
    run.screen.message("summary", &fields)
}

fn tell_words(run: &Run, report: &CheckReport) -> anyhow::Result<()> {
    for fault in &report.faults {
        run.screen.line(&show::escaped(format!("damaged: {}: {}", fault.file, fault.problem).as_bytes()))?;
    }
    for damaged in &report.damaged {
        let ranges: Vec<String> = damaged.ranges.iter().map(|range| format!("{}…{}", range.start, range.end)).collect();
        let place = if ranges.is_empty() { String::new() } else { format!(", bytes {}", ranges.join(", ")) };
        let path = show::escaped(&damaged.path);
        run.screen.line(&format!("lost: {path} in snapshot {}{place}", show::short(&damaged.snapshot)))?;
    }
    if report.damaged_more > 0 {
        run.screen.line(&format!("… and {} more", report.damaged_more))?;
    }
    run.screen.tell(&format!(
        "checked {}, {} of {}, {} in {}; read {} in {}",
        show::count(report.snapshots, "snapshot"),
        show::count(report.frames, "frame"),
        show::count(report.chunks, "chunk"),
        show::count(report.records, "record"),
        show::count(report.packs, "pack"),
        show::size(report.bytes_read),
        show::duration(report.duration)
    ))?;
    if report.is_clean() {
        return run.screen.tell("everything is whole");
    }
    if report.unwhole > 0 {
        run.screen
            .line(&format!("{} below which data is missing", show::count(report.unwhole, "folder or file list")))?;
    }
    run.screen.warn(None, "damage found; a new backup of the same files heals what it can read again");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets() {
        let check = |text, expected| assert_eq!(parse_subset(text).ok(), expected, "{text}");
        check("1/1", Some(SubsetArg::Part(1, 1)));
        check("3/7", Some(SubsetArg::Part(3, 7)));
        check("2.5%", Some(SubsetArg::Percent(2.5)));
        for bad in ["", "0/7", "8/7", "1/0", "5", "0%", "101%", "-1%", "NaN%", "a/b"] {
            check(bad, None);
        }
    }
}
