//! Who is there, who was away for too long, and what follows from it.
//!
//! The hours each machine was missed are kept in `presence` beside the change log, a line each: number, hours, and
//! whether its copies were given up. Without the file nobody has been missed yet.

use super::{Host, lock};
use crate::tracker::MachineNumber;
use crate::tracker::holders::HoldersError;
use crate::tracker::presence::{Action, Event, Presence, Roster, SavedTerminal};
use crate::tracker::registry::NodeStatus;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twinkeep_engine::files::Files;

const PATH: &str = "presence";

/// Longest such file that is read, bytes: a hundred thousand machines.
const LEN_MAX: usize = 4 << 20;

/// How often time is looked at.
const TICK: Duration = Duration::from_secs(2);

/// See the module.
pub struct Watch {
    roster: Mutex<Roster>,
    /// Terminals missing, of how many, while an administrator has to say what to do.
    question: Mutex<Option<(usize, usize)>>,
    files: Arc<dyn Files>,
}

impl Watch {
    /// Goes on with what was kept.
    pub fn open(files: Arc<dyn Files>, now: Duration) -> Self {
        let saved = match files.read_all(PATH, LEN_MAX) {
            Ok(bytes) => parse(&bytes),
            Err(_) => Vec::new(),
        };
        Self { roster: Mutex::new(Roster::start(now, &saved)), question: Mutex::default(), files }
    }

    /// How a machine is seen.
    pub fn presence(&self, machine: MachineNumber) -> Presence {
        lock(&self.roster).presence(machine)
    }

    /// For how long a machine was missed; nothing of one that is no part of the office.
    pub fn missed(&self, machine: MachineNumber) -> Option<SavedTerminal> {
        lock(&self.roster).save().into_iter().find(|saved| saved.machine == machine)
    }

    /// What an administrator has to answer, in words; nothing while there is nothing.
    pub fn question(&self) -> Option<String> {
        let (missing, all) = (*lock(&self.question))?;
        Some(format!(
            "{missing} of {all} terminals are missing: their copies are not made again until they are back, \
             or `twinkeep node give-up` says that they are gone"
        ))
    }

    fn save(&self) {
        let mut text = String::new();
        for saved in lock(&self.roster).save() {
            let _ = writeln!(text, "{} {} {}", saved.machine.0, saved.hours_missed, u8::from(saved.is_lost));
        }
        if let Err(error) = self.files.write_atomic(PATH, text.as_bytes()) {
            // The hours are counted on in memory; only a restart would forget them.
            tracing::warn!(%error, "cannot keep who was missed");
        }
    }
}

/// Lines that make no sense are left out: somebody is then counted as not missed yet.
fn parse(bytes: &[u8]) -> Vec<SavedTerminal> {
    let text = String::from_utf8_lossy(bytes);
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (machine, hours, lost) = (words.next()?, words.next()?, words.next()?);
        Some(SavedTerminal {
            machine: MachineNumber(machine.parse().ok()?),
            hours_missed: hours.parse().ok()?,
            is_lost: lost == "1",
        })
    };
    text.lines().filter_map(line).collect()
}

/// Takes note of something and does what follows.
pub fn note(host: &Host, event: Event) -> Result<(), HoldersError> {
    let actions = lock(&host.watch.roster).step(host.env().clock.elapsed(), event);
    for action in actions {
        match action {
            Action::Show(machine, presence) => {
                tracing::info!(%machine, ?presence, "seen otherwise");
                host.copier.wake();
            }
            Action::Lose(machine) => {
                tracing::warn!(%machine, "away for too long: its copies are made again elsewhere");
                host.forget_copies(machine)?;
            }
            // It says what it holds as it comes, and that is compared.
            Action::Welcome(machine) => tracing::info!(%machine, "is back"),
            Action::StopAndAsk { missing, all } => *lock(&host.watch.question) = Some((missing, all)),
            Action::GoOn => *lock(&host.watch.question) = None,
            Action::Save => host.watch.save(),
        }
    }
    Ok(())
}

/// Follows everybody from the start: machines that are a part of the office, and those that are to be forgotten.
pub fn begin(host: &Host) -> Result<(), HoldersError> {
    let registry = host.office.registry();
    for node in registry.nodes() {
        let machine = MachineNumber(node.number);
        match node.status {
            NodeStatus::Active => note(host, Event::Joined(machine))?,
            NodeStatus::Pending => {}
            // The host may have ended between the entry in the log and the last of its rows.
            NodeStatus::Revoked | NodeStatus::Forgotten => host.forget_copies(machine)?,
        }
    }
    let lost: Vec<MachineNumber> = lock(&host.watch.roster).lost().collect();
    lost.into_iter().try_for_each(|machine| host.forget_copies(machine))
}

/// Looks at the time for as long as the host runs.
pub async fn run(host: Arc<Host>) {
    loop {
        let watching = host.clone();
        if let Err(error) = host.work().run(move || note(&watching, Event::Tick)).await {
            tracing::warn!(%error, "cannot go on with a machine that is lost");
        }
        tokio::time::sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::files::memory::MemoryFiles;

    #[test]
    fn hours_outlive_a_restart_and_nonsense_is_left_out() {
        let files: Arc<dyn Files> = Arc::new(MemoryFiles::new());
        let watch = Watch::open(files.clone(), Duration::ZERO);
        lock(&watch.roster).step(Duration::ZERO, Event::Joined(MachineNumber(7)));
        watch.save();
        let again = Watch::open(files.clone(), Duration::ZERO);
        assert_eq!(lock(&again.roster).save(), lock(&watch.roster).save());
        files.write_atomic(PATH, b"7 12 1\nx 1 1\n8\n\xff 3 0\n9 4 0\n").unwrap();
        let odd = lock(&Watch::open(files, Duration::ZERO).roster).save();
        assert_eq!(odd.iter().map(|saved| saved.machine.0).collect::<Vec<_>>(), [7, 9]);
    }
}
