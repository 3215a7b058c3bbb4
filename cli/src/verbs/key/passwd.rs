//! `key passwd`.

use anyhow::Context;
use clap::Args;
use serde_json::json;
use twinkeep_engine::vault::Vault;
use twinkeep_engine::vault::keyring::PasswordCost;

use super::{NewPassword, Way, WayKind, find, hex, ways};
use crate::error::{Code, hinted, usage};
use crate::session::Run;

/// Which password, and the new one.
#[derive(Args, Debug)]
#[command(after_help = "Without an ID the password is replaced that opened the vault, or the only one there is.\n\n\
    Example:\n  twinkeep key passwd")]
pub struct PasswdArgs {
    /// The first digits of the password's id
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    password: NewPassword,
}

pub fn run(run: &Run, args: &PasswdArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let old = which(args, &vault)?;
    let password = args.password.get()?;
    let env = vault.env();
    let new = vault
        .change_keyring(|keyring, _, secret| {
            // Who took it away meanwhile did not mean it to come back.
            if !keyring.remove_slot(&old.id) {
                return Ok(None);
            }
            let (cost, now) = (PasswordCost::default(), env.clock.now());
            keyring.add_password_slot(secret, &password, cost, &old.label, now, &*env.entropy).map(Some)
        })
        .context("cannot replace the password")?
        .ok_or_else(|| usage(format!("the {} was removed meanwhile", old.name())))?;
    if run.screen.json {
        let fields = json!({ "id": hex(&new), "kind": "password", "label": old.label, "replaces": old.hex() });
        run.screen.message("key_replaced", &fields)?;
        return Ok(Code::Done);
    }
    run.screen.tell(&format!("replaced {} by {}", old.name(), hex(&new)))?;
    run.screen.tell("An older copy of the vault's folder still opens with the old one.")?;
    Ok(Code::Done)
}

fn which(args: &PasswdArgs, vault: &Vault) -> anyhow::Result<Way> {
    let ways = ways(&vault.keyring()?);
    if let Some(id) = &args.id {
        let way = find(&ways, id)?;
        return match way.kind {
            WayKind::Password => Ok(way),
            WayKind::Machine | WayKind::Device(..) => Err(usage(format!("the {} is no password", way.name()))),
        };
    }
    let mut passwords = ways.into_iter().filter(|way| way.kind == WayKind::Password).collect::<Vec<_>>();
    if let Some(at) = passwords.iter().position(|way| Some(way.id) == vault.slot()) {
        return Ok(passwords.swap_remove(at));
    }
    match (passwords.pop(), passwords.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(hinted(Code::Usage, "the vault has no password", "`twinkeep key add` adds one")),
        (Some(_), false) => {
            Err(hinted(Code::Usage, "the vault has several passwords", "name one by its id: twinkeep key passwd ID"))
        }
    }
}
