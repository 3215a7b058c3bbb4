//! A terminal: a PC's service. It keeps second copies in the room its owner grants, and is the way of programs on this
//! PC to the office.

pub mod away;
pub mod copies;
pub mod ground;
pub mod local;
pub mod order;
mod power;
pub mod service;
pub mod setup;
pub mod trusted;
pub mod unknown;
pub mod upkeep;

pub use service::{Settings, run};
