//! `host`: making and running the host of an office.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand};
use jiff::civil::Weekday;
use serde_json::json;
use tokio::net::TcpListener;
use twinkeep_engine::crypto::VaultSecret;
use twinkeep_engine::env::{Env, Time};
use twinkeep_nodes::host::ground::Folder;
use twinkeep_nodes::host::setup::{self, HostOptions, Sending, SetupError};
use twinkeep_nodes::host::terms::{Pace, Terms};
use twinkeep_nodes::host::{Host, leave, run as run_host, trouble};
use twinkeep_nodes::remote::admin::TroubleRow;
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::transport::keys::{fingerprint, node_key};
use twinkeep_nodes::transport::limits::PORT;
use twinkeep_nodes::work::Work;

use super::node::confirmed;
use super::serve::{self, ServeArgs};
use crate::error::{Code, hinted, told as told_code};
use crate::office::{Role, Service, admin, told};
use crate::password;
use crate::session::{Run, host_name, in_frame};
use crate::show;

/// What to do with the host.
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Example: an office on this machine\n  \
    twinkeep host init --data /srv/twinkeep\n  \
    twinkeep host run"
)]
pub struct HostArgs {
    #[command(subcommand)]
    verb: HostVerb,
}

#[derive(Subcommand, Debug)]
enum HostVerb {
    /// Make the host of a new office on this machine
    Init(InitArgs),
    /// Run the host until it is told to stop
    Run(RunArgs),
    /// Stop the host in order
    Stop(StopArgs),
    /// Show how the host is
    #[command(after_help = "Example: disk, connections, what has no second place yet\n  twinkeep host status")]
    Status,
    /// The recovery kit: see whether its words are right, or make new ones
    Kit(KitArgs),
    /// The host's clock has leapt and is right now: what waited for that goes on
    #[command(after_help = "Asked by `twinkeep host status` when the clock went back or ahead at once; until then\n\
        nothing is forgotten and nothing freed. Compare it with another clock first.\n\n\
        Example:\n  twinkeep host clock-is-right")]
    ClockIsRight,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: reached under two addresses\n  \
    twinkeep host init --data /srv/twinkeep --address office.example:7272 --address 192.168.1.10:7272")]
struct InitArgs {
    /// The folder of the host; it will hold everything the office keeps
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// The host's name, for people. Default: this machine's
    #[arg(long)]
    name: Option<String>,
    /// Where machines reach it, HOST:PORT; several are tried in turn. Default: this machine's name
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<String>,
    /// Where it listens
    #[arg(long, value_name = "ADDRESS", default_value_t = HostOptions::listen_default())]
    listen: String,
    /// What tells this physical machine from others, 32 hex digits: one machine never counts as two copies
    #[arg(long, value_name = "ID", hide = true)]
    machine_id: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  twinkeep host run --data /srv/twinkeep")]
struct RunArgs {
    /// The folder of the host. Default: the one of `host init`
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "What is under way is finished, and nothing new is begun. PCs that are told so do not warn\n\
    while the host is away; backups made meanwhile wait on them.\n\n\
    Example: for a larger disk\n  twinkeep host stop --planned --for 2h")]
struct StopArgs {
    /// Tell the PCs that it is on purpose, and that the host comes back
    #[arg(long)]
    planned: bool,
    /// For how long it is away: 30m, 2h, 1d
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", requires = "planned")]
    length: String,
}

#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Example: are the words in the safe still the right ones?\n  \
    twinkeep host kit verify --recovery-words-file words.txt"
)]
struct KitArgs {
    /// The folder of the host. Default: the one that runs on this machine
    #[arg(long, global = true, value_name = "FOLDER")]
    data: Option<PathBuf>,
    #[command(subcommand)]
    verb: KitVerb,
}

#[derive(Subcommand, Debug)]
enum KitVerb {
    /// See whether the words in --recovery-words-file open the kit
    #[command(after_help = "Example:\n  twinkeep host kit verify --recovery-words-file words.txt")]
    Verify,
    /// Make new words; those in --recovery-words-file open nothing any more then
    #[command(after_help = "Example:\n  twinkeep host kit renew --recovery-words-file old-words.txt")]
    Renew,
}

/// Does it.
pub fn run(run: &Run, args: &HostArgs) -> anyhow::Result<Code> {
    match &args.verb {
        HostVerb::Init(args) => init(run, args),
        HostVerb::Run(args) => serve_host(run, args),
        HostVerb::Stop(args) => stop(run, args),
        HostVerb::Status => status(run),
        HostVerb::Kit(args) => kit(run, args),
        HostVerb::ClockIsRight => clock_is_right(run),
    }
}

fn setup_told(error: SetupError) -> anyhow::Error {
    let code = match &error {
        SetupError::Missing(_) => Code::NoVault,
        SetupError::Kit | SetupError::OtherKit => Code::WrongKey,
        SetupError::Settings { .. } => Code::Usage,
        _ => Code::Failed,
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    told_code(code, text)
}

/// What tells this physical machine from others.
pub(super) fn machine_id(given: Option<&str>, env: &Env) -> anyhow::Result<[u8; 16]> {
    match given {
        None => Ok(setup::machine_id(env)),
        Some(text) => setup::unhex(text).ok_or_else(|| crate::error::usage("--machine-id has 32 hex digits")),
    }
}

fn init(run: &Run, args: &InitArgs) -> anyhow::Result<Code> {
    let env = run.env(Some(1));
    let data = std::path::absolute(&args.data)?;
    let name = args.name.clone().unwrap_or_else(host_name);
    let addresses = match args.address.is_empty() {
        true => vec![format!("{}:{PORT}", host_name())],
        false => args.address.clone(),
    };
    let machine_id = machine_id(args.machine_id.as_deref(), &env)?;
    let options = HostOptions { name: name.clone(), listen: args.listen.clone(), addresses, machine_id };
    let service = Service { role: Role::Host, data: data.clone() };
    service.refuse_other()?;
    let mut print = String::new();
    let show = |kit: &VaultSecret, key: &SigningKey| {
        let words = kit.words();
        print = fingerprint(&node_key(key));
        let fields = json!({
            "name": name,
            "data": data.to_string_lossy(),
            "addresses": options.addresses,
            "fingerprint": print,
            "words": words.as_str(),
        });
        run.screen.once(&kit_words(&words, &data), "host_initialized", &fields)
    };
    setup::init_shown(&data, &env, &options, show).map_err(setup_told)?;
    service.remember()?;
    run.screen.tell(&format!("made the host {name} in {}", data.display()))?;
    run.screen.tell(&format!("its key is {print}"))?;
    run.screen.tell("`twinkeep host run` runs it")?;
    Ok(Code::Done)
}

/// The words of a recovery kit as they are shown.
fn kit_words(words: &str, data: &Path) -> String {
    format!(
        "Recovery kit of the host in {}\n{}\
         Write these words down and keep them away from this machine; they are shown only now. With the\n\
         host's folder they open every vault that is not private, and are the host and the company.\n",
        data.display(),
        in_frame(words)
    )
}

fn folder(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(std::path::absolute(named)?);
    }
    match Service::find()? {
        Some(Service { role: Role::Host, data }) => Ok(data),
        _ => Err(hinted(
            Code::NoVault,
            "this machine is no host",
            "`twinkeep host init` makes it one, --data names the folder",
        )),
    }
}

fn serve_host(run: &Run, args: &RunArgs) -> anyhow::Result<Code> {
    let data = folder(args.data.as_deref())?;
    let file = setup::read_settings(&data).map_err(setup_told)?;
    let identity = setup::load(&data).map_err(setup_told)?;
    let name = identity.name.clone();
    let sending = file.sending(&data).map_err(setup_told)?;
    crate::log::begin(run, args.serve.log_format);
    serve::run(async {
        let health = args.serve.health().await?;
        let ground = Box::new(Folder(data.clone()));
        let host = Host::open(ground, run.env(None), Work::Threads, identity)
            .with_context(|| format!("cannot run the host in {}", data.display()))?;
        host.copier.set_terms(terms(run, sending));
        let listener =
            TcpListener::bind(&file.listen).await.with_context(|| format!("cannot listen on {}", file.listen))?;
        let socket = serve::socket(&Folder::socket(&data), 0o600)?;
        let ready = |address| {
            // Whoever started it waits for this line.
            let _ = match run.screen.json {
                true => run.screen.message("ready", &json!({ "name": name, "address": address })),
                false => run.screen.line(&format!("the host {name} listens on {address}")),
            };
            serve::ready();
        };
        let (seen, named) = (host.clone(), name.clone());
        let report = move || serve::report("host", &named, &trouble::all(&seen));
        tokio::select! {
            ended = run_host::run(host.clone(), listener, socket, ready, serve::stop()) => ended.map_err(told),
            () = async {
                host.leave.begun().await;
                serve::stopping();
                std::future::pending().await
            } => Ok(()),
            never = serve::health(health, report) => match never {},
            () = serve::watchdog(|| host.connections.pulse.is_well(), || trouble::standing(&host)) => Ok(()),
        }
    })?;
    Ok(Code::Done)
}

/// A host that was told to stop has so long.
const STOPS: Duration = Duration::from_secs(60);

fn stop(run: &Run, args: &StopArgs) -> anyhow::Result<Code> {
    let service = Service::get()?;
    if service.role != Role::Host {
        let text = "the host is stopped on the host";
        return Err(hinted(Code::NotAllowed, text, "log in there, and run `twinkeep host stop`"));
    }
    let secs = args.planned.then(|| away_secs(&args.length)).transpose().map_err(crate::error::usage)?;
    let (heard, there) = admin()?.stop(secs).map_err(told)?;
    let begun = Instant::now();
    while UnixStream::connect(service.socket()).is_ok() {
        if begun.elapsed() > STOPS {
            let hint = "see what it logs, or end it: `systemctl stop twinkeep-host`";
            return Err(hinted(Code::Failed, "the host has not stopped yet", hint));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if run.screen.json {
        let fields = json!({ "planned": args.planned, "seconds": secs, "heard": heard, "there": there });
        run.screen.message("host_stopped", &fields)?;
        return Ok(Code::Done);
    }
    run.screen.tell(&match secs {
        None => "the host has stopped".to_owned(),
        Some(_) => {
            format!("the host has stopped; {heard} of {} that are there know why", show::count(there.into(), "PC"))
        }
    })?;
    Ok(Code::Done)
}

/// Seconds of a duration for which a host may be away.
fn away_secs(text: &str) -> Result<u32, String> {
    let span = crate::parse::duration(text)?;
    let now = jiff::Zoned::now();
    let secs = now.checked_add(span).map(|then| then.timestamp().duration_since(now.timestamp()).as_secs());
    let secs = secs.ok().and_then(|secs| u32::try_from(secs).ok());
    match secs {
        Some(secs @ 1..=leave::AWAY_SECS_MAX) => Ok(secs),
        _ => Err(format!("--for {text}: a host is away on purpose for a second to 30 days")),
    }
}

/// On what terms second copies are sent: slowly in working hours, Monday to Friday, and only where we are ourselves.
fn terms(run: &Run, sending: Sending) -> Terms {
    let (zone, (from, to)) = (run.zone.clone(), sending.hours);
    let is_working = move |time: Time| {
        let local = show::timestamp(time).to_zoned(zone.clone());
        let hour = u8::try_from(local.hour()).unwrap_or(0);
        !matches!(local.weekday(), Weekday::Saturday | Weekday::Sunday) && (from..to).contains(&hour)
    };
    let pace = sending.rate.map(|rate| Pace { rate, holds: Box::new(is_working) });
    Terms { pace, networks: sending.networks }
}

fn status(run: &Run) -> anyhow::Result<Code> {
    let status = admin()?.status().map_err(told)?;
    if run.screen.json {
        run.screen.message(
            "host",
            &json!({
                "name": status.name,
                "addresses": status.address.split(", ").collect::<Vec<_>>(),
                "generation": status.generation,
                "free": status.free,
                "total": status.total,
                "connections": status.connections,
                "vaults": status.vaults,
                "owed_frames": status.owed_frames,
                "question": status.question,
                "reserve": status.reserve,
                "troubles": status.troubles.iter().map(trouble_fields).collect::<Vec<_>>(),
            }),
        )?;
        return Ok(Code::Done);
    }
    run.screen.line(&format!("host {} at {}", status.name, status.address))?;
    run.screen.line(&format!("disk: {} of {} free", show::size(status.free), show::size(status.total)))?;
    let (vaults, connections) = (u64::from(status.vaults), u64::from(status.connections));
    run.screen.line(&format!("{}, {}", show::count(vaults, "vault"), show::count(connections, "connection")))?;
    run.screen.line(&match status.owed_frames {
        0 => "everything is kept twice".to_owned(),
        owed => format!("{} have no second place yet: `twinkeep copies status`", show::count(owed, "frame")),
    })?;
    // What is to be decided stands among them.
    for trouble in &status.troubles {
        run.screen.line(&trouble.text)?;
    }
    Ok(Code::Done)
}

fn trouble_fields(trouble: &TroubleRow) -> serde_json::Value {
    json!({ "about": trouble.about, "serious": trouble.is_serious, "text": trouble.text })
}

fn clock_is_right(run: &Run) -> anyhow::Result<Code> {
    confirmed(run, "let the host take its clock for right as it stands")?;
    let leap = admin()?.clock_is_right().map_err(told)?;
    let times = leap.map(|(from, to)| (show::timestamp(from), show::timestamp(to)));
    match (run.screen.json, times) {
        (true, times) => {
            let (from, to) = times.unzip();
            run.screen.message(
                "clock_confirmed",
                &json!({ "from": from.map(|time| time.to_string()), "to": to.map(|time| time.to_string()) }),
            )?;
        }
        (false, None) => run.screen.tell("the clock has not jumped")?,
        (false, Some((from, to))) => {
            let (from, to) = (show::local(from, &run.zone), show::local(to, &run.zone));
            run.screen.tell(&format!("the clock is taken for right: it went from {from} to {to}"))?;
        }
    }
    Ok(Code::Done)
}

fn kit(run: &Run, args: &KitArgs) -> anyhow::Result<Code> {
    let data = folder(args.data.as_deref())?;
    let Some(path) = &run.globals.recovery_words_file else {
        return Err(crate::error::usage("name the file with the kit's words: --recovery-words-file FILE"));
    };
    let words = password::recovery_secret(path)?;
    match args.verb {
        KitVerb::Verify => {
            setup::verify_kit(&data, &words).map_err(setup_told)?;
            note_kit(run, &data, Some(jiff::Timestamp::now()));
            match run.screen.json {
                true => run.screen.message("kit_verified", &json!({ "data": data.to_string_lossy() }))?,
                false => run.screen.tell("the words are right, and the kit is this host's")?,
            }
        }
        KitVerb::Renew => {
            let show = |new: &VaultSecret| {
                let new = new.words();
                let fields = json!({ "data": data.to_string_lossy(), "words": new.as_str() });
                run.screen.once(&kit_words(&new, &data), "kit_renewed", &fields)
            };
            setup::renew_kit(&data, &run.env(Some(1)), &words, show).map_err(setup_told)?;
            // Of the new ones nobody knows yet whether they were written down right.
            note_kit(run, &data, None);
            run.screen.tell("these words open the kit from now on, and those before open nothing any more")?;
        }
    }
    Ok(Code::Done)
}

/// In the host's folder: a line that says when the words of the kit were last tried.
const KIT_VERIFIED: &str = "kit-verified";

/// Remembers when the words were tried. That they are right counts more than that it is remembered.
fn note_kit(run: &Run, data: &Path, when: Option<jiff::Timestamp>) {
    let path = data.join(KIT_VERIFIED);
    let noted = match when {
        Some(when) => twinkeep_nodes::secrets::replace(&path, format!("{when:.0}\n").as_bytes()),
        None => std::fs::remove_file(&path).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }),
    };
    if let Err(error) = noted {
        run.screen.warn(None, &format!("{}: {error}", path.display()));
    }
}

/// When the words of the kit were last tried, if that is known.
pub(super) fn kit_verified(data: &Path) -> Option<jiff::Timestamp> {
    std::fs::read_to_string(data.join(KIT_VERIFIED)).ok()?.trim().parse().ok()
}
