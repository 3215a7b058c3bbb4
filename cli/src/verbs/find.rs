//! `find`: files by name, time, size and type, in all snapshots or some.

use std::ffi::OsString;

use anyhow::Context;
use clap::{Args, ValueEnum};
use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use jiff::{Timestamp, Zoned};
use serde_json::Value;
use twinkeep_engine::branch::entry::{Entry, What};
use twinkeep_engine::query::Step;
use twinkeep_engine::vault::SnapshotInfo;

use super::walk;
use crate::error::{Code, usage};
use crate::names::{self, SnapshotChoice, Spec};
use crate::session::Run;
use crate::{node, parse, show};

/// What is looked for, and where.
#[derive(Args, Debug)]
#[command(after_help = "A pattern without / is compared with names, one with / with whole paths.\n\n\
    Example: photos over 10 MiB of the last half year, in any snapshot\n  \
    twinkeep find '*.jpg' --iname '*.png' --size +10M --newer 6mo")]
pub struct FindArgs {
    /// Patterns of which one must match
    #[arg(value_name = "PATTERN", required_unless_present = "iname")]
    patterns: Vec<String>,
    /// Another pattern, without regard to case (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    iname: Vec<String>,
    /// Only what was changed after this: 2d, 3w, 2026-11-01
    #[arg(long, value_name = "WHEN")]
    newer: Option<String>,
    /// Only what was changed before this
    #[arg(long, value_name = "WHEN")]
    older: Option<String>,
    /// Only files of more (+10M), less (-1G) or exactly so many bytes (may be repeated)
    #[arg(long, value_name = "[+-]SIZE", allow_hyphen_values = true, value_parser = SizeRule::parse)]
    size: Vec<SizeRule>,
    /// Only entries of this type
    #[arg(long, value_name = "TYPE")]
    r#type: Option<TypeArg>,
    /// Only in this snapshot (may be repeated)
    #[arg(short, long, value_name = "SNAPSHOT", conflicts_with = "latest")]
    snapshot: Vec<OsString>,
    /// Also mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    choice: SnapshotChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TypeArg {
    /// Regular files
    #[value(alias = "f")]
    File,
    /// Folders
    #[value(alias = "d")]
    Dir,
    /// Symbolic links
    #[value(alias = "l")]
    Symlink,
    /// Devices
    Device,
    /// Named pipes
    #[value(alias = "p")]
    Fifo,
    /// Sockets
    #[value(alias = "s")]
    Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeRule {
    More(u64),
    Less(u64),
    Exactly(u64),
}

impl SizeRule {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_at_checked(1) {
            Some(("+", size)) => parse::size(size).map(Self::More),
            Some(("-", size)) => parse::size(size).map(Self::Less),
            _ => parse::size(text).map(Self::Exactly),
        }
    }

    fn admits(self, len: u64) -> bool {
        match self {
            Self::More(than) => len > than,
            Self::Less(than) => len < than,
            Self::Exactly(same) => len == same,
        }
    }
}

/// All that an entry must fulfil.
struct Rules {
    names: GlobSet,
    paths: GlobSet,
    newer: Option<Timestamp>,
    older: Option<Timestamp>,
    sizes: Vec<SizeRule>,
    kind: Option<TypeArg>,
}

/// Prints what is found.
pub fn run(run: &Run, args: &FindArgs) -> anyhow::Result<Code> {
    let rules = Rules::new(args, &Zoned::now().with_time_zone(run.zone.clone()))?;
    let vault = run.open()?;
    let list = run.snapshots(&vault)?;
    let mut seen = walk::Seen::All;
    for (info, path) in chosen(run, args, &list)? {
        let root = run.resolve_path(&vault, info, &path)?;
        let mut is_first = true;
        let mut visit = |found: &walk::WalkEntry<'_>| {
            if !rules.admit(found.path, found.entry) {
                return Ok(Step::Continue);
            }
            if run.screen.json {
                let mut fields = node::fields(found.path, found.entry);
                fields.insert("snapshot".into(), info.id.to_hex().into());
                run.screen.message("match", &Value::Object(fields))?;
                return Ok(Step::Continue);
            }
            if std::mem::take(&mut is_first) {
                let time = show::local(show::timestamp(info.snapshot.time), &run.zone);
                run.screen.tell(&format!("snapshot {} of {time}:", show::short(&info.id)))?;
            }
            run.screen.write_stdout(&node::line(&run.screen, found.path, found.entry, args.long, &run.zone))?;
            Ok(Step::Continue)
        };
        seen = seen.and(
            walk::each(&run.screen, &vault, &root, &mut visit)
                .with_context(|| format!("cannot search snapshot {}", show::short(&info.id)))?,
        );
    }
    Ok(match seen.code() {
        Code::Done => run.listed(),
        code => code,
    })
}

/// The snapshots to look in, and from where; the newest first.
fn chosen<'a>(
    run: &Run,
    args: &FindArgs,
    list: &'a [SnapshotInfo],
) -> anyhow::Result<Vec<(&'a SnapshotInfo, Vec<u8>)>> {
    let cwd = run.cwd();
    if args.snapshot.is_empty() {
        let newest_first = args.choice.choose(list, &cwd).into_iter().rev();
        return Ok(newest_first.map(|info| (info, b"/".to_vec())).collect());
    }
    let find = |name: &OsString| {
        let spec = Spec::parse(name, &run.zone)?;
        Ok((names::find(&spec.name, list, &args.choice.filter, &cwd)?, spec.path.unwrap_or_else(|| b"/".to_vec())))
    };
    args.snapshot.iter().map(find).collect()
}

impl Rules {
    fn new(args: &FindArgs, now: &Zoned) -> anyhow::Result<Self> {
        let mut names = GlobSetBuilder::new();
        let mut paths = GlobSetBuilder::new();
        let cased = args.patterns.iter().map(|text| (text, false));
        for (text, ignore_case) in cased.chain(args.iname.iter().map(|text| (text, true))) {
            let is_path = text.contains('/');
            // A path that does not begin at the top may begin anywhere.
            let whole = if is_path && !text.starts_with('/') { format!("**/{text}") } else { text.clone() };
            let glob = GlobBuilder::new(&whole).literal_separator(true).case_insensitive(ignore_case).build();
            let glob = glob.map_err(|error| usage(format!("pattern {text:?} is not valid: {error}")))?;
            if is_path {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let since =
            |text: &Option<String>| text.as_deref().map(|text| parse::since(text, now)).transpose().map_err(usage);
        Ok(Self {
            names: names.build()?,
            paths: paths.build()?,
            newer: since(&args.newer)?,
            older: since(&args.older)?,
            sizes: args.size.clone(),
            kind: args.r#type,
        })
    }

    fn admit(&self, path: &[u8], entry: &Entry) -> bool {
        self.admit_kind(&entry.what) && self.admit_size(entry) && self.admit_time(entry) && self.admit_name(path, entry)
    }

    fn admit_name(&self, path: &[u8], entry: &Entry) -> bool {
        (!self.names.is_empty() && self.names.is_match_candidate(&Candidate::from_bytes(&*entry.name)))
            || (!self.paths.is_empty() && self.paths.is_match_candidate(&Candidate::from_bytes(path)))
    }

    fn admit_size(&self, entry: &Entry) -> bool {
        let is_file = matches!(entry.what, What::File(_));
        self.sizes.iter().all(|rule| is_file && rule.admits(show::len(entry)))
    }

    fn admit_time(&self, entry: &Entry) -> bool {
        // Seconds alone would do for files outside the calendar; there a limit never admits.
        let time = show::file_timestamp(entry.meta.mtime);
        let after = self.newer.is_none_or(|limit| time.is_some_and(|time| time > limit));
        after && self.older.is_none_or(|limit| time.is_some_and(|time| time < limit))
    }

    fn admit_kind(&self, what: &What) -> bool {
        self.kind.is_none_or(|kind| {
            kind == match what {
                What::File(_) => TypeArg::File,
                What::Directory(_) => TypeArg::Dir,
                What::Symlink(_) => TypeArg::Symlink,
                What::CharDevice { .. } | What::BlockDevice { .. } => TypeArg::Device,
                What::Fifo => TypeArg::Fifo,
                What::Socket => TypeArg::Socket,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;
    use twinkeep_engine::branch::entry::{Content, FileTime, Metadata};

    fn check(line: &str, path: &str, expected: bool) {
        let cli = Cli::try_parse_from(["twinkeep", "find"].into_iter().chain(line.split(' '))).unwrap();
        let Verb::Find(args) = cli.verb else { panic!("{line}") };
        let rules = Rules::new(&args, &"2026-11-22T12:00:00+00:00[UTC]".parse().unwrap()).unwrap();
        let name = path.rsplit('/').next().unwrap().as_bytes().into();
        let mtime = FileTime { secs: 1_793_500_000, nanos: 0 };
        let meta = Metadata { mtime, ..Metadata::default() };
        let entry = Entry { name, meta, what: What::File(Content::Inline(vec![0; 100].into())) };
        assert_eq!(rules.admit(path.as_bytes(), &entry), expected, "{line} {path}");
    }

    #[test]
    fn rules() {
        check("*.rs", "/a/b.rs", true);
        check("b", "/a/b.rs", false);
        check("a/*.rs", "/x/a/b.rs", true);
        check("/a/*.rs", "/x/a/b.rs", false);
        check("*.RS", "/b.rs", false);
        check("--iname *.RS", "/b.rs", true);
        check("* --size +99 --size -101", "/b", true);
        check("* --size 100", "/b", true);
        check("* --size -100", "/b", false);
        check("* --type f", "/b", true);
        check("* --type dir", "/b", false);
        check("* --newer 2026-01-01 --older 1d", "/b", true);
        check("* --newer 1d", "/b", false);
    }
}
