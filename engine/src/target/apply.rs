//! Metadata onto an open file, in the order that keeps all of it.
//!
//! Owner first, as changing it takes away set-uid bits and capabilities. Then attributes that are not wanted, among
//! them an ACL inherited from the folder, then the mode, then the wanted attributes: an ACL refines the mode it
//! finds. Times last, as everything else may change them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use rustix::io::Errno;

use super::existing::{Found, FoundKind};
use super::linux::{self, Handle};
use crate::branch::entry::{Metadata, Owner, Xattr};

/// Where the owner of a restored file comes from. Without being root nothing is given away, whatever stands here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnerPolicy {
    /// The user and group of that name on this machine; where there is none, the number.
    Names,
    /// The number.
    Numbers,
    /// Whoever runs the restore.
    Nobody,
}

/// How metadata is set.
#[derive(Clone)]
pub struct ApplyOptions {
    /// Owner and group.
    pub owner: OwnerPolicy,
    /// Extended attributes, ACLs and capabilities among them. Without, those that are there stay.
    pub xattrs: bool,
    /// Names looked up so far.
    pub ids: Arc<OwnerIds>,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self { owner: OwnerPolicy::Names, xattrs: true, ids: Arc::default() }
    }
}

/// Something about a restored file is not as the vault has it. A warning; the rest was set.
#[derive(Debug)]
pub struct Shortfall {
    /// What: `owner`, `mode`, `set-uid bit`, `set-gid bit`, `attribute user.note`, `times`.
    pub what: String,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not restored: {}", self.what, self.error)
    }
}

/// Numbers of the users and groups of this machine, each name looked up once.
#[derive(Default)]
pub struct OwnerIds {
    users: Mutex<Ids>,
    groups: Mutex<Ids>,
}

/// Distinct owners are few; a vault that names more than this has them looked up again.
const IDS_MAX: usize = 4096;

type Ids = HashMap<Arc<[u8]>, Option<u32>>;

impl OwnerIds {
    /// The uid on this machine for a user of a vault.
    pub fn uid(&self, user: &Owner) -> u32 {
        let find = |name: &OsStr| uzers::get_user_by_name(name).map(|user| user.uid());
        Self::id(&self.users, user, find)
    }

    /// The gid on this machine for a group of a vault.
    pub fn gid(&self, group: &Owner) -> u32 {
        let find = |name: &OsStr| uzers::get_group_by_name(name).map(|group| group.gid());
        Self::id(&self.groups, group, find)
    }

    fn id(ids: &Mutex<Ids>, owner: &Owner, find: impl Fn(&OsStr) -> Option<u32>) -> u32 {
        if owner.name.is_empty() {
            return owner.id;
        }
        let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= IDS_MAX {
            ids.clear();
        }
        let known = ids.entry(owner.name.clone()).or_insert_with_key(|name| find(OsStr::from_bytes(name)));
        known.unwrap_or(owner.id)
    }
}

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;

/// Sets what `meta` says as far as we may; what we may not is returned.
///
/// What `is_bare` was just made and has no attributes yet.
pub(super) fn apply(
    handle: Handle<'_>,
    meta: &Metadata,
    options: &ApplyOptions,
    is_bare: bool,
) -> Result<Vec<Shortfall>, Errno> {
    let mut short = Vec::new();
    let wanted = wanted_owner(meta, options);
    let mut found = handle.found()?;
    if options.owner != OwnerPolicy::Nobody && (found.uid, found.gid) != wanted && linux::is_root() {
        note(&mut short, "owner", handle.set_owner(wanted.0, wanted.1));
        found = handle.found()?;
    }
    if options.xattrs && !is_bare {
        remove_unwanted(handle, &meta.xattrs, &mut short);
    }
    if found.kind != FoundKind::Symlink {
        let mode = safe_mode(meta.mode, wanted, &found, &mut short);
        note(&mut short, "mode", handle.set_mode(mode));
    }
    if options.xattrs {
        set_wanted(handle, &meta.xattrs, &mut short);
    }
    note(&mut short, "times", handle.set_times(meta.mtime, meta.atime));
    Ok(short)
}

fn wanted_owner(meta: &Metadata, options: &ApplyOptions) -> (u32, u32) {
    match options.owner {
        OwnerPolicy::Names => (options.ids.uid(&meta.user), options.ids.gid(&meta.group)),
        OwnerPolicy::Numbers | OwnerPolicy::Nobody => (meta.user.id, meta.group.id),
    }
}

/// The mode without the bits that would hand out the rights of somebody else than the file's owner of then.
fn safe_mode(mode: u32, wanted: (u32, u32), found: &Found, short: &mut Vec<Shortfall>) -> u32 {
    let mut mode = mode & 0o7777;
    // On folders they hand out nothing.
    if found.kind == FoundKind::Directory {
        return mode;
    }
    for (bit, is_same, what) in
        [(SET_UID, found.uid == wanted.0, "set-uid bit"), (SET_GID, found.gid == wanted.1, "set-gid bit")]
    {
        if mode & bit != 0 && !is_same {
            mode &= !bit;
            short.push(Shortfall { what: what.into(), error: io::Error::other("the owner is another one") });
        }
    }
    mode
}

/// Whether an attribute that is not wanted is removed. Others, labels above all, are the system's to set.
fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || [b"security.capability".as_slice(), b"system.posix_acl_access", b"system.posix_acl_default"].contains(&name)
}

fn remove_unwanted(handle: Handle<'_>, wanted: &[Xattr], short: &mut Vec<Shortfall>) {
    // Where they cannot be listed there are none, or setting the wanted ones will tell.
    for name in handle.xattr_names().unwrap_or_default() {
        if is_ours(&name) && !wanted.iter().any(|xattr| *xattr.name == *name) {
            note_xattr(short, &name, handle.remove_xattr(&name));
        }
    }
}

fn set_wanted(handle: Handle<'_>, wanted: &[Xattr], short: &mut Vec<Shortfall>) {
    for xattr in wanted {
        if xattr.name.contains(&0) {
            note_xattr(short, &xattr.name, Err(Errno::INVAL));
            continue;
        }
        let outcome = handle.set_xattr(&xattr.name, &xattr.value);
        // A label we may not set but that is right already is no shortfall.
        if outcome.is_err() && handle.xattr_of_len(&xattr.name, xattr.value.len()).as_deref() == Some(&*xattr.value) {
            continue;
        }
        note_xattr(short, &xattr.name, outcome);
    }
}

fn note_xattr(short: &mut Vec<Shortfall>, name: &[u8], outcome: Result<(), Errno>) {
    if let Err(errno) = outcome {
        short.push(Shortfall { what: format!("attribute {}", super::shown(name)), error: errno.into() });
    }
}

fn note(short: &mut Vec<Shortfall>, what: &str, outcome: Result<(), Errno>) {
    if let Err(errno) = outcome {
        short.push(Shortfall { what: what.into(), error: errno.into() });
    }
}
