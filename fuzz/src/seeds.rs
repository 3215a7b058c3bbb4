//! Where seeds lie, and writing them.
//!
//! Generated seeds are written on demand only and then committed: what an older version wrote stays a good input for
//! newer ones. What a fuzzer found is put beside them by hand, under a name that tells what it was.

use std::io;
use std::path::{Path, PathBuf};

use crate::Target;

/// Longest seed, bytes.
pub const LEN_MAX: usize = 4096;

/// The folder of a target's seeds.
pub fn dir(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name)
}

/// All committed seeds of a target, by name.
pub fn read(target: &Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(dir(target))? {
        let entry = entry?;
        seeds.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
    }
    seeds.sort();
    Ok(seeds)
}

/// Writes the generated seeds of a target; others stay.
pub fn write(target: &Target) -> io::Result<()> {
    let dir = dir(target);
    std::fs::create_dir_all(&dir)?;
    for (name, bytes) in (target.seeds)() {
        assert!(bytes.len() <= LEN_MAX, "seed {name} of {} has {} bytes", target.name, bytes.len());
        std::fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}
