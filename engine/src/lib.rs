//! The Twinkeep backup engine, usable on its own: one machine, synchronous, no network.
//!
//! A module uses only modules that stand above it in this list.

pub mod limits;
pub mod zoo;
pub mod id;
pub mod env;
pub mod progress;
pub mod files;
pub mod kv;
pub mod crypto;
pub mod chunk;
pub mod frame;
pub mod pack;
pub mod record;
pub mod branch;
pub mod index;
pub mod store;
pub mod copies;
pub mod history;
pub mod vault;
pub mod retention;
pub mod forward;
pub mod gc;
pub mod source;
pub mod cache;
pub mod target;
pub mod backup;
pub mod query;
pub mod restore;
pub mod check;
pub mod scrub;
pub mod repair;
