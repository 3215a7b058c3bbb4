//! Every place of the index as a small number, so that marks are bitmaps: 13 bytes for each frame, a bit for each chunk.

use super::Result;
use super::bits::Bits;
use crate::id::Kind;
use crate::index::{self, FrameNumber};
use crate::store::local::Inner;
use std::ops::Range;

/// Frame rows read at a time.
const FRAMES_AT_ONCE: usize = 4096;

/// Frames below some number, and their positions counted through.
pub(super) struct Places {
    /// Ascending.
    numbers: Vec<u64>,
    /// Ordinal of each frame's first position, and the number of all at the end.
    starts: Vec<u32>,
    branches: Bits,
    /// Frames with this number or a higher one came later.
    pub end: FrameNumber,
}

impl Places {
    /// Reads all frames below `end`.
    pub fn read(store: &Inner, end: FrameNumber) -> Result<Self> {
        let mut places = Self { numbers: Vec::new(), starts: vec![0], branches: Bits::default(), end };
        let mut branches = Vec::new();
        let mut from = FrameNumber(0);
        'all: loop {
            let rows = index::frames_from(&*store.kv.read()?, from, FRAMES_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { break };
            from = FrameNumber(last.0 + 1);
            for (number, place) in &rows {
                if *number >= end {
                    break 'all;
                }
                if place.kind == Kind::Branch {
                    branches.push(places.numbers.len() as u32);
                }
                places.numbers.push(number.0);
                let start = places.starts[places.starts.len() - 1].saturating_add(place.chunks.into());
                places.starts.push(start);
            }
        }
        places.branches = Bits::new(places.numbers.len());
        for at in branches {
            places.branches.add(at as usize);
        }
        Ok(places)
    }

    /// How many frames.
    pub fn frames(&self) -> usize {
        self.numbers.len()
    }

    /// How many positions in all frames.
    pub fn positions(&self) -> usize {
        self.starts[self.numbers.len()] as usize
    }

    /// Number of the frame that stands at `at`.
    pub fn number(&self, at: usize) -> FrameNumber {
        FrameNumber(self.numbers[at])
    }

    /// Where a frame stands.
    pub fn frame(&self, number: FrameNumber) -> Option<usize> {
        // Numbers are dense as long as nothing was swept.
        match self.numbers.get(number.0 as usize) {
            Some(&found) if found == number.0 => Some(number.0 as usize),
            _ => self.numbers.binary_search(&number.0).ok(),
        }
    }

    /// Ordinals of the positions of the frame that stands at `at`.
    pub fn ordinals(&self, at: usize) -> Range<usize> {
        self.starts[at] as usize..self.starts[at + 1] as usize
    }

    /// Ordinal of a position of the frame that stands at `at`; none past its end.
    pub fn ordinal(&self, at: usize, position: u16) -> Option<usize> {
        let ordinals = self.ordinals(at);
        let ordinal = ordinals.start + usize::from(position);
        (ordinal < ordinals.end).then_some(ordinal)
    }

    /// Whether the frame that stands at `at` holds branches.
    pub fn is_branch(&self, at: usize) -> bool {
        self.branches.has(at)
    }
}
