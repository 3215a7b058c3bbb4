//! Orders to set frames aside: the company's authority signs them, so that nobody else can have copies dropped.
//!
//! ```text
//!   0    8  magic "TKDROP" 0, version 1
//!   8    4  number of frames n, 1…16384 (u32, little-endian)
//!  12 32·n  frame ids
//!   …   64  Ed25519 signature over everything before it
//! ```
//! An order is good for ever: what it does can be undone for as long as the frames lie in trash, and a frame that the
//! host gives again is held again.

use crate::tracker::sign::{AuthorityKey, SIGNATURE_LEN, SigningKey, is_signed};
use crate::transport::ids::{join, split};
use crate::transport::problem::{Problem, Why, problem};
use twinkeep_engine::id::FrameId;

const MAGIC: [u8; 8] = *b"TKDROP\0\x01";

/// Makes an order.
pub fn sign(authority: &SigningKey, frames: &[FrameId]) -> Vec<u8> {
    let mut order = MAGIC.to_vec();
    order.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    order.extend_from_slice(&join(frames));
    let signature = authority.sign(&order);
    order.extend_from_slice(&signature);
    order
}

/// What an order is about.
///
/// # Errors
/// It is none, or nobody's who may give it.
pub fn verify(authority: &AuthorityKey, order: &[u8]) -> Result<Vec<FrameId>, Problem> {
    let refuse = |text: &str| problem(Why::NotAllowed, format!("the order is refused: {text}"));
    let signed = order.len().checked_sub(SIGNATURE_LEN).map(|at| order.split_at(at));
    let (body, signature) = signed.ok_or_else(|| refuse("it is too short"))?;
    if !is_signed(&authority.0, body, signature) {
        return Err(refuse("the company's authority has not signed it"));
    }
    let body = body.strip_prefix(&MAGIC).ok_or_else(|| refuse("it is of another kind or version"))?;
    let (count, ids) = body.split_first_chunk::<4>().ok_or_else(|| refuse("it is too short"))?;
    let frames = split::<FrameId>(ids)?;
    match frames.len() == u32::from_le_bytes(*count) as usize {
        true => Ok(frames),
        false => Err(refuse("it is not as long as it says")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_authority_gives_orders() {
        let (authority, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let frames = [FrameId([3; 32]), FrameId([4; 32])];
        let order = sign(&authority, &frames);
        assert_eq!(verify(&authority.authority(), &order).unwrap(), frames);
        assert!(verify(&authority.authority(), &sign(&other, &frames)).is_err());
        for len in 0..order.len() {
            assert!(verify(&authority.authority(), &order[..len]).is_err(), "{len}");
        }
        for at in 0..order.len() {
            let mut bad = order.clone();
            bad[at] ^= 1;
            assert!(verify(&authority.authority(), &bad).is_err(), "{at}");
        }
    }
}
