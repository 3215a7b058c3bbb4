//! vault

pub mod config;
pub mod keyring;
pub mod twin;
