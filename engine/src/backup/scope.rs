//! Which part of the file system a backup was asked for, as a tree of names from the root down.

use std::collections::BTreeMap;

/// What is asked for below a folder.
pub(super) enum Scope {
    /// Everything.
    All,
    /// Only these names.
    Only(BTreeMap<Box<[u8]>, Scope>),
}

impl Scope {
    /// The same again, for a folder's own job.
    pub fn again(&self) -> Self {
        match self {
            Self::All => Self::All,
            Self::Only(only) => Self::Only(only.iter().map(|(name, scope)| (name.clone(), scope.again())).collect()),
        }
    }

    /// What these absolute paths ask for, seen from the root. A path below another adds nothing.
    pub fn of(paths: &[Vec<u8>]) -> Self {
        let mut root = Self::Only(BTreeMap::new());
        for path in paths {
            root.add(path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && **name != *b"."));
        }
        root
    }

    fn add<'p>(&mut self, mut names: impl Iterator<Item = &'p [u8]>) {
        match (self, names.next()) {
            (Self::All, _) => {}
            (this @ Self::Only(_), None) => *this = Self::All,
            (Self::Only(only), Some(name)) => {
                only.entry(name.into()).or_insert_with(|| Self::Only(BTreeMap::new())).add(names);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(scope: &Scope) -> String {
        match scope {
            Scope::All => "*".to_owned(),
            Scope::Only(only) => {
                let names =
                    only.iter().map(|(name, scope)| format!("{}{}", String::from_utf8_lossy(name), shown(scope)));
                format!("({})", names.collect::<Vec<_>>().join(" "))
            }
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
        check(&["/a", "/a/b"], "(a*)");
        check(&["/a/b/c", "/a"], "(a*)");
        check(&["/"], "*");
        check(&["/a//b/./c/"], "(a(b(c*)))");
        check(&[], "()");
    }
}
