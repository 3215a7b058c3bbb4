//! The few system calls that trees are made with.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self as sys, AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// A capability set as the kernel stores it: `cap_net_raw+ep`.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Sets mtime, and atime to something fixed, of the name itself.
pub fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 },
        last_modification: Timespec { tv_sec: secs, tv_nsec: nanos },
    };
    sys::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Sets an attribute of the name itself; whether the file system took it.
pub fn set_xattr(path: &Path, name: &[u8], value: &[u8]) -> bool {
    sys::lsetxattr(path, name, value, XattrFlags::empty()).is_ok()
}

/// Makes a device, pipe or socket.
pub fn make_node(path: &Path, kind: FileType, device: (u32, u32)) {
    sys::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), sys::makedev(device.0, device.1)).unwrap();
}

/// Changes the mode; nothing happens to symbolic links.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    if !path.symlink_metadata().unwrap().is_symlink() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Runs `setfacl` with `entries`; whether there is one and it worked.
pub fn set_acl(path: &Path, default: bool, entries: &str) -> bool {
    let mut command = std::process::Command::new("setfacl");
    if default {
        command.arg("-d");
    }
    command.args(["-m", entries, "--"]).arg(path);
    command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A path and a name of any bytes below it.
pub fn join(dir: &Path, name: &[u8]) -> std::path::PathBuf {
    dir.join(std::ffi::OsStr::from_bytes(name))
}
