//! Failing calls.
