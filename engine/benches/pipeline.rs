//! How fast the steps of the pipeline are, one core each: `cargo bench -p twinkeep-engine`.
//!
//! Prints the best of several rounds, in MB (10^6 bytes) a second or rows a second. Machines differ and are shared:
//! compare lines of one run with each other, not with another machine's.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use twinkeep_engine::chunk::{CutParams, Cutter};
use twinkeep_engine::crypto::{DataKey, Salts, Suite, VaultKeys, VaultSecret, wrap};
use twinkeep_engine::env::{Dice, SystemEntropy};
use twinkeep_engine::frame::{DataKeys, FrameBuilder, Opener, SealKeys, Sealer};
use twinkeep_engine::id::{ChunkId, Kind, SessionId, VaultId};
use twinkeep_engine::kv::lmdb::LmdbHome;
use twinkeep_engine::kv::{KvHome, Table};

const ROUNDS: usize = 7;
const LEN: usize = 64 << 20;

/// Runs `work` some times on fresh input and prints the best rate.
fn rate<I>(what: &str, unit: &str, amount: f64, mut input: impl FnMut() -> I, mut work: impl FnMut(I)) {
    let best = (0..ROUNDS).map(|_| {
        let input = input();
        let begun = Instant::now();
        work(input);
        begun.elapsed().as_secs_f64()
    });
    let best = best.fold(f64::INFINITY, f64::min);
    println!("{what:<44} {:>10.0} {unit}", amount / best);
}

/// Text with about the redundancy of source code.
fn text(len: usize) -> Vec<u8> {
    let mut dice = Dice(3);
    let words: Vec<String> = (0..4000).map(|i| format!("{:x}{}", dice.throw() >> 40, "_".repeat(i % 3))).collect();
    let mut text = Vec::with_capacity(len + 32);
    while text.len() < len {
        text.extend_from_slice(words[dice.below(40) * dice.below(100)].as_bytes());
        text.push(if dice.one_in(9) { b'\n' } else { b' ' });
    }
    text.truncate(len);
    text
}

fn main() {
    let vault = VaultId([1; 16]);
    let keys = Arc::new(VaultKeys::derive(&VaultSecret::from_bytes(&[7; 32]), vault));
    let mut random = vec![0; LEN];
    Dice(1).fill(&mut random);
    let text = text(LEN);
    let megabytes = LEN as f64 / 1e6;

    let cutter = Cutter::new(keys.gear(), &CutParams::default());
    let mut lens = Vec::new();
    rate(
        "cut",
        "MB/s",
        megabytes,
        || (),
        |()| {
            lens.clear();
            cutter.cut_all(black_box(&random), true, &mut lens);
        },
    );
    rate(
        "name leaves",
        "MB/s",
        megabytes,
        || (),
        |()| {
            let mut rest = &random[..];
            for &len in &lens {
                let (chunk, after) = rest.split_at(len);
                black_box(keys.leaf_id(chunk));
                rest = after;
            }
        },
    );
    let chunks = |data: &[u8]| -> Vec<Vec<u8>> { data.chunks(256 << 10).map(<[u8]>::to_vec).collect() };
    for (name, data) in [("random", &random), ("text", &text)] {
        let chunks = chunks(data);
        for level in [1, 3] {
            seal_and_open(&format!("{name}, zstd {level}"), &keys, &chunks, level, megabytes);
        }
    }
    index();
}

fn seal_and_open(name: &str, keys: &Arc<VaultKeys>, chunks: &[Vec<u8>], level: i32, megabytes: f64) {
    let suite = Suite::fastest();
    let data_key = DataKey::random(&SystemEntropy);
    let (generation, public) = keys.newest();
    let wrapped = wrap::wrap(public, &data_key, &keys.vault(), &SystemEntropy);
    let (vault, session) = (keys.vault(), SessionId([2; 16]));
    let seal = SealKeys { suite, data_key: Arc::new(data_key), wrapped, generation, vault, session };
    let mut sealer = Sealer::new(seal, Salts::new(Arc::new(SystemEntropy)), level).expect("a valid level");
    let mut frames = Vec::new();
    rate(
        &format!("compress, seal and name frames ({name})"),
        "MB/s",
        megabytes,
        || (),
        |()| {
            frames.clear();
            let mut builder = FrameBuilder::new(Kind::Leaf);
            for chunk in chunks {
                if !builder.fits(0, chunk.len()) {
                    frames.push(sealer.seal(&mut builder));
                }
                builder.push(ChunkId([0; 32]), &[], chunk);
            }
            frames.push(sealer.seal(&mut builder));
        },
    );
    let stored: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
    println!("{:<44} {:>10.2} : 1", format!("  ratio ({name})"), megabytes * 1e6 / stored as f64);
    let mut opener = Opener::new(Arc::new(DataKeys::new(keys.clone()))).expect("zstd");
    let fresh = || frames.iter().map(|frame| frame.bytes.clone()).collect::<Vec<_>>();
    rate(&format!("open frames ({name})"), "MB/s", megabytes, fresh, |frames| {
        for mut bytes in frames {
            black_box(opener.open(&mut bytes).expect("our own frame"));
        }
    });
}

fn index() {
    const ROWS: usize = 1_000_000;
    let mut dice = Dice(5);
    let mut ids: Vec<[u8; 32]> = Vec::new();
    ids.resize_with(ROWS, || {
        let mut id = [0; 32];
        dice.fill(&mut id);
        id
    });
    ids.sort_unstable();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = LmdbHome::new(folder.path().to_path_buf());
    let begun = Instant::now();
    let kv = home.replace(&mut |kv| {
        let mut write = kv.write()?;
        ids.iter().try_for_each(|id| write.put(Table::Chunks, id, &[0; 8]))?;
        write.commit()
    });
    let kv = kv.expect("an index");
    println!("{:<44} {:>10.0} rows/s", "index: build, sorted", ROWS as f64 / begun.elapsed().as_secs_f64());
    rate(
        "index: look up",
        "rows/s",
        200_000.0,
        || (),
        |()| {
            let read = kv.read().expect("a view");
            for i in 0..200_000_usize {
                black_box(read.get(Table::Chunks, &ids[(i * 7919) % ROWS]).expect("a row"));
            }
        },
    );
}
