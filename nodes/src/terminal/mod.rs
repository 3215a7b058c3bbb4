//! A terminal: a PC's service. It keeps second copies in the room its owner grants, and is the way of programs on this
//! PC to the office.

pub mod copies;
pub mod ground;
pub mod local;
pub mod order;
mod power;
pub mod service;
pub mod setup;
pub mod trusted;

pub use service::{Settings, run};
