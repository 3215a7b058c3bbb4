//! One file a verb: its arguments, what it asks of the engine, what it prints.

pub mod backup;
pub mod check;
pub mod completions;
pub mod config;
pub mod diff;
pub mod dump;
pub mod find;
pub mod forget;
pub mod gc;
pub mod history;
pub mod init;
pub mod key;
pub mod ls;
pub mod man;
pub mod office;
pub mod pin;
pub mod repair;
pub mod restore;
pub mod scrub;
pub mod snapshots;
pub mod stats;
pub mod tag;
pub mod undelete;
pub mod version;
pub mod walk;
