//! The company's recovery kit: a file, and words that open it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use twinkeep_engine::crypto::SecretKey;
use twinkeep_engine::env::Env;
use twinkeep_engine::vault::{Unlock, Vault};
use twinkeep_nodes::host::setup::{SetupError, kit_path, open_kit_file};
use twinkeep_nodes::remote::RemoteStore;
use twinkeep_nodes::remote::office::VaultOf;
use twinkeep_nodes::remote::recovery::Recovery;

use crate::args::Globals;
use crate::error::{Code, hinted, told as told_code, usage};
use crate::office::{Role, Service, admin, told};
use crate::password;
use crate::vaults;

/// Whether flags name the kit, or words that can only be the kit's where the vault is at the office.
pub fn is_named(globals: &Globals) -> bool {
    globals.recovery_kit_file.is_some() || globals.recovery_words_file.is_some()
}

/// The file of the kit: the one that is named, on the host its own.
fn file(globals: &Globals) -> anyhow::Result<PathBuf> {
    if let Some(path) = &globals.recovery_kit_file {
        return Ok(path.clone());
    }
    match Service::get()? {
        Service { role: Role::Host, data } => Ok(kit_path(&data)),
        Service { role: Role::Terminal, .. } => Err(hinted(
            Code::Usage,
            "this takes the recovery kit",
            "name a copy of the file `kit` of the host's folder with --recovery-kit-file",
        )),
    }
}

/// The key that lies in the kit.
fn company(globals: &Globals) -> anyhow::Result<SecretKey> {
    let Some(words) = &globals.recovery_words_file else {
        let hint = "name a file that holds them with --recovery-words-file";
        return Err(hinted(Code::Usage, "this takes the words of the recovery kit", hint));
    };
    let path = file(globals)?;
    let kit = open_kit_file(&path, &password::recovery_secret(words)?).map_err(|error| match error {
        SetupError::File { path, source } => {
            told_code(Code::Failed, format!("cannot read the recovery kit {}: {source}", path.display()))
        }
        error => hinted(
            Code::WrongKey,
            format!("{}: {error}", path.display()),
            "`twinkeep host kit verify` on the host says whether the words are right",
        ),
    })?;
    Ok(kit.company)
}

/// What may be done with the kit that the flags name, as an administrator.
pub fn recovery(globals: &Globals) -> anyhow::Result<Recovery> {
    let company = company(globals)?;
    admin()?.recovery(&company).map_err(told)
}

/// Opens a vault of the office for reading; gives also its store.
pub fn open(globals: &Globals, name: Option<&str>, env: Env) -> anyhow::Result<(Vault, Arc<RemoteStore>)> {
    let name = name.ok_or_else(|| usage("name the vault that the recovery kit shall open: twinkeep://OWNER/NAME"))?;
    let recovery = recovery(globals)?;
    let all = recovery.vaults().map_err(told)?;
    let infos: Vec<VaultOf> = all.iter().map(|vault| vault.info.clone()).collect();
    let id = vaults::named(&infos, "", name)?.id;
    let found = all.iter().find(|vault| vault.info.id == id).context("it was there")?;
    let secret = recovery.secret(found).map_err(told)?;
    let (store, head) = recovery.open(id).map_err(told)?;
    let store = Arc::new(store);
    let vault = Vault::open_through(store.clone(), head, env, Unlock::Secret(&secret))?;
    Ok((vault, store))
}
