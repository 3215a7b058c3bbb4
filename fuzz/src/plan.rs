//! Which names a restore may make.

use std::path::{Component, Path};

use twinkeep_engine::branch::entry::is_plain_name;
use twinkeep_engine::limits::TREE_DEPTH_MAX;
use twinkeep_engine::target::plan::{Siblings, safe_components, safe_depth, safe_name};

use crate::input::{Input, short};

/// Checks names one by one, as siblings and as a path.
pub fn body(data: &[u8]) {
    let mut input = Input(data);
    let mut names = vec![data];
    while !input.is_empty() {
        names.push(input.short());
    }
    let names = &names;
    names.iter().for_each(|name| check(name));
    let mut siblings = Siblings::default();
    let accepted: Vec<_> = names.iter().filter(|name| siblings.next_name(name).is_ok()).collect();
    assert!(accepted.is_sorted_by(|one, two| one < two), "no name is accepted twice");
    assert!(accepted.iter().all(|name| is_plain_name(name)));
    let all = names.iter().all(|name| is_plain_name(name)) && names.len() <= TREE_DEPTH_MAX;
    assert_eq!(safe_components(names).is_ok(), all);
    assert_eq!(safe_depth(data.len()).is_ok(), data.len() <= TREE_DEPTH_MAX);
}

/// A name that is accepted stays in its folder, by the system's own rules for paths.
fn check(name: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let accepted = safe_name(name).is_ok();
    assert_eq!(accepted, is_plain_name(name));
    if accepted {
        let name = std::ffi::OsStr::from_bytes(name);
        let path = Path::new("/target").join(name);
        let parts: Vec<_> = path.components().collect();
        assert_eq!(parts, [Component::RootDir, Component::Normal("target".as_ref()), Component::Normal(name)]);
    }
}

/// Names that lead elsewhere, and some that only look so.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let list = |names: &[&[u8]]| names.iter().flat_map(|name| short(name)).collect::<Vec<u8>>();
    vec![
        ("plain".into(), list(&[b"a", b"b", b"c.txt"])),
        ("dots".into(), list(&[b".", b"..", b"...", b" .", b". "])),
        ("slashes".into(), list(&[b"/", b"a/b", b"../x", b"/etc/passwd", b"a/"])),
        ("nul".into(), list(&[b"a\0", b"\0", b"a\0/../b"])),
        ("twice".into(), list(&[b"a", b"a", b"A", b"a"])),
        ("empty".into(), list(&[b"", b""])),
        ("not-text".into(), list(&[b"\xff\xfe", b"\xc0\xaf", b"\xe2\x80\xae"])),
        ("long".into(), vec![b'n'; 1025]),
        ("windows".into(), list(&[b"..\\a", b"C:", b"NUL", b"a:b"])),
    ]
}
