//! Rot: a file of the vault or a row of its index is changed behind its back. What is read then is right or an error
//! that names it, the packs and records alone give everything back that is not hit itself, and after a check the next
//! backup makes whole what the source still has.

use crate::lab::{self, Taken, chain};
use crate::tree::{Shape, SourceTree, copy_folder, gather};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::env::Dice;
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::kv::Table;
use twinkeep_engine::kv::memory::{MemoryKvHome, Version};
use twinkeep_engine::progress::Progress;
use twinkeep_engine::store::LocalStore;
use twinkeep_engine::vault::{Place, Vault};

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Injections.
    pub injections: usize,
    /// Of them, those that something read noticed.
    pub noticed: usize,
    /// Of them, those after which the next backup made every snapshot whole again.
    pub healed: usize,
}

/// A vault with two snapshots; the source is as in the second.
pub struct Base {
    files: MemoryFiles,
    kv: Option<Version>,
    taken: Vec<Taken>,
    tree: SourceTree,
    seed: u64,
}

/// What was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Hit {
    Pack,
    Record { removed: bool },
    Twin,
    Index,
}

/// A vault that was hit.
struct Wounded {
    files: MemoryFiles,
    kv: MemoryKvHome,
    hit: Hit,
    /// Whether anything differs at all.
    changed: bool,
    note: String,
}

impl Base {
    /// Makes the vault.
    pub fn new(seed: u64) -> Result<Self, String> {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let mut tree = SourceTree::new(seed, Shape { files: 22, wide: 140, len_max: 6 << 10 });
        let vault = lab::create(lab::place(files.clone(), kv.clone()), lab::env(seed)).map_err(|e| chain(&e))?;
        let mut taken = Vec::new();
        for round in 0..2 {
            if round > 0 {
                tree.change();
            }
            taken.push(lab::take(&vault, &tree, None).map_err(|error| chain(&error))?);
        }
        drop(vault);
        Ok(Self { files: files.copy(), kv: kv.version(), taken, tree, seed })
    }

    /// Tries many injections.
    pub fn run(&self, count: usize) -> Result<Counts, String> {
        let mut counts = Counts::default();
        for number in 0..count {
            let mut dice = Dice(self.seed.wrapping_mul(1 << 20).wrapping_add(number as u64));
            let wounded = self.wound(&mut dice);
            let told = |problem: String| format!("seed {}, injection {number}: {}: {problem}", self.seed, wounded.note);
            let tried = catch_unwind(AssertUnwindSafe(|| self.try_one(&wounded, dice.throw())));
            let (noticed, healed) = tried.unwrap_or_else(|_| Err("it panicked".to_owned())).map_err(told)?;
            counts.injections += 1;
            counts.noticed += usize::from(noticed);
            counts.healed += usize::from(healed);
        }
        Ok(counts)
    }

    /// The same for vaults in folders, whose index is LMDB: any file may be hit, the index's too.
    pub fn run_on_disk(&self, count: usize) -> Result<Counts, String> {
        let home = tempfile::Builder::new().prefix("twinkeep-rot-").tempdir().expect("a folder for vaults");
        let whole = home.path().join("whole");
        let vault = lab::create(Place::folder(&whole), lab::env(self.seed)).map_err(|error| chain(&error))?;
        let taken = lab::take(&vault, &self.tree, None).map_err(|error| chain(&error))?;
        drop(vault);
        let mut counts = Counts::default();
        for number in 0..count {
            let mut dice = Dice(self.seed.wrapping_mul(1 << 21).wrapping_add(number as u64));
            let folder = home.path().join(format!("hit-{number}"));
            copy_folder(&whole, &folder);
            let note = hurt_folder(&folder, &mut dice);
            let told = |problem: String| format!("seed {}, injection {number} on disk: {note}: {problem}", self.seed);
            let healed = heal_on_disk(&folder, &taken, &self.tree, dice.throw()).map_err(told)?;
            counts.injections += 1;
            counts.healed += usize::from(healed);
            let _ = fs::remove_dir_all(&folder);
        }
        Ok(counts)
    }

    fn wound(&self, dice: &mut Dice) -> Wounded {
        let files = self.files.copy();
        let kv = self.kv.clone();
        if dice.one_in(5) {
            let (kv, note) = hurt_index(kv.unwrap_or_default(), dice);
            let changed = Some(&kv) != self.kv.as_ref();
            return Wounded { files, kv: MemoryKvHome::from_version(Some(kv)), hit: Hit::Index, changed, note };
        }
        let all: Vec<String> = files.paths().into_iter().filter(|path| hit_of(path, false).is_some()).collect();
        let packs: Vec<&String> = all.iter().filter(|path| path.starts_with("packs/")).collect();
        let path = if dice.one_in(3) { &all[dice.below(all.len())] } else { packs[dice.below(packs.len())] };
        let other = &all[dice.below(all.len())];
        let (note, removed) = hurt_file(&files, path, other, dice);
        let hit = hit_of(path, removed).unwrap_or(Hit::Pack);
        let changed = files.bytes(path) != self.files.bytes(path);
        Wounded { files, kv: MemoryKvHome::from_version(kv), hit, changed, note }
    }

    /// Tells whether anything was noticed, and whether all is whole in the end.
    fn try_one(&self, wounded: &Wounded, seed: u64) -> Result<(bool, bool), String> {
        let place = lab::place(wounded.files.clone(), wounded.kv.clone());
        let open = |place: &Place, n: u64| {
            lab::open(place.clone(), lab::env(seed ^ n)).map_err(|error| format!("open: {}", chain(&error)))
        };
        let vault = open(&place, 1)?;
        let noted = !vault.notes().is_empty();
        let seen = self.honest(&vault, wounded)?;
        drop(vault);
        let whole = self.rebuild(wounded, seed)?;
        let vault = open(&place, 2)?;
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let found = match check(&vault, &options, &Progress::silent()) {
            Ok(report) => !report.is_clean(),
            // Rows that cannot be are found by whoever meets them; a new index is what helps.
            Err(_) if wounded.hit == Hit::Index => return Ok((true, false)),
            Err(error) => return Err(format!("check: {}", chain(&error))),
        };
        if !seen && !found {
            return Err("reading everything showed damage, and check did not find any".to_owned());
        }
        let noticed = noted || !seen || found;
        // Of a row that is gone nothing may be left that misses it, and a pack cut behind its last frame looks like
        // one whose writer was killed.
        let cut = whole && wounded.note.contains(" cut to ");
        let last = format!("{:016x} removed", self.taken.len());
        let may_hide = cut || wounded.hit == Hit::Index || wounded.note.ends_with(&last);
        if wounded.changed && !noticed && !may_hide {
            return Err("nobody noticed".to_owned());
        }
        self.heal(&vault, wounded).map(|healed| (noticed, healed))
    }

    /// Everything read is right or told. Returns whether nothing was wrong.
    fn honest(&self, vault: &Vault, wounded: &Wounded) -> Result<bool, String> {
        let snapshots = match vault.snapshots() {
            Ok(snapshots) => snapshots,
            // A row that cannot be.
            Err(_) if wounded.hit == Hit::Index => return Ok(false),
            Err(error) => return Err(format!("snapshots: {}", chain(&error))),
        };
        let mut whole = snapshots.damaged.is_empty();
        for (at, taken) in self.taken.iter().enumerate() {
            if snapshots.list.iter().any(|info| info.id == taken.id) {
                whole &= taken.verify_honest(vault)?;
            } else if snapshots.damaged.is_empty() {
                // Nothing in a vault says that its last record was removed; of others it is held below.
                if wounded.hit != (Hit::Record { removed: true }) {
                    return Err(format!("snapshot {at} is gone in silence"));
                }
            }
        }
        Ok(whole)
    }

    /// Packs and records alone give everything back that is not hit itself.
    /// Returns whether that is everything.
    fn rebuild(&self, wounded: &Wounded, seed: u64) -> Result<bool, String> {
        let place = lab::place(wounded.files.copy(), MemoryKvHome::new());
        let vault = lab::open(place, lab::env(seed ^ 3)).map_err(|error| format!("rebuild: {}", chain(&error)))?;
        let whole = self.honest(&vault, wounded).map_err(|problem| format!("rebuilt: {problem}"))?;
        match whole || matches!(wounded.hit, Hit::Pack | Hit::Record { .. }) {
            true => Ok(whole),
            false => Err("the index was hit, and making it anew does not help".to_owned()),
        }
    }

    /// After a check the next backup is whole; it heals the second snapshot, whose source is still there.
    fn heal(&self, vault: &Vault, wounded: &Wounded) -> Result<bool, String> {
        let next = match lab::take(vault, &self.tree, None) {
            Ok(next) => next,
            Err(_) if wounded.hit == Hit::Index => return Ok(false),
            Err(error) => return Err(format!("next: {}", chain(&error))),
        };
        match next.verify(vault) {
            Err(_) if wounded.hit == Hit::Index => return Ok(false),
            result => result.map_err(|problem| format!("next: {problem}"))?,
        }
        let listed = vault.snapshots().map_err(|error| chain(&error))?;
        let mut healed = true;
        for (at, taken) in self.taken.iter().enumerate() {
            let is_listed = listed.list.iter().any(|info| info.id == taken.id);
            let whole = is_listed && taken.verify_honest(vault)?;
            // Folders above the source have changed meanwhile, and a snapshot's root is told nowhere else.
            let from_source = at == 1 && wounded.hit == Hit::Pack && wounded.note.contains(".leaf ");
            if from_source && !whole {
                return Err("the source has it all, and the snapshot is still not whole".to_owned());
            }
            healed &= whole;
        }
        Ok(healed)
    }
}

fn hit_of(path: &str, removed: bool) -> Option<Hit> {
    match path.split('/').next()? {
        "packs" => Some(Hit::Pack),
        "records" => Some(Hit::Record { removed }),
        "locks" | "sessions" => None,
        _ => Some(Hit::Twin),
    }
}

/// Changes a file; tells how, and whether it is gone.
pub(crate) fn hurt_file(files: &MemoryFiles, path: &str, other: &str, dice: &mut Dice) -> (String, bool) {
    use twinkeep_engine::files::Files;
    let before = files.bytes(path).unwrap_or_default();
    let len = before.len();
    let mut bytes = before.clone();
    let at = dice.below(len);
    let stretch = (1 + dice.below(700)).min(len - at);
    let what = match dice.below(8) {
        0 | 1 => {
            bytes[at] ^= 1 << dice.below(8);
            format!("a bit flipped at {at} of {len}")
        }
        2 => {
            bytes[at..at + stretch].fill(0);
            format!("{stretch} bytes zeroed at {at} of {len}")
        }
        3 => {
            bytes[at..at + stretch].fill(0xff);
            format!("{stretch} bytes set at {at} of {len}")
        }
        4 => {
            bytes.truncate(at);
            format!("cut to {at} of {len} bytes")
        }
        5 => {
            let to = dice.below(len - stretch + 1);
            let copy = bytes[at..at + stretch].to_vec();
            let displaced = bytes[to..to + stretch].to_vec();
            bytes[to..to + stretch].copy_from_slice(&copy);
            if to + stretch <= at || at + stretch <= to {
                bytes[at..at + stretch].copy_from_slice(&displaced);
            }
            format!("{stretch} bytes swapped between {at} and {to} of {len}")
        }
        6 => {
            bytes = files.bytes(other).unwrap_or_default();
            format!("replaced by {other}")
        }
        _ => {
            let _ = files.remove(path);
            let _ = files.sync_dir(twinkeep_engine::files::parent(path));
            return (format!("{path} removed"), true);
        }
    };
    files.put(path, bytes);
    (format!("{path} {what}"), false)
}

/// Changes rows of the index.
pub(crate) fn hurt_index(mut version: Version, dice: &mut Dice) -> (Version, String) {
    let tables = [Table::Chunks, Table::Young, Table::Frames, Table::Packs, Table::Meta];
    let tables: Vec<Table> = tables.into_iter().filter(|table| !version.rows(*table).is_empty()).collect();
    let table = tables[dice.below(tables.len())];
    let keys: Vec<Vec<u8>> = version.rows(table).keys().cloned().collect();
    let rows = version.rows_mut(table);
    let (one, two) = (&keys[dice.below(keys.len())], &keys[dice.below(keys.len())]);
    let value = rows.get(one).cloned().unwrap_or_default();
    let what = match dice.below(4) {
        0 => {
            let mut value = value;
            let at = dice.below(value.len());
            value[at] ^= 1 << dice.below(8);
            rows.insert(one.clone(), value);
            "a bit flipped"
        }
        1 => {
            rows.remove(one);
            "a row removed"
        }
        2 => {
            let other = rows.insert(two.clone(), value).unwrap_or_default();
            rows.insert(one.clone(), other);
            "two rows swapped"
        }
        _ => {
            rows.insert(one.clone(), value[..dice.below(value.len())].to_vec());
            "a row cut"
        }
    };
    (version, format!("index, table {}, {what}", table.name()))
}

/// A file that holds exactly what a stored branch is named by: its name must not be the branch's.
pub fn a_leaf_is_no_branch(seed: u64) -> Result<(), String> {
    let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
    let mut tree = SourceTree::new(seed, Shape { files: 4, wide: 0, len_max: 2048 });
    let vault = lab::create(lab::place(files, kv), lab::env(seed)).map_err(|error| chain(&error))?;
    let first = lab::take(&vault, &tree, None).map_err(|error| chain(&error))?;
    let reader = vault.reader().map_err(|error| chain(&error))?;
    let (refs, payload) =
        twinkeep_engine::branch::Branches::branch(&reader, &first.id).map_err(|error| chain(&error))?;
    let mut content = (refs.len() as u32).to_le_bytes().to_vec();
    refs.iter().for_each(|id| content.extend_from_slice(&id.0));
    content.extend_from_slice(&payload);
    tree.write("a snapshot as a file", &content);
    lab::take(&vault, &tree, None).map_err(|error| chain(&error))?.verify(&vault)
}

/// The index says of two leaves of one length that each is where the other is: neither may be read as the other.
pub fn rows_that_lie(seed: u64) -> Result<(), String> {
    let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
    let mut tree = SourceTree::new(seed, Shape { files: 4, wide: 0, len_max: 2048 });
    let contents = [[b'a'; 300], [b'b'; 300]];
    for (name, content) in ["one", "two"].iter().zip(&contents) {
        tree.write(name, content);
    }
    let vault = lab::create(lab::place(files.clone(), kv.clone()), lab::env(seed)).map_err(|error| chain(&error))?;
    let taken = lab::take(&vault, &tree, None).map_err(|error| chain(&error))?;
    let [one, two] = contents.map(|content| vault.keys().leaf_id(&content).0.to_vec());
    drop(vault);
    let mut version = kv.version().ok_or("no index")?;
    let rows = version.rows_mut(Table::Chunks);
    let (Some(first), Some(second)) = (rows.get(&one).cloned(), rows.get(&two).cloned()) else {
        return Err("the two files are not one leaf each".to_owned());
    };
    rows.insert(one, second);
    rows.insert(two, first);
    let place = lab::place(files, MemoryKvHome::from_version(Some(version)));
    let vault = lab::open(place, lab::env(seed ^ 1)).map_err(|error| chain(&error))?;
    match taken.verify_honest(&vault)? {
        true => Err("two rows were exchanged and nobody noticed".to_owned()),
        false => Ok(()),
    }
}

/// Frames lose their standing while a backup that relies on them runs: it must not be published as it is.
pub fn expelled_meanwhile(seed: u64) -> Result<(), String> {
    use std::sync::Arc;
    use twinkeep_engine::id::Kind;
    use twinkeep_engine::index::FrameNumber;
    use twinkeep_engine::store::BadFrame;
    let base = Base::new(seed)?;
    let files = base.files.copy();
    let place = lab::place(files.clone(), MemoryKvHome::from_version(base.kv.clone()));
    let other = lab::open(place.clone(), lab::env(seed ^ 1)).map_err(|error| chain(&error))?;
    let deed = move || {
        let frames = other.store().frames(FrameNumber(0), 10_000).expect("frames are listed");
        let leaves: Vec<_> = frames.iter().filter(|frame| frame.kind == Kind::Leaf).collect();
        for frame in &leaves {
            let pack = other.store().pack_name(frame.pack).expect("a pack has a name");
            let last = frame.offset as usize + frame.len as usize - 1;
            files.damage(&format!("packs/{pack}"), |bytes| bytes[last] ^= 1);
        }
        let bad: Vec<BadFrame> = leaves.into_iter().map(BadFrame::from).collect();
        other.store().expel(&bad).expect("frames are expelled");
    };
    let executor = Arc::new(lab::After::new(deed));
    let vault = lab::open(place, lab::env_with(seed ^ 2, executor)).map_err(|error| chain(&error))?;
    let next = lab::take(&vault, &base.tree, None).map_err(|error| format!("backup: {}", chain(&error)))?;
    next.verify(&vault)?;
    base.taken[1].verify(&vault).map_err(|problem| format!("not healed: {problem}"))
}

/// What was found bad at a place where it no longer stands keeps its standing.
pub fn expelled_elsewhere(seed: u64) -> Result<(), String> {
    use twinkeep_engine::index::FrameNumber;
    use twinkeep_engine::store::BadFrame;
    let base = Base::new(seed)?;
    let place = lab::place(base.files.copy(), MemoryKvHome::from_version(base.kv.clone()));
    let vault = lab::open(place, lab::env(seed ^ 1)).map_err(|error| chain(&error))?;
    let store = vault.store();
    let frames = store.frames(FrameNumber(0), 10_000).map_err(|error| chain(&error))?;
    let elsewhere: Vec<BadFrame> =
        frames.iter().map(|frame| BadFrame { offset: frame.offset + 1, ..BadFrame::from(frame) }).collect();
    let lost = store.expel(&elsewhere).map_err(|error| chain(&error))?;
    let doubted = store.frames(FrameNumber(0), 10_000).map_err(|error| chain(&error))?;
    match lost.is_empty() && doubted.iter().all(|frame| frame.is_believed) {
        true => Ok(()),
        false => Err(format!("{} chunks lost their standing", lost.len())),
    }
}

/// A damaged snapshot is healed even by a backup that makes none because nothing changed.
pub fn unchanged_heals(seed: u64) -> Result<(), String> {
    let base = Base::new(seed)?;
    let cache = tempfile::Builder::new().prefix("twinkeep-cache-").tempdir().expect("a folder for the cache");
    let (files, kv) = (base.files.copy(), MemoryKvHome::from_version(base.kv.clone()));
    let vault = lab::open(lab::place(files.clone(), kv), lab::env(seed ^ 1)).map_err(|error| chain(&error))?;
    let taken = lab::take(&vault, &base.tree, Some(cache.path())).map_err(|error| chain(&error))?;
    for path in files.paths().into_iter().filter(|path| path.ends_with(".leaf")) {
        files.damage(&path, |bytes| bytes[300] ^= 1);
    }
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(&vault, &options, &Progress::silent()).map_err(|error| chain(&error))?;
    if report.is_clean() {
        return Err("check finds nothing".to_owned());
    }
    let options = twinkeep_engine::backup::BackupOptions {
        skip_if_unchanged: true,
        ..lab::options(&base.tree.path(), Some(cache.path()))
    };
    let result = twinkeep_engine::backup::backup(&vault, &options, &Progress::silent());
    result.map_err(|error| format!("backup: {}", chain(&error)))?;
    taken.verify(&vault).map_err(|problem| format!("after a backup of what was unchanged: {problem}"))
}

/// Hits one file of a vault in a folder; a third of the time the index.
fn hurt_folder(folder: &Path, dice: &mut Dice) -> String {
    let mut paths = Vec::new();
    gather(folder, &mut paths);
    let names = |path: &PathBuf| path.strip_prefix(folder).map(|path| path.display().to_string()).unwrap_or_default();
    let mut all: Vec<String> = paths.iter().map(names).filter(|path| hit_of(path, false).is_some()).collect();
    all.sort();
    let index: Vec<String> = all.iter().filter(|path| path.starts_with("index/data")).cloned().collect();
    let path = if dice.one_in(3) { &index[dice.below(index.len())] } else { &all[dice.below(all.len())] };
    let files = MemoryFiles::new();
    for path in &all {
        files.put(path, fs::read(folder.join(path)).expect("read a file of the vault"));
    }
    let (note, removed) = hurt_file(&files, path, &all[dice.below(all.len())], dice);
    match files.bytes(path).filter(|_| !removed) {
        Some(bytes) => fs::write(folder.join(path), bytes).expect("write a file of the vault"),
        None => fs::remove_file(folder.join(path)).expect("remove a file of the vault"),
    }
    note
}

fn heal_on_disk(folder: &Path, taken: &Taken, tree: &SourceTree, seed: u64) -> Result<bool, String> {
    let open = |n: u64| {
        let opened = lab::open(Place::folder(folder), lab::env(seed ^ n));
        opened.map_err(|error| format!("open: {}", chain(&error)))
    };
    let vault = open(1)?;
    let listed = vault.snapshots().map_err(|error| format!("snapshots: {}", chain(&error)))?;
    if listed.list.iter().any(|info| info.id == taken.id) {
        taken.verify_honest(&vault)?;
    }
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(&vault, &options, &Progress::silent()).map_err(|error| format!("check: {}", chain(&error)))?;
    let vault = match report.faults.iter().any(|fault| fault.file == "index") {
        // Rows that contradict each other are not to be counted on: what the check says helps is done.
        true => {
            let (place, id) = (Place::folder(folder), vault.id());
            drop(vault);
            LocalStore::reopen_rebuilt(place.files, place.kv_home, lab::env(seed), id, "test".to_owned())
                .map_err(|error| format!("rebuild: {}", chain(&error)))?;
            open(3)?
        }
        false => vault,
    };
    let next = lab::take(&vault, tree, None).map_err(|error| format!("next: {}", chain(&error)))?;
    next.verify(&vault).map_err(|problem| format!("next: {problem}"))?;
    drop(vault);
    let vault = open(2)?;
    next.verify(&vault).map_err(|problem| format!("next, opened again: {problem}"))?;
    let listed = vault.snapshots().map_err(|error| format!("snapshots: {}", chain(&error)))?;
    Ok(listed.list.iter().any(|info| info.id == taken.id) && taken.verify_honest(&vault)?)
}
