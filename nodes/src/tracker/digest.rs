//! One value for a set of frames, whatever the order in which they came and went.
//!
//! A frame counts as BLAKE3 `derive_key("twinkeep 2026 inventory", frame id)`, read as four little-endian u64; a set is
//! the sum of its frames, lane by lane, wrapping. So it can be kept up to date row by row. It shows drift between two
//! honest machines; it is no proof against one who searches for a set with the same sum, and is not used as one.

use twinkeep_engine::id::FrameId;

const CONTEXT: &str = "twinkeep 2026 inventory";

/// Digest of a set of frames; the empty set has all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SetDigest([u64; 4]);

impl SetDigest {
    /// Bytes on disk and on the wire.
    pub const LEN: usize = 32;

    /// A frame that was not in the set comes in.
    pub fn add(&mut self, id: &FrameId) {
        self.change(id, u64::wrapping_add);
    }

    /// A frame that was in the set goes.
    pub fn remove(&mut self, id: &FrameId) {
        self.change(id, u64::wrapping_sub);
    }

    fn change(&mut self, id: &FrameId, how: fn(u64, u64) -> u64) {
        let term = Self::from_bytes(blake3::derive_key(CONTEXT, &id.0));
        for (lane, term) in self.0.iter_mut().zip(term.0) {
            *lane = how(*lane, term);
        }
    }

    /// The four lanes, little-endian.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (part, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            part.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let mut lanes = [0; 4];
        for (lane, part) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *lane = u64::from_le_bytes(*part);
        }
        Self(lanes)
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
    fn order_does_not_matter_and_what_goes_leaves_no_trace() {
        let ids: Vec<_> = (0..20).map(|n| FrameId([n; 32])).collect();
        let all: SetDigest = ids.iter().collect();
        assert_eq!(all, ids.iter().rev().collect());
        let mut some = all;
        ids[5..].iter().for_each(|id| some.remove(id));
        assert_eq!(some, ids[..5].iter().collect());
        assert_ne!(some, all);
        ids[..5].iter().for_each(|id| some.remove(id));
        assert_eq!(some, SetDigest::default());
        assert_eq!(SetDigest::from_bytes(all.to_bytes()), all);
    }

    /// Machines of all versions must agree on it.
    #[test]
    fn golden() {
        let hex = |ids: &[FrameId]| -> String {
            let digest: SetDigest = ids.iter().collect();
            digest.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let one = FrameId([1; 32]);
        assert_eq!(hex(&[one]), FrameId(blake3::derive_key(CONTEXT, &one.0)).to_hex(), "one frame is its own term");
        assert_eq!(hex(&[one, FrameId([2; 32])]), "263329e45cfbd8149c89a29c44a34090e926847bc2337ad2625636612ad35a3c");
    }
}
