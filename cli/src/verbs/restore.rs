//! `restore`: files of a snapshot back onto the disk.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;
use twinkeep_engine::restore::{self, Overwrite, RestoreOptions, RestoreSummary};
use twinkeep_engine::target::OwnerPolicy;

use crate::error::{Code, hinted, told};
use crate::names::SnapshotFilter;
use crate::session::Run;
use crate::{password, show, watch};

/// What is brought back, and where to.
#[derive(Args, Debug)]
#[command(after_help = "SNAPSHOT puts /home/ann/x to TARGET/home/ann/x, SNAPSHOT:/home/ann puts it to TARGET/x.\n\n\
    Example: one folder of the newest snapshot into a new place\n  \
    twinkeep restore latest:/home/ann/documents --target /tmp/restored")]
pub struct RestoreArgs {
    /// The snapshot, and maybe a folder or file in it: ID, latest, latest~2, @2026-11-01, each with :path
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// The folder to restore into
    #[arg(short, long, value_name = "FOLDER", conflicts_with = "in_place")]
    target: Option<PathBuf>,
    /// Restore everything to where it was, over what is there
    #[arg(long)]
    in_place: bool,
    /// Only what matches this pattern (may be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// All but what matches this pattern (may be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Remove what is in restored folders and not in the snapshot
    #[arg(long)]
    delete: bool,
    /// What happens to files that are there
    #[arg(long, value_name = "WHEN", default_value = "always")]
    overwrite: OverwriteArg,
    /// Only tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Read everything again afterwards and compare it
    #[arg(long)]
    verify: bool,
    /// Write runs of zeros as holes
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    sparse: bool,
    /// Let everything belong to the user who restores
    #[arg(long, conflicts_with = "numeric_ids")]
    no_owner: bool,
    /// Take owners by number, not by name
    #[arg(long)]
    numeric_ids: bool,
    /// Leave out extended attributes and ACLs
    #[arg(long)]
    no_xattrs: bool,
    #[command(flatten)]
    filter: SnapshotFilter,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OverwriteArg {
    /// Make them as they were
    Always,
    /// Make those as they were whose size or time differs
    IfChanged,
    /// Replace those that are older
    IfNewer,
    /// Leave them
    Never,
}

/// Restores.
pub fn run(run: &Run, args: &RestoreArgs) -> anyhow::Result<Code> {
    let mut target = target(args)?;
    if args.in_place && args.delete && !args.dry_run {
        confirm_delete(run)?;
    }
    let vault = run.open()?;
    let (info, root) = run.resolve(&vault, &args.snapshot, &args.filter)?;
    if args.in_place {
        target = place_of(&root.path);
    }
    if let Some(device) = info.device {
        // It may claim to be of any host, and `latest` takes it at its word.
        let host = show::escaped(info.snapshot.host.as_bytes());
        run.screen
            .tell(&format!("this snapshot, of host {host} as it says, was made by the write-only device {device}"))?;
    }
    let options = RestoreOptions {
        target,
        includes: args.include.clone(),
        excludes: args.exclude.clone(),
        delete: args.delete,
        overwrite: match args.overwrite {
            OverwriteArg::Always => Overwrite::Always,
            OverwriteArg::IfChanged => Overwrite::IfChanged,
            OverwriteArg::IfNewer => Overwrite::IfNewer,
            OverwriteArg::Never => Overwrite::Never,
        },
        dry_run: args.dry_run,
        verify: args.verify,
        sparse: args.sparse,
        owner: match (args.no_owner, args.numeric_ids) {
            (true, _) => OwnerPolicy::Nobody,
            (false, true) => OwnerPolicy::Numbers,
            (false, false) => OwnerPolicy::Names,
        },
        xattrs: !args.no_xattrs,
    };
    let progress = watch::progress(&run.screen);
    let watch = watch::Watch::begin(&run.screen, &progress)?;
    let done = restore::restore(&vault, &root, &options, &progress);
    drop(watch);
    if done.is_err() && progress.is_cancelled() {
        return Err(told(Code::Interrupted, "interrupted; the same command goes on where it ended"));
    }
    let summary = done.context("the restore failed")?;
    tell(run, args, &show::short(&info.id), &options, &summary)?;
    Ok(match &summary {
        summary if summary.damaged > 0 => Code::Damaged,
        summary if summary.errors > 0 => Code::Failed,
        _ => Code::Done,
    })
}

fn target(args: &RestoreArgs) -> anyhow::Result<PathBuf> {
    match (&args.target, args.in_place) {
        // A slash at the end stays: it says that a symlink there is meant to be followed.
        (Some(target), _) => Ok(std::path::absolute(target)?),
        (None, true) => Ok(PathBuf::from("/")),
        (None, false) => Err(hinted(
            Code::Usage,
            "where to? without --target nothing is overwritten",
            "--target FOLDER restores into a folder, --in-place to where everything was",
        )),
    }
}

/// The folder that the last name of a path stands in: restored there, it is where it was.
fn place_of(path: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(path));
    path.parent().unwrap_or(path).to_owned()
}

fn confirm_delete(run: &Run) -> anyhow::Result<()> {
    if run.globals.yes
        || password::confirm("Remove everything in the restored folders that the snapshot does not have?")?
    {
        return Ok(());
    }
    Err(hinted(Code::Usage, "--in-place --delete removes files and was not confirmed", "--yes confirms it"))
}

fn tell(
    run: &Run,
    args: &RestoreArgs,
    id: &str,
    options: &RestoreOptions,
    summary: &RestoreSummary,
) -> anyhow::Result<()> {
    if run.screen.json {
        let fields = json!({
            "snapshot": id,
            "target": options.target.to_string_lossy(),
            "dry_run": args.dry_run,
            "files_restored": summary.files_restored,
            "files_skipped": summary.files_skipped,
            "dirs": summary.dirs,
            "others": summary.others,
            "deleted": summary.deleted,
            "bytes_written": summary.bytes_written,
            "bytes_reused": summary.bytes_reused,
            "verified": summary.verified,
            "errors": summary.errors,
            "damaged": summary.damaged,
            "duration_secs": summary.duration.as_secs_f64(),
        });
        return run.screen.message("summary", &fields);
    }
    let verb = if args.dry_run { "would restore" } else { "restored" };
    run.screen.tell(&format!(
        "{verb} {} and {} of snapshot {id} to {} in {}",
        show::count(summary.files_restored, "file"),
        show::count(summary.dirs, "folder"),
        options.target.display(),
        show::duration(summary.duration)
    ))?;
    run.screen.tell(&format!(
        "{} written, {} were there already",
        show::size(summary.bytes_written),
        show::size(summary.bytes_reused)
    ))?;
    if summary.files_skipped > 0 {
        run.screen.tell(&format!("{} left as they were", show::count(summary.files_skipped, "file")))?;
    }
    if summary.deleted > 0 {
        run.screen.tell(&format!("{} removed", summary.deleted))?;
    }
    if args.verify {
        run.screen.tell(&format!("{} verified", show::count(summary.verified, "file")))?;
    }
    if summary.errors > 0 {
        run.screen.tell(&format!("{} could not be restored, see the warnings", summary.errors))?;
    }
    Ok(())
}
