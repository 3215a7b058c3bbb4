//! `init`: makes a vault with other than the usual choices. A plain `backup` needs none.

use clap::Args;
use twinkeep_engine::record::change::{RETENTION_DAYS_MAX, UNDELETE_DAYS_MAX};
use twinkeep_engine::vault::CreateOptions;

use crate::dirs;
use crate::error::Code;
use crate::password;
use crate::session::{NewKey, Run};

/// How the vault is made.
#[derive(Args, Debug)]
#[command(
    after_help = "Without options the key is kept in a file on this machine. The recovery words are shown once.\n\n\
    Example: a vault on another disk that opens with a password\n  \
    twinkeep init --vault /mnt/disk/vault --password"
)]
pub struct InitArgs {
    /// Keep the key with a password: from the password options, or asked for
    #[arg(long, conflicts_with = "no_encryption")]
    password: bool,
    /// Anybody who reaches the folder can read it
    #[arg(long)]
    no_encryption: bool,
    /// Compression level of zstd: 1 (fast) to 19 (small)
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    compression: Option<i32>,
    /// No snapshot younger than N days may ever be forgotten. Can be made longer later, never shorter
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(RETENTION_DAYS_MAX)))]
    retention_days: Option<u32>,
    /// What is forgotten can be brought back for N days. Default: 7
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(UNDELETE_DAYS_MAX)))]
    undelete_days: Option<u32>,
}

/// Makes it.
pub fn run(run: &Run, args: &InitArgs) -> anyhow::Result<Code> {
    let mut options = CreateOptions { encrypted: !args.no_encryption, ..CreateOptions::default() };
    if let Some(level) = args.compression {
        options.level = level;
    }
    options.retention_days_min = args.retention_days.unwrap_or(options.retention_days_min);
    options.undelete_days = args.undelete_days.unwrap_or(options.undelete_days);
    let key = match args.no_encryption {
        true => NewKey::None,
        false => match password::given(&run.globals, &dirs::process_var)? {
            Some(password) => NewKey::Password(password),
            None if args.password => NewKey::Password(password::ask_new()?),
            None => NewKey::Machine,
        },
    };
    run.create(key, &options, Some(1))?;
    Ok(Code::Done)
}
