//! Names as text: ids in hex, file names of packs.

use twinkeep_engine::id::{ChunkId, FrameId, Kind, SessionId, VaultId};
use twinkeep_engine::pack::PackName;

use crate::input::Input;
use crate::keys::SESSION;

macro_rules! check_id {
    ($id:ty, $text:expr, $bytes:expr) => {
        if let Some(id) = <$id>::from_hex($text) {
            assert_eq!(id.to_hex(), *$text, "an id is written in one way only");
        }
        if let Some(id) = <$id>::from_slice($bytes) {
            assert_eq!(<$id>::from_hex(&id.to_hex()), Some(id));
            let _ = format!("{id} {id:?}");
        }
    };
}

/// Reads text as every kind of name.
pub fn body(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    check_id!(ChunkId, &text, data);
    check_id!(FrameId, &text, data);
    check_id!(VaultId, &text, data);
    check_id!(SessionId, &text, data);
    if let Some(name) = PackName::from_file_name(&text) {
        assert_eq!(name.file_name(), text, "a pack has one name only");
    }
    let mut input = Input(data);
    let kind = if input.u8() % 2 == 0 { Kind::Leaf } else { Kind::Branch };
    let name = PackName { session: SessionId(input.array()), kind, number: input.u32() };
    assert_eq!(PackName::from_file_name(&name.file_name()), Some(name));
}

/// Names that are right, and some that are almost.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let pack = PackName { session: SESSION, kind: Kind::Leaf, number: 0x2a }.file_name();
    let texts = [
        ("pack-leaf", pack.clone()),
        ("pack-branch", pack.replace("leaf", "branch")),
        ("pack-last", pack.replace("0000002a", "ffffffff")),
        ("pack-plus", pack.replace("0000002a", "+000002a")),
        ("pack-upper", pack.replace("0000002a", "0000002A")),
        ("pack-tmp", pack.clone() + ".tmp"),
        ("pack-over", pack.replace("0000002a", "10000002a")),
        ("pack-two-dashes", pack.replace("-", "--")),
        ("id-32", ChunkId([0xa5; 32]).to_hex()),
        ("id-32-upper", ChunkId([0xa5; 32]).to_hex().to_uppercase()),
        ("id-16", SessionId([0x5a; 16]).to_hex()),
        ("id-not-hex", "g".repeat(64)),
        ("id-wide", "é".repeat(16)),
        ("nothing", String::new()),
    ];
    texts.into_iter().map(|(name, text)| (name.into(), text.into_bytes())).collect()
}
