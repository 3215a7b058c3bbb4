//! A paper key: one page of text with the recovery words, and a QR code of them drawn in half blocks.
//!
//! The words stand in the same frame as on the screen, so that the page as a file opens the vault, too. The code holds
//! them in capitals with single spaces, which makes it smaller; words are read in any case.

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use qrcode::{Color, EcLevel, QrCode};
use zeroize::Zeroizing;

use crate::session::framed;
use crate::show;

/// Blank modules around the code, as its standard wants.
const QUIET: usize = 4;

/// The page.
pub fn page(
    vault: &str,
    location: &Path,
    words: &str,
    now: Timestamp,
    zone: &TimeZone,
) -> anyhow::Result<Zeroizing<String>> {
    let mut page = Zeroizing::new(String::with_capacity(16 << 10));
    page.push_str("TWINKEEP PAPER KEY\n\n");
    page.push_str(&format!("Vault     {vault}\n"));
    page.push_str(&format!("Made on   {}\n\n", show::local(now, zone)));
    page.push_str(&framed(words, location));
    page.push_str("\nThe same words as a code:\n");
    page.push_str(&code(words)?);
    page.push_str(
        "To open the vault anywhere, type the words into a file and name it:\n\
        \n  twinkeep --vault FOLDER --recovery-words-file FILE snapshots\n",
    );
    Ok(page)
}

/// The code, two rows of modules in a line; ink is what is dark.
fn code(words: &str) -> anyhow::Result<Zeroizing<String>> {
    let capitals = Zeroizing::new(words.to_ascii_uppercase());
    let code = QrCode::with_error_correction_level(capitals.as_bytes(), EcLevel::M)?;
    let width = code.width();
    let is_dark = |row: usize, column: usize| {
        let inside = (QUIET..QUIET + width).contains(&row) && (QUIET..QUIET + width).contains(&column);
        inside && code[(column - QUIET, row - QUIET)] == Color::Dark
    };
    let mut text = Zeroizing::new(String::with_capacity(8 << 10));
    for row in (0..width + 2 * QUIET).step_by(2) {
        let mut line = String::new();
        for column in 0..width + 2 * QUIET {
            line.push(match (is_dark(row, column), is_dark(row + 1, column)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::crypto::VaultSecret;

    #[test]
    fn a_page_has_it_all_and_fits() {
        let words = VaultSecret::from_bytes(&[0x5a; 32]).words();
        let page = page("ab12", Path::new("/v"), &words, Timestamp::UNIX_EPOCH, &TimeZone::UTC).unwrap();
        assert!(page.contains("ab12") && page.contains("1970-01-01"), "{}", *page);
        let width = page.lines().map(|line| line.chars().count()).max();
        assert!(width.is_some_and(|width| width <= 100) && page.lines().count() <= 66, "{}", *page);
        for (at, word) in words.split(' ').enumerate() {
            assert!(page.contains(&format!("{:2}. {word}", at + 1)), "{}", *page);
        }
    }

    /// The three corners that every code has, read back from the half blocks.
    #[test]
    fn the_code_is_drawn_as_it_is() {
        let words = VaultSecret::from_bytes(&[7; 32]).words();
        let drawn = code(&words).unwrap();
        let plain = QrCode::with_error_correction_level(words.to_ascii_uppercase(), EcLevel::M).unwrap();
        let width = plain.width();
        let mut modules = vec![vec![false; width + 2 * QUIET + 1]; width + 2 * QUIET + 1];
        for (line, text) in drawn.lines().enumerate() {
            for (column, half) in text.chars().enumerate() {
                modules[2 * line][column] = matches!(half, '█' | '▀');
                modules[2 * line + 1][column] = matches!(half, '█' | '▄');
            }
        }
        let mut dark = 0;
        for row in 0..width {
            for column in 0..width {
                let is_dark = plain[(column, row)] == Color::Dark;
                assert_eq!(modules[row + QUIET][column + QUIET], is_dark, "{row} {column}");
                dark += usize::from(is_dark);
            }
        }
        assert_eq!(modules.iter().flatten().filter(|dark| **dark).count(), dark, "and nothing around it");
        assert!(modules[QUIET][QUIET..QUIET + 7].iter().all(|dark| *dark));
    }
}
