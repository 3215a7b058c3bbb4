//! Names of things. Every id is a newtype over fixed bytes; hex is for people only.

/// Value of a lower-case hex digit. Capitals are refused: an id, and a file named by it, has one spelling.
#[doc(hidden)]
pub fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// Makes a newtype over fixed bytes with hex for people, as every id is.
#[macro_export]
macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Bytes on disk and on the wire.
            pub const LEN: usize = $len;

            /// Reads an id from exactly [`Self::LEN`] bytes; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }

            /// Lower-case hex, two digits a byte.
            pub fn to_hex(&self) -> String {
                self.0.iter().map(|byte| format!("{byte:02x}")).collect()
            }

            /// Reads what [`Self::to_hex`] wrote; `None` for anything else.
            pub fn from_hex(text: &str) -> Option<Self> {
                let digits = text.as_bytes();
                if digits.len() != 2 * Self::LEN {
                    return None;
                }
                let mut bytes = [0; $len];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = $crate::id::hex_digit(pair[0])? * 16 + $crate::id::hex_digit(pair[1])?;
                }
                Some(Self(bytes))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.to_hex()[..8])
            }
        }
    };
}

byte_id!(
    /// Name of a chunk: BLAKE3-256 of its plaintext, keyed with the vault's id key, separated by kind.
    ChunkId,
    32
);
byte_id!(
    /// Name of a frame: unkeyed BLAKE3-256 of its stored bytes, so that anybody can verify it.
    FrameId,
    32
);
byte_id!(
    /// Name of a vault: 16 random bytes drawn when it is made.
    VaultId,
    16
);
byte_id!(
    /// Name of one writer's run: 16 random bytes drawn when it begins.
    SessionId,
    16
);
byte_id!(
    /// Name of a machine that may write and not read: 8 random bytes drawn when it is admitted.
    DeviceId,
    8
);

/// What a chunk, a frame or a pack holds. Leaves and branches never share a frame or a pack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// File content.
    Leaf = 1,
    /// A list of references and a payload that names its children by position in that list.
    Branch = 2,
}

impl Kind {
    /// Reads the byte that stands in headers.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Leaf),
            2 => Some(Self::Branch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_the_rest() {
        let id = SessionId([0xa5; 16]);
        assert_eq!(SessionId::from_hex(&id.to_hex()), Some(id));
        for bad in ["", "a5", &"g0".repeat(16), &"é5".repeat(16), &"a5".repeat(17), &"A5".repeat(16)] {
            assert_eq!(SessionId::from_hex(bad), None, "{bad}");
        }
    }
}
