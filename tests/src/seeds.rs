//! Where random tests get their seeds from, and how long they run.

use std::env;

/// Sets one seed for every random test: a printed one, to see its failure again.
pub const SEED_VAR: &str = "TWINKEEP_TEST_SEED";

/// Multiplies the counts of every random test.
pub const SCALE_VAR: &str = "TWINKEEP_TEST_SCALE";

/// The seeds to run: the one from the environment, or these.
pub fn seeds(usual: &[u64]) -> Vec<u64> {
    match number(SEED_VAR) {
        Some(seed) => vec![seed],
        None => usual.to_vec(),
    }
}

/// How many times longer than usual to run; 1 usually.
pub fn scale() -> usize {
    number(SCALE_VAR).map_or(1, |scale| scale.clamp(1, 1 << 20) as usize)
}

/// How many seconds the fire burns; if this is not set, 180 times the scale.
pub const FIRE_SECS_VAR: &str = "TWINKEEP_FIRE_SECS";

/// How many seconds the fire burns.
pub fn fire_secs() -> u64 {
    number(FIRE_SECS_VAR).unwrap_or(180 * scale() as u64)
}

/// How many processes of an office are killed; if this is not set, 100 times the scale.
pub const KILL_COUNT_VAR: &str = "TWINKEEP_KILL_COUNT";

/// How many processes of an office are killed.
pub fn kill_count() -> usize {
    number(KILL_COUNT_VAR).map_or(100 * scale(), |count| count as usize)
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

/// A number with spaces between thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
