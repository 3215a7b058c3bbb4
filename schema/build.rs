//! Generates the Rust code of every schema from its committed request, so a build needs no `capnp` tool.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let requests = Path::new("request");
    println!("cargo:rerun-if-changed={}", requests.display());
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    for entry in fs::read_dir(requests)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            println!("cargo:rerun-if-changed={}", path.display());
            let request = fs::read(&path)?;
            capnpc::codegen::CodeGenerationCommand::new().output_directory(&out).run(request.as_slice())?;
        }
    }
    Ok(())
}
