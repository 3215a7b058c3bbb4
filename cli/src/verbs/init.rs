//! `init`: makes a vault with other than the usual choices. A plain `backup` needs none.

use clap::Args;
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
}

/// Makes it.
pub fn run(run: &Run, args: &InitArgs) -> anyhow::Result<Code> {
    let mut options = CreateOptions { encrypted: !args.no_encryption, ..CreateOptions::default() };
    if let Some(level) = args.compression {
        options.level = level;
    }
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
