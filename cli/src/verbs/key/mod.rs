//! `key`: the ways into a vault, and the machines that may only add to it.

mod add;
mod export;
mod list;
mod paper;
mod passwd;
mod remove;
mod rotate;

use clap::{Args, Subcommand};
use twinkeep_engine::env::Time;
use twinkeep_engine::vault::keyring::{Keyring, SlotKind};

use crate::error::{Code, hinted, usage};
use crate::password::{self, Password};
use crate::session::Run;

/// What to do with keys.
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "The vault's recovery words open it whatever is listed here.\n\n\
    Examples: a password beside this machine's key; a machine that may back up and not read\n  \
    twinkeep key add\n  \
    twinkeep key add --write-only --label pc7 --out pc7.device"
)]
pub struct KeyArgs {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Subcommand, Debug)]
enum KeyVerb {
    /// List the ways into the vault and the machines that may only add to it
    #[command(after_help = "Example: with the ids that `remove` and `passwd` take\n  twinkeep key list")]
    List,
    /// Add a password, a machine key, or a machine that may only add to the vault
    Add(add::AddArgs),
    /// Remove a way in, or let a write-only machine add nothing more
    Remove(remove::RemoveArgs),
    /// Replace the password
    Passwd(passwd::PasswdArgs),
    /// Show the recovery words again, also as a page to print
    #[command(visible_alias = "words")]
    Export(export::ExportArgs),
    /// Draw a new key pair for what is stored from now on
    #[command(
        after_help = "Do this if the secret half of a key pair may be known to somebody. What is stored stays as it\n\
    is, and who has the recovery words or another way in still reads everything.\n\n\
    Example:\n  twinkeep key rotate"
    )]
    Rotate,
}

/// Does it.
pub fn run(run: &Run, args: &KeyArgs) -> anyhow::Result<Code> {
    match &args.verb {
        KeyVerb::List => list::run(run),
        KeyVerb::Add(args) => add::run(run, args),
        KeyVerb::Remove(args) => remove::run(run, args),
        KeyVerb::Passwd(args) => passwd::run(run, args),
        KeyVerb::Export(args) => export::run(run, args),
        KeyVerb::Rotate => rotate::run(run),
    }
}

/// Where a new password comes from.
#[derive(Args, Debug)]
pub struct NewPassword {
    /// Read the new password from the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_command")]
    new_password_file: Option<std::path::PathBuf>,
    /// Take the new password from the first line this shell command prints
    #[arg(long, value_name = "COMMAND")]
    new_password_command: Option<String>,
}

impl NewPassword {
    fn is_given(&self) -> bool {
        self.new_password_file.is_some() || self.new_password_command.is_some()
    }

    /// The password.
    pub fn get(&self) -> anyhow::Result<Password> {
        let given = password::from_either(self.new_password_file.as_deref(), self.new_password_command.as_deref())?;
        match given {
            Some(password) => Ok(password),
            None if password::can_ask() => password::ask_new(),
            None => Err(hinted(
                Code::Usage,
                "there is no terminal to ask for the new password on",
                "give it with --new-password-file or --new-password-command",
            )),
        }
    }
}

/// Something in the keyring that has an id.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Way {
    id: [u8; 8],
    kind: WayKind,
    label: String,
    created: Time,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WayKind {
    Password,
    Machine,
    /// Its generation, and the count of the first record that is not believed of it.
    Device(u16, Option<u64>),
}

impl Way {
    fn hex(&self) -> String {
        hex(&self.id)
    }

    /// How messages speak of it.
    fn name(&self) -> String {
        let kind = match self.kind {
            WayKind::Password => "password",
            WayKind::Machine => "machine key",
            WayKind::Device(..) => "write-only device",
        };
        match self.label.is_empty() || self.label == kind {
            true => format!("{kind} {}", self.hex()),
            false => format!("{kind} {} ({})", self.hex(), crate::show::escaped(self.label.as_bytes())),
        }
    }

    /// The word for it in JSON.
    fn word(&self) -> &'static str {
        match self.kind {
            WayKind::Password => "password",
            WayKind::Machine => "machine",
            WayKind::Device(..) => "device",
        }
    }
}

fn hex(id: &[u8; 8]) -> String {
    data_encoding::HEXLOWER.encode(id)
}

/// Slots, then devices, each from old to new.
fn ways(keyring: &Keyring) -> Vec<Way> {
    let slots = keyring.slots().iter().map(|slot| {
        let kind = match slot.kind {
            SlotKind::Password { .. } => WayKind::Password,
            SlotKind::MachineKey => WayKind::Machine,
        };
        Way { id: slot.id, kind, label: slot.label.clone(), created: slot.created }
    });
    let devices = keyring.devices().iter().map(|device| Way {
        id: device.id.0,
        kind: WayKind::Device(device.generation, device.refused_from),
        label: device.label.clone(),
        created: device.created,
    });
    slots.chain(devices).collect()
}

/// The one whose id begins like this.
fn find(ways: &[Way], prefix: &str) -> anyhow::Result<Way> {
    let wanted = prefix.to_ascii_lowercase();
    let mut found = ways.iter().filter(|way| !wanted.is_empty() && way.hex().starts_with(&wanted));
    let told = |message: String| hinted(Code::Usage, message, "`twinkeep key list` shows the ids");
    match (found.next(), found.next()) {
        (Some(way), None) => Ok(way.clone()),
        (Some(_), Some(_)) => Err(told(format!("several keys begin with {prefix}"))),
        (None, _) => Err(told(format!("no key begins with {prefix:?}"))),
    }
}

/// Asks, unless yes was given; where nobody can be asked it was wrong not to give it.
fn agreed(run: &Run, question: &str) -> anyhow::Result<bool> {
    if run.globals.yes {
        return Ok(true);
    }
    if !password::can_ask() {
        return Err(usage(format!("this takes a yes, and there is no terminal to ask on ({question}); give --yes")));
    }
    password::confirm(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_how_they_begin() {
        let way = |first: u8| Way { id: [first; 8], kind: WayKind::Machine, label: String::new(), created: Time(0) };
        let ways = [way(0xab), way(0xac), way(0x12)];
        let found = |prefix: &str| find(&ways, prefix).ok().map(|way| way.id[0]);
        assert_eq!(found("ab"), Some(0xab));
        assert_eq!(found("1"), Some(0x12));
        assert_eq!(found("ACAC"), Some(0xac));
        assert_eq!([found("a"), found(""), found("x"), found(&"ab".repeat(9))], [None; 4]);
    }

    #[test]
    fn names_do_not_say_it_twice() {
        let way = |label: &str| Way { id: [1; 8], kind: WayKind::Password, label: label.into(), created: Time(0) };
        assert_eq!(way("password").name(), "password 0101010101010101");
        assert_eq!(way("ann\u{1b}").name(), "password 0101010101010101 (ann\\u{1b})");
    }
}
