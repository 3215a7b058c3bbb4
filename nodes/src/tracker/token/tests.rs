use twinkeep_engine::env::{Dice, SeededEntropy};

use super::*;

fn token() -> JoinToken {
    let hosts = ["10.0.0.1:7420".to_owned(), "[fe80::1]:7420".to_owned()];
    JoinToken::new("pc-1", &hosts, NodeKey([9; 32]), &SeededEntropy::new(5)).unwrap()
}

#[test]
fn the_text_comes_back_however_typed() {
    let text = token().text();
    assert_eq!(blake3::hash(text.as_bytes()).to_hex()[..32], *"15408745be0ec3614bb8e089140f9015");
    let spaced = format!("  {}\n", text.replace('-', " ").to_lowercase());
    let misread = text.replace('0', "o").replace('1', "l");
    for typed in [&*text, &text.replace('-', ""), &spaced, &misread] {
        let back = JoinToken::parse(typed).unwrap();
        assert_eq!(back, token());
        assert!(is_token(back.secret(), &token().hash()) && !is_token(&[0; 16], &token().hash()));
    }
    let longest = vec!["h".repeat(ADDRESS_LEN_MAX); ADDRESSES_MAX];
    let longest =
        JoinToken::new(&"n".repeat(NAME_LEN_MAX), &longest, NodeKey([1; 32]), &SeededEntropy::new(6)).unwrap();
    assert_eq!(JoinToken::parse(&longest.text()).unwrap(), longest);
    assert_eq!(format!("{:?}", token()), "JoinToken(pc-1, …)");
}

#[test]
fn typos_are_told() {
    let text = token().text();
    for (at, found) in text.char_indices().filter(|(_, found)| *found != '-') {
        let other = if found == '7' { "8" } else { "7" };
        let mut bad = String::from(&**text);
        bad.replace_range(at..=at, other);
        assert_eq!(JoinToken::parse(&bad).unwrap_err(), TokenError::Checksum, "character {at}");
        bad.replace_range(at..=at, "!");
        assert_eq!(JoinToken::parse(&bad).unwrap_err(), TokenError::Character { place: at + 1, found: '!' });
        assert!(JoinToken::parse(&text[..at]).is_err(), "cut at {at}");
    }
    assert!(matches!(JoinToken::parse("ü"), Err(TokenError::Character { place: 1, .. })));
    assert!(matches!(JoinToken::parse(&"0".repeat(1 << 20)), Err(TokenError::TooLong { .. })));
    assert_eq!(JoinToken::parse(""), Err(TokenError::Checksum));
}

#[test]
fn whole_and_yet_no_token() {
    let with_sum = |body: &[u8]| JoinToken::parse(&to_base32(&[body, &checksum(body)].concat()));
    assert_eq!(with_sum(&[2; 80]), Err(TokenError::Version { found: 2 }));
    assert_eq!(with_sum(&[]), Err(TokenError::Checksum));
    let seed = 0x70c;
    let mut dice = Dice(seed);
    let bytes = from_base32(&token().text()).unwrap();
    let body = &bytes[..bytes.len() - CHECKSUM_LEN];
    for _ in 0..5000 {
        let mut bad = body.to_vec();
        let place = dice.below(bad.len());
        bad[place] = dice.throw() as u8;
        bad.truncate(bad.len() - dice.below(3));
        if let Ok(token) = with_sum(&bad) {
            assert_eq!(from_base32(&token.text()).unwrap()[..bad.len()], bad, "seed {seed}");
        }
    }
    let refused = |name: &str, hosts: &[&str]| {
        let hosts: Vec<_> = hosts.iter().map(|host| host.to_string()).collect();
        JoinToken::new(name, &hosts, NodeKey([9; 32]), &SeededEntropy::new(5)).is_err()
    };
    assert!(refused("pc", &[]) && refused("p c", &["h:1"]) && refused("pc", &[""]) && refused("pc", &["a b"]));
    assert!(refused("pc", &["h:1"; 9]) && refused("pc", &[&"h".repeat(256)]) && !refused("pc", &["h:1"]));
}

#[test]
fn tokens_expire() {
    assert_eq!(expires(Time(5), TOKEN_TTL_DEFAULT), Time(5 + 86_400_000_000_000));
    assert_eq!(expires(Time(0), Duration::MAX), expires(Time(0), TOKEN_TTL_MAX));
    assert_eq!(expires(Time(i64::MAX), TOKEN_TTL_DEFAULT), Time(i64::MAX));
}
