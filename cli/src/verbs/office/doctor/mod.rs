//! `doctor`: looks at how this machine stands in its office, and says what is wrong and what to do about it.
//!
//! It changes nothing. Each thing is looked at by itself, as far as whoever asks may see it; nothing that hangs holds the
//! rest up for long.

mod judge;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use twinkeep_nodes::host::setup as host_setup;
use twinkeep_nodes::remote::office::{ServiceStatus, service_status};
use twinkeep_nodes::remote::reach::{self, Reach};
use twinkeep_nodes::terminal::setup as terminal_setup;
use twinkeep_nodes::tracker::names::NodeKey;
use twinkeep_nodes::transport::keys::node_key;
use twinkeep_nodes::transport::limits::PROGRAM;
use twinkeep_nodes::transport::problem::{Problem, Why, problem};

use self::judge::{Finding, State};
use super::host::kit_verified;
use crate::error::{Code, Told};
use crate::office::{self, Role, Service, Session};
use crate::session::Run;
use crate::show;

/// Nothing to choose.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit code 0 when nothing is wrong, else that of the worst: 16 for a host out of reach, 4 for\n\
    what has no second place, 15 for disks, 12 and 13 for logins and keys, 1 for the rest. Whoever\n\
    administers the office sees its machines and copies, too.\n\n\
    Example: on a PC that does not back up\n  twinkeep doctor"
)]
pub struct DoctorArgs {}

/// Whatever is asked answers within this, or hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Does something that may hang.
fn within<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(look()));
    told.recv_timeout(PATIENCE).ok()
}

/// What was found so far; each is shown as it comes.
struct Doctor<'a> {
    run: &'a Run,
    findings: Vec<Finding>,
}

/// Looks.
pub fn run(run: &Run, _args: &DoctorArgs) -> anyhow::Result<Code> {
    let mut doctor = Doctor { run, findings: Vec::new() };
    match Service::find() {
        Err(error) => {
            let text = format!("the settings of this machine cannot be read: {}", crate::error::one_line(&error));
            doctor.tell(Finding::bad("office", Code::Failed, text).help("mend or remove office.toml"))?;
        }
        Ok(None) => {
            let found = Finding::bad("office", Code::NoTracker, "this machine belongs to no office");
            let help = "`twinkeep terminal join` makes it a part of one, `twinkeep host init` makes a new one";
            doctor.tell(found.help(help))?;
        }
        Ok(Some(service)) => doctor.look(&service)?,
    }
    doctor.end()
}

impl Doctor<'_> {
    fn tell(&mut self, finding: Finding) -> anyhow::Result<()> {
        let screen = &self.run.screen;
        let is_told = finding.state > State::Fine || !screen.quiet;
        if screen.json {
            let fields = json!({
                "check": finding.check,
                "about": finding.about,
                "state": finding.state.word(),
                "code": finding.code as u8,
                "text": finding.text,
                "help": finding.help,
            });
            screen.message("finding", &fields)?;
        } else if is_told {
            let about = finding.about.as_ref().map(|about| format!("{about}: ")).unwrap_or_default();
            let text = show::escaped(format!("{about}{}", finding.text).as_bytes());
            screen.line(&format!("{:<8} {:<11} {text}", finding.state.word(), finding.check))?;
            if let Some(help) = &finding.help {
                screen.line(&format!("{:<20} {}", "", show::escaped(help.as_bytes())))?;
            }
        }
        self.findings.push(finding);
        Ok(())
    }

    fn tell_all(&mut self, findings: Vec<Finding>) -> anyhow::Result<()> {
        findings.into_iter().try_for_each(|finding| self.tell(finding))
    }

    fn end(&self) -> anyhow::Result<Code> {
        let count = |state: State| self.findings.iter().filter(|finding| finding.state == state).count() as u64;
        let words = match (count(State::Bad), count(State::Warning)) {
            (0, 0) => "nothing is wrong".to_owned(),
            (0, warnings) => format!("{} to look after", show::count(warnings, "thing")),
            (bad, 0) => format!("{} wrong", show::count(bad, "thing")),
            (bad, warnings) => format!("{} wrong, {} to look after", show::count(bad, "thing"), warnings),
        };
        self.run.screen.tell(&words)?;
        Ok(judge::worst(&self.findings))
    }

    fn look(&mut self, service: &Service) -> anyhow::Result<()> {
        let status = self.service(service)?;
        let (hosts, key) = match &status {
            Some(status) => (status.hosts.clone(), status.host_key),
            None => settings(service).unwrap_or_default(),
        };
        let answers = match key {
            Some(key) => {
                let is_away = status.as_ref().is_some_and(|status| status.away_until.is_some());
                self.addresses(service.role, hosts, key, is_away)?
            }
            None => false,
        };
        if let Some(status) = &status {
            if service.role == Role::Terminal {
                self.tell(judge::line(status, answers))?;
                self.tell(judge::grant(status))?;
            }
            self.office(service.role, status.away_until.is_some())?;
        }
        if service.role == Role::Host && host_setup::read_settings(&service.data).is_ok() {
            let is_there = service.data.join("kit").exists();
            self.tell(judge::kit(is_there, kit_verified(&service.data), Timestamp::now()))?;
        }
        Ok(())
    }

    /// What the service says of itself, if it says anything.
    fn service(&mut self, service: &Service) -> anyhow::Result<Option<ServiceStatus>> {
        let socket = service.socket();
        if let Err(error) = UnixStream::connect(&socket) {
            self.tell(judge::no_service(service.role, &socket, &error))?;
            return Ok(None);
        }
        match within(move || service_status(&socket)) {
            None => self.tell(judge::service_hangs(service.role, PATIENCE)).map(|()| None),
            Some(Err(error)) => self.tell(Finding::bad("service", Code::Failed, error.text)).map(|()| None),
            Some(Ok(status)) => {
                self.tell_all(judge::service(service.role, &status, PROGRAM))?;
                Ok(Some(status))
            }
        }
    }

    /// Whether the host answers anywhere.
    fn addresses(&mut self, role: Role, hosts: Vec<String>, key: NodeKey, is_away: bool) -> anyhow::Result<bool> {
        let env = self.run.env(Some(1));
        let tried = within(move || reach::try_all(&hosts, key, &env));
        let tried = match tried.unwrap_or_else(|| Err(problem(Why::Other, "the network does not answer"))) {
            Ok(tried) => tried,
            Err(error) => {
                self.tell(Finding::bad("address", Code::Failed, error.text))?;
                return Ok(false);
            }
        };
        self.tell_all(judge::addresses(role, &tried, is_away))?;
        let answer = tried.iter().find_map(|(_, reach)| match reach {
            Reach::Host(answer) => Some(answer),
            _ => None,
        });
        if let Some(answer) = answer.filter(|_| role == Role::Terminal) {
            self.tell_all(judge::host(answer, PROGRAM))?;
        }
        Ok(answer.is_some())
    }

    /// What the office says to who is logged in here, and to administrators.
    fn office(&mut self, role: Role, is_away: bool) -> anyhow::Result<()> {
        let account = match office::login() {
            Ok(login) => login.map(|login| login.account),
            Err(error) => {
                let text = format!("login.toml cannot be read: {}", crate::error::one_line(&error));
                return self
                    .tell(Finding::bad("login", Code::Failed, text).help("`twinkeep logout`, then `twinkeep login`"));
            }
        };
        let Some(account) = account else {
            self.tell(judge::login(None))?;
            return if role == Role::Host { self.administrator() } else { Ok(()) };
        };
        if is_away {
            let away = problem(Why::Away, "the host is away on purpose");
            return self.tell(judge::login(Some((&account, Err(&away)))));
        }
        let tried =
            within(|| Session::begin().map(|session| session.user.is_admin).map_err(|error| as_problem(&error)));
        let tried = tried.unwrap_or_else(|| Err(problem(Why::Unreachable, "the host does not answer")));
        self.tell(judge::login(Some((&account, tried.as_ref().map(drop)))))?;
        if role == Role::Host || tried == Ok(true) { self.administrator() } else { Ok(()) }
    }

    fn administrator(&mut self) -> anyhow::Result<()> {
        let asked = within(|| {
            let admin = office::admin().map_err(|error| as_problem(&error))?;
            Ok::<_, Problem>((admin.status()?, admin.nodes()?, admin.copies()?))
        });
        match asked.unwrap_or_else(|| Err(problem(Why::Unreachable, "the host does not answer"))) {
            Ok((status, nodes, vaults)) => {
                self.tell_all(judge::troubles(&status.troubles))?;
                self.tell_all(judge::machines(&nodes, Timestamp::now(), &self.run.zone))?;
                self.tell_all(judge::copies(&vaults))
            }
            Err(error) => {
                let text = format!("the host does not say how it stands: {}", error.text);
                self.tell(Finding::bad("host", Code::NoTracker, text))
            }
        }
    }
}

/// An error of the command as one of the office.
fn as_problem(error: &anyhow::Error) -> Problem {
    let why = match error.downcast_ref::<Told>().map(|told| told.code) {
        Some(Code::WrongKey) => Why::WrongKey,
        Some(Code::NotAllowed) => Why::NotAllowed,
        Some(Code::NoTracker) => Why::Unreachable,
        _ => Why::Other,
    };
    problem(why, crate::error::one_line(error))
}

/// Where the host is, as the settings say it to who may read them.
fn settings(service: &Service) -> Option<(Vec<String>, Option<NodeKey>)> {
    let data: &Path = &service.data;
    match service.role {
        Role::Host => {
            let identity = host_setup::load(data).ok()?;
            Some((identity.addresses, Some(node_key(&identity.key))))
        }
        Role::Terminal => {
            let file = terminal_setup::read_settings(data).ok()?;
            Some((file.hosts, NodeKey::from_hex(&file.host_key)))
        }
    }
}
