//! Which part of the file system a backup was asked for, as a tree of names from the root down.

use std::collections::BTreeMap;

/// What is asked for in a folder.
#[derive(Default)]
pub(super) struct Scope {
    /// Everything in it; else only what `asked` names.
    pub is_all: bool,
    /// Names in it that were given as sources of their own, or lead to such.
    pub asked: BTreeMap<Box<[u8]>, Scope>,
}

impl Scope {
    /// The same again, for a folder's own job.
    pub fn again(&self) -> Self {
        let asked = self.asked.iter().map(|(name, scope)| (name.clone(), scope.again())).collect();
        Self { is_all: self.is_all, asked }
    }

    /// What these absolute paths ask for, seen from the root. A path below another stays a source of its own: where
    /// other file systems are not entered, it may be on one.
    pub fn of(paths: &[Vec<u8>]) -> Self {
        let mut root = Self::default();
        for path in paths {
            let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && **name != *b".");
            let place = names.fold(&mut root, |scope, name| scope.asked.entry(name.into()).or_default());
            place.is_all = true;
        }
        root
    }

    /// What is asked for in the folder `name` of this one, and whether it was given as a source itself.
    pub fn below(&self, name: &[u8]) -> (Self, bool) {
        let mut below = self.asked.get(name).map(Self::again).unwrap_or_default();
        let is_source = below.is_all;
        below.is_all |= self.is_all;
        (below, is_source)
    }

    /// Whether something below a name was asked for, and not the name itself.
    pub fn goes_below(&self, name: &[u8]) -> bool {
        self.asked.get(name).is_some_and(|below| !below.is_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(scope: &Scope) -> String {
        let all = if scope.is_all { "*" } else { "" };
        let names =
            scope.asked.iter().map(|(name, scope)| format!("{}{}", String::from_utf8_lossy(name), shown(scope)));
        match names.collect::<Vec<_>>().join(" ") {
            names if names.is_empty() => all.to_owned(),
            names => format!("{all}({names})"),
        }
    }

    fn check(paths: &[&str], expected: &str) {
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        assert_eq!(shown(&Scope::of(&paths)), expected, "{paths:?}");
        assert_eq!(shown(&Scope::of(&paths).again()), expected);
    }

    #[test]
    fn paths_become_names_below_each_other() {
        check(&["/a/b", "/a/c", "/d"], "(a(b* c*) d*)");
        check(&["/a", "/a/b"], "(a*(b*))");
        check(&["/a/b/c", "/a"], "(a*(b(c*)))");
        check(&["/"], "*");
        check(&["/", "/home"], "*(home*)");
        check(&["/a//b/./c/"], "(a(b(c*)))");
        check(&[], "");
    }

    #[test]
    fn a_source_below_another_stays_one() {
        let top = Scope::of(&[b"/".to_vec(), b"/mnt/disk".to_vec()]);
        let (mnt, is_source) = top.below(b"mnt");
        assert!(mnt.is_all && !is_source && top.goes_below(b"mnt") && !mnt.goes_below(b"disk"));
        let (disk, is_source) = mnt.below(b"disk");
        assert!(disk.is_all && is_source);
        let (other, is_source) = mnt.below(b"other");
        assert!(other.is_all && !is_source && other.asked.is_empty());
    }
}
