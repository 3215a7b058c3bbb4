//! Names of snapshots as people write them: `4f2a`, `latest`, `latest~2`, `@2026-11-01`, each with `:sub/path`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use twinkeep_engine::vault::SnapshotInfo;

use crate::error::{Code, hinted, told, usage};
use crate::{parse, paths, show};

/// Fewest hex digits that name a snapshot.
const PREFIX_LEN_MIN: usize = 4;

/// Which snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// The newest complete one, or so many before it.
    Latest(usize),
    /// The newest complete one that is not younger than this.
    At(Timestamp),
    /// The one whose id begins so.
    Id(String),
}

/// A snapshot and, maybe, a path in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Which snapshot.
    pub name: Name,
    /// Absolute path; `None` when none was given.
    pub path: Option<Vec<u8>>,
}

impl Spec {
    /// Reads what the user typed; times are meant in `zone`.
    ///
    /// # Errors
    /// Usage: it names nothing.
    pub fn parse(text: &OsStr, zone: &TimeZone) -> anyhow::Result<Self> {
        let bytes = text.as_bytes();
        if let Some(dated) = bytes.strip_prefix(b"@") {
            let valid = dated.utf8_chunks().next().map(|chunk| chunk.valid()).unwrap_or_default();
            let (moment, rest) = parse::moment_at_start(valid, zone).map_err(usage)?;
            let used = valid.len() - rest.len();
            return Ok(Self { name: Name::At(moment.last), path: sub_path(&dated[used..]) });
        }
        let end = bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len());
        let name = std::str::from_utf8(&bytes[..end]).map_err(|_| not_a_name(text))?;
        Ok(Self { name: Name::parse(name).ok_or_else(|| not_a_name(text))?, path: sub_path(&bytes[end..]) })
    }
}

impl Name {
    /// Reads a name without a path.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("latest") {
            return match rest.strip_prefix('~') {
                Some(back) => back.parse().ok().map(Self::Latest),
                None => rest.is_empty().then_some(Self::Latest(0)),
            };
        }
        let is_id = (PREFIX_LEN_MIN..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| Self::Id(text.to_ascii_lowercase()))
    }
}

/// What follows the name: nothing, or `:` and a path, which counts from the top of the snapshot.
fn sub_path(rest: &[u8]) -> Option<Vec<u8>> {
    rest.strip_prefix(b":").map(|path| paths::absolute(b"/", path))
}

fn not_a_name(text: &OsStr) -> anyhow::Error {
    hinted(
        Code::Usage,
        format!("{:?} names no snapshot", text.to_string_lossy()),
        "name one by 4 or more hex digits of its id, latest, latest~2 or @2026-11-01, and a path in it as NAME:path",
    )
}

/// Which snapshots count.
#[derive(Args, Clone, Debug, Default)]
pub struct SnapshotFilter {
    /// Only snapshots of this machine (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// Only snapshots with all these tags, separated by commas (repeated: any of the sets)
    #[arg(long, value_name = "TAG,…")]
    pub tag: Vec<String>,
    /// Only snapshots that were asked to keep this path (repeated: all of them)
    #[arg(long, value_name = "PATH")]
    pub path: Vec<std::ffi::OsString>,
}

impl SnapshotFilter {
    /// Whether it leaves out anything.
    pub fn is_any(&self) -> bool {
        !(self.host.is_empty() && self.tag.is_empty() && self.path.is_empty())
    }

    /// Whether a snapshot counts; paths are taken relative to `cwd`.
    pub fn admits(&self, info: &SnapshotInfo, cwd: &[u8]) -> bool {
        let snapshot = &info.snapshot;
        let has_host = self.host.is_empty() || self.host.contains(&snapshot.host);
        let has_set = |set: &String| {
            set.split(',').filter(|tag| !tag.is_empty()).all(|tag| snapshot.tags.iter().any(|own| own == tag))
        };
        let has_tags = self.tag.is_empty() || self.tag.iter().any(has_set);
        let has_path = |path: &std::ffi::OsString| {
            let path = path.as_bytes();
            // As it is found here, and, for snapshots of other machines and times, as it was typed.
            snapshot.paths.contains(&paths::physical(cwd, path)) || snapshot.paths.contains(&paths::absolute(cwd, path))
        };
        has_host && has_tags && self.path.iter().all(has_path)
    }
}

/// Which snapshots a verb goes through that takes several.
#[derive(Args, Clone, Debug, Default)]
pub struct SnapshotChoice {
    /// What they have in common.
    #[command(flatten)]
    pub filter: SnapshotFilter,
    /// Only the newest N of them
    #[arg(long, value_name = "N")]
    pub latest: Option<usize>,
}

impl SnapshotChoice {
    /// Whether it leaves none out.
    pub fn is_all(&self) -> bool {
        let SnapshotFilter { host, tag, path } = &self.filter;
        host.is_empty() && tag.is_empty() && path.is_empty() && self.latest.is_none()
    }

    /// The snapshots of `list` that count, oldest first.
    pub fn choose<'a>(&self, list: &'a [SnapshotInfo], cwd: &[u8]) -> Vec<&'a SnapshotInfo> {
        let mut chosen: Vec<_> = list.iter().filter(|info| self.filter.admits(info, cwd)).collect();
        chosen.sort_by_key(|info| info.snapshot.time);
        let more = self.latest.map_or(0, |latest| chosen.len().saturating_sub(latest));
        chosen.drain(..more);
        chosen
    }
}

/// Finds the snapshot meant in a list that is sorted from old to new.
///
/// # Errors
/// There is none, or more than one.
pub fn find<'a>(
    name: &Name,
    list: &'a [SnapshotInfo],
    filter: &SnapshotFilter,
    cwd: &[u8],
) -> anyhow::Result<&'a SnapshotInfo> {
    let mut whole: Vec<&SnapshotInfo> =
        list.iter().filter(|info| !info.snapshot.partial && filter.admits(info, cwd)).collect();
    // `--time` may have given a snapshot another time than its place in the list.
    whole.sort_by_key(|info| info.snapshot.time);
    match name {
        Name::Latest(back) => whole.iter().rev().nth(*back).copied().ok_or_else(|| match whole.len() {
            0 => told(Code::Failed, "there is no complete snapshot that matches"),
            count => told(
                Code::Failed,
                format!("there are only {} that match", show::count(count as u64, "complete snapshot")),
            ),
        }),
        Name::At(moment) => {
            let not_after = |info: &&&SnapshotInfo| show::timestamp(info.snapshot.time) <= *moment;
            whole.iter().rev().find(not_after).copied().ok_or_else(|| {
                told(
                    Code::Failed,
                    format!("there is no complete snapshot that matches and is not younger than {moment}"),
                )
            })
        }
        Name::Id(prefix) => by_id(prefix, list),
    }
}

/// The only one of a list whose id begins so.
///
/// # Errors
/// There is none, or more than one.
pub fn by_id<'a>(prefix: &str, list: &'a [SnapshotInfo]) -> anyhow::Result<&'a SnapshotInfo> {
    let found: Vec<&SnapshotInfo> = list.iter().filter(|info| info.id.to_hex().starts_with(prefix)).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(hinted(
            Code::Failed,
            format!("no snapshot's id begins with {prefix}"),
            "`twinkeep snapshots` lists them",
        )),
        several => {
            let ids: Vec<String> = several.iter().map(|info| info.id.to_hex()).collect();
            Err(hinted(
                Code::Failed,
                format!("{} snapshots have an id that begins with {prefix}: {}", ids.len(), ids.join(", ")),
                "give more digits",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::branch::{Snapshot, Totals};
    use twinkeep_engine::env::Time;
    use twinkeep_engine::history::RefState;
    use twinkeep_engine::id::{ChunkId, SessionId};

    #[test]
    fn names_parse() {
        let zone = TimeZone::UTC;
        let check = |text: &str, expected: Option<(Name, Option<&str>)>| {
            let expected = expected.map(|(name, path)| Spec { name, path: path.map(|path| path.as_bytes().to_vec()) });
            assert_eq!(Spec::parse(OsStr::new(text), &zone).ok(), expected, "{text}");
        };
        let at = |text: &str| Name::At(text.parse().unwrap());
        check("latest", Some((Name::Latest(0), None)));
        check("latest~12:a/../b/", Some((Name::Latest(12), Some("/b"))));
        check("latest:", Some((Name::Latest(0), Some("/"))));
        check("4F2a", Some((Name::Id("4f2a".into()), None)));
        check("4f2a:/etc:x", Some((Name::Id("4f2a".into()), Some("/etc:x"))));
        check("@2026-11-01", Some((at("2026-11-01T23:59:59.999999999Z"), None)));
        check("@2026-11-01:sub", Some((at("2026-11-01T23:59:59.999999999Z"), Some("/sub"))));
        check("@2026-11-01 12:30:sub", Some((at("2026-11-01T12:30:59.999999999Z"), Some("/sub"))));
        check("@2026-11-01T12:30:15", Some((at("2026-11-01T12:30:15.999999999Z"), None)));
        for bad in ["", "4f2", "xyz1", "latest~", "latest~x", "latestx", "@", "@yesterday", &"a".repeat(65), ":x"] {
            check(bad, None);
        }
    }

    fn info(first: u8, time: i64, host: &str, tags: &[&str], partial: bool) -> SnapshotInfo {
        let mut id = [0xaa; 32];
        id[2] = first;
        let snapshot = Snapshot {
            tree: ChunkId([0; 32]),
            time: Time(time * 1_000_000_000),
            started: Time(0),
            host: host.into(),
            user: String::new(),
            paths: vec![b"/home/ann/x".to_vec()],
            tags: tags.iter().map(|&tag| tag.into()).collect(),
            parent: None,
            program: String::new(),
            session: SessionId([0; 16]),
            partial,
            totals: Totals::default(),
            command: Vec::new(),
            excludes: Vec::new(),
        };
        let state = RefState::Live;
        let (pinned, aside) = (false, false);
        SnapshotInfo { id: ChunkId(id), snapshot, received: Time(0), record: 0, state, pinned, aside, device: None }
    }

    #[test]
    fn finding() {
        let list = [
            info(1, 10, "a", &["x", "y"], false),
            info(2, 30, "b", &[], false),
            info(3, 20, "a", &["x"], false),
            info(4, 40, "a", &[], true),
        ];
        let filter = |host: &[&str], tag: &[&str]| SnapshotFilter {
            host: host.iter().map(|&host| host.into()).collect(),
            tag: tag.iter().map(|&tag| tag.into()).collect(),
            path: Vec::new(),
        };
        let check = |name: &str, filter: SnapshotFilter, expected: Option<u8>| {
            let name = Spec::parse(OsStr::new(name), &TimeZone::UTC).unwrap().name;
            assert_eq!(
                find(&name, &list, &filter, b"/").ok().map(|info| info.id.0[2]),
                expected,
                "{name:?} {filter:?}"
            );
        };
        check("latest", filter(&[], &[]), Some(2));
        check("latest~1", filter(&[], &[]), Some(3));
        check("latest~3", filter(&[], &[]), None);
        check("latest", filter(&["a"], &[]), Some(3));
        check("latest", filter(&["c"], &[]), None);
        check("latest", filter(&["b", "a"], &["x"]), Some(3));
        check("latest", filter(&[], &["x,y"]), Some(1));
        check("latest", filter(&[], &["x,y", "x"]), Some(3));
        check("@1970-01-01 00:00:20", filter(&[], &[]), Some(3));
        check("@1970-01-01 00:00:19", filter(&[], &[]), Some(1));
        check("@1970-01-01 00:00:09", filter(&[], &[]), None);
        check("aaaa", filter(&[], &[]), None);
        check("aaaa04", filter(&["b"], &[]), Some(4));
        let choice = |host: &[&str], latest| SnapshotChoice { filter: filter(host, &[]), latest };
        let check = |choice: SnapshotChoice, expected: &[u8]| {
            let chosen: Vec<u8> = choice.choose(&list, b"/").iter().map(|info| info.id.0[2]).collect();
            assert_eq!(chosen, expected, "{choice:?}");
        };
        check(choice(&[], None), &[1, 3, 2, 4]);
        check(choice(&[], Some(2)), &[2, 4]);
        check(choice(&["a"], Some(2)), &[3, 4]);
        check(choice(&["a"], Some(0)), &[]);
        assert!(choice(&[], None).is_all() && !choice(&["a"], None).is_all() && !choice(&[], Some(1)).is_all());
        let by_path = |path: &str| SnapshotFilter { path: vec![path.into()], ..SnapshotFilter::default() };
        assert!(by_path("x").admits(&list[0], b"/home/ann") && !by_path("x").admits(&list[0], b"/"));
    }
}
