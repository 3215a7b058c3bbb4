//! The command from outside: a person with an empty home, and what a run printed.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A person with an empty home.
pub struct Home(pub tempfile::TempDir);

/// What a run of the command left.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// A new one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("there is a place for temporary files"))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in it, and the folders above.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is below the home")).expect("a home can be written to");
        fs::write(path, text).expect("a home can be written to");
    }

    /// The command, to be run in it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(executable());
        command.env_clear().env("HOME", self.0.path()).env("TZ", "UTC").env("PATH", "/usr/bin:/bin");
        command.current_dir(self.0.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the command runs"))
    }

    /// Runs it with these variables.
    pub fn run_with(&self, args: &[&str], vars: &[(&str, &str)]) -> Ran {
        Ran::of(self.command(args).envs(vars.iter().copied()).output().expect("the command runs"))
    }

    /// Runs it and expects an exit code.
    pub fn expect(&self, code: i32, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}\n{}\n{}", ran.out, ran.err);
        ran
    }

    /// The messages of a run with `--json` that ends well.
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        messages(&self.expect(0, &[&["--json"], args].concat()).out)
    }
}

/// The words of a line that has no quotes but `''`, which is an empty word.
pub fn words(line: &str) -> Vec<&str> {
    line.split(' ').map(|word| if word == "''" { "" } else { word }).collect()
}

/// The command of this build: it lies beside the folder of the tests.
fn executable() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder = test.ancestors().find(|dir| dir.join("twinkeep-under-test").is_file());
    folder.map(|dir| dir.join("twinkeep-under-test")).expect("the command is built before its tests run")
}

impl Ran {
    /// What a process left that has ended.
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the command prints text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Every line an object whose type comes first.
pub fn messages(text: &str) -> Vec<Value> {
    let message = |line: &str| {
        assert!(line.starts_with("{\"message_type\":\""), "{line}");
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    text.lines().map(message).collect()
}

/// The types of the messages.
pub fn types(text: &str) -> Vec<String> {
    let type_of = |message: &Value| message["message_type"].as_str().map(str::to_owned).unwrap_or_default();
    messages(text).iter().map(type_of).collect()
}

/// Whether a file has these permissions.
pub fn has_mode(path: &Path, bits: u32) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o777 == bits)
}
