//! Where file content is cut into leaves: FastCDC with a table of the vault's own.
//!
//! The cut is format: the same bytes, table and lengths give the same leaves on every machine and in every version,
//! or nothing deduplicates any more. Golden cut points and a byte-at-a-time twin guard it. Gear hashing and
//! normalised chunking are from W. Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication
//! Based Storage Systems" (2020), sections 3.2 to 3.5.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

pub use crate::crypto::Gear;
use crate::limits::CHUNK_LEN_MAX;

/// Shortest `min` a vault may have, bytes.
const MIN_LEAST: u32 = 64;
/// Shortest `avg` a vault may have, bytes.
const AVG_LEAST: u32 = 256;
/// Shortest `max` a vault may have, bytes.
const MAX_LEAST: u32 = 1024;

/// What looks random is found in a sample of so many blocks …
const SAMPLE_BLOCKS: usize = 64;
/// … of so many bytes,
const SAMPLE_BLOCK_LEN: usize = 16;
/// in which the squares of how often each byte value occurs add up to this at most. 5 116 is what random bytes come to,
/// give or take 90.
const SAMPLE_SQUARES_MAX: u32 = 6144;

/// Lengths no leaf can be cut to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cut lengths min {min}, avg {avg}, max {max}, normalisation {normalization}, coarse {coarse}: {fault}")]
pub struct CutParamsError {
    /// Shortest, bytes.
    pub min: u32,
    /// Wished for, bytes.
    pub avg: u32,
    /// Longest, bytes.
    pub max: u32,
    /// Sharpness.
    pub normalization: u8,
    /// Growth of what looks random.
    pub coarse: u8,
    /// What is wrong with them.
    pub fault: &'static str,
}

/// How long leaves are; fixed for a vault's life. Values of this type can be cut with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CutParams {
    min: u32,
    avg: u32,
    max: u32,
    normalization: u8,
    coarse: u8,
}

impl Default for CutParams {
    /// 16 KiB, 32 KiB, 128 KiB, normalisation 1, and eight times as long for what looks random: see
    /// `docs/decisions/0014-sizes.md` and `0016-coarse.md`.
    fn default() -> Self {
        Self { min: 16 << 10, avg: 32 << 10, max: 128 << 10, normalization: 1, coarse: 3 }
    }
}

impl CutParams {
    /// Checks lengths from a config or a command line.
    ///
    /// 64 ≤ `min` < `avg` < `max` ≤ `CHUNK_LEN_MAX`; `min` and `max` even, because the cutter takes two bytes a step;
    /// `avg` a power of two, so that no rounding of a logarithm is part of the format; `normalization` 0 to 3.
    pub fn new(min: u32, avg: u32, max: u32, normalization: u8) -> Result<Self, CutParamsError> {
        let fault = if min < MIN_LEAST || avg < AVG_LEAST || max < MAX_LEAST {
            "too short: at least 64, 256 and 1024"
        } else if max as usize > CHUNK_LEN_MAX {
            "max exceeds the longest chunk, 1 MiB"
        } else if min >= avg || avg >= max {
            "must rise from min to avg to max"
        } else if !min.is_multiple_of(2) || !max.is_multiple_of(2) {
            "min and max must be even"
        } else if !avg.is_power_of_two() {
            "avg must be a power of two"
        } else if normalization > 3 {
            "normalisation is 0 to 3"
        } else {
            return Ok(Self { min, avg, max, normalization, coarse: 0 });
        };
        Err(CutParamsError { min, avg, max, normalization, coarse: 0, fault })
    }

    /// The same, but that leaves of what looks random are 2^`coarse` times as long; 0 for no such difference.
    ///
    /// Then none may exceed `CHUNK_LEN_MAX`, and the shortest needs room for the sample, 1 KiB.
    pub fn with_coarse(self, coarse: u8) -> Result<Self, CutParamsError> {
        // No shift of 32 bits fits any limit, and none of them overflows 64.
        let grown = |len: u32| u64::from(len) << coarse.min(32);
        let fault = if coarse == 0 {
            return Ok(Self { coarse, ..self });
        } else if grown(self.max) > CHUNK_LEN_MAX as u64 {
            "what looks random would exceed the longest chunk, 1 MiB"
        } else if grown(self.min) < (SAMPLE_BLOCKS * SAMPLE_BLOCK_LEN) as u64 {
            "what looks random must be at least 1 KiB"
        } else {
            return Ok(Self { coarse, ..self });
        };
        let Self { min, avg, max, normalization, .. } = self;
        Err(CutParamsError { min, avg, max, normalization, coarse, fault })
    }

    /// No leaf is shorter, bytes, but the last of a stretch.
    pub fn min(&self) -> u32 {
        self.min
    }

    /// Lengths gather here, bytes.
    pub fn avg(&self) -> u32 {
        self.avg
    }

    /// No leaf of what does not look random is longer, bytes.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// How sharply lengths gather around [`Self::avg`], 0 to 3.
    pub fn normalization(&self) -> u8 {
        self.normalization
    }

    /// What looks random is cut 2^this times as long.
    pub fn coarse(&self) -> u8 {
        self.coarse
    }

    /// No leaf of any content is longer, bytes.
    pub fn longest(&self) -> usize {
        (self.max as usize) << self.coarse
    }

    /// How content is cut that does not look random …
    fn fine_cut(&self) -> Cut {
        Cut::new(self.min, self.avg, self.max, self.normalization)
    }

    /// … and content that does.
    fn coarse_cut(&self) -> Cut {
        let grown = |len: u32| len << self.coarse;
        Cut::new(grown(self.min), grown(self.avg), grown(self.max), self.normalization)
    }
}

/// Lengths in bytes, and the masks that end a leaf where a hash has none of their bits: before `avg`, and after it.
#[derive(Clone, Debug)]
struct Cut {
    min: usize,
    avg: usize,
    max: usize,
    strict: u64,
    loose: u64,
}

impl Cut {
    fn new(min: u32, avg: u32, max: u32, normalization: u8) -> Self {
        let level = match normalization {
            0 => Normalization::Level0,
            1 => Normalization::Level1,
            2 => Normalization::Level2,
            _ => Normalization::Level3,
        };
        let (strict, loose) = select_masks(avg as usize, level);
        Self { min: min as usize, avg: avg as usize, max: max as usize, strict, loose }
    }

    fn len(&self, gear: &Gear, data: &[u8]) -> usize {
        let (strict, loose) = (self.strict, self.loose);
        let (table, shifted) = (gear.table(), gear.shifted());
        cut_gear(data, self.min, self.avg, self.max, strict, loose, strict << 1, loose << 1, table, shifted).1
    }
}

/// Whether bytes occur equally often in a sample of `data`, as they do where it was compressed or encrypted. Cutting
/// that finely gains little: such content changes as a whole or not at all.
///
/// The sample is part of the format. Its blocks stand from the first to the last of `data`, 1 KiB at least, and not at
/// the same place of every record where records are a power of two long.
fn looks_random(data: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    let step = (data.len() - SAMPLE_BLOCK_LEN) / (SAMPLE_BLOCKS - 1);
    for block in 0..SAMPLE_BLOCKS {
        for byte in &data[block * step..][..SAMPLE_BLOCK_LEN] {
            counts[usize::from(*byte)] += 1;
        }
    }
    counts.iter().map(|count| count * count).sum::<u32>() <= SAMPLE_SQUARES_MAX
}

/// Cuts content into leaves.
#[derive(Clone, Debug)]
pub struct Cutter<'a> {
    gear: &'a Gear,
    fine: Cut,
    /// For what looks random, where that makes a difference.
    coarse: Option<Cut>,
    longest: usize,
}

impl<'a> Cutter<'a> {
    /// A cutter for one vault.
    pub fn new(gear: &'a Gear, params: &CutParams) -> Self {
        let coarse = (params.coarse > 0).then(|| params.coarse_cut());
        Self { gear, fine: params.fine_cut(), coarse, longest: params.longest() }
    }

    /// Length of the leaf at the start of `data`; 0 only for no data.
    ///
    /// `data` may be shorter than the longest leaf only where the file ends with it.
    pub fn cut(&self, data: &[u8]) -> usize {
        // Judged leaf by leaf and from a bounded stretch ahead: behind an edit cuts soon fall back into place.
        let coarse = self.coarse.as_ref().filter(|coarse| data.get(..coarse.min).is_some_and(looks_random));
        coarse.unwrap_or(&self.fine).len(self.gear, data)
    }

    /// Appends the lengths of the leaves at the start of `data` to `lens` and returns how many bytes they cover.
    ///
    /// With `last` that is all of them. Without, the rest is shorter than the longest leaf and wants more data.
    pub fn cut_all(&self, data: &[u8], last: bool, lens: &mut Vec<usize>) -> usize {
        let least = if last { 1 } else { self.longest };
        let mut rest = data;
        while rest.len() >= least {
            let len = self.cut(rest);
            lens.push(len);
            rest = &rest[len..];
        }
        data.len() - rest.len()
    }
}

#[cfg(test)]
mod tests;
