//! Which machine takes first what is written. It is the host, as long as nobody else may act in its place; writers ask
//! all the same, and say at the beginning of a session what they were told, so that nothing is written in two places
//! on the word of a tracker whose time is over.

use super::Host;
use crate::tracker::names::NodeKey;
use crate::transport::problem::{Problem, Why, problem};

/// Where what is written goes first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct First {
    /// The machine that takes it.
    pub holder: NodeKey,
    /// Where it is reached, `host:port`.
    pub addresses: Vec<String>,
    /// The term in which that holds: the generation of the tracker that says so, from 1.
    pub term: u64,
}

impl Host {
    /// Names the first holder. Waits while an entry of the log is written.
    pub fn allocate(&self) -> First {
        let term = self.office.tip().generation;
        First { holder: self.key(), addresses: self.identity.addresses.clone(), term }
    }

    /// Whether the writer was told so in this term; 0 is a writer that did not ask.
    ///
    /// # Errors
    /// [`Why::Busy`]: another term has begun, and the first holder is to be asked for anew.
    pub fn require_term(&self, term: u64) -> Result<(), Problem> {
        let now = self.office.tip().generation;
        match term == 0 || term == now {
            true => Ok(()),
            false => {
                let text = format!("term {now} has begun, and this was to be written in term {term}: begin again");
                Err(problem(Why::Busy, text))
            }
        }
    }
}
