//! `key remove`.

use clap::Args;
use serde_json::json;
use twinkeep_engine::id::DeviceId;

use super::{Way, WayKind, find, ways};
use crate::error::{Code, hinted, usage};
use crate::session::Run;

/// Which one.
#[derive(Args, Debug)]
#[command(after_help = "The last way in besides the recovery words is removed only with --yes.\n\n\
    Example: by the first digits of its id\n  twinkeep key list\n  twinkeep key remove 3f9a")]
pub struct RemoveArgs {
    /// The first digits of its id
    #[arg(value_name = "ID")]
    id: String,
}

pub fn run(run: &Run, args: &RemoveArgs) -> anyhow::Result<Code> {
    let vault = run.open()?;
    let way = find(&ways(&vault.keyring()?), &args.id)?;
    let told = match way.kind {
        WayKind::Device(_, Some(_)) => return Err(usage(format!("the {} is removed already", way.name()))),
        WayKind::Device(_, None) => {
            vault.remove_device(&DeviceId(way.id))?;
            AFTER_DEVICE
        }
        WayKind::Password | WayKind::Machine => {
            let may_be_last = run.globals.yes;
            let removed = vault.change_keyring(|keyring, _, _| {
                let is_last = keyring.slots().iter().all(|slot| slot.id == way.id);
                Ok((!is_last || may_be_last) && keyring.remove_slot(&way.id))
            })?;
            if !removed {
                return Err(last(&way));
            }
            AFTER_SLOT
        }
    };
    if run.screen.json {
        let fields = json!({ "id": way.hex(), "kind": way.word(), "label": way.label });
        run.screen.message("key_removed", &fields)?;
        return Ok(Code::Done);
    }
    run.screen.tell(&format!("removed {}", way.name()))?;
    run.screen.tell(told)?;
    if way.kind == WayKind::Machine && vault.slot() == Some(way.id) {
        run.screen.tell("It was this machine's own: its key file opens nothing any more and may be deleted.")?;
    }
    Ok(Code::Done)
}

const AFTER_SLOT: &str = "It opens the vault no more. Whoever opened the vault with it before may have kept the secret\n\
    itself, and an older copy of the vault's folder still opens with it: if it was stolen together\n\
    with the folder, make a new vault.";

const AFTER_DEVICE: &str = "Nothing that it writes from now on is believed; what it backed up before stays. As long as it\n\
    reaches the vault's folder it can still damage it, and tell whether the vault holds content that\n\
    it knows: take its access to the folder away, too.";

fn last(way: &Way) -> anyhow::Error {
    hinted(
        Code::Usage,
        format!("the {} is the only way into the vault besides the recovery words", way.name()),
        "add another one first with `twinkeep key add`, or give --yes if you have the words",
    )
}
