//! Places in snapshots: what `latest:/home/ann` means in a vault.

use std::ffi::OsString;

use twinkeep_engine::query::{self, QueryError, TreeRoot};
use twinkeep_engine::vault::{SnapshotInfo, Snapshots, Vault};

use crate::error::{Code, told};
use crate::names::{self, Name, SnapshotFilter, Spec};
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
        let all = self.all_snapshots(vault)?;
        let info = match self.forgotten(&spec.name, &all) {
            Some(info) => info,
            None => names::find(&spec.name, &all.list, filter, &self.cwd())?,
        };
        let root = self.resolve_path(vault, info, spec.path.as_deref().unwrap_or(b"/"))?;
        Ok((info.clone(), root))
    }

    /// A forgotten snapshot, where an id means one and none that is wanted: what is there can still be read.
    fn forgotten<'a>(&self, name: &Name, all: &'a Snapshots) -> Option<&'a SnapshotInfo> {
        let Name::Id(prefix) = name else { return None };
        let is_meant = |info: &&SnapshotInfo| info.id.to_hex().starts_with(prefix);
        if all.list.iter().any(|info| is_meant(&info)) {
            return None;
        }
        let found: Vec<&SnapshotInfo> = all.forgotten.iter().filter(is_meant).collect();
        let [one] = found[..] else { return None };
        let note = format!("snapshot {} is forgotten; `twinkeep undelete` brings it back", show::short(&one.id));
        self.screen.warn(None, &note);
        Some(one)
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
