//! The digest of a set of frames: equal sets have equal digests, in whatever order they came about.

use crate::id::FrameId;

const CONTEXT: &str = "twinkeep 2026-11 inventory digest v1";

/// A sum over the names of a set of frames, kept up to date as frames come and go.
///
/// Of each frame `BLAKE3(context, frame id)` is taken as a number of 256 bits, lowest byte first; these are added
/// without carry out. It tells sets apart that differ by accident. It proves nothing about who names it: whoever
/// chooses the frames can make two sets of one digest, and whoever knows the set can compute it without holding it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SetDigest(pub [u8; 32]);

impl SetDigest {
    /// Takes in a frame that was not in the set.
    pub fn add(&mut self, id: &FrameId) {
        self.combine(&blake3::derive_key(CONTEXT, &id.0), 0);
    }

    /// Takes out a frame that was in the set.
    pub fn remove(&mut self, id: &FrameId) {
        // a − b = a + !b + 1
        self.combine(&blake3::derive_key(CONTEXT, &id.0).map(|byte| !byte), 1);
    }

    /// Takes in another set, of which no frame was in this one.
    pub fn join(&mut self, other: &Self) {
        self.combine(&other.0, 0);
    }

    fn combine(&mut self, number: &[u8; 32], mut carry: u16) {
        for (sum, byte) in self.0.iter_mut().zip(number) {
            carry += u16::from(*sum) + u16::from(*byte);
            *sum = carry as u8;
            carry >>= 8;
        }
    }
}

impl<'a> FromIterator<&'a FrameId> for SetDigest {
    fn from_iter<I: IntoIterator<Item = &'a FrameId>>(ids: I) -> Self {
        let mut digest = Self::default();
        ids.into_iter().for_each(|id| digest.add(id));
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_what_leaves_is_as_if_it_never_came() {
        let ids: Vec<_> = (0..50).map(|n| FrameId([n; 32])).collect();
        let forwards: SetDigest = ids.iter().collect();
        assert_eq!(forwards, ids.iter().rev().collect());
        assert_ne!(forwards, ids[1..].iter().collect());
        let mut shrinking = forwards;
        ids.iter().for_each(|id| shrinking.remove(id));
        assert_eq!(shrinking, SetDigest::default());
        shrinking.remove(&ids[3]);
        shrinking.add(&ids[3]);
        assert_eq!(shrinking, SetDigest::default());
    }

    #[test]
    fn the_digest_is_format() {
        let one: SetDigest = [FrameId([0; 32])].iter().collect();
        assert_eq!(one.0, blake3::derive_key(CONTEXT, &[0; 32]));
    }
}
