//! The states a power cut may leave, from a [`Log`]: what returned syncs promised is kept, everything else may be
//! kept, lost or torn, each file and each name by itself.
//!
//! - Bytes not synced: none, all, any beginning, or 512-byte sectors of which some are zero.
//! - Names not synced: each change kept or lost, but only after the earlier changes of the same name; a rename is old
//!   or new, never neither.
//! - The map is at its last commit.
//! - The change that follows in the log may have begun: it counts as done but not synced, a commit as done or not.

use super::memory::MemoryFiles;
use super::parent;
use super::record::{FileNumber, Log, Op};
use crate::env::Dice;
use crate::kv::memory::{MemoryKvHome, Version};
use std::collections::{BTreeMap, BTreeSet};

/// What disks write as a whole, bytes.
const SECTOR_LEN: usize = 512;
/// Numbers of files that were there before recording began.
const BASE_FILES: FileNumber = 1 << 63;

/// One state after a power cut.
pub struct CrashState {
    /// The files, all durable.
    pub files: MemoryFiles,
    /// The map.
    pub kv: MemoryKvHome,
    /// What was kept and lost, for messages.
    pub note: String,
}

/// Up to `budget` different states, at least one, that a power cut may leave after the first `at` entries of the log.
///
/// Repeats exactly from the same dice. For many positions of one log advance a [`Replay`] instead.
pub fn legal_states(log: &Log, at: usize, dice: &mut Dice, budget: usize) -> impl Iterator<Item = CrashState> + use<> {
    let mut replay = Replay::new(log);
    replay.advance_to(at);
    replay.states(dice, budget)
}

/// The log played up to a position.
#[derive(Clone)]
pub struct Replay {
    ops: Vec<Op>,
    at: usize,
    disk: Disk,
}

impl Replay {
    /// Before the first entry of the log as it is now.
    pub fn new(log: &Log) -> Self {
        Self { ops: log.ops(), at: 0, disk: Disk::new(log) }
    }

    /// Number of entries in all.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// How many entries were played.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Plays on until `at` entries were played; never goes back.
    pub fn advance_to(&mut self, at: usize) {
        while self.at < at.min(self.ops.len()) {
            self.disk.apply(&self.ops[self.at]);
            self.at += 1;
        }
    }

    /// Up to `budget` different states a power cut may leave here, at least one.
    pub fn states(&self, dice: &mut Dice, budget: usize) -> impl Iterator<Item = CrashState> + use<> {
        let settled = self.disk.clone();
        let begun = self.ops.get(self.at).filter(|op| op.shows_when_begun()).map(|op| {
            let mut begun = settled.clone();
            begun.apply(op);
            begun
        });
        let at = self.at;
        let choices = choices(&settled, begun.as_ref(), dice, budget);
        choices.into_iter().map(move |choice| {
            let disk = begun.as_ref().filter(|_| choice.is_begun).unwrap_or(&settled);
            disk.state(&choice, at)
        })
    }
}

#[derive(Clone)]
struct Disk {
    folders: BTreeSet<String>,
    files: BTreeMap<FileNumber, Content>,
    visible: BTreeMap<String, FileNumber>,
    durable: BTreeMap<String, FileNumber>,
    pending: Vec<NameOp>,
    kv: Option<Version>,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
}

/// A change of names no sync has covered yet.
#[derive(Clone, Debug)]
enum NameOp {
    Create { path: String, file: FileNumber },
    Rename { from: String, to: String, file: FileNumber },
    Remove { path: String, file: FileNumber },
}

/// What becomes of bytes that were not synced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fate {
    Lost,
    Kept,
    /// That many of them are kept.
    Beginning(usize),
    /// The file has that many, but sectors chosen by the seed are zero.
    Torn(usize, u64),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    /// Whether the next change had begun.
    is_begun: bool,
    /// For each pending change of names whether it is kept.
    names: Vec<bool>,
    fates: BTreeMap<FileNumber, Fate>,
}

impl Disk {
    fn new(log: &Log) -> Self {
        let mut disk = Self {
            folders: log.base().folders().into_iter().collect(),
            files: BTreeMap::new(),
            visible: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            kv: log.base_kv(),
        };
        for (file, path) in (BASE_FILES..).zip(log.base().paths()) {
            let bytes = log.base().bytes(&path).unwrap_or_default();
            disk.files.insert(file, Content { synced: bytes.len(), bytes });
            disk.visible.insert(path, file);
        }
        disk.durable = disk.visible.clone();
        disk
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::CreateDir { path } => self.add_folder(path),
            Op::Create { path, file } => {
                self.files.insert(*file, Content::default());
                self.visible.insert(path.clone(), *file);
                self.pending.push(NameOp::Create { path: path.clone(), file: *file });
            }
            Op::Append { file, bytes } => self.files.entry(*file).or_default().bytes.extend_from_slice(bytes),
            Op::Sync { file } => {
                let content = self.files.entry(*file).or_default();
                content.synced = content.bytes.len();
            }
            Op::Rename { from, to } => {
                if let Some(file) = self.visible.remove(from) {
                    self.visible.insert(to.clone(), file);
                    self.pending.push(NameOp::Rename { from: from.clone(), to: to.clone(), file });
                }
            }
            Op::Remove { path } => {
                if let Some(file) = self.visible.remove(path) {
                    self.pending.push(NameOp::Remove { path: path.clone(), file });
                }
            }
            Op::SyncDir { path } => self.sync_dir(path),
            Op::KvCommit { changes } => {
                let kv = self.kv.get_or_insert_default();
                for change in changes.iter() {
                    let rows = kv.rows_mut(change.table);
                    match &change.value {
                        Some(value) => rows.insert(change.key.clone(), value.clone()),
                        None => rows.remove(&change.key),
                    };
                }
            }
            Op::KvReplace { version } => self.kv = Some(version.clone()),
            Op::Ack(_) => {}
        }
    }

    fn add_folder(&mut self, path: &str) {
        let mut folder = path;
        while !folder.is_empty() {
            self.folders.insert(folder.to_owned());
            folder = parent(folder);
        }
    }

    fn sync_dir(&mut self, dir: &str) {
        let mut pending = Vec::new();
        for op in std::mem::take(&mut self.pending) {
            match op {
                NameOp::Rename { from, to, file } if parent(&to) == dir && parent(&from) != dir => {
                    self.durable.insert(to, file);
                    pending.push(NameOp::Remove { path: from, file });
                }
                op if op.paths().all(|path| parent(path) == dir) => op.apply(&mut self.durable),
                op => pending.push(op),
            }
        }
        self.pending = pending;
        self.forget_unnamed();
    }

    /// Content that no crash can bring back goes away.
    fn forget_unnamed(&mut self) {
        if self.pending.is_empty() {
            let named: BTreeSet<_> = self.visible.values().chain(self.durable.values()).copied().collect();
            self.files.retain(|file, _| named.contains(file));
        }
    }

    /// Files that have bytes not synced.
    fn dirty(&self) -> Vec<FileNumber> {
        let is_dirty = |content: &Content| content.synced < content.bytes.len();
        self.files.iter().filter(|(_, content)| is_dirty(content)).map(|(file, _)| *file).collect()
    }

    fn state(&self, choice: &Choice, at: usize) -> CrashState {
        let mut names = self.durable.clone();
        let kept = self.pending.iter().zip(&choice.names).filter(|(_, is_kept)| **is_kept);
        kept.for_each(|(op, _)| op.clone().apply(&mut names));
        let files = names.iter().filter_map(|(path, file)| {
            let fate = choice.fates.get(file).copied().unwrap_or(Fate::Lost);
            Some((path.clone(), self.files.get(file)?.after(fate)))
        });
        CrashState {
            files: MemoryFiles::from_parts(self.folders.iter().cloned(), files.collect()),
            kv: MemoryKvHome::from_version(self.kv.clone()),
            note: self.note(choice, at),
        }
    }

    fn note(&self, choice: &Choice, at: usize) -> String {
        let lost = self.pending.iter().zip(&choice.names).filter(|(_, is_kept)| !**is_kept).map(|(op, _)| op);
        let begun = if choice.is_begun { ", the next change begun" } else { "" };
        let path = |file: &FileNumber| self.visible.iter().find(|(_, there)| *there == file).map(|(path, _)| path);
        let fates: Vec<_> = choice.fates.iter().map(|(file, fate)| (file, path(file), fate)).collect();
        format!("after {at} changes{begun}; names lost: {:?}; bytes: {fates:?}", lost.collect::<Vec<_>>())
    }
}

impl Content {
    fn after(&self, fate: Fate) -> Vec<u8> {
        let unsynced = self.bytes.len() - self.synced;
        match fate {
            Fate::Lost => self.bytes[..self.synced].to_vec(),
            Fate::Kept => self.bytes.clone(),
            Fate::Beginning(len) => self.bytes[..self.synced + len.min(unsynced)].to_vec(),
            Fate::Torn(len, seed) => self.torn(self.synced + len.min(unsynced), &mut Dice(seed)),
        }
    }

    fn torn(&self, len: usize, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.bytes[..len].to_vec();
        let first = self.synced / SECTOR_LEN;
        for sector in first..len.div_ceil(SECTOR_LEN) {
            if dice.one_in(2) {
                let start = (sector * SECTOR_LEN).max(self.synced);
                bytes[start..((sector + 1) * SECTOR_LEN).min(len)].fill(0);
            }
        }
        bytes
    }
}

impl NameOp {
    fn paths(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::Create { path, .. } | Self::Remove { path, .. } => [Some(path), None].into_iter().flatten(),
            Self::Rename { from, to, .. } => [Some(from), Some(to)].into_iter().flatten(),
        }
    }

    fn apply(self, names: &mut BTreeMap<String, FileNumber>) {
        match self {
            Self::Create { path, file } => {
                names.insert(path, file);
            }
            Self::Rename { from, to, file } => {
                names.remove(&from);
                names.insert(to, file);
            }
            Self::Remove { path, file } => {
                if names.get(&path) == Some(&file) {
                    names.remove(&path);
                }
            }
        }
    }

    fn shares_path(&self, other: &Self) -> bool {
        self.paths().any(|path| other.paths().any(|there| there == path))
    }
}

impl Op {
    /// Whether it changes something before it returns. A sync that had begun promises nothing.
    fn shows_when_begun(&self) -> bool {
        !matches!(self, Self::Sync { .. } | Self::SyncDir { .. } | Self::Ack(_))
    }
}

/// Different choices, the telling ones first: nothing kept, all kept; each one alone and each one missing; then dice.
fn choices(settled: &Disk, begun: Option<&Disk>, dice: &mut Dice, budget: usize) -> Vec<Choice> {
    let mut found = BTreeSet::new();
    let mut ordered = Vec::new();
    let mut add = |choice: Choice| {
        if ordered.len() < budget.max(1) && found.insert(choice.clone()) {
            ordered.push(choice);
        }
    };
    add(uniform(settled, false, false));
    add(uniform(settled, false, true));
    if let Some(begun) = begun {
        // Even when what began shows in no name and no byte, it may show in the map or as a folder.
        add(uniform(begun, true, true));
        add(uniform(begun, true, false));
    }
    // What had not begun is among these too: as a name or as bytes that are lost.
    let freest = begun.unwrap_or(settled);
    let mut single = singles(freest, begun.is_some(), dice);
    while !single.is_empty() {
        add(single.swap_remove(dice.below(single.len())));
    }
    let has_freedom = !freest.pending.is_empty() || !freest.dirty().is_empty();
    for _ in 0..if has_freedom { 2 * budget } else { 0 } {
        match begun.filter(|_| dice.one_in(2)) {
            Some(begun) => add(random(begun, true, dice)),
            None => add(random(settled, false, dice)),
        }
    }
    ordered
}

fn uniform(disk: &Disk, is_begun: bool, is_kept: bool) -> Choice {
    let fate = if is_kept { Fate::Kept } else { Fate::Lost };
    let fates = disk.dirty().into_iter().map(|file| (file, fate)).collect();
    Choice { is_begun, names: vec![is_kept; disk.pending.len()], fates }
}

/// Each name and each file kept alone, missing alone, and torn alone.
fn singles(disk: &Disk, is_begun: bool, dice: &mut Dice) -> Vec<Choice> {
    let (none, all) = (uniform(disk, is_begun, false), uniform(disk, is_begun, true));
    let mut choices = Vec::new();
    for i in 0..disk.pending.len() {
        let mut only = none.clone();
        only.names[i] = true;
        // What came before under the same names comes along.
        for earlier in (0..i).rev() {
            let is_needed = (earlier + 1..=i)
                .any(|later| only.names[later] && disk.pending[later].shares_path(&disk.pending[earlier]));
            only.names[earlier] = is_needed;
        }
        // A name alone, and with all bytes.
        choices.push(Choice { fates: all.fates.clone(), ..only.clone() });
        choices.push(only);
        let mut missing = all.clone();
        missing.names[i] = false;
        settle_names(disk, &mut missing.names);
        choices.push(missing);
    }
    for file in disk.dirty() {
        let mut with = |choice: &Choice, fate: Fate| {
            let mut choice = choice.clone();
            choice.fates.insert(file, fate);
            choices.push(choice);
        };
        with(&Choice { names: all.names.clone(), ..none.clone() }, Fate::Kept);
        with(&all, Fate::Lost);
        with(&all, torn(disk, file, dice));
        with(&all, beginning(disk, file, dice));
    }
    choices
}

fn random(disk: &Disk, is_begun: bool, dice: &mut Dice) -> Choice {
    // Sometimes nearly all is kept, sometimes nearly nothing.
    let scale = 1 + dice.below(7);
    let throw = |dice: &mut Dice| dice.below(8) < scale;
    let mut names: Vec<bool> = disk.pending.iter().map(|_| throw(dice)).collect();
    settle_names(disk, &mut names);
    let fates = disk.dirty().into_iter().map(|file| {
        let fate = match dice.below(4) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            2 => beginning(disk, file, dice),
            _ => torn(disk, file, dice),
        };
        (file, fate)
    });
    Choice { is_begun, names, fates: fates.collect() }
}

/// Loses what comes after something lost under the same name.
fn settle_names(disk: &Disk, names: &mut [bool]) {
    for i in 0..names.len() {
        if (0..i).any(|earlier| !names[earlier] && disk.pending[earlier].shares_path(&disk.pending[i])) {
            names[i] = false;
        }
    }
}

fn beginning(disk: &Disk, file: FileNumber, dice: &mut Dice) -> Fate {
    Fate::Beginning(1 + dice.below(unsynced(disk, file).saturating_sub(1)))
}

fn torn(disk: &Disk, file: FileNumber, dice: &mut Dice) -> Fate {
    let len = unsynced(disk, file);
    Fate::Torn(if dice.one_in(2) { len } else { 1 + dice.below(len) }, dice.throw())
}

fn unsynced(disk: &Disk, file: FileNumber) -> usize {
    disk.files.get(&file).map_or(0, |content| content.bytes.len() - content.synced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Files;
    use crate::files::record::record;
    use crate::kv::{KvHome, Table};

    /// Contents of `path` over many states after each entry; `None` where it is missing.
    fn seen(log: &Log, at: usize, path: &str) -> BTreeSet<Option<Vec<u8>>> {
        let mut dice = Dice(7);
        legal_states(log, at, &mut dice, 400).map(|state| state.files.bytes(path)).collect()
    }

    fn set(contents: &[Option<&[u8]>]) -> BTreeSet<Option<Vec<u8>>> {
        contents.iter().map(|content| content.map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn synced_is_kept_and_the_rest_is_free() {
        let (files, _, log) = record(MemoryFiles::new(), MemoryKvHome::new());
        files.create_dir("d").unwrap();
        let file = files.create("d/a").unwrap();
        file.append(b"ab").unwrap();
        log.ack("nothing is safe");
        assert_eq!(
            seen(&log, log.len(), "d/a"),
            set(&[None, Some(b""), Some(b"a"), Some(b"ab"), Some(b"\0"), Some(b"\0\0")])
        );
        file.sync().unwrap();
        assert_eq!(seen(&log, log.len(), "d/a"), set(&[None, Some(b"ab")]));
        files.sync_dir("d").unwrap();
        log.ack("safe");
        assert_eq!(seen(&log, log.len(), "d/a"), set(&[Some(b"ab")]));
        assert_eq!(legal_states(&log, log.len(), &mut Dice(1), 100).count(), 1, "no freedom, one state");
        // Just before the sync of the folder returned nothing was promised.
        assert_eq!(seen(&log, log.len() - 2, "d/a"), set(&[None, Some(b"ab")]));
        assert_eq!(log.acks(log.len()), ["nothing is safe", "safe"]);
        assert_eq!(log.acks(log.len() - 1), ["nothing is safe"]);

        // What is synced stays below what is not.
        file.append(b"c").unwrap();
        assert_eq!(seen(&log, log.len(), "d/a"), set(&[Some(b"ab"), Some(b"abc"), Some(b"ab\0")]));
        // The append may have begun before it returned.
        assert_eq!(seen(&log, log.len() - 1, "d/a"), seen(&log, log.len(), "d/a"));
    }

    #[test]
    fn a_rename_is_old_or_new() {
        let (files, _, log) = record(MemoryFiles::new(), MemoryKvHome::new());
        files.create_dir("d").unwrap();
        for content in [&b"old"[..], b"new", b"newest"] {
            files.write_atomic("d/r", content).unwrap();
        }
        let mut dice = Dice(3);
        let mut replay = Replay::new(&log);
        let mut best = BTreeSet::from([None]);
        for at in 0..=replay.len() {
            replay.advance_to(at);
            let contents: BTreeSet<_> = replay.states(&mut dice, 60).map(|state| state.files.bytes("d/r")).collect();
            let legal = set(&[None, Some(b"old"), Some(b"new"), Some(b"newest")]);
            assert!(contents.is_subset(&legal), "{at}: {contents:?}");
            assert!(contents.len() <= 2, "{at}: {contents:?}");
            best.extend(contents);
        }
        assert_eq!(best.len(), 4);
        // Without the file's own sync a rename may leave an empty or torn file: the mistake must show.
        let file = files.create("d/x.tmp").unwrap();
        file.append(b"unsynced").unwrap();
        files.rename("d/x.tmp", "d/x").unwrap();
        files.sync_dir("d").unwrap();
        assert!(seen(&log, log.len(), "d/x").contains(&Some(vec![])));
        // A rename between folders never loses both names.
        files.create_dir("e").unwrap();
        files.rename("d/r", "e/r").unwrap();
        files.sync_dir("d").unwrap();
        for state in legal_states(&log, log.len(), &mut dice, 100) {
            assert!(state.files.bytes("d/r").is_some() || state.files.bytes("e/r").is_some(), "{}", state.note);
        }
        files.sync_dir("e").unwrap();
        assert_eq!(seen(&log, log.len(), "e/r"), set(&[Some(b"newest")]));
        files.sync_dir("d").unwrap();
        assert_eq!(seen(&log, log.len(), "d/r"), set(&[None]));
    }

    #[test]
    fn files_and_names_are_independent() {
        let (files, _, log) = record(MemoryFiles::new(), MemoryKvHome::new());
        for name in ["a", "b", "c"] {
            let file = files.create(name).unwrap();
            file.append(name.as_bytes()).unwrap();
            file.sync().unwrap();
        }
        let states = legal_states(&log, log.len(), &mut Dice(5), 200);
        let sets: BTreeSet<Vec<String>> = states.map(|state| state.files.paths()).collect();
        assert_eq!(sets.len(), 8, "every subset: {sets:?}");
        // Over sectors: some written, some not.
        let big = files.create("big").unwrap();
        files.sync_dir("").unwrap();
        big.append(&[1; 2048]).unwrap();
        let contents = seen(&log, log.len(), "big");
        let is_torn = |bytes: &Vec<u8>| bytes.len() == 2048 && bytes.starts_with(&[0; 512]) && bytes.contains(&1);
        assert!(contents.iter().flatten().any(is_torn));
        assert!(contents.iter().flatten().all(|bytes| bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0]))));
    }

    #[test]
    fn the_map_is_at_its_last_commit_or_the_one_begun() {
        let (files, home, log) = record(MemoryFiles::new(), MemoryKvHome::new());
        let kv = home.replace(&mut |_| Ok(())).unwrap();
        for n in 1..=2_u8 {
            let mut write = kv.write().unwrap();
            write.put(Table::Meta, &[n], b"").unwrap();
            write.commit().unwrap();
        }
        files.create_dir("d").unwrap();
        let mut dice = Dice(1);
        let mut counts = |at: usize| -> BTreeSet<Option<usize>> {
            let states = legal_states(&log, at, &mut dice, 10);
            states.map(|state| state.kv.version().map(|version| version.rows(Table::Meta).len())).collect()
        };
        assert_eq!(counts(0), BTreeSet::from([None, Some(0)]));
        assert_eq!(counts(1), BTreeSet::from([Some(0), Some(1)]));
        assert_eq!(counts(2), BTreeSet::from([Some(1), Some(2)]));
        assert_eq!(counts(3), BTreeSet::from([Some(2)]));
    }
}
