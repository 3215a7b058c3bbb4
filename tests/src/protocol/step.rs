//! Steps: what may happen next, and how it is told.

use super::rules::Rules;
use super::state::{NAMES, State};
use super::{faults, gc, session};
use std::fmt;

/// Who does something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// A session.
    Session(u8),
    /// A gc.
    Gc(u8),
    /// Whoever looks for packs of ended sessions, rebuilds or expels.
    Somebody,
    /// Whoever writes changes of refs.
    Admin,
    /// Nobody: a fault.
    Fault,
}

/// What it is done to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// Nothing further.
    It,
    /// A chunk.
    Chunk(u8),
    /// Chunks, as bits.
    Chunks(u8),
    /// A frame.
    Frame(u8),
    /// A pack.
    Pack(u8),
    /// A ref.
    Ref(u8),
}

/// Something that may happen at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Who does it.
    pub who: Who,
    /// What.
    pub what: &'static str,
    /// To what.
    pub to: To,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.who {
            Who::Session(slot) => write!(f, "session {slot} ")?,
            Who::Gc(0) => write!(f, "gc ")?,
            Who::Gc(_) => write!(f, "a second gc ")?,
            Who::Somebody => write!(f, "somebody ")?,
            Who::Admin => write!(f, "an admin ")?,
            Who::Fault => {}
        }
        f.write_str(self.what)?;
        match self.to {
            To::It => Ok(()),
            To::Chunk(chunk) => write!(f, " {}", NAMES[chunk as usize]),
            To::Chunks(chunks) => {
                let names: Vec<_> = super::state::bits(chunks).map(|chunk| NAMES[chunk as usize]).collect();
                write!(f, " {}", names.join(" and "))
            }
            To::Frame(frame) => write!(f, " frame {frame}"),
            To::Pack(pack) => write!(f, " pack {pack}"),
            To::Ref(at) => write!(f, " ref {at}"),
        }
    }
}

/// The steps that may follow a state, with what they lead to.
pub struct Next {
    /// The rules that hold.
    pub rules: Rules,
    /// Steps and states.
    pub list: Vec<(Step, State)>,
}

impl Next {
    /// An empty list.
    pub fn new(rules: Rules) -> Self {
        Self { rules, list: Vec::new() }
    }

    /// Adds a step.
    pub fn add(&mut self, who: Who, what: &'static str, to: To, state: State) {
        self.list.push((Step { who, what, to }, state));
    }

    /// Lists all that may follow a state.
    pub fn fill(&mut self, state: &State) {
        self.list.clear();
        session::steps(state, self);
        gc::steps(state, self);
        faults::steps(state, self);
    }
}
