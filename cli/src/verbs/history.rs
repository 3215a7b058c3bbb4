//! `history`: all versions of one file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};
use twinkeep_engine::query::{self, ChangeKind, QueryError, Version, Versions};
use twinkeep_engine::vault::{ErrorClass, SnapshotInfo, Vault};

use crate::error::{Code, hinted, one_line};
use crate::names::SnapshotChoice;
use crate::screen::put_path;
use crate::session::Run;
use crate::{paths, show};

/// Which file, and where to look.
#[derive(Args, Debug)]
#[command(
    after_help = "Snapshots that follow each other and have the same are one version, told by the first of them.\n\n\
    Example: when did this change? Bring an older version back\n  \
    twinkeep history ~/letters/offer.odt\n  \
    twinkeep restore 4f2a11c0:/home/ann/letters/offer.odt --target /tmp/back"
)]
pub struct HistoryArgs {
    /// The file or folder
    #[arg(value_name = "PATH")]
    place: OsString,
    #[command(flatten)]
    choice: SnapshotChoice,
}

/// What was found.
struct Found {
    path: Vec<u8>,
    versions: Versions,
    is_damaged: bool,
}

/// Prints the versions.
pub fn run(run: &Run, args: &HistoryArgs) -> anyhow::Result<Code> {
    let cwd = run.cwd();
    let vault = run.open()?;
    let list = run.snapshots(&vault)?;
    let list = args.choice.choose(&list, &cwd);
    let typed = args.place.as_bytes();
    // As it is found here, or, for files of other machines and times, as it was typed.
    let places = paths::distinct(vec![paths::physical(&cwd, typed), paths::absolute(&cwd, typed)]);
    let mut is_damaged = false;
    let mut found = None;
    for path in places {
        let one = search(run, &vault, &list, path)?;
        is_damaged |= one.is_damaged;
        if !one.versions.list().is_empty() {
            found = Some(one);
            break;
        }
    }
    match found {
        Some(found) => tell(run, &found, list.len())?,
        None if is_damaged => {}
        None => {
            let message = format!("no snapshot that matches has {}", show::escaped(typed));
            return Err(hinted(Code::Failed, message, "`twinkeep find` looks for names in all folders"));
        }
    }
    Ok(if is_damaged { Code::Damaged } else { run.listed() })
}

fn search(run: &Run, vault: &Vault, list: &[&SnapshotInfo], path: Vec<u8>) -> anyhow::Result<Found> {
    let reader = vault.reader().map_err(QueryError::from)?;
    let (mut versions, mut is_damaged) = (Versions::default(), false);
    for info in list {
        match query::version_in(&reader, info, &path) {
            Ok(Some(entry)) => versions.add(info, entry),
            Ok(None) => {}
            Err(error) if error.class() == ErrorClass::Damaged => {
                is_damaged = true;
                let why = one_line(&anyhow::Error::new(error));
                run.screen.warn(None, &format!("snapshot {} is passed over: {why}", show::short(&info.id)));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot search snapshot {}", show::short(&info.id)));
            }
        }
    }
    Ok(Found { path, versions, is_damaged })
}

fn tell(run: &Run, found: &Found, snapshots: usize) -> anyhow::Result<()> {
    let list = found.versions.list();
    if run.screen.json {
        for version in list {
            run.screen.message("file_version", &Value::Object(fields(&found.path, version)))?;
        }
        return run.screen.message("summary", &json!({ "versions": list.len(), "snapshots": snapshots }));
    }
    run.screen.write_stdout(table(run, list).as_bytes())?;
    run.screen.tell(&format!(
        "{} of {} in {}",
        show::count(list.len() as u64, "version"),
        show::escaped(&found.path),
        show::count(snapshots as u64, "snapshot")
    ))
}

fn fields(path: &[u8], version: &Version) -> Map<String, Value> {
    let mut fields = Map::new();
    put_path(&mut fields, "path", path);
    let entry = version.entry.as_ref();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.into(), value));
    put("host", version.host.clone().into());
    put("snapshot", version.first.0.to_hex().into());
    put("time", show::timestamp(version.first.1).to_string().into());
    put("last_snapshot", version.last.0.to_hex().into());
    put("last_time", show::timestamp(version.last.1).to_string().into());
    put("snapshots", version.snapshots.into());
    put("change", word(version.change).into());
    put("type", entry.map(|entry| show::kind_word(&entry.what)).into());
    put("size", entry.and_then(show::file_len).into());
    put("mtime", entry.and_then(|entry| show::json_file_time(entry.meta.mtime)).into());
    fields
}

fn word(change: ChangeKind) -> &'static str {
    match change {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Content => "content",
        ChangeKind::Metadata => "metadata",
        ChangeKind::Type => "type",
    }
}

fn table(run: &Run, list: &[Version]) -> String {
    let row = |version: &Version| {
        let entry = version.entry.as_ref();
        vec![
            show::short(&version.first.0),
            show::local(show::timestamp(version.first.1), &run.zone),
            show::escaped(version.host.as_bytes()),
            word(version.change).to_owned(),
            entry.and_then(show::file_len).map(show::size).unwrap_or_default(),
            entry.map(|entry| show::local_file_time(entry.meta.mtime, &run.zone)).unwrap_or_default(),
            version.snapshots.to_string(),
        ]
    };
    let header = ["Snapshot", "Time", "Host", "Change", "Size", "Modified", "Snapshots"];
    show::table(&header, list.iter().map(row).collect(), &[4, 6])
}
