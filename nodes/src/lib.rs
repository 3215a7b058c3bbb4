//! The machines of a Twinkeep office: what a host, its tracker and a terminal do.
//!
//! | module | role |
//! |---|---|
//! | `transport` | Cap'n Proto RPC over TLS, keys of both sides checked against the company's list of machines |
//! | `tracker` | which machines there are and which of them holds what; chooses where second copies go |
//! | `host` | keeps every frame; the only one that deletes |
//! | `terminal` | a PC: its own store of second copies, its backups, its schedule |
//! | `drive` | snapshots and live files as a mounted drive |
//! | `web` | what the office looks like, in a browser |
//!
//! What holds for all of them: decisions are functions from a view and an event to actions, without sockets, clocks
//! or threads, so that a whole office runs in one test; and all bytes go through the engine's stores, which admit only
//! what is whole.

pub mod health;
pub mod pulse;
#[cfg(test)]
mod testlog;
pub mod secrets;
pub mod tracker;
pub mod transport;
pub mod work;
pub mod remote;
pub mod host;
pub mod terminal;
