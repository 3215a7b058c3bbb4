//! Tests of the whole: each works in a folder of its own, with a target in it and things outside that must stay.

mod escape;
mod metadata;
mod tree;

use std::path::{Path, PathBuf};

use super::{Fault, Result, Target, TargetError};

/// A target and its surroundings.
struct Place {
    _folder: tempfile::TempDir,
    outside: PathBuf,
    inside: PathBuf,
    target: Target,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (outside, inside) = (folder.path().join("outside"), folder.path().join("target"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), b"secret").unwrap();
        let target = Target::create(&inside).unwrap();
        Self { _folder: folder, outside, inside, target }
    }

    /// Names, kinds, modes, owners, times and contents outside, to compare.
    fn outside_now(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let mut lines: Vec<_> = std::fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().path()).collect();
        lines.push(self.outside.clone());
        lines.sort();
        let line = |path: &PathBuf| {
            let meta = path.symlink_metadata().unwrap();
            let content = if meta.is_file() { std::fs::read(path).unwrap() } else { Vec::new() };
            let owner = (meta.uid(), meta.gid(), meta.mode());
            format!("{path:?} {owner:?} {:?} {content:?}", meta.modified().unwrap())
        };
        lines.iter().map(line).collect()
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The error of an outcome that must be one.
fn error<T>(outcome: Result<T>) -> TargetError {
    match outcome {
        Ok(_) => panic!("this had to fail"),
        Err(error) => error,
    }
}

fn occupied<T>(outcome: Result<T>) -> bool {
    matches!(error(outcome).source, Fault::Occupied(_))
}

fn changed<T>(outcome: Result<T>) -> bool {
    matches!(error(outcome).source, Fault::Changed)
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    path.symlink_metadata().unwrap().mode() & 0o7777
}

/// Runs `job` on a thread without root's rights; the rest of the process keeps them. Not for non-root.
fn as_nobody<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (rustix::fs::Uid::from_raw(65534), rustix::fs::Gid::from_raw(65534));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            job()
        });
        thread.join().unwrap()
    })
}
