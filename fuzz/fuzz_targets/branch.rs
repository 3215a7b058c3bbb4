//! See `twinkeep_fuzz::branch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinkeep_fuzz::branch::body(data));
