//! `backup`: files and folders, or a stream, as a new snapshot.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use twinkeep_engine::backup::{self, BackupOptions, BackupSummary};
use twinkeep_engine::env::Time;
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::retention;
use twinkeep_engine::source::filter::FilterOptions;
use twinkeep_engine::vault::{ErrorClass, Vault};

use super::version;
use crate::error::{Code, hinted, told, usage};
use crate::names::{self, SnapshotFilter, Spec};
use crate::session::{Run, host_name};
use crate::{outbox, parse, show, sources, stream, watch};

/// What is backed up, and how.
#[derive(Args, Debug)]
#[command(after_help = "The first backup makes the vault and shows its recovery words.\n\n\
    Examples:\n  \
    twinkeep backup ~/documents /etc --exclude '*.tmp' --tag daily\n  \
    twinkeep backup --stdin-from-command --stdin-filename all.sql -- pg_dumpall")]
pub struct BackupArgs {
    /// Files and folders
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Only tell what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Leave out what matches this pattern (may be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Like --exclude, without regard to case
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Leave out what matches the patterns in this file, one a line; lines that begin with # are comments
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what is in folders that a CACHEDIR.TAG marks as caches
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out what is in folders with a file of this name (and this beginning)
    #[arg(long, value_name = "NAME[:BEGINNING]")]
    exclude_if_present: Vec<String>,
    /// Leave out files larger than this: 500K, 10M, 1.5G
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    exclude_larger_than: Option<u64>,
    /// Obey .gitignore files
    #[arg(long)]
    git_ignore: bool,
    /// Also back up the paths in this file, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// Also back up the paths in this file, each ended by a NUL byte; - is standard input
    #[arg(long, value_name = "FILE")]
    files_from_raw: Vec<PathBuf>,
    /// Read every file, unchanged or not
    #[arg(short, long)]
    force: bool,
    /// Compare with this snapshot. Default: the newest of the same machine and paths
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "force")]
    parent: Option<OsString>,
    /// Do not enter other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Give the snapshot these tags, separated by commas (may be repeated)
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    tag: Vec<String>,
    /// Give the snapshot this machine name
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Give the snapshot this time, for information: 2026-11-01 12:30
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// Back up what comes from standard input as one file
    #[arg(long, conflicts_with = "paths")]
    stdin: bool,
    /// The name of that file
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    stdin_filename: OsString,
    /// Run the command after -- and back up what it prints; if it fails, nothing is kept
    #[arg(long, conflicts_with = "stdin")]
    stdin_from_command: bool,
    /// At an office, wait until so many machines have all of it, ten minutes at most: copies=0, 1 or 2
    #[arg(long, value_name = "copies=N", value_parser = wait)]
    wait: Option<Wait>,
    /// At an office, where second copies of what is new go: to this PC first if it grants room, or to others alone
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    placement: Placement,
    /// Keep the snapshot whatever a policy says, until the pin is removed
    #[arg(long)]
    pin: bool,
    /// Make no snapshot when nothing has changed
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Take files for unchanged though their inode numbers differ
    #[arg(long)]
    ignore_inode: bool,
    /// Take files for unchanged though their change times differ
    #[arg(long)]
    ignore_ctime: bool,
    /// Keep the times of last reading
    #[arg(long)]
    with_atime: bool,
    /// Work with so many threads. Default: one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    read_concurrency: Option<u16>,
}

/// Where second copies go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum Placement {
    /// To this PC first: nothing has to be sent
    #[default]
    Own,
    /// Never to this PC: losing it, or having it stolen, loses no copy
    Spread,
}

/// What is read.
enum Wanted {
    Paths(Vec<Vec<u8>>),
    Stdin,
    Command(Vec<OsString>),
}

/// Backs up.
pub fn run(run: &Run, args: &BackupArgs) -> anyhow::Result<Code> {
    let wanted = wanted(run, args)?;
    let filter = filter(args)?;
    // Mistakes in patterns are told before a vault is made.
    twinkeep_engine::source::filter::Filter::new(filter.clone())
        .map_err(|error| usage(crate::error::one_line(&error.into())))?;
    let time = args.time.as_deref().map(|text| parse::moment(text, &run.zone)).transpose().map_err(usage)?;
    let threads = args.read_concurrency.map(usize::from);
    if args.wait.is_some_and(|wait| wait.0 > 1) && run.is_in_folder()? {
        let text = "--wait copies=2 is for an office: this vault is in a folder, and has no second copy";
        return Err(hinted(Code::Usage, text, "`twinkeep login NAME` first, or leave --wait out"));
    }
    let mut vault = if args.dry_run { run.open()? } else { run.open_or_create(threads)? };
    if args.placement == Placement::Spread {
        match run.office_store() {
            Some(store) => store.spread(),
            None if run.is_waiting_here() => run.spread_when_sent()?,
            None => return Err(usage("--placement spread is for an office: this vault is on one machine")),
        }
    }
    if args.skip_if_unchanged && vault.device().is_some() {
        run.screen.warn(None, "a write-only device cannot tell whether the last snapshot is the same: one is made");
    }
    let cache_dir = cache_dir(run);
    let mut options = BackupOptions {
        paths: Vec::new(),
        filter,
        force: args.force,
        parent: parent(run, args, &vault)?,
        host: args.host.clone().unwrap_or_else(host_name),
        user: user_name(),
        tags: args.tag.iter().filter(|tag| !tag.is_empty()).cloned().collect(),
        time: time.and_then(|moment| i64::try_from(moment.first.as_nanosecond()).ok()).map(Time),
        with_atime: args.with_atime,
        ignore_inode: args.ignore_inode,
        ignore_ctime: args.ignore_ctime,
        dry_run: args.dry_run,
        skip_if_unchanged: args.skip_if_unchanged,
        own_dirs: own_dirs(run, cache_dir.as_deref()),
        cache_dir,
        command: command_line(std::env::args_os()),
        program: version::program(),
    };
    let progress = watch::progress(&run.screen);
    let watch = watch::Watch::begin(&run.screen, &progress)?;
    let name = args.stdin_filename.as_bytes();
    let done = match wanted {
        Wanted::Paths(paths) => {
            options.paths = paths;
            match backup::backup(&vault, &options, &progress) {
                Err(error) if error.class() == ErrorClass::Unreachable && !args.dry_run => {
                    vault = run.fall_back(error.into(), threads)?;
                    if args.placement == Placement::Spread {
                        run.spread_when_sent()?;
                    }
                    options.parent = None;
                    backup::backup(&vault, &options, &progress)
                }
                done => done,
            }
        }
        Wanted::Stdin => {
            let input = Box::new(stream::Input::stdin(progress.clone()));
            backup::backup_stream(&vault, name, input, &options, &progress)
        }
        Wanted::Command(command) => {
            let input = Box::new(stream::Input::command(&command, progress.clone())?);
            backup::backup_stream(&vault, name, input, &options, &progress)
        }
    };
    drop(watch);
    if done.is_err() && progress.is_cancelled() {
        return Err(told(Code::Interrupted, "interrupted; what was stored will not be read again next time"));
    }
    let summary = done.context("the backup failed")?;
    if let Some(id) = summary.snapshot.filter(|_| args.pin) {
        pin(run, &vault, &id)?;
    }
    if run.office_store().is_some()
        && let Err(error) = retention::purge(&vault)
    {
        // What was forgotten long ago is let go by whoever has the keys; the host frees it. It can wait.
        run.screen.detail(&format!("nothing was let go: {error}"));
    }
    let copies = copies(run, args, &summary)?;
    tell(run, args, &summary, copies.as_ref())?;
    let wanted = args.wait.and_then(|wait| copies.as_ref().map(|copies| copies.count() < wait.0));
    Ok(match &summary {
        summary if summary.unwhole > 0 => Code::Damaged,
        summary if summary.errors > 0 => Code::Incomplete,
        _ if wanted == Some(true) || run.is_waiting_here() => Code::FewerCopies,
        summary if summary.healed > 0 => Code::Healed,
        _ => Code::Done,
    })
}

/// How many machines have all of the snapshot.
struct Kept {
    level: u8,
    /// Whether it is not at the host yet.
    waits_here: bool,
    /// Whether this machine is the host.
    is_host: bool,
    holders: Vec<String>,
    /// The name of this machine, if it is a terminal.
    this_machine: Option<String>,
    /// No copy is to be on this machine.
    spread: bool,
}

impl Kept {
    /// Copies, as `--wait` counts them: on machines, whichever they are.
    fn count(&self) -> u8 {
        if self.level >= 2 { 2 } else { 1 }
    }

    fn words(&self) -> String {
        if self.waits_here {
            return "1 copy: this PC alone; it goes to the host as soon as that can be reached".to_owned();
        }
        let elsewhere = if self.spread { " to another machine" } else { "" };
        match self.level {
            // Only who was backed up on the host's machine is told so.
            0 => return "1 copy: host, this machine alone; the second is on its way".to_owned(),
            1 => return format!("1 copy: host; the second is on its way{elsewhere}"),
            _ => {}
        }
        let is_this = |holder: &String| self.this_machine.as_ref() == Some(holder);
        let is_here = self.holders.iter().any(is_this);
        let named = |holder| format!("{holder}{}", if is_this(holder) { " (this PC)" } else { "" });
        let others = self.holders.iter().map(named).collect::<Vec<_>>().join(", ");
        // Each of several has a part, and there is one of each part.
        let (of_all, one_of) = if self.holders.len() > 1 { (" of everything", "and one of ") } else { ("", "") };
        let host = if self.is_host { "host (this machine)" } else { "host" };
        let mut words = format!("2 copies{of_all}: {host}, {one_of}{others}");
        match (self.is_host, is_here) {
            (true, _) => words.push_str("; losing this machine leaves 1"),
            (false, true) => words.push_str("; losing this PC leaves 1"),
            (false, false) => {}
        }
        words
    }
}

/// How long a second copy is waited for that was asked for.
const WAIT: std::time::Duration = std::time::Duration::from_secs(600);

/// How safe the snapshot is; none where the vault is not at an office. Waits as `--wait` says.
fn copies(run: &Run, args: &BackupArgs, summary: &BackupSummary) -> anyhow::Result<Option<Kept>> {
    let name = crate::office::machine_name();
    if run.is_waiting_here() {
        return Ok(summary.snapshot.map(|_| Kept {
            level: 0,
            waits_here: true,
            is_host: false,
            holders: Vec::new(),
            this_machine: name,
            spread: args.placement == Placement::Spread,
        }));
    }
    let Some(store) = run.office_store().filter(|_| summary.snapshot.is_some()) else { return Ok(None) };
    let is_host = crate::office::Service::get()?.role == crate::office::Role::Host;
    let begun = std::time::Instant::now();
    loop {
        let spread = args.placement == Placement::Spread;
        let mut kept = Kept {
            level: u8::from(!is_host),
            waits_here: false,
            is_host,
            holders: Vec::new(),
            this_machine: name.clone(),
            spread,
        };
        let asked = store.copies(None);
        let is_over = asked.is_err();
        match asked {
            Ok(copies) => (kept.level, kept.holders) = (copies.level, copies.holders),
            // The snapshot is at the host, whatever became of the line since.
            Err(error) => run.screen.warn(None, &format!("where copies are cannot be asked: {}", error.text)),
        }
        if is_over || args.wait.is_none_or(|wait| kept.count() >= wait.0) || begun.elapsed() > WAIT {
            return Ok(Some(kept));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// What `--wait` waits for.
#[derive(Clone, Copy, Debug)]
struct Wait(u8);

fn wait(text: &str) -> Result<Wait, String> {
    match text.strip_prefix("copies=") {
        Some("0") => Ok(Wait(0)),
        Some("1") => Ok(Wait(1)),
        Some("2") => Ok(Wait(2)),
        _ => Err(format!("{text:?} is none of copies=0, copies=1 and copies=2")),
    }
}

fn pin(run: &Run, vault: &Vault, id: &ChunkId) -> anyhow::Result<()> {
    let stored = || format!("snapshot {} is stored but not pinned", show::short(id));
    let history = vault.history().with_context(stored)?;
    let records: Vec<u64> =
        history.refs.values().filter(|entry| entry.reference.target == *id).map(|entry| entry.count).collect();
    retention::pin(vault, &records).map_err(|error| crate::retention::told(run, error)).with_context(stored)?;
    Ok(())
}

fn wanted(run: &Run, args: &BackupArgs) -> anyhow::Result<Wanted> {
    if args.stdin_from_command {
        return match args.paths.is_empty() {
            true => Err(usage("--stdin-from-command needs a command: … --stdin-from-command -- COMMAND")),
            false => Ok(Wanted::Command(args.paths.clone())),
        };
    }
    let has_lists = !args.files_from.is_empty() || !args.files_from_raw.is_empty();
    if args.stdin {
        return if has_lists { Err(usage("--stdin and --files-from exclude each other")) } else { Ok(Wanted::Stdin) };
    }
    let named = sources::named(&args.paths, &args.files_from, &args.files_from_raw)?;
    if named.is_empty() {
        return Err(usage("nothing to back up: name files or folders"));
    }
    // What a script's empty variable leaves is not meant to be the current folder.
    if named.iter().any(Vec::is_empty) {
        return Err(usage("one of the paths to back up is empty"));
    }
    let there = sources::existing(&run.screen, sources::absolute(&run.cwd(), named));
    // What is missing counts like a source that cannot be read, and the engine counts it once it tries.
    if there.present == 0 {
        return Err(told(Code::Failed, "none of the paths to back up is there"));
    }
    Ok(Wanted::Paths(there.paths))
}

fn filter(args: &BackupArgs) -> anyhow::Result<FilterOptions> {
    let mut excludes = args.exclude.clone();
    for path in &args.exclude_file {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the patterns in {}", path.display()))?;
        excludes.extend(sources::patterns(&text));
    }
    Ok(FilterOptions {
        excludes,
        iexcludes: args.iexclude.clone(),
        exclude_caches: args.exclude_caches,
        exclude_if_present: args.exclude_if_present.clone(),
        exclude_larger_than: args.exclude_larger_than,
        one_file_system: args.one_file_system,
        git_ignore: args.git_ignore,
    })
}

fn parent(run: &Run, args: &BackupArgs, vault: &Vault) -> anyhow::Result<Option<ChunkId>> {
    let Some(name) = &args.parent else { return Ok(None) };
    if run.is_waiting_here() {
        run.screen.warn(None, "the parent is at the host: every file is read");
        return Ok(None);
    }
    let spec = Spec::parse(name, &run.zone)?;
    if spec.path.is_some() {
        return Err(usage("--parent names a snapshot, without a path in it"));
    }
    let list = run.snapshots(vault)?;
    Ok(Some(names::find(&spec.name, &list, &SnapshotFilter::default(), &run.cwd())?.id))
}

/// Without a place for caches a backup only takes longer.
fn cache_dir(run: &Run) -> Option<PathBuf> {
    let made = run.cache_dir().and_then(|dir| std::fs::create_dir_all(&dir).map(|()| dir).map_err(Into::into));
    made.map_err(|error| run.screen.warn(None, &format!("no cache: {}", crate::error::one_line(&error)))).ok()
}

/// The vault, what waits for the office, and the cache, which are no part of what is backed up even where they lie in it.
/// Nor is what a service of the office keeps here, where it goes to the office: each backup would store the one before.
fn own_dirs(run: &Run, cache_dir: Option<&Path>) -> Vec<(u64, u64)> {
    let (vault, outbox) = (run.location().ok(), outbox::folder());
    let service = crate::office::Service::find().ok().flatten().filter(|_| vault.is_none());
    let kept: Vec<PathBuf> = service
        .iter()
        .flat_map(|service| ["vaults", "holders", "copies"].map(|name| service.data.join(name)))
        .collect();
    let kept = kept.iter().map(PathBuf::as_path);
    let dirs = vault.as_deref().into_iter().chain(outbox.as_deref()).chain(cache_dir).chain(kept);
    dirs.filter_map(|dir| std::fs::metadata(dir).ok()).map(|found| (found.dev(), found.ino())).collect()
}

/// The command line, without what may hold a password.
fn command_line(args: impl Iterator<Item = OsString>) -> Vec<String> {
    const SECRET: &str = "--password-command";
    let mut hides_next = false;
    let told = |arg: OsString| {
        let text = arg.to_string_lossy().into_owned();
        if std::mem::replace(&mut hides_next, text == SECRET) {
            return "…".to_owned();
        }
        match text.strip_prefix(SECRET).is_some_and(|rest| rest.starts_with('=')) {
            true => format!("{SECRET}=…"),
            false => text,
        }
    };
    args.map(told).collect()
}

fn user_name() -> String {
    let uid = uzers::get_current_uid();
    uzers::get_user_by_uid(uid).map_or_else(|| uid.to_string(), |user| user.name().to_string_lossy().into_owned())
}

fn tell(run: &Run, args: &BackupArgs, summary: &BackupSummary, copies: Option<&Kept>) -> anyhow::Result<()> {
    let id = summary.snapshot.map(|id| id.to_hex());
    if run.screen.json {
        let fields = json!({
            "snapshot_id": id,
            "parent": summary.parent.map(|id| id.to_hex()),
            "dry_run": args.dry_run,
            "files_new": summary.files_new,
            "files_changed": summary.files_changed,
            "files_unchanged": summary.files_unchanged,
            "dirs_new": summary.dirs_new,
            "dirs_changed": summary.dirs_changed,
            "dirs_unchanged": summary.dirs_unchanged,
            "others": summary.others,
            "bytes_processed": summary.bytes_processed,
            "bytes_added": summary.bytes_added,
            "bytes_stored": summary.bytes_stored,
            "chunks_new": summary.chunks_new,
            "chunks_known": summary.chunks_known,
            "errors": summary.errors,
            "healed": summary.healed,
            "unwhole": summary.unwhole,
            "duration_secs": summary.duration.as_secs_f64(),
            "level": copies.map(|copies| format!("P{}", copies.level)),
            "holders": copies.map(|copies| copies.holders.clone()),
            "placement": copies.map(|copies| if copies.spread { "spread" } else { "own" }),
        });
        return run.screen.message("summary", &fields);
    }
    for line in lines(args, summary, run.screen.verbose) {
        run.screen.tell(&line)?;
    }
    if let Some(copies) = copies {
        run.screen.tell(&copies.words())?;
    }
    if summary.unwhole > 0 {
        let snapshots = show::count(summary.unwhole, "snapshot");
        run.screen.warn(None, &format!("{snapshots} in the vault still miss data; see `twinkeep check`"));
    }
    Ok(())
}

fn lines(args: &BackupArgs, summary: &BackupSummary, verbose: u8) -> Vec<String> {
    let of = |new, changed, same| format!("{new} new, {changed} changed, {same} unchanged");
    let mut lines = vec![
        format!("files    {}", of(summary.files_new, summary.files_changed, summary.files_unchanged)),
        format!("folders  {}", of(summary.dirs_new, summary.dirs_changed, summary.dirs_unchanged)),
        format!(
            "read {} in {}; {} of it new, stored as {}",
            show::size(summary.bytes_processed),
            show::duration(summary.duration),
            show::size(summary.bytes_added),
            show::size(summary.bytes_stored)
        ),
    ];
    if verbose > 0 {
        lines.push(format!("chunks   {} new, {} known", summary.chunks_new, summary.chunks_known));
        let parent = summary.parent.map_or_else(|| "none".to_owned(), |id| show::short(&id));
        lines.push(format!("compared with snapshot {parent}"));
    }
    if summary.healed > 0 {
        lines.push(format!(
            "{} of older snapshots made whole again",
            show::count(summary.healed, "folder or file list")
        ));
    }
    if summary.errors > 0 {
        lines.push(format!("{} could not be read, see the warnings", show::count(summary.errors, "source")));
    }
    lines.push(match (&summary.snapshot, args.dry_run) {
        (Some(id), _) => format!("snapshot {} saved", show::short(id)),
        (None, true) => "nothing was stored: this was a dry run".to_owned(),
        (None, false) => "nothing has changed, no snapshot was made".to_owned(),
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_copy_is_said() {
        let check = |level: u8, holders: &[&str], this: Option<&str>, expected: &str| {
            let holders = holders.iter().map(|name| (*name).to_owned()).collect();
            let (this_machine, is_host) = (this.map(str::to_owned), this == Some("the host"));
            let kept = Kept { level, waits_here: false, is_host, holders, this_machine, spread: false };
            assert_eq!(kept.words(), expected);
        };
        let nobody = Vec::new;
        let alone =
            Kept { level: 0, waits_here: true, is_host: false, holders: nobody(), this_machine: None, spread: false };
        assert_eq!(alone.words(), "1 copy: this PC alone; it goes to the host as soon as that can be reached");
        check(0, &[], Some("the host"), "1 copy: host, this machine alone; the second is on its way");
        check(2, &["pc7"], Some("the host"), "2 copies: host (this machine), pc7; losing this machine leaves 1");
        let this_machine = Some("pc7".to_owned());
        let spread =
            Kept { level: 1, waits_here: false, is_host: false, holders: nobody(), this_machine, spread: true };
        assert_eq!(spread.words(), "1 copy: host; the second is on its way to another machine");
        check(1, &[], Some("pc7"), "1 copy: host; the second is on its way");
        check(2, &["pc7"], None, "2 copies: host, pc7");
        check(2, &["pc8"], Some("pc7"), "2 copies: host, pc8");
        check(2, &["pc7"], Some("pc7"), "2 copies: host, pc7 (this PC); losing this PC leaves 1");
        check(
            2,
            &["pc7", "pc8"],
            Some("pc7"),
            "2 copies of everything: host, and one of pc7 (this PC), pc8; losing this PC leaves 1",
        );
    }

    #[test]
    fn secrets_stay_out_of_the_command_line() {
        let line = |text: &str| command_line(text.split(' ').map(OsString::from)).join(" ");
        assert_eq!(line("t --password-command x backup y"), "t --password-command … backup y");
        assert_eq!(line("t backup --password-command=x y"), "t backup --password-command=… y");
        assert_eq!(line("t --password-file x"), "t --password-file x");
    }
}
