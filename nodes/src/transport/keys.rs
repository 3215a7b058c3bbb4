//! Keys of machines as TLS wants them, and as people compare them.

use crate::tracker::names::NodeKey;
use crate::tracker::sign::SigningKey;
use zeroize::Zeroizing;

/// What stands before the 32 bytes of a public key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What stands before the 32 bytes of a secret in its PKCS #8 form (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The key in a SubjectPublicKeyInfo; none for keys of another kind.
pub(super) fn from_spki(spki: &[u8]) -> Option<NodeKey> {
    NodeKey::from_slice(spki.strip_prefix(&SPKI_PREFIX)?)
}

/// A key's SubjectPublicKeyInfo.
pub(super) fn to_spki(key: &NodeKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], &key.0].concat()
}

/// A secret's PKCS #8 form.
pub(super) fn to_pkcs8(key: &SigningKey) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([&PKCS8_PREFIX[..], &key.seed()[..]].concat())
}

/// The name under which the holder of a secret is known.
pub fn node_key(key: &SigningKey) -> NodeKey {
    NodeKey(key.public())
}

/// What people compare of a machine's key.
pub fn fingerprint(key: &NodeKey) -> String {
    fingerprint_of(&key.0)
}

/// What people compare: eight groups of four hex digits, the first half of the BLAKE3 of the key.
pub fn fingerprint_of(key: &[u8; 32]) -> String {
    let hex = blake3::hash(key).to_hex();
    let groups: Vec<&str> = (0..8).map(|at| &hex[4 * at..4 * at + 4]).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::Ed25519KeyPair;

    #[test]
    fn keys_go_there_and_back() {
        let key = SigningKey::from_seed(&[7; 32]);
        let public = node_key(&key);
        assert_eq!(from_spki(&to_spki(&public)), Some(public));
        assert_eq!(from_spki(&to_spki(&public)[1..]), None);
        assert_eq!(fingerprint(&public).len(), 39);
        assert!(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&to_pkcs8(&key)).is_ok());
    }
}
