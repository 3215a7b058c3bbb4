//! Sets of small numbers, one bit each.

/// A set of numbers below a bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// No number below `len`.
    pub fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    /// Whether a number is in the set.
    pub fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    /// Adds a number; false if it was in already.
    pub fn add(&mut self, at: usize) -> bool {
        let word = &mut self.0[at / 64];
        let bit = 1 << (at % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Takes out a number.
    pub fn remove(&mut self, at: usize) {
        self.0[at / 64] &= !(1 << (at % 64));
    }

    /// The greatest number up to `at`.
    pub fn last_to(&self, at: usize) -> Option<usize> {
        let first = at / 64;
        let masked = self.0.get(first)? & (u64::MAX >> (63 - at % 64));
        if masked != 0 {
            return Some(first * 64 + 63 - masked.leading_zeros() as usize);
        }
        let word = self.0[..first].iter().rposition(|word| *word != 0)?;
        Some(word * 64 + 63 - self.0[word].leading_zeros() as usize)
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Dice;
    use std::collections::BTreeSet;

    #[test]
    fn agrees_with_a_set() {
        for seed in 0..20 {
            println!("seed {seed}");
            let mut dice = Dice(seed);
            let len = 1 + dice.below(500);
            let (mut bits, mut set) = (Bits::new(len), BTreeSet::new());
            for _ in 0..1000 {
                let at = dice.below(len);
                match dice.below(3) {
                    0 => drop((bits.remove(at), set.remove(&at))),
                    _ => assert_eq!(bits.add(at), set.insert(at)),
                }
                assert_eq!(bits.has(at), set.contains(&at));
                assert_eq!(bits.last_to(at), set.range(..=at).next_back().copied());
                assert_eq!(bits.count(), set.len() as u64);
            }
        }
    }
}
