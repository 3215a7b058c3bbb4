//! Repeatable mutations, for where no coverage-guided fuzzer runs: flips, cuts, splices, wrong lengths.

use twinkeep_engine::env::Dice;

/// Longest mutated input, bytes.
const LEN_MAX: usize = 16 << 10;

/// Numbers on which lengths, counts and offsets break.
const EDGES: [u64; 14] =
    [0, 1, 2, 7, 255, 256, 4095, 4096, 65_535, 65_536, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX];

/// A mutation of `seed`, one to five steps away; `other` lends bytes.
pub fn mutate(seed: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(5) {
        step(&mut bytes, other, dice);
    }
    bytes.truncate(LEN_MAX);
    bytes
}

fn step(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    match dice.below(9) {
        0 => with(bytes, at, |byte| *byte ^= 1 << dice.below(8)),
        1 => with(bytes, at, |byte| *byte = dice.throw() as u8),
        2 => bytes.truncate(at),
        3 => number(bytes, at, dice),
        4 => words(bytes, at, dice),
        5 => splice(bytes, at, other, dice),
        6 => repeat(bytes, at, dice),
        7 => drop(bytes.drain(at..(at + 1 + dice.below(16)).min(bytes.len()))),
        _ => (0..=dice.below(8)).for_each(|_| bytes.insert(at.min(bytes.len()), dice.throw() as u8)),
    }
}

fn with(bytes: &mut [u8], at: usize, edit: impl FnOnce(&mut u8)) {
    if let Some(byte) = bytes.get_mut(at) {
        edit(byte);
    }
}

/// A length, count or offset that sits on an edge, or a little beside what it was; 1, 2, 4 or 8 bytes.
fn number(bytes: &mut [u8], at: usize, dice: &mut Dice) {
    let len = 1 << dice.below(4);
    let at = if dice.one_in(2) { at / len * len } else { at };
    let Some(field) = bytes.get_mut(at..at + len) else { return };
    let mut old = [0; 8];
    old[..len].copy_from_slice(field);
    let near = u64::from_le_bytes(old).wrapping_add(dice.below(9) as u64).wrapping_sub(4);
    let new = if dice.one_in(2) { near } else { EDGES[dice.below(EDGES.len())] };
    field.copy_from_slice(&new.to_le_bytes()[..len]);
}

/// Two whole words of a message exchanged, or one set to a small pointer.
fn words(bytes: &mut [u8], at: usize, dice: &mut Dice) {
    let (one, two) = (at / 8 * 8, dice.below(bytes.len()) / 8 * 8);
    if one.max(two) + 8 > bytes.len() {
        return;
    }
    if dice.one_in(2) {
        (0..8).for_each(|step| bytes.swap(one + step, two + step));
        return;
    }
    // Kind in two bits, a signed offset in thirty, then sizes: as Cap'n Proto lays its pointers out.
    let offset = (dice.below(16) as u32).wrapping_sub(8) << 2 | dice.below(4) as u32;
    let sizes = (dice.below(64) as u32) << 3 | dice.below(8) as u32;
    bytes[one..one + 4].copy_from_slice(&offset.to_le_bytes());
    bytes[one + 4..one + 8].copy_from_slice(&sizes.to_le_bytes());
}

fn splice(bytes: &mut Vec<u8>, at: usize, other: &[u8], dice: &mut Dice) {
    let from = dice.below(other.len());
    let part = &other[from..(from + 1 + dice.below(256)).min(other.len())];
    match dice.one_in(2) {
        true => {
            let end = (at + part.len()).min(bytes.len());
            bytes.splice(at..end, part.iter().copied());
        }
        false => {
            bytes.splice(at..at, part.iter().copied());
        }
    }
}

fn repeat(bytes: &mut Vec<u8>, at: usize, dice: &mut Dice) {
    let part = bytes[at..(at + 1 + dice.below(64)).min(bytes.len())].to_vec();
    for _ in 0..=dice.below(8) {
        bytes.splice(at..at, part.iter().copied());
    }
}
