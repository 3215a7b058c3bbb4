//! What each caller holds: every capability that it can get hold of.

use crate::office::{self, Account, Office, Wire, any, begin, local_of, open, soon, terminal, upload};
use capnp::capability::Client as AnyClient;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use twinkeep_engine::crypto::SecretKey;
use twinkeep_engine::id::{FrameId, VaultId};
use twinkeep_nodes::terminal::copies::{CopiesServer, Kept};
use twinkeep_nodes::terminal::order;
use twinkeep_nodes::tracker::event::Event;
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::member::recovery_answer;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::transport::keys::node_key;
use twinkeep_nodes::transport::tls;
use twinkeep_nodes::work::Work;
use twinkeep_schema::office_capnp::{
    admin, bootstrap, copies, local, login, node_session, recovery_proof, user_session, vault, write_session,
};

/// Capabilities of a caller, by interface.
#[derive(Default)]
pub struct Hand {
    caps: BTreeMap<&'static str, Rc<AnyClient>>,
    /// An upload that nothing was put into.
    fresh: Option<Rc<AnyClient>>,
    /// The vault it looks for.
    pub open: Option<VaultId>,
    /// An order to drop copies.
    pub order: Vec<u8>,
    _wire: Option<Wire>,
}

impl Hand {
    fn of(bootstrap: bootstrap::Client) -> Self {
        let mut hand = Self::default();
        hand.caps.insert("Bootstrap", any(bootstrap));
        hand
    }

    /// What it holds to make a call on.
    pub fn get(&self, interface: &str, name: &str) -> Option<Rc<AnyClient>> {
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

/// A TLS connection that shows no key.
pub async fn keyless_is_refused(office: &Office) -> bool {
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
pub async fn hands(office: &Office, copies: &copies::Client, kept: Arc<Kept>) -> BTreeMap<&'static str, Hand> {
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
    hands.insert(
        "program",
        a_programs_hand(&local_of(&terminal(office, pc, [3; 16]).await).await, copies, "nobody-pc", &office.company())
            .await,
    );

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
