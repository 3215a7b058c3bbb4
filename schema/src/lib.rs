//! Cap'n Proto schema of Twinkeep: `capnp/*.capnp` are the source, `request/*.bin` what the compiler made of them.
//!
//! After a change: `cd capnp && capnp compile -o- NAME.capnp > ../request/NAME.bin`.

/// Branch payloads: directories, files, snapshots.
#[allow(missing_docs, clippy::all)]
pub mod tree_capnp {
    include!(concat!(env!("OUT_DIR"), "/tree_capnp.rs"));
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    /// Where the capnp tool is there, the committed requests are what it makes of the schema.
    #[test]
    fn requests_are_current() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in std::fs::read_dir(root.join("request")).unwrap() {
            let request = file.unwrap().path();
            let name = request.file_stem().unwrap().to_str().unwrap();
            let made = Command::new("capnp")
                .args(["compile", "-o-", &format!("{name}.capnp")])
                .current_dir(root.join("capnp"))
                .output();
            let Ok(made) = made else { return eprintln!("no capnp tool here: nothing compared") };
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let committed = std::fs::read(&request).unwrap();
            assert!(made.stdout == committed, "{name}.bin is older than {name}.capnp");
        }
    }
}
