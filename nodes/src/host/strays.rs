//! Folders of vaults that the office does not know.
//!
//! A vault's folder is made before the entry that makes it known, so a host that stops in between leaves one that nobody
//! has ever used: it is removed when the host starts. A folder with anything in it is never touched. It may be that the
//! log was put back from an older copy, and then it is all that is left of somebody's backups.

use super::ground::Ground;
use crate::tracker::registry::Registry;
use std::io::ErrorKind;
use twinkeep_engine::files::FilesError;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::{Place, Vault};

/// Removes those that were never used. Gives those that hold something.
pub fn clear(ground: &dyn Ground, registry: &Registry) -> Vec<VaultId> {
    let there = ground.vaults().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the folders of vaults");
        Vec::new()
    });
    // No entry takes a vault back, so the registry knows all there ever were.
    let strays = there.into_iter().filter(|id| registry.vault(id).is_none());
    strays.filter(|id| !is_cleared(ground, *id)).collect()
}

fn is_cleared(ground: &dyn Ground, id: VaultId) -> bool {
    match is_unused(&ground.vault(id)) {
        Ok(true) => match ground.remove_vault(id) {
            Ok(()) => {
                tracing::info!(vault = %id, "removed the folder of a vault that was never used");
                true
            }
            Err(error) => {
                tracing::warn!(vault = %id, %error, "cannot remove the folder of a vault that was never used");
                true
            }
        },
        Ok(false) => false,
        Err(error) => {
            tracing::warn!(vault = %id, %error, "cannot see what is in the folder of a vault that nobody knows");
            false
        }
    }
}

/// Whether nothing was ever put into a vault: there is nothing but what making one makes.
fn is_unused(place: &Place) -> Result<bool, FilesError> {
    for listed in list(place, "")? {
        if !Vault::MADE.contains(&&listed[..]) {
            return Ok(false);
        }
    }
    for dir in Vault::FILLED {
        if !list(place, dir)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list(place: &Place, dir: &str) -> Result<Vec<String>, FilesError> {
    match place.files.list(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => Ok(listed?.into_iter().map(|listed| listed.name).collect()),
    }
}
