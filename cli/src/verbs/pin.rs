//! `pin`: snapshots that no policy forgets.

use std::ffi::OsString;

use clap::Args;
use serde_json::json;
use twinkeep_engine::retention;

use crate::error::Code;
use crate::retention::{named, told};
use crate::session::Run;
use crate::show;

/// Which ones.
#[derive(Args, Debug)]
#[command(after_help = "A pinned snapshot is forgotten neither by rules nor by name.\n\n\
    Examples: keep the newest snapshot whatever a policy says; let one go again\n  \
    twinkeep pin latest\n  twinkeep pin --remove 4f2a91c0")]
pub struct PinArgs {
    /// Snapshots: ID, latest, latest~2, @2026-11-01
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<OsString>,
    /// Unpin them: they may be forgotten again
    #[arg(long)]
    remove: bool,
}

/// Pins them.
pub fn run(run: &Run, args: &PinArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let infos = named(run, &run.snapshots(&vault)?, &args.snapshots)?;
    let records: Vec<u64> = infos.iter().map(|info| info.record).collect();
    let done = match args.remove {
        true => retention::unpin(&vault, &records),
        false => retention::pin(&vault, &records),
    };
    let done = done.map_err(|error| told(run, error))?;
    let word = if args.remove { "unpinned" } else { "pinned" };
    if run.screen.json {
        let ids: Vec<String> =
            infos.iter().filter(|info| done.contains(&info.record)).map(|info| info.id.to_hex()).collect();
        run.screen.message("summary", &json!({ word: ids }))?;
    }
    run.screen.tell(&format!("{word} {}", show::count(done.len() as u64, "snapshot")))?;
    Ok(run.listed())
}
