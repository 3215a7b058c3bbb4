//! Sealing a byte string under a key of its own.
//!
//! The key of one sealed unit is keyed BLAKE3(data key, label ‖ salt) with a label for each suite, the nonce is zero,
//! and the whole clear header is associated data. Salts are 24 random bytes, so no key is ever used twice, and the
//! same plaintext compressed by another library version cannot meet an old key.

use std::fmt;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::CryptoError;
use crate::env::Entropy;

/// Bytes of salt that stand beside every sealed unit.
pub const SALT_LEN: usize = 24;

/// Bytes sealing adds at the end.
pub const TAG_LEN: usize = 16;

/// Bytes of a key sealed by [`seal_key`]: salt, key, tag.
pub const SEALED_KEY_LEN: usize = SALT_LEN + 32 + TAG_LEN;

/// Salts drawn from the random source at once: a call costs as much as sealing a small frame.
const SALT_BATCH: usize = 64;

/// What seals a unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Suite {
    /// Nothing: bytes are stored as they are. Only in a vault made without encryption.
    Plain = 0,
    /// AES-256-GCM.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305, faster where the CPU has no AES instructions.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// Reads the byte that stands in headers.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Plain),
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The faster cipher on this CPU: AES where it has instructions for it.
    pub fn fastest() -> Self {
        if has_aes() { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// Bytes [`Self::seal`] adds: [`TAG_LEN`], or 0 for [`Suite::Plain`].
    pub fn overhead(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => TAG_LEN,
        }
    }

    /// Encrypts `body[from..]` in place, bound to `header`, and appends the tag.
    ///
    /// `salt` must be drawn for this one call; see [`Salts`].
    pub fn seal(self, key: &DataKey, salt: &[u8; SALT_LEN], header: &[u8], body: &mut Vec<u8>, from: usize) {
        let Some(cipher) = self.cipher(key, salt) else { return };
        let tag = cipher
            .seal_in_place_separate_tag(nonce(), Aad::from(header), &mut body[from..])
            .expect("a unit is far below the cipher's 64 GiB");
        body.extend_from_slice(tag.as_ref());
    }

    /// Opens what [`Self::seal`] made, in place: `body` is ciphertext and tag, the result is the plaintext in it.
    ///
    /// After an error `body` holds nothing meaningful. Fails if a byte of body or header differs, or the key does.
    pub fn open<'a>(
        self,
        key: &DataKey,
        salt: &[u8; SALT_LEN],
        header: &[u8],
        body: &'a mut [u8],
    ) -> Result<&'a mut [u8], CryptoError> {
        let Some(cipher) = self.cipher(key, salt) else { return Ok(body) };
        if body.len() < TAG_LEN {
            return Err(CryptoError::TooShort { what: "sealed data", expected: TAG_LEN, found: body.len() });
        }
        cipher.open_in_place(nonce(), Aad::from(header), body).map_err(|_| CryptoError::Refused { what: "sealed data" })
    }

    /// The cipher keyed for one unit; `None` for [`Suite::Plain`].
    fn cipher(self, key: &DataKey, salt: &[u8; SALT_LEN]) -> Option<LessSafeKey> {
        let (algorithm, label): (&'static Algorithm, &[u8]) = match self {
            Self::Plain => return None,
            Self::Aes256Gcm => (&AES_256_GCM, b"twinkeep seal v1 aes-256-gcm"),
            Self::ChaCha20Poly1305 => (&CHACHA20_POLY1305, b"twinkeep seal v1 chacha20-poly1305"),
        };
        // One block of the hash: this runs once a frame.
        let mut input = [0; 64];
        let len = label.len() + SALT_LEN;
        input[..label.len()].copy_from_slice(label);
        input[label.len()..len].copy_from_slice(salt);
        let unit_key = Zeroizing::new(*blake3::keyed_hash(&key.0, &input[..len]).as_bytes());
        Some(LessSafeKey::new(UnboundKey::new(algorithm, &*unit_key).expect("both ciphers take 32 bytes")))
    }
}

/// Seals 32 secret bytes with AES-256-GCM under a salt of their own, bound to `header`.
pub fn seal_key(key: &DataKey, header: &[u8], secret: &[u8; 32], entropy: &dyn Entropy) -> [u8; SEALED_KEY_LEN] {
    let mut salt = [0; SALT_LEN];
    entropy.fill(&mut salt);
    // All the room it will need: a vector that grew would leave the secret behind.
    let mut bytes = Vec::with_capacity(SEALED_KEY_LEN);
    bytes.extend_from_slice(&salt);
    bytes.extend_from_slice(secret);
    Suite::Aes256Gcm.seal(key, &salt, header, &mut bytes, SALT_LEN);
    bytes.try_into().expect("salt, key and tag")
}

/// Opens what [`seal_key`] made.
pub fn open_key(
    key: &DataKey,
    header: &[u8],
    sealed: &[u8; SEALED_KEY_LEN],
) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
    let mut bytes = Zeroizing::new(*sealed);
    let (salt, body) = bytes.split_first_chunk_mut::<SALT_LEN>().expect("sealed keys begin with their salt");
    let opened = Suite::Aes256Gcm.open(key, salt, header, body)?;
    let secret: &[u8; 32] = (&*opened).try_into().expect("32 bytes are sealed");
    Ok(Zeroizing::new(*secret))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// What the keys of a session's frames come from: 32 bytes, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; 32]);

impl DataKey {
    /// Draws a new one.
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut key = Self([0; 32]);
        entropy.fill(&mut key.0);
        key
    }

    /// Takes key bytes from elsewhere: a password hash, a key file, an opened wrapping.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(*bytes)
    }

    /// The key itself, for wrapping it.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

/// Fresh salts, drawn in batches; one for each worker. None is ever handed out twice.
pub struct Salts {
    entropy: Arc<dyn Entropy>,
    batch: Box<[[u8; SALT_LEN]; SALT_BATCH]>,
    used: usize,
}

impl Salts {
    /// Draws nothing yet.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, batch: Box::new([[0; SALT_LEN]; SALT_BATCH]), used: SALT_BATCH }
    }

    /// The next salt.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so an Option would only be unwrapped")]
    pub fn next(&mut self) -> [u8; SALT_LEN] {
        if self.used == SALT_BATCH {
            self.entropy.fill(self.batch.as_flattened_mut());
            self.used = 0;
        }
        let salt = self.batch[self.used];
        self.used += 1;
        salt
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::env::SystemEntropy;

    const SUITES: [Suite; 3] = [Suite::Plain, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    fn sealed(suite: Suite, header: &[u8], text: &[u8]) -> Vec<u8> {
        let mut body = b"before".to_vec();
        body.extend_from_slice(text);
        suite.seal(&DataKey([7; 32]), &[9; SALT_LEN], header, &mut body, 6);
        assert_eq!(&body[..6], b"before");
        body.split_off(6)
    }

    #[test]
    fn opens_what_it_sealed() {
        for suite in SUITES {
            for text in [&b""[..], b"x", &[3; 1000]] {
                let mut body = sealed(suite, b"header", text);
                assert_eq!(body.len(), text.len() + suite.overhead());
                let opened = suite.open(&DataKey([7; 32]), &[9; SALT_LEN], b"header", &mut body);
                assert_eq!(opened.as_deref(), Ok(text));
            }
            assert_eq!(Suite::from_byte(suite as u8), Some(suite));
        }
        assert_eq!(Suite::from_byte(3), None);
        assert_ne!(Suite::fastest(), Suite::Plain);
    }

    #[test]
    fn refuses_every_change() {
        let open = |suite: Suite, key: u8, salt: u8, header: &[u8], body: &mut [u8]| {
            suite.open(&DataKey([key; 32]), &[salt; SALT_LEN], header, body).map(|text| text.to_vec())
        };
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let good = sealed(suite, b"header", b"some text");
            let refused = Err(CryptoError::Refused { what: "sealed data" });
            for place in 0..good.len() {
                let mut bad = good.clone();
                bad[place] ^= 1;
                assert_eq!(open(suite, 7, 9, b"header", &mut bad), refused, "byte {place}");
                let cut = open(suite, 7, 9, b"header", &mut good[..place].to_vec());
                assert!(cut.is_err(), "cut at {place}");
            }
            assert_eq!(open(suite, 8, 9, b"header", &mut good.clone()), refused);
            assert_eq!(open(suite, 7, 8, b"header", &mut good.clone()), refused);
            assert_eq!(open(suite, 7, 9, b"Header", &mut good.clone()), refused);
            let other = if suite == Suite::Aes256Gcm { Suite::ChaCha20Poly1305 } else { Suite::Aes256Gcm };
            assert_eq!(open(other, 7, 9, b"header", &mut good.clone()), refused);
        }
    }

    #[test]
    fn known_answers() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(sealed(Suite::Aes256Gcm, b"header", b"twinkeep")),
            "cbe0185e58d783c01599fb0a8daae356ab42ab58e7b5e577"
        );
        assert_eq!(
            hex(sealed(Suite::ChaCha20Poly1305, b"header", b"twinkeep")),
            "e31549afd268b4707b070f226009857039ffe0d36b867a4e"
        );
    }

    #[test]
    fn salts_differ_across_batches() {
        let mut salts = Salts::new(Arc::new(SystemEntropy));
        let drawn: HashSet<_> = (0..10 * SALT_BATCH + 1).map(|_| salts.next()).collect();
        assert_eq!(drawn.len(), 10 * SALT_BATCH + 1);
    }

    #[test]
    fn debug_tells_nothing() {
        assert_eq!(format!("{:?}", DataKey([7; 32])), "DataKey(…)");
    }
}
