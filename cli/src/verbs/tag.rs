//! `tag`: gives snapshots other tags.

use std::ffi::OsString;

use clap::Args;
use serde_json::json;
use twinkeep_engine::retention::{self, TagEdit};
use twinkeep_engine::vault::SnapshotInfo;

use crate::error::{Code, usage};
use crate::names::SnapshotFilter;
use crate::retention::{named, told};
use crate::session::Run;
use crate::show;

/// Which snapshots, and which tags.
#[derive(Args, Debug)]
#[command(after_help = "What was backed up does not change, and neither do the snapshots' ids.\n\n\
    Examples: mark all snapshots of a machine; correct a tag of the newest snapshot\n  \
    twinkeep tag --add archive --host old-laptop\n  \
    twinkeep tag --remove dayly --add daily latest")]
pub struct TagArgs {
    /// Snapshots: ID, latest, latest~2, @2026-11-01. Without any, all that match --host, --tag and --path
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<OsString>,
    /// Add these, separated by commas (may be repeated)
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    add: Vec<String>,
    /// Take these away, separated by commas (may be repeated)
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    remove: Vec<String>,
    /// Have these and no others; "" for none
    #[arg(long, value_name = "TAG,…", value_delimiter = ',', conflicts_with_all = ["add", "remove"])]
    set: Option<Vec<String>>,
    #[command(flatten)]
    filter: SnapshotFilter,
}

/// Tags them.
pub fn run(run: &Run, args: &TagArgs) -> anyhow::Result<Code> {
    let real = |tags: &[String]| tags.iter().filter(|tag| !tag.is_empty()).cloned().collect::<Vec<_>>();
    let edit = match &args.set {
        Some(tags) => TagEdit::Set(real(tags)),
        None => TagEdit::Change { add: real(&args.add), remove: real(&args.remove) },
    };
    if edit == (TagEdit::Change { add: Vec::new(), remove: Vec::new() }) {
        return Err(usage("nothing to do: give --add, --remove or --set"));
    }
    if args.snapshots.is_empty() && !args.filter.is_any() {
        return Err(usage("name snapshots, or choose them with --host, --tag or --path"));
    }
    let vault = run.open()?;
    let list = run.snapshots(&vault)?;
    let cwd = run.cwd();
    let infos: Vec<SnapshotInfo> = match args.snapshots.is_empty() {
        true => list.into_iter().filter(|info| args.filter.admits(info, &cwd)).collect(),
        false => named(run, &list, &args.snapshots)?,
    };
    let records: Vec<u64> = infos.iter().map(|info| info.record).collect();
    let done = retention::tag(&vault, &records, &edit).map_err(|error| told(run, error))?;
    if run.screen.json {
        let ids: Vec<String> =
            infos.iter().filter(|info| done.contains(&info.record)).map(|info| info.id.to_hex()).collect();
        run.screen.message("summary", &json!({ "tagged": ids }))?;
    }
    run.screen.tell(&format!("changed the tags of {}", show::count(done.len() as u64, "snapshot")))?;
    Ok(run.listed())
}
