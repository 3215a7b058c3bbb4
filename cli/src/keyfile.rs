//! Keys in files of this machine, for their owner's eyes only, in `keys/` in the config folder: `<vault id>.key`, a machine
//! key of 64 hex digits, and `<vault id>.device`, a device key.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use twinkeep_engine::env::Entropy;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::DeviceKey;
use twinkeep_engine::vault::device::DEVICE_KEY_LEN;
use zeroize::Zeroizing;

use crate::error::{Code, told};

/// A machine key, wiped when dropped.
pub type MachineKey = Zeroizing<[u8; 32]>;

/// The folder of machine keys in the config folder.
pub fn folder(config_dir: &Path) -> PathBuf {
    config_dir.join("keys")
}

/// The key kept for a vault; `None` when there is none.
///
/// # Errors
/// The file cannot be read or is no key.
pub fn read(folder: &Path, vault: VaultId) -> anyhow::Result<Option<MachineKey>> {
    let path = path_of(folder, vault);
    let mut text = Zeroizing::new(String::with_capacity(128));
    match File::open(&path).and_then(|file| file.take(128).read_to_string(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot read the machine key {}", path.display()))?,
    };
    let digits = text.trim_end().as_bytes();
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits).map(Zeroizing::new);
    match bytes.ok().and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok()) {
        Some(key) => Ok(Some(Zeroizing::new(key))),
        None => Err(told(Code::WrongKey, format!("{} is not a machine key of 64 hex digits", path.display()))),
    }
}

/// The device key kept for a vault; `None` when there is none.
///
/// # Errors
/// The file cannot be read or is no device key.
pub fn read_device(folder: &Path, vault: VaultId) -> anyhow::Result<Option<DeviceKey>> {
    let path = folder.join(format!("{}.device", vault.to_hex()));
    if path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
        read_device_at(&path).map(Some)
    } else {
        Ok(None)
    }
}

/// The device key in a file.
///
/// # Errors
/// The file cannot be read or is no device key.
pub fn read_device_at(path: &Path) -> anyhow::Result<DeviceKey> {
    let failed = || format!("cannot use the device key {}", path.display());
    let mut bytes = Zeroizing::new(Vec::with_capacity(DEVICE_KEY_LEN + 1));
    File::open(path)
        .and_then(|file| file.take(DEVICE_KEY_LEN as u64 + 1).read_to_end(&mut bytes))
        .with_context(failed)?;
    DeviceKey::parse(&bytes).map_err(|error| told(Code::WrongKey, format!("{}: {error}", failed())))
}

/// A file that is to hold a key, made before there is a key to hold.
pub struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    /// Makes it, empty.
    ///
    /// # Errors
    /// There is a file already; the system refuses.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path)?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, file })
    }

    /// Fills it; when this returns it is durable.
    ///
    /// # Errors
    /// The system refuses.
    pub fn fill(mut self, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let done = self.file.write_all(bytes).and_then(|()| self.file.sync_all());
        done.and_then(|()| self.path.parent().map_or(Ok(()), sync_folder))
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(self.path)
    }

    /// Removes it: there is no key for it.
    pub fn discard(self) {
        // An empty file harms nobody.
        let _ = fs::remove_file(&self.path);
    }
}

/// A machine key as a file holds it.
pub fn line(key: &[u8; 32]) -> Zeroizing<String> {
    let mut line = Zeroizing::new(data_encoding::HEXLOWER.encode(key));
    line.push('\n');
    line
}

/// A new key, durable on disk before a vault is made that only it opens.
pub struct Pending {
    folder: PathBuf,
    path: PathBuf,
    key: MachineKey,
}

impl Pending {
    /// Draws a key and writes it aside.
    ///
    /// # Errors
    /// The folder or file cannot be made.
    pub fn write(folder: PathBuf, entropy: &dyn Entropy) -> anyhow::Result<Self> {
        let failed = || format!("cannot keep a machine key in {}", folder.display());
        make_folder(&folder)?;
        let mut key = Zeroizing::new([0; 32]);
        entropy.fill(&mut *key);
        let mut tail = [0; 8];
        entropy.fill(&mut tail);
        let path = folder.join(format!("new-{}.key", data_encoding::HEXLOWER.encode(&tail)));
        let line = line(&key);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).with_context(failed)?;
        file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)?;
        sync_folder(&folder).with_context(failed)?;
        Ok(Self { folder, path, key })
    }

    /// The key.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Gives the file the name of the vault that was made; returns its path.
    ///
    /// # Errors
    /// The file cannot be renamed; it stays under the name the error tells.
    pub fn keep(self, vault: VaultId) -> anyhow::Result<PathBuf> {
        let path = path_of(&self.folder, vault);
        let failed = || format!("cannot rename the machine key {} to {}", self.path.display(), path.display());
        fs::rename(&self.path, &path).and_then(|()| sync_folder(&self.folder)).with_context(failed)?;
        Ok(path)
    }

    /// Removes the file: no vault was made.
    pub fn discard(self) {
        // A key that opens nothing harms nobody.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the folder of keys, which nobody else may look into.
///
/// # Errors
/// The system refuses.
pub fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot keep a machine key in {}", folder.display());
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).with_context(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).with_context(failed),
        _ => Ok(()),
    }
}

/// Where the machine key to a vault is.
pub fn path_of(folder: &Path, vault: VaultId) -> PathBuf {
    folder.join(format!("{}.key", vault.to_hex()))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use twinkeep_engine::env::SystemEntropy;

    #[test]
    fn keys_come_back_and_nobody_else_reads_them() {
        let temp = tempfile::tempdir().unwrap();
        let keys = folder(&temp.path().join("twinkeep"));
        let vault = VaultId([7; 16]);
        assert!(read(&keys, vault).unwrap().is_none());
        let pending = Pending::write(keys.clone(), &SystemEntropy).unwrap();
        let key = *pending.key();
        let path = pending.keep(vault).unwrap();
        assert_eq!(*read(&keys, vault).unwrap().unwrap(), key);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&keys)), (0o600, 0o700));
        Pending::write(keys.clone(), &SystemEntropy).unwrap().discard();
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1);
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(66), &"a".repeat(200)] {
            fs::write(&path, bad).unwrap();
            assert!(read(&keys, vault).is_err(), "{bad}");
        }
    }
}
