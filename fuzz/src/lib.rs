//! Fuzz targets: each a `body` that must neither panic nor hang nor allocate without bound, whatever the bytes.
//!
//! The same bodies run under libFuzzer (`fuzz_targets/`) and, over committed seeds and repeatable mutations of them,
//! on stable (`tests/seeds.rs`). A body asserts what must hold of whatever it could read, so that a wrong value is
//! found like a crash. Nothing here depends on the clock or on chance: an input that fails fails again.

pub mod branch;
pub mod cache;
pub mod config;
pub mod device;
pub mod filter;
pub mod frame;
pub mod input;
pub mod keyring;
pub mod keys;
pub mod mutate;
pub mod names;
pub mod pack;
pub mod plan;
pub mod record;
pub mod seeds;
pub mod snapshot;
pub mod tree;
pub mod words;

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of its binary and of its folder of seeds.
    pub name: &'static str,
    /// What is run on each input.
    pub body: fn(&[u8]),
    /// Inputs to begin with: file name and bytes.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
    /// How many mutations the stable runner tries: fewer where one costs system calls.
    pub mutations: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "branch", body: branch::body, seeds: branch::seeds, mutations: 20_000 },
    Target { name: "cache", body: cache::body, seeds: cache::seeds, mutations: 10_000 },
    Target { name: "config", body: config::body, seeds: config::seeds, mutations: 20_000 },
    Target { name: "device", body: device::body, seeds: device::seeds, mutations: 20_000 },
    Target { name: "filter", body: filter::body, seeds: filter::seeds, mutations: 10_000 },
    Target { name: "frame", body: frame::body, seeds: frame::seeds, mutations: 20_000 },
    Target { name: "keyring", body: keyring::body, seeds: keyring::seeds, mutations: 20_000 },
    Target { name: "names", body: names::body, seeds: names::seeds, mutations: 20_000 },
    Target { name: "pack", body: pack::body, seeds: pack::seeds, mutations: 10_000 },
    Target { name: "plan", body: plan::body, seeds: plan::seeds, mutations: 20_000 },
    Target { name: "record", body: record::body, seeds: record::seeds, mutations: 20_000 },
    Target { name: "snapshot", body: snapshot::body, seeds: snapshot::seeds, mutations: 20_000 },
    Target { name: "tree", body: tree::body, seeds: tree::seeds, mutations: 2000 },
    Target { name: "words", body: words::body, seeds: words::seeds, mutations: 20_000 },
];
