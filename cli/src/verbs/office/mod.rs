//! Verbs of an office: its host, its machines, its people.

pub mod copies;
pub mod deliver;
pub mod demo;
pub mod doctor;
pub mod host;
pub mod login;
pub mod node;
pub mod serve;
pub mod terminal;
pub mod user;
