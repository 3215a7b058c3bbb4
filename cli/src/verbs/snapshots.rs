//! `snapshots`: the list of what was backed up.

use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};
use twinkeep_engine::env::Time;
use twinkeep_engine::history::{DAY, RefState};
use twinkeep_engine::retention::{GroupBy, GroupKey};
use twinkeep_engine::vault::{Received, SnapshotInfo, Vault};

use crate::error::Code;
use crate::names::SnapshotFilter;
use crate::retention::group_by;
use crate::session::Run;
use crate::show;

/// Which ones, and how.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples: the last two of every machine; what can be brought back with `undelete`, and until when\n  \
    twinkeep snapshots --latest 2 --group-by host\n  \
    twinkeep snapshots --forgotten"
)]
pub struct SnapshotsArgs {
    #[command(flatten)]
    filter: SnapshotFilter,
    /// Only the newest N, with --group-by of each group
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// List those together that have this in common: host, paths, tags, separated by commas
    #[arg(long, value_name = "WHAT,…", value_parser = group_by)]
    group_by: Option<GroupBy>,
    /// Instead of the others, those that were forgotten and can be brought back
    #[arg(long)]
    forgotten: bool,
}

/// Prints the list.
pub fn run(run: &Run, args: &SnapshotsArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    if vault.device().is_some() {
        return received(run, &vault);
    }
    let cwd = run.cwd();
    let all = run.all_snapshots(&vault)?;
    let list = if args.forgotten { all.forgotten } else { all.list };
    let list: Vec<SnapshotInfo> = list.into_iter().filter(|info| args.filter.admits(info, &cwd)).collect();
    let groups = grouped(&list, args.group_by, args.latest);
    if run.screen.json {
        for info in groups.values().flatten() {
            run.screen.message("snapshot", &Value::Object(fields(info)))?;
        }
        return Ok(run.listed());
    }
    let mut shown = 0;
    for (key, infos) in &groups {
        if args.group_by.is_some() {
            run.screen.line(&group_title(key))?;
        }
        shown += infos.len();
        run.screen.write_stdout(table(infos, &run.zone).as_bytes())?;
        if args.group_by.is_some() {
            run.screen.line("")?;
        }
    }
    run.screen.tell(&show::count(shown as u64, "snapshot"))?;
    Ok(run.listed())
}

/// What a write-only device can tell: its own snapshots, unopened.
fn received(run: &Run, vault: &Vault) -> anyhow::Result<Code> {
    let list = vault.received()?;
    if run.screen.json {
        for one in &list {
            let fields = json!({
                "id": one.id.to_hex(),
                "short_id": show::short(&one.id),
                "received": show::timestamp(one.received).to_string(),
                "partial": one.partial,
                "device": vault.device().map(|id| id.to_hex()),
            });
            run.screen.message("snapshot", &fields)?;
        }
        return Ok(Code::Done);
    }
    let row = |one: &Received| {
        let partial = if one.partial { "partial" } else { "" };
        vec![show::short(&one.id), show::local(show::timestamp(one.received), &run.zone), partial.to_owned()]
    };
    let table = show::table(&["ID", "Received", ""], list.iter().map(row).collect(), &[]);
    run.screen.write_stdout(table.as_bytes())?;
    let count = show::count(list.len() as u64, "snapshot");
    run.screen.tell(&format!("{count} of this device; its key may only write, so what they hold is not shown"))?;
    Ok(Code::Done)
}

/// The snapshots by what they have in common, each group from old to new.
fn grouped(
    list: &[SnapshotInfo],
    by: Option<GroupBy>,
    latest: Option<usize>,
) -> BTreeMap<GroupKey, Vec<&SnapshotInfo>> {
    let mut groups: BTreeMap<GroupKey, Vec<&SnapshotInfo>> = BTreeMap::new();
    for info in list {
        let snapshot = &info.snapshot;
        let key = by.map(|by| by.key(info.device, &snapshot.host, &snapshot.paths, &snapshot.tags));
        groups.entry(key.unwrap_or_default()).or_default().push(info);
    }
    for infos in groups.values_mut() {
        infos.sort_by_key(|info| info.snapshot.time);
        if let Some(latest) = latest {
            infos.drain(..infos.len().saturating_sub(latest));
        }
    }
    groups
}

/// What people read above a group.
pub fn group_title(GroupKey { device, host, paths, tags }: &GroupKey) -> String {
    let shown = |paths: &Vec<Vec<u8>>| paths.iter().map(|path| show::escaped(path)).collect::<Vec<_>>().join(", ");
    let parts = [
        device.as_ref().map(|device| format!("device {device}")),
        host.as_ref().map(|host| format!("host {}", show::escaped(host.as_bytes()))),
        paths.as_ref().map(|paths| format!("paths {}", shown(paths))),
        tags.as_ref().map(|tags| format!("tags {}", show::escaped(tags.join(",").as_bytes()))),
    ];
    let title = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    if title.is_empty() { "all snapshots".to_owned() } else { title }
}

/// The table people see; several paths stand below each other.
fn table(infos: &[&SnapshotInfo], zone: &TimeZone) -> String {
    let row = |info: &&SnapshotInfo| {
        let snapshot = &info.snapshot;
        let lines = |texts: Vec<String>| texts.join("\n");
        vec![
            show::short(&info.id),
            show::local(show::timestamp(snapshot.time), zone),
            show::escaped(snapshot.host.as_bytes()),
            lines(snapshot.tags.iter().map(|tag| show::escaped(tag.as_bytes())).collect()),
            lines(snapshot.paths.iter().map(|path| show::escaped(path)).collect()),
            snapshot.totals.files.to_string(),
            show::size(snapshot.totals.bytes),
            marks(info, zone),
        ]
    };
    show::table(&["ID", "Time", "Host", "Tags", "Paths", "Files", "Size", ""], infos.iter().map(row).collect(), &[5, 6])
}

/// What is special about a snapshot.
fn marks(info: &SnapshotInfo, zone: &TimeZone) -> String {
    let marks = [
        info.snapshot.partial.then(|| "partial".to_owned()),
        info.device.map(|id| format!("device {}", &id.to_hex()[..8])),
        info.pinned.then(|| "pinned".to_owned()),
        info.aside.then(|| "set aside".to_owned()),
        undelete_until(info).map(|until| format!("until {}", show::local(until, zone))),
    ];
    marks.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// When the window of a forgotten snapshot ends; it may be there for longer.
fn undelete_until(info: &SnapshotInfo) -> Option<Timestamp> {
    let RefState::Forgotten { at, undelete_days } = info.state else { return None };
    Some(show::timestamp(Time(at.0.saturating_add(i64::from(undelete_days) * DAY))))
}

/// What a group has in common, for `--json`; null where that does not count.
pub fn group_fields(key: &GroupKey) -> Value {
    let paths =
        key.paths.as_ref().map(|paths| paths.iter().map(|path| String::from_utf8_lossy(path)).collect::<Vec<_>>());
    json!({ "device": key.device.map(|id| id.to_hex()), "host": key.host, "paths": paths, "tags": key.tags })
}

/// The fields of a `snapshot` message.
pub fn fields(info: &SnapshotInfo) -> Map<String, Value> {
    let snapshot = &info.snapshot;
    let totals = &snapshot.totals;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.into(), value));
    put("id", info.id.to_hex().into());
    put("short_id", show::short(&info.id).into());
    put("time", show::timestamp(snapshot.time).to_string().into());
    put("started", show::timestamp(snapshot.started).to_string().into());
    put("received", show::timestamp(info.received).to_string().into());
    put("host", snapshot.host.clone().into());
    put("user", snapshot.user.clone().into());
    put("tags", json!(snapshot.tags));
    let texts: Vec<_> = snapshot.paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
    put("paths", json!(texts));
    if snapshot.paths.iter().any(|path| std::str::from_utf8(path).is_err()) {
        let coded: Vec<String> = snapshot.paths.iter().map(|path| data_encoding::BASE64.encode(path)).collect();
        put("paths_b64", json!(coded));
    }
    put("parent", snapshot.parent.map(|id| id.to_hex()).into());
    put("tree", snapshot.tree.to_hex().into());
    put("program", snapshot.program.clone().into());
    put("device", info.device.map(|id| id.to_hex()).into());
    put("partial", snapshot.partial.into());
    put("pinned", info.pinned.into());
    put("aside", info.aside.into());
    if let RefState::Forgotten { at, .. } = info.state {
        put("forgotten", show::timestamp(at).to_string().into());
        put("undelete_until", undelete_until(info).map(|until| until.to_string()).into());
    }
    put("excludes", json!(snapshot.excludes));
    put("files", totals.files.into());
    put("dirs", totals.dirs.into());
    put("others", totals.others.into());
    put("bytes", totals.bytes.into());
    put("errors", totals.errors.into());
    fields
}
