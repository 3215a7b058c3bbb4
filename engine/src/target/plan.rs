//! Which names a restore may make: pure, so that any bytes can be thrown at it.

use crate::branch::entry::{Entry, is_plain_name};
use crate::limits::{NAME_LEN_MAX, TREE_DEPTH_MAX};

/// Why a name or path is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameFault {
    /// No bytes at all.
    #[error("the name is empty")]
    Empty,
    /// More than `NAME_LEN_MAX` bytes.
    #[error("the name is longer than {NAME_LEN_MAX} bytes")]
    TooLong,
    /// `.` or `..`.
    #[error("the name is `.` or `..`")]
    Dots,
    /// A `/` or a NUL.
    #[error("the name contains `/` or NUL")]
    Separator,
    /// The same name twice in a folder: the second would be made inside or through the first.
    #[error("the folder holds the name twice")]
    Twice,
    /// More than `TREE_DEPTH_MAX` levels.
    #[error("the path has more than {TREE_DEPTH_MAX} levels")]
    TooDeep,
}

/// Accepts a name that is one component and leads nowhere else.
pub fn safe_name(name: &[u8]) -> Result<(), NameFault> {
    if is_plain_name(name) {
        return Ok(());
    }
    Err(match name {
        b"" => NameFault::Empty,
        b"." | b".." => NameFault::Dots,
        _ if name.len() > NAME_LEN_MAX => NameFault::TooLong,
        _ => NameFault::Separator,
    })
}

/// Accepts a path below the target given by its components; the empty path is the target itself.
pub fn safe_components<N: AsRef<[u8]>>(names: &[N]) -> Result<(), NameFault> {
    safe_depth(names.len())?;
    names.iter().try_for_each(|name| safe_name(name.as_ref()))
}

/// Accepts a depth, counted from the target, whose depth is 0.
pub fn safe_depth(depth: usize) -> Result<(), NameFault> {
    if depth > TREE_DEPTH_MAX { Err(NameFault::TooDeep) } else { Ok(()) }
}

/// Checks the entries of one folder in the order they stand in, a few or all at a time.
///
/// Entries stand in ascending order of their names, so a name that is not above the last one comes twice.
#[derive(Default, Debug)]
pub struct Siblings {
    last: Vec<u8>,
}

impl Siblings {
    /// Accepts `entry` as the next one.
    pub fn next(&mut self, entry: &Entry) -> Result<(), NameFault> {
        self.next_name(&entry.name)
    }

    /// Accepts `name` as the next one.
    pub fn next_name(&mut self, name: &[u8]) -> Result<(), NameFault> {
        safe_name(name)?;
        // A plain name is never empty, so the first one is above the empty start.
        if name <= self.last.as_slice() {
            return Err(NameFault::Twice);
        }
        self.last.clear();
        self.last.extend_from_slice(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = vec![b'n'; NAME_LEN_MAX + 1];
        let check = |name: &[u8], expected| assert_eq!(safe_name(name), expected, "{name:?}");
        check(b"", Err(NameFault::Empty));
        check(b".", Err(NameFault::Dots));
        check(b"..", Err(NameFault::Dots));
        check(b"/", Err(NameFault::Separator));
        check(b"/etc", Err(NameFault::Separator));
        check(b"a/b", Err(NameFault::Separator));
        check(b"../a", Err(NameFault::Separator));
        check(b"a\0", Err(NameFault::Separator));
        check(&long, Err(NameFault::TooLong));
        check(&long[1..], Ok(()));
        check(b"...", Ok(()));
        check(b"..\\a", Ok(()));
        check(b" ", Ok(()));
        check(b"\xff\n", Ok(()));
    }

    #[test]
    fn paths_and_siblings() {
        assert_eq!(safe_components::<&[u8]>(&[]), Ok(()));
        assert_eq!(safe_components(&[b"a".as_slice(), b"..", b"b"]), Err(NameFault::Dots));
        assert_eq!(safe_components(&vec![b"a"; TREE_DEPTH_MAX]), Ok(()));
        assert_eq!(safe_components(&vec![b"a"; TREE_DEPTH_MAX + 1]), Err(NameFault::TooDeep));

        let mut siblings = Siblings::default();
        for (name, expected) in [
            (b"a".as_slice(), Ok(())),
            (b"a", Err(NameFault::Twice)),
            (b"a.", Ok(())),
            (b"b", Ok(())),
            (b"a", Err(NameFault::Twice)),
            (b"..", Err(NameFault::Dots)),
            (b"c", Ok(())),
        ] {
            assert_eq!(siblings.next_name(name), expected, "{name:?}");
        }
    }
}
