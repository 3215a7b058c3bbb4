//! `undelete`: forgotten snapshots are wanted again.

use clap::Args;
use serde_json::json;
use twinkeep_engine::retention;
use twinkeep_engine::vault::SnapshotInfo;

use crate::error::{Code, usage};
use crate::retention::{forgotten_named, told};
use crate::session::Run;
use crate::show;

/// Which ones.
#[derive(Args, Debug)]
#[command(after_help = "`twinkeep snapshots --forgotten` lists what can be brought back, and until when.\n\n\
    Examples: bring one back; bring all back\n  \
    twinkeep undelete 4f2a91c0\n  twinkeep undelete --all")]
pub struct UndeleteArgs {
    /// Snapshots, by the first 4 or more digits of their ids
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// Bring back all that can be
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

/// Brings them back.
pub fn run(run: &Run, args: &UndeleteArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let list = run.all_snapshots(&vault)?.forgotten;
    let chosen: Vec<SnapshotInfo> = match args.all {
        true => list,
        false => args.ids.iter().map(|text| forgotten_named(&vault, &list, text)).collect::<anyhow::Result<_>>()?,
    };
    if chosen.is_empty() && !args.all {
        return Err(usage("name the snapshots to bring back"));
    }
    let records: Vec<u64> = chosen.iter().map(|info| info.record).collect();
    let back = retention::undelete(&vault, &records).map_err(|error| told(run, error))?;
    if run.screen.json {
        let ids: Vec<String> =
            chosen.iter().filter(|info| back.contains(&info.record)).map(|info| info.id.to_hex()).collect();
        run.screen.message("summary", &json!({ "undeleted": ids }))?;
    }
    run.screen.tell(&format!("brought back {}", show::count(back.len() as u64, "snapshot")))?;
    Ok(run.listed())
}
