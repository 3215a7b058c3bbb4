//! The committed requests say what the schema files say. Skipped, aloud, where the `capnp` tool is missing.

use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// Rust code generated from a request: equal code is equal schemas, whatever version of the tool wrote them.
fn generated(request: &[u8], name: &str) -> String {
    let out = std::env::temp_dir().join(format!("twinkeep-schema-{}-{name}", std::process::id()));
    fs::create_dir_all(&out).unwrap();
    capnpc::codegen::CodeGenerationCommand::new().output_directory(&out).run(request).unwrap();
    let code = fs::read_to_string(out.join(format!("{name}_capnp.rs"))).unwrap();
    fs::remove_dir_all(&out).unwrap();
    code
}

#[test]
fn requests_match_their_schemas() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compared = 0;
    for entry in fs::read_dir(root.join("capnp")).unwrap() {
        let path = entry.unwrap().path();
        // Standard imports lie in a folder of their own.
        if path.is_dir() {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let committed = fs::read(root.join("request").join(format!("{name}.bin"))).unwrap();
        let tool = Command::new("capnp")
            .args(["compile", "-o-", "--no-standard-import", "-Icapnp", "--src-prefix=capnp"])
            .arg(format!("capnp/{name}.capnp"))
            .current_dir(root)
            .output();
        let fresh = match tool {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("skipped: no capnp tool here");
                return;
            }
            other => other.unwrap(),
        };
        assert!(fresh.status.success(), "{}", String::from_utf8_lossy(&fresh.stderr));
        let same = generated(&committed, &name) == generated(&fresh.stdout, &name);
        assert!(same, "request/{name}.bin is older than capnp/{name}.capnp: run ./regenerate");
        compared += 1;
    }
    let requests = fs::read_dir(root.join("request")).unwrap().count();
    assert_eq!(compared, requests, "every request has a schema");
}
