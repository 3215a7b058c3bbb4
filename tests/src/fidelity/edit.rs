//! Random changes to a tree, made by looking at what is there: works on a source and on a half restored target.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, lchown, symlink};
use std::path::{Path, PathBuf};

use twinkeep_engine::env::Dice;

use super::{grow, raw};

/// Everything below `root` that is there now, folders before what is in them.
pub fn listed(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        let mut names: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            if path.symlink_metadata().unwrap().is_dir() {
                stack.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// Makes `count` changes below `root`.
pub fn edit(root: &Path, count: usize, dice: &mut Dice) {
    for round in 0..count {
        let all = listed(root);
        let Some(path) = grow::pick(dice, &all) else { return };
        change(path, round, dice);
    }
}

fn change(path: &Path, round: usize, dice: &mut Dice) {
    let kind = path.symlink_metadata().unwrap().file_type();
    let beside = raw::join(path.parent().unwrap(), format!("edited {round} {:x}", dice.throw()).as_bytes());
    let keeps_suffix = !kind.is_file() && !kind.is_dir() && !kind.is_symlink();
    match dice.below(14) {
        0 if kind.is_file() => {
            let len = dice.below(100_000);
            fs::write(path, grow::content(dice, len)).unwrap();
        }
        1 | 2 if kind.is_file() => overwrite(path, dice),
        3 if kind.is_file() => {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(dice.below(300_000) as u64).unwrap();
        }
        4 => raw::set_mode(path, 0o700 | dice.below(0o10000) as u32),
        5 if super::is_root() => lchown(path, Some(dice.below(3) as u32), Some(dice.below(3) as u32)).unwrap(),
        6 => grow::age(path, dice),
        7 if kind.is_file() || kind.is_dir() => {
            raw::set_xattr(path, b"user.edited", &grow::content(dice, 30));
        }
        8 if !keeps_suffix => fs::rename(path, beside).unwrap(),
        9 => remove(path),
        10 => {
            remove(path);
            fs::create_dir(path).unwrap();
            fs::write(path.join("in it"), b"was something else").unwrap();
        }
        11 if !keeps_suffix => {
            remove(path);
            symlink("/etc", path).unwrap();
        }
        12 if kind.is_file() => fs::hard_link(path, beside).unwrap(),
        _ => {
            let len = dice.below(3000);
            fs::write(beside, grow::content(dice, len)).unwrap();
        }
    }
}

fn overwrite(path: &Path, dice: &mut Dice) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len().min(1 << 22) as usize;
    let count = dice.below(2000);
    file.write_all_at(&grow::content(dice, count), dice.below(len + 1) as u64).unwrap();
}

fn remove(path: &Path) {
    match path.symlink_metadata().unwrap().is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}
