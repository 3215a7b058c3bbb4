//! `config`: the vault's settings, and those of them that may change.

use anyhow::Context;
use clap::Args;
use serde_json::json;
use twinkeep_engine::crypto::Suite;
use twinkeep_engine::record::change::{RETENTION_DAYS_MAX, UNDELETE_DAYS_MAX};
use twinkeep_engine::retention;
use twinkeep_engine::vault::{ConfigChange, Vault};

use crate::error::{Code, hinted};
use crate::password;
use crate::retention::told;
use crate::session::Run;
use crate::show;

/// What is to be changed; nothing to look only.
#[derive(Args, Debug)]
#[command(
    after_help = "Without options it only shows. A minimum retention is for ever: it is asked for once more, or\n\
    confirmed with --yes.\n\n\
    Examples: what is set; more time to think again; let nobody forget anything for 90 days\n  \
    twinkeep config\n  \
    twinkeep config --undelete-days 30\n  \
    twinkeep config --retention-days 90 --yes"
)]
pub struct ConfigArgs {
    /// No snapshot younger than N days may be forgotten. Can be made longer, never shorter
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(RETENTION_DAYS_MAX)))]
    retention_days: Option<u32>,
    /// What is forgotten from now on can be brought back for N days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(UNDELETE_DAYS_MAX)))]
    undelete_days: Option<u32>,
    /// Compression level of zstd for what is stored from now on: 1 (fast) to 19 (small)
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    compression: Option<i32>,
}

/// Changes and shows.
pub fn run(run: &Run, args: &ConfigArgs) -> anyhow::Result<Code> {
    let mut vault = run.open()?;
    let change = ConfigChange { undelete_days: args.undelete_days, compression_level: args.compression };
    if let Some(days) = args.retention_days.filter(|days| *days > 0) {
        confirm(run, days)?;
    }
    if change != ConfigChange::default() {
        vault.configure(&change).context("cannot change the vault's settings")?;
    }
    if let Some(days) = args.retention_days {
        retention::lengthen(&vault, days).map_err(|error| told(run, error))?;
    }
    tell(run, &vault)?;
    Ok(Code::Done)
}

fn confirm(run: &Run, days: u32) -> anyhow::Result<()> {
    let question = format!("Keep every snapshot for at least {days} days? This can never be taken back.");
    if run.globals.yes || password::confirm(&question)? {
        return Ok(());
    }
    Err(hinted(Code::Usage, "a longer minimum retention is for ever and was not confirmed", "--yes confirms it"))
}

fn tell(run: &Run, vault: &Vault) -> anyhow::Result<()> {
    let config = vault.config();
    let retention_days = vault.history()?.retention_days_min;
    let cipher = match config.suite {
        Suite::Plain => "none",
        Suite::Aes256Gcm => "AES-256-GCM",
        Suite::ChaCha20Poly1305 => "ChaCha20-Poly1305",
    };
    let location = run.location()?;
    let created = show::timestamp(config.created);
    if run.screen.json {
        let fields = json!({
            "vault": vault.id().to_hex(),
            "location": location.to_string_lossy(),
            "format_version": config.format_version,
            "created": created.to_string(),
            "cipher": cipher,
            "compression": config.compression_level,
            "chunk_min": config.cut.min(),
            "chunk_avg": config.cut.avg(),
            "chunk_max": config.cut.max(),
            "chunk_coarse": config.cut.coarse(),
            "retention_days": retention_days,
            "undelete_days": config.undelete_days,
        });
        return run.screen.message("config", &fields);
    }
    let minimum = match retention_days {
        0 => "none".to_owned(),
        days => show::count(days.into(), "day"),
    };
    let lines = [
        ("vault", vault.id().to_hex()),
        ("location", location.display().to_string()),
        ("made", show::local(created, &run.zone)),
        ("format", config.format_version.to_string()),
        ("cipher", cipher.to_owned()),
        ("compression level", config.compression_level.to_string()),
        ("minimum retention", minimum),
        ("undelete window", show::count(config.undelete_days.into(), "day")),
    ];
    lines.iter().try_for_each(|(what, value)| run.screen.line(&format!("{what:<20}{value}")))
}
