//! What the service gives to programs on this machine.

use super::copies::Kept;
use super::service::{Line, Settings};
use crate::transport::ids::{fixed, join};
use crate::transport::keys::node_key;
use crate::transport::problem::{Why, problem};
use crate::transport::upload::UploadServer;
use crate::work::Work;
use capnp::Error;
use std::rc::Rc;
use std::sync::Arc;
use twinkeep_schema::office_capnp::{bootstrap, keeper, local, node_session};

/// See the module.
pub struct LocalServer {
    settings: Rc<Settings>,
    kept: Arc<Kept>,
    line: Rc<Line>,
    work: Work,
}

impl LocalServer {
    /// For one program.
    pub fn new(settings: Rc<Settings>, kept: Arc<Kept>, line: Rc<Line>, work: Work) -> Self {
        Self { settings, kept, line, work }
    }

    fn unreachable(&self) -> Error {
        let trouble = self.line.trouble.borrow();
        let text = if trouble.is_empty() { "the host cannot be reached" } else { &trouble[..] };
        problem(Why::Unreachable, text).into()
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
        results.set_bootstrap(capnp_rpc::new_client(Lent(bootstrap)));
        results.set_host_key(&self.settings.host_key.0);
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
        let inventory = self.work.run(move || kept.store.inventory()).await?;
        let line = match (&*self.line.session.borrow(), &self.line.trouble.borrow()[..]) {
            (Some(_), _) => "connected to the host".to_owned(),
            (None, "") => "not connected yet".to_owned(),
            (None, trouble) => trouble.to_owned(),
        };
        let mut status = results.get().init_status();
        status.set_name(&self.settings.name[..]);
        status.set_connected(self.line.session.borrow().is_some());
        status.set_trouble(&line[..]);
        status.set_frames(inventory.frames);
        status.set_bytes(inventory.bytes);
        status.set_trash(inventory.trash_bytes);
        status.set_granted(self.kept.granted.load(std::sync::atomic::Ordering::Relaxed));
        Ok(())
    }
}

/// The host's bootstrap as programs on this machine have it: they log in through the machine, and are not the machine. Who
/// could say in its name what it holds could have the host count copies that nobody has.
struct Lent(bootstrap::Client);

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
        let mut request = self.0.login_request();
        request.get().set_account(params.get()?.get_account()?);
        results.set(request.send().promise.await?.get()?)
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
        let upload = UploadServer::new(self.kept.clone(), self.work, || Ok(Box::new(())));
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
            request.send().promise.await?;
        }
        results.get().set_frames(total);
        Ok(())
    }
}
