use super::*;
use crate::crypto::{VaultKeys, VaultSecret};
use crate::id::VaultId;

fn gear() -> Gear {
    VaultKeys::derive(&VaultSecret::from_bytes(&[1; 32]), VaultId([2; 16])).gear().clone()
}

/// Bytes that look random, the same everywhere: BLAKE3's extended output of a seed.
fn stream(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn lens(gear: &Gear, params: &CutParams, data: &[u8]) -> Vec<usize> {
    let mut lens = Vec::new();
    assert_eq!(Cutter::new(gear, params).cut_all(data, true, &mut lens), data.len());
    lens
}

/// The same cut, one byte at a time, as the paper tells it.
fn naive_cut(gear: &Gear, params: &CutParams, data: &[u8]) -> usize {
    let (strict, loose) = params.masks();
    let (min, avg, max) = (params.min as usize, params.avg as usize, params.max as usize);
    let end = data.len().min(max);
    let mut hash = 0u64;
    // An odd last byte is never a candidate.
    for (at, byte) in data[..end - end % 2].iter().enumerate().skip(min) {
        hash = (hash << 1).wrapping_add(gear.table()[usize::from(*byte)]);
        let mask = if at < avg.min(end) / 2 * 2 { strict } else { loose };
        if hash & mask == 0 {
            return at;
        }
    }
    end
}

#[test]
fn cut_points_are_format() {
    let large = CutParams::new(64 << 10, 256 << 10, 1 << 20, 2).unwrap();
    assert_eq!(
        lens(&gear(), &large, &stream(0, 8 << 20)),
        [
            418840, 347254, 288576, 295791, 267884, 285767, 285217, 102292, 169865, 315519, 316092, 283834, 308278,
            285684, 287013, 294066, 305240, 324652, 265411, 348214, 342437, 342650, 184560, 277127, 335127, 152744,
            270572, 293087, 325447, 69368
        ]
    );
    let small = CutParams::new(2 << 10, 8 << 10, 64 << 10, 1).unwrap();
    assert_eq!(lens(&gear(), &small, &stream(1, 100_001)), [14063, 15085, 12449, 9455, 25697, 20919, 2333]);
    // Content without a cut ends at max.
    assert_eq!(lens(&gear(), &large, &vec![0; 5 << 19]), [1 << 20, 1 << 20, 1 << 19]);
    assert_eq!(
        lens(&gear(), &CutParams::default(), &stream(0, 1 << 20)),
        [
            110535, 35275, 19315, 35865, 34769, 55716, 48833, 59731, 18801, 35074, 43700, 38980, 56763, 39699, 42068,
            67714, 23256, 52267, 19147, 59823, 39238, 52890, 59117
        ]
    );
}

#[test]
fn cuts_like_one_byte_at_a_time() {
    let gear = gear();
    for normalization in 0..=3 {
        for (min, avg, max) in [(64, 256, 1024), (128, 1024, 8192), (512, 2048, 2050)] {
            let params = CutParams::new(min, avg, max, normalization).unwrap();
            let cutter = Cutter::new(&gear, &params);
            let data = stream(u64::from(avg) + u64::from(normalization), 200_003);
            let mut at = 0;
            while at < data.len() {
                let len = cutter.cut(&data[at..]);
                assert_eq!(len, naive_cut(&gear, &params, &data[at..]), "{params:?} at {at}");
                at += len;
            }
            for len in 0..min as usize + 3 {
                assert_eq!(cutter.cut(&data[..len]), naive_cut(&gear, &params, &data[..len]), "{params:?} of {len}");
            }
        }
    }
}

#[test]
fn windows_do_not_change_the_cut() {
    let gear = gear();
    let params = CutParams::new(128, 1024, 8192, 2).unwrap();
    let data = stream(3, 300_001);
    let whole = lens(&gear, &params, &data);
    assert!(whole.iter().all(|&len| len <= 8192) && whole[..whole.len() - 1].iter().all(|&len| len >= 128));
    let cutter = Cutter::new(&gear, &params);
    for step in [1000, 8191, 8192, 8193, 100_000] {
        let (mut start, mut end, mut got) = (0, 0, Vec::new());
        while end < data.len() {
            end = (end + step).min(data.len());
            start += cutter.cut_all(&data[start..end], end == data.len(), &mut got);
            assert!(end == data.len() || end - start < 8192, "what is left is shorter than max");
        }
        assert_eq!((start, &got), (data.len(), &whole), "step {step}");
    }
}

#[test]
fn an_edit_changes_few_leaves() {
    let (gear, params) = (gear(), CutParams::new(512, 2048, 8192, 2).unwrap());
    let data = stream(4, 1 << 20);
    let mut edited = data.clone();
    edited.splice(500_000..500_000, *b"inserted");
    let ends = |data: &[u8]| -> Vec<usize> {
        let from_end = |sum: &mut usize, len: usize| {
            *sum -= len;
            Some(*sum)
        };
        lens(&gear, &params, data).into_iter().scan(data.len(), from_end).collect()
    };
    let (before, after) = (ends(&data), ends(&edited));
    let kept = after.iter().filter(|end| **end < 400_000 && before.contains(end)).count();
    assert!(kept >= before.iter().filter(|end| **end < 400_000).count(), "leaves behind the edit stay");
}

#[test]
fn tables_differ_in_their_cuts() {
    let data = stream(5, 4 << 20);
    let other = VaultKeys::derive(&VaultSecret::from_bytes(&[1; 32]), VaultId([3; 16]));
    assert_ne!(lens(&gear(), &CutParams::default(), &data), lens(other.gear(), &CutParams::default(), &data));
}

#[test]
fn lengths_are_checked() {
    let check = |min, avg, max, normalization, fault: Option<&str>| {
        let got = CutParams::new(min, avg, max, normalization).err().map(|error| error.fault);
        assert_eq!(got.is_some(), fault.is_some(), "{min} {avg} {max} {normalization}: {got:?}");
        assert!(got.unwrap_or("").contains(fault.unwrap_or("")), "{min} {avg} {max} {normalization}: {got:?}");
    };
    let CutParams { min, avg, max, normalization } = CutParams::default();
    check(min, avg, max, normalization, None);
    check(64, 256, 1024, 0, None);
    check(62, 256, 1024, 0, Some("too short"));
    check(64, 128, 1024, 0, Some("too short"));
    check(64, 256, 1022, 0, Some("too short"));
    check(64, 256, 1 << 21, 0, Some("exceeds"));
    check(u32::MAX, u32::MAX, u32::MAX, 255, Some("exceeds"));
    check(256, 256, 1024, 0, Some("rise"));
    check(64, 1024, 1024, 0, Some("rise"));
    check(65, 256, 1024, 0, Some("even"));
    check(64, 256, 1025, 0, Some("even"));
    check(64, 258, 1024, 0, Some("power of two"));
    check(64, 256, 1024, 4, Some("0 to 3"));
}
