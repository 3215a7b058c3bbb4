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
    let coarse_min = (params.min as usize) << params.coarse;
    let by = match params.coarse > 0 && data.len() >= coarse_min && seems_random(&data[..coarse_min]) {
        true => params.coarse,
        false => 0,
    };
    let Cut { strict, loose, .. } =
        Cut::new(params.min << by, params.avg << by, params.max << by, params.normalization);
    let (min, avg, max) = ((params.min as usize) << by, (params.avg as usize) << by, (params.max as usize) << by);
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

/// As `docs/format.md` tells it.
fn seems_random(data: &[u8]) -> bool {
    let sample: Vec<u8> = (0..64)
        .flat_map(|block| (0..16).map(move |at| block * ((data.len() - 16) / 63) + at))
        .map(|at| data[at])
        .collect();
    let often = |value: u8| sample.iter().filter(|byte| **byte == value).count();
    (0..=255).map(|value| often(value) * often(value)).sum::<usize>() <= 6144
}

/// Stretches of random bytes among stretches of few different ones.
fn mixed(seed: u64, stretches: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..stretches as u64 {
        let len = len + (number * 7919) as usize % len;
        let stretch = stream(seed + number, len);
        match number % 2 {
            0 => bytes.extend_from_slice(&stretch),
            _ => bytes.extend(stretch.iter().map(|byte| byte % 100)),
        }
    }
    bytes
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
    let fine = CutParams::default().with_coarse(0).unwrap();
    assert_eq!(
        lens(&gear(), &fine, &stream(0, 1 << 20)),
        [
            110535, 35275, 19315, 35865, 34769, 55716, 48833, 59731, 18801, 35074, 43700, 38980, 56763, 39699, 42068,
            67714, 23256, 52267, 19147, 59823, 39238, 52890, 59117
        ]
    );
    assert_eq!(
        lens(&gear(), &CutParams::default(), &mixed(0, 4, 1 << 20)),
        [
            207386, 391102, 569420, 37751, 86944, 21883, 66843, 46645, 38071, 101264, 45823, 56790, 98994, 50532,
            41089, 46755, 24199, 55278, 48120, 33122, 810603, 289965, 30728, 45196, 51384, 46353, 46116, 49630, 44670,
            44184, 35315, 33769, 33694, 38586, 75899, 36303, 44836, 32782, 56500, 41149, 78662, 38443, 26459, 36710,
            37470, 48889, 19512
        ]
    );
}

#[test]
fn the_sample_tells_random_bytes() {
    for seed in 0..2_000 {
        let data = stream(seed, 1024 + (seed * 97) as usize % 5_000);
        assert!(looks_random(&data) && seems_random(&data), "seed {seed}");
        let even: Vec<u8> = data.iter().map(|byte| byte & 0xfe).collect();
        assert!(!looks_random(&even) && !seems_random(&even), "seed {seed}");
    }
    // Records that begin alike do not hide that their rest is random, nor the other way round.
    for len in [512, 1024, 2048, 4096] {
        let records = |even: std::ops::Range<usize>| -> Vec<u8> {
            let mut data = stream(len as u64, 128 << 10);
            data.chunks_exact_mut(len).for_each(|record| record[even.clone()].fill(b' '));
            data
        };
        assert!(!looks_random(&records(64..len)), "{len}");
        assert!(looks_random(&records(0..4)), "{len}");
    }
    // Just as often as may be, and once more: 1 024 bytes, k of them the same beside four each of the others.
    let sample = |same: usize| -> Vec<u8> {
        (0..1024).map(|at| if at < same { 255 } else { ((at - same) % 255) as u8 }).collect()
    };
    let least = (0..1024).find(|same| !seems_random(&sample(*same))).unwrap();
    assert!(looks_random(&sample(least - 1)) && !looks_random(&sample(least)), "{least}");
}

#[test]
fn what_looks_random_is_cut_coarsely_wherever_it_stands() {
    let (gear, params) = (gear(), CutParams::default());
    let (text, noise) = (mixed(9, 2, 300_000).split_off(400_000), stream(10, 8 << 20));
    let alone = lens(&gear, &params, &noise);
    assert!(noise.len() / alone.len() > 200 << 10, "{alone:?}");
    let together = lens(&gear, &params, &[&text[..], &noise].concat());
    let ends = |lens: &[usize]| -> Vec<usize> {
        let from_end = |left: &mut usize, len: &usize| {
            *left -= len;
            Some(*left)
        };
        lens.iter().scan(lens.iter().sum(), from_end).collect()
    };
    let (alone, together) = (ends(&alone), ends(&together));
    let shared = alone.iter().filter(|end| together.contains(end)).count();
    assert!(shared + 8 > alone.len(), "{shared} of {} cuts are the same inside another file", alone.len());
}

#[test]
fn cuts_like_one_byte_at_a_time() {
    let gear = gear();
    for normalization in 0..=3 {
        for (min, avg, max, coarse) in
            [(64, 256, 1024, 0), (128, 1024, 8192, 0), (512, 2048, 2050, 0), (64, 256, 1024, 4), (256, 1024, 2048, 2)]
        {
            let params = CutParams::new(min, avg, max, normalization).unwrap().with_coarse(coarse).unwrap();
            let cutter = Cutter::new(&gear, &params);
            let data = mixed(u64::from(avg) + u64::from(normalization), 6, 25_003);
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
    let fine = CutParams::new(128, 1024, 8192, 2).unwrap();
    let coarse = CutParams::new(128, 512, 1024, 1).unwrap().with_coarse(3).unwrap();
    let data = mixed(3, 10, 20_001);
    for params in [fine, coarse] {
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
    let CutParams { min, avg, max, normalization, coarse } = CutParams::default();
    assert_eq!(CutParams::new(min, avg, max, normalization).unwrap().with_coarse(coarse), Ok(CutParams::default()));
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
    let check = |min, max, coarse, fault: Option<&str>| {
        let cut = CutParams::new(min, 2048, max, 1).unwrap();
        let got = cut.with_coarse(coarse).err().map(|error| error.fault);
        assert_eq!(got.is_some(), fault.is_some(), "{min} {max} {coarse}: {got:?}");
        assert!(got.unwrap_or("").contains(fault.unwrap_or("")), "{min} {max} {coarse}: {got:?}");
    };
    check(64, 1 << 20, 0, None);
    check(64, 1 << 16, 4, None);
    check(64, 1 << 16, 3, Some("at least 1 KiB"));
    check(1024, 1 << 19, 1, None);
    check(1024, 1 << 19, 2, Some("exceed"));
    check(1024, 1 << 19, 255, Some("exceed"));
}
