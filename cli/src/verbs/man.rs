//! `man`: the manual pages, made from the same definition as `--help`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command, CommandFactory};

use crate::error::{Code, stdout_error};

/// Where to.
#[derive(Args, Debug)]
#[command(after_help = "Example: one page a verb into a folder, or the main page to read at once\n  \
    twinkeep man ~/.local/share/man/man1\n  twinkeep man | man -l -")]
pub struct ManArgs {
    /// Folder for one page a verb, those of nouns included; without it the main page goes to standard output
    folder: Option<PathBuf>,
}

/// Writes the pages.
pub fn run(args: &ManArgs) -> anyhow::Result<Code> {
    let mut command = crate::args::Cli::command();
    command.build();
    let Some(folder) = &args.folder else {
        std::io::stdout().write_all(&page(command, None)?).map_err(stdout_error)?;
        return Ok(Code::Done);
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut rest = vec![command];
    while let Some(page_of) = rest.pop() {
        rest.extend(page_of.get_subcommands().filter(|verb| verb.get_name() != "help").cloned());
        let name = page_of.get_display_name().unwrap_or_else(|| page_of.get_name()).replace(' ', "-");
        let path = folder.join(format!("{name}.1"));
        std::fs::write(&path, page(page_of, Some(name))?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Code::Done)
}

fn page(command: Command, title: Option<String>) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command);
    match title {
        Some(title) => man.title(title).render(&mut text)?,
        None => man.render(&mut text)?,
    }
    Ok(text)
}
