//! What somebody does with the snapshots of a vault: forgets some, brings some back, lets go what may go; and tries what
//! is not allowed.

use super::Run;
use crate::simulation::fates::Said;
use crate::simulation::pc::Pc;
use crate::simulation::world::{Wish, World};
use capnp::Error;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use twinkeep_engine::env::{Dice, Env, Time};
use twinkeep_engine::history::{History, RefHistory, RefState, unkeyed};
use twinkeep_engine::record::{ChangeKind, ChangeRecord, Record, RecordKind};
use twinkeep_engine::retention;
use twinkeep_engine::store::{ChainLink, StoredRecord};
use twinkeep_nodes::remote::wire::{get_link, put_link};
use twinkeep_nodes::tracker::limits::LOCK_DAYS;
use twinkeep_nodes::transport::problem::{Problem, Why};
use twinkeep_schema::office_capnp::{local, vault};

/// So long somebody tries to do what is left to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does what is left to do in the end, for any user, for as long as a PC runs.
pub async fn fulfil(world: Rc<World>, pc: Rc<Pc>, local: local::Client, env: Env) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let wish = world.wishes.borrow().first_key_value().map(|(user, wish)| (*user, *wish));
        let Some((at, wish)) = wish.filter(|_| pc.is_part() && !world.is_wishing.get()) else { continue };
        world.is_wishing.set(true);
        let user = world.users.borrow()[at].clone();
        let run = Run { world: &world, pc: &pc, user: &user, env: &env };
        match tokio::time::timeout(PATIENCE, run.fulfil(&local, wish)).await {
            Ok(Ok(())) => {
                world.note(&user.name, format_args!("{wish:?}"));
                world.wishes.borrow_mut().remove(&at);
            }
            Ok(Err(error)) => world.note(&user.name, format_args!("{wish:?}: {}", Problem::from(&error).text)),
            Err(_) => world.note(&user.name, format_args!("{wish:?}: no answer")),
        }
        world.is_wishing.set(false);
    }
}

/// The history of a vault as a member sees it.
struct Seen {
    history: History,
    now: Time,
}

impl Run<'_> {
    async fn fulfil(&self, local: &local::Client, wish: Wish) -> Result<(), Error> {
        let session = self.log_in(local).await?;
        let mut request = session.open_request();
        request.get().set_vault(&self.user.vault.0);
        let vault = request.send().promise.await?.get()?.get_vault()?;
        let seen = self.see(&vault).await?;
        if !self.is_sure(&vault, &seen).await? {
            return Err(Error::failed("the clock is in doubt".to_owned()));
        }
        let counts = |entries: Vec<&RefHistory>| entries.iter().map(|entry| entry.count).collect::<Vec<u64>>();
        let forgotten = |entry: &&RefHistory| matches!(entry.state, RefState::Forgotten { .. });
        let every_other = |counts: Vec<u64>| counts.into_iter().filter(|count| count % 2 == 0).collect::<Vec<u64>>();
        let (kind, of) = match wish {
            Wish::Recall => {
                let all = counts(seen.history.refs.values().filter(forgotten).collect());
                (ChangeKind::Undelete, every_other(all))
            }
            Wish::Forget => (forget(), every_other(self.forgettable(&seen))),
            Wish::Purge => (ChangeKind::Purge, retention::due(&seen.history, seen.now)),
        };
        self.say(&vault, kind, &of).await
    }

    /// Does something with what was published.
    pub(super) async fn alter(&self, vault: &vault::Client, dice: &mut Dice) -> Result<(), Error> {
        let seen = self.see(vault).await?;
        let is_bold = dice.one_in(4);
        if !is_bold && !self.is_sure(vault, &seen).await? {
            return Ok(());
        }
        let of = |wanted: &dyn Fn(&RefHistory) -> bool| {
            seen.history.refs.values().filter(|entry| wanted(entry)).map(|entry| entry.count).collect::<Vec<u64>>()
        };
        let forgotten = of(&|entry| matches!(entry.state, RefState::Forgotten { .. }));
        let (kind, among, most) = match (dice.below(6), is_bold) {
            (0 | 1, false) => (forget(), self.forgettable(&seen), 4),
            (0 | 1, true) => (forget(), of(&|entry| entry.state == RefState::Live), 1),
            (2, _) => (ChangeKind::Undelete, forgotten, 2),
            (_, false) => (ChangeKind::Purge, retention::due(&seen.history, seen.now), usize::MAX),
            (_, true) => (ChangeKind::Purge, forgotten, 2),
        };
        let from = dice.below(among.len());
        let of: Vec<u64> = among.into_iter().skip(if most == usize::MAX { 0 } else { from }).take(most).collect();
        match self.say(vault, kind, &of).await {
            // What is not allowed is refused.
            Err(error) if is_bold && Problem::from(&error).why == Why::Usage => Ok(()),
            said => said,
        }
    }

    fn forgettable(&self, seen: &Seen) -> Vec<u64> {
        let may = |entry: &&RefHistory| entry.may_forget(seen.now, seen.history.retention_days_min).is_ok();
        seen.history.live().filter(may).map(|entry| entry.count).collect()
    }

    /// Whether ages can be told; says that the clock is right where it leapt and is.
    async fn is_sure(&self, vault: &vault::Client, seen: &Seen) -> Result<bool, Error> {
        if retention::doubts(&seen.history, seen.now).is_empty() {
            return Ok(true);
        }
        if self.world.skew.load(Ordering::Relaxed) == 0 {
            self.say(vault, ChangeKind::ClockIsRight, &[]).await?;
        }
        // Whoever is sure looks again.
        Ok(false)
    }

    async fn see(&self, vault: &vault::Client) -> Result<Seen, Error> {
        let answer = vault.link_request().send().promise.await?;
        let link = answer.get()?.get_link()?;
        let (now, ripe) = (get_link(link)?.received.unwrap_or_default(), link.get_ripe());
        let mut records = Vec::new();
        loop {
            let mut request = vault.records_request();
            request.get().set_from(records.last().map_or(0, |record: &StoredRecord| record.count + 1));
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            for record in answer.get_records()? {
                let bytes = Ok(record.get_bytes()?.to_vec());
                records.push(StoredRecord { count: record.get_count(), name: record.get_name()?.to_string()?, bytes });
            }
            if !answer.get_more() {
                break;
            }
        }
        let history = History::replay(&records, self.user.vault, LOCK_DAYS, &mut unkeyed);
        Ok(Seen { history: History { ripe: Some(ripe), ..history }, now })
    }

    /// Has a record put behind the others.
    async fn say(&self, vault: &vault::Client, kind: ChangeKind, of: &[u64]) -> Result<(), Error> {
        if of.is_empty() && kind != ChangeKind::ClockIsRight {
            return Ok(());
        }
        let said = match kind {
            ChangeKind::Forget { .. } => Said::Forget,
            ChangeKind::Undelete => Said::Undelete,
            ChangeKind::Purge => Said::Purge,
            _ => Said::Other,
        };
        let change = ChangeRecord { records: of.to_vec(), note: String::new(), kind };
        for _ in 0..4 {
            let link = get_link(vault.link_request().send().promise.await?.get()?.get_link()?)?;
            let asked = self.world.oracle.borrow_mut().ask(self.world, self.user, link.count, said, of);
            let mut request = vault.append_request();
            put_link(&link, link.received.unwrap_or_default(), request.get().init_link());
            request.get().set_record(&self.record(link, &change));
            let answer = match request.send().promise.await {
                Ok(answer) => answer,
                Err(error) => {
                    let problem = Problem::from(&error);
                    if problem.why == Why::Usage {
                        self.judge_refusal(said, of, &problem);
                        self.world.oracle.borrow_mut().refused(&asked);
                    }
                    return Err(error);
                }
            };
            let is_taken = answer.get()?.get_taken();
            let mut oracle = self.world.oracle.borrow_mut();
            if is_taken {
                oracle.taken(&asked, said, of.len());
                self.world.note(&self.user.name, format_args!("{said:?} {of:?} as {}", link.count));
                return Ok(());
            }
            oracle.refused(&asked);
        }
        Err(Error::failed("others are always faster".to_owned()))
    }

    fn record(&self, link: ChainLink, change: &ChangeRecord) -> Vec<u8> {
        let record = Record {
            kind: RecordKind::Change,
            vault: self.user.vault,
            count: link.count,
            received: link.received.unwrap_or_default(),
            previous: link.previous,
            payload: change.encode(),
        };
        record.encode(&|bytes| self.user.keys.record_mac(bytes))
    }

    /// What was forgotten can be brought back, unless it may be gone.
    fn judge_refusal(&self, said: Said, of: &[u64], problem: &Problem) {
        self.world.note(&self.user.name, format_args!("{said:?} {of:?} is refused: {}", problem.text));
        let mut oracle = self.world.oracle.borrow_mut();
        let may_come_back = of.iter().all(|count| !oracle.fate(self.user, *count).may_be_gone);
        if said == Said::Undelete && may_come_back && problem.text.contains("no rule allows") {
            oracle.wrong(format!("{of:?} of {} cannot be brought back: {}", self.user.name, problem.text));
        }
    }
}

fn forget() -> ChangeKind {
    ChangeKind::Forget { undelete_days: LOCK_DAYS }
}
