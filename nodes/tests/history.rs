//! What a member may do to the history of a vault at the host, and what the host frees in the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use twinkeep_engine::backup::{self, BackupOptions};
use twinkeep_engine::env::{Env, Inline, ManualClock, SeededEntropy, Time};
use twinkeep_engine::gc::{self, Access, GcOptions};
use twinkeep_engine::history::DAY;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::retention;
use twinkeep_engine::store::Store;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_engine::vault::{CreateOptions, Unlock, Vault};
use twinkeep_nodes::host::ground::Folder;
use twinkeep_nodes::host::setup::{self, HostOptions};
use twinkeep_nodes::host::{Host, HostVault, collector, trouble};
use twinkeep_nodes::tracker::MachineNumber;
use twinkeep_nodes::tracker::event::{Event, Login, VaultKind};
use twinkeep_nodes::tracker::limits::LOCK_DAYS;
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::names::AccountId;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::work::Work;

struct World {
    clock: Arc<ManualClock>,
    host: Arc<Host>,
    vault: Arc<HostVault>,
    member: Vault,
    folder: tempfile::TempDir,
}

const START: Time = Time(1_800_000_000_000_000_000);

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let env = env(&clock);
        let data = folder.path().join("host");
        let options = HostOptions {
            name: "host".into(),
            listen: "127.0.0.1:0".into(),
            addresses: vec!["127.0.0.1:1".into()],
            machine_id: [1; 16],
        };
        setup::init(&data, &env, &options).unwrap();
        let identity = setup::load(&data).unwrap();
        let host = Host::open(Box::new(Folder(data)), env.clone(), Work::Here, identity).unwrap();
        let options =
            CreateOptions { retention_days_min: LOCK_DAYS, undelete_days: LOCK_DAYS, ..CreateOptions::default() };
        let prepared = Vault::prepare(&env, &options, &[]).unwrap();
        let id = host.make_vault(&prepared.head).unwrap();
        register(&host, id);
        let vault = host.vault(id).unwrap();
        let store = Arc::new(vault.store.clone());
        let member = Vault::open_through(store, prepared.head.clone(), env, Unlock::Secret(&prepared.secret)).unwrap();
        Self { clock, host, vault, member, folder }
    }

    fn back_up(&self, content: &[u8]) -> u64 {
        let source = self.folder.path().join("source");
        std::fs::create_dir_all(&source).unwrap();
        std::fs::write(source.join("file"), content).unwrap();
        let paths = vec![path_bytes(&source)];
        let options = BackupOptions { paths, ..BackupOptions::default() };
        backup::backup(&self.member, &options, &Progress::silent()).unwrap();
        self.host.feed(self.member.id(), &self.vault).unwrap();
        self.member.history().unwrap().refs.keys().last().copied().unwrap()
    }

    fn pass(&self, days: i64) {
        // A day at a time, with something said in between: a clock that leaps is not believed.
        for _ in 0..days {
            self.clock.advance(Duration::from_nanos(DAY.unsigned_abs()));
            retention::pin(&self.member, &[1]).unwrap();
            retention::unpin(&self.member, &[1]).unwrap();
        }
    }
}

/// The office knows of the vault, so that a host that starts anew opens it.
fn register(host: &Host, vault: VaultId) {
    let owner = AccountId([1; 16]);
    let login = Login {
        login_key: SigningKey::from_seed(&[1; 32]).public(),
        salt: [1; 16],
        cost: PasswordCost::default(),
        wrapped_key: vec![1; 60],
    };
    let account = Event::AccountMade { id: owner, name: "anna".into(), login, quota: 0, is_admin: false };
    let kind = VaultKind::Private;
    let made = Event::VaultMade { vault, owner, name: "anna".into(), kind, company_wrap: Vec::new() };
    for event in [account, made] {
        host.office.append(Actor::Host, event).unwrap();
    }
}

fn env(clock: &Arc<ManualClock>) -> Env {
    Env { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(3)), executor: Arc::new(Inline) }
}

fn path_bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 300_000];
    twinkeep_engine::env::Dice(seed).fill(&mut bytes);
    bytes
}

#[test]
fn what_was_forgotten_goes_after_both_windows_and_from_the_machines_too() {
    let world = World::new();
    world.back_up(&noise(1));
    let second = world.back_up(&noise(2));
    let machine = MachineNumber(1);
    let all = |world: &World| {
        let owed = world.host.holders.owed(None, 1000).unwrap();
        owed.into_iter().map(|owed| owed.id).collect::<Vec<_>>()
    };
    let frames = all(&world);
    assert!(!frames.is_empty());
    world.host.holders.confirm(machine, &frames).unwrap();
    assert_eq!(all(&world), []);

    assert!(retention::forget(&world.member, &[second], "").is_err(), "a month is never forgotten");
    world.pass(i64::from(LOCK_DAYS) + 1);
    retention::forget(&world.member, &[second], "").unwrap();
    assert_eq!(retention::purge(&world.member).unwrap(), [], "a month to bring it back");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let freed = runtime.block_on(collector::collect(&world.host));
    assert_eq!((freed.frames, &freed.problems[..]), (0, &[][..]));

    world.pass(i64::from(LOCK_DAYS) + 1);
    assert_eq!(retention::purge(&world.member).unwrap(), [second]);
    // The first condemns, as a reader may just be about to use it; what nobody needed until the next one goes.
    let mut frames_gone = 0;
    for _ in 0..3 {
        let freed = runtime.block_on(collector::collect(&world.host));
        assert_eq!(freed.problems, [""; 0]);
        frames_gone += freed.frames;
    }
    assert!(frames_gone > 0);
    let left = world.host.holders.inventory(machine).unwrap();
    assert_eq!(left.frames + frames_gone, frames.len() as u64, "the machine is believed to hold what is left");
    assert_eq!(world.member.snapshots().unwrap().list.len(), 1);
    assert!(world.member.snapshots().unwrap().damaged.is_empty());
}

/// Records have no second place: a chain that lost its end must not make garbage of what was backed up.
#[test]
fn nothing_is_freed_in_a_vault_whose_last_record_is_lost() {
    let world = World::new();
    world.back_up(&noise(1));
    world.back_up(&noise(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let collect = || runtime.block_on(collector::collect(&world.host));
    assert_eq!(collect().problems, [""; 0]);
    let records = world.folder.path().join("host/vaults").join(world.member.id().to_hex()).join("records");
    let mut paths: Vec<_> = std::fs::read_dir(&records).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let frames = || world.vault.store.frames(FrameNumber(0), 1000).unwrap().len();
    let before = frames();
    let kept: Vec<_> = paths.iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    for lost in [1, paths.len()] {
        kept.iter().rev().take(lost).for_each(|(path, _)| std::fs::remove_file(path).unwrap());
        for _ in 0..3 {
            let freed = collect();
            assert_eq!((freed.frames, freed.problems.len()), (0, 1), "{freed:?}");
            assert!(freed.problems[0].contains("put the files"), "{freed:?}");
        }
        assert!(trouble::all(&world.host).iter().any(|trouble| trouble.about == "records"));
        assert_eq!(frames(), before);
        kept.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    }
    assert_eq!(collect().problems, [""; 0]);
    assert!(trouble::all(&world.host).iter().all(|trouble| trouble.about != "records"));
    assert_eq!(world.member.snapshots().unwrap().list.len(), 2);
}

/// A record that is added while the chain is looked through is none that was lost.
#[test]
fn who_looks_at_a_chain_that_grows_misses_nothing() {
    let world = World::new();
    let (host, vault) = (world.host.clone(), world.vault.clone());
    // Both begin together each time: who looks without a pause lets nobody else in.
    let (begin, begun) = std::sync::mpsc::sync_channel(0);
    let growing = std::thread::spawn(move || {
        for number in 0_u32..800 {
            begin.send(()).unwrap();
            let record = number.to_le_bytes().to_vec();
            let link = vault.store.append(&mut |_| Some(record.clone())).unwrap().unwrap();
            host.tips.reached(vault.store.vault(), &link, &record);
        }
    });
    while begun.recv().is_ok() {
        world.host.tips.require_whole(world.member.id(), &world.vault).unwrap();
    }
    growing.join().unwrap();
    world.host.tips.require_whole(world.member.id(), &world.vault).unwrap();
}

#[test]
fn what_was_freed_before_the_host_stopped_goes_from_the_map_when_it_starts() {
    let world = World::new();
    world.back_up(&noise(1));
    let second = world.back_up(&noise(2));
    let machine = MachineNumber(1);
    let held: Vec<_> = world.host.holders.owed(None, 1000).unwrap().iter().step_by(2).map(|owed| owed.id).collect();
    world.host.holders.confirm(machine, &held).unwrap();
    world.pass(i64::from(LOCK_DAYS) + 1);
    retention::forget(&world.member, &[second], "").unwrap();
    world.pass(i64::from(LOCK_DAYS) + 1);
    assert_eq!(retention::purge(&world.member).unwrap(), [second]);
    // The power goes when the vault is rid of it and nobody else has heard of that.
    let mut removed = Vec::new();
    for _ in 0..3 {
        let access = Access::Keyless { store: &world.vault.store, retention_days_min: LOCK_DAYS };
        let options = GcOptions { notes_removed: true, ..GcOptions::default() };
        removed.extend(gc::collect(access, &options, &Progress::silent()).unwrap().frames_removed);
    }
    assert!(removed.iter().any(|id| held.contains(id)) && removed.iter().any(|id| !held.contains(id)));
    let World { clock, host, vault, member, folder } = world;
    drop((host, vault, member));
    let data = folder.path().join("host");
    let identity = setup::load(&data).unwrap();
    let host = Host::open(Box::new(Folder(data)), env(&clock), Work::Here, identity).unwrap();
    assert_eq!(host.holders.is_removed(&removed).unwrap(), vec![true; removed.len()], "machines that come are told so");
    let believed = host.holders.frames_of(machine, None, 1000).unwrap();
    assert!(believed.iter().all(|(_, id)| !removed.contains(id)), "nobody is believed to hold what is gone");
    let owed = host.holders.owed(None, 1000).unwrap();
    assert!(owed.iter().all(|owed| !removed.contains(&owed.id)), "or wanted to");
    let left = host.vaults().iter().map(|(_, vault)| vault.store.removed_frames().unwrap().len()).sum::<usize>();
    assert_eq!(left, 0, "it is told once");
}
