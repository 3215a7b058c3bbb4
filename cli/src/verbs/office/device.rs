//! `user devices` and `user revoke-device`: the machines from which an account logs in without its password.

use clap::Args;
use serde_json::json;
use twinkeep_nodes::remote::people::DeviceRow;
use twinkeep_nodes::tracker::member::pair;
use twinkeep_nodes::transport::keys::fingerprint_of;

use crate::error::{Code, hinted, usage};
use crate::office::{Session, admin, told};
use crate::session::Run;
use crate::show;

/// So many digits of an id at least name a device.
const ID_DIGITS_MIN: usize = 4;

/// Whose.
#[derive(Args, Debug)]
#[command(after_help = "Every `login` adds one. Also shows the key to which others wrap vaults for who is logged in\n\
    here.\n\n\
    Example: of another account, for an administrator\n  twinkeep user devices anna")]
pub struct DevicesArgs {
    /// The account; for administrators. Default: the one logged in here
    name: Option<String>,
}

/// Which.
#[derive(Args, Debug)]
#[command(after_help = "It is out at once, also in the middle of a backup, and never trusted again. Where it was\n\
    logged in, the files of `login` stay: the account's own key is among them.\n\n\
    Example: a laptop that is lost\n  twinkeep user devices\n  twinkeep user revoke-device 51c0")]
pub struct RevokeArgs {
    /// The first digits of its id
    #[arg(value_name = "DEVICE")]
    device: String,
    /// The account it is of; for administrators. Default: the one logged in here
    #[arg(long, value_name = "ACCOUNT")]
    user: Option<String>,
}

/// Lists them.
pub fn list(run: &Run, args: &DevicesArgs) -> anyhow::Result<Code> {
    let (name, key, here, devices) = match &args.name {
        Some(name) => (name.clone(), None, None, admin()?.devices(name).map_err(told)?),
        None => {
            let session = Session::begin()?;
            let key = fingerprint_of(&pair(session.key()).public().0);
            let devices = session.user.devices().map_err(told)?;
            (session.user.name.clone(), Some(key), Some(session.device), devices)
        }
    };
    if run.screen.json {
        run.screen.message("account", &json!({ "name": name, "fingerprint": key }))?;
        for device in &devices {
            let fields = json!({
                "id": device.id.to_hex(),
                "label": device.label,
                "added": show::timestamp(device.added).to_string(),
                "is_this": here == Some(device.id),
            });
            run.screen.message("device", &fields)?;
        }
        return Ok(Code::Done);
    }
    if let Some(key) = key {
        run.screen.line(&format!("{name}, whose key is {key}"))?;
    }
    let rows = devices.iter().map(|device| {
        let note = if here == Some(device.id) { "this one" } else { "" };
        let added = show::local(show::timestamp(device.added), &run.zone);
        let label = show::escaped(device.label.as_bytes());
        vec![device.id.to_hex()[..8].to_owned(), label, added, note.to_owned()]
    });
    run.screen.write_stdout(show::table(&["Device", "Machine", "Since", ""], rows.collect(), &[]).as_bytes())?;
    Ok(Code::Done)
}

/// Revokes one.
pub fn revoke(run: &Run, args: &RevokeArgs) -> anyhow::Result<Code> {
    let revoked = match &args.user {
        Some(name) => {
            let admin = admin()?;
            let device = find(&admin.devices(name).map_err(told)?, &args.device)?;
            admin.revoke_device(name, device.id).map_err(told)?;
            device
        }
        None => {
            let session = Session::begin()?;
            let device = find(&session.user.devices().map_err(told)?, &args.device)?;
            session.user.revoke_device(device.id).map_err(told)?;
            device
        }
    };
    match run.screen.json {
        true => {
            let fields = json!({ "id": revoked.id.to_hex(), "label": revoked.label });
            run.screen.message("device_revoked", &fields)?;
        }
        false => {
            let label = show::escaped(revoked.label.as_bytes());
            run.screen.tell(&format!("{label} does not log in without the password any more"))?;
        }
    }
    Ok(Code::Done)
}

fn find(devices: &[DeviceRow], digits: &str) -> anyhow::Result<DeviceRow> {
    let hex = digits.to_ascii_lowercase();
    if hex.len() < ID_DIGITS_MIN {
        return Err(usage(format!("give at least {ID_DIGITS_MIN} digits of the device's id")));
    }
    let mut found = devices.iter().filter(|device| device.id.to_hex().starts_with(&hex));
    match (found.next(), found.next()) {
        (Some(device), None) => Ok(device.clone()),
        (None, _) => Err(hinted(
            Code::Failed,
            format!("there is no device {digits}"),
            "`twinkeep user devices` lists those that are trusted",
        )),
        (Some(_), Some(_)) => Err(usage(format!("{digits} begins the ids of several devices: give more digits"))),
    }
}
