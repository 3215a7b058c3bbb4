//! The versions of one file: what stood at a path, snapshot after snapshot, with equal ones told once.
//!
//! What always holds: machines are kept apart, for a path means another file on each. That a file is not there counts
//! only in a snapshot that was to hold it and is complete.

use super::diff::change;
use super::tree::entry_at;
use super::{ChangeKind, QueryError, Result};
use crate::branch::entry::{Entry, What};
use crate::env::Time;
use crate::id::ChunkId;
use crate::vault::{ChunkReader, SnapshotInfo};
use std::collections::HashMap;

/// What stood at the path in some snapshots that follow each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The machine.
    pub host: String,
    /// The first of the snapshots, and its time.
    pub first: (ChunkId, Time),
    /// The last of them.
    pub last: (ChunkId, Time),
    /// How many they are.
    pub snapshots: u64,
    /// What differs from the version before; [`ChangeKind::Added`] where there was none, [`ChangeKind::Removed`] where
    /// there is nothing now.
    pub change: ChangeKind,
    /// What is there.
    pub entry: Option<Entry>,
}

/// Gathers versions; snapshots come in the order of their times.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    list: Vec<Version>,
    /// Where the newest of each machine stands in the list.
    newest: HashMap<String, usize>,
}

impl Versions {
    /// Adds what [`version_in`] found.
    pub fn add(&mut self, info: &SnapshotInfo, entry: Option<Entry>) {
        let snapshot = &info.snapshot;
        let before = self.newest.get(&snapshot.host).and_then(|at| self.list.get_mut(*at));
        let change = match (before.as_ref().and_then(|version| version.entry.as_ref()), &entry) {
            (Some(old), Some(new)) => differs(old, new),
            (None, Some(_)) => Some(ChangeKind::Added),
            (Some(_), None) => Some(ChangeKind::Removed),
            (None, None) => None,
        };
        let now = (info.id, snapshot.time);
        match (change, before) {
            (None, Some(version)) => {
                version.last = now;
                version.snapshots += 1;
            }
            // Before it came it is not worth a word that it was not there.
            (None, None) => {}
            (Some(change), _) => {
                self.newest.insert(snapshot.host.clone(), self.list.len());
                let host = snapshot.host.clone();
                self.list.push(Version { host, first: now, last: now, snapshots: 1, change, entry });
            }
        }
    }

    /// All versions by the time of their first snapshot.
    pub fn list(&self) -> &[Version] {
        &self.list
    }
}

/// A folder is another one when something in it, or below, is.
fn differs(old: &Entry, new: &Entry) -> Option<ChangeKind> {
    match (&old.what, &new.what) {
        (What::Directory(old), What::Directory(new)) if old != new => Some(ChangeKind::Content),
        _ => change(old, new),
    }
}

/// What stands at an absolute path in a snapshot: something, nothing (`Some(None)`), or, where the snapshot cannot tell
/// because it was not to hold the path or was interrupted, `None`.
///
/// # Errors
/// A folder on the way cannot be read.
pub fn version_in(reader: &ChunkReader, info: &SnapshotInfo, path: &[u8]) -> Result<Option<Option<Entry>>> {
    match entry_at(reader, info, path) {
        Ok((_, entry)) => Ok(entry.map(Some)),
        Err(QueryError::NotFound { .. } | QueryError::NotDirectory { .. }) => {
            let snapshot = &info.snapshot;
            let is_covered = snapshot.paths.iter().any(|kept| holds(kept, path));
            Ok((is_covered && !snapshot.partial).then_some(None))
        }
        Err(error) => Err(error),
    }
}

/// Whether `path` is `folder` or lies below it.
fn holds(folder: &[u8], path: &[u8]) -> bool {
    let folder = folder.strip_suffix(b"/").unwrap_or(folder);
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::World;
    use super::*;

    #[test]
    fn paths_below_folders() {
        let check =
            |folder: &str, path: &str, expected| assert_eq!(holds(folder.as_bytes(), path.as_bytes()), expected);
        check("/", "/a", true);
        check("/a", "/a", true);
        check("/a/", "/a/b", true);
        check("/a", "/ab", false);
        check("/a/b", "/a", false);
    }

    #[test]
    fn equal_versions_are_one() {
        let world = World::new();
        let path = world.source.path().join("d/f");
        let steps: [&dyn Fn(); 7] = [
            &|| world.write("other", b"1"),
            &|| world.write("d/f", b"first"),
            &|| world.write("other", b"2"),
            &|| world.write("d/f", b"second"),
            &|| std::fs::remove_dir_all(path.parent().unwrap()).unwrap(),
            &|| world.write("d", b"now a file"),
            &|| {
                std::fs::remove_file(path.parent().unwrap()).unwrap();
                world.write("d/f", b"again");
            },
        ];
        let (mut file, mut folder) = (Versions::default(), Versions::default());
        let reader = world.vault.reader().unwrap();
        let mut infos = Vec::new();
        for step in steps {
            step();
            let info = world.backup();
            for (versions, path) in [(&mut file, &*path), (&mut folder, path.parent().unwrap())] {
                let found = version_in(&reader, &info, path.to_str().unwrap().as_bytes()).unwrap().unwrap();
                versions.add(&info, found);
            }
            infos.push(info);
        }
        let told = |versions: &Versions| -> Vec<(ChangeKind, u64)> {
            versions.list().iter().map(|version| (version.change, version.snapshots)).collect()
        };
        use ChangeKind::{Added, Content, Removed, Type};
        assert_eq!(told(&file), [(Added, 2), (Content, 1), (Removed, 2), (Added, 1)]);
        assert_eq!((file.list()[0].first.0, file.list()[0].last.0), (infos[1].id, infos[2].id));
        assert_eq!(told(&folder), [(Added, 2), (Content, 1), (Removed, 1), (Added, 1), (Type, 1)]);
        // Another machine's file is another file, and what was not to be kept is not gone.
        let mut other = infos[1].clone();
        other.snapshot.host = "elsewhere".to_owned();
        file.add(&other, None);
        assert_eq!(file.list().len(), 4);
        assert_eq!(version_in(&reader, &infos[0], b"/nowhere/x").unwrap(), None);
        other.snapshot.partial = true;
        other.snapshot.tree = infos[0].snapshot.tree;
        assert_eq!(version_in(&reader, &other, path.to_str().unwrap().as_bytes()).unwrap(), None);
    }
}
