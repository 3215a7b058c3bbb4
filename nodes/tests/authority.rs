//! Who may call what. The list of calls is that of the schema itself: one without a row here fails, so does a row without
//! a call; every call is really made, with empty arguments unless they would matter.

mod office;

use capnp::any_pointer;
use capnp::capability::Client as AnyClient;
use capnp::message::ReaderOptions;
use capnp::schema_capnp::{code_generator_request, node};
use office::{Account, Mill, Office, Wire, any, begin, done, local_of, open, put, run, soon, until, upload};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use twinkeep_engine::crypto::SecretKey;
use twinkeep_engine::id::{FrameId, VaultId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::store::Store;
use twinkeep_nodes::terminal::copies::{CopiesServer, Kept};
use twinkeep_nodes::terminal::{self, Settings, ground, order};
use twinkeep_nodes::tracker::event::Event;
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::member::recovery_answer;
use twinkeep_nodes::tracker::names::AccountDeviceId;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::transport::keys::node_key;
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_nodes::transport::tls;
use twinkeep_nodes::work::Work;
use twinkeep_schema::office_capnp::{
    admin, bootstrap, copies, local, login, node_session, recovery_proof, upload as upload_capnp, user_session, vault,
    write_session,
};

/// Who calls: nobody's key, a key never seen, a machine that waits, one that was revoked, one on which nobody is logged
/// in, an account that is no member, an account, a disabled one, an administrator, a program at the host's socket, one at
/// a terminal's socket, the tracker.
const CALLERS: [&str; 12] = [
    "keyless", "stranger", "pending", "revoked", "machine", "other", "account", "disabled", "admin", "host", "program",
    "tracker",
];

/// `a` allowed, `r` refused, `-` no capability can be had to call it on; in the order of [`CALLERS`].
const TABLE: &[(&str, &str)] = &[
    ("Bootstrap.hello", "- a a a a a a a a a a -"),
    ("Bootstrap.join", "- a a a a a a a a a r -"),
    ("Bootstrap.status", "- a a a a a a a a a a -"),
    ("Bootstrap.node", "- r r r a a a a a r r -"),
    ("Bootstrap.login", "- r r r a a a a a a a -"),
    ("Login.prove", "- - - r a a a a a a a -"),
    ("NodeSession.beat", "- - - r a a a a a - - -"),
    ("NodeSession.confirm", "- - - r a a a a a - - -"),
    ("NodeSession.retract", "- - - r a a a a a - - -"),
    ("NodeSession.place", "- - - r a a a a a - - -"),
    ("Copies.upload", "- - - - - - - - - - - a"),
    ("Copies.settle", "- - - - - - - - - - - a"),
    ("Copies.read", "- - - - - - - - - - - a"),
    ("Copies.list", "- - - - - - - - - - - a"),
    ("Copies.drop", "- - - - - - - - - - - a"),
    ("Copies.prove", "- - - - - - - - - - - a"),
    ("Copies.has", "- - - - - - - - - - - a"),
    ("Copies.scrub", "- - - - - - - - - - - a"),
    ("Copies.away", "- - - - - - - - - - - a"),
    ("Upload.put", "- - - r - - a r a - a a"),
    ("Upload.done", "- - - r - - a r a - a a"),
    ("UserSession.account", "- - - r - a a r a - - -"),
    ("UserSession.vaults", "- - - r - a a r a - - -"),
    ("UserSession.open", "- - - r - r a r a - - -"),
    ("UserSession.addDevice", "- - - r - a a r a - - -"),
    ("UserSession.revokeDevice", "- - - r - a a r a - - -"),
    ("UserSession.passwd", "- - - r - a a r a - - -"),
    ("UserSession.admin", "- - - r - r r r a - - -"),
    ("UserSession.addVault", "- - - r - a a r a - - -"),
    ("UserSession.companyKey", "- - - r - a a r a - - -"),
    ("UserSession.accountKey", "- - - r - a a r a - - -"),
    ("UserSession.addMember", "- - - r - r a r a - - -"),
    ("UserSession.removeMember", "- - - r - r a r a - - -"),
    ("UserSession.devices", "- - - r - a a r a - - -"),
    ("UserSession.setKey", "- - - r - a a r a - - -"),
    ("Vault.head", "- - - r - - a r a - - -"),
    ("Vault.known", "- - - r - - a r a - - -"),
    ("Vault.whole", "- - - r - - a r a - - -"),
    ("Vault.places", "- - - r - - a r a - - -"),
    ("Vault.readFrame", "- - - r - - a r a - - -"),
    ("Vault.frames", "- - - r - - a r a - - -"),
    ("Vault.packName", "- - - r - - a r a - - -"),
    ("Vault.begin", "- - - r - - a r a - - -"),
    ("Vault.records", "- - - r - - a r a - - -"),
    ("Vault.link", "- - - r - - a r a - - -"),
    ("Vault.append", "- - - r - - a r a - - -"),
    ("Vault.unwhole", "- - - r - - a r a - - -"),
    ("Vault.pin", "- - - r - - a r a - - -"),
    ("Vault.expel", "- - - r - - a r a - - -"),
    ("Vault.copies", "- - - r - - a r a - - -"),
    ("WriteSession.claim", "- - - r - - a r a - - -"),
    ("WriteSession.upload", "- - - r - - a r a - - -"),
    ("WriteSession.checkpoint", "- - - r - - a r a - - -"),
    ("WriteSession.settle", "- - - r - - a r a - - -"),
    ("WriteSession.publish", "- - - r - - a r a - - -"),
    ("WriteSession.healed", "- - - r - - a r a - - -"),
    ("Admin.addUser", "- - - r - - - r a a - -"),
    ("Admin.users", "- - - r - - - r a a - -"),
    ("Admin.disableUser", "- - - r - - - r a a - -"),
    ("Admin.quota", "- - - r - - - r a a - -"),
    ("Admin.addVault", "- - - r - - - r a a - -"),
    ("Admin.token", "- - - r - - - r a a - -"),
    ("Admin.nodes", "- - - r - - - r a a - -"),
    ("Admin.approve", "- - - r - - - r a a - -"),
    ("Admin.revoke", "- - - r - - - r a a - -"),
    ("Admin.forget", "- - - r - - - r a a - -"),
    ("Admin.drain", "- - - r - - - r a a - -"),
    ("Admin.copies", "- - - r - - - r a a - -"),
    ("Admin.why", "- - - r - - - r a a - -"),
    ("Admin.audit", "- - - r - - - r a a - -"),
    ("Admin.status", "- - - r - - - r a a - -"),
    ("Admin.companyKey", "- - - r - - - r a a - -"),
    ("Admin.scrub", "- - - r - - - r a a - -"),
    ("Admin.collect", "- - - r - - - r a a - -"),
    ("Admin.giveUp", "- - - r - - - r a a - -"),
    ("Admin.devices", "- - - r - - - r a a - -"),
    ("Admin.revokeDevice", "- - - r - - - r a a - -"),
    ("Admin.vaults", "- - - r - - - r a a - -"),
    ("Admin.removeMember", "- - - r - - - r a a - -"),
    ("Admin.recovery", "- - - r - - - r a a - -"),
    ("RecoveryProof.prove", "- - - r - - - r a a - -"),
    ("Recovery.vaults", "- - - r - - - r a a - -"),
    ("Recovery.open", "- - - r - - - r a a - -"),
    ("Recovery.reset", "- - - r - - - r a a - -"),
    ("Recovery.addMember", "- - - r - - - r a a - -"),
    ("Admin.stop", "- - - r - - - r r a - -"),
    ("Local.tracker", "- - - - - - - - - a a -"),
    ("Local.keep", "- - - - - - - - - r a -"),
    ("Local.status", "- - - - - - - - - a a -"),
    ("Local.admin", "- - - - - - - - - a r -"),
    ("Keeper.upload", "- - - - - - - - - - a -"),
    ("Keeper.settle", "- - - - - - - - - - a -"),
];

/// A call of the schema: its name, and the numbers it goes by.
struct Method {
    interface: String,
    name: String,
    id: u64,
    ordinal: u16,
}

/// Every call of every interface, as the committed request says.
fn methods() -> Vec<Method> {
    let bytes = include_bytes!("../../schema/request/office.bin");
    let message = capnp::serialize::read_message(&bytes[..], ReaderOptions::new()).unwrap();
    let request: code_generator_request::Reader<'_> = message.get_root().unwrap();
    let mut all = Vec::new();
    for node in request.get_nodes().unwrap() {
        let Ok(node::Interface(interface)) = node.which() else { continue };
        let shown = node.get_display_name().unwrap().to_string().unwrap();
        // Of other files only what the schema itself imports is here, and it is of no use to anybody.
        let Some((_, name)) = shown.split_once("office.capnp:") else { continue };
        for (ordinal, method) in (0..).zip(interface.get_methods().unwrap()) {
            let (interface, name) = (name.to_owned(), method.get_name().unwrap().to_string().unwrap());
            all.push(Method { interface, name, id: node.get_id(), ordinal });
        }
    }
    all
}

/// The cells that do not fit the schema: calls without a row, rows without a call, rows of another length.
fn misfits(methods: &[Method], table: &[(&str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let calls: Vec<String> = methods.iter().map(|method| format!("{}.{}", method.interface, method.name)).collect();
    for call in &calls {
        match table.iter().filter(|(name, _)| name == call).count() {
            1 => {}
            found => wrong.push(format!("{call} has {found} rows")),
        }
    }
    for (name, cells) in table {
        if !calls.iter().any(|call| call == name) {
            wrong.push(format!("there is no call {name}"));
        }
        let cells: Vec<&str> = cells.split(' ').collect();
        if cells.len() != CALLERS.len() || cells.iter().any(|cell| !["a", "r", "-"].contains(cell)) {
            wrong.push(format!("the row of {name} is no row"));
        }
    }
    wrong
}

#[test]
fn the_table_has_every_call_and_no_other() {
    let methods = methods();
    assert!(methods.len() > 60, "{} calls were found", methods.len());
    assert_eq!(misfits(&methods, TABLE), Vec::<String>::new());
    assert_eq!(misfits(&methods, &TABLE[1..]), ["Bootstrap.hello has 0 rows"]);
    let more = [TABLE, &[("Vault.delete", "- - - - - - - - - - - -")]].concat();
    assert_eq!(misfits(&methods, &more), ["there is no call Vault.delete"]);
}

/// Capabilities of a caller, by interface.
#[derive(Default)]
struct Hand {
    caps: BTreeMap<&'static str, Rc<AnyClient>>,
    /// An upload that nothing was put into.
    fresh: Option<Rc<AnyClient>>,
    open: Option<VaultId>,
    order: Vec<u8>,
    _wire: Option<Wire>,
}

impl Hand {
    fn of(bootstrap: bootstrap::Client) -> Self {
        let mut hand = Self::default();
        hand.caps.insert("Bootstrap", any(bootstrap));
        hand
    }

    fn get(&self, interface: &str, name: &str) -> Option<Rc<AnyClient>> {
        match (interface, name) {
            ("Upload", "done") => self.fresh.clone(),
            _ => self.caps.get(interface).cloned(),
        }
    }
}

/// What can be had from a bootstrap without being anybody.
async fn reach_machine(hand: &mut Hand, bootstrap: &bootstrap::Client, copies: &copies::Client, name: &str) {
    let mut request = bootstrap.login_request();
    request.get().set_account(name);
    if let Ok(answer) = soon(request.send().promise).await {
        let login: login::Client = answer.get().unwrap().get_login().unwrap();
        hand.caps.insert("Login", any(login));
    }
    let mut request = bootstrap.node_request();
    let mut told = request.get().init_registration();
    told.set_run(&[7; 16]);
    told.set_machine_id(&[7; 16]);
    told.init_inventory().set_digest(&[0; 32]);
    request.get().set_copies(copies.clone());
    if let Ok(answer) = soon(request.send().promise).await {
        let session: node_session::Client = answer.get().unwrap().get_session().unwrap();
        hand.caps.insert("NodeSession", any(session));
    }
}

/// What an administrator gets who has the recovery kit.
async fn reach_recovery(hand: &mut Hand, admin: &admin::Client, company: &SecretKey) {
    let ask = async || {
        let answer = soon(admin.recovery_request().send().promise).await.unwrap();
        let answer = answer.get().unwrap();
        let proof: recovery_proof::Client = answer.get_proof().unwrap();
        (proof, recovery_answer(company, answer.get_challenge().unwrap()).unwrap())
    };
    hand.caps.insert("RecoveryProof", any(ask().await.0));
    let (proof, answer) = ask().await;
    let mut request = proof.prove_request();
    request.get().set_answer(&answer);
    let answer = soon(request.send().promise).await.unwrap();
    hand.caps.insert("Recovery", any(answer.get().unwrap().get_recovery().unwrap()));
}

/// What can be had from a session of an account that looks for this vault.
async fn reach_account(hand: &mut Hand, session: user_session::Client, vault: VaultId, company: &SecretKey) {
    hand.open = Some(vault);
    if let Ok(answer) = soon(session.admin_request().send().promise).await {
        let admin: admin::Client = answer.get().unwrap().get_admin().unwrap();
        reach_recovery(hand, &admin, company).await;
        hand.caps.insert("Admin", any(admin));
    }
    if let Ok(vault) = open(&session, vault).await {
        let (write, _) = begin(&vault).await.unwrap();
        let (first, second) = (upload(&write).await.unwrap(), upload(&write).await.unwrap());
        hand.caps.insert("Upload", any(first));
        hand.fresh = Some(any(second));
        hand.caps.insert("WriteSession", any::<write_session::Client>(write));
        hand.caps.insert("Vault", any::<vault::Client>(vault));
    }
    hand.caps.insert("UserSession", any(session));
}

/// Makes a call and says what came of it.
async fn call(hand: &Hand, method: &Method) -> Result<(), Problem> {
    let Some(client) = hand.get(&method.interface, &method.name) else { unreachable!("looked at before") };
    let mut request = client.new_call::<any_pointer::Owned, any_pointer::Owned>(method.id, method.ordinal, None);
    match (&method.interface[..], &method.name[..]) {
        ("UserSession", "open") => {
            let mut params = request.get().init_as::<user_session::open_params::Builder<'_>>();
            params.set_vault(&hand.open.unwrap_or(VaultId([0; 16])).0);
        }
        ("UserSession", "addMember") => {
            let mut params = request.get().init_as::<user_session::add_member_params::Builder<'_>>();
            params.set_vault(&hand.open.unwrap_or(VaultId([0; 16])).0);
        }
        ("UserSession", "removeMember") => {
            let mut params = request.get().init_as::<user_session::remove_member_params::Builder<'_>>();
            params.set_vault(&hand.open.unwrap_or(VaultId([0; 16])).0);
        }
        ("Bootstrap", "node") => {
            let mut params = request.get().init_as::<bootstrap::node_params::Builder<'_>>();
            params.set_copies(capnp::capability::FromClientHook::new(client.hook.add_ref()));
        }
        // Or the host would be gone.
        ("Admin", "stop") => request.get().init_as::<admin::stop_params::Builder<'_>>().set_planned(true),
        ("Copies", "drop") => request.get().init_as::<copies::drop_params::Builder<'_>>().set_order(&hand.order),
        _ => {}
    }
    soon(request.send().promise).await?;
    if (&method.interface[..], &method.name[..]) == ("Upload", "put") {
        // A stream says at its end what was wrong.
        let upload: upload_capnp::Client = capnp::capability::FromClientHook::new(client.hook.add_ref());
        office::done(&upload).await?;
    }
    Ok(())
}

/// How a call ended, as a cell says it.
fn cell(outcome: &Result<(), Problem>) -> &'static str {
    match outcome {
        Ok(()) => "a",
        Err(problem) if problem.why == Why::NotAllowed => "r",
        // What one is no member of does not exist.
        Err(problem) if problem.text.starts_with("there is no vault") => "r",
        Err(problem) if problem.text.contains("cannot do this") => "r",
        // The call ran and found its arguments empty.
        Err(_) => "a",
    }
}

/// A terminal's folder and store.
fn kept(office: &Office, name: &str) -> Arc<Kept> {
    let data = office.temp.path().join(name);
    std::fs::create_dir_all(&data).unwrap();
    Kept::new(ground::copies(&data, office.env.clone(), name).unwrap().store, 1 << 30)
}

/// A terminal that runs, and what it offers to programs beside it.
async fn terminal(office: &Office, key: SigningKey) -> local::Client {
    let data = office.temp.path().join("terminal");
    let kept = kept(office, "terminal");
    let socket = ground::socket(&data);
    let listener = UnixListener::bind(&socket).unwrap();
    let settings = Settings {
        data,
        name: "pc".into(),
        key,
        hosts: vec![office.address.to_string()],
        host_key: office.host.key(),
        authority: office.host.office.authority(),
        machine_id: [3; 16],
        version: "1".into(),
    };
    let env = office.env.clone();
    let running = terminal::run(settings, kept, env, Work::Threads, listener, std::future::pending());
    tokio::task::spawn_local(async move { drop(running.await) });
    let local = local_of(&socket).await;
    until("the terminal reaches its host", async || {
        let answer = soon(local.status_request().send().promise).await.unwrap();
        answer.get().unwrap().get_status().unwrap().get_connected()
    })
    .await;
    local
}

/// A TLS connection that shows no key.
async fn keyless_is_refused(office: &Office) -> bool {
    #[derive(Debug)]
    struct Any;
    impl rustls::client::ResolvesClientCert for Any {
        fn resolve(
            &self,
            _hints: &[&[u8]],
            _schemes: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            None
        }
        fn has_certs(&self) -> bool {
            false
        }
        fn only_raw_public_keys(&self) -> bool {
            true
        }
    }
    let mut config = (*tls::client(&office::key(1), &[office.host.key()])).clone();
    config.client_auth_cert_resolver = Arc::new(Any);
    let stream = office.tcp(std::net::Ipv4Addr::LOCALHOST).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    match soon(connector.connect(tls::server_name(), stream)).await {
        Err(_) => true,
        // The other side says no in its next word.
        Ok(mut stream) => !matches!(soon(stream.read(&mut [0; 1])).await, Ok(1..)),
    }
}

async fn a_machines_hand(office: &Office, key: &SigningKey, copies: &copies::Client, name: &str) -> Hand {
    let wire = office.dial(key).await;
    let bootstrap = wire.bootstrap.clone();
    let mut hand = Hand::of(bootstrap.clone());
    hand._wire = Some(wire);
    reach_machine(&mut hand, &bootstrap, copies, name).await;
    hand
}

/// A hand on a capability that no hanging up takes away.
async fn a_held_hand(office: &Office, key: &SigningKey, copies: &copies::Client, account: &Account) -> Hand {
    let bootstrap = office.inside(key);
    let mut hand = Hand::of(bootstrap.clone());
    reach_machine(&mut hand, &bootstrap, copies, "nobody-held").await;
    let session = office.login(&bootstrap, node_key(key), account).await.unwrap();
    reach_account(&mut hand, session, account.vault, &office.company()).await;
    hand
}

/// The capabilities of every caller.
async fn hands(office: &Office, copies: &copies::Client, kept: Arc<Kept>) -> BTreeMap<&'static str, Hand> {
    let mut hands = BTreeMap::new();
    let (anna, boris) = (office.account("anna", 101, false), office.account("boris", 102, false));
    let (carla, dora) = (office.account("carla", 103, true), office.account("dora", 104, true));
    let eva = office.account("eva", 105, true);
    let revoked = office.machine("revoked", 13, false);
    let machines: Vec<SigningKey> =
        (20..25).map(|number| office.machine(&format!("pc-{number}"), number, false)).collect();
    let pending = office.machine("pending", 12, true);

    hands.insert("keyless", Hand::default());
    hands.insert("stranger", a_machines_hand(office, &office::key(11), copies, "nobody-1").await);
    hands.insert("pending", a_machines_hand(office, &pending, copies, "nobody-2").await);
    hands.insert("machine", a_machines_hand(office, &machines[0], copies, "nobody-3").await);
    for (caller, account, machine) in
        [("other", &boris, &machines[1]), ("account", &anna, &machines[2]), ("admin", &carla, &machines[3])]
    {
        let mut hand = a_machines_hand(office, machine, copies, &format!("nobody-{caller}")).await;
        let bootstrap = hand._wire.as_ref().unwrap().bootstrap.clone();
        let session = office.login(&bootstrap, node_key(machine), account).await.unwrap();
        let wanted = if caller == "other" { anna.vault } else { account.vault };
        reach_account(&mut hand, session, wanted, &office.company()).await;
        hands.insert(caller, hand);
    }

    let mut disabled = a_machines_hand(office, &machines[4], copies, "nobody-disabled").await;
    let bootstrap = disabled._wire.as_ref().unwrap().bootstrap.clone();
    let session = office.login(&bootstrap, node_key(&machines[4]), &dora).await.unwrap();
    reach_account(&mut disabled, session, dora.vault, &office.company()).await;
    office.host.office.append(Actor::Host, Event::AccountDisabled { id: dora.id, on: true }).unwrap();
    hands.insert("disabled", disabled);

    // What it held, and anew what it can get after its key was revoked.
    let mut held = a_held_hand(office, &revoked, copies, &eva).await;
    office.host.office.append(Actor::Host, Event::NodeRevoked { key: node_key(&revoked) }).unwrap();
    let wire = office.dial(&revoked).await;
    held.caps.insert("Bootstrap", any(wire.bootstrap.clone()));
    held._wire = Some(wire);
    hands.insert("revoked", held);

    hands.insert("host", a_programs_hand(&office.local().await, copies, "nobody-host", &office.company()).await);
    let pc = office.machine("pc", 30, false);
    hands.insert("program", a_programs_hand(&terminal(office, pc).await, copies, "nobody-pc", &office.company()).await);

    let mut tracker =
        Hand { order: order::sign(office.host.office.signing_key(), &[FrameId([1; 32])]), ..Hand::default() };
    tracker.caps.insert("Copies", any(copies.clone()));
    let server = CopiesServer::new(kept, office.host.office.authority(), Work::Threads);
    let own: copies::Client = capnp_rpc::new_client(server);
    for slot in 0..2 {
        let answer = soon(own.upload_request().send().promise).await.unwrap();
        let upload = any(answer.get().unwrap().get_upload().unwrap());
        match slot {
            0 => drop(tracker.caps.insert("Upload", upload)),
            _ => tracker.fresh = Some(upload),
        }
    }
    hands.insert("tracker", tracker);
    hands
}

/// What a program gets from a socket of its machine.
async fn a_programs_hand(local: &local::Client, copies: &copies::Client, name: &str, company: &SecretKey) -> Hand {
    let answer = soon(local.tracker_request().send().promise).await.unwrap();
    let bootstrap = answer.get().unwrap().get_bootstrap().unwrap();
    let mut hand = Hand::of(bootstrap.clone());
    reach_machine(&mut hand, &bootstrap, copies, name).await;
    if let Ok(answer) = soon(local.admin_request().send().promise).await {
        let admin: admin::Client = answer.get().unwrap().get_admin().unwrap();
        reach_recovery(&mut hand, &admin, company).await;
        hand.caps.insert("Admin", any(admin));
    }
    let mut request = local.keep_request();
    request.get().set_vault(&[1; 16]);
    if let Ok(answer) = soon(request.send().promise).await {
        let keeper = answer.get().unwrap().get_keeper().unwrap();
        for slot in 0..2 {
            let answer = soon(keeper.upload_request().send().promise).await.unwrap();
            let upload = any(answer.get().unwrap().get_upload().unwrap());
            match slot {
                0 => drop(hand.caps.insert("Upload", upload)),
                _ => hand.fresh = Some(upload),
            }
        }
        hand.caps.insert("Keeper", any(keeper));
    }
    hand.caps.insert("Local", any(local.clone()));
    hand
}

#[test]
fn everybody_may_do_what_the_table_says() {
    run(async || {
        let office = Office::start().await;
        assert!(keyless_is_refused(&office).await, "a connection without a key was let in");
        let kept = kept(&office, "copies");
        let server = CopiesServer::new(kept.clone(), office.host.office.authority(), Work::Threads);
        let copies: copies::Client = capnp_rpc::new_client(server);
        let hands = hands(&office, &copies, kept).await;
        let methods = methods();
        let (mut wrong, mut counts) = (Vec::new(), BTreeMap::<&str, usize>::new());
        for (name, cells) in TABLE {
            let method =
                methods.iter().find(|method| format!("{}.{}", method.interface, method.name) == *name).unwrap();
            for (caller, expected) in CALLERS.iter().zip(cells.split(' ')) {
                let hand = &hands[caller];
                let (found, told) = match hand.get(&method.interface, &method.name) {
                    None => ("-", String::new()),
                    Some(_) => {
                        let outcome = call(hand, method).await;
                        (cell(&outcome), outcome.map_or_else(|problem| problem.text, |()| "done".into()))
                    }
                };
                *counts.entry(found).or_default() += 1;
                if found != expected {
                    wrong.push(format!("{name} by {caller}: {found}, expected {expected} ({told})"));
                }
            }
        }
        println!("cells: {counts:?}");
        assert_eq!(wrong, Vec::<String>::new(), "{}", wrong.join("\n"));
    });
}

/// Frames of a vault at the host.
fn frames(office: &Office, vault: VaultId) -> usize {
    office.host.vault(vault).unwrap().store.frames(FrameNumber(0), 1000).unwrap().len()
}

fn refused<T>(outcome: Result<T, Problem>) {
    let problem = outcome.err().expect("somebody was let in who is out");
    assert!(problem.why == Why::NotAllowed || problem.text.starts_with("there is no vault"), "{problem:?}");
}

async fn known(vault: &vault::Client) -> Result<(), Problem> {
    Ok(soon(vault.known_request().send().promise).await.map(drop)?)
}

#[test]
fn who_is_locked_out_puts_nothing_through_what_it_still_holds() {
    run(async || {
        let office = Office::start().await;
        let (anna, boris) = (office.account("anna", 101, false), office.account("boris", 102, false));
        let (first, second) = (office.machine("first", 1, false), office.machine("second", 2, false));
        let (wire, other) = (office.dial(&first).await, office.dial(&second).await);
        let session = office.login(&wire.bootstrap, wire.key, &anna).await.unwrap();
        let vault = open(&session, anna.vault).await.unwrap();
        let (write, id) = begin(&vault).await.unwrap();
        let mut mill = Mill::new(&office.env, &anna, anna.vault, id);
        assert_eq!(put(&write, &[mill.leaf(b"one").1.bytes]).await.unwrap(), 1);

        // A disabled account; what it held works again when it is let in again.
        let held = upload(&write).await.unwrap();
        let disable = |on| office.host.office.append(Actor::Host, Event::AccountDisabled { id: anna.id, on }).unwrap();
        disable(true);
        let mut request = held.put_request();
        request.get().set_frame(&mill.leaf(b"two").1.bytes);
        soon(request.send()).await.unwrap();
        refused(done(&held).await);
        refused(known(&vault).await);
        disable(false);
        assert_eq!(put(&write, &[mill.leaf(b"three").1.bytes]).await.unwrap(), 1);
        soon(write.checkpoint_request().send().promise).await.unwrap();
        assert_eq!(frames(&office, anna.vault), 2);

        // A member that is none any more.
        let joined = |on: bool| Event::VaultMember {
            vault: anna.vault,
            account: boris.id,
            on,
            wrapped: if on { vec![1; 80] } else { Vec::new() },
        };
        office.host.office.append(Actor::Host, joined(true)).unwrap();
        let theirs = office.login(&other.bootstrap, other.key, &boris).await.unwrap();
        let lent = open(&theirs, anna.vault).await.unwrap();
        let (writing, id) = begin(&lent).await.unwrap();
        let mut mill = Mill::new(&office.env, &anna, anna.vault, id);
        assert_eq!(put(&writing, &[mill.leaf(b"four").1.bytes]).await.unwrap(), 1);
        let held = upload(&writing).await.unwrap();
        office.host.office.append(Actor::Host, joined(false)).unwrap();
        refused(known(&lent).await);
        refused(upload(&writing).await);
        let mut request = held.put_request();
        request.get().set_frame(&mill.leaf(b"five").1.bytes);
        soon(request.send()).await.unwrap();
        refused(done(&held).await);
        // Ends the session, with all that it took.
        drop((held, writing));
        soon(write.checkpoint_request().send().promise).await.unwrap();
        assert!(frames(&office, anna.vault) <= 3);
    });
}

#[test]
fn a_revoked_device_is_out_at_once() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let wire = office.dial(&office.machine("pc", 1, false)).await;
        let (session, wrapped) = office.prove(&wire.bootstrap, wire.key, "anna", &anna.login, None).await.unwrap();
        assert!(!wrapped.is_empty());
        let key = office::key(50);
        let mut request = session.add_device_request();
        request.get().set_key(&key.public());
        let answer = soon(request.send().promise).await.unwrap();
        let id = AccountDeviceId(answer.get().unwrap().get_device().unwrap().try_into().unwrap());
        let (by_device, wrapped) = office.prove(&wire.bootstrap, wire.key, "anna", &key, Some(id)).await.unwrap();
        assert!(wrapped.is_empty(), "a device is given what passwords can be tried on");
        let vault = open(&by_device, anna.vault).await.unwrap();
        known(&vault).await.unwrap();
        let mut request = session.revoke_device_request();
        request.get().set_device(&id.0);
        soon(request.send().promise).await.unwrap();
        refused(known(&vault).await);
        refused(open(&by_device, anna.vault).await);
        assert!(office.prove(&wire.bootstrap, wire.key, "anna", &key, Some(id)).await.is_err());
        known(&open(&session, anna.vault).await.unwrap()).await.unwrap();
    });
}

#[test]
fn revoking_a_machine_ends_its_connections() {
    run(async || {
        let office = Office::start().await;
        let anna = office.account("anna", 101, false);
        let (bad, good) = (office.machine("bad", 1, false), office.machine("good", 2, false));
        let (first, second, other) = (office.dial(&bad).await, office.dial(&bad).await, office.dial(&good).await);
        let session = office.login(&first.bootstrap, first.key, &anna).await.unwrap();
        let vault = open(&session, anna.vault).await.unwrap();
        // An answer says that the host has taken it in.
        soon(second.bootstrap.status_request().send().promise).await.unwrap();
        let answer = soon(office.local().await.admin_request().send().promise).await.unwrap();
        let mut request = answer.get().unwrap().get_admin().unwrap().revoke_request();
        request.get().set_name("bad");
        soon(request.send().promise).await.unwrap();
        until("the connections end", async || first.is_over() && second.is_over()).await;
        let problem = known(&vault).await.unwrap_err();
        assert_eq!(problem.why, Why::Unreachable, "{problem:?}");
        let again = office.dial(&bad).await;
        refused(office.login(&again.bootstrap, again.key, &anna).await);
        office.login(&other.bootstrap, other.key, &anna).await.unwrap();
    });
}
