//! What was kept here for a program and the host does not know: a backup that ended early leaves it.
//!
//! It takes of the room that the owner grants and is of use to nobody, so it goes, but not soon: the host is asked again,
//! once an hour that it is there, and only what it has not known for [`ASKED_MAX`] hours is set aside, where it lies for
//! 30 days more. What the host has known once is never here: that it may have lost.
//!
//! The file `unknown` in the terminal's folder has a line for each such frame: its id in hex, a space, and how often the
//! host has not known it. Lines that make no sense are passed over. Without it these frames stay for ever.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use twinkeep_engine::id::FrameId;

/// So often the host has to say that it does not know a frame, once an hour: nine working days. What a session that ended
/// early left at the host is known there as soon as somebody else writes to that vault.
pub const ASKED_MAX: u16 = 72;

/// Frames that are remembered: a quarter of a terabyte, in some twenty megabytes. More stay for ever.
pub const COUNT_MAX: usize = 256 << 10;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unknown {
    rows: BTreeMap<FrameId, u16>,
    is_changed: bool,
}

impl Unknown {
    /// From the file.
    pub fn read(bytes: &[u8]) -> Self {
        let line = |line: &str| {
            let (id, asked) = line.split_once(' ')?;
            Some((FrameId::from_hex(id)?, asked.parse().ok()?))
        };
        let text = String::from_utf8_lossy(bytes);
        Self { rows: text.lines().filter_map(line).take(COUNT_MAX).collect(), is_changed: false }
    }

    /// For the file; nothing where it says so already.
    pub fn take_changed(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let mut text = String::new();
        for (id, asked) in &self.rows {
            let _ = writeln!(text, "{id} {asked}");
        }
        Some(text.into_bytes())
    }

    /// It could not be written: next time again.
    pub fn not_kept(&mut self) {
        self.is_changed = true;
    }

    /// A frame was kept for a program.
    pub fn add(&mut self, id: FrameId) {
        if self.rows.len() < COUNT_MAX {
            self.is_changed |= self.rows.insert(id, 0).is_none();
        }
    }

    /// The host knows these, or they are not here any more.
    pub fn forget<'a>(&mut self, ids: impl IntoIterator<Item = &'a FrameId>) {
        for id in ids {
            self.is_changed |= self.rows.remove(id).is_some();
        }
    }

    /// The host was asked and does not know these. Gives those that may go now.
    pub fn asked(&mut self, ids: &[FrameId]) -> Vec<FrameId> {
        let mut done = Vec::new();
        for id in ids {
            let Some(asked) = self.rows.get_mut(id) else { continue };
            *asked = asked.saturating_add(1);
            self.is_changed = true;
            if *asked >= ASKED_MAX {
                done.push(*id);
            }
        }
        done
    }

    /// All of them, ascending.
    pub fn ids(&self) -> Vec<FrameId> {
        self.rows.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> FrameId {
        FrameId([n; 32])
    }

    #[test]
    fn what_the_host_never_knows_may_go_in_the_end() {
        let mut unknown = Unknown::default();
        (1..=3).for_each(|n| unknown.add(id(n)));
        unknown.forget(&[id(2)]);
        for _ in 1..ASKED_MAX {
            assert_eq!(unknown.asked(&[id(1), id(3)]), []);
        }
        // Who writes it once more begins anew.
        unknown.add(id(3));
        assert_eq!(unknown.asked(&unknown.ids()), [id(1)]);
        assert_eq!(unknown.asked(&[id(9)]), [], "one that was never here");
        unknown.forget(&[id(1)]);
        assert_eq!(unknown.ids(), [id(3)]);
    }

    #[test]
    fn it_is_kept_and_nonsense_is_passed_over() {
        let mut unknown = Unknown::default();
        assert_eq!(unknown.take_changed(), None);
        (1..=3).for_each(|n| unknown.add(id(n)));
        unknown.asked(&[id(2)]);
        let kept = unknown.take_changed().unwrap();
        assert_eq!(unknown.take_changed(), None);
        assert_eq!(Unknown::read(&kept), unknown);
        unknown.not_kept();
        assert_eq!(unknown.take_changed(), Some(kept.clone()));
        let odd = [&b"x 1\n\n"[..], &kept, b"0101 2\n", format!("{} x\n", id(7)).as_bytes(), &[0xff, 0xfe]].concat();
        assert_eq!(Unknown::read(&odd).ids(), [id(1), id(2), id(3)]);
        (0..kept.len()).for_each(|len| assert!(Unknown::read(&kept[..len]).ids().len() <= 3));
    }

    #[test]
    fn no_more_is_remembered_than_may_be() {
        let mut unknown = Unknown::default();
        for n in 0..COUNT_MAX as u64 + 10 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            unknown.add(FrameId(bytes));
        }
        assert_eq!(unknown.ids().len(), COUNT_MAX);
    }
}
