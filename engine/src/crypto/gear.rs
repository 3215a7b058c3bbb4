//! The table that decides where content is cut, drawn from a vault's key.
//!
//! Its 256 entries are consecutive little-endian u64 of BLAKE3's extended output, keyed, over a label.
//! A secret table keeps an onlooker from comparing chunk lengths with a public list at once; it only raises the bar:
//! cutters of this family give their key away to somebody who knows enough plaintext and sees the lengths.

use std::fmt;

const LABEL: &[u8] = b"twinkeep gear v1";

/// 256 random words, and the same shifted left by one as the two-byte cutter wants them.
#[derive(Clone, PartialEq, Eq)]
pub struct Gear {
    table: [u64; 256],
    shifted: [u64; 256],
}

impl Gear {
    /// Draws the table from a 32-byte key.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut bytes = [0; 256 * 8];
        blake3::Hasher::new_keyed(key).update(LABEL).finalize_xof().fill(&mut bytes);
        let mut table = [0; 256];
        for (entry, word) in table.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *entry = u64::from_le_bytes(*word);
        }
        Self { table, shifted: table.map(|entry| entry << 1) }
    }

    /// One word for each byte value.
    pub fn table(&self) -> &[u64; 256] {
        &self.table
    }

    /// [`Self::table`], each word shifted left by one bit.
    pub fn shifted(&self) -> &[u64; 256] {
        &self.shifted
    }
}

impl fmt::Debug for Gear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gear(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_format() {
        let gear = Gear::new(&[1; 32]);
        assert_eq!(gear.table()[..3], [7472738947219002643, 6824801114877817792, 10824113738432975403]);
        assert_eq!(gear.table()[255], 14872454798672132364);
        assert_eq!(gear.shifted()[255], gear.table()[255] << 1);
        assert_ne!(gear, Gear::new(&[2; 32]));
        assert_eq!(format!("{gear:?}"), "Gear(…)");
    }
}
