//! What a tracker knows of the office, how it keeps that, and what it decides: without sockets, clocks or threads.
//!
//! | module | role |
//! |---|---|
//! | `limits` | bounds and waits |
//! | `names` | ids, keys of machines, and what names may look like |
//! | `sign` | Ed25519: the company's authority, machines, logins |
//! | `event` | what can happen to an office |
//! | `log` | events on disk, chained and signed |
//! | `registry` | what follows from the events: machines, accounts, devices, vaults |
//! | `nodelist` | the signed list of machines that everybody checks peers against |
//! | `office` | log and registry together, with one writer |
//! | `login` | passwords, proofs, and how often somebody may try |
//! | `member` | what opens a vault for an account, and for the company |
//! | `pace` | how much of the log machines and accounts may fill |
//! | `token` | the text with which a machine joins |
//! | `holders` | which machine holds which frame, and which frames are owed a copy |
//! | `placement` | who is asked to hold a frame, or why nobody |
//! | `presence` | who is there, and who was away so long that its copies are made anew |
//! | `standing` | which terminals did badly what they were asked, and rest |
//! | `uptime` | how long the host has run, and whether its clock can be believed |

pub mod limits;
pub mod names;
pub mod sign;
pub mod event;
pub mod log;
pub mod registry;
pub mod nodelist;
pub mod office;
pub mod login;
pub mod member;
pub mod pace;
pub mod token;

pub mod holders;
pub mod placement;
pub mod presence;
pub mod standing;
pub mod uptime;

use std::fmt;

/// Number of a machine, given by the tracker when it joins and never again to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MachineNumber(pub u32);

impl fmt::Display for MachineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "machine {}", self.0)
    }
}
