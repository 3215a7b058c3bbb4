//! Paths as typed made absolute, by their letters alone: no symlink is followed, so a link is backed up as a link.

use std::collections::HashSet;

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
    fn doubles_go() {
        let list = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(distinct(list(&["/b", "/a", "/b"])), list(&["/b", "/a"]));
    }
}
