//! What several verbs share that decide what is kept: parsing of their values, and what their errors mean.

use std::ffi::OsString;

use twinkeep_engine::history::{Jump, Refusal};
use twinkeep_engine::retention::{GroupBy, PolicyError, RetentionError, Span};
use twinkeep_engine::vault::{SnapshotInfo, Vault};

use crate::error::{Code, hinted, usage};
use crate::names::{self, Name, SnapshotFilter, Spec};
use crate::session::Run;
use crate::show;

/// Reads a count of a rule: a number, or `unlimited`.
pub fn count(text: &str) -> Result<u32, String> {
    match text {
        "unlimited" => Ok(u32::MAX),
        _ => text.parse().map_err(|_| format!("{text:?} is neither a number nor \"unlimited\"")),
    }
}

/// Reads `2y5m7d3h` and parts of it; `w` are weeks, and `m`, unlike in other durations, months.
pub fn span(text: &str) -> Result<Span, String> {
    let wrong = || format!("{text:?} is not a duration like 2y5m7d3h: years, months, days, hours");
    let mut span = Span::default();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, next) = behind.split_at(letters);
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let (field, factor) = match unit {
            "y" => (&mut span.years, 1),
            "m" | "mo" => (&mut span.months, 1),
            "w" => (&mut span.days, 7),
            "d" => (&mut span.days, 1),
            "h" => (&mut span.hours, 1),
            _ => return Err(wrong()),
        };
        *field = number.checked_mul(factor).and_then(|more| field.checked_add(more)).ok_or_else(wrong)?;
        rest = next;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(span) }
}

/// Reads a set of tags, separated by commas.
pub fn tags(text: &str) -> Result<Vec<String>, String> {
    let tags: Vec<String> = text.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
    if tags.is_empty() { Err(format!("{text:?} names no tag")) } else { Ok(tags) }
}

/// Reads what makes a group: `host`, `paths`, `tags`, separated by commas; nothing for one group of all.
pub fn group_by(text: &str) -> Result<GroupBy, String> {
    let mut by = GroupBy { host: false, paths: false, tags: false };
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "host" => by.host = true,
            "paths" => by.paths = true,
            "tags" => by.tags = true,
            _ => return Err(format!("{word:?} is none of host, paths and tags")),
        }
    }
    Ok(by)
}

/// Snapshots that were named one by one.
///
/// # Errors
/// A name means none, or more than one, or has a path.
pub fn named(run: &Run, list: &[SnapshotInfo], texts: &[OsString]) -> anyhow::Result<Vec<SnapshotInfo>> {
    let find = |text: &OsString| {
        let spec = Spec::parse(text, &run.zone)?;
        if spec.path.is_some() {
            return Err(usage(format!("{:?} names a part of a snapshot, not the whole", text.to_string_lossy())));
        }
        names::find(&spec.name, list, &SnapshotFilter::default(), &run.cwd()).cloned()
    };
    texts.iter().map(find).collect()
}

/// A forgotten snapshot by the beginning of its id; nothing else names one.
pub fn forgotten_named(vault: &Vault, list: &[SnapshotInfo], text: &str) -> anyhow::Result<SnapshotInfo> {
    let hint = "`twinkeep snapshots --forgotten` lists what can be brought back";
    let Some(Name::Id(prefix)) = Name::parse(text) else {
        return Err(hinted(Code::Usage, format!("{text:?} is not the beginning of an id"), hint));
    };
    if list.iter().any(|info| info.id.to_hex().starts_with(&prefix)) {
        return names::by_id(&prefix, list).cloned();
    }
    let history = vault.history()?;
    let known = history.refs.values().find(|entry| entry.reference.target.to_hex().starts_with(&prefix));
    let message = match known.map(|entry| entry.state) {
        Some(twinkeep_engine::history::RefState::Purged) => {
            format!("snapshot {prefix} was purged and cannot be brought back")
        }
        Some(twinkeep_engine::history::RefState::Live) => format!("snapshot {prefix} is not forgotten"),
        _ => format!("no forgotten snapshot's id begins with {prefix}"),
    };
    Err(hinted(Code::Failed, message, hint))
}

/// What an error of retention means here.
pub fn told(run: &Run, error: RetentionError) -> anyhow::Error {
    let message = crate::error::one_line(&anyhow::anyhow!("{error}"));
    match &error {
        RetentionError::Clock(jumps) => hinted(
            Code::NotAllowed,
            format!("{message}: {}; nothing was changed", jumps_text(run, jumps)),
            "if the clock is right now, say so once with `twinkeep forget --clock-is-right`",
        ),
        RetentionError::Refused { id, refusal: Refusal::Pinned } => {
            hinted(Code::NotAllowed, message, format!("`twinkeep pin --remove {}` takes the pin back", show::short(id)))
        }
        RetentionError::Shorter { .. } => hinted(Code::NotAllowed, message, "a vault that keeps less is a new vault"),
        RetentionError::Policy(PolicyError::KeepsNothing { .. }) => hinted(
            Code::Failed,
            message,
            "is a tag misspelt? a policy has to keep something of each group; --host, --tag and --path leave groups out",
        ),
        RetentionError::Unreadable(_) => hinted(
            Code::Damaged,
            message,
            "`twinkeep check` lists what is damaged; nothing is forgotten until it is settled",
        ),
        _ => error.into(),
    }
}

/// `from 2026-11-22 12:00:00 to 2027-…`, jump by jump.
pub fn jumps_text(run: &Run, jumps: &[Jump]) -> String {
    let local = |time| show::local(show::timestamp(time), &run.zone);
    let one = |jump: &Jump| format!("from {} to {}", local(jump.from), local(jump.to));
    jumps.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_parse() {
        let check = |text: &str, expected: Option<(u32, u32, u32, u32)>| {
            let expected = expected.map(|(years, months, days, hours)| Span { years, months, days, hours });
            assert_eq!(span(text).ok(), expected, "{text}");
        };
        check("2y5m7d3h", Some((2, 5, 7, 3)));
        check("3h", Some((0, 0, 0, 3)));
        check("2w1d", Some((0, 0, 15, 0)));
        check("6mo", Some((0, 6, 0, 0)));
        for bad in ["", "1", "d", "1x", "1d2", "-1d", "5000000000d", "4294967295d1d", "4294967295w", "1 d"] {
            check(bad, None);
        }
        assert_eq!((count("7"), count("unlimited"), count("0")), (Ok(7), Ok(u32::MAX), Ok(0)));
        assert!(count("-1").is_err() && count("").is_err() && tags(",").is_err());
        assert_eq!(group_by("tags,host"), Ok(GroupBy { host: true, paths: false, tags: true }));
        assert!(group_by("").is_ok() && group_by("hots").is_err());
        assert_eq!(tags("a,,b"), Ok(vec!["a".to_owned(), "b".to_owned()]));
    }
}
