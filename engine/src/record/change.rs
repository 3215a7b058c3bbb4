//! Changes: what later records say of earlier ones. A ref is never altered; its fate is written behind it.

use twinkeep_schema::vault_capnp as schema;

use super::canonical::{self, CanonicalError};
use super::{RecordError, RecordKind};

/// Most records one change may name: their counts alone then fill half a record.
pub const CHANGE_RECORDS_MAX: usize = 64 << 10;

/// Most tags one change may add, and most it may remove.
pub const CHANGE_TAGS_MAX: usize = 256;

/// Longest tag, bytes.
pub const TAG_LEN_MAX: usize = 1024;

/// Longest note, bytes.
pub const NOTE_LEN_MAX: usize = 4096;

/// Longest minimum retention that still counts as meant, days: a hundred years.
pub const RETENTION_DAYS_MAX: u32 = 36_525;

/// Longest undelete window that still counts as meant, days: ten years.
pub const UNDELETE_DAYS_MAX: u32 = 3653;

/// What is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// These snapshots are no longer wanted. What they hold stays until they are purged.
    Forget {
        /// For so many days they can be brought back.
        undelete_days: u32,
    },
    /// These snapshots are wanted again. No effect on what was purged before.
    Undelete,
    /// These snapshots hold nothing back any more, for ever.
    Purge,
    /// No policy forgets these.
    Pin,
    /// Policies may forget these again.
    Unpin,
    /// Tags change: first those of `remove` go, then those of `add` come.
    Tag {
        /// To be added.
        add: Vec<String>,
        /// To be taken away.
        remove: Vec<String>,
    },
    /// What is unreadable of these is known and stops nothing. What is readable below them stays.
    SetAside,
    /// The jump of the clock that shows before this record is real. About no record.
    ClockIsRight,
    /// From here on no snapshot younger than this may be forgotten, and never less than before. About no record.
    Retain {
        /// Days after a snapshot was received.
        days_min: u32,
    },
}

/// The payload of a change record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeRecord {
    /// Counts of the records it is about, strictly ascending, all before its own.
    pub records: Vec<u64>,
    /// Why, in words; may be empty.
    pub note: String,
    /// What is said of them.
    pub kind: ChangeKind,
}

impl ChangeRecord {
    /// The payload, in canonical form.
    ///
    /// # Panics
    /// If a bound is exceeded; see [`Self::check`].
    pub fn encode(&self) -> Vec<u8> {
        self.check().expect("a change within its bounds");
        let mut message = capnp::message::Builder::new_default();
        let mut root = message.init_root::<schema::change::Builder>();
        let mut records = root.reborrow().init_records(self.records.len() as u32);
        for (at, &count) in (0..).zip(&self.records) {
            records.set(at, count);
        }
        root.set_note(self.note.as_str());
        match &self.kind {
            ChangeKind::Forget { undelete_days } => root.init_forget().set_undelete_days(*undelete_days),
            ChangeKind::Undelete => root.set_undelete(()),
            ChangeKind::Purge => root.set_purge(()),
            ChangeKind::Pin => root.set_pin(()),
            ChangeKind::Unpin => root.set_unpin(()),
            ChangeKind::Tag { add, remove } => {
                let mut tag = root.init_tag();
                fill(tag.reborrow().init_add(add.len() as u32), add);
                fill(tag.init_remove(remove.len() as u32), remove);
            }
            ChangeKind::SetAside => root.set_set_aside(()),
            ChangeKind::ClockIsRight => root.set_clock_is_right(()),
            ChangeKind::Retain { days_min } => root.init_retain().set_days_min(*days_min),
        }
        canonical::encode(message)
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let bad = |what| RecordError::Payload { kind: RecordKind::Change, what };
        let change = Self::read(payload).map_err(bad)?;
        change.check().map_err(bad)?;
        Ok(change)
    }

    /// Fails where a bound is exceeded or records are not ascending.
    pub fn check(&self) -> Result<(), String> {
        let at_most = |what: &str, found: usize, max: usize| match found <= max {
            true => Ok(()),
            false => Err(format!("{what} is {found}, at most {max} allowed")),
        };
        at_most("number of records", self.records.len(), CHANGE_RECORDS_MAX)?;
        at_most("length of note", self.note.len(), NOTE_LEN_MAX)?;
        if self.records.first() == Some(&0) || !self.records.is_sorted_by(|a, b| a < b) {
            return Err("records are not ascending from 1".into());
        }
        let is_of_vault = matches!(self.kind, ChangeKind::ClockIsRight | ChangeKind::Retain { .. });
        if is_of_vault != self.records.is_empty() {
            return Err(format!("names {} records", self.records.len()));
        }
        match &self.kind {
            ChangeKind::Forget { undelete_days } => {
                at_most("undelete window in days", *undelete_days as usize, UNDELETE_DAYS_MAX as usize)
            }
            ChangeKind::Tag { add, remove } => {
                at_most("number of tags", add.len().max(remove.len()), CHANGE_TAGS_MAX)?;
                let longest = add.iter().chain(remove).map(String::len).max().unwrap_or(0);
                at_most("length of a tag", longest, TAG_LEN_MAX)
            }
            ChangeKind::Retain { days_min } => {
                at_most("minimum retention in days", *days_min as usize, RETENTION_DAYS_MAX as usize)
            }
            ChangeKind::Undelete
            | ChangeKind::Purge
            | ChangeKind::Pin
            | ChangeKind::Unpin
            | ChangeKind::SetAside
            | ChangeKind::ClockIsRight => Ok(()),
        }
    }

    fn read(payload: &[u8]) -> Result<Self, String> {
        let message = canonical::decode(payload).map_err(|error| error.to_string())?;
        let fields = || -> Result<Option<Self>, CanonicalError> {
            let root: schema::change::Reader = message.get_root()?;
            let kind = match root.which()? {
                schema::change::Unknown(()) => return Ok(None),
                schema::change::Forget(forget) => ChangeKind::Forget { undelete_days: forget.get_undelete_days() },
                schema::change::Undelete(()) => ChangeKind::Undelete,
                schema::change::Purge(()) => ChangeKind::Purge,
                schema::change::Pin(()) => ChangeKind::Pin,
                schema::change::Unpin(()) => ChangeKind::Unpin,
                schema::change::Tag(tag) => {
                    ChangeKind::Tag { add: texts(tag.get_add()?)?, remove: texts(tag.get_remove()?)? }
                }
                schema::change::SetAside(()) => ChangeKind::SetAside,
                schema::change::ClockIsRight(()) => ChangeKind::ClockIsRight,
                schema::change::Retain(retain) => ChangeKind::Retain { days_min: retain.get_days_min() },
            };
            let records = root.get_records()?.iter().collect();
            Ok(Some(Self { records, note: root.get_note()?.to_str()?.to_owned(), kind }))
        };
        fields().map_err(|error| error.to_string())?.ok_or_else(|| "says nothing".into())
    }
}

fn fill(mut list: capnp::text_list::Builder<'_>, texts: &[String]) {
    for (at, text) in (0..).zip(texts) {
        list.set(at, text.as_str());
    }
}

fn texts(list: capnp::text_list::Reader<'_>) -> Result<Vec<String>, CanonicalError> {
    list.iter().map(|text| Ok(text?.to_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<ChangeKind> {
        vec![
            ChangeKind::Forget { undelete_days: 0 },
            ChangeKind::Forget { undelete_days: 30 },
            ChangeKind::Undelete,
            ChangeKind::Purge,
            ChangeKind::Pin,
            ChangeKind::Unpin,
            ChangeKind::Tag { add: vec!["a".into(), "ü".into()], remove: vec![] },
            ChangeKind::Tag { add: vec![], remove: vec!["b".into()] },
            ChangeKind::SetAside,
            ChangeKind::ClockIsRight,
            ChangeKind::Retain { days_min: 30 },
        ]
    }

    fn change(kind: ChangeKind) -> ChangeRecord {
        let is_of_vault = matches!(kind, ChangeKind::ClockIsRight | ChangeKind::Retain { .. });
        let records = if is_of_vault { vec![] } else { vec![1, 7, u64::MAX] };
        ChangeRecord { records, note: "why".into(), kind }
    }

    #[test]
    fn round_trips() {
        for kind in kinds() {
            for note in ["", "why", "ü"] {
                let value = ChangeRecord { note: note.into(), ..change(kind.clone()) };
                assert_eq!(ChangeRecord::decode(&value.encode()), Ok(value));
            }
        }
        let all = ChangeRecord { records: (1..=CHANGE_RECORDS_MAX as u64).collect(), ..change(ChangeKind::Pin) };
        assert_eq!(ChangeRecord::decode(&all.encode()), Ok(all));
    }

    #[test]
    fn other_bytes_are_refused_or_another_value() {
        for kind in kinds() {
            let good = change(kind).encode();
            for place in 0..good.len() {
                assert!(ChangeRecord::decode(&good[..place]).is_err(), "cut at {place}");
                for bit in 0..8 {
                    let mut other = good.clone();
                    other[place] ^= 1 << bit;
                    if let Ok(value) = ChangeRecord::decode(&other) {
                        assert!(value.check().is_ok());
                    }
                }
            }
            assert!(ChangeRecord::decode(&[&good[..], &[0; 8]].concat()).is_err());
        }
        assert!(ChangeRecord::decode(&[0; 8]).is_err());
    }

    #[test]
    fn bounds_hold() {
        let check = |value: ChangeRecord, expected: &str| {
            let found = value.check().unwrap_err();
            assert!(found.contains(expected), "{found}");
        };
        let pin = || change(ChangeKind::Pin);
        check(ChangeRecord { records: vec![], ..pin() }, "names 0 records");
        check(ChangeRecord { records: vec![0], ..pin() }, "ascending");
        check(ChangeRecord { records: vec![2, 2], ..pin() }, "ascending");
        check(ChangeRecord { records: vec![1], ..change(ChangeKind::ClockIsRight) }, "names 1 records");
        check(ChangeRecord { records: (1..=1 + CHANGE_RECORDS_MAX as u64).collect(), ..pin() }, "number of records");
        check(ChangeRecord { note: "x".repeat(NOTE_LEN_MAX + 1), ..pin() }, "length of note");
        check(change(ChangeKind::Retain { days_min: RETENTION_DAYS_MAX + 1 }), "minimum retention");
        check(change(ChangeKind::Forget { undelete_days: UNDELETE_DAYS_MAX + 1 }), "undelete window");
        check(change(ChangeKind::Tag { add: vec!["x".repeat(TAG_LEN_MAX + 1)], remove: vec![] }), "length of a tag");
        check(change(ChangeKind::Tag { add: vec![String::new(); 257], remove: vec![] }), "number of tags");
    }
}
