//! Exclude patterns: the first lines of the input are patterns, the others paths to try them on.

use twinkeep_engine::source::filter::{Filter, FilterOptions};

use crate::input::Input;

/// Text that is looked at, bytes: who gives patterns is who runs the backup, so only speed for sane lengths counts.
const LEN_MAX: usize = 2048;

/// Builds a filter and asks it.
pub fn body(data: &[u8]) {
    let mut input = Input(&data[..data.len().min(LEN_MAX)]);
    let (patterns, choices) = (usize::from(input.u8() % 16), input.u8());
    let text = input.rest();
    let mut lines = text.split(|&byte| byte == b'\n');
    let pattern_lines = lines.by_ref().take(patterns).map(|line| String::from_utf8_lossy(line).into_owned());
    let patterns: Vec<String> = pattern_lines.collect();
    let split = usize::from(choices % 4).min(patterns.len());
    let options = FilterOptions {
        excludes: patterns[split..].to_vec(),
        iexcludes: patterns[..split].to_vec(),
        exclude_if_present: if choices & 8 != 0 { patterns.clone() } else { Vec::new() },
        exclude_caches: choices & 16 != 0,
        exclude_larger_than: Some(choices.into()),
        one_file_system: false,
        git_ignore: false,
    };
    let Ok(filter) = Filter::new(options.clone()) else { return };
    for path in lines.take(32) {
        ask(&filter, path, options.excludes.is_empty() && options.iexcludes.is_empty());
    }
}

fn ask(filter: &Filter, path: &[u8], none: bool) {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let (file, folder) = (filter.excludes(path, name, false), filter.excludes(path, name, true));
    assert!(!none || (!file && !folder), "without patterns nothing is left out");
    assert_eq!(file, filter.excludes(path, name, false));
    if !filter.needs_path() {
        assert_eq!(file, filter.excludes(b"/any/other/path", name, false), "only the name counts");
    }
}

/// Patterns of each form, wrong ones, and ones that are expensive elsewhere.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let input = |patterns: &[&str], paths: &[&str]| {
        [&[patterns.len() as u8, 0][..], [patterns, paths].concat().join("\n").as_bytes()].concat()
    };
    let paths = ["/home/ann/a.tmp", "/home/ann/.cache", "/srv/build/out/x.o", "a", "/", "", "/a/c/d/b"];
    let stars = "*a".repeat(40);
    let mut seeds = vec![
        ("forms".into(), input(&["*.tmp", "/home/*/.cache", "build/out", "a/**/b", "/srv/**", "logs/"], &paths)),
        ("take-back".into(), input(&["*.tmp", "!a.tmp", "!/home/**"], &paths)),
        ("classes".into(), input(&["[a-z]", "[!a-z]*", "{one,two}", "\\*", "?"], &paths)),
        ("open-class".into(), input(&["[a-"], &paths)),
        ("open-brace".into(), input(&["{a,{b,c"], &paths)),
        ("backslash".into(), input(&["a\\"], &paths)),
        ("dots".into(), input(&["a/../b"], &paths)),
        ("nothing".into(), input(&["!"], &paths)),
        ("none".into(), input(&[], &paths)),
        ("stars".into(), input(&[&stars, "**/**/**/**/x"], &[&"a".repeat(500)])),
        ("braces".into(), input(&["{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}"], &["abababababa"])),
        ("nested-braces".into(), input(&[&"{a,".repeat(60)], &paths)),
        ("nested-closed".into(), input(&[&("{a,".repeat(60) + "b" + &"}".repeat(60))], &paths)),
        ("wide".into(), input(&["ä*ö", "[ä-ö]"], &["/äxö", "/\u{1f600}"])),
    ];
    let mut tags = input(&["CACHEDIR.TAG:Signature", "a/b"], &paths);
    tags[1] = 8 | 16 | 2;
    seeds.push(("tags".into(), tags));
    seeds
}
