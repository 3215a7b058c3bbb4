//! Single moments of collections, each made on purpose: damage in what a snapshot needs, a session that begins while it
//! is decided what goes, damage in what is about to move.

use crate::hooked::{Hook, HookedFiles};
use crate::lab::{self, chain};
use crate::weave::{self, Node, Writer};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use twinkeep_engine::check::{CheckOptions, check};
use twinkeep_engine::crypto::VaultKeys;
use twinkeep_engine::env::Dice;
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles, FaultyKvHome};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::frame::FIXED_LEN;
use twinkeep_engine::gc::{self, Access, GcError, GcOptions, GcReport};
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::kv::Table;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::record::{ChangeKind, ChangeRecord};
use twinkeep_engine::store::{BadFrame, Claim, Place as ChunkPlace};
use twinkeep_engine::vault::{ErrorClass, Place, Vault};

/// A vault in memory.
struct Home {
    files: MemoryFiles,
    kv: MemoryKvHome,
    keys: Arc<VaultKeys>,
    opened: u64,
}

impl Home {
    fn new(seed: u64) -> Result<Self, String> {
        let (files, kv) = (MemoryFiles::new(), MemoryKvHome::new());
        let keys = weave::create(lab::place(files.clone(), kv.clone()), seed)?;
        Ok(Self { files, kv, keys, opened: seed << 16 })
    }

    fn open(&mut self) -> Result<Vault, String> {
        self.open_hooked(&Hook::default())
    }

    fn open_hooked(&mut self, hook: &Hook) -> Result<Vault, String> {
        self.opened += 1;
        let files = HookedFiles::new(Arc::new(self.files.clone()), hook.clone());
        let place = Place { files: Arc::new(files), kv_home: Arc::new(self.kv.clone()) };
        lab::open(place, lab::env(self.opened)).map_err(|error| format!("open: {}", chain(&error)))
    }

    /// Publishes a snapshot of these leaves under two branches.
    fn publish(&mut self, name: &str, leaves: &[&str]) -> Result<Arc<Node>, String> {
        let root = self.tree(name, leaves);
        Writer::begin(self.open()?, root.clone(), &mut Dice(3))?.finish()?;
        Ok(root)
    }

    fn tree(&self, name: &str, leaves: &[&str]) -> Arc<Node> {
        let keys = &self.keys;
        let leaf = |text: &&str| Node::leaf(keys, text.as_bytes().iter().copied().cycle().take(300).collect());
        let low = Node::branch(keys, b"low".to_vec(), leaves.iter().map(leaf).collect());
        Node::branch(keys, name.as_bytes().to_vec(), vec![low])
    }

    /// Forgets and purges the snapshots with these roots.
    fn purge(&mut self, roots: &[ChunkId]) -> Result<(), String> {
        let vault = self.open()?;
        for kind in [ChangeKind::Forget { undelete_days: 0 }, ChangeKind::Purge] {
            let done = vault.change(&mut |history, _| {
                let named = history.refs.values().filter(|entry| roots.contains(&entry.reference.target));
                let records = named.map(|entry| entry.count).collect();
                Some(ChangeRecord { records, note: String::new(), kind: kind.clone() })
            });
            done.map_err(|error| format!("purge: {}", chain(&error)))?;
        }
        Ok(())
    }

    fn place_of(&mut self, id: ChunkId) -> Result<ChunkPlace, String> {
        let places = self.open()?.store().places(&[id]).map_err(|error| chain(&error))?;
        places.into_iter().flatten().next().ok_or_else(|| format!("{id} has no place"))
    }

    /// Changes a byte of the frame that holds a chunk.
    fn hurt(&mut self, id: ChunkId, at: u64) -> Result<(), String> {
        let place = self.place_of(id)?;
        let pack = self.open()?.store().pack_name(place.pack).map_err(|error| chain(&error))?;
        match self.files.damage(&format!("packs/{pack}"), |bytes| bytes[(place.offset + at) as usize] ^= 1) {
            true => Ok(()),
            false => Err(format!("{pack} is not there")),
        }
    }

    fn copy(&self) -> Self {
        let kv = MemoryKvHome::from_version(self.kv.version());
        Self { files: self.files.copy(), kv, keys: self.keys.clone(), opened: self.opened }
    }

    /// A collection whose process dies when it makes a call for the `nth` time.
    fn collect_until(&mut self, call: Call, nth: u64) -> Result<(), String> {
        self.opened += 1;
        let faults = Faults::new();
        let place = Place {
            files: Arc::new(FaultyFiles::new(Arc::new(self.files.clone()), faults.clone())),
            kv_home: Arc::new(FaultyKvHome::new(Arc::new(self.kv.clone()), faults.clone())),
        };
        let vault = lab::open(place, lab::env(self.opened)).map_err(|error| format!("open: {}", chain(&error)))?;
        faults.fail_from(call, nth, Fault::Os(libc::EIO));
        let _ = collect(&vault);
        Ok(())
    }

    /// The same, at the first call after which the index is as wanted.
    fn collect_until_it(&mut self, call: Call, is_there: impl Fn(&Self) -> bool) -> Result<(), String> {
        for nth in 1..20 {
            let mut copy = self.copy();
            copy.collect_until(call, nth)?;
            if is_there(&copy) {
                *self = copy;
                return Ok(());
            }
        }
        Err("the collection never comes there".to_owned())
    }

    /// The rows of packs whose files go next.
    fn given_up(&self) -> Vec<Vec<u8>> {
        let version = self.kv.version().into_iter();
        let rows = version.flat_map(|version| version.rows(Table::Packs).clone());
        rows.filter(|(_, row)| row[8] == 3).map(|(key, _)| key.to_vec()).collect()
    }

    fn is_sweeping(&self) -> bool {
        let version = self.kv.version();
        version.is_some_and(|version| version.rows(Table::Meta).get(&b"gc"[..]).is_some_and(|row| row[0] == 2))
    }

    /// Everything is as it should be, and these can be read.
    fn expect(&mut self, roots: &[&Arc<Node>]) -> Result<(), String> {
        let vault = self.open()?;
        weave::closed(&vault)?;
        let faults = vault.store().audit().map_err(|error| chain(&error))?;
        if let Some(fault) = faults.first() {
            return Err(format!("{}: {}", fault.file, fault.problem));
        }
        let reader = vault.reader().map_err(|error| chain(&error))?;
        let mut seen = HashSet::new();
        roots.iter().try_for_each(|root| root.verify(&reader, &mut seen))
    }

    fn packs(&self) -> Vec<String> {
        self.files.paths().into_iter().filter(|path| path.starts_with("packs/")).collect()
    }
}

fn collect(vault: &Vault) -> Result<GcReport, GcError> {
    gc::collect(Access::Keys(vault), &GcOptions::default(), &Progress::silent())
}

fn collect_keyless(vault: &Vault) -> Result<GcReport, GcError> {
    let retention_days_min = vault.config().retention_days_min;
    let access = Access::Keyless { store: vault.local().unwrap(), retention_days_min };
    gc::collect(access, &GcOptions::default(), &Progress::silent())
}

fn told(error: GcError) -> String {
    format!("gc: {}", chain(&error))
}

/// A branch that a snapshot needs cannot be read: nobody knows what is below it, so nothing is removed.
pub fn unreadable_stops() -> Result<(), String> {
    for expelled in [false, true] {
        let mut home = Home::new(1)?;
        let kept = home.publish("kept", &["a", "b", "c"])?;
        let gone = home.publish("gone", &["x", "y", "z"])?;
        home.purge(&[gone.id])?;
        home.hurt(kept.id, 5)?;
        if expelled {
            let (vault, place) = (home.open()?, home.place_of(kept.id)?);
            vault
                .store()
                .expel(&[BadFrame { number: place.number, pack: place.pack, offset: place.offset }])
                .map_err(|error| chain(&error))?;
        }
        let (packs, vault) = (home.packs(), home.open()?);
        match collect(&vault) {
            Err(error) if error.class() == ErrorClass::Damaged => {}
            Err(error) => return Err(told(error)),
            Ok(_) => return Err("gc goes on where a branch cannot be read".to_owned()),
        }
        if home.packs() != packs {
            return Err("gc removed packs although a branch cannot be read".to_owned());
        }
        let ids: Vec<ChunkId> = kept.children.iter().flatten().map(|child| child.id).collect();
        if vault.store().known(&ids).map_err(|error| chain(&error))? != [true] {
            return Err("what is below an unreadable branch is not firm any more".to_owned());
        }
    }
    Ok(())
}

/// A frame with a needed leaf is damaged, anywhere in it: it stays where it is, its pack too, and the report says so.
pub fn damage_stays() -> Result<(), String> {
    for keyless in [false, true] {
        for at in [5, FIXED_LEN as u64 + 3, 200] {
            let mut home = Home::new(2)?;
            let kept = home.publish("kept", &["a", "b", "c", "d", "e", "f", "g", "h", "i"])?;
            let gone = home.publish("gone", &["a", "x", "y", "z"])?;
            home.publish("more", &["b", "m", "n", "o"])?;
            home.purge(&[gone.id])?;
            let low = kept.children.iter().flatten().next().ok_or("no branch")?.clone();
            let leaves: Vec<ChunkId> = low.children.iter().flatten().map(|leaf| leaf.id).collect();
            home.hurt(leaves[0], at)?;
            let vault = home.open()?;
            let report = if keyless { collect_keyless(&vault) } else { collect(&vault) }.map_err(told)?;
            let how = format!("damage at {at}, keyless {keyless}");
            if report.damaged.is_empty() {
                return Err(format!("{how}: gc moves a damaged frame without a word"));
            }
            weave::closed(&vault).map_err(|problem| format!("{how}: {problem}"))?;
            let places = vault.store().places(&leaves).map_err(|error| format!("{how}: {}", chain(&error)))?;
            let reader = vault.reader().map_err(|error| chain(&error))?;
            let hurt = places[0].map(|place| place.number);
            for (leaf, place) in leaves.iter().zip(&places) {
                match reader.leaf(leaf) {
                    Ok(_) => {}
                    Err(_) if place.map(|place| place.number) == hurt && hurt.is_some() => {}
                    Err(error) => return Err(format!("{how}: leaf {leaf}: {}", chain(&error))),
                }
            }
            let faults = vault.store().audit().map_err(|error| chain(&error))?;
            if let Some(fault) = faults.first() {
                return Err(format!("{how}: {}: {}", fault.file, fault.problem));
            }
        }
    }
    Ok(())
}

/// What is being swept is nobody's any more: a session that stores it again stores all of it.
pub fn stored_again_while_swept() -> Result<(), String> {
    let mut home = Home::new(5)?;
    let kept = home.publish("kept", &["a"])?;
    let gone = home.publish("gone", &["x", "y"])?;
    home.purge(&[gone.id])?;
    home.collect_until_it(Call::KvCommit, Home::is_sweeping)?;
    Writer::begin(home.open()?, gone.clone(), &mut Dice(4))?.finish()?;
    collect(&home.open()?).map_err(told)?;
    home.expect(&[&kept, &gone])
}

/// A branch whose leaves are being swept comes without them, and somebody else counts on it later: it is not whole.
pub fn a_branch_above_what_is_swept() -> Result<(), String> {
    let mut home = Home::new(6)?;
    let kept = home.publish("kept", &["a"])?;
    let gone = home.publish("gone", &["x", "y"])?;
    home.purge(&[gone.id])?;
    home.collect_until_it(Call::KvCommit, Home::is_sweeping)?;
    let next = home.tree("next", &["y", "x"]);
    let mut later = Writer::begin(home.open()?, next.clone(), &mut Dice(4))?.from_the_top();
    let mut careless = Writer::begin(home.open()?, gone.clone(), &mut Dice(5))?;
    for branch in next.children.iter().flatten() {
        careless.put(branch)?;
    }
    careless.checkpoint()?;
    drop(careless);
    collect(&home.open()?).map_err(told)?;
    later.finish()?;
    drop(later);
    collect(&home.open()?).map_err(told)?;
    home.expect(&[&kept, &next])
}

/// A collection dies between giving a pack up and removing its file, whichever pack it is: nobody takes it for one that
/// was left behind.
pub fn given_up_and_still_there() -> Result<(), String> {
    let mut before = Home::new(7)?;
    let kept = before.publish("kept", &["a"])?;
    let gone = before.publish("gone", &["x", "y"])?;
    before.purge(&[gone.id])?;
    let mut given_up = HashSet::new();
    for nth in 1..20 {
        let mut home = before.copy();
        home.collect_until(Call::Remove, nth)?;
        let packs = home.given_up();
        if packs.is_empty() {
            continue;
        }
        given_up.extend(packs);
        let how = |problem| format!("removal {nth} fails: {problem}");
        let next = home.publish("next", &["x", "y"]).map_err(how)?;
        home.expect(&[&kept, &next]).map_err(how)?;
        collect(&home.open()?).map_err(told).map_err(how)?;
        home.expect(&[&kept, &next]).map_err(how)?;
    }
    // A pack of leaves and one of branches.
    match given_up.len() {
        2 => Ok(()),
        _ => Err(format!("only these were ever given up and still there: {given_up:?}")),
    }
}

/// A process that has read a pack meets another one that came after that was removed.
pub fn what_came_after_is_something_else() -> Result<(), String> {
    let mut home = Home::new(8)?;
    let kept = home.publish("kept", &["a"])?;
    let gone = home.publish("gone", &["x", "y"])?;
    let vault = home.open()?;
    let reader = vault.reader().map_err(|error| chain(&error))?;
    gone.verify(&reader, &mut HashSet::new())?;
    home.purge(&[gone.id])?;
    collect(&home.open()?).map_err(told)?;
    let next = home.publish("next", &["n", "o"])?;
    for reader in [&reader, &vault.reader().map_err(|error| chain(&error))?] {
        let mut seen = HashSet::new();
        next.verify(reader, &mut seen)?;
        kept.verify(reader, &mut seen)?;
    }
    home.expect(&[&kept, &next])
}

/// What somebody reads stays until he is done, though it was purged.
pub fn read_while_purged() -> Result<(), String> {
    let mut home = Home::new(9)?;
    let gone = home.publish("gone", &["x", "y"])?;
    let vault = home.open()?;
    let pin = vault.local().unwrap().pin(gone.id).map_err(|error| chain(&error))?;
    home.purge(&[gone.id])?;
    for _ in 0..2 {
        collect(&home.open()?).map_err(told)?;
        home.expect(&[&gone])?;
    }
    drop(pin);
    collect(&home.open()?).map_err(told)?;
    match home.expect(&[&gone]) {
        Ok(()) => Err("what nobody needs is still there".to_owned()),
        Err(_) => home.expect(&[]),
    }
}

/// A session begins while a collection decides what goes: it must not count on what is condemned, however early it
/// asked what its place in time is.
pub fn a_session_in_between() -> Result<(), String> {
    let mut home = Home::new(4)?;
    home.publish("kept", &["a"])?;
    let gone = home.publish("gone", &["x", "y"])?;
    home.purge(&[gone.id])?;
    // A collection asks for the index lock in the end to decide; which time that is shows a run on a copy.
    let decides_at = {
        let mut copy = home.copy();
        let hook = Hook::default();
        let vault = copy.open_hooked(&hook)?;
        let kv = copy.kv.clone();
        let found = Arc::new(std::sync::Mutex::new(None));
        for nth in 0..12 {
            let (kv, found) = (kv.clone(), found.clone());
            hook.at(nth, move || {
                let row = kv.version().and_then(|v| v.rows(Table::Meta).get(&b"gc"[..]).cloned());
                if row.is_some_and(|row| row[0] == 1) {
                    found.lock().expect("nobody panics here").get_or_insert(nth);
                }
            });
        }
        collect(&vault).map_err(told)?;
        found.lock().expect("nobody panics here").ok_or("nothing is ever condemned")?
    };
    let (may_lock, waits): (Sender<()>, Receiver<()>) = channel();
    let (is_there, arrives): (Sender<()>, Receiver<()>) = channel();
    let (says, hears): (Sender<Vec<Claim>>, Receiver<Vec<Claim>>) = channel();
    let (may_end, ends): (Sender<()>, Receiver<()>) = channel();
    let begins = Hook::default();
    let vault = home.open_hooked(&begins)?;
    begins.at(0, move || {
        let _ = is_there.send(());
        let _ = waits.recv_timeout(LONG);
    });
    let id = gone.id;
    let session = std::thread::spawn(move || {
        let session = vault.store().begin().map_err(|error| chain(&error))?;
        let claims = session.claim(&[id]).map_err(|error| chain(&error))?;
        let _ = says.send(claims);
        let _ = ends.recv_timeout(LONG);
        Ok::<(), String>(())
    });
    arrives.recv_timeout(LONG).map_err(|_| "the session does not begin")?;
    let hook = Hook::default();
    let vault = home.open_hooked(&hook)?;
    let claims = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = claims.clone();
    hook.at(decides_at, move || {
        let _ = may_lock.send(());
        *kept.lock().expect("nobody panics here") = hears.recv_timeout(LONG).unwrap_or_default();
    });
    let report = collect(&vault).map_err(told)?;
    let _ = may_end.send(());
    session.join().map_err(|_| "the session panicked")??;
    let claims = claims.lock().expect("nobody panics here").clone();
    if !report.waits_for.is_empty() || report.chunks_removed == 0 || claims.is_empty() {
        return Err(format!("the moment was missed: {claims:?}, {report:?}"));
    }
    match claims[..] {
        [Claim::Mine] => Ok(()),
        _ => Err(format!("a session is told {claims:?} of what is swept")),
    }
}

const LONG: Duration = Duration::from_secs(20);

/// A check reads the vault while a collection moves and removes packs: nothing is taken for damage.
pub fn check_beside() -> Result<(), String> {
    let tree = crate::tree::SourceTree::new(9, crate::tree::Shape::SMALL);
    for read_data in [false, true] {
        for nth in 0..14 {
            check_beside_at(&tree, nth, read_data).map_err(|problem| {
                format!("a collection when a check with data {read_data} opens a pack for the {nth}th time: {problem}")
            })?;
        }
    }
    Ok(())
}

fn check_beside_at(tree: &crate::tree::SourceTree, nth: usize, read_data: bool) -> Result<(), String> {
    let mut home = Home::new(9)?;
    let other = crate::tree::SourceTree::new(10, crate::tree::Shape::SMALL);
    let vault = home.open()?;
    let gone = lab::take(&vault, &other, None).map_err(|error| chain(&error))?;
    let kept = lab::take(&vault, tree, None).map_err(|error| chain(&error))?;
    home.purge(&[gone.id])?;
    let hook = Hook::default();
    let beside = home.open()?;
    let files = HookedFiles::new(Arc::new(home.files.clone()), Hook::default()).with_opens(hook.clone());
    let place = Place { files: Arc::new(files), kv_home: Arc::new(home.kv.clone()) };
    let vault = lab::open(place, lab::env(77)).map_err(|error| chain(&error))?;
    let failed = Arc::new(std::sync::Mutex::new(None));
    let kept_failure = failed.clone();
    hook.at(nth, move || {
        if let Err(error) = collect(&beside) {
            *kept_failure.lock().expect("nobody panics here") = Some(told(error));
        }
    });
    let options = CheckOptions { read_data, ..CheckOptions::default() };
    let report = check(&vault, &options, &Progress::silent()).map_err(|error| format!("check: {}", chain(&error)))?;
    if let Some(problem) = failed.lock().expect("nobody panics here").take() {
        return Err(problem);
    }
    if !report.is_clean() {
        return Err(format!("check: {:?} {:?}", report.faults, report.damaged));
    }
    let vault = home.open()?;
    kept.verify(&vault)?;
    let bad = vault.store().frames(FrameNumber(0), 10_000).map_err(|error| chain(&error))?;
    match bad.iter().find(|place| !place.is_believed) {
        Some(place) => Err(format!("{:?} frame {} is not believed any more", place.kind, place.number.0)),
        None => Ok(()),
    }
}

/// All moments, each with its name.
pub const ALL: &[(&str, Moment)] = &[
    ("unreadable stops", unreadable_stops),
    ("damage stays", damage_stays),
    ("stored again while swept", stored_again_while_swept),
    ("a branch above what is swept", a_branch_above_what_is_swept),
    ("given up and still there", given_up_and_still_there),
    ("what came after", what_came_after_is_something_else),
    ("read while purged", read_while_purged),
    ("a session in between", a_session_in_between),
    ("check beside", check_beside),
];

/// Makes one moment; the problem it found.
pub type Moment = fn() -> Result<(), String>;

/// All of them.
pub fn all() -> Result<(), String> {
    ALL.iter().try_for_each(|(name, moment)| moment().map_err(|problem| format!("{name}: {problem}")))
}
