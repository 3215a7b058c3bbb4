//! `terminal`: this PC as a part of an office.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use twinkeep_nodes::remote::office::service_status;
use twinkeep_nodes::terminal::copies::Kept;
use twinkeep_nodes::terminal::ground;
use twinkeep_nodes::terminal::service::{Machine, Terminal};
use twinkeep_nodes::terminal::setup::{self, Joined};
use twinkeep_nodes::tracker::token::JoinToken;
use twinkeep_nodes::work::Work;

use super::host::machine_id;
use super::serve::{self, ServeArgs};
use crate::error::{Code, hinted, usage};
use crate::office::{Role, Service, told};
use crate::outbox;
use crate::parse;
use crate::password;
use crate::session::Run;
use crate::show;

/// What to do with this PC.
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Example: with a token from `twinkeep token pc7` on the host\n  \
    twinkeep terminal join --token-file token.txt --grant 100G --data /var/lib/twinkeep\n  \
    twinkeep terminal run"
)]
pub struct TerminalArgs {
    #[command(subcommand)]
    verb: TerminalVerb,
}

#[derive(Subcommand, Debug)]
enum TerminalVerb {
    /// Make this PC a part of an office
    Join(JoinArgs),
    /// Run the terminal until it is told to stop
    Run(RunArgs),
    /// Show how the terminal is
    #[command(after_help = "Example:\n  twinkeep terminal status")]
    Status,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  \
    twinkeep terminal join --token-file token.txt --grant 100G --data /var/lib/twinkeep")]
struct JoinArgs {
    /// Read the token from the first line of this file; else it is asked for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How much of this PC's disk the office may use for second copies
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    grant: u64,
    /// The folder of the terminal
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// What tells this physical machine from others, 32 hex digits: one machine never counts as two copies
    #[arg(long, value_name = "ID", hide = true)]
    machine_id: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  twinkeep terminal run --data /var/lib/twinkeep")]
struct RunArgs {
    /// The folder of the terminal. Default: the one of `terminal join`
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Does it.
pub fn run(run: &Run, args: &TerminalArgs) -> anyhow::Result<Code> {
    match &args.verb {
        TerminalVerb::Join(args) => join(run, args),
        TerminalVerb::Run(args) => serve_terminal(run, args),
        TerminalVerb::Status => status(run),
    }
}

fn token(args: &JoinArgs) -> anyhow::Result<JoinToken> {
    let text = match password::from_file(args.token_file.as_deref(), "join token")? {
        Some(text) => text,
        None if password::can_ask() => password::ask("join token")?,
        None => return Err(usage("give the token with --token-file FILE")),
    };
    JoinToken::parse(text.trim()).map_err(|error| usage(error.to_string()))
}

fn join(run: &Run, args: &JoinArgs) -> anyhow::Result<Code> {
    let token = token(args)?;
    let env = run.env(Some(1));
    let data = std::path::absolute(&args.data)?;
    let machine_id = machine_id(args.machine_id.as_deref(), &env)?;
    let service = Service { role: Role::Terminal, data: data.clone() };
    service.refuse_other()?;
    let (file, joined) = setup::join(&data, &env, &token, args.grant, machine_id).map_err(told)?;
    service.remember()?;
    let key = setup::load(&data, "").map_err(told)?.0.key;
    let print = twinkeep_nodes::transport::keys::fingerprint(&twinkeep_nodes::transport::keys::node_key(&key));
    if run.screen.json {
        run.screen.message(
            "joined",
            &json!({
                "name": file.name,
                "data": data.to_string_lossy(),
                "grant": file.grant,
                "pending": joined == Joined::Pending,
                "fingerprint": print,
            }),
        )?;
        return Ok(Code::Done);
    }
    run.screen.tell(&format!("this machine is {} in the office; its key is {print}", file.name))?;
    if joined == Joined::Pending {
        run.screen.tell(&format!(
            "an administrator has to let it in: `twinkeep node approve {}`, if the key shown there is the same",
            file.name
        ))?;
    }
    run.screen.tell("`twinkeep terminal run` runs the terminal")?;
    Ok(Code::Done)
}

fn folder(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(std::path::absolute(named)?);
    }
    match Service::find()? {
        Some(Service { role: Role::Terminal, data }) => Ok(data),
        _ => Err(hinted(
            Code::NoTracker,
            "this machine is no terminal of an office",
            "`twinkeep terminal join` makes it one, --data names the folder",
        )),
    }
}

fn serve_terminal(run: &Run, args: &RunArgs) -> anyhow::Result<Code> {
    let data = folder(args.data.as_deref())?;
    let (settings, grant) = setup::load(&data, env!("CARGO_PKG_VERSION")).map_err(told)?;
    let name = settings.name.clone();
    let env = run.env(None);
    let owner = format!("terminal {name}, pid {}", std::process::id());
    let opened = ground::copies(&data, env.clone(), &owner)
        .with_context(|| format!("cannot open the copies in {}", data.display()))?;
    crate::log::begin(run, args.serve.log_format);
    for fault in opened.rebuilt.iter().flatten() {
        run.screen.warn(Some(fault.file.as_bytes()), &fault.problem);
    }
    let kept = Kept::new(opened.store, grant);
    let (courier, socket) = (env.clone(), ground::socket(&data));
    std::thread::Builder::new().name("courier".into()).spawn(move || outbox::courier(&socket, &courier))?;
    let reserve = setup::read_settings(&data).map_err(told)?.reserve;
    kept.reserve.store(reserve, std::sync::atomic::Ordering::Relaxed);
    serve::run(async {
        let health = args.serve.health().await?;
        // Whoever uses this PC may back up through it: every account shows who it is to the host.
        let socket = serve::socket(&ground::socket(&data), 0o666)?;
        match run.screen.json {
            true => run.screen.message("ready", &json!({ "name": name }))?,
            false => run.screen.line(&format!("the terminal {name} runs"))?,
        }
        let terminal = Terminal::new(settings, kept, &env, Work::Threads, Machine(data.clone()));
        serve::ready();
        let (seen, named) = (terminal.clone(), name.clone());
        let report = move || serve::report("terminal", &named, &seen.troubles());
        tokio::select! {
            ended = terminal.serve(socket, serve::stop()) => ended.map_err(told),
            never = serve::health(health, report) => match never {},
            () = serve::watchdog(|| true, || terminal.standing()) => Ok(()),
        }
    })?;
    Ok(Code::Done)
}

fn status(run: &Run) -> anyhow::Result<Code> {
    let service = Service::get()?;
    if service.role == Role::Host {
        return Err(hinted(Code::Failed, "this machine is the host, and no terminal", "`twinkeep host status`"));
    }
    let status = service_status(&service.socket()).map_err(told)?;
    if run.screen.json {
        run.screen.message(
            "terminal",
            &json!({
                "name": status.name,
                "connected": status.connected,
                "trouble": status.trouble,
                "frames": status.frames,
                "bytes": status.bytes,
                "trash": status.trash,
                "granted": status.granted,
                "away_until": status.away_until.map(|until| show::timestamp(until).to_string()),
            }),
        )?;
        return Ok(Code::Done);
    }
    let line = match status.away_until {
        Some(until) => {
            format!("the host is away on purpose until {}", show::local(show::timestamp(until), &run.zone))
        }
        None => status.trouble,
    };
    run.screen.line(&format!("{}: {line}", status.name))?;
    let (held, granted) = (show::size(status.bytes), show::size(status.granted));
    run.screen.line(&format!("holds {held} of second copies in {granted}; {} set aside", show::size(status.trash)))?;
    Ok(Code::Done)
}
