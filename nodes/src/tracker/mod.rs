//! What a tracker knows of the office, and how it keeps that.
//!
//! | module | role |
//! |---|---|
//! | `names` | ids, keys of machines, and what names may look like |
//! | `sign` | Ed25519: the company's authority, machines, logins |
//! | `event` | what can happen to an office |
//! | `log` | events on disk, chained and signed |
//! | `registry` | what follows from the events: machines, accounts, devices, vaults |
//! | `nodelist` | the signed list of machines that everybody checks peers against |
//! | `office` | log and registry together, with one writer |
//! | `login` | passwords, proofs, and how often somebody may try |
//! | `token` | the text with which a machine joins |

pub mod names;
pub mod sign;
pub mod event;
pub mod log;
pub mod registry;
pub mod nodelist;
pub mod office;
pub mod login;
pub mod token;
