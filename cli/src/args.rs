//! The command line as clap sees it: global flags here, each verb's own in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::verbs;

/// Backups that are kept twice, checked, and found again.
#[derive(Parser, Debug)]
#[command(
    name = "twinkeep",
    version,
    max_term_width = 100,
    args_override_self = true,
    after_help = "Example: back up a folder, look at it, bring it back\n  \
        twinkeep backup ~/documents\n  \
        twinkeep snapshots\n  \
        twinkeep restore latest --target /tmp/restored\n\n\
        Every flag but those of `key` can also stand in the config file (global ones at its top, a verb's\n\
        own in a table with the verb's name) and in the environment (TWINKEEP_FLAG, TWINKEEP_VERB_FLAG).\n\
        A flag beats the environment, which beats the file."
)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that may stand before or after the verb.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The vault: a folder, or twinkeep://NAME or twinkeep://OWNER/NAME for one at the office. Default: the office's for
    /// who is logged in, else twinkeep/vault in the user's data folder
    #[arg(short = 'r', long, value_name = "LOCATION", global = true)]
    pub vault: Option<String>,
    /// Read the password from the first line of this file
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "password_command")]
    pub password_file: Option<PathBuf>,
    /// Take the password from the first line this shell command prints
    #[arg(long, value_name = "COMMAND", global = true)]
    pub password_command: Option<String>,
    /// Open the vault with the recovery words in this file
    #[arg(long, value_name = "FILE", global = true)]
    pub recovery_words_file: Option<PathBuf>,
    /// Open a vault of the office with the recovery kit in this file and its words in --recovery-words-file: an
    /// administrator reads it, and no more. Default on the host: its own kit
    #[arg(long, value_name = "FILE", global = true)]
    pub recovery_kit_file: Option<PathBuf>,
    /// Open the vault with the device key in this file: it can be backed up to, and nothing in it read
    #[arg(long, value_name = "FILE", global = true)]
    pub device_key_file: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only warnings, errors and what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Draw no progress bar and send no status messages
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Keep disposable caches in this folder
    #[arg(long, value_name = "FOLDER", global = true)]
    pub cache_dir: Option<PathBuf>,
    /// Read this config file. Default: twinkeep/config.toml in the user's config folder
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Answer yes to every question
    #[arg(short, long, global = true)]
    pub yes: bool,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a new vault
    Init(verbs::init::InitArgs),
    /// Back up files and folders as a new snapshot
    Backup(Box<verbs::backup::BackupArgs>),
    /// Bring files back from a snapshot
    Restore(verbs::restore::RestoreArgs),
    /// List the snapshots
    Snapshots(verbs::snapshots::SnapshotsArgs),
    /// List what is in a folder of a snapshot
    Ls(verbs::ls::LsArgs),
    /// Find files in snapshots
    Find(verbs::find::FindArgs),
    /// Show all versions of a file
    History(verbs::history::HistoryArgs),
    /// Write a file, or a folder as an archive, to standard output
    Dump(verbs::dump::DumpArgs),
    /// Show what differs between two snapshots
    Diff(verbs::diff::DiffArgs),
    /// Forget snapshots, by a policy or by name
    Forget(Box<verbs::forget::ForgetArgs>),
    /// Bring forgotten snapshots back
    Undelete(verbs::undelete::UndeleteArgs),
    /// Keep snapshots from being forgotten
    Pin(verbs::pin::PinArgs),
    /// Change the tags of snapshots
    Tag(verbs::tag::TagArgs),
    /// Show or change the settings of the vault
    #[command(name = "config")]
    Config(verbs::config::ConfigArgs),
    /// Free what no snapshot needs
    #[command(visible_alias = "prune")]
    Gc(verbs::gc::GcArgs),
    /// Verify the vault
    Check(verbs::check::CheckArgs),
    /// Bring back what can be brought back of a damaged vault
    Repair(verbs::repair::RepairArgs),
    /// Verify the bytes of the vault, without a password
    Scrub(verbs::scrub::ScrubArgs),
    /// Count what snapshots hold and what they take
    Stats(verbs::stats::StatsArgs),
    /// Ways into the vault: list, add, replace, remove them
    Key(verbs::key::KeyArgs),
    /// Show what an office does, on this machine alone
    Demo(verbs::office::demo::DemoArgs),
    /// The host of an office: make it, run it, look after it
    Host(verbs::office::host::HostArgs),
    /// This PC as a part of an office
    Terminal(verbs::office::terminal::TerminalArgs),
    /// Accounts of the office
    User(verbs::office::user::UserArgs),
    /// Vaults of the office, and their members
    Vault(verbs::office::vault::VaultArgs),
    /// Make a token with which a machine may join the office
    Token(verbs::office::user::TokenArgs),
    /// Log in to the office on this machine
    Login(verbs::office::login::LoginArgs),
    /// Send what was backed up while the host was away
    Deliver(verbs::office::deliver::DeliverArgs),
    /// Log out of the office on this machine
    Logout(verbs::office::login::LogoutArgs),
    /// Machines of the office
    Node(verbs::office::node::NodeArgs),
    /// What is kept twice, and what is not yet
    Copies(verbs::office::copies::CopiesArgs),
    /// Show what happened to the office
    Audit(verbs::office::node::AuditArgs),
    /// Look for what is wrong with this machine's part in the office, and say what to do
    Doctor(verbs::office::doctor::DoctorArgs),
    /// Print the version
    Version(verbs::version::VersionArgs),
    /// Print completions for a shell
    Completions(verbs::completions::CompletionsArgs),
    /// Write the manual pages
    Man(verbs::man::ManArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound_and_every_verb_has_an_example() {
        let mut command = super::Cli::command();
        command.clone().debug_assert();
        command.build();
        check(&command);
    }

    /// Verbs, and those of nouns. A line that is wrapped once more looks torn.
    fn check(command: &clap::Command) {
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let name = verb.get_display_name().unwrap_or_default();
            let help = verb.get_after_help().map(|text| text.to_string()).unwrap_or_default();
            assert!(help.contains("Example") && help.contains("twinkeep "), "{name} has no example");
            let long = help.lines().find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{name}");
            check(verb);
        }
    }
}
