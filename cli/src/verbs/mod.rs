//! One file a verb: its arguments, what it asks of the engine, what it prints.

pub mod backup;
pub mod check;
pub mod completions;
pub mod diff;
pub mod dump;
pub mod find;
pub mod gc;
pub mod init;
pub mod ls;
pub mod man;
pub mod repair;
pub mod restore;
pub mod snapshots;
pub mod stats;
pub mod version;
pub mod walk;
