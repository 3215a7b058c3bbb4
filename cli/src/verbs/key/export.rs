//! `key export`: the recovery words again.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use zeroize::Zeroizing;

use super::{agreed, paper};
use crate::error::{Code, usage};
use crate::keyfile::NewFile;
use crate::session::{Run, framed};
use crate::show;

/// How they are shown.
#[derive(Args, Debug)]
#[command(after_help = "Examples: on the screen; as a page with a code to scan\n  \
    twinkeep key export\n  \
    twinkeep key export --paper --out words.txt && lp words.txt && shred -u words.txt")]
pub struct ExportArgs {
    /// Make a page to print: vault, date, words, and a code that holds the words
    #[arg(long)]
    paper: bool,
    /// Write to this new file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(run: &Run, args: &ExportArgs) -> anyhow::Result<Code> {
    if run.screen.json && args.paper && args.out.is_none() {
        return Err(usage("with --json a page needs --out FILE"));
    }
    let vault = run.open()?;
    let secret = vault.secret()?;
    let question = "Whoever sees the recovery words can read everything in the vault. Show them?";
    if !agreed(run, question)? {
        return Ok(Code::Failed);
    }
    let location = run.location()?;
    let words = secret.words();
    let text = match args.paper {
        true => paper::page(&vault.id().to_hex(), &location, &words, Timestamp::now(), &run.zone)?,
        false => Zeroizing::new(framed(&words, &location)),
    };
    let file = match &args.out {
        Some(path) => Some(NewFile::create(path)?.fill(text.as_bytes()).context("cannot keep the recovery words")?),
        None => None,
    };
    if run.screen.json {
        let words = args.out.is_none().then_some(words.as_str());
        let fields = json!({
            "vault": vault.id().to_hex(),
            "location": location.to_string_lossy(),
            "words": words,
            "file": file.as_deref().map(std::path::Path::to_string_lossy),
        });
        run.screen.message("recovery_words", &fields)?;
        return Ok(Code::Done);
    }
    match file {
        Some(path) => {
            run.screen.tell(&format!("the words are in {}", show::escaped(path.as_os_str().as_encoded_bytes())))?
        }
        None => run.screen.write_stdout(text.as_bytes())?,
    }
    Ok(Code::Done)
}
