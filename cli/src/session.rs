//! What every verb starts from: the global flags, the screen, and the vault they name, opened or made.

mod at_office;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use jiff::tz::TimeZone;
use serde_json::json;
use twinkeep_engine::crypto::VaultSecret;
use twinkeep_engine::env::{Env, SystemEntropy};
use twinkeep_engine::id::VaultId;
use twinkeep_engine::repair::{self, IndexRepair, RepairError};
use twinkeep_engine::vault::keyring::KeyringError;
use twinkeep_engine::vault::{
    CreateOptions, Keyless, NewSlot, Place, SnapshotInfo, Snapshots, Unlock, Vault, VaultError,
};

use at_office::At;

use crate::args::Globals;
use crate::dirs;
use crate::error::{self, Code, hinted, usage};
use crate::keyfile::{self, Pending};
use crate::office;
use crate::outbox;
use crate::password::{self, Password};
use crate::screen::Screen;

/// One run of the command.
pub struct Run {
    /// The global flags.
    pub globals: Globals,
    /// Where words go.
    pub screen: Arc<Screen>,
    /// The zone people's times are meant in.
    pub zone: TimeZone,
    /// Whether a list of snapshots was not whole.
    lacks_snapshots: AtomicBool,
    /// Where the vault is that was opened last, other than in a folder.
    at: Mutex<At>,
}

/// How a new vault's key is kept.
pub enum NewKey {
    /// With this password.
    Password(Password),
    /// In a file on this machine.
    Machine,
    /// There is none: the vault is not encrypted.
    None,
}

impl Run {
    /// A run with these flags.
    pub fn new(globals: Globals) -> Self {
        let screen = Arc::new(Screen::new(&globals));
        Self {
            globals,
            screen,
            zone: TimeZone::system(),
            lacks_snapshots: AtomicBool::new(false),
            at: Mutex::default(),
        }
    }

    /// Where the vault is.
    ///
    /// # Errors
    /// Usage: the location is of a kind this version does not reach.
    fn site(&self) -> anyhow::Result<Site> {
        let site = self.named_site()?;
        match (&site, &self.globals.recovery_kit_file) {
            (Site::Folder(_), Some(_)) => Err(hinted(
                Code::Usage,
                "the recovery kit opens vaults of the office",
                "name one with --vault twinkeep://OWNER/NAME",
            )),
            _ => Ok(site),
        }
    }

    fn named_site(&self) -> anyhow::Result<Site> {
        match &self.globals.vault {
            None if office::login()?.is_some() => Ok(Site::Office(None)),
            None => Ok(Site::Folder(dirs::default_vault(&dirs::process_var)?)),
            Some(text) => match text.strip_prefix("twinkeep:") {
                Some(name) => Ok(Site::Office(office_name(name).ok_or_else(|| bad_office_name(text))?)),
                None => Ok(Site::Folder(folder_of(text)?)),
            },
        }
    }

    /// Whether the vault is in a folder of this machine, and at no office.
    pub fn is_in_folder(&self) -> anyhow::Result<bool> {
        Ok(matches!(self.site()?, Site::Folder(_)))
    }

    /// Whether what is asked for is asked of the office: the vault is there, or this is its host and no other is named.
    pub fn is_office(&self) -> anyhow::Result<bool> {
        let is_host = || {
            Ok::<_, anyhow::Error>(office::Service::find()?.is_some_and(|service| service.role == office::Role::Host))
        };
        Ok(matches!(self.site()?, Site::Office(_)) || (self.globals.vault.is_none() && is_host()?))
    }

    /// The folder of the vault.
    ///
    /// # Errors
    /// Usage: it is at the office, where this can only be done on the host.
    pub fn location(&self) -> anyhow::Result<PathBuf> {
        match self.site()? {
            Site::Folder(folder) => Ok(folder),
            Site::Office(_) => Err(hinted(
                Code::Usage,
                "the vault is at the office, and this can only be done with a folder",
                "name a folder with --vault",
            )),
        }
    }

    /// The current folder, for paths that are relative.
    pub fn cwd(&self) -> Vec<u8> {
        std::env::current_dir().map(|dir| dir.as_os_str().as_bytes().to_vec()).unwrap_or_else(|_| b"/".to_vec())
    }

    /// The folder of disposable caches.
    pub fn cache_dir(&self) -> anyhow::Result<PathBuf> {
        match &self.globals.cache_dir {
            Some(dir) => Ok(std::path::absolute(dir)?),
            None => dirs::cache_dir(&dirs::process_var),
        }
    }

    /// The system's clocks and randomness, with this many threads or one a core.
    pub fn env(&self, threads: Option<usize>) -> Env {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Env::system(threads.unwrap_or_else(cores))
    }

    /// Opens the vault.
    ///
    /// # Errors
    /// Exit 10 where there is none, 12 without the right key.
    pub fn open(&self) -> anyhow::Result<Vault> {
        match self.site()? {
            Site::Office(name) => self.open_at_office(name.as_deref(), None),
            Site::Folder(_) => self.open_at(&self.place()?.0, None),
        }
    }

    /// Where the vault is, for work that needs no key.
    ///
    /// # Errors
    /// Exit 10 where there is none.
    pub fn place(&self) -> anyhow::Result<(PathBuf, Place)> {
        let location = self.location()?;
        match is_vault(&location)? {
            true => Ok((location.clone(), Place::folder(&location))),
            false => Err(no_vault(&location)),
        }
    }

    /// Opens the vault or, where none is, makes one.
    ///
    /// # Errors
    /// Like [`Self::open`]; something else stands there.
    pub fn open_or_create(&self, threads: Option<usize>) -> anyhow::Result<Vault> {
        if let Site::Office(name) = self.site()? {
            return match self.open_to_write(name.as_deref(), threads) {
                Err(error) if error::judge(&error).0 == Code::NoTracker => self.fall_back(error, threads),
                opened => opened,
            };
        }
        let location = self.location()?;
        if is_vault(&location)? {
            return self.open_at(&location, threads);
        }
        if self.globals.device_key_file.is_some() {
            return Err(no_vault(&location));
        }
        if self.globals.vault.is_none() && office::Service::find()?.is_some() {
            let told = "nobody is logged in at the office here: this goes into a vault on this machine alone; \
                        `twinkeep login NAME` first, and it goes to the office";
            self.screen.warn(None, told);
        }
        let key = match password::given(&self.globals, &dirs::process_var)? {
            Some(password) => NewKey::Password(password),
            None => NewKey::Machine,
        };
        self.create(key, &CreateOptions::default(), threads)
    }

    /// Opens what the vault rests in without any key, for work that needs none.
    ///
    /// # Errors
    /// Exit 10 where there is none.
    pub fn open_store(&self, env: Env) -> anyhow::Result<Keyless> {
        let (location, place) = self.place()?;
        let opened = Vault::open_store(place, env, &owner());
        opened.with_context(|| format!("cannot open the vault {}", location.display()))
    }

    fn open_at(&self, location: &Path, threads: Option<usize>) -> anyhow::Result<Vault> {
        let place = Place::folder(location);
        let vault = self.with_key(location, &place, &|unlock| {
            Ok(Vault::open(place.clone(), self.env(threads), unlock, &owner())?)
        })?;
        for note in vault.notes() {
            self.screen.warn(None, note);
        }
        Ok(vault)
    }

    /// Opens the vault with an index built anew; what was mended on the way is told by the report.
    ///
    /// # Errors
    /// Like [`Self::open`]; exit 11 while somebody writes to it.
    pub fn repair_index(&self) -> anyhow::Result<IndexRepair> {
        let (location, place) = self.place()?;
        self.with_key(&location, &place, &|unlock| {
            Ok(repair::repair_index(place.clone(), self.env(None), unlock, &owner())?.1)
        })
    }

    /// What [`Self::repair_index`] would find.
    pub fn repair_index_dry(&self) -> anyhow::Result<IndexRepair> {
        let (_, place) = self.place()?;
        Ok(IndexRepair::dry_run(&place, self.env(None), &owner())?)
    }

    /// Opens a vault in some way with the key that was given, or that is at hand.
    fn with_key<T>(
        &self,
        location: &Path,
        place: &Place,
        open: &dyn Fn(Unlock<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let opening = || format!("cannot open the vault {}", location.display());
        let head = Vault::head(place).with_context(opening)?;
        // A key that is at hand for this vault is given even where the vault says it needs none: the engine refuses
        // then, because somebody may have put an open vault in the place of ours.
        let opened = if let Some(path) = &self.globals.device_key_file {
            open(Unlock::Device(&keyfile::read_device_at(path)?))
        } else if let Some(path) = &self.globals.recovery_words_file {
            open(Unlock::Secret(&password::recovery_secret(path)?))
        } else if let Some(password) = password::given(&self.globals, &dirs::process_var)? {
            open(Unlock::Password(&password))
        } else if let Some(key) = self.kept_key(head.vault, keyfile::read)? {
            match open(Unlock::MachineKey(&key)) {
                // Its slot was taken away, and a password is another way in.
                Err(error) if head.has_password && is_wrong_key(&error) && password::can_ask() => {
                    open(Unlock::Password(&asked(location)?))
                }
                result => result,
            }
        } else if let Some(key) = self.kept_key(head.vault, keyfile::read_device)? {
            open(Unlock::Device(&key))
        } else if let Some(secret) = outbox::secret(head.vault)? {
            open(Unlock::Secret(&secret))
        } else if !head.encrypted {
            open(Unlock::Nothing)
        } else if head.has_password && password::can_ask() {
            open(Unlock::Password(&asked(location)?))
        } else {
            return Err(no_key(location, head.has_password));
        }
        .with_context(opening)?;
        self.screen.detail(&format!("vault {} in {}", head.vault, location.display()));
        Ok(opened)
    }

    /// A key that this machine keeps for a vault.
    fn kept_key<T>(
        &self,
        vault: VaultId,
        read: impl Fn(&Path, VaultId) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        match dirs::config_dir(&dirs::process_var) {
            Ok(dir) => read(&keyfile::folder(&dir), vault),
            // Without a home there is no key file; other keys may be.
            Err(_) => Ok(None),
        }
    }

    /// Makes a vault at the location and shows its recovery words.
    ///
    /// # Errors
    /// Something stands there already; the key cannot be kept.
    pub fn create(&self, key: NewKey, options: &CreateOptions, threads: Option<usize>) -> anyhow::Result<Vault> {
        let location = self.location()?;
        refuse_occupied(&location)?;
        let making = || format!("cannot make a vault in {}", location.display());
        let pending = match &key {
            NewKey::Machine => {
                let folder = keyfile::folder(&dirs::config_dir(&dirs::process_var)?);
                Some(Pending::write(folder, &SystemEntropy)?)
            }
            NewKey::Password(_) | NewKey::None => None,
        };
        let host = host_name();
        let slots: Vec<NewSlot<'_>> = match (&key, &pending) {
            (NewKey::Password(password), _) => vec![NewSlot::Password { password, label: "password" }],
            (_, Some(pending)) => vec![NewSlot::MachineKey { key: pending.key(), label: &host }],
            (_, None) => Vec::new(),
        };
        std::fs::create_dir_all(&location).with_context(making)?;
        let made = Vault::create(Place::folder(&location), self.env(threads), options, &slots);
        drop(slots);
        let (vault, secret) = match made {
            Ok(made) => made,
            Err(error) => {
                pending.into_iter().for_each(Pending::discard);
                return Err(error).with_context(making);
            }
        };
        // The words first: with them the vault opens, whatever happens to the key file.
        let has_words = !matches!(key, NewKey::None);
        if has_words {
            self.show_words(&location, &vault, &secret)?;
        }
        let key_file = pending.map(|pending| pending.keep(vault.id())).transpose()?;
        self.tell_created(&location, &vault, key_file.as_deref(), has_words)?;
        Ok(vault)
    }

    fn show_words(&self, location: &Path, vault: &Vault, secret: &VaultSecret) -> anyhow::Result<()> {
        let words = secret.words();
        if self.screen.json {
            let fields = json!({ "vault": vault.id().to_hex(), "location": location.to_string_lossy(), "words": words.as_str() });
            return self.screen.message("recovery_words", &fields);
        }
        let again = "Without being asked they are shown only now; `twinkeep key export` shows them again.";
        self.screen.notice(&format!("{}{again}", framed(&words, location)));
        Ok(())
    }

    fn tell_created(
        &self,
        location: &Path,
        vault: &Vault,
        key_file: Option<&Path>,
        encrypted: bool,
    ) -> anyhow::Result<()> {
        if self.screen.json {
            let fields = json!({
                "vault": vault.id().to_hex(),
                "location": location.to_string_lossy(),
                "encrypted": encrypted,
                "key_file": key_file.map(Path::to_string_lossy),
            });
            return self.screen.message("initialized", &fields);
        }
        let kind = if encrypted { "encrypted" } else { "unencrypted" };
        self.screen.tell(&format!("made the {kind} vault {} in {}", &vault.id().to_hex()[..8], location.display()))?;
        if let Some(path) = key_file {
            self.screen.tell(&format!("this machine's key to it is {}", path.display()))?;
        }
        Ok(())
    }

    /// The snapshots that are listed, oldest first; each that cannot be read is a warning.
    pub fn snapshots(&self, vault: &Vault) -> anyhow::Result<Vec<SnapshotInfo>> {
        Ok(self.all_snapshots(vault)?.list)
    }

    /// Like [`Self::snapshots`], with those that are not listed any more.
    pub fn all_snapshots(&self, vault: &Vault) -> anyhow::Result<Snapshots> {
        let all = vault.snapshots().context("cannot list the snapshots")?;
        self.warn_damaged(&all);
        Ok(all)
    }

    /// Warns of each snapshot that a list lacks.
    pub fn warn_damaged(&self, all: &Snapshots) {
        for fault in &all.damaged {
            self.screen.warn(Some(fault.file.as_bytes()), &fault.problem);
        }
        self.lacks_snapshots.fetch_or(!all.damaged.is_empty(), Ordering::Relaxed);
    }

    /// How a verb ends that tells of all snapshots: with damage when [`Self::snapshots`] could not list them all.
    pub fn listed(&self) -> Code {
        if self.lacks_snapshots.load(Ordering::Relaxed) { Code::Damaged } else { Code::Done }
    }
}

/// Where a vault is.
enum Site {
    /// In a folder.
    Folder(PathBuf),
    /// At the office: the one of this name, or the account's own.
    Office(Option<String>),
}

/// The name of a vault after `twinkeep:`, or of none; nothing where it is not written as it should be.
fn office_name(text: &str) -> Option<Option<String>> {
    let name = text.strip_prefix("//")?.trim_end_matches('/');
    let is_good = name.is_empty() || name.split('/').all(|part| !part.is_empty());
    is_good.then(|| Some(name.to_owned()).filter(|name| !name.is_empty()))
}

fn bad_office_name(text: &str) -> anyhow::Error {
    let hint = "write twinkeep://OWNER/NAME, or twinkeep:// for one's own; a folder of such a name as ./twinkeep:…";
    hinted(Code::Usage, format!("{text:?} names no vault of an office"), hint)
}

fn folder_of(text: &str) -> anyhow::Result<PathBuf> {
    if text.is_empty() {
        return Err(usage("the vault's location is empty"));
    }
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    if let Some(scheme) = scheme.filter(|scheme| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
        return Err(hinted(
            Code::Usage,
            format!("this version cannot reach {scheme}:// vaults"),
            "give a folder: --vault /path/to/vault",
        ));
    }
    Ok(std::path::absolute(text)?)
}

/// The name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Who we are to others who find something locked.
pub fn owner() -> String {
    format!("twinkeep, pid {} on {}", std::process::id(), host_name())
}

fn is_vault(location: &Path) -> anyhow::Result<bool> {
    match std::fs::metadata(location) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", location.display())),
        Ok(found) if !found.is_dir() => Err(usage(format!("{} is not a folder", location.display()))),
        Ok(_) => {
            Vault::exists(&Place::folder(location)).with_context(|| format!("cannot look at {}", location.display()))
        }
    }
}

fn refuse_occupied(location: &Path) -> anyhow::Result<()> {
    if is_vault(location)? {
        return Err(told_occupied(
            location,
            "there is a vault in",
            "back up into it, or name another folder with --vault",
        ));
    }
    match std::fs::read_dir(location) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot list {}", location.display())),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => {
                let hint = "name an empty or a new folder with --vault";
                Err(told_occupied(location, "no vault, but something else is in", hint))
            }
        },
    }
}

fn told_occupied(location: &Path, what: &str, hint: &str) -> anyhow::Error {
    hinted(Code::Failed, format!("{what} {} already", location.display()), hint)
}

fn asked(location: &Path) -> anyhow::Result<Password> {
    password::ask(&format!("password of {}", location.display()))
}

fn is_wrong_key(error: &anyhow::Error) -> bool {
    let vault = match error.downcast_ref() {
        Some(RepairError::Vault(error)) => Some(error),
        _ => error.downcast_ref(),
    };
    matches!(vault, Some(VaultError::Keyring(KeyringError::Wrong { .. } | KeyringError::NoSlot { .. })))
}

fn no_vault(location: &Path) -> anyhow::Error {
    hinted(
        Code::NoVault,
        format!("there is no vault in {}", location.display()),
        "`twinkeep backup` makes one there, --vault names another",
    )
}

fn no_key(location: &Path, has_password: bool) -> anyhow::Error {
    let message = format!("no key to the vault {}", location.display());
    let hint = match has_password {
        true => "give the password with --password-file, --password-command or TWINKEEP_PASSWORD",
        false => "its key is on the machine that made it; elsewhere it opens with --recovery-words-file FILE",
    };
    hinted(Code::WrongKey, message, hint)
}

/// The recovery words of a vault as they are shown.
pub fn framed(words: &str, location: &Path) -> String {
    format!(
        "Recovery words of the vault {}\n{}\
         Write them down and keep them away from this machine. Whoever has them can read everything\n\
         in the vault; without them nobody can, once the key on this machine or the password is lost.\n",
        location.display(),
        in_frame(words)
    )
}

/// Words in a frame, four in a row, numbered.
pub fn in_frame(words: &str) -> String {
    let list: Vec<&str> = words.split(' ').collect();
    let mut text = String::new();
    let rule = format!("+{}+\n", "-".repeat(68));
    text.push_str(&rule);
    for (row, words) in list.chunks(4).enumerate() {
        let cells: Vec<String> =
            words.iter().enumerate().map(|(at, word)| format!("{:2}. {word:<12}", row * 4 + at + 1)).collect();
        text.push_str(&format!("|  {:<66}|\n", cells.join("")));
    }
    text.push_str(&rule);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vaults_of_the_office_are_written_with_two_slashes() {
        let check = |text: &str, expected: Option<Option<&str>>| {
            assert_eq!(office_name(text), expected.map(|name| name.map(str::to_owned)), "{text}");
        };
        check("//", Some(None));
        check("//bert", Some(Some("bert")));
        check("//bert/team/", Some(Some("bert/team")));
        for bad in ["", "/bert", "/bert/bert", "bert", "///bert", "//bert//team"] {
            check(bad, None);
        }
    }

    #[test]
    fn words_are_framed_and_numbered() {
        let words = vec!["abandon"; 24].join(" ");
        let text = framed(&words, Path::new("/v"));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1..=8].iter().all(|line| line.len() == 70), "{text}");
        assert!(lines[7].contains("24. abandon"), "{text}");
    }
}
