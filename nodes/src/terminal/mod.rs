//! A terminal: a PC's service. It keeps second copies in the room its owner grants, and is the way of programs on this
//! PC to the office.

pub mod away;
pub mod copies;
pub mod ground;
pub mod local;
pub mod order;
pub mod service;
pub mod setup;

pub use service::{Settings, run};
