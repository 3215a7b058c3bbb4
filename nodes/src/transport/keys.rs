//! Keys of machines, accounts and devices: Ed25519.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use twinkeep_engine::env::Entropy;
use zeroize::Zeroizing;

/// What stands before the 32 bytes of a public key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What stands before the 32 bytes of a secret in its PKCS #8 form (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A public key: who somebody is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// From 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The key in a SubjectPublicKeyInfo; none for keys of another kind.
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        Self::from_slice(spki.strip_prefix(&SPKI_PREFIX)?)
    }

    /// Its SubjectPublicKeyInfo.
    pub fn to_spki(self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// Whether `signature` over `message` was made with its secret.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }

    /// What people compare: eight groups of four hex digits, the first half of the BLAKE3 of the key.
    pub fn fingerprint(&self) -> String {
        let hash = blake3::hash(&self.0);
        let hex = hash.to_hex();
        let groups: Vec<&str> = (0..8).map(|at| &hex[4 * at..4 * at + 4]).collect();
        groups.join("-")
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.fingerprint())
    }
}

/// A key pair.
pub struct NodeKey {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl NodeKey {
    /// A new one.
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The pair that follows from 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        Self { seed: Zeroizing::new(*seed), pair }
    }

    /// The secret.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Who its owner is.
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref();
        PublicKey(bytes.try_into().expect("a public key has 32 bytes"))
    }

    /// Signs; 64 bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair.sign(message).as_ref().try_into().expect("a signature has 64 bytes")
    }

    /// Its PKCS #8 form.
    pub(super) fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&PKCS8_PREFIX[..], &self.seed[..]].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::env::SeededEntropy;

    #[test]
    fn keys_go_there_and_back_and_sign() {
        let key = NodeKey::random(&SeededEntropy::new(7));
        let public = key.public();
        assert_eq!(PublicKey::from_spki(&public.to_spki()), Some(public));
        assert_eq!(PublicKey::from_spki(&public.to_spki()[1..]), None);
        assert_eq!(NodeKey::from_seed(key.seed()).public(), public);
        let signature = key.sign(b"word");
        assert!(public.verifies(b"word", &signature));
        assert!(!public.verifies(b"worD", &signature));
        assert!(!public.verifies(b"word", &signature[..63]));
        assert_eq!(public.fingerprint().len(), 39);
        assert!(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key.to_pkcs8()).is_ok());
    }
}
