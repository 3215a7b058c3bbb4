//! What is to be done about each pack: a value, made from counts alone.

use crate::id::Kind;
use crate::index::PackNumber;

/// Packs below this length are merged: few files, few syncs, few directory entries.
pub const PACK_LEN_SMALL: u64 = 16 << 20;

/// A pack is rewritten when at least one byte of this many in it is not needed.
pub const DEAD_SHARE: u64 = 4;

/// A pack as a collection sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackSurvey {
    /// Its number.
    pub number: PackNumber,
    /// Its file name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Length of its frames, bytes; 0 where it has none.
    pub len: u64,
    /// Bytes of frames of which nothing is needed.
    pub dead_len: u64,
    /// Bytes of frames of which less than half is needed, in chunks.
    pub sparse_len: u64,
    /// Of these the bytes that are not needed, by the share of their chunks.
    pub sparse_dead_len: u64,
    /// Bytes that are not needed inside all frames of which something is, by the share of their chunks.
    pub inner_dead_len: u64,
    /// Frames of which something is needed.
    pub live_frames: u64,
    /// Frames of which nothing is needed.
    pub dead_frames: u64,
    /// Of the live ones, those of which less than half is needed.
    pub sparse_frames: u64,
    /// Whether it may be touched: it is complete, its writer has ended, and all in it that is needed is believed.
    pub is_free: bool,
}

/// What is done with a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It stays as it is.
    Keep,
    /// Nothing in it is needed.
    Drop,
    /// What is needed moves into other packs, then it goes. Frames of which little is needed are taken apart where the
    /// keys are at hand.
    Rewrite,
}

/// What a collection is going to do, or has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// All packs, each with what is done.
    pub packs: Vec<(PackSurvey, Step)>,
    /// Whether frames of which little is needed are taken apart.
    pub takes_apart: bool,
}

impl Plan {
    /// Decides for each pack.
    pub fn new(packs: Vec<PackSurvey>, takes_apart: bool) -> Self {
        let small = |kind| packs.iter().filter(|pack| is_small(pack) && pack.kind == kind).count();
        let (leaves, branches) = (small(Kind::Leaf), small(Kind::Branch));
        let step = |pack: &PackSurvey| {
            let companions = if pack.kind == Kind::Leaf { leaves } else { branches };
            step(pack, takes_apart, companions > 1)
        };
        let packs = packs.iter().map(|pack| (pack.clone(), step(pack))).collect();
        Self { packs, takes_apart }
    }

    /// Packs to which this happens.
    pub fn with(&self, wanted: Step) -> impl Iterator<Item = &PackSurvey> {
        self.packs.iter().filter(move |(_, step)| *step == wanted).map(|(pack, _)| pack)
    }

    /// Bytes that become free.
    pub fn won(&self) -> u64 {
        let rewritten = |pack: &PackSurvey| pack.dead_len + if self.takes_apart { pack.sparse_dead_len } else { 0 };
        self.with(Step::Drop).map(|pack| pack.len).chain(self.with(Step::Rewrite).map(rewritten)).sum()
    }

    /// Bytes that are written anew for it.
    pub fn moved(&self) -> u64 {
        let rewritten =
            |pack: &PackSurvey| pack.len - pack.dead_len - if self.takes_apart { pack.sparse_dead_len } else { 0 };
        self.with(Step::Rewrite).map(rewritten).sum()
    }

    /// Bytes that are not needed and stay: in frames and packs of which too much is needed.
    pub fn left(&self) -> u64 {
        let all: u64 = self.packs.iter().map(|(pack, _)| pack.dead_len + pack.inner_dead_len).sum();
        all.saturating_sub(self.won())
    }
}

fn is_small(pack: &PackSurvey) -> bool {
    pack.is_free && pack.len < PACK_LEN_SMALL && pack.live_frames > 0
}

fn step(pack: &PackSurvey, takes_apart: bool, has_companions: bool) -> Step {
    if !pack.is_free {
        return Step::Keep;
    }
    if pack.live_frames == 0 {
        return Step::Drop;
    }
    let reclaimable = pack.dead_len + if takes_apart { pack.sparse_dead_len } else { 0 };
    match reclaimable * DEAD_SHARE >= pack.len || is_small(pack) && has_companions {
        true => Step::Rewrite,
        false => Step::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(len: u64, dead_len: u64, sparse_dead_len: u64, live_frames: u64) -> PackSurvey {
        PackSurvey {
            number: PackNumber(1),
            name: "a.leaf".into(),
            kind: Kind::Leaf,
            len,
            dead_len,
            sparse_len: 2 * sparse_dead_len,
            sparse_dead_len,
            inner_dead_len: sparse_dead_len,
            live_frames,
            dead_frames: 1,
            sparse_frames: 1,
            is_free: true,
        }
    }

    #[test]
    fn what_pays_is_done() {
        let mib = |n: u64| n << 20;
        let check = |packs: &[PackSurvey], takes_apart, expected: &[Step], won: u64, moved: u64, left: u64| {
            let plan = Plan::new(packs.to_vec(), takes_apart);
            let steps: Vec<_> = plan.packs.iter().map(|(_, step)| *step).collect();
            assert_eq!(steps, expected);
            assert_eq!((plan.won() >> 20, plan.moved() >> 20, plan.left() >> 20), (won, moved, left));
        };
        use Step::{Drop, Keep, Rewrite};
        check(&[], true, &[], 0, 0, 0);
        check(&[pack(mib(64), mib(64), 0, 0)], false, &[Drop], 64, 0, 0);
        check(&[pack(mib(64), mib(15), 0, 9)], false, &[Keep], 0, 0, 15);
        check(&[pack(mib(64), mib(16), 0, 9)], false, &[Rewrite], 16, 48, 0);
        check(&[pack(mib(64), mib(8), mib(8), 9)], false, &[Keep], 0, 0, 16);
        check(&[pack(mib(64), mib(8), mib(8), 9)], true, &[Rewrite], 16, 48, 0);
        // One small pack alone gains nothing; two become one; kinds stay apart.
        check(&[pack(mib(2), 0, 0, 9)], true, &[Keep], 0, 0, 0);
        check(&[pack(mib(2), 0, 0, 9), pack(mib(3), 0, 0, 9)], true, &[Rewrite, Rewrite], 0, 5, 0);
        check(&[pack(mib(2), 0, 0, 9), pack(mib(16), 0, 0, 9)], true, &[Keep, Keep], 0, 0, 0);
        let branch = PackSurvey { kind: Kind::Branch, ..pack(mib(2), 0, 0, 9) };
        check(&[pack(mib(2), 0, 0, 9), branch], true, &[Keep, Keep], 0, 0, 0);
        // What somebody still writes to, or what is damaged, stays.
        let busy = PackSurvey { is_free: false, ..pack(mib(64), mib(64), 0, 0) };
        check(&[busy], true, &[Keep], 0, 0, 64);
        // A pack without a frame is only a file.
        check(&[pack(0, 0, 0, 0)], true, &[Drop], 0, 0, 0);
    }
}
