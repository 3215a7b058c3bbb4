//! The fixtures with one damage each: what opening and checking say of it, that no wrong byte is read, and that
//! everything else comes back.

use super::*;
use twinkeep_engine::vault::ErrorClass;

/// When the damage is done: before there is an index, or with an index that knows what was there.
#[derive(Clone, Copy, PartialEq, Debug)]
enum When {
    Cold,
    Warm,
}

/// How a damaged vault behaves.
enum Then {
    /// It does not open, for this reason.
    Closed(ErrorClass),
    /// It opens; check says that a file is damaged whose name contains this.
    Named(&'static str),
    /// It opens; check says something about such a file, and that nothing is damaged.
    Noted(&'static str),
    /// It opens and nothing is wrong any more: what was damaged is made anew.
    Mended,
}

/// One damage.
struct Case {
    name: &'static str,
    fixture: &'static str,
    harm: fn(&Path),
    then: Then,
}

const LEAF: &str = ".leaf";
const BRANCH: &str = ".branch";

fn files_in(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with(ending));
    files.sort_by_key(|path| std::cmp::Reverse((fs::metadata(path).unwrap().len(), path.clone())));
    files
}

/// The largest pack of a kind.
fn pack(vault: &Path, ending: &str) -> PathBuf {
    files_in(&vault.join("packs"), ending).remove(0)
}

fn record(vault: &Path, count: u64) -> PathBuf {
    vault.join(format!("records/{count:016x}"))
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path, at: impl FnOnce(&[u8]) -> usize) {
    edit(path, |bytes| {
        let at = at(bytes);
        bytes[at] ^= 0x10;
    });
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The first frame of a pack, by `docs/format.md`: where it is, and how long.
fn first_frame(bytes: &[u8]) -> (usize, usize) {
    assert_eq!(&bytes[64..71], b"TKFRAME");
    (64, u32_at(bytes, 64 + 12))
}

/// Names a frame, and the directory of its pack, as if they had been written so.
fn rename_first_frame(bytes: &mut [u8]) {
    let (at, len) = first_frame(bytes);
    let name = *blake3::hash(&bytes[at..at + len]).as_bytes();
    bytes[at + len..at + len + 32].copy_from_slice(&name);
    let trailer = bytes.len() - 64;
    let directory = u64::from_le_bytes(bytes[trailer + 16..trailer + 24].try_into().unwrap()) as usize;
    bytes[directory + 12..directory + 44].copy_from_slice(&name);
    let check = *blake3::hash(&bytes[directory..trailer + 24]).as_bytes();
    bytes[trailer + 24..trailer + 56].copy_from_slice(&check);
}

/// Ends a record with a checksum that fits.
fn sum_again(bytes: &mut [u8]) {
    let body = bytes.len() - 32;
    let sum = *blake3::hash(&bytes[..body]).as_bytes();
    bytes[body..].copy_from_slice(&sum);
}

fn both(vault: &Path, name: &str, harm: impl Fn(&Path)) {
    harm(&vault.join(name));
    harm(&vault.join(format!("{name}.copy")));
}

/// Puts a file of the other vault in the place of one of this.
fn put_other(name: &str, at: &Path) {
    fs::copy(fixture("v1-plain").join("vault").join(name), at).unwrap();
}

fn swap(one: &Path, other: &Path) {
    let (a, b) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    fs::write(one, b).unwrap();
    fs::write(other, a).unwrap();
}

fn change_reference(vault: &Path) {
    edit(&pack(vault, BRANCH), |bytes| {
        let (at, _) = first_frame(bytes);
        let (chunks, refs) = (u32_at(bytes, at + 16), u32_at(bytes, at + 20));
        assert!(refs > 0, "the first branch frame has references");
        bytes[at + 160 + 36 * chunks] ^= 1;
        rename_first_frame(bytes);
    });
}

/// Damage in packs, done cold and warm.
fn in_packs() -> Vec<Case> {
    let case = |name, harm, then| Case { name, fixture: "v1", harm, then };
    vec![
        case(
            "leaf frame body",
            |v| flip(&pack(v, LEAF), |b| first_frame(b).0 + first_frame(b).1 - 40),
            Then::Named(LEAF),
        ),
        case(
            "branch frame body",
            |v| flip(&pack(v, BRANCH), |b| first_frame(b).0 + first_frame(b).1 - 40),
            Then::Named(BRANCH),
        ),
        case("frame name", |v| flip(&pack(v, LEAF), |b| first_frame(b).0 + first_frame(b).1 + 3), Then::Named(LEAF)),
        case("pack header", |v| flip(&pack(v, LEAF), |_| 30), Then::Named(LEAF)),
        case("pack directory", |v| flip(&pack(v, LEAF), |b| b.len() - 64 - 20), Then::Named(LEAF)),
        case("pack trailer", |v| flip(&pack(v, BRANCH), |b| b.len() - 30), Then::Named(BRANCH)),
        case("pack cut in a frame", |v| edit(&pack(v, LEAF), |b| b.truncate(2000)), Then::Named(LEAF)),
        case("pack without its end", |v| edit(&pack(v, LEAF), |b| b.truncate(b.len() - 70)), Then::Noted(LEAF)),
        case("pack emptied", |v| edit(&pack(v, BRANCH), Vec::clear), Then::Named(BRANCH)),
        case("leaf pack missing", |v| fs::remove_file(pack(v, LEAF)).unwrap(), Then::Named("")),
        case("branch pack missing", |v| fs::remove_file(pack(v, BRANCH)).unwrap(), Then::Named("")),
        case(
            "packs swapped",
            |v| {
                let packs = files_in(&v.join("packs"), BRANCH);
                swap(&packs[0], &packs[1]);
            },
            Then::Named(BRANCH),
        ),
        case("frame kind", |v| edit(&pack(v, LEAF), |b| b[64 + 8] = 2), Then::Named(LEAF)),
        case(
            "frame kind, named anew",
            |v| {
                edit(&pack(v, LEAF), |b| {
                    b[64 + 8] = 2;
                    rename_first_frame(b);
                });
            },
            Then::Named(LEAF),
        ),
        case(
            "frame of no suite, named anew",
            |v| {
                edit(&pack(v, LEAF), |b| {
                    b[64 + 9] = 0;
                    rename_first_frame(b);
                });
            },
            Then::Named(LEAF),
        ),
        case("reference changed by a lying store", change_reference, Then::Named(BRANCH)),
        Case { fixture: "v1-plain", ..case("the same without encryption", change_reference, Then::Named(BRANCH)) },
        Case {
            fixture: "v1-plain",
            ..case(
                "leaf changed by a lying store",
                |v| {
                    edit(&pack(v, LEAF), |b| {
                        let (at, len) = first_frame(b);
                        b[at + len - 1] ^= 1;
                        rename_first_frame(b);
                    });
                },
                Then::Named(LEAF),
            )
        },
    ]
}

/// Damage in the small files.
fn in_records() -> Vec<Case> {
    let case = |name, harm, then| Case { name, fixture: "v1", harm, then };
    vec![
        case("record flipped", |v| flip(&record(v, 2), |_| 90), Then::Named("records/0000000000000002")),
        case("record cut", |v| edit(&record(v, 2), |b| b.truncate(100)), Then::Named("records/0000000000000002")),
        case("record emptied", |v| edit(&record(v, 2), Vec::clear), Then::Named("records/0000000000000002")),
        case("record missing", |v| fs::remove_file(record(v, 2)).unwrap(), Then::Named("records/000000000000000")),
        case("records swapped", |v| swap(&record(v, 1), &record(v, 2)), Then::Named("records/0000000000000001")),
        case(
            "record of another vault",
            |v| put_other("records/0000000000000001", &record(v, 1)),
            Then::Named("records/0000000000000001"),
        ),
        case(
            "record forged",
            |v| {
                edit(&record(v, 2), |b| {
                    b[33] ^= 1;
                    sum_again(b);
                });
            },
            Then::Named("records/0000000000000002"),
        ),
        case("config flipped", |v| flip(&v.join("config"), |_| 80), Then::Mended),
        case("config copy flipped", |v| flip(&v.join("config.copy"), |_| 80), Then::Mended),
        case("config missing", |v| fs::remove_file(v.join("config")).unwrap(), Then::Mended),
        case(
            "config cut in both",
            |v| both(v, "config", |f| edit(f, |b| b.truncate(50))),
            Then::Closed(ErrorClass::Damaged),
        ),
        case("config flipped in both", |v| both(v, "config", |f| flip(f, |_| 80)), Then::Closed(ErrorClass::Damaged)),
        case(
            "config missing in both",
            |v| both(v, "config", |f| fs::remove_file(f).unwrap()),
            Then::Closed(ErrorClass::NoVault),
        ),
        case(
            "config of a later version",
            |v| {
                both(v, "config", |f| {
                    edit(f, |b| {
                        b[4] = 9;
                        sum_again(b);
                    })
                })
            },
            Then::Closed(ErrorClass::TooNew),
        ),
        case(
            "config turned to no encryption",
            |v| {
                both(v, "config", |f| {
                    edit(f, |b| {
                        // The payload is a segment: its root pointer, then the struct, whose byte 25 is the suite.
                        b[76 + 8 + 25] = 0;
                        sum_again(b);
                    })
                })
            },
            Then::Closed(ErrorClass::WrongKey),
        ),
        case(
            "config of another vault",
            |v| both(v, "config", |f| put_other("config", f)),
            Then::Closed(ErrorClass::WrongKey),
        ),
        case("keyring flipped", |v| flip(&v.join("keyring"), |_| 80), Then::Mended),
        case("keyring copy cut", |v| edit(&v.join("keyring.copy"), |b| b.truncate(9)), Then::Mended),
        case("keyring flipped in both", |v| both(v, "keyring", |f| flip(f, |_| 80)), Then::Closed(ErrorClass::Damaged)),
        case(
            "keyring of another vault",
            |v| both(v, "keyring", |f| put_other("keyring", f)),
            Then::Closed(ErrorClass::WrongKey),
        ),
    ]
}

/// Damage in the index, which is made anew whatever happens to it.
fn in_index() -> Vec<Case> {
    let case = |name, harm| Case { name, fixture: "v1", harm, then: Then::Mended };
    vec![
        case("index flipped", |v| flip(&v.join("index/data.mdb"), |b| b.len() / 2 + 11)),
        case("index cut", |v| edit(&v.join("index/data.mdb"), |b| b.truncate(5000))),
        case("index emptied", |v| edit(&v.join("index/data.mdb"), Vec::clear)),
        case("index zeroed", |v| edit(&v.join("index/data.mdb"), |b| b.fill(0))),
        case("index missing", |v| fs::remove_dir_all(v.join("index")).unwrap()),
        case("index of another vault", |v| {
            let other = Copied::new("v1-plain");
            drop(other.open().unwrap());
            fs::copy(other.vault().join("index/data.mdb"), v.join("index/data.mdb")).unwrap();
        }),
    ]
}

#[test]
fn damaged_packs_cost_what_is_in_them() {
    run_all(&in_packs(), &[When::Cold, When::Warm]);
}

#[test]
fn damaged_records_are_named() {
    run_all(&in_records(), &[When::Cold, When::Warm]);
}

#[test]
fn a_damaged_index_is_made_anew() {
    run_all(&in_index(), &[When::Warm]);
}

/// Runs all of them, whatever becomes of each, and then fails with the names of those that failed.
fn run_all(cases: &[Case], moments: &[When]) {
    let mut failed = Vec::new();
    for case in cases {
        for &when in moments {
            if std::panic::catch_unwind(|| run(case, when)).is_err() {
                failed.push(format!("{} ({when:?})", case.name));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

fn run(case: &Case, when: When) {
    let what = format!("{} ({when:?})", case.name);
    let copied = Copied::new(case.fixture);
    if when == When::Warm {
        drop(copied.open().unwrap());
    }
    (case.harm)(&copied.vault());
    let vault = match (copied.open(), &case.then) {
        (Ok(vault), Then::Named(_) | Then::Noted(_) | Then::Mended) => vault,
        (Ok(_), Then::Closed(class)) => panic!("{what}: opens, expected {class:?}"),
        (Err(error), Then::Closed(class)) => {
            assert_eq!(error.class(), *class, "{what}: {error}");
            return;
        }
        (Err(error), _) => panic!("{what}: {error}"),
    };
    let notes = vault.notes().join("; ");
    // What is wrong is told, not met by surprise: first as a backup tool's user would, reading; then by a check.
    let lost = lost_of(&copied, &vault, &what);
    let report = check_all(&vault);
    println!(
        "{what}: {lost} lost; notes: {notes}; {:?}; {} damaged; {:?}",
        report.faults,
        report.damaged.len(),
        report.notes
    );
    let (Then::Named(file) | Then::Noted(file)) = &case.then else {
        assert!(lost == 0 && (report.is_clean() || file_is_index(&report)), "{what}: {report:?}");
        drop(vault);
        assert!(check_all(&copied.open().unwrap()).is_clean(), "{what}: not mended");
        return;
    };
    let expected = if matches!(case.then, Then::Noted(_)) { None } else { Some(ErrorClass::Damaged) };
    assert_eq!(report.class(), expected, "{what}");
    let told = report.faults.iter().any(|fault| fault.file.contains(file)) || notes.contains(file);
    let told = told || report.notes.iter().any(|note| note.contains(file));
    assert!(told, "{what}: {:?} {notes}", report.faults);
    let has_bad_records = report.faults.iter().any(|fault| fault.file.starts_with("records/"));
    let is_silent = report.damaged.is_empty() && lost > 0 && !has_bad_records;
    assert!(!is_silent, "{what}: {lost} lost and not told of");
    assert!(report.damaged.is_empty() || lost > 0, "{what}: nothing is lost, {:?}", report.damaged);
    // A second look finds the same.
    drop(vault);
    let vault = copied.open().unwrap();
    let again = check_all(&vault);
    assert!(!again.is_clean() || lost == 0, "{what}: forgotten");
    let told = again.faults.iter().any(|fault| fault.file.contains(file));
    let told = told || again.notes.iter().any(|note| note.contains(file));
    assert!(told || file.is_empty(), "{what}: the second check does not name {file}: {again:?}");
    // Of a frame that opens and holds one wrong chunk, a check takes the standing of all.
    assert!(lost_of(&copied, &vault, &what) >= lost, "{what}: after the check");
}

fn file_is_index(report: &CheckReport) -> bool {
    report.damaged.is_empty() && report.faults.iter().all(|fault| fault.file.starts_with("index"))
}

/// Reads and restores everything; fails if anything differs from what was there. How much is missing, and told.
fn lost_of(copied: &Copied, vault: &Vault, what: &str) -> usize {
    let expected = copied.expected();
    let found = vault.snapshots().unwrap();
    assert!(!found.damaged.is_empty() || found.list.len() == expected.len(), "{what}: a snapshot is gone in silence");
    let mut lost = found.damaged.len();
    for info in &found.list {
        let expected = &expected[info.record as usize - 1];
        let (entries, lost_here) = read_back(vault, info);
        for (path, line) in &entries {
            assert_eq!(Some(line), expected.entries.get(path), "{what}: {}", escape(path));
        }
        assert!(lost_here > 0 || entries.len() == expected.entries.len(), "{what}: entries are gone in silence");
        lost += lost_here;
        // Long lists take long and say no more.
        if expected.name != "all" || lost_here > 0 {
            restores_the_rest(vault, info, &expected.entries, &entries, what);
        }
    }
    lost
}

/// What could be read is restored as it was.
fn restores_the_rest(vault: &Vault, info: &SnapshotInfo, all: &Entries, readable: &Entries, what: &str) {
    let target = tempfile::tempdir().unwrap();
    let (summary, warned) = restore_to(vault, info, target.path());
    if readable.len() < all.len() {
        assert!(summary.damaged > 0 && !warned.is_empty(), "{what}: restored in silence");
    }
    let base = restored_base(target.path());
    if !can_make_everything() || !base.exists() {
        return;
    }
    for (path, line) in manifest::of_folder(&base) {
        let is_told = warned.keys().any(|warned| path == *warned || warned.starts_with(&[&path[..], b"/"].concat()));
        let is_folder = line.starts_with("d ");
        assert!(is_told || is_folder || Some(&line) == all.get(&path), "{what}: restored {} as {line}", escape(&path));
    }
    for path in readable.keys().filter(|path| !readable[*path].starts_with("s ") && !warned.contains_key(*path)) {
        assert!(fs::symlink_metadata(base.join(manifest::os(path))).is_ok(), "{what}: {} not restored", escape(path));
    }
}
