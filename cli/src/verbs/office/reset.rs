//! `user reset`: another password for an account whose password is lost.

use clap::Args;
use serde_json::json;
use twinkeep_nodes::remote::recovery::CompanyVault;

use crate::error::{Code, hinted};
use crate::kit;
use crate::office::told;
use crate::session::Run;
use crate::show;
use crate::vaults;
use crate::verbs::key::NewPassword;

/// Whose.
#[derive(Args, Debug)]
#[command(after_help = "Takes the recovery kit: its words, and from a PC a copy of its file. What the kit opens is\n\
    opened on this machine and sealed for the account anew; the host sees none of it. All devices of\n\
    the account are revoked. Nothing is deleted; but vaults that the kit does not open, the account\n\
    opens no more.\n\n\
    Example: on the host\n  twinkeep user reset anna --recovery-words-file words.txt")]
pub struct ResetArgs {
    /// The account's name
    name: String,
    /// Go on although there are vaults of the account that the kit does not open
    #[arg(long)]
    give_up_private: bool,
    #[command(flatten)]
    password: NewPassword,
}

/// Does it.
pub fn run(run: &Run, args: &ResetArgs) -> anyhow::Result<Code> {
    let recovery = kit::recovery(&run.globals)?;
    let account = recovery.belongings(&args.name).map_err(told)?;
    let (opened, lost): (Vec<&CompanyVault>, Vec<_>) = account.vaults.iter().partition(|vault| !vault.wrap.is_empty());
    let names: Vec<String> = lost.iter().map(|vault| vaults::location(&vault.info)).collect();
    if !lost.is_empty() && !args.give_up_private {
        return Err(hinted(
            Code::Usage,
            format!(
                "the recovery kit does not open {}: after a reset {} could not either",
                names.join(", "),
                args.name
            ),
            "nothing was changed; --give-up-private goes on all the same",
        ));
    }
    // Known to be right before a password is asked for.
    for vault in &opened {
        recovery.secret(vault).map_err(told)?;
    }
    recovery.reset(&run.env(Some(1)), &account, &args.password.get()?).map_err(told)?;
    if run.screen.json {
        let fields = json!({ "name": account.name, "vaults": opened.len(), "lost": names });
        run.screen.message("user_reset", &fields)?;
        return Ok(Code::Done);
    }
    let count = show::count(opened.len() as u64, "vault");
    run.screen.tell(&format!("{} has a new password, which opens {count}", account.name))?;
    run.screen.tell("its devices were revoked: `twinkeep login` on each machine lets it in again")?;
    for (vault, name) in lost.iter().zip(&names) {
        let way = match vault.info.members.len() {
            0 | 1 => "nobody opens it now",
            _ => "another member can give it back with `twinkeep vault add-member`",
        };
        run.screen.tell(&format!("{name} does not open with it: {way}"))?;
    }
    Ok(Code::Done)
}
