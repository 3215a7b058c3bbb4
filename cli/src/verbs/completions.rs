//! `completions`: a script that lets a shell complete verbs and flags.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::error::{Code, stdout_error};

/// For which shell.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  twinkeep completions bash > ~/.local/share/bash-completion/completions/twinkeep")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<Code> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Cli::command(), "twinkeep", &mut script);
    std::io::stdout().write_all(&script).map_err(stdout_error)?;
    Ok(Code::Done)
}
