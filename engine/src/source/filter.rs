//! What is left out of a backup on purpose.
//!
//! Patterns, one a string, tried against each entry of the tree; a folder left out is not entered, so nothing below
//! it can be brought back. Matching is on bytes.
//!
//! | pattern | leaves out |
//! |---|---|
//! | `*.tmp` | without `/`: every entry, at any depth, whose own name matches |
//! | `/home/*/.cache` | with `/` in front: entries with this absolute path |
//! | `build/out` | with `/` inside: entries whose path ends so, at any depth |
//! | `a/**/b` | `**` between slashes stands for any number of folders, none included |
//! | `/srv/**` | all that is in the folder, which itself stays |
//! | `logs/` | with `/` at the end: folders only |
//! | `!keep.tmp` | with `!` in front: takes back what an earlier pattern left out; the last match decides |
//!
//! `*` and `?` (one byte) do not match `/`; `[a-z]`, `[!a-z]` and `{one,two}` work; `\` takes the meaning from the
//! next character. Patterns without regard to case fold ASCII letters only; they are tried after the others.

use super::{DirHandle, FileKind, Result as SourceResult, Stat, os};
use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::io;
use std::sync::Arc;

/// The name of the file that marks a cache folder, and how that file begins.
const CACHE_TAG: (&[u8], &[u8; 43]) = (b"CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");

/// Longest `.gitignore` that is obeyed, bytes.
const GIT_IGNORE_LEN_MAX: u64 = 1 << 20;

/// What to leave out.
#[derive(Clone, Debug, Default)]
pub struct FilterOptions {
    /// Patterns.
    pub excludes: Vec<String>,
    /// Patterns without regard to case.
    pub iexcludes: Vec<String>,
    /// Leave out what is in folders with a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// `NAME` or `NAME:BEGINNING`: leave out what is in folders that hold such a file.
    pub exclude_if_present: Vec<String>,
    /// Leave out regular files longer than this, bytes.
    pub exclude_larger_than: Option<u64>,
    /// Do not enter other file systems than that of each source.
    pub one_file_system: bool,
    /// Obey `.gitignore` files: each holds for its folder and below.
    pub git_ignore: bool,
}

/// A rule cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A pattern that says nothing or cannot match anything.
    #[error("exclude pattern {pattern:?} {problem}")]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A pattern with a syntax error.
    #[error("exclude pattern {pattern:?} is not valid")]
    Syntax {
        /// As it was given.
        pattern: String,
        /// Where and why.
        #[source]
        source: globset::Error,
    },
    /// A tag file that is no plain file name.
    #[error("tag file {0:?} is not a file name")]
    Tag(String),
}

/// The rules, ready to be asked. May be used by several threads.
#[derive(Default)]
pub struct Filter {
    /// Patterns for an entry's own name.
    by_name: Patterns,
    /// Patterns for its whole path.
    by_path: Patterns,
    tags: Vec<Tag>,
    len_max: Option<u64>,
    one_file_system: bool,
    git_ignore: bool,
}

struct Tag {
    name: Box<[u8]>,
    /// How the file must begin; `None` when any kind of entry with this name will do.
    head: Option<Box<[u8]>>,
}

impl Filter {
    /// Prepares rules; an error names the one that is wrong.
    pub fn new(options: FilterOptions) -> Result<Self, FilterError> {
        let mut names = PatternsBuilder::default();
        let mut paths = PatternsBuilder::default();
        let cased = options.excludes.iter().map(|text| (text, false));
        let uncased = options.iexcludes.iter().map(|text| (text, true));
        for (rank, (text, ignore_case)) in cased.chain(uncased).enumerate() {
            let pattern = Pattern::parse(text)?;
            let list = if pattern.is_name { &mut names } else { &mut paths };
            list.add(text, pattern, rank, ignore_case)?;
        }
        let mut tags = Vec::new();
        if options.exclude_caches {
            tags.push(Tag { name: CACHE_TAG.0.into(), head: Some(CACHE_TAG.1.as_slice().into()) });
        }
        for text in &options.exclude_if_present {
            tags.push(Tag::parse(text)?);
        }
        Ok(Self {
            by_name: names.build()?,
            by_path: paths.build()?,
            tags,
            len_max: options.exclude_larger_than,
            one_file_system: options.one_file_system,
            git_ignore: options.git_ignore,
        })
    }

    /// Whether [`Self::excludes`] looks at the path at all; if not, any will do.
    pub fn needs_path(&self) -> bool {
        !self.by_path.set.is_empty()
    }

    /// Whether a pattern leaves an entry out. `path` is absolute and ends in `name`.
    pub fn excludes(&self, path: &[u8], name: &[u8], is_dir: bool) -> bool {
        let by_name = self.by_name.last_match(name, is_dir);
        let by_path = self.by_path.last_match(path, is_dir);
        // Of two matches the pattern that was given later decides; `None` is less than any.
        by_name.max(by_path).is_some_and(|(_, excludes)| excludes)
    }

    /// Whether an entry is a file too long to be kept.
    pub fn is_too_large(&self, stat: &Stat) -> bool {
        stat.kind == FileKind::File && self.len_max.is_some_and(|len_max| stat.size > len_max)
    }

    /// Whether a folder lies on another file system than the source it was reached from and is kept as an empty one.
    pub fn stops_at(&self, source: &Stat, folder: &Stat) -> bool {
        self.one_file_system && source.device != folder.device
    }

    /// The tag file that leaves out everything else in this folder, if there is one. Folder and tag file stay.
    ///
    /// An error means that a tag cannot be read: leave nothing out then.
    pub fn tag_in(&self, folder: &DirHandle) -> SourceResult<Option<&[u8]>> {
        for tag in &self.tags {
            let tagged = match &tag.head {
                Some(head) => folder.begins_with(&tag.name, head)?,
                None => exists(folder, &tag.name)?,
            };
            if tagged {
                return Ok(Some(&tag.name));
            }
        }
        Ok(None)
    }

    /// The `.gitignore` rules in force in a folder, given those of the folder above.
    ///
    /// `path` is the folder's absolute path. Lines that are not valid patterns are skipped, as git does; an error
    /// means that the file is there and cannot be read.
    pub fn enter(
        &self,
        above: Option<&Arc<GitRules>>,
        path: &[u8],
        folder: &DirHandle,
    ) -> SourceResult<Option<Arc<GitRules>>> {
        if !self.git_ignore {
            return Ok(None);
        }
        let Some(text) = read_git_ignore(folder)? else {
            return Ok(above.cloned());
        };
        let prefix_len = if path == b"/" { 1 } else { path.len() + 1 };
        Ok(Some(Arc::new(GitRules { above: above.cloned(), prefix_len, rules: parse_git_ignore(&text) })))
    }
}

fn exists(folder: &DirHandle, name: &[u8]) -> SourceResult<bool> {
    match folder.stat(name) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The rules of a `.gitignore` and of those above it.
pub struct GitRules {
    above: Option<Arc<GitRules>>,
    /// Bytes of the path that lie before what the rules look at.
    prefix_len: usize,
    rules: Gitignore,
}

impl Drop for GitRules {
    fn drop(&mut self) {
        // One by one: thousands of levels dropped by recursion would overflow the stack.
        let mut next = self.above.take();
        while let Some(mut rules) = next.and_then(Arc::into_inner) {
            next = rules.above.take();
        }
    }
}

impl GitRules {
    /// Whether the rules leave an entry out. `path` is absolute and lies below the folder of these rules.
    pub fn excludes(&self, path: &[u8], is_dir: bool) -> bool {
        let mut next = Some(self);
        while let Some(rules) = next {
            let below = path.get(rules.prefix_len..).unwrap_or_default();
            match rules.rules.matched(os::path_of(below), is_dir) {
                ignore::Match::Ignore(_) => return true,
                ignore::Match::Whitelist(_) => return false,
                ignore::Match::None => next = rules.above.as_deref(),
            }
        }
        false
    }
}

fn read_git_ignore(folder: &DirHandle) -> SourceResult<Option<Vec<u8>>> {
    const NAME: &[u8] = b".gitignore";
    // Git does not follow a symlink there either.
    if !folder.begins_with(NAME, b"")? {
        return Ok(None);
    }
    let file = folder.open_file(NAME)?;
    if file.stat().size > GIT_IGNORE_LEN_MAX {
        // Half a pattern could leave out more than the whole one.
        return Err(folder.dir().error("read", NAME, io::ErrorKind::FileTooLarge.into()));
    }
    let mut text = vec![0; file.stat().size as usize];
    let read = file.read_at(0, &mut text)?;
    text.truncate(read);
    Ok(Some(text))
}

fn parse_git_ignore(text: &[u8]) -> Gitignore {
    let mut builder = GitignoreBuilder::new("");
    for line in text.split(|&byte| byte == b'\n') {
        // Patterns of other bytes than UTF-8 cannot be expressed; they leave nothing out, which loses nothing.
        if let Ok(line) = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)) {
            let _ = builder.add_line(None, line);
        }
    }
    builder.build().unwrap_or_else(|_| Gitignore::empty())
}

impl Tag {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let (name, head) = match text.split_once(':') {
            Some((name, head)) => (name, Some(head.as_bytes().into())),
            None => (text, None),
        };
        if !crate::branch::entry::is_plain_name(name.as_bytes()) {
            return Err(FilterError::Tag(text.to_owned()));
        }
        Ok(Self { name: name.as_bytes().into(), head })
    }
}

/// A pattern taken apart.
struct Pattern {
    /// What globset is given: for the name, or for the whole path.
    glob: String,
    is_name: bool,
    excludes: bool,
    dirs_only: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let bad = |problem| FilterError::Pattern { pattern: text.to_owned(), problem };
        let (excludes, rest) = match text.strip_prefix('!') {
            Some(rest) => (false, rest),
            None => (true, text),
        };
        let is_absolute = rest.starts_with('/');
        let dirs_only = rest.ends_with('/');
        let components: Vec<&str> = rest.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if components.is_empty() {
            return Err(bad("names nothing"));
        }
        if components.contains(&"..") {
            return Err(bad("contains `..`, and paths here never do"));
        }
        if rest.contains('\0') {
            return Err(bad("contains a NUL, and names never do"));
        }
        let joined = components.join("/");
        let is_name = !is_absolute && components.len() == 1;
        let glob = match (is_absolute, is_name) {
            (_, true) => joined,
            (true, _) => format!("/{joined}"),
            (false, _) => format!("**/{joined}"),
        };
        Ok(Self { glob, is_name, excludes, dirs_only })
    }
}

/// Globs that are matched together, with what each means.
#[derive(Default)]
struct Patterns {
    set: GlobSet,
    meanings: Vec<Meaning>,
}

#[derive(Clone, Copy)]
struct Meaning {
    /// Place among all patterns given.
    rank: usize,
    excludes: bool,
    dirs_only: bool,
}

#[derive(Default)]
struct PatternsBuilder {
    globs: Vec<globset::Glob>,
    meanings: Vec<Meaning>,
}

impl PatternsBuilder {
    fn add(&mut self, text: &str, pattern: Pattern, rank: usize, ignore_case: bool) -> Result<(), FilterError> {
        let glob = GlobBuilder::new(&pattern.glob)
            .literal_separator(true)
            .backslash_escape(true)
            .case_insensitive(ignore_case)
            .build()
            .map_err(|source| FilterError::Syntax { pattern: text.to_owned(), source })?;
        self.globs.push(glob);
        self.meanings.push(Meaning { rank, excludes: pattern.excludes, dirs_only: pattern.dirs_only });
        Ok(())
    }

    fn build(self) -> Result<Patterns, FilterError> {
        let mut set = GlobSetBuilder::new();
        for glob in self.globs {
            set.add(glob);
        }
        let set = set.build().map_err(|source| FilterError::Syntax { pattern: "all together".to_owned(), source })?;
        Ok(Patterns { set, meanings: self.meanings })
    }
}

impl Patterns {
    /// Rank of the last pattern that matches, and whether it leaves out.
    fn last_match(&self, bytes: &[u8], is_dir: bool) -> Option<(usize, bool)> {
        if self.set.is_empty() {
            return None;
        }
        let candidate = Candidate::from_bytes(bytes);
        // Most entries match nothing, and to learn that is cheaper than to learn what matches.
        if !self.set.is_match_candidate(&candidate) {
            return None;
        }
        let matches = self.set.matches_candidate(&candidate);
        let meanings = matches.iter().rev().filter_map(|&at| self.meanings.get(at));
        meanings.filter(|meaning| is_dir || !meaning.dirs_only).map(|meaning| (meaning.rank, meaning.excludes)).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Dir;

    fn filter(excludes: &[&str], iexcludes: &[&str]) -> Result<Filter, FilterError> {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Filter::new(FilterOptions {
            excludes: texts(excludes),
            iexcludes: texts(iexcludes),
            ..FilterOptions::default()
        })
    }

    /// A path that ends in `/` is a folder.
    fn excludes(filter: &Filter, path: &str) -> bool {
        let is_dir = path.ends_with('/');
        let path = path.trim_end_matches('/');
        let name = path.rsplit('/').next().unwrap();
        filter.excludes(path.as_bytes(), name.as_bytes(), is_dir)
    }

    fn check(patterns: &[&str], out: &[&str], kept: &[&str]) {
        let filter = filter(patterns, &[]).unwrap();
        for path in out {
            assert!(excludes(&filter, path), "{patterns:?} must leave out {path}");
        }
        for path in kept {
            assert!(!excludes(&filter, path), "{patterns:?} must keep {path}");
        }
    }

    #[test]
    fn patterns_mean_what_the_table_says() {
        check(&[], &[], &["/a", "/a/b/"]);
        check(&["*.tmp"], &["/a.tmp", "/b/c/.tmp", "/b.tmp/"], &["/a.tmpx", "/a.tmp/b"]);
        check(
            &["/home/*/.cache"],
            &["/home/ann/.cache"],
            &["/home/ann/x/.cache", "/srv/home/ann/.cache", "/home/.cache"],
        );
        check(&["build/out"], &["/build/out", "/x/y/build/out/"], &["/build/x/out", "/xbuild/out", "/build/out/x"]);
        check(&["a/**/b"], &["/a/b", "/x/a/1/2/b"], &["/a/bb", "/b"]);
        check(&["/srv/**"], &["/srv/a", "/srv/a/b/"], &["/srv/", "/srvx/a"]);
        check(&["logs/"], &["/x/logs/"], &["/x/logs"]);
        check(&["/x/logs/"], &["/x/logs/"], &["/x/logs", "/y/x/logs/"]);
        check(&["*.tmp", "!keep.tmp"], &["/a.tmp"], &["/keep.tmp", "/x/keep.tmp"]);
        check(&["!keep.tmp", "*.tmp"], &["/keep.tmp"], &[]);
        check(&["*.tmp", "!/x/*"], &["/a.tmp", "/x/y/b.tmp"], &["/x/a.tmp"]);
        check(&["/x/*", "!*.rs", "logs/"], &["/x/a", "/x/logs/"], &["/x/a.rs", "/y/a", "/logs"]);
        check(&["[ab]?.{o,so}", "\\!x", "\\*"], &["/a1.o", "/bz.so", "/!x", "/*"], &["/c1.o", "/a.o", "/x", "/y"]);
        check(&["//a//./b/"], &["/a/b/"], &["/a/b", "/c/a/b/"]);
        check(&["/tmp"], &["/tmp", "/tmp/"], &["/x/tmp", "/tmp/x"]);
        let cased = filter(&[], &["*.JPG", "/Tmp/x"]).unwrap();
        assert!(excludes(&cased, "/a/B.jpg") && excludes(&cased, "/tMP/X") && !excludes(&cased, "/a.png"));
        let odd = filter(&["*.o"], &[]).unwrap();
        assert!(odd.excludes(b"/\xff\n/\xfe.o", b"\xfe.o", false));
        assert!(!odd.needs_path() && filter(&["/a"], &[]).unwrap().needs_path());
    }

    #[test]
    fn bad_patterns_are_named() {
        for bad in ["", "/", "!", "!/", "a/../b", "[a", "{a", "a\0b", "./"] {
            let text = filter(&[bad], &[]).err().unwrap_or_else(|| panic!("{bad:?}")).to_string();
            assert!(text.contains(&format!("{bad:?}")), "{text}");
        }
        for bad in ["", "a/b", ":x", ".."] {
            let options = FilterOptions { exclude_if_present: vec![bad.to_owned()], ..FilterOptions::default() };
            assert!(matches!(Filter::new(options), Err(FilterError::Tag(_))), "{bad:?}");
        }
    }

    #[test]
    fn tags_and_sizes_and_gitignore() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path();
        let dir = Dir::at_path(path.as_os_str().as_encoded_bytes()).unwrap();
        let handle = dir.open().unwrap();
        let filter = Filter::new(FilterOptions {
            exclude_caches: true,
            exclude_if_present: vec![".nobackup".to_owned(), ".tag:yes".to_owned()],
            exclude_larger_than: Some(3),
            git_ignore: true,
            one_file_system: true,
            ..FilterOptions::default()
        })
        .unwrap();
        let tag = || filter.tag_in(&handle).unwrap();
        let write = |name: &str, text: &[u8]| std::fs::write(path.join(name), text).unwrap();
        assert_eq!(tag(), None);
        write("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc5");
        write(".tag", b"no");
        assert_eq!(tag(), None);
        write(".tag", b"yes and more");
        assert_eq!(tag(), Some(&b".tag"[..]));
        write("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n# more");
        assert_eq!(tag(), Some(&b"CACHEDIR.TAG"[..]));
        std::fs::remove_file(path.join("CACHEDIR.TAG")).unwrap();
        std::os::unix::fs::symlink("nowhere", path.join(".nobackup")).unwrap();
        assert_eq!(tag(), Some(&b".nobackup"[..]));

        write("three", b"123");
        write("four", b"1234");
        assert!(!filter.is_too_large(&handle.stat(b"three").unwrap()));
        assert!(filter.is_too_large(&handle.stat(b"four").unwrap()));
        assert!(!filter.is_too_large(&handle.stat_self().unwrap()));
        let here = handle.stat_self().unwrap();
        let other = Stat { device: here.device + 1, ..here };
        assert!(filter.stops_at(&here, &other) && !filter.stops_at(&here, &here));

        let root = dir.path();
        assert!(filter.enter(None, &root, &handle).unwrap().is_none());
        write(".gitignore", b"# rules\r\n*.o\n/top\n!keep.o\nbuild/\n[bad\n\xff\n");
        let rules = filter.enter(None, &root, &handle).unwrap().unwrap();
        std::fs::create_dir(path.join("sub")).unwrap();
        write("sub/.gitignore", b"!sub.o\nonly\n");
        let sub = dir.child(b"sub");
        let below = filter.enter(Some(&rules), &sub.path(), &sub.open().unwrap()).unwrap().unwrap();
        let at = |rules: &GitRules, name: &str, is_dir| rules.excludes(&dir.path_of(name.as_bytes()), is_dir);
        assert!(at(&rules, "a.o", false) && at(&rules, "top", false) && at(&rules, "build", true));
        assert!(!at(&rules, "keep.o", false) && !at(&rules, "build", false) && !at(&rules, "only", false));
        assert!(at(&below, "sub/a.o", false) && at(&below, "sub/only", false));
        assert!(!at(&below, "sub/sub.o", false) && !at(&below, "sub/top", false));
    }
}
