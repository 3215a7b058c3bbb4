//! What a tree holds, read from the disk or from a snapshot, and the comparison of the two.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use twinkeep_engine::branch::entry::{Content, Entry, What};
use twinkeep_engine::branch::{self, DirectoryReader, FileReader};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::vault::{ChunkReader, Vault};

/// What one name holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// A file and its bytes.
    File(Vec<u8>),
    /// A folder.
    Folder,
    /// A symbolic link and where it points.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// Something these trees do not have.
    Other,
}

/// One name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Whether it had other names.
    pub linked: bool,
    /// What it holds.
    pub held: Held,
}

/// All names by path below the source folder, which is `""`.
pub type Model = BTreeMap<Vec<u8>, Node>;

/// What could be read of a snapshot.
#[derive(Debug, Default)]
pub struct Reading {
    /// What was read, every byte of it.
    pub model: Model,
    /// Paths that could not be read, with the reason; for a folder nothing below it is in `model`.
    pub errors: Vec<(Vec<u8>, String)>,
}

/// Reads a tree from the disk.
pub fn of_disk(root: &Path) -> Model {
    let mut model = Model::new();
    add_disk(root, Vec::new(), &mut model);
    model
}

fn add_disk(path: &Path, name: Vec<u8>, model: &mut Model) {
    let meta = fs::symlink_metadata(path).expect("look at the source");
    let kind = meta.file_type();
    let held = if kind.is_dir() {
        for entry in fs::read_dir(path).expect("list the source") {
            let entry = entry.expect("list the source");
            add_disk(&entry.path(), below(&name, entry.file_name().as_bytes()), model);
        }
        Held::Folder
    } else if kind.is_symlink() {
        Held::Symlink(fs::read_link(path).expect("read a link").as_os_str().as_bytes().to_vec())
    } else if kind.is_file() {
        Held::File(fs::read(path).expect("read the source"))
    } else if kind.is_fifo() {
        Held::Fifo
    } else {
        Held::Other
    };
    let node = Node {
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        mtime: (meta.mtime(), meta.mtime_nsec() as u32),
        linked: meta.nlink() > 1 && !kind.is_dir(),
        held,
    };
    model.insert(name, node);
}

fn below(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir.is_empty() {
        true => name.to_vec(),
        false => [dir, b"/", name].concat(),
    }
}

/// Reads everything a snapshot holds below `source`, an absolute path.
pub fn of_snapshot(vault: &Vault, snapshot: &ChunkId, source: &[u8]) -> Reading {
    let mut reading = Reading::default();
    if let Err(error) = read_from_root(vault, snapshot, source, &mut reading) {
        reading.errors.push((Vec::new(), error));
    }
    reading
}

fn read_from_root(vault: &Vault, snapshot: &ChunkId, source: &[u8], reading: &mut Reading) -> Result<(), String> {
    let reader = vault.reader().map_err(|error| error.to_string())?;
    let told = |error: twinkeep_engine::vault::ReadError| error.to_string();
    let mut tree = branch::snapshot(&reader, snapshot).map_err(told)?.tree;
    let mut names = source.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        let found = branch::find(&reader, &tree, name).map_err(told)?;
        let entry = found.ok_or_else(|| format!("{} is not there", String::from_utf8_lossy(name)))?;
        let What::Directory(next) = entry.what else {
            return Err(format!("{} is no folder", String::from_utf8_lossy(name)));
        };
        tree = next;
        if names.peek().is_none() {
            read_entry(&reader, &entry, Vec::new(), reading);
        }
    }
    Ok(())
}

fn read_entry(reader: &ChunkReader, entry: &Entry, path: Vec<u8>, reading: &mut Reading) {
    let held = match &entry.what {
        What::File(content) => match read_content(reader, content) {
            Ok(bytes) => Held::File(bytes),
            Err(error) => {
                reading.errors.push((path, error));
                return;
            }
        },
        What::Directory(tree) => {
            let Err(error) = read_folder(reader, tree, &path, reading) else {
                reading.model.insert(path, node(entry, Held::Folder));
                return;
            };
            reading.errors.push((path, error));
            return;
        }
        What::Symlink(target) => Held::Symlink(target.to_vec()),
        What::Fifo => Held::Fifo,
        What::CharDevice { .. } | What::BlockDevice { .. } | What::Socket => Held::Other,
    };
    reading.model.insert(path, node(entry, held));
}

fn node(entry: &Entry, held: Held) -> Node {
    let meta = &entry.meta;
    Node {
        mode: meta.mode,
        uid: meta.user.id,
        mtime: (meta.mtime.secs, meta.mtime.nanos),
        linked: meta.link.is_some(),
        held,
    }
}

fn read_folder(reader: &ChunkReader, tree: &ChunkId, path: &[u8], reading: &mut Reading) -> Result<(), String> {
    for entry in DirectoryReader::new(reader, tree).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        read_entry(reader, &entry, below(path, &entry.name), reading);
    }
    Ok(())
}

fn read_content(reader: &ChunkReader, content: &Content) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut add = |len: u64, chunk: Option<ChunkId>| -> Result<(), String> {
        let Some(chunk) = chunk else {
            bytes.resize(bytes.len() + len as usize, 0);
            return Ok(());
        };
        let leaf = reader.leaf(&chunk).map_err(|error| error.to_string())?;
        bytes.extend_from_slice(&leaf);
        match leaf.len() as u64 == len {
            true => Ok(()),
            false => Err(format!("a leaf of {} bytes stands for {len}", leaf.len())),
        }
    };
    match content {
        Content::Inline(inline) => return Ok(inline.to_vec()),
        Content::One { len, chunk } => add(*len, Some(*chunk))?,
        Content::Pieces(pieces) => pieces.iter().try_for_each(|piece| add(piece.len, piece.chunk))?,
        Content::Tree { len, root } => {
            for piece in FileReader::new(reader, root, *len).map_err(|error| error.to_string())? {
                let (_, piece) = piece.map_err(|error| error.to_string())?;
                add(piece.len, piece.chunk)?;
            }
        }
    }
    Ok(bytes)
}

/// Holds what was read against what should be there: all of it, without errors.
pub fn same(expected: &Model, found: &Reading) -> Result<(), String> {
    if let Some((path, error)) = found.errors.first() {
        return Err(format!("{} cannot be read: {error}", text(path)));
    }
    honest(expected, found)
}

/// Holds what was read against what should be there: every name is there and equal, or an error names it or a
/// folder above it.
pub fn honest(expected: &Model, found: &Reading) -> Result<(), String> {
    for (path, node) in expected {
        match found.model.get(path) {
            Some(read) if read == node => {}
            Some(read) => return Err(format!("{} is {}, not {}", text(path), brief(read), brief(node))),
            None if found.errors.iter().any(|(at, _)| covers(at, path)) => {}
            None => return Err(format!("{} is missing in silence", text(path))),
        }
    }
    match found.model.keys().find(|path| !expected.contains_key(*path)) {
        Some(path) => Err(format!("{} was never there", text(path))),
        None => Ok(()),
    }
}

fn covers(above: &[u8], path: &[u8]) -> bool {
    above.is_empty() || path == above || (path.starts_with(above) && path.get(above.len()) == Some(&b'/'))
}

fn text(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

fn brief(node: &Node) -> String {
    let held = match &node.held {
        Held::File(bytes) => format!("a file of {} bytes, sum {}", bytes.len(), sum(bytes)),
        other => format!("{other:?}"),
    };
    format!("{held} (mode {:o}, uid {}, mtime {:?}, linked {})", node.mode, node.uid, node.mtime, node.linked)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, &byte| sum.rotate_left(5) ^ u64::from(byte))
}
