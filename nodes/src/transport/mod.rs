//! How machines talk: TLS 1.3 with a key of its own on each side, and Cap'n Proto RPC over it.
//!
//! What always holds: no call runs before both sides have shown that they hold their keys; whose key it is, and what
//! that machine may do, is decided above, by what it is given. Names and dates of certificates play no part, because
//! there are no certificates: keys are sent as they are (RFC 7250).

pub mod gate;
pub mod ids;
pub mod keys;
pub mod limits;
mod meter;
pub mod outgoing;
pub mod problem;
pub mod rpc;
pub mod serve;
pub mod tls;
pub mod upload;
pub mod version;
