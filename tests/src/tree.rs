//! Small source trees on a real disk, made and changed from a seed.

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use twinkeep_engine::env::Dice;

/// How much there is in a tree.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Regular files.
    pub files: usize,
    /// Files in one folder of their own, tiny ones: past 128 its listing has several nodes.
    pub wide: usize,
    /// Longest ordinary file, bytes.
    pub len_max: usize,
}

impl Shape {
    /// For tests that read it thousands of times.
    pub const SMALL: Self = Self { files: 22, wide: 0, len_max: 6 << 10 };
    /// With every structure there is.
    pub const FULL: Self = Self { files: 40, wide: 300, len_max: 40 << 10 };
}

/// A tree that goes away when dropped.
pub struct SourceTree {
    dir: tempfile::TempDir,
    dice: Dice,
    tick: i64,
    made: usize,
    len_max: usize,
}

const FOLDERS: &[&str] = &["", "docs", "docs/old", "src", "src/deep/er", "empty"];

impl SourceTree {
    /// Makes a tree.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let dir = tempfile::Builder::new().prefix("twinkeep-source-").tempdir().expect("a folder for the source");
        let mut tree = Self { dir, dice: Dice(seed), tick: 0, made: 0, len_max: shape.len_max };
        for folder in FOLDERS {
            fs::create_dir_all(tree.root().join(folder)).expect("create a folder");
        }
        for _ in 0..shape.files {
            tree.add_file();
        }
        tree.add_odd_ones();
        for number in 0..shape.wide {
            tree.write(&format!("wide/{number:04}"), &number.to_le_bytes()[..number % 5]);
        }
        tree
    }

    /// The top folder.
    pub fn root(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// The top folder as the backup takes it.
    pub fn path(&self) -> Vec<u8> {
        self.dir.path().as_os_str().as_bytes().to_vec()
    }

    /// Some files change, go, come, are renamed, get other rights.
    pub fn change(&mut self) {
        for path in self.files() {
            match self.dice.below(12) {
                0 => fs::remove_file(&path).expect("remove"),
                1 => {
                    let other = path.with_extension(format!("moved{}", self.made));
                    fs::rename(&path, other).expect("rename");
                }
                2 | 3 => {
                    let content = self.content();
                    fs::write(&path, content).expect("write");
                    self.touch(&path);
                }
                4 => {
                    let more = self.content();
                    OpenOptions::new().append(true).open(&path).expect("open").write_all(&more).expect("append");
                    self.touch(&path);
                }
                5 => {
                    let mode = 0o600 | (self.dice.below(8) as u32);
                    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
                }
                6 => self.touch(&path),
                _ => {}
            }
            self.made += 1;
        }
        for _ in 0..3 {
            self.add_file();
        }
    }

    /// Writes a file; the folders above it are made.
    pub fn write(&mut self, path: &str, content: &[u8]) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("it is below the top")).expect("create folders");
        fs::write(&path, content).expect("write");
        self.touch(&path);
    }

    /// Every regular file, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        gather(&self.root(), &mut found);
        found.sort();
        found
    }

    fn add_file(&mut self) {
        let folder = FOLDERS[self.dice.below(FOLDERS.len() - 1)];
        let name = format!("{:04}-{:02x}", self.made, self.dice.below(256));
        self.made += 1;
        let content = self.content();
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        self.write(&path, &content);
    }

    /// One of each kind that is no plain file, and names that are no text.
    fn add_odd_ones(&mut self) {
        let root = self.root();
        symlink("docs/0001", root.join("link")).expect("symlink");
        symlink("/nowhere/at all", root.join("src/dangling")).expect("symlink");
        self.write(
            "docs/twin-a",
            b"a file with two names, and more than two hundred and fifty-six bytes would be better",
        );
        fs::hard_link(root.join("docs/twin-a"), root.join("src/twin-b")).expect("hard link");
        let odd = root.join(OsStr::from_bytes(b"src/\xff\xfe not text\n"));
        fs::write(&odd, b"odd").expect("write");
        self.touch(&odd);
        let sparse = root.join("docs/sparse");
        let mut file = File::create(&sparse).expect("create");
        file.write_all(&[7; 5000]).expect("write");
        file.seek(SeekFrom::Start(150_000)).expect("seek");
        file.write_all(&[9; 3000]).expect("write");
        file.set_len(200_000).expect("set length");
        drop(file);
        self.touch(&sparse);
        rustix::fs::mknodat(CWD, root.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("make a pipe");
    }

    /// Content of some kind: nothing, inline, one chunk, many; text or noise; sometimes what another file holds too.
    fn content(&mut self) -> Vec<u8> {
        let len = match self.dice.below(10) {
            0 => 0,
            1 => 1 + self.dice.below(16),
            2 => 200 + self.dice.below(60),
            3 | 4 => 257 + self.dice.below(800),
            5..=8 => 1024 + self.dice.below(self.len_max - 1024),
            _ => 24 << 10,
        };
        let mut bytes = vec![0; len];
        match self.dice.below(4) {
            // Repeats from file to file.
            0 => Dice(self.dice.below(3) as u64).fill(&mut bytes),
            1 => bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = b"the same words again "[at % 21]),
            _ => self.dice.fill(&mut bytes),
        }
        bytes
    }

    /// A time stamp nobody had before.
    fn touch(&mut self, path: &Path) {
        self.tick += 1;
        let nanos = (self.tick % 1000) * 1_000_003;
        let time = Timespec { tv_sec: 1_600_000_000 + self.tick * 7, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::empty()).expect("set a time stamp");
    }
}

/// Adds every regular file below a folder.
pub fn gather(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("list") {
        let entry = entry.expect("list");
        let kind = entry.file_type().expect("type");
        if kind.is_dir() {
            gather(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// Copies a folder with the files and folders in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create a folder");
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries {
        let entry = entry.expect("list");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("type").is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copy")),
        }
    }
}
