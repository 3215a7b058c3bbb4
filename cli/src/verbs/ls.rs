//! `ls`: what is in a folder of a snapshot.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use twinkeep_engine::query::{Step, TreeRoot};
use twinkeep_engine::vault::Vault;

use super::walk::{self, Seen, WalkEntry};
use crate::error::Code;
use crate::names::SnapshotFilter;
use crate::session::Run;
use crate::verbs::snapshots;
use crate::{node, paths};

/// Which folder, and how.
#[derive(Args, Debug)]
#[command(after_help = "Example: everything below a folder of the newest snapshot\n  \
    twinkeep ls -l --recursive latest:/home/ann/documents")]
pub struct LsArgs {
    /// The snapshot, and maybe a folder in it: ID, latest, latest~2, @2026-11-01, each with :path
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// Folders or files in it to list, instead of its top
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Also mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Also what is in folders below
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    filter: SnapshotFilter,
}

/// Prints the list.
pub fn run(run: &Run, args: &LsArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let (info, root) = run.resolve(&vault, &args.snapshot, &args.filter)?;
    if run.screen.json {
        run.screen.message("snapshot", &Value::Object(snapshots::fields(&info)))?;
    }
    let mut seen = Seen::All;
    if args.paths.is_empty() {
        seen = list(run, args, &vault, &root)?;
    }
    for path in &args.paths {
        let path = paths::absolute(&root.path, path.as_bytes());
        seen = seen.and(list(run, args, &vault, &run.resolve_path(&vault, &info, &path)?)?);
    }
    Ok(seen.code())
}

fn list(run: &Run, args: &LsArgs, vault: &Vault, root: &TreeRoot) -> anyhow::Result<Seen> {
    let mut visit = |found: &WalkEntry<'_>| {
        if run.screen.json {
            run.screen.message("node", &Value::Object(node::fields(found.path, found.entry)))?;
        } else {
            run.screen.write_stdout(&node::line(&run.screen, found.path, found.entry, args.long, &run.zone))?;
        }
        Ok(if args.recursive { Step::Continue } else { Step::SkipChildren })
    };
    walk::each(&run.screen, vault, root, &mut visit).context("cannot list the snapshot")
}
