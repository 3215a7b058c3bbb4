//! tests
pub mod fidelity;
