//! What a tracker knows and decides, without sockets, clocks or threads.
//!
//! | module | role |
//! |---|---|
//! | `limits` | bounds and waits |
//! | `digest` | one value for a set of frames: a machine and the tracker compare what they believe it holds |
//! | `holders` | which machine holds which frame, and which frames are owed a copy |
//! | `placement` | who is asked to hold a frame, or why nobody |
//! | `presence` | who is there, and who was away so long that its copies are made anew |

pub mod limits;
pub mod digest;
pub mod holders;
pub mod placement;
pub mod presence;

use std::fmt;

/// Number of a machine, given by the tracker when it joins and never again to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MachineNumber(pub u32);

impl fmt::Display for MachineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "machine {}", self.0)
    }
}
