//! Making a host's folder, and reading it.
//!
//! The recovery kit is one secret, shown once as words. It opens the file `kit`, in which lie the secrets that a new host
//! needs to be this one: the company's recovery key, the authority's key and the host's own.

use super::ground::Folder;
use super::room::Marks;
use super::terms::{self, Network};
use super::{Host, HostError, Identity};
use crate::secrets;
use crate::tracker::sign::SigningKey;
use crate::transport::limits::PORT;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use twinkeep_engine::crypto::{DataKey, PublicKey, SEALED_KEY_LEN, SecretKey, VaultSecret, open_key, seal_key};
use twinkeep_engine::env::Env;
use zeroize::Zeroizing;

const KIT_MAGIC: [u8; 8] = *b"TKKIT\0\0\x01";
/// No kit is so long.
const KIT_LEN_MAX: u64 = 4096;
const KIT_CONTEXT: &str = "twinkeep 2026 recovery kit";
const KIT_LABELS: [&[u8]; 3] = [b"twinkeep kit company v1", b"twinkeep kit authority v1", b"twinkeep kit host v1"];

/// A host's folder cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is one already.
    #[error("there is a host in {0} already")]
    Exists(PathBuf),
    /// There is none.
    #[error("there is no host in {0}")]
    Missing(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `host.toml` is not as it should be.
    #[error("{path}: {problem}")]
    Settings {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The kit does not open with these words, or is damaged.
    #[error("the recovery kit does not open with these words")]
    Kit,
    /// The kit opens, and holds other keys than the host.
    #[error("the recovery kit is of another host")]
    OtherKit,
    /// Nobody has seen the new words of the kit.
    #[error("the words of the recovery kit cannot be shown, and without them nothing is changed")]
    Unseen(#[source] io::Error),
    /// The rest.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What people may edit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostFile {
    /// The host's name, for people.
    pub name: String,
    /// Where it listens.
    pub listen: String,
    /// Where machines reach it, tried in order.
    pub addresses: Vec<String>,
    /// The physical machine it runs on, 32 hex digits.
    pub machine_id: String,
    /// Free bytes below which no new backup begins; 0 for no such limit, in percent neither.
    #[serde(default = "reserve_default")]
    pub reserve_bytes: u64,
    /// The same in percent of the disk; the larger counts.
    #[serde(default = "reserve_percent_default")]
    pub reserve_percent: u8,
    /// Percent of the disk in use from which on an administrator is told.
    #[serde(default = "tell_at_default")]
    pub tell_at_percent: Vec<u8>,
    /// How fast second copies are sent in working hours: `20%` of the link, bytes a second as `5M`, or `off`.
    #[serde(default = "pace_default")]
    pub pace: String,
    /// Working hours, Monday to Friday, local time: `8-18`.
    #[serde(default = "pace_hours_default")]
    pub pace_hours: String,
    /// What the link carries, millions of bits a second; 0 for what the system says.
    #[serde(default)]
    pub link_mbits: u64,
    /// Networks to whose machines second copies are sent; the host's own where none is named.
    #[serde(default)]
    pub networks: Vec<String>,
}

fn pace_default() -> String {
    "20%".to_owned()
}

fn pace_hours_default() -> String {
    "8-18".to_owned()
}

/// How copies are sent, as `host.toml` says it.
pub struct Sending {
    /// Bytes a second in working hours; nothing where that does not matter.
    pub rate: Option<u64>,
    /// Working hours: the first, and the first that is none.
    pub hours: (u8, u8),
    /// To whom.
    pub networks: Vec<Network>,
}

impl HostFile {
    /// How copies are sent.
    ///
    /// # Errors
    /// What is written there makes no sense.
    pub fn sending(&self, data: &Path) -> Result<Sending, SetupError> {
        let bad = |problem: String| SetupError::Settings { path: settings_path(data), problem };
        let link = match self.link_mbits {
            0 => terms::link_speed(Path::new("/sys/class/net")).unwrap_or(terms::LINK_DEFAULT),
            megabits => megabits.saturating_mul(125_000),
        };
        let rate = terms::parse_rate(&self.pace, link).ok_or_else(|| {
            bad(format!("pace is {:?}: write off, a share of the link as 20%, or bytes a second as 5M", self.pace))
        })?;
        let hours = terms::parse_hours(&self.pace_hours)
            .ok_or_else(|| bad(format!("pace-hours is {:?}: write two hours of a day as 8-18", self.pace_hours)))?;
        let network = |text: &String| {
            Network::parse(text).ok_or_else(|| bad(format!("{text:?} is no network: write it as 192.168.1.0/24")))
        };
        let named = self.networks.iter().map(network).collect::<Result<Vec<_>, _>>()?;
        let networks = if named.is_empty() { terms::own_networks(Path::new("/proc/net")) } else { named };
        Ok(Sending { rate, hours, networks })
    }
}

fn reserve_default() -> u64 {
    Marks::RESERVE.0
}

fn reserve_percent_default() -> u8 {
    Marks::RESERVE.1 as u8
}

fn tell_at_default() -> Vec<u8> {
    Marks::TELL_AT.to_vec()
}

impl HostFile {
    /// # Errors
    /// What stands there makes no sense, in words.
    fn marks(&self) -> Result<Marks, String> {
        if self.reserve_percent >= 100 {
            return Err("reserve-percent is to be less than 100".to_owned());
        }
        let mut tell_at = self.tell_at_percent.clone();
        tell_at.sort_unstable();
        if tell_at.iter().any(|percent| !(1..=100).contains(percent)) {
            return Err("tell-at-percent lists percents from 1 to 100".to_owned());
        }
        let reserve = match self.reserve_bytes {
            0 => (0, 0),
            bytes => (bytes, u64::from(self.reserve_percent)),
        };
        Ok(Marks { reserve, tell_at })
    }
}

/// How a new host is made.
pub struct HostOptions {
    /// Its name.
    pub name: String,
    /// Where it listens, `address:port`.
    pub listen: String,
    /// Where machines reach it.
    pub addresses: Vec<String>,
    /// The physical machine.
    pub machine_id: [u8; 16],
}

impl HostOptions {
    /// Where a host listens unless told otherwise.
    pub fn listen_default() -> String {
        format!("0.0.0.0:{PORT}")
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SetupError + '_ {
    move |source| SetupError::File { path: path.to_owned(), source }
}

fn settings_path(data: &Path) -> PathBuf {
    data.join("host.toml")
}

fn key_path(data: &Path, name: &str) -> PathBuf {
    data.join("keys").join(name)
}

/// Makes a host in a folder. Gives the secret of its recovery kit, which is kept nowhere else.
pub fn init(data: &Path, env: &Env, options: &HostOptions) -> Result<VaultSecret, SetupError> {
    init_shown(data, env, options, |_, _| Ok(()))
}

/// Makes a host in a folder after `show` has shown the secret of its recovery kit, which is kept nowhere else, and the
/// host's own key. Where that fails there is no host, and it can be made again.
pub fn init_shown(
    data: &Path,
    env: &Env,
    options: &HostOptions,
    show: impl FnOnce(&VaultSecret, &SigningKey) -> io::Result<()>,
) -> Result<VaultSecret, SetupError> {
    if settings_path(data).exists() {
        return Err(SetupError::Exists(data.to_owned()));
    }
    secrets::make_folder(data).map_err(failed(data))?;
    let keys = data.join("keys");
    secrets::make_folder(&keys).map_err(failed(&keys))?;
    let entropy = &*env.entropy;
    let keep = |name: &str, secret: &[u8; 32]| {
        let path = key_path(data, name);
        // Left over from an attempt that did not come to its end, before which nothing depends on it.
        let _ = std::fs::remove_file(&path);
        secrets::write(&path, secret).map_err(failed(&path))
    };
    let (node, authority, answers) = (secrets::draw(entropy), secrets::draw(entropy), secrets::draw(entropy));
    let company = SecretKey::random(entropy);
    keep("node.key", &node)?;
    keep("authority.key", &authority)?;
    keep("answers.key", &answers)?;
    keep("company.pub", &company.public().0)?;
    let kit = VaultSecret::random(entropy);
    let sealed = seal_kit(&kit, [company.expose(), &authority, &node], env);
    let path = data.join("kit");
    secrets::replace(&path, &sealed).map_err(failed(&path))?;
    show(&kit, &SigningKey::from_seed(&node)).map_err(SetupError::Unseen)?;
    Host::create(&Folder(data.to_owned()), env, SigningKey::from_seed(&authority))?;
    let file = HostFile {
        name: options.name.clone(),
        listen: options.listen.clone(),
        addresses: options.addresses.clone(),
        machine_id: hex(&options.machine_id),
        reserve_bytes: reserve_default(),
        reserve_percent: reserve_percent_default(),
        tell_at_percent: tell_at_default(),
        pace: pace_default(),
        pace_hours: pace_hours_default(),
        link_mbits: 0,
        networks: Vec::new(),
    };
    // Last: what has it is a host.
    write_settings(data, &file)?;
    Ok(kit)
}

/// Writes `host.toml`.
pub fn write_settings(data: &Path, file: &HostFile) -> Result<(), SetupError> {
    let path = settings_path(data);
    let text = toml::to_string(file)
        .map_err(|error| SetupError::Settings { path: path.clone(), problem: error.to_string() })?;
    secrets::replace(&path, text.as_bytes()).map_err(failed(&path))
}

/// Reads `host.toml`.
pub fn read_settings(data: &Path) -> Result<HostFile, SetupError> {
    let path = settings_path(data);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SetupError::Missing(data.to_owned())),
        text => text.map_err(failed(&path))?,
    };
    toml::from_str(&text).map_err(|error| SetupError::Settings { path, problem: error.to_string() })
}

/// Who the host in a folder is.
pub fn load(data: &Path) -> Result<Identity, SetupError> {
    let file = read_settings(data)?;
    let read = |name: &str| {
        let path = key_path(data, name);
        secrets::read(&path).map_err(failed(&path))
    };
    let wrong = |problem: String| SetupError::Settings { path: settings_path(data), problem };
    let machine_id = unhex(&file.machine_id).ok_or_else(|| wrong("machine-id is not 32 hex digits".to_owned()))?;
    let marks = file.marks().map_err(wrong)?;
    Ok(Identity {
        name: file.name,
        addresses: file.addresses,
        key: SigningKey::from_seed(&*read("node.key")?),
        authority: SigningKey::from_seed(&*read("authority.key")?),
        answers: *read("answers.key")?,
        company_key: *read("company.pub")?,
        machine_id,
        marks,
    })
}

fn kit_key(kit: &VaultSecret) -> DataKey {
    let key = Zeroizing::new(blake3::derive_key(KIT_CONTEXT, kit.expose()));
    DataKey::from_bytes(&key)
}

fn seal_kit(kit: &VaultSecret, parts: [&[u8; 32]; 3], env: &Env) -> Vec<u8> {
    let key = kit_key(kit);
    let mut bytes = KIT_MAGIC.to_vec();
    for (label, part) in KIT_LABELS.iter().zip(parts) {
        bytes.extend_from_slice(&seal_key(&key, label, part, &*env.entropy));
    }
    bytes
}

/// What lies in a kit.
pub struct Kit {
    /// Opens the company's vaults.
    pub company: SecretKey,
    /// Signs for the company.
    pub authority: SigningKey,
    /// Is the host.
    pub node: SigningKey,
}

/// Where the kit of a folder lies.
pub fn kit_path(data: &Path) -> PathBuf {
    data.join("kit")
}

/// Opens the kit of a folder.
pub fn open_kit(data: &Path, kit: &VaultSecret) -> Result<Kit, SetupError> {
    open_kit_file(&kit_path(data), kit)
}

/// Opens a kit, or a copy of it.
pub fn open_kit_file(path: &Path, kit: &VaultSecret) -> Result<Kit, SetupError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(KIT_LEN_MAX).read_to_end(&mut bytes));
    read.map_err(failed(path))?;
    let parts = bytes.strip_prefix(&KIT_MAGIC).ok_or(SetupError::Kit)?;
    if parts.len() != KIT_LABELS.len() * SEALED_KEY_LEN {
        return Err(SetupError::Kit);
    }
    let key = kit_key(kit);
    let mut opened = Vec::new();
    for (label, sealed) in KIT_LABELS.iter().zip(parts.chunks_exact(SEALED_KEY_LEN)) {
        let sealed: &[u8; SEALED_KEY_LEN] = sealed.try_into().map_err(|_| SetupError::Kit)?;
        opened.push(open_key(&key, label, sealed).map_err(|_| SetupError::Kit)?);
    }
    Ok(Kit {
        company: SecretKey::from_bytes(&opened[0]),
        authority: SigningKey::from_seed(&opened[1]),
        node: SigningKey::from_seed(&opened[2]),
    })
}

/// Fails unless the words open the kit of a folder and what lies in it is what the host has.
pub fn verify_kit(data: &Path, kit: &VaultSecret) -> Result<(), SetupError> {
    let (kit, identity) = (open_kit(data, kit)?, load(data)?);
    let is_same = kit.company.public() == PublicKey(identity.company_key)
        && kit.authority.public() == identity.authority.public()
        && kit.node.public() == identity.key.public();
    if is_same { Ok(()) } else { Err(SetupError::OtherKit) }
}

/// Seals a new kit in the place of the old one, whose words open nothing any more; first `show` shows the secret of the
/// new one. Where that fails the old one stays.
pub fn renew_kit(
    data: &Path,
    env: &Env,
    old: &VaultSecret,
    show: impl FnOnce(&VaultSecret) -> io::Result<()>,
) -> Result<VaultSecret, SetupError> {
    verify_kit(data, old)?;
    let opened = open_kit(data, old)?;
    let kit = VaultSecret::random(&*env.entropy);
    let sealed = seal_kit(&kit, [opened.company.expose(), opened.authority.seed(), opened.node.seed()], env);
    let path = data.join("kit");
    // Before: words that nobody has seen open nothing for anybody.
    show(&kit).map_err(SetupError::Unseen)?;
    secrets::replace(&path, &sealed).map_err(failed(&path))?;
    Ok(kit)
}

/// As text.
pub fn hex(bytes: &[u8; 16]) -> String {
    crate::tracker::names::MachineId(*bytes).to_hex()
}

/// From text.
pub fn unhex(text: &str) -> Option<[u8; 16]> {
    crate::tracker::names::MachineId::from_hex(text).map(|id| id.0)
}

/// What tells this physical machine from others: of the system's own id a hash that means nothing elsewhere.
pub fn machine_id(env: &Env) -> [u8; 16] {
    let drawn = || {
        let mut id = [0; 16];
        env.entropy.fill(&mut id);
        id
    };
    let Ok(text) = std::fs::read_to_string("/etc/machine-id") else { return drawn() };
    if text.trim().len() != 32 {
        return drawn();
    }
    let hash = blake3::derive_key("twinkeep 2026 machine id", text.trim().as_bytes());
    hash.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_made_and_its_kit_opens_it() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("host");
        let env = Env::system(1);
        let options = HostOptions {
            name: "office".into(),
            listen: "127.0.0.1:0".into(),
            addresses: vec!["127.0.0.1:7272".into()],
            machine_id: [7; 16],
        };
        let full = || Err(io::ErrorKind::StorageFull.into());
        assert!(matches!(init_shown(&data, &env, &options, |_, _| full()), Err(SetupError::Unseen(_))));
        assert!(matches!(load(&data), Err(SetupError::Missing(_))));
        let kit = init(&data, &env, &options).unwrap();
        assert!(matches!(init(&data, &env, &options), Err(SetupError::Exists(_))));
        verify_kit(&data, &kit).unwrap();
        let loaded = load(&data).unwrap();
        assert_eq!(loaded.machine_id, [7; 16]);
        assert_eq!(loaded.marks, Marks { reserve: Marks::RESERVE, tell_at: Marks::TELL_AT.to_vec() });
        let file = read_settings(&data).unwrap();
        assert_eq!(HostFile { link_mbits: 100, ..file.clone() }.sending(&data).unwrap().rate, Some(2_500_000));
        let bad = [
            HostFile { pace: "fast".into(), ..file.clone() },
            HostFile { pace_hours: "18-8".into(), ..file.clone() },
            HostFile { networks: vec!["office".into()], ..file },
        ];
        for (file, word) in bad.iter().zip(["pace", "pace-hours", "network"]) {
            let problem = file.sending(&data).err().unwrap().to_string();
            assert!(problem.contains(word) && problem.contains("host.toml"), "{problem}");
        }
        assert!(matches!(renew_kit(&data, &env, &kit, |_| full()), Err(SetupError::Unseen(_))));
        verify_kit(&data, &kit).unwrap();
        let new = renew_kit(&data, &env, &kit, |_| Ok(())).unwrap();
        assert!(matches!(verify_kit(&data, &kit), Err(SetupError::Kit)));
        verify_kit(&data, &new).unwrap();
        let identity = load(&data).unwrap();
        assert_eq!(open_kit(&data, &new).unwrap().node.public(), identity.key.public());
        let marks = |file: &HostFile| {
            write_settings(&data, file).unwrap();
            load(&data).map(|identity| identity.marks)
        };
        let mut file = read_settings(&data).unwrap();
        (file.reserve_bytes, file.reserve_percent, file.tell_at_percent) = (5, 3, vec![90, 50]);
        assert_eq!(marks(&file).unwrap(), Marks { reserve: (5, 3), tell_at: vec![50, 90] });
        file.reserve_bytes = 0;
        assert_eq!(marks(&file).unwrap().reserve, (0, 0));
        file.tell_at_percent = vec![0];
        assert!(matches!(marks(&file), Err(SetupError::Settings { .. })));
        (file.tell_at_percent, file.reserve_percent) = (Vec::new(), 100);
        assert!(matches!(marks(&file), Err(SetupError::Settings { .. })));
        std::fs::write(data.join("kit"), b"TKKIT").unwrap();
        assert!(matches!(verify_kit(&data, &new), Err(SetupError::Kit)));
    }
}
