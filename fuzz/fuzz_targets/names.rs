//! See `twinkeep_fuzz::names`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinkeep_fuzz::names::body(data));
