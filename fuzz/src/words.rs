//! Recovery words: any text, and the right words written in odd ways.

use twinkeep_engine::crypto::VaultSecret;

use crate::input::Input;

/// Reads words.
pub fn body(data: &[u8]) {
    let mut input = Input(data);
    if input.u8() % 2 == 0 {
        if let Ok(secret) = VaultSecret::from_words(&String::from_utf8_lossy(input.rest())) {
            let words = secret.words();
            let again = VaultSecret::from_words(&words).expect("our own words are words");
            assert_eq!(*again.words(), *words);
        }
        return;
    }
    let secret = VaultSecret::from_bytes(&input.array());
    let words = secret.words();
    let again = VaultSecret::from_words(&odd(&words, input)).expect("the right words, however written");
    assert_eq!(*again.words(), *words);
}

/// The same words with other cases, separators and numbers.
fn odd(words: &str, mut input: Input<'_>) -> String {
    let mut text = String::new();
    for (at, word) in words.split(' ').enumerate() {
        let choices = input.u8();
        text += ["", "\n", " , ", "\u{a0}\t"][usize::from(choices % 4)];
        match choices / 4 % 4 {
            0 => {}
            1 => text += &format!("{}. ", at + 1),
            2 => text += &format!("{})", at + 1),
            _ => text += &format!("{}:", at + 1),
        }
        match choices / 16 % 3 {
            0 => text += word,
            1 => text += &word.to_uppercase(),
            _ => text += &(word[..1].to_uppercase() + &word[1..]),
        }
        text += [" ", ",", "\r\n", ". "][usize::from(choices / 64)];
    }
    text
}

/// Words that are right, swapped, too few, too long, not words.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let words = VaultSecret::from_bytes(&[0x5a; 32]).words();
    let mut swapped: Vec<_> = words.split(' ').collect();
    swapped.swap(0, 23);
    let text = |text: &str| [&[0][..], text.as_bytes()].concat();
    vec![
        ("right".into(), text(&words)),
        ("zeros".into(), text(&VaultSecret::from_bytes(&[0; 32]).words())),
        ("swapped".into(), text(&swapped.join(" "))),
        ("few".into(), text(&swapped[..23].join(" "))),
        ("many".into(), text(&format!("{} abandon", &*words))),
        ("numbered".into(), text(&swapped.iter().map(|word| format!("1. {word}\n")).collect::<String>())),
        ("unknown".into(), text("twinkeep twinkeep")),
        ("long".into(), text(&"zoo ".repeat(1000))),
        // Lower case is longer than upper case here: one character becomes two.
        ("case-grows".into(), text(&"İ".repeat(1500))),
        ("not-text".into(), [&[0][..], &[0xff; 30], b" 1.\xe2\x80 "].concat()),
        ("odd".into(), [&[1][..], &[0x77; 32], &(0..24).map(|at| at * 11).collect::<Vec<u8>>()].concat()),
        ("odd-plain".into(), [&[1][..], &[0; 32]].concat()),
    ]
}
