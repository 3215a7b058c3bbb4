//! What may be done with a ref, and when. Replay and those who write changes ask the same rules.

use super::{RefHistory, RefState};
use crate::env::Time;
use crate::record::RefKind;

/// Nanoseconds of a day.
pub const DAY: i64 = 86_400_000_000_000;

/// Why something may not be done with a ref.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No policy and no purge touches it.
    #[error("it is pinned")]
    Pinned,
    /// It is too young.
    #[error("the minimum retention of {days} days was not over")]
    Retention {
        /// Days it is kept at least.
        days: u32,
    },
    /// It can still be brought back.
    #[error("the undelete window of {days} days was not over")]
    Window {
        /// Days of the window.
        days: u32,
    },
    /// It is wanted.
    #[error("it was not forgotten")]
    NotForgotten,
    /// It is gone.
    #[error("it was purged before")]
    Purged,
}

impl RefHistory {
    /// Whether a change received at `at` may forget it. Forgetting twice is allowed and changes nothing.
    pub fn may_forget(&self, at: Time, retention_days_min: u32) -> Result<(), Refusal> {
        if self.state == RefState::Purged {
            return Err(Refusal::Purged);
        }
        if self.pinned {
            return Err(Refusal::Pinned);
        }
        // A checkpoint is no snapshot anybody asked for: no window and no minimum protect it.
        match self.reference.kind == RefKind::PartialSnapshot || is_past(self.received, retention_days_min, at) {
            true => Ok(()),
            false => Err(Refusal::Retention { days: retention_days_min }),
        }
    }

    /// Whether a change received at `at` may purge it.
    pub fn may_purge(&self, at: Time, retention_days_min: u32) -> Result<(), Refusal> {
        if self.pinned {
            return Err(Refusal::Pinned);
        }
        let (forgotten, undelete_days) = match self.state {
            RefState::Live => return Err(Refusal::NotForgotten),
            RefState::Purged => return Err(Refusal::Purged),
            RefState::Forgotten { at, undelete_days } => (at, undelete_days),
        };
        if self.reference.kind == RefKind::PartialSnapshot {
            return Ok(());
        }
        if !is_past(forgotten, undelete_days, at) {
            return Err(Refusal::Window { days: undelete_days });
        }
        match is_past(self.received, retention_days_min, at) {
            true => Ok(()),
            false => Err(Refusal::Retention { days: retention_days_min }),
        }
    }
}

/// Whether so many days have passed between two times.
pub fn is_past(from: Time, days: u32, now: Time) -> bool {
    days == 0 || now.0.saturating_sub(from.0) >= i64::from(days) * DAY
}
