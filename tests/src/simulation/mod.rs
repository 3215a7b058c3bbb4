//! A whole office on one thread: the host, the terminals and their users as they ship, over a network, clocks and disks
//! that are simulated. Everything follows from a seed, what goes wrong too.
//!
//! A run has two phases. In the first anything may break at any time, and what was acknowledged must hold all the same.
//! In the second everything is mended and nobody begins anything new: within minutes everything acknowledged has its
//! second copy and can be restored.

pub mod disk;
mod driver;
mod fates;
mod liar;
pub mod log;
mod machines;
mod oracle;
mod pc;
mod report;
mod user;
mod world;

pub use driver::run;
pub use report::{Fault, Report};
