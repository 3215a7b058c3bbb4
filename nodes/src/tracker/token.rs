//! Join tokens: the text with which a machine joins, typed or pasted. It names the host's key, so that who joins knows
//! whom they speak to, and holds a secret that the office knows by its hash only.
//!
//! The text is base32 (Crockford's alphabet) in groups of five; case, spaces and hyphens do not matter, and `O`, `I`,
//! `L` are read as `0`, `1`, `1`. The bytes:
//!
//! ```text
//!   0   1  version, 1
//!   1  16  secret
//!  17  32  host's key
//!  49   1  length of the name, n
//!  50   n  name of the machine
//!   …   1  number of addresses, 1 to 8
//!   …      each: 1 length, then its text
//!   …   5  checksum: first bytes of BLAKE3 (derive_key) of everything before it
//! ```

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use twinkeep_engine::env::{Entropy, Time};
use zeroize::Zeroizing;

use super::names::{NAME_LEN_MAX, NameError, NodeKey, check_name};

/// How long a token is good if nobody says otherwise: a day to walk to the PC.
pub const TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// Longest a token may be good.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most addresses of a host.
pub const ADDRESSES_MAX: usize = 8;

/// Longest address, bytes: a host name and a port.
pub const ADDRESS_LEN_MAX: usize = 255;

const VERSION: u8 = 1;
const SECRET_LEN: usize = 16;
const CHECKSUM_LEN: usize = 5;
const GROUP_LEN: usize = 5;
const BODY_LEN_MAX: usize = 1 + SECRET_LEN + 32 + 1 + NAME_LEN_MAX + 1 + ADDRESSES_MAX * (1 + ADDRESS_LEN_MAX);

/// Longest text that is looked at, bytes: every digit followed by a space.
pub const TOKEN_TEXT_LEN_MAX: usize = 2 * (8 * (BODY_LEN_MAX + CHECKSUM_LEN)).div_ceil(5);

const HASH_CONTEXT: &str = "twinkeep 2026 join token hash";
const CHECKSUM_CONTEXT: &str = "twinkeep 2026 join token checksum";
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Text or parts that make no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// A character that no token has.
    #[error("character {place} of the token is {found:?}, expected a letter or digit other than U")]
    Character {
        /// Which, from 1, spaces counted.
        place: usize,
        /// The character.
        found: char,
    },
    /// Far from any token.
    #[error("a token has at most {TOKEN_TEXT_LEN_MAX} characters, this has {found}")]
    TooLong {
        /// Bytes of the text.
        found: usize,
    },
    /// A part is missing, or a character is wrong.
    #[error("the token is incomplete or mistyped: its checksum does not fit")]
    Checksum,
    /// Made by a later version.
    #[error("token of version {found}, this version reads 1")]
    Version {
        /// Its version.
        found: u8,
    },
    /// The name cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No, too many, or impossible addresses.
    #[error("the token's host addresses cannot be used: {0}")]
    Addresses(&'static str),
}

/// What a machine joins with.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: Zeroizing<[u8; SECRET_LEN]>,
    /// Name the machine will have.
    pub name: String,
    /// Where the host is, tried in order.
    pub hosts: Vec<String>,
    /// The host's key: whoever has another is not it.
    pub host_key: NodeKey,
}

impl JoinToken {
    /// Draws a new one.
    pub fn new(name: &str, hosts: &[String], host_key: NodeKey, entropy: &dyn Entropy) -> Result<Self, TokenError> {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        entropy.fill(&mut *secret);
        let token = Self { secret, name: name.to_owned(), hosts: hosts.to_vec(), host_key };
        token.check()?;
        Ok(token)
    }

    /// What the office keeps of it.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.secret)
    }

    /// What the machine shows to the host, once it knows that it is the host.
    pub fn secret(&self) -> &[u8; SECRET_LEN] {
        &self.secret
    }

    /// The text, wiped when dropped.
    pub fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BODY_LEN_MAX + CHECKSUM_LEN));
        bytes.push(VERSION);
        bytes.extend_from_slice(&*self.secret);
        bytes.extend_from_slice(&self.host_key.0);
        push_text(&mut bytes, &self.name);
        bytes.push(self.hosts.len() as u8);
        self.hosts.iter().for_each(|host| push_text(&mut bytes, host));
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        to_base32(&bytes)
    }

    /// Reads what [`Self::text`] wrote and somebody may have typed.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bytes = from_base32(text)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(TokenError::Checksum)?;
        if checksum(body) != *sum {
            return Err(TokenError::Checksum);
        }
        let mut rest = body;
        let version = take::<1>(&mut rest)?[0];
        if version != VERSION {
            return Err(TokenError::Version { found: version });
        }
        let secret = Zeroizing::new(take(&mut rest)?);
        let host_key = NodeKey(take(&mut rest)?);
        let name = take_text(&mut rest)?;
        let count = take::<1>(&mut rest)?[0];
        let hosts = (0..count).map(|_| take_text(&mut rest)).collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err(TokenError::Checksum);
        }
        let token = Self { secret, name, hosts, host_key };
        token.check()?;
        Ok(token)
    }

    fn check(&self) -> Result<(), TokenError> {
        check_name("machine", &self.name)?;
        if !(1..=ADDRESSES_MAX).contains(&self.hosts.len()) {
            return Err(TokenError::Addresses("there are 1 to 8"));
        }
        if self.hosts.iter().any(|host| !(1..=ADDRESS_LEN_MAX).contains(&host.len())) {
            return Err(TokenError::Addresses("one has 1 to 255 bytes"));
        }
        if self.hosts.iter().any(|host| !host.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(TokenError::Addresses("one has letters, digits and signs only"));
        }
        Ok(())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, …)", self.name)
    }
}

/// What the office keeps of a token's secret: 16 random bytes need no slow hash.
pub fn hash(secret: &[u8; SECRET_LEN]) -> [u8; 32] {
    blake3::derive_key(HASH_CONTEXT, secret)
}

/// Whether a secret is the one of a hash; takes the same time wherever they differ.
pub fn is_token(secret: &[u8; SECRET_LEN], expected: &[u8; 32]) -> bool {
    blake3::Hash::from_bytes(hash(secret)) == blake3::Hash::from_bytes(*expected)
}

/// When a token made now expires: after `ttl`, at most [`TOKEN_TTL_MAX`].
pub fn expires(now: Time, ttl: Duration) -> Time {
    let nanos = i64::try_from(ttl.min(TOKEN_TTL_MAX).as_nanos()).unwrap_or(i64::MAX);
    Time(now.0.saturating_add(nanos))
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let sum = blake3::derive_key(CHECKSUM_CONTEXT, body);
    *sum.first_chunk().expect("a hash is longer")
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    // Checked to be shorter than 256 when the token was made.
    bytes.push(text.len() as u8);
    bytes.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TokenError> {
    let (field, after) = rest.split_first_chunk().ok_or(TokenError::Checksum)?;
    *rest = after;
    Ok(*field)
}

fn take_text(rest: &mut &[u8]) -> Result<String, TokenError> {
    let len = usize::from(take::<1>(rest)?[0]);
    let (text, after) = rest.split_at_checked(len).ok_or(TokenError::Checksum)?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| TokenError::Checksum)
}

fn to_base32(bytes: &[u8]) -> Zeroizing<String> {
    let digits = (8 * bytes.len()).div_ceil(5);
    let mut text = Zeroizing::new(String::with_capacity(digits + digits / GROUP_LEN + 1));
    let (mut held, mut bits, mut written) = (0u32, 0, 0);
    let mut write = |digit: u32| {
        if written > 0 && written % GROUP_LEN == 0 {
            text.push('-');
        }
        written += 1;
        text.push(char::from(ALPHABET[digit as usize & 31]));
    };
    for &byte in bytes {
        held = (held << 8 | u32::from(byte)) & 0xfff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            write(held >> bits);
        }
    }
    if bits > 0 {
        write(held << (5 - bits));
    }
    text
}

fn from_base32(text: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    if text.len() > TOKEN_TEXT_LEN_MAX {
        return Err(TokenError::TooLong { found: text.len() });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() * 5 / 8 + 1));
    let (mut held, mut bits) = (0u32, 0);
    for (place, found) in (1..).zip(text.chars()) {
        if found.is_whitespace() || found == '-' {
            continue;
        }
        let digit = digit(found).ok_or(TokenError::Character { place, found })?;
        held = (held << 5 | digit) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    // What is left over is padding: less than a digit, and zero.
    if bits >= 5 || held & ((1 << bits) - 1) != 0 {
        return Err(TokenError::Checksum);
    }
    Ok(bytes)
}

fn digit(found: char) -> Option<u32> {
    let upper = match found.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let at = ALPHABET.iter().position(|&byte| char::from(byte) == upper)?;
    u32::try_from(at).ok()
}
