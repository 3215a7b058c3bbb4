//! Running a service until it is told to stop.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use sd_notify::NotifyState;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use twinkeep_nodes::health::{self, Report};
use twinkeep_nodes::host::trouble::Trouble;

use crate::error::usage;
use crate::log;

/// What every service can be told.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Say at this address over HTTP whether the service is well: GET /healthz
    #[arg(long, value_name = "ADDRESS:PORT")]
    health: Option<SocketAddr>,
    /// Let --health be an address that other machines reach: everybody may read then what it says
    #[arg(long, requires = "health")]
    health_public: bool,
    /// How the log on standard error is written. Default: text, with --json one object a line
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<log::Format>,
}

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
    stopping();
}

/// The service is about to end.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Tells systemd how the service stands, where systemd began it and listens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell systemd how the service stands");
    }
}

/// The service can be used from now on.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// How often systemd is told how the service stands where it does not ask for more.
const STATUS_PACE: Duration = Duration::from_secs(5);

/// Says for ever how the service stands and, as long as it is well, that it is alive. To be polled by what serves: then
/// nothing is said where that hangs, and systemd begins the service anew.
pub async fn watchdog(is_well: impl Fn() -> bool, status: impl Fn() -> String) {
    // Three times in the time it is waited for.
    let pace = sd_notify::watchdog_enabled().map_or(STATUS_PACE, |patience| (patience / 3).min(STATUS_PACE));
    let mut last = String::new();
    loop {
        if is_well() {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("a thread of the service hangs");
        }
        let now = status().replace('\n', " ");
        if now != last {
            notify(&[NotifyState::Status(&now)]);
            last = now;
        }
        tokio::time::sleep(pace).await;
    }
}

/// What `/healthz` says of a service.
pub fn report(role: &str, name: &str, troubles: &[Trouble]) -> Report {
    let is_well = !troubles.iter().any(|trouble| trouble.is_serious);
    let problem =
        |trouble: &Trouble| json!({ "about": trouble.about, "serious": trouble.is_serious, "text": trouble.text });
    let body = json!({
        "status": if is_well { "ok" } else { "trouble" },
        "role": role,
        "name": name,
        "version": env!("CARGO_PKG_VERSION"),
        "problems": troubles.iter().map(problem).collect::<Vec<_>>(),
    });
    Report { is_well, body: format!("{body}\n") }
}

impl ServeArgs {
    /// Listens where `/healthz` is to be answered, if it is.
    pub async fn health(&self) -> anyhow::Result<Option<TcpListener>> {
        let Some(address) = self.health else { return Ok(None) };
        if !address.ip().is_loopback() && !self.health_public {
            return Err(usage(format!(
                "{address} is not this machine alone: name 127.0.0.1, or let everybody read with --health-public"
            )));
        }
        let listener = TcpListener::bind(address).await;
        listener.map(Some).with_context(|| format!("cannot answer /healthz at {address}"))
    }
}

/// Answers `/healthz` for ever, where it is to be answered.
pub async fn health(listener: Option<TcpListener>, report: impl Fn() -> Report + 'static) -> Infallible {
    if let Some(listener) = listener {
        health::serve(listener, report).await;
    }
    std::future::pending().await
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
