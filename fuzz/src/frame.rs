//! Frames: header, seal, and what lies behind the seal.
//!
//! An input is one byte of choices and a frame; with the choice [`RESEAL`] the frame's body is plaintext, which is
//! sealed before it is opened, so that hostile codecs and lengths get past the seal.

use std::cell::RefCell;

use twinkeep_engine::crypto::{Suite, VaultKeys};
use twinkeep_engine::frame::{FIXED_LEN, FrameBuilder, FrameHeader, OpenedFrame, Opener, SealedFrame, frame_id};
use twinkeep_engine::id::{ChunkId, Kind};
use twinkeep_engine::limits::{CHUNK_LEN_MAX, FRAME_CHUNKS_MAX, FRAME_LEN_MAX, FRAME_PLAIN_LEN_MAX, FRAME_REFS_MAX};

use crate::keys;

/// The body is plaintext: seal it with the vault's keys.
pub const RESEAL: u8 = 1;
/// Put the vault, generation and wrapped key in their places.
pub const OURS: u8 = 2;
/// Put the real length in its place.
pub const LEN: u8 = 4;
/// Use the vault without encryption.
pub const PLAIN: u8 = 8;
/// ChaCha20-Poly1305 instead of AES-256-GCM, for what is sealed here.
pub const CHACHA: u8 = 16;

thread_local! {
    static OPENERS: RefCell<[Opener; 2]> = RefCell::new([Suite::Aes256Gcm, Suite::Plain].map(|suite| {
        Opener::new(keys::data_keys(suite)).expect("memory for a decompressor")
    }));
}

/// Parses and opens a frame.
pub fn body(data: &[u8]) {
    let Some((&choices, frame)) = data.split_first() else { return };
    let suite = match (choices & PLAIN != 0, choices & CHACHA != 0) {
        (true, _) => Suite::Plain,
        (false, true) => Suite::ChaCha20Poly1305,
        (false, false) => Suite::Aes256Gcm,
    };
    let mut bytes = frame.to_vec();
    repair(&mut bytes, choices, suite);
    if choices & RESEAL != 0 {
        reseal(&mut bytes, choices, suite);
    }
    check_header(&bytes);
    if let Some(opened) = open(&mut bytes, suite) {
        check_opened(&opened, suite);
    }
}

fn open(bytes: &mut [u8], suite: Suite) -> Option<OpenedFrame> {
    OPENERS.with_borrow_mut(|openers| openers[usize::from(suite == Suite::Plain)].open(bytes).ok())
}

fn vault_keys(suite: Suite) -> &'static VaultKeys {
    if suite == Suite::Plain { keys::open_keys() } else { keys::keys() }
}

fn repair(bytes: &mut [u8], choices: u8, suite: Suite) {
    let len = bytes.len() as u32;
    if choices & LEN != 0 && bytes.len() >= FIXED_LEN {
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
    }
    if choices & OURS != 0 && bytes.len() >= FIXED_LEN {
        bytes[9] = suite as u8;
        bytes[10..12].fill(0);
        bytes[24..40].copy_from_slice(&keys::VAULT.0);
        bytes[80..FIXED_LEN].copy_from_slice(&keys::wrapped(suite).0);
    }
}

fn reseal(bytes: &mut Vec<u8>, choices: u8, suite: Suite) {
    let Ok(header_len) = FrameHeader::peek_header_len(bytes) else { return };
    if header_len > bytes.len() {
        return;
    }
    if choices & LEN != 0 {
        let len = (bytes.len() + suite.overhead()) as u32;
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
    }
    let clear = bytes[..header_len].to_vec();
    let salt = clear[56..80].try_into().expect("a salt has 24 bytes");
    suite.seal(&keys::data_key(), &salt, &clear, bytes, header_len);
}

/// A header that is read says the same of any longer and of the shortest bytes it stands in.
fn check_header(bytes: &[u8]) {
    let (len, header_len) = (FrameHeader::peek_len(bytes), FrameHeader::peek_header_len(bytes));
    let Ok(header) = FrameHeader::parse(bytes) else { return };
    assert_eq!(len.ok(), Some(header.frame_len as usize));
    assert_eq!(header_len.ok(), Some(header.len()));
    assert!(header.len() <= header.frame_len as usize && header.frame_len as usize <= FRAME_LEN_MAX);
    assert!((1..=FRAME_CHUNKS_MAX).contains(&header.ids.len()));
    assert_eq!(FrameHeader::parse(&bytes[..header.len()]).ok().as_ref(), Some(&header));
    assert!(FrameHeader::parse(&bytes[..header.len() - 1]).is_err());
    let refs: usize = (0..header.ids.len()).map(|position| header.refs(position).len()).sum();
    assert_eq!(
        header.len(),
        FIXED_LEN + header.ids.len() * if header.kind == Kind::Leaf { 32 } else { 36 } + 32 * refs
    );
    assert!(refs <= FRAME_REFS_MAX && header.refs(header.ids.len()).is_empty());
}

/// What was opened keeps its limits, and the same chunks sealed anew open to the same chunks.
fn check_opened(opened: &OpenedFrame, suite: Suite) {
    let keys = vault_keys(suite);
    let count = opened.chunk_count();
    assert_eq!(count, opened.header.ids.len());
    assert!(opened.plain_len() <= FRAME_PLAIN_LEN_MAX && opened.bytes(count).is_none());
    let (mut sum, mut is_ours) = (0, true);
    let mut builder = FrameBuilder::new(opened.header.kind);
    for (position, id) in opened.header.ids.iter().enumerate() {
        let bytes = opened.bytes(position).expect("every chunk has bytes");
        assert!(bytes.len() <= CHUNK_LEN_MAX);
        sum += bytes.len();
        let name = keys.chunk_id(opened.header.kind, opened.header.refs(position), bytes);
        assert_eq!(opened.chunk(keys, position, id).is_ok(), name == *id);
        // A frame may hold a little more than a builder of ours would put into it.
        is_ours &= builder.fits(opened.header.refs(position).len(), bytes.len());
        if is_ours {
            builder.push(*id, opened.header.refs(position), bytes);
        }
    }
    assert_eq!(sum, opened.plain_len());
    if !is_ours {
        return;
    }
    let mut again = keys::sealer(suite).seal(&mut builder);
    assert!(again.bytes.len() <= FRAME_LEN_MAX);
    assert_eq!(FrameHeader::parse(&again.bytes).ok(), Some(again.header));
    let reopened = open(&mut again.bytes, suite).expect("what we seal opens");
    assert_eq!(reopened.header.ids, opened.header.ids);
    for position in 0..count {
        assert_eq!(reopened.header.refs(position), opened.header.refs(position));
        assert_eq!(reopened.bytes(position), opened.bytes(position));
    }
}

/// A frame of a few chunks; every one as named.
pub fn sealed(suite: Suite, kind: Kind, chunks: &[(&[ChunkId], &[u8])]) -> SealedFrame {
    let mut builder = FrameBuilder::new(kind);
    for (refs, bytes) in chunks {
        builder.push(vault_keys(suite).chunk_id(kind, refs, bytes), refs, bytes);
    }
    keys::sealer(suite).seal(&mut builder)
}

/// A frame with its body in plaintext, as [`RESEAL`] wants it.
fn opened(kind: Kind, chunks: &[(&[ChunkId], &[u8])], body: &[u8]) -> Vec<u8> {
    let frame = sealed(Suite::Aes256Gcm, kind, chunks);
    [&frame.bytes[..frame.header.len()], body].concat()
}

/// A body as a writer makes it, but with any codec, length and content.
fn body_of(codec: u8, plain_len: u32, lens: &[u32], content: &[u8]) -> Vec<u8> {
    let lens: Vec<u8> = lens.iter().flat_map(|len| len.to_le_bytes()).collect();
    [&[codec, 0, 0, 0][..], &plain_len.to_le_bytes(), &lens, content].concat()
}

/// Whole frames of each kind and suite, and bodies that lie.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let refs = [ChunkId([1; 32]), ChunkId([2; 32]), ChunkId([3; 32])];
    let leaves: [(&[ChunkId], &[u8]); 3] = [(&[], b"one"), (&[], &[b'a'; 700]), (&[], b"")];
    let branches: [(&[ChunkId], &[u8]); 3] = [(&refs, b"payload!"), (&[], &[0; 600]), (&refs[..1], b"x")];
    let mut seeds = Vec::new();
    for (name, suite, choices) in
        [("aes", Suite::Aes256Gcm, 0), ("chacha", Suite::ChaCha20Poly1305, CHACHA), ("plain", Suite::Plain, PLAIN)]
    {
        for (kind_name, kind, chunks) in [("leaves", Kind::Leaf, &leaves), ("branches", Kind::Branch, &branches)] {
            let frame = sealed(suite, kind, chunks);
            seeds.push((format!("{name}-{kind_name}"), [&[choices][..], &frame.bytes].concat()));
        }
    }
    // zstd's own shortest frame of nothing, and one that says it holds far more than it may.
    let (empty, bomb) =
        (b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00", b"\x28\xb5\x2f\xfd\xa0\xff\xff\xff\x7f\x02\x00\x10\x61");
    let one: [(&[ChunkId], &[u8]); 1] = [(&[], b"one")];
    for (name, body) in [
        ("stored", body_of(0, 3, &[3], b"one")),
        ("stored-short", body_of(0, 4, &[4], b"one")),
        ("codec", body_of(2, 3, &[3], b"one")),
        ("len-over", body_of(0, u32::MAX, &[u32::MAX], b"one")),
        ("sum-wraps", body_of(1, 0, &[0], empty)),
        ("zstd-bomb", body_of(1, 0x1f_ffff, &[0x1f_ffff], bomb)),
        ("zstd-promise", body_of(1, 1 << 20, &[1 << 20], empty)),
        ("no-lens", vec![0; 8]),
        ("nothing", Vec::new()),
    ] {
        let choices = RESEAL | OURS | LEN;
        seeds.push((format!("sealed-{name}"), [&[choices][..], &opened(Kind::Leaf, &one, &body)].concat()));
    }
    let sums = body_of(0, 0, &[1 << 20, 1 << 20, u32::MAX - (1 << 21) + 1], b"");
    seeds.push(("sealed-lens-wrap".into(), [&[RESEAL | OURS | LEN][..], &opened(Kind::Leaf, &leaves, &sums)].concat()));
    let mut counts = opened(Kind::Branch, &branches, &body_of(0, 0, &[0, 0, 0], b""));
    counts[FIXED_LEN + 96..FIXED_LEN + 100].fill(0xff);
    seeds.push(("sealed-ref-counts".into(), [&[RESEAL | OURS | LEN][..], &counts].concat()));
    seeds.push(("magic-only".into(), b"\0TKFRAME\x01".to_vec()));
    seeds
}

/// The name a pack puts behind a frame.
pub fn name_of(bytes: &[u8]) -> [u8; 32] {
    frame_id(bytes).0
}
