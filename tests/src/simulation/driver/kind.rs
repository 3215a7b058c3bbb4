//! What may go wrong in a run, and what people do in it.

use crate::simulation::pc::{Manner, Nature};
use crate::simulation::report::{Fault, Weakness};
use crate::simulation::world::Habits;
use twinkeep_engine::env::Dice;

/// Seeds below this draw from the faults of the first version, and give the histories they gave then.
const FIRST_VERSION: u64 = 10_000_000;

/// The same of the second version. In later ones snapshots are forgotten, space is freed, and PCs are cloned.
const SECOND_VERSION: u64 = 2_000_000_000;

/// See the module.
pub(super) struct Kind {
    pub faults: Vec<Fault>,
    pub weakness: Weakness,
    pub habits: Habits,
    /// A PC may be cloned.
    pub clones: bool,
    dice: Dice,
    is_first: bool,
}

impl Kind {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice(seed ^ 0x006b_696e_6400_0000);
        let habits = Habits::default();
        if seed < FIRST_VERSION {
            let (faults, weakness) = (Fault::FIRST.to_vec(), Weakness::None);
            return Self { faults, weakness, habits, clones: false, dice, is_first: true };
        }
        let weakness = match dice.below(3) {
            0 => Weakness::None,
            1 => Weakness::HostRots,
            _ => Weakness::HostIsOld,
        };
        let mut kind = Self { faults: Fault::of(weakness), weakness, habits, clones: false, dice, is_first: false };
        if seed >= SECOND_VERSION {
            kind.widen();
        }
        kind
    }

    fn widen(&mut self) {
        self.habits = Habits { forget: !self.dice.one_in(4), share: self.dice.one_in(3) };
        // What the host loses must be somewhere, and one of the two goes.
        self.clones = self.dice.one_in(4) && self.weakness != Weakness::HostRots;
        if self.habits.forget {
            self.faults.extend([Fault::Month, Fault::Collect, Fault::Collect]);
        }
        if self.clones {
            self.faults.extend([Fault::Clone, Fault::Clone]);
        }
    }

    pub fn liar(&mut self) -> Nature {
        let manners = [Manner::Nothing, Manner::Half, Manner::Wrong, Manner::Mute];
        match (self.is_first, self.weakness) {
            (true, _) => Nature::Liar(Manner::Nothing),
            // What the host loses must be somewhere.
            (_, Weakness::HostRots) => Nature::Honest,
            _ => Nature::Liar(manners[self.dice.below(manners.len())]),
        }
    }
}
