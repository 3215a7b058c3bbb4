//! The harness of the tests that cross crates: small source trees, models of them, a vault in memory, and runs that
//! crash it, make its calls fail and damage its files.
//!
//! A run returns what went wrong as text instead of panicking, so that the same run proves the engine right and,
//! with a bug planted, proves itself able to see that bug.

pub mod seeds;
pub mod tree;
pub mod model;
pub mod repair;
pub mod lab;
pub mod crash;
pub mod faults;
pub mod retention;
pub mod damage;
pub mod hooked;
pub mod garbage;
pub mod weave;
pub mod cuts;
pub mod woven;
pub mod moments;
pub mod fire;
pub mod devices;
pub mod scrub;
pub mod fidelity;
pub mod home;
pub mod office;
pub mod jsondoc;
pub mod jsonoffice;
pub mod protocol;
pub mod simulation;
