//! `diff`: what changed from one snapshot to another.

use std::ffi::OsString;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};
use twinkeep_engine::branch::entry::{Entry, What};
use twinkeep_engine::query::{self, Change, ChangeKind};

use crate::error::Code;
use crate::names::SnapshotFilter;
use crate::screen::put_path;
use crate::session::Run;
use crate::show;

/// Which two.
#[derive(Args, Debug)]
#[command(after_help = "Marks: + added, - removed, M content changed, U only metadata changed, T another type.\n\n\
    Example: what the last backup brought\n  twinkeep diff latest~1 latest")]
pub struct DiffArgs {
    /// The older one
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    from: OsString,
    /// The newer one
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    to: OsString,
    #[command(flatten)]
    filter: SnapshotFilter,
}

/// How many changes of each kind.
#[derive(Default)]
struct Tally {
    added: u64,
    removed: u64,
    content: u64,
    metadata: u64,
    kind: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

/// Prints the changes.
pub fn run(run: &Run, args: &DiffArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let (_, from) = run.resolve(&vault, &args.from, &args.filter)?;
    let (_, to) = run.resolve(&vault, &args.to, &args.filter)?;
    let mut tally = Tally::default();
    let mut failure = None;
    query::diff(&vault, &from, &to, &mut |change| {
        tally.count(change);
        if failure.is_none() {
            failure = print(run, change).err();
        }
    })
    .context("cannot compare the snapshots")?;
    failure.map_or(Ok(()), Err)?;
    tell(run, &tally)?;
    Ok(Code::Done)
}

fn print(run: &Run, change: &Change<'_>) -> anyhow::Result<()> {
    let (mark, word) = match change.kind {
        ChangeKind::Added => ('+', "added"),
        ChangeKind::Removed => ('-', "removed"),
        ChangeKind::Content => ('M', "content"),
        ChangeKind::Metadata => ('U', "metadata"),
        ChangeKind::Type => ('T', "type"),
    };
    if run.screen.json {
        let mut fields = Map::new();
        put_path(&mut fields, "path", change.path);
        fields.insert("modifier".into(), mark.to_string().into());
        fields.insert("change".into(), word.into());
        let kind = |entry: Option<&Entry>| entry.map(|entry| show::kind_word(&entry.what));
        fields.insert("old_type".into(), kind(change.old).into());
        fields.insert("new_type".into(), kind(change.new).into());
        fields.insert("old_size".into(), change.old.and_then(show::file_len).into());
        fields.insert("new_size".into(), change.new.and_then(show::file_len).into());
        return run.screen.message("change", &Value::Object(fields));
    }
    let mut line = format!("{mark}    ").into_bytes();
    line.extend_from_slice(&run.screen.name(change.path));
    let is_dir = change.new.or(change.old).is_some_and(|entry| matches!(entry.what, What::Directory(_)));
    if is_dir && !change.path.ends_with(b"/") {
        line.push(b'/');
    }
    line.push(b'\n');
    run.screen.write_stdout(&line)
}

impl Tally {
    fn count(&mut self, change: &Change<'_>) {
        match change.kind {
            ChangeKind::Added => self.added += 1,
            ChangeKind::Removed => self.removed += 1,
            ChangeKind::Content => self.content += 1,
            ChangeKind::Metadata => self.metadata += 1,
            ChangeKind::Type => self.kind += 1,
        }
        // Metadata alone moves no bytes.
        if !matches!(change.kind, ChangeKind::Metadata) {
            let len = |entry: Option<&Entry>| entry.and_then(show::file_len).unwrap_or(0);
            self.bytes_added = self.bytes_added.saturating_add(len(change.new));
            self.bytes_removed = self.bytes_removed.saturating_add(len(change.old));
        }
    }
}

fn tell(run: &Run, tally: &Tally) -> anyhow::Result<()> {
    if run.screen.json {
        let fields = json!({
            "added": tally.added,
            "removed": tally.removed,
            "content_changed": tally.content,
            "metadata_changed": tally.metadata,
            "type_changed": tally.kind,
            "bytes_added": tally.bytes_added,
            "bytes_removed": tally.bytes_removed,
        });
        return run.screen.message("summary", &fields);
    }
    run.screen.tell(&format!(
        "{} added, {} removed, {} with other content, {} with other metadata, {} of another type",
        tally.added, tally.removed, tally.content, tally.metadata, tally.kind
    ))?;
    let (more, less) = (show::size(tally.bytes_added), show::size(tally.bytes_removed));
    run.screen.tell(&format!("{more} in the newer files, {less} in the older"))
}
