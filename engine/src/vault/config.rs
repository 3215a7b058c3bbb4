//! A vault's config: how it was made, and what new frames are written with. Stored twice in its folder.
//!
//! It is read before there are keys, so [`ConfigFile`] says what the file says, and [`ConfigFile::verify`] gives the
//! [`Config`] once the keys have shown that a member wrote it. Write nothing by a config that was not verified:
//! a forged one would turn encryption off.

use twinkeep_schema::vault_capnp as schema;

use crate::chunk::CutParams;
use crate::crypto::{Suite, VaultKeys};
use crate::env::Time;
use crate::id::VaultId;
use crate::record::canonical::{self, CanonicalError};
use crate::record::change::{RETENTION_DAYS_MAX, UNDELETE_DAYS_MAX};
use crate::record::{ParsedRecord, Record, RecordError, RecordKind};

/// The config's name in the vault's folder.
pub const CONFIG_PATH: &str = "config";

/// The vault format this version writes and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

/// zstd's fastest level we offer …
pub const COMPRESSION_LEVEL_MIN: i32 = 1;
/// … and its slowest that needs no special window.
pub const COMPRESSION_LEVEL_MAX: i32 = 19;

/// How a vault was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Version of everything stored in it.
    pub format_version: u32,
    /// Its name.
    pub vault: VaultId,
    /// When it was made.
    pub created: Time,
    /// How content is cut; for the vault's life.
    pub cut: CutParams,
    /// Cipher of new frames; [`Suite::Plain`] exactly where the vault is not encrypted.
    pub suite: Suite,
    /// zstd level of new frames, 1 to 19.
    pub compression_level: i32,
    /// No snapshot received within so many days may be forgotten; 0 for no such rule. Records may have made it longer
    /// since, see [`crate::history::History::retention_days_min`].
    pub retention_days_min: u32,
    /// For so many days what was forgotten can be brought back; at most [`UNDELETE_DAYS_MAX`].
    pub undelete_days: u32,
}

/// A whole config file, not yet shown to be written by a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigFile {
    config: Config,
    parsed: ParsedRecord,
}

impl Config {
    /// Whether frames are sealed and secrets kept.
    pub fn is_encrypted(&self) -> bool {
        self.suite != Suite::Plain
    }

    /// The config file, written the `count`-th time, at `now`.
    pub fn encode(&self, count: u64, now: Time, keys: &VaultKeys) -> Vec<u8> {
        let record = Record {
            kind: RecordKind::Config,
            vault: self.vault,
            count,
            received: now,
            previous: [0; 32],
            payload: self.payload(),
        };
        record.encode(&|bytes| keys.record_mac(bytes))
    }

    fn payload(&self) -> Vec<u8> {
        let level = self.compression_level.clamp(COMPRESSION_LEVEL_MIN, COMPRESSION_LEVEL_MAX);
        let mut message = capnp::message::Builder::new_default();
        let mut root = message.init_root::<schema::config::Builder>();
        root.set_format_version(self.format_version);
        root.set_created(self.created.0);
        root.set_cut_min(self.cut.min());
        root.set_cut_avg(self.cut.avg());
        root.set_cut_max(self.cut.max());
        root.set_cut_normalization(self.cut.normalization());
        root.set_cut_coarse(self.cut.coarse());
        root.set_suite(self.suite as u8);
        root.set_compression_level(level as u8);
        root.set_retention_days_min(self.retention_days_min);
        root.set_undelete_days(self.undelete_days);
        canonical::encode(message)
    }

    fn read(record: &Record) -> Result<Self, String> {
        let text = |error: CanonicalError| error.to_string();
        let message = canonical::decode(&record.payload).map_err(text)?;
        let root: schema::config::Reader = message.get_root().map_err(|error| text(error.into()))?;
        let format_version = root.get_format_version();
        if format_version != FORMAT_VERSION {
            return Err(format!("vault format is {format_version}, this version reads {FORMAT_VERSION}"));
        }
        let compression_level = i32::from(root.get_compression_level());
        if !(COMPRESSION_LEVEL_MIN..=COMPRESSION_LEVEL_MAX).contains(&compression_level) {
            return Err(format!("compression level is {compression_level}, expected 1 to 19"));
        }
        let retention_days_min = root.get_retention_days_min();
        if retention_days_min > RETENTION_DAYS_MAX {
            return Err(format!("retention is {retention_days_min} days, expected at most {RETENTION_DAYS_MAX}"));
        }
        let undelete_days = root.get_undelete_days();
        if undelete_days > UNDELETE_DAYS_MAX {
            return Err(format!("undelete window is {undelete_days} days, expected at most {UNDELETE_DAYS_MAX}"));
        }
        let suite = root.get_suite();
        let normalization = root.get_cut_normalization();
        let config = Self {
            format_version,
            vault: record.vault,
            created: Time(root.get_created()),
            cut: CutParams::new(root.get_cut_min(), root.get_cut_avg(), root.get_cut_max(), normalization)
                .and_then(|cut| cut.with_coarse(root.get_cut_coarse()))
                .map_err(|error| error.to_string())?,
            suite: Suite::from_byte(suite).ok_or_else(|| format!("cipher suite is {suite}, expected 0 to 2"))?,
            compression_level,
            retention_days_min,
            undelete_days,
        };
        if config.payload() != record.payload {
            // Writing the config anew would drop them.
            return Err("has fields that only a later version knows".into());
        }
        Ok(config)
    }
}

impl ConfigFile {
    /// Reads a config file; gives how often it had been written, too. Fits `twin::load`.
    pub fn parse(bytes: &[u8]) -> Result<(u64, Self), RecordError> {
        let parsed = Record::parse(bytes)?;
        parsed.record.expect(RecordKind::Config, parsed.record.vault)?;
        let config =
            Config::read(&parsed.record).map_err(|what| RecordError::Payload { kind: RecordKind::Config, what })?;
        Ok((parsed.record.count, Self { config, parsed }))
    }

    /// What the file says, true or not: enough to ask for the right password.
    pub fn unverified(&self) -> &Config {
        &self.config
    }

    /// The config, if it was written with these keys.
    pub fn verify(self, keys: &VaultKeys) -> Result<Config, RecordError> {
        self.parsed.verify_mac(&|bytes| keys.record_mac(bytes))?;
        Ok(self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::VaultSecret;

    const VAULT: VaultId = VaultId([1; 16]);

    fn keys() -> VaultKeys {
        VaultKeys::derive(&VaultSecret::from_bytes(&[2; 32]), VAULT)
    }

    fn config() -> Config {
        Config {
            format_version: FORMAT_VERSION,
            vault: VAULT,
            created: Time(1_700_000_000_000_000_000),
            cut: CutParams::new(64 << 10, 256 << 10, 1 << 20, 2).unwrap(),
            suite: Suite::Aes256Gcm,
            compression_level: 3,
            retention_days_min: 30,
            undelete_days: 7,
        }
    }

    #[test]
    fn round_trips() {
        let small = CutParams::new(64, 256, 1024, 0).unwrap();
        for config in [
            config(),
            Config { cut: small, ..config() },
            Config { cut: small.with_coarse(10).unwrap(), ..config() },
            Config { suite: Suite::Plain, retention_days_min: 0, undelete_days: 0, compression_level: 1, ..config() },
            Config { suite: Suite::ChaCha20Poly1305, compression_level: 19, created: Time(-1), ..config() },
        ] {
            let (count, file) = ConfigFile::parse(&config.encode(5, Time(9), &keys())).unwrap();
            assert_eq!((count, file.unverified()), (5, &config));
            assert_eq!(file.clone().verify(&keys()), Ok(config));
            assert!(matches!(file.verify(&VaultKeys::unencrypted(VAULT)), Err(RecordError::Forged { .. })));
        }
    }

    #[test]
    fn the_file_is_format() {
        let check = |undelete_days, expected: &str| {
            let config = Config { undelete_days, ..config() };
            assert_eq!(blake3::hash(&config.encode(1, Time(2), &keys())).to_hex().as_str(), expected);
        };
        check(0, "67235349410d547faf38b054d50e1dc59474ef624eb7bef065bd7417479001fb");
        check(7, "d58ae3791838b4138ad24052ec682f4edece003791c4072818c56024144fffe6");
    }

    #[test]
    fn every_change_is_found() {
        let good = config().encode(1, Time(0), &keys());
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert!(ConfigFile::parse(&bad).is_err(), "byte {place}");
            assert!(ConfigFile::parse(&good[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn refuses_values_it_cannot_live_with() {
        let parse = |payload: Vec<u8>| {
            let record = Record {
                kind: RecordKind::Config,
                vault: VAULT,
                count: 1,
                received: Time(0),
                previous: [0; 32],
                payload,
            };
            ConfigFile::parse(&record.encode(&|bytes| keys().record_mac(bytes))).unwrap_err().to_string()
        };
        let check = |change: fn(&mut schema::config::Builder<'_>), expected: &str| {
            let mut message = capnp::message::Builder::new_default();
            let original = canonical::decode(&config().payload()).unwrap();
            message.set_root(original.get_root::<schema::config::Reader>().unwrap()).unwrap();
            change(&mut message.get_root().unwrap());
            let found = parse(canonical::encode(message));
            assert!(found.contains(expected), "{found}");
        };
        check(|root| root.set_format_version(2), "vault format is 2, this version reads 1");
        check(|root| root.set_compression_level(0), "compression level is 0");
        check(|root| root.set_compression_level(20), "compression level is 20");
        check(|root| root.set_retention_days_min(u32::MAX), "retention is 4294967295 days");
        check(|root| root.set_undelete_days(u32::MAX), "undelete window is 4294967295 days");
        check(|root| root.set_suite(3), "cipher suite is 3");
        check(|root| root.set_cut_avg(3), "too short");
        check(|root| root.set_cut_max(u32::MAX), "exceeds");
        check(|root| root.set_cut_normalization(4), "normalisation");
        assert!(parse(Vec::new()).contains("message has 0 bytes"));
        check(|root| root.set_cut_coarse(1), "exceed");
        // Byte 36 after the root pointer is free in this version.
        let mut later = config().payload();
        later[8 + 36] = 1;
        assert!(parse(later).contains("later version"));
    }
}
