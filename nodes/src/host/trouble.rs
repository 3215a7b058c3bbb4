//! What an administrator should know of: found wherever it shows, said in one place.

use super::room::{self, Room};
use super::{Host, lock};
use crate::tracker::registry::NodeStatus;

/// Something an administrator should know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// What it is about, for programs: `disk`, `question`, `log`, `vaults`, `records`, `damage` or `threads`.
    pub about: &'static str,
    /// Whether something does not work because of it, or is not decided.
    pub is_serious: bool,
    /// What it is, and what can be done.
    pub text: String,
}

/// How the host stands, in a line.
pub fn standing(host: &Host) -> String {
    let machines =
        host.office.read(|registry| registry.nodes().filter(|node| node.status == NodeStatus::Active).count());
    let online = lock(&host.online).count();
    let connections = host.connections.count();
    let mut line = format!("{connections} connections, {online} of {machines} machines online");
    let space = *lock(&host.disk);
    if space.total > 0 {
        line = format!("{line}, disk {} % full", room::used_percent(space));
    }
    all(host).into_iter().fold(line, |line, trouble| format!("{line}; {}", trouble.text))
}

/// All there is now. Looks at nothing that could make it wait.
pub fn all(host: &Host) -> Vec<Trouble> {
    let (marks, space) = (&host.identity.marks, *lock(&host.disk));
    let disk = room::words(marks, space).map(|text| (marks.judge(space) == Room::Full, text));
    let log = host.office.refused().map(|problem| {
        format!("the office's log took no entry when one was last written, so nobody can log in: {problem}")
    });
    let threads = (!host.connections.pulse.is_well()).then(|| {
        let silence = host.connections.pulse.silence().as_secs();
        format!("a thread that serves connections hangs since {silence} s: restart the host")
    });
    let strays = (!host.strays.is_empty()).then(|| {
        let ids: Vec<String> = host.strays.iter().map(ToString::to_string).collect();
        format!(
            "the office does not know the vaults of {} in vaults/, which hold backups: was office/ put back from an \
             older copy? Nothing there is touched; take them away when that is clear",
            ids.join(", ")
        )
    });
    let closed = host.closed();
    let closed = (!closed.is_empty()).then(|| {
        let names = closed.iter().map(|(id, why)| match host.office.read(|office| office.vault(id).cloned()) {
            Some(vault) => format!("{} ({id}: {why})", vault.name),
            None => format!("{id}: {why}"),
        });
        let names: Vec<String> = names.collect();
        format!("these vaults cannot be opened: {}; put them back from a copy and restart the host", names.join(", "))
    });
    let short = host.tips.short();
    let short = (!short.is_empty()).then(|| {
        let ids: Vec<String> = short.iter().map(ToString::to_string).collect();
        format!(
            "records of the vaults {} are lost or damaged, and with them snapshots: put the files in records/ back from a \
             copy; until then nothing is freed there",
            ids.join(", ")
        )
    });
    let lost = host.lost();
    let lost = (lost > 0).then(|| {
        format!(
            "{lost} frames are damaged or gone at the host, and no machine that is there has them: switch on those \
             that are away; `twinkeep scrub start` tries again, and backups of what they held mend it"
        )
    });
    let found = [
        ("threads", threads.map(|text| (true, text))),
        ("log", log.map(|text| (true, text))),
        ("disk", disk),
        ("vaults", closed.map(|text| (true, text))),
        ("records", short.map(|text| (true, text))),
        ("damage", lost.map(|text| (true, text))),
        ("vaults", strays.map(|text| (true, text))),
        ("question", host.watch.question().map(|text| (true, text))),
    ];
    let trouble = |(about, found): (&'static str, Option<(bool, String)>)| {
        found.map(|(is_serious, text)| Trouble { about, is_serious, text })
    };
    found.into_iter().filter_map(trouble).collect()
}
