//! An office of real processes: a host and terminals, each on a machine of its own as far as the command can tell, with
//! a home, a folder and a machine id that no other has. All traffic stays on addresses of this machine.
//!
//! What a service prints is kept, and shown when a test fails; services end with their machine, by their id.

pub mod net;
mod service;

use crate::fidelity::grow::SPECIAL;
use crate::fidelity::judge::{self, Look};
use crate::home::{Home, Ran, messages};
use crate::tree::SourceTree;
use net::Net;
use rustix::process::Signal;
use serde_json::Value;
use service::Service;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// The password of every account.
pub const PASSWORD: &str = "secret123";

/// What should happen at once happens within this time even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// So much of each machine's log is shown where a test fails: what failed is to be seen above it.
const LOG_LINES: usize = 12;

/// How often something is looked at that is waited for.
const POLL: Duration = Duration::from_millis(20);

/// Which service a machine runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Host,
    Terminal,
}

/// A machine of the office.
pub struct Machine {
    /// Its name in the office.
    pub name: String,
    /// The home of whoever works there.
    pub home: Home,
    /// Flags of its service, and variables around it, from its next start on.
    pub flags: Vec<String>,
    /// See [`Self::flags`].
    pub vars: Vec<(String, String)>,
    role: Role,
    service: Option<Service>,
    /// Which network it is on, if it is not this machine's.
    net: Option<Arc<Net>>,
}

/// A host and its terminals.
pub struct OfficeWorld {
    /// Terminals. They go before the host.
    pub pcs: Vec<Machine>,
    /// The host.
    pub host: Machine,
    /// The network between them, if it is not this machine's.
    pub net: Option<Arc<Net>>,
    machines_made: u32,
}

/// Looks again and again until there is something to see.
///
/// # Panics
/// Nothing came in time.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(POLL);
    }
}

/// An address that nobody else uses: other than 127.0.0.1, from which connections take their own ports.
fn free_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((ip, 0)).expect("a port on an address of this machine");
    listener.local_addr().expect("it listens somewhere").to_string()
}

impl Machine {
    fn new(name: &str, role: Role, net: Option<Arc<Net>>) -> Self {
        let (flags, vars) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), home: Home::new(), flags, vars, role, service: None, net }
    }

    fn command(&self, args: &[&str]) -> Command {
        let command = self.home.command(args);
        match &self.net {
            Some(net) => net.within(&self.name, &command),
            None => command,
        }
    }

    /// The folder of its service.
    pub fn data(&self) -> PathBuf {
        self.home.path("data")
    }

    /// Runs the command.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the command runs"))
    }

    /// Runs the command and expects an exit code.
    pub fn expect(&self, code: i32, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(code), "{}: {args:?}\n{}\n{}", self.name, ran.out, ran.err);
        ran
    }

    /// The messages of a run with `--json` that ends well.
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        messages(&self.expect(0, &[&["--json"], args].concat()).out)
    }

    /// Begins the service. What it says goes to a file.
    pub fn launch(&mut self) {
        assert!(self.service.is_none(), "{} runs already", self.name);
        let verb = match self.role {
            Role::Host => "host",
            Role::Terminal => "terminal",
        };
        let mut command = self.command(&["--json", verb, "run"]);
        command.args(&self.flags).envs(self.vars.iter().map(|(name, value)| (name, value)));
        self.service = Some(Service::begin(command, &self.home.path("service.log")));
    }

    /// Waits until the service has said that it is ready.
    pub fn await_ready(&mut self) {
        let service = self.service.as_mut().expect("it was launched");
        until(&format!("{} is ready", self.name), PATIENCE, || service.is_ready().then_some(()));
    }

    /// Begins the service and waits until it is ready.
    pub fn start(&mut self) {
        self.launch();
        self.await_ready();
    }

    /// Ends the service as a power cut would.
    pub fn kill(&mut self) {
        self.service.take().expect("it runs").kill();
    }

    /// Ends the service as it is meant to end.
    pub fn stop(&mut self) {
        let code = self.service.take().expect("it runs").terminate();
        assert_eq!(code, Some(0), "{} ends well when asked to", self.name);
    }

    /// Waits until the service has ended by itself, as it is meant to.
    pub fn await_ended(&mut self) {
        let code = self.service.take().expect("it runs").ended();
        assert_eq!(code, Some(0), "{} ends well", self.name);
    }

    /// The service stands still, as a PC that hangs: its connections stay.
    pub fn freeze(&self) {
        self.service.as_ref().expect("it runs").signal(Signal::STOP);
    }

    /// The service goes on.
    pub fn thaw(&self) {
        self.service.as_ref().expect("it runs").signal(Signal::CONT);
    }

    /// Whether the service runs.
    pub fn is_up(&self) -> bool {
        self.service.is_some()
    }

    /// Whether the host has this terminal.
    pub fn is_connected(&self) -> bool {
        let ran = self.run(&["--json", "terminal", "status"]);
        ran.code == Some(0) && messages(&ran.out).iter().any(|told| told["connected"] == true)
    }

    /// Waits until the host has this terminal.
    pub fn await_connected(&self) {
        until(&format!("{} is connected", self.name), PATIENCE, || self.is_connected().then_some(()));
    }

    /// Logs in as an account.
    pub fn login(&self, account: &str) {
        self.home.write("password", PASSWORD);
        self.expect(0, &["login", account, "--password-file", "password"]);
    }

    /// Backs a folder up with these flags; the summary.
    pub fn backup(&self, folder: &Path, flags: &[&str]) -> Value {
        let folder = folder.to_str().expect("folders of tests have plain names");
        let told = self.json(&[&["backup", folder], flags].concat());
        told.into_iter().find(|message| message["message_type"] == "summary").expect("a backup ends with a summary")
    }

    /// Begins to back a folder up; what it says is kept with the process.
    pub fn begin_backup(&self, folder: &Path) -> Child {
        let folder = folder.to_str().expect("folders of tests have plain names");
        let mut command = self.command(&["--json", "backup", folder]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().expect("the command starts")
    }

    /// Restores a snapshot into a new folder; gives where the source folder then is.
    pub fn restore(&self, snapshot: &str, source: &Path) -> (tempfile::TempDir, PathBuf) {
        let target = tempfile::tempdir_in(self.home.path("")).expect("a folder to restore into");
        let into = target.path().to_str().expect("a plain name");
        self.expect(0, &["restore", snapshot, "--target", into]);
        let inside = target.path().join(source.strip_prefix("/").expect("a source is absolute"));
        (target, inside)
    }

    /// Restores a snapshot and has others' tools compare it with a folder.
    pub fn restores_equal(&self, snapshot: &str, source: &Path, expected: &Path) {
        let (_target, inside) = self.restore(snapshot, source);
        let found = judge::differences(expected, &inside, Look::default());
        assert!(found.is_empty(), "{snapshot} on {}: {found:#?}", self.name);
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.home.path("service.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl OfficeWorld {
    /// A host that runs, terminals pc1, pc2, … that are connected, and accounts.
    pub fn new(pcs: usize, accounts: &[&str]) -> Self {
        Self::on(None, pcs, accounts)
    }

    /// The same, on a network of their own.
    pub fn on(net: Option<Net>, pcs: usize, accounts: &[&str]) -> Self {
        let net = net.map(Arc::new);
        let host = Machine::new("host", Role::Host, net.clone());
        let mut world = Self { pcs: Vec::new(), host, net, machines_made: 0 };
        world.make_host();
        for account in accounts {
            world.add_user(account, &[]);
        }
        for number in 1..=pcs {
            world.add_pc(&format!("pc{number}"));
        }
        world
    }

    fn machine_id(&mut self) -> String {
        self.machines_made += 1;
        format!("{:032x}", self.machines_made)
    }

    fn make_host(&mut self) {
        let address = self.net.as_ref().map_or_else(free_address, |net| format!("{}:7272", net.add("host")));
        let id = self.machine_id();
        let place = ["--data", "data", "--name", "host", "--address", &address, "--listen", &address];
        let host = &mut self.host;
        let made = host.expect(0, &[&["host", "init"], &place[..], &["--machine-id", &id]].concat());
        // What whoever sat there wrote down.
        host.home.write("kit-words", &made.err);
        // How full the disk of the tests is plays no part.
        let path = host.data().join("host.toml");
        let text = fs::read_to_string(&path).expect("a host has settings");
        let with_room = text.lines().map(|line| match line.starts_with("reserve-bytes") {
            true => "reserve-bytes = 0\n".to_owned(),
            false => format!("{line}\n"),
        });
        fs::write(&path, with_room.collect::<String>()).expect("settings can be edited");
        host.start();
    }

    /// Makes an account.
    pub fn add_user(&self, name: &str, flags: &[&str]) {
        self.host.home.write("password", PASSWORD);
        self.host.expect(0, &[&["user", "add", name, "--new-password-file", "password"], flags].concat());
    }

    /// A token for a machine of this name.
    pub fn token(&self, name: &str, flags: &[&str]) -> String {
        self.host.expect(0, &[&["token", name], flags].concat()).out
    }

    /// A machine that has tried to join with a token.
    pub fn join(&mut self, name: &str, token: &str) -> (Machine, Ran) {
        let id = self.machine_id();
        self.join_as(name, token, &id)
    }

    /// The same, of a physical machine that is told.
    pub fn join_as(&self, name: &str, token: &str, id: &str) -> (Machine, Ran) {
        let pc = Machine::new(name, Role::Terminal, self.net.clone());
        if let Some(net) = &self.net {
            net.add(name);
        }
        pc.home.write("token", token);
        let ran = pc.run(&[
            "terminal",
            "join",
            "--token-file",
            "token",
            "--grant",
            "10G",
            "--data",
            "data",
            "--machine-id",
            id,
        ]);
        (pc, ran)
    }

    /// One more terminal, connected.
    pub fn add_pc(&mut self, name: &str) {
        let token = self.token(name, &["--auto"]);
        let (mut pc, ran) = self.join(name, &token);
        assert_eq!(ran.code, Some(0), "{name} joins: {}{}", ran.out, ran.err);
        pc.start();
        pc.await_connected();
        self.pcs.push(pc);
    }

    /// What the host says of a machine.
    pub fn node(&self, name: &str) -> Value {
        let nodes = self.host.json(&["node", "list", "--all"]);
        nodes.into_iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("the host knows {name}"))
    }

    /// Frames without a second place.
    pub fn owed(&self) -> u64 {
        let ran = self.host.run(&["--json", "copies", "status"]);
        let vaults = messages(&ran.out);
        let owed = vaults.iter().map(|vault| vault["owed_frames"].as_u64().expect("a number")).sum();
        assert_eq!(ran.code, Some(if owed == 0 { 0 } else { 4 }), "the exit code says what stands there: {}", ran.out);
        owed
    }

    /// Waits until everything is kept twice.
    pub fn await_twice(&self, patience: Duration) {
        let begun = Instant::now();
        while self.owed() > 0 {
            let why = || self.host.run(&["copies", "why"]).out;
            assert!(begun.elapsed() < patience, "everything is kept twice within {patience:?}: {}", why());
            std::thread::sleep(POLL);
        }
    }

    /// The folders of the host's vaults.
    pub fn vault_dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.host.data().join("vaults")).expect("a host has vaults");
        entries.map(|entry| entry.expect("a folder lists").path()).collect()
    }

    /// Has every vault of the host read from end to end; the host is stopped meanwhile.
    pub fn scrub(&mut self) {
        self.host.stop();
        for vault in self.vault_dirs() {
            let vault = vault.to_str().expect("a plain name");
            self.host.expect(0, &["--vault", vault, "scrub", "start", "--no-idle"]);
        }
        self.host.start();
    }
}

impl Drop for OfficeWorld {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for machine in self.pcs.iter().chain([&self.host]) {
                eprintln!("---- {} last said:\n{}", machine.name, machine.log());
            }
        }
    }
}

/// A tree whose special files others' tools know as such.
pub fn source(seed: u64, shape: crate::tree::Shape) -> SourceTree {
    let tree = SourceTree::new(seed, shape);
    fs::rename(tree.root().join("pipe"), tree.root().join(format!("pipe{SPECIAL}"))).expect("rename");
    tree
}
