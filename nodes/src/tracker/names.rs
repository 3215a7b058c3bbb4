//! Ids, keys of machines, and what names may look like.

use twinkeep_engine::byte_id;

byte_id!(
    /// A machine as the office knows it: its Ed25519 public key.
    NodeKey,
    32
);
byte_id!(
    /// What a machine says of the hardware it is: 16 bytes drawn or read once.
    MachineId,
    16
);
byte_id!(
    /// Name of an account: 16 random bytes drawn when it is made.
    AccountId,
    16
);
byte_id!(
    /// Name of a device of an account: 16 random bytes drawn when it is added.
    AccountDeviceId,
    16
);

/// Longest name of a machine or an account, bytes: a host name, a mail address.
pub const NAME_LEN_MAX: usize = 128;

/// Longest name of a vault or label of a device, bytes.
pub const LABEL_LEN_MAX: usize = 256;

/// Fails unless `name` can be typed and told apart: letters, digits and `. - _ @`, beginning with a letter or digit.
pub fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    let fault = |fault| Err(NameError { what, name: name.chars().take(NAME_LEN_MAX).collect(), fault });
    if name.is_empty() {
        return fault("is empty");
    }
    if name.len() > NAME_LEN_MAX {
        return fault("is longer than 128 bytes");
    }
    if !name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '@')) {
        return fault("has characters other than letters, digits and . - _ @");
    }
    if !name.starts_with(char::is_alphanumeric) {
        return fault("does not begin with a letter or digit");
    }
    Ok(())
}

/// Fails unless `label` is one line people can read; may be empty.
pub fn check_label(what: &'static str, label: &str) -> Result<(), NameError> {
    let fault = |fault| Err(NameError { what, name: label.chars().take(NAME_LEN_MAX).collect(), fault });
    if label.len() > LABEL_LEN_MAX {
        return fault("is longer than 256 bytes");
    }
    if label.chars().any(char::is_control) {
        return fault("has control characters");
    }
    Ok(())
}

/// A name as it is compared: two that differ only in capitals are the same.
pub fn fold(name: &str) -> String {
    name.to_lowercase()
}

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} {fault}")]
pub struct NameError {
    /// What it names: `machine`, `account`, …
    pub what: &'static str,
    /// The name, its beginning if it is long.
    pub name: String,
    /// What is wrong with it.
    pub fault: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_typed() {
        for good in ["pc-1", "anna@firm.example", "Jörg", "9", &"x".repeat(128)] {
            check_name("account", good).unwrap();
        }
        for bad in ["", "-a", "a b", "a\n", "a/b", "a\u{308}", "a\u{202e}", &"x".repeat(129)] {
            assert!(check_name("account", bad).is_err(), "{bad:?}");
        }
        assert_eq!(fold("PC-Ä"), "pc-ä");
        check_label("vault", "").unwrap();
        check_label("vault", "Book keeping / 2024").unwrap();
        assert!(check_label("vault", "a\0").is_err() && check_label("vault", &"x".repeat(257)).is_err());
    }
}
