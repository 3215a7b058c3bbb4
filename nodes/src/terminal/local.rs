//! What the service gives to programs on this machine.

use super::copies::{Kept, KeptHere};
use super::service::{Line, Settings};
use crate::host::ground::space;
use crate::remote::wire::put_texts;
use crate::transport::gate::{Attempt, Guest};
use crate::transport::ids::{fixed, join, split};
use crate::transport::keys::node_key;
use crate::transport::problem::{Problem, Why, problem};
use crate::transport::upload::UploadServer;
use crate::work::Work;
use capnp::Error;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use twinkeep_engine::id::FrameId;
use twinkeep_schema::office_capnp::{bootstrap, keeper, local, login, node_session};

/// See the module.
pub struct LocalServer {
    settings: Rc<Settings>,
    kept: Arc<Kept>,
    line: Rc<Line>,
    work: Work,
    guest: Option<Rc<Guest>>,
}

impl LocalServer {
    /// For one program.
    pub fn new(settings: Rc<Settings>, kept: Arc<Kept>, line: Rc<Line>, work: Work) -> Self {
        Self { settings, kept, line, work, guest: None }
    }

    /// The program came through the gate as this.
    pub fn of(mut self, guest: Option<Rc<Guest>>) -> Self {
        self.guest = guest;
        self
    }

    fn unreachable(&self) -> Error {
        if self.line.away_until().is_some() {
            return problem(Why::Away, self.line.words()).into();
        }
        match &*self.line.trouble.borrow() {
            // It is there, and would not have us: nothing is gained by waiting.
            Some(trouble) if trouble.why == Why::NotAllowed => trouble.clone().into(),
            _ => problem(Why::Unreachable, self.line.words()).into(),
        }
    }
}

impl local::Server for LocalServer {
    async fn tracker(
        self: Rc<Self>,
        _params: local::TrackerParams,
        mut results: local::TrackerResults,
    ) -> Result<(), Error> {
        let bootstrap = self.line.bootstrap.borrow().clone().ok_or_else(|| self.unreachable())?;
        let mut results = results.get();
        results.set_bootstrap(capnp_rpc::new_client(Lent(bootstrap, self.guest.clone())));
        results.set_host_key(&self.line.host.get().unwrap_or(self.settings.host_key).0);
        results.set_node_key(&node_key(&self.settings.key).0);
        Ok(())
    }

    async fn keep(self: Rc<Self>, params: local::KeepParams, mut results: local::KeepResults) -> Result<(), Error> {
        let vault: [u8; 16] = fixed(params.get()?.get_vault()?, "the id of a vault")?;
        let session = self.line.session.borrow().clone().ok_or_else(|| self.unreachable())?;
        let mut request = session.place_request();
        request.get().set_vault(&vault);
        if !request.send().promise.await?.get()?.get_keep() {
            return Err(problem(Why::NotAllowed, "this machine is to keep no copy of it").into());
        }
        let server = KeeperServer { kept: self.kept.clone(), session, work: self.work };
        results.get().set_keeper(capnp_rpc::new_client(server));
        Ok(())
    }

    async fn status(
        self: Rc<Self>,
        _params: local::StatusParams,
        mut results: local::StatusResults,
    ) -> Result<(), Error> {
        let kept = self.kept.clone();
        let data = self.settings.data.clone();
        let look = move || Ok::<_, Problem>((kept.store.inventory()?, space(&data)));
        let (inventory, space) = self.work.run(look).await?;
        let line = self.line.words();
        let mut status = results.get().init_status();
        status.set_name(&self.settings.name[..]);
        status.set_connected(self.line.session.borrow().is_some());
        status.set_trouble(&line[..]);
        status.set_frames(inventory.frames);
        status.set_bytes(inventory.bytes);
        status.set_trash(inventory.trash_bytes);
        status.set_granted(self.kept.granted.load(std::sync::atomic::Ordering::Relaxed));
        status.set_version(&self.settings.version[..]);
        status.set_host_key(&self.settings.host_key.0);
        status.set_free(space.free);
        status.set_away_until(self.line.away_until().map_or(0, |until| until.0));
        put_texts(&self.settings.hosts, status.init_hosts(self.settings.hosts.len() as u32));
        Ok(())
    }
}

/// The host's bootstrap as programs on this machine have it: they log in through the machine, and are not the machine. Who
/// could say in its name what it holds could have the host count copies that nobody has.
struct Lent(bootstrap::Client, Option<Rc<Guest>>);

/// A login under way: the host holds it as this machine's, of which all that programs on it have are a part.
struct LentLogin {
    login: login::Client,
    _attempt: Option<Attempt>,
}

impl login::Server for LentLogin {
    async fn prove(self: Rc<Self>, params: login::ProveParams, mut results: login::ProveResults) -> Result<(), Error> {
        let params = params.get()?;
        let mut request = self.login.prove_request();
        request.get().set_signature(params.get_signature()?);
        request.get().set_device(params.get_device()?);
        results.set(request.send().promise.await?.get()?)
    }
}

fn not_lent() -> Error {
    problem(Why::NotAllowed, "that is for this machine's own service alone").into()
}

impl bootstrap::Server for Lent {
    async fn hello(
        self: Rc<Self>,
        params: bootstrap::HelloParams,
        mut results: bootstrap::HelloResults,
    ) -> Result<(), Error> {
        let mut request = self.0.hello_request();
        request.get().set_version(params.get()?.get_version());
        results.set(request.send().promise.await?.get()?)
    }

    async fn join(self: Rc<Self>, _: bootstrap::JoinParams, _: bootstrap::JoinResults) -> Result<(), Error> {
        Err(not_lent())
    }

    async fn status(
        self: Rc<Self>,
        _params: bootstrap::StatusParams,
        mut results: bootstrap::StatusResults,
    ) -> Result<(), Error> {
        results.set(self.0.status_request().send().promise.await?.get()?)
    }

    async fn node(self: Rc<Self>, _: bootstrap::NodeParams, _: bootstrap::NodeResults) -> Result<(), Error> {
        Err(not_lent())
    }

    async fn login(
        self: Rc<Self>,
        params: bootstrap::LoginParams,
        mut results: bootstrap::LoginResults,
    ) -> Result<(), Error> {
        let attempt = self.1.as_ref().map(Guest::attempt).transpose()?;
        let mut request = self.0.login_request();
        request.get().set_account(params.get()?.get_account()?);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        // Not as a whole: the host's own capability would go along.
        let mut results = results.get();
        results.set_challenge(answer.get_challenge()?);
        results.set_salt(answer.get_salt()?);
        results.set_memory_kib(answer.get_memory_kib());
        results.set_passes(answer.get_passes());
        results.set_lanes(answer.get_lanes());
        let login = LentLogin { login: answer.get_login()?, _attempt: attempt };
        results.set_login(capnp_rpc::new_client(login));
        Ok(())
    }
}

/// The copy that stays where it was written.
struct KeeperServer {
    kept: Arc<Kept>,
    session: node_session::Client,
    work: Work,
}

impl keeper::Server for KeeperServer {
    async fn upload(
        self: Rc<Self>,
        _params: keeper::UploadParams,
        mut results: keeper::UploadResults,
    ) -> Result<(), Error> {
        let target = Arc::new(KeptHere(self.kept.clone()));
        let upload = UploadServer::new(target, self.work, || Ok(Box::new(())));
        results.get().set_upload(capnp_rpc::new_client(upload));
        Ok(())
    }

    async fn settle(
        self: Rc<Self>,
        _params: keeper::SettleParams,
        mut results: keeper::SettleResults,
    ) -> Result<(), Error> {
        let kept = self.kept.clone();
        let mut total = 0;
        loop {
            let kept = kept.clone();
            let durable = self.work.run(move || kept.settle()).await?;
            if durable.is_empty() {
                break;
            }
            total += durable.len() as u64;
            let mut request = self.session.confirm_request();
            request.get().set_frames(&join(&durable));
            let answer = request.send().promise.await?;
            let unknown: HashSet<FrameId> = split(answer.get()?.get_unknown()?)?.into_iter().collect();
            self.kept.unknown().forget(durable.iter().filter(|id| !unknown.contains(id)));
        }
        results.get().set_frames(total);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::names::NodeKey;
    use crate::tracker::sign::SigningKey;
    use std::cell::RefCell;
    use twinkeep_engine::copies::CopyStore;
    use twinkeep_engine::env::Env;
    use twinkeep_engine::files::memory::MemoryFiles;
    use twinkeep_engine::kv::memory::MemoryKvHome;

    /// A tracker that writes down what it is asked.
    #[derive(Default)]
    struct Tracker(Rc<RefCell<Vec<String>>>);

    /// An attempt that nobody goes on with.
    struct Attempt;

    impl login::Server for Attempt {}

    impl bootstrap::Server for Tracker {
        async fn join(
            self: Rc<Self>,
            _params: bootstrap::JoinParams,
            _results: bootstrap::JoinResults,
        ) -> Result<(), Error> {
            self.0.borrow_mut().push("join".into());
            Ok(())
        }

        async fn status(
            self: Rc<Self>,
            _params: bootstrap::StatusParams,
            mut results: bootstrap::StatusResults,
        ) -> Result<(), Error> {
            results.get().set_name("pc1");
            Ok(())
        }

        async fn node(
            self: Rc<Self>,
            _params: bootstrap::NodeParams,
            _results: bootstrap::NodeResults,
        ) -> Result<(), Error> {
            self.0.borrow_mut().push("node".into());
            Ok(())
        }

        async fn login(
            self: Rc<Self>,
            params: bootstrap::LoginParams,
            mut results: bootstrap::LoginResults,
        ) -> Result<(), Error> {
            let name = params.get()?.get_account()?.to_string()?;
            self.0.borrow_mut().push(format!("login {name}"));
            results.get().set_challenge(&[7; 32]);
            results.get().set_passes(3);
            results.get().set_login(capnp_rpc::new_client(Attempt));
            Ok(())
        }
    }

    #[test]
    fn programs_of_this_machine_do_not_speak_in_its_name() {
        let asked = Rc::new(RefCell::new(Vec::new()));
        let line = Rc::new(Line::default());
        *line.bootstrap.borrow_mut() = Some(capnp_rpc::new_client(Tracker(asked.clone())));
        let key = SigningKey::from_seed(&[1; 32]);
        let settings = Rc::new(Settings {
            data: "/nowhere".into(),
            name: "pc1".into(),
            authority: key.authority(),
            key,
            hosts: Vec::new(),
            host_key: NodeKey([2; 32]),
            machine_id: [3; 16],
            version: String::new(),
        });
        let files = Arc::new(MemoryFiles::new());
        let opened = CopyStore::open(files, Arc::new(MemoryKvHome::default()), Env::system(1), "test").unwrap();
        let server = LocalServer::new(settings, Kept::new(opened.store, 1 << 20), line, Work::Here);
        let local: local::Client = capnp_rpc::new_client(server);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let answer = local.tracker_request().send().promise.await.unwrap();
            let lent = answer.get().unwrap().get_bootstrap().unwrap();
            let status = lent.status_request().send().promise.await.unwrap();
            assert_eq!(status.get().unwrap().get_name().unwrap(), "pc1");
            let mut login = lent.login_request();
            login.get().set_account("anna");
            let begun = login.send().promise.await.unwrap();
            let begun = begun.get().unwrap();
            assert_eq!((begun.get_challenge().unwrap(), begun.get_passes()), (&[7; 32][..], 3));
            let why = |error: Error| crate::transport::problem::Problem::from(error).why;
            let join = lent.join_request().send().promise.await.err().map(why);
            let node = lent.node_request().send().promise.await.err().map(why);
            assert_eq!((join, node), (Some(Why::NotAllowed), Some(Why::NotAllowed)));
        });
        assert_eq!(*asked.borrow(), ["login anna"]);
    }
}
