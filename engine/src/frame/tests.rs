//! Frames: round trips, and what must not open.

use super::*;
use crate::crypto::wrap::wrap;
use crate::crypto::{DataKey, Salts, VaultKeys, VaultSecret};
use crate::env::{Dice, SeededEntropy};
use crate::limits::{CHUNK_LEN_MAX, FRAME_PLAIN_LEN_MAX};
use std::sync::Arc;

const VAULT: VaultId = VaultId([7; 16]);
const SESSION: SessionId = SessionId([8; 16]);

fn encrypted() -> VaultKeys {
    VaultKeys::derive(&VaultSecret::from_bytes(&[1; 32]), VAULT)
}

fn seal_keys(keys: &VaultKeys, suite: Suite) -> SealKeys {
    let entropy = SeededEntropy::new(3);
    let data_key = DataKey::random(&entropy);
    let (generation, public) = keys.newest();
    let wrapped = match suite {
        Suite::Plain => WrappedKey([0; 80]),
        Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => wrap(public, &data_key, &keys.vault(), &entropy),
    };
    SealKeys { suite, data_key: Arc::new(data_key), wrapped, generation, vault: keys.vault(), session: SESSION }
}

fn sealer(keys: &VaultKeys, suite: Suite) -> Sealer {
    Sealer::new(seal_keys(keys, suite), Salts::new(Arc::new(SeededEntropy::new(4))), 1).unwrap()
}

fn opener(keys: VaultKeys) -> Opener {
    Opener::new(Arc::new(DataKeys::new(Arc::new(keys)))).unwrap()
}

type Chunk = (ChunkId, Vec<ChunkId>, Vec<u8>);

fn chunks(keys: &VaultKeys, kind: Kind, dice: &mut Dice, lens: &[usize]) -> Vec<Chunk> {
    let make = |&len: &usize| {
        let mut bytes = vec![dice.throw() as u8; len];
        dice.fill(&mut bytes[..len / 2]);
        let refs = match kind {
            Kind::Leaf => Vec::new(),
            Kind::Branch => (0..dice.below(5)).map(|n| ChunkId([n as u8; 32])).collect(),
        };
        (keys.chunk_id(kind, &refs, &bytes), refs, bytes)
    };
    lens.iter().map(make).collect()
}

fn seal(sealer: &mut Sealer, kind: Kind, chunks: &[Chunk]) -> SealedFrame {
    let mut builder = FrameBuilder::new(kind);
    for (id, refs, bytes) in chunks {
        assert!(builder.fits(refs.len(), bytes.len()));
        builder.push(*id, refs, bytes);
    }
    let frame = sealer.seal(&mut builder);
    assert!(builder.is_empty());
    frame
}

#[test]
fn every_kind_and_suite_round_trips() {
    let mut dice = Dice(1);
    for suite in [Suite::Plain, Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        for kind in [Kind::Leaf, Kind::Branch] {
            let keys = || if suite == Suite::Plain { VaultKeys::unencrypted(VAULT) } else { encrypted() };
            let (mut sealer, mut opener) = (sealer(&keys(), suite), opener(keys()));
            for lens in [&[0][..], &[1], &[0, 0, 5], &[300, 0, 70_000], &[1 << 20], &[9; 4096]] {
                let chunks = chunks(&keys(), kind, &mut dice, lens);
                let frame = seal(&mut sealer, kind, &chunks);
                assert_eq!(FrameHeader::parse(&frame.bytes).unwrap(), frame.header);
                assert_eq!(FrameHeader::peek_len(&frame.bytes).unwrap(), frame.bytes.len());
                assert_eq!(FrameHeader::peek_header_len(&frame.bytes).unwrap(), frame.header.len());
                assert_eq!(frame.id, frame_id(&frame.bytes));
                let opened = opener.open(&mut frame.bytes.clone()).unwrap();
                assert_eq!(opened.chunk_count(), chunks.len());
                assert_eq!(opened.plain_len(), lens.iter().sum::<usize>());
                for (position, (id, refs, bytes)) in chunks.iter().enumerate() {
                    assert_eq!(opened.header.refs(position), refs);
                    assert_eq!(opened.chunk(&keys(), position, id).unwrap(), bytes);
                    let other = ChunkId([0xee; 32]);
                    assert!(matches!(
                        opened.chunk(&keys(), position, &other),
                        Err(FrameError::WrongChunk { expected }) if expected == other
                    ));
                }
                for past in [chunks.len(), usize::MAX] {
                    assert!(opened.bytes(past).is_none() && opened.header.refs(past).is_empty());
                    assert!(opened.chunk(&keys(), past, &chunks[0].0).is_err());
                }
            }
        }
    }
}

#[test]
fn long_chunks_are_compressed_where_any_stretch_of_them_shrinks() {
    let (keys, mut dice) = (encrypted(), Dice(12));
    let (mut sealer, mut opener) = (sealer(&keys, Suite::Aes256Gcm), opener(keys));
    // 128 KiB hold a whole step between two probes, wherever they stand.
    let stretch = 128 << 10;
    for empty in [None, Some(0), Some(1), Some(70_000), Some(500_000), Some(CHUNK_LEN_MAX - stretch)] {
        let mut bytes = vec![0; CHUNK_LEN_MAX];
        dice.fill(&mut bytes);
        if let Some(at) = empty {
            bytes[at..][..stretch].fill(7);
        }
        let id = encrypted().leaf_id(&bytes);
        let frame = seal(&mut sealer, Kind::Leaf, &[(id, Vec::new(), bytes.clone())]);
        let saved = (bytes.len() + frame.header.len()).saturating_sub(frame.bytes.len());
        assert_eq!(saved > stretch - 5000, empty.is_some(), "{empty:?}: {saved}");
        let opened = opener.open(&mut frame.bytes.clone()).unwrap();
        assert_eq!(opened.chunk(&encrypted(), 0, &id).unwrap(), bytes);
    }
}

#[test]
fn no_flipped_or_missing_byte_goes_unnoticed() {
    for kind in [Kind::Leaf, Kind::Branch] {
        let mut opener = opener(encrypted());
        let chunks = chunks(&encrypted(), kind, &mut Dice(2), &[10, 200, 3]);
        let frame = seal(&mut sealer(&encrypted(), Suite::Aes256Gcm), kind, &chunks);
        for at in 0..frame.bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = frame.bytes.clone();
                bytes[at] ^= flip;
                let _ = FrameHeader::parse(&bytes);
                assert!(opener.open(&mut bytes).is_err(), "{kind:?} {at} {flip}");
            }
            assert!(opener.open(&mut frame.bytes[..at].to_vec()).is_err(), "{kind:?} cut at {at}");
            let parsed = FrameHeader::parse(&frame.bytes[..at]);
            assert_eq!(parsed.is_ok(), at >= frame.header.len(), "{kind:?} cut at {at}");
        }
        let mut longer = frame.bytes.clone();
        longer.push(0);
        assert!(opener.open(&mut longer).is_err());
    }
}

#[test]
fn impossible_counts_and_lengths_are_refused_before_anything_is_allocated() {
    let frame = seal(
        &mut sealer(&encrypted(), Suite::Aes256Gcm),
        Kind::Branch,
        &chunks(&encrypted(), Kind::Branch, &mut Dice(5), &[10, 20]),
    );
    for at in [12, 16, 20, FIXED_LEN + 64, FIXED_LEN + 68] {
        for value in [0, 1, 3, 4097, 1 << 15, (1 << 15) + 1, (1 << 17) + 1, 1 << 31, u32::MAX] {
            let mut bytes = frame.bytes.clone();
            if bytes[at..at + 4] == u32::to_le_bytes(value) {
                continue;
            }
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            if let Ok(header) = FrameHeader::parse(&bytes) {
                // Only the total may differ and still make sense of the header; the frame is then cut wrongly.
                assert_eq!(at, 12);
                assert_ne!(header.frame_len as usize, bytes.len());
            }
        }
    }
}

/// A frame sealed with the right key around a body made by hand.
fn with_body(keys: &VaultKeys, suite: Suite, body: &[u8], ids: Vec<ChunkId>) -> Vec<u8> {
    let seal_keys = seal_keys(keys, suite);
    let mut header = FrameHeader {
        kind: Kind::Leaf,
        suite,
        generation: seal_keys.generation,
        frame_len: 0,
        vault: keys.vault(),
        session: SESSION,
        salt: [9; SALT_LEN],
        wrapped: seal_keys.wrapped,
        ref_ends: vec![0; ids.len()],
        ids,
        refs: Vec::new(),
    };
    header.frame_len = (header.len() + body.len() + suite.overhead()) as u32;
    let mut bytes = Vec::new();
    header.write(&mut bytes);
    let (clear, from) = (bytes.clone(), bytes.len());
    bytes.extend_from_slice(body);
    suite.seal(&seal_keys.data_key, &header.salt, &clear, &mut bytes, from);
    bytes
}

fn body(codec: u8, plain_len: u32, lens: &[u32], content: &[u8]) -> Vec<u8> {
    let mut body = vec![codec, 0, 0, 0];
    body.extend_from_slice(&plain_len.to_le_bytes());
    lens.iter().for_each(|len| body.extend_from_slice(&len.to_le_bytes()));
    body.extend_from_slice(content);
    body
}

#[test]
fn hostile_bodies_are_refused() {
    let keys = encrypted();
    let mut opener = opener(encrypted());
    let mut open = |body: &[u8], chunks: usize| {
        opener.open(&mut with_body(&keys, Suite::Aes256Gcm, body, vec![ChunkId([1; 32]); chunks])).err()
    };
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let small = zstd::bulk::compress(&[5; 10], 1).unwrap();
    assert!(open(&body(1, 10, &[10], &small), 1).is_none());
    assert!(open(&body(0, 3, &[1, 2], b"abc"), 2).is_none());
    let decompress = |error: Option<FrameError>| matches!(error, Some(FrameError::Decompress { .. }));
    assert!(decompress(open(&body(1, 10, &[10], &bomb), 1)));
    assert!(decompress(open(&body(1, 11, &[11], &small), 1)));
    assert!(decompress(open(&body(1, 9, &[9], &small), 1)));
    assert!(decompress(open(&body(1, 10, &[10], b"not zstd"), 1)));
    assert!(decompress(open(&body(1, 10, &[10], &small[..small.len() - 1]), 1)));
    let field = |error: Option<FrameError>| matches!(error, Some(FrameError::Field { .. }));
    assert!(field(open(&body(2, 10, &[10], &small), 1)));
    assert!(field(open(&body(1, 10, &[9], &small), 1)));
    assert!(field(open(&body(1, 10, &[u32::MAX, 11], &small), 2)));
    assert!(field(open(&body(1, CHUNK_LEN_MAX as u32 + 1, &[CHUNK_LEN_MAX as u32 + 1], &bomb), 1)));
    assert!(field(open(&body(1, FRAME_PLAIN_LEN_MAX as u32 + 1, &[10], &bomb), 1)));
    assert!(field(open(&body(1, u32::MAX, &[u32::MAX], &bomb), 1)));
    let short = |error: Option<FrameError>| matches!(error, Some(FrameError::Short { .. }));
    assert!(short(open(&body(0, 4, &[4], b"abc"), 1)));
    assert!(short(open(&body(0, 4, &[4], b"abcde"), 1)));
    assert!(short(open(&[], 1)));
    assert!(short(open(&body(1, 10, &[10], b"")[..10], 1)));
    assert!(short(open(&body(1, 10, &[10], b""), 4096)));
}

#[test]
fn frames_of_others_are_refused() {
    let plain_body = body(0, 1, &[1], b"x");
    let ids = vec![encrypted().leaf_id(b"x")];
    let mut plain = with_body(&encrypted(), Suite::Plain, &plain_body, ids.clone());
    assert!(matches!(opener(encrypted()).open(&mut plain), Err(FrameError::Field { field: "suite", found: 0 })));
    let mut plain = with_body(&VaultKeys::unencrypted(VAULT), Suite::Plain, &plain_body, ids.clone());
    assert!(opener(VaultKeys::unencrypted(VAULT)).open(&mut plain).is_ok());

    let foreign = VaultKeys::derive(&VaultSecret::from_bytes(&[1; 32]), VaultId([9; 16]));
    let mut bytes = with_body(&foreign, Suite::Aes256Gcm, &plain_body, ids.clone());
    assert!(matches!(opener(encrypted()).open(&mut bytes), Err(FrameError::OtherVault { .. })));
    bytes[24..40].copy_from_slice(&VAULT.0);
    assert!(matches!(opener(encrypted()).open(&mut bytes), Err(FrameError::Seal(_))));

    let mut bytes = with_body(&encrypted(), Suite::Aes256Gcm, &plain_body, ids);
    bytes[10] = 1;
    assert!(matches!(opener(encrypted()).open(&mut bytes), Err(FrameError::NoKey { generation: 1 })));
}

#[test]
fn a_chunk_of_one_kind_never_passes_for_the_other() {
    let keys = encrypted();
    let mut sealer = sealer(&keys, Suite::Aes256Gcm);
    let mut opener = opener(encrypted());
    // What a client that lies about the kind would send: the right id and bytes in a frame of the other kind.
    let leaf_id = keys.leaf_id(b"content");
    let branch_id = keys.branch_id(&[], b"content");
    assert_ne!(leaf_id, branch_id);
    for (kind, id) in [(Kind::Branch, leaf_id), (Kind::Leaf, branch_id)] {
        let mut frame = seal(&mut sealer, kind, &[(id, Vec::new(), b"content".to_vec())]);
        let opened = opener.open(&mut frame.bytes).unwrap();
        assert!(opened.chunk(&keys, 0, &id).is_err(), "{kind:?}");
    }
    // Other references under the same payload are another branch.
    let refs = vec![ChunkId([1; 32])];
    let mut frame = seal(&mut sealer, Kind::Branch, &[(branch_id, refs, b"content".to_vec())]);
    assert!(opener.open(&mut frame.bytes).unwrap().chunk(&keys, 0, &branch_id).is_err());
}

#[test]
fn random_bytes_never_parse_into_harm() {
    let mut dice = Dice(0xf7a3e);
    println!("seed {}", dice.0);
    let mut opener = opener(encrypted());
    let chunks = chunks(&encrypted(), Kind::Branch, &mut dice, &[10, 20, 30]);
    let frame = seal(&mut sealer(&encrypted(), Suite::Aes256Gcm), Kind::Branch, &chunks);
    for _ in 0..20_000 {
        let mut bytes = frame.bytes.clone();
        for _ in 0..1 + dice.below(4) {
            let end = if dice.one_in(2) { 32 } else { bytes.len() };
            let at = dice.below(end);
            bytes[at] = dice.throw() as u8;
        }
        if dice.one_in(4) {
            bytes.truncate(dice.below(bytes.len()));
        }
        if let Ok(header) = FrameHeader::parse(&bytes) {
            (0..header.ids.len()).for_each(|position| drop(header.refs(position).to_vec()));
        }
        if bytes != frame.bytes {
            assert!(opener.open(&mut bytes).is_err());
        }
    }
}
