//! Keys and ciphers: what seals frames, wraps their keys, names chunks and opens a vault.
//!
//! What always holds: a (key, nonce) pair is used for one message only, because every sealed unit gets a key of its
//! own from a fresh random salt; secrets are wiped when dropped and never printed; nothing here touches a file, and
//! randomness is an argument.

pub mod gear;
pub mod keys;
pub mod seal;
pub mod words;
pub mod wrap;

pub use gear::Gear;
pub use keys::{DeviceShare, VaultKeys, VaultSecret};
pub use seal::{DataKey, SALT_LEN, SEALED_KEY_LEN, Salts, Suite, TAG_LEN, open_key, seal_key};
pub use words::WordsError;
pub use wrap::{PublicKey, SecretKey, WRAPPED_LEN, WrappedKey};

/// Something sealed cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// Too short to hold even an authentication tag.
    #[error("{what} has {found} bytes, at least {expected} are needed")]
    TooShort {
        /// What was to be opened.
        what: &'static str,
        /// Least length in bytes.
        expected: usize,
        /// Its length in bytes.
        found: usize,
    },
    /// Authentication failed.
    #[error("{what} does not open: it is damaged, or was sealed for another key or vault")]
    Refused {
        /// What was to be opened.
        what: &'static str,
    },
}
