//! The host's own time: what of it outlives a restart, and what waits while the clock is in doubt.
//!
//! Two files beside the change log, in lines: `uptime` says how long the host has run and what the clock said then, and
//! is written every minute; `recorded` says how far the chains of the vaults reached on the days of that time. Without
//! them every window begins anew.

use super::{Host, HostVault, lock};
use crate::tracker::uptime::Uptime;
use crate::transport::problem::{Problem, Why, problem};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twinkeep_engine::env::{Env, Time};
use twinkeep_engine::files::Files;
use twinkeep_engine::history::{DAY, Jump};
use twinkeep_engine::id::VaultId;
use twinkeep_engine::store::{Store, StoreError};

const STATE: &str = "uptime";
const MARKS: &str = "recorded";

/// Longest such file that is read, bytes: a month of days of some thousand vaults.
const LEN_MAX: usize = 16 << 20;

/// The clocks are compared so often.
const TICK: Duration = Duration::from_secs(10);

/// Uptime is written so often: what was not written when power fails does not count.
const KEPT: Duration = Duration::from_secs(60);

/// Chains are looked at so often; a new note is made once a day.
const NOTED: Duration = Duration::from_secs(3600);

/// See the module.
pub struct Hours {
    uptime: Mutex<Uptime>,
    files: Arc<dyn Files>,
}

impl Hours {
    /// Goes on with what was kept.
    pub fn open(files: Arc<dyn Files>, env: &Env) -> Self {
        let read = |path: &str| match files.read_all(path, LEN_MAX) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                tracing::warn!(%error, "cannot read how long the host has run: nothing is let go for a month");
                String::new()
            }
        };
        let (state, marks) = (read(STATE), read(MARKS));
        let uptime = Uptime::start(env.clock.now(), env.clock.elapsed(), &state, &marks);
        Self { uptime: Mutex::new(uptime), files }
    }

    /// Looks at the clocks. A jump is kept before anybody acts on the time.
    fn look(&self, env: &Env) -> std::sync::MutexGuard<'_, Uptime> {
        let mut uptime = lock(&self.uptime);
        if uptime.look(env.clock.now(), env.clock.elapsed()) {
            tracing::warn!("the clock has jumped: nothing is let go until an administrator says that it is right");
            self.keep(&uptime);
        }
        uptime
    }

    fn keep(&self, uptime: &Uptime) {
        if let Err(error) = self.files.write_atomic(STATE, uptime.state().as_bytes()) {
            // It is counted on in memory; a restart would forget it, and everything waits for longer.
            tracing::warn!(%error, "cannot keep how long the host has run");
        }
    }

    /// Keeps the time so far.
    pub fn save(&self, env: &Env) {
        let uptime = self.look(env);
        self.keep(&uptime);
    }

    /// How long the host has run in all.
    pub fn uptime(&self, env: &Env) -> Duration {
        self.look(env).uptime()
    }

    /// What an administrator has to answer; nothing while there is nothing.
    pub fn question(&self, env: &Env) -> Option<String> {
        let Jump { from, to, .. } = self.look(env).jump()?;
        let (days, way) = ((to.0.abs_diff(from.0) / DAY.unsigned_abs()), if to < from { "back" } else { "ahead" });
        Some(format!(
            "the clock of this host went {way} by {days} days at once: nothing is let go until \
             `twinkeep host clock-is-right` says that it is right now"
        ))
    }

    /// Fails while the clock is in doubt.
    pub fn require_sure(&self, env: &Env) -> Result<(), Problem> {
        match self.question(env) {
            Some(question) => Err(problem(Why::Busy, question)),
            None => Ok(()),
        }
    }

    /// Records of a vault up to this count were written long enough ago for what they forgot to go.
    pub fn ripe(&self, env: &Env, vault: VaultId) -> u64 {
        self.look(env).ripe(vault)
    }

    /// An administrator says that the clock is right. Gives where it leapt from and to, if it was in doubt.
    pub fn confirm(&self, env: &Env) -> Option<(Time, Time)> {
        let mut uptime = self.look(env);
        let jump = uptime.confirm()?;
        self.keep(&uptime);
        Some((jump.from, jump.to))
    }

    /// Takes note of how far the chains of these vaults reach.
    pub fn note(&self, env: &Env, vaults: &[(VaultId, Arc<HostVault>)]) -> Result<(), StoreError> {
        let mut tips = Vec::with_capacity(vaults.len());
        for (id, vault) in vaults {
            let mut tip = 0;
            vault.store.append(&mut |link| {
                tip = link.count.saturating_sub(1);
                None
            })?;
            tips.push((*id, tip));
        }
        let mut uptime = self.look(env);
        let mut is_news = false;
        for (id, tip) in tips {
            is_news |= uptime.note(id, tip);
        }
        if is_news {
            // First the time, which the notes name.
            self.keep(&uptime);
            if let Err(error) = self.files.write_atomic(MARKS, uptime.marks().as_bytes()) {
                tracing::warn!(%error, "cannot keep what was recorded by when");
            }
        }
        Ok(())
    }
}

/// Looks at the clocks for as long as the host runs.
pub async fn run(host: Arc<Host>) {
    let start = host.env().clock.elapsed();
    let (mut kept, mut noted) = (start, start);
    loop {
        tokio::time::sleep(TICK).await;
        let now = host.env().clock.elapsed();
        let is_due = |last: &mut Duration, every: Duration| {
            let is_due = now.saturating_sub(*last) >= every;
            *last = if is_due { now } else { *last };
            is_due
        };
        let (keeps, notes) = (is_due(&mut kept, KEPT), is_due(&mut noted, NOTED));
        let looking = host.clone();
        let look = move || {
            let (hours, env) = (&looking.hours, looking.env());
            match keeps {
                true => hours.save(env),
                false => drop(hours.look(env)),
            }
            match notes {
                true => hours.note(env, &looking.vaults()),
                false => Ok(()),
            }
        };
        if let Err(error) = host.work().run(look).await {
            tracing::warn!(%error, "cannot take note of what was recorded");
        }
    }
}
