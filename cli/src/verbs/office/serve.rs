//! Running a service until it is told to stop.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// Runs a service on this thread, with as many files and connections as the system allows.
pub fn run<F: Future<Output = anyhow::Result<()>>>(service: F) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What it has will do for a small office.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot begin")?;
    LocalSet::new().block_on(&runtime, service)
}

/// Comes when somebody asks the service to stop.
pub async fn stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// A socket for programs on this machine. `mode` says who may use it.
pub fn socket(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    let failed = || format!("cannot make the socket {}", path.display());
    // Left by a service that was killed: two cannot run, each holds a lock on its folder.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(failed),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(failed)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(failed)?;
    Ok(listener)
}
