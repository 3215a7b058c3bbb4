//! What a host stands on: its folder, or a twin of it in memory.
//!
//! ```text
//! host.toml        name and addresses; whoever runs the host may edit it
//! keys/            node.key, authority.key, answers.key: 32 secret bytes each, hex; readable by the owner alone
//! office/          the change log: log/, locks/
//! holders/         the map of holders, which can be made again
//! vaults/<id>/     one vault each, as on a machine alone
//! host.sock        for programs on this machine
//! ```

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use twinkeep_engine::files::Files;
use twinkeep_engine::files::os::OsFiles;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::kv::KvHome;
use twinkeep_engine::kv::lmdb::LmdbHome;
use twinkeep_engine::vault::Place;

/// Bytes of the disk a host is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// That a new file may take.
    pub free: u64,
    /// All there are.
    pub total: u64,
}

/// See the module.
pub trait Ground: Send + Sync {
    /// Where the change log is.
    fn office(&self) -> Arc<dyn Files>;
    /// Where the map of holders is.
    fn holders(&self) -> Arc<dyn KvHome>;
    /// Where a vault is, or is to be.
    fn vault(&self, id: VaultId) -> Place;
    /// Vaults that there are folders of, whatever is in them.
    ///
    /// # Errors
    /// They cannot be listed.
    fn vaults(&self) -> io::Result<Vec<VaultId>>;
    /// Removes a vault's folder and all that is in it.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove_vault(&self, id: VaultId) -> io::Result<()>;
    /// The disk.
    fn space(&self) -> Space;
}

/// A folder of this machine.
pub struct Folder(pub PathBuf);

impl Folder {
    /// The socket for programs on this machine.
    pub fn socket(data: &Path) -> PathBuf {
        data.join("host.sock")
    }

    fn vault_path(&self, id: VaultId) -> PathBuf {
        self.0.join("vaults").join(id.to_hex())
    }
}

/// Bytes of the disk that a path is on; nothing where it cannot be told.
pub fn space(path: &Path) -> Space {
    let Ok(stat) = rustix::fs::statvfs(path) else { return Space::default() };
    let block = stat.f_frsize;
    Space { free: stat.f_bavail.saturating_mul(block), total: stat.f_blocks.saturating_mul(block) }
}

impl Ground for Folder {
    fn office(&self) -> Arc<dyn Files> {
        Arc::new(OsFiles::new(self.0.join("office")))
    }

    fn holders(&self) -> Arc<dyn KvHome> {
        let folder = self.0.join("holders");
        // Whatever is in the way of it is said when the map is opened.
        let _ = std::fs::create_dir_all(&folder);
        Arc::new(LmdbHome::new(folder))
    }

    fn vault(&self, id: VaultId) -> Place {
        Place::folder(&self.vault_path(id))
    }

    fn vaults(&self) -> io::Result<Vec<VaultId>> {
        let entries = match fs::read_dir(self.0.join("vaults")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            found.extend(entry?.file_name().to_str().and_then(VaultId::from_hex));
        }
        found.sort();
        Ok(found)
    }

    fn remove_vault(&self, id: VaultId) -> io::Result<()> {
        fs::remove_dir_all(self.vault_path(id))
    }

    fn space(&self) -> Space {
        space(&self.0)
    }
}
