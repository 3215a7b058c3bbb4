//! Ed25519 as the office uses it: the company's authority, keys of machines, logins and devices.
//!
//! What is signed always begins with a label or magic of its own, so a signature never serves in another place.

use std::fmt;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use twinkeep_engine::byte_id;
use twinkeep_engine::env::Entropy;
use zeroize::Zeroizing;

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

byte_id!(
    /// The company's authority: an Ed25519 public key. What it signed is the office's word.
    AuthorityKey,
    32
);

/// Signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; 32]>,
}

impl SigningKey {
    /// Draws a new one.
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The one that follows from 32 secret bytes (RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        Self { pair, seed: Zeroizing::new(*seed) }
    }

    /// The secret it follows from, for storing it.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Its public half.
    pub fn public(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().expect("public keys of Ed25519 have 32 bytes")
    }

    /// Its public half, where it is the company's authority.
    pub fn authority(&self) -> AuthorityKey {
        AuthorityKey(self.public())
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.pair.sign(message).as_ref().try_into().expect("signatures of Ed25519 have 64 bytes")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// Whether `signature` over `message` was made by the holder of `key`. False for whatever is no key or signature.
pub fn is_signed(key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_rfc_8032_does() {
        // Its test 1: the empty message.
        let hex = |text: &str| AuthorityKey::from_hex(text).unwrap().0;
        let key = SigningKey::from_seed(&hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
        assert_eq!(key.public(), hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"));
        let signature = key.sign(b"");
        assert_eq!(signature[..32], hex("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"));
        assert!(is_signed(&key.public(), b"", &signature));
        for place in 0..SIGNATURE_LEN {
            let mut bad = signature;
            bad[place] ^= 1;
            assert!(!is_signed(&key.public(), b"", &bad), "byte {place}");
        }
        assert!(!is_signed(&key.public(), b"x", &signature) && !is_signed(&key.public(), b"", &signature[..63]));
        assert!(!is_signed(&[0; 32], b"", &signature) && !is_signed(&[0xff; 32], b"", &[0; 64]));
        assert_eq!(format!("{key:?}"), "SigningKey(…)");
    }
}
