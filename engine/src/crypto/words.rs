//! The recovery words: a vault's secret as 24 English words of BIP 39, which carry 256 bits and an 8-bit checksum.

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

use super::VaultSecret;

/// How many words a secret has.
pub const WORDS: usize = 24;

/// More text than any way of writing 24 words down takes, bytes.
const TEXT_LEN_MAX: usize = 4096;

/// Recovery words that are not a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// A word that is not one of the 2048.
    #[error("word {position}, \"{word}\", is not a recovery word")]
    Unknown {
        /// Which of the words, from 1.
        position: usize,
        /// The word as understood, in lower case.
        word: String,
    },
    /// Too few or too many.
    #[error("recovery words are {WORDS}, found {found}")]
    Count {
        /// How many were found.
        found: usize,
    },
    /// Every word is one of the list, but they do not belong together.
    #[error("the recovery words do not fit together: one is wrong or two are swapped")]
    Checksum,
    /// Far more text than 24 words.
    #[error("recovery words take at most {TEXT_LEN_MAX} bytes of text, found {found}")]
    TooLong {
        /// Bytes of text.
        found: usize,
    },
}

impl VaultSecret {
    /// The secret as 24 words with single spaces.
    pub fn words(&self) -> Zeroizing<String> {
        let mnemonic = Mnemonic::from_entropy_in(Language::English, self.expose()).expect("32 bytes make 24 words");
        Zeroizing::new(mnemonic.to_string())
    }

    /// Reads words as people write them: any case, any white space and commas, with or without numbers (`1.`, `2)`).
    pub fn from_words(text: &str) -> Result<Self, WordsError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(WordsError::TooLong { found: text.len() });
        }
        let lower = Zeroizing::new(text.to_lowercase());
        let words: Vec<&str> =
            lower.split(|c: char| c.is_whitespace() || c == ',').map(bare).filter(|word| !word.is_empty()).collect();
        for (at, word) in words.iter().enumerate() {
            if Language::English.find_word(word).is_none() {
                return Err(WordsError::Unknown { position: at + 1, word: (*word).to_owned() });
            }
        }
        if words.len() != WORDS {
            return Err(WordsError::Count { found: words.len() });
        }
        let joined = Zeroizing::new(words.join(" "));
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &joined).map_err(|_| WordsError::Checksum)?;
        let entropy = Zeroizing::new(mnemonic.to_entropy());
        entropy.as_slice().try_into().map(Self::from_bytes).map_err(|_| WordsError::Checksum)
    }
}

/// The word without a number before it and a full stop after it.
fn bare(word: &str) -> &str {
    let without_number = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let stripped = if without_number.len() < word.len() {
        without_number.trim_start_matches(['.', ')', ':', '-'])
    } else {
        without_number
    };
    stripped.trim_end_matches(['.', ';'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<[u8; 32], WordsError>) {
        assert_eq!(VaultSecret::from_words(text).map(|secret| *secret.expose()), expected, "{text}");
    }

    #[test]
    fn words_are_bip39() {
        // Test vectors of the BIP.
        let zeros = format!("{}art", "abandon ".repeat(23));
        let ones = format!("{}vote", "zoo ".repeat(23));
        for (byte, words) in [(0, &zeros), (0xff, &ones)] {
            assert_eq!(*VaultSecret::from_bytes(&[byte; 32]).words(), **words);
            check(words, Ok([byte; 32]));
        }
    }

    #[test]
    fn reads_what_people_write() {
        let secret = [0x5a; 32];
        let words = VaultSecret::from_bytes(&secret).words();
        let list: Vec<&str> = words.split(' ').collect();
        let numbered = |gap: &str| -> String {
            list.iter().enumerate().map(|(at, word)| format!("{}{gap}{word}\n", at + 1)).collect()
        };
        for text in [
            words.to_string(),
            words.to_uppercase(),
            format!("\t {}\r\n", words.replace(' ', "  \n")),
            words.replace(' ', ", "),
            format!("{}.", *words),
            numbered("."),
            numbered(". "),
            numbered(") "),
            numbered(": "),
            numbered(" "),
        ] {
            check(&text, Ok(secret));
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let words = VaultSecret::from_bytes(&[0x5a; 32]).words();
        let list: Vec<&str> = words.split(' ').collect();
        let mut wrong = list.clone();
        wrong[6] = "Twinkeep";
        check(&wrong.join(" "), Err(WordsError::Unknown { position: 7, word: "twinkeep".into() }));
        check(&list[..23].join(" "), Err(WordsError::Count { found: 23 }));
        check(&format!("{} zoo", *words), Err(WordsError::Count { found: 25 }));
        check("", Err(WordsError::Count { found: 0 }));
        let mut swapped = list.clone();
        let other = (1..24).find(|&at| list[at] != list[0]).unwrap();
        swapped.swap(0, other);
        check(&swapped.join(" "), Err(WordsError::Checksum));
        check(&"a".repeat(5000), Err(WordsError::TooLong { found: 5000 }));
        check("éé 1.", Err(WordsError::Unknown { position: 1, word: "éé".into() }));
    }
}
