//! One vault for all targets, the same in every run.

use std::sync::{Arc, LazyLock};

use twinkeep_engine::crypto::wrap::wrap;
use twinkeep_engine::crypto::{DataKey, Salts, Suite, VaultKeys, VaultSecret, WrappedKey};
use twinkeep_engine::env::SeededEntropy;
use twinkeep_engine::frame::{DataKeys, SealKeys, Sealer};
use twinkeep_engine::id::{SessionId, VaultId};

/// The vault.
pub const VAULT: VaultId = VaultId([9; 16]);

/// The session whose frames and packs are read.
pub const SESSION: SessionId = SessionId([5; 16]);

/// The key frames are sealed with.
pub const DATA_KEY: [u8; 32] = [6; 32];

/// The vault's secret.
pub fn secret() -> VaultSecret {
    VaultSecret::from_bytes(&[7; 32])
}

static KEYS: LazyLock<Arc<VaultKeys>> = LazyLock::new(|| Arc::new(VaultKeys::derive(&secret(), VAULT)));
static OPEN_KEYS: LazyLock<Arc<VaultKeys>> = LazyLock::new(|| Arc::new(VaultKeys::unencrypted(VAULT)));
static DATA_KEYS: LazyLock<Arc<DataKeys>> = LazyLock::new(|| Arc::new(DataKeys::new(KEYS.clone())));
static OPEN_DATA_KEYS: LazyLock<Arc<DataKeys>> = LazyLock::new(|| Arc::new(DataKeys::new(OPEN_KEYS.clone())));
static WRAPPED: LazyLock<WrappedKey> =
    LazyLock::new(|| wrap(KEYS.newest().1, &data_key(), &VAULT, &SeededEntropy::new(1)));

/// The vault's keys.
pub fn keys() -> &'static VaultKeys {
    &KEYS
}

/// The keys of an unencrypted vault of the same name.
pub fn open_keys() -> &'static VaultKeys {
    &OPEN_KEYS
}

/// What opens frames of the encrypted vault, or of the one without encryption.
pub fn data_keys(suite: Suite) -> Arc<DataKeys> {
    match suite {
        Suite::Plain => OPEN_DATA_KEYS.clone(),
        Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => DATA_KEYS.clone(),
    }
}

/// [`DATA_KEY`] as a key.
pub fn data_key() -> DataKey {
    DataKey::from_bytes(&DATA_KEY)
}

/// [`DATA_KEY`] wrapped to the vault; zeros where nothing is sealed.
pub fn wrapped(suite: Suite) -> WrappedKey {
    match suite {
        Suite::Plain => WrappedKey([0; 80]),
        Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => *WRAPPED,
    }
}

/// A sealer for the session; its salts repeat, which only a test may do.
pub fn sealer(suite: Suite) -> Sealer {
    let keys = SealKeys {
        suite,
        data_key: Arc::new(data_key()),
        wrapped: wrapped(suite),
        generation: 0,
        vault: VAULT,
        session: SESSION,
    };
    Sealer::new(keys, Salts::new(Arc::new(SeededEntropy::new(2))), 1).expect("zstd knows level 1")
}
