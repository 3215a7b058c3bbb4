//! Joining an office, and what a terminal remembers of it.

use super::service::{Machine, Outside, Settings};
use super::trusted::Trusted;
use crate::remote::office::OfficeLine;
use crate::remote::{Line, Way};
use crate::secrets;
use crate::tracker::names::NodeKey;
use crate::tracker::sign::{AuthorityKey, SigningKey};
use crate::tracker::token::JoinToken;
use crate::transport::ids::fixed;
use crate::transport::limits::PROGRAM;
use crate::transport::problem::{Problem, Why, problem};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use twinkeep_engine::env::Env;
use twinkeep_schema::office_capnp::bootstrap;

/// `terminal.toml`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TerminalFile {
    /// The machine's name in the office.
    pub name: String,
    /// Where the host is, tried in order.
    pub hosts: Vec<String>,
    /// The host's key, 64 hex digits.
    pub host_key: String,
    /// The key of the company's authority, 64 hex digits.
    pub authority: String,
    /// Bytes the office may use here.
    pub grant: u64,
    /// The physical machine it runs on, 32 hex digits.
    pub machine_id: String,
    /// Bytes that are to stay free on this disk, of a small one a tenth; 0 for none.
    #[serde(default = "reserve_default")]
    pub reserve: u64,
}

fn reserve_default() -> u64 {
    5 << 30
}

/// Where a join ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joined {
    /// It takes part.
    Active,
    /// An administrator has to approve it.
    Pending,
}

fn settings_path(data: &Path) -> PathBuf {
    data.join("terminal.toml")
}

fn key_path(data: &Path) -> PathBuf {
    data.join("keys").join("node.key")
}

fn told(path: &Path, error: &io::Error) -> Problem {
    problem(Why::Other, format!("{}: {error}", path.display()))
}

/// Whether a folder is a terminal's.
pub fn exists(data: &Path) -> bool {
    settings_path(data).exists()
}

/// Joins the office of a token. The key is durable before the token is spent.
pub fn join(
    data: &Path,
    env: &Env,
    token: &JoinToken,
    grant: u64,
    machine_id: [u8; 16],
) -> Result<(TerminalFile, Joined), Problem> {
    if exists(data) {
        let text = format!("{} is a terminal's folder already: this machine has joined", data.display());
        return Err(problem(Why::Usage, text));
    }
    let keys = data.join("keys");
    // Everybody on this machine may use the socket in it, and see nothing else.
    secrets::make_passage(data).map_err(|error| told(data, &error))?;
    secrets::make_folder(&keys).map_err(|error| told(&keys, &error))?;
    let path = key_path(data);
    let key = match secrets::read(&path) {
        // From an attempt that ended early: the token may have been spent with it.
        Ok(key) => key,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = secrets::draw(&*env.entropy);
            secrets::write(&path, &key).map_err(|error| told(&path, &error))?;
            key
        }
        Err(error) => return Err(told(&path, &error)),
    };
    let way = Way::Machine {
        addresses: token.hosts.clone(),
        expected: vec![token.host_key],
        key: Arc::new(SigningKey::from_seed(&key)),
    };
    let host = Line::connect::<bootstrap::Client>(way)?;
    let (secret, name) = (*token.secret(), token.name.clone());
    let (joined, authority) = host.call(move |host| async move {
        let standing = host.status_request().send().promise.await?;
        let standing = standing.get()?;
        let authority = standing.get_authority()?.to_vec();
        let mut status = standing.get_status()?;
        if status == bootstrap::Status::Unknown {
            let mut request = host.join_request();
            request.get().set_token(&secret);
            request.get().set_name(&name[..]);
            request.get().set_machine_id(&machine_id);
            status = request.send().promise.await?.get()?.get_status()?;
        }
        let joined = match status {
            bootstrap::Status::Active => Joined::Active,
            bootstrap::Status::Pending => Joined::Pending,
            bootstrap::Status::Unknown | bootstrap::Status::Revoked => {
                return Err(problem(Why::NotAllowed, "the host does not trust this machine's key").into());
            }
        };
        Ok((joined, authority))
    })?;
    let file = TerminalFile {
        name: token.name.clone(),
        hosts: token.hosts.clone(),
        host_key: token.host_key.to_hex(),
        authority: AuthorityKey(fixed(&authority, "a key")?).to_hex(),
        grant,
        machine_id: crate::host::setup::hex(&machine_id),
        reserve: reserve_default(),
    };
    let path = settings_path(data);
    let text = toml::to_string(&file).map_err(|error| problem(Why::Other, error.to_string()))?;
    secrets::replace(&path, text.as_bytes()).map_err(|error| told(&path, &error))?;
    Ok((file, joined))
}

/// Reads `terminal.toml`.
pub fn read_settings(data: &Path) -> Result<TerminalFile, Problem> {
    let path = settings_path(data);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("there is no terminal in {}: `twinkeep terminal join` makes one", data.display());
            return Err(problem(Why::NotFound, text));
        }
        text => text.map_err(|error| told(&path, &error))?,
    };
    toml::from_str(&text).map_err(|error| problem(Why::Usage, format!("{}: {error}", path.display())))
}

/// What the service in a folder is.
pub fn load(data: &Path, version: &str) -> Result<(Settings, u64), Problem> {
    let file = read_settings(data)?;
    let path = key_path(data);
    let key = SigningKey::from_seed(&*secrets::read(&path).map_err(|error| told(&path, &error))?);
    let bad = |what: &str| problem(Why::Usage, format!("{}: {what}", settings_path(data).display()));
    let settings = Settings {
        data: data.to_owned(),
        name: file.name,
        key,
        hosts: file.hosts,
        host_key: NodeKey::from_hex(&file.host_key).ok_or_else(|| bad("host-key is no key"))?,
        authority: AuthorityKey::from_hex(&file.authority).ok_or_else(|| bad("authority is no key"))?,
        machine_id: crate::host::setup::unhex(&file.machine_id).ok_or_else(|| bad("machine-id is no id"))?,
        version: version.to_owned(),
    };
    Ok((settings, file.grant))
}

/// A line straight to the host, for whoever may read what the terminal in a folder keeps: while its service does not run.
pub fn straight(data: &Path) -> Result<OfficeLine, Problem> {
    let (settings, _) = load(data, PROGRAM)?;
    let lists = Machine(data.to_owned()).kept_lists().map_err(|error| told(data, &error))?;
    let hosts = Trusted::read(&lists, settings.authority, settings.host_key).hosts();
    OfficeLine::straight(&settings.hosts, &hosts, settings.key)
}
