//! Retention: which snapshots a policy keeps, and the changes that follow from it.
//!
//! What always holds: time is the vault's receive time, never what a writer claims; nothing is forgotten or purged while
//! the clock is in doubt or a record is unreadable; a policy never leaves a group with nothing it wanted to keep.

mod act;
#[cfg(test)]
mod act_tests;
mod calendar;
mod error;
mod policy;
#[cfg(test)]
mod policy_tests;

pub use act::{
    Planned, Selection, TagEdit, confirm_clock, doubts, due, expire, forget, forget_by_policy, lengthen, look, pin,
    purge, tag, undelete, unpin,
};
pub use calendar::{Calendar, Civil, Span, Utc};
pub use error::{PolicyError, RetentionError};
pub use policy::{Candidate, Decision, GroupBy, GroupKey, GroupPlan, Limit, Period, Policy, Rule, decide, plan};
