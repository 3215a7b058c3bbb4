//! Config files. Inputs are those of [`record`](crate::record), with a config's payload.

use twinkeep_engine::chunk::{CutParams, Cutter};
use twinkeep_engine::crypto::Suite;
use twinkeep_engine::env::{Dice, Time};
use twinkeep_engine::record::RecordKind;
use twinkeep_engine::vault::config::{Config, ConfigFile, FORMAT_VERSION};

use crate::keys::{self, VAULT};
use crate::record::{file, seeds_of};

/// Parses a config and works with what it says.
pub fn body(data: &[u8]) {
    let bytes = file(data, RecordKind::Config);
    let Ok((count, parsed)) = ConfigFile::parse(&bytes) else { return };
    let config = parsed.unverified().clone();
    let (again, same) = ConfigFile::parse(&config.encode(count, Time(0), keys::keys())).expect("what we encode parses");
    assert_eq!((again, same.unverified()), (count, &config));
    if config.vault == VAULT {
        assert_eq!(same.verify(keys::keys()).as_ref(), Ok(&config));
    }
    if let Ok(verified) = parsed.verify(keys::keys()) {
        assert_eq!(verified, config);
    }
    cut(&config.cut);
}

/// Whatever lengths a config may have, they cut any content into leaves of those lengths.
fn cut(params: &CutParams) {
    let len = params.longest().min(16 << 10) + 100;
    cut_content(params, &vec![0x5a; len], params.max() as usize);
    let mut random = vec![0; len];
    Dice(1).fill(&mut random);
    cut_content(params, &random, params.longest());
}

fn cut_content(params: &CutParams, content: &[u8], longest: usize) {
    let cutter = Cutter::new(keys::keys().gear(), params);
    let mut lens = Vec::new();
    assert_eq!(cutter.cut_all(content, true, &mut lens), content.len());
    assert_eq!(lens.iter().sum::<usize>(), content.len());
    let (last, others) = lens.split_last().expect("there was content");
    assert!(*last > 0 && *last <= longest);
    assert!(others.iter().all(|len| (params.min() as usize..=longest).contains(len)));
}

/// Configs of each suite and with the smallest lengths.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let config = Config {
        format_version: FORMAT_VERSION,
        vault: VAULT,
        created: Time(1_700_000_000_000_000_000),
        cut: CutParams::default(),
        suite: Suite::Aes256Gcm,
        compression_level: 1,
        retention_days_min: 30,
        undelete_days: 7,
    };
    let small = CutParams::new(64, 256, 1024, 0).expect("the least there may be");
    let others = Config { cut: small, suite: Suite::Plain, compression_level: 19, ..config.clone() };
    let coarse = Config { cut: small.with_coarse(4).expect("1 KiB and more"), ..config.clone() };
    let mut seeds = seeds_of("default", &config.encode(1, Time(2), keys::keys()));
    seeds.extend(seeds_of("coarse", &coarse.encode(2, Time(3), keys::keys())));
    seeds.extend(seeds_of("small", &others.encode(u64::MAX, Time(i64::MIN), keys::keys())));
    seeds
}
