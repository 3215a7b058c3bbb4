//! The office this machine belongs to, and who is logged in on it.
//!
//! In the config folder: `office.toml` says which service runs here and where its folder is, `login.toml` which account
//! uses it; `keys/office.device` and `keys/office.account` are the account's keys on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use twinkeep_engine::crypto::VaultSecret;
use twinkeep_engine::env::{Entropy, Env, SystemEntropy};
use twinkeep_engine::vault::{Unlock, Vault};
use twinkeep_nodes::host::ground::Folder;
use twinkeep_nodes::remote::RemoteStore;
use twinkeep_nodes::remote::admin::Admin;
use twinkeep_nodes::remote::office::{OfficeLine, Proof, User, VaultOf, service_status};
use twinkeep_nodes::secrets;
use twinkeep_nodes::terminal;
use twinkeep_nodes::tracker::names::AccountDeviceId;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::transport::problem::{Problem, Why};

use crate::dirs;
use crate::error::{Code, hinted, one_line};
use crate::keyfile;
use crate::outbox;
use crate::session::host_name;
use crate::vaults;

/// Which service runs on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The host of the office.
    Host,
    /// A terminal.
    Terminal,
}

/// `office.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// What it is.
    pub role: Role,
    /// Its folder.
    pub data: PathBuf,
}

/// `login.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    /// Account name.
    pub account: String,
    /// This machine as a device of the account, 32 hex digits.
    pub device: String,
}

/// Errors of the office as the command tells them.
pub fn told(problem: Problem) -> anyhow::Error {
    let (code, hint) = match problem.why {
        Why::NotAllowed => (Code::NotAllowed, None),
        Why::WrongKey => (Code::WrongKey, None),
        Why::Usage => (Code::Usage, None),
        Why::Quota => (Code::Quota, Some("forget snapshots, or ask an administrator for more room")),
        Why::NoSpace => (Code::NoSpace, Some("free some space; what was stored stays stored")),
        Why::Busy => (Code::Busy, Some("wait until the other process has ended, then try again")),
        Why::Unreachable => (
            Code::NoTracker,
            Some("see whether `twinkeep terminal run` or `twinkeep host run` is running here, and the host is up"),
        ),
        Why::Away => (Code::NoTracker, Some("nothing is wrong: the host comes back by itself, try again then")),
        Why::Damaged => (Code::Damaged, None),
        Why::NotFound | Why::Gone | Why::SessionFailed | Why::Other => (Code::Failed, None),
    };
    match hint {
        Some(hint) => hinted(code, problem.text, hint),
        None => crate::error::told(code, problem.text),
    }
}

fn config_dir() -> anyhow::Result<PathBuf> {
    dirs::config_dir(&dirs::process_var)
}

fn read_toml<T: for<'a> Deserialize<'a>>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => {
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            toml::from_str(&text).with_context(|| format!("{} is not valid", path.display())).map(Some)
        }
    }
}

fn write_toml<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(failed)?;
    }
    secrets::replace(path, toml::to_string(value)?.as_bytes()).with_context(failed)
}

impl Service {
    /// The one that runs on this machine, as far as this user knows; none where it belongs to no office.
    pub fn find() -> anyhow::Result<Option<Self>> {
        if let Ok(dir) = config_dir()
            && let Some(own) = read_toml(&dir.join("office.toml"))?
        {
            return Ok(Some(own));
        }
        read_toml(Path::new("/etc/twinkeep/office.toml"))
    }

    /// The one that must be there.
    pub fn get() -> anyhow::Result<Self> {
        Self::find()?.ok_or_else(|| {
            hinted(
                Code::NoTracker,
                "this machine belongs to no office",
                "`twinkeep terminal join` makes it a part of one, `twinkeep host init` makes a new one",
            )
        })
    }

    /// Refuses where this machine has another already, as far as this user says; one whose folder is gone is over.
    pub fn refuse_other(&self) -> anyhow::Result<()> {
        let path = config_dir()?.join("office.toml");
        let Some(own) = read_toml::<Self>(&path)? else { return Ok(()) };
        if (own.role == self.role && own.data == self.data) || !own.data.exists() {
            return Ok(());
        }
        let what = match own.role {
            Role::Host => "the host of an office",
            Role::Terminal => "a terminal of an office",
        };
        Err(hinted(
            Code::Failed,
            format!("this machine is {what} already, in {}", own.data.display()),
            format!("if that is over, remove {}; the folder stays as it is", path.display()),
        ))
    }

    /// Remembers it.
    pub fn remember(&self) -> anyhow::Result<()> {
        write_toml(&config_dir()?.join("office.toml"), self)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        match self.role {
            Role::Host => Folder::socket(&self.data),
            Role::Terminal => terminal::ground::socket(&self.data),
        }
    }

    /// A line to the tracker; past a terminal's service that does not run, where this user may speak for the machine.
    pub fn line(&self) -> anyhow::Result<OfficeLine> {
        let socket = self.socket();
        let problem = match OfficeLine::through(&socket) {
            Ok(line) => return Ok(line),
            Err(problem) => problem,
        };
        if self.role != Role::Terminal || problem.why != Why::Unreachable || service_status(&socket).is_ok() {
            return Err(told(problem));
        }
        match terminal::setup::straight(&self.data) {
            Ok(line) => Ok(line),
            Err(other) if other.why == Why::NotAllowed => Err(told(other)),
            Err(_) => Err(told(problem)),
        }
    }
}

/// Who is logged in on this machine.
pub fn login() -> anyhow::Result<Option<Login>> {
    match config_dir() {
        Ok(dir) => read_toml(&dir.join("login.toml")),
        Err(_) => Ok(None),
    }
}

fn key_paths() -> anyhow::Result<[PathBuf; 2]> {
    let folder = keyfile::folder(&config_dir()?);
    Ok([folder.join("office.device"), folder.join("office.account")])
}

/// Logs in with a password and keeps what is needed to do so again without it.
pub fn log_in(account: &str, password: &str) -> anyhow::Result<User> {
    let line = Service::get()?.line()?;
    let user = line.login(account, &Proof::Password(password)).map_err(told)?;
    let key = user.key.clone().context("a login by password gives the account's key")?;
    user.settle_key(&key).map_err(told)?;
    forget_login()?;
    let [device_path, account_path] = key_paths()?;
    keyfile::make_folder(&keyfile::folder(&config_dir()?))?;
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    SystemEntropy.fill(&mut *seed);
    let device = SigningKey::from_seed(&seed);
    secrets::write(&device_path, &seed).with_context(|| format!("cannot write {}", device_path.display()))?;
    secrets::write(&account_path, &key).with_context(|| format!("cannot write {}", account_path.display()))?;
    let id = user.add_device(&host_name(), device.public()).map_err(told)?;
    // Last: what it names is there.
    let login = Login { account: user.name.clone(), device: id.to_hex() };
    write_toml(&config_dir()?.join("login.toml"), &login)?;
    Ok(user)
}

/// Gives the account that is logged in here another password; gives its name.
pub fn change_password(env: &Env, old: &str, new: &str) -> anyhow::Result<String> {
    let user = Service::get()?.line()?.login(&current()?.account, &Proof::Password(old)).map_err(told)?;
    let key = user.key.clone().context("a login by password gives the account's key")?;
    user.passwd(env, &key, new).map_err(told)?;
    Ok(user.name)
}

/// Who is logged in here, where somebody must be.
pub fn current() -> anyhow::Result<Login> {
    login()?
        .ok_or_else(|| hinted(Code::WrongKey, "nobody is logged in on this machine", "`twinkeep login NAME` logs in"))
}

/// The key of the account that is logged in here.
pub fn account_key() -> anyhow::Result<secrets::Secret> {
    let [_, path] = key_paths()?;
    secrets::read(&path).with_context(|| format!("cannot use {}", path.display()))
}

/// Forgets who is logged in, and the keys.
pub fn forget_login() -> anyhow::Result<bool> {
    let path = config_dir()?.join("login.toml");
    let was_there = path.exists();
    for path in [path].into_iter().chain(key_paths()?) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(was_there)
}

/// A line, and the account that is logged in here.
pub struct Session {
    /// The line.
    pub line: OfficeLine,
    /// The account.
    pub user: User,
    /// This machine as one of its devices.
    pub device: AccountDeviceId,
    key: secrets::Secret,
    role: Role,
}

impl Session {
    /// Logs in as whoever is logged in on this machine.
    pub fn begin() -> anyhow::Result<Self> {
        let service = Service::get()?;
        let login = current()?;
        let [device_path, _] = key_paths()?;
        let device_key =
            secrets::read(&device_path).with_context(|| format!("cannot use {}", device_path.display()))?;
        let (device_key, key) = (SigningKey::from_seed(&device_key), account_key()?);
        let device = AccountDeviceId::from_hex(&login.device).context("login.toml names no device: log in again")?;
        let line = service.line()?;
        let user =
            line.login(&login.account, &Proof::Device(device, &device_key)).map_err(|problem| match problem.why {
                Why::WrongKey => hinted(
                    Code::WrongKey,
                    format!("the office does not let {} in from this machine any more", login.account),
                    "`twinkeep login NAME` logs in again, unless an administrator has disabled the account: \
                     the office tells nobody else of that",
                ),
                _ => told(problem),
            })?;
        user.settle_key(&key).map_err(told)?;
        Ok(Self { line, user, device, key, role: service.role })
    }

    /// The account's own key.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The vault of a name, or the account's own where none is named.
    fn vault(&self, name: Option<&str>) -> anyhow::Result<(VaultOf, VaultSecret)> {
        let vaults = self.user.vaults().map_err(told)?;
        let vault = match name {
            Some(name) => vaults::named(&vaults, &self.user.name, name)?,
            None => vaults::default(&vaults, &self.user.name, |own| self.user.secret(&self.key, own).is_ok())?,
        };
        let vault = vault.clone();
        let secret = self.user.secret(&self.key, &vault).map_err(|problem| {
            let hint = "if its password was reset since, make a new vault: `twinkeep vault create NAME`";
            hinted(Code::WrongKey, problem.text, hint)
        })?;
        Ok((vault, secret))
    }

    /// Opens a vault; gives also its store, which knows how safe it is. `warn` is told what will be missed later.
    pub fn open(
        &self,
        name: Option<&str>,
        env: Env,
        warn: impl FnOnce(String),
    ) -> anyhow::Result<(Vault, Arc<RemoteStore>)> {
        let (found, secret) = self.vault(name)?;
        let keeper = match self.role {
            Role::Terminal => self.line.keeper(found.id),
            Role::Host => None,
        };
        let (store, head) = self.user.open(found.id, keeper).map_err(told)?;
        let store = Arc::new(store);
        let vault = Vault::open_through(store.clone(), head.clone(), env, Unlock::Secret(&secret))?;
        if let Err(error) = outbox::remember(&self.user, &found, &head) {
            warn(format!("while the host is away nothing can be backed up on this machine: {}", one_line(&error)));
        }
        Ok((vault, store))
    }
}

/// What may be done as an administrator from here: on the host by whoever runs it, elsewhere by an account.
pub fn admin() -> anyhow::Result<Admin> {
    let service = Service::get()?;
    match service.role {
        Role::Host => service.line()?.admin().map_err(told),
        Role::Terminal => Session::begin()?.user.admin().map_err(told),
    }
}

/// The name of this machine in the office; none where it is no terminal.
pub fn machine_name() -> Option<String> {
    let service = Service::find().ok()??;
    match service.role {
        // The service tells everybody; its settings are its owner's.
        Role::Terminal => Some(service_status(&service.socket()).ok()?.name),
        Role::Host => None,
    }
}
