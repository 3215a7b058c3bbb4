//! Comparing two trees with rsync and diff, and what they do not look at by ourselves.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use super::{grow, skipped};

/// Whether the tools that judge are installed; says so if not.
pub fn is_there() -> bool {
    let missing = ["rsync", "diff"].into_iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
    if let Some(tool) = missing {
        skipped("comparison by others' tools", &format!("{tool} is not installed"));
    }
    missing.is_none()
}

/// How closely to look.
#[derive(Clone, Copy, Default)]
pub struct Look {
    /// The times and rights of the two folders themselves do not matter.
    pub not_the_top: bool,
    /// rsync goes by length and time; diff reads all the same.
    pub no_checksums: bool,
}

/// Differences found by rsync and diff, none if the trees are the same.
pub fn differences(source: &Path, target: &Path, look: Look) -> Vec<String> {
    let mut found = rsync(source, target, look);
    found.extend(diff(source, target));
    found.extend(blocks(source, target));
    found
}

fn rsync(source: &Path, target: &Path, look: Look) -> Vec<String> {
    let mut command = Command::new("rsync");
    command.arg(if look.no_checksums { "-naHAX" } else { "-nacHAX" });
    command.args(["--delete", "--itemize-changes", "--numeric-ids", "--modify-window=-1"]);
    command.arg(format!("--exclude=*{}", grow::SOCKET)).arg(slashed(source)).arg(slashed(target));
    let output = command.output().unwrap();
    let lines = said("rsync", &output);
    lines.into_iter().filter(|line| !(look.not_the_top && line.ends_with(" ./"))).collect()
}

fn diff(source: &Path, target: &Path) -> Vec<String> {
    // diff reports special files as different kinds even when they are the same; rsync has looked at them.
    let mut command = Command::new("diff");
    command.args(["-rq", "--no-dereference"]);
    command.arg("-x").arg(format!("*{}", grow::SOCKET)).arg("-x").arg(format!("*{}", grow::SPECIAL));
    said("diff", &command.arg(source).arg(target).output().unwrap())
}

fn said(tool: &str, output: &Output) -> Vec<String> {
    let mut lines = Vec::new();
    for text in [&output.stdout, &output.stderr] {
        let told = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.extend(told.map(|line| format!("{tool}: {}", line.escape_ascii())));
    }
    if lines.is_empty() && !output.status.success() {
        lines.push(format!("{tool}: {}", output.status));
    }
    lines
}

fn slashed(path: &Path) -> std::ffi::OsString {
    let mut path = path.as_os_str().to_owned();
    path.push("/");
    path
}

/// Files that take much more room than those they were made from.
fn blocks(source: &Path, target: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack = vec![(source.to_owned(), target.to_owned())];
    while let Some((source, target)) = stack.pop() {
        for entry in std::fs::read_dir(&source).unwrap() {
            let name = entry.unwrap().file_name();
            let (from, to) = (source.join(&name), target.join(&name));
            let Ok(old) = from.symlink_metadata() else { continue };
            let Ok(new) = to.symlink_metadata() else { continue };
            if old.is_dir() {
                stack.push((from, to));
            } else if old.is_file() && new.blocks() > old.blocks() + old.blocks() / 8 + 256 {
                found.push(format!("blocks: {}: {} became {}", from.display(), old.blocks(), new.blocks()));
            }
        }
    }
    found
}
