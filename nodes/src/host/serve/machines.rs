//! What the host knows of each machine, for administrators.

use crate::host::online::Online;
use crate::host::{Host, lock};
use crate::terminal::away::minutes;
use crate::tracker::MachineNumber;
use crate::tracker::holders::OwedCounts;
use crate::tracker::names::NodeKey;
use crate::tracker::presence::Presence;
use crate::tracker::registry::{Node, Registry};
use crate::tracker::standing::{Fault, Rest};
use std::time::Duration;
use twinkeep_schema::office_capnp::{admin, node_info};

/// Of all machines that ever joined, in the order in which they did.
pub(super) fn tell(host: &Host, counts: &OwedCounts, mut results: admin::NodesResults) {
    let registry: &Registry = &host.office.registry();
    let mut nodes: Vec<&Node> = registry.nodes().collect();
    nodes.sort_by_key(|node| node.number);
    let online = lock(&host.online);
    let mut list = results.get().init_nodes(nodes.len() as u32);
    for (at, node) in (0..).zip(nodes) {
        let mut info = list.reborrow().get(at);
        let machine = MachineNumber(node.number);
        let held = counts.machines.iter().find(|count| count.machine == machine);
        info.set_name(&node.name[..]);
        info.set_key(&node.key.0);
        info.set_status(node.status.word());
        info.set_presence(match host.watch.presence(machine) {
            Presence::Online => "online",
            Presence::Suspect => "suspect",
            Presence::Offline => "offline",
        });
        info.set_used(held.map_or(0, |held| held.bytes));
        info.set_frames(held.map_or(0, |held| held.frames));
        info.set_draining(node.draining);
        info.set_machine_id(&node.machine_id.0);
        info.set_joined(node.joined.0);
        info.set_on_their_way(u32::try_from(host.copier.on_their_way(machine)).unwrap_or(u32::MAX));
        if let Some(missed) = host.watch.missed(machine) {
            info.set_hours_missed(missed.hours_missed);
            info.set_given_up(missed.is_lost);
        }
        tell_live(host, &online, node, info.reborrow());
        let now = host.env().clock.elapsed();
        let Some(rest) = host.copier.standing(machine) else { continue };
        info.set_failures(rest.failures);
        if let Some(left) = rest.until.checked_sub(now).filter(|left| !left.is_zero()) {
            let wall = host.env().clock.now().0;
            info.set_rests_until(wall.saturating_add(i64::try_from(left.as_nanos()).unwrap_or(i64::MAX)));
            let has_note = info.reborrow().into_reader().get_note().is_ok_and(|note| !note.is_empty());
            if let Some(words) = words(&rest, left).filter(|_| !has_note) {
                info.set_note(&words[..]);
            }
        }
    }
}

/// Why it is given nothing for a while; nothing where it was only switched off.
fn words(rest: &Rest, left: Duration) -> Option<String> {
    let what = match rest.fault {
        Fault::Gone => return None,
        Fault::Failed => "it failed at what it was asked",
        Fault::Lied => "it does not hold what it said",
    };
    let times = if rest.failures > 1 { format!(", {} times", rest.failures) } else { String::new() };
    Some(format!("{what}{times}: it rests for {}", minutes(left)))
}

/// What is known of it because it is there, or was since the host started.
fn tell_live(host: &Host, online: &Online, node: &Node, mut info: node_info::Builder<'_>) {
    let (now, wall) = (host.env().clock.elapsed(), host.env().clock.now());
    let at = |then: Duration| {
        let ago = i64::try_from(now.saturating_sub(then).as_nanos()).unwrap_or(i64::MAX);
        wall.0.saturating_sub(ago)
    };
    let key: &NodeKey = &node.key;
    let live = online.live(key);
    info.set_granted(live.map_or(node.grant, |live| live.granted));
    info.set_free(live.map_or(0, |live| live.free));
    info.set_version(live.map_or("", |live| &live.version[..]));
    info.set_address(&live.map_or_else(String::new, |live| live.address.to_string())[..]);
    info.set_last_seen(online.last_seen(key).map_or(0, at));
    info.set_proven(online.last_proven(key).map_or(0, at));
    info.set_note(match live {
        _ if online.has_twin(key) => "it runs twice under one key: nothing new is placed there",
        Some(live) if live.shortage() > 0 => "its disk is fuller than its owner wants: what it holds goes elsewhere",
        Some(live) if live.is_on_battery => "it runs on battery: nothing is sent there",
        _ => "",
    });
}
