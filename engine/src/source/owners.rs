//! From stat to the metadata of an entry; numbers of owners get their names.

use super::{FileKind, Stat, os};
use crate::branch::entry::{LinkId, Metadata, Owner, Xattr};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Names of users and groups, each asked for once. May be used by several threads.
#[derive(Default)]
pub struct OwnerNames {
    users: RwLock<HashMap<u32, Arc<[u8]>>>,
    groups: RwLock<HashMap<u32, Arc<[u8]>>>,
}

impl OwnerNames {
    /// Knows nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The user with this number; the name is empty when the system knows none.
    pub fn user(&self, uid: u32) -> Owner {
        owner(&self.users, uid, os::user_name)
    }

    /// The group with this number; the name is empty when the system knows none.
    pub fn group(&self, gid: u32) -> Owner {
        owner(&self.groups, gid, os::group_name)
    }
}

fn owner(known: &RwLock<HashMap<u32, Arc<[u8]>>>, id: u32, ask: impl FnOnce(u32) -> Option<Arc<[u8]>>) -> Owner {
    if let Some(name) = known.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
        return Owner { id, name: name.clone() };
    }
    let name = ask(id).unwrap_or_default();
    // Whoever was first wins, so that equal names stay one allocation.
    let name = known.write().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert(name).clone();
    Owner { id, name }
}

/// The metadata of an entry.
///
/// The read time is taken only `with_atime`; the identity only for files that have several names.
pub fn metadata(stat: &Stat, xattrs: Vec<Xattr>, owners: &OwnerNames, with_atime: bool) -> Metadata {
    let linked = stat.nlink > 1 && stat.kind != FileKind::Directory;
    Metadata {
        mode: stat.mode,
        user: owners.user(stat.uid),
        group: owners.group(stat.gid),
        mtime: stat.mtime,
        atime: with_atime.then_some(stat.atime),
        xattrs,
        link: linked.then_some(LinkId { device: stat.device, inode: stat.inode }),
    }
}
