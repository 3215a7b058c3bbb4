//! Branches.
pub mod entry;
