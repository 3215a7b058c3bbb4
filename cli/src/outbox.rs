//! What is backed up for the office while its tracker cannot be reached.
//!
//! In the data folder, in `outbox/`: `<vault id>.toml` is what opens the vault, as the office last gave it; and the folder
//! `<vault id>/`, while something waits, is a vault of the same name and keys that holds it. It opens like any other. Who
//! writes to it holds `<vault id>.lock` together with others; who makes it, sends it and clears it away holds that alone.
//! Where `<vault id>.spread` is, no second copy of what waits is to stay on this machine.
//!
//! What always holds: a folder in which anything was stored goes only when all of it is at the office.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use serde::{Deserialize, Serialize};
use twinkeep_engine::crypto::VaultSecret;
use twinkeep_engine::env::Env;
use twinkeep_engine::forward::{Forwarded, forward};
use twinkeep_engine::id::{ChunkId, VaultId};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::vault::{HeadBytes, Place, Unlock, Vault};
use twinkeep_nodes::remote::office::{User, VaultOf, service_status};
use twinkeep_nodes::secrets;
use twinkeep_nodes::tracker::member::open_vault;
use twinkeep_nodes::tracker::names::AccountId;

use crate::dirs;
use crate::error::{Code, judge, one_line, told};
use crate::office::{self, Login, Session};
use crate::session::owner;
use crate::vaults;

/// How long somebody waits who has nothing else to do while others are at it.
pub const LOCK_WAIT: Duration = Duration::from_secs(60);

/// How long somebody who makes it waits for others to look whether it is made.
const MAKE_WAIT: Duration = Duration::from_millis(300);

/// How often a service looks whether something waits, and how long it rests at most after a failure.
const LOOK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// What opens a vault of the office without the office: everything here is sealed, but for names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Known {
    account: String,
    account_id: String,
    name: String,
    /// Name of the account that the vault belongs to; empty where it was not yet written down, and is the account's own.
    #[serde(default)]
    owner: String,
    wrapped: String,
    config: String,
    keyring: String,
}

/// A vault of the office as this machine can write to it alone.
pub struct Outbox {
    root: PathBuf,
    vault: VaultId,
    known: Known,
}

fn root() -> anyhow::Result<PathBuf> {
    Ok(dirs::default_vault(&dirs::process_var)?.with_file_name("outbox"))
}

/// The folder of all of them, where there is one: no part of what is backed up.
pub fn folder() -> Option<PathBuf> {
    root().ok().filter(|root| root.is_dir())
}

fn known_path(root: &Path, vault: VaultId) -> PathBuf {
    root.join(format!("{}.toml", vault.to_hex()))
}

/// Keeps what opens a vault, for when the office is out of reach.
pub fn remember(user: &User, vault: &VaultOf, head: &HeadBytes) -> anyhow::Result<()> {
    let known = Known {
        account: user.name.clone(),
        account_id: user.id.to_hex(),
        name: vault.name.clone(),
        owner: vault.owner.clone(),
        wrapped: HEX.encode(&vault.wrapped),
        config: HEX.encode(&head.config),
        keyring: HEX.encode(&head.keyring),
    };
    let root = root()?;
    let path = known_path(&root, vault.id);
    if read(&path).ok().flatten().as_ref() == Some(&known) {
        return Ok(());
    }
    let failed = || format!("cannot write {}", path.display());
    if let Some(above) = root.parent() {
        fs::create_dir_all(above).with_context(failed)?;
    }
    if !root.is_dir() {
        secrets::make_folder(&root).with_context(failed)?;
    }
    secrets::replace(&path, toml::to_string(&known)?.as_bytes()).with_context(failed)
}

fn read(path: &Path) -> anyhow::Result<Option<Known>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => {
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            toml::from_str(&text).with_context(|| format!("{} is not valid", path.display())).map(Some)
        }
    }
}

/// The vaults that have a file or a folder of this kind of name, in order.
fn vaults_with(suffix: &str) -> anyhow::Result<Vec<VaultId>> {
    let root = root()?;
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", root.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot list {}", root.display()))?.file_name();
        found.extend(name.to_str().and_then(|name| name.strip_suffix(suffix)).and_then(VaultId::from_hex));
    }
    found.sort();
    Ok(found)
}

/// All of this user, whichever account they are of; without those whose file cannot be used.
fn all() -> anyhow::Result<Vec<Outbox>> {
    let root = root()?;
    let open = |vault: VaultId| {
        let known = read(&known_path(&root, vault)).ok().flatten()?;
        Some(Outbox { root: root.clone(), vault, known })
    };
    Ok(vaults_with(".toml")?.into_iter().filter_map(open).collect())
}

/// Puts files aside that cannot be used, so that none of them stops what has nothing to do with it. What was in them the
/// office gives again.
pub fn set_damaged_aside(warn: impl Fn(String)) -> anyhow::Result<()> {
    let root = root()?;
    for vault in vaults_with(".toml")? {
        let path = known_path(&root, vault);
        let Err(error) = read(&path) else { continue };
        let aside = path.with_extension("toml.damaged");
        let where_to = match fs::rename(&path, &aside) {
            Ok(()) => format!("it is put aside as {}", aside.display()),
            Err(error) => format!("it cannot be put aside: {error}"),
        };
        let what = error.to_string();
        warn(format!("{what}: {where_to}; the office writes it anew when its vault is used again"));
    }
    Ok(())
}

/// Whether anything waits, whoever it is of.
pub fn is_any_waiting() -> anyhow::Result<bool> {
    let root = root()?;
    Ok(vaults_with("")?.into_iter().any(|vault| root.join(vault.to_hex()).is_dir()))
}

/// Those in which something waits.
pub fn waiting() -> anyhow::Result<Vec<Outbox>> {
    let mut all = all()?;
    all.retain(|outbox| outbox.folder().is_dir());
    Ok(all)
}

/// Folders in which something waits, and of which nothing is known here any more.
fn unknown() -> anyhow::Result<Vec<VaultId>> {
    let (root, known) = (root()?, all()?);
    let mut found = vaults_with("")?;
    found.retain(|vault| root.join(vault.to_hex()).is_dir() && known.iter().all(|outbox| outbox.vault != *vault));
    Ok(found)
}

/// The one of a vault, by its name or the beginning of its id; without a name the account's own.
pub fn find(login: &Login, name: Option<&str>) -> anyhow::Result<Option<Outbox>> {
    let mut all = all()?;
    all.retain(|outbox| outbox.known.account == login.account);
    let infos: Vec<VaultOf> = all.iter().map(Outbox::info).collect();
    // As it is chosen where the office can be asked.
    let meant = match name {
        Some(name) => vaults::named(&infos, &login.account, name),
        None => vaults::default(&infos, &login.account, |info| {
            all.iter().any(|outbox| outbox.vault == info.id && outbox.secret().is_ok())
        }),
    };
    let Ok(meant) = meant.map(|vault| vault.id) else { return Ok(None) };
    Ok(all.into_iter().find(|outbox| outbox.vault == meant))
}

/// The secret of a vault that this user has an outbox of, with the key of the account that is logged in.
pub fn secret(vault: VaultId) -> anyhow::Result<Option<VaultSecret>> {
    let Some(login) = office::login()? else { return Ok(None) };
    let found = all()?.into_iter().find(|outbox| outbox.vault == vault && outbox.known.account == login.account);
    found.map(|outbox| outbox.secret()).transpose()
}

impl Outbox {
    /// One of which nothing is known but where it is, and who would send it.
    fn unknown(vault: VaultId, account: &str) -> anyhow::Result<Self> {
        let [account_id, name, owner] = [const { String::new() }; 3];
        let [wrapped, config, keyring] = [const { String::new() }; 3];
        let account = account.to_owned();
        let known = Known { account, account_id, name, owner, wrapped, config, keyring };
        Ok(Self { root: root()?, vault, known })
    }

    /// The vault as far as it is known here.
    fn info(&self) -> VaultOf {
        let owner = if self.known.owner.is_empty() { &self.known.account } else { &self.known.owner };
        VaultOf {
            id: self.vault,
            name: self.known.name.clone(),
            kind: String::new(),
            owner: owner.clone(),
            members: Vec::new(),
            for_company: false,
            wrapped: HEX.decode(self.known.wrapped.as_bytes()).unwrap_or_default(),
        }
    }

    /// Where it is.
    pub fn folder(&self) -> PathBuf {
        self.root.join(self.vault.to_hex())
    }

    /// What its vault is called at the office.
    pub fn name(&self) -> &str {
        &self.known.name
    }

    /// Whose it is.
    pub fn account(&self) -> &str {
        &self.known.account
    }

    fn damaged(&self) -> anyhow::Error {
        let path = known_path(&self.root, self.vault);
        told(Code::Failed, format!("{} does not hold what it should", path.display()))
    }

    fn secret(&self) -> anyhow::Result<VaultSecret> {
        let account = AccountId::from_hex(&self.known.account_id).ok_or_else(|| self.damaged())?;
        let wrapped = HEX.decode(self.known.wrapped.as_bytes()).map_err(|_| self.damaged())?;
        let key = office::account_key()?;
        open_vault(&key, &account, &self.vault, &wrapped)
            .map_err(|error| told(Code::WrongKey, format!("vault {}: {error}", self.known.name)))
    }

    /// Holds the lock, with others or alone; none where it cannot be had in time.
    fn lock(&self, alone: bool, patience: Duration) -> anyhow::Result<Option<File>> {
        let path = self.root.join(format!("{}.lock", self.vault.to_hex()));
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.with_context(|| format!("cannot open {}", path.display()))?;
        let begun = Instant::now();
        loop {
            match if alone { file.try_lock() } else { file.try_lock_shared() } {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
                Err(TryLockError::WouldBlock) if begun.elapsed() >= patience => return Ok(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Opens it to back up into; makes it first where nothing waits. The lock is to be held as long as it is used.
    pub fn open_to_write(&self, env: Env) -> anyhow::Result<(Vault, File)> {
        let busy = || told(Code::Busy, "what waits on this machine is being sent: try again in a moment");
        let begun = Instant::now();
        loop {
            let lock = self.lock(false, LOCK_WAIT)?.ok_or_else(busy)?;
            if Vault::exists(&Place::folder(&self.folder()))? {
                return Ok((self.open(env)?, lock));
            }
            drop(lock);
            // Alone: two that made it at once would each take the other's half for a damaged one.
            match self.lock(true, MAKE_WAIT)? {
                Some(_alone) => self.make()?,
                None if begun.elapsed() > LOCK_WAIT => return Err(busy()),
                // Another backup makes it, or has made it and goes on.
                None => {}
            }
        }
    }

    /// Makes it, unless it is there. The lock is held alone.
    fn make(&self) -> anyhow::Result<()> {
        self.clear_sent();
        let place = Place::folder(&self.folder());
        if self.holds_something()? {
            return self.mend();
        }
        if Vault::exists(&place)? {
            return Ok(());
        }
        let made = Vault::place(&place, &self.head()?);
        made.map(drop).with_context(|| format!("cannot write to {}", self.folder().display()))
    }

    /// Config and keyring, as the office gave them last.
    fn head(&self) -> anyhow::Result<HeadBytes> {
        let part = |text: &str| HEX.decode(text.as_bytes()).map_err(|_| self.damaged());
        let head = HeadBytes { config: part(&self.known.config)?, keyring: part(&self.known.keyring)? };
        if head.vault()? == self.vault { Ok(head) } else { Err(self.damaged()) }
    }

    /// Whether anything was ever stored in it, vault or not.
    fn holds_something(&self) -> anyhow::Result<bool> {
        for name in Vault::FILLED {
            let path = self.folder().join(name);
            let mut entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.with_context(|| format!("cannot list {}", path.display()))?,
            };
            if entries.next().is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts config and keyring back where somebody took them away. The lock is held alone.
    fn mend(&self) -> anyhow::Result<()> {
        for (name, of) in
            [("keyring", (|head| head.keyring) as fn(HeadBytes) -> Vec<u8>), ("config", |head| head.config)]
        {
            let path = self.folder().join(name);
            if path.exists() || path.with_extension("copy").exists() {
                continue;
            }
            let bytes = &of(self.head()?);
            secrets::replace(&path, bytes).with_context(|| format!("cannot put {} back", path.display()))?;
        }
        Ok(())
    }

    fn spread_path(&self) -> PathBuf {
        self.root.join(format!("{}.spread", self.vault.to_hex()))
    }

    /// No second copy of what waits is to stay here. That holds for all of it: what several snapshots share is one.
    pub fn spread(&self) -> anyhow::Result<()> {
        let path = self.spread_path();
        secrets::replace(&path, b"").with_context(|| format!("cannot write {}", path.display()))
    }

    /// All that was said of it is done.
    fn spread_no_more(&self) -> anyhow::Result<()> {
        let path = self.spread_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn open(&self, env: Env) -> anyhow::Result<Vault> {
        let opening = || format!("cannot open {}", self.folder().display());
        let secret = self.secret()?;
        Vault::open(Place::folder(&self.folder()), env, Unlock::Secret(&secret), &owner()).with_context(opening)
    }

    /// Sends all that waits in it, and clears it away when all has arrived.
    fn send(&self, session: &Session, sending: &Sending<'_>) -> anyhow::Result<Sent> {
        let Sending { env, progress, patience } = *sending;
        let Some(_lock) = self.lock(true, patience)? else { return Ok(Sent::Busy) };
        self.clear_sent();
        if !Vault::exists(&Place::folder(&self.folder()))? && !self.holds_something()? {
            // It was being made when its maker ended: there is nothing in it.
            // Or somebody has sent it while we waited.
            let _ = fs::remove_dir_all(self.folder());
            self.spread_no_more()?;
            return Ok(Sent::Nothing);
        }
        let opened = session.open(Some(&self.vault.to_hex()), env.clone(), |text| progress.warn("", text));
        let (to, store) = opened.map_err(|error| self.not_there(error))?;
        if self.spread_path().exists() {
            store.spread();
        }
        // What opens it may be another now, as after a reset of the password.
        let known = read(&known_path(&self.root, self.vault))?.unwrap_or_else(|| self.known.clone());
        let now = Self { root: self.root.clone(), vault: self.vault, known };
        now.mend()?;
        let sent = {
            let from = now.open(env.clone())?;
            let before: HashSet<ChunkId> = to.received()?.into_iter().map(|received| received.id).collect();
            let sent = forward(&from, &to, progress);
            let mut sent = sent.with_context(|| format!("cannot send {}", self.folder().display()))?;
            sent.done.retain(|id| !before.contains(id));
            sent
        };
        if sent.is_all() {
            // Before the folder: one that is sent once more has arrived, and where is settled.
            self.spread_no_more()?;
            // First out of the way as a whole: what is half removed is no vault.
            fs::rename(self.folder(), self.sent())
                .with_context(|| format!("cannot clear {} away", self.folder().display()))?;
            self.clear_sent();
        }
        Ok(Sent::Done(sent))
    }

    /// What can be done where the office lets the account into the vault no more.
    fn not_there(&self, error: anyhow::Error) -> anyhow::Error {
        if judge(&error).0 != Code::NoVault {
            return error;
        }
        let (name, account, folder) = (vaults::location(&self.info()), &self.known.account, self.folder());
        let text = format!(
            "{name} is no vault of {account} any more; `twinkeep --vault {} restore latest --target FOLDER` brings back \
             what is in it",
            folder.display()
        );
        told(Code::NoVault, text)
    }

    fn sent(&self) -> PathBuf {
        self.root.join(format!("{}.sent", self.vault.to_hex()))
    }

    /// What was sent takes room and no more; the next one tries again.
    fn clear_sent(&self) {
        let _ = fs::remove_dir_all(self.sent());
    }
}

/// How what waits is sent.
#[derive(Clone, Copy)]
pub struct Sending<'a> {
    /// Clock, randomness, threads.
    pub env: &'a Env,
    /// What is told meanwhile.
    pub progress: &'a Progress,
    /// How long to wait for whoever writes to it or sends it.
    pub patience: Duration,
}

/// What became of one of them.
pub enum Sent {
    /// Somebody writes to it, or sends it.
    Busy,
    /// There was nothing in it.
    Nothing,
    /// It was gone through; of snapshots those are named that were not at the office before.
    Done(Forwarded),
}

/// Sends all that waits for the account of a session; gives what each of them came to.
pub fn deliver(session: &Session, sending: &Sending<'_>) -> anyhow::Result<Vec<(Outbox, anyhow::Result<Sent>)>> {
    let mut done = Vec::new();
    for vault in unknown()? {
        // Opening it at the office gives what is to be known of it.
        let warn = |text: String| sending.progress.warn("", text);
        if let Err(error) = session.open(Some(&vault.to_hex()), sending.env.clone(), warn) {
            let outbox = Outbox::unknown(vault, &session.user.name)?;
            let text = format!("what opens it is not known here, nor at the office: {}", one_line(&error));
            done.push((outbox, Err(told(judge(&error).0, text))));
        }
    }
    for outbox in waiting()?.into_iter().filter(|outbox| outbox.known.account == session.user.name) {
        let sent = outbox.send(session, sending);
        done.push((outbox, sent));
    }
    Ok(done)
}

/// Sends what waits as soon as the host can be reached, for the user whom a service runs as; for ever.
pub fn courier(socket: &Path, env: &Env) {
    let (mut wait, mut last) = (LOOK.0, String::new());
    loop {
        std::thread::sleep(wait);
        let is_due =
            is_any_waiting().is_ok_and(|is_any| is_any) && service_status(socket).is_ok_and(|status| status.connected);
        let went = if is_due { deliver_all(env) } else { Ok(()) };
        match went {
            Ok(()) => (wait, last) = (LOOK.0, String::new()),
            Err(error) => {
                let text = one_line(&error);
                if text != last {
                    tracing::warn!(error = %text, "cannot send what was backed up while the host was away");
                }
                (wait, last) = ((wait * 2).min(LOOK.1), text);
            }
        }
    }
}

fn deliver_all(env: &Env) -> anyhow::Result<()> {
    set_damaged_aside(|text| tracing::warn!("{text}"))?;
    let progress = Progress::new(|warning| tracing::warn!(warning = %warning.message, "in what waits to be sent"));
    let sending = Sending { env, progress: &progress, patience: Duration::ZERO };
    for (outbox, sent) in deliver(&Session::begin()?, &sending)? {
        let Sent::Done(sent) = sent? else { continue };
        tracing::info!(vault = outbox.name(), snapshots = sent.done.len(), bytes = sent.bytes, "sent what waited");
        if let Some((id, why)) = sent.left.first() {
            return Err(told(Code::Damaged, format!("snapshot {id} stays in {}: {why}", outbox.folder().display())));
        }
    }
    Ok(())
}
