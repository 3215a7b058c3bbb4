//! Generates Rust from the committed compiler requests in `request/`; needs no capnp tool.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=request");
    for file in fs::read_dir(Path::new("request"))? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            println!("cargo::rerun-if-changed={}", path.display());
            capnpc::codegen::CodeGenerationCommand::new().output_directory(&out).run(File::open(&path)?)?;
        }
    }
    Ok(())
}
