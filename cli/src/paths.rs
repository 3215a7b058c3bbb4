//! Paths as typed made absolute: by their letters alone, or by where the system finds them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `path` under `cwd`, without `.`, `..`, doubled and trailing slashes. `..` takes away the component before it.
pub fn absolute(cwd: &[u8], path: &[u8]) -> Vec<u8> {
    let base: &[u8] = if path.starts_with(b"/") { b"" } else { cwd };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in base.split(|&byte| byte == b'/').chain(path.split(|&byte| byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut whole = Vec::with_capacity(base.len() + path.len() + 2);
    for part in parts {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    if whole.is_empty() {
        whole.push(b'/');
    }
    whole
}

/// `path` under `cwd` as the system goes there: symlinks among its folders are followed, one at its end is not, so a
/// link is backed up as a link; with a slash behind it, it means the folder it leads to. What is not there is made
/// absolute by its letters.
pub fn physical(cwd: &[u8], path: &[u8]) -> Vec<u8> {
    let typed = match path.starts_with(b"/") {
        true => path.to_vec(),
        false => [cwd, b"/", path].concat(),
    };
    let lexical = || absolute(cwd, path);
    let real = |path: &[u8]| fs::canonicalize(Path::new(OsStr::from_bytes(path))).ok();
    let end = typed.iter().rposition(|&byte| byte == b'/').unwrap_or_default();
    let (folder, name) = (&typed[..=end], &typed[end + 1..]);
    if matches!(name, b"" | b"." | b"..") {
        return real(&typed).map_or_else(lexical, |path| path.as_os_str().as_bytes().to_vec());
    }
    real(folder).map_or_else(lexical, |folder| folder.join(OsStr::from_bytes(name)).as_os_str().as_bytes().to_vec())
}

/// Each path once, in the order of first mention.
pub fn distinct(paths: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut seen = HashSet::new();
    paths.into_iter().filter(|path| seen.insert(path.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lexical() {
        let check = |path: &[u8], expected: &[u8]| assert_eq!(absolute(b"/home/ann", path), expected, "{path:?}");
        check(b"", b"/home/ann");
        check(b".", b"/home/ann");
        check(b"x//y/", b"/home/ann/x/y");
        check(b"../bob/./x", b"/home/bob/x");
        check(b"../../../..", b"/");
        check(b"/", b"/");
        check(b"/a/../b", b"/b");
        check(b"\xff", b"/home/ann/\xff");
    }

    #[test]
    fn links_on_the_way_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(base.join("real/dir")).unwrap();
        fs::write(base.join("real/file"), "x").unwrap();
        for (target, link) in
            [("real", "link"), ("real/dir", "deep"), ("nowhere", "dangling"), ("real/file", "to-file")]
        {
            std::os::unix::fs::symlink(target, base.join(link)).unwrap();
        }
        let base = base.as_os_str().as_bytes();
        let check = |path: &str, expected: &str| {
            let expected = [base, expected.as_bytes()].concat();
            assert_eq!(physical(base, path.as_bytes()), expected, "{path}");
            let whole = [base, b"/", path.as_bytes()].concat();
            assert_eq!(physical(b"/", &whole), expected, "{path}");
        };
        check("real/file", "/real/file");
        check("link", "/link");
        check("link/", "/real");
        check("link/.", "/real");
        check("link/file", "/real/file");
        check(".//link//dir", "/real/dir");
        check("deep/..", "/real");
        check("deep/../file", "/real/file");
        check("dangling", "/dangling");
        check("dangling/x", "/dangling/x");
        check("to-file", "/to-file");
        check("gone/x", "/gone/x");
        assert_eq!(physical(b"/", b"/"), b"/");
        assert_eq!(physical(b"/", b"."), b"/");
    }

    #[test]
    fn doubles_go() {
        let list = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(distinct(list(&["/b", "/a", "/b"])), list(&["/b", "/a"]));
    }
}
