//! Who may begin one more session of writing: a machine so many, and of those one account not all; and what all that
//! write share.

use super::{Host, WriterRun, lock};
use crate::tracker::MachineNumber;
use crate::tracker::names::AccountId;
use crate::transport::limits::{SESSIONS_PER_ACCOUNT_MAX, SESSIONS_PER_MACHINE_MAX};
use crate::transport::problem::{Problem, Why, problem};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use twinkeep_engine::id::SessionId;

/// See the module.
#[derive(Default)]
pub struct Slots(Mutex<BTreeMap<(MachineNumber, AccountId), usize>>);

/// One session, from before it begins until this goes.
pub struct Slot {
    slots: Arc<Slots>,
    of: (MachineNumber, AccountId),
}

impl Slots {
    /// Takes one.
    ///
    /// # Errors
    /// The machine, or the account on it, has enough.
    pub fn take(self: &Arc<Self>, machine: MachineNumber, account: AccountId) -> Result<Slot, Problem> {
        let mut all = lock(&self.0);
        let of_machine: usize = all.iter().filter(|((other, _), _)| *other == machine).map(|(_, count)| count).sum();
        if of_machine >= SESSIONS_PER_MACHINE_MAX {
            return Err(problem(Why::Busy, format!("this machine has {of_machine} backups under way")));
        }
        let own = all.get(&(machine, account)).copied().unwrap_or_default();
        if own >= SESSIONS_PER_ACCOUNT_MAX {
            return Err(problem(Why::Busy, format!("this account has {own} backups under way on this machine")));
        }
        all.insert((machine, account), own + 1);
        Ok(Slot { slots: self.clone(), of: (machine, account) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut all = lock(&self.slots.0);
        match all.get_mut(&self.of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.remove(&self.of)),
        }
    }
}

impl Host {
    /// A session has begun, from there.
    pub(crate) fn writes(&self, session: SessionId, run: WriterRun) {
        self.keeping().insert(session, run);
        self.share_rows();
    }

    /// A session has ended.
    pub(crate) fn wrote(&self, session: &SessionId) {
        self.keeping().remove(session);
        self.share_rows();
        self.copier.wake();
    }

    /// Rows that wait in all sessions together are not more than those of one alone.
    fn share_rows(&self) {
        let writers = self.keeping().len();
        lock(&self.vaults).values().for_each(|vault| vault.store.share_rows(writers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_account_takes_all_of_a_machine() {
        let slots = Arc::new(Slots::default());
        let take = |machine, account| slots.take(MachineNumber(machine), AccountId([account; 16]));
        let own: Vec<Slot> = (0..SESSIONS_PER_ACCOUNT_MAX).map(|_| take(1, 1).unwrap()).collect();
        assert_eq!(take(1, 1).err().map(|problem| problem.why), Some(Why::Busy));
        let other = take(2, 1).unwrap();
        let mut others = Vec::new();
        for account in 2_u8.. {
            let before = others.len();
            others.extend((0..SESSIONS_PER_ACCOUNT_MAX).map_while(|_| take(1, account).ok()));
            if others.len() == before {
                break;
            }
        }
        assert_eq!(own.len() + others.len(), SESSIONS_PER_MACHINE_MAX);
        drop(own);
        assert!(take(1, 1).is_ok());
        drop((other, others));
        assert!(lock(&slots.0).is_empty());
    }
}
