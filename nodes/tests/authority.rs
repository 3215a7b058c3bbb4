//! Who may call what. The list of calls is that of the schema itself: one without a row here fails, so does a row without
//! a call; every call is really made, with empty arguments unless they would matter.

#[path = "authority/hands.rs"]
mod hands;
mod office;

use capnp::any_pointer;
use capnp::message::ReaderOptions;
use capnp::schema_capnp::{code_generator_request, node};
use hands::{Hand, hands, keyless_is_refused};
use office::{Office, kept, run, soon};
use std::collections::BTreeMap;
use twinkeep_engine::id::VaultId;
use twinkeep_nodes::terminal::copies::CopiesServer;
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_nodes::work::Work;
use twinkeep_schema::office_capnp::{admin, bootstrap, copies, upload as upload_capnp, user_session};

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
    ("NodeSession.list", "- - - r a a a a a - - -"),
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
    ("Vault.allocate", "- - - r - - a r a - - -"),
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
    ("Admin.clockIsRight", "- - - r - - - r a a - -"),
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
