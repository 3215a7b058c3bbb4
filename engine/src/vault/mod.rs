//! A vault: a store, the keys to it, and the snapshots in it.
//!
//! What always holds: keys come from the keyring or from the secret itself, and every record believed here carries a
//! MAC made with them.

pub mod config;
mod configure;
mod error;
pub mod keyring;
mod open;
mod reader;
mod snapshots;
pub mod twin;

pub use configure::ConfigChange;
pub use error::{ErrorClass, VaultError};
pub use open::{CreateOptions, Head, NewSlot, Place, UNDELETE_DAYS_DEFAULT, Unlock};
pub use reader::{ChunkReader, ReadError, damaged};
pub use snapshots::{SnapshotInfo, Snapshots};

use crate::crypto::VaultKeys;
use crate::env::Env;
use crate::frame::DataKeys;
use crate::id::VaultId;
use crate::store::{LocalStore, Store};
use config::Config;
use std::sync::Arc;

/// Result of a vault operation.
pub type Result<T> = std::result::Result<T, VaultError>;

/// An open vault.
pub struct Vault {
    config: Config,
    store: Arc<dyn Store>,
    local: LocalStore,
    data_keys: Arc<DataKeys>,
    env: Env,
    notes: Vec<String>,
}

impl Vault {
    /// Its name.
    pub fn id(&self) -> VaultId {
        self.config.vault
    }

    /// How it was made.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it rests.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The same, as what it is on this machine.
    pub fn local(&self) -> &LocalStore {
        &self.local
    }

    /// Its keys.
    pub fn keys(&self) -> &Arc<VaultKeys> {
        self.data_keys.vault_keys()
    }

    /// Its keys, with the data keys unwrapped so far.
    pub fn data_keys(&self) -> &Arc<DataKeys> {
        &self.data_keys
    }

    /// Clock, randomness, threads.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// What was noticed, and mended, while opening: one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A reader of chunks with a context of its own.
    pub fn reader(&self) -> std::result::Result<ChunkReader, ReadError> {
        ChunkReader::new(self.store.clone(), self.data_keys.clone())
    }
}
