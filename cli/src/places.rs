//! Places in snapshots: what `latest:/home/ann` means in a vault.

use std::ffi::OsString;

use twinkeep_engine::query::{self, QueryError, TreeRoot};
use twinkeep_engine::vault::{SnapshotInfo, Vault};

use crate::error::{Code, told};
use crate::names::{self, SnapshotFilter, Spec};
use crate::session::Run;
use crate::show;

impl Run {
    /// The snapshot and the place in it that a name means.
    pub fn resolve(
        &self,
        vault: &Vault,
        name: &OsString,
        filter: &SnapshotFilter,
    ) -> anyhow::Result<(SnapshotInfo, TreeRoot)> {
        let spec = Spec::parse(name, &self.zone)?;
        let list = self.snapshots(vault)?;
        let info = names::find(&spec.name, &list, filter, &self.cwd())?;
        let root = self.resolve_path(vault, info, spec.path.as_deref().unwrap_or(b"/"))?;
        Ok((info.clone(), root))
    }

    /// A place in a snapshot by its absolute path.
    pub fn resolve_path(&self, vault: &Vault, info: &SnapshotInfo, path: &[u8]) -> anyhow::Result<TreeRoot> {
        query::resolve_path(vault, info, path).map_err(|error| {
            let looking = format!("cannot find {} in snapshot {}", show::escaped(path), show::short(&info.id));
            match error {
                // Well said and not there, as an unknown snapshot is.
                QueryError::NotFound { .. } => told(Code::Failed, looking),
                error => anyhow::Error::new(error).context(looking),
            }
        })
    }
}
