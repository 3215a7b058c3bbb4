//! Random trees of everything a file system can hold.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use twinkeep_engine::env::Dice;

use super::raw;

/// How names of sockets end: noted in a backup, not made again.
pub const SOCKET: &str = ".a-socket";
/// How names of devices and pipes end.
pub const SPECIAL: &str = ".a-special";

const OWNERS: [u32; 6] = [0, 0, 1, 1000, 65_534, 4_000_000_001];

/// What a tree is to have.
#[derive(Clone, Copy, Default)]
pub struct Plan {
    /// Names, about.
    pub names: usize,
    /// A file of over 20 MiB.
    pub large: bool,
    /// A file of over 4 GiB, nearly all of it holes.
    pub huge_hole: bool,
    /// Names in one further folder.
    pub crowd: usize,
}

/// A tree being made.
pub struct Tree {
    /// Its top.
    pub root: PathBuf,
    /// Folders, the top among them.
    pub dirs: Vec<PathBuf>,
    /// Regular files.
    pub files: Vec<PathBuf>,
    /// Everything else that is no socket.
    pub others: Vec<PathBuf>,
    /// Sockets.
    pub sockets: usize,
    is_root: bool,
    counter: usize,
}

impl Tree {
    /// Grows a tree in the empty folder `root`.
    pub fn grow(root: &Path, plan: Plan, dice: &mut Dice) -> Self {
        let mut tree = Self {
            root: root.to_owned(),
            dirs: vec![root.to_owned()],
            files: Vec::new(),
            others: Vec::new(),
            sockets: 0,
            is_root: super::is_root(),
            counter: 0,
        };
        for _ in 0..plan.names {
            tree.add(dice);
        }
        if plan.large {
            let path = tree.new_path(dice, b"");
            fs::write(&path, content(dice, (20 << 20) + 12_345)).unwrap();
            tree.files.push(path);
        }
        if plan.huge_hole {
            tree.add_huge_hole(dice);
        }
        tree.add_crowd(plan.crowd, dice);
        tree.dress_all(dice);
        tree
    }

    /// Adds one name of a random kind.
    pub fn add(&mut self, dice: &mut Dice) {
        match dice.below(100) {
            0..12 => self.add_dir(dice),
            12..62 => self.add_file(dice),
            62..72 => self.add_sparse(dice),
            72..82 => self.add_symlink(dice),
            82..92 => self.add_link(dice),
            _ => self.add_special(dice),
        }
    }

    /// A name nobody has, in a random folder.
    pub fn new_path(&mut self, dice: &mut Dice, suffix: &[u8]) -> PathBuf {
        self.counter += 1;
        let dir = &self.dirs[dice.below(self.dirs.len())];
        raw::join(dir, &name(dice, self.counter, suffix))
    }

    fn add_dir(&mut self, dice: &mut Dice) {
        let path = self.new_path(dice, b"");
        // diff and rsync go by path, and those end at 4096 bytes.
        if path.as_os_str().len() > 3000 {
            return;
        }
        fs::create_dir(&path).unwrap();
        self.dirs.push(path);
    }

    fn add_file(&mut self, dice: &mut Dice) {
        let path = self.new_path(dice, b"");
        let len = match dice.below(20) {
            0..2 => 0,
            2..8 => 1 + dice.below(256),
            8..10 => 256 + dice.below(3),
            10..17 => 257 + dice.below(60_000),
            17..19 => dice.below(1 << 20),
            _ => (1 << 20) - 1 + dice.below(2 << 20),
        };
        fs::write(&path, content(dice, len)).unwrap();
        self.files.push(path);
    }

    fn add_sparse(&mut self, dice: &mut Dice) {
        let path = self.new_path(dice, b"");
        let file = File::create(&path).unwrap();
        let len = dice.below(12 << 20) as u64;
        for _ in 0..dice.below(4) {
            let at = if dice.one_in(3) { 0 } else { dice.below(len as usize + 1) as u64 };
            let len = 1 + dice.below(30_000);
            file.write_all_at(&content(dice, len), at).unwrap();
        }
        // Often beyond the last byte written, sometimes before it.
        file.set_len(len + dice.below(3) as u64 * 4096).unwrap();
        self.files.push(path);
    }

    fn add_huge_hole(&mut self, dice: &mut Dice) {
        let path = self.new_path(dice, b"");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"beyond four gibibytes", (4 << 30) + 77).unwrap();
        file.set_len((4 << 30) + (1 << 20)).unwrap();
        self.files.push(path);
    }

    fn add_symlink(&mut self, dice: &mut Dice) {
        let path = self.new_path(dice, b"");
        let target = match dice.below(6) {
            0 => PathBuf::from("nowhere/at\nall"),
            1 => PathBuf::from("/etc/passwd"),
            2 => PathBuf::from("/".to_owned() + &"long/".repeat(700)),
            3 => PathBuf::from(".."),
            4 => raw::join(Path::new("x"), b"\xff\xfe bytes"),
            _ => self.dirs[dice.below(self.dirs.len())].clone(),
        };
        symlink(target, &path).unwrap();
        self.others.push(path);
    }

    fn add_link(&mut self, dice: &mut Dice) {
        let from = match dice.one_in(4) {
            true => pick(dice, &self.others).cloned(),
            false => pick(dice, &self.files).cloned(),
        };
        let Some(from) = from else { return };
        let is_special = from.to_string_lossy().ends_with(SPECIAL);
        let path = self.new_path(dice, if is_special { SPECIAL.as_bytes() } else { b"" });
        if fs::hard_link(&from, &path).is_ok() {
            let list = if from.symlink_metadata().unwrap().is_file() { &mut self.files } else { &mut self.others };
            list.push(path);
        }
    }

    fn add_special(&mut self, dice: &mut Dice) {
        let kinds = if self.is_root { 4 } else { 2 };
        let (kind, device) = match dice.below(kinds) {
            0 => (FileType::Socket, (0, 0)),
            1 => (FileType::Fifo, (0, 0)),
            2 => (FileType::CharacterDevice, (1, 3 + dice.below(5) as u32)),
            _ => (FileType::BlockDevice, (259, dice.below(1 << 18) as u32)),
        };
        let is_socket = kind == FileType::Socket;
        let path = self.new_path(dice, if is_socket { SOCKET.as_bytes() } else { SPECIAL.as_bytes() });
        raw::make_node(&path, kind, device);
        match is_socket {
            true => self.sockets += 1,
            false => self.others.push(path),
        }
    }

    fn add_crowd(&mut self, count: usize, dice: &mut Dice) {
        if count == 0 {
            return;
        }
        let dir = self.new_path(dice, b"");
        fs::create_dir(&dir).unwrap();
        for at in 0..count {
            let bytes = if at % 50 == 0 { content(dice, 300) } else { at.to_string().into_bytes() };
            fs::write(dir.join(format!("{:x}-{at}", dice.throw())), bytes).unwrap();
        }
        self.dirs.push(dir);
    }

    /// Gives owners, modes, attributes and times to everything.
    fn dress_all(&mut self, dice: &mut Dice) {
        let all: Vec<PathBuf> =
            self.files.iter().chain(&self.others).chain(self.dirs.iter().skip(1)).cloned().collect();
        for path in &all {
            self.dress(path, dice);
        }
        // Times last: all of the above changes those of folders.
        for path in all.iter().chain([&self.root]) {
            age(path, dice);
        }
    }

    /// Gives one name an owner, a mode and attributes.
    pub fn dress(&self, path: &Path, dice: &mut Dice) {
        let kind = path.symlink_metadata().unwrap().file_type();
        if self.is_root && dice.one_in(2) {
            let owner = |dice: &mut Dice| Some(OWNERS[dice.below(OWNERS.len())]);
            lchown(path, owner(dice), owner(dice)).unwrap();
        }
        if !kind.is_symlink() && dice.one_in(2) {
            let mode = dice.below(0o10000) as u32;
            raw::set_mode(path, if self.is_root { mode } else { mode | 0o700 });
        }
        if dice.one_in(4) && (kind.is_file() || kind.is_dir()) {
            let len = if dice.one_in(3) { 0 } else { dice.below(900) };
            raw::set_xattr(path, b"user.note", &content(dice, len));
            raw::set_xattr(path, b"user.\xff odd\n", b"\0value");
        }
        if dice.one_in(6) && self.is_root {
            raw::set_xattr(path, b"trusted.note", &content(dice, 20));
            if kind.is_file() {
                raw::set_xattr(path, b"security.capability", &raw::CAPABILITY);
            }
        }
        if dice.one_in(12) && (kind.is_file() || kind.is_dir()) {
            raw::set_acl(path, false, "u:1000:rw,g:65534:r,u:1:-");
        }
        if dice.one_in(4) && kind.is_dir() {
            raw::set_acl(path, true, "u:1000:rwx,g:1:r-x,m::r-x");
        }
    }
}

/// Gives a name a random mtime, sometimes long ago or far ahead.
pub fn age(path: &Path, dice: &mut Dice) {
    let secs = match dice.below(8) {
        0 => -(dice.below(1 << 30) as i64),
        1 => -1,
        2 => 0,
        // ext4 counts up to 2446, others to 2486.
        3 => 10_000_000_000 + dice.below(5_000_000_000) as i64,
        _ => 1_000_000_000 + dice.below(700_000_000) as i64,
    };
    let nanos = if dice.one_in(4) { [0, 1, 999_999_999][dice.below(3)] } else { dice.below(1_000_000_000) as i64 };
    raw::set_mtime(path, secs, nanos);
}

/// Bytes that compress, or do not.
pub fn content(dice: &mut Dice, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    match dice.below(3) {
        0 => dice.fill(&mut bytes),
        1 => bytes.fill(dice.throw() as u8),
        _ => {
            let mut pattern = [0; 40];
            dice.fill(&mut pattern);
            for part in bytes.chunks_mut(pattern.len()) {
                part.copy_from_slice(&pattern[..part.len()]);
                let at = dice.below(40);
                pattern[at] = pattern[at].wrapping_add(1);
            }
        }
    }
    bytes
}

/// A name that no other `counter` gives.
fn name(dice: &mut Dice, counter: usize, suffix: &[u8]) -> Vec<u8> {
    let mut name = match dice.below(12) {
        0 => b"-rf --".to_vec(),
        1 => b"new\nline\r".to_vec(),
        2 => b"\x01\x1b[31m\x7f".to_vec(),
        3 => b"*?[a-z]{x,y}\\!".to_vec(),
        4 => " ..~#% $HOME `id` '\"".into(),
        5 => "übung 文件 🗄".into(),
        6 => {
            let mut bytes = vec![0; 1 + dice.below(60)];
            dice.fill(&mut bytes);
            bytes.retain(|byte| ![0, b'/'].contains(byte));
            bytes
        }
        7 => vec![b'n'; 255],
        8 => vec![0xff; 255],
        _ => b"name".to_vec(),
    };
    let unique = counter.to_string();
    name.truncate(255 - unique.len() - suffix.len());
    name.extend_from_slice(unique.as_bytes());
    name.extend_from_slice(suffix);
    name
}

/// One of a list; none of an empty one.
pub fn pick<'t, T>(dice: &mut Dice, list: &'t [T]) -> Option<&'t T> {
    list.get(dice.below(list.len()))
}
