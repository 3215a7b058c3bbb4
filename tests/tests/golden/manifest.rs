//! What a fixture's snapshots hold, as text: taken from the file system when the fixture was made, compared with
//! what the vault gives back and with what a restore makes.
//!
//! One line an entry, fields parted by one space: kind (`f d l c b p s`), mode (octal), mtime (seconds.nanoseconds),
//! length or device numbers (`major:minor`) or `-`, BLAKE3 of the content or the target of a link or `-`,
//! attributes (`name=hex` with commas between) or `-`, path below the base. Bytes of paths and targets outside of
//! `!` to `~`, and `%`, are written `%xx`. A line `snapshot NAME` begins the entries of the next snapshot.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Attributes that fixtures have.
pub const ATTRIBUTES: [&str; 2] = ["user.empty", "user.note"];

/// Everything about an entry but its path: the line up to the last field.
pub type Entries = BTreeMap<Vec<u8>, String>;

/// The entries of one snapshot by path below the base.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub name: String,
    pub entries: Entries,
}

pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'!'..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(hex, 16).unwrap());
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

/// The line of an entry without its path.
pub struct Line {
    pub kind: char,
    pub mode: u32,
    pub mtime: (i64, u32),
    pub what: String,
    pub content: String,
    pub attributes: Vec<(String, Vec<u8>)>,
}

impl Line {
    pub fn text(&self) -> String {
        let hex = |value: &[u8]| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let attributes: Vec<_> = self.attributes.iter().map(|(name, value)| format!("{name}={}", hex(value))).collect();
        let attributes = if attributes.is_empty() { "-".to_owned() } else { attributes.join(",") };
        let (secs, nanos) = self.mtime;
        format!("{} {:o} {secs}.{nanos:09} {} {} {attributes}", self.kind, self.mode, self.what, self.content)
    }
}

/// The hash of some content as manifests write it.
pub fn content_hash(len: u64, hash: blake3::Hash) -> String {
    if len == 0 { "-".to_owned() } else { hash.to_hex().to_string() }
}

/// Everything below `base`, as the file system has it.
pub fn of_folder(base: &Path) -> Entries {
    let mut entries = Entries::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(base.join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            let line = of_path(&base.join(&path));
            if line.kind == 'd' {
                folders.push(path.clone());
            }
            entries.insert(path.as_os_str().as_bytes().to_vec(), line.text());
        }
    }
    entries
}

fn of_path(path: &Path) -> Line {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let device = || format!("{}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let none = || "-".to_owned();
    let (kind, what, content) = if kind.is_file() {
        ('f', meta.len().to_string(), content_hash(meta.len(), blake3::hash(&fs::read(path).unwrap())))
    } else if kind.is_dir() {
        ('d', none(), none())
    } else if kind.is_symlink() {
        ('l', none(), escape(fs::read_link(path).unwrap().as_os_str().as_bytes()))
    } else if kind.is_char_device() {
        ('c', device(), none())
    } else if kind.is_block_device() {
        ('b', device(), none())
    } else if kind.is_fifo() {
        ('p', none(), none())
    } else {
        ('s', none(), none())
    };
    let attributes = match kind {
        'f' | 'd' => ATTRIBUTES.iter().filter_map(|name| Some(((*name).to_owned(), attribute(path, name)?))).collect(),
        _ => Vec::new(),
    };
    let mode = meta.mode() & 0o7777;
    Line { kind, mode, mtime: (meta.mtime(), meta.mtime_nsec() as u32), what, content, attributes }
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 1024];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..len].to_vec())
}

pub fn write(path: &Path, snapshots: &[Expected]) {
    let mut text = Vec::new();
    for Expected { name, entries } in snapshots {
        writeln!(text, "snapshot {name}").unwrap();
        for (path, line) in entries {
            writeln!(text, "{line} {}", escape(path)).unwrap();
        }
    }
    fs::write(path, text).unwrap();
}

pub fn read(path: &Path) -> Vec<Expected> {
    let mut all: Vec<Expected> = Vec::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        let (rest, last) = line.rsplit_once(' ').unwrap();
        match rest {
            "snapshot" => all.push(Expected { name: last.to_owned(), ..Expected::default() }),
            _ => drop(all.last_mut().unwrap().entries.insert(unescape(last), rest.to_owned())),
        }
    }
    all
}

pub fn os(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}
