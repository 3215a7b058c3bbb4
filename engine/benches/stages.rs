//! How many bytes a second each step of a backup takes, and a backup, a read and a check as a whole on a vault in
//! memory: `cargo bench -p twinkeep-engine --bench stages`.
//!
//! One core, but for the whole paths, which use two. Machines differ and are shared: compare lines of one run.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::io::Cursor;
use std::sync::Arc;
use twinkeep_engine::backup::{BackupOptions, backup_stream};
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::chunk::{CutParams, Cutter};
use twinkeep_engine::crypto::{DataKey, Salts, Suite, VaultKeys, VaultSecret, wrap};
use twinkeep_engine::env::{Dice, Env, SystemEntropy};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::frame::{DataKeys, FrameBuilder, Opener, SealKeys, SealedFrame, Sealer};
use twinkeep_engine::id::{Kind, SessionId, VaultId};
use twinkeep_engine::kv::lmdb::LmdbHome;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::kv::{KvHome, Table};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::vault::{CreateOptions, Place, Vault};

/// Bytes a step works on.
const LEN: usize = 32 << 20;

/// Rows of the index.
const ROWS: usize = 1_000_000;

/// Look-ups in one round.
const LOOKUPS: usize = 100_000;

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

/// What does not compress.
fn random(len: usize) -> Vec<u8> {
    let mut random = vec![0; len];
    Dice(1).fill(&mut random);
    random
}

fn keys() -> Arc<VaultKeys> {
    Arc::new(VaultKeys::derive(&VaultSecret::from_bytes(&[7; 32]), VaultId([1; 16])))
}

fn lens(keys: &VaultKeys, data: &[u8]) -> Vec<usize> {
    let mut lens = Vec::new();
    Cutter::new(keys.gear(), &CutParams::default()).cut_all(data, true, &mut lens);
    lens
}

fn chunks<'d>(mut data: &'d [u8], lens: &[usize]) -> Vec<&'d [u8]> {
    let mut chunks = Vec::with_capacity(lens.len());
    for &len in lens {
        let (chunk, rest) = data.split_at(len);
        chunks.push(chunk);
        data = rest;
    }
    chunks
}

fn sealer(keys: &VaultKeys, level: i32) -> Sealer {
    let data_key = DataKey::random(&SystemEntropy);
    let (generation, public) = keys.newest();
    let wrapped = wrap::wrap(public, &data_key, &keys.vault(), &SystemEntropy);
    let (vault, session) = (keys.vault(), SessionId([2; 16]));
    let seal = SealKeys { suite: Suite::fastest(), data_key: Arc::new(data_key), wrapped, generation, vault, session };
    Sealer::new(seal, Salts::new(Arc::new(SystemEntropy)), level).expect("a valid level")
}

fn frames(keys: &VaultKeys, sealer: &mut Sealer, chunks: &[&[u8]]) -> Vec<SealedFrame> {
    let mut frames = Vec::new();
    let mut builder = FrameBuilder::new(Kind::Leaf);
    for chunk in chunks {
        if !builder.fits(0, chunk.len()) {
            frames.push(sealer.seal(&mut builder));
        }
        builder.push(keys.leaf_id(chunk), &[], chunk);
    }
    frames.push(sealer.seal(&mut builder));
    frames
}

fn steps(criterion: &mut Criterion) {
    let keys = keys();
    for (name, data) in [("text", text(LEN)), ("random", random(LEN))] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(LEN as u64)).sample_size(10);
        let lens = lens(&keys, &data);
        let chunks = chunks(&data, &lens);
        group.bench_function("cut", |bench| bench.iter(|| self::lens(&keys, black_box(&data))));
        group.bench_function("name leaves", |bench| {
            bench.iter(|| {
                for chunk in &chunks {
                    black_box(keys.leaf_id(chunk));
                }
            });
        });
        for level in [1, 2, 3] {
            let mut sealer = sealer(&keys, level);
            group.bench_function(format!("name leaves, compress {level}, seal, name frames"), |bench| {
                bench.iter(|| frames(&keys, &mut sealer, &chunks));
            });
        }
        let sealed = frames(&keys, &mut sealer(&keys, 3), &chunks);
        let mut opener = Opener::new(Arc::new(DataKeys::new(keys.clone()))).expect("zstd");
        let fresh = || sealed.iter().map(|frame| frame.bytes.clone()).collect::<Vec<_>>();
        let mut open = |frames: Vec<Vec<u8>>| {
            for mut bytes in frames {
                let opened = opener.open(&mut bytes).expect("our own frame");
                opener.recycle(black_box(opened));
            }
        };
        group.bench_function("open frames", |bench| bench.iter_batched(fresh, &mut open, BatchSize::LargeInput));
        group.finish();
    }
}

/// A vault in memory, and what it costs to fill, read and check it.
fn whole(criterion: &mut Criterion) {
    let vault = || {
        let place = Place { files: Arc::new(MemoryFiles::new()), kv_home: Arc::new(MemoryKvHome::new()) };
        Vault::create(place, Env::system(2), &CreateOptions::default(), &[]).expect("a vault").0
    };
    let backup = |vault: &Vault, data: &[u8]| {
        let (options, progress) = (BackupOptions::default(), Progress::silent());
        let reader = Box::new(Cursor::new(data.to_vec()));
        backup_stream(vault, b"stream", reader, &options, &progress).expect("a backup")
    };
    for (name, data) in [("text", text(LEN)), ("random", random(LEN))] {
        let mut group = criterion.benchmark_group(format!("whole, {name}"));
        group.throughput(Throughput::Bytes(LEN as u64)).sample_size(10);
        group.bench_function("backup", |bench| {
            bench.iter_batched(vault, |vault| backup(&vault, &data), BatchSize::PerIteration);
        });
        let filled = vault();
        backup(&filled, &data);
        group.bench_function("backup of what is there", |bench| bench.iter(|| backup(&filled, &data)));
        group.bench_function("check with data", |bench| {
            let options = CheckOptions { read_data: true, ..CheckOptions::default() };
            bench.iter(|| check(&filled, &options, &Progress::silent()).expect("a check"));
        });
        group.finish();
    }
}

fn index(criterion: &mut Criterion) {
    let mut dice = Dice(5);
    let mut ids: Vec<[u8; 32]> = vec![[0; 32]; ROWS];
    ids.iter_mut().for_each(|id| dice.fill(id));
    ids.sort_unstable();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = LmdbHome::new(folder.path().to_path_buf());
    let build = || {
        home.replace(&mut |kv| {
            let mut write = kv.write()?;
            ids.iter().try_for_each(|id| write.put(Table::Chunks, id, &[0; 8]))?;
            write.commit()
        })
    };
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10).throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("build, ascending", |bench| bench.iter(|| drop(build().expect("an index"))));
    let kv = build().expect("an index");
    group.throughput(Throughput::Elements(LOOKUPS as u64));
    group.bench_function("look up", |bench| {
        bench.iter(|| {
            let read = kv.read().expect("a view");
            for i in 0..LOOKUPS {
                black_box(read.get(Table::Chunks, &ids[(i * 7919) % ROWS]).expect("a row"));
            }
        });
    });
    group.finish();
}

criterion_group!(stages, steps, whole, index);
criterion_main!(stages);
