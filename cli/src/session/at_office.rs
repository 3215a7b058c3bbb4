//! A run at an office: what it opens there, what waits for it on this machine.

use std::fs::File;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use twinkeep_engine::forward::Forwarded;
use twinkeep_engine::id::ChunkId;
use twinkeep_engine::progress::Progress;
use twinkeep_engine::vault::Vault;
use twinkeep_nodes::remote::RemoteStore;

use super::{Run, Site};
use crate::error::{self, Code, hinted, one_line};
use crate::kit;
use crate::office;
use crate::outbox::{self, Outbox, Sending, Sent};
use crate::show;

/// Where an open vault of the office rests.
#[derive(Default)]
pub(super) enum At {
    /// It is none of the office.
    #[default]
    Elsewhere,
    /// At the host.
    Host(Arc<RemoteStore>),
    /// On this machine, until the host can be reached; with the lock that says so.
    Here(Box<Outbox>, #[expect(dead_code, reason = "held, not read")] File),
}

/// What became of what waited on this machine.
pub struct Delivered {
    /// Nothing of the account's is left of it.
    pub is_all: bool,
    /// So many snapshots are at the office that were not before.
    pub snapshots: usize,
}

impl Run {
    /// How safe what was stored at the office is; none for a vault in a folder.
    pub fn office_store(&self) -> Option<Arc<RemoteStore>> {
        match &*self.at() {
            At::Host(store) => Some(store.clone()),
            At::Elsewhere | At::Here(..) => None,
        }
    }

    /// Whether what is written waits on this machine for the office to be reached.
    pub fn is_waiting_here(&self) -> bool {
        matches!(*self.at(), At::Here(..))
    }

    /// Of what waits on this machine no second copy is to stay here.
    pub fn spread_when_sent(&self) -> anyhow::Result<()> {
        match &*self.at() {
            At::Here(outbox, _) => outbox.spread(),
            At::Host(_) | At::Elsewhere => Ok(()),
        }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open_at_office(&self, name: Option<&str>, threads: Option<usize>) -> anyhow::Result<Vault> {
        if kit::is_named(&self.globals) {
            let (vault, store) = kit::open(&self.globals, name, self.env(threads))?;
            *self.at() = At::Host(store);
            return Ok(vault);
        }
        self.open_in_session(&office::Session::begin().map_err(with_what_waits)?, name, threads)
    }

    fn open_in_session(
        &self,
        session: &office::Session,
        name: Option<&str>,
        threads: Option<usize>,
    ) -> anyhow::Result<Vault> {
        let (vault, store) = session.open(name, self.env(threads), |text| self.screen.warn(None, &text))?;
        *self.at() = At::Host(store);
        self.screen.detail(&format!("vault {} at the office", vault.id()));
        Ok(vault)
    }

    /// At the office, where what waits on this machine is sent before anything new.
    pub(super) fn open_to_write(&self, name: Option<&str>, threads: Option<usize>) -> anyhow::Result<Vault> {
        if kit::is_named(&self.globals) {
            // Which opens it for reading, as the office says then.
            return self.open_at_office(name, threads);
        }
        let session = office::Session::begin()?;
        if session.line.is_straight() {
            let text = "the service of this machine does not run: no copy of what is backed up now stays here; \
                        `twinkeep terminal run` starts it";
            self.screen.warn(None, text);
        }
        self.deliver(&session, Duration::ZERO)?;
        self.open_in_session(&session, name, threads)
    }

    /// Sends what was backed up while the host was away; tells what came of it. Whoever is at it already is waited for so
    /// long.
    pub fn deliver(&self, session: &office::Session, patience: Duration) -> anyhow::Result<Delivered> {
        let screen = self.screen.clone();
        let progress = Progress::new(move |warning| screen.warn(None, &warning.message));
        let env = self.env(None);
        let sending = Sending { env: &env, progress: &progress, patience };
        let mut delivered = Delivered { is_all: true, snapshots: 0 };
        outbox::set_damaged_aside(|text| self.screen.warn(None, &text))?;
        for (outbox, sent) in outbox::deliver(session, &sending)? {
            let mut left: Vec<String> = Vec::new();
            match sent {
                Ok(Sent::Nothing) => {}
                Ok(Sent::Busy) => left.push("somebody else is at it".to_owned()),
                Ok(Sent::Done(sent)) => {
                    left.extend(sent.left.iter().map(|(id, why)| format!("snapshot {}: {why}", show::short(id))));
                    left.extend(sent.faults.iter().cloned());
                    delivered.snapshots += sent.done.len();
                    self.tell_sent(&outbox, &sent)?;
                }
                Err(error) => left.push(one_line(&error)),
            }
            for why in &left {
                let text = format!("what waits in {} stays there: {why}", outbox.folder().display());
                self.screen.warn(None, &text);
            }
            delivered.is_all &= left.is_empty();
        }
        Ok(delivered)
    }

    fn tell_sent(&self, outbox: &Outbox, sent: &Forwarded) -> anyhow::Result<()> {
        if self.screen.json {
            let fields = json!({
                "vault": outbox.name(),
                "snapshots": sent.done.iter().map(ChunkId::to_hex).collect::<Vec<_>>(),
                "bytes": sent.bytes,
                "left": sent.left.iter().map(|(id, _)| id.to_hex()).collect::<Vec<_>>(),
            });
            return self.screen.message("delivered", &fields);
        }
        if sent.done.is_empty() {
            return Ok(());
        }
        let snapshots = show::count(sent.done.len() as u64, "snapshot");
        let bytes = show::size(sent.bytes);
        self.screen.tell(&format!("sent {snapshots} made while the host was away, {bytes}"))
    }

    /// What takes backups on this machine while the host is out of reach, as `error` says it is.
    ///
    /// # Errors
    /// The same error where this machine has never written to that vault.
    pub fn fall_back(&self, error: anyhow::Error, threads: Option<usize>) -> anyhow::Result<Vault> {
        let (Site::Office(name), Some(login)) = (self.site()?, office::login()?) else { return Err(error) };
        outbox::set_damaged_aside(|text| self.screen.warn(None, &text))?;
        let Some(outbox) = outbox::find(&login, name.as_deref())? else { return Err(error) };
        self.screen.warn(None, &format!("{}: what is backed up now waits on this machine", one_line(&error)));
        let (vault, lock) = outbox.open_to_write(self.env(threads))?;
        *self.at() = At::Here(Box::new(outbox), lock);
        Ok(vault)
    }
}

/// An error that says also what can be read without the office.
fn with_what_waits(error: anyhow::Error) -> anyhow::Error {
    let waiting = outbox::waiting().ok().and_then(|waiting| waiting.into_iter().next());
    match (error::judge(&error), waiting) {
        ((Code::NoTracker, _), Some(outbox)) => hinted(
            Code::NoTracker,
            one_line(&error),
            format!("what was backed up here meanwhile can be read with --vault {}", outbox.folder().display()),
        ),
        _ => error,
    }
}
