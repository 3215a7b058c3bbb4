//! Data keys wrapped to a vault's public key: HPKE (RFC 9180) base mode with DHKEM(X25519, HKDF-SHA256),
//! HKDF-SHA256 and AES-256-GCM; info is a label and the vault's id, associated data is empty.
//!
//! ```text
//!  0  32  encapsulated key
//! 32  32  the data key, encrypted
//! 64  16  tag
//! ```

use std::convert::Infallible;
use std::fmt;

use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{CryptoError, DataKey};
use crate::env::Entropy;
use crate::id::VaultId;

type X25519 = hpke::kem::X25519HkdfSha256;
type Kdf = hpke::kdf::HkdfSha256;
type Aead = hpke::aead::AesGcm256;

/// Bytes of a wrapped data key.
pub const WRAPPED_LEN: usize = 80;

const ENCAPSULATED_LEN: usize = 32;
const INFO_LABEL: &[u8] = b"twinkeep data key v1";
const WHAT: &str = "the wrapped data key";

/// An X25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicKey(pub [u8; 32]);

/// An X25519 secret key, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

/// A data key that only the holder of the vault's secret key can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrappedKey(pub [u8; WRAPPED_LEN]);

impl SecretKey {
    /// Draws a new one.
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut key = Self([0; 32]);
        entropy.fill(&mut key.0);
        key
    }

    /// Any 32 bytes are a secret key: X25519 clamps them.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(*bytes)
    }

    /// The key others wrap to.
    pub fn public(&self) -> PublicKey {
        PublicKey(X25519::sk_to_pk(&self.private()).to_bytes().into())
    }

    /// The key itself, for sealing it.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn private(&self) -> <X25519 as Kem>::PrivateKey {
        <X25519 as Kem>::PrivateKey::from_bytes(&self.0).expect("32 bytes are a private key")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

/// Wraps `key` so that [`unwrap`] needs the secret of `public` and the same vault.
///
/// # Panics
/// If `public` is one of the few degenerate points that no [`SecretKey`] has.
pub fn wrap(public: &PublicKey, key: &DataKey, vault: &VaultId, entropy: &dyn Entropy) -> WrappedKey {
    try_wrap(public, key, vault, entropy).expect("a public key made from a secret key takes part in an exchange")
}

impl PublicKey {
    /// Whether anything can be wrapped to it: false for the few degenerate points that no [`SecretKey`] has.
    pub fn is_usable(&self) -> bool {
        /// Decides nothing: such a point fails with every other.
        struct Ones;
        impl Entropy for Ones {
            fn fill(&self, bytes: &mut [u8]) {
                bytes.fill(1);
            }
        }
        try_wrap(self, &DataKey::from_bytes(&[0; 32]), &VaultId([0; 16]), &Ones).is_ok()
    }
}

fn try_wrap(
    public: &PublicKey,
    key: &DataKey,
    vault: &VaultId,
    entropy: &dyn Entropy,
) -> Result<WrappedKey, hpke::HpkeError> {
    let recipient = <X25519 as Kem>::PublicKey::from_bytes(&public.0).expect("32 bytes are a public key");
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<Aead, Kdf, X25519>(
        &OpModeS::Base,
        &recipient,
        &info(vault),
        key.expose(),
        &[],
        &mut Dice(entropy),
    )?;
    let mut wrapped = [0; WRAPPED_LEN];
    wrapped[..ENCAPSULATED_LEN].copy_from_slice(&encapsulated.to_bytes());
    wrapped[ENCAPSULATED_LEN..].copy_from_slice(&sealed);
    Ok(WrappedKey(wrapped))
}

/// Opens what [`wrap`] made; fails for another key, another vault, or a changed byte.
pub fn unwrap(secret: &SecretKey, wrapped: &WrappedKey, vault: &VaultId) -> Result<DataKey, CryptoError> {
    let (encapsulated, sealed) = wrapped.0.split_at(ENCAPSULATED_LEN);
    let refused = |_| CryptoError::Refused { what: WHAT };
    let encapsulated = <X25519 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(refused)?;
    let opened = hpke::single_shot_open::<Aead, Kdf, X25519>(
        &OpModeR::Base,
        &secret.private(),
        &encapsulated,
        &info(vault),
        sealed,
        &[],
    )
    .map(Zeroizing::new)
    .map_err(refused)?;
    let bytes = opened.as_slice().try_into().map_err(|_| CryptoError::Refused { what: WHAT })?;
    Ok(DataKey::from_bytes(bytes))
}

fn info(vault: &VaultId) -> Vec<u8> {
    [INFO_LABEL, &vault.0].concat()
}

/// Our random source in the shape the HPKE crate asks for.
struct Dice<'a>(&'a dyn Entropy);

impl TryRng for Dice<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Dice<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEntropy;

    /// The same bytes always: only for known answers.
    struct Fixed;

    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0x42);
        }
    }

    const VAULT: VaultId = VaultId([1; 16]);

    #[test]
    fn unwraps_only_what_is_its_own() {
        let secret = SecretKey::random(&SystemEntropy);
        let key = DataKey::random(&SystemEntropy);
        let wrapped = wrap(&secret.public(), &key, &VAULT, &SystemEntropy);
        assert_eq!(unwrap(&secret, &wrapped, &VAULT).unwrap().expose(), key.expose());
        assert_ne!(wrap(&secret.public(), &key, &VAULT, &SystemEntropy), wrapped, "a fresh exchange each time");

        assert!(unwrap(&SecretKey::random(&SystemEntropy), &wrapped, &VAULT).is_err());
        assert!(unwrap(&secret, &wrapped, &VaultId([2; 16])).is_err());
        for place in 0..WRAPPED_LEN {
            let mut bad = wrapped;
            bad.0[place] ^= 1;
            assert!(unwrap(&secret, &bad, &VAULT).is_err(), "byte {place}");
        }
        assert!(unwrap(&secret, &WrappedKey([0; WRAPPED_LEN]), &VAULT).is_err(), "a degenerate exchange");
    }

    #[test]
    fn known_answers() {
        let secret = SecretKey::from_bytes(&[5; 32]);
        let wrapped = wrap(&secret.public(), &DataKey::from_bytes(&[6; 32]), &VAULT, &Fixed);
        let hex: String = wrapped.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "ae3bf1cd87c2d2ed25af4a1a239eed04a990f00e7403e4c8065927de010fd17aa2ad0897a4e2226673d5ef8c081fdd85683a44bc4be29d42330a2410df20ee6049ad7c70443173ac62ae75e018c26aaf"
        );
        assert_eq!(unwrap(&secret, &wrapped, &VAULT).unwrap().expose(), &[6; 32]);
    }

    #[test]
    fn debug_tells_nothing() {
        assert_eq!(format!("{:?}", SecretKey([7; 32])), "SecretKey(…)");
    }
}
