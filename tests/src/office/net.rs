//! A network of its own for an office: a namespace for each machine, and one with the switch that joins them. Nothing in
//! it reaches the network of this machine, and all of it goes with the test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names of namespaces begin with this, then come a process id and a number.
const PREFIX: &str = "twinkeep-";

/// Where the tools are.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// See the module.
pub struct Net {
    tools: Tools,
    prefix: String,
    machines: AtomicU8,
    made: Mutex<BTreeSet<String>>,
}

#[derive(Clone)]
struct Tools {
    ip: PathBuf,
    tc: Option<PathBuf>,
}

fn tool(name: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file())
}

fn run(tool: &Path, line: &str) -> Result<Output, String> {
    let output = Command::new(tool).args(line.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", tool.display()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(output) } else { Err(format!("{} {line}: {said}", tool.display())) }
}

impl Net {
    /// A new one.
    ///
    /// # Errors
    /// This machine lets nobody make one: why, in words.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let ip = tool("ip").ok_or_else(|| "there is no program `ip`".to_owned())?;
        let tools = Tools { ip, tc: tool("tc") };
        sweep(&tools);
        let prefix = format!("{PREFIX}{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self { tools, prefix, machines: AtomicU8::default(), made: Mutex::default() };
        let switch = net.make("switch")?;
        net.ip(&format!("-n {switch} link add lan type bridge"))?;
        net.ip(&format!("-n {switch} link set lan up"))?;
        Ok(net)
    }

    fn ip(&self, line: &str) -> Result<Output, String> {
        run(&self.tools.ip, line)
    }

    fn name(&self, of: &str) -> String {
        format!("{}{of}", self.prefix)
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, of: &str) -> Result<String, String> {
        let name = self.name(of);
        self.ip(&format!("netns add {name}"))?;
        self.made().insert(name.clone());
        Ok(name)
    }

    /// A machine on the network; its address.
    ///
    /// # Panics
    /// It cannot be made although others could.
    pub fn add(&self, machine: &str) -> String {
        let number = self.machines.fetch_add(1, Ordering::Relaxed) + 1;
        let switch = self.name("switch");
        let address = format!("10.88.0.{number}");
        let made = self.make(machine).and_then(|name| {
            self.ip(&format!("-n {switch} link add port{number} type veth peer name lan netns {name}"))?;
            self.ip(&format!("-n {switch} link set port{number} master lan up"))?;
            self.ip(&format!("-n {name} addr add {address}/24 dev lan"))?;
            self.ip(&format!("-n {name} link set lo up"))?;
            self.ip(&format!("-n {name} link set lan up"))
        });
        made.unwrap_or_else(|problem| panic!("{machine} joins the network: {problem}"));
        address
    }

    /// The same command, on a machine of the network.
    pub fn within(&self, machine: &str, command: &Command) -> Command {
        let mut inside = Command::new(&self.tools.ip);
        inside.args(["netns", "exec"]).arg(self.name(machine)).arg(command.get_program()).args(command.get_args());
        inside.env_clear().stdin(Stdio::null());
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(dir) = command.get_current_dir() {
            inside.current_dir(dir);
        }
        inside
    }

    /// Cuts the cable of a machine, or mends it.
    pub fn plug(&self, machine: &str, is_in: bool) {
        let set = if is_in { "up" } else { "down" };
        let done = self.ip(&format!("-n {} link set lan {set}", self.name(machine)));
        done.unwrap_or_else(|problem| panic!("the cable of {machine}: {problem}"));
    }

    /// Lets a machine send no more than so many megabits a second, or whatever it likes. Whether that could be done.
    pub fn pace(&self, machine: &str, megabits: Option<u32>) -> bool {
        match megabits {
            Some(megabits) => self.shape(machine, &format!("tbf rate {megabits}mbit burst 64kb latency 200ms")),
            None => self.shape(machine, "pfifo limit 1000"),
        }
    }

    /// Lets some of what a machine sends be lost; how that is done, if it can be.
    pub fn lose(&self, machine: &str) -> Option<&'static str> {
        if self.shape(machine, "netem loss 5% delay 5ms") {
            return Some("one packet in twenty");
        }
        let is_narrow = self.shape(machine, "tbf rate 60mbit burst 64kb limit 100kb");
        is_narrow.then_some("what does not fit into a queue of 100 kB, there being no netem")
    }

    /// Packets of a machine that were lost on its way out.
    pub fn lost(&self, machine: &str) -> u64 {
        let Some(tc) = &self.tools.tc else { return 0 };
        let said = run(tc, &format!("-n {} -s qdisc show dev lan", self.name(machine)));
        let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let count = said.split_once("dropped ").and_then(|(_, rest)| rest.split([',', ' ']).next()?.parse().ok());
        count.unwrap_or(0)
    }

    fn shape(&self, machine: &str, how: &str) -> bool {
        let Some(tc) = &self.tools.tc else { return false };
        run(tc, &format!("-n {} qdisc replace dev lan root {how}", self.name(machine))).is_ok()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in std::mem::take(&mut *self.made()) {
            if let Err(problem) = self.ip(&format!("netns del {name}")) {
                eprintln!("a namespace stays behind: {problem}");
            }
        }
    }
}

/// Takes away what tests left behind that were killed.
fn sweep(tools: &Tools) {
    let Ok(output) = run(&tools.ip, "netns list") else { return };
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test may be faster.
            let _ = run(&tools.ip, &format!("netns del {name}"));
        }
    }
}
