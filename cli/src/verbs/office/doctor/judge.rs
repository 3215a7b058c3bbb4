//! What is made of what was seen: facts in, findings out.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use twinkeep_nodes::remote::admin::{NodeRow, TroubleRow, VaultRow};
use twinkeep_nodes::remote::office::ServiceStatus;
use twinkeep_nodes::remote::reach::{Answer, Reach};
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_nodes::transport::version::SPOKEN;

use crate::error::Code;
use crate::office::Role;
use crate::show;

/// How it stands with what was looked at; what is worse is larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// As it should be.
    Fine,
    /// As it may be, and worth knowing.
    Note,
    /// To be looked after.
    Warning,
    /// Something does not work.
    Bad,
}

impl State {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What was looked at, for programs.
    pub check: &'static str,
    /// Which of them, where there are several.
    pub about: Option<String>,
    /// How it stands.
    pub state: State,
    /// The exit code it leads to.
    pub code: Code,
    /// What is so, for people.
    pub text: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Finding {
    fn new(check: &'static str, state: State, code: Code, text: impl Into<String>) -> Self {
        Self { check, about: None, state, code, text: text.into(), help: None }
    }

    /// All is well.
    pub fn fine(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, State::Fine, Code::Done, text)
    }

    /// Worth knowing.
    pub fn note(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, State::Note, Code::Done, text)
    }

    /// To be looked after.
    pub fn warning(check: &'static str, code: Code, text: impl Into<String>) -> Self {
        Self::new(check, State::Warning, code, text)
    }

    /// Something does not work.
    pub fn bad(check: &'static str, code: Code, text: impl Into<String>) -> Self {
        Self::new(check, State::Bad, code, text)
    }

    /// What to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Which of several it is about.
    pub fn about(mut self, about: &str) -> Self {
        self.about = Some(about.to_owned());
        self
    }
}

/// The exit code: that of the worst, of the first where several are as bad.
pub fn worst(findings: &[Finding]) -> Code {
    let mut worst: Option<&Finding> = None;
    for finding in findings {
        if worst.is_none_or(|worst| finding.state > worst.state) {
            worst = Some(finding);
        }
    }
    worst.map_or(Code::Done, |finding| finding.code)
}

fn verb(role: Role) -> &'static str {
    match role {
        Role::Host => "host",
        Role::Terminal => "terminal",
    }
}

/// The socket of the service cannot be opened.
pub fn no_service(role: Role, socket: &Path, error: &std::io::Error) -> Finding {
    let (verb, at) = (verb(role), socket.display());
    let start = format!("start it: `systemctl start twinkeep-{verb}`, or `twinkeep {verb} run`");
    match error.kind() {
        ErrorKind::NotFound => {
            Finding::bad("service", Code::NoTracker, format!("no service runs here: there is no {at}")).help(start)
        }
        ErrorKind::ConnectionRefused => {
            let text = format!("no service runs here: {at} is left of one that ended without a word");
            Finding::bad("service", Code::NoTracker, text)
                .help(format!("see what it last said (`journalctl -u twinkeep-{verb}`), then {start}"))
        }
        ErrorKind::PermissionDenied => Finding::bad("service", Code::NotAllowed, format!("this user may not use {at}"))
            .help(match role {
                Role::Host => "run it as root, or as the user the host runs as",
                Role::Terminal => "the folder is to let everybody pass through: `chmod 711` it",
            }),
        _ => Finding::bad("service", Code::NoTracker, format!("{at} cannot be opened: {error}")).help(start),
    }
}

/// The service is there and does not answer.
pub fn service_hangs(role: Role, patience: Duration) -> Finding {
    let text = format!("the service does not answer within {} seconds", patience.as_secs());
    Finding::bad("service", Code::NoTracker, text)
        .help(format!("restart it: `systemctl restart twinkeep-{}`", verb(role)))
}

/// The service, and its program beside this one.
pub fn service(role: Role, status: &ServiceStatus, own: &str) -> Vec<Finding> {
    let runs = Finding::fine("service", format!("the {} {} runs", verb(role), status.name));
    let theirs = if status.version.is_empty() { "an older version" } else { &status.version };
    let program = match status.version == own {
        true => Finding::fine("program", format!("service and command are of version {own}")),
        false => {
            let text = format!("the service is {theirs}, the command {own}");
            Finding::warning("program", Code::Failed, text)
                .help(format!("restart the service: `systemctl restart twinkeep-{}`", verb(role)))
        }
    };
    vec![runs, program]
}

/// How far one gets at the host's addresses.
///
/// `is_away`: the host said that it is.
pub fn addresses(role: Role, tried: &[(String, Reach)], is_away: bool) -> Vec<Finding> {
    let some_work = tried.iter().any(|(_, reach)| matches!(reach, Reach::Host(_)));
    let judge = |(address, reach): &(String, Reach)| {
        let (code, text, help) = match reach {
            Reach::Host(answer) => {
                let text = format!("{} answers, with the key it should have", answer.name);
                return Finding::fine("address", text).about(address);
            }
            other => astray(role, other),
        };
        let finding = match reach {
            Reach::Refused | Reach::Silent if is_away => return Finding::note("address", text).about(address),
            // Another address works: nothing stands still because of this one.
            _ if some_work => Finding::warning("address", code, text),
            _ => Finding::bad("address", code, text),
        };
        finding.help(help).about(address)
    };
    let mut found: Vec<Finding> = tried.iter().map(judge).collect();
    if found.is_empty() {
        found.push(Finding::bad("address", Code::NoTracker, "no address of the host is known here").help(file(role)));
    }
    found
}

fn file(role: Role) -> &'static str {
    match role {
        Role::Host => "put them into `addresses` in host.toml, and restart the host",
        Role::Terminal => "put them into `hosts` in terminal.toml, and restart the terminal",
    }
}

/// Code, words and what to do about an address where the host was not met.
fn astray(role: Role, reach: &Reach) -> (Code, String, String) {
    let change = file(role);
    let (code, text, help) = match reach {
        Reach::Host(_) => (Code::Done, String::new(), String::new()),
        Reach::Unknown(why) => (
            Code::NoTracker,
            format!("the name has no address here: {why}"),
            format!("see whether the network knows it (`getent hosts NAME`); for another name or address, {change}"),
        ),
        Reach::Refused => (
            Code::NoTracker,
            "the machine is there and nobody listens at that port".to_owned(),
            format!(
                "start the host there; if it runs, see `listen` in its host.toml and whether a firewall rejects the \
                 port; if it moved, {change}"
            ),
        ),
        Reach::Silent => (
            Code::NoTracker,
            "nothing comes back".to_owned(),
            format!("the machine is off, or a firewall on the way drops what goes to that port; if it moved, {change}"),
        ),
        Reach::NoWay(why) => (
            Code::NoTracker,
            format!("the network has no way there: {why}"),
            "see whether this machine is on the network of the host, or its VPN is up".to_owned(),
        ),
        Reach::Strange(why) => (
            Code::NoTracker,
            format!("somebody answers, and not as a host does: {why}"),
            format!("something else has that port, or is in between; if the host moved, {change}"),
        ),
        Reach::OtherKey => (
            Code::WrongKey,
            "a host answers whose key is not that of this office".to_owned(),
            "nothing was told to it. If the host was made anew, join again with a token of its; if it was not, find out \
             who answers there"
                .to_owned(),
        ),
        Reach::OtherVersion(why) => {
            (Code::TooNew, format!("the host refuses this version: {why}"), "install the same version on both".to_owned())
        }
    };
    (code, text, help)
}

/// How far apart clocks may be: backups are not harmed, but people wonder, and tokens expire.
const CLOCK_APART: [u64; 2] = [60, 600];

const NEWEST: u16 = SPOKEN.newest;

/// What the host says of its program and its clock.
pub fn host(answer: &Answer, own: &str) -> Vec<Finding> {
    let program = match (&answer.program[..], answer.protocol) {
        (program, NEWEST) if program == own => Finding::fine("version", format!("the host is of version {own}, too")),
        (program, NEWEST) => {
            let program = if program.is_empty() { "an older version" } else { program };
            Finding::note("version", format!("the host is {program}, this machine {own}; they speak the same protocol"))
        }
        (_, protocol) => {
            let text = format!("the host speaks protocol {protocol}, this machine {NEWEST}: they use {protocol}");
            Finding::warning("version", Code::Failed, text).help("install the newer version on both, the host first")
        }
    };
    vec![program, clock(answer)]
}

fn clock(answer: &Answer) -> Finding {
    let apart = Duration::from_nanos(answer.ahead.unsigned_abs());
    // What the question itself took is no difference.
    let secs = apart.saturating_sub(answer.round).as_secs();
    let way = if answer.ahead > 0 { "behind" } else { "ahead of" };
    let text = format!("this machine's clock is {} {way} the host's", show::duration(apart));
    let help = "set the clock of whichever is wrong: `timedatectl` says whether it is kept by the network";
    match CLOCK_APART {
        [_, bad] if secs >= bad => Finding::bad("clock", Code::Failed, text).help(help),
        [warn, _] if secs >= warn => Finding::warning("clock", Code::Failed, text).help(help),
        _ => Finding::fine("clock", "the clocks of this machine and the host agree"),
    }
}

/// The terminal's line to the host, beside what trying by hand came to.
pub fn line(status: &ServiceStatus, is_reachable: bool) -> Finding {
    if status.away_until.is_some() {
        return Finding::note("connection", status.trouble.clone());
    }
    match (status.connected, is_reachable) {
        (true, _) => Finding::fine("connection", "the host has this machine"),
        // It answers, and does not take this machine.
        (false, true) => Finding::bad("connection", Code::NotAllowed, status.trouble.clone()).help(
            "where it waits for approval: `twinkeep node approve` on the host; where its key is not trusted, join again \
             with a new token",
        ),
        (false, false) => Finding::bad("connection", Code::NoTracker, status.trouble.clone())
            .help("see what stands above about the host's addresses; the service goes on trying by itself"),
    }
}

/// What the owner of a terminal grants, beside what its disk has.
pub fn grant(status: &ServiceStatus) -> Finding {
    let left = status.granted.saturating_sub(status.bytes);
    let (granted, free) = (show::size(status.granted), show::size(status.free));
    match left {
        _ if status.granted == 0 => Finding::note("room", "this machine grants the office no room for second copies"),
        0 => Finding::note("room", format!("the {granted} granted here are used up"))
            .help("grant more in terminal.toml, if the disk has it"),
        left if left > status.free => {
            let text =
                format!("{granted} are granted, {} of them not used yet, and the disk has {free}", show::size(left));
            Finding::warning("room", Code::NoSpace, text).help("make room on this disk, or grant less in terminal.toml")
        }
        left => Finding::fine(
            "room",
            format!("{} of {granted} granted are left, and the disk has {free}", show::size(left)),
        ),
    }
}

/// A machine that is away for longer is worth a look: a week is what the office itself waits.
const AWAY: Duration = Duration::from_secs(7 * 24 * 3600);

/// The machines of the office.
pub fn machines(nodes: &[NodeRow], now: Timestamp, zone: &TimeZone) -> Vec<Finding> {
    let mut found = Vec::new();
    let (mut there, mut all) = (0, 0);
    for node in nodes {
        let name = &node.name;
        match &node.status[..] {
            "active" => all += 1,
            "pending" => {
                let finding = Finding::warning("machine", Code::Failed, "it has joined and waits for approval");
                found.push(finding.help(format!("`twinkeep node approve {name}`, if the keys agree")).about(name));
                continue;
            }
            _ => continue,
        }
        if !node.note.is_empty() {
            let finding = Finding::warning("machine", Code::Failed, node.note.clone());
            found.push(finding.help(note_helps(&node.note)).about(name));
        }
        if node.presence == "online" {
            there += 1;
            continue;
        }
        found.push(away(node, now, zone));
    }
    let text = format!("{there} of {all} machines are there");
    found.insert(
        0,
        if all == 0 {
            Finding::note("machines", "no terminal has joined").help(JOIN)
        } else {
            Finding::fine("machines", text)
        },
    );
    found
}

/// What helps against what is odd about a machine: the words are those of the host.
fn note_helps(note: &str) -> &'static str {
    const WORDS: [(&str, &str); 4] = [
        ("it rests", "see the log of its service, and `twinkeep doctor` there; it is tried again by itself"),
        ("runs twice", "join the clone as a machine of its own"),
        ("its disk", "make room on its disk, or set a smaller reserve in its terminal.toml"),
        ("on battery", "plug it in"),
    ];
    WORDS.iter().find(|(part, _)| note.contains(part)).map_or("see the log of its service", |(_, help)| help)
}

const JOIN: &str = "a second copy needs another machine: `twinkeep token NAME` here, `twinkeep terminal join` there";

fn away(node: &NodeRow, now: Timestamp, zone: &TimeZone) -> Finding {
    let name = &node.name;
    let help = format!("switch it on, or run its service; if it does not come back: `twinkeep node forget {name}`");
    let finding = match node.last_seen.map(show::timestamp) {
        None => Finding::note("machine", "it was not there since the host started"),
        Some(seen) => {
            let text = format!("it is away since {}", show::local(seen, zone));
            match now.duration_since(seen).unsigned_abs() > AWAY {
                true => Finding::warning("machine", Code::Failed, text),
                false => Finding::note("machine", text),
            }
        }
    };
    finding.help(help).about(name)
}

/// What has no second place, and why.
pub fn copies(vaults: &[VaultRow]) -> Vec<Finding> {
    let owed: Vec<&VaultRow> = vaults.iter().filter(|vault| vault.owed_frames > 0).collect();
    if owed.is_empty() {
        return vec![Finding::fine("copies", "everything is kept twice")];
    }
    let judge = |vault: &&VaultRow| {
        let size = show::size(vault.owed_bytes);
        let finding = match vault.why.is_empty() {
            true => Finding::note("copies", format!("{size} are on their way to a second place")),
            false => {
                Finding::warning("copies", Code::FewerCopies, format!("{size} have no second place: {}", vault.why))
                    .help(helps(&vault.why))
            }
        };
        finding.about(&vault.name)
    };
    owed.iter().map(judge).collect()
}

/// What helps against a hindrance: its words are those of the host.
fn helps(why: &str) -> &'static str {
    const WORDS: [(&str, &str); 8] = [
        ("and rest", "`twinkeep node list` shows which; see the logs of their services, and `twinkeep doctor` there"),
        ("no terminal has joined", JOIN),
        ("confirmed by an admin", "`twinkeep node list` shows who waits, `twinkeep node approve` lets them in"),
        ("a machine of its own", "a terminal on the host's own machine is no second place: another PC"),
        ("is online", "switch a terminal on that has room"),
        ("grant", "grant more room in terminal.toml of a PC, or join another PC"),
        ("being emptied", "`twinkeep node drain NAME --off`, or another PC"),
        ("runs twice", "join the clone as a machine of its own"),
    ];
    WORDS.iter().find(|(part, _)| why.contains(part)).map_or("another PC with room", |(_, help)| help)
}

/// What the host itself says an administrator should know of.
pub fn troubles(troubles: &[TroubleRow]) -> Vec<Finding> {
    let check = |about: &str| match about {
        "disk" => "disk",
        "log" => "log",
        "question" => "question",
        "vaults" => "vaults",
        _ => "host",
    };
    let judge = |trouble: &TroubleRow| {
        let check = check(&trouble.about);
        let code = if check == "disk" { Code::NoSpace } else { Code::Failed };
        let help = match check {
            "disk" => {
                "a larger disk, or less on it: `twinkeep forget`, later `twinkeep gc`; the marks stand in host.toml"
            }
            "log" => "see why the folder office/ of the host cannot be written: a full disk, a broken one, rights",
            "vaults" => "put back the newest copy of the folder office/, or take away the folders that are named",
            "question" => "switch them on, or `twinkeep node give-up`",
            _ => "restart the host, and keep what it logged",
        };
        match trouble.is_serious {
            true => Finding::bad(check, code, trouble.text.clone()),
            false => Finding::warning(check, code, trouble.text.clone()),
        }
        .help(help)
    };
    let mut found: Vec<Finding> = troubles.iter().map(judge).collect();
    if !troubles.iter().any(|trouble| trouble.about == "disk") {
        found.push(Finding::fine("disk", "the host's disk has room"));
    }
    found
}

/// Whether who is logged in here is let in; `None` where nobody is.
pub fn login(tried: Option<(&str, Result<(), &Problem>)>) -> Finding {
    let Some((account, tried)) = tried else {
        return Finding::note("login", "nobody is logged in as this user on this machine")
            .help("`twinkeep login NAME`, for backups to the office");
    };
    let again = format!("`twinkeep login {account}` logs in again");
    match tried {
        Ok(()) => Finding::fine("login", format!("{account} is logged in")),
        Err(problem) => match problem.why {
            Why::WrongKey => {
                let text = format!("the office does not let {account} in from this machine any more");
                Finding::bad("login", Code::WrongKey, text).help(again)
            }
            Why::NotAllowed => Finding::bad("login", Code::NotAllowed, problem.text.clone()).help(again),
            Why::Away => Finding::note("login", format!("{account} can log in when the host is back")),
            Why::Unreachable => {
                Finding::bad("login", Code::NoTracker, format!("{account} cannot log in: {}", problem.text))
                    .help("the host cannot be reached; see above")
            }
            _ => Finding::bad("login", Code::Failed, format!("{account} cannot log in: {}", problem.text)).help(again),
        },
    }
}

/// The kit is to be looked at twice a year.
const KIT_DAYS: u64 = 180;

/// The file of the recovery kit, and when its words were last tried.
pub fn kit(is_there: bool, verified: Option<Timestamp>, now: Timestamp) -> Finding {
    let verify = "take the words out of the safe: `twinkeep host kit verify --recovery-words-file words.txt`";
    if !is_there {
        return Finding::bad("kit", Code::Failed, "the file `kit` is not in the host's folder: the words open nothing")
            .help("put a copy of it back; without it nobody opens the vaults of the company when an account is lost");
    }
    let Some(verified) = verified else {
        return Finding::note("kit", "nobody has tried here yet whether the words of the recovery kit are right")
            .help(verify);
    };
    let days = now.duration_since(verified).unsigned_abs().as_secs() / (24 * 3600);
    match days > KIT_DAYS {
        true => Finding::warning(
            "kit",
            Code::Failed,
            format!("the words of the recovery kit were last tried {days} days ago"),
        )
        .help(verify),
        false => Finding::fine("kit", format!("the words of the recovery kit were tried {}", ago(days))),
    }
}

fn ago(days: u64) -> String {
    if days == 0 { "today".to_owned() } else { format!("{} ago", show::count(days, "day")) }
}

#[cfg(test)]
mod tests;
