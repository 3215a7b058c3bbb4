//! `demo`: an office on this machine alone, in a folder of its own, to see what it does.
//!
//! Everything in it is real: the processes, the keys, the lines between them. Only the machines are one, and are told to
//! take each other for different ones.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::error::{Code, usage};
use crate::session::Run;

/// What to show it with.
#[derive(Args, Debug)]
#[command(
    after_help = "Makes a host and three terminals in a folder of its own under the system's folder for temporary\n\
    files, backs a folder up, shows both copies, loses a terminal, flips a bit, restores, and removes\n\
    everything again. It takes about a minute.\n\nExample: with a folder of yours\n  twinkeep demo ~/documents"
)]
pub struct DemoArgs {
    /// The folder to back up. Default: the documentation of this system's programs
    folder: Option<PathBuf>,
    /// Leave everything there, to look around
    #[arg(long)]
    keep: bool,
}

/// How long anything may take that goes on by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// The office of the demonstration.
struct Stage<'a> {
    run: &'a Run,
    root: PathBuf,
    program: PathBuf,
    services: Vec<(String, Child)>,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        for (_, child) in &mut self.services {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Stage<'_> {
    fn say(&self, text: &str) -> anyhow::Result<()> {
        self.run.screen.line(text)
    }

    fn command(&self, machine: &str, args: &[&str]) -> Command {
        let home = self.root.join(machine);
        let mut command = Command::new(&self.program);
        command.args(args).env_clear().stdin(Stdio::null());
        for (name, folder) in
            [("HOME", ""), ("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "share"), ("XDG_CACHE_HOME", "cache")]
        {
            command.env(name, home.join(folder));
        }
        command
    }

    fn output(&self, machine: &str, args: &[&str]) -> anyhow::Result<Output> {
        let done = || format!("twinkeep {} on {machine}", args.join(" "));
        self.command(machine, args).output().with_context(done)
    }

    /// Runs a command on a machine and shows what it prints.
    fn shown(&self, machine: &str, args: &[&str]) -> anyhow::Result<String> {
        let place = |arg: &&str| match Path::new(arg).strip_prefix(&self.root) {
            Ok(inside) => format!("…/{}", inside.display()),
            Err(_) => (*arg).to_owned(),
        };
        let args_shown: Vec<String> = args.iter().map(place).collect();
        self.say(&format!("\n{machine}$ twinkeep {}", args_shown.join(" ")))?;
        let output = self.output(machine, args)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.say(text.trim_end())?;
        match output.status.code() {
            Some(0 | 4 | 17) => Ok(text),
            _ => bail!("it failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    /// Runs one and shows nothing.
    fn quiet(&self, machine: &str, args: &[&str]) -> anyhow::Result<String> {
        let output = self.output(machine, args)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => bail!("{}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    /// Starts a service and waits for its first line.
    fn start(&mut self, machine: &str, args: &[&str]) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.root.join(format!("{machine}.log")))?;
        let mut child = self.command(machine, args).stdout(Stdio::piped()).stderr(log).spawn()?;
        let out = child.stdout.take().context("the service has an output")?;
        self.services.push((machine.to_owned(), child));
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line.is_empty() {
            let log = std::fs::read_to_string(self.root.join(format!("{machine}.log")))?;
            bail!("the service of {machine} did not start: {}", log.trim());
        }
        Ok(())
    }

    fn stop(&mut self, machine: &str) -> anyhow::Result<()> {
        for (name, child) in &mut self.services {
            if name == machine {
                child.kill()?;
                child.wait()?;
            }
        }
        self.services.retain(|(name, _)| name != machine);
        Ok(())
    }

    /// Waits until everything is kept twice.
    fn settled(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.output("host", &["copies", "status"])?.status.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!("not everything was kept twice in time")
    }
}

/// Flips one bit in the largest file below a folder, after so many quarters of it.
fn flip_bit(folder: &Path, quarters: u64) -> anyhow::Result<()> {
    let mut largest: Option<(u64, PathBuf)> = None;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if found.is_dir() {
                folders.push(entry.path());
            } else if largest.as_ref().is_none_or(|(len, _)| found.len() > *len) {
                largest = Some((found.len(), entry.path()));
            }
        }
    }
    let (len, path) = largest.context("there is nothing to damage")?;
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(len / 4 * quarters))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(len / 4 * quarters))?;
    Ok(file.write_all(&[byte[0] ^ 1])?)
}

fn source(args: &DemoArgs) -> anyhow::Result<PathBuf> {
    if let Some(folder) = &args.folder {
        return match folder.is_dir() {
            true => Ok(std::path::absolute(folder)?),
            false => Err(usage(format!("{} is not a folder", folder.display()))),
        };
    }
    let known = ["/usr/share/doc", "/usr/share/man", "/etc"];
    let found = known.iter().map(PathBuf::from).find(|path| path.is_dir());
    found.ok_or_else(|| usage("name a folder to back up: twinkeep demo FOLDER"))
}

/// Shows it.
pub fn run(run: &Run, args: &DemoArgs) -> anyhow::Result<Code> {
    let source = source(args)?;
    let root = std::env::temp_dir().join(format!("twinkeep-demo-{}", std::process::id()));
    twinkeep_nodes::secrets::make_folder(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut stage = Stage { run, root: root.clone(), program, services: Vec::new() };
    let done = play(&mut stage, &source);
    drop(stage);
    match args.keep {
        true => run.screen.line(&format!("\neverything is left in {}", root.display()))?,
        false => std::fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?,
    }
    done.map(|()| Code::Done)
}

fn play(stage: &mut Stage<'_>, source: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let root = stage.root.clone();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    // A port that is free now; nobody else takes it in the moment between.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    stage.say("An office on this machine: a host, and three PCs with room to spare.")?;
    let data = text(root.join("host/data"));
    let id = format!("{:032x}", 1);
    stage.quiet(
        "host",
        &[
            "host",
            "init",
            "--data",
            &data,
            "--name",
            "host",
            "--address",
            &address,
            "--listen",
            &address,
            "--machine-id",
            &id,
        ],
    )?;
    // The disk of a demonstration may be nearly full.
    let settings = root.join("host/data/host.toml");
    let edited: String = std::fs::read_to_string(&settings)?
        .lines()
        .map(
            |line| {
                if line.starts_with("reserve-bytes") { "reserve-bytes = 0\n".to_owned() } else { format!("{line}\n") }
            },
        )
        .collect();
    std::fs::write(&settings, edited)?;
    stage.start("host", &["host", "run"])?;
    let password = root.join("password");
    twinkeep_nodes::secrets::replace(&password, b"a password for the demonstration\n")?;
    let password = text(password);
    stage.quiet("host", &["user", "add", "anna", "--new-password-file", &password])?;
    for (number, machine) in (2..).zip(["pc1", "pc2", "pc3"]) {
        let token = stage.quiet("host", &["token", machine, "--auto"])?;
        let file = root.join(format!("{machine}.token"));
        twinkeep_nodes::secrets::replace(&file, token.as_bytes())?;
        let (file, data, id) = (text(file), text(root.join(machine).join("data")), format!("{number:032x}"));
        let join = ["terminal", "join", "--token-file", &file, "--grant", "50G", "--data", &data, "--machine-id", &id];
        stage.quiet(machine, &join)?;
        stage.start(machine, &["terminal", "run"])?;
    }
    let ready = Instant::now();
    while stage.quiet("host", &["node", "list"])?.matches("online").count() < 3 {
        if ready.elapsed() > PATIENCE {
            bail!("the terminals did not come");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    stage.shown("host", &["node", "list"])?;

    stage
        .say("\nAnna logs in on pc1 and backs up a folder. The host gets it, and pc1 keeps the second copy itself.")?;
    stage.shown("pc1", &["login", "anna", "--password-file", &password])?;
    stage.shown("pc1", &["backup", &source.to_string_lossy(), "--wait", "copies=2", "--no-progress"])?;
    stage.shown("host", &["copies", "status"])?;

    stage.say("\npc1 is lost. What it held is made again elsewhere, from the host.")?;
    stage.stop("pc1")?;
    stage.shown("host", &["node", "forget", "pc1", "--yes"])?;
    stage.settled()?;
    stage.shown("host", &["node", "list"])?;

    stage.say(
        "\nA bit flips on the host's disk, and one on pc2's. Both are found, and each heals from the other's copy.",
    )?;
    // Copies lie in the same order: at the same part of it the two might be of one frame, which nothing heals.
    flip_bit(&root.join("host/data/vaults"), 1)?;
    let held: Vec<&str> = ["pc2", "pc3"].into_iter().filter(|pc| holds(&root.join(pc))).collect();
    if let Some(machine) = held.first() {
        flip_bit(&root.join(machine).join("data/copies/packs"), 3)?;
    }
    stage.shown("host", &["scrub", "start"])?;
    stage.settled()?;
    stage.shown("host", &["scrub", "start"])?;

    stage.say("\nAnna has a new PC, logs in, and has everything back.")?;
    stage.quiet("pc3", &["login", "anna", "--password-file", &password])?;
    let target = text(root.join("restored"));
    stage.shown("pc3", &["restore", "latest", "--target", &target, "--no-progress"])?;
    let restored = root.join("restored").join(source.strip_prefix("/").unwrap_or(source));
    let compared = Command::new("diff").args(["-r", "--no-dereference"]).arg(source).arg(&restored).output();
    match compared {
        Ok(compared) if compared.status.success() => stage.say("\n`diff -r` finds no difference.")?,
        Ok(compared) => bail!("the restored folder differs: {}", String::from_utf8_lossy(&compared.stdout).trim()),
        // Not every system has it.
        Err(_) => {}
    }
    stage.say(&format!("It took {}.", crate::show::duration(begun.elapsed())))
}

/// Whether a machine holds copies.
fn holds(home: &Path) -> bool {
    home.join("data/copies/packs").read_dir().is_ok_and(|mut entries| entries.next().is_some())
}
