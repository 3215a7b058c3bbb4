//! The `twinkeep` command: arguments in, words or JSON out. All decisions about data are the engine's.

mod archive;
mod args;
mod calendar;
mod config;
mod dirs;
mod error;
mod idle;
mod keyfile;
mod kit;
mod log;
mod names;
mod node;
mod office;
mod outbox;
mod parse;
mod password;
mod paths;
mod places;
mod retention;
mod screen;
mod session;
mod show;
mod sources;
mod stream;
mod vaults;
mod verbs;
mod watch;

use std::process::ExitCode;

use args::{Cli, Verb};
use clap::{CommandFactory, FromArgMatches};
use error::Code;
use session::Run;

/// Runs the command with this process's arguments and environment.
pub fn main() -> ExitCode {
    let argv: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let wants_json = argv.iter().any(|arg| arg == "--json");
    let parsed = config::parse(&Cli::command(), argv, &dirs::process_var);
    let cli = match parsed.and_then(|matches| Ok(Cli::from_arg_matches(&matches)?)) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(refuse(error, wants_json) as u8),
    };
    let run = Run::new(cli.globals);
    let is_dump = matches!(cli.verb, Verb::Dump(_));
    let code = match dispatch(&run, cli.verb) {
        Ok(code) => code,
        // Who listens to a list may stop listening; who takes a file and stops did not get it.
        Err(error) if error::is_closed_stdout(&error) => {
            if is_dump {
                Code::Failed
            } else {
                Code::Done
            }
        }
        Err(error) => run.screen.failure(&error),
    };
    ExitCode::from(code as u8)
}

/// Every verb as it is typed, those of a noun with the noun before them; for tests of what is told about them.
pub fn verb_names() -> Vec<String> {
    fn gather(command: &clap::Command, before: &str, names: &mut Vec<String>) {
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let name = format!("{before}{}", verb.get_name());
            match verb.has_subcommands() {
                true => gather(verb, &format!("{name} "), names),
                false => names.push(name),
            }
        }
    }
    let mut names = Vec::new();
    gather(&Cli::command(), "", &mut names);
    names
}

fn dispatch(run: &Run, verb: Verb) -> anyhow::Result<Code> {
    match verb {
        Verb::Init(args) => verbs::init::run(run, &args),
        Verb::Backup(args) => verbs::backup::run(run, &args),
        Verb::Restore(args) => verbs::restore::run(run, &args),
        Verb::Snapshots(args) => verbs::snapshots::run(run, &args),
        Verb::Ls(args) => verbs::ls::run(run, &args),
        Verb::Find(args) => verbs::find::run(run, &args),
        Verb::History(args) => verbs::history::run(run, &args),
        Verb::Dump(args) => verbs::dump::run(run, &args),
        Verb::Diff(args) => verbs::diff::run(run, &args),
        Verb::Forget(args) => verbs::forget::run(run, &args),
        Verb::Undelete(args) => verbs::undelete::run(run, &args),
        Verb::Pin(args) => verbs::pin::run(run, &args),
        Verb::Tag(args) => verbs::tag::run(run, &args),
        Verb::Config(args) => verbs::config::run(run, &args),
        Verb::Gc(args) => verbs::gc::run(run, &args),
        Verb::Check(args) => verbs::check::run(run, &args),
        Verb::Repair(args) => verbs::repair::run(run, &args),
        Verb::Scrub(args) => verbs::scrub::run(run, &args),
        Verb::Stats(args) => verbs::stats::run(run, &args),
        Verb::Key(args) => verbs::key::run(run, &args),
        Verb::Demo(args) => verbs::office::demo::run(run, &args),
        Verb::Host(args) => verbs::office::host::run(run, &args),
        Verb::Terminal(args) => verbs::office::terminal::run(run, &args),
        Verb::User(args) => verbs::office::user::run(run, &args),
        Verb::Vault(args) => verbs::office::vault::run(run, &args),
        Verb::Token(args) => verbs::office::user::token(run, &args),
        Verb::Login(args) => verbs::office::login::run(run, &args),
        Verb::Deliver(args) => verbs::office::deliver::run(run, &args),
        Verb::Logout(args) => verbs::office::login::logout(run, &args),
        Verb::Node(args) => verbs::office::node::run(run, &args),
        Verb::Copies(args) => verbs::office::copies::run(run, &args),
        Verb::Audit(args) => verbs::office::node::audit(run, &args),
        Verb::Doctor(args) => verbs::office::doctor::run(run, &args),
        Verb::Version(args) => verbs::version::run(run, &args),
        Verb::Completions(args) => verbs::completions::run(&args),
        Verb::Man(args) => verbs::man::run(&args),
    }
}

/// A command line that is wrong, or that asks for help.
fn refuse(error: anyhow::Error, wants_json: bool) -> Code {
    let (code, text) = match error.downcast_ref::<clap::Error>() {
        Some(error) if !error.use_stderr() || !wants_json => {
            // Nobody to tell when both outputs are closed.
            let _ = error.print();
            return if error.use_stderr() { Code::Usage } else { Code::Done };
        }
        Some(error) => (Code::Usage, Some(error.render().to_string())),
        None => (error::judge(&error).0, None),
    };
    let globals = args::Globals {
        vault: None,
        password_file: None,
        password_command: None,
        recovery_words_file: None,
        recovery_kit_file: None,
        device_key_file: None,
        json: wants_json,
        quiet: false,
        verbose: 0,
        no_progress: true,
        cache_dir: None,
        config: None,
        yes: false,
    };
    let error = text.map_or(error, |text| error::usage(text.trim_end()));
    screen::Screen::new(&globals).failure(&error);
    code
}
