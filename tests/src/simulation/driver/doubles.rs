//! A copy of a PC's disk is started on another machine: two machines speak in the name of one.

use super::Driver;
use crate::simulation::pc::Pc;
use std::rc::Rc;
use std::time::Duration;
use twinkeep_nodes::host::Host;

/// That a machine runs twice is seen so soon.
const SEEN: Duration = Duration::from_secs(180);

impl Driver<'_> {
    fn double(&self) -> Option<(usize, Rc<Pc>)> {
        let mut all = self.world.pcs.iter().cloned().enumerate();
        all.find(|(_, pc)| pc.is_clone())
    }

    fn original(&self, double: &Pc) -> Option<usize> {
        self.world.pcs.iter().position(|pc| pc.name == double.node)
    }

    /// Whether two machines run under one key.
    fn is_twice(&self) -> Option<(usize, usize)> {
        let (at, double) = self.double()?;
        let original = self.original(&double)?;
        let runs = |pc: &Pc| !pc.is_off.get();
        (runs(&double) && runs(&self.world.pcs[original])).then_some((original, at))
    }

    /// Somebody starts a copy of a PC.
    pub(super) fn clone_pc(&mut self) -> bool {
        let Some((at, double)) = self.double() else { return false };
        let Some(original) = self.original(&double) else { return false };
        let of = self.world.pcs[original].clone();
        if !double.is_off.get() || of.is_off.get() || self.down.contains(&at) || !of.has_joined.get() {
            return false;
        }
        double.become_double(&of);
        self.note(format_args!("{} is a clone of {}", double.name, of.name));
        if self.dice.one_in(2) {
            self.later(40, super::Heal::OneOfTwo);
        }
        true
    }

    /// One of the two is switched off for good.
    pub(super) fn end_double(&mut self) {
        let Some((original, double)) = self.is_twice() else { return };
        let (at, left) = if self.dice.one_in(2) { (original, double) } else { (double, original) };
        if !self.down.contains(&at) {
            let is_silent = self.dice.one_in(2);
            self.stop_pc(at, false, is_silent);
        }
        self.world.pcs[at].is_off.set(true);
        // What the other held is not here.
        self.world.pcs[left].excuse(&self.world);
    }

    /// A machine that runs twice is given nothing while that is known.
    pub(super) fn watch_double(&mut self) -> Result<(), String> {
        let Some((original, _)) = self.is_twice() else { return Ok(()) };
        let Some(host) = self.world.host.borrow().clone().filter(|_| !self.is_host_down) else { return Ok(()) };
        let pc = self.world.pcs[original].clone();
        let Some(number) = self.world.number_of(&host, &pc) else { return Ok(()) };
        let (is_known, given) = (is_known(&host, &pc), host.copier.on_their_way(number));
        let (was_known, before) = std::mem::replace(&mut self.given, (is_known, given));
        match was_known && is_known && given > before {
            true => Err(format!("{} runs twice, which is known, and is given copies", pc.name)),
            false => Ok(()),
        }
    }

    /// Everything is mended, and a machine still runs twice: that is told, and one of the two goes.
    pub(super) fn resolve_double(&mut self) -> Result<(), String> {
        let Some((original, _)) = self.is_twice().filter(|(at, _)| self.world.pcs[*at].has_joined.get()) else {
            self.end_double();
            return Ok(());
        };
        let pc = self.world.pcs[original].clone();
        self.until(SEEN, |driver| {
            let host = driver.world.host.borrow().clone();
            let is_seen = host.is_some_and(|host| is_known(&host, &pc));
            (!is_seen).then(|| format!("nobody sees that {} runs twice", pc.name))
        })?;
        let end = self.now() + Duration::from_secs(20);
        while self.now() < end {
            self.step()?;
        }
        self.look()?;
        self.end_double();
        Ok(())
    }
}

fn is_known(host: &Host, pc: &Pc) -> bool {
    let online = host.online.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    online.has_twin(&pc.key())
}
