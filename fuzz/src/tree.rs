//! A restore of a hostile tree: whatever names, links and orders it comes in, nothing outside the target changes.
//!
//! An input is a script of calls on the target, with names from a list of bad ideas or from the input itself. Beside
//! the target stands a folder of witnesses; it must be the same afterwards, to the last mode and time. Devices are
//! left out, as a fuzzer that runs as root would really make them.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use twinkeep_engine::target::{ApplyOptions, Collision, FileId, FoundKind, OwnerPolicy, Target, TargetDir, TargetFile};

use crate::branch::metadata;
use crate::input::{Input, short};

/// Most calls of a script.
const CALLS_MAX: usize = 48;

/// Longest file a script may make, bytes.
const LEN_MAX: u64 = 1 << 16;

/// Restores.
pub fn body(data: &[u8]) {
    let place = Place::new();
    let target = Target::create(&place.inside).expect("a folder of our own");
    let before = place.outside_now();
    let mut run = Run::new(&target, &place);
    let mut input = Input(data);
    for _ in 0..CALLS_MAX {
        if input.is_empty() {
            break;
        }
        run.call(&mut input);
    }
    drop(run);
    assert_eq!(place.outside_now(), before, "something outside the target changed");
    empty(&target);
    assert_eq!(place.outside_now(), before, "emptying the target changed something outside");
}

/// A folder with a target in it and witnesses beside it.
struct Place {
    _folder: TempDir,
    outside: PathBuf,
    inside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
        let (outside, inside) = (folder.path().join("outside"), folder.path().join("target"));
        std::fs::create_dir_all(outside.join("dir")).expect("a folder of our own");
        std::fs::write(outside.join("file"), b"witness").expect("a folder of our own");
        std::fs::write(outside.join("dir/file"), b"witness too").expect("a folder of our own");
        Self { _folder: folder, outside, inside }
    }

    /// Kind, mode, owner, names, times and content of everything outside.
    fn outside_now(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let parent = self.outside.parent().expect("it has one");
        lines.extend(names(parent));
        for path in ["", "file", "dir", "dir/file"].map(|name| self.outside.join(name)) {
            let found = path.symlink_metadata().expect("witnesses stay");
            let content = if found.is_file() { std::fs::read(&path).expect("witnesses stay") } else { Vec::new() };
            let changed = (found.ctime(), found.ctime_nsec(), found.mtime(), found.mtime_nsec());
            lines.push(format!("{path:?} {:o} {} {changed:?} {content:?}", found.mode(), found.nlink()));
            if found.is_dir() {
                lines.extend(names(&path));
            }
        }
        lines
    }
}

fn names(dir: &Path) -> Vec<String> {
    let read = std::fs::read_dir(dir).expect("it is there");
    let mut names: Vec<_> = read.map(|entry| format!("{:?}", entry.expect("it is there").file_name())).collect();
    names.sort();
    names
}

/// Removes all there is: also a test of removing.
fn empty(target: &Target) {
    let root = target.root();
    for name in root.names().expect("our own folder lists") {
        root.remove(&name).expect("what a restore made can be removed");
    }
    assert_eq!(root.names().expect("our own folder lists"), Vec::<Vec<u8>>::new());
}

/// A restore that is going on.
struct Run {
    dirs: Vec<TargetDir>,
    file: Option<TargetFile>,
    made: Option<(TargetDir, Vec<u8>, FileId)>,
    ideas: Vec<Vec<u8>>,
    options: ApplyOptions,
}

impl Run {
    fn new(target: &Target, place: &Place) -> Self {
        let outside = place.outside.as_os_str().as_bytes();
        let mut ideas: Vec<Vec<u8>> = [
            &b"a"[..],
            b"b",
            b"c",
            b"..",
            b".",
            b"",
            b"/",
            b"a/b",
            b"../outside",
            b"../../outside",
            b"../outside/file",
        ]
        .iter()
        .map(|name| name.to_vec())
        .collect();
        ideas.push(outside.to_vec());
        ideas.push([outside, b"/file"].concat());
        ideas.push([outside, b"/dir"].concat());
        ideas.push(b"dir".to_vec());
        ideas.push(b"file".to_vec());
        let options = ApplyOptions { owner: OwnerPolicy::Numbers, xattrs: true, ids: Arc::default() };
        Self { dirs: vec![target.root()], file: None, made: None, ideas, options }
    }

    fn name(&self, input: &mut Input<'_>) -> Vec<u8> {
        match input.u8() {
            255 => input.short().to_vec(),
            choice => self.ideas[usize::from(choice) % self.ideas.len()].clone(),
        }
    }

    /// One call; whether it succeeds is its own business.
    fn call(&mut self, input: &mut Input<'_>) {
        let call = input.u8() % 16;
        let dir = self.dirs[self.dirs.len() - 1].clone();
        match call {
            0 | 1 => {
                let collision = if call == 0 { Collision::Refuse } else { Collision::Replace };
                self.dirs.extend(dir.enter_or_create(&self.name(input), collision));
            }
            2 => self.dirs.extend(dir.enter(&self.name(input)).ok().flatten()),
            3 => drop((self.dirs.len() > 1).then(|| self.dirs.pop())),
            4 => {
                let (name, to) = (self.name(input), self.name(input));
                self.made = dir.symlink(&name, &to).ok().map(|node| (dir, name, node.id())).or(self.made.take());
            }
            5 | 6 => {
                let name = self.name(input);
                let file = if call == 5 { dir.replace(&name) } else { dir.open_existing(&name) };
                if let Ok(file) = file {
                    self.made = file.id().ok().map(|id| (dir, name, id));
                    self.file = Some(file);
                }
            }
            7 => self.write(input),
            8 => {
                let name = self.name(input);
                if let Some((from, from_name, id)) = &self.made {
                    let _ = dir.hard_link(&name, from, from_name, *id);
                }
            }
            9 => drop(dir.fifo(&self.name(input))),
            10 => drop(dir.remove(&self.name(input))),
            11 => {
                let meta = metadata(input);
                if let Some(file) = &self.file {
                    let _ = file.apply(&meta, &self.options);
                }
            }
            12 => {
                let (name, meta) = (self.name(input), metadata(input));
                for kind in [FoundKind::Symlink, FoundKind::Fifo, FoundKind::File] {
                    if let Ok(Some(node)) = dir.existing_node(&name, kind) {
                        let _ = node.apply(&meta, &self.options);
                    }
                }
            }
            13 => drop(dir.apply_self(&metadata(input), &self.options)),
            14 => drop((dir.lookup(&self.name(input)), dir.symlink_target(&self.name(input)))),
            _ => drop(dir.names()),
        }
    }

    fn write(&self, input: &mut Input<'_>) {
        let (offset, bytes) = (input.u64(), input.short());
        let Some(file) = &self.file else { return };
        // Far offsets are refused by the engine or by the system; near ones are written.
        if offset < LEN_MAX || offset > i64::MAX as u64 {
            let _ = file.write_at(offset, bytes);
        }
        let _ = file.make_hole(offset, bytes.len() as u64);
        let _ = file.set_len(offset % LEN_MAX);
    }
}

/// Scripts of known ways out.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    // Positions in the list of ideas.
    let (a, b, up, up_outside, up_file, outside, outside_file) = (0, 1, 3, 8, 10, 11, 12);
    let (dir, file) = (14, 15);
    let write = |text: &[u8]| [&[7][..], &0_u64.to_le_bytes(), &short(text)].concat();
    let meta = |mode: u16| [&[0][..], &mode.to_le_bytes(), &[0; 22]].concat();
    let script = |calls: &[&[u8]]| calls.concat();
    vec![
        (
            "plain".into(),
            script(&[&[0, a], &[5, b], &write(b"hello"), &[11], &meta(0o4755), &[13], &meta(0o700), &[3]]),
        ),
        ("up".into(), script(&[&[0, up, 5, up, 4, up, a, 10, up, 0, 4, 0, 5, 5, 6]])),
        ("link-then-child".into(), script(&[&[4, a, outside], &[0, a], &[5, file], &write(b"gone")])),
        ("link-then-child-replace".into(), script(&[&[4, a, outside], &[1, a], &[5, file], &write(b"gone")])),
        ("link-then-file".into(), script(&[&[4, a, outside_file], &[6, a], &write(b"gone"), &[5, a], &write(b"new")])),
        ("link-up-then-child".into(), script(&[&[4, a, up_outside], &[2, a], &[10, file], &[10, a]])),
        ("link-then-meta".into(), script(&[&[4, a, up_file], &[12, a], &meta(0o7777), &[14, a, a]])),
        ("link-hard-linked".into(), script(&[&[4, a, outside_file], &[8, b], &[6, b], &write(b"gone")])),
        ("link-removed".into(), script(&[&[0, b], &[4, dir, up_outside], &[3], &[10, b]])),
        ("dir-becomes-link".into(), script(&[&[0, a], &[0, b], &[3, 3], &[10, a], &[4, a, outside], &[5, file]])),
        ("fifo".into(), script(&[&[9, a], &[6, a], &[5, a], &write(b"x"), &[12, a], &meta(0o600)])),
        ("deep".into(), [0, a].repeat(40)),
        ("own-name".into(), script(&[&[0, 255], &short(b"../outside"), &[5, 255], &short(b"x\0y"), &[15]])),
        (
            "far".into(),
            script(&[&[5, a], &[7], &u64::MAX.to_le_bytes(), &short(b"x"), &[7], &(1_u64 << 62).to_le_bytes()]),
        ),
        ("no-rights".into(), script(&[&[0, a], &[5, b], &[11], &meta(0), &[13], &meta(0), &[0, b], &[3], &[10, a]])),
    ]
}
