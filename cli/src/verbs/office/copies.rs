//! `copies`: what is kept twice, and what is not yet.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::Code;
use crate::office::{admin, told};
use crate::session::Run;
use crate::show;

/// What to show.
#[derive(Args, Debug)]
#[command(arg_required_else_help = true, after_help = "Example:\n  twinkeep copies status")]
pub struct CopiesArgs {
    #[command(subcommand)]
    verb: CopiesVerb,
}

#[derive(Subcommand, Debug)]
enum CopiesVerb {
    /// Show how much of each vault is kept twice
    #[command(after_help = "Exit code 4 while something has no second place.\n\nExample:\n  twinkeep copies status")]
    Status,
    /// Say what is in the way of what has no second place yet
    #[command(after_help = "Example:\n  twinkeep copies why")]
    Why,
}

/// Does it.
pub fn run(run: &Run, args: &CopiesArgs) -> anyhow::Result<Code> {
    let vaults = admin()?.copies().map_err(told)?;
    let owed = vaults.iter().any(|vault| vault.owed_frames > 0);
    let code = if owed { Code::FewerCopies } else { Code::Done };
    if run.screen.json {
        for vault in &vaults {
            let fields = json!({
                "vault": vault.id.to_hex(),
                "name": vault.name,
                "kind": vault.kind,
                "owner": vault.owner,
                "bytes": vault.bytes,
                "owed_frames": vault.owed_frames,
                "owed_bytes": vault.owed_bytes,
                "why": vault.why,
            });
            run.screen.message("copies", &fields)?;
        }
        return Ok(code);
    }
    match args.verb {
        CopiesVerb::Status => {
            let rows = vaults.iter().map(|vault| {
                let owed = if vault.owed_frames == 0 { "-".to_owned() } else { show::size(vault.owed_bytes) };
                vec![vault.name.clone(), vault.kind.clone(), vault.owner.clone(), show::size(vault.bytes), owed]
            });
            let header = ["Vault", "Kind", "Owner", "At the host", "Without a second place"];
            run.screen.write_stdout(show::table(&header, rows.collect(), &[3, 4]).as_bytes())?;
        }
        CopiesVerb::Why => {
            for vault in vaults.iter().filter(|vault| vault.owed_frames > 0) {
                let (frames, bytes) = (show::count(vault.owed_frames, "frame"), show::size(vault.owed_bytes));
                let why = if vault.why.is_empty() { "on their way" } else { &vault.why };
                run.screen.line(&format!("{}: {frames}, {bytes}: {why}", vault.name))?;
            }
        }
    }
    if !owed {
        run.screen.tell("everything is kept twice")?;
    }
    Ok(code)
}
