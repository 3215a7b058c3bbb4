//! A vault: a store, the keys to it, and the snapshots in it.
//!
//! What always holds: keys come from the keyring or from the secret itself, and every record believed here carries a
//! MAC made with them, or with those of a device that the keyring admits. A device opens nothing.

mod authors;
pub mod config;
mod configure;
pub mod device;
mod error;
pub mod keyring;
mod keys;
mod open;
mod putter;
mod reader;
mod snapshots;
pub mod twin;

pub use configure::ConfigChange;
pub use device::{DeviceKey, DeviceKeyError};
pub use error::{ErrorClass, VaultError};
pub use open::{CreateOptions, Head, HeadBytes, Keyless, NewSlot, Place, Prepared, UNDELETE_DAYS_DEFAULT, Unlock};
pub(crate) use putter::Putter;
pub use reader::{ChunkReader, ReadError, damaged};
pub use snapshots::{Received, SnapshotInfo, Snapshots};

use crate::crypto::{DataKey, Suite, VaultKeys, WRAPPED_LEN, WrappedKey, wrap};
use crate::env::Env;
use crate::frame::{DataKeys, SealKeys};
use crate::id::{SessionId, VaultId};
use crate::store::{LocalStore, Store, StoreError};
use config::Config;
use std::sync::Arc;

/// Result of a vault operation.
pub type Result<T> = std::result::Result<T, VaultError>;

/// An open vault.
pub struct Vault {
    config: Config,
    store: Arc<dyn Store>,
    local: Option<LocalStore>,
    /// What it was opened from, for a vault that rests on another machine.
    head: Option<open::HeadBytes>,
    data_keys: Arc<DataKeys>,
    access: keys::Access,
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
    ///
    /// # Errors
    /// [`StoreError::Elsewhere`] where it is on another one.
    pub fn local(&self) -> std::result::Result<&LocalStore, StoreError> {
        self.local.as_ref().ok_or(StoreError::Elsewhere)
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

    /// What a session seals its frames with: a data key of its own, wrapped to the newest key pair.
    pub(crate) fn seal_keys(&self, session: SessionId) -> SealKeys {
        let data_key = DataKey::random(&*self.env.entropy);
        let (generation, public) = self.keys().newest();
        let suite = self.config.suite;
        let wrapped = match suite {
            Suite::Plain => WrappedKey([0; WRAPPED_LEN]),
            Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => wrap::wrap(public, &data_key, &self.id(), &*self.env.entropy),
        };
        SealKeys { suite, data_key: Arc::new(data_key), wrapped, generation, vault: self.id(), session }
    }

    /// A reader of chunks with a context of its own.
    ///
    /// # Errors
    /// [`ReadError::WriteOnly`] where the vault was opened with a device key.
    pub fn reader(&self) -> std::result::Result<ChunkReader, ReadError> {
        if self.device().is_some() {
            return Err(ReadError::WriteOnly);
        }
        ChunkReader::new(self.store.clone(), self.data_keys.clone())
    }
}

#[cfg(test)]
mod tests;
