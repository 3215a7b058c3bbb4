//! See `twinkeep_fuzz::device`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinkeep_fuzz::device::body(data));
