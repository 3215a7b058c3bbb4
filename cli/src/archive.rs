//! A tree as an archive, written as it is read: nothing is held in memory but the names of hard links.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use jiff::tz::TimeZone;
use tar::{EntryType, Header};
use twinkeep_engine::branch::entry::{Content, Entry, LinkId, What};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::query::{self, Step, TreeRoot};
use twinkeep_engine::vault::Vault;
use zip::write::SimpleFileOptions;

use crate::screen::Screen;
use crate::show;
use crate::verbs::walk::{self, Seen, WalkEntry};

/// The unit of a tar archive, bytes.
const TAR_BLOCK: u64 = 512;

/// GNU tar with mode, owners, times, symlinks, hard links, devices and names of any length.
pub fn tar(screen: &Screen, vault: &Vault, root: &TreeRoot, out: &mut dyn Write) -> anyhow::Result<Seen> {
    let mut archive =
        Tar { builder: tar::Builder::new(out), links: HashMap::new(), vault, progress: Progress::silent() };
    let mut visit = |found: &WalkEntry<'_>| {
        let Some(name) = name_in(root, found) else { return Ok(Step::Continue) };
        if !archive.add(name, found.entry).with_context(|| format!("cannot archive {}", show::escaped(found.path)))? {
            screen.warn(Some(found.path), "a socket is not kept in archives");
        }
        Ok(Step::Continue)
    };
    let seen = walk::each(screen, vault, root, &mut visit)?;
    archive.builder.finish()?;
    Ok(seen)
}

/// The path in the archive: below the folder asked for, or a lone file's own name.
fn name_in<'a>(root: &TreeRoot, found: &WalkEntry<'a>) -> Option<&'a [u8]> {
    let rest = found.path.strip_prefix(root.path.as_slice()).unwrap_or(found.path);
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    match (rest.is_empty(), &found.entry.what) {
        (false, _) => Some(rest),
        (true, What::Directory(_)) => None,
        (true, _) => found.path.rsplit(|&byte| byte == b'/').next().filter(|name| !name.is_empty()),
    }
}

struct Tar<'a, W: Write> {
    builder: tar::Builder<W>,
    /// Where a file with several names stands in the archive.
    links: HashMap<LinkId, Vec<u8>>,
    vault: &'a Vault,
    progress: std::sync::Arc<Progress>,
}

impl<W: Write> Tar<'_, W> {
    /// Adds one entry; `false` for what a tar cannot hold.
    fn add(&mut self, name: &[u8], entry: &Entry) -> anyhow::Result<bool> {
        let path = Path::new(OsStr::from_bytes(name));
        let mut header = header(entry);
        if let (Some(link), false) = (entry.meta.link, matches!(entry.what, What::Directory(_))) {
            if let Some(first) = self.links.get(&link) {
                header.set_entry_type(EntryType::Link);
                self.builder.append_link(&mut header, path, Path::new(OsStr::from_bytes(first)))?;
                return Ok(true);
            }
            self.links.insert(link, name.to_vec());
        }
        match &entry.what {
            What::File(content) => self.add_file(&mut header, path, content)?,
            What::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                self.builder.append_link(&mut header, path, Path::new(OsStr::from_bytes(target)))?;
            }
            What::Directory(_) => self.add_empty(&mut header, path, EntryType::Directory)?,
            What::Fifo => self.add_empty(&mut header, path, EntryType::Fifo)?,
            What::CharDevice { major, minor } => self.add_device(&mut header, path, EntryType::Char, *major, *minor)?,
            What::BlockDevice { major, minor } => {
                self.add_device(&mut header, path, EntryType::Block, *major, *minor)?
            }
            What::Socket => return Ok(false),
        }
        Ok(true)
    }

    fn add_empty(&mut self, header: &mut Header, path: &Path, kind: EntryType) -> io::Result<()> {
        header.set_entry_type(kind);
        self.builder.append_data(header, path, io::empty())
    }

    fn add_device(
        &mut self,
        header: &mut Header,
        path: &Path,
        kind: EntryType,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.add_empty(header, path, kind)
    }

    fn add_file(&mut self, header: &mut Header, path: &Path, content: &Content) -> anyhow::Result<()> {
        let len = content.len();
        header.set_entry_type(EntryType::Regular);
        header.set_size(len);
        // The builder writes the header alone; the content follows as the vault hands it out.
        self.builder.append_data(header, path, io::empty())?;
        let written = query::read_file(self.vault, content, self.builder.get_mut(), &self.progress)?;
        anyhow::ensure!(written == len, "the file has {written} bytes, its entry claims {len}");
        let padding = (TAR_BLOCK - len % TAR_BLOCK) % TAR_BLOCK;
        self.builder.get_mut().write_all(&[0; TAR_BLOCK as usize][..padding as usize])?;
        Ok(())
    }
}

fn header(entry: &Entry) -> Header {
    let meta = &entry.meta;
    let mut header = Header::new_gnu();
    header.set_mode(meta.mode);
    header.set_uid(meta.user.id.into());
    header.set_gid(meta.group.id.into());
    match u64::try_from(meta.mtime.secs) {
        Ok(secs) => header.set_mtime(secs),
        Err(_) => set_early_mtime(&mut header, meta.mtime.secs),
    }
    header.set_size(0);
    for (name, set) in [
        (&meta.user.name, Header::set_username as fn(&mut Header, &str) -> io::Result<()>),
        (&meta.group.name, Header::set_groupname),
    ] {
        if let Ok(name) = std::str::from_utf8(name) {
            // A name too long for the header is left out; the number stands there.
            let _ = set(&mut header, name);
        }
    }
    header
}

/// Times before 1970 as GNU tar has them: the number in two's complement, most significant byte first.
fn set_early_mtime(header: &mut Header, secs: i64) {
    let mtime = &mut header.as_old_mut().mtime;
    mtime.fill(0xff);
    mtime[4..].copy_from_slice(&secs.to_be_bytes());
}

/// The name in a zip, which is text. Bytes that are none are written `%FF`, so that different names stay different.
fn zip_name(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for part in name.utf8_chunks() {
        text.push_str(part.valid());
        part.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

/// Zip with modes, times and symlinks; names that are not UTF-8 are made so with a warning, other kinds of entries are warned about.
pub fn zip(screen: &Screen, vault: &Vault, root: &TreeRoot, out: &mut dyn Write) -> anyhow::Result<Seen> {
    let progress = Progress::silent();
    let mut archive = zip::ZipWriter::new_stream(out);
    let mut visit = |found: &WalkEntry<'_>| {
        let Some(name) = name_in(root, found) else { return Ok(Step::Continue) };
        let failed = || format!("cannot archive {}", show::escaped(found.path));
        let text = zip_name(name);
        if text.as_bytes() != name {
            let told = show::escaped(text.as_bytes());
            screen.warn(Some(found.path), &format!("its name is no text, it stands in the zip as {told}"));
        }
        let options = zip_options(found.entry);
        match &found.entry.what {
            What::File(content) => {
                archive.start_file(text, options.large_file(content.len() >= u32::MAX.into())).with_context(failed)?;
                query::read_file(vault, content, &mut archive, &progress).with_context(failed)?;
            }
            What::Directory(_) => archive.add_directory(text, options).with_context(failed)?,
            What::Symlink(target) => {
                archive.add_symlink(text, String::from_utf8_lossy(target), options).with_context(failed)?;
            }
            What::CharDevice { .. } | What::BlockDevice { .. } | What::Fifo | What::Socket => {
                screen.warn(Some(found.path), "a zip holds files, folders and symbolic links only");
            }
        }
        Ok(Step::Continue)
    };
    let seen = walk::each(screen, vault, root, &mut visit)?;
    archive.finish()?;
    Ok(seen)
}

fn zip_options(entry: &Entry) -> SimpleFileOptions {
    let options = SimpleFileOptions::default().unix_permissions(entry.meta.mode);
    match show::file_timestamp(entry.meta.mtime).and_then(zip_time) {
        Some(time) => options.last_modified_time(time),
        None => options,
    }
}

/// Zip keeps UTC here, and only from 1980 to 2107.
fn zip_time(time: jiff::Timestamp) -> Option<zip::DateTime> {
    let civil = time.to_zoned(TimeZone::UTC).datetime();
    let part = |value: i8| u8::try_from(value).ok();
    zip::DateTime::from_date_and_time(
        u16::try_from(civil.year()).ok()?,
        part(civil.month())?,
        part(civil.day())?,
        part(civil.hour())?,
        part(civil.minute())?,
        part(civil.second())?,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_times_read_back() {
        for secs in [-1, -315_619_200, i64::MIN] {
            let mut header = Header::new_gnu();
            set_early_mtime(&mut header, secs);
            let bytes = header.as_old().mtime;
            assert_eq!((bytes[0], i64::from_be_bytes(bytes[4..].try_into().unwrap())), (0xff, secs));
        }
    }

    #[test]
    fn zip_names_stay_different() {
        assert_eq!(zip_name("d/é".as_bytes()), "d/é");
        assert_eq!(zip_name(b"a\xff/\xfeb"), "a%FF/%FEb");
        assert_ne!(zip_name(b"\xff"), zip_name(b"\xfe"));
    }
}
