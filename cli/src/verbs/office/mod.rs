//! Verbs of an office: its host, its machines, its people.

pub mod copies;
pub mod deliver;
pub mod demo;
pub mod device;
pub mod doctor;
pub mod host;
pub mod login;
pub mod node;
pub mod reset;
pub mod serve;
pub mod terminal;
pub mod user;
pub mod vault;
