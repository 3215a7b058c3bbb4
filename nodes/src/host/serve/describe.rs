//! Entries of the log in words.

use super::user::kind_word;
use crate::tracker::event::Event;
use crate::tracker::names::{AccountId, NodeKey};
use crate::tracker::registry::Registry;

/// An entry of the log in words.
pub(super) fn describe(registry: &Registry, event: &Event) -> String {
    let node = |key: &NodeKey| registry.node(key).map_or_else(|| key.to_hex(), |node| node.name.clone());
    let account = |id: &AccountId| registry.account(id).map_or_else(|| id.to_hex(), |account| account.name.clone());
    let switched = |on: bool| if on { "" } else { "no longer " };
    match event {
        Event::NodeTokenMade { name, auto, .. } => {
            let how = if *auto { ", to join without approval" } else { "" };
            format!("made a join token for {name}{how}")
        }
        Event::NodeJoined { name, pending, .. } => {
            format!("{name} joined{}", if *pending { " and waits for approval" } else { "" })
        }
        Event::NodeApproved { key } => format!("approved {}", node(key)),
        Event::NodeRevoked { key } => format!("revoked the key of {}", node(key)),
        Event::NodeForgotten { key } => format!("forgot {}", node(key)),
        Event::NodeDraining { key, on } => {
            format!("{} {}", node(key), if *on { "is being emptied" } else { "is used again" })
        }
        Event::NodeGrant { key, bytes } => format!("{} grants {} MB", node(key), bytes / 1_000_000),
        Event::StandbyAppointed { key, on } => format!("{} is {}a standby", node(key), switched(*on)),
        Event::AccountMade { name, is_admin, .. } => {
            format!("made the account {name}{}", if *is_admin { ", an administrator" } else { "" })
        }
        Event::AccountPassword { id, .. } => format!("{} has a new password", account(id)),
        Event::AccountDisabled { id, on } => format!("{} is {}disabled", account(id), switched(*on)),
        Event::AccountQuota { id, bytes } => format!("{} may use {} MB", account(id), bytes / 1_000_000),
        Event::DeviceAdded { account: id, label, .. } => format!("{} logs in from {label}", account(id)),
        Event::DeviceRevoked { account: id, .. } => format!("a device of {} was revoked", account(id)),
        Event::VaultMade { vault, owner, name, kind, .. } => {
            format!("made the {} vault {name} ({vault}) of {}", kind_word(*kind), account(owner))
        }
        Event::VaultMember { vault, account: id, on, .. } => {
            format!("{} is {}a member of vault {vault}", account(id), switched(*on))
        }
        Event::Audit { kind, text, .. } => format!("{kind:?}: {text}"),
    }
}
