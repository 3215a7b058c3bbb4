//! A small model of the protocol between backups, gc, undelete, rebuild, damage and crashes.
//!
//! It is no code of the engine: five chunks, a few frames and packs, two sessions, one gc. All that can happen from
//! a beginning is tried, in every order, and what must hold is looked at in every state. Each rule of the protocol
//! can be left out, which shows whether it is needed, and that the search would see it.

mod check;
mod faults;
mod gc;
mod index;
mod rules;
mod scenarios;
mod search;
mod session;
mod state;
mod step;

pub use check::{Problem, garbage_after_gc, is_quiet};
pub use rules::{Rule, Rules};
pub use scenarios::{SCENARIOS, Scenario, WIDE};
pub use search::{Found, Until, Way, search};
pub use state::State;
