//! `key rotate`.

use anyhow::Context;
use serde_json::json;

use crate::error::Code;
use crate::session::Run;
use crate::show;

pub fn run(run: &Run) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let generation = vault.rotate().context("cannot draw a new key pair")?;
    let keyring = vault.keyring()?;
    let writing = keyring.devices().iter().filter(|device| device.refused_from.is_none());
    let older = writing.filter(|device| device.generation < generation).count() as u64;
    if run.screen.json {
        let fields = json!({ "generation": generation, "devices_older": older });
        run.screen.message("key_rotated", &fields)?;
        return Ok(Code::Done);
    }
    run.screen.tell(&format!("key pair {generation} is for everything stored from now on"))?;
    run.screen.tell(
        "What is stored stays readable as it was, and backups that run now end with the pair they began\n\
        with. This shuts out who stole an older pair, not who knows the recovery words or opened the vault.",
    )?;
    if older > 0 {
        run.screen.tell(&format!(
            "{} still with older pairs; make new keys for them with `twinkeep key add --write-only`",
            show::count(older, "write-only device") + if older == 1 { " goes on" } else { " go on" }
        ))?;
    }
    Ok(Code::Done)
}
