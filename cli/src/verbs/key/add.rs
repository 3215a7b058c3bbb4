//! `key add`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use twinkeep_engine::env::{Entropy, SystemEntropy};
use twinkeep_engine::vault::Vault;
use twinkeep_engine::vault::keyring::PasswordCost;
use zeroize::Zeroizing;

use super::{NewPassword, hex};
use crate::dirs;
use crate::error::{Code, hinted, usage};
use crate::keyfile::{self, NewFile};
use crate::session::{Run, host_name};

/// What is added.
#[derive(Args, Debug)]
#[command(
    after_help = "Without --machine or --write-only a password is added. A machine key for another machine belongs\n\
    there as keys/VAULT.key in twinkeep's config folder, a device key as keys/VAULT.device.\n\n\
    Examples:\n  \
    twinkeep key add --label ann\n  \
    twinkeep key add --machine\n  \
    twinkeep key add --write-only --label pc7 --out pc7.device"
)]
pub struct AddArgs {
    #[command(flatten)]
    password: NewPassword,
    /// Add a machine key: a file that opens the vault. Without --out it is kept for this machine
    #[arg(long)]
    machine: bool,
    /// Let a machine back up that cannot read what is in the vault; what it needs goes to the file of --out
    #[arg(long, conflicts_with = "machine", requires = "out")]
    write_only: bool,
    /// What to call it
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Write the key to this new file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(run: &Run, args: &AddArgs) -> anyhow::Result<Code> {
    let is_file = args.machine || args.write_only;
    if is_file && args.password.is_given() {
        return Err(usage("a new password goes with neither --machine nor --write-only"));
    }
    if !is_file && args.out.is_some() {
        return Err(usage("--out goes with --machine or --write-only"));
    }
    let vault = run.open()?;
    vault.secret()?;
    let added = match (args.machine, args.write_only) {
        (true, _) => machine(run, args, &vault)?,
        (_, true) => device(args, &vault)?,
        _ => password(args, &vault)?,
    };
    tell(run, args, &vault, &added)
}

struct Added {
    id: [u8; 8],
    kind: &'static str,
    label: String,
    file: Option<PathBuf>,
}

fn password(args: &AddArgs, vault: &Vault) -> anyhow::Result<Added> {
    let password = args.password.get()?;
    let label = args.label.clone().unwrap_or_else(|| "password".to_owned());
    let env = vault.env();
    let id = vault
        .change_keyring(|keyring, _, secret| {
            let (cost, now) = (PasswordCost::default(), env.clock.now());
            keyring.add_password_slot(secret, &password, cost, &label, now, &*env.entropy)
        })
        .context("cannot add the password")?;
    Ok(Added { id, kind: "password", label, file: None })
}

fn machine(run: &Run, args: &AddArgs, vault: &Vault) -> anyhow::Result<Added> {
    let label = args.label.clone().unwrap_or_else(|| match &args.out {
        Some(path) => stem(path),
        None => host_name(),
    });
    let path = match &args.out {
        Some(path) => path.clone(),
        None => own_path(run, vault)?,
    };
    let mut key = Zeroizing::new([0; 32]);
    SystemEntropy.fill(&mut *key);
    // The file first: a slot whose key nobody has would only be in the way.
    let kept = NewFile::create(&path)?.fill(keyfile::line(&key).as_bytes())?;
    let env = vault.env();
    let added = vault.change_keyring(|keyring, _, secret| {
        keyring.add_machine_slot(secret, &key, &label, env.clock.now(), &*env.entropy)
    });
    match added.context("cannot add the machine key") {
        Ok(id) => Ok(Added { id, kind: "machine", label, file: Some(kept) }),
        Err(error) => {
            // A key that opens nothing harms nobody.
            let _ = std::fs::remove_file(&kept);
            Err(error)
        }
    }
}

/// Where this machine keeps its key, if it has none yet.
fn own_path(run: &Run, vault: &Vault) -> anyhow::Result<PathBuf> {
    let folder = keyfile::folder(&dirs::config_dir(&dirs::process_var)?);
    let path = keyfile::path_of(&folder, vault.id());
    if path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
        return Err(hinted(
            Code::Failed,
            format!("this machine has a key to the vault already: {}", path.display()),
            "--out FILE makes one for another machine; move this one away if it no longer opens the vault",
        ));
    }
    keyfile::make_folder(&folder)?;
    run.screen.detail(&format!("the key goes to {}", path.display()));
    Ok(path)
}

fn device(args: &AddArgs, vault: &Vault) -> anyhow::Result<Added> {
    let path = args.out.as_deref().ok_or_else(|| usage("--write-only needs --out FILE"))?;
    let label = args.label.clone().unwrap_or_else(|| stem(path));
    // Made first, so that no device is admitted whose key cannot be kept.
    let file = NewFile::create(path)?;
    let key = match vault.add_device(&label).context("cannot admit the device") {
        Ok(key) => key,
        Err(error) => {
            file.discard();
            return Err(error);
        }
    };
    match file.fill(&key.encode()) {
        Ok(path) => Ok(Added { id: key.id().0, kind: "device", label, file: Some(path) }),
        Err(error) => {
            vault.remove_device(&key.id()).context("the device's key was not kept, and yet it is admitted")?;
            Err(error)
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn tell(run: &Run, args: &AddArgs, vault: &Vault, added: &Added) -> anyhow::Result<Code> {
    let id = hex(&added.id);
    if run.screen.json {
        let file = added.file.as_deref().map(Path::to_string_lossy);
        let fields = json!({ "id": id, "kind": added.kind, "label": added.label, "file": file });
        run.screen.message("key_added", &fields)?;
        return Ok(Code::Done);
    }
    let kind = match added.kind {
        "device" => "write-only device",
        "machine" => "machine key",
        other => other,
    };
    run.screen.tell(&format!("added {kind} {id} ({})", crate::show::escaped(added.label.as_bytes())))?;
    if let Some(file) = &added.file {
        run.screen.tell(&format!("its key is {}", file.display()))?;
    }
    if args.out.is_some() {
        let ending = if args.write_only { "device" } else { "key" };
        run.screen.tell(&format!(
            "on its machine it belongs to ~/.config/twinkeep/keys/{}.{ending}; delete it here then",
            vault.id().to_hex()
        ))?;
    }
    Ok(Code::Done)
}
