//! An office as programs on a PC or the host see it: a connection, a login, and vaults that are stores.
//!
//! The engine is synchronous and its stores are used by many threads; a connection lives on one thread of its own. Each
//! call goes to that thread and its caller waits for the answer.

pub mod admin;
mod line;
pub mod office;
pub mod people;
pub mod reach;
pub mod recovery;
mod session;
mod store;
pub mod wire;

pub use line::{Cap, Line, Way};
pub use store::{Copies, RemoteStore};
