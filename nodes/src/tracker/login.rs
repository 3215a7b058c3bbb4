//! Logins: what follows from a password, how somebody proves to know it, and how often they may try.
//!
//! The password never leaves the machine it is typed on. One run of Argon2id gives 64 bytes; a login key and a wrapping
//! key are derived from them with contexts of their own. The office holds the login key's public half, and the
//! account's key sealed under the wrapping key, which it hands out only against a proof.
//!
//! A proof signs "twinkeep login 1" ‖ challenge (32) ‖ account name ‖ key of the machine (32) ‖ host's key (32): it
//! serves once, for one account, from one machine, to one host.

#[cfg(test)]
mod tests;
mod throttle;

use twinkeep_engine::crypto::{CryptoError, DataKey, SEALED_KEY_LEN, open_key, seal_key};
use twinkeep_engine::env::Entropy;
use twinkeep_engine::vault::keyring::{KeyringError, PASSWORD_LEN_MAX, PasswordCost};
use zeroize::Zeroizing;

use super::event::{EventError, check_cost};
use super::names::{AccountId, NodeKey, fold};
use super::registry::Account;
use super::sign::{SIGNATURE_LEN, SigningKey, is_signed};

pub use throttle::{Subject, Throttle, Wait};

const PROOF_LABEL: &[u8] = b"twinkeep login 1";
const LOGIN_CONTEXT: &str = "twinkeep 2026 login key";
const WRAPPING_CONTEXT: &str = "twinkeep 2026 account wrapping key";
const FAKE_SALT_CONTEXT: &str = "twinkeep 2026 salt of unknown accounts";
const SEAL_LABEL: &[u8] = b"twinkeep account key v1";

/// A password cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A password of no bytes.
    #[error("the password is empty")]
    EmptyPassword,
    /// Too long.
    #[error("the password has {found} bytes, at most {PASSWORD_LEN_MAX} allowed")]
    LongPassword {
        /// Its length.
        found: usize,
    },
    /// The host named a cost that is not to be worked with.
    #[error(transparent)]
    Cost(#[from] EventError),
    /// Argon2 does not run.
    #[error(transparent)]
    Argon2(#[from] KeyringError),
}

/// What follows from a password.
#[derive(Debug)]
pub struct PasswordKeys {
    /// Proves that one knows it.
    pub login: SigningKey,
    /// Opens the account's key.
    pub wrapping: WrappingKey,
}

/// Seals an account's key.
pub struct WrappingKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WrappingKey(…)")
    }
}

/// What must be known to try a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PasswordParams {
    /// Argon2's salt.
    pub salt: [u8; 16],
    /// Argon2's cost.
    pub cost: PasswordCost,
}

/// What a login is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Challenge<'a> {
    /// 32 random bytes of the host, used once.
    pub challenge: &'a [u8; 32],
    /// The account's name as it was sent.
    pub name: &'a str,
    /// Key of the machine that logs in.
    pub node: &'a NodeKey,
    /// Key of the host.
    pub host: &'a NodeKey,
}

/// The keys of a password, in one run of Argon2id. Refuses a cost that would make the password cheap to guess.
pub fn derive(password: &str, params: &PasswordParams) -> Result<PasswordKeys, LoginError> {
    if password.is_empty() {
        return Err(LoginError::EmptyPassword);
    }
    if password.len() > PASSWORD_LEN_MAX {
        return Err(LoginError::LongPassword { found: password.len() });
    }
    check_cost(params.cost)?;
    let stretched = params.cost.stretch::<64>(password, &params.salt)?;
    let seed = Zeroizing::new(blake3::derive_key(LOGIN_CONTEXT, &*stretched));
    let wrapping = Zeroizing::new(blake3::derive_key(WRAPPING_CONTEXT, &*stretched));
    Ok(PasswordKeys { login: SigningKey::from_seed(&seed), wrapping: WrappingKey(wrapping) })
}

/// Seals an account's key under what follows from its password.
pub fn seal_account_key(
    wrapping: &WrappingKey,
    account: &AccountId,
    key: &[u8; 32],
    entropy: &dyn Entropy,
) -> [u8; SEALED_KEY_LEN] {
    seal_key(&DataKey::from_bytes(&wrapping.0), &seal_header(account), key, entropy)
}

/// Opens what [`seal_account_key`] made.
pub fn open_account_key(
    wrapping: &WrappingKey,
    account: &AccountId,
    sealed: &[u8],
) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
    let what = "account key";
    let short = CryptoError::TooShort { what, expected: SEALED_KEY_LEN, found: sealed.len() };
    let Some((sealed, rest)) = sealed.split_first_chunk() else { return Err(short) };
    if !rest.is_empty() {
        return Err(CryptoError::Refused { what });
    }
    open_key(&DataKey::from_bytes(&wrapping.0), &seal_header(account), sealed)
        .map_err(|_| CryptoError::Refused { what })
}

impl Challenge<'_> {
    /// Proves to know the password, or to be the device, whose key this is.
    pub fn prove(&self, key: &SigningKey) -> [u8; SIGNATURE_LEN] {
        key.sign(&self.message())
    }

    /// Whether a proof is that of the account's password. For no account it takes as long and is false.
    pub fn verify(&self, account: Option<&Account>, proof: &[u8]) -> bool {
        // Some key whose secret half nobody has drawn.
        let nobody = blake3::derive_key(LOGIN_CONTEXT, self.challenge);
        let key = account.map_or(&nobody, |account| &account.login.login_key);
        let is_good = is_signed(key, &self.message(), proof);
        is_good && account.is_some_and(|account| !account.disabled)
    }

    /// Whether a proof is that of a device with this key.
    pub fn verify_key(&self, key: &[u8; 32], proof: &[u8]) -> bool {
        is_signed(key, &self.message(), proof)
    }

    fn message(&self) -> Vec<u8> {
        [PROOF_LABEL, self.challenge, self.name.as_bytes(), &self.node.0, &self.host.0].concat()
    }
}

/// What a host answers to who wants to log in under a name: of an unknown account something that looks the same and
/// stays the same. `host_secret` is the host's own, for this alone.
pub fn params(account: Option<&Account>, name: &str, host_secret: &[u8; 32]) -> PasswordParams {
    // Made in either case, so that it takes as long.
    let key = Zeroizing::new(blake3::derive_key(FAKE_SALT_CONTEXT, host_secret));
    let hash = blake3::keyed_hash(&key, fold(name).as_bytes());
    let fake = *hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    match account {
        Some(account) => PasswordParams { salt: account.login.salt, cost: account.login.cost },
        None => PasswordParams { salt: fake, cost: PasswordCost::default() },
    }
}

/// Label and account.
fn seal_header(account: &AccountId) -> Vec<u8> {
    [SEAL_LABEL, &account.0].concat()
}
