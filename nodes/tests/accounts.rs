//! Accounts and vaults in the log: made in one step or not at all, whatever fails; who may say who is a member; devices
//! that are out at once.

mod office;

use office::{Account, Office, open, run, soon};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use twinkeep_engine::crypto::{SecretKey, WRAPPED_LEN};
use twinkeep_engine::env::{Env, Inline, ManualClock, SeededEntropy, Time};
use twinkeep_engine::files::Files;
use twinkeep_engine::files::faulty::{Call, Fault, Faults, FaultyFiles, FaultyKvHome};
use twinkeep_engine::files::memory::MemoryFiles;
use twinkeep_engine::id::VaultId;
use twinkeep_engine::kv::KvHome;
use twinkeep_engine::kv::memory::MemoryKvHome;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_engine::vault::{CreateOptions, Place, Vault};
use twinkeep_nodes::host::ground::{Ground, Space};
use twinkeep_nodes::host::room::Marks;
use twinkeep_nodes::host::serve::AdminServer;
use twinkeep_nodes::host::{Host, Identity};
use twinkeep_nodes::tracker::event::Event;
use twinkeep_nodes::tracker::limits::OWNED_MAX;
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::names::AccountId;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_nodes::work::Work;
use twinkeep_schema::office_capnp::{admin, new_vault, user_session};

/// A host's disk in memory, on which calls fail on demand.
#[derive(Clone, Default)]
struct Disk {
    office: MemoryFiles,
    holders: MemoryKvHome,
    vaults: Arc<Mutex<BTreeMap<VaultId, (MemoryFiles, MemoryKvHome)>>>,
    faults: Faults,
}

impl Disk {
    /// After a power cut.
    fn crash(&self) -> Self {
        let vaults = self.vaults.lock().unwrap();
        let left = vaults.iter().map(|(id, (files, kv))| (*id, (files.crash(), kv.crash()))).collect();
        let (office, holders) = (self.office.crash(), self.holders.crash());
        Self { office, holders, vaults: Arc::new(Mutex::new(left)), faults: Faults::new() }
    }
}

impl Ground for Disk {
    fn office(&self) -> Arc<dyn Files> {
        Arc::new(FaultyFiles::new(Arc::new(self.office.clone()), self.faults.clone()))
    }

    fn holders(&self) -> Arc<dyn KvHome> {
        Arc::new(self.holders.clone())
    }

    fn vault(&self, id: VaultId) -> Place {
        let (files, kv) = self.vaults.lock().unwrap().entry(id).or_default().clone();
        Place {
            files: Arc::new(FaultyFiles::new(Arc::new(files), self.faults.clone())),
            kv_home: Arc::new(FaultyKvHome::new(Arc::new(kv), self.faults.clone())),
        }
    }

    fn vaults(&self) -> std::io::Result<Vec<VaultId>> {
        Ok(self.vaults.lock().unwrap().keys().copied().collect())
    }

    fn remove_vault(&self, id: VaultId) -> std::io::Result<()> {
        self.vaults.lock().unwrap().remove(&id);
        Ok(())
    }

    fn space(&self) -> Space {
        Space::default()
    }
}

fn env(seed: u64) -> Env {
    let clock = Arc::new(ManualClock::new(Time(1000)));
    Env { clock, entropy: Arc::new(SeededEntropy::new(seed)), executor: Arc::new(Inline) }
}

fn identity() -> Identity {
    Identity {
        name: "host".into(),
        addresses: vec![],
        key: office::key(1),
        authority: office::key(2),
        answers: [3; 32],
        company_key: [4; 32],
        machine_id: [5; 16],
        marks: Marks { reserve: (0, 0), tell_at: Vec::new() },
    }
}

fn open_host(disk: &Disk) -> Arc<Host> {
    Host::open(Box::new(disk.clone()), env(1), Work::Here, identity()).unwrap()
}

fn put_vault(env: &Env, mut to: new_vault::Builder<'_>, name: &str, kind: &str) -> VaultId {
    let prepared = Vault::prepare(env, &CreateOptions::default(), &[]).unwrap();
    to.set_id(&prepared.vault.0);
    to.set_name(name);
    to.set_kind(kind);
    to.set_config(&prepared.head.config);
    to.set_keyring(&prepared.head.keyring);
    if kind == "company" {
        to.set_company_wrap(&[6; WRAPPED_LEN]);
    }
    to.set_wrapped(&[7; 72]);
    prepared.vault
}

async fn add_user(host: &Arc<Host>, env: &Env, name: &str) -> Result<(), Problem> {
    let admin: admin::Client = capnp_rpc::new_client(AdminServer::new(host.clone(), Actor::Host, || Ok(None)));
    let mut request = admin.add_user_request();
    let mut id = [0; 16];
    env.entropy.fill(&mut id);
    let mut user = request.get().init_user();
    let cost = PasswordCost::default();
    user.set_name(name);
    user.set_id(&id);
    user.set_login_key(&SigningKey::from_seed(&[9; 32]).public());
    user.set_salt(&[1; 16]);
    user.set_memory_kib(cost.memory_kib);
    user.set_passes(cost.passes);
    user.set_lanes(cost.lanes);
    user.set_wrapped_key(&[2; 72]);
    user.set_public_key(&SecretKey::from_bytes(&[3; 32]).public().0);
    put_vault(env, request.get().init_vault(), name, "company");
    Ok(request.send().promise.await.map(drop)?)
}

/// Names of the accounts; each has a vault that it is the owner and a member of, and that the host has.
fn whole_accounts(host: &Host) -> Vec<String> {
    let registry = host.office.registry();
    let mut names = Vec::new();
    for account in registry.accounts() {
        let mut vaults = registry.vaults_of(&account.id);
        let vault = vaults.next().unwrap_or_else(|| panic!("{} has no vault", account.name));
        assert!(vault.owner == account.id && vault.members.contains_key(&account.id) && vaults.next().is_none());
        assert!(account.key.is_some(), "{} has no key", account.name);
        host.vault(vault.id).unwrap_or_else(|problem| panic!("{}: {problem}", account.name));
        names.push(account.name.clone());
    }
    names.sort();
    names
}

#[test]
fn an_account_and_its_vault_are_made_together_or_not_at_all() {
    run(async || {
        let faults = [Fault::Os(28), Fault::Short(28), Fault::Late(5)];
        let (mut hits, mut made, mut lost, mut strays) = (0, 0, 0, 0);
        for (call, fault) in Call::ALL.into_iter().flat_map(|call| faults.map(|fault| (call, fault))) {
            for nth in 1..40 {
                let told = format!("{call:?} {fault:?} {nth}");
                let (disk, env) = (Disk::default(), env(nth));
                Host::create(&disk, &env, office::key(2)).unwrap();
                let host = open_host(&disk);
                disk.faults.fail_once(call, nth, fault);
                let first = add_user(&host, &env, "anna").await;
                let has_failed = disk.faults.hits() > 0;
                hits += usize::from(has_failed);
                disk.faults.clear();
                // Killed here: what was acknowledged is there, whole; what was not is there as a whole or not at all.
                let crashed = disk.crash();
                let again = open_host(&crashed);
                let left = whole_accounts(&again);
                let folders = crashed.vaults.lock().unwrap().len();
                assert_eq!(folders, left.len(), "{told}: a folder that was never used stays");
                assert!(twinkeep_nodes::host::trouble::all(&again).is_empty(), "{told}");
                strays += usize::from(disk.vaults.lock().unwrap().len() > folders);
                assert!(first.is_err() || left == ["anna"], "{told}: {left:?}");
                made += usize::from(first.is_err() && !left.is_empty());
                lost += usize::from(left.is_empty());
                // Whoever tries again does it, or is told that it is done.
                match add_user(&host, &env, "anna").await {
                    Ok(()) => assert!(first.is_err(), "{told}: made twice"),
                    Err(problem) => assert!(problem.text.contains("taken"), "{told}: {problem}"),
                }
                add_user(&host, &env, "bert").await.unwrap();
                assert_eq!(whole_accounts(&host), ["anna", "bert"], "{told}");
                assert_eq!(whole_accounts(&open_host(&disk.crash())), ["anna", "bert"], "{told}");
                if !has_failed {
                    break;
                }
            }
        }
        println!("{hits} calls failed: {lost} times nothing was made, {made} times it was and nobody was told");
        println!("{strays} folders were left that nobody knows, and removed");
        assert!(hits > 50 && lost > 20 && made > 0 && strays > 10, "{hits} {lost} {made} {strays}");
    });
}

#[test]
fn a_folder_that_holds_something_stays_and_is_told_of() {
    run(async || {
        let (disk, env) = (Disk::default(), env(1));
        Host::create(&disk, &env, office::key(2)).unwrap();
        let prepared = Vault::prepare(&env, &CreateOptions::default(), &[]).unwrap();
        for path in ["packs/x", "records/1", "notes", "packs/aside/x"] {
            let host = open_host(&disk);
            host.make_vault(&prepared.head).unwrap();
            drop(host);
            let (files, _) = disk.vaults.lock().unwrap()[&prepared.vault].clone();
            if let Some((dir, _)) = path.rsplit_once('/') {
                files.create_dir(dir).unwrap();
            }
            files.write_atomic(path, b"something").unwrap();
            let again = open_host(&disk);
            let told = twinkeep_nodes::host::trouble::all(&again);
            assert_eq!(told.len(), 1, "{path}: {told:?}");
            assert!(told[0].about == "vaults" && told[0].text.contains(&prepared.vault.to_hex()), "{told:?}");
            assert_eq!(files.read_all(path, 100).unwrap(), b"something", "{path}");
            assert!(again.vault(prepared.vault).is_err());
            drop(again);
            files.remove(path).unwrap();
            if path.contains("aside") {
                continue;
            }
            assert!(twinkeep_nodes::host::trouble::all(&open_host(&disk)).is_empty());
            assert!(disk.vaults.lock().unwrap().is_empty(), "{path}");
        }
    });
}

async fn session(office: &Office, account: &Account, number: u8) -> (office::Wire, user_session::Client) {
    let wire = office.dial(&office.machine(&format!("pc-{number}"), number, false)).await;
    let session = office.login(&wire.bootstrap, wire.key, account).await.unwrap();
    (wire, session)
}

async fn add_vault(
    session: &user_session::Client,
    env: &Env,
    name: &str,
    kind: &str,
    members: &[AccountId],
) -> Result<VaultId, Problem> {
    let mut request = session.add_vault_request();
    let id = put_vault(env, request.get().init_vault(), name, kind);
    let mut list = request.get().init_members(members.len() as u32);
    for (at, member) in (0..).zip(members) {
        list.reborrow().get(at).set_account(&member.0);
        list.reborrow().get(at).set_wrapped(&[8; WRAPPED_LEN]);
    }
    soon(request.send().promise).await?;
    Ok(id)
}

async fn add_member(session: &user_session::Client, vault: VaultId, account: AccountId) -> Result<(), Problem> {
    let mut request = session.add_member_request();
    request.get().set_vault(&vault.0);
    let mut wrap = request.get().init_wrap();
    wrap.set_account(&account.0);
    wrap.set_wrapped(&[8; WRAPPED_LEN]);
    Ok(soon(request.send().promise).await.map(drop)?)
}

async fn remove_member(session: &user_session::Client, vault: VaultId, name: &str) -> Result<(), Problem> {
    let mut request = session.remove_member_request();
    request.get().set_vault(&vault.0);
    request.get().set_account(name);
    Ok(soon(request.send().promise).await.map(drop)?)
}

fn refused<T>(why: Why, outcome: Result<T, Problem>) -> Problem {
    let problem = outcome.err().expect("it was let through");
    assert_eq!(problem.why, why, "{problem:?}");
    problem
}

#[test]
fn the_owner_says_who_is_a_member_and_who_is_out_is_out_at_once() {
    run(async || {
        let office = Office::start().await;
        let (anna, bert) = (office.account("anna", 101, false), office.account("bert", 102, false));
        let carla = office.account("carla", 103, false);
        let (_a, annas) = session(&office, &anna, 1).await;
        let (_b, berts) = session(&office, &bert, 2).await;
        let (_c, carlas) = session(&office, &carla, 3).await;
        let team = add_vault(&annas, &office.env, "team", "shared", &[bert.id]).await.unwrap();
        let theirs = open(&berts, team).await.unwrap();
        refused(Why::NotFound, open(&carlas, team).await);

        // A member says nothing of others, and takes from nobody what opens the vault.
        refused(Why::NotAllowed, add_member(&berts, team, carla.id).await);
        refused(Why::NotAllowed, remove_member(&berts, team, "anna").await);
        refused(Why::NotAllowed, add_member(&berts, team, anna.id).await);
        // It helps one whose key is another now.
        for byte in [5, 6] {
            let key = SecretKey::from_bytes(&[byte; 32]).public().0;
            office.host.office.append(Actor::Host, Event::AccountKey { id: anna.id, key }).unwrap();
        }
        add_member(&berts, team, anna.id).await.unwrap();
        refused(Why::NotAllowed, add_member(&berts, team, anna.id).await);
        refused(Why::NotFound, add_member(&carlas, team, carla.id).await);
        refused(Why::NotFound, remove_member(&carlas, team, "bert").await);
        refused(Why::Usage, remove_member(&annas, team, "anna").await);
        add_member(&annas, team, carla.id).await.unwrap();
        open(&carlas, team).await.unwrap();

        remove_member(&annas, team, "bert").await.unwrap();
        refused(Why::NotFound, soon(theirs.known_request().send().promise).await.map_err(Problem::from));
        refused(Why::NotFound, open(&berts, team).await);
        // Who leaves by themselves is out, too.
        remove_member(&carlas, team, "carla").await.unwrap();
        refused(Why::NotFound, open(&carlas, team).await);

        // Other vaults have one member for ever.
        let own = add_vault(&annas, &office.env, "second", "private", &[]).await.unwrap();
        open(&annas, own).await.unwrap();
        refused(Why::Usage, add_member(&annas, own, bert.id).await);
        refused(Why::Usage, add_member(&annas, anna.vault, bert.id).await);
        refused(Why::Usage, add_vault(&annas, &office.env, "third", "company", &[bert.id]).await);
        refused(Why::Usage, add_vault(&annas, &office.env, "TEAM", "shared", &[]).await);
        refused(Why::Usage, add_vault(&annas, &office.env, "a/b", "shared", &[]).await);
        refused(Why::Usage, add_vault(&annas, &office.env, "x", "shared", &[AccountId([0; 16])]).await);
        let mut request = annas.add_vault_request();
        let mut vault = request.get().init_vault();
        put_vault(&office.env, vault.reborrow(), "bert-too", "shared");
        vault.set_owner("bert");
        refused(Why::NotAllowed, soon(request.send().promise).await.map_err(Problem::from));

        // So many, and no more.
        for number in 3..OWNED_MAX {
            add_vault(&annas, &office.env, &format!("v{number}"), "shared", &[]).await.unwrap();
        }
        let problem = refused(Why::Usage, add_vault(&annas, &office.env, "last", "shared", &[]).await);
        assert!(problem.text.contains("32 vaults"), "{problem}");
    });
}

#[test]
fn a_key_is_said_once_and_a_new_password_ends_what_the_old_one_began() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let (wire, annas) = session(&office, &anna, 1).await;
        let set = async |byte: u8| {
            let mut request = annas.set_key_request();
            request.get().set_public_key(&SecretKey::from_bytes(&[byte; 32]).public().0);
            soon(request.send().promise).await.map(drop).map_err(Problem::from)
        };
        set(1).await.unwrap();
        set(1).await.unwrap();
        refused(Why::NotAllowed, set(2).await);
        let mut request = annas.set_key_request();
        request.get().set_public_key(&[0; 32]);
        refused(Why::Usage, soon(request.send().promise).await.map_err(Problem::from));

        let other = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        let mut request = annas.passwd_request();
        let cost = PasswordCost::default();
        let mut login = request.get();
        login.set_login_key(&office::key(77).public());
        login.set_salt(&[1; 16]);
        login.set_memory_kib(cost.memory_kib);
        login.set_passes(cost.passes);
        login.set_lanes(cost.lanes);
        login.set_wrapped_key(&[2; 72]);
        soon(request.send().promise).await.unwrap();
        refused(Why::NotAllowed, open(&other, anna.vault).await);
        office.prove(&wire.bootstrap, wire.key, "anna", &office::key(77), None).await.unwrap();
        refused(Why::WrongKey, office.login(&wire.bootstrap, wire.key, &anna).await);
    });
}

#[test]
fn an_administrator_revokes_a_device_of_anybody() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let (wire, annas) = session(&office, &anna, 1).await;
        let mut request = annas.add_device_request();
        request.get().set_label("her laptop");
        request.get().set_key(&office::key(50).public());
        let answer = soon(request.send().promise).await.unwrap();
        let id = answer.get().unwrap().get_device().unwrap().to_vec();
        let by_device = {
            let id = twinkeep_nodes::tracker::names::AccountDeviceId(id.clone().try_into().unwrap());
            office.prove(&wire.bootstrap, wire.key, "anna", &office::key(50), Some(id)).await.unwrap().0
        };
        open(&by_device, anna.vault).await.unwrap();
        let answer = soon(office.local().await.admin_request().send().promise).await.unwrap();
        let admin = answer.get().unwrap().get_admin().unwrap();
        let mut request = admin.devices_request();
        request.get().set_account("anna");
        let answer = soon(request.send().promise).await.unwrap();
        let devices = answer.get().unwrap().get_devices().unwrap();
        assert_eq!((devices.len(), devices.get(0).get_label().unwrap().to_str().unwrap()), (1, "her laptop"));
        assert_eq!(devices.get(0).get_id().unwrap(), &id[..]);
        let revoke = async |account: &str| {
            let mut request = admin.revoke_device_request();
            request.get().set_account(account);
            request.get().set_device(&id);
            soon(request.send().promise).await.map(drop).map_err(Problem::from)
        };
        office.account("bert", 102, false);
        refused(Why::NotFound, revoke("bert").await);
        revoke("anna").await.unwrap();
        refused(Why::NotAllowed, open(&by_device, anna.vault).await);
        refused(Why::Usage, revoke("anna").await);
        open(&annas, anna.vault).await.unwrap();
        let answer = soon(annas.devices_request().send().promise).await.unwrap();
        assert_eq!(answer.get().unwrap().get_devices().unwrap().len(), 0);
    });
}
