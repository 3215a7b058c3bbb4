//! What runs on the machines of a simulated office: the host and the terminals that ship, over a simulated network.

use super::liar;
use super::pc::{Nature, Pc};
use super::user;
use super::world::{Command, HOST, PORT, World, space};
use capnp::Error;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use turmoil::net::{TcpListener, TcpStream};
use twinkeep_engine::copies::CopyStore;
use twinkeep_engine::env::Env;
use twinkeep_nodes::host::Host;
use twinkeep_nodes::host::ground::Space;
use twinkeep_nodes::host::serve::{AdminServer, HostService};
use twinkeep_nodes::host::{collector, copier, healer, hours, mover, prover, watch};
use twinkeep_nodes::terminal::copies::Kept;
use twinkeep_nodes::terminal::service::{Outside, Settings, Terminal, dial};
use twinkeep_nodes::tracker::log::Actor;
use twinkeep_nodes::tracker::token::JoinToken;
use twinkeep_nodes::transport::problem::Problem;
use twinkeep_nodes::transport::serve::Answers;
use twinkeep_nodes::work::Work;
use twinkeep_schema::office_capnp::{admin, bootstrap};

/// A machine tries so often what did not work.
const AGAIN: Duration = Duration::from_secs(3);

/// The host, until it crashes.
pub async fn host(world: Rc<World>) -> turmoil::Result {
    let host = loop {
        match world.open_host() {
            Ok(host) => break host,
            Err(error) => world.note(HOST, format_args!("cannot start: {error}")),
        }
        tokio::time::sleep(AGAIN).await;
    };
    world.note(HOST, "runs");
    world.is_obeying.set(false);
    *world.host.borrow_mut() = Some(host.clone());
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let key = &host.identity.key;
    let answers = Answers::new(key, Arc::new(HostService(host.clone())), host.connections.clone());
    tokio::task::spawn_local(copier::run(host.clone()));
    tokio::task::spawn_local(watch::run(host.clone()));
    tokio::task::spawn_local(healer::run(host.clone()));
    tokio::task::spawn_local(collector::run(host.clone()));
    tokio::task::spawn_local(prover::run(host.clone()));
    tokio::task::spawn_local(hours::run(host.clone()));
    tokio::task::spawn_local(mover::run(host.clone()));
    tokio::task::spawn_local(administer(world, host));
    loop {
        let (stream, address) = listener.accept().await?;
        let answers = answers.clone();
        // Who is at the other end, and why it went, is the peer's to tell.
        tokio::task::spawn_local(async move { drop(answers.serve(stream, address.ip(), ()).await) });
    }
}

/// Does what the administrator was told to.
async fn administer(world: Rc<World>, host: Arc<Host>) {
    let admin: admin::Client = capnp_rpc::new_client(AdminServer::new(host.clone(), Actor::Host, || Ok(None)));
    loop {
        let mut command = world.commands.borrow_mut().pop_front();
        // In the end somebody answers what the host asks.
        if world.is_calm.get() && world.habits.forget && host.hours.question(host.env()).is_some() {
            command = command.or(Some(Command::ClockIsRight));
        }
        let Some(command) = command else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        world.is_obeying.set(true);
        let done = obey(&world, &admin, &command).await;
        world.is_obeying.set(false);
        match done {
            Ok(()) => world.note("admin", format_args!("{command:?}")),
            Err(error) => world.note("admin", format_args!("{command:?}: {}", Problem::from(&error).text)),
        }
    }
}

async fn obey(world: &World, admin: &admin::Client, command: &Command) -> Result<(), Error> {
    match command {
        Command::Invite(pc) => {
            let pc = &world.pcs[*pc];
            let mut request = admin.token_request();
            request.get().set_name(&pc.node[..]);
            request.get().set_secs(24 * 3600);
            request.get().set_auto(true);
            let answer = request.send().promise.await?;
            let text = answer.get()?.get_token()?.to_string()?;
            *pc.token.borrow_mut() = JoinToken::parse(&text).ok();
        }
        Command::Forget(pc) => {
            let pc = &world.pcs[*pc];
            let mut request = admin.forget_request();
            request.get().set_name(&pc.node[..]);
            // What a liar says it has alone is not waited for.
            request.get().set_give_up_data(pc.nature != Nature::Honest);
            pc.is_to_go.set(true);
            request.send().promise.await?;
            pc.has_joined.set(false);
            pc.forgotten.set(turmoil::sim_elapsed());
        }
        Command::Drain(pc, on) => {
            let mut request = admin.drain_request();
            request.get().set_name(&world.pcs[*pc].node[..]);
            request.get().set_on(*on);
            request.send().promise.await?;
        }
        Command::Scrub => {
            let answer = admin.scrub_request().send().promise.await?;
            let report = answer.get()?.get_report()?;
            let (bad, healed) = (report.get_bad(), report.get_healed());
            world.note("admin", format_args!("{bad} frames of the host were bad, {healed} were healed"));
        }
        Command::Collect => collect(world, admin).await?,
        Command::CollectAndCut(writes) => {
            // What was asked for before everything was mended is done all the same.
            if !world.is_calm.get() {
                world.disk.cut_after(*writes);
            }
            collect(world, admin).await?;
        }
        Command::ClockIsRight if world.skew.load(Ordering::Relaxed) != 0 => {
            return Err(Error::failed("it is not".to_owned()));
        }
        Command::ClockIsRight => drop(admin.clock_is_right_request().send().promise.await?),
    }
    Ok(())
}

async fn collect(world: &World, admin: &admin::Client) -> Result<(), Error> {
    let answer = admin.collect_request().send().promise.await?;
    let answer = answer.get()?;
    for problem in answer.get_problems()? {
        world.note("admin", problem?.to_str()?);
    }
    let (frames, copies) = (answer.get_frames(), answer.get_copies());
    world.oracle.borrow_mut().told[3] += frames as usize;
    world.note("admin", format_args!("{frames} frames were freed, {copies} copies ordered dropped"));
    Ok(())
}

/// The simulated network, and a simulated disk.
pub struct Net(pub Rc<Pc>);

impl Outside for Net {
    type Stream = TcpStream;

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let (name, port) = address.split_once(':').unwrap_or((address, ""));
        TcpStream::connect((name, port.parse().unwrap_or(PORT))).await
    }

    fn space(&self) -> Space {
        space(&self.0.disk)
    }

    fn kept_lists(&self) -> io::Result<Vec<u8>> {
        Ok(self.0.lists.borrow().clone())
    }

    fn kept(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.0.notes.borrow().get(name).cloned().unwrap_or_default())
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.notes.borrow_mut().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn keep_lists(&self, bytes: &[u8]) -> io::Result<()> {
        *self.0.lists.borrow_mut() = bytes.to_vec();
        Ok(())
    }
}

/// What a terminal is.
pub fn settings(world: &World, pc: &Pc) -> Settings {
    Settings {
        data: std::path::PathBuf::new(),
        name: pc.node.clone(),
        key: pc.signing_key(),
        hosts: vec![format!("{HOST}:{PORT}")],
        host_key: world.host_key(),
        authority: world.authority().authority(),
        machine_id: pc.machine_id(),
        version: "simulated".to_owned(),
    }
}

/// A PC with its terminal and its users, until it crashes.
pub async fn pc(world: Rc<World>, pc: Rc<Pc>) -> turmoil::Result {
    let env = pc.boot(&world);
    while !pc.has_joined.get() || pc.is_off.get() {
        tokio::time::sleep(AGAIN).await;
        let token = pc.token.borrow().clone();
        let Some(token) = token else { continue };
        match join(&world, &pc, &token).await {
            Ok(bootstrap::Status::Active) => pc.has_joined.set(true),
            Ok(status) => world.note(&pc.name, format_args!("is {status:?} in the office")),
            Err(error) => world.note(&pc.name, format_args!("cannot join: {}", error.text)),
        }
    }
    if let Nature::Liar(manner) = pc.nature {
        liar::live(world, pc, manner, env).await;
        return Ok(());
    }
    let store = loop {
        let (files, kv) = pc.disk.tree("copies");
        match CopyStore::open(Arc::new(files), Arc::new(kv), env.clone(), &pc.name) {
            Ok(opened) => break opened.store,
            Err(error) => world.note(&pc.name, format_args!("cannot open its store: {error}")),
        }
        tokio::time::sleep(AGAIN).await;
    };
    world.note(&pc.name, "runs");
    let kept = Kept::new(store, pc.grant);
    *pc.kept.borrow_mut() = Some(kept.clone());
    let terminal = Terminal::new(settings(&world, &pc), kept, &env, Work::Here, Net(pc.clone()));
    seat(&world, &pc, &terminal, &env);
    terminal.run().await;
    Ok(())
}

/// The users of a PC, and in the end whoever does what is left to do.
fn seat(world: &Rc<World>, pc: &Rc<Pc>, terminal: &Terminal<Net>, env: &Env) {
    if world.habits.forget {
        tokio::task::spawn_local(user::fulfil(world.clone(), pc.clone(), terminal.local(), env.clone()));
    }
    let users = world.users.borrow().clone();
    for user in users.into_iter().filter(|user| world.pcs[user.pc].name == pc.name) {
        tokio::task::spawn_local(user::live(world.clone(), pc.clone(), user, terminal.local(), env.clone()));
    }
}

async fn join(world: &World, pc: &Rc<Pc>, token: &JoinToken) -> Result<bootstrap::Status, Problem> {
    let (mut connection, _) = dial(&Net(pc.clone()), &settings(world, pc), &[world.host_key()]).await?;
    let host: bootstrap::Client = connection.bootstrap();
    let driver = tokio::task::spawn_local(connection.drive());
    let joined = async {
        let answer = host.status_request().send().promise.await?;
        let status = answer.get()?.get_status()?;
        if status != bootstrap::Status::Unknown {
            return Ok(status);
        }
        let mut request = host.join_request();
        request.get().set_token(token.secret());
        request.get().set_name(&pc.node[..]);
        request.get().set_machine_id(&pc.machine_id());
        let answer = request.send().promise.await?;
        Ok::<_, Error>(answer.get()?.get_status()?)
    };
    let joined = tokio::time::timeout(Duration::from_secs(30), joined).await;
    driver.abort();
    match joined {
        Ok(joined) => Ok(joined?),
        Err(_) => Err(Problem::from(Error::disconnected("no answer".to_owned()))),
    }
}
