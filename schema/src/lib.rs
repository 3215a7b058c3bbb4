//! Cap'n Proto schemas of what Twinkeep stores and says, as generated Rust.
//!
//! `capnp/*.capnp` is the source. `request/*.bin` holds the same, parsed by the `capnp` tool, and is what the build
//! reads; `./regenerate` remakes it and a test compares the two. The structures are plain carriers: every bound and
//! meaning is checked by the engine's modules that own them.

/// Config, keyring and ref records.
#[allow(missing_docs, clippy::all)]
pub mod vault_capnp {
    include!(concat!(env!("OUT_DIR"), "/vault_capnp.rs"));
}

/// Branch payloads: directories, files, snapshots.
#[allow(missing_docs, clippy::all)]
pub mod tree_capnp {
    include!(concat!(env!("OUT_DIR"), "/tree_capnp.rs"));
}

/// What the machines of an office say to each other.
#[allow(missing_docs, clippy::all, clippy::unimplemented)]
pub mod office_capnp {
    include!(concat!(env!("OUT_DIR"), "/office_capnp.rs"));
}

/// The office's change log and its list of machines.
#[allow(missing_docs, clippy::all)]
pub mod registry_capnp {
    include!(concat!(env!("OUT_DIR"), "/registry_capnp.rs"));
}
