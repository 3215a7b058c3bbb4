//! `version`: which program this is.

use clap::Args;
use serde_json::json;

use crate::error::Code;
use crate::session::Run;

/// Nothing to choose.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  twinkeep version --json")]
pub struct VersionArgs {}

/// Name and version of this program, as snapshots tell it.
pub fn program() -> String {
    format!("twinkeep {}", env!("CARGO_PKG_VERSION"))
}

/// Prints it.
pub fn run(run: &Run, _: &VersionArgs) -> anyhow::Result<Code> {
    if run.screen.json {
        let fields = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
        });
        run.screen.message("version", &fields)?;
    } else {
        run.screen.line(&program())?;
    }
    Ok(Code::Done)
}
