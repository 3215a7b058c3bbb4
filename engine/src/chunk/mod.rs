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

/// Lengths no leaf can be cut to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cut lengths min {min}, avg {avg}, max {max}, normalisation {normalization}: {fault}")]
pub struct CutParamsError {
    /// Shortest, bytes.
    pub min: u32,
    /// Wished for, bytes.
    pub avg: u32,
    /// Longest, bytes.
    pub max: u32,
    /// Sharpness.
    pub normalization: u8,
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
}

impl Default for CutParams {
    /// 16 KiB, 32 KiB, 128 KiB, normalisation 1: see `docs/decisions/0014-sizes.md`.
    fn default() -> Self {
        Self { min: 16 << 10, avg: 32 << 10, max: 128 << 10, normalization: 1 }
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
            return Ok(Self { min, avg, max, normalization });
        };
        Err(CutParamsError { min, avg, max, normalization, fault })
    }

    /// No leaf is shorter, bytes, but the last of a file.
    pub fn min(&self) -> u32 {
        self.min
    }

    /// Lengths gather here, bytes.
    pub fn avg(&self) -> u32 {
        self.avg
    }

    /// No leaf is longer, bytes.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// How sharply lengths gather around [`Self::avg`], 0 to 3.
    pub fn normalization(&self) -> u8 {
        self.normalization
    }

    /// The masks a hash must miss to end a leaf: before `avg`, and after it.
    fn masks(&self) -> (u64, u64) {
        let level = match self.normalization {
            0 => Normalization::Level0,
            1 => Normalization::Level1,
            2 => Normalization::Level2,
            _ => Normalization::Level3,
        };
        select_masks(self.avg as usize, level)
    }
}

/// Cuts content into leaves.
#[derive(Clone, Debug)]
pub struct Cutter<'a> {
    gear: &'a Gear,
    params: CutParams,
    strict: u64,
    loose: u64,
}

impl<'a> Cutter<'a> {
    /// A cutter for one vault.
    pub fn new(gear: &'a Gear, params: &CutParams) -> Self {
        let (strict, loose) = params.masks();
        Self { gear, params: *params, strict, loose }
    }

    /// Length of the leaf at the start of `data`; 0 only for no data.
    ///
    /// `data` may be shorter than [`CutParams::max`] only where the file ends with it.
    pub fn cut(&self, data: &[u8]) -> usize {
        let (_, len) = cut_gear(
            data,
            self.params.min as usize,
            self.params.avg as usize,
            self.params.max as usize,
            self.strict,
            self.loose,
            self.strict << 1,
            self.loose << 1,
            self.gear.table(),
            self.gear.shifted(),
        );
        len
    }

    /// Appends the lengths of the leaves at the start of `data` to `lens` and returns how many bytes they cover.
    ///
    /// With `last` that is all of them. Without, the rest is less than [`CutParams::max`] and wants more data.
    pub fn cut_all(&self, data: &[u8], last: bool, lens: &mut Vec<usize>) -> usize {
        let least = if last { 1 } else { self.params.max as usize };
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
