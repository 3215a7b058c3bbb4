//! Which paths to back up: from the command line and from lists in files.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::paths;
use crate::screen::Screen;

/// Longest list of paths in one file, bytes.
const LIST_LEN_MAX: u64 = 1 << 30;

/// All paths named, as they were given.
pub fn named(args: &[OsString], lines_in: &[PathBuf], raw_in: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all: Vec<Vec<u8>> = args.iter().map(|path| path.as_bytes().to_vec()).collect();
    for path in lines_in {
        all.extend(lines(&read(path)?));
    }
    for path in raw_in {
        let bytes = read(path)?;
        all.extend(bytes.split(|&byte| byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec));
    }
    Ok(all)
}

/// The patterns of an exclude file: one a line, without blank lines and comments.
pub fn patterns(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

/// The paths made absolute, each once, without symlinks on the way to them; see [`paths::physical`].
pub fn absolute(cwd: &[u8], named: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    paths::distinct(named.iter().map(|path| paths::physical(cwd, path)).collect())
}

/// Paths, and how many of them are there.
pub struct Existing {
    /// All of them: those that are missing are the engine's to warn about.
    pub paths: Vec<Vec<u8>>,
    /// How many exist.
    pub present: usize,
}

/// Looks which paths exist; when none does each is a warning.
pub fn existing(screen: &Screen, paths: Vec<Vec<u8>>) -> Existing {
    let problem = |path: &Vec<u8>| std::fs::symlink_metadata(Path::new(OsStr::from_bytes(path))).err();
    let problems: Vec<_> = paths.iter().map(problem).collect();
    let present = problems.iter().filter(|problem| problem.is_none()).count();
    if present == 0 {
        for (path, problem) in paths.iter().zip(&problems) {
            screen.warn(Some(path), &problem.as_ref().map(ToString::to_string).unwrap_or_default());
        }
    }
    Existing { paths, present }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read the list of paths {}", path.display());
    let mut bytes = Vec::new();
    let len = match path == Path::new("-") {
        true => std::io::stdin().take(LIST_LEN_MAX + 1).read_to_end(&mut bytes),
        false => std::fs::File::open(path).and_then(|file| file.take(LIST_LEN_MAX + 1).read_to_end(&mut bytes)),
    }
    .with_context(failed)?;
    anyhow::ensure!(len as u64 <= LIST_LEN_MAX, "{}: it is longer than {LIST_LEN_MAX} bytes", failed());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let temp = tempfile::tempdir().unwrap();
        let (text, raw) = (temp.path().join("text"), temp.path().join("raw"));
        std::fs::write(&text, b"a\r\n\nb c\n# no comment").unwrap();
        std::fs::write(&raw, b"x\ny\0z").unwrap();
        let all = named(&["first".into()], &[text], &[raw]).unwrap();
        assert_eq!(all, [&b"first"[..], b"a", b"b c", b"# no comment", b"x\ny", b"z"]);
        assert_eq!(absolute(b"/w", vec![b"a".to_vec(), b"./a".to_vec(), b"/".to_vec()]), [&b"/w/a"[..], b"/"]);
        assert_eq!(patterns(" *.o \n# c\n\n!x").collect::<Vec<_>>(), ["*.o", "!x"]);
        assert!(named(&[], &[temp.path().join("none")], &[]).is_err());
    }
}
