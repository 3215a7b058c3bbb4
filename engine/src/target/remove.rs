//! Removing names and whole folders, for what stands in the target and not in the vault.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::dir::TargetDir;
use super::{Fault, Result, linux};

/// A folder being emptied.
struct Emptied {
    dir: TargetDir,
    name: Vec<u8>,
    /// Still to be removed, from the end.
    names: Vec<Vec<u8>>,
}

impl TargetDir {
    /// Removes `name`, a folder with everything in it; `false` if there was none. Links are removed, not followed.
    ///
    /// # Errors
    /// [`Fault::MountPoint`] where another file system begins: what is on it stays.
    pub fn remove(&self, name: &[u8]) -> Result<bool> {
        self.check("remove", name)?;
        let Some(first) = self.remove_or_enter(name)? else { return Ok(false) };
        let Removal::Enter(first) = first else { return Ok(true) };
        let mut stack = vec![first];
        while let Some(top) = stack.last_mut() {
            if let Some(name) = top.names.pop() {
                if let Some(Removal::Enter(below)) = top.dir.remove_or_enter(&name)? {
                    stack.push(below);
                }
                continue;
            }
            let Some(Emptied { dir, name, .. }) = stack.pop() else { break };
            // Closed before it goes.
            drop(dir);
            let parent = stack.last().map_or(self, |above| &above.dir);
            parent.remove_emptied(&name)?;
        }
        Ok(true)
    }

    fn remove_emptied(&self, name: &[u8]) -> Result<()> {
        let fd = self.fd()?;
        match linux::remove_dir(fd.as_fd(), name) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::BUSY) => Err(self.fail("remove", Some(name), Fault::MountPoint)),
            Err(errno) => Err(self.fail("remove", Some(name), errno)),
        }
    }

    /// Removes what is no folder, opens what is one; `None` if there is nothing.
    fn remove_or_enter(&self, name: &[u8]) -> Result<Option<Removal>> {
        let fd = self.fd()?;
        match linux::unlink(fd.as_fd(), name) {
            Ok(()) => return Ok(Some(Removal::Done)),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(self.fail("remove", Some(name), errno)),
        }
        let dir = self.enter_to_empty(fd.as_fd(), name)?;
        let names = dir.names()?;
        Ok(Some(Removal::Enter(Emptied { dir, name: name.to_vec(), names })))
    }

    fn enter_to_empty(&self, fd: BorrowedFd<'_>, name: &[u8]) -> Result<TargetDir> {
        if !linux::is_root() {
            // Ours but without rights, or not ours: opening it will tell.
            let _ = linux::open_up_dir(fd, name);
        }
        match linux::open_dir_unmounted(fd, name, self.id().device) {
            Ok(opened) => self.child(name, opened, false),
            Err(Errno::XDEV) => Err(self.fail("remove", Some(name), Fault::MountPoint)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(self.fail("remove", Some(name), Fault::Changed)),
            Err(errno) => Err(self.fail("remove", Some(name), errno)),
        }
    }
}

/// What became of a name.
enum Removal {
    Done,
    Enter(Emptied),
}
