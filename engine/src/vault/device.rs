//! Device keys: what a machine is given that may write and not read, as one small file.
//!
//! Whoever has the file can add to the vault, can compute the name of content they already know, and opens nothing.
//! It also says how frames are made, so that a forged config cannot turn encryption off. All numbers little-endian:
//!
//! ```text
//!   0   4  magic "TKDV"
//!   4   2  version, 1
//!   6   2  zero
//!   8  16  vault id
//!  24   8  device id
//!  32  32  leaf key
//!  64  32  branch key
//!  96  32  list key
//! 128  32  gear key
//! 160  32  record key of this device
//! 192  32  public key that data keys are wrapped to
//! 224   2  its generation
//! 226   1  suite of new frames: 1 or 2
//! 227   1  zstd level
//! 228   4  cutter: shortest …
//! 232   4  … average …
//! 236   4  … longest leaf
//! 240   1  cutter: normalisation
//! 241   1  cutter: how much more coarsely what looks random is cut, 0 in files from before there was such a thing
//! 242   6  zero
//! 248   8  when it was made
//! 256  32  checksum: BLAKE3 of everything before
//! ```

use super::config::{COMPRESSION_LEVEL_MAX, COMPRESSION_LEVEL_MIN, Config};
use crate::chunk::CutParams;
use crate::crypto::{DeviceShare, PublicKey, Suite, VaultKeys};
use crate::env::Time;
use crate::id::{DeviceId, VaultId};
use zeroize::Zeroizing;

const MAGIC: &[u8; 4] = b"TKDV";
const VERSION: u16 = 1;
const BODY_LEN: usize = 256;

/// Bytes of a device key file.
pub const DEVICE_KEY_LEN: usize = BODY_LEN + 32;

/// Bytes that are not a device key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceKeyError {
    /// Not as long as one is.
    #[error("a device key has {DEVICE_KEY_LEN} bytes, this has {0}")]
    Length(usize),
    /// Something else.
    #[error("this is no device key: it does not begin with \"TKDV\"")]
    Magic,
    /// Written by a later version.
    #[error("device key of version {0}, this version reads 1")]
    Version(u16),
    /// Some byte changed since it was written.
    #[error("the device key is damaged: its checksum does not fit")]
    Damaged,
    /// Bytes are set that mean nothing yet.
    #[error("the device key says something that only a later version of this program knows")]
    Later,
    /// A field has a value it cannot have.
    #[error("the device key's {0} cannot be used")]
    Field(&'static str),
}

/// What a device backs up with.
#[derive(Clone, Debug)]
pub struct DeviceKey {
    share: DeviceShare,
    suite: Suite,
    level: i32,
    cut: CutParams,
    created: Time,
}

impl DeviceKey {
    /// The key of a device that was just admitted to the vault of `config`; `None` if that is not encrypted.
    pub(super) fn new(share: DeviceShare, config: &Config, created: Time) -> Option<Self> {
        let Config { cut, suite, compression_level: level, .. } = *config;
        config.is_encrypted().then_some(Self { share, suite, level, cut, created })
    }

    /// The vault it is of.
    pub fn vault(&self) -> VaultId {
        self.share.vault
    }

    /// The device it is for.
    pub fn id(&self) -> DeviceId {
        self.share.id
    }

    /// What content is named, cut and sealed with.
    pub(super) fn keys(&self) -> VaultKeys {
        VaultKeys::of_device(&self.share)
    }

    /// The config as far as it decides what is written: as the device was told, whatever the vault's file says now.
    pub(super) fn config(&self, unverified: &Config) -> Config {
        let (cut, suite, compression_level) = (self.cut, self.suite, self.level);
        Config { cut, suite, compression_level, ..unverified.clone() }
    }

    /// The file, wiped when dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let share = &self.share;
        let mut bytes = Zeroizing::new(Vec::with_capacity(DEVICE_KEY_LEN));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&share.vault.0);
        bytes.extend_from_slice(&share.id.0);
        for key in [&share.leaf, &share.branch, &share.list, &share.gear, &share.record] {
            bytes.extend_from_slice(&**key);
        }
        bytes.extend_from_slice(&share.public.0);
        bytes.extend_from_slice(&share.generation.to_le_bytes());
        bytes.extend_from_slice(&[self.suite as u8, self.level as u8]);
        for len in [self.cut.min(), self.cut.avg(), self.cut.max()] {
            bytes.extend_from_slice(&len.to_le_bytes());
        }
        bytes.extend_from_slice(&[self.cut.normalization(), self.cut.coarse(), 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&self.created.0.to_le_bytes());
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    /// Reads a file that [`Self::encode`] made.
    pub fn parse(bytes: &[u8]) -> Result<Self, DeviceKeyError> {
        let Ok(file) = <&[u8; DEVICE_KEY_LEN]>::try_from(bytes) else {
            return Err(match bytes.starts_with(MAGIC) {
                true => DeviceKeyError::Length(bytes.len()),
                false => DeviceKeyError::Magic,
            });
        };
        if !file.starts_with(MAGIC) {
            return Err(DeviceKeyError::Magic);
        }
        let (body, checksum) = file.split_at(BODY_LEN);
        if blake3::hash(body).as_bytes() != checksum {
            return Err(DeviceKeyError::Damaged);
        }
        let mut fields = Fields(&body[MAGIC.len()..]);
        let version = u16::from_le_bytes(fields.take());
        if version != VERSION {
            return Err(DeviceKeyError::Version(version));
        }
        let zero: [u8; 2] = fields.take();
        let vault = VaultId(fields.take());
        let id = DeviceId(fields.take());
        let mut key = || Zeroizing::new(fields.take());
        let (leaf, branch, list, gear, record) = (key(), key(), key(), key(), key());
        let public = PublicKey(fields.take());
        let generation = u16::from_le_bytes(fields.take());
        let [suite, level] = fields.take();
        let mut number = || u32::from_le_bytes(fields.take());
        let (min, avg, max) = (number(), number(), number());
        let [normalization, coarse, zeros @ ..] = fields.take::<8>();
        let created = Time(i64::from_le_bytes(fields.take()));
        if zero != [0; 2] || zeros != [0; 6] {
            return Err(DeviceKeyError::Later);
        }
        let suite = Suite::from_byte(suite).filter(|suite| *suite != Suite::Plain);
        let level = i32::from(level);
        if !(COMPRESSION_LEVEL_MIN..=COMPRESSION_LEVEL_MAX).contains(&level) {
            return Err(DeviceKeyError::Field("compression level"));
        }
        if !public.is_usable() {
            return Err(DeviceKeyError::Field("public key"));
        }
        Ok(Self {
            share: DeviceShare { vault, id, leaf, branch, list, gear, record, generation, public },
            suite: suite.ok_or(DeviceKeyError::Field("cipher suite"))?,
            level,
            cut: CutParams::new(min, avg, max, normalization)
                .and_then(|cut| cut.with_coarse(coarse))
                .map_err(|_| DeviceKeyError::Field("lengths of the cutter"))?,
            created,
        })
    }

    /// When it was made.
    pub fn created(&self) -> Time {
        self.created
    }
}

/// Takes fixed fields off the front of a body whose length is known.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("all fields together are as long as the body");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::VaultSecret;
    use crate::vault::config::FORMAT_VERSION;

    fn config(suite: Suite) -> Config {
        Config {
            format_version: FORMAT_VERSION,
            vault: VaultId([2; 16]),
            created: Time(1),
            cut: CutParams::new(64 << 10, 256 << 10, 1 << 20, 2).unwrap(),
            suite,
            compression_level: 3,
            retention_days_min: 0,
            undelete_days: 0,
        }
    }

    fn device(suite: Suite) -> Option<DeviceKey> {
        let keys = VaultKeys::derive(&VaultSecret::from_bytes(&[1; 32]), VaultId([2; 16]));
        DeviceKey::new(keys.share(DeviceId([3; 8])).unwrap(), &config(suite), Time(4))
    }

    #[test]
    fn the_file_is_format_and_comes_back() {
        let file = device(Suite::Aes256Gcm).unwrap().encode();
        assert_eq!(file.len(), DEVICE_KEY_LEN);
        assert_eq!(blake3::hash(&file).to_hex()[..32], *"2c2ccb8fc389e3bf8efd7a0c867a6ef6");
        let back = DeviceKey::parse(&file).unwrap();
        assert_eq!(back.encode(), file);
        assert_eq!((back.vault(), back.id(), back.created()), (VaultId([2; 16]), DeviceId([3; 8]), Time(4)));
        assert!(device(Suite::Plain).is_none(), "an open vault has no devices");
        // What a forged config says of how frames are made is passed over.
        let forged = Config { suite: Suite::Plain, compression_level: 19, ..config(Suite::Plain) };
        assert_eq!(back.config(&forged), config(Suite::Aes256Gcm));
    }

    #[test]
    fn lengths_come_back() {
        let keys = VaultKeys::derive(&VaultSecret::from_bytes(&[1; 32]), VaultId([2; 16]));
        for cut in [CutParams::default(), CutParams::new(64, 256, 1024, 0).unwrap().with_coarse(10).unwrap()] {
            let config = Config { cut, ..config(Suite::Aes256Gcm) };
            let made = DeviceKey::new(keys.share(DeviceId([3; 8])).unwrap(), &config, Time(4)).unwrap();
            assert_eq!(DeviceKey::parse(&made.encode()).unwrap().config(&config).cut, cut);
        }
    }

    #[test]
    fn every_change_is_found() {
        let good = device(Suite::ChaCha20Poly1305).unwrap().encode();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert!(DeviceKey::parse(&bad).is_err(), "byte {place}");
            assert!(DeviceKey::parse(&good[..place]).is_err(), "cut at {place}");
        }
        // Whole, and yet not to be used.
        let with = |place: usize, byte: u8| {
            let mut bytes = good[..BODY_LEN].to_vec();
            bytes[place] = byte;
            bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
            DeviceKey::parse(&bytes).map(drop)
        };
        assert_eq!(with(226, 0), Err(DeviceKeyError::Field("cipher suite")));
        assert_eq!(with(227, 0), Err(DeviceKeyError::Field("compression level")));
        assert_eq!(with(240, 9), Err(DeviceKeyError::Field("lengths of the cutter")));
        assert_eq!(with(247, 1), Err(DeviceKeyError::Later));
        assert_eq!(with(4, 2), Err(DeviceKeyError::Version(2)));
        let zeros = [&good[..192], &[0; 32], &good[224..BODY_LEN]].concat();
        let zeros = [&zeros[..], blake3::hash(&zeros).as_bytes()].concat();
        assert_eq!(DeviceKey::parse(&zeros).map(drop), Err(DeviceKeyError::Field("public key")));
    }
}
